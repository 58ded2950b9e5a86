//! What may be sent to whom: the registry's patterns and what a device announced.

use rustix::process::Signal;
use serde_json::{Value as Json, json};

use super::start;
use crate::harness::{FromGateway, Gateway, Requester, Setup, Value, hello, states, until};

/// Asked on each way, the device's command is rejected, with `words` as the reason.
async fn rejected(
    gateway: &Gateway,
    requester: &mut Requester,
    device: &str,
    name: &str,
    words: &str,
) {
    let good = |told: &Json| {
        assert_eq!(told["state"], "rejected", "{told}");
        assert!(told["error"].as_str().unwrap().contains(words), "{told} has no {words:?}");
    };
    let ids = ["http", "mqtt", "answered", "cli"].map(|way| format!("{way}-{name}"));
    let [http, mqtt, answered, cli] = ids.each_ref().map(String::as_str);
    let request = |id: &str| json!({"name": name, "id": id});
    good(&gateway.ask(device, &request(http)).await);
    requester.ask(device, &request(mqtt)).await;
    let topic = format!("answers/{answered}-{device}");
    requester.ask_for(device, &request(answered), &topic).await;
    good(&requester.wait(&topic, 1).await[0].json());
    let output = gateway.send(&[device, name, "--id", cli]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("is rejected") && error.contains(words), "{error}");
    for id in [http, mqtt, answered, cli] {
        good(&requester.result(device, id).await);
        let record = gateway.record(device, id).await;
        good(&record);
        assert_eq!(states(&record), ["rejected"]);
    }
}

#[tokio::test]
async fn the_registry_says_what_a_device_may_be_sent() {
    let (_broker, gateway, mut requester) = start(Setup::with_tokens).await;
    let token = gateway.add("kiln-3", &["--commands", "identify", "--commands", "set-*"]);
    gateway.signal(Signal::HUP);
    let connector = gateway.device("kiln-3").token(&token);
    // Known and permitted, once the gateway has read the registry again.
    until("the device is known", async || {
        gateway.ask("kiln-3", &json!({"name": "identify"})).await["state"] == "queued"
    })
    .await;
    let words = "its registry entry permits identify, set-*";
    rejected(&gateway, &mut requester, "kiln-3", "reboot", words).await;
    rejected(&gateway, &mut requester, "kiln-4", "identify", "no device kiln-4 is registered")
        .await;
    let good = gateway.ask("kiln-3", &json!({"name": "set-output", "id": "good"})).await;
    assert_eq!(good["state"], "queued");
    let (mut device, _) = connector.open(Some(1)).await;
    assert_eq!(device.asked().await.name, "identify");
    device.asked_for("good").await;
    device.nothing_more(1).await;
}

#[tokio::test]
async fn what_a_device_announced_is_all_that_it_is_sent() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    // Nobody knows yet what it understands.
    gateway.ask("kiln-3", &json!({"name": "reboot", "id": "early"})).await;
    let names = |names: &[&str]| Value::Array(names.iter().map(|&name| name.into()).collect());
    let announced = names(&["identify", "set-output"]);
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(Some(1), &[("commands", announced)])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    let words = "does not know \"reboot\": it announced identify, set-output";
    let early = requester.result("kiln-3", "early").await;
    assert_eq!(early["state"], "rejected");
    assert!(early["error"].as_str().unwrap().contains(words), "{early}");
    assert_eq!(states(&gateway.record("kiln-3", "early").await), ["queued", "rejected"]);
    rejected(&gateway, &mut requester, "kiln-3", "reboot", words).await;
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "good"})).await;
    device.asked_for("good").await;
    // An empty list says nothing, as none does.
    drop(device);
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(Some(1), &[("commands", names(&[]))])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    device.asked_for("good").await;
    gateway.ask("kiln-3", &json!({"name": "reboot", "id": "now"})).await;
    device.asked_for("now").await;
}

#[tokio::test]
async fn a_registry_that_changes_while_a_command_waits_is_asked_again() {
    let (_broker, gateway, requester) = start(Setup::with_tokens).await;
    let token = gateway.add("kiln-3", &["--commands", "fire", "--commands", "identify"]);
    gateway.add("kiln-4", &[]);
    gateway.signal(Signal::HUP);
    for device in ["kiln-3", "kiln-4"] {
        until("the device is known", async || {
            gateway.ask(device, &json!({"name": "identify", "id": "first"})).await;
            let probe = gateway.ask(device, &json!({"name": "identify"})).await;
            probe["state"] == "queued"
        })
        .await;
        gateway.ask(device, &json!({"name": "fire", "id": "f", "ttl": 600})).await;
    }
    let path = gateway.dir().join("devices.toml");
    let registry = std::fs::read_to_string(&path).unwrap();
    let changed = registry.replacen("\"fire\"", "\"water\"", 1);
    assert_ne!(registry, changed);
    std::fs::write(&path, changed).unwrap();
    let removed = gateway.command(&["device", "remove", "kiln-4"]);
    assert!(removed.status.success(), "{removed:?}");
    gateway.signal(Signal::HUP);
    until("the registry is read", async || {
        let probe = gateway.ask("kiln-3", &json!({"name": "fire"})).await;
        let gone = gateway.ask("kiln-4", &json!({"name": "identify"})).await;
        probe["state"] == "rejected" && gone["state"] == "rejected"
    })
    .await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(Some(1)).await;
    let result = requester.result("kiln-3", "f").await;
    assert_eq!(result["state"], "rejected");
    let words = "may not be sent \"fire\": its registry entry permits water, identify";
    assert!(result["error"].as_str().unwrap().contains(words), "{result}");
    // What is still permitted comes, and nothing else.
    assert_eq!(device.asked().await.name, "identify");
    for record in gateway.commands("?device=kiln-3&state=delivered").await {
        assert_eq!(record["name"], "identify");
    }
    // The device that was removed cannot come back; its command waits for its ttl.
    assert_eq!(gateway.record("kiln-4", "f").await["state"], "queued");
}
