//! A spool without a disk, for tests of what uses one: it does what it is told and fails on order.
//!
//! A [`Disk`] outlives the [`MemorySpool`]s opened on it, as a disk outlives processes: dropping a
//! spool is a crash, and what was not durable is gone. Commits happen at once, or, after
//! [`Disk::hold`], when [`Disk::commit`] is called.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::core::batch::{Batch, Loss, LossReason};
use crate::core::ids::{DeviceId, Position};
use crate::ports::{Opened, Spool, SpoolEvent, lock};

/// What survives a crash, and the handle a test steers with. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    durable: BTreeMap<Position, Arc<Batch>>,
    damaged: BTreeMap<Position, u64>,
    head: Position,
    next: Position,
    losses: Vec<Loss>,
    /// Losses that are not published.
    unpublished: VecDeque<Loss>,
    /// What a crash takes.
    volatile: Volatile,
    held: bool,
    fault: Option<String>,
    full: bool,
    commits: u64,
}

#[derive(Debug, Default)]
struct Volatile {
    session: u64,
    pending: VecDeque<(Position, Arc<Batch>)>,
    events: VecDeque<SpoolEvent>,
    /// Records published so far.
    published: u64,
    waker: Option<Waker>,
}

/// The stand-in. The last one opened on a disk is the one that works.
#[derive(Debug)]
pub struct MemorySpool {
    disk: Disk,
    opened: Opened,
    session: u64,
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        let disk = Self::default();
        {
            let mut state = lock(&disk.0);
            (state.head, state.next) = (1, 1);
        }
        disk
    }

    /// Opens a spool on it. What an earlier one had not made durable is gone.
    #[must_use]
    pub fn open(&self) -> MemorySpool {
        let mut state = lock(&self.0);
        let session = state.volatile.session + 1;
        state.volatile = Volatile { session, ..Volatile::default() };
        let mut progress: HashMap<DeviceId, (u64, u64)> = HashMap::new();
        for batch in state.durable.values() {
            if let Some(seq) = batch.seq {
                let entry = progress.entry(batch.device.clone()).or_insert((batch.epoch, seq));
                *entry = if entry.0 == batch.epoch {
                    (batch.epoch, entry.1.max(seq))
                } else {
                    (batch.epoch, seq)
                };
            }
        }
        let mut progress: Vec<_> = progress.into_iter().map(|(d, (e, s))| (d, e, s)).collect();
        progress.sort();
        let opened = Opened {
            head: state.head,
            tail: state.next,
            progress,
            losses: std::mem::take(&mut state.losses),
        };
        let unpublished = std::mem::take(&mut state.unpublished);
        state.report(unpublished);
        state.report(opened.losses.clone());
        drop(state);
        MemorySpool { disk: self.clone(), opened, session }
    }

    /// From now on nothing is committed until [`Self::commit`] is called.
    pub fn hold(&self) {
        lock(&self.0).held = true;
    }

    /// Commits what waits; commits happen at once again if `hold` is not called anew.
    pub fn commit(&self) {
        self.change(|state| {
            state.held = false;
            state.commit();
        });
    }

    /// Commits only the oldest `batches` of what waits, and goes on holding.
    pub fn commit_some(&self, batches: usize) {
        self.change(|state| {
            let rest = state.volatile.pending.split_off(batches.min(state.volatile.pending.len()));
            state.held = false;
            state.commit();
            state.held = true;
            state.volatile.pending = rest;
        });
    }

    /// The disk refuses to be written, with this reason, until [`Self::resume`].
    pub fn stall(&self, reason: &str) {
        self.change(|state| {
            state.fault = Some(reason.into());
            state.event(SpoolEvent::Stalled { reason: reason.into() });
        });
    }

    /// The disk can be written again.
    pub fn resume(&self) {
        self.change(|state| {
            if state.fault.take().is_some() {
                state.event(SpoolEvent::Resumed);
                state.commit();
            }
        });
    }

    /// `when_full = "block"`: there is no room, or there is again.
    pub fn set_full(&self, full: bool) {
        self.change(|state| {
            if state.full != full {
                state.full = full;
                state.event(SpoolEvent::Full(full));
                state.commit();
            }
        });
    }

    /// The batch at `position` becomes unreadable.
    pub fn damage(&self, position: Position) {
        self.change(|state| {
            if let Some(batch) = state.durable.remove(&position) {
                state.damaged.insert(position, batch.readings.len() as u64);
            }
        });
    }

    /// The next [`Self::open`] reports this loss.
    pub fn lose_at_open(&self, loss: Loss) {
        lock(&self.0).losses.push(loss);
    }

    /// A limit takes everything up to and including `through` that is durable.
    pub fn evict(&self, through: Position, reason: LossReason, time: f64) {
        self.change(|state| {
            let through = through.min(state.next.saturating_sub(1));
            if through < state.head {
                return;
            }
            let kept = state.durable.split_off(&(through + 1));
            let evicted = std::mem::replace(&mut state.durable, kept);
            let mut losses: Vec<Loss> = Vec::new();
            for batch in evicted.into_values() {
                let known = losses
                    .iter_mut()
                    .find(|l| l.device.as_ref() == Some(&batch.device) && l.epoch == batch.epoch);
                if let Some(loss) = known {
                    loss.first_seq = loss.first_seq.or(batch.seq);
                    loss.last_seq = loss.last_seq.max(batch.seq);
                    loss.batches += 1;
                    loss.readings += batch.readings.len() as u64;
                } else {
                    losses.push(Loss {
                        device: Some(batch.device.clone()),
                        epoch: batch.epoch,
                        first_seq: batch.seq,
                        last_seq: batch.seq,
                        batches: 1,
                        readings: batch.readings.len() as u64,
                        received: Some((batch.received, batch.received)),
                        reason,
                        time,
                        detail: None,
                    });
                }
            }
            state.head = through + 1;
            state.event(SpoolEvent::Evicted { through, losses: losses.clone() });
            state.report(losses);
        });
    }

    /// What is durable and not released.
    #[must_use]
    pub fn contents(&self) -> Vec<(Position, Arc<Batch>)> {
        lock(&self.0).durable.iter().map(|(position, batch)| (*position, batch.clone())).collect()
    }

    /// How many batches were added and are not durable.
    #[must_use]
    pub fn pending(&self) -> usize {
        lock(&self.0).volatile.pending.len()
    }

    /// How many commits there were.
    #[must_use]
    pub fn commits(&self) -> u64 {
        lock(&self.0).commits
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = lock(&self.0);
            change(&mut state);
            if state.volatile.events.is_empty() { None } else { state.volatile.waker.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn event(&mut self, event: SpoolEvent) {
        self.volatile.events.push_back(event);
    }

    fn commit(&mut self) {
        if self.held || self.full || self.fault.is_some() {
            return;
        }
        let mut through = None;
        for (position, batch) in std::mem::take(&mut self.volatile.pending) {
            through = Some(position);
            self.next = position + 1;
            self.durable.insert(position, batch);
        }
        if let Some(through) = through {
            self.commits += 1;
            self.event(SpoolEvent::Durable { through });
        }
    }

    fn load(&mut self, from: Position, max_bytes: usize) {
        let mut next = from.max(self.head);
        let mut taken = 0;
        let mut batches = Vec::new();
        let mut losses = Vec::new();
        while taken < max_bytes.max(1) && next < self.next {
            if let Some(batch) = self.durable.get(&next) {
                taken += batch.weight();
                batches.push((next, batch.clone()));
            } else if let Some(readings) = self.damaged.remove(&next) {
                losses.push(Loss {
                    device: None,
                    epoch: 0,
                    first_seq: None,
                    last_seq: None,
                    batches: 1,
                    readings,
                    received: None,
                    reason: LossReason::Corrupt,
                    time: 0.0,
                    detail: None,
                });
            }
            next += 1;
        }
        self.event(SpoolEvent::Loaded { batches, next, losses: losses.clone() });
        self.report(losses);
    }

    fn report(&mut self, losses: impl IntoIterator<Item = Loss>) {
        for loss in losses {
            self.unpublished.push_back(loss.clone());
            let number = self.volatile.published + self.unpublished.len() as u64;
            self.event(SpoolEvent::Report { number, loss });
        }
    }
}

impl MemorySpool {
    /// Does nothing once another spool was opened on the same disk.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.disk.change(|state| {
            if state.volatile.session == self.session {
                change(state);
            }
        });
    }
}

