//! Files that hold secrets or decide who gets in: changed by one writer at a time, replaced whole,
//! and readable by the daemon only.
//!
//! A reader sees a file before or after a change, never between: it is written beside the old one,
//! fsynced and renamed over it. Two writers take turns by an advisory lock on a file beside it,
//! which stays there (to delete it would let two writers hold two different files of that name).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

/// What could not be done with which file.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", .path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What came of it.
    pub source: io::Error,
}

/// Holds the turn to change a file until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until no other writer is about to change `path`.
    ///
    /// # Errors
    /// When the folder is not writable.
    pub fn take(path: &Path) -> Result<Self, FileError> {
        let lock_path = beside(path, ".lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("cannot open the lock file", &lock_path))?;
        retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|error| failed("cannot lock", &lock_path)(error.into()))?;
        Ok(Self { _lock: lock })
    }
}

/// Puts `bytes` in the place of whatever `path` holds. It keeps its owner and group; nobody else
/// may read it. A new one has mode 0600, or 0640 with the folder's owner and group when root makes
/// it in a folder that is a group's (so that the daemon of that group can read it).
///
/// # Errors
/// When it cannot be written; the old file is in place then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = beside(path, ".new");
    let written = write(path, &temporary, bytes);
    if written.is_err() {
        // Best effort: the next writer starts with an empty file anyway.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let old = std::fs::metadata(path).ok();
    // One that a crash left behind. It is never written through: where the folder is the
    // daemon's and root the writer, it could be a link to anything.
    let _ = std::fs::remove_file(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed("cannot create", temporary))?;
    file.write_all(bytes).map_err(failed("cannot write", temporary))?;
    let own = file.metadata().map_err(failed("cannot read", temporary))?;
    let folder = folder_of(path);
    let (uid, gid, mode) = match old {
        Some(old) => (old.uid(), old.gid(), kept_mode(old.mode())),
        // A new file of root's is for the daemon that the folder was made for.
        None if own.uid() == 0 => {
            let folder = std::fs::metadata(folder).map_err(failed("cannot read", folder))?;
            let mode = if folder.gid() == 0 { 0o600 } else { 0o640 };
            (folder.uid(), folder.gid(), mode)
        }
        None => (own.uid(), own.gid(), 0o600),
    };
    if (own.uid(), own.gid()) != (uid, gid) {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))
            .map_err(failed("cannot set the owner of", temporary))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(failed("cannot set the mode of", temporary))?;
    file.sync_all().map_err(failed("cannot sync", temporary))?;
    std::fs::rename(temporary, path).map_err(failed("cannot replace", path))?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("cannot sync", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// A group that was let in on purpose (0640) stays; a file that was open to all is closed.
fn kept_mode(old: u32) -> u32 {
    if old.trailing_zeros() >= 3 { (old & 0o660) | 0o600 } else { 0o600 }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
