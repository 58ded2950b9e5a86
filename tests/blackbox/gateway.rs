//! The gateway about itself: `/api/v1/gateway` and the log over HTTP.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Broker, Gateway, Setup, free_port, hello, until};

pub(crate) async fn entries(gateway: &Gateway, query: &str) -> Vec<Json> {
    let log = gateway.get(&format!("/api/v1/log{query}")).await.json();
    log["entries"].as_array().unwrap().clone()
}

pub(crate) fn change(gateway: &Gateway, from: &str, to: &str) {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(gateway.config(), text.replace(from, to)).unwrap();
    gateway.signal(Signal::HUP);
}

#[tokio::test]
async fn the_log_has_what_its_level_lets_through_and_a_reload_shows() {
    let gateway = Setup::new(free_port()).set("log.level", "warn").start().await;
    until("the broker is missed", async || !entries(&gateway, "").await.is_empty()).await;
    let all = entries(&gateway, "?level=trace").await;
    assert!(all.iter().all(|entry| entry["level"] == "warn" || entry["level"] == "error"));
    let missed = all.iter().find(|entry| entry["target"] == "tidegate::uplink").unwrap();
    assert!(missed["fields"]["reason"].as_str().unwrap().contains("refused"), "{missed}");

    change(&gateway, "level = \"warn\"", "level = \"info\"");
    until("the reload is told", async || {
        entries(&gateway, "").await.iter().any(|entry| entry["message"] == "reloaded")
    })
    .await;
    until("the level in force shows", async || {
        let shown = gateway.get("/api/v1/gateway").await.json();
        shown["configuration"]["log"]["level"] == "info"
    })
    .await;
}

#[tokio::test]
async fn the_machine_and_the_limits_are_those_of_the_running_gateway() {
    let broker = Broker::start("").await;
    let gateway = Setup::new(broker.port).set("devices.max_connections", 7).start().await;
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(Some(7), &[])).await;
    let _ = device.next().await;
    let used = async |name: &str| {
        let told = gateway.get("/api/v1/gateway").await.json();
        let limits = told["limits"].as_array().unwrap();
        let limit = limits.iter().find(|limit| limit["name"] == name).unwrap();
        (limit["used"].as_u64().unwrap(), limit["limit"].as_u64().unwrap())
    };
    until("its connection is counted", async || used("device connections").await == (1, 7)).await;
    let (files, most) = used("open files").await;
    assert!(files > 5 && files < most, "{files} {most}");
    let (disk, room) = used("disk").await;
    assert!(disk > 0 && room > 0);
    let told = gateway.get("/api/v1/gateway").await.json();
    let shown = told["machine"]["disk"]["path"].as_str().unwrap();
    assert!(shown.ends_with("data"), "{shown}");
    let cpu =
        async || gateway.get("/api/v1/gateway").await.json()["process"]["cpu_percent"].is_number();
    until("the processor time is known", cpu).await;
}
