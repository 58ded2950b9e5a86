//! Finding the chunks in a database's file without the database.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::chunk::{self, Header, VALUE_MAX};
use crate::core::ids::Position;

/// Bytes of a database file in memory while it is scanned.
pub(super) const WINDOW: usize = 256 * 1024;
/// What a bad sector takes with it.
const SECTOR: usize = 4096;

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
    let path = dir.join("db");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(Scan::default()),
        Err(error) => return Err(error),
    };
    let mut scan = Scan::default();
    let mut pieces = Vec::new();
    let mut window = Vec::with_capacity(WINDOW + VALUE_MAX);
    let mut offset = 0;
    loop {
        let filled = fill(&file, &path, offset, &mut window, &mut scan.unreadable)?;
        // A piece that begins in the last bytes may end in the next window.
        let limit = if filled { WINDOW } else { window.len() };
        for (at, header) in chunk::find_pieces(&window, limit) {
            pieces.push((header, (offset + at as u64, chunk::value_len(&header))));
        }
        if !filled {
            break;
        }
        offset = next_data(&file, offset + WINDOW as u64);
    }
    scan.head = pieces.iter().map(|(header, _)| header.head).max().unwrap_or(0);
    scan.durable = pieces.iter().map(|(header, _)| header.durable).max().unwrap_or(0);
    scan.places = assemble(pieces);
    Ok(scan)
}

/// Where the file has something at `offset` or after it, in whole windows: a hole of any size costs
/// no time. `offset` itself where the file system cannot tell.
fn next_data(file: &File, offset: u64) -> u64 {
    let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data,
        // Nothing up to the end.
        Err(Errno::NXIO) => file.metadata().map_or(offset, |metadata| metadata.len()),
        Err(_) => offset,
    };
    offset.max(data - data % WINDOW as u64)
}

/// Reads a window and the beginning of the next. Whether the file goes on behind it.
fn fill(
    file: &File,
    path: &Path,
    offset: u64,
    window: &mut Vec<u8>,
    unreadable: &mut usize,
) -> io::Result<bool> {
    window.clear();
    window.resize(WINDOW + VALUE_MAX, 0);
    let mut len = 0;
    while let Some(rest) = window.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + len as u64) {
            Ok(0) => {
                window.truncate(len);
                return Ok(false);
            }
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_damage(&error, path) => {
                *unreadable += 1;
                let skipped = SECTOR - len % SECTOR;
                if let Some(bytes) = rest.get_mut(..skipped.min(rest.len())) {
                    bytes.fill(0);
                    len += bytes.len();
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
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

/// Whether reading the file at `path` failed because the disk has something else than was written,
/// or nothing at all, in that place. Not where the whole disk is away: what is on it may come back.
pub(super) fn is_damage(error: &io::Error, path: &Path) -> bool {
    let of_the_device = |error: &io::Error| error.raw_os_error() == Some(Errno::IO.raw_os_error());
    error.kind() == io::ErrorKind::UnexpectedEof
        || (of_the_device(error) && !File::open(path).is_err_and(|error| of_the_device(&error)))
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
