//! A world of devices that come and go, a disk that may forget, a broker and requesters around the
//! [`Desk`], driven by a seeded random generator. What must always hold is asserted after every
//! step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ciborium::Value;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::core::worlds;

const MAX_COUNT: usize = 200;
const MAX_IN_FLIGHT: usize = 3;
const TTL_MAX_HERE: u64 = 30;

#[allow(clippy::unnecessary_wraps, reason = "the shape of a lookup")]
fn everything(_: &DeviceId) -> Option<Arc<Permissions>> {
    Some(Arc::default())
}

/// What a device has on its present connection.
struct Connection {
    session: SessionId,
    /// Sent and not answered.
    open: Vec<String>,
    /// The highest command number that came first on this connection.
    last: u64,
}

struct World {
    rng: StdRng,
    desk: Desk,
    now: f64,
    /// How wrong the wall clock is.
    wall: f64,
    devices: Vec<DeviceId>,
    connections: HashMap<DeviceId, Connection>,
    /// Results of devices that have not been sent.
    results: Vec<(DeviceId, String)>,
    sessions: u64,
    tickets: Ticket,
    asked: HashMap<Ticket, (DeviceId, String)>,
    /// Written and not synced, in order.
    buffer: Vec<Write>,
    disk: BTreeMap<u64, Record>,
    stalled: bool,
    uplink: bool,
    /// Results on their way, by the end and the command.
    wire: Vec<(u64, u64)>,
    /// What the broker has.
    arrived: HashSet<(u64, u64)>,
    /// The last end that first arrived since the last crash.
    order: u64,
    /// How many times commands with `redeliver = false` were written to a socket.
    written: HashMap<String, u32>,
    once: HashSet<String>,
    /// Accepted: answered as kept.
    accepted: HashSet<String>,
    unfinished: HashSet<String>,
    next_id: u64,
    crashes: u32,
    /// The highest number that was ever on the disk.
    highest: u64,
}

#[derive(Clone)]
enum Write {
    Record(Arc<Record>),
    Forget(u64),
}

impl World {
    fn new(seed: u64, devices: usize) -> Self {
        let settings = settings();
        let now = Now { unix: 1_763_800_000.0, mono: 0.0 };
        Self {
            rng: StdRng::seed_from_u64(seed),
            desk: Desk::restore(settings, Kept::default(), seed, now),
            now: 0.0,
            wall: 1_763_800_000.0,
            devices: (0..devices).map(|n| DeviceId::new(&format!("d{n}")).unwrap()).collect(),
            connections: HashMap::new(),
            results: Vec::new(),
            sessions: 0,
            tickets: 0,
            asked: HashMap::new(),
            buffer: Vec::new(),
            disk: BTreeMap::new(),
            stalled: false,
            uplink: false,
            wire: Vec::new(),
            arrived: HashSet::new(),
            order: 0,
            highest: 0,
            written: HashMap::new(),
            once: HashSet::new(),
            accepted: HashSet::new(),
            unfinished: HashSet::new(),
            next_id: 0,
            crashes: 0,
        }
    }

    fn time(&self) -> Now {
        Now { unix: self.wall + self.now, mono: self.now }
    }

    fn ask(&mut self) {
        let device = self.devices[self.rng.random_range(0..self.devices.len())].clone();
        // Sometimes an id that was used before, by this device or another.
        let id = if self.next_id > 0 && self.rng.random_bool(0.1) {
            format!("c{}", self.rng.random_range(0..self.next_id))
        } else {
            self.next_id += 1;
            format!("c{}", self.next_id - 1)
        };
        let redeliver = self.rng.random_bool(0.5);
        let request = Request {
            name: "n".into(),
            params: Value::Null,
            id: Some(id.clone()),
            ttl: Some(self.rng.random_range(1..=TTL_MAX_HERE)),
            redeliver,
        };
        let requester = Requester { via: Way::Mqtt, name: String::new(), response: None };
        self.tickets += 1;
        self.asked.insert(self.tickets, (device.clone(), id));
        let now = self.time();
        self.desk.request(self.tickets, &device, request, requester, &everything, now);
    }

    fn connect(&mut self) {
        let device = self.devices[self.rng.random_range(0..self.devices.len())].clone();
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let connection = Connection { session, open: Vec::new(), last: 0 };
        let replaced = self.connections.insert(device.clone(), connection);
        self.desk.opened(session, &device, Vec::new());
        if let Some(replaced) = replaced {
            self.desk.closed(replaced.session);
        }
    }

    fn disconnect(&mut self) {
        let device = &self.devices[self.rng.random_range(0..self.devices.len())];
        if let Some(connection) = self.connections.remove(device) {
            self.desk.closed(connection.session);
        }
    }

