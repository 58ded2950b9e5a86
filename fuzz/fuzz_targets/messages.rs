//! Messages of both directions from arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::core::frame::{DeviceMessage, GatewayMessage};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = DeviceMessage::decode(bytes) {
        if let DeviceMessage::Readings { pack, .. } = &message {
            let major = pack.first().map(|first| first >> 5);
            assert_eq!(major, Some(4), "a pack is an array");
        }
        // Compared as bytes: NaN is not equal to itself.
        let again = message.encode();
        let twice = DeviceMessage::decode(&again).expect("what was encoded decodes").encode();
        assert_eq!(again, twice);
    }
    if let Ok(message) = GatewayMessage::decode(bytes) {
        let again = message.encode();
        let twice = GatewayMessage::decode(&again).expect("what was encoded decodes").encode();
        assert_eq!(again, twice);
    }
});
