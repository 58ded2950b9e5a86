//! What this process has caused to be written to storage, since its start and today: the wear of
//! an SD card.
//!
//! Linux counts it in `/proc/self/io`. "Today" is since midnight UTC, by the clock of now: the
//! count goes back from now by monotonic time, so a clock that is set, forwards or back, makes a
//! day neither longer nor shorter than it was.
//!
//! # The file
//!
//! So that a restart does not begin the day anew, `data_dir/disk-written` keeps what was written on
//! the two days last seen. It is written in place and not synced, when the gateway stops, and each
//! ten minutes in which at least 256 KiB were written: one page more for 64 others at
//! the worst, and nothing at all while nothing else is written. A kill or a power cut loses count
//! of the last ten minutes at most. Not part of the spool's `marks`: those are written ten times a
//! second in an outage and have no room for what is only nice to know.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::ports::{Clock, lock};

/// Between two saves, in seconds.
const SAVE_EVERY: f64 = 600.0;
/// Bytes that must have been written for a save to be worth its own page.
const SAVE_MIN: u64 = 256 * 1024;
/// Between two notes of how much had been written by then, in seconds.
const NOTE_EVERY: f64 = 300.0;
/// How far back notes are needed, in seconds.
const DAY: f64 = 86_400.0;
/// Days that the file keeps: a board that starts with a wrong clock sees two.
const DAYS: usize = 2;

/// Bytes written to storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Since the process started.
    pub since_start: u64,
    /// Since midnight UTC, by earlier processes on the same data folder as well.
    pub today: u64,
}

/// Keeps count. Shared in an [`Arc`].
pub struct Wear {
    clock: Arc<dyn Clock>,
    started: Instant,
    count: Mutex<Count>,
}

impl std::fmt::Debug for Wear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wear").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Wear {
    /// Begins to count; made when the process starts.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, started: Instant::now(), count: Mutex::default() }
    }

    /// Takes in what earlier processes noted in `data_dir`, and keeps the count there from now on.
    /// Only for who holds the folder's lock.
    pub fn keep_in(&self, data_dir: &Path) {
        let path = data_dir.join("disk-written");
        let earlier = fs::read_to_string(&path).map_or_else(|_| Vec::new(), |text| decode(&text));
        let mut count = lock(&self.count);
        count.earlier = earlier;
        count.path = Some(path);
    }

    /// How much it is; none where `/proc/self/io` cannot be read: without I/O accounting in the
    /// kernel, without `/proc`, or in a process that may not be inspected.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        let since_start = since_start()?;
        let now = self.started.elapsed().as_secs_f64();
        let today = lock(&self.count).today(now, self.clock.unix(), since_start);
        Some(Written { since_start, today })
    }

    /// To be called now and then, each minute at least: notes the count, saves it when it is time.
    pub fn watch(&self) {
        let Some(written) = since_start() else { return };
        let now = self.started.elapsed().as_secs_f64();
        let mut count = lock(&self.count);
        count.note(now, written);
        if now - count.saved_at >= SAVE_EVERY && written - count.saved.min(written) >= SAVE_MIN {
            count.save(now, self.clock.unix(), written);
        }
    }

    /// Saves the count if anything was written since the last time; before the process ends.
    pub fn save(&self) {
        let Some(written) = since_start() else { return };
        let mut count = lock(&self.count);
        if written > count.saved {
            count.save(self.started.elapsed().as_secs_f64(), self.clock.unix(), written);
        }
    }
}

/// What this process has caused to be written to storage, in bytes, as Linux counts it.
fn since_start() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// The number of a day since 1970 and the bytes written on it.
type Day = (i64, u64);

/// Times are seconds since the process started, or Unix time in seconds where they are called
/// `wall`; `written` is in bytes since the process started.
#[derive(Debug, Default)]
struct Count {
    path: Option<PathBuf>,
    earlier: Vec<Day>,
    notes: VecDeque<(f64, u64)>,
    saved_at: f64,
    saved: u64,
}

impl Count {
    fn note(&mut self, now: f64, written: u64) {
        if self.notes.back().is_some_and(|(then, _)| now < then + NOTE_EVERY) {
            return;
        }
        self.notes.push_back((now, written));
        while self.notes.get(1).is_some_and(|(then, _)| now - then > DAY) {
            self.notes.pop_front();
        }
    }

    fn today(&self, now: f64, wall: f64, written: u64) -> u64 {
        let midnight = now - wall.rem_euclid(DAY);
        if midnight > 0.0 {
            return written.saturating_sub(self.written_by(midnight, now, written));
        }
        let day = day(wall);
        let earlier = self.earlier.iter().find(|(then, _)| *then == day);
        written.saturating_add(earlier.map_or(0, |(_, bytes)| *bytes))
    }

    /// How much had been written at `time`, which is not after `now`.
    fn written_by(&self, time: f64, now: f64, written: u64) -> u64 {
        let next = self.notes.partition_point(|(then, _)| *then < time);
        let before = next.checked_sub(1).and_then(|at| self.notes.get(at));
        let (then, least) = before.copied().unwrap_or((0.0, 0));
        let (after, most) = self.notes.get(next).copied().unwrap_or((now, written));
        let share = if after > then { (time - then) / (after - then) } else { 1.0 };
        // Between the two, so it fits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let more = (most.saturating_sub(least) as f64 * share.clamp(0.0, 1.0)) as u64;
        least + more
    }

