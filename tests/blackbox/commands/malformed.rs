//! What is no request, on each way in: said clearly where it can be, counted, and nothing else is
//! disturbed.

use serde_json::{Value as Json, json};

use super::{start, subscribed};
use crate::harness::{
    Broker, Device, Extra, Gateway, Requester, Setup, Value, commands_of, commands_path,
    results_of, until,
};

const MALFORMED: &str = "tidegate_command_requests_malformed_total";

/// Bodies that are no requests, and what is said of each.
fn bodies() -> Vec<(String, &'static str)> {
    let too_deep = format!("{{\"name\":\"a\",\"params\":{}1{}}}", "[".repeat(40), "]".repeat(40));
    let too_large = json!({"name": "a", "params": "x".repeat(9000)}).to_string();
    let long = json!({"name": "x".repeat(65)}).to_string();
    let mut bodies = vec![
        (too_deep, "nests deeper"),
        (too_large, "commands.max_size allows 8192"),
        (long, "must have 1 to 64"),
    ];
    for (body, words) in [
        ("", "not JSON"),
        ("{\"name\":\"a\"", "not JSON"),
        ("[\"a\"]", "an array, not an object"),
        ("\"a\"", "a string, not an object"),
        ("{}", "\"name\" is missing"),
        ("{\"name\":7}", "\"name\" is a number"),
        ("{\"name\":\"\"}", "has 0 characters"),
        ("{\"name\":\"a b\"}", "no blanks"),
        ("{\"name\":\"a\",\"ttl\":0}", "whole seconds, 1 to 604800"),
        ("{\"name\":\"a\",\"ttl\":-5}", "whole seconds, 1 to 604800"),
        ("{\"name\":\"a\",\"ttl\":1.5}", "whole seconds, 1 to 604800"),
        ("{\"name\":\"a\",\"ttl\":604801}", "whole seconds, 1 to 604800"),
        ("{\"name\":\"a\",\"ttl\":\"60\"}", "\"ttl\" is a string"),
        ("{\"name\":\"a\",\"id\":7}", "\"id\" is a number"),
        ("{\"name\":\"a\",\"id\":\"\"}", "it must be 1 to 64"),
        ("{\"name\":\"a\",\"id\":\"a/b\"}", "it must be 1 to 64"),
        ("{\"name\":\"a\",\"redeliver\":\"no\"}", "not true or false"),
    ] {
        bodies.push((body.to_owned(), words));
    }
    bodies
}

/// Readings flow, and a good command passes.
async fn undisturbed(gateway: &Gateway, device: &mut Device, seq: u64) {
    device.nothing_more(seq).await;
    let id = format!("good-{seq}");
    gateway.ask("kiln-3", &json!({"name": "identify", "id": id})).await;
    device.asked_for(&id).await;
    device.result(&id, true, Value::Null).await;
    gateway.until_state("kiln-3", &id, "done").await;
}

#[tokio::test]
async fn over_http_each_fault_is_answered_with_its_reason() {
    let (_broker, gateway, _requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let path = commands_path("kiln-3");
    let refused = async |path: &str, headers: &[&str], body: &str, status: u16, words: &str| {
        let answer = gateway.post(path, headers, body).await;
        assert_eq!(answer.status, status, "{body:.80}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{body:.80}: {error}");
    };
    for (body, words) in bodies() {
        refused(&path, &[], &body, 400, words).await;
    }
    undisturbed(&gateway, &mut device, 1).await;
    let good = r#"{"name":"identify"}"#;
    let huge = format!("{{\"name\":\"a\",\"params\":\"{}\"}}", "x".repeat(60_000));
    refused(&path, &[], &huge, 413, "bytes").await;
    for device in [".kiln", "kiln%203", &"k".repeat(65), "%ff"] {
        refused(&commands_path(device), &[], good, 404, "").await;
    }
    for wait in ["soon", "-1", "601", "NaN", "inf"] {
        refused(&format!("{path}?wait={wait}"), &[], good, 400, "").await;
    }
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let header = format!("Origin: {origin}");
        refused(&path, &[&header], good, 403, "another origin").await;
    }
    assert_eq!(gateway.get(&path).await.status, 405);
    // Its own page may.
    let own = format!("Origin: http://127.0.0.1:{}", gateway.dashboard);
    assert_eq!(gateway.post(&path, &[&own], good).await.status, 202);
    assert_eq!(device.asked().await.name, "identify");
    undisturbed(&gateway, &mut device, 2).await;
    assert_eq!(gateway.commands("").await.len(), 3, "nothing else is in the ledger");
}

