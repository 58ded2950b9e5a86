//! What of devices was refused lately, and why, bounded for each device and for all together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::slot::{Slot, beginning};
use crate::ports::{Refused, RefusedKind, lock};

/// Different refusals that are kept of one device.
pub(super) const KEPT: usize = 16;

/// Longest reason, in bytes.
const REASON_MAX: usize = 256;

/// HTTP 403. Who has not shown who it is chooses the Origin that the reason names; so that nobody
/// drives out what else was refused, these are joined whatever the reason.
const FORBIDDEN: u64 = 403;

/// The refusals of one device, in the order in which the different ones came first.
#[derive(Debug, Default)]
pub(super) struct Refusals(Vec<Refusal>);

/// A refusal, with how often it came.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    /// When it last came: Unix time in seconds.
    pub(super) time: f64,
    pub(super) kind: RefusedKind,
    pub(super) code: u64,
    pub(super) reason: Box<str>,
    pub(super) count: u64,
}

impl Refusals {
    /// Adds one. Returns whether there is one more in the list now, as opposed to one that came
    /// again or took the place of the one that has not come for the longest time.
    fn add(&mut self, new: &Refused<'_>) -> bool {
        let reason = beginning(new.reason, REASON_MAX);
        let same = |old: &&mut Refusal| {
            (old.kind, old.code) == (new.kind, new.code)
                && (&*old.reason == reason || new.code == FORBIDDEN)
        };
        if let Some(old) = self.0.iter_mut().find(same) {
            old.count = old.count.saturating_add(1);
            old.time = new.time;
            if &*old.reason != reason {
                old.reason = reason.into();
            }
            return false;
        }
        let Refused { kind, code, time, .. } = *new;
        let full = self.0.len() >= KEPT;
        if full {
            self.drop_oldest();
        }
        self.0.push(Refusal { time, kind, code, reason: reason.into(), count: 1 });
        !full
    }

    fn drop_oldest(&mut self) {
        let times = self.0.iter().enumerate();
        let oldest = times.min_by(|(_, a), (_, b)| a.time.total_cmp(&b.time));
        if let Some((at, _)) = oldest {
            self.0.remove(at);
        }
    }

    /// Newest first.
    pub(super) fn newest_first(&self) -> Vec<&Refusal> {
        let mut all: Vec<_> = self.0.iter().rev().collect();
        all.sort_by(|a, b| b.time.total_cmp(&a.time));
        all
    }
}

/// Keeps the refusals of all devices together within a bound: an entry for each refusal in a list,
/// oldest first. A device has at most [`KEPT`] of them, so none drives out those of all others.
#[derive(Debug, Default)]
pub(super) struct Register(Mutex<VecDeque<Arc<Slot>>>);

impl Register {
    /// Notes a refusal of the device of `slot`; beyond `max` in all, the oldest goes.
    pub(super) fn note(&self, slot: &Arc<Slot>, refused: &Refused<'_>, max: usize) {
        let more = {
            let mut state = lock(&slot.state);
            if refused.kind == RefusedKind::Batch {
                state.traffic.rejected += 1;
            }
            state.refusals.add(refused)
        };
        if !more {
            return;
        }
        let too_many = {
            let mut queue = lock(&self.0);
            queue.push_back(Arc::clone(slot));
            if queue.len() > max { queue.pop_front() } else { None }
        };
        if let Some(slot) = too_many {
            lock(&slot.state).refusals.drop_oldest();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::DeviceId;

    fn refused(code: u64, reason: &str, time: f64) -> Refused<'_> {
        let kind = if code < 100 { RefusedKind::Batch } else { RefusedKind::Connection };
        Refused { kind, code, reason, time }
    }

    fn slot(id: &str) -> Arc<Slot> {
        Arc::new(Slot::new(DeviceId::new(id).unwrap(), &Arc::default()))
    }

    fn shown(slot: &Slot) -> Vec<(u64, String, u64)> {
        let state = lock(&slot.state);
        let all = state.refusals.newest_first().into_iter();
        all.map(|one| (one.code, one.reason.to_string(), one.count)).collect()
    }

    #[test]
    fn the_same_refusal_is_kept_once_with_its_count_and_its_newest_time() {
        let (register, slot) = (Register::default(), slot("a"));
        for (code, reason, time) in
            [(2, "x", 1.0), (401, "token", 2.0), (2, "y", 3.0), (2, "x", 4.0), (2, "x", 5.0)]
        {
            register.note(&slot, &refused(code, reason, time), 100);
        }
        assert_eq!(
            shown(&slot),
            [(2, "x".to_owned(), 3), (2, "y".to_owned(), 1), (401, "token".to_owned(), 1)]
        );
        assert_eq!(lock(&slot.state).traffic.rejected, 4, "connections are no batches");
    }

    #[test]
    fn a_device_keeps_the_latest_sixteen() {
        let (register, slot) = (Register::default(), slot("a"));
        for n in 0..40_u32 {
            register.note(&slot, &refused(1, &format!("record {n}"), f64::from(n)), 100);
            register.note(&slot, &refused(2, "again and again", f64::from(n)), 100);
        }
        let shown = shown(&slot);
        assert_eq!(shown.len(), KEPT);
        assert!(shown.iter().any(|(code, _, count)| (*code, *count) == (2, 40)), "{shown:?}");
        assert!(shown.iter().any(|(_, reason, _)| reason == "record 39"));
        assert!(!shown.iter().any(|(_, reason, _)| reason == "record 3"));
        assert_eq!(register.len(), KEPT);
    }

    #[test]
    fn a_stranger_that_makes_up_origins_drives_nothing_out() {
        let (register, slot) = (Register::default(), slot("a"));
        register.note(&slot, &refused(2, "x", 1.0), 100);
        for n in 0..40_u32 {
            register.note(&slot, &refused(403, &format!("https://{n}"), 2.0), 100);
        }
        assert_eq!(shown(&slot), [(403, "https://39".to_owned(), 40), (2, "x".to_owned(), 1)]);
    }

    #[test]
    fn those_of_all_devices_are_bounded_and_the_oldest_go() {
        let register = Register::default();
        let slots: Vec<_> = (0..10).map(|n| slot(&format!("d{n}"))).collect();
        for (n, slot) in (0_u32..).zip(&slots) {
            register.note(slot, &refused(401, "token", f64::from(n)), 4);
            register.note(slot, &refused(401, "token", f64::from(n)), 4);
        }
        assert_eq!(register.len(), 4);
        let left: Vec<_> = slots.iter().map(|slot| shown(slot).len()).collect();
        assert_eq!(left, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let (register, slot) = (Register::default(), slot("a"));
        let long = "ü".repeat(1000);
        for _ in 0..2 {
            register.note(&slot, &refused(1, &long, 1.0), 100);
        }
        let shown = shown(&slot);
        assert_eq!((shown.len(), shown[0].1.len(), shown[0].2), (1, REASON_MAX, 2));
    }
}
