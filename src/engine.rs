//! The one task that owns [`Delivery`] and performs its actions through the ports.
//!
//! A turn takes in everything that is ready (device batches, PUBACKs, fsyncs), lets delivery
//! decide once, performs what it says, and only then tells the connections. So one wake-up serves
//! as many batches as have arrived, the uplink is written once per turn, and a connection gets one
//! cumulative ACK for all that was settled.

mod commands;
mod homeassistant;
mod losses;
mod suspects;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, timeout_at};

use crate::core::batch::{Batch, Loss, value_weight};
use crate::core::clock::is_set;
use crate::core::command::{Answered, Now};
use crate::core::delivery::{Action, Delivery, LostLink, Path, Settings};
use crate::core::ids::{DeviceId, SessionId};
use crate::core::losses::{Burst, Reports};
use crate::core::senml::RejectCode;
use crate::metrics::{self, Metrics};
use crate::ports::{
    Announcement, Budget, Clock, DeviceEvent, DeviceFacts, DownCause, Feed, Health, Ledger, Link,
    Outbound, Publisher, Refused, RefusedKind, Resume, Spool, SpoolEvent, Submitted, UplinkEvent,
};

use commands::Commands;
pub use commands::{Parts, Permits};
pub use homeassistant::HomeAssistant;

/// Device events taken in one turn at most; each is the burst of one connection.
const EVENTS_PER_TURN: usize = 256;
/// Uplink events taken in one turn at most.
const ACKS_PER_TURN: usize = 4096;
/// Turns without giving way to other tasks.
const TURNS_PER_POLL: usize = 8;
/// How often the engine looks at the time though nothing arrives.
const TICK: Duration = Duration::from_millis(500);
/// How long a stopping engine waits for PUBACKs before it spools what is in flight.
const LAST_ACKS: Duration = Duration::from_secs(2);

/// Where epochs are drawn by lot: after all milliseconds since 1970 up to the year 2100, and exact in
/// a reader whose numbers are floats.
const LOTS: std::ops::Range<u64> = 1 << 42..1 << 52;

/// What the engine works with besides the uplink and the spool.
pub struct Shared {
    /// Unix time.
    pub clock: Arc<dyn Clock>,
    /// Memory for unsettled batches, shared with the connections.
    pub budget: Arc<Budget>,
    /// Dashboards.
    pub feed: Arc<dyn Feed>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// State for status pages.
    pub health: Arc<Health>,
    /// Shows that the engine turns.
    pub pulse: Arc<Pulse>,
}

/// Counts the engine's turns, so that a watchdog can tell a stuck engine from an idle one.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// The engine turns.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows at least every half second while the engine works.
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a stopped engine left things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything is settled.
    Settled,
    /// The grace time ran out first: what was not acknowledged is still with the devices.
    Unsettled,
}

/// See the module's documentation.
pub struct Engine<P, S, L> {
    delivery: Delivery,
    publisher: P,
    spool: S,
    commands: Commands<L>,
    inbox: mpsc::Receiver<DeviceEvent>,
    events: Vec<DeviceEvent>,
    links: HashMap<SessionId, Opened>,
    shared: Shared,
    ack_published: Histogram,
    ack_spooled: Histogram,
    started: Instant,
    tick: Pin<Box<Sleep>>,
    last_epoch: u64,
    gaps: u64,
    duplicates: u64,
    burst: Burst,
    reports: Reports,
    homeassistant: Option<HomeAssistant>,
}

struct Opened {
    device: DeviceId,
    link: Arc<Link>,
    facts: Arc<DeviceFacts>,
}

impl<P: Publisher, S: Spool, L: Ledger> Engine<P, S, L> {
    /// An engine that goes on with what the spool and the ledger hold.
    pub fn new(
        settings: Settings,
        publisher: P,
        spool: S,
        commands: commands::Parts<L>,
        inbox: mpsc::Receiver<DeviceEvent>,
        shared: Shared,
    ) -> Self {
        let opened = spool.opened();
        let ack = |path| shared.metrics.ack_seconds.get_or_create_owned(&metrics::Path { path });
        let beginning = Now { unix: shared.clock.unix(), mono: 0.0 };
        let mut engine = Self {
            commands: Commands::new(commands, beginning),
            delivery: Delivery::new(settings, opened.head, opened.tail, opened.progress),
            publisher,
            spool,
            inbox,
            events: Vec::with_capacity(EVENTS_PER_TURN),
            links: HashMap::new(),
            ack_published: ack("published"),
            ack_spooled: ack("spooled"),
            shared,
            started: Instant::now(),
            tick: Box::pin(tokio::time::sleep(TICK)),
            last_epoch: 0,
            gaps: 0,
            duplicates: 0,
            burst: Burst::default(),
            reports: Reports::default(),
            homeassistant: None,
        };
        engine.report_losses(opened.losses);
        engine
    }

