//! How the spool is published once the broker is back: in order and as fast as the broker takes it,
//! or paced, or behind what is fresh; and through any number of interruptions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::harness::{Bench, Fleet, Mode, Setup, long_factor, until};

/// What the gateway may have in flight; mosquitto lets it have fewer.
const IN_FLIGHT: u64 = 100;

/// A gateway whose devices may send as fast as they like.
async fn start(adjust: impl FnOnce(Setup) -> Setup) -> Bench {
    let mut rate = toml::Table::new();
    rate.insert("batches_per_second".into(), 100_000.into());
    rate.insert("burst".into(), 100_000.into());
    rate.insert("bytes_per_second".into(), "1GiB".into());
    Bench::start(|setup| adjust(setup.set("devices.rate", rate))).await
}

/// Fills the spool with about `count` batches of ten devices and leaves the broker away. The fleet
/// pauses.
async fn backlog(bench: &Bench, count: u64) -> Fleet {
    bench.proxy.set(Mode::Away);
    bench.gateway.until_uplink("disconnected").await;
    let fleet = Fleet::start(&bench.gateway, 10, Duration::from_millis(1));
    while fleet.acked() < count {
        fleet.advance(count.div_ceil(10)).await;
    }
    let acked = fleet.pause().await;
    until("all of it is in the spool", async || bench.spooled().await == acked).await;
    fleet
}

fn readings_so_far(bench: &Bench) -> u64 {
    bench.proxy.look(|all| all.iter().filter(|seen| seen.is_readings()).count()) as u64
}

#[tokio::test]
async fn a_drain_that_is_cut_again_and_again_goes_on_where_it_was() {
    let bench = start(|setup| setup.set("spool.drain_rate", 4000)).await;
    let size = 4000 * long_factor().min(5) as u64;
    let fleet = backlog(&bench, size).await;
    let mut cuts = 0;
    bench.proxy.set(Mode::Forward);
    for _ in 0..10 {
        let seen = readings_so_far(&bench);
        let goal = size / 15 + rand::rng().random_range(0..50);
        until("the drain goes on", async || readings_so_far(&bench) >= seen + goal).await;
        bench.proxy.cut();
        cuts += 1;
    }
    assert!(bench.spooled().await > 0, "the cuts fell into the drain");
    let total = bench.settle(fleet).await;
    eprintln!("{cuts} cuts, {} repeated", total.repeated);
    assert!(total.repeated <= cuts * IN_FLIGHT, "only what was in flight comes again");
}

#[tokio::test]
async fn a_drain_goes_on_where_it_was_when_the_gateway_is_killed_again_and_again() {
    const RATE: i64 = 1000;
    let mut bench = start(|setup| setup.set("spool.drain_rate", RATE)).await;
    let size = 4000 * long_factor().min(5) as u64;
    let fleet = backlog(&bench, size).await;
    let mut kills = 0;
    bench.proxy.set(Mode::Forward);
    for round in 0..8 {
        let seen = readings_so_far(&bench);
        let goal = size / 12 + rand::rng().random_range(0..50);
        until("the drain goes on", async || readings_so_far(&bench) >= seen + goal).await;
        if round % 3 == 2 {
            bench.gateway.stop().await;
        } else {
            bench.gateway.kill();
            kills += 1;
        }
        bench.gateway.start().await;
    }
    let total = bench.settle(fleet).await;
    eprintln!("{kills} kills, {} repeated", total.repeated);
    // Where it is gets noted each 50 ms; here that may take a second.
    let forgotten = IN_FLIGHT + RATE.unsigned_abs();
    assert!(total.repeated <= kills * forgotten, "the drain does not begin anew");
}

#[tokio::test]
async fn drain_rate_caps_the_drain() {
    const RATE: i64 = 150;
    let bench = start(|setup| setup.set("spool.drain_rate", RATE)).await;
    let fleet = backlog(&bench, 900).await;
    bench.proxy.set(Mode::Forward);
    bench.drained().await;
    let times: Vec<Instant> = bench.proxy.readings().iter().map(|seen| seen.at).collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let rate = (times.len() - 1) as f64 / (last - first).as_secs_f64();
    eprintln!("{rate:.1} batches a second");
    // The proxy may have been late for the first: that makes it look faster.
    assert!(rate < RATE as f64 * 1.25, "{rate} is over the cap");
    assert!(rate > RATE as f64 / 5.0, "{rate} is far below the cap");
    let before = fleet.acked();
    fleet.resume();
    fleet.advance(500).await;
    fleet.pause().await;
    let live = bench.proxy.readings().split_off(usize::try_from(before).unwrap());
    let spooled = live.iter().filter(|seen| seen.json()["spooled"] == true).count();
    assert_eq!(spooled, 0, "what is live is not held to the rate");
    bench.settle(fleet).await;
}

