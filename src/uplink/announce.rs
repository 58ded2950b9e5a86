//! Messages that belong to no batch: status, results, losses.
//!
//! A retained message is the state of its topic: only the newest counts, and every connection
//! begins by sending all of them again, since a broker that restarted without a store has lost
//! them. Any other message is sent until it is acknowledged once.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

/// Most messages waiting that are not retained. Then the oldest is dropped.
const MAX_WAITING: usize = 1000;

/// Most topics whose retained message is remembered. A message of a further topic is sent like one
/// that is not retained: with the flag, but once.
const MAX_RETAINED: usize = 100_000;

/// Names a message between [`Announcements::take`] and its answer.
pub(super) type Number = u64;

/// One message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
}

/// All that is to be announced.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    retained: HashMap<Bytes, Retained>,
    waiting: VecDeque<Entry>,
    /// How many of `waiting` are [`Entry::Once`].
    once: usize,
    sent: BTreeMap<Number, Entry>,
    next: Number,
    dropped: u64,
}

#[derive(Debug)]
struct Retained {
    payload: Bytes,
    /// Whether an entry in `waiting` will send it.
    waiting: bool,
}

#[derive(Debug)]
enum Entry {
    /// The newest of this topic, and which payload was sent.
    Retained(Bytes),
    Once(Message),
}

impl Announcements {
    /// Queues `message`.
    pub(super) fn push(&mut self, message: Message) {
        if message.retain {
            if let Some(known) = self.retained.get_mut(&message.topic) {
                known.payload = message.payload;
                if !known.waiting {
                    known.waiting = true;
                    self.waiting.push_back(Entry::Retained(message.topic));
                }
                return;
            }
            if self.retained.len() < MAX_RETAINED {
                self.waiting.push_back(Entry::Retained(message.topic.clone()));
                let retained = Retained { payload: message.payload, waiting: true };
                self.retained.insert(message.topic, retained);
                return;
            }
        }
        if self.once >= MAX_WAITING {
            if let Some(oldest) = self.waiting.iter().position(|e| matches!(e, Entry::Once(_))) {
                self.waiting.remove(oldest);
                self.once -= 1;
                self.dropped += 1;
            }
        }
        self.once += 1;
        self.waiting.push_back(Entry::Once(message));
    }

    /// Takes the next message to send.
    pub(super) fn take(&mut self) -> Option<(Number, Message)> {
        loop {
            let entry = self.waiting.pop_front()?;
            let message = match &entry {
                Entry::Once(message) => {
                    self.once -= 1;
                    message.clone()
                }
                Entry::Retained(topic) => {
                    let Some(retained) = self.retained.get_mut(topic) else { continue };
                    retained.waiting = false;
                    let payload = retained.payload.clone();
                    Message { topic: topic.clone(), payload, retain: true }
                }
            };
            let number = self.next;
            self.next += 1;
            self.sent.insert(number, entry);
            return Some((number, message));
        }
    }

    /// The broker has answered message `number`, whatever it said.
    pub(super) fn answered(&mut self, number: Number) {
        if let Some(Entry::Retained(topic)) = self.sent.remove(&number) {
            // An empty payload ends the topic; there is nothing left to repeat.
            if self.retained.get(&topic).is_some_and(|r| !r.waiting && r.payload.is_empty()) {
                self.retained.remove(&topic);
            }
        }
    }

    /// A new connection: what was not answered waits again, and all that is retained with it.
    /// `first` is the topic that goes first.
    pub(super) fn restart(&mut self, first: &Bytes) {
        let sent = std::mem::take(&mut self.sent).into_values();
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting.push_back(Entry::Retained(first.clone()));
        self.waiting.extend(sent.chain(waiting).filter(|e| matches!(e, Entry::Once(_))));
        self.once = self.waiting.len() - 1;
        for (topic, retained) in &mut self.retained {
            retained.waiting = true;
            if topic != first {
                self.waiting.push_back(Entry::Retained(topic.clone()));
            }
        }
    }

