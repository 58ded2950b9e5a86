//! A generation: one folder with one database, written once from front to back and deleted whole.
//!
//! Only the one that is being written has its database open. The others are read from the file
//! `db` directly: every piece of a chunk carries its place and its checksum, so the file is scanned
//! for them once ([`scan`]) and read at the places found. That needs no room on the disk, works on a
//! read-only one, and finds everything that damage elsewhere in the file has left whole.

mod vanished;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chunk::{self, Chunk};
use super::scan::{Place, Values, cut_unfinished, scan};
use super::tally::{Missing, Summary, Tallies};
use crate::core::batch::Batch;
use crate::core::clock::Base;
use crate::core::ids::Position;
use crate::storage::disk;
use crate::storage::pieces::{is_damage, is_gone};
use crate::storage::store::{Store, StoreError};

/// What is known of a generation from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Where the next generation begins; none for the last.
    pub(super) next_generation: Option<Position>,
    /// Everything before it was durable once.
    pub(super) durable: Position,
    /// The oldest position that was not released.
    pub(super) head: Position,
    /// Readings that were written to it, at least.
    pub(super) readings: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Generation {
    dir: PathBuf,
    /// Its first position.
    pub(super) first: Position,
    /// The position after the last that is durable in it.
    pub(super) end: Position,
    /// Readings that were written to it.
    pub(super) readings: u64,
    /// The clock that its batches were received by; all by the same.
    pub(super) base: Base,
    /// When its oldest batch was received.
    pub(super) oldest: f64,
    /// When its newest batch was received.
    pub(super) newest: f64,
    /// What it takes on the disk, in bytes.
    pub(super) bytes: u64,
    /// What of it is lost.
    pub(super) missing: Vec<Missing>,
    /// Whether something in it could not be read.
    pub(super) damaged: bool,
    /// The highest `head` that any chunk mentions.
    pub(super) head: Position,
    store: Option<Store>,
    file: Option<File>,
    places: Option<Vec<Place>>,
    tallies: Option<Tallies>,
}

