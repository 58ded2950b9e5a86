//! The wall clock set while the gateway runs: a board without a battery starts in 1970 and hears of
//! the time later; a clock jumps by a day under load. The gateway's clock is stepped with
//! libfaketime, and the kernel's time since the boot is left alone.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{
    Broker, Fleet, Gateway, Mode, Proxy, Setup, Value, Witnessed, readings, record, unix_now, until,
};

const DAY: f64 = 86_400.0;
/// Between a device's sending and the gateway's stamp, on a machine that is very busy.
const SLACK: f64 = 30.0;

/// A broker, a gateway that is stepped through a file, and what passes between them.
struct Bench {
    gateway: Gateway,
    proxy: Proxy,
    _broker: Broker,
}

impl Bench {
    /// With a clock that shows `offset` seconds more than the right one. None, with the reason
    /// printed, where the machine lacks what steps it.
    async fn start(offset: f64, mode: Mode) -> Option<Self> {
        let Some(library) = library() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "libfaketime is missing; tests/run installs it"
            );
            eprintln!("skipped: no libfaketime (Debian package libfaketime)");
            return None;
        };
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        proxy.set(mode);
        let mut gateway = Setup::new(proxy.port).set("spool.max_age", "1h").prepare();
        let file = gateway.dir().join("faketime");
        gateway.preload = Some(library);
        for (name, value) in [
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ] {
            gateway.env(name, value);
        }
        let mut bench = Self { gateway, proxy, _broker: broker };
        bench.set(offset);
        bench.gateway.start().await;
        Some(bench)
    }

    /// Sets the gateway's clock.
    fn set(&self, offset: f64) {
        let (new, file) = (self.gateway.dir().join("new"), self.gateway.dir().join("faketime"));
        std::fs::write(&new, format!("{offset:+.3}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Sets it and waits until the gateway has noticed.
    async fn step(&self, offset: f64) {
        let noticed = || self.gateway.log().matches("the clock was set").count();
        let before = noticed();
        self.set(offset);
        until("the step is noticed", async || noticed() > before).await;
    }

    /// What reached the broker from `device`, in order.
    async fn arrived(&self, device: &str, count: usize) -> Vec<serde_json::Value> {
        let topic = format!("devices/{device}/readings");
        let of_device = |all: &[Witnessed]| {
            let its = all.iter().filter(|seen| seen.publish.topic.ends_with(&topic));
            its.map(Witnessed::json).collect::<Vec<_>>()
        };
        self.proxy.until("its batches", |all| of_device(all).len() >= count).await;
        self.proxy.look(of_device)
    }
}

fn library() -> Option<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib").ok()?.flatten();
    architectures
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

fn near(value: &serde_json::Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < SLACK
}

/// A device without a clock and one with a good one send to a gateway that is in 1970, has no
/// broker, and learns the time; `killed` also ends it then and starts it again.
async fn a_board_learns_the_time(killed: bool) {
    // A little after the first second of 1970.
    let lag = unix_now() - 40.0;
    let Some(mut bench) = Bench::start(-lag, Mode::Refuse).await else { return };
    // Whole seconds: not every reader of JSON gives back the last bit of a float.
    let sent = unix_now().floor();
    let (mut clockless, welcome) = bench.gateway.device("clockless").open(Some(1)).await;
    assert!(welcome.time < 10_000.0, "the gateway is in 1970: {welcome:?}");
    // Now, and from before the gateway's 1970.
    let pack = vec![record("now", 1.0, 0.0), record("before", 2.0, -5000.0)];
    clockless.send(&readings(Some(1), Value::Array(pack))).await;
    clockless.acked(1).await;
    let (mut clocked, _) = bench.gateway.device("clocked").open(Some(1)).await;
    clocked.send(&readings(Some(1), Value::Array(vec![record("own", 3.0, sent)]))).await;
    clocked.acked(1).await;
    assert_eq!(bench.gateway.metric("tidegate_spool_batches").await, 2);

    bench.step(0.0).await;
    if killed {
        bench.gateway.kill();
        bench.gateway.start().await;
    }
    until("the oldest waits since seconds, not decades", async || {
        near(&bench.gateway.status().await["spool"]["oldest_age_s"], unix_now() - sent)
    })
    .await;
    bench.proxy.set(Mode::Forward);

    let message = bench.arrived("clockless", 1).await.remove(0);
    assert!(near(&message["clock_shift"], lag), "{message}");
    assert!(near(&message["received"], sent), "{message}");
    assert_eq!(message["readings"][0]["n"], "before");
    assert!(near(&message["readings"][0]["t"], sent - 5000.0), "{message}");
    assert!(near(&message["readings"][1]["t"], sent), "{message}");
    let message = bench.arrived("clocked", 1).await.remove(0);
    assert_eq!(message["readings"][0]["t"], sent, "a device's own time is not touched");
    assert!(near(&message["received"], sent), "{message}");

    let (mut late, welcome) = bench.gateway.device("late").open(Some(1)).await;
    assert!((welcome.time - unix_now()).abs() < SLACK);
    late.reading(1, 1.0).await;
    late.acked(1).await;
    let message = bench.arrived("late", 1).await.remove(0);
    assert!(message.get("clock_shift").is_none(), "nothing to correct: {message}");
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0);
}

#[tokio::test]
async fn what_was_spooled_before_the_clock_was_set_leaves_with_the_right_time() {
    a_board_learns_the_time(false).await;
}

#[tokio::test]
async fn a_gateway_killed_after_its_clock_was_set_still_corrects_what_came_before() {
    a_board_learns_the_time(true).await;
}

#[tokio::test]
async fn a_clock_that_jumps_a_day_either_way_disturbs_nothing() {
    let Some(bench) = Bench::start(0.0, Mode::Forward).await else { return };
    bench.gateway.until_uplink("connected").await;
    let (mut witness, _) = bench.gateway.device("witness").open(Some(1)).await;
    let fleet = Fleet::start(&bench.gateway, 4, Duration::from_millis(4)).ignore("witness");
    fleet.advance(50).await;
    let mut seq = 0;
    for offset in [DAY, 0.0, -DAY, 0.0] {
        bench.step(offset).await;
        fleet.advance(100).await;
        // A right clock: a day and more ahead of the gateway's at times.
        seq += 1;
        let pack = vec![record("own", 1.0, unix_now() + 1.0)];
        witness.send(&readings(Some(seq), Value::Array(pack))).await;
        witness.acked(seq).await;
    }
    assert_eq!(bench.proxy.connections(), 1, "the broker's connection held through every step");
    bench.proxy.set(Mode::Refuse);
    bench.gateway.until_uplink("disconnected").await;
    for offset in [DAY, 0.0, -DAY, 0.0, -DAY] {
        bench.step(offset).await;
        fleet.advance(100).await;
        seq += 1;
        witness.reading(seq, 1.0).await;
        witness.acked(seq).await;
    }
    bench.proxy.set(Mode::Forward);
    let total = fleet.settle(&bench.proxy).await;
    eprintln!("{total:?}");
    assert_eq!(bench.arrived("witness", 9).await.len(), 9, "on one connection, in order");
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0);
    let log = bench.gateway.log();
    assert!(!log.contains("heartbeat missed"), "{log}");
}
