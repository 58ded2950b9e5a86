//! Sequence numbers: what was received from each device, what is settled, what an ACK may say.
//!
//! A *run* is one device's numbers within one epoch. Every batch that is taken gets an entry at
//! the end of its run's queue; entries are settled in any order and leave from the front, so the
//! last number that left is what a cumulative ACK may say.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use crate::core::ids::{DeviceId, SessionId};

/// Names one entry of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    run: usize,
    index: u64,
}

/// What became of a submitted number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// New: the ticket settles it.
    New(Ticket),
    /// Received before.
    Duplicate,
    /// The session is not (or no longer) known.
    NoSession,
}

/// News for one session's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// Whose.
    pub session: SessionId,
    /// Every number up to this one is settled.
    pub acked: u64,
    /// Submitted items of this session that no longer count against its window.
    pub finished: u64,
    /// A settled number came again: the ACK must be repeated even if `acked` did not grow.
    pub repeat: bool,
}

#[derive(Debug)]
struct Entry {
    seq: Option<u64>,
    session: Option<SessionId>,
    done: bool,
}

/// What a run's connection has not been told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    None,
    /// Something was settled or finished.
    Settled,
    /// A settled number came again.
    Again,
}

#[derive(Debug)]
struct Run {
    device: DeviceId,
    epoch: u64,
    /// Drawn by the gateway for one connection; never resumed.
    drawn: bool,
    session: Option<SessionId>,
    /// Connections that have not closed yet, replaced ones included.
    connections: u32,
    received: u64,
    acked: u64,
    finished: u64,
    /// The first number after a restart may be any: it is no gap.
    fresh: bool,
    news: News,
    /// Index of the front of `queue`.
    base: u64,
    queue: VecDeque<Entry>,
    /// When the last session ended, to forget the oldest first.
    left: f64,
}

/// All runs.
#[derive(Debug)]
pub(super) struct Runs {
    slots: Slab<Run>,
    current: HashMap<DeviceId, usize>,
    sessions: HashMap<SessionId, usize>,
    changed: Vec<usize>,
    max_idle: usize,
    /// Jumps in sequence numbers so far.
    pub(super) gaps: u64,
    /// Numbers received before, so far.
    pub(super) duplicates: u64,
}

impl Runs {
    /// Remembers at most `max_idle` runs without a connection.
    pub(super) fn new(max_idle: usize) -> Self {
        Self {
            slots: Slab::new(),
            current: HashMap::new(),
            sessions: HashMap::new(),
            changed: Vec::new(),
            max_idle,
            gaps: 0,
            duplicates: 0,
        }
    }

    /// What the spool says was taken before a restart.
    pub(super) fn seed(&mut self, device: DeviceId, epoch: u64, seq: u64) {
        let mut run = Run::new(device.clone(), epoch, false);
        run.received = seq;
        run.acked = seq;
        let index = self.slots.insert(run);
        if let Some(old) = self.current.insert(device, index) {
            self.slots.try_remove(old);
        }
    }

    /// A connection said HELLO. Returns the epoch's settled number.
    pub(super) fn open(
        &mut self,
        session: SessionId,
        device: &DeviceId,
        epoch: Option<u64>,
        drawn_epoch: u64,
    ) -> (u64, u64) {
        let known = self.current.get(device).copied();
        let resumed = known.filter(|&index| {
            self.slots.get(index).is_some_and(|run| !run.drawn && epoch == Some(run.epoch))
        });
        let index = resumed.unwrap_or_else(|| {
            let run = Run::new(device.clone(), epoch.unwrap_or(drawn_epoch), epoch.is_none());
            let index = self.slots.insert(run);
            self.current.insert(device.clone(), index);
            index
        });
        self.sessions.insert(session, index);
        let answer = self.slots.get_mut(index).map_or((drawn_epoch, 0), |run| {
            run.session = Some(session);
            run.connections += 1;
            run.finished = 0;
            run.news = run.news.min(News::Settled);
            (run.epoch, run.acked)
        });
        if resumed.is_none() {
            if let Some(old) = known {
                self.forget_if_idle(old);
            }
        }
        answer
    }

    /// The connection is gone. Returns whether it was the device's current one.
    pub(super) fn close(&mut self, session: SessionId, now: f64) -> bool {
        let Some(index) = self.sessions.remove(&session) else { return false };
        let Some(run) = self.slots.get_mut(index) else { return false };
        let was_current = run.session == Some(session);
        run.connections -= 1;
        if was_current {
            run.session = None;
            run.left = now;
        }
        self.forget_if_idle(index);
        self.forget_oldest();
        was_current
    }

