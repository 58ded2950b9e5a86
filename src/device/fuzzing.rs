//! What devices send before and below the messages, judged for the fuzz targets in `fuzz/` and for
//! ordinary tests. Not part of the program: it is there under `cfg(test)` and `cfg(fuzzing)` only.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::ending::End;
use super::request::{self, HEAD_MAX, Head};
use super::websocket::WebSocket;
use crate::core::senml::Limits;
use crate::core::session::{NOT_A_MESSAGE, OUT_OF_TURN, REASON_MAX, Rules, TOO_BIG};

/// Largest message here, in bytes: small, so that inputs get beyond it.
const MAX_FRAME: usize = 400;
/// What one message may cost on the wire here, in bytes.
const ALLOWANCE: usize = 1000;
/// More than all answers together.
const ROOM: usize = 1 << 20;

/// Reads `bytes` as the request that opens a WebSocket, at once and as it would trickle in.
///
/// # Panics
/// When the two differ, or something is taken that must not be.
pub fn handshake(bytes: &[u8]) {
    let whole = outcome(bytes);
    if let Ok(Some((length, answer, _))) = &whole {
        assert!(*length <= bytes.len(), "more than there is");
        let text = std::str::from_utf8(answer).unwrap_or_else(|_| panic!("the answer is text"));
        assert_eq!(text.lines().count(), 6, "nothing of the request adds a line: {text:?}");
        if *length <= HEAD_MAX {
            assert_eq!(outcome(&bytes[..length - 1]), Ok(None), "complete with its last byte");
        }
    }
    // A connection's first piece is looked at however it ends, the others where a line does.
    if bytes.len() < HEAD_MAX {
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| i + 1);
        let trickled = ends.map(|end| outcome(&bytes[..end])).find(|seen| *seen != Ok(None));
        let partial = whole == Ok(None) || !bytes.contains(&b'\n');
        assert!(partial || trickled.is_none_or(|seen| seen == whole), "in pieces it is another");
    }
}

/// Length of the head and what follows from it; or the status and the text of the refusal.
#[expect(clippy::type_complexity, reason = "it is looked at in one place")]
fn outcome(
    bytes: &[u8],
) -> Result<Option<(usize, Vec<u8>, (String, Option<String>))>, (u16, &'static str)> {
    match request::parse(bytes) {
        Ok(Head::Partial) => Ok(None),
        Ok(Head::Complete { length, request }) => {
            let answer = request::switching_protocols(request.key);
            let said = (request.device.to_string(), request.token.map(str::to_owned));
            Ok(Some((length, answer, said)))
        }
        Err(refusal) => {
            assert!((400..=426).contains(&refusal.code()), "{refusal:?}");
            Err((refusal.code(), refusal.body()))
        }
    }
}

/// Reads what a device sends after the handshake, in pieces and with pauses, and compares with
/// what the bare library makes of the same bytes at once. The first two bytes of `input` say how
/// large the pieces are and how many messages are read in one go.
///
/// # Panics
/// When messages, answers or the end differ, or a breach is not answered with the right Close.
pub fn frames(input: &[u8]) {
    let [piece, room, bytes @ ..] = input else { return };
    let (piece, room) = (usize::from(*piece).max(1), usize::from(*room % 8) + 1);
    let bare = bare(bytes);
    let ours = ours(bytes, piece, room);
    let fragments = matches!(&ours.end, Error::Io(error) if error.kind() == io::ErrorKind::Other);
    if fragments {
        assert!(bytes.len() >= ALLOWANCE, "refused by {} bytes", bytes.len());
        assert!(bare.messages.starts_with(&ours.messages));
        assert!(bare.answers.starts_with(&ours.answers));
    } else {
        assert_eq!(ours.messages, bare.messages);
        assert_eq!(ours.end.to_string(), bare.end.to_string());
        assert_eq!(ours.answers, bare.answers);
    }
    for message in &ours.messages {
        assert!(message.len() <= MAX_FRAME, "{} bytes", message.len());
    }
    closes(ours);
}

/// What came of a connection.
struct Course<S> {
    messages: Vec<Message>,
    end: Error,
    /// What was written, pongs and the answer to a Close.
    answers: Vec<u8>,
    left: S,
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64)
        .write_buffer_size(64)
        .max_write_buffer_size(ROOM)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
}

