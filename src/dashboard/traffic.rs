//! What a device has sent since the gateway's start, in numbers, and how often it sends.

use crate::core::batch::Batch;

/// Of the difference between a time and the mean, what the mean takes over of a longer time.
const GROWTH: f64 = 1.0 / 4.0;
/// The same of a shorter one: a burst now and then does not make a device that sends each minute
/// look as if it sent all the time.
const DECAY: f64 = 1.0 / 16.0;
/// The mean may double with one time, or reach so many seconds: one long pause says little.
const STEP_MAX: f64 = 1.0;

/// Counters of one device.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Of the run of numbers that the device is in, or was in last.
    pub(super) epoch: Option<u64>,
    /// The highest number of that run that was taken.
    pub(super) seq: Option<u64>,
    pub(super) batches: u64,
    pub(super) readings: u64,
    pub(super) gaps: u64,
    pub(super) duplicates: u64,
    pub(super) rejected: u64,
    /// Seconds from the last ping that was answered to its pong.
    pub(super) round_trip: Option<f32>,
    /// Mean time between two batches, in seconds.
    interval: Option<f64>,
    /// When the last batch of this connection was received: Unix time in seconds.
    last: Option<f64>,
}

impl Traffic {
    /// A connection begins: what lies before it says nothing of how often the device sends.
    pub(super) fn begin(&mut self) {
        self.last = None;
        self.round_trip = None;
    }

    /// The device was told that of the run `epoch` everything up to `acked` is settled.
    pub(super) fn open(&mut self, epoch: u64, acked: u64) {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.seq = None;
        }
        self.reach((acked > 0).then_some(acked));
    }

    /// A batch was taken.
    pub(super) fn take(&mut self, batch: &Batch) {
        self.batches += 1;
        self.readings += batch.readings.len() as u64;
        // A connection that was replaced may still bring something of another run.
        if *self.epoch.get_or_insert(batch.epoch) == batch.epoch {
            self.reach(batch.seq);
        }
        self.arrived(batch.received);
    }

    /// Seconds between two batches, usually. Batches that came in one go count as one.
    pub(super) fn interval(&self) -> Option<f64> {
        self.interval.map(|seconds| (seconds * 1e6).round() / 1e6)
    }

    /// Seconds of the last round trip.
    pub(super) fn round_trip(&self) -> Option<f64> {
        self.round_trip.map(|seconds| (f64::from(seconds) * 1e6).round() / 1e6)
    }

    fn reach(&mut self, seq: Option<u64>) {
        self.seq = self.seq.max(seq);
    }

    fn arrived(&mut self, now: f64) {
        let Some(last) = self.last.replace(now) else { return };
        let passed = now - last;
        // Not later: of the same go, or the clock was set.
        if passed <= 0.0 {
            return;
        }
        self.interval = Some(self.interval.map_or(passed, |mean| {
            let share = if passed > mean { GROWTH } else { DECAY };
            (mean + share * (passed - mean)).min((2.0 * mean).max(STEP_MAX))
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean after batches at these times, each following on the one before.
    fn mean(pauses: impl IntoIterator<Item = f64>) -> f64 {
        let mut traffic = Traffic::default();
        let mut now = 1_763_800_000.0;
        traffic.arrived(now);
        for pause in pauses {
            now += pause;
            traffic.arrived(now);
        }
        traffic.interval.unwrap()
    }

    #[test]
    fn a_steady_device_has_its_own_interval() {
        for interval in [0.01, 1.0, 600.0] {
            let mean = mean([interval; 50]);
            assert!((mean / interval - 1.0).abs() < 1e-3, "{mean} of {interval}");
        }
        assert_eq!(Traffic::default().interval(), None);
    }

    #[test]
    fn bursts_do_not_hide_the_pauses_between_them() {
        let rounds = [0.0, 0.001, 0.001, 0.002, 10.0];
        let mean = mean(rounds.into_iter().cycle().take(500));
        assert!((2.5..=10.0).contains(&mean), "four times {mean} is more than the pause");
    }

    #[test]
    fn a_device_that_changes_its_pace_is_followed_and_one_long_pause_is_not() {
        let slower = mean([1.0; 20].into_iter().chain([60.0; 20]));
        assert!((40.0..61.0).contains(&slower), "{slower}");
        let faster = mean([60.0; 20].into_iter().chain([1.0; 150]));
        assert!((1.0..2.0).contains(&faster), "{faster}");
        let paused = mean([1.0; 20].into_iter().chain([3600.0]));
        assert!(paused <= 2.0 + 1e-9, "{paused}");
    }

    #[test]
    fn a_clock_that_is_set_back_and_a_new_connection_begin_anew() {
        let mut traffic = Traffic::default();
        for now in [100.0, 101.0, 50.0, 51.0] {
            traffic.arrived(now);
        }
        assert_eq!(traffic.interval(), Some(1.0));
        traffic.begin();
        traffic.arrived(1000.0);
        assert_eq!(traffic.interval(), Some(1.0), "the time away is no interval");
    }

    #[test]
    fn numbers_belong_to_their_run() {
        let mut traffic = Traffic::default();
        traffic.open(7, 0);
        assert_eq!((traffic.epoch, traffic.seq), (Some(7), None));
        traffic.reach(Some(5));
        traffic.open(7, 3);
        assert_eq!(traffic.seq, Some(5), "resumed: what was taken is not yet settled");
        traffic.open(8, 2);
        assert_eq!((traffic.epoch, traffic.seq), (Some(8), Some(2)));
    }
}
