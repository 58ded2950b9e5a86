//! The dashboard over real sockets: every route, the feed, and what it refuses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value as Json, json};
use tidegate::config;
use tidegate::core::batch::{Batch, Reading, Value};
use tidegate::core::ids::DeviceId;
use tidegate::dashboard::{self, Context, DashboardError, DashboardHandle, Fleet, Limits};
use tidegate::metrics::Metrics;
use tidegate::ports::{Clock, DeviceFacts, Feed, Health, UplinkState};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const DEADLINE: Duration = Duration::from_secs(10);

struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }
}

struct Gateway {
    fleet: Arc<Fleet>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    listening: Arc<AtomicBool>,
    handle: DashboardHandle,
}

impl Gateway {
    fn start() -> Self {
        Self::with(Fleet::new())
    }

    fn with(fleet: Fleet) -> Self {
        let context = Context {
            gateway: "gw-1".into(),
            version: "1.2.3".into(),
            fleet: Arc::new(fleet),
            health: Arc::default(),
            metrics: Arc::default(),
            clock: Arc::new(SystemClock),
            started: Instant::now(),
            listening: Arc::default(),
            allowed_hosts: vec!["gw-1.example".into()],
        };
        let settings = config::Dashboard { listen: "127.0.0.1:0".parse().unwrap(), tls: None };
        Self {
            fleet: Arc::clone(&context.fleet),
            health: Arc::clone(&context.health),
            metrics: Arc::clone(&context.metrics),
            listening: Arc::clone(&context.listening),
            handle: dashboard::start(&settings, context).unwrap(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    fn up(&self, device: &str) {
        let facts = DeviceFacts {
            since: 1_763_800_000.5,
            model: Some("K\"1".into()),
            firmware: None,
            commands: vec![],
            address: "10.0.0.7:4711".into(),
        };
        self.fleet.device_up(&id(device), &facts);
    }

    fn send(&self, device: &str, readings: Vec<Reading>) {
        let received = readings.last().map_or(0.0, |reading| reading.time);
        let device = id(device);
        let batch = Batch { device, epoch: 1, seq: None, received, readings };
        self.fleet.readings(&Arc::new(batch));
    }

    fn get(&self, path: &str) -> Answer {
        request(self.address(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"))
    }

    async fn watch(&self, path: &str) -> Feeding {
        let url = format!("ws://{}{path}", self.address());
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Feeding { socket }
    }
}

fn id(device: &str) -> DeviceId {
    DeviceId::new(device).unwrap()
}

fn reading(name: &str, unit: Option<&str>, value: Value, time: f64) -> Reading {
    Reading {
        name: name.into(),
        unit: unit.map(Into::into),
        value: Some(value),
        sum: None,
        time,
        update_time: None,
    }
}

fn number(name: &str, value: f64, time: f64) -> Reading {
    reading(name, None, Value::Number(value), time)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn json(&self) -> Json {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// Sends a request head (without its empty line) and reads the answer to its end.
fn request(address: SocketAddr, head: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = bytes[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status, head, body }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    body
}

/// One viewer of the feed.
struct Feeding {
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
}

impl Feeding {
    async fn next(&mut self) -> Json {
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
    async fn news(&mut self) -> Json {
        loop {
            let message = self.next().await;
            if message["type"] != "status" {
                return message;
            }
        }
    }
}

/// A viewer's picture of the fleet, as a dashboard keeps it.
fn apply(picture: &mut Json, message: &Json) {
    match message["type"].as_str().unwrap() {
        "snapshot" => {
            *picture = json!({});
            for device in message["devices"].as_array().unwrap() {
                picture[device["id"].as_str().unwrap()] = device.clone();
            }
        }
        "device" => {
            let device = &mut picture[message["device"].as_str().unwrap()];
            for key in ["id", "connected", "since", "last_seen", "model", "firmware", "address"] {
                device[key] = message[key].clone();
            }
            if device["readings"].is_null() {
                device["readings"] = json!({});
            }
        }
        "readings" => {
            let device = &mut picture[message["device"].as_str().unwrap()];
            device["last_seen"] = message["last_seen"].clone();
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

fn keys(json: &Json) -> Vec<&str> {
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

mod api {
    use super::*;

    #[test]
    fn the_probes_tell_alive_from_ready() {
        let gateway = Gateway::start();
        assert_eq!(gateway.get("/healthz").status, 200);
        let unready = gateway.get("/readyz");
        assert_eq!(unready.status, 503);
        assert!(unready.error().contains("not listening"), "{unready:?}");
        gateway.listening.store(true, Ordering::Release);
        let unready = gateway.get("/readyz");
        assert_eq!((unready.status, unready.error()), (503, "the spool is not open".into()));
        gateway.health.set_spool(|spool| spool.open = true);
        assert_eq!(gateway.get("/readyz").status, 200);
    }

    #[test]
    fn the_status_has_every_key_and_tells_the_truth() {
        let gateway = Gateway::start();
        gateway.up("a");
        gateway.up("b");
        gateway.fleet.device_down(&id("b"), 1.0);
        gateway.health.set_uplink(|uplink| {
            uplink.state = UplinkState::Disconnected;
            uplink.since = 1_763_800_000.0;
            uplink.last_error = Some("connection refused".into());
        });
        gateway.health.set_spool(|spool| {
            spool.batches = 3;
            spool.readings = 30;
            spool.bytes = 4096;
            spool.max_bytes = 8192;
            spool.oldest = Some(SystemClock.unix() - 60.0);
            spool.lost_readings = 7;
        });
        let status = gateway.get("/api/v1/status").json();
        assert_eq!(keys(&status), ["devices", "gateway", "spool", "uplink", "uptime_s", "version"]);
        assert_eq!(status["gateway"], "gw-1");
        assert_eq!(status["version"], "1.2.3");
        assert!(status["uptime_s"].as_f64().unwrap() < 60.0);
        assert_eq!(
            status["uplink"],
            json!({"state": "disconnected", "since": 1_763_800_000.0,
                   "last_error": "connection refused"})
        );
        assert_eq!(status["devices"], json!({"connected": 1, "known": 2}));
        let age = status["spool"]["oldest_age_s"].as_f64().unwrap();
        assert!((60.0..70.0).contains(&age), "{age}");
        let mut spool = status["spool"].clone();
        spool["oldest_age_s"] = json!(60);
        assert_eq!(
            spool,
            json!({"batches": 3, "readings": 30, "bytes": 4096, "max_bytes": 8192,
                   "oldest_age_s": 60, "lost_readings": 7, "full_in_s": null,
                   "drained_in_s": null})
        );
        gateway.health.set_spool(|spool| spool.fault = Some("no space left".into()));
        assert_eq!(gateway.get("/api/v1/status").json()["spool"]["fault"], "no space left");
    }

    #[test]
    fn a_growing_buffer_says_when_it_is_full() {
        let gateway = Gateway::start();
        let start = Instant::now();
        let mut full_in = None;
        let mut batches = 0;
        while full_in.is_none() {
            assert!(start.elapsed() < DEADLINE);
            batches += 10;
            gateway.health.set_spool(|spool| {
                spool.batches = batches;
                spool.bytes = batches * 100;
                spool.max_bytes = 1 << 30;
            });
            full_in = gateway.get("/api/v1/status").json()["spool"]["full_in_s"].as_f64();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(full_in > Some(1.0), "{full_in:?}");
    }

    #[test]
    fn devices_show_the_latest_of_every_kind_of_value() {
        let gateway = Gateway::start();
        assert_eq!(gateway.get("/api/v1/devices").json(), json!([]));
        gateway.up("kiln-3");
        gateway.send(
            "kiln-3",
            vec![
                reading("temperature", Some("Cel"), Value::Number(21.0), 1.0),
                reading("temperature", Some("Cel"), Value::Number(21.5), 2.5),
                reading("mode", None, Value::Text("a\"b ü".into()), 2.0),
                reading("door", None, Value::Bool(false), 2.0),
                reading("raw", None, Value::Data(Box::new([0xfb, 0xff, 0])), 2.0),
                Reading { value: None, sum: Some(4.5), ..number("energy", 0.0, 3.0) },
            ],
        );
        gateway.send("kiln-3", vec![number("temperature", 1.0, 2.4)]);
        gateway.fleet.device_seen(&id("kiln-3"), 9.0);
        let expected = json!({
            "id": "kiln-3", "connected": true, "since": 1_763_800_000.5, "last_seen": 9.0,
            "model": "K\"1", "firmware": null, "address": "10.0.0.7:4711",
            "readings": {
                "door": {"vb": false, "u": null, "t": 2.0},
                "energy": {"s": 4.5, "u": null, "t": 3.0},
                "mode": {"vs": "a\"b ü", "u": null, "t": 2.0},
                "raw": {"vd": "-_8A", "u": null, "t": 2.0},
                "temperature": {"v": 21.5, "u": "Cel", "t": 2.5},
            },
        });
        assert_eq!(gateway.get("/api/v1/devices").json(), json!([expected]));
        assert_eq!(gateway.get("/api/v1/devices/kiln-3").json(), expected);

        gateway.fleet.device_down(&id("kiln-3"), 10.0);
        let device = gateway.get("/api/v1/devices/kiln-3").json();
        assert_eq!((&device["connected"], &device["since"]), (&json!(false), &json!(10.0)));
        assert_eq!(device["readings"], expected["readings"], "the last values stay known");
    }

    #[test]
    fn a_large_fleet_is_listed_whole_and_in_order() {
        let gateway = Gateway::start();
        for number in 0..2000 {
            gateway.up(&format!("device-{number:04}"));
        }
        let devices = gateway.get("/api/v1/devices").json();
        let devices = devices.as_array().unwrap();
        assert_eq!(devices.len(), 2000);
        for (number, device) in devices.iter().enumerate() {
            assert_eq!(device["id"], format!("device-{number:04}"));
        }
    }

    #[test]
    fn metrics_come_in_the_format_that_is_asked_for() {
        let gateway = Gateway::start();
        gateway.health.set_uplink(|uplink| uplink.state = UplinkState::Connected);
        gateway.health.set_spool(|spool| {
            spool.batches = 12;
            spool.bytes = 4096;
            spool.oldest = Some(SystemClock.unix() - 100.0);
        });
        gateway.metrics.batches_received.inc_by(5);
        let classic = gateway.get("/metrics");
        assert_eq!(
            classic.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let text = classic.text();
        for line in [
            "tidegate_batches_received_total 5",
            "tidegate_spool_batches 12",
            "tidegate_spool_bytes 4096",
            "tidegate_uplink_up 1",
            "tidegate_viewers 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in {text}");
        }
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        assert!((100.0..110.0).contains(&value("tidegate_spool_oldest_seconds ")));
        assert!(value("tidegate_disk_written_bytes_total ") >= 0.0);

        let modern = request(
            gateway.address(),
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;\
             version=1.0.0,text/plain;q=0.5\r\n",
        );
        assert!(modern.header("content-type").unwrap().starts_with("application/openmetrics-text"));
        assert!(modern.text().ends_with("# EOF\n"));
    }

    #[test]
    fn the_page_and_its_files_come_with_a_policy_and_are_asked_for_again_only_if_changed() {
        let gateway = Gateway::start();
        let page = gateway.get("/");
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        let html = page.text();
        let mut files = vec!["/".to_owned()];
        for part in html.split('"').filter(|part| part.starts_with('/') && part.contains('.')) {
            files.push(part.to_owned());
        }
        assert!(files.len() >= 4, "the page's style, script and icon: {files:?}");
        for file in files {
            let answer = gateway.get(&file);
            assert_eq!(answer.status, 200, "{file}");
            let etag = answer.header("etag").unwrap().to_owned();
            let head = format!(
                "GET {file} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"x\", W/{etag}\r\n"
            );
            let again = request(gateway.address(), &head);
            assert_eq!((again.status, again.body.len()), (304, 0), "{file}");
        }
    }

    #[test]
    fn head_answers_like_get_without_the_body() {
        let gateway = Gateway::start();
        gateway.up("a");
        for path in
            ["/", "/healthz", "/metrics", "/api/v1/status", "/api/v1/devices", "/api/v1/devices/a"]
        {
            let get = gateway.get(path);
            let head = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n");
            let head = request(gateway.address(), &head);
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        }
        let events = request(gateway.address(), "HEAD /api/v1/events HTTP/1.1\r\nHost: [::1]\r\n");
        assert_eq!(events.status, 200);
    }
}

mod refusals {
    use super::*;

    #[test]
    fn what_is_not_there_is_404_in_json() {
        let gateway = Gateway::start();
        for path in [
            "/nothing",
            "/api/v1/devices/absent",
            "/api/v1/devices/%ff",
            "/api/v1/devices/a%2Fb",
            "/api/v1/devices/a/history?name=x",
            "/api/v1/commands",
            "/api/v1/openapi.json",
        ] {
            let answer = gateway.get(path);
            assert_eq!(answer.status, 404, "{path}");
            assert!(!answer.error().is_empty());
        }
        assert!(gateway.get("/api/v1/devices/absent").error().contains("\"absent\""));
    }

    #[test]
    fn another_method_is_405_and_says_which_are_allowed() {
        let gateway = Gateway::start();
        for path in ["/", "/healthz", "/api/v1/status", "/api/v1/devices/a", "/api/v1/stream"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
            let answer = request(gateway.address(), &head);
            assert_eq!(answer.status, 405, "{path}");
            assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{path}");
            assert_eq!(answer.error(), "POST is not possible here");
            assert!(answer.header("content-security-policy").is_some());
        }
    }

    #[test]
    fn a_name_that_is_not_the_gateways_is_misdirected() {
        let gateway = Gateway::start();
        let get = |path: &str, host: &str| {
            request(gateway.address(), &format!("GET {path} HTTP/1.1\r\n{host}"))
        };
        for good in ["127.0.0.1", "localhost:8080", "[::1]:8080", "GW-1.example", "192.168.7.7"] {
            let answer = get("/api/v1/status", &format!("Host: {good}\r\n"));
            assert_eq!(answer.status, 200, "{good}");
        }
        for path in ["/", "/api/v1/status", "/api/v1/stream", "/metrics", "/nothing"] {
            let answer = get(path, "Host: evil.example\r\n");
            assert_eq!(answer.status, 421, "{path}");
            assert!(answer.error().contains("IP address"), "{answer:?}");
        }
        assert_eq!(get("/healthz", "Host: probe.example\r\n").status, 200);
        assert_eq!(get("/api/v1/status", "").status, 400);
        assert_eq!(get("/api/v1/status", "Host: localhost\r\nHost: evil.example\r\n").status, 400);
    }

    #[test]
    fn the_feed_refuses_other_origins_plain_requests_and_bad_handshakes() {
        let gateway = Gateway::start();
        let ask = |lines: &[&str]| {
            let mut head = "GET /api/v1/stream HTTP/1.1\r\nHost: localhost:1\r\n".to_owned();
            for line in lines {
                head.push_str(line);
                head.push_str("\r\n");
            }
            let mut stream = TcpStream::connect(gateway.address()).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            std::str::from_utf8(&start[9..]).unwrap().parse::<u16>().unwrap()
        };
        let upgrade = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade";
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let version = "Sec-WebSocket-Version: 13";
        assert_eq!(ask(&[upgrade, key, version]), 101);
        assert_eq!(ask(&[upgrade, key, version, "Origin: http://localhost:1"]), 101);
        for origin in ["http://evil.example", "null", "http://localhost:2", "http://localhost"] {
            let origin = format!("Origin: {origin}");
            assert_eq!(ask(&[upgrade, key, version, &origin]), 403, "{origin}");
        }
        assert_eq!(ask(&[]), 426);
        assert_eq!(ask(&[upgrade, key, "Sec-WebSocket-Version: 8"]), 426);
        assert_eq!(ask(&[upgrade, version]), 400);
        assert_eq!(ask(&[upgrade, version, "Sec-WebSocket-Key: x"]), 400);
        assert_eq!(gateway.get("/api/v1/events?device=a%20b").status, 400);
    }

    #[test]
    fn an_address_that_is_taken_is_named_with_its_setting() {
        let gateway = Gateway::start();
        let listen = gateway.address();
        let settings = config::Dashboard { listen, tls: None };
        let context = Context {
            gateway: "gw-2".into(),
            version: "1".into(),
            fleet: Arc::default(),
            health: Arc::default(),
            metrics: Arc::default(),
            clock: Arc::new(SystemClock),
            started: Instant::now(),
            listening: Arc::default(),
            allowed_hosts: vec![],
        };
        let error = dashboard::start(&settings, context).unwrap_err();
        assert!(matches!(error, DashboardError::Bind { .. }));
        let text = error.to_string();
        assert!(text.contains(&listen.to_string()) && text.contains("dashboard.listen"), "{text}");
    }
}

mod feed {
    use super::*;

    #[tokio::test]
    async fn a_snapshot_comes_first_and_then_what_changes() {
        let gateway = Gateway::start();
        gateway.up("a");
        gateway.send("a", vec![number("x", 1.0, 1.0), number("y", 1.0, 1.0)]);
        let mut feed = gateway.watch("/api/v1/stream").await;

        let snapshot = feed.next().await;
        assert_eq!(keys(&snapshot), ["devices", "gateway", "status", "time", "type", "version"]);
        assert_eq!((&snapshot["type"], &snapshot["gateway"]), (&json!("snapshot"), &json!("gw-1")));
        assert!((snapshot["time"].as_f64().unwrap() - SystemClock.unix()).abs() < 10.0);
        assert_eq!(snapshot["devices"], gateway.get("/api/v1/devices").json());
        let mut status = gateway.get("/api/v1/status").json();
        status["uptime_s"] = snapshot["status"]["uptime_s"].clone();
        assert_eq!(snapshot["status"], status);

        gateway.send("a", vec![reading("x", Some("Cel"), Value::Number(2.5), 2.0)]);
        assert_eq!(
            feed.news().await,
            json!({"type": "readings", "device": "a", "last_seen": 2.0,
                   "readings": [{"n": "x", "u": "Cel", "v": 2.5, "t": 2.0}]})
        );
        gateway.fleet.device_down(&id("a"), 3.0);
        let device = feed.news().await;
        assert_eq!(
            device,
            json!({"type": "device", "device": "a", "id": "a", "connected": false, "since": 3.0,
                   "last_seen": 2.0, "model": "K\"1", "firmware": null,
                   "address": "10.0.0.7:4711"})
        );
    }

    #[tokio::test]
    async fn the_status_comes_at_once_when_it_changes_and_each_second_anyway() {
        let gateway = Gateway::start();
        let mut feed = gateway.watch("/api/v1/stream").await;
        assert_eq!(feed.next().await["type"], "snapshot");
        gateway.health.set_uplink(|uplink| uplink.state = UplinkState::Connected);
        let start = Instant::now();
        let mut repeats = 0;
        while repeats < 2 {
            let message = feed.next().await;
            assert_eq!(message["type"], "status");
            assert!(message["time"].is_f64() && message["spool"].is_object(), "{message}");
            repeats += usize::from(message["uplink"]["state"] == "connected");
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn snapshot_and_news_together_give_what_the_api_gives() {
        let gateway = Gateway::start();
        for device in 0..40 {
            gateway.up(&format!("d{device}"));
        }
        let mut pictures = Vec::new();
        let mut feeds = Vec::new();
        // Viewers come while values change.
        for round in 0..200_u32 {
            let device = format!("d{}", round * 7 % 45);
            match round % 50 {
                10 => gateway.fleet.device_down(&id(&device), f64::from(round)),
                20 => gateway.up(&format!("d{}", 40 + round / 50)),
                _ => gateway.send(
                    &device,
                    vec![
                        number("x", f64::from(round), f64::from(round)),
                        number(&format!("n{}", round % 5), 1.0, f64::from(round)),
                    ],
                ),
            }
            if round % 40 == 0 {
                feeds.push(gateway.watch("/api/v1/stream").await);
                pictures.push(json!({}));
            }
        }
        // Listed last in its tick, and last in the order of names.
        gateway.up("end");
        for (feed, picture) in feeds.iter_mut().zip(&mut pictures) {
            while picture["end"]["connected"] != true {
                apply(picture, &feed.next().await);
            }
        }
        let devices = gateway.get("/api/v1/devices").json();
        for picture in pictures {
            assert_eq!(picture.as_object().unwrap().len(), devices.as_array().unwrap().len());
            for device in devices.as_array().unwrap() {
                assert_eq!(&picture[device["id"].as_str().unwrap()], device);
            }
        }
    }

    #[tokio::test]
    async fn filters_leave_out_other_devices_and_names() {
        let gateway = Gateway::start();
        for device in ["a", "b", "c"] {
            gateway.up(device);
            gateway.send(device, vec![number("x", 1.0, 1.0), number("y", 1.0, 1.0)]);
        }
        let mut by_device = gateway.watch("/api/v1/stream?device=b&device=later").await;
        let mut by_name = gateway.watch("/api/v1/stream?name=y").await;
        let mut by_both = gateway.watch("/api/v1/stream?name=y&device=c&unknown=1").await;
        let ids = |snapshot: &Json| -> Vec<String> {
            let devices = snapshot["devices"].as_array().unwrap();
            devices.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&by_device.next().await), ["b"]);
        let snapshot = by_name.next().await;
        assert_eq!(ids(&snapshot), ["a", "b", "c"]);
        assert_eq!(keys(&snapshot["devices"][0]["readings"]), ["y"]);
        assert_eq!(ids(&by_both.next().await), ["c"]);

        for device in ["a", "b", "c"] {
            gateway.send(device, vec![number("x", 2.0, 2.0), number("y", 2.0, 2.0)]);
        }
        gateway.up("later");
        let news = by_device.news().await;
        assert_eq!((&news["device"], news["readings"].as_array().unwrap().len()), (&json!("b"), 2));
        assert_eq!(by_device.news().await["device"], "later");
        for device in ["a", "b", "c"] {
            let news = by_name.news().await;
            assert_eq!(
                news,
                json!({"type": "readings", "device": device, "last_seen": 2.0,
                       "readings": [{"n": "y", "v": 2.0, "t": 2.0}]})
            );
        }
        assert_eq!(by_both.news().await["device"], "c");
    }

    #[tokio::test]
    async fn a_viewer_that_reads_nothing_holds_up_nobody_and_then_gets_the_newest() {
        let gateway = Gateway::start();
        let text = |round: u32| Value::Text(format!("{round}-{}", "x".repeat(900)).into());
        let round_of = |message: &Json| -> Option<u32> {
            let text = message["readings"].as_array()?.first()?["vs"].as_str()?;
            text.split('-').next()?.parse().ok()
        };
        for device in 0..400 {
            gateway.up(&format!("d{device:03}"));
        }
        let mut slow = gateway.watch("/api/v1/stream").await;
        let mut quick = gateway.watch("/api/v1/stream").await;
        assert_eq!(quick.next().await["type"], "snapshot");

        // Each round is about 400 KB: after a few, the slow viewer's connection is full.
        let rounds = 60;
        let mut longest = Duration::ZERO;
        for round in 1..=rounds {
            let start = Instant::now();
            for device in 0..400 {
                let value = reading("s", None, text(round), f64::from(round));
                gateway.send(&format!("d{device:03}"), vec![value]);
            }
            longest = longest.max(start.elapsed());
            // The quick one keeps up with every round.
            loop {
                let message = quick.next().await;
                if message["device"] == "d399" && round_of(&message) == Some(round) {
                    break;
                }
            }
        }
        assert!(longest < Duration::from_secs(1), "ingestion was held up for {longest:?}");

        let mut received = 0;
        let mut newest = std::collections::HashSet::new();
        while newest.len() < 400 {
            let message = slow.next().await;
            if message["type"] == "readings" {
                received += 1;
                if round_of(&message) == Some(rounds) {
                    newest.insert(message["device"].as_str().unwrap().to_owned());
                }
            }
        }
        assert!(received < 400 * rounds / 2, "older values are skipped: {received} messages");
    }

    #[tokio::test]
    async fn a_device_that_is_dropped_from_the_table_is_said_to_be() {
        let fleet = Fleet::with_limits(Limits { devices: 2, ..Limits::default() });
        let gateway = Gateway::with(fleet);
        gateway.up("a");
        gateway.up("b");
        gateway.fleet.device_down(&id("a"), 1.0);
        let mut feed = gateway.watch("/api/v1/stream").await;
        assert_eq!(feed.next().await["devices"].as_array().unwrap().len(), 2);
        gateway.up("c");
        let gone = feed.news().await;
        assert_eq!((&gone["device"], &gone["forgotten"]), (&json!("a"), &json!(true)));
        assert_eq!(feed.news().await["device"], "c");
    }

    #[tokio::test]
    async fn a_large_snapshot_comes_in_fragments_of_one_message() {
        let gateway = Gateway::start();
        for device in 0..1500 {
            gateway.up(&format!("d{device:04}"));
        }
        let mut feed = gateway.watch("/api/v1/stream").await;
        let snapshot = feed.next().await;
        assert_eq!(snapshot["devices"], gateway.get("/api/v1/devices").json());
    }

    #[tokio::test]
    async fn viewers_are_counted_and_one_that_talks_is_told_not_to() {
        let gateway = Gateway::start();
        let mut feed = gateway.watch("/api/v1/stream").await;
        feed.next().await;
        assert_eq!(gateway.metrics.viewers.get(), 1);
        feed.socket.send(Message::text("hello")).await.unwrap();
        let close = loop {
            match feed.socket.next().await.unwrap().unwrap() {
                Message::Close(frame) => break frame.unwrap(),
                _ => continue,
            }
        };
        assert_eq!(u16::from(close.code), 1008);
        let start = Instant::now();
        while gateway.metrics.viewers.get() != 0 {
            assert!(start.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn events_carry_the_same_feed() {
        let gateway = Gateway::start();
        gateway.up("a");
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = "GET /api/v1/events?device=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        let mut read_until = |wanted: &str| {
            let mut buffer = [0; 4096];
            while !text.contains(wanted) {
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "ended before {wanted}: {text}");
                text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        read_until("data: {\"type\":\"snapshot\"");
        gateway.send("a", vec![number("x", 7.0, 1.0)]);
        read_until("data: {\"type\":\"readings\",\"device\":\"a\"");
        read_until("data: {\"type\":\"status\"");
        assert!(text.contains("text/event-stream"));
        drop(stream);
    }

    #[tokio::test]
    async fn stopping_says_goodbye_to_viewers_in_time() {
        let gateway = Gateway::start();
        let mut feed = gateway.watch("/api/v1/stream").await;
        feed.next().await;
        let address = gateway.address();
        let mut events = TcpStream::connect(address).unwrap();
        events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        events.set_read_timeout(Some(DEADLINE)).unwrap();
        events.read_exact(&mut [0; 15]).unwrap();
        assert!(gateway.handle.stop(Duration::from_secs(5)).await);
        let close = loop {
            match feed.socket.next().await {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 1001);
        let mut rest = Vec::new();
        events.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "the events end as HTTP says");
        assert!(TcpStream::connect(address).is_err());
    }

    #[tokio::test]
    async fn hundreds_of_viewers_are_served_and_counted() {
        let gateway = Gateway::start();
        let mut feeds = Vec::new();
        for _ in 0..400 {
            feeds.push(gateway.watch("/api/v1/stream").await);
        }
        let start = Instant::now();
        for feed in &mut feeds {
            assert_eq!(feed.next().await["type"], "snapshot");
        }
        assert!(start.elapsed() < DEADLINE);
        assert_eq!(gateway.metrics.viewers.get(), 400);
    }
}
