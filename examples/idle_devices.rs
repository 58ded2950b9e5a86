//! Measures what a connected device costs while it says nothing: memory of the whole process,
//! processor time of the heartbeats, and how fast a fleet gets in.
//!
//! ```text
//! ulimit -n 20000; cargo run --release --example idle_devices -- 10000
//! ```
//!
//! The clients are a process of their own. In the engine's place stands a task that greets.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate::config::registry::Registry;
use tidegate::config::{Auth, Devices, Rate};
use tidegate::core::batch::Batch;
use tidegate::core::frame::{DeviceMessage, Hello};
use tidegate::core::ids::DeviceId;
use tidegate::device::{Context, Listener};
use tidegate::metrics::Metrics;
use tidegate::ports::{Budget, Clock, DeviceEvent, DeviceFacts, Feed, Resume};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};

const HEARTBEAT: Duration = Duration::from_secs(8);

struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

struct Nobody;

impl Feed for Nobody {
    fn readings(&self, _: &Arc<Batch>) {}
    fn device_up(&self, _: &DeviceId, _: &DeviceFacts) {}
    fn device_down(&self, _: &DeviceId, _: f64) {}
    fn device_seen(&self, _: &DeviceId, _: f64) {}
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "5000".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.next() {
        Some(address) => runtime.block_on(clients(number(&first)?, &address)),
        None => runtime.block_on(gateway(number(&first)?)),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number of devices")))
}

// ---------------------------------------------------------------- the gateway's side

async fn gateway(count: usize) -> io::Result<()> {
    let settings = Devices {
        listen: ([127, 0, 0, 1], 0).into(),
        auth: Auth::None,
        registry: "devices.toml".into(),
        allowed_origins: Vec::new(),
        max_connections: count + 10,
        max_connections_per_address: count + 10,
        hello_timeout: Duration::from_secs(10),
        heartbeat_interval: HEARTBEAT,
        heartbeat_timeout: Duration::from_secs(10),
        window: 64,
        max_frame: 64 * 1024,
        max_records: 1024,
        rate: Rate { batches_per_second: 200.0, burst: 400.0 },
        max_unsettled: 16 << 20,
        tls: None,
    };
    let listener = Listener::bind(&settings).map_err(io::Error::other)?;
    let address = listener.local_addr()?;
    let (events, mut inbox) = mpsc::channel(1024);
    let (_registry, registry) = watch::channel(Arc::new(Registry::default()));
    let metrics = Arc::new(Metrics::new());
    let context = Context {
        gateway: "gw-1".to_owned(),
        events,
        budget: Arc::new(Budget::new(settings.max_unsettled)),
        registry,
        feed: Arc::new(Nobody),
        metrics: Arc::clone(&metrics),
        clock: Arc::new(SystemClock),
    };
    tokio::spawn(async move {
        let mut links = std::collections::HashMap::new();
        while let Some(event) = inbox.recv().await {
            match event {
                DeviceEvent::Opened { session, link, welcome, .. } => {
                    links.insert(session, link);
                    // A device that has gone meanwhile needs no answer.
                    let _ = welcome.send(Resume { epoch: 1, acked: 0 });
                }
                DeviceEvent::Closed { session } => drop(links.remove(&session)),
                DeviceEvent::Batches { .. } => {}
            }
        }
    });
    tokio::spawn(listener.serve(context, std::future::pending(), Duration::ZERO));

    let (memory_before, processor_before) = (resident_kib()?, processor_seconds()?);
    let mut child = Command::new(std::env::current_exe()?)
        .args([count.to_string(), address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
    let lines = tokio::task::spawn_blocking(move || {
        BufReader::new(output).lines().take(2).collect::<io::Result<Vec<_>>>()
    });
    for line in lines.await.map_err(io::Error::other)?? {
        println!("{line}");
    }
    println!("devices greeted: {}", metrics.devices_connected.get());
    println!("processor: {:.2} s to get in", processor_seconds()? - processor_before);
    let memory = resident_kib()? - memory_before;
    println!("memory: {:.2} KiB a device", memory as f64 / count as f64);

    let (began, processor) = (Instant::now(), processor_seconds()?);
    tokio::time::sleep(2 * HEARTBEAT).await;
    let used = (processor_seconds()? - processor) / began.elapsed().as_secs_f64();
    println!("heartbeats each {HEARTBEAT:?}: {:.2} % of a processor", used * 100.0);
    let memory = resident_kib()? - memory_before;
    println!("memory then: {:.2} KiB a device", memory as f64 / count as f64);
    println!("devices still there: {}", metrics.devices_connected.get());
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}

fn resident_kib() -> io::Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    figure.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}

fn processor_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

// ---------------------------------------------------------------- the devices' side

async fn clients(count: usize, address: &str) -> io::Result<()> {
    let began = Instant::now();
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await?);
    }
    println!("connected: {count} in {:.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let greeted = Arc::new(Semaphore::new(0));
    for (n, stream) in streams.into_iter().enumerate() {
        let greeted = Arc::clone(&greeted);
        tokio::spawn(async move {
            if let Err(error) = device(n, stream, &greeted).await {
                eprintln!("device {n}: {error}");
            }
        });
    }
    let all = u32::try_from(count).map_err(io::Error::other)?;
    drop(greeted.acquire_many(all).await);
    println!("greeted: all in {:.2} s", began.elapsed().as_secs_f64());
    io::stdout().flush()?;
    tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()))
        .await
        .map_err(io::Error::other)??;
    // The devices' tasks never end by themselves.
    std::process::exit(0);
}

async fn device(n: usize, mut stream: TcpStream, greeted: &Semaphore) -> io::Result<()> {
    let request = format!(
        "GET /v1/devices/device-{n} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = [0; 256];
    let mut read = 0;
    while !buffer.get(..read).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
        read += match stream.read(buffer.get_mut(read..).unwrap_or_default()).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => n,
        };
    }
    let hello = DeviceMessage::Hello(Hello { epoch: Some(1), ..Hello::default() }).encode();
    // Masked with zeros: the payload as it is.
    let mut frame = vec![0x82, 0x80 | u8::try_from(hello.len()).unwrap_or(125), 0, 0, 0, 0];
    frame.extend(hello);
    stream.write_all(&frame).await?;
    if stream.read(&mut buffer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    greeted.add_permits(1);
    // Whatever comes now is a ping without a payload.
    while stream.read(&mut buffer).await? > 0 {
        stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await?;
    }
    Ok(())
}
