use std::collections::BTreeMap;

use super::*;
use crate::core::clock::Base;

fn device(id: &str) -> DeviceId {
    DeviceId::new(id).unwrap()
}

fn place(payload: Payload) -> Place {
    Place {
        gateway: "gw-1".into(),
        prefix: "tidegate/gw-1".into(),
        homeassistant_prefix: "homeassistant".into(),
        payload,
    }
}

fn reading(name: &str, unit: Option<&str>, value: Option<Value>, sum: Option<f64>) -> Reading {
    Reading {
        name: name.into(),
        unit: unit.map(Into::into),
        value,
        sum,
        time: 1_763_800_000.0,
        update_time: None,
        relative: false,
    }
}

fn number(name: &str, unit: &str) -> Reading {
    reading(name, Some(unit).filter(|unit| !unit.is_empty()), Some(Value::Number(1.5)), None)
}

fn boolean(name: &str) -> Reading {
    reading(name, None, Some(Value::Bool(true)), None)
}

fn batch(device: &DeviceId, readings: Vec<Reading>) -> Batch {
    Batch {
        device: device.clone(),
        epoch: 1,
        seq: Some(1),
        received: 1_763_800_000.0,
        base: Base::default(),
        shift: 0.0,
        readings,
    }
}

/// A broker that acknowledges everything, and the time that passes meanwhile.
struct Broker {
    discovery: Discovery,
    now: f64,
    sent: Vec<Announced>,
}

impl Broker {
    fn new(payload: Payload) -> Self {
        let mut discovery = Discovery::new(place(payload));
        discovery.connected();
        Self { discovery, now: 0.0, sent: Vec::new() }
    }

    fn take(&mut self) -> Option<Announced> {
        loop {
            if let Some(announced) = self.discovery.next(self.now) {
                self.sent.push(announced.clone());
                return Some(announced);
            }
            self.now = self.discovery.next_wake(self.now)?;
        }
    }

    /// Everything that waits, with topics and payloads.
    fn all(&mut self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        while let Some(Announced { number, topic, payload }) = self.take() {
            self.discovery.answered(number);
            all.push((topic, String::from_utf8(payload).unwrap()));
        }
        all
    }

    fn topics(&mut self) -> Vec<String> {
        let cut = |topic: &str| topic.replace("homeassistant/", "").replace("/config", "");
        self.all()
            .into_iter()
            .map(|(topic, payload)| cut(&topic) + if payload.is_empty() { " cleared" } else { "" })
            .collect()
    }
}

/// Compares with a file of `tests/golden/homeassistant`; `TIDEGATE_GOLDEN=write` writes it instead.
fn golden(file: &str, messages: &[(String, String)]) {
    let shown: Vec<String> = messages
        .iter()
        .map(|(topic, payload)| {
            let json: serde_json::Value = serde_json::from_str(payload).unwrap();
            format!("{topic}\n{}\n\n", serde_json::to_string_pretty(&json).unwrap())
        })
        .collect();
    let text = shown.concat().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let path = format!("{}/tests/golden/homeassistant/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TIDEGATE_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let frozen = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(text, frozen, "{path} is what users' entities and statistics hang on");
}

fn one_of_each() -> Vec<Reading> {
    vec![
        number("temperature", "Cel"),
        reading("energy", Some("kWh"), Some(Value::Number(3.0)), Some(7.0)),
        reading("flow/1.total", Some("m3/s"), None, Some(12.5)),
        reading("mode", None, Some(Value::Text("auto".into())), None),
        boolean("open"),
        reading("blob", None, Some(Value::Data(vec![1].into())), None),
        number("plain", ""),
    ]
}

#[test]
fn the_messages_are_frozen() {
    for (payload, file) in [
        (Payload::Json, "json.txt"),
        (Payload::SenmlJson, "senml-json.txt"),
        (Payload::Value, "value.txt"),
    ] {
        let mut broker = Broker::new(payload);
        let kiln = device("kiln-3");
        broker.discovery.hello(&kiln, Some("K-9"), Some("1.2"));
        broker.discovery.readings(&batch(&kiln, one_of_each()));
        golden(file, &broker.all());
    }
}

#[test]
fn every_reading_is_announced_once() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("kiln-3");
    broker.discovery.hello(&kiln, None, None);
    let readings = vec![number("b", "Cel"), number("a", "V"), number("b", "Cel"), boolean("c")];
    broker.discovery.readings(&batch(&kiln, readings.clone()));
    assert_eq!(
        broker.topics(),
        [
            "binary_sensor/gw-1/_connection",
            "binary_sensor/gw-1__kiln-3/_connection",
            "sensor/gw-1__kiln-3/a",
            "sensor/gw-1__kiln-3/b",
            "binary_sensor/gw-1__kiln-3/c",
        ]
    );
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, readings));
    assert_eq!(broker.topics(), [""; 0]);
    broker.discovery.readings(&batch(&kiln, vec![number("aa", "V")]));
    assert_eq!(broker.topics(), ["sensor/gw-1__kiln-3/aa"]);
}

