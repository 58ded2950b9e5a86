//! Bytes that mean harm: they cost little, and nothing panics.

use ciborium::Value as Cbor;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate::core::batch::{Reading, Value};
use tidegate::core::frame::{DeviceMessage, GatewayMessage, Hello, Welcome};
use tidegate::core::senml::{Limits, encode, resolve};

use crate::support::{LIMITS, NOW, device, hex, resolved};

/// `[2, "i", true, …]`
const RESULT: &str = "84 02 61 69 f5 ";

fn result(value: &str) -> Result<DeviceMessage<'static>, String> {
    let bytes = hex(&format!("{RESULT}{value}")).leak();
    DeviceMessage::decode(bytes).map_err(|e| e.to_string())
}

/// Both where a value is built and where one is passed over.
fn refused_everywhere(item: &str, says: &str) {
    let error = result(item).expect_err(item);
    assert!(error.starts_with("not well-formed CBOR: ") && error.contains(says), "{item}: {error}");
    for prefix in ["83 00 a0 ", "83 01 01 81 ", "82 00 a1 01 "] {
        let bytes = hex(&format!("{prefix}{item}"));
        let error = DeviceMessage::decode(&bytes).expect_err(item).to_string();
        assert!(error.contains(says), "{prefix}{item}: {error}");
    }
}

#[test]
fn what_rfc_8949_appendix_f_lists_is_not_well_formed() {
    for (group, says) in [
        // End of input in a head.
        (
            "18|19|1a|1b|1901|1a010203|1b01020304050607|38|58|78|98|9a01ff00|b8|d8|f8|f900|fa0000|fb000000",
            "ends inside",
        ),
        // Definite-length strings with short data.
        (
            "41|61|5affffffff00|5bffffffffffffffff010203|7affffffff00|7b7fffffffffffffff010203",
            "ends inside",
        ),
        // Definite-length maps and arrays not closed with enough items.
        ("81|818181818181818181|8200|a1|a20102|a100|a2000000", "ends inside"),
        (
            "9bffffffffffffffff|bbffffffffffffffff|bb7fffffffffffffff|9b7fffffffffffffff",
            "ends inside",
        ),
        // Tag without content.
        ("c0", "ends inside"),
        // Indefinite-length strings, arrays and maps not closed.
        (
            "5f4100|7f6100|9f|9f0102|bf|bf01020102|819f|9f8000|9f9f9f9f9fffffffff|9f819f819f9fffffff",
            "ends inside",
        ),
        // Reserved additional information.
        ("1c|1d|1e|3c|3d|3e|5c|5d|5e|7c|7d|7e|9c|9d|9e|bc|bd|be|dc|dd|de|fc|fd|fe", "reserved"),
        // Reserved two-byte encodings of simple values.
        ("f800|f801|f818|f81f", "reserved"),
        // Indefinite-length string chunks of the wrong kind, or not definite.
        (
            "5f00ff|5f21ff|5f6100ff|5f80ff|5fa0ff|5fc000ff|5fe0ff|7f4100ff|5f5f4100ffff|7f7f6100ffff",
            "chunk",
        ),
        // Break on its own, or in the place of an item.
        ("ff|81ff|8200ff|a1ff|a1ff00|a100ff|a20000ff|9f81ff|9f829f819f9fffffffff", "break"),
        ("bf00ff|bf000000ff", "break"),
        // Major types 0, 1 and 6 with an indefinite length.
        ("1f|3f|df", "reserved"),
        // Text that is not UTF-8 (section 5.3.1); in chunks, each for itself.
        ("61ff|62c328|7f61c361a9ff|63eda080", "UTF-8"),
    ] {
        for item in group.split('|') {
            refused_everywhere(item, says);
        }
    }
}

