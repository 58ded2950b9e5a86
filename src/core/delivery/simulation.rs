//! A world of devices, a broker, a disk and crashes around [`Delivery`], driven by a seeded random
//! number generator; the invariants are asserted after every step.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::core::batch::{Reading, Value};
use crate::core::clock::Base;
use crate::core::worlds;

const WINDOW: usize = 8;

/// `(device, seq)`: one epoch per device is enough here, runs have tests of their own.
type Key = (usize, u64);

#[derive(Default)]
struct Device {
    session: Option<SessionId>,
    next: u64,
    acked: u64,
}

#[derive(Default)]
struct Disk {
    durable: BTreeMap<Position, Arc<Batch>>,
    /// What was ever durable.
    keys: HashSet<Key>,
    buffered: VecDeque<(Position, Arc<Batch>)>,
    load: Option<(Position, usize)>,
    released: Position,
    tail: Position,
}

#[derive(Default)]
struct Broker {
    connected: bool,
    /// On the wire, in order: delivered one by one.
    wire: VecDeque<(u64, Key)>,
    /// Delivered and not acknowledged yet.
    unacked: VecDeque<u64>,
    /// Published over this connection and not acknowledged yet.
    flying: HashMap<u64, Key>,
    log: Vec<Key>,
    has: HashSet<Key>,
}

struct World {
    rng: StdRng,
    now: f64,
    delivery: Delivery,
    settings: Settings,
    devices: Vec<Device>,
    names: Vec<DeviceId>,
    sessions: u64,
    owners: HashMap<SessionId, usize>,
    disk: Disk,
    broker: Broker,
    /// Keys of batches that the gateway told its device it refuses, or counted as lost.
    refused: HashSet<Key>,
    appends: u64,
    room: usize,
    poison: Option<Key>,
}

