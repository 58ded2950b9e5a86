//! Brokers that withhold, reorder, refuse, cut, lie and fall silent.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use tidegate::config::PayloadFormat;
use tidegate::ports::{DownCause, UplinkState};

use crate::broker::Broker;
use crate::driver::{Driver, batches, seq, settings, wide_batch};

/// A connection that loses patience quickly.
fn impatient(port: u16) -> tidegate::config::Mqtt {
    tidegate::config::Mqtt { ack_timeout: Duration::from_millis(300), ..settings(port) }
}

#[tokio::test]
async fn a_withheld_puback_ends_the_connection_and_the_batch_is_sent_again() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&impatient(broker.port), batches(5));
    let script = async {
        let mut peer = broker.accept().await;
        let sent = peer.read_publishes(5).await;
        for publish in sent.iter().filter(|publish| seq(&publish.payload) != 2) {
            peer.ack(publish.pkid).await;
        }
        assert!(peer.read().await.is_none(), "it hangs up");
        let mut peer = broker.accept().await;
        let again = peer.read_publish().await;
        assert_eq!(seq(&again.payload), 2);
        assert!(!again.dup, "a new session knows no duplicates");
        peer.ack(again.pkid).await;
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all published", Driver::all_settled).await;
    assert_eq!(driver.downs.len(), 1);
    assert_eq!(driver.downs[0].1, DownCause::Silent);
    assert!(driver.downs[0].0.contains("no PUBACK within 0.3 s"), "{:?}", driver.downs);
}

#[tokio::test]
async fn pubacks_in_any_order_are_credited_to_their_batch() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(20));
    let script = async {
        let mut peer = broker.accept().await;
        for publish in peer.read_publishes(20).await.into_iter().rev() {
            let reason = match seq(&publish.payload) % 3 {
                0 => PubAckReason::NotAuthorized,
                1 => PubAckReason::NoMatchingSubscribers,
                _ => PubAckReason::Success,
            };
            peer.answer(publish.pkid, reason).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all settled", Driver::all_settled).await;
    for n in 0..20 {
        let refused = driver.refused.get(&n).map(String::as_str);
        assert_eq!(refused, ((n + 1) % 3 == 0).then_some("not authorised (0x87)"), "batch {n}");
    }
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn a_broker_that_forgot_the_session_gets_everything_unanswered_again_in_order() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(50));
    let script = async {
        let mut peer = broker.accept().await;
        for publish in &peer.read_publishes(50).await[..20] {
            peer.ack(publish.pkid).await;
        }
        // What is written before the end of the stream is read before it.
        drop(peer);
        let mut peer = broker.accept().await;
        let again = peer.read_publishes(30).await;
        let seqs: Vec<u64> = again.iter().map(|publish| seq(&publish.payload)).collect();
        assert_eq!(seqs, (21..=50).collect::<Vec<_>>());
        for publish in again {
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all published", Driver::all_settled).await;
    assert_eq!(driver.published.len(), 50);
    assert_eq!(driver.downs[0].1, DownCause::ClosedByBroker);
    let text = driver.metrics.text();
    assert!(text.contains("tidegate_uplink_reconnects_total 1"), "{text}");
    assert!(text.contains("tidegate_uplink_up 1"), "{text}");
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_puback_credits_nothing() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(1));
    let script = async {
        let mut peer = broker.accept().await;
        peer.read_publish().await;
        peer.send(&[0x40, 2, 0]).await;
        drop(peer);
    };
    driver.beside(script).await;
    driver.until("the loss is seen", |driver| !driver.downs.is_empty()).await;
    assert_eq!(driver.settled(), 0);
    assert_eq!(driver.downs[0].1, DownCause::ClosedByBroker);
}

#[tokio::test]
async fn a_broker_that_never_answers_connect_costs_ten_seconds_and_an_attempt() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(1));
    let started = Instant::now();
    let script = async {
        let silent = broker.accept_tcp().await;
        let mut peer = broker.accept().await;
        let publish = peer.read_publish().await;
        peer.ack(publish.pkid).await;
        (silent, peer)
    };
    let _both = driver.beside(script).await;
    driver.until("published", Driver::all_settled).await;
    assert!(started.elapsed() >= Duration::from_secs(10));
    assert_eq!(driver.ups, [1]);
    let error = driver.health.uplink().last_error.unwrap();
    assert!(error.contains("waiting for CONNACK"), "{error}");
}

