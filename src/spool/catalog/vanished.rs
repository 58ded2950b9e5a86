//! Somebody deletes the spool's files while the gateway runs.
//!
//! A file that is deleted while it is open can be read until it is closed, and written to without an
//! error: so it is made sure after each commit that the file is still where it was made, before
//! anything is called durable. What is only in such a file is written again; what is gone is a loss.

use std::fs;
use std::io;

use super::{COUNTING, Catalog, FileError, at};
use crate::core::ids::Position;
use crate::spool::disk;
use crate::spool::generation::Generation;
use crate::spool::marks::MarksFile;
use crate::storage::store::StoreError;

/// Generations that are looked at together.
const LOOKED_AT: usize = 64;

impl Catalog {
    /// Makes the folder and the small files again where somebody deleted them.
    pub(in crate::spool) fn renew(&mut self) -> Result<(), FileError> {
        let path = self.dir.join("marks");
        if self.marks.is_at(&path) {
            return Ok(());
        }
        tracing::error!(
            name: "spool-deleted",
            path = %self.dir.display(),
            "the spool's folder was deleted while the gateway was running: making it again"
        );
        disk::create_dir(&self.dir).map_err(at(&self.dir))?;
        if let Some(lock) = &mut self.lock {
            let lock_path = self.dir.parent().unwrap_or(&self.dir).join("lock");
            lock.renew().map_err(|error| FileError {
                path: lock_path,
                source: io::Error::other(error.to_string()),
            })?;
        }
        // First the losses: the marks say that the folder is whole again.
        self.losses.renew();
        let losses = self.dir.join("losses");
        self.losses.save_through().map_err(at(&losses))?;
        let marks = self.current_marks();
        let (mut file, _) = MarksFile::open(&path).map_err(at(&path))?;
        file.write_through(&marks).map_err(at(&path))?;
        disk::sync_dir(&self.dir).map_err(at(&self.dir))?;
        self.marks = file;
        Ok(())
    }

    /// The file that is being written was deleted. It can still be read, until it is closed: what
    /// of it is not released is written again.
    pub(super) fn rescue(&mut self) -> Result<(), StoreError> {
        self.renew().map_err(|error| StoreError::Io { path: error.path, source: error.source })?;
        let Some(mut old) = self.generations.pop_back() else { return Ok(()) };
        self.middle.set(None);
        let from = self.head.max(old.first);
        if from >= old.end {
            return Ok(());
        }
        match self.write_again(&mut old, from) {
            Ok(new) => {
                tracing::warn!(
                    batches = new.end - from,
                    path = %new.dir().display(),
                    "what was in a deleted file of the spool was still in memory and is written \
                     again: nothing of it is lost"
                );
                self.generations.push_back(new);
                Ok(())
            }
            Err(error) => {
                self.generations.push_back(old);
                Err(error)
            }
        }
    }

    fn write_again(&self, old: &mut Generation, from: Position) -> Result<Generation, StoreError> {
        let mut new = Generation::create(&self.dir, from)?;
        let copied = old.copy(&mut new, from, COUNTING);
        if copied.is_err() {
            let _ = fs::remove_dir_all(new.dir());
        }
        copied.map(|()| new)
    }

    /// Looks whether somebody has deleted something, at some of the generations each time. What is
    /// gone is noted as lost; [`Self::take_untold`] tells.
    ///
    /// # Errors
    /// When the folder is gone and cannot be made again.
    pub(in crate::spool) fn look(&mut self, now: f64) -> Result<(), FileError> {
        let deleted = !self.marks.is_at(&self.dir.join("marks"));
        if self.generations.back().is_some_and(|g| g.is_open() && !g.is_in_place()) {
            self.rescue().map_err(|error| FileError {
                path: self.dir.clone(),
                source: io::Error::other(error.to_string()),
            })?;
        }
        self.renew()?;
        let count = self.generations.len();
        let (from, some) = if deleted { (0, count) } else { (self.looked, LOOKED_AT.min(count)) };
        let read_to = self.head.max(self.read_to);
        let mut gone = 0;
        for index in (from..from + some).map(|index| index % count.max(1)) {
            let Some(generation) = self.generations.get_mut(index) else { break };
            if generation.remaining(read_to).0 > 0 && !generation.is_in_place() {
                generation.vanish(read_to);
                gone += 1;
            }
        }
        self.looked = (from + some) % count.max(1);
        if gone > 0 {
            tracing::error!(
                name: "spool-deleted",
                folders = gone,
                path = %self.dir.display(),
                "parts of the spool were deleted while the gateway was running"
            );
            self.middle.set(None);
            let found = self.find_losses(0, Position::MAX, now);
            self.untold.extend(found);
        }
        Ok(())
    }
}
