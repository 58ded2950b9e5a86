//! What is said once connected, and every Close code that a message can bring.

use std::time::Duration;

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::harness::*;
use crate::config::{Auth, Devices};
use crate::core::frame::GatewayMessage;
use crate::ports::{Resume, Submitted};

#[tokio::test]
async fn hello_is_answered_with_welcome_and_shown() {
    let heartbeat_interval = Duration::from_millis(12_500);
    let settings = Devices { window: 5, max_frame: 2048, heartbeat_interval, ..settings() };
    let mut bench = Bench::start(&settings, parse(""));
    let mut client = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
    client.send(&hello(Some(7))).await;
    let opened = bench.opened().await;
    assert_eq!((opened.device.as_str(), opened.epoch), ("kiln-3", Some(7)));
    opened.welcome.send(Resume { epoch: 7, acked: 41 }).unwrap();
    let welcome = client.welcome().await;
    assert_eq!((welcome.gateway.as_str(), welcome.acked), ("gw-test", 41));
    assert_eq!((welcome.window, welcome.max_frame, welcome.heartbeat), (5, 2048, 13));
    assert!(welcome.time > 1_700_000_000.0);
    assert_eq!(bench.connected(), 1);
    let facts = bench.shown(|shown| shown.up[&opened.device].clone());
    assert_eq!((facts.model.as_deref(), facts.address.as_str()), (Some("kiln"), "127.0.0.1"));
    assert_eq!(facts.commands, ["heat"]);
}

#[tokio::test]
async fn a_batch_reaches_the_engine_resolved_and_one_ack_covers_many() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=10).map(|seq| readings(Some(seq), "a"))).await;
    let mut batches = Vec::new();
    while batches.len() < 10 {
        batches.extend(bench.batches().await);
    }
    let Submitted::Batch(first) = &batches[0] else { panic!("{batches:?}") };
    assert_eq!((first.device.as_str(), first.epoch, first.seq), ("kiln-3", 7, Some(1)));
    assert_eq!(first.readings[0].name, "a");
    assert_eq!(bench.metrics.batches_received.get(), 10);
    link.settle(10, 10);
    assert_eq!(client.receive().await, GatewayMessage::Ack { seq: 10 }, "one for all");
    link.repeat_ack();
    assert_eq!(client.receive().await, GatewayMessage::Ack { seq: 10 }, "again on demand");
    link.settle(10, 10);
    link.settle(11, 11);
    assert_eq!(client.receive().await, GatewayMessage::Ack { seq: 11 }, "none for nothing new");
    assert_eq!(bench.shown(|shown| shown.seen), 1, "the feed is told seldom");
}

#[tokio::test]
async fn messages_that_come_together_are_one_event() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    let together: Vec<u8> =
        (1..=8).flat_map(|seq| frame(0x82, &readings(Some(seq), "a"), MASK)).collect();
    client.send_raw(&together).await;
    assert_eq!(bench.batches().await.len(), 8);
}

#[tokio::test]
async fn a_bad_pack_is_rejected_in_its_turn_and_the_session_goes_on() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_bytes(malformed(None)).await;
    client.send_bytes(malformed(Some(1))).await;
    client.send_bytes(readings(Some(2), "a")).await;
    for expected in [None, Some(1)] {
        let GatewayMessage::Reject { seq, code, reason } = client.receive().await else { panic!() };
        assert_eq!((seq, code), (expected, 1));
        assert!(!reason.is_empty());
    }
    assert_eq!(bench.seqs(2).await, [Some(1), Some(2)], "the one without a number goes nowhere");
    link.settle(2, 2);
    client.acked(2).await;
    let malformed = crate::metrics::Code { code: "1" };
    assert_eq!(bench.metrics.batches_rejected.get_or_create(&malformed).get(), 2);
    assert_eq!(bench.metrics.batches_received.get(), 3);
}

