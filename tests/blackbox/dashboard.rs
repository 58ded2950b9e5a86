//! HTTP: health, metrics, status, devices, history, and the live feed.

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Broker, Device, FromGateway, Gateway, Setup, Value, hello, readings, record, unix_now, until,
    within,
};

/// A gateway with one device that has sent one batch.
async fn start() -> (Broker, Gateway, Device) {
    let broker = Broker::start("").await;
    let gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(Some(7), &[("model", "K-9".into()), ("firmware", "1.2".into())])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    device.send(&batch(1, 21.5)).await;
    device.acked(1).await;
    (broker, gateway, device)
}

/// `temperature` in Celsius.
fn batch(seq: u64, value: f64) -> Value {
    let mut temperature = record("temperature", value, 0.0);
    temperature.as_map_mut().unwrap().push((1.into(), "Cel".into()));
    readings(Some(seq), Value::Array(vec![temperature, record("door", 1.0, 0.0)]))
}

pub(crate) async fn stream(gateway: &Gateway, query: &str) -> WebSocketStream<TcpStream> {
    let address = format!("127.0.0.1:{}", gateway.dashboard);
    let socket = TcpStream::connect(&address).await.unwrap();
    let uri = format!("ws://{address}/api/v1/stream{query}");
    within("the feed", tokio_tungstenite::client_async(uri, socket)).await.unwrap().0
}

