//! Looking into a spool without touching it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::support::*;
use crate::core::batch::Batch;
use crate::core::clock::Moment;
use crate::ports::Spool;
use crate::spool::inspect::{Fault, InspectError, Inspection};
use crate::spool::marks;

const BATCHES: u64 = 150;
const SIZE: usize = 8200;

/// Some generations, of which the first five batches are released.
fn sample(dir: &Path) {
    let settings = crate::config::SpoolSettings { max_bytes: 8 << 20, ..settings() };
    let mut bench = Bench::open(dir, &settings);
    bench.store((0..BATCHES).map(|number| bulky(number, SIZE)));
    bench.spool.release(5);
    let path = dir.join("spool/marks");
    bench.until("the release is written", |_| {
        marks::read(&path).unwrap().is_some_and(|marks| marks.head == 6)
    });
}

fn read(dir: &Path) -> (BTreeMap<u64, Batch>, Vec<Fault>) {
    let inspection = Inspection::open(dir, Moment::default()).unwrap();
    let mut batches = BTreeMap::new();
    let mut faults = inspection.faults.clone();
    for folder in &inspection.generations {
        let each = |position, batch| {
            assert!(batches.last_key_value().is_none_or(|(last, _)| *last < position), "in order");
            batches.insert(position, batch);
            Ok::<_, Infallible>(())
        };
        let Ok(facts) = inspection.read(folder, each, |fault| faults.push(fault));
        assert!(facts.bytes > 0 || facts.batches == 0);
    }
    for (position, batch) in &batches {
        assert_eq!(*batch, bulky(position - 1, SIZE), "position {position}");
    }
    (batches, faults)
}

/// Every path below `dir` with its size, content and time of change.
fn state(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            let content = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            all.insert(path.display().to_string(), (content, changed));
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    all
}

#[test]
fn all_that_waits_is_read_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let before = state(dir.path());
    let (batches, faults) = read(dir.path());
    assert_eq!(faults, []);
    assert!(batches.keys().copied().eq(6..=BATCHES));
    assert!(before == state(dir.path()), "something was changed");
    // A gateway finds it as it was.
    let mut bench = Bench::open(dir.path(), &settings());
    assert_eq!(bench.load_all().0.len() as u64, BATCHES - 5);
}

#[test]
fn a_folder_in_use_or_without_a_spool_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = Inspection::open(dir.path(), Moment::default()).unwrap_err();
    assert!(matches!(refusal, InspectError::NoSpool { .. }), "{refusal}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is made");
    let bench = Bench::open(dir.path(), &settings());
    let refusal = Inspection::open(dir.path(), Moment::default()).unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
    drop(bench);
    let inspection = Inspection::open(dir.path(), Moment::default()).unwrap();
    assert_eq!((inspection.head, inspection.next), (1, 1));
    assert!(inspection.generations.is_empty() && inspection.faults.is_empty());
}

#[test]
fn whatever_is_damaged_all_the_rest_is_read_and_the_gap_is_told() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let mut files = Vec::new();
    for (path, (content, _)) in state(dir.path()) {
        if path.contains("gen-") && !content.is_empty() {
            files.push((path, content));
        }
    }
    assert!(files.iter().filter(|(path, _)| path.ends_with("/db")).count() > 1);
    for (path, content) in &files {
        for part in 0..5 {
            let mut bad = content.clone();
            let at = content.len() * part / 5;
            match part {
                0 => bad.clear(),
                1 => bad.truncate(at),
                _ => bad[at] ^= 0x10,
            }
            fs::write(path, &bad).unwrap();
            let (batches, faults) = read(dir.path());
            let mut missing: Vec<u64> = (6..=BATCHES).collect();
            missing.retain(|position| !batches.contains_key(position));
            let told: Vec<u64> = faults.iter().flat_map(|fault| fault.first..fault.end).collect();
            assert_eq!(missing, told, "{path}, part {part}");
            if part > 1 {
                assert!(missing.len() <= 1, "a flipped bit takes one chunk: {missing:?}");
            }
        }
        fs::write(path, content).unwrap();
    }
    assert_eq!(read(dir.path()).1, []);
}

#[test]
fn a_folder_that_is_gone_is_told_and_so_are_lost_marks() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let first = Inspection::open(dir.path(), Moment::default()).unwrap().generations[0].clone();
    fs::remove_file(dir.path().join("spool/marks")).unwrap();
    let inspection = Inspection::open(dir.path(), Moment::default()).unwrap();
    assert!(inspection.notes[0].contains("marks"), "{:?}", inspection.notes);
    let (batches, faults) = read(dir.path());
    assert_eq!(faults, []);
    assert_eq!(*batches.last_key_value().unwrap().0, BATCHES);

    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    fs::remove_dir_all(dir.path().join("spool").join(&first.name)).unwrap();
    let (batches, faults) = read(dir.path());
    assert_eq!((faults.len(), faults[0].first), (1, 6));
    assert_eq!(faults[0].end, *batches.first_key_value().unwrap().0);
}

#[test]
fn what_was_kept_aside_is_listed_and_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let spool = dir.path().join("spool");
    let inspection = Inspection::open(dir.path(), Moment::default()).unwrap();
    let (first, second) = (&inspection.generations[0], &inspection.generations[1]);
    let aside = format!("damaged-1763800000-{}", first.name);
    fs::rename(spool.join(&first.name), spool.join(&aside)).unwrap();
    let inspection = Inspection::open(dir.path(), Moment::default()).unwrap();
    assert_eq!(inspection.aside.len(), 1);
    let mut positions = Vec::new();
    let each = |position, _| {
        positions.push(position);
        Ok::<_, Infallible>(())
    };
    let Ok(facts) = inspection.read(&inspection.aside[0], each, |_| {});
    assert!(positions.iter().copied().eq(1..second.first), "{facts:?}");
}

#[test]
fn what_was_being_written_when_the_power_went_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path(), &settings());
    bench.store((0..20).map(|number| bulky(number, SIZE)));
    // Stopped in the middle: no summary, and marks that know the last commit.
    let copy = tempfile::tempdir().unwrap();
    for (path, (content, _)) in state(dir.path()) {
        let target = copy.path().join(Path::new(&path).strip_prefix(dir.path()).unwrap());
        if Path::new(&path).is_dir() {
            fs::create_dir_all(target).unwrap();
        } else if !path.ends_with("/lock") {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
        }
    }
    let (batches, faults) = read(copy.path());
    assert_eq!((batches.len(), faults), (20, Vec::new()));
    assert!(!copy.path().join("lock").exists(), "a copy without a lock works, and none is made");
}
