//! The whole path, end to end: simulated devices → gateway → mosquitto → subscriber, all on this
//! machine, beside a peer in the same run: mosquitto with a bridge.
//!
//! ```sh
//! cargo bench --bench end_to_end                     # everything, a few minutes
//! cargo bench --bench end_to_end -- --seconds 3 --runs 1 --only tidegate
//! ```
//!
//! Needs mosquitto. The figures that hold on a noisy machine are CPU seconds of the gateway
//! process per million readings, and ratios between rows of one run.

#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench is a program of its own and stops at the first surprise"
)]

mod idle;
mod peer;
#[allow(dead_code, reason = "not every bench needs everything")]
#[path = "../support/mod.rs"]
mod support;
mod tidegate;

use std::time::Duration;

use clap::Parser;

/// End-to-end benchmark.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Devices.
    #[arg(long, default_value_t = 200)]
    devices: usize,
    /// Interleaved runs; medians are printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only `tidegate` or only `mosquitto`.
    #[arg(long)]
    only: Option<String>,
    /// Idle connections to hold for the memory figure, 0 for none.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    name: &'static str,
    devices: usize,
    /// Unacknowledged batches per device.
    window: usize,
    /// Batches per second over all devices, 0 for as many as go.
    rate: u64,
    seconds: u64,
}

/// What one run showed.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    acked: u64,
    arrived: u64,
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    p50_us: u64,
    p99_us: u64,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.acked as f64 / self.seconds
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.acked.max(1) as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args = Args::parse();
    let load = |name, window, rate| Load {
        name,
        devices: args.devices,
        window,
        rate,
        seconds: args.seconds,
    };
    let loads = [load("window 32", 32, 0), load("window 1", 1, 0), load("2 000/s", 32, 2_000)];
    let wanted = |who: &str| args.only.as_deref().is_none_or(|only| only == who);
    println!(
        "{:<10} {:<22} {:>11} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "load", "gateway", "readings/s", "CPU s/M", "peak MiB", "p50 us", "p99 us", "missing"
    );
    for load in loads {
        let mut rows: Vec<(&str, Vec<Figures>)> = Vec::new();
        for _ in 0..args.runs {
            for who in ["tidegate", "mosquitto"] {
                if !wanted(who) {
                    continue;
                }
                let figures = if who == "tidegate" { tidegate::run(load) } else { peer::run(load) };
                match rows.iter_mut().find(|(name, _)| *name == who) {
                    Some((_, all)) => all.push(figures),
                    None => rows.push((who, vec![figures])),
                }
            }
        }
        for (who, all) in rows {
            let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure).collect());
            println!(
                "{:<10} {:<22} {:>11.0} {:>9.2} {:>9.1} {:>8.0} {:>8.0} {:>9.0}",
                load.name,
                who,
                of(Figures::rate),
                of(Figures::cpu_per_million),
                of(|f| f.peak_mib),
                of(|f| f.p50_us as f64),
                of(|f| f.p99_us as f64),
                of(|f| f.acked.saturating_sub(f.arrived) as f64),
            );
        }
    }
    if args.idle > 0 && wanted("tidegate") {
        idle::run(args.idle, Duration::from_secs(16));
    }
}
