//! READINGS from HELLO to ACK: numbers, windows, epochs, and what makes a pack good or bad.

use std::time::Duration;

use crate::harness::{
    Broker, Device, FromGateway, Gateway, Mode, Proxy, Setup, Value, as_floats, hello, pack,
    readings, record, unix_now, until,
};

const N: i64 = 0;
const U: i64 = 1;
const V: i64 = 2;
const VS: i64 = 3;
const VB: i64 = 4;
const S: i64 = 5;
const T: i64 = 6;
const UT: i64 = 7;
const VD: i64 = 8;
const BVER: i64 = -1;
const BN: i64 = -2;
const BT: i64 = -3;
const BU: i64 = -4;
const BV: i64 = -5;

/// A gateway whose broker is watched.
struct Bench {
    _broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
}

impl Bench {
    async fn start(adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        let gateway = adjust(Setup::new(proxy.port)).start().await;
        gateway.until_uplink("connected").await;
        Self { _broker: broker, proxy, gateway }
    }

    /// The readings of every batch published so far.
    fn published(&self) -> Vec<serde_json::Value> {
        self.proxy.readings().iter().map(|seen| seen.json()["readings"].clone()).collect()
    }

    /// Sends one pack as batch `seq` and gives what the broker got for it.
    async fn resolve(&self, device: &mut Device, seq: u64, pack: Value) -> serde_json::Value {
        device.send(&readings(Some(seq), pack)).await;
        device.acked(seq).await;
        self.published().pop().unwrap()
    }
}

#[tokio::test]
async fn hello_is_answered_by_welcome_with_every_field() {
    let bench = Bench::start(|setup| setup).await;
    let (device, welcome) = bench.gateway.device("kiln-3").open(Some(7)).await;
    assert_eq!(device.subprotocol.as_deref(), Some("tidegate.v1"));
    assert_eq!(welcome.gateway, "gw-test");
    assert!((welcome.time - unix_now()).abs() < 5.0, "{}", welcome.time);
    assert_eq!(welcome.acked, 0);
    assert_eq!(welcome.window, 64);
    assert_eq!(welcome.max_frame, 64 * 1024);
    assert_eq!(welcome.heartbeat, 30);
}

#[tokio::test]
async fn welcome_tells_the_settings_that_are_set() {
    let setup = |setup: Setup| {
        let setup = setup.set("devices.window", 5).set("devices.max_frame", "2KiB");
        setup.set("devices.heartbeat_interval", "7s")
    };
    let bench = Bench::start(setup).await;
    let (_device, welcome) = bench.gateway.device("kiln-3").open(None).await;
    assert_eq!((welcome.window, welcome.max_frame, welcome.heartbeat), (5, 2048, 7));
}

#[tokio::test]
async fn acks_only_grow_and_end_at_the_last_batch() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    for seq in 1..=300 {
        device.reading(seq, 1.0).await;
    }
    let mut acked = 0;
    while acked < 300 {
        let FromGateway::Ack(seq) = device.next().await else { panic!("only ACKs") };
        assert!(seq > acked && seq <= 300, "{seq} after {acked}");
        acked = seq;
    }
    assert_eq!(bench.published().len(), 300);
}

