//! Why a connection is over.

use std::io;

use super::reason;
use crate::ports::DownCause;

/// Why the connection is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// For a person.
    pub(super) reason: String,
    /// What it tells about what was in flight.
    pub(super) cause: DownCause,
}

impl Lost {
    /// The broker owes something, or sends what makes no sense: it says nothing about what was
    /// in flight.
    pub(super) fn silent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: DownCause::Silent }
    }

    /// The end of the stream.
    pub(super) fn closed() -> Self {
        Self { reason: "closed by the broker".to_owned(), cause: DownCause::ClosedByBroker }
    }

    /// A broker that closes while bytes are on their way to it shows as a reset.
    pub(super) fn io(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => {
                Self { reason: format!("closed by the broker ({error})"), ..Self::closed() }
            }
            _ => Self::silent(error.to_string()),
        }
    }

    /// The broker said DISCONNECT (MQTT 5 section 3.14).
    pub(super) fn disconnect(code: u8, text: Option<&str>) -> Self {
        Self {
            reason: format!("the broker closed the connection: {}", reason::describe(code, text)),
            cause: match code {
                // Malformed packet, topic name, too large, payload format.
                0x81 | 0x90 | 0x95 | 0x99 => DownCause::PacketRefused,
                _ => DownCause::ClosedByBroker,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_broker_that_closed_and_a_dead_line_is_silence() {
        for (kind, cause) in [
            (io::ErrorKind::ConnectionReset, DownCause::ClosedByBroker),
            (io::ErrorKind::BrokenPipe, DownCause::ClosedByBroker),
            (io::ErrorKind::TimedOut, DownCause::Silent),
            (io::ErrorKind::HostUnreachable, DownCause::Silent),
        ] {
            assert_eq!(Lost::io(&kind.into()).cause, cause, "{kind:?}");
        }
    }
}
