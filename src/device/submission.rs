//! Handing batches to the engine when that cannot be done at once.

use std::pin::Pin;
use std::sync::Arc;

use super::shared::Shared;
use crate::core::batch::Batch;
use crate::core::ids::SessionId;
use crate::ports::{DeviceEvent, Submitted};

/// The engine takes nothing any more: the gateway stops.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineGone;

/// Batches on their way to the engine, their weight taken from the budget; given back should they
/// not arrive.
pub(crate) struct Cargo {
    shared: Arc<Shared>,
    batches: Vec<Submitted>,
    /// The batch for which the budget had no room; the last one.
    waiting: Option<Arc<Batch>>,
}

/// A hand-over under way.
pub(crate) type Submission = Pin<Box<dyn Future<Output = Result<(), EngineGone>> + Send>>;

/// Waits until the engine has taken all of `cargo`, and for the budget if need be. Dropped before
/// that, what the engine has not taken is as if it had never been read.
pub(crate) fn submit(session: SessionId, cargo: Cargo) -> Submission {
    Box::pin(hand_over(session, cargo))
}

async fn hand_over(session: SessionId, mut cargo: Cargo) -> Result<(), EngineGone> {
    let shared = Arc::clone(&cargo.shared);
    loop {
        if !cargo.batches.is_empty() {
            let permit = shared.context.events.reserve().await.map_err(|_| EngineGone)?;
            permit.send(DeviceEvent::Batches { session, batches: cargo.unload() });
        }
        let Some(batch) = cargo.waiting.take() else { return Ok(()) };
        shared.context.budget.take(batch.weight()).await;
        cargo.batches.push(Submitted::Batch(batch));
    }
}

impl Cargo {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), batches: Vec::new(), waiting: None }
    }

    /// Takes a batch. `false`: the budget has no room for it, and nothing more may be loaded.
    pub(crate) fn load(&mut self, batch: Arc<Batch>) -> bool {
        if self.shared.context.budget.try_take(batch.weight()) {
            self.batches.push(Submitted::Batch(batch));
            true
        } else {
            self.waiting = Some(batch);
            false
        }
    }

    /// Takes the number of a batch that was rejected.
    pub(crate) fn load_rejected(&mut self, seq: u64) {
        self.batches.push(Submitted::Rejected(seq));
    }

    /// Whether a batch waits for the budget.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Hands out what is loaded; from now on its weight is the engine's to give back.
    pub(crate) fn unload(&mut self) -> Vec<Submitted> {
        std::mem::take(&mut self.batches)
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        for submitted in &self.batches {
            if let Submitted::Batch(batch) = submitted {
                self.shared.context.budget.give_back(batch.weight());
            }
        }
    }
}
