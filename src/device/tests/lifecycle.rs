//! How connections live on, end, are replaced, revoked and stopped.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::harness::*;
use crate::config::{Auth, Devices};
use crate::ports::{DeviceEvent, Resume};

fn fast_heartbeat() -> Devices {
    let (heartbeat_interval, heartbeat_timeout) =
        (Duration::from_millis(100), Duration::from_millis(100));
    Devices { heartbeat_interval, heartbeat_timeout, ..settings() }
}

fn with_tokens() -> Devices {
    Devices { auth: Auth::Token, ..settings() }
}

async fn greeted_with(bench: &mut Bench, device: &str, token: &str) -> Client {
    let header = format!("Bearer {token}");
    let headers = [("Authorization", header.as_str())];
    let mut client = Client::connect(bench.addr, device, &headers).await.unwrap();
    client.send(&hello(Some(7))).await;
    let opened = bench.opened().await;
    opened.welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
    client.welcome().await;
    client
}

#[tokio::test]
async fn a_silent_device_is_closed_with_4008_and_reported() {
    let mut bench = Bench::start(&fast_heartbeat(), parse(""));
    let began = Instant::now();
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    // Nobody reads the socket, so nobody answers the pings.
    assert_eq!(bench.closed().await, greeted.session);
    assert!(began.elapsed() >= Duration::from_millis(200));
    let (code, reason) = client.close_frame().await;
    assert_eq!(code, 4008);
    assert!(reason.starts_with("heartbeat missed"), "{reason}");
    assert_eq!((bench.connected(), bench.shown(|shown| shown.downs)), (0, 1));
}

#[tokio::test]
async fn a_device_that_answers_pings_stays_and_is_pinged_every_interval() {
    let limits = Devices { heartbeat_timeout: Duration::from_secs(2), ..fast_heartbeat() };
    let mut bench = Bench::start(&limits, parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    let began = Instant::now();
    for _ in 0..10 {
        assert!(matches!(client.next().await, Message::Ping(stamp) if stamp.len() == 8));
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "ten pings in {took:?}");
    assert!(bench.event_now().is_none());
    until("pongs tell round trips", || bench.shown(|shown| shown.round_trips.len() >= 8)).await;
    bench.shown(|shown| {
        assert!(shown.round_trips.iter().all(|seconds| (0.0..=2.1).contains(seconds)));
    });
}

#[tokio::test]
async fn a_pong_that_answers_no_ping_tells_no_round_trip() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    let ahead = u64::MAX.to_be_bytes().to_vec();
    for pong in [vec![], vec![1], ahead, vec![0; 9]] {
        client.send_message(Message::Pong(pong.into())).await;
    }
    client.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    assert!(bench.shown(|shown| shown.round_trips.is_empty()));
}

#[tokio::test]
async fn readings_are_life_too() {
    let limits = Devices { heartbeat_timeout: Duration::from_secs(1), ..fast_heartbeat() };
    let mut bench = Bench::start(&limits, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    let began = Instant::now();
    let mut seq = 0;
    while began.elapsed() < Duration::from_millis(2500) {
        // Reads nothing, so no ping is answered.
        seq += 1;
        client.send_raw(&frame(0x82, &readings(Some(seq), "a"), MASK)).await;
        assert_eq!(bench.seqs(1).await, [Some(seq)]);
        link.settle(seq, seq);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_abrupt_end_is_noticed() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (client, greeted) = bench.greeted_session("kiln-3").await;
    drop(client);
    assert_eq!(bench.closed().await, greeted.session);
    assert_eq!((bench.connected(), bench.shown(|shown| shown.up.len())), (0, 0));
}

#[tokio::test]
async fn a_second_connection_replaces_the_first_with_4009() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut first, greeted) = bench.greeted_session("kiln-3").await;
    let mut second = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
    second.send(&hello(Some(7))).await;
    let mut closed = None;
    let mut opened = None;
    while closed.is_none() || opened.is_none() {
        match bench.event().await {
            DeviceEvent::Closed { session } => closed = Some(session),
            DeviceEvent::Opened { welcome, link, .. } => {
                welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
                opened = Some(link);
            }
            DeviceEvent::Batches { .. } | DeviceEvent::Result { .. } => panic!("none were sent"),
        }
    }
    assert_eq!(closed, Some(greeted.session));
    assert_eq!(first.close_frame().await.0, 4009);
    second.welcome().await;
    second.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    opened.unwrap().settle(1, 1);
    second.acked(1).await;
    assert_eq!(bench.connected(), 1);
    assert_eq!(bench.shown(|shown| (shown.up.len(), shown.downs)), (1, 0), "it never was away");
}

