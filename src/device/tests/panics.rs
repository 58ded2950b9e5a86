//! A fault of the program while it serves one connection.

use super::harness::*;
use crate::ports::Submitted;

#[tokio::test]
async fn a_panic_in_one_connection_ends_that_one_and_no_other() {
    let mut bench = Bench::start(&settings(), parse(""));
    let (mut good, good_link) = bench.greeted("kiln-1").await;
    let (mut bad, session) = bench.greeted_session("kiln-2").await;
    assert_eq!(bench.connected(), 2);

    // What is refused is shown, and for this device showing panics.
    bench.panic_for("kiln-2");
    bad.send_bytes(malformed(Some(1))).await;
    assert_eq!(bench.closed().await, session.session, "the engine hears that it is gone");
    assert!(bad.ends().await, "the connection is cut");
    until("it is not counted any more", || bench.connected() == 1).await;

    good.send_bytes(readings(Some(1), "t")).await;
    assert!(matches!(bench.batches().await[..], [Submitted::Batch(_)]));
    good_link.settle(1, 1);
    good.acked(1).await;

    // The listener goes on, also for the device itself, and nothing is held that it had.
    bench.panic_for_nobody();
    let (mut again, _) = bench.greeted("kiln-2").await;
    again.send_bytes(malformed(Some(1))).await;
    assert!(matches!(bench.batches().await[..], [Submitted::Rejected(1)]));
    assert_eq!(bench.connected(), 2);
}

#[tokio::test]
async fn a_panic_before_hello_is_answered_gives_its_place_back() {
    let limits = crate::config::Devices { max_connections: 1, ..settings() };
    let mut bench = Bench::start(&limits, parse(""));
    for _ in 0..3 {
        bench.panic_for("kiln-2");
        let mut client = Client::connect(bench.addr, "kiln-2", &[]).await.unwrap();
        client.send(&hello(Some(7))).await;
        assert!(client.ends().await);
        bench.panic_for_nobody();
        until("its place is free", || bench.connected() == 0).await;
    }
    until_greeted(&mut bench, "kiln-1").await;
}

/// The place is given back when the task's memory goes, a little after the connection.
async fn until_greeted(bench: &mut Bench, device: &str) {
    let admitted = async {
        loop {
            if let Ok(client) = Client::connect(bench.addr, device, &[]).await {
                return client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let mut client = soon("the device is let in", admitted).await;
    client.send(&hello(Some(7))).await;
    let opened = bench.opened().await;
    opened.welcome.send(crate::ports::Resume { epoch: 7, acked: 0 }).unwrap();
    client.welcome().await;
}
