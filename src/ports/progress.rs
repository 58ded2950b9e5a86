//! Whether the parts of the gateway get on with what they do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// By when a part will be done with what it has begun. The part says so, somebody else looks: a part
/// that hangs says nothing any more. Both take a nanosecond or so and no lock.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// Milliseconds from `began` on; 0: it waits for work.
    due: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { began: Instant::now(), due: AtomicU64::new(0) }
    }
}

impl Progress {
    /// The part has begun something, or got on with it, and will say so again within `time`.
    pub fn within(&self, time: Duration) {
        self.by(Instant::now() + time);
    }

    /// As [`Self::within`], at a time.
    pub fn by(&self, time: Instant) {
        self.due.store(self.since_began(time).max(1), Ordering::Relaxed);
    }

    /// The part waits for work, for as long as it takes.
    pub fn rest(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    /// Whether the part should have said something by `now`, and has not.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != 0 && due < self.since_began(now)
    }

    fn since_began(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The progress of every part that may hang by itself. (The engine runs on the thread that looks.)
#[derive(Debug, Default)]
pub struct Parts {
    /// The connection to the broker.
    pub uplink: Progress,
    /// The spool's thread.
    pub spool: Progress,
    /// The thread of the ledger of commands.
    pub ledger: Progress,
}

impl Parts {
    /// Those that hang at `now`, by name.
    pub fn overdue(&self, now: Instant) -> impl Iterator<Item = &'static str> {
        [("uplink", &self.uplink), ("spool", &self.spool), ("ledger of commands", &self.ledger)]
            .into_iter()
            .filter(move |(_, progress)| progress.is_overdue(now))
            .map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_neither_rests_nor_gets_on_is_overdue() {
        let parts = Parts::default();
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(parts.overdue(after(1000)).count(), 0, "nothing is begun yet");
        parts.spool.by(after(30));
        parts.uplink.by(after(60));
        assert_eq!(parts.overdue(after(29)).count(), 0);
        assert_eq!(parts.overdue(after(31)).collect::<Vec<_>>(), ["spool"]);
        parts.spool.by(after(80));
        assert_eq!(parts.overdue(after(70)).collect::<Vec<_>>(), ["uplink"]);
        parts.uplink.rest();
        parts.spool.rest();
        assert_eq!(parts.overdue(after(1000)).count(), 0);
        parts.ledger.within(Duration::ZERO);
        assert_eq!(parts.overdue(after(1000)).collect::<Vec<_>>(), ["ledger of commands"]);
    }
}
