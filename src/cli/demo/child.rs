//! The processes of the demo: started, watched, and ended in order.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

/// A child in a process group of its own: Ctrl-C in the terminal reaches the demo alone, which then
/// ends its children in order. Its stdin is a pipe that ends with the demo, however that ends.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts `program` with `args`; what it says on stderr goes to `log`.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        args: &[&str],
        stdout: Stdio,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("the {name} cannot be started: {}", program.display()))?;
        Ok(Self { name, child })
    }

    /// Fails when it has ended.
    pub(super) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        bail!("the {} has ended ({status}):\n{}", self.name, last_lines(log))
    }

    /// Asks it to end with `signal`, or by closing its stdin alone, and waits up to `grace`.
    pub(super) async fn stop(
        mut self,
        signal: Option<Signal>,
        grace: Duration,
    ) -> anyhow::Result<ExitStatus> {
        drop(self.child.stdin.take());
        if let (Some(signal), Ok(pid)) = (signal, i32::try_from(self.child.id())) {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
        let deadline = Instant::now() + grace;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the {} did not end within {grace:?} and was killed", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // For what has ended both are refused, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

/// A batch that the broker received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) device: String,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) readings: u64,
}

/// The broker as a child.
#[derive(Debug)]
pub(super) struct Broker {
    process: Process,
    pub(super) address: SocketAddr,
}

impl Broker {
    /// Starts the broker on `listen` and waits until it listens. What arrives is sent to
    /// `arrivals`.
    pub(super) async fn start(
        program: &Path,
        listen: SocketAddr,
        log: &Path,
        arrivals: mpsc::Sender<Arrival>,
    ) -> anyhow::Result<Self> {
        let listen = listen.to_string();
        let args = ["demo-broker", "--listen", &listen];
        let mut process = Process::start("broker", program, &args, Stdio::piped(), log)?;
        let stdout = process.child.stdout.take().context("the broker has no stdout")?;
        let (listening_tx, mut listening) = mpsc::channel(1);
        std::thread::Builder::new().name("broker-stdout".into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening ") {
                    let _ = listening_tx.try_send(address.parse::<SocketAddr>());
                } else if let Some(arrival) = parse_arrival(&line) {
                    if arrivals.blocking_send(arrival).is_err() {
                        return;
                    }
                }
            }
        })?;
        let waited = tokio::time::timeout(Duration::from_secs(10), listening.recv()).await;
        let Ok(Some(Ok(address))) = waited else {
            process.check(log)?;
            bail!("the broker does not listen:\n{}", last_lines(log));
        };
        Ok(Self { process, address })
    }

    /// Fails when it has ended by itself.
    pub(super) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        self.process.check(log)
    }

    /// Takes the broker away: every connection is cut at once.
    pub(super) async fn leave(self) -> anyhow::Result<ExitStatus> {
        self.process.stop(None, Duration::from_secs(5)).await
    }
}

fn parse_arrival(line: &str) -> Option<Arrival> {
    let mut words = line.strip_prefix("arrived ")?.split(' ');
    let device = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some(Arrival { device, epoch: number()?, seq: number()?, readings: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_read_from_the_brokers_lines() {
        let arrival = Arrival { device: "a".into(), epoch: 7, seq: 42, readings: 3 };
        assert_eq!(parse_arrival("arrived a 7 42 3"), Some(arrival));
        for other in ["listening 127.0.0.1:1", "arrived a 7 42", "arrived a x 1 1", ""] {
            assert_eq!(parse_arrival(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_child_ends_with_its_stdin_and_one_that_does_not_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let cat = Process::start("cat", Path::new("cat"), &[], Stdio::null(), &log).unwrap();
        assert!(cat.stop(None, Duration::from_secs(5)).await.unwrap().success());

        let args = ["30"];
        let sleep =
            Process::start("sleeper", Path::new("sleep"), &args, Stdio::null(), &log).unwrap();
        let pid = sleep.child.id();
        let error = sleep.stop(None, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("the sleeper did not end"), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let sleep =
            Process::start("sleeper", Path::new("sleep"), &args, Stdio::null(), &log).unwrap();
        let status = sleep.stop(Some(Signal::TERM), Duration::from_secs(5)).await.unwrap();
        assert!(!status.success());
    }

    #[test]
    fn a_child_that_ended_by_itself_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let args = ["-c", "echo the port is taken >&2; exit 3"];
        let mut sh =
            Process::start("gateway", Path::new("sh"), &args, Stdio::null(), &log).unwrap();
        sh.child.wait().unwrap();
        let error = sh.check(&log).unwrap_err().to_string();
        assert!(error.contains("the gateway has ended"), "{error}");
        assert!(error.contains("exit status: 3") && error.contains("the port is taken"), "{error}");
    }
}
