//! The list of devices, as the snapshot of the feed and the API give it.

use std::sync::Arc;

use super::Context;
use super::render::{self, Filter};
use super::slot::Slot;

/// It is given in pieces of about this many bytes.
const PIECE: usize = 32 * 1024;

/// A JSON array of devices, rendered piece by piece, so that it need not be in memory whole.
#[derive(Debug)]
pub(super) struct DeviceList {
    slots: std::vec::IntoIter<Arc<Slot>>,
    started: bool,
    finished: bool,
}

impl DeviceList {
    pub(super) fn new(context: &Context, filter: &Filter) -> Self {
        let slots = match filter.devices() {
            Some(wanted) => {
                wanted.iter().filter_map(|id| context.fleet.slot(id.as_str())).collect()
            }
            None => context.fleet.slots(),
        };
        Self { slots: slots.into_iter(), started: false, finished: false }
    }

    /// Appends the next piece to `out`. Returns whether it was the last.
    pub(super) fn append_piece(&mut self, filter: &Filter, out: &mut Vec<u8>) -> bool {
        if self.finished {
            return true;
        }
        if !self.started {
            out.push(b'[');
        }
        while out.len() < PIECE {
            let Some(slot) = self.slots.next() else {
                out.push(b']');
                self.finished = true;
                return true;
            };
            if std::mem::replace(&mut self.started, true) {
                out.push(b',');
            }
            render::device(&slot, filter, out);
        }
        false
    }
}
