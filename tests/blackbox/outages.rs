//! Brokers that are silent, that come and go, that stay away: what devices notice of it, what is
//! lost, and what a full spool does.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::Signal;

use crate::harness::{
    Bench, Broker, Device, Fleet, FromGateway, Gateway, Mode, Proxy, Setup, Subscriber, Value,
    long_factor, readings, until,
};

const LOSSES: &str = "tidegate/gw-test/losses";
const MIB: u64 = 1024 * 1024;

fn impatient(setup: Setup) -> Setup {
    setup.set("mqtt.ack_timeout", "1s")
}

/// Devices go on being acknowledged; says how long one waited at most.
async fn flows(fleet: &Fleet, bench: &Bench) {
    fleet.take_slowest();
    for _ in 0..5 {
        fleet.advance(100).await;
    }
    let slowest = fleet.take_slowest();
    eprintln!("slowest ACK: {slowest:?}");
    // The broker's second, in which nothing is known yet, and a slow machine.
    assert!(slowest < Duration::from_secs(20), "an ACK took {slowest:?}");
    assert!(bench.gateway.metric("tidegate_readings_spooled_total").await > 0);
}

fn small_fleet(gateway: &Gateway) -> Fleet {
    Fleet::start(gateway, 5, Duration::from_millis(5))
}

#[tokio::test]
async fn a_broker_that_accepts_connections_and_is_silent_holds_up_nobody() {
    let broker = Broker::start("").await;
    let proxy = Proxy::start(broker.port).await;
    proxy.set(Mode::HalfOpen);
    let gateway = impatient(Setup::new(proxy.port)).start().await;
    let bench = Bench { broker, proxy, gateway };
    let fleet = small_fleet(&bench.gateway);
    until("a connection", async || bench.proxy.connections() > 0).await;
    flows(&fleet, &bench).await;
    assert_eq!(bench.gateway.metric("tidegate_uplink_up").await, 0, "TCP alone is no uplink");
    bench.proxy.set(Mode::Forward);
    bench.gateway.until_uplink("connected").await;
    bench.settle(fleet).await;
}

