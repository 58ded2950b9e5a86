//! The spool as delivery sees it: which positions are on the way to the disk, which are read
//! back, which are in flight, and up to where everything is settled.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::Held;
use crate::core::batch::Batch;
use crate::core::ids::Position;

#[derive(Debug)]
pub(super) struct Backlog {
    /// Not known to be on the disk, without gaps; the front is at `durable`.
    pending: VecDeque<Held>,
    /// Everything below is on the disk (or gone).
    durable: Position,
    /// Read back or to be sent again, in order, not in flight.
    ready: VecDeque<(Position, Arc<Batch>)>,
    ready_weight: usize,
    /// The next position to read back, or to take from `pending`.
    cursor: Position,
    /// Fetched and not released, in order, with whether it is settled at the broker.
    outstanding: VecDeque<(Position, bool)>,
    /// Settled at the broker before the cursor came by (live-first only).
    ahead: BTreeSet<Position>,
    /// In flight before the cursor came by, so that they are not sent twice (live-first only).
    flying: BTreeSet<Position>,
    released: Position,
    /// Where the read that is under way began.
    loading: Option<Position>,
}

impl Backlog {
    pub(super) fn new(head: Position, tail: Position) -> Self {
        Self {
            pending: VecDeque::new(),
            durable: tail,
            ready: VecDeque::new(),
            ready_weight: 0,
            cursor: head,
            outstanding: VecDeque::new(),
            ahead: BTreeSet::new(),
            flying: BTreeSet::new(),
            released: head,
            loading: None,
        }
    }

    /// The next position to be used.
    fn tail(&self) -> Position {
        self.durable + self.pending.len() as u64
    }

    /// Gives a batch the next position.
    pub(super) fn append(&mut self, held: Held) -> Position {
        let position = self.tail();
        self.pending.push_back(held);
        position
    }

    /// Positions that were appended while their batches are in flight: they are not to be
    /// fetched. Only while everything before them is issued.
    pub(super) fn issued(&mut self, positions: &[Position]) {
        self.outstanding.extend(positions.iter().map(|&position| (position, false)));
        if let Some(&last) = positions.last() {
            self.cursor = last + 1;
        }
    }

    /// Positions that were appended while their batches are in flight, behind others that are not
    /// issued: the cursor is to pass over them when it comes by.
    pub(super) fn issued_ahead(&mut self, positions: Vec<Position>) {
        self.flying.extend(positions);
    }

    /// Takes one batch that has become durable by `through`.
    pub(super) fn pop_durable(&mut self, through: Position) -> Option<Held> {
        if self.durable > through {
            return None;
        }
        let held = self.pending.pop_front()?;
        // Keep what comes next in memory if it would have to be read back at once.
        if self.cursor == self.durable && self.ready.len() < 64 {
            self.fetch(held.batch.clone());
        }
        self.durable += 1;
        Some(held)
    }

    /// The batch at `position`, if it is not known to be durable.
    pub(super) fn pending_at(&self, position: Position) -> Option<&Held> {
        let index = position.checked_sub(self.durable)?;
        self.pending.get(usize::try_from(index).ok()?)
    }

    /// Whether everything appended is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether every position has been handed to the uplink.
    pub(super) fn is_issued(&self) -> bool {
        self.cursor == self.tail() && self.ready.is_empty()
    }

    /// Whether something waits to be published.
    pub(super) fn waits(&self) -> bool {
        !self.is_issued()
    }

    /// The next batch to publish, if it is in memory.
    pub(super) fn issue(&mut self) -> Option<(Position, Arc<Batch>)> {
        while self.ready.is_empty() && self.cursor >= self.durable {
            let batch = self.pending_at(self.cursor)?.batch.clone();
            self.fetch(batch);
        }
        self.pop_ready()
    }

    /// The next batch that would be published, taken out to be refused.
    pub(super) fn take_first(&mut self) -> Option<(Position, Arc<Batch>)> {
        self.pop_ready()
    }

