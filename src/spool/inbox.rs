//! From the engine to the writer: a queue that wakes the writer only when that is worth it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::pace::GROUP_ENOUGH;
use crate::core::batch::{Batch, Loss};
use crate::core::ids::Position;
use crate::ports::lock;

/// Releases of so many positions are not left waiting.
const RELEASES_ENOUGH: u64 = 1000;

/// One thing for the writer to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this batch.
    Append(Position, Arc<Batch>),
    /// Read from here, so many bytes.
    Load(Position, usize),
    /// Keep the record of this loss.
    Lost(Loss),
    /// The broker has the records of losses up to this one.
    Published(u64),
    /// Commit what waits, stop, and answer.
    Close(oneshot::Sender<()>),
}

/// What the writer took out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// In order.
    pub(super) commands: VecDeque<Command>,
    /// Everything up to and including it is settled.
    pub(super) released: Option<Position>,
    /// The other end is gone.
    pub(super) abandoned: bool,
}

/// What the writer, waiting, wants to be woken for besides loads and the end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WakeFor {
    /// The first append; else only when many bytes have come together.
    pub(super) appends: bool,
    /// The first release; else only when many positions have come together.
    pub(super) releases: bool,
}

/// See the module. Bounded by the engine's own bounds: it holds no more than is unsettled.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: Taken,
    appended: usize,
    urgent: bool,
    released: Position,
    waiting: Option<WakeFor>,
}

impl Inbox {
    /// Engine: adds a command.
    pub(super) fn send(&self, command: Command) {
        let mut state = lock(&self.state);
        match &command {
            Command::Append(_, batch) => {
                state.appended = state.appended.saturating_add(batch.weight());
                state.urgent |= state.appended >= GROUP_ENOUGH;
            }
            _ => state.urgent = true,
        }
        state.taken.commands.push_back(command);
        let wake = state.urgent || state.waiting.is_some_and(|wake| wake.appends);
        self.wake(state, wake);
    }

    /// Engine: everything up to and including `through` is settled.
    pub(super) fn release(&self, through: Position) {
        let mut state = lock(&self.state);
        state.taken.released = state.taken.released.max(Some(through));
        state.urgent |= through >= state.released.saturating_add(RELEASES_ENOUGH);
        let wake = state.urgent || state.waiting.is_some_and(|wake| wake.releases);
        self.wake(state, wake);
    }

    /// Engine: nobody will listen any more.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.taken.abandoned = true;
        state.urgent = true;
        self.wake(state, true);
    }

    fn wake(&self, mut state: std::sync::MutexGuard<'_, State>, wake: bool) {
        if wake && state.waiting.take().is_some() {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Writer: takes everything, after waiting for something of `wake` until `deadline` at most.
    pub(super) fn take(&self, deadline: Option<Instant>, wake: WakeFor) -> Taken {
        let mut state = lock(&self.state);
        let there = |state: &State| {
            state.urgent
                || (wake.appends && !state.taken.commands.is_empty())
                || (wake.releases && state.taken.released.is_some())
        };
        while !there(&state) {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            state.waiting = Some(wake);
            state = match left {
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.waiting = None;
        state.urgent = state.taken.abandoned;
        state.appended = 0;
        if let Some(released) = state.taken.released {
            state.released = released;
        }
        let abandoned = state.taken.abandoned;
        Taken { abandoned, ..std::mem::take(&mut state.taken) }
    }
}
