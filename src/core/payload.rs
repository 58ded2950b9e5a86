//! What an MQTT subscriber reads: a batch in one of four forms.
//!
//! | `mqtt.payload` | messages per batch | payload |
//! |---|---|---|
//! | `json` | one | an envelope around the resolved SenML JSON pack |
//! | `senml-json` | one | the resolved SenML JSON pack alone (RFC 8428 section 5) |
//! | `senml-cbor` | one | the resolved SenML CBOR pack alone (RFC 8428 section 6) |
//! | `value` | one per reading | the bare value |
//!
//! Numbers in JSON are the shortest decimal that reads back as the same 64-bit float, always with
//! a fraction or an exponent (`21.0`, not `21`): a store that guesses column types from the first
//! value then never guesses "integer". Whole numbers in the `value` form have no fraction (`21`),
//! since some readers there take integers only. `seq` is `null` for a batch without one.
//!
//! `epoch` and `seq` are unsigned 64-bit integers; a reader whose numbers are floats (JavaScript)
//! sees them exactly up to 2^53.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};

use super::batch::{Batch, Reading, Value};

/// Writes the `json` form to the end of `out`:
///
/// ```text
/// {"gateway":"gw-1","device":"kiln-3","epoch":7,"seq":42,"received":1763800000.125,
///  "readings":[{"n":"temperature","u":"Cel","v":21.5,"t":1763800000.0}]}
/// ```
///
/// in one line, with `"spooled":true` before `readings` when the batch waited in the spool, and
/// `"clock_shift":seconds` after it when times were corrected ([`Batch::shift`]).
pub fn write_json(out: &mut BytesMut, gateway: &str, batch: &Batch, spooled: bool) {
    out.reserve(160 + 64 * batch.readings.len());
    out.put_slice(b"{\"gateway\":");
    write_text(out, gateway);
    // A device id needs no escaping: letters, digits, '_' and '-'.
    out.put_slice(b",\"device\":\"");
    out.put_slice(batch.device.as_str().as_bytes());
    out.put_slice(b"\",\"epoch\":");
    write_scalar(out, &batch.epoch);
    out.put_slice(b",\"seq\":");
    write_scalar(out, &batch.seq);
    out.put_slice(b",\"received\":");
    write_scalar(out, &batch.received);
    if spooled {
        out.put_slice(b",\"spooled\":true");
    }
    if is_corrected(batch) {
        out.put_slice(b",\"clock_shift\":");
        write_scalar(out, &batch.shift);
    }
    out.put_slice(b",\"readings\":");
    write_senml_json(out, &batch.readings);
    out.put_u8(b'}');
}

/// Writes `readings` to the end of `out` as a resolved SenML JSON pack: an array of records with
/// the keys `n`, `u`, one of `v` `vs` `vb` `vd`, `s`, `t`, `ut`, in this order, absent ones left
/// out. `vd` is base64url without padding (RFC 8428 section 5).
pub fn write_senml_json(out: &mut BytesMut, readings: &[Reading]) {
    out.put_u8(b'[');
    for (index, reading) in readings.iter().enumerate() {
        out.put_slice(if index == 0 { b"{\"n\":" } else { b",{\"n\":" });
        write_text(out, &reading.name);
        if let Some(unit) = &reading.unit {
            out.put_slice(b",\"u\":");
            write_text(out, unit);
        }
        match &reading.value {
            Some(Value::Number(number)) => {
                out.put_slice(b",\"v\":");
                write_scalar(out, number);
            }
            Some(Value::Text(text)) => {
                out.put_slice(b",\"vs\":");
                write_text(out, text);
            }
            Some(Value::Bool(flag)) => {
                out.put_slice(if *flag { b",\"vb\":true" } else { b",\"vb\":false" });
            }
            Some(Value::Data(data)) => {
                out.put_slice(b",\"vd\":\"");
                write_base64(out, data);
                out.put_u8(b'"');
            }
            None => {}
        }
        if let Some(sum) = &reading.sum {
            out.put_slice(b",\"s\":");
            write_scalar(out, sum);
        }
        out.put_slice(b",\"t\":");
        write_scalar(out, &reading.time);
        if let Some(update_time) = &reading.update_time {
            out.put_slice(b",\"ut\":");
            write_scalar(out, update_time);
        }
        out.put_u8(b'}');
    }
    out.put_u8(b']');
}

/// Writes `readings` to the end of `out` as a resolved SenML CBOR pack.
pub fn write_senml_cbor(out: &mut BytesMut, readings: &[Reading]) {
    out.put_slice(&super::senml::encode(readings));
}

/// Writes the bare value of `reading` to the end of `out`: a number, text as it is, `true` or
/// `false`, bytes as base64url without padding. A reading that has only a sum gives its sum.
pub fn write_value(out: &mut BytesMut, reading: &Reading) {
    match (&reading.value, reading.sum) {
        (Some(Value::Number(number)), _) => write_bare_number(out, *number),
        (Some(Value::Text(text)), _) => out.put_slice(text.as_bytes()),
        (Some(Value::Bool(flag)), _) => out.put_slice(if *flag { b"true" } else { b"false" }),
        (Some(Value::Data(data)), _) => write_base64(out, data),
        (None, Some(sum)) => write_bare_number(out, sum),
        (None, None) => {}
    }
}

