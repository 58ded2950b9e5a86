//! The description of the API against the running dashboard.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use jsonschema::Validator;
use log::Level;
use serde_json::{Value as Json, json};
use tidegate::core::batch::Value;

use super::commands;
use super::support::*;

fn document(gateway: &Gateway) -> Json {
    gateway.get("/api/v1/openapi.json").json()
}

/// The schema at `pointer` with all that it refers to.
fn schema(document: &Json, pointer: &str) -> Validator {
    // Braces must not stand in a URI.
    let reference = format!("#{pointer}").replace('{', "%7B").replace('}', "%7D");
    let (components, paths) = (&document["components"], &document["paths"]);
    let schema = json!({ "$ref": reference, "components": components, "paths": paths });
    jsonschema::draft202012::new(&schema).unwrap()
}

/// The document with every object closed, so that a member that is not described is found. Parts
/// of an `allOf` stay open: each sees the members of the others.
fn closed(document: &Json) -> Json {
    fn close(json: &mut Json) {
        match json {
            Json::Object(members) => {
                let is_schema = members.get("type").is_some_and(|kind| {
                    kind == "object"
                        || kind.as_array().is_some_and(|all| all.contains(&"object".into()))
                });
                if is_schema && members.contains_key("properties") {
                    members.entry("additionalProperties").or_insert(false.into());
                }
                members.values_mut().for_each(close);
            }
            Json::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut closed = document.clone();
    close(&mut closed);
    closed
}

fn check(validator: &Validator, what: &str, json: &Json) {
    let errors: Vec<_> = validator
        .iter_errors(json)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:?} in {json}");
}

fn escaped(path: &str) -> String {
    path.replace('/', "~1")
}

/// A gateway with something of everything.
fn busy() -> Gateway {
    let gateway = Gateway::start();
    gateway.listening.store(true, Ordering::Release);
    gateway.health.set_spool(|spool| {
        spool.open = true;
        spool.oldest = Some(1_763_800_000.0);
    });
    for device in ["kiln-3", "pump-1", "away"] {
        gateway.up(device);
    }
    let time = 1_763_800_001.5;
    gateway.send(
        "kiln-3",
        vec![
            reading("temperature", Some("Cel"), Value::Number(21.5), time),
            reading("state", None, Value::Text("on".into()), time),
            reading("door", None, Value::Bool(true), time),
            reading("raw", None, Value::Data([1, 2, 3].into()), time),
        ],
    );
    note(&gateway.log, Level::Warn, "something", Some("kiln-3"));
    note(&gateway.log, Level::Info, "something else", None);
    for record in commands::of_every_kind() {
        gateway.book.put(record);
    }
    gateway
}

/// Paths of the document to ask, and what to put for their parameters. The feed has no end.
const ASKED: [(&str, &str); 27] = [
    ("/healthz", "/healthz"),
    ("/readyz", "/readyz"),
    ("/api/v1/status", "/api/v1/status"),
    ("/api/v1/gateway", "/api/v1/gateway"),
    ("/api/v1/log", "/api/v1/log"),
    ("/api/v1/log", "/api/v1/log?level=trace&limit=1"),
    ("/api/v1/log", "/api/v1/log?level=x"),
    ("/api/v1/openapi.json", "/api/v1/openapi.json"),
    ("/api/v1/session", "/api/v1/session"),
    ("/api/v1/audit", "/api/v1/audit"),
    ("/api/v1/audit", "/api/v1/audit?limit=1001"),
    ("/api/v1/devices", "/api/v1/devices"),
    ("/api/v1/devices/{device}", "/api/v1/devices/kiln-3"),
    ("/api/v1/devices/{device}", "/api/v1/devices/pump-1"),
    ("/api/v1/devices/{device}", "/api/v1/devices/absent"),
    ("/api/v1/devices/{device}/history", "/api/v1/devices/kiln-3/history"),
    ("/api/v1/devices/{device}/history", "/api/v1/devices/kiln-3/history?name=state"),
    ("/api/v1/devices/{device}/history", "/api/v1/devices/kiln-3/history?seconds=0"),
    ("/api/v1/commands", "/api/v1/commands"),
    ("/api/v1/commands", "/api/v1/commands?state=done"),
    ("/api/v1/commands", "/api/v1/commands?state=x"),
    ("/api/v1/commands/{id}", "/api/v1/commands/p-1"),
    ("/api/v1/commands/{id}", "/api/v1/commands/absent"),
    ("/api/v1/stream", "/api/v1/stream"),
    ("/api/v1/events", "/api/v1/events?log=x"),
    ("/{file}", "/absent.js"),
    ("/assets/{file}", "/assets/absent.js"),
];

#[test]
fn every_json_answer_is_as_it_is_described() {
    let gateway = busy();
    let document = closed(&document(&gateway));
    assert_eq!(document["info"]["version"], "1.2.3");
    let mut statuses = BTreeSet::new();
    for (path, asked) in ASKED {
        let answer = gateway.get(asked);
        statuses.insert(answer.status);
        let mut pointer = format!("/paths/{}/get/responses/{}", escaped(path), answer.status);
        let response = document.pointer(&pointer).unwrap_or_else(|| panic!("{asked}: {answer:?}"));
        if let Some(reference) = response["$ref"].as_str() {
            pointer = reference.strip_prefix('#').unwrap().to_owned();
        }
        pointer.push_str("/content/application~1json/schema");
        check(&schema(&document, &pointer), asked, &answer.json());
    }
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [200, 400, 404, 426]);
}

