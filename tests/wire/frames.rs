//! The messages: what is ignored, what is refused, and in which words.

use ciborium::Value as Cbor;
use tidegate::core::frame::{DeviceMessage, GatewayMessage, Hello};

use crate::support::{cbor, hex};

fn device_error(bytes: &[u8]) -> String {
    DeviceMessage::decode(bytes).unwrap_err().to_string()
}

fn hello(fields: Vec<(Cbor, Cbor)>) -> Vec<u8> {
    cbor(&Cbor::Array(vec![0.into(), Cbor::Map(fields)]))
}

#[test]
fn unknown_map_keys_and_extra_items_are_ignored() {
    let message = cbor(&Cbor::Array(vec![
        0.into(),
        Cbor::Map(vec![
            ("colour".into(), Cbor::Array(vec!["red".into()])),
            ("epoch".into(), 7.into()),
            (3.into(), Cbor::Null),
            (Cbor::Array(vec![]), Cbor::Map(vec![])),
        ]),
        "more".into(),
        Cbor::Map(vec![]),
    ]));
    let expected = Hello { epoch: Some(7), ..Hello::default() };
    assert_eq!(DeviceMessage::decode(&message), Ok(DeviceMessage::Hello(expected)));

    let message = hex("85 01 05 80 f4 61 61");
    let expected = DeviceMessage::Readings { seq: Some(5), pack: &[0x80] };
    assert_eq!(DeviceMessage::decode(&message), Ok(expected));
    assert_eq!(GatewayMessage::decode(&hex("83 11 05 80")), Ok(GatewayMessage::Ack { seq: 5 }));
}

#[test]
fn indefinite_lengths_are_read_like_definite_ones() {
    // [_ 0, {_ "epoch": 7, "model": (_ "ki", "ln")}]
    let message = hex("9f 00 bf 65 65706f6368 07 65 6d6f64656c 7f 62 6b69 62 6c6e ff ff ff");
    let expected = Hello { epoch: Some(7), model: Some("kiln".into()), ..Hello::default() };
    assert_eq!(DeviceMessage::decode(&message), Ok(DeviceMessage::Hello(expected)));
    // [_ 1, 5, [_ {_ 0: "a", 2: 1}]]
    let message = hex("9f 01 05 9f bf 00 6161 02 01 ff ff ff");
    let expected = DeviceMessage::Readings { seq: Some(5), pack: &message[3..12] };
    assert_eq!(DeviceMessage::decode(&message), Ok(expected));
}

#[test]
fn a_known_field_of_the_wrong_type_is_named() {
    let text = || Cbor::from("x");
    for (bytes, says) in [
        (hello(vec![("epoch".into(), text())]), "HELLO: epoch is text, not an unsigned integer"),
        (
            hello(vec![("epoch".into(), (-1).into())]),
            "HELLO: epoch is a negative integer, not an unsigned integer",
        ),
        (hello(vec![("model".into(), Cbor::Null)]), "HELLO: model is null, not text"),
        (
            hello(vec![("firmware".into(), 1.into())]),
            "HELLO: firmware is an unsigned integer, not text",
        ),
        (hello(vec![("commands".into(), text())]), "HELLO: commands is text, not an array"),
        (
            hello(vec![("commands".into(), Cbor::Array(vec![1.into()]))]),
            "HELLO: a command's name is an unsigned integer, not text",
        ),
        (hex("82 00 80"), "HELLO: its second item is an array, not a map"),
        (hex("83 01 61 61 80"), "READINGS: seq is text, not an unsigned integer or null"),
        (
            hex("83 01 20 80"),
            "READINGS: seq is a negative integer, not an unsigned integer or null",
        ),
        (hex("83 01 f7 80"), "READINGS: seq is undefined, not an unsigned integer or null"),
        (hex("83 01 05 a0"), "READINGS: pack is a map, not an array"),
        (hex("84 02 05 f5 f6"), "RESULT: id is an unsigned integer, not text"),
        (hex("84 02 61 61 01 f6"), "RESULT: ok is an unsigned integer, not a boolean"),
        (hex("a0"), "the message is a map, not an array"),
        (hex("81 61 61"), "the message: its type is text, not an unsigned integer"),
    ] {
        assert_eq!(device_error(&bytes), says);
    }
    assert_eq!(
        GatewayMessage::decode(&hex("82 11 f6")).unwrap_err().to_string(),
        "ACK: seq is null, not an unsigned integer"
    );
}

