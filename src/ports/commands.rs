//! Commands between the tasks: the ledger that keeps them, those who ask for them over HTTP, and
//! those who look at them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot, watch};

use super::lock;
use crate::core::command::{Kept, Record, Reply, Request, Requester};
use crate::core::ids::DeviceId;

/// Changes remembered for who asks what is new; one that has missed more reads everything again.
const CHANGES: usize = 256;

/// The engine's end of the ledger of commands. Calls return at once; a thread does the work.
pub trait Ledger {
    /// What was found on opening. Only the first call has it.
    fn kept(&mut self) -> Kept;

    /// Writes a command as it is now. [`LedgerEvent::Durable`] follows once that, or a later version,
    /// has reached the disk. Changes that come while a commit is running share the next one.
    fn persist(&mut self, record: Arc<Record>);

    /// Deletes the command of this number, also where it is not written yet.
    fn forget(&mut self, number: u64);

    /// The next event, if any. Called until `Pending`.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LedgerEvent>;

    /// Commits what waits and stops the thread.
    fn close(&mut self) -> impl Future<Output = ()>;
}

/// What the ledger reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    /// These versions of these commands have reached the disk: `(number, version)`.
    Durable(Vec<(u64, u32)>),
    /// The disk cannot be written. The thread tries again by itself; nothing that was handed over is
    /// dropped.
    Stalled {
        /// What the operator must know.
        reason: String,
    },
    /// Writing works again.
    Resumed,
}

/// Somebody on this machine's side asks for a command: over HTTP, or with `tidegate send`.
#[derive(Debug)]
pub struct CommandRequest {
    /// Which device.
    pub device: DeviceId,
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub requester: Requester,
    /// Answered once, when the command is in the ledger or cannot be.
    pub reply: oneshot::Sender<Reply>,
}

/// Where requests go; bounded.
pub type CommandSender = mpsc::Sender<CommandRequest>;

/// The commands as views see them: written by the engine, read by the dashboard. What it shows may
/// be a moment ahead of the disk.
#[derive(Debug)]
pub struct CommandBook {
    pages: Mutex<Pages>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pages {
    /// By number.
    records: BTreeMap<u64, Arc<Record>>,
    /// What changed last, oldest first; the last is change number `count`.
    changes: VecDeque<u64>,
    count: u64,
}

/// What has changed since an earlier time.
#[derive(Debug, Default)]
pub struct CommandNews {
    /// To be given the next time.
    pub count: u64,
    /// As they are now, each once.
    pub records: Vec<Arc<Record>>,
}

impl Default for CommandBook {
    fn default() -> Self {
        Self { pages: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl CommandBook {
    /// Engine: this is how the command is now.
    pub fn put(&self, record: Arc<Record>) {
        let count = {
            let mut pages = lock(&self.pages);
            let number = record.number;
            pages.records.insert(number, record);
            if pages.changes.len() >= CHANGES {
                pages.changes.pop_front();
            }
            pages.changes.push_back(number);
            pages.count += 1;
            pages.count
        };
        self.changed.send_replace(count);
    }

    /// Engine: the ledger has it no more.
    pub fn remove(&self, number: u64) {
        lock(&self.pages).records.remove(&number);
    }

    /// The newest command with this id. Ids are unique for a device only: `device` says whose is
    /// meant.
    #[must_use]
    pub fn find(&self, device: Option<&DeviceId>, id: &str) -> Option<Arc<Record>> {
        let pages = lock(&self.pages);
        let meant =
            |record: &&Arc<Record>| record.id == id && device.is_none_or(|d| *d == record.device);
        pages.records.values().rev().find(meant).cloned()
    }

    /// All commands, newest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.pages).records.values().rev().cloned().collect()
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.pages).records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many changes there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        lock(&self.pages).count
    }

    /// What has changed since there were `since` changes. Where that is longer ago than is
    /// remembered, the newest 256 changes only: who needs all of them asks for all.
    #[must_use]
    pub fn news(&self, since: u64) -> CommandNews {
        let pages = lock(&self.pages);
        let missed = usize::try_from(pages.count.saturating_sub(since)).unwrap_or(usize::MAX);
        let mut numbers: Vec<u64> = pages.changes.iter().rev().take(missed).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let records = numbers.iter().filter_map(|number| pages.records.get(number).cloned());
        CommandNews { count: pages.count, records: records.collect() }
    }

    /// Waits for changes: the receiver changes with each one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// What whoever serves people needs to ask for commands and to look at them.
#[derive(Debug, Clone)]
pub struct CommandAccess {
    /// Where requests go.
    pub requests: CommandSender,
    /// The commands there are.
    pub book: Arc<CommandBook>,
    /// Bytes of a request's parameters as CBOR at most.
    pub max_size: usize,
}

impl CommandAccess {
    /// Access for requests with parameters of `max_size` bytes, and the other end of it.
    #[must_use]
    pub fn new(max_size: usize) -> (Self, mpsc::Receiver<CommandRequest>) {
        /// Requests that wait for the engine.
        const WAITING: usize = 64;
        let (requests, inbox) = mpsc::channel(WAITING);
        (Self { requests, book: Arc::default(), max_size }, inbox)
    }
}
