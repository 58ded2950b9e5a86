//! `tests/golden/wire/*.txt` freeze the wire: each file is one message or pack, in hexadecimal.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ciborium::Value as Cbor;
use tidegate::core::batch::{Reading, Value};
use tidegate::core::frame::{DeviceMessage, GatewayMessage, Hello, Welcome};
use tidegate::core::senml::encode;

use crate::support::{hex, reading, resolved};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire")
}

fn golden(name: &str) -> Vec<u8> {
    let path = folder().join(name).with_extension("txt");
    hex(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

const PACK: &[u8] = b"\x81\xa4\x00\x6btemperature\x01\x63Cel\x02\xf9\x4d\x60\x06\x24";

fn device_messages() -> Vec<(&'static str, DeviceMessage<'static>)> {
    vec![
        (
            "device-hello",
            DeviceMessage::Hello(Hello {
                epoch: Some(7),
                model: Some("kiln-mk2".into()),
                firmware: Some("1.4.0".into()),
                commands: vec!["reboot".into(), "setpoint".into()],
            }),
        ),
        ("device-hello-bare", DeviceMessage::Hello(Hello::default())),
        ("device-readings", DeviceMessage::Readings { seq: Some(42), pack: PACK }),
        (
            "device-readings-best-effort",
            DeviceMessage::Readings { seq: None, pack: b"\x81\xa2\x00\x64open\x04\xf5" },
        ),
        (
            "device-result",
            DeviceMessage::Result {
                id: "c-17".into(),
                ok: true,
                value: Cbor::Map(vec![("was".into(), 20.0.into())]),
            },
        ),
    ]
}

fn gateway_messages() -> Vec<(&'static str, GatewayMessage)> {
    vec![
        (
            "gateway-welcome",
            GatewayMessage::Welcome(Welcome {
                gateway: "gw-1".into(),
                time: 1_763_786_624.125,
                acked: 41,
                window: 64,
                max_frame: 65_536,
                heartbeat: 30,
            }),
        ),
        ("gateway-ack", GatewayMessage::Ack { seq: 42 }),
        (
            "gateway-reject",
            GatewayMessage::Reject {
                seq: Some(42),
                code: 1,
                reason: "record 0: 'v' (2) is not a finite number".into(),
            },
        ),
        (
            "gateway-reject-best-effort",
            GatewayMessage::Reject {
                seq: None,
                code: 3,
                reason: "the pack holds more than 1024 records".into(),
            },
        ),
        (
            "gateway-command",
            GatewayMessage::Command {
                id: "c-17".into(),
                name: "setpoint".into(),
                params: Cbor::Map(vec![("celsius".into(), 21.into())]),
                ttl: 60,
            },
        ),
    ]
}

fn resolved_pack() -> Vec<Reading> {
    let other = |name: &str, value: Value| Reading {
        value: Some(value),
        ..reading(name, "", 0.0, 1_763_831_808.0)
    };
    vec![
        reading("temperature", "Cel", 21.5, 1_763_831_808.0),
        other("label", Value::Text("Machine Room".into())),
        other("open", Value::Bool(false)),
        Reading {
            value: None,
            sum: Some(-4000.0),
            update_time: Some(60.0),
            ..reading("flow", "l/s", 0.0, 1_763_831_808.125)
        },
        Reading {
            time: 1_763_831_809.0,
            ..other("nfc/reader", Value::Data(b"hi b".as_slice().into()))
        },
    ]
}

#[test]
fn every_message_of_a_device_is_read_and_written_as_its_golden_file_says() {
    for (name, message) in device_messages() {
        let bytes = golden(name);
        assert_eq!(DeviceMessage::decode(&bytes).as_ref(), Ok(&message), "{name}");
        assert_eq!(message.encode(), bytes, "{name}");
    }
}

#[test]
fn every_message_of_the_gateway_is_read_and_written_as_its_golden_file_says() {
    for (name, message) in gateway_messages() {
        let bytes = golden(name);
        assert_eq!(GatewayMessage::decode(&bytes).as_ref(), Ok(&message), "{name}");
        assert_eq!(message.encode(), bytes, "{name}");
    }
}

#[test]
fn a_resolved_pack_is_written_as_its_golden_file_says() {
    let bytes = golden("pack-resolved");
    assert_eq!(encode(&resolved_pack()), bytes);
    let now = 1_763_831_900.0;
    let back = tidegate::core::senml::resolve(
        &bytes,
        &crate::support::device(),
        now,
        &crate::support::LIMITS,
    );
    assert_eq!(back, Ok(resolved_pack()));
}

#[test]
fn the_cbor_example_of_rfc_8428_section_6_resolves() {
    let bt = 1_276_020_076.001;
    let mut expected: Vec<_> = [(-5.0, 1.2), (-4.0, 1.3), (-3.0, 1.4), (-2.0, 1.5), (-1.0, 1.6)]
        .iter()
        .map(|(t, v)| reading("urn:dev:ow:10e2073a0108006:current", "A", *v, bt + t))
        .collect();
    expected.push(reading("urn:dev:ow:10e2073a0108006:voltage", "V", 120.1, bt));
    expected.push(reading("urn:dev:ow:10e2073a0108006:current", "A", 1.7, bt));
    assert_eq!(resolved(&golden("pack-rfc8428-section-6")), Ok(expected));
}

#[test]
fn every_golden_file_is_read_by_a_test() {
    let on_disk: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let tested: BTreeSet<String> = device_messages()
        .iter()
        .map(|(name, _)| *name)
        .chain(gateway_messages().iter().map(|(name, _)| *name))
        .chain(["pack-resolved", "pack-rfc8428-section-6"])
        .map(str::to_owned)
        .collect();
    assert_eq!(on_disk, tested);
}
