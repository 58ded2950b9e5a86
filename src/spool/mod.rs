//! The disk buffer that holds batches while the broker cannot take them.
//!
//! | file | what it knows |
//! |---|---|
//! | `writer` | when to commit, what to do when the disk is full or refuses; its own thread |
//! | `inbox`, `pace` | waking that thread rarely; how long a group gathers |
//! | `catalog` | all generations, how far they are released, recovery |
//! | `generation`, `scan` | one folder: written through a database, read from its file |
//! | `chunk`, `record` | the bytes on the disk |
//! | `marks`, `tally` | the two small files beside the databases |
//! | `losses`, `unpublished` | the records of what was lost, until they are published |
//! | `ages` | how old a batch is, and of what time, when the clock was wrong |
//! | `storage` | the database, finding values in its file, the lock, folders |
//! | [`inspect`] | reading the spool of a stopped gateway, damaged or not, and changing nothing |
//! | [`memory`] | a stand-in for tests, with faults to order |
//!
//! # On the disk
//!
//! Below `gateway.data_dir`; all of it may be deleted while the gateway is stopped, at the price of
//! the batches in it.
//!
//! | path | what | format |
//! |---|---|---|
//! | `lock` | one gateway at a time: held with `flock`, holds the process's number | text |
//! | `disk-written` | the wear of the last two days: see `host::wear` | text |
//! | `spool/marks` | how far writing and releasing have come | `marks` |
//! | `spool/losses` | what was lost and is not published yet | `losses` |
//! | `spool/gen-<position>` | a generation, named by its first position | |
//! | `…/db`, `conf`, `blobs` | its sled database, 0.34: values by slot, u64 big-endian from 0 | `store` |
//! | `…/summary` | who has what in it, once it is complete; may be missing | `tally` |
//! | `spool/trash-…` | being deleted; deleted at the next start if need be | |
//! | `spool/damaged-<time>-gen-…` | what could not all be read, the newest three; for inspection | |
//!
//! A value of the database is one piece of a *chunk* ([`chunk`]): a header with its place and its
//! checksums, and part of a compressed body of *records* ([`record`]), one for each batch. Batches
//! have *positions*, u64, each used once and for ever increasing; a chunk holds consecutive ones, a
//! generation consecutive chunks. The formats carry versions (`tgS1`, `tgM2`, `tgG2`, `tgL1`); a reader
//! passes over what it does not know as it would over damage, and never guesses.
//!
//! A generation ends at a 32nd of `spool.max_bytes`, but at least 256 KiB and at most 2 MiB, or when
//! it spans a 16th of `spool.max_age`. It is written once, from front to back, and deleted whole:
//! when all of it is released, or when a limit takes it. Nothing is rewritten in place but `marks`.
//! Only the process that made a database has it open in sled; one that an earlier process left is
//! read by a scan of its `db` file for pieces (`scan`), never opened, written or repaired.
//!
//! # What is durable when
//!
//! - A batch is, once [`SpoolEvent::Durable`] is reported: inserted, flushed by sled, and the `db`
//!   file synced by us; the folder and all above it were synced when it was made.
//! - Batches that were added and not reported may or may not be there after a crash.
//! - A release is as exact as `marks`, which is written within 50 ms and mostly not synced: batches
//!   released within the last 50 ms before a kill, or since the last sync before a power cut, may
//!   come again.
//! - A generation is deleted by renaming it to `trash-…` first, so that half of one is never taken
//!   for a whole.
//! - A loss is on record before anything of it is deleted.
//!
//! # When there is no room
//!
//! At `spool.max_bytes` (as the disk counts, besides about 16 KiB for the small files) the oldest
//! generation goes or devices wait, as `when_full` says. At `spool.reserve`, as on a full disk,
//! nothing is dropped: what waits stays unacknowledged in memory, and the commit is tried again each
//! second. There is no ballast file, and a drain needs no room: folders are deleted, `marks` and
//! `losses` are written in place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

mod ages;
mod catalog;
pub mod chunk;
mod generation;
mod inbox;
pub mod inspect;
mod losses;
mod marks;
pub mod memory;
mod pace;
pub mod record;
mod scan;
mod tally;
mod unpublished;
mod writer;

use catalog::{Bounds, Catalog};
use inbox::{Command, Inbox};
use writer::{Limits, Outside, Writer};

use crate::config::SpoolSettings;
use crate::core::batch::{Batch, Loss};
use crate::core::ids::Position;
use crate::ports::{Clock, Health, Opened, Spool, SpoolEvent};
use crate::storage::disk::{self, Lock, LockError};

