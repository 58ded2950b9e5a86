//! Readings pushed to real stores: they arrive and are found, also those of an outage, and a buffer
//! that is too small says so.

use crate::harness::{
    Bench, Setup, Store, StoreKind, Value, pack, readings, record, unix_now, until,
};

const QUERY_ALL: &str = "SELECT%20*%20FROM%20readings%20ORDER%20BY%20time";

fn pushing(setup: Setup, url: &str, more: &str) -> Setup {
    setup.table("push", &format!("name = \"store\"\nurl = \"{url}\"\ninterval = \"50ms\"\n{more}"))
}

/// The whole pack of kinds, with times a while ago that hold exactly.
fn all_kinds(time: f64) -> Value {
    let text = |text: &str| Value::from(text);
    pack(&[
        &[(0, text("temperature")), (1, text("Cel")), (2, 21.5.into()), (6, time.into())],
        &[(0, text("mode")), (3, text("say \"on\", C:\\ = off\nend")), (6, time.into())],
        &[(0, text("open")), (4, true.into()), (6, time.into())],
        &[(0, text("energy")), (1, text("W h")), (5, 7.25.into()), (6, time.into())],
        &[(0, text("photo")), (8, Value::Bytes(vec![1, 2, 3])), (6, time.into())],
    ])
}

