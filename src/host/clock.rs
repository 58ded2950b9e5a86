//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ports::Clock;

/// The system's clock. It may jump, in both directions, whenever somebody sets it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// Before 1970 (a board without a battery may start there) it is 0.
    fn unix(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}
