//! What the operator gets to see of refusals, besides what the device is told.

use tokio_tungstenite::tungstenite::Message;

use super::harness::*;
use crate::config::{Auth, Devices};

/// Waits for the first `count` refusals that are shown, as device, code and reason.
async fn refused(bench: &Bench, count: usize) -> Vec<(String, u64, String)> {
    until("the refusals are shown", || bench.shown(|shown| shown.refused.len() >= count)).await;
    bench.shown(|shown| shown.refused.clone())
}

#[tokio::test]
async fn why_credentials_were_refused_is_shown_though_the_answer_does_not_say_it() {
    let settings = Devices { auth: Auth::Token, ..settings() };
    let expired =
        format!("previous = {{ token = \"{}\", expires = 2025-01-01T00:00:00Z }}", hash("old"));
    let text = entry("kiln-3", "new", &expired) + "[devices.bare]\n";
    let bench = Bench::start(&settings, parse(&text));
    let cases = [
        ("kiln-3", "", "no token came with the request"),
        ("kiln-3", "Authorization: Bearer wrong\r\n", "the token is not this device's"),
        ("kiln-3", "Authorization: Bearer old\r\n", "before the last rotation"),
        ("bare", "Authorization: Bearer x\r\n", "`tidegate device rotate bare`"),
        ("stranger", "Authorization: Bearer x\r\n", "`tidegate device add stranger`"),
    ];
    for (n, (device, header, reason)) in cases.into_iter().enumerate() {
        bench.raw(request(device, header)).await;
        let shown = refused(&bench, n + 1).await;
        let (whose, code, why) = &shown[n];
        assert_eq!((whose.as_str(), *code), (device, 401));
        assert!(why.contains(reason), "{reason:?} is not in {why:?}");
        assert!(!why.contains("wrong"), "{why:?}");
    }
}

#[tokio::test]
async fn an_origin_and_a_limit_are_shown_with_their_settings() {
    let limits = Devices { max_connections_per_address: 1, ..settings() };
    let bench = Bench::start(&limits, parse(""));
    bench.raw(request("a", "Origin: https://evil.example\r\n")).await;
    let shown = refused(&bench, 1).await;
    assert_eq!((shown[0].0.as_str(), shown[0].1), ("a", 403));
    assert!(shown[0].2.contains("\"https://evil.example\" is not in devices.allowed_origins"));
    // Until the place of the first is free.
    let connected = async {
        loop {
            if let Ok(client) = Client::connect(bench.addr, "a", &[]).await {
                return client;
            }
        }
    };
    let _only = soon("there is room", connected).await;
    bench.raw(request("b", "")).await;
    let of_b = |shown: &Shown| shown.refused.iter().find(|(device, ..)| device == "b").cloned();
    until("it is shown", || bench.shown(|shown| of_b(shown).is_some())).await;
    let (_, code, reason) = bench.shown(of_b).unwrap();
    assert_eq!(code, 429);
    assert!(reason.contains("devices.max_connections_per_address"), "{reason}");
}

#[tokio::test]
async fn rejected_batches_and_closed_connections_are_shown_and_farewells_are_not() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    client.send_bytes(malformed(Some(1))).await;
    client.send_message(Message::Text("hello".into())).await;
    assert_eq!(client.close_frame().await.0, 1003);
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    bench.closed().await;
    let (mut other, _link) = bench.greeted("kiln-4").await;
    let shown = refused(&bench, 2).await;
    let codes: Vec<_> = shown.iter().map(|(device, code, _)| (device.as_str(), *code)).collect();
    assert_eq!(codes, [("kiln-3", 1), ("kiln-3", 1003)]);
    bench.begin_to_stop();
    assert_eq!(other.close_frame().await.0, 1012);
    assert_eq!(bench.shown(|shown| shown.refused.len()), 2);
}
