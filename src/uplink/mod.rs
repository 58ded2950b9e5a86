//! The connection to the upstream MQTT broker.
//!
//! ```text
//! poll_event ─► waiting ──► dialling ──► online ──┐
//!                  ▲            │ failed          │ lost: Down, all in flight forgotten
//!                  └── backoff ◄┴─────────────────┘
//! ```
//!
//! [`MqttPublisher`] is driven by the task that owns it, through [`Publisher::poll_event`]; it
//! spawns nothing and blocks nowhere. Everything handed over between two polls leaves in one write.
//!
//! What it promises beyond [`Publisher`]:
//!
//! - An attempt (name, TCP, TLS, CONNACK) takes 10 s at most; between attempts it waits 0.5 s to
//!   `mqtt.max_backoff`, longer each time and with jitter, and never gives up. The waits start over once a connection
//!   has proved itself: it got a batch acknowledged, or held for 10 s.
//! - Outgoing messages never rely on what the broker keeps of an earlier connection. Without
//!   [`MqttPublisher::taking_requests`] the session is always clean.
//! - A broker that owes an answer for longer than `mqtt.ack_timeout` is left.
//! - A refusal (PUBACK from 0x80 on) is final for the batch, except "quota exceeded" and "packet
//!   identifier in use": those pass, so they end the connection and the batch is sent again later.
//! - A broker that allows QoS 0 only is not used: nothing would ever be acknowledged.
//! - `{prefix}/status` goes out first on every connection, and as the will when it breaks. `since`
//!   in the will is when that connection was attempted, the broker adds no time of its own.
//! - In [`Health`], `since` changes when the connection comes or goes, not with every attempt.
//! - With [`MqttPublisher::taking_requests`] the broker keeps the subscription to commands and what
//!   arrives while the gateway is away (MQTT 5: for `mqtt.session_expiry`). A client that resumes a
//!   session ought to send its own unacknowledged messages again under their old identifiers (MQTT
//!   5 section 4.4). This one hands them back instead, and whoever owns them sends them again as new
//!   ones: of QoS 1 a broker remembers nothing once it has answered, and must take a message with
//!   any identifier for a new one (section 4.3.2), so they arrive at least once either way, and in
//!   the order in which their owner wants them.
//! - All retained announcements go out again on every connection: the broker may have lost them.

mod alarm;
mod announce;
mod dial;
mod groups;
mod incoming;
mod inflight;
mod letter;
mod lost;
mod mqtt;
mod pipe;
mod reason;
mod requests;
mod session;
mod tls;
mod topics;
mod window;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use self::announce::{Announcements, Message};
pub use self::dial::PasswordError;
use self::dial::{DialError, Dialled, Will};
use self::lost::Lost;
use self::mqtt::{Description, Wire};
use self::requests::Requests;
use self::session::Session;
pub use self::tls::TlsError;
use self::topics::{CommandTopics, Topics};
use crate::config::{Mqtt, PayloadFormat};
use crate::core::backoff::Backoff;
use crate::core::batch::Batch;
use crate::core::payload;
use crate::metrics::Metrics;
use crate::ports::{
    self, Announcement, Clock, Health, Publisher, Receipt, Token, UplinkEvent, UplinkState,
};

/// How long after its deadlines the uplink counts as stuck: it is woken in time, or something is wrong.
const STUCK: Duration = Duration::from_secs(30);

const SHORTEST_WAIT: Duration = Duration::from_millis(500);

/// Attempts that fail one after the other are logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Longest `mqtt.prefix` in bytes: leaves room in the 65 535 of a topic for a device and a name.
const MAX_PREFIX: usize = 60_000;

/// Connections that end when commands are subscribed to, one after the other, before the broker is
/// taken not to like that.
const CUT_SHORT: u32 = 3;

/// Scratch space for payloads that grew beyond this is given back.
const SCRATCH: usize = 256 * 1024;

/// Why the uplink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// A certificate, key or authority cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password file cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No topic could be made with it.
    #[error("mqtt.prefix is {0} bytes long; at most {MAX_PREFIX} fit into a topic")]
    Prefix(usize),
}

