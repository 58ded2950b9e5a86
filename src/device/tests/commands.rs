//! COMMAND to the device, RESULT from it.

use std::time::Duration;

use ciborium::Value;

use super::harness::*;
use crate::config::Devices;
use crate::core::batch::value_weight;
use crate::core::frame::{DeviceMessage, GatewayMessage};
use crate::ports::{DeviceEvent, Outbound, Resume};

fn command(id: &str, ttl: u64) -> Outbound {
    Outbound::Command {
        id: id.to_owned(),
        name: "set-output".to_owned(),
        params: Value::Array(vec![Value::from(3), Value::Bool(true)]),
        ttl,
    }
}

fn result(id: &str, ok: bool, value: Value) -> Vec<u8> {
    DeviceMessage::Result { id: id.to_owned(), ok, value }.encode()
}

#[tokio::test]
async fn commands_are_sent_in_order_and_the_time_left_is_never_zero() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    for (id, ttl) in [("c1", 60), ("c2", 0), ("c3", 604_800)] {
        link.send(command(id, ttl));
    }
    for (id, ttl) in [("c1", 60), ("c2", 1), ("c3", 604_800)] {
        let sent = GatewayMessage::Command {
            id: id.to_owned(),
            name: "set-output".to_owned(),
            params: Value::Array(vec![Value::from(3), Value::Bool(true)]),
            ttl,
        };
        assert_eq!(client.receive().await, sent);
    }
}

#[tokio::test]
async fn a_command_that_waited_for_the_device_comes_after_welcome() {
    let mut bench = Bench::start(&settings(), parse(""));
    for round in 0..20 {
        let mut client = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
        client.send(&hello(Some(7))).await;
        let opened = bench.opened().await;
        // All before the connection gets its turn.
        opened.link.send(command("early", 60));
        opened.welcome.send(Resume { epoch: 7, acked: round }).unwrap();
        opened.link.send(command("late", 60));
        assert_eq!(client.welcome().await.acked, round);
        for expected in ["early", "late"] {
            let GatewayMessage::Command { id, .. } = client.receive().await else { panic!() };
            assert_eq!(id, expected);
        }
        drop(client);
        bench.closed().await;
    }
}

#[tokio::test]
async fn results_reach_the_engine_in_order_with_what_they_say() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    let words = Value::Text("valve is stuck".to_owned());
    client
        .send_together([
            readings(Some(1), "a"),
            result("c1", true, Value::Null),
            readings(Some(2), "a"),
            result("c2", false, words.clone()),
        ])
        .await;
    let (mut results, mut seqs) = (Vec::new(), 0);
    while results.len() < 2 || seqs < 2 {
        match bench.event().await {
            DeviceEvent::Result { session, id, ok, value } => {
                assert_eq!(session, greeted.session);
                results.push((id, ok, value));
            }
            DeviceEvent::Batches { batches, .. } => seqs += batches.len(),
            other => panic!("{other:?}"),
        }
    }
    let expected = [("c1".to_owned(), true, Value::Null), ("c2".to_owned(), false, words)];
    assert_eq!(results, expected);
}

#[tokio::test]
async fn a_result_is_handed_on_though_the_device_leaves_at_once() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    client.send_bytes(result("c1", true, Value::from(5))).await;
    drop(client);
    let DeviceEvent::Result { id, .. } = bench.event().await else { panic!("no result") };
    assert_eq!(id, "c1");
    assert_eq!(bench.closed().await, greeted.session);
}

#[tokio::test]
async fn results_wait_for_the_memory_they_need_and_give_it_back() {
    const BUDGET: usize = 4000;
    let mut bench = Bench::start(&Devices { max_unsettled: BUDGET, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    // A hundred bytes each, but thousands in memory.
    let large = Value::Array(vec![Value::Null; 100]);
    let weight = value_weight(&large);
    assert!((BUDGET / 2..BUDGET).contains(&weight), "{weight}");
    client.send_together((0..5).map(|n| result(&n.to_string(), true, large.clone()))).await;
    let DeviceEvent::Result { id, .. } = bench.event().await else { panic!("no result") };
    assert_eq!(id, "0");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(bench.event_now().is_none(), "there is memory for one");
    bench.budget.give_back(weight);
    let DeviceEvent::Result { id, value, .. } = bench.event().await else { panic!("no result") };
    assert_eq!((id.as_str(), value), ("1", large));
    link.send(Outbound::Close { code: 4003, reason: "enough".to_owned() });
    assert_eq!(client.close_frame().await.0, 4003);
    bench.closed().await;
    bench.budget.give_back(weight);
    assert!(bench.budget.try_take(BUDGET), "all of it came back");
}