#[test]
fn what_is_missing_doubled_or_unknown_is_named() {
    for (bytes, says) in [
        (hex("80"), "the message: its type is missing"),
        (hex("81 00"), "HELLO: its map is missing"),
        (hex("81 01"), "READINGS: seq is missing"),
        (hex("82 01 05"), "READINGS: pack is missing"),
        (hex("83 02 61 61 f5"), "RESULT: value is missing"),
        (hex("82 03 05"), "message type 3 is not one that a device sends"),
        (hex("82 11 05"), "message type 17 is not one that a device sends"),
        (hex("83 01 00 80"), "READINGS: seq is 0, numbers start at 1"),
        (
            hello(vec![("epoch".into(), 1.into()), ("epoch".into(), 1.into())]),
            "HELLO: epoch comes twice",
        ),
    ] {
        assert_eq!(device_error(&bytes), says);
    }
    assert_eq!(
        GatewayMessage::decode(&hex("82 00 a0")).unwrap_err().to_string(),
        "message type 0 is not one that a gateway sends"
    );
    let welcome = cbor(&Cbor::Array(vec![
        16.into(),
        Cbor::Map(vec![("gateway".into(), "g".into()), ("time".into(), 5.into())]),
    ]));
    assert_eq!(
        GatewayMessage::decode(&welcome).unwrap_err().to_string(),
        "WELCOME: acked is missing"
    );
}

#[test]
fn texts_and_lists_of_hello_are_limited_and_the_limit_is_named() {
    let commands = |count: usize, chars: usize| {
        let names = (0..count).map(|_| "é".repeat(chars).into()).collect();
        hello(vec![("commands".into(), Cbor::Array(names))])
    };
    let text = |key: &str, chars: usize| hello(vec![(key.into(), "é".repeat(chars).into())]);
    for good in [commands(64, 64), text("model", 128), text("firmware", 128)] {
        assert!(DeviceMessage::decode(&good).is_ok());
    }
    for (bad, says) in [
        (commands(65, 1), "HELLO: commands lists more than 64"),
        (commands(1, 65), "HELLO: a command's name has 65 characters, the limit is 64"),
        (text("model", 129), "HELLO: model has 129 characters, the limit is 128"),
        (text("firmware", 129), "HELLO: firmware has 129 characters, the limit is 128"),
        (
            DeviceMessage::Result { id: "i".repeat(129), ok: true, value: Cbor::Null }.encode(),
            "RESULT: id has 129 characters, the limit is 128",
        ),
    ] {
        assert_eq!(device_error(&bad), says);
    }
    let long_id = GatewayMessage::Command {
        id: "i".repeat(129),
        name: "n".into(),
        params: Cbor::Null,
        ttl: 1,
    };
    assert!(GatewayMessage::decode(&long_id.encode()).is_err());
}

#[test]
fn bytes_left_over_are_refused() {
    let bytes = hex("83 01 05 80 00");
    assert_eq!(device_error(&bytes), "not well-formed CBOR: bytes left over at byte 4");
    assert!(GatewayMessage::decode(&hex("82 11 05 00")).is_err());
}

#[test]
fn any_value_of_a_result_arrives_as_it_was_sent() {
    for (sent, expected) in [
        ("f7", Cbor::Null),
        ("3b ffffffffffffffff", Cbor::Integer((-1 - i128::from(u64::MAX)).try_into().unwrap())),
        ("1b ffffffffffffffff", Cbor::from(u64::MAX)),
        (
            "c2 49 010000000000000000",
            Cbor::Tag(2, Box::new(Cbor::Bytes(hex("010000000000000000")))),
        ),
        ("f9 7c00", Cbor::Float(f64::INFINITY)),
        ("5f 41 01 42 0203 ff", Cbor::Bytes(vec![1, 2, 3])),
        ("bf 01 f4 ff", Cbor::Map(vec![(1.into(), Cbor::Bool(false))])),
        ("9f 01 9f ff ff", Cbor::Array(vec![1.into(), Cbor::Array(vec![])])),
    ] {
        let bytes = hex(&format!("84 02 61 69 f5 {sent}"));
        let Ok(DeviceMessage::Result { value, .. }) = DeviceMessage::decode(&bytes) else {
            panic!("{sent}: {:?}", DeviceMessage::decode(&bytes));
        };
        assert_eq!(value, expected, "{sent}");
    }
}