/// [`Publisher`] over MQTT 5 or 3.1.1.
pub struct MqttPublisher {
    settings: Arc<Mqtt>,
    gateway_id: String,
    wire: Wire,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    state: State,
    backoff: Backoff,
    /// Since the last connection.
    failed_attempts: u32,
    was_connected: bool,
    /// The broker refused a will that is retained.
    plain_will: bool,
    failure_logged: Option<Instant>,
    dropped_logged: Option<Instant>,
    dropped: u64,
    announcements: Announcements,
    status_topic: Bytes,
    topics: Topics,
    events: VecDeque<UplinkEvent>,
    scratch: BytesMut,
    /// Where requests come, if they are taken.
    commands: Option<Arc<CommandTopics>>,
    connections: u64,
    /// Connections in a row that ended before SUBSCRIBE was answered.
    cut_short: u32,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialError>> + Send>>;

enum State {
    /// Before the first poll.
    New,
    Waiting(Pin<Box<Sleep>>),
    Dialling(Dialling),
    Online(Box<Session>),
    Closed,
}

impl MqttPublisher {
    /// Checks `settings` and the files they name; connects once it is polled.
    ///
    /// # Errors
    /// When a certificate, key, authority or password file cannot be used.
    pub fn new(
        settings: &Mqtt,
        gateway_id: &str,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, UplinkError> {
        if settings.tls {
            tls::server_name(dial::bare_host(&settings.host))?;
            tls::client_config(settings)?;
        }
        if let Some(path) = &settings.password_file {
            dial::read_password(path)?;
        }
        if settings.prefix.len() > MAX_PREFIX {
            return Err(UplinkError::Prefix(settings.prefix.len()));
        }
        health.set_uplink(|uplink| {
            uplink.state = UplinkState::Connecting;
            uplink.since = clock.unix();
        });
        let topics = Topics::new(&settings.prefix);
        Ok(Self {
            gateway_id: gateway_id.to_owned(),
            wire: Wire::new(settings.version),
            health,
            metrics,
            clock,
            state: State::New,
            backoff: Backoff::new(SHORTEST_WAIT, settings.max_backoff),
            failed_attempts: 0,
            was_connected: false,
            plain_will: false,
            failure_logged: None,
            dropped_logged: None,
            dropped: 0,
            announcements: Announcements::default(),
            status_topic: topics.below("status"),
            topics,
            events: VecDeque::new(),
            scratch: BytesMut::new(),
            commands: None,
            connections: 0,
            cut_short: 0,
            settings: Arc::new(settings.clone()),
        })
    }

    /// Subscribes to `{prefix}/devices/+/commands` from now on: [`UplinkEvent::Request`]s come, which
    /// must be confirmed. The broker keeps those that arrive while the gateway is away.
    #[must_use]
    pub fn taking_requests(mut self) -> Self {
        self.commands = Some(Arc::new(CommandTopics::new(&self.settings.prefix)));
        self
    }

    /// What takes the requests of a new connection. Receipts never repeat.
    fn requests(&mut self) -> Option<Requests> {
        let commands = self.commands.clone()?;
        self.connections += 1;
        let later = self.cut_short >= CUT_SHORT;
        Some(Requests::new(commands, self.metrics.clone(), self.connections << 40, later))
    }

    fn status(&self, state: &str) -> Bytes {
        announce::status(state, &self.gateway_id, self.clock.unix())
    }

    fn start_dialling(&mut self) {
        self.health.set_uplink(|uplink| uplink.state = UplinkState::Connecting);
        let will = Will {
            topic: self.status_topic.clone(),
            payload: self.status("offline"),
            retain: !self.plain_will,
        };
        let dialling = dial::dial(Arc::clone(&self.settings), will, self.commands.is_some());
        self.state = State::Dialling(Box::pin(dialling));
        self.health.parts().uplink.within(dial::DEADLINE + STUCK);
    }

    fn connected(&mut self, dialled: Dialled) {
        tracing::info!(
            name: "uplink-up",
            host = self.settings.host,
            port = self.settings.port,
            version = self.wire.name(),
            tls = self.settings.tls,
            session_present = dialled.answer.session_present,
            failed_attempts = self.failed_attempts,
            "connected to the broker"
        );
        self.metrics.uplink_up.set(1);
        if std::mem::replace(&mut self.was_connected, true) {
            self.metrics.uplink_reconnects.inc();
        }
        let now = self.clock.unix();
        self.health.set_uplink(|uplink| {
            uplink.state = UplinkState::Connected;
            uplink.since = now;
        });
        self.failure_logged = None;
        let failed_attempts = std::mem::take(&mut self.failed_attempts);
        self.events.push_back(UplinkEvent::Up { failed_attempts });

        let requests = self.requests();
        let payload = self.status("online");
        let topic = self.status_topic.clone();
        self.announcements.push(Message { topic, payload, retain: true });
        self.announcements.restart(&self.status_topic);
        let mut session = Box::new(Session::new(&self.settings, dialled, requests));
        session.greet(&mut self.announcements);
        self.state = State::Online(session);
    }

    fn attempt_failed(&mut self, error: &DialError) {
        if let DialError::Refused(refusal) = error {
            // Retain not supported: ours are sent plain once connected, and so must the will be.
            self.plain_will |= refusal.code == 0x9a;
        }
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        let reason = error.to_string();
        let wait = self.wait(&reason);
        let due = self.failure_logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if due {
            self.failure_logged = Some(Instant::now());
            tracing::warn!(
                name: "uplink-unreachable",
                host = self.settings.host,
                port = self.settings.port,
                reason,
                attempts = self.failed_attempts,
                retry_in = wait.as_secs_f64(),
                "cannot connect to the broker"
            );
        } else {
            tracing::debug!(reason, retry_in = wait.as_secs_f64(), "cannot connect to the broker");
        }
    }

    fn lost(&mut self, lost: Lost, proven: bool) {
        let Lost { reason, cause } = lost;
        if proven {
            self.backoff.reset();
        }
        self.metrics.uplink_up.set(0);
        self.metrics.uplink_inflight.set(0);
        let wait = self.wait(&reason);
        let now = self.clock.unix();
        self.health.set_uplink(|uplink| uplink.since = now);
        tracing::warn!(
            name: "uplink-lost",
            host = self.settings.host,
            port = self.settings.port,
            reason,
            retry_in = wait.as_secs_f64(),
            "lost the connection to the broker"
        );
        self.events.push_back(UplinkEvent::Down { reason, cause });
    }

    /// Begins the wait for the next attempt.
    fn wait(&mut self, reason: &str) -> Duration {
        let wait = self.backoff.next_wait(rand::random());
        self.health.parts().uplink.within(wait + STUCK);
        self.state = State::Waiting(Box::pin(tokio::time::sleep(wait)));
        self.health.set_uplink(|uplink| {
            uplink.state = UplinkState::Disconnected;
            uplink.last_error = Some(reason.to_owned());
        });
        wait
    }

    /// Says once a minute at most how many announcements were dropped.
    fn report_dropped(&mut self) {
        self.dropped += self.announcements.take_dropped();
        if self.dropped > 0
            && self.dropped_logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL)
        {
            self.dropped_logged = Some(Instant::now());
            tracing::warn!(
                dropped = std::mem::take(&mut self.dropped),
                "too many announcements are waiting for the broker; the oldest were dropped"
            );
        }
    }
}

impl Publisher for MqttPublisher {
    fn room(&self) -> usize {
        match &self.state {
            State::Online(session) => session.room(),
            _ => 0,
        }
    }

