//! Finding the chunks in a database's file without the database.

use std::io;
use std::path::Path;

use super::chunk::{self, Header};
use crate::core::ids::Position;
use crate::storage::pieces::for_each_window;

/// Where a chunk is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) first: Position,
    pub(super) count: u32,
    pub(super) readings: u32,
    pub(super) oldest: f64,
    /// The oldest position that was not released when it was written.
    pub(super) head: Position,
    pub(super) values: Values,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    /// In consecutive slots of the open database: the first, and how many.
    Slots(u32, u16),
    /// At these offsets of the file, with these lengths.
    File(Vec<(u64, usize)>),
}

impl Place {
    /// The position after the last batch.
    pub(super) fn end(&self) -> Position {
        self.first + u64::from(self.count)
    }
}

/// What the scan of a database file found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) places: Vec<Place>,
    /// The highest `head` that any chunk mentions.
    pub(super) head: Position,
    /// The highest `durable` that any chunk mentions.
    pub(super) durable: Position,
    /// Sectors that could not be read.
    pub(super) unreadable: usize,
}

/// Finds the whole chunks in the database file below `dir`. A file that is not there holds none.
pub(super) fn scan(dir: &Path) -> io::Result<Scan> {
    let mut pieces = Vec::new();
    let unreadable = for_each_window(dir, |offset, window, limit| {
        for (at, header) in chunk::find_pieces(window, limit) {
            pieces.push((header, (offset + at as u64, chunk::value_len(&header))));
        }
    })?;
    Ok(Scan {
        head: pieces.iter().map(|(header, _)| header.head).max().unwrap_or(0),
        durable: pieces.iter().map(|(header, _)| header.durable).max().unwrap_or(0),
        places: assemble(pieces),
        unreadable,
    })
}

/// Drops what stands behind the first gap that is not known to have been durable: a group that was
/// being written when the process or the power went. Nothing in it was acknowledged, and its
/// beginning is not there: kept, its later batches would make the earlier ones look like repeats.
pub(super) fn cut_unfinished(places: &mut Vec<Place>, first: Position, durable: Position) {
    let mut next = first;
    let whole = places.iter().take_while(|place| {
        let joined = place.first == next || place.first <= durable.max(place.head);
        next = place.end();
        joined
    });
    let whole = whole.count();
    places.truncate(whole);
}

/// Puts the pieces together and the chunks in order. What is there twice counts once, chunks with a
/// piece missing not at all.
fn assemble(mut pieces: Vec<(Header, (u64, usize))>) -> Vec<Place> {
    pieces.sort_by_key(|(header, (offset, _))| (header.identity(), header.piece, *offset));
    pieces.dedup_by_key(|(header, _)| (header.identity(), header.piece));
    let mut places: Vec<Place> = pieces
        .chunk_by(|(a, _), (b, _)| a.same_chunk(b))
        .filter_map(|group| {
            let (header, _) = group.first()?;
            (group.len() == usize::from(header.pieces)).then(|| Place {
                first: header.first,
                count: header.count,
                readings: header.readings,
                oldest: header.oldest,
                head: header.head,
                values: Values::File(group.iter().map(|(_, at)| *at).collect()),
            })
        })
        .collect();
    places.sort_by_key(|place| place.first);
    let mut next = 0;
    places.retain(|place| {
        let keep = place.first >= next && place.count > 0;
        if keep {
            next = place.end();
        }
        keep
    });
    places
}
