//! The bytes that all histories together may take, and what is left out for want of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::metrics::HISTORY_REFUSALS;

/// Above this share of the budget room is made: in parts of 16.
const PRESSED: usize = 15;
/// So far it is emptied then: in parts of 16.
const RELIEVED: usize = 14;
/// Below half of the budget a series may grow further again.
const EASED: usize = 8;
/// No series is cut to less than this, in bytes: it reaches back eight hours then.
const SERIES_MIN: usize = 6 * 1024;

/// The one budget. Shared in an [`Arc`].
#[derive(Debug)]
pub(in crate::dashboard) struct Memory {
    budget: usize,
    used: AtomicUsize,
    series: AtomicUsize,
    /// Bytes that one series may grow to.
    cap: AtomicUsize,
    refused: [AtomicU64; HISTORY_REFUSALS.len()],
}

/// Why a reading is in no history, in the order of [`HISTORY_REFUSALS`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    /// There was no room for a new series.
    Memory,
    /// It is older than all that is kept.
    Late,
    /// The gateway's clock shows less than it did before.
    Clock,
}

/// What one series takes of the budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

/// What is to be done about the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relief {
    /// Nothing.
    None,
    /// So many bytes must become free.
    Free(usize),
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(8 << 20)
    }
}

impl Memory {
    /// A budget of `budget` bytes; with 0 there is no history at all.
    pub(in crate::dashboard) fn new(budget: usize) -> Self {
        Self {
            budget,
            used: AtomicUsize::new(0),
            series: AtomicUsize::new(0),
            cap: AtomicUsize::new(usize::MAX),
            refused: Default::default(),
        }
    }

    /// Whether history is kept at all.
    pub(in crate::dashboard) fn is_on(&self) -> bool {
        self.budget > 0
    }

    /// Bytes that all may take.
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// Bytes in use.
    pub(in crate::dashboard) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Series that have a history.
    pub(in crate::dashboard) fn series(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    /// How many readings were left out for the reason at `index` of [`HISTORY_REFUSALS`].
    pub(in crate::dashboard) fn refused(&self, index: usize) -> u64 {
        self.refused.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn refuse(&self, reason: Reason) {
        if let Some(count) = self.refused.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Room for a new series of `bytes`, if there is any.
    pub(super) fn begin(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        if !self.take(bytes) {
            return None;
        }
        self.series.fetch_add(1, Ordering::Relaxed);
        Some(Held { memory: Arc::clone(self), bytes })
    }

    /// What has to become free, as it is now. Lets series grow again where there is much room.
    pub(super) fn relief(&self) -> Relief {
        let part = |sixteenths: usize| self.budget / 16 * sixteenths;
        let used = self.used();
        if used > part(PRESSED) {
            return Relief::Free(used - part(RELIEVED));
        }
        if used < part(EASED) {
            let cap = self.cap.load(Ordering::Relaxed);
            self.cap.store(cap.saturating_mul(2), Ordering::Relaxed);
        }
        Relief::None
    }

    /// Cuts what each series may take so that series of `sizes` bytes, cut to it, take `free` bytes
    /// less, the largest giving first. Returns the new limit.
    pub(super) fn lower_cap(&self, sizes: &mut [usize], free: usize) -> usize {
        sizes.sort_unstable();
        let total: usize = sizes.iter().sum();
        let mut room = total.saturating_sub(free);
        let mut cap = self.cap.load(Ordering::Relaxed);
        for (index, size) in sizes.iter().enumerate() {
            let share = room / (sizes.len() - index);
            if *size > share {
                cap = cap.min(share);
                break;
            }
            room -= size;
        }
        let cap = cap.max(SERIES_MIN);
        self.cap.store(cap, Ordering::Relaxed);
        cap
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.budget);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

impl Held {
    /// Whether there was room for `more` bytes; then they are taken.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let fits = self.bytes.saturating_add(more) <= self.cap() && self.memory.take(more);
        if fits {
            self.bytes += more;
        }
        fits
    }

    /// Takes `more` bytes if the budget has them, whatever one series may take.
    pub(super) fn take(&mut self, more: usize) -> bool {
        let fits = self.memory.take(more);
        if fits {
            self.bytes += more;
        }
        fits
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What one series may take.
    pub(super) fn cap(&self) -> usize {
        self.memory.cap.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn refuse(&self, reason: Reason) {
        self.memory.refuse(reason);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.bytes);
        self.memory.series.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back() {
        let memory = Arc::new(Memory::new(1000));
        let mut first = memory.begin(600).unwrap();
        assert!(memory.begin(401).is_none());
        assert!(!first.grow(401));
        assert!(first.grow(400));
        assert_eq!((memory.used(), memory.series()), (1000, 1));
        drop(first);
        assert_eq!((memory.used(), memory.series()), (0, 0));
    }

    #[test]
    fn the_largest_series_give_way_first() {
        let memory = Memory::new(1 << 20);
        let mut sizes = [100_000, 8_000, 50_000, 7_000];
        // 165 000 - 65 000 = 100 000 = 7 000 + 8 000 + 2 × 42 500
        assert_eq!(memory.lower_cap(&mut sizes, 65_000), 42_500);
        let mut sizes = [10_000; 4];
        assert_eq!(memory.lower_cap(&mut sizes, 40_000), SERIES_MIN);
    }
}
