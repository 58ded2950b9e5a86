//! What earlier runs left: folders of databases, each read from its file (see `storage::pieces`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::piece::{FORGET, Header, MARK, NEXT, RECORD};
use crate::core::command::Record;
use crate::storage::pieces::{find, for_each_window};

const GENERATION: &str = "gen-";
const TRASH: &str = "trash-";
const DAMAGED: &str = "damaged-";
/// Says that there was a durable database once.
const BEGUN: &str = "begun";
/// Damaged folders that are kept.
const DAMAGED_MAX: usize = 3;

/// A database of an earlier run, or of this one.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) path: PathBuf,
    /// Not all of it can be read: it is put aside instead of deleted.
    pub(super) damaged: bool,
}

/// All that is left.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) records: BTreeMap<u64, Record>,
    /// Forgotten ones, which an older folder may still have.
    pub(super) forgotten: BTreeSet<u64>,
    pub(super) next_number: u64,
    pub(super) folders: Vec<Old>,
    /// The number of the next folder.
    pub(super) next_folder: u64,
    /// What could not be read, for a person; empty where all could.
    pub(super) damage: Vec<String>,
}

/// Reads everything below `dir` and deletes what an earlier run began to delete.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn recover(dir: &Path) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut folders = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(TRASH) {
            // What cannot be deleted now can be at the next start.
            let _ = fs::remove_dir_all(entry.path());
        } else if let Some(number) = name.strip_prefix(GENERATION) {
            if let Ok(number) = u64::from_str_radix(number, 16) {
                folders.insert(number, entry.path());
            }
        }
    }
    recovered.next_folder = folders.last_key_value().map_or(0, |(number, _)| number + 1);
    let mut something = false;
    for path in folders.into_values() {
        let lost = read(&path, &mut recovered, &mut something)?;
        if let Some(lost) = &lost {
            recovered.damage.push(format!("{}: {lost}", path.display()));
        }
        recovered.folders.push(Old { path, damaged: lost.is_some() });
    }
    if !something && dir.join(BEGUN).exists() {
        for folder in &mut recovered.folders {
            folder.damaged = true;
        }
        recovered.damage.push(format!("{}: nothing of what was there is left", dir.display()));
    }
    for number in &recovered.forgotten {
        recovered.records.remove(number);
    }
    Ok(recovered)
}

/// Notes that there is a durable database.
///
/// # Errors
/// When the disk refuses.
pub(super) fn note_begun(dir: &Path) -> io::Result<()> {
    let path = dir.join(BEGUN);
    if !path.exists() {
        fs::File::create(&path)?.sync_all()?;
        crate::storage::disk::sync_dir(dir)?;
    }
    Ok(())
}

/// The folder of the database `number`.
pub(super) fn folder(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{GENERATION}{number:016x}"))
}

/// Deletes a database that is not needed any more, or puts it aside if it is damaged.
///
/// # Errors
/// When the disk refuses; it can be tried again.
pub(super) fn discard(old: &Old, unix: f64) -> io::Result<()> {
    let (Some(dir), Some(name)) = (old.path.parent(), old.path.file_name()) else { return Ok(()) };
    let name = name.to_string_lossy();
    if old.damaged {
        fs::rename(&old.path, dir.join(format!("{DAMAGED}{:013.0}-{name}", unix.max(0.0))))?;
        let mut kept: Vec<PathBuf> = fs::read_dir(dir)?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(DAMAGED))
            .map(|entry| entry.path())
            .collect();
        kept.sort();
        let surplus = kept.len().saturating_sub(DAMAGED_MAX);
        return kept.iter().take(surplus).try_for_each(fs::remove_dir_all);
    }
    let trash = dir.join(format!("{TRASH}{name}"));
    fs::rename(&old.path, &trash)?;
    // Half of a folder is never taken for a whole one; the rest is deleted at the next start.
    let _ = fs::remove_dir_all(trash);
    Ok(())
}

/// Reads one database's file into `recovered`; what is missing of it, if anything.
fn read(
    path: &Path,
    recovered: &mut Recovered,
    something: &mut bool,
) -> io::Result<Option<String>> {
    let mut pieces: Vec<(Header, Vec<u8>)> = Vec::new();
    let unreadable = for_each_window(path, |_, window, limit| {
        let open = |rest| {
            let (header, part): (Header, &[u8]) = Header::open(rest)?;
            let size = header.size();
            Some(((header, part.to_vec()), size))
        };
        pieces.extend(find(window, limit, MARK, open).into_iter().map(|(_, piece)| piece));
    })?;
    pieces.sort();
    pieces.dedup_by_key(|(header, _)| *header);
    *something |= !pieces.is_empty();
    let durable = pieces.iter().map(|(header, _)| header.durable).max().unwrap_or(0);
    let mut whole = BTreeSet::new();
    let mut unknown = 0;
    for group in pieces.chunk_by(|(a, _), (b, _)| a.entry() == b.entry()) {
        let Some((header, _)) = group.first() else { continue };
        let body: Vec<u8> = group.iter().flat_map(|(_, part)| part.iter().copied()).collect();
        let complete = group.len() == usize::from(header.pieces)
            && crc32fast::hash(&body) == header.body_checksum;
        if !complete {
            continue;
        }
        whole.insert(header.sequence);
        recovered.next_number = recovered.next_number.max(match header.kind {
            NEXT => header.number,
            _ => header.number.saturating_add(1),
        });
        match header.kind {
            RECORD => match ciborium::from_reader::<Record, _>(body.as_slice()) {
                Ok(record) if record.number == header.number && !record.history.is_empty() => {
                    let known = recovered.records.get(&record.number);
                    if known.is_none_or(|known| known.version < record.version) {
                        recovered.records.insert(record.number, record);
                    }
                }
                _ => unknown += 1,
            },
            FORGET => {
                recovered.forgotten.insert(header.number);
            }
            NEXT => {}
            _ => unknown += 1,
        }
    }
    let missing = (0..durable).filter(|sequence| !whole.contains(sequence)).count() + unknown;
    Ok((missing > 0).then(|| {
        format!("{missing} of {} entries cannot be read ({unreadable} bad sectors)", durable.max(1))
    }))
}
