//! The Autobahn test suite against the WebSocket that devices meet, and against the bare library.
//!
//! Both echo here, which exists in this test alone: `tests/run autobahn` installs the suite and
//! runs it. What is under test is what every device goes through: request, framing, and how a
//! connection ends.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use super::harness::{context, parse, settings};
use crate::config::Devices;
use crate::device::ending::{End, part};
use crate::device::request::{self, Head};
use crate::device::shared::Shared;
use crate::device::socket::Socket;
use crate::device::websocket::WebSocket;

/// Cases that ask for compression (12 and 13), which tidegate does not offer.
const COMPRESSION: [&str; 2] = ["12.", "13."];
/// How many there are besides, without and with those about limits and performance (9), which are
/// for `--long`. Fewer would mean that not all were run.
const CASES: (usize, usize) = (247, 301);

/// What may be other than OK, and why.
const ALLOWED: [(&str, &str); 5] = [
    // Text that is not UTF-8 in the middle of a frame is noticed when the frame is complete.
    ("6.4.3", "NON-STRICT"),
    ("6.4.4", "NON-STRICT"),
    // Not judged by the suite.
    ("7.1.6", "INFORMATIONAL"),
    ("7.13.1", "INFORMATIONAL"),
    ("7.13.2", "INFORMATIONAL"),
];

/// Larger than any message of the suite.
const MAX_FRAME: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(1800);

#[tokio::test]
#[ignore = "needs the Autobahn test suite: tests/run autobahn"]
async fn the_autobahn_suite_finds_no_more_than_in_the_bare_library() {
    let wstest = std::env::var_os("TIDEGATE_WSTEST").expect("run it with: tests/run autobahn");
    let long = std::env::var_os("TIDEGATE_LONG").is_some();
    let folder = tempfile::tempdir().unwrap();
    let settings = Devices { max_frame: MAX_FRAME, ..settings() };
    let shared = Arc::new(Shared::new(
        &settings,
        context(&settings, parse(""), 1).0,
        tokio::sync::watch::Sender::default().subscribe(),
    ));
    let ours = listen(move |stream| echo(stream, Arc::clone(&shared))).await;
    let bare = listen(echo_bare).await;
    let server = |agent: &str, port: u16| {
        let url = format!("ws://127.0.0.1:{port}/v1/devices/autobahn");
        serde_json::json!({"agent": agent, "url": url, "protocols": ["tidegate.v1"]})
    };
    let excluded: &[&str] = if long { &[] } else { &["9.*"] };
    let spec = serde_json::json!({
        "outdir": folder.path().join("report"), "servers": [server("ours", ours), server("bare", bare)],
        "cases": ["*"], "exclude-cases": excluded, "exclude-agent-cases": {},
    });
    let file = folder.path().join("spec.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let mut suite = Command::new(wstest);
    let output = std::fs::File::create(folder.path().join("log")).unwrap();
    suite.args(["-m", "fuzzingclient", "-s"]).arg(&file).current_dir(folder.path());
    let mut suite = suite.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
    let began = Instant::now();
    while suite.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            suite.kill().unwrap();
            suite.wait().unwrap();
            panic!("the suite does not end");
        }
        sleep(Duration::from_millis(50)).await;
    }
    judge(folder.path(), if long { CASES.1 } else { CASES.0 });
}

/// Reads the suite's report; its exit status tells nothing.
fn judge(folder: &Path, expected: usize) {
    let index = std::fs::read_to_string(folder.join("report/index.json")).unwrap_or_else(|error| {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("no report ({error}):\n{log}")
    });
    let index: BTreeMap<String, BTreeMap<String, Case>> = serde_json::from_str(&index).unwrap();
    let (ours, bare) = (&index["ours"], &index["bare"]);
    let compression = |case: &str| COMPRESSION.iter().any(|group| case.starts_with(group));
    let mut worse = Vec::new();
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for (name, case) in ours {
        let allowed = ALLOWED.iter().find(|(allowed, _)| allowed == name).map_or("OK", |of| of.1);
        let allowed = if compression(name) { "UNIMPLEMENTED" } else { allowed };
        let bare = &bare[name];
        let fits = (case.behavior == "OK" || case.behavior == allowed)
            && (compression(name) || ["OK", "INFORMATIONAL"].contains(&&*case.behavior_close));
        if !fits || case.rank() > bare.rank() {
            worse.push(format!("{name}: {case:?}; the bare library: {bare:?}"));
        }
        if !compression(name) {
            *counts[0].entry(case.behavior.as_str()).or_insert(0) += 1;
            *counts[1].entry(bare.behavior.as_str()).or_insert(0) += 1;
        }
    }
    let [ours, bare] = counts.map(|counts: BTreeMap<&str, usize>| {
        let number: usize = counts.values().sum();
        let kinds = counts.iter().map(|(kind, count)| format!("{count} {kind}"));
        (number, kinds.collect::<Vec<_>>().join(", "))
    });
    assert!(worse.is_empty(), "worse than allowed:\n{}", worse.join("\n"));
    assert_eq!(ours.0, expected, "every case was run");
    println!("autobahn: {} cases: {} (the bare library: {})", ours.0, ours.1, bare.1);
}

#[derive(Debug, serde::Deserialize)]
struct Case {
    behavior: String,
    #[serde(rename = "behaviorClose")]
    behavior_close: String,
}

impl Case {
    /// How bad it is, the messages before the end.
    fn rank(&self) -> [usize; 2] {
        let order = ["OK", "INFORMATIONAL", "UNIMPLEMENTED", "NON-STRICT"];
        [&self.behavior, &self.behavior_close]
            .map(|is| order.iter().position(|known| known == is).unwrap_or(order.len()))
    }
}

/// Serves connections on a port of its own until the test ends.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// As a device's connection, but what comes goes back.
async fn echo(stream: TcpStream, shared: Arc<Shared>) {
    let slot = shared.admit(Some(stream.peer_addr().unwrap().ip())).unwrap();
    let mut socket = Socket::Plain(stream);
    let mut head = Vec::new();
    let (response, early) = loop {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
        match request::parse(&head).unwrap() {
            Head::Partial => {}
            Head::Complete { length, request } => {
                break (request::switching_protocols(request.key), head[length..].to_vec());
            }
        }
    };
    if socket.write_all(&response).await.is_err() {
        return;
    }
    let mut websocket = WebSocket::new(socket, early, shared.websocket, shared.allowance());
    let end = poll_fn(|cx| {
        loop {
            // What was said before goes first, or all of it would gather here.
            if let Err(error) = ready!(websocket.poll_flush(cx)) {
                return Poll::Ready(End::of(error, &shared.rules));
            }
            match ready!(websocket.read(|reading| reading.poll_next(cx))) {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    if let Err(error) = websocket.queue(cx, message) {
                        return Poll::Ready(End::of(error, &shared.rules));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(End::of(error, &shared.rules)),
            }
        }
    })
    .await;
    part(websocket, end, slot).await;
}

/// The library as it comes.
async fn echo_bare(stream: TcpStream) {
    let Ok(mut websocket) = tokio_tungstenite::accept_async(stream).await else { return };
    while let Some(Ok(message)) = websocket.next().await {
        if (message.is_text() || message.is_binary()) && websocket.send(message).await.is_err() {
            return;
        }
    }
}
