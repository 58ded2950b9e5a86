//! One device connection as a state machine: what a message means at this point, what may be read,
//! what is to be acknowledged, when to ping and when to give up.
//!
//! ```text
//! AwaitingHello ──HELLO──► Greeting ──open()──► Open ──READINGS──► Step::Submit | Step::Reject
//!       │ anything else        │ anything           │ HELLO
//!       ▼                      ▼                    ▼
//!     Close 1002             Close 1002           Close 1002
//! ```
//!
//! Call order: [`Session::receive`] for each binary message; after [`Step::Hello`], one
//! [`Session::open`] before the next. A [`Close`] ends the session; nothing may be called then.
//! Times called `now` are those since any fixed moment, times called `received` are Unix times.

use std::time::Duration;

use super::batch::{Batch, Reading};
use super::clock::Moment;
use super::frame::{DeviceMessage, Hello};
use super::ids::DeviceId;
use super::policy::Permissions;
use super::senml::{self, Limits, Reject};

/// Going away: the gateway stops for good (RFC 6455 section 7.4.1).
pub const GOING_AWAY: u16 = 1001;
/// A message out of turn, or a breach of RFC 6455.
pub const OUT_OF_TURN: u16 = 1002;
/// A text message.
pub const TEXT_MESSAGE: u16 = 1003;
/// Not well-formed CBOR, or not a message of the protocol.
pub const NOT_A_MESSAGE: u16 = 1007;
/// Over `devices.max_frame`.
pub const TOO_BIG: u16 = 1009;
/// The gateway restarts; come back at once.
pub const RESTARTING: u16 = 1012;
/// The gateway cannot keep up; come back later.
pub const OVERLOADED: u16 = 1013;
/// The credentials do not hold any more.
pub const REVOKED: u16 = 4003;
/// Nothing was heard for too long.
pub const HEARTBEAT_MISSED: u16 = 4008;
/// The same device has connected again.
pub const REPLACED: u16 = 4009;

/// Longest reason in a Close frame, in bytes (RFC 6455 section 5.5: 125 less the code).
pub const REASON_MAX: usize = 123;

/// How a session ends when the gateway ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455 or 4000-range code.
    pub code: u16,
    /// For a person; at most [`REASON_MAX`] bytes.
    pub reason: String,
}

impl Close {
    /// Cuts `reason` to [`REASON_MAX`] bytes, between characters.
    #[must_use]
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > REASON_MAX {
            let end = (0..=REASON_MAX).rev().find(|&i| reason.is_char_boundary(i)).unwrap_or(0);
            reason.truncate(end);
        }
        Self { code, reason }
    }

    /// Whether it only says that the gateway goes or starts again: nothing is wrong with the
    /// device or its connection.
    #[must_use]
    pub fn is_farewell(&self) -> bool {
        matches!(self.code, GOING_AWAY | RESTARTING)
    }
}

/// What holds for all sessions.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Unsettled batches a device may have.
    pub window: u64,
    /// Largest message in bytes.
    pub max_frame: usize,
    /// What a pack may hold.
    pub limits: Limits,
    /// From one ping to the next.
    pub heartbeat_interval: Duration,
    /// How long beyond the interval a device may stay silent.
    pub heartbeat_timeout: Duration,
}

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Greet the device: tell the engine, then [`Session::open`] and send WELCOME.
    Hello(Hello),
    /// Hand this batch on. It counts against the window.
    Submit(Batch),
    /// Answer REJECT. With a number, hand the number on too: it counts against the window until
    /// the ACKs have passed it.
    Reject {
        /// The batch's number.
        seq: Option<u64>,
        /// Why.
        reject: Reject,
    },
    /// The result of a command.
    Result {
        /// Which command.
        id: String,
        /// Whether it was done.
        ok: bool,
        /// Its result, or what went wrong.
        value: ciborium::Value,
    },
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    device: DeviceId,
    phase: Phase,
    epoch: u64,
    submitted: u64,
    acked: u64,
    repeats: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitingHello,
    Greeting,
    Open,
}

impl Session {
    /// A connection of `device`, which has not said HELLO yet.
    #[must_use]
    pub fn new(device: DeviceId) -> Self {
        let phase = Phase::AwaitingHello;
        Self { device, phase, epoch: 0, submitted: 0, acked: 0, repeats: 0 }
    }