impl World {
    fn new(seed: u64, settings: Settings) -> Self {
        let names = (0..5).map(|n| DeviceId::new(&format!("d{n}")).unwrap()).collect();
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0.0,
            delivery: Delivery::new(settings.clone(), 0, 0, []),
            settings,
            devices: (0..5).map(|_| Device { next: 1, ..Device::default() }).collect(),
            names,
            sessions: 0,
            owners: HashMap::new(),
            disk: Disk::default(),
            broker: Broker::default(),
            refused: HashSet::new(),
            appends: 0,
            room: 6,
            poison: None,
        }
    }

    fn batch(&self, (device, seq): Key) -> Arc<Batch> {
        Arc::new(Batch {
            device: self.names[device].clone(),
            epoch: 1,
            seq: Some(seq),
            received: self.now,
            base: Base::default(),
            shift: 0.0,
            readings: vec![Reading {
                name: "t".into(),
                unit: None,
                value: Some(Value::Number(seq as f64)),
                sum: None,
                time: self.now,
                update_time: None,
                relative: false,
            }],
        })
    }

    fn key(&self, batch: &Batch) -> Key {
        let device = self.names.iter().position(|name| *name == batch.device).unwrap();
        (device, batch.seq.unwrap())
    }

    fn connect(&mut self, device: usize) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        // A second connection sometimes replaces one that is still open.
        if let Some(old) = self.devices[device].session.replace(session) {
            if self.rng.random_bool(0.5) {
                self.delivery.close(old, self.now);
            }
        }
        self.owners.insert(session, device);
        let (_, acked) = self.delivery.open(session, &self.names[device].clone(), Some(1), 99);
        self.ack(device, acked);
        // Resend what is not acknowledged, in order.
        let state = &mut self.devices[device];
        state.next = state.acked + 1;
    }

    fn ack(&mut self, device: usize, acked: u64) {
        let state = &mut self.devices[device];
        if acked <= state.acked {
            return;
        }
        for seq in state.acked + 1..=acked {
            let key = (device, seq);
            let safe = self.broker.has.contains(&key)
                || self.refused.contains(&key)
                || self.disk.keys.contains(&key);
            assert!(safe, "{key:?} was acknowledged and is nowhere");
        }
        state.acked = acked;
        state.next = state.next.max(acked + 1);
    }

    fn send(&mut self, device: usize) {
        let state = &self.devices[device];
        let Some(session) = state.session else { return };
        if state.next - state.acked > WINDOW as u64 {
            return;
        }
        let key = (device, state.next);
        let batch = self.batch(key);
        let weight = batch.weight();
        self.delivery.take(session, batch, weight, self.now);
        self.devices[device].next += 1;
    }

    /// What the engine does after every turn.
    fn turn(&mut self) {
        let busy = self.broker.wire.len() + self.broker.unacked.len();
        let room = if self.broker.connected { self.room.saturating_sub(busy) } else { 0 };
        self.delivery.pump(room, self.now);
        let actions: Vec<Action> = self.delivery.actions().collect();
        let mut published = 0;
        for action in actions {
            match action {
                Action::Publish { token, batch, .. } => {
                    assert!(self.broker.connected, "published while the uplink is down");
                    published += 1;
                    let key = self.key(&batch);
                    let twice = self.broker.flying.values().any(|flying| *flying == key);
                    assert!(!twice, "{key:?} is sent while it is in flight");
                    self.broker.flying.insert(token, key);
                    self.broker.wire.push_back((token, key));
                }
                Action::Append { position, batch } => {
                    assert_eq!(position, self.disk.tail, "positions have no gaps");
                    self.disk.tail += 1;
                    self.appends += 1;
                    self.disk.buffered.push_back((position, batch));
                }
                Action::Load { from, max_bytes } => {
                    assert!(self.disk.load.replace((from, max_bytes)).is_none(), "one at a time");
                }
                Action::Release { through } => self.release(through),
                Action::Settled { .. } | Action::Published { .. } => {}
                Action::Lost(loss) => {
                    assert_eq!(loss.reason, LossReason::Refused, "{loss:?}");
                    let device =
                        self.names.iter().position(|n| Some(n) == loss.device.as_ref()).unwrap();
                    assert!(self.refused.insert((device, loss.first_seq.unwrap())), "lost once");
                }
                Action::Reject { session, seq, .. } => {
                    let device = self.owners[&session];
                    assert!(self.refused.contains(&(device, seq.unwrap())) || seq.is_some());
                }
            }
        }
        assert!(published <= room, "more than the uplink has room for");
        let mut updates = Vec::new();
        self.delivery.updates(|update| updates.push(update));
        for update in updates {
            let device = self.owners[&update.session];
            if self.devices[device].session == Some(update.session) {
                self.ack(device, update.acked);
            }
        }
    }

    fn release(&mut self, through: Position) {
        assert!(through + 1 > self.disk.released, "release only grows");
        for position in self.disk.released..=through {
            let buffered = self.disk.buffered.iter().find(|(p, _)| *p == position);
            let batch = self.disk.durable.get(&position).or(buffered.map(|(_, batch)| batch));
            if let Some(batch) = batch {
                let key = self.key(batch);
                assert!(
                    self.broker.has.contains(&key) || self.refused.contains(&key),
                    "{key:?} released before its PUBACK"
                );
            }
            self.disk.durable.remove(&position);
        }
        self.disk.buffered.retain(|(position, _)| *position > through);
        self.disk.released = through + 1;
    }

    fn commit(&mut self) {
        let count = self.rng.random_range(0..=self.disk.buffered.len());
        let mut through = None;
        let mut written = Vec::new();
        for (position, batch) in self.disk.buffered.drain(..count) {
            written.push((position, batch));
            through = Some(position);
        }
        self.write(written);
        if let Some(through) = through {
            self.delivery.durable(through);
        }
    }

    fn write(&mut self, batches: Vec<(Position, Arc<Batch>)>) {
        for (position, batch) in batches {
            let key = self.key(&batch);
            self.disk.keys.insert(key);
            self.disk.durable.insert(position, batch);
        }
    }

    fn answer_load(&mut self) {
        let Some((from, max_bytes)) = self.disk.load.take() else { return };
        let mut bytes = 0;
        let mut next = from;
        let mut batches = Vec::new();
        for (&position, batch) in self.disk.durable.range(from..) {
            if bytes >= max_bytes.min(2000) {
                break;
            }
            bytes += batch.weight();
            next = position + 1;
            batches.push((position, batch.clone()));
        }
        self.delivery.loaded(batches, next, self.now);
    }

    /// A limit takes the oldest from the disk; the spool counts what it takes as lost.
    fn evict(&mut self) {
        let count = self.rng.random_range(0..=self.disk.durable.len().min(20));
        let Some(&through) = self.disk.durable.keys().take(count).next_back() else { return };
        for position in self.disk.released..=through {
            if let Some(batch) = self.disk.durable.remove(&position) {
                let key = self.key(&batch);
                self.refused.insert(key);
            }
        }
        self.disk.released = through + 1;
        self.delivery.evicted(through);
    }

    fn deliver(&mut self) {
        let Some((token, key)) = self.broker.wire.pop_front() else { return };
        if self.poison == Some(key) {
            self.lose_uplink(LostLink::ClosedByBroker);
            self.uplink_up(0);
            return;
        }
        if self.broker.has.insert(key) {
            self.broker.log.push(key);
        }
        self.broker.unacked.push_back(token);
    }

    fn puback(&mut self) {
        // Mostly in order, sometimes not.
        let index = if self.rng.random_bool(0.9) {
            0
        } else {
            self.rng.random_range(0..self.broker.unacked.len().max(1))
        };
        if let Some(token) = self.broker.unacked.remove(index) {
            self.broker.flying.remove(&token);
            self.delivery.published(token);
        }
    }

    fn lose_uplink(&mut self, cause: LostLink) {
        if std::mem::take(&mut self.broker.connected) {
            self.broker.wire.clear();
            self.broker.unacked.clear();
            self.broker.flying.clear();
            self.delivery.uplink_down(cause, self.now);
        }
    }

    fn uplink_up(&mut self, failed_attempts: u32) {
        if !std::mem::replace(&mut self.broker.connected, true) {
            self.delivery.uplink_up(failed_attempts, self.now);
        }
    }

    fn crash(&mut self) {
        // Some of what was on its way to the disk has reached it, but nobody was told.
        let count = self.rng.random_range(0..=self.disk.buffered.len());
        let reached: Vec<_> = self.disk.buffered.drain(..count).collect();
        self.write(reached);
        self.disk.buffered.clear();
        self.disk.load = None;
        let head = self.disk.durable.keys().next().copied().unwrap_or(self.disk.released);
        let tail = self.disk.durable.keys().next_back().map_or(head, |last| last + 1);
        self.disk.tail = tail;
        self.disk.released = head;
        let mut last = BTreeMap::new();
        for batch in self.disk.durable.values() {
            last.insert(batch.device.clone(), batch.seq.unwrap());
        }
        let progress = last.into_iter().map(|(device, seq)| (device, 1, seq));
        self.delivery = Delivery::new(self.settings.clone(), head, tail, progress);
        self.broker.connected = false;
        self.broker.wire.clear();
        self.broker.unacked.clear();
        self.broker.flying.clear();
        for device in &mut self.devices {
            device.session = None;
        }
    }

    fn step(&mut self, faults: bool) {
        self.now += 0.01;
        let device = self.rng.random_range(0..self.devices.len());
        match self.rng.random_range(0..1000) {
            0..300 => self.send(device),
            300..500 => self.deliver(),
            500..700 => self.puback(),
            700..850 => self.commit(),
            850..950 => self.answer_load(),
            950..960 if self.devices[device].session.is_none() => self.connect(device),
            960..970 if faults => {
                if let Some(session) = self.devices[device].session.take() {
                    self.delivery.close(session, self.now);
                }
            }
            970..973 if faults => self.connect(device),
            973..983 if faults => self.lose_uplink(LostLink::Silent),
            983..995 => self.uplink_up(u32::from(faults)),
            995..996 if faults => self.crash(),
            996..997 if faults => self.evict(),
            _ => {}
        }
        self.turn();
    }

    /// Faults end; everything that was acknowledged must arrive and fresh batches must pass.
    fn finish(&mut self) {
        for device in 0..self.devices.len() {
            self.connect(device);
        }
        for _ in 0..20_000 {
            self.step(false);
        }
        for _ in 0..100_000 {
            if self.delivery.is_settled() && self.disk.durable.is_empty() {
                break;
            }
            self.now += 1.0;
            self.uplink_up(0);
            self.deliver();
            self.puback();
            let all = self.disk.buffered.drain(..).collect::<Vec<_>>();
            let through = all.last().map(|(position, _)| *position);
            self.write(all);
            if let Some(through) = through {
                self.delivery.durable(through);
            }
            self.answer_load();
            self.turn();
        }
        assert!(self.delivery.runs.all_settled(), "every batch settles");
        assert!(self.delivery.is_settled());
        assert!(self.delivery.is_direct(), "a drained spool lets batches go straight out");
        assert!(self.disk.durable.is_empty(), "a drained spool is empty");
        for (device, state) in self.devices.iter().enumerate() {
            assert_eq!(state.acked + 1, state.next, "device {device} is acknowledged");
            for seq in 1..=state.acked {
                let key = (device, seq);
                assert!(
                    self.broker.has.contains(&key) || self.refused.contains(&key),
                    "{key:?} was acknowledged and never arrived"
                );
            }
        }
    }

    /// Per device, the first arrivals are in the order of their numbers.
    fn assert_order(&self) {
        let mut last = vec![0; self.devices.len()];
        for &(device, seq) in &self.broker.log {
            assert!(seq > last[device], "{seq} of {device} after {}", last[device]);
            last[device] = seq;
        }
    }
}

