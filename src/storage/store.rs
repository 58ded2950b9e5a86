//! One database: the only file that knows sled.
//!
//! # What is stored
//!
//! Keys are slot numbers, u64 big-endian from 0 on; each value is one that its owner can tell and
//! check by itself (a mark, a checksum), at most [`VALUE_MAX`] bytes, or empty: a slot that is
//! prepared and not used yet.
//!
//! # Why slots
//!
//! sled appends each insert to its log, and rewrites a whole leaf with every tenth change and at
//! every split. Appending values of 4 KB under growing keys so writes each of them four to five
//! times. Preparing the slots with empty values lets the leaves split while they are tiny; a split
//! leaf has at most nine keys, filling each of them once never comes to ten changes, and so nothing
//! is rewritten: measured 1.04 times the payload instead of 3.8.
//!
//! # Why zeros ahead
//!
//! A sync of a file that has become longer also writes the file system's journal, inode and
//! bitmaps: five pages on ext4, for a commit that fills a part of one. So small commits go into room
//! that was written with zeros before; then a sync writes the pages that changed and nothing else.
//! (Room that is only reserved would not do: marking it as written is a change of the inode, too.)
//! sled knows nothing of it, and the scan passes over it.
//!
//! # What sled is not asked to do
//!
//! - `flush` writes and does not sync: [`Store::commit`] syncs the file itself, and
//!   [`Store::create`] the folder.
//! - A database is written by the process that made it and never opened again: a damaged file makes
//!   sled panic, refuse, or leave out values without a word; opening writes up to a segment, so it
//!   fails on a full or read-only disk. Values are found in the file without sled
//!   ([`super::pieces`]), by their own checksums.
//! - It panics on some faults: every call into it goes through [`guarded`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::disk;

/// Largest value in bytes. A leaf of the database holds up to 16 of them and must stay below a
/// quarter of a segment: larger ones go to files that the database never syncs.
pub const VALUE_MAX: usize = 4096;

/// A slot's number.
pub(crate) type Slot = u32;

/// Slots prepared at a time.
const PREPARE: Slot = 32;
/// So many prepared slots always lie before the first unused one, so that the leaf that still
/// splits (17 keys at most) holds no value.
const AHEAD: Slot = 20;
/// Pages in memory, in bytes; what is kept is written and read in order.
const CACHE: u64 = 1 << 20;
/// The unit in which the file grows; part of the format.
const SEGMENT: usize = 512 * 1024;
/// Zeros written behind the end of the file in one go, where commits are small.
const AHEAD_BYTES: usize = 32 * 1024;
/// A commit of more than this is not small.
const SMALL: usize = 8 * 1024;

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was used.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The file was deleted or replaced: what is written to it is lost when the process ends.
    #[error("{} is gone: it was deleted while the gateway was running", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The database does not understand its own file.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// As the database puts it.
        reason: String,
    },
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Store {
    /// Taken only when dropped.
    database: Option<sled::Db>,
    file: File,
    dir: PathBuf,
    next: Slot,
    prepared: Slot,
    /// Bytes put since the last commit.
    put: usize,
    /// How far the file was filled with zeros.
    filled: u64,
}

impl Store {
    /// Makes a new database in the new folder `dir`; it and everything that leads to it is synced.
    ///
    /// # Errors
    /// When the folder exists or the disk refuses.
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir(dir).map_err(|e| io_error(dir, e))?;
        let mut store = Self::start(dir)?;
        store.prepare()?;
        store.flush()?;
        for name in ["db", "conf", "blobs", ""] {
            let path = dir.join(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(|e| io_error(&path, e))?;
        }
        let parent = dir.parent().unwrap_or(dir);
        disk::sync_dir(parent).map_err(|e| io_error(parent, e))?;
        Ok(store)
    }

    fn start(dir: &Path) -> Result<Self, StoreError> {
        let database = guarded(dir, || {
            sled::Config::new()
                .path(dir)
                .flush_every_ms(None)
                .cache_capacity(CACHE)
                .segment_size(SEGMENT)
                .open()
        })?;
        let path = dir.join("db");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::Io { path, source })?;
        Ok(Self {
            database: Some(database),
            file,
            dir: dir.into(),
            next: 0,
            prepared: 0,
            put: 0,
            filled: 0,
        })
    }

    /// Writes `value` into the next slot; it is safe after [`Self::commit`].
    ///
    /// # Errors
    /// When the disk refuses; the database is then of no more use.
    pub(crate) fn put(&mut self, value: Vec<u8>) -> Result<Slot, StoreError> {
        self.prepare()?;
        let slot = self.next;
        self.put += value.len();
        guarded(&self.dir, || self.database()?.insert(key(slot), value))?;
        self.next = slot + 1;
        Ok(slot)
    }

    /// Waits until everything put so far has reached the disk.
    ///
    /// # Errors
    /// When the disk refuses; what was put since the last commit may or may not be there.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        if std::mem::take(&mut self.put) <= SMALL {
            self.fill_ahead();
        }
        self.file.sync_data().map_err(|e| io_error(&self.dir.join("db"), e))
    }

    /// Whether its file is still where it was made.
    #[must_use]
    pub(crate) fn is_in_place(&self) -> bool {
        disk::is_at(&self.file, &self.dir.join("db"))
    }

    /// The value in `slot`; empty where nothing was put.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn get(&self, slot: Slot) -> Result<Vec<u8>, StoreError> {
        let value = guarded(&self.dir, || self.database()?.get(key(slot)))?;
        Ok(value.map(|value| value.to_vec()).unwrap_or_default())
    }

    /// Behind the end there is nothing of the database: it has written all it had. Where there is no
    /// room it stays as it is; commits only cost more.
    fn fill_ahead(&mut self) {
        let Ok(len) = self.file.metadata().map(|metadata| metadata.len()) else { return };
        if len > self.filled && self.file.write_all_at(&vec![0; AHEAD_BYTES], len).is_ok() {
            self.filled = len + AHEAD_BYTES as u64;
        }
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        if self.next.saturating_add(AHEAD) < self.prepared {
            return Ok(());
        }
        let end = self.prepared.saturating_add(PREPARE).max(self.next + AHEAD + 1);
        for slot in self.prepared..end {
            guarded(&self.dir, || self.database()?.insert(key(slot), Vec::new()))?;
        }
        self.prepared = end;
        Ok(())
    }

    /// Hands everything put so far to the system, which may lose it with the power.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        guarded(&self.dir, || self.database()?.flush()).map(|_| ())
    }

    fn database(&self) -> sled::Result<&sled::Db> {
        self.database.as_ref().ok_or_else(|| sled::Error::Unsupported("closed".into()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.take();
        // sled syncs here and panics where the disk refuses; what was committed is safe already.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(database)));
        if closed.is_err() {
            tracing::warn!(path = %self.dir.display(), "the database panicked while it was closed");
        }
    }
}

fn key(slot: Slot) -> [u8; 8] {
    u64::from(slot).to_be_bytes()
}

/// Calls into sled; a panic becomes an error.
fn guarded<T>(dir: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let damaged = |reason| StoreError::Damaged { path: dir.into(), reason };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Err(damaged(error.to_string()))
            }
            _ => Err(io_error(&dir.join("db"), error)),
        },
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(damaged(format!("the database panicked: {message}")))
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.into(), source }
}
