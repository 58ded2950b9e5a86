//! The file `losses`: what was lost and has not been published yet. Two places are written in turn,
//! so that one of them is whole whatever happens.
//!
//! # Limits
//!
//! - Each place takes [`PLACE`] bytes, for about 600 records; on a full disk, where the file cannot
//!   grow, the [`BLOCK`] it was made with, for about 40. Beyond that records are joined, never
//!   dropped: see `unpublished`.
//! - It is synced before what it tells of is deleted, and says up to where everything was given up:
//!   an eviction that a crash ended half-way is whole, and told once.
//! - What was acknowledged is taken out without a sync: after a power cut some records may be
//!   published again. So may a loss by damage, where a crash comes between writing it here and
//!   noting in the summary that it is written.
//! - Losing this file costs the records in it, not the counts in the log.
//!
//! # Version 1, little-endian, at offsets 0 and 65 536
//!
//! ```text
//!  0 4 "tgL1"          4 4 bytes after the header
//!  8 8 sequence, the higher one counts
//! 16 8 everything before this position was released or given up
//! 24 4 CRC-32 of bytes 0 to 23 and of everything from 28 on
//! 28   records: reason u8 (1 evicted-size, 2 evicted-age, 3 corrupt, 4 refused), len u8 and device
//!      (0: not known), epoch first_seq last_seq batches readings u64 (seqs 0: none),
//!      time oldest newest float (NaN: not known), len u8 and detail
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::tally::Fields;
use super::unpublished::{Number, Unpublished};
use crate::core::batch::{Loss, LossReason};
use crate::core::ids::{DeviceId, Position};
use crate::storage::disk;

/// What one place may take.
const PLACE: usize = 64 * 1024;
/// What each place takes from the beginning.
const BLOCK: usize = 4096;
const MAGIC: [u8; 4] = *b"tgL1";
const HEADER: usize = 28;
/// Longer details are cut.
const DETAIL_MAX: usize = 160;
/// Records under way to the broker.
const WINDOW: usize = 32;

/// The queue and its file.
#[derive(Debug)]
pub(super) struct Losses {
    path: PathBuf,
    file: Option<File>,
    sequence: u64,
    head: Position,
    queue: Unpublished,
    /// What the file has is not what the queue has.
    dirty: bool,
    synced: bool,
    bytes: u64,
}

impl Losses {
    /// Reads the file, or makes it where it is missing and there is room.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut this = Self {
            path: path.into(),
            file: None,
            sequence: 0,
            head: 0,
            queue: Unpublished::default(),
            dirty: false,
            synced: false,
            bytes: 0,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        match newest(&bytes) {
            Some((sequence, head, losses)) => {
                (this.sequence, this.head) = (sequence, head);
                this.queue.add(losses);
            }
            None if is_blank(&bytes) => {}
            None => tracing::error!(
                path = %path.display(),
                "the records of losses cannot be read: what was lost earlier and not published yet \
                 is only in the log of that time"
            ),
        }
        if let Err(error) = this.prepare() {
            tracing::warn!(%error, path = %path.display(), "cannot be written yet");
        }
        Ok(this)
    }

    /// Everything before it was released or given up.
    #[must_use]
    pub(super) fn head(&self) -> Position {
        self.head
    }

    /// What the file takes on the disk in bytes, besides what it was made with.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.saturating_sub(2 * BLOCK as u64)
    }

    /// How many records wait for the broker.
    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether [`Self::save`] has something to do.
    #[must_use]
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Adds records; they last once they are saved.
    pub(super) fn add(&mut self, losses: impl IntoIterator<Item = Loss>) {
        let mut added = false;
        self.queue.add(losses.into_iter().inspect(|_| added = true));
        self.dirty |= added;
    }

    /// Hands out what may be sent to the broker now.
    pub(super) fn hand_out(&mut self) -> Vec<(Number, Loss)> {
        self.queue.hand_out(WINDOW)
    }

    /// The broker has everything up to and including `through`.
    pub(super) fn published(&mut self, through: Number) {
        self.dirty |= self.queue.published(through);
    }

    /// Gives up everything before `head`: adds what that loses and waits until it has reached the
    /// disk.
    ///
    /// # Errors
    /// When the disk refuses; then nothing was added.
    pub(super) fn give_up(
        &mut self,
        head: Position,
        losses: impl IntoIterator<Item = Loss>,
    ) -> io::Result<()> {
        let (queue, before) = (self.queue.clone(), self.head);
        self.add(losses);
        self.head = self.head.max(head);
        self.dirty = true;
        self.save_through().inspect_err(|_| (self.queue, self.head) = (queue, before))
    }

    /// Writes the records where they have changed, without waiting for the disk: the death of the
    /// process does not take them any more.
    ///
    /// # Errors
    /// When the disk refuses; what was written before is still whole.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        self.prepare()?;
        self.queue.bound(PLACE - HEADER, size);
        match self.write() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // What is there can be overwritten.
                self.queue.bound(BLOCK - HEADER, size);
                self.write()
            }
            result => result,
        }
    }

    /// Like [`Self::save`], and waits until all has reached the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn save_through(&mut self) -> io::Result<()> {
        self.save()?;
        if !self.synced {
            self.prepare()?;
            self.file.as_ref().map_or(Ok(()), File::sync_all)?;
            self.synced = true;
        }
        Ok(())
    }

    /// Makes the file anew if it is gone.
    pub(super) fn renew(&mut self) {
        if self.file.as_ref().is_some_and(|file| !disk::is_at(file, &self.path)) {
            self.file = None;
            self.dirty = true;
        }
    }

    fn prepare(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        if file.metadata()?.len() == 0 {
            for place in [0, PLACE] {
                file.write_all_at(&[0; BLOCK], place as u64)?;
            }
            file.sync_all()?;
            disk::sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
            self.dirty |= self.queue.len() > 0;
        }
        self.bytes = file.metadata()?.blocks() * 512;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let sequence = self.sequence + 1;
        let place = if sequence % 2 == 0 { 0 } else { PLACE };
        let bytes = encode(sequence, self.head, self.queue.iter());
        self.synced = false;
        file.write_all_at(&bytes, place as u64)?;
        self.bytes = file.metadata()?.blocks() * 512;
        self.sequence = sequence;
        self.dirty = false;
        Ok(())
    }
}

