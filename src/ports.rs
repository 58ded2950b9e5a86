//! What the tasks say to each other, and the seams a test can put its own end into.
//!
//! ```text
//! device connections ──DeviceEvent──► engine ──Publisher──► broker
//!        ▲                             │ ▲
//!        └────────── Link ◄────────────┘ └──Spool──► writer thread, sled
//!                                      ├──Ledger─► its thread, sled: the commands
//!                                      └──Feed───► dashboards, pushes (never push back)
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::core::batch::{Batch, Loss};
use crate::core::clock::Moment;
use crate::core::ids::{DeviceId, Position, SessionId};

mod commands;
mod feed;
mod health;
mod progress;

pub use commands::{
    CommandAccess, CommandBook, CommandNews, CommandRequest, CommandSender, Ledger, LedgerEvent,
};
pub use feed::{DeviceFacts, Feed, Feeds, Refused, RefusedKind};
pub use health::{
    Health, LedgerHealth, PushHealth, PushState, SpoolHealth, UplinkHealth, UplinkState,
};
pub use progress::{Parts, Progress};

/// Locks `mutex`; a panic elsewhere while it was held does not spread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---------------------------------------------------------------- devices → engine

/// What a device connection tells the engine. For one session always: one `Opened`, any number of
/// `Batches` and `Result`, one `Closed`.
#[derive(Debug)]
pub enum DeviceEvent {
    /// HELLO arrived from an authenticated device.
    Opened {
        /// This connection.
        session: SessionId,
        /// Who it is.
        device: DeviceId,
        /// The epoch it named, if any.
        epoch: Option<u64>,
        /// The way back to the connection.
        link: Arc<Link>,
        /// What the connection knows of it.
        facts: Arc<DeviceFacts>,
        /// Answered once with what WELCOME must say.
        welcome: oneshot::Sender<Resume>,
    },
    /// All the READINGS that one read of the socket brought, in order.
    Batches {
        /// This connection.
        session: SessionId,
        /// What arrived.
        batches: Vec<Submitted>,
    },
    /// RESULT arrived. Nothing is known here of the command: whether the gateway ever sent one with
    /// this id, and to this device, is for the engine to say.
    Result {
        /// This connection.
        session: SessionId,
        /// Which command, as the device names it: at most
        /// [`MESSAGE_ID_MAX`](crate::core::frame::MESSAGE_ID_MAX) characters.
        id: String,
        /// Whether it was done.
        ok: bool,
        /// Its result, or what went wrong; with the rest of the message at most
        /// `devices.max_frame` bytes of CBOR. Its
        /// [`value_weight`](crate::core::batch::value_weight) has been taken from the [`Budget`];
        /// the engine gives it back once it has dealt with the result.
        value: ciborium::Value,
    },
    /// The connection is gone; nothing follows.
    Closed {
        /// This connection.
        session: SessionId,
    },
}

/// One READINGS message as the connection judged it.
#[derive(Debug)]
pub enum Submitted {
    /// Checked and allowed. Its [`Batch::weight`] has been taken from the [`Budget`]; the engine
    /// gives it back once the batch is settled.
    Batch(Arc<Batch>),
    /// The connection answered REJECT; only the number matters, so that ACKs can pass it.
    Rejected(u64),
}

/// What the engine knows of a device's run of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The epoch of the session: the device's own, or one drawn for this connection.
    pub epoch: u64,
    /// The highest settled seq of that epoch, 0 if none.
    pub acked: u64,
}

/// Where the connections send; bounded, so a full engine makes them read less.
pub type DeviceSender = mpsc::Sender<DeviceEvent>;

/// The engine's way back to one connection: counters that only grow and a small outbox. Many
/// settlements between two wake-ups of the connection cost one wake-up and one ACK.
#[derive(Debug, Default)]
pub struct Link {
    acked: AtomicU64,
    finished: AtomicU64,
    repeats: AtomicU64,
    outbox: Mutex<Vec<Outbound>>,
    notify: Notify,
}

