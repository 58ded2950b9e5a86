//! Plays the engine: hands batches over in order, keeps its own table, and starts again from the
//! first batch without PUBACK whenever the connection is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate::config::{Mqtt, MqttVersion, PayloadFormat};
use tidegate::core::batch::{Batch, Reading, Value};
use tidegate::core::clock::Base;
use tidegate::core::ids::DeviceId;
use tidegate::metrics::Metrics;
use tidegate::ports::{
    Announcement, Clock, DownCause, Health, Message, MqttRequest, Publisher, Token, UplinkEvent,
};
use tidegate::uplink::MqttPublisher;

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct WallClock;

impl Clock for WallClock {
    fn unix(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }
}

pub(crate) fn settings(port: u16) -> Mqtt {
    Mqtt {
        homeassistant: false,
        homeassistant_prefix: "homeassistant".into(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: false,
        version: MqttVersion::V5,
        prefix: "tidegate/gw-1".to_owned(),
        payload: PayloadFormat::Json,
        max_inflight: 100,
        ack_timeout: Duration::from_secs(10),
        max_backoff: Duration::from_secs(60),
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(3600),
        client_id: "tidegate-gw-1".to_owned(),
        username: None,
        password_file: None::<PathBuf>,
        ca: None,
        cert: None,
        key: None,
    }
}

/// Batch `n`, counted from 0, has the sequence number n + 1.
pub(crate) fn batch(n: u64) -> Batch {
    Batch {
        device: DeviceId::new("kiln-3").unwrap(),
        epoch: 7,
        seq: Some(n + 1),
        received: 1_763_800_000.125,
        base: Base::default(),
        shift: 0.0,
        readings: vec![Reading {
            name: "temperature".into(),
            unit: Some("Cel".into()),
            value: Some(Value::Number(n as f64)),
            sum: None,
            time: 1_763_800_000.0,
            update_time: None,
            relative: false,
        }],
    }
}

pub(crate) fn batches(count: u64) -> Vec<Batch> {
    (0..count).map(batch).collect()
}

/// A batch of `count` readings with the names r0, r1, …
pub(crate) fn wide_batch(seq: u64, count: usize) -> Batch {
    let one = batch(seq - 1).readings.remove(0);
    let readings =
        (0..count).map(|n| Reading { name: format!("r{n}").into(), ..one.clone() }).collect();
    Batch { readings, ..batch(seq - 1) }
}

pub(crate) struct Driver {
    pub(crate) uplink: MqttPublisher,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) published: BTreeSet<usize>,
    pub(crate) refused: BTreeMap<usize, String>,
    pub(crate) ups: Vec<u32>,
    pub(crate) downs: Vec<(String, DownCause)>,
    /// What was handed over and had no answer whenever the connection was lost.
    pub(crate) unanswered_at_down: BTreeSet<usize>,
    /// Letters handed over and not answered.
    pub(crate) sending: BTreeSet<Token>,
    pub(crate) sent: Vec<Token>,
    pub(crate) send_refused: BTreeMap<Token, String>,
    pub(crate) requests: Vec<MqttRequest>,
    /// Off: only drives the uplink.
    pub(crate) hands_over: bool,
    in_flight: BTreeMap<Token, usize>,
    next: usize,
    next_token: Token,
}

impl Driver {
    pub(crate) fn new(settings: &Mqtt, batches: Vec<Batch>) -> Self {
        Self::with(settings, batches, |uplink| uplink)
    }

    /// One that takes requests.
    pub(crate) fn taking_requests(settings: &Mqtt, batches: Vec<Batch>) -> Self {
        Self::with(settings, batches, MqttPublisher::taking_requests)
    }

    fn with(
        settings: &Mqtt,
        batches: Vec<Batch>,
        change: impl FnOnce(MqttPublisher) -> MqttPublisher,
    ) -> Self {
        let health = Arc::<Health>::default();
        let metrics = Arc::<Metrics>::default();
        let uplink = MqttPublisher::new(
            settings,
            "gw-1",
            Arc::clone(&health),
            Arc::clone(&metrics),
            Arc::new(WallClock),
        );
        Self {
            uplink: change(uplink.unwrap()),
            health,
            metrics,
            batches,
            published: BTreeSet::new(),
            refused: BTreeMap::new(),
            ups: Vec::new(),
            downs: Vec::new(),
            unanswered_at_down: BTreeSet::new(),
            sending: BTreeSet::new(),
            sent: Vec::new(),
            send_refused: BTreeMap::new(),
            requests: Vec::new(),
            hands_over: true,
            in_flight: BTreeMap::new(),
            next: 0,
            next_token: 1000,
        }
    }