/// The gateway says of what it did not take as a request.
async fn ignored(gateway: &Gateway, reason: &str) -> u64 {
    gateway.metric(&format!("tidegate_requests_ignored_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn over_mqtt_each_fault_is_counted_and_answered_where_it_can_be() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    until("the first tries are counted", async || {
        let before = gateway.metric(MALFORMED).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        gateway.metric(MALFORMED).await == before
    })
    .await;
    let before = gateway.metric(MALFORMED).await;
    let topic = commands_of("kiln-3");
    let mut faults = 0;
    for (n, (body, words)) in bodies().into_iter().enumerate() {
        let answers = format!("answers/{n}");
        let extra =
            Extra { response: Some(&answers), correlation: Some(b"\x01"), ..Extra::default() };
        requester.publish(&topic, body.as_bytes(), extra).await;
        let answer = requester.wait(&answers, 1).await[0].clone();
        let json = answer.json();
        assert_eq!((&json["state"], &json["device"]), (&json!("rejected"), &json!("kiln-3")));
        assert!(json["error"].as_str().unwrap().contains(words), "{body:.80}: {json}");
        assert_eq!(answer.correlation.as_deref(), Some(&b"\x01"[..]));
        faults += 1;
    }
    assert!(requester.on(&results_of("kiln-3")).is_empty(), "it was told where to answer");
    // Without a response topic an id will do.
    requester.ask("kiln-3", &json!({"name": "a", "id": "bad-ttl", "ttl": 0})).await;
    let told = requester.result("kiln-3", "bad-ttl").await;
    assert_eq!((&told["state"], &told["name"]), (&json!("rejected"), &json!("a")));
    // With neither there is nobody to tell.
    requester.publish(&topic, b"\xff\xfe", Extra::default()).await;
    // A device that cannot be, and correlation data without end.
    let extra = Extra { response: Some("answers/nobody"), ..Extra::default() };
    let request = br#"{"name":"identify","id":"n"}"#;
    requester.publish(&commands_of(".kiln"), request, extra).await;
    let told = requester.wait("answers/nobody", 1).await[0].json();
    assert_eq!((&told["state"], &told["id"]), (&json!("rejected"), &json!("n")), "{told}");
    requester.publish(&commands_of(".kiln"), request, Extra::default()).await;
    let endless = vec![7; 1025];
    let extra =
        Extra { response: Some("answers/x"), correlation: Some(&endless), ..Extra::default() };
    requester.publish(&topic, br#"{"name":"identify","id":"endless"}"#, extra).await;
    let told = requester.result("kiln-3", "endless").await;
    assert!(told["error"].as_str().unwrap().contains("correlation data"), "{told}");
    faults += 5;
    until("all are counted", async || gateway.metric(MALFORMED).await == before + faults).await;
    assert_eq!(gateway.commands("").await, Vec::<Json>::new());
    let log = gateway.log();
    assert!(log.contains("is malformed and ignored"), "{log}");
    undisturbed(&gateway, &mut device, 1).await;
    assert_eq!(gateway.metric("tidegate_uplink_reconnects_total").await, 0);
}

#[tokio::test]
async fn a_response_topic_that_cannot_be_published_on_is_left_out() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let own = results_of("kiln-4");
    let topics = [own.as_str(), "tidegate/gw-test/status", "$SYS/x", "answers/#", "answers/+/x"];
    for (n, topic) in topics.into_iter().enumerate() {
        let id = format!("r{n}");
        requester.ask_for("kiln-3", &json!({"name": "identify", "id": id}), topic).await;
        device.asked_for(&id).await;
        device.result(&id, true, Value::Null).await;
        assert_eq!(requester.result("kiln-3", &id).await["state"], "done");
        assert!(requester.on(topic).is_empty(), "{topic}");
    }
    assert!(gateway.log().contains("the response topic of a command cannot be used"));
    undisturbed(&gateway, &mut device, 1).await;
    assert_eq!(gateway.metric("tidegate_uplink_reconnects_total").await, 0);
}

#[tokio::test]
async fn a_retained_request_is_not_carried_out_with_every_connection() {
    for version in [4, 5] {
        let broker = Broker::start("").await;
        let mut requester = Requester::start(broker.port, version).await;
        let retained = Extra { retain: true, ..Extra::default() };
        let request = br#"{"name":"fire","id":"kept"}"#;
        requester.publish(&commands_of("kiln-3"), request, retained).await;
        let setup = Setup::new(broker.port).set("mqtt.version", i64::from(version));
        let mut gateway = setup.start().await;
        for seq in 1..=2 {
            // An MQTT 5 broker is asked to keep it to itself.
            if version == 4 {
                until("it is ignored", async || ignored(&gateway, "retained").await == 1).await;
                assert!(gateway.log().contains("a retained command is ignored"));
            }
            subscribed(&gateway, &mut requester).await;
            let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
            undisturbed(&gateway, &mut device, seq).await;
            assert_eq!(gateway.record("kiln-3", "kept").await, Json::Null);
            gateway.kill();
            gateway.start().await;
        }
    }
}

#[tokio::test]
async fn a_request_that_is_far_too_large_is_left_out_and_the_next_one_taken() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let huge = json!({"name": "a", "id": "huge", "params": "x".repeat(3 << 20)}).to_string();
    requester.publish(&commands_of("kiln-3"), huge.as_bytes(), Extra::default()).await;
    requester.ask("kiln-3", &json!({"name": "identify", "id": "next"})).await;
    device.asked_for("next").await;
    undisturbed(&gateway, &mut device, 1).await;
    assert_eq!(gateway.record("kiln-3", "huge").await, Json::Null);
}

#[tokio::test]
async fn a_device_that_answers_nonsense_loses_its_connection_and_no_command() {
    let (_broker, gateway, _requester) = start(|setup| setup).await;
    for nonsense in [
        vec![Value::from(2), 7.into(), true.into(), Value::Null],
        vec![2.into(), "a".into(), "yes".into(), Value::Null],
        vec![2.into(), "a".into()],
    ] {
        let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
        gateway.ask("kiln-3", &json!({"name": "identify", "id": "a"})).await;
        device.asked_for("a").await;
        device.send(&Value::Array(nonsense)).await;
        assert_eq!(device.closed().await, 1007);
        assert_eq!(gateway.record("kiln-3", "a").await["state"], "delivered");
    }
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    device.asked_for("a").await;
    device.result("a", true, Value::Null).await;
    gateway.until_state("kiln-3", "a", "done").await;
}