/// What the forms without an envelope carry beside the payload, as MQTT 5 user properties:
/// `gateway`, `device`, `epoch`, `seq` (left out where there is none), `received`, `spooled`
/// with the value `true` for a batch that waited in the spool, and `clock_shift` for one whose times
/// were corrected.
#[must_use]
pub fn properties(gateway: &str, batch: &Batch, spooled: bool) -> Vec<(String, String)> {
    let mut properties = Vec::with_capacity(7);
    let mut add = |key: &str, value: String| properties.push((key.to_owned(), value));
    add("gateway", gateway.to_owned());
    add("device", batch.device.as_str().to_owned());
    add("epoch", batch.epoch.to_string());
    if let Some(seq) = batch.seq {
        add("seq", seq.to_string());
    }
    // `{:?}` is the shortest decimal that reads back the same, with a fraction.
    add("received", format!("{:?}", batch.received));
    if spooled {
        add("spooled", "true".to_owned());
    }
    if is_corrected(batch) {
        add("clock_shift", format!("{:?}", batch.shift));
    }
    properties
}

fn is_corrected(batch: &Batch) -> bool {
    batch.shift.abs() > 0.0
}

/// A JSON string. Most names and units need no escaping; `serde_json` does the rest.
fn write_text(out: &mut BytesMut, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.reserve(text.len() + 2);
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        write_scalar(out, text);
    }
}

/// A JSON scalar by `serde_json`: shortest round-trip floats, `null` for what is not finite.
pub(super) fn write_scalar<T: serde::Serialize + ?Sized>(out: &mut BytesMut, scalar: &T) {
    // Neither a scalar nor a buffer that grows can fail.
    let _ = serde_json::to_writer(out.writer(), scalar);
}

fn write_bare_number(out: &mut BytesMut, number: f64) {
    let start = out.len();
    write_scalar(out, &number);
    if out.get(start..).is_some_and(|text| text.ends_with(b".0")) {
        out.truncate(out.len() - 2);
    }
}

