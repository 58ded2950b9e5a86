//! The live feed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value as Json, json};
use tidegate::core::batch::Value;
use tidegate::dashboard::{Fleet, Limits};
use tidegate::ports::{Clock, Feed, UplinkState};
use tokio_tungstenite::tungstenite::Message;

use super::support::*;

#[tokio::test]
async fn a_snapshot_comes_first_and_then_what_changes() {
    let gateway = Gateway::start();
    gateway.up("a");
    gateway.send("a", vec![number("x", 1.0, 1.0), number("y", 1.0, 1.0)]);
    let mut feed = gateway.watch("/api/v1/stream").await;

    let snapshot = feed.next().await;
    assert_eq!(keys(&snapshot), ["devices", "gateway", "status", "time", "type", "version"]);
    assert_eq!((&snapshot["type"], &snapshot["gateway"]), (&json!("snapshot"), &json!("gw-1")));
    assert!((snapshot["time"].as_f64().unwrap() - SystemClock.unix()).abs() < 10.0);
    assert_eq!(snapshot["devices"], gateway.get("/api/v1/devices").json());
    let mut status = gateway.get("/api/v1/status").json();
    status["uptime_s"] = snapshot["status"]["uptime_s"].clone();
    assert_eq!(snapshot["status"], status);

    gateway.send("a", vec![reading("x", Some("Cel"), Value::Number(2.5), 2.0)]);
    assert_eq!(
        feed.news().await,
        json!({"type": "readings", "device": "a", "last_seen": 2.0, "interval_s": 1.0,
               "readings": [{"n": "x", "u": "Cel", "v": 2.5, "t": 2.0}]})
    );
    gateway.fleet.device_down(&id("a"), 3.0);
    let device = feed.news().await;
    assert_eq!(
        device,
        json!({"type": "device", "device": "a", "id": "a", "connected": false, "since": 3.0,
               "last_seen": 2.0, "model": "K\"1", "firmware": null,
               "address": "10.0.0.7:4711", "commands": ["set", "identify"],
               "interval_s": 1.0})
    );
}

