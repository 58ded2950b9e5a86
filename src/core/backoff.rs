//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential backoff with jitter. The n-th wait is drawn from the upper half of a ceiling that
/// starts at twice the shortest wait and doubles until it reaches the longest:
///
/// ```text
/// shortest 0.5 s, longest 60 s:  0.5–1 s, 1–2 s, 2–4 s, … 30–60 s, 30–60 s, …
/// ```
///
/// So no wait is ever shorter than the shortest or longer than the longest, and many gateways that
/// lost the same broker at the same moment do not come back at the same moment.
///
/// Randomness is an argument, so that a test can choose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits between `shortest` and `longest`; a `longest` below `shortest` counts as `shortest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest: longest.max(shortest), attempts: 0 }
    }

    /// The wait before the next attempt. `random` is uniform in 0.0 to 1.0; what lies outside
    /// counts as the nearer end, what is not a number as 0.0.
    pub fn next_wait(&mut self, random: f64) -> Duration {
        // 2^31 times any shortest wait that is not zero is beyond every sensible longest one.
        let factor = 2_u32.saturating_pow((self.attempts + 1).min(31));
        self.attempts = self.attempts.saturating_add(1).min(31);
        let ceiling = self.shortest.saturating_mul(factor).min(self.longest);
        let floor = (ceiling / 2).max(self.shortest).min(ceiling);
        let random = if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) };
        floor + ceiling.saturating_sub(floor).mul_f64(random)
    }

    /// Starts over with the shortest wait: the last attempt proved to be good.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uplink() -> Backoff {
        Backoff::new(Duration::from_millis(500), Duration::from_secs(60))
    }

    #[test]
    fn waits_double_from_the_shortest_to_the_longest_and_stay_there() {
        let mut low = uplink();
        let lowest: Vec<_> = (0..9).map(|_| low.next_wait(0.0).as_secs_f64()).collect();
        assert_eq!(lowest, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        let mut high = uplink();
        let highest: Vec<_> = (0..9).map(|_| high.next_wait(1.0).as_secs_f64()).collect();
        assert_eq!(highest, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = uplink();
        for _ in 0..10 {
            backoff.next_wait(0.5);
        }
        backoff.reset();
        assert_eq!(backoff, uplink());
    }

    #[test]
    fn it_never_gives_up_and_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..100 {
            assert!(backoff.next_wait(1.0) >= Duration::from_secs(1));
        }
    }

    proptest! {
        #[test]
        fn every_wait_lies_between_the_shortest_and_the_longest(
            shortest_ms in 1_u64..100_000,
            longest_ms in 0_u64..10_000_000,
            randoms in prop::collection::vec(prop::num::f64::ANY, 1..200),
        ) {
            let shortest = Duration::from_millis(shortest_ms);
            let longest = Duration::from_millis(longest_ms).max(shortest);
            let mut backoff = Backoff::new(shortest, Duration::from_millis(longest_ms));
            for random in randoms {
                let wait = backoff.next_wait(random);
                prop_assert!(wait >= shortest, "{wait:?}");
                prop_assert!(wait <= longest, "{wait:?}");
            }
        }

        #[test]
        fn waits_do_not_shrink_before_the_longest_is_near(random in 0.0_f64..=1.0) {
            let mut backoff = uplink();
            let waits: Vec<_> = (0..6).map(|_| backoff.next_wait(random)).collect();
            prop_assert!(waits.is_sorted(), "{waits:?}");
        }
    }
}
