//! From a TCP connection to a WebSocket: TLS, the HTTP request, credentials, the answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::ending::{LINGER, linger};
use super::refusal::Refusal;
use super::request::{self, Head, Request};
use super::sessions::Proof;
use super::shared::{Shared, Slot};
use super::socket::{Metered, Socket};
use super::{connection, greeting, tls};
use crate::core::ids::DeviceId;

/// How long a connection that is over a limit may take to hear so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Room for a common request head.
const HEAD: usize = 1024;

/// A connection just accepted.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) slot: Slot,
    /// Set if it is over a limit.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) acceptor: Option<TlsAcceptor>,
}

/// A WebSocket whose device is known and has proved it.
pub(crate) struct Upgraded {
    pub(crate) websocket: WebSocketStream<Metered>,
    pub(crate) device: DeviceId,
    pub(crate) proof: Proof,
    pub(crate) peer: SocketAddr,
    pub(crate) slot: Slot,
}

/// Takes a connection through to its session, which then runs in a task of its own; or refuses it.
pub(crate) async fn serve(arrival: Arrival, shared: Arc<Shared>) {
    let Arrival { stream, peer, slot, refusal, acceptor } = arrival;
    let patience = match refusal {
        Some(_) => shared.hello_timeout.min(REFUSAL_TIMEOUT),
        None => shared.hello_timeout,
    };
    let deadline = Instant::now() + patience;
    let begun = Box::pin(timeout_at(deadline, secure(stream, acceptor, &shared)));
    let mut socket = match begun.await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return shared.refused("tls");
        }
        Err(_) => return shared.refused("timeout"),
    };
    let outcome = {
        let request = timeout_at(deadline, read_request(&mut socket, refusal, &shared));
        tokio::select! {
            outcome = request => outcome,
            () = shared.stopping() => Ok(Err(Failure::Refused(Refusal::Stopping))),
        }
    };
    let accepted = match outcome {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(Failure::Refused(refusal))) => {
            tracing::debug!(%peer, reason = refusal.body(), "connection refused");
            shared.refused(refusal.label());
            // Whether it arrives is the client's affair.
            let _ = timeout(LINGER, say_and_part(socket, &refusal.response())).await;
            return;
        }
        Ok(Err(Failure::Gone(error))) => {
            tracing::debug!(%peer, %error, "connection gone before its request");
            return;
        }
        Err(_) => return shared.refused("timeout"),
    };
    let Accepted { device, proof, response, early } = accepted;
    match timeout_at(deadline, write(&mut socket, &response)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return,
        Err(_) => return shared.refused("timeout"),
    }
    let socket = Metered::new(socket, shared.allowance());
    let config = Some(shared.websocket);
    let websocket = if early.is_empty() {
        WebSocketStream::from_raw_socket(socket, Role::Server, config).await
    } else {
        WebSocketStream::from_partially_read(socket, early, Role::Server, config).await
    };
    let upgraded = Upgraded { websocket, device, proof, peer, slot };
    if let Some(connection) = Box::pin(greeting::greet(upgraded, deadline, shared)).await {
        tokio::spawn(connection::drive(connection));
    }
}

struct Accepted {
    device: DeviceId,
    proof: Proof,
    response: Vec<u8>,
    /// What the device sent behind its request, without waiting for the answer.
    early: Vec<u8>,
}

enum Failure {
    Refused(Refusal),
    Gone(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn secure(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    shared: &Shared,
) -> io::Result<Socket> {
    let Some(acceptor) = acceptor else { return Ok(Socket::Plain(stream)) };
    // Who says nothing does not take a turn from those who do.
    stream.readable().await?;
    // Never closed, so the error cannot happen; going on without a turn would do no harm.
    let _turn = shared.tls_turns.acquire().await;
    Ok(Socket::Tls(Box::new(acceptor.accept(stream).await?)))
}

async fn read_request(
    socket: &mut Socket,
    refusal: Option<Refusal>,
    shared: &Shared,
) -> Result<Accepted, Failure> {
    let mut bytes = Vec::with_capacity(HEAD);
    let mut looked_at = 0;
    loop {
        match socket.read_buf(&mut bytes).await {
            Ok(0) => return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(Failure::Gone(error)),
        }
        // A head that trickles in is not read again from its start for every byte.
        let may_be_complete = looked_at == 0
            || bytes.len() >= request::HEAD_MAX
            || bytes.get(looked_at..).is_some_and(|fresh| fresh.contains(&b'\n'));
        if !may_be_complete {
            continue;
        }
        looked_at = bytes.len();
        match request::parse(&bytes) {
            Ok(Head::Partial) => {}
            outcome => {
                // Limits come before everything else that may be wrong.
                if let Some(refusal) = refusal {
                    return Err(refusal.into());
                }
                let (length, accepted) = match outcome? {
                    Head::Partial => continue,
                    Head::Complete { length, request } => {
                        (length, accept(&request, socket, shared)?)
                    }
                };
                return Ok(Accepted { early: bytes.split_off(length), ..accepted });
            }
        }
    }
}

fn accept(request: &Request<'_>, socket: &Socket, shared: &Shared) -> Result<Accepted, Refusal> {
    let proof = judge(request, socket, shared)?;
    let response = request::switching_protocols(request.key);
    Ok(Accepted { device: request.device.clone(), proof, response, early: Vec::new() })
}

fn judge(request: &Request<'_>, socket: &Socket, shared: &Shared) -> Result<Proof, Refusal> {
    if let Some(origin) = request.origin {
        let allowed = |listed: &String| listed.as_bytes() == origin;
        if !shared.allowed_origins.iter().any(allowed) {
            return Err(Refusal::OriginNotAllowed);
        }
    }
    let certified = match socket {
        Socket::Plain(_) => false,
        Socket::Tls(stream) => tls::certifies(stream, &request.device),
    };
    let registry = shared.registry();
    let (device, now) = (&request.device, shared.unix());
    Proof::check(shared.auth, &registry, device, request.token, certified, now)
        .ok_or(Refusal::Unauthorized)
}

async fn write(socket: &mut Socket, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}

async fn say_and_part(mut socket: Socket, bytes: &[u8]) {
    if write(&mut socket, bytes).await.is_ok() {
        linger(&mut socket).await;
    }
}
