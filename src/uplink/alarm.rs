//! One timer for many deadlines.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The timer while there is nothing to wait for.
const NO_DEADLINE: Duration = Duration::from_secs(86_400);

/// Wakes the task at the next deadline. It is only ever brought forward: most acknowledgements move
/// a deadline back, and that is found when it rings.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Pin<Box<Sleep>>,
    at: Instant,
}

impl Alarm {
    /// Rings at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(now)), at: now }
    }

    /// Rings at `due` at the latest.
    pub(super) fn bring_forward(&mut self, due: Option<Instant>) {
        if let Some(due) = due.filter(|due| *due < self.at) {
            self.set(Some(due), due);
        }
    }

    /// Rings next at `due`.
    pub(super) fn set(&mut self, due: Option<Instant>, now: Instant) {
        self.at = due.unwrap_or(now + NO_DEADLINE);
        self.timer.as_mut().reset(self.at);
    }

    /// Whether it rings now; if not, it will wake the task.
    pub(super) fn rings(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().poll(cx).is_ready()
    }
}