#[test]
fn a_changed_unit_type_or_model_is_announced_again() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("k");
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, vec![number("a", "V"), number("b", "V")]));
    broker.all();
    broker.discovery.readings(&batch(&kiln, vec![number("a", "mV"), number("b", "V")]));
    assert_eq!(broker.topics(), ["sensor/gw-1__k/a"]);
    // The old entity must not stay beside the new one.
    broker.discovery.readings(&batch(&kiln, vec![boolean("a")]));
    assert_eq!(broker.topics(), ["sensor/gw-1__k/a cleared", "binary_sensor/gw-1__k/a"]);
    broker.discovery.hello(&kiln, Some("new"), None);
    let all = broker.all();
    assert_eq!(all.len(), 4);
    assert!(all.iter().filter(|(_, payload)| payload.contains("\"model\":\"new\"")).count() == 3);
}

#[test]
fn a_reading_that_keeps_changing_is_left_as_it_is() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("k");
    broker.discovery.hello(&kiln, None, None);
    broker.all();
    let mut announced = 0;
    for n in 0..100 {
        let reading = if n % 2 == 0 { number("a", "V") } else { boolean("a") };
        broker.discovery.readings(&batch(&kiln, vec![reading]));
        announced += broker.topics().iter().filter(|topic| !topic.contains("cleared")).count();
    }
    assert_eq!(announced, 1 + usize::from(MAX_CHANGES));
    broker.discovery.connected();
    broker.all();
    broker.discovery.readings(&batch(&kiln, vec![boolean("a")]));
    assert_eq!(broker.topics(), ["sensor/gw-1__k/a cleared", "binary_sensor/gw-1__k/a"]);
}

#[test]
fn all_is_announced_again_over_a_new_connection_and_nothing_without_one() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("k");
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, vec![number("a", "V"), boolean("b")]));
    let first = broker.all();
    assert_eq!(first.len(), 4);
    broker.discovery.disconnected();
    broker.discovery.readings(&batch(&kiln, vec![number("c", "V")]));
    assert_eq!(broker.discovery.next(broker.now + 9.0), None);
    assert_eq!(broker.discovery.next_wake(broker.now), None);
    broker.discovery.connected();
    let again = broker.all();
    assert_eq!(again.len(), 5);
    assert!(first.iter().all(|message| again.contains(message)));
}

#[test]
fn what_was_under_way_when_the_connection_broke_comes_again() {
    let mut broker = Broker::new(Payload::Json);
    for n in 0..MAX_UNDER_WAY + 2 {
        broker.discovery.hello(&device(&format!("d{n}")), None, None);
    }
    let first = std::iter::from_fn(|| broker.take()).count();
    assert_eq!(first, MAX_UNDER_WAY);
    broker.discovery.connected();
    assert_eq!(broker.all().len(), MAX_UNDER_WAY + 3);
}

#[test]
fn a_start_with_many_readings_is_spread_over_time() {
    let mut broker = Broker::new(Payload::Json);
    for n in 0..100 {
        let id = device(&format!("d{n}"));
        broker.discovery.hello(&id, None, None);
        let readings = (0..99).map(|n| number(&format!("r{n}"), "V")).collect();
        broker.discovery.readings(&batch(&id, readings));
    }
    let mut per_slot: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(announced) = broker.take() {
        *per_slot.entry(format!("{:.6}", broker.now)).or_default() += 1;
        broker.discovery.answered(announced.number);
    }
    assert_eq!(broker.sent.len(), 10_001);
    assert!(per_slot.values().all(|count| *count <= PER_TENTH), "{per_slot:?}");
    assert!(broker.now > 99.0, "{}", broker.now);
}

