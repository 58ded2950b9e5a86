//! What a hostile network can do to a device that is well behaved: nothing it would notice. Each
//! flood comes from addresses of its own (loopback has many), runs while a good device sends one
//! batch after the other, and ends as the protocol says.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::{Bench, Device, FromGateway, Value, hello, until, within};

/// Batches of which the median is taken.
const BATCHES: u64 = 200;
/// What a batch may take longer than twice its quiet time. Twice alone would fail by luck: attacker,
/// broker and gateway share the processors here.
const MARGIN: Duration = Duration::from_millis(50);
/// What the gateway may grow by in a flood: 12 KiB for each of two thousand connections that have
/// not been upgraded.
const GROWTH: f64 = 2000.0 * 12.0 * 1024.0;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A good device, what a batch took it without a flood, and what the gateway occupied then.
struct Watch {
    bench: Bench,
    good: Device,
    seq: u64,
    quiet: Duration,
    memory: f64,
}

impl Watch {
    async fn start() -> Self {
        let bench = Bench::start(|setup| setup).await;
        let (good, _) = bench.gateway.device("good").open(Some(7)).await;
        let mut watch = Self { bench, good, seq: 0, quiet: Duration::ZERO, memory: 0.0 };
        watch.quiet = watch.median().await;
        watch.memory = watch.resident().await;
        watch
    }

    async fn resident(&self) -> f64 {
        let text = self.bench.gateway.get("/metrics").await.body;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("tidegate_resident_memory_bytes "));
        // A number with a fraction, which is 0.
        let bytes: f64 = value.expect("it is measured").parse().unwrap();
        assert!(bytes > 1e6, "{bytes}");
        bytes
    }

    async fn refused(&self, reason: &str) -> u64 {
        let name = format!("tidegate_connections_refused_total{{reason=\"{reason}\"}}");
        self.bench.gateway.metric(&name).await
    }

    /// What a batch takes from READINGS to its ACK.
    async fn median(&mut self) -> Duration {
        let mut times = Vec::new();
        for _ in 0..BATCHES {
            self.seq += 1;
            let began = Instant::now();
            self.good.reading(self.seq, 1.0).await;
            self.good.acked(self.seq).await;
            times.push(began.elapsed());
            // Below the device's own rate, so that this is not what is measured.
            sleep(Duration::from_millis(6)).await;
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Measures while the flood goes on; then checks that time and memory are within the bounds.
    async fn during(&mut self, flood: &str) {
        let during = self.median().await;
        let memory = self.resident().await;
        let grown = memory - self.memory;
        eprintln!(
            "{flood}: a batch takes {during:?} ({:?} before), memory {:.0} KiB more",
            self.quiet,
            grown / 1024.0
        );
        assert!(during <= 2 * self.quiet + MARGIN, "{flood}: {during:?}, {:?} before", self.quiet);
        assert!(grown <= GROWTH, "{flood}: {grown} bytes more");
    }

    /// Nothing of the good device is lost, and it is still connected.
    async fn ends(mut self) {
        self.seq += 1;
        self.good.reading(self.seq, 1.0).await;
        self.good.acked(self.seq).await;
        let seqs = |seen: &crate::harness::Witnessed| {
            let envelope = seen.json();
            (envelope["device"] == "good").then(|| envelope["seq"].as_u64().unwrap())
        };
        let mut published: Vec<_> = self.bench.proxy.readings().iter().filter_map(seqs).collect();
        published.dedup();
        assert_eq!(published, (1..=self.seq).collect::<Vec<_>>());
        assert_eq!(self.bench.gateway.status().await["spool"]["lost_readings"], 0);
    }
}

/// A thread for the attackers, so that the good device's times are not theirs. It ends with them.
struct Attackers {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Attackers {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            // An error says that the sender has gone, which is the sign to stop.
            let _ = runtime.block_on(stopped);
        });
        Self { handle, _stop: stop }
    }
}

/// A connection from 127.0.0.`from`.
async fn connect(port: u16, from: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Else its ports would be used up by connections that have just ended.
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into())?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(device: &str) -> String {
    format!(
        "GET /v1/devices/{device} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
    )
}

/// A frame as it goes over the wire.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()).unwrap() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            bytes.push(0xfe);
            bytes.extend(long.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn cbor(message: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes).unwrap();
    bytes
}

