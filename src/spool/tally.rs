//! Who has what in a generation, and the file `summary` that keeps it.
//!
//! # Limits
//!
//! - A summary is written once a generation is complete, without a sync, and is optional: where it
//!   is missing or damaged the generation is read instead.
//! - It holds an entry for each device and epoch, not for each batch.
//!
//! # Version 2, little-endian
//!
//! ```text
//! "tgG2"  4 bytes 0
//! first end head readings            u64 each
//! oldest newest                      float each
//! boot offset                        u64, float: the clock these two were read from
//! n, n * (first end readings u8)     u32, u64 each: what is lost, and whether that was reported
//! n, n * (len device epoch first_seq last_seq batches readings last oldest newest)
//!                                    u32, u8, bytes, u64 each, float; seqs 0 where there was none
//! CRC-32 of everything before        u32
//! ```

use std::collections::HashMap;

use crate::core::batch::{Batch, Loss, LossReason};
use crate::core::clock::Base;
use crate::core::ids::{DeviceId, Position};

const MAGIC: [u8; 4] = *b"tgG2";

/// What each device and epoch has among some batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tallies(HashMap<(DeviceId, u64), Tally>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tally {
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    batches: u64,
    readings: u64,
    last: Position,
    oldest: f64,
    newest: f64,
}

impl Tallies {
    /// Counts one batch.
    pub(super) fn add(&mut self, position: Position, batch: &Batch) {
        self.join(
            (batch.device.clone(), batch.epoch),
            Tally {
                first_seq: batch.seq,
                last_seq: batch.seq,
                batches: 1,
                readings: batch.readings.len() as u64,
                last: position,
                oldest: batch.received,
                newest: batch.received,
            },
        );
    }

    /// Counts what `other` counted.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, tally) in other.0 {
            self.join(key, tally);
        }
    }

    /// One loss for each device and epoch, in the order of their last batches.
    #[must_use]
    pub(super) fn losses(self, reason: LossReason, time: f64) -> Vec<Loss> {
        let mut tallies: Vec<_> = self.0.into_iter().collect();
        tallies.sort_by_key(|(_, tally)| tally.last);
        tallies
            .into_iter()
            .map(|((device, epoch), tally)| Loss {
                device: Some(device),
                epoch,
                first_seq: tally.first_seq,
                last_seq: tally.last_seq,
                batches: tally.batches,
                readings: tally.readings,
                received: Some((tally.oldest, tally.newest)),
                reason,
                time,
                detail: None,
            })
            .collect()
    }

    /// The newest epoch of each device that numbers its batches, and its highest number in it.
    #[must_use]
    pub(super) fn progress(&self) -> Vec<(DeviceId, u64, u64)> {
        let mut newest: HashMap<&DeviceId, (Position, u64, u64)> = HashMap::new();
        for ((device, epoch), tally) in &self.0 {
            let Some(seq) = tally.last_seq else { continue };
            let entry = newest.entry(device).or_insert((tally.last, *epoch, seq));
            if entry.0 < tally.last {
                *entry = (tally.last, *epoch, seq);
            }
        }
        let mut progress: Vec<_> =
            newest.into_iter().map(|(d, (_, epoch, seq))| (d.clone(), epoch, seq)).collect();
        progress.sort();
        progress
    }

    fn join(&mut self, key: (DeviceId, u64), tally: Tally) {
        let entry = self.0.entry(key).or_insert(Tally { batches: 0, readings: 0, ..tally });
        entry.first_seq = match (entry.first_seq, tally.first_seq) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        entry.last_seq = entry.last_seq.max(tally.last_seq);
        entry.batches += tally.batches;
        entry.readings += tally.readings;
        entry.last = entry.last.max(tally.last);
        entry.oldest = entry.oldest.min(tally.oldest);
        entry.newest = entry.newest.max(tally.newest);
    }
}

/// A range of positions that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// The first lost position.
    pub(super) first: Position,
    /// The position after the last.
    pub(super) end: Position,
    /// Readings in them, as near as is known.
    pub(super) readings: u64,
    /// Whether a [`Loss`] has been handed out.
    pub(super) reported: bool,
}

impl Missing {
    /// The loss to hand out.
    #[must_use]
    pub(super) fn loss(&self, time: f64) -> Loss {
        Loss {
            device: None,
            epoch: 0,
            first_seq: None,
            last_seq: None,
            batches: self.end - self.first,
            readings: self.readings,
            received: None,
            reason: LossReason::Corrupt,
            time,
            detail: None,
        }
    }
}

/// What is known of a complete generation without reading it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    /// Its first position.
    pub(super) first: Position,
    /// The position after its last.
    pub(super) end: Position,
    /// The oldest position that was not released when it was completed.
    pub(super) head: Position,
    /// Readings that were written to it.
    pub(super) readings: u64,
    /// When its oldest batch was received.
    pub(super) oldest: f64,
    /// When its newest batch was received.
    pub(super) newest: f64,
    /// The clock these two were read from.
    pub(super) base: Base,
    /// What of it is known to be lost.
    pub(super) missing: Vec<Missing>,
    /// Who has what in it.
    pub(super) tallies: Tallies,
}