/// What is found in the file without changing it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Everything before it was released or given up.
    pub(super) head: Position,
    /// The records that wait for the broker, oldest first.
    pub(super) losses: Vec<Loss>,
    /// One of the places, or both, holds something that is not whole: a write that was cut short, or
    /// damage. The newest records may be missing.
    pub(super) torn: bool,
}

/// Reads the file at `path`, which is not made or written.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Found> {
    let bytes = std::fs::read(path)?;
    let (_, head, losses) = newest(&bytes).unwrap_or_default();
    let torn = places(&bytes).any(|place| !is_blank(place) && decode(place).is_none());
    Ok(Found { head, losses, torn })
}

/// The two places, as far as the file has them.
fn places(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (first, second) = bytes.split_at_checked(PLACE).unwrap_or((bytes, &[]));
    [first, second].into_iter()
}

fn newest(bytes: &[u8]) -> Option<(u64, Position, Vec<Loss>)> {
    places(bytes).filter_map(decode).max_by_key(|newest| newest.0)
}

/// Whether nothing was ever written there.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn size(loss: &Loss) -> usize {
    let device = loss.device.as_ref().map_or(0, |device| device.as_str().len());
    let detail = loss.detail.as_deref().map_or(0, |detail| cut(detail).len());
    67 + device + detail
}

fn cut(detail: &str) -> &str {
    let longest = DETAIL_MAX.min(detail.len());
    let end = (0..=longest).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
    detail.get(..end).unwrap_or_default()
}

fn encode<'a>(sequence: u64, head: Position, losses: impl Iterator<Item = &'a Loss>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&head.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for loss in losses {
        bytes.push(code(loss.reason));
        text(&mut bytes, loss.device.as_ref().map_or("", DeviceId::as_str));
        let (oldest, newest) = loss.received.unwrap_or((f64::NAN, f64::NAN));
        for field in [
            loss.epoch,
            loss.first_seq.unwrap_or(0),
            loss.last_seq.unwrap_or(0),
            loss.batches,
            loss.readings,
            loss.time.to_bits(),
            oldest.to_bits(),
            newest.to_bits(),
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        text(&mut bytes, loss.detail.as_deref().map_or("", cut));
    }
    let len = u32::try_from(bytes.len() - HEADER).unwrap_or(u32::MAX);
    put(&mut bytes, 4, &len.to_le_bytes());
    let checksum = checksum(&bytes);
    put(&mut bytes, 24, &checksum.to_le_bytes());
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u8::try_from(text.len()));
    bytes.extend_from_slice(text.as_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Over everything but the place of the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..24).unwrap_or_default());
    hasher.update(bytes.get(HEADER..).unwrap_or_default());
    hasher.finalize()
}

fn decode(bytes: &[u8]) -> Option<(u64, Position, Vec<Loss>)> {
    let mut header = Fields(bytes.get(..HEADER)?.strip_prefix(&MAGIC)?);
    let len = usize::try_from(header.count()?).ok()?;
    let (sequence, head, expected) = (header.integer()?, header.integer()?, header.count()?);
    let whole = bytes.get(..HEADER.checked_add(len)?)?;
    if checksum(whole) != expected {
        return None;
    }
    let mut fields = Fields(whole.get(HEADER..)?);
    let mut losses = Vec::new();
    while !fields.0.is_empty() {
        losses.push(record(&mut fields)?);
    }
    Some((sequence, head, losses))
}

