//! What the spool leaves to the rest of the system: `spool.reserve`.
//!
//! At the reserve the spool does not grow and evicts nothing, whatever `when_full` says: it stalls as
//! on a full disk, and devices are held back. Only the operator's limits for the spool itself,
//! `max_bytes` and `max_age`, cost what was acknowledged; another program that fills the disk does
//! not. A drain needs no room, so it goes on; what it frees is used again.

use super::Writer;
use crate::config::units;
use crate::spool::disk;

/// The reserve is this part of the file system at most.
const RESERVE_PART: u64 = 20;

impl Writer {
    /// Sees to it that `need` more bytes leave the rest of the system its part. Nothing is evicted
    /// for that: another program's files must not cost what was acknowledged.
    pub(super) fn respect_reserve(&mut self, need: u64, wall: f64) -> Result<(), String> {
        let (reserve, free) = self.room(need);
        if free >= reserve {
            return Ok(());
        }
        // What is of no more use goes.
        self.catalog.drop_damaged();
        self.catalog.reclaim(false, wall).map_err(|error| error.to_string())?;
        let (reserve, free) = self.room(need);
        if free >= reserve {
            return Ok(());
        }
        Err(format!(
            "{}: {} bytes are free on this file system, and spool.reserve leaves {} of it to the rest of \
             the system. Make room there or set a lower reserve",
            self.catalog.dir().display(),
            free.saturating_add(need),
            units::format_size(reserve),
        ))
    }

    /// How far the spool may grow before it meets the reserve, in bytes.
    pub(super) fn room_to_grow(&self) -> Option<u64> {
        let space = disk::space(self.catalog.dir()).ok()?;
        Some(space.free.saturating_sub(self.limits.reserve.min(space.total / RESERVE_PART)))
    }

    /// The reserve, and what would be free with `need` more bytes written. Asked anew each time:
    /// that is one system call without I/O, and a commit takes an fsync.
    fn room(&self, need: u64) -> (u64, u64) {
        // Where the file system does not say, the write will.
        let Ok(space) = disk::space(self.catalog.dir()) else { return (0, 0) };
        let reserve = self.limits.reserve.min(space.total / RESERVE_PART);
        (reserve, space.free.saturating_sub(need))
    }
}
