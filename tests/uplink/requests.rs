//! Requests from brokers that withhold, repeat, flood and refuse.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Packet, Publish, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use tidegate::config::{Mqtt, MqttVersion};
use tidegate::ports::{DownCause, MqttRequest, Publisher, Receipt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::driver::{Driver, PATIENCE, batches, settings};

const TOPIC: &str = "tidegate/gw-1/devices/kiln-3/commands";

fn request(pkid: u16) -> Publish {
    Publish {
        dup: false,
        qos: if pkid == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
        retain: false,
        topic: Bytes::from_static(TOPIC.as_bytes()),
        pkid,
        payload: Bytes::from(format!("{{\"id\":\"{pkid}\"}}")),
        properties: None,
    }
}

fn ignored(driver: &Driver, reason: &str) -> u64 {
    let name = format!("tidegate_requests_ignored_total{{reason=\"{reason}\"}} ");
    let text = driver.metrics.text();
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

async fn requests(driver: &mut Driver, count: usize) -> Vec<Receipt> {
    driver.until("requests", |driver| driver.requests.len() >= count).await;
    driver.requests.iter().map(|request| request.receipt).collect()
}

#[tokio::test]
async fn the_broker_is_asked_to_keep_requests_and_to_send_only_so_many() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), Vec::new());
    let (peer, subscribe) = driver.beside(broker.accept_subscriber()).await;
    assert!(!peer.connect.clean_start);
    let properties = peer.connect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(3600));
    assert_eq!(properties.receive_maximum, Some(32));
    let [filter] = &subscribe.filters[..] else { panic!("{subscribe:?}") };
    assert_eq!(filter.path, "tidegate/gw-1/devices/+/commands");
    assert_eq!(filter.qos, QoS::AtLeastOnce);
    assert_eq!(filter.retain_forward_rule, RetainForwardRule::Never);
    assert!(filter.nolocal);
}

#[tokio::test]
async fn a_publisher_that_takes_no_requests_neither_subscribes_nor_keeps_a_session() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&settings(broker.port), batches(1));
    let script = async {
        let mut peer = broker.accept().await;
        let publish = peer.read_publish().await;
        peer.ack(publish.pkid).await;
        peer
    };
    let peer = driver.beside(script).await;
    assert!(peer.connect.clean_start);
    let properties = peer.connect.properties.unwrap();
    assert_eq!((properties.session_expiry_interval, properties.receive_maximum), (None, None));
}

#[tokio::test]
async fn a_request_is_acknowledged_once_it_is_confirmed_and_in_the_order_of_arrival() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), batches(3));
    driver.hands_over = false;
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    for pkid in [7, 8, 9] {
        peer.publish(request(pkid)).await;
    }
    let receipts = requests(&mut driver, 3).await;
    let first = &driver.requests[0];
    assert_eq!((first.device.as_str(), &first.payload[..]), ("kiln-3", &b"{\"id\":\"7\"}"[..]));
    assert_eq!((first.response_topic.as_deref(), first.correlation.as_deref()), (None, None));

    // The second is safe before the first; the third never is.
    driver.uplink.confirm(receipts[1]);
    driver.hands_over = true;
    let script = async {
        for _ in 0..3 {
            let publish = peer.read_publish().await;
            peer.ack(publish.pkid).await;
        }
    };
    driver.beside(script).await;
    driver.until("readings flow", Driver::all_settled).await;
    driver.uplink.confirm(receipts[0]);
    driver.uplink.confirm(receipts[0]);
    driver.uplink.confirm(receipts[2] + 1);
    assert_eq!(driver.beside(peer.read_acks(2)).await, [7, 8]);

    // The broker sends again what was not acknowledged.
    drop(peer);
    driver.until("the loss is seen", |driver| driver.downs.len() == 1).await;
    driver.uplink.confirm(receipts[2]);
    driver.requests.clear();
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    driver.uplink.confirm(receipts[2]);
    peer.publish(Publish { dup: true, ..request(9) }).await;
    let again = requests(&mut driver, 1).await;
    assert!(!receipts.contains(&again[0]));
    driver.uplink.confirm(receipts[2]);
    peer.publish(request(10)).await;
    let again = requests(&mut driver, 2).await;
    driver.uplink.confirm(again[0]);
    driver.uplink.confirm(again[1]);
    assert_eq!(driver.beside(peer.read_acks(2)).await, [9, 10]);
}