fn record(fields: &mut Fields<'_>) -> Option<Loss> {
    let reason = fields.byte()?;
    let reason = LossReason::ALL.into_iter().find(|known| code(*known) == reason)?;
    let device = string(fields)?;
    let device = if device.is_empty() { None } else { Some(DeviceId::new(device).ok()?) };
    let seq = |seq: u64| (seq != 0).then_some(seq);
    let mut loss = Loss {
        device,
        epoch: fields.integer()?,
        first_seq: seq(fields.integer()?),
        last_seq: seq(fields.integer()?),
        batches: fields.integer()?,
        readings: fields.integer()?,
        received: None,
        reason,
        time: f64::from_bits(fields.integer()?),
        detail: None,
    };
    let (oldest, newest) = (f64::from_bits(fields.integer()?), f64::from_bits(fields.integer()?));
    loss.received = (!oldest.is_nan()).then_some((oldest, newest));
    loss.detail = Some(string(fields)?).filter(|detail| !detail.is_empty()).map(str::to_owned);
    Some(loss)
}

fn string<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let len = usize::from(fields.byte()?);
    std::str::from_utf8(fields.bytes(len)?).ok()
}

fn code(reason: LossReason) -> u8 {
    match reason {
        LossReason::EvictedSize => 1,
        LossReason::EvictedAge => 2,
        LossReason::Corrupt => 3,
        LossReason::Refused => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn loss(number: u64) -> Loss {
        let device = (number % 4 != 0).then(|| DeviceId::new("kiln-1").unwrap());
        Loss {
            device,
            epoch: number,
            first_seq: Some(number + 1),
            last_seq: Some(number + 5),
            batches: 5,
            readings: 50,
            received: (number % 2 == 0).then_some((1.5, 2.5)),
            reason: LossReason::ALL[usize::try_from(number % 4).unwrap()],
            time: number as f64,
            detail: (number % 3 == 0).then(|| format!("the broker's words, {number}")),
        }
    }

    fn open(path: &Path) -> (Losses, Vec<Loss>) {
        let losses = Losses::open(path).unwrap();
        let all = losses.queue.iter().cloned().collect();
        (losses, all)
    }

    #[test]
    fn what_was_saved_is_read_back_until_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("losses");
        let (mut file, none) = open(&path);
        assert_eq!(none, []);
        file.give_up(77, (0..8).map(loss)).unwrap();
        let (mut file, all) = open(&path);
        assert_eq!(all, (0..8).map(loss).collect::<Vec<_>>());
        assert_eq!((file.head(), file.waiting()), (77, 8));
        assert_eq!(file.hand_out().len(), 8);
        file.published(3);
        file.save().unwrap();
        assert_eq!(open(&path).1, (3..8).map(loss).collect::<Vec<_>>());
        file.published(8);
        file.save_through().unwrap();
        let (file, all) = open(&path);
        assert_eq!((file.head(), all.len()), (77, 0));
    }

    #[test]
    fn any_damage_to_the_newest_leaves_what_was_written_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("losses");
        let (mut file, _) = open(&path);
        file.give_up(5, [loss(1)]).unwrap();
        file.give_up(9, [loss(2)]).unwrap();
        let good = fs::read(&path).unwrap();
        let len = encode(2, 9, [loss(1), loss(2)].iter()).len();
        for at in 0..len {
            let mut bad = good.clone();
            // The second write went to the first place.
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let found = read(&path).unwrap();
            assert_eq!((found.head, found.losses, found.torn), (5, vec![loss(1)], true));
            assert_eq!(open(&path).1, [loss(1)], "byte {at} of the newest");
        }
        fs::write(&path, &good).unwrap();
        let found = read(&path).unwrap();
        assert_eq!((found.head, found.losses.len(), found.torn), (9, 2, false));
        for len in [0, 1, 100, BLOCK] {
            fs::write(&path, &good[..len]).unwrap();
            let expected = if len == BLOCK { 2 } else { 0 };
            assert_eq!(open(&path).1.len(), expected, "cut to {len}");
        }
    }

    #[test]
    fn a_file_never_takes_more_than_its_two_places() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("losses");
        let (mut file, _) = open(&path);
        for round in 0..20 {
            file.give_up(round, (0..200).map(|number| loss(200 * round + number))).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= 2 * PLACE as u64);
        assert!(file.bytes() <= 2 * PLACE as u64 + 8192, "{}", file.bytes());
        let (_, all) = open(&path);
        assert_eq!(all.iter().map(|loss| loss.readings).sum::<u64>(), 20 * 200 * 50);
        assert_eq!(all.iter().map(|loss| loss.batches).sum::<u64>(), 20 * 200 * 5);
    }

    #[test]
    fn a_file_that_was_deleted_is_made_again_with_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("losses");
        let (mut file, _) = open(&path);
        file.give_up(5, [loss(1)]).unwrap();
        fs::remove_file(&path).unwrap();
        file.renew();
        file.save_through().unwrap();
        assert_eq!(open(&path).1, [loss(1)]);
    }
}
