//! A listener, the engine's end of it, and two kinds of client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::config::registry::Registry;
use crate::config::{Auth, Devices, Proxies, Rate};
use crate::core::batch::Batch;
use crate::core::frame::{DeviceMessage, GatewayMessage, Hello, Welcome};
use crate::core::ids::{DeviceId, SessionId};
use crate::core::senml;
use crate::device::{Context, Listener};
use crate::metrics::Metrics;
use crate::ports::{
    Budget, Clock, DeviceEvent, DeviceFacts, Feed, Link, Refused, Resume, Submitted, lock,
};

/// Longer than anything takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else { panic!("{what}: never") };
    value
}

/// Asks again and again, for what has no event to wait for.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let asked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, asked).await;
}

pub(super) fn settings() -> Devices {
    Devices {
        listen: "127.0.0.1:0".parse().unwrap(),
        auth: Auth::None,
        registry: "devices.toml".into(),
        allowed_origins: Vec::new(),
        max_connections: 10_000,
        max_connections_per_address: 10_000,
        max_handshakes_per_second: 10_000,
        max_handshakes_per_second_per_address: 10_000,
        proxies: Proxies::default(),
        hello_timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(30),
        heartbeat_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(30),
        window: 64,
        max_frame: 64 * 1024,
        max_records: 1024,
        rate: rate(1e6, 1e6),
        max_unsettled: 1 << 20,
        tls: None,
    }
}

/// That many batches per second, that many at once, and as many bytes as there come.
pub(super) fn rate(batches_per_second: f64, burst: f64) -> Rate {
    Rate { batches_per_second, burst, bytes_per_second: 1 << 30, burst_bytes: 1 << 30 }
}

/// A registry in which every device's token is its id and `-token`.
pub(super) fn registry(devices: &[&str]) -> Registry {
    let entries: String = devices.iter().map(|id| entry(id, &format!("{id}-token"), "")).collect();
    parse(&entries)
}

pub(super) fn entry(id: &str, token: &str, more: &str) -> String {
    format!("[devices.{id}]\ntoken = \"{}\"\n{more}\n", hash(token))
}

pub(super) fn hash(token: &str) -> String {
    let hex =
        Sha256::digest(token).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("sha256:{hex}")
}

pub(super) fn parse(text: &str) -> Registry {
    Registry::parse(text, Path::new("devices.toml")).unwrap()
}

struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> f64 {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
    }
}

#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) up: HashMap<DeviceId, DeviceFacts>,
    pub(super) downs: usize,
    pub(super) seen: usize,
    pub(super) round_trips: Vec<f64>,
    /// Device, code, reason.
    pub(super) refused: Vec<(String, u64, String)>,
    /// Of whom anything new panics: a fault of the program, to order.
    panics: Option<String>,
}

impl Shown {
    fn look_at(&self, device: &DeviceId) {
        assert!(self.panics.as_deref() != Some(device.as_str()), "as the test wishes");
    }
}

#[derive(Default)]
struct Screen(Mutex<Shown>);

impl Feed for Screen {
    fn readings(&self, _batch: &Arc<Batch>) {}

    fn device_up(&self, device: &DeviceId, facts: &DeviceFacts) {
        let mut shown = lock(&self.0);
        shown.look_at(device);
        shown.up.insert(device.clone(), facts.clone());
    }

    fn device_down(&self, device: &DeviceId, _time: f64) {
        let mut shown = lock(&self.0);
        shown.up.remove(device);
        shown.downs += 1;
    }

    fn device_seen(&self, _device: &DeviceId, _time: f64) {
        lock(&self.0).seen += 1;
    }

    fn device_opened(&self, _device: &DeviceId, _epoch: u64, _acked: u64) {}

    fn irregular(&self, _device: &DeviceId, _gaps: u64, _duplicates: u64) {}

    fn round_trip(&self, _device: &DeviceId, seconds: f64) {
        lock(&self.0).round_trips.push(seconds);
    }

    fn refused(&self, device: &DeviceId, refused: &Refused<'_>) {
        let refused = (device.to_string(), refused.code, refused.reason.to_owned());
        let mut shown = lock(&self.0);
        shown.look_at(device);
        shown.refused.push(refused);
    }
}

/// What the listener needs, and the other ends of it.
pub(super) fn context(settings: &Devices, registry: Registry, inbox: usize) -> (Context, Ends) {
    let (registry, registry_seen) = watch::channel(Arc::new(registry));
    let (event_sender, events) = mpsc::channel(inbox);
    let screen = Arc::new(Screen::default());
    let context = Context {
        gateway: "gw-test".to_owned(),
        events: event_sender,
        budget: Arc::new(Budget::new(settings.max_unsettled)),
        registry: registry_seen,
        feed: Arc::clone(&screen) as Arc<dyn Feed>,
        metrics: Arc::new(Metrics::new()),
        clock: Arc::new(SystemClock),
    };
    (context, Ends { registry, events, screen })
}

