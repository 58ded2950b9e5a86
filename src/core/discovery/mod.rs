//! What Home Assistant is told about devices and their readings (MQTT discovery).
//!
//! [`Discovery`] is a table of all (device, reading) that were seen, each with what must be known to
//! announce it. Messages are made when their turn comes, so what waits costs a flag and not a text.
//!
//! - A known reading costs 12 to 30 ns.
//! - Every reading is announced once, again when its unit or type changes or the device names
//!   another model or firmware, and all of them again after each connection to a broker: it may
//!   have lost what it was to keep.
//! - At most [`PER_TENTH`] messages leave in a tenth of a second, and [`MAX_UNDER_WAY`] are under way.
//! - The table holds [`MAX_ENTITIES`] (a device takes a place too), [`MAX_PER_DEVICE`] of one
//!   device. What comes beyond is not announced; [`Discovery::take_left_out`] says so.
//! - A reading that changes its type or unit again and again is left as it is after
//!   [`MAX_CHANGES`] changes, until the next connection.
//! - A device is known from its HELLO on; what was announced of one that is removed is cleared.

mod message;
mod units;

use std::collections::{HashMap, VecDeque};

use compact_str::CompactString;

use self::message::{Owner, Writer};
use super::batch::{Batch, Reading, Value};
use super::ids::DeviceId;

/// Most devices and readings in the table together. At about 100 bytes each: 2 MB.
pub const MAX_ENTITIES: usize = 20_000;

/// Most readings of one device.
pub const MAX_PER_DEVICE: usize = 1000;

/// Messages in a tenth of a second.
pub const PER_TENTH: u32 = 10;

/// Messages that the broker has not acknowledged.
pub const MAX_UNDER_WAY: usize = 8;

/// Changes of one reading that are announced between two connections to a broker.
pub const MAX_CHANGES: u8 = 16;

/// Seconds in which [`PER_TENTH`] messages may leave.
const SLOT: f64 = 0.1;

/// Where this gateway stands in topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `gateway.id`.
    pub gateway: String,
    /// `mqtt.prefix`.
    pub prefix: String,
    /// `mqtt.homeassistant_prefix`.
    pub homeassistant_prefix: String,
    /// `mqtt.payload`.
    pub payload: Payload,
}

/// How readings are written, as far as Home Assistant can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Envelope and readings as JSON.
    Json,
    /// The pack alone as SenML JSON.
    SenmlJson,
    /// One message per reading.
    Value,
}

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// For [`Discovery::answered`].
    pub number: u64,
    /// The whole topic.
    pub topic: String,
    /// JSON, or nothing: then what was announced there is no more.
    pub payload: Vec<u8>,
}

/// What a reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bool,
    /// A sum without a value.
    Sum,
}

impl Kind {
    /// `None` for bytes, of which Home Assistant can make nothing.
    fn of(reading: &Reading) -> Option<Self> {
        match (&reading.value, reading.sum) {
            (Some(Value::Number(_)), _) => Some(Self::Number),
            (Some(Value::Text(_)), _) => Some(Self::Text),
            (Some(Value::Bool(_)), _) => Some(Self::Bool),
            (None, Some(_)) => Some(Self::Sum),
            (Some(Value::Data(_)), _) | (None, None) => None,
        }
    }

    fn component(self) -> &'static str {
        if self == Self::Bool { "binary_sensor" } else { "sensor" }
    }

    fn other_component(self) -> &'static str {
        if self == Self::Bool { "sensor" } else { "binary_sensor" }
    }
}

/// One reading of one device.
#[derive(Debug)]
struct Entity {
    name: CompactString,
    unit: Option<CompactString>,
    kind: Kind,
    changes: u8,
    /// It was of the other component before: that is cleared each time.
    was_other: bool,
    /// To be cleared under the other component.
    clear: bool,
    /// To be announced.
    waiting: bool,
}

#[derive(Debug, Default)]
struct Device {
    model: Option<String>,
    firmware: Option<String>,
    /// By name.
    entities: Vec<Entity>,
    /// Its connection is to be announced.
    waiting: bool,
    /// Before this there is no entity that waits.
    scan: usize,
    queued: bool,
    removed: bool,
}

impl Device {
    /// Where `name` is, or belongs; `hint` is where it is likely to be.
    fn find(&self, name: &str, hint: usize) -> Result<usize, usize> {
        for likely in [hint, hint + 1, 0] {
            if self.entities.get(likely).is_some_and(|entity| entity.name == name) {
                return Ok(likely);
            }
        }
        self.entities.binary_search_by(|entity| entity.name.as_str().cmp(name))
    }

