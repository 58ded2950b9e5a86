//! What a connection costs that only holds on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::broker::upstream;
use crate::support::gateway::{binary, start};
use crate::support::process::Process;

/// Holds `count` greeted devices and prints what they cost.
pub fn run(count: usize, hold: Duration) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_broker, broker_port) = upstream(dir.path());
    let gateway = start(dir.path(), &dir.path().join("data"), broker_port);
    let (gateway, port) = (gateway.process, gateway.devices);
    std::thread::sleep(Duration::from_secs(1));
    let before = gateway.memory_kib("VmRSS");
    let started = Instant::now();
    let _load = Process::start(
        Command::new(binary())
            .args(["simulate", "--idle", "--json"])
            .arg(format!("--url=ws://127.0.0.1:{port}"))
            .arg(format!("--devices={count}"))
            .arg(format!("--duration={}s", hold.as_secs() + 120))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let connected = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", gateway.0.id())).expect("running");
        fds.count()
    };
    while connected() < count {
        assert!(started.elapsed() < Duration::from_secs(60), "only {} connected", connected());
        std::thread::sleep(Duration::from_millis(20));
    }
    let seconds = started.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(2));
    let cpu = gateway.cpu_seconds();
    std::thread::sleep(hold);
    let percent = (gateway.cpu_seconds() - cpu) * 100.0 / hold.as_secs_f64();
    let kib = (gateway.memory_kib("VmRSS") - before) as f64 / count as f64;
    println!(
        "{count} idle devices: {kib:.1} KiB each, {percent:.1} % CPU with a ping each 8 s, \
         connected in {seconds:.1} s; at rest {:.1} MiB",
        before as f64 / 1024.0
    );
}
