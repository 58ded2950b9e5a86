//! Reading the spool of a stopped gateway, as far as it goes, and changing nothing.
//!
//! # Limits
//!
//! - Nothing is written, made, repaired or deleted, so it works on a read-only file system, on a
//!   full one, and on a copy that belongs to somebody else.
//! - While a gateway uses the folder it is refused. The lock is shared meanwhile, where there is
//!   one: a gateway that is started during the inspection is refused in turn.
//! - Memory is that of one generation's places (a few MiB at most) and one chunk, whatever the
//!   size of the spool.
//! - What is told as waiting is what a gateway started now would publish, with one exception: where
//!   `marks` is gone, batches that were published since the last commit are among it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ages::Ages;
use super::chunk;
use super::generation;
use super::losses::{self, Found};
use super::marks::{self, Marks};
use super::scan::{Place, Values, cut_unfinished, scan};
use super::tally::Summary;
use crate::core::batch::{Batch, Loss};
use crate::core::clock::Moment;
use crate::core::ids::Position;
use crate::storage::disk::{self, Lock, LockError};
use crate::storage::pieces::is_gone;

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No gateway has spooled anything there.
    #[error(
        "{} is not there: no spool has been kept below this data folder (gateway.data_dir)",
        path.display()
    )]
    NoSpool {
        /// What was looked for.
        path: PathBuf,
    },
    /// A gateway is at work.
    #[error(
        "{} is held by process {holder}: a gateway uses this data folder. Stop it first, or look \
         at `tidegate status`", path.display()
    )]
    Running {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it.
        holder: String,
    },
    /// The operating system refuses.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// What was to be read.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The spool of a stopped gateway.
#[derive(Debug)]
pub struct Inspection {
    /// The oldest position that has not been published.
    pub head: Position,
    /// The position after the last; of the last generation only what was durable counts.
    pub next: Position,
    /// What waits, oldest first.
    pub generations: Vec<Folder>,
    /// What was kept aside because not all of it could be read: all that could be read of it has
    /// been published.
    pub aside: Vec<Folder>,
    /// The records of what was lost, as far as the broker has not acknowledged them, oldest first.
    pub losses: Vec<Loss>,
    /// What is wrong with the spool besides its generations.
    pub faults: Vec<Fault>,
    /// What somebody who reads on should know.
    pub notes: Vec<String>,
    ages: Ages,
    durable: Position,
    _lock: Option<Lock>,
}

/// One folder of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// Its name below `data_dir/spool`.
    pub name: String,
    /// The first position in it.
    pub first: Position,
    /// The position after its last, where something else than its content tells.
    end: Option<Position>,
    /// Whether others come after it.
    last: bool,
    /// The oldest position in it that has not been published.
    from: Position,
    path: PathBuf,
}

/// What a folder turned out to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Facts {
    /// The position after its last.
    pub end: Position,
    /// Batches that could be read.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
    /// Positions that could not be read.
    pub missing: u64,
    /// When the oldest batch was received: Unix time in seconds, corrected where
    /// the clock was set afterwards.
    pub oldest: Option<f64>,
    /// When the newest was.
    pub newest: Option<f64>,
}

/// Positions that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which folder; `spool` where even the folder is gone.
    pub folder: String,
    /// The first lost position.
    pub first: Position,
    /// The position after the last.
    pub end: Position,
    /// What is the matter.
    pub reason: String,
}

