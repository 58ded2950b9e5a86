//! What is known of one device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use compact_str::CompactString;

use super::history::{Memory, Series};
use super::refusals::Refusals;
use super::traffic::Traffic;
use crate::core::batch::{Reading, Value};
use crate::core::ids::DeviceId;
use crate::ports::DeviceFacts;

/// A latest reading that lies further ahead of the clock than this, in seconds, came from a clock
/// that was wrong; it must not keep newer ones out.
const AHEAD_MAX: f64 = 60.0;

/// Longest text, in bytes, that is kept of a device's model, firmware or address.
const FACT_MAX: usize = 256;

/// One device of the table. Shared between the table, the list of changes and the viewers, so
/// that none of them holds the table while it works.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: DeviceId,
    /// Unix time in seconds, as bits: written far more often than read, and without the lock. Not a
    /// number before the device was first seen.
    last_seen: AtomicU64,
    pub(super) state: Mutex<State>,
}

/// The part of a [`Slot`] that changes together.
#[allow(clippy::struct_excessive_bools)] // Independent facts, not the states of one machine.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) connected: bool,
    /// See [`Self::since()`].
    pub(super) since: f64,
    pub(super) model: Option<String>,
    pub(super) firmware: Option<String>,
    pub(super) address: Option<String>,
    /// The commands it announced.
    pub(super) commands: Box<[CompactString]>,
    pub(super) traffic: Traffic,
    pub(super) refusals: Refusals,
    /// Sorted by name.
    pub(super) readings: Vec<Latest>,
    /// Where the next reading is likely to belong: devices repeat their order.
    hint: usize,
    /// Some names did not fit.
    pub(super) incomplete: bool,
    /// No longer in the registry; it goes from the table when its connection ends.
    pub(super) unlisted: bool,
    /// No longer in the table.
    pub(super) forgotten: bool,
    /// Whether changes are noted for viewers; set by whoever takes the lock to change something.
    pub(super) watched: bool,
    /// Whether the slot stands in the list of changes.
    pub(super) queued: bool,
    /// Something besides the readings has changed since the last tick.
    pub(super) touched: bool,
    /// The tick that last found a change of anything.
    pub(super) version: u64,
    /// The tick that last found a change besides the readings.
    pub(super) facts_version: u64,
    /// How often the device has gone away: tells a stale entry of the waiting list from a true one.
    pub(super) departures: u64,
    /// What histories are kept in; none where there are none.
    memory: Option<Arc<Memory>>,
}

/// The newest reading of one name.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) name: CompactString,
    pub(super) unit: Option<CompactString>,
    pub(super) value: Option<Value>,
    pub(super) sum: Option<f64>,
    pub(super) time: f64,
    /// Length in bytes of a text or data value of which only the beginning is kept.
    pub(super) full_length: Option<usize>,
    /// Changed since the last tick.
    pub(super) fresh: bool,
    /// The tick that last found a change.
    pub(super) version: u64,
    /// What it was before.
    pub(super) history: Series,
}

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Names of this device.
    pub(super) names: usize,
    /// Bytes of a text or data value.
    pub(super) value: usize,
    /// Whether the table as a whole may grow by another reading.
    pub(super) more: bool,
}

impl Slot {
    pub(super) fn new(id: DeviceId, memory: &Arc<Memory>) -> Self {
        let memory = memory.is_on().then(|| Arc::clone(memory));
        let state = Mutex::new(State { memory, ..State::default() });
        Self { id, last_seen: AtomicU64::new(f64::NAN.to_bits()), state }
    }

    /// Something arrived from the device at `time`.
    pub(super) fn saw(&self, time: f64) {
        self.last_seen.store(time.to_bits(), Ordering::Relaxed);
    }

    /// Unix time in seconds; `None`: never.
    pub(super) fn last_seen(&self) -> Option<f64> {
        let time = f64::from_bits(self.last_seen.load(Ordering::Relaxed));
        (!time.is_nan()).then_some(time)
    }
}

impl State {
    /// The device has said HELLO.
    pub(super) fn arrive(&mut self, facts: &DeviceFacts) {
        self.connected = true;
        self.since = facts.since;
        self.model = facts.model.as_deref().map(cut);
        self.firmware = facts.firmware.as_deref().map(cut);
        self.address = (!facts.address.is_empty()).then(|| cut(&facts.address));
        self.commands = facts.commands.iter().map(CompactString::from).collect();
        self.traffic.begin();
        self.touched = self.watched;
    }