#[tokio::test]
async fn no_ack_comes_before_the_puback() {
    let bench = Bench::start(|setup| setup.set("mqtt.ack_timeout", "60s")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    bench.proxy.set(Mode::SwallowAcks);
    device.reading(1, 1.0).await;
    bench
        .proxy
        .until("the broker's PUBACK", |seen| seen.iter().any(|s| s.is_readings() && s.accepted()))
        .await;
    let early = device.next_within(Duration::from_millis(300)).await;
    assert_eq!(early, None, "the gateway has no PUBACK");
    bench.proxy.set(Mode::Forward);
    bench.proxy.cut();
    device.acked(1).await;
}

#[tokio::test]
async fn a_device_beyond_its_window_is_not_read_and_loses_nothing() {
    let adjust = |setup: Setup| setup.set("devices.window", 4).set("mqtt.ack_timeout", "60s");
    let bench = Bench::start(adjust).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    bench.proxy.set(Mode::SwallowAcks);
    for seq in 1..=20 {
        device.reading(seq, 1.0).await;
    }
    until("four batches at the broker", async || bench.published().len() >= 4).await;
    assert_eq!(device.next_within(Duration::from_millis(300)).await, None);
    assert_eq!(bench.published().len(), 4, "the window is 4");
    bench.proxy.set(Mode::Forward);
    bench.proxy.cut();
    device.acked(20).await;
    let seqs = async || {
        let all = bench.proxy.readings();
        let mut seqs: Vec<_> = all.iter().map(|seen| seen.json()["seq"].as_u64()).collect();
        seqs.dedup();
        seqs.sort_unstable();
        seqs.dedup();
        seqs.len()
    };
    until("all twenty at the broker", async || seqs().await == 20).await;
}

#[tokio::test]
async fn welcome_resumes_an_epoch_where_it_stopped() {
    let bench = Bench::start(|setup| setup).await;
    let connector = bench.gateway.device("kiln-3");
    let (mut device, _) = connector.open(Some(7)).await;
    for seq in 1..=3 {
        device.reading(seq, 1.0).await;
    }
    device.acked(3).await;
    drop(device);
    assert_eq!(connector.open(Some(7)).await.1.acked, 3);
    assert_eq!(connector.open(Some(8)).await.1.acked, 0, "another run of numbers");
}

#[tokio::test]
async fn a_batch_sent_again_is_acknowledged_again_and_not_published_twice() {
    let bench = Bench::start(|setup| setup).await;
    let connector = bench.gateway.device("kiln-3");
    let (mut device, _) = connector.open(Some(7)).await;
    for seq in 1..=3 {
        device.reading(seq, seq as f64).await;
    }
    device.acked(3).await;
    device.reading(2, 2.0).await;
    assert_eq!(device.next().await, FromGateway::Ack(3));
    let (mut device, _) = connector.open(Some(7)).await;
    device.reading(3, 3.0).await;
    assert_eq!(device.next().await, FromGateway::Ack(3));
    assert_eq!(bench.published().len(), 3);
    assert_eq!(bench.gateway.metric("tidegate_duplicates_total").await, 2);
}

#[tokio::test]
async fn a_gap_in_the_numbers_is_accepted_and_counted() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    device.reading(5, 5.0).await;
    device.acked(5).await;
    assert_eq!(bench.published().len(), 2);
    assert_eq!(bench.gateway.metric("tidegate_sequence_gaps_total").await, 1);
}

#[tokio::test]
async fn a_batch_without_a_number_is_published_and_not_acknowledged() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    device.reading(None, 1.0).await;
    device.reading(1, 2.0).await;
    assert_eq!(device.next().await, FromGateway::Ack(1), "and nothing before");
    until("both at the broker", async || bench.published().len() == 2).await;
    assert!(bench.proxy.readings()[0].json()["seq"].is_null());
}

#[tokio::test]
async fn without_an_epoch_numbers_count_for_one_connection() {
    let bench = Bench::start(|setup| setup).await;
    let connector = bench.gateway.device("kiln-3");
    for _ in 0..2 {
        let (mut device, welcome) = connector.open(None).await;
        assert_eq!(welcome.acked, 0);
        device.reading(1, 1.0).await;
        device.acked(1).await;
    }
    let seen = bench.proxy.readings();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].json()["epoch"], seen[1].json()["epoch"], "still told apart");
    assert_eq!(bench.gateway.metric("tidegate_duplicates_total").await, 0);
}

#[tokio::test]
async fn a_reading_relative_to_now_gets_the_gateways_time() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let pack = Value::Array(vec![record("a", 1.0, -10.0), record("b", 2.0, 0.0)]);
    let readings = bench.resolve(&mut device, 1, pack).await;
    let time = |name: &str| {
        let found = readings.as_array().unwrap().iter().find(|r| r["n"] == name).unwrap();
        found["t"].as_f64().unwrap()
    };
    assert!((time("b") - unix_now()).abs() < 5.0);
    assert!((time("b") - time("a") - 10.0).abs() < 0.01);
}

#[tokio::test]
async fn the_devices_own_id_before_a_name_is_removed() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let names = ["kiln-3:a", "kiln-3/b", "kiln-3.c", "d", "kiln-30:e", "kiln-3f"];
    let records = names.iter().map(|name| record(name, 1.0, 0.0)).collect();
    let readings = bench.resolve(&mut device, 1, Value::Array(records)).await;
    let names: Vec<_> = readings.as_array().unwrap().iter().map(|r| r["n"].clone()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "kiln-30:e", "kiln-3f"]);
}

