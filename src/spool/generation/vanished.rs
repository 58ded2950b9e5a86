//! A generation whose files somebody has deleted.

use std::fs;

use super::Generation;
use crate::core::ids::Position;
use crate::spool::chunk;
use crate::spool::tally::Missing;
use crate::storage::pieces::is_gone;
use crate::storage::store::StoreError;

impl Generation {
    /// Writes what it holds from `from` on to `new` as well, `bytes` of memory at a time.
    ///
    /// # Errors
    /// When either disk refuses, or something of it cannot be read.
    pub(in crate::spool) fn copy(
        &mut self,
        new: &mut Self,
        from: Position,
        bytes: usize,
    ) -> Result<(), StoreError> {
        let mut next = from;
        let mut batches = Vec::new();
        while next < self.end {
            let dir = self.dir.clone();
            let (after, _) = self
                .load(next, from, bytes, &mut batches)
                .map_err(|source| StoreError::Io { path: dir, source })?;
            new.append(chunk::build(&batches, from, next), &batches)?;
            batches.clear();
            next = after;
        }
        if self.damaged {
            return Err(StoreError::Damaged {
                path: self.dir.clone(),
                reason: "unreadable".into(),
            });
        }
        Ok(())
    }

    /// Whether its file is still there.
    #[must_use]
    pub(in crate::spool) fn is_in_place(&self) -> bool {
        match &self.store {
            Some(store) => store.is_in_place(),
            None => !fs::symlink_metadata(self.dir.join("db")).is_err_and(|e| is_gone(&e)),
        }
    }

    /// Its file was deleted by somebody: notes what is lost from `head` on, and makes the folder
    /// again so that a summary can tell the next run.
    pub(in crate::spool) fn vanish(&mut self, head: Position) {
        self.store = None;
        self.file = None;
        self.tallies = Some(self.tallies().unwrap_or_default());
        // What lay before `head` is released or has been read.
        let released = Missing { first: self.first, end: head, readings: 0, reported: true };
        if self.first < head {
            let (_, left) = self.remaining(head);
            self.missing.retain(|missing| missing.end > head);
            self.readings = left + self.missing.iter().map(|m| m.readings).sum::<u64>();
            self.missing.push(released);
        }
        self.places = Some(Vec::new());
        self.note_missing(&[], head);
        if let Err(error) = fs::create_dir_all(&self.dir) {
            tracing::debug!(%error, dir = %self.dir.display(), "the folder cannot be made again");
        }
        self.measure();
    }
}
