//! What goes in comes out.

use std::time::{Duration, Instant};

use super::support::*;
use crate::ports::{Spool, SpoolEvent};
use crate::storage::disk;

#[test]
fn batches_come_back_in_order_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    assert_eq!(bench.spool.opened().head, bench.spool.opened().tail);
    for number in 0..5000 {
        bench.append(batch(number));
    }
    bench.durable(5000);
    let (all, lost) = bench.load_all();
    assert_eq!(lost, []);
    assert_eq!(all.len(), 5000);
    for (number, (position, found)) in (0..).zip(&all) {
        assert_eq!((*position, &**found), (number + 1, &batch(number)));
    }
    bench.until("the status page knows", |bench| {
        let health = bench.health.spool();
        health.batches == 5000 && health.readings == 5000 && health.open
    });
    let health = bench.health.spool();
    assert!(health.bytes > 50_000 && health.bytes < 400_000, "{health:?}");
    assert_eq!(health.oldest, Some(batch(0).received));
}

#[test]
fn what_was_durable_is_there_after_a_crash_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for run in 0..5 {
        let mut bench = Bench::open(dir.path(), &settings());
        let opened = bench.spool.opened();
        assert_eq!((opened.head, opened.tail), (1, 1 + 300 * run));
        assert_eq!(opened.losses, []);
        if run > 0 {
            assert_eq!(opened.progress.len(), 20);
            let last = batch(300 * run - 1);
            assert!(opened.progress.contains(&(last.device, last.epoch, last.seq.unwrap())));
        }
        for number in 300 * run..300 * (run + 1) {
            bench.append(batch(number));
        }
        bench.durable(300 * (run + 1));
        // Dropped without closing: nothing more is written.
    }
    let mut bench = Bench::open(dir.path(), &settings());
    let (all, lost) = bench.load_all();
    assert_eq!((all.len(), lost.len()), (1500, 0));
    assert!((0..).zip(&all).all(|(number, (_, found))| **found == batch(number)));
}

#[test]
fn closing_commits_what_was_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    for number in 0..100 {
        bench.append(batch(number));
    }
    let health = bench.health.clone();
    bench.close();
    assert!(!health.spool().open);
    assert_eq!(Bench::open(dir.path(), &settings()).spool.opened().tail, 101);
}

#[test]
fn a_second_gateway_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Bench::open(dir.path(), &settings());
    let Err(refusal) = Bench::try_open(dir.path(), &settings(), std::sync::Arc::default()) else {
        panic!("opened twice");
    };
    let refusal = refusal.to_string();
    assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
    assert!(refusal.contains("another tidegate uses this data folder"), "{refusal}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/data");
    let Err(refusal) = Bench::try_open(&path, &settings(), std::sync::Arc::default()) else {
        panic!("opened below a file");
    };
    assert!(refusal.to_string().contains("file/data"), "{refusal}");
}

#[test]
fn the_disk_is_given_back_after_the_drain_and_positions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    bench.store((0..3000).map(|number| sized(number, 3)));
    bench.until("shown", |bench| bench.health.spool().batches == 3000);
    let full = disk::allocated(&dir.path().join("spool"));
    bench.spool.release(2999);
    bench.spool.release(3000);
    let begin = Instant::now();
    bench.until("space comes back", |bench| bench.health.spool().bytes == 0);
    // A second or two; no more than a figure to look at, since a slow machine takes its time.
    println!("space comes back {:?} after the last release", begin.elapsed());
    let left = disk::allocated(&dir.path().join("spool"));
    assert!(left <= 16 * 1024 && full > 4 * left, "{full} bytes before, {left} after");
    assert_eq!(bench.health.spool().oldest, None);
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings());
    let opened = bench.spool.opened();
    assert_eq!((opened.head, opened.tail, opened.losses), (3001, 3001, Vec::new()));
    let position = bench.append(batch(9));
    bench.durable(position);
    assert_eq!(bench.load(1, 1000).0.len(), 1);
}

