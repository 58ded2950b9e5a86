//! Commands: what was asked of which device, and what became of it.
//!
//! [`Desk`] decides and remembers; it does nothing itself. Time is an argument, what is to be done
//! comes out as [`Action`]s.
//!
//! # Call order
//!
//! Any number of [`Desk::request`], [`Desk::opened`], [`Desk::closed`], [`Desk::result`],
//! [`Desk::persisted`], [`Desk::stalled`], [`Desk::resumed`], [`Desk::uplink_up`],
//! [`Desk::uplink_down`] and [`Desk::result_published`]; then [`Desk::pump`], which decides; then
//! [`Desk::actions`], all of which are performed in their order. [`Desk::next_wake`] says when to
//! pump again though nothing happens.
//!
//! # What holds
//!
//! - A command that was accepted comes to one end: done, failed, expired or rejected. Only an
//!   expired one may still become done or failed, by a late RESULT.
//! - A request is answered when it is durable, or told that it cannot be.
//! - Nobody is told of an end that is not durable, by an answer, a view or a result.
//! - Nothing is sent to a device before it is durable. One with `redeliver = false` is sent at most
//!   once: [`Action::Send`] comes after its state `delivered` is durable, and never again; what a
//!   crash leaves in between is `delivered`, may never have reached the device, and expires with an
//!   error that says so.
//! - A device gets its commands oldest first, and has at most [`Settings::max_in_flight`] of them
//!   without RESULT on one connection. What was sent on an earlier connection does not count: the
//!   device may have forgotten it.
//! - A result is published after it is durable, in the order in which commands ended, at least once.
//! - At most [`Settings::max_count`] commands are kept. The one that ended first goes first, of
//!   those whose result the broker has; if there is none, the one that ended first goes, and its
//!   result is counted as lost. Those that have not ended never go: when all are such, a request is
//!   refused.
//!
//! # Time
//!
//! History and expiry are kept in Unix time. Within a run a ttl is measured by the monotonic clock,
//! so that setting the wall clock changes nothing. After a restart the time left is that until the
//! kept expiry, but never more than the whole ttl: a wall clock that went back cannot make a command
//! live for ever; one that went forward may end it early.

mod desk;
mod dispatch;
pub mod json;
mod keep;
mod record;
mod request;

pub use desk::{Counts, Desk};
pub use record::{
    CORRELATION_MAX, ERROR_MAX, Entry, RESPONSE_TOPIC_MAX, Record, Requester, Response, State, Way,
};
pub use request::{BadRequest, ID_MAX, Request, TTL_MAX};

use std::sync::Arc;

use ciborium::Value;

use super::ids::{DeviceId, SessionId};
use super::policy::Permissions;

/// Names one request until it is answered; the caller's choice.
pub type Ticket = u64;

/// What holds for all commands.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Commands in the ledger at most.
    pub max_count: usize,
    /// Seconds after its end for which a command is kept.
    pub max_age: f64,
    /// Bytes of parameters as CBOR, and of a result.
    pub max_size: usize,
    /// Commands without RESULT on one connection.
    pub max_in_flight: usize,
    /// Seconds for which a command is wanted if the request does not say.
    pub default_ttl: u64,
}

/// What time it is, by two clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// Unix time in seconds; may jump.
    pub unix: f64,
    /// Seconds since any fixed moment of this run; never goes back.
    pub mono: f64,
}

/// What the ledger holds after a restart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Each command's newest version that can be read.
    pub records: Vec<Record>,
    /// Above every number that was ever used, as far as the ledger knows.
    pub next_number: u64,
    /// Something could not be read: a record may be older than what was durable once, or missing.
    pub damaged: bool,
}

/// What a device may be sent; `None` for one that is not registered.
pub type Permits<'a> = &'a dyn Fn(&DeviceId) -> Option<Arc<Permissions>>;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is in the ledger; also where it is rejected, see [`Record::state`].
    Kept {
        /// As it is now.
        record: Arc<Record>,
        /// The device had a command of this id already: that one, and nothing is sent.
        repeated: bool,
    },
    /// It is not in the ledger and nothing is done.
    Refused(Refusal),
}

/// Why a request is not taken into the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every command in it is still to come to its end.
    #[error(
        "ledger full: all of its {0} commands (commands.max_count) are waiting for a device or a \
         result; try again when one of them has ended"
    )]
    Full(usize),
    /// The disk refuses.
    #[error("the command cannot be stored: {0}")]
    Stalled(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this to the ledger and report it with [`Desk::persisted`].
    Persist(Arc<Record>),
    /// Delete it from the ledger.
    Forget {
        /// Which.
        number: u64,
        /// It had ended and the broker never got its result.
        lost: bool,
    },
    /// Send COMMAND on this connection.
    Send {
        /// Which connection.
        session: SessionId,
        /// The command.
        record: Arc<Record>,
        /// Seconds left of its ttl, rounded up.
        ttl: u64,
    },
    /// Answer the request.
    Answer {
        /// Which.
        ticket: Ticket,
        /// With what.
        reply: Reply,
    },
    /// Publish [`Record::result_json`] and report the PUBACK with [`Desk::result_published`].
    PublishResult {
        /// Names this end of this command.
        finish: u64,
        /// The command.
        record: Arc<Record>,
    },
    /// For views and the feed: the command has changed. That it has ended is durable then; anything
    /// before may not be.
    Changed(Arc<Record>),
}

/// A RESULT from a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The command's id as the device says.
    pub id: String,
    /// Whether it was done.
    pub ok: bool,
    /// Its result, or what went wrong.
    pub value: Value,
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
