//! The MQTT side apart from delivery: versions, payload formats, credentials, status topics.

use serde_json::json;

use crate::harness::{
    Broker, FromGateway, Gateway, Proxy, Setup, Subscriber, Value, hello, readings, record, until,
};

const STATUS: &str = "tidegate/gw-test/status";
const DEVICE_STATUS: &str = "tidegate/gw-test/devices/kiln-3/status";

/// Starts broker, watched way and gateway, sends one batch of two readings, and gives the
/// PUBLISH packets it became.
async fn publish_one(
    adjust: impl FnOnce(Setup) -> Setup,
    expected: usize,
) -> Vec<(String, Vec<u8>, Vec<(String, String)>)> {
    let broker = Broker::start("").await;
    let proxy = Proxy::start(broker.port).await;
    let gateway = adjust(Setup::new(proxy.port)).start().await;
    gateway.until_uplink("connected").await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let pack = Value::Array(vec![
        record("temperature", 21.5, 1_763_800_000.0),
        Value::Map(vec![
            (0.into(), "door".into()),
            (3.into(), "open".into()),
            (6.into(), 1_763_800_001.into()),
        ]),
    ]);
    device.send(&readings(Some(42), pack)).await;
    device.acked(42).await;
    let seen = proxy.readings();
    assert_eq!(seen.len(), expected);
    seen.into_iter()
        .map(|seen| (seen.publish.topic, seen.publish.payload, seen.publish.properties))
        .collect()
}

#[tokio::test]
async fn senml_json_is_the_resolved_pack_alone() {
    let seen = publish_one(|setup| setup.set("mqtt.payload", "senml-json"), 1).await;
    let (topic, payload, properties) = &seen[0];
    assert_eq!(topic, "tidegate/gw-test/devices/kiln-3/readings");
    let pack: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let records = pack.as_array().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!((records[0]["v"].as_f64(), records[1]["vs"].as_str()), (Some(21.5), Some("open")));
    assert!(records[0]["n"].as_str().unwrap().ends_with("temperature"));
    assert_position(properties);
}

#[tokio::test]
async fn senml_cbor_is_the_resolved_pack_alone() {
    let seen = publish_one(|setup| setup.set("mqtt.payload", "senml-cbor"), 1).await;
    let (topic, payload, properties) = &seen[0];
    assert_eq!(topic, "tidegate/gw-test/devices/kiln-3/readings");
    let pack: Value = ciborium::from_reader(payload.as_slice()).unwrap();
    let records = pack.as_array().unwrap();
    let field = |record: &Value, label: i64| {
        let map = record.as_map().unwrap();
        map.iter().find(|(key, _)| *key == label.into()).map(|(_, value)| value.clone()).unwrap()
    };
    assert_eq!(records.len(), 2);
    assert!(field(&records[0], 0).as_text().unwrap().ends_with("temperature"));
    assert_eq!(field(&records[0], 2).as_float(), Some(21.5));
    assert_eq!(field(&records[1], 3).as_text(), Some("open"));
    assert_position(properties);
}

#[tokio::test]
async fn value_is_one_message_for_each_reading() {
    let seen = publish_one(|setup| setup.set("mqtt.payload", "value"), 2).await;
    let plain: Vec<_> = seen
        .iter()
        .map(|(topic, payload, _)| (topic.as_str(), std::str::from_utf8(payload).unwrap()))
        .collect();
    let expected = [
        ("tidegate/gw-test/devices/kiln-3/readings/temperature", "21.5"),
        ("tidegate/gw-test/devices/kiln-3/readings/door", "open"),
    ];
    assert_eq!(plain, expected);
}

/// MQTT 5 user properties say which batch this is.
fn assert_position(properties: &[(String, String)]) {
    for (key, value) in [("epoch", "7"), ("seq", "42")] {
        let found = properties.iter().find(|(name, _)| name == key);
        assert_eq!(found.map(|(_, value)| value.as_str()), Some(value), "{key}: {properties:?}");
    }
}

#[tokio::test]
async fn mqtt_3_1_1_carries_the_same_envelope() {
    let seen = publish_one(|setup| setup.set("mqtt.version", 4), 1).await;
    let (_, payload, properties) = &seen[0];
    let envelope: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!((&envelope["device"], &envelope["seq"]), (&json!("kiln-3"), &json!(42)));
    assert!(properties.is_empty());
}