/// Something to do on a connection besides acknowledging.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// Send REJECT.
    Reject {
        /// The batch's number, if it had one.
        seq: Option<u64>,
        /// See `docs/protocol.md`.
        code: u64,
        /// For a person.
        reason: String,
    },
    /// Send COMMAND.
    Command {
        /// What RESULT will name.
        id: String,
        /// Which command.
        name: String,
        /// Its parameters.
        params: ciborium::Value,
        /// Seconds for which it is still wanted; the device is told 1 at least.
        ttl: u64,
    },
    /// Send a Close frame and end.
    Close {
        /// RFC 6455 or 4000-range code.
        code: u16,
        /// For a person, at most 123 bytes.
        reason: String,
    },
}

impl Link {
    /// Engine: everything up to `acked` is settled, and `finished` batches of this session in all
    /// (duplicates and best effort ones included) no longer count against the window.
    pub fn settle(&self, acked: u64, finished: u64) {
        self.acked.fetch_max(acked, Ordering::Release);
        self.finished.fetch_max(finished, Ordering::Release);
        self.notify.notify_one();
    }

    /// Engine: a settled batch came again; the connection repeats its ACK.
    pub fn repeat_ack(&self) {
        self.repeats.fetch_add(1, Ordering::Release);
        self.notify.notify_one();
    }

    /// Anyone: adds to the outbox.
    pub fn send(&self, outbound: Outbound) {
        lock(&self.outbox).push(outbound);
        self.notify.notify_one();
    }

    /// Anyone: lets the connection look again at what it goes by (the registry).
    pub fn nudge(&self) {
        self.notify.notify_one();
    }

    /// Connection: waits until something changed since the last call. Cancel safe.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Connection: the highest settled seq.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// Connection: how many of the submitted batches are finished.
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    /// Connection: how many times an ACK had to be repeated.
    pub fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Acquire)
    }

    /// Connection: takes the outbox, oldest first.
    pub fn take_outbox(&self) -> Vec<Outbound> {
        std::mem::take(&mut *lock(&self.outbox))
    }
}

/// Memory for batches that are not settled, in bytes over all devices. A connection takes a
/// batch's weight before it hands the batch on and stops reading while there is none; the engine
/// gives it back when the batch is settled.
#[derive(Debug)]
pub struct Budget {
    semaphore: Semaphore,
    total: usize,
}

impl Budget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { semaphore: Semaphore::new(total), total }
    }

    /// Waits for `weight` bytes (for the whole budget, where `weight` is more). Cancel safe.
    pub async fn take(&self, weight: usize) {
        // The semaphore is never closed, so the only error cannot happen.
        if let Ok(permit) = self.semaphore.acquire_many(self.share(weight)).await {
            permit.forget();
        }
    }

    /// Takes `weight` bytes if they are free now.
    pub fn try_take(&self, weight: usize) -> bool {
        self.semaphore
            .try_acquire_many(self.share(weight))
            .map(tokio::sync::SemaphorePermit::forget)
            .is_ok()
    }

    /// Gives back what [`Self::take`] took for the same `weight`.
    pub fn give_back(&self, weight: usize) {
        self.semaphore.add_permits(self.share(weight) as usize);
    }

    /// How many bytes are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total.saturating_sub(self.semaphore.available_permits())
    }

    /// How many bytes there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    fn share(&self, weight: usize) -> u32 {
        u32::try_from(weight.clamp(1, self.total)).unwrap_or(u32::MAX)
    }
}

// ---------------------------------------------------------------- engine ↔ uplink

/// Names one batch, or one message, that was handed to the [`Publisher`].
pub type Token = u64;

/// Names one request that came over MQTT until it is confirmed.
pub type Receipt = u64;

/// The engine's end of the uplink. Polled by the engine's task; nothing in it blocks.
pub trait Publisher {
    /// How many batches may be handed over now; 0 while not connected.
    fn room(&self) -> usize;

    /// Hands over one batch. Only with room. Exactly one of [`UplinkEvent::Published`] and
    /// [`UplinkEvent::Refused`] follows, unless [`UplinkEvent::Down`] comes first: then nothing
    /// that was handed over before is remembered.
    fn publish(&mut self, token: Token, batch: &Batch, spooled: bool);

