//! A device written from the protocol's description, with CBOR put together by hand.

use std::time::Duration;

use ciborium::Value;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{self, Message};

use super::within;

/// How a device connects.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    port: u16,
    id: String,
    protocols: String,
    headers: Vec<(String, String)>,
}

/// Why the upgrade was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: String,
}

/// WELCOME.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Welcome {
    pub(crate) gateway: String,
    pub(crate) time: f64,
    pub(crate) acked: u64,
    pub(crate) window: u64,
    pub(crate) max_frame: u64,
    pub(crate) heartbeat: u64,
}

/// COMMAND.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) params: Value,
    pub(crate) ttl: u64,
}

/// What the gateway sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FromGateway {
    Welcome(Welcome),
    Ack(u64),
    Reject {
        seq: Option<u64>,
        code: u64,
        reason: String,
    },
    Command(Asked),
    Close {
        code: u16,
        reason: String,
    },
    /// Shown only with [`Device::show_pings`].
    Ping,
    /// Likewise.
    Pong,
    /// The connection ended without a Close frame.
    Gone,
}

/// An open connection.
pub(crate) struct Device {
    socket: WebSocketStream<TcpStream>,
    /// The subprotocol that the gateway chose.
    pub(crate) subprotocol: Option<String>,
    /// Whether pings and pongs of the gateway are handed out instead of skipped.
    pub(crate) show_pings: bool,
}

impl Connector {
    /// To the listener at `port`, without credentials.
    pub(crate) fn new(port: u16, id: &str) -> Self {
        let protocols = "tidegate.v1".to_owned();
        Self { port, id: id.to_owned(), protocols, headers: Vec::new() }
    }

    /// With a bearer token in the Authorization header.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With another header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Offers these subprotocols instead of `tidegate.v1`.
    pub(crate) fn protocols(mut self, protocols: &str) -> Self {
        protocols.clone_into(&mut self.protocols);
        self
    }

    /// Opens the WebSocket.
    pub(crate) async fn connect(&self) -> Result<Device, Refusal> {
        within("the upgrade", self.attempt()).await.unwrap_or_else(|e| panic!("connecting: {e}"))
    }

    /// Opens the WebSocket and says HELLO with `epoch`.
    pub(crate) async fn open(&self, epoch: Option<u64>) -> (Device, Welcome) {
        let mut device = self.connect().await.unwrap_or_else(|e| panic!("refused: {e:?}"));
        let welcome = device.hello(epoch).await;
        (device, welcome)
    }

    /// One attempt; the outer error is one of the network.
    pub(crate) async fn attempt(&self) -> Result<Result<Device, Refusal>, tungstenite::Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let uri = format!("ws://127.0.0.1:{}/v1/devices/{}", self.port, self.id);
        let mut request = uri.into_client_request()?;
        let headers = request.headers_mut();
        if !self.protocols.is_empty() {
            headers.insert("sec-websocket-protocol", self.protocols.parse().unwrap());
        }
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, response)) => {
                let subprotocol = response.headers().get("sec-websocket-protocol");
                let subprotocol = subprotocol.map(|value| value.to_str().unwrap().to_owned());
                Ok(Ok(Device { socket, subprotocol, show_pings: false }))
            }
            Err(tungstenite::Error::Http(response)) => {
                let retry_after = response.headers().get("retry-after");
                Ok(Err(Refusal {
                    status: response.status().as_u16(),
                    retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
                    body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default())
                        .into_owned(),
                }))
            }
            Err(error) => Err(error),
        }
    }
}

impl Device {
    /// Says HELLO and returns what WELCOME said.
    pub(crate) async fn hello(&mut self, epoch: Option<u64>) -> Welcome {
        self.send(&hello(epoch, &[])).await;
        match self.next().await {
            FromGateway::Welcome(welcome) => welcome,
            other => panic!("WELCOME expected, got {other:?}"),
        }
    }

    /// Sends one message.
    pub(crate) async fn send(&mut self, message: &Value) {
        self.send_bytes(encode(message)).await;
    }

