//! Saves the history now and then and when the gateway stops, and reads it at the start: in a thread
//! of its own, so that nobody waits for a disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use compact_str::CompactString;
use tokio::sync::oneshot;

use super::folder::Folder;
use super::saved::{BUCKETS_MAX, CHANGES_MAX, Content, Record};
use super::series::{Kept, Kind, second};
use super::states::{CHANGES, Change};
use super::tiers::{Bucket, KEPT, Packed, REACH, STEPS, TIERS};
use crate::core::batch::Value;
use crate::core::clock::is_set;
use crate::core::ids::DeviceId;
use crate::dashboard::Fleet;
use crate::dashboard::slot::{Latest, Slot};
use crate::metrics::Metrics;
use crate::ports::{Clock, lock};
use crate::storage::store::StoreError;

/// The narrowest tier that is saved while the gateway runs; the narrower ones are saved at its end.
const COARSE: usize = 2;

/// Keeps the history of a [`Fleet`] on the disk. Dropping it saves what is new without waiting.
#[derive(Debug)]
pub struct Keeper {
    stop: Sender<oneshot::Sender<()>>,
}

impl Keeper {
    /// Takes `data_dir/history` and starts the thread, which reads what is there and then saves
    /// each `every` (zero: only at the end). What it holds of devices that are not `wanted` any more
    /// is left out. None, and a line in the log, where that folder cannot be used: the gateway works
    /// without.
    #[must_use]
    pub fn start(
        data_dir: &Path,
        every: Duration,
        fleet: Arc<Fleet>,
        wanted: Box<dyn Fn(&DeviceId) -> bool + Send>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Option<Self> {
        let folder = match Folder::open(data_dir) {
            Ok(folder) => folder,
            Err(error) => {
                tracing::warn!(%error, "the history cannot be kept on disk and ends with this run");
                return None;
            }
        };
        let (stop, stopping) = channel();
        let mut work = Work { folder, fleet, wanted, metrics, clock, failing: false };
        let spawned = std::thread::Builder::new().name("history".into()).spawn(move || {
            work.load();
            while catch_unwind(AssertUnwindSafe(|| work.run(&stopping, every))).is_err() {
                tracing::error!("saving the history stopped by a panic; it is tried again later");
                std::thread::sleep(AFTER_PANIC);
            }
        });
        match spawned {
            Ok(_) => Some(Self { stop }),
            Err(error) => {
                tracing::warn!(%error, "the history is not kept on disk: there is no thread for it");
                None
            }
        }
    }

    /// Saves the last part and ends, within `patience`; whether it was done by then. What was saved
    /// before is safe in any case.
    pub async fn stop(self, patience: Duration) -> bool {
        let (answer, done) = oneshot::channel();
        // A thread that has ended has said so.
        let _ = self.stop.send(answer);
        let done = matches!(tokio::time::timeout(patience, done).await, Ok(Ok(())));
        if !done {
            tracing::warn!("the last part of the history could not be saved in time");
        }
        done
    }
}

/// What panics again and again must not fill the log.
const AFTER_PANIC: Duration = Duration::from_secs(1);

struct Work {
    folder: Folder,
    fleet: Arc<Fleet>,
    wanted: Box<dyn Fn(&DeviceId) -> bool + Send>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    failing: bool,
}

impl Work {
    fn run(&mut self, stopping: &Receiver<oneshot::Sender<()>>, every: Duration) {
        loop {
            let told = if every.is_zero() {
                stopping.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                stopping.recv_timeout(every)
            };
            match told {
                Err(RecvTimeoutError::Timeout) => self.save(false),
                Err(RecvTimeoutError::Disconnected) => return self.save(true),
                Ok(answer) => {
                    self.save(true);
                    // Nobody may be waiting any more.
                    let _ = answer.send(());
                    return;
                }
            }
        }
    }

