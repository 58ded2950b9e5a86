//! A chunk: some batches with consecutive positions, compressed and sealed with a checksum. This is
//! what the values of the database are.
//!
//! # Limits
//!
//! - A value takes at most [`VALUE_MAX`] bytes. A body that is longer after compression is cut into
//!   up to 65 535 pieces, which stand in consecutive slots.
//! - A chunk is whole or it is not there: a body with a piece missing is not read.
//! - Every piece says of itself where it belongs, so that it can be found without the database
//!   ([`find_pieces`]).
//!
//! # Version 1, little-endian
//!
//! ```text
//!  0  4  "tgS1"
//!  4  1  codec: 0 as it is, 1 LZ4 block
//!  5  3  0
//!  8  2  piece, from 0
//! 10  2  pieces
//! 12  4  bytes that follow the header
//! 16  8  position of the first batch
//! 24  4  batches
//! 28  4  readings in them
//! 32  8  when the oldest was received: float, Unix time in seconds
//! 40  8  the oldest position that was not released when this was written
//! 48  8  the position before which everything was durable when this was written
//! 56  4  bytes of the body before compression
//! 60  4  CRC-32 (IEEE) of the body after compression: the same in all pieces of a chunk
//! 64  4  CRC-32 (IEEE) of bytes 0 to 63 and everything from 68 on
//! 68     the piece of the body, see `record`
//! ```

use std::sync::Arc;

use super::record::{Decoder, Encoder, RecordError};
use crate::core::batch::Batch;
use crate::core::ids::Position;
use crate::storage::pieces;
pub use crate::storage::store::VALUE_MAX;

/// A chunk is closed when its body has this many bytes.
const BODY_TARGET: usize = 8 * 1024;
/// LZ4 cannot expand more than this.
const RATIO_MAX: usize = 256;

const MAGIC: [u8; 4] = *b"tgS1";
const HEADER: usize = 68;
const PIECE_MAX: usize = VALUE_MAX - HEADER;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// What a chunk says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    codec: u8,
    /// Which piece, from 0.
    pub piece: u16,
    /// Of how many.
    pub pieces: u16,
    len: u32,
    /// The first batch's position.
    pub first: Position,
    /// How many batches.
    pub count: u32,
    /// Readings in them.
    pub readings: u32,
    /// When the oldest was received.
    pub oldest: f64,
    /// The oldest position that was not released.
    pub head: Position,
    /// Everything before it was durable.
    pub durable: Position,
    body_len: u32,
    body_checksum: u32,
}

/// A chunk ready to be written.
#[derive(Debug)]
pub struct Chunk {
    /// The first batch's position.
    pub first: Position,
    /// How many batches.
    pub count: u32,
    /// Readings in them.
    pub readings: u32,
    /// When the oldest was received.
    pub oldest: f64,
    /// Its pieces, in order.
    pub values: Vec<Vec<u8>>,
}

/// Why a chunk cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Not the beginning of a chunk of this version.
    #[error("not a chunk of this version")]
    NotAChunk,
    /// Shorter than it says.
    #[error("the chunk is cut short")]
    Truncated,
    /// The bytes are not those that were written.
    #[error("the checksum does not match")]
    Checksum,
    /// The pieces do not belong together.
    #[error("pieces of the chunk are missing")]
    Pieces,
    /// Decompression failed.
    #[error("the chunk cannot be decompressed")]
    Compression,
    /// The records are wrong, although the checksum is right.
    #[error("the chunk's records: {0}")]
    Record(#[from] RecordError),
}

/// Turns batches into chunks; `head` and `durable` go into their headers. A gap in the positions
/// begins a new chunk.
#[must_use]
pub fn build<'a>(
    batches: impl IntoIterator<Item = &'a (Position, Arc<Batch>)>,
    head: Position,
    durable: Position,
) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut builder = Builder::default();
    for (position, batch) in batches {
        if builder.encoder.len() >= BODY_TARGET || *position != builder.next() {
            chunks.extend(builder.finish(head, durable));
        }
        builder.push(*position, batch);
    }
    chunks.extend(builder.finish(head, durable));
    chunks
}

