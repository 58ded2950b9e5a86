//! How fast, how much and for how long.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;
use crate::config::{Devices, Rate};

/// The statuses of `count` requests that are no handshake, one after the other.
async fn statuses(bench: &Bench, count: usize) -> Vec<String> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        let answer = bench.raw("?\r\n").await;
        statuses.push(answer.get(9..12).unwrap_or_default().to_owned());
    }
    statuses
}

fn count(statuses: &[String], status: &str) -> usize {
    statuses.iter().filter(|seen| *seen == status).count()
}

#[tokio::test]
async fn who_connects_too_fast_gets_429_and_when_to_come_back() {
    let limits = Devices {
        max_connections_per_address: 40,
        max_handshakes_per_second_per_address: 1,
        ..settings()
    };
    let bench = Bench::start(&limits, parse(""));
    let began = Instant::now();
    let seen = statuses(&bench, 60).await;
    let flowed_in = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let (answered, refused) = (count(&seen, "400"), count(&seen, "429"));
    assert_eq!(answered + refused, 60, "{seen:?}");
    assert!((40..=40 + flowed_in).contains(&answered), "{answered} in {flowed_in} s");
    assert_eq!(bench.refused("address-rate"), refused as u64);
    // Slow machines may have let them all through.
    if refused > 0 {
        let answer = bench.raw("?\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.contains("Retry-After: 5\r\n"));
    }
}

#[tokio::test]
async fn too_many_new_connections_all_together_are_503() {
    let limits = Devices { max_connections: 40, max_handshakes_per_second: 1, ..settings() };
    let bench = Bench::start(&limits, parse(""));
    let began = Instant::now();
    let seen = statuses(&bench, 60).await;
    let flowed_in = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let (answered, refused) = (count(&seen, "400"), count(&seen, "503"));
    assert_eq!(answered + refused, 60, "{seen:?}");
    assert!((40..=40 + flowed_in).contains(&answered), "{answered} in {flowed_in} s");
    assert_eq!(bench.refused("busy"), refused as u64);
}

#[tokio::test]
async fn a_device_may_have_four_connections_that_have_not_said_hello() {
    let mut bench = Bench::start(&settings(), parse(""));
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Client::connect(bench.addr, "kiln-3", &[]).await.unwrap());
    }
    let answer = bench.raw(request("kiln-3", "")).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("HELLO") && answer.contains("Retry-After: 5\r\n"), "{answer}");
    assert_eq!(bench.refused("device-limit"), 1);
    let _other = bench.greeted("kiln-4").await;
    // One that says HELLO makes room.
    silent[0].send(&hello(Some(7))).await;
    bench.opened().await;
    Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
}

#[tokio::test]
async fn over_its_bytes_a_device_is_read_slower_and_others_are_not() {
    let rate = Rate { bytes_per_second: 100 << 10, burst_bytes: 20 << 10, ..rate(1e6, 1e6) };
    let mut bench = Bench::start(&Devices { rate, ..settings() }, parse(""));
    let (mut other, other_link) = bench.greeted("kiln-4").await;
    let (mut client, link) = bench.greeted("kiln-3").await;
    let began = Instant::now();
    // 70 KiB and more, in unsolicited pongs.
    let pongs: Vec<u8> = (0..560).flat_map(|_| frame(0x8a, &[7; 125], MASK)).collect();
    client.send_raw(&pongs).await;
    client.send_bytes(readings(Some(1), "a")).await;
    other.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    other_link.settle(1, 1);
    other.acked(1).await;
    assert_eq!(bench.seqs(1).await, [Some(1)], "nothing is dropped");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400), "50 KiB over the burst at 100 a second: {took:?}");
    link.settle(1, 1);
    client.acked(1).await;
}

#[tokio::test]
async fn pings_between_empty_pieces_do_not_make_them_endless() {
    let mut bench = Bench::start(&Devices { max_frame: 1000, ..settings() }, parse(""));
    let (mut client, _) = bench.greeted("kiln-3").await;
    let mut pieces = frame(0x02, &[], MASK);
    for _ in 0..5_000 {
        pieces.extend(frame(0x00, &[], MASK));
        pieces.extend(frame(0x8a, b"?", MASK));
    }
    client.send_raw(&pieces).await;
    let (code, reason) = client.close_frame().await;
    assert_eq!((code, reason.as_str()), (1009, "a message in too many fragments"));
}

#[tokio::test]
async fn pings_alone_may_go_on_for_ever() {
    let mut bench = Bench::start(&Devices { max_frame: 1000, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    for _ in 0..10 {
        let pongs: Vec<u8> = (0..500).flat_map(|_| frame(0x8a, &[7; 125], MASK)).collect();
        client.send_raw(&pongs).await;
    }
    client.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    link.settle(1, 1);
    client.acked(1).await;
}

#[tokio::test]
async fn a_device_that_takes_nothing_is_given_up() {
    let limits = Devices { write_timeout: Duration::from_millis(300), ..settings() };
    let mut bench = Bench::start(&limits, parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    // Each ping wants a pong, and none is read.
    let pings: Vec<u8> = (0..500).flat_map(|_| frame(0x89, &[7; 125], MASK)).collect();
    let pinged = async { while client.websocket.get_mut().write_all(&pings).await.is_ok() {} };
    soon("the gateway gives up", pinged).await;
    assert_eq!(bench.closed().await, greeted.session);
    let refused = bench.shown(|shown| shown.refused.clone());
    assert!(
        refused.iter().any(|(device, code, reason)| {
            device == "kiln-3" && *code == 1013 && reason.contains("does not read")
        }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn heads_that_never_end_share_a_common_room() {
    let limits = Devices { hello_timeout: Duration::from_secs(60), ..settings() };
    let bench = Bench::start(&limits, parse(""));
    let piece = format!("GET /{} HTTP/1.1\r\nA: ", "a".repeat(7000));
    let mut half_open = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream.write_all(piece.as_bytes()).await.unwrap();
        half_open.push(stream);
    }
    until("some are turned away", || bench.refused("busy") > 0).await;
    let mut told = 0;
    for mut stream in half_open {
        let mut status = [0; 12];
        let answered = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut status));
        if answered.await.is_ok() {
            assert_eq!(&status, b"HTTP/1.1 503");
            told += 1;
        }
    }
    assert!(told > 0, "600 times 7000 bytes are over 4 MiB");
    // Those that are gone give their room back.
    Client::connect(bench.addr, "kiln-3", &[]).await.unwrap();
}
