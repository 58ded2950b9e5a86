//! What the values of the history's databases are: records, compressed, each value whole by itself.
//!
//! # Version 1, little-endian
//!
//! ```text
//!  0  4  "tgH1"
//!  4  4  which value of its database it is, from 0
//!  8  4  when it was saved: Unix time in seconds
//! 12  1  bits: 1 the database has everything, 2 this is its last value
//! 13  3  0
//! 16  4  bytes that follow the header
//! 20  4  CRC-32 (IEEE) of bytes 0 to 19 and everything from 24 on
//! 24     records, one after the other, as an LZ4 block with its length before
//! ```
//!
//! A record is the device, the name and the unit, each with its length before (one byte; no unit is
//! an empty one), a byte for what follows, and that:
//!
//! - 0 to 3, buckets of that tier: from which bucket on these are all (4 bytes), how many (2), then
//!   column by column: numbers of buckets, the first whole (4), then differences as LEB128; counts
//!   (LEB128); means (8), distances of the least and of the greatest (4 each), the first bytes of
//!   all, then the second ones, and so on;
//! - 4, changes: when the last was confirmed (8), how many (2), each with its time (8) and value;
//! - 5, the latest reading: its time (8), when the device was heard last (8), its value.
//!
//! A value is 0 false, 1 true, 2 a text with its length before (one byte), 3 a number (8), 4 none. Of
//! a value with anything else in it the rest is passed over.

use compact_str::CompactString;

use super::states::{Change, State, TEXT_MAX};
use super::tiers::{Packed, TIERS};
use crate::core::batch::Value;
use crate::core::ids::DeviceId;
use crate::dashboard::slot::beginning;

/// What every value begins with.
pub(super) const MARK: [u8; 4] = *b"tgH1";
const HEADER: usize = 24;
/// Bytes of records in a value before they are compressed: it fits also if they cannot be.
const RAW_MAX: usize = 3900;
/// Buckets in a record at most.
pub(super) const BUCKETS_MAX: usize = 100;
/// Changes in a record at most.
pub(super) const CHANGES_MAX: usize = 16;

const CHANGES: u8 = 4;
const LATEST: u8 = 5;

/// Something of one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) device: DeviceId,
    pub(super) name: CompactString,
    pub(super) unit: Option<CompactString>,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// At most [`BUCKETS_MAX`].
    Buckets { tier: usize, begins: u32, closed: Vec<Packed> },
    /// At most [`CHANGES_MAX`].
    Changes { confirmed: f64, changes: Vec<Change> },
    /// Data is not kept.
    Latest { time: f64, seen: f64, value: Option<Value> },
}

/// What a value says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    /// Unix time in seconds.
    pub(super) time: u32,
    /// The database has everything.
    pub(super) full: bool,
    /// The last value of the database.
    pub(super) last: bool,
}

/// Gathers records into values.
#[derive(Debug)]
pub(super) struct Packer {
    header: Header,
    raw: Vec<u8>,
    scratch: Vec<u8>,
}

impl Packer {
    pub(super) fn new(time: u32, full: bool) -> Self {
        let header = Header { number: 0, time, full, last: false };
        Self { header, raw: Vec::with_capacity(RAW_MAX), scratch: Vec::new() }
    }

    /// Takes one more; a value that is full then.
    pub(super) fn push(&mut self, record: &Record) -> Option<Vec<u8>> {
        self.scratch.clear();
        record.encode(&mut self.scratch);
        let full = self.raw.len() + self.scratch.len() > RAW_MAX;
        let value = full.then(|| self.seal());
        self.raw.extend_from_slice(&self.scratch);
        value
    }

    /// The last value.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.header.last = true;
        self.seal()
    }

    fn seal(&mut self) -> Vec<u8> {
        let body = lz4_flex::compress_prepend_size(&self.raw);
        let Header { number, time, full, last } = self.header;
        let mut value = Vec::with_capacity(HEADER + body.len());
        value.extend_from_slice(&MARK);
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&time.to_le_bytes());
        value.extend_from_slice(&[u8::from(full) | u8::from(last) << 1, 0, 0, 0]);
        value.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&value);
        checksum.update(&body);
        value.extend_from_slice(&checksum.finalize().to_le_bytes());
        value.extend_from_slice(&body);
        self.header.number += 1;
        self.raw.clear();
        value
    }
}

