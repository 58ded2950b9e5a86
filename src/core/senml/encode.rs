//! Writes resolved packs.

use super::Label;
use crate::core::batch::{Reading, Value};
use crate::core::cbor::Writer;

/// The integers that a double holds without gaps end here.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Writes `readings` as a resolved SenML-CBOR pack (RFC 8428 sections 4.6 and 6), in their order,
/// every number in its shortest form that keeps its exact value.
///
/// A time below 2^28 (before July 1978) cannot be told from a relative one by whoever reads the
/// pack (section 4.5.3); readings have such times only while the gateway's own clock is not set.
#[must_use]
pub fn encode(readings: &[Reading]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + readings.len() * 48);
    let mut w = Writer::new(&mut out);
    w.array(readings.len());
    for reading in readings {
        record(&mut w, reading);
    }
    out
}

fn record(w: &mut Writer<'_>, reading: &Reading) {
    w.map(
        2 + usize::from(reading.unit.is_some())
            + usize::from(reading.value.is_some())
            + usize::from(reading.sum.is_some())
            + usize::from(reading.update_time.is_some()),
    );
    key(w, Label::Name);
    w.text(&reading.name);
    if let Some(unit) = &reading.unit {
        key(w, Label::Unit);
        w.text(unit);
    }
    match &reading.value {
        Some(Value::Number(value)) => {
            key(w, Label::Value);
            number(w, *value);
        }
        Some(Value::Text(value)) => {
            key(w, Label::StringValue);
            w.text(value);
        }
        Some(Value::Bool(value)) => {
            key(w, Label::BooleanValue);
            w.bool(*value);
        }
        // Labels ascend, so this one comes last.
        Some(Value::Data(_)) | None => {}
    }
    if let Some(sum) = reading.sum {
        key(w, Label::Sum);
        number(w, sum);
    }
    key(w, Label::Time);
    number(w, reading.time);
    if let Some(update_time) = reading.update_time {
        key(w, Label::UpdateTime);
        number(w, update_time);
    }
    if let Some(Value::Data(value)) = &reading.value {
        key(w, Label::DataValue);
        w.bytes(value);
    }
}

/// Regular labels only: their keys are not negative.
fn key(w: &mut Writer<'_>, label: Label) {
    w.uint(label.key().unsigned_abs().into());
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only whole numbers within 2^53 are cast, and the sign is handled apart"
)]
fn number(w: &mut Writer<'_>, number: f64) {
    let whole = number.fract() == 0.0 && number.abs() <= EXACT_INTEGERS;
    let negative_zero = number == 0.0 && number.is_sign_negative();
    if !whole || negative_zero {
        w.float(number);
    } else if number < 0.0 {
        w.negative(-number as u64 - 1);
    } else {
        w.uint(number as u64);
    }
}
