//! Handing batches and results to the engine when that cannot be done at once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use super::shared::Shared;
use crate::core::batch::{Batch, value_weight};
use crate::core::ids::SessionId;
use crate::ports::{DeviceEvent, Submitted};

/// The engine takes nothing any more: the gateway stops.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineGone;

/// What one RESULT says.
pub(crate) struct CommandResult {
    pub(crate) id: String,
    pub(crate) ok: bool,
    pub(crate) value: ciborium::Value,
}

/// Batches and results on their way to the engine, their weight taken from the budget; given back
/// should they not arrive.
pub(crate) struct Cargo {
    shared: Arc<Shared>,
    batches: Vec<Submitted>,
    /// The batch for which the budget had no room; the last one.
    waiting: Option<Arc<Batch>>,
    /// They have taken nothing from the budget yet, since they are handed over one by one.
    results: VecDeque<CommandResult>,
    /// What the result that is being handed over has taken.
    held: usize,
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
        let Some(batch) = cargo.waiting.take() else { break };
        shared.context.budget.take(batch.weight()).await;
        cargo.batches.push(Submitted::Batch(batch));
    }
    while let Some(CommandResult { id, ok, value }) = cargo.results.pop_front() {
        let weight = value_weight(&value);
        shared.context.budget.take(weight).await;
        cargo.held = weight;
        let permit = shared.context.events.reserve().await.map_err(|_| EngineGone)?;
        cargo.held = 0;
        permit.send(DeviceEvent::Result { session, id, ok, value });
    }
    Ok(())
}

impl Cargo {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            batches: Vec::new(),
            waiting: None,
            results: VecDeque::new(),
            held: 0,
        }
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

    /// Takes a result. Those of one go of reading are few: see the limits there.
    pub(crate) fn load_result(&mut self, result: CommandResult) {
        self.results.push_back(result);
    }

    /// Whether more is to be done than to hand [`Self::unload`] over.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.is_some() || !self.results.is_empty()
    }

    /// Hands out what is loaded; from now on its weight is the engine's to give back.
    pub(crate) fn unload(&mut self) -> Vec<Submitted> {
        std::mem::take(&mut self.batches)
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        if self.held > 0 {
            self.shared.context.budget.give_back(self.held);
        }
        for submitted in &self.batches {
            if let Submitted::Batch(batch) = submitted {
                self.shared.context.budget.give_back(batch.weight());
            }
        }
    }
}