    fn insert(&mut self, index: usize, kind: Kind, reading: &Reading) {
        let (name, unit) = (reading.name.clone(), reading.unit.clone());
        let (changes, was_other, clear) = (0, false, false);
        let entity = Entity { name, unit, kind, changes, was_other, clear, waiting: true };
        self.entities.insert(index, entity);
        self.scan = self.scan.min(index);
    }

    /// Whether there is something new to announce.
    fn update(&mut self, index: usize, kind: Kind, unit: Option<&CompactString>) -> bool {
        let Some(entity) = self.entities.get_mut(index) else { return false };
        let same = entity.kind == kind && entity.unit.as_ref() == unit;
        if same || entity.changes >= MAX_CHANGES {
            return false;
        }
        entity.changes += 1;
        entity.was_other |= entity.kind.component() != kind.component();
        entity.kind = kind;
        entity.unit = unit.cloned();
        entity.waiting = true;
        entity.clear = entity.was_other;
        self.scan = self.scan.min(index);
        true
    }

    fn wake_all(&mut self) {
        self.waiting = true;
        self.scan = 0;
        for entity in &mut self.entities {
            entity.waiting = true;
            entity.clear = entity.was_other;
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Discovery {
    writer: Writer,
    devices: HashMap<DeviceId, Device>,
    /// Devices of which something waits.
    queue: VecDeque<DeviceId>,
    gateway_waiting: bool,
    connected: bool,
    /// Devices and readings in the table.
    entities: usize,
    /// Devices that are removed, each with the number of its last message.
    leaving: VecDeque<(u64, DeviceId)>,
    under_way: Vec<u64>,
    next: u64,
    slot_end: f64,
    left_in_slot: u32,
    left_out: Option<DeviceId>,
    said: bool,
}

impl Discovery {
    /// Knows no device yet.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            writer: Writer::new(place),
            devices: HashMap::new(),
            queue: VecDeque::new(),
            gateway_waiting: true,
            connected: false,
            entities: 0,
            leaving: VecDeque::new(),
            under_way: Vec::new(),
            next: 0,
            slot_end: 0.0,
            left_in_slot: 0,
            left_out: None,
            said: false,
        }
    }

    /// A device said HELLO.
    pub fn hello(&mut self, device: &DeviceId, model: Option<&str>, firmware: Option<&str>) {
        if !self.devices.contains_key(device) {
            if self.entities >= MAX_ENTITIES {
                self.left_out.get_or_insert_with(|| device.clone());
                return;
            }
            self.entities += 1;
        }
        let known = self
            .devices
            .entry(device.clone())
            .or_insert_with(|| Device { removed: true, ..Device::default() });
        let same = known.model.as_deref() == model && known.firmware.as_deref() == firmware;
        if same && !known.removed {
            return;
        }
        known.removed = false;
        known.model = model.map(str::to_owned);
        known.firmware = firmware.map(str::to_owned);
        known.wake_all();
        enqueue(&mut self.queue, device, known);
    }

    /// A batch was accepted. Allocates nothing for readings that are known.
    pub fn readings(&mut self, batch: &Batch) {
        let Some(device) = self.devices.get_mut(batch.device.as_str()) else { return };
        if device.removed {
            return;
        }
        let mut news = false;
        let mut hint = 0;
        for reading in &batch.readings {
            let Some(kind) = Kind::of(reading) else { continue };
            match device.find(&reading.name, hint) {
                Ok(index) => {
                    hint = index;
                    news |= device.update(index, kind, reading.unit.as_ref());
                }
                Err(_)
                    if self.entities >= MAX_ENTITIES || device.entities.len() >= MAX_PER_DEVICE =>
                {
                    self.left_out.get_or_insert_with(|| batch.device.clone());
                }
                Err(index) => {
                    hint = index;
                    self.entities += 1;
                    device.insert(index, kind, reading);
                    news = true;
                }
            }
        }
        if news {
            enqueue(&mut self.queue, &batch.device, device);
        }
    }

    /// A device is not registered any more: what was announced of it is cleared.
    pub fn remove(&mut self, device: &DeviceId) {
        let Some(known) = self.devices.get_mut(device).filter(|known| !known.removed) else {
            return;
        };
        known.removed = true;
        known.wake_all();
        enqueue(&mut self.queue, device, known);
    }

    /// There is a new connection to a broker: everything is announced again.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        self.gateway_waiting = true;
        for (id, device) in &mut self.devices {
            device.wake_all();
            for entity in &mut device.entities {
                entity.changes = 0;
            }
            enqueue(&mut self.queue, id, device);
        }
    }

