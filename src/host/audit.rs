//! The audit log: who signed in, commanded, changed who gets in, or was refused; from where, and
//! with what outcome.
//!
//! Each entry is a log event with the target `audit`, and a line of JSON in `audit.log` in the data
//! directory: mode 0600, fsynced, at `FILE_MAX` renamed to `audit.log.1`, which replaces the one
//! before. A thread of its own writes, so that no disk holds up who asks. What cannot be written
//! waits, `WAITING` entries at most, and what is given up is counted in an entry of its own.
//!
//! Strangers can cause refusals and failed sign-ins without end; so that they can neither wear the
//! disk nor push the rest out of the file, those are noted at a bounded rate (`BURST`, then one
//! every `REFILL`), and an entry says how many were left out.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

/// The target of the log events.
pub const TARGET: &str = "audit";

/// Bytes at which a new file is begun.
const FILE_MAX: u64 = 2 << 20;
/// Entries that wait for the disk at most.
const WAITING: usize = 512;
/// Refusals that are noted at once.
const BURST: f64 = 60.0;
/// After those, one in this time.
const REFILL: Duration = Duration::from_secs(5);
/// Most characters of a text in an entry.
const TEXT_MAX: usize = 200;
/// How long to rest after a failed write.
const REST: Duration = Duration::from_secs(2);
/// Bytes of each file that [`Audit::newest`] looks at.
const READ_MAX: u64 = 1 << 20;

/// What happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entry {
    /// Unix time in seconds; set when it is noted.
    pub time: f64,
    /// `login`, `logout`, `session`, `command`, `denied`, `user`, `device`, `audit`.
    pub event: &'static str,
    /// The user or token, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The address, or `command line`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// `ok`, or what it came to.
    pub outcome: String,
}

/// Takes entries. Without a file they are log events only.
#[derive(Debug)]
pub struct Audit {
    writer: Option<(SyncSender<Entry>, PathBuf)>,
    thread: Option<JoinHandle<()>>,
    allowance: Mutex<Allowance>,
}

#[derive(Debug)]
struct Allowance {
    left: f64,
    since: Instant,
    left_out: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { writer: None, thread: None, allowance: Mutex::new(Allowance::full()) }
    }
}

impl Audit {
    /// Writes to `audit.log` in `folder`, which may come into being later.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = path_in(folder);
        let (sender, entries) = sync_channel(WAITING);
        let writer = Writer { path: path.clone(), file: None, waiting: VecDeque::new(), lost: 0 };
        let thread = std::thread::Builder::new().name("audit".into());
        let thread = Some(thread.spawn(move || writer.run(&entries))?);
        let allowance = Mutex::new(Allowance::full());
        Ok(Self { writer: Some((sender, path)), thread, allowance })
    }

    /// Notes what somebody did.
    pub fn note(&self, entry: Entry) {
        let entry = entry.stamped();
        tell(&entry);
        let Some((sender, _)) = &self.writer else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(entry) {
            tracing::error!("an entry is missing in audit.log: its disk does not keep up");
        }
    }

    /// Notes what a stranger can cause at will: at a bounded rate.
    pub fn note_refusal(&self, entry: Entry) {
        let left_out = {
            let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(left_out) = allowance.take(Instant::now()) else { return };
            left_out
        };
        if left_out > 0 {
            self.note(Entry {
                event: "audit",
                outcome: format!("{left_out} refusals were too many to note"),
                ..Entry::default()
            });
        }
        self.note(entry);
    }

    /// The newest `limit` entries of the file, oldest first, as they stand there. Reads the disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, limit: usize) -> io::Result<Vec<serde_json::Value>> {
        let Some((_, path)) = &self.writer else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for path in [path.clone(), before(path)] {
            if entries.len() >= limit {
                break;
            }
            let text = end_of(&path)?;
            // Newest first for now. A line that was cut is none.
            let lines = text.rsplit(|byte| *byte == b'\n');
            let parsed = lines.filter_map(|line| serde_json::from_slice(line).ok());
            entries.extend(parsed.take(limit - entries.len()));
        }
        entries.reverse();
        Ok(entries)
    }

    /// Adds an entry to the file in `folder` at once, for a process that is not the gateway. Where
    /// there is no such folder, no gateway has run yet and nothing is noted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(folder: &Path, entry: Entry) -> io::Result<()> {
        if !folder.is_dir() {
            return Ok(());
        }
        let mut file = open(&path_in(folder))?;
        file.write_all(&line(&entry.stamped()))?;
        file.sync_data()
    }
}

