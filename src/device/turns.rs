//! Places for TLS handshakes: only so many at a time, as each holds memory, and none for long while
//! another waits, so that who begins handshakes and does not go on keeps nobody out.
//!
//! A handshake that has had its place for [`Turns::new`]'s `share` gives it up as soon as another
//! waits for one, and is ended. Who came last gets a place first: in a flood, those who came first
//! have given up already or will soon, and a device that comes now is served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ports::lock;

/// All places.
pub(crate) struct Turns {
    max: usize,
    share: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    next: u64,
    /// By the order in which they came.
    waiting: BTreeMap<u64, oneshot::Sender<Turn>>,
    /// Those that have had their share, by the order in which they came; to be told to go.
    overdue: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place; free again when dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

/// Takes who waits no longer off the list.
struct Waiting<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    /// `max` places, each for `share` at least.
    pub(crate) fn new(max: usize, share: Duration) -> Self {
        Self { max, share, state: Mutex::default() }
    }

    /// Waits for a place. Cancel safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Turn {
        loop {
            let (number, place) = {
                let mut state = lock(&self.state);
                state.next += 1;
                let number = state.next;
                if state.held < self.max {
                    state.held += 1;
                    return Turn { turns: Arc::clone(self), number };
                }
                if let Some((_, go)) = state.overdue.pop_first() {
                    // One that has ended meanwhile frees its place just so.
                    let _ = go.send(());
                }
                let (give, place) = oneshot::channel();
                state.waiting.insert(number, give);
                (number, place)
            };
            let _waiting = Waiting { turns: self, number };
            if let Ok(turn) = place.await {
                return turn;
            }
        }
    }
}

impl Turn {
    /// Waits until the place must be given up.
    pub(crate) async fn is_over(&self) {
        tokio::time::sleep(self.turns.share).await;
        let told = {
            let mut state = lock(&self.turns.state);
            if !state.waiting.is_empty() {
                return;
            }
            let (go, told) = oneshot::channel();
            state.overdue.insert(self.number, go);
            told
        };
        // The sender is dropped by nobody but who sends.
        let _ = told.await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.turns.state);
            state.overdue.remove(&self.number);
            let next = state.waiting.pop_last();
            if next.is_none() {
                state.held = state.held.saturating_sub(1);
            }
            next
        };
        if let Some((number, give)) = next {
            // Where nobody waits there any more, it is dropped here and goes to the next.
            let _ = give.send(Turn { turns: Arc::clone(&self.turns), number });
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.turns.state).waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SHARE: Duration = Duration::from_secs(2);

    fn turns(max: usize) -> Arc<Turns> {
        Arc::new(Turns::new(max, SHARE))
    }

    /// A handshake that never goes on: keeps its place as long as it may.
    fn stall(turns: &Arc<Turns>) -> tokio::task::JoinHandle<()> {
        let turns = Arc::clone(turns);
        tokio::spawn(async move { turns.take().await.is_over().await })
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_while_nobody_waits_and_given_up_after_its_share_when_one_does() {
        let turns = turns(1);
        let turn = turns.take().await;
        let mut over = Box::pin(turn.is_over());
        tokio::time::timeout(100 * SHARE, &mut over).await.unwrap_err();
        let mut next = Box::pin(turns.take());
        assert!(next.as_mut().now_or_never().is_none());
        over.await;
        assert!(next.as_mut().now_or_never().is_none(), "until it is dropped");
        drop(turn);
        let turn = next.await;
        let mut waits = Box::pin(turns.take());
        assert!(waits.as_mut().now_or_never().is_none());
        let begun = tokio::time::Instant::now();
        turn.is_over().await;
        assert!(begun.elapsed() >= SHARE, "not before it has had its share");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_that_stalls_leaves_good_ones_their_turn() {
        let turns = turns(4);
        let flood: Vec<_> = (0..2000).map(|_| stall(&turns)).collect();
        while lock(&turns.state).waiting.len() < 1996 {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            let began = tokio::time::Instant::now();
            drop(turns.take().await);
            assert!(began.elapsed() <= SHARE + SHARE / 10, "{:?}", began.elapsed());
        }
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_leaves_nothing_behind_and_no_place_is_lost() {
        let turns = turns(2);
        let held = [turns.take().await, turns.take().await];
        for _ in 0..10 {
            assert!(turns.take().now_or_never().is_none());
        }
        assert!(lock(&turns.state).waiting.is_empty());
        let mut given = Box::pin(turns.take());
        assert!(given.as_mut().now_or_never().is_none());
        drop(held);
        // It was given a place and goes without having taken it.
        drop(given);
        let again = [turns.take().now_or_never(), turns.take().now_or_never()];
        assert!(again.iter().all(Option::is_some));
        assert!(turns.take().now_or_never().is_none());
        drop(again);
        assert_eq!(lock(&turns.state).held, 0);
    }
}
