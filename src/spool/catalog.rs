//! All generations of a spool and how far it has been released.
//!
//! ```text
//! data_dir/lock                       one gateway per folder
//! data_dir/spool/marks                how far: see `marks`
//! data_dir/spool/losses               what was lost and is not published: see `losses`
//! data_dir/spool/gen-<first position> one database each: see `generation`
//! data_dir/spool/trash-<…>            being deleted
//! data_dir/spool/damaged-<time>-gen-… kept for inspection, the newest three
//! ```
//!
//! # Recovery may not
//!
//! - use a position twice: the next one is the highest that any of marks and generations tells;
//! - take for lost what was released: each chunk tells how far that was when it was written;
//! - take for durable what stands behind a gap in the group that was being written;
//! - delete a damaged folder that has not been drained;
//! - forget a loss before its record is published, or give up anything before that record lasts.
//!
//! # Many generations
//!
//! Every start of the gateway begins a new one, so a machine that is switched off a thousand times
//! during an outage has a thousand small folders. They are bounded by `spool.max_bytes`, as each
//! takes about 50 KiB and counts with what it takes; they are not merged. Reading and deleting takes a few
//! milliseconds for each, however many there are; a load reads from [`LOADED`] of them at most. What is asked with every
//! commit is summed up once and kept ([`Sums`]); what is read at the start is one summary for each
//! (10 000 folders: 1.3 s, unoptimised, with a warm cache).

mod deleting;
mod giving_up;
mod vanished;

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ages::Ages;
use super::chunk::Chunk;
use super::generation::{self, Generation, Known};
use super::losses::Losses;
use super::marks::{Marks, MarksFile};
use super::tally::{Missing, Tallies};
use crate::core::batch::{Batch, Loss};
use crate::core::clock::{Base, Moment};
use crate::core::ids::{DeviceId, Position};
use crate::storage::disk::Lock;
use crate::storage::store::StoreError;

/// Generations that one load reads from at most: each costs a scan, and meanwhile nothing is committed.
const LOADED: usize = 32;
/// Bytes of memory for batches that are read back to be counted or written again.
const COUNTING: usize = 256 * 1024;

/// When a new generation is begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// At this size on the disk, in bytes.
    pub(super) bytes: u64,
    /// When its batches were received over so many seconds.
    pub(super) span: f64,
}

/// What opening found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// The last number of each device.
    pub(super) progress: Vec<(DeviceId, u64, u64)>,
    /// What is gone.
    pub(super) losses: Vec<Loss>,
}

/// An operation on a file of the spool failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(super) struct FileError {
    /// Which file or folder.
    pub(super) path: PathBuf,
    /// What the operating system said.
    pub(super) source: io::Error,
}

/// What is waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Totals {
    /// Batches.
    pub(super) batches: u64,
    /// Readings in them.
    pub(super) readings: u64,
    /// When the oldest was received, by the clock of now.
    pub(super) oldest: Option<f64>,
}

/// All generations but the first and the last together: only those two change with every commit
/// and release.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    batches: u64,
    readings: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Catalog {
    dir: PathBuf,
    bounds: Bounds,
    generations: VecDeque<Generation>,
    head: Position,
    next: Position,
    marks: MarksFile,
    /// What waits to be published.
    pub(super) losses: Losses,
    /// Losses that nobody has been told of.
    untold: Vec<Loss>,
    /// The engine has everything before it in memory, or has done with it.
    read_to: Position,
    middle: Cell<Option<Sums>>,
    /// Where the next look for deleted files begins.
    looked: usize,
    lock: Option<Lock>,
    /// How old the batches are.
    ages: Ages,
    damaged_bytes: u64,
}

