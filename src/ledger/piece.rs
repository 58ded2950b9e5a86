//! What the values of the ledger's database are: entries, cut into pieces that say where they
//! belong, so that they can be found without the database.
//!
//! # Version 1, little-endian
//!
//! ```text
//!  0  4  "tgL1"
//!  4  1  kind: 0 a command, 1 a command is forgotten, 2 the next number
//!  5  3  0
//!  8  2  piece, from 0
//! 10  2  pieces
//! 12  4  bytes that follow the header
//! 16  8  the command's number; kind 2: above every number that was used
//! 24  4  kind 0: the command's version
//! 28  4  CRC-32 (IEEE) of the whole body
//! 32  8  sequence: which entry of this database it is, from 0
//! 40  8  all entries before this one were durable when this was written
//! 48  4  CRC-32 (IEEE) of bytes 0 to 47 and everything from 52 on
//! 52     the piece of the body
//! ```
//!
//! The body of a command is its `Record` as a CBOR map (RFC 8949) with the names of its members as
//! keys; unknown ones are passed over, so a later version may add some. The other kinds have none.

use crate::core::command::Record;
use crate::storage::store::VALUE_MAX;

/// What every piece begins with.
pub(super) const MARK: [u8; 4] = *b"tgL1";
const HEADER: usize = 52;
const PIECE_MAX: usize = VALUE_MAX - HEADER;

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry<'a> {
    /// A command as it is now.
    Record(&'a Record),
    /// It is gone.
    Forget(u64),
    /// Above every number that was used.
    Next(u64),
}

/// What a piece says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) kind: u8,
    pub(super) number: u64,
    pub(super) version: u32,
    pub(super) body_checksum: u32,
    pub(super) pieces: u16,
    pub(super) piece: u16,
    pub(super) durable: u64,
    len: u32,
}

pub(super) const RECORD: u8 = 0;
pub(super) const FORGET: u8 = 1;
pub(super) const NEXT: u8 = 2;

/// The pieces of `entry`, which is the entry `sequence` of its database.
pub(super) fn encode(entry: &Entry<'_>, sequence: u64, durable: u64) -> Vec<Vec<u8>> {
    let mut body = Vec::new();
    let (kind, number, version) = match entry {
        Entry::Record(record) => {
            // Writing to memory does not fail; a body cut short would be found by its decoder.
            let _ = ciborium::into_writer(record, &mut body);
            (RECORD, record.number, record.version)
        }
        Entry::Forget(number) => (FORGET, *number, 0),
        Entry::Next(number) => (NEXT, *number, 0),
    };
    let body_checksum = crc32fast::hash(&body);
    let pieces = u16::try_from(body.len().div_ceil(PIECE_MAX).max(1)).unwrap_or(u16::MAX);
    let mut parts = body.chunks(PIECE_MAX);
    (0..pieces)
        .map(|piece| {
            let part = parts.next().unwrap_or_default();
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let header = Header {
                sequence,
                kind,
                number,
                version,
                body_checksum,
                pieces,
                piece,
                durable,
                len,
            };
            header.seal(part)
        })
        .collect()
}

impl Header {
    fn seal(&self, part: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER + part.len());
        value.extend_from_slice(&MARK);
        value.extend_from_slice(&[self.kind, 0, 0, 0]);
        value.extend_from_slice(&self.piece.to_le_bytes());
        value.extend_from_slice(&self.pieces.to_le_bytes());
        value.extend_from_slice(&self.len.to_le_bytes());
        value.extend_from_slice(&self.number.to_le_bytes());
        value.extend_from_slice(&self.version.to_le_bytes());
        value.extend_from_slice(&self.body_checksum.to_le_bytes());
        value.extend_from_slice(&self.sequence.to_le_bytes());
        value.extend_from_slice(&self.durable.to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&value);
        checksum.update(part);
        value.extend_from_slice(&checksum.finalize().to_le_bytes());
        value.extend_from_slice(part);
        value
    }

    /// Reads and checks one piece; bytes after it are left alone. Nothing where these are not bytes
    /// that were written.
    pub(super) fn open(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let mark: [u8; 4] = take(&mut rest)?;
        let [kind, ..]: [u8; 4] = take(&mut rest)?;
        let piece = u16::from_le_bytes(take(&mut rest)?);
        let pieces = u16::from_le_bytes(take(&mut rest)?);
        let len = u32::from_le_bytes(take(&mut rest)?);
        let number = u64::from_le_bytes(take(&mut rest)?);
        let version = u32::from_le_bytes(take(&mut rest)?);
        let body_checksum = u32::from_le_bytes(take(&mut rest)?);
        let sequence = u64::from_le_bytes(take(&mut rest)?);
        let durable = u64::from_le_bytes(take(&mut rest)?);
        let expected = u32::from_le_bytes(take(&mut rest)?);
        let part = rest.get(..usize::try_from(len).ok()?)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(bytes.get(..HEADER - 4)?);
        checksum.update(part);
        let header =
            Self { sequence, kind, number, version, body_checksum, pieces, piece, durable, len };
        (mark == MARK && checksum.finalize() == expected).then_some((header, part))
    }

    /// Bytes that the piece takes.
    pub(super) fn size(&self) -> usize {
        HEADER + usize::try_from(self.len).unwrap_or(0)
    }

    /// What all pieces of one entry have in common.
    pub(super) fn entry(&self) -> (u64, u8, u64, u32, u32, u16) {
        let Self { sequence, kind, number, version, body_checksum, pieces, .. } = *self;
        (sequence, kind, number, version, body_checksum, pieces)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}
