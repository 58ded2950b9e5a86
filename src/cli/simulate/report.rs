//! Counting what simulated devices did, and saying it.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::ports::lock;

/// Counters of all devices together.
#[derive(Debug)]
pub(super) struct Totals {
    began: Instant,
    devices: u64,
    greeted: Gauge,
    pub(super) connected: Gauge,
    pub(super) sent: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) acked: Counter,
    pub(super) rejected: Counter,
    pub(super) unexpected: Counter,
    pub(super) reconnects: Counter,
    pub(super) stopped: Counter,
    pub(super) unacknowledged: Counter,
    late: Mutex<Late>,
}

/// What needs a lock.
#[derive(Debug)]
struct Late {
    recent: Histogram<u64>,
    all: Histogram<u64>,
    first_sent: Option<Instant>,
    last_acked: Option<Instant>,
    all_connected: Option<Instant>,
    error: Option<String>,
}

/// Grows only.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn up(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Totals {
    /// For this many devices.
    pub(super) fn new(devices: usize) -> anyhow::Result<Self> {
        // Microseconds up to an hour, three digits.
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3)?;
        let late = Late {
            recent: histogram.clone(),
            all: histogram,
            first_sent: None,
            last_acked: None,
            all_connected: None,
            error: None,
        };
        Ok(Self {
            began: Instant::now(),
            devices: devices as u64,
            greeted: Gauge::default(),
            connected: Gauge::default(),
            sent: Counter::default(),
            sent_bytes: Counter::default(),
            acked: Counter::default(),
            rejected: Counter::default(),
            unexpected: Counter::default(),
            reconnects: Counter::default(),
            stopped: Counter::default(),
            unacknowledged: Counter::default(),
            late: Mutex::new(late),
        })
    }

    /// A device is connected, for the first time or again.
    pub(super) fn device_connected(&self, first: bool) {
        self.connected.up();
        if !first {
            self.reconnects.add(1);
        } else if self.greeted.up() == self.devices {
            lock(&self.late).all_connected = Some(Instant::now());
        }
    }

    /// Batches were handed to a client.
    pub(super) fn batches_sent(&self, count: u64) {
        if self.sent.get() == 0 {
            lock(&self.late).first_sent.get_or_insert_with(Instant::now);
        }
        self.sent.add(count);
    }

    /// The batches that were sent at these times are acknowledged.
    pub(super) fn batches_acked(&self, sent: impl Iterator<Item = Instant>) {
        let now = Instant::now();
        let mut count = 0;
        let mut late = lock(&self.late);
        for sent in sent {
            count += 1;
            let micros = now.saturating_duration_since(sent).as_micros();
            late.recent.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        late.last_acked = Some(now);
        drop(late);
        self.acked.add(count);
    }

    /// Something failed; the first is told in the end.
    pub(super) fn failed(&self, error: impl std::fmt::Display) {
        lock(&self.late).error.get_or_insert_with(|| error.to_string());
    }

    /// One line of figures since `last`, for a terminal.
    pub(super) fn live_line(&self, last: &mut (Instant, u64)) -> String {
        let (now, acked) = (Instant::now(), self.acked.get());
        let (p50, p99) = {
            let mut late = lock(&self.late);
            let recent = &late.recent;
            let quantiles = (recent.value_at_quantile(0.5), recent.value_at_quantile(0.99));
            late.fold();
            quantiles
        };
        let rate = (acked - last.1) as f64 / now.duration_since(last.0).as_secs_f64().max(1e-3);
        *last = (now, acked);
        format!(
            "{:6.1} s  {}/{} devices  sent {}  acked {}  {:.0} batches/s  ack p50 {} p99 {}  \
             reconnects {}  rejected {}",
            self.began.elapsed().as_secs_f64(),
            self.connected.get(),
            self.devices,
            self.sent.get(),
            acked,
            rate,
            micros(p50),
            micros(p99),
            self.reconnects.get(),
            self.rejected.get(),
        )
    }

    /// The figures of the whole run. `readings` are in each batch.
    pub(super) fn summary(&self, readings: usize, best_effort: bool) -> Summary {
        let mut late = lock(&self.late);
        late.fold();
        let delivered = if best_effort { self.sent.get() } else { self.acked.get() };
        let end = if best_effort { None } else { late.last_acked };
        let seconds = late.first_sent.map_or(Duration::ZERO, |first| {
            end.unwrap_or_else(Instant::now).saturating_duration_since(first)
        });
        let batches_per_second =
            if seconds.is_zero() { 0.0 } else { delivered as f64 / seconds.as_secs_f64() };
        let all = &late.all;
        Summary {
            devices: self.devices,
            connect_seconds: late.all_connected.map(|at| (at - self.began).as_secs_f64()),
            sent: self.sent.get(),
            sent_bytes: self.sent_bytes.get(),
            acked: self.acked.get(),
            rejected: self.rejected.get(),
            unacknowledged: self.unacknowledged.get(),
            reconnects: self.reconnects.get(),
            stopped: self.stopped.get(),
            seconds: seconds.as_secs_f64(),
            batches_per_second,
            readings_per_second: batches_per_second * readings as f64,
            ack_us: (!all.is_empty()).then(|| AckTimes {
                p50: all.value_at_quantile(0.5),
                p90: all.value_at_quantile(0.9),
                p99: all.value_at_quantile(0.99),
                max: all.max(),
            }),
            error: late.error.clone(),
        }
    }
}