impl Spool for MemorySpool {
    fn opened(&self) -> Opened {
        self.opened.clone()
    }

    fn append(&mut self, position: Position, batch: Arc<Batch>) {
        self.change(|state| {
            state.volatile.pending.push_back((position, batch));
            state.commit();
        });
    }

    fn load(&mut self, from: Position, max_bytes: usize) {
        self.change(|state| state.load(from, max_bytes));
    }

    fn release(&mut self, through: Position) {
        self.change(|state| {
            state.durable = state.durable.split_off(&(through + 1));
            state.volatile.pending.retain(|(position, _)| *position > through);
            state.head = state.head.max(through + 1);
            state.next = state.next.max(state.head);
        });
    }

    fn lost(&mut self, loss: Loss) {
        self.change(|state| state.report([loss]));
    }

    fn losses_published(&mut self, through: u64) {
        self.change(|state| {
            while state.volatile.published < through && state.unpublished.pop_front().is_some() {
                state.volatile.published += 1;
            }
        });
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<SpoolEvent> {
        let mut state = lock(&self.disk.0);
        if state.volatile.session != self.session {
            return Poll::Pending;
        }
        if let Some(event) = state.volatile.events.pop_front() {
            return Poll::Ready(event);
        }
        state.volatile.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        self.change(|state| {
            state.held = false;
            state.commit();
        });
        std::future::ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::core::clock::Base;

    fn batch(seq: u64) -> Arc<Batch> {
        let device = DeviceId::new("d").unwrap();
        Arc::new(Batch {
            device,
            epoch: 1,
            seq: Some(seq),
            received: 0.0,
            base: Base::default(),
            shift: 0.0,
            readings: Vec::new(),
        })
    }

    fn events(spool: &mut MemorySpool) -> Vec<SpoolEvent> {
        let mut cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match spool.poll_event(&mut cx) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn what_is_durable_survives_a_crash_and_nothing_else() {
        let disk = Disk::new();
        let mut spool = disk.open();
        assert_eq!((spool.opened().head, spool.opened().tail), (1, 1));
        spool.append(1, batch(1));
        disk.hold();
        spool.append(2, batch(2));
        assert_eq!(events(&mut spool), [SpoolEvent::Durable { through: 1 }]);
        let mut spool = disk.open();
        assert_eq!(spool.opened().tail, 2);
        assert_eq!(spool.opened().progress, [(DeviceId::new("d").unwrap(), 1, 1)]);
        spool.load(1, 1000);
        let next = 2;
        let loaded = SpoolEvent::Loaded { batches: vec![(1, batch(1))], next, losses: Vec::new() };
        assert_eq!(events(&mut spool), [loaded]);
        spool.release(1);
        assert_eq!(disk.contents(), []);
        assert_eq!(disk.open().opened().head, 2);
    }

    #[test]
    fn faults_happen_on_order() {
        let disk = Disk::new();
        let mut spool = disk.open();
        disk.stall("no disk");
        spool.append(1, batch(1));
        spool.append(2, batch(2));
        disk.resume();
        disk.set_full(true);
        spool.append(3, batch(3));
        disk.evict(1, LossReason::EvictedSize, 5.0);
        disk.damage(2);
        spool.load(1, 1000);
        disk.set_full(false);
        let seen = events(&mut spool);
        assert!(
            matches!(
                &seen[..],
                [
                    SpoolEvent::Stalled { .. },
                    SpoolEvent::Resumed,
                    SpoolEvent::Durable { through: 2 },
                    SpoolEvent::Full(true),
                    SpoolEvent::Evicted { through: 1, losses: evicted },
                    SpoolEvent::Report { number: 1, .. },
                    SpoolEvent::Loaded { batches, next: 3, losses },
                    SpoolEvent::Report { number: 2, .. },
                    SpoolEvent::Full(false),
                    SpoolEvent::Durable { through: 3 },
                ] if evicted.len() == 1 && batches.is_empty() && losses.len() == 1
            ),
            "{seen:?}"
        );
    }
}
