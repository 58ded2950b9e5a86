//! The gateway about itself: `/api/v1/gateway`, the log over HTTP and in the feed, and that no
//! secret shows in them.

use std::cell::RefCell;

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::dashboard::{next, stream};
use crate::harness::{Broker, Gateway, Setup, free_port, hello, until};

const PASSWORD: &str = "correct-horse-battery";

/// Everything the dashboard tells about the gateway and its devices, and the log itself.
async fn everything(gateway: &Gateway) -> String {
    let mut all = gateway.log();
    for path in [
        "/api/v1/gateway",
        "/api/v1/log?level=trace&limit=1000",
        "/api/v1/status",
        "/api/v1/devices",
        "/metrics",
        "/readyz",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        all.push_str(&answer.body);
    }
    all
}

async fn entries(gateway: &Gateway, query: &str) -> Vec<Json> {
    let log = gateway.get(&format!("/api/v1/log{query}")).await.json();
    log["entries"].as_array().unwrap().clone()
}

fn change(gateway: &Gateway, from: &str, to: &str) {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(gateway.config(), text.replace(from, to)).unwrap();
    gateway.signal(Signal::HUP);
}

#[tokio::test]
async fn no_secret_shows_anywhere_at_any_level() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port)
        .with_tokens()
        .set("mqtt.username", "gw")
        .set("mqtt.password_file", "password")
        .set("log.level", "trace")
        .prepare();
    std::fs::write(gateway.dir().join("password"), format!("{PASSWORD}\n")).unwrap();
    let token = gateway.add("kiln-3", &[]);
    gateway.start().await;
    gateway.until_uplink("connected").await;
    let mut feed = stream(&gateway, "?log=debug").await;
    let mut device = gateway.device("kiln-3").token(&token).connect().await.unwrap();
    device.send(&hello(Some(7), &[])).await;
    let _ = device.next().await;
    let wrong = "tg_wrong-one";
    assert!(gateway.device("kiln-3").token(wrong).connect().await.is_err());

    // One that must be mended: what is wrong is told without the secret in it.
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    change(&gateway, &url, &format!("tcp://gw:{PASSWORD}@127.0.0.1"));
    until("the fault is told", async || {
        let told = entries(&gateway, "?level=error").await;
        told.iter().any(|entry| entry["message"].as_str().unwrap().contains("mqtt.url"))
    })
    .await;
    let seen = RefCell::new(String::new());
    next(&mut feed, |message| {
        seen.borrow_mut().push_str(&message.to_string());
        message["message"].as_str().is_some_and(|text| text.contains("mqtt.url"))
    })
    .await;
    let told = everything(&gateway).await + &seen.into_inner();
    for secret in [PASSWORD, &token, wrong] {
        let at = told.find(secret).map(|at| &told[at.saturating_sub(300)..at]);
        assert_eq!(at, None, "{secret}");
    }
    let shown = gateway.get("/api/v1/gateway").await.json();
    let file = shown["configuration"]["mqtt"]["password_file"].as_str().unwrap();
    assert!(file.ends_with("password"), "{file}");
    assert_eq!(shown["configuration"]["mqtt"]["url"], url.as_str());
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
