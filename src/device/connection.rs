//! The task of one device, from its WebSocket on: drives [`core::session`](crate::core::session)
//! between the socket, the engine and the clock.
//!
//! One wake-up does all there is to do: read what the socket has and hand it on as one event,
//! write one ACK for all that was settled, flush once. There is one timer, which is not touched
//! when something arrives.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::ending::{End, part, restarting};
use super::greeting::{Greeting, welcome};
use super::mailbox::{Filled, Inbox, Mailbox, REPLIES_AT_A_TIME};
use super::presence::{Arrival, Presence};
use super::sessions::permissions;
use super::shared::{Excess, Shared, Slot};
use super::submission::{EngineGone, Submission, submit};
use super::websocket::WebSocket;
use crate::core::frame::GatewayMessage;
use crate::core::ids::DeviceId;
use crate::core::policy::Permissions;
use crate::core::quota::TokenBucket;
use crate::core::session::{Beat, Close, Heartbeat, OVERLOADED, Session};
use crate::ports::{DeviceEvent, Link, Outbound, Resume};

/// Messages handled in one go before others get their turn.
const MESSAGES_AT_A_TIME: usize = 64;
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
    greeting: Greeting,
    /// When the device must be greeted at the latest.
    greeted_by: Duration,
    heartbeat: Heartbeat,
    bucket: TokenBucket,
    byte_bucket: TokenBucket,
    /// A hand-over that has to wait; nothing is read meanwhile.
    submission: Option<Submission>,
    replies: Vec<GatewayMessage>,
    rest: Rest,
    /// When it was last shown that the device is over its rate.
    slowed: f64,
    seen: f64,
    ping_due: bool,
    unflushed: bool,
    /// While the device takes nothing: what it had taken by then, and until when it may go on so.
    stuck: Option<(u64, Duration)>,
    /// Nothing is read, and not through the device's own fault.
    paused: bool,
}

