//! The power goes: an ext4 on a loop device is shut down without its journal, so that everything
//! that was not synced is gone, while the real binary works on it. Afterwards the books balance.
//!
//! What this shows is that every ACK comes after a sync of everything it stands on: file contents,
//! sizes, folders and their names. It does not show whether a disk keeps what it has confirmed;
//! no program can do anything about one that does not. That the test can fail is itself a test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::harness::{
    Balance, Books, Broker, Disk, Fleet, Gateway, Proxy, Setup, Witnessed, drained, long_factor,
    seeded,
};

const ROUNDS: usize = 12;
const DEVICES: usize = 8;
const PACE: Duration = Duration::from_millis(1);

struct Bench {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    disk: Disk,
}

impl Bench {
    async fn start(preload: Option<PathBuf>) -> Option<Self> {
        let disk = Disk::ext4(64)?;
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        // Small generations, so that some are finished and some begun in every round.
        let setup = Setup::new(proxy.port)
            .set("gateway.data_dir", disk.data())
            .set("spool.max_bytes", "8MiB")
            .set("mqtt.ack_timeout", "2s");
        let mut gateway = setup.prepare();
        gateway.preload = preload;
        gateway.start().await;
        Some(Self { broker, proxy, gateway, disk })
    }

    /// The power goes and comes back. The gateway lives on for a moment without its disk: an ACK
    /// in that time would be a lie.
    async fn cut(&mut self, random: &mut StdRng) {
        self.disk.cut();
        moment(random, 20).await;
        self.gateway.kill();
        self.disk.mount_again();
    }
}

async fn moment(random: &mut StdRng, max_ms: u64) {
    let wait = Duration::from_micros(random.random_range(0..max_ms * 1000));
    tokio::time::sleep(wait).await;
}

#[tokio::test]
async fn after_power_cuts_at_any_moment_every_acknowledged_batch_arrives() {
    let mut random = seeded();
    let (mut kinds, mut acked, mut repeated) = ([0; 3], 0, 0);
    for _ in 0..long_factor() {
        let Some(total) = a_dozen_cuts(&mut random, &mut kinds).await else { return };
        acked += total.acked;
        repeated += total.repeated;
    }
    let [spooling, draining, starting] = kinds;
    eprintln!(
        "cuts: {spooling} while spooling, {draining} while draining, {starting} and again while \
         starting; {acked} batches acknowledged, none lost, {repeated} repeated"
    );
    assert!(spooling > 0 && draining > 0 && starting > 0);
}

/// Cuts the power a dozen times and counts at what in `kinds`; the books balance.
async fn a_dozen_cuts(random: &mut StdRng, kinds: &mut [u32; 3]) -> Option<Balance> {
    let mut bench = Bench::start(None).await?;
    bench.broker.kill();
    let fleet = Fleet::start(&bench.gateway, DEVICES, PACE);
    for round in 0..ROUNDS {
        fleet.advance(random.random_range(1..400)).await;
        moment(random, 50).await;
        // Most while spooling; each of the others at least once in a dozen.
        let kind = if random.random_bool(0.1) { random.random_range(1..3) } else { round % 6 };
        match kind {
            1 => {
                let before = bench.proxy.look(<[_]>::len);
                bench.broker.restart().await;
                let begun = |all: &[Witnessed]| all[before..].iter().any(Witnessed::is_readings);
                bench.proxy.until("the drain has begun", begun).await;
                moment(random, 60).await;
                bench.cut(random).await;
                bench.broker.kill();
            }
            2 => {
                bench.cut(random).await;
                bench.gateway.spawn();
                moment(random, 120).await;
                bench.cut(random).await;
            }
            _ => bench.cut(random).await,
        }
        kinds[if kind > 2 { 0 } else { kind }] += 1;
        bench.gateway.start().await;
        assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0, "round {round}");
    }
    bench.broker.restart().await;
    let total = fleet.settle(&bench.proxy).await;
    assert!(total.acked > 50 * ROUNDS as u64, "{total:?}");
    drained(&bench.gateway).await;
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0);
    let told = bench
        .proxy
        .look(|all| all.iter().filter(|seen| seen.publish.topic.ends_with("/losses")).count());
    assert_eq!(told, 0, "nothing was lost at any time");
    Some(total)
}

/// Cuts the power once under load, and says what became of the batches.
async fn once(preload: Option<PathBuf>) -> Option<Books> {
    let mut random = seeded();
    let mut bench = Bench::start(preload).await?;
    bench.broker.kill();
    let fleet = Fleet::start(&bench.gateway, DEVICES, PACE);
    fleet.advance(500).await;
    bench.cut(&mut random).await;
    bench.gateway.preload = None;
    bench.gateway.start().await;
    bench.broker.restart().await;
    let accounts = fleet.finish().await;
    drained(&bench.gateway).await;
    Some(Books::read(&accounts, &bench.proxy, Fleet::good))
}

#[tokio::test]
async fn without_the_sync_of_data_a_power_cut_would_lose_and_this_would_notice() {
    let work = tempfile::tempdir().unwrap();
    let Some(with) = once(None).await else { return };
    assert_eq!(with.missing(), 0, "{with:?}");
    let without = once(Some(nothing_is_synced(work.path()))).await.unwrap();
    eprintln!("with sync: {with:?}; without: {without:?}");
    assert!(without.missing() > 100, "{without:?}");
}

/// Builds a library in `dir` under which every sync does nothing and succeeds.
fn nothing_is_synced(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("nosync.c"), dir.join("nosync.so"));
    let code = "int fsync(int f) { return 0; }\n\
                int fdatasync(int f) { return 0; }\n\
                int sync_file_range(int f, long o, long n, unsigned g) { return 0; }\n";
    std::fs::write(&source, code).unwrap();
    let mut build = Command::new("cc");
    let output = build.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let output = output.expect("a C compiler, which Rust needs as well");
    assert!(output.status.success(), "{output:?}");
    library
}
