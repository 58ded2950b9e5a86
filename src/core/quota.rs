//! Who may have how much: a token bucket for the rate of one device, counters for the number of
//! connections. Time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// A token bucket: `rate` tokens per second flow in, at most `burst` stay. It starts full.
///
/// Taking more than there is drives it below zero; the debt is paid off before the next message.
/// Times are those since any fixed moment and should not go back; if they do, nothing flows in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket. A `burst` under one token is taken as one, or nothing would ever pass.
    #[must_use]
    pub fn new(rate: f64, burst: f64, now: Duration) -> Self {
        let burst = if burst >= 1.0 { burst } else { 1.0 };
        let rate = if rate > 0.0 { rate } else { f64::MIN_POSITIVE };
        Self { rate, burst, tokens: burst, updated: now }
    }

    /// Another rate and burst from `now` on. What there is stays, up to the new burst; a debt stays.
    pub fn adjust(&mut self, rate: f64, burst: f64, now: Duration) {
        self.refill(now);
        let Self { rate, burst, .. } = Self::new(rate, burst, now);
        *self = Self { rate, burst, tokens: self.tokens.min(burst), updated: self.updated };
    }

    /// Whole tokens there now.
    pub fn available(&mut self, now: Duration) -> usize {
        self.refill(now);
        // Saturates: a huge burst is as good as no limit.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = self.tokens.max(0.0) as usize;
        whole
    }

    /// Takes `count` tokens, into debt if need be.
    pub fn take(&mut self, count: usize, now: Duration) {
        self.refill(now);
        self.tokens -= count as f64;
    }

    /// How long until there are enough tokens to make waking up worth while: what flows in within
    /// 50 ms, but at least one and at most the burst. At most one day.
    pub fn wait(&mut self, now: Duration) -> Duration {
        const QUANTUM: f64 = 0.05;
        const LONGEST: f64 = 86_400.0;
        self.refill(now);
        let wanted = (self.rate * QUANTUM).clamp(1.0, self.burst);
        let seconds = ((wanted - self.tokens) / self.rate).clamp(0.0, LONGEST);
        // A microsecond more, so that rounding cannot leave it just short.
        Duration::from_secs_f64(seconds) + Duration::from_micros(1)
    }

    /// Whether it is as full as it gets, as if nothing had ever been taken.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens >= self.burst
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        self.tokens = (self.tokens + elapsed * self.rate).min(self.burst);
    }
}

/// What connections are counted by: an IPv4 address, or the /64 network of an IPv6 address, since
/// one host has a whole network of those. IPv4 addresses mapped into IPv6 count as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(u64);

impl Origin {
    /// Where `address` belongs.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // ::/32 is reserved (RFC 4291), so no global /64 looks like one of these.
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits())),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                let network = [a, b, c, d].into_iter().fold(0, |n, s| n << 16 | u64::from(s));
                // ::1 and the like would collide with 0.0.0.0.
                Self(if network >> 32 == 0 { network | 1 << 32 } else { network })
            }
        }
    }
}

/// Why a connection is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// In all.
    Total,
    /// From this origin.
    FromOrigin,
}

/// Counts open connections, in all and by origin. Memory is bounded by the total.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    max_per_origin: usize,
    total: usize,
    by_origin: HashMap<Origin, usize>,
}

impl Connections {
    /// None open yet.
    #[must_use]
    pub fn new(max: usize, max_per_origin: usize) -> Self {
        Self { max, max_per_origin, total: 0, by_origin: HashMap::new() }
    }

    /// Counts one more. Each success must be followed by one [`Self::close`].
    ///
    /// # Errors
    /// When a limit is reached; nothing is counted then. The origin's own limit is named first: a
    /// client that can do something about it should hear so.
    pub fn open(&mut self, origin: Origin) -> Result<(), TooMany> {
        if self.of(origin) >= self.max_per_origin {
            return Err(TooMany::FromOrigin);
        }
        self.open_unplaced()?;
        self.place(origin)
    }

    /// Counts one more of which it is not known yet where it comes from.
    ///
    /// # Errors
    /// When there are too many in all; nothing is counted then.
    pub fn open_unplaced(&mut self) -> Result<(), TooMany> {
        if self.total >= self.max {
            return Err(TooMany::Total);
        }
        self.total += 1;
        Ok(())
    }

    /// Now it is known. To be called once at most.
    ///
    /// # Errors
    /// When there are too many of that origin. Then it goes on to count in all only.
    pub fn place(&mut self, origin: Origin) -> Result<(), TooMany> {
        let count = self.of(origin);
        if count >= self.max_per_origin {
            return Err(TooMany::FromOrigin);
        }
        self.by_origin.insert(origin, count + 1);
        Ok(())
    }

    /// One that was counted has gone; of `origin`, if it was placed.
    pub fn close(&mut self, origin: Option<Origin>) {
        self.total = self.total.saturating_sub(1);
        let Some(origin) = origin else { return };
        if let Some(count) = self.by_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }

    fn of(&self, origin: Origin) -> usize {
        self.by_origin.get(&origin).copied().unwrap_or(0)
    }