/// Whether the device is over its rate.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rest {
    None,
    /// Nothing is read before there are tokens again.
    Until(Duration, Excess),
    /// Now there are: what there is to read was held back.
    Over(Excess),
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
    match &end {
        End::Close(close) if !close.is_farewell() => {
            let device = connection.session.device();
            connection.shared().show_refused(device, close.code, &close.reason);
        }
        _ => {}
    }
    let (websocket, presence, slot, submission) = connection.into_parts();
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
    /// A connection of `device`, which may say HELLO until `greeted_by`.
    pub(crate) fn new(
        websocket: WebSocket,
        device: DeviceId,
        arrival: Arrival,
        greeted_by: Duration,
        slot: Slot,
        shared: Arc<Shared>,
    ) -> Self {
        let link = Arc::new(Link::default());
        Self {
            websocket,
            heartbeat: Heartbeat::new(shared.now(), 1.0, &shared.rules),
            bucket: shared.bucket(),
            byte_bucket: shared.byte_bucket(),
            permissions: (shared.registry_changes(), Arc::default()),
            presence: Presence::begin(shared, device.clone(), &link),
            session: Session::new(device),
            link,
            slot,
            greeting: Greeting::Awaited(Box::new(arrival)),
            greeted_by,
            submission: None,
            replies: Vec::new(),
            rest: Rest::None,
            slowed: 0.0,
            seen: 0.0,
            ping_due: false,
            unflushed: false,
            stuck: None,
            paused: false,
        }
    }

    /// What is needed to end it; all else goes.
    fn into_parts(self: Box<Self>) -> (WebSocket, Presence, Slot, Option<Submission>) {
        let Self { websocket, presence, slot, submission, .. } = *self;
        (websocket, presence, slot, submission)
    }

    fn shared(&self) -> &Arc<Shared> {
        self.presence.shared()
    }

    /// When the timer must fire.
    fn wake_at(&self) -> tokio::time::Instant {
        let shared = self.shared();
        let due = if self.greeting.is_done() {
            self.heartbeat.next(&shared.rules)
        } else {
            self.greeted_by
        };
        let stuck = self.stuck.map(|(_, until)| until);
        let rested = if let Rest::Until(rested, _) = self.rest { Some(rested) } else { None };
        shared.instant(rested.into_iter().chain(stuck).fold(due, Duration::min))
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
        self.heed_registry(now);
        if timer.as_mut().poll(cx).is_ready() {
            self.beat(now)?;
        }
        loop {
            if let Poll::Ready(resume) = self.greeting.poll(cx, &mut self.presence) {
                self.greeted(resume?, now);
            }
            let submitted = self.submission.as_mut().map(|submission| submission.as_mut().poll(cx));
            if let Some(Poll::Ready(submitted)) = submitted {
                self.submission = None;
                submitted.map_err(|EngineGone| End::Close(restarting()))?;
            }
            self.write(cx, now)?;
            match self.read(cx, now)? {
                Went::Waiting => break,
                Went::Handed => {}
                Went::More => {
                    // Others first.
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
        self.write(cx, now)?;
        let wake_at = self.wake_at();
        if wake_at != timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(wake_at);
            // Registers the timer anew; should it have fired already, the next turn sees it.
            if timer.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    fn greeted(&mut self, resume: Resume, now: Duration) {
        let shared = Arc::clone(self.shared());
        self.session.open(resume.epoch, resume.acked);
        // The engine may have had something to say since it answered.
        self.replies.insert(0, welcome(&shared, resume));
        // Fractions of the golden ratio lie evenly, however many there are.
        let spread = (self.presence.session().0 as f64 * 0.618_033_988_749_895).fract();
        self.heartbeat = Heartbeat::new(now, spread, &shared.rules);
        self.permissions.0 = shared.registry_changes();
        self.permit(now);
    }

    fn rests(&self) -> bool {
        matches!(self.rest, Rest::Until(..))
    }

    /// Looks again at what the device may do, if the registry has changed.
    fn heed_registry(&mut self, now: Duration) {
        let changes = self.shared().registry_changes();
        if self.permissions.0 != changes && self.greeting.is_done() {
            self.permissions.0 = changes;
            self.permit(now);
        }
    }

    /// Lets the device do what the registry says.
    fn permit(&mut self, now: Duration) {
        let shared = Arc::clone(self.shared());
        let permitted = permissions(&shared.registry(), self.session.device());
        if permitted.own != self.permissions.1.own {
            let rate = shared.rate_of(&permitted.own);
            self.bucket.adjust(rate.batches_per_second, rate.burst, now);
            // How long that takes is worked out anew.
            self.rest = Rest::None;
        }
        self.permissions.1 = permitted;
    }

    fn heed_link(&mut self) -> Result<(), End> {
        for outbound in self.link.take_outbox() {
            match outbound {
                Outbound::Reject { seq, code, reason } => {
                    self.replies.push(GatewayMessage::Reject { seq, code, reason });
                }
                Outbound::Command { id, name, params, ttl } => {
                    let ttl = ttl.max(1);
                    self.replies.push(GatewayMessage::Command { id, name, params, ttl });
                }
                Outbound::Close { code, reason } => {
                    return Err(End::Close(Close::new(code, reason)));
                }
            }
        }
        Ok(())
    }

    fn beat(&mut self, now: Duration) -> Result<(), End> {
        if self.stuck.is_some_and(|(_, until)| until <= now) {
            let reason = "overloaded: this device does not read";
            return Err(End::Close(Close::new(OVERLOADED, reason)));
        }
        if !self.greeting.is_done() {
            let late = now >= self.greeted_by;
            return if late { Err(End::Close(self.greeting.late(self.shared()))) } else { Ok(()) };
        }
        if self.paused {
            self.heartbeat.heard(now);
        }
        match self.rest {
            Rest::Until(rested, with) if rested <= now => self.rest = Rest::Over(with),
            _ => {}
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
        if !self.greeting.is_done() {
            return if self.greeting.is_awaited() { MESSAGES_AT_A_TIME } else { 0 };
        }
        let window = self.session.room(self.link.finished(), &self.presence.shared().rules);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let ours = if self.submission.is_some() || self.rests() { 0 } else { window };
        let paused = ours == 0;
        if self.paused && !paused {
            self.heartbeat.heard(now);
        }
        self.paused = paused;
        if self.replies.len() >= REPLIES_AT_A_TIME { 0 } else { ours.min(MESSAGES_AT_A_TIME) }
    }

    /// Reads what is there, as far as there is room, and hands it on.
    fn read(&mut self, cx: &mut Context<'_>, now: Duration) -> Result<Went, End> {
        let room = self.room(now);
        if room == 0 {
            return Ok(Went::Waiting);
        }
        let tokens = self.bucket.available(now);
        let bytes = self.byte_bucket.available(now);
        let empty = if tokens == 0 {
            Some((&mut self.bucket, Excess::Batches))
        } else if bytes == 0 {
            Some((&mut self.byte_bucket, Excess::Bytes))
        } else {
            None
        };
        if let Some((bucket, with)) = empty {
            self.rest = Rest::Until(now + bucket.wait(now), with);
            self.paused = true;
            return Ok(Went::Waiting);
        }
        let mut inbox = Inbox::new(self.presence.shared().wall(), room.min(tokens), bytes);
        let outcome = self.fill(cx, &mut inbox);
        self.byte_bucket.take(inbox.bytes, now);
        if inbox.messages > 0 {
            self.bucket.take(inbox.messages, now);
            self.note_rate(inbox.received.unix);
            self.heartbeat.heard(now);
            let received = inbox.received.unix;
            let since = received - self.seen;
            if self.greeting.is_done() && !(0.0..SEEN_INTERVAL).contains(&since) {
                self.seen = received;
                self.shared().context.feed.device_seen(self.session.device(), received);
            }
        }
        self.rest = Rest::None;
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
            _ if !handed => Went::Handed,
            Filled::Drained => Went::Waiting,
            // HELLO has come: the greeting goes on.
            Filled::Full if !self.greeting.is_done() && !self.greeting.is_awaited() => Went::Handed,
            // The link wakes this task when there is room.
            Filled::Full if self.window_is_full() => Went::Waiting,
            Filled::Full => Went::More,
        })
    }

    /// Shows, now and then, that messages had to wait for the device's rate.
    fn note_rate(&mut self, received: f64) {
        let Rest::Over(with) = self.rest else { return };
        if !(0.0..SEEN_INTERVAL).contains(&(received - self.slowed)) {
            self.slowed = received;
            self.shared().show_slowed(self.session.device(), &self.permissions.1.own, with);
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Result<Filled, End> {
        let shared = Arc::clone(self.presence.shared());
        let Self { websocket, session, permissions, replies, greeting, link, presence, .. } = self;
        let mut mailbox =
            Mailbox { session, permissions: &permissions.1, replies, inbox, shared: &shared };
        let mut pinged = false;
        let filled = websocket.read(|reading| {
            let mut hello = None;
            let filled = mailbox.fill(cx, reading, &mut hello, &mut pinged);
            if let Some(hello) = hello {
                let device = mailbox.session.device();
                greeting.hello(hello, device, link, presence)?;
            }
            filled
        });
        self.unflushed |= pinged;
        filled
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
    fn write(&mut self, cx: &mut Context<'_>, now: Duration) -> Result<(), End> {
        let rules = &self.presence.shared().rules;
        let failed = |error| End::of(error, rules);
        loop {
            if self.unflushed {
                match self.websocket.poll_flush(cx) {
                    Poll::Pending => {
                        let written = self.websocket.written();
                        if self.stuck.is_none_or(|(before, _)| before != written) {
                            self.stuck = Some((written, now + self.shared().write_timeout));
                        }
                        return Ok(());
                    }
                    Poll::Ready(flushed) => flushed.map_err(failed)?,
                }
                self.unflushed = false;
                self.stuck = None;
            }
            let (acked, repeats) = (self.link.acked(), self.link.repeats());
            let ack = self.session.ack(acked, repeats);
            let ping = std::mem::take(&mut self.ping_due);
            let replies = std::mem::take(&mut self.replies);
            let messages = replies
                .into_iter()
                .chain(ack.map(|seq| GatewayMessage::Ack { seq }))
                .map(|message| Message::Binary(message.encode().into()))
                .chain(ping.then(|| Message::Ping(self.presence.shared().ping())));
            for message in messages {
                self.websocket.queue(cx, message).map_err(failed)?;
                self.unflushed = true;
            }
            if !self.unflushed {
                return Ok(());
            }
        }
    }
}

/// How reading went.
enum Went {
    /// It waits: for the socket, for room, for tokens.
    Waiting,
    /// A hand-over has begun, which has to be polled.
    Handed,
    /// There may be more; it was enough for one go.
    More,
}
