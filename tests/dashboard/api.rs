//! What is asked for and answered at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate::config::registry::Registry;
use tidegate::core::batch::{Reading, Value};
use tidegate::metrics::Code;
use tidegate::ports::{Clock, Feed, Refused, RefusedKind, UplinkState};
use tokio::sync::watch;

use super::support::*;

#[test]
fn the_probes_tell_alive_from_ready() {
    let gateway = Gateway::start();
    assert_eq!(gateway.get("/healthz").status, 200);
    let unready = gateway.get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.error().contains("not listening"), "{unready:?}");
    gateway.listening.store(true, Ordering::Release);
    let unready = gateway.get("/readyz");
    assert_eq!((unready.status, unready.error()), (503, "the spool is not open".into()));
    gateway.health.set_spool(|spool| spool.open = true);
    assert_eq!(gateway.get("/readyz").status, 200);
    gateway.health.set_spool(|spool| spool.fault = Some("no space left".into()));
    let unready = gateway.get("/readyz");
    assert_eq!((unready.status, unready.error()), (503, "no space left".into()));
    gateway.health.set_spool(|spool| spool.fault = None);
    assert_eq!(gateway.get("/readyz").json(), json!({"status": "ready"}));
    gateway.health.set_ledger(|ledger| ledger.fault = Some("no space left".into()));
    let ready = gateway.get("/readyz");
    assert_eq!(ready.status, 200, "readings flow all the same");
    assert_eq!(ready.json(), json!({"status": "ready", "commands": "no space left"}));
}

#[test]
fn a_fault_of_the_ledger_and_damage_that_it_found_are_told_only_where_there_are_any() {
    let gateway = Gateway::start();
    let status = || gateway.get("/api/v1/status").json();
    assert!(status().get("commands").is_none());
    gateway.health.set_ledger(|ledger| ledger.damaged = 2);
    assert_eq!(status()["commands"], json!({"damaged": 2}));
    gateway.health.set_ledger(|ledger| ledger.fault = Some("no space left".into()));
    assert_eq!(status()["commands"], json!({"fault": "no space left", "damaged": 2}));
    for _ in 0..2 {
        let metrics = gateway.get("/metrics");
        assert!(metrics.text().contains("\ntidegate_ledger_damaged_total 2\n"), "counted once");
    }
}

#[test]
fn the_status_has_every_key_and_tells_the_truth() {
    let gateway = Gateway::start();
    gateway.up("a");
    gateway.up("b");
    gateway.fleet.device_down(&id("b"), 1.0);
    gateway.health.set_uplink(|uplink| {
        uplink.state = UplinkState::Disconnected;
        uplink.since = 1_763_800_000.0;
        uplink.last_error = Some("connection refused".into());
    });
    gateway.health.set_spool(|spool| {
        spool.batches = 3;
        spool.readings = 30;
        spool.bytes = 4096;
        spool.max_bytes = 8192;
        spool.oldest = Some(SystemClock.unix() - 60.0);
        spool.lost_readings = 7;
    });
    let status = gateway.get("/api/v1/status").json();
    assert_eq!(
        keys(&status),
        [
            "devices",
            "duplicates",
            "gateway",
            "rates",
            "rejected_batches",
            "sequence_gaps",
            "spool",
            "uplink",
            "uptime_s",
            "version"
        ]
    );
    assert_eq!(status["gateway"], "gw-1");
    assert_eq!(status["version"], "1.2.3");
    assert!(status["uptime_s"].as_f64().unwrap() < 60.0);
    assert_eq!(
        status["uplink"],
        json!({"state": "disconnected", "since": 1_763_800_000.0,
               "last_error": "connection refused"})
    );
    assert_eq!(status["devices"], json!({"connected": 1, "known": 2}));
    let age = status["spool"]["oldest_age_s"].as_f64().unwrap();
    assert!((60.0..70.0).contains(&age), "{age}");
    let mut spool = status["spool"].clone();
    spool["oldest_age_s"] = json!(60);
    for key in ["disk_written_bytes", "disk_written_today_bytes"] {
        let written = spool.as_object_mut().unwrap().remove(key).unwrap();
        assert!(written.is_u64() || written.is_null(), "{key}: {status}");
    }
    assert_eq!(
        spool,
        json!({"batches": 3, "readings": 30, "bytes": 4096, "max_bytes": 8192,
               "oldest_age_s": 60, "lost_readings": 7, "full_in_s": null,
               "drained_in_s": null, "lasts_s": null})
    );
    gateway.health.set_spool(|spool| spool.fault = Some("no space left".into()));
    assert_eq!(gateway.get("/api/v1/status").json()["spool"]["fault"], "no space left");
}