/// The other ends of a [`Context`].
pub(super) struct Ends {
    registry: watch::Sender<Arc<Registry>>,
    events: mpsc::Receiver<DeviceEvent>,
    screen: Arc<Screen>,
}

/// A serving listener and the engine's end of it.
pub(super) struct Bench {
    pub(super) addr: SocketAddr,
    pub(super) registry: watch::Sender<Arc<Registry>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) budget: Arc<Budget>,
    pub(super) tls: Option<crate::host::tls::TlsSlot>,
    events: Option<mpsc::Receiver<DeviceEvent>>,
    screen: Arc<Screen>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

/// A session as the engine sees it.
pub(super) struct Opened {
    pub(super) session: SessionId,
    pub(super) device: DeviceId,
    pub(super) epoch: Option<u64>,
    pub(super) link: Arc<Link>,
    pub(super) welcome: oneshot::Sender<Resume>,
}

impl Bench {
    pub(super) fn start(settings: &Devices, registry: Registry) -> Self {
        Self::with_inbox(settings, registry, 64)
    }

    /// With room for `inbox` events that the engine has not taken.
    pub(super) fn with_inbox(settings: &Devices, registry: Registry, inbox: usize) -> Self {
        let listener = Listener::bind(settings).unwrap();
        let (addr, tls) = (listener.local_addr().unwrap(), listener.tls());
        let (context, Ends { registry, events, screen }) = context(settings, registry, inbox);
        let (metrics, budget) = (Arc::clone(&context.metrics), Arc::clone(&context.budget));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            listener.serve(context, stopped, PATIENCE).await.unwrap();
        });
        let (events, stop) = (Some(events), Some(stop));
        Self { addr, registry, metrics, budget, tls, events, screen, stop, served }
    }

    pub(super) fn refused(&self, reason: &'static str) -> u64 {
        let label = crate::metrics::Reason { reason };
        self.metrics.connections_refused.get_or_create(&label).get()
    }

    pub(super) fn connected(&self) -> i64 {
        self.metrics.devices_connected.get()
    }

    pub(super) fn shown<T>(&self, look: impl FnOnce(&Shown) -> T) -> T {
        look(&lock(&self.screen.0))
    }

    /// From here on the feed panics over this device: in the task that serves its connection.
    pub(super) fn panic_for(&self, device: &str) {
        lock(&self.screen.0).panics = Some(device.to_owned());
    }

    pub(super) fn panic_for_nobody(&self) {
        lock(&self.screen.0).panics = None;
    }

    pub(super) fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(super) async fn stopped(self) {
        soon("the listener stops", self.served).await.unwrap();
    }

    pub(super) fn engine_dies(&mut self) {
        self.events = None;
    }

    // ------------------------------------------------------------ the engine's end

    pub(super) async fn event(&mut self) -> DeviceEvent {
        let events = self.events.as_mut().unwrap();
        soon("an event for the engine", events.recv()).await.unwrap()
    }

    /// What has arrived without waiting.
    pub(super) fn event_now(&mut self) -> Option<DeviceEvent> {
        self.events.as_mut().unwrap().try_recv().ok()
    }

    pub(super) async fn opened(&mut self) -> Opened {
        match self.event().await {
            DeviceEvent::Opened { session, device, epoch, link, welcome, facts } => {
                assert_eq!(facts.address, "127.0.0.1");
                Opened { session, device, epoch, link, welcome }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn closed(&mut self) -> SessionId {
        match self.event().await {
            DeviceEvent::Closed { session } => session,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn batches(&mut self) -> Vec<Submitted> {
        match self.event().await {
            DeviceEvent::Batches { batches, .. } => batches,
            other => panic!("{other:?}"),
        }
    }

    /// The numbers of the next `count` submissions, however they are grouped.
    pub(super) async fn seqs(&mut self, count: usize) -> Vec<Option<u64>> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            for submitted in self.batches().await {
                seqs.push(match submitted {
                    Submitted::Batch(batch) => {
                        self.budget.give_back(batch.weight());
                        batch.seq
                    }
                    Submitted::Rejected(seq) => Some(seq),
                });
            }
        }
        seqs
    }

    // ------------------------------------------------------------ clients

    /// A device that has been greeted, and the engine's end of its session.
    pub(super) async fn greeted(&mut self, device: &str) -> (Client, Arc<Link>) {
        let (client, opened) = self.greeted_session(device).await;
        (client, opened.link)
    }

    pub(super) async fn greeted_session(&mut self, device: &str) -> (Client, Greeted) {
        let mut client = Client::connect(self.addr, device, &[]).await.unwrap();
        client.send(&hello(Some(7))).await;
        let opened = self.opened().await;
        opened.welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
        let welcome = client.welcome().await;
        assert_eq!(welcome.acked, 0);
        (client, Greeted { session: opened.session, link: opened.link })
    }

    /// Sends `request` as it is and gives everything that comes back until the end.
    pub(super) async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

pub(super) struct Greeted {
    pub(super) session: SessionId,
    pub(super) link: Arc<Link>,
}

pub(super) fn hello(epoch: Option<u64>) -> DeviceMessage<'static> {
    let model = Some("kiln".to_owned());
    DeviceMessage::Hello(Hello { epoch, model, firmware: None, commands: vec!["heat".to_owned()] })
}

/// A batch with one reading of that name.
pub(super) fn readings(seq: Option<u64>, name: &str) -> Vec<u8> {
    let reading = crate::core::batch::Reading {
        name: name.into(),
        unit: None,
        value: Some(crate::core::batch::Value::Number(21.5)),
        sum: None,
        time: 1_763_800_000.0,
        update_time: None,
        relative: false,
    };
    let pack = senml::encode(&[reading]);
    DeviceMessage::Readings { seq, pack: &pack }.encode()
}

/// A batch whose pack is well-formed CBOR and no SenML.
pub(super) fn malformed(seq: Option<u64>) -> Vec<u8> {
    DeviceMessage::Readings { seq, pack: &[0x81, 0x05] }.encode()
}

/// A frame as it goes over the wire; `first` is its first byte.
pub(super) fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..=125 => bytes.push(masked | u8::try_from(n).unwrap()),
        n => {
            bytes.push(masked | 0x7e);
            bytes.extend(u16::try_from(n).unwrap().to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub(super) const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// A handshake's text with `more` header lines.
pub(super) fn request(device: &str, more: &str) -> String {
    format!(
        "GET /v1/devices/{device} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\n{more}\r\n"
    )
}

/// A device on tokio-tungstenite.
pub(super) struct Client {
    pub(super) websocket: WebSocketStream<TcpStream>,
    pub(super) answer: tokio_tungstenite::tungstenite::handshake::client::Response,
}

impl Client {
    pub(super) async fn connect(
        addr: SocketAddr,
        device: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{addr}/v1/devices/{device}");
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "tidegate.v1".parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let connected = tokio_tungstenite::client_async(request, stream);
        let (websocket, answer) = soon("the handshake", connected).await?;
        Ok(Self { websocket, answer })
    }

    pub(super) async fn send(&mut self, message: &DeviceMessage<'_>) {
        self.send_bytes(message.encode()).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.send_message(Message::Binary(bytes.into())).await;
    }

    pub(super) async fn send_message(&mut self, message: Message) {
        soon("sending", self.websocket.send(message)).await.unwrap();
    }

    /// Sends many messages with one write.
    pub(super) async fn send_together(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            self.websocket.feed(Message::Binary(message.into())).await.unwrap();
        }
        soon("sending", self.websocket.flush()).await.unwrap();
    }

    /// Writes past the WebSocket.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        soon("sending", self.websocket.get_mut().write_all(bytes)).await.unwrap();
    }

    /// Whether the connection ends without a Close frame.
    pub(super) async fn ends(&mut self) -> bool {
        loop {
            match soon("the end", self.websocket.next()).await {
                None | Some(Err(_)) => return true,
                Some(Ok(Message::Close(_))) => return false,
                Some(Ok(_)) => {}
            }
        }
    }

    pub(super) async fn next(&mut self) -> Message {
        soon("a message", self.websocket.next()).await.expect("not the end").unwrap()
    }

    /// The next message that is not a ping or pong.
    pub(super) async fn receive(&mut self) -> GatewayMessage {
        loop {
            match self.next().await {
                Message::Binary(bytes) => return GatewayMessage::decode(&bytes).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) async fn welcome(&mut self) -> Welcome {
        let GatewayMessage::Welcome(welcome) = self.receive().await else { panic!("no WELCOME") };
        welcome
    }

    /// Reads until the ACK of `seq`; any ACK beyond it is one too many.
    pub(super) async fn acked(&mut self, seq: u64) {
        loop {
            let GatewayMessage::Ack { seq: acked } = self.receive().await else { panic!("no ACK") };
            assert!(acked <= seq, "{acked} acknowledged, {seq} expected");
            if acked == seq {
                return;
            }
        }
    }

    /// Reads until the Close frame; then the connection must end. Gives code and reason.
    pub(super) async fn close_frame(&mut self) -> (u16, String) {
        let closing = async {
            let mut close = None;
            while let Some(message) = self.websocket.next().await {
                match message {
                    Ok(Message::Close(Some(frame))) => {
                        close = Some((frame.code.into(), frame.reason.to_string()));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        assert!(close.is_some(), "ended without a Close frame: {error}");
                        break;
                    }
                }
            }
            close.expect("a Close frame")
        };
        let (code, reason) = soon("the Close frame", closing).await;
        assert!(!reason.is_empty() && reason.len() <= 123, "{reason:?}");
        (code, reason)
    }
}
