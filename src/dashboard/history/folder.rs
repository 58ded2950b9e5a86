//! The databases of the history on the disk: finding, reading, writing, deleting.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::saved::{MARK, Packer, Record, open, records};
use crate::storage::disk::{self, Lock, LockError};
use crate::storage::pieces::{find, for_each_window};
use crate::storage::store::{Store, StoreError};

const GENERATION: &str = "gen-";
/// Databases that there may be before they are written as one.
const CHAIN_MAX: usize = 32;
/// So many bytes are never too many.
const SMALL: u64 = 256 * 1024;
/// How many times what the last database with everything had, all together may have.
const GROWTH: u64 = 3;

/// The folder and what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// By number.
    generations: BTreeMap<u64, Generation>,
    next: u64,
    _lock: Lock,
}

#[derive(Debug, Default, Clone, Copy)]
struct Generation {
    /// Of its values.
    bytes: u64,
    full: bool,
    /// All of it is known to be there.
    whole: bool,
}

/// One save under way. Nothing is on the disk before the first value is full.
#[derive(Debug)]
pub(super) struct Save<'a> {
    folder: &'a mut Folder,
    packer: Packer,
    store: Option<Store>,
    generation: Generation,
    time: u32,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Lock { path: PathBuf, source: LockError },
}

impl Folder {
    /// Takes the folder for this process.
    ///
    /// # Errors
    /// When another one has it, or it cannot be made or listed.
    pub(super) fn open(data_dir: &Path) -> Result<Self, FolderError> {
        let dir = data_dir.join("history");
        let failed = |source| FolderError::Io { path: dir.clone(), source };
        disk::create_dir(&dir).map_err(failed)?;
        let path = dir.join("lock");
        let lock = Lock::take(&path).map_err(|source| FolderError::Lock { path, source })?;
        let mut generations = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(GENERATION));
            let number = number.and_then(|hex| u64::from_str_radix(hex, 16).ok());
            // A larger one was not made by counting.
            if let Some(number) = number.filter(|number| *number < u64::MAX / 2) {
                generations.insert(number, Generation::default());
            }
        }
        let next = generations.last_key_value().map_or(0, |(number, _)| number + 1);
        Ok(Self { dir, generations, next, _lock: lock })
    }

    /// Reads everything, oldest first: each record, and whether it is of the newest database.
    pub(super) fn read(&mut self, mut each: impl FnMut(Record, bool)) {
        let newest = self.generations.last_key_value().map(|(number, _)| *number);
        let numbers: Vec<u64> = self.generations.keys().copied().collect();
        for number in numbers {
            let path = self.path(number);
            let mut seen = HashSet::new();
            let mut generation = Generation::default();
            let mut values = None;
            let result = for_each_window(&path, |_, window, limit| {
                for (_, (header, body)) in find(window, limit, MARK, open) {
                    // The database may have written a value more than once.
                    if !seen.insert(header.number) {
                        continue;
                    }
                    generation.bytes += body.len() as u64;
                    generation.full |= header.full;
                    if header.last {
                        values = Some(header.number as usize + 1);
                    }
                    for record in records(body) {
                        each(record, newest == Some(number));
                    }
                }
            });
            generation.whole = values == Some(seen.len());
            let path = path.display();
            match (result, values) {
                (Err(error), _) => tracing::warn!(%path, %error, "saved history cannot be read"),
                (Ok(_), Some(values)) if values == seen.len() => {}
                // The end is missing where the gateway was killed while it saved.
                (Ok(_), values) => tracing::warn!(
                    %path,
                    found = seen.len(),
                    of = values,
                    "a part of the saved history cannot be read, or was never written; the rest is \
                     used"
                ),
            }
            self.generations.insert(number, generation);
        }
    }

    /// Whether it is time to write everything into one database.
    pub(super) fn is_overgrown(&self) -> bool {
        let whole = |generation: &&Generation| generation.full && generation.whole;
        let Some(full) = self.generations.values().rfind(whole) else { return true };
        let total: u64 = self.generations.values().map(|generation| generation.bytes).sum();
        self.generations.len() >= CHAIN_MAX || total > SMALL.max(GROWTH * full.bytes)
    }

    /// Begins a save at `time`, of everything or of what is new.
    pub(super) fn save(&mut self, time: u32, full: bool) -> Save<'_> {
        let generation = Generation { bytes: 0, full, whole: true };
        Save { folder: self, packer: Packer::new(time, full), store: None, generation, time }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{GENERATION}{number:016x}"))
    }

    /// Deletes what is older than the database `number`; what cannot be deleted now can be the next
    /// time.
    fn delete_before(&mut self, number: u64) {
        let newer = self.generations.split_off(&number);
        for (old, generation) in std::mem::replace(&mut self.generations, newer) {
            let path = self.path(old);
            if let Err(error) = fs::remove_dir_all(&path) {
                let path = path.display();
                tracing::warn!(%path, %error, "an old part of the history cannot be deleted yet");
                self.generations.insert(old, generation);
            }
        }
    }
}

impl Save<'_> {
    /// Adds `record`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn push(&mut self, record: &Record) -> Result<(), StoreError> {
        match self.packer.push(record) {
            Some(value) => self.put(value),
            None => Ok(()),
        }
    }

    /// Waits until everything is durable; the bytes that were written. One with everything replaces
    /// all that were before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        let packer = std::mem::replace(&mut self.packer, Packer::new(self.time, false));
        self.put(packer.finish())?;
        let Some(mut store) = self.store.take() else { return Ok(0) };
        store.commit()?;
        drop(store);
        let (number, generation) = (self.folder.next, self.generation);
        self.folder.next += 1;
        self.folder.generations.insert(number, generation);
        if generation.full {
            self.folder.delete_before(number);
        }
        Ok(generation.bytes)
    }

    fn put(&mut self, value: Vec<u8>) -> Result<(), StoreError> {
        if self.store.is_none() {
            self.store = Some(Store::create(&self.folder.path(self.folder.next))?);
        }
        self.generation.bytes += value.len() as u64;
        let Some(store) = &mut self.store else { return Ok(()) };
        store.put(value).map(|_| ())
    }
}

impl Drop for Save<'_> {
    fn drop(&mut self) {
        // One that did not finish.
        let path = self.folder.path(self.folder.next);
        if self.store.take().is_some() || path.exists() {
            // Half of one is as good as none, and takes room on a full disk.
            if fs::remove_dir_all(&path).is_err() {
                self.folder.next += 1;
            }
        }
    }
}