/// Sizes of a generation in bytes. While one is written the database keeps most of it in memory,
/// whatever its cache is set to; a smaller one costs more files and syncs for the same data.
const GENERATION_MIN: u64 = 256 * 1024;
const GENERATION_MAX: u64 = 2 * 1024 * 1024;
/// A full spool has about this many generations: what is evicted at a time.
const GENERATIONS: u32 = 32;
/// A generation spans this part of `max_age`, and a second at least.
const AGE_PARTS: f64 = 16.0;
/// How long dropping the spool without closing it waits for the thread.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another gateway uses the folder.
    #[error(
        "{} is held by process {holder}: another tidegate uses this data folder. Stop it, or give \
         this one its own gateway.data_dir", path.display()
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it.
        holder: String,
    },
    /// The operating system refuses.
    #[error(
        "{}: {source}. The spool is kept below gateway.data_dir: that folder must exist or be \
         possible to create, and this user must be able to write there", path.display()
    )]
    Unusable {
        /// What was to be used.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The spool on sled. Its files are below `data_dir/spool`; see the module.
#[derive(Debug)]
pub struct SledSpool {
    inbox: Arc<Inbox>,
    events: mpsc::UnboundedReceiver<SpoolEvent>,
    opened: Opened,
    finished: std_mpsc::Receiver<()>,
}

/// Opens the spool below `data_dir`, making folders as needed, and starts its thread. Blocks while
/// it reads what the last run left: milliseconds, up to about a second for a large spool that was
/// never closed. Damage does not make it fail: what is lost is in [`Opened::losses`] or comes with
/// [`SpoolEvent::Loaded`].
///
/// # Errors
/// When another process uses the folder, or it cannot be read or written.
pub fn open(
    data_dir: &Path,
    settings: &SpoolSettings,
    health: Arc<Health>,
    clock: Arc<dyn Clock>,
) -> Result<SledSpool, SpoolError> {
    let unusable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SpoolError::Unusable { path, source }
    };
    let dir = data_dir.join("spool");
    disk::create_dir(&dir).map_err(unusable(&dir))?;
    let path = data_dir.join("lock");
    let lock = Lock::take(&path).map_err(|error| match error {
        LockError::Held { holder } => SpoolError::InUse { path, holder },
        LockError::Io(source) => SpoolError::Unusable { path, source },
    })?;
    let bounds = Bounds {
        bytes: (settings.max_bytes / u64::from(GENERATIONS)).clamp(GENERATION_MIN, GENERATION_MAX),
        span: (settings.max_age.as_secs_f64() / AGE_PARTS).max(1.0),
    };
    let (mut catalog, recovered) = Catalog::open(&dir, bounds, clock.moment())
        .map_err(|error| SpoolError::Unusable { path: error.path, source: error.source })?;
    catalog.keep(lock);
    let waiting = catalog.losses.waiting();
    if waiting > 0 {
        tracing::warn!(records = waiting, "losses that are not published yet are on record");
    }
    let opened = Opened {
        head: catalog.head(),
        tail: catalog.next(),
        progress: recovered.progress,
        losses: recovered.losses,
    };
    let inbox = Arc::new(Inbox::default());
    let (sender, events) = mpsc::unbounded_channel();
    let (finish, finished) = std_mpsc::channel();
    let outside = Outside { events: sender.clone(), health: health.clone(), clock };
    let limits = Limits::new(settings);
    let mut writer = Writer::new(inbox.clone(), outside, catalog, limits);
    health.set_spool(|spool| {
        spool.open = true;
        spool.fault = None;
        spool.max_bytes = limits.max_bytes;
        spool.max_age = Some(limits.max_age);
    });
    std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                writer.run();
                drop(writer);
            }));
            if ended.is_err() {
                let reason = "the spool's thread has failed, which is a fault of tidegate: the \
                              gateway ends, what is not acknowledged is with the devices";
                health.set_spool(|spool| {
                    spool.open = false;
                    spool.fault = Some(reason.into());
                });
                tracing::error!(name: "part-failed", "{reason}");
                // Nobody may be listening any more; likewise below.
                let _ = sender.send(SpoolEvent::Stalled { reason: reason.into() });
                health.fail("spool");
            }
            let _ = finish.send(());
        })
        .map_err(unusable(&dir))?;
    Ok(SledSpool { inbox, events, opened, finished })
}

impl Spool for SledSpool {
    fn opened(&self) -> Opened {
        self.opened.clone()
    }

    fn append(&mut self, position: Position, batch: Arc<Batch>) {
        self.inbox.send(Command::Append(position, batch));
    }

    fn load(&mut self, from: Position, max_bytes: usize) {
        self.inbox.send(Command::Load(from, max_bytes));
    }

    fn release(&mut self, through: Position) {
        self.inbox.release(through);
    }

    fn lost(&mut self, loss: Loss) {
        self.inbox.send(Command::Lost(loss));
    }

    fn losses_published(&mut self, through: u64) {
        self.inbox.send(Command::Published(through));
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<SpoolEvent> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        let (answer, closed) = oneshot::channel();
        self.inbox.send(Command::Close(answer));
        async move {
            // An error says that the thread has ended already.
            let _ = closed.await;
        }
    }
}

impl Drop for SledSpool {
    fn drop(&mut self) {
        self.inbox.abandon();
        // So that the folder can be opened again at once. On a disk that hangs there is no waiting.
        let _ = self.finished.recv_timeout(DROP_PATIENCE);
    }
}

#[cfg(test)]
mod tests;
