//! The peer: mosquitto at the edge with a WebSocket listener and a bridge to the same upstream
//! broker, loaded by MQTT clients over WebSocket with the same window and payload size.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use hdrhistogram::Histogram;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::broker::{mosquitto, upstream};
use crate::process::{await_port, free_port};
use crate::subscriber::Subscriber;
use crate::{Figures, Load};

/// One measurement.
pub fn run(load: Load) -> Figures {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_broker, broker_port) = upstream(dir.path());
    let subscriber = Subscriber::start(broker_port, "sim/#");
    let port = free_port();
    let edge = mosquitto(
        dir.path(),
        "edge",
        &format!(
            "listener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
             persistence false\nset_tcp_nodelay true\nmax_queued_messages 0\n\
             max_inflight_messages 0\nconnection up\naddress 127.0.0.1:{broker_port}\n\
             topic # out 1\ncleansession true\nnotifications false\nbridge_max_packet_size 0\n"
        ),
    );
    await_port(port);
    std::thread::sleep(Duration::from_secs(1));
    let before = edge.cpu_seconds();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let started = Instant::now();
    let (acked, latency) = runtime.block_on(devices(load, port));
    let seconds = started.elapsed().as_secs_f64();
    let arrived = subscriber.settle(acked);
    Figures {
        acked,
        arrived,
        seconds,
        cpu_seconds: edge.cpu_seconds() - before,
        peak_mib: edge.memory_kib("VmHWM") as f64 / 1024.0,
        p50_us: latency.value_at_quantile(0.5),
        p99_us: latency.value_at_quantile(0.99),
    }
}

async fn devices(load: Load, port: u16) -> (u64, Histogram<u64>) {
    let end = Instant::now() + Duration::from_secs(load.seconds);
    let interval =
        (load.rate > 0).then(|| Duration::from_secs_f64(load.devices as f64 / load.rate as f64));
    let tasks: Vec<_> = (0..load.devices)
        .map(|n| tokio::spawn(device(n, port, load.window, interval, end)))
        .collect();
    let mut acked = 0;
    let mut latency = Histogram::new(3).expect("three digits");
    for task in tasks {
        let (count, histogram) = task.await.expect("no device panics");
        acked += count;
        latency.add(histogram).expect("the same bounds");
    }
    (acked, latency)
}

async fn device(
    n: usize,
    port: u16,
    window: usize,
    interval: Option<Duration>,
    end: Instant,
) -> (u64, Histogram<u64>) {
    let mut request =
        format!("ws://127.0.0.1:{port}/").into_client_request().expect("a valid address");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().expect("a token"));
    let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    let (mut ws, _) = tokio_tungstenite::client_async(request, socket).await.expect("upgraded");
    let mut out = BytesMut::new();
    Connect::new(format!("sim-{n}")).write(&mut out).expect("fits");
    ws.send(Message::Binary(out.split().freeze())).await.expect("connected");
    ws.next().await.expect("open").expect("CONNACK");

    let topic = format!("sim/{n}");
    let payload = Bytes::from_static(
        b"{\"n\":\"temperature\",\"u\":\"Cel\",\"v\":21.53,\"t\":1763800000.25}",
    );
    let mut sent: VecDeque<Instant> = VecDeque::new();
    let mut latency = Histogram::new(3).expect("three digits");
    let mut input = BytesMut::new();
    let (mut acked, mut pkid) = (0, 0u16);
    let mut next = Instant::now() + interval.unwrap_or_default().mul_f64(n as f64 / 200.0 % 1.0);
    loop {
        let sending = Instant::now() < end;
        if !sending && sent.is_empty() {
            return (acked, latency);
        }
        while sending && sent.len() < window && interval.is_none_or(|_| next <= Instant::now()) {
            pkid = pkid.checked_add(1).unwrap_or(1);
            let mut publish = Publish::new(&topic, QoS::AtLeastOnce, payload.clone());
            publish.pkid = pkid;
            publish.write(&mut out).expect("fits");
            ws.feed(Message::Binary(out.split().freeze())).await.expect("connected");
            sent.push_back(Instant::now());
            if let Some(interval) = interval {
                next += interval;
            }
        }
        ws.flush().await.expect("connected");
        let message = if sent.is_empty() {
            tokio::time::sleep_until(next.min(end).into()).await;
            continue;
        } else {
            ws.next().await
        };
        take(message.expect("open").expect("a frame"), &mut input);
        while let Some(message) = ready(&mut ws) {
            take(message, &mut input);
        }
        while let Ok(packet) = Packet::read(&mut input, 1 << 20) {
            if let Packet::PubAck(_) = packet {
                let since = sent.pop_front().expect("acknowledged what was sent").elapsed();
                latency.saturating_record(since.as_micros().try_into().unwrap_or(u64::MAX));
                acked += 1;
            }
        }
    }
}

fn take(message: Message, input: &mut BytesMut) {
    input.extend_from_slice(&message.into_data());
}

fn ready(ws: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    ws.next().now_or_never()?.and_then(Result::ok)
}
