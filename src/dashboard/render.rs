//! The JSON of devices and readings, for the API and the feed alike.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use compact_str::CompactString;
use log::{Level, LevelFilter};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::log::LEVELS;
use super::refusals::Refusal;
use super::slot::{Latest, Slot, State};
use super::traffic::Traffic;
use crate::core::batch::Value;
use crate::core::command;
use crate::core::ids::DeviceId;
use crate::ports::{RefusedKind, lock};

/// Most values of one query parameter.
const FILTER_MAX: usize = 64;

/// What a viewer wants to see: `?device=` and `?name=`, each as often as wanted; none means all.
/// `?log=` says which entries of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    devices: Vec<DeviceId>,
    names: Vec<String>,
    log: LevelFilter,
}

impl Default for Filter {
    fn default() -> Self {
        Self { devices: Vec::new(), names: Vec::new(), log: LevelFilter::Info }
    }
}

impl Filter {
    /// Reads the query's pairs; parameters it does not know are somebody else's.
    ///
    /// # Errors
    /// For an impossible device id or level and for too many values; the text says which.
    pub(super) fn new(query: Vec<(String, String)>) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in query {
            match key.as_str() {
                "device" => filter
                    .devices
                    .push(DeviceId::new(&value).map_err(|error| format!("device: {error}"))?),
                "name" => filter.names.push(value),
                "log" => filter.log = log_level(&value)?,
                _ => {}
            }
        }
        if filter.devices.len().max(filter.names.len()) > FILTER_MAX {
            return Err(format!("device and name may be given {FILTER_MAX} times each"));
        }
        Ok(filter)
    }

    /// Whether only some devices are wanted, and which.
    pub(super) fn devices(&self) -> Option<&[DeviceId]> {
        (!self.devices.is_empty()).then_some(self.devices.as_slice())
    }

    /// Whether messages made for everyone fit, apart from those of unwanted devices.
    pub(super) fn takes_any_name(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn wants_device(&self, device: &DeviceId) -> bool {
        self.devices.is_empty() || self.devices.contains(device)
    }

    /// The same, for who may not see the log.
    pub(super) fn without_log(self) -> Self {
        Self { log: LevelFilter::Off, ..self }
    }

    /// Whether an entry of the log is wanted; `device` is whom it is about, if anyone.
    pub(super) fn wants_log(&self, level: Level, device: Option<&str>) -> bool {
        let wanted = |device: &str| self.devices.iter().any(|one| one.as_str() == device);
        level <= self.log && (self.devices.is_empty() || device.is_some_and(wanted))
    }

    /// All there is, whoever may want it: what is rendered once for everybody.
    pub(super) fn everything() -> Self {
        // The entries of the level trace are too many for a feed.
        Self { log: LevelFilter::Debug, ..Self::default() }
    }

    fn wants_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

fn log_level(value: &str) -> Result<LevelFilter, String> {
    let levels = LEVELS.iter().filter(|(_, level)| *level < LevelFilter::Trace);
    let mut known = levels.chain([&("off", LevelFilter::Off)]);
    let found = known.find(|(name, _)| *name == value).map(|(_, level)| *level);
    found.ok_or_else(|| "log is one of off, error, warn, info, debug".into())
}

/// Appends one device as `/api/v1/devices` shows it.
pub(super) fn device(slot: &Slot, filter: &Filter, out: &mut Vec<u8>) {
    let state = lock(&slot.state);
    append(out, &Device { slot, state: &state, filter });
}

/// Appends one device as `/api/v1/devices/{device}` shows it: with its connection and what was
/// refused.
pub(super) fn device_in_full(slot: &Slot, out: &mut Vec<u8>) {
    let state = lock(&slot.state);
    append(out, &InFull(Device { slot, state: &state, filter: &Filter::default() }));
}

/// The feed's messages for what changed in `slot` after the tick `since`.
pub(super) fn changes(slot: &Slot, since: u64, filter: &Filter) -> impl Iterator<Item = String> {
    let state = lock(&slot.state);
    let facts = (state.facts_version > since).then(|| text(&DeviceChange { slot, state: &state }));
    let any = state.readings.iter().any(|latest| is_news(latest, since, filter));
    let readings = any.then(|| text(&ReadingsChange { slot, state: &state, since, filter }));
    facts.into_iter().chain(readings)
}

/// The feed's message for a command that has changed.
pub(super) fn command(record: &command::Record) -> String {
    let mut message = record.to_json();
    if let Some(members) = message.as_object_mut() {
        members.insert("type".into(), "command".into());
    }
    message.to_string()
}

/// `value` as JSON.
pub(super) fn text<T: Serialize>(value: &T) -> String {
    let mut out = Vec::with_capacity(256);
    append(&mut out, value);
    // serde_json writes UTF-8 only.
    String::from_utf8(out).unwrap_or_default()
}

/// Appends `value` as JSON. Nothing here can fail to serialise: keys are text, numbers are finite
/// or become null, and memory takes every byte.
pub(super) fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    if let Err(error) = serde_json::to_writer(out, value) {
        tracing::error!(%error, "a JSON document of the dashboard could not be written");
    }
}

fn is_news(latest: &Latest, since: u64, filter: &Filter) -> bool {
    latest.version > since && filter.wants_name(&latest.name)
}

struct Device<'a> {
    slot: &'a Slot,
    state: &'a State,
    filter: &'a Filter,
}

impl Serialize for Device<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.members(&mut map)?;
        map.end()
    }
}

