//! tidegate under the load of its own simulator.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::broker::upstream;
use crate::process::{Process, await_port, free_port};
use crate::subscriber::Subscriber;
use crate::{Figures, Load};

/// What is measured: `$TIDEGATE_BIN`, or the binary that cargo built beside the bench. That one
/// shares its dependencies' features with the tests.
pub fn binary() -> OsString {
    std::env::var_os("TIDEGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into())
}

/// The gateway with a configuration that lets the load through, and its device port.
pub fn start(dir: &Path, broker: u16) -> (Process, u16) {
    let (devices, dashboard) = (free_port(), free_port());
    let config = dir.join("tidegate.toml");
    let data = dir.join("data").display().to_string();
    let text = format!(
        "[gateway]\nid = \"bench\"\ndata_dir = \"{data}\"\n\
         [devices]\nlisten = \"127.0.0.1:{devices}\"\nauth = \"none\"\n\
         max_connections = 60000\nmax_connections_per_address = 60000\n\
         heartbeat_interval = \"8s\"\n\
         rate = {{ batches_per_second = 100000, burst = 100000 }}\n\
         [mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
         [dashboard]\nlisten = \"127.0.0.1:{dashboard}\"\n\
         [log]\nlevel = \"warn\"\n"
    );
    std::fs::write(&config, text).expect("a temporary folder");
    let process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&config));
    await_port(devices);
    await_port(dashboard);
    (process, devices)
}

/// `tidegate simulate` against `port`; its summary.
pub fn simulate(port: u16, arguments: &[String]) -> Value {
    let output = Command::new(binary())
        .args(["simulate", "--json", "--url", &format!("ws://127.0.0.1:{port}")])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("the simulator runs");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

/// One measurement.
pub fn run(load: Load) -> Figures {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_broker, broker_port) = upstream(dir.path());
    let subscriber = Subscriber::start(broker_port, "tidegate/+/devices/+/readings");
    let (gateway, port) = start(dir.path(), broker_port);
    let before = gateway.cpu_seconds();
    let mut arguments = vec![
        format!("--devices={}", load.devices),
        format!("--window={}", load.window),
        format!("--duration={}s", load.seconds),
    ];
    arguments.push(match load.rate {
        0 => "--rate=0".into(),
        rate => format!("--total-rate={rate}"),
    });
    let summary = simulate(port, &arguments);
    let acked = summary["acked"].as_u64().expect("a count");
    let arrived = subscriber.settle(acked);
    Figures {
        acked,
        arrived,
        seconds: summary["seconds"].as_f64().expect("seconds"),
        cpu_seconds: gateway.cpu_seconds() - before,
        peak_mib: gateway.memory_kib("VmHWM") as f64 / 1024.0,
        p50_us: summary["ack_us"]["p50"].as_u64().unwrap_or(0),
        p99_us: summary["ack_us"]["p99"].as_u64().unwrap_or(0),
    }
}
