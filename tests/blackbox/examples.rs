//! The example devices in `examples/`, each as a user runs it, against the real gateway. Ignored in
//! a plain `cargo test`, since they need interpreters and libraries: `tests/run examples` installs
//! those.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use ciborium::Value;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::harness::{Broker, Gateway, Proxy, Setup, raw, until, within};

/// A running example; ended when dropped.
struct Example(Child);

impl Example {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    async fn ended(&mut self) -> ExitStatus {
        until("the example ends", async || self.0.try_wait().unwrap().is_some()).await;
        self.0.wait().unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended, which is no reason to complain.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    _broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    token: String,
}

impl Bench {
    async fn start() -> Self {
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        let mut gateway = Setup::new(proxy.port).with_tokens().prepare();
        let token = gateway.add("kiln-3", &[]);
        gateway.start().await;
        gateway.until_uplink("connected").await;
        Self { _broker: broker, proxy, gateway, token }
    }

    /// What every example is told.
    fn arguments(&self, count: &str) -> [String; 4] {
        let url = format!("ws://127.0.0.1:{}", self.gateway.devices);
        [url, "kiln-3".into(), self.token.clone(), count.into()]
    }

    /// The numbers that have arrived, without repeats, in order of arrival.
    fn arrived(&self) -> Vec<u64> {
        let mut seqs = Vec::new();
        for seen in self.proxy.readings() {
            let seq = seen.json()["seq"].as_u64().unwrap();
            if !seqs.contains(&seq) {
                seqs.push(seq);
            }
        }
        seqs
    }