    /// Since when it is connected, or has been away: Unix time in seconds; `None`: it never came.
    pub(super) fn since(&self) -> Option<f64> {
        (self.connected || self.departures > 0).then_some(self.since)
    }

    /// The device has gone.
    pub(super) fn depart(&mut self, time: f64) {
        self.connected = false;
        self.since = time;
        self.departures += 1;
        self.touched = self.watched;
    }

    /// Takes `reading`, received at `now`, if it is not older than what is known. Returns whether a
    /// new name was added.
    pub(super) fn take(&mut self, reading: &Reading, now: f64, room: Room) -> bool {
        let name = reading.name.as_str();
        let guess = self.readings.get(self.hint).is_some_and(|latest| latest.name == name);
        let place = if guess {
            Ok(self.hint)
        } else {
            self.readings.binary_search_by(|latest| latest.name.as_str().cmp(name))
        };
        let (at, added) = match place {
            Ok(at) => (at, false),
            Err(_) if self.readings.len() >= room.names || !room.more => {
                if !self.incomplete {
                    self.incomplete = true;
                    self.touched = self.watched;
                }
                return false;
            }
            Err(at) => {
                self.readings.insert(at, Latest::new(reading.name.clone()));
                (at, true)
            }
        };
        self.hint = if at + 1 < self.readings.len() { at + 1 } else { 0 };
        if let Some(latest) = self.readings.get_mut(at) {
            latest.fresh |= latest.take(reading, now, room.value) && self.watched;
            if let Some(memory) = &self.memory {
                latest.history.record(reading, now, memory);
            }
        }
        added
    }

    /// What is known of the name.
    pub(super) fn latest_mut(&mut self, name: &str) -> Option<&mut Latest> {
        let place = self.readings.binary_search_by(|latest| latest.name.as_str().cmp(name)).ok()?;
        self.readings.get_mut(place)
    }

    /// Puts in the newest reading of a name that nothing is known of yet: from before a restart.
    /// Returns whether a new name was added.
    pub(super) fn restore(
        &mut self,
        name: &CompactString,
        (unit, value, time): (Option<CompactString>, Option<Value>, f64),
        room: Room,
    ) -> bool {
        let search = self.readings.binary_search_by(|latest| latest.name.cmp(name));
        let Err(at) = search else { return false };
        if self.readings.len() >= room.names || !room.more {
            return false;
        }
        let latest = Latest { unit, value, time, ..Latest::new(name.clone()) };
        self.readings.insert(at, latest);
        self.touched = self.watched;
        true
    }

    /// A tick has come: what changed since the last one belongs to `version` from now on.
    pub(super) fn stamp(&mut self, version: u64) {
        self.queued = false;
        self.version = version;
        if std::mem::take(&mut self.touched) {
            self.facts_version = version;
        }
        for latest in &mut self.readings {
            if std::mem::take(&mut latest.fresh) {
                latest.version = version;
            }
        }
    }
}

impl Latest {
    fn new(name: CompactString) -> Self {
        Self {
            name,
            unit: None,
            value: None,
            sum: None,
            time: f64::NEG_INFINITY,
            full_length: None,
            fresh: false,
            version: 0,
            history: Series::default(),
        }
    }

    /// Returns whether it took the reading. In the steady state (same unit, same kind of value)
    /// this allocates nothing.
    fn take(&mut self, reading: &Reading, now: f64, value_max: usize) -> bool {
        // A late reading is history, not the latest value.
        if reading.time < self.time && self.time <= now + AHEAD_MAX {
            return false;
        }
        self.time = reading.time;
        self.sum = reading.sum;
        if self.unit != reading.unit {
            self.unit.clone_from(&reading.unit);
        }
        self.full_length = None;
        match (&mut self.value, &reading.value) {
            (Some(Value::Number(mine)), Some(Value::Number(new))) => *mine = *new,
            (Some(Value::Text(mine)), Some(Value::Text(new))) => {
                let kept = beginning(new, value_max);
                mine.clear();
                mine.push_str(kept);
                self.full_length = (kept.len() < new.len()).then_some(new.len());
            }
            (mine, Some(Value::Text(new))) => {
                let kept = beginning(new, value_max);
                *mine = Some(Value::Text(kept.into()));
                self.full_length = (kept.len() < new.len()).then_some(new.len());
            }
            (mine, Some(Value::Data(new))) => {
                let kept = new.get(..value_max).unwrap_or(new);
                match mine {
                    Some(Value::Data(old)) if old.len() == kept.len() => old.copy_from_slice(kept),
                    _ => *mine = Some(Value::Data(kept.into())),
                }
                self.full_length = (kept.len() < new.len()).then_some(new.len());
            }
            (mine, new) => mine.clone_from(new),
        }
        true
    }
}

