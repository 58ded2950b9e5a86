//! What readings were in the last day outlives restarts and crashes, costs the disk nothing in
//! between, and harms nobody when it is damaged or cannot be written.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::harness::{
    Broker, Device, Disk, Gateway, Setup, Value, readings, record, unix_now, until,
};

const COUNT: u32 = 300;

/// A device that sends the last minutes, a reading a second, and a text that changes once.
async fn send(gateway: &Gateway, id: &str) -> (Device, f64) {
    let (mut device, _) = gateway.device(id).open(Some(7)).await;
    let start = (unix_now() - 400.0).floor();
    for (seq, chunk) in (0..COUNT).collect::<Vec<_>>().chunks(50).enumerate() {
        let numbers = chunk
            .iter()
            .map(|n| record("temperature", 1000.5 + f64::from(n % 60), start + f64::from(*n)));
        let mode = |n: &u32| {
            let state = if *n < 100 { "idle" } else { "heat" };
            let time = start + f64::from(*n);
            Value::Map(vec![
                (0.into(), "mode".into()),
                (3.into(), state.into()),
                (6.into(), time.into()),
            ])
        };
        let pack: Vec<_> = numbers.chain(chunk.iter().map(mode)).collect();
        let seq = seq as u64 + 1;
        device.send(&readings(Some(seq), Value::Array(pack))).await;
        device.acked(seq).await;
    }
    (device, start)
}

async fn history(gateway: &Gateway, device: &str, query: &str) -> Json {
    let answer = gateway.get(&format!("/api/v1/devices/{device}/history?{query}")).await;
    if answer.status == 200 { answer.json() } else { Json::Null }
}

/// The points and changes, waited for: the saved history is read while the gateway starts.
async fn kept(gateway: &Gateway, device: &str, query: &str) -> (Vec<Json>, Json) {
    let mut seen = Json::Null;
    until("the history is there", async || {
        seen = history(gateway, device, query).await;
        let is_filled = |list: &Json| list.as_array().is_some_and(|list| !list.is_empty());
        is_filled(&seen["points"]) || is_filled(&seen["states"])
    })
    .await;
    (seen["points"].as_array().unwrap().clone(), seen["states"].clone())
}

fn databases(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(data.join("history")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = paths.filter(|path| path.to_string_lossy().contains("/gen-")).collect();
    all.sort();
    all
}

fn data(gateway: &Gateway) -> PathBuf {
    gateway.dir().join("data")
}

#[tokio::test]
async fn a_restart_keeps_every_bucket_and_shows_the_device_as_away() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).start().await;
    let (device, start) = send(&gateway, "kiln-3").await;
    // Of a day in four-minute buckets the newest may still grow, so it is compared by its ends.
    let (points, states) = (
        kept(&gateway, "kiln-3", "name=temperature").await.0,
        kept(&gateway, "kiln-3", "name=mode").await.1,
    );
    assert_eq!(points.len(), COUNT as usize);
    assert_eq!(states, serde_json::json!([[start, "idle"], [start + 100.0, "heat"]]));
    drop(device);
    assert!(databases(&data(&gateway)).is_empty(), "nothing is written before it is time");
    for _ in 0..2 {
        gateway.stop().await;
        assert!(!databases(&data(&gateway)).is_empty());
        gateway.start().await;
        assert_eq!(kept(&gateway, "kiln-3", "name=temperature").await.0, points);
        assert_eq!(kept(&gateway, "kiln-3", "name=mode").await.1, states);
    }
    let device = gateway.get("/api/v1/devices/kiln-3").await.json();
    assert_eq!(device["connected"], false);
    assert!((device["last_seen"].as_f64().unwrap() - unix_now()).abs() < 60.0, "{device}");
    assert_eq!(device["readings"]["mode"]["vs"], "heat");
    assert_eq!(gateway.get("/api/v1/devices/nobody/history").await.status, 404);
    // It goes on where it was.
    let (mut device, _) = gateway.device("kiln-3").open(Some(8)).await;
    device.reading(1, 2000.5).await;
    device.acked(1).await;
    until("the new reading joins the others", async || {
        kept(&gateway, "kiln-3", "name=temperature&seconds=3600").await.0.last().unwrap()[3]
            == 2000.5
    })
    .await;
    assert_eq!(gateway.get("/api/v1/devices/kiln-3").await.json()["connected"], true);
}

#[tokio::test]
async fn after_a_sigkill_what_was_saved_is_there_in_minutes() {
    let broker = Broker::start("").await;
    let setup = Setup::new(broker.port).set("history.save_every", "200ms");
    let mut gateway = setup.start().await;
    let (mut device, start) = send(&gateway, "kiln-3").await;
    // Two saves with something new that begin after all of it had come: it is in the first.
    for seq in 100..102 {
        let saves = gateway.metric("tidegate_history_saves_total").await;
        device.reading(seq, 1030.5).await;
        device.acked(seq).await;
        until("it is saved", async || gateway.metric("tidegate_history_saves_total").await > saves)
            .await;
    }
    let query = "name=temperature&seconds=3600&points=60";
    let before = kept(&gateway, "kiln-3", query).await.0;
    let whole = |points: &[Json]| {
        let low = points.iter().map(|p| p[1].as_f64().unwrap()).fold(f64::MAX, f64::min);
        let high = points.iter().map(|p| p[3].as_f64().unwrap()).fold(f64::MIN, f64::max);
        (low, high)
    };
    assert_eq!(whole(&before), (1000.5, 1059.5));
    gateway.kill();
    gateway.start().await;
    until("it answers", async || kept(&gateway, "kiln-3", query).await.0.len() + 1 >= before.len())
        .await;
    let after = kept(&gateway, "kiln-3", "name=temperature&seconds=600").await.0;
    assert_eq!(whole(&after), (1000.5, 1059.5), "{after:?}");
    assert!(after[0][0].as_f64().unwrap() >= start - 60.0);
    let times: Vec<_> = after.iter().map(|point| point[0].as_u64().unwrap()).collect();
    assert!(times.windows(2).all(|two| (two[1] - two[0]) % 60 == 0), "by the minute: {times:?}");
}

