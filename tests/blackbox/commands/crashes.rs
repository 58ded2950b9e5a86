//! The gateway killed at every step of a command's life: nothing is lost, ids stay, what may be sent
//! again is, and what may not is not.

use serde_json::{Value as Json, json};

use super::subscribed;
use crate::harness::{
    Bench, Device, Gateway, Mode, Requester, Value, Witnessed, results_of, states, until,
};

async fn crash(gateway: &mut Gateway) {
    gateway.kill();
    gateway.start().await;
}

/// Two commands, the second of which must not be sent twice.
async fn ask_two(gateway: &Gateway) {
    gateway.ask("kiln-3", &json!({"name": "identify", "id": "again"})).await;
    gateway.ask("kiln-3", &json!({"name": "fire", "id": "once", "redeliver": false})).await;
}

async fn comes_back(gateway: &Gateway) -> Device {
    gateway.device("kiln-3").open(Some(1)).await.0
}

#[tokio::test]
async fn after_it_was_accepted_it_waits_for_the_device_over_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    ask_two(&bench.gateway).await;
    crash(&mut bench.gateway).await;
    crash(&mut bench.gateway).await;
    let mut device = comes_back(&bench.gateway).await;
    for id in ["again", "once"] {
        device.asked_for(id).await;
        device.result(id, true, 1).await;
        let record = bench.gateway.until_state("kiln-3", id, "done").await;
        assert_eq!(states(&record), ["queued", "delivered", "done"]);
        assert_eq!((&record["requester"]["via"], &record["sent"]), (&json!("http"), &json!(1)));
    }
}

#[tokio::test]
async fn after_it_was_sent_only_what_may_be_is_sent_again_over_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    ask_two(&bench.gateway).await;
    let mut device = comes_back(&bench.gateway).await;
    device.asked_for("again").await;
    device.asked_for("once").await;
    for _ in 0..2 {
        crash(&mut bench.gateway).await;
        device = comes_back(&bench.gateway).await;
        let asked = device.asked_for("again").await;
        assert_eq!(asked.name, "identify");
    }
    // What is asked now comes next: "once" is not before it.
    bench.gateway.ask("kiln-3", &json!({"name": "identify", "id": "new"})).await;
    device.asked_for("new").await;
    device.nothing_more(1).await;
    // The answer to it is as good over another connection.
    for id in ["again", "once", "new"] {
        device.result(id, true, 1).await;
        bench.gateway.until_state("kiln-3", id, "done").await;
    }
    let once = bench.gateway.record("kiln-3", "once").await;
    assert_eq!(states(&once), ["queued", "delivered", "done"]);
}

#[tokio::test]
async fn a_result_that_a_requester_was_told_is_there_after_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    for round in 0..6 {
        // The disk has to be quick enough every time for nothing to show; the crash comes at once.
        let id = format!("r{round}");
        let request = json!({"name": "fire", "id": id, "redeliver": false});
        let mut device = comes_back(&bench.gateway).await;
        let answers = async {
            device.asked_for(&id).await;
            device.result(&id, true, round).await;
        };
        let (told, ()) = tokio::join!(bench.gateway.ask_and_wait("kiln-3", &request), answers);
        assert_eq!(told["state"], "done");
        crash(&mut bench.gateway).await;
        let record = bench.gateway.record("kiln-3", &id).await;
        assert_eq!((&record["state"], &record["value"]), (&json!("done"), &json!(round)));
        assert_eq!(record["history"], told["history"]);
    }
}

/// The states that the broker was told of `id`, in order; only those that it took, or all.
fn told(bench: &Bench, id: &str, taken: bool) -> Vec<Json> {
    let wanted = |seen: &&Witnessed| seen.is_result() && (!taken || seen.accepted());
    let all =
        bench.proxy.look(|all| all.iter().filter(wanted).map(Witnessed::json).collect::<Vec<_>>());
    all.into_iter().filter(|json| json["id"] == id).collect()
}

#[tokio::test]
async fn a_result_without_puback_is_published_again_over_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    let mut requester = Requester::start(bench.broker.port, 5).await;
    subscribed(&bench.gateway, &mut requester).await;
    let mut device = comes_back(&bench.gateway).await;
    bench.proxy.set(Mode::SwallowAcks);
    requester.ask_for("kiln-3", &json!({"name": "fire", "id": "a"}), "answers/a").await;
    device.asked_for("a").await;
    device.result("a", true, 5).await;
    bench.proxy.until("the result is published", |all| all.iter().any(Witnessed::is_result)).await;
    requester.wait("answers/a", 1).await;
    bench.gateway.kill();
    bench.proxy.set(Mode::Forward);
    bench.gateway.start().await;
    until("the result again", async || told(&bench, "a", true).len() >= 2).await;
    let answers = requester.wait("answers/a", 2).await;
    assert_eq!(answers[0].payload, answers[1].payload, "the same, to the byte");
    assert_eq!(answers[0].correlation, answers[1].correlation);
    assert!(told(&bench, "a", false).windows(2).all(|pair| pair[0] == pair[1]));
    // The device is not asked again.
    let mut device = comes_back(&bench.gateway).await;
    device.nothing_more(1).await;
}

