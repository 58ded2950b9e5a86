//! What readings were: `/api/v1/devices/{device}/history`.

use serde_json::{Value as Json, json};
use tidegate::core::batch::Value;
use tidegate::dashboard::Fleet;
use tidegate::ports::Clock;

use super::support::*;

/// A gateway with a device, and a whole second some minutes ago.
fn begun() -> (Gateway, f64) {
    let gateway = Gateway::start();
    gateway.up("kiln-3");
    (gateway, ((SystemClock.unix() - 300.0) / 240.0).floor() * 240.0)
}

fn history(gateway: &Gateway, query: &str) -> Json {
    let answer = gateway.get(&format!("/api/v1/devices/kiln-3/history{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn numbers_come_in_buckets_and_a_gap_is_a_missing_bucket() {
    let (gateway, start) = begun();
    let readings = [(0.0, 1.0), (0.4, 3.0), (0.6, 2.0), (5.0, 1_234_567.89)];
    let readings = readings.map(|(after, value)| number("temperature", value, start + after));
    gateway.send("kiln-3", readings.to_vec());
    let before = SystemClock.unix();
    let seen = history(&gateway, "?name=temperature");
    assert_eq!(keys(&seen), ["from", "name", "points", "states", "step_s", "to", "unit"]);
    assert_eq!((&seen["name"], &seen["unit"]), (&json!("temperature"), &Json::Null));
    assert_eq!((&seen["step_s"], &seen["states"]), (&json!(1), &json!([])));
    let start: u64 = format!("{start:.0}").parse().unwrap();
    let expected =
        json!([[start, 1.0, 2.0, 3.0], [start + 5, 1_234_567.89, 1_234_567.89, 1_234_567.89],]);
    assert_eq!(seen["points"], expected);
    let (from, to) = (seen["from"].as_f64().unwrap(), seen["to"].as_f64().unwrap());
    assert!(to >= before && (to - from - 600.0).abs() < 0.001, "{from} {to}");
}

#[test]
fn a_late_reading_is_found_in_its_own_bucket() {
    let (gateway, start) = begun();
    for (after, value) in [(0.0, 10.0), (100.0, 20.0), (50.0, 30.0), (0.5, 12.0)] {
        let mut readings = vec![number("x", value, start + after)];
        // Received now, whatever it says itself.
        readings.push(number("now", 0.0, SystemClock.unix()));
        gateway.send("kiln-3", readings);
    }
    let at: u64 = format!("{start:.0}").parse().unwrap();
    let expected =
        json!([[at, 10.0, 11.0, 12.0], [at + 50, 30.0, 30.0, 30.0], [at + 100, 20.0, 20.0, 20.0]]);
    assert_eq!(history(&gateway, "?name=x")["points"], expected);
}

#[test]
fn any_time_and_any_number_of_points_can_be_asked_for() {
    let (gateway, start) = begun();
    let readings: Vec<_> =
        (0..280).map(|s| number("x", f64::from(s % 10), start + f64::from(s))).collect();
    for second in readings {
        gateway.send("kiln-3", vec![second]);
    }
    for (seconds, points) in [
        (60, 600),
        (600, 600),
        (600, 40),
        (601, 600),
        (3600, 500),
        (21_600, 7),
        (86_400, 1),
        (86_400, 2000),
    ] {
        let seen = history(&gateway, &format!("?name=x&seconds={seconds}&points={points}"));
        let list = seen["points"].as_array().unwrap();
        assert!(list.len() <= points, "{seconds} s in {points}: {}", list.len());
        let step = seen["step_s"].as_u64().unwrap();
        let times: Vec<u64> = list.iter().map(|point| point[0].as_u64().unwrap()).collect();
        assert!(times.iter().all(|time| time % step == 0), "{step}: {times:?}");
        assert!(times.windows(2).all(|two| two[1] - two[0] == step), "{step}: {times:?}");
        if seconds >= 600 && step < 600 {
            assert_eq!(list[list.len() / 2].as_array().unwrap().len(), 4);
            let (low, high) = (
                list.iter().map(|p| p[1].as_f64().unwrap()),
                list.iter().map(|p| p[3].as_f64().unwrap()),
            );
            assert_eq!((low.fold(9.0, f64::min), high.fold(0.0, f64::max)), (0.0, 9.0));
        }
    }
}

#[test]
fn texts_and_booleans_come_as_changes_with_the_one_that_held_before() {
    let (gateway, start) = begun();
    let text =
        |after: f64, text: &str| reading("mode", None, Value::Text(text.into()), start + after);
    let truth = |after: f64, truth| reading("door", Some("/"), Value::Bool(truth), start + after);
    gateway.send("kiln-3", vec![text(0.0, "idle"), text(10.0, "idle"), text(20.0, "heat ü")]);
    gateway.send("kiln-3", vec![truth(0.0, false), truth(30.0, true)]);
    let seen = history(&gateway, "?name=mode");
    assert_eq!(seen["states"], json!([[start, "idle"], [start + 20.0, "heat ü"]]));
    assert_eq!((&seen["points"], &seen["step_s"]), (&json!([]), &Json::Null));
    let seen = history(&gateway, "?name=door&seconds=1");
    assert_eq!(seen["states"], json!([[start + 30.0, true]]));
    assert_eq!(seen["unit"], "/");
}

#[test]
fn without_a_name_all_of_the_device_come() {
    let (gateway, start) = begun();
    assert_eq!(history(&gateway, ""), json!({"series": []}));
    let data = reading("raw", None, Value::Data(Box::new([1, 2])), start + 1.0);
    let text = reading("mode", None, Value::Text("on".into()), start);
    gateway.send("kiln-3", vec![number("b", 1.0, start), number("a", 2.0, start), text, data]);
    let all = history(&gateway, "?seconds=600&points=40");
    let names: Vec<_> = all["series"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["a", "b", "mode", "raw"]);
    for name in names {
        let mut one = history(&gateway, &format!("?name={}&points=40", name.as_str().unwrap()));
        let among = all["series"].as_array().unwrap().iter().find(|one| one["name"] == *name);
        for key in ["from", "to"] {
            one[key] = among.unwrap()[key].clone();
        }
        assert_eq!(&one, among.unwrap());
    }
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_reason_and_what_is_unknown_is_empty() {
    let (gateway, _) = begun();
    assert_eq!(gateway.get("/api/v1/devices/nobody/history").status, 404);
    for query in
        ["?seconds=0", "?seconds=86401", "?points=0", "?points=2001", "?seconds=x", "?points=-1"]
    {
        let answer = gateway.get(&format!("/api/v1/devices/kiln-3/history{query}"));
        assert_eq!(answer.status, 400, "{query}");
        let key = query.trim_start_matches('?').split('=').next().unwrap();
        assert!(answer.error().contains(key), "{query}: {answer:?}");
    }
    let seen = history(&gateway, "?name=nothing");
    assert_eq!((&seen["points"], &seen["states"]), (&json!([]), &json!([])));
}

#[test]
fn a_gateway_without_history_answers_with_none_of_it() {
    let gateway = Gateway::with(Fleet::new().with_history(0));
    gateway.up("kiln-3");
    gateway.send("kiln-3", vec![number("x", 1.0, SystemClock.unix())]);
    assert_eq!(history(&gateway, "?name=x")["points"], json!([]));
    assert!(
        gateway
            .get("/metrics")
            .text()
            .contains("\ntidegate_history_refused_total{reason=\"memory\"} 0\n")
    );
}

#[test]
fn the_metrics_tell_how_much_there_is_and_what_is_left_out() {
    let (gateway, start) = begun();
    let old = number("x", 1.0, start - 100_000.0);
    gateway.send("kiln-3", vec![old, number("x", 1.0, start), number("y", 1.0, start)]);
    for _ in 0..2 {
        let text = gateway.get("/metrics").text();
        assert!(text.contains("\ntidegate_history_series 2\n"), "{text}");
        assert!(text.contains("\ntidegate_history_refused_total{reason=\"late\"} 1\n"), "{text}");
        assert!(!text.contains("\ntidegate_history_bytes 0\n"), "{text}");
    }
}
