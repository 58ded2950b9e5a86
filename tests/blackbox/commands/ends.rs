//! The ends that are not simply "done": too late, twice, unknown, failed.

use serde_json::json;

use super::start;
use crate::harness::{Publish, Requester, Value, results_of, states, until};

#[tokio::test]
async fn a_command_for_a_device_that_stays_away_expires_and_says_so() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "a", "ttl": 1})).await;
    let result = requester.result("kiln-3", "a").await;
    assert_eq!(result["state"], "expired");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("not sent within its ttl of 1 s"), "{error}");
    assert!(error.contains("away"), "{error}");
    let record = gateway.record("kiln-3", "a").await;
    assert_eq!((states(&record), &record["sent"]), (vec!["queued", "expired"], &json!(0)));
    let took = record["time"].as_f64().unwrap() - record["accepted"].as_f64().unwrap();
    assert!(took >= 1.0, "its time was {took} s");
    // It is not sent any more.
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "b"})).await;
    device.asked_for("b").await;
}

#[tokio::test]
async fn a_command_without_result_expires_and_its_late_result_still_counts() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    gateway.ask("kiln-3", &json!({"name": "open", "id": "a", "ttl": 1})).await;
    let once = json!({"name": "open", "id": "b", "ttl": 1, "redeliver": false});
    gateway.ask("kiln-3", &once).await;
    assert_eq!(device.asked_for("a").await.ttl, 1);
    device.asked_for("b").await;
    for (id, words) in [("a", "sent once, no RESULT"), ("b", "whether the device got it is not")] {
        let result = requester.result("kiln-3", id).await;
        assert_eq!(result["state"], "expired");
        assert!(result["error"].as_str().unwrap().contains(words), "{result}");
    }
    device.result("a", true, 7).await;
    device.result("b", false, "too cold").await;
    let record = gateway.until_state("kiln-3", "a", "done").await;
    assert_eq!(states(&record), ["queued", "delivered", "expired", "done"]);
    assert_eq!((&record["history"][3]["late"], &record["error"]), (&json!(true), &json!(null)));
    gateway.until_state("kiln-3", "b", "failed").await;
    let told = requester.wait(&results_of("kiln-3"), 4).await;
    let told: Vec<_> = told.iter().map(Publish::json).collect();
    let mut expected = [("a", "expired"), ("b", "expired"), ("a", "done"), ("b", "failed")];
    let seen: Vec<_> = told.iter().map(|json| (&json["id"], &json["state"])).collect();
    expected.sort_unstable();
    for (id, state) in expected {
        assert!(seen.contains(&(&json!(id), &json!(state))), "{seen:?}");
    }
    assert_eq!((told.len(), &told[2]["value"]), (4, &json!(7)));
    assert_eq!(gateway.metric("tidegate_results_late_total").await, 2);
}

#[tokio::test]
async fn a_result_is_believed_once_and_only_from_the_device_that_was_asked() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let (mut other, _) = gateway.device("kiln-4").open(Some(1)).await;
    gateway.ask("kiln-3", &json!({"name": "open", "id": "a"})).await;
    device.asked_for("a").await;
    // Not the other's to answer, and nobody has asked for "x".
    other.result("a", true, 1).await;
    other.nothing_more(1).await;
    device.result("x", true, 2).await;
    device.result("a", true, 3).await;
    device.result("a", false, "no, it did not work").await;
    device.result("a", true, 4).await;
    device.nothing_more(1).await;
    until("the results are counted", async || {
        gateway.metric("tidegate_results_unknown_total").await == 2
            && gateway.metric("tidegate_results_duplicate_total").await == 2
    })
    .await;
    // A second command ends after all that: what comes before its result is all there is.
    gateway.ask("kiln-3", &json!({"name": "open", "id": "b"})).await;
    device.asked_for("b").await;
    device.result("b", true, Value::Null).await;
    requester.result("kiln-3", "b").await;
    let told = requester.on(&results_of("kiln-3"));
    assert_eq!((told.len(), &told[0].json()["value"]), (2, &json!(3)), "{told:?}");
    assert_eq!(requester.on(&results_of("kiln-4")).len(), 0);
    assert_eq!(states(&gateway.record("kiln-3", "a").await), ["queued", "delivered", "done"]);
    assert_eq!(gateway.commands("").await.len(), 2);
}

