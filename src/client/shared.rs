//! What the handle and the connection both work on.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::Event;
use super::answers::Answers;
use super::error::Stopped;
use super::window::Window;
use crate::core::frame::Welcome;
use crate::ports::lock;

/// Events kept for a caller who does not fetch them; the oldest go first.
const EVENTS_KEPT: usize = 1024;
/// Best effort batches waiting to be written.
pub(super) const OUTBOX: usize = 64;

/// The state behind its lock, and the two ways to wake someone.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    driver: AtomicWaker,
    changed: Notify,
}

/// Everything that handle and connection share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) window: Window,
    pub(super) best_effort: VecDeque<Bytes>,
    pub(super) greeting: Option<Greeting>,
    pub(super) connected: bool,
    pub(super) closing: bool,
    pub(super) cut: Option<Duration>,
    pub(super) stopped: Option<Stopped>,
    pub(super) answers: Answers,
    events: VecDeque<Event>,
    missed: u64,
    acked_told: u64,
}

/// The last WELCOME and when it came.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) welcome: Welcome,
    /// When the gateway's clock showed `welcome.time`: half a round trip before WELCOME came.
    pub(super) at: Instant,
}

impl Shared {
    pub(super) fn new(window: Window) -> Self {
        let acked_told = window.acked();
        let state = State {
            window,
            best_effort: VecDeque::new(),
            greeting: None,
            connected: false,
            closing: false,
            cut: None,
            stopped: None,
            answers: Answers::default(),
            events: VecDeque::new(),
            missed: 0,
            acked_told,
        };
        Self { state: Mutex::new(state), driver: AtomicWaker::new(), changed: Notify::new() }
    }

    /// Looks at or changes the state without waking anyone.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut lock(&self.state))
    }

    /// Handle: changes the state and wakes the connection.
    pub(super) fn tell_connection<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = self.with(change);
        self.driver.wake();
        result
    }

    /// Handle: there is something to do.
    pub(super) fn wake_connection(&self) {
        self.driver.wake();
    }

    /// Connection: there is something to see.
    pub(super) fn wake_handle(&self) {
        self.changed.notify_waiters();
    }

    /// Connection: changes the state and wakes whoever waits on the handle.
    pub(super) fn tell_handle<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = self.with(change);
        self.changed.notify_waiters();
        result
    }

    /// Handle: waits until `look` finds something.
    pub(super) async fn wait_for<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.with(&mut look) {
                return found;
            }
            changed.await;
        }
    }

    /// Connection: has itself woken by [`Self::tell_connection`].
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    /// Connection: waits until the handle wants the end and there is nobody to say goodbye to.
    pub(super) async fn closing(&self) {
        std::future::poll_fn(|cx| {
            self.register(cx);
            let end = self.with(|state| state.closing && !state.connected);
            if end { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl State {
    /// The next message to write, if any.
    pub(super) fn next_frame(&mut self) -> Option<Bytes> {
        self.answers
            .next(Instant::now())
            .or_else(|| self.window.next_unsent())
            .or_else(|| self.best_effort.pop_front())
    }

    /// Adds an event; where nobody fetches them, the oldest makes room.
    pub(super) fn report(&mut self, event: Event) {
        if self.events.len() >= EVENTS_KEPT {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
    }

    /// The next event. Acknowledgements are told when nothing else is left, as one number.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if self.missed > 0 {
            return Some(Event::Missed(std::mem::take(&mut self.missed)));
        }
        self.events.pop_front().or_else(|| {
            let acked = self.window.acked();
            (acked > self.acked_told).then(|| {
                self.acked_told = acked;
                Event::Acked(acked)
            })
        })
    }
}
