//! One who asks for commands over MQTT 3.1.1 or 5, put together by hand, and sees what comes back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::mqtt::{self, Packet, Publish};
use super::{until, within};

/// Where requests for `device` go.
pub(crate) fn commands_of(device: &str) -> String {
    format!("tidegate/gw-test/devices/{device}/commands")
}

/// Where what became of them is told.
pub(crate) fn results_of(device: &str) -> String {
    format!("tidegate/gw-test/devices/{device}/results")
}

/// What a request has beyond its payload.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// MQTT 5 only.
    pub(crate) response: Option<&'a str>,
    /// MQTT 5 only.
    pub(crate) correlation: Option<&'a [u8]>,
    pub(crate) retain: bool,
}

/// Connected, and subscribed to every result and to `answers/#`.
pub(crate) struct Requester {
    level: u8,
    out: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    seen: Arc<Mutex<Seen>>,
    last_id: u16,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    messages: Vec<Publish>,
    acked: HashSet<u16>,
    subscribed: bool,
}

impl Requester {
    /// Connects to the broker at `port` with protocol level `level`: 4 is 3.1.1, 5 is 5.
    pub(crate) async fn start(port: u16, level: u8) -> Self {
        let stream = within("the broker", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (from, out) = stream.into_split();
        let (out, seen) = (Arc::new(tokio::sync::Mutex::new(out)), Arc::default());
        let task = tokio::spawn(listen(level, from, out.clone(), Arc::clone(&seen)));
        let requester = Self { level, out, seen, last_id: 10, task };
        // A clean session, and no keep-alive.
        let mut connect = vec![0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0];
        connect.extend((level == 5).then_some(0));
        text(&mut connect, format!("requester-{port}-{level}").as_bytes());
        requester.write(0x10, connect).await;
        let mut subscribe = vec![0, 1];
        subscribe.extend((level == 5).then_some(0));
        for filter in ["tidegate/gw-test/devices/+/results", "answers/#"] {
            text(&mut subscribe, filter.as_bytes());
            subscribe.push(1);
        }
        requester.write(0x82, subscribe).await;
        until("the requester has subscribed", async || requester.seen.lock().unwrap().subscribed)
            .await;
        requester
    }

    /// Asks `device`, and waits until the broker has the request.
    pub(crate) async fn ask(&mut self, device: &str, request: &serde_json::Value) {
        let payload = request.to_string();
        self.publish(&commands_of(device), payload.as_bytes(), Extra::default()).await;
    }

    /// As [`Self::ask`], with MQTT 5's words for where the answer goes.
    pub(crate) async fn ask_for(&mut self, device: &str, request: &serde_json::Value, to: &str) {
        let extra = Extra { response: Some(to), correlation: Some(b"\x00\xffc"), retain: false };
        self.publish(&commands_of(device), request.to_string().as_bytes(), extra).await;
    }

    /// Publishes anything with QoS 1, and waits until the broker has it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], extra: Extra<'_>) {
        self.last_id += 1;
        let id = self.last_id;
        let mut body = Vec::new();
        text(&mut body, topic.as_bytes());
        body.extend(id.to_be_bytes());
        if self.level == 5 {
            let mut properties = Vec::new();
            for (property, value) in
                [(8, extra.response.map(str::as_bytes)), (9, extra.correlation)]
            {
                if let Some(value) = value {
                    properties.push(property);
                    text(&mut properties, value);
                }
            }
            length(&mut body, properties.len());
            body.extend(properties);
        }
        body.extend(payload);
        self.write(0x32 | u8::from(extra.retain), body).await;
        until("the broker has the request", async || {
            assert!(!self.task.is_finished(), "the broker hung up on the requester");
            self.seen.lock().unwrap().acked.remove(&id)
        })
        .await;
    }

    /// What has come on `topic` so far.
    pub(crate) fn on(&self, topic: &str) -> Vec<Publish> {
        let seen = self.seen.lock().unwrap();
        seen.messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// Waits until at least `count` messages have come on `topic` and gives all of them.
    pub(crate) async fn wait(&self, topic: &str, count: usize) -> Vec<Publish> {
        let what = format!("{count} messages on {topic}");
        until(&what, async || self.on(topic).len() >= count).await;
        self.on(topic)
    }

    /// The first result of `device`'s command `id`.
    pub(crate) async fn result(&self, device: &str, id: &str) -> serde_json::Value {
        let topic = results_of(device);
        let mut found = None;
        until(&format!("the result of {device}'s {id}"), async || {
            found = self.on(&topic).iter().map(Publish::json).find(|json| json["id"] == id);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn write(&self, first: u8, body: Vec<u8>) {
        let packet = packet(first, &body);
        within("writing", async { self.out.lock().await.write_all(&packet).await }).await.unwrap();
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    level: u8,
    mut from: OwnedReadHalf,
    out: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    seen: Arc<Mutex<Seen>>,
) {
    while let Ok(packet) = Packet::read(&mut from).await {
        match packet.kind() {
            mqtt::PUBLISH => {
                let publish = packet.publish(level);
                let id = publish.packet_id;
                seen.lock().unwrap().messages.push(publish);
                if let Some(id) = id {
                    let ack = self::packet(0x40, &id.to_be_bytes());
                    if out.lock().await.write_all(&ack).await.is_err() {
                        return;
                    }
                }
            }
            mqtt::PUBACK => drop(seen.lock().unwrap().acked.insert(packet.puback().0)),
            mqtt::SUBACK => seen.lock().unwrap().subscribed = true,
            _ => {}
        }
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    length(&mut packet, body.len());
    packet.extend(body);
    packet
}

fn length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let more = length > 0x7f;
        out.push(u8::try_from(length & 0x7f).unwrap() | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            return;
        }
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text);
}
