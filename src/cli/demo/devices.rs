//! The demo's devices: each sends what its plant measures through a client of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::plants::{Moment, Plant, all};
use crate::cli::curves::{DAY, chance};
use crate::cli::told::{self, Told, carry_out};
use crate::client::{Client, Event, Options, Stopped};
use crate::core::batch::Reading;

/// The device that is real.
pub(super) const THIS_MACHINE: &str = "this-machine";
/// Seconds between two batches of this machine.
const MACHINE_PERIOD: f64 = 2.0;
/// A simulated device loses its network once in this many seconds, for a few.
const DROP_OUT_EVERY: f64 = 90.0;

/// All devices, connected or trying to be.
#[derive(Debug)]
pub(super) struct Devices {
    clients: Vec<Arc<Client>>,
    runs: Vec<(String, u64)>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// Batches of all devices together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acked: u64,
}

impl Devices {
    /// Starts all of them against the gateway at `url`.
    pub(super) fn start(url: &str) -> anyhow::Result<Self> {
        let zone = zone();
        let mut devices = Self {
            clients: Vec::new(),
            runs: Vec::new(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        for plant in all() {
            let client = devices.client(url, plant.id(), plant.model())?;
            devices.tasks.spawn(simulated(client, plant, zone, devices.stop.clone()));
        }
        let client = devices.client(url, THIS_MACHINE, &Machine::model())?;
        devices.tasks.spawn(real(client, devices.stop.clone()));
        Ok(devices)
    }

    fn client(&mut self, url: &str, id: &str, model: &str) -> anyhow::Result<Arc<Client>> {
        let mut options = Options::new(url, id);
        options.model = Some(model.to_owned());
        options.firmware = Some(format!("tidegate {}", env!("CARGO_PKG_VERSION")));
        options.commands = told::COMMANDS.map(String::from).to_vec();
        options.backoff_max = Duration::from_secs(5);
        let (client, connection) = Client::start(options)?;
        tokio::spawn(connection);
        let client = Arc::new(client);
        self.runs.push((id.to_owned(), client.epoch()));
        self.clients.push(Arc::clone(&client));
        Ok(client)
    }

    /// Their ids and epochs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.runs.iter().cloned()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Waits until all are connected.
    pub(super) async fn connected(&self, within: Duration) -> anyhow::Result<()> {
        let connected = async {
            for client in &self.clients {
                client.connected().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(within, connected)
            .await
            .with_context(|| format!("not all devices were connected within {within:?}"))?
    }

    /// What was sent and acknowledged so far.
    pub(super) fn counts(&self) -> Counts {
        self.clients.iter().fold(Counts::default(), |counts, client| {
            let (acked, waiting) = (client.acked(), client.unacknowledged() as u64);
            Counts { sent: counts.sent + acked + waiting, acked: counts.acked + acked }
        })
    }

    /// Measures no more, waits up to `within` until everything is acknowledged, hangs up.
    pub(super) async fn finish(&mut self, within: Duration) -> Counts {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let settled = async {
            for client in &self.clients {
                client.settled().await;
            }
        };
        // What is left shows in the counts.
        let _ = tokio::time::timeout(within, settled).await;
        let counts = self.counts();
        self.clients.clear();
        counts
    }
}

/// Sends what `plant` measures; now and then its network is gone for some seconds.
async fn simulated(client: Arc<Client>, plant: Box<dyn Plant>, zone: f64, stop: CancellationToken) {
    let mut device = Simulated { pace: Pace::new(plant.period()), plant };
    let work = async {
        // The time of the first readings is the gateway's.
        let _ = client.connected().await;
        loop {
            let elapsed = device.wait(&client).await?;
            let moment = Moment { unix: client.now(), zone, elapsed };
            let readings = device.plant.measure(moment);
            if chance(&mut rand::rng(), elapsed, DROP_OUT_EVERY) {
                client.disconnect(Duration::from_secs_f64(2.0 + 6.0 * rand::random::<f64>()));
            }
            send(&client, &readings).await;
        }
    };
    stop.run_until_cancelled(work).await.map(|ended: Result<(), Stopped>| ended.ok());
}

/// Sends what this machine measures.
async fn real(client: Arc<Client>, stop: CancellationToken) {
    let mut device = Real { pace: Pace::new(MACHINE_PERIOD), machine: Machine::new() };
    let work = async {
        let _ = client.connected().await;
        loop {
            let elapsed = device.wait(&client).await?;
            let readings = device.machine.measure(client.now(), elapsed);
            send(&client, &readings).await;
        }
    };
    stop.run_until_cancelled(work).await.map(|ended: Result<(), Stopped>| ended.ok());
}

async fn send(client: &Client, readings: &[Reading]) {
    // An error means that the client has ended; the counts show what it could not send.
    let _ = client.send(readings).await;
}

/// Waits until it is time to measure, and does meanwhile what it is told.
trait Measures: Told + Sized {
    fn pace(&mut self) -> &mut Pace;

    /// The seconds since the last time.
    async fn wait(&mut self, client: &Client) -> Result<f64, Stopped> {
        loop {
            tokio::select! {
                elapsed = self.pace().next() => return Ok(elapsed),
                event = client.event() => if let Event::Command(command) = event? {
                    let answer = carry_out(&command, self);
                    client.answer(&command.id, answer);
                },
            }
        }
    }
}

struct Simulated {
    pace: Pace,
    plant: Box<dyn Plant>,
}

impl Measures for Simulated {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}

impl Told for Simulated {
    fn model(&self) -> &str {
        self.plant.model()
    }

    fn started(&self) -> Instant {
        self.pace.began
    }

    fn interval(&self) -> Option<f64> {
        Some(self.pace.seconds())
    }

    fn set_interval(&mut self, seconds: f64) {
        self.pace.set(seconds);
    }

    fn outputs(&self) -> &'static [&'static str] {
        self.plant.outputs()
    }

    fn set_output(&mut self, output: &'static str, on: bool) {
        self.plant.set_output(output, on);
    }
}

struct Real {
    pace: Pace,
    machine: Machine,
}

impl Measures for Real {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}

impl Told for Real {
    fn model(&self) -> &str {
        THIS_MACHINE
    }

    fn started(&self) -> Instant {
        self.pace.began
    }

    fn interval(&self) -> Option<f64> {
        Some(self.pace.seconds())
    }

    fn set_interval(&mut self, seconds: f64) {
        self.pace.set(seconds);
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[]
    }

    fn set_output(&mut self, _: &'static str, _: bool) {}
}

/// When to measure.
struct Pace {
    began: Instant,
    timer: Interval,
    last: Instant,
}

impl Pace {
    fn new(seconds: f64) -> Self {
        let now = Instant::now();
        Self { began: now, timer: timer(Duration::ZERO, seconds), last: now }
    }

    fn seconds(&self) -> f64 {
        self.timer.period().as_secs_f64()
    }

    /// From the next time on, which comes after `seconds`.
    fn set(&mut self, seconds: f64) {
        self.timer = timer(Duration::from_secs_f64(seconds), seconds);
    }

    /// Waits for the next time and returns the seconds since the last. Cancel safe.
    async fn next(&mut self) -> f64 {
        self.timer.tick().await;
        let elapsed = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        elapsed
    }
}

fn timer(first: Duration, seconds: f64) -> Interval {
    let first = tokio::time::Instant::now() + first;
    let mut timer = tokio::time::interval_at(first, Duration::from_secs_f64(seconds));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Seconds that local time is ahead of UTC, as `date` says; 0 where there is no `date`.
fn zone() -> f64 {
    std::process::Command::new("date")
        .arg("+%z")
        .output()
        .ok()
        .and_then(|output| parse_zone(String::from_utf8(output.stdout).ok()?.trim()))
        .unwrap_or_default()
}

fn parse_zone(text: &str) -> Option<f64> {
    let sign = match text.get(..1)? {
        "+" => 1.0,
        "-" => -1.0,
        _ => return None,
    };
    let hours: f64 = text.get(1..3)?.parse().ok()?;
    let minutes: f64 = text.get(3..5)?.parse().ok()?;
    let seconds = sign * (hours * 3600.0 + minutes * 60.0);
    (seconds.abs() < DAY).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::client::fake::{FakeGateway, Ledger, soon};
    use crate::ports::lock;

    #[test]
    fn time_zones_are_read_as_date_writes_them() {
        for (text, seconds) in [("+0000", 0.0), ("+0530", 19_800.0), ("-0800", -28_800.0)] {
            assert_eq!(parse_zone(text), Some(seconds), "{text}");
        }
        for bad in ["", "UTC", "+1", "+xx00"] {
            assert_eq!(parse_zone(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn every_device_connects_sends_and_loses_nothing() {
        let gateway = FakeGateway::bind().await;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let url = gateway.url.clone();
        let serving = tokio::spawn(gateway.serve(Arc::clone(&ledger)));
        let mut devices = Devices::start(&url).unwrap();
        soon(devices.connected(Duration::from_secs(5))).await.unwrap();
        soon(async {
            while lock(&ledger).seqs.len() < devices.len() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let counts = soon(devices.finish(Duration::from_secs(8))).await;
        serving.abort();
        assert_eq!(counts.sent, counts.acked);
        let ledger = lock(&ledger);
        let arrived: usize = ledger.seqs.values().map(Vec::len).sum();
        assert_eq!((arrived as u64, ledger.rejected), (counts.acked, 0));
        assert!(ledger.seqs.keys().any(|(device, _)| device == THIS_MACHINE));
    }
}