/// Reads and checks one value; bytes after it are left alone. Its header, its records still
/// compressed, and its length; nothing where these are not bytes that were written.
pub(super) fn open(bytes: &[u8]) -> Option<((Header, &[u8]), usize)> {
    let mut rest = bytes;
    let mark: [u8; 4] = take(&mut rest)?;
    let number = u32::from_le_bytes(take(&mut rest)?);
    let time = u32::from_le_bytes(take(&mut rest)?);
    let [bits, ..]: [u8; 4] = take(&mut rest)?;
    let len = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
    let expected = u32::from_le_bytes(take(&mut rest)?);
    let body = rest.get(..len)?;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(bytes.get(..HEADER - 4)?);
    checksum.update(body);
    let header = Header { number, time, full: bits & 1 != 0, last: bits & 2 != 0 };
    let good = mark == MARK && checksum.finalize() == expected;
    good.then_some(((header, body), HEADER + len))
}

/// The records of a value's body; what it does not know and what follows it are left out.
pub(super) fn records(body: &[u8]) -> Vec<Record> {
    let size = body.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    if size > 64 * 1024 {
        return Vec::new();
    }
    let Ok(raw) = lz4_flex::decompress_size_prepended(body) else { return Vec::new() };
    let mut rest = raw.as_slice();
    std::iter::from_fn(|| Record::decode(&mut rest)).collect()
}

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        text(out, self.device.as_str());
        text(out, &self.name);
        text(out, self.unit.as_deref().unwrap_or_default());
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        match &self.content {
            Content::Buckets { tier, begins, closed } => {
                out.push(u8::try_from(*tier).unwrap_or(u8::MAX));
                out.extend_from_slice(&begins.to_le_bytes());
                out.extend_from_slice(&short(closed.len()));
                let mut before = closed.first().map_or(0, |first| first.at);
                out.extend_from_slice(&before.to_le_bytes());
                for packed in closed {
                    varint(out, packed.at.wrapping_sub(before));
                    before = packed.at;
                }
                for packed in closed {
                    varint(out, packed.count);
                }
                columns(out, closed, |packed| packed.mean.to_le_bytes());
                columns(out, closed, |packed| packed.below.to_le_bytes());
                columns(out, closed, |packed| packed.above.to_le_bytes());
            }
            Content::Changes { confirmed, changes } => {
                out.push(CHANGES);
                out.extend_from_slice(&confirmed.to_le_bytes());
                out.extend_from_slice(&short(changes.len()));
                for change in changes {
                    out.extend_from_slice(&change.time.to_le_bytes());
                    value(out, Some(&Value::from(&change.state)));
                }
            }
            Content::Latest { time, seen, value: latest } => {
                out.push(LATEST);
                out.extend_from_slice(&time.to_le_bytes());
                out.extend_from_slice(&seen.to_le_bytes());
                value(out, latest.as_ref());
            }
        }
    }

    fn decode(rest: &mut &[u8]) -> Option<Self> {
        let device = DeviceId::new(take_text(rest)?).ok()?;
        let name = take_text(rest)?.into();
        let unit = Some(take_text(rest)?).filter(|unit| !unit.is_empty()).map(Into::into);
        let [kind] = take(rest)?;
        let content = match kind {
            CHANGES => {
                let confirmed = take_f64(rest)?;
                let count = u16::from_le_bytes(take(rest)?);
                let changes = (0..count).map(|_| {
                    let time = take_f64(rest)?;
                    let state = match take_value(rest)?? {
                        Value::Bool(truth) => State::Bool(truth),
                        Value::Text(text) => State::Text(text),
                        _ => return None,
                    };
                    Some(Change { time, state })
                });
                Content::Changes { confirmed, changes: changes.collect::<Option<_>>()? }
            }
            LATEST => {
                let (time, seen) = (take_f64(rest)?, take_f64(rest)?);
                Content::Latest { time, seen, value: take_value(rest)? }
            }
            tier if usize::from(tier) < TIERS => {
                let begins = u32::from_le_bytes(take(rest)?);
                let count = u16::from_le_bytes(take(rest)?);
                let closed = take_buckets(rest, usize::from(count))?;
                Content::Buckets { tier: usize::from(tier), begins, closed }
            }
            _ => return None,
        };
        Some(Self { device, name, unit, content })
    }
}

