//! What holds a device back, and that nothing is lost by it.

use std::time::{Duration, Instant};

use super::harness::*;
use crate::config::Devices;
use crate::core::frame::GatewayMessage;
use crate::ports::{DeviceEvent, Outbound, Submitted};

/// Long enough for anything that should not happen to have happened.
const A_WHILE: Duration = Duration::from_millis(150);

fn weight(submitted: &Submitted) -> usize {
    let Submitted::Batch(batch) = submitted else { panic!("{submitted:?}") };
    batch.weight()
}

#[tokio::test]
async fn beyond_its_window_a_device_is_not_read_until_there_is_room() {
    let mut bench = Bench::start(&Devices { window: 4, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=20).map(|seq| readings(Some(seq), "a"))).await;
    assert_eq!(bench.seqs(4).await, [1, 2, 3, 4].map(Some));
    tokio::time::sleep(A_WHILE).await;
    assert!(bench.event_now().is_none(), "the window is 4");
    link.settle(1, 1);
    assert_eq!(bench.seqs(1).await, [Some(5)], "room for one lets one in");
    let mut seen = 5;
    while seen < 20 {
        link.settle(seen, seen);
        for seq in bench.seqs(1).await {
            seen += 1;
            assert_eq!(seq, Some(seen), "in order");
        }
    }
    link.settle(20, 20);
    client.acked(20).await;
}

#[tokio::test]
async fn best_effort_and_rejected_batches_take_room_too() {
    let mut bench = Bench::start(&Devices { window: 2, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    let messages = [readings(None, "a"), malformed(Some(1)), readings(Some(2), "a")];
    client.send_together(messages).await;
    assert_eq!(bench.seqs(2).await, [None, Some(1)]);
    tokio::time::sleep(A_WHILE).await;
    assert!(bench.event_now().is_none());
    link.settle(1, 2);
    assert_eq!(bench.seqs(1).await, [Some(2)]);
}

#[tokio::test]
async fn a_device_held_by_its_window_is_not_taken_for_dead() {
    let (heartbeat_interval, heartbeat_timeout) =
        (Duration::from_millis(60), Duration::from_millis(60));
    let limits = Devices { window: 1, heartbeat_interval, heartbeat_timeout, ..settings() };
    let mut bench = Bench::start(&limits, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=2).map(|seq| readings(Some(seq), "a"))).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    link.settle(1, 1);
    assert_eq!(bench.seqs(1).await, [Some(2)]);
    // The pings meanwhile were sent, and are answered in the course of this.
    link.settle(2, 2);
    client.acked(2).await;
}

#[tokio::test]
async fn without_budget_a_batch_waits_and_others_go_ahead_of_it() {
    let mut bench = Bench::start(&Devices { max_unsettled: 700, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=6).map(|seq| readings(Some(seq), "a"))).await;
    let mut taken = Vec::new();
    while let Ok(event) = tokio::time::timeout(A_WHILE, bench.event()).await {
        let DeviceEvent::Batches { batches, .. } = event else { panic!("{event:?}") };
        taken.extend(batches);
    }
    assert!((1..6).contains(&taken.len()), "700 bytes hold {}", taken.len());
    assert!(taken.iter().map(weight).sum::<usize>() <= 700);
    let mut seq = taken.len() as u64;
    while seq < 6 {
        bench.budget.give_back(weight(&taken.remove(0)));
        let batches = bench.batches().await;
        assert_eq!(batches.len(), 1, "one settled lets one in");
        taken.extend(batches);
        seq += 1;
    }
    for submitted in &taken {
        bench.budget.give_back(weight(submitted));
    }
    assert!(bench.budget.try_take(700), "all of it came back");
    link.settle(6, 6);
    client.acked(6).await;
}

#[tokio::test]
async fn what_waits_for_budget_at_a_close_gives_everything_back() {
    let mut bench = Bench::start(&Devices { max_unsettled: 700, ..settings() }, parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=6).map(|seq| readings(Some(seq), "a"))).await;
    let taken = bench.batches().await;
    link.send(Outbound::Close { code: 4003, reason: "enough".to_owned() });
    assert_eq!(client.close_frame().await, (4003, "enough".to_owned()));
    bench.closed().await;
    for submitted in &taken {
        bench.budget.give_back(weight(submitted));
    }
    assert!(bench.budget.try_take(700));
}

#[tokio::test]
async fn a_busy_engine_holds_devices_back_and_gets_everything() {
    let limits = Devices { window: 1000, ..settings() };
    let mut bench = Bench::with_inbox(&limits, parse(""), 1);
    let (mut client, link) = bench.greeted("kiln-3").await;
    for seq in 1..=300 {
        client.send_bytes(readings(Some(seq), "a")).await;
    }
    let expected: Vec<_> = (1..=300).map(Some).collect();
    assert_eq!(bench.seqs(300).await, expected);
    link.settle(300, 300);
    client.acked(300).await;
}

#[tokio::test]
async fn what_was_sent_before_the_end_of_a_connection_arrives() {
    let mut bench = Bench::with_inbox(&settings(), parse(""), 1);
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    client.send_together((1..=40).map(|seq| readings(Some(seq), "a"))).await;
    drop(client);
    let expected: Vec<_> = (1..=40).map(Some).collect();
    assert_eq!(bench.seqs(40).await, expected);
    assert_eq!(bench.closed().await, greeted.session);
}