#[tokio::test]
async fn a_session_whose_token_is_replaced_or_device_removed_is_closed_with_4003() {
    let mut bench = Bench::start(&with_tokens(), registry(&["a", "b", "c"]));
    let mut a = greeted_with(&mut bench, "a", "a-token").await;
    let mut b = greeted_with(&mut bench, "b", "b-token").await;
    let mut c = greeted_with(&mut bench, "c", "c-token").await;
    let text = entry("a", "another", "") + &entry("c", "c-token", "readings = [\"x\"]");
    let began = Instant::now();
    bench.registry.send_replace(parse(&text).into());
    assert_eq!(a.close_frame().await.0, 4003);
    assert_eq!(b.close_frame().await.0, 4003);
    assert!(began.elapsed() < Duration::from_secs(2));
    bench.closed().await;
    bench.closed().await;
    c.send_bytes(readings(Some(1), "x")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)], "it goes on");
}

#[tokio::test]
async fn a_session_on_the_old_token_ends_when_the_overlap_does() {
    let mut bench = Bench::start(&with_tokens(), registry(&["a", "b"]));
    let mut a = greeted_with(&mut bench, "a", "a-token").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let expires = now.as_secs() + 2;
    let date = crate::config::units::datetime_from_unix(expires as f64);
    let previous = format!("previous = {{ token = \"{}\", expires = {date} }}", hash("a-token"));
    let text = entry("a", "new", &previous) + &entry("b", "b-token", "");
    bench.registry.send_replace(parse(&text).into());
    let mut b = greeted_with(&mut bench, "b", "b-token").await;
    assert_eq!(a.close_frame().await.0, 4003);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(now.as_secs_f64() >= expires as f64, "not before the overlap has run out");
    assert!(now.as_secs_f64() < expires as f64 + 2.0, "within two seconds");
    bench.closed().await;
    b.send_bytes(readings(Some(1), "x")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)], "the other goes on");
}

#[tokio::test]
async fn a_token_revoked_between_the_handshake_and_hello_is_noticed() {
    let bench = Bench::start(&with_tokens(), registry(&["a"]));
    let headers = [("Authorization", "Bearer a-token")];
    let mut client = Client::connect(bench.addr, "a", &headers).await.unwrap();
    bench.registry.send_replace(parse("").into());
    client.send(&hello(Some(7))).await;
    assert_eq!(client.close_frame().await.0, 4003);
}

#[tokio::test]
async fn at_the_stop_every_session_is_closed_with_1012_and_serving_ends() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut a, _) = bench.greeted("a").await;
    let (mut b, _) = bench.greeted("b").await;
    let mut no_hello = Client::connect(bench.addr, "c", &[]).await.unwrap();
    bench.begin_to_stop();
    for client in [&mut a, &mut b, &mut no_hello] {
        assert_eq!(client.close_frame().await.0, 1012);
    }
    bench.closed().await;
    bench.closed().await;
    bench.stopped().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_closes_with_1012_and_a_late_one_with_1013() {
    let hello_timeout = Duration::from_millis(300);
    let mut bench = Bench::start(&Devices { hello_timeout, ..settings() }, parse(""));
    let mut client = Client::connect(bench.addr, "late", &[]).await.unwrap();
    client.send(&hello(Some(7))).await;
    let opened = bench.opened().await;
    assert_eq!(client.close_frame().await.0, 1013);
    assert_eq!(bench.closed().await, opened.session);
    assert!(opened.welcome.send(Resume { epoch: 7, acked: 0 }).is_err());
    let (mut client, _link) = bench.greeted("kiln-3").await;
    bench.engine_dies();
    client.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(client.close_frame().await.0, 1012);
}

#[tokio::test]
async fn readings_behind_hello_wait_for_welcome() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut client = Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
    client.send_together([hello(Some(7)).encode(), readings(Some(1), "a")]).await;
    let opened = bench.opened().await;
    assert!(bench.event_now().is_none());
    opened.welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
    assert_eq!(bench.seqs(1).await, [Some(1)]);
}

#[tokio::test]
async fn reconnecting_a_hundred_times_leaves_nothing_behind() {
    let limits = Devices { max_connections_per_address: 20, ..settings() };
    let mut bench = Bench::start(&limits, parse(""));
    for _ in 0..100 {
        let (mut client, greeted) = bench.greeted_session("kiln-3").await;
        client.websocket.close(None).await.unwrap();
        while client.websocket.next().await.is_some() {}
        assert_eq!(bench.closed().await, greeted.session);
    }
    until("nobody is connected", || bench.connected() == 0).await;
    assert_eq!(bench.shown(|shown| (shown.up.len(), shown.downs)), (0, 100));
}