    /// Whose connection it is.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Judges one binary message, which arrived at `now`.
    ///
    /// # Errors
    /// When the session must end: the message came out of turn (1002), is none (1007), or is over
    /// the limit (1009).
    pub fn receive(
        &mut self,
        message: &[u8],
        now: &Moment,
        rules: &Rules,
        permissions: &Permissions,
    ) -> Result<Step, Close> {
        if message.len() > rules.max_frame {
            return Err(too_big(rules.max_frame));
        }
        let message = DeviceMessage::decode(message)
            .map_err(|error| Close::new(NOT_A_MESSAGE, error.to_string()))?;
        match (message, self.phase) {
            (DeviceMessage::Hello(hello), Phase::AwaitingHello) => {
                self.phase = Phase::Greeting;
                Ok(Step::Hello(hello))
            }
            (DeviceMessage::Hello(_), _) => Err(Close::new(OUT_OF_TURN, "HELLO came twice")),
            (_, Phase::AwaitingHello | Phase::Greeting) => {
                Err(Close::new(OUT_OF_TURN, "the first message must be HELLO"))
            }
            (DeviceMessage::Readings { seq, pack }, Phase::Open) => {
                Ok(self.readings(seq, pack, now, rules, permissions))
            }
            (DeviceMessage::Result { id, ok, value }, Phase::Open) => {
                Ok(Step::Result { id, ok, value })
            }
        }
    }

    /// A text message came. There are none in this protocol.
    #[must_use]
    pub fn text() -> Close {
        Close::new(TEXT_MESSAGE, "text message: only binary messages are understood")
    }

    /// The device is greeted: its run of numbers is `epoch`, of which `acked` is settled.
    pub fn open(&mut self, epoch: u64, acked: u64) {
        self.phase = Phase::Open;
        self.epoch = epoch;
        self.acked = acked;
    }

    /// How many more batches may be read, `finished` of the submitted ones being settled.
    #[must_use]
    pub fn room(&self, finished: u64, rules: &Rules) -> u64 {
        rules.window.saturating_sub(self.submitted.saturating_sub(finished))
    }

    /// The ACK to send, if one is due, now that `acked` is settled and an ACK had to be repeated
    /// `repeats` times in all.
    pub fn ack(&mut self, acked: u64, repeats: u64) -> Option<u64> {
        let acked = acked.max(self.acked);
        let due = acked > self.acked || repeats != self.repeats;
        self.acked = acked;
        self.repeats = repeats;
        due.then_some(acked)
    }

    fn readings(
        &mut self,
        seq: Option<u64>,
        pack: &[u8],
        now: &Moment,
        rules: &Rules,
        permissions: &Permissions,
    ) -> Step {
        let step = match self.resolve(pack, now, rules, permissions) {
            Ok(readings) => {
                let (device, epoch) = (self.device.clone(), self.epoch);
                let (received, base) = (now.unix, now.base);
                Step::Submit(Batch { device, epoch, seq, received, base, shift: 0.0, readings })
            }
            Err(reject) => Step::Reject { seq, reject },
        };
        // A best effort batch that is refused goes nowhere, so nothing would ever finish it.
        if seq.is_some() || matches!(step, Step::Submit(_)) {
            self.submitted += 1;
        }
        step
    }

    fn resolve(
        &self,
        pack: &[u8],
        now: &Moment,
        rules: &Rules,
        permissions: &Permissions,
    ) -> Result<Vec<Reading>, Reject> {
        // A clock that is behind must not refuse what it will find right once it is set.
        let max_ahead = rules.limits.max_ahead + now.lag;
        let max_records = permissions.own.max_records.unwrap_or(rules.limits.max_records);
        let limits = Limits { max_records, max_ahead };
        let readings = senml::resolve(pack, &self.device, now.unix, &limits)?;
        permissions.check(&readings)?;
        Ok(readings)
    }
}

/// How a message over `max_frame` bytes ends the session.
#[must_use]
pub fn too_big(max_frame: usize) -> Close {
    Close::new(TOO_BIG, format!("message over max_frame, which is {max_frame} bytes"))
}

