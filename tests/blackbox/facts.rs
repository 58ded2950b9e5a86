//! What the dashboard tells of each device: its connection, what was refused, and those that have
//! never come.

use serde_json::{Value as Json, json};

use crate::harness::{
    Broker, Device, FromGateway, Gateway, Setup, Value, hello, readings, record, unix_now, until,
};

/// A gateway with a registry in which `kiln-3` may publish what begins with `t`; and its token.
async fn start(adjust: impl FnOnce(Setup) -> Setup) -> (Broker, Gateway, String) {
    let broker = Broker::start("").await;
    let mut gateway = adjust(Setup::new(broker.port).with_tokens()).prepare();
    let token = gateway.add("kiln-3", &["--readings", "t*"]);
    gateway.start().await;
    gateway.until_uplink("connected").await;
    (broker, gateway, token)
}

async fn asked(gateway: &Gateway, device: &str) -> Json {
    gateway.get(&format!("/api/v1/devices/{device}")).await.json()
}

/// Waits for a refusal with `code`.
async fn refusal(gateway: &Gateway, device: &str, code: u64) -> Json {
    let mut found = Json::Null;
    until(&format!("a refusal {code} is shown"), async || {
        let device = asked(gateway, device).await;
        let mut refusals = device["refusals"].as_array().unwrap().iter();
        found = refusals.find(|one| one["code"] == code).cloned().unwrap_or_default();
        !found.is_null()
    })
    .await;
    assert!((found["time"].as_f64().unwrap() - unix_now()).abs() < 60.0, "{found}");
    found
}

