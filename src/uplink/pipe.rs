//! The stream to the broker and what is buffered on either side of it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::dial::Stream;
use super::lost::Lost;

/// From this many unwritten bytes on nothing more is taken: one full write, and the bound on what
/// a broker that does not read can make us hold.
const OUTBOX_FULL: usize = 64 * 1024;

/// The read buffer: small until the broker fills it.
const INBOX: usize = 2 * 1024;
const INBOX_BUSY: usize = 16 * 1024;

/// A stream with its buffers.
#[derive(Debug)]
pub(super) struct Pipe {
    stream: Stream,
    /// What was read and not yet understood.
    pub(super) inbox: BytesMut,
    /// What waits to be written.
    pub(super) outbox: BytesMut,
    /// Bytes still to come that nobody wants.
    skip: usize,
    /// How much room the next read gets.
    read_size: usize,
    /// Whether bytes may still be inside the TLS layer.
    unflushed: bool,
    last_write: Instant,
}

impl Pipe {
    /// `inbox` is what was read of `stream` before.
    pub(super) fn new(stream: Stream, inbox: BytesMut) -> Self {
        Self {
            stream,
            inbox,
            outbox: BytesMut::new(),
            skip: 0,
            read_size: INBOX,
            unflushed: false,
            last_write: Instant::now(),
        }
    }

    /// Whether nothing more should be put into the outbox.
    pub(super) fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_FULL
    }

    /// When the stream last took something.
    pub(super) fn last_write(&self) -> Instant {
        self.last_write
    }

    /// Reads once, to the end of the inbox.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inbox.reserve(self.read_size);
        let read = std::pin::pin!(self.stream.read_buf(&mut self.inbox)).poll(cx);
        match std::task::ready!(read) {
            Ok(0) => Poll::Ready(Err(Lost::closed())),
            Ok(read) => {
                if read >= self.read_size {
                    self.read_size = INBOX_BUSY;
                }
                self.pass_over(0);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Lost::io(&error))),
        }
    }

    /// Passes over the next `bytes` bytes, whenever they come.
    pub(super) fn pass_over(&mut self, bytes: usize) {
        self.skip += bytes;
        let here = self.skip.min(self.inbox.len());
        self.inbox.advance(here);
        self.skip -= here;
    }

    /// Gives back the memory that one large packet took.
    pub(super) fn shrink_inbox(&mut self) {
        if self.inbox.is_empty() && self.inbox.capacity() > 4 * INBOX_BUSY {
            self.inbox = BytesMut::new();
        }
    }

    /// Writes what the stream takes now.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        while !self.outbox.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outbox) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(Lost::closed()),
                Poll::Ready(Ok(written)) => {
                    self.outbox.advance(written);
                    self.unflushed = true;
                    self.last_write = Instant::now();
                }
                Poll::Ready(Err(error)) => return Err(Lost::io(&error)),
            }
        }
        if self.outbox.is_empty() && self.outbox.capacity() > 4 * OUTBOX_FULL {
            // One huge message does not keep its memory.
            self.outbox = BytesMut::new();
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(Lost::io(&error)),
            }
        }
        Ok(())
    }

    /// Writes everything and closes the stream.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.write(cx) {
            Err(_) => Poll::Ready(()),
            Ok(()) if !self.outbox.is_empty() || self.unflushed => Poll::Pending,
            Ok(()) => Pin::new(&mut self.stream).poll_shutdown(cx).map(drop),
        }
    }
}
