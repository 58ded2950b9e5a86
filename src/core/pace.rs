//! How fast new connections may come, in all and from each origin. Time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use super::quota::{Origin, TokenBucket, TooMany};

/// Origins that are remembered at most; some 300 KiB.
const ORIGINS_MAX: usize = 4096;
/// How often at most those are forgotten that have nothing to be remembered for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// So many per second in the long run, so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Per second.
    pub rate: f64,
    /// At once.
    pub burst: f64,
}

/// One token bucket for all and one for each origin. Memory is bounded: when there are too many
/// origins at a time, those that come later are held to the common pace only.
#[derive(Debug)]
pub struct Paces {
    all: TokenBucket,
    per_origin: Pace,
    by_origin: HashMap<Origin, TokenBucket>,
    swept: Duration,
}

impl Paces {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(all: Pace, per_origin: Pace, now: Duration) -> Self {
        let all = TokenBucket::new(all.rate, all.burst, now);
        Self { all, per_origin, by_origin: HashMap::new(), swept: now }
    }

    /// Counts one from `origin`. To be asked before [`Self::any`], so that one who comes too fast
    /// takes nothing from the others.
    ///
    /// # Errors
    /// When it comes too fast; nothing is counted then.
    pub fn one_of(&mut self, origin: Origin, now: Duration) -> Result<(), TooMany> {
        if !self.by_origin.contains_key(&origin) && !self.make_room(now) {
            return Ok(());
        }
        let Pace { rate, burst } = self.per_origin;
        let bucket = self.by_origin.entry(origin);
        let bucket = bucket.or_insert_with(|| TokenBucket::new(rate, burst, now));
        if take_one(bucket, now) { Ok(()) } else { Err(TooMany::FromOrigin) }
    }

    /// Counts one, wherever it comes from.
    ///
    /// # Errors
    /// When they come too fast, all together; nothing is counted then.
    pub fn any(&mut self, now: Duration) -> Result<(), TooMany> {
        if take_one(&mut self.all, now) { Ok(()) } else { Err(TooMany::Total) }
    }

    fn make_room(&mut self, now: Duration) -> bool {
        if self.by_origin.len() < ORIGINS_MAX {
            return true;
        }
        if now.saturating_sub(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.by_origin.retain(|_, bucket| !bucket.is_full(now));
        }
        self.by_origin.len() < ORIGINS_MAX
    }
}

fn take_one(bucket: &mut TokenBucket, now: Duration) -> bool {
    let there = bucket.available(now) > 0;
    if there {
        bucket.take(1, now);
    }
    there
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn origin(n: u32) -> Origin {
        Origin::of(IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    fn paces() -> Paces {
        Paces::new(Pace { rate: 5.0, burst: 8.0 }, Pace { rate: 1.0, burst: 2.0 }, SECOND)
    }

    #[test]
    fn who_comes_too_fast_takes_nothing_from_others() {
        let mut paces = paces();
        for _ in 0..2 {
            assert_eq!(paces.one_of(origin(1), SECOND), Ok(()));
        }
        for _ in 0..100 {
            assert_eq!(paces.one_of(origin(1), SECOND), Err(TooMany::FromOrigin));
        }
        assert_eq!(paces.one_of(origin(2), SECOND), Ok(()));
        assert_eq!(paces.one_of(origin(1), 2 * SECOND), Ok(()), "one more after a second");
        assert_eq!(paces.one_of(origin(1), 2 * SECOND), Err(TooMany::FromOrigin));
    }

    #[test]
    fn all_together_have_a_pace_too() {
        let mut paces = paces();
        assert_eq!((0..20).filter(|_| paces.any(SECOND).is_ok()).count(), 8);
        assert_eq!(paces.any(SECOND), Err(TooMany::Total));
        assert_eq!((0..20).filter(|_| paces.any(2 * SECOND).is_ok()).count(), 5);
    }

    #[test]
    fn a_fleet_that_comes_back_all_at_once_is_let_in_by_default() {
        let all = Pace { rate: 1000.0, burst: 10_000.0 };
        let mut paces = Paces::new(all, Pace { rate: 100.0, burst: 1024.0 }, SECOND);
        for n in 0..10_000 {
            assert_eq!(paces.one_of(origin(n % 10), SECOND), Ok(()));
            assert_eq!(paces.any(SECOND), Ok(()));
        }
        assert_eq!(paces.any(SECOND), Err(TooMany::Total));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_given_up_again() {
        let mut paces = paces();
        for n in 0..100_000 {
            assert_eq!(paces.one_of(origin(n), SECOND), Ok(()));
        }
        assert_eq!(paces.by_origin.len(), ORIGINS_MAX);
        // Those that are remembered are still held to their pace.
        assert_eq!(paces.one_of(origin(1), SECOND), Ok(()));
        assert_eq!(paces.one_of(origin(1), SECOND), Err(TooMany::FromOrigin));
        // Later they are forgotten, and there is room for others.
        assert_eq!(paces.one_of(origin(200_000), 10 * SECOND), Ok(()));
        assert_eq!(paces.by_origin.len(), 1);
    }
}
