//! The way of a command, over each way in: asked, sent, answered, told, kept.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::{start, subscribed};
use crate::harness::{
    Broker, Device, Gateway, Requester, Setup, Value, commands_path, results_of, states, unix_now,
    until, within,
};

/// What a device is told for `{"channel":2,"on":true}`.
fn output() -> Value {
    Value::Map(vec![("channel".into(), 2.into()), ("on".into(), true.into())])
}

/// The device's part: gets the one command and does it. Gives the id.
async fn does_it(device: &mut Device) -> String {
    let asked = device.asked().await;
    assert_eq!((asked.name.as_str(), asked.params), ("set-output", output()));
    assert!((1..=60).contains(&asked.ttl), "{} seconds are left of 60", asked.ttl);
    device.result(&asked.id, true, Value::Map(vec![("was".into(), false.into())])).await;
    asked.id
}

/// A result has these members, no others.
fn is_whole(result: &Json, id: &str, device: &str) {
    let members: BTreeSet<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["device", "error", "id", "name", "state", "time", "value"];
    assert_eq!(members, BTreeSet::from(expected));
    assert_eq!(result["id"], id);
    assert_eq!(result["device"], device);
    assert_eq!(result["name"], "set-output");
    assert_eq!(result["state"], "done");
    assert_eq!(result["value"], json!({"was": false}));
    assert_eq!(result["error"], Json::Null);
    assert!((unix_now() - result["time"].as_f64().unwrap()).abs() < 60.0, "{result}");
}

/// The ledger's record of a command that is done.
fn is_kept(record: &Json, id: &str, via: &str) {
    assert_eq!((&record["id"], &record["requester"]["via"]), (&json!(id), &json!(via)));
    assert_eq!(states(record), ["queued", "delivered", "done"]);
    assert_eq!(record["params"], json!({"channel": 2, "on": true}));
    assert_eq!(record["value"], json!({"was": false}));
    assert_eq!((&record["sent"], &record["redeliver"]), (&json!(1), &json!(true)));
    let times: Vec<_> = record["history"].as_array().unwrap().iter().map(|e| &e["time"]).collect();
    assert!(times.iter().all(|time| time.is_f64()), "{record}");
    let left = record["expires"].as_f64().unwrap() - record["accepted"].as_f64().unwrap();
    assert!((left - record["ttl"].as_f64().unwrap()).abs() < 0.01, "{record}");
}

fn request() -> Json {
    json!({"name": "set-output", "params": {"channel": 2, "on": true}})
}

/// Over MQTT, with the gateway speaking `ours` and the requester `theirs`.
async fn over_mqtt(ours: u8, theirs: u8) {
    let broker = Broker::start("").await;
    let setup = Setup::new(broker.port).set("mqtt.version", i64::from(ours));
    let gateway = setup.start().await;
    let mut requester = Requester::start(broker.port, theirs).await;
    subscribed(&gateway, &mut requester).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;

    // Without an id the gateway draws one.
    requester.ask("kiln-3", &request()).await;
    let drawn = does_it(&mut device).await;
    let result = requester.result("kiln-3", &drawn).await;
    is_whole(&result, &drawn, "kiln-3");
    is_kept(&gateway.record("kiln-3", &drawn).await, &drawn, "mqtt");

    // With one it is kept.
    let mut named = request();
    named["id"] = "p-17".into();
    requester.ask("kiln-3", &named).await;
    assert_eq!(does_it(&mut device).await, "p-17");
    is_whole(&requester.result("kiln-3", "p-17").await, "p-17", "kiln-3");
    let results = requester.on(&results_of("kiln-3"));
    assert_eq!(results.len(), 2, "each is told once: {results:?}");
    assert!(results.iter().all(|result| result.correlation.is_none()), "{results:?}");
}

#[tokio::test]
async fn a_command_goes_its_way_over_mqtt_5() {
    over_mqtt(5, 5).await;
}

#[tokio::test]
async fn a_command_goes_its_way_over_mqtt_3_1_1() {
    over_mqtt(4, 4).await;
}