    /// A number (or none) arrived in a session.
    pub(super) fn take(&mut self, session: SessionId, seq: Option<u64>) -> Taken {
        let Some(&index) = self.sessions.get(&session) else { return Taken::NoSession };
        let Some(run) = self.slots.get_mut(index) else { return Taken::NoSession };
        if let Some(seq) = seq {
            if seq <= run.received {
                self.duplicates += 1;
                let mut news = News::Settled;
                if run.session == Some(session) {
                    run.finished += 1;
                    if seq <= run.acked {
                        news = News::Again;
                    }
                }
                self.touch(index, news);
                return Taken::Duplicate;
            }
            if seq != run.received + 1 && !run.fresh {
                self.gaps += 1;
            }
            run.received = seq;
            run.fresh = false;
        }
        let ticket = Ticket { run: index, index: run.base + run.queue.len() as u64 };
        run.queue.push_back(Entry { seq, session: Some(session), done: false });
        Taken::New(ticket)
    }

    /// Settles an entry; `false` where it was settled before.
    pub(super) fn settle(&mut self, ticket: Ticket) -> bool {
        let Some(run) = self.slots.get_mut(ticket.run) else { return false };
        let Some(offset) = ticket.index.checked_sub(run.base) else { return false };
        let entry = usize::try_from(offset).ok().and_then(|offset| run.queue.get_mut(offset));
        let Some(entry) = entry.filter(|entry| !entry.done) else { return false };
        entry.done = true;
        if entry.session.is_some() && entry.session == run.session {
            run.finished += 1;
        }
        while run.queue.front().is_some_and(|entry| entry.done) {
            run.base += 1;
            if let Some(seq) = run.queue.pop_front().and_then(|entry| entry.seq) {
                run.acked = run.acked.max(seq);
            }
        }
        self.touch(ticket.run, News::Settled);
        true
    }

    /// The session that a ticket's batch came from, if it is still the device's current one.
    pub(super) fn session_of(&self, ticket: Ticket) -> Option<SessionId> {
        self.slots.get(ticket.run)?.session
    }

    /// Calls `tell` for every session that has news since the last call.
    pub(super) fn updates(&mut self, mut tell: impl FnMut(Update)) {
        while let Some(index) = self.changed.pop() {
            let Some(run) = self.slots.get_mut(index) else { continue };
            let repeat = std::mem::replace(&mut run.news, News::None) == News::Again;
            if let Some(session) = run.session {
                tell(Update { session, acked: run.acked, finished: run.finished, repeat });
            }
            self.forget_if_idle(index);
        }
    }

    fn touch(&mut self, index: usize, news: News) {
        if let Some(run) = self.slots.get_mut(index) {
            if run.news == News::None {
                self.changed.push(index);
            }
            run.news = run.news.max(news);
        }
    }

    /// Forgets a run that nobody can come back to: replaced by a newer epoch, or drawn for a
    /// connection that is gone.
    fn forget_if_idle(&mut self, index: usize) {
        let Some(run) = self.slots.get(index) else { return };
        if !run.is_idle() {
            return;
        }
        let is_current = self.current.get(&run.device) == Some(&index);
        if is_current && !run.drawn {
            return;
        }
        if is_current {
            self.current.remove(&run.device);
        }
        self.slots.remove(index);
    }

    /// Keeps the memory for devices that never come back bounded: forgets the half that left
    /// first. Such a device is told `acked: 0`, resends, and the broker may get a duplicate.
    fn forget_oldest(&mut self) {
        if self.current.len() <= self.max_idle + self.sessions.len() {
            return;
        }
        let mut left: Vec<f64> =
            self.slots.iter().filter(|(_, run)| run.is_idle()).map(|(_, run)| run.left).collect();
        left.sort_by(f64::total_cmp);
        let Some(&median) = left.get(left.len() / 2) else { return };
        let (runs, current) = (&mut self.slots, &mut self.current);
        runs.retain(|index, run| {
            let forget = run.is_idle() && run.left <= median;
            if forget && current.get(&run.device) == Some(&index) {
                current.remove(&run.device);
            }
            !forget
        });
    }

    /// Whether nothing waits for settlement, for tests of the invariants.
    #[cfg(test)]
    pub(super) fn all_settled(&self) -> bool {
        self.slots.iter().all(|(_, run)| run.queue.is_empty())
    }
}

impl Run {
    fn new(device: DeviceId, epoch: u64, drawn: bool) -> Self {
        Self {
            device,
            epoch,
            drawn,
            session: None,
            connections: 0,
            received: 0,
            acked: 0,
            finished: 0,
            fresh: true,
            news: News::None,
            base: 0,
            queue: VecDeque::new(),
            left: 0.0,
        }
    }

