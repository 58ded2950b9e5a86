//! Why a client cannot be made, and why one stops for good.

use crate::core::ids::BadDeviceId;

/// What is wrong with [`super::Options`].
#[derive(Debug, thiserror::Error)]
pub enum BadOptions {
    /// Not an address this client can connect to.
    #[error(
        "{url:?} is not the address of a gateway: {problem}; write ws://HOST:PORT or wss://HOST:PORT"
    )]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The device id breaks the rules.
    #[error(transparent)]
    Device(#[from] BadDeviceId),
    /// The token cannot stand in an HTTP header.
    #[error(
        "the token holds characters that cannot be sent; was the whole line copied, and only it?"
    )]
    Token,
    /// `wss://` without a TLS configuration.
    #[error("{0} needs TLS: set `Options::tls`, for example with `client::tls::config`")]
    NoTls(String),
    /// `first_seq` is 0.
    #[error("sequence numbers start at 1")]
    FirstSeq,
}

/// Why a client ended for good. Everything else (a broken connection, a gateway that restarts or is
/// full) it deals with itself, by reconnecting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// [`super::Client::close`] was called, or the client was dropped.
    #[error("the client was closed")]
    Closed,
    /// The gateway answered the handshake with a refusal that waiting does not cure: wrong
    /// credentials (401), Origin not allowed (403), no such path (404) and the like.
    #[error("the gateway refused the connection: {status} {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The gateway's own words.
        text: String,
    },
    /// Close code 4003: the token was revoked, or the device removed.
    #[error("the gateway no longer accepts this device's credentials: {0}")]
    Revoked(String),
    /// Close code 4009: another connection of the same device took over. Reconnecting would throw
    /// that one out in turn, for ever.
    #[error("another connection of the same device id has taken over: {0}")]
    Replaced(String),
    /// Close codes 1002, 1003, 1007 and 1009: the gateway could not take what was sent. It would
    /// be sent again after a reconnect, with the same end.
    #[error("the gateway closed the connection over what this client sent ({code}): {reason}")]
    Unacceptable {
        /// The close code.
        code: u16,
        /// The gateway's own words.
        reason: String,
    },
    /// The gateway sent something that `tidegate.v1` does not allow.
    #[error("the other end does not speak tidegate.v1: {0}")]
    NotAGateway(String),
    /// The epoch's numbers were used before, so new batches would be taken for duplicates.
    #[error(
        "the gateway has settled batch {acked} of epoch {epoch}, but this client sent only up to \
         {highest_sent}: go on at {acked} + 1, or draw a new epoch"
    )]
    EpochInUse {
        /// The epoch in question.
        epoch: u64,
        /// The highest number the gateway has settled.
        acked: u64,
        /// The highest number this client has sent.
        highest_sent: u64,
    },
}

/// Why a batch was not taken by [`super::Client::send`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The client has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Larger than a message may be, as WELCOME said. Split it.
    #[error(
        "the message has {bytes} bytes, the gateway takes at most {max_frame}: send fewer readings at a time"
    )]
    TooLarge {
        /// The size of the message.
        bytes: usize,
        /// What the gateway takes.
        max_frame: usize,
    },
}
