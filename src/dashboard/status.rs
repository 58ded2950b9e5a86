//! The gateway's state as `/api/v1/status` and the feed show it.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::rates::PerSecond;
use crate::core::forecast::{Flow, Forecast, Level};
use crate::host::wear::Written;
use crate::metrics::Metrics;
use crate::ports::{
    LedgerHealth, PushHealth, PushState, SpoolHealth, UplinkHealth, UplinkState, lock,
};

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub(super) gateway: &'a str,
    pub(super) version: &'a str,
    pub(super) uptime_s: f64,
    pub(super) uplink: Uplink,
    pub(super) spool: Spool,
    pub(super) devices: Devices,
    /// Readings per second.
    pub(super) rates: PerSecond,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// Only while there is something to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commands: Option<Commands>,
    /// Only where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) push: Vec<Push<'a>>,
}

/// One `[[push]]`.
#[derive(Debug, Serialize)]
pub(super) struct Push<'a> {
    name: &'a str,
    url: &'a str,
    state: &'static str,
    queued_readings: u64,
    sent_readings: u64,
    dropped_readings: u64,
    last_error: Option<String>,
}

impl<'a> Push<'a> {
    pub(super) fn new(health: &'a PushHealth) -> Self {
        let PushState { retrying, last_error } = lock(&health.state).clone();
        Self {
            name: &health.name,
            url: &health.url,
            state: if retrying { "retrying" } else { "ok" },
            queued_readings: health.queued.load(Ordering::Relaxed),
            sent_readings: health.sent.load(Ordering::Relaxed),
            dropped_readings: health.dropped.load(Ordering::Relaxed),
            last_error,
        }
    }
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
    lasts_s: Option<f64>,
    disk_written_bytes: Option<u64>,
    disk_written_today_bytes: Option<u64>,
    /// Why it cannot be written; only while it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Devices {
    pub(super) connected: usize,
    pub(super) known: usize,
}

/// What was not as it should be with what devices sent, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    rejected_batches: u64,
    sequence_gaps: u64,
    duplicates: u64,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            rejected_batches: metrics.batches_rejected_in_all(),
            sequence_gaps: metrics.sequence_gaps.get(),
            duplicates: metrics.duplicates.get(),
        }
    }
}

/// What is the matter with the ledger of commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Commands {
    /// Why it cannot be written; only while it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// Damaged databases of it that were found since the start.
    damaged: u64,
}

impl Commands {
    pub(super) fn new(health: LedgerHealth) -> Option<Self> {
        let LedgerHealth { fault, damaged, .. } = health;
        (fault.is_some() || damaged > 0).then_some(Self { fault, damaged })
    }
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
    /// `now` is Unix time in seconds.
    pub(super) fn new(
        health: SpoolHealth,
        now: f64,
        flow: &Flow,
        written: Option<Written>,
    ) -> Self {
        let told = forecast(&health, now, flow);
        // Fractions of a second are no news.
        let seconds = |seconds: Option<f64>| seconds.map(|s| (s * 10.0).round() / 10.0);
        Self {
            batches: health.batches,
            readings: health.readings,
            bytes: health.bytes,
            max_bytes: health.max_bytes,
            oldest_age_s: age(&health, now),
            lost_readings: health.lost_readings,
            full_in_s: seconds(told.full_in),
            drained_in_s: seconds(told.drained_in),
            lasts_s: seconds(told.lasts),
            disk_written_bytes: written.map(|written| written.since_start),
            disk_written_today_bytes: written.map(|written| written.today),
            fault: health.fault,
        }
    }
}

/// What will become of the spool; `now` is Unix time in seconds.
pub(super) fn forecast(health: &SpoolHealth, now: f64, flow: &Flow) -> Forecast {
    flow.forecast(&Level {
        readings: health.readings,
        bytes: health.bytes,
        max_bytes: health.max_bytes,
        room: health.room,
        max_age: health.max_age,
        oldest_age: age(health, now),
        full: health.full,
    })
}

/// The age of the oldest batch in seconds.
fn age(health: &SpoolHealth, now: f64) -> Option<f64> {
    health.oldest.map(|oldest| (now - oldest).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oldest_batch_from_the_future_has_age_zero() {
        let health = SpoolHealth { batches: 1, oldest: Some(20.0), ..SpoolHealth::default() };
        let age = |now| Spool::new(health.clone(), now, &Flow::default(), None).oldest_age_s;
        assert_eq!(age(10.0), Some(0.0));
        assert_eq!(age(25.0), Some(5.0));
    }

    #[test]
    fn what_is_not_known_is_null() {
        let spool = Spool::new(SpoolHealth::default(), 0.0, &Flow::default(), None);
        let json = serde_json::to_value(spool).unwrap();
        let unknown = [
            "full_in_s",
            "drained_in_s",
            "lasts_s",
            "oldest_age_s",
            "disk_written_bytes",
            "disk_written_today_bytes",
        ];
        for key in unknown {
            assert!(json[key].is_null(), "{key} of {json}");
        }
        let written = Some(Written { since_start: 5, today: 7 });
        let spool = Spool::new(SpoolHealth::default(), 0.0, &Flow::default(), written);
        assert_eq!((spool.disk_written_bytes, spool.disk_written_today_bytes), (Some(5), Some(7)));
    }
}
