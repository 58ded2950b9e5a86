//! A broker that does what a test tells it, one packet at a time.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, LastWill, Login, Packet, PubAck,
    PubAckReason, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::driver::PATIENCE;

pub(crate) struct Broker {
    listener: TcpListener,
    pub(crate) port: u16,
}

pub(crate) struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
    pub(crate) connect: Connect,
    pub(crate) will: Option<LastWill>,
    pub(crate) login: Option<Login>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// The next TCP connection, with nothing read from it.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("a connection").unwrap().0
    }

    /// The next connection after its CONNECT, unanswered.
    pub(crate) async fn accept_connect(&self) -> Peer {
        let stream = self.accept_tcp().await;
        let connect = Connect {
            keep_alive: 0,
            client_id: String::new(),
            clean_start: false,
            properties: None,
        };
        let inbox = BytesMut::new();
        let mut peer = Peer { stream, inbox, connect, will: None, login: None };
        match peer.read().await {
            Some(Packet::Connect(connect, will, login)) => {
                peer.connect = connect;
                peer.will = will;
                peer.login = login;
            }
            other => panic!("expected CONNECT, got {other:?}"),
        }
        peer
    }

    /// The next connection, accepted, its status read and acknowledged.
    pub(crate) async fn accept(&self) -> Peer {
        self.accept_with(|_| {}).await
    }

    /// The same with limits.
    pub(crate) async fn accept_with(&self, change: impl FnOnce(&mut ConnAckProperties)) -> Peer {
        let mut peer = self.accept_connect().await;
        peer.send_conn_ack(change).await;
        peer.greeted().await
    }

    /// The next connection, accepted, its status acknowledged, its SUBSCRIBE read.
    pub(crate) async fn accept_subscriber(&self) -> (Peer, Subscribe) {
        let mut peer = self.accept().await;
        let subscribe = peer.read_subscribe().await;
        (peer, subscribe)
    }

    /// The same with the subscription granted.
    pub(crate) async fn accept_subscribed(&self) -> Peer {
        let (mut peer, subscribe) = self.accept_subscriber().await;
        let granted = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        peer.sub_ack(subscribe.pkid, SubscribeReasonCode::Success(granted)).await;
        peer
    }
}

impl Peer {
    async fn greeted(self) -> Self {
        let mut peer = self;
        let status = peer.read_publish().await;
        assert_eq!(status.topic, "tidegate/gw-1/status");
        assert!(String::from_utf8_lossy(&status.payload).contains("\"online\""), "{status:?}");
        peer.ack(status.pkid).await;
        peer
    }

    /// The next packet; `None` at the end of the stream.
    pub(crate) async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.inbox, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                // Its own decoder does not take a DISCONNECT without a reason.
                Err(rumqttc::v5::mqttbytes::Error::PayloadRequired) => return None,
                Err(error) => panic!("{error}"),
            }
            let reading = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox));
            match reading.await.expect("a packet in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub(crate) async fn read_publish(&mut self) -> Publish {
        match self.read().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    pub(crate) async fn read_subscribe(&mut self) -> Subscribe {
        match self.read().await {
            Some(Packet::Subscribe(subscribe)) => subscribe,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    /// Reads PUBACKs and returns their packet identifiers.
    pub(crate) async fn read_acks(&mut self, count: usize) -> Vec<u16> {
        let mut pkids = Vec::new();
        for _ in 0..count {
            match self.read().await {
                Some(Packet::PubAck(ack)) => pkids.push(ack.pkid),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
        pkids
    }

    pub(crate) async fn sub_ack(&mut self, pkid: u16, code: SubscribeReasonCode) {
        let mut bytes = BytesMut::new();
        SubAck { pkid, return_codes: vec![code], properties: None }.write(&mut bytes).unwrap();
        self.send(&bytes).await;
    }

    pub(crate) async fn publish(&mut self, publish: Publish) {
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        self.send(&bytes).await;
    }

    pub(crate) async fn read_publishes(&mut self, count: usize) -> Vec<Publish> {
        let mut publishes = Vec::new();
        for _ in 0..count {
            publishes.push(self.read_publish().await);
        }
        publishes
    }

    /// Whether something arrives within `time`.
    pub(crate) async fn hears_within(&mut self, time: std::time::Duration) -> bool {
        !self.inbox.is_empty()
            || timeout(time, self.stream.read_buf(&mut self.inbox)).await.is_ok_and(|n| n.is_ok())
    }

    pub(crate) async fn send_conn_ack(&mut self, change: impl FnOnce(&mut ConnAckProperties)) {
        let mut properties = ConnAckProperties {
            session_expiry_interval: None,
            receive_max: None,
            max_qos: None,
            retain_available: None,
            max_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        change(&mut properties);
        let code = ConnectReturnCode::Success;
        let ack = ConnAck { session_present: false, code, properties: Some(properties) };
        let mut bytes = BytesMut::new();
        ack.write(&mut bytes).unwrap();
        self.send(&bytes).await;
    }

    pub(crate) async fn ack(&mut self, pkid: u16) {
        self.answer(pkid, PubAckReason::Success).await;
    }

    pub(crate) async fn answer(&mut self, pkid: u16, reason: PubAckReason) {
        let mut bytes = BytesMut::new();
        PubAck { pkid, reason, properties: None }.write(&mut bytes).unwrap();
        self.send(&bytes).await;
    }

    /// Raw bytes. The other side may be gone already; then what it does is looked at elsewhere.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads and acknowledges until the end of the stream; returns the topics and payloads.
    pub(crate) async fn serve(&mut self) -> Vec<Publish> {
        let mut publishes = Vec::new();
        while let Some(packet) = self.read().await {
            match packet {
                Packet::Publish(publish) => {
                    self.ack(publish.pkid).await;
                    publishes.push(publish);
                }
                Packet::PingReq(_) => self.send(&[0xd0, 0]).await,
                Packet::Disconnect(_) => break,
                other => panic!("{other:?}"),
            }
        }
        publishes
    }
}