impl Summary {
    /// The file's bytes.
    #[must_use]
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        for field in [self.first, self.end, self.head, self.readings] {
            put(field);
        }
        put(self.oldest.to_bits());
        put(self.newest.to_bits());
        put(self.base.boot);
        put(self.base.offset.to_bits());
        bytes.extend_from_slice(&count(self.missing.len()));
        for missing in &self.missing {
            for field in [missing.first, missing.end, missing.readings] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            bytes.push(missing.reported.into());
        }
        bytes.extend_from_slice(&count(self.tallies.0.len()));
        let mut tallies: Vec<_> = self.tallies.0.iter().collect();
        tallies.sort_by_key(|(key, tally)| (tally.last, *key));
        for ((device, epoch), tally) in tallies {
            let name = device.as_str().as_bytes();
            bytes.extend(u8::try_from(name.len()));
            bytes.extend_from_slice(name);
            let seq = |seq: Option<u64>| seq.unwrap_or(0);
            for field in [
                *epoch,
                seq(tally.first_seq),
                seq(tally.last_seq),
                tally.batches,
                tally.readings,
                tally.last,
                tally.oldest.to_bits(),
                tally.newest.to_bits(),
            ] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the file's bytes; none where they are not those that were written.
    #[must_use]
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, checksum) = bytes.split_last_chunk()?;
        if crc32fast::hash(covered) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut fields = Fields(covered.strip_prefix(&MAGIC)?);
        fields.array::<4>()?;
        let mut summary = Self {
            first: fields.integer()?,
            end: fields.integer()?,
            head: fields.integer()?,
            readings: fields.integer()?,
            oldest: f64::from_bits(fields.integer()?),
            newest: f64::from_bits(fields.integer()?),
            base: Base { boot: fields.integer()?, offset: f64::from_bits(fields.integer()?) },
            missing: Vec::new(),
            tallies: Tallies::default(),
        };
        for _ in 0..fields.count()? {
            summary.missing.push(Missing {
                first: fields.integer()?,
                end: fields.integer()?,
                readings: fields.integer()?,
                reported: fields.byte()? != 0,
            });
        }
        for _ in 0..fields.count()? {
            let len = usize::from(fields.byte()?);
            let device = DeviceId::new(std::str::from_utf8(fields.bytes(len)?).ok()?).ok()?;
            let epoch = fields.integer()?;
            let seq = |seq: u64| (seq != 0).then_some(seq);
            let tally = Tally {
                first_seq: seq(fields.integer()?),
                last_seq: seq(fields.integer()?),
                batches: fields.integer()?,
                readings: fields.integer()?,
                last: fields.integer()?,
                oldest: f64::from_bits(fields.integer()?),
                newest: f64::from_bits(fields.integer()?),
            };
            summary.tallies.0.insert((device, epoch), tally);
        }
        Some(summary)
    }
}

fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// Takes little-endian fields off the front of bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next u64.
    pub(super) fn integer(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next u32.
    pub(super) fn count(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "bit for bit is what is meant")]

    use super::*;

    fn batch(device: &str, epoch: u64, seq: Option<u64>, readings: usize) -> Batch {
        let reading = crate::core::batch::Reading {
            name: "t".into(),
            unit: None,
            value: None,
            sum: Some(1.0),
            time: 1.0,
            update_time: None,
            relative: false,
        };
        Batch {
            device: DeviceId::new(device).unwrap(),
            epoch,
            seq,
            received: 1.0,
            base: Base::default(),
            shift: 0.0,
            readings: vec![reading; readings],
        }
    }

    fn tallies() -> Tallies {
        let mut tallies = Tallies::default();
        tallies.add(10, &batch("a", 7, Some(3), 2));
        tallies.add(11, &batch("b", 1, None, 1));
        tallies.add(12, &batch("a", 7, Some(4), 2));
        tallies.add(13, &batch("a", 2, Some(1), 5));
        tallies
    }

    #[test]
    fn losses_are_merged_per_device_and_epoch() {
        let losses = tallies().losses(LossReason::EvictedSize, 9.0);
        let seen: Vec<_> = losses
            .iter()
            .map(|l| {
                let device = l.device.as_ref().unwrap().as_str();
                (device, l.epoch, l.first_seq, l.last_seq, l.readings)
            })
            .collect();
        assert_eq!(
            seen,
            [("b", 1, None, None, 1), ("a", 7, Some(3), Some(4), 4), ("a", 2, Some(1), Some(1), 5)]
        );
        assert!(losses.iter().all(|l| l.reason == LossReason::EvictedSize && l.time == 9.0));
    }

    #[test]
    fn progress_is_the_newest_epoch_of_each_numbering_device() {
        let device = DeviceId::new("a").unwrap();
        assert_eq!(tallies().progress(), [(device, 2, 1)]);
    }

    #[test]
    fn a_summary_is_read_back_and_any_damage_to_it_is_noticed() {
        let summary = Summary {
            first: 10,
            end: 14,
            head: 9,
            readings: 10,
            oldest: 1.5,
            newest: 2.5,
            base: Base { boot: 3, offset: 4.5 },
            missing: vec![Missing { first: 12, end: 13, readings: 2, reported: true }],
            tallies: tallies(),
        };
        let bytes = summary.encode();
        assert_eq!(Summary::decode(&bytes).as_ref(), Some(&summary));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Summary::decode(&bad), None, "byte {at}");
            assert_eq!(Summary::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
