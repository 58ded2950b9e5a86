//! What delivery decides, for the engine to perform.

use std::sync::Arc;

use crate::core::batch::{Batch, Loss};
use crate::core::ids::{Position, SessionId};

/// What the engine is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Hand the batch to the uplink.
    Publish {
        /// Names it in [`Delivery::published`](super::Delivery::published) and
        /// [`Delivery::refused`](super::Delivery::refused).
        token: u64,
        /// What to publish.
        batch: Arc<Batch>,
        /// Whether it waited in the spool.
        spooled: bool,
    },
    /// Add the batch to the spool.
    Append {
        /// Where.
        position: Position,
        /// What.
        batch: Arc<Batch>,
    },
    /// Read from the spool.
    Load {
        /// From here on.
        from: Position,
        /// About this much.
        max_bytes: usize,
    },
    /// The spool may forget everything up to here.
    Release {
        /// The last position that is settled.
        through: Position,
    },
    /// A batch is settled: count it, and its time since `arrived`.
    Settled {
        /// Published or spooled.
        path: Path,
        /// As given to [`Delivery::take`](super::Delivery::take).
        arrived: f64,
        /// How many readings.
        readings: u64,
        /// Bytes that no longer count against the memory budget.
        freed: usize,
    },
    /// The broker has taken these readings.
    Published {
        /// How many.
        readings: u64,
    },
    /// Readings will never be published: count, log and publish it.
    Lost(Loss),
    /// Tell the device that its batch is refused for ever.
    Reject {
        /// The device's connection.
        session: SessionId,
        /// The batch's number.
        seq: Option<u64>,
        /// The broker's words.
        reason: String,
    },
}

/// How a batch was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// PUBACK.
    Published,
    /// Completed fsync.
    Spooled,
    /// The broker refuses it.
    Refused,
}