/// The next message of the feed for which `wanted` holds.
pub(crate) async fn next(
    feed: &mut WebSocketStream<TcpStream>,
    wanted: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    within("a message of the feed", async {
        loop {
            match feed.next().await.expect("the feed goes on").unwrap() {
                Message::Text(text) => {
                    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                    if wanted(&json) {
                        return json;
                    }
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("JSON text expected, got {other:?}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn healthz_and_readyz_answer_200() {
    let (_broker, gateway, _device) = start().await;
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(gateway.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn readyz_does_not_depend_on_the_broker() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let gateway = Setup::new(broker.port).start().await;
    assert_eq!(gateway.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn every_documented_metric_is_there() {
    let broker = Broker::start("").await;
    let gateway = Setup::new(broker.port).start().await;
    let answer = gateway.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"));
    // Labelled families have samples only once something has been counted, but are declared.
    for (name, kind) in [
        ("devices_connected", "gauge"),
        ("batches_received", "counter"),
        ("readings_received", "counter"),
        ("readings_published", "counter"),
        ("readings_spooled", "counter"),
        ("readings_lost", "counter"),
        ("batches_rejected", "counter"),
        ("sequence_gaps", "counter"),
        ("duplicates", "counter"),
        ("spool_bytes", "gauge"),
        ("spool_batches", "gauge"),
        ("spool_oldest_seconds", "gauge"),
        ("spool_full_seconds", "gauge"),
        ("spool_drained_seconds", "gauge"),
        ("spool_lasts_seconds", "gauge"),
        ("disk_written_bytes", "counter"),
        ("disk_written_today_bytes", "gauge"),
        ("uplink_up", "gauge"),
        ("uplink_inflight", "gauge"),
        ("uplink_reconnects", "counter"),
        ("ack_seconds", "histogram"),
        ("connections_refused", "counter"),
        ("viewers", "gauge"),
    ] {
        let declared = format!("# TYPE tidegate_{name} {kind}");
        let total = format!("# TYPE tidegate_{name}_total {kind}");
        let found = answer.body.lines().any(|line| line == declared || line == total);
        assert!(found, "{declared}\n{}", answer.body);
    }
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let (_broker, gateway, _device) = start().await;
    let metrics = gateway.metrics().await;
    for (name, value) in [
        ("tidegate_devices_connected", 1),
        ("tidegate_batches_received_total", 1),
        ("tidegate_readings_received_total", 2),
        ("tidegate_readings_published_total", 2),
        ("tidegate_readings_spooled_total", 0),
        ("tidegate_uplink_up", 1),
        ("tidegate_uplink_inflight", 0),
        (r#"tidegate_ack_seconds_count{path="published"}"#, 1),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name}");
    }
}

#[tokio::test]
async fn status_has_every_documented_field() {
    let (_broker, gateway, _device) = start().await;
    let status = gateway.status().await;
    assert_eq!(status["gateway"], "gw-test");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime_s"].as_f64().unwrap() >= 0.0);
    assert_eq!(status["uplink"]["state"], "connected");
    assert!(status["uplink"]["since"].is_number());
    assert!(status["uplink"].get("last_error").is_some());
    let spool = status["spool"].as_object().unwrap();
    for key in ["batches", "readings", "bytes", "max_bytes", "lost_readings"] {
        assert!(spool[key].is_u64(), "{key}: {status}");
    }
    for key in [
        "oldest_age_s",
        "full_in_s",
        "drained_in_s",
        "lasts_s",
        "disk_written_bytes",
        "disk_written_today_bytes",
    ] {
        assert!(spool[key].is_null() || spool[key].is_number(), "{key}: {status}");
    }
    assert_eq!(spool["max_bytes"], 512 * 1024 * 1024);
    assert_eq!(status["devices"]["connected"], 1);
    assert_eq!(status["devices"]["known"], 1);
}

#[tokio::test]
async fn devices_show_their_latest_readings() {
    let (_broker, gateway, mut device) = start().await;
    device.send(&batch(2, 22.5)).await;
    device.acked(2).await;
    let list = gateway.get("/api/v1/devices").await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    let one = gateway.get("/api/v1/devices/kiln-3").await.json();
    for device in [&list[0], &one] {
        assert_eq!((&device["id"], &device["connected"]), (&json!("kiln-3"), &json!(true)));
        assert_eq!((&device["model"], &device["firmware"]), (&json!("K-9"), &json!("1.2")));
        assert!(device["address"].as_str().unwrap().starts_with("127.0.0.1"));
        assert!((device["since"].as_f64().unwrap() - unix_now()).abs() < 60.0);
        assert!((device["last_seen"].as_f64().unwrap() - unix_now()).abs() < 60.0);
        let temperature = &device["readings"]["temperature"];
        assert_eq!((temperature["v"].as_f64(), &temperature["u"]), (Some(22.5), &json!("Cel")));
        assert!((temperature["t"].as_f64().unwrap() - unix_now()).abs() < 60.0);
        assert_eq!(device["readings"]["door"]["v"].as_f64(), Some(1.0));
    }
    drop(device);
    until("it is shown as away", async || {
        gateway.get("/api/v1/devices/kiln-3").await.json()["connected"] == false
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_404_with_a_reason_in_json() {
    let (_broker, gateway, _device) = start().await;
    for path in ["/api/v1/devices/nobody", "/api/v1/nothing", "/nothing"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        if path.starts_with("/api/") {
            assert!(answer.json()["error"].is_string(), "{path}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn the_page_is_html_and_loads_nothing_from_elsewhere() {
    let (_broker, gateway, _device) = start().await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    assert!(!answer.body.contains("https://") && !answer.body.contains("src=\"http"));
}

#[tokio::test]
async fn the_feed_begins_with_a_snapshot_and_goes_on_with_readings() {
    let (_broker, gateway, mut device) = start().await;
    let mut feed = stream(&gateway, "").await;
    let first = next(&mut feed, |_| true).await;
    assert_eq!(first["type"], "snapshot");
    assert!(first.to_string().contains("kiln-3"), "{first}");
    device.send(&batch(2, 23.5)).await;
    let readings = next(&mut feed, |message| message["type"] == "readings").await;
    assert_eq!(readings["device"], "kiln-3");
    let readings = readings["readings"].as_array().unwrap();
    let temperature = readings.iter().find(|reading| reading["n"] == "temperature").unwrap();
    assert_eq!(temperature["v"].as_f64(), Some(23.5));
    assert_eq!(gateway.metric("tidegate_viewers").await, 1);
    let _second = gateway.device("kiln-4").open(None).await;
    let message = next(&mut feed, |message| message["type"] == "device").await;
    assert!(message.to_string().contains("kiln-4"), "{message}");
    drop(feed);
    until("the viewer is gone", async || gateway.metric("tidegate_viewers").await == 0).await;
}

#[tokio::test]
async fn the_feed_filters_by_device() {
    let (_broker, gateway, mut device) = start().await;
    let mut feed = stream(&gateway, "?device=kiln-4").await;
    assert_eq!(next(&mut feed, |_| true).await["type"], "snapshot");
    device.send(&batch(2, 1.0)).await;
    device.acked(2).await;
    let (mut other, _) = gateway.device("kiln-4").open(None).await;
    other.send(&batch(1, 2.0)).await;
    let message = next(&mut feed, |message| message["type"] == "readings").await;
    assert_eq!(message["device"], "kiln-4", "and nothing of kiln-3 before");
}

#[tokio::test]
async fn a_viewer_that_does_not_read_slows_no_device() {
    let (_broker, gateway, mut device) = start().await;
    let _idle = stream(&gateway, "").await;
    let pack = Value::Array(vec![record("temperature", 1.0, 0.0); 1000]);
    for seq in 2..=400 {
        device.send(&readings(Some(seq), pack.clone())).await;
        device.acked(seq).await;
    }
    let mut lively = stream(&gateway, "").await;
    assert_eq!(next(&mut lively, |_| true).await["type"], "snapshot");
}