async fn rejected(device: &mut Device) -> u64 {
    loop {
        match device.next().await {
            FromGateway::Ack(_) => {}
            FromGateway::Reject { code, .. } => return code,
            other => panic!("REJECT expected, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_devices_connection_is_counted_and_its_refused_batches_are_explained() {
    let (_broker, gateway, token) = start(|setup| setup).await;
    let connector = gateway.device("kiln-3").token(&token);
    let mut device = connector.connect().await.unwrap();
    let commands = Value::Array(vec!["set".into(), "identify".into()]);
    device.send(&hello(Some(7), &[("commands", commands)])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    let fresh = asked(&gateway, "kiln-3").await;
    assert_eq!(fresh["commands"], json!(["set", "identify"]));
    assert_eq!((&fresh["connection"]["epoch"], &fresh["interval_s"]), (&json!(7), &Json::Null));

    for seq in [1, 2, 5] {
        device.reading(seq, 1.0).await;
        device.acked(seq).await;
    }
    device.reading(5, 1.0).await;
    device.acked(5).await;
    for seq in [6, 7] {
        let pack = Value::Array(vec![record("humidity", 1.0, 0.0)]);
        device.send(&readings(Some(seq), pack)).await;
        assert_eq!(rejected(&mut device).await, 2);
    }
    let shown = asked(&gateway, "kiln-3").await;
    assert_eq!(
        shown["connection"],
        json!({"epoch": 7, "seq": 5, "batches": 3, "readings": 3, "gaps": 1, "duplicates": 1,
               "rejected": 2, "round_trip_s": null})
    );
    assert!(shown["interval_s"].as_f64().unwrap() > 0.0);
    let reason = "reading \"humidity\" does not match the device's readings patterns [\"t*\"]";
    let mut refusals = shown["refusals"].clone();
    assert!((refusals[0]["time"].as_f64().unwrap() - unix_now()).abs() < 60.0);
    refusals[0]["time"] = Json::Null;
    assert_eq!(
        refusals,
        json!([{"time": null, "kind": "batch", "code": 2, "reason": reason, "count": 2}])
    );

    let status = gateway.status().await;
    let counts = ["rejected_batches", "sequence_gaps", "duplicates"].map(|key| &status[key]);
    assert_eq!(counts, [2, 1, 1]);
    until("what came in and went out is a rate", async || {
        let rates = &gateway.status().await["rates"];
        device.reading(None, 1.0).await;
        rates["in"].as_f64().unwrap() > 0.0 && rates["out"].as_f64().unwrap() > 0.0
    })
    .await;
}

#[tokio::test]
async fn why_a_device_could_not_connect_or_stay_is_told() {
    let (_broker, gateway, token) = start(|setup| setup).await;
    let wrong: String = token.chars().rev().collect();
    for _ in 0..2 {
        let refused = gateway.device("kiln-3").token(&wrong).connect().await;
        assert_eq!(refused.err().map(|refusal| refusal.status), Some(401));
    }
    let shown = refusal(&gateway, "kiln-3", 401).await;
    assert_eq!(shown["kind"], "connection");
    assert!(shown["reason"].as_str().unwrap().contains("token is not this device's"), "{shown}");
    until("both are counted", async || refusal(&gateway, "kiln-3", 401).await["count"] == 2).await;

    let connector = gateway.device("kiln-3").token(&token);
    let browser = connector.clone().header("origin", "https://evil.example").connect().await;
    assert_eq!(browser.err().map(|refusal| refusal.status), Some(403));
    let shown = refusal(&gateway, "kiln-3", 403).await;
    assert!(shown["reason"].as_str().unwrap().contains("https://evil.example"), "{shown}");

    let (mut first, _) = connector.open(Some(7)).await;
    let (mut second, _) = connector.open(Some(7)).await;
    assert_eq!(first.closed().await, 4009);
    let shown = refusal(&gateway, "kiln-3", 4009).await;
    assert!(shown["reason"].as_str().unwrap().contains("newer connection"), "{shown}");
    second.send_bytes(vec![0xff; 100]).await;
    assert_eq!(second.closed().await, 1007);
    refusal(&gateway, "kiln-3", 1007).await;

    let (mut third, _) = connector.open(Some(7)).await;
    let output = gateway.command(&["device", "rotate", "kiln-3"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(third.closed().await, 4003);
    refusal(&gateway, "kiln-3", 4003).await;

    let stranger = gateway.device("stranger").token(&token).connect().await;
    assert_eq!(stranger.err().map(|refusal| refusal.status), Some(401));
    assert_eq!(gateway.get("/api/v1/devices/stranger").await.status, 404);
    assert_eq!(gateway.status().await["devices"]["known"], 1, "no place for strangers");
}

#[tokio::test]
async fn the_heartbeat_tells_the_round_trip_and_who_misses_it() {
    let adjust = |setup: Setup| {
        let setup = setup.set("devices.heartbeat_interval", "200ms");
        setup.set("devices.heartbeat_timeout", "3s")
    };
    let (_broker, gateway, token) = start(adjust).await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(Some(7)).await;
    until("a round trip is measured", async || {
        // Reads, and so answers pings.
        device.next_within(std::time::Duration::from_millis(50)).await;
        asked(&gateway, "kiln-3").await["connection"]["round_trip_s"].is_f64()
    })
    .await;
    let seconds = asked(&gateway, "kiln-3").await["connection"]["round_trip_s"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= 3.2, "{seconds}");
    // Nobody reads the device's socket, so nobody answers any more.
    let shown = refusal(&gateway, "kiln-3", 4008).await;
    assert!(shown["reason"].as_str().unwrap().starts_with("heartbeat missed"), "{shown}");
}

#[tokio::test]
async fn a_device_is_shown_once_it_is_registered_and_no_more_once_it_is_removed() {
    let (_broker, gateway, token) = start(|setup| setup).await;
    let ids = async || {
        let devices = gateway.get("/api/v1/devices").await.json();
        let ids = devices.as_array().unwrap().iter();
        ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the registry is shown", async || ids().await == ["kiln-3"]).await;
    let never = asked(&gateway, "kiln-3").await;
    assert_eq!((&never["connected"], &never["since"]), (&json!(false), &Json::Null));
    assert_eq!((&never["last_seen"], &never["readings"]), (&Json::Null, &json!({})));

    gateway.add("kiln-4", &[]);
    until("the added one is shown", async || ids().await == ["kiln-3", "kiln-4"]).await;
    assert_eq!(gateway.status().await["devices"], json!({"connected": 0, "known": 2}));

    let (mut device, _) = gateway.device("kiln-3").token(&token).open(Some(7)).await;
    assert_eq!(asked(&gateway, "kiln-3").await["connected"], true);
    for id in ["kiln-3", "kiln-4"] {
        let output = gateway.command(&["device", "remove", id]);
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(device.closed().await, 4003);
    until("nobody is left", async || ids().await.is_empty()).await;
    assert_eq!(gateway.get("/api/v1/devices/kiln-3").await.status, 404);
}

#[tokio::test]
async fn without_credentials_the_registry_lists_nobody() {
    let broker = Broker::start("").await;
    let adjusted = Setup::new(broker.port).with_tokens().set("devices.auth", "none");
    let mut gateway = adjusted.prepare();
    gateway.add("kiln-3", &[]);
    gateway.start().await;
    let _device = gateway.device("kiln-4").open(Some(7)).await;
    gateway.add("kiln-5", &[]);
    until("the registry is read", async || gateway.log().contains("registry read")).await;
    let devices = gateway.get("/api/v1/devices").await.json();
    assert_eq!(devices.as_array().unwrap().len(), 1, "{devices}");
    assert_eq!(devices[0]["id"], "kiln-4");
}
