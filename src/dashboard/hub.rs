//! Ticks and viewers.
//!
//! Ten times a second, while anyone watches, a tick collects what changed and renders it once for
//! everybody. A viewer keeps no queue, only the number of the last tick it has sent: one that
//! keeps pace sends the shared texts, one that was still busy gets the newest value of everything
//! that changed since. So a slow viewer costs neither memory nor anyone else's time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::log::Level;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Utf8Bytes;

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

/// A snapshot is sent in pieces of about this many bytes.
const PIECE: usize = 32 * 1024;

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
        let ticks = self.ticks.subscribe();
        let mut viewer = Viewer {
            hub: Arc::clone(self),
            filter,
            cursor: 0,
            commands: 0,
            log: 0,
            ticks,
            pending: Pending::Nothing,
        };
        viewer.start_over();
        Some(viewer)
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

/// A JSON array of devices, rendered piece by piece, so that it need not be in memory whole.
#[derive(Debug)]
pub(super) struct DeviceList {
    slots: std::vec::IntoIter<Arc<Slot>>,
    started: bool,
    finished: bool,
}

impl DeviceList {
    pub(super) fn new(context: &Context, filter: &Filter) -> Self {
        let slots = match filter.devices() {
            Some(wanted) => {
                wanted.iter().filter_map(|id| context.fleet.slot(id.as_str())).collect()
            }
            None => context.fleet.slots(),
        };
        Self { slots: slots.into_iter(), started: false, finished: false }
    }

    /// Appends the next piece to `out`. Returns whether it was the last.
    pub(super) fn append_piece(&mut self, filter: &Filter, out: &mut Vec<u8>) -> bool {
        if self.finished {
            return true;
        }
        if !self.started {
            out.push(b'[');
        }
        while out.len() < PIECE {
            let Some(slot) = self.slots.next() else {
                out.push(b']');
                self.finished = true;
                return true;
            };
            if std::mem::replace(&mut self.started, true) {
                out.push(b',');
            }
            render::device(&slot, filter, out);
        }
        false
    }
}

/// One connection to the feed.
#[derive(Debug)]
pub(super) struct Viewer {
    hub: Arc<Hub>,
    filter: Filter,
    /// The last tick whose news have been taken.
    cursor: u64,
    /// The changes of commands up to there.
    commands: u64,
    /// The newest entry of the log up to there.
    log: u64,
    ticks: watch::Receiver<Arc<Tick>>,
    pending: Pending,
}

/// What is still to be sent of the news taken last.
#[derive(Debug)]
enum Pending {
    Nothing,
    Snapshot {
        list: DeviceList,
        begun: bool,
    },
    Shared {
        tick: Arc<Tick>,
        next: usize,
        status: bool,
    },
    Own {
        slots: std::vec::IntoIter<Arc<Slot>>,
        since: u64,
        texts: Vec<String>,
        status: Option<Utf8Bytes>,
    },
}

/// A message of the feed or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Whole(Utf8Bytes),
    First(Bytes),
    Middle(Bytes),
    Last(Bytes),
}

impl Viewer {
    /// Waits for news; false when there will be none any more. Cancel safe.
    pub(super) async fn changed(&mut self) -> bool {
        if self.ticks.changed().await.is_err() {
            return false;
        }
        self.take();
        true
    }

    /// The next piece to send, until there is none for now.
    pub(super) fn next(&mut self) -> Option<Piece> {
        match &mut self.pending {
            Pending::Nothing => None,
            Pending::Snapshot { list, begun } => {
                let first = !std::mem::replace(begun, true);
                let mut bytes = if first { self.hub.snapshot_head() } else { Vec::new() };
                let last = list.append_piece(&self.filter, &mut bytes);
                if last {
                    bytes.push(b'}');
                    self.pending = Pending::Nothing;
                }
                Some(match (first, last) {
                    (true, true) => Piece::Whole(String::from_utf8(bytes).ok()?.into()),
                    (true, false) => Piece::First(bytes.into()),
                    (false, false) => Piece::Middle(bytes.into()),
                    (false, true) => Piece::Last(bytes.into()),
                })
            }
            Pending::Shared { tick, next, status } => {
                while let Some(message) = tick.messages.get(*next) {
                    *next += 1;
                    if let Some(text) = message.wanted(&self.filter) {
                        return Some(Piece::Whole(text.clone()));
                    }
                }
                let message = std::mem::take(status).then(|| tick.status.clone());
                self.finish(message)
            }
            Pending::Own { slots, since, texts, status } => loop {
                if let Some(text) = texts.pop() {
                    return Some(Piece::Whole(text.into()));
                }
                let Some(slot) = slots.next() else {
                    let message = status.take();
                    return self.finish(message);
                };
                if self.filter.wants_device(&slot.id) {
                    texts.extend(render::changes(&slot, *since, &self.filter));
                    texts.reverse();
                }
            },
        }
    }