    fn save(&mut self, now: f64, wall: f64, written: u64) {
        let Some(path) = &self.path else { return };
        let day = day(wall);
        let mut days = vec![(day, self.today(now, wall, written))];
        days.extend(self.earlier.iter().filter(|(then, _)| *then != day));
        days.truncate(DAYS);
        self.saved_at = now;
        self.saved = written;
        if let Err(error) = write_in_place(path, &encode(&days)) {
            tracing::debug!(%error, path = %path.display(), "the wear of today is not noted");
        }
    }
}

fn day(wall: f64) -> i64 {
    // Saturates; no clock shows that.
    #[allow(clippy::cast_possible_truncation)]
    let day = (wall / DAY).floor() as i64;
    day
}

/// Lines of one length, so that writing them again in place leaves nothing of the old ones.
fn encode(days: &[Day]) -> String {
    let lines = (0..DAYS).map(|at| {
        let (day, bytes) = days.get(at).copied().unwrap_or((0, 0));
        format!("{day:>12} {bytes:>20}\n")
    });
    let head = "# days since 1970, UTC; bytes written to storage\n".to_owned();
    std::iter::once(head).chain(lines).collect()
}

/// What of the file makes sense.
fn decode(text: &str) -> Vec<Day> {
    let lines = text.lines().take(DAYS + 1).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon of some day.
    const NOON: f64 = 20_000.0 * DAY + DAY / 2.0;

    #[test]
    fn today_begins_at_midnight() {
        let mut count = Count::default();
        for minute in 0..(36 * 60_u32) {
            let now = f64::from(minute) * 60.0;
            let written = u64::from(minute) * 1000;
            count.note(now, written);
            let today = count.today(now, NOON + now, written);
            let since_midnight = if minute < 12 * 60 { minute } else { minute - 12 * 60 };
            let expected = u64::from(since_midnight % (24 * 60)) * 1000;
            assert!(today.abs_diff(expected) <= 1000, "{today} is not {expected} at {minute}");
        }
        assert!(count.notes.len() < 300, "bounded");
    }

    #[test]
    fn a_clock_that_is_set_changes_no_count() {
        let mut count = Count { earlier: vec![(20_000, 500), (7, 9)], ..Count::default() };
        // Boots in 1970, writes 100 in an hour, hears the time.
        count.note(0.0, 0);
        count.note(3600.0, 100);
        assert_eq!(count.today(3600.0, 3600.0, 100), 100, "nothing is known of that day");
        assert_eq!(count.today(3601.0, NOON, 100), 600, "the earlier part of today counts");
        assert_eq!(count.today(3602.0, NOON + DAY, 100), 100, "a day later it does not");
        let today = count.today(3603.0, 30.0, 100);
        assert!(today <= 1, "and back: half a minute after midnight, {today}");
        // The right time again.
        assert_eq!(count.today(3604.0, NOON + 3.0, 100), 600);
    }

    #[test]
    fn a_restart_goes_on_with_the_day_and_a_wrong_clock_in_between_does_not_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-written");
        let load = || decode(&fs::read_to_string(&path).unwrap());
        let mut first = Count { path: Some(path.clone()), ..Count::default() };
        first.save(60.0, NOON, 123_456_789);
        let mut second = Count { path: Some(path.clone()), earlier: load(), ..Count::default() };
        assert_eq!(second.today(1.0, NOON + 100.0, 11), 123_456_800);
        second.save(1.0, 40.0, 11);
        let third = Count { path: Some(path.clone()), earlier: load(), ..Count::default() };
        assert_eq!(third.today(1.0, NOON + 200.0, 0), 123_456_789);
        assert_eq!(third.today(1.0, 50.0, 0), 11);
    }

    #[test]
    fn a_file_of_nonsense_is_nothing() {
        for text in ["", "x", "1", "# 7 7\n\n1 x\n", "\u{0}\u{0}"] {
            assert_eq!(decode(text), [], "{text:?}");
        }
        assert_eq!(decode("-1 5\n99999999999999999999 5\n"), [(-1, 5)]);
    }

    #[test]
    fn the_process_itself_is_counted_and_saved_once() {
        struct Fixed;
        impl Clock for Fixed {
            fn unix(&self) -> f64 {
                NOON
            }
        }
        let Some(before) = since_start() else {
            println!("skipped: /proc/self/io cannot be read");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let wear = Wear::new(Arc::new(Fixed));
        wear.keep_in(dir.path());
        wear.watch();
        let written = wear.written().unwrap();
        assert!(written.since_start >= before && written.today >= before, "{written:?}");
        lock(&wear.count).path = Some(dir.path().join("disk-written"));
        assert!(!dir.path().join("disk-written").exists(), "watching alone writes nothing");
        lock(&wear.count).save(1.0, NOON, 5);
        let again = Wear::new(Arc::new(Fixed));
        again.keep_in(dir.path());
        assert_eq!(lock(&again.count).earlier.first(), Some(&(20_000, 5)));
    }
}
