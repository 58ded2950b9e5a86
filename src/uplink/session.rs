//! One accepted connection to the broker: its window, its buffers, its deadlines.
//!
//! ```text
//! submit ──► backlog ──► in flight ──► outbox ──► socket     one write per round
//!                            ▲
//! announcements, letters ────┘         inbox ◄── socket      read until there is no more
//! ```
//!
//! Nothing here outlives the connection: when it ends, everything in flight is forgotten and
//! whoever handed it over starts again from its own table.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::announce::{Announcements, Message, Number};
use super::dial::Dialled;
use super::lost::Lost;
use super::mqtt::{Incoming, Limits, Outgoing, Wire};
use super::pipe::Pipe;
use super::reason;
use super::window::{Owner, Window};
use crate::config::Mqtt;
use crate::ports::{DownCause, Token, UplinkEvent};

/// A broker that sends without end gets this many reads per round; the rest waits its turn.
const READS_PER_ROUND: usize = 16;

/// A connection that lasted this long has proved itself even without a batch.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// Most letters that are handed over and not answered.
const LETTERS: usize = 32;

/// The timer while there is nothing to wait for.
const NO_DEADLINE: Duration = Duration::from_secs(86_400);

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Session {
    pipe: Pipe,
    wire: Wire,
    limits: Limits,
    window: Window,
    ack_timeout: Duration,
    keep_alive: Option<Duration>,
    /// Messages that wait for the window; only batches of several messages come here.
    backlog: VecDeque<(Outgoing, Token)>,
    groups: HashMap<Token, Group>,
    /// Messages per batch lately; 1 unless batches are several messages.
    per_batch: usize,
    /// Messages of the engine's own that wait for the window.
    letters: VecDeque<(Token, Outgoing)>,
    letters_in_flight: usize,
    /// The last message that belongs to no batch was a letter, not an announcement.
    letter_last: bool,
    proven: bool,
    since: Instant,
    pinged: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
}

/// A batch of several messages.
#[derive(Debug)]
struct Group {
    unanswered: usize,
    refusal: Option<String>,
}

impl Session {
    pub(super) fn new(settings: &Mqtt, dialled: Dialled) -> Self {
        let now = Instant::now();
        let limits = dialled.answer.limits;
        // The broker's keep-alive replaces ours; 0 turns either off.
        let own = settings.keep_alive.as_secs().min(u64::from(u16::MAX));
        let keep_alive = limits.keep_alive.map_or(own, u64::from);
        Self {
            pipe: Pipe::new(dialled.stream, dialled.inbox),
            wire: Wire::new(settings.version),
            limits,
            window: Window::new(settings.max_inflight.min(limits.receive_max)),
            ack_timeout: settings.ack_timeout,
            keep_alive: (keep_alive > 0).then(|| Duration::from_secs(keep_alive)),
            backlog: VecDeque::new(),
            groups: HashMap::new(),
            per_batch: 1,
            letters: VecDeque::new(),
            letters_in_flight: 0,
            letter_last: false,
            proven: false,
            since: now,
            pinged: None,
            timer: Box::pin(tokio::time::sleep_until(now)),
            timer_at: now,
        }
    }

    /// Sends the first announcements, so that they are ahead of any batch.
    pub(super) fn greet(&mut self, announcements: &mut Announcements) {
        self.send_others(announcements);
    }

    /// Batches that may be submitted now.
    pub(super) fn room(&self) -> usize {
        if !self.backlog.is_empty() || self.pipe.is_full() {
            return 0;
        }
        match self.window.room() {
            0 => 0,
            room => (room / self.per_batch).max(1),
        }
    }

    /// Letters that may be submitted now.
    pub(super) fn letter_room(&self) -> usize {
        LETTERS.saturating_sub(self.letters.len() + self.letters_in_flight)
    }

    /// Messages without PUBACK.
    pub(super) fn in_flight(&self) -> usize {
        self.window.in_flight()
    }