    /// Queues a message that belongs to no batch and has no sender to keep it (status). Kept over
    /// a reconnect; a newer retained message replaces an older one of its topic.
    fn announce(&mut self, message: Announcement);

    /// How many messages [`Self::send`] takes now; 0 while not connected. Independent of
    /// [`Self::room`]: readings leave them a few places, and they leave readings the rest.
    fn send_room(&self) -> usize;

    /// Hands over a message of its own that must arrive (results, losses). Only with
    /// [`Self::send_room`]. Exactly one of [`UplinkEvent::Sent`] and [`UplinkEvent::SendRefused`]
    /// follows, unless [`UplinkEvent::Down`] comes first: then it is forgotten. Messages leave in
    /// the order they were handed over. `token`s have nothing to do with those of
    /// [`Self::publish`].
    fn send(&mut self, token: Token, message: Message);

    /// The request is safe or answered: acknowledges it to the broker, which forgets it then. A
    /// receipt of an earlier connection, or one used before, is ignored: the broker sends what was
    /// not acknowledged again, with a new receipt.
    fn confirm(&mut self, receipt: Receipt);

    /// Drives the connection: sends what was handed over, receives what has come. Called until
    /// `Pending`; the last call writes out everything that was handed over since.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<UplinkEvent>;

    /// Says goodbye: status offline, DISCONNECT, as far as it goes within the caller's deadline.
    fn close(&mut self) -> impl Future<Output = ()>;
}

/// What the uplink reports.
#[derive(Debug, Clone, PartialEq)]
pub enum UplinkEvent {
    /// Connected; `failed_attempts` attempts failed since the last time it was.
    Up {
        /// Connection attempts that failed before this one.
        failed_attempts: u32,
    },
    /// No longer connected. Everything handed over and not yet reported is forgotten.
    Down {
        /// For the log and the status page.
        reason: String,
        /// What ended it, as far as it tells about what was in flight.
        cause: DownCause,
    },
    /// The broker acknowledged the batch (PUBACK).
    Published(Token),
    /// The broker will never take this batch.
    Refused {
        /// Which.
        token: Token,
        /// The broker's reason.
        reason: String,
    },
    /// Somebody asks for something. [`Publisher::confirm`] must follow once it is safe or answered;
    /// only so many may wait for that.
    Request(MqttRequest),
    /// The broker acknowledged what [`Publisher::send`] was given (PUBACK).
    Sent(Token),
    /// The broker will never take what [`Publisher::send`] was given.
    SendRefused {
        /// Which.
        token: Token,
        /// The broker's reason, or what is wrong with the message.
        reason: String,
    },
}

/// A message that arrived on `{prefix}/devices/{device}/commands`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttRequest {
    /// What to confirm.
    pub receipt: Receipt,
    /// The device as the topic names it; any text without `/`.
    pub device: String,
    /// What was asked, unread.
    pub payload: Vec<u8>,
    /// MQTT 5: where else the answer goes. A topic that can be published to.
    pub response_topic: Option<String>,
    /// MQTT 5: what the answer must carry, so that the requester knows it.
    pub correlation: Option<Vec<u8>>,
}

/// What [`Publisher::send`] takes: a message of QoS 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Where to: below the prefix, for example `devices/kiln-3/results`.
    pub topic: String,
    /// `topic` is the whole topic, nothing is put before it.
    pub absolute: bool,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it; not so where the broker keeps nothing.
    pub retain: bool,
    /// MQTT 5: what a requester recognises the answer by; left out in MQTT 3.1.1.
    pub correlation: Option<Vec<u8>>,
    /// MQTT 5: the payload's media type; left out in MQTT 3.1.1.
    pub content_type: Option<&'static str>,
}

/// What ended a connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownCause {
    /// The broker closed it, with or without a DISCONNECT.
    ClosedByBroker,
    /// The broker said the last packet was too large or malformed (MQTT 5 DISCONNECT).
    PacketRefused,
    /// No PUBACK or PINGRESP in time, or a network error.
    Silent,
}

