//! What the gateway says will happen, and what then does.

use std::time::{Duration, Instant};

use super::harness::*;

/// Forecasts as they were given, with when that was.
#[derive(Default)]
struct Told(Vec<(Instant, f64)>);

impl Told {
    fn note(&mut self, seconds: &serde_json::Value) {
        self.0.extend(seconds.as_f64().map(|seconds| (Instant::now(), seconds)));
    }

    /// Half of the forecasts given more than two seconds before `end` are right within a factor of
    /// three: a busy machine may change its pace meanwhile, a wrong unit or sign does not pass.
    fn came_true(&self, end: Instant) {
        let mut shares: Vec<f64> = self
            .0
            .iter()
            .map(|(when, seconds)| (end.duration_since(*when).as_secs_f64(), seconds))
            .filter(|(left, _)| *left > 2.0)
            .map(|(left, seconds)| seconds / left)
            .collect();
        shares.sort_by(f64::total_cmp);
        assert!(shares.len() >= 3, "too few forecasts: {shares:?}");
        let middle = shares[shares.len() / 2];
        assert!((0.33..3.0).contains(&middle), "told / true: {shares:?}");
        println!("told / true: {shares:.2?}");
    }
}

/// Forty values that do not compress.
fn bulky(seq: u64) -> Value {
    let value = |n: u64| ((seq * 41 + n) as f64).sin();
    Value::Array((0..40).map(|n| record(&format!("v{n}"), value(n), 1_763_800_000.0)).collect())
}

#[tokio::test]
async fn the_buffer_is_full_when_it_was_said_to_be() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let gateway = Setup::new(broker.port).set("spool.max_bytes", "1MiB").start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let mut told = Told::default();
    let mut looked = Instant::now();
    let mut seq = 0;
    let begin = Instant::now();
    let end = loop {
        seq += 1;
        device.send(&readings(Some(seq), bulky(seq))).await;
        if seq % 16 == 0 {
            device.acked(seq).await;
        }
        tokio::time::sleep(Duration::from_millis(8)).await;
        if looked.elapsed() < Duration::from_millis(500) {
            continue;
        }
        looked = Instant::now();
        let spool = &gateway.status().await["spool"];
        if spool["lost_readings"].as_u64().unwrap() > 0 {
            break Instant::now();
        }
        told.note(&spool["full_in_s"]);
        assert!(begin.elapsed() < Duration::from_secs(600), "it never fills: {spool}");
    };
    told.came_true(end);
    until("it says that it is full", async || {
        let spool = &gateway.status().await["spool"];
        spool["full_in_s"] == 0.0 && spool["lasts_s"] == 0.0 && spool["drained_in_s"].is_null()
    })
    .await;
    let text = String::from_utf8(gateway.command(&["status"]).stdout).unwrap();
    assert!(text.contains("; full\n"), "{text}");
}

#[tokio::test]
async fn a_drain_that_new_readings_join_ends_when_it_was_said_to() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let gateway = Setup::new(broker.port).set("spool.drain_rate", 50).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let mut seq = 0;
    while seq < 600 {
        seq += 1;
        device.reading(seq, seq as f64).await;
    }
    device.acked(seq).await;
    broker.restart().await;
    gateway.until_uplink("connected").await;
    let mut told = Told::default();
    let begin = Instant::now();
    let end = loop {
        // Ten a second join.
        seq += 1;
        device.reading(seq, seq as f64).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let spool = &gateway.status().await["spool"];
        if spool["batches"] == 0 {
            break Instant::now();
        }
        told.note(&spool["drained_in_s"]);
        assert!(begin.elapsed() < Duration::from_secs(600), "it never drains: {spool}");
    };
    told.came_true(end);
    until("the next outage is thought of", async || {
        let spool = &gateway.status().await["spool"];
        spool["lasts_s"].as_f64().is_some_and(|seconds| seconds > 60.0)
            && spool["drained_in_s"].is_null()
    })
    .await;
}

#[tokio::test]
async fn what_was_written_today_outlives_a_restart() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let mut gateway = Setup::new(broker.port).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let day = (unix_now() / 86_400.0).floor();
    for seq in 1..=20 {
        device.send(&readings(Some(seq), bulky(seq))).await;
        device.acked(seq).await;
    }
    let written = gateway.status().await["spool"].clone();
    let Some(today) = written["disk_written_today_bytes"].as_u64().filter(|bytes| *bytes > 0)
    else {
        assert!(std::env::var_os("CI").is_none(), "nothing is counted: {written}");
        println!("skipped: the system does not count what is written to the temporary folder");
        return;
    };
    assert!(written["disk_written_bytes"].as_u64().is_some_and(|bytes| bytes > 20 * 4096));
    gateway.stop().await;
    gateway.start().await;
    let again = gateway.status().await["spool"].clone();
    if (unix_now() / 86_400.0).floor() > day {
        println!("skipped: midnight");
        return;
    }
    let [start, whole] =
        ["disk_written_bytes", "disk_written_today_bytes"].map(|key| again[key].as_u64().unwrap());
    assert!(whole >= today + start, "{today} before, now {again}");
    assert!(start < today, "counted anew: {again}");
}
