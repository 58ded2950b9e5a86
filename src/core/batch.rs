//! Readings and the batches they travel in.

use compact_str::CompactString;

use super::clock::Base;
use super::ids::DeviceId;

/// The value of a reading (RFC 8428 section 4.2).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `v`: a finite number.
    Number(f64),
    /// `vs`: text.
    Text(CompactString),
    /// `vb`: a boolean.
    Bool(bool),
    /// `vd`: bytes.
    Data(Box<[u8]>),
}

/// One resolved SenML record (RFC 8428 section 4.6): no base fields, absolute time.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// `n` without the device's own id in front: 1 to 64 characters.
    pub name: CompactString,
    /// `u`: the unit's code, as RFC 8428 section 12.1 lists them.
    pub unit: Option<CompactString>,
    /// The value; absent only where there is a sum.
    pub value: Option<Value>,
    /// `s`: the integral of the value over time.
    pub sum: Option<f64>,
    /// `t`: Unix time in seconds.
    pub time: f64,
    /// `ut`: seconds until the next value of this name at the latest.
    pub update_time: Option<f64>,
    /// Whether `time` was counted from the gateway's clock when the batch was received, because
    /// the device gave none or one relative to now (RFC 8428 section 4.5.3).
    pub relative: bool,
}

/// One READINGS message of one device, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Who sent it.
    pub device: DeviceId,
    /// Which run of sequence numbers `seq` belongs to. Where the device named none, the gateway
    /// drew one for the connection, so that `(device, epoch, seq)` stays unique.
    pub epoch: u64,
    /// The device's number of this batch within the epoch; `None` is best effort, not acknowledged.
    pub seq: Option<u64>,
    /// When the gateway received it: Unix time in seconds.
    pub received: f64,
    /// Which wall clock `received` and the times of relative readings were taken from.
    pub base: Base,
    /// By how many seconds these were corrected since, because that clock was set; 0 if not.
    pub shift: f64,
    /// The readings, in chronological order.
    pub readings: Vec<Reading>,
}

impl Batch {
    /// Adds `shift` seconds to every time that was taken from the gateway's clock. What the device
    /// stamped itself stays as it is.
    pub fn correct(&mut self, shift: f64) {
        self.received += shift;
        self.base.offset += shift;
        self.shift += shift;
        for reading in self.readings.iter_mut().filter(|reading| reading.relative) {
            reading.time += shift;
        }
        sort(&mut self.readings);
    }

    /// Bytes of memory this batch holds, near enough to bound queues with.
    #[must_use]
    pub fn weight(&self) -> usize {
        let heap =
            |text: &CompactString| if text.is_heap_allocated() { text.capacity() } else { 0 };
        let readings: usize = self
            .readings
            .iter()
            .map(|reading| {
                let value = match &reading.value {
                    Some(Value::Text(text)) => heap(text),
                    Some(Value::Data(data)) => data.len(),
                    _ => 0,
                };
                size_of::<Reading>()
                    + heap(&reading.name)
                    + reading.unit.as_ref().map_or(0, heap)
                    + value
            })
            .sum();
        size_of::<Self>() + readings
    }
}

/// Puts `readings` in chronological order; those of one time keep theirs.
pub fn sort(readings: &mut [Reading]) {
    if !readings.is_sorted_by(|a, b| a.time <= b.time) {
        readings.sort_by(|a, b| a.time.total_cmp(&b.time));
    }
}

/// Bytes of memory the value of a RESULT holds, near enough to bound queues with. A few bytes of
/// CBOR can hold many times their size: an array of nulls, say.
#[must_use]
pub fn value_weight(value: &ciborium::Value) -> usize {
    use ciborium::Value;
    let held = match value {
        Value::Text(text) => text.capacity(),
        Value::Bytes(bytes) => bytes.capacity(),
        Value::Array(items) => items.iter().map(value_weight).sum(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| value_weight(key) + value_weight(value)).sum()
        }
        Value::Tag(_, inner) => value_weight(inner),
        _ => 0,
    };
    size_of::<Value>() + held
}

