//! What becomes of results whose response topic a broker does not bear.

use std::future::ready;

use super::*;
use crate::core::batch::Batch;
use crate::core::command::Kept;
use crate::ports::{Announcement, UplinkEvent};

/// Durable at once.
#[derive(Default)]
struct Disk(VecDeque<LedgerEvent>);

impl Ledger for Disk {
    fn kept(&mut self) -> Kept {
        Kept::default()
    }

    fn persist(&mut self, record: Arc<Record>) {
        self.0.push_back(LedgerEvent::Durable(vec![(record.number, record.version)]));
    }

    fn forget(&mut self, _: u64) {}

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<LedgerEvent> {
        self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        ready(())
    }
}

/// A broker that closes the connection over a message on the topic `bad`.
#[derive(Default)]
struct Broker {
    sent: VecDeque<(Token, Message)>,
    arrived: Vec<String>,
}

impl Publisher for Broker {
    fn room(&self) -> usize {
        0
    }

    fn publish(&mut self, _: Token, _: &Batch, _: bool) {
        panic!("no readings here");
    }

    fn announce(&mut self, _: Announcement) {}

    fn send_room(&self) -> usize {
        25 - self.sent.len()
    }

    fn send(&mut self, token: Token, message: Message) {
        self.sent.push_back((token, message));
    }

    fn confirm(&mut self, _: Receipt) {}

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<UplinkEvent> {
        Poll::Pending
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        ready(())
    }
}

struct World {
    commands: Commands<Disk>,
    broker: Broker,
    now: f64,
}

impl World {
    /// Commands of which nobody takes notice until they expire, with answers to these topics.
    fn expired(topics: &[&str]) -> Self {
        let parts = Parts {
            settings: Settings {
                max_count: 100,
                max_age: 1000.0,
                max_size: 64,
                max_in_flight: 2,
                default_ttl: 1,
            },
            ledger: Disk::default(),
            requests: mpsc::channel(1).1,
            permits: Box::new(|_| Some(Arc::default())),
            book: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            seed: 7,
        };
        let commands = Commands::new(parts, Now { unix: 1e9, mono: 0.0 });
        let mut world = Self { commands, broker: Broker::default(), now: 0.0 };
        for topic in topics {
            let asked = MqttRequest {
                receipt: Receipt::default(),
                device: "kiln-1".into(),
                payload: br#"{"name":"open"}"#.to_vec(),
                response_topic: Some((*topic).into()),
                correlation: None,
            };
            world.commands.requested(asked, world.now());
        }
        world.turn();
        world.now = 10.0;
        world.turn();
        world
    }

    fn now(&self) -> Now {
        Now { unix: 1e9 + self.now, mono: self.now }
    }

    fn turn(&mut self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let now = self.now();
        for _ in 0..5 {
            self.commands.poll(&mut context, now);
            self.commands.pump(&mut self.broker, |_| None, now);
        }
    }

    /// One connection, as long as it holds. Whether it does.
    fn connection(&mut self, failed_attempts: u32, cause: DownCause) -> bool {
        self.commands.uplink_up(failed_attempts);
        self.turn();
        while let Some((token, message)) = self.broker.sent.pop_front() {
            if message.topic == "bad" {
                self.broker.sent.clear();
                self.commands.uplink_down(cause);
                return false;
            }
            self.broker.arrived.push(message.topic);
            self.commands.sent(token);
            self.turn();
        }
        true
    }

    fn arrived(&self, topic: &str) -> usize {
        self.broker.arrived.iter().filter(|arrived| *arrived == topic).count()
    }
}

#[test]
fn a_response_topic_that_ends_every_connection_is_given_up_and_only_that_one() {
    let mut world = World::expired(&["good-1", "bad", "good-2", "good-3"]);
    let mut ended = 0;
    while !world.connection(0, DownCause::ClosedByBroker) {
        ended += 1;
        assert!(ended <= usize::from(STRIKES), "it goes on for ever");
    }
    assert_eq!(ended, usize::from(STRIKES));
    for topic in ["good-1", "good-2", "good-3"] {
        assert!(world.arrived(topic) > 0, "{topic}: {:?}", world.broker.arrived);
    }
    assert!(world.arrived("devices/kiln-1/results") >= 4);
    // Nothing is left, and nothing is suspected.
    world.broker.arrived.clear();
    assert!(world.connection(0, DownCause::ClosedByBroker));
    assert_eq!(world.broker.arrived, [""; 0]);
    assert!(!world.commands.suspects.one_at_a_time());
}

#[test]
fn a_network_that_breaks_and_a_broker_that_was_away_are_no_evidence() {
    let mut world = World::expired(&["bad"]);
    for _ in 0..3 * STRIKES {
        assert!(!world.connection(0, DownCause::Silent));
        assert!(!world.connection(1, DownCause::ClosedByBroker));
    }
}
