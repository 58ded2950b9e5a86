//! The disk is full, by others' doing, while the spool fills and while it drains: devices are held
//! back and told nothing wrong, everyone is told why, nothing acknowledged is lost, and it goes on
//! by itself.

use std::time::Duration;

use crate::harness::{
    Books, Broker, Device, Disk, Fleet, FromGateway, Gateway, Proxy, Setup, Witnessed, drained,
    until,
};

const PACE: Duration = Duration::from_millis(2);

struct Bench {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    disk: Disk,
    fleet: Fleet,
    /// What it says of the full disk.
    reason: &'static str,
}

impl Bench {
    /// The broker is away, some is spooled, and then the disk is full and the gateway has noticed:
    /// by its reserve, or without one by the disk's own answer in the midst of a write.
    async fn filled(disk: Disk, reserve: bool) -> Self {
        let mut broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        let setup = Setup::new(proxy.port)
            .set("gateway.data_dir", disk.data())
            .set("spool.max_bytes", "8MiB")
            .set("devices.heartbeat_interval", "1s");
        let (setup, reason) = if reserve {
            (setup, "are free on this file system")
        } else {
            (setup.set("spool.reserve", "0"), "No space left on device")
        };
        let gateway = setup.start().await;
        broker.kill();
        let fleet = Fleet::start(&gateway, 4, PACE);
        fleet.advance(400).await;
        disk.fill();
        let bench = Self { broker, proxy, gateway, disk, fleet, reason };
        bench.says_full().await;
        bench
    }

    async fn says_full(&self) {
        // Now and then it is tried again, and may get a little further.
        until("the reason is told everywhere", async || {
            let Some(why) = self.gateway.unready().await else { return false };
            why.contains(self.reason)
                && self.gateway.status().await["spool"]["fault"].to_string().contains(self.reason)
        })
        .await;
        let log = self.gateway.log();
        let line = log.lines().find(|line| line.contains("ERROR") && line.contains("spool"));
        assert!(line.is_some_and(|line| line.contains("cannot be written")), "{log}");
    }

    async fn is_well(&self) {
        until("/readyz is well again", async || self.gateway.get("/readyz").await.status == 200)
            .await;
        assert!(self.gateway.status().await["spool"].get("fault").is_none());
    }

    /// Checks the books.
    async fn settle(self) {
        let accounts = self.fleet.finish().await;
        drained(&self.gateway).await;
        let books = Books::read(&accounts, &self.proxy, Fleet::good);
        eprintln!("{books:?}");
        assert_eq!((books.missing(), books.lost), (0, 0), "{books:?}");
        assert_eq!(self.gateway.status().await["spool"]["lost_readings"], 0);
        assert!(!self.gateway.log().contains("panicked"), "{}", self.gateway.log());
    }
}

/// For three heartbeats the connection lives and nothing is acknowledged.
async fn held_back(device: &mut Device) {
    device.show_pings = true;
    let mut pings = 0;
    while pings < 3 {
        match device.next().await {
            FromGateway::Ping => pings += 1,
            other => panic!("{other:?} while the disk is full"),
        }
    }
    device.show_pings = false;
}

async fn while_spooling(disk: Disk, reserve: bool) {
    let mut bench = Bench::filled(disk, reserve).await;
    let (mut device, welcome) = bench.gateway.device("held").open(Some(1)).await;
    for seq in 1..=welcome.window {
        device.reading(seq, 1.0).await;
    }
    held_back(&mut device).await;
    let acked = bench.fleet.acked();
    bench.says_full().await;
    assert_eq!(bench.fleet.acked(), acked, "nothing is acknowledged");
    bench.disk.make_room();
    device.acked(welcome.window).await;
    bench.is_well().await;
    bench.fleet.advance(200).await;
    bench.broker.restart().await;
    let theirs = |all: &[Witnessed]| {
        let mine = all.iter().filter(|seen| seen.publish.topic.contains("/held/readings"));
        mine.filter(|seen| seen.accepted()).count() as u64 >= welcome.window
    };
    bench.proxy.until("the held batches at the broker", theirs).await;
    drop(device);
    bench.settle().await;
}

#[tokio::test]
async fn a_full_ext4_while_spooling_holds_devices_back_and_recovers_by_itself() {
    let Some(disk) = Disk::ext4(16) else { return };
    while_spooling(disk, false).await;
}

#[tokio::test]
async fn a_disk_that_is_full_but_for_the_reserve_does_the_same() {
    let Some(disk) = Disk::ext4(16) else { return };
    while_spooling(disk, true).await;
}

#[tokio::test]
async fn a_full_tmpfs_while_spooling_holds_devices_back_and_recovers_by_itself() {
    let Some(disk) = Disk::tmpfs(8) else { return };
    while_spooling(disk, false).await;
}

#[tokio::test]
async fn a_full_disk_is_drained_and_the_room_that_gives_is_used() {
    let Some(disk) = Disk::ext4(16) else { return };
    let mut bench = Bench::filled(disk, true).await;
    // It stays full of the others' file.
    bench.broker.restart().await;
    bench.fleet.advance(1000).await;
    bench.is_well().await;
    bench.settle().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_during_a_drain_loses_nothing() {
    let Some(disk) = Disk::ext4(16) else { return };
    let mut bench = Bench::filled(disk, false).await;
    bench.disk.make_room();
    bench.fleet.advance(3000).await;
    let before = bench.proxy.look(<[_]>::len);
    bench.broker.restart().await;
    let begun = |all: &[Witnessed]| all[before..].iter().any(Witnessed::is_readings);
    bench.proxy.until("the drain has begun", begun).await;
    bench.disk.fill();
    bench.fleet.advance(1000).await;
    bench.settle().await;
}

#[tokio::test]
async fn a_gateway_restarted_on_a_full_disk_starts_and_drains() {
    let Some(disk) = Disk::ext4(16) else { return };
    let mut bench = Bench::filled(disk, false).await;
    for _ in 0..2 {
        bench.gateway.kill();
        bench.gateway.spawn();
        bench.says_full().await;
    }
    bench.broker.restart().await;
    bench.fleet.advance(1000).await;
    bench.is_well().await;
    bench.settle().await;
}