    fn finish(&mut self, status: Option<Utf8Bytes>) -> Option<Piece> {
        self.pending = Pending::Nothing;
        status.map(Piece::Whole)
    }

    /// Takes what is new since the last time.
    fn take(&mut self) {
        let tick = Arc::clone(&self.ticks.borrow_and_update());
        let since = std::mem::replace(&mut self.cursor, tick.version);
        let commands = std::mem::replace(&mut self.commands, tick.commands);
        let logged = std::mem::replace(&mut self.log, tick.log);
        let status = tick.status_version > since;
        let keeps_pace = since + 1 == tick.version;
        self.pending = if since >= tick.version {
            Pending::Nothing
        } else if keeps_pace && self.filter.takes_any_name() {
            Pending::Shared { tick, next: 0, status }
        } else if keeps_pace || tick.removal_version <= since {
            let slots =
                if keeps_pace { tick.changed.clone() } else { self.hub.context.fleet.slots() };
            let status = status.then(|| tick.status.clone());
            let news = self.hub.context.commands.book.news(commands);
            let wanted = news.records.iter().rev().filter(|r| self.filter.wants_device(&r.device));
            let entries = self.hub.context.log.since(logged);
            let entries = entries.into_iter().filter(|entry| entry.number <= tick.log).collect();
            let mut texts: Vec<_> =
                log::messages(entries, &self.filter).map(|(_, _, text)| text).collect();
            // Taken from the end.
            texts.reverse();
            texts.extend(wanted.map(|record| render::command(record)));
            Pending::Own { slots: slots.into_iter(), since, texts, status }
        } else {
            // A removed device is in no list any more; only a new snapshot can tell.
            return self.start_over();
        };
    }