#[tokio::test]
async fn the_status_comes_at_once_when_it_changes_and_each_second_anyway() {
    let gateway = Gateway::start();
    let mut feed = gateway.watch("/api/v1/stream").await;
    assert_eq!(feed.next().await["type"], "snapshot");
    gateway.health.set_uplink(|uplink| uplink.state = UplinkState::Connected);
    let start = Instant::now();
    let mut repeats = 0;
    while repeats < 2 {
        let message = feed.next().await;
        assert_eq!(message["type"], "status");
        assert!(message["time"].is_f64() && message["spool"].is_object(), "{message}");
        repeats += usize::from(message["uplink"]["state"] == "connected");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn snapshot_and_news_together_give_what_the_api_gives() {
    let gateway = Gateway::start();
    for device in 0..40 {
        gateway.up(&format!("d{device}"));
    }
    let mut pictures = Vec::new();
    let mut feeds = Vec::new();
    // Viewers come while values change.
    for round in 0..200_u32 {
        let device = format!("d{}", round * 7 % 45);
        match round % 50 {
            10 => gateway.fleet.device_down(&id(&device), f64::from(round)),
            20 => gateway.up(&format!("d{}", 40 + round / 50)),
            _ => gateway.send(
                &device,
                vec![
                    number("x", f64::from(round), f64::from(round)),
                    number(&format!("n{}", round % 5), 1.0, f64::from(round)),
                ],
            ),
        }
        if round % 40 == 0 {
            feeds.push(gateway.watch("/api/v1/stream").await);
            pictures.push(json!({}));
        }
    }
    // Listed last in its tick, and last in the order of names.
    gateway.up("end");
    for (feed, picture) in feeds.iter_mut().zip(&mut pictures) {
        while picture["end"]["connected"] != true {
            apply(picture, &feed.next().await);
        }
    }
    let devices = gateway.get("/api/v1/devices").json();
    for picture in pictures {
        assert_eq!(picture.as_object().unwrap().len(), devices.as_array().unwrap().len());
        for device in devices.as_array().unwrap() {
            assert_eq!(&picture[device["id"].as_str().unwrap()], device);
        }
    }
}

#[tokio::test]
async fn filters_leave_out_other_devices_and_names() {
    let gateway = Gateway::start();
    for device in ["a", "b", "c"] {
        gateway.up(device);
        gateway.send(device, vec![number("x", 1.0, 1.0), number("y", 1.0, 1.0)]);
    }
    let mut by_device = gateway.watch("/api/v1/stream?device=b&device=later").await;
    let mut by_name = gateway.watch("/api/v1/stream?name=y").await;
    let mut by_both = gateway.watch("/api/v1/stream?name=y&device=c&unknown=1").await;
    let ids = |snapshot: &Json| -> Vec<String> {
        let devices = snapshot["devices"].as_array().unwrap();
        devices.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&by_device.next().await), ["b"]);
    let snapshot = by_name.next().await;
    assert_eq!(ids(&snapshot), ["a", "b", "c"]);
    assert_eq!(keys(&snapshot["devices"][0]["readings"]), ["y"]);
    assert_eq!(ids(&by_both.next().await), ["c"]);

    for device in ["a", "b", "c"] {
        gateway.send(device, vec![number("x", 2.0, 2.0), number("y", 2.0, 2.0)]);
    }
    gateway.up("later");
    let news = by_device.news().await;
    assert_eq!((&news["device"], news["readings"].as_array().unwrap().len()), (&json!("b"), 2));
    assert_eq!(by_device.news().await["device"], "later");
    for device in ["a", "b", "c"] {
        let news = by_name.news().await;
        assert_eq!(
            news,
            json!({"type": "readings", "device": device, "last_seen": 2.0, "interval_s": 1.0,
                   "readings": [{"n": "y", "v": 2.0, "t": 2.0}]})
        );
    }
    assert_eq!(by_both.news().await["device"], "c");
}

#[tokio::test]
async fn a_viewer_that_reads_nothing_holds_up_nobody_and_then_gets_the_newest() {
    let gateway = Gateway::start();
    let text = |round: u32| Value::Text(format!("{round}-{}", "x".repeat(900)).into());
    let round_of = |message: &Json| -> Option<u32> {
        let text = message["readings"].as_array()?.first()?["vs"].as_str()?;
        text.split('-').next()?.parse().ok()
    };
    for device in 0..400 {
        gateway.up(&format!("d{device:03}"));
    }
    let mut slow = gateway.watch("/api/v1/stream").await;
    let mut quick = gateway.watch("/api/v1/stream").await;
    assert_eq!(quick.next().await["type"], "snapshot");

    // Each round is about 400 KB: after a few, the slow viewer's connection is full.
    let rounds = 60;
    let mut longest = Duration::ZERO;
    for round in 1..=rounds {
        let start = Instant::now();
        for device in 0..400 {
            let value = reading("s", None, text(round), f64::from(round));
            gateway.send(&format!("d{device:03}"), vec![value]);
        }
        longest = longest.max(start.elapsed());
        // The quick one keeps up with every round.
        loop {
            let message = quick.next().await;
            if message["device"] == "d399" && round_of(&message) == Some(round) {
                break;
            }
        }
    }
    assert!(longest < Duration::from_secs(1), "ingestion was held up for {longest:?}");

    let mut received = 0;
    let mut newest = std::collections::HashSet::new();
    while newest.len() < 400 {
        let message = slow.next().await;
        if message["type"] == "readings" {
            received += 1;
            if round_of(&message) == Some(rounds) {
                newest.insert(message["device"].as_str().unwrap().to_owned());
            }
        }
    }
    assert!(received < 400 * rounds / 2, "older values are skipped: {received} messages");
}

#[tokio::test]
async fn a_device_that_is_dropped_from_the_table_is_said_to_be() {
    let fleet = Fleet::with_limits(Limits { devices: 2, ..Limits::default() });
    let gateway = Gateway::with(fleet);
    gateway.up("a");
    gateway.up("b");
    gateway.fleet.device_down(&id("a"), 1.0);
    let mut feed = gateway.watch("/api/v1/stream").await;
    assert_eq!(feed.next().await["devices"].as_array().unwrap().len(), 2);
    gateway.up("c");
    let gone = feed.news().await;
    assert_eq!((&gone["device"], &gone["forgotten"]), (&json!("a"), &json!(true)));
    assert_eq!(feed.news().await["device"], "c");
}

#[tokio::test]
async fn a_large_snapshot_comes_in_fragments_of_one_message() {
    let gateway = Gateway::start();
    for device in 0..1500 {
        gateway.up(&format!("d{device:04}"));
    }
    let mut feed = gateway.watch("/api/v1/stream").await;
    let snapshot = feed.next().await;
    assert_eq!(snapshot["devices"], gateway.get("/api/v1/devices").json());
}

#[tokio::test]
async fn viewers_are_counted_and_one_that_talks_is_told_not_to() {
    let gateway = Gateway::start();
    let mut feed = gateway.watch("/api/v1/stream").await;
    feed.next().await;
    assert_eq!(gateway.metrics.viewers.get(), 1);
    feed.socket.send(Message::text("hello")).await.unwrap();
    let close = loop {
        if let Message::Close(frame) = feed.socket.next().await.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(u16::from(close.code), 1008);
    let start = Instant::now();
    while gateway.metrics.viewers.get() != 0 {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn events_carry_the_same_feed() {
    let gateway = Gateway::start();
    gateway.up("a");
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = "GET /api/v1/events?device=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    let mut read_until = |wanted: &str| {
        let mut buffer = [0; 4096];
        while !text.contains(wanted) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "ended before {wanted}: {text}");
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    };
    read_until("data: {\"type\":\"snapshot\"");
    gateway.send("a", vec![number("x", 7.0, 1.0)]);
    read_until("data: {\"type\":\"readings\",\"device\":\"a\"");
    read_until("data: {\"type\":\"status\"");
    assert!(text.contains("text/event-stream"));
    drop(stream);
}

#[tokio::test]
async fn stopping_says_goodbye_to_viewers_in_time() {
    let gateway = Gateway::start();
    let mut feed = gateway.watch("/api/v1/stream").await;
    feed.next().await;
    let address = gateway.address();
    let mut events = TcpStream::connect(address).unwrap();
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    events.set_read_timeout(Some(DEADLINE)).unwrap();
    events.read_exact(&mut [0; 15]).unwrap();
    assert!(gateway.handle.stop(Duration::from_secs(5)).await);
    let close = loop {
        match feed.socket.next().await {
            Some(Ok(Message::Close(frame))) => break frame.unwrap(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1001);
    let mut rest = Vec::new();
    events.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the events end as HTTP says");
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn hundreds_of_viewers_are_served_and_counted() {
    let gateway = Gateway::start();
    let mut feeds = Vec::new();
    for _ in 0..400 {
        feeds.push(gateway.watch("/api/v1/stream").await);
    }
    let start = Instant::now();
    for feed in &mut feeds {
        assert_eq!(feed.next().await["type"], "snapshot");
    }
    assert!(start.elapsed() < DEADLINE);
    assert_eq!(gateway.metrics.viewers.get(), 400);
}
