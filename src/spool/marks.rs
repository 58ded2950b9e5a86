//! The file `marks`: how far writing and releasing have come. Two places are written in turn, so
//! that one of them is whole whatever happens.
//!
//! # Limits
//!
//! - Written after each commit and while draining, mostly without a sync: it survives the death of
//!   the process exactly and a power cut as of the last sync. It is never ahead of the databases.
//! - Losing it costs no batch: the databases tell the same, less exactly. Only when everything was
//!   released it alone says which position comes next; so it is synced before a database goes.
//!
//! # Version 2, little-endian, at offsets 0 and 512
//!
//! ```text
//!  0 4 "tgM2"          8 8 sequence, the higher one counts
//! 16 8 head           24 8 next
//! 32 8 generation     40 8 readings
//! 48 16 * (8 boot, 8 offset, float)       how the clock of each of the last boots was set last,
//!                                         see `ages`; boot 0 is none
//! 304 4 CRC-32 of bytes 0 to 303
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ages::BOOTS_MAX;
use crate::core::clock::{Base, UNKNOWN_BOOT};
use crate::core::ids::Position;
use crate::storage::disk;

const MAGIC: [u8; 4] = *b"tgM2";
const LEN: usize = 48 + 16 * BOOTS_MAX + 4;
const PLACES: [u64; 2] = [0, 512];

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Marks {
    /// The oldest position that is not released.
    pub(super) head: Position,
    /// The position after the last durable one.
    pub(super) next: Position,
    /// The generation that was written last: its first position.
    pub(super) generation: Position,
    /// Readings in it.
    pub(super) readings: u64,
    /// How the clocks of the last boots were set in the end; at most 16.
    pub(super) boots: Vec<Base>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct MarksFile {
    file: File,
    sequence: u64,
    written: Option<Marks>,
    synced: bool,
}

impl MarksFile {
    /// Opens or makes it, and reads the newest whole marks, if any.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Marks>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let newest = newest(&file);
        let (sequence, marks) = newest.unzip();
        let written = marks.clone();
        let this = Self { file, sequence: sequence.unwrap_or(0), written, synced: false };
        Ok((this, marks))
    }

    /// Whether `path` still leads to it.
    #[must_use]
    pub(super) fn is_at(&self, path: &Path) -> bool {
        disk::is_at(&self.file, path)
    }

    /// Writes `marks` where they differ from what was written last.
    ///
    /// # Errors
    /// When the disk refuses; what was written before is still whole.
    pub(super) fn write(&mut self, marks: &Marks) -> io::Result<()> {
        if self.written.as_ref() == Some(marks) {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let place = if sequence % 2 == 0 { PLACES[0] } else { PLACES[1] };
        self.file.write_all_at(&encode(sequence, marks), place)?;
        self.sequence = sequence;
        self.written = Some(marks.clone());
        self.synced = false;
        Ok(())
    }

    /// Like [`Self::write`], and waits until it has reached the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn write_through(&mut self, marks: &Marks) -> io::Result<()> {
        self.write(marks)?;
        if !self.synced {
            self.file.sync_all()?;
            self.synced = true;
        }
        Ok(())
    }
}

/// The newest whole marks in the file at `path`, which is not made or written.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn read(path: &Path) -> io::Result<Option<Marks>> {
    Ok(newest(&File::open(path)?).map(|(_, marks)| marks))
}

fn newest(file: &File) -> Option<(u64, Marks)> {
    let whole = PLACES.iter().filter_map(|place| {
        let mut bytes = [0; LEN];
        // Short or unreadable counts as not there.
        file.read_exact_at(&mut bytes, *place).ok()?;
        decode(&bytes)
    });
    whole.max_by_key(|(sequence, _)| *sequence)
}

fn encode(sequence: u64, marks: &Marks) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    for field in [sequence, marks.head, marks.next, marks.generation, marks.readings] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    let none = std::iter::repeat(Base::default());
    for base in marks.boots.iter().copied().chain(none).take(BOOTS_MAX) {
        bytes.extend_from_slice(&base.boot.to_le_bytes());
        bytes.extend_from_slice(&base.offset.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LEN]) -> Option<(u64, Marks)> {
    let (covered, checksum) = bytes.split_last_chunk()?;
    if !covered.starts_with(&MAGIC) || crc32fast::hash(covered) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut fields = covered
        .get(8..)?
        .chunks_exact(8)
        .map(|field| field.try_into().map_or(0, u64::from_le_bytes));
    let mut field = || fields.next();
    let sequence = field()?;
    let mut marks = Marks {
        head: field()?,
        next: field()?,
        generation: field()?,
        readings: field()?,
        boots: Vec::new(),
    };
    while let (Some(boot), Some(offset)) = (field(), field()) {
        let base = Base { boot, offset: f64::from_bits(offset) };
        if boot != UNKNOWN_BOOT && base.offset.is_finite() {
            marks.boots.push(base);
        }
    }
    Some((sequence, marks))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn marks(head: Position) -> Marks {
        let base = |boot: u64| Base { boot, offset: -2.5 };
        let boots = (1..=head).map(base).collect();
        Marks { head, next: head + 10, generation: 1, readings: 70, boots }
    }

    #[test]
    fn the_newest_marks_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, none) = MarksFile::open(&path).unwrap();
        assert_eq!(none, None);
        for head in 1..=5 {
            file.write(&marks(head)).unwrap();
            assert_eq!(MarksFile::open(&path).unwrap().1, Some(marks(head)));
        }
        file.write_through(&marks(6)).unwrap();
        assert_eq!(MarksFile::open(&path).unwrap().1, Some(marks(6)));
    }

    #[test]
    fn any_damage_to_the_newest_marks_leaves_the_ones_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, _) = MarksFile::open(&path).unwrap();
        file.write(&marks(1)).unwrap();
        file.write(&marks(2)).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..LEN {
            let mut bad = good.clone();
            // The second write went to the first place.
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let found = MarksFile::open(&path).unwrap().1;
            assert_eq!(found, Some(marks(1)), "byte {at} of the newest");
        }
        fs::write(&path, &good[..400]).unwrap();
        assert_eq!(MarksFile::open(&path).unwrap().1, Some(marks(2)));
        fs::write(&path, b"").unwrap();
        assert_eq!(MarksFile::open(&path).unwrap().1, None);
    }
}