    /// What was under way is forgotten; [`Self::connected`] begins again.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.under_way.clear();
        self.leaving.clear();
    }

    /// The next message to send at `now` (seconds on a clock that does not go back), if one is due.
    pub fn next(&mut self, now: f64) -> Option<Announced> {
        if !self.may_send() {
            return None;
        }
        if now >= self.slot_end {
            self.slot_end = now + SLOT;
            self.left_in_slot = PER_TENTH;
        }
        if self.left_in_slot == 0 {
            return None;
        }
        let Some((topic, payload)) = self.take() else {
            self.let_go();
            return None;
        };
        self.left_in_slot -= 1;
        let number = self.next;
        self.next += 1;
        self.under_way.push(number);
        Some(Announced { number, topic, payload })
    }

    /// The broker has answered message `number`, whatever it said.
    pub fn answered(&mut self, number: u64) {
        self.under_way.retain(|other| *other != number);
        self.let_go();
    }

    /// When [`Self::next`] should be called though nothing happens, if that is after `now`. What
    /// was due before waits for room, and whoever makes room calls anyway.
    #[must_use]
    pub fn next_wake(&self, now: f64) -> Option<f64> {
        let waits = self.may_send() && self.left_in_slot == 0;
        (waits && self.slot_end > now).then_some(self.slot_end)
    }

    /// The first device of which something was left out because the table is full; once.
    pub fn take_left_out(&mut self) -> Option<DeviceId> {
        if self.left_out.is_none() || std::mem::replace(&mut self.said, true) {
            return None;
        }
        self.left_out.clone()
    }

    /// Forgets removed devices whose messages are all answered.
    fn let_go(&mut self) {
        let first = self.under_way.iter().min().copied().unwrap_or(self.next);
        while self.leaving.front().is_some_and(|(last, _)| *last < first) {
            let Some((_, id)) = self.leaving.pop_front() else { return };
            if self.devices.get(&id).is_some_and(|device| device.removed && !device.queued) {
                let gone = self.devices.remove(&id);
                self.entities -= gone.map_or(0, |device| 1 + device.entities.len());
            }
        }
    }

    fn may_send(&self) -> bool {
        let waits = self.gateway_waiting || !self.queue.is_empty();
        self.connected && waits && self.under_way.len() < MAX_UNDER_WAY
    }

    fn take(&mut self) -> Option<(String, Vec<u8>)> {
        if std::mem::take(&mut self.gateway_waiting) {
            return Some((self.writer.gateway_topic(), self.writer.gateway_connection()));
        }
        while let Some(id) = self.queue.front() {
            let Some(device) = self.devices.get_mut(id) else {
                self.queue.pop_front();
                continue;
            };
            let taken = self.writer.take(id, device);
            if taken.is_some() {
                return taken;
            }
            device.queued = false;
            if let Some(id) = self.queue.pop_front().filter(|_| device.removed) {
                self.leaving.push_back((self.next.saturating_sub(1), id));
            }
        }
        None
    }
}

impl Writer {
    /// The next message of `device` that waits.
    fn take(&self, id: &DeviceId, device: &mut Device) -> Option<(String, Vec<u8>)> {
        let id = id.as_str();
        let owner = Owner {
            device: id,
            model: device.model.as_deref(),
            firmware: device.firmware.as_deref(),
        };
        if std::mem::take(&mut device.waiting) {
            let payload = if device.removed { Vec::new() } else { self.device_connection(owner) };
            return Some((self.device_topic(id), payload));
        }
        while let Some(entity) = device.entities.get_mut(device.scan) {
            let name = entity.name.as_str();
            if std::mem::take(&mut entity.clear) {
                let topic = self.reading_topic(entity.kind.other_component(), id, name);
                return Some((topic, Vec::new()));
            }
            if std::mem::take(&mut entity.waiting) {
                let topic = self.reading_topic(entity.kind.component(), id, name);
                let payload = if device.removed {
                    Vec::new()
                } else {
                    self.reading(owner, name, entity.unit.as_deref(), entity.kind)
                };
                return Some((topic, payload));
            }
            device.scan += 1;
        }
        None
    }
}

fn enqueue(queue: &mut VecDeque<DeviceId>, id: &DeviceId, device: &mut Device) {
    if !std::mem::replace(&mut device.queued, true) {
        queue.push_back(id.clone());
    }
}

#[cfg(test)]
mod tests;