/// A connection of which everything has arrived.
struct Arrived<'a> {
    bytes: &'a [u8],
    written: Vec<u8>,
}

impl Read for Arrived<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buf)
    }
}

impl Write for Arrived<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bare(bytes: &[u8]) -> Course<()> {
    let arrived = Arrived { bytes, written: Vec::new() };
    let config = Some(config());
    let mut websocket =
        tungstenite::protocol::WebSocket::from_raw_socket(arrived, Role::Server, config);
    let mut messages = Vec::new();
    let end = loop {
        match websocket.read() {
            Ok(message) => messages.push(message),
            Err(error) => break error,
        }
    };
    let answers = std::mem::take(&mut websocket.get_mut().written);
    Course { messages, end, answers, left: () }
}

fn ours(
    bytes: &[u8],
    piece: usize,
    room: usize,
) -> Course<(WebSocket<DuplexStream>, DuplexStream)> {
    let mut cx = Context::from_waker(Waker::noop());
    let (near, mut far) = duplex(ROOM);
    // The first piece came along with the request.
    let mut pieces = bytes.chunks(piece);
    let early = pieces.next().unwrap_or_default().to_vec();
    let mut websocket = WebSocket::new(near, early, config(), ALLOWANCE);
    let mut messages = Vec::new();
    let end = 'connection: loop {
        // All that has arrived is read, `room` messages in a go.
        loop {
            let went = websocket.read(|reading| {
                for _ in 0..room {
                    match reading.poll_next(&mut cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(Ok(message)) => messages.push(message),
                        Poll::Ready(Err(error)) => return Err(error),
                    }
                }
                Ok(true)
            });
            match went {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => break 'connection error,
            }
        }
        match pieces.next() {
            Some(piece) => {
                let sent = Pin::new(&mut far).poll_write(&mut cx, piece);
                assert!(matches!(sent, Poll::Ready(Ok(n)) if n == piece.len()));
            }
            None => assert!(Pin::new(&mut far).poll_shutdown(&mut cx).is_ready()),
        }
    };
    let answers = received(&mut far, &mut cx);
    Course { messages, end, answers, left: (websocket, far) }
}

fn received(far: &mut DuplexStream, cx: &mut Context<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut *far).poll_read(cx, &mut piece) {
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => bytes.extend(piece.filled()),
            _ => return bytes,
        }
    }
}

/// A breach is answered with a Close that names it, where the library only stops.
fn closes(course: Course<(WebSocket<DuplexStream>, DuplexStream)>) {
    let rules = Rules {
        window: 1,
        max_frame: MAX_FRAME,
        limits: Limits { max_records: 1, max_ahead: 0.0 },
        heartbeat_interval: Duration::from_secs(30),
        heartbeat_timeout: Duration::from_secs(10),
    };
    let Course { end, left: (mut websocket, mut far), .. } = course;
    let expected = match &end {
        Error::Capacity(_) | Error::Io(_) => Some(TOO_BIG),
        Error::Utf8(_) => Some(NOT_A_MESSAGE),
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
        | Error::ConnectionClosed => None,
        Error::Protocol(_) => Some(OUT_OF_TURN),
        other => panic!("{other:?} is no end of a connection"),
    };
    let said = match End::of(end, &rules) {
        End::Gone => None,
        End::Close(close) => Some(close),
    };
    assert_eq!(said.as_ref().map(|close| close.code), expected, "{said:?}");
    let Some(close) = said else { return };
    assert!(!close.reason.is_empty() && close.reason.len() <= REASON_MAX);
    let mut cx = Context::from_waker(Waker::noop());
    let reason = Utf8Bytes::from(close.reason.clone());
    let frame = CloseFrame { code: close.code.into(), reason };
    let queued = websocket.queue(&mut cx, Message::Close(Some(frame)));
    let flushed = websocket.poll_flush(&mut cx);
    assert!(queued.is_ok() && matches!(flushed, Poll::Ready(Ok(()))), "{queued:?} {flushed:?}");
    let mut whole = vec![0x88, u8::try_from(2 + close.reason.len()).unwrap_or(u8::MAX)];
    whole.extend(close.code.to_be_bytes());
    whole.extend(close.reason.as_bytes());
    assert!(received(&mut far, &mut cx).ends_with(&whole), "the Close is sent");
}
