//! The dashboard behind a proxy: who asks is the client, not the proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tidegate::config::{self, Proxies, ProxyHeader};
use tidegate::core::proxy::SIGNATURE;
use tidegate::dashboard::Fleet;
use tidegate::ports::{CommandAccess, CommandRequest};
use tokio::sync::mpsc;

use super::support::*;

fn start(header: ProxyHeader) -> (Gateway, mpsc::Receiver<CommandRequest>) {
    let trusted = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.1/32".parse().unwrap()];
    let mut context = context(Fleet::new());
    let (access, requests) = CommandAccess::new(16);
    context.commands = access;
    let proxies = Proxies { trusted, header };
    (Gateway::served(&config::Dashboard { proxies, ..dashboard() }, context), requests)
}

/// A header of the PROXY protocol for a client at 192.0.2.7.
fn header() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 127, 0, 0, 1, 0x10, 0, 0x1f, 0x90];
    [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &addresses].concat()
}

/// What is answered to these bytes; nothing if the connection just ends.
fn answer(address: SocketAddr, first: &[u8], request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // Who is refused may find the connection gone.
    let _ = stream.write_all(&[first, request.as_bytes()].concat());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(lines: &str) -> String {
    format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n")
}

/// Asks for a command, and who asked as far as the engine is told.
fn asker(
    address: SocketAddr,
    requests: &mut mpsc::Receiver<CommandRequest>,
    first: &[u8],
    lines: &str,
) -> String {
    let body = r#"{"name":"heat"}"#;
    let request = format!(
        "POST /api/v1/devices/kiln-3/commands HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         {lines}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let first = first.to_vec();
    let asking = std::thread::spawn(move || answer(address, &first, &request));
    let asked = requests.blocking_recv().expect("the dashboard runs");
    let name = asked.requester.name.clone();
    // Unanswered, it is told that the gateway stops.
    drop(asked);
    assert!(asking.join().unwrap().starts_with("HTTP/1.1 503"));
    name
}

#[test]
fn the_proxy_protocol_names_who_asks_and_without_it_there_is_no_answer() {
    let (gateway, mut requests) = start(ProxyHeader::ProxyProtocol);
    let address = gateway.address();
    assert!(answer(address, &header(), &get("")).starts_with("HTTP/1.1 200"));
    let name = asker(address, &mut requests, &header(), "X-Forwarded-For: 203.0.113.9\r\n");
    assert!(name.contains("192.0.2.7"), "{name}");
    assert_eq!(answer(address, b"", &get("")), "");
}

#[test]
fn x_forwarded_for_names_who_asks_and_without_it_the_proxy_asks_itself() {
    let (gateway, mut requests) = start(ProxyHeader::XForwardedFor);
    let address = gateway.address();
    let lines = "X-Forwarded-For: 203.0.113.9, 192.0.2.8, 10.0.0.1\r\n";
    assert!(answer(address, b"", &get(lines)).starts_with("HTTP/1.1 200"));
    assert_eq!(asker(address, &mut requests, b"", lines), "192.0.2.8");
    assert_eq!(asker(address, &mut requests, b"", ""), "127.0.0.1");
    let refused = answer(address, &header(), &get(""));
    assert!(!refused.starts_with("HTTP/1.1 2"), "{refused}");
}

#[test]
fn a_peer_that_is_not_listed_cannot_pretend_to_be_another() {
    let mut context = context(Fleet::new());
    let (access, mut requests) = CommandAccess::new(16);
    context.commands = access;
    let gateway = Gateway::of(context);
    let name = asker(gateway.address(), &mut requests, b"", "X-Forwarded-For: 192.0.2.8\r\n");
    assert!(name.contains("127.0.0.1") && !name.contains("192.0.2.8"), "{name}");
    let answer = answer(gateway.address(), &header(), &get(""));
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
}