#[tokio::test]
async fn a_broker_that_falls_silent_in_the_middle_holds_up_nobody() {
    let bench = Bench::start(impatient).await;
    let fleet = small_fleet(&bench.gateway);
    for _ in 0..2 * long_factor() {
        fleet.advance(100).await;
        bench.proxy.set(Mode::HalfOpen);
        flows(&fleet, &bench).await;
        bench.proxy.set(Mode::Forward);
        bench.gateway.until_uplink("connected").await;
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn a_broker_that_takes_everything_and_acknowledges_nothing_holds_up_nobody() {
    let bench = Bench::start(impatient).await;
    let fleet = small_fleet(&bench.gateway);
    fleet.advance(100).await;
    bench.proxy.set(Mode::SwallowAcks);
    let before = bench.proxy.connections();
    flows(&fleet, &bench).await;
    until("it is tried again", async || bench.proxy.connections() > before).await;
    flows(&fleet, &bench).await;
    bench.proxy.set(Mode::Forward);
    bench.settle(fleet).await;
}

#[tokio::test]
async fn a_stopped_broker_holds_up_nobody() {
    let bench = Bench::start(impatient).await;
    let fleet = small_fleet(&bench.gateway);
    for _ in 0..2 * long_factor() {
        fleet.advance(100).await;
        bench.broker.signal(Signal::STOP);
        flows(&fleet, &bench).await;
        bench.broker.signal(Signal::CONT);
        bench.gateway.until_uplink("connected").await;
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn one_reading_does_not_wait_as_long_as_the_broker_may_take() {
    let bench = Bench::start(|setup| setup.set("mqtt.ack_timeout", "10m")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    bench.proxy.set(Mode::HalfOpen);
    for seq in 2..=4 {
        let sent = Instant::now();
        device.reading(seq, 1.0).await;
        device.acked(seq).await;
        eprintln!("ACK {seq} after {:?}", sent.elapsed());
    }
    assert_eq!(bench.gateway.metric("tidegate_uplink_up").await, 1, "nobody has given up yet");
    assert_eq!(bench.gateway.metric("tidegate_readings_spooled_total").await, 3);
    bench.proxy.set(Mode::Forward);
    bench.drained().await;
    let (arrived, _) = arrivals(&bench);
    assert_eq!(arrived["kiln-3"], [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_broker_that_returns_after_half_a_second_again_and_again_costs_nothing() {
    let rounds = if long_factor() > 1 { 100 } else { 12 };
    let bench = Bench::start(impatient).await;
    let fleet = small_fleet(&bench.gateway);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        fleet.advance(rand::rng().random_range(20..100)).await;
        bench.proxy.set(Mode::Away);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (back, seen) = (Instant::now(), bench.proxy.look(<[_]>::len));
        bench.proxy.set(Mode::Forward);
        // Readings flow before the next one.
        let some = |all: &[crate::harness::Witnessed]| {
            let new = all[seen..].iter().filter(|seen| seen.is_readings() && seen.accepted());
            new.count() >= 20
        };
        bench.proxy.until("readings flow again", some).await;
        slowest = slowest.max(back.elapsed());
    }
    eprintln!("{rounds} blips; readings flowed again after {slowest:?} at most");
    // With waits that grow from one to the next it would be half a minute and more.
    assert!(slowest < Duration::from_secs(15), "{slowest:?}");
    let repeated = bench.settle(fleet).await.repeated;
    assert!(repeated <= rounds * 20, "{repeated} repeats, with at most 20 in flight each time");
    assert!(bench.gateway.metric("tidegate_uplink_reconnects_total").await >= rounds);
}

#[tokio::test]
async fn an_outage_under_load_loses_repeats_and_reorders_nothing() {
    let long = long_factor() > 1;
    let (devices, pace, batches) = if long { (200, 100, 20_000) } else { (40, 100, 1000) };
    let mut bench = Bench::start(|setup| setup).await;
    let fleet = Fleet::start(&bench.gateway, devices, Duration::from_millis(pace));
    fleet.advance(batches / 4).await;
    bench.broker.kill();
    let gone = Instant::now();
    fleet.advance(batches).await;
    let outage = gone.elapsed();
    bench.broker.restart().await;
    bench.gateway.until_uplink("connected").await;
    let back = Instant::now();
    let waiting = bench.spooled().await;
    until("it is live again", async || bench.spooled().await == 0).await;
    eprintln!(
        "away for {outage:?}, {waiting} left when connected, drained in {:?}",
        back.elapsed()
    );
    fleet.advance(batches / 4).await;
    let total = bench.settle(fleet).await;
    // mosquitto lets twenty be in flight: those it had not acknowledged are sent again.
    assert!(total.repeated <= 20, "{} repeated", total.repeated);
}

#[tokio::test]
async fn the_longest_wait_is_the_operators() {
    let bench = Bench::start(|setup| setup.set("mqtt.max_backoff", "1s")).await;
    bench.proxy.set(Mode::Away);
    let waits = || -> Vec<f64> {
        let log = bench.gateway.log();
        let fields = log.split("retry_in").skip(1);
        fields.map(number_in).collect()
    };
    until("it is lost", async || !waits().is_empty()).await;
    // Six attempts: the sixth would wait for 16 s at least.
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.proxy.set(Mode::Forward);
    let back = Instant::now();
    bench.gateway.until_uplink("connected").await;
    assert!(back.elapsed() < Duration::from_secs(20), "{:?}", back.elapsed());
    assert!(waits().iter().all(|wait| *wait <= 1.0), "{:?}", waits());
}

/// The first number in `text`.
fn number_in(text: &str) -> f64 {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let start = text.find(digits).unwrap();
    let rest = &text[start..];
    rest[..rest.find(|c| !digits(c)).unwrap_or(rest.len())].parse().unwrap()
}

// ---------------------------------------------------------------- a full spool

/// Looks at what the data folder takes on the disk all the time, as the disk sees it.
struct DiskWatch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl DiskWatch {
    fn start(gateway: &Gateway) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let folder = gateway.dir().join("data/spool");
        let thread = std::thread::spawn({
            let (stop, most) = (stop.clone(), most.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(on_disk(&folder), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { stop, most, thread: Some(thread) }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What everything below `folder` takes on the disk. Files may vanish meanwhile.
fn on_disk(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

/// READINGS of about six kilobytes that cannot be compressed to less.
fn bulky(seq: u64) -> Value {
    let text: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(8000).map(char::from).collect();
    let record = Value::Map(vec![(0.into(), "blob".into()), (3.into(), text.into())]);
    readings(Some(seq), Value::Array(vec![record]))
}

/// Waits until the folder has shrunk to next to nothing, and says how long that took.
async fn given_back(gateway: &Gateway) {
    let folder = gateway.dir().join("data/spool");
    let drained = Instant::now();
    until("the disk space is given back", async || on_disk(&folder) < 100 * 1024).await;
    let took = drained.elapsed();
    // A second or two; no more than a figure to look at, since a slow machine takes its time.
    eprintln!("disk space given back {took:?} after the drain");
}

#[tokio::test]
async fn a_full_spool_that_blocks_holds_devices_back_and_loses_nothing() {
    const DEVICES: u64 = 4;
    const BATCHES: u64 = 150;
    let adjust = |setup: Setup| {
        setup
            .set("spool.max_bytes", "1MiB")
            .set("spool.when_full", "block")
            .set("devices.window", 8)
            .set("devices.heartbeat_interval", "1s")
            .set("devices.heartbeat_timeout", "1s")
    };
    let mut bench = Bench::start(adjust).await;
    bench.broker.kill();
    let watch = DiskWatch::start(&bench.gateway);
    let acked = Arc::new(AtomicU64::new(0));
    let mut senders = Vec::new();
    for id in 0..DEVICES {
        let (device, _) = bench.gateway.device(&format!("d{id}")).open(Some(7)).await;
        senders.push(tokio::spawn(send_bulky(device, BATCHES, 8, acked.clone())));
    }
    until("devices are held back", async || bench.gateway.log().contains("the spool is full"))
        .await;
    // No ACK for three heartbeats, in which a device that is not answered would have gone.
    let mut before = acked.load(Ordering::Relaxed);
    until("it is quiet", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = acked.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(acked.load(Ordering::Relaxed), before, "nothing is acknowledged");
    assert!(before > 30 && before < DEVICES * BATCHES, "{before}");
    assert!(senders.iter().all(|sender| !sender.is_finished()), "every connection stays");
    assert_eq!(bench.gateway.metric("tidegate_devices_connected").await, DEVICES);
    bench.broker.restart().await;
    for sender in senders {
        until("all is acknowledged", async || sender.is_finished()).await;
        sender.await.unwrap();
    }
    bench.drained().await;
    given_back(&bench.gateway).await;
    eprintln!("{before} acknowledged while full, {} bytes on the disk at most", watch.most());
    assert!(watch.most() <= MIB, "{}", watch.most());
    let (arrived, repeated) = arrivals(&bench);
    assert_eq!(arrived.len() as u64, DEVICES);
    for seqs in arrived.values() {
        assert_eq!(*seqs, (1..=BATCHES).collect::<Vec<_>>());
    }
    assert!(repeated <= 20, "{repeated}");
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0);
}

/// Sends batches `1..=count`, `window` of them unacknowledged at a time, and answers pings.
async fn send_bulky(mut device: Device, count: u64, window: u64, total: Arc<AtomicU64>) {
    let (mut sent, mut acked) = (0, 0);
    while acked < count {
        while sent < count && sent - acked < window {
            sent += 1;
            device.send(&bulky(sent)).await;
        }
        match device.receive().await {
            FromGateway::Ack(seq) => {
                total.fetch_add(seq - acked, Ordering::Relaxed);
                acked = seq;
            }
            other => panic!("{other:?} instead of an ACK"),
        }
    }
}

/// The numbers that the broker accepted by device, in the order of their first arrival, and how
/// many came again.
fn arrivals(bench: &Bench) -> (BTreeMap<String, Vec<u64>>, usize) {
    let mut arrived: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut repeated = 0;
    for seen in bench.proxy.readings().iter().filter(|seen| seen.accepted()) {
        let json = seen.json();
        let seqs = arrived.entry(json["device"].as_str().unwrap().to_owned()).or_default();
        let seq = json["seq"].as_u64().unwrap();
        if seqs.contains(&seq) {
            repeated += 1;
        } else {
            seqs.push(seq);
        }
    }
    (arrived, repeated)
}

/// Loss records by device: the ranges of numbers, and how many readings in all.
fn lost(consumer: &Subscriber, reason: &str) -> (BTreeMap<String, Vec<(u64, u64)>>, u64) {
    let mut ranges: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    let mut readings = 0;
    for message in consumer.on(LOSSES) {
        let json = message.json();
        assert_eq!(json["reason"], reason, "{json}");
        assert_eq!(json["epoch"], 7, "{json}");
        let range = (json["first_seq"].as_u64().unwrap(), json["last_seq"].as_u64().unwrap());
        ranges.entry(json["device"].as_str().unwrap().to_owned()).or_default().push(range);
        readings += json["readings"].as_u64().unwrap();
    }
    (ranges, readings)
}

async fn send_last(bench: &Bench) {
    let (mut last, _) = bench.gateway.device("last").open(Some(7)).await;
    last.reading(1, 1.0).await;
    last.acked(1).await;
}

/// Four devices send `batches` each while the broker is away; some go by `reason`. Afterwards what
/// was acknowledged is either at the broker or in a loss record, and nothing is in both.
async fn evicted(setup: impl FnOnce(Setup) -> Setup, batches: u64, reason: &str) {
    const DEVICES: u64 = 4;
    let mut bench = Bench::start(setup).await;
    bench.broker.kill();
    bench.gateway.until_uplink("disconnected").await;
    let watch = DiskWatch::start(&bench.gateway);
    let metric = format!("tidegate_readings_lost_total{{reason=\"{reason}\"}}");
    let acked = Arc::new(AtomicU64::new(0));
    let mut senders = Vec::new();
    for id in 0..DEVICES {
        let (device, _) = bench.gateway.device(&format!("d{id}")).open(Some(7)).await;
        senders.push(tokio::spawn(send_bulky(device, batches, 8, acked.clone())));
    }
    for sender in senders {
        until("all is acknowledged", async || sender.is_finished()).await;
        sender.await.unwrap();
    }
    // By age, in the end all are; whether a late one still was would be a matter of luck.
    let expected = if reason == "evicted-age" { DEVICES * batches } else { 1 };
    until("they are evicted", async || bench.gateway.metric(&metric).await >= expected).await;
    if reason == "evicted-size" {
        // Nothing comes after it that could push it out.
        send_last(&bench).await;
    }
    bench.broker.restart().await;
    let consumer = Subscriber::start(bench.broker.port).await;
    bench.gateway.until_uplink("connected").await;
    if reason == "evicted-age" {
        send_last(&bench).await;
    }
    bench.drained().await;
    let count = bench.gateway.metric(&metric).await;
    until("every loss is published", async || lost(&consumer, reason).1 >= count).await;
    let (ranges, readings) = lost(&consumer, reason);
    assert_eq!(readings, count);
    let (arrived, repeated) = arrivals(&bench);
    assert_eq!(repeated, 0);
    for id in 0..DEVICES {
        let name = format!("d{id}");
        let mut all: Vec<u64> = arrived.get(&name).cloned().unwrap_or_default();
        assert!(all.is_sorted(), "{name}: in order");
        for &(first, last) in ranges.get(&name).into_iter().flatten() {
            all.extend(first..=last);
        }
        all.sort_unstable();
        assert_eq!(all, (1..=batches).collect::<Vec<_>>(), "{name}: {ranges:?}");
    }
    assert_eq!(arrived["last"], [1]);
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], count);
    given_back(&bench.gateway).await;
    eprintln!(
        "{count} of {} evicted, {} loss records, {} bytes on the disk at most",
        DEVICES * batches,
        ranges.values().map(Vec::len).sum::<usize>(),
        watch.most()
    );
    assert!(watch.most() <= MIB, "{}", watch.most());
    // A burst is gathered for a second before its line is written.
    let lines = || bench.gateway.log().matches("readings are lost").count();
    until("the loss is in the log", async || lines() > 0).await;
    eprintln!("{} lines in the log", lines());
    assert!((lines() as u64) < count, "a line for each burst, not for each batch");
}

#[tokio::test]
async fn a_full_spool_that_drops_the_oldest_accounts_for_each() {
    evicted(|setup| setup.set("spool.max_bytes", "1MiB"), 150, "evicted-size").await;
}

#[tokio::test]
async fn batches_that_grow_too_old_are_accounted_for() {
    let setup = |setup: Setup| setup.set("spool.max_bytes", "1MiB").set("spool.max_age", "2s");
    evicted(setup, 20, "evicted-age").await;
}
