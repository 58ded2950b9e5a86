//! tidegate, and the load of its own simulator.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Process, await_port, free_port};

/// What is measured: `$TIDEGATE_BIN`, or the binary that cargo built beside the bench. That one
/// shares its dependencies' features with the tests.
pub fn binary() -> OsString {
    std::env::var_os("TIDEGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into())
}

/// A running gateway.
pub struct Gateway {
    pub process: Process,
    /// Port for devices.
    pub devices: u16,
    /// Port of the dashboard.
    pub dashboard: u16,
}

impl Gateway {
    /// Waits until `/readyz` says yes.
    pub fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        loop {
            let mut answer = String::new();
            let asked = TcpStream::connect(("127.0.0.1", self.dashboard)).and_then(|mut socket| {
                socket.write_all(request)?;
                socket.read_to_string(&mut answer)
            });
            if asked.is_ok() && answer.starts_with("HTTP/1.1 200") {
                return;
            }
            assert!(Instant::now() < deadline, "not ready: {answer}");
            sleep(Duration::from_millis(2));
        }
    }
}

/// The gateway with a configuration that lets the load through; its data is in `data`.
pub fn start(dir: &Path, data: &Path, broker: u16) -> Gateway {
    let (devices, dashboard) = (free_port(), free_port());
    let config = dir.join("tidegate.toml");
    let text = format!(
        "[gateway]\nid = \"bench\"\ndata_dir = \"{}\"\n\
         [devices]\nlisten = \"127.0.0.1:{devices}\"\nauth = \"none\"\n\
         max_connections = 60000\nmax_connections_per_address = 60000\n\
         heartbeat_interval = \"8s\"\n\
         rate = {{ batches_per_second = 100000, burst = 100000, \
         bytes_per_second = \"1GiB\", burst_bytes = \"1GiB\" }}\n\
         [mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
         [spool]\nmax_bytes = \"4GiB\"\n\
         [dashboard]\nlisten = \"127.0.0.1:{dashboard}\"\n\
         [log]\nlevel = \"error\"\n",
        data.display()
    );
    std::fs::write(&config, text).expect("a temporary folder");
    let process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&config));
    await_port(devices);
    await_port(dashboard);
    Gateway { process, devices, dashboard }
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
