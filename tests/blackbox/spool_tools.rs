//! `tidegate spool info` and `export` on what a gateway left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::harness::*;

const BATCHES: u64 = 400;
const READINGS: u64 = 12;

/// What a device sends under `seq`.
fn value(seq: u64, n: u64) -> f64 {
    ((seq * 100 + n) as f64).sin()
}

/// A stopped gateway with `BATCHES` acknowledged batches of each of two devices in its spool.
async fn outage() -> Gateway {
    let mut broker = Broker::start("").await;
    broker.kill();
    let mut gateway = Setup::new(broker.port).start().await;
    for id in ["kiln-3", "mast"] {
        let (mut device, _) = gateway.device(id).open(Some(7)).await;
        for seq in 1..=BATCHES {
            let records = (0..READINGS).map(|n| {
                record(&format!("value-{n}"), value(seq, n), 1_763_800_000.0 + seq as f64)
            });
            device.send(&readings(Some(seq), Value::Array(records.collect()))).await;
            if seq % 50 == 0 {
                device.acked(seq).await;
            }
        }
    }
    let refused = gateway.command(&["spool", "info"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Stop it first, or look at `tidegate status`"), "{said}");
    gateway.stop().await;
    gateway
}

/// Every exported batch, checked against what was sent: `(device, seq)`, in order.
fn exported(output: &Output) -> Vec<(String, u64)> {
    let mut seen = Vec::new();
    for line in std::str::from_utf8(&output.stdout).unwrap().lines() {
        let batch: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&batch["gateway"], &batch["epoch"]), (&"gw-test".into(), &7.into()));
        assert_eq!(batch["spooled"], true);
        let seq = batch["seq"].as_u64().unwrap();
        let readings = batch["readings"].as_array().unwrap();
        assert_eq!(readings.len() as u64, READINGS);
        for (n, reading) in (0..).zip(readings) {
            assert_eq!(reading["n"], format!("value-{n}"));
            // The reader of JSON here may miss the last bit.
            assert!((reading["v"].as_f64().unwrap() - value(seq, n)).abs() < 1e-12);
            assert_eq!(reading["t"], 1_763_800_000.0 + seq as f64);
        }
        seen.push((batch["device"].as_str().unwrap().to_owned(), seq));
    }
    seen
}

fn all() -> Vec<(String, u64)> {
    let of = |id: &str| (1..=BATCHES).map(|seq| (id.to_owned(), seq)).collect::<Vec<_>>();
    [of("kiln-3"), of("mast")].concat()
}

fn databases(gateway: &Gateway) -> Vec<PathBuf> {
    let files = gateway.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.ends_with("db") && path.to_string_lossy().contains("gen-")).collect()
}

/// Every file below the data folder with its content.
fn contents(gateway: &Gateway) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |(path, _): (PathBuf, u64)| (path.clone(), std::fs::read(&path).unwrap());
    gateway.files().into_iter().map(read).collect()
}

