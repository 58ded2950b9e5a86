//! Counts what arrives at the broker, as cheaply as can be: the other ends share the machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Subscribe};

/// A counting subscriber; ends with its broker.
pub struct Subscriber {
    count: Arc<AtomicU64>,
}

impl Subscriber {
    pub fn start(port: u16, filter: &str) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        let mut out = BytesMut::new();
        let mut connect = Connect::new("count");
        connect.keep_alive = 0;
        connect.write(&mut out).expect("fits");
        let mut subscribe = Subscribe::new(filter, QoS::AtMostOnce);
        subscribe.pkid = 1;
        subscribe.write(&mut out).expect("fits");
        socket.write_all(&out).expect("connected");
        let count = Arc::new(AtomicU64::new(0));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let counter = count.clone();
        thread::spawn(move || {
            let mut input = BytesMut::new();
            let mut chunk = vec![0; 256 * 1024];
            while let Ok(n @ 1..) = socket.read(&mut chunk) {
                input.extend_from_slice(&chunk[..n]);
                let mut arrived = 0;
                while let Ok(packet) = Packet::read(&mut input, 1 << 20) {
                    match packet {
                        Packet::Publish(_) => arrived += 1,
                        Packet::SubAck(_) => ready.send(()).expect("awaited"),
                        _ => {}
                    }
                }
                counter.fetch_add(arrived, Ordering::Relaxed);
            }
        });
        is_ready.recv_timeout(Duration::from_secs(5)).expect("SUBACK");
        Self { count }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until `expected` have arrived, or nothing has for two seconds.
    pub fn settle(&self, expected: u64) -> u64 {
        let mut last = (self.count(), Instant::now());
        while last.0 < expected && last.1.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(10));
            let now = self.count();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        last.0
    }
}