#[tokio::test]
async fn base_fields_are_resolved_as_the_rfc_says() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let start = 1_763_800_000.0;
    let pack = pack(&[
        &[
            (BVER, 10.into()),
            (BN, "kiln-3:".into()),
            (BT, start.into()),
            (BU, "Cel".into()),
            (BV, 20.into()),
            (N, "a".into()),
            (V, 1.5.into()),
        ],
        &[(N, "b".into()), (V, 3.into()), (T, 2.into()), (U, "%RH".into())],
        &[(BN, "kiln-3:x-".into()), (N, "c".into()), (VS, "open".into()), (T, 5.into())],
    ]);
    let readings = bench.resolve(&mut device, 1, pack).await;
    let expected = serde_json::json!([
        {"n": "a", "u": "Cel", "v": 21.5, "t": start},
        {"n": "b", "u": "%RH", "v": 23.0, "t": start + 2.0},
        {"n": "x-c", "u": "Cel", "vs": "open", "t": start + 5.0},
    ]);
    assert_same(&readings, &expected);
}

#[tokio::test]
async fn every_kind_of_value_passes() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let t: Value = 1_763_800_000.into();
    let pack = pack(&[
        &[(N, "number".into()), (V, 7.into()), (T, t.clone())],
        &[(N, "text".into()), (VS, "\"é\n".into()), (T, t.clone())],
        &[(N, "truth".into()), (VB, true.into()), (T, t.clone())],
        &[(N, "bytes".into()), (VD, Value::Bytes(vec![0xfb, 0xff, 0x01])), (T, t.clone())],
        &[(N, "sum".into()), (S, 2.5.into()), (T, t.clone()), (UT, 60.into())],
        &[(N, "both".into()), (V, (-1).into()), (S, 9.into()), (T, t)],
    ]);
    let readings = bench.resolve(&mut device, 1, pack).await;
    let t = 1_763_800_000.0;
    let expected = serde_json::json!([
        {"n": "number", "v": 7.0, "t": t},
        {"n": "text", "vs": "\"é\n", "t": t},
        {"n": "truth", "vb": true, "t": t},
        {"n": "bytes", "vd": "-_8B", "t": t},
        {"n": "sum", "s": 2.5, "t": t, "ut": 60.0},
        {"n": "both", "v": -1.0, "s": 9.0, "t": t},
    ]);
    assert_same(&readings, &expected);
}

#[tokio::test]
async fn a_pack_that_breaks_the_rfc_is_refused_whole_and_the_session_goes_on() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let good: &[(i64, Value)] = &[(N, "good".into()), (V, 1.into())];
    let bad: Vec<(&str, Value)> = vec![
        ("infinite", pack(&[good, &[(N, "a".into()), (V, f64::INFINITY.into())]])),
        ("not a number", pack(&[good, &[(N, "a".into()), (V, f64::NAN.into())]])),
        ("no name", pack(&[good, &[(V, 1.into())]])),
        ("no value", pack(&[good, &[(N, "a".into())]])),
        ("two values", pack(&[good, &[(N, "a".into()), (V, 1.into()), (VS, "x".into())]])),
        ("text for a number", pack(&[good, &[(N, "a".into()), (V, "1".into())]])),
        ("a number for a name", pack(&[good, &[(N, 1.into()), (V, 1.into())]])),
        ("a character not allowed", pack(&[good, &[(N, "a b".into()), (V, 1.into())]])),
        ("a bad first character", pack(&[good, &[(N, "-a".into()), (V, 1.into())]])),
        ("too long", pack(&[good, &[(N, "a".repeat(65).into()), (V, 1.into())]])),
        ("a version to come", pack(&[&[(BVER, 11.into()), (N, "a".into()), (V, 1.into())]])),
        ("not a record", Value::Array(vec![1.into()])),
        (
            "a label that must be understood",
            Value::Array(vec![Value::Map(vec![
                (N.into(), "a".into()),
                (V.into(), 1.into()),
                ("new_".into(), 1.into()),
            ])]),
        ),
    ];
    for (seq, (what, pack)) in (1..).zip(bad) {
        device.send(&readings(Some(seq), pack)).await;
        let rejected = loop {
            match device.next().await {
                FromGateway::Ack(_) => {}
                FromGateway::Reject { seq, code, reason } => break (seq, code, reason),
                other => panic!("{what}: {other:?}"),
            }
        };
        assert_eq!((rejected.0, rejected.1), (Some(seq), 1), "{what}: {}", rejected.2);
        assert!(!rejected.2.is_empty(), "{what}: says why");
    }
    device.reading(14, 1.0).await;
    device.acked(14).await;
    assert_eq!(bench.published().len(), 1, "nothing of a bad pack is published");
    let counted = bench.gateway.metrics().await;
    let counted: u64 = counted
        .iter()
        .filter(|(name, _)| name.starts_with("tidegate_batches_rejected_total{"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(counted, 13);
}

#[tokio::test]
async fn an_unknown_label_that_need_not_be_understood_is_ignored() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let fields = vec![
        (N.into(), "a".into()),
        (V.into(), 1.into()),
        (T.into(), 1_763_800_000.into()),
        ("new".into(), Value::Array(vec![1.into()])),
        (99.into(), Value::Null),
    ];
    let readings = bench.resolve(&mut device, 1, Value::Array(vec![Value::Map(fields)])).await;
    assert_same(&readings, &serde_json::json!([{"n": "a", "v": 1.0, "t": 1_763_800_000.0}]));
}

