//! The task of one connected device: drives [`core::session`](crate::core::session) between the
//! socket, the engine and the clock.
//!
//! One wake-up does all there is to do: read what the socket has and hand it on as one event,
//! write one ACK for all that was settled, flush once. There is one timer, which is not touched
//! when something arrives.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, Stream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::ending::{End, WebSocket, part, restarting};
use super::presence::Presence;
use super::sessions::permissions;
use super::shared::{Shared, Slot};
use super::submission::{Cargo, EngineGone, Submission, submit};
use crate::core::frame::GatewayMessage;
use crate::core::policy::Permissions;
use crate::core::quota::TokenBucket;
use crate::core::session::{Beat, Close, Heartbeat, Session, Step};
use crate::metrics::Code;
use crate::ports::{DeviceEvent, Link, Outbound};

/// Messages handled in one go before others get their turn.
const MESSAGES_AT_A_TIME: usize = 64;
/// Bytes of messages after which one go is over.
const BYTES_AT_A_TIME: usize = 128 * 1024;
/// REJECTs that wait to be written before the device is not read from.
const REPLIES_AT_A_TIME: usize = 16;
/// The feed hears of a device at most so often, in seconds.
const SEEN_INTERVAL: f64 = 1.0;

/// A connected device.
pub(crate) struct Connection {
    websocket: WebSocket,
    session: Session,
    link: Arc<Link>,
    presence: Presence,
    slot: Slot,
    /// What the device may do, and the count of changes of the registry at which that was so.
    permissions: (u64, Arc<Permissions>),
    heartbeat: Heartbeat,
    bucket: TokenBucket,
    /// A hand-over that has to wait; nothing is read meanwhile.
    submission: Option<Submission>,
    replies: Vec<GatewayMessage>,
    /// When there are tokens again; nothing is read before.
    rested_at: Option<Duration>,
    seen: f64,
    ping_due: bool,
    unflushed: bool,
    /// Nothing is read, and not through the device's own fault.
    paused: bool,
}

/// Drives `connection` to its end.
pub(crate) async fn drive(mut connection: Box<Connection>) {
    let link = Arc::clone(&connection.link);
    let end = {
        let mut changed = pin!(link.changed());
        let mut timer = pin!(sleep_until(connection.wake_at()));
        // The link may have been told something while the device was greeted.
        let mut news = true;
        std::future::poll_fn(|cx| {
            while changed.as_mut().poll(cx).is_ready() {
                changed.set(link.changed());
                news = true;
            }
            match connection.turn(cx, timer.as_mut(), std::mem::take(&mut news)) {
                Ok(()) => Poll::Pending,
                Err(end) => Poll::Ready(end),
            }
        })
        .await
    };
    // Boxed, for what ends a connection would otherwise be kept room for all its life.
    Box::pin(finish(connection, end, link)).await;
}

async fn finish(connection: Box<Connection>, end: End, link: Arc<Link>) {
    let Connection { websocket, presence, slot, submission, .. } = *connection;
    // What a device sent before it went is handed on like everything else, unless the gateway
    // ends it first.
    if let (Some(submission), End::Gone) = (submission, &end) {
        tokio::select! {
            _ = submission => {}
            () = told_to_close(&link) => {}
        }
    }
    tokio::join!(presence.leave(), part(websocket, end, slot));
}

async fn told_to_close(link: &Link) {
    while !link.take_outbox().iter().any(|out| matches!(out, Outbound::Close { .. })) {
        link.changed().await;
    }
}

