//! The HTTP request that opens a device's WebSocket, at once and in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate::device::fuzzing::handshake(bytes));