    /// A device does something that it was told, now or on an earlier connection, perhaps twice.
    fn answer(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.results.len());
        let (device, id) = self.results[index].clone();
        let Some(connection) = self.connections.get_mut(&device) else { return };
        let answered =
            Answered { id: id.clone(), ok: self.rng.random_bool(0.8), value: Value::Null };
        connection.open.retain(|open| *open != id);
        let session = connection.session;
        if self.rng.random_bool(0.9) {
            self.results.swap_remove(index);
        }
        let now = self.time();
        self.desk.result(session, answered, now);
    }

    /// The disk syncs some of what was written.
    fn commit(&mut self) {
        if self.stalled {
            return;
        }
        let count = self.rng.random_range(0..=self.buffer.len());
        for write in self.buffer.drain(..count).collect::<Vec<_>>() {
            if let Write::Record(record) = &write {
                self.desk.persisted(record.number, record.version);
            }
            self.write(write);
        }
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Record(record) => {
                self.highest = self.highest.max(record.number);
                self.disk.insert(record.number, Record::clone(&record));
            }
            Write::Forget(number) => {
                self.disk.remove(&number);
            }
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        // Some of it has reached the disk without anybody being told.
        let count = self.rng.random_range(0..=self.buffer.len());
        let reached: Vec<_> = self.buffer.drain(..count).collect();
        for write in reached {
            self.write(write);
        }
        self.buffer.clear();
        let kept = Kept {
            records: self.disk.values().cloned().collect(),
            next_number: self.highest + 1,
            damaged: self.rng.random_bool(0.1),
        };
        // The clock may have been set meanwhile.
        self.wall += self.rng.random_range(-20.0..5.0);
        let now = self.time();
        let seed = self.rng.random();
        self.desk = Desk::restore(settings(), kept, seed, now);
        self.connections.clear();
        self.asked.clear();
        self.wire.clear();
        self.order = 0;
        (self.stalled, self.uplink) = (false, false);
    }

    fn stall(&mut self) {
        self.stalled = !self.stalled;
        if self.stalled { self.desk.stalled("full") } else { self.desk.resumed() }
    }

    fn uplink(&mut self) {
        self.uplink = !self.uplink;
        // What the broker has got of them is not known.
        let reached = self.rng.random_range(0..=self.wire.len());
        for result in self.wire.drain(..).take(reached) {
            if self.arrived.insert(result) {
                self.order = result.0;
            }
        }
        if self.uplink { self.desk.uplink_up() } else { self.desk.uplink_down() }
    }

    fn puback(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let result = self.wire.remove(0);
        if self.arrived.insert(result) {
            assert!(result.0 > self.order, "results arrive in the order in which commands ended");
            self.order = result.0;
        }
        self.desk.result_published(result.0);
    }

    fn pump(&mut self) {
        let now = self.time();
        self.desk.pump(&everything, now);
        let actions: Vec<_> = self.desk.actions().collect();
        for action in actions {
            match action {
                Action::Persist(record) => self.buffer.push(Write::Record(record)),
                Action::Forget { number, .. } => {
                    self.buffer.retain(
                        |write| !matches!(write, Write::Record(record) if record.number == number),
                    );
                    self.buffer.push(Write::Forget(number));
                }
                Action::Send { session, record, ttl } => self.sent(session, &record, ttl),
                Action::Answer { ticket, reply } => self.answered(ticket, reply),
                Action::PublishResult { finish, record } => {
                    assert!(self.uplink, "nothing is published while the broker is away");
                    let durable = self.disk.get(&record.number).expect("durable");
                    assert_eq!(durable.finish, Some(finish), "published before it is durable");
                    assert_eq!(durable.state(), record.state());
                    self.wire.push((finish, record.number));
                }
                Action::Changed(_) => {}
            }
        }
    }

    fn sent(&mut self, session: SessionId, record: &Arc<Record>, ttl: u64) {
        let durable = self.disk.get(&record.number).expect("sent before it was durable");
        assert!((1..=record.ttl).contains(&ttl), "{ttl} of {}", record.ttl);
        let connection = self.connections.get_mut(&record.device).expect("a connection");
        assert_eq!(connection.session, session);
        assert!(record.number > connection.last, "oldest first");
        connection.last = record.number;
        if !record.redeliver {
            assert!(
                durable.history.iter().any(|entry| entry.state == State::Delivered),
                "an actuator's command is written before that is durable"
            );
            let key = format!("{}/{}", record.device, record.number);
            let times = self.written.entry(key.clone()).or_default();
            *times += 1;
            assert_eq!(*times, 1, "an actuator's command was written twice");
            self.once.insert(key);
        }
        connection.open.push(record.id.clone());
        self.results.push((record.device.clone(), record.id.clone()));
    }

    fn answered(&mut self, ticket: Ticket, reply: Reply) {
        let (device, id) = self.asked.remove(&ticket).expect("answered once");
        match reply {
            Reply::Kept { record, .. } => {
                assert_eq!((&record.device, &record.id), (&device, &id));
                assert!(self.disk.contains_key(&record.number), "answered before it was durable");
                self.accepted.insert(format!("{device}/{}", record.number));
            }
            Reply::Refused(Refusal::Full(count)) => assert_eq!(count, MAX_COUNT),
            Reply::Refused(Refusal::Stalled(_)) => {}
        }
    }

    fn check(&self) {
        assert!(self.desk.len() <= MAX_COUNT, "the bound holds");
        let mut in_flight: HashMap<&DeviceId, usize> = HashMap::new();
        for record in self.desk.records() {
            let finals = record.history.iter().filter(|e| e.state.is_final()).count();
            let late = record.history.last().is_some_and(|entry| entry.late);
            assert!(finals <= 1 + usize::from(late), "{record:?}");
            assert_eq!(finals > 0, record.finish.is_some());
            if finals == 0 {
                // Restored ones have at most their whole ttl from the restart.
                assert!(self.desk.next_wake(self.time()).is_some(), "nothing waits for ever");
            }
            if late {
                let before = record.history.iter().rev().nth(1).unwrap();
                assert_eq!(before.state, State::Expired);
            }
        }
        for record in self.desk.records().filter(|record| record.finish.is_none()) {
            let connection = self.connections.get(&record.device);
            if connection.is_some_and(|connection| connection.open.contains(&record.id)) {
                *in_flight.entry(&record.device).or_default() += 1;
            }
        }
        assert!(in_flight.values().all(|open| *open <= MAX_IN_FLIGHT), "{in_flight:?}");
    }

    /// Accepted commands that have not ended are there, however full the ledger is.
    fn check_unfinished(&mut self) {
        let there: HashMap<String, bool> = self
            .desk
            .records()
            .map(|r| (format!("{}/{}", r.device, r.number), r.finish.is_some()))
            .collect();
        for key in &self.unfinished {
            assert!(there.contains_key(key), "{key} had not ended and is gone");
        }
        self.unfinished =
            there.into_iter().filter(|(_, ended)| !ended).map(|(key, _)| key).collect();
        self.unfinished.retain(|key| self.accepted.contains(key));
    }

    /// No accepted command is missing unless it ended and made room.
    fn check_accepted(&self) {
        let there: HashSet<String> =
            self.desk.records().map(|r| format!("{}/{}", r.device, r.number)).collect();
        for key in &self.accepted {
            assert!(there.contains(key), "{key} was accepted and is gone");
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..1000) {
            0..150 => self.ask(),
            150..400 => self.commit(),
            400..600 => self.answer(),
            600..750 => self.puback(),
            750..850 => self.connect(),
            850..900 => self.disconnect(),
            900..990 => self.now += self.rng.random_range(0.0..1.5),
            990..995 => self.uplink(),
            995..997 => self.stall(),
            997..999 => self.crash(),
            _ => self.wall += self.rng.random_range(-1000.0..1000.0),
        }
        self.pump();
        self.check();
        self.check_unfinished();
    }

    /// All faults end: every command comes to its end and its result to the broker.
    fn finish(&mut self) {
        if self.stalled {
            self.stall();
        }
        if !self.uplink {
            self.uplink();
        }
        for _ in 0..2000 {
            self.now += 0.1;
            self.pump();
            for write in std::mem::take(&mut self.buffer) {
                if let Write::Record(record) = &write {
                    self.desk.persisted(record.number, record.version);
                }
                self.write(write);
            }
            self.puback();
            self.check();
        }
        assert!(self.wire.is_empty() && self.buffer.is_empty());
        for record in self.desk.records() {
            assert!(record.state().is_final(), "{record:?}");
            assert!(record.published, "{record:?}");
            assert!(self.arrived.contains(&(record.finish.unwrap(), record.number)));
        }
        assert!(self.asked.is_empty(), "everybody is answered");
        let on_disk: Vec<_> = self.disk.values().cloned().map(Arc::new).collect();
        assert_eq!(on_disk, self.desk.records().cloned().collect::<Vec<_>>());
    }
}

