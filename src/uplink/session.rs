//! One accepted connection to the broker: its window, its queues, its deadlines.
//!
//! ```text
//! submit ──► backlog ──► in flight ──► outbox ──► socket     one write per round
//!                            ▲
//! announcements, letters ────┘         inbox ◄── socket      read until there is no more
//! ```
//!
//! Nothing here outlives the connection: when it ends, everything in flight is forgotten and
//! whoever handed it over starts again from its own table.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::Alarm;
use super::announce::{Announcements, Message, Number};
use super::dial::Dialled;
use super::groups::{Group, Groups};
use super::incoming::Arrival;
use super::letter::Letters;
use super::lost::Lost;
use super::mqtt::{Incoming, Limits, Outgoing, Wire};
use super::pipe::Pipe;
use super::reason;
use super::requests::Requests;
use super::window::{Owner, Window};
use crate::config::Mqtt;
use crate::ports::{DownCause, Receipt, Token, UplinkEvent};

/// A broker that sends without end gets this many reads per round; the rest waits its turn.
const READS_PER_ROUND: usize = 16;

/// A connection that lasted this long has proved itself even without a batch.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

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
    groups: Groups,
    /// `None`: nothing is subscribed to.
    requests: Option<Requests>,
    /// Messages per batch lately; 1 unless batches are several messages.
    per_batch: usize,
    letters: Letters,
    proven: bool,
    since: Instant,
    pinged: Option<Instant>,
    alarm: Alarm,
}

