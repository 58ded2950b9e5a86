//! Generations: holes, crashes, and what counts as lost.

use std::sync::Arc;

use super::*;
use crate::core::clock::Base;
use crate::core::ids::DeviceId;
use crate::storage::pieces::WINDOW;

fn batch(seq: u64) -> Arc<Batch> {
    let device = DeviceId::new("d").unwrap();
    let reading = crate::core::batch::Reading {
        name: "t".into(),
        unit: None,
        value: None,
        sum: Some(seq as f64),
        time: 5.0,
        update_time: None,
        relative: false,
    };
    Arc::new(Batch {
        device,
        epoch: 1,
        seq: Some(seq),
        received: 5.0,
        base: Base::default(),
        shift: 0.0,
        readings: vec![reading],
    })
}

fn group(positions: std::ops::Range<Position>) -> Vec<(Position, Arc<Batch>)> {
    positions.map(|position| (position, batch(position))).collect()
}

fn append(generation: &mut Generation, positions: std::ops::Range<Position>, durable: Position) {
    let group = group(positions);
    generation.append(chunk::build(&group, 0, durable), &group).unwrap();
}

/// A generation from 10 on; `drop` leaves it as a crash does.
fn crashed(dir: &Path, parts: &[(std::ops::Range<Position>, Position)]) -> PathBuf {
    let mut generation = Generation::create(dir, 10).unwrap();
    for (positions, durable) in parts {
        append(&mut generation, positions.clone(), *durable);
    }
    generation.dir().to_path_buf()
}

#[test]
fn the_beginning_of_the_last_group_is_missing_so_the_group_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    // 20 to 24 belong to the group of 25 to 29 and did not reach the disk.
    let path = crashed(dir.path(), &[(10..20, 10), (25..30, 20)]);
    let known = Known { durable: 20, ..Known::default() };
    let generation = Generation::recover(path, 10, &known).unwrap();
    assert_eq!((generation.end, generation.missing), (20, Vec::new()));
}

#[test]
fn a_hole_before_something_that_was_durable_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    // When 25 was written everything before it was durable.
    let path = crashed(dir.path(), &[(10..20, 10), (25..30, 25)]);
    let generation = Generation::recover(path.clone(), 10, &Known::default()).unwrap();
    let lost = Missing { first: 20, end: 25, readings: 5, reported: false };
    assert_eq!((generation.end, generation.missing.clone()), (30, vec![lost]));
    assert_eq!(generation.remaining(0), (15, 15));
    // Known from the summary the second time.
    let again = Generation::recover(path, 10, &Known::default()).unwrap();
    assert_eq!((again.end, &again.missing[..]), (30, &[lost][..]));
    assert_eq!(again.remaining(0), (15, 15));
}

#[test]
fn an_end_that_marks_remembers_and_the_file_does_not_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = crashed(dir.path(), &[(10..20, 10)]);
    let known = Known { durable: 25, readings: 17, ..Known::default() };
    let generation = Generation::recover(path, 10, &known).unwrap();
    let lost = Missing { first: 20, end: 25, readings: 7, reported: false };
    assert_eq!((generation.end, generation.missing), (25, vec![lost]));
}

#[test]
fn what_was_released_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let path = crashed(dir.path(), &[(10..20, 10), (25..30, 25)]);
    let known = Known { head: 27, ..Known::default() };
    let generation = Generation::recover(path, 10, &known).unwrap();
    assert_eq!((generation.end, generation.missing.len()), (30, 0));
}

#[test]
fn chunks_are_found_across_the_windows_of_the_scan() {
    let dir = tempfile::tempdir().unwrap();
    let mut generation = Generation::create(dir.path(), 10).unwrap();
    let mut next = 10;
    while generation.bytes < 3 * WINDOW as u64 {
        append(&mut generation, next..next + 1500, next);
        next += 1500;
    }
    generation.seal(0);
    generation.find_places(0).unwrap();
    let places = generation.places.clone().unwrap();
    assert_eq!(places.iter().map(|place| u64::from(place.count)).sum::<u64>(), next - 10);
    assert!(generation.missing.is_empty());
}

#[test]
fn a_value_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut generation = Generation::create(dir.path(), 1).unwrap();
    let before = generation.bytes;
    let mut payload = 0;
    for round in 0..400 {
        let group = group(1 + 500 * round..501 + 500 * round);
        let chunks = chunk::build(&group, 0, 0);
        payload += chunks.iter().flat_map(|c| &c.values).map(|v| v.len() as u64).sum::<u64>();
        generation.append(chunks, &group).unwrap();
    }
    let written = generation.bytes - before;
    assert!(payload > 1 << 19, "{payload}");
    assert!(written < payload + payload / 5, "{written} bytes on the disk for {payload}");
    let blobs = fs::read_dir(generation.dir().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0, "values that the database does not sync");
}

#[test]
fn folder_names_are_read_back() {
    assert_eq!(folder_name(255), "gen-00000000000000ff");
    assert_eq!(parse_folder_name("gen-00000000000000ff"), Some(255));
    for other in ["gen-ff", "gen-00000000000000fg", "trash-gen-00000000000000ff", "marks", ""] {
        assert_eq!(parse_folder_name(other), None, "{other}");
    }
}