/// An upgraded connection from 127.0.0.`from` that has said HELLO and got its WELCOME.
async fn greeted(port: u16, from: u8, device: &str) -> TcpStream {
    let greeting = async {
        let mut stream = connect(port, from).await.unwrap();
        stream.write_all(request(device).as_bytes()).await.unwrap();
        stream.write_all(&frame(0x82, &cbor(&hello(None, &[])))).await.unwrap();
        let mut seen = Vec::new();
        // The head of the answer, then WELCOME, which ends so: 30 s.
        while !seen.windows(11).any(|bytes| bytes == b"heartbeat\x18\x1e") {
            let mut piece = [0; 512];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "refused: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..count]);
        }
        stream
    };
    within("a greeting", greeting).await
}

/// The code of the Close frame that ends what is read, whatever comes before.
async fn close_code(stream: &mut TcpStream) -> u16 {
    let mut bytes = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut bytes)).await;
    let mut rest = &bytes[..];
    while let [first, length, following @ ..] = rest {
        assert!(*length < 126, "long frames are not expected");
        let (payload, next) = following.split_at(usize::from(*length));
        if first & 0x0f == 8 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
        rest = next;
    }
    panic!("no Close frame in {bytes:?}");
}

#[tokio::test]
async fn slowloris() {
    let mut watch = Watch::start().await;
    let port = watch.bench.gateway.devices;
    let attackers = Attackers::new();
    let mut half_open = JoinSet::new();
    for n in 0..2000 {
        let mut stream = connect(port, 2 + u8::try_from(n % 2).unwrap()).await.unwrap();
        half_open.spawn_on(
            async move {
                for byte in request("slow").into_bytes() {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_millis(250)).await;
                }
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                answer
            },
            &attackers.handle,
        );
    }
    watch.during("2000 handshakes a byte at a time").await;
    // Each ends at `hello_timeout`, and nobody is told anything.
    while let Some(answer) = within("the deadline", half_open.join_next()).await {
        assert!(answer.unwrap().is_empty());
    }
    until("all are counted", async || watch.refused("timeout").await == 2000).await;
    watch.ends().await;
}

