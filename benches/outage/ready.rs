//! From the start of the process to `/readyz`, with much in the spool.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngCore;
use tidegate::client::{Client, Options, reading};
use tidegate::core::batch::Value;

use crate::Args;
use crate::disk::{Disk, allocated};
use crate::support::gateway::start;
use crate::support::process::free_port;

/// Bytes of noise in a batch, so that compression does not make the wait for a full disk long.
const NOISE: usize = 16 * 1024;
/// Devices that fill it.
const FILLERS: u64 = 8;

pub fn run(disk: &Disk, args: &Args) {
    let data = disk.folder("spool");
    let gateway = start(disk.aside(), &data, free_port());
    let batches = args.waiting * 1024 * 1024 / NOISE as u64;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(gateway.devices, batches));
    // Killed, not stopped: the last generation has no summary.
    drop(gateway);
    let mib = allocated(&data) as f64 / f64::from(1 << 20);
    let generations = std::fs::read_dir(data.join("spool")).expect("the spool").count() - 1;
    println!(
        "\nStart with {mib:.0} MiB in {generations} generations, after SIGKILL.\n\n\
         | start | to /readyz, ms | resident MiB | peak MiB |\n|---|---|---|---|"
    );
    let cold = drop_caches();
    for name in [if cold { "cold" } else { "warm, the caches cannot be dropped" }, "warm", "warm"] {
        one(disk, &data, name);
    }
}

fn one(disk: &Disk, data: &Path, name: &str) {
    let began = Instant::now();
    let gateway = start(disk.aside(), data, free_port());
    gateway.await_ready();
    println!(
        "| {name} | {:.0} | {:.1} | {:.1} |",
        began.elapsed().as_secs_f64() * 1e3,
        gateway.process.memory_kib("VmRSS") as f64 / 1024.0,
        gateway.process.memory_kib("VmHWM") as f64 / 1024.0,
    );
}

async fn fill(port: u16, batches: u64) {
    let fillers = (0..FILLERS).map(|n| tokio::spawn(filler(n, port, batches / FILLERS)));
    for filler in fillers.collect::<Vec<_>>() {
        filler.await.expect("no filler panics");
    }
}

async fn filler(n: u64, port: u16, batches: u64) {
    let options = Options::new(format!("ws://127.0.0.1:{port}"), format!("filler-{n}"));
    let client = Client::connect(options).await.expect("the gateway listens");
    for _ in 0..batches {
        let mut noise = vec![0; NOISE];
        rand::rng().fill_bytes(&mut noise);
        let mut reading = reading("noise", "", 0.0, client.now());
        reading.unit = None;
        reading.value = Some(Value::Data(noise.into()));
        client.send(&[reading]).await.expect("the gateway takes it");
    }
    let left = client.close(Duration::from_secs(60)).await;
    assert_eq!(left, 0, "everything is acknowledged");
}

/// Makes the kernel forget what it has read, which only root may.
fn drop_caches() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
