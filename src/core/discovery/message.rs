//! The messages: topics, names and the JSON that Home Assistant reads.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::units::{self, Shown};
use super::{Kind, Payload, Place};

/// Longest state that Home Assistant keeps, in characters.
const LONGEST_STATE: usize = 255;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is the same in every message.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    /// The gateway's part of topics.
    node: String,
}

/// The device that an entity belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) device: &'a str,
    pub(super) model: Option<&'a str>,
    pub(super) firmware: Option<&'a str>,
}

impl Writer {
    pub(super) fn new(place: Place) -> Self {
        Self { node: escape(&place.gateway, true), place }
    }

    /// Where the entity of a reading is announced.
    pub(super) fn reading_topic(&self, component: &str, device: &str, name: &str) -> String {
        self.topic(component, &self.device_node(device), &escape(name, false))
    }

    /// What is announced there.
    pub(super) fn reading(
        &self,
        owner: Owner<'_>,
        name: &str,
        unit: Option<&str>,
        kind: Kind,
    ) -> Vec<u8> {
        let device = owner.device;
        let readings = format!("{}/devices/{device}/readings", self.place.prefix);
        let (state_topic, template) = match self.place.payload {
            Payload::Json => (readings, template(name, kind, "value_json.readings")),
            Payload::SenmlJson => (readings, template(name, kind, "value_json")),
            Payload::Value => {
                let cut = format!("{{{{ value[:{LONGEST_STATE}] }}}}");
                let whole = || "{{ value }}".to_owned();
                let template = if kind == Kind::Text { cut } else { whole() };
                (format!("{readings}/{name}"), template)
            }
        };
        let mut config = self.entity(&format!("{device}/{name}"), name, &state_topic, &template);
        match kind {
            Kind::Number => show(&mut config, units::value(unit)),
            Kind::Sum => show(&mut config, units::sum(unit)),
            Kind::Bool => {
                config.insert("payload_on".into(), "true".into());
                config.insert("payload_off".into(), "false".into());
            }
            Kind::Text => {}
        }
        let gateway = self.availability("status");
        let availability = json!([gateway, self.availability(&format!("devices/{device}/status"))]);
        config.insert("availability".into(), availability);
        config.insert("availability_mode".into(), "all".into());
        config.insert("device".into(), self.device(owner));
        Json::Object(config).to_string().into_bytes()
    }

    /// Where it is announced whether a device is connected. No reading's name begins with `_`.
    pub(super) fn device_topic(&self, device: &str) -> String {
        self.topic("binary_sensor", &self.device_node(device), "_connection")
    }

    /// What is announced there.
    pub(super) fn device_connection(&self, owner: Owner<'_>) -> Vec<u8> {
        let device = owner.device;
        let topic = format!("{}/devices/{device}/status", self.place.prefix);
        let mut config = self.connection(&format!("{device}/_connection"), &topic);
        config.insert("availability".into(), json!([self.availability("status")]));
        config.insert("device".into(), self.device(owner));
        Json::Object(config).to_string().into_bytes()
    }

    /// Where the gateway itself is announced.
    pub(super) fn gateway_topic(&self) -> String {
        self.topic("binary_sensor", &self.node, "_connection")
    }

    /// What is announced there.
    pub(super) fn gateway_connection(&self) -> Vec<u8> {
        let mut config = self.connection("_connection", &format!("{}/status", self.place.prefix));
        let device = json!({
            "identifiers": [self.gateway_identifier()],
            "name": self.place.gateway,
            "manufacturer": "tidegate",
            "model": "gateway",
            "sw_version": VERSION,
        });
        config.insert("device".into(), device);
        Json::Object(config).to_string().into_bytes()
    }

    fn topic(&self, component: &str, node: &str, object: &str) -> String {
        format!("{}/{component}/{node}/{object}/config", self.place.homeassistant_prefix)
    }

    /// An escaped gateway never holds `__`, so the first one ends it.
    fn device_node(&self, device: &str) -> String {
        format!("{}__{device}", self.node)
    }

    fn gateway_identifier(&self) -> String {
        format!("tidegate/{}", self.place.gateway)
    }

    fn entity(&self, id: &str, name: &str, topic: &str, template: &str) -> Map<String, Json> {
        // Neither a gateway's name nor a device's id holds `/`, so this is unique as it is.
        let unique_id = format!("{}/{id}", self.gateway_identifier());
        let fields = [
            ("unique_id", unique_id.into()),
            ("name", name.into()),
            ("state_topic", topic.into()),
            ("value_template", template.into()),
            ("qos", 1.into()),
            ("origin", json!({ "name": "tidegate", "sw_version": VERSION })),
        ];
        fields.into_iter().map(|(key, value): (_, Json)| (key.to_owned(), value)).collect()
    }