#[tokio::test]
async fn new_readings_join_the_tail_of_a_drain_without_a_stall() {
    let bench = start(|setup| setup.set("spool.drain_rate", 300)).await;
    let fleet = backlog(&bench, 1500).await;
    fleet.take_slowest();
    bench.proxy.set(Mode::Forward);
    until("the drain has begun", async || readings_so_far(&bench) > 0).await;
    fleet.resume();
    fleet.advance(300).await;
    let (slowest, left) = (fleet.take_slowest(), bench.spooled().await);
    eprintln!("slowest ACK during the drain: {slowest:?}, {left} in the spool then");
    assert!(left > 0, "they came while it went on");
    assert!(slowest < Duration::from_secs(5), "an ACK took {slowest:?}");
    fleet.pause().await;
    let total = bench.settle(fleet).await;
    assert_eq!(total.repeated, 0, "nothing was interrupted");
}

#[tokio::test]
async fn live_first_sends_what_is_fresh_at_once_and_the_backlog_behind_it() {
    let adjust = |setup: Setup| setup.set("spool.drain", "live-first").set("spool.drain_rate", 200);
    let bench = start(adjust).await;
    let fleet = backlog(&bench, 1000).await;
    let size = fleet.acked();
    bench.proxy.set(Mode::Forward);
    until("the drain has begun", async || readings_so_far(&bench) > 20).await;
    // One at a time: each is acknowledged by the broker before the next is sent.
    let (mut device, _) = bench.gateway.device("fresh").open(Some(7)).await;
    let mut slowest = Duration::ZERO;
    for seq in 1..=40 {
        let sent = Instant::now();
        device.reading(seq, 1.0).await;
        device.acked(seq).await;
        slowest = slowest.max(sent.elapsed());
    }
    let left = bench.spooled().await;
    eprintln!("slowest fresh reading: {slowest:?}, {left} of {size} in the spool then");
    assert!(left > 0, "they overtook the backlog");
    let (fresh, old) = by_freshness(&bench);
    assert_eq!(fresh["fresh"], (1..=40).collect::<Vec<_>>());
    assert!(old.values().map(Vec::len).sum::<usize>() < usize::try_from(size).unwrap());
    bench.drained().await;
    let (fresh, old) = by_freshness(&bench);
    assert_eq!(fresh.len(), 1, "only what waited is marked");
    assert_eq!(old.len(), 10);
    for seqs in old.values() {
        assert_eq!(*seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "in order for each device");
    }
    assert_eq!(old.values().map(Vec::len).sum::<usize>() as u64, size, "complete, and once each");
}

#[tokio::test]
async fn live_first_keeps_the_backlogs_order_through_interruptions_under_load() {
    let adjust =
        |setup: Setup| setup.set("spool.drain", "live-first").set("spool.drain_rate", 2000);
    let mut bench = start(adjust).await;
    let fleet = backlog(&bench, 1500).await;
    let size = fleet.acked();
    bench.proxy.set(Mode::Forward);
    fleet.resume();
    for round in 0..4 {
        let seen = readings_so_far(&bench);
        until("readings flow", async || readings_so_far(&bench) >= seen + 300).await;
        if round == 2 {
            bench.gateway.kill();
            bench.gateway.start().await;
        } else {
            bench.proxy.cut();
        }
    }
    let sent = fleet.pause().await;
    assert!(sent > size);
    bench.drained().await;
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let (fresh, old) = by_freshness(&bench);
    for (device, seqs) in fresh.into_iter().chain(old.clone()) {
        all.entry(device).or_default().extend(seqs);
    }
    let mut arrived = 0;
    for seqs in all.values_mut() {
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(*seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "each batch arrived");
        arrived += seqs.len() as u64;
    }
    assert_eq!(arrived, sent);
    for (device, seqs) in old {
        let mut firsts: Vec<u64> = Vec::new();
        for seq in seqs {
            if !firsts.contains(&seq) {
                firsts.push(seq);
            }
        }
        assert!(firsts.is_sorted(), "{device}: {firsts:?}");
    }
}

/// The numbers that the broker accepted, by device, in order: those not marked `spooled`, and
/// those that are.
fn by_freshness(bench: &Bench) -> (BTreeMap<String, Vec<u64>>, BTreeMap<String, Vec<u64>>) {
    let (mut fresh, mut old) = (BTreeMap::new(), BTreeMap::new());
    for seen in bench.proxy.readings().iter().filter(|seen| seen.accepted()) {
        let json = seen.json();
        let place = if json["spooled"] == true { &mut old } else { &mut fresh };
        let seqs: &mut Vec<u64> =
            place.entry(json["device"].as_str().unwrap().to_owned()).or_default();
        seqs.push(json["seq"].as_u64().unwrap());
    }
    (fresh, old)
}
