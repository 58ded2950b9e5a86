//! Who is refused before the upgrade, with which status, and what it must not give away. What is
//! wrong with requests themselves is in `tests/conformance`.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::harness::{Broker, Connector, Gateway, Refusal, Setup, until, within};

async fn start(adjust: impl FnOnce(Setup) -> Setup) -> (Broker, Gateway) {
    let broker = Broker::start("").await;
    let gateway = adjust(Setup::new(broker.port)).start().await;
    (broker, gateway)
}

/// A gateway with one registered device, and its token.
async fn start_with_token(adjust: impl FnOnce(Setup) -> Setup) -> (Broker, Gateway, String) {
    let broker = Broker::start("").await;
    let mut gateway = adjust(Setup::new(broker.port).with_tokens()).prepare();
    let token = gateway.add("kiln-3", &[]);
    gateway.start().await;
    (broker, gateway, token)
}

async fn refused(connector: Connector) -> Refusal {
    match connector.connect().await {
        Ok(_) => panic!("{connector:?} was let in"),
        Err(refusal) => refusal,
    }
}

fn one_line(body: &str) {
    let body = body.strip_suffix('\n').unwrap_or(body);
    assert!(!body.trim().is_empty() && !body.contains('\n'), "one line says why: {body:?}");
}

#[tokio::test]
async fn a_token_lets_its_device_in() {
    let (_broker, gateway, token) = start_with_token(|setup| setup).await;
    gateway.device("kiln-3").token(&token).open(None).await;
}

#[tokio::test]
async fn no_or_wrong_credentials_are_401_and_tell_nothing_of_who_is_known() {
    let (_broker, gateway, token) = start_with_token(|setup| setup).await;
    let wrong: String = token.chars().rev().collect();
    let wrong_token = refused(gateway.device("kiln-3").token(&wrong)).await;
    let unknown = refused(gateway.device("kiln-4").token(&wrong)).await;
    let anothers = refused(gateway.device("kiln-4").token(&token)).await;
    for refusal in [&wrong_token, &unknown, &anothers] {
        assert_eq!(refusal.status, 401);
        assert_eq!(refusal.body, wrong_token.body, "the same answer");
    }
    one_line(&wrong_token.body);
    let none_known = refused(gateway.device("kiln-3")).await;
    let none_unknown = refused(gateway.device("kiln-4")).await;
    assert_eq!((none_known.status, none_unknown.status), (401, 401));
    assert_eq!(none_known.body, none_unknown.body);
    for header in ["Basic a2lsbg==", "Bearer", "Bearer ", "bearer"] {
        let refusal = refused(gateway.device("kiln-3").header("authorization", header)).await;
        assert_eq!(refusal.status, 401, "{header}");
    }
}

#[tokio::test]
async fn a_browser_offers_its_token_as_a_subprotocol_that_is_never_echoed_or_logged() {
    let (_broker, gateway, token) = start_with_token(|setup| setup.set("log.level", "trace")).await;
    let connector = gateway.device("kiln-3").protocols(&format!("tidegate.v1, bearer.{token}"));
    let (device, _) = connector.open(None).await;
    assert_eq!(device.subprotocol.as_deref(), Some("tidegate.v1"));
    let other_order = gateway.device("kiln-3").protocols(&format!("bearer.{token}, tidegate.v1"));
    let (device, _) = other_order.open(None).await;
    assert_eq!(device.subprotocol.as_deref(), Some("tidegate.v1"));
    let wrong = gateway.device("kiln-3").protocols("tidegate.v1, bearer.WRONGWRONG");
    let refusal = refused(wrong).await;
    assert_eq!(refusal.status, 401);
    assert!(!refusal.body.contains("WRONGWRONG"));
    gateway.device("kiln-3").token(&token).open(None).await;
    let log = gateway.log();
    assert!(!log.contains(&token) && !log.contains("WRONGWRONG"), "no token in the log");
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_403() {
    let allowed = toml::Value::Array(vec!["https://app.example".into()]);
    let adjust = |setup: Setup| setup.set("devices.allowed_origins", allowed);
    let (_broker, gateway) = start(adjust).await;
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil",
        "https://evil-app.example",
        "https://app.example:443",
        "https://app.example:8443",
        "https://App.example",
        "https://app.example/",
        "https://app.example https://evil.example",
        "null",
    ] {
        let refusal = refused(gateway.device("kiln-3").header("origin", origin)).await;
        assert_eq!(refusal.status, 403, "{origin}");
        one_line(&refusal.body);
    }
    gateway.device("kiln-3").header("origin", "https://app.example").open(None).await;
    gateway.device("kiln-3").open(None).await;
}

#[tokio::test]
async fn no_browser_is_let_in_unless_configured() {
    let (_broker, gateway) = start(|setup| setup).await;
    let refusal = refused(gateway.device("kiln-3").header("origin", "http://127.0.0.1")).await;
    assert_eq!(refusal.status, 403);
}

#[tokio::test]
async fn too_many_connections_of_one_address_are_429() {
    let (_broker, gateway) =
        start(|setup| setup.set("devices.max_connections_per_address", 2)).await;
    let first = gateway.device("a").open(None).await;
    let _second = gateway.device("b").open(None).await;
    let refusal = refused(gateway.device("c")).await;
    assert_eq!(refusal.status, 429);
    one_line(&refusal.body);
    let seconds: u64 = refusal.retry_after.expect("Retry-After").parse().unwrap();
    assert!(seconds > 0);
    drop(first);
    until("room again", async || gateway.device("c").connect().await.is_ok()).await;
}

#[tokio::test]
async fn a_full_gateway_answers_503() {
    let (_broker, gateway) = start(|setup| setup.set("devices.max_connections", 2)).await;
    let _first = gateway.device("a").open(None).await;
    let _second = gateway.device("b").open(None).await;
    let refusal = refused(gateway.device("c")).await;
    assert_eq!(refusal.status, 503);
    one_line(&refusal.body);
    assert!(refusal.retry_after.is_some());
    let refused = gateway.metrics().await;
    let total: u64 = refused
        .iter()
        .filter(|(name, _)| name.starts_with("tidegate_connections_refused_total{reason="))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(total, 1);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    let (_broker, gateway) = start(|setup| setup.set("devices.hello_timeout", "300ms")).await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(("127.0.0.1", gateway.devices)).await.unwrap();
    let mut answer = Vec::new();
    // An answer or none, but the connection ends.
    let _ = within("the end", silent.read_to_end(&mut answer)).await;
    assert!(started.elapsed() >= Duration::from_millis(250), "not at once either");
}

#[tokio::test]
async fn rubbish_instead_of_http_harms_nobody() {
    let (_broker, gateway) = start(|setup| setup).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    for rubbish in ["\x16\x03\x01\x02\x00\x01\x00", "\r\n\r\n", "GET", &long, &many] {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.devices)).await.unwrap();
        // The gateway may close while this is still being written.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, rubbish.as_bytes()).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 1") && !answer.starts_with(b"HTTP/1.1 2"));
    }
    gateway.device("kiln-3").open(None).await;
}
