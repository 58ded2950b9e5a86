//! Losses on their way to the log and to the broker.
//!
//! A full spool evicts again and again while the broker is away, hundreds of devices at a time. One
//! line each in the log, and one message each for the broker, would bury the one and overflow the
//! queue to the other. So losses are gathered: the log gets one line for a burst, and what the
//! broker is told of a device is one range for as long as the ranges join.

use std::collections::{HashMap, HashSet, VecDeque};

use super::batch::{Loss, LossReason};
use super::ids::DeviceId;

/// Seconds for which a burst is gathered.
const GATHER: f64 = 1.0;
/// Seconds between two lines in the log about the same reason.
const QUIET: f64 = 10.0;
/// Records kept for the broker. What is lost beyond is one record more for each reason, without a
/// device and a range.
const MAX_RECORDS: usize = 10_000;

type Key = (Option<DeviceId>, u64, LossReason);

/// See the module's documentation. Times called `now` are seconds since any fixed moment.
#[derive(Debug, Default)]
pub struct Losses {
    records: VecDeque<(f64, Loss)>,
    /// The number of the first of `records`.
    first: u64,
    /// The number of each key's newest record.
    newest: HashMap<Key, u64>,
    bursts: Vec<Gathered>,
}

/// Losses that one line in the log tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Burst {
    /// Why.
    pub reason: LossReason,
    /// How many readings.
    pub readings: u64,
    /// Of how many devices.
    pub devices: usize,
    /// The first of them.
    pub example: Loss,
}

#[derive(Debug)]
struct Gathered {
    reason: LossReason,
    due: f64,
    logged: f64,
    readings: u64,
    devices: HashSet<DeviceId>,
    example: Option<Loss>,
}

impl Losses {
    /// Takes in one loss.
    pub fn add(&mut self, loss: Loss, now: f64) {
        self.gather(&loss, now);
        let mut key = (loss.device.clone(), loss.epoch, loss.reason);
        if self.join(&key, &loss) {
            return;
        }
        let mut record = loss;
        if self.records.len() >= MAX_RECORDS {
            record = Loss {
                device: None,
                epoch: 0,
                first_seq: None,
                last_seq: None,
                detail: Some("too many to list".into()),
                ..record
            };
            key = (None, 0, record.reason);
            if self.join(&key, &record) {
                return;
            }
        }
        self.newest.insert(key, self.first + self.records.len() as u64);
        self.records.push_back((now + GATHER, record));
    }

    /// The next line for the log that is due.
    pub fn to_log(&mut self, now: f64) -> Option<Burst> {
        let burst =
            self.bursts.iter_mut().find(|burst| burst.due <= now && burst.example.is_some())?;
        let example = burst.example.take()?;
        burst.logged = now;
        Some(Burst {
            reason: burst.reason,
            readings: std::mem::take(&mut burst.readings),
            devices: std::mem::take(&mut burst.devices).len(),
            example,
        })
    }

    /// Whether [`Self::to_publish`] has something.
    #[must_use]
    pub fn has_to_publish(&self, now: f64) -> bool {
        self.records.front().is_some_and(|(due, _)| *due <= now)
    }

    /// The next record for the broker that has been gathered for long enough.
    pub fn to_publish(&mut self, now: f64) -> Option<Loss> {
        if !self.has_to_publish(now) {
            return None;
        }
        let (_, loss) = self.records.pop_front()?;
        let key = (loss.device.clone(), loss.epoch, loss.reason);
        if self.newest.get(&key) == Some(&self.first) {
            self.newest.remove(&key);
        }
        self.first += 1;
        Some(loss)
    }

    fn gather(&mut self, loss: &Loss, now: f64) {
        let known = self.bursts.iter().position(|burst| burst.reason == loss.reason);
        let index = known.unwrap_or_else(|| {
            self.bursts.push(Gathered {
                reason: loss.reason,
                due: 0.0,
                logged: f64::NEG_INFINITY,
                readings: 0,
                devices: HashSet::new(),
                example: None,
            });
            self.bursts.len() - 1
        });
        let Some(burst) = self.bursts.get_mut(index) else { return };
        if burst.example.is_none() {
            burst.due = (now + GATHER).max(burst.logged + QUIET);
            burst.example = Some(loss.clone());
        }
        burst.readings += loss.readings;
        if burst.devices.len() < MAX_RECORDS {
            burst.devices.extend(loss.device.clone());
        }
    }