fn settings() -> Settings {
    Settings {
        max_count: MAX_COUNT,
        max_age: 1e9,
        max_size: 64,
        max_in_flight: MAX_IN_FLIGHT,
        default_ttl: 60,
    }
}

#[test]
fn a_thousand_commands_to_fifty_devices_that_come_and_go() {
    let (mut crashes, mut once) = (0, 0);
    let seeds = worlds(5);
    for seed in 0..seeds {
        let mut world = World::new(seed, 50);
        for _ in 0..8_000 {
            world.step();
        }
        world.finish();
        assert!(world.tickets > 1000);
        crashes += world.crashes;
        once += world.once.len();
    }
    assert!(
        u64::from(crashes) > 4 * seeds && once as u64 > 100 * seeds,
        "{crashes} crashes, {once} actuators"
    );
}

#[test]
fn few_devices_and_many_commands_keep_the_in_flight_limit() {
    for seed in 100..100 + worlds(3) {
        let mut world = World::new(seed, 3);
        for _ in 0..5_000 {
            world.step();
        }
        world.finish();
    }
}

#[test]
fn without_pressure_no_accepted_command_is_ever_missing() {
    for seed in 200..200 + worlds(3) {
        let mut world = World::new(seed, 20);
        for _ in 0..100_000 {
            world.step();
            world.check_accepted();
            // Fewer than the bound: nothing has to make room.
            if world.desk.len() + 1 >= MAX_COUNT {
                break;
            }
        }
        world.finish();
        world.check_accepted();
    }
}
