//! What one go of reading takes from the socket, judged message by message.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_tungstenite::tungstenite::Message;

use super::ending::End;
use super::shared::Shared;
use super::submission::{Cargo, CommandResult};
use super::websocket::Reading;
use crate::core::clock::Moment;
use crate::core::frame::{GatewayMessage, Hello};
use crate::core::policy::Permissions;
use crate::core::session::{Session, Step};
use crate::metrics::Code;
use crate::ports::{Refused, RefusedKind};

/// Bytes after which any go is over.
const BYTES_AT_A_TIME: usize = 128 * 1024;
/// REJECTs that wait to be written before the device is not read from.
pub(super) const REPLIES_AT_A_TIME: usize = 16;

/// Why reading stopped.
pub(super) enum Filled {
    /// The socket has no more.
    Drained,
    /// It was enough for one go.
    Full,
}

/// What one go has read.
pub(super) struct Inbox {
    pub(super) received: Moment,
    pub(super) room: usize,
    /// Bytes after which this go is over.
    pub(super) enough: usize,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) cargo: Option<Cargo>,
}

impl Inbox {
    /// For `room` messages at most, and until `bytes` have come.
    pub(super) fn new(received: Moment, room: usize, bytes: usize) -> Self {
        let enough = bytes.min(BYTES_AT_A_TIME);
        Self { received, room, enough, messages: 0, bytes: 0, cargo: None }
    }
}

/// What judges messages on the way from the socket to the inbox.
pub(super) struct Mailbox<'a> {
    pub(super) session: &'a mut Session,
    pub(super) permissions: &'a Permissions,
    pub(super) replies: &'a mut Vec<GatewayMessage>,
    pub(super) inbox: &'a mut Inbox,
    pub(super) shared: &'a Arc<Shared>,
}

impl Mailbox<'_> {
    pub(super) fn fill(
        &mut self,
        cx: &mut Context<'_>,
        reading: &mut Reading<'_>,
        hello: &mut Option<Hello>,
        pinged: &mut bool,
    ) -> Result<Filled, End> {
        while self.inbox.messages < self.inbox.room && self.inbox.bytes < self.inbox.enough {
            let next = reading.poll_next(cx);
            self.inbox.bytes = reading.bytes();
            let message = match next {
                Poll::Pending => return Ok(Filled::Drained),
                Poll::Ready(message) => {
                    message.map_err(|error| End::of(error, &self.shared.rules))?
                }
            };
            self.inbox.messages += 1;
            match message {
                Message::Binary(bytes) => {
                    let step = self.judge(&bytes)?;
                    if let Step::Hello(said) = step {
                        *hello = Some(said);
                        return Ok(Filled::Full);
                    }
                    if !self.receive(step) || self.replies.len() >= REPLIES_AT_A_TIME {
                        return Ok(Filled::Full);
                    }
                }
                Message::Text(_) => return Err(End::Close(Session::text())),
                Message::Ping(_) => *pinged = true,
                Message::Pong(echo) => {
                    if let Some(seconds) = self.shared.since_ping(&echo) {
                        self.shared.context.feed.round_trip(self.session.device(), seconds);
                    }
                }
                // The answer to a Close goes out with the next read, which ends the stream.
                Message::Close(_) | Message::Frame(_) => {}
            }
        }
        Ok(Filled::Full)
    }

    fn judge(&mut self, bytes: &[u8]) -> Result<Step, End> {
        let Self { session, permissions, inbox, shared, .. } = self;
        session.receive(bytes, &inbox.received, &shared.rules, permissions).map_err(End::Close)
    }

    /// Whether there is room to go on.
    fn receive(&mut self, step: Step) -> bool {
        let metrics = &self.shared.context.metrics;
        let cargo = &mut self.inbox.cargo;
        match step {
            Step::Submit(batch) => {
                metrics.batches_received.inc();
                return cargo.get_or_insert_with(|| Cargo::new(self.shared)).load(Arc::new(batch));
            }
            Step::Reject { seq, reject } => {
                metrics.batches_received.inc();
                let code = Code { code: reject.code.as_str() };
                metrics.batches_rejected.get_or_create(&code).inc();
                let (code, reason) = (reject.code.code(), reject.reason);
                let (kind, time) = (RefusedKind::Batch, self.inbox.received.unix);
                let refused = Refused { kind, code, reason: &reason, time };
                self.shared.context.feed.refused(self.session.device(), &refused);
                self.replies.push(GatewayMessage::Reject { seq, code, reason });
                if let Some(seq) = seq {
                    cargo.get_or_insert_with(|| Cargo::new(self.shared)).load_rejected(seq);
                }
            }
            Step::Result { id, ok, value } => {
                let result = CommandResult { id, ok, value };
                cargo.get_or_insert_with(|| Cargo::new(self.shared)).load_result(result);
            }
            // Taken before.
            Step::Hello(_) => {}
        }
        true
    }
}