    /// Saves what is new since the last time; at the `end` with the narrow tiers.
    fn save(&mut self, end: bool) {
        let now = second(self.clock.unix());
        // What was new at an attempt that failed is not marked any more.
        let full = self.failing || self.folder.is_overgrown();
        match write(&mut self.folder, &self.fleet, now, full, end) {
            Ok(0) => {}
            Ok(bytes) => {
                self.metrics.history_saves.inc();
                tracing::debug!(bytes, everything = full, "saved the history");
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the history can be saved again");
                }
            }
            Err(error) => {
                self.metrics.history_save_failures.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        %error,
                        "the history cannot be saved; what is new of it ends with this run unless \
                         the next attempt works"
                    );
                }
            }
        }
    }

    fn load(&mut self) {
        let unix = self.clock.unix();
        let oldest = if is_set(unix) { unix - KEPT } else { f64::NEG_INFINITY };
        // More than fits twice into the memory is nothing that this gateway has written.
        let mut room = self.fleet.memory().budget().saturating_mul(2) / size_of::<Packed>();
        let mut found: BTreeMap<DeviceId, BTreeMap<CompactString, Found>> = BTreeMap::new();
        self.folder.read(|record, newest| {
            let weight = record.weight();
            if room >= weight {
                room -= weight;
                let device = found.entry(record.device.clone()).or_default();
                device.entry(record.name.clone()).or_default().add(record, newest);
            }
        });
        let mut devices: Vec<_> = found
            .into_iter()
            .map(|(device, names)| (names.values().fold(0.0, |t, f| f.seen.max(t)), device, names))
            .filter(|(seen, device, _)| *seen >= oldest && (self.wanted)(device))
            .collect();
        devices.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let count = devices.len();
        for (seen, device, names) in devices {
            let Some(slot) = self.fleet.restore(&device, seen) else { continue };
            for (name, found) in names {
                found.restore(&self.fleet, &slot, &name, oldest);
            }
        }
        if count > 0 {
            let (series, bytes) = (self.fleet.memory().series(), self.fleet.memory().used());
            tracing::info!(devices = count, series, bytes, "read the saved history");
        }
    }
}

impl Record {
    /// Buckets, or what takes as much memory.
    fn weight(&self) -> usize {
        match &self.content {
            Content::Buckets { closed, .. } => closed.len() + 1,
            Content::Changes { changes, .. } => 3 * changes.len() + 1,
            Content::Latest { .. } => 2,
        }
    }
}

/// Writes what is new or, where `full`, everything; the bytes that took. Each slot is locked for as
/// long as it takes to copy one series.
fn write(
    folder: &mut Folder,
    fleet: &Fleet,
    now: u32,
    full: bool,
    end: bool,
) -> Result<u64, StoreError> {
    let mut save = folder.save(now, full);
    let mut any = false;
    for slot in fleet.slots() {
        let names: Vec<_> =
            lock(&slot.state).readings.iter().map(|latest| latest.name.clone()).collect();
        for name in names {
            for record in copied(&slot, &name, full, end) {
                any = true;
                save.push(&record)?;
            }
        }
    }
    if any { save.finish() } else { Ok(0) }
}

/// What there is of one name to save.
fn copied(slot: &Slot, name: &str, full: bool, end: bool) -> Vec<Record> {
    let mut state = lock(&slot.state);
    let Some(latest) = state.latest_mut(name) else { return Vec::new() };
    let contents =
        latest.history.kept_mut().map(|kept| kept.unsaved(full, end)).unwrap_or_default();
    if contents.is_empty() {
        return Vec::new();
    }
    let record = |content| Record {
        device: slot.id.clone(),
        name: latest.name.clone(),
        unit: latest.unit.clone(),
        content,
    };
    let newest = newest(latest, slot.last_seen().unwrap_or(latest.time));
    contents.into_iter().chain([newest]).map(record).collect()
}

fn newest(latest: &Latest, seen: f64) -> Content {
    let value = latest.value.clone().filter(|value| !matches!(value, Value::Data(_)));
    Content::Latest { time: latest.time, seen, value }
}

impl Kept {
    /// What is new since this was asked last, or everything: in wide buckets, at the `end` also all of
    /// the narrow ones, which count only from the newest save.
    fn unsaved(&mut self, full: bool, end: bool) -> Vec<Content> {
        let touched = self.take_touched();
        let since = if full { 0 } else { touched };
        match &self.kind {
            Kind::Numbers(tiers) => {
                let mut contents = Vec::new();
                for (tier, step) in STEPS.into_iter().enumerate() {
                    let first = match (tier < COARSE, end) {
                        (true, true) => 0,
                        (true, false) => continue,
                        (false, _) => since / step,
                    };
                    let begins = tiers.begins(tier);
                    let buckets = tiers.view(tier, first, u32::MAX);
                    contents.extend(buckets.chunks(BUCKETS_MAX).map(|buckets| {
                        let closed = buckets.iter().map(Bucket::pack).collect();
                        Content::Buckets { tier, begins, closed }
                    }));
                }
                contents
            }
            Kind::States(states) if since < u32::MAX => {
                let confirmed = states.newest().unwrap_or_default();
                let changes = states.view(f64::from(since), f64::INFINITY);
                let chunks = changes.chunks(CHANGES_MAX);
                chunks
                    .map(|changes| Content::Changes { confirmed, changes: changes.to_vec() })
                    .collect()
            }
            Kind::States(_) => Vec::new(),
        }
    }
}

