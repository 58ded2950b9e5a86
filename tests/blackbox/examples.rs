//! The example devices in `examples/`, each as a user runs it, against the real gateway. Ignored in
//! a plain `cargo test`, since they need interpreters and libraries: `tests/run examples` installs
//! those.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::harness::{Broker, Gateway, Proxy, Setup, until};

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

#[tokio::test]
#[ignore = "tests/run examples"]
async fn ten_lines_of_python_deliver() {
    let bench = Bench::start().await;
    let mut command = python("python/device.py");
    let mut example = Example::start(command.args(bench.arguments("3")));
    assert!(example.ended().await.success());
    assert_eq!(bench.arrived(), [1, 2, 3]);
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
    let folder = std::env::var("TIDEGATE_NODE").expect("tests/run examples sets it");
    let mut command = Command::new("node");
    Bench::start().await.survives(command.arg(Path::new(&folder).join("device.mjs"))).await;
}

#[tokio::test]
#[ignore = "tests/run examples"]
async fn rust_resends_what_a_killed_gateway_did_not_acknowledge() {
    let folder = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let mut command = Command::new(folder.join("examples/device"));
    Bench::start().await.survives(&mut command).await;
}

/// The board's code talks through pipes; its WebSocket is ours, and is cut once.
#[tokio::test]
#[ignore = "tests/run examples"]
async fn esp32_resends_after_a_lost_connection() {
    let bench = Bench::start().await;
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    let built = Command::new("g++")
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&host)
        .arg(examples().join("esp32/host.cpp"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut command = Command::new(host);
    command.arg("120").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut board = Example(command.spawn().unwrap());
    let mut to_board = board.0.stdin.take().unwrap();
    let mut from_board = board.0.stdout.take().unwrap();
    let (sender, mut messages) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut length = [0; 2];
        while from_board.read_exact(&mut length).is_ok() {
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            if from_board.read_exact(&mut message).is_err() || sender.send(message).is_err() {
                break;
            }
        }
    });
    let connector = bench.gateway.device("kiln-3").token(&bench.token);
    for cut_after in [40, usize::MAX] {
        let mut device = connector.connect().await.unwrap();
        to_board.write_all(&[0, 0]).unwrap();
        // What it still had to say to the last connection is lost with that: HELLO is type 0.
        let mut greeted = false;
        while bench.arrived().len() < cut_after {
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { break };
                    greeted |= message[1] == 0;
                    if greeted {
                        device.send_bytes(message).await;
                    }
                }
                message = device.receive_bytes() => {
                    let message = message.expect("the gateway does not hang up");
                    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                    // It ends as soon as everything is acknowledged.
                    let _ = to_board.write_all(&[&length[..], &message].concat());
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
    assert!(board.ended().await.success());
    assert_eq!(bench.arrived(), (1..=120).collect::<Vec<_>>());
}