#[tokio::test]
async fn mqtt_3_1_1_takes_large_payloads() {
    let broker = Broker::start("").await;
    let consumer = Subscriber::start(broker.port).await;
    let gateway = Setup::new(broker.port).set("mqtt.version", 4).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    let pack = Value::Array(vec![record("a", 1.0, 1_763_800_000.0); 1000]);
    device.send(&readings(Some(1), pack)).await;
    device.acked(1).await;
    let messages = consumer.wait("tidegate/gw-test/devices/kiln-3/readings", 1).await;
    assert_eq!(messages[0].json()["readings"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn the_prefix_is_the_operators() {
    let adjust = |setup: Setup| setup.set("mqtt.prefix", "plant/{gateway}/x");
    let seen = publish_one(adjust, 1).await;
    assert_eq!(seen[0].0, "plant/gw-test/x/devices/kiln-3/readings");
}

#[tokio::test]
async fn user_name_and_password_are_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tool = std::process::Command::new("mosquitto_passwd")
        .args(["-c", "-b"])
        .arg(file.path())
        .args(["gateway", "secret word"])
        .output();
    assert!(tool.unwrap().status.success(), "mosquitto_passwd comes with mosquitto");
    let hashes = std::fs::read_to_string(file.path()).unwrap();
    let options = "allow_anonymous false\npassword_file {dir}/passwords";
    let broker = Broker::start_with(options, &[("passwords", &hashes)]).await;
    let mut gateway = Setup::new(broker.port)
        .set("mqtt.username", "gateway")
        .set("mqtt.password_file", "password")
        .prepare();
    std::fs::write(gateway.dir().join("password"), "secret word\n").unwrap();
    gateway.start().await;
    gateway.until_uplink("connected").await;
    assert!(!gateway.log().contains("secret word"));
}

#[tokio::test]
async fn a_broker_that_refuses_the_credentials_is_said_so_and_readings_wait() {
    let broker = Broker::start("allow_anonymous false").await;
    let gateway = Setup::new(broker.port).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    until("the reason is told", async || {
        let status = gateway.status().await;
        let error = status["uplink"]["last_error"].as_str().unwrap_or_default().to_lowercase();
        error.contains("authori") || error.contains("credential") || error.contains("password")
    })
    .await;
    until("it waits", async || gateway.metric("tidegate_spool_batches").await == 1).await;
}

#[tokio::test]
async fn the_gateways_status_is_retained_and_its_last_will_follows_a_kill() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    let consumer = Subscriber::start(broker.port).await;
    let online = &consumer.wait(STATUS, 1).await[0];
    assert!(online.retain);
    let online = online.json();
    assert_eq!((&online["state"], &online["gateway"]), (&json!("online"), &json!("gw-test")));
    assert_eq!(online["version"], env!("CARGO_PKG_VERSION"));
    assert!(online["since"].is_number());
    gateway.kill();
    let last = consumer.wait(STATUS, 2).await.pop().unwrap().json();
    assert_eq!((&last["state"], &last["gateway"]), (&json!("offline"), &json!("gw-test")));
    let late = Subscriber::start(broker.port).await;
    let kept = &late.wait(STATUS, 1).await[0];
    assert!(kept.retain && kept.json()["state"] == "offline");
}

#[tokio::test]
async fn an_orderly_stop_says_offline() {
    let broker = Broker::start("").await;
    let consumer = Subscriber::start(broker.port).await;
    let mut gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    gateway.stop().await;
    until("offline", async || {
        consumer.on(STATUS).last().is_some_and(|last| last.json()["state"] == "offline")
    })
    .await;
}

#[tokio::test]
async fn a_devices_status_is_retained_and_follows_it() {
    let broker = Broker::start("").await;
    let consumer = Subscriber::start(broker.port).await;
    let gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(None, &[("model", "K-9".into()), ("firmware", "1.2".into())])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    let online = consumer.wait(DEVICE_STATUS, 1).await[0].json();
    assert_eq!(online["state"], "online");
    assert_eq!((&online["model"], &online["firmware"]), (&json!("K-9"), &json!("1.2")));
    assert!(online["since"].is_number());
    let late = Subscriber::start(broker.port).await;
    assert!(late.wait(DEVICE_STATUS, 1).await[0].retain);
    drop(device);
    let offline = consumer.wait(DEVICE_STATUS, 2).await[1].json();
    assert_eq!(offline["state"], "offline");
}

#[tokio::test]
async fn the_status_of_a_device_that_left_during_an_outage_is_right_afterwards() {
    let mut broker = Broker::start("").await;
    let gateway: Gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    let (device, _) = gateway.device("kiln-3").open(None).await;
    broker.kill();
    until("the loss is seen", async || gateway.metric("tidegate_uplink_up").await == 0).await;
    drop(device);
    let (_other, _) = gateway.device("kiln-4").open(None).await;
    until("it is gone", async || gateway.metric("tidegate_devices_connected").await == 1).await;
    broker.restart().await;
    let consumer = Subscriber::start(broker.port).await;
    until("offline and online", async || {
        let last = |id: &str| {
            let topic = format!("tidegate/gw-test/devices/{id}/status");
            consumer.on(&topic).last().map(|message| message.json()["state"].clone())
        };
        last("kiln-3") == Some(json!("offline")) && last("kiln-4") == Some(json!("online"))
    })
    .await;
    assert_eq!(consumer.on(STATUS).last().unwrap().json()["state"], "online");
}
