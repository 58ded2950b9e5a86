//! The system's clocks.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::core::clock::{Base, Moment, STEP_MIN, UNKNOWN_BOOT};
use crate::ports::Clock;

/// Seconds that two looks at the time since the boot may lie apart: longer, and the process was held
/// up in between, so that the difference to the wall clock says nothing.
const LOOK_MAX: f64 = 0.02;
/// How often the clocks are looked at again then.
const LOOKS: usize = 4;
/// Seconds between two looks whether the time server has been heard from.
const CHECK_INTERVAL: f64 = 1.0;
/// Made by systemd-timesyncd when it starts, and in it a file once it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync";

/// The system's clock. It may jump, in both directions, whenever somebody sets it; the time since
/// the boot (`CLOCK_BOOTTIME`, suspended time included) tells when that happened.
#[derive(Debug)]
pub struct SystemClock {
    boot: u64,
    /// The bits of the offset in force, of the highest so far, and of when the next check is due.
    offset: AtomicU64,
    highest: AtomicU64,
    check_due: AtomicU64,
    waiting: AtomicBool,
}

impl SystemClock {
    /// Looks at the clocks for the first time.
    #[must_use]
    pub fn new() -> Self {
        let offset = rounded(unix() - uptime()).to_bits();
        Self {
            boot: boot(),
            offset: AtomicU64::new(offset),
            highest: AtomicU64::new(offset),
            check_due: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    /// Unix time and the offset in force, which keeps its value, bit for bit, until the clock is set.
    /// Both are of one look: a clock that is set a moment later changes neither.
    fn look(&self) -> (f64, f64) {
        let known = self.offset.load(Ordering::Acquire);
        let offset = f64::from_bits(known);
        for _ in 0..LOOKS {
            let before = uptime();
            let unix = unix();
            let measured = unix - before;
            if (measured - offset).abs() < STEP_MIN {
                return (unix, offset);
            }
            if uptime() - before < LOOK_MAX {
                let new = rounded(measured).to_bits();
                let won =
                    self.offset.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire);
                let offset = f64::from_bits(won.map_or_else(|other| other, |_| new));
                let highest = f64::from_bits(self.highest.load(Ordering::Acquire));
                self.highest.store(highest.max(offset).to_bits(), Ordering::Release);
                if won.is_ok() {
                    let seconds = rounded(offset - f64::from_bits(known));
                    // No warning: a board without a clock of its own does this after every start.
                    tracing::info!(name: "clock-set", seconds, "the clock was set");
                }
                return (unix, offset);
            }
        }
        (uptime() + offset, offset)
    }

    /// Whether a time server is still to be heard from, where that can be known.
    fn is_waiting(&self, now: f64) -> bool {
        if now >= f64::from_bits(self.check_due.load(Ordering::Relaxed)) {
            let server = Path::new(TIMESYNC);
            let heard = server.join("synchronized").exists();
            let next = if heard { f64::INFINITY } else { now + CHECK_INTERVAL };
            self.check_due.store(next.to_bits(), Ordering::Relaxed);
            self.waiting.store(!heard && server.is_dir(), Ordering::Relaxed);
        }
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    /// Before 1970 (a board without a battery may start there) it is 0.
    fn unix(&self) -> f64 {
        unix()
    }

    fn moment(&self) -> Moment {
        let (unix, offset) = self.look();
        let lag = if self.is_waiting(unix - offset) {
            f64::INFINITY
        } else {
            (f64::from_bits(self.highest.load(Ordering::Acquire)) - offset).max(0.0)
        };
        Moment { unix, base: Base { boot: self.boot, offset }, lag }
    }
}

fn unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Seconds since the boot.
fn uptime() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    #[allow(clippy::cast_precision_loss, reason = "exact for millions of years")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

/// To milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Names this boot of the machine, and the time namespace, which has a time since the boot of its
/// own. Where the kernel does not tell, every process counts as a boot.
fn boot() -> u64 {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|id| {
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        u64::from_str_radix(&digits, 16).ok()
    });
    let namespace = fs::read_link("/proc/self/ns/time").ok().and_then(|link| {
        let digits: String = link.to_str()?.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    });
    let boot = boot.unwrap_or_else(rand::random) ^ namespace.unwrap_or(0);
    boot.max(UNKNOWN_BOOT + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_clock_that_nobody_sets_stays_the_same_bit_for_bit() {
        let clock = SystemClock::new();
        let first = clock.moment();
        assert!((0..10_000).all(|_| clock.moment().base == first.base));
        assert_eq!(SystemClock::new().moment().base.boot, first.base.boot, "one boot, one name");
        assert!(first.base.is_like(&SystemClock::new().moment().base));
    }

    #[test]
    fn a_clock_that_was_set_is_noticed_once_and_may_be_behind_by_what_it_went_back() {
        let clock = SystemClock::new();
        let right = clock.moment().base;
        // As if it had shown a day more so far.
        let wrong = right.offset + 86_400.0;
        clock.offset.store(wrong.to_bits(), Ordering::Release);
        clock.highest.store(wrong.to_bits(), Ordering::Release);
        let moment = clock.moment();
        assert!(moment.base.is_like(&right), "{moment:?}");
        assert!(moment.lag >= 86_398.0, "{moment:?}");
        assert_eq!(clock.moment().base, moment.base);
    }
}
