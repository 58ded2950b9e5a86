//! How connections end: what an error means, the Close frame, and the time for it to arrive.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::shared::Slot;
use super::socket::Socket;
use super::websocket::{TooManyFragments, WebSocket};
use crate::core::session::{
    Close, NOT_A_MESSAGE, OUT_OF_TURN, OVERLOADED, RESTARTING, Rules, TOO_BIG, too_big,
};

/// How long the Close frame may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection stays after the gateway's last word, so that it arrives.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// What is read and thrown away meanwhile, in bytes.
const LINGER_BYTES: usize = 1 << 20;

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has gone, with or without a Close, which is answered.
    Gone,
    /// The gateway ends it.
    Close(Close),
}

impl End {
    /// What an error of the WebSocket means for the connection. tungstenite only stops; the Close
    /// frame is ours to send.
    pub(crate) fn of(error: Error, rules: &Rules) -> Self {
        let close = |code, reason: String| Self::Close(Close::new(code, reason));
        match error {
            Error::Capacity(_) => Self::Close(too_big(rules.max_frame)),
            Error::Utf8(_) => close(NOT_A_MESSAGE, "text that is not UTF-8".to_owned()),
            Error::Io(error)
                if error
                    .get_ref()
                    .is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooManyFragments>) =>
            {
                close(TOO_BIG, TooManyFragments.to_string())
            }
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::SendAfterClosing
                | ProtocolError::ReceivedAfterClosing,
            ) => Self::Gone,
            Error::Protocol(error) => close(OUT_OF_TURN, error.to_string()),
            Error::WriteBufferFull(_) => {
                close(OVERLOADED, "overloaded: this device does not read".to_owned())
            }
            _ => Self::Gone,
        }
    }
}

/// What a device is told when the gateway stops.
pub(crate) fn restarting() -> Close {
    Close::new(RESTARTING, "the gateway is restarting: connect again")
}

/// Sends what is to be said, ends the WebSocket and gives the place free.
pub(crate) async fn part(mut websocket: WebSocket, end: End, slot: Slot) {
    if let End::Close(Close { code, reason }) = end {
        tracing::debug!(code, reason, "closing a connection");
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        // Whether it arrives is the device's affair.
        let mut message = Some(Message::Close(Some(frame)));
        let sent = poll_fn(|cx| {
            if message.take().is_some_and(|message| websocket.queue(cx, message).is_err()) {
                return Poll::Ready(());
            }
            websocket.poll_flush(cx).map(drop)
        });
        let _ = timeout(CLOSE_TIMEOUT, sent).await;
    }
    let mut socket = websocket.into_socket();
    linger(&mut socket).await;
    drop(socket);
    drop(slot);
}

/// Ends the gateway's side and waits until the peer has ended its own: closing a socket with
/// something unread in it would make the system throw away what the peer has not read yet.
pub(crate) async fn linger(socket: &mut Socket) {
    let parted = async {
        socket.shutdown().await?;
        let mut scrap = vec![0; 512];
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES {
            match socket.read(&mut scrap).await? {
                0 => break,
                n => thrown_away += n,
            }
        }
        io::Result::Ok(())
    };
    // However it ends, the socket is closed next.
    let _ = timeout(LINGER, parted).await;
}
