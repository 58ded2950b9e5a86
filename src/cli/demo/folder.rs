//! The folder in which the demo's configuration, logs and spool live.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A folder that is removed in the end, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// Uses `data` and keeps it, or makes a temporary one.
    pub(super) fn new(data: Option<&Path>) -> anyhow::Result<Self> {
        let keep = data.is_some();
        let path = if let Some(path) = data {
            std::path::absolute(path)?
        } else {
            let name = format!("tidegate-demo-{:016x}", rand::random::<u64>());
            std::env::temp_dir().join(name)
        };
        DirBuilder::new()
            .recursive(keep)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("the folder {} cannot be made", path.display()))?;
        Ok(Self { path, keep })
    }

    /// The folder, if it stays.
    pub(super) fn kept(&self) -> Option<&Path> {
        self.keep.then_some(&self.path)
    }

    /// Where a child writes its log.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    /// Writes the gateway's configuration.
    pub(super) fn configuration(
        &self,
        devices: SocketAddr,
        dashboard: SocketAddr,
        broker: SocketAddr,
    ) -> anyhow::Result<PathBuf> {
        let file = self.path.join("tidegate.toml");
        let text = format!(
            "# Written by `tidegate demo`.\n\
             [gateway]\nid = \"demo\"\ndata_dir = \"data\"\n\n\
             # No tokens: it listens on loopback only, and any device may join in.\n\
             [devices]\nlisten = \"{devices}\"\nauth = \"none\"\n\n\
             [mqtt]\nurl = \"mqtt://{broker}\"\n\n\
             [dashboard]\nlisten = \"{dashboard}\"\n\n\
             [log]\nlevel = \"info\"\ntarget = \"stderr\"\n"
        );
        std::fs::write(&file, text)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing depends on it, and it lies where the system cleans up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auth, Settings};

    #[test]
    fn the_configuration_is_valid_and_the_folder_goes_in_the_end() {
        let folder = Folder::new(None).unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let file = folder.configuration(at(1), at(2), at(3)).unwrap();
        let settings = Settings::load(&file).unwrap();
        assert_eq!((settings.devices.listen, settings.dashboard.listen), (at(1), at(2)));
        assert_eq!((settings.devices.auth, settings.mqtt.port), (Auth::None, 3));
        drop(folder);
        assert!(!file.exists());
    }

    #[test]
    fn a_folder_of_ones_own_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        drop(Folder::new(Some(&path)).unwrap());
        assert!(path.is_dir());
    }
}
