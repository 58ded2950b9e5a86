//! The live feed, as a WebSocket and as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::http::{Refusal, body};
use super::hub::{Hub, Piece, Viewer};
use super::origin::check_origin;
use super::people::{Caller, Who};
use super::render::Filter;
use super::server::Stopping;
use crate::config::users;

/// Viewers at a time.
pub(super) const MAX_VIEWERS: usize = 1000;

/// Who gets entries of the log, as `/api/v1/log` does.
const LOG_NEEDS: users::Role = users::Role::Operator;

/// How long a viewer may take to receive one piece (at most some 64 KiB).
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// How often a viewer is pinged.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A viewer from which nothing has come for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Messages from viewers are control frames; nothing else is expected.
const MESSAGE_MAX: usize = 4096;

/// How many bytes of small messages are written at once.
const WRITE_AT_ONCE: usize = 16 * 1024;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;
type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Upgrades to a WebSocket that gets the feed.
pub(super) async fn websocket(
    State(hub): State<Arc<Hub>>,
    query: Pairs,
    Extension(caller): Extension<Caller>,
    mut request: Request,
) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    check_origin(headers, &hub.context().origins)?;
    let key = check_handshake(&request)?;
    let viewer = admit(&hub, query, &caller)?;
    let stopping = request.extensions().get::<Stopping>().cloned();
    let (Some(stopping), Some(upgrade)) =
        (stopping, request.extensions_mut().remove::<OnUpgrade>())
    else {
        return Err(upgrade_required("this connection cannot become a WebSocket"));
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded), viewer, caller.who, stopping).await,
            Err(error) => tracing::debug!(%error, "a viewer left before the upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    Ok(response)
}

/// The feed as server-sent events, one per message.
pub(super) async fn events(
    State(hub): State<Arc<Hub>>,
    query: Pairs,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    check_origin(request.headers(), &hub.context().origins)?;
    if request.method() == axum::http::Method::HEAD {
        return Ok(body("text/event-stream", Body::empty()));
    }
    let viewer = admit(&hub, query, &caller)?;
    let stopping = request.extensions().get::<Stopping>().cloned();
    let following = (caller.who.follow(), caller.who);
    let begin = (viewer, following, stopping);
    let pieces = stream::unfold(begin, |(mut viewer, mut following, mut stopping)| async move {
        let mut chunk = Vec::new();
        loop {
            while chunk.len() < WRITE_AT_ONCE {
                let Some(piece) = viewer.next() else { break };
                append_event(&mut chunk, &piece);
            }
            if !chunk.is_empty() {
                return Some((
                    Ok::<_, Infallible>(Bytes::from(chunk)),
                    (viewer, following, stopping),
                ));
            }
            let goes_on = tokio::select! {
                goes_on = viewer.changed() => goes_on,
                () = stopped(&mut stopping) => false,
                () = following.1.ended() => false,
            };
            if !goes_on {
                return None;
            }
        }
    });
    Ok(body("text/event-stream", Body::from_stream(pieces)))
}

async fn stopped(stopping: &mut Option<Stopping>) {
    match stopping {
        Some(stopping) => stopping.wait().await,
        None => std::future::pending().await,
    }
}

fn admit(hub: &Arc<Hub>, query: Pairs, caller: &Caller) -> Result<Viewer, Refusal> {
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    let Query(pairs) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let mut filter = Filter::new(pairs).map_err(bad)?;
    if !caller.who.is_at_least(LOG_NEEDS) {
        filter = filter.without_log();
    }
    hub.enter(filter, MAX_VIEWERS).ok_or_else(|| {
        let error = format!("{MAX_VIEWERS} viewers are connected already; try again later");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
    })
}

fn append_event(chunk: &mut Vec<u8>, piece: &Piece) {
    const BEGIN: &[u8] = b"data: ";
    const END: &[u8] = b"\n\n";
    let (begin, bytes, end): (&[u8], &[u8], &[u8]) = match piece {
        Piece::Whole(text) => (BEGIN, text.as_bytes(), END),
        Piece::First(bytes) => (BEGIN, bytes, b""),
        Piece::Middle(bytes) => (b"", bytes, b""),
        Piece::Last(bytes) => (b"", bytes, END),
    };
    chunk.extend_from_slice(begin);
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(end);
}

fn upgrade_required(error: &str) -> Refusal {
    Refusal::new(StatusCode::UPGRADE_REQUIRED, error)
}

/// Checks the opening handshake (RFC 6455 section 4.2.1). Returns `Sec-WebSocket-Accept`.
fn check_handshake(request: &Request) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11
        || request.method() != axum::http::Method::GET
        || !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(upgrade_required("the feed is a WebSocket; see also /api/v1/events"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(upgrade_required("only Sec-WebSocket-Version: 13 is spoken"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let accept = key.map(|key| derive_accept_key(key.as_bytes()));
    accept.and_then(|accept| HeaderValue::from_str(&accept).ok()).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64")
    })
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|list| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(token)))
    })
}

/// One viewer, from the upgrade to its end.
async fn serve(io: TokioIo<Upgraded>, mut viewer: Viewer, mut who: Who, mut stopping: Stopping) {
    let in_use = who.follow();
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(WRITE_AT_ONCE)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let goodbye = tokio::select! {
        goodbye = converse(&mut socket, &mut viewer) => goodbye,
        () = stopping.wait() => Some((CloseCode::Away, "the gateway is stopping")),
        () = who.ended() => Some((CloseCode::Policy, "the session is over")),
    };
    drop((viewer, in_use));
    if let Some((code, reason)) = goodbye {
        let close = CloseFrame { code, reason: reason.into() };
        // Whether it arrives or not, the viewer is gone afterwards.
        let _ = timeout(Duration::from_secs(1), socket.close(Some(close))).await;
    }
}

/// Sends the feed until one side ends it. Returns what to say in a Close frame, if anything.
async fn converse(socket: &mut Socket, viewer: &mut Viewer) -> Option<(CloseCode, &'static str)> {
    const SLOW: Option<(CloseCode, &str)> =
        Some((CloseCode::Policy, "too slow even for the newest values"));
    let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        while let Some(piece) = viewer.next() {
            match timeout(SEND_DEADLINE, socket.feed(message(piece))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return SLOW,
            }
        }
        match timeout(SEND_DEADLINE, socket.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(_) => return SLOW,
        }
        tokio::select! {
            goes_on = viewer.changed() => if !goes_on {
                return Some((CloseCode::Away, "the feed has ended"));
            },
            incoming = socket.next() => match incoming {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => heard = Instant::now(),
                Some(Ok(Message::Close(_))) => {
                    // The answer is queued already.
                    let _ = timeout(SEND_DEADLINE, socket.flush()).await;
                    return None;
                }
                Some(Ok(Message::Frame(_))) | None => return None,
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                    return Some((CloseCode::Policy, "the feed takes no messages"));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "a viewer's connection failed");
                    return Some((CloseCode::Protocol, "not a valid WebSocket frame"));
                }
            },
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return Some((CloseCode::Policy, "no pong in time"));
                }
                if socket.feed(Message::Ping(Bytes::new())).await.is_err() {
                    return None;
                }
            }
        }
    }
}

fn message(piece: Piece) -> Message {
    let part = |bytes, kind, last| Message::Frame(Frame::message(bytes, OpCode::Data(kind), last));
    match piece {
        Piece::Whole(text) => Message::Text(text),
        Piece::First(bytes) => part(bytes, Data::Text, false),
        Piece::Middle(bytes) => part(bytes, Data::Continue, false),
        Piece::Last(bytes) => part(bytes, Data::Continue, true),
    }
}
