//! `/api/v1/log`, and the log in the feed.

use log::Level;
use serde_json::Value as Json;
use tidegate::host::tail::{BYTES, ENTRIES, ENTRY_BYTES};

use super::support::*;

fn numbers(answer: &Answer) -> Vec<u64> {
    let json = answer.json();
    let entries = json["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect()
}

#[test]
fn the_log_is_told_by_level_device_and_count_oldest_first() {
    let gateway = Gateway::start();
    assert!(numbers(&gateway.get("/api/v1/log")).is_empty());
    note(&gateway.log, Level::Info, "one", Some("kiln-3"));
    note(&gateway.log, Level::Debug, "two", Some("kiln-3"));
    note(&gateway.log, Level::Error, "three", None);
    note(&gateway.log, Level::Warn, "four", Some("kiln-4"));
    for (query, wanted) in [
        ("", &[1, 3, 4][..]),
        ("?level=debug", &[1, 2, 3, 4]),
        ("?level=trace", &[1, 2, 3, 4]),
        ("?level=warn", &[3, 4]),
        ("?level=error", &[3]),
        ("?limit=2", &[3, 4]),
        ("?limit=0", &[]),
        ("?device=kiln-3&level=debug", &[1, 2]),
        ("?device=absent", &[]),
    ] {
        assert_eq!(numbers(&gateway.get(&format!("/api/v1/log{query}"))), wanted, "{query}");
    }
    for bad in ["level=loud", "level=off", "limit=-1", "limit=1001", "limit=x", "limit=1&limit=2"] {
        let answer = gateway.get(&format!("/api/v1/log?{bad}"));
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!answer.error().is_empty());
    }
}

#[test]
fn a_flood_leaves_the_newest_in_bounded_memory() {
    let gateway = Gateway::start();
    let long = "x".repeat(10_000);
    (0..5000).for_each(|_| note(&gateway.log, Level::Info, &long, Some(&long)));
    (0..50).for_each(|_| note(&gateway.log, Level::Info, "short", None));
    let answer = gateway.get("/api/v1/log?limit=1000");
    let numbers = numbers(&answer);
    assert_eq!(numbers.last(), Some(&5050));
    assert!(numbers.len() > 50 && numbers.len() <= ENTRIES, "{}", numbers.len());
    // The names and marks of JSON come on top of what is kept.
    assert!(answer.body.len() < BYTES + ENTRIES * 200, "{}", answer.body.len());
    let json = answer.json();
    let entry = &json["entries"][0];
    let text = entry["message"].as_str().unwrap().len()
        + entry["fields"]["device"].as_str().unwrap().len();
    assert!(text <= ENTRY_BYTES, "{text}");
}

async fn next_log(feed: &mut Feeding) -> Json {
    loop {
        let message = feed.news().await;
        if message["type"] == "log" {
            return message;
        }
    }
}

#[tokio::test]
async fn the_feed_brings_what_is_logged_after_the_snapshot() {
    let gateway = Gateway::start();
    note(&gateway.log, Level::Error, "before anyone watched", None);
    let mut all = gateway.watch("/api/v1/stream").await;
    let mut serious = gateway.watch("/api/v1/stream?log=warn").await;
    let mut one = gateway.watch("/api/v1/stream?device=kiln-3&log=debug").await;
    let mut named = gateway.watch("/api/v1/stream?name=x").await;
    for feed in [&mut all, &mut serious, &mut one, &mut named] {
        assert_eq!(feed.next().await["type"], "snapshot");
    }
    note(&gateway.log, Level::Debug, "d", Some("kiln-3"));
    note(&gateway.log, Level::Info, "i", Some("kiln-4"));
    note(&gateway.log, Level::Warn, "w", None);
    let first = next_log(&mut all).await;
    assert_eq!((&first["message"], &first["number"]), (&"i".into(), &3.into()));
    assert_eq!(first["fields"]["device"], "kiln-4");
    assert_eq!(next_log(&mut all).await["message"], "w");
    assert_eq!(next_log(&mut serious).await["message"], "w");
    assert_eq!(next_log(&mut one).await["message"], "d");
    assert_eq!(next_log(&mut named).await["message"], "i");
}

#[tokio::test]
async fn who_wants_no_log_gets_none() {
    let gateway = Gateway::start();
    let mut feed = gateway.watch("/api/v1/stream?log=off").await;
    assert_eq!(feed.next().await["type"], "snapshot");
    note(&gateway.log, Level::Error, "e", None);
    gateway.up("a");
    assert_eq!(feed.news().await["type"], "device");
    assert_eq!(gateway.get("/api/v1/events?log=all").status, 400);
}

#[tokio::test]
async fn a_flood_reaches_viewers_in_part_and_they_are_told_so() {
    let gateway = Gateway::start();
    let mut feed = gateway.watch("/api/v1/stream").await;
    assert_eq!(feed.next().await["type"], "snapshot");
    let count = 900_u64;
    (0..count).for_each(|_| note(&gateway.log, Level::Info, "again", None));
    let (mut told, mut left_out) = (0, 0);
    // A slow machine may see the flood in several ticks.
    while told + left_out < count {
        let message = next_log(&mut feed).await;
        match message["fields"]["left_out"].as_str() {
            Some(more) => left_out += more.parse::<u64>().unwrap(),
            None => told += 1,
        }
    }
    assert_eq!(told + left_out, count);
    assert!(told >= 50);
}
