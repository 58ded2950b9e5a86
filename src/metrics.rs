//! Every counter of the gateway in one place, all with the prefix `tidegate_`. The rooms count here
//! as things happen; `/metrics` of the dashboard shows it, as `OpenMetrics` 1.0 or Prometheus 0.0.4
//! text. What each means to an operator is in `docs/configuration.md`.
//!
//! Names and labels are part of what the outside relies on: dashboards and alerts are written
//! against them. Labels are from closed sets, so that the number of series is bounded, and all
//! series of a set are there from the start. Counters begin at 0 with the process. Gauges of the
//! spool and the uplink are copied from [`crate::ports::Health`] when the text is asked for.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::core::batch::LossReason;

/// A label `reason`, `code`, `path` or `state` with a value from a closed set.
macro_rules! label {
    ($name:ident, $field:ident) => {
        /// The label of the family it stands in.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            /// From a closed set, so that the number of series is bounded.
            pub $field: &'static str,
        }
    };
}

label!(Reason, reason);
label!(Code, code);
label!(Path, path);
label!(State, state);
label!(Outcome, outcome);

/// The label `push`: a name from the configuration, of which there are eight at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Push {
    /// `push.name`
    pub push: String,
}

/// [`Push`] and why readings were given up, from [`PUSH_DROPS`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PushDrop {
    /// `push.name`
    pub push: String,
    /// From a closed set.
    pub reason: &'static str,
}

/// Why a push may give readings up: its buffer was full, the server will never take them, the gateway
/// was stopped.
pub const PUSH_DROPS: [&str; 3] = ["overflow", "refused", "stopped"];

/// What a sign-in to the dashboard may come to.
pub const LOGINS: [&str; 4] = ["ok", "wrong", "slowed", "busy"];

/// Why a connection may be refused before the upgrade.
pub const REFUSALS: [&str; 16] = [
    "bad-handshake",
    "unauthorized",
    "origin",
    "path",
    "method",
    "plain-http",
    "version",
    "address-limit",
    "address-rate",
    "device-limit",
    "full",
    "busy",
    "stopping",
    "proxy",
    "timeout",
    "tls",
];

/// The codes of REJECT: see [`crate::core::senml::RejectCode`].
const REJECT_CODES: [&str; 5] = ["1", "2", "3", "4", "5"];

/// Why a message on a command topic may not be taken as a request.
pub const REQUESTS_IGNORED: [&str; 4] = ["retained", "too-large", "overflow", "foreign-topic"];

/// Why a reading is in no history.
pub const HISTORY_REFUSALS: [&str; 3] = ["memory", "late", "clock"];

