//! How old spooled batches are and what time they are of, when the wall clock cannot be trusted.
//!
//! A board without a battery-backed clock starts in 1970 and jumps to the present once it has heard
//! from a time server. Taken at its word, that jump would make everything in the spool decades old
//! and `max_age` would throw it away. Within one boot of the machine ages therefore come from the
//! time since the boot, which never jumps. Across a reboot the wall clock counts, with what each of
//! the last boots knew of it in the end; where one of the two cannot be right, a batch is as old as
//! this boot, which is the least that is certain.

use crate::core::clock::{Base, Moment, UNKNOWN_BOOT, is_set};

/// Boots that are remembered, this one included.
pub(super) const BOOTS_MAX: usize = 16;

/// The clocks of the last boots.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ages {
    now: Moment,
    /// How each boot's clock was set last, the newest boot last.
    boots: Vec<Base>,
}

impl Ages {
    /// Starts with what was remembered.
    #[must_use]
    pub(super) fn new(boots: Vec<Base>) -> Self {
        Self { now: Moment::default(), boots }
    }

    /// What is to be remembered.
    #[must_use]
    pub(super) fn boots(&self) -> &[Base] {
        &self.boots
    }

    /// Looks at the clock. Whether there is something new to remember: a boot, or that the wall
    /// clock was set.
    pub(super) fn observe(&mut self, now: Moment) -> bool {
        self.now = now;
        let last = self.boots.last();
        if now.base.boot == UNKNOWN_BOOT || last.is_some_and(|last| last.is_like(&now.base)) {
            return false;
        }
        self.boots.retain(|boot| boot.boot != now.base.boot);
        self.boots.push(now.base);
        let surplus = self.boots.len().saturating_sub(BOOTS_MAX);
        self.boots.drain(..surplus);
        true
    }

    /// What has to be added to the times of a batch received at `received` by the clock of `base`,
    /// where that was an earlier boot and its clock was set afterwards. What this boot received is
    /// corrected when it leaves: its clock may be set at any moment.
    #[must_use]
    pub(super) fn correction(&self, received: f64, base: &Base) -> Option<f64> {
        let mut earlier = self.boots.iter().filter(|boot| boot.boot != self.now.base.boot);
        earlier.find_map(|boot| base.correction(received, boot))
    }

    /// The same for the clock of this boot as well, as it is now.
    #[must_use]
    pub(super) fn best_correction(&self, received: f64, base: &Base) -> Option<f64> {
        self.boots.iter().find_map(|boot| base.correction(received, boot))
    }

    /// When a batch received at `received` by the clock of `base` was received by the clock of now.
    /// Never in the future.
    #[must_use]
    pub(super) fn by_now(&self, received: f64, base: &Base) -> f64 {
        let Moment { unix, base: now, .. } = self.now;
        let uptime = unix - now.offset;
        let age = if now.boot == UNKNOWN_BOOT {
            unix - received
        } else if now.boot == base.boot {
            uptime - (received - base.offset)
        } else {
            let received = received + self.correction(received, base).unwrap_or(0.0);
            let age = if is_set(received) && is_set(unix) { unix - received } else { 0.0 };
            age.max(uptime)
        };
        unix - age.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "bit for bit is what is meant")]

    use super::*;

    const NOW: f64 = 1_763_800_000.0;
    const DAY: f64 = 86_400.0;

    fn at(boot: u64, uptime: f64, unix: f64) -> Moment {
        Moment { unix, base: Base { boot, offset: unix - uptime }, lag: 0.0 }
    }

    fn age(ages: &Ages, received: &Moment) -> f64 {
        ages.now.unix - ages.by_now(received.unix, &received.base)
    }

    #[test]
    fn a_clock_that_is_set_ages_nothing() {
        let mut ages = Ages::default();
        let early = at(1, 40.0, 40.0);
        assert!(ages.observe(at(1, 50.0, 50.0)), "a new boot");
        assert!(!ages.observe(at(1, 60.0, 60.0)));
        for unix in [NOW, NOW + DAY, NOW - DAY, 70.0, NOW] {
            assert!(ages.observe(at(1, 70.0, unix)), "set to {unix}");
            assert_eq!(age(&ages, &early), 30.0);
            assert_eq!(age(&ages, &at(1, 70.0, unix)), 0.0);
        }
        assert_eq!(ages.boots().len(), 1);
        assert_eq!(ages.correction(early.unix, &early.base), None, "this boot's wait");
    }

    #[test]
    fn an_earlier_boot_is_read_by_how_its_clock_was_set_in_the_end() {
        let mut ages = Ages::default();
        let early = at(1, 40.0, 40.0);
        ages.observe(at(1, 50.0, 50.0));
        ages.observe(at(1, 60.0, NOW));
        // The board starts in 1970 again.
        let mut ages = Ages::new(ages.boots().to_vec());
        assert!(ages.observe(at(2, 10.0, 10.0)));
        assert_eq!(ages.correction(early.unix, &early.base), Some(NOW - 60.0));
        assert_eq!(age(&ages, &early), 10.0, "at least as old as this boot");
        ages.observe(at(2, 20.0, NOW + 100.0));
        assert_eq!(age(&ages, &early), 120.0);
        assert_eq!(age(&ages, &at(2, 15.0, 15.0)), 5.0);
    }

    #[test]
    fn what_the_clock_cannot_tell_is_as_old_as_this_boot() {
        let mut ages = Ages::default();
        ages.observe(at(2, 20.0, NOW));
        assert_eq!(age(&ages, &at(1, 40.0, 40.0)), 20.0, "its clock never was set");
        assert_eq!(age(&ages, &at(1, 40.0, NOW + DAY)), 20.0, "from the future");
        assert_eq!(age(&ages, &at(1, 40.0, NOW - DAY)), DAY);
    }

    #[test]
    fn a_clock_that_knows_no_boot_is_taken_at_its_word_but_never_gives_a_negative_age() {
        let mut ages = Ages::default();
        assert!(!ages.observe(Moment::of(NOW)));
        assert_eq!(age(&ages, &Moment::of(NOW - 5.0)), 5.0);
        assert_eq!(age(&ages, &Moment::of(NOW + 5.0)), 0.0);
    }

    #[test]
    fn the_last_boots_are_remembered() {
        let mut ages = Ages::default();
        for boot in 1..=40_u16 {
            ages.observe(at(boot.into(), 1.0, NOW));
        }
        let boots: Vec<_> = ages.boots().iter().map(|base| base.boot).collect();
        assert_eq!(boots, (25..=40).collect::<Vec<u64>>());
    }
}
