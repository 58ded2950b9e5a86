//! When to commit: pure.
//!
//! A lone batch is committed at once. While batches keep coming the time between two commits
//! doubles up to [`GATHER_MAX`], since each commit costs the flash memory some pages however little
//! it holds. A group that is large enough goes at once.

use std::time::Duration;

/// Longest time a batch waits for others.
pub(super) const GATHER_MAX: Duration = Duration::from_millis(100);
/// The first step above none.
const GATHER_MIN: Duration = Duration::from_millis(4);
/// Bytes in memory at which a group is committed at once.
pub(super) const GROUP_ENOUGH: usize = 256 * 1024;

/// The pace of the commits so far. Times are those of any monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    last: Option<Duration>,
    interval: Duration,
}

impl Pace {
    /// When a group of `bytes` that began to wait at `since` is to be committed.
    #[must_use]
    pub(super) fn due(&self, since: Duration, bytes: usize) -> Duration {
        match self.last {
            Some(last) if bytes < GROUP_ENOUGH => since.max(last + self.interval),
            _ => since,
        }
    }

    /// Notes that a commit began at `now`.
    pub(super) fn committed(&mut self, now: Duration) {
        let quiet = self.last.is_none_or(|last| now >= last + 2 * GATHER_MAX);
        self.interval =
            if quiet { Duration::ZERO } else { (self.interval * 2).clamp(GATHER_MIN, GATHER_MAX) };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Batches arrive at the given times; returns when each commit began.
    fn commits(arrivals: impl IntoIterator<Item = Duration>, bytes: usize) -> Vec<Duration> {
        let mut pace = Pace::default();
        let mut commits: Vec<Duration> = Vec::new();
        let mut waiting: Option<(Duration, usize)> = None;
        for arrival in arrivals {
            if let Some((since, held)) = waiting {
                let due = pace.due(since, held);
                if due <= arrival {
                    pace.committed(due);
                    commits.push(due);
                    waiting = None;
                }
            }
            let (since, held) = waiting.unwrap_or((arrival, 0));
            waiting = Some((since, held + bytes));
            let due = pace.due(since, held + bytes);
            if due <= arrival {
                pace.committed(arrival);
                commits.push(arrival);
                waiting = None;
            }
        }
        commits
    }

    #[test]
    fn a_lone_batch_is_committed_at_once() {
        let arrivals = [ms(5), ms(1000), ms(2000)];
        assert_eq!(commits(arrivals, 200), arrivals);
    }

    #[test]
    fn a_steady_trickle_is_gathered_to_ten_commits_a_second() {
        let commits = commits((0..1000).map(|n| ms(10 * n)), 200);
        assert_eq!(commits[0], ms(0), "the first does not wait");
        let late = commits.iter().filter(|at| **at >= ms(1000)).count();
        assert!((88..=92).contains(&late), "{late} commits in the last nine seconds");
        let longest = commits.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap();
        assert!(longest <= GATHER_MAX + ms(10), "{longest:?} between two commits");
    }

    #[test]
    fn a_large_group_does_not_wait() {
        let commits = commits((0..100).map(ms), GROUP_ENOUGH);
        assert_eq!(commits.len(), 100);
    }

    #[test]
    fn after_a_quiet_time_the_pace_starts_afresh() {
        let mut arrivals: Vec<_> = (0..100).map(|n| ms(10 * n)).collect();
        arrivals.push(ms(5000));
        assert_eq!(commits(arrivals, 200).last(), Some(&ms(5000)));
    }
}
