//! Out of the spool, beside the live path of the same gateway.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Args;
use crate::disk::{Disk, allocated};
use crate::support::broker::{broker_at, is_installed};
use crate::support::gateway::{simulate, start};
use crate::support::process::free_port;
use crate::support::subscriber::Subscriber;

/// Longest time until the gateway tries the broker again.
const RETRY: Duration = Duration::from_secs(70);
/// What an empty spool may take: the marks, folders.
const EMPTY: u64 = 64 * 1024;

pub fn run(disk: &Disk, args: &Args) {
    if !is_installed() {
        println!("\nskipped: drain, mosquitto is not installed");
        return;
    }
    let data = disk.folder("spool");
    let port = free_port();
    let gateway = start(disk.aside(), &data, port);
    let devices = format!("--devices={}", args.devices);
    let arguments = [devices.clone(), "--rate=0".into(), format!("--count={}", args.backlog)];
    let spooled = simulate(gateway.devices, &arguments)["acked"].as_u64().expect("a count");
    let peak = allocated(&data);

    let _broker = broker_at(disk.aside(), port);
    let subscriber = Subscriber::start(port, "tidegate/+/devices/+/readings");
    let waited = Instant::now();
    while subscriber.count() == 0 {
        assert!(waited.elapsed() < RETRY, "the gateway does not come back");
        sleep(Duration::from_millis(1));
    }
    let (began, cpu) = (Instant::now(), gateway.process.cpu_seconds());
    let arrived = subscriber.settle(spooled);
    let drained = began.elapsed().as_secs_f64();
    let drain_cpu = gateway.process.cpu_seconds() - cpu;
    assert!(arrived >= spooled, "{arrived} of {spooled} arrived");
    let empty = Instant::now();
    while allocated(&data) > EMPTY {
        assert!(empty.elapsed() < RETRY, "the room is not given back");
        sleep(Duration::from_millis(10));
    }
    let empty = empty.elapsed().as_secs_f64();

    let cpu = gateway.process.cpu_seconds();
    let arguments = [devices, "--rate=0".into(), format!("--duration={}s", args.seconds)];
    let live = simulate(gateway.devices, &arguments);
    let acked = live["acked"].as_u64().expect("a count");
    subscriber.settle(spooled + acked);
    println!(
        "\nOut of the spool: {spooled} batches, one reading each.\n\n\
         | path | batches/s | CPU s/M |\n|---|---|---|\n\
         | drain | {:.0} | {:.1} |\n| live, window 32 | {:.0} | {:.1} |\n\n\
         Disk: {:.1} MiB at the peak, {:.1} KiB {empty:.1} s after the last batch arrived. Peak \
         resident: {:.1} MiB.",
        spooled as f64 / drained,
        drain_cpu * 1e6 / spooled as f64,
        acked as f64 / live["seconds"].as_f64().expect("seconds"),
        (gateway.process.cpu_seconds() - cpu) * 1e6 / acked as f64,
        peak as f64 / f64::from(1 << 20),
        allocated(&data) as f64 / 1024.0,
        gateway.process.memory_kib("VmHWM") as f64 / 1024.0,
    );
}