#[tokio::test]
async fn response_topic_and_correlation_are_handed_on_where_they_can_be_used() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), Vec::new());
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    let with = |pkid, topic: &str| Publish {
        properties: Some(PublishProperties {
            response_topic: Some(topic.to_owned()),
            correlation_data: Some(Bytes::from_static(&[0, 255, 7])),
            content_type: Some("application/json".to_owned()),
            user_properties: vec![("who".to_owned(), "me".to_owned())],
            ..PublishProperties::default()
        }),
        ..request(pkid)
    };
    for (pkid, topic, usable) in [
        (1, "apps/7/answers", true),
        (2, "", false),
        (3, "apps/+/answers", false),
        (4, "#", false),
        (5, "tidegate/gw-1/devices/kiln-3/commands", false),
        (6, "tidegate/gw-1/status", false),
        (7, "tidegate/gw-1/answers", true),
    ] {
        peer.publish(with(pkid, topic)).await;
        let receipts = requests(&mut driver, pkid.into()).await;
        let MqttRequest { response_topic, correlation, .. } = driver.requests.last().unwrap();
        assert_eq!(response_topic.as_deref(), usable.then_some(topic));
        assert_eq!(correlation.as_deref(), Some(&[0, 255, 7][..]));
        driver.uplink.confirm(*receipts.last().unwrap());
    }
    assert_eq!(driver.beside(peer.read_acks(7)).await, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn retained_and_foreign_messages_are_acknowledged_and_ignored() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), Vec::new());
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    peer.publish(request(1)).await;
    peer.publish(Publish { retain: true, ..request(2) }).await;
    peer.publish(Publish { topic: Bytes::from_static(b"old/devices/a/commands"), ..request(3) })
        .await;
    peer.publish(Publish { retain: true, ..request(0) }).await;
    peer.publish(request(4)).await;
    let receipts = requests(&mut driver, 2).await;
    assert_eq!(driver.requests[1].payload, b"{\"id\":\"4\"}");
    driver.uplink.confirm(receipts[0]);
    assert_eq!(driver.beside(peer.read_acks(3)).await, [1, 2, 3], "in turn");
    driver.uplink.confirm(receipts[1]);
    assert_eq!(driver.beside(peer.read_acks(1)).await, [4]);
    assert_eq!((ignored(&driver, "retained"), ignored(&driver, "foreign-topic")), (2, 1));
}

#[tokio::test]
async fn a_refused_subscription_is_tried_again_and_readings_flow_meanwhile() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), batches(3));
    let script = async {
        let (mut peer, subscribe) = broker.accept_subscriber().await;
        peer.sub_ack(subscribe.pkid, SubscribeReasonCode::NotAuthorized).await;
        for publish in peer.read_publishes(3).await {
            peer.ack(publish.pkid).await;
        }
        let subscribe = peer.read_subscribe().await;
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        peer.sub_ack(subscribe.pkid, granted).await;
        peer.publish(request(1)).await;
        peer
    };
    let _peer = driver.beside(script).await;
    requests(&mut driver, 1).await;
    assert!(driver.all_settled());
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_a_subscription_is_not_asked_each_time() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), batches(3));
    driver.hands_over = false;
    let script = async {
        for _ in 0..3 {
            broker.accept_subscriber().await;
        }
    };
    driver.beside(script).await;
    driver.hands_over = true;
    let script = async {
        let mut peer = broker.accept().await;
        for publish in peer.read_publishes(3).await {
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("readings flow", Driver::all_settled).await;
    assert_eq!(driver.downs.len(), 3);
    assert!(driver.downs.iter().all(|(_, cause)| *cause == DownCause::ClosedByBroker));
}

#[tokio::test]
async fn a_flood_is_bounded_and_what_was_left_out_comes_over_a_new_connection() {
    const FLOOD: u16 = 300;
    const BOUND: usize = 256;
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), batches(3));
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    let first: Vec<_> = driver.beside(peer.read_publishes(3)).await;
    for pkid in 1..=FLOOD {
        peer.publish(request(pkid)).await;
    }
    // PUBACKs of readings still count.
    for publish in first {
        peer.ack(publish.pkid).await;
    }
    driver.until("readings flow", Driver::all_settled).await;
    let receipts = requests(&mut driver, BOUND).await;
    assert_eq!(receipts.len(), BOUND);
    assert_eq!(ignored(&driver, "overflow"), 1, "after the first nothing is looked at");
    for receipt in receipts {
        assert!(driver.downs.is_empty());
        driver.uplink.confirm(receipt);
    }
    driver.until("a new connection", |driver| driver.downs.len() == 1).await;
    assert!(driver.downs[0].0.contains("left out"), "{:?}", driver.downs);
    driver.requests.clear();
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    for pkid in 1..=FLOOD - 256 {
        peer.publish(Publish { dup: true, ..request(256 + pkid) }).await;
    }
    let receipts = requests(&mut driver, usize::from(FLOOD) - BOUND).await;
    for receipt in receipts {
        driver.uplink.confirm(receipt);
    }
    let expected: Vec<u16> = (257..=FLOOD).collect();
    assert_eq!(driver.beside(peer.read_acks(expected.len())).await, expected);
}

