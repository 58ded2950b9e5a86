//! The upstream broker.

use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{Process, await_port, free_port};

/// mosquitto with the given configuration.
pub fn mosquitto(dir: &Path, name: &str, configuration: &str) -> Process {
    let file = dir.join(format!("{name}.conf"));
    std::fs::write(&file, configuration).expect("a temporary folder");
    Process::start(
        Command::new("mosquitto").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()),
    )
}

/// Whether it can be started.
pub fn is_installed() -> bool {
    let mut help = Command::new("mosquitto");
    help.arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// An upstream broker and its port.
pub fn upstream(dir: &Path) -> (Process, u16) {
    let port = free_port();
    (broker_at(dir, port), port)
}

/// An upstream broker at `port`.
pub fn broker_at(dir: &Path, port: u16) -> Process {
    let process = mosquitto(
        dir,
        "upstream",
        &format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             set_tcp_nodelay true\nmax_queued_messages 0\n"
        ),
    );
    await_port(port);
    process
}
