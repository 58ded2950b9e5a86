//! The writer thread: gathers what the engine adds, commits it in groups, reads back, deletes.
//!
//! ```text
//! Append ──► pending ──(pace)──► chunks ──► room? ──► insert, flush, sync ──► Durable
//!                ▲                            │ no: evict or wait    │ failed: Stalled, each second
//!                └────────────────────────────┴──────────────────────┘
//! ```
//!
//! Nothing leaves `pending` before it is durable or released, whatever fails.

mod reserve;
mod telling;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::catalog::Catalog;
use super::chunk::{self, Chunk};
use super::inbox::{Command, Inbox, Taken, WakeFor};
use super::pace::Pace;
use crate::config::{SpoolSettings, WhenFull};
use crate::core::batch::{Batch, LossReason};
use crate::core::ids::Position;
use crate::ports::{Clock, Health, SpoolEvent};

/// Memory of the batches that are committed together at most; and no more than a generation.
const GROUP_MAX: usize = 512 * 1024;
/// Between two attempts while the disk refuses.
const RETRY: Duration = Duration::from_secs(1);
/// How late `marks` may know of a release: what a kill makes come twice.
const MARKS_LATE: Duration = Duration::from_millis(50);
/// How long an empty database is kept, for the case that more comes.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is made sure that nobody has deleted the files.
const LOOK: Duration = Duration::from_secs(1);
/// What one thing may take before the thread counts as stuck: much longer than a card that is busy with
/// itself makes a commit wait.
const STUCK: Duration = Duration::from_secs(30);
/// What the disk may take for a value besides its own bytes, and for a commit.
const VALUE_COST: u64 = 160;
const COMMIT_COST: u64 = 64 * 1024;

/// The limits that the operator set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes on the disk.
    pub(super) max_bytes: u64,
    /// Bytes that are left to others.
    pub(super) reserve: u64,
    /// Seconds.
    pub(super) max_age: f64,
    /// What happens at the limit.
    pub(super) when_full: WhenFull,
}

impl Limits {
    /// From the settings.
    #[must_use]
    pub(super) fn new(settings: &SpoolSettings) -> Self {
        Self {
            max_bytes: settings.max_bytes,
            reserve: settings.reserve,
            max_age: settings.max_age.as_secs_f64(),
            when_full: settings.when_full,
        }
    }
}

/// Where the writer shows how it is doing.
pub(super) struct Outside {
    /// To the engine.
    pub(super) events: mpsc::UnboundedSender<SpoolEvent>,
    /// For the status page and the counters.
    pub(super) health: Arc<Health>,
    /// What time it is.
    pub(super) clock: Arc<dyn Clock>,
}

/// See the module.
pub(super) struct Writer {
    inbox: Arc<Inbox>,
    out: Outside,
    catalog: Catalog,
    limits: Limits,
    started: Instant,
    now: Duration,
    pending: VecDeque<(Position, Arc<Batch>)>,
    pending_bytes: usize,
    pending_since: Duration,
    pace: Pace,
    loads: VecDeque<(Position, usize)>,
    loads_from: Duration,
    stalled: Option<Duration>,
    /// `block` holds the batches back; what the disk held when it began.
    full: Option<u64>,
    marks_due: Option<Duration>,
    drained_since: Option<Duration>,
    reclaim_from: Duration,
    show_due: Duration,
    look_from: Duration,
    losses_from: Duration,
    /// When each was logged last.
    complained: BTreeMap<&'static str, Duration>,
    changed: bool,
    waiting: bool,
    closing: Option<oneshot::Sender<()>>,
}

impl Writer {
    /// A writer for what `catalog` holds.
    #[must_use]
    pub(super) fn new(inbox: Arc<Inbox>, out: Outside, catalog: Catalog, limits: Limits) -> Self {
        Self {
            inbox,
            out,
            catalog,
            limits,
            started: Instant::now(),
            now: Duration::ZERO,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_since: Duration::ZERO,
            pace: Pace::default(),
            loads: VecDeque::new(),
            loads_from: Duration::ZERO,
            stalled: None,
            full: None,
            marks_due: None,
            drained_since: None,
            reclaim_from: Duration::ZERO,
            show_due: Duration::ZERO,
            look_from: LOOK,
            losses_from: Duration::ZERO,
            complained: BTreeMap::new(),
            changed: true,
            waiting: false,
            closing: None,
        }
    }

