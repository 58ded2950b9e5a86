//! How old spooled batches are, when the wall clock cannot be trusted.
//!
//! A board without a battery-backed clock starts in 1970 and jumps to the present once it has heard
//! from a time server. Taken at its word, that jump would make everything in the spool decades old
//! and `max_age` would throw it away. So while the process runs, ages grow with the monotonic clock:
//! when the wall clock is set, the difference is added to all times of receipt before that moment.
//! Across a restart the wall clock counts, with the correction that was remembered.

use crate::core::ids::Position;

/// A larger difference between the clocks than this, in seconds, is a clock that was set; a smaller
/// one is a clock that is slewed.
const STEP_MIN: f64 = 5.0;

/// The correction of the times of receipt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ages {
    /// Positions before it are corrected.
    pub(super) boundary: Position,
    /// By so many seconds.
    pub(super) shift: f64,
    offset: Option<f64>,
}

impl Ages {
    /// Starts with what was remembered.
    #[must_use]
    pub(super) fn new(boundary: Position, shift: f64) -> Self {
        let shift = if shift.is_finite() { shift } else { 0.0 };
        Self { boundary, shift, offset: None }
    }

    /// Looks at both clocks, in seconds; `next` is the position the next batch gets. Whether the
    /// wall clock was set since the last look.
    pub(super) fn observe(&mut self, monotonic: f64, wall: f64, next: Position) -> bool {
        let offset = wall - monotonic;
        let step = offset - self.offset.unwrap_or(offset);
        self.offset = Some(offset);
        // Once corrected by decades, batches received with the right time in between would be
        // corrected too; they then count as too young, which costs nothing.
        let stepped = step.abs() >= STEP_MIN;
        if stepped {
            self.shift += step;
            self.boundary = next;
        }
        stepped
    }

    /// When the batch at `position`, received at `received` by the clock of that time, was received
    /// by the clock of now.
    #[must_use]
    pub(super) fn corrected(&self, position: Position, received: f64) -> f64 {
        if position < self.boundary { received + self.shift } else { received }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "bit for bit is what is meant")]

    use super::*;

    #[test]
    fn a_clock_that_is_set_ages_nothing() {
        let mut ages = Ages::new(0, 0.0);
        assert!(!ages.observe(100.0, 50.0, 10));
        assert!(!ages.observe(110.0, 60.0, 15));
        assert!(ages.observe(120.0, 1_763_800_070.0, 20), "from 1970 to the present");
        assert_eq!(ages.corrected(19, 60.0), 1_763_800_060.0, "ten seconds old before and after");
        assert_eq!(ages.corrected(20, 1_763_800_071.0), 1_763_800_071.0);
    }

    #[test]
    fn a_clock_that_is_slewed_changes_nothing() {
        let mut ages = Ages::new(0, 0.0);
        for second in 0..1000 {
            let monotonic = f64::from(second);
            assert!(!ages.observe(monotonic, 1000.0 + monotonic * 1.0005, 1));
        }
        assert_eq!(ages.corrected(0, 5.0), 5.0);
    }
}
