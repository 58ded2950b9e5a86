//! The history of one name's numbers: buckets of four widths.
//!
//! A bucket that closes is put into the ring of its tier and merged into the open bucket of the next
//! wider tier, so that a reading costs one comparison and one addition, and each tier holds all that
//! the narrower ones have ever held. What comes late is put into its own bucket in every tier.

use std::collections::VecDeque;

use super::memory::Held;

/// Seconds of a bucket, narrowest first; each a multiple of the one before.
pub(super) const STEPS: [u32; TIERS] = [1, 10, 60, 240];
/// How many tiers there are.
pub(super) const TIERS: usize = 4;
/// Buckets that a tier reaches back: ten minutes, an hour, six hours and a day, and a little more
/// for clocks that run ahead.
pub(super) const REACH: [u32; TIERS] = [610, 370, 366, 364];
/// Seconds that are kept at all.
pub(super) const KEPT: f64 = 86_400.0;
/// Buckets that a tier has room for at first.
const FIRST: usize = 4;

/// What the readings of one bucket were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    /// Which bucket: Unix time by the tier's step.
    pub(super) at: u32,
    /// Readings in it; none in the open bucket of a tier that has not begun.
    pub(super) count: u32,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Of all values.
    pub(super) sum: f64,
}

/// A closed bucket in 24 bytes. The mean is exact, so that counters keep their digits however large
/// they are; the extremes are as exact as their distance from it in 24 bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Packed {
    pub(super) mean: f64,
    pub(super) below: f32,
    pub(super) above: f32,
    pub(super) at: u32,
    pub(super) count: u32,
}

/// All tiers of one name.
#[derive(Debug)]
pub(super) struct Tiers {
    tiers: [Tier; TIERS],
}

/// The buckets of one width.
#[derive(Debug)]
struct Tier {
    /// Oldest first.
    closed: VecDeque<Packed>,
    /// Newer than all that are closed; not yet part of the wider tiers.
    open: Bucket,
    /// Buckets before this one have been given up, if there were any.
    begins: u32,
}

const EMPTY: Bucket =
    Bucket { at: 0, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0 };

impl Bucket {
    /// The bucket of one reading.
    pub(super) fn of(at: u32, value: f64) -> Self {
        Self { at, count: 1, min: value, max: value, sum: value }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
    }

    /// The mean value; always between the extremes, also where the sum is too large for a number.
    pub(super) fn mean(&self) -> f64 {
        let mean = self.sum / f64::from(self.count.max(1));
        if mean.is_finite() {
            mean.max(self.min).min(self.max)
        } else {
            self.min / 2.0 + self.max / 2.0
        }
    }

    pub(super) fn pack(&self) -> Packed {
        let mean = self.mean();
        Packed {
            mean,
            below: narrow(mean - self.min),
            above: narrow(self.max - mean),
            at: self.at,
            count: self.count,
        }
    }

    /// The same bucket as one of a tier whose step is `factor` times as long.
    pub(super) fn widened(&self, factor: u32) -> Self {
        Self { at: self.at / factor.max(1), ..*self }
    }
}

impl Packed {
    pub(super) fn unpack(&self) -> Bucket {
        Bucket {
            at: self.at,
            count: self.count,
            min: finite(self.mean - f64::from(self.below)),
            max: finite(self.mean + f64::from(self.above)),
            sum: finite(self.mean * f64::from(self.count)),
        }
    }
}

/// A distance in 32 bits, the largest there is for what is larger.
#[allow(clippy::cast_possible_truncation)] // the point of it
fn narrow(distance: f64) -> f32 {
    (distance as f32).min(f32::MAX)
}

fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

/// How many times the step of `tier` goes into that of the next.
fn factor(tier: usize) -> Option<u32> {
    Some(STEPS.get(tier + 1)? / STEPS.get(tier)?)
}

impl Tiers {
    pub(super) fn new() -> Self {
        let tier = || Tier { closed: VecDeque::new(), open: EMPTY, begins: 0 };
        Self { tiers: std::array::from_fn(|_| tier()) }
    }

    /// Takes a reading of the second `at`. Allocates nothing but what `held` gives room for.
    pub(super) fn record(&mut self, at: u32, value: f64, held: &mut Held) {
        let [first, ..] = &mut self.tiers;
        if first.open.at == at && first.open.count > 0 {
            first.open.merge(&Bucket::of(at, value));
        } else {
            self.insert(0, Bucket::of(at, value), held);
        }
    }