#[tokio::test]
async fn what_a_device_says_of_its_failure_is_told_in_its_words() {
    let (_broker, gateway, requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let code = Value::Map(vec![("code".into(), 17.into())]);
    let long = "ä".repeat(3000);
    let cut = "ä".repeat(1024);
    for (id, answer, value, error) in [
        ("a", "relay 2 is stuck".into(), json!(null), "relay 2 is stuck"),
        ("b", code, json!({"code": 17}), "{\"code\":17}"),
        ("c", Value::Null, json!(null), "the device gave no reason"),
        ("d", long.into(), json!(null), cut.as_str()),
    ] {
        gateway.ask("kiln-3", &json!({"name": "open", "id": id})).await;
        device.asked_for(id).await;
        device.result(id, false, answer).await;
        let result = requester.result("kiln-3", id).await;
        assert_eq!(
            (&result["state"], &result["value"], &result["error"]),
            (&json!("failed"), &value, &json!(error))
        );
    }
}

#[tokio::test]
async fn the_same_id_again_is_answered_with_the_first_ones_state_and_sent_once() {
    let (_broker, gateway, mut requester) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    let (mut other, _) = gateway.device("kiln-4").open(Some(1)).await;
    let request = json!({"name": "open", "id": "a", "params": 1});
    gateway.ask("kiln-3", &request).await;
    assert_eq!(device.asked_for("a").await.params, 1.into());
    // Whatever else it says, and over whichever way.
    let again = gateway.ask("kiln-3", &json!({"name": "close", "id": "a", "params": 2})).await;
    assert_eq!((&again["state"], &again["name"]), (&json!("delivered"), &json!("open")));
    requester.ask_for("kiln-3", &request, "answers/again").await;
    let answer = requester.wait("answers/again", 1).await[0].json();
    assert_eq!((&answer["id"], &answer["state"]), (&json!("a"), &json!("delivered")));
    let output = gateway.send(&["kiln-3", "open", "--id", "a"]).await;
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"a\n".to_vec()));
    // Of another device it is another command.
    gateway.ask("kiln-4", &json!({"name": "close", "id": "a"})).await;
    assert_eq!(other.asked_for("a").await.name, "close");
    other.result("a", false, "no").await;
    device.nothing_more(1).await;
    device.result("a", true, 9).await;
    gateway.until_state("kiln-3", "a", "done").await;
    assert_eq!(gateway.record("kiln-4", "a").await["state"], "failed");
    // Those who wait for it have the result at once.
    let waited = gateway.ask_and_wait("kiln-3", &request).await;
    assert_eq!((&waited["state"], &waited["value"]), (&json!("done"), &json!(9)));
    device.nothing_more(2).await;
    assert_eq!(gateway.commands("").await.len(), 2);
    assert_eq!(gateway.metric("tidegate_command_requests_repeated_total").await, 4);
}

#[tokio::test]
async fn many_who_ask_with_one_id_at_the_same_moment_are_told_of_one_command() {
    let (broker, gateway, mut requester) = start(|setup| setup).await;
    let mut another = Requester::start(broker.port, 4).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(1)).await;
    for round in 1..=5 {
        let id = format!("r{round}");
        let request = json!({"name": "open", "id": id});
        let asking =
            futures_util::future::join_all((0..8).map(|_| gateway.ask("kiln-3", &request)));
        let (told, (), ()) = tokio::join!(
            asking,
            requester.ask("kiln-3", &request),
            another.ask("kiln-3", &request)
        );
        assert!(told.iter().all(|one| one["accepted"] == told[0]["accepted"]), "{told:?}");
        device.asked_for(&id).await;
        device.result(&id, true, Value::Null).await;
        gateway.until_state("kiln-3", &id, "done").await;
        device.nothing_more(round).await;
    }
    until("all are counted", async || {
        gateway.metric("tidegate_command_requests_repeated_total").await == 5 * 9
    })
    .await;
    device.nothing_more(6).await;
    assert_eq!(gateway.commands("").await.len(), 5);
}
