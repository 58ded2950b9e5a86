//! Broker and gateway killed at random moments under load. Afterwards the books balance: all that
//! was acknowledged arrived, with the payload that was sent, in order; nothing else did; and a
//! fresh batch passes.

use std::time::Duration;

use rand::Rng;

use crate::harness::{Bench, Fleet, Mode, Witnessed, long_factor};

const DEVICES: usize = 6;
const PACE: Duration = Duration::from_millis(4);

async fn begin() -> (Bench, Fleet) {
    let bench = Bench::start(|setup| setup.set("mqtt.ack_timeout", "2s")).await;
    let fleet = Fleet::start(&bench.gateway, DEVICES, PACE);
    (bench, fleet)
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
    let (mut bench, fleet) = begin().await;
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
    let (mut bench, fleet) = begin().await;
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
    let (mut bench, fleet) = begin().await;
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
    let (mut bench, fleet) = begin().await;
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
    let (mut bench, fleet) = begin().await;
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

/// Kills and starts are not waited for, so they fall into start-up, recovery and drain as well.
#[tokio::test]
async fn either_killed_at_any_moment_of_its_life_loses_nothing() {
    let (mut bench, fleet) = begin().await;
    let (mut gateway_kills, mut broker_kills) = (0, 0);
    for _ in 0..8 * long_factor() {
        let (mut gateway_up, mut broker_up) = (true, true);
        for _ in 0..6 {
            match (rand::rng().random(), gateway_up, broker_up) {
                (true, true, _) => {
                    bench.gateway.kill();
                    gateway_kills += 1;
                }
                (true, false, _) => bench.gateway.spawn(),
                (false, _, true) => {
                    bench.broker.kill();
                    broker_kills += 1;
                }
                (false, _, false) => bench.broker.spawn(),
            }
            (gateway_up, broker_up) = (bench.gateway.is_running(), bench.broker.is_running());
            a_moment().await;
        }
        if !broker_up {
            bench.broker.restart().await;
        }
        if !gateway_up {
            bench.gateway.start().await;
        }
        fleet.advance(some()).await;
    }
    eprintln!("the gateway killed {gateway_kills} times, the broker {broker_kills} times");
    bench.settle(fleet).await;
}

#[tokio::test]
async fn a_line_that_is_cut_silenced_and_starved_of_pubacks_loses_nothing() {
    let (bench, fleet) = begin().await;
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