#[tokio::test]
async fn a_result_while_the_broker_is_away_is_published_after_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    let mut device = comes_back(&bench.gateway).await;
    bench.proxy.set(Mode::Away);
    let request = json!({"name": "fire", "id": "a", "redeliver": false});
    let answers = async {
        device.asked_for("a").await;
        device.result("a", false, "too hot").await;
    };
    let (_, ()) = tokio::join!(bench.gateway.ask_and_wait("kiln-3", &request), answers);
    crash(&mut bench.gateway).await;
    assert!(told(&bench, "a", false).is_empty());
    bench.proxy.set(Mode::Forward);
    until("the result", async || !told(&bench, "a", true).is_empty()).await;
    let result = &told(&bench, "a", true)[0];
    assert_eq!((&result["state"], &result["error"]), (&json!("failed"), &json!("too hot")));
}

#[tokio::test]
async fn a_result_with_puback_stays_as_it_is_over_a_crash() {
    let mut bench = Bench::start(|setup| setup).await;
    let mut device = comes_back(&bench.gateway).await;
    bench.gateway.ask("kiln-3", &json!({"name": "fire", "id": "a"})).await;
    device.asked_for("a").await;
    device.result("a", true, 5).await;
    until("the result", async || !told(&bench, "a", true).is_empty()).await;
    let before = bench.gateway.record("kiln-3", "a").await;
    crash(&mut bench.gateway).await;
    assert_eq!(bench.gateway.record("kiln-3", "a").await, before);
    let mut device = comes_back(&bench.gateway).await;
    // It comes after whatever the crash may have left to say, as results come in order.
    bench.gateway.ask("kiln-3", &json!({"name": "fire", "id": "b"})).await;
    device.asked_for("b").await;
    device.result("b", true, Value::Null).await;
    until("the next result", async || !told(&bench, "b", true).is_empty()).await;
    let results = told(&bench, "a", false);
    assert!((1..=2).contains(&results.len()), "once, or once more: {results:?}");
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    assert_eq!(told(&bench, "b", false).len(), 1);
    // A gateway that ends in order leaves nothing to be said twice.
    bench.gateway.stop().await;
    bench.gateway.start().await;
    bench.gateway.until_uplink("connected").await;
    let mut device = comes_back(&bench.gateway).await;
    bench.gateway.ask("kiln-3", &json!({"name": "fire", "id": "c"})).await;
    device.asked_for("c").await;
    device.result("c", true, Value::Null).await;
    until("the last result", async || !told(&bench, "c", true).is_empty()).await;
    assert_eq!((told(&bench, "a", false), told(&bench, "b", false).len()), (results, 1));
}

#[tokio::test]
async fn a_request_that_the_gateway_never_read_comes_after_a_crash() {
    for version in [5, 4] {
        let mut bench = Bench::start(|setup| setup.set("mqtt.version", i64::from(version))).await;
        let mut requester = Requester::start(bench.broker.port, version).await;
        subscribed(&bench.gateway, &mut requester).await;
        bench.gateway.signal(rustix::process::Signal::STOP);
        requester.ask("kiln-3", &json!({"name": "fire", "id": "read", "ttl": 600})).await;
        bench.gateway.kill();
        requester.ask("kiln-3", &json!({"name": "fire", "id": "waited", "ttl": 600})).await;
        bench.gateway.start().await;
        for id in ["read", "waited"] {
            bench.gateway.until_state("kiln-3", id, "queued").await;
        }
        let mut device = comes_back(&bench.gateway).await;
        device.asked_for("read").await;
        device.asked_for("waited").await;
        device.nothing_more(1).await;
        assert_eq!(bench.gateway.commands("").await.len(), 2);
    }
}

#[tokio::test]
async fn a_request_whose_puback_was_lost_with_a_crash_is_carried_out_once() {
    let mut bench = Bench::start(|setup| setup).await;
    let mut requester = Requester::start(bench.broker.port, 5).await;
    subscribed(&bench.gateway, &mut requester).await;
    bench.proxy.set(Mode::SwallowConfirms);
    requester.ask("kiln-3", &json!({"name": "fire", "id": "a", "ttl": 600})).await;
    until("the gateway acknowledges it", async || bench.proxy.swallowed() == 1).await;
    bench.gateway.kill();
    bench.proxy.set(Mode::Forward);
    bench.gateway.start().await;
    let repeated = "tidegate_command_requests_repeated_total";
    until("it comes again", async || bench.gateway.metric(repeated).await == 1).await;
    let mut device = comes_back(&bench.gateway).await;
    device.asked_for("a").await;
    device.result("a", true, Value::Null).await;
    until("the result", async || {
        requester.on(&results_of("kiln-3")).iter().any(|told| told.json()["state"] == "done")
    })
    .await;
    device.nothing_more(1).await;
    assert_eq!(bench.gateway.commands("").await.len(), 1);
}
