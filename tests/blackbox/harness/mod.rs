//! What the black-box tests stand on: the real binary, a real mosquitto, and ends of our own for
//! everything the gateway talks to. Nothing here uses tidegate's own encoders, so an error in them
//! cannot hide.
//!
//! Every wait is for a condition and has a deadline; every process is ended when its owner is
//! dropped, by its own handle; every server listens on 127.0.0.1.

mod asking;
mod bench;
mod books;
mod broker;
mod device;
mod disk;
mod gateway;
mod http;
mod load;
mod mqtt;
mod proxy;
mod requester;
mod store;
mod subscriber;

pub(crate) use asking::{commands_path, states};
pub(crate) use bench::Bench;
pub(crate) use books::{Account, Accounts, Books, drained};
pub(crate) use broker::Broker;
pub(crate) use ciborium::Value;
pub(crate) use device::{
    Connector, Device, FromGateway, Refusal, hello, pack, readings, record, result,
};
pub(crate) use disk::Disk;
pub(crate) use gateway::{Gateway, Setup};
pub(crate) use http::{Response, raw};
pub(crate) use load::{Balance, Fleet};
pub(crate) use mqtt::Publish;
pub(crate) use proxy::{Mode, Proxy, Witnessed};
pub(crate) use requester::{Extra, Requester, commands_of, results_of};
pub(crate) use store::{Kind as StoreKind, Store};
pub(crate) use subscriber::Subscriber;

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How long any single expectation may take. Generous, because the machine may be busy; nothing
/// waits for it unless something is wrong.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// The gateway under test: the one built along, or what `TIDEGATE_BIN` names, which may be one for
/// another processor (`tests/cross`).
pub(crate) fn program() -> PathBuf {
    let other = std::env::var_os("TIDEGATE_BIN");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into()).into()
}

/// Awaits `future`, or fails with `what`.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(DEADLINE, future).await;
    output.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Asks `holds` again and again until it answers true, or fails with `what`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port of 127.0.0.1 that is free now. Taken from below the range that the kernel uses for
/// outgoing connections, and each one only once, so that nobody takes it in between.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() * 37 % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Shows the end of a log where the test has failed.
fn show_log(whose: &str, path: &Path) {
    if std::thread::panicking() {
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.len().saturating_sub(40);
        eprintln!("--- the last lines of {whose}'s log\n{}\n---", lines[tail..].join("\n"));
    }
}

/// Unix time in seconds.
pub(crate) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The same JSON with every number as a float, so that `7` and `7.0` are one.
pub(crate) fn as_floats(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(number) => number.as_f64().unwrap().into(),
        serde_json::Value::Array(items) => items.iter().map(as_floats).collect(),
        serde_json::Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), as_floats(value))).collect()
        }
        other => other.clone(),
    }
}

/// How much more the long modes do.
pub(crate) fn long_factor() -> usize {
    if std::env::var_os("TIDEGATE_LONG").is_some() { 20 } else { 1 }
}

/// Randomness that can be had again: the seed is printed, and taken from `TIDEGATE_SEED` if set.
pub(crate) fn seeded() -> StdRng {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    eprintln!("TIDEGATE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
