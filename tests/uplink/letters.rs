//! Messages of the engine's own: results, losses.

use std::collections::{BTreeSet, VecDeque};

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tidegate::config::Mqtt;
use tidegate::ports::{Message, Publisher};

use crate::broker::Broker;
use crate::driver::{Driver, batches, settings};

fn result(n: u64) -> Message {
    Message {
        topic: "devices/kiln-3/results".to_owned(),
        payload: format!("{{\"id\":\"{n}\"}}").into_bytes(),
        content_type: Some("application/json"),
        ..Message::default()
    }
}

#[tokio::test]
async fn a_letter_is_reported_once_the_broker_has_acknowledged_it() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    let mut peer = driver.beside(broker.accept()).await;
    driver.until("room", |driver| driver.uplink.send_room() > 0).await;
    driver.send(1, result(1));
    driver.send(
        2,
        Message {
            topic: "apps/7/answers".to_owned(),
            absolute: true,
            correlation: Some(vec![0, 255, 7]),
            ..result(2)
        },
    );
    driver.send(3, Message { retain: true, ..result(3) });
    let sent = driver.beside(peer.read_publishes(3)).await;
    assert!(driver.sent.is_empty(), "not before the PUBACK");
    assert_eq!(sent[0].topic, "tidegate/gw-1/devices/kiln-3/results");
    assert_eq!(sent[0].payload, "{\"id\":\"1\"}");
    assert_eq!(sent.iter().map(|publish| publish.retain).collect::<Vec<_>>(), [false, false, true]);
    let properties = sent[0].properties.clone().unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.correlation_data, None);
    assert_eq!(sent[1].topic, "apps/7/answers");
    let correlation = sent[1].properties.clone().unwrap().correlation_data.unwrap();
    assert_eq!(correlation[..], [0, 255, 7]);
    peer.ack(sent[0].pkid).await;
    peer.answer(sent[1].pkid, PubAckReason::NotAuthorized).await;
    peer.answer(sent[2].pkid, PubAckReason::NoMatchingSubscribers).await;
    driver.until("answered", |driver| driver.sending.is_empty()).await;
    assert_eq!(driver.sent, [1, 3]);
    assert_eq!(driver.send_refused[&2], "not authorised (0x87)");
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn letters_have_room_of_their_own_and_a_lost_connection_forgets_them() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    assert_eq!(driver.uplink.send_room(), 0, "not connected");
    let mut peer = driver.beside(broker.accept()).await;
    driver.until("room", |driver| driver.uplink.send_room() > 0).await;
    let room = driver.uplink.send_room() as u64;
    for n in 1..=room {
        driver.send(n, result(n));
    }
    assert_eq!(driver.uplink.send_room(), 0);
    let first = driver.beside(peer.read_publish()).await;
    peer.ack(first.pkid).await;
    driver.until("one is sent", |driver| driver.sent == [1]).await;
    assert_eq!(driver.uplink.send_room(), 1);
    drop(peer);
    driver.until("the loss is seen", |driver| driver.downs.len() == 1).await;
    assert_eq!(driver.uplink.send_room(), 0);
    let mut peer = driver.beside(broker.accept()).await;
    driver.until("room", |driver| driver.uplink.send_room() as u64 == room).await;
    driver.send(2, result(2));
    let again = driver.beside(peer.read_publish()).await;
    assert_eq!(again.payload, "{\"id\":\"2\"}", "nothing was remembered but this");
}

#[tokio::test]
async fn a_letter_that_no_broker_could_take_is_refused_at_once() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    let accepting = broker.accept_with(|limits| limits.max_packet_size = Some(500));
    let mut peer = driver.beside(accepting).await;
    driver.until("room", |driver| driver.uplink.send_room() > 0).await;
    let absolute = |topic: &str| Message { topic: topic.into(), absolute: true, ..result(0) };
    driver.send(1, absolute(""));
    driver.send(2, absolute("answers/+"));
    driver.send(3, absolute("answers/#"));
    driver.send(4, absolute(&"x".repeat(70_000)));
    driver.send(5, Message { correlation: Some(vec![0; 70_000]), ..result(0) });
    driver.send(6, Message { payload: vec![b'x'; 600], ..result(0) });
    driver.send(7, result(7));
    let sent = driver.beside(peer.read_publish()).await;
    peer.ack(sent.pkid).await;
    driver.until("all answered", |driver| driver.sending.is_empty()).await;
    assert_eq!(driver.sent, [7]);
    for (token, words) in [
        (1, "empty"),
        (2, "wildcard"),
        (3, "wildcard"),
        (4, "65535"),
        (5, "correlation"),
        (6, "maximum packet size of 500"),
    ] {
        assert!(driver.send_refused[&token].contains(words), "{:?}", driver.send_refused);
    }
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn readings_announcements_and_letters_all_get_on_whatever_the_window() {
    for max_inflight in [1, 2, 5] {
        let broker = Broker::start().await;
        let settings = Mqtt { max_inflight, ..settings(broker.port) };
        let mut driver = Driver::new(&settings, batches(40));
        driver.hands_over = false;
        let mut peer = driver.beside(broker.accept()).await;
        driver.until("room", |driver| driver.uplink.send_room() >= 20).await;
        for n in 0..20 {
            driver.announce(&format!("devices/d{n}/status"), "{}", true);
            driver.send(n, result(n));
        }
        driver.hands_over = true;
        let script = async {
            let mut kinds = VecDeque::new();
            while kinds.len() < 80 {
                let publish = peer.read_publish().await;
                kinds.push_back(publish.topic.rsplit(|b| *b == b'/').next().unwrap().to_vec());
                peer.ack(publish.pkid).await;
            }
            (kinds, peer)
        };
        let (kinds, _peer) = driver.beside(script).await;
        driver.until("all answered", |d| d.all_settled() && d.sending.is_empty()).await;
        assert_eq!(driver.sent, (0..20).collect::<Vec<_>>(), "in order");
        // None waits for all of another.
        let early: BTreeSet<_> = kinds.iter().take(20).collect();
        assert_eq!(early.len(), 3, "window of {max_inflight}: {kinds:?}");
    }
}