    /// How many are open.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_starts_full_and_refills_at_its_rate_up_to_the_burst() {
        let mut bucket = TokenBucket::new(10.0, 20.0, SECOND);
        assert_eq!(bucket.available(SECOND), 20);
        bucket.take(20, SECOND);
        assert_eq!(bucket.available(SECOND), 0);
        assert_eq!(bucket.available(SECOND + SECOND / 2), 5);
        assert_eq!(bucket.available(100 * SECOND), 20);
    }

    #[test]
    fn debt_is_paid_off_first_and_the_wait_is_long_enough() {
        let mut bucket = TokenBucket::new(200.0, 400.0, SECOND);
        bucket.take(450, SECOND);
        assert_eq!(bucket.available(SECOND), 0);
        let wait = bucket.wait(SECOND);
        assert!(wait > Duration::from_millis(299) && wait < Duration::from_millis(301), "{wait:?}");
        assert!(bucket.available(SECOND + wait) >= 10);
    }

    #[test]
    fn a_slow_bucket_waits_for_one_token_only() {
        let mut bucket = TokenBucket::new(0.5, 1.0, SECOND);
        bucket.take(1, SECOND);
        let wait = bucket.wait(SECOND);
        assert!(wait < Duration::from_millis(2001), "{wait:?}");
        assert_eq!(bucket.available(SECOND + wait), 1);
    }

    #[test]
    fn another_rate_holds_from_then_on_and_gives_no_tokens_away() {
        let mut bucket = TokenBucket::new(1.0, 10.0, SECOND);
        bucket.take(14, SECOND);
        bucket.adjust(100.0, 5.0, SECOND);
        assert_eq!(bucket.available(SECOND), 0, "the debt stays");
        assert!(bucket.wait(SECOND) < Duration::from_millis(100));
        assert_eq!(bucket.available(2 * SECOND), 5, "no more than the new burst");
        bucket.adjust(100.0, 50.0, 2 * SECOND);
        assert_eq!(bucket.available(2 * SECOND), 5, "a larger burst fills in its time");
        assert_eq!(bucket.available(3 * SECOND), 50);
    }

    #[test]
    fn nonsense_settings_still_let_one_message_through() {
        let mut bucket = TokenBucket::new(f64::NAN, 0.0, SECOND);
        assert_eq!(bucket.available(SECOND), 1);
        bucket.take(1, SECOND);
        assert!(bucket.wait(SECOND) <= Duration::from_secs(86_401));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_count() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("::1"), of("0.0.0.0"));
        assert_ne!(of("::1"), of("127.0.0.1"));
    }

    #[test]
    fn limits_hold_for_each_origin_and_in_all() {
        let [a, b, c] = [1, 2, 3].map(|n| Origin::of(IpAddr::from([192, 0, 2, n])));
        let mut connections = Connections::new(3, 2);
        assert_eq!(connections.open(a), Ok(()));
        assert_eq!(connections.open(a), Ok(()));
        assert_eq!(connections.open(a), Err(TooMany::FromOrigin));
        assert_eq!(connections.open(b), Ok(()));
        assert_eq!(connections.open(c), Err(TooMany::Total));
        connections.close(Some(a));
        assert_eq!(connections.open(c), Ok(()));
    }

    #[test]
    fn one_that_is_placed_later_counts_in_all_at_once_and_for_its_origin_then() {
        let a = Origin::of(IpAddr::from([192, 0, 2, 1]));
        let mut connections = Connections::new(3, 1);
        for _ in 0..3 {
            assert_eq!(connections.open_unplaced(), Ok(()));
        }
        assert_eq!(connections.open_unplaced(), Err(TooMany::Total));
        assert_eq!(connections.place(a), Ok(()));
        assert_eq!(connections.place(a), Err(TooMany::FromOrigin));
        connections.close(None);
        connections.close(None);
        assert_eq!(connections.open(a), Err(TooMany::FromOrigin));
        connections.close(Some(a));
        assert_eq!((connections.total(), connections.by_origin.len()), (0, 0));
    }

    proptest! {
        /// Over any time, no more passes than the burst and what flows in.
        #[test]
        fn a_bucket_never_lets_more_through(
            rate in 0.1f64..1000.0, burst in 1.0f64..1000.0,
            steps in prop::collection::vec((0u64..200, 0usize..100), 1..200),
        ) {
            let mut now = SECOND;
            let mut bucket = TokenBucket::new(rate, burst, now);
            let mut passed = 0;
            for (millis, wanted) in steps {
                now += Duration::from_millis(millis);
                let taken = wanted.min(bucket.available(now));
                bucket.take(taken, now);
                passed += taken;
                let inflow = now.saturating_sub(SECOND).as_secs_f64() * rate;
                prop_assert!(passed as f64 <= burst + inflow + 1e-6);
            }
        }

        /// After the wait at least one token is there.
        #[test]
        fn the_wait_is_never_in_vain(rate in 0.01f64..5000.0, burst in 1.0f64..1000.0, taken in 0usize..3000) {
            let mut bucket = TokenBucket::new(rate, burst, SECOND);
            bucket.take(taken, SECOND);
            let wait = bucket.wait(SECOND);
            if wait < Duration::from_secs(86_400) {
                prop_assert!(bucket.available(SECOND + wait) >= 1);
            }
        }

        /// Opening and closing in any order leaves no count behind.
        #[test]
        fn counts_return_to_nothing(opens in prop::collection::vec(0u8..5, 0..100)) {
            let mut connections = Connections::new(50, 20);
            let mut held = Vec::new();
            for n in opens {
                let origin = Origin::of(IpAddr::from([192, 0, 2, n]));
                if connections.open(origin).is_ok() {
                    held.push(origin);
                }
                prop_assert_eq!(connections.total(), held.len());
                prop_assert!(held.len() <= 50);
            }
            for origin in held {
                connections.close(Some(origin));
            }
            prop_assert_eq!(connections.total(), 0);
            prop_assert!(connections.by_origin.is_empty());
        }
    }
}
