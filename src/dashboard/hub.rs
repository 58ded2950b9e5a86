//! Where viewers come together: ten times a second, while anyone watches, a tick collects what
//! changed and renders it once for everybody.

mod viewer;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::log::Level;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub(super) use self::viewer::{Piece, Viewer};
use super::Context;
use super::gateway::View;
use super::history::Tending;
use super::log;
use super::rates::{self, Rates};
use super::render::{self, Filter};
use super::slot::Slot;
use super::status::{self, Commands, Counts, Devices, Push, Spool, Status, StatusMessage, Uplink};
use crate::core::batch::LossReason;
use crate::core::forecast::{Flow, Forecast, Sample};
use crate::core::ids::DeviceId;
use crate::metrics::Reason;
use crate::ports::{UplinkState, lock};

/// How often viewers get news at most.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How often they get the status when nothing of it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// How often the spool's level is looked at.
const FLOW_EVERY: Duration = Duration::from_secs(1);

/// Where viewers come together. Lives in the dashboard's thread alone.
#[derive(Debug)]
pub(super) struct Hub {
    context: Context,
    viewers: AtomicUsize,
    arrival: Notify,
    flow: Mutex<Flow>,
    rates: Mutex<Rates>,
    view: View,
    ticks: watch::Sender<Arc<Tick>>,
}

/// What one tick found.
#[derive(Debug, Default)]
struct Tick {
    version: u64,
    changed: Vec<Arc<Slot>>,
    /// One for everybody, in the order of `changed`.
    messages: Vec<Message>,
    /// The newest status and the tick that made it.
    status: Utf8Bytes,
    status_version: u64,
    /// The tick that last found a device removed from the table.
    removal_version: u64,
    /// How many changes of commands there have been.
    commands: u64,
    /// The newest entry of the log.
    log: u64,
}

/// A text for everybody whom it concerns.
#[derive(Debug)]
enum Message {
    OfDevice(DeviceId, Utf8Bytes),
    /// Of the log: how serious it is, and the device it is about.
    Log(Level, Option<String>, Utf8Bytes),
}

impl Message {
    /// The text for a viewer with this filter.
    fn wanted(&self, filter: &Filter) -> Option<&Utf8Bytes> {
        match self {
            Self::OfDevice(device, text) => filter.wants_device(device).then_some(text),
            Self::Log(level, device, text) => {
                filter.wants_log(*level, device.as_deref()).then_some(text)
            }
        }
    }
}

/// What viewers must hear of at once, as opposed to each second.
#[derive(Debug, PartialEq)]
struct Urgent {
    uplink: Uplink,
    devices: Devices,
    fault: Option<String>,
    commands: Option<Commands>,
    buffering: bool,
    lost_readings: u64,
}

