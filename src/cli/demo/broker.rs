//! The demo's MQTT broker: rumqttd in a process of its own, so that it can be taken away and
//! brought back like a real one.
//!
//! rumqttd listens for MQTT 3.1.1 and MQTT 5 on two private loopback ports. In front of them stands
//! a gate on the one public port that looks at the CONNECT packet and passes the connection on. A
//! link inside the broker sees every batch before any client can connect, and reports it on stdout:
//!
//! ```text
//! listening 127.0.0.1:1883
//! arrived greenhouse-1 8321904 17 4        device, epoch, seq, number of readings
//! ```
//!
//! The broker leaves when its stdin ends, so also when the demo is killed: the gate cuts every
//! connection at once, and what the broker had acknowledged by then is still reported.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rumqttd::local::LinkRx;
use rumqttd::{Broker, Config, ConnectionSettings, Notification, RouterConfig, ServerSettings};
use serde::Deserialize;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What the link inside the broker subscribes to.
const READINGS: &str = "tidegate/+/devices/+/readings";
/// MQTT 5's protocol level in CONNECT.
const LEVEL_5: u8 = 5;
/// How long nothing must arrive after the cut before the broker leaves, and how long at most.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_AT_MOST: Duration = Duration::from_secs(2);

/// Arguments of the hidden command.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
}

/// Runs the broker until stdin ends.
///
/// # Errors
/// When the address cannot be listened on, or rumqttd does not start.
pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let private = [free_address()?, free_address()?];
    let mut broker = Broker::new(config(private));
    let (mut link_tx, link_rx) = broker.link("demo").context("no link into the broker")?;
    link_tx.subscribe(READINGS).context("the broker's own subscription failed")?;
    std::thread::Builder::new().name("arrivals".into()).spawn(move || report(link_rx))?;
    std::thread::Builder::new().name("rumqttd".into()).spawn(move || {
        if let Err(error) = broker.start() {
            eprintln!("rumqttd: {error}");
        }
    })?;
    let (ended_tx, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        wait_for_end(std::io::stdin().lock());
        let _ = ended_tx.send(());
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(gate(args.listen, private, ended))?;
    drop(runtime);
    wait_until_quiet();
    Ok(ExitCode::SUCCESS)
}

/// Reads to the end and forgets what it read.
fn wait_for_end(mut input: impl Read) {
    let mut scrap = [0; 64];
    while input.read(&mut scrap).is_ok_and(|length| length > 0) {}
}

fn config(private: [SocketAddr; 2]) -> Config {
    let server = |name: &str, listen| {
        let connections = ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 500,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        };
        let settings = ServerSettings {
            name: name.to_owned(),
            listen,
            tls: None,
            next_connection_delay_ms: 0,
            connections,
        };
        Some(HashMap::from([(name.to_owned(), settings)]))
    };
    let [v4, v5] = private;
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: server("v4", v4),
        v5: server("v5", v5),
        ..Config::default()
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(StdListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Passes connections on until `ended`, then cuts them all.
async fn gate(
    listen: SocketAddr,
    private: [SocketAddr; 2],
    mut ended: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    for address in private {
        wait_for_server(address).await?;
    }
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the demo's broker cannot listen on {listen}"))?;
    say(&format!("listening {}", listener.local_addr()?));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(pass_on(client, private));
            }
        }
    }
}

async fn wait_for_server(address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).await.is_err() {
        anyhow::ensure!(Instant::now() < deadline, "rumqttd does not listen on {address}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn pass_on(mut client: TcpStream, [v4, v5]: [SocketAddr; 2]) -> std::io::Result<()> {
    let hello = tokio::time::timeout(Duration::from_secs(5), protocol_level(&client));
    let server = if hello.await?? == LEVEL_5 { v5 } else { v4 };
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Looks at the CONNECT packet (MQTT 5 section 3.1.2.2) without taking it.
async fn protocol_level(client: &TcpStream) -> std::io::Result<u8> {
    let mut start = [0; 16];
    loop {
        let length = client.peek(&mut start).await?;
        if let Some(level) = level_in(start.get(..length).unwrap_or_default()) {
            return Ok(level);
        }
        if length == 0 || length == start.len() {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        // peek returns at once while something is there, but not yet enough.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn level_in(start: &[u8]) -> Option<u8> {
    // Type, remaining length (bytes with the top bit set go on), name with its length, level.
    let (_, rest) = start.split_first()?;
    let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
    let header = rest.get(end + 1..)?;
    let name = usize::from(u16::from_be_bytes([*header.first()?, *header.get(1)?]));
    header.get(2 + name).copied()
}

/// Batches reported so far.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// The part of a readings message that is counted.
#[derive(Debug, Deserialize)]
struct Envelope {
    device: String,
    epoch: u64,
    seq: Option<u64>,
    readings: Vec<serde::de::IgnoredAny>,
}

fn report(mut link: LinkRx) {
    while let Ok(notification) = link.recv() {
        match notification {
            Some(Notification::Forward(forward)) => {
                let Ok(envelope) = serde_json::from_slice::<Envelope>(&forward.publish.payload)
                else {
                    continue;
                };
                let Envelope { device, epoch, seq: Some(seq), readings } = envelope else {
                    continue;
                };
                say(&format!("arrived {device} {epoch} {seq} {}", readings.len()));
                ARRIVED.fetch_add(1, Ordering::Relaxed);
            }
            // The router pauses a link that was slow until it says that it is ready.
            Some(Notification::Unschedule) => {
                let _ = link.ready();
            }
            _ => {}
        }
    }
}

fn wait_until_quiet() {
    let deadline = Instant::now() + QUIET_AT_MOST;
    let mut seen = ARRIVED.load(Ordering::Relaxed);
    while Instant::now() < deadline {
        std::thread::sleep(QUIET);
        let now = ARRIVED.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// One line, written at once: stdout is a pipe to the demo, which may be gone.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_level_is_found_in_connect() {
        let v4 = [0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', 4, 2];
        let v5_long = [0x10, 0x8d, 0x01, 0, 4, b'M', b'Q', b'T', b'T', 5, 2];
        let v31 = [0x10, 0x0f, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3];
        assert_eq!(level_in(&v4), Some(4));
        assert_eq!(level_in(&v5_long), Some(5));
        assert_eq!(level_in(&v31), Some(3));
        for length in 0..9 {
            assert_eq!(level_in(&v4[..length]), None);
        }
    }
}