/// What was saved of one name.
#[derive(Debug, Default)]
struct Found {
    unit: Option<CompactString>,
    buckets: [Vec<Packed>; TIERS],
    begins: [u32; TIERS],
    changes: Vec<Change>,
    confirmed: f64,
    latest: Option<(f64, Option<Value>)>,
    /// When the device was heard last: Unix time in seconds.
    seen: f64,
}

impl Found {
    /// Takes what is newer than all before.
    fn add(&mut self, record: Record, newest: bool) {
        self.unit = record.unit;
        match record.content {
            // Between narrow buckets of an earlier save and now there is a gap.
            Content::Buckets { tier, .. } if tier < COARSE && !newest => {}
            Content::Buckets { tier, begins, closed } => {
                if let (Some(mine), Some(first)) =
                    (self.buckets.get_mut(tier), self.begins.get_mut(tier))
                {
                    *first = begins;
                    mine.extend(closed);
                }
            }
            Content::Changes { confirmed, changes } => {
                self.confirmed = confirmed;
                self.changes.extend(changes);
            }
            Content::Latest { time, seen, value } => {
                self.latest = Some((time, value));
                self.seen = self.seen.max(seen);
            }
        }
    }

    fn restore(mut self, fleet: &Fleet, slot: &Slot, name: &CompactString, oldest: f64) {
        let (time, value) = self.latest.take().unwrap_or((self.seen, None));
        let numbers = match &value {
            Some(Value::Number(_)) => true,
            Some(Value::Text(_) | Value::Bool(_)) => false,
            _ => self.changes.is_empty(),
        };
        // Where narrow buckets are missing they begin with this run.
        let wide = self.buckets.iter().zip(STEPS).skip(COARSE);
        let end = wide.filter_map(|(buckets, step)| Some((buckets.last()?.at + 1) * step)).max();
        let tiers_saved: [_; TIERS] =
            std::array::from_fn(|tier| self.tier(tier, second(oldest), end.unwrap_or(0)));
        let nothing = tiers_saved.iter().all(|(saved, _)| saved.is_empty());
        let mut state = lock(&slot.state);
        if state.forgotten {
            return;
        }
        if state.restore(name, (self.unit.take(), value, time), fleet.room()) {
            fleet.count_names(1);
        }
        if nothing && self.changes.is_empty() {
            return;
        }
        let Some(latest) = state.latest_mut(name) else { return };
        let Some(kept) = latest.history.begin(numbers, fleet.memory()) else { return };
        let (kind, held) = kept.parts();
        match kind {
            Kind::Numbers(tiers) => {
                for (tier, (saved, begins)) in tiers_saved.iter().enumerate().rev() {
                    tiers.restore(tier, *begins, saved, held);
                }
            }
            Kind::States(states) => {
                self.changes.sort_by(|a, b| a.time.total_cmp(&b.time));
                self.changes.dedup_by(|b, a| a.state == b.state);
                let surplus = self.changes.len().saturating_sub(CHANGES);
                self.changes.drain(..surplus);
                states.restore(self.changes, self.confirmed, held);
            }
        }
    }

    /// The buckets of `tier` from the second `oldest` on, the newer of two, and from which one on they are
    /// all; `end` is where the wide ones end.
    fn tier(&mut self, tier: usize, oldest: u32, end: u32) -> (Vec<Packed>, u32) {
        let step = STEPS.get(tier).copied().unwrap_or(1);
        let begins = self.begins.get(tier).copied().unwrap_or_default();
        let Some(mine) = self.buckets.get_mut(tier) else { return (Vec::new(), begins) };
        let mut saved = std::mem::take(mine);
        if saved.is_empty() {
            return (saved, end.div_ceil(step));
        }
        // Stable: of equals the newer comes last.
        saved.sort_by_key(|packed| packed.at);
        saved.reverse();
        saved.dedup_by_key(|packed| packed.at);
        saved.reverse();
        let reach = REACH.get(tier).copied().unwrap_or_default();
        let reached = saved.last().map_or(0, |last| last.at + 1).saturating_sub(reach);
        let first = reached.max(oldest / step);
        let old = saved.partition_point(|packed| packed.at < first);
        saved.drain(..old);
        (saved, begins.max(first))
    }
}
