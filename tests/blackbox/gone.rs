//! The data folder is read-only, becomes so, vanishes, or belongs to another gateway.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{
    Books, Broker, DEADLINE, Disk, Fleet, Gateway, Proxy, Setup, drained, free_port, until,
};

const PACE: Duration = Duration::from_millis(2);

async fn start(data: &str) -> (Broker, Proxy, Gateway) {
    let broker = Broker::start("").await;
    let proxy = Proxy::start(broker.port).await;
    let setup = Setup::new(proxy.port).set("gateway.data_dir", data);
    let gateway = setup.set("spool.max_bytes", "8MiB").start().await;
    gateway.until_uplink("connected").await;
    (broker, proxy, gateway)
}

/// A start that is refused: with exit code 1 and an error that has all of `words`.
async fn refused(gateway: &mut Gateway, words: &[&str]) {
    refused_with(1, gateway, words).await;
}

async fn refused_with(code: i32, gateway: &mut Gateway, words: &[&str]) {
    let before = gateway.log().len();
    gateway.spawn();
    let status = gateway.ended().await;
    let log = gateway.log()[before..].to_owned();
    assert_eq!(status.code(), Some(code), "{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_start_on_a_read_only_disk_says_what_to_do() {
    let Some(disk) = Disk::tmpfs(8) else { return };
    let data = disk.data();
    let mut gateway = Setup::new(free_port()).set("gateway.data_dir", &*data).prepare();
    disk.read_only(true);
    let words = [&*data, "Read-only file system", "gateway.data_dir", "must be able to write"];
    refused(&mut gateway, &words).await;
    // Also where there is something already.
    disk.read_only(false);
    gateway.start().await;
    gateway.stop().await;
    disk.read_only(true);
    refused(&mut gateway, &words).await;
    disk.read_only(false);
    gateway.start().await;
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_refused() {
    let mut gateway = Setup::new(free_port()).prepare();
    let path = gateway.dir().join("data");
    std::fs::write(&path, "").unwrap();
    let words = [path.to_str().unwrap(), "gateway.data_dir", "is not a folder"];
    refused_with(78, &mut gateway, &words).await;
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_holds_back_and_lets_what_it_has_be_drained() {
    let Some(mut disk) = Disk::ext4(64) else { return };
    let (mut broker, proxy, mut gateway) = start(&disk.data()).await;
    broker.kill();
    let fleet = Fleet::start(&gateway, 4, PACE);
    fleet.advance(500).await;
    if !disk.fail() {
        return;
    }
    until("it says so", async || {
        let ready = gateway.get("/readyz").await;
        ready.status == 503 && ready.body.contains("the spool cannot be written")
    })
    .await;
    let acked = fleet.acked();
    // What is there can be read; the rest is published from memory.
    broker.restart().await;
    until("readings pass", async || fleet.acked() > acked + 500).await;
    gateway.kill();
    disk.repair();
    gateway.start().await;
    let total = fleet.settle(&proxy).await;
    eprintln!("{total:?}");
    assert_eq!(gateway.status().await["spool"]["lost_readings"], 0);
}

#[tokio::test]
async fn a_disk_that_is_pulled_out_while_nothing_is_spooled_does_not_stop_the_live_path() {
    let Some(mut disk) = Disk::ext4(64) else { return };
    let (mut broker, proxy, mut gateway) = start(&disk.data()).await;
    let fleet = Fleet::start(&gateway, 4, PACE);
    fleet.advance(200).await;
    disk.cut();
    fleet.advance(500).await;
    // Only now it is needed.
    broker.kill();
    until("it says so", async || gateway.get("/readyz").await.status == 503).await;
    broker.restart().await;
    fleet.advance(500).await;
    until("it is well again", async || gateway.get("/readyz").await.status == 200).await;
    gateway.kill();
    disk.mount_again();
    gateway.start().await;
    let total = fleet.settle(&proxy).await;
    eprintln!("{total:?}");
    assert_eq!(gateway.status().await["spool"]["lost_readings"], 0);
}

/// Batches are spooled, `what` below the data folder is deleted under the running gateway, more
/// is spooled, and once the broker is back all that was acknowledged is there or told as lost.
async fn vanishes(what: &str, restart: bool) {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let (mut broker, proxy, mut gateway) = start(data.to_str().unwrap()).await;
    broker.kill();
    let fleet = Fleet::start(&gateway, 4, PACE);
    fleet.advance(500).await;
    // What is being written can still be read after it was deleted; what an earlier run has left
    // cannot.
    gateway.kill();
    gateway.start().await;
    fleet.advance(200).await;
    remove(&data.join(what));
    fleet.advance(500).await;
    // It does not go on as if nothing had happened: what it acknowledges now has a name again.
    until("there is a folder to spool to", async || data.join("spool/marks").exists()).await;
    fleet.advance(200).await;
    if restart {
        gateway.kill();
        gateway.start().await;
        fleet.advance(200).await;
    }
    broker.restart().await;
    let accounts = fleet.finish().await;
    drained(&gateway).await;
    let books = Books::read(&accounts, &proxy, Fleet::good);
    eprintln!("{what:?}: {books:?}");
    assert!(books.missing() > 0, "something is really gone: {books:?}");
    assert_eq!(books.lost, books.missing(), "{books:?}");
    assert!(books.arrived >= 700, "what came after is there: {books:?}");
    // Counted since the start.
    let counted = if restart { 0 } else { books.lost };
    assert_eq!(gateway.status().await["spool"]["lost_readings"], counted);
    assert!(gateway.log().contains("deleted while the gateway was running"), "{}", gateway.log());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    // And so it goes on.
    broker.kill();
    let (mut fresh, _) = gateway.device("fresh").open(Some(1)).await;
    fresh.reading(1, 1.0).await;
    fresh.acked(1).await;
    gateway.stop().await;
    gateway.start().await;
    assert!(gateway.metric("tidegate_spool_batches").await >= 1);
}

/// Deletes a folder in which files may be made meanwhile.
fn remove(path: &Path) {
    let begin = Instant::now();
    while std::fs::remove_dir_all(path).is_err() && path.exists() {
        assert!(begin.elapsed() < DEADLINE);
    }
}

#[tokio::test]
async fn a_spool_folder_deleted_while_running_is_made_again_and_what_is_gone_is_told() {
    vanishes("spool", false).await;
}

#[tokio::test]
async fn a_data_folder_deleted_while_running_is_made_again_and_what_is_gone_is_told() {
    vanishes("", true).await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_data_folder_is_refused_and_does_not_disturb() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let data = data.to_str().unwrap();
    let (mut broker, proxy, mut first) = start(data).await;
    let fleet = Fleet::start(&first, 4, PACE);
    fleet.advance(100).await;
    broker.kill();
    fleet.advance(200).await;
    let mut second = Setup::new(proxy.port)
        .set("gateway.id", "gw-other")
        .set("gateway.data_dir", data)
        .prepare();
    let words = [data, "another tidegate uses this data folder", "gateway.data_dir"];
    refused(&mut second, &words).await;
    fleet.advance(200).await;
    broker.restart().await;
    fleet.advance(200).await;
    refused(&mut second, &words).await;
    let total = fleet.settle(&proxy).await;
    assert!(total.acked >= 700, "{total:?}");
    first.kill();
    second.start().await;
    refused(&mut first, &words).await;
}