    /// What was in flight when the uplink was lost, in the order of sending; sent again first. With
    /// `live_first`, batches that the cursor has not reached stay there until it comes by.
    pub(super) fn again(&mut self, batches: Vec<(Position, Arc<Batch>)>, live_first: bool) {
        self.flying.clear();
        let (fetched, later): (Vec<_>, Vec<_>) =
            batches.into_iter().partition(|&(position, _)| position < self.cursor);
        for (position, batch) in fetched.into_iter().rev() {
            self.ready_weight += batch.weight();
            self.ready.push_front((position, batch));
        }
        if live_first {
            // What was sent fresh and got its position afterwards was sent before what is older.
            self.ready.make_contiguous().sort_unstable_by_key(|&(position, _)| position);
        }
        // In order, what is not fetched begins at the cursor: it follows at once.
        if !live_first && self.ready.len() < 64 {
            for (position, batch) in later {
                if position == self.cursor {
                    self.fetch(batch);
                }
            }
        }
    }

    /// The broker has settled `position`.
    pub(super) fn done(&mut self, position: Position) {
        self.flying.remove(&position);
        match self.outstanding.binary_search_by_key(&position, |&(position, _)| position) {
            Ok(index) => {
                if let Some((_, done)) = self.outstanding.get_mut(index) {
                    *done = true;
                }
            }
            Err(_) if position >= self.cursor => {
                self.ahead.insert(position);
            }
            // Evicted meanwhile.
            Err(_) => {}
        }
    }

    /// Up to where the spool may forget, if that has grown.
    pub(super) fn release(&mut self) -> Option<Position> {
        while matches!(self.outstanding.front(), Some((_, true))) {
            self.outstanding.pop_front();
        }
        let end = self.outstanding.front().map_or(self.cursor, |&(position, _)| position);
        if end <= self.released {
            return None;
        }
        self.released = end;
        // What the broker has needs no disk any more.
        while self.durable < end && self.pending.pop_front().is_some() {
            self.durable += 1;
        }
        Some(end - 1)
    }

    /// What to read back next: from where, and how many bytes.
    pub(super) fn want_load(&mut self, limit: usize) -> Option<(Position, usize)> {
        if self.loading.is_some() || self.cursor >= self.durable || self.ready_weight > limit / 2 {
            return None;
        }
        self.loading = Some(self.cursor);
        Some((self.cursor, limit - self.ready_weight))
    }

    /// The answer to [`Self::want_load`]. Returns whether it led on; meanwhile an eviction may have
    /// moved the cursor further.
    pub(super) fn loaded(&mut self, batches: Vec<(Position, Arc<Batch>)>, next: Position) -> bool {
        let from = self.loading.take();
        for (position, batch) in batches {
            if position >= self.cursor {
                self.cursor = position;
                self.fetch(batch);
            }
        }
        self.cursor = self.cursor.max(next.min(self.durable));
        from != Some(self.cursor)
    }

    /// The spool had nothing where something must be: goes on behind it. Returns what is missing.
    pub(super) fn skip_missing(&mut self) -> Option<(Position, Position)> {
        let missing = (self.cursor < self.durable).then_some((self.cursor, self.durable - 1));
        self.cursor = self.cursor.max(self.durable);
        missing
    }

    /// Everything up to `through` is gone from the disk.
    pub(super) fn evicted(&mut self, through: Position) {
        let end = through + 1;
        self.cursor = self.cursor.max(end);
        while self.ready.front().is_some_and(|&(position, _)| position < end) {
            self.pop_ready();
        }
        while self.outstanding.front().is_some_and(|&(position, _)| position < end) {
            self.outstanding.pop_front();
        }
        self.ahead = self.ahead.split_off(&end);
        self.flying = self.flying.split_off(&end);
        self.released = self.released.max(end);
    }

    /// The batch at the cursor becomes ready, unless the broker has it already or is about to.
    fn fetch(&mut self, batch: Arc<Batch>) {
        let position = self.cursor;
        self.cursor += 1;
        let settled = self.ahead.remove(&position);
        self.outstanding.push_back((position, settled));
        if !settled && !self.flying.contains(&position) {
            self.ready_weight += batch.weight();
            self.ready.push_back((position, batch));
        }
    }

    fn pop_ready(&mut self) -> Option<(Position, Arc<Batch>)> {
        let (position, batch) = self.ready.pop_front()?;
        self.ready_weight -= batch.weight();
        Some((position, batch))
    }
}
