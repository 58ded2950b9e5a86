//! Slows down who guesses passwords, without locking anybody out who comes from elsewhere.
//!
//! After a few wrong passwords, further attempts from that address for that user have to wait, each
//! twice as long as the one before. Attempts from one address for whichever users are counted as
//! well, more generously. An attempt counts from its beginning, so that many at once gain nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::registry::Hash;

/// Wrong passwords for one user from one address that cost no waiting.
const FREE: u32 = 3;
/// Wrong passwords from one address that cost no waiting.
const FREE_FOR_ALL: u32 = 30;
/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// After this time without an attempt all is forgotten.
const MEMORY: Duration = Duration::from_secs(3600);
/// Entries at most; one more forgets the one that was tried longest ago.
const MAX: usize = 4096;

/// The user, hashed since its length is a stranger's choice (none: whichever), and the network.
type Key = (Option<[u8; 32]>, IpAddr);

/// Who has failed how often.
#[derive(Debug, Default)]
pub(super) struct Slowdown {
    entries: HashMap<Key, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Slowdown {
    /// Begins an attempt, or answers how long it has to wait.
    pub(super) fn attempt(
        &mut self,
        user: &str,
        address: IpAddr,
        now: Instant,
    ) -> Result<(), Duration> {
        let keys = keys(user, address);
        let waits = keys.iter().map(|(key, free)| self.wait(key, *free, now));
        let wait = waits.max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for (key, _) in keys {
            if self.entries.len() >= MAX && !self.entries.contains_key(&key) {
                self.forget(now);
            }
            let failures = self.entries.entry(key).or_insert(Failures { count: 0, last: now });
            if now.saturating_duration_since(failures.last) >= MEMORY {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
        Ok(())
    }

    /// The attempt had the right password.
    pub(super) fn succeeded(&mut self, user: &str, address: IpAddr) {
        let [(own, _), (all, _)] = keys(user, address);
        self.entries.remove(&own);
        // What others from there have failed at stays.
        self.take_back(&all);
    }

    /// The attempt came to nothing for a reason that is not its maker's.
    pub(super) fn undone(&mut self, user: &str, address: IpAddr) {
        for (key, _) in keys(user, address) {
            self.take_back(&key);
        }
    }

    fn take_back(&mut self, key: &Key) {
        if let Some(failures) = self.entries.get_mut(key) {
            failures.count = failures.count.saturating_sub(1);
            if failures.count == 0 {
                self.entries.remove(key);
            }
        }
    }

    fn wait(&self, key: &Key, free: u32, now: Instant) -> Duration {
        let Some(failures) = self.entries.get(key) else { return Duration::ZERO };
        let passed = now.saturating_duration_since(failures.last);
        let Some(over) = failures.count.checked_sub(free).filter(|_| passed < MEMORY) else {
            return Duration::ZERO;
        };
        let wait = FIRST.saturating_mul(1_u32.checked_shl(over).unwrap_or(u32::MAX)).min(LONGEST);
        wait.saturating_sub(passed)
    }

    fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, failures| now.saturating_duration_since(failures.last) < MEMORY);
        while self.entries.len() >= MAX {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, f)| f.last).map(|(key, _)| *key)
            else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }
}

fn keys(user: &str, address: IpAddr) -> [(Key, u32); 2] {
    let network = network(address);
    [((Some(*Hash::of(user).as_bytes()), network), FREE), ((None, network), FREE_FOR_ALL)]
}

/// An IPv6 subscriber has a /64 to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_further_attempt_waits_twice_as_long_and_another_address_does_not() {
        let mut slowdown = Slowdown::default();
        let (here, mut now) = (ip("10.0.0.1"), Instant::now());
        for _ in 0..FREE {
            slowdown.attempt("anna", here, now).unwrap();
        }
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(slowdown.attempt("anna", here, now), Err(wait));
            now += wait;
            slowdown.attempt("anna", here, now).unwrap();
        }
        assert!(slowdown.attempt("anna", ip("10.0.0.2"), now).is_ok());
        assert!(slowdown.attempt("bert", here, now).is_ok());
        slowdown.succeeded("anna", here);
        assert!(slowdown.attempt("anna", here, now).is_ok());
        assert!(slowdown.attempt("anna", ip("::ffff:10.0.0.1"), now).is_ok());
    }

    #[test]
    fn trying_many_users_from_one_network_is_slowed_down_too_and_forgotten_in_time() {
        let mut slowdown = Slowdown::default();
        let now = Instant::now();
        for number in 0..FREE_FOR_ALL {
            let address = ip(&format!("2001:db8::{number:x}"));
            slowdown.attempt(&number.to_string(), address, now).unwrap();
        }
        assert!(slowdown.attempt("x", ip("2001:db8::ffff"), now).is_err());
        assert!(slowdown.attempt("x", ip("2001:db8:0:1::1"), now).is_ok());
        assert!(slowdown.attempt("x", ip("2001:db8::1"), now + MEMORY).is_ok());
    }

    #[test]
    fn an_attempt_that_could_not_be_judged_does_not_count() {
        let mut slowdown = Slowdown::default();
        for _ in 0..100 {
            slowdown.attempt("anna", ip("10.0.0.1"), Instant::now()).unwrap();
            slowdown.undone("anna", ip("10.0.0.1"));
        }
        assert!(slowdown.entries.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut slowdown = Slowdown::default();
        let now = Instant::now();
        for number in 0..u32::try_from(MAX).unwrap() {
            let address = IpAddr::from(number.to_be_bytes());
            slowdown.attempt("anna", address, now + Duration::from_micros(number.into())).unwrap();
        }
        assert!(slowdown.entries.len() <= MAX);
    }
}