impl Catalog {
    /// Reads what the folder `dir` holds; it must exist.
    ///
    /// # Errors
    /// When the disk refuses. Damage is not an error.
    pub(super) fn open(
        dir: &Path,
        bounds: Bounds,
        now: Moment,
    ) -> Result<(Self, Recovered), FileError> {
        let folders = list(dir)?;
        let path = dir.join("marks");
        let (file, marks) = MarksFile::open(&path).map_err(at(&path))?;
        let marks_known = marks.is_some();
        let known = marks.unwrap_or_default();
        let path = dir.join("losses");
        let unpublished = Losses::open(&path).map_err(at(&path))?;
        // An eviction that was cut short: what it gave up is on record.
        let given_up = unpublished.head();
        let mut catalog = Self {
            dir: dir.into(),
            bounds,
            generations: VecDeque::new(),
            head: known.head.max(given_up),
            next: known.next.max(known.head).max(given_up).max(1),
            marks: file,
            losses: unpublished,
            untold: Vec::new(),
            read_to: 0,
            middle: Cell::new(None),
            looked: 0,
            lock: None,
            ages: Ages::new(known.boots.clone()),
            damaged_bytes: 0,
        };
        catalog.ages.observe(now);
        let now = now.unix;
        catalog.prune_damaged(deleting::DAMAGED_MAX);
        catalog.recover(folders, &known)?;
        let before = catalog.missing_before(marks_known || given_up > 0);
        let before: Vec<_> = before.iter().map(|gap| gap.loss(now)).collect();
        catalog.losses.add(before.iter().cloned());
        catalog.untold.extend(before);
        let losses = catalog.find_losses(0, Position::MAX, now);
        let recovered = Recovered { progress: catalog.progress(), losses };
        // Also gives the file its block, so that it can be written when the disk is full. Where it
        // is full already, what is there can be read and drained all the same.
        let marks = catalog.current_marks();
        let path = dir.join("marks");
        if let Err(error) = catalog.marks.write_through(&marks) {
            tracing::warn!(%error, path = %path.display(), "cannot be written yet");
        }
        if let Err(error) = catalog.reclaim(false, now) {
            tracing::warn!(%error, "released batches cannot be deleted yet");
        }
        catalog.generations.iter_mut().for_each(Generation::shrink);
        if let Some(front) = catalog.generations.front_mut() {
            let path = front.dir().to_path_buf();
            front.find_places(catalog.head).map_err(at(&path))?;
        }
        Ok((catalog, recovered))
    }

    /// From the newest to the oldest: each tells how far releasing had come before it.
    fn recover(
        &mut self,
        folders: Vec<(Position, PathBuf)>,
        marks: &Marks,
    ) -> Result<(), FileError> {
        let mut next_generation = None;
        for (first, path) in folders.into_iter().rev() {
            let known = Known {
                next_generation,
                durable: marks.next,
                head: self.head,
                readings: if marks.generation == first { marks.readings } else { 0 },
            };
            let mut generation =
                Generation::recover(path.clone(), first, &known).map_err(at(&path))?;
            self.head = self.head.max(generation.head);
            // A summary does not know what came after it; every position was written once.
            let end = next_generation.unwrap_or(marks.next);
            generation.extend(end, self.head).map_err(at(&path))?;
            if generation.end == first {
                fs::remove_dir_all(&path).map_err(at(&path))?;
                continue;
            }
            self.next = self.next.max(generation.end);
            next_generation = Some(first);
            self.generations.push_front(generation);
        }
        Ok(())
    }

    /// Moves the head to the first generation. What lies before it and was not released is gone
    /// with its folder.
    fn missing_before(&mut self, marks_known: bool) -> Option<Missing> {
        let first = self.generations.front().map_or(self.next, |generation| generation.first);
        let head = self.head;
        self.head = head.clamp(first, self.next.max(first));
        (marks_known && head < first).then(|| Missing {
            first: head,
            end: first,
            readings: first - head,
            reported: true,
        })
    }

    /// The oldest position that is not released.
    #[must_use]
    pub(super) fn head(&self) -> Position {
        self.head
    }

    /// Its folder.
    #[must_use]
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// When a new generation is begun.
    #[must_use]
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The position after the last durable one.
    #[must_use]
    pub(super) fn next(&self) -> Position {
        self.next
    }

    /// Whether everything is released.
    #[must_use]
    pub(super) fn is_drained(&self) -> bool {
        self.head >= self.next
    }