    fn start_over(&mut self) {
        let tick = Arc::clone(&self.ticks.borrow_and_update());
        (self.cursor, self.commands, self.log) = (tick.version, tick.commands, tick.log);
        let list = DeviceList::new(&self.hub.context, &self.filter);
        self.pending = Pending::Snapshot { list, begun: false };
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::Value as Json;

    use super::*;
    use crate::core::batch::{Batch, Reading, Value};
    use crate::core::clock::Base;
    use crate::dashboard::{Fleet, Limits};
    use crate::ports::{Clock, CommandAccess, DeviceFacts, Feed};

    struct Stopped;

    impl Clock for Stopped {
        fn unix(&self) -> f64 {
            1_763_800_000.0
        }
    }

    fn settings() -> watch::Receiver<Arc<crate::config::Settings>> {
        let host = crate::config::Surroundings::default();
        let text = "gateway.id = \"gw-1\"";
        let settings = crate::config::Settings::parse(text, "t.toml".as_ref(), &host).unwrap();
        watch::Sender::new(Arc::new(settings)).subscribe()
    }

    fn hub(limits: Limits) -> Arc<Hub> {
        Hub::new(Context {
            gateway: "gw-1".into(),
            version: "1".into(),
            fleet: Arc::new(Fleet::with_limits(limits)),
            health: Arc::default(),
            metrics: Arc::default(),
            commands: CommandAccess::new(1024).0,
            clock: Arc::new(Stopped),
            wear: Arc::new(crate::host::wear::Wear::new(Arc::new(Stopped))),
            started: Instant::now(),
            listening: Arc::default(),
            budget: Arc::new(crate::ports::Budget::new(1024)),
            audit: Arc::default(),
            log: Arc::default(),
            settings: settings(),
            origins: Arc::default(),
        })
    }

    /// Ticks without a due status.
    struct Ticker {
        scratch: Vec<Arc<Slot>>,
    }

    impl Ticker {
        fn tick(&mut self, hub: &Hub) {
            let mut last = Some((tokio::time::Instant::now(), hub.urgent()));
            hub.tick(&mut self.scratch, &mut last);
        }
    }

    fn up(hub: &Hub, device: &str) {
        let device = DeviceId::new(device).unwrap();
        hub.context.fleet.device_up(&device, &DeviceFacts::default());
    }

    fn send(hub: &Hub, device: &str, value: f64) {
        let reading = Reading {
            name: "x".into(),
            unit: None,
            value: Some(Value::Number(value)),
            sum: None,
            time: value,
            update_time: None,
            relative: false,
        };
        let device = DeviceId::new(device).unwrap();
        let readings = vec![reading];
        let batch = Batch {
            device,
            epoch: 1,
            seq: None,
            received: value,
            base: Base::default(),
            shift: 0.0,
            readings,
        };
        hub.context.fleet.readings(&Arc::new(batch));
    }

    /// Everything the viewer has to send now.
    fn drain(viewer: &mut Viewer) -> Vec<Json> {
        let mut parts = Vec::new();
        let mut messages = Vec::new();
        while let Some(piece) = viewer.next() {
            match piece {
                Piece::Whole(text) => messages.push(text.to_string()),
                Piece::First(bytes) | Piece::Middle(bytes) => parts.extend_from_slice(&bytes),
                Piece::Last(bytes) => {
                    parts.extend_from_slice(&bytes);
                    messages.push(String::from_utf8(std::mem::take(&mut parts)).unwrap());
                }
            }
        }
        messages.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn news(viewer: &mut Viewer) -> Vec<Json> {
        viewer.take();
        drain(viewer)
    }

    #[test]
    fn a_viewer_too_many_is_not_let_in_until_one_leaves() {
        let hub = hub(Limits::default());
        let first = hub.enter(Filter::default(), 2).unwrap();
        let second = hub.enter(Filter::default(), 2);
        assert!(second.is_some());
        assert!(hub.enter(Filter::default(), 2).is_none());
        drop(first);
        assert_eq!(hub.context.metrics.viewers.get(), 1);
        assert!(hub.enter(Filter::default(), 2).is_some());
    }

    #[test]
    fn viewers_that_keep_pace_share_one_text() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewers: Vec<_> =
            (0..2).map(|_| hub.enter(Filter::default(), 9).unwrap()).collect();
        for viewer in &mut viewers {
            assert_eq!(drain(viewer).len(), 1);
        }
        send(&hub, "a", 1.0);
        ticker.tick(&hub);
        let texts: Vec<_> = viewers
            .iter_mut()
            .map(|viewer| {
                viewer.take();
                let Some(Piece::Whole(text)) = viewer.next() else { panic!("no message") };
                text.as_ptr()
            })
            .collect();
        assert_eq!(texts[0], texts[1]);
    }

    #[test]
    fn a_viewer_that_missed_ticks_gets_each_newest_value_once() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        for device in ["a", "b", "c"] {
            up(&hub, device);
        }
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        drain(&mut viewer);
        for round in 1..=20_u32 {
            send(&hub, "a", f64::from(round));
            if round == 7 {
                send(&hub, "b", 7.0);
            }
            ticker.tick(&hub);
        }
        let messages = news(&mut viewer);
        let told: Vec<_> = messages
            .iter()
            .map(|m| (m["device"].as_str().unwrap(), m["readings"][0]["v"].as_f64().unwrap()))
            .collect();
        assert_eq!(told, [("a", 20.0), ("b", 7.0)]);
        assert!(news(&mut viewer).is_empty());
    }

    #[test]
    fn a_viewer_that_missed_a_removal_starts_over() {
        let hub = hub(Limits { devices: 1, ..Limits::default() });
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        drain(&mut viewer);
        hub.context.fleet.device_down(&DeviceId::new("a").unwrap(), 1.0);
        up(&hub, "b");
        ticker.tick(&hub);
        send(&hub, "b", 1.0);
        ticker.tick(&hub);
        let messages = news(&mut viewer);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0]["type"], "snapshot");
        assert_eq!(messages[0]["devices"][0]["id"], "b");
    }

    #[test]
    fn a_change_between_entering_and_the_first_tick_is_not_missed() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        let snapshot = drain(&mut viewer);
        assert_eq!(snapshot[0]["devices"][0]["readings"], serde_json::json!({}));
        send(&hub, "a", 3.0);
        ticker.tick(&hub);
        assert_eq!(news(&mut viewer)[0]["readings"][0]["v"], 3.0);
    }
}