#[tokio::test]
async fn a_broker_that_falls_silent_while_idle_is_found_out_by_ping() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&impatient(broker.port), Vec::new());
    let script = async {
        // The broker's keep-alive replaces the 30 s of the settings.
        let mut peer = broker.accept_with(|limits| limits.server_keep_alive = Some(1)).await;
        assert_eq!(peer.connect.keep_alive, 30);
        for _ in 0..2 {
            assert!(matches!(peer.read().await, Some(Packet::PingReq(_))));
            peer.send(&[0xd0, 0]).await;
        }
        assert!(matches!(peer.read().await, Some(Packet::PingReq(_))));
        assert!(peer.read().await.is_none(), "it hangs up");
    };
    driver.beside(script).await;
    driver.until("the loss is seen", |driver| !driver.downs.is_empty()).await;
    assert_eq!(driver.downs[0].1, DownCause::Silent);
    assert!(driver.downs[0].0.contains("PINGRESP"), "{:?}", driver.downs);
}

#[tokio::test]
async fn a_refused_connect_is_tried_again_and_its_reason_shown() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    let script = async {
        let mut peer = broker.accept_connect().await;
        peer.send(&[0x20, 3, 0, 0x87, 0]).await;
        assert!(peer.read().await.is_none());
        broker.accept().await
    };
    let _peer = driver.beside(script).await;
    driver.until("up", |driver| !driver.ups.is_empty()).await;
    assert_eq!(driver.ups, [1]);
    let health = driver.health.uplink();
    assert_eq!(health.state, UplinkState::Connected);
    let error = health.last_error.unwrap();
    assert!(error.contains("refused the connection: not authorised (0x87)"), "{error}");
}

#[tokio::test]
async fn a_broker_with_qos_0_only_is_not_used() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(1));
    let script = async {
        let mut peer = broker.accept_connect().await;
        peer.send_conn_ack(|limits| limits.max_qos = Some(0)).await;
        assert!(peer.read().await.is_none());
    };
    driver.beside(script).await;
    driver.until("it waits", |driver| driver.health.uplink().last_error.is_some()).await;
    assert!(driver.ups.is_empty());
    assert!(driver.health.uplink().last_error.unwrap().contains("QoS 0"));
}

#[tokio::test]
async fn a_broker_without_retain_gets_a_plain_will_and_plain_status() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    driver.announce("devices/kiln-3/status", "{}", true);
    let script = async {
        let mut peer = broker.accept_connect().await;
        assert!(peer.will.as_ref().unwrap().retain);
        peer.send(&[0x20, 3, 0, 0x9a, 0]).await;
        let mut peer = broker.accept_connect().await;
        let will = peer.will.clone().unwrap();
        assert!(!will.retain);
        assert_eq!(will.topic, "tidegate/gw-1/status");
        assert!(String::from_utf8_lossy(&will.message).starts_with("{\"state\":\"offline\""));
        peer.send_conn_ack(|limits| limits.retain_available = Some(0)).await;
        for publish in peer.read_publishes(2).await {
            assert!(!publish.retain);
        }
    };
    driver.beside(script).await;
}

#[tokio::test]
async fn a_disconnect_because_of_a_packet_is_told_apart_from_any_other() {
    for (code, cause) in [
        (0x95, DownCause::PacketRefused),
        (0x81, DownCause::PacketRefused),
        (0x8b, DownCause::ClosedByBroker),
    ] {
        let broker = Broker::start().await;
        let mut driver = Driver::new(&settings(broker.port), batches(1));
        let script = async {
            let mut peer = broker.accept().await;
            peer.read_publish().await;
            // As mosquitto sends it: a lone reason code.
            peer.send(&[0xe0, 1, code]).await;
            peer
        };
        let _peer = driver.beside(script).await;
        driver.until("the loss is seen", |driver| !driver.downs.is_empty()).await;
        assert_eq!(driver.downs[0].1, cause);
        assert!(driver.downs[0].0.contains(&format!("(0x{code:02x})")), "{:?}", driver.downs);
        assert_eq!(driver.settled(), 0);
    }
}

#[tokio::test]
async fn bytes_that_are_not_mqtt_and_answers_to_nothing_end_the_connection() {
    let endless = [0x30, 0xff, 0xff, 0xff, 0xff, 0xff];
    let huge = [0x30, 0xff, 0xff, 0xff, 0x7f];
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &endless, &huge, &[0x40, 2, 0x30, 0x39]]
    {
        let broker = Broker::start().await;
        let mut driver = Driver::new(&settings(broker.port), batches(1));
        let script = async {
            let mut peer = broker.accept().await;
            peer.read_publish().await;
            peer.send(bytes).await;
            assert!(peer.read().await.is_none(), "it hangs up");
            let mut peer = broker.accept().await;
            let publish = peer.read_publish().await;
            peer.ack(publish.pkid).await;
            peer
        };
        let _peer = driver.beside(script).await;
        driver.until("published after all", Driver::all_settled).await;
        assert_eq!(driver.downs.len(), 1);
        assert_eq!(driver.downs[0].1, DownCause::Silent);
    }
}