/// The counters. Cloning is not needed: share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Device connections that have said HELLO.
    pub devices_connected: Gauge,
    /// Connections on the device listener, those before HELLO included.
    pub device_connections: Gauge,
    /// READINGS messages, duplicates and rejected ones included.
    pub batches_received: Counter,
    /// Readings in accepted batches.
    pub readings_received: Counter,
    /// Readings whose batch the broker has acknowledged.
    pub readings_published: Counter,
    /// Readings that went through the spool.
    pub readings_spooled: Counter,
    /// Acknowledged readings that will never be published, by [`Reason`].
    pub readings_lost: Family<Reason, Counter>,
    /// READINGS answered with REJECT, by [`Code`].
    pub batches_rejected: Family<Code, Counter>,
    /// Jumps in a device's sequence numbers.
    pub sequence_gaps: Counter,
    /// Batches that had been received before.
    pub duplicates: Counter,
    /// RESULT messages for commands nobody sent.
    pub results_unknown: Counter,
    /// RESULT messages for commands that had one.
    pub results_duplicate: Counter,
    /// RESULT messages for commands that had expired.
    pub results_late: Counter,
    /// Results that went from a full ledger before the broker had them.
    pub results_lost: Counter,
    /// Requests with an id that the device had already.
    pub requests_repeated: Counter,
    /// Requests that the ledger could not take.
    pub requests_refused: Counter,
    /// Requests over MQTT that are none.
    pub requests_malformed: Counter,
    /// Commands sent again after a reconnect.
    pub commands_redelivered: Counter,
    /// Damaged databases of the ledger of commands that were found.
    pub ledger_damaged: Counter,
    /// Messages on command topics that were not taken as requests, by [`Reason`].
    pub requests_ignored: Family<Reason, Counter>,
    /// What the spool holds on disk, in bytes. This, the next two and [`Self::uplink_up`] are read
    /// from [`crate::ports::Health`] when they are asked for.
    pub spool_bytes: Gauge,
    /// Batches in the spool.
    pub spool_batches: Gauge,
    /// `spool.max_bytes`; read from [`crate::ports::Health`] like the next three.
    pub spool_max_bytes: Gauge,
    /// What the file system leaves to the spool beyond what it has, NaN while that is unknown.
    pub spool_room: Gauge<f64, AtomicU64>,
    /// 1 while the spool cannot be written.
    pub spool_stalled: Gauge,
    /// 1 while the ledger of commands cannot be written.
    pub ledger_stalled: Gauge,
    /// Age of the oldest spooled batch in seconds.
    pub spool_oldest: Gauge<f64, AtomicU64>,
    /// Seconds until the spool is full, NaN while that is unknown. This and the next three are
    /// worked out when they are asked for.
    pub spool_full: Gauge<f64, AtomicU64>,
    /// Seconds until it is drained, NaN while that is unknown.
    pub spool_drained: Gauge<f64, AtomicU64>,
    /// Seconds that an outage may last from now on, NaN while that is unknown.
    pub spool_lasts: Gauge<f64, AtomicU64>,
    /// Bytes the process and its predecessors have caused to be written to storage since midnight
    /// UTC, NaN where the system does not tell.
    pub disk_written_today: Gauge<f64, AtomicU64>,
    /// Bytes the process has caused to be written to storage; read from the system when asked for.
    pub disk_written: Counter,
    /// 1 while connected to the broker.
    pub uplink_up: Gauge,
    /// Messages sent and not yet acknowledged by the broker.
    pub uplink_inflight: Gauge,
    /// Connections to the broker after the first.
    pub uplink_reconnects: Counter,
    /// From the arrival of a batch to its settlement, by [`Path`].
    pub ack_seconds: Family<Path, Histogram, fn() -> Histogram>,
    /// Commands, by the [`State`] they reached.
    pub commands: Family<State, Counter>,
    /// Connections refused before the upgrade, by [`Reason`].
    pub connections_refused: Family<Reason, Counter>,
    /// Sign-ins to the dashboard, by [`Outcome`].
    pub logins: Family<Outcome, Counter>,
    /// Dashboards connected to the feed.
    pub viewers: Gauge,
    /// Panics of any part, caught or not; each is a fault of the program.
    pub panics: Counter,
    /// When the process started: Unix time in seconds by the clock of now. This and the next two are
    /// read from the system when they are asked for.
    pub start_time: Gauge<f64, AtomicU64>,
    /// Processor time that the process has used, in seconds.
    pub cpu_seconds: Counter<f64, AtomicU64>,
    /// Memory that the process occupies, in bytes; NaN where the system does not tell.
    pub resident: Gauge<f64, AtomicU64>,
    /// Readings that the server of a push has taken.
    pub push_sent: Family<Push, Counter>,
    /// Readings that a push has given up.
    pub push_dropped: Family<PushDrop, Counter>,
    /// Readings that wait in a push's memory; read from [`crate::ports::Health`] when asked for.
    pub push_queued: Family<Push, Gauge>,
    /// Requests of a push that failed or were refused.
    pub push_errors: Family<Push, Counter>,
    /// Names of readings that have a history. This and the next two are read when asked for.
    pub history_series: Gauge,
    /// Bytes of memory that the history takes.
    pub history_bytes: Gauge,
    /// Readings that are in no history, by [`Reason`].
    pub history_refused: Family<Reason, Counter>,
    /// Times the history was written to disk.
    pub history_saves: Counter,
    /// Times it could not be written.
    pub history_save_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = || {
            Histogram::new([
                0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
                5.0, 10.0, 30.0, 60.0,
            ])
        };
        let mut metrics = Self {
            registry: Registry::with_prefix("tidegate"),
            devices_connected: Gauge::default(),
            device_connections: Gauge::default(),
            batches_received: Counter::default(),
            readings_received: Counter::default(),
            readings_published: Counter::default(),
            readings_spooled: Counter::default(),
            readings_lost: Family::default(),
            batches_rejected: Family::default(),
            sequence_gaps: Counter::default(),
            duplicates: Counter::default(),
            results_unknown: Counter::default(),
            results_duplicate: Counter::default(),
            results_late: Counter::default(),
            results_lost: Counter::default(),
            requests_repeated: Counter::default(),
            requests_refused: Counter::default(),
            requests_malformed: Counter::default(),
            commands_redelivered: Counter::default(),
            requests_ignored: Family::default(),
            ledger_damaged: Counter::default(),
            spool_bytes: Gauge::default(),
            spool_batches: Gauge::default(),
            spool_max_bytes: Gauge::default(),
            spool_room: Gauge::default(),
            spool_stalled: Gauge::default(),
            ledger_stalled: Gauge::default(),
            spool_oldest: Gauge::default(),
            spool_full: Gauge::default(),
            spool_drained: Gauge::default(),
            spool_lasts: Gauge::default(),
            disk_written_today: Gauge::default(),
            disk_written: Counter::default(),
            uplink_up: Gauge::default(),
            uplink_inflight: Gauge::default(),
            uplink_reconnects: Counter::default(),
            ack_seconds: Family::new_with_constructor(histogram),
            commands: Family::default(),
            connections_refused: Family::default(),
            logins: Family::default(),
            viewers: Gauge::default(),
            panics: Counter::default(),
            start_time: Gauge::default(),
            cpu_seconds: Counter::default(),
            resident: Gauge::default(),
            push_sent: Family::default(),
            push_dropped: Family::default(),
            push_queued: Family::default(),
            push_errors: Family::default(),
            history_series: Gauge::default(),
            history_bytes: Gauge::default(),
            history_refused: Family::default(),
            history_saves: Counter::default(),
            history_save_failures: Counter::default(),
        };
        metrics.register();
        metrics.prepare();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        // The library adds `_total` to counters.
        r.register("devices_connected", "Devices connected", self.devices_connected.clone());
        r.register("device_connections", "Open connections", self.device_connections.clone());
        r.register("batches_received", "READINGS messages received", self.batches_received.clone());
        r.register("readings_received", "Readings accepted", self.readings_received.clone());
        r.register(
            "readings_published",
            "Readings acknowledged by the broker",
            self.readings_published.clone(),
        );
        r.register("readings_spooled", "Readings buffered on disk", self.readings_spooled.clone());
        r.register("readings_lost", "Acknowledged readings lost", self.readings_lost.clone());
        r.register("batches_rejected", "READINGS messages rejected", self.batches_rejected.clone());
        r.register("sequence_gaps", "Jumps in sequence numbers", self.sequence_gaps.clone());
        r.register("duplicates", "Batches received before", self.duplicates.clone());
        for (name, help, counter) in [
            ("results_unknown", "Results of unknown commands", &self.results_unknown),
            ("results_duplicate", "Results of finished commands", &self.results_duplicate),
            ("results_late", "Results of expired commands", &self.results_late),
            ("results_lost", "Results the broker never got", &self.results_lost),
            ("command_requests_repeated", "Requests with a known id", &self.requests_repeated),
            ("command_requests_refused", "Requests not stored", &self.requests_refused),
            ("command_requests_malformed", "Requests that are none", &self.requests_malformed),
            ("commands_redelivered", "Commands sent again", &self.commands_redelivered),
            ("ledger_damaged", "Damaged databases of commands found", &self.ledger_damaged),
        ] {
            r.register(name, help, counter.clone());
        }
        r.register("spool_bytes", "Bytes the spool holds on disk", self.spool_bytes.clone());
        r.register("spool_batches", "Batches in the spool", self.spool_batches.clone());
        r.register("spool_max_bytes", "spool.max_bytes", self.spool_max_bytes.clone());
        r.register("spool_room_bytes", "What the disk leaves to it", self.spool_room.clone());
        r.register("spool_stalled", "1: it cannot be written", self.spool_stalled.clone());
        r.register("ledger_stalled", "1: it cannot be written", self.ledger_stalled.clone());
        r.register(
            "spool_oldest_seconds",
            "Age of the oldest spooled batch",
            self.spool_oldest.clone(),
        );
        r.register("spool_full_seconds", "Until the spool is full", self.spool_full.clone());
        r.register("spool_drained_seconds", "Until it is drained", self.spool_drained.clone());
        r.register("spool_lasts_seconds", "How long an outage may last", self.spool_lasts.clone());
        r.register(
            "disk_written_today_bytes",
            "Bytes written to files since midnight UTC",
            self.disk_written_today.clone(),
        );
        r.register("disk_written_bytes", "Bytes written to files", self.disk_written.clone());
        r.register(
            "requests_ignored",
            "Messages on command topics not taken as requests",
            self.requests_ignored.clone(),
        );
        r.register("uplink_up", "1 while connected to the broker", self.uplink_up.clone());
        r.register("uplink_inflight", "Messages awaiting PUBACK", self.uplink_inflight.clone());
        r.register(
            "uplink_reconnects",
            "Reconnections to the broker",
            self.uplink_reconnects.clone(),
        );
        r.register("ack_seconds", "From receipt to settlement", self.ack_seconds.clone());
        r.register("commands", "Commands that reached a state", self.commands.clone());
        r.register("connections_refused", "Connections refused", self.connections_refused.clone());
        r.register("logins", "Sign-ins to the dashboard", self.logins.clone());
        r.register("viewers", "Dashboards connected to the feed", self.viewers.clone());
        r.register("panics", "Parts of the program that panicked", self.panics.clone());
        r.register("start_time_seconds", "When the process started", self.start_time.clone());
        r.register("cpu_seconds", "Processor time used", self.cpu_seconds.clone());
        r.register("resident_memory_bytes", "Memory occupied", self.resident.clone());
        r.register("push_sent", "Readings pushed", self.push_sent.clone());
        r.register("push_dropped", "Readings not pushed", self.push_dropped.clone());
        r.register("push_queued", "Readings waiting to be pushed", self.push_queued.clone());
        r.register("push_errors", "Requests of a push that failed", self.push_errors.clone());
        r.register("history_series", "Names that have a history", self.history_series.clone());
        r.register("history_bytes", "Memory that the history takes", self.history_bytes.clone());
        r.register(
            "history_refused",
            "Readings that are in no history",
            self.history_refused.clone(),
        );
        r.register("history_saves", "Times the history was saved", self.history_saves.clone());
        r.register(
            "history_save_failures",
            "Times the history could not be saved",
            self.history_save_failures.clone(),
        );
    }

    /// Series that must be there from the start: an alert on an increase misses the first one of
    /// a series that appears with it.
    fn prepare(&self) {
        use LossReason::{Corrupt, EvictedAge, EvictedSize, Refused};
        for reason in [EvictedSize, EvictedAge, Corrupt, Refused] {
            drop(self.readings_lost.get_or_create(&Reason { reason: reason.as_str() }));
        }
        for code in REJECT_CODES {
            drop(self.batches_rejected.get_or_create(&Code { code }));
        }
        for reason in REFUSALS {
            drop(self.connections_refused.get_or_create(&Reason { reason }));
        }
        for outcome in LOGINS {
            drop(self.logins.get_or_create(&Outcome { outcome }));
        }
        for state in ["queued", "delivered", "done", "failed", "expired", "rejected"] {
            drop(self.commands.get_or_create(&State { state }));
        }
        for reason in REQUESTS_IGNORED {
            drop(self.requests_ignored.get_or_create(&Reason { reason }));
        }
        for reason in HISTORY_REFUSALS {
            drop(self.history_refused.get_or_create(&Reason { reason }));
        }
        for path in ["published", "spooled"] {
            drop(self.ack_seconds.get_or_create(&Path { path }));
        }
    }

    /// READINGS answered with REJECT, whatever the code.
    #[must_use]
    pub fn batches_rejected_in_all(&self) -> u64 {
        let of = |code| self.batches_rejected.get_or_create(&Code { code }).get();
        REJECT_CODES.into_iter().map(of).sum()
    }

    /// The `OpenMetrics` 1.0 text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The Prometheus 0.0.4 text, for whoever does not ask for `OpenMetrics`. There a counter's
    /// name has its `_total` in the lines that describe it too.
    #[must_use]
    pub fn classic_text(&self) -> String {
        let text = self.text();
        let counters: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
            .collect();
        let mut classic = String::with_capacity(text.len() + 256);
        for line in text.lines().filter(|line| *line != "# EOF") {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                    classic.extend(["# ", kind, " ", name, "_total ", rest]);
                }
                _ => classic.push_str(line),
            }
            classic.push('\n');
        }
        classic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_the_outside_relies_on_is_there() {
        let metrics = Metrics::new();
        // These come with their first event.
        metrics.connections_refused.get_or_create(&Reason { reason: "full" }).inc();
        metrics.commands.get_or_create(&State { state: "done" }).inc();
        let text = metrics.classic_text();
        for name in [
            "devices_connected gauge",
            "batches_received_total counter",
            "readings_received_total counter",
            "readings_published_total counter",
            "readings_spooled_total counter",
            "readings_lost_total counter",
            "batches_rejected_total counter",
            "sequence_gaps_total counter",
            "duplicates_total counter",
            "spool_bytes gauge",
            "spool_batches gauge",
            "spool_oldest_seconds gauge",
            "disk_written_bytes_total counter",
            "uplink_up gauge",
            "uplink_inflight gauge",
            "uplink_reconnects_total counter",
            "commands_total counter",
            "connections_refused_total counter",
            "ack_seconds histogram",
            "viewers gauge",
        ] {
            let line = format!("# TYPE tidegate_{name}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn both_texts_name_the_samples_alike_and_only_the_modern_one_ends_with_eof() {
        let metrics = Metrics::new();
        metrics.batches_received.inc_by(3);
        let samples = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(samples(&metrics.text()), samples(&metrics.classic_text()));
        assert!(metrics.classic_text().contains("\ntidegate_batches_received_total 3\n"));
        assert!(metrics.text().ends_with("# EOF\n"));
        assert!(!metrics.classic_text().contains("# EOF"));
    }

    #[test]
    fn series_of_closed_sets_are_there_before_their_first_event() {
        let text = Metrics::new().text();
        for series in [
            "readings_lost_total{reason=\"evicted-size\"} 0",
            "readings_lost_total{reason=\"evicted-age\"} 0",
            "readings_lost_total{reason=\"corrupt\"} 0",
            "readings_lost_total{reason=\"refused\"} 0",
            "batches_rejected_total{code=\"1\"} 0",
            "ack_seconds_count{path=\"published\"} 0",
            "ack_seconds_count{path=\"spooled\"} 0",
        ] {
            assert!(text.contains(&format!("tidegate_{series}\n")), "{series} in {text}");
        }
    }
}
