//! The power goes while batches are written: an ext4 in a file is shut down without its journal,
//! unmounted, and mounted again. What was reported durable must be there.
//!
//! Needs root, loop devices and Python; skipped with a reason where there are none.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::crash::{Writer, check};
use super::support::*;

const ROUNDS: u64 = 12;

fn run(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            eprintln!("{command:?}: {}", error.trim());
            false
        }
        Err(error) => {
            eprintln!("{command:?}: {error}");
            false
        }
    }
}

fn mount(image: &Path, dir: &Path) -> Option<Mount> {
    let image = image.to_str().unwrap();
    Mount::new(dir, &["-t", "ext4", "-o", "loop", image])
}

fn unmount(mount: Mount) {
    let dir = mount.dir.clone();
    // Not lazily: the same image is mounted again.
    assert!(run(Command::new("umount").arg(&dir)));
    std::mem::forget(mount);
}

#[test]
fn after_a_power_cut_everything_durable_is_there() {
    let work = tempfile::tempdir().unwrap();
    let image = work.path().join("image");
    let dir = work.path().join("disk");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(96 << 20).unwrap();
    let made = run(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0"]).arg(&image));
    let Some(disk) = made.then(|| mount(&image, &dir)).flatten() else {
        eprintln!("skipped: no ext4 to cut the power of");
        return;
    };
    let helper = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/power_cut.py");
    let data = dir.join("data");
    let mut disk = Some(disk);
    let mut tail = 1;
    for round in 0..ROUNDS {
        let mut writer = Writer::start(&data);
        writer.until_durable(tail);
        writer.work(Duration::from_millis(30 + 61 * round % 400));
        let cut = run(Command::new("python3").arg(&helper).arg(&dir));
        if round == 0 && !cut {
            eprintln!("skipped: the power cannot be cut here");
            return;
        }
        assert!(cut);
        writer.kill();
        unmount(disk.take().unwrap());
        disk = mount(&image, &dir);
        assert!(disk.is_some());
        tail = check(&data, &writer, &format!("round {round}"));
    }
    assert!(tail > 100, "{tail} batches in all rounds");
    unmount(disk.take().unwrap());
}
