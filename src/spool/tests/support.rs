//! A spool in a temporary folder, and what the tests ask of it.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::config::{Drain, SpoolSettings, WhenFull};
use crate::core::batch::{Batch, Loss, Reading, Value};
use crate::core::clock::Base;
use crate::core::ids::{DeviceId, Position};
use crate::ports::{Clock, Health, Spool, SpoolEvent};
use crate::spool::{SledSpool, SpoolError, open};
pub(super) use crate::storage::testing::{Mount, PATIENCE, TestClock, copy, files};

pub(super) fn settings() -> SpoolSettings {
    SpoolSettings {
        max_bytes: 64 * 1024 * 1024,
        reserve: 0,
        // The batches of the tests are of 2025.
        max_age: Duration::from_secs(100 * 365 * 86400),
        when_full: WhenFull::DropOldest,
        drain: Drain::InOrder,
        drain_rate: 0,
    }
}

/// An open spool with everything around it.
pub(super) struct Bench {
    pub(super) spool: SledSpool,
    pub(super) health: Arc<Health>,
    /// Records to publish, which do not count as events.
    pub(super) reports: Vec<(u64, Loss)>,
    pub(super) next: Position,
}

impl Bench {
    pub(super) fn open(dir: &Path, settings: &SpoolSettings) -> Self {
        Self::try_open(dir, settings, Arc::default()).unwrap()
    }

    pub(super) fn try_open(
        dir: &Path,
        settings: &SpoolSettings,
        clock: Arc<TestClock>,
    ) -> Result<Self, SpoolError> {
        Self::with_clock(dir, settings, clock)
    }

    pub(super) fn with_clock(
        dir: &Path,
        settings: &SpoolSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SpoolError> {
        let health = Arc::new(Health::default());
        let spool = open(dir, settings, health.clone(), clock)?;
        let next = spool.opened().tail;
        Ok(Self { spool, health, reports: Vec::new(), next })
    }

    /// Adds a batch at the next position.
    pub(super) fn append(&mut self, batch: Batch) -> Position {
        let position = self.next;
        self.spool.append(position, Arc::new(batch));
        self.next += 1;
        position
    }

    /// Adds them all and waits until they are durable.
    pub(super) fn store(&mut self, batches: impl IntoIterator<Item = Batch>) {
        for batch in batches {
            self.append(batch);
        }
        self.durable(self.next - 1);
    }

    pub(super) fn poll(&mut self) -> Option<SpoolEvent> {
        loop {
            match self.spool.poll_event(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(SpoolEvent::Report { number, loss }) => {
                    self.reports.push((number, loss));
                }
                Poll::Ready(event) => return Some(event),
                Poll::Pending => return None,
            }
        }
    }

    /// The next event.
    pub(super) fn event(&mut self) -> SpoolEvent {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.poll() {
                return event;
            }
            assert!(begin.elapsed() < PATIENCE, "no event");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until everything up to `through` is durable; other events are not expected.
    pub(super) fn durable(&mut self, through: Position) {
        loop {
            match self.event() {
                SpoolEvent::Durable { through: at } if at >= through => return,
                SpoolEvent::Durable { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }

    /// One answer to `load`; other events are not expected.
    pub(super) fn load(&mut self, from: Position, max_bytes: usize) -> Loaded {
        self.spool.load(from, max_bytes);
        match self.event() {
            SpoolEvent::Loaded { batches, next, losses } => (batches, next, losses),
            event => panic!("{event:?}"),
        }
    }

    /// Everything from the head to the end, and what was lost of it.
    pub(super) fn load_all(&mut self) -> (Vec<(Position, Arc<Batch>)>, Vec<Loss>) {
        let (mut from, end) = (self.spool.opened().head, self.next);
        let (mut all, mut lost) = (Vec::new(), Vec::new());
        while from < end {
            let (batches, next, losses) = self.load(from, 64 * 1024);
            assert!(next > from, "no progress at {from} of {end}");
            from = next;
            all.extend(batches);
            lost.extend(losses);
        }
        (all, lost)
    }

    pub(super) fn close(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.spool.close());
    }

    /// Waits until `condition` holds.
    pub(super) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", self.health.spool());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

type Loaded = (Vec<(Position, Arc<Batch>)>, Position, Vec<Loss>);

pub(super) fn unix() -> f64 {
    TestClock::default().unix()
}

/// A single-reading batch as a real device sends it; the same for the same number.
pub(super) fn batch(number: u64) -> Batch {
    sized(number, 1)
}

pub(super) fn sized(number: u64, readings: usize) -> Batch {
    let device = number % 20;
    let time = 1_763_800_000.0 + number as f64 / 8.0;
    let reading = |n: usize| Reading {
        name: "temperature".into(),
        unit: Some("Cel".into()),
        value: Some(Value::Number((number * 7 + n as u64) as f64 / 10.0)),
        sum: None,
        time: time + n as f64,
        update_time: None,
        relative: false,
    };
    Batch {
        device: DeviceId::new(&format!("kiln-{device}")).unwrap(),
        epoch: 7 + device,
        seq: Some(1 + number / 20),
        received: time + 0.037,
        base: Base::default(),
        shift: 0.0,
        readings: (0..readings).map(reading).collect(),
    }
}

/// A batch of about `bytes` that does not compress.
pub(super) fn bulky(number: u64, bytes: usize) -> Batch {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let data: Vec<u8> = (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    let mut batch = batch(number);
    batch.readings[0].value = Some(Value::Data(data.into()));
    batch
}
