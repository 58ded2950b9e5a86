//! The bytes of batches on disk: what stands in the body of a chunk, before compression.
//!
//! # Limits
//!
//! - A body belongs to one chunk and is read from its beginning: texts and times refer back to
//!   earlier records of the same body, never to another.
//! - At most 4096 texts of a body can be referred back to; later ones are written out each time.
//! - Integers are LEB128, at most 10 bytes; signed ones are zigzag coded first.
//! - A body that breaks a rule is refused whole; nothing is guessed.
//! - Floats come back bit for bit.
//!
//! # Version 1
//!
//! ```text
//! body    = record*                                  as many as the chunk's header says
//! record  = flags device [epoch] [seq] received [clock] [extras] count reading{count}
//!   flags     1 byte  bit 0  the epoch is that of this device's previous record: none follows
//!                     bit 1  seq follows
//!                     bit 2  extras follow: a length and that many bytes, for later versions;
//!                            a reader that does not know them skips them
//!                     bit 3  clock follows; else it is that of the record before (at first both 0)
//!                     others 0
//!   device    text    1 to 64 characters, see `core::ids`
//!   epoch     integer
//!   seq       zigzag  difference to the previous seq of this device and epoch (at first 0)
//!   received  time    to the previous record's `received` (at first 0.0)
//!   clock     boot  8 bytes, which boot of the machine, 0 if unknown
//!             offset  8 bytes IEEE 754: Unix time less the time since that boot; both little-endian
//!   count     integer readings
//! reading = flags name [unit] [value] [sum] [time] [update]
//!   flags     1 byte  bits 0-2  value: 0 none, 1 number, 2 text, 3 false, 4 true, 5 data
//!                     bit 3     unit follows
//!                     bit 4     sum follows
//!                     bit 5     time follows; else it is that of the reading before (at first
//!                               `received`)
//!                     bit 6     update time follows
//!                     bit 7     the time was counted from the gateway's clock at receipt
//!   name, unit text
//!   value     number, text, or data = length and bytes
//!   sum, update number
//!   time      time    to the reading before (at first `received`)
//! text    = integer n    n even: the text number n/2 of this body
//!                        n odd: (n-1)/2 bytes of UTF-8 follow, which get the next number
//! number  = tag, then    tag 0-9: zigzag integer, divided by ten to the power of the tag
//!                        tag 10: 4 bytes IEEE 754, little-endian;  tag 11: 8 bytes
//! time    = tag bytes    the 64 bits of the float XOR those of the one it refers to, big-endian,
//!                        without leading and trailing zero bytes; tag = leading * 16 + trailing
//! ```

use std::collections::HashMap;

use compact_str::CompactString;

use crate::core::batch::{Batch, Reading, Value};
use crate::core::clock::Base;
use crate::core::ids::DeviceId;

/// Texts of one body that can be referred back to.
const TEXTS_MAX: usize = 4096;

const SAME_EPOCH: u8 = 1;
const HAS_SEQ: u8 = 2;
const HAS_EXTRAS: u8 = 4;
const HAS_CLOCK: u8 = 8;

const KIND: u8 = 7;
const HAS_UNIT: u8 = 8;
const HAS_SUM: u8 = 16;
const HAS_TIME: u8 = 32;
const HAS_UPDATE: u8 = 64;
const RELATIVE: u8 = 128;

const FLOAT32: u8 = 10;
const FLOAT64: u8 = 11;

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends within a record.
    #[error("the record ends too early")]
    Truncated,
    /// A byte that this version does not know.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// A value that cannot be.
    #[error("bad {0}")]
    Bad(&'static str),
}

/// Writes the records of one chunk.
#[derive(Debug, Default)]
pub struct Encoder {
    body: Vec<u8>,
    texts: HashMap<CompactString, u64>,
    runs: HashMap<DeviceId, (u64, u64)>,
    received: u64,
    base: Base,
}