    /// Sends one binary message as it is.
    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.send_frame(Message::binary(bytes)).await;
    }

    /// Sends any WebSocket message.
    pub(crate) async fn send_frame(&mut self, message: Message) {
        within("sending", self.socket.send(message)).await.unwrap();
    }

    /// As [`Self::send`], where the other end may be gone.
    pub(crate) async fn try_send(&mut self, message: &Value) -> Result<(), tungstenite::Error> {
        self.try_frame(Message::binary(encode(message))).await
    }

    /// As [`Self::send_frame`], where the other end may be gone.
    pub(crate) async fn try_frame(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.socket.send(message).await
    }

    /// Sends READINGS with one record `temperature`.
    pub(crate) async fn reading(&mut self, seq: impl Into<Option<u64>>, value: f64) {
        let records = vec![record("temperature", value, 0.0)];
        self.send(&readings(seq.into(), Value::Array(records))).await;
    }

    /// What the gateway sends next.
    pub(crate) async fn next(&mut self) -> FromGateway {
        within("a message of the gateway", self.receive()).await
    }

    /// What the gateway sends next, or `None` if nothing comes for `time`.
    pub(crate) async fn next_within(&mut self, time: Duration) -> Option<FromGateway> {
        tokio::time::timeout(time, self.receive()).await.ok()
    }

    /// As [`Self::next`], without a deadline.
    pub(crate) async fn receive(&mut self) -> FromGateway {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return decode(&bytes),
                Some(Ok(Message::Close(frame))) => {
                    let frame = frame.expect("a Close frame has a code");
                    // Answers the Close; the other end may not wait for it.
                    let _ = self.socket.flush().await;
                    let reason = frame.reason.as_str().to_owned();
                    return FromGateway::Close { code: frame.code.into(), reason };
                }
                Some(Ok(Message::Ping(_))) if self.show_pings => return FromGateway::Ping,
                Some(Ok(Message::Pong(_))) if self.show_pings => return FromGateway::Pong,
                Some(Ok(Message::Text(text))) => panic!("the gateway sent text: {text}"),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return FromGateway::Gone,
            }
        }
    }

    /// The next binary message as it is; `None` once the connection has ended.
    pub(crate) async fn receive_bytes(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return Some(bytes.to_vec()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads ACKs until one covers `seq`.
    pub(crate) async fn acked(&mut self, seq: u64) {
        loop {
            match self.next().await {
                FromGateway::Ack(acked) if acked >= seq => return,
                FromGateway::Ack(_) => {}
                other => panic!("ACK {seq} expected, got {other:?}"),
            }
        }
    }

    /// Expects COMMAND next.
    pub(crate) async fn asked(&mut self) -> Asked {
        match self.next().await {
            FromGateway::Command(asked) => asked,
            other => panic!("COMMAND expected, got {other:?}"),
        }
    }

    /// Expects the COMMAND `id` next.
    pub(crate) async fn asked_for(&mut self, id: &str) -> Asked {
        let asked = self.asked().await;
        assert_eq!(asked.id, id, "{asked:?}");
        asked
    }

    /// Answers a command.
    pub(crate) async fn result(&mut self, id: &str, ok: bool, value: impl Into<Value>) {
        self.send(&result(id, ok, value)).await;
    }

    /// Sends a batch and reads until it is acknowledged: whatever was sent before has been dealt
    /// with, and no COMMAND came meanwhile.
    pub(crate) async fn nothing_more(&mut self, seq: u64) {
        self.reading(seq, 1.0).await;
        self.acked(seq).await;
    }

    /// Expects REJECT next.
    pub(crate) async fn rejected(&mut self) -> (Option<u64>, u64, String) {
        match self.next().await {
            FromGateway::Reject { seq, code, reason } => (seq, code, reason),
            other => panic!("REJECT expected, got {other:?}"),
        }
    }

    /// Expects a Close frame, whatever else comes before, and checks that it has a reason.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                FromGateway::Close { code, reason } => {
                    assert!(!reason.is_empty(), "close {code} says why");
                    return code;
                }
                FromGateway::Gone => panic!("a Close frame expected, the connection just ended"),
                _ => {}
            }
        }
    }
}

/// HELLO.
pub(crate) fn hello(epoch: Option<u64>, more: &[(&str, Value)]) -> Value {
    let epoch = epoch.map(|epoch| ("epoch".into(), epoch.into()));
    let more = more.iter().map(|(key, value)| ((*key).into(), value.clone()));
    Value::Array(vec![0.into(), Value::Map(epoch.into_iter().chain(more).collect())])
}

/// READINGS.
pub(crate) fn readings(seq: Option<u64>, pack: Value) -> Value {
    Value::Array(vec![1.into(), seq.map_or(Value::Null, Value::from), pack])
}

/// RESULT.
pub(crate) fn result(id: &str, ok: bool, value: impl Into<Value>) -> Value {
    Value::Array(vec![2.into(), id.into(), ok.into(), value.into()])
}

/// One SenML record with the integer labels of RFC 8428.
pub(crate) fn record(name: &str, value: f64, time: f64) -> Value {
    Value::Map(vec![(0.into(), name.into()), (2.into(), value.into()), (6.into(), time.into())])
}

/// A SenML pack from `(label, value)` lists.
pub(crate) fn pack(records: &[&[(i64, Value)]]) -> Value {
    let map = |fields: &&[(i64, Value)]| {
        Value::Map(fields.iter().map(|(label, value)| ((*label).into(), value.clone())).collect())
    };
    Value::Array(records.iter().map(map).collect())
}

fn encode(message: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes).unwrap();
    bytes
}

fn decode(bytes: &[u8]) -> FromGateway {
    let mut rest = bytes;
    let message: Value = ciborium::from_reader(&mut rest).expect("well-formed CBOR");
    assert!(rest.is_empty(), "one message, one array");
    let items = message.into_array().expect("an array");
    let uint = |value: &Value| u64::try_from(value.as_integer().expect("uint")).expect("uint");
    let text = |value: &Value| value.as_text().expect("tstr").to_owned();
    match uint(&items[0]) {
        16 => {
            let map = items[1].as_map().expect("a map");
            let field = |name: &str| {
                let found = map.iter().find(|(key, _)| key.as_text() == Some(name));
                found.map_or_else(|| panic!("WELCOME has no {name}"), |(_, value)| value.clone())
            };
            FromGateway::Welcome(Welcome {
                gateway: text(&field("gateway")),
                time: field("time").as_float().expect("time is a float"),
                acked: uint(&field("acked")),
                window: uint(&field("window")),
                max_frame: uint(&field("max_frame")),
                heartbeat: uint(&field("heartbeat")),
            })
        }
        17 => FromGateway::Ack(uint(&items[1])),
        18 => FromGateway::Reject {
            seq: (!items[1].is_null()).then(|| uint(&items[1])),
            code: uint(&items[2]),
            reason: text(&items[3]),
        },
        19 => FromGateway::Command(Asked {
            id: text(&items[1]),
            name: text(&items[2]),
            params: items[3].clone(),
            ttl: uint(&items[4]),
        }),
        other => panic!("message type {other} is not in the table"),
    }
}
