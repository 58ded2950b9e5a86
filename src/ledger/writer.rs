//! The ledger's thread: gathers changes, commits them together, and begins a new database when the
//! present one has grown or has failed.
//!
//! ```text
//! Persist, Forget ──► pending ──► insert, flush, sync ──► Durable
//!                        ▲              │ failed: Stalled; each second a new database is tried
//!                        └──────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::piece::{Entry, encode};
use super::recover::{Old, Recovered, discard, folder, note_begun};
use crate::core::command::Record;
use crate::ports::{Clock, Health, LedgerEvent};
use crate::storage::store::{Store, StoreError};

/// Between two attempts while the disk refuses.
const RETRY: Duration = Duration::from_secs(1);
/// What one commit, or a new database, may take before the thread counts as stuck.
const STUCK: Duration = Duration::from_secs(30);
/// A new database is begun when this much was written to the present one, and...
const ROTATE_AT: usize = 1024 * 1024;
/// ...that is so many times what it would be afterwards.
const ROTATE_FACTOR: usize = 3;
/// Changes that are committed together at most, in bytes.
const GROUP_MAX: usize = 1024 * 1024;

/// What the engine asks for.
#[derive(Debug)]
pub(super) enum Change {
    Persist(Arc<Record>),
    Forget(u64),
    Close(oneshot::Sender<()>),
}

/// See the module.
pub(super) struct Writer {
    pub(super) inbox: Receiver<Change>,
    pub(super) events: mpsc::UnboundedSender<LedgerEvent>,
    pub(super) health: Arc<Health>,
    pub(super) clock: Arc<dyn Clock>,
    dir: PathBuf,
    /// Durable commands, and the bytes of each.
    live: BTreeMap<u64, (Arc<Record>, usize)>,
    live_bytes: usize,
    /// Durably forgotten ones, which a folder in `old` may still have.
    forgotten: BTreeSet<u64>,
    /// Newest change of each command that is not durable; none: forget it.
    pending: BTreeMap<u64, Option<Arc<Record>>>,
    current: Option<Generation>,
    old: Vec<Old>,
    next_folder: u64,
    next_number: u64,
    stalled: Option<Instant>,
    closing: Option<oneshot::Sender<()>>,
    abandoned: bool,
}

struct Generation {
    store: Store,
    path: PathBuf,
    sequence: u64,
    durable: u64,
    written: usize,
}

impl Generation {
    fn put(&mut self, entry: &Entry<'_>) -> Result<usize, StoreError> {
        let mut size = 0;
        for value in encode(entry, self.sequence, self.durable) {
            size += value.len();
            self.store.put(value)?;
        }
        self.sequence += 1;
        self.written += size;
        Ok(size)
    }

    /// Waits until everything is durable, then says so in the file, which a later damage of what is
    /// durable is known by. That need not be durable itself.
    fn commit(&mut self, next_number: u64) -> Result<(), StoreError> {
        self.store.commit()?;
        self.durable = self.sequence;
        self.put(&Entry::Next(next_number))?;
        self.store.flush()
    }
}

impl Writer {
    pub(super) fn new(
        inbox: Receiver<Change>,
        events: mpsc::UnboundedSender<LedgerEvent>,
        (health, clock): (Arc<Health>, Arc<dyn Clock>),
        dir: PathBuf,
        recovered: &Recovered,
        old: Vec<Old>,
    ) -> Self {
        let records = recovered.records.iter();
        let live = records.map(|(number, record)| (*number, (Arc::new(record.clone()), 0)));
        Self {
            inbox,
            events,
            health,
            clock,
            dir,
            live: live.collect(),
            live_bytes: 0,
            forgotten: recovered.forgotten.clone(),
            pending: BTreeMap::new(),
            current: None,
            old,
            next_folder: recovered.next_folder,
            next_number: recovered.next_number,
            stalled: None,
            closing: None,
            abandoned: false,
        }
    }

    /// Works until it is closed or the other end is gone.
    pub(super) fn run(&mut self) {
        while self.wait() {
            if self.stalled.is_none_or(|retry| retry <= Instant::now()) || self.closing.is_some() {
                self.commit();
            }
            if let Some(answer) = self.closing.take() {
                self.health.set_ledger(|ledger| ledger.open = false);
                // Nobody may be waiting any more.
                let _ = answer.send(());
                return;
            }
            if self.abandoned {
                return;
            }
        }
    }

