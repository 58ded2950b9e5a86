//! The operator's limits: size and age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::config::{SpoolSettings, WhenFull};
use crate::core::batch::{Loss, LossReason};
use crate::ports::{Spool, SpoolEvent};
use crate::storage::disk;

fn small() -> SpoolSettings {
    SpoolSettings { max_bytes: 2 << 20, ..settings() }
}

#[test]
fn at_the_limit_the_oldest_go_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    let mut losses: Vec<Loss> = Vec::new();
    let mut evicted = 0;
    let total = 400;
    let mut peak = 0;
    for number in 0..total / 10 {
        for number in 10 * number..10 * number + 10 {
            bench.append(bulky(number, 10_000));
        }
        let position = bench.next - 1;
        loop {
            match bench.event() {
                SpoolEvent::Durable { through } if through == position => break,
                SpoolEvent::Evicted { through, losses: more } => {
                    assert!(through > evicted);
                    evicted = through;
                    losses.extend(more);
                }
                SpoolEvent::Durable { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        peak = peak.max(disk::allocated(&dir.path().join("spool")));
    }
    assert!(peak <= 2 << 20, "{peak} bytes on the disk");
    assert!(peak > 3 << 19, "the limit is used: {peak} bytes");
    assert!(evicted > 200);
    assert!(losses.iter().all(|loss| loss.reason == LossReason::EvictedSize));
    assert_eq!(losses.iter().map(|loss| loss.readings).sum::<u64>(), evicted);
    // For each device the losses join up, and what is left begins behind them.
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    for loss in &losses {
        let end = last.entry((loss.device.clone().unwrap(), loss.epoch)).or_default();
        assert_eq!(loss.first_seq, Some(*end + 1));
        *end = loss.last_seq.unwrap();
    }
    let (batches, _, corrupt) = bench.load(1, usize::MAX);
    assert_eq!(
        (batches[0].0, batches.len() as u64, corrupt.len()),
        (evicted + 1, total - evicted, 0)
    );
    for (_, batch) in batches {
        let end = last.entry((batch.device.clone(), batch.epoch)).or_default();
        *end += 1;
        assert_eq!(batch.seq, Some(*end));
    }
}

#[test]
fn what_was_released_is_not_counted_as_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &small());
    for number in 0..10 {
        bench.append(bulky(number, 10_000));
    }
    bench.durable(10);
    bench.spool.release(7);
    let mut readings = 0;
    let mut durable = 10;
    let through = loop {
        while bench.next < durable + 10 {
            bench.append(bulky(bench.next, 10_000));
        }
        match bench.event() {
            SpoolEvent::Evicted { through, losses } => {
                readings += losses.iter().map(|loss| loss.readings).sum::<u64>();
                break through;
            }
            SpoolEvent::Durable { through } => durable = through,
            event => panic!("{event:?}"),
        }
    };
    assert!(through > 10);
    assert_eq!(readings, through - 7);
}

#[test]
fn block_holds_batches_back_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { when_full: WhenFull::Block, ..small() };
    let mut bench = Bench::open(dir.path(), &settings);
    let mut durable = 0;
    loop {
        while bench.next < durable + 10 {
            bench.append(bulky(bench.next, 10_000));
        }
        match bench.event() {
            SpoolEvent::Durable { through } => durable = through,
            SpoolEvent::Full(true) => break,
            event => panic!("{event:?}"),
        }
    }
    assert!(durable > 150);
    let waiting = bench.append(bulky(bench.next, 10_000));
    assert!(waiting > durable + 1);
    assert!(disk::allocated(&dir.path().join("spool")) <= 2 << 20);
    // Draining makes room, and nothing is missing.
    let mut seen = Vec::new();
    let mut is_full = true;
    let mut next = 1;
    let mut loading = true;
    bench.spool.load(next, 200_000);
    while seen.len() < usize::try_from(waiting).unwrap() {
        match bench.event() {
            SpoolEvent::Loaded { batches, next: after, losses } => {
                assert_eq!(losses, []);
                for (position, batch) in batches {
                    assert_eq!(*batch, bulky(position, 10_000));
                    seen.push(position);
                }
                bench.spool.release(after - 1);
                next = after;
                loading = false;
            }
            SpoolEvent::Full(full) => {
                assert_ne!(is_full, full);
                is_full = full;
            }
            SpoolEvent::Durable { through } => {
                durable = through;
            }
            event => panic!("{event:?}"),
        }
        if !loading && next <= durable {
            loading = true;
            bench.spool.load(next, 200_000);
        }
    }
    assert!(!is_full);
    assert_eq!(seen, (1..=waiting).collect::<Vec<_>>());
}

#[test]
fn the_smallest_spool_still_takes_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { max_bytes: 1, ..settings() };
    let mut bench = Bench::open(dir.path(), &settings);
    for number in 0..5 {
        let position = bench.append(batch(number));
        while bench.event() != (SpoolEvent::Durable { through: position }) {}
    }
    let (batches, ..) = bench.load(1, 1000);
    assert_eq!(batches.len(), 1);
    assert_eq!(*batches[0].1, batch(4));
}

fn week() -> SpoolSettings {
    SpoolSettings { max_age: Duration::from_secs(7 * 86400), ..settings() }
}

fn fresh(number: u64) -> crate::core::batch::Batch {
    crate::core::batch::Batch { received: unix(), ..batch(number) }
}

#[test]
fn batches_that_are_too_old_go_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { max_age: Duration::from_millis(300), ..settings() };
    let mut bench = Bench::open(dir.path(), &settings);
    for number in 0..10 {
        bench.append(fresh(number));
    }
    let mut lost = 0;
    while lost < 10 {
        match bench.event() {
            SpoolEvent::Evicted { losses, .. } => {
                assert!(losses.iter().all(|loss| loss.reason == LossReason::EvictedAge));
                lost += losses.iter().map(|loss| loss.readings).sum::<u64>();
            }
            SpoolEvent::Durable { .. } => {}
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(lost, 10);
}

#[test]
fn what_grew_too_old_while_the_gateway_was_off_goes_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &week());
    bench.append(fresh(0));
    bench.durable(1);
    drop(bench);
    let clock = Arc::new(TestClock::default());
    clock.set(8.0 * 24.0 * 3600.0);
    let mut bench = Bench::try_open(dir.path(), &week(), clock).unwrap();
    let SpoolEvent::Evicted { through: 1, losses } = bench.event() else { panic!() };
    assert_eq!(losses[0].reason, LossReason::EvictedAge);
}