fn write_base64(out: &mut BytesMut, data: &[u8]) {
    out.put_slice(URL_SAFE_NO_PAD.encode(data).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::core::clock::Base;
    use crate::core::ids::DeviceId;

    fn reading(name: &str, value: Option<Value>) -> Reading {
        Reading {
            name: name.into(),
            unit: None,
            value,
            sum: None,
            time: 1_763_800_000.0,
            update_time: None,
            relative: false,
        }
    }

    fn contract_batch() -> Batch {
        Batch {
            device: DeviceId::new("kiln-3").unwrap(),
            epoch: 7,
            seq: Some(42),
            received: 1_763_800_000.125,
            base: Base::default(),
            shift: 0.0,
            readings: vec![Reading {
                unit: Some("Cel".into()),
                ..reading("temperature", Some(Value::Number(21.5)))
            }],
        }
    }

    /// Received and stamped two seconds after 1970, by a clock that was set afterwards.
    fn corrected_batch() -> Batch {
        let mut batch = Batch { received: 2.125, ..contract_batch() };
        batch.readings = vec![Reading { time: 2.0, relative: true, ..batch.readings.remove(0) }];
        batch.correct(1_763_800_000.0);
        batch
    }

    /// Every kind of value and every optional field.
    fn rich_batch() -> Batch {
        Batch {
            seq: None,
            epoch: u64::MAX,
            readings: vec![
                Reading {
                    unit: Some("kWh".into()),
                    sum: Some(1234.0),
                    update_time: Some(60.0),
                    ..reading("energy", Some(Value::Number(0.1 + 0.2)))
                },
                reading("state", Some(Value::Text("ok \"so far\"\n\u{e9}\\ \u{1}".into()))),
                reading("open", Some(Value::Bool(true))),
                reading("shut", Some(Value::Bool(false))),
                reading("blob", Some(Value::Data(vec![0xfb, 0xff, 0, 1].into()))),
                reading("count", Some(Value::Number(-3.0))),
                reading("tiny", Some(Value::Number(5e-324))),
                reading("huge", Some(Value::Number(1.797_693_134_862_315_7e308))),
                Reading { sum: Some(12.5), ..reading("total", None) },
            ],
            ..contract_batch()
        }
    }

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// Compares with a file of `tests/golden/mqtt`; `TIDEGATE_GOLDEN=write` writes it instead.
    fn golden(file: &str, bytes: &str) {
        let path = format!("{}/tests/golden/mqtt/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TIDEGATE_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(&path, bytes).unwrap();
        }
        let frozen = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(bytes, frozen, "{path} is part of what subscribers rely on");
    }

    #[test]
    fn the_json_form_is_frozen() {
        golden("batch.json", &text(|out| write_json(out, "gw-1", &contract_batch(), false)));
        golden("spooled.json", &text(|out| write_json(out, "gw-1", &contract_batch(), true)));
        golden("corrected.json", &text(|out| write_json(out, "gw-1", &corrected_batch(), true)));
        golden("rich.json", &text(|out| write_json(out, "gw \"1\"", &rich_batch(), false)));
    }

    #[test]
    fn the_senml_json_form_is_frozen() {
        golden("rich.senml.json", &text(|out| write_senml_json(out, &rich_batch().readings)));
    }

    #[test]
    fn the_value_form_is_frozen() {
        let lines: Vec<String> = rich_batch()
            .readings
            .iter()
            .map(|reading| {
                format!("{} {:?}\n", reading.name, text(|out| write_value(out, reading)))
            })
            .collect();
        golden("rich.values", &lines.concat());
    }

    #[test]
    fn the_user_properties_are_frozen() {
        let lines = |properties: Vec<(String, String)>| -> String {
            let lines: Vec<String> =
                properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            lines.concat()
        };
        golden("batch.properties", &lines(properties("gw-1", &contract_batch(), true)));
        golden("corrected.properties", &lines(properties("gw-1", &corrected_batch(), true)));
        golden("rich.properties", &lines(properties("gw-1", &rich_batch(), false)));
    }

    #[test]
    fn the_json_form_says_what_the_documentation_shows() {
        let written = text(|out| write_json(out, "gw-1", &contract_batch(), false));
        let shown = json!({"gateway":"gw-1","device":"kiln-3","epoch":7,"seq":42,
            "received":1_763_800_000.125,
            "readings":[{"n":"temperature","u":"Cel","v":21.5,"t":1_763_800_000.0}]});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), shown);
    }

    #[test]
    fn the_cbor_form_is_the_resolved_pack() {
        let batch = rich_batch();
        let mut out = BytesMut::from(&b"before"[..]);
        write_senml_cbor(&mut out, &batch.readings);
        assert_eq!(&out[..6], b"before");
        assert_eq!(out[6..], crate::core::senml::encode(&batch.readings));
    }

    /// What the text of `number` in a pack says. Not read by `serde_json`, which rounds its own way
    /// and may miss the last bit; among the smallest numbers that is a large part of them.
    fn through_json(number: f64) -> f64 {
        let pack = text(|out| {
            write_senml_json(out, &[reading("n", Some(Value::Number(number)))]);
        });
        let (_, rest) = pack.split_once("\"v\":").unwrap();
        rest.split_once(',').unwrap().0.parse().unwrap()
    }

    #[test]
    fn numbers_that_are_nearly_zero_read_back_as_themselves() {
        for number in [1.7e-309, -1.7e-309, 5e-324, f64::MIN_POSITIVE, 2.225_073_858_507_201e-308] {
            assert_eq!(through_json(number).to_bits(), number.to_bits(), "{number:e}");
        }
    }

    #[test]
    fn an_empty_batch_is_an_empty_pack() {
        let batch = Batch { readings: Vec::new(), ..contract_batch() };
        let written = text(|out| write_json(out, "gw-1", &batch, false));
        assert!(written.ends_with("\"readings\":[]}"), "{written}");
    }

    proptest! {
        #[test]
        fn any_text_and_number_survives_json(
            text_value in any::<String>(),
            name in any::<String>(),
            unit in any::<Option<String>>(),
            number in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
            gateway in any::<String>(),
        ) {
            let batch = Batch {
                readings: vec![
                    Reading {
                        unit: unit.as_deref().map(Into::into),
                        ..reading(&name, Some(Value::Number(number)))
                    },
                    reading("text", Some(Value::Text(text_value.as_str().into()))),
                ],
                ..contract_batch()
            };
            let written = text(|out| write_json(out, &gateway, &batch, true));
            let read: serde_json::Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(&read["gateway"], &json!(gateway));
            prop_assert_eq!(&read["spooled"], &json!(true));
            prop_assert_eq!(&read["readings"][0]["n"], &json!(name));
            prop_assert_eq!(&read["readings"][1]["vs"], &json!(text_value));
            prop_assert_eq!(read["readings"][0]["u"].as_str(), unit.as_deref());
            prop_assert!(read["readings"][0]["v"].is_f64());
        }

        #[test]
        fn any_number_in_json_reads_back_as_itself(
            number in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
        ) {
            prop_assert_eq!(through_json(number).to_bits(), number.to_bits());
        }

        #[test]
        fn a_bare_number_reads_back_as_itself(number in prop::num::f64::NORMAL) {
            let written = text(|out| write_value(out, &reading("n", Some(Value::Number(number)))));
            prop_assert_eq!(written.parse::<f64>().unwrap().to_bits(), number.to_bits());
            prop_assert!(!written.ends_with(".0"));
        }
    }
}
