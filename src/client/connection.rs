//! One connection from its TCP handshake to its end, and the loop that makes the next one.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::http::{Response, header};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::error::Stopped;
use super::options::{Options, Target};
use super::shared::{Greeting, Shared};
use super::{Command, Event};
use crate::core::backoff::Backoff;
use crate::core::frame::{DeviceMessage, GatewayMessage, Hello, Welcome};

/// A connection that held this long was a good one: the next wait is the shortest again.
const PROVEN: Duration = Duration::from_secs(10);
/// How long the closing handshake may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Largest message taken from a gateway.
const MAX_MESSAGE: usize = 1 << 20;
/// Idle connections should cost little: the read buffer is all a quiet one holds.
const READ_BUFFER: usize = 4 << 10;
/// A burst of batches is written in one go up to here.
const WRITE_BUFFER: usize = 32 << 10;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// For good.
    Stop(Stopped),
    /// To be made again.
    Lost {
        /// For a person.
        reason: String,
        /// Not before this time.
        after: Option<Duration>,
    },
    /// The handle asked to be away for this time.
    Cut(Duration),
}

/// Connects, and connects again, until something ends it for good.
pub(super) async fn run(shared: Arc<Shared>, options: Options, target: Target, epoch: u64) {
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    let stopped = loop {
        let began = Instant::now();
        let end = tokio::select! {
            end = connect(&shared, &options, &target, epoch) => end,
            () = shared.closing() => End::Stop(Stopped::Closed),
        };
        shared.tell_handle(|state| {
            state.best_effort.clear();
            let was_connected = std::mem::take(&mut state.connected);
            let reason = match &end {
                End::Stop(_) => return,
                End::Lost { reason, .. } => reason.clone(),
                End::Cut(_) => "broken off by this device".to_owned(),
            };
            state.report(if was_connected {
                Event::Disconnected { reason }
            } else {
                Event::Unreachable { reason }
            });
        });
        let wait = match end {
            End::Stop(stopped) => break stopped,
            End::Cut(away) => away,
            End::Lost { after, .. } => {
                if began.elapsed() >= PROVEN {
                    backoff.reset();
                }
                backoff.next_wait(rand::random()).max(after.unwrap_or_default())
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = shared.closing() => break Stopped::Closed,
        }
    };
    shared.tell_handle(|state| state.stopped = Some(stopped));
}

/// One connection, from nothing to its end.
async fn connect(shared: &Shared, options: &Options, target: &Target, epoch: u64) -> End {
    let deadline = Instant::now() + options.connect_timeout;
    let late = || End::Lost {
        reason: format!("no connection within {:?}", options.connect_timeout),
        after: None,
    };
    let tcp = match timeout(options.connect_timeout, open(options, target)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return lost(&error),
        Err(_) => return late(),
    };
    let Some(tls) = &target.tls else {
        return converse(tcp, shared, options, target, epoch, deadline).await;
    };
    let Ok(name) = ServerName::try_from(target.host.clone()) else {
        return End::Stop(Stopped::NotAGateway(format!("{} is no host name", target.host)));
    };
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, TlsConnector::from(Arc::clone(tls)).connect(name, tcp)).await {
        Ok(Ok(stream)) => converse(stream, shared, options, target, epoch, deadline).await,
        Ok(Err(error)) => lost(&format!("TLS: {error}")),
        Err(_) => late(),
    }
}

