//! Commands: performs what [`Desk`] decides, between those who ask, the ledger, the devices and the
//! broker.
//!
//! ```text
//! MqttRequest, CommandRequest ──► Desk ──► Ledger        a request is answered when it is durable
//!        RESULT from a device ──►      ──► Link          COMMAND
//!              ledger, uplink ──►      ──► outbox        results, until their PUBACK
//!                                      ──► CommandBook   what views see
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::core::command::{
    Action, Answered, BadRequest, Counts, Desk, Now, Record, Reply, Request, Requester, Response,
    Settings, State, Ticket, Way,
};
use crate::core::ids::{DeviceId, SessionId};
use crate::core::policy::Permissions;
use crate::metrics::{self, Metrics};
use crate::ports::{
    CommandBook, CommandRequest, DownCause, Ledger, LedgerEvent, Link, Message, MqttRequest,
    Outbound, Publisher, Receipt, Token,
};

use super::suspects::{STRIKES, Suspects};

/// Requests over HTTP taken in one turn at most.
const REQUESTS_PER_TURN: usize = 64;
/// Answers that are no results, waiting for the broker: to requests that are none, that are refused
/// or that were made before. More are not given. Results are not bounded by this, see [`Desk`].
const ANSWERS: usize = 64;
/// Malformed requests over MQTT are logged this often, in seconds.
const LOG_INTERVAL: f64 = 10.0;

/// What a device may be sent; `None` for one that is not registered.
pub type Permits = Box<dyn Fn(&DeviceId) -> Option<Arc<Permissions>> + Send>;

/// What commands need from the outside.
pub struct Parts<L> {
    /// What was configured.
    pub settings: Settings,
    /// Where they are kept.
    pub ledger: L,
    /// Requests over HTTP.
    pub requests: mpsc::Receiver<CommandRequest>,
    /// The registry.
    pub permits: Permits,
    /// For views.
    pub book: Arc<CommandBook>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// A random number, see [`Desk::restore`].
    pub seed: u64,
}

/// See the module.
pub(super) struct Commands<L> {
    desk: Desk,
    max_size: usize,
    ledger: L,
    requests: mpsc::Receiver<CommandRequest>,
    permits: Permits,
    book: Arc<CommandBook>,
    metrics: Arc<Metrics>,
    askers: HashMap<Ticket, Asker>,
    next_ticket: Ticket,
    /// To be published when there is room; those with a number are the desk's.
    outbox: VecDeque<(Option<u64>, Message)>,
    /// What the broker has not acknowledged: which result it belongs to, and whether it goes to a
    /// response topic.
    under_way: HashMap<Token, (u64, bool)>,
    suspects: Suspects,
    next_token: Token,
    /// Of each result, how many messages the broker has not acknowledged.
    unsent: HashMap<u64, usize>,
    confirmed: Vec<Receipt>,
    counted: Counts,
    malformed: u64,
    logged: Option<f64>,
}

/// Who waits for an answer.
enum Asker {
    Mqtt(Box<MqttAsker>),
    Local(oneshot::Sender<Reply>),
}

/// Who asked over MQTT, and for what.
struct MqttAsker {
    receipt: Receipt,
    device: DeviceId,
    id: Option<String>,
    name: String,
    response: Option<Response>,
}

impl<L: Ledger> Commands<L> {
    /// Goes on with what the ledger holds.
    pub(super) fn new(parts: Parts<L>, now: Now) -> Self {
        let Parts { settings, mut ledger, requests, permits, book, metrics, seed } = parts;
        let max_size = settings.max_size;
        let desk = Desk::restore(settings, ledger.kept(), seed, now);
        desk.records().for_each(|record| book.put(record.clone()));
        Self {
            desk,
            max_size,
            ledger,
            requests,
            permits,
            book,
            metrics,
            askers: HashMap::new(),
            next_ticket: 0,
            outbox: VecDeque::new(),
            under_way: HashMap::new(),
            suspects: Suspects::default(),
            next_token: 0,
            unsent: HashMap::new(),
            confirmed: Vec::new(),
            counted: Counts::default(),
            malformed: 0,
            logged: None,
        }
    }