impl Late {
    fn fold(&mut self) {
        // Both have the same bounds, so adding cannot fail.
        let _ = self.all.add(&self.recent);
        self.recent.reset();
    }
}

/// The figures of a run; the JSON form is part of what scripts rely on.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    devices: u64,
    /// Until all were connected; null where some never were.
    pub(super) connect_seconds: Option<f64>,
    pub(super) sent: u64,
    /// SenML packs in them, without frame headers.
    sent_bytes: u64,
    pub(super) acked: u64,
    pub(super) rejected: u64,
    /// Not acknowledged when the run ended.
    pub(super) unacknowledged: u64,
    pub(super) reconnects: u64,
    /// Devices that gave up.
    pub(super) stopped: u64,
    /// From the first batch to the last acknowledgement.
    seconds: f64,
    batches_per_second: f64,
    readings_per_second: f64,
    /// From when a batch was sent to its acknowledgement, in microseconds.
    ack_us: Option<AckTimes>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Serialize)]
struct AckTimes {
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

impl Summary {
    /// Writes it for a person.
    pub(super) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "devices         {}", self.devices)?;
        match self.connect_seconds {
            Some(seconds) => writeln!(out, "all connected   after {seconds:.2} s")?,
            None => writeln!(out, "all connected   never")?,
        }
        writeln!(out, "sent            {} batches", self.sent)?;
        writeln!(out, "acknowledged    {}", self.acked)?;
        writeln!(out, "rejected        {}", self.rejected)?;
        writeln!(out, "unacknowledged  {}", self.unacknowledged)?;
        writeln!(out, "reconnects      {}", self.reconnects)?;
        writeln!(
            out,
            "rate            {:.0} readings/s over {:.2} s",
            self.readings_per_second, self.seconds
        )?;
        if let Some(times) = &self.ack_us {
            writeln!(
                out,
                "ack time        p50 {}  p90 {}  p99 {}  max {}",
                micros(times.p50),
                micros(times.p90),
                micros(times.p99),
                micros(times.max)
            )?;
        }
        if self.stopped > 0 {
            writeln!(out, "gave up         {} devices", self.stopped)?;
        }
        if let Some(error) = &self.error {
            writeln!(out, "first error     {error}")?;
        }
        Ok(())
    }
}

fn micros(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} us"),
        1000..=999_999 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_from_the_first_batch_to_the_last_acknowledgement() {
        let totals = Totals::new(2).unwrap();
        totals.device_connected(true);
        totals.device_connected(false);
        assert_eq!(totals.summary(1, false).connect_seconds, None);
        totals.device_connected(true);
        totals.batches_sent(3);
        let sent = Instant::now();
        totals.batches_acked([sent, sent].into_iter());
        totals.live_line(&mut (sent, 0));
        totals.batches_acked(std::iter::once(sent));
        let summary = totals.summary(4, false);
        assert!(summary.connect_seconds.is_some());
        assert_eq!((summary.sent, summary.acked), (3, 3));
        assert!((summary.readings_per_second - 4.0 * summary.batches_per_second).abs() < 1e-6);
        assert!(summary.ack_us.as_ref().is_some_and(|times| times.max >= times.p50));
        let mut text = Vec::new();
        summary.write(&mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("acknowledged    3\n"));
    }
}