impl Hub {
    pub(super) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context,
            viewers: AtomicUsize::new(0),
            arrival: Notify::new(),
            flow: Mutex::default(),
            rates: Mutex::default(),
            view: View::default(),
            ticks: watch::Sender::new(Arc::default()),
        })
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// What `/api/v1/gateway` answers.
    pub(super) fn gateway(&self) -> Bytes {
        self.view.document(&self.context)
    }

    /// The status now.
    pub(super) fn status(&self) -> Status<'_> {
        let context = &self.context;
        let spool = context.health.spool();
        let written = context.wear.written();
        let spool = Spool::new(spool, context.clock.unix(), &lock(&self.flow), written);
        Status {
            gateway: &context.gateway,
            version: &context.version,
            uptime_s: (context.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            uplink: Uplink::new(context.health.uplink()),
            spool,
            devices: self.devices(),
            rates: lock(&self.rates).mean(),
            counts: Counts::new(&context.metrics),
            commands: Commands::new(context.health.ledger()),
            push: context.health.pushes().iter().map(|push| Push::new(push)).collect(),
        }
    }

    /// What will become of the spool.
    pub(super) fn forecast(&self) -> Forecast {
        let context = &self.context;
        status::forecast(&context.health.spool(), context.clock.unix(), &lock(&self.flow))
    }

    fn devices(&self) -> Devices {
        let fleet = &self.context.fleet;
        Devices { connected: fleet.connected(), known: fleet.known() }
    }

    fn urgent(&self) -> Urgent {
        let spool = self.context.health.spool();
        Urgent {
            uplink: Uplink::new(self.context.health.uplink()),
            devices: self.devices(),
            fault: spool.fault,
            commands: Commands::new(self.context.health.ledger()),
            buffering: spool.batches > 0,
            lost_readings: spool.lost_readings,
        }
    }

    /// Lets a viewer in, unless there are `max` already.
    pub(super) fn enter(self: &Arc<Self>, filter: Filter, max: usize) -> Option<Viewer> {
        let before = self.viewers.load(Ordering::Relaxed);
        if before >= max {
            return None;
        }
        self.viewers.store(before + 1, Ordering::Relaxed);
        self.context.metrics.viewers.inc();
        // Before the snapshot reads the slots: see `Fleet::watch`.
        self.context.fleet.watch(true);
        self.arrival.notify_one();
        if before == 0 {
            self.forget_last_tick();
        }
        Some(Viewer::new(Arc::clone(self), filter))
    }

    fn leave(&self) {
        self.viewers.fetch_sub(1, Ordering::Relaxed);
        self.context.metrics.viewers.dec();
    }

    /// Ticks while anyone watches; for ever.
    pub(super) async fn run(&self) {
        let mut scratch = Vec::new();
        loop {
            // After a panic there are viewers already.
            if self.viewers.load(Ordering::Relaxed) == 0 {
                self.arrival.notified().await;
            }
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = None;
            while self.viewers.load(Ordering::Relaxed) > 0 {
                interval.tick().await;
                self.tick(&mut scratch, &mut last);
            }
            self.context.fleet.watch(false);
            self.forget_last_tick();
        }
    }

    /// Nobody needs the last tick's texts any more; only its numbers go on. What became of commands
    /// and was logged while nobody watched is no news for who comes next.
    fn forget_last_tick(&self) {
        let commands = self.context.commands.book.count();
        let log = self.context.log.newest();
        self.ticks.send_modify(|tick| {
            let Tick { version, status_version, removal_version, .. } = **tick;
            let numbers =
                Tick { version, status_version, removal_version, commands, log, ..Tick::default() };
            *tick = Arc::new(numbers);
        });
    }

    /// Watches what comes in and goes out, how the spool fills, what is written to disk and what the
    /// history takes; for ever.
    pub(super) async fn watch_flow(&self) {
        let mut interval = tokio::time::interval(FLOW_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tending = Tending::default();
        loop {
            let now = interval.tick().await;
            let time = now.into_std().saturating_duration_since(self.context.started);
            let sample = self.sample(time.as_secs_f64());
            lock(&self.rates).sample(rates::Sample {
                time: sample.time,
                readings_in: sample.readings_in,
                readings_out: self.context.metrics.readings_published.get(),
            });
            lock(&self.flow).sample(sample);
            self.view.sample();
            let unix = self.context.clock.unix();
            tending.tend(&self.context.fleet, time.as_secs_f64(), unix);
            self.context.wear.watch();
        }
    }

    fn sample(&self, time: f64) -> Sample {
        let Context { health, metrics, .. } = &self.context;
        let spool = health.spool();
        let lost = |reason: LossReason| {
            metrics.readings_lost.get_or_create(&Reason { reason: reason.as_str() }).get()
        };
        Sample {
            time,
            connected: health.uplink().state == UplinkState::Connected,
            batches_in: metrics.batches_received.get(),
            readings_in: metrics.readings_received.get(),
            evicted_size: lost(LossReason::EvictedSize),
            evicted_age: lost(LossReason::EvictedAge),
            readings: spool.readings,
            bytes: spool.bytes,
        }
    }

    fn tick(&self, scratch: &mut Vec<Arc<Slot>>, last: &mut Option<(Instant, Urgent)>) {
        let before = Arc::clone(&self.ticks.borrow());
        let version = before.version + 1;
        self.context.fleet.collect(version, scratch);

        let now = Instant::now();
        let urgent = self.urgent();
        let due = last.as_ref().is_none_or(|(then, known)| {
            *known != urgent || now.duration_since(*then) >= STATUS_EVERY
        });
        let news = self.context.commands.book.news(before.commands);
        let entries = self.context.log.since(before.log);
        if scratch.is_empty() && news.records.is_empty() && entries.is_empty() && !due {
            return;
        }
        let (status, status_version) = if due {
            *last = Some((now, urgent));
            (self.status_message().into(), version)
        } else {
            (before.status.clone(), before.status_version)
        };
        let everyone = Filter::everything();
        let mut removal_version = before.removal_version;
        let mut messages = Vec::with_capacity(scratch.len());
        for slot in scratch.iter() {
            if lock(&slot.state).forgotten {
                removal_version = version;
            }
            for message in render::changes(slot, before.version, &everyone) {
                messages.push(Message::OfDevice(slot.id.clone(), message.into()));
            }
        }
        for record in &news.records {
            let text = render::command(record).into();
            messages.push(Message::OfDevice(record.device.clone(), text));
        }
        let newest = entries.last().map_or(before.log, |entry| entry.number);
        for (level, device, text) in log::messages(entries, &everyone) {
            messages.push(Message::Log(level, device, text.into()));
        }
        let changed = scratch.clone();
        self.ticks.send_replace(Arc::new(Tick {
            version,
            changed,
            messages,
            status,
            status_version,
            removal_version,
            commands: news.count,
            log: newest,
        }));
    }

    fn status_message(&self) -> String {
        let time = self.context.clock.unix();
        render::text(&StatusMessage { kind: "status", time, status: self.status() })
    }

    /// The beginning of a snapshot, up to where its devices stand.
    fn snapshot_head(&self) -> Vec<u8> {
        let mut head = b"{\"type\":\"snapshot\",\"gateway\":".to_vec();
        render::append(&mut head, &self.context.gateway);
        head.extend_from_slice(b",\"version\":");
        render::append(&mut head, &self.context.version);
        head.extend_from_slice(b",\"time\":");
        render::append(&mut head, &self.context.clock.unix());
        head.extend_from_slice(b",\"status\":");
        render::append(&mut head, &self.status());
        head.extend_from_slice(b",\"devices\":");
        head
    }
}
