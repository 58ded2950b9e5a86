//! A fault of the program in the writer's thread.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::ports::SpoolEvent;
use crate::storage::testing::BreakingClock;

#[tokio::test]
async fn a_panic_of_the_thread_is_told_to_whoever_must_end_the_gateway_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(BreakingClock::new("spool"));
    let mut bench = Bench::with_clock(dir.path(), &settings(), clock.clone()).unwrap();
    bench.store((1..=10).map(batch));
    clock.break_it();
    bench.append(batch(11));
    let part = tokio::time::timeout(PATIENCE, bench.health.failed()).await.unwrap();
    assert_eq!(part, "spool");
    let shown = bench.health.spool();
    assert!(!shown.open && shown.fault.unwrap().contains("fault of tidegate"));
    let stalled = loop {
        match bench.poll() {
            Some(SpoolEvent::Stalled { reason }) => break reason,
            Some(SpoolEvent::Durable { .. }) => panic!("the last one is not"),
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    assert!(stalled.contains("ends"), "{stalled}");
    drop(bench);
    let mut bench = Bench::open(dir.path(), &settings());
    assert_eq!(bench.load_all().0.len(), 10, "what was durable is there");
}