    /// Works until it is closed or abandoned.
    pub(super) fn run(&mut self) {
        self.step();
        loop {
            let deadline = self.deadline().map(|at| self.started + at);
            let wake = WakeFor {
                appends: self.pending.is_empty() && self.stalled.is_none(),
                releases: self.marks_due.is_none(),
            };
            self.out.health.parts().spool.rest();
            let taken = self.inbox.take(deadline, wake);
            self.gets_on();
            if taken.abandoned {
                return;
            }
            self.now = self.started.elapsed();
            self.accept(taken);
            self.step();
            if let Some(answer) = self.closing.take() {
                self.gets_on();
                self.catalog.save_marks();
                // Also what a power cut shall not forget.
                if let Err(error) = self.catalog.losses.save_through() {
                    tracing::warn!(%error, "the records of losses cannot be written");
                }
                self.out.health.set_spool(|spool| spool.open = false);
                // Nobody may be waiting any more.
                let _ = answer.send(());
                return;
            }
        }
    }

    /// For whoever watches over the thread; between any two there is little to do.
    fn gets_on(&self) {
        self.out.health.parts().spool.within(STUCK);
    }

    fn accept(&mut self, taken: Taken) {
        for command in taken.commands {
            match command {
                Command::Append(position, batch) => {
                    if self.pending.is_empty() {
                        self.pending_since = self.now;
                    }
                    self.pending_bytes += batch.weight();
                    self.pending.push_back((position, batch));
                    self.pace.came(self.now);
                    self.drained_since = None;
                }
                Command::Load(from, max_bytes) => self.loads.push_back((from, max_bytes)),
                Command::Lost(loss) => self.catalog.losses.add([loss]),
                Command::Published(through) => self.catalog.losses.published(through),
                Command::Close(answer) => self.closing = Some(answer),
            }
        }
        let Some(through) = taken.released.filter(|through| *through >= self.catalog.head()) else {
            return;
        };
        while let Some((_, batch)) = self.pending.pop_front_if_released(through) {
            self.pending_bytes -= batch.weight();
        }
        self.catalog.release(through);
        self.changed = true;
        self.marks_due.get_or_insert(self.now + MARKS_LATE);
    }

    fn step(&mut self) {
        let moment = self.out.clock.moment();
        let wall = moment.unix;
        self.catalog.observe(moment);
        if self.look_from <= self.now {
            self.look(wall);
        }
        self.load(wall);
        // First what gives room, then what takes it.
        self.evict_old(wall);
        self.gets_on();
        self.reclaim(wall);
        self.commit(wall);
        self.report();
        if self.marks_due.is_some_and(|due| due <= self.now) {
            self.marks_due = None;
            self.catalog.save_marks();
        }
        if self.show_due <= self.now || self.closing.is_some() {
            self.show();
        }
    }

    /// When something is to be done that nobody asks for.
    fn deadline(&self) -> Option<Duration> {
        let commit = match (self.stalled, self.full) {
            _ if self.pending.is_empty() => self.stalled,
            (Some(retry), _) => Some(retry),
            (None, Some(_)) => None,
            (None, None) => {
                let due = self.pace.due(self.pending_since, self.pending_bytes);
                Some(self.pace.look(self.now, due))
            }
        };
        let load = (!self.loads.is_empty()).then_some(self.loads_from);
        let reclaim = self
            .drained_since
            .filter(|_| !self.catalog.is_empty())
            .map(|since| (since + LINGER).max(self.reclaim_from));
        let show = (self.changed || self.waiting).then_some(self.show_due);
        let losses = self.catalog.losses.is_dirty().then_some(self.losses_from);
        [commit, load, reclaim, losses, self.marks_due, show].into_iter().flatten().min()
    }

    fn send(&self, event: SpoolEvent) {
        // Nobody listens any more: the end is near.
        let _ = self.out.events.send(event);
    }

