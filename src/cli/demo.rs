//! `tidegate demo`: broker, gateway, devices and dashboard on loopback, nothing installed.
//!
//! ```text
//!            this process                      child: gateway            child: broker
//!  plants, this machine ──WebSocket──► tidegate run ──MQTT──► gate ─► rumqttd
//!            counts  ◄──────────────── lines on stdout ─────────────── link inside the broker
//! ```
//!
//! The children are this program again, so what is shown is the gateway as it runs anywhere else.
//! Each ends when its stdin does, so nothing is left behind even where the demo is killed.

use std::io::{IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::http;
use crate::config::units::parse_time;

use arrivals::Arrivals;
use child::{Broker, Process};
use commands::Commands;
use devices::{Devices, THIS_MACHINE};
use folder::Folder;
use keys::Keys;

mod arrivals;
pub(super) mod broker;
mod child;
mod commands;
mod devices;
mod folder;
mod keys;
mod machine;
mod plants;

/// How long after the start `--outage` begins; sooner where `--for` leaves less time.
const OUTAGE_AFTER: Duration = Duration::from_secs(10);
/// How long the key takes the broker away.
const OUTAGE_BY_KEY: Duration = Duration::from_secs(20);
/// How long the gateway may take to become ready, and to stop.
const READY_WITHIN: Duration = Duration::from_secs(15);
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long the last batches may take to be acknowledged, and then to arrive.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);
const ARRIVE_WITHIN: Duration = Duration::from_secs(90);
/// Between two status lines: on a terminal, where it is one line that changes, and in a log.
const TICK: Duration = Duration::from_millis(500);
const TICKS_PER_LOG_LINE: u32 = 20;

/// Show everything on this machine, with nothing installed: an MQTT broker, the gateway, simulated
/// devices and this machine's own sensors.
///
/// Keys: `o` takes the broker away for 20 s, so that the buffer fills and drains; `c` commands the
/// pump to switch its motor off, and on again; `q` ends.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Take the broker away for this time, 10 s after the start
    #[arg(long, value_name = "TIME", value_parser = time)]
    outage: Option<Duration>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Keep configuration, logs and spool in this folder [default: a temporary one, removed in the
    /// end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The port for devices; another one where it is taken
    #[arg(long, default_value_t = 7070)]
    devices_port: u16,
    /// The dashboard's port; another one where it is taken
    #[arg(long, default_value_t = 8080)]
    dashboard_port: u16,
    /// The broker's port; another one where it is taken
    #[arg(long, default_value_t = 1883)]
    broker_port: u16,
}

/// Runs the demo until it is told to end.
///
/// # Errors
/// When a part of it does not start, or ends by itself.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

/// For a child of the demo: ends this process in order, by SIGTERM, when its stdin ends.
///
/// # Errors
/// When no thread can be started.
pub(super) fn end_with_parent() -> anyhow::Result<()> {
    std::thread::Builder::new().name("parent".into()).spawn(|| {
        let mut scrap = [0; 64];
        while std::io::stdin().lock().read(&mut scrap).is_ok_and(|length| length > 0) {}
        // To itself, so it exists and may be signalled.
        let _ = kill_process(getpid(), Signal::TERM);
    })?;
    Ok(())
}

async fn demo(args: &Args) -> anyhow::Result<ExitCode> {
    // Asked for first, so that a signal during the start ends everything in order too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stage = tokio::select! {
        stage = Stage::set_up(args) => stage?,
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
    };
    let mut keys = Keys::read().context("the terminal cannot be read key by key")?;
    if keys.available() {
        eprintln!("Keys: o takes the broker away for 20 s, c switches the pump, q ends.");
    }
    let end = args.duration.unwrap_or(Duration::MAX);
    let mut end = std::pin::pin!(tokio::time::sleep(end));
    let outage = args.duration.map_or(OUTAGE_AFTER, |time| OUTAGE_AFTER.min(time / 3));
    let mut outage = std::pin::pin!(tokio::time::sleep(outage));
    let mut planned = args.outage;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
            () = &mut outage, if planned.is_some() => {
                stage.take_broker_away(planned.take().unwrap_or_default()).await?;
            }
            key = keys.next() => match key {
                b'o' | b'O' => stage.take_broker_away(OUTAGE_BY_KEY).await?,
                b'c' | b'C' => stage.commands.switch_pump(),
                b'q' | b'Q' => break,
                _ => {}
            },
            () = stage.arrivals.take_next() => {}
            told = stage.commands.next() => stage.status.note(&told),
            _ = tick.tick() => stage.tick().await?,
        }
    }
    drop(keys);
    stage.tear_down().await
}

