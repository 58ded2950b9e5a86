//! When to commit: pure.
//!
//! Each commit costs the flash memory some pages however little it holds, and costs whoever waits
//! for it time. So:
//!
//! - A lone batch is committed at once.
//! - While batches keep coming, a group may wait the longer the less it holds: until bytes times
//!   time reach [`WEAR`], [`GATHER_MAX`] at most. A group that is large goes at once.
//! - When nothing more can be expected, because the devices that send wait for this very commit,
//!   it does not wait for more: that is when nothing has come for as long as [`QUIET`] batches take
//!   at the speed at which they came before.

use std::time::Duration;

/// Longest time a batch waits for others.
pub(super) const GATHER_MAX: Duration = Duration::from_millis(400);
/// The first step above none.
const GATHER_MIN: Duration = Duration::from_millis(4);
/// Bytes in memory at which a group is committed at once.
pub(super) const GROUP_ENOUGH: usize = 256 * 1024;
/// Bytes in memory times seconds that are worth a commit.
const WEAR: f64 = 3000.0;
/// The same for a group that nothing more is expected for, and the longest it is kept.
const WEAR_QUIET: f64 = WEAR / 24.0;
const QUIET_MAX: Duration = Duration::from_millis(25);
/// So many batches must have failed to come. Random arrivals leave such a gap once in 3 000.
const QUIET: f64 = 8.0;
/// What the speed is taken over: each group counts for this part of the one after it.
const MEMORY: f64 = 0.75;
/// Between two looks at what has come: this, or a part of the time since the last commit.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_PART: u32 = 4;

/// The pace of the commits so far. Times are those of any monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// When the last commit began and ended.
    last: Option<Duration>,
    ended: Duration,
    interval: Duration,
    /// When something was last seen to have come, and how many since the last commit.
    seen: Duration,
    came: u32,
    /// Earlier groups: how many came, in how many seconds without the wait after the last.
    count: f64,
    active: f64,
}

impl Pace {
    /// Notes that a batch was seen at `now`.
    pub(super) fn came(&mut self, now: Duration) {
        self.seen = now;
        self.came = self.came.saturating_add(1);
    }

    /// When a group of `bytes` that began to wait at `since` is to be committed, if no more comes.
    #[must_use]
    pub(super) fn due(&self, since: Duration, bytes: usize) -> Duration {
        match self.last {
            Some(last) if bytes < GROUP_ENOUGH => {
                let wait = worth(WEAR, bytes).min(self.interval);
                since.max((last + wait).min(self.quiet(last, bytes)))
            }
            _ => since,
        }
    }

    fn quiet(&self, last: Duration, bytes: usize) -> Duration {
        if self.count < 1.0 {
            return Duration::MAX;
        }
        let gap = Duration::from_secs_f64(QUIET * self.active / self.count);
        (self.seen + gap).max(last + worth(WEAR_QUIET, bytes).min(QUIET_MAX))
    }

    /// When to look at what has come, before `due`.
    #[must_use]
    pub(super) fn look(&self, now: Duration, due: Duration) -> Duration {
        due.min(now + (now.saturating_sub(self.ended) / LOOK_PART).max(LOOK))
    }

    /// Notes that a commit began at `began` and ended at `ended`.
    pub(super) fn committed(&mut self, began: Duration, ended: Duration) {
        let quiet = self.last.is_none_or(|last| began >= last + 2 * GATHER_MAX);
        self.interval =
            if quiet { Duration::ZERO } else { (self.interval * 2).clamp(GATHER_MIN, GATHER_MAX) };
        if quiet {
            (self.count, self.active) = (0.0, 0.0);
        } else if self.came > 0 {
            let active = self.seen.saturating_sub(self.ended).max(LOOK / 2);
            self.count = self.count * MEMORY + f64::from(self.came);
            self.active = self.active * MEMORY + active.as_secs_f64();
        }
        (self.last, self.ended, self.came) = (Some(began), ended, 0);
    }
}

