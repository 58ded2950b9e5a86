//! Every answer before the upgrade.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;
use crate::config::{Auth, Devices};

/// Checks status line, one header, and that the body is one line with `word` in it.
fn check(answer: &str, status: &str, header: &str, word: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.lines().any(|line| line == header), "{header:?} is not in {answer}");
    assert!(body.ends_with('\n') && body.lines().count() == 1, "{body:?}");
    assert!(body.contains(word), "{word:?} is not in {body:?}");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{head}");
}

const CLOSE: &str = "Connection: close";

#[tokio::test]
async fn a_bad_handshake_is_400_and_says_what_is_bad() {
    let bench = Bench::start(&settings(), parse(""));
    let good = request("kiln-3", "");
    let without = |header: &str| {
        let lines = good.split("\r\n").filter(|line| !line.starts_with(header));
        lines.collect::<Vec<_>>().join("\r\n")
    };
    let bad = [
        (without("Sec-WebSocket-Key"), "Sec-WebSocket-Key"),
        (good.replace("ZSBub25jZQ==", "ZQ=="), "Sec-WebSocket-Key"),
        (without("Sec-WebSocket-Version"), "Sec-WebSocket-Version"),
        (without("Connection"), "Connection"),
        (without("Sec-WebSocket-Protocol"), "subprotocol not offered"),
        (good.replace("tidegate.v1", "tidegate.v2, mqtt"), "subprotocol not offered"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "HTTP/1.1"),
        (request("kiln-3", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "twice"),
        ("\x16\x03\x01\x02 hello".to_owned(), "not an HTTP/1.1 request"),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)), "8 KiB"),
        (request("kiln-3", &"A: b\r\n".repeat(100)), "64 header lines"),
    ];
    let count = bad.len() as u64;
    for (request, word) in bad {
        check(&bench.raw(&request).await, "400", CLOSE, word);
    }
    assert_eq!(bench.refused("bad-handshake"), count);
}

#[tokio::test]
async fn another_path_is_404_and_another_method_405() {
    let bench = Bench::start(&settings(), parse(""));
    for path in ["/", "/v1/devices", "/v1/devices/", "/v1/devices/a/b", "/v1/devices/-a", "/v2/x"] {
        let request = request("x", "").replace("/v1/devices/x", path);
        check(&bench.raw(&request).await, "404", CLOSE, "/v1/devices/ID");
    }
    let long = "a".repeat(65);
    check(&bench.raw(request(&long, "")).await, "404", CLOSE, "/v1/devices/ID");
    assert_eq!(bench.refused("path"), 7);
    let post = request("x", "Content-Length: 5\r\n").replace("GET", "POST") + "hello";
    check(&bench.raw(post).await, "405", "Allow: GET", "GET");
    assert_eq!(bench.refused("method"), 1);
}

#[tokio::test]
async fn plain_http_and_other_versions_are_426() {
    let bench = Bench::start(&settings(), parse(""));
    let plain = "GET /v1/devices/kiln-3 HTTP/1.1\r\nHost: x\r\n\r\n";
    check(&bench.raw(plain).await, "426", "Upgrade: websocket", "tidegate.v1");
    let old = request("kiln-3", "").replace("Version: 13", "Version: 8");
    let answer = bench.raw(old).await;
    check(&answer, "426", "Sec-WebSocket-Version: 13", "version 13");
    check(&answer, "426", "Upgrade: websocket", "version 13");
    assert_eq!((bench.refused("plain-http"), bench.refused("version")), (1, 1));
}

#[tokio::test]
async fn wrong_no_and_unknown_credentials_get_the_same_401() {
    let settings = Devices { auth: Auth::Token, ..settings() };
    let bench = Bench::start(&settings, registry(&["kiln-3"]));
    let first = bench.raw(request("kiln-3", "")).await;
    check(&first, "401", "WWW-Authenticate: Bearer realm=\"tidegate\"", "credentials");
    let others = [
        ("kiln-3", "Authorization: Bearer kiln-4-token\r\n"),
        ("kiln-3", "Authorization: Bearer \r\n"),
        ("kiln-3", "Authorization: Basic a2lsbi0zLXRva2Vu\r\n"),
        ("kiln-3", "Sec-WebSocket-Protocol: bearer.wrong\r\n"),
        ("kiln-4", "Authorization: Bearer kiln-3-token\r\n"),
        ("unknown", "Authorization: Bearer kiln-3-token\r\n"),
    ];
    for (device, header) in others {
        assert_eq!(bench.raw(request(device, header)).await, first, "{device} {header}");
    }
    assert_eq!(bench.refused("unauthorized"), 7);
}