    /// Asks the device for `name` and waits for what becomes of it: the command's record.
    async fn ask(&self, name: &str, params: serde_json::Value) -> serde_json::Value {
        let body = json!({ "name": name, "params": params }).to_string();
        let request = format!(
            "POST /api/v1/devices/kiln-3/commands?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(self.gateway.dashboard, &request).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()
    }

    /// Runs an example and tells it what every example understands, and what none does.
    async fn obeys(&self, command: &mut Command) {
        let _example = Example::start(command.args(self.arguments("1000000")).arg("0.05"));
        until("a batch", async || !self.arrived().is_empty()).await;
        let who = self.ask("identify", json!(null)).await;
        assert_eq!(who["state"], "done", "{who}");
        assert!(who["value"]["model"].is_string(), "{who}");
        for (seconds, before) in [(0.25, 0.05), (2.0, 0.25), (0.1, 2.0)] {
            let slower = self.ask("set-interval", json!({ "seconds": seconds })).await;
            assert_eq!(slower["state"], "done", "{slower}");
            assert_eq!(slower["value"]["seconds"].as_f64(), Some(seconds), "{slower}");
            assert_eq!(slower["value"]["before"].as_f64(), Some(before), "{slower}");
        }
        for wrong in [json!(null), json!({}), json!({ "seconds": -1 })] {
            let failed = self.ask("set-interval", wrong).await;
            assert_eq!(failed["state"], "failed", "{failed}");
            assert!(failed["error"].as_str().unwrap().contains("seconds"), "{failed}");
        }
        let unknown = self.ask("dance", json!(null)).await;
        assert_eq!(unknown["state"], "rejected", "it announced what it knows: {unknown}");
        let seen = self.arrived().len();
        until("readings go on", async || self.arrived().len() > seen).await;
    }

    /// Runs an example that sends 120 batches, kills the gateway in the middle of it, and expects
    /// every batch at the broker all the same.
    async fn survives(&mut self, command: &mut Command) {
        let mut example = Example::start(command.args(self.arguments("120")).arg("0.01"));
        until("forty batches", async || self.arrived().len() >= 40).await;
        self.gateway.kill();
        self.gateway.start().await;
        assert!(example.ended().await.success());
        let all: Vec<u64> = (1..=120).collect();
        until("all at the broker", async || self.arrived().len() >= all.len()).await;
        assert_eq!(self.arrived(), all);
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn python(script: &str) -> Command {
    let python = std::env::var("TIDEGATE_PYTHON").expect("tests/run examples sets it");
    let mut command = Command::new(python);
    command.arg(examples().join(script));
    command
}

/// A gateway that repeats itself: the example has to carry a command out once, answer it each time,
/// and answer it again after a reconnect unasked, as that answer may have been lost.
async fn repeats_its_answer(command: &mut Command) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let _example = Example::start(command.args([&url, "kiln-3", "token", "1000000", "0.05"]));
    let set_interval = array([
        19.into(),
        "once".into(),
        "set-interval".into(),
        Value::Map(vec![("seconds".into(), 0.25.into())]),
        60.into(),
    ]);
    let mut gateway = welcome(&listener).await;
    gateway.send(set_interval.clone()).await.unwrap();
    let first = result(&mut gateway).await;
    let [id, ok, value] = [1, 2, 3].map(|at| first.as_array().unwrap()[at].clone());
    assert_eq!((id, ok), ("once".into(), true.into()));
    let before = value.as_map().unwrap().iter().find(|(key, _)| *key == "before".into());
    assert_eq!(before.unwrap().1, 0.05.into());
    gateway.send(set_interval).await.unwrap();
    assert_eq!(result(&mut gateway).await, first, "carried out twice, it would say another before");
    drop(gateway);
    let mut gateway = welcome(&listener).await;
    assert_eq!(result(&mut gateway).await, first);
}

fn array<const N: usize>(items: [Value; N]) -> Message {
    let mut bytes = Vec::new();
    ciborium::into_writer(&Value::Array(items.into()), &mut bytes).unwrap();
    Message::binary(bytes)
}

/// Takes a connection and greets the device.
async fn welcome(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = within("a connection", listener.accept()).await.unwrap();
    #[allow(clippy::result_large_err, reason = "the library's own type")]
    let choose = |_: &Request, mut response: Response| {
        let protocol = HeaderValue::from_static("tidegate.v1");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let mut gateway = within("the upgrade", accept_hdr_async(stream, choose)).await.unwrap();
    let hello = message(&mut gateway).await;
    assert_eq!(hello.as_array().unwrap()[0], 0.into());
    let facts: [(&str, Value); 6] = [
        ("gateway", "fake".into()),
        ("time", 1_763_800_000.5.into()),
        ("acked", 0.into()),
        ("window", 64.into()),
        ("max_frame", 65_536.into()),
        ("heartbeat", 30.into()),
    ];
    let facts = facts.into_iter().map(|(key, value)| (key.into(), value)).collect();
    gateway.send(array([16.into(), Value::Map(facts)])).await.unwrap();
    gateway
}

async fn message(gateway: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        let message = within("a message", gateway.next()).await.unwrap().unwrap();
        if let Message::Binary(bytes) = message {
            return ciborium::from_reader(&bytes[..]).unwrap();
        }
    }
}

/// The next RESULT.
async fn result(gateway: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        let message = message(gateway).await;
        if message.as_array().unwrap()[0] == 2.into() {
            return message;
        }
    }
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn ten_lines_of_python_deliver_and_answer_that_they_take_no_commands() {
    let bench = Bench::start().await;
    let mut command = python("python/device.py");
    let mut example = Example::start(command.args(bench.arguments("5")));
    until("a batch", async || !bench.arrived().is_empty()).await;
    let answer = bench.ask("identify", json!(null)).await;
    assert_eq!(
        (&answer["state"], &answer["error"]),
        (&json!("failed"), &json!("takes no commands"))
    );
    assert!(example.ended().await.success());
    assert_eq!(bench.arrived(), [1, 2, 3, 4, 5]);
}

fn node() -> Command {
    let folder = std::env::var("TIDEGATE_NODE").expect("tests/run examples sets it");
    let mut command = Command::new("node");
    command.arg(Path::new(&folder).join("device.mjs"));
    command
}

fn rust() -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    Command::new(folder.join("examples/device"))
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn python_resends_what_a_killed_gateway_did_not_acknowledge() {
    Bench::start().await.survives(&mut python("python/resend.py")).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn micropython_resends_what_a_killed_gateway_did_not_acknowledge() {
    Bench::start().await.survives(&mut python("micropython/device.py")).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn node_resends_what_a_killed_gateway_did_not_acknowledge() {
    Bench::start().await.survives(&mut node()).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn rust_resends_what_a_killed_gateway_did_not_acknowledge() {
    Bench::start().await.survives(&mut rust()).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn python_does_what_it_is_told_once() {
    Bench::start().await.obeys(&mut python("python/resend.py")).await;
    repeats_its_answer(&mut python("python/resend.py")).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn micropython_does_what_it_is_told_once() {
    Bench::start().await.obeys(&mut python("micropython/device.py")).await;
    repeats_its_answer(&mut python("micropython/device.py")).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn node_does_what_it_is_told_once() {
    Bench::start().await.obeys(&mut node()).await;
    repeats_its_answer(&mut node()).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn rust_does_what_it_is_told_once() {
    Bench::start().await.obeys(&mut rust()).await;
    repeats_its_answer(&mut rust()).await;
}

/// The board's code on this machine. It talks through pipes; its WebSocket is ours.
struct Board {
    process: Example,
    input: ChildStdin,
    messages: mpsc::UnboundedReceiver<Vec<u8>>,
    _folder: tempfile::TempDir,
}

impl Board {
    fn start(count: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("host");
        let built = Command::new("g++")
            .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&host)
            .arg(examples().join("esp32/host.cpp"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = Command::new(host);
        command.arg(count).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Example(command.spawn().unwrap());
        let input = process.0.stdin.take().unwrap();
        let mut output = process.0.stdout.take().unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut length = [0; 2];
            while output.read_exact(&mut length).is_ok() {
                let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                if output.read_exact(&mut message).is_err() || sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self { process, input, messages, _folder: folder }
    }

    /// Carries messages over a connection of its own until `over`, or until the board ends.
    async fn session(&mut self, bench: &Bench, over: impl Future<Output = ()>) {
        let connector = bench.gateway.device("kiln-3").token(&bench.token);
        let mut device = connector.connect().await.unwrap();
        self.input.write_all(&[0, 0]).unwrap();
        // What it still had to say to the last connection is lost with that: HELLO is type 0.
        let mut greeted = false;
        let mut over = std::pin::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                message = self.messages.recv() => {
                    let Some(message) = message else { return };
                    greeted |= message[1] == 0;
                    if greeted {
                        device.send_bytes(message).await;
                    }
                }
                message = device.receive_bytes() => {
                    let message = message.expect("the gateway does not hang up");
                    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                    // It ends as soon as everything is acknowledged.
                    let _ = self.input.write_all(&[&length[..], &message].concat());
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn esp32_resends_after_a_lost_connection() {
    let bench = Bench::start().await;
    let mut board = Board::start("120");
    let arrived = until("batches arrive", async || bench.arrived().len() >= 40);
    board.session(&bench, arrived).await;
    // Until it ends, which it does with the last ACK.
    within("the board ends", board.session(&bench, std::future::pending())).await;
    assert!(board.process.ended().await.success());
    assert_eq!(bench.arrived(), (1..=120).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn esp32_does_what_it_is_told() {
    let bench = Bench::start().await;
    let mut board = Board::start("1000000000");
    let asking = async {
        let who = bench.ask("identify", json!(null)).await;
        assert_eq!((&who["state"], &who["value"]["model"]), (&json!("done"), &json!("host.cpp")));
        for (seconds, before) in [(0.5, 0.01), (12.0, 0.5), (0.3, 12.0)] {
            let slower = bench.ask("set-interval", json!({ "seconds": seconds })).await;
            assert_eq!(slower["value"]["seconds"].as_f64(), Some(seconds), "{slower}");
            assert_eq!(slower["value"]["before"].as_f64(), Some(before), "{slower}");
        }
        for wrong in [json!(null), json!({}), json!({ "seconds": [] })] {
            let failed = bench.ask("set-interval", wrong).await;
            assert_eq!(failed["state"], "failed", "{failed}");
            assert!(failed["error"].as_str().unwrap().contains("a number from"), "{failed}");
        }
        let unknown = bench.ask("dance", json!(null)).await;
        assert_eq!(unknown["state"], "rejected", "{unknown}");
    };
    Box::pin(board.session(&bench, asking)).await;
}
