//! What arrives on the command topics: the subscription, and which of it is not confirmed yet.
//!
//! - A request is handed on at once and acknowledged (PUBACK) once it is confirmed, in the order of
//!   arrival, as the standard wants it (MQTT 5 section 4.6): one that is confirmed early waits for
//!   those before it.
//! - At most [`MAX_UNCONFIRMED`] requests or [`MAX_BYTES`] of them wait for that. Over MQTT 5 the
//!   broker is told a lower number ([`RECEIVE_MAX`]). MQTT 3.1.1 cannot say it, and QoS 0 is not
//!   bounded by it: what comes beyond is left out. Of what is left out, QoS 0 is lost, as it may
//!   be; for QoS 1 the connection is made anew once all that came before is confirmed, and the
//!   broker sends it again.
//! - Retained messages are acknowledged and ignored: they would come again with every subscription.
//! - A subscription that is refused is tried again, and the readings flow meanwhile. A broker that
//!   hangs up or falls silent instead of refusing is only asked again after a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::incoming::Arrival;
use super::mqtt::Wire;
use super::topics::{CommandTopics, publishable};
use crate::core::backoff::Backoff;
use crate::metrics::{Metrics, Reason};
use crate::ports::{MqttRequest, Receipt};

/// Requests without PUBACK that an MQTT 5 broker may have sent.
pub(super) const RECEIVE_MAX: u16 = 32;

/// Most requests that are handed on and not confirmed.
const MAX_UNCONFIRMED: usize = 256;

/// Most bytes of payload in them.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Waits before a refused subscription is tried again.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Ignored messages are logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    topics: Arc<CommandTopics>,
    metrics: Arc<Metrics>,
    subscription: Subscription,
    retries: Backoff,
    /// In the order of arrival; the front one is not confirmed.
    unconfirmed: VecDeque<Unconfirmed>,
    /// The receipt of the front one, or the next to be given out.
    first: Receipt,
    bytes: usize,
    /// Something with QoS 1 was left out.
    left_out: bool,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct Unconfirmed {
    pkid: Option<u16>,
    bytes: usize,
    confirmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    /// SUBSCRIBE is to be sent.
    Due,
    /// It is sent.
    Asked,
    Granted,
    /// Refused, or not to be asked for yet.
    Later(Instant),
}

impl Requests {
    /// Receipts are given out from `first` on. `later`: the broker does not like to be asked.
    pub(super) fn new(
        topics: Arc<CommandTopics>,
        metrics: Arc<Metrics>,
        first: Receipt,
        later: bool,
    ) -> Self {
        let subscription = if later {
            tracing::warn!(
                filter = topics.filter(),
                retry_in = LONGEST_RETRY.as_secs_f64(),
                "the connection ends each time commands are subscribed to; readings flow, \
                 commands over MQTT do not come: allow this client to subscribe to the filter"
            );
            Subscription::Later(Instant::now() + LONGEST_RETRY)
        } else {
            Subscription::Due
        };
        Self {
            topics,
            metrics,
            subscription,
            retries: Backoff::new(SHORTEST_RETRY, LONGEST_RETRY),
            unconfirmed: VecDeque::new(),
            first,
            bytes: 0,
            left_out: false,
            logged: None,
        }
    }

    /// The broker keeps the session for another time than was asked.
    pub(super) fn kept_for(&self, granted: Duration, asked: Duration) {
        if granted.as_secs() < asked.as_secs() {
            tracing::info!(
                filter = self.topics.filter(),
                granted = granted.as_secs_f64(),
                asked = asked.as_secs_f64(),
                "the broker keeps commands for a shorter time than mqtt.session_expiry"
            );
        }
    }

    /// The filter to subscribe to, if that is to be done now; it counts as done then.
    pub(super) fn subscribe(&mut self) -> Option<&str> {
        if self.subscription != Subscription::Due {
            return None;
        }
        self.subscription = Subscription::Asked;
        Some(self.topics.filter())
    }

    /// Whether a SUBSCRIBE waits to be sent.
    pub(super) fn is_due(&self) -> bool {
        self.subscription == Subscription::Due
    }

    /// Whether the broker owes a SUBACK.
    pub(super) fn is_asked(&self) -> bool {
        self.subscription == Subscription::Asked
    }

    /// The broker has answered: `reason` is the highest QoS granted, or why it refuses.
    pub(super) fn subscribed(&mut self, granted: u8, refusal: Option<&str>, now: Instant) {
        let filter = self.topics.filter();
        if let Some(reason) = refusal {
            let wait = self.retries.next_wait(rand::random());
            tracing::warn!(
                filter,
                reason,
                retry_in = wait.as_secs_f64(),
                "the broker refuses the subscription to commands; readings flow, commands over \
                 MQTT do not come: allow this client to subscribe to the filter"
            );
            self.subscription = Subscription::Later(now + wait);
            return;
        }
        if granted == 0 {
            tracing::warn!(
                filter,
                "the broker grants QoS 0 only: commands over MQTT are lost while the gateway is away"
            );
        }
        tracing::debug!(filter, granted, "subscribed to commands");
        self.subscription = Subscription::Granted;
    }

