//! `kill -9` and power cuts: a child process writes commands and reports what is durable; the parent
//! ends it and looks for everything that was reported.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::support::*;
use crate::ports::{Ledger, LedgerEvent};
use crate::storage::testing::these_tests;

const CHILD: &str = "TIDEGATE_LEDGER_CHILD";
/// Commands that are live at a time, more or less.
const LIVE: u64 = 60;

/// Not a test of its own: what the child process runs.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (mut bench, kept) = Bench::open(Path::new(&dir));
    let mut out = std::io::stdout();
    let mut say = |line: String| out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    let mut versions: BTreeMap<u64, u32> =
        kept.records.iter().map(|record| (record.number, record.version)).collect();
    let mut next = kept.next_number.max(1);
    say(format!("\nopened {} damaged {}\n", versions.len(), kept.damaged));
    loop {
        for _ in 0..=next % 9 {
            versions.insert(next, 1);
            bench.ledger.persist(Arc::new(record(next, 1)));
            let earlier = next.saturating_sub(5);
            if let Some(version) = versions.get_mut(&earlier) {
                *version += 1;
                bench.ledger.persist(Arc::new(record(earlier, *version)));
            }
            next += 1;
        }
        while versions.len() as u64 > LIVE {
            let (number, _) = versions.pop_first().unwrap();
            say(format!("forget {number}\n"));
            bench.ledger.forget(number);
        }
        match bench.event() {
            LedgerEvent::Durable(durable) => {
                for (number, version) in durable {
                    say(format!("durable {number} {version}\n"));
                }
            }
            event => return say(format!("{event:?}\n")),
        }
    }
}

struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// Versions that are durable and were not asked to be forgotten.
    durable: BTreeMap<u64, u32>,
    forgotten: BTreeSet<u64>,
    count: usize,
    said: String,
}

impl Writer {
    fn start(dir: &Path, durable: BTreeMap<u64, u32>) -> Self {
        let mut child = Command::new(these_tests())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("ledger::tests::crash::child_that_writes_until_it_is_killed")
            .env(CHILD, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, durable, forgotten: BTreeSet::new(), count: 0, said: String::new() }
    }

    fn line(&mut self) -> Option<()> {
        let line = self.lines.next()?.ok()?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["durable", number, version] => {
                let (number, version) = (number.parse().unwrap(), version.parse().unwrap());
                // The report of a write may come after the command was given up again.
                if !self.forgotten.contains(&number) {
                    self.durable.insert(number, version);
                }
                self.count += 1;
            }
            ["forget", number] => {
                let number = number.parse().unwrap();
                self.durable.remove(&number);
                self.forgotten.insert(number);
            }
            _ => {
                self.said.push_str(&line);
                self.said.push('\n');
            }
        }
        Some(())
    }

    /// Until something is durable, and then for `time`.
    fn work(&mut self, time: Duration) {
        let begin = Instant::now();
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < time) {
            assert!(begin.elapsed() < PATIENCE);
            assert_eq!(self.line(), Some(()), "the child ended: {}", self.said);
            if self.count > 0 {
                since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// SIGKILL, and what was in the pipe still counts.
    fn kill(&mut self) {
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

/// Everything durable is there, unchanged or in a later version. What is there now.
fn check(dir: &Path, writer: &Writer, what: &str) -> BTreeMap<u64, u32> {
    assert!(!writer.said.contains("damaged true"), "{what}: {}", writer.said);
    let (_, kept) = Bench::open(dir);
    assert!(!kept.damaged, "{what}");
    for found in &kept.records {
        assert_eq!(*found, record(found.number, found.version), "{what}");
    }
    let there: BTreeMap<u64, u32> =
        kept.records.iter().map(|record| (record.number, record.version)).collect();
    for (number, version) in &writer.durable {
        let found = there.get(number);
        assert!(found.is_some_and(|found| found >= version), "{what}: {number} is {found:?}");
    }
    let last = writer.durable.last_key_value().map_or(0, |(number, _)| *number);
    assert!(kept.next_number > last, "{what}");
    there
}

#[test]
fn after_kill_9_everything_durable_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut there = BTreeMap::new();
    let mut count = 0;
    for round in 0..10 {
        let mut writer = Writer::start(dir.path(), there);
        writer.work(Duration::from_millis(30 + 37 * round % 150));
        writer.kill();
        count += writer.count;
        there = check(dir.path(), &writer, &format!("round {round}"));
    }
    assert!(count > 50, "{count} changes in all rounds");
}

#[test]
fn after_a_power_cut_everything_durable_is_there() {
    let Some(mut disk) = PowerDisk::new() else { return };
    let data = disk.dir().join("data");
    let mut there = BTreeMap::new();
    let mut count = 0;
    for round in 0..10 {
        let mut writer = Writer::start(&data, there);
        writer.work(Duration::from_millis(20 + 61 * round % 400));
        if disk.cut().is_none() {
            assert_eq!(round, 0);
            return;
        }
        writer.kill();
        disk.restart();
        count += writer.count;
        there = check(&data, &writer, &format!("round {round}"));
    }
    assert!(count > 50, "{count} changes in all rounds");
}