    fn load(&mut self, wall: f64) {
        while let Some(&(from, max_bytes)) =
            self.loads.front().filter(|_| self.loads_from <= self.now)
        {
            self.gets_on();
            match self.catalog.load(from, max_bytes, wall) {
                Ok(loaded) => {
                    self.loads.pop_front();
                    self.changed |= !loaded.losses.is_empty();
                    self.send(SpoolEvent::Loaded {
                        batches: loaded.batches,
                        next: loaded.next,
                        losses: loaded.losses,
                    });
                }
                Err(error) => {
                    self.complain("the spool cannot be read, trying again", &error);
                    self.loads_from = self.now + RETRY;
                }
            }
        }
    }

    /// Has somebody deleted something?
    fn look(&mut self, wall: f64) {
        self.look_from = self.now + LOOK;
        if self.catalog.is_empty() {
            return;
        }
        if let Err(error) = self.catalog.look(wall) {
            return self.stall(&error.to_string());
        }
        let losses = self.catalog.take_untold();
        if !losses.is_empty() {
            self.changed = true;
            self.send(SpoolEvent::Lost { losses });
        }
    }

    /// Hands out what is to be published and remembers what is still to be.
    fn report(&mut self) {
        for (number, loss) in self.catalog.losses.hand_out() {
            self.send(SpoolEvent::Report { number, loss });
        }
        if self.losses_from <= self.now || self.closing.is_some() {
            if let Err(error) = self.catalog.losses.save() {
                self.complain("the records of losses cannot be written yet", &error);
                self.losses_from = self.now + RETRY;
            }
        }
    }

    fn commit(&mut self, wall: f64) {
        while !self.pending.is_empty() {
            self.gets_on();
            let due = match self.stalled {
                Some(retry) => retry,
                None => self.pace.due(self.pending_since, self.pending_bytes),
            };
            let held = self.full.is_some_and(|used| self.catalog.used() >= used);
            if held || (due > self.now && self.closing.is_none()) {
                return;
            }
            let group = self.take_group();
            let chunks = chunk::build(&group, self.catalog.head(), self.catalog.next());
            let result = match self.make_room(cost(&chunks), wall) {
                Ok(true) => {
                    let began = self.now;
                    let done = self.catalog.commit(chunks, &group);
                    self.pace.committed(began, self.started.elapsed());
                    done.map_err(|error| error.to_string())
                }
                Ok(false) => return self.put_back(group),
                Err(error) => Err(error),
            };
            self.changed = true;
            match (result, group.last()) {
                (Ok(()), Some(&(through, _))) => {
                    self.resume();
                    // Whoever has an ACK finds its batch counted.
                    self.show();
                    self.send(SpoolEvent::Durable { through });
                }
                (Ok(()), None) => {}
                (Err(error), _) => {
                    self.put_back(group);
                    return self.stall(&error);
                }
            }
            self.now = self.started.elapsed();
            self.pending_since = self.now;
        }
        self.unblock();
        if self.stalled.is_some_and(|retry| retry <= self.now) {
            // Nothing is left to write; whether it would work shows with the next batch.
            self.resume();
        }
    }

    fn take_group(&mut self) -> Vec<(Position, Arc<Batch>)> {
        let mut bytes = 0;
        let mut group = Vec::new();
        let generation = usize::try_from(self.catalog.bounds().bytes).unwrap_or(GROUP_MAX);
        let base = self.pending.front().map(|(_, batch)| batch.base).unwrap_or_default();
        // A generation is of one clock.
        let fits = |(_, batch): &(Position, Arc<Batch>)| batch.base.is_like(&base);
        while bytes < GROUP_MAX.min(generation) && self.pending.front().is_some_and(fits) {
            let Some((position, batch)) = self.pending.pop_front() else { break };
            bytes += batch.weight();
            group.push((position, batch));
        }
        self.pending_bytes -= bytes;
        group
    }

    fn put_back(&mut self, group: Vec<(Position, Arc<Batch>)>) {
        for (position, batch) in group.into_iter().rev() {
            self.pending_bytes += batch.weight();
            self.pending.push_front((position, batch));
        }
    }

