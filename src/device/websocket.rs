//! A device's WebSocket: tungstenite's protocol state over a socket.
//!
//! tokio-tungstenite's own stream keeps a read buffer and two waker proxies per connection. Here
//! the bytes arrive in one buffer that all connections share, so that one system call brings a
//! whole burst and an idle connection keeps next to nothing.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::socket::Socket;

/// The header of a control frame from a client, in bytes (RFC 6455 section 5.2: two and the mask).
const CONTROL_HEADER: usize = 6;
/// Most bytes that one system call brings.
const BURST: usize = 16 * 1024;

thread_local! {
    /// Where bytes arrive. Between two uses nothing in it matters.
    static ARRIVALS: RefCell<Box<[u8]>> = RefCell::new(vec![0; BURST].into());
}

/// A WebSocket on the server's side.
pub(crate) struct WebSocket<S = Socket> {
    socket: S,
    context: WebSocketContext,
    /// What has arrived and was not looked at, because there was no room for more messages.
    unread: Vec<u8>,
    /// Bytes that may be taken before a message is complete. Below zero where bytes that came with
    /// them were taken along.
    left: isize,
    /// The same when a message begins.
    allowance: isize,
    /// Bytes that the socket has taken since the beginning.
    written: u64,
}

/// The error of a read when a message has too many fragments. It is inside an [`io::Error`].
///
/// Fragments may be empty, so their number is not bounded by the size of the message. What is
/// bounded is what a message costs on the wire, and so both.
#[derive(Debug, thiserror::Error)]
#[error("a message in too many fragments")]
pub(crate) struct TooManyFragments;

/// Nothing that is counted here comes near the end of either type.
fn signed(count: usize) -> isize {
    isize::try_from(count).unwrap_or(isize::MAX)
}

/// One go at reading: messages come out of it until nothing has arrived any more.
pub(crate) struct Reading<'a, S = Socket> {
    websocket: &'a mut WebSocket<S>,
    arrivals: Arrivals<'a>,
}

/// What has arrived: what was left over by the last go, then what the socket brings in this one.
struct Arrivals<'a> {
    left_over: Vec<u8>,
    taken: usize,
    /// Bytes that were taken in this go.
    count: usize,
    buffer: &'a mut [u8],
    from: usize,
    to: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `early` is what has arrived already. A message may cost `allowance` bytes on the wire.
    pub(crate) fn new(
        socket: S,
        early: Vec<u8>,
        config: WebSocketConfig,
        allowance: usize,
    ) -> Self {
        let context = WebSocketContext::new(Role::Server, Some(config));
        let allowance = signed(allowance);
        Self { socket, context, unread: early, left: allowance, allowance, written: 0 }
    }

    /// Calls `read` with what reads messages.
    pub(crate) fn read<T>(&mut self, read: impl FnOnce(&mut Reading<'_, S>) -> T) -> T {
        ARRIVALS.with_borrow_mut(|buffer| {
            let left_over = std::mem::take(&mut self.unread);
            let arrivals = Arrivals { left_over, taken: 0, count: 0, buffer, from: 0, to: 0 };
            let mut reading = Reading { websocket: self, arrivals };
            let result = read(&mut reading);
            let Reading { websocket, arrivals } = reading;
            websocket.unread = arrivals.rest();
            result
        })
    }

    /// Adds `message` to what is to be sent; it goes with the next flush, or before.
    pub(crate) fn queue(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Error> {
        let Self { socket, context, written, .. } = self;
        match context.write(&mut Io { socket, cx, written, source: None }, message) {
            // It was taken all the same.
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Sends what is queued, pongs and the answer to a Close included.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { socket, context, written, .. } = self;
        match context.flush(&mut Io { socket, cx, written, source: None }) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            // The closing handshake is complete with this.
            Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    /// Bytes that the socket has taken since the beginning.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The socket alone.
    pub(crate) fn into_socket(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Reading<'_, S> {
    /// Bytes that this go has taken, of whole messages and of parts.
    pub(crate) fn bytes(&self) -> usize {
        self.arrivals.count
    }

    /// The next message; `Pending` when all that has arrived is read.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let WebSocket { socket, context, left, allowance, written, .. } = &mut *self.websocket;
        let source = Some(Source { arrivals: &mut self.arrivals, left });
        match context.read(&mut Io { socket, cx, written, source }) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Ok(message) => {
                *left = match &message {
                    // They may stand between the fragments of a message, and must not make its
                    // allowance new.
                    Message::Ping(control) | Message::Pong(control) => {
                        (*left + signed(control.len() + CONTROL_HEADER)).min(*allowance)
                    }
                    _ => *allowance,
                };
                Poll::Ready(Ok(message))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Arrivals<'_> {
    fn peek(&self) -> &[u8] {
        match self.left_over.get(self.taken..) {
            Some(left_over) if !left_over.is_empty() => left_over,
            _ => self.buffer.get(self.from..self.to).unwrap_or_default(),
        }
    }

    fn take(&mut self, count: usize) {
        self.count += count;
        if self.taken < self.left_over.len() {
            self.taken += count;
        } else {
            self.from += count;
        }
    }

    /// What was not looked at, for the next go.
    fn rest(mut self) -> Vec<u8> {
        if self.taken < self.left_over.len() {
            self.left_over.drain(..self.taken);
            return self.left_over;
        }
        self.peek().to_vec()
    }
}

/// The socket as tungstenite wants it: what would block says so, and the task is woken later.
struct Io<'a, 'b, 'c, S> {
    socket: &'a mut S,
    cx: &'a mut Context<'b>,
    written: &'a mut u64,
    source: Option<Source<'a, 'c>>,
}

struct Source<'a, 'b> {
    arrivals: &'a mut Arrivals<'b>,
    left: &'a mut isize,
}

impl<S: AsyncRead + Unpin> Read for Io<'_, '_, '_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(Source { arrivals, left }) = &mut self.source else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if **left <= 0 {
            return Err(io::Error::other(TooManyFragments));
        }
        if arrivals.peek().is_empty() {
            let mut room = ReadBuf::new(arrivals.buffer);
            match Pin::new(&mut *self.socket).poll_read(self.cx, &mut room) {
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(read) => read?,
            }
            (arrivals.from, arrivals.to) = (0, room.filled().len());
        }
        let there = arrivals.peek();
        let count = there.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), there.get(..count)) {
            to.copy_from_slice(from);
        }
        arrivals.take(count);
        **left -= signed(count);
        Ok(count)
    }
}

impl<S: AsyncWrite + Unpin> Write for Io<'_, '_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write(self.cx, buf) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(written) => {
                let written = written?;
                *self.written += written as u64;
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match Pin::new(&mut *self.socket).poll_flush(self.cx) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(flushed) => flushed,
        }
    }
}
