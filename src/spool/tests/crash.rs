//! `kill -9`: a child process adds batches and reports what is durable; the parent kills it and
//! looks for everything that was reported.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::*;
use crate::core::ids::Position;
use crate::ports::{Spool, SpoolEvent};
use crate::storage::testing::these_tests;

const CHILD: &str = "TIDEGATE_SPOOL_CHILD";

/// Not a test of its own: what the child process runs.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut bench = Bench::open(Path::new(&dir), &settings());
    let mut out = std::io::stdout();
    let mut say = |line: String| out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    say(format!("\nopened {}\n", bench.next));
    let mut durable = bench.next - 1;
    loop {
        // Groups of all sizes, some large batches among them.
        let size = bench.next % 7;
        while bench.next <= durable + 1 + size * size {
            let number = bench.next;
            bench.append(if number % 50 == 0 { bulky(number, 9000) } else { batch(number) });
        }
        let event = bench.event();
        let SpoolEvent::Durable { through } = event else { return say(format!("{event:?}\n")) };
        durable = through;
        say(format!("durable {durable} {}\n", monotonic()));
        if durable % 1000 > 900 {
            bench.spool.release(durable - 300);
            say(format!("released {}\n", durable - 300));
        }
    }
}

/// Nanoseconds of the clock that all processes share (`CLOCK_MONOTONIC`).
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

pub(super) fn expected(position: Position) -> crate::core::batch::Batch {
    if position % 50 == 0 { bulky(position, 9000) } else { batch(position) }
}

pub(super) struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    pub(super) durable: Position,
    /// When it said so, of which position.
    said_at: Vec<(u64, Position)>,
    pub(super) released: Position,
    pub(super) said: String,
}

impl Writer {
    pub(super) fn start(dir: &Path) -> Self {
        let mut child = Command::new(these_tests())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("spool::tests::crash::child_that_appends_until_it_is_killed")
            .env(CHILD, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said_at = Vec::new();
        Self { child, lines, durable: 0, said_at, released: 0, said: String::new() }
    }

    /// Reads what the child says; none at its end.
    pub(super) fn line(&mut self) -> Option<()> {
        let line = self.lines.next()?.ok()?;
        if let Some(durable) = line.strip_prefix("durable ") {
            let (durable, at) = durable.split_once(' ').unwrap();
            self.durable = durable.parse().unwrap();
            self.said_at.push((at.parse().unwrap(), self.durable));
        } else if let Some(released) = line.strip_prefix("released ") {
            self.released = released.parse().unwrap();
        } else {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        Some(())
    }

    pub(super) fn until_durable(&mut self, position: Position) {
        let begin = Instant::now();
        while self.durable < position {
            assert!(begin.elapsed() < PATIENCE);
            assert_eq!(self.line(), Some(()), "the child ended: {}", self.said);
        }
    }

    pub(super) fn work(&mut self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            assert_eq!(self.line(), Some(()), "the child ended: {}", self.said);
        }
    }

    /// What it said of positions after `moment` does not count.
    pub(super) fn forget_what_came_after(&mut self, moment: u64) {
        let before = self.said_at.iter().rev().find(|(at, _)| *at < moment);
        self.durable = before.map_or(0, |(_, durable)| *durable);
    }

    /// SIGKILL, and what was in the pipe still counts.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.line().is_some() {}
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything durable and not released is there, unchanged, and nothing was reported lost.
/// Returns the position after the last.
pub(super) fn check(dir: &Path, writer: &Writer, what: &str) -> Position {
    let mut bench = Bench::open(dir, &settings());
    let opened = bench.spool.opened();
    assert_eq!(opened.losses, [], "{what}");
    assert!(opened.tail > writer.durable, "{what}: durable {}, {opened:?}", writer.durable);
    assert!(opened.head <= writer.released + 1 || writer.released == 0, "{what}: {opened:?}");
    let (all, losses) = bench.load_all();
    assert_eq!(losses, [], "{what}");
    for (position, (found, batch)) in (opened.head..).zip(&all) {
        assert_eq!((*found, &**batch), (position, &expected(position)), "{what}");
    }
    assert_eq!(opened.head + all.len() as u64, opened.tail, "{what}");
    opened.tail
}

#[test]
fn after_kill_9_everything_durable_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut tail = 1;
    for round in 0..12 {
        let mut writer = Writer::start(dir.path());
        writer.until_durable(tail);
        writer.work(Duration::from_millis(40 + 37 * round % 150));
        writer.kill();
        tail = check(dir.path(), &writer, &format!("round {round}"));
    }
    assert!(tail > 100, "{tail} batches in all rounds");
}

#[test]
fn a_summary_that_was_not_written_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let small = crate::config::SpoolSettings { max_bytes: 8 << 20, ..settings() };
    let mut bench = Bench::open(dir.path(), &small);
    // Eight times what a generation holds, however the batches are grouped.
    bench.store((0..100).map(|number| bulky(number, 20_000)));
    drop(bench);
    let spool = dir.path().join("spool");
    let summaries =
        || files(&spool).into_iter().filter(|f| f.ends_with("summary")).collect::<Vec<_>>();
    assert!(summaries().len() >= 2);
    for summary in summaries() {
        std::fs::remove_file(spool.join(summary)).unwrap();
    }
    std::fs::remove_file(spool.join("marks")).unwrap();
    let mut bench = Bench::open(dir.path(), &small);
    let opened = bench.spool.opened();
    assert_eq!((opened.head, opened.tail, opened.losses.len()), (1, 101, 0));
    assert_eq!(opened.progress.len(), 20);
    assert!(summaries().len() >= 3);
    assert_eq!(bench.load_all().0.len(), 100);
}
