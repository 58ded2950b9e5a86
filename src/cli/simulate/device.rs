//! One simulated device: makes readings when they are due, sends them, counts the answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::model::{Channels, malformed};
use super::report::Totals;
use crate::cli::told::{Told, carry_out};
use crate::client::{BadOptions, Client, Event, Options, Stopped};

/// What a simulated device says it is.
pub(super) const MODEL: &str = "tidegate simulate";
/// Batches handed over before events are looked at again.
const BURST: u64 = 256;
/// How long a device that connects for the first time counts against `--connecting`.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);

/// What every device of a run does.
#[derive(Debug)]
pub(super) struct Plan {
    /// Between two batches; zero: as fast as acknowledgements allow. `None`: never.
    pub(super) interval: Option<Duration>,
    pub(super) readings: usize,
    pub(super) count: Option<u64>,
    pub(super) best_effort: bool,
    pub(super) malformed: f64,
    pub(super) reconnect_every: Option<Duration>,
    pub(super) grace: Duration,
    /// When the run began: reconnect storms count from here, for all at once.
    pub(super) began: Instant,
}

/// What all devices of a run share.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) plan: Arc<Plan>,
    pub(super) totals: Arc<Totals>,
    /// Bounds how many connect for the first time at once.
    pub(super) connecting: Arc<Semaphore>,
    /// Ends the run.
    pub(super) stop: CancellationToken,
}

/// Runs one device until it has sent what it should, the run ends, or the gateway wants no more of
/// it. Connection and readings share one task.
pub(super) async fn run(options: Options, number: usize, common: Common) -> Result<(), BadOptions> {
    let permit = common.connecting.clone().acquire_owned().await;
    let (client, connection) = Client::start(options)?;
    let lag = number as f64 * 137.0 % 3600.0;
    let mut device = Device {
        channels: Channels::new(common.plan.readings, lag),
        interval: common.plan.interval,
        waiting: VecDeque::new(),
        pack: None,
        made: 0,
        connections: 0,
        connected: false,
        client,
        common,
    };
    let work = async move {
        // A device that has to try again does not hold up those that have not tried yet.
        let _ = tokio::time::timeout(FIRST_ATTEMPT, device.client.connected()).await;
        drop(permit);
        let greeted = tokio::select! {
            biased;
            connected = device.client.connected() => connected,
            () = device.common.stop.cancelled() => Ok(()),
        };
        match greeted {
            Ok(()) => device.work().await,
            Err(error) => device.gave_up(&error),
        }
        device.finish().await;
    };
    tokio::join!(connection, work);
    Ok(())
}

struct Device {
    client: Client,
    common: Common,
    channels: Channels,
    /// As planned, or as it was told.
    interval: Option<Duration>,
    /// Numbers sent and not acknowledged, and when they were sent. (A timer's tick is a millisecond:
    /// counted from when they were due, the tool would show itself.)
    waiting: VecDeque<(u64, Instant)>,
    /// Made, but there was no room for it yet.
    pack: Option<Vec<u8>>,
    made: u64,
    connections: u64,
    connected: bool,
}

impl Device {
    async fn work(&mut self) {
        let stop = self.common.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let plan = Arc::clone(&self.common.plan);
        // Devices do not measure in step.
        let mut due =
            Instant::now() + self.interval.unwrap_or_default().mul_f64(rand::random::<f64>());
        let mut timer = std::pin::pin!(sleep_until(due.into()));
        let mut cut = plan.reconnect_every.map(|every| (every, Box::pin(next_cut(&plan, every))));
        loop {
            let blocked = self.send_what_is_due(&mut due).await;
            let done = plan.count.is_some_and(|count| self.made >= count);
            if done {
                return;
            }
            let waits = !blocked && self.interval.is_some();
            if waits && timer.deadline() != due.into() {
                timer.as_mut().reset(due.into());
            }
            tokio::select! {
                biased;
                () = &mut stopped => return,
                event = self.client.event() => match event {
                    Ok(event) => {
                        self.take(event);
                        while let Some(event) = self.client.try_event() {
                            self.take(event);
                        }
                    }
                    Err(error) => return self.gave_up(&error),
                },
                () = &mut timer, if waits => {}
                () = async { if let Some((_, cut)) = &mut cut { cut.await } }, if cut.is_some() => {
                    self.client.disconnect(Duration::ZERO);
                    if let Some((every, cut)) = &mut cut {
                        cut.set(next_cut(&plan, *every));
                    }
                }
            }
        }
    }

