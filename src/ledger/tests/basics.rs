//! What goes in comes out.

use std::fs;

use super::support::*;
use crate::ledger::piece::{Entry, Header, encode};
use crate::ledger::{LedgerError, open};
use crate::ports::{Health, Ledger, LedgerEvent};
use crate::storage::disk;

#[test]
fn commands_come_back_in_their_newest_version() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, kept) = Bench::open(dir.path());
    assert_eq!(kept, crate::core::command::Kept::default());
    bench.store((1..=50).map(|number| record(number, 1)));
    bench.store((1..=20).map(|number| record(number, 2)));
    drop(bench);
    for _ in 0..2 {
        let (_, kept) = Bench::open(dir.path());
        let expected = (1..=50).map(|number| record(number, if number <= 20 { 2 } else { 1 }));
        assert_eq!(kept.records, expected.collect::<Vec<_>>());
        assert_eq!((kept.next_number, kept.damaged), (51, false));
    }
}

#[test]
fn forgotten_ones_stay_away_and_their_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = Bench::open(dir.path());
    bench.store((1..=5).map(|number| record(number, 1)));
    for number in [2, 5] {
        bench.ledger.forget(number);
    }
    bench.store([record(3, 2)]);
    bench.close();
    let (mut bench, kept) = Bench::open(dir.path());
    let numbers = |kept: &crate::core::command::Kept| {
        kept.records.iter().map(|record| record.number).collect::<Vec<_>>()
    };
    assert_eq!((numbers(&kept), kept.next_number), (vec![1, 3, 4], 6));
    // Also in the database that is begun now, which has not seen number 5.
    bench.store([record(1, 2)]);
    bench.close();
    let (_, kept) = Bench::open(dir.path());
    assert_eq!((numbers(&kept), kept.next_number), (vec![1, 3, 4], 6));
}

#[test]
fn one_that_is_forgotten_before_it_is_written_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = Bench::open(dir.path());
    bench.ledger.persist(std::sync::Arc::new(record(1, 1)));
    bench.ledger.forget(1);
    bench.close();
    let (_, kept) = Bench::open(dir.path());
    assert_eq!((kept.records.len(), kept.next_number), (0, 2));
}

#[test]
fn the_files_do_not_outgrow_what_is_live() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = Bench::open(dir.path());
    let mut peak = 0;
    for version in 1..=60 {
        bench.store((1..=100).map(|number| record(number, version)));
        peak = peak.max(disk::allocated(dir.path()));
    }
    // 60 versions of 110 KB are 7 MB; one database and the next one beside it are less.
    assert!(peak < 5 << 20, "{peak}");
    drop(bench);
    let (_, kept) = Bench::open(dir.path());
    assert_eq!(kept.records, (1..=100).map(|number| record(number, 60)).collect::<Vec<_>>());
    let folders = fs::read_dir(dir.path().join("commands")).unwrap().flatten();
    let folders = folders.filter(|f| f.file_name().to_string_lossy().starts_with("gen-")).count();
    assert_eq!(folders, 1);
}

#[test]
fn only_one_process_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_bench, _) = Bench::open(dir.path());
    let health = std::sync::Arc::new(Health::default());
    let second = open(dir.path(), health, std::sync::Arc::new(TestClock::default()));
    assert!(matches!(second, Err(LedgerError::InUse { .. })));
}

#[test]
fn changes_that_wait_together_are_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = Bench::open(dir.path());
    for version in 1..=500 {
        bench.ledger.persist(std::sync::Arc::new(record(1, version)));
    }
    let mut commits = 0;
    loop {
        let LedgerEvent::Durable(durable) = bench.event() else { panic!() };
        commits += 1;
        if durable == [(1, 500)] {
            break;
        }
    }
    assert!(commits < 500, "{commits}");
}

#[test]
fn the_format_is_the_one_that_was_written_down() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/disk/command-v1.bin");
    let mut values = encode(&Entry::Next(12), 0, 0);
    values.extend(encode(&Entry::Record(&record(11, 2)), 1, 1));
    values.extend(encode(&Entry::Record(&record(10, 1)), 2, 1));
    values.extend(encode(&Entry::Forget(9), 3, 1));
    let written = values.concat();
    if std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        fs::write(golden, &written).unwrap();
    }
    assert_eq!(fs::read(golden).unwrap(), written);
    let mut rest = written.as_slice();
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        let (header, _) = Header::open(rest).unwrap();
        kinds.push((header.kind, header.number, header.piece, header.pieces));
        rest = &rest[header.size()..];
    }
    let expected =
        [(2, 12, 0, 1), (0, 11, 0, 1), (0, 10, 0, 3), (0, 10, 1, 3), (0, 10, 2, 3), (1, 9, 0, 1)];
    assert_eq!(kinds, expected);
}