#[tokio::test]
async fn a_stopped_gateways_spool_is_shown_and_exported_and_not_touched() {
    let gateway = outage().await;
    let before = contents(&gateway);

    let info = gateway.command(&["spool", "info", "--json"]);
    assert_eq!(info.status.code(), Some(0), "{info:?}");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!((&info["batches"], &info["readings"]), (&800.into(), &9600.into()));
    assert_eq!((&info["head"], &info["next"]), (&1.into(), &801.into()));
    assert_eq!(info["unreadable"], 0);
    assert!(info["bytes"].as_u64().unwrap() > 9600, "{info}");
    assert!((info["newest"].as_f64().unwrap() - unix_now()).abs() < 600.0);
    let epoch = &info["devices"]["mast"]["epochs"][0];
    assert_eq!((&epoch["epoch"], &epoch["batches"]), (&7.into(), &BATCHES.into()));
    assert_eq!((&epoch["first_seq"], &epoch["last_seq"]), (&1.into(), &BATCHES.into()));
    let text = String::from_utf8(gateway.command(&["spool", "info"]).stdout).unwrap();
    assert!(text.contains("9 600 readings in 800 batches"), "{text}");

    let export = gateway.command(&["spool", "export"]);
    assert_eq!(export.status.code(), Some(0), "{export:?}");
    assert!(exported(&export) == all(), "every acknowledged batch, in order");
    let one = gateway.command(&["spool", "export", "--device", "mast"]);
    assert!(exported(&one) == all()[400..]);

    let file = gateway.dir().join("out.cbor");
    let output = file.to_str().unwrap();
    let cbor = ["spool", "export", "--format", "cbor", "--output", output];
    assert_eq!(gateway.command(&cbor).status.code(), Some(0));
    let sequence = std::fs::read(&file).unwrap();
    let mut rest = &sequence[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let item: Value = ciborium::from_reader(&mut rest).unwrap();
        let fields = item.into_array().unwrap();
        let seq = u64::try_from(fields[2].as_integer().unwrap()).unwrap();
        let pack = fields[4].as_array().unwrap();
        assert_eq!(pack.len() as u64, READINGS);
        seen.push((fields[0].as_text().unwrap().to_owned(), seq));
    }
    assert!(seen == all());
    let again = gateway.command(&cbor);
    assert_eq!(again.status.code(), Some(1), "an existing file is left alone");

    // Whoever reads goes away.
    let mut child = Command::new(crate::harness::program())
        .args(["spool", "export", "--config"])
        .arg(gateway.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");

    assert!(contents(&gateway) == before, "something in the data folder was changed");
}

#[tokio::test]
async fn what_damage_left_whole_is_exported_and_the_rest_is_told() {
    let gateway = outage().await;
    let databases = databases(&gateway);
    let path = &databases[0];
    let whole = std::fs::read(path).unwrap();

    // One byte within the second piece.
    let starts: Vec<usize> =
        (0..whole.len() - 4).filter(|at| whole[*at..].starts_with(b"tgS1")).collect();
    assert!(starts.len() > 3, "{starts:?}");
    let mut flipped = whole.clone();
    flipped[starts[1] + 200] ^= 0x04;
    std::fs::write(path, &flipped).unwrap();
    let missing = damaged(&gateway, path);
    assert!((1..200).contains(&missing), "one chunk is gone: {missing} batches");

    std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
    let missing = damaged(&gateway, path);
    assert!((1..800).contains(&missing), "{missing} batches are gone");

    std::fs::remove_file(path).unwrap();
    assert!(damaged(&gateway, path) >= 1);

    std::fs::write(path, &whole).unwrap();
    assert!(exported(&gateway.command(&["spool", "export"])) == all());
}

/// Exports a damaged spool; how many batches are missing.
fn damaged(gateway: &Gateway, path: &Path) -> u64 {
    let before = contents(gateway);
    let export = gateway.command(&["spool", "export"]);
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    let seen = exported(&export);
    let whole = all();
    let missing = whole.iter().filter(|batch| !seen.contains(batch)).count();
    assert_eq!(seen.len() + missing, whole.len(), "none twice");
    assert!(seen.is_sorted(), "in order");
    let said = String::from_utf8_lossy(&export.stderr);
    let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    assert!(said.contains(&format!("{folder}: positions ")), "{said}");
    let counted =
        if missing == 1 { "1 position at".into() } else { format!("{missing} positions at") };
    assert!(said.contains(&counted), "{missing} are missing: {said}");

    let info = gateway.command(&["spool", "info", "--json"]);
    assert_eq!(info.status.code(), Some(1));
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(
        (info["unreadable"].as_u64(), info["batches"].as_u64()),
        (Some(missing as u64), Some(seen.len() as u64))
    );
    assert_eq!(info["damage"][0]["folder"], folder);
    assert!(contents(gateway) == before, "nothing is repaired");
    missing as u64
}

#[tokio::test]
async fn losses_that_were_not_published_are_shown() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let setup = Setup::new(broker.port).set("spool.max_bytes", "1MiB");
    let mut gateway = setup.start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let metric = "tidegate_readings_lost_total{reason=\"evicted-size\"}";
    let mut seq = 0;
    let begin = std::time::Instant::now();
    while gateway.metric(metric).await == 0 {
        assert!(begin.elapsed() < DEADLINE, "nothing is evicted");
        for _ in 0..20 {
            seq += 1;
            let records =
                (0..300).map(|n| record("value", value(seq, n), 1_763_800_000.0 + n as f64));
            device.send(&readings(Some(seq), Value::Array(records.collect()))).await;
        }
        device.acked(seq).await;
    }
    gateway.stop().await;
    let before = contents(&gateway);
    let info = gateway.command(&["spool", "info", "--json"]);
    assert_eq!(info.status.code(), Some(0), "{info:?}");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    let losses = info["losses"].as_array().unwrap();
    let (first, newest) = (&losses[0], &losses[losses.len() - 1]);
    assert_eq!((&first["device"], &first["epoch"]), (&"kiln-3".into(), &7.into()));
    assert_eq!((&first["reason"], &first["first_seq"]), (&"evicted-size".into(), &1.into()));
    let lost: u64 = losses.iter().map(|loss| loss["readings"].as_u64().unwrap()).sum();
    // What is not lost is there.
    assert_eq!(lost + info["readings"].as_u64().unwrap(), 300 * seq);
    assert_eq!(
        info["devices"]["kiln-3"]["epochs"][0]["first_seq"],
        newest["last_seq"].as_u64().unwrap() + 1
    );
    let text = String::from_utf8(gateway.command(&["spool", "info"]).stdout).unwrap();
    assert!(text.contains("to be published\nloss "), "{text}");
    assert!(contents(&gateway) == before, "something in the data folder was changed");
}