#[tokio::test]
async fn a_token_opens_as_header_or_as_subprotocol_and_is_not_echoed() {
    let settings = Devices { auth: Auth::Token, ..settings() };
    let bench = Bench::start(&settings, registry(&["kiln-3"]));
    let by_header = [("Authorization", "bearer kiln-3-token")];
    let by_protocol = [("Sec-WebSocket-Protocol", "bearer.kiln-3-token, tidegate.v1")];
    for headers in [by_header, by_protocol] {
        let client = Client::connect(bench.addr, "kiln-3", &headers).await.unwrap();
        assert_eq!(client.answer.headers()["Sec-WebSocket-Protocol"], "tidegate.v1");
        assert!(!format!("{:?}", client.answer).contains("kiln-3-token"));
    }
}

#[tokio::test]
async fn an_origin_must_be_listed_exactly_and_none_passes() {
    let allowed_origins = vec!["https://panel.example".to_owned()];
    let bench = Bench::start(&Devices { allowed_origins, ..settings() }, parse(""));
    for origin in
        ["https://evil.example", "http://panel.example", "null", "https://panel.example:8"]
    {
        let answer = bench.raw(request("kiln-3", &format!("Origin: {origin}\r\n"))).await;
        check(&answer, "403", CLOSE, "allowed_origins");
    }
    assert_eq!(bench.refused("origin"), 4);
    Client::connect(bench.addr, "a", &[("Origin", "https://panel.example")]).await.unwrap();
    Client::connect(bench.addr, "b", &[]).await.unwrap();
}

#[tokio::test]
async fn one_address_too_often_is_429_and_room_comes_back() {
    let settings = Devices { max_connections_per_address: 2, ..settings() };
    let bench = Bench::start(&settings, parse(""));
    let first = Client::connect(bench.addr, "a", &[]).await.unwrap();
    let _second = Client::connect(bench.addr, "b", &[]).await.unwrap();
    let answer = bench.raw(request("c", "")).await;
    check(&answer, "429", "Retry-After: 30", "this address");
    assert_eq!(bench.refused("address-limit"), 1);
    drop(first);
    let again = async { while Client::connect(bench.addr, "c", &[]).await.is_err() {} };
    soon("there is room again", again).await;
}

#[tokio::test]
async fn a_full_gateway_answers_503_whatever_else_is_wrong() {
    let bench = Bench::start(&Devices { max_connections: 1, ..settings() }, parse(""));
    let _only = Client::connect(bench.addr, "a", &[]).await.unwrap();
    for request in [request("b", ""), "GET / HTTP/1.1\r\n\r\n".to_owned(), "?\r\n".to_owned()] {
        check(&bench.raw(request).await, "503", "Retry-After: 10", "no room");
    }
    assert_eq!(bench.refused("full"), 3);
}

#[tokio::test]
async fn who_is_in_the_handshake_at_the_stop_gets_503() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(b"GET /v1/devices/kiln-3 HTTP/1.1\r\n").await.unwrap();
    // A client that is answered shows that the one before it has been accepted.
    bench.raw("?\r\n").await;
    bench.begin_to_stop();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    check(&answer, "503", "Retry-After: 5", "shutting down");
    drop(stream);
    let addr = bench.addr;
    bench.stopped().await;
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn who_sends_a_byte_at_a_time_is_cut_at_the_deadline() {
    let hello_timeout = Duration::from_millis(400);
    let bench = Bench::start(&Devices { hello_timeout, ..settings() }, parse(""));
    let began = Instant::now();
    let (mut reading, mut writing) = TcpStream::connect(bench.addr).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        for byte in request("kiln-3", &"A: b\r\n".repeat(50)).into_bytes() {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut nothing = Vec::new();
    let _ = soon("the end", reading.read_to_end(&mut nothing)).await;
    let took = began.elapsed();
    assert!(took >= hello_timeout && took < hello_timeout * 10, "{took:?}");
    assert!(nothing.is_empty());
    assert_eq!(bench.refused("timeout"), 1);
    trickle.abort();
}

#[tokio::test]
async fn frames_sent_along_with_the_request_are_not_lost() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    let mut bytes = request("kiln-3", "").into_bytes();
    bytes.extend(frame(0x82, &hello(Some(7)).encode(), MASK));
    bytes.extend(frame(0x82, &readings(Some(1), "a"), MASK));
    stream.write_all(&bytes).await.unwrap();
    let opened = bench.opened().await;
    assert_eq!((opened.device.as_str(), opened.epoch), ("kiln-3", Some(7)));
    opened.welcome.send(crate::ports::Resume { epoch: 7, acked: 0 }).unwrap();
    assert_eq!(bench.seqs(1).await, [Some(1)]);
}

#[tokio::test]
async fn a_request_may_name_the_whole_address_and_a_query() {
    let bench = Bench::start(&settings(), parse(""));
    for target in ["http://gateway:7070/v1/devices/kiln-3", "/v1/devices/kiln-3?a=b"] {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        let text = request("x", "").replace("/v1/devices/x", target);
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
}