/// A message on a topic below the prefix that belongs to no batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Below the prefix, for example `devices/kiln-3/status`.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it.
    pub retain: bool,
}

// ---------------------------------------------------------------- engine ↔ spool

/// The engine's end of the spool. Calls return at once; a writer thread does the work, in order.
pub trait Spool {
    /// What was found on opening.
    fn opened(&self) -> Opened;

    /// Adds `batch` at `position`, always one more than the last. [`SpoolEvent::Durable`] follows
    /// once it and all before it have reached the disk. Batches added while a commit is running
    /// share the next one.
    fn append(&mut self, position: Position, batch: Arc<Batch>);

    /// Asks for the batches from `from` on, about `max_bytes` of them by [`Batch::weight`]. One
    /// [`SpoolEvent::Loaded`] answers. Only what is durable is given.
    fn load(&mut self, from: Position, max_bytes: usize);

    /// Everything up to and including `through` is settled and may be deleted; also what is not
    /// written yet.
    fn release(&mut self, through: Position);

    /// Keeps the record of a loss that the spool did not find itself, until it is published. It
    /// comes back as [`SpoolEvent::Report`].
    fn lost(&mut self, loss: Loss);

    /// The broker has the records up to and including number `through` of [`SpoolEvent::Report`].
    fn losses_published(&mut self, through: u64);

    /// The next event, if any. Called until `Pending`.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<SpoolEvent>;

    /// Commits what was added and stops the writer thread.
    fn close(&mut self) -> impl Future<Output = ()>;
}

/// What the spool held when it was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opened {
    /// The oldest batch not released.
    pub head: Position,
    /// The next position to use; equal to `head` when empty.
    pub tail: Position,
    /// The last spooled number of each device, so that a device that never saw the ACK is not
    /// taken twice: `(device, epoch, seq)`.
    pub progress: Vec<(DeviceId, u64, u64)>,
    /// What damage had taken since the last run. For counting: to be published each comes as
    /// [`SpoolEvent::Report`] too.
    pub losses: Vec<Loss>,
}

/// What the spool reports.
#[derive(Debug, Clone, PartialEq)]
pub enum SpoolEvent {
    /// Everything up to and including `through` has reached the disk.
    Durable {
        /// The last durable position.
        through: Position,
    },
    /// The disk cannot be written; the writer retries by itself, nothing is dropped.
    Stalled {
        /// What the operator must know.
        reason: String,
    },
    /// Writing works again.
    Resumed,
    /// Answers [`Spool::load`].
    Loaded {
        /// In order; positions that are missing between them are in `losses` or were evicted.
        batches: Vec<(Position, Arc<Batch>)>,
        /// Where to go on.
        next: Position,
        /// What could not be read.
        losses: Vec<Loss>,
    },
    /// A limit took the oldest.
    Evicted {
        /// Everything up to and including this position is gone.
        through: Position,
        /// What it was.
        losses: Vec<Loss>,
    },
    /// Something that was durable is not there any more, found without loading it.
    Lost {
        /// What it was.
        losses: Vec<Loss>,
    },
    /// A record of losses to publish: of this run or of earlier ones, several joined where there
    /// are many. At most 32 are under way; the rest waits on the disk for
    /// [`Spool::losses_published`].
    Report {
        /// Grows by one from record to record, from 1 on in each run.
        number: u64,
        /// The record, with the time of the loss.
        loss: Loss,
    },
    /// `when_full = "block"`: no room (`true`) or room again (`false`). Appends are kept and
    /// committed when there is room.
    Full(bool),
}

/// The wall clock as everything outside `core` sees it.
pub trait Clock: Send + Sync {
    /// Unix time in seconds.
    fn unix(&self) -> f64;

    /// The same, with what tells one setting of the clock from another. A clock that cannot tell
    /// need not: then nothing is ever corrected.
    fn moment(&self) -> Moment {
        Moment::of(self.unix())
    }
}
