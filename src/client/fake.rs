//! A gateway for tests: speaks the protocol and does what the test says, nothing by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ciborium::Value;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::core::frame::{DeviceMessage, GatewayMessage, Hello, Welcome};
use crate::core::ids::DeviceId;
use crate::core::senml::{self, Limits};
use crate::ports::lock;

/// The gateway's clock when it says WELCOME.
pub(crate) const TIME: f64 = 1_763_800_000.0;
const LIMITS: Limits = Limits { max_records: 1000, max_ahead: 60.0 };
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("within the deadline")
}

pub(crate) struct FakeGateway {
    listener: TcpListener,
    pub(crate) url: String,
}

impl FakeGateway {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The next device, upgraded and with its HELLO read.
    pub(crate) async fn accept(&self) -> FakeSession {
        let (tcp, _) = soon(self.listener.accept()).await.unwrap();
        soon(FakeSession::open(tcp)).await.expect("a handshake and HELLO")
    }

    /// Answers the next handshake with a refusal.
    pub(crate) async fn refuse(&self, head: &str, text: &str) {
        let (mut tcp, _) = soon(self.listener.accept()).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(soon(tcp.read_u8()).await.unwrap());
        }
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        // Until the client has hung up, so that no reset overtakes the answer.
        while tcp.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
    }

    /// Takes everything from everyone and acknowledges it, until the task is dropped. A
    /// malformed pack is refused.
    pub(crate) async fn serve(self, ledger: Arc<Mutex<Ledger>>) {
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            lock(&ledger).connections += 1;
            tokio::spawn(serve_one(tcp, Arc::clone(&ledger)));
        }
    }
}

/// What [`FakeGateway::serve`] has seen.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) connections: usize,
    /// Per device and epoch the numbers in the order they came.
    pub(crate) seqs: HashMap<(String, u64), Vec<u64>>,
    pub(crate) best_effort: usize,
    pub(crate) rejected: usize,
}

async fn serve_one(tcp: TcpStream, ledger: Arc<Mutex<Ledger>>) {
    let Some(mut session) = FakeSession::open(tcp).await else { return };
    let key = (session.device.clone(), session.hello.epoch.unwrap());
    let device = DeviceId::new(&session.device).unwrap();
    let acked = lock(&ledger).seqs.get(&key).and_then(|seqs| seqs.last().copied()).unwrap_or(0);
    session.welcome(acked).await;
    while let Some((seq, pack)) = session.try_readings().await {
        let good = senml::resolve(&pack, &device, TIME, &LIMITS).is_ok();
        let answer = {
            let mut ledger = lock(&ledger);
            match seq {
                Some(seq) => {
                    ledger.seqs.entry(key.clone()).or_default().push(seq);
                }
                None => ledger.best_effort += 1,
            }
            if good {
                seq.map(|seq| GatewayMessage::Ack { seq })
            } else {
                ledger.rejected += 1;
                Some(GatewayMessage::Reject { seq, code: 1, reason: "malformed".into() })
            }
        };
        if let Some(answer) = answer {
            session.send(&answer).await;
        }
    }
}

pub(crate) struct FakeSession {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) device: String,
    pub(crate) authorization: Option<String>,
    pub(crate) hello: Hello,
}

impl FakeSession {
    async fn open(tcp: TcpStream) -> Option<Self> {
        tcp.set_nodelay(true).ok()?;
        let mut device = String::new();
        let mut authorization = None;
        #[allow(clippy::result_large_err)] // The library's own type.
        let answer = |request: &Request, mut response: Response| {
            device = request.uri().path().strip_prefix("/v1/devices/").unwrap().to_owned();
            let text = |name: &str| {
                request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
            };
            authorization = text("authorization");
            assert_eq!(text("sec-websocket-protocol").as_deref(), Some("tidegate.v1"));
            response.headers_mut().insert("sec-websocket-protocol", "tidegate.v1".parse().unwrap());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(tcp, answer).await.ok()?;
        let first = socket.next().await?.ok()?;
        let Ok(DeviceMessage::Hello(hello)) = DeviceMessage::decode(&first.into_data()) else {
            panic!("the first message is not HELLO");
        };
        Some(Self { socket, device, authorization, hello })
    }

    pub(crate) async fn welcome(&mut self, acked: u64) {
        self.welcome_with(acked, 64, 65536, 30).await;
    }

    pub(crate) async fn welcome_with(
        &mut self,
        acked: u64,
        window: u64,
        max_frame: u64,
        heartbeat: u64,
    ) {
        let welcome =
            Welcome { gateway: "fake".into(), time: TIME, acked, window, max_frame, heartbeat };
        self.send(&GatewayMessage::Welcome(welcome)).await;
    }

    pub(crate) async fn send(&mut self, message: &GatewayMessage) {
        // The device may be gone already; the test finds out by what it reads.
        let _ = self.socket.send(Message::Binary(message.encode().into())).await;
    }

    pub(crate) async fn ack(&mut self, seq: u64) {
        self.send(&GatewayMessage::Ack { seq }).await;
    }

    /// The next READINGS; `None` when the device has hung up.
    pub(crate) async fn try_readings(&mut self) -> Option<(Option<u64>, Vec<u8>)> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Binary(bytes) => match DeviceMessage::decode(&bytes).unwrap() {
                    DeviceMessage::Readings { seq, pack } => return Some((seq, pack.to_vec())),
                    other => panic!("READINGS expected, not {other:?}"),
                },
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The number of the next READINGS.
    pub(crate) async fn seq(&mut self) -> u64 {
        soon(self.try_readings()).await.expect("READINGS").0.expect("a number")
    }

    pub(crate) async fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        for _ in 0..count {
            seqs.push(self.seq().await);
        }
        seqs
    }

    pub(crate) async fn result(&mut self) -> (String, bool, Value) {
        loop {
            if let Message::Binary(bytes) = soon(self.socket.next()).await.unwrap().unwrap() {
                match DeviceMessage::decode(&bytes).unwrap() {
                    DeviceMessage::Result { id, ok, value } => return (id, ok, value),
                    other => panic!("RESULT expected, not {other:?}"),
                }
            }
        }
    }

    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.unwrap();
    }
}
