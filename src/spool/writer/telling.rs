//! What the writer tells of itself: figures for views, and faults that last.

use std::fmt::Display;
use std::time::Duration;

use super::Writer;

/// How often the figures are shown while something happens, and while nothing does.
const SHOW_BUSY: Duration = Duration::from_millis(100);
const SHOW_QUIET: Duration = Duration::from_secs(1);
/// How often the log is told of something that is tried again each second.
const COMPLAIN: Duration = Duration::from_secs(60);

impl Writer {
    /// Shows the figures.
    pub(super) fn show(&mut self) {
        let totals = self.catalog.totals();
        let bytes = self.catalog.used();
        self.waiting = totals.batches > 0;
        self.show_due = self.now + if self.changed { SHOW_BUSY } else { SHOW_QUIET };
        self.changed = false;
        let room = self.room_to_grow();
        self.out.health.set_spool(|spool| {
            spool.open = true;
            spool.room = room;
            spool.batches = totals.batches;
            spool.readings = totals.readings;
            spool.bytes = bytes;
            spool.max_bytes = self.limits.max_bytes;
            spool.oldest = totals.oldest;
        });
    }

    /// Logs something that is tried again each second, and not as often.
    pub(super) fn complain(&mut self, what: &'static str, error: &dyn Display) {
        let lately = |at: &Duration| self.now < *at + COMPLAIN;
        if !self.complained.get(what).is_some_and(lately) {
            self.complained.insert(what, self.now);
            tracing::warn!(%error, "{what}");
        }
    }
}