impl Encoder {
    /// Adds one record.
    pub fn push(&mut self, batch: &Batch) {
        let run = self.runs.get(&batch.device).copied();
        let same_epoch = run.is_some_and(|(epoch, _)| epoch == batch.epoch);
        let last_seq = run.filter(|_| same_epoch).map_or(0, |(_, seq)| seq);
        let mut flags = 0;
        if same_epoch {
            flags |= SAME_EPOCH;
        }
        if batch.seq.is_some() {
            flags |= HAS_SEQ;
        }
        let (base, clock) = (batch.base, self.base);
        // Bit for bit, like everything here.
        if (base.boot, base.offset.to_bits()) != (clock.boot, clock.offset.to_bits()) {
            flags |= HAS_CLOCK;
        }
        self.body.push(flags);
        self.text(batch.device.as_str());
        if !same_epoch {
            self.integer(batch.epoch);
        }
        if let Some(seq) = batch.seq {
            self.zigzag(signed(seq.wrapping_sub(last_seq)));
        }
        self.runs.insert(batch.device.clone(), (batch.epoch, batch.seq.unwrap_or(last_seq)));
        let received = batch.received.to_bits();
        self.time(received ^ self.received);
        self.received = received;
        if flags & HAS_CLOCK != 0 {
            self.body.extend_from_slice(&base.boot.to_le_bytes());
            self.body.extend_from_slice(&base.offset.to_le_bytes());
            self.base = base;
        }
        self.integer(batch.readings.len() as u64);
        let mut time = received;
        for reading in &batch.readings {
            self.reading(reading, time);
            time = reading.time.to_bits();
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The finished body; the encoder is ready for the next chunk.
    pub fn take(&mut self) -> Vec<u8> {
        self.texts.clear();
        self.runs.clear();
        self.received = 0;
        self.base = Base::default();
        std::mem::take(&mut self.body)
    }

    fn reading(&mut self, reading: &Reading, previous_time: u64) {
        let mut flags = match &reading.value {
            None => 0,
            Some(Value::Number(_)) => 1,
            Some(Value::Text(_)) => 2,
            Some(Value::Bool(false)) => 3,
            Some(Value::Bool(true)) => 4,
            Some(Value::Data(_)) => 5,
        };
        let time = reading.time.to_bits() ^ previous_time;
        for (present, flag) in [
            (reading.unit.is_some(), HAS_UNIT),
            (reading.sum.is_some(), HAS_SUM),
            (time != 0, HAS_TIME),
            (reading.update_time.is_some(), HAS_UPDATE),
            (reading.relative, RELATIVE),
        ] {
            if present {
                flags |= flag;
            }
        }
        self.body.push(flags);
        self.text(&reading.name);
        if let Some(unit) = &reading.unit {
            self.text(unit);
        }
        match &reading.value {
            Some(Value::Number(number)) => self.number(*number),
            Some(Value::Text(text)) => self.text(text),
            Some(Value::Data(data)) => {
                self.integer(data.len() as u64);
                self.body.extend_from_slice(data);
            }
            Some(Value::Bool(_)) | None => {}
        }
        if let Some(sum) = reading.sum {
            self.number(sum);
        }
        if time != 0 {
            self.time(time);
        }
        if let Some(update) = reading.update_time {
            self.number(update);
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(&number) = self.texts.get(text) {
            return self.integer(number << 1);
        }
        if self.texts.len() < TEXTS_MAX {
            self.texts.insert(text.into(), self.texts.len() as u64);
        }
        self.integer((text.len() as u64) << 1 | 1);
        self.body.extend_from_slice(text.as_bytes());
    }

    fn integer(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.body.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.body.push(low_byte(value));
    }

    fn zigzag(&mut self, value: i64) {
        self.integer(unsigned(value << 1 ^ value >> 63));
    }

    fn number(&mut self, value: f64) {
        if let Some((digits, mantissa)) = decimal(value) {
            self.body.push(digits);
            return self.zigzag(mantissa);
        }
        #[allow(clippy::cast_possible_truncation, reason = "compared with the original below")]
        let short = value as f32;
        if f64::from(short).to_bits() == value.to_bits() {
            self.body.push(FLOAT32);
            self.body.extend_from_slice(&short.to_le_bytes());
        } else {
            self.body.push(FLOAT64);
            self.body.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn time(&mut self, difference: u64) {
        let leading = difference.leading_zeros() / 8;
        let trailing = if difference == 0 { 0 } else { difference.trailing_zeros() / 8 };
        self.body.push(low_byte(u64::from(leading << 4 | trailing)));
        let bytes = difference.to_be_bytes();
        let middle = bytes.get(leading as usize..8 - trailing as usize).unwrap_or_default();
        self.body.extend_from_slice(middle);
    }
}

/// The lowest byte; the rest is dropped on purpose.
fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// The same bits. (The standard library's own cast needs Rust 1.87.)
fn signed(value: u64) -> i64 {
    i64::from_le_bytes(value.to_le_bytes())
}

fn unsigned(value: i64) -> u64 {
    u64::from_le_bytes(value.to_le_bytes())
}

/// Powers of ten that are exact as floats, one for each decimal tag.
const TENS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// `value` as a mantissa and a number of decimal digits, where that is exact and shorter than the
/// float itself: what sensors send is mostly of this kind.
fn decimal(value: f64) -> Option<(u8, i64)> {
    /// More than this takes 7 bytes and more.
    const MANTISSA_MAX: f64 = (1_u64 << 41) as f64;
    let shortest_float = {
        #[allow(clippy::cast_possible_truncation, reason = "only compared")]
        let short = value as f32;
        if f64::from(short).to_bits() == value.to_bits() { 1e8 } else { MANTISSA_MAX }
    };
    for (digits, ten) in (0_u8..).zip(TENS) {
        let mantissa = (value * ten).round();
        if mantissa.is_nan() || mantissa.abs() >= shortest_float {
            return None;
        }
        if (mantissa / ten).to_bits() == value.to_bits() {
            #[allow(clippy::cast_possible_truncation, reason = "integral and below 2^41")]
            let mantissa = mantissa as i64;
            // Minus zero has no integer.
            return (mantissa != 0 || value.to_bits() == 0).then_some((digits, mantissa));
        }
    }
    None
}

/// Reads the records of one chunk.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    texts: Vec<CompactString>,
    devices: HashMap<CompactString, (DeviceId, u64, u64)>,
    received: u64,
    base: Base,
}

impl<'a> Decoder<'a> {
    /// Starts at the beginning of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            rest: body,
            texts: Vec::new(),
            devices: HashMap::new(),
            received: 0,
            base: Base::default(),
        }
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next record. Memory is bounded by the bytes that are really there.
    ///
    /// # Errors
    /// When the bytes are not a record of version 1; the rest of the body is then unreadable.
    pub fn next_batch(&mut self) -> Result<Batch, RecordError> {
        let flags = self.byte()?;
        if flags & !(SAME_EPOCH | HAS_SEQ | HAS_EXTRAS | HAS_CLOCK) != 0 {
            return Err(RecordError::Unknown("record flag"));
        }
        let name = self.text()?;
        let known = self.devices.get(&name).cloned();
        let (device, last) = match known {
            Some((device, epoch, seq)) => (device, Some((epoch, seq))),
            None => (DeviceId::new(&name).map_err(|_| RecordError::Bad("device id"))?, None),
        };
        let (epoch, last_seq) = if flags & SAME_EPOCH == 0 {
            (self.integer()?, 0)
        } else {
            last.ok_or(RecordError::Bad("epoch"))?
        };
        let seq = if flags & HAS_SEQ == 0 {
            None
        } else {
            Some(last_seq.wrapping_add(unsigned(self.zigzag()?)))
        };
        self.devices.insert(name, (device.clone(), epoch, seq.unwrap_or(last_seq)));
        self.received ^= self.time()?;
        let received = f64::from_bits(self.received);
        if flags & HAS_CLOCK != 0 {
            let boot = u64::from_le_bytes(self.array()?);
            self.base = Base { boot, offset: f64::from_le_bytes(self.array()?) };
        }
        if flags & HAS_EXTRAS != 0 {
            let len = self.length()?;
            self.bytes(len)?;
        }
        let count = self.length()?;
        // A reading takes two bytes at least.
        let mut readings = Vec::with_capacity(count.min(self.rest.len() / 2));
        let mut time = received;
        for _ in 0..count {
            let reading = self.reading(time)?;
            time = reading.time;
            readings.push(reading);
        }
        Ok(Batch { device, epoch, seq, received, base: self.base, shift: 0.0, readings })
    }

    fn reading(&mut self, previous_time: f64) -> Result<Reading, RecordError> {
        let flags = self.byte()?;
        let name = self.text()?;
        let unit = if flags & HAS_UNIT == 0 { None } else { Some(self.text()?) };
        let value = match flags & KIND {
            0 => None,
            1 => Some(Value::Number(self.number()?)),
            2 => Some(Value::Text(self.text()?)),
            3 => Some(Value::Bool(false)),
            4 => Some(Value::Bool(true)),
            5 => {
                let len = self.length()?;
                Some(Value::Data(self.bytes(len)?.into()))
            }
            _ => return Err(RecordError::Unknown("kind of value")),
        };
        let sum = if flags & HAS_SUM == 0 { None } else { Some(self.number()?) };
        let time = if flags & HAS_TIME == 0 {
            previous_time
        } else {
            f64::from_bits(previous_time.to_bits() ^ self.time()?)
        };
        let update_time = if flags & HAS_UPDATE == 0 { None } else { Some(self.number()?) };
        let relative = flags & RELATIVE != 0;
        Ok(Reading { name, unit, value, sum, time, update_time, relative })
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let (&byte, rest) = self.rest.split_first().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn integer(&mut self) -> Result<u64, RecordError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::Bad("integer"))
    }

    fn zigzag(&mut self) -> Result<i64, RecordError> {
        let value = self.integer()?;
        Ok(signed(value >> 1) ^ -signed(value & 1))
    }

    fn length(&mut self) -> Result<usize, RecordError> {
        let length = self.integer()?;
        // What a 32-bit machine cannot count is not there either.
        usize::try_from(length).map_err(|_| RecordError::Truncated)
    }

    fn text(&mut self) -> Result<CompactString, RecordError> {
        let head = self.length()?;
        if head & 1 == 0 {
            return self.texts.get(head >> 1).cloned().ok_or(RecordError::Bad("reference"));
        }
        let text = CompactString::from_utf8(self.bytes(head >> 1)?)
            .map_err(|_| RecordError::Bad("UTF-8"))?;
        if self.texts.len() < TEXTS_MAX {
            self.texts.push(text.clone());
        }
        Ok(text)
    }

    fn number(&mut self) -> Result<f64, RecordError> {
        match self.byte()? {
            FLOAT32 => Ok(f32::from_le_bytes(self.array()?).into()),
            FLOAT64 => Ok(f64::from_le_bytes(self.array()?)),
            digits => {
                let ten =
                    TENS.get(usize::from(digits)).ok_or(RecordError::Unknown("kind of number"))?;
                Ok(self.zigzag()? as f64 / ten)
            }
        }
    }

    fn time(&mut self) -> Result<u64, RecordError> {
        let tag = self.byte()?;
        let (leading, trailing) = (usize::from(tag >> 4), usize::from(tag & 15));
        let len = 8_usize.checked_sub(leading + trailing).ok_or(RecordError::Bad("time"))?;
        let mut difference = [0; 8];
        if let Some(middle) = difference.get_mut(leading..leading + len) {
            middle.copy_from_slice(self.bytes(len)?);
        }
        Ok(u64::from_be_bytes(difference))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
