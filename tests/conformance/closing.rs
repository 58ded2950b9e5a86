//! RFC 6455 sections 5.5.1 and 7: how a WebSocket ends.

use crate::wire::{BINARY, CLOSE, CONTINUATION, FIN, Gateway, HELLO, PING, TEXT, frame};

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

#[test]
fn a_code_that_may_be_sent_comes_back_and_the_connection_ends() {
    let gateway = Gateway::start();
    let known = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013];
    for code in known.into_iter().chain([3000, 3999, 4000, 4999]) {
        let mut wire = gateway.greeted();
        wire.send(&close(code, b"enough"));
        assert_eq!(wire.closed(), (code, "enough".to_owned()));
    }
}

#[test]
fn a_code_that_must_not_be_sent_is_1002() {
    let gateway = Gateway::start();
    let not_sent = [0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for code in not_sent {
        let mut wire = gateway.greeted();
        wire.send(&close(code, b""));
        assert_eq!(wire.closed().0, 1002, "{code}");
    }
}

#[test]
fn a_close_without_a_code_is_answered_by_one() {
    let gateway = Gateway::start();
    for mut wire in [gateway.open(), gateway.greeted()] {
        wire.send(&frame(FIN | CLOSE, &[]));
        let answer = wire.frame();
        assert_eq!((answer.first, answer.payload.len()), (FIN | CLOSE, 0));
        wire.ends();
    }
}

#[test]
fn half_a_code_is_1002_and_a_reason_that_is_not_utf_8_is_1007() {
    let gateway = Gateway::start();
    let mut wire = gateway.greeted();
    wire.send(&frame(FIN | CLOSE, &[3]));
    assert_eq!(wire.closed().0, 1002);
    let mut wire = gateway.greeted();
    wire.send(&close(1000, b"\xce\xba\xff"));
    assert_eq!(wire.closed().0, 1007);
    let mut wire = gateway.greeted();
    let longest = [b'r'; 123];
    wire.send(&close(1000, &longest));
    assert_eq!(wire.closed().1.as_bytes(), longest);
}

#[test]
fn nothing_behind_a_close_is_read() {
    let gateway = Gateway::start();
    for behind in
        [frame(FIN | PING, b"?"), frame(FIN | TEXT, b"x"), close(1001, b""), vec![0xff; 9]]
    {
        let mut wire = gateway.greeted();
        wire.send(&[close(1000, b""), behind].concat());
        assert_eq!(wire.closed().0, 1000);
    }
}

#[test]
fn a_close_in_the_middle_of_a_message_ends_it() {
    let gateway = Gateway::start();
    let mut wire = gateway.open();
    wire.send(&[frame(BINARY, &HELLO[..1]), close(1000, b"")].concat());
    assert_eq!(wire.closed().0, 1000);
}

#[test]
fn what_came_before_a_breach_is_answered_before_the_close() {
    let gateway = Gateway::start();
    let mut wire = gateway.open();
    wire.send(&[frame(FIN | BINARY, HELLO), frame(FIN | CONTINUATION, &[])].concat());
    let first = wire.frame();
    if first.first == FIN | BINARY {
        assert_eq!(wire.closed().0, 1002);
    } else {
        // Both were read in one go, before the greeting was done.
        assert_eq!((first.first, &first.payload[..2]), (FIN | CLOSE, &[0x03, 0xea][..]));
        wire.ends();
    }
}

#[test]
fn a_close_of_the_gateway_comes_with_a_reason_and_before_the_end() {
    let gateway = Gateway::start();
    // Out of turn, no message at all, no CBOR: the library would take all of them.
    for (bytes, code) in [(&[0x82, 0x00, 0xa0][..], 1002), (&[0xa0], 1007), (&[0xff], 1007)] {
        let mut wire = gateway.greeted();
        wire.send(&frame(FIN | BINARY, bytes));
        let (closed, reason) = wire.closed();
        assert_eq!(closed, code, "{bytes:x?}");
        assert!(!reason.is_empty(), "{code} says why");
    }
}
