//! The table of devices and their latest readings.
//!
//! The ingest thread writes it, the dashboard's thread reads it. Writing costs ingestion one look
//! in the table and one short lock of the device's own slot, allocates nothing once a reading's
//! name is known, and wakes nobody: while there are viewers, a slot that changes is put on a list
//! once, and the dashboard collects that list several times a second.
//!
//! Locks are taken in the order table, slot, list; never the other way round.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::history::Memory;
use super::refusals::{Refusals, Register};
use super::slot::{Room, Slot, State};
use crate::core::batch::Batch;
use crate::core::ids::DeviceId;
use crate::ports::{DeviceFacts, Feed, Refused, lock};

/// What the table holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Devices. Beyond, the one that has been away longest goes; while all are connected, a new
    /// one is not shown.
    pub devices: usize,
    /// Names of readings per device. Beyond, a new name is not shown.
    pub names: usize,
    /// Readings of all devices together. Beyond, a new name is not shown.
    pub readings: usize,
    /// Bytes of a text or data value. Of a longer one the beginning is shown.
    pub value: usize,
    /// Different refusals of all devices together. Beyond, the oldest goes.
    pub refusals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { devices: 100_000, names: 256, readings: 500_000, value: 1024, refusals: 8192 }
    }
}

/// The devices seen since the start, with their latest readings, and those of the registry. Give it
/// to the engine and the listener as their [`Feed`] and to the dashboard to show.
#[derive(Debug, Default)]
pub struct Fleet {
    limits: Limits,
    table: RwLock<HashMap<DeviceId, Arc<Slot>>>,
    connected: AtomicUsize,
    readings: AtomicUsize,
    /// Whether changes are listed.
    watched: AtomicBool,
    changed: Mutex<Vec<Arc<Slot>>>,
    /// Who went away, oldest first, each with its count of departures at that time. An entry is
    /// stale once the device has come back.
    away: Mutex<VecDeque<(Arc<Slot>, u64)>>,
    refusals: Register,
    /// What the histories of all readings are kept in.
    memory: Arc<Memory>,
}

impl Fleet {
    /// An empty table with the usual limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The same with `bytes` for the histories of all readings together instead of 8 MiB; with 0
    /// there is no history.
    #[must_use]
    pub fn with_history(self, bytes: usize) -> Self {
        Self { memory: Arc::new(Memory::new(bytes)), ..self }
    }

    /// How many devices are connected.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many devices the table knows.
    pub fn known(&self) -> usize {
        self.read().len()
    }

    /// How many devices it holds at most.
    pub(super) fn max_devices(&self) -> usize {
        self.limits.devices
    }

    /// The slot of one device.
    pub(super) fn slot(&self, device: &str) -> Option<Arc<Slot>> {
        self.read().get(device).cloned()
    }