impl Inspection {
    /// Looks at the spool below `data_dir`. `now` is what corrects times that were stamped in this
    /// boot of the machine before its clock was set.
    ///
    /// # Errors
    /// When there is none, a gateway uses it, or its folder cannot be listed.
    pub fn open(data_dir: &Path, now: Moment) -> Result<Self, InspectError> {
        let dir = data_dir.join("spool");
        let mut notes = Vec::new();
        let path = data_dir.join("lock");
        let lock = match Lock::share(&path) {
            Ok(lock) => lock,
            Err(LockError::Held { holder }) => return Err(InspectError::Running { path, holder }),
            Err(LockError::Io(error)) => {
                let path = path.display();
                notes.push(format!(
                    "{path}: {error}. Whether a gateway is at work cannot be told; if one is, what \
                     is read here is incomplete"
                ));
                None
            }
        };
        let (generations, aside) = list(&dir)?;
        let known = match marks::read(&dir.join("marks")) {
            Ok(Some(marks)) => Some(marks),
            Ok(None) => {
                notes.push(
                    "marks is damaged: batches that have been published may be among those that \
                     wait"
                        .into(),
                );
                None
            }
            Err(error) if is_gone(&error) && generations.is_empty() => None,
            Err(error) => {
                notes.push(format!(
                    "marks: {error}. Batches that have been published may be among those that wait"
                ));
                None
            }
        };
        let marks = known.unwrap_or_default();
        let records = losses(&dir.join("losses"), &mut notes);
        // An eviction that was cut short is whole in the records.
        let head = marks.head.max(records.head);
        let mut ages = Ages::new(marks.boots.clone());
        ages.observe(now);
        let mut inspection = Self {
            head,
            next: marks.next.max(head),
            generations,
            aside,
            losses: records.losses,
            faults: Vec::new(),
            notes,
            ages,
            durable: marks.next,
            _lock: lock,
        };
        inspection.place();
        inspection.find_missing(&marks);
        Ok(inspection)
    }

    /// Finds out how far publishing had come and where each generation ends.
    fn place(&mut self) {
        let mut next = None;
        for folder in self.generations.iter_mut().rev() {
            let summary = folder.summary();
            let (head, end) = match (&summary, next) {
                (Some(summary), _) => (summary.head, summary.end),
                // Later ones tell more.
                (None, Some(_)) => (0, folder.first),
                (None, None) => {
                    scan(&folder.path).map_or((0, folder.first), |scan| (scan.head, scan.durable))
                }
            };
            self.head = self.head.max(head);
            self.next = self.next.max(end);
            folder.last = next.is_none();
            folder.end = next.or_else(|| summary.map(|_| end.max(self.durable)));
            next = Some(folder.first);
        }
        for folder in &mut self.generations {
            folder.from = self.head;
        }
    }

    fn find_missing(&mut self, marks: &Marks) {
        let first = self.generations.first().map_or(self.next, |folder| folder.first);
        if marks.head > 0 && self.head < first {
            self.faults.push(Fault {
                folder: "spool".into(),
                first: self.head,
                end: first,
                reason: "the folder is gone".into(),
            });
        }
    }

    /// Reads one folder from front to back: `each` gets its batches in order and with their times
    /// corrected, `fault` what is missing among them.
    ///
    /// # Errors
    /// What `each` answers; reading ends there.
    pub fn read<E>(
        &self,
        folder: &Folder,
        mut each: impl FnMut(Position, Batch) -> Result<(), E>,
        mut fault: impl FnMut(Fault),
    ) -> Result<Facts, E> {
        let mut facts = Facts { bytes: disk::allocated(&folder.path), ..Facts::default() };
        let mut reader = Reader::open(folder, self.durable);
        let mut next = folder.first.max(folder.from);
        for place in std::mem::take(&mut reader.places) {
            if place.end() <= next {
                continue;
            }
            if place.first > next {
                facts.missing += place.first - next;
                fault(folder.fault(next, place.first, &reader.why));
            }
            let begin = next.max(place.first);
            next = place.end();
            let batches = match reader.batches(&place) {
                Ok(batches) => batches,
                Err(reason) => {
                    facts.missing += place.end() - begin;
                    fault(folder.fault(begin, place.end(), &reason));
                    continue;
                }
            };
            for (position, mut batch) in (place.first..).zip(batches) {
                if position < begin {
                    continue;
                }
                if let Some(shift) = self.ages.best_correction(batch.received, &batch.base) {
                    batch.correct(shift);
                }
                let received = batch.received;
                facts.batches += 1;
                facts.readings += batch.readings.len() as u64;
                facts.oldest = Some(facts.oldest.map_or(received, |oldest| oldest.min(received)));
                facts.newest = Some(facts.newest.map_or(received, |newest| newest.max(received)));
                each(position, batch)?;
            }
        }
        if next < reader.end {
            facts.missing += reader.end - next;
            fault(folder.fault(next, reader.end, &reader.why));
        }
        facts.end = reader.end.max(folder.first);
        Ok(facts)
    }
}

