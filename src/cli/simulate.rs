//! `tidegate simulate`: devices that behave like real ones, for trying and for load.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{token_in, told};
use crate::client::{Options, tls};
use crate::config::units::parse_time;

use device::{Common, Plan};
use report::{Summary, Totals};

mod device;
mod model;
mod report;
#[cfg(test)]
mod tests;

/// Devices that connect, send readings and count what is acknowledged.
///
/// They carry out three commands: identify, set-interval {"seconds": 5} and set-output
/// {"output": "relay-1", "on": true}.
///
/// Ends after --duration or --count, or with Ctrl-C. The summary goes to stdout; the exit code is 0
/// when every device could connect and everything was acknowledged.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // They are switches of a command line.
pub(super) struct Args {
    /// The gateway: ws://HOST:PORT or wss://HOST:PORT
    #[arg(long, default_value = "ws://127.0.0.1:7070")]
    url: String,
    /// How many devices [default: 10, or as many as --tokens has]
    #[arg(long, short = 'n')]
    devices: Option<usize>,
    /// Batches per second of each device; 0: as fast as acknowledgements allow
    #[arg(long, default_value_t = 1.0, conflicts_with = "total_rate")]
    rate: f64,
    /// Batches per second of all devices together
    #[arg(long)]
    total_rate: Option<f64>,
    /// Readings in each batch
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Unacknowledged batches of each device; 1: stop and wait
    #[arg(long, default_value_t = 32)]
    window: usize,
    /// End after this time, for example 30s
    #[arg(long, value_parser = time)]
    duration: Option<Duration>,
    /// End when each device has sent this many batches
    #[arg(long)]
    count: Option<u64>,
    /// How long to wait for acknowledgements in the end
    #[arg(long, default_value = "10s", value_parser = time)]
    grace: Duration,
    /// Send without sequence numbers: nothing is kept, nothing acknowledged
    #[arg(long)]
    best_effort: bool,
    /// Only connect, greet and stay
    #[arg(long, conflicts_with_all = ["best_effort", "total_rate", "count", "malformed"])]
    idle: bool,
    /// File with one device and its token a line: ID TOKEN
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// Be this one device
    #[arg(long, conflicts_with_all = ["tokens", "devices"])]
    device: Option<String>,
    /// File with the token of every device [default: the token in `$TIDEGATE_TOKEN`, where set]
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    token_file: Option<PathBuf>,
    /// Device ids are this and a number from 1 on
    #[arg(long, default_value = "sim-")]
    id_prefix: String,
    /// For wss://: PEM file with the authority that signed the gateway's certificate [default: those
    /// the system trusts]
    #[arg(long)]
    ca: Option<PathBuf>,
    /// PEM file with an own certificate
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Connect from this many loopback addresses (127.0.0.1, 127.0.0.2, …) in turn: one address has
    /// ports for about 28 000 connections
    #[arg(long, default_value_t = 1)]
    sources: u8,
    /// How many devices connect at once
    #[arg(long, default_value_t = 256)]
    connecting: usize,
    /// Misbehave: all devices break their connections at once, this often
    #[arg(long, value_parser = time)]
    reconnect_every: Option<Duration>,
    /// Misbehave: this fraction of the packs (0 to 1) is malformed SenML
    #[arg(long, default_value_t = 0.0)]
    malformed: f64,
    /// Misbehave: take one message a second from the gateway at most
    #[arg(long)]
    slow_reader: bool,
    /// The summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the arguments do not go together, or a file cannot be used.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let devices = devices(args)?;
    allow_open_files(devices.len())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let totals = Arc::new(Totals::new(devices.len())?);
    runtime.block_on(simulate(args, devices, &totals))?;
    let summary = totals.summary(args.batch, args.best_effort);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        summary.write(&mut out)?;
    }
    Ok(verdict(&summary, totals.unexpected.get()))
}

