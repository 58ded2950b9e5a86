//! Somebody deletes the spool's files while the gateway runs.

use std::fs;
use std::time::Instant;

use super::support::*;
use crate::config::SpoolSettings;
use crate::core::batch::{Loss, LossReason};
use crate::ports::{Spool, SpoolEvent};

fn small() -> SpoolSettings {
    SpoolSettings { max_bytes: 8 << 20, ..settings() }
}

/// Adds one batch and takes in what comes until it is durable. The losses on the way.
fn goes_on(bench: &mut Bench) -> Vec<Loss> {
    let position = bench.append(batch(bench.next));
    let mut lost = Vec::new();
    loop {
        match bench.event() {
            SpoolEvent::Durable { through } if through == position => return lost,
            SpoolEvent::Lost { losses } => lost.extend(losses),
            SpoolEvent::Durable { .. } | SpoolEvent::Stalled { .. } | SpoolEvent::Resumed => {}
            event => panic!("{event:?}"),
        }
    }
}

fn readings(losses: &[Loss]) -> u64 {
    assert!(losses.iter().all(|loss| loss.reason == LossReason::Corrupt), "{losses:?}");
    losses.iter().map(|loss| loss.readings).sum()
}

#[test]
fn what_is_being_written_is_written_again_and_nothing_is_lost() {
    for gone in ["", "spool", "spool/gen-0000000000000001", "spool/gen-0000000000000001/db"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut bench = Bench::open(&data, &settings());
        bench.store((0..100).map(|number| sized(number, 3)));
        bench.spool.release(10);
        let path = data.join(gone);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        assert_eq!(goes_on(&mut bench), [], "{gone:?}");
        // It is on the disk, for whoever comes next.
        drop(bench);
        let mut bench = Bench::open(&data, &settings());
        assert_eq!(bench.spool.opened().losses, [], "{gone:?}");
        let (all, lost) = bench.load_all();
        assert_eq!((all.len(), lost.len()), (91, 0), "{gone:?}");
        for (position, found) in all.iter().take(90) {
            assert_eq!(**found, sized(position - 1, 3), "{gone:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_any_more_is_counted_once_without_waiting_for_the_drain() {
    for gone in ["spool", "one"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut bench = Bench::open(&data, &small());
        bench.store((0..150).map(|number| bulky(number, 10_000)));
        let spool = data.join("spool");
        let mut folders: Vec<_> = fs::read_dir(&spool)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        assert!(folders.len() >= 4, "{folders:?}");
        match gone {
            "one" => fs::remove_dir_all(&folders[1]).unwrap(),
            _ => fs::remove_dir_all(&spool).unwrap(),
        }
        let mut lost = Vec::new();
        let begin = Instant::now();
        while lost.is_empty() {
            assert!(begin.elapsed() < PATIENCE);
            lost.extend(goes_on(&mut bench));
        }
        let counted = readings(&lost);
        assert!(counted > 0);
        let end = bench.next;
        let stored = |all: usize| all as u64 + counted;
        let (all, corrupt) = bench.load_all();
        assert_eq!((stored(all.len()), corrupt.len()), (end - 1, 0), "{gone}: each of one reading");
        drop(bench);
        let mut bench = Bench::open(&data, &small());
        assert_eq!(bench.spool.opened().losses, [], "{gone}: counted again");
        let (all, corrupt) = bench.load_all();
        assert_eq!((stored(all.len()), corrupt.len()), (end - 1, 0), "{gone}: after a restart");
        bench.store([batch(1)]);
        assert_eq!(bench.reports.iter().map(|(_, loss)| loss.readings).sum::<u64>(), counted);
        bench.spool.release(bench.next - 1);
        bench.until("all is deleted", |bench| bench.health.spool().bytes == 0);
    }
}

#[test]
fn another_gateway_cannot_take_a_folder_that_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut bench = Bench::open(&data, &settings());
    bench.store([batch(1)]);
    fs::remove_dir_all(&data).unwrap();
    goes_on(&mut bench);
    let Err(refusal) = Bench::try_open(&data, &settings(), std::sync::Arc::default()) else {
        panic!("opened twice");
    };
    assert!(refusal.to_string().contains(&std::process::id().to_string()), "{refusal}");
}

#[test]
fn a_folder_that_cannot_be_made_again_stalls_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut bench = Bench::open(&data, &settings());
    bench.store((0..20).map(batch));
    fs::remove_dir_all(&data).unwrap();
    // In its place there is something else.
    fs::write(&data, "").unwrap();
    let position = bench.append(batch(20));
    let SpoolEvent::Stalled { reason } = bench.event() else { panic!() };
    assert!(reason.contains("data"), "{reason}");
    // What is in memory can be read all the while.
    let (batches, next, losses) = bench.load(1, usize::MAX);
    assert_eq!((batches.len(), next, losses.len()), (20, 21, 0));
    fs::remove_file(&data).unwrap();
    assert_eq!(bench.event(), SpoolEvent::Resumed);
    bench.durable(position);
    drop(bench);
    assert_eq!(Bench::open(&data, &settings()).load_all().0.len(), 21);
}