async fn open(options: &Options, target: &Target) -> std::io::Result<TcpStream> {
    let tcp = match options.local_address {
        None => TcpStream::connect((target.host.as_str(), target.port)).await?,
        Some(local) => {
            let remote = tokio::net::lookup_host((target.host.as_str(), target.port))
                .await?
                .find(|remote| remote.is_ipv4() == local.is_ipv4())
                .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
            let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind(SocketAddr::new(local, 0))?;
            socket.connect(remote).await?
        }
    };
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Opening handshake, greeting and all that follows.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: &Shared,
    options: &Options,
    target: &Target,
    epoch: u64,
    deadline: Instant,
) -> End {
    let left = deadline.saturating_duration_since(Instant::now());
    let (socket, welcome, at) = match timeout(left, greet(stream, options, target, epoch)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(end)) => return end,
        Err(_) => return lost(&"the gateway did not answer the greeting in time"),
    };
    let silence = Duration::from_secs(welcome.heartbeat.min(86_400)) * 2 + options.silence_slack;
    let max_frame = usize::try_from(welcome.max_frame).unwrap_or(usize::MAX);
    let resumed = shared.tell_handle(|state| {
        let resumed = state.window.resume(welcome.acked, welcome.window);
        for seq in state.window.remove_larger_than(max_frame) {
            let reason = format!("larger than the {max_frame} bytes this gateway takes");
            state.report(Event::Rejected { seq: Some(seq), code: 0, reason });
        }
        if resumed.is_ok() {
            state.connected = true;
            // A connection that was dead for longer had been given up.
            state.answers.connected(Instant::now(), silence);
            state.report(Event::Connected { acked: welcome.acked });
        }
        state.greeting = Some(Greeting { welcome, at });
        resumed
    });
    if let Err(never) = resumed {
        return End::Stop(Stopped::EpochInUse {
            epoch,
            acked: never.acked,
            highest_sent: never.highest_sent,
        });
    }
    let mut connection = Connection {
        socket,
        shared,
        heard: false,
        silence,
        silent: Box::pin(sleep(silence)),
        pause: options.read_every.map(|every| (every, Box::pin(sleep(every)))),
    };
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    if matches!(end, End::Stop(Stopped::Closed)) {
        connection.say_goodbye().await;
    }
    end
}

type Greeted<S> = (WebSocketStream<S>, Welcome, Instant);

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    options: &Options,
    target: &Target,
    epoch: u64,
) -> Result<Greeted<S>, End> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let request = target.request().map_err(|error| lost(&error))?;
    let (mut socket, _) =
        client_async_with_config(request, stream, Some(config)).await.map_err(refused)?;
    let hello = Hello {
        epoch: Some(epoch),
        model: options.model.clone(),
        firmware: options.firmware.clone(),
        commands: options.commands.clone(),
    };
    let asked = Instant::now();
    socket
        .send(Message::Binary(DeviceMessage::Hello(hello).encode().into()))
        .await
        .map_err(|error| lost(&error))?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                let half_way = asked.elapsed() / 2;
                let at = asked + half_way;
                return match GatewayMessage::decode(&bytes) {
                    Ok(GatewayMessage::Welcome(welcome)) => Ok((socket, welcome, at)),
                    Ok(_) => Err(not_a_gateway("its first message is not WELCOME")),
                    Err(error) => Err(not_a_gateway(error)),
                };
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
            Some(Ok(_)) => return Err(not_a_gateway("it sent a text message")),
            Some(Err(error)) => return Err(lost(&error)),
            None => return Err(lost(&"the gateway hung up before WELCOME")),
        }
    }
}

