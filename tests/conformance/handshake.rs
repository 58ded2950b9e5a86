//! RFC 6455 section 4.2 and RFC 9112: the request that opens a WebSocket, and what is wrong with
//! others.

use crate::wire::{BINARY, FIN, Gateway, HELLO, frame, request};

#[test]
fn a_good_request_is_answered_as_the_rfc_computes_it() {
    let gateway = Gateway::start();
    let answer = gateway.ask(request(""));
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("tidegate.v1"));
    assert_eq!(answer.header("sec-websocket-extensions"), None);
}

#[test]
fn what_the_rfc_lets_a_client_vary_is_accepted() {
    let gateway = Gateway::start();
    let with = |from: &str, to: &str| {
        let request = request("");
        assert!(request.contains(from), "{from:?} is in the request");
        request.replace(from, to)
    };
    let good = [
        ("names of headers in any case", with("Upgrade: websocket", "uPGRADE: websocket")),
        ("the protocol in any case", with(": websocket", ": WebSocket")),
        ("a list in Connection", with(": Upgrade", ": keep-alive, upgrade")),
        ("a list over two lines", with("Connection: ", "Connection: keep-alive\r\nConnection: ")),
        ("another version of HTTP to upgrade to", with(": websocket", ": h2c, websocket")),
        ("spaces around values", with(": 13", ":   13  ")),
        ("no space before a value", with(": 13", ":13")),
        ("other subprotocols", with(": tidegate.v1", ": mqtt, tidegate.v1,tidegate.v9")),
        (
            "extensions, which are declined",
            request("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        ),
        ("headers that nobody knows", request("X-Later: \"x\"\r\nCookie: a=b\r\n")),
        ("the absolute form", with(" /v1/", " http://gateway.example/v1/")),
        ("a query", with("kiln-3 ", "kiln-3?a=b ")),
    ];
    for (what, request) in good {
        let answer = gateway.ask(request);
        assert_eq!(answer.status, 101, "{what}: {}", answer.body);
        assert_eq!(answer.header("sec-websocket-extensions"), None, "{what}");
        assert_eq!(answer.header("sec-websocket-protocol"), Some("tidegate.v1"), "{what}");
    }
}

#[test]
fn each_violation_has_its_status() {
    let gateway = Gateway::start();
    let with = |from: &str, to: &str| {
        let request = request("");
        assert!(request.contains(from), "{from:?} is in the request");
        request.replace(from, to)
    };
    let path = |path: &str| with("/v1/devices/kiln-3", path);
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let bad: &[(&str, String, u16)] = &[
        ("not HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".into(), 400),
        ("HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), 400),
        ("HTTP/2.0", with("HTTP/1.1", "HTTP/2.0"), 400),
        ("a header without a colon", request("Nonsense\r\n"), 400),
        ("a folded header", request("A: b\r\n c\r\n"), 400),
        ("a space before a colon", with("Upgrade:", "Upgrade :"), 400),
        ("a NUL in a value", request("A: \0\r\n"), 400),
        ("65 header lines", request(&"A: b\r\n".repeat(60)), 400),
        ("a head over 8 KiB", request(&format!("A: {}\r\n", "b".repeat(12_000))), 400),
        ("no Host", with("Host: gateway.example\r\n", ""), 400),
        ("two Hosts", request("Host: another.example\r\n"), 400),
        ("no Connection", with("Connection: Upgrade\r\n", ""), 400),
        ("another Connection", with("Connection: Upgrade", "Connection: keep-alive"), 400),
        ("no Upgrade", with("Upgrade: websocket\r\n", ""), 426),
        ("another Upgrade", with(": websocket", ": h2c"), 426),
        ("no version", with("Sec-WebSocket-Version: 13\r\n", ""), 400),
        ("an old version", with(": 13", ": 8"), 426),
        ("a version that is no number", with(": 13", ": thirteen"), 426),
        ("two versions", request("Sec-WebSocket-Version: 13\r\n"), 400),
        ("no key", with(&format!("Sec-WebSocket-Key: {key}\r\n"), ""), 400),
        ("two keys", request(&format!("Sec-WebSocket-Key: {key}\r\n")), 400),
        ("a key that is no base64", with(key, "dGhlIHNhbXBsZSBub25jZ!=="), 400),
        ("a key of 15 bytes", with(key, "dGhlIHNhbXBsZSBub25j"), 400),
        ("a key of 17 bytes", with(key, "dGhlIHNhbXBsZSBub25jZWU="), 400),
        ("no subprotocol", with("Sec-WebSocket-Protocol: tidegate.v1\r\n", ""), 400),
        ("another subprotocol", with(": tidegate.v1", ": mqtt"), 400),
        ("a subprotocol in another case", with(": tidegate.v1", ": Tidegate.v1"), 400),
        ("POST", with("GET ", "POST "), 405),
        ("no path", path("/"), 404),
        ("half a path", path("/v1/devices"), 404),
        ("no device", path("/v1/devices/"), 404),
        ("a path below", path("/v1/devices/kiln-3/more"), 404),
        ("another version of the protocol", path("/v2/devices/kiln-3"), 404),
        ("a path upwards", path("/v1/devices/.."), 404),
        ("no id first", path("/v1/devices/-a"), 404),
        ("an escape in the id", path("/v1/devices/a%20b"), 404),
        ("an id of 65", path(&format!("/v1/devices/{}", "a".repeat(65))), 404),
        ("a browser", request("Origin: https://page.example\r\n"), 403),
    ];
    for (what, request, status) in bad {
        let answer = gateway.ask(request);
        assert_eq!(answer.status, *status, "{what}: {}", answer.body);
        let line = answer.body.strip_suffix('\n').unwrap();
        assert!(!line.trim().is_empty() && !line.contains('\n'), "{what}: {line:?} says why");
        let closes = answer.header("connection").unwrap().contains("close");
        assert!(closes, "{what}: the connection is over");
        match status {
            405 => assert_eq!(answer.header("allow"), Some("GET")),
            426 => assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}"),
            _ => {}
        }
        let old = what.contains("an old version");
        assert!(!old || answer.header("sec-websocket-version") == Some("13"), "{what}");
    }
    // None of it harmed anybody.
    gateway.greeted();
}

#[test]
fn a_request_and_frames_in_one_segment_are_both_read() {
    let gateway = Gateway::start();
    let mut wire = gateway.connect();
    wire.send(&[request("").as_bytes(), &frame(FIN | BINARY, HELLO)].concat());
    assert_eq!(wire.answer().status, 101);
    wire.welcome();
}

#[test]
fn a_request_and_frames_byte_by_byte_are_read() {
    let gateway = Gateway::start();
    let mut wire = gateway.connect();
    for byte in [request("").as_bytes(), &frame(FIN | BINARY, HELLO)].concat() {
        wire.send(&[byte]);
    }
    assert_eq!(wire.answer().status, 101);
    wire.welcome();
}
