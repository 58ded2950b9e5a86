//! Writing packs down briefly.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ciborium::Value as Cbor;
use compact_str::CompactString;
use serde_json::Value as Json;
use tidegate::core::batch::{Reading, Value};
use tidegate::core::ids::DeviceId;
use tidegate::core::senml::{Limits, Reject, resolve};

/// The gateway's clock in these tests: 2025-11-22.
pub(crate) const NOW: f64 = 1_763_800_000.0;
pub(crate) const LIMITS: Limits = Limits { max_records: 1024, max_ahead: 300.0 };

pub(crate) fn device() -> DeviceId {
    DeviceId::new("kiln-3").unwrap()
}

/// Resolves what `device()` sends at `NOW`.
pub(crate) fn resolved(pack: &[u8]) -> Result<Vec<Reading>, Reject> {
    resolve(pack, &device(), NOW, &LIMITS)
}

/// A pack as RFC 8428 writes it in JSON, in CBOR: labels as integers, `vd` as bytes.
pub(crate) fn pack(json: &str) -> Vec<u8> {
    let records: Vec<serde_json::Map<String, Json>> = serde_json::from_str(json).unwrap();
    let records = records
        .into_iter()
        .map(|record| Cbor::Map(record.iter().map(|(label, value)| field(label, value)).collect()));
    cbor(&Cbor::Array(records.collect()))
}

fn field(label: &str, value: &Json) -> (Cbor, Cbor) {
    const LABELS: [(&str, i64); 15] = [
        ("bver", -1),
        ("bn", -2),
        ("bt", -3),
        ("bu", -4),
        ("bv", -5),
        ("bs", -6),
        ("n", 0),
        ("u", 1),
        ("v", 2),
        ("vs", 3),
        ("vb", 4),
        ("s", 5),
        ("t", 6),
        ("ut", 7),
        ("vd", 8),
    ];
    let key = LABELS
        .iter()
        .find(|(name, _)| *name == label)
        .map_or_else(|| Cbor::from(label), |(_, key)| Cbor::from(*key));
    let value = match value {
        Json::String(text) if label == "vd" => Cbor::Bytes(URL_SAFE_NO_PAD.decode(text).unwrap()),
        other => Cbor::serialized(other).unwrap(),
    };
    (key, value)
}

pub(crate) fn cbor(value: &Cbor) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// Hexadecimal digits, with blanks and `#` comments.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: String =
        text.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace()).collect();
    assert_eq!(digits.len() % 2, 0, "an odd number of digits");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// A reading that the gateway stamped when it received it.
pub(crate) fn stamped(name: &str, unit: &str, value: f64) -> Reading {
    Reading { relative: true, ..reading(name, unit, value, NOW) }
}

pub(crate) fn reading(name: &str, unit: &str, value: f64, time: f64) -> Reading {
    Reading {
        name: name.into(),
        unit: (!unit.is_empty()).then(|| CompactString::new(unit)),
        value: Some(Value::Number(value)),
        sum: None,
        time,
        update_time: None,
        relative: false,
    }
}
