//! What the broker gets: format, order, and nothing lost when it is away, silent or unwilling.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{
    Broker, Device, FromGateway, Gateway, Mode, Proxy, Setup, Subscriber, Value, as_floats,
    readings, record, unix_now, until,
};

const READINGS: &str = "tidegate/gw-test/devices/kiln-3/readings";
const LOSSES: &str = "tidegate/gw-test/losses";

/// A gateway, the watched way to its broker, and an ordinary consumer.
struct Bench {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    consumer: Subscriber,
}

impl Bench {
    async fn start(broker: &str, adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let broker = Broker::start(broker).await;
        let consumer = Subscriber::start(broker.port).await;
        let proxy = Proxy::start(broker.port).await;
        let gateway = adjust(Setup::new(proxy.port)).start().await;
        gateway.until_uplink("connected").await;
        Self { broker, proxy, gateway, consumer }
    }

    /// The seqs of one device as the consumer saw them, repeats removed.
    fn order(&self, device: &str) -> Vec<u64> {
        let topic = format!("tidegate/gw-test/devices/{device}/readings");
        let mut seqs = Vec::new();
        for message in self.consumer.on(&topic) {
            let seq = message.json()["seq"].as_u64().unwrap();
            if !seqs.contains(&seq) {
                seqs.push(seq);
            }
        }
        seqs
    }