#[test]
fn nesting_is_limited_to_16_levels() {
    // The message is the first level.
    for (open, close) in [("81", ""), ("9f", "ff"), ("a100", ""), ("bf00", "ff"), ("c1", "")] {
        let nested = |levels: usize| format!("{} 00 {}", open.repeat(levels), close.repeat(levels));
        assert!(result(&nested(15)).is_ok(), "{open}");
        refused_everywhere(&nested(16), "more than 16 levels");
        refused_everywhere(&nested(30_000), "more than 16 levels");
    }
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let limits = Limits { max_records: usize::MAX, max_ahead: 300.0 };
    for pack in ["9b 00ffffffffffffff a2 00 6161 02 01", "9a ffffffff", "9b ffffffffffffffff"] {
        // Reserving that many readings would abort the process.
        assert!(resolve(&hex(pack), &device(), NOW, &limits).is_err());
    }
    for value in ["5b 00ffffffffffffff 00", "7b 00ffffffffffffff 61", "9b 00ffffffffffffff 00"] {
        assert!(result(value).is_err());
    }
}

#[test]
fn a_base_name_as_long_as_the_frame_is_not_copied_for_each_record() {
    let mut pack = hex("9f a1 21 79 f000");
    pack.extend(std::iter::repeat_n(b'a', 0xf000));
    pack.extend(hex("a1 02 01 ff"));
    assert!(resolved(&pack).unwrap_err().reason.starts_with("record 1: its name has 61440"));
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9:./_-]{0,63}"
}

fn finite() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |number| number.is_finite()),
        (-1000i32..1000).prop_map(f64::from),
        any::<i64>().prop_map(|number| number as f64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        finite().prop_map(Value::Number),
        any::<bool>().prop_map(Value::Bool),
        ".{0,40}".prop_map(|text| Value::Text(text.into())),
        vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Data(bytes.into())),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    (
        name(),
        proptest::option::of("[ -~é]{0,20}"),
        prop_oneof![
            (value().prop_map(Some), proptest::option::of(finite())),
            (Just(None), finite().prop_map(Some)),
        ],
        268_435_456f64..=NOW,
        proptest::option::of(0f64..1e9),
    )
        .prop_map(|(name, unit, (value, sum), time, update_time)| Reading {
            name: name.into(),
            unit: unit.map(Into::into),
            value,
            sum,
            time,
            update_time,
            relative: false,
        })
        .prop_filter("the device's own id would be taken off", |reading| {
            !reading.name.starts_with("kiln-3")
        })
}

fn readings() -> impl Strategy<Value = Vec<Reading>> {
    vec(reading(), 1..20).prop_map(|mut readings| {
        readings.sort_by(|a, b| a.time.total_cmp(&b.time));
        readings
    })
}

/// Values that ciborium and tidegate write and read alike.
fn cbor_value() -> impl Strategy<Value = Cbor> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Cbor::from),
        any::<u64>().prop_map(Cbor::from),
        finite().prop_map(Cbor::Float),
        ".{0,20}".prop_map(Cbor::Text),
        vec(any::<u8>(), 0..20).prop_map(Cbor::Bytes),
        any::<bool>().prop_map(Cbor::Bool),
        Just(Cbor::Null),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Cbor::Array),
            vec((inner.clone(), inner.clone()), 0..8).prop_map(Cbor::Map),
            (100u64..1000, inner).prop_map(|(tag, value)| Cbor::Tag(tag, Box::new(value))),
        ]
    })
}

fn device_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (
            any::<Option<u64>>(),
            proptest::option::of(".{0,40}"),
            proptest::option::of(".{0,40}"),
            vec(".{0,20}", 0..5)
        )
            .prop_map(|(epoch, model, firmware, commands)| {
                DeviceMessage::Hello(Hello { epoch, model, firmware, commands }).encode()
            }),
        (proptest::option::of(1u64..), readings()).prop_map(|(seq, readings)| {
            DeviceMessage::Readings { seq, pack: &encode(&readings) }.encode()
        }),
        (".{0,40}", any::<bool>(), cbor_value())
            .prop_map(|(id, ok, value)| DeviceMessage::Result { id, ok, value }.encode()),
    ]
}

