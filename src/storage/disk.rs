//! What is asked of the file system besides the files: the lock, syncing folders, measuring.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Holds `data_dir/lock` while it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process holds it.
    #[error("process {holder} holds it")]
    Held {
        /// Its process id, as far as the file tells.
        holder: String,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the lock, or fails at once. The kernel gives it back when the process ends, however it
    /// ends.
    ///
    /// # Errors
    /// When it is held, or `path` cannot be opened and written.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(&file)),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // On a full disk the number is missing, and that is all.
        let _ = file.set_len(0).and_then(|()| {
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        });
        Ok(Self { file, path: path.into() })
    }

    /// Takes the lock again where its file was deleted: another gateway could make a new one.
    ///
    /// # Errors
    /// Like [`Self::take`].
    pub(crate) fn renew(&mut self) -> Result<(), LockError> {
        if !is_at(&self.file, &self.path) {
            *self = Self::take(&self.path)?;
        }
        Ok(())
    }

    /// Takes it together with others who only read, and changes nothing. None where there is no
    /// lock file, as in a copy: then there is nobody to keep out.
    ///
    /// # Errors
    /// When a gateway holds it, or `path` cannot be read.
    pub(crate) fn share(path: &Path) -> Result<Option<Self>, LockError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(Self { file, path: path.into() })),
            Err(Errno::WOULDBLOCK) => Err(held(&file)),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone leaves it held for as long as a child that was just forked has a copy.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Who holds the lock `file`, as far as it tells.
fn held(file: &File) -> LockError {
    let mut holder = String::new();
    // Best effort: only for the message.
    let _ = file.take(20).read_to_string(&mut holder);
    let holder = holder.trim();
    let holder = if holder.is_empty() { "unknown" } else { holder };
    LockError::Held { holder: holder.into() }
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes `dir` and whatever leads to it, durably.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    fs::create_dir(dir)?;
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// What this user may still write.
    pub(crate) free: u64,
    /// All of it.
    pub(crate) total: u64,
}

/// How full the file system is that `path` is on. One system call.
///
/// # Errors
/// When it cannot be asked.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Whether `path` still leads to the open `file`. A disk that does not answer has deleted nothing.
#[must_use]
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        (_, Err(error)) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
        (Err(_), _) => true,
    }
}

/// What `path` and everything below it take on the disk, in bytes: blocks, not lengths. What
/// cannot be read counts nothing.
#[must_use]
pub(crate) fn allocated(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below: u64 = if metadata.is_dir() {
        fs::read_dir(path)
            .map_or(0, |entries| entries.flatten().map(|entry| allocated(&entry.path())).sum())
    } else {
        0
    };
    metadata.blocks() * 512 + below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_refused_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let refusal = Lock::take(&path).unwrap_err().to_string();
        assert_eq!(refusal, format!("process {} holds it", std::process::id()));
        drop(first);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn who_only_reads_shares_it_with_others_and_not_with_a_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(Lock::share(&path).unwrap().is_none());
        assert!(!path.exists(), "nothing is made");
        let gateway = Lock::take(&path).unwrap();
        let refusal = Lock::share(&path).unwrap_err().to_string();
        assert_eq!(refusal, format!("process {} holds it", std::process::id()));
        drop(gateway);
        let one = Lock::share(&path).unwrap();
        let other = Lock::share(&path).unwrap();
        assert!(one.is_some() && other.is_some());
        assert!(Lock::take(&path).is_err());
    }

    #[test]
    fn folders_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        assert!(deep.is_dir());
    }
}