#[tokio::test]
async fn a_response_topic_gets_the_same_result_with_its_correlation_data() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    requester.ask_for("kiln-3", &request(), "answers/mine").await;
    let id = does_it(&mut device).await;
    let answers = requester.wait("answers/mine", 1).await;
    is_whole(&answers[0].json(), &id, "kiln-3");
    assert_eq!(answers[0].correlation.as_deref(), Some(&b"\x00\xffc"[..]));
    let result = requester.result("kiln-3", &id).await;
    assert_eq!(result, answers[0].json());
    let record = gateway.record("kiln-3", &id).await;
    is_kept(&record, &id, "mqtt");
    let response = json!({"topic": "answers/mine", "correlation": "AP9j"});
    assert_eq!(record["requester"]["response"], response);
}

#[tokio::test]
async fn http_answers_202_with_the_command_and_where_to_look_for_it() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    let answer = gateway.try_ask("kiln-3", &request()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let command = answer.json();
    let id = command["id"].as_str().unwrap();
    assert_eq!((&command["state"], &command["device"]), (&json!("queued"), &json!("kiln-3")));
    assert_eq!(command["requester"]["name"], "127.0.0.1");
    let location = answer.header("location").unwrap();
    assert_eq!(gateway.get(location).await.json(), command);
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    assert_eq!(does_it(&mut device).await, id);
    is_whole(&requester.result("kiln-3", id).await, id, "kiln-3");
    is_kept(&gateway.get(location).await.json(), id, "http");
}