    /// No connection can submit to it and nothing waits for settlement or to be told.
    fn is_idle(&self) -> bool {
        self.connections == 0 && self.queue.is_empty() && self.news == News::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S1: SessionId = SessionId(1);
    const S2: SessionId = SessionId(2);

    fn device() -> DeviceId {
        DeviceId::new("kiln-3").unwrap()
    }

    fn new(taken: Taken) -> Ticket {
        match taken {
            Taken::New(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn news(runs: &mut Runs) -> Vec<Update> {
        let mut all = Vec::new();
        runs.updates(|update| all.push(update));
        all
    }

    #[test]
    fn an_ack_never_passes_an_unsettled_number() {
        let mut runs = Runs::new(10);
        assert_eq!(runs.open(S1, &device(), Some(7), 0), (7, 0));
        let tickets: Vec<_> = (1..=3).map(|seq| new(runs.take(S1, Some(seq)))).collect();
        assert!(runs.settle(tickets[2]));
        assert_eq!(news(&mut runs), [Update { session: S1, acked: 0, finished: 1, repeat: false }]);
        assert!(runs.settle(tickets[0]));
        assert!(!runs.settle(tickets[0]), "settling is once");
        assert_eq!(news(&mut runs)[0].acked, 1);
        assert!(runs.settle(tickets[1]));
        assert_eq!(news(&mut runs)[0].acked, 3);
    }

    #[test]
    fn a_number_received_before_is_not_taken_twice_and_acknowledged_again() {
        let mut runs = Runs::new(10);
        runs.open(S1, &device(), Some(7), 0);
        let ticket = new(runs.take(S1, Some(1)));
        assert_eq!(runs.take(S1, Some(1)), Taken::Duplicate);
        assert!(!news(&mut runs)[0].repeat, "not settled yet: the ACK is still to come");
        runs.settle(ticket);
        news(&mut runs);
        assert_eq!(runs.take(S1, Some(1)), Taken::Duplicate);
        assert_eq!(news(&mut runs)[0], Update { session: S1, acked: 1, finished: 3, repeat: true });
        assert_eq!(runs.duplicates, 2);
    }

    #[test]
    fn a_gap_is_accepted_and_counted_but_not_the_first_number_after_a_restart() {
        let mut runs = Runs::new(10);
        runs.open(S1, &device(), Some(7), 0);
        new(runs.take(S1, Some(5)));
        assert_eq!(runs.gaps, 0);
        new(runs.take(S1, Some(8)));
        assert_eq!(runs.gaps, 1);
    }

    #[test]
    fn a_reconnect_resumes_its_epoch_and_a_new_epoch_starts_at_zero() {
        let mut runs = Runs::new(10);
        runs.open(S1, &device(), Some(7), 0);
        let unsettled = new(runs.take(S1, Some(1)));
        runs.close(S1, 0.0);
        assert_eq!(runs.open(S2, &device(), Some(7), 0), (7, 0));
        assert_eq!(runs.take(S2, Some(1)), Taken::Duplicate);
        news(&mut runs);
        runs.settle(unsettled);
        assert_eq!(
            news(&mut runs),
            [Update { session: S2, acked: 1, finished: 1, repeat: false }],
            "what the old connection brought is acknowledged on the new one"
        );
        runs.close(S2, 0.0);
        assert_eq!(runs.open(S1, &device(), Some(8), 0), (8, 0));
        assert_eq!(runs.slots.len(), 1, "the old epoch is forgotten once nothing waits for it");
    }

    #[test]
    fn without_an_epoch_numbers_count_for_the_connection_alone() {
        let mut runs = Runs::new(10);
        assert_eq!(runs.open(S1, &device(), None, 1000), (1000, 0));
        let ticket = new(runs.take(S1, Some(1)));
        runs.close(S1, 0.0);
        assert_eq!(runs.open(S2, &device(), None, 1001), (1001, 0));
        new(runs.take(S2, Some(1)));
        runs.settle(ticket);
        assert_eq!(news(&mut runs), [], "the old connection's number is not the new one's");
        runs.close(S2, 0.0);
        assert_eq!(runs.slots.len(), 1, "its unsettled batch keeps the second run alive");
    }

    #[test]
    fn memory_for_devices_that_left_is_bounded() {
        let mut runs = Runs::new(100);
        for n in 0..1000u64 {
            let device = DeviceId::new(&format!("d{n}")).unwrap();
            runs.open(SessionId(n), &device, Some(1), 0);
            let ticket = new(runs.take(SessionId(n), Some(1)));
            runs.settle(ticket);
            news(&mut runs);
            runs.close(SessionId(n), n as f64);
        }
        assert!(runs.slots.len() <= 101, "{}", runs.slots.len());
        assert!(runs.current.contains_key("d999"), "the oldest go first");
    }
}