    /// Waits for something to do; false when there never will be.
    fn wait(&mut self) -> bool {
        self.health.parts().ledger.rest();
        let first = match self.stalled {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(retry) => self.inbox.recv_timeout(retry.saturating_duration_since(Instant::now())),
        };
        match first {
            Ok(change) => self.accept(change),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.health.parts().ledger.within(STUCK);
        while let Ok(change) = self.inbox.try_recv() {
            self.accept(change);
        }
        true
    }

    fn accept(&mut self, change: Change) {
        match change {
            Change::Persist(record) => {
                self.next_number = self.next_number.max(record.number + 1);
                self.pending.insert(record.number, Some(record));
            }
            Change::Forget(number) => {
                self.pending.insert(number, None);
            }
            Change::Close(answer) => self.closing = Some(answer),
        }
    }

    fn commit(&mut self) {
        loop {
            self.health.parts().ledger.within(STUCK);
            let outgrown = self.current.as_ref().is_none_or(|generation| {
                generation.written > ROTATE_AT.max(ROTATE_FACTOR * self.live_bytes)
            });
            if self.pending.is_empty() && self.stalled.is_none() {
                return;
            }
            let group = self.take_group();
            let result = if outgrown { self.rotate(&group) } else { self.append(&group) };
            match result {
                Ok(sizes) => self.committed(group, &sizes),
                Err(error) => {
                    for (number, change) in group {
                        // What came since is newer.
                        self.pending.entry(number).or_insert(change);
                    }
                    return self.stall(&error);
                }
            }
        }
    }

    fn take_group(&mut self) -> Vec<(u64, Option<Arc<Record>>)> {
        let mut bytes = 0;
        let mut group = Vec::new();
        while bytes < GROUP_MAX {
            let Some((number, change)) = self.pending.pop_first() else { break };
            bytes += 512 + change.as_ref().map_or(0, |record| record.weight());
            group.push((number, change));
        }
        group
    }

    /// Adds `group` to the present database; the bytes of each.
    fn append(&mut self, group: &[(u64, Option<Arc<Record>>)]) -> Result<Vec<usize>, StoreError> {
        let Some(mut generation) = self.current.take() else { return self.rotate(group) };
        let result = write(&mut generation, group, self.next_number);
        match result {
            Ok(sizes) => {
                self.current = Some(generation);
                Ok(sizes)
            }
            Err(error) => {
                // It is of no more use, but what was durable in it is all there is.
                self.old.push(Old { path: generation.path, damaged: false });
                Err(error)
            }
        }
    }

    /// Begins a new database with everything that is live and `group`, then lets go of the others.
    fn rotate(&mut self, group: &[(u64, Option<Arc<Record>>)]) -> Result<Vec<usize>, StoreError> {
        let path = folder(&self.dir, self.next_folder);
        self.next_folder += 1;
        if let Some(outgrown) = self.current.take() {
            self.old.push(Old { path: outgrown.path, damaged: false });
        }
        let begun = self.begin(path.clone(), group);
        let (generation, sizes) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // What of it there is is older than nothing, and takes room on a full disk.
                let failed = Old { path, damaged: false };
                if failed.path.exists() && discard(&failed, 0.0).is_err() {
                    self.old.push(failed);
                }
                return Err(error);
            }
        };
        self.current = Some(generation);
        let unix = self.clock.unix();
        let mut left = Vec::new();
        for old in self.old.drain(..) {
            if let Err(error) = discard(&old, unix) {
                let path = old.path.display();
                tracing::warn!(%path, %error, "an old part of the ledger cannot be deleted yet");
                // In order: what forgets goes after what is forgotten.
                left.push(old);
            }
        }
        self.old = left;
        if self.old.is_empty() {
            self.forgotten.clear();
        }
        Ok(sizes)
    }

    fn begin(
        &mut self,
        path: PathBuf,
        group: &[(u64, Option<Arc<Record>>)],
    ) -> Result<(Generation, Vec<usize>), StoreError> {
        let store = Store::create(&path)?;
        let mut generation = Generation { store, path, sequence: 0, durable: 0, written: 0 };
        generation.put(&Entry::Next(self.next_number))?;
        let changed: BTreeSet<u64> = group.iter().map(|(number, _)| *number).collect();
        let mut bytes = 0;
        for number in &self.forgotten {
            generation.put(&Entry::Forget(*number))?;
        }
        for (_, (record, size)) in
            self.live.iter_mut().filter(|(number, _)| !changed.contains(number))
        {
            *size = generation.put(&Entry::Record(record))?;
            bytes += *size;
        }
        let sizes = write(&mut generation, group, self.next_number)?;
        let dir = self.dir.clone();
        note_begun(&dir).map_err(|source| StoreError::Io { path: dir, source })?;
        for number in changed {
            self.live.remove(&number);
        }
        self.live_bytes = bytes;
        Ok((generation, sizes))
    }

    fn committed(&mut self, group: Vec<(u64, Option<Arc<Record>>)>, sizes: &[usize]) {
        let mut durable = Vec::new();
        for ((number, change), size) in group.into_iter().zip(sizes) {
            let replaced = self.live.remove(&number).map_or(0, |(_, size)| size);
            self.live_bytes = self.live_bytes.saturating_sub(replaced);
            match change {
                Some(record) => {
                    durable.push((number, record.version));
                    self.live_bytes += size;
                    self.live.insert(number, (record, *size));
                }
                None => {
                    self.forgotten.insert(number);
                }
            }
        }
        self.resume();
        if !durable.is_empty() {
            self.send(LedgerEvent::Durable(durable));
        }
    }

    fn stall(&mut self, error: &StoreError) {
        let reason = format!(
            "the ledger of commands cannot be written: {error}. Commands are refused meanwhile; \
             trying again every second"
        );
        self.health.set_ledger(|ledger| ledger.fault = Some(reason.clone()));
        if self.stalled.replace(Instant::now() + RETRY).is_none() {
            tracing::error!(name: "ledger-stalled", "{reason}");
            self.send(LedgerEvent::Stalled { reason });
        }
    }

    fn resume(&mut self) {
        if self.stalled.take().is_some() {
            self.health.set_ledger(|ledger| ledger.fault = None);
            tracing::info!(name: "ledger-writable", "the ledger of commands can be written again");
            self.send(LedgerEvent::Resumed);
        }
    }

    fn send(&mut self, event: LedgerEvent) {
        self.abandoned |= self.events.send(event).is_err();
    }
}

/// Writes `group` and waits until it is durable; the bytes of each.
fn write(
    generation: &mut Generation,
    group: &[(u64, Option<Arc<Record>>)],
    next_number: u64,
) -> Result<Vec<usize>, StoreError> {
    let mut sizes = Vec::with_capacity(group.len());
    for (number, change) in group {
        let entry = match change {
            Some(record) => Entry::Record(record),
            None => Entry::Forget(*number),
        };
        sizes.push(generation.put(&entry)?);
    }
    generation.commit(next_number)?;
    Ok(sizes)
}