    /// Adds `loss` to the newest record of `key`, where it goes on from that.
    fn join(&mut self, key: &Key, loss: &Loss) -> bool {
        let Some(number) = self.newest.get(key) else { return false };
        let index = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let Some((_, record)) = self.records.get_mut(index) else { return false };
        let joins = match (record.last_seq, loss.first_seq) {
            (Some(last), Some(first)) => last.checked_add(1) == Some(first),
            (None, None) => record.first_seq.is_none() && loss.last_seq.is_none(),
            _ => false,
        };
        if !joins || record.detail != loss.detail {
            return false;
        }
        record.last_seq = loss.last_seq;
        record.readings += loss.readings;
        record.time = loss.time;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(device: &str, seqs: Option<(u64, u64)>, readings: u64) -> Loss {
        Loss {
            device: Some(DeviceId::new(device).unwrap()),
            epoch: 7,
            first_seq: seqs.map(|(first, _)| first),
            last_seq: seqs.map(|(_, last)| last),
            readings,
            reason: LossReason::EvictedSize,
            time: 0.0,
            detail: None,
        }
    }

    fn published(losses: &mut Losses, now: f64) -> Vec<Loss> {
        std::iter::from_fn(|| losses.to_publish(now)).collect()
    }

    #[test]
    fn ranges_that_join_are_one_record_and_others_are_not() {
        let mut losses = Losses::default();
        losses.add(loss("a", Some((1, 50)), 50), 0.0);
        losses.add(loss("b", Some((1, 9)), 9), 0.0);
        losses.add(loss("a", Some((51, 60)), 10), 100.0);
        losses.add(loss("a", Some((71, 80)), 10), 100.0);
        losses.add(loss("a", Some((81, 90)), 10), 100.0);
        let expected = [
            loss("a", Some((1, 60)), 60),
            loss("b", Some((1, 9)), 9),
            loss("a", Some((71, 90)), 20),
        ];
        assert_eq!(published(&mut losses, 200.0), expected);
        losses.add(loss("a", Some((91, 92)), 2), 300.0);
        assert_eq!(published(&mut losses, 400.0), [loss("a", Some((91, 92)), 2)], "not twice");
    }

    #[test]
    fn batches_without_a_number_are_one_record_of_their_own() {
        let mut losses = Losses::default();
        losses.add(loss("a", Some((1, 5)), 5), 0.0);
        losses.add(loss("a", None, 3), 0.0);
        losses.add(loss("a", None, 4), 0.0);
        let expected = [loss("a", Some((1, 5)), 5), loss("a", None, 7)];
        assert_eq!(published(&mut losses, 1.0), expected);
    }

    #[test]
    fn different_reasons_epochs_and_words_of_the_broker_are_kept_apart() {
        let mut losses = Losses::default();
        losses.add(loss("a", Some((1, 1)), 1), 0.0);
        losses.add(Loss { reason: LossReason::EvictedAge, ..loss("a", Some((2, 2)), 1) }, 0.0);
        losses.add(Loss { epoch: 8, ..loss("a", Some((2, 2)), 1) }, 0.0);
        losses.add(Loss { detail: Some("x".into()), ..loss("a", Some((2, 2)), 1) }, 0.0);
        assert_eq!(published(&mut losses, 1.0).len(), 4);
    }

    #[test]
    fn a_burst_is_gathered_for_a_second_and_is_one_line() {
        let mut losses = Losses::default();
        for n in 1..=200 {
            losses.add(loss(&format!("d{}", n % 20), Some((n, n)), 2), 5.0);
        }
        assert_eq!(losses.to_log(5.5), None);
        assert_eq!(losses.to_publish(5.5), None);
        let line = losses.to_log(6.0).unwrap();
        assert_eq!((line.readings, line.devices), (400, 20));
        assert_eq!(losses.to_log(6.0), None);
        losses.add(loss("a", Some((1, 1)), 1), 7.0);
        losses.add(loss("a", Some((2, 2)), 1), 15.0);
        assert_eq!(losses.to_log(15.9), None, "not a line each second");
        assert_eq!(losses.to_log(16.0).unwrap().readings, 2);
    }

    #[test]
    fn memory_is_bounded_and_no_reading_goes_uncounted() {
        let mut losses = Losses::default();
        for n in 0..50_000 {
            losses.add(loss("a", Some((2 * n, 2 * n)), 1), 0.0);
        }
        let all = published(&mut losses, 1.0);
        assert_eq!(all.len(), MAX_RECORDS + 1);
        assert_eq!(all.iter().map(|loss| loss.readings).sum::<u64>(), 50_000);
        assert_eq!(all[MAX_RECORDS].device, None);
        assert!(losses.newest.is_empty());
    }
}
