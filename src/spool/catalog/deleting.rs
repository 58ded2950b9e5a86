//! Giving space back: what is released or given up is deleted, folder by folder, and what was damaged
//! is kept aside for a while.

use std::fs;
use std::path::PathBuf;

use super::{Catalog, FileError, at};
use crate::spool::generation;
use crate::storage::disk;
use crate::storage::pieces::is_gone;

/// Damaged folders that are kept.
pub(super) const DAMAGED_MAX: usize = 3;

impl Catalog {
    /// Deletes the generations that are released; with `keep_open` not the one being written.
    ///
    /// # Errors
    /// When the disk refuses; what could not be deleted is tried again the next time.
    pub(in crate::spool) fn reclaim(&mut self, keep_open: bool, now: f64) -> Result<(), FileError> {
        loop {
            let done = self
                .generations
                .front()
                .is_none_or(|front| front.end > self.head || (keep_open && front.is_open()));
            if done {
                return Ok(());
            }
            self.delete_front(now)?;
        }
    }

    pub(super) fn delete_front(&mut self, now: f64) -> Result<(), FileError> {
        // Before its folder goes, it must be safe that nobody will look for it.
        let marks = self.current_marks();
        self.marks.write_through(&marks).map_err(at(&self.dir.join("marks")))?;
        let Some(front) = self.generations.front() else { return Ok(()) };
        let name = generation::folder_name(front.first);
        let target = if front.damaged {
            self.dir.join(format!("damaged-{:.0}-{name}", now.max(0.0)))
        } else {
            self.dir.join(format!("trash-{name}"))
        };
        let renamed = fs::rename(front.dir(), &target);
        let gone = renamed.as_ref().is_err_and(is_gone);
        if !gone {
            renamed.map_err(at(front.dir()))?;
        }
        let damaged = front.damaged;
        // Closes the files.
        self.generations.pop_front();
        self.middle.set(None);
        if gone {
            tracing::debug!(name, "the folder was deleted by somebody else");
        } else if damaged {
            tracing::warn!(name: "spool-damaged", folder = %target.display(), "a damaged part of the spool is kept aside");
            self.prune_damaged(DAMAGED_MAX);
        } else {
            fs::remove_dir_all(&target).map_err(at(&target))?;
        }
        Ok(())
    }

    /// Deletes the damaged folders that were kept aside. Whether there were any.
    pub(in crate::spool) fn drop_damaged(&mut self) -> bool {
        let before = self.damaged_bytes;
        self.prune_damaged(0);
        before > self.damaged_bytes
    }

    pub(super) fn prune_damaged(&mut self, keep: usize) {
        let mut folders: Vec<(u64, PathBuf)> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (time, _) = name.strip_prefix("damaged-")?.split_once('-')?;
                Some((time.parse().ok()?, entry.path()))
            })
            .collect();
        folders.sort();
        let surplus = folders.len().saturating_sub(keep);
        for (_, path) in folders.drain(..surplus) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, path = %path.display(), "a damaged folder cannot be deleted");
            }
        }
        self.damaged_bytes = folders.iter().map(|(_, path)| disk::allocated(path)).sum();
    }
}