#[test]
fn a_growing_buffer_says_when_it_is_full() {
    let gateway = Gateway::start();
    let start = Instant::now();
    let mut full_in = None;
    let mut batches = 0;
    while full_in.is_none() {
        assert!(start.elapsed() < DEADLINE);
        batches += 10;
        gateway.health.set_spool(|spool| {
            spool.batches = batches;
            spool.readings = batches;
            spool.bytes = batches * 100;
            spool.max_bytes = 1 << 30;
        });
        gateway.metrics.readings_received.inc_by(10);
        gateway.metrics.batches_received.inc_by(10);
        full_in = gateway.get("/api/v1/status").json()["spool"]["full_in_s"].as_f64();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(full_in > Some(1.0), "{full_in:?}");
    let text = gateway.get("/metrics").text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {text}")).trim().parse().unwrap()
    };
    assert!(value("tidegate_spool_full_seconds ") > 1.0);
    assert!(value("tidegate_spool_lasts_seconds ") > 1.0);
    assert!(value("tidegate_spool_drained_seconds ").is_nan(), "unknown is no number");
}

#[test]
fn devices_show_the_latest_of_every_kind_of_value() {
    let gateway = Gateway::start();
    assert_eq!(gateway.get("/api/v1/devices").json(), json!([]));
    gateway.up("kiln-3");
    gateway.send(
        "kiln-3",
        vec![
            reading("temperature", Some("Cel"), Value::Number(21.0), 1.0),
            reading("temperature", Some("Cel"), Value::Number(21.5), 2.5),
            reading("mode", None, Value::Text("a\"b ü".into()), 2.0),
            reading("door", None, Value::Bool(false), 2.0),
            reading("raw", None, Value::Data(Box::new([0xfb, 0xff, 0])), 2.0),
            Reading { value: None, sum: Some(4.5), ..number("energy", 0.0, 3.0) },
        ],
    );
    gateway.send("kiln-3", vec![number("temperature", 1.0, 2.4)]);
    gateway.fleet.device_seen(&id("kiln-3"), 9.0);
    let expected = json!({
        "id": "kiln-3", "connected": true, "since": 1_763_800_000.5, "last_seen": 9.0,
        "model": "K\"1", "firmware": null, "address": "10.0.0.7:4711",
        "commands": ["set", "identify"], "interval_s": null,
        "readings": {
            "door": {"vb": false, "u": null, "t": 2.0},
            "energy": {"s": 4.5, "u": null, "t": 3.0},
            "mode": {"vs": "a\"b ü", "u": null, "t": 2.0},
            "raw": {"vd": "-_8A", "u": null, "t": 2.0},
            "temperature": {"v": 21.5, "u": "Cel", "t": 2.5},
        },
    });
    assert_eq!(gateway.get("/api/v1/devices").json(), json!([expected]));
    let mut device = gateway.get("/api/v1/devices/kiln-3").json();
    for more in ["connection", "refusals"] {
        assert!(device.as_object_mut().unwrap().remove(more).is_some(), "{more}");
    }
    assert_eq!(device, expected);

    gateway.fleet.device_down(&id("kiln-3"), 10.0);
    let device = gateway.get("/api/v1/devices/kiln-3").json();
    assert_eq!((&device["connected"], &device["since"]), (&json!(false), &json!(10.0)));
    assert_eq!(device["readings"], expected["readings"], "the last values stay known");
}

