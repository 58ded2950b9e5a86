//! The harness itself: a witness that sees nothing would make every other test pass.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

use crate::harness::{Broker, Mode, Proxy, Subscriber, within};

async fn client(port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("selftest", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 10);
    within("CONNACK", async {
        while !matches!(events.poll().await, Ok(Event::Incoming(Packet::ConnAck(_)))) {}
    })
    .await;
    (client, events)
}

/// Publishes and waits for what the broker says to it, or for the end of the connection.
async fn publish(
    (client, events): &mut (AsyncClient, EventLoop),
    topic: &str,
    payload: Vec<u8>,
) -> Option<PubAckReason> {
    client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    within("PUBACK", async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(ack))) => return Some(ack.reason),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_witness_and_the_consumer_see_what_the_broker_gets() {
    let broker = Broker::start("message_size_limit 2000").await;
    let consumer = Subscriber::start(broker.port).await;
    let proxy = Proxy::start(broker.port).await;
    let mut client = client(proxy.port).await;
    let taken = publish(&mut client, "a/readings", b"1".to_vec()).await;
    assert_eq!(taken, Some(PubAckReason::Success));
    // The library has no word for what the broker answers to this.
    assert_eq!(publish(&mut client, "a/readings", vec![b'1'; 3000]).await, None);
    assert_eq!(consumer.wait("a/readings", 1).await[0].payload, b"1");
    let seen: Vec<_> = proxy.readings().iter().map(|seen| seen.acked).collect();
    assert_eq!(seen, [Some(0), Some(0x95)]);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn the_proxy_swallows_cuts_and_falls_silent() {
    let mut broker = Broker::start("").await;
    let proxy = Proxy::start(broker.port).await;
    let mut first = client(proxy.port).await;
    proxy.set(Mode::SwallowAcks);
    let waited = tokio::time::timeout(
        Duration::from_millis(500),
        publish(&mut first, "a/readings", b"1".to_vec()),
    );
    assert!(waited.await.is_err(), "the PUBACK was swallowed");
    proxy.until("but seen", |seen| seen.len() == 1 && seen[0].accepted()).await;
    proxy.cut();
    assert_eq!(publish(&mut first, "a/readings", b"2".to_vec()).await, None, "cut");
    proxy.set(Mode::Forward);
    let mut second = client(proxy.port).await;
    proxy.set(Mode::HalfOpen);
    let silent = tokio::time::timeout(
        Duration::from_millis(500),
        publish(&mut second, "a/readings", b"3".to_vec()),
    );
    assert!(silent.await.is_err(), "silent");
    proxy.set(Mode::Forward);
    broker.kill();
    broker.restart().await;
    let mut third = client(proxy.port).await;
    let unheard = publish(&mut third, "a/readings", b"4".to_vec()).await;
    assert_eq!(unheard, Some(PubAckReason::NoMatchingSubscribers));
    let last = proxy.readings().pop().unwrap();
    assert_eq!((last.publish.payload.as_slice(), last.acked), (b"4".as_slice(), Some(0x10)));
}
