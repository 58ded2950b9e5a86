//! Reading a database's file without the database: values are found by the mark that each begins
//! with, and believed for the checksum that each carries.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::store::VALUE_MAX;

/// Bytes of a file in memory while it is scanned; a value may reach beyond.
pub(crate) const WINDOW: usize = 256 * 1024;
/// What a bad sector takes with it.
const SECTOR: usize = 4096;

/// Finds everything in `bytes` that begins with `mark` before `limit` and that `open` takes; `open`
/// is given the bytes from the mark on and answers with what it found and how long that is. The
/// answer says where each begins.
pub(crate) fn find<'a, T>(
    bytes: &'a [u8],
    limit: usize,
    mark: [u8; 4],
    open: impl Fn(&'a [u8]) -> Option<(T, usize)>,
) -> Vec<(usize, T)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < limit {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(step) = rest.windows(mark.len()).position(|window| window == mark) else {
            break;
        };
        at += step;
        if at >= limit {
            break;
        }
        match open(bytes.get(at..).unwrap_or_default()) {
            Some((value, len)) => {
                found.push((at, value));
                at += len.max(1);
            }
            None => at += 1,
        }
    }
    found
}

/// Hands the database file below `dir` to `each` in windows: where in the file the window begins,
/// its bytes, and before which of them a value must begin to belong to it (one that begins later
/// is in the next window). A file that is not there has none. Returns how many sectors could not be
/// read; they read as zeros.
///
/// # Errors
/// When the disk refuses for another reason than damage.
pub(crate) fn for_each_window(
    dir: &Path,
    mut each: impl FnMut(u64, &[u8], usize),
) -> io::Result<usize> {
    let path = dir.join("db");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut unreadable = 0;
    let mut window = Vec::with_capacity(WINDOW + VALUE_MAX);
    let mut offset = 0;
    loop {
        let filled = fill(&file, &path, offset, &mut window, &mut unreadable)?;
        let limit = if filled { WINDOW } else { window.len() };
        each(offset, &window, limit);
        if !filled {
            return Ok(unreadable);
        }
        offset = next_data(&file, offset + WINDOW as u64);
    }
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

/// Whether reading the file at `path` failed because the disk has something else than was written,
/// or nothing at all, in that place. Not where the whole disk is away: what is on it may come back.
pub(crate) fn is_damage(error: &io::Error, path: &Path) -> bool {
    let of_the_device = |error: &io::Error| error.raw_os_error() == Some(Errno::IO.raw_os_error());
    error.kind() == io::ErrorKind::UnexpectedEof
        || (of_the_device(error) && !File::open(path).is_err_and(|error| of_the_device(&error)))
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