#[test]
fn a_large_fleet_is_listed_whole_and_in_order() {
    let gateway = Gateway::start();
    for number in 0..2000 {
        gateway.up(&format!("device-{number:04}"));
    }
    let devices = gateway.get("/api/v1/devices").json();
    let devices = devices.as_array().unwrap();
    assert_eq!(devices.len(), 2000);
    for (number, device) in devices.iter().enumerate() {
        assert_eq!(device["id"], format!("device-{number:04}"));
    }
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let gateway = Gateway::start();
    gateway.health.set_uplink(|uplink| uplink.state = UplinkState::Connected);
    gateway.health.set_spool(|spool| {
        spool.batches = 12;
        spool.bytes = 4096;
        spool.oldest = Some(SystemClock.unix() - 100.0);
    });
    gateway.metrics.batches_received.inc_by(5);
    let classic = gateway.get("/metrics");
    assert_eq!(classic.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = classic.text();
    for line in [
        "tidegate_batches_received_total 5",
        "tidegate_spool_batches 12",
        "tidegate_spool_bytes 4096",
        "tidegate_uplink_up 1",
        "tidegate_viewers 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    }
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    assert!((100.0..110.0).contains(&value("tidegate_spool_oldest_seconds ")));
    assert!(value("tidegate_disk_written_bytes_total ") >= 0.0);

    let modern = request(
        gateway.address(),
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;\
         version=1.0.0,text/plain;q=0.5\r\n",
    );
    assert!(modern.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(modern.text().ends_with("# EOF\n"));
}

#[test]
fn the_page_and_its_files_come_with_a_policy_and_are_asked_for_again_only_if_changed() {
    let gateway = Gateway::start();
    let page = gateway.get("/");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let html = page.text();
    let mut files = vec!["/".to_owned()];
    for part in html.split('"').filter(|part| part.starts_with('/') && part.contains('.')) {
        files.push(part.to_owned());
    }
    assert!(files.len() >= 4, "the page's style, script and icon: {files:?}");
    for file in files {
        let answer = gateway.get(&file);
        assert_eq!(answer.status, 200, "{file}");
        let etag = answer.header("etag").unwrap().to_owned();
        let head =
            format!("GET {file} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"x\", W/{etag}\r\n");
        let again = request(gateway.address(), &head);
        assert_eq!((again.status, again.body.len()), (304, 0), "{file}");
    }
}

#[test]
fn head_answers_like_get_without_the_body() {
    let gateway = Gateway::start();
    gateway.up("a");
    for path in
        ["/", "/healthz", "/metrics", "/api/v1/status", "/api/v1/devices", "/api/v1/devices/a"]
    {
        let get = gateway.get(path);
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n");
        let head = request(gateway.address(), &head);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    let events = request(gateway.address(), "HEAD /api/v1/events HTTP/1.1\r\nHost: [::1]\r\n");
    assert_eq!(events.status, 200);
}

/// What of a device was refused.
fn refuse(gateway: &Gateway, device: &str, kind: RefusedKind, code: u64, reason: &str, time: f64) {
    gateway.fleet.refused(&id(device), &Refused { kind, code, reason, time });
}

#[test]
fn one_device_shows_its_connection_and_what_was_refused() {
    let gateway = Gateway::start();
    gateway.up("a");
    let asked = || gateway.get("/api/v1/devices/a").json();
    assert_eq!(
        asked()["connection"],
        json!({"epoch": null, "seq": null, "batches": 0, "readings": 0, "gaps": 0,
               "duplicates": 0, "rejected": 0, "round_trip_s": null})
    );
    assert_eq!(asked()["refusals"], json!([]));
    gateway.fleet.device_opened(&id("a"), 7, 41);
    for time in [100.0, 102.0, 104.0] {
        gateway.send("a", vec![number("x", 1.0, time), number("y", 1.0, time)]);
    }
    gateway.fleet.irregular(&id("a"), 1, 2);
    gateway.fleet.round_trip(&id("a"), 0.012);
    for time in [1.0, 2.0, 3.0] {
        refuse(&gateway, "a", RefusedKind::Batch, 2, "reading \"x\"", time);
    }
    refuse(&gateway, "a", RefusedKind::Connection, 401, "no token", 1.5);
    let device = asked();
    assert_eq!(device["interval_s"], 2.0);
    assert_eq!(
        device["connection"],
        json!({"epoch": 7, "seq": 41, "batches": 3, "readings": 6, "gaps": 1, "duplicates": 2,
               "rejected": 3, "round_trip_s": 0.012})
    );
    assert_eq!(
        device["refusals"],
        json!([
            {"time": 3.0, "kind": "batch", "code": 2, "reason": "reading \"x\"", "count": 3},
            {"time": 1.5, "kind": "connection", "code": 401, "reason": "no token", "count": 1},
        ])
    );
    let list = gateway.get("/api/v1/devices").json();
    assert_eq!(list[0]["interval_s"], 2.0);
    for only_alone in ["connection", "refusals"] {
        assert!(list[0].get(only_alone).is_none(), "{only_alone} in {list}");
    }
    gateway.fleet.device_down(&id("a"), 105.0);
    assert_eq!(asked()["connection"]["batches"], 3, "counters outlive the connection");
}

#[test]
fn rates_are_readings_per_second_and_counts_are_those_since_the_start() {
    let gateway = Gateway::start();
    let status = || gateway.get("/api/v1/status").json();
    assert_eq!(status()["rates"], json!({"in": 0.0, "out": 0.0}));
    gateway.metrics.sequence_gaps.inc_by(3);
    gateway.metrics.duplicates.inc_by(4);
    for code in ["1", "2", "5"] {
        gateway.metrics.batches_rejected.get_or_create(&Code { code }).inc_by(2);
    }
    let now = status();
    let counts = ["rejected_batches", "sequence_gaps", "duplicates"].map(|key| now[key].as_u64());
    assert_eq!(counts, [Some(6), Some(3), Some(4)]);
    gateway.metrics.readings_received.inc_by(5000);
    gateway.metrics.readings_published.inc_by(500);
    let start = Instant::now();
    let (mut most, mut out) = (0.0, 0.0);
    while most == 0.0 {
        assert!(start.elapsed() < Duration::from_secs(30), "never a rate");
        let rates = status()["rates"].clone();
        (most, out) = (rates["in"].as_f64().unwrap(), rates["out"].as_f64().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most <= 5000.0 && (out - most / 10.0).abs() <= 0.11, "{most} in, {out} out");
    while status()["rates"]["in"] != 0.0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the rate never falls again");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn a_device_of_the_registry_is_shown_before_it_was_ever_seen() {
    let gateway = Gateway::start();
    let registry = |text| Arc::new(Registry::parse(text, Path::new("devices.toml")).unwrap());
    let (sender, receiver) = watch::channel(registry("[devices.kiln-3]\n[devices.kiln-4]\n"));
    let fleet = Arc::clone(&gateway.fleet);
    tokio::spawn(async move { fleet.follow(receiver, |_| true).await });
    let mut feed = gateway.watch("/api/v1/stream").await;
    let mut picture = json!({});
    while keys(&picture) != ["kiln-3", "kiln-4"] {
        apply(&mut picture, &feed.next().await);
    }
    let never = picture["kiln-3"].clone();
    assert_eq!(
        never,
        json!({"id": "kiln-3", "connected": false, "since": null, "last_seen": null,
               "model": null, "firmware": null, "address": null, "commands": [],
               "interval_s": null, "readings": {}})
    );
    let status = gateway.get("/api/v1/status").json();
    assert_eq!(status["devices"], json!({"connected": 0, "known": 2}));
    assert_eq!(gateway.get("/api/v1/devices").json()[0], never);
    sender.send_replace(registry("[devices.kiln-3]\n[devices.kiln-5]\n"));
    while keys(&picture) != ["kiln-3", "kiln-5"] {
        apply(&mut picture, &feed.next().await);
    }
    let missing = gateway.get("/api/v1/devices/kiln-4");
    assert_eq!(missing.status, 404);
    assert!(missing.error().contains("kiln-4"), "{missing:?}");
    gateway.up("kiln-3");
    while picture["kiln-3"]["connected"] != true {
        apply(&mut picture, &feed.next().await);
    }
    assert_eq!(picture["kiln-3"]["since"], 1_763_800_000.5);
}