    /// Whether the connection did what it is for: a batch was acknowledged, or it held for a while.
    pub(super) fn is_proven(&self) -> bool {
        self.proven || self.since.elapsed() >= PROVEN_AFTER
    }

    /// Takes a batch that is one message.
    ///
    /// # Errors
    /// Why the broker could never take it.
    pub(super) fn submit(&mut self, token: Token, message: Outgoing) -> Result<(), String> {
        self.check_size(&message)?;
        if self.window.free() > 0 && self.backlog.is_empty() {
            self.send(message, Owner::Batch(token));
        } else {
            // Handed over without room: one message is a group of one.
            self.groups.insert(token, Group { unanswered: 1, refusal: None });
            self.backlog.push_back((message, token));
        }
        Ok(())
    }

    /// Takes a batch of any number of messages. Returns what is already known of its fate: it is
    /// settled when it is empty or none of its messages can be sent.
    pub(super) fn submit_parts(
        &mut self,
        token: Token,
        messages: impl Iterator<Item = Outgoing>,
    ) -> Option<UplinkEvent> {
        let mut group = Group { unanswered: 0, refusal: None };
        for message in messages {
            match self.check_size(&message) {
                Ok(()) => {
                    group.unanswered += 1;
                    self.backlog.push_back((message, token));
                }
                Err(refusal) => group.refusal = Some(refusal),
            }
        }
        // Follows larger batches at once and smaller ones slowly.
        self.per_batch = group.unanswered.max(self.per_batch - self.per_batch.div_ceil(8)).max(1);
        if group.unanswered == 0 {
            return Some(group.fate(token));
        }
        self.groups.insert(token, group);
        self.send_backlog();
        None
    }

    /// Takes a message of the engine's own.
    ///
    /// # Errors
    /// Why the broker could never take it.
    pub(super) fn submit_letter(&mut self, token: Token, message: Outgoing) -> Result<(), String> {
        self.check_size(&message)?;
        self.letters.push_back((token, message));
        Ok(())
    }

