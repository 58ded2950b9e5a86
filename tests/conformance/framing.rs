//! RFC 6455 section 5: frames, and messages in pieces.

use crate::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, Frame, Gateway, HELLO, MASK, MASKED, MAX_FRAME, PING, PONG,
    TEXT, frame, hello, with_length,
};

#[test]
fn every_length_is_read() {
    let gateway = Gateway::start();
    for length in [9, 125, 126, 127, 65_535, 65_536, MAX_FRAME] {
        let mut wire = gateway.open();
        wire.send(&frame(FIN | BINARY, &hello(length)));
        wire.welcome();
    }
}

#[test]
fn a_length_in_more_bytes_than_it_needs_is_read_all_the_same() {
    let gateway = Gateway::start();
    for length in [&[MASKED | 0x7e, 0, 9][..], &[MASKED | 0x7f, 0, 0, 0, 0, 0, 0, 0, 9]] {
        let mut wire = gateway.open();
        wire.send(&with_length(FIN | BINARY, length, MASK, &hello(9)));
        wire.welcome();
    }
}

#[test]
fn a_message_over_max_frame_is_1009_by_its_header_alone() {
    let gateway = Gateway::start();
    let over = [MAX_FRAME as u64 + 1, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];
    for over in over {
        let mut wire = gateway.greeted();
        let length = [&[MASKED | 0x7f][..], &over.to_be_bytes()].concat();
        wire.send(&with_length(FIN | BINARY, &length, MASK, &[]));
        let (code, reason) = wire.closed();
        assert_eq!(code, 1009, "{over}");
        assert!(reason.contains(&MAX_FRAME.to_string()), "{reason}");
    }
    let mut wire = gateway.greeted();
    wire.send(&frame(BINARY, &vec![0; MAX_FRAME]));
    wire.send(&frame(FIN | CONTINUATION, &[0]));
    assert_eq!(wire.closed().0, 1009, "in pieces");
}

#[test]
fn any_mask_is_taken_off_and_none_is_1002() {
    let gateway = Gateway::start();
    for mask in [[0; 4], [0xff; 4], [1, 2, 3, 4]] {
        let mut wire = gateway.open();
        let length = u8::try_from(HELLO.len()).unwrap();
        wire.send(&with_length(FIN | BINARY, &[MASKED | length], mask, HELLO));
        wire.welcome();
    }
    for opcode in [BINARY, TEXT, PING, PONG, CLOSE] {
        let mut wire = gateway.greeted();
        wire.send(&[FIN | opcode, 0]);
        assert_eq!(wire.closed().0, 1002, "opcode {opcode} without a mask");
    }
}

#[test]
fn reserved_bits_are_1002() {
    let gateway = Gateway::start();
    for bit in [0x40, 0x20, 0x10] {
        for opcode in [BINARY, PING] {
            let mut wire = gateway.greeted();
            wire.send(&frame(FIN | bit | opcode, &[0x80]));
            assert_eq!(wire.closed().0, 1002, "bit {bit:#x}, opcode {opcode}");
        }
    }
}

#[test]
fn reserved_opcodes_are_1002() {
    let gateway = Gateway::start();
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        let mut wire = gateway.greeted();
        wire.send(&frame(FIN | opcode, &[]));
        assert_eq!(wire.closed().0, 1002, "opcode {opcode:#x}");
    }
}

#[test]
fn a_message_in_pieces_is_one_whatever_comes_between() {
    let gateway = Gateway::start();
    let mut wire = gateway.open();
    let message = hello(300);
    wire.send(&frame(BINARY, &[]));
    for (i, byte) in message.iter().enumerate() {
        wire.send(&frame(CONTINUATION, &[*byte]));
        if i == 100 {
            wire.send(&frame(FIN | PING, b"between"));
            assert_eq!(wire.frame(), Frame { first: FIN | PONG, payload: b"between".to_vec() });
            wire.send(&frame(FIN | PONG, b"nobody asked"));
            wire.send(&frame(CONTINUATION, &[]));
        }
    }
    wire.send(&frame(FIN | CONTINUATION, &[]));
    wire.welcome();
}

#[test]
fn pieces_out_of_order_are_1002() {
    let gateway = Gateway::start();
    let piece = |first: u8| frame(first, &[1]);
    let wrong = [
        ("an end of nothing", vec![piece(FIN | CONTINUATION)]),
        ("a middle of nothing", vec![piece(CONTINUATION)]),
        ("a message in a message", vec![piece(BINARY), piece(FIN | BINARY)]),
        ("a beginning in a message", vec![piece(BINARY), piece(CONTINUATION), piece(BINARY)]),
        ("text in a message", vec![piece(BINARY), piece(FIN | TEXT)]),
    ];
    for (what, frames) in wrong {
        let mut wire = gateway.greeted();
        wire.send(&frames.concat());
        assert_eq!(wire.closed().0, 1002, "{what}");
    }
}

#[test]
fn control_frames_in_pieces_or_over_125_bytes_are_1002() {
    let gateway = Gateway::start();
    for opcode in [PING, PONG, CLOSE] {
        let long = frame(FIN | opcode, &[3; 126]);
        for (what, bytes) in [("in pieces", frame(opcode, &[])), ("126 bytes", long)] {
            let mut wire = gateway.greeted();
            wire.send(&bytes);
            assert_eq!(wire.closed().0, 1002, "opcode {opcode} {what}");
        }
    }
}

#[test]
fn pings_are_answered_with_what_they_carry_and_pongs_not() {
    let gateway = Gateway::start();
    for mut wire in [gateway.open(), gateway.greeted()] {
        for payload in [&[][..], &[0], &[0xff; 125]] {
            wire.send(&frame(FIN | PONG, payload));
            wire.send(&frame(FIN | PING, payload));
            assert_eq!(wire.frame(), Frame { first: FIN | PONG, payload: payload.to_vec() });
        }
    }
}

#[test]
fn of_pings_in_one_segment_the_last_is_answered() {
    let gateway = Gateway::start();
    let mut wire = gateway.greeted();
    let pings: Vec<u8> = (0..50).flat_map(|number| frame(FIN | PING, &[number])).collect();
    wire.send(&pings);
    // Those before may be left out (section 5.5.3); none is answered twice or late.
    let mut last = None;
    while last != Some(49) {
        let Frame { first, payload } = wire.frame();
        assert_eq!((first, payload.len()), (FIN | PONG, 1));
        assert!(last < Some(payload[0]), "{} after {last:?}", payload[0]);
        last = Some(payload[0]);
    }
}

#[test]
fn text_is_1003_and_text_that_is_not_utf_8_is_1007() {
    let gateway = Gateway::start();
    for mut wire in [gateway.open(), gateway.greeted()] {
        wire.send(&frame(TEXT, b"[1, \"\xc3"));
        wire.send(&frame(FIN | CONTINUATION, b"\xa9\"]"));
        assert_eq!(wire.closed().0, 1003);
    }
    for bytes in [&[0xff][..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xc3"] {
        let mut wire = gateway.greeted();
        wire.send(&frame(FIN | TEXT, bytes));
        assert_eq!(wire.closed().0, 1007, "{bytes:x?}");
    }
}