    /// Takes in what the ledger and those who ask have to say. Whether there was anything.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Now) -> bool {
        let mut progress = false;
        while let Poll::Ready(event) = self.ledger.poll_event(cx) {
            match event {
                LedgerEvent::Durable(versions) => {
                    for (number, version) in versions {
                        self.desk.persisted(number, version);
                    }
                }
                LedgerEvent::Stalled { reason } => self.desk.stalled(&reason),
                LedgerEvent::Resumed => self.desk.resumed(),
            }
            progress = true;
        }
        let mut requests = Vec::new();
        if let Poll::Ready(1..) = self.requests.poll_recv_many(cx, &mut requests, REQUESTS_PER_TURN)
        {
            for CommandRequest { device, request, requester, reply } in requests {
                let ticket = self.ticket(Asker::Local(reply));
                self.desk.request(ticket, &device, request, requester, &self.permits, now);
            }
            progress = true;
        }
        progress
    }

    /// A request came over MQTT.
    pub(super) fn requested(&mut self, asked: MqttRequest, now: Now) {
        let MqttRequest { receipt, device, payload, response_topic, correlation } = asked;
        let response = response_topic.map(|topic| Response::new(topic, correlation)).transpose();
        let id = DeviceId::new(&device);
        let request = Request::parse(&payload, self.max_size);
        match (id, request, response) {
            (Ok(device), Ok(request), Ok(response)) => {
                let requester =
                    Requester { via: Way::Mqtt, name: String::new(), response: response.clone() };
                let (id, name) = (request.id.clone(), request.name.clone());
                let from = MqttAsker { receipt, device: device.clone(), id, name, response };
                let ticket = self.ticket(Asker::Mqtt(Box::new(from)));
                self.desk.request(ticket, &device, request, requester, &self.permits, now);
            }
            (id, request, response) => {
                let (bad, known) = match request {
                    Ok(Request { id, name, .. }) => (None, (id, Some(name))),
                    Err(bad) => (Some(bad.reason), (bad.id, bad.name)),
                };
                // The first that is wrong is named.
                let reason = id.err().map(|error| error.to_string()).or(bad);
                let reason = reason.or_else(|| Some(response.as_ref().err()?.reason.clone()));
                let bad =
                    BadRequest { reason: reason.unwrap_or_default(), id: known.0, name: known.1 };
                self.complain(receipt, &device, &bad, response.ok().flatten(), now);
            }
        }
    }

    /// Something that is no request is answered, where it says where to or who it is, and forgotten.
    fn complain(
        &mut self,
        receipt: Receipt,
        device: &str,
        bad: &BadRequest,
        response: Option<Response>,
        now: Now,
    ) {
        self.confirmed.push(receipt);
        self.metrics.requests_malformed.inc();
        self.malformed += 1;
        if self.logged.is_none_or(|at| now.mono - at >= LOG_INTERVAL) {
            self.logged = Some(now.mono);
            let malformed = std::mem::take(&mut self.malformed);
            tracing::warn!(
                device,
                reason = bad.reason,
                malformed,
                "a request for a command is malformed and ignored; `malformed` counts them since \
                 the last such line"
            );
        }
        if response.is_some() || bad.id.is_some() {
            let name = bad.name.as_deref();
            let answer = rejected(bad.id.as_deref(), device, name, &bad.reason, now);
            self.say(device, response, &answer);
        }
    }

    /// Answers whoever asked over MQTT with something that is no result.
    fn say(&mut self, device: &str, response: Option<Response>, answer: &serde_json::Value) {
        let waiting = self.outbox.iter().filter(|(finish, _)| finish.is_none()).count();
        if waiting >= ANSWERS {
            return;
        }
        let message = match response {
            Some(response) => to(response, answer),
            // The device is a part of the topic; one that is none has no topic to answer on.
            None if DeviceId::new(device).is_ok() => on_results(device, answer),
            None => return,
        };
        self.outbox.push_back((None, message));
    }

    fn ticket(&mut self, asker: Asker) -> Ticket {
        self.next_ticket += 1;
        self.askers.insert(self.next_ticket, asker);
        self.next_ticket
    }

    /// A device said HELLO.
    pub(super) fn opened(&mut self, session: SessionId, device: &DeviceId, announced: &[String]) {
        self.desk.opened(session, device, announced.to_vec());
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, session: SessionId) {
        self.desk.closed(session);
    }

    /// A device answered a command.
    pub(super) fn answered(&mut self, session: SessionId, answered: Answered, now: Now) {
        self.desk.result(session, answered, now);
    }

    /// The broker can take results, after so many attempts to connect that failed.
    pub(super) fn uplink_up(&mut self, failed_attempts: u32) {
        self.suspects.connected(failed_attempts);
        self.desk.uplink_up();
    }

    /// What was on its way to the broker is forgotten and comes again.
    pub(super) fn uplink_down(&mut self, cause: DownCause) {
        if cause != DownCause::Silent {
            let responses = self.under_way.values().filter(|(_, response)| *response);
            for finish in self.suspects.ended(responses.map(|(finish, _)| *finish)) {
                tracing::error!(
                    result = finish,
                    "the broker closed {STRIKES} connections while this result of a command was on \
                     its way to the response topic of who asked: it is published on \
                     {{prefix}}/devices/{{device}}/results only"
                );
            }
        }
        self.desk.uplink_down();
        self.outbox.retain(|(finish, _)| finish.is_none());
        self.under_way.clear();
        self.unsent.clear();
    }

    /// The broker has this message, or will never take it.
    pub(super) fn sent(&mut self, token: Token) {
        let Some((finish, _)) = self.under_way.remove(&token) else { return };
        let Some(left) = self.unsent.get_mut(&finish) else { return };
        *left -= 1;
        if *left == 0 {
            self.unsent.remove(&finish);
            self.suspects.done(finish);
            if self.unsent.is_empty() {
                // Whatever else was suspected is not to be published any more.
                self.suspects = Suspects::default();
            }
            self.desk.result_published(finish);
        }
    }

    /// Seconds until [`Self::pump`] is due though nothing happens.
    pub(super) fn next_wake(&self, now: Now) -> Option<f64> {
        self.desk.next_wake(now).map(|at| (at - now.mono).max(0.0))
    }

    /// Decides and performs.
    pub(super) fn pump<'a, P: Publisher>(
        &mut self,
        publisher: &mut P,
        link: impl Fn(SessionId) -> Option<&'a Link>,
        now: Now,
    ) {
        self.desk.pump(&self.permits, now);
        let actions: Vec<Action> = self.desk.actions().collect();
        for action in actions {
            match action {
                Action::Persist(record) => self.ledger.persist(record),
                Action::Forget { number, lost } => {
                    self.ledger.forget(number);
                    self.book.remove(number);
                    if lost {
                        tracing::error!(
                            number,
                            "the result of a command is lost: the ledger is full and the broker \
                             was away. commands.max_count allows more"
                        );
                    }
                }
                Action::Send { session, record, ttl } => {
                    if let Some(link) = link(session) {
                        let Record { id, name, params, .. } = &*record;
                        let (id, name, params) = (id.clone(), name.clone(), params.clone());
                        link.send(Outbound::Command { id, name, params, ttl });
                    }
                }
                Action::Answer { ticket, reply } => self.answer(ticket, reply, now),
                Action::PublishResult { finish, record } => self.publish(finish, &record),
                Action::Changed(record) => self.book.put(record),
            }
        }
        for receipt in self.confirmed.drain(..) {
            publisher.confirm(receipt);
        }
        while publisher.send_room() > 0 && !self.is_held_back() {
            let Some((finish, message)) = self.outbox.pop_front() else { break };
            self.next_token += 1;
            if let Some(finish) = finish {
                self.under_way.insert(self.next_token, (finish, message.absolute));
            }
            publisher.send(self.next_token, message);
        }
        self.count();
    }

    /// Whether what is to be sent next has to wait, so that it is known which result ends connections.
    fn is_held_back(&self) -> bool {
        let next_is_response =
            matches!(self.outbox.front(), Some((Some(_), message)) if message.absolute);
        next_is_response
            && self.suspects.one_at_a_time()
            && self.under_way.values().any(|(_, response)| *response)
    }

    fn publish(&mut self, finish: u64, record: &Record) {
        let result = record.result_json();
        let mut messages = vec![on_results(record.device.as_str(), &result)];
        let response = record.requester.response.clone();
        let response = response.filter(|_| !self.suspects.is_given_up(finish));
        messages.extend(response.map(|response| to(response, &result)));
        self.unsent.insert(finish, messages.len());
        self.outbox.extend(messages.into_iter().map(|message| (Some(finish), message)));
    }

    fn answer(&mut self, ticket: Ticket, reply: Reply, now: Now) {
        match self.askers.remove(&ticket) {
            // Who asked may have gone.
            Some(Asker::Local(sender)) => drop(sender.send(reply)),
            Some(Asker::Mqtt(asker)) => {
                let MqttAsker { receipt, device, id, name, response } = *asker;
                self.confirmed.push(receipt);
                let answer = match reply {
                    // The result follows by itself.
                    Reply::Kept { repeated: false, .. } => return,
                    Reply::Kept { record, .. } => record.result_json(),
                    Reply::Refused(refusal) => {
                        tracing::warn!(error = %refusal, "a request for a command is refused");
                        if response.is_none() && id.is_none() {
                            return;
                        }
                        let (device, error) = (device.as_str(), refusal.to_string());
                        rejected(id.as_deref(), device, Some(&name), &error, now)
                    }
                };
                self.say(device.as_str(), response, &answer);
            }
            None => {}
        }
    }

    fn count(&mut self) {
        let counts = self.desk.counts();
        let before = std::mem::replace(&mut self.counted, counts);
        if counts == before {
            return;
        }
        for (state, (now, then)) in State::ALL.iter().zip(counts.states.iter().zip(before.states)) {
            let state = metrics::State { state: state.as_str() };
            self.metrics.commands.get_or_create(&state).inc_by(now - then);
        }
        let metrics = &self.metrics;
        for (counter, now, then) in [
            (&metrics.results_unknown, counts.results_unknown, before.results_unknown),
            (&metrics.results_duplicate, counts.results_duplicate, before.results_duplicate),
            (&metrics.results_late, counts.results_late, before.results_late),
            (&metrics.results_lost, counts.results_lost, before.results_lost),
            (&metrics.requests_repeated, counts.requests_repeated, before.requests_repeated),
            (&metrics.requests_refused, counts.requests_refused, before.requests_refused),
            (&metrics.commands_redelivered, counts.redelivered, before.redelivered),
        ] {
            counter.inc_by(now - then);
        }
    }

    /// Nothing is waiting to be durable.
    pub(super) fn is_settled(&self) -> bool {
        self.askers.is_empty()
    }

    /// Writes what was handed over and ends.
    pub(super) fn close(&mut self) -> impl Future<Output = ()> {
        self.ledger.close()
    }
}

/// What is said of a request that is not in the ledger.
fn rejected(
    id: Option<&str>,
    device: &str,
    name: Option<&str>,
    error: &str,
    now: Now,
) -> serde_json::Value {
    json!({
        "id": id,
        "device": device,
        "name": name,
        "state": State::Rejected.as_str(),
        "value": null,
        "error": error,
        "time": now.unix,
    })
}

fn on_results(device: &str, answer: &serde_json::Value) -> Message {
    Message {
        topic: format!("devices/{device}/results"),
        payload: answer.to_string().into_bytes(),
        content_type: Some("application/json"),
        ..Message::default()
    }
}

fn to(response: Response, answer: &serde_json::Value) -> Message {
    Message {
        topic: response.topic,
        absolute: true,
        payload: answer.to_string().into_bytes(),
        correlation: response.correlation,
        content_type: Some("application/json"),
        ..Message::default()
    }
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