impl Generation {
    /// Makes a new one that begins at `first`, below `parent`.
    ///
    /// # Errors
    /// When the disk refuses; nothing is left behind then.
    pub(super) fn create(parent: &Path, first: Position) -> Result<Self, StoreError> {
        let dir = parent.join(folder_name(first));
        // From an attempt that a power cut ended: it cannot hold anything durable, or `first`
        // would lie behind it.
        let _ = fs::remove_dir_all(&dir);
        let store = Store::create(&dir).inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir);
        })?;
        let mut generation = Self::new(dir, first);
        generation.store = Some(store);
        generation.places = Some(Vec::new());
        generation.tallies = Some(Tallies::default());
        generation.measure();
        Ok(generation)
    }

    fn new(dir: PathBuf, first: Position) -> Self {
        Self {
            dir,
            first,
            end: first,
            readings: 0,
            base: Base::default(),
            oldest: f64::INFINITY,
            newest: f64::NEG_INFINITY,
            bytes: 0,
            missing: Vec::new(),
            damaged: false,
            head: 0,
            store: None,
            file: None,
            places: None,
            tallies: None,
        }
    }

    /// Finds out what `dir` holds, from its summary or, without one, by reading it all.
    ///
    /// # Errors
    /// When the disk refuses in a way that may pass.
    pub(super) fn recover(dir: PathBuf, first: Position, known: &Known) -> io::Result<Self> {
        let mut generation = Self::new(dir, first);
        let summary = fs::read(generation.dir.join("summary"))
            .ok()
            .and_then(|bytes| Summary::decode(&bytes))
            .filter(|summary| summary.first == first);
        if let Some(summary) = summary {
            generation.end = summary.end;
            generation.head = summary.head;
            generation.readings = summary.readings;
            generation.base = summary.base;
            generation.oldest = summary.oldest;
            generation.newest = summary.newest;
            generation.missing = summary.missing;
            generation.tallies = Some(summary.tallies);
        } else {
            generation.read_through(known)?;
            generation.write_summary();
        }
        generation.measure();
        Ok(generation)
    }

    /// Builds from the batches themselves what a summary would have told.
    fn read_through(&mut self, known: &Known) -> io::Result<()> {
        let scan = scan(&self.dir)?;
        self.damaged |= scan.unreadable > 0;
        self.head = scan.head;
        let durable = known.durable.max(scan.durable);
        let mut places = scan.places;
        places.retain(|place| place.first >= self.first);
        match known.next_generation {
            Some(limit) => places.retain(|place| place.end() <= limit),
            None => cut_unfinished(&mut places, self.first, durable),
        }
        if let Ok(file) = File::open(self.dir.join("db")) {
            // What is there may be in the memory of the kernel only: its process was killed before
            // it could sync. It counts as durable from now on.
            let _ = file.sync_all();
            self.file = Some(file);
        }
        let mut tallies = Tallies::default();
        let mut whole = Vec::with_capacity(places.len());
        let mut found = 0;
        for place in places {
            let Some(batches) = self.read_place(&place)? else { continue };
            for (position, batch) in (place.first..).zip(&batches) {
                tallies.add(position, batch);
                self.base = batch.base;
                self.oldest = self.oldest.min(batch.received);
                self.newest = self.newest.max(batch.received);
                found += batch.readings.len() as u64;
            }
            self.end = place.end();
            whole.push(place);
        }
        self.readings = found.max(known.readings);
        self.end = match known.next_generation {
            Some(limit) => limit,
            None => self.end.max(durable),
        };
        self.note_missing(&whole, known.head.max(self.head));
        self.places = Some(whole);
        self.tallies = Some(tallies);
        Ok(())
    }

    /// Writes `chunks`, which hold `batches`, and waits until they have reached the disk.
    ///
    /// # Errors
    /// When the disk refuses. Then none of them counts, the database is of no more use, and this
    /// generation has to be sealed.
    pub(super) fn append(
        &mut self,
        chunks: Vec<Chunk>,
        batches: &[(Position, Arc<Batch>)],
    ) -> Result<(), StoreError> {
        let closed = || StoreError::Damaged { path: self.dir.clone(), reason: "closed".into() };
        let store = self.store.as_mut().ok_or_else(closed)?;
        let mut written = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let pieces = u16::try_from(chunk.values.len()).unwrap_or(u16::MAX);
            let mut slot = None;
            for value in chunk.values {
                let at = store.put(value)?;
                slot.get_or_insert(at);
            }
            written.push(Place {
                first: chunk.first,
                count: chunk.count,
                readings: chunk.readings,
                oldest: chunk.oldest,
                head: self.head,
                values: Values::Slots(slot.unwrap_or_default(), pieces),
            });
        }
        store.commit()?;
        if !store.is_in_place() {
            return Err(StoreError::Gone { path: self.dir.join("db") });
        }
        let tallies = self.tallies.get_or_insert_default();
        for (position, batch) in batches {
            tallies.add(*position, batch);
            self.base = batch.base;
            self.oldest = self.oldest.min(batch.received);
            self.newest = self.newest.max(batch.received);
            self.readings += batch.readings.len() as u64;
            self.end = position + 1;
        }
        self.places.get_or_insert_default().extend(written);
        self.measure();
        Ok(())
    }

    /// Positions up to `end` were durable in it as well, as its surroundings show.
    ///
    /// # Errors
    /// When the disk refuses in a way that may pass.
    pub(super) fn extend(&mut self, end: Position, head: Position) -> io::Result<()> {
        if self.end < end {
            self.end = end;
            self.places = None;
            self.find_places(head)?;
        }
        Ok(())
    }

    /// Whether more can be written to it.
    #[must_use]
    pub(super) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Closes the database; nothing more is written. Leaves a summary, if that works.
    pub(super) fn seal(&mut self, head: Position) {
        // Places in the database mean nothing once it is closed.
        if self.store.take().is_some() {
            self.places = None;
        }
        self.head = self.head.max(head);
        self.write_summary();
        self.measure();
    }

    /// Forgets what can be read again: the open file, the places, who has what.
    pub(super) fn shrink(&mut self) {
        if self.store.is_none() {
            self.file = None;
            self.places = None;
            self.tallies = None;
        }
    }

    /// Writes the summary of a generation that is complete. Optional: without it, it is read.
    pub(super) fn write_summary(&self) {
        let Some(tallies) = self.tallies() else { return };
        let summary = Summary {
            first: self.first,
            end: self.end,
            head: self.head,
            readings: self.readings,
            base: self.base,
            oldest: self.oldest,
            newest: self.newest,
            missing: self.missing.clone(),
            tallies,
        };
        if let Err(error) = fs::write(self.dir.join("summary"), summary.encode()) {
            tracing::debug!(%error, dir = %self.dir.display(), "no summary written");
        }
    }

    /// Who has what in it: from memory or from the summary.
    #[must_use]
    pub(super) fn tallies(&self) -> Option<Tallies> {
        self.tallies.clone().or_else(|| {
            let bytes = fs::read(self.dir.join("summary")).ok()?;
            Summary::decode(&bytes).map(|summary| summary.tallies)
        })
    }

    /// Makes sure the places of the chunks are known, and notes what is lost. `head` is the oldest
    /// position that still matters.
    ///
    /// # Errors
    /// When the disk refuses in a way that may pass.
    pub(super) fn find_places(&mut self, head: Position) -> io::Result<()> {
        if self.places.is_some() {
            return Ok(());
        }
        let mut scan = scan(&self.dir)?;
        scan.places.retain(|place| place.first >= self.first && place.end() <= self.end);
        match File::open(self.dir.join("db")) {
            Ok(file) => self.file = Some(file),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        self.note_missing(&scan.places, head);
        self.places = Some(scan.places);
        Ok(())
    }

    /// Adds to `missing` what neither `places` nor it covers, from `head` on.
    fn note_missing(&mut self, places: &[Place], head: Position) {
        let mut gaps = Vec::new();
        let mut next = self.first;
        let mut covered: Vec<_> = places.iter().map(|place| (place.first, place.end())).collect();
        covered.extend(self.missing.iter().map(|missing| (missing.first, missing.end)));
        covered.push((self.end, self.end));
        covered.sort_unstable();
        for (first, end) in covered {
            if first > next {
                gaps.push((next, first));
            }
            next = next.max(end);
        }
        // What was written and is not there any more; where even that is not known, each batch
        // counts for one reading at least. It is spread over all gaps, released ones as well.
        let found: u64 = places.iter().map(|place| u64::from(place.readings)).sum();
        let known: u64 = self.missing.iter().map(|missing| missing.readings).sum();
        let mut left: u64 = gaps.iter().map(|(first, end)| end - first).sum();
        let mut readings = self.readings.saturating_sub(found + known).max(left);
        self.readings = self.readings.max(found + known + readings);
        for (first, end) in gaps {
            let whole = end - first;
            let share = scale(readings, whole, left);
            readings -= share;
            left -= whole;
            let first = first.max(head);
            if first < end {
                self.damaged = true;
                let readings = scale(share, end - first, whole);
                self.missing.push(Missing { first, end, readings, reported: false });
            }
        }
    }

    /// Adds the batches from `from` on, up to about `max_bytes` of memory, and returns how many
    /// bytes that were and where to go on: at the end of the generation when it has nothing more.
    /// `head` is the oldest position that still matters.
    ///
    /// # Errors
    /// When the disk refuses in a way that may pass.
    pub(super) fn load(
        &mut self,
        from: Position,
        head: Position,
        max_bytes: usize,
        batches: &mut Vec<(Position, Arc<Batch>)>,
    ) -> io::Result<(Position, usize)> {
        let mut next = from;
        let mut taken = 0;
        loop {
            self.find_places(head)?;
            let places = self.places.as_deref().unwrap_or_default();
            let at = places.partition_point(|place| place.end() <= next);
            let Some(place) = places.get(at) else { return Ok((self.end, taken)) };
            if taken >= max_bytes {
                return Ok((next, taken));
            }
            let place = place.clone();
            let Some(read) = self.read_place(&place)? else {
                self.lose(at, head);
                continue;
            };
            for (position, batch) in (place.first..).zip(read) {
                if position >= next && taken < max_bytes {
                    taken += batch.weight();
                    next = position + 1;
                    batches.push((position, Arc::new(batch)));
                }
            }
        }
    }

    /// The chunk at `at` is known and cannot be read.
    fn lose(&mut self, at: usize, head: Position) {
        if self.store.is_some() {
            // The database has lost its way; its file may still have everything.
            return self.seal(head);
        }
        let Some(mut places) = self.places.take() else { return };
        if at < places.len() {
            places.remove(at);
        }
        self.note_missing(&places, head);
        self.places = Some(places);
    }

    /// The batches of one chunk; none where they are not what was written.
    fn read_place(&self, place: &Place) -> io::Result<Option<Vec<Batch>>> {
        let mut values = Vec::new();
        match &place.values {
            Values::Slots(first, pieces) => {
                let Some(store) = &self.store else { return Ok(None) };
                for slot in (*first..).take(usize::from(*pieces)) {
                    values.push(store.get(slot).unwrap_or_default());
                }
            }
            Values::File(pieces) => {
                let Some(file) = &self.file else { return Ok(None) };
                for (offset, len) in pieces {
                    let mut value = vec![0; *len];
                    match file.read_exact_at(&mut value, *offset) {
                        Ok(()) => values.push(value),
                        Err(error) if is_damage(&error, &self.dir.join("db")) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        match chunk::read(&values) {
            Ok((header, batches)) if header.first == place.first => Ok(Some(batches)),
            Ok(_) => Ok(None),
            Err(error) => {
                let dir = self.dir.display();
                tracing::warn!(%error, %dir, position = place.first, "a chunk cannot be read");
                Ok(None)
            }
        }
    }

    /// Batches and readings from `head` on. Exact where the places are known, but for the readings
    /// of the one chunk that `head` lies in; else in proportion.
    #[must_use]
    pub(super) fn remaining(&self, head: Position) -> (u64, u64) {
        let from = head.clamp(self.first, self.end);
        let (mut batches, mut readings) = (0, 0);
        if let Some(places) = &self.places {
            for place in places.iter().rev().take_while(|place| place.end() > from) {
                let count = u64::from(place.count);
                let left = place.end() - from.max(place.first);
                batches += left;
                readings += scale(place.readings.into(), left, count);
            }
            return (batches, readings);
        }
        let (mut left, mut whole) = (self.end - from, self.end - self.first);
        readings += self.readings;
        for missing in &self.missing {
            left = left.saturating_sub(missing.end.saturating_sub(missing.first.max(from)));
            whole = whole.saturating_sub(missing.end - missing.first);
            readings = readings.saturating_sub(missing.readings);
        }
        (left, scale(readings, left, whole))
    }

    /// When the oldest batch from `head` on was received.
    #[must_use]
    pub(super) fn oldest_from(&self, head: Position) -> f64 {
        self.places
            .as_deref()
            .and_then(|places| places.iter().find(|place| place.end() > head))
            .map_or(self.oldest, |place| place.oldest)
    }

    /// Measures [`Self::bytes`] anew.
    pub(super) fn measure(&mut self) {
        self.bytes = disk::allocated(&self.dir);
    }

    /// Its folder.
    #[must_use]
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The folder of the generation that begins at `first`.
#[must_use]
pub(super) fn folder_name(first: Position) -> String {
    format!("gen-{first:016x}")
}

/// The first position of the generation in the folder `name`.
#[must_use]
pub(super) fn parse_folder_name(name: &str) -> Option<Position> {
    let digits = name.strip_prefix("gen-").filter(|digits| digits.len() == 16)?;
    Position::from_str_radix(digits, 16).ok()
}

/// `amount * part / whole` without overflow.
fn scale(amount: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
