//! A board without a battery for its clock: what is spooled keeps its age and gets its time.

#![allow(clippy::float_cmp, reason = "bit for bit is what is meant")]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::{Bench, batch, settings};
use crate::config::SpoolSettings;
use crate::core::batch::{Batch, LossReason, Reading};
use crate::core::clock::{Base, Moment};
use crate::ports::{Clock, SpoolEvent, lock};
use crate::spool::inspect::Inspection;

const NOW: f64 = 1_763_800_000.0;
const DAY: f64 = 86_400.0;

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
struct Board(Mutex<Moment>);

impl Board {
    /// In its `boot`, `uptime` seconds after it, showing `unix`.
    fn new(boot: u64, uptime: f64, unix: f64) -> Arc<Self> {
        let base = Base { boot, offset: unix - uptime };
        Arc::new(Self(Mutex::new(Moment { unix, base, lag: 0.0 })))
    }

    fn pass(&self, seconds: f64) {
        lock(&self.0).unix += seconds;
    }

    fn set(&self, unix: f64) {
        let mut now = lock(&self.0);
        now.base.offset += unix - now.unix;
        now.unix = unix;
    }

    /// A batch received now, with a reading stamped now and one that a device stamped.
    fn batch(&self, number: u64) -> Batch {
        let now = self.moment();
        let mut batch = Batch { received: now.unix, base: now.base, ..batch(number) };
        let own = batch.readings.remove(0);
        let relative = Reading { time: now.unix, relative: true, ..own.clone() };
        batch.readings = vec![relative, own];
        batch
    }
}

impl Clock for Board {
    fn unix(&self) -> f64 {
        lock(&self.0).unix
    }

    fn moment(&self) -> Moment {
        *lock(&self.0)
    }
}

fn week() -> SpoolSettings {
    SpoolSettings { max_age: Duration::from_secs(7 * 86400), ..settings() }
}

fn open(dir: &Path, board: &Arc<Board>) -> Bench {
    Bench::with_clock(dir, &week(), board.clone()).unwrap()
}

/// Waits until the spool shows that its oldest batch is `seconds` old.
fn until_aged(bench: &Bench, board: &Board, seconds: f64) {
    bench.until("the age", |bench| {
        let oldest = bench.health.spool().oldest;
        oldest.is_some_and(|oldest| (board.unix() - oldest - seconds).abs() < 0.01)
    });
}

#[test]
fn a_clock_that_is_set_makes_nothing_old_not_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(1, 30.0, 30.0);
    let mut bench = open(dir.path(), &board);
    bench.store([board.batch(0)]);
    board.pass(100.0);
    until_aged(&bench, &board, 100.0);
    board.set(NOW);
    until_aged(&bench, &board, 100.0);
    // Of another clock than what is there: a generation of its own.
    bench.store([board.batch(1)]);
    drop(bench);
    board.pass(50.0);
    // Set once more while the gateway is off.
    board.set(NOW + DAY);
    let mut bench = open(dir.path(), &board);
    until_aged(&bench, &board, 150.0);
    let (batches, lost) = bench.load_all();
    assert_eq!((batches.len(), lost.len()), (2, 0));
    for (age, (_, batch)) in [150.0, 50.0].into_iter().zip(batches) {
        assert_eq!(batch.shift, 0.0, "this boot's are corrected when they leave");
        let shift = batch.base.correction(batch.received, &board.moment().base).unwrap();
        assert_eq!(batch.received + shift, board.unix() - age);
        assert!(batch.readings[0].relative && !batch.readings[1].relative);
    }
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_batch_from_before_the_clock_was_set_is_corrected_in_the_next_boot_too() {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(1, 30.0, 30.0);
    let mut bench = open(dir.path(), &board);
    let early = board.batch(0);
    bench.store([early.clone()]);
    board.pass(100.0);
    board.set(NOW);
    until_aged(&bench, &board, 100.0);
    drop(bench);

    let board = Board::new(2, 20.0, 20.0);
    let mut bench = open(dir.path(), &board);
    until_aged(&bench, &board, 20.0);
    let (batches, lost) = bench.load_all();
    assert_eq!((batches.len(), lost.len()), (1, 0));
    let late = &batches[0].1;
    assert_eq!((late.received, late.shift), (NOW - 100.0, NOW - 130.0));
    assert!(late.readings.iter().any(|reading| reading.relative && reading.time == NOW - 100.0));
    let own = &early.readings[1];
    assert!(late.readings.contains(own), "what the device stamped stays");
    assert_eq!(bench.poll(), None, "a board that is in 1970 again evicts nothing");
    bench.close();

    // On another machine, say.
    let inspection = Inspection::open(dir.path(), Moment::of(NOW)).unwrap();
    let mut found = Vec::new();
    for folder in &inspection.generations {
        let each = |_, batch| {
            found.push(batch);
            Ok::<_, Infallible>(())
        };
        let Ok(_) = inspection.read(folder, each, |fault| panic!("{fault:?}"));
    }
    assert_eq!(found, [(**late).clone()], "an export has the same times");
    drop(inspection);
    let mut bench = open(dir.path(), &board);

    // Eight days later, as it finds out.
    board.set(NOW + 8.0 * DAY);
    let SpoolEvent::Evicted { through: 1, losses } = bench.event() else { panic!() };
    assert_eq!(losses[0].reason, LossReason::EvictedAge);
}

#[test]
fn what_a_boot_received_whose_clock_never_was_set_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(1, 30.0, 30.0);
    let mut bench = open(dir.path(), &board);
    let early = board.batch(0);
    bench.store([early.clone()]);
    drop(bench);
    let board = Board::new(2, 20.0, NOW);
    let mut bench = open(dir.path(), &board);
    until_aged(&bench, &board, 20.0);
    assert_eq!(*bench.load_all().0[0].1, early);
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_clock_that_jumps_by_days_evicts_nothing_and_mixes_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(1, 30.0, NOW);
    let mut bench = open(dir.path(), &board);
    let mut stored = Vec::new();
    for (number, jump) in (0..).zip([8.0, -8.0, 30.0, -60.0, 1.0, -1.0]) {
        // In one group or in two: they wait for the commit together.
        let before = board.batch(2 * number);
        board.pass(1.0);
        board.set(board.unix() + jump * DAY);
        stored.extend([before, board.batch(2 * number + 1)]);
        bench.store(stored[stored.len() - 2..].to_vec());
        until_aged(&bench, &board, number as f64 + 1.0);
    }
    let (batches, lost) = bench.load_all();
    let found: Vec<_> = batches.into_iter().map(|(_, batch)| (*batch).clone()).collect();
    assert_eq!((found, lost.len()), (stored, 0));
    assert_eq!(bench.poll(), None);
}
