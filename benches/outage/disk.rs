//! Where the data lies, and what reaches the device below.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::process::Process;

/// Size of the file system.
const SIZE: &str = "6G";

/// A file system, mounted on its own where that is allowed.
pub struct Disk {
    root: TempDir,
    /// The loop device's name.
    device: Option<String>,
}

impl Disk {
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("data")).expect("a new folder");
        let mut disk = Self { root, device: None };
        disk.device = disk.mount();
        disk
    }

    fn mount(&self) -> Option<String> {
        let image = self.root.path().join("image");
        let data = self.root.path().join("data");
        run(Command::new("truncate").args(["-s", SIZE]).arg(&image))?;
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&data))?;
        let source = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&data))?;
        Some(source.trim().strip_prefix("/dev/")?.to_owned())
    }

    /// What [`Self::written`] counts.
    pub fn source(&self) -> &'static str {
        match self.device {
            Some(_) => "the block device (ext4 with journal, in a loop device)",
            None => "the process alone, without the journal of the file system",
        }
    }

    /// A folder for data that is empty.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.root.path().join("data").join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a new folder");
        path
    }

    /// Where configurations lie, which is not on the measured disk.
    pub fn aside(&self) -> &Path {
        self.root.path()
    }

    /// Bytes written so far, after everything has been.
    pub fn written(&self, process: Option<&Process>) -> u64 {
        rustix::fs::sync();
        match (&self.device, process) {
            (Some(_), _) => self.count(6) * 512,
            (None, Some(process)) => process.written_bytes(),
            (None, None) => 0,
        }
    }

    /// Cache flushes that the device was asked for so far: one for each sync that had to wait.
    pub fn flushes(&self) -> u64 {
        self.device.as_ref().map_or(0, |_| self.count(15))
    }

    fn count(&self, field: usize) -> u64 {
        let device = self.device.as_ref().expect("a device");
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).expect("a device");
        stat.split_whitespace().nth(field).expect("a field").parse().expect("a number")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.device.is_some() {
            let data = self.root.path().join("data");
            let _ = Command::new("umount").arg(data).status();
        }
    }
}

/// Blocks of `path` and everything below, in bytes.
pub fn allocated(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    metadata.blocks() * 512 + entries.map(|entry| allocated(&entry.path())).sum::<u64>()
}

fn run(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