    /// The newest second that holds something.
    pub(super) fn newest(&self) -> Option<u32> {
        let [first, ..] = &self.tiers;
        let open = (first.open.count > 0).then_some(first.open.at);
        open.or_else(|| first.closed.back().map(|packed| packed.at)).or_else(|| {
            // The narrow tiers are empty after a restart that was none in order.
            let ends = self.tiers.iter().zip(STEPS);
            ends.filter_map(|(tier, step)| Some(tier.last()?.saturating_mul(step))).max()
        })
    }

    /// Gives up all buckets that begin after the second `last`.
    pub(super) fn forget_after(&mut self, last: u32) {
        for (tier, step) in self.tiers.iter_mut().zip(STEPS) {
            let last = last / step;
            if tier.open.at > last {
                tier.open = EMPTY;
            }
            while tier.closed.back().is_some_and(|packed| packed.at > last) {
                tier.closed.pop_back();
            }
            tier.begins = tier.begins.min(last);
        }
    }

    /// The buckets of `tier` from `first` to `last`, oldest first.
    pub(super) fn view(&self, tier: usize, first: u32, last: u32) -> Vec<Bucket> {
        let (Some(wanted), Some(step)) = (self.tiers.get(tier), STEPS.get(tier)) else {
            return Vec::new();
        };
        let start = wanted.closed.partition_point(|packed| packed.at < first);
        let end = wanted.closed.partition_point(|packed| packed.at <= last).max(start);
        let mut out = Vec::with_capacity(end - start + TIERS);
        out.extend(wanted.closed.range(start..end).map(Packed::unpack));
        // What is still open in narrower tiers is not in this one yet; the wider the older.
        for (narrower, own) in self.tiers.iter().zip(STEPS).take(tier + 1).rev() {
            let bucket = narrower.open.widened(step / own);
            if bucket.count == 0 || bucket.at < first || bucket.at > last {
                continue;
            }
            match out.binary_search_by_key(&bucket.at, |known: &Bucket| known.at) {
                Ok(place) => {
                    if let Some(known) = out.get_mut(place) {
                        known.merge(&bucket);
                    }
                }
                Err(place) => out.insert(place, bucket),
            }
        }
        out
    }

    /// From which bucket on `tier` has all there was.
    pub(super) fn begins(&self, tier: usize) -> u32 {
        self.tiers.get(tier).map_or(u32::MAX, |tier| tier.begins)
    }

    /// Puts in what was saved of `tier`, oldest first, from bucket `begins` on; whatever is there
    /// already is newer and stays as it is.
    pub(super) fn restore(&mut self, tier: usize, begins: u32, saved: &[Packed], held: &mut Held) {
        let allowed = allowed(tier, held.cap());
        let Some(tier) = self.tiers.get_mut(tier) else { return };
        let opened = (tier.open.count > 0).then_some(tier.open.at);
        let present = tier.closed.front().map(|packed| packed.at).or(opened);
        let end = present.map_or(saved.len(), |at| saved.partition_point(|old| old.at < at));
        let room = allowed.saturating_sub(tier.closed.len());
        let Some(older) = saved.get(end.saturating_sub(room)..end) else { return };
        let wanted = tier.closed.len() + older.len();
        let more = wanted.saturating_sub(tier.closed.capacity());
        if !held.take(more * size_of::<Packed>()) {
            tier.begins = saved.last().map_or(begins, |last| last.at + 1);
            return;
        }
        tier.closed.reserve_exact(wanted - tier.closed.len());
        for packed in older.iter().rev() {
            tier.closed.push_front(*packed);
        }
        let cut = older.len() < end;
        tier.begins = if cut { older.first().map_or(begins, |first| first.at) } else { begins };
    }

    /// Gives back what is over the limit of one series.
    pub(super) fn trim(&mut self, held: &mut Held) {
        let cap = held.cap();
        for (index, tier) in self.tiers.iter_mut().enumerate() {
            tier.trim(allowed(index, cap), held);
        }
    }

