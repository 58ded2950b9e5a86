//! Broker and gateway killed at random moments under load. Afterwards the books balance: all that
//! was acknowledged arrived, with the payload that was sent, in order; nothing else did; and a
//! fresh batch passes.

use std::time::Duration;

use rand::Rng;

use crate::harness::{Broker, Fleet, Gateway, Mode, Proxy, Setup, Witnessed, long_factor, until};

const DEVICES: usize = 6;
const PACE: Duration = Duration::from_millis(4);

struct Bench {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
}

impl Bench {
    async fn start() -> Self {
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        let setup = Setup::new(proxy.port).set("mqtt.ack_timeout", "2s");
        let gateway = setup.start().await;
        gateway.until_uplink("connected").await;
        Self { broker, proxy, gateway }
    }

    fn fleet(&self) -> Fleet {
        Fleet::start(&self.gateway, DEVICES, PACE)
    }

    /// Checks the books, then that a fresh batch passes.
    async fn settle(self, fleet: Fleet) {
        let total = fleet.settle(&self.proxy).await;
        eprintln!("{total:?}");
        assert!(total.acked > 0);
        until("the spool is empty", async || {
            self.gateway.metric("tidegate_spool_batches").await == 0
        })
        .await;
        assert_eq!(self.gateway.status().await["spool"]["lost_readings"], 0);
        let (mut fresh, _) = self.gateway.device("fresh").open(None).await;
        fresh.reading(1, 1.0).await;
        fresh.acked(1).await;
        let seen = self.proxy.readings();
        assert!(seen.iter().any(|seen| seen.json()["device"] == "fresh"));
    }
}

/// How many batches to let pass before the next blow.
fn some() -> u64 {
    rand::rng().random_range(1..150)
}

/// A moment that falls anywhere within a commit, a publish or a drain.
async fn a_moment() {
    let wait = Duration::from_micros(rand::rng().random_range(0..60_000));
    tokio::time::sleep(wait).await;
}

#[tokio::test]
async fn the_broker_killed_at_random_moments_loses_nothing() {
    let mut bench = Bench::start().await;
    let fleet = bench.fleet();
    for _ in 0..4 * long_factor() {
        fleet.advance(some()).await;
        a_moment().await;
        bench.broker.kill();
        fleet.advance(some()).await;
        bench.broker.restart().await;
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn the_gateway_killed_at_random_moments_with_the_broker_up_loses_nothing() {
    let mut bench = Bench::start().await;
    let fleet = bench.fleet();
    for _ in 0..6 * long_factor() {
        fleet.advance(some()).await;
        a_moment().await;
        bench.gateway.kill();
        bench.gateway.start().await;
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn the_gateway_killed_at_random_moments_with_the_broker_down_loses_nothing() {
    let mut bench = Bench::start().await;
    let fleet = bench.fleet();
    fleet.advance(some()).await;
    bench.broker.kill();
    for _ in 0..6 * long_factor() {
        fleet.advance(some()).await;
        a_moment().await;
        bench.gateway.kill();
        bench.gateway.start().await;
    }
    bench.broker.restart().await;
    bench.settle(fleet).await;
}

#[tokio::test]
async fn the_gateway_killed_in_the_middle_of_a_drain_loses_nothing() {
    let mut bench = Bench::start().await;
    let fleet = bench.fleet();
    for _ in 0..3 * long_factor() {
        bench.broker.kill();
        fleet.advance(600).await;
        let before = bench.proxy.look(<[_]>::len);
        bench.broker.restart().await;
        // The first few are status messages.
        let begun = |all: &[Witnessed]| all[before..].iter().any(Witnessed::is_readings);
        bench.proxy.until("the drain has begun", begun).await;
        bench.gateway.kill();
        bench.gateway.start().await;
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn both_killed_in_any_order_lose_nothing() {
    let mut bench = Bench::start().await;
    let fleet = bench.fleet();
    for _ in 0..4 * long_factor() {
        fleet.advance(some()).await;
        a_moment().await;
        if rand::rng().random() {
            bench.broker.kill();
            a_moment().await;
            bench.gateway.kill();
        } else {
            bench.gateway.kill();
            bench.broker.kill();
        }
        if rand::rng().random() {
            bench.gateway.start().await;
            fleet.advance(some()).await;
            bench.broker.restart().await;
        } else {
            bench.broker.restart().await;
            bench.gateway.start().await;
        }
    }
    bench.settle(fleet).await;
}

#[tokio::test]
async fn a_line_that_is_cut_silenced_and_starved_of_pubacks_loses_nothing() {
    let bench = Bench::start().await;
    let fleet = bench.fleet();
    for _ in 0..5 * long_factor() {
        fleet.advance(some()).await;
        a_moment().await;
        match rand::rng().random_range(0..4) {
            0 => bench.proxy.cut(),
            1 => bench.proxy.set(Mode::Refuse),
            2 => bench.proxy.set(Mode::HalfOpen),
            _ => bench.proxy.set(Mode::SwallowAcks),
        }
        fleet.advance(some()).await;
        bench.proxy.set(Mode::Forward);
    }
    bench.settle(fleet).await;
}