    fn publish(&mut self, token: Token, batch: &Batch, spooled: bool) {
        let State::Online(session) = &mut self.state else {
            debug_assert!(false, "published without room");
            return;
        };
        let (wire, gateway, scratch) = (self.wire, self.gateway_id.as_str(), &mut self.scratch);
        let describe = |content_type| {
            wire.describes().then(|| Description {
                user_properties: payload::properties(gateway, batch, spooled),
                content_type,
                correlation: None,
            })
        };
        let settled = if self.settings.payload == PayloadFormat::Value {
            let description = describe(None);
            let topics = &self.topics;
            let messages = batch.readings.iter().map(|reading| {
                payload::write_value(scratch, reading);
                let topic = topics.reading(&batch.device, &reading.name);
                wire.publish(topic, scratch.split().freeze(), false, description.clone())
            });
            session.submit_parts(token, messages)
        } else {
            let description = match self.settings.payload {
                PayloadFormat::SenmlJson => {
                    payload::write_senml_json(scratch, &batch.readings);
                    describe(Some("application/senml+json"))
                }
                PayloadFormat::SenmlCbor => {
                    payload::write_senml_cbor(scratch, &batch.readings);
                    describe(Some("application/senml+cbor"))
                }
                PayloadFormat::Json | PayloadFormat::Value => {
                    payload::write_json(scratch, gateway, batch, spooled);
                    None
                }
            };
            let topic = self.topics.readings(&batch.device);
            let message = wire.publish(topic, scratch.split().freeze(), false, description);
            let submitted = session.submit(token, message);
            submitted.err().map(|reason| UplinkEvent::Refused { token, reason })
        };
        self.events.extend(settled);
        if self.scratch.capacity() > SCRATCH {
            self.scratch = BytesMut::new();
        }
    }