#[tokio::test]
async fn a_flood_of_connections() {
    let mut watch = Watch::start().await;
    let port = watch.bench.gateway.devices;
    let statuses = Arc::new([const { AtomicUsize::new(0) }; 600]);
    let attackers = Attackers::new();
    let mut flood = JoinSet::new();
    for _ in 0..20 {
        let statuses = Arc::clone(&statuses);
        flood.spawn_on(
            async move {
                loop {
                    let Ok(mut stream) = connect(port, 4).await else { continue };
                    let mut answer = [0; 12];
                    let asked = stream.write_all(b"GET /v1/devices/a HTTP/1.1\r\n\r\n").await;
                    if asked.is_ok() && stream.read_exact(&mut answer).await.is_ok() {
                        let status: usize = String::from_utf8_lossy(&answer[9..]).parse().unwrap();
                        statuses[status].fetch_add(1, Ordering::Relaxed);
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            },
            &attackers.handle,
        );
    }
    let seen = |status: usize| statuses[status].load(Ordering::Relaxed);
    // What may come at once is used up first.
    until("it is held up", async || seen(429) > 0).await;
    watch.during("connections as fast as they go").await;
    // Others come in all the while.
    let (mut other, _) = watch.bench.gateway.device("other").open(None).await;
    other.reading(1, 1.0).await;
    other.acked(1).await;
    flood.shutdown().await;
    eprintln!("{} were answered 426, {} 429", seen(426), seen(429));
    assert!(watch.refused("address-rate").await >= seen(429) as u64);
    watch.ends().await;
}

#[tokio::test]
async fn floods_of_frames_and_of_pings() {
    let mut watch = Watch::start().await;
    let port = watch.bench.gateway.devices;
    let attackers = Attackers::new();
    let mut flood = JoinSet::new();
    let before = watch.bench.gateway.metric("tidegate_batches_received_total").await;
    let began = Instant::now();
    let batch =
        crate::harness::readings(None, crate::harness::pack(&[&[(0, "x".into()), (2, 1.into())]]));
    let batches = frame(0x82, &cbor(&batch)).repeat(500);
    let pings = frame(0x89, &[7; 125]).repeat(100);
    for n in 0..8 {
        let mut stream = greeted(port, 5, &format!("flood-{n}")).await;
        let bytes = if n < 4 { batches.clone() } else { pings.clone() };
        // The second half of each kind does not read what comes back either.
        let reads = n % 2 == 0;
        flood.spawn_on(
            async move {
                let (mut reading, mut writing) = stream.split();
                let write = async { while writing.write_all(&bytes).await.is_ok() {} };
                let mut scrap = [0; 4096];
                let read = async {
                    while reads && reading.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
                };
                tokio::join!(write, read);
            },
            &attackers.handle,
        );
    }
    watch.during("batches and pings as fast as they go").await;
    let after = watch.bench.gateway.metric("tidegate_batches_received_total").await;
    // Four that flood: 400 at once and 200 a second each, and the good device's own.
    let allowed = 4.0 * (400.0 + 200.0 * began.elapsed().as_secs_f64()) + BATCHES as f64 + 16.0;
    eprintln!("{} batches were read of {allowed:.0} allowed", after - before);
    assert!((after - before) as f64 <= allowed, "{} of {allowed}", after - before);
    assert_eq!(watch.bench.gateway.metric("tidegate_devices_connected").await, 9, "all are held");
    flood.shutdown().await;
    watch.ends().await;
}

#[tokio::test]
async fn memory_bombs_and_reserved_bits() {
    let mut watch = Watch::start().await;
    let port = watch.bench.gateway.devices;
    let huge = [&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &MASK].concat();
    let beyond = [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    let fragments = [frame(0x02, &[]), frame(0x00, &[]).repeat(20_000)].concat();
    let compressed = frame(0xc2, &[0x80]);
    let reserved = frame(0x92, &[0x80]);
    let kinds = [
        ("a frame of 2^63 - 1 bytes", huge, &[1009][..]),
        ("a frame of 2^63 bytes", beyond, &[1009, 1002]),
        ("fragments without end", fragments, &[1009]),
        ("a compressed frame", compressed, &[1002]),
        ("a reserved bit", reserved, &[1002]),
    ];
    let attackers = Attackers::new();
    let mut ends = JoinSet::new();
    for (k, (what, bytes, codes)) in kinds.into_iter().enumerate() {
        for n in 0..20_u32 {
            let mut stream = greeted(port, 6, &format!("bomb-{k}-{n}")).await;
            let bytes = bytes.clone();
            ends.spawn_on(
                async move {
                    // All through the time that is measured.
                    sleep(n * Duration::from_millis(60)).await;
                    let _ = stream.write_all(&bytes).await;
                    let code = close_code(&mut stream).await;
                    assert!(codes.contains(&code), "{what}: {code}");
                },
                &attackers.handle,
            );
        }
    }
    // 60 KiB of empty maps: more records than there may be.
    let maps = crate::harness::readings(Some(1), Value::Array(vec![Value::Map(vec![]); 60 << 10]));
    for n in 0..20 {
        let (mut device, _) = watch.bench.gateway.device(&format!("maps-{n}")).open(Some(1)).await;
        device.send(&maps).await;
        ends.spawn_on(
            async move {
                let (_, code, reason) = device.rejected().await;
                assert_eq!(code, 3, "{reason}");
            },
            &attackers.handle,
        );
    }
    watch.during("memory bombs").await;
    while let Some(end) = within("every bomb's end", ends.join_next()).await {
        end.unwrap();
    }
    watch.ends().await;
}

#[tokio::test]
async fn devices_that_never_read() {
    let mut watch = Watch::start().await;
    let mut deaf = Vec::new();
    for n in 0..50 {
        let (device, _) = watch.bench.gateway.device(&format!("deaf-{n}")).open(Some(1)).await;
        deaf.push(device);
    }
    // Every kind of answer: ACKs, REJECTs and pongs.
    let sending = async {
        let mut deaf = deaf;
        for seq in 1..=50 {
            for device in &mut deaf {
                device.reading(2 * seq - 1, 1.0).await;
                let empty = crate::harness::readings(Some(2 * seq), Value::Array(vec![]));
                device.send(&empty).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        deaf
    };
    let (mut deaf, ()) = tokio::join!(sending, watch.during("devices that never read"));
    // And they get it all, once they do.
    for device in &mut deaf {
        let mut acked = 0;
        while acked < 100 {
            match device.next().await {
                FromGateway::Ack(seq) => acked = seq,
                FromGateway::Reject { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    watch.ends().await;
}