fn verdict(summary: &Summary, unexpected: u64) -> ExitCode {
    let good = summary.connect_seconds.is_some()
        && summary.stopped == 0
        && summary.unacknowledged == 0
        && unexpected == 0;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn simulate(args: &Args, devices: Vec<Options>, totals: &Arc<Totals>) -> anyhow::Result<()> {
    let rate = args.total_rate.map_or(args.rate, |total| total / devices.len() as f64);
    ensure!(rate.is_finite() && rate >= 0.0, "a rate is a number from 0 on, not {rate}");
    let interval =
        if rate > 0.0 { Duration::try_from_secs_f64(1.0 / rate)? } else { Duration::ZERO };
    let common = Common {
        plan: Arc::new(Plan {
            interval: (!args.idle).then_some(interval),
            readings: args.batch,
            count: args.count,
            best_effort: args.best_effort,
            malformed: args.malformed,
            reconnect_every: args.reconnect_every,
            grace: args.grace,
            began: Instant::now(),
        }),
        totals: Arc::clone(totals),
        connecting: Arc::new(Semaphore::new(args.connecting.max(1))),
        stop: CancellationToken::new(),
    };
    let stop = common.stop.clone();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, options) in devices.into_iter().enumerate() {
        tasks.spawn(device::run(options, number, common.clone()));
    }
    let mut ended = std::pin::pin!(async {
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        anyhow::Ok(())
    });
    let mut timeout = std::pin::pin!(tokio::time::sleep(args.duration.unwrap_or(Duration::MAX)));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let live = std::io::stderr().is_terminal();
    let mut last = (Instant::now(), 0);
    let result = loop {
        tokio::select! {
            result = &mut ended => break result,
            () = &mut timeout, if !stop.is_cancelled() => stop.cancel(),
            _ = &mut interrupt, if !stop.is_cancelled() => stop.cancel(),
            _ = tick.tick(), if live => {
                // Cleared to its end, as the line before may have been longer.
                eprint!("\r{}\x1b[K", totals.live_line(&mut last));
            }
        }
    };
    if live {
        eprintln!();
    }
    result
}

/// Who connects, and how.
fn devices(args: &Args) -> anyhow::Result<Vec<Options>> {
    ensure!(args.batch > 0, "--batch must be at least 1");
    ensure!(args.window > 0, "--window must be at least 1");
    ensure!((0.0..=1.0).contains(&args.malformed), "--malformed is a fraction between 0 and 1");
    ensure!(args.sources > 0, "--sources must be at least 1");
    let identity = args.cert.as_deref().zip(args.key.as_deref());
    let tls = args
        .url
        .starts_with("wss://")
        .then(|| tls::config(args.ca.as_deref(), identity))
        .transpose()?;
    let mut template = Options::new(args.url.clone(), "");
    template.tls = tls;
    template.model = Some(device::MODEL.into());
    template.firmware = Some(env!("CARGO_PKG_VERSION").into());
    template.commands = told::COMMANDS.map(String::from).to_vec();
    template.keep_batches = args.window;
    template.keep_bytes = usize::MAX;
    template.read_every = args.slow_reader.then_some(Duration::from_secs(1));
    let devices = identities(args)?
        .into_iter()
        .zip((1..=args.sources).cycle())
        .map(|((device, token), source)| Options {
            device,
            token,
            local_address: (args.sources > 1)
                .then_some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, source))),
            ..template.clone()
        })
        .collect();
    Ok(devices)
}

fn identities(args: &Args) -> anyhow::Result<Vec<(String, Option<String>)>> {
    if let Some(file) = &args.tokens {
        let mut known = read_tokens(file)?;
        let wanted = args.devices.unwrap_or(known.len());
        ensure!(
            known.len() >= wanted,
            "{} has {} devices, but --devices asks for {wanted}",
            file.display(),
            known.len()
        );
        known.truncate(wanted);
        return Ok(known.into_iter().map(|(device, token)| (device, Some(token))).collect());
    }
    let token = match &args.token_file {
        Some(file) => Some(token_in(file)?),
        None => std::env::var("TIDEGATE_TOKEN").ok(),
    };
    if let Some(device) = &args.device {
        return Ok(vec![(device.clone(), token)]);
    }
    let count = args.devices.unwrap_or(10);
    ensure!(count > 0, "--devices must be at least 1");
    Ok((1..=count).map(|number| (format!("{}{number}", args.id_prefix), token.clone())).collect())
}

fn read_tokens(file: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the tokens cannot be read from {}", file.display()))?;
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [device, token] => tokens.push(((*device).to_owned(), (*token).to_owned())),
            // The line is not shown: it may hold a token.
            _ => bail!("{}:{number}: not a device id and a token", file.display()),
        }
    }
    ensure!(!tokens.is_empty(), "{} holds no line with a device id and a token", file.display());
    Ok(tokens)
}

/// Raises the soft limit of open files where the hard one allows it.
fn allow_open_files(devices: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = devices as u64 + 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{devices} devices need {needed} open files, but the limit is {}: raise it (ulimit -Hn, or \
         LimitNOFILE= of the unit)",
        limit.maximum.unwrap_or_default()
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .context("the limit of open files cannot be raised")
}

fn time(text: &str) -> Result<Duration, String> {
    parse_time(text).ok_or_else(|| format!("{text:?} is not a time such as 250ms, 20s or 5m"))
}
