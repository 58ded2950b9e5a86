//! What the tests of everything on the disk share: clocks, copies, mounted disks, power cuts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ports::{Clock, lock};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long mounting is tried.
const MOUNTING: Duration = Duration::from_secs(2);

/// The program with these tests, for those that start it once more: this one, or what
/// `TIDEGATE_TESTS` names, since this machine cannot start by itself what is for another processor.
pub(crate) fn these_tests() -> PathBuf {
    let named = std::env::var_os("TIDEGATE_TESTS").map(PathBuf::from);
    named.unwrap_or_else(|| std::env::current_exe().unwrap())
}

/// The wall clock, and how far it was set wrong.
#[derive(Debug, Default)]
pub(crate) struct TestClock(Mutex<f64>);

impl TestClock {
    pub(crate) fn set(&self, seconds: f64) {
        *lock(&self.0) += seconds;
    }
}

impl Clock for TestClock {
    fn unix(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs_f64() + *lock(&self.0)
    }
}

/// A clock that panics once, in the thread of that name, when the test says so: what a fault of the
/// program in that thread does to the rest.
#[derive(Debug)]
pub(crate) struct BreakingClock {
    thread: &'static str,
    breaks: AtomicBool,
}

impl BreakingClock {
    pub(crate) fn new(thread: &'static str) -> Self {
        Self { thread, breaks: AtomicBool::new(false) }
    }

    pub(crate) fn break_it(&self) {
        self.breaks.store(true, Ordering::Release);
    }

    pub(crate) fn has_broken(&self) -> bool {
        !self.breaks.load(Ordering::Acquire)
    }
}

impl Clock for BreakingClock {
    fn unix(&self) -> f64 {
        let here = std::thread::current().name() == Some(self.thread);
        assert!(!here || !self.breaks.swap(false, Ordering::AcqRel), "as the test wishes");
        TestClock::default().unix()
    }
}

/// The files below `dir`, longest first, with their paths relative to it.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { collect(&path, files) } else { files.push(path) }
        }
    }
    let mut files = Vec::new();
    collect(dir, &mut files);
    files.sort();
    files.into_iter().map(|path| path.strip_prefix(dir).unwrap().into()).collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Says that a test cannot be run here. In CI, where `tests/run` installs what it needs, that is a
/// failure.
pub(crate) fn skipped(why: &str) {
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "in CI this must work: {why}");
    eprintln!("skipped: {why}");
}

/// A mounted file system, unmounted at the end.
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
}

impl Mount {
    /// None, with the reason printed, where this machine does not let us.
    pub(crate) fn new(dir: &Path, arguments: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let begin = Instant::now();
        loop {
            match run(Command::new("mount").args(arguments).arg(dir)) {
                Ok(_) => return Some(Self { dir: dir.into() }),
                // Another test may have taken the loop device that was free a moment ago.
                Err(_) if begin.elapsed() < MOUNTING => sleep(Duration::from_millis(100)),
                Err(error) => {
                    skipped(&error);
                    return None;
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whatever still holds a file in it ends with the test.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

/// What it printed.
fn run(command: &mut Command) -> Result<String, String> {
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn mount_image(image: &Path, dir: &Path) -> Option<Mount> {
    let image = image.to_str().unwrap();
    Mount::new(dir, &["-t", "ext4", "-o", "loop", image])
}

/// An ext4 in a file whose power can be cut.
pub(crate) struct PowerDisk {
    work: tempfile::TempDir,
    mount: Option<Mount>,
}

impl PowerDisk {
    /// None, with the reason printed, where this machine does not let us.
    pub(crate) fn new() -> Option<Self> {
        let work = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(work.path().join("image")).unwrap();
        file.set_len(96 << 20).unwrap();
        let mut disk = Self { work, mount: None };
        let mut mkfs = Command::new("mkfs.ext4");
        if let Err(error) = run(mkfs.args(["-q", "-E", "lazy_itable_init=0"]).arg(disk.image())) {
            skipped(&error);
            return None;
        }
        disk.mount = Some(mount_image(&disk.image(), &disk.dir())?);
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.work.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn dir(&self) -> PathBuf {
        self.work.path().join("disk")
    }

    /// Shuts the file system down without its journal, and says when: nanoseconds of
    /// `CLOCK_MONOTONIC`. None, with the reason printed, where that cannot be done.
    pub(crate) fn cut(&self) -> Option<u64> {
        let helper = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/power_cut.py");
        run(Command::new("python3").arg(&helper).arg(self.dir()))
            .inspect_err(|error| skipped(error))
            .map(|said| said.trim().parse().unwrap())
            .ok()
    }

    /// Unmounts and mounts again; nobody may have a file open.
    pub(crate) fn restart(&mut self) {
        let mount = self.mount.take().unwrap();
        // Not lazily: the same image is mounted again.
        run(Command::new("umount").arg(&mount.dir)).unwrap();
        std::mem::forget(mount);
        self.mount = mount_image(&self.image(), &self.dir());
        assert!(self.mount.is_some());
    }
}
