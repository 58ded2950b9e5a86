//! From a TCP connection to a WebSocket: TLS, the HTTP request, credentials, the answer.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::ending::{LINGER, linger};
use super::refusal::Refusal;
use super::request::{self, Head, Request};
use super::sessions::Proof;
use super::shared::{Shared, Slot};
use super::socket::Socket;
use super::turned_away::TurnedAway;
use super::websocket::WebSocket;
use super::{connection, presence, tls};
use crate::config::ProxyHeader;
use crate::core::ids::DeviceId;
use crate::core::proxy;
use crate::host::proxied;

/// How long a connection that is over a limit may take to hear so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of a request is read at a time, in bytes.
const PIECE: usize = 2048;

/// A connection just accepted.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    pub(crate) client: Client,
    /// Set if it is over a limit.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) acceptor: Option<TlsAcceptor>,
}

/// Who is at the other end.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// Whether the peer is a proxy.
    pub(crate) proxied: bool,
    /// The client's own, once it is known.
    pub(crate) address: IpAddr,
    pub(crate) slot: Slot,
}

impl Client {
    /// A proxy has told where the client is.
    fn place(&mut self, address: IpAddr) -> Result<(), Refusal> {
        self.address = address;
        self.slot.place(address)
    }
}

/// Takes a connection through to its session, which then runs in a task of its own; or refuses it.
pub(crate) async fn serve(arrival: Arrival, shared: Arc<Shared>) {
    let patience = match arrival.refusal {
        Some(_) => shared.hello_timeout.min(REFUSAL_TIMEOUT),
        None => shared.hello_timeout,
    };
    let deadline = Instant::now() + patience;
    let Arrival { stream, mut client, refusal, acceptor } = arrival;
    let negotiated = negotiate(stream, &mut client, acceptor, refusal, &shared);
    let outcome = timeout_at(deadline, negotiated).await;
    let Client { peer, address, slot, .. } = client;
    match outcome {
        Ok(Ok((socket, accepted))) => {
            let Accepted { device, proof, early } = accepted;
            let (config, allowance) = (shared.websocket, shared.allowance());
            let websocket = WebSocket::new(socket, early, config, allowance);
            let arrival = presence::Arrival { proof, address };
            let deadline = shared.moment(deadline);
            let connection = Connection::new(websocket, device, arrival, deadline, slot, shared);
            tokio::spawn(connection::drive(Box::new(connection)));
        }
        Ok(Err(Failure::Refused(socket, Rejection { refusal, turned_away }))) => {
            tracing::debug!(%peer, %address, reason = refusal.body(), "connection refused");
            shared.refused(refusal.label());
            let parted = timeout(LINGER, say_and_part(socket, refusal.response()));
            // Polled first, so that the answer is gone when who was turned away is looked at.
            let shown = async {
                if let Some(device) = turned_away {
                    device.show(&shared);
                }
            };
            // Whether it arrives is the client's affair.
            let _ = Box::pin(async { tokio::join!(parted, shown) }).await;
        }
        Ok(Err(Failure::Proxy(refusal))) => {
            tracing::debug!(%peer, reason = refusal.body(), "connection refused without an answer");
            shared.refused(refusal.label());
        }
        Ok(Err(Failure::Tls(error))) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            shared.refused("tls");
        }
        Ok(Err(Failure::Gone(error))) => {
            tracing::debug!(%peer, %error, "connection gone before its session");
        }
        Err(_) => shared.refused("timeout"),
    }
}

struct Accepted {
    device: DeviceId,
    proof: Proof,
    /// What the device sent behind its request, without waiting for the answer.
    early: Vec<u8>,
}

/// What a client is told, and the operator besides.
struct Rejection {
    refusal: Refusal,
    turned_away: Option<TurnedAway>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, turned_away: None }
    }
}

enum Failure {
    Refused(Socket, Rejection),
    /// There is no way to say so before TLS.
    Proxy(Refusal),
    Tls(io::Error),
    Gone(io::Error),
}

async fn negotiate(
    mut stream: TcpStream,
    client: &mut Client,
    acceptor: Option<TlsAcceptor>,
    mut refusal: Option<Refusal>,
    shared: &Shared,
) -> Result<(Socket, Accepted), Failure> {
    if shared.proxies.tell_by(ProxyHeader::ProxyProtocol, client.peer.ip()) {
        match Box::pin(introduced(&mut stream, client, shared)).await.map_err(Failure::Gone)? {
            Ok(()) => {}
            Err(misled @ Refusal::Proxy(_)) => {
                // What follows is not known to be a request, so it is answered as it is.
                return Err(match acceptor {
                    None => Failure::Refused(Socket::Plain(stream), misled.into()),
                    Some(_) => Failure::Proxy(misled),
                });
            }
            Err(over) => refusal = refusal.or(Some(over)),
        }
    }
    let mut socket = match acceptor {
        None => Socket::Plain(stream),
        // Boxed, or those without TLS would need its room, too.
        Some(acceptor) => Box::pin(secure(stream, acceptor, shared)).await?,
    };
    let answered = tokio::select! {
        answer = read_request(&mut socket, client, refusal, shared) => answer.map_err(Failure::Gone)?,
        () = shared.stopping() => Err(Refusal::Stopping.into()),
    };
    match answered {
        Ok((accepted, response)) => {
            write(&mut socket, &response).await.map_err(Failure::Gone)?;
            Ok((socket, accepted))
        }
        Err(rejection) => Err(Failure::Refused(socket, rejection)),
    }
}

