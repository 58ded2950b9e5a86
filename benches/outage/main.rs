//! An outage, measured through the release binary: simulated devices → gateway without a broker →
//! disk, and back when the broker comes; beside a plain file that is appended to and synced.
//!
//! ```sh
//! cargo bench --bench outage                          # everything, under five minutes
//! cargo bench --bench outage -- --only load --seconds 3
//! ```
//!
//! As root the data lies on an ext4 of its own in a loop device, whose counter tells every byte that
//! reaches it: pages, inodes and the file system's journal. Otherwise the kernel's count for the
//! process stands in, without the journal. The drain needs mosquitto. Prints Markdown.

#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench is a program of its own and stops at the first surprise"
)]

mod append;
mod disk;
mod drain;
mod load;
mod ready;
#[allow(dead_code, reason = "not every bench needs everything")]
#[path = "../support/mod.rs"]
mod support;

use clap::{Parser, ValueEnum};

/// Benchmark of the spool.
#[derive(Debug, Parser)]
pub struct Args {
    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seconds of the slow load, where the beginning has to be forgotten.
    #[arg(long, default_value_t = 30)]
    slow_seconds: u64,
    /// Devices.
    #[arg(long, default_value_t = 200)]
    devices: usize,
    /// Batches of each device that are drained.
    #[arg(long, default_value_t = 2_000)]
    backlog: u64,
    /// MiB in the spool for the start.
    #[arg(long, default_value_t = 1_024)]
    waiting: u64,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Into the spool, at several loads.
    Load,
    /// Memory with a small and a large backlog.
    Memory,
    /// Out of the spool.
    Drain,
    /// Start with much in the spool.
    Ready,
}

fn main() {
    let args = Args::parse();
    let disk = disk::Disk::new();
    println!("Bytes written are those of {}.", disk.source());
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Part::Load) {
        load::run(&disk, &args);
    }
    if wanted(Part::Memory) {
        load::memory(&disk, &args);
    }
    if wanted(Part::Drain) {
        drain::run(&disk, &args);
    }
    if wanted(Part::Ready) {
        ready::run(&disk, &args);
    }
}