    /// Merges `bucket` into `tier` and, unless it stays open there, into the wider ones.
    fn insert(&mut self, mut tier: usize, mut bucket: Bucket, held: &mut Held) {
        while let Some(mine) = self.tiers.get_mut(tier) {
            let Some(passed_on) = mine.insert(tier, bucket, held) else { return };
            let Some(factor) = factor(tier) else { return };
            bucket = passed_on.widened(factor);
            tier += 1;
        }
    }
}

impl Tier {
    fn last(&self) -> Option<u32> {
        let open = (self.open.count > 0).then_some(self.open.at);
        open.or_else(|| self.closed.back().map(|packed| packed.at))
    }

    /// Returns what is to be merged into the next tier.
    fn insert(&mut self, index: usize, bucket: Bucket, held: &mut Held) -> Option<Bucket> {
        let newest = self.closed.back().map(|packed| packed.at);
        if self.open.count == 0 {
            if newest.is_none_or(|newest| newest < bucket.at) {
                self.open = bucket;
                return None;
            }
        } else if self.open.at == bucket.at {
            self.open.merge(&bucket);
            return None;
        } else if self.open.at < bucket.at {
            let closed = std::mem::replace(&mut self.open, bucket);
            self.close(index, &closed, held);
            return Some(closed);
        }
        self.insert_late(index, &bucket, held);
        Some(bucket)
    }

    fn close(&mut self, index: usize, bucket: &Bucket, held: &mut Held) {
        let reach = REACH.get(index).copied().unwrap_or_default();
        let begins = (self.open.at + 1).saturating_sub(reach);
        while self.closed.front().is_some_and(|packed| packed.at < begins) {
            self.give_up_first();
        }
        self.begins = self.begins.max(begins);
        if bucket.at >= begins && self.make_room(index, held) {
            self.closed.push_back(bucket.pack());
        }
    }

    fn insert_late(&mut self, index: usize, bucket: &Bucket, held: &mut Held) {
        if bucket.at < self.begins {
            return;
        }
        let place = self.closed.partition_point(|packed| packed.at < bucket.at);
        if let Some(packed) = self.closed.get_mut(place).filter(|packed| packed.at == bucket.at) {
            let mut whole = packed.unpack();
            whole.merge(bucket);
            *packed = whole.pack();
            return;
        }
        let before = self.closed.len();
        if !self.make_room(index, held) {
            return;
        }
        // The first may have gone to make room.
        let gone = before - self.closed.len();
        match place.checked_sub(gone) {
            Some(place) => self.closed.insert(place, bucket.pack()),
            // It would have been the first to go.
            None => self.begins = self.begins.max(bucket.at + 1),
        }
    }

    /// Makes room for one more closed bucket, at the price of the oldest if need be. False where
    /// there is none at all.
    fn make_room(&mut self, index: usize, held: &mut Held) -> bool {
        let capacity = self.closed.capacity();
        if self.closed.len() < capacity {
            return true;
        }
        let allowed = allowed(index, held.cap());
        for growth in [capacity, capacity / 4] {
            let more = growth.max(FIRST).min(allowed.saturating_sub(capacity));
            if more > 0 && held.grow(more * size_of::<Packed>()) {
                self.closed.reserve_exact(capacity + more - self.closed.len());
                return true;
            }
        }
        self.give_up_first()
    }

    fn give_up_first(&mut self) -> bool {
        let Some(first) = self.closed.pop_front() else { return false };
        self.begins = self.begins.max(first.at + 1);
        true
    }

    fn trim(&mut self, allowed: usize, held: &mut Held) {
        if self.closed.capacity() <= allowed {
            return;
        }
        while self.closed.len() > allowed {
            self.give_up_first();
        }
        let before = self.closed.capacity();
        self.closed.shrink_to(allowed);
        let freed = before.saturating_sub(self.closed.capacity());
        held.give_back(freed * size_of::<Packed>());
    }
}

/// How many closed buckets a tier may have where a series may take `cap` bytes: the widest gets up
/// to half of them, the next half of what is left, and so on, none more than it has use for.
fn allowed(tier: usize, cap: usize) -> usize {
    let mut rest = cap / size_of::<Packed>();
    let mut share = 0;
    for (index, reach) in REACH.iter().enumerate().skip(tier).rev() {
        share = if index == 0 { rest } else { rest.div_ceil(2) };
        share = share.min(*reach as usize);
        rest -= share;
    }
    share
}

#[cfg(test)]
mod tests;
