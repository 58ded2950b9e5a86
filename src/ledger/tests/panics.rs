//! A fault of the program in the ledger's thread.

use std::sync::Arc;

use super::support::*;
use crate::ledger::open;
use crate::ports::{Health, Ledger};
use crate::storage::testing::BreakingClock;

#[tokio::test]
async fn a_panic_of_the_thread_is_told_to_whoever_must_end_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = Bench::open(dir.path());
    bench.store([record(1, 1)]);
    drop(bench);
    let (health, clock) = (Arc::new(Health::default()), Arc::new(BreakingClock::new("ledger")));
    let mut ledger = open(dir.path(), health.clone(), clock.clone()).unwrap();
    clock.break_it();
    // The first change of a run begins a database, and what is old goes by the clock.
    ledger.persist(Arc::new(record(2, 1)));
    let part = tokio::time::timeout(PATIENCE, health.failed()).await.unwrap();
    assert_eq!(part, "ledger of commands");
    let shown = health.ledger();
    assert!(!shown.open && shown.fault.unwrap().contains("fault of tidegate"));
    drop(ledger);
    let (_, kept) = Bench::open(dir.path());
    assert_eq!(kept.records.first(), Some(&record(1, 1)), "what was durable is there");
}