    pub(crate) fn settled(&self) -> usize {
        self.published.len() + self.refused.len()
    }

    pub(crate) fn all_settled(&self) -> bool {
        self.settled() == self.batches.len()
    }

    pub(crate) fn handed_over(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn announce(&mut self, topic: &str, payload: &str, retain: bool) {
        let (topic, payload) = (topic.to_owned(), payload.as_bytes().to_vec());
        self.uplink.announce(Announcement { topic, payload, retain });
    }

    /// Hands a letter over.
    pub(crate) fn send(&mut self, token: Token, message: Message) {
        assert!(self.sending.insert(token), "an unused token");
        self.uplink.send(token, message);
    }

    /// Runs until `done`, only ever woken by the uplink itself.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let running = poll_fn(|cx| {
            loop {
                if done(self) {
                    return Poll::Ready(());
                }
                if let Poll::Ready(event) = self.uplink.poll_event(cx) {
                    self.note(event);
                } else if done(self) {
                    return Poll::Ready(());
                } else if !self.hand_over() {
                    return Poll::Pending;
                }
            }
        });
        let in_time = tokio::time::timeout(PATIENCE, running).await.is_ok();
        assert!(
            in_time,
            "{what}: {} settled, ups {:?}, downs {:?}",
            self.settled(),
            self.ups,
            self.downs
        );
    }

    /// Runs for ever: for tests that look at the other end.
    pub(crate) async fn run(&mut self) {
        poll_fn::<(), _>(|cx| {
            loop {
                if let Poll::Ready(event) = self.uplink.poll_event(cx) {
                    self.note(event);
                } else if !self.hand_over() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Runs while `other` does, which must end in time.
    pub(crate) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::select! {
            result = other => result,
            () = self.run() => unreachable!("it never ends"),
            () = tokio::time::sleep(PATIENCE) => panic!("the other end did not finish"),
        }
    }

    fn hand_over(&mut self) -> bool {
        let mut any = false;
        while self.hands_over && self.uplink.room() > 0 {
            while self.published.contains(&self.next) || self.refused.contains_key(&self.next) {
                self.next += 1;
            }
            let Some(batch) = self.batches.get(self.next) else { break };
            let token = self.next_token;
            self.next_token += 1;
            self.in_flight.insert(token, self.next);
            self.uplink.publish(token, batch, false);
            self.next += 1;
            any = true;
        }
        any
    }

    fn note(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Up { failed_attempts } => {
                assert_eq!(self.ups.len(), self.downs.len(), "up follows down");
                self.ups.push(failed_attempts);
            }
            UplinkEvent::Down { reason, cause } => {
                self.downs.push((reason, cause));
                assert_eq!(self.ups.len(), self.downs.len(), "down follows up");
                let unanswered = std::mem::take(&mut self.in_flight);
                self.sending.clear();
                self.next = unanswered.values().copied().min().unwrap_or(self.next);
                self.unanswered_at_down.extend(unanswered.into_values());
            }
            UplinkEvent::Published(token) => {
                let batch = self.in_flight.remove(&token).expect("a token that is in flight");
                assert!(self.published.insert(batch), "settled twice");
            }
            UplinkEvent::Refused { token, reason } => {
                let batch = self.in_flight.remove(&token).expect("a token that is in flight");
                assert!(self.refused.insert(batch, reason).is_none(), "settled twice");
            }
            UplinkEvent::Sent(token) => {
                assert!(self.sending.remove(&token), "a letter that is on its way");
                self.sent.push(token);
            }
            UplinkEvent::SendRefused { token, reason } => {
                assert!(self.sending.remove(&token), "a letter that is on its way");
                self.send_refused.insert(token, reason);
            }
            UplinkEvent::Request(request) => self.requests.push(request),
        }
    }
}

/// The sequence number in a `json` payload.
pub(crate) fn seq(payload: &[u8]) -> u64 {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
    json["seq"].as_u64().unwrap()
}