/// Batches that were acknowledged and could not be delivered: promise 1 says they are counted,
/// logged and published.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Whose batches; empty where a damaged file no longer says.
    pub device: Option<DeviceId>,
    /// Their epoch.
    pub epoch: u64,
    /// The first lost sequence number, where known.
    pub first_seq: Option<u64>,
    /// The last lost sequence number, where known.
    pub last_seq: Option<u64>,
    /// How many batches.
    pub batches: u64,
    /// How many readings were in them.
    pub readings: u64,
    /// When the oldest and the newest of them were received, where known: Unix time in seconds.
    pub received: Option<(f64, f64)>,
    /// Why.
    pub reason: LossReason,
    /// When: Unix time in seconds.
    pub time: f64,
    /// What else a person should know: what the broker said, how the file was damaged, or that
    /// several records were joined.
    pub detail: Option<String>,
}

impl Loss {
    /// Adds what `other` lost to this record. Where the two are of different devices or epochs the
    /// result names neither; the numbers of batches and readings stay exact.
    pub fn absorb(&mut self, other: &Self) {
        if self.key() == other.key() {
            self.first_seq = match (self.first_seq, other.first_seq) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            self.last_seq = self.last_seq.max(other.last_seq);
        } else {
            (self.device, self.epoch) = (None, 0);
            (self.first_seq, self.last_seq) = (None, None);
        }
        self.batches = self.batches.saturating_add(other.batches);
        self.readings = self.readings.saturating_add(other.readings);
        self.received = match (self.received, other.received) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (a, b) => a.or(b),
        };
        self.time = self.time.max(other.time);
    }

    /// Whether `other` is of the same device, epoch and reason and begins where this one ends.
    #[must_use]
    pub fn is_continued_by(&self, other: &Self) -> bool {
        let joined = match (self.last_seq, other.first_seq) {
            (Some(last), Some(first)) => first == last + 1,
            (None, None) => true,
            _ => false,
        };
        self.key() == other.key() && joined && self.detail == other.detail
    }

    /// What records must have in common for a range of numbers to make sense.
    #[must_use]
    pub fn key(&self) -> (Option<&DeviceId>, u64, LossReason) {
        (self.device.as_ref(), self.epoch, self.reason)
    }
}

/// Why batches were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossReason {
    /// `spool.max_bytes` was reached with `when_full = "drop-oldest"`.
    EvictedSize,
    /// Older than `spool.max_age`.
    EvictedAge,
    /// The disk gave back something else than was written.
    Corrupt,
    /// The broker refuses this batch for ever (too large, not authorised).
    Refused,
}

impl LossReason {
    /// Every reason there is.
    pub const ALL: [Self; 4] = [Self::EvictedSize, Self::EvictedAge, Self::Corrupt, Self::Refused];

    /// The word used in metrics and loss records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvictedSize => "evicted-size",
            Self::EvictedAge => "evicted-age",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str, time: f64, relative: bool) -> Reading {
        let value = Some(Value::Bool(true));
        Reading {
            name: name.into(),
            unit: None,
            value,
            sum: None,
            time,
            update_time: None,
            relative,
        }
    }

    #[test]
    fn a_correction_moves_what_the_gateway_stamped_and_nothing_else() {
        let device = DeviceId::new("a").unwrap();
        let base = Base { boot: 7, offset: 10.0 };
        let readings = vec![reading("now", 100.0, true), reading("own", 1_000_000.0, false)];
        let mut batch =
            Batch { device, epoch: 1, seq: Some(1), received: 100.0, base, shift: 0.0, readings };
        batch.correct(2_000_000.0);
        batch.correct(-1.0);
        assert_eq!((batch.received, batch.shift), (2_000_099.0, 1_999_999.0));
        assert_eq!(batch.base, Base { boot: 7, offset: 2_000_009.0 });
        let times: Vec<_> = batch.readings.iter().map(|r| (r.name.as_str(), r.time)).collect();
        assert_eq!(times, [("own", 1_000_000.0), ("now", 2_000_099.0)], "in order again");
    }
}