#[tokio::test]
async fn quota_exceeded_is_not_a_loss_but_sent_again_later() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(2));
    let script = async {
        let mut peer = broker.accept().await;
        let sent = peer.read_publishes(2).await;
        peer.answer(sent[0].pkid, PubAckReason::QuotaExceeded).await;
        assert!(peer.read().await.is_none(), "it hangs up");
        let mut peer = broker.accept().await;
        for publish in peer.read_publishes(2).await {
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("published after all", Driver::all_settled).await;
    assert_eq!(driver.published.len(), 2);
    assert!(driver.downs[0].0.contains("quota exceeded (0x97)"), "{:?}", driver.downs);
}

#[tokio::test]
async fn a_batch_over_the_brokers_packet_size_is_refused_without_being_sent() {
    let broker = Broker::start().await;
    let mut batches = batches(3);
    batches[1] = wide_batch(2, 50);
    let mut driver = Driver::new(&settings(broker.port), batches);
    let script = async {
        let mut peer = broker.accept_with(|limits| limits.max_packet_size = Some(500)).await;
        let sent = peer.read_publishes(2).await;
        assert_eq!([seq(&sent[0].payload), seq(&sent[1].payload)], [1, 3]);
        for publish in sent {
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all settled", Driver::all_settled).await;
    assert_eq!(driver.published.len(), 2);
    let reason = &driver.refused[&1];
    assert!(reason.contains("maximum packet size of 500"), "{reason}");
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn a_batch_of_several_messages_is_published_once_all_are_acknowledged() {
    let broker = Broker::start().await;
    let settings =
        tidegate::config::Mqtt { payload: PayloadFormat::Value, ..settings(broker.port) };
    let empty = wide_batch(3, 0);
    let mut driver = Driver::new(&settings, vec![wide_batch(1, 10), wide_batch(2, 10), empty]);
    let script = async {
        let mut peer = broker.accept_with(|limits| limits.receive_max = Some(4)).await;
        let mut topics = Vec::new();
        for n in 0..20 {
            let publish = peer.read_publish().await;
            topics.push(String::from_utf8_lossy(&publish.topic).into_owned());
            let reason = if n == 13 { PubAckReason::NotAuthorized } else { PubAckReason::Success };
            peer.answer(publish.pkid, reason).await;
        }
        let expected: Vec<String> =
            (0..20).map(|n| format!("tidegate/gw-1/devices/kiln-3/readings/r{}", n % 10)).collect();
        assert_eq!(topics, expected);
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all settled", Driver::all_settled).await;
    assert!(driver.published.contains(&0));
    assert_eq!(driver.refused[&1], "not authorised (0x87)");
    assert!(driver.published.contains(&2), "nothing to send is sent");
}

#[tokio::test]
async fn announcements_are_repeated_on_every_connection_until_they_are_known() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), Vec::new());
    driver.announce("devices/a/status", "a1", true);
    driver.announce("losses", "lost", false);
    driver.announce("results", "done", false);
    let script = async {
        let mut peer = broker.accept().await;
        let sent = peer.read_publishes(3).await;
        let mut payloads: Vec<_> = sent.iter().map(|publish| publish.payload.clone()).collect();
        payloads.sort();
        assert_eq!(payloads, ["a1", "done", "lost"]);
        for publish in sent.iter().filter(|publish| publish.payload != "done") {
            assert_eq!(publish.retain, publish.payload == "a1");
            peer.ack(publish.pkid).await;
        }
        drop(peer);
        let mut peer = broker.accept().await;
        let again = peer.read_publishes(2).await;
        assert_eq!(again[0].payload, "done", "was not acknowledged");
        assert_eq!(again[1].payload, "a1", "is the state of its topic");
        peer
    };
    let _peer = driver.beside(script).await;
}

#[tokio::test]
async fn a_goodbye_says_offline_and_disconnects() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(1));
    let script = async {
        let mut peer = broker.accept().await;
        let publish = peer.read_publish().await;
        peer.ack(publish.pkid).await;
        peer
    };
    let mut peer = driver.beside(script).await;
    driver.until("published", Driver::all_settled).await;
    driver.announce("devices/kiln-3/status", "away", true);
    let (said, ()) =
        tokio::join!(peer.serve(), tidegate::ports::Publisher::close(&mut driver.uplink));
    let payloads: Vec<_> =
        said.iter().map(|publish| String::from_utf8_lossy(&publish.payload)).collect();
    assert_eq!(payloads.len(), 2);
    assert_eq!(payloads[0], "away");
    assert!(payloads[1].starts_with("{\"state\":\"offline\",\"gateway\":\"gw-1\",\"version\":"));
    assert!(said.iter().all(|publish| publish.retain));
    assert_eq!(driver.health.uplink().state, UplinkState::Disconnected);
}
