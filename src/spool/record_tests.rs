//! Records: what is encoded reads back, in few bytes, and hostile bytes are refused.

use proptest::prelude::*;

use super::*;

fn decode(body: &[u8]) -> Result<Vec<Batch>, RecordError> {
    let mut decoder = Decoder::new(body);
    let mut batches = Vec::new();
    while !decoder.is_done() {
        batches.push(decoder.next_batch()?);
    }
    Ok(batches)
}

fn encode(batches: &[Batch]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for batch in batches {
        encoder.push(batch);
    }
    encoder.take()
}

fn batch(device: &str, readings: Vec<Reading>) -> Batch {
    let device = DeviceId::new(device).unwrap();
    Batch {
        device,
        epoch: 7,
        seq: Some(42),
        received: 1_763_800_000.125,
        base: Base::default(),
        shift: 0.0,
        readings,
    }
}

fn reading(value: f64) -> Reading {
    Reading {
        name: "temperature".into(),
        unit: Some("Cel".into()),
        value: Some(Value::Number(value)),
        sum: None,
        time: 1_763_800_000.125,
        update_time: None,
        relative: false,
    }
}

/// Floats as they are compared on the disk: bit for bit.
fn bits(batch: &Batch) -> Vec<u64> {
    let of = |reading: &Reading| {
        let value = match reading.value {
            Some(Value::Number(number)) => number.to_bits(),
            _ => 0,
        };
        let option = |float: Option<f64>| float.map_or(0, f64::to_bits);
        [value, reading.time.to_bits(), option(reading.sum), option(reading.update_time)]
    };
    std::iter::once(batch.received.to_bits()).chain(batch.readings.iter().flat_map(of)).collect()
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        (-1_000_000_i64..1_000_000, 0_i32..6)
            .prop_map(|(n, digits)| n as f64 / 10_f64.powi(digits)),
        any::<f32>().prop_map(f64::from),
        Just(-0.0),
        Just(f64::MIN_POSITIVE),
        Just(1_763_800_000.125),
    ]
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let value = prop_oneof![
        float().prop_map(Value::Number),
        ".{0,40}".prop_map(|text| Value::Text(text.into())),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| Value::Data(data.into())),
    ];
    (
        "[a-z]{1,3}",
        prop::option::of("[A-Za-z/%]{0,5}"),
        prop::option::of(value),
        prop::option::of(float()),
        float(),
        prop::option::of(float()),
        any::<bool>(),
    )
        .prop_map(|(name, unit, value, sum, time, update_time, relative)| Reading {
            name: name.into(),
            unit: unit.map(Into::into),
            value,
            sum,
            time,
            update_time,
            relative,
        })
}

fn any_batch() -> impl Strategy<Value = Batch> {
    (
        "[a-c]{1,2}",
        prop_oneof![Just(1), Just(u64::MAX), any::<u64>()],
        prop::option::of(prop_oneof![0_u64..50, any::<u64>()]),
        float(),
        (0_u64..3, prop_oneof![Just(0.0), float()]),
        prop::collection::vec(any_reading(), 0..8),
    )
        .prop_map(|(device, epoch, seq, received, (boot, offset), readings)| Batch {
            device: DeviceId::new(&device).unwrap(),
            epoch,
            seq,
            received,
            base: Base { boot, offset },
            shift: 0.0,
            readings,
        })
}

proptest! {
    #[test]
    fn any_batches_come_back_bit_for_bit(batches in prop::collection::vec(any_batch(), 0..12)) {
        let found = decode(&encode(&batches)).unwrap();
        prop_assert_eq!(found.len(), batches.len());
        for (found, batch) in found.iter().zip(&batches) {
            prop_assert_eq!(bits(found), bits(batch));
            // NaN equals nothing; the rest is compared as text, which names every field.
            prop_assert_eq!(format!("{found:?}"), format!("{batch:?}"));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&body);
    }

    #[test]
    fn a_body_cut_short_is_refused(batches in prop::collection::vec(any_batch(), 1..4), cut in any::<prop::sample::Index>()) {
        let body = encode(&batches);
        let cut = cut.index(body.len());
        let mut decoder = Decoder::new(&body[..cut]);
        let read = (0..batches.len()).map_while(|_| decoder.next_batch().ok()).count();
        prop_assert!(read < batches.len());
    }
}

#[test]
fn a_single_reading_takes_few_bytes() {
    let batches: Vec<Batch> = (0..100_u64)
        .map(|n| Batch {
            seq: Some(1000 + n / 50),
            received: 1_763_800_000.0 + n as f64 / 997.0,
            base: Base::default(),
            shift: 0.0,
            readings: vec![Reading {
                time: 1_763_800_000.0 + n as f64 / 997.0 - 0.25,
                ..reading(20.0 + n as f64 / 100.0)
            }],
            ..batch(&format!("sensor-{}", n % 50), Vec::new())
        })
        .collect();
    let each = encode(&batches).len() / batches.len();
    assert!(each <= 30, "{each} bytes for each batch");
}

#[test]
fn numbers_take_the_shortest_form_that_is_exact() {
    let len = |value| encode(&[batch("a", vec![reading(value)])]).len();
    let least = len(0.0);
    assert_eq!(len(21.5) - least, 1);
    assert_eq!(len(-63.9) - least, 1);
    assert_eq!(len(1013.25) - least, 2);
    assert_eq!(len(f64::from(0.1_f32)) - least, 3);
    assert_eq!(len(std::f64::consts::PI) - least, 7);
    assert_eq!(len(-0.0) - least, 3);
}

#[test]
fn a_claimed_number_of_readings_allocates_nothing() {
    let mut body = encode(&[batch("a", Vec::new())]);
    body.pop();
    body.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(decode(&body), Err(RecordError::Truncated));
}

#[test]
fn what_a_later_version_adds_to_a_record_is_skipped() {
    let plain = encode(&[batch("a", Vec::new()), batch("a", vec![reading(1.0)])]);
    // Flags, device and epoch, seq, received: then the extras would stand.
    let mut body = plain.clone();
    body[0] |= HAS_EXTRAS;
    let at = plain.len() - encode(&[batch("a", vec![reading(1.0)])]).len();
    let count = body.iter().take(at + 8).rposition(|byte| *byte == 0).unwrap();
    body.splice(count..count, [3, 1, 2, 3]);
    assert_eq!(decode(&body).unwrap(), decode(&plain).unwrap());
}

#[test]
fn what_this_version_does_not_know_is_refused() {
    let good = encode(&[batch("a", vec![reading(1.0)])]);
    let mut bad = good.clone();
    bad[0] |= 0x80;
    assert_eq!(decode(&bad), Err(RecordError::Unknown("record flag")));
    let at = good.windows(2).position(|pair| pair == [1, 9]).unwrap();
    let mut bad = good;
    bad[at + 1] |= 7;
    assert_eq!(decode(&bad), Err(RecordError::Unknown("kind of value")));
}