#[tokio::test]
async fn a_name_the_device_may_not_publish_is_code_2() {
    let bench = Bench::start(Setup::with_tokens).await;
    let token = bench.gateway.add("kiln-3", &["--readings", "temp*", "--readings", "door"]);
    let connector = bench.gateway.device("kiln-3").token(&token);
    until("the registry is read", async || {
        connector.attempt().await.is_ok_and(|answer| answer.is_ok())
    })
    .await;
    let (mut device, _) = connector.open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    let both = vec![record("door", 1.0, 0.0), record("humidity", 1.0, 0.0)];
    device.send(&readings(Some(2), Value::Array(both))).await;
    let (seq, code, reason) = device.rejected().await;
    assert_eq!((seq, code), (Some(2), 2));
    assert!(reason.contains("humidity"), "names what was wrong: {reason}");
    assert_eq!(bench.published().len(), 1);
}

#[tokio::test]
async fn more_records_than_allowed_is_code_3() {
    let bench = Bench::start(|setup| setup.set("devices.max_records", 3)).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let records = |count: usize| Value::Array(vec![record("a", 1.0, 0.0); count]);
    device.send(&readings(Some(1), records(3))).await;
    device.acked(1).await;
    device.send(&readings(Some(2), records(4))).await;
    let (seq, code, _) = device.rejected().await;
    assert_eq!((seq, code), (Some(2), 3));
}

#[tokio::test]
async fn a_time_far_ahead_is_code_4() {
    let bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(7)).await;
    let ahead = Value::Array(vec![record("a", 1.0, 4_000_000_000.0)]);
    device.send(&readings(Some(1), ahead)).await;
    let (seq, code, _) = device.rejected().await;
    assert_eq!((seq, code), (Some(1), 4));
}

#[tokio::test]
async fn a_rejected_batch_counts_as_settled() {
    let bench = Bench::start(|setup| setup).await;
    let connector = bench.gateway.device("kiln-3");
    let (mut device, _) = connector.open(Some(7)).await;
    device.send(&readings(Some(1), Value::Array(vec![7.into()]))).await;
    assert_eq!(device.rejected().await.0, Some(1));
    device.reading(2, 1.0).await;
    device.acked(2).await;
    assert_eq!(connector.open(Some(7)).await.1.acked, 2);
    assert_eq!(bench.gateway.metric("tidegate_sequence_gaps_total").await, 0);
}

#[tokio::test]
async fn what_the_protocol_does_not_know_yet_is_ignored() {
    let bench = Bench::start(|setup| setup).await;
    let mut device = bench.gateway.device("kiln-3").connect().await.unwrap();
    let mut message = hello(Some(7), &[("later", Value::Map(vec![]))]);
    message.as_array_mut().unwrap().push("more".into());
    device.send(&message).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    let mut message = readings(Some(1), Value::Array(vec![record("a", 1.0, 0.0)]));
    message.as_array_mut().unwrap().push(Value::Null);
    device.send(&message).await;
    device.acked(1).await;
}

/// Compares readings with numbers as numbers.
fn assert_same(found: &serde_json::Value, expected: &serde_json::Value) {
    assert_eq!(as_floats(found), as_floats(expected));
}