impl Folder {
    fn summary(&self) -> Option<Summary> {
        let bytes = fs::read(self.path.join("summary")).ok()?;
        Summary::decode(&bytes).filter(|summary| summary.first == self.first)
    }

    fn fault(&self, first: Position, end: Position, reason: &str) -> Fault {
        Fault { folder: self.name.clone(), first, end, reason: reason.into() }
    }
}

/// The database file of one folder.
struct Reader {
    file: Option<File>,
    places: Vec<Place>,
    end: Position,
    /// What is the matter where nothing is found.
    why: String,
}

impl Reader {
    fn open(folder: &Folder, durable: Position) -> Self {
        let path = folder.path.join("db");
        let mut why = String::from("damaged: nothing that fits its checksum is there");
        let file = File::open(&path).inspect_err(|error| why = format!("db: {error}")).ok();
        let scan = scan(&folder.path).unwrap_or_else(|error| {
            why = format!("db: {error}");
            super::scan::Scan::default()
        });
        if scan.unreadable > 0 {
            why = format!("damaged: {} sectors of db cannot be read", scan.unreadable);
        }
        let mut places = scan.places;
        places.retain(|place| place.first >= folder.first);
        let end = match folder.end {
            Some(end) => {
                places.retain(|place| place.end() <= end);
                end
            }
            None if folder.last => {
                let durable = durable.max(scan.durable);
                cut_unfinished(&mut places, folder.first, durable);
                places.last().map_or(0, Place::end).max(durable)
            }
            None => places.last().map_or(0, Place::end),
        };
        Self { file, places, end, why }
    }

    /// The batches of one chunk, or why they cannot be had.
    fn batches(&self, place: &Place) -> Result<Vec<Batch>, String> {
        let (Some(file), Values::File(pieces)) = (&self.file, &place.values) else {
            return Err(self.why.clone());
        };
        let mut values = Vec::with_capacity(pieces.len());
        for (offset, len) in pieces {
            let mut value = vec![0; *len];
            file.read_exact_at(&mut value, *offset).map_err(|error| format!("db: {error}"))?;
            values.push(value);
        }
        let (_, batches) = chunk::read(&values).map_err(|error| error.to_string())?;
        Ok(batches)
    }
}

/// The records of losses, with a note where they are not whole.
fn losses(path: &Path, notes: &mut Vec<String>) -> Found {
    match losses::read(path) {
        Ok(found) => {
            if found.torn {
                let told = if found.losses.is_empty() { "none of them" } else { "not all of them" };
                notes.push(format!(
                    "losses is damaged, or was being written when the gateway ended: {told} can be \
                     read of the records of what was lost. The log of the gateway has the counts"
                ));
            }
            found
        }
        Err(error) if is_gone(&error) => Found::default(),
        Err(error) => {
            notes
                .push(format!("losses: {error}. Whether losses wait to be published is not known"));
            Found::default()
        }
    }
}

/// The generations below `dir`, and what was kept aside, both oldest first.
fn list(dir: &Path) -> Result<(Vec<Folder>, Vec<Folder>), InspectError> {
    let unreadable = |source| InspectError::Unreadable { path: dir.to_path_buf(), source };
    let entries = fs::read_dir(dir).map_err(|error| {
        if is_gone(&error) { InspectError::NoSpool { path: dir.into() } } else { unreadable(error) }
    })?;
    let mut generations = Vec::new();
    let mut aside = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let folder = |first| Folder {
            name: name.clone(),
            first,
            end: None,
            last: false,
            from: 0,
            path: entry.path(),
        };
        if let Some(first) = generation::parse_folder_name(&name) {
            generations.push(folder(first));
        } else if let Some((time, of)) =
            name.strip_prefix("damaged-").and_then(|rest| rest.split_once('-'))
        {
            let first = generation::parse_folder_name(of).unwrap_or_default();
            aside.push((time.parse::<u64>().unwrap_or_default(), folder(first)));
        }
    }
    generations.sort_by_key(|folder| folder.first);
    aside.sort_by_key(|(time, folder)| (*time, folder.first));
    let aside = aside.into_iter().map(|(_, mut folder)| {
        folder.end = folder.summary().map(|summary| summary.end);
        folder
    });
    let aside = aside.collect();
    Ok((generations, aside))
}
