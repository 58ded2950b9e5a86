//! What becomes of losses once they are known: one line in the log for many of them, and records
//! that are published one after the other until the broker has them.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::batch::{Loss, LossReason};
use super::ids::DeviceId;

/// How long a burst gathers before it is logged, in seconds.
const GATHER: f64 = 1.0;
/// Between two bursts that are logged, in seconds: a spool that is full through a long outage evicts
/// again and again.
const QUIET: f64 = 10.0;

/// Losses that are logged together: a line for each reason, at most every ten seconds. Time is that of any
/// clock that does not go back, in seconds.
#[derive(Debug, Default)]
pub struct Burst {
    since: Option<f64>,
    logged: Option<f64>,
    sums: BTreeMap<LossReason, Sum>,
}

/// What a line of the log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sum {
    /// Batches.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// Whose they were, as far as is known.
    pub devices: HashSet<DeviceId>,
    /// When the oldest and the newest were received, as far as is known.
    pub received: Option<(f64, f64)>,
    /// What there was to say of the first.
    pub detail: Option<String>,
}

impl Burst {
    /// Counts `loss`.
    pub fn add(&mut self, loss: &Loss, now: f64) {
        self.since.get_or_insert(now);
        let sum = self.sums.entry(loss.reason).or_default();
        sum.batches = sum.batches.saturating_add(loss.batches);
        sum.readings = sum.readings.saturating_add(loss.readings);
        sum.devices.extend(loss.device.clone());
        sum.received = match (sum.received, loss.received) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (a, b) => a.or(b),
        };
        if sum.detail.is_none() {
            sum.detail.clone_from(&loss.detail);
        }
    }

    /// The burst, once it has gathered for a second, or longer where one was logged lately.
    pub fn due(&mut self, now: f64) -> Option<BTreeMap<LossReason, Sum>> {
        let quiet = self.logged.is_some_and(|logged| now < logged + QUIET);
        let due = self.since.is_some_and(|since| now >= since + GATHER) && !quiet;
        due.then(|| {
            self.logged = Some(now);
            self.take()
        })
    }

    /// The burst as far as it has come; nothing where there was no loss.
    pub fn take(&mut self) -> BTreeMap<LossReason, Sum> {
        self.since = None;
        std::mem::take(&mut self.sums)
    }
}

/// Records on their way to the broker, in order. They have numbers, which grow by one.
#[derive(Debug, Default)]
pub struct Reports {
    queue: VecDeque<Report>,
    /// How many at the front have been sent on this connection.
    sent: usize,
}

#[derive(Debug)]
struct Report {
    number: u64,
    loss: Loss,
    acknowledged: bool,
}

impl Reports {
    /// Adds the record `number`.
    pub fn push(&mut self, number: u64, loss: Loss) {
        self.queue.push_back(Report { number, loss, acknowledged: false });
    }

    /// The next record to send. None while there is nothing new to send.
    pub fn send_next(&mut self) -> Option<(u64, &Loss)> {
        // Some may have been acknowledged on an earlier connection, behind one that was not.
        while self.queue.get(self.sent)?.acknowledged {
            self.sent += 1;
        }
        let report = self.queue.get(self.sent)?;
        self.sent += 1;
        Some((report.number, &report.loss))
    }

    /// The connection is gone: what is not acknowledged is sent again on the next one.
    pub fn disconnected(&mut self) {
        self.sent = 0;
    }

    /// The broker has record `number`. Returns the number up to which it has them all, where that
    /// has changed.
    pub fn acknowledged(&mut self, number: u64) -> Option<u64> {
        let report = self.queue.iter_mut().find(|report| report.number == number)?;
        report.acknowledged = true;
        let mut through = None;
        while let Some(report) = self.queue.front().filter(|report| report.acknowledged) {
            through = Some(report.number);
            self.queue.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        through
    }

    /// Whether nothing is waiting for the broker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(device: &str, reason: LossReason, batches: u64) -> Loss {
        Loss {
            device: DeviceId::new(device).ok(),
            epoch: 1,
            first_seq: Some(1),
            last_seq: Some(batches),
            batches,
            readings: 10 * batches,
            received: Some((100.0 - batches as f64, 100.0 + batches as f64)),
            reason,
            time: 200.0,
            detail: None,
        }
    }

    #[test]
    fn a_burst_is_one_sum_for_each_reason_after_a_second() {
        let mut burst = Burst::default();
        assert_eq!(burst.due(1000.0), None);
        burst.add(&loss("a", LossReason::EvictedSize, 3), 5.0);
        burst.add(&loss("b", LossReason::EvictedSize, 4), 5.5);
        burst.add(&loss("a", LossReason::EvictedSize, 1), 5.7);
        burst.add(&loss("", LossReason::Corrupt, 2), 5.8);
        assert_eq!(burst.due(5.9), None);
        let sums = burst.due(6.0).unwrap();
        let size = &sums[&LossReason::EvictedSize];
        assert_eq!((size.batches, size.readings, size.devices.len()), (8, 80, 2));
        assert_eq!(size.received, Some((96.0, 104.0)));
        let corrupt = &sums[&LossReason::Corrupt];
        assert_eq!((corrupt.batches, corrupt.devices.len()), (2, 0));
        assert_eq!(burst.due(8.0), None, "told once");
        burst.add(&loss("a", LossReason::Corrupt, 1), 8.0);
        burst.add(&loss("a", LossReason::Corrupt, 1), 15.0);
        assert_eq!(burst.due(15.9), None, "the next line waits");
        assert_eq!(burst.due(16.0).unwrap()[&LossReason::Corrupt].batches, 2);
    }

    #[test]
    fn records_are_sent_in_order_and_again_after_a_lost_connection() {
        let mut reports = Reports::default();
        let sent = |reports: &mut Reports| {
            std::iter::from_fn(|| reports.send_next().map(|(number, _)| number)).collect::<Vec<_>>()
        };
        assert!(sent(&mut reports).is_empty());
        for number in 1..=4 {
            reports.push(number, loss("a", LossReason::Refused, number));
        }
        assert_eq!(sent(&mut reports), [1, 2, 3, 4]);
        assert!(sent(&mut reports).is_empty());
        assert_eq!(reports.acknowledged(1), Some(1));
        assert_eq!(reports.acknowledged(3), None, "2 is still under way");
        reports.push(5, loss("a", LossReason::Refused, 5));
        assert_eq!(sent(&mut reports), [5]);
        reports.disconnected();
        assert_eq!(sent(&mut reports), [2, 4, 5], "3 has arrived");
        assert_eq!(reports.acknowledged(2), Some(3));
        assert_eq!(reports.acknowledged(2), None, "told twice");
        assert_eq!(reports.acknowledged(5), None);
        assert_eq!(reports.acknowledged(4), Some(5));
        assert!(reports.is_empty());
    }
}