#[derive(Default)]
struct Builder {
    encoder: Encoder,
    first: Position,
    count: u32,
    readings: u32,
    oldest: f64,
}

impl Builder {
    fn next(&self) -> Position {
        self.first + u64::from(self.count)
    }

    fn push(&mut self, position: Position, batch: &Batch) {
        if self.count == 0 {
            self.first = position;
            self.readings = 0;
            self.oldest = f64::INFINITY;
        }
        self.count += 1;
        self.readings =
            self.readings.saturating_add(u32::try_from(batch.readings.len()).unwrap_or(u32::MAX));
        self.oldest = self.oldest.min(batch.received);
        self.encoder.push(batch);
    }

    fn finish(&mut self, head: Position, durable: Position) -> Option<Chunk> {
        if self.count == 0 {
            return None;
        }
        let body = self.encoder.take();
        let compressed = lz4_flex::block::compress(&body);
        let (codec, packed) =
            if compressed.len() < body.len() { (LZ4, &compressed) } else { (PLAIN, &body) };
        let body_checksum = crc32fast::hash(packed);
        let pieces = u16::try_from(packed.len().div_ceil(PIECE_MAX)).unwrap_or(u16::MAX);
        let values = (0..pieces)
            .zip(packed.chunks(PIECE_MAX))
            .map(|(piece, bytes)| {
                let header = Header {
                    codec,
                    piece,
                    pieces,
                    len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                    first: self.first,
                    count: self.count,
                    readings: self.readings,
                    oldest: self.oldest,
                    head,
                    durable,
                    body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
                    body_checksum,
                };
                header.seal(bytes)
            })
            .collect();
        let chunk = Chunk {
            first: self.first,
            count: self.count,
            readings: self.readings,
            oldest: self.oldest,
            values,
        };
        self.count = 0;
        Some(chunk)
    }
}

impl Header {
    /// What all pieces of one chunk have in common and no other chunk has.
    #[must_use]
    pub fn identity(&self) -> (Position, u32, u16, u32) {
        (self.first, self.count, self.pieces, self.body_checksum)
    }

    fn seal(&self, bytes: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER + bytes.len());
        value.extend_from_slice(&MAGIC);
        value.extend_from_slice(&[self.codec, 0, 0, 0]);
        value.extend_from_slice(&self.piece.to_le_bytes());
        value.extend_from_slice(&self.pieces.to_le_bytes());
        value.extend_from_slice(&self.len.to_le_bytes());
        value.extend_from_slice(&self.first.to_le_bytes());
        value.extend_from_slice(&self.count.to_le_bytes());
        value.extend_from_slice(&self.readings.to_le_bytes());
        value.extend_from_slice(&self.oldest.to_le_bytes());
        value.extend_from_slice(&self.head.to_le_bytes());
        value.extend_from_slice(&self.durable.to_le_bytes());
        value.extend_from_slice(&self.body_len.to_le_bytes());
        value.extend_from_slice(&self.body_checksum.to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&value);
        checksum.update(bytes);
        value.extend_from_slice(&checksum.finalize().to_le_bytes());
        value.extend_from_slice(bytes);
        value
    }

    /// Reads and checks one value: its header and its piece of the body. Bytes after the piece are
    /// left alone.
    ///
    /// # Errors
    /// When these are not the bytes that were written.
    pub fn open(value: &[u8]) -> Result<(Self, &[u8]), ChunkError> {
        let mut fields = Fields(value);
        if fields.take()? != MAGIC {
            return Err(ChunkError::NotAChunk);
        }
        let [codec, _, _, _] = fields.take()?;
        let header = Self {
            codec,
            piece: u16::from_le_bytes(fields.take()?),
            pieces: u16::from_le_bytes(fields.take()?),
            len: u32::from_le_bytes(fields.take()?),
            first: u64::from_le_bytes(fields.take()?),
            count: u32::from_le_bytes(fields.take()?),
            readings: u32::from_le_bytes(fields.take()?),
            oldest: f64::from_le_bytes(fields.take()?),
            head: u64::from_le_bytes(fields.take()?),
            durable: u64::from_le_bytes(fields.take()?),
            body_len: u32::from_le_bytes(fields.take()?),
            body_checksum: u32::from_le_bytes(fields.take()?),
        };
        let expected = u32::from_le_bytes(fields.take()?);
        let len = usize::try_from(header.len).map_err(|_| ChunkError::Truncated)?;
        let piece = fields.0.get(..len).ok_or(ChunkError::Truncated)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(value.get(..HEADER - 4).unwrap_or_default());
        checksum.update(piece);
        if checksum.finalize() == expected {
            Ok((header, piece))
        } else {
            Err(ChunkError::Checksum)
        }
    }

    /// Whether `other` is a piece of the same chunk.
    #[must_use]
    pub fn same_chunk(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ChunkError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(ChunkError::Truncated)?;
        self.0 = rest;
        Ok(*bytes)
    }
}

