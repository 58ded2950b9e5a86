//! Time series stores that readings are pushed to: a real `VictoriaMetrics`, a real `InfluxDB`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::http::{self, Response};
use super::{free_port, show_log, until};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Victoria,
    Influx,
}

/// A store of the test's own; ended when dropped.
pub(crate) struct Store {
    kind: Kind,
    dir: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Store {
    /// Starts one with nothing in it.
    pub(crate) async fn start(kind: Kind) -> Self {
        let mut store = Self::absent(kind);
        store.restart().await;
        store
    }

    /// One that does not run yet.
    pub(crate) fn absent(kind: Kind) -> Self {
        Self { kind, dir: tempfile::tempdir().unwrap(), port: free_port(), child: None }
    }

    /// Starts it on its port, with what it remembers.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let log = self.dir.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = match self.kind {
            Kind::Victoria => victoria(self.dir.path(), self.port),
            Kind::Influx => influx(self.dir.path(), self.port),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().expect("the store starts; tests/run installs it"));
        let (port, path) = match self.kind {
            Kind::Victoria => (self.port, "/health"),
            Kind::Influx => (self.port, "/ping"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        until("the store answers", async || {
            let child = self.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the store ended with {status}");
            }
            http::try_raw(port, &request).await.is_ok_and(|answer| answer.status < 300)
        })
        .await;
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Where readings are pushed to.
    pub(crate) fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/write?db=telemetry", self.port)
    }

    /// Asks and gives the answer.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Response {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        http::raw(self.port, &request).await
    }

    /// `VictoriaMetrics`: the samples of every series that `selector` (percent-encoded) finds, as
    /// labels, times in milliseconds and values.
    pub(crate) async fn series(&self, selector: &str) -> Vec<serde_json::Value> {
        assert_eq!(self.ask("GET", "/internal/force_flush").await.status, 200);
        let found = self.ask("GET", &format!("/api/v1/export?match[]={selector}")).await;
        assert_eq!(found.status, 200, "{found:?}");
        found.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `InfluxDB`: the rows that a query (percent-encoded) gives, times in nanoseconds.
    pub(crate) async fn rows(&self, query: &str) -> serde_json::Value {
        let path = format!("/query?db=telemetry&epoch=ns&q={query}");
        let found = self.ask("GET", &path).await;
        assert_eq!(found.status, 200, "{found:?}");
        found.json()["results"][0]["series"][0]["values"].clone()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
        show_log("the store", &self.dir.path().join("log"));
    }
}

fn victoria(dir: &Path, port: u16) -> Command {
    let mut command = Command::new("victoria-metrics");
    command
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
        .arg(format!("-storageDataPath={}", dir.join("data").display()))
        .arg("-retentionPeriod=10y")
        .arg("-memory.allowedBytes=64MB");
    command
}

fn influx(dir: &Path, port: u16) -> Command {
    let path = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n\
         [meta]\ndir = {:?}\n[data]\ndir = {:?}\nwal-dir = {:?}\n\
         [http]\nbind-address = \"127.0.0.1:{port}\"\n[monitor]\nstore-enabled = false\n",
        free_port(),
        path("meta"),
        path("data"),
        path("wal"),
    );
    let file = dir.join("influxdb.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("influxd");
    command.arg("-config").arg(file);
    command
}
