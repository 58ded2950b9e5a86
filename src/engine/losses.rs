//! Losses, as the engine deals with them: counted and logged at once, published from the spool's
//! records until the broker has acknowledged them.

use std::collections::BTreeMap;

use serde_json::json;

use super::Engine;
use crate::core::batch::{Loss, LossReason};
use crate::core::ids::DeviceId;
use crate::core::losses::Sum;
use crate::metrics;
use crate::ports::{Ledger, Message, Publisher, Spool, Token};

/// What the tokens of loss records have besides their number, among all that is sent.
const LOSS: Token = 1 << 63;

impl<P: Publisher, S: Spool, L: Ledger> Engine<P, S, L> {
    /// Promise 1: a loss is counted, logged and published. The last is the spool's to ask for, with
    /// [`Report`](crate::ports::SpoolEvent::Report), once the record lasts.
    pub(super) fn report_losses(&mut self, losses: Vec<Loss>) {
        let now = self.now();
        for loss in losses {
            let reason = loss.reason.as_str();
            self.shared
                .metrics
                .readings_lost
                .get_or_create(&metrics::Reason { reason })
                .inc_by(loss.readings);
            self.shared.health.set_spool(|spool| spool.lost_readings += loss.readings);
            self.burst.add(&loss, now);
        }
    }

    /// Publishes the records of losses that are waiting, in order, as far as there is room.
    pub(super) fn publish_losses(&mut self) {
        while self.publisher.send_room() > 0 {
            let Some((number, loss)) = self.reports.send_next() else { return };
            let mut record = json!({
                "device": loss.device.as_ref().map(DeviceId::as_str),
                "epoch": loss.epoch,
                "first_seq": loss.first_seq,
                "last_seq": loss.last_seq,
                "readings": loss.readings,
                "reason": loss.reason.as_str(),
                "time": loss.time,
            });
            if let (Some(detail), Some(record)) = (&loss.detail, record.as_object_mut()) {
                record.insert("detail".into(), detail.as_str().into());
            }
            let message = Message {
                topic: "losses".into(),
                payload: record.to_string().into_bytes(),
                content_type: Some("application/json"),
                ..Message::default()
            };
            self.publisher.send(LOSS | number, message);
        }
    }

    /// The broker has what was sent as `token`.
    pub(super) fn sent(&mut self, token: Token) {
        if token & LOSS != 0 {
            if let Some(through) = self.reports.acknowledged(token & !LOSS) {
                self.spool.losses_published(through);
            }
        } else if let Some(homeassistant) = self.homeassistant.as_mut().filter(|h| h.owns(token)) {
            homeassistant.sent(token);
        } else {
            self.commands.sent(token);
        }
    }

    /// The broker does not take what was sent as `token`. A loss stays on record, and is sent again
    /// with the next connection; the result of a command stays in the ledger, and is not.
    pub(super) fn send_refused(&mut self, token: Token, reason: &str) {
        if token & LOSS != 0 {
            tracing::error!(
                name: "publish-refused",
                reason,
                "the broker refuses the record of a loss: the user of this gateway must be allowed \
                 to publish on {{prefix}}/losses. It is kept and sent again after reconnecting"
            );
        } else if let Some(homeassistant) = self.homeassistant.as_mut().filter(|h| h.owns(token)) {
            homeassistant.refused(token, reason);
        } else {
            tracing::error!(
                name: "publish-refused",
                reason,
                "the broker refuses the result of a command: the user of this gateway must be \
                 allowed to publish on {{prefix}}/devices/+/results and on the response topics of \
                 those who ask. The result is in the ledger, see /api/v1/commands"
            );
            self.commands.sent(token);
        }
    }
}

/// One line for each reason with all that was lost in a burst, see [`Burst`](crate::core::losses::Burst).
pub(super) fn log(sums: BTreeMap<LossReason, Sum>) {
    for (reason, sum) in sums {
        let one = sum.devices.iter().next().filter(|_| sum.devices.len() == 1);
        let (oldest, newest) = sum.received.unzip();
        tracing::error!(
            name: "readings-lost",
            reason = reason.as_str(),
            batches = sum.batches,
            readings = sum.readings,
            devices = sum.devices.len(),
            device = one.map(DeviceId::as_str),
            received_from = oldest,
            received_to = newest,
            detail = sum.detail,
            "readings are lost"
        );
    }
}
