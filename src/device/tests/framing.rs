//! The framing in any pieces, against the bare library.

use proptest::prelude::*;

use super::harness::{MASK, frame, request};
use crate::device::fuzzing;

/// Frames that are mostly in order, in any succession.
fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x82_u8, 0x02, 0x00, 0x80, 0x81, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let one = (first, prop::collection::vec(any::<u8>(), 0..160), prop::bool::weighted(0.95));
    prop::collection::vec(one, 0..12).prop_map(|frames| {
        let frame = |(first, payload, masked): (u8, Vec<u8>, bool)| {
            frame(first, &payload, MASK.filter(|_| masked))
        };
        frames.into_iter().flat_map(frame).collect()
    })
}

proptest! {
    #[test]
    fn frames_in_any_pieces_are_what_the_library_reads_at_once(
        piece in any::<u8>(), room in any::<u8>(), bytes in some_frames(),
    ) {
        fuzzing::frames(&[&[piece, room], &bytes[..]].concat());
    }

    #[test]
    fn a_request_with_a_byte_changed_is_judged_the_same_in_pieces(
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = request("kiln-3", "Authorization: Bearer t\r\n").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fuzzing::handshake(&bytes);
    }
}

#[test]
fn many_empty_fragments_end_where_the_allowance_does() {
    let mut bytes = vec![7, 3];
    bytes.extend(frame(0x02, &[], MASK));
    (0..400).for_each(|_| bytes.extend(frame(0x00, &[], MASK)));
    fuzzing::frames(&bytes);
}