    fn announce(&mut self, message: Announcement) {
        let Announcement { topic, payload, retain } = message;
        let topic = self.topics.below(&topic);
        self.announcements.push(Message { topic, payload: payload.into(), retain });
        self.report_dropped();
    }

    fn send_room(&self) -> usize {
        match &self.state {
            State::Online(session) => session.letter_room(),
            _ => 0,
        }
    }

    fn send(&mut self, token: Token, message: ports::Message) {
        let State::Online(session) = &mut self.state else {
            debug_assert!(false, "sent without room");
            return;
        };
        let submitted = letter::letter(self.wire, &self.topics, message, session.keeps_retained())
            .and_then(|letter| session.submit_letter(token, letter));
        if let Err(reason) = submitted {
            self.events.push_back(UplinkEvent::SendRefused { token, reason });
        }
    }

    fn confirm(&mut self, receipt: Receipt) {
        if let State::Online(session) = &mut self.state {
            session.confirm(receipt);
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<UplinkEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            match &mut self.state {
                State::New => self.start_dialling(),
                State::Waiting(sleep) => {
                    std::task::ready!(sleep.as_mut().poll(cx));
                    self.start_dialling();
                }
                State::Dialling(dialling) => match std::task::ready!(dialling.as_mut().poll(cx)) {
                    Ok(dialled) => self.connected(dialled),
                    Err(error) => self.attempt_failed(&error),
                },
                State::Online(session) => {
                    let driven = session.drive(cx, &mut self.announcements, &mut self.events);
                    let (in_flight, proven) = (session.in_flight(), session.is_proven());
                    if let Err(lost) = driven {
                        let cut_short = session.awaits_suback();
                        self.cut_short = if cut_short { self.cut_short + 1 } else { 0 };
                        self.lost(lost, proven);
                    } else if self.events.is_empty() {
                        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
                        self.metrics.uplink_inflight.set(in_flight);
                        let progress = &self.health.parts().uplink;
                        match session.owed_by() {
                            Some(due) => progress.by(due.into_std() + STUCK),
                            None => progress.rest(),
                        }
                        return Poll::Pending;
                    }
                }
                State::Closed => return Poll::Pending,
            }
        }
    }

    async fn close(&mut self) {
        if matches!(self.state, State::Online(_)) {
            let payload = self.status("offline");
            let topic = self.status_topic.clone();
            self.announcements.push(Message { topic, payload, retain: true });
            poll_fn(|cx| self.poll_farewell(cx)).await;
        }
        if let State::Online(session) = &mut self.state {
            let mut said = false;
            poll_fn(|cx| session.poll_goodbye(cx, &mut said)).await;
        }
        self.state = State::Closed;
        self.health.parts().uplink.rest();
        self.metrics.uplink_up.set(0);
        self.metrics.uplink_inflight.set(0);
        let now = self.clock.unix();
        self.health.set_uplink(|uplink| {
            uplink.state = UplinkState::Disconnected;
            uplink.since = now;
        });
    }
}

impl MqttPublisher {
    /// Ready when all announcements are acknowledged or the connection is gone.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Online(session) = &mut self.state else { return Poll::Ready(()) };
        loop {
            // What becomes of batches now is nobody's business any more: they are settled elsewhere.
            self.events.clear();
            if session.drive(cx, &mut self.announcements, &mut self.events).is_err() {
                self.state = State::Closed;
                return Poll::Ready(());
            }
            if self.announcements.is_idle() {
                return Poll::Ready(());
            }
            if self.events.is_empty() {
                return Poll::Pending;
            }
        }
    }
}
