//! The bounds: commands in flight on a connection, commands in the ledger, and the disk.

use serde_json::json;

use super::{start, subscribed};
use crate::harness::{
    Broker, Disk, FromGateway, Requester, Setup, Value, readings, record, results_of, states, until,
};

#[tokio::test]
async fn no_more_than_the_limit_are_in_flight_and_the_oldest_goes_first() {
    let (_broker, gateway, _requester) =
        start(|setup| setup.set("commands.max_in_flight", 2)).await;
    // The third was asked for while the device was away, the last two while it was there.
    for id in ["1", "2", "3"] {
        gateway.ask("kiln-3", &json!({"name": "fire", "id": id})).await;
    }
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let once = json!({"name": "fire", "id": "4", "redeliver": false});
    gateway.ask("kiln-3", &once).await;
    gateway.ask("kiln-3", &json!({"name": "fire", "id": "5"})).await;
    device.asked_for("1").await;
    device.asked_for("2").await;
    device.nothing_more(1).await;
    assert_eq!(gateway.commands("?state=queued").await.len(), 3);
    // Another device has room of its own.
    let (mut other, _) = gateway.device("kiln-4").open(Some(1)).await;
    gateway.ask("kiln-4", &json!({"name": "fire", "id": "1"})).await;
    other.asked_for("1").await;
    device.result("2", true, Value::Null).await;
    device.asked_for("3").await;
    device.nothing_more(2).await;
    // A failure makes room as well.
    device.result("1", false, "no").await;
    device.asked_for("4").await;
    device.nothing_more(3).await;
    // What was sent to a connection that is gone does not count, and comes again, oldest first.
    drop(device);
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    device.asked_for("3").await;
    device.asked_for("5").await;
    device.result("4", true, Value::Null).await;
    device.result("3", true, Value::Null).await;
    device.result("5", true, Value::Null).await;
    for id in ["2", "3", "4", "5"] {
        gateway.until_state("kiln-3", id, "done").await;
    }
    assert_eq!(gateway.record("kiln-3", "4").await["sent"], 1);
    assert_eq!(gateway.metric("tidegate_commands_redelivered_total").await, 1);
}

#[tokio::test]
async fn a_full_ledger_forgets_the_oldest_finished_and_refuses_when_there_is_none() {
    let (_broker, gateway, mut requester) = start(|setup| setup.set("commands.max_count", 3)).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    for id in ["a", "b", "c"] {
        gateway.ask("kiln-3", &json!({"name": "fire", "id": id})).await;
        device.asked_for(id).await;
    }
    // Those who ask on each way are told.
    let request = json!({"name": "fire", "id": "d"});
    let answer = gateway.try_ask("kiln-3", &request).await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"].as_str().unwrap().starts_with("ledger full"), "{answer:?}");
    requester.ask_for("kiln-3", &request, "answers/d").await;
    let told = requester.wait("answers/d", 1).await[0].clone();
    assert_eq!(told.correlation.as_deref(), Some(&b"\x00\xffc"[..]));
    requester.ask("kiln-3", &request).await;
    for told in [told.json(), requester.result("kiln-3", "d").await] {
        assert_eq!((&told["state"], &told["id"]), (&json!("rejected"), &json!("d")));
        assert_eq!((&told["device"], &told["name"]), (&json!("kiln-3"), &json!("fire")));
        assert!(told["error"].as_str().unwrap().starts_with("ledger full"), "{told}");
    }
    let output = gateway.send(&["kiln-3", "fire", "--id", "d"]).await;
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ledger full"), "{output:?}");
    assert_eq!(gateway.metric("tidegate_command_requests_refused_total").await, 4);
    // b ends first, then a: they go in this order.
    for id in ["b", "a"] {
        device.result(id, true, Value::Null).await;
        requester.result("kiln-3", id).await;
    }
    for (new, kept) in [("e", vec!["e", "c", "a"]), ("f", vec!["f", "e", "c"])] {
        gateway.ask("kiln-3", &json!({"name": "fire", "id": new})).await;
        device.asked_for(new).await;
        let ids = gateway.commands("").await;
        let ids: Vec<_> = ids.iter().map(|record| record["id"].as_str().unwrap()).collect();
        assert_eq!(ids, kept);
    }
    assert_eq!(gateway.get("/api/v1/commands/b").await.status, 404);
    assert_eq!(gateway.try_ask("kiln-3", &json!({"name": "fire"})).await.status, 503);
    // What has gone is forgotten: its id is free again, its result unknown.
    device.result("b", true, Value::Null).await;
    device.nothing_more(1).await;
    until("it is counted", async || gateway.metric("tidegate_results_unknown_total").await == 1)
        .await;
}

#[tokio::test]
async fn a_full_disk_refuses_requests_says_why_and_recovers_by_itself() {
    let Some(disk) = Disk::ext4(16) else { return };
    let broker = Broker::start("").await;
    let gateway = Setup::new(broker.port).set("gateway.data_dir", disk.data()).start().await;
    let mut requester = Requester::start(broker.port, 5).await;
    subscribed(&gateway, &mut requester).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    gateway.ask("kiln-3", &json!({"name": "fire", "id": "before"})).await;
    device.asked_for("before").await;
    disk.fill();
    // Until it is noticed, what the file system had given already may be used up.
    let mut refused = None;
    until("a request is refused", async || {
        let params = "x".repeat(4000);
        let answer = gateway.try_ask("kiln-9", &json!({"name": "fill", "params": params})).await;
        refused = (answer.status != 202).then_some(answer);
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503);
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("cannot be stored"), "{error}");
    let request = json!({"name": "fire", "id": "full"});
    requester.ask_for("kiln-3", &request, "answers/full").await;
    let told = requester.wait("answers/full", 1).await[0].json();
    assert_eq!((&told["state"], &told["id"]), (&json!("rejected"), &json!("full")));
    assert!(told["error"].as_str().unwrap().contains("cannot be stored"), "{told}");
    // Readings need no disk while the broker is there.
    device.send(&readings(Some(1), Value::Array(vec![record("x", 1.0, 0.0)]))).await;
    loop {
        match device.next().await {
            FromGateway::Ack(1) => break,
            FromGateway::Command(asked) => panic!("{asked:?} was never accepted"),
            _ => {}
        }
    }
    disk.make_room();
    until("requests are taken again", async || {
        gateway.try_ask("kiln-3", &request).await.status == 202
    })
    .await;
    device.asked_for("full").await;
    for id in ["before", "full"] {
        device.result(id, true, Value::Null).await;
        let record = gateway.until_state("kiln-3", id, "done").await;
        assert_eq!(states(&record), ["queued", "delivered", "done"]);
    }
    let told = requester.wait(&results_of("kiln-3"), 2).await;
    assert!(told.iter().any(|told| told.json()["id"] == "before"));
}