impl Connection {
    pub(crate) fn new(
        websocket: WebSocket,
        session: Session,
        link: Arc<Link>,
        presence: Presence,
        slot: Slot,
        permissions: (u64, Arc<Permissions>),
    ) -> Self {
        let shared = presence.shared();
        // Fractions of the golden ratio lie evenly, however many there are.
        let spread = (presence.session().0 as f64 * 0.618_033_988_749_895).fract();
        Self {
            heartbeat: Heartbeat::new(shared.now(), spread, &shared.rules),
            bucket: shared.bucket(),
            websocket,
            session,
            link,
            presence,
            slot,
            permissions,
            submission: None,
            replies: Vec::new(),
            rested_at: None,
            seen: 0.0,
            ping_due: false,
            // A pong may be waiting.
            unflushed: true,
            paused: false,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.presence.shared()
    }

    /// When the timer must fire at the latest.
    fn wake_at(&self) -> tokio::time::Instant {
        let beat = self.heartbeat.next(&self.shared().rules);
        self.shared().instant(self.rested_at.map_or(beat, |rested| rested.min(beat)))
    }

    /// Does everything that can be done now; `news` if the link has something to say.
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        news: bool,
    ) -> Result<(), End> {
        if news {
            self.heed_link()?;
        }
        let now = self.shared().now();
        if timer.as_mut().poll(cx).is_ready() {
            self.beat(now)?;
        }
        loop {
            if let Some(submission) = &mut self.submission
                && let Poll::Ready(submitted) = submission.as_mut().poll(cx)
            {
                self.submission = None;
                submitted.map_err(|EngineGone| End::Close(restarting()))?;
            }
            self.write(cx)?;
            match self.read(cx, now)? {
                Reading::Waiting => break,
                Reading::Handed => {}
                Reading::More => {
                    // Others first.
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
        self.write(cx)?;
        let wake_at = self.wake_at();
        if wake_at < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(wake_at);
            // Registers the timer anew; should it have fired already, the next turn sees it.
            if timer.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    fn heed_link(&mut self) -> Result<(), End> {
        for outbound in self.link.take_outbox() {
            match outbound {
                Outbound::Reject { seq, code, reason } => {
                    self.replies.push(GatewayMessage::Reject { seq, code, reason });
                }
                Outbound::Close { code, reason } => {
                    return Err(End::Close(Close::new(code, reason)));
                }
            }
        }
        Ok(())
    }

    fn beat(&mut self, now: Duration) -> Result<(), End> {
        if self.paused {
            self.heartbeat.heard(now);
        }
        if self.rested_at.is_some_and(|rested| rested <= now) {
            self.rested_at = None;
        }
        match self.heartbeat.beat(now, &self.presence.shared().rules) {
            Beat::Wait => {}
            Beat::Ping => self.ping_due = true,
            Beat::Missed(close) => return Err(End::Close(close)),
        }
        Ok(())
    }

    fn window_is_full(&mut self) -> bool {
        let full = self.session.room(self.link.finished(), &self.presence.shared().rules) == 0;
        self.paused |= full;
        full
    }

    /// How many messages may be read now.
    fn room(&mut self, now: Duration) -> usize {
        let window = self.session.room(self.link.finished(), &self.presence.shared().rules);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let ours = if self.submission.is_some() || self.rested_at.is_some() { 0 } else { window };
        let paused = ours == 0;
        if self.paused && !paused {
            self.heartbeat.heard(now);
        }
        self.paused = paused;
        if self.replies.len() >= REPLIES_AT_A_TIME { 0 } else { ours.min(MESSAGES_AT_A_TIME) }
    }

    /// Reads what is there, as far as there is room, and hands it on.
    fn read(&mut self, cx: &mut Context<'_>, now: Duration) -> Result<Reading, End> {
        let room = self.room(now);
        if room == 0 {
            return Ok(Reading::Waiting);
        }
        let tokens = self.bucket.available(now);
        if tokens == 0 {
            self.rested_at = Some(now + self.bucket.wait(now));
            self.paused = true;
            return Ok(Reading::Waiting);
        }
        let mut inbox = Inbox::new(self.presence.shared().unix(), room.min(tokens));
        let outcome = self.fill(cx, &mut inbox);
        if inbox.messages > 0 {
            self.bucket.take(inbox.messages, now);
            self.heartbeat.heard(now);
            if inbox.received - self.seen >= SEEN_INTERVAL || inbox.received < self.seen {
                self.seen = inbox.received;
                self.shared().context.feed.device_seen(self.session.device(), inbox.received);
            }
        }
        let filled = match outcome {
            Ok(filled) => filled,
            Err(end) => {
                // What came before it was good.
                self.hand_on(inbox)?;
                return Err(end);
            }
        };
        let handed = self.hand_on(inbox)?;
        Ok(match filled {
            _ if !handed => Reading::Handed,
            Filled::Drained => Reading::Waiting,
            // The link wakes this task when there is room.
            Filled::Full if self.window_is_full() => Reading::Waiting,
            Filled::Full => Reading::More,
        })
    }

    fn fill(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Result<Filled, End> {
        let shared = Arc::clone(self.presence.shared());
        let changes = shared.registry_changes();
        if self.permissions.0 != changes {
            self.permissions = (changes, permissions(&shared.registry(), self.session.device()));
        }
        while inbox.messages < inbox.room && inbox.bytes < BYTES_AT_A_TIME {
            let message = match Pin::new(&mut self.websocket).poll_next(cx) {
                Poll::Pending => return Ok(Filled::Drained),
                Poll::Ready(None) => return Err(End::Gone),
                Poll::Ready(Some(Err(error))) => return Err(End::of(error, &shared.rules)),
                Poll::Ready(Some(Ok(message))) => message,
            };
            inbox.messages += 1;
            inbox.bytes += message.len();
            self.websocket.get_mut().renew(shared.allowance());
            match message {
                Message::Binary(bytes) => {
                    if !self.receive(&bytes, inbox, &shared)? {
                        return Ok(Filled::Full);
                    }
                }
                Message::Text(_) => return Err(End::Close(Session::text())),
                Message::Ping(_) => self.unflushed = true,
                // The answer to a Close goes out with the next read, which ends the stream.
                Message::Close(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
            if self.replies.len() >= REPLIES_AT_A_TIME {
                return Ok(Filled::Full);
            }
        }
        Ok(Filled::Full)
    }

    /// Whether to go on.
    fn receive(
        &mut self,
        bytes: &Bytes,
        inbox: &mut Inbox,
        shared: &Arc<Shared>,
    ) -> Result<bool, End> {
        let metrics = &shared.context.metrics;
        let step = self
            .session
            .receive(bytes, inbox.received, &shared.rules, &self.permissions.1)
            .map_err(End::Close)?;
        match step {
            Step::Submit(batch) => {
                metrics.batches_received.inc();
                let batch = Arc::new(batch);
                let cargo = inbox.cargo.get_or_insert_with(|| Cargo::new(shared));
                return Ok(cargo.load(batch));
            }
            Step::Reject { seq, reject } => {
                metrics.batches_received.inc();
                let code = Code { code: reject.code.as_str() };
                metrics.batches_rejected.get_or_create(&code).inc();
                let (code, reason) = (reject.code.code(), reject.reason);
                self.replies.push(GatewayMessage::Reject { seq, code, reason });
                if let Some(seq) = seq {
                    inbox.cargo.get_or_insert_with(|| Cargo::new(shared)).load_rejected(seq);
                }
            }
            // Commands are not sent yet, so nobody waits for a result.
            Step::Result { .. } => {
                metrics.results_unknown.inc();
            }
            // Only before the session is open, and it is.
            Step::Hello(_) => {}
        }
        Ok(true)
    }

    /// Hands the inbox to the engine; whether that is done already.
    fn hand_on(&mut self, inbox: Inbox) -> Result<bool, End> {
        let Some(mut cargo) = inbox.cargo else { return Ok(true) };
        let session = self.presence.session();
        if !cargo.waits() {
            match self.shared().context.events.try_reserve() {
                Ok(permit) => {
                    permit.send(DeviceEvent::Batches { session, batches: cargo.unload() });
                    return Ok(true);
                }
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Closed(())) => return Err(End::Close(restarting())),
            }
        }
        self.submission = Some(submit(session, cargo));
        Ok(false)
    }

    /// Writes what there is to say, unless the device still has to take what was said before.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let rules = &self.presence.shared().rules;
        let failed = |error| End::of(error, rules);
        loop {
            if self.unflushed {
                match Pin::new(&mut self.websocket).poll_flush(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(flushed) => flushed.map_err(failed)?,
                }
                self.unflushed = false;
            }
            let (acked, repeats) = (self.link.acked(), self.link.repeats());
            let ack = self.session.ack(acked, repeats);
            let ping = std::mem::take(&mut self.ping_due);
            let replies = std::mem::take(&mut self.replies);
            let messages = replies
                .into_iter()
                .chain(ack.map(|seq| GatewayMessage::Ack { seq }))
                .map(|message| Message::Binary(message.encode().into()))
                .chain(ping.then(|| Message::Ping(Bytes::new())));
            for message in messages {
                Pin::new(&mut self.websocket).start_send(message).map_err(failed)?;
                self.unflushed = true;
            }
            if !self.unflushed {
                return Ok(());
            }
        }
    }
}

/// Where reading stands.
enum Reading {
    /// For the socket, for room, for tokens.
    Waiting,
    /// A hand-over has begun, which has to be polled.
    Handed,
    /// There may be more; it was enough for one go.
    More,
}

enum Filled {
    Drained,
    Full,
}

/// What one go has read.
struct Inbox {
    received: f64,
    room: usize,
    messages: usize,
    bytes: usize,
    cargo: Option<Cargo>,
}

impl Inbox {
    fn new(received: f64, room: usize) -> Self {
        Self { received, room, messages: 0, bytes: 0, cargo: None }
    }
}
