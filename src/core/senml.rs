//! SenML (RFC 8428): what a device sends becomes resolved readings.

use super::batch::{Reading, Value};

/// A resolved SenML-CBOR pack of `readings` with the integer labels of RFC 8428 section 6.
#[must_use]
pub fn encode(readings: &[Reading]) -> Vec<u8> {
    use ciborium::Value as Cbor;
    let record = |reading: &Reading| {
        let mut map = vec![(Cbor::from(0), Cbor::from(reading.name.as_str()))];
        if let Some(unit) = &reading.unit {
            map.push((Cbor::from(1), Cbor::from(unit.as_str())));
        }
        match &reading.value {
            Some(Value::Number(number)) => map.push((Cbor::from(2), Cbor::from(*number))),
            Some(Value::Text(text)) => map.push((Cbor::from(3), Cbor::from(text.as_str()))),
            Some(Value::Bool(flag)) => map.push((Cbor::from(4), Cbor::from(*flag))),
            Some(Value::Data(data)) => map.push((Cbor::from(8), Cbor::Bytes(data.to_vec()))),
            None => {}
        }
        if let Some(sum) = reading.sum {
            map.push((Cbor::from(5), Cbor::from(sum)));
        }
        map.push((Cbor::from(6), Cbor::from(reading.time)));
        if let Some(update) = reading.update_time {
            map.push((Cbor::from(7), Cbor::from(update)));
        }
        Cbor::Map(map)
    };
    let pack = Cbor::Array(readings.iter().map(record).collect());
    let mut bytes = Vec::new();
    // Writing to a vector cannot fail.
    let _ = ciborium::into_writer(&pack, &mut bytes);
    bytes
}