/// Puts the pieces of one chunk together and reads its batches.
///
/// # Errors
/// When a piece is missing or its bytes are not those that were written.
pub fn read<V: AsRef<[u8]>>(values: &[V]) -> Result<(Header, Vec<Batch>), ChunkError> {
    let mut packed = Vec::new();
    let mut whole: Option<Header> = None;
    for (index, value) in values.iter().enumerate() {
        let (header, piece) = Header::open(value.as_ref())?;
        let fits = whole.is_none_or(|first| first.same_chunk(&header));
        if !fits || usize::from(header.piece) != index {
            return Err(ChunkError::Pieces);
        }
        whole.get_or_insert(header);
        packed.extend_from_slice(piece);
    }
    let header = whole.ok_or(ChunkError::Pieces)?;
    if values.len() != usize::from(header.pieces) {
        return Err(ChunkError::Pieces);
    }
    if crc32fast::hash(&packed) != header.body_checksum {
        return Err(ChunkError::Pieces);
    }
    let body = header.unpack(packed)?;
    let mut decoder = Decoder::new(&body);
    // A record takes more than two bytes.
    let capacity = usize::try_from(header.count).unwrap_or(0).min(body.len() / 2);
    let mut batches = Vec::with_capacity(capacity);
    for _ in 0..header.count {
        batches.push(decoder.next_batch()?);
    }
    if decoder.is_done() {
        Ok((header, batches))
    } else {
        Err(RecordError::Bad("end of the body").into())
    }
}

impl Header {
    fn unpack(&self, packed: Vec<u8>) -> Result<Vec<u8>, ChunkError> {
        let len = usize::try_from(self.body_len).map_err(|_| ChunkError::Compression)?;
        match self.codec {
            PLAIN if packed.len() == len => Ok(packed),
            LZ4 if len <= packed.len().saturating_mul(RATIO_MAX) => {
                let body = lz4_flex::block::decompress(&packed, len)
                    .map_err(|_| ChunkError::Compression)?;
                if body.len() == len { Ok(body) } else { Err(ChunkError::Compression) }
            }
            PLAIN | LZ4 => Err(ChunkError::Compression),
            _ => Err(ChunkError::NotAChunk),
        }
    }
}

/// Finds everything in `bytes` that is a valid piece and begins before `limit`: where it begins,
/// and its header.
#[must_use]
pub fn find_pieces(bytes: &[u8], limit: usize) -> Vec<(usize, Header)> {
    pieces::find(bytes, limit, MAGIC, |rest| {
        Header::open(rest).ok().map(|(header, piece)| (header, HEADER + piece.len()))
    })
}

/// How many bytes the piece that begins with `header` takes.
#[must_use]
pub fn value_len(header: &Header) -> usize {
    HEADER + usize::try_from(header.len).unwrap_or(0)
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
