//! All generations of a spool and how far it has been released.
//!
//! ```text
//! data_dir/lock                       one gateway per folder
//! data_dir/spool/marks                how far: see `marks`
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
//! - delete a damaged folder that has not been drained.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ages::Ages;
use super::chunk::Chunk;
use super::disk;
use super::generation::{self, Generation, Known};
use super::marks::{Marks, MarksFile};
use super::store::StoreError;
use super::tally::{Missing, Tallies};
use crate::core::batch::{Batch, Loss, LossReason};
use crate::core::clock::{Base, Moment};
use crate::core::ids::{DeviceId, Position};

/// Damaged folders that are kept.
const DAMAGED_MAX: usize = 3;
/// Bytes of memory for batches that are read back to count them.
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

/// See the module.
#[derive(Debug)]
pub(super) struct Catalog {
    dir: PathBuf,
    bounds: Bounds,
    generations: VecDeque<Generation>,
    head: Position,
    next: Position,
    marks: MarksFile,
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
        let mut catalog = Self {
            dir: dir.into(),
            bounds,
            generations: VecDeque::new(),
            head: known.head,
            next: known.next.max(known.head).max(1),
            marks: file,
            ages: Ages::new(known.boots.clone()),
            damaged_bytes: 0,
        };
        catalog.ages.observe(now);
        let now = now.unix;
        catalog.prune_damaged(DAMAGED_MAX);
        catalog.recover(folders, &known)?;
        let mut losses: Vec<_> =
            catalog.missing_before(marks_known).iter().map(|gap| gap.loss(now)).collect();
        losses.extend(catalog.take_losses(0, Position::MAX, now));
        let recovered = Recovered { progress: catalog.progress(), losses };
        // Also gives the file its block, so that it can be written when the disk is full. Where it
        // is full already, what is there can be read and drained all the same.
        let marks = catalog.current_marks();
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
        self.generations.iter().map(|generation| generation.bytes).sum::<u64>() + self.damaged_bytes
    }

    /// What is waiting.
    #[must_use]
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for generation in self.generations.iter().filter(|g| g.end > self.head) {
            let (batches, readings) = generation.remaining(self.head);
            totals.batches += batches;
            totals.readings += readings;
            if totals.oldest.is_none() && batches > 0 {
                let position = self.head.max(generation.first);
                let received = generation.oldest_from(position);
                totals.oldest = Some(self.ages.by_now(received, &generation.base));
            }
        }
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
            self.generations.push_back(Generation::create(&self.dir, *first)?);
        }
        let Some(active) = self.generations.back_mut() else { return Ok(()) };
        if let Err(error) = active.append(chunks, batches) {
            if active.end == active.first {
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
        }
    }

    /// Reads batches from `from` on, about `max_bytes` of memory, and what is lost among them.
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
        for (index, generation) in self.generations.iter_mut().enumerate() {
            if generation.end <= loaded.next {
                continue;
            }
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
        loaded.losses = self.take_losses(from, loaded.next, now);
        for (index, generation) in self.generations.iter_mut().enumerate().skip(1) {
            if Some(index) != last {
                generation.shrink();
            }
        }
        Ok(loaded)
    }

    /// The losses between `from` and `to` that nobody has been told of.
    fn take_losses(&mut self, from: Position, to: Position, now: f64) -> Vec<Loss> {
        let head = self.head;
        let mut losses = Vec::new();
        for generation in &mut self.generations {
            let mut told = false;
            for missing in &mut generation.missing {
                let concerns = missing.first < to && missing.end > from.max(head);
                if concerns && !missing.reported {
                    missing.reported = true;
                    told = true;
                    losses.push(missing.loss(now));
                }
            }
            if told {
                generation.write_summary();
            }
        }
        losses
    }

    /// Everything up to and including `through` is settled.
    pub(super) fn release(&mut self, through: Position) {
        self.head = self.head.max(through.saturating_add(1));
        self.next = self.next.max(self.head);
    }

    /// Deletes the generations that are released; with `keep_open` not the one being written.
    ///
    /// # Errors
    /// When the disk refuses; what could not be deleted is tried again the next time.
    pub(super) fn reclaim(&mut self, keep_open: bool, now: f64) -> Result<(), FileError> {
        loop {
            let done = self
                .generations
                .front()
                .is_none_or(|front| front.end > self.head || (keep_open && front.is_open()));
            if done {
                return Ok(());
            }
            self.delete_front(now)?;
        }
    }

    /// Gives up the oldest generation: the last position in it and what was lost.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn evict(
        &mut self,
        reason: LossReason,
        now: f64,
    ) -> Result<Option<(Position, Vec<Loss>)>, FileError> {
        if self.generations.len() == 1 {
            self.seal();
        }
        let head = self.head;
        let Some(front) = self.generations.front_mut() else { return Ok(None) };
        let through = front.end - 1;
        let whole = head <= front.first && front.missing.is_empty();
        let tallies = match front.tallies() {
            Some(tallies) if whole => tallies,
            summary => count(front, head).or(summary).unwrap_or_default(),
        };
        let mut losses = self.take_losses(head, through + 1, now);
        losses.extend(tallies.losses(reason, now));
        self.release(through);
        self.delete_front(now)?;
        Ok(Some((through, losses)))
    }

    fn delete_front(&mut self, now: f64) -> Result<(), FileError> {
        // Before its folder goes, it must be safe that nobody will look for it.
        let marks = self.current_marks();
        self.marks.write_through(&marks).map_err(at(&self.dir.join("marks")))?;
        let Some(front) = self.generations.front() else { return Ok(()) };
        let name = generation::folder_name(front.first);
        let target = if front.damaged {
            self.dir.join(format!("damaged-{:.0}-{name}", now.max(0.0)))
        } else {
            self.dir.join(format!("trash-{name}"))
        };
        fs::rename(front.dir(), &target).map_err(at(front.dir()))?;
        let damaged = front.damaged;
        // Closes the files.
        self.generations.pop_front();
        if damaged {
            tracing::warn!(folder = %target.display(), "a damaged part of the spool is kept aside");
            self.prune_damaged(DAMAGED_MAX);
        } else {
            fs::remove_dir_all(&target).map_err(at(&target))?;
        }
        Ok(())
    }

    /// Deletes the damaged folders that were kept aside. Whether there were any.
    pub(super) fn drop_damaged(&mut self) -> bool {
        let before = self.damaged_bytes;
        self.prune_damaged(0);
        before > self.damaged_bytes
    }

    fn prune_damaged(&mut self, keep: usize) {
        let mut folders: Vec<(u64, PathBuf)> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (time, _) = name.strip_prefix("damaged-")?.split_once('-')?;
                Some((time.parse().ok()?, entry.path()))
            })
            .collect();
        folders.sort();
        let surplus = folders.len().saturating_sub(keep);
        for (_, path) in folders.drain(..surplus) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, path = %path.display(), "a damaged folder cannot be deleted");
            }
        }
        self.damaged_bytes = folders.iter().map(|(_, path)| disk::allocated(path)).sum();
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

/// Who has what in `generation` from `head` on, counted batch by batch.
fn count(generation: &mut Generation, head: Position) -> Option<Tallies> {
    let mut tallies = Tallies::default();
    let mut batches = Vec::new();
    let mut next = head.max(generation.first);
    while next < generation.end {
        (next, _) = generation.load(next, head, COUNTING, &mut batches).ok()?;
        for (position, batch) in batches.drain(..) {
            tallies.add(position, &batch);
        }
    }
    Some(tallies)
}

/// The folders of generations below `dir`, oldest first. Finishes deletions.
fn list(dir: &Path) -> Result<Vec<(Position, PathBuf)>, FileError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(first) = generation::parse_folder_name(&name) {
            folders.push((first, entry.path()));
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