fn settings() -> Settings {
    Settings {
        live_bytes: 4_000,
        patience: 0.5,
        load_bytes: 3_000,
        live_first: false,
        drain_rate: 0.0,
        max_idle_runs: 100,
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_order_holds_through_outages_and_crashes() {
    for seed in 0..worlds(60) {
        let mut world = World::new(seed, settings());
        for _ in 0..40_000 {
            world.step(true);
        }
        world.finish();
        world.assert_order();
    }
}

#[test]
fn live_first_loses_nothing_either() {
    for seed in 0..worlds(20) {
        let mut world = World::new(seed, Settings { live_first: true, ..settings() });
        for _ in 0..30_000 {
            world.step(true);
        }
        world.finish();
    }
}

#[test]
fn a_drain_rate_caps_the_drain_and_loses_nothing() {
    for seed in 0..worlds(10) {
        let mut world = World::new(seed, Settings { drain_rate: 50.0, ..settings() });
        for _ in 0..30_000 {
            world.step(true);
        }
        world.finish();
        world.assert_order();
    }
}

#[test]
fn while_the_uplink_keeps_pace_nothing_touches_the_disk() {
    let mut world = World::new(1, settings());
    world.uplink_up(0);
    for device in 0..5 {
        world.connect(device);
    }
    for _ in 0..50_000 {
        for _ in 0..3 {
            world.deliver();
            world.puback();
        }
        let device = world.rng.random_range(0..5);
        world.send(device);
        world.now += 0.001;
        world.turn();
    }
    assert_eq!(world.appends, 0);
    assert!(world.broker.log.len() > 40_000);
}

#[test]
fn a_batch_on_which_the_broker_hangs_up_is_refused_and_the_rest_flows_on() {
    let mut world = World::new(2, settings());
    world.poison = Some((2, 5));
    world.uplink_up(0);
    for device in 0..5 {
        world.connect(device);
    }
    for _ in 0..20_000 {
        world.step(false);
    }
    world.now += 100.0;
    world.finish();
    world.assert_order();
    assert_eq!(world.refused, HashSet::from([(2, 5)]));
}

#[test]
fn the_uplink_too_slow_for_the_inflow_spools_and_catches_up() {
    let mut world = World::new(3, settings());
    world.room = 1;
    world.uplink_up(0);
    for device in 0..5 {
        world.connect(device);
    }
    for _ in 0..2_000 {
        for device in 0..5 {
            world.send(device);
        }
        world.commit();
        world.now += 0.1;
        world.turn();
    }
    assert!(world.appends > 1_000, "{}", world.appends);
    world.room = 6;
    world.finish();
    world.assert_order();
}
