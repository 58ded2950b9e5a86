//! The gateway's state as `/api/v1/status` and the feed show it.

use serde::Serialize;

use crate::ports::{SpoolHealth, UplinkHealth, UplinkState};

/// How long the past counts in the spool's flow, in seconds: after this a change of the rate has
/// gone in by about two thirds.
const MEMORY_S: f64 = 10.0;

/// The flow is not told before it has been watched for this long, in seconds.
const WATCH_S: f64 = 3.0;

/// Batches per second below which the spool counts as neither filling nor draining.
const STILL: f64 = 0.01;

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub(super) gateway: &'a str,
    pub(super) version: &'a str,
    pub(super) uptime_s: f64,
    pub(super) uplink: Uplink,
    pub(super) spool: Spool,
    pub(super) devices: Devices,
}

/// The document as a message of the feed.
#[derive(Debug, Serialize)]
pub(super) struct StatusMessage<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) time: f64,
    #[serde(flatten)]
    pub(super) status: Status<'a>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Uplink {
    state: &'static str,
    since: f64,
    last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Spool {
    pub(super) batches: u64,
    readings: u64,
    bytes: u64,
    max_bytes: u64,
    oldest_age_s: Option<f64>,
    lost_readings: u64,
    full_in_s: Option<f64>,
    drained_in_s: Option<f64>,
    /// Why it cannot be written; only while it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Devices {
    pub(super) connected: usize,
    pub(super) known: usize,
}

impl Uplink {
    pub(super) fn new(health: UplinkHealth) -> Self {
        let state = match health.state {
            UplinkState::Connected => "connected",
            UplinkState::Connecting => "connecting",
            UplinkState::Disconnected => "disconnected",
        };
        Self { state, since: health.since, last_error: health.last_error }
    }
}

impl Spool {
    /// `now` is Unix time in seconds, `per_second` how fast the number of batches grows.
    pub(super) fn new(health: SpoolHealth, now: f64, per_second: Option<f64>) -> Self {
        let batches = health.batches as f64;
        let full_in_s = per_second.filter(|rate| *rate > STILL && health.batches > 0).map(|rate| {
            let bytes_per_batch = health.bytes as f64 / batches;
            health.max_bytes.saturating_sub(health.bytes) as f64 / (rate * bytes_per_batch)
        });
        let drained_in_s = per_second
            .filter(|rate| *rate < -STILL && health.batches > 0)
            .map(|rate| batches / -rate);
        Self {
            batches: health.batches,
            readings: health.readings,
            bytes: health.bytes,
            max_bytes: health.max_bytes,
            oldest_age_s: health.oldest.map(|oldest| (now - oldest).max(0.0)),
            lost_readings: health.lost_readings,
            full_in_s: full_in_s.filter(|seconds| seconds.is_finite() && health.max_bytes > 0),
            drained_in_s,
            fault: health.fault,
        }
    }
}

/// How fast the spool fills (or, below zero, drains), smoothed.
#[derive(Debug, Default)]
pub(super) struct Flow {
    last: Option<(f64, u64)>,
    rate: f64,
    watched_s: f64,
}

impl Flow {
    /// Notes that the spool held `batches` at `time`, in seconds of a clock that never steps.
    pub(super) fn sample(&mut self, time: f64, batches: u64) {
        let Some((then, before)) = self.last.replace((time, batches)) else { return };
        let elapsed = time - then;
        if batches == 0 || elapsed <= 0.0 {
            *self = Self { last: self.last, ..Self::default() };
            return;
        }
        let rate = (batches as f64 - before as f64) / elapsed;
        // At first the plain mean, so that the beginning does not count as a rate of zero.
        self.watched_s += elapsed;
        let share = (elapsed / self.watched_s).max(1.0 - (-elapsed / MEMORY_S).exp());
        self.rate += (rate - self.rate) * share;
    }

    /// Batches per second; none while the spool is empty or has not been watched for long.
    pub(super) fn per_second(&self) -> Option<f64> {
        (self.watched_s >= WATCH_S).then_some(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|value| (value - expected).abs() < 0.02 * expected.abs())
    }

    fn filled(batches: u64) -> SpoolHealth {
        SpoolHealth { batches, bytes: batches * 100, max_bytes: 100_000, ..SpoolHealth::default() }
    }

    #[test]
    fn a_filling_spool_says_when_it_is_full_and_a_draining_one_when_it_is_empty() {
        let mut flow = Flow::default();
        for second in 0..60_u32 {
            flow.sample(f64::from(second), u64::from(10 * second));
        }
        assert!(near(flow.per_second(), 10.0));
        let spool = Spool::new(filled(590), 0.0, flow.per_second());
        assert!(near(spool.full_in_s, 41.0), "{spool:?}");
        assert_eq!(spool.drained_in_s, None);
        for second in 0..60_u32 {
            flow.sample(f64::from(60 + second), u64::from(590 - 5 * second));
        }
        let spool = Spool::new(filled(295), 0.0, flow.per_second());
        assert!(near(spool.drained_in_s, 59.0), "{spool:?}");
        assert_eq!(spool.full_in_s, None);
    }

    #[test]
    fn an_empty_or_still_or_new_spool_says_neither() {
        let mut flow = Flow::default();
        flow.sample(0.0, 0);
        flow.sample(1.0, 100);
        assert_eq!(flow.per_second(), None, "one second says too little");
        for second in 2..200_u32 {
            flow.sample(f64::from(second), 100);
        }
        let still = Spool::new(filled(100), 0.0, flow.per_second());
        assert_eq!((still.full_in_s, still.drained_in_s), (None, None));
        flow.sample(200.0, 0);
        assert_eq!(flow.per_second(), None);
    }

    #[test]
    fn an_oldest_batch_from_the_future_has_age_zero() {
        let health = SpoolHealth { oldest: Some(20.0), ..filled(1) };
        assert_eq!(Spool::new(health.clone(), 10.0, None).oldest_age_s, Some(0.0));
        assert_eq!(Spool::new(health, 25.0, None).oldest_age_s, Some(5.0));
    }
}