    /// All slots, sorted by device.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        let mut slots = self.unsorted();
        slots.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        slots
    }

    /// All slots, in no order.
    pub(super) fn unsorted(&self) -> Vec<Arc<Slot>> {
        self.read().values().cloned().collect()
    }

    /// What the histories are kept in.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The slot of a device of which something was kept from before a restart, shown as away since
    /// `last_seen` unless it is here; none where there is no room for it. Those seen last must
    /// come last.
    pub(super) fn restore(&self, device: &DeviceId, last_seen: f64) -> Option<Arc<Slot>> {
        let slot = match self.slot(device.as_str()) {
            Some(slot) => slot,
            None if self.known() >= self.limits.devices => return None,
            None => self.insert(device),
        };
        let mut state = self.change(&slot);
        if state.since().is_some() {
            drop(state);
            return Some(slot);
        }
        slot.saw(last_seen);
        state.depart(last_seen);
        self.list(&slot, &mut state);
        let departures = state.departures;
        drop(state);
        self.note_away(Arc::clone(&slot), departures);
        Some(slot)
    }

    /// Whether another name may be added to `slot`, and what it may take.
    pub(super) fn room(&self) -> Room {
        Room {
            names: self.limits.names,
            value: self.limits.value,
            more: self.readings.load(Ordering::Relaxed) < self.limits.readings,
        }
    }

    /// A name was added.
    pub(super) fn count_names(&self, added: usize) {
        self.readings.fetch_add(added, Ordering::Relaxed);
    }

    /// From now on changes are listed, or no longer. Whoever turns this on reads the slots after.
    pub(super) fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Moves the slots that changed since the last call into `into` (which it empties first) and
    /// stamps them with `version`. Keeps the list's memory for the next round.
    pub(super) fn collect(&self, version: u64, into: &mut Vec<Arc<Slot>>) {
        into.clear();
        std::mem::swap(into, &mut *lock(&self.changed));
        for slot in into {
            lock(&slot.state).stamp(version);
        }
    }

    /// Locks the slot to change it. Whether anyone watches is looked up after the lock is taken:
    /// so whoever starts to watch and then reads the slot either sees the change or finds it listed.
    fn change<'a>(&self, slot: &'a Slot) -> MutexGuard<'a, State> {
        let mut state = lock(&slot.state);
        state.watched = self.watched.load(Ordering::Relaxed);
        state
    }

    /// Puts the changed slot on the list, if anyone watches.
    fn list(&self, slot: &Arc<Slot>, state: &mut State) {
        if state.watched && !state.queued {
            state.queued = true;
            lock(&self.changed).push(Arc::clone(slot));
        }
    }

    /// The slot of a device that has connected, made if there is room for it.
    fn admit(&self, device: &DeviceId) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slot(device.as_str()) {
            return Some(slot);
        }
        if self.known() >= self.limits.devices {
            self.forget_one()?;
        }
        Some(self.insert(device))
    }

    fn insert(&self, device: &DeviceId) -> Arc<Slot> {
        // What is kept from before a restart is put in by another thread.
        let mut table = self.write();
        let slot = table.entry(device.clone());
        Arc::clone(slot.or_insert_with(|| Arc::new(Slot::new(device.clone(), &self.memory))))
    }

    /// Shows a device of the registry. One that never came counts as away from now on.
    pub(super) fn expect(&self, device: &DeviceId) {
        if let Some(slot) = self.slot(device.as_str()) {
            lock(&slot.state).unlisted = false;
            return;
        }
        if self.known() >= self.limits.devices {
            return;
        }
        let slot = self.insert(device);
        let mut state = self.change(&slot);
        state.touched = state.watched;
        self.list(&slot, &mut state);
        let departures = state.departures;
        drop(state);
        self.note_away(slot, departures);
    }

    /// Removes a device that is not in the registry any more, now or when its connection ends.
    pub(super) fn expect_no_more(&self, slot: &Arc<Slot>) {
        let mut state = self.change(slot);
        if state.connected {
            state.unlisted = true;
        } else if !state.forgotten {
            self.forget(slot, state);
        }
    }

    /// Removes the device that has been away longest, if one is.
    fn forget_one(&self) -> Option<()> {
        loop {
            let (slot, departures) = lock(&self.away).pop_front()?;
            let state = self.change(&slot);
            if state.connected || state.forgotten || state.departures != departures {
                continue;
            }
            self.forget(&slot, state);
            return Some(());
        }
    }

    fn forget(&self, slot: &Arc<Slot>, mut state: MutexGuard<'_, State>) {
        state.forgotten = true;
        state.touched = state.watched;
        self.readings.fetch_sub(state.readings.len(), Ordering::Relaxed);
        state.readings = Vec::new();
        state.refusals = Refusals::default();
        self.list(slot, &mut state);
        drop(state);
        self.write().remove(slot.id.as_str());
    }

    /// Notes that `slot` went away; throws out stale entries once they are the majority.
    fn note_away(&self, slot: Arc<Slot>, departures: u64) {
        let mut away = lock(&self.away);
        away.push_back((slot, departures));
        if away.len() > 64 + 2 * self.limits.devices.min(self.known()) {
            away.retain(|(slot, departures)| {
                let state = lock(&slot.state);
                !state.connected && state.departures == *departures && !state.forgotten
            });
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<DeviceId, Arc<Slot>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<DeviceId, Arc<Slot>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed for Fleet {
    fn readings(&self, batch: &Arc<Batch>) {
        let table = self.read();
        // Not in the table: it was full when the device came.
        let Some(slot) = table.get(&batch.device) else { return };
        slot.saw(batch.received);
        let mut state = self.change(slot);
        state.traffic.take(batch);
        let room = self.room();
        let added = batch
            .readings
            .iter()
            .filter(|reading| state.take(reading, batch.received, room))
            .count();
        if added > 0 {
            self.count_names(added);
        }
        self.list(slot, &mut state);
    }

    fn device_up(&self, device: &DeviceId, facts: &DeviceFacts) {
        let Some(slot) = self.admit(device) else { return };
        slot.saw(facts.since);
        let mut state = self.change(&slot);
        if !state.connected {
            self.connected.fetch_add(1, Ordering::Relaxed);
        }
        state.arrive(facts);
        self.list(&slot, &mut state);
    }

    fn device_down(&self, device: &DeviceId, time: f64) {
        let Some(slot) = self.slot(device.as_str()) else { return };
        let mut state = self.change(&slot);
        if !state.connected {
            return;
        }
        self.connected.fetch_sub(1, Ordering::Relaxed);
        state.depart(time);
        if state.unlisted {
            return self.forget(&slot, state);
        }
        self.list(&slot, &mut state);
        let departures = state.departures;
        drop(state);
        self.note_away(slot, departures);
    }

    fn device_seen(&self, device: &DeviceId, time: f64) {
        if let Some(slot) = self.read().get(device) {
            slot.saw(time);
        }
    }

    fn device_opened(&self, device: &DeviceId, epoch: u64, acked: u64) {
        if let Some(slot) = self.read().get(device) {
            lock(&slot.state).traffic.open(epoch, acked);
        }
    }

    fn irregular(&self, device: &DeviceId, gaps: u64, duplicates: u64) {
        if let Some(slot) = self.read().get(device) {
            let traffic = &mut lock(&slot.state).traffic;
            traffic.gaps += gaps;
            traffic.duplicates += duplicates;
        }
    }

    fn round_trip(&self, device: &DeviceId, seconds: f64) {
        #[allow(clippy::cast_possible_truncation, reason = "seven digits of a duration are enough")]
        let seconds = seconds as f32;
        if let Some(slot) = self.read().get(device) {
            lock(&slot.state).traffic.round_trip = Some(seconds);
        }
    }

    /// Only of devices in the table: who has no place in it gets none by being refused.
    fn refused(&self, device: &DeviceId, refused: &Refused<'_>) {
        if let Some(slot) = self.slot(device.as_str()) {
            self.refusals.note(&slot, refused, self.limits.refusals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::batch::{Reading, Value};
    use crate::core::clock::Base;

    fn id(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn facts(since: f64) -> DeviceFacts {
        DeviceFacts { since, ..DeviceFacts::default() }
    }

    fn batch(device: &str, name: &str, value: f64, time: f64) -> Arc<Batch> {
        let reading = Reading {
            name: name.into(),
            unit: None,
            value: Some(Value::Number(value)),
            sum: None,
            time,
            update_time: None,
            relative: false,
        };
        let device = id(device);
        Arc::new(Batch {
            device,
            epoch: 1,
            seq: None,
            received: time,
            base: Base::default(),
            shift: 0.0,
            readings: vec![reading],
        })
    }

    fn ids(fleet: &Fleet) -> Vec<String> {
        fleet.slots().iter().map(|slot| slot.id.to_string()).collect()
    }

    #[test]
    fn the_device_that_has_been_away_longest_makes_room() {
        let fleet = Fleet::with_limits(Limits { devices: 3, ..Limits::default() });
        for name in ["a", "b", "c"] {
            fleet.device_up(&id(name), &facts(1.0));
        }
        fleet.readings(&batch("b", "x", 1.0, 1.0));
        // a left first but came back; b has been away longest.
        for (name, time) in [("a", 2.0), ("b", 3.0), ("c", 4.0)] {
            fleet.device_down(&id(name), time);
        }
        fleet.device_up(&id("a"), &facts(5.0));
        fleet.device_up(&id("d"), &facts(6.0));
        assert_eq!(ids(&fleet), ["a", "c", "d"]);
        assert_eq!(fleet.connected(), 2);
        assert_eq!(fleet.readings.load(Ordering::Relaxed), 0, "b's reading is given back");
        fleet.device_up(&id("e"), &facts(7.0));
        assert_eq!(ids(&fleet), ["a", "d", "e"]);
    }

    #[test]
    fn while_all_are_connected_a_device_too_many_is_not_shown() {
        let fleet = Fleet::with_limits(Limits { devices: 1, ..Limits::default() });
        fleet.device_up(&id("a"), &facts(1.0));
        fleet.device_up(&id("b"), &facts(1.0));
        fleet.readings(&batch("b", "x", 1.0, 1.0));
        fleet.device_seen(&id("b"), 2.0);
        fleet.device_down(&id("b"), 2.0);
        assert_eq!(ids(&fleet), ["a"]);
        assert_eq!(fleet.connected(), 1);
    }

    #[test]
    fn the_waiting_list_stays_bounded_while_a_device_comes_and_goes() {
        let fleet = Fleet::with_limits(Limits { devices: 2, ..Limits::default() });
        for round in 0..1000 {
            fleet.device_up(&id("a"), &facts(f64::from(round)));
            fleet.device_down(&id("a"), f64::from(round));
        }
        assert!(lock(&fleet.away).len() <= 70);
    }

    #[test]
    fn readings_of_all_devices_together_are_bounded() {
        let fleet = Fleet::with_limits(Limits { readings: 2, ..Limits::default() });
        fleet.device_up(&id("a"), &facts(1.0));
        for name in ["x", "y", "z"] {
            fleet.readings(&batch("a", name, 1.0, 1.0));
        }
        let slot = fleet.slot("a").unwrap();
        let state = lock(&slot.state);
        assert_eq!(state.readings.len(), 2);
        assert!(state.incomplete);
    }

    #[test]
    fn only_a_watched_fleet_lists_changes_and_each_slot_once() {
        let fleet = Fleet::new();
        fleet.device_up(&id("a"), &facts(1.0));
        let mut changed = Vec::new();
        fleet.collect(1, &mut changed);
        assert!(changed.is_empty());
        fleet.watch(true);
        for value in 0..10 {
            fleet.readings(&batch("a", "x", f64::from(value), 1.0));
        }
        fleet.collect(2, &mut changed);
        assert_eq!(changed.len(), 1);
        assert_eq!(lock(&changed[0].state).version, 2);
        fleet.collect(3, &mut changed);
        assert!(changed.is_empty());
    }

    fn refuse(fleet: &Fleet, device: &str, code: u64) {
        let kind = crate::ports::RefusedKind::Connection;
        fleet.refused(&id(device), &Refused { kind, code, reason: "why", time: 1.0 });
    }

    #[test]
    fn who_is_not_in_the_table_gets_no_place_by_being_refused() {
        let fleet = Fleet::new();
        fleet.expect(&id("a"));
        for device in ["a", "stranger"] {
            refuse(&fleet, device, 401);
            fleet.irregular(&id(device), 1, 1);
            fleet.round_trip(&id(device), 0.1);
            fleet.device_opened(&id(device), 7, 1);
        }
        assert_eq!(ids(&fleet), ["a"]);
        assert_eq!(fleet.refusals.len(), 1);
    }

    #[test]
    fn an_expected_device_makes_room_for_one_that_comes_and_takes_none() {
        let fleet = Fleet::with_limits(Limits { devices: 2, ..Limits::default() });
        for name in ["a", "b", "c"] {
            fleet.expect(&id(name));
        }
        assert_eq!((ids(&fleet), fleet.connected()), (vec!["a".to_owned(), "b".into()], 0));
        fleet.device_up(&id("d"), &facts(1.0));
        assert_eq!(ids(&fleet), ["b", "d"], "the one that was expected first goes");
        fleet.device_up(&id("b"), &facts(1.0));
        fleet.expect(&id("a"));
        assert_eq!(ids(&fleet), ["b", "d"]);
    }

    #[test]
    fn a_device_that_is_expected_no_more_goes_once_it_is_away() {
        let fleet = Fleet::new();
        for name in ["never", "away", "here", "stays"] {
            fleet.expect(&id(name));
        }
        for name in ["away", "here", "stays"] {
            fleet.device_up(&id(name), &facts(1.0));
            fleet.readings(&batch(name, "x", 1.0, 1.0));
        }
        fleet.device_down(&id("away"), 2.0);
        refuse(&fleet, "away", 4003);
        for name in ["never", "away", "here", "stays"] {
            fleet.expect_no_more(&fleet.slot(name).unwrap());
        }
        assert_eq!(ids(&fleet), ["here", "stays"]);
        assert_eq!(fleet.readings.load(Ordering::Relaxed), 2);
        fleet.expect(&id("stays"));
        for name in ["here", "stays"] {
            fleet.device_down(&id(name), 3.0);
        }
        assert_eq!(ids(&fleet), ["stays"], "it was listed again in time");
        assert_eq!(fleet.readings.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_that_went_from_the_registry_and_came_back_is_not_taken_for_its_old_self() {
        let fleet = Fleet::with_limits(Limits { devices: 1, ..Limits::default() });
        fleet.expect(&id("a"));
        fleet.expect_no_more(&fleet.slot("a").unwrap());
        fleet.device_up(&id("a"), &facts(1.0));
        fleet.device_up(&id("b"), &facts(1.0));
        assert_eq!(ids(&fleet), ["a"], "the stale entry of its first life makes no room");
        assert_eq!(fleet.connected(), 1);
    }

    #[test]
    fn a_connection_that_is_replaced_is_counted_once() {
        let fleet = Fleet::new();
        fleet.device_up(&id("a"), &facts(1.0));
        fleet.device_up(&id("a"), &facts(2.0));
        assert_eq!(fleet.connected(), 1);
        fleet.device_down(&id("a"), 3.0);
        fleet.device_down(&id("a"), 4.0);
        assert_eq!(fleet.connected(), 0);
        assert!((lock(&fleet.slot("a").unwrap().state).since - 3.0).abs() < f64::EPSILON);
    }
}
