//! Bad sectors, flipped bits, missing files: whatever is left is delivered, the rest is counted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::support::*;
use crate::core::batch::LossReason;
use crate::ports::Spool;
use crate::spool::marks::MarksFile;

const BATCHES: u64 = 150;
/// So large that each batch is a chunk of its own, in several pieces.
const SIZE: usize = 8200;

/// A spool with some complete generations, the last one with a crash behind it, and all the small
/// files.
fn sample(dir: &Path) {
    let settings = crate::config::SpoolSettings { max_bytes: 8 << 20, ..settings() };
    let mut bench = Bench::open(dir, &settings);
    bench.store((0..BATCHES).map(|number| bulky(number, SIZE)));
    bench.spool.release(5);
    let marks = dir.join("spool/marks");
    bench.until("the release is written", |_| {
        MarksFile::open(&marks).unwrap().1.is_some_and(|marks| marks.head == 6)
    });
}

/// Opens and drains; asserts that nothing is wrong, out of order, or gone without a loss.
fn drain(dir: &Path, what: &str) -> (Bench, u64) {
    let mut bench = Bench::open(dir, &settings());
    let opened = bench.spool.opened();
    assert!(opened.tail > BATCHES, "{what}: positions would be used twice from {}", opened.tail);
    let (all, mut losses) = bench.load_all();
    losses.extend(opened.losses);
    assert!(losses.iter().all(|loss| loss.reason == LossReason::Corrupt), "{what}");
    let lost: u64 = losses.iter().map(|loss| loss.readings).sum();
    let mut seen = BTreeSet::new();
    for (position, batch) in &all {
        assert_eq!(**batch, bulky(position - 1, SIZE), "{what}: position {position}");
        assert!(seen.last().is_none_or(|last| last < position), "{what}: order");
        seen.insert(*position);
    }
    let missing = (6..=BATCHES).filter(|position| !seen.contains(position)).count() as u64;
    assert_eq!(lost, missing, "{what}: lost readings, and those that are counted");
    // Reading on works, and the same loss is not reported twice.
    let (again, losses) = bench.load_all();
    assert_eq!((again.len(), losses.len()), (all.len(), 0), "{what}");
    bench.store([batch(1)]);
    (bench, lost)
}

fn has(dir: &Path, prefix: &str) -> bool {
    let mut entries = fs::read_dir(dir.join("spool")).unwrap();
    entries.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(prefix))
}

struct Samples {
    dir: tempfile::TempDir,
    files: Vec<PathBuf>,
    count: usize,
}

impl Samples {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sample(&dir.path().join("good"));
        let files = files(&dir.path().join("good/spool"));
        assert!(files.iter().filter(|file| file.ends_with("db")).count() >= 2, "{files:?}");
        assert!(files.iter().any(|file| file.ends_with("summary")), "{files:?}");
        Self { dir, files, count: 0 }
    }

    fn copy(&mut self) -> PathBuf {
        self.count += 1;
        let path = self.dir.path().join(self.count.to_string());
        copy(&self.dir.path().join("good"), &path);
        path
    }
}

#[test]
fn flipped_bytes_in_any_file_cost_the_chunks_they_hit_and_no_more() {
    let mut samples = Samples::new();
    let mut hits = 0;
    for file in samples.files.clone() {
        for part in 0..8 {
            let copy = samples.copy();
            let path = copy.join("spool").join(&file);
            let mut bytes = fs::read(&path).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = (bytes.len() - 1) * part / 7;
            bytes[at] ^= 0xa5;
            fs::write(&path, &bytes).unwrap();
            let (bench, lost) = drain(&copy, &format!("{} flipped at {at}", file.display()));
            // A chunk holds one batch here.
            assert!(lost <= 1, "{} flipped at {at}: {lost} lost", file.display());
            hits += lost;
            drop(bench);
            fs::remove_dir_all(copy).unwrap();
        }
    }
    assert!(hits > 3, "the test damages something: {hits}");
}

#[test]
fn any_file_may_be_cut_short_or_be_gone() {
    let mut samples = Samples::new();
    for file in samples.files.clone() {
        for keep in [None, Some(0), Some(30), Some(90)] {
            let copy = samples.copy();
            let path = copy.join("spool").join(&file);
            let what = format!("{} cut to {keep:?}", file.display());
            let len = fs::metadata(&path).unwrap().len();
            match keep {
                None => fs::remove_file(&path).unwrap(),
                Some(percent) => {
                    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(len * percent / 100).unwrap();
                }
            }
            if file.ends_with("marks") {
                // Without marks it is not known what was released; nothing is lost.
                let mut bench = Bench::open(&copy, &settings());
                let opened = bench.spool.opened();
                assert_eq!((opened.tail, opened.losses.len()), (BATCHES + 1, 0), "{what}");
                assert!(bench.load_all().0.len() as u64 >= BATCHES - 5, "{what}");
            } else {
                let (mut bench, _) = drain(&copy, &what);
                if keep == Some(30) {
                    bench.spool.release(bench.next - 1);
                    bench.until("all is deleted", |_| !has(&copy, "gen-"));
                }
            }
            fs::remove_dir_all(copy).unwrap();
        }
    }
}

#[test]
fn a_folder_that_is_gone_is_counted_once() {
    let mut samples = Samples::new();
    let mut folders: Vec<_> = samples
        .files
        .iter()
        .filter(|f| f.ends_with("db"))
        .map(|f| f.parent().unwrap().to_path_buf())
        .collect();
    folders.sort();
    for folder in folders {
        let copy = samples.copy();
        fs::remove_dir_all(copy.join("spool").join(&folder)).unwrap();
        let what = format!("{} is gone", folder.display());
        let first = Bench::open(&copy, &settings());
        let lost = first.spool.opened().losses.iter().map(|loss| loss.readings).sum::<u64>();
        assert!(lost > 0, "{what}");
        drop(first);
        let mut second = Bench::open(&copy, &settings());
        assert_eq!(second.spool.opened().losses, [], "{what}: reported again");
        let (all, losses) = second.load_all();
        assert_eq!((all.len() as u64 + lost, losses.len()), (BATCHES - 5, 0), "{what}");
    }
}

#[test]
fn damaged_folders_are_kept_aside_three_at_most() {
    let mut samples = Samples::new();
    let copy = samples.copy();
    for round in 0..5_u64 {
        let mut bench = Bench::open(&copy, &settings());
        let position = bench.next;
        bench.store([bulky(round, 3000)]);
        drop(bench);
        for file in files(&copy.join("spool")) {
            if file.ends_with("db") && file.starts_with(format!("gen-{position:016x}")) {
                let path = copy.join("spool").join(file);
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes.windows(4).position(|window| window == b"tgS1").unwrap();
                bytes[at + 100] ^= 1;
                fs::write(path, bytes).unwrap();
            }
        }
        let mut bench = Bench::open(&copy, &settings());
        let losses = bench.spool.opened().losses;
        assert_eq!(losses.iter().map(|loss| loss.readings).collect::<Vec<_>>(), [1]);
        bench.load_all();
        bench.spool.release(position);
        bench.until("put aside", |_| !has(&copy, "gen-"));
    }
    let damaged = fs::read_dir(copy.join("spool")).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged-")
    });
    assert_eq!(damaged.count(), 3);
}