#[tokio::test]
async fn http_holds_the_answer_for_as_long_as_wait_says() {
    let (_broker, gateway, _requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let asked = request();
    let (command, id) = tokio::join!(gateway.ask_and_wait("kiln-3", &asked), does_it(&mut device));
    is_kept(&command, &id, "http");
    let path = format!("{}?wait=0.1", commands_path("kiln-3"));
    let answer = gateway.post(&path, &[], &request().to_string()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(states(&answer.json()), ["queued", "delivered"], "it is not done yet");
    // A failure is a result as well.
    let id = device.asked().await.id;
    device.result(&id, false, "the relay is stuck").await;
    let failed = gateway.until_state("kiln-3", &id, "failed").await;
    assert_eq!((&failed["error"], &failed["value"]), (&json!("the relay is stuck"), &Json::Null));
}

#[tokio::test]
async fn tidegate_send_prints_the_id_or_waits_for_the_value() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let arguments = ["kiln-3", "set-output", r#"{"channel":2,"on":true}"#];
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();

    let output = gateway.send(&arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let id = does_it(&mut device).await;
    assert_eq!(text(&output.stdout), format!("{id}\n"));
    is_whole(&requester.result("kiln-3", &id).await, &id, "kiln-3");
    is_kept(&gateway.record("kiln-3", &id).await, &id, "cli");

    let waiting = [&arguments[..], &["--wait", "30", "--id", "mine"]].concat();
    let (output, id) = tokio::join!(gateway.send(&waiting), does_it(&mut device));
    assert_eq!((output.status.code(), id.as_str()), (Some(0), "mine"), "{output:?}");
    assert_eq!(text(&output.stdout), "{\"was\":false}\n");

    let fails = async {
        let id = device.asked().await.id;
        device.result(&id, false, "the relay is stuck").await;
    };
    let (output, ()) = tokio::join!(gateway.send(&["kiln-3", "identify", "--wait", "30"]), fails);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(text(&output.stderr).contains("is failed: the relay is stuck"), "{output:?}");

    let output = gateway.send(&["away", "identify", "--ttl", "1", "--wait", "30"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(text(&output.stderr).contains("is expired: not sent within its ttl"), "{output:?}");

    let output = gateway.send(&["no/such", "identify"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let output = gateway.send(&["kiln-3", "identify", "on"]).await;
    assert_eq!(output.status.code(), Some(2), "wrong usage: {output:?}");
}

#[tokio::test]
async fn the_ledger_is_listed_newest_first_by_device_and_state() {
    let (_broker, gateway, _requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("a").open(Some(1)).await;
    for (device, id) in [("a", "1"), ("b", "1"), ("a", "2"), ("b", "3")] {
        gateway.ask(device, &json!({"name": "identify", "id": id})).await;
    }
    device.asked_for("1").await;
    device.result("1", true, Value::Null).await;
    device.asked_for("2").await;
    gateway.until_state("a", "1", "done").await;
    let listed = async |query: &str| -> Vec<(String, String)> {
        let text = |json: &Json| json.as_str().unwrap().to_owned();
        let all = gateway.commands(query).await;
        all.iter().map(|record| (text(&record["device"]), text(&record["id"]))).collect()
    };
    let pairs = |of: &[(&str, &str)]| -> Vec<(String, String)> {
        of.iter().map(|(device, id)| ((*device).into(), (*id).into())).collect()
    };
    assert_eq!(listed("").await, pairs(&[("b", "3"), ("a", "2"), ("b", "1"), ("a", "1")]));
    assert_eq!(listed("?device=a").await, pairs(&[("a", "2"), ("a", "1")]));
    assert_eq!(listed("?state=queued").await, pairs(&[("b", "3"), ("b", "1")]));
    assert_eq!(listed("?device=a&state=delivered").await, pairs(&[("a", "2")]));
    assert_eq!(listed("?state=done&limit=1").await, pairs(&[("a", "1")]));
    assert_eq!(listed("?device=nobody").await, []);
    // Without the device, the newest of that id.
    assert_eq!(gateway.get("/api/v1/commands/1").await.json()["device"], "b");
    let bad = gateway.get("/api/v1/commands?state=gone").await;
    assert_eq!(bad.status, 400);
    assert!(bad.json()["error"].as_str().unwrap().contains("queued, delivered"), "{bad:?}");
    let missing = gateway.get("/api/v1/commands/none").await;
    assert_eq!(missing.status, 404);
    assert!(missing.json()["error"].is_string());
}

#[tokio::test]
async fn the_feed_and_the_metrics_tell_each_state() {
    let (_broker, gateway, _requester) = start(|setup| setup).await;
    let address = format!("127.0.0.1:{}", gateway.dashboard);
    let socket = TcpStream::connect(&address).await.unwrap();
    let uri = format!("ws://{address}/api/v1/stream");
    let feed = within("the feed", tokio_tungstenite::client_async(uri, socket)).await;
    let mut feed = feed.unwrap().0;
    let mut next = async |id: &str, state: &str| {
        within(&format!("{id} is {state} in the feed"), async {
            loop {
                let Message::Text(text) = feed.next().await.unwrap().unwrap() else { continue };
                let json: Json = serde_json::from_str(&text).unwrap();
                if json["type"] == "command" && json["id"] == id && json["state"] == state {
                    return json;
                }
            }
        })
        .await
    };
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "a"})).await;
    assert_eq!(states(&next("a", "queued").await), ["queued"]);
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    device.asked_for("a").await;
    next("a", "delivered").await;
    device.result("a", true, 5).await;
    let shown = next("a", "done").await;
    assert_eq!((&shown["device"], &shown["value"]), (&json!("kiln-3"), &json!(5)));
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "b"})).await;
    device.asked_for("b").await;
    device.result("b", false, "no").await;
    next("b", "failed").await;
    gateway.ask("away", &json!({"name": "identify", "id": "c", "ttl": 1})).await;
    next("c", "expired").await;
    counts(&gateway, [("queued", 3), ("delivered", 2), ("done", 1), ("failed", 1), ("expired", 1)])
        .await;
}

async fn counts(gateway: &Gateway, expected: [(&str, u64); 5]) {
    for (state, count) in expected {
        let name = format!("tidegate_commands_total{{state=\"{state}\"}}");
        until(&format!("{name} is {count}"), async || gateway.metric(&name).await == count).await;
    }
}