fn take_buckets(rest: &mut &[u8], count: usize) -> Option<Vec<Packed>> {
    if count > rest.len() {
        return None;
    }
    let mut at = u32::from_le_bytes(take(rest)?);
    let none = Packed { mean: 0.0, below: 0.0, above: 0.0, at: 0, count: 0 };
    let mut closed = vec![none; count];
    for packed in &mut closed {
        at = at.wrapping_add(take_varint(rest)?);
        packed.at = at;
    }
    for packed in &mut closed {
        packed.count = take_varint(rest)?;
    }
    let means = take_columns::<8>(rest, count)?;
    let below = take_columns::<4>(rest, count)?;
    let above = take_columns::<4>(rest, count)?;
    for (packed, ((mean, below), above)) in closed.iter_mut().zip(means.zip(below).zip(above)) {
        packed.mean = f64::from_le_bytes(mean);
        packed.below = f32::from_le_bytes(below);
        packed.above = f32::from_le_bytes(above);
    }
    // Nothing else is ever shown or added to.
    let sane = |packed: &Packed| {
        packed.mean.is_finite() && packed.below >= 0.0 && packed.above >= 0.0 && packed.count > 0
    };
    closed.iter().all(sane).then_some(closed)
}

/// The first bytes of all, then the second ones, and so on: they compress better so.
fn columns<const N: usize>(out: &mut Vec<u8>, all: &[Packed], bytes: impl Fn(&Packed) -> [u8; N]) {
    for column in 0..N {
        out.extend(all.iter().filter_map(|packed| bytes(packed).get(column).copied()));
    }
}

fn take_columns<'a, const N: usize>(
    rest: &mut &'a [u8],
    count: usize,
) -> Option<impl Iterator<Item = [u8; N]> + use<'a, N>> {
    let (bytes, behind) = rest.split_at_checked(N * count)?;
    *rest = behind;
    let byte = move |row: usize, column: usize| bytes.get(column * count + row).copied();
    Some((0..count).map(move |row| std::array::from_fn(|column| byte(row, column).unwrap_or(0))))
}

fn text(out: &mut Vec<u8>, text: &str) {
    let text = beginning(text, usize::from(u8::MAX));
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let [len] = take(rest)?;
    let (text, behind) = rest.split_at_checked(usize::from(len))?;
    *rest = behind;
    std::str::from_utf8(text).ok()
}

fn value(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        Some(Value::Bool(truth)) => out.push(u8::from(*truth)),
        Some(Value::Text(long)) => {
            out.push(2);
            text(out, beginning(long, TEXT_MAX));
        }
        Some(Value::Number(number)) => {
            out.push(3);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Some(Value::Data(_)) | None => out.push(4),
    }
}

#[allow(clippy::option_option)] // nothing readable, and none
fn take_value(rest: &mut &[u8]) -> Option<Option<Value>> {
    let [kind] = take(rest)?;
    Some(match kind {
        0 | 1 => Some(Value::Bool(kind == 1)),
        2 => Some(Value::Text(take_text(rest)?.into())),
        3 => Some(Value::Number(take_f64(rest)?)),
        4 => None,
        _ => return None,
    })
}

/// A finite number.
fn take_f64(rest: &mut &[u8]) -> Option<f64> {
    Some(f64::from_le_bytes(take(rest)?)).filter(|number| number.is_finite())
}

/// LEB128.
fn varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(0x80 | u8::try_from(number & 0x7f).unwrap_or_default());
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