#[test]
fn a_removed_device_is_cleared_and_its_places_are_free_again() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("k");
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, vec![number("a", "V"), boolean("b")]));
    broker.all();
    broker.discovery.remove(&kiln);
    let cleared = [
        "binary_sensor/gw-1__k/_connection cleared",
        "sensor/gw-1__k/a cleared",
        "binary_sensor/gw-1__k/b cleared",
    ];
    // Its connection may live a moment longer.
    broker.discovery.readings(&batch(&kiln, vec![number("c", "V")]));
    let sent: Vec<u64> =
        std::iter::from_fn(|| broker.take()).map(|announced| announced.number).collect();
    assert_eq!(sent.len(), 3);
    // Not acknowledged: all of it again.
    broker.discovery.connected();
    assert_eq!(broker.topics()[1..], cleared);
    assert_eq!((broker.discovery.entities, broker.discovery.devices.len()), (0, 0));
    broker.discovery.readings(&batch(&kiln, vec![number("c", "V")]));
    broker.discovery.remove(&kiln);
    assert_eq!(broker.topics(), [""; 0]);
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, vec![number("a", "V")]));
    assert_eq!(broker.topics(), ["binary_sensor/gw-1__k/_connection", "sensor/gw-1__k/a"]);
}

#[test]
fn a_removed_device_that_comes_back_meanwhile_stays() {
    let mut broker = Broker::new(Payload::Json);
    let kiln = device("k");
    broker.discovery.hello(&kiln, None, None);
    broker.discovery.readings(&batch(&kiln, vec![number("a", "V")]));
    broker.all();
    broker.discovery.remove(&kiln);
    let sent: Vec<u64> =
        std::iter::from_fn(|| broker.take()).map(|announced| announced.number).collect();
    broker.discovery.hello(&kiln, None, None);
    for number in sent {
        broker.discovery.answered(number);
    }
    assert_eq!(broker.topics(), ["binary_sensor/gw-1__k/_connection", "sensor/gw-1__k/a"]);
    assert_eq!(broker.discovery.entities, 2);
}

#[test]
fn the_table_is_bounded_and_says_so_once() {
    let mut broker = Broker::new(Payload::Json);
    let discovery = &mut broker.discovery;
    let greedy = device("greedy");
    discovery.hello(&greedy, None, None);
    for n in 0..MAX_PER_DEVICE + 10 {
        discovery.readings(&batch(&greedy, vec![number(&format!("r{n}"), "V")]));
    }
    assert_eq!(discovery.entities, 1 + MAX_PER_DEVICE);
    assert_eq!(discovery.take_left_out(), Some(greedy));
    for n in 0..MAX_ENTITIES {
        let id = device(&format!("d{n}"));
        discovery.hello(&id, None, None);
        discovery.readings(&batch(&id, vec![number("r", "V")]));
    }
    assert_eq!(discovery.entities, MAX_ENTITIES);
    assert_eq!(discovery.take_left_out(), None);
}

#[test]
fn two_gateways_or_readings_never_share_a_topic_or_an_identity() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for gateway in ["a", "a_b", "a__b", "a b", "ä", "A", "a_5fb", "a.b"] {
        let place = Place { gateway: gateway.into(), ..place(Payload::Json) };
        let mut broker = Broker { discovery: Discovery::new(place), ..Broker::new(Payload::Json) };
        broker.discovery.connected();
        for id in ["c", "b__c", "_c", "b", "5fb"] {
            let Ok(id) = DeviceId::new(id) else { continue };
            broker.discovery.hello(&id, None, None);
            let names = ["t", "t/1", "t.1", "t_1", "t_2f1", "t-1", "t:1", "T"];
            let readings = names.iter().map(|name| number(name, "V")).collect();
            broker.discovery.readings(&batch(&id, readings));
        }
        for (topic, payload) in broker.all() {
            let levels: Vec<&str> = topic.split('/').collect();
            assert_eq!(levels.len(), 5, "{topic}");
            for level in &levels[2..4] {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
                assert!(level.bytes().all(allowed), "{topic}");
            }
            let config: serde_json::Value = serde_json::from_str(&payload).unwrap();
            let identity = config["unique_id"].as_str().unwrap().to_owned();
            assert_eq!(seen.insert(topic, identity), None);
        }
    }
    let mut identities: Vec<&String> = seen.values().collect();
    let count = identities.len();
    identities.sort();
    identities.dedup();
    assert_eq!((identities.len(), count), (count, 8 * (1 + 4 * 9)));
}