    /// Whether there is anything to send.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether everything has been sent and answered.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// How many were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// The payload of `{prefix}/status`; `since` is Unix time in seconds.
pub(super) fn status(state: &str, gateway: &str, since: f64) -> Bytes {
    #[derive(serde::Serialize)]
    struct Status<'a> {
        state: &'a str,
        gateway: &'a str,
        version: &'a str,
        since: f64,
    }
    let version = env!("CARGO_PKG_VERSION");
    // Text and a number cannot fail to be written.
    serde_json::to_vec(&Status { state, gateway, version, since }).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, payload: &str, retain: bool) -> Message {
        Message {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            retain,
        }
    }

    fn taken(announcements: &mut Announcements) -> Vec<(Number, String, String)> {
        std::iter::from_fn(|| announcements.take())
            .map(|(number, message)| {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                (number, text(&message.topic), text(&message.payload))
            })
            .collect()
    }

    fn payloads(taken: &[(Number, String, String)]) -> Vec<&str> {
        taken.iter().map(|(_, _, payload)| payload.as_str()).collect()
    }

    #[test]
    fn a_newer_retained_message_replaces_an_older_one_that_waits() {
        let mut announcements = Announcements::default();
        announcements.push(message("a", "1", true));
        announcements.push(message("b", "2", true));
        announcements.push(message("a", "3", true));
        assert_eq!(payloads(&taken(&mut announcements)), ["3", "2"]);
    }

    #[test]
    fn a_newer_retained_message_follows_one_that_was_sent() {
        let mut announcements = Announcements::default();
        announcements.push(message("a", "1", true));
        let first = taken(&mut announcements);
        announcements.push(message("a", "2", true));
        announcements.answered(first[0].0);
        assert_eq!(payloads(&taken(&mut announcements)), ["2"]);
    }

    #[test]
    fn a_restart_repeats_what_was_not_answered_and_all_that_is_retained() {
        let mut announcements = Announcements::default();
        announcements.push(message("s", "first", true));
        announcements.push(message("a", "state", true));
        announcements.push(message("x", "one", false));
        announcements.push(message("x", "two", false));
        announcements.push(message("x", "three", false));
        let sent: Vec<_> = (0..4).map(|_| announcements.take().unwrap()).collect();
        announcements.answered(sent[1].0);
        announcements.answered(sent[2].0);
        announcements.restart(&Bytes::from_static(b"s"));
        let again = taken(&mut announcements);
        assert_eq!(payloads(&again), ["first", "two", "three", "state"]);
        for (number, ..) in again {
            announcements.answered(number);
        }
        assert!(announcements.is_idle());
    }

    #[test]
    fn answers_after_a_restart_do_not_end_what_waits_again() {
        let mut announcements = Announcements::default();
        announcements.push(message("x", "one", false));
        let (number, _) = announcements.take().unwrap();
        announcements.restart(&Bytes::from_static(b"none"));
        announcements.answered(number);
        assert_eq!(payloads(&taken(&mut announcements)), ["one"]);
    }

    #[test]
    fn an_empty_retained_message_ends_its_topic() {
        let mut announcements = Announcements::default();
        announcements.push(message("a", "1", true));
        announcements.push(message("a", "", true));
        let sent = taken(&mut announcements);
        assert_eq!(payloads(&sent), [""]);
        announcements.answered(sent[0].0);
        announcements.restart(&Bytes::from_static(b"s"));
        assert_eq!(payloads(&taken(&mut announcements)), [""; 0]);
    }

    #[test]
    fn the_oldest_of_too_many_is_dropped_and_counted() {
        let mut announcements = Announcements::default();
        announcements.push(message("a", "state", true));
        for n in 0..MAX_WAITING + 3 {
            announcements.push(message("x", &n.to_string(), false));
        }
        assert_eq!(announcements.take_dropped(), 3);
        assert_eq!(announcements.take_dropped(), 0);
        let taken = taken(&mut announcements);
        assert_eq!(taken.len(), MAX_WAITING + 1);
        assert_eq!(payloads(&taken)[..2], ["state", "3"]);
    }

    #[test]
    fn topics_beyond_the_bound_are_sent_but_not_remembered() {
        let mut announcements = Announcements::default();
        for n in 0..=MAX_RETAINED {
            announcements.push(message(&n.to_string(), "x", true));
        }
        let taken: Vec<_> = std::iter::from_fn(|| announcements.take()).collect();
        assert_eq!(taken.len(), MAX_RETAINED + 1);
        assert!(taken.iter().all(|(_, message)| message.retain));
        for (number, _) in taken {
            announcements.answered(number);
        }
        announcements.restart(&Bytes::from_static(b"0"));
        assert_eq!(std::iter::from_fn(|| announcements.take()).count(), MAX_RETAINED);
    }
}
