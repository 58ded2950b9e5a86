//! The real binary with a configuration of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use toml::{Table, Value};

use super::http::{self, Response};
use super::{Connector, DEADLINE, free_port, show_log, until};

/// A configuration on the way.
pub(crate) struct Setup {
    dir: TempDir,
    table: Table,
    devices: u16,
    dashboard: u16,
}

/// A gateway, running or not; ended when dropped.
pub(crate) struct Gateway {
    dir: TempDir,
    /// Where devices connect.
    pub(crate) devices: u16,
    /// The dashboard's port.
    pub(crate) dashboard: u16,
    environment: Vec<(String, PathBuf)>,
    /// A library to load before all others.
    pub(crate) preload: Option<PathBuf>,
    child: Option<Child>,
}

impl Setup {
    /// For the broker at `broker`; devices need no credentials.
    pub(crate) fn new(broker: u16) -> Self {
        let (devices, dashboard) = (free_port(), free_port());
        let setup =
            Self { dir: tempfile::tempdir().unwrap(), table: Table::new(), devices, dashboard };
        setup
            .set("gateway.id", "gw-test")
            .set("gateway.data_dir", "data")
            .set("devices.listen", format!("127.0.0.1:{devices}"))
            .set("devices.auth", "none")
            .set("dashboard.listen", format!("127.0.0.1:{dashboard}"))
            .set("mqtt.url", format!("mqtt://127.0.0.1:{broker}"))
            .set("log.target", "stderr")
            .set("log.level", "info")
    }

    /// Sets one key, named with its table.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, key) = key.split_once('.').unwrap();
        let section = self.table.entry(section).or_insert_with(|| Table::new().into());
        section.as_table_mut().unwrap().insert(key.to_owned(), value.into());
        self
    }

    /// Adds one `[[name]]` with these lines.
    pub(crate) fn table(mut self, name: &str, text: &str) -> Self {
        let table: Table = text.parse().unwrap();
        let tables = self.table.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        tables.as_array_mut().unwrap().push(table.into());
        self
    }

    /// With credentials: an empty registry to which [`Gateway::add`] adds.
    pub(crate) fn with_tokens(self) -> Self {
        std::fs::write(self.dir.path().join("devices.toml"), "").unwrap();
        self.set("devices.auth", "token").set("devices.registry", "devices.toml")
    }

    /// Writes it without starting anything.
    pub(crate) fn prepare(self) -> Gateway {
        let Self { dir, table, devices, dashboard } = self;
        std::fs::write(dir.path().join("tidegate.toml"), table.to_string()).unwrap();
        Gateway { dir, devices, dashboard, environment: Vec::new(), preload: None, child: None }
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        let mut gateway = self.prepare();
        gateway.start().await;
        gateway
    }
}

impl Gateway {
    /// Starts it, for the first time or again, and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        until("the gateway is ready", async || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the gateway ended with {status}");
            }
            self.unready().await.is_none()
        })
        .await;
    }

    /// Sets a variable of its environment from the next start on.
    pub(crate) fn env(&mut self, name: &str, value: impl Into<PathBuf>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// What `/readyz` says is wrong, also that nobody answers; `None` when it is ready.
    pub(crate) async fn unready(&self) -> Option<String> {
        let request = "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        match http::try_raw(self.dashboard, request).await {
            Ok(answer) => (answer.status != 200).then_some(answer.body),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = self
            .binary()
            .args(["run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Runs another command of the binary with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.binary().args(arguments).arg("--config").arg(self.config()).output().unwrap()
    }

    /// Registers a device and gives its token.
    pub(crate) fn add(&self, id: &str, more: &[&str]) -> String {
        let output = self.command(&[&["device", "add", id], more].concat());
        assert!(output.status.success(), "device add: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The binary, to be run in its folder.
    pub(crate) fn binary(&self) -> Command {
        let mut command = Command::new(super::program());
        command.current_dir(self.dir.path());
        for name in [
            "NOTIFY_SOCKET",
            "JOURNAL_STREAM",
            "STATE_DIRECTORY",
            "CREDENTIALS_DIRECTORY",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned());
        command.envs(self.preload.iter().map(|library| ("LD_PRELOAD", library)));
        command
    }

    /// A device of this gateway, without credentials.
    pub(crate) fn device(&self, id: &str) -> Connector {
        Connector::new(self.devices, id)
    }

    /// Whether it was started and not ended by [`Self::kill`].
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if started.elapsed() > DEADLINE {
                self.child = Some(child);
                panic!("the gateway does not end");
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Stops it with SIGTERM and expects success.
    pub(crate) async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "SIGTERM is a normal end");
    }

    /// `GET` on the dashboard's listener.
    pub(crate) async fn get(&self, path: &str) -> Response {
        http::get(self.dashboard, path).await
    }

    /// `/api/v1/status`.
    pub(crate) async fn status(&self) -> serde_json::Value {
        self.get("/api/v1/status").await.json()
    }

    /// Every whole number of `/metrics` by its name, labels included.
    pub(crate) async fn metrics(&self) -> HashMap<String, u64> {
        let text = self.get("/metrics").await.body;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// One of them, 0 where there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        self.metrics().await.get(name).copied().unwrap_or(0)
    }

    /// Waits until the uplink's state is `state`.
    pub(crate) async fn until_uplink(&self, state: &str) {
        until(&format!("the uplink is {state}"), async || {
            self.status().await["uplink"]["state"] == state
        })
        .await;
    }

    /// Every file below the data folder with its size.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir.path().join("data")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.metadata().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push((entry.path(), kind.len()));
                }
            }
        }
        files.sort();
        files
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        show_log("the gateway", &self.log_path());
    }
}