    /// Tells Home Assistant about devices and readings from now on.
    #[must_use]
    pub fn announcing(mut self, homeassistant: Option<HomeAssistant>) -> Self {
        self.homeassistant = homeassistant;
        self
    }

    /// Works until `stop` is done, then settles what is left: waits a moment for PUBACKs, spools
    /// the rest, and closes the uplink and the spool, all within `grace`.
    pub async fn run(mut self, stop: impl Future<Output = ()>, grace: Duration) -> Stopped {
        let mut stop = pin!(stop);
        poll_fn(|cx| match stop.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.poll_until(cx, |_| false),
        })
        .await;
        // What the connections have handed over is still taken.
        self.inbox.close();
        let deadline = Instant::now() + grace;
        let last_acks = deadline.min(Instant::now() + LAST_ACKS.min(grace / 4));
        let _ = timeout_at(last_acks, self.settled()).await;
        self.delivery.stop(self.now());
        self.perform();
        let settled = timeout_at(deadline, self.settled()).await.is_ok();
        losses::log(self.burst.take());
        // What is handed over is on the disk or still the devices' own: these two are politeness.
        let _ = timeout_at(deadline, self.publisher.close()).await;
        let _ = timeout_at(deadline, self.spool.close()).await;
        let _ = timeout_at(deadline, self.commands.close()).await;
        if settled { Stopped::Settled } else { Stopped::Unsettled }
    }

    async fn settled(&mut self) {
        let settled = |engine: &Self| {
            engine.inbox.is_empty() && engine.delivery.is_settled() && engine.commands.is_settled()
        };
        poll_fn(|cx| self.poll_until(cx, settled)).await;
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, end: impl Fn(&Self) -> bool) -> Poll<()> {
        for _ in 0..TURNS_PER_POLL {
            let progress = self.turn(cx);
            if end(self) {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes in what is ready and acts on it. Returns whether there was anything; where there was
    /// not, every source will wake the task.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.now();
        self.shared.pulse.beat();
        let mut progress = false;
        for _ in 0..ACKS_PER_TURN {
            let Poll::Ready(event) = self.publisher.poll_event(cx) else { break };
            self.uplink_event(event, now);
            progress = true;
        }
        while let Poll::Ready(event) = self.spool.poll_event(cx) {
            self.spool_event(event, now);
            progress = true;
        }
        let mut events = std::mem::take(&mut self.events);
        if let Poll::Ready(1..) = self.inbox.poll_recv_many(cx, &mut events, EVENTS_PER_TURN) {
            for event in events.drain(..) {
                self.device_event(event, now);
            }
            progress = true;
        }
        self.events = events;
        let command_time = self.command_time(now);
        progress |= self.commands.poll(cx, command_time);
        if self.tick.as_mut().poll(cx).is_ready() {
            progress = true;
        }
        if let Some(sums) = self.burst.due(now) {
            losses::log(sums);
        }
        if progress {
            self.publish_losses();
            self.delivery.pump(self.publisher.room(), now);
            self.perform();
            let links = &self.links;
            let link = |session| links.get(&session).map(|opened: &Opened| &*opened.link);
            self.commands.pump(&mut self.publisher, link, command_time);
            if let Some(homeassistant) = &mut self.homeassistant {
                homeassistant.pump(&mut self.publisher, now);
            }
            self.set_tick(command_time);
        }
        progress
    }

    fn command_time(&self, now: f64) -> Now {
        Now { unix: self.shared.clock.unix(), mono: now }
    }

    fn set_tick(&mut self, now: Now) {
        let announcement = self.homeassistant.as_ref().and_then(|h| h.next_wake(now.mono));
        let wait = [self.delivery.next_wake(now.mono), self.commands.next_wake(now), announcement]
            .into_iter()
            .flatten()
            .reduce(f64::min)
            .map_or(TICK, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(TICK).min(TICK));
        let next = Instant::now() + wait;
        // Moving a timer costs more than a wake-up that comes a little early.
        if self.tick.is_elapsed() || next < self.tick.deadline() {
            self.tick.as_mut().reset(next);
        }
    }

    fn device_event(&mut self, event: DeviceEvent, now: f64) {
        match event {
            DeviceEvent::Opened { session, device, epoch, link, facts, welcome } => {
                let drawn = self.draw_epoch();
                let (epoch, acked) = self.delivery.open(session, &device, epoch, drawn);
                self.shared.feed.device_opened(&device, epoch, acked);
                // A connection that gave up meanwhile reports Closed next.
                let _ = welcome.send(Resume { epoch, acked });
                self.announce_device(&device, "online", facts.since, &facts);
                if let Some(homeassistant) = &mut self.homeassistant {
                    homeassistant.hello(&device, &facts);
                }
                self.commands.opened(session, &device, &facts.commands);
                self.links.insert(session, Opened { device, link, facts });
            }
            DeviceEvent::Batches { session, batches } => self.batches(session, batches, now),
            DeviceEvent::Result { session, id, ok, value } => {
                self.shared.budget.give_back(value_weight(&value));
                let answered = Answered { id, ok, value };
                self.commands.answered(session, answered, self.command_time(now));
            }
            DeviceEvent::Closed { session } => {
                self.commands.closed(session);
                let was_current = self.delivery.close(session, now);
                let gone = self.links.remove(&session).filter(|_| was_current);
                if let Some(Opened { device, facts, .. }) = gone {
                    self.announce_device(&device, "offline", self.shared.clock.unix(), &facts);
                }
            }
        }
    }

    fn batches(&mut self, session: SessionId, batches: Vec<Submitted>, now: f64) {
        let metrics = &self.shared.metrics;
        let before = self.delivery.counts();
        for submitted in batches {
            match submitted {
                Submitted::Rejected(seq) => self.delivery.take_rejected(session, seq),
                Submitted::Batch(batch) => {
                    let weight = batch.weight();
                    if self.delivery.take(session, batch.clone(), weight, now) {
                        metrics.readings_received.inc_by(batch.readings.len() as u64);
                        self.shared.feed.readings(&batch);
                        if let Some(homeassistant) = &mut self.homeassistant {
                            homeassistant.readings(&batch);
                        }
                    } else {
                        self.shared.budget.give_back(weight);
                    }
                }
            }
        }
        let (gaps, duplicates) = self.delivery.counts();
        if before == (gaps, duplicates) {
            return;
        }
        if let Some(opened) = self.links.get(&session) {
            self.shared.feed.irregular(&opened.device, gaps - before.0, duplicates - before.1);
        }
    }

    fn uplink_event(&mut self, event: UplinkEvent, now: f64) {
        match event {
            UplinkEvent::Published(token) => self.delivery.published(token),
            UplinkEvent::Refused { token, reason } => self.delivery.refused(token, reason, now),
            UplinkEvent::Up { failed_attempts } => {
                self.delivery.uplink_up(failed_attempts, now);
                self.commands.uplink_up(failed_attempts);
                if let Some(homeassistant) = &mut self.homeassistant {
                    homeassistant.connected();
                }
            }
            UplinkEvent::Down { cause, .. } => {
                self.reports.disconnected();
                self.commands.uplink_down(cause);
                if let Some(homeassistant) = &mut self.homeassistant {
                    homeassistant.disconnected();
                }
                let cause = match cause {
                    DownCause::ClosedByBroker => LostLink::ClosedByBroker,
                    DownCause::PacketRefused => LostLink::PacketRefused,
                    DownCause::Silent => LostLink::Silent,
                };
                self.delivery.uplink_down(cause, now);
            }
            UplinkEvent::Sent(token) => self.sent(token),
            UplinkEvent::SendRefused { token, reason } => self.send_refused(token, &reason),
            UplinkEvent::Request(request) => {
                self.commands.requested(request, self.command_time(now));
            }
        }
    }

    fn spool_event(&mut self, event: SpoolEvent, now: f64) {
        match event {
            SpoolEvent::Durable { through } => self.delivery.durable(through),
            SpoolEvent::Loaded { batches, next, losses } => {
                self.report_losses(losses);
                self.delivery.loaded(batches, next, now);
            }
            SpoolEvent::Evicted { through, losses } => {
                self.report_losses(losses);
                self.delivery.evicted(through);
            }
            SpoolEvent::Lost { losses } => self.report_losses(losses),
            SpoolEvent::Report { number, loss } => {
                self.reports.push(number, loss);
            }
            // The spool has said why in the log.
            SpoolEvent::Stalled { .. } | SpoolEvent::Resumed => {}
            SpoolEvent::Full(full) => {
                self.shared.health.set_spool(|spool| spool.full = full);
            }
        }
    }

    /// Performs what delivery decided and tells the connections.
    fn perform(&mut self) {
        let now = self.now();
        let metrics = self.shared.metrics.clone();
        let base = self.shared.clock.moment().base;
        let mut freed = 0;
        let mut losses = Vec::new();
        for action in self.delivery.actions() {
            match action {
                Action::Publish { token, batch, spooled } => {
                    match batch.base.correction(batch.received, &base) {
                        None => self.publisher.publish(token, &batch, spooled),
                        Some(shift) => {
                            // The clock was set after it came.
                            let mut corrected = Batch::clone(&batch);
                            corrected.correct(shift);
                            self.publisher.publish(token, &corrected, spooled);
                        }
                    }
                }
                Action::Append { position, batch } => self.spool.append(position, batch),
                Action::Load { from, max_bytes } => self.spool.load(from, max_bytes),
                Action::Release { through } => self.spool.release(through),
                Action::Settled { path, arrived, readings, freed: weight } => {
                    freed += weight;
                    match path {
                        Path::Published => self.ack_published.observe(now - arrived),
                        Path::Spooled => {
                            self.ack_spooled.observe(now - arrived);
                            metrics.readings_spooled.inc_by(readings);
                        }
                        Path::Refused => {}
                    }
                }
                Action::Published { readings } => {
                    metrics.readings_published.inc_by(readings);
                }
                Action::Lost(loss) => {
                    // Delivery knows no wall clock.
                    let loss = Loss { time: self.shared.clock.unix(), ..loss };
                    // Before the release that follows: its record is not forgotten.
                    self.spool.lost(loss.clone());
                    losses.push(loss);
                }
                Action::Reject { session, seq, reason } => {
                    if let Some(opened) = self.links.get(&session) {
                        let code = RejectCode::RefusedByBroker;
                        let label = metrics::Code { code: code.as_str() };
                        metrics.batches_rejected.get_or_create(&label).inc();
                        let (code, time) = (code.code(), self.shared.clock.unix());
                        let refused =
                            Refused { kind: RefusedKind::Batch, code, reason: &reason, time };
                        self.shared.feed.refused(&opened.device, &refused);
                        opened.link.send(Outbound::Reject { seq, code, reason });
                    }
                }
            }
        }
        if freed > 0 {
            self.shared.budget.give_back(freed);
        }
        self.report_losses(losses);
        let links = &self.links;
        self.delivery.updates(|update| {
            if let Some(opened) = links.get(&update.session) {
                if update.repeat {
                    opened.link.repeat_ack();
                }
                opened.link.settle(update.acked, update.finished);
            }
        });
        let (gaps, duplicates) = self.delivery.counts();
        metrics.sequence_gaps.inc_by(gaps - std::mem::replace(&mut self.gaps, gaps));
        metrics.duplicates.inc_by(duplicates - std::mem::replace(&mut self.duplicates, duplicates));
    }

    fn announce_device(&mut self, device: &DeviceId, state: &str, since: f64, facts: &DeviceFacts) {
        let status = json!({
            "state": state,
            "since": since,
            "model": facts.model,
            "firmware": facts.firmware,
        });
        self.announce(format!("devices/{device}/status"), &status, true);
    }

    fn announce(&mut self, topic: String, payload: &serde_json::Value, retain: bool) {
        let payload = payload.to_string().into_bytes();
        self.publisher.announce(Announcement { topic, payload, retain });
    }

    /// An epoch for a connection that named none: unique, and growing while the process lives and
    /// over restarts as long as the clock does not go back. Where the clock was not set at the start
    /// it is drawn by lot, or a board that starts in 1970 every time would draw the same ones again.
    fn draw_epoch(&mut self) -> u64 {
        let now = self.shared.clock.unix();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "milliseconds since 1970 fit"
        )]
        let earliest = match self.last_epoch {
            0 if !is_set(now) => rand::random_range(LOTS),
            _ => (now * 1000.0) as u64,
        };
        self.last_epoch = earliest.max(self.last_epoch + 1);
        self.last_epoch
    }

    /// Seconds since the engine was made.
    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
