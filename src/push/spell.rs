//! What the log says of a push: one line when something begins, one when it ends.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Kind, Trouble};

/// Refusals are told at most this often.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);

/// What is going on.
#[derive(Debug, Default)]
pub(super) struct Spells {
    /// The trouble told last.
    trouble: Option<Kind>,
    /// Lines dropped in the spell of a full buffer that is on.
    overflow: u64,
    /// Lines refused since the log last told it.
    refused: u64,
    refused_told: Option<Instant>,
}

impl Spells {
    /// A request failed.
    pub(super) fn trouble(&mut self, push: &str, trouble: &Trouble) {
        let Trouble { kind, reason, .. } = trouble;
        if self.trouble.replace(*kind) == Some(*kind) {
            tracing::debug!(push, reason, "readings cannot be pushed yet");
        } else {
            let advice = kind.advice();
            tracing::warn!(push, reason, "readings cannot be pushed and wait in memory: {advice}");
        }
    }

    /// A request was taken, or refused by a server that is there.
    pub(super) fn answered(&mut self, push: &str) {
        if self.trouble.take().is_some() {
            tracing::info!(push, "readings are pushed again");
        }
    }

    /// The buffer was full: `lines` of the oldest went since the last call.
    pub(super) fn overflowed(&mut self, push: &str, lines: u64) {
        if lines > 0 && self.overflow == 0 {
            tracing::warn!(
                push,
                "the buffer of this push is full, the oldest readings in it are dropped (the broker \
                 gets them all the same): see why the server does not take them, or raise \
                 push.max_buffer"
            );
        }
        self.overflow += lines;
    }

    /// The buffer is down to what the next request takes: a spell of a full one is over.
    pub(super) fn drained(&mut self, push: &str) {
        let dropped = std::mem::take(&mut self.overflow);
        if dropped > 0 {
            tracing::info!(push, dropped, "the buffer of this push has room again");
        }
    }

    /// The server will never take these.
    pub(super) fn refused(&mut self, push: &str, lines: u64, reason: &str) {
        self.refused += lines;
        if self.refused_told.is_some_and(|told| told.elapsed() < REFUSALS_EVERY) {
            return;
        }
        let readings = std::mem::take(&mut self.refused);
        self.refused_told = Some(Instant::now());
        tracing::warn!(
            push,
            readings,
            reason,
            "the server refuses readings for good, they are dropped (the broker gets them all the \
             same); push.devices and push.readings can leave them out"
        );
    }
}
