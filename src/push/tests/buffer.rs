//! What waits: bounded, in order, and counted to the last reading.

use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;

use super::*;
use crate::core::line::Writer;
use crate::ports::PushHealth;
use crate::push::queue::{Entry, Queue};

fn queue(push: &Push) -> (Queue, Arc<PushHealth>, Counter) {
    let (health, overflow) = (Arc::new(PushHealth::default()), Counter::default());
    let writer = Writer::new("readings", "gw", push.readings.clone());
    (Queue::new(push, writer, health.clone(), overflow.clone()), health, overflow)
}

fn numbers(entries: &[Entry]) -> Vec<f64> {
    let value = |entry: &Entry| match entry.batch.readings[0].value {
        Some(Value::Number(number)) => number,
        ref other => panic!("{other:?}"),
    };
    entries.iter().map(value).collect()
}

#[test]
fn the_oldest_go_when_it_is_full_and_what_is_under_way_counts() {
    let push = Push { max_buffer: 64 << 10, ..settings("http://localhost/w") };
    let (queue, health, overflow) = queue(&push);
    let queued = || health.queued.load(Ordering::Relaxed);
    let mut offered = 0_u32;
    while overflow.get() == 0 {
        queue.offer(&batch("a", "t", f64::from(offered)));
        offered += 1;
    }
    assert_eq!(overflow.get(), 1);
    assert_eq!(queue.take_dropped(), 1);
    let room = u64::from(offered) - 1;
    assert_eq!(queued(), room);
    assert!((100..400).contains(&room), "{room} readings in 64 KiB");
    let taken = queue.take(10, usize::MAX, usize::MAX);
    assert_eq!(numbers(&taken), (1..=10).map(f64::from).collect::<Vec<_>>());
    assert_eq!(queued(), room, "what is under way waits still");
    queue.offer(&batch("a", "t", 1e6));
    assert_eq!((queue.take_dropped(), queued()), (1, room));
    queue.put_back(taken);
    let taken = queue.take(11, usize::MAX, usize::MAX);
    assert_eq!(numbers(&taken)[..10], (1..=10).map(f64::from).collect::<Vec<_>>());
    assert!((numbers(&taken)[10] - 12.0).abs() < 0.1, "the eleventh went meanwhile");
    assert_eq!(queue.settle(&taken), 11);
    assert_eq!(queued(), room - 11);
    queue.offer(&batch("a", "t", 1e6));
    assert_eq!(queue.take_dropped(), 0, "there is room again");
    assert_eq!(health.dropped.load(Ordering::Relaxed), overflow.get());
}

#[test]
fn a_batch_that_does_not_fit_at_all_is_dropped() {
    let push = Push { max_buffer: 100, ..settings("http://localhost/w") };
    let (queue, health, overflow) = queue(&push);
    queue.offer(&batch("a", "t", 1.0));
    assert_eq!((overflow.get(), health.queued.load(Ordering::Relaxed), queue.lines()), (1, 0, 0));
    assert!(queue.take(10, 10, 10).is_empty());
}

#[test]
fn a_request_has_one_batch_at_least_and_keeps_to_its_limits() {
    let (queue, ..) = queue(&settings("http://localhost/w"));
    for value in 0..10 {
        queue.offer(&batch("a", "t", f64::from(value)));
    }
    assert_eq!(queue.take(1, 1, 1).len(), 1);
    assert_eq!(queue.take(3, usize::MAX, usize::MAX).len(), 3);
    assert_eq!(queue.take(100, 1, usize::MAX).len(), 1);
    assert_eq!(queue.take(100, usize::MAX, 2).len(), 2);
    assert_eq!(queue.take(100, usize::MAX, usize::MAX).len(), 3);
    assert!(queue.take(100, usize::MAX, usize::MAX).is_empty());
}

#[test]
fn what_nobody_wants_takes_no_room() {
    let push = Push {
        devices: vec!["kiln-*".parse().unwrap()],
        readings: vec!["t".parse().unwrap()],
        ..settings("http://localhost/w")
    };
    let (queue, health, _) = queue(&push);
    queue.offer(&batch("pump-1", "t", 1.0));
    queue.offer(&batch("kiln-1", "p", 1.0));
    assert_eq!((queue.lines(), health.queued.load(Ordering::Relaxed)), (0, 0));
    queue.offer(&batch("kiln-1", "t", 1.0));
    assert_eq!((queue.lines(), health.queued.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_small_buffer_is_sent_before_it_is_full() {
    let push = Push { max_buffer: 64 << 10, batch_size: 5000, ..settings("http://localhost/w") };
    let (queue, _, overflow) = queue(&push);
    let mut offered = 0;
    while !queue.is_ready() {
        queue.offer(&batch("a", "t", 1.0));
        offered += 1;
    }
    assert!(offered > 50 && overflow.get() == 0, "{offered}");
}

#[test]
fn a_full_buffer_wakes_the_sender_once() {
    let push = Push { max_buffer: 64 << 10, ..settings("http://localhost/w") };
    let (queue, _, overflow) = queue(&push);
    while overflow.get() == 0 {
        queue.offer(&batch("a", "t", 1.0));
    }
    assert!(queue.news().now_or_never().is_some());
    for _ in 0..100 {
        queue.offer(&batch("a", "t", 1.0));
        assert_eq!(queue.take_dropped() > 0, overflow.get() > 0);
        assert!(queue.news().now_or_never().is_none(), "each wake-up costs a system call");
    }
    let taken = queue.take(10, usize::MAX, usize::MAX);
    queue.put_back(taken);
    queue.offer(&batch("a", "t", 1.0));
    assert!(queue.news().now_or_never().is_some(), "the next spell is told again");
}

/// For `docs/performance.md`: `cargo test --release --lib what_handing_over -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_handing_over_costs() {
    let (queue, ..) = queue(&settings("http://localhost/w"));
    let batches: Vec<_> = (0..1_000_000).map(|n| batch("kiln-3", "t", f64::from(n))).collect();
    for (what, drain) in [("with room", true), ("full", false)] {
        let mut spent = Duration::ZERO;
        for some in batches.chunks(2000) {
            let started = Instant::now();
            for batch in some {
                queue.offer(batch);
            }
            spent += started.elapsed();
            if drain {
                let taken = queue.take(usize::MAX, usize::MAX, usize::MAX);
                queue.settle(&taken);
            }
        }
        eprintln!("{what}: {} ns per batch", spent.as_nanos() / batches.len() as u128);
    }
}
