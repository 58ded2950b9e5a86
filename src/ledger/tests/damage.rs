//! Flipped bits, cut and missing files: what is left is used, what is missing is told.

use std::fs;
use std::path::Path;

use super::support::*;

const COMMANDS: u64 = 60;

/// Two versions of each command.
fn sample(dir: &Path) {
    let (mut bench, _) = Bench::open(dir);
    bench.store((1..=COMMANDS).map(|number| record(number, 1)));
    bench.store((1..=COMMANDS).map(|number| record(number, 2)));
    bench.close();
}

/// Opens it; what is there is right, whatever is missing. How many are in their newest version.
fn newest(dir: &Path, what: &str) -> (usize, bool) {
    let (mut bench, kept) = Bench::open(dir);
    for found in &kept.records {
        assert_eq!(*found, record(found.number, found.version), "{what}");
    }
    assert_eq!(bench.health.ledger().damaged > 0, kept.damaged);
    let count = kept.records.iter().filter(|record| record.version == 2).count();
    // It goes on, and the damage is told once.
    let number = kept.next_number.max(COMMANDS + 1);
    bench.store([record(number, 1)]);
    bench.close();
    let (_, again) = Bench::open(dir);
    assert!(!again.damaged, "{what}: told again");
    assert_eq!(again.records.len(), kept.records.len() + 1, "{what}");
    (count, kept.damaged)
}

#[test]
fn flipped_bytes_cost_the_entry_they_hit_and_are_noticed() {
    let good = tempfile::tempdir().unwrap();
    sample(good.path());
    let db = files(good.path()).into_iter().find(|file| file.ends_with("db")).unwrap();
    let bytes = fs::read(good.path().join(&db)).unwrap();
    let mut hits = 0;
    for part in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        copy(good.path(), dir.path());
        // Within what is written; the file is longer.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = end * part / 11;
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xa5;
        fs::write(dir.path().join(&db), &bytes).unwrap();
        let (count, damaged) = newest(dir.path(), &format!("flipped at {at}"));
        assert!(count as u64 + 1 >= COMMANDS, "flipped at {at}: {count}");
        assert!(damaged || count as u64 == COMMANDS, "flipped at {at}: not noticed");
        hits += usize::from(damaged);
    }
    assert!(hits > 2, "the test damages something: {hits}");
}

#[test]
fn a_file_that_is_cut_short_or_gone_is_told() {
    let good = tempfile::tempdir().unwrap();
    sample(good.path());
    let db = files(good.path()).into_iter().find(|file| file.ends_with("db")).unwrap();
    let bytes = fs::read(good.path().join(&db)).unwrap();
    for keep in [None, Some(0), Some(bytes.len() / 8), Some(bytes.len())] {
        let dir = tempfile::tempdir().unwrap();
        copy(good.path(), dir.path());
        match keep {
            None => fs::remove_file(dir.path().join(&db)).unwrap(),
            Some(len) => fs::write(dir.path().join(&db), &bytes[..len]).unwrap(),
        }
        let (count, damaged) = newest(dir.path(), &format!("cut to {keep:?}"));
        if keep == Some(bytes.len()) {
            assert_eq!((count as u64, damaged), (COMMANDS, false));
        } else if keep.is_none_or(|len| len == 0) {
            assert!(damaged && count == 0, "cut to {keep:?}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(good.path(), dir.path());
    fs::remove_dir_all(dir.path().join(db.parent().unwrap())).unwrap();
    assert_eq!(newest(dir.path(), "folder gone"), (0, true));
}

#[test]
fn damaged_folders_are_put_aside_three_at_most() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let (mut bench, kept) = Bench::open(dir.path());
        assert_eq!(kept.damaged, round > 1, "round {round}");
        bench.store([record(round, 1)]);
        bench.store([record(round, 2)]);
        bench.close();
        let is_live = |file: &Path| file.to_string_lossy().contains("/gen-");
        let mut found = files(dir.path()).into_iter();
        let db = found.rfind(|f| f.ends_with("db") && is_live(f)).unwrap();
        let path = dir.path().join(db);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|window| window == b"tgL1").unwrap();
        bytes[at + 20] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let aside = fs::read_dir(dir.path().join("commands")).unwrap().flatten();
    let aside = aside.filter(|f| f.file_name().to_string_lossy().starts_with("damaged-")).count();
    assert!((1..=3).contains(&aside), "{aside}");
}