    /// Receives, sends, and watches the deadlines. What became of batches goes to `events`; when
    /// there is any, nothing is written yet, so that the answer to it can join the same write.
    ///
    /// # Errors
    /// When the connection is over; `events` may have got more before that.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        announcements: &mut Announcements,
        events: &mut VecDeque<UplinkEvent>,
    ) -> Result<(), Lost> {
        let had_room = self.room() > 0;
        self.receive(cx, announcements, events)?;
        if !events.is_empty() {
            return Ok(());
        }
        self.send_backlog();
        // Room that nobody was told of goes to the readings first.
        let readings_first = !had_room && self.room() > 0;
        if !(readings_first && self.window.takes_turns()) {
            if self.backlog.is_empty() {
                self.window.pass();
            }
            self.send_others(announcements);
        }
        self.watch(cx)?;
        self.transmit(cx, announcements, events)?;
        if !had_room && self.room() > 0 {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Writes DISCONNECT and all before it, and closes the stream.
    pub(super) fn poll_goodbye(&mut self, cx: &mut Context<'_>, said: &mut bool) -> Poll<()> {
        if !*said {
            Wire::disconnect(&mut self.pipe.outbox);
            *said = true;
        }
        self.pipe.poll_finish(cx)
    }

    fn check_size(&self, message: &Outgoing) -> Result<(), String> {
        let (size, limit) = (message.size(), self.limits.max_packet_size);
        if size <= limit {
            return Ok(());
        }
        Err(format!("packet of {size} bytes is over the broker's maximum packet size of {limit}"))
    }

    /// Only with a free place.
    fn send(&mut self, message: Outgoing, owner: Owner) {
        let before = self.pipe.outbox.len();
        let Some(pkid) = self.window.send(owner) else { return };
        if message.write(pkid, &mut self.pipe.outbox).is_err() {
            // Sizes are checked before and the identifier is not 0, so nothing fails; if it did,
            // the message would stay unanswered and the connection end by its deadline.
            self.pipe.outbox.truncate(before);
        }
    }

    fn send_backlog(&mut self) {
        while self.window.free() > 0 && !self.pipe.is_full() {
            let Some((message, token)) = self.backlog.pop_front() else { break };
            self.send(message, Owner::Part(token));
        }
    }

    /// Letters and announcements in turns, as far as there is room for them.
    fn send_others(&mut self, announcements: &mut Announcements) {
        while self.window.lets_others() && !self.pipe.is_full() {
            let letters_turn = !self.letter_last || !announcements.is_waiting();
            let letter = if letters_turn { self.letters.pop_front() } else { None };
            if let Some((token, letter)) = letter {
                self.letter_last = true;
                self.letters_in_flight += 1;
                self.send(letter, Owner::Letter(token));
            } else {
                self.letter_last = false;
                let Some((number, message)) = announcements.take() else { break };
                self.send_announcement(number, message, announcements);
            }
        }
    }

    fn send_announcement(
        &mut self,
        number: Number,
        message: Message,
        announcements: &mut Announcements,
    ) {
        let Message { topic, payload, retain } = message;
        let retain = retain && self.limits.retain_available;
        let outgoing = self.wire.publish(topic, payload, retain, None);
        if let Err(problem) = self.check_size(&outgoing) {
            tracing::warn!(reason = problem, "an announcement cannot be sent; it is dropped");
            announcements.answered(number);
            return;
        }
        self.send(outgoing, Owner::Announcement(number));
    }

    /// Reads until there is nothing more.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        announcements: &mut Announcements,
        events: &mut VecDeque<UplinkEvent>,
    ) -> Result<(), Lost> {
        // What came behind CONNACK, or was left by a broken write.
        self.decode(announcements, events)?;
        for _ in 0..READS_PER_ROUND {
            let Poll::Ready(read) = self.pipe.poll_read(cx) else { return Ok(()) };
            read?;
            self.decode(announcements, events)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn decode(
        &mut self,
        announcements: &mut Announcements,
        events: &mut VecDeque<UplinkEvent>,
    ) -> Result<(), Lost> {
        let now = Instant::now();
        loop {
            let incoming = self.wire.decode(&mut self.pipe.inbox);
            match incoming.map_err(|error| Lost::silent(error.to_string()))? {
                None => break,
                Some(Incoming::PubAck { pkid, reason, text }) => {
                    let refusal =
                        (reason >= 0x80).then(|| reason::describe(reason, text.as_deref()));
                    self.answered(pkid, now, reason, refusal, announcements, events)?;
                }
                Some(Incoming::PingResp) => self.pinged = None,
                // Nothing is subscribed to yet; a broker that sends all the same gets its answer.
                Some(Incoming::Publish { pkid }) => {
                    if let Some(pkid) = pkid {
                        if !self.pipe.is_full() {
                            Wire::puback(pkid, &mut self.pipe.outbox);
                        }
                    }
                }
                Some(Incoming::Disconnect { reason, text }) => {
                    return Err(Lost::disconnect(reason, text.as_deref()));
                }
                Some(Incoming::ConnAck(_)) => {
                    return Err(Lost::silent("the broker sent a second CONNACK"));
                }
            }
        }
        self.pipe.shrink_inbox();
        Ok(())
    }

    fn answered(
        &mut self,
        pkid: u16,
        now: Instant,
        reason: u8,
        refusal: Option<String>,
        announcements: &mut Announcements,
        events: &mut VecDeque<UplinkEvent>,
    ) -> Result<(), Lost> {
        let Some(owner) = self.window.answer(pkid, now) else {
            let reason = format!("the broker acknowledged packet {pkid}, which was not sent");
            return Err(Lost::silent(reason));
        };
        let token = match owner {
            Owner::Batch(token) | Owner::Part(token) => token,
            Owner::Letter(token) => {
                self.letters_in_flight -= 1;
                token
            }
            Owner::Announcement(number) => {
                if let Some(refusal) = refusal {
                    tracing::warn!(reason = refusal, "the broker refuses an announcement");
                }
                announcements.answered(number);
                return Ok(());
            }
        };
        // Quota and a busy identifier pass; a loss would be for ever. The batch stays unsettled
        // and is sent again over another connection, after the backoff.
        if let (0x91 | 0x97, Some(refusal)) = (reason, &refusal) {
            return Err(Lost::silent(format!("the broker cannot take a message now: {refusal}")));
        }
        self.proven |= refusal.is_none();
        let fate = match owner {
            Owner::Part(_) => self.group_answered(token, refusal),
            Owner::Letter(_) => Some(match refusal {
                Some(reason) => UplinkEvent::SendRefused { token, reason },
                None => UplinkEvent::Sent(token),
            }),
            _ => Some(Group { unanswered: 0, refusal }.fate(token)),
        };
        events.extend(fate);
        // A reading's place may go to another message: each in turn.
        self.send_others(announcements);
        Ok(())
    }

    fn group_answered(&mut self, token: Token, refusal: Option<String>) -> Option<UplinkEvent> {
        let group = self.groups.get_mut(&token)?;
        group.unanswered -= 1;
        if refusal.is_some() {
            group.refusal = refusal;
        }
        if group.unanswered > 0 {
            return None;
        }
        self.groups.remove(&token).map(|group| group.fate(token))
    }

    /// Writes what has gathered. When that fails, what the broker said last says why.
    fn transmit(
        &mut self,
        cx: &mut Context<'_>,
        announcements: &mut Announcements,
        events: &mut VecDeque<UplinkEvent>,
    ) -> Result<(), Lost> {
        let Err(lost) = self.pipe.write(cx) else { return Ok(()) };
        match self.receive(cx, announcements, events) {
            Err(said) if said.cause == DownCause::PacketRefused => Err(said),
            Err(said) if said.cause == DownCause::ClosedByBroker => Err(said),
            _ => Err(lost),
        }
    }

    /// Acts on deadlines that have passed and sees to it that the next one wakes the task. The
    /// timer is only ever brought forward: most acknowledgements move a deadline back, and that is
    /// found when the timer fires.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        loop {
            match self.next_deadline() {
                Some(due) if due < self.timer_at => self.set_timer(due),
                _ => {}
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            let now = Instant::now();
            self.check_deadlines(now)?;
            self.set_timer(self.next_deadline().unwrap_or(now + NO_DEADLINE));
        }
    }

    fn set_timer(&mut self, due: Instant) {
        self.timer_at = due;
        self.timer.as_mut().reset(due);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let acknowledgement = self.window.waiting_since().map(|since| since + self.ack_timeout);
        let ping = match (self.pinged, self.keep_alive) {
            (Some(sent), _) => Some(sent + self.ack_timeout),
            (None, Some(keep_alive)) => Some(self.pipe.last_write() + keep_alive),
            (None, None) => None,
        };
        [acknowledgement, ping].into_iter().flatten().min()
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<(), Lost> {
        let limit = self.ack_timeout;
        let seconds = limit.as_secs_f64();
        if self.window.waiting_since().is_some_and(|since| since + limit <= now) {
            return Err(Lost::silent(format!("no PUBACK within {seconds} s")));
        }
        match (self.pinged, self.keep_alive) {
            (Some(sent), _) if sent + limit <= now => {
                return Err(Lost::silent(format!("no PINGRESP within {seconds} s")));
            }
            (None, Some(keep_alive)) if self.pipe.last_write() + keep_alive <= now => {
                Wire::ping(&mut self.pipe.outbox);
                self.pinged = Some(now);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Group {
    fn fate(self, token: Token) -> UplinkEvent {
        match self.refusal {
            Some(reason) => UplinkEvent::Refused { token, reason },
            None => UplinkEvent::Published(token),
        }
    }
}