impl Session {
    pub(super) fn new(settings: &Mqtt, dialled: Dialled, requests: Option<Requests>) -> Self {
        let now = Instant::now();
        let limits = dialled.answer.limits;
        // The broker's keep-alive replaces ours; 0 turns either off.
        let own = settings.keep_alive.as_secs().min(u64::from(u16::MAX));
        let keep_alive = limits.keep_alive.map_or(own, u64::from);
        if let (Some(requests), Some(seconds)) = (&requests, limits.session_expiry) {
            requests.kept_for(Duration::from_secs(seconds.into()), settings.session_expiry);
        }
        Self {
            pipe: Pipe::new(dialled.stream, dialled.inbox),
            wire: Wire::new(settings.version),
            limits,
            window: Window::new(settings.max_inflight.min(limits.receive_max)),
            ack_timeout: settings.ack_timeout,
            keep_alive: (keep_alive > 0).then(|| Duration::from_secs(keep_alive)),
            backlog: VecDeque::new(),
            groups: Groups::default(),
            requests,
            per_batch: 1,
            letters: Letters::default(),
            proven: false,
            since: now,
            pinged: None,
            alarm: Alarm::new(now),
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
        self.letters.room()
    }

    /// Whether the broker keeps retained messages.
    pub(super) fn keeps_retained(&self) -> bool {
        self.limits.retain_available
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
        let mut group = Group::default();
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
        self.letters.push(token, message);
        Ok(())
    }

    /// The request is safe or answered.
    pub(super) fn confirm(&mut self, receipt: Receipt) {
        if let Some(requests) = &mut self.requests {
            requests.confirm(receipt, &mut self.pipe.outbox);
        }
    }

    /// Whether SUBSCRIBE is not answered yet, or refused.
    pub(super) fn awaits_suback(&self) -> bool {
        self.requests.as_ref().is_some_and(Requests::is_asked)
    }

    /// When the connection is given up unless the broker answers; none while it owes nothing.
    pub(super) fn owed_by(&self) -> Option<Instant> {
        let oldest = [self.window.waiting_since(), self.pinged].into_iter().flatten().min();
        oldest.map(|since| since + self.ack_timeout)
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
        if self.requests.as_ref().is_some_and(Requests::is_spent) {
            let reason = "commands were left out that did not fit; the broker sends them again";
            return Err(Lost::silent(reason));
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

    /// Letters and announcements in turns, then SUBSCRIBE, as far as there is room for them.
    fn send_others(&mut self, announcements: &mut Announcements) {
        while self.window.lets_others() && !self.pipe.is_full() {
            if let Some((token, letter)) = self.letters.next(announcements.is_waiting()) {
                self.send(letter, Owner::Letter(token));
            } else {
                let Some((number, message)) = announcements.take() else { break };
                self.send_announcement(number, message, announcements);
            }
        }
        self.subscribe();
    }

    fn subscribe(&mut self) {
        let Some(requests) = self.requests.as_mut().filter(|requests| requests.is_due()) else {
            return;
        };
        let Some(pkid) = self.window.send(Owner::Subscription) else { return };
        if let Some(filter) = requests.subscribe() {
            self.wire.subscribe(pkid, filter, &mut self.pipe.outbox);
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
                Some(Incoming::Publish(arrival)) => self.arrived(arrival, events),
                Some(Incoming::Oversized(arrival, left)) => {
                    self.pipe.pass_over(left);
                    self.arrived(arrival, events);
                }
                Some(Incoming::SubAck { pkid, reason, text }) => {
                    self.subscribed(pkid, reason, text.as_deref(), now)?;
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

    fn arrived(&mut self, arrival: Arrival, events: &mut VecDeque<UplinkEvent>) {
        match (&mut self.requests, arrival.pkid) {
            (Some(requests), _) => {
                let request = requests.take(arrival, &mut self.pipe.outbox);
                events.extend(request.map(UplinkEvent::Request));
            }
            // Nothing is subscribed to; a broker that sends all the same gets its answer.
            (None, Some(pkid)) if !self.pipe.is_full() => {
                Wire::puback(pkid, &mut self.pipe.outbox);
            }
            (None, _) => {}
        }
    }

    fn subscribed(
        &mut self,
        pkid: u16,
        reason: u8,
        text: Option<&str>,
        now: Instant,
    ) -> Result<(), Lost> {
        match (self.window.answer(pkid, now), &mut self.requests) {
            (Some(Owner::Subscription), Some(requests)) => {
                let refusal = reason::describe_suback(reason, text);
                requests.subscribed(reason, refusal.as_deref(), now);
                Ok(())
            }
            _ => Err(Lost::silent(format!("the broker sent a SUBACK for packet {pkid}"))),
        }
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
        let owner = self.window.answer(pkid, now);
        let token = match owner {
            None | Some(Owner::Subscription) => {
                let reason = format!("the broker acknowledged packet {pkid}, which was not sent");
                return Err(Lost::silent(reason));
            }
            Some(Owner::Batch(token) | Owner::Part(token) | Owner::Letter(token)) => token,
            Some(Owner::Announcement(number)) => {
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
            Some(Owner::Part(_)) => self.groups.answered(token, refusal),
            Some(Owner::Letter(_)) => Some(self.letters.answered(token, refusal)),
            _ => Some(Group { unanswered: 0, refusal }.fate(token)),
        };
        events.extend(fate);
        // A reading's place may go to another message: each in turn.
        self.send_others(announcements);
        Ok(())
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

    /// Acts on deadlines that have passed and sees to it that the next one wakes the task.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        loop {
            self.alarm.bring_forward(self.next_deadline());
            if !self.alarm.rings(cx) {
                return Ok(());
            }
            let now = Instant::now();
            self.check_deadlines(now)?;
            self.alarm.set(self.next_deadline(), now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let acknowledgement = self.window.waiting_since().map(|since| since + self.ack_timeout);
        let ping = match (self.pinged, self.keep_alive) {
            (Some(sent), _) => Some(sent + self.ack_timeout),
            (None, Some(keep_alive)) => Some(self.pipe.last_write() + keep_alive),
            (None, None) => None,
        };
        let retry = self.requests.as_ref().and_then(Requests::next_retry);
        [acknowledgement, ping, retry].into_iter().flatten().min()
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<(), Lost> {
        let limit = self.ack_timeout;
        let seconds = limit.as_secs_f64();
        if self.window.waiting_since().is_some_and(|since| since + limit <= now) {
            let owed = if self.awaits_suback() { "PUBACK or SUBACK" } else { "PUBACK" };
            return Err(Lost::silent(format!("no {owed} within {seconds} s")));
        }
        if let Some(requests) = &mut self.requests {
            requests.retry(now);
        }
        self.subscribe();
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