#[tokio::test]
async fn a_name_that_is_not_permitted_is_rejected_with_2() {
    let settings = Devices { auth: Auth::Token, ..settings() };
    let allowed = entry("kiln-3", "t", "readings = [\"temp*\"]");
    let mut bench = Bench::start(&settings, parse(&allowed));
    let headers = [("Authorization", "Bearer t")];
    let mut client = Client::connect(bench.addr, "kiln-3", &headers).await.unwrap();
    client.send(&hello(None)).await;
    let opened = bench.opened().await;
    opened.welcome.send(Resume { epoch: 99, acked: 0 }).unwrap();
    client.welcome().await;
    client.send_bytes(readings(Some(1), "humidity")).await;
    let GatewayMessage::Reject { seq, code, reason } = client.receive().await else { panic!() };
    assert_eq!((seq, code), (Some(1), 2));
    assert!(reason.contains("humidity"), "{reason}");
    // What a device may do can change while it is connected.
    bench.registry.send_replace(parse(&entry("kiln-3", "t", "readings = [\"hum*\"]")).into());
    let answer = loop {
        client.send_bytes(readings(None, "temperature")).await;
        let answer = tokio::time::timeout(Duration::from_millis(20), client.receive()).await;
        if let Ok(answer) = answer {
            break answer;
        }
    };
    assert!(matches!(answer, GatewayMessage::Reject { code: 2, .. }), "{answer:?}");
}

#[tokio::test]
async fn a_message_out_of_turn_is_1002() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut client = Client::connect(bench.addr, "early", &[]).await.unwrap();
    client.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(client.close_frame().await.0, 1002);
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    client.send(&hello(Some(7))).await;
    assert_eq!(client.close_frame().await.0, 1002);
    assert_eq!(bench.closed().await, greeted.session);
}

#[tokio::test]
async fn silence_instead_of_hello_is_1002_at_the_deadline() {
    let hello_timeout = Duration::from_millis(200);
    let bench = Bench::start(&Devices { hello_timeout, ..settings() }, parse(""));
    let mut client = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
    let (code, reason) = client.close_frame().await;
    assert_eq!((code, reason.as_str()), (1002, "no HELLO within 200ms"));
}

#[tokio::test]
async fn a_text_message_is_1003() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, _) = bench.greeted("kiln-3").await;
    client.send_message(Message::text("[1]")).await;
    assert_eq!(client.close_frame().await.0, 1003);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_1007_and_what_came_before_counts() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    client.send_together([readings(Some(1), "a"), vec![0xff]]).await;
    assert_eq!(client.close_frame().await.0, 1007);
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    assert_eq!(bench.closed().await, greeted.session);
}

#[tokio::test]
async fn a_message_in_pieces_with_pings_between_is_one_message() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    let message = readings(Some(1), "a");
    let (first, rest) = message.split_at(1);
    client.send_raw(&frame(0x02, first, MASK)).await;
    client.send_raw(&frame(0x89, b"?", MASK)).await;
    assert_eq!(client.next().await, Message::Pong("?".into()));
    let (last, middle) = rest.split_last().unwrap();
    for byte in middle {
        client.send_raw(&frame(0x00, &[*byte], MASK)).await;
    }
    client.send_raw(&frame(0x80, &[*last], MASK)).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    link.settle(1, 1);
    client.acked(1).await;
}

#[tokio::test]
async fn empty_pieces_without_end_are_1009() {
    let mut bench = Bench::start(&Devices { max_frame: 1000, ..settings() }, parse(""));
    let (mut client, _) = bench.greeted("kiln-3").await;
    let mut pieces = frame(0x02, &[], MASK);
    (0..5_000).for_each(|_| pieces.extend(frame(0x00, &[], MASK)));
    client.send_raw(&pieces).await;
    let (code, reason) = client.close_frame().await;
    assert_eq!((code, reason.as_str()), (1009, "a message in too many fragments"));
}

#[tokio::test]
async fn pings_are_answered_with_what_they_carry() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut client = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
    client.send_message(Message::Ping("before HELLO".into())).await;
    assert_eq!(client.next().await, Message::Pong("before HELLO".into()));
    drop(client);
    let (mut client, _) = bench.greeted("kiln-4").await;
    client.send_message(Message::Ping("after".into())).await;
    assert_eq!(client.next().await, Message::Pong("after".into()));
}

#[tokio::test]
async fn a_close_of_the_device_is_answered() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    client.send_raw(&frame(0x88, b"\x03\xe8bye", MASK)).await;
    let Message::Close(Some(close)) = client.next().await else { panic!("no Close") };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (1000, "bye"));
    assert!(soon("the end", client.websocket.next()).await.is_none_or(|last| last.is_err()));
    assert_eq!(bench.closed().await, greeted.session);
    assert_eq!((bench.connected(), bench.shown(|shown| shown.downs)), (0, 1));
}
