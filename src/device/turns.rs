//! Turns for what takes memory while it lasts, TLS handshakes: some for everybody, fewer for one
//! address, so that nobody alone can take them all and sit on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::quota::Origin;
use crate::ports::lock;

/// See above.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    per_origin: usize,
    /// Of origins that have or want a turn; each of those has a connection, which are limited.
    by_origin: Mutex<HashMap<Origin, (Arc<Semaphore>, usize)>>,
}

/// A turn, or the wait for one. Over when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    origin: Origin,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Turns {
    pub(crate) fn new(all: usize, per_origin: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_origin, by_origin: Mutex::default() }
    }

    /// Waits for a turn of `origin`. Cancel safe.
    pub(crate) async fn take(&self, origin: Origin) -> Turn<'_> {
        let own = {
            let mut by_origin = lock(&self.by_origin);
            let new = || (Arc::new(Semaphore::new(self.per_origin)), 0);
            let (own, users) = by_origin.entry(origin).or_insert_with(new);
            *users += 1;
            Arc::clone(own)
        };
        let mut turn = Turn { turns: self, origin, permits: None };
        // Never closed, so the errors cannot happen; going on without would do no harm.
        if let Ok(own) = own.acquire_owned().await
            && let Ok(one) = Arc::clone(&self.all).acquire_owned().await
        {
            turn.permits = Some((own, one));
        }
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permits = None;
        let mut by_origin = lock(&self.turns.by_origin);
        if let Some((_, users)) = by_origin.get_mut(&self.origin) {
            *users -= 1;
            if *users == 0 {
                by_origin.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn origin(n: u8) -> Origin {
        Origin::of(IpAddr::from([192, 0, 2, n]))
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_cannot_take_the_turns_of_others() {
        let turns = Turns::new(3, 2);
        let first = [turns.take(origin(1)).await, turns.take(origin(1)).await];
        let patience = Duration::from_secs(1);
        assert!(timeout(patience, turns.take(origin(1))).await.is_err(), "its two are taken");
        let other = turns.take(origin(2)).await;
        assert!(timeout(patience, turns.take(origin(3))).await.is_err(), "all three are taken");
        drop(first);
        let again = timeout(patience, turns.take(origin(1))).await.unwrap();
        drop((again, other));
        assert!(lock(&turns.by_origin).is_empty(), "nobody is remembered");
    }
}
