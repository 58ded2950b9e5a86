//! Disks of the test's own: file systems that can be filled, broken and have their power cut.
//!
//! They need root, and loop devices or tmpfs. Where a machine lacks that, `None` and a line that
//! begins with "skipped:"; with `CI=true` it is a failure, so that nothing is skipped unseen.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::DEADLINE;

/// A mounted file system, unmounted when dropped.
pub(crate) struct Disk {
    work: TempDir,
    options: Vec<String>,
    mounted: bool,
}

impl Disk {
    /// An ext4 of `mib` MiB on a loop device. Errors make it read-only, as most systems have it.
    pub(crate) fn ext4(mib: u64) -> Option<Self> {
        let work = tempfile::tempdir().unwrap();
        let image = work.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-m", "0", "-E", "lazy_itable_init=0"]).arg(&image);
        let options = ["-t", "ext4", "-o", "loop,errors=remount-ro", image.to_str().unwrap()];
        Self::new(work, &options, run(&mut make))
    }

    /// A tmpfs of `mib` MiB.
    pub(crate) fn tmpfs(mib: u64) -> Option<Self> {
        let options = ["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"];
        Self::new(tempfile::tempdir().unwrap(), &options, Ok(()))
    }

    fn new(work: TempDir, options: &[&str], made: Result<(), String>) -> Option<Self> {
        std::fs::create_dir(work.path().join("disk")).unwrap();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut disk = Self { work, options, mounted: false };
        match made.and_then(|()| disk.try_mount()) {
            Ok(()) => Some(disk),
            Err(error) => {
                skipped(&format!("no file system can be mounted: {error}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.work.path().join("disk")
    }

    /// The data folder of a gateway on it.
    pub(crate) fn data(&self) -> String {
        self.path().join("data").to_str().unwrap().to_owned()
    }

    /// Cuts its power: what was not synced is gone, and every access fails until it is mounted
    /// again.
    pub(crate) fn cut(&self) {
        let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/power_cut.py");
        run(Command::new("python3").arg(helper).arg(self.path())).unwrap();
    }

    /// Has it find an error in itself, which makes it read-only. False where that is not possible.
    pub(crate) fn fail(&self) -> bool {
        let mut find = Command::new("findmnt");
        let source = find.args(["-n", "-o", "SOURCE"]).arg(self.path()).output().unwrap().stdout;
        let source = String::from_utf8(source).unwrap();
        let device = source.trim().strip_prefix("/dev/").expect("a device");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        match std::fs::write(&trigger, "a test") {
            Ok(()) => true,
            Err(error) => {
                skipped(&format!("{trigger}: {error}"));
                false
            }
        }
    }

    /// Mounts it read-only from now on; nothing may be open on it for writing.
    pub(crate) fn read_only(&self, yes: bool) {
        let how = if yes { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", how]).arg(self.path())).unwrap();
    }

    /// Unmounts it and mounts it again, as after a power cut. Nothing may be open on it.
    pub(crate) fn mount_again(&mut self) {
        self.unmount();
        self.try_mount().unwrap();
    }

    /// As [`Self::mount_again`], with its errors repaired in between.
    pub(crate) fn repair(&mut self) {
        self.unmount();
        let mut check = Command::new("e2fsck");
        let output = check.arg("-fy").arg(self.work.path().join("image")).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code <= 1), "{output:?}");
        self.try_mount().unwrap();
    }

    /// Fills it to the last block.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12, 1 << 9] {
            let block = vec![0xa5; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("filling the disk: {error}"),
                }
            }
        }
        // Space that was promised and not yet given counts as well.
        file.sync_all().unwrap();
    }

    /// Takes away what [`Self::fill`] wrote.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn try_mount(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            match run(Command::new("mount").args(&self.options).arg(self.path())) {
                Ok(()) => {
                    self.mounted = true;
                    return Ok(());
                }
                // Another test may have taken the loop device that was free a moment ago.
                Err(error) if begin.elapsed() > Duration::from_secs(2) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn unmount(&mut self) {
        let begin = Instant::now();
        while let Err(error) = run(Command::new("umount").arg(self.path())) {
            // A process that was killed may be held by its last write.
            assert!(begin.elapsed() < DEADLINE, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a gateway may still be on it, which ends with the test as well.
            let _ = run(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

/// Says that a test cannot be run here, or fails where that may not be.
fn skipped(why: &str) {
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "in CI this must work: {why}");
    eprintln!("skipped: {why}");
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
