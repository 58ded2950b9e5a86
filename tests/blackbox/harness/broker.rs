//! A mosquitto of the test's own.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{free_port, show_log, until};

/// A running mosquitto; ended when dropped.
pub(crate) struct Broker {
    dir: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Broker {
    /// Starts one with `extra` lines in its configuration.
    pub(crate) async fn start(extra: &str) -> Self {
        Self::start_with(extra, &[]).await
    }

    /// Starts one with `extra` lines in its configuration and `files` in its own folder, which is
    /// `{dir}` in those lines.
    pub(crate) async fn start_with(extra: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            std::fs::write(dir.path().join(name), contents).unwrap();
        }
        let port = free_port();
        let extra = extra.replace("{dir}", dir.path().to_str().unwrap());
        // Not 0, "unlimited": mosquitto 2.0.11 then drops who sent something it refuses.
        // The last word of two on one setting is the one that holds.
        let defaults = "allow_anonymous true\nlog_type all\nmax_queued_messages 1000000\nset_tcp_nodelay true\n";
        let user = if is_root() { "user root\n" } else { "" };
        let text = format!("listener {port} 127.0.0.1\n{user}{defaults}{extra}\n");
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        let mut broker = Self { dir, port, child: None };
        broker.restart().await;
        broker
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port, with nothing remembered.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        let port = self.port;
        until("mosquitto listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await;
    }

    /// As [`Self::restart`], and does not wait.
    pub(crate) fn spawn(&mut self) {
        self.kill();
        let log = self.dir.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("mosquitto")
            .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"))
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mosquitto starts; tests/run installs it");
        self.child = Some(child);
    }

    /// Whether it was started and not ended by [`Self::kill`].
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        show_log("the broker", &self.dir.path().join("log"));
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}
