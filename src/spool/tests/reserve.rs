//! What is left to the rest of the system.

use std::fs;

use super::support::*;
use crate::config::{SpoolSettings, WhenFull};
use crate::ports::{Spool, SpoolEvent};
use crate::spool::disk;

/// Adds batches until the spool takes no more: the last durable position and the reason.
fn until_stalled(bench: &mut Bench) -> (u64, String) {
    let mut durable = bench.next - 1;
    loop {
        while bench.next < durable + 20 {
            bench.append(bulky(bench.next, 5000));
        }
        match bench.event() {
            SpoolEvent::Durable { through } => durable = through,
            SpoolEvent::Stalled { reason } => return (durable, reason),
            event => panic!("{event:?}"),
        }
    }
}

fn tmpfs(dir: &std::path::Path, size: &str) -> Option<Mount> {
    Mount::new(&dir.join("disk"), &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
}

#[test]
fn the_spool_stops_at_the_reserve_evicts_nothing_and_goes_on_when_there_is_room() {
    for when_full in [WhenFull::DropOldest, WhenFull::Block] {
        let dir = tempfile::tempdir().unwrap();
        let Some(mount) = tmpfs(dir.path(), "100m") else { return };
        let data = mount.dir.join("data");
        let settings = SpoolSettings { reserve: 4 << 20, when_full, ..settings() };
        let mut bench = Bench::open(&data, &settings);
        bench.store((1..=100).map(|number| bulky(number, 5000)));
        // Another program takes what there is, but for 6 MiB.
        let filler = mount.dir.join("filler");
        let room = disk::space(&mount.dir).unwrap().free - (6 << 20);
        let zeros = std::io::Read::take(std::io::repeat(0), room);
        std::io::copy(&mut { zeros }, &mut fs::File::create(&filler).unwrap()).unwrap();
        let (durable, reason) = until_stalled(&mut bench);
        assert!(durable > 200, "{durable}");
        assert!(reason.contains("spool.reserve") && reason.contains("4MiB"), "{reason}");
        assert!(reason.contains("disk/data/spool"), "{reason}");
        assert_eq!(bench.health.spool().fault.as_ref(), Some(&reason));
        let free = disk::space(&mount.dir).unwrap().free;
        assert!(((4 << 20)..(5 << 20)).contains(&free), "{free} bytes are free");
        // All of it is there, and can be drained, which needs no room.
        let (batches, next, losses) = bench.load(1, usize::MAX);
        assert_eq!((batches.len() as u64, next, losses.len()), (durable, durable + 1, 0));
        bench.spool.release(durable);
        assert_eq!(bench.event(), SpoolEvent::Resumed);
        bench.durable(bench.next - 1);
        // The same where the other program gives back what it took.
        let (_, _) = until_stalled(&mut bench);
        fs::remove_file(filler).unwrap();
        assert_eq!(bench.event(), SpoolEvent::Resumed);
        bench.durable(bench.next - 1);
        assert_eq!(bench.health.spool().fault, None);
    }
}

#[test]
fn on_a_small_file_system_the_reserve_is_a_twentieth() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = tmpfs(dir.path(), "10m") else { return };
    let settings = SpoolSettings { reserve: 64 << 20, ..settings() };
    let mut bench = Bench::open(&mount.dir.join("data"), &settings);
    let (durable, reason) = until_stalled(&mut bench);
    assert!(reason.contains("spool.reserve") && reason.contains("512KiB"), "{reason}");
    let free = disk::space(&mount.dir).unwrap().free;
    assert!((512 * 1024..1024 * 1024).contains(&free), "{free} bytes are free");
    bench.spool.release(durable);
    assert_eq!(bench.event(), SpoolEvent::Resumed);
}

#[test]
fn the_limit_of_the_spool_comes_before_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = tmpfs(dir.path(), "100m") else { return };
    let settings = SpoolSettings { reserve: 64 << 20, max_bytes: 2 << 20, ..settings() };
    let mut bench = Bench::open(&mount.dir.join("data"), &settings);
    let mut durable = 0;
    loop {
        while bench.next < durable + 20 {
            bench.append(bulky(bench.next, 5000));
        }
        match bench.event() {
            SpoolEvent::Durable { through } => durable = through,
            SpoolEvent::Evicted { .. } => break,
            event => panic!("{event:?}"),
        }
    }
}
