//! A ledger in a folder, and what the tests ask of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ciborium::Value;

use crate::core::command::{Entry, Kept, Record, Requester, Response, State, Way};
use crate::core::ids::DeviceId;
use crate::ledger::{SledLedger, open};
use crate::ports::{Health, Ledger, LedgerEvent};
pub(super) use crate::storage::testing::{Mount, PATIENCE, PowerDisk, TestClock, copy, files};

pub(super) struct Bench {
    pub(super) ledger: SledLedger,
    pub(super) health: Arc<Health>,
}

impl Bench {
    pub(super) fn open(dir: &Path) -> (Self, Kept) {
        let health = Arc::new(Health::default());
        let mut ledger = open(dir, health.clone(), Arc::new(TestClock::default())).unwrap();
        let kept = ledger.kept();
        (Self { ledger, health }, kept)
    }

    pub(super) fn event(&mut self) -> LedgerEvent {
        let begin = Instant::now();
        loop {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(event) = self.ledger.poll_event(&mut cx) {
                return event;
            }
            assert!(begin.elapsed() < PATIENCE, "no event");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes and waits until all of it is durable; other events are not expected.
    pub(super) fn store(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut missing = BTreeMap::new();
        for record in records {
            missing.insert(record.number, record.version);
            self.ledger.persist(Arc::new(record));
        }
        while !missing.is_empty() {
            let LedgerEvent::Durable(durable) = self.event() else { panic!("refused") };
            for (number, version) in durable {
                if missing.get(&number).is_some_and(|wanted| *wanted <= version) {
                    missing.remove(&number);
                }
            }
        }
    }

    pub(super) fn close(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.ledger.close());
    }
}

/// Command `number` in its version `version`; the same for the same arguments. Some take several
/// pieces.
pub(super) fn record(number: u64, version: u32) -> Record {
    let bytes = if number % 10 == 0 { 9000 } else { 20 + number % 200 };
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | u64::from(version);
    let noise = (0..bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    let correlation = Some(vec![0, 255, version.to_le_bytes()[0]]);
    let entry = |state, time| Entry { state, time, late: false, note: None };
    Record {
        number,
        version,
        id: format!("c-{number}"),
        device: DeviceId::new(&format!("kiln-{}", number % 7)).unwrap(),
        name: "set-output".into(),
        params: Value::Bytes(noise.collect()),
        ttl: 60,
        redeliver: number % 2 == 0,
        requester: Requester {
            via: Way::Mqtt,
            name: String::new(),
            response: Some(Response::new(format!("answers/{number}"), correlation).unwrap()),
        },
        accepted: 1_763_800_000.5,
        expires: 1_763_800_060.5,
        sent: version,
        history: vec![
            entry(State::Queued, 1_763_800_000.5),
            entry(State::Delivered, 1_763_800_001.0),
        ],
        value: Value::Null,
        error: (version > 1).then(|| format!("version {version}")),
        finish: None,
        published: false,
    }
}
