//! The losses whose records the broker has not acknowledged yet: a queue that cannot grow without
//! limit. Pure.
//!
//! A record that continues the one before it of its device, epoch and reason is joined to it. Where
//! the records still take more room than there is, those of a device, epoch and reason become one,
//! whatever lies between; where that is not enough, the older half becomes one record for each
//! reason that names no device. The numbers of batches and readings stay exact through all of it.

use std::collections::{HashMap, VecDeque};

use crate::core::batch::{Loss, LossReason};
use crate::core::ids::DeviceId;

/// Names a record between handing it out and its acknowledgement, within one run.
pub(super) type Number = u64;

/// What a record that names no device says of itself.
const JOINED: &str = "several records joined: there were too many to keep";

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Unpublished {
    queue: VecDeque<Loss>,
    /// So many at the front are handed out and do not change any more.
    handed: usize,
    /// Acknowledged so far.
    done: Number,
}

impl Unpublished {
    /// Adds what was lost.
    pub(super) fn add(&mut self, losses: impl IntoIterator<Item = Loss>) {
        for loss in losses {
            let before =
                self.queue.iter_mut().skip(self.handed).rev().find(|l| l.key() == loss.key());
            match before.filter(|before| before.is_continued_by(&loss)) {
                Some(before) => before.absorb(&loss),
                None => self.queue.push_back(loss),
            }
        }
    }

    /// Joins records until they take no more than `room` by `size`, as far as they are not handed
    /// out.
    pub(super) fn bound(&mut self, room: usize, size: impl Fn(&Loss) -> usize) {
        let fits = |this: &Self| this.queue.iter().map(&size).sum::<usize>() <= room;
        if fits(self) {
            return;
        }
        let rest = self.queue.split_off(self.handed);
        self.join(rest, |loss| (loss.device.clone(), loss.epoch, loss.reason));
        // The older half; where that is one for each reason already, all of them.
        let mut part = 2;
        while part > 0 && !fits(self) {
            let mut older = self.queue.split_off(self.handed);
            let before = older.len();
            let newer = older.split_off(before.div_ceil(part));
            self.join(older, |loss| (None, 0, loss.reason));
            self.queue.extend(newer);
            if self.queue.len() - self.handed >= before {
                part -= 1;
            }
        }
    }

    fn join(&mut self, losses: VecDeque<Loss>, key: impl Fn(&Loss) -> Key) {
        let mut places: HashMap<Key, usize> = HashMap::new();
        for loss in losses {
            let place = *places.entry(key(&loss)).or_insert(self.queue.len());
            match self.queue.get_mut(place) {
                Some(joined) => {
                    joined.absorb(&loss);
                    if joined.device.is_none() {
                        joined.detail = Some(JOINED.into());
                    }
                }
                None => self.queue.push_back(loss),
            }
        }
    }

    /// Hands out records for publication, so that at most `window` are under way.
    pub(super) fn hand_out(&mut self, window: usize) -> Vec<(Number, Loss)> {
        let from = self.handed;
        self.handed = self.queue.len().min(window.max(from));
        let new = self.queue.range(from..self.handed).cloned();
        (self.done + 1 + from as u64..).zip(new).collect()
    }

    /// Everything up to and including `through` is acknowledged. Whether that is new.
    pub(super) fn published(&mut self, through: Number) -> bool {
        let count = usize::try_from(through.saturating_sub(self.done)).unwrap_or(usize::MAX);
        let count = count.min(self.handed);
        self.queue.drain(..count);
        self.handed -= count;
        self.done += count as u64;
        count > 0
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Loss> {
        self.queue.iter()
    }

    /// How many.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

type Key = (Option<DeviceId>, u64, LossReason);

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(device: &str, first: u64, last: u64) -> Loss {
        Loss {
            device: DeviceId::new(device).ok(),
            epoch: 7,
            first_seq: Some(first),
            last_seq: Some(last),
            batches: last - first + 1,
            readings: 3 * (last - first + 1),
            received: Some((first as f64, last as f64)),
            reason: LossReason::EvictedSize,
            time: last as f64,
            detail: None,
        }
    }

    fn ranges(queue: &Unpublished) -> Vec<(String, Option<u64>, Option<u64>)> {
        let device = |loss: &Loss| loss.device.as_ref().map_or(String::new(), ToString::to_string);
        queue.iter().map(|loss| (device(loss), loss.first_seq, loss.last_seq)).collect()
    }

    fn readings(queue: &Unpublished) -> u64 {
        queue.iter().map(|loss| loss.readings).sum()
    }

    #[test]
    fn what_follows_on_is_joined_and_a_gap_is_kept() {
        let mut queue = Unpublished::default();
        queue.add([loss("a", 1, 3), loss("b", 1, 1), loss("a", 4, 9), loss("a", 11, 12)]);
        let expected = [("a", 1, 9), ("b", 1, 1), ("a", 11, 12)];
        assert_eq!(ranges(&queue), expected.map(|(d, f, l)| (d.into(), Some(f), Some(l))));
        assert_eq!(queue.iter().next().unwrap().received, Some((1.0, 9.0)));
    }

    #[test]
    fn what_is_handed_out_does_not_change_any_more() {
        let mut queue = Unpublished::default();
        queue.add([loss("a", 1, 3)]);
        assert_eq!(queue.hand_out(2), [(1, loss("a", 1, 3))]);
        queue.add([loss("a", 4, 5), loss("a", 6, 6), loss("b", 1, 1)]);
        assert_eq!(queue.hand_out(2), [(2, loss("a", 4, 6))], "the window is two");
        assert_eq!(queue.hand_out(2), []);
        assert!(queue.published(1));
        assert!(!queue.published(1), "told twice");
        assert_eq!(queue.hand_out(2), [(3, loss("b", 1, 1))]);
        assert!(queue.published(u64::MAX));
        assert_eq!(queue.len(), 0);
        queue.add([loss("c", 1, 1)]);
        assert_eq!(queue.hand_out(2), [(4, loss("c", 1, 1))]);
    }

    #[test]
    fn it_stays_within_its_room_and_every_reading_stays_counted() {
        let mut queue = Unpublished::default();
        let size = |_: &Loss| 1;
        let mut total = 0;
        for round in 0..50 {
            for device in 0..8 {
                // Every second number is lost: nothing follows on.
                let loss = loss(&format!("d{device}"), 2 * round + 1, 2 * round + 1);
                total += loss.readings;
                queue.add([loss]);
            }
            queue.bound(20, size);
            assert!(queue.len() <= 20);
        }
        assert_eq!(readings(&queue), total);
        assert!(queue.iter().all(|loss| loss.device.is_some()), "eight devices fit into 20");
        for device in 0..1000 {
            queue.add([loss(&format!("e{device}"), 1, 1)]);
            total += 3;
            queue.bound(20, size);
            assert!(queue.len() <= 20);
        }
        assert_eq!(readings(&queue), total);
        let nameless: Vec<_> = queue.iter().filter(|loss| loss.device.is_none()).collect();
        assert_eq!(nameless.len(), 1);
        assert_eq!(nameless[0].detail.as_deref(), Some(JOINED));
        assert!(queue.iter().any(|loss| loss.device.is_some()), "the newest keep their names");
        queue.hand_out(5);
        queue.bound(1, size);
        assert_eq!((queue.len(), readings(&queue)), (6, total), "five are out, the rest is one");
    }
}