/// The time at which `bytes` have used up `wear`, from the last commit on.
fn worth(wear: f64, bytes: usize) -> Duration {
    Duration::from_secs_f64(wear / bytes.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_micros(500);

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A writer that takes batches of `bytes` as `next` says they arrive: it is told the commits so
    /// far and how many batches arrived, and gives the time of the next, if it is known.
    /// Returns when each commit began, until `end`.
    fn commits(
        bytes: usize,
        end: Duration,
        mut next: impl FnMut(&[Duration], usize) -> Option<Duration>,
    ) -> Vec<Duration> {
        let mut pace = Pace::default();
        let mut done: Vec<Duration> = Vec::new();
        let (mut now, mut arrived, mut held, mut since) = (ms(0), 0, 0, ms(0));
        while now < end {
            while next(&done, arrived).is_some_and(|at| at <= now) {
                since = if held == 0 { now } else { since };
                held += bytes;
                arrived += 1;
                pace.came(now);
            }
            let due = pace.due(since, held);
            if held == 0 {
                // The first batch wakes the writer.
                now = next(&done, arrived).unwrap_or(end);
            } else if due <= now {
                done.push(now);
                pace.committed(now, now + COMMIT);
                (now, held) = (now + COMMIT, 0);
            } else {
                now = pace.look(now, due);
            }
        }
        done
    }

    fn every(gap: Duration) -> impl FnMut(&[Duration], usize) -> Option<Duration> {
        move |_, arrived| Some(gap * u32::try_from(arrived).unwrap())
    }

    fn in_the_last_second(commits: &[Duration], end: Duration) -> usize {
        commits.iter().filter(|at| **at >= end.saturating_sub(ms(1000))).count()
    }

    #[test]
    fn a_lone_batch_is_committed_at_once() {
        let arrivals = [ms(5), ms(1000), ms(2000)];
        let commits = commits(200, ms(5000), |_, arrived| arrivals.get(arrived).copied());
        assert_eq!(commits, arrivals);
    }

    #[test]
    fn a_steady_trickle_is_gathered_to_two_or_three_commits_a_second() {
        let commits = commits(200, ms(10_000), every(ms(10)));
        assert_eq!(commits[0], ms(0), "the first does not wait");
        assert!((2..=3).contains(&in_the_last_second(&commits, ms(10_000))), "{commits:?}");
        let longest = commits.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap();
        assert!(longest <= GATHER_MAX + ms(12), "{longest:?} between two commits");
    }

    #[test]
    fn the_more_comes_the_shorter_it_waits() {
        let commits = commits(250, ms(10_000), every(Duration::from_micros(500)));
        // 250 bytes each half millisecond: after 77 ms they are worth a commit.
        assert!((11..=14).contains(&in_the_last_second(&commits, ms(10_000))), "{commits:?}");
    }

    #[test]
    fn a_large_group_does_not_wait() {
        let commits = commits(GROUP_ENOUGH, ms(100), every(ms(1)));
        assert_eq!(commits.len(), 100);
    }

    #[test]
    fn devices_that_wait_for_the_commit_are_not_made_to_wait_for_others() {
        for devices in [1, 10, 200] {
            // All send within a millisecond of a commit, and not again before the next.
            let commits = commits(200, ms(10_000), |done, arrived| {
                let answered = done.len() * devices;
                let at = done.last().map_or(ms(0), |at| *at + COMMIT);
                (arrived < answered + devices)
                    .then(|| at + ms(1) * u32::try_from(arrived % devices).unwrap() / 200)
            });
            let rate = in_the_last_second(&commits, ms(10_000)) * devices;
            assert!(rate >= 35 * devices, "{rate} a second with {devices} devices");
        }
    }

    #[test]
    fn after_a_quiet_time_the_pace_starts_afresh() {
        let mut arrivals: Vec<_> = (0..100).map(|n| ms(10 * n)).collect();
        arrivals.push(ms(5000));
        let commits = commits(200, ms(9000), |_, arrived| arrivals.get(arrived).copied());
        assert_eq!(commits.last(), Some(&ms(5000)));
    }
}
