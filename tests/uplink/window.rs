//! How much is in flight, and who gets the places.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate::config::Mqtt;
use tidegate::ports::{DownCause, Publisher};

use crate::broker::Broker;
use crate::driver::{Driver, batches, seq, settings, wide_batch};

#[tokio::test]
async fn a_full_window_is_refilled_when_half_of_it_is_free() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&Mqtt { max_inflight: 8, ..settings(broker.port) }, batches(16));
    driver.hands_over = false;
    let mut peer = driver.beside(broker.accept()).await;
    driver.until("the window is empty", |driver| driver.uplink.room() == 8).await;
    driver.hands_over = true;
    let mut sent: VecDeque<_> = driver.beside(peer.read_publishes(8)).await.into();
    driver.hands_over = false;
    for acked in 1..=8 {
        peer.ack(sent.pop_front().unwrap().pkid).await;
        driver.until("one more", |driver| driver.settled() == acked).await;
        let expected = if acked < 4 { 0 } else { acked };
        assert_eq!(driver.uplink.room(), expected, "after {acked} PUBACKs");
    }
}

#[tokio::test]
async fn a_window_that_was_not_full_is_refilled_at_once() {
    let broker = Broker::start().await;
    let mut driver = Driver::new(&Mqtt { max_inflight: 8, ..settings(broker.port) }, batches(6));
    driver.hands_over = false;
    let mut peer = driver.beside(broker.accept()).await;
    driver.until("the window is empty", |driver| driver.uplink.room() == 8).await;
    driver.hands_over = true;
    driver.beside(peer.read_publishes(6)).await;
    assert_eq!(driver.uplink.room(), 2);
}

#[tokio::test]
async fn the_brokers_receive_maximum_is_never_exceeded() {
    for receive_max in [1_u16, 2, 5] {
        let broker = Broker::start().await;
        let mut driver = Driver::new(&settings(broker.port), batches(40));
        for n in 0..10 {
            driver.announce(&format!("devices/d{n}/status"), "{}", true);
        }
        let script = async {
            let mut peer =
                broker.accept_with(|limits| limits.receive_max = Some(receive_max)).await;
            let mut unanswered = VecDeque::new();
            let mut order = Vec::new();
            while order.len() < 50 {
                // Answers only when there is no more to come.
                while peer.hears_within(Duration::from_millis(20)).await {
                    let publish = peer.read_publish().await;
                    unanswered.push_back(publish.pkid);
                    order.push(publish.topic);
                    assert!(unanswered.len() <= usize::from(receive_max));
                }
                while let Some(pkid) = unanswered.pop_front() {
                    peer.ack(pkid).await;
                }
            }
            (peer, order)
        };
        let (_peer, order) = driver.beside(script).await;
        driver.until("all published", Driver::all_settled).await;
        // Neither waits for all of the other.
        let is_reading = |topic: &bytes::Bytes| topic.ends_with(b"/readings");
        let first_half = &order[..25];
        assert!(first_half.iter().any(|topic| !is_reading(topic)), "{order:?}");
        assert!(first_half.iter().filter(|topic| is_reading(topic)).count() >= 10, "{order:?}");
    }
}

#[tokio::test]
async fn a_broker_that_does_not_read_bounds_what_is_held_for_it() {
    let broker = Broker::start().await;
    let settings = Mqtt {
        ack_timeout: Duration::from_secs(2),
        max_inflight: u16::MAX,
        ..settings(broker.port)
    };
    let wide: Vec<_> = (1..=3000).map(|seq| wide_batch(seq, 100)).collect();
    let mut driver = Driver::new(&settings, wide);
    let script = async {
        let peer = broker.accept().await;
        // Reads no more, and keeps the connection.
        broker.accept().await;
        peer
    };
    let mut handed_over = 0;
    {
        tokio::pin!(script);
        while driver.downs.is_empty() {
            tokio::select! {
                _ = &mut script => break,
                () = driver.until("full or lost", |d| d.handed_over() > handed_over || !d.downs.is_empty()) => {
                    handed_over = handed_over.max(driver.handed_over());
                }
            }
        }
    }
    // 3000 batches of about 7 KB are 21 MB; the socket buffers hold a few of them.
    assert!(handed_over < 2000, "{handed_over} batches were taken");
    assert_eq!(driver.downs[0].1, DownCause::Silent);
}

#[tokio::test]
async fn what_is_handed_over_between_two_polls_arrives_in_order() {
    let broker = Broker::start().await;
    let settings = Mqtt { max_inflight: 1000, ..settings(broker.port) };
    let mut driver = Driver::new(&settings, batches(3000));
    let script = async {
        let mut peer = broker.accept().await;
        for expected in 1..=3000 {
            let publish = peer.read_publish().await;
            assert_eq!(seq(&publish.payload), expected);
            peer.ack(publish.pkid).await;
        }
        peer
    };
    let _peer = driver.beside(script).await;
    driver.until("all published", Driver::all_settled).await;
}
