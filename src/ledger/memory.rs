//! A ledger in memory, for tests of what works with one: durable when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::core::command::{Kept, Record};
use crate::ports::{Ledger, LedgerEvent, lock};

/// The disk of a [`MemoryLedger`], which outlives it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    records: BTreeMap<u64, Arc<Record>>,
    pending: Vec<(u64, Option<Arc<Record>>)>,
    events: VecDeque<LedgerEvent>,
    held: bool,
    waker: Option<Waker>,
}

impl MemoryDisk {
    /// Keeps back what is written from now on, until [`Self::release`].
    pub fn hold(&self) {
        lock(&self.0).held = true;
    }

    /// Makes what was kept back durable, and what follows at once.
    pub fn release(&self) {
        let mut disk = lock(&self.0);
        disk.held = false;
        disk.commit();
    }

    /// Reports something to whoever uses the ledger.
    pub fn report(&self, event: LedgerEvent) {
        let mut disk = lock(&self.0);
        disk.events.push_back(event);
        disk.wake();
    }

    /// What is durable.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Record>> {
        lock(&self.0).records.values().cloned().collect()
    }

    /// Opens it, as after a crash: what was kept back is gone.
    #[must_use]
    pub fn open(&self) -> MemoryLedger {
        let mut disk = lock(&self.0);
        disk.pending.clear();
        disk.events.clear();
        drop(disk);
        MemoryLedger(self.clone())
    }
}

impl Disk {
    fn change(&mut self, number: u64, record: Option<Arc<Record>>) {
        self.pending.push((number, record));
        if !self.held {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let mut durable = Vec::new();
        for (number, record) in self.pending.drain(..) {
            match record {
                Some(record) => {
                    durable.push((number, record.version));
                    self.records.insert(number, record);
                }
                None => {
                    self.records.remove(&number);
                }
            }
        }
        if !durable.is_empty() {
            self.events.push_back(LedgerEvent::Durable(durable));
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemoryLedger(MemoryDisk);

impl Ledger for MemoryLedger {
    fn kept(&mut self) -> Kept {
        let records: Vec<Record> =
            self.0.records().iter().map(|record| Record::clone(record)).collect();
        let next_number = records.last().map_or(1, |record| record.number + 1);
        Kept { records, next_number, damaged: false }
    }

    fn persist(&mut self, record: Arc<Record>) {
        lock(&self.0.0).change(record.number, Some(record));
    }

    fn forget(&mut self, number: u64) {
        lock(&self.0.0).change(number, None);
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LedgerEvent> {
        let mut disk = lock(&self.0.0);
        if let Some(event) = disk.events.pop_front() {
            return Poll::Ready(event);
        }
        disk.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&mut self) -> impl Future<Output = ()> {
        self.0.release();
        std::future::ready(())
    }
}
