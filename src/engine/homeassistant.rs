//! Announces devices and readings to Home Assistant, see [`crate::core::discovery`].

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::registry::Registry;
use crate::core::batch::Batch;
use crate::core::discovery::{Discovery, MAX_ENTITIES, MAX_PER_DEVICE, Place};
use crate::core::ids::DeviceId;
use crate::ports::{DeviceFacts, Message, Publisher, Token};

/// What the tokens of announcements have besides their number, among all that is sent.
const ANNOUNCEMENT: Token = 1 << 62;

/// See the module's documentation.
#[derive(Debug)]
pub struct HomeAssistant {
    discovery: Discovery,
    registry: watch::Receiver<Arc<Registry>>,
    /// What was registered when that was last looked at.
    registered: Arc<Registry>,
    /// Whether it was said that the broker refuses announcements, on this connection.
    refusal_said: bool,
}

impl HomeAssistant {
    /// Devices that leave `registry` are cleared from Home Assistant.
    #[must_use]
    pub fn new(place: Place, mut registry: watch::Receiver<Arc<Registry>>) -> Self {
        let registered = registry.borrow_and_update().clone();
        Self { discovery: Discovery::new(place), registry, registered, refusal_said: false }
    }

    /// A device said HELLO.
    pub(super) fn hello(&mut self, device: &DeviceId, facts: &DeviceFacts) {
        self.discovery.hello(device, facts.model.as_deref(), facts.firmware.as_deref());
    }

    /// A batch was accepted.
    pub(super) fn readings(&mut self, batch: &Batch) {
        self.discovery.readings(batch);
    }

    /// There is a new connection to the broker.
    pub(super) fn connected(&mut self) {
        self.refusal_said = false;
        self.discovery.connected();
    }

    /// That connection ended.
    pub(super) fn disconnected(&mut self) {
        self.discovery.disconnected();
    }

    /// Whether `token` is one of ours.
    #[allow(clippy::unused_self, reason = "asked only where there is one")]
    pub(super) fn owns(&self, token: Token) -> bool {
        token & ANNOUNCEMENT != 0
    }

    /// The broker has what was sent as `token`.
    pub(super) fn sent(&mut self, token: Token) {
        self.discovery.answered(token & !ANNOUNCEMENT);
    }

    /// The broker does not take what was sent as `token`; it is tried again after a reconnect.
    pub(super) fn refused(&mut self, token: Token, reason: &str) {
        self.discovery.answered(token & !ANNOUNCEMENT);
        if !std::mem::replace(&mut self.refusal_said, true) {
            tracing::error!(
                reason,
                "the broker refuses an announcement for Home Assistant: the user of this gateway \
                 must be allowed to publish below mqtt.homeassistant_prefix. They are sent again \
                 after reconnecting"
            );
        }
    }

    /// Sends what is due, as far as there is room.
    pub(super) fn pump<P: Publisher>(&mut self, publisher: &mut P, now: f64) {
        self.forget_removed();
        while publisher.send_room() > 0 {
            let Some(announced) = self.discovery.next(now) else { break };
            let message = Message {
                topic: announced.topic,
                absolute: true,
                payload: announced.payload,
                retain: true,
                content_type: Some("application/json"),
                ..Message::default()
            };
            publisher.send(ANNOUNCEMENT | announced.number, message);
        }
        if let Some(device) = self.discovery.take_left_out() {
            tracing::warn!(
                %device,
                readings = MAX_ENTITIES,
                readings_per_device = MAX_PER_DEVICE,
                "there are more readings than are announced to Home Assistant; the rest is left out"
            );
        }
    }

    /// When there is something to send next.
    pub(super) fn next_wake(&self, now: f64) -> Option<f64> {
        self.discovery.next_wake(now).map(|at| at - now)
    }

    fn forget_removed(&mut self) {
        // The sender is dropped only with the gateway.
        if !self.registry.has_changed().unwrap_or(false) {
            return;
        }
        let newer = self.registry.borrow_and_update().clone();
        let older = std::mem::replace(&mut self.registered, newer);
        for (device, _) in older.iter().filter(|(device, _)| self.registered.get(device).is_none())
        {
            self.discovery.remove(device);
        }
    }
}