#[test]
fn released_batches_do_not_come_again_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    for number in 0..1000 {
        bench.append(batch(number));
    }
    bench.durable(1000);
    bench.spool.release(600);
    bench.until("the release is shown", |bench| bench.health.spool().batches == 400);
    // What a crash forgets is at most 50 ms old.
    std::thread::sleep(Duration::from_millis(80));
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings());
    assert_eq!(bench.spool.opened().head, 601);
    let (all, lost) = bench.load_all();
    assert_eq!((all.len(), all[0].0, lost.len()), (400, 601, 0));
    bench.until("counted", |bench| bench.health.spool().readings == 400);
}

#[test]
fn what_is_released_before_it_is_written_leaves_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    for round in 0..50 {
        for number in 0..20 {
            bench.append(batch(number));
        }
        // Somewhere among what waits, is being written, or has been.
        bench.spool.release(bench.next - 1 - round % 20);
        let position = bench.append(batch(round));
        bench.durable(position);
    }
    let end = bench.next;
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings());
    let opened = bench.spool.opened();
    assert_eq!((opened.tail, opened.losses), (end, Vec::new()));
    let (all, lost) = bench.load_all();
    assert_eq!(lost, []);
    assert_eq!(all.last().unwrap().0, end - 1);
}

#[test]
fn many_generations_are_written_drained_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let settings = crate::config::SpoolSettings { max_bytes: 8 << 20, ..settings() };
    let mut bench = Bench::open(dir.path(), &settings);
    bench.store((0..150).map(|number| bulky(number, 20_000)));
    let folders = || {
        let entries = std::fs::read_dir(dir.path().join("spool")).unwrap();
        entries.filter(|e| e.as_ref().unwrap().path().is_dir()).count()
    };
    let full = folders();
    // How batches fall into commits, and so into generations, depends on the machine's pace.
    assert!((5..=30).contains(&full), "{full} generations for 3 MB");
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings);
    assert_eq!(bench.spool.opened().tail, 151);
    let mut next = 1;
    while next < 151 {
        let (batches, after, losses) = bench.load(next, 100_000);
        assert_eq!(losses, []);
        for (position, found) in &batches {
            assert_eq!((*position, &**found), (next, &bulky(next - 1, 20_000)));
            next += 1;
        }
        assert_eq!(after, next);
        bench.spool.release(next - 1);
    }
    bench.until("all is deleted", |bench| bench.health.spool().bytes == 0);
    assert_eq!(folders(), 0);
}

#[test]
fn a_batch_that_is_larger_than_a_value_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    let sizes = [10, 4_000, 4_100, 64 * 1024, 1_000_000];
    for (number, size) in (0..).zip(sizes) {
        bench.append(batch(100 + number));
        bench.append(bulky(number, size));
    }
    bench.durable(10);
    for _ in 0..2 {
        let (all, lost) = bench.load_all();
        assert_eq!(lost, []);
        for (number, size) in (0..).zip(sizes) {
            assert_eq!(*all[2 * number].1, batch(100 + number as u64));
            assert_eq!(*all[2 * number + 1].1, bulky(number as u64, size));
        }
        drop(bench);
        assert_eq!(
            files(&dir.path().join("spool"))
                .iter()
                .filter(|p| p.iter().any(|c| c == "blobs"))
                .count(),
            0
        );
        bench = Bench::open(dir.path(), &settings());
    }
}

#[test]
fn a_lone_batch_does_not_wait_for_others_and_a_stream_is_gathered() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    bench.append(batch(0));
    bench.durable(1);
    let mut commits = 0;
    let mut sent = 0;
    // How long a group gathers is for the tests of the pace to tell; this holds at any speed.
    while sent < 200 {
        sent = bench.append(batch(sent));
        std::thread::sleep(Duration::from_millis(5));
        while let Some(event) = bench.poll() {
            assert!(matches!(event, SpoolEvent::Durable { .. }), "{event:?}");
            commits += 1;
        }
    }
    assert!((1..67).contains(&commits), "{commits} commits for {sent} batches");
}
