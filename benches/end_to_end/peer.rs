//! The peer: mosquitto at the edge with a bridge to the same upstream broker, loaded by MQTT
//! clients with the same window and payload size. They come over plain TCP, since Debian's
//! mosquitto cannot bind its WebSocket listener to loopback alone: it is spared the frames.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::broker::{mosquitto, upstream};
use crate::support::process::{await_port, free_port};
use crate::support::subscriber::Subscriber;
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
            "listener {port} 127.0.0.1\nallow_anonymous true\n\
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
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(4096));
    Connect::new(format!("sim-{n}")).write(&mut out).expect("fits");
    socket.write_all_buf(&mut out).await.expect("connected");
    socket.read_buf(&mut input).await.expect("CONNACK");
    Packet::read(&mut input, 1 << 20).expect("CONNACK");

    let topic = format!("sim/{n}");
    let payload = Bytes::from_static(
        b"{\"n\":\"temperature\",\"u\":\"Cel\",\"v\":21.53,\"t\":1763800000.25}",
    );
    let mut sent: VecDeque<Instant> = VecDeque::new();
    let mut latency = Histogram::new(3).expect("three digits");
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
            sent.push_back(Instant::now());
            if let Some(interval) = interval {
                next += interval;
            }
        }
        socket.write_all_buf(&mut out).await.expect("connected");
        if sent.is_empty() {
            tokio::time::sleep_until(next.min(end).into()).await;
            continue;
        }
        assert!(socket.read_buf(&mut input).await.expect("connected") > 0, "open");
        while let Ok(packet) = Packet::read(&mut input, 1 << 20) {
            if let Packet::PubAck(_) = packet {
                let since = sent.pop_front().expect("acknowledged what was sent").elapsed();
                let micros = since.as_micros().try_into().expect("not for ever");
                latency.record(micros).expect("it grows");
                acked += 1;
            }
        }
    }
}
