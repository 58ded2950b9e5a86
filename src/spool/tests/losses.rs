//! What was lost is published, whatever happens before it is.

use std::fs;
use std::path::Path;

use super::support::*;
use crate::config::SpoolSettings;
use crate::core::batch::{Loss, LossReason};
use crate::core::clock::Moment;
use crate::core::ids::DeviceId;
use crate::ports::{Spool, SpoolEvent};
use crate::spool::inspect::Inspection;

fn small() -> SpoolSettings {
    SpoolSettings { max_bytes: 2 << 20, ..settings() }
}

/// Adds batches until some are evicted: how many readings that were.
fn evict(bench: &mut Bench) -> u64 {
    let mut durable = bench.next - 1;
    loop {
        while bench.next < durable + 10 {
            bench.append(bulky(bench.next, 10_000));
        }
        match bench.event() {
            SpoolEvent::Durable { through } => durable = through,
            SpoolEvent::Evicted { losses, .. } => {
                // Nothing is under way when this returns.
                bench.durable(bench.next - 1);
                return losses.iter().map(|loss| loss.readings).sum();
            }
            event => panic!("{event:?}"),
        }
    }
}

fn readings(reports: &[(u64, Loss)]) -> u64 {
    reports.iter().map(|(_, loss)| loss.readings).sum()
}

/// Waits for records of so many readings in all.
fn reported(bench: &mut Bench, expected: u64) {
    let begin = std::time::Instant::now();
    while readings(&bench.reports) < expected {
        assert!(begin.elapsed() < PATIENCE, "{} of {expected}", readings(&bench.reports));
        if let Some(event) = bench.poll() {
            panic!("{event:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(readings(&bench.reports), expected);
}

#[test]
fn what_waits_to_be_published_is_shown_of_a_stopped_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    let lost = evict(&mut bench);
    bench.close();
    let path = dir.path().join("spool/losses");
    let before = fs::read(&path).unwrap();
    let inspection = Inspection::open(dir.path(), Moment::default()).unwrap();
    let told: u64 = inspection.losses.iter().map(|loss| loss.readings).sum();
    assert_eq!((told, inspection.notes.len()), (lost, 0), "{:?}", inspection.notes);
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
    // Also where the marks are gone: what was given up does not count as missing.
    fs::remove_file(dir.path().join("spool/marks")).unwrap();
    let again = Inspection::open(dir.path(), Moment::default()).unwrap();
    assert_eq!((again.head, again.faults), (inspection.head, Vec::new()));
    drop(inspection.losses);
    fs::write(&path, vec![0x55; before.len()]).unwrap();
    let damaged = Inspection::open(dir.path(), Moment::default()).unwrap();
    assert!(damaged.losses.is_empty());
    assert!(damaged.notes.iter().any(|note| note.contains("none of them can")), "{damaged:?}");
    fs::remove_file(&path).unwrap();
    assert_eq!(Inspection::open(dir.path(), Moment::default()).unwrap().losses, []);
}

#[test]
fn a_record_comes_again_after_a_crash_until_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    let lost = evict(&mut bench);
    assert!(lost > 0);
    reported(&mut bench, lost);
    let first: Vec<_> = bench.reports.clone();
    drop(bench);
    for _ in 0..2 {
        let mut bench = Bench::open(dir.path(), &small());
        assert_eq!(bench.spool.opened().losses, [], "counted once");
        reported(&mut bench, lost);
        let again = &bench.reports;
        assert_eq!(again[0].0, 1, "numbers begin anew");
        assert!(again.iter().zip(&first).all(|(a, b)| a.1 == b.1), "times and all");
    }
    let mut bench = Bench::open(dir.path(), &small());
    reported(&mut bench, lost);
    let half = bench.reports.len() / 2;
    bench.spool.losses_published(half as u64);
    let rest = readings(&bench.reports[half..]);
    bench.close();
    let mut bench = Bench::open(dir.path(), &small());
    reported(&mut bench, rest);
    bench.spool.losses_published(u64::MAX);
    bench.close();
    let mut bench = Bench::open(dir.path(), &small());
    bench.append(batch(1));
    bench.durable(bench.next - 1);
    assert_eq!(bench.reports, []);
}

#[test]
fn no_more_than_the_window_is_under_way_and_acknowledging_brings_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    let loss = |n: u64| Loss {
        device: DeviceId::new(&format!("d{n}")).ok(),
        epoch: n,
        first_seq: Some(n),
        last_seq: Some(n),
        batches: 1,
        readings: 1,
        received: None,
        reason: LossReason::Refused,
        time: n as f64,
        detail: Some("not authorised".into()),
    };
    for n in 1..=100 {
        bench.spool.lost(loss(n));
    }
    let mut acknowledged = 0;
    while acknowledged < 100 {
        let expected = (acknowledged + 32).min(100);
        reported(&mut bench, expected);
        acknowledged = (acknowledged + 10).min(100);
        bench.spool.losses_published(acknowledged);
    }
    let numbers: Vec<_> = bench.reports.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert!(bench.reports.iter().all(|(number, found)| *found == loss(*number)));
}

#[test]
fn an_eviction_that_a_crash_cut_short_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    bench.store((0..40).map(|number| bulky(number, 10_000)));
    drop(bench);
    let before = dir.path().join("before");
    copy(&dir.path().join("spool"), &before);
    let mut bench = Bench::open(dir.path(), &small());
    let lost = evict(&mut bench);
    drop(bench);
    // The record was written, and nothing that comes after it.
    let (spool, kept) = (dir.path().join("spool"), dir.path().join("losses"));
    fs::copy(spool.join("losses"), &kept).unwrap();
    fs::remove_dir_all(&spool).unwrap();
    copy(&before, &spool);
    fs::copy(&kept, spool.join("losses")).unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    let opened = bench.spool.opened();
    assert_eq!(opened.losses, []);
    assert_eq!(opened.head, lost + 1, "what was given up does not come again");
    reported(&mut bench, lost);
    let (left, corrupt) = bench.load_all();
    assert_eq!((left.len() as u64, corrupt.len()), (40_u64.saturating_sub(lost), 0));
}

#[test]
fn found_damage_is_on_record_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    bench.store([bulky(1, 3000)]);
    drop(bench);
    damage(dir.path());
    let bench = Bench::open(dir.path(), &settings());
    let losses = bench.spool.opened().losses;
    assert_eq!(losses.len(), 1);
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings());
    assert_eq!(bench.spool.opened().losses, [], "counted once");
    reported(&mut bench, 1);
    assert_eq!(bench.reports, [(1, losses[0].clone())]);
}

fn damage(dir: &Path) {
    let file = files(&dir.join("spool")).into_iter().find(|file| file.ends_with("db")).unwrap();
    let path = dir.join("spool").join(file);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|window| window == b"tgS1").unwrap();
    bytes[at + 100] ^= 1;
    fs::write(path, bytes).unwrap();
}