    /// Sends until nothing is due or there is no room (`true`).
    async fn send_what_is_due(&mut self, due: &mut Instant) -> bool {
        let plan = Arc::clone(&self.common.plan);
        let Some(interval) = self.interval else { return true };
        let (mut sent, mut bytes) = (0, 0);
        let blocked = loop {
            if plan.count.is_some_and(|count| self.made >= count) {
                break true;
            }
            if sent >= BURST {
                break false;
            }
            let now = Instant::now();
            if interval.is_zero() {
                *due = now;
            } else if *due > now {
                break false;
            }
            let pack = self.pack.take().unwrap_or_else(|| self.next_pack());
            let len = pack.len() as u64;
            if plan.best_effort {
                let queued = tokio::select! {
                    biased;
                    queued = self.client.best_effort_pack(&pack) => queued,
                    () = self.common.stop.cancelled() => break true,
                };
                // Without a connection the event of the next one wakes this device.
                if !queued.unwrap_or(false) {
                    break true;
                }
            } else {
                match self.client.try_send_pack(&pack) {
                    Ok(Some(seq)) => self.waiting.push_back((seq, now)),
                    Ok(None) => {
                        self.pack = Some(pack);
                        break true;
                    }
                    // The event that follows says why.
                    Err(_) => break true,
                }
            }
            self.made += 1;
            sent += 1;
            bytes += len;
            *due += interval;
        };
        if sent > 0 {
            self.common.totals.batches_sent(sent);
            self.common.totals.sent_bytes.add(bytes);
        }
        blocked
    }

    fn next_pack(&mut self) -> Vec<u8> {
        let mut rng = rand::rng();
        let fraction = self.common.plan.malformed;
        if fraction > 0.0 && rand::random::<f64>() < fraction {
            return malformed(&mut rng).to_vec();
        }
        self.channels.pack(self.client.now(), &mut rng)
    }

    fn take(&mut self, event: Event) {
        let totals = &self.common.totals;
        match event {
            Event::Acked(seq) => {
                let count = self.waiting.partition_point(|(waiting, _)| *waiting <= seq);
                totals.batches_acked(self.waiting.drain(..count).map(|(_, sent)| sent));
            }
            Event::Rejected { seq, code, reason } => {
                totals.rejected.add(1);
                if let Some(seq) = seq {
                    self.waiting.retain(|(waiting, _)| *waiting != seq);
                }
                if self.common.plan.malformed == 0.0 {
                    totals.unexpected.add(1);
                    totals.failed(format!("a batch was refused (code {code}): {reason}"));
                }
            }
            Event::Connected { .. } => {
                self.connections += 1;
                self.connected = true;
                totals.device_connected(self.connections == 1);
            }
            Event::Disconnected { reason } => {
                if self.common.plan.reconnect_every.is_none() {
                    totals.failed(reason);
                }
                self.disconnected();
            }
            Event::Unreachable { reason } => totals.failed(reason),
            Event::Command(command) => {
                let answer = carry_out(&command, self);
                self.client.answer(&command.id, answer);
            }
            Event::Missed(_) => {}
        }
    }

    fn gave_up(&self, error: &Stopped) {
        self.common.totals.stopped.add(1);
        self.common.totals.failed(error);
    }

    fn disconnected(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.common.totals.connected.down();
        }
    }

    /// Waits for what is on the way, counts what is not acknowledged, says goodbye.
    async fn finish(mut self) {
        let grace = tokio::time::sleep(self.common.plan.grace);
        let mut grace: std::pin::Pin<&mut Sleep> = std::pin::pin!(grace);
        while self.client.unacknowledged() > 0 {
            tokio::select! {
                event = self.client.event() => match event {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                },
                () = &mut grace => break,
            }
        }
        while let Some(event) = self.client.try_event() {
            self.take(event);
        }
        self.common.totals.unacknowledged.add(self.client.unacknowledged() as u64);
        self.disconnected();
        self.client.close(Duration::ZERO).await;
    }
}

impl Told for Device {
    fn model(&self) -> &str {
        MODEL
    }

    fn started(&self) -> Instant {
        self.common.plan.began
    }

    fn interval(&self) -> Option<f64> {
        self.interval.map(|interval| interval.as_secs_f64())
    }

    fn set_interval(&mut self, seconds: f64) {
        self.interval = Duration::try_from_secs_f64(seconds).ok();
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["relay-1", "relay-2"]
    }

    fn set_output(&mut self, output: &'static str, on: bool) {
        self.channels.set_output(output, on);
    }
}

/// The next moment at which all devices of the run break their connections.
fn next_cut(plan: &Plan, every: Duration) -> Sleep {
    let storms = plan.began.elapsed().as_nanos() / every.as_nanos().max(1) + 1;
    let storms = u32::try_from(storms).unwrap_or(u32::MAX);
    sleep_until((plan.began + every.saturating_mul(storms)).into())
}
