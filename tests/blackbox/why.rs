//! `tidegate why`: what it says in each case that it is for.

use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Broker, FromGateway, Gateway, Setup, free_port, readings, record, until};

/// A gateway with tokens, and `kiln-3` with `more` in it.
async fn start(more: &[&str]) -> (Broker, Gateway, String) {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).with_tokens().prepare();
    let token = gateway.add("kiln-3", more);
    gateway.start().await;
    (broker, gateway, token)
}

fn why(gateway: &Gateway, device: &str) -> String {
    let output = gateway.command(&["why", device]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn why_json(gateway: &Gateway, device: &str) -> Json {
    let output = gateway.command(&["why", device, "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until a refusal of `kiln-3` with `code` is told, and gives it.
async fn told(gateway: &Gateway, code: u64) -> Json {
    let mut found = Json::Null;
    until(&format!("{code} is explained"), async || {
        let all = why_json(gateway, "kiln-3");
        let mut refusals = all["refusals"].as_array().unwrap().iter();
        found = refusals.find(|one| one["code"] == code).cloned().unwrap_or_default();
        !found.is_null()
    })
    .await;
    found
}

fn findings(explanation: &Json) -> String {
    let all = explanation["findings"].as_array().unwrap().iter();
    all.flat_map(|one| [one["advice"].to_string(), one["command"].to_string()])
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_wrong_token_and_no_token_are_told_apart_with_the_command_that_helps() {
    let (_broker, gateway, _token) = start(&[]).await;
    gateway.device("kiln-3").token("tg_wrong").connect().await.err().expect("refused");
    let refusal = told(&gateway, 401).await;
    assert!(refusal["reason"].as_str().unwrap().contains("not this device's"), "{refusal}");
    assert_eq!(refusal["command"], "tidegate device rotate kiln-3");
    gateway.device("kiln-3").connect().await.err().expect("refused");
    until("the other is told, too", async || {
        why(&gateway, "kiln-3").contains("no token came with the request")
    })
    .await;
    let text = why(&gateway, "kiln-3");
    assert!(text.contains("$ tidegate device rotate kiln-3"), "{text}");
    assert!(!text.contains("tg_wrong"), "{text}");
}

#[tokio::test]
async fn who_is_not_registered_is_told_how_to_be_and_whom_it_is_like() {
    let (_broker, gateway, token) = start(&[]).await;
    gateway.add("pump-1", &[]);
    gateway.device("kiln_3").token(&token).connect().await.err().expect("refused");
    let mut explanation = Json::Null;
    until("it is counted", async || {
        explanation = why_json(&gateway, "kiln_3");
        findings(&explanation).contains("refused for their credentials")
    })
    .await;
    assert_eq!(explanation["registered"], false);
    assert_eq!(explanation["near"], json!(["kiln-3"]));
    let said = findings(&explanation);
    assert!(said.contains("tidegate device add kiln_3"), "{said}");
    assert!(why(&gateway, "kiln_3").contains("there is kiln-3; is that meant?"));
}

#[tokio::test]
async fn a_reading_that_is_not_permitted_and_too_many_records_name_the_rule_and_the_option() {
    let (_broker, gateway, token) = start(&["--readings", "t*", "--max-records", "2"]).await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(Some(1)).await;
    let pack = |names: &[&str]| {
        ciborium::Value::Array(names.iter().map(|name| record(name, 1.0, 0.0)).collect())
    };
    device.send(&readings(Some(1), pack(&["secret"]))).await;
    device.send(&readings(Some(2), pack(&["t1", "t2", "t3"]))).await;
    let refusal = told(&gateway, 2).await;
    assert!(refusal["reason"].as_str().unwrap().contains("\"secret\""), "{refusal}");
    assert_eq!(refusal["command"], "tidegate device set kiln-3 --readings PATTERN");
    let refusal = told(&gateway, 3).await;
    assert_eq!(refusal["command"], "tidegate device set kiln-3 --max-records N");
    let explanation = why_json(&gateway, "kiln-3");
    assert_eq!(explanation["connected"], true);
    assert_eq!(explanation["permissions"]["readings"], json!(["t*"]));
    assert_eq!(explanation["permissions"]["max_records"], 2);
    assert_eq!(explanation["permissions"]["burst"], 400.0, "as for all");

    // What it says is what helps, without a new connection.
    let set = ["device", "set", "kiln-3", "--readings", "*", "--max-records", "default"];
    assert!(gateway.command(&set).status.success());
    let mut seq = 2;
    until("it may", async || {
        seq += 1;
        device.send(&readings(Some(seq), pack(&["secret", "b", "c"]))).await;
        loop {
            match device.next().await {
                FromGateway::Ack(acked) if acked == seq => return true,
                FromGateway::Reject { seq: Some(refused), .. } if refused == seq => return false,
                FromGateway::Ack(_) | FromGateway::Reject { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let listed = gateway.command(&["device", "list", "--json"]);
    let listed: Json = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((&listed[0]["readings"], &listed[0]["max_records"]), (&json!(["*"]), &Json::Null));
}

#[tokio::test]
async fn a_device_that_was_replaced_or_is_over_its_rate_is_told_so() {
    let limits = ["--batches-per-second", "20", "--burst", "1"];
    let (_broker, gateway, token) = start(&limits).await;
    let (mut first, _) = gateway.device("kiln-3").token(&token).open(Some(1)).await;
    for seq in 1..=5 {
        first.reading(seq, 1.0).await;
    }
    first.acked(5).await;
    let slowed = told(&gateway, 429).await;
    assert_eq!(slowed["kind"], "rate");
    assert!(slowed["reason"].as_str().unwrap().contains("rate in the registry"), "{slowed}");
    assert!(slowed["command"].as_str().unwrap().contains("--batches-per-second"), "{slowed}");
    let _second = gateway.device("kiln-3").token(&token).open(Some(2)).await;
    assert_eq!(first.closed().await, 4009);
    let replaced = told(&gateway, 4009).await;
    assert!(replaced["advice"].as_str().unwrap().contains("an id of its own"), "{replaced}");
    let text = why(&gateway, "kiln-3");
    assert!(text.starts_with("kiln-3 is connected, for "), "{text}");
    assert!(text.contains("rate         20 batches/s, burst 1\n"), "{text}");
}

#[tokio::test]
async fn one_that_has_never_come_and_refusals_without_an_id_are_told() {
    let (_broker, gateway, _token) = start(&[]).await;
    let said = findings(&why_json(&gateway, "kiln-3"));
    assert!(said.contains("it has never reached the gateway as kiln-3"), "{said}");
    let mut stray = TcpStream::connect(("127.0.0.1", gateway.devices)).await.unwrap();
    stray.write_all(b"GET /v1/device/kiln-3 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until("the other path is told", async || {
        findings(&why_json(&gateway, "kiln-3")).contains("1 requests went to another path")
    })
    .await;
}

#[test]
fn without_a_gateway_the_registry_has_to_do() {
    let gateway = Setup::new(free_port()).with_tokens().prepare();
    gateway.add("kiln-3", &["--commands", "reset"]);
    let explanation = why_json(&gateway, "kiln-3");
    assert!(explanation["gateway_fault"].as_str().unwrap().contains("does it run?"));
    assert_eq!(explanation["registered"], true);
    assert_eq!(explanation["permissions"]["commands"], json!(["reset"]));
    let text = why(&gateway, "kiln-3");
    assert!(text.contains("does it run?") && text.contains("with a token"), "{text}");
    assert!(findings(&why_json(&gateway, "kiln-4")).contains("tidegate device add kiln-4"));
    let broken = "[devices.kiln-3]\ntoken = 3\n";
    std::fs::write(gateway.dir().join("devices.toml"), broken).unwrap();
    assert!(findings(&why_json(&gateway, "kiln-3")).contains("the registry cannot be read"));
}
