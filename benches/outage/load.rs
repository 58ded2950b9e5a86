//! Into the spool: the gateway has no broker, devices send.

use std::time::Duration;

use crate::Args;
use crate::append::{self, Plan};
use crate::disk::{Disk, allocated};
use crate::support::gateway::{Gateway, simulate, start};
use crate::support::process::free_port;

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    window: usize,
    readings: usize,
    /// Batches per second over all devices, 0 for as many as go.
    rate: u64,
    seconds: u64,
}

/// What the simulator saw.
struct Seen {
    acked: u64,
    payload: u64,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
}

fn apply(gateway: &Gateway, args: &Args, load: &Load) -> Seen {
    let arguments = [
        format!("--devices={}", args.devices),
        format!("--window={}", load.window),
        format!("--batch={}", load.readings),
        format!("--duration={}s", load.seconds),
        match load.rate {
            0 => "--rate=0".into(),
            rate => format!("--total-rate={rate}"),
        },
    ];
    let summary = simulate(gateway.devices, &arguments);
    let count = |name: &str| summary[name].as_u64().expect("a count");
    assert_eq!(count("unacknowledged"), 0, "everything is acknowledged: {summary}");
    let time = |name: &str| summary["ack_us"][name].as_u64().expect("a time");
    Seen {
        acked: count("acked"),
        payload: count("sent_bytes"),
        seconds: summary["seconds"].as_f64().expect("seconds"),
        p50_us: time("p50"),
        p99_us: time("p99"),
    }
}

/// Each load on a new gateway, and the plain file with as many bytes in as many groups.
pub fn run(disk: &Disk, args: &Args) {
    let fast = args.seconds;
    let load =
        |name, window, readings, rate, seconds| Load { name, window, readings, rate, seconds };
    let loads = [
        load("window 32", 32, 1, 0, fast),
        load("window 1", 1, 1, 0, fast),
        load("2 000/s", 32, 1, 2_000, fast),
        load("100/s", 32, 1, 100, args.slow_seconds),
        load("window 32, 100 readings", 32, 100, 0, fast),
        load("100/s, 100 readings", 32, 100, 100, fast),
    ];
    println!(
        "\nInto the spool, {} devices. Payload: the SenML packs that devices sent, CBOR.\n\n\
         | load | writer | batches/s | p50 ms | p99 ms | CPU s/M | payload B/batch | syncs/s | \
         written per payload | disk per payload | peak MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|",
        args.devices
    );
    for load in loads {
        let data = disk.folder("spool");
        // Nothing listens there.
        let gateway = start(disk.aside(), &data, free_port());
        // A generation is made once in minutes at the slow loads: it is there already.
        let before = apply(&gateway, args, &Load { seconds: 2, ..load }).payload;
        let (written, flushes) = (disk.written(Some(&gateway.process)), disk.flushes());
        let cpu = gateway.process.cpu_seconds();
        let seen = apply(&gateway, args, &load);
        let cpu = gateway.process.cpu_seconds() - cpu;
        let flushes = disk.flushes() - flushes;
        let written = disk.written(Some(&gateway.process)) - written;
        let (batches, payload) = (seen.acked as f64, seen.payload as f64);
        println!(
            "| {} | tidegate | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} | {:.2} | {:.1} |",
            load.name,
            batches / seen.seconds,
            seen.p50_us as f64 / 1e3,
            seen.p99_us as f64 / 1e3,
            cpu * 1e6 / batches,
            payload / batches,
            flushes as f64 / seen.seconds,
            written as f64 / payload,
            allocated(&data) as f64 / (payload + before as f64),
            gateway.process.memory_kib("VmHWM") as f64 / 1024.0,
        );
        drop(gateway);
        let spread = if load.rate == 0 { 0 } else { load.seconds };
        let plan = Plan {
            bytes: seen.payload,
            // Where flushes cannot be counted: as often as batches wait for at most.
            groups: if flushes == 0 { load.seconds * 4 } else { flushes },
            spread: Duration::from_secs(spread),
        };
        let file = append::run(disk, &plan);
        println!(
            "| | plain file | {:.0} | {:.1} | {:.1} | | {:.0} | | {:.2} | 1.00 | |",
            batches / file.seconds,
            file.p50_us as f64 / 1e3,
            file.p99_us as f64 / 1e3,
            payload / batches,
            file.written as f64 / payload,
        );
    }
}

/// One gateway, whose backlog grows.
pub fn memory(disk: &Disk, args: &Args) {
    println!(
        "\nMemory while the backlog grows, window 32, as fast as it goes.\n\n\
         | readings a batch | batches waiting | spool MiB | resident MiB | peak MiB |\n\
         |---|---|---|---|---|"
    );
    for readings in [1, 100] {
        let data = disk.folder("spool");
        let gateway = start(disk.aside(), &data, free_port());
        let mut waiting = 0;
        for seconds in [1, args.seconds, args.seconds] {
            let load = Load { name: "", window: 32, readings, rate: 0, seconds };
            waiting += apply(&gateway, args, &load).acked;
            println!(
                "| {readings} | {waiting} | {:.1} | {:.1} | {:.1} |",
                allocated(&data) as f64 / f64::from(1 << 20),
                gateway.process.memory_kib("VmRSS") as f64 / 1024.0,
                gateway.process.memory_kib("VmHWM") as f64 / 1024.0,
            );
        }
    }
}