#[tokio::test]
async fn over_its_rate_a_device_is_read_slower() {
    let rate = rate(50.0, 10.0);
    let mut bench = Bench::start(&Devices { rate, ..settings() }, parse(""));
    let began = Instant::now();
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=40).map(|seq| readings(Some(seq), "a"))).await;
    let expected: Vec<_> = (1..=40).map(Some).collect();
    assert_eq!(bench.seqs(40).await, expected, "nothing is dropped");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(590), "30 over the burst at 50 a second: {took:?}");
    link.settle(40, 40);
    client.acked(40).await;
}

#[tokio::test]
async fn a_devices_own_rate_holds_and_another_one_does_at_once_even_while_it_waits() {
    // So slow that the test would never end with it.
    let slow = "[devices.kiln-3]\nrate = { batches_per_second = 0.001, burst = 2 }\n";
    let mut bench = Bench::start(&settings(), parse(slow));
    let (mut client, link) = bench.greeted("kiln-3").await;
    client.send_together((1..=40).map(|seq| readings(Some(seq), "a"))).await;
    // HELLO came before the rate was known.
    assert_eq!(bench.seqs(2).await, [Some(1), Some(2)]);
    tokio::time::sleep(A_WHILE).await;
    assert!(bench.event_now().is_none(), "the burst is 2");
    let fast = "[devices.kiln-3]\nrate = { batches_per_second = 100_000, burst = 100 }\n";
    bench.registry.send_replace(parse(fast).into());
    let expected: Vec<_> = (3..=40).map(Some).collect();
    assert_eq!(bench.seqs(38).await, expected);
    link.settle(40, 40);
    client.acked(40).await;
}

#[tokio::test]
async fn that_a_device_is_over_its_rate_is_shown_with_the_rule() {
    let rate = rate(20.0, 1.0);
    let mut bench = Bench::start(&Devices { rate, ..settings() }, parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    client.send_together((1..=4).map(|seq| readings(Some(seq), "a"))).await;
    bench.seqs(4).await;
    let shown = || bench.shown(|shown| shown.refused.clone());
    until("it is shown", || !shown().is_empty()).await;
    let (device, code, reason) = shown().remove(0);
    assert_eq!((device.as_str(), code), ("kiln-3", 429));
    assert!(reason.contains("20 batches a second") && reason.contains("devices.rate"), "{reason}");
}

#[tokio::test]
async fn a_devices_own_number_of_records_holds_above_and_below_the_setting() {
    let registry = "[devices.less]\nmax_records = 1\n[devices.more]\nmax_records = 5\n";
    let limits = Devices { max_records: 3, ..settings() };
    let mut bench = Bench::start(&limits, parse(registry));
    for (device, most) in [("less", 1), ("any", 3), ("more", 5)] {
        let (mut client, _link) = bench.greeted(device).await;
        let pack = |count: u8| {
            let records = (0..count).flat_map(|_| [0xa2, 0x00, 0x61, b'a', 0x02, 0x01]);
            // [1, null, [records]]
            [0x83, 0x01, 0xf6, 0x80 | count].into_iter().chain(records).collect::<Vec<u8>>()
        };
        client.send_bytes(pack(most)).await;
        assert_eq!(bench.seqs(1).await, [None], "{device}");
        client.send_bytes(pack(most + 1)).await;
        let GatewayMessage::Reject { code, reason, .. } = client.receive().await else { panic!() };
        assert_eq!(code, 3, "{device}: {reason}");
        drop(client);
        bench.closed().await;
    }
}

#[tokio::test]
async fn pings_count_against_the_rate() {
    let rate = rate(50.0, 10.0);
    let mut bench = Bench::start(&Devices { rate, ..settings() }, parse(""));
    let (mut client, _link) = bench.greeted("kiln-3").await;
    let began = Instant::now();
    let pings: Vec<u8> = (0..30).flat_map(|_| frame(0x89, b"?", MASK)).collect();
    client.send_raw(&pings).await;
    client.send_bytes(readings(Some(1), "a")).await;
    assert_eq!(bench.seqs(1).await, [Some(1)]);
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_device_that_does_not_read_its_rejects_is_not_read_from_for_ever() {
    let (heartbeat_interval, heartbeat_timeout) =
        (Duration::from_millis(300), Duration::from_millis(300));
    let limits = Devices { heartbeat_interval, heartbeat_timeout, ..settings() };
    let mut bench = Bench::start(&limits, parse(""));
    let (mut client, greeted) = bench.greeted_session("kiln-3").await;
    // Sends as long as it can and reads nothing, until the gateway has enough of it.
    let many: Vec<u8> = (0..1000).flat_map(|_| frame(0x82, &malformed(None), MASK)).collect();
    let sent = async {
        while tokio::io::AsyncWriteExt::write_all(client.websocket.get_mut(), &many).await.is_ok() {
        }
    };
    soon("the gateway gives up", sent).await;
    assert_eq!(bench.closed().await, greeted.session);
}

#[tokio::test]
async fn what_the_engine_says_is_sent() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut client, link) = bench.greeted("kiln-3").await;
    let reject = Outbound::Reject { seq: Some(3), code: 5, reason: "quota exceeded".to_owned() };
    link.send(reject);
    let reason = "quota exceeded".to_owned();
    assert_eq!(client.receive().await, GatewayMessage::Reject { seq: Some(3), code: 5, reason });
    link.send(Outbound::Close { code: 1013, reason: "é".repeat(100) });
    let (code, reason) = client.close_frame().await;
    assert_eq!((code, reason.as_str()), (1013, "é".repeat(61).as_str()), "cut to fit");
}