fn gateway_message() -> impl Strategy<Value = GatewayMessage> {
    prop_oneof![
        (".{0,40}", finite(), any::<[u64; 4]>()).prop_map(
            |(gateway, time, [acked, window, max_frame, heartbeat])| {
                GatewayMessage::Welcome(Welcome {
                    gateway,
                    time,
                    acked,
                    window,
                    max_frame,
                    heartbeat,
                })
            }
        ),
        any::<u64>().prop_map(|seq| GatewayMessage::Ack { seq }),
        (any::<Option<u64>>(), any::<u64>(), ".{0,80}")
            .prop_map(|(seq, code, reason)| GatewayMessage::Reject { seq, code, reason }),
        (".{0,40}", ".{0,40}", cbor_value(), any::<u64>())
            .prop_map(|(id, name, params, ttl)| GatewayMessage::Command { id, name, params, ttl }),
    ]
}

/// Everything that reads bytes, and what must hold of all that it accepts.
fn read_everything(bytes: &[u8]) {
    if let Ok(message) = DeviceMessage::decode(bytes) {
        // Encoded again it is the same message (compared as bytes: NaN is not equal to itself).
        let again = message.encode();
        assert_eq!(DeviceMessage::decode(&again).unwrap().encode(), again);
        if let DeviceMessage::Readings { pack, .. } = message {
            read_pack(pack);
        }
    }
    if let Ok(message) = GatewayMessage::decode(bytes) {
        let again = message.encode();
        assert_eq!(GatewayMessage::decode(&again).unwrap().encode(), again);
    }
    read_pack(bytes);
}

fn read_pack(pack: &[u8]) {
    match resolved(pack) {
        Err(reject) => assert!(!reject.reason.is_empty() && reject.reason.len() < 400),
        Ok(readings) => {
            assert!(!readings.is_empty() && readings.len() <= LIMITS.max_records);
            assert!(readings.is_sorted_by(|a, b| a.time <= b.time));
            for reading in readings {
                assert!((1..=64).contains(&reading.name.len()));
                assert!(reading.name.as_bytes()[0].is_ascii_alphanumeric());
                assert!((0.0..=NOW + LIMITS.max_ahead).contains(&reading.time));
                assert!(reading.value.is_some() || reading.sum.is_some());
                assert!(!matches!(reading.value, Some(Value::Number(n)) if !n.is_finite()));
                assert!(reading.sum.is_none_or(f64::is_finite));
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_resolves_to_itself(readings in readings()) {
        prop_assert_eq!(resolved(&encode(&readings)), Ok(readings));
    }

    #[test]
    fn a_gateway_message_survives_the_wire(message in gateway_message()) {
        prop_assert_eq!(GatewayMessage::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_value_is_read_as_ciborium_reads_it(value in cbor_value()) {
        let message = DeviceMessage::Result { id: "i".into(), ok: true, value };
        let bytes = message.encode();
        prop_assert_eq!(DeviceMessage::decode(&bytes), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }

    /// Reaches deeper than plain noise: each byte is likely to begin or go on with something.
    #[test]
    fn likely_bytes_never_panic(
        bytes in vec(prop_oneof![
            0u8..10, 0x20u8..0x27, 0x60u8..0x65, 0x80u8..0x85, 0xa0u8..0xa4, 0xc0u8..0xc6,
            0xf4u8..=0xff, Just(0x5f), Just(0x7f), Just(0x9f), Just(0xbf), b'a'..b'c',
        ], 0..60),
        start in proptest::sample::select(vec!["", "83 01 01", "81 a2 00 61 61", "82 00", "82 10"]),
    ) {
        let mut all = hex(start);
        all.extend(bytes);
        read_everything(&all);
    }

    #[test]
    fn a_message_cut_short_is_an_error(bytes in device_bytes(), cut in any::<proptest::sample::Index>()) {
        prop_assert!(DeviceMessage::decode(&bytes).is_ok());
        let cut = cut.index(bytes.len());
        prop_assert!(DeviceMessage::decode(&bytes[..cut]).is_err());
        read_everything(&bytes[..cut]);
    }

    #[test]
    fn a_damaged_message_never_panics(
        mut bytes in device_bytes(),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read_everything(&bytes);
    }
}