#[tokio::test]
#[allow(clippy::cast_possible_truncation, reason = "milliseconds since 1970 fit")]
async fn victoria_metrics_has_the_readings_and_gets_those_of_its_outage() {
    let mut store = Store::start(StoreKind::Victoria).await;
    let url = store.write_url();
    let bench = Bench::start(|setup| pushing(setup, &url, "gzip = true\n")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(None).await;
    let time = (unix_now() - 100.0).floor() + 0.125;
    device.send(&readings(Some(1), all_kinds(time))).await;
    device.acked(1).await;
    let mut found = Vec::new();
    until("the reading is in the store", async || {
        found = store.series("readings_value").await;
        !found.is_empty()
    })
    .await;
    let labels = &found[0]["metric"];
    assert_eq!(
        *labels,
        serde_json::json!({"__name__": "readings_value", "db": "telemetry", "gateway": "gw-test",
                           "device": "kiln-3", "name": "temperature", "unit": "Cel"})
    );
    assert_eq!(found[0]["values"], serde_json::json!([21.5]));
    assert_eq!(found[0]["timestamps"], serde_json::json!([(time * 1000.0) as i64]));
    let sums = store.series("readings_sum").await;
    assert_eq!((&sums[0]["values"][0], &sums[0]["metric"]["unit"]), (&7.25.into(), &"W h".into()));
    assert_eq!(store.series("readings_state").await[0]["values"], serde_json::json!([1]));

    store.kill();
    for seq in 2..=500 {
        let records = vec![record("during", seq as f64, time + seq as f64 / 8.0)];
        device.send(&readings(Some(seq), Value::Array(records))).await;
    }
    device.acked(500).await;
    until("the outage is noticed", async || {
        bench.gateway.status().await["push"][0]["state"] == "retrying"
    })
    .await;
    let push = &bench.gateway.status().await["push"][0];
    assert_eq!((&push["name"], push["url"].as_str()), (&"store".into(), Some(url.as_str())));
    assert!(push["queued_readings"].as_u64().unwrap() > 0, "{push}");
    assert!(push["last_error"].as_str().is_some_and(|error| !error.is_empty()), "{push}");
    store.restart().await;
    until("all that waited is sent", async || {
        let push = &bench.gateway.status().await["push"][0];
        push["state"] == "ok" && push["queued_readings"] == 0
    })
    .await;
    let during = store.series("readings_value{name=\"during\"}").await;
    let values: Vec<_> =
        during[0]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(values, (2..=500).map(f64::from).collect::<Vec<_>>());
    let metrics = bench.gateway.metrics().await;
    assert_eq!(metrics["tidegate_push_sent_total{push=\"store\"}"], 4 + 499);
    assert_eq!(metrics["tidegate_push_queued{push=\"store\"}"], 0);
    assert!(metrics["tidegate_push_errors_total{push=\"store\"}"] > 0);
    assert_eq!(metrics["tidegate_push_dropped_total{push=\"store\",reason=\"overflow\"}"], 0);
    let log = bench.gateway.log();
    assert_eq!(log.matches("readings cannot be pushed and wait in memory").count(), 1, "{log}");
    assert_eq!(log.matches("readings are pushed again").count(), 1, "{log}");
}

#[tokio::test]
async fn influxdb_has_every_kind_of_reading_as_it_was_sent() {
    let store = Store::start(StoreKind::Influx).await;
    // The database is not there yet: that is no reason to give readings up.
    let url = store.write_url();
    let bench = Bench::start(|setup| pushing(setup, &url, "")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(None).await;
    let time = (unix_now() - 100.0).floor() + 0.1;
    device.send(&readings(Some(1), all_kinds(time))).await;
    device.acked(1).await;
    until("the missing database is told", async || {
        bench.gateway.log().contains("database not found")
    })
    .await;
    let made = store.ask("POST", "/query?q=CREATE%20DATABASE%20telemetry").await;
    assert_eq!(made.status, 200, "{made:?}");
    bench.gateway.signal(rustix::process::Signal::HUP);
    let mut rows = serde_json::Value::Null;
    until("the readings are in the store", async || {
        rows = store.rows(QUERY_ALL).await;
        rows.as_array().is_some_and(|rows| rows.len() == 4)
    })
    .await;
    // Columns in the order of their names: device, gateway, name, state, sum, text, unit, value.
    #[allow(clippy::cast_possible_truncation)]
    let nanos = (time * 10.0).round() as i64 * 100_000_000;
    let null = serde_json::Value::Null;
    for (name, state, sum, text, unit, value) in [
        ("temperature", null.clone(), null.clone(), null.clone(), "Cel".into(), 21.5.into()),
        (
            "mode",
            null.clone(),
            null.clone(),
            "say \"on\", C:\\ = off\\nend".into(),
            null.clone(),
            null.clone(),
        ),
        ("open", true.into(), null.clone(), null.clone(), null.clone(), null.clone()),
        ("energy", null.clone(), 7.25.into(), null.clone(), "W h".into(), null.clone()),
    ] {
        let row =
            serde_json::json!([nanos, "kiln-3", "gw-test", name, state, sum, text, unit, value]);
        assert!(rows.as_array().unwrap().contains(&row), "{row} in {rows}");
    }
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_the_broker_gets_all_the_same() {
    let mut store = Store::absent(StoreKind::Victoria);
    let url = store.write_url();
    let bench = Bench::start(|setup| pushing(setup, &url, "max_buffer = \"64KiB\"\n")).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(None).await;
    let time = (unix_now() - 1000.0).floor();
    let mut sent = 0_u32;
    let dropped = "tidegate_push_dropped_total{push=\"store\",reason=\"overflow\"}";
    while bench.gateway.metric(dropped).await < 100 {
        for _ in 0..100 {
            sent += 1;
            let records = vec![record("n", f64::from(sent), time + f64::from(sent) / 8.0)];
            device.send(&readings(Some(u64::from(sent)), Value::Array(records))).await;
        }
        device.acked(u64::from(sent)).await;
        assert!(sent < 100_000, "nothing is ever dropped");
    }
    until("the log tells it", async || {
        bench.gateway.log().contains("the buffer of this push is full")
    })
    .await;
    store.restart().await;
    until("what is left is sent", async || {
        bench.gateway.status().await["push"][0]["queued_readings"] == 0
    })
    .await;
    let metrics = bench.gateway.metrics().await;
    let (gone, kept) = (metrics[dropped], metrics["tidegate_push_sent_total{push=\"store\"}"]);
    assert_eq!(gone + kept, u64::from(sent));
    let found = store.series("readings_value").await;
    let values = found[0]["values"].as_array().unwrap();
    assert_eq!(values.len() as u64, kept);
    assert_eq!(values.last().unwrap().as_f64(), Some(f64::from(sent)), "the newest are kept");
    assert_eq!(values[0].as_f64(), Some(gone as f64 + 1.0), "the oldest went, without gaps");
    let log = bench.gateway.log();
    assert_eq!(log.matches("the buffer of this push is full").count(), 1, "{log}");
    assert!(log.contains(&format!("dropped={gone}")), "{log}");
    assert_eq!(bench.gateway.metric("tidegate_readings_published_total").await, u64::from(sent));
}

#[tokio::test]
async fn a_stop_sends_what_waits_and_tells_what_is_left() {
    let mut store = Store::start(StoreKind::Victoria).await;
    let url = store.write_url();
    // So slow a gathering that only the stop can have sent it.
    let slow = |setup: Setup| {
        let push = format!("name = \"store\"\nurl = \"{url}\"\ninterval = \"10m\"\n");
        setup.table("push", &push)
    };
    let mut bench = Bench::start(slow).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(None).await;
    device.reading(1, 4.5).await;
    device.acked(1).await;
    bench.gateway.stop().await;
    let found = store.series("readings_value").await;
    assert_eq!(found[0]["values"], serde_json::json!([4.5]));

    store.kill();
    bench.gateway.start().await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(None).await;
    for seq in 1..=3 {
        device.reading(seq, 1.0).await;
    }
    device.acked(3).await;
    bench.gateway.stop().await;
    let log = bench.gateway.log();
    let told = log.lines().find(|line| line.contains("stopped before these were pushed"));
    assert!(told.is_some_and(|line| line.contains("readings=3")), "{log}");
}

#[tokio::test]
async fn only_what_the_patterns_choose_is_pushed() {
    let store = Store::start(StoreKind::Victoria).await;
    let url = store.write_url();
    let patterns = "devices = [\"kiln-?\"]\nreadings = [\"temp*\"]\nmeasurement = \"m\"\n";
    let bench = Bench::start(|setup| pushing(setup, &url, patterns)).await;
    for device in ["kiln-3", "pump-1"] {
        let (mut device, _) = bench.gateway.device(device).open(None).await;
        let records = vec![record("pressure", 1.0, 0.0), record("temperature", 2.0, 0.0)];
        device.send(&readings(Some(1), Value::Array(records))).await;
        device.acked(1).await;
    }
    let mut found = Vec::new();
    until("the reading is in the store", async || {
        found = store.series("{__name__!=\"\"}").await;
        !found.is_empty()
    })
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["metric"]["__name__"], "m_value");
    assert_eq!(found[0]["metric"]["device"], "kiln-3");
    assert_eq!(found[0]["metric"]["name"], "temperature");
    assert_eq!(bench.gateway.metric("tidegate_push_sent_total{push=\"store\"}").await, 1);
}