/// Reads what a proxy says of its client before all else.
async fn introduced(
    stream: &mut TcpStream,
    client: &mut Client,
    shared: &Shared,
) -> io::Result<Result<(), Refusal>> {
    match proxied::read_header(stream).await {
        Ok(source) => Ok(client.place(source.map_or(client.peer.ip(), |source| source.ip()))),
        Err(error) => {
            let bad = proxied::fault(&error).ok_or(error)?;
            Ok(Err(shared.misled(client.peer.ip(), bad)))
        }
    }
}

async fn secure(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shared: &Shared,
) -> Result<Socket, Failure> {
    // Who says nothing does not take a turn from those who do.
    stream.readable().await.map_err(Failure::Tls)?;
    let mut first = [0; proxy::SIGNATURE.len()];
    let count = stream.peek(&mut first).await.map_err(Failure::Tls)?;
    if proxy::is_header(first.get(..count).unwrap_or_default()) {
        return Err(Failure::Proxy(Refusal::Proxy(request::UNLISTED_PROXY)));
    }
    let turn = shared.tls_turns.take().await;
    tokio::select! {
        accepted = acceptor.accept(stream) => {
            Ok(Socket::Tls(Box::new(accepted.map_err(Failure::Tls)?)))
        }
        () = turn.is_over() => {
            let slow = io::Error::other("too slow, and others wait for their turn");
            Err(Failure::Tls(slow))
        }
    }
}

type Judged = Result<(Accepted, Vec<u8>), Rejection>;

/// Reads and judges the request. It mostly comes in one piece and then needs no memory at all.
async fn read_request(
    socket: &mut Socket,
    client: &mut Client,
    refusal: Option<Refusal>,
    shared: &Shared,
) -> io::Result<Judged> {
    let mut kept = shared.heads.keep();
    poll_fn(|cx| {
        loop {
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut piece))?;
            let piece = piece.filled();
            if piece.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let began = !kept.bytes().is_empty();
            if began && !kept.add(piece) {
                return Poll::Ready(Ok(Err(Refusal::Busy.into())));
            }
            // A head that trickles in is not read again from its start for every byte.
            if began && !piece.contains(&b'\n') && kept.bytes().len() < request::HEAD_MAX {
                continue;
            }
            let bytes = if began { kept.bytes() } else { piece };
            if let Some(judged) = judge(bytes, socket, client, refusal.as_ref(), shared) {
                return Poll::Ready(Ok(judged));
            }
            if !began && !kept.add(piece) {
                return Poll::Ready(Ok(Err(Refusal::Busy.into())));
            }
        }
    })
    .await
}

/// `None`: the request is not complete.
fn judge(
    bytes: &[u8],
    socket: &Socket,
    client: &mut Client,
    refusal: Option<&Refusal>,
    shared: &Shared,
) -> Option<Judged> {
    let parsed = match request::parse(bytes) {
        Ok(Head::Partial) => return None,
        parsed => parsed,
    };
    // Limits come before everything else that may be wrong.
    let placed = match &parsed {
        Ok(Head::Complete { request, .. }) => place(request, client, shared),
        _ => Ok(()),
    };
    if let Some(refusal) = refusal.or(placed.as_ref().err()) {
        let turned_away = match parsed {
            Ok(Head::Complete { request, .. }) => {
                Some(TurnedAway::no_room(&request.device, refusal.clone()))
            }
            _ => None,
        };
        return Some(Err(Rejection { refusal: refusal.clone(), turned_away }));
    }
    let accept = |length: usize, request: &Request<'_>| {
        let proof = authorize(request, socket, shared)?;
        shared.admit_device(&request.device).map_err(|refusal| Rejection {
            turned_away: Some(TurnedAway::no_room(&request.device, refusal.clone())),
            refusal,
        })?;
        let early = bytes.get(length..).unwrap_or_default().to_vec();
        let accepted = Accepted { device: request.device.clone(), proof, early };
        Ok((accepted, request::switching_protocols(request.key)))
    };
    match parsed {
        Ok(Head::Partial) => None,
        Ok(Head::Complete { length, request }) => Some(accept(length, &request)),
        Err(refusal) => Some(Err(refusal.into())),
    }
}

/// Places a client whose proxy tells by `X-Forwarded-For`.
fn place(request: &Request<'_>, client: &mut Client, shared: &Shared) -> Result<(), Refusal> {
    let peer = client.peer.ip();
    if !client.proxied || shared.proxies.header != ProxyHeader::XForwardedFor {
        return Ok(());
    }
    let lines = request.forwarded.iter().copied();
    let address = proxy::forwarded(lines, |address| shared.proxies.list(address))
        .map_err(|bad| shared.misled(peer, bad))?;
    client.place(address)
}

fn authorize(request: &Request<'_>, socket: &Socket, shared: &Shared) -> Result<Proof, Rejection> {
    let device = &request.device;
    if let Some(origin) = request.origin {
        let allowed = |listed: &String| listed.as_bytes() == origin;
        if !shared.allowed_origins.iter().any(allowed) {
            let turned_away = Some(TurnedAway::origin(device, origin));
            return Err(Rejection { refusal: Refusal::OriginNotAllowed, turned_away });
        }
    }
    let certified = match socket {
        Socket::Plain(_) => None,
        Socket::Tls(stream) => tls::certificate_of(stream, device),
    };
    let registry = shared.registry();
    let token = request.token;
    Proof::check(shared.auth, &registry, device, token, certified, shared.unix()).ok_or_else(|| {
        let turned_away = Some(TurnedAway::mistrusted(device, token, certified.is_some()));
        Rejection { refusal: Refusal::Unauthorized, turned_away }
    })
}

async fn write(socket: &mut Socket, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}

async fn say_and_part(mut socket: Socket, bytes: Vec<u8>) {
    if write(&mut socket, &bytes).await.is_ok() {
        linger(&mut socket).await;
    }
}