/// A greeted connection. Everything ready is read, then everything allowed is written, then it is
/// flushed once: many batches share a system call.
struct Connection<'a, S> {
    socket: WebSocketStream<S>,
    shared: &'a Shared,
    heard: bool,
    silence: Duration,
    silent: Pin<Box<Sleep>>,
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.shared.register(cx);
        if let Poll::Ready(end) = self.poll_read(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(lost(&error));
        }
        // What was queued before the wish to end goes out before the goodbye.
        let wish = self.shared.with(|state| match state.cut.take() {
            Some(away) => Some(End::Cut(away)),
            None => state.closing.then_some(End::Stop(Stopped::Closed)),
        });
        if let Some(end) = wish {
            return Poll::Ready(end);
        }
        self.poll_silence(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut settled = false;
        let end = loop {
            if let Some((every, pause)) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    break Poll::Pending;
                }
                pause.set(sleep(*every));
            }
            let Poll::Ready(item) = Pin::new(&mut self.socket).poll_next(cx) else {
                break Poll::Pending;
            };
            self.heard = true;
            match item {
                Some(Ok(Message::Binary(bytes))) => match self.take(&bytes) {
                    Ok(()) => settled = true,
                    Err(end) => break Poll::Ready(end),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => break Poll::Ready(closed(frame)),
                Some(Ok(_)) => break Poll::Ready(not_a_gateway("it sent a text message")),
                Some(Err(error)) => break Poll::Ready(lost(&error)),
                None => break Poll::Ready(lost(&"the gateway hung up")),
            }
        };
        if settled {
            self.shared.wake_handle();
        }
        end
    }

    /// Acts on one message from the gateway.
    fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        match GatewayMessage::decode(bytes).map_err(not_a_gateway)? {
            GatewayMessage::Ack { seq } => self
                .shared
                .with(|state| state.window.ack(seq))
                .map_err(|_| not_a_gateway(format!("it acknowledged {seq}, which was never sent"))),
            GatewayMessage::Reject { seq, code, reason } => {
                self.shared.with(|state| {
                    if let Some(seq) = seq {
                        state.window.reject(seq);
                    }
                    state.report(Event::Rejected { seq, code, reason });
                });
                Ok(())
            }
            GatewayMessage::Command { id, name, params, ttl } => {
                self.shared.with(|state| {
                    if state.answers.came(&id) {
                        state.report(Event::Command(Command { id, name, params, ttl }));
                    }
                });
                Ok(())
            }
            GatewayMessage::Welcome(_) => Err(not_a_gateway("it sent WELCOME twice")),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut socket = Pin::new(&mut self.socket);
        let mut wrote = false;
        loop {
            std::task::ready!(socket.as_mut().poll_ready(cx))?;
            let Some(frame) = self.shared.with(super::shared::State::next_frame) else { break };
            socket.as_mut().start_send(Message::Binary(frame))?;
            wrote = true;
        }
        let flushed = socket.poll_flush(cx);
        if wrote {
            // Best effort batches wait for room in their queue, not for an acknowledgement.
            self.shared.wake_handle();
        }
        flushed
    }

    /// A gateway pings; one that has been silent for two intervals and a bit is gone, even if TCP
    /// has not noticed.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.silent.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.heard) {
                return Poll::Ready(lost(&format!(
                    "nothing heard from the gateway for {:?}",
                    self.silence
                )));
            }
            self.silent.set(sleep(self.silence));
        }
        Poll::Pending
    }

    async fn say_goodbye(&mut self) {
        let goodbye = async {
            let _ = self.socket.close(None).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        // The gateway notices a dropped connection as well; this is politeness.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

fn lost(reason: &dyn std::fmt::Display) -> End {
    End::Lost { reason: reason.to_string(), after: None }
}

fn not_a_gateway(problem: impl std::fmt::Display) -> End {
    End::Stop(Stopped::NotAGateway(problem.to_string()))
}

/// What a Close frame means for the device.
fn closed(frame: Option<CloseFrame>) -> End {
    let Some(frame) = frame else { return lost(&"the gateway closed the connection") };
    let (code, reason) = (u16::from(frame.code), frame.reason.as_str().to_owned());
    match code {
        4003 => End::Stop(Stopped::Revoked(reason)),
        4009 => End::Stop(Stopped::Replaced(reason)),
        1002 | 1003 | 1007 | 1009 => End::Stop(Stopped::Unacceptable { code, reason }),
        code => lost(&format!("the gateway closed the connection ({code}): {reason}")),
    }
}

/// What a failed opening handshake means for the device.
fn refused(error: Error) -> End {
    match error {
        Error::Http(response) => refusal(&response),
        Error::Protocol(_) => lost(&format!("the handshake failed: {error}")),
        error => lost(&error),
    }
}

fn refusal(response: &Response<Option<Vec<u8>>>) -> End {
    let status = response.status().as_u16();
    let body = response.body().as_deref().unwrap_or_default();
    let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
    if matches!(status, 400..=407 | 409..=428 | 430..=499) {
        return End::Stop(Stopped::Refused { status, text });
    }
    let after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(3600)));
    End::Lost { reason: format!("the gateway answered {status} {text}"), after }
}