/// Everything that runs, in the order in which it is dropped: devices, gateway, broker, folder.
struct Stage {
    devices: Devices,
    gateway: Process,
    broker: Option<Broker>,
    back_at: Option<Instant>,
    arrivals: Arrivals,
    dashboard: Rc<http::Gateway>,
    commands: Commands,
    program: PathBuf,
    broker_address: SocketAddr,
    status: StatusLine,
    folder: Folder,
}

impl Stage {
    async fn set_up(args: &Args) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let folder = Folder::new(args.data.as_deref())?;
        let (mut arrivals, sender) = Arrivals::new();

        let progress = Progress::start("broker");
        let listen = free(args.broker_port)?;
        let broker = Broker::start(&program, listen, &folder.log("broker"), sender).await?;
        let broker_address = broker.address;
        progress.done(&broker_address);

        let progress = Progress::start("gateway");
        let (devices_at, dashboard_at) = (free(args.devices_port)?, free(args.dashboard_port)?);
        let config = folder.configuration(devices_at, dashboard_at, broker_address)?;
        let config = config.to_str().context("the folder's name is not UTF-8")?;
        let log = folder.log("gateway");
        let child = ["demo-gateway", "--config", config];
        let mut gateway = Process::start("gateway", &program, &child, Stdio::null(), &log)?;
        let dashboard = Rc::new(http::Gateway::at(&format!("http://{dashboard_at}"))?);
        until_ready(&dashboard, &mut gateway, &folder).await?;
        progress.done(&devices_at);

        let progress = Progress::start("devices");
        let devices = Devices::start(&format!("ws://{devices_at}"))?;
        arrivals.expect(devices.runs());
        devices.connected(READY_WITHIN).await?;
        progress.done(&devices.len());
        let mut commands = Commands::new(Rc::clone(&dashboard));
        commands.identify(THIS_MACHINE);

        for (port, wanted, what) in [
            (devices_at.port(), args.devices_port, "devices"),
            (dashboard_at.port(), args.dashboard_port, "the dashboard"),
            (broker_address.port(), args.broker_port, "the broker"),
        ] {
            if port != wanted && wanted != 0 {
                eprintln!("Port {wanted} is taken: {what} on {port} instead.");
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "dashboard http://{dashboard_at}/")?;
        writeln!(out, "devices ws://{devices_at}")?;
        writeln!(out, "broker mqtt://{broker_address}")?;
        out.flush()?;
        drop(out);
        if let Some(kept) = folder.kept() {
            eprintln!("Configuration, logs and spool are kept in {}.", kept.display());
        }
        Ok(Self {
            devices,
            gateway,
            broker: Some(broker),
            back_at: None,
            arrivals,
            dashboard,
            commands,
            program,
            broker_address,
            status: StatusLine::new(),
            folder,
        })
    }

    async fn take_broker_away(&mut self, time: Duration) -> anyhow::Result<()> {
        if let Some(broker) = self.broker.take() {
            self.back_at = Some(Instant::now() + time);
            self.status.note(&format!("The broker is gone for {} s.", time.as_secs()));
            let leaving = broker.leave();
            self.arrivals.take_while(leaving).await?;
        }
        Ok(())
    }

    async fn bring_broker_back(&mut self) -> anyhow::Result<()> {
        if self.broker.is_none() {
            let log = self.folder.log("broker");
            let arrivals = self.arrivals.sender();
            let starting = Broker::start(&self.program, self.broker_address, &log, arrivals);
            self.broker = Some(self.arrivals.take_while(starting).await?);
            self.back_at = None;
            self.status.note("The broker is back.");
        }
        Ok(())
    }

    async fn tick(&mut self) -> anyhow::Result<()> {
        self.gateway.check(&self.folder.log("gateway"))?;
        if let Some(broker) = &mut self.broker {
            broker.check(&self.folder.log("broker"))?;
        }
        if self.back_at.is_some_and(|at| at <= Instant::now()) {
            self.bring_broker_back().await?;
        }
        let counts = self.devices.counts();
        let broker = match self.back_at {
            None => "up".to_owned(),
            Some(at) => {
                format!(
                    "gone, back in {} s",
                    at.saturating_duration_since(Instant::now()).as_secs()
                )
            }
        };
        let buffered = match buffered(&self.dashboard).await {
            Some(batches) => batches.to_string(),
            None => "?".to_owned(),
        };
        self.status.show(&format!(
            "broker {broker} | sent {} | acknowledged {} | buffered {buffered} | arrived {}",
            counts.sent,
            counts.acked,
            self.arrivals.batches(),
        ));
        Ok(())
    }