#[tokio::test]
async fn a_flood_without_acknowledgement_is_bounded_and_the_rest_is_lost() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), batches(1));
    driver.hands_over = false;
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    for _ in 0..1000 {
        peer.publish(request(0)).await;
    }
    driver.hands_over = true;
    let publish = driver.beside(peer.read_publish()).await;
    peer.ack(publish.pkid).await;
    driver.until("all is read", Driver::all_settled).await;
    assert_eq!(driver.requests.len(), 256);
    assert_eq!(ignored(&driver, "overflow"), 744);
    let receipts = requests(&mut driver, 256).await;
    for receipt in receipts {
        driver.uplink.confirm(receipt);
    }
    peer.publish(request(0)).await;
    requests(&mut driver, 257).await;
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn large_requests_are_bounded_by_their_bytes() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), Vec::new());
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    let script = async {
        for pkid in 1..=32 {
            let payload = Bytes::from(vec![b'x'; 200_000]);
            peer.publish(Publish { payload, ..request(pkid) }).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("too many", |driver| ignored(driver, "overflow") > 0).await;
    let bytes: usize = driver.requests.iter().map(|request| request.payload.len()).sum();
    assert!((1_800_000..=2 << 20).contains(&bytes), "{bytes} bytes");
}

/// A 3.1.1 broker.
struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Peer {
    /// The next connection, with a session or without; its status acknowledged, its subscription
    /// granted.
    async fn accept(broker: &Broker) -> Self {
        let mut peer = Self { stream: broker.accept_tcp().await, inbox: BytesMut::new() };
        let v4::Packet::Connect(connect) = peer.read().await else { panic!("no CONNECT") };
        assert!(!connect.clean_session);
        peer.stream.write_all(&[0x20, 2, 1, 0]).await.unwrap();
        for _ in 0..2 {
            match peer.read().await {
                v4::Packet::Publish(status) => peer.ack(status.pkid).await,
                v4::Packet::Subscribe(subscribe) => {
                    assert_eq!(subscribe.filters[0].path, "tidegate/gw-1/devices/+/commands");
                    let [high, low] = subscribe.pkid.to_be_bytes();
                    peer.stream.write_all(&[0x90, 3, high, low, 1]).await.unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        peer
    }

    async fn read(&mut self) -> v4::Packet {
        loop {
            match v4::Packet::read(&mut self.inbox, 1 << 20) {
                Ok(packet) => return packet,
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let reading = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox));
            assert!(reading.await.expect("a packet in time").unwrap() > 0, "it hangs up");
        }
    }

    async fn ack(&mut self, pkid: u16) {
        let [high, low] = pkid.to_be_bytes();
        self.stream.write_all(&[0x40, 2, high, low]).await.unwrap();
    }

    async fn publish(&mut self, pkid: u16, payload: Vec<u8>) {
        let mut publish = v4::Publish::new(TOPIC, rumqttc::mqttbytes::QoS::AtLeastOnce, payload);
        publish.pkid = pkid;
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }
}

#[tokio::test]
async fn an_oversized_message_of_a_broker_that_knows_no_limit_is_passed_over() {
    let broker = Broker::start().await;
    let settings = Mqtt { version: MqttVersion::V4, ..settings(broker.port) };
    let mut driver = Driver::taking_requests(&settings, batches(2));
    let script = async {
        let mut peer = Peer::accept(&broker).await;
        peer.publish(1, b"{}".to_vec()).await;
        peer.publish(2, vec![b'x'; 3 << 20]).await;
        peer.publish(3, b"{}".to_vec()).await;
        for _ in 0..2 {
            let v4::Packet::Publish(publish) = peer.read().await else { panic!("a reading") };
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let mut peer = driver.beside(script).await;
    let receipts = requests(&mut driver, 2).await;
    for receipt in receipts {
        driver.uplink.confirm(receipt);
    }
    let script = async {
        for pkid in 1..=3 {
            let v4::Packet::PubAck(ack) = peer.read().await else { panic!("no PUBACK") };
            assert_eq!(ack.pkid, pkid);
        }
    };
    driver.beside(script).await;
    driver.until("readings flow", Driver::all_settled).await;
    assert_eq!(driver.requests.len(), 2);
    assert_eq!(ignored(&driver, "too-large"), 1);
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn no_more_is_said_on_a_connection_that_is_being_left() {
    let broker = Broker::start().await;
    let mut driver = Driver::taking_requests(&settings(broker.port), Vec::new());
    let mut peer = driver.beside(broker.accept_subscribed()).await;
    peer.publish(request(1)).await;
    let script = async {
        let mut heard = Vec::new();
        while let Some(packet) = peer.read().await {
            match packet {
                Packet::Publish(publish) => peer.ack(publish.pkid).await,
                other => heard.push(other),
            }
        }
        heard
    };
    let (heard, ()) = tokio::join!(script, driver.uplink.close());
    let acked = heard.iter().any(|packet| matches!(packet, Packet::PubAck(_)));
    assert!(!acked, "nobody has confirmed it: {heard:?}");
}