    /// Waits until the consumer has `1..=last` of `device`, in order.
    async fn in_order(&self, device: &str, last: u64) {
        let what = format!("{last} batches of {device} at the consumer");
        until(&what, async || self.order(device).len() as u64 >= last).await;
        assert_eq!(self.order(device), (1..=last).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_batch_arrives_in_the_documented_envelope() {
    let bench = Bench::start("", |setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let before = unix_now();
    let pack = Value::Array(vec![
        record("kiln-3:temperature", 21.5, 1_763_800_000.0),
        record("door", 1.0, 1_763_800_001.0),
    ]);
    device.send(&readings(Some(42), pack)).await;
    device.acked(42).await;
    let message = &bench.consumer.wait(READINGS, 1).await[0];
    assert!(!message.retain);
    let json = message.json();
    let received = json["received"].as_f64().unwrap();
    assert!(received >= before - 0.01 && received <= unix_now() + 0.01);
    let expected = json!({
        "gateway": "gw-test", "device": "kiln-3", "epoch": 7, "seq": 42, "received": received,
        "readings": [
            {"n": "temperature", "v": 21.5, "t": 1_763_800_000.0},
            {"n": "door", "v": 1.0, "t": 1_763_800_001.0},
        ],
    });
    assert_eq!(as_floats(&json), as_floats(&expected), "these keys and no others");
}

#[tokio::test]
async fn while_the_uplink_keeps_pace_nothing_is_written_to_disk() {
    let bench = Bench::start("", |setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    let (files, metrics) = (bench.gateway.files(), bench.gateway.metrics().await);
    for seq in 2..=500 {
        device.reading(seq, 1.0).await;
    }
    device.acked(500).await;
    assert_eq!(bench.gateway.files(), files);
    let after = bench.gateway.metrics().await;
    for name in ["tidegate_disk_written_bytes_total", "tidegate_readings_spooled_total"] {
        assert_eq!(after[name], metrics[name], "{name}");
    }
    assert_eq!(after["tidegate_spool_batches"], 0);
    assert_eq!(after["tidegate_readings_published_total"], 500);
}

#[tokio::test]
async fn order_holds_for_each_device_across_an_outage() {
    let bench = Bench::start("", |setup| setup).await;
    let names = ["a", "b", "c"];
    let mut devices = BTreeMap::new();
    for name in names {
        devices.insert(name, bench.gateway.device(name).open(Some(7)).await.0);
    }
    for seq in 1..=300 {
        match seq {
            100 => bench.proxy.set(Mode::Refuse),
            200 => bench.proxy.set(Mode::Forward),
            _ => {}
        }
        for device in devices.values_mut() {
            device.reading(seq, seq as f64).await;
        }
        if seq % 20 == 0 {
            for device in devices.values_mut() {
                device.acked(seq).await;
            }
        }
    }
    for name in names {
        bench.in_order(name, 300).await;
    }
    let all = bench.consumer.on("tidegate/gw-test/devices/a/readings");
    let spooled = all.iter().filter(|message| message.json()["spooled"] == true).count();
    assert!(spooled > 0, "what waited says so");
    assert!(all[0].json().get("spooled").is_none(), "what did not wait does not");
    until("the spool is empty", async || bench.gateway.metric("tidegate_spool_batches").await == 0)
        .await;
    assert!(bench.gateway.metric("tidegate_uplink_reconnects_total").await >= 1);
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 0);
}

#[tokio::test]
async fn a_broker_away_from_the_start_costs_nothing() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let gateway = Setup::new(broker.port).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    for seq in 1..=50 {
        device.reading(seq, 1.0).await;
    }
    device.acked(50).await;
    assert_eq!(gateway.metric("tidegate_readings_spooled_total").await, 50);
    assert_eq!(gateway.metric("tidegate_uplink_up").await, 0);
    until("fifty wait", async || gateway.status().await["spool"]["batches"] == 50).await;
    let status = gateway.status().await;
    assert!(status["uplink"]["last_error"].is_string(), "{status}");
    broker.restart().await;
    until("the spool is empty", async || gateway.metric("tidegate_spool_batches").await == 0).await;
    assert_eq!(gateway.metric("tidegate_readings_published_total").await, 50);
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_given_up_and_nothing_is_lost() {
    let bench = Bench::start("", |setup| setup.set("mqtt.ack_timeout", "1s")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    bench.proxy.set(Mode::HalfOpen);
    for seq in 1..=20 {
        device.reading(seq, seq as f64).await;
    }
    device.acked(20).await;
    assert!(bench.gateway.metric("tidegate_readings_spooled_total").await > 0);
    bench.proxy.set(Mode::Forward);
    bench.in_order("kiln-3", 20).await;
    device.reading(21, 1.0).await;
    device.acked(21).await;
    bench.in_order("kiln-3", 21).await;
}

#[tokio::test]
async fn a_broker_that_accepts_and_never_answers_does_not_hold_up_devices() {
    let broker = Broker::start("").await;
    let consumer = Subscriber::start(broker.port).await;
    let proxy = Proxy::start(broker.port).await;
    proxy.set(Mode::HalfOpen);
    let gateway = Setup::new(proxy.port).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    until("a connection that is not answered", async || proxy.connections() > 0).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    assert_eq!(gateway.metric("tidegate_uplink_up").await, 0);
    proxy.set(Mode::Forward);
    let messages = consumer.wait(READINGS, 1).await;
    assert_eq!(messages[0].json()["spooled"], true);
}

#[tokio::test]
async fn a_withheld_puback_is_neither_an_ack_nor_a_stall() {
    let bench = Bench::start("", |setup| setup.set("mqtt.ack_timeout", "1s")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    bench.proxy.set(Mode::SwallowAcks);
    for seq in 1..=10 {
        device.reading(seq, seq as f64).await;
    }
    // Settled by the spool, since the broker's word never comes.
    device.acked(10).await;
    assert!(bench.gateway.metric("tidegate_readings_spooled_total").await >= 10);
    assert!(bench.gateway.log().contains("PUBACK"), "the log says why");
    bench.proxy.set(Mode::Forward);
    bench.proxy.cut();
    bench.in_order("kiln-3", 10).await;
    until("the spool is empty", async || bench.gateway.metric("tidegate_spool_batches").await == 0)
        .await;
}

/// A device whose batches 1 to 15 are sent and not acknowledged; mosquitto lets twenty be in flight.
async fn fifteen_in_flight(bench: &Bench) -> Device {
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    bench.proxy.set(Mode::SwallowAcks);
    for seq in 1..=15 {
        device.reading(seq, seq as f64).await;
    }
    bench
        .proxy
        .until("all in flight", |seen| seen.iter().filter(|s| s.is_readings()).count() == 15)
        .await;
    device
}

#[tokio::test]
async fn a_broker_that_forgot_the_session_gets_what_it_did_not_acknowledge() {
    let mut bench = Bench::start("", |setup| setup.set("mqtt.ack_timeout", "30s")).await;
    let mut device = fifteen_in_flight(&bench).await;
    bench.broker.kill();
    // Until then PUBACKs that it wrote before its end may be on their way.
    until("the connection is gone", async || bench.gateway.metric("tidegate_uplink_up").await == 0)
        .await;
    let before = bench.proxy.readings().len();
    bench.proxy.set(Mode::Forward);
    bench.broker.restart().await;
    device.acked(15).await;
    bench
        .proxy
        .until("all of them again", |seen| {
            seen.iter().filter(|s| s.is_readings()).skip(before).filter(|s| s.accepted()).count()
                >= 15
        })
        .await;
    let again: Vec<_> = bench.proxy.readings()[before..]
        .iter()
        .map(|seen| seen.json()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(again[..15], (1..=15).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_payload_the_broker_refuses_is_a_counted_loss_and_the_rest_flows() {
    refused_payload("message_size_limit 2000").await;
}

#[tokio::test]
async fn a_packet_over_the_brokers_limit_is_a_counted_loss_and_the_rest_flows() {
    refused_payload("max_packet_size 2000").await;
}

async fn refused_payload(limit: &str) {
    let bench = Bench::start(limit, |setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    let large = Value::Array(vec![record("a-rather-long-name", 1.0, 1_763_800_000.0); 200]);
    device.send(&readings(Some(2), large)).await;
    device.reading(3, 3.0).await;
    expect_refused(&bench, &mut device, 2, 3).await;
    let record = &bench.consumer.wait(LOSSES, 1).await[0].json();
    assert_loss(record, 2, 200);
    let lost = r#"tidegate_readings_lost_total{reason="refused"}"#;
    assert_eq!(bench.gateway.metric(lost).await, 200);
    until("the rest arrives", async || bench.order("kiln-3") == [1, 3]).await;
    device.reading(4, 4.0).await;
    device.acked(4).await;
    assert_eq!(bench.gateway.status().await["spool"]["lost_readings"], 200);
}

#[tokio::test]
async fn a_topic_the_broker_does_not_allow_is_a_counted_loss_and_the_rest_flows() {
    let rules = "topic readwrite tidegate/#\ntopic deny tidegate/gw-test/devices/banned/readings\n";
    let broker = Broker::start_with("acl_file {dir}/acl", &[("acl", rules)]).await;
    let consumer = Subscriber::start(broker.port).await;
    let proxy = Proxy::start(broker.port).await;
    let gateway = Setup::new(proxy.port).start().await;
    gateway.until_uplink("connected").await;
    let bench = Bench { broker, proxy, gateway, consumer };
    let (mut banned, _) = bench.gateway.device("banned").open(Some(7)).await;
    let (mut good, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    banned.reading(1, 1.0).await;
    match banned.next().await {
        FromGateway::Reject { seq: Some(1), code: 5, reason } => {
            assert!(reason.to_lowercase().contains("authori"), "the broker's reason: {reason}");
        }
        other => panic!("REJECT 5 expected, got {other:?}"),
    }
    let record = &bench.consumer.wait(LOSSES, 1).await[0].json();
    assert_eq!((&record["device"], &record["first_seq"]), (&json!("banned"), &json!(1)));
    assert_eq!((&record["reason"], &record["readings"]), (&json!("refused"), &json!(1)));
    good.reading(1, 1.0).await;
    good.acked(1).await;
    bench.in_order("kiln-3", 1).await;
    assert_eq!(bench.proxy.connections(), 1, "no reconnect for that");
}

/// Reads until `last` is acknowledged and expects REJECT for `refused` on the way.
async fn expect_refused(bench: &Bench, device: &mut Device, refused: u64, last: u64) {
    let (mut rejected, mut acked) = (false, false);
    while !(rejected && acked) {
        match device.next().await {
            FromGateway::Reject { seq, code, reason } => {
                assert_eq!((seq, code), (Some(refused), 5), "{reason}");
                rejected = true;
            }
            FromGateway::Ack(seq) => acked |= seq == last,
            other => panic!("{other:?}\n{}", bench.gateway.log()),
        }
    }
}

fn assert_loss(record: &serde_json::Value, seq: u64, readings: u64) {
    let expected = json!({
        "device": "kiln-3", "epoch": 7, "first_seq": seq, "last_seq": seq, "readings": readings,
        "reason": "refused",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&record[key], value, "{key} of {record}");
    }
    assert!((record["time"].as_f64().unwrap() - unix_now()).abs() < 60.0);
}

#[tokio::test]
async fn losses_older_than_the_limit_are_counted_and_published() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let gateway = Setup::new(broker.port).set("spool.max_age", "1s").start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    for seq in 1..=5 {
        device.reading(seq, 1.0).await;
    }
    device.acked(5).await;
    let lost = r#"tidegate_readings_lost_total{reason="evicted-age"}"#;
    until("they are evicted", async || gateway.metric(lost).await == 5).await;
    broker.restart().await;
    let proxy = Subscriber::start(broker.port).await;
    let records = proxy.wait(LOSSES, 1).await;
    let total: u64 =
        records.iter().map(|message| message.json()["readings"].as_u64().unwrap()).sum();
    assert_eq!(total, 5);
    assert_eq!(records[0].json()["reason"], "evicted-age");
}

#[tokio::test]
async fn losses_are_published_after_a_kill_and_only_until_the_broker_has_them() {
    let mut broker = Broker::start("").await;
    broker.kill();
    let mut gateway = Setup::new(broker.port).set("spool.max_age", "1s").start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    for seq in 1..=5 {
        device.reading(seq, 1.0).await;
    }
    device.acked(5).await;
    let lost = r#"tidegate_readings_lost_total{reason="evicted-age"}"#;
    until("they are evicted", async || gateway.metric(lost).await == 5).await;
    gateway.kill();
    broker.restart().await;
    let consumer = Subscriber::start(broker.port).await;
    gateway.start().await;
    assert_eq!(gateway.metric(lost).await, 0, "counted by the process that lost them");
    let records = consumer.wait(LOSSES, 1).await;
    let total: u64 =
        records.iter().map(|message| message.json()["readings"].as_u64().unwrap()).sum();
    assert_eq!(total, 5);
    assert_eq!(records[0].json()["device"], "kiln-3");
    // What is acknowledged behind it shows that it has been too, and then that it does not come again.
    for seq in 1..=2 {
        let (mut device, _) = gateway.device("kiln-4").open(Some(7)).await;
        device.reading(seq, 1.0).await;
        device.acked(seq).await;
        if seq == 1 {
            gateway.stop().await;
            gateway.start().await;
        }
    }
    consumer.wait("tidegate/gw-test/devices/kiln-4/readings", 2).await;
    assert_eq!(consumer.wait(LOSSES, 1).await.len(), records.len());
}

#[tokio::test]
async fn what_sigterm_interrupts_is_spooled_and_arrives_after_the_restart() {
    let mut bench = Bench::start("", |setup| setup.set("mqtt.ack_timeout", "60s")).await;
    let mut device = fifteen_in_flight(&bench).await;
    bench.gateway.stop().await;
    assert_eq!(device.closed().await, 1012);
    let before = bench.proxy.readings().len();
    bench.proxy.set(Mode::Forward);
    bench.gateway.start().await;
    until("all again", async || bench.proxy.readings().len() >= before + 15).await;
    let again: Vec<_> = bench.proxy.readings()[before..]
        .iter()
        .map(|seen| (seen.json()["seq"].as_u64().unwrap(), seen.json()["spooled"] == true))
        .collect();
    assert_eq!(again, (1..=15).map(|seq| (seq, true)).collect::<Vec<_>>());
    assert_eq!(bench.gateway.device("kiln-3").open(Some(7)).await.1.acked, 15);
    bench.in_order("kiln-3", 15).await;
}