    /// Whether there is nothing on the disk.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// What all of it takes on the disk, in bytes.
    #[must_use]
    pub(super) fn used(&self) -> u64 {
        let ends = self.ends().map(|generation| generation.bytes).sum::<u64>();
        ends + self.middle().bytes + self.damaged_bytes + self.losses.bytes()
    }

    /// The first generation and the last.
    fn ends(&self) -> impl Iterator<Item = &Generation> {
        let last = self.generations.len().checked_sub(1).filter(|last| *last > 0);
        self.generations.front().into_iter().chain(last.and_then(|last| self.generations.get(last)))
    }

    fn middle(&self) -> Sums {
        self.middle.get().unwrap_or_else(|| {
            let mut sums = Sums::default();
            let count = self.generations.len().saturating_sub(2);
            for generation in self.generations.iter().skip(1).take(count) {
                let (batches, readings) = generation.remaining(self.head);
                sums.batches += batches;
                sums.readings += readings;
                sums.bytes += generation.bytes;
            }
            self.middle.set(Some(sums));
            sums
        })
    }

    /// What is waiting.
    #[must_use]
    pub(super) fn totals(&self) -> Totals {
        let middle = self.middle();
        let mut totals =
            Totals { batches: middle.batches, readings: middle.readings, oldest: None };
        for generation in self.ends().filter(|g| g.end > self.head) {
            let (batches, readings) = generation.remaining(self.head);
            totals.batches += batches;
            totals.readings += readings;
        }
        let oldest = self
            .generations
            .iter()
            .find(|generation| generation.end > self.head && generation.remaining(self.head).0 > 0);
        totals.oldest = oldest.map(|generation| {
            let position = self.head.max(generation.first);
            self.ages.by_now(generation.oldest_from(position), &generation.base)
        });
        totals
    }

    /// When the newest batch of the oldest generation was received, by the clock of now.
    #[must_use]
    pub(super) fn oldest_generation_received(&self) -> Option<f64> {
        let oldest = self.generations.iter().find(|generation| generation.end > self.head)?;
        // Not finite where nothing of it can be read.
        let newest = Some(oldest.newest).filter(|newest| newest.is_finite())?;
        Some(self.ages.by_now(newest, &oldest.base))
    }

    /// Writes `chunks`, which hold `batches`, and waits until they have reached the disk. All of
    /// `batches` were received by one clock.
    ///
    /// # Errors
    /// When the disk refuses: then none of them is durable, and they can be written again later.
    pub(super) fn commit(
        &mut self,
        chunks: Vec<Chunk>,
        batches: &[(Position, Arc<Batch>)],
    ) -> Result<(), StoreError> {
        let Some((first, batch)) = batches.first() else { return Ok(()) };
        if !self.generations.back().is_some_and(|active| self.has_room(active, &batch.base)) {
            self.seal();
            self.renew()
                .map_err(|error| StoreError::Io { path: error.path, source: error.source })?;
            self.generations.push_back(Generation::create(&self.dir, *first)?);
            self.middle.set(None);
        }
        let Some(active) = self.generations.back_mut() else { return Ok(()) };
        if let Err(error) = active.append(chunks, batches) {
            self.middle.set(None);
            if matches!(error, StoreError::Gone { .. }) {
                self.rescue()?;
            } else if active.end == active.first {
                let dir = active.dir().to_path_buf();
                self.generations.pop_back();
                let _ = fs::remove_dir_all(dir);
            } else {
                self.seal();
            }
            return Err(error);
        }
        self.next = active.end;
        self.save_marks();
        Ok(())
    }

    fn has_room(&self, active: &Generation, base: &Base) -> bool {
        active.is_open()
            && active.base.is_like(base)
            && active.bytes < self.bounds.bytes
            && active.newest - active.oldest <= self.bounds.span
    }

    fn seal(&mut self) {
        let head = self.head;
        if let Some(active) = self.generations.back_mut().filter(|active| active.is_open()) {
            active.seal(head);
            active.shrink();
            self.middle.set(None);
        }
    }

    /// Keeps `lock` for as long as this lives, and sees to it that it is one.
    pub(super) fn keep(&mut self, lock: Lock) {
        self.lock = Some(lock);
    }