#[tokio::test]
async fn saves_add_what_is_new_and_an_idle_gateway_saves_nothing() {
    let broker = Broker::start("").await;
    let setup = Setup::new(broker.port).set("history.save_every", "100ms");
    let gateway = setup.start().await;
    let (mut device, _) = send(&gateway, "kiln-3").await;
    let saves = async || gateway.metric("tidegate_history_saves_total").await;
    until("it is saved", async || saves().await > 0).await;
    let first = databases(&data(&gateway));
    device.reading(100, 1.0).await;
    let before = saves().await;
    until("more is saved", async || saves().await > before).await;
    assert!(databases(&data(&gateway)).len() > first.len() || first.len() > 1);
    let (mut files, mut same) = (gateway.files(), 0);
    until("nothing is written any more", async || {
        let now = gateway.files();
        same = if now == files { same + 1 } else { 0 };
        files = now;
        same >= 20
    })
    .await;
}

#[tokio::test]
async fn in_memory_only_nothing_of_it_is_on_the_disk() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).set("history.keep", "memory").start().await;
    let (device, _) = send(&gateway, "kiln-3").await;
    assert_eq!(kept(&gateway, "kiln-3", "name=temperature").await.0.len(), COUNT as usize);
    drop(device);
    gateway.stop().await;
    assert!(!data(&gateway).join("history").exists());
}

#[tokio::test]
async fn damaged_and_foreign_files_are_passed_over() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).start().await;
    let (device, _) = send(&gateway, "kiln-3").await;
    drop(device);
    gateway.stop().await;
    let history = data(&gateway).join("history");
    let file = databases(&data(&gateway))[0].join("db");
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    // Every value but one in the midst of the file is hit.
    let marks: Vec<usize> =
        (0..good.len() - 4).filter(|&at| &good[at..at + 4] == b"tgH1").collect();
    assert!(marks.len() > 1, "{marks:?}");
    for at in marks.iter().filter(|at| **at != marks[1]) {
        bad[at + 40] ^= 1;
    }
    for bytes in [bad.as_slice(), &good[..good.len() / 2], b"nonsense", b""] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, bytes).unwrap();
        std::fs::write(history.join("gen-00000000000000ff"), b"a file, not a folder").unwrap();
        std::fs::create_dir_all(history.join("gen-fffffffffffffffe")).unwrap();
        std::fs::write(history.join("gen-fffffffffffffffe/db"), b"tgH1tgH1tgH1").unwrap();
        gateway.start().await;
        until("it is told", async || gateway.log().contains("the saved history cannot be read"))
            .await;
        let (mut device, _) = gateway.device("kiln-4").open(None).await;
        device.reading(1, 7.5).await;
        device.acked(1).await;
        assert_eq!(kept(&gateway, "kiln-4", "name=temperature").await.0[0][2], 7.5);
        drop(device);
        gateway.stop().await;
        assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    }
    std::fs::remove_dir_all(&history).unwrap();
    std::fs::write(&history, b"in the way").unwrap();
    gateway.start().await;
    let (mut device, _) = gateway.device("kiln-4").open(None).await;
    device.reading(1, 8.5).await;
    device.acked(1).await;
    until("it is told", async || gateway.log().contains("cannot be kept on disk")).await;
    assert_eq!(kept(&gateway, "kiln-4", "name=temperature").await.0[0][2], 8.5);
    drop(device);
    gateway.stop().await;
}

#[tokio::test]
async fn a_full_disk_costs_the_history_and_nothing_else() {
    let Some(disk) = Disk::ext4(16) else { return };
    let broker = Broker::start("").await;
    let setup = Setup::new(broker.port)
        .set("gateway.data_dir", disk.data())
        .set("spool.reserve", "0")
        .set("history.save_every", "100ms");
    let mut gateway = setup.start().await;
    gateway.until_uplink("connected").await;
    disk.fill();
    let (mut device, _) = send(&gateway, "kiln-3").await;
    let failures = "tidegate_history_save_failures_total";
    until("a save fails", async || gateway.metric(failures).await > 1).await;
    let told = gateway.log().matches("the history cannot be saved").count();
    assert_eq!(told, 1, "once, not at each attempt: {}", gateway.log());
    device.reading(100, 1.5).await;
    device.acked(100).await;
    disk.make_room();
    until("it is saved", async || gateway.log().contains("can be saved again")).await;
    disk.fill();
    drop(device);
    gateway.stop().await;
    gateway.start().await;
    assert!(!kept(&gateway, "kiln-3", "name=temperature").await.0.is_empty());
    gateway.stop().await;
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}
