//! Figures for the documentation, by hand:
//! `cargo test --release --lib spool::tests::measure -- --ignored --nocapture --test-threads=1`.

use std::time::Instant;

use super::support::*;
use crate::ports::Spool;
use crate::spool::disk;

/// A field of `/proc/self/<file>`, in its own unit.
fn proc_field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn what_a_flood_costs_in_writes_and_memory() {
    for readings in [1, 100] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::open(dir.path(), &settings());
        let (written, begin) = (proc_field("io", "write_bytes:"), Instant::now());
        let (batches, mut number) = (if readings == 1 { 600_000 } else { 20_000 }, 0);
        let mut durable = 0;
        while durable < batches {
            while bench.next <= batches && number < durable + 4096 / readings as u64 * 4 {
                bench.append(sized(number, readings));
                number += 1;
            }
            if let crate::ports::SpoolEvent::Durable { through } = bench.event() {
                durable = through;
            }
        }
        let took = begin.elapsed();
        let held = disk::allocated(&dir.path().join("spool"));
        let written = proc_field("io", "write_bytes:") - written;
        println!(
            "{batches} batches of {readings}: {:.0}/s, {held} bytes held, {written} written, {:.2} \
             times, peak RSS of the process {} KiB, now {} KiB",
            batches as f64 / took.as_secs_f64(),
            written as f64 / held as f64,
            proc_field("status", "VmHWM:"),
            proc_field("status", "VmRSS:"),
        );
    }
}

/// Each start of the gateway begins a generation: twice as many must not cost four times as much.
#[test]
#[ignore = "a measurement"]
fn what_many_generations_cost() {
    for count in [150, 300, 600] {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..count {
            Bench::open(dir.path(), &settings()).store([batch(number)]);
        }
        let held = disk::allocated(&dir.path().join("spool"));
        let begin = Instant::now();
        let mut bench = Bench::open(dir.path(), &settings());
        let opened = begin.elapsed();
        assert_eq!(bench.next, count + 1);
        let begin = Instant::now();
        let (batches, losses) = bench.load_all();
        assert_eq!((batches.len() as u64, losses.len()), (count, 0));
        let loaded = begin.elapsed();
        let begin = Instant::now();
        bench.spool.release(count);
        bench.until("all is deleted", |bench| bench.health.spool().bytes == 0);
        println!(
            "{count} generations of {} bytes: opened in {opened:?}, loaded in {loaded:?}, deleted \
             in {:?}",
            held / count,
            begin.elapsed()
        );
    }
}
