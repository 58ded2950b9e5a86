//! The HTTP request that opens a WebSocket (RFC 6455 section 4.2.1), read and judged.
//!
//! By hand on httparse: hyper's connection begins with a read buffer of 8 KiB, three times what a
//! whole idle session takes, and a fleet that comes back is in the handshake all at once. Here
//! there is never a second request nor a body, so what makes HTTP/1.1 hard does not arise: after
//! the one answer the connection is a WebSocket or closed.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::refusal::Refusal;
use crate::core::ids::DeviceId;
use crate::core::proxy;

/// The subprotocol.
pub(crate) const PROTOCOL: &str = "tidegate.v1";

/// Largest request head in bytes.
pub(crate) const HEAD_MAX: usize = 8 * 1024;
/// Most header lines.
const HEADERS_MAX: usize = 64;

/// What is wrong with a PROXY header where none is expected.
pub(crate) const UNLISTED_PROXY: &str = "a PROXY header from a peer that is not in \
    devices.trusted_proxies, or not as devices.proxy_header says";

const PATH: &str = "/v1/devices/";
const BEARER_PROTOCOL: &str = "bearer.";

/// A handshake with nothing wrong in itself; whether this client may connect is another matter.
pub(crate) struct Request<'a> {
    /// Whose connection it shall be.
    pub(crate) device: DeviceId,
    /// `Sec-WebSocket-Key`, checked.
    pub(crate) key: &'a str,
    /// `Origin`: browsers always send it, others seldom.
    pub(crate) origin: Option<&'a [u8]>,
    /// The lines of `X-Forwarded-For`; whether to believe them is another matter.
    pub(crate) forwarded: Vec<&'a [u8]>,
    /// The token. Not to be logged.
    pub(crate) token: Option<&'a str>,
}

/// Where reading the request stands.
pub(crate) enum Head<'a> {
    /// More bytes are needed.
    Partial,
    /// It is there; what follows `length` bytes belongs to the WebSocket.
    Complete {
        /// Length of the head in bytes.
        length: usize,
        /// The request.
        request: Request<'a>,
    },
}

/// Reads and judges what has come so far.
///
/// # Errors
/// The refusal to answer with; see there for the order of checks.
pub(crate) fn parse(bytes: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX => {
            return Err(Refusal::BadHandshake("bad handshake: request head over 8 KiB"));
        }
        Ok(httparse::Status::Partial) => return Ok(Head::Partial),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::BadHandshake("bad handshake: more than 64 header lines"));
        }
        Err(_) if proxy::is_header(bytes) => return Err(Refusal::Proxy(UNLISTED_PROXY)),
        // However it arrives in pieces, it gets the same answer.
        Err(_) if proxy::begins_header(bytes) => return Ok(Head::Partial),
        Err(_) => return Err(Refusal::BadHandshake("bad handshake: not an HTTP/1.1 request")),
    };
    let device = device(request.path.unwrap_or_default()).ok_or(Refusal::NoSuchPath)?;
    if request.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    if request.version != Some(1) {
        return Err(Refusal::BadHandshake("bad handshake: HTTP/1.1 is needed"));
    }
    upgrade(device, request.headers).map(|request| Head::Complete { length, request })
}

/// The answer that makes the connection a WebSocket.
pub(crate) fn switching_protocols(key: &str) -> Vec<u8> {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    )
    .into_bytes()
}

/// The device that a request target names, in origin or absolute form (RFC 9112 section 3.2).
fn device(target: &str) -> Option<DeviceId> {
    let path = if target.starts_with('/') {
        target
    } else {
        let rest = target.split_once("://").map(|(_, rest)| rest)?;
        rest.find('/').and_then(|i| rest.get(i..))?
    };
    let path = path.split_once('?').map_or(path, |(path, _query)| path);
    DeviceId::new(path.strip_prefix(PATH)?).ok()
}

fn upgrade<'a>(device: DeviceId, headers: &[httparse::Header<'a>]) -> Result<Request<'a>, Refusal> {
    if !lists(headers, "Upgrade", "websocket") {
        return Err(Refusal::UpgradeRequired);
    }
    if !lists(headers, "Connection", "upgrade") {
        return Err(Refusal::BadHandshake("bad handshake: Connection: Upgrade is missing"));
    }
    // RFC 9112 section 3.2, RFC 6455 section 4.2.1.
    if text(headers, "Host")?.is_none() {
        return Err(Refusal::BadHandshake("bad handshake: Host is missing"));
    }
    match text(headers, "Sec-WebSocket-Version")? {
        Some("13") => {}
        Some(_) => return Err(Refusal::UnsupportedVersion),
        None => {
            return Err(Refusal::BadHandshake("bad handshake: Sec-WebSocket-Version is missing"));
        }
    }
    let key = text(headers, "Sec-WebSocket-Key")?
        .filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16))
        .ok_or(Refusal::BadHandshake(
            "bad handshake: Sec-WebSocket-Key is missing or not 16 bytes of base64",
        ))?;
    let mut protocols = values(headers, "Sec-WebSocket-Protocol")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    if !protocols.clone().any(|protocol| protocol == PROTOCOL) {
        return Err(Refusal::BadHandshake(
            "subprotocol not offered: Sec-WebSocket-Protocol must list tidegate.v1",
        ));
    }
    let token = match text(headers, "Authorization")? {
        Some(value) => bearer(value),
        None => protocols.find_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL)),
    };
    let origin = values(headers, "Origin").next();
    let forwarded = values(headers, "X-Forwarded-For").collect();
    Ok(Request { device, key, origin, forwarded, token })
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn values<'h, 'a: 'h>(
    headers: &'h [httparse::Header<'a>],
    name: &'h str,
) -> impl Iterator<Item = &'a [u8]> + Clone + 'h {
    headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
}

/// Whether a header that is a list, over all its lines, has `wanted` in it.
fn lists(headers: &[httparse::Header<'_>], name: &str, wanted: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&b| b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The value of a header that may be there once.
fn text<'a>(
    headers: &[httparse::Header<'a>],
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = values(headers, name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::BadHandshake(
            "bad handshake: a header that may be there once is there twice",
        ));
    }
    std::str::from_utf8(value)
        .map(|value| Some(value.trim()))
        .map_err(|_| Refusal::BadHandshake("bad handshake: a header is not text"))
}
