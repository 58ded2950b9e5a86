//! A disk that is full, and one that has become read-only.

use std::fs;

use super::support::*;
use crate::core::ids::Position;
use crate::ports::{Spool, SpoolEvent};

fn fill(mount: &Mount) -> std::path::PathBuf {
    let path = mount.dir.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let zeros = std::io::repeat(0);
    let error = std::io::copy(&mut std::io::Read::take(zeros, 1 << 30), &mut file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    path
}

/// Adds batches until the disk refuses; the last durable position and the reason.
fn until_stalled(bench: &mut Bench) -> (Position, String) {
    // Nothing is waiting.
    let mut durable = bench.next - 1;
    loop {
        while bench.next < durable + 200 {
            bench.append(bulky(bench.next, 2000));
        }
        match bench.event() {
            SpoolEvent::Durable { through } => durable = through,
            SpoolEvent::Stalled { reason } => return (durable, reason),
            event => panic!("{event:?}"),
        }
    }
}

fn resumed(bench: &mut Bench, through: Position) {
    assert_eq!(bench.event(), SpoolEvent::Resumed);
    bench.durable(through);
    assert_eq!(bench.health.spool().fault, None);
}

#[test]
fn a_full_disk_stalls_loses_nothing_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=12m", "tmpfs"];
    let Some(mount) = Mount::new(&dir.path().join("disk"), &mount) else { return };
    let data = mount.dir.join("data");
    let mut bench = Bench::open(&data, &settings());
    for _ in 0..50 {
        bench.append(bulky(bench.next, 2000));
    }
    bench.durable(50);
    let filler = fill(&mount);
    let (durable, reason) = until_stalled(&mut bench);
    assert!(reason.contains("disk/data/spool/gen-"), "{reason}");
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(bench.health.spool().fault.is_some());
    // What is there can be read all the while.
    for _ in 0..30 {
        bench.append(bulky(bench.next, 2000));
    }
    let (batches, next, losses) = bench.load(1, usize::MAX);
    assert_eq!((batches.len() as u64, next, losses.len()), (durable, durable + 1, 0));
    // Also by a process that is started on the full disk.
    drop(bench);
    let mut bench = Bench::open(&data, &settings());
    assert_eq!(bench.spool.opened().losses, []);
    let begin = bench.next;
    assert!(begin > durable);
    assert_eq!(bench.load_all().0.len() as u64, begin - 1);
    let (_, _) = until_stalled(&mut bench);
    let last = bench.next - 1;
    fs::remove_file(filler).unwrap();
    resumed(&mut bench, last);
    let (all, losses) = bench.load_all();
    assert_eq!((all.len() as u64, losses.len()), (last, 0));
    assert!(all.iter().all(|(position, batch)| **batch == bulky(*position, 2000)));
}

#[test]
fn draining_a_full_disk_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
    let Some(mount) = Mount::new(&dir.path().join("disk"), &mount) else { return };
    let mut bench = Bench::open(&mount.dir.join("data"), &settings());
    let (durable, _) = until_stalled(&mut bench);
    assert!(durable > 500);
    let (all, ..) = bench.load(1, usize::MAX);
    assert_eq!(all.len() as u64, durable);
    bench.spool.release(durable);
    let last = bench.next - 1;
    resumed(&mut bench, last);
}

#[test]
fn a_disk_that_becomes_read_only_stalls_and_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=12m", "tmpfs"];
    let Some(mount) = Mount::new(&dir.path().join("disk"), &mount) else { return };
    let data = mount.dir.join("data");
    let mut bench = Bench::open(&data, &settings());
    bench.append(batch(0));
    bench.durable(1);
    drop(bench);
    let mut bench = Bench::open(&data, &settings());
    // Over the folder, since open files forbid to remount the whole. What is open can still be
    // written: the small files. A new generation is not.
    let spool = data.join("spool");
    let over = ["--bind", "-o", "ro", spool.to_str().unwrap()];
    let Some(read_only) = Mount::new(&spool, &over) else { return };
    let position = bench.append(batch(1));
    let SpoolEvent::Stalled { reason } = bench.event() else { panic!() };
    assert!(reason.contains("gen-") && reason.contains("Read-only file system"), "{reason}");
    assert_eq!(bench.load(1, 1000).0.len(), 1);
    drop(read_only);
    resumed(&mut bench, position);
}