/// Waits until what was noted is written, or the disk refuses it.
impl Drop for Audit {
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to write.
            let _ = thread.join();
        }
    }
}

impl Allowance {
    fn full() -> Self {
        Self { left: BURST, since: Instant::now(), left_out: 0 }
    }

    /// How many were left out before this one; `None` if this one is left out too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed / REFILL.as_secs_f64()).min(BURST);
        if self.left < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Entry {
    fn stamped(mut self) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.time = (since.map_or(0.0, |since| since.as_secs_f64()) * 1000.0).round() / 1000.0;
        for text in [&mut self.who, &mut self.from, &mut self.what].into_iter().flatten() {
            cut(text);
        }
        cut(&mut self.outcome);
        self
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

fn tell(entry: &Entry) {
    // What is not known has no field.
    tracing::info!(
        target: TARGET,
        event = entry.event,
        who = entry.who,
        role = entry.role,
        from = entry.from,
        what = entry.what,
        outcome = entry.outcome,
        "{}",
        entry.event
    );
}

fn line(entry: &Entry) -> Vec<u8> {
    // Strings and a finite number: that cannot fail.
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    line
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// For adding at the end. One that root makes is the folder's owner's, so that the gateway can go
/// on with it; a link is not followed, as the folder is the gateway's and root may be the writer.
fn open(path: &Path) -> io::Result<File> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600).custom_flags(nofollow);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        file => return file,
    }
    let file = options.create(true).open(path)?;
    let (own, folder) = (file.metadata()?, std::fs::metadata(path.parent().unwrap_or(path))?);
    if own.uid() == 0 && (folder.uid(), folder.gid()) != (own.uid(), own.gid()) {
        std::os::unix::fs::fchown(&file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(file)
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_MAX)))?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    waiting: VecDeque<Entry>,
    lost: u64,
}

