//! Notices changed files by looking at them once a second: no kernel interface that a container, a
//! network mount or a read-only root could take away, and cheap for a handful of files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::fault::Faults;
use super::registry::Registry;

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A file that is no registry at all could fill the log.
const FAULTS_LOGGED: usize = 20;

/// What tells one state of a file from another; `None` where there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Watches a few files.
#[derive(Debug)]
pub struct FileWatch {
    files: Vec<(PathBuf, Stamp)>,
    ticks: tokio::time::Interval,
}

impl FileWatch {
    /// Begins with the files as they are now. Within a tokio runtime with its timer.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let files = files.into_iter().map(|path| {
            let stamp = stamp(&path);
            (path, stamp)
        });
        Self { files: files.collect(), ticks }
    }

    /// Waits until a file is not as it was when this was last called (or at the start). Never
    /// comes back when there is no file to watch. Cancel safe.
    pub async fn changed(&mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            self.ticks.tick().await;
            if self.look() {
                return;
            }
        }
    }

    /// Whether any file has changed since last asked.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for (path, last) in &mut self.files {
            let now = stamp(path);
            changed |= now != *last;
            *last = now;
        }
        changed
    }
}

/// Keeps a [`Registry`] up to date with its file.
#[derive(Debug)]
pub struct RegistryWatch {
    path: PathBuf,
    files: FileWatch,
    current: watch::Sender<Arc<Registry>>,
}

impl RegistryWatch {
    /// Reads the registry. Where there is no file, no device is known until there is one. Within a
    /// tokio runtime with its timer.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn open(path: &Path) -> Result<(Self, watch::Receiver<Arc<Registry>>), Faults> {
        // The stamp is older than what is read, so that a change between the two is not missed.
        let files = FileWatch::new([path.to_owned()]);
        let registry = Registry::load(path)?.unwrap_or_else(|| {
            // Whether that matters depends on `devices.auth`: the configuration's check warns.
            tracing::info!(file = %path.display(), "there is no registry of devices yet");
            Registry::default()
        });
        let (current, receiver) = watch::channel(Arc::new(registry));
        Ok((Self { path: path.to_owned(), files, current }, receiver))
    }

    /// Waits until the file changes and reads it again, for ever. A file that is gone or broken
    /// keeps the registry that is in force and says so in the log. Cancel safe.
    pub async fn run(mut self) {
        loop {
            self.files.changed().await;
            self.reload().await;
        }
    }

    /// Waits for a change of the file. Cancel safe. For a caller that also reloads on a signal;
    /// else [`Self::run`] does all.
    pub async fn changed(&mut self) {
        self.files.changed().await;
    }

    /// Reads the file now; answers whether it is in force. A registry of thousands of devices
    /// takes a while on a small board, so a thread of its own reads it.
    pub async fn reload(&self) -> bool {
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || Registry::load(&path)).await;
        let file = self.path.display();
        match loaded {
            Ok(Ok(Some(registry))) => {
                tracing::info!(%file, devices = registry.len(), "registry read");
                self.current.send_replace(Arc::new(registry));
                return true;
            }
            Ok(Ok(None)) if !self.current.borrow().has_file() => {
                tracing::info!(%file, "there is no registry of devices yet");
            }
            Ok(Ok(None)) => {
                tracing::error!(name: "registry-refused", %file, "the registry is gone; the devices known before stay so");
            }
            Ok(Err(faults)) => {
                for fault in faults.iter().take(FAULTS_LOGGED) {
                    tracing::error!("{fault}");
                }
                let faults = faults.len();
                tracing::error!(
                    name: "registry-refused",
                    %file,
                    faults,
                    "the registry is not valid; the one before stays in force"
                );
            }
            Err(e) => {
                tracing::error!(name: "registry-refused", %file, error = %e, "reading the registry failed");
            }
        }
        false
    }
}

/// Through symbolic links: what they point to is what counts.
fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::registry::edit::Editor;
    use crate::core::ids::DeviceId;
    use crate::core::policy::Permissions;

    const LIMIT: Duration = Duration::from_secs(2);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn add(path: &Path, device: &str) {
        let mut editor = Editor::open(path).unwrap();
        editor.add(&DeviceId::new(device).unwrap(), &Permissions::default(), 0.0).unwrap();
        editor.save().unwrap();
    }

    #[test]
    fn a_changed_registry_is_in_force_within_two_seconds_and_a_broken_one_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        runtime().block_on(async {
            let (watch, mut registry) = RegistryWatch::open(&path).unwrap();
            assert!(registry.borrow_and_update().is_empty());
            let task = tokio::spawn(watch.run());

            add(&path, "a");
            tokio::time::timeout(LIMIT, registry.changed()).await.unwrap().unwrap();
            assert_eq!(registry.borrow_and_update().len(), 1);

            std::fs::write(&path, "[devices.a\n").unwrap();
            tokio::time::timeout(LIMIT, registry.changed()).await.unwrap_err();
            std::fs::remove_file(&path).unwrap();
            tokio::time::timeout(LIMIT, registry.changed()).await.unwrap_err();
            assert_eq!(registry.borrow().len(), 1);

            add(&path, "b");
            tokio::time::timeout(LIMIT, registry.changed()).await.unwrap().unwrap();
            assert!(registry.borrow_and_update().get(&DeviceId::new("b").unwrap()).is_some());
            task.abort();
        });
    }

    #[test]
    fn a_file_replaced_by_one_of_the_same_size_and_time_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "1").unwrap();
        std::fs::write(&other, "2").unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        runtime().block_on(async {
            let mut watch = FileWatch::new([path.clone()]);
            assert!(!watch.look());
            std::fs::rename(&other, &path).unwrap();
            tokio::time::timeout(LIMIT, watch.changed()).await.unwrap();
            assert!(!watch.look());
        });
    }
}