impl Device<'_> {
    fn members<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        facts(map, self.slot, self.state)?;
        map.serialize_entry("readings", &Readings { state: self.state, filter: self.filter })
    }
}

struct InFull<'a>(Device<'a>);

impl Serialize for InFull<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.members(&mut map)?;
        let State { traffic, refusals, .. } = self.0.state;
        map.serialize_entry("connection", &Connection(traffic))?;
        let refusals: Vec<_> = refusals.newest_first().into_iter().map(Refused).collect();
        map.serialize_entry("refusals", &refusals)?;
        map.end()
    }
}

struct Connection<'a>(&'a Traffic);

impl Serialize for Connection<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let traffic = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("epoch", &traffic.epoch)?;
        map.serialize_entry("seq", &traffic.seq)?;
        map.serialize_entry("batches", &traffic.batches)?;
        map.serialize_entry("readings", &traffic.readings)?;
        map.serialize_entry("gaps", &traffic.gaps)?;
        map.serialize_entry("duplicates", &traffic.duplicates)?;
        map.serialize_entry("rejected", &traffic.rejected)?;
        map.serialize_entry("round_trip_s", &traffic.round_trip())?;
        map.end()
    }
}

struct Refused<'a>(&'a Refusal);

impl Serialize for Refused<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Refusal { time, kind, code, reason, count } = self.0;
        let kind = match kind {
            RefusedKind::Batch => "batch",
            RefusedKind::Connection => "connection",
            RefusedKind::Rate => "rate",
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", time)?;
        map.serialize_entry("kind", kind)?;
        map.serialize_entry("code", code)?;
        map.serialize_entry("reason", reason)?;
        map.serialize_entry("count", count)?;
        map.end()
    }
}

fn facts<M: SerializeMap>(map: &mut M, slot: &Slot, state: &State) -> Result<(), M::Error> {
    map.serialize_entry("id", slot.id.as_str())?;
    map.serialize_entry("connected", &state.connected)?;
    map.serialize_entry("since", &state.since())?;
    map.serialize_entry("last_seen", &slot.last_seen())?;
    map.serialize_entry("model", &state.model)?;
    map.serialize_entry("firmware", &state.firmware)?;
    map.serialize_entry("address", &state.address)?;
    map.serialize_entry("commands", &Commands(&state.commands))?;
    map.serialize_entry("interval_s", &state.traffic.interval())?;
    if state.incomplete {
        map.serialize_entry("incomplete", &true)?;
    }
    Ok(())
}

struct Commands<'a>(&'a [CompactString]);

impl Serialize for Commands<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(CompactString::as_str))
    }
}

struct Readings<'a> {
    state: &'a State,
    filter: &'a Filter,
}

impl Serialize for Readings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wanted = self.state.readings.iter();
        serializer.collect_map(
            wanted
                .filter(|latest| self.filter.wants_name(&latest.name))
                .map(|latest| (latest.name.as_str(), Keyed(latest))),
        )
    }
}

/// A reading below its name: all keys are always there.
struct Keyed<'a>(&'a Latest);

impl Serialize for Keyed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        value(&mut map, self.0)?;
        map.serialize_entry("u", &self.0.unit)?;
        map.serialize_entry("t", &self.0.time)?;
        map.end()
    }
}

/// A reading as a SenML record: absent is absent.
struct Record<'a>(&'a Latest);

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("n", self.0.name.as_str())?;
        if let Some(unit) = &self.0.unit {
            map.serialize_entry("u", unit.as_str())?;
        }
        value(&mut map, self.0)?;
        map.serialize_entry("t", &self.0.time)?;
        map.end()
    }
}

fn value<M: SerializeMap>(map: &mut M, latest: &Latest) -> Result<(), M::Error> {
    match &latest.value {
        Some(Value::Number(number)) => map.serialize_entry("v", number)?,
        Some(Value::Text(text)) => map.serialize_entry("vs", text.as_str())?,
        Some(Value::Bool(truth)) => map.serialize_entry("vb", truth)?,
        Some(Value::Data(data)) => map.serialize_entry("vd", &URL_SAFE_NO_PAD.encode(data))?,
        None => {}
    }
    if let Some(sum) = latest.sum {
        map.serialize_entry("s", &sum)?;
    }
    if let Some(length) = latest.full_length {
        map.serialize_entry("full_length", &length)?;
    }
    Ok(())
}

struct DeviceChange<'a> {
    slot: &'a Slot,
    state: &'a State,
}

impl Serialize for DeviceChange<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "device")?;
        map.serialize_entry("device", self.slot.id.as_str())?;
        facts(&mut map, self.slot, self.state)?;
        if self.state.forgotten {
            map.serialize_entry("forgotten", &true)?;
        }
        map.end()
    }
}

struct ReadingsChange<'a> {
    slot: &'a Slot,
    state: &'a State,
    since: u64,
    filter: &'a Filter,
}

impl Serialize for ReadingsChange<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "readings")?;
        map.serialize_entry("device", self.slot.id.as_str())?;
        map.serialize_entry("last_seen", &self.slot.last_seen())?;
        map.serialize_entry("interval_s", &self.state.traffic.interval())?;
        map.serialize_entry("readings", &Records(self))?;
        map.end()
    }
}

struct Records<'a>(&'a ReadingsChange<'a>);

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let change = self.0;
        let news = change.state.readings.iter();
        serializer.collect_seq(
            news.filter(|latest| is_news(latest, change.since, change.filter)).map(Record),
        )
    }
}
