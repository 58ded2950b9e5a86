//! Pushes against servers that refuse, stall, lie and go away.

mod buffer;
mod fake;
mod panics;
mod refusals;
mod secure;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::{Fake, Reply};

use super::{Context, PushHandle, start};
use crate::config::url::write_url;
use crate::config::{Push, PushAuth};
use crate::core::batch::{Batch, Reading, Value};
use crate::core::clock::Base;
use crate::core::ids::DeviceId;
use crate::host::clock::SystemClock;
use crate::metrics::{self, Metrics};
use crate::ports::{Clock, Feed, Health, PushState, lock};

const DEADLINE: Duration = Duration::from_secs(40);

/// A push that runs.
struct Pushing {
    handle: PushHandle,
    feed: Arc<dyn Feed>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

fn settings(url: &str) -> Push {
    Push {
        name: "test".to_owned(),
        url: write_url(url).unwrap(),
        auth: PushAuth::Token,
        token_file: None,
        ca: None,
        measurement: "readings".to_owned(),
        devices: Vec::new(),
        readings: Vec::new(),
        batch_size: 100,
        interval: Duration::from_millis(20),
        max_buffer: 1 << 20,
        gzip: false,
        timeout: Duration::from_secs(20),
    }
}

/// One reading of the device.
fn batch(device: &str, name: &str, value: f64) -> Arc<Batch> {
    let reading = Reading {
        name: name.into(),
        unit: None,
        value: Some(Value::Number(value)),
        sum: None,
        time: 1_763_800_000.0 + value,
        update_time: None,
        relative: false,
    };
    Arc::new(Batch {
        device: DeviceId::new(device).unwrap(),
        epoch: 1,
        seq: None,
        received: 1_763_800_000.0,
        base: Base::default(),
        shift: 0.0,
        readings: vec![reading],
    })
}

impl Pushing {
    fn start(push: Push) -> Self {
        Self::with_clock(push, Arc::new(SystemClock::new()))
    }

    fn with_clock(push: Push, clock: Arc<dyn Clock>) -> Self {
        let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
        let context = Context {
            gateway: "gw".to_owned(),
            health: health.clone(),
            metrics: metrics.clone(),
            clock,
        };
        let handle = start(&[push], &context).unwrap().unwrap();
        Self { feed: handle.feed(), handle, health, metrics }
    }

    fn offer(&self, name: &str, values: std::ops::Range<u32>) {
        for value in values {
            self.feed.readings(&batch("kiln-3", name, f64::from(value)));
        }
    }

    fn state(&self) -> PushState {
        lock(&self.health.pushes()[0].state).clone()
    }

    /// Queued, sent, dropped.
    fn counts(&self) -> (u64, u64, u64) {
        let health = &self.health.pushes()[0];
        let get = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        (get(&health.queued), get(&health.sent), get(&health.dropped))
    }

    fn dropped(&self, reason: &'static str) -> u64 {
        let label = metrics::PushDrop { push: "test".to_owned(), reason };
        self.metrics.push_dropped.get_or_create(&label).get()
    }

    fn errors(&self) -> u64 {
        let label = metrics::Push { push: "test".to_owned() };
        self.metrics.push_errors.get_or_create(&label).get()
    }

    async fn until_counts(&self, wanted: (u64, u64, u64)) {
        let what = format!("{wanted:?}");
        until(&what, || self.counts() == wanted).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The values of the lines, sorted.
fn values(fake: &Fake) -> Vec<u32> {
    let mut values: Vec<u32> = fake
        .accepted()
        .iter()
        .flat_map(|body| body.lines())
        .map(|line| {
            let value = line.split("value=").nth(1).unwrap().split(' ').next().unwrap();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let value = value.parse::<f64>().unwrap() as u32;
            value
        })
        .collect();
    values.sort_unstable();
    values
}
