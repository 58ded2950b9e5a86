//! A device's WebSocket frames in pieces, compared with what the bare library reads at once.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate::device::fuzzing::frames(bytes));