fn take_varint(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..32).step_by(7) {
        let [byte] = take(rest)?;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tiers::Bucket;
    use super::*;
    use crate::storage::store::VALUE_MAX;

    fn record(content: Content) -> Record {
        let device = DeviceId::new("kiln-3").unwrap();
        Record { device, name: "temperature".into(), unit: Some("Cel".into()), content }
    }

    fn written(records: &[Record]) -> Vec<Vec<u8>> {
        let mut packer = Packer::new(7, true);
        let mut values: Vec<_> = records.iter().filter_map(|one| packer.push(one)).collect();
        values.push(packer.finish());
        values
    }

    fn read(values: &[Vec<u8>]) -> Vec<Record> {
        values.iter().flat_map(|value| records(open(value).unwrap().0.1)).collect()
    }

    fn packed() -> impl Strategy<Value = Packed> {
        (-1e9..1e9, 0_f32..1e6, 0_f32..1e6, any::<u32>(), 1..u32::MAX)
            .prop_map(|(mean, below, above, at, count)| Packed { mean, below, above, at, count })
    }

    fn any_value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            any::<bool>().prop_map(|truth| Some(Value::Bool(truth))),
            "[a-zü]{0,60}".prop_map(|text| Some(Value::Text(text.into()))),
            (-1e300..1e300).prop_map(|number| Some(Value::Number(number))),
        ]
    }

    fn content() -> impl Strategy<Value = Content> {
        let buckets = (0..TIERS, any::<u32>(), prop::collection::vec(packed(), 0..BUCKETS_MAX));
        let state = prop_oneof![
            any::<bool>().prop_map(State::Bool),
            "[a-zü]{0,60}".prop_map(|text| State::Text(text.into())),
        ];
        let change = (-1e10..1e10, state).prop_map(|(time, state)| Change { time, state });
        let changes = (-1e10..1e10, prop::collection::vec(change, 0..CHANGES_MAX));
        prop_oneof![
            buckets.prop_map(|(tier, begins, closed)| Content::Buckets { tier, begins, closed }),
            changes.prop_map(|(confirmed, changes)| Content::Changes { confirmed, changes }),
            (-1e10..1e10, 0.0..1e10, any_value()).prop_map(|(time, seen, value)| Content::Latest {
                time,
                seen,
                value
            }),
        ]
    }

    /// `cargo test --lib bytes_on_the_disk -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement, not a test"]
    fn bytes_on_the_disk() {
        let mut random = 12_345_u64;
        let mut noise = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 40) as f64 / f64::from(1 << 24)
        };
        let day: Vec<Record> = (0..18)
            .map(|chunk| {
                let closed = (0..100).map(|n| {
                    let values: Vec<f64> =
                        (0..60).map(|_| (200.0 + noise() * 5.0).round() / 10.0).collect();
                    let mut bucket = Bucket::of(chunk * 100 + n, values[0]);
                    for value in &values[1..] {
                        bucket.merge(&Bucket::of(0, *value));
                    }
                    bucket.pack()
                });
                let closed = closed.collect();
                record(Content::Buckets { tier: 2, begins: 0, closed })
            })
            .collect();
        let bytes: usize = written(&day).iter().map(Vec::len).sum();
        eprintln!("1800 buckets of a noisy sensor: {bytes} bytes");
        let counter: Vec<Record> = (0..18)
            .map(|chunk| {
                let closed = (0..100).map(|n| {
                    let at = chunk * 100 + n;
                    let low = 1_234_567.89 + f64::from(at) / 100.0;
                    let mut bucket = Bucket::of(at, low);
                    bucket.merge(&Bucket::of(at, low + 0.01));
                    bucket.pack()
                });
                let closed = closed.collect();
                record(Content::Buckets { tier: 2, begins: 0, closed })
            })
            .collect();
        let bytes: usize = written(&counter).iter().map(Vec::len).sum();
        eprintln!("1800 buckets of a counter: {bytes} bytes");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_every_value_fits(
            contents in prop::collection::vec(content(), 0..30)
        ) {
            let records: Vec<_> = contents.into_iter().map(record).collect();
            let values = written(&records);
            prop_assert!(values.iter().all(|value| value.len() <= VALUE_MAX));
            prop_assert_eq!(read(&values), records);
            for (number, value) in values.iter().enumerate() {
                let ((header, _), len) = open(value).unwrap();
                prop_assert_eq!(header.number as usize, number);
                prop_assert_eq!((header.full, header.last), (true, number + 1 == values.len()));
                prop_assert_eq!(len, value.len());
            }
        }

        #[test]
        fn damage_is_found_and_nonsense_harms_nobody(
            content in content(), at in 0..4096_usize, bit in 0..8_u32, noise in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let mut values = written(&[record(content)]);
            let at = at % values[0].len();
            values[0][at] ^= 1_u8 << bit;
            let opened = open(&values[0]);
            prop_assert!(opened.is_none(), "{:?}", opened);
            let _ = records(&noise);
            let mut rest = noise.as_slice();
            while Record::decode(&mut rest).is_some() {}
        }
    }
}
