//! One byte stream, with TLS or without, that counts what a message costs on the wire.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection to a device.
#[derive(Debug)]
pub(crate) enum Socket {
    /// `ws://`
    Plain(TcpStream),
    /// `wss://`; boxed, or it would cost those without TLS a kilobyte each.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A [`Socket`] from which a WebSocket is read. Fragments of a message may be empty, so their
/// number is not bounded by the size of the message; this bounds the bytes that may arrive before
/// a message is complete, and so both.
#[derive(Debug)]
pub(crate) struct Metered {
    socket: Socket,
    left: usize,
}

/// The error of a read when a message has too many fragments. It is inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("a message in too many fragments")]
pub(crate) struct TooManyFragments;

impl Metered {
    /// Lets `allowance` bytes through until [`Self::renew`].
    pub(crate) fn new(socket: Socket, allowance: usize) -> Self {
        Self { socket, left: allowance }
    }

    /// A message is complete: the next has the whole allowance.
    pub(crate) fn renew(&mut self, allowance: usize) {
        self.left = allowance;
    }

    /// The connection alone.
    pub(crate) fn get_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooManyFragments)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        this.left = this.left.saturating_sub(buf.filled().len().saturating_sub(before));
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