    /// Ends everything in order, with nothing on the way, and says what came of it.
    async fn tear_down(mut self) -> anyhow::Result<ExitCode> {
        self.status.note("Ending: waiting until everything has arrived.");
        self.bring_broker_back().await?;
        while self.commands.waiting() > 0 {
            let told = self.arrivals.take_while(self.commands.next()).await;
            self.status.note(&told);
        }
        let devices = self.devices.finish(SETTLE_WITHIN);
        let counts = self.arrivals.take_while(devices).await;
        let deadline = Instant::now() + ARRIVE_WITHIN;
        while self.arrivals.batches() < counts.acked && Instant::now() < deadline {
            self.gateway.check(&self.folder.log("gateway"))?;
            let _ = tokio::time::timeout(TICK, self.arrivals.take_next()).await;
        }
        let gateway = self.gateway.stop(Some(Signal::TERM), STOP_WITHIN);
        let gateway = self.arrivals.take_while(gateway).await?;
        if let Some(broker) = self.broker.take() {
            self.arrivals.take_while(broker.leave()).await?;
        }
        self.arrivals.take_rest();
        let arrived = self.arrivals.batches();
        let mut out = std::io::stdout().lock();
        writeln!(out, "sent {} batches", counts.sent)?;
        writeln!(out, "acknowledged {}", counts.acked)?;
        writeln!(out, "arrived {arrived}")?;
        writeln!(out, "duplicates {}", self.arrivals.duplicates())?;
        writeln!(out, "out of order {}", self.arrivals.out_of_order())?;
        let (asked, done) = (self.commands.sent(), self.commands.done());
        writeln!(out, "commands sent {asked}, done {done}")?;
        ensure!(gateway.success(), "the gateway did not end well ({gateway})");
        let complete = counts.acked == counts.sent && arrived == counts.acked && done == asked;
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Waits until the gateway says that it is ready.
async fn until_ready(
    dashboard: &http::Gateway,
    gateway: &mut Process,
    folder: &Folder,
) -> anyhow::Result<()> {
    let log = folder.log("gateway");
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        gateway.check(&log)?;
        if dashboard.request("/readyz").await.is_ok_and(|(status, _)| status.is_success()) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the gateway was not ready within {READY_WITHIN:?}; its log: {}",
            log.display()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Batches in the gateway's spool, as its status says.
async fn buffered(dashboard: &http::Gateway) -> Option<u64> {
    let asked = tokio::time::timeout(TICK, dashboard.request("/api/v1/status")).await;
    let (_, body) = asked.ok()?.ok()?;
    let status: serde_json::Value = serde_json::from_slice(&body).ok()?;
    status.get("spool")?.get("batches")?.as_u64()
}

/// The wanted loopback port if it is free, else any.
fn free(port: u16) -> anyhow::Result<SocketAddr> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port on loopback")?;
    Ok(bound.local_addr()?)
}

/// A step of the start, on stderr.
struct Progress {
    began: Instant,
}

impl Progress {
    fn start(step: &str) -> Self {
        eprint!("starting {step} … ");
        Self { began: Instant::now() }
    }

    fn done(self, what: &dyn std::fmt::Display) {
        eprintln!("{what} ({:.2} s)", self.began.elapsed().as_secs_f64());
    }
}

/// The calm line at the bottom, on stderr.
struct StatusLine {
    began: Instant,
    terminal: bool,
    ticks: u32,
}

impl StatusLine {
    fn new() -> Self {
        Self { began: Instant::now(), terminal: std::io::stderr().is_terminal(), ticks: 0 }
    }

    fn show(&mut self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        if self.terminal {
            eprint!("\r{seconds:4} s | {text}\x1b[K");
        } else if self.ticks % TICKS_PER_LOG_LINE == 0 {
            eprintln!("{seconds:4} s | {text}");
        }
        self.ticks += 1;
    }

    /// A line that stays.
    fn note(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        eprintln!("{text}");
    }
}

fn time(text: &str) -> Result<Duration, String> {
    parse_time(text).ok_or_else(|| format!("{text:?} is not a time such as 250ms, 20s or 5m"))
}