impl Writer {
    /// Until nobody can note anything any more and all is written or the disk refuses it.
    fn run(mut self, entries: &Receiver<Entry>) {
        let mut failing = false;
        loop {
            let next = if self.waiting.is_empty() {
                entries.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                entries.recv_timeout(REST)
            };
            let over = matches!(next, Err(RecvTimeoutError::Disconnected));
            self.waiting.extend(next);
            // Whatever waits together shares an fsync.
            self.waiting.extend(entries.try_iter().take(WAITING));
            while self.waiting.len() > WAITING {
                self.waiting.pop_front();
                self.lost += 1;
            }
            match self.write() {
                Ok(()) => failing = false,
                // Once: a full disk must not fill the log as well.
                Err(error) if !failing => {
                    failing = true;
                    let file = self.path.display();
                    tracing::error!(%file, %error, "the audit log cannot be written; entries wait");
                }
                Err(_) => {}
            }
            if over {
                return;
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.turn()?;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path)?),
        };
        let mut bytes = Vec::new();
        if self.lost > 0 {
            let outcome = format!("{} entries were lost: they could not be written", self.lost);
            bytes = line(&Entry { event: "audit", outcome, ..Entry::default() }.stamped());
        }
        bytes.extend(self.waiting.iter().flat_map(line));
        let length = file.metadata()?.len();
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // Half a line, or lines that come again; the file is this process's but for a few lines
            // of the command line's, which are not written to a full disk either.
            let _ = file.set_len(length);
            return Err(error);
        }
        self.lost = 0;
        self.waiting.clear();
        Ok(())
    }

    /// Begins a new file where the one before is full, or is not there any more.
    fn turn(&mut self) -> io::Result<()> {
        let there = match std::fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.file = None;
                return Ok(());
            }
            there => there?,
        };
        if there.len() >= FILE_MAX {
            std::fs::rename(&self.path, before(&self.path))?;
            self.file = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(what: &str) -> Entry {
        Entry {
            event: "login",
            who: Some("anna".into()),
            what: Some(what.into()),
            outcome: "ok".into(),
            ..Entry::default()
        }
    }

    fn wait(audit: &Audit, count: usize) -> Vec<serde_json::Value> {
        let start = Instant::now();
        loop {
            let found = audit.newest(1000).unwrap();
            if found.len() >= count {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{found:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn entries_are_lines_that_only_the_gateway_reads_and_the_command_line_adds_to() {
        let folder = tempfile::tempdir().unwrap();
        // The folder comes into being after the first entry: that waits.
        let inner = folder.path().join("data");
        let audit = Audit::open(&inner).unwrap();
        Audit::append(&inner, entry("nowhere")).unwrap();
        audit.note(entry("first"));
        std::fs::create_dir(&inner).unwrap();
        wait(&audit, 1);
        Audit::append(&inner, entry("second")).unwrap();
        audit.note(entry(&"x".repeat(500)));
        let found = wait(&audit, 3);
        let whats: Vec<_> = found.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
        assert_eq!(whats[..2], ["first", "second"]);
        assert_eq!(whats[2].chars().count(), TEXT_MAX + 1);
        assert_eq!(found[0]["who"], "anna");
        assert!(found[0]["time"].as_f64().unwrap() > 1e9);
        assert_eq!(audit.newest(1).unwrap().len(), 1);
        let mode = std::fs::metadata(inner.join("audit.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_makes_room_and_the_one_before_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let filler = line(&entry("old"));
        let count = usize::try_from(FILE_MAX).unwrap() / filler.len() + 1;
        std::fs::write(&path, filler.repeat(count)).unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        audit.note(entry("new"));
        let start = Instant::now();
        while std::fs::metadata(&path).map_or(true, |file| file.len() >= FILE_MAX) {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
        let found = wait(&audit, 10);
        assert_eq!(found.last().unwrap()["what"], "new");
        assert_eq!(found[0]["what"], "old");
        assert!(folder.path().join("audit.log.1").exists());
    }

    #[test]
    fn what_cannot_be_written_waits_within_bounds_and_the_loss_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        // A folder where the file should be.
        std::fs::create_dir(&path).unwrap();
        let (sender, entries) = sync_channel(WAITING);
        let writer = Writer { path: path.clone(), file: None, waiting: VecDeque::new(), lost: 0 };
        let thread = std::thread::spawn(move || writer.run(&entries));
        for number in 0..WAITING + 20 {
            sender.send(entry(&number.to_string())).unwrap();
        }
        std::fs::remove_dir(&path).unwrap();
        let start = Instant::now();
        let last = format!("\"what\":\"{}\"", WAITING + 19);
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&last)) {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(sender);
        thread.join().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = text.lines().count();
        // Either all fitted, as the folder was gone in time, or the loss is the first line.
        assert!(told == WAITING + 20 || text.starts_with("{\"time\":") && text.contains("lost"));
    }

    #[test]
    fn strangers_cannot_fill_the_log() {
        let start = Instant::now();
        let mut allowance = Allowance { left: BURST, since: start, left_out: 0 };
        let noted = (0..1000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(noted, 60);
        assert_eq!(allowance.take(start + REFILL), Some(940));
        assert_eq!(allowance.take(start + REFILL), None);
    }
}