/// When to ping and when to give up. Kept lazily: what arrives is noted with one assignment, and
/// only [`Heartbeat::beat`], called when [`Heartbeat::next`] has come, looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    ping_at: Duration,
    heard: Duration,
}

/// What the heartbeat asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// The device is gone.
    Missed(Close),
}

impl Heartbeat {
    /// Starts at `now`. The first ping comes after half to one interval, by `spread` (0 to 1), so
    /// that devices that connect together are not all pinged at once ever after; but those of one
    /// 64th of the interval are, since many pings in one go cost less than each on its own.
    #[must_use]
    pub fn new(now: Duration, spread: f64, rules: &Rules) -> Self {
        let part = 0.5 + 0.5 * if spread.is_finite() { spread.clamp(0.0, 1.0) } else { 1.0 };
        let ping_at = now + rules.heartbeat_interval.mul_f64(part);
        let grid = (rules.heartbeat_interval / 64).as_nanos().max(1);
        let beyond = u64::try_from(ping_at.as_nanos() % grid).unwrap_or(0);
        let ping_at = ping_at.saturating_sub(Duration::from_nanos(beyond));
        Self { ping_at: ping_at.max(now), heard: now }
    }

    /// Something arrived, or could not have because nothing was read.
    pub fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// When to call [`Self::beat`].
    #[must_use]
    pub fn next(&self, rules: &Rules) -> Duration {
        self.ping_at.min(self.deadline(rules))
    }

    /// What is due at `now`.
    pub fn beat(&mut self, now: Duration, rules: &Rules) -> Beat {
        if now >= self.deadline(rules) {
            let silent = now.saturating_sub(self.heard).as_secs_f64();
            let reason = format!("heartbeat missed: nothing received for {silent:.1} s");
            return Beat::Missed(Close::new(HEARTBEAT_MISSED, reason));
        }
        if now >= self.ping_at {
            let next = self.ping_at + rules.heartbeat_interval;
            self.ping_at = if next > now { next } else { now + rules.heartbeat_interval };
            return Beat::Ping;
        }
        Beat::Wait
    }