    /// Reads batches from `from` on, about `max_bytes` of memory and from [`LOADED`] generations at
    /// most, and what is lost among them.
    ///
    /// # Errors
    /// When the disk refuses in a way that may pass and nothing could be read.
    pub(super) fn load(
        &mut self,
        from: Position,
        max_bytes: usize,
        now: f64,
    ) -> Result<Loaded, FileError> {
        let head = self.head;
        let from = from.max(head);
        let mut loaded = Loaded { batches: Vec::new(), next: from, losses: Vec::new() };
        let mut left = max_bytes.max(1);
        let mut last = None;
        let skipped = self.generations.partition_point(|g| g.end <= loaded.next);
        for (index, generation) in
            self.generations.iter_mut().enumerate().skip(skipped).take(LOADED)
        {
            let begin = loaded.next.max(generation.first);
            match generation.load(begin, head, left, &mut loaded.batches) {
                Ok((next, taken)) => {
                    loaded.next = next;
                    left = left.saturating_sub(taken);
                    last = Some(index);
                }
                Err(_) if loaded.next > from => break,
                Err(source) => {
                    return Err(FileError { path: generation.dir().to_path_buf(), source });
                }
            }
            if left == 0 {
                break;
            }
        }
        for (_, batch) in &mut loaded.batches {
            let shift = self.ages.correction(batch.received, &batch.base);
            if let (Some(shift), Some(batch)) = (shift, Arc::get_mut(batch)) {
                batch.correct(shift);
            }
        }
        self.read_to = self.read_to.max(loaded.next);
        loaded.losses = self.find_losses(from, loaded.next, now);
        for (index, generation) in self.generations.iter_mut().enumerate().skip(1) {
            if Some(index) != last {
                generation.shrink();
            }
        }
        Ok(loaded)
    }

    /// Everything up to and including `through` is settled.
    pub(super) fn release(&mut self, through: Position) {
        if self.generations.front().is_some_and(|front| front.end <= through) {
            self.middle.set(None);
        }
        self.head = self.head.max(through.saturating_add(1));
        self.next = self.next.max(self.head);
    }

    /// Looks at the clock; what is new of it is remembered, over a power cut as well.
    pub(super) fn observe(&mut self, now: Moment) {
        if self.ages.observe(now) {
            let marks = self.current_marks();
            if let Err(error) = self.marks.write_through(&marks) {
                tracing::warn!(%error, "that the clock was set cannot be remembered yet");
            }
        }
    }

    /// Writes how far everything has come; without a sync. Not vital, see `marks`.
    pub(super) fn save_marks(&mut self) {
        let marks = self.current_marks();
        if let Err(error) = self.marks.write(&marks) {
            tracing::debug!(%error, "marks not written");
        }
    }

    fn current_marks(&self) -> Marks {
        let last = self.generations.back();
        Marks {
            head: self.head,
            next: self.next,
            generation: last.map_or(0, |generation| generation.first),
            readings: last.map_or(0, |generation| generation.readings),
            boots: self.ages.boots().to_vec(),
        }
    }

    fn progress(&self) -> Vec<(DeviceId, u64, u64)> {
        let mut all = Tallies::default();
        for tallies in self.generations.iter().filter_map(Generation::tallies) {
            all.merge(tallies);
        }
        all.progress()
    }
}

/// What [`Catalog::load`] read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// In order.
    pub(super) batches: Vec<(Position, Arc<Batch>)>,
    /// Where to go on.
    pub(super) next: Position,
    /// What could not be read.
    pub(super) losses: Vec<Loss>,
}

/// The folders of generations below `dir`, oldest first. Finishes deletions.
fn list(dir: &Path) -> Result<Vec<(Position, PathBuf)>, FileError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(first) = generation::parse_folder_name(&name) {
            // An empty one was never a generation; taken for one, it would end the one before it.
            // Only an empty folder lets itself be removed, and a file is none.
            if fs::remove_dir(entry.path()).is_err() && entry.path().is_dir() {
                folders.push((first, entry.path()));
            }
        } else if name.starts_with("trash-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError { path, source }
}