    /// When [`Self::retry`] is to be called.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        match self.subscription {
            Subscription::Later(due) => Some(due),
            _ => None,
        }
    }

    /// Makes the subscription due if its time has come.
    pub(super) fn retry(&mut self, now: Instant) {
        if self.next_retry().is_some_and(|due| due <= now) {
            self.subscription = Subscription::Due;
        }
    }

    /// Takes what has arrived; returns what is to be handed on. PUBACKs go to `out`.
    pub(super) fn take(&mut self, arrival: Arrival, out: &mut BytesMut) -> Option<MqttRequest> {
        let Arrival { topic, pkid, retained, payload, response_topic, correlation } = arrival;
        let sent_twice = pkid.is_some() && self.unconfirmed.iter().any(|known| known.pkid == pkid);
        if sent_twice || (self.left_out && pkid.is_some()) {
            // The answer to the first one answers both; PUBACKs must not overtake.
            return None;
        }
        let Some(device) = self.topics.device(&topic) else {
            self.ignore(pkid, "foreign-topic", &topic, out);
            return None;
        };
        let (device, payload) = match payload {
            _ if retained => {
                self.ignore(pkid, "retained", &topic, out);
                return None;
            }
            None => {
                self.ignore(pkid, "too-large", &topic, out);
                return None;
            }
            Some(payload) => (device.to_owned(), payload),
        };
        let bytes = payload.len();
        if self.unconfirmed.len() >= MAX_UNCONFIRMED || self.bytes + bytes > MAX_BYTES {
            self.left_out |= pkid.is_some();
            self.note_ignored("overflow", &topic);
            return None;
        }
        self.bytes += bytes;
        let receipt = self.first + self.unconfirmed.len() as u64;
        self.unconfirmed.push_back(Unconfirmed { pkid, bytes, confirmed: false });
        Some(MqttRequest {
            receipt,
            device,
            payload: payload.into(),
            response_topic: response_topic.and_then(|topic| self.answerable(&topic)),
            correlation: correlation.map(Into::into),
        })
    }

    /// The request is safe or answered.
    pub(super) fn confirm(&mut self, receipt: Receipt, out: &mut BytesMut) {
        let place = receipt.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(request) = place.and_then(|place| self.unconfirmed.get_mut(place)) else { return };
        if !std::mem::replace(&mut request.confirmed, true) {
            self.bytes -= std::mem::take(&mut request.bytes);
        }
        self.acknowledge(out);
    }

    /// Whether a new connection is needed for what was left out.
    pub(super) fn is_spent(&self) -> bool {
        self.left_out && self.unconfirmed.is_empty()
    }

    fn acknowledge(&mut self, out: &mut BytesMut) {
        while self.unconfirmed.front().is_some_and(|request| request.confirmed) {
            let pkid = self.unconfirmed.pop_front().and_then(|request| request.pkid);
            self.first += 1;
            if let Some(pkid) = pkid {
                Wire::puback(pkid, out);
            }
        }
    }

    /// A response topic that an answer may be published on. The gateway's own topics are not for
    /// others to write to by way of it.
    fn answerable(&mut self, topic: &Bytes) -> Option<String> {
        let problem = match std::str::from_utf8(topic) {
            Err(_) => "it is not UTF-8",
            Ok(topic) if self.topics.is_own(topic) => "it is one of the gateway's own topics",
            Ok(topic) => match publishable(topic) {
                Ok(()) => return Some(topic.to_owned()),
                Err(problem) => problem,
            },
        };
        if self.log_is_due() {
            tracing::warn!(
                response_topic = %String::from_utf8_lossy(topic).escape_debug(),
                problem,
                "the response topic of a command cannot be used; its result goes to the results \
                 topic only"
            );
        }
        None
    }

    /// Acknowledges in its turn what nobody will confirm.
    fn ignore(&mut self, pkid: Option<u16>, why: &'static str, topic: &Bytes, out: &mut BytesMut) {
        self.note_ignored(why, topic);
        if pkid.is_some() {
            self.unconfirmed.push_back(Unconfirmed { pkid, bytes: 0, confirmed: true });
            self.acknowledge(out);
        }
    }

    fn note_ignored(&mut self, why: &'static str, topic: &Bytes) {
        self.metrics.requests_ignored.get_or_create(&Reason { reason: why }).inc();
        if !self.log_is_due() {
            return;
        }
        let topic = String::from_utf8_lossy(topic);
        let topic = topic.escape_debug();
        match why {
            "retained" => tracing::warn!(
                %topic,
                "a retained command is ignored, it would be carried out again with every \
                 connection; publish commands without the retain flag"
            ),
            "too-large" => tracing::warn!(%topic, "a command that is far too large is ignored"),
            "overflow" => tracing::warn!(
                %topic,
                "more commands arrive than can be stored; they are left out for now"
            ),
            _ => tracing::warn!(
                %topic,
                "a message on a topic that is not subscribed to is ignored; the broker remembers a \
                 subscription of an earlier mqtt.prefix, or of another client with this client id"
            ),
        }
    }

    fn log_is_due(&mut self) -> bool {
        let due = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if due {
            self.logged = Some(Instant::now());
        }
        due
    }
}