    fn deadline(&self, rules: &Rules) -> Duration {
        self.heard + rules.heartbeat_interval + rules.heartbeat_timeout
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::batch::Value;
    use crate::core::policy::Pattern;
    use crate::core::senml::RejectCode;

    const NOW: f64 = 1_763_800_000.0;
    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            window: 4,
            max_frame: 1000,
            limits: Limits { max_records: 10, max_ahead: 60.0 },
            heartbeat_interval: 30 * SECOND,
            heartbeat_timeout: 10 * SECOND,
        }
    }

    fn hello() -> Vec<u8> {
        DeviceMessage::Hello(Hello::default()).encode()
    }

    fn readings(seq: Option<u64>, name: &str) -> Vec<u8> {
        readings_at(seq, name, NOW)
    }

    fn readings_at(seq: Option<u64>, name: &str, time: f64) -> Vec<u8> {
        let reading = Reading {
            name: name.into(),
            unit: None,
            value: Some(Value::Number(1.0)),
            sum: None,
            time,
            update_time: None,
            relative: false,
        };
        DeviceMessage::Readings { seq, pack: &senml::encode(&[reading]) }.encode()
    }

    fn malformed(seq: Option<u64>) -> Vec<u8> {
        DeviceMessage::Readings { seq, pack: &[0x81, 0x05] }.encode()
    }

    fn result() -> Vec<u8> {
        let value = ciborium::Value::Null;
        DeviceMessage::Result { id: "c1".to_owned(), ok: true, value }.encode()
    }

    fn session() -> Session {
        Session::new(DeviceId::new("kiln-3").unwrap())
    }

    fn open() -> Session {
        let mut session = session();
        assert!(matches!(receive(&mut session, &hello()), Ok(Step::Hello(_))));
        session.open(7, 0);
        session
    }

    fn receive(session: &mut Session, message: &[u8]) -> Result<Step, Close> {
        session.receive(message, &Moment::of(NOW), &rules(), &Permissions::default())
    }

    fn code(outcome: Result<Step, Close>) -> u16 {
        let close = outcome.unwrap_err();
        assert!(!close.reason.is_empty() && close.reason.len() <= REASON_MAX, "{close:?}");
        close.code
    }

    #[test]
    fn hello_comes_first_and_once() {
        for early in [readings(Some(1), "a"), result()] {
            assert_eq!(code(receive(&mut session(), &early)), OUT_OF_TURN);
        }
        assert_eq!(code(receive(&mut open(), &hello())), OUT_OF_TURN);
        let mut greeting = session();
        receive(&mut greeting, &hello()).unwrap();
        assert_eq!(code(receive(&mut greeting, &readings(Some(1), "a"))), OUT_OF_TURN);
    }

    #[test]
    fn what_is_no_message_or_too_big_ends_the_session() {
        for bad in [&[][..], &[0xff], &[0x80], &[0x82, 0x11, 0x01], &[0x83, 1, 0, 0x80]] {
            assert_eq!(code(receive(&mut open(), bad)), NOT_A_MESSAGE, "{bad:?}");
        }
        assert_eq!(code(receive(&mut open(), &[0; 1001])), TOO_BIG);
        assert_eq!(Session::text().code, TEXT_MESSAGE);
    }

    #[test]
    fn a_batch_carries_device_epoch_number_and_arrival() {
        let Ok(Step::Submit(batch)) = receive(&mut open(), &readings(Some(3), "a")) else {
            panic!()
        };
        let expected = ("kiln-3", 7, Some(3), NOW);
        assert_eq!((batch.device.as_str(), batch.epoch, batch.seq, batch.received), expected);
    }

    #[test]
    fn a_clock_that_may_be_behind_refuses_no_time_that_it_may_find_right_later() {
        let ahead = readings_at(Some(1), "temperature", NOW + 80_000.0);
        let judge = |lag: f64| {
            let now = Moment { lag, ..Moment::of(NOW) };
            open().receive(&ahead, &now, &rules(), &Permissions::default())
        };
        assert!(matches!(judge(0.0), Ok(Step::Reject { .. })));
        assert!(matches!(judge(86_400.0), Ok(Step::Submit(_))));
        assert!(matches!(judge(f64::INFINITY), Ok(Step::Submit(_))));
    }

    #[test]
    fn a_name_not_permitted_refuses_the_batch() {
        let only = vec![Pattern::new("temp*").unwrap()];
        let permissions = Permissions { readings: only, ..Permissions::default() };
        let mut session = open();
        let outcome =
            session.receive(&readings(Some(1), "door"), &Moment::of(NOW), &rules(), &permissions);
        let Ok(Step::Reject { seq: Some(1), reject }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reject.code, RejectCode::NameNotPermitted);
        assert!(reject.reason.contains("door"), "{}", reject.reason);
    }

    #[test]
    fn an_ack_is_due_for_something_new_or_when_repeated() {
        let mut session = session();
        session.open(7, 5);
        assert_eq!(session.ack(0, 0), None, "WELCOME has said 5");
        assert_eq!(session.ack(5, 0), None);
        assert_eq!(session.ack(8, 0), Some(8));
        assert_eq!(session.ack(8, 0), None);
        assert_eq!(session.ack(8, 1), Some(8));
        assert_eq!(session.ack(8, 1), None);
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let close = Close::new(OUT_OF_TURN, "é".repeat(100));
        assert_eq!(close.reason, "é".repeat(61));
        assert_eq!(Close::new(OUT_OF_TURN, "short").reason, "short");
    }

    #[test]
    fn a_heartbeat_pings_and_then_gives_up() {
        let rules = rules();
        let mut heartbeat = Heartbeat::new(Duration::ZERO, 1.0, &rules);
        assert_eq!(heartbeat.next(&rules), 30 * SECOND);
        assert_eq!(heartbeat.beat(29 * SECOND, &rules), Beat::Wait);
        assert_eq!(heartbeat.beat(30 * SECOND, &rules), Beat::Ping);
        assert_eq!(heartbeat.next(&rules), 40 * SECOND, "an answer is due");
        let Beat::Missed(close) = heartbeat.beat(40 * SECOND, &rules) else { panic!() };
        assert_eq!(close.code, HEARTBEAT_MISSED);
        assert!(close.reason.contains("40.0 s"), "{}", close.reason);
    }

    #[test]
    fn pings_are_spread_over_the_interval_in_64ths_of_it() {
        let rules = rules();
        let now = Duration::from_millis(123_457);
        let pings: std::collections::HashSet<_> = (0..10_000u32)
            .map(|n| Heartbeat::new(now, f64::from(n) / 10_000.0, &rules).next(&rules))
            .collect();
        assert!((32..=33).contains(&pings.len()), "{} moments", pings.len());
        let earliest = pings.iter().min().copied().unwrap_or_default();
        let latest = pings.iter().max().copied().unwrap_or_default();
        assert!(earliest >= now + 14 * SECOND && latest <= now + 30 * SECOND);
    }

    #[test]
    fn whatever_is_heard_keeps_a_device_alive() {
        let rules = rules();
        let mut heartbeat = Heartbeat::new(Duration::ZERO, 0.0, &rules);
        let mut pings = 0;
        let mut heard = Duration::ZERO;
        for _ in 0..1000 {
            let now = heartbeat.next(&rules);
            while heard + 35 * SECOND < now {
                heard += 35 * SECOND;
                heartbeat.heard(heard);
            }
            match heartbeat.beat(now, &rules) {
                Beat::Ping => pings += 1,
                Beat::Wait => {}
                Beat::Missed(close) => panic!("{close:?} at {now:?}, heard at {heard:?}"),
            }
        }
        let expected = heard.as_secs() / 30;
        assert!(pings >= expected - 2, "{pings} pings, {expected} intervals");
    }

    #[derive(Debug, Clone)]
    enum Message {
        Hello,
        Readings(Option<u64>),
        Malformed(Option<u64>),
        Result,
        Garbage(Vec<u8>),
    }

    fn message() -> impl Strategy<Value = Message> {
        let seq = prop::option::of(1u64..100);
        prop_oneof![
            1 => Just(Message::Hello),
            8 => seq.clone().prop_map(Message::Readings),
            4 => seq.prop_map(Message::Malformed),
            2 => Just(Message::Result),
            1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Message::Garbage),
        ]
    }

    proptest! {
        /// A session agrees with a model of it in a few lines: what is submitted, what is
        /// rejected, what ends it, and how much room is left; and never panics.
        #[test]
        fn any_sequence_of_messages_is_judged_as_the_table_says(
            messages in prop::collection::vec(message(), 0..60), lag in 0u64..6,
        ) {
            let rules = rules();
            let mut session = session();
            let (mut greeted, mut submitted) = (false, 0u64);
            for message in messages {
                let bytes = match &message {
                    Message::Hello => hello(),
                    Message::Readings(seq) => readings(*seq, "a"),
                    Message::Malformed(seq) => malformed(*seq),
                    Message::Result => result(),
                    Message::Garbage(bytes) => bytes.clone(),
                };
                let outcome = receive(&mut session, &bytes);
                match (&message, greeted) {
                    (Message::Garbage(_), _) => {
                        // May be a message by chance; it must only not panic.
                        return Ok(());
                    }
                    (Message::Hello, false) => {
                        prop_assert!(matches!(outcome, Ok(Step::Hello(_))));
                        session.open(7, 0);
                        greeted = true;
                    }
                    (_, false) | (Message::Hello, true) => {
                        prop_assert_eq!(outcome.unwrap_err().code, OUT_OF_TURN);
                        return Ok(());
                    }
                    (Message::Readings(seq), true) => {
                        let Ok(Step::Submit(batch)) = outcome else { panic!("{outcome:?}") };
                        prop_assert_eq!(batch.seq, *seq);
                        submitted += 1;
                    }
                    (Message::Malformed(expected), true) => {
                        let Ok(Step::Reject { seq, reject }) = outcome else { panic!() };
                        prop_assert_eq!((seq, reject.code), (*expected, RejectCode::MalformedSenml));
                        submitted += u64::from(seq.is_some());
                    }
                    (Message::Result, true) => {
                        let is_result = matches!(outcome, Ok(Step::Result { .. }));
                        prop_assert!(is_result);
                    }
                }
                let finished = submitted.saturating_sub(lag);
                let unsettled = submitted - finished;
                prop_assert_eq!(session.room(finished, &rules), 4u64.saturating_sub(unsettled));
            }
        }
    }
}