    fn connection(&self, id: &str, topic: &str) -> Map<String, Json> {
        let mut config = self.entity(id, "Connection", topic, "{{ value_json.state }}");
        for (key, value) in [
            ("device_class", "connectivity"),
            ("entity_category", "diagnostic"),
            ("payload_on", "online"),
            ("payload_off", "offline"),
        ] {
            config.insert(key.into(), value.into());
        }
        config
    }

    fn availability(&self, below: &str) -> Json {
        json!({
            "topic": format!("{}/{below}", self.place.prefix),
            "value_template": "{{ value_json.state }}",
        })
    }

    fn device(&self, owner: Owner<'_>) -> Json {
        let gateway = self.gateway_identifier();
        let mut device = json!({
            "identifiers": [format!("{gateway}/{}", owner.device)],
            "name": owner.device,
            "via_device": gateway,
        });
        for (key, value) in [("model", owner.model), ("sw_version", owner.firmware)] {
            if let (Some(value), Some(device)) = (value, device.as_object_mut()) {
                device.insert(key.into(), value.into());
            }
        }
        device
    }
}

fn show(config: &mut Map<String, Json>, shown: Shown) {
    let Shown { unit, class, total } = shown;
    if let Some(unit) = unit {
        config.insert("unit_of_measurement".into(), unit.into());
    }
    if let Some(class) = class {
        config.insert("device_class".into(), class.into());
    }
    let state_class = if total { "total_increasing" } else { "measurement" };
    config.insert("state_class".into(), state_class.into());
}

/// Picks the newest record of `name` out of the pack `from`, which is in chronological order.
///
/// A pack without one must leave the state as it is. Numbers and booleans answer with nothing then,
/// which Home Assistant ignores for both. `this.state` would be wrong for a number: it is in the unit
/// that the user chose to see, and would be converted once more with each message. For text nothing
/// is a text, so there the present state is repeated, and `None` says that there is none yet.
fn template(name: &str, kind: Kind, from: &str) -> String {
    let field = match kind {
        Kind::Number => "v",
        Kind::Text => "vs",
        Kind::Bool => "vb",
        Kind::Sum => "s",
    };
    let name = name.replace('\\', "\\\\").replace('\'', "\\'");
    let records = format!(
        "{{% set r = {from} | selectattr('n', 'eq', '{name}') | selectattr('{field}', 'defined') \
         | map(attribute='{field}') | list %}}"
    );
    let rest = match kind {
        Kind::Number | Kind::Sum => "{{ r[-1] if r else '' }}".to_owned(),
        Kind::Bool => "{{ ('true' if r[-1] else 'false') if r else '' }}".to_owned(),
        Kind::Text => format!(
            "{{{{ r[-1][:{LONGEST_STATE}] if r else 'None' \
             if this.state in ('unknown', 'unavailable') else this.state }}}}"
        ),
    };
    records + &rest
}

/// `text` as a level of a discovery topic, which may hold letters, digits, `_` and `-` only. No two
/// texts give the same: other bytes become `_` and two hexadecimal digits, and so does a `_` that
/// two such digits follow (with `strictly`, every `_`).
fn escape(text: &str, strictly: bool) -> String {
    let digit = |byte: Option<&u8>| byte.is_some_and(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let bytes = text.as_bytes();
    let mut escaped = String::with_capacity(text.len());
    for (index, &byte) in bytes.iter().enumerate() {
        let ambiguous = || digit(bytes.get(index + 1)) && digit(bytes.get(index + 2));
        let plain = match byte {
            b'_' => !strictly && !ambiguous(),
            byte => byte.is_ascii_alphanumeric() || byte == b'-',
        };
        if plain {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "_{byte:02x}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What [`escape`] made, undone.
    fn unescape(escaped: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = escaped.as_bytes();
        while let Some((first, more)) = rest.split_first() {
            let code = more.get(..2).and_then(|two| {
                let small = two.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok().filter(|_| small)
            });
            let code = code.filter(|_| *first == b'_');
            bytes.push(code.unwrap_or(*first));
            rest = if code.is_some() { &more[2..] } else { more };
        }
        bytes
    }

    #[test]
    fn names_stay_readable() {
        for (name, level) in [
            ("temperature", "temperature"),
            ("supply_voltage", "supply_voltage"),
            ("a_be", "a_5fbe"),
            ("a_bE", "a_bE"),
            ("flow/1.2:x", "flow_2f1_2e2_3ax"),
            ("größe", "gr_c3_b6_c3_9fe"),
        ] {
            assert_eq!(escape(name, false), level);
        }
        assert_eq!(escape("a_gw", true), "a_5fgw");
    }

    proptest! {
        #[test]
        fn a_level_is_of_allowed_characters_and_names_one_text_only(
            text in "[a-f0-9_./]{0,12}|\\PC{0,12}",
            strictly in any::<bool>(),
        ) {
            let level = escape(&text, strictly);
            prop_assert!(
                level.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            );
            prop_assert!(!strictly || !level.contains("__"));
            prop_assert_eq!(unescape(&level), text.as_bytes());
        }
    }
}
