//! Connections that come through a proxy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;
use crate::config::{Devices, Proxies, ProxyHeader};
use crate::core::proxy::SIGNATURE;
use crate::device::refusal::Refusal;
use crate::device::request;
use crate::ports::DeviceEvent;

fn behind(header: ProxyHeader) -> Devices {
    let trusted = vec!["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    Devices { proxies: Proxies { trusted, header }, max_connections_per_address: 1, ..settings() }
}

/// A header for a client at this address; nobody: of a health check.
pub(super) fn header(client: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    match client {
        None => bytes.extend([0x20, 0, 0, 0]),
        Some(client) => {
            bytes.extend([0x21, 0x11, 0, 12]);
            bytes.extend(client.into_iter().chain([127, 0, 0, 1, 0x10, 0, 0x1b, 0x9e]));
        }
    }
    bytes
}

/// Connects with these bytes and HELLO, and gives the address that the engine is told.
async fn address(bench: &mut Bench, first: &[u8], more: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    let mut bytes = first.to_vec();
    bytes.extend(request("kiln-3", more).into_bytes());
    bytes.extend(frame(0x82, &hello(Some(7)).encode(), MASK));
    // A byte at a time where it matters: a header may come in pieces.
    let (start, rest) = bytes.split_at(20);
    for byte in start {
        stream.write_all(&[*byte]).await.unwrap();
    }
    stream.write_all(rest).await.unwrap();
    loop {
        match bench.event().await {
            DeviceEvent::Opened { facts, .. } => return (stream, facts.address.clone()),
            // The one before, which this one has replaced.
            DeviceEvent::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_proxy_protocol_tells_the_clients_address() {
    let mut bench = Bench::start(&behind(ProxyHeader::ProxyProtocol), parse(""));
    let (_first, seen) = address(&mut bench, &header(Some([192, 0, 2, 7])), "").await;
    assert_eq!(seen, "192.0.2.7");
    // Limits hold for the client, not for the proxy.
    let again = [&header(Some([192, 0, 2, 7])), request("b", "").as_bytes()].concat();
    assert!(bench.raw(&again).await.starts_with("HTTP/1.1 429 "));
    assert_eq!(bench.refused("address-limit"), 1);
    let (_second, seen) = address(&mut bench, &header(Some([192, 0, 2, 8])), "").await;
    assert_eq!(seen, "192.0.2.8");
    let (_probe, seen) = address(&mut bench, &header(None), "").await;
    assert_eq!(seen, "127.0.0.1");
}

#[tokio::test]
async fn a_listed_proxy_that_says_nothing_is_refused() {
    let bench = Bench::start(&behind(ProxyHeader::ProxyProtocol), parse(""));
    let answer = bench.raw(request("kiln-3", "X-Forwarded-For: 192.0.2.7\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("PROXY header"), "{answer}");
    assert!(answer.contains("devices.proxy_header"), "{answer}");
    let bench2 = Bench::start(&behind(ProxyHeader::XForwardedFor), parse(""));
    let answer = bench2.raw(request("kiln-3", "")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("X-Forwarded-For"), "{answer}");
    assert_eq!((bench.refused("proxy"), bench2.refused("proxy")), (1, 1));
}

#[tokio::test]
async fn a_peer_that_is_not_listed_cannot_pretend_to_be_another() {
    let mut bench = Bench::start(&settings(), parse(""));
    for first in [header(Some([192, 0, 2, 7])), b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec()] {
        let answer = bench.raw([&first, request("a", "").as_bytes()].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("devices.trusted_proxies"), "{answer}");
    }
    assert_eq!(bench.refused("proxy"), 2);
    // Proxies on the way of a client add this; it is not believed.
    let (_client, seen) = address(&mut bench, b"", "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert_eq!(seen, "127.0.0.1");
}

#[test]
fn a_header_that_arrives_in_pieces_gets_no_other_answer() {
    let header = header(Some([192, 0, 2, 7]));
    for length in 1..header.len() {
        match request::parse(&header[..length]) {
            Ok(request::Head::Partial) => assert!(length < SIGNATURE.len(), "{length}"),
            Err(Refusal::Proxy(_)) => assert!(length >= SIGNATURE.len(), "{length}"),
            _ => panic!("{length} bytes are a request, or another fault"),
        }
    }
}

#[tokio::test]
async fn x_forwarded_for_is_believed_as_far_as_our_own_proxies_go() {
    let mut bench = Bench::start(&behind(ProxyHeader::XForwardedFor), parse(""));
    let line = "X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.0.0.3\r\n";
    let (_first, seen) = address(&mut bench, b"", line).await;
    assert_eq!(seen, "192.0.2.7");
    let answer = bench.raw(request("b", line)).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    let (_second, seen) =
        address(&mut bench, b"", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.9\r\n")
            .await;
    assert_eq!(seen, "192.0.2.9", "the last line");
    let answer = bench.raw(request("c", "X-Forwarded-For: unknown\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("not a list"), "{answer}");
    let header = [&header(Some([192, 0, 2, 7])), request("a", "").as_bytes()].concat();
    let answer = bench.raw(header).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("PROXY header"), "{answer}");
}

#[tokio::test]
async fn places_are_given_back_for_the_client_that_had_them() {
    let mut bench = Bench::start(&behind(ProxyHeader::ProxyProtocol), parse(""));
    for _ in 0..3 {
        let (mut stream, seen) = address(&mut bench, &header(Some([192, 0, 2, 7])), "").await;
        assert_eq!(seen, "192.0.2.7");
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
        drop(stream);
        bench.closed().await;
        until("its place is free", || bench.metrics.device_connections.get() == 0).await;
    }
}
