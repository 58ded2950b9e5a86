//! A dashboard to test, and the clients that ask it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tidegate::config::{self, Settings, Surroundings};
use tidegate::core::batch::{Batch, Reading, Value};
use tidegate::core::clock::Base;
use tidegate::core::ids::DeviceId;
use tidegate::dashboard::{self, Context, DashboardHandle, Fleet, Origins};
use tidegate::host::tail::{Entry, Tail};
use tidegate::host::wear::Wear;
use tidegate::metrics::Metrics;
use tidegate::ports::{Budget, Clock, CommandAccess, CommandBook, DeviceFacts, Feed, Health};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }
}

pub(crate) struct Gateway {
    pub fleet: Arc<Fleet>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub listening: Arc<AtomicBool>,
    pub log: Arc<Tail>,
    pub budget: Arc<Budget>,
    pub book: Arc<CommandBook>,
    pub handle: DashboardHandle,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::with(Fleet::new())
    }

    pub(crate) fn with(fleet: Fleet) -> Self {
        Self::of(context(fleet))
    }

    pub(crate) fn of(context: Context) -> Self {
        Self::served(&dashboard(), context)
    }

    pub(crate) fn served(settings: &config::Dashboard, context: Context) -> Self {
        Self {
            fleet: Arc::clone(&context.fleet),
            health: Arc::clone(&context.health),
            metrics: Arc::clone(&context.metrics),
            listening: Arc::clone(&context.listening),
            log: Arc::clone(&context.log),
            budget: Arc::clone(&context.budget),
            book: Arc::clone(&context.commands.book),
            handle: dashboard::start(settings, context).unwrap(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    pub(crate) fn up(&self, device: &str) {
        let facts = DeviceFacts {
            since: 1_763_800_000.5,
            model: Some("K\"1".into()),
            firmware: None,
            commands: vec!["set".into(), "identify".into()],
            address: "10.0.0.7:4711".into(),
        };
        self.fleet.device_up(&id(device), &facts);
    }

    pub(crate) fn send(&self, device: &str, readings: Vec<Reading>) {
        let received = readings.last().map_or(0.0, |reading| reading.time);
        let device = id(device);
        let batch = Batch {
            device,
            epoch: 1,
            seq: None,
            received,
            base: Base::default(),
            shift: 0.0,
            readings,
        };
        self.fleet.readings(&Arc::new(batch));
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        request(self.address(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"))
    }

    pub(crate) async fn watch(&self, path: &str) -> Feeding {
        let url = format!("ws://{}{path}", self.address());
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Feeding { socket }
    }
}

/// The settings of a dashboard without users on any free port.
pub(crate) fn dashboard() -> config::Dashboard {
    config::Dashboard {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..settings("").borrow().dashboard.clone()
    }
}

pub(crate) fn context(fleet: Fleet) -> Context {
    Context {
        gateway: "gw-1".into(),
        version: "1.2.3".into(),
        fleet: Arc::new(fleet),
        health: Arc::default(),
        metrics: Arc::default(),
        commands: CommandAccess::new(1024).0,
        clock: Arc::new(SystemClock),
        wear: Arc::new(Wear::new(Arc::new(SystemClock))),
        started: Instant::now(),
        listening: Arc::default(),
        budget: Arc::new(Budget::new(1 << 20)),
        log: Arc::default(),
        audit: Arc::default(),
        settings: settings(""),
        origins: Arc::new(Origins::new(
            vec!["gw-1.example".into()],
            vec!["https://panel.example".into()],
        )),
    }
}

/// The settings of a configuration file `/etc/t/tidegate.toml`.
pub(crate) fn settings(text: &str) -> watch::Receiver<Arc<Settings>> {
    let host = Surroundings { host_name: Some("host-1".into()), ..Surroundings::default() };
    let settings = Settings::parse(text, "/etc/t/tidegate.toml".as_ref(), &host).unwrap();
    watch::Sender::new(Arc::new(settings)).subscribe()
}

/// Adds an entry to the log.
pub(crate) fn note(log: &Tail, level: log::Level, message: &str, device: Option<&str>) {
    let fields: Vec<_> = device.iter().map(|device| ("device", (*device).to_owned())).collect();
    log.push(Entry::new(1_763_800_000.5, level, "tidegate::test".into(), message, &fields));
}

pub(crate) fn id(device: &str) -> DeviceId {
    DeviceId::new(device).unwrap()
}

pub(crate) fn reading(name: &str, unit: Option<&str>, value: Value, time: f64) -> Reading {
    Reading {
        name: name.into(),
        unit: unit.map(Into::into),
        value: Some(value),
        sum: None,
        time,
        update_time: None,
        relative: false,
    }
}

pub(crate) fn number(name: &str, value: f64, time: f64) -> Reading {
    reading(name, None, Value::Number(value), time)
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Json {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// Sends a request head (without its empty line) and reads the answer to its end.
pub(crate) fn request(address: SocketAddr, head: &str) -> Answer {
    raw(address, &format!("{head}Connection: close\r\n\r\n"))
}

/// Sends a whole request and reads the answer to its end.
pub(crate) fn raw(address: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(3 * DEADLINE)).unwrap();
    // What is refused early is not read to its end.
    let _ = stream.write_all(text.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = bytes[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status, head, body }
}

pub(crate) fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    body
}

/// One viewer of the feed.
pub(crate) struct Feeding {
    pub socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
}

impl Feeding {
    pub(crate) async fn next(&mut self) -> Json {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.socket.next());
            match message.await.expect("a message in time").expect("an open feed").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message that is not a status.
    pub(crate) async fn news(&mut self) -> Json {
        loop {
            let message = self.next().await;
            if message["type"] != "status" {
                return message;
            }
        }
    }
}

/// A viewer's picture of the fleet, as a dashboard keeps it.
pub(crate) fn apply(picture: &mut Json, message: &Json) {
    match message["type"].as_str().unwrap() {
        "snapshot" => {
            *picture = json!({});
            for device in message["devices"].as_array().unwrap() {
                picture[device["id"].as_str().unwrap()] = device.clone();
            }
        }
        "device" => {
            if message["forgotten"] == true {
                picture.as_object_mut().unwrap().remove(message["device"].as_str().unwrap());
                return;
            }
            let device = &mut picture[message["device"].as_str().unwrap()];
            for key in [
                "id",
                "connected",
                "since",
                "last_seen",
                "model",
                "firmware",
                "address",
                "commands",
                "interval_s",
            ] {
                device[key] = message[key].clone();
            }
            if device["readings"].is_null() {
                device["readings"] = json!({});
            }
        }
        "readings" => {
            let device = &mut picture[message["device"].as_str().unwrap()];
            device["last_seen"] = message["last_seen"].clone();
            device["interval_s"] = message["interval_s"].clone();
            for record in message["readings"].as_array().unwrap() {
                let mut kept = record.clone();
                let name = kept.as_object_mut().unwrap().remove("n").unwrap();
                if kept["u"].is_null() {
                    kept["u"] = Json::Null;
                }
                device["readings"][name.as_str().unwrap()] = kept;
            }
        }
        "status" => {}
        other => panic!("{other}"),
    }
}

pub(crate) fn keys(json: &Json) -> Vec<&str> {
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