#[test]
fn every_json_answer_is_asked_for() {
    let document = document(&Gateway::start());
    for (path, item) in document["paths"].as_object().unwrap() {
        let json = item.pointer("/get/responses/200/content/application~1json").is_some();
        assert!(!json || ASKED.iter().any(|(asked, _)| asked == path), "{path} is not checked");
    }
}

#[test]
fn methods_are_those_that_are_described() {
    let gateway = Gateway::start();
    for (path, item) in document(&gateway)["paths"].as_object().unwrap() {
        // The names of the page's files are its build's.
        if path.contains("{file}") {
            continue;
        }
        let asked = path.replace("{device}", "a").replace("{id}", "a");
        let answer =
            request(gateway.address(), &format!("TRACE {asked} HTTP/1.1\r\nHost: localhost\r\n"));
        assert_eq!(answer.status, 405, "{path}");
        let allowed: BTreeSet<_> = answer.header("allow").unwrap().split(',').collect();
        let mut described = BTreeSet::new();
        for method in item.as_object().unwrap().keys() {
            match method.as_str() {
                "get" => described.extend(["GET", "HEAD"]),
                "post" => described.extend(["POST"]),
                "delete" => described.extend(["DELETE"]),
                "parameters" => {}
                other => panic!("{other}"),
            }
        }
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn every_message_of_the_feed_is_as_it_is_described() {
    let gateway = busy();
    let document = document(&gateway);
    let message = schema(&document, "/components/schemas/FeedMessage");
    let mut feed = gateway.watch("/api/v1/stream").await;
    let mut types = BTreeSet::new();
    check(&message, "snapshot", &feed.next().await);
    gateway.up("late");
    gateway.send("kiln-3", vec![number("temperature", 22.0, 1_763_800_002.0)]);
    note(&gateway.log, Level::Error, "now", None);
    for record in commands::of_every_kind() {
        gateway.book.put(record);
    }
    while types.len() < 5 {
        let json = feed.next().await;
        let kind = json["type"].as_str().unwrap().to_owned();
        check(&message, &kind, &json);
        types.insert(kind);
    }
    assert!(!message.is_valid(&json!({ "type": "log" })));
    let wanted = ["command", "device", "log", "readings", "status"];
    assert_eq!(types.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}
