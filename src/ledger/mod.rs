//! The ledger of commands on the disk: what `core::command` decides survives crashes, power cuts,
//! full disks and damage.
//!
//! | file | what it knows |
//! |---|---|
//! | `writer` | when to commit, when to begin a new database, a disk that refuses; its own thread |
//! | `recover` | what earlier runs left; folders |
//! | `piece` | the bytes on the disk |
//!
//! # On the disk
//!
//! Below `gateway.data_dir`; all of it may be deleted while the gateway is stopped, at the price of
//! the commands in it.
//!
//! | path | what |
//! |---|---|
//! | `commands/lock` | one process at a time: held with `flock` |
//! | `commands/begun` | empty: there was a durable database once |
//! | `commands/gen-<number>` | a sled database, 0.34: pieces of entries by slot, u64 big-endian |
//! | `commands/trash-…` | being deleted; deleted at the next start if need be |
//! | `commands/damaged-<time>-gen-…` | what could not all be read, the newest three; for inspection |
//!
//! A database holds *entries* (`piece`): a command as it is after a change, that one is forgotten,
//! or the next number to use. Of a command the entry with the highest version counts, in whichever
//! folder it is; a forgotten one is gone, as numbers are never used twice. The format carries its
//! version (`tgL1`); what a reader does not know it passes over as it would over damage.
//!
//! A database is written by one process, once from front to back, and never opened again: what an
//! earlier run left is found in its file by its checksums, with no need of room on the disk. The
//! first change of a run, a failure, and growth over 1 MiB and three times what is live begin a new
//! one with everything that is live; when it is durable the older ones are deleted, oldest first.
//!
//! # What is durable when
//!
//! - A change is, once [`LedgerEvent::Durable`] names it: inserted, flushed by sled, and the `db`
//!   file synced by us. Changes that come while a commit is under way share the next; of several
//!   changes of one command only the last is written.
//! - Changes that were not reported may or may not be there after a crash. So a command that was
//!   refused because the disk did not take it may be there all the same, if the process ends before
//!   the disk takes its deletion.
//! - Each entry says how far everything before was durable, and after each commit one more is
//!   written that says so, unsynced; what is missing before that is damage: counted, logged, its folder put aside, and [`Kept::damaged`] set. What damage cannot
//!   show is that the end of a file is gone, with all that says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub mod memory;
mod piece;
mod recover;
mod writer;

use writer::{Change, Writer};

use crate::core::command::{Kept, Record};
use crate::ports::{Clock, Health, Ledger, LedgerEvent};
use crate::storage::disk::{self, Lock, LockError};

/// How long dropping the ledger without closing it waits for the thread.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// Why the ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
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
        "{}: {source}. The ledger of commands is kept below gateway.data_dir: that folder must \
         exist or be possible to create, and this user must be able to write there", path.display()
    )]
    Unusable {
        /// What was to be used.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The ledger on sled. Its files are below `data_dir/commands`; see the module.
#[derive(Debug)]
pub struct SledLedger {
    changes: std_mpsc::Sender<Change>,
    events: mpsc::UnboundedReceiver<LedgerEvent>,
    kept: Option<Kept>,
    finished: std_mpsc::Receiver<()>,
}

/// Opens the ledger below `data_dir`, making folders as needed, and starts its thread. Blocks while
/// it reads what the last run left: milliseconds. Damage does not make it fail.
///
/// # Errors
/// When another process uses the folder, or it cannot be read or written.
pub fn open(
    data_dir: &Path,
    health: Arc<Health>,
    clock: Arc<dyn Clock>,
) -> Result<SledLedger, LedgerError> {
    let unusable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| LedgerError::Unusable { path, source }
    };
    let dir = data_dir.join("commands");
    disk::create_dir(&dir).map_err(unusable(&dir))?;
    let path = dir.join("lock");
    let lock = Lock::take(&path).map_err(|error| match error {
        LockError::Held { holder } => LedgerError::InUse { path, holder },
        LockError::Io(source) => LedgerError::Unusable { path, source },
    })?;
    let mut recovered = recover::recover(&dir).map_err(unusable(&dir))?;
    for damage in &recovered.damage {
        tracing::error!(
            name: "ledger-damaged",
            %damage,
            "the ledger of commands is damaged: commands or their last changes are lost, and those \
             that must not be sent twice are not sent"
        );
    }
    health.set_ledger(|ledger| {
        ledger.open = true;
        ledger.fault = None;
        ledger.damaged += recovered.damage.len() as u64;
    });
    let kept = Kept {
        records: recovered.records.values().cloned().collect(),
        next_number: recovered.next_number,
        damaged: !recovered.damage.is_empty(),
    };
    let (changes, inbox) = std_mpsc::channel();
    let (sender, events) = mpsc::unbounded_channel();
    let (finish, finished) = std_mpsc::channel();
    let old = std::mem::take(&mut recovered.folders);
    let outside = (health.clone(), clock);
    let mut writer = Writer::new(inbox, sender.clone(), outside, dir.clone(), &recovered, old);
    std::thread::Builder::new()
        .name("ledger".into())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                writer.run();
                drop(writer);
            }));
            if ended.is_err() {
                let reason = "the ledger's thread has failed, which is a fault of tidegate: the \
                              gateway ends, commands go on after a restart";
                health.set_ledger(|ledger| {
                    ledger.open = false;
                    ledger.fault = Some(reason.into());
                });
                tracing::error!(name: "part-failed", "{reason}");
                // Nobody may be listening any more; likewise below.
                let _ = sender.send(LedgerEvent::Stalled { reason: reason.into() });
                health.fail("ledger of commands");
            }
            drop(lock);
            let _ = finish.send(());
        })
        .map_err(unusable(&dir))?;
    Ok(SledLedger { changes, events, kept: Some(kept), finished })
}

impl Ledger for SledLedger {
    fn kept(&mut self) -> Kept {
        self.kept.take().unwrap_or_default()
    }

    fn persist(&mut self, record: Arc<Record>) {
        // A thread that has ended has said so.
        let _ = self.changes.send(Change::Persist(record));
    }

    fn forget(&mut self, number: u64) {
        let _ = self.changes.send(Change::Forget(number));
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LedgerEvent> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        let (answer, closed) = oneshot::channel();
        let _ = self.changes.send(Change::Close(answer));
        async move {
            // An error says that the thread has ended already.
            let _ = closed.await;
        }
    }
}

impl Drop for SledLedger {
    fn drop(&mut self) {
        // The thread ends when nobody can send any more.
        self.changes = std_mpsc::channel().0;
        // So that the folder can be opened again at once. On a disk that hangs there is no waiting.
        let _ = self.finished.recv_timeout(DROP_PATIENCE);
    }
}

#[cfg(test)]
mod tests;
