//! What a wall clock that is set later did to the times that were stamped before.
//!
//! The wall clock of a board without a battery starts anywhere and jumps to the present once it
//! has heard from a time server. The time since the boot never jumps. So their difference, the
//! *offset*, changes only when the wall clock is set, and everything that was stamped under one
//! offset is put right by adding the difference to another one of the same boot.

/// 2025-01-01: a clock that shows less has not been set.
pub const CLOCK_IS_SET: f64 = 1_735_689_600.0;
/// A smaller change of the offset, in seconds, is no setting of the clock: it is a leap second, or
/// the time between reading two clocks.
pub const STEP_MIN: f64 = 1.5;
/// The boot of a clock that cannot tell.
pub const UNKNOWN_BOOT: u64 = 0;

/// Which wall clock a time was taken from: that of one boot between two settings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Base {
    /// Which boot of the machine; [`UNKNOWN_BOOT`] where nobody knows.
    pub boot: u64,
    /// Unix time less the time since that boot, in seconds.
    pub offset: f64,
}

impl Base {
    /// By how many seconds the clock was set between this base and `later`; none where it was not,
    /// or where they are not known to be of one boot.
    #[must_use]
    pub fn step_to(&self, later: &Self) -> Option<f64> {
        let step = later.offset - self.offset;
        let known = self.boot == later.boot && self.boot != UNKNOWN_BOOT;
        (known && step.abs() >= STEP_MIN).then_some(step)
    }

    /// What has to be added to `time`, taken from this base, to read it by the clock of `later`:
    /// none where there is nothing to correct. The clock that was set last is believed, unless it
    /// shows what cannot be (before 2025) and the other one does not.
    #[must_use]
    pub fn correction(&self, time: f64, later: &Self) -> Option<f64> {
        let step = self.step_to(later)?;
        (is_set(time + step) || !is_set(time)).then_some(step)
    }

    /// Whether times of both can be compared as they are.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.boot == other.boot && (self.offset - other.offset).abs() < STEP_MIN
    }
}

/// One look at the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moment {
    /// Unix time in seconds.
    pub unix: f64,
    /// What it was taken from.
    pub base: Base,
    /// How far the clock may be behind the true time, in seconds, as far as is known: it showed so
    /// much more before, or (infinite) it waits to be set.
    pub lag: f64,
}

impl Moment {
    /// The moment `unix` of a clock that is right, and of which nothing else is known.
    #[must_use]
    pub fn of(unix: f64) -> Self {
        Self { unix, ..Self::default() }
    }
}

/// Whether a clock that shows `unix` can have been set.
#[must_use]
pub fn is_set(unix: f64) -> bool {
    unix >= CLOCK_IS_SET
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_763_800_000.0;

    fn base(boot: u64, offset: f64) -> Base {
        Base { boot, offset }
    }

    #[test]
    fn a_clock_that_was_set_is_corrected_by_what_it_was_set_by() {
        assert_eq!(base(7, 0.0).correction(100.0, &base(7, NOW)), Some(NOW));
        assert_eq!(base(7, NOW).correction(NOW, &base(7, NOW + 86400.0)), Some(86400.0));
        assert_eq!(base(7, NOW).correction(NOW, &base(7, NOW - 86400.0)), Some(-86400.0));
    }

    #[test]
    fn a_leap_second_another_boot_and_an_unknown_one_correct_nothing() {
        assert_eq!(base(7, NOW).correction(NOW, &base(7, NOW + 1.0)), None);
        assert_eq!(base(7, 0.0).correction(100.0, &base(8, NOW)), None);
        assert_eq!(base(0, 0.0).correction(100.0, &base(0, NOW)), None);
        assert_eq!(base(7, f64::NAN).correction(100.0, &base(7, NOW)), None);
    }

    #[test]
    fn a_good_time_is_not_made_an_impossible_one() {
        assert_eq!(base(7, NOW).correction(NOW, &base(7, 0.0)), None);
        assert_eq!(base(7, 0.0).correction(100.0, &base(7, 500.0)), Some(500.0));
    }
}
