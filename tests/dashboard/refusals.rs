//! What is refused, and how.

use std::io::{Read, Write};
use std::net::TcpStream;

use tidegate::config;
use tidegate::dashboard::{self, DashboardError, Fleet};

use super::support::*;

#[test]
fn what_is_not_there_is_404_in_json() {
    let gateway = Gateway::start();
    for path in [
        "/nothing",
        "/api/v1/devices/absent",
        "/api/v1/devices/%ff",
        "/api/v1/devices/a%2Fb",
        "/api/v1/devices/a/history?name=x",
        "/api/v1/commands/absent",
    ] {
        let answer = gateway.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.error().is_empty());
    }
    assert!(gateway.get("/api/v1/devices/absent").error().contains("\"absent\""));
}

#[test]
fn another_method_is_405_and_says_which_are_allowed() {
    let gateway = Gateway::start();
    for path in ["/", "/healthz", "/api/v1/status", "/api/v1/devices/a", "/api/v1/stream"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
        let answer = request(gateway.address(), &head);
        assert_eq!(answer.status, 405, "{path}");
        assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{path}");
        assert_eq!(answer.error(), "POST is not possible here");
        assert!(answer.header("content-security-policy").is_some());
    }
}

#[test]
fn a_name_that_is_not_the_gateways_is_misdirected() {
    let gateway = Gateway::start();
    let get = |path: &str, host: &str| {
        request(gateway.address(), &format!("GET {path} HTTP/1.1\r\n{host}"))
    };
    for good in ["127.0.0.1", "localhost:8080", "[::1]:8080", "GW-1.example", "192.168.7.7"] {
        let answer = get("/api/v1/status", &format!("Host: {good}\r\n"));
        assert_eq!(answer.status, 200, "{good}");
    }
    for path in ["/", "/api/v1/status", "/api/v1/stream", "/metrics", "/nothing"] {
        let answer = get(path, "Host: evil.example\r\n");
        assert_eq!(answer.status, 421, "{path}");
        assert!(answer.error().contains("IP address"), "{answer:?}");
    }
    assert_eq!(get("/healthz", "Host: probe.example\r\n").status, 200);
    assert_eq!(get("/api/v1/status", "").status, 400);
    assert_eq!(get("/api/v1/status", "Host: localhost\r\nHost: evil.example\r\n").status, 400);
}

#[test]
fn the_feed_refuses_other_origins_plain_requests_and_bad_handshakes() {
    let gateway = Gateway::start();
    let ask = |lines: &[&str]| {
        let mut head = "GET /api/v1/stream HTTP/1.1\r\nHost: localhost:1\r\n".to_owned();
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        std::str::from_utf8(&start[9..]).unwrap().parse::<u16>().unwrap()
    };
    let upgrade = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let version = "Sec-WebSocket-Version: 13";
    assert_eq!(ask(&[upgrade, key, version]), 101);
    assert_eq!(ask(&[upgrade, key, version, "Origin: http://localhost:1"]), 101);
    for origin in ["http://evil.example", "null", "http://localhost:2", "http://localhost"] {
        let origin = format!("Origin: {origin}");
        assert_eq!(ask(&[upgrade, key, version, &origin]), 403, "{origin}");
    }
    assert_eq!(ask(&[]), 426);
    assert_eq!(ask(&[upgrade, key, "Sec-WebSocket-Version: 8"]), 426);
    assert_eq!(ask(&[upgrade, version]), 400);
    assert_eq!(ask(&[upgrade, version, "Sec-WebSocket-Key: x"]), 400);
    assert_eq!(gateway.get("/api/v1/events?device=a%20b").status, 400);
}

#[test]
fn an_address_that_is_taken_is_named_with_its_setting() {
    let gateway = Gateway::start();
    let listen = gateway.address();
    let settings = config::Dashboard { listen, ..dashboard() };
    let error = dashboard::start(&settings, context(Fleet::new())).unwrap_err();
    assert!(matches!(error, DashboardError::Bind { .. }));
    let text = error.to_string();
    assert!(text.contains(&listen.to_string()) && text.contains("dashboard.listen"), "{text}");
}

#[test]
fn a_page_elsewhere_reads_the_api_only_if_it_is_listed_and_never_with_cookies() {
    let gateway = Gateway::start();
    let ask = |method: &str, path: &str, origin: &str, more: &str| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{more}");
        request(gateway.address(), &head)
    };
    let listed = "https://panel.example";
    let answer = ask("GET", "/api/v1/status", listed, "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(listed));
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);

    let wants = |method: &str| format!("Access-Control-Request-Method: {method}\r\n");
    let asked = ask("OPTIONS", "/api/v1/status", listed, &wants("GET"));
    assert_eq!(asked.status, 204);
    assert_eq!(asked.header("access-control-allow-origin"), Some(listed));
    assert_eq!(asked.header("access-control-allow-methods"), Some("GET"));
    assert_eq!(asked.header("access-control-allow-headers"), Some("authorization"));

    for (method, path, origin, more) in [
        ("GET", "/api/v1/status", "https://panel.example:8443", String::new()),
        ("GET", "/api/v1/status", "http://panel.example", String::new()),
        ("GET", "/api/v1/status", "null", String::new()),
        ("GET", "/metrics", listed, String::new()),
        ("OPTIONS", "/api/v1/devices/a/commands", listed, wants("POST")),
        ("OPTIONS", "/api/v1/status", "https://evil.example", wants("GET")),
    ] {
        let answer = ask(method, path, origin, &more);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, None, "{method} {path} {origin}");
        assert_ne!(answer.status, 204, "{method} {path} {origin}");
    }
}