fn cut(text: &str) -> String {
    beginning(text, FACT_MAX).to_owned()
}

/// At most `max` bytes of `text`, whole characters.
pub(super) fn beginning(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { names: 3, value: 8, more: true };

    fn reading(name: &str, value: Value, time: f64) -> Reading {
        Reading {
            name: name.into(),
            unit: Some("Cel".into()),
            value: Some(value),
            sum: None,
            time,
            update_time: None,
            relative: false,
        }
    }

    fn value(state: &State, name: &str) -> Option<Value> {
        state.readings.iter().find(|latest| latest.name == name)?.value.clone()
    }

    #[test]
    fn a_late_reading_does_not_replace_a_newer_one() {
        let mut state = State::default();
        state.take(&reading("t", Value::Number(2.0), 20.0), 20.0, ROOM);
        state.take(&reading("t", Value::Number(1.0), 10.0), 21.0, ROOM);
        assert_eq!(value(&state, "t"), Some(Value::Number(2.0)));
        state.take(&reading("t", Value::Number(3.0), 20.0), 20.0, ROOM);
        assert_eq!(
            value(&state, "t"),
            Some(Value::Number(3.0)),
            "of the same time the last counts"
        );
    }

    #[test]
    fn a_reading_from_a_clock_that_ran_ahead_does_not_keep_newer_ones_out() {
        let mut state = State::default();
        state.take(&reading("t", Value::Number(1.0), 90_000.0), 90_000.0, ROOM);
        state.take(&reading("t", Value::Number(2.0), 3600.0), 3600.0, ROOM);
        assert_eq!(value(&state, "t"), Some(Value::Number(2.0)));
    }

    #[test]
    fn names_stay_sorted_in_whatever_order_they_come() {
        let mut state = State::default();
        for name in ["c", "a", "b", "a", "c", "b", "b"] {
            state.take(&reading(name, Value::Text(name.into()), 1.0), 1.0, ROOM);
        }
        let names: Vec<_> = state.readings.iter().map(|latest| latest.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for name in names {
            assert_eq!(value(&state, name), Some(Value::Text(name.into())));
        }
    }

    #[test]
    fn a_name_too_many_is_left_out_and_said_to_be() {
        let mut state = State::default();
        for name in ["a", "b", "c"] {
            assert!(state.take(&reading(name, Value::Bool(true), 1.0), 1.0, ROOM));
        }
        assert!(!state.incomplete);
        assert!(!state.take(&reading("d", Value::Bool(true), 1.0), 1.0, ROOM));
        assert!(state.incomplete);
        assert!(!state.take(&reading("a", Value::Bool(false), 2.0), 2.0, ROOM));
        assert_eq!(value(&state, "a"), Some(Value::Bool(false)), "known names go on");
    }

    #[test]
    fn a_long_value_is_kept_to_whole_characters_and_its_length_told() {
        let mut state = State::default();
        for _ in 0..2 {
            state.take(&reading("s", Value::Text("1234567ü".into()), 1.0), 1.0, ROOM);
            assert_eq!(value(&state, "s"), Some(Value::Text("1234567".into())));
            assert_eq!(state.readings[0].full_length, Some(9));
        }
        state.take(&reading("s", Value::Data(Box::new([7; 20])), 1.0), 1.0, ROOM);
        assert_eq!(value(&state, "s"), Some(Value::Data(Box::new([7; 8]))));
        assert_eq!(state.readings[0].full_length, Some(20));
        state.take(&reading("s", Value::Text("short".into()), 2.0), 2.0, ROOM);
        assert_eq!(value(&state, "s"), Some(Value::Text("short".into())));
        assert_eq!(state.readings[0].full_length, None);
    }
}
