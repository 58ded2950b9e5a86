//! The gateway's state, shared for status pages.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

use super::{Parts, lock};

/// The gateway's state as `/api/v1/status` shows it; written by the engine and the spool.
#[derive(Debug, Default)]
pub struct Health {
    uplink: Mutex<UplinkHealth>,
    spool: Mutex<SpoolHealth>,
    ledger: Mutex<LedgerHealth>,
    pushes: OnceLock<Vec<Arc<PushHealth>>>,
    failed: watch::Sender<Option<&'static str>>,
    parts: Parts,
}

/// The uplink's part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UplinkHealth {
    /// Where the connection stands.
    pub state: UplinkState,
    /// Since when: Unix time in seconds.
    pub since: f64,
    /// Why it last failed.
    pub last_error: Option<String>,
}

/// Where the connection to the broker stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UplinkState {
    /// PUBACKs may come.
    Connected,
    /// On the way, for the first time or again.
    #[default]
    Connecting,
    /// Lost, waiting before the next attempt.
    Disconnected,
}

/// The spool's part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpoolHealth {
    /// Whether it is open for use.
    pub open: bool,
    /// Why it cannot be written now.
    pub fault: Option<String>,
    /// Batches waiting.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// What the disk holds, in bytes.
    pub bytes: u64,
    /// The setting.
    pub max_bytes: u64,
    /// The setting, in seconds; none before the spool is open.
    pub max_age: Option<f64>,
    /// What the file system leaves to it, in bytes, where that is known.
    pub room: Option<u64>,
    /// There is no room, and devices are held back until there is (`when_full = "block"`).
    pub full: bool,
    /// When the oldest batch was received: Unix time in seconds.
    pub oldest: Option<f64>,
    /// Readings lost since the start.
    pub lost_readings: u64,
}

/// The part of the ledger of commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerHealth {
    /// Whether it is open for use.
    pub open: bool,
    /// Why it cannot be written now.
    pub fault: Option<String>,
    /// Damaged databases that were found since the start.
    pub damaged: u64,
}

/// The part of one `[[push]]`. The counts only grow but for `queued`; ingestion writes `queued` and
/// `dropped` too, so nothing here is behind a lock that is held for long.
#[derive(Debug, Default)]
pub struct PushHealth {
    /// Its name.
    pub name: String,
    /// Where to, without credentials.
    pub url: String,
    /// Readings that wait in memory, those of a request under way included.
    pub queued: AtomicU64,
    /// Readings that the server has taken since the start.
    pub sent: AtomicU64,
    /// Readings given up since the start.
    pub dropped: AtomicU64,
    /// Whether the server takes readings, and why it last did not.
    pub state: Mutex<PushState>,
}

/// How a push stands with its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushState {
    /// The last request failed; it is tried again.
    pub retrying: bool,
    /// Why the last one that failed did.
    pub last_error: Option<String>,
}

impl Health {
    /// A part without which the gateway must not go on has ended by a fault of the program. The
    /// gateway ends too, so that whoever watches over it starts it again.
    pub fn fail(&self, part: &'static str) {
        self.failed.send_replace(Some(part));
    }

    /// Waits for that, and says which part it was. Cancel safe.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(part) = *failed.borrow_and_update() {
                return part;
            }
            // An error cannot come: the sender lives as long as this borrows it.
            let _ = failed.changed().await;
        }
    }

    /// Whether the parts get on.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Says which pushes there are; once, at the start.
    pub fn set_pushes(&self, pushes: Vec<Arc<PushHealth>>) {
        // A second call would be a mistake of the program; the first list stands.
        let _ = self.pushes.set(pushes);
    }

    /// The pushes, in the order of the configuration.
    pub fn pushes(&self) -> &[Arc<PushHealth>] {
        self.pushes.get().map_or(&[], Vec::as_slice)
    }

    /// Changes the ledger's part.
    pub fn set_ledger(&self, change: impl FnOnce(&mut LedgerHealth)) {
        change(&mut lock(&self.ledger));
    }

    /// The ledger's part.
    pub fn ledger(&self) -> LedgerHealth {
        lock(&self.ledger).clone()
    }

    /// Changes the uplink's part.
    pub fn set_uplink(&self, change: impl FnOnce(&mut UplinkHealth)) {
        change(&mut lock(&self.uplink));
    }

    /// Changes the spool's part.
    pub fn set_spool(&self, change: impl FnOnce(&mut SpoolHealth)) {
        change(&mut lock(&self.spool));
    }

    /// The uplink's part.
    pub fn uplink(&self) -> UplinkHealth {
        lock(&self.uplink).clone()
    }

    /// The spool's part.
    pub fn spool(&self) -> SpoolHealth {
        lock(&self.spool).clone()
    }
}
