//! Batches that are several messages each.

use std::collections::HashMap;

use crate::ports::{Token, UplinkEvent};

/// The messages of a batch.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Messages without PUBACK.
    pub(super) unanswered: usize,
    /// Why one of them was refused.
    pub(super) refusal: Option<String>,
}

impl Group {
    /// What becomes of the batch, all its messages being answered.
    pub(super) fn fate(self, token: Token) -> UplinkEvent {
        match self.refusal {
            Some(reason) => UplinkEvent::Refused { token, reason },
            None => UplinkEvent::Published(token),
        }
    }
}

/// The batches whose messages are on the way.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<Token, Group>);

impl Groups {
    /// Adds a batch.
    pub(super) fn insert(&mut self, token: Token, group: Group) {
        self.0.insert(token, group);
    }

    /// One message of a batch is answered. Returns what becomes of the batch after the last one.
    pub(super) fn answered(
        &mut self,
        token: Token,
        refusal: Option<String>,
    ) -> Option<UplinkEvent> {
        let group = self.0.get_mut(&token)?;
        group.unanswered -= 1;
        if refusal.is_some() {
            group.refusal = refusal;
        }
        if group.unanswered > 0 {
            return None;
        }
        self.0.remove(&token).map(|group| group.fate(token))
    }
}
