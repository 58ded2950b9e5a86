//! What was sent and not yet acknowledged.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Packet identifiers run from 1 to this and start over.
const IDENTIFIERS: u16 = u16::MAX;

/// Messages that await their PUBACK, in the order they were sent.
///
/// Identifiers are given out one after the other, so a PUBACK finds its message by subtraction, in
/// whatever order the PUBACKs come. An identifier is used again only when it and all before it
/// have been answered.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    /// `None` once answered; the front one never is.
    messages: VecDeque<(Instant, Option<T>)>,
    /// The identifier of the front one, or the next to be used.
    first: u16,
    unanswered: usize,
    /// When the front one came to the front.
    advanced: Option<Instant>,
}

impl<T> InFlight<T> {
    pub(super) fn new() -> Self {
        Self { messages: VecDeque::new(), first: 1, unanswered: 0, advanced: None }
    }

    /// Messages without answer.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// How many more fit, whatever the window: a broker that withholds one PUBACK for ever uses
    /// the identifiers up.
    pub(super) fn identifiers_left(&self) -> usize {
        usize::from(IDENTIFIERS) - self.messages.len()
    }

    /// Adds a message and returns its identifier; `None` when all are in use.
    pub(super) fn send(&mut self, message: T, now: Instant) -> Option<u16> {
        if self.identifiers_left() == 0 {
            return None;
        }
        let ahead = self.messages.len() as u64;
        self.messages.push_back((now, Some(message)));
        self.unanswered += 1;
        Some(advanced(self.first, ahead))
    }

    /// Takes the message of `pkid`; `None` when there is none that awaits an answer.
    pub(super) fn answer(&mut self, pkid: u16, now: Instant) -> Option<T> {
        let identifiers = u32::from(IDENTIFIERS);
        let index = (u32::from(pkid) + identifiers - u32::from(self.first)) % identifiers;
        let message = self.messages.get_mut(index as usize)?.1.take()?;
        self.unanswered -= 1;
        while self.messages.front().is_some_and(|(_, message)| message.is_none()) {
            self.messages.pop_front();
            self.first = advanced(self.first, 1);
            self.advanced = Some(now);
        }
        Some(message)
    }

    /// Since when the broker has owed the next answer: since the oldest message was sent or, if
    /// that was later, since the one before it was answered. Brokers answer in order (MQTT 5
    /// section 4.6), so over a slow line a full window is not late while answers keep coming, and
    /// one that is left out is late however many others come.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let (sent, _) = self.messages.front()?;
        Some(self.advanced.map_or(*sent, |advanced| advanced.max(*sent)))
    }
}

/// `pkid` moved on by `steps`, skipping 0.
fn advanced(pkid: u16, steps: u64) -> u16 {
    let identifiers = u64::from(IDENTIFIERS);
    let zero_based = (u64::from(pkid) - 1 + steps) % identifiers;
    u16::try_from(zero_based + 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_in_any_order_find_their_message() {
        let now = Instant::now();
        let mut table = InFlight::new();
        let pkids: Vec<u16> = (0..5).map(|n| table.send(n, now).unwrap()).collect();
        for n in [3, 0, 4, 1, 2] {
            assert_eq!(table.answer(pkids[n], now), Some(n));
        }
        assert_eq!(table.unanswered(), 0);
        assert_eq!(table.waiting_since(), None);
    }

    #[test]
    fn an_unknown_or_repeated_answer_finds_nothing() {
        let now = Instant::now();
        let mut table = InFlight::new();
        let pkid = table.send((), Instant::now()).unwrap();
        assert_eq!(table.answer(pkid + 1, now), None);
        assert_eq!(table.answer(pkid, now), Some(()));
        assert_eq!(table.answer(pkid, now), None);
        let later = table.send((), Instant::now()).unwrap();
        table.send((), Instant::now()).unwrap();
        table.answer(later + 1, now).unwrap();
        assert_eq!(table.answer(later + 1, now), None, "answered, though an older one is not");
    }

    #[test]
    fn one_withheld_answer_uses_the_identifiers_up_and_no_more() {
        let now = Instant::now();
        let mut table = InFlight::new();
        let withheld = table.send(0, Instant::now()).unwrap();
        for n in 1..65_535 {
            let pkid = table.send(n, Instant::now()).unwrap();
            assert_eq!(table.answer(pkid, now), Some(n));
        }
        assert_eq!(table.send(0, Instant::now()), None);
        assert_eq!(table.answer(withheld, now), Some(0));
        assert_eq!(table.identifiers_left(), 65_535);
    }

    #[test]
    fn the_oldest_is_owed_an_answer_since_it_became_the_oldest() {
        let start = Instant::now();
        let at = |seconds| start + std::time::Duration::from_secs(seconds);
        let mut table = InFlight::new();
        let pkids: Vec<u16> = (0..3).map(|n| table.send(n, start).unwrap()).collect();
        table.answer(pkids[0], at(3)).unwrap();
        assert_eq!(table.waiting_since(), Some(at(3)), "the line is slow, not dead");
        table.answer(pkids[2], at(5)).unwrap();
        assert_eq!(table.waiting_since(), Some(at(3)), "one answer is left out");
        table.answer(pkids[1], at(6)).unwrap();
        assert_eq!(table.waiting_since(), None);
        table.send(4, at(9)).unwrap();
        assert_eq!(table.waiting_since(), Some(at(9)));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_map(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000),
            skip in 0_u16..=u16::MAX,
        ) {
            let now = Instant::now();
            let mut table = InFlight::new();
            table.first = skip.max(1);
            let mut model: Vec<(u16, usize)> = Vec::new();
            for (n, (send, pick)) in steps.into_iter().enumerate() {
                if send {
                    let pkid = table.send(n, now).unwrap();
                    prop_assert!(pkid != 0);
                    prop_assert!(model.iter().all(|(used, _)| *used != pkid));
                    model.push((pkid, n));
                } else if !model.is_empty() {
                    let (pkid, expected) = model.remove(pick.index(model.len()));
                    prop_assert_eq!(table.answer(pkid, now), Some(expected));
                }
                prop_assert_eq!(table.unanswered(), model.len());
            }
        }
    }
}