    /// Sees to it that `need` more bytes are within the limit. Not, where the engine has to wait.
    fn make_room(&mut self, need: u64, wall: f64) -> Result<bool, String> {
        while !self.catalog.is_empty() && self.catalog.used() + need > self.limits.max_bytes {
            self.gets_on();
            let before = self.catalog.used();
            if !self.catalog.drop_damaged() {
                self.catalog.reclaim(false, wall).map_err(|error| error.to_string())?;
            }
            if self.catalog.used() < before {
                continue;
            }
            match self.limits.when_full {
                WhenFull::DropOldest => self.evict(LossReason::EvictedSize, wall)?,
                WhenFull::Block => {
                    if self.full.replace(before).is_none() {
                        tracing::warn!(
                            name: "spool-full",
                            bytes = before,
                            "the spool is full: devices are held back until there is room"
                        );
                        self.send(SpoolEvent::Full(true));
                    }
                    return Ok(false);
                }
            }
        }
        self.unblock();
        self.respect_reserve(need, wall)?;
        Ok(true)
    }

    fn unblock(&mut self) {
        if self.full.take().is_some() {
            tracing::info!("the spool has room again: devices are read from");
            self.send(SpoolEvent::Full(false));
        }
    }

    fn evict(&mut self, reason: LossReason, wall: f64) -> Result<(), String> {
        let evicted = self.catalog.evict(reason, wall).map_err(|error| error.to_string())?;
        self.changed = true;
        if let Some((through, losses)) = evicted {
            self.send(SpoolEvent::Evicted { through, losses });
        }
        Ok(())
    }

    fn evict_old(&mut self, wall: f64) {
        while self.reclaim_from <= self.now
            && self
                .catalog
                .oldest_generation_received()
                .is_some_and(|received| wall - received > self.limits.max_age)
        {
            if let Err(error) = self.evict(LossReason::EvictedAge, wall) {
                self.complain("batches that are too old cannot be deleted yet", &error);
                self.reclaim_from = self.now + RETRY;
            }
        }
    }

    fn reclaim(&mut self, wall: f64) {
        let drained = self.catalog.is_drained() && self.pending.is_empty();
        self.drained_since = drained.then(|| self.drained_since.unwrap_or(self.now));
        if self.reclaim_from > self.now {
            return;
        }
        let lingered = self.drained_since.is_some_and(|since| self.now >= since + LINGER);
        let keep_open = self.full.is_none() && !lingered;
        if let Err(error) = self.catalog.reclaim(keep_open, wall) {
            self.complain("what is published cannot be deleted from the spool yet", &error);
            self.reclaim_from = self.now + RETRY;
        }
    }

    fn stall(&mut self, error: &str) {
        let first = self.stalled.replace(self.now + RETRY).is_none();
        let reason = format!(
            "the spool cannot be written: {error}. Batches that the broker has not taken are not \
             acknowledged meanwhile; trying again every second"
        );
        self.out.health.set_spool(|spool| spool.fault = Some(reason.clone()));
        if first {
            tracing::error!(name: "spool-stalled", "{reason}");
            self.send(SpoolEvent::Stalled { reason });
        }
    }

    fn resume(&mut self) {
        if self.stalled.take().is_some() {
            self.out.health.set_spool(|spool| spool.fault = None);
            tracing::info!(name: "spool-writable", "the spool can be written again");
            self.send(SpoolEvent::Resumed);
        }
    }
}

/// What the disk will take at most for `chunks`.
fn cost(chunks: &[Chunk]) -> u64 {
    let values = chunks.iter().flat_map(|chunk| &chunk.values);
    values.map(|value| value.len() as u64 + VALUE_COST).sum::<u64>() + COMMIT_COST
}

trait PopReleased {
    fn pop_front_if_released(&mut self, through: Position) -> Option<(Position, Arc<Batch>)>;
}

impl PopReleased for VecDeque<(Position, Arc<Batch>)> {
    fn pop_front_if_released(&mut self, through: Position) -> Option<(Position, Arc<Batch>)> {
        let released = self.front().is_some_and(|(position, _)| *position <= through);
        if released { self.pop_front() } else { None }
    }
}
