//! That a device is here: who gets to know, and that they also get to know when it is not.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;

use super::sessions::{Proof, revoked, withdrawn};
use super::shared::Shared;
use crate::core::frame::Hello;
use crate::core::ids::{DeviceId, SessionId};
use crate::core::session::Close;
use crate::ports::{DeviceEvent, DeviceFacts, Link, lock};

use super::ending::restarting;

/// A connection as the engine, the feed and the sessions know it. However it ends, they get to
/// know.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    device: DeviceId,
    session: SessionId,
    stage: Stage,
}

/// What is known of a connection until it says HELLO.
pub(crate) struct Arrival {
    pub(crate) proof: Proof,
    pub(crate) address: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Only the sessions know it.
    Arriving,
    /// HELLO was said.
    Here,
    /// The engine knows, too.
    Opened,
    /// Only the engine has still to hear that it has gone.
    Closing,
    Gone,
}

impl Presence {
    pub(crate) fn begin(shared: Arc<Shared>, device: DeviceId, link: &Arc<Link>) -> Self {
        let session = shared.next_session();
        lock(&shared.sessions).await_hello(session, device.clone(), Arc::clone(link));
        Self { shared, device, session, stage: Stage::Arriving }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// HELLO was said. From here on the device can be found.
    ///
    /// # Errors
    /// When what held before does not any more: the gateway stops, or the credentials were revoked
    /// before the session could be found and told.
    pub(crate) fn arrive(
        &mut self,
        arrival: Arrival,
        hello: Hello,
        link: &Arc<Link>,
    ) -> Result<Arc<DeviceFacts>, Close> {
        let Self { shared, device, session, stage } = self;
        let Arrival { proof, address } = arrival;
        let now = shared.unix();
        let facts = Arc::new(DeviceFacts {
            since: now,
            model: hello.model,
            firmware: hello.firmware,
            commands: hello.commands,
            address: address.to_canonical().to_string(),
        });
        let held = proof.clone();
        lock(&shared.sessions).insert(device.clone(), *session, Arc::clone(link), proof);
        *stage = Stage::Here;
        shared.context.metrics.devices_connected.inc();
        shared.context.feed.device_up(device, &facts);
        if shared.is_stopping() {
            return Err(restarting());
        }
        if !held.holds(&shared.registry(), device, now) {
            return Err(revoked());
        }
        if held.is_withdrawn(&shared.revoked.borrow()) {
            return Err(withdrawn());
        }
        Ok(facts)
    }

    /// Tells the engine.
    pub(crate) fn open(&mut self, permit: OwnedPermit<DeviceEvent>, opened: DeviceEvent) {
        permit.send(opened);
        self.stage = Stage::Opened;
    }

    /// Tells everybody that it has ended.
    pub(crate) async fn leave(mut self) {
        self.forget();
        if self.stage == Stage::Closing {
            // An engine that is gone need not hear it.
            let closed = self.shared.context.events.send(self.closed());
            let _ = closed.await;
            self.stage = Stage::Gone;
        }
    }

    fn closed(&self) -> DeviceEvent {
        DeviceEvent::Closed { session: self.session }
    }

    fn forget(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Gone);
        match stage {
            Stage::Arriving => lock(&self.shared.sessions).await_hello_no_more(self.session),
            Stage::Here | Stage::Opened => {
                self.shared.context.metrics.devices_connected.dec();
                // One that was replaced is still there as far as the feed is concerned.
                if lock(&self.shared.sessions).remove(&self.device, self.session) {
                    self.shared.context.feed.device_down(&self.device, self.shared.unix());
                }
            }
            Stage::Closing | Stage::Gone => {}
        }
        if matches!(stage, Stage::Opened | Stage::Closing) {
            self.stage = Stage::Closing;
        }
    }
}

impl Drop for Presence {
    /// For a task that ends without [`Self::leave`]: by a panic, or with the runtime.
    fn drop(&mut self) {
        self.forget();
        if self.stage != Stage::Closing {
            return;
        }
        let events = &self.shared.context.events;
        let Err(TrySendError::Full(closed)) = events.try_send(self.closed()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let events = events.clone();
            runtime.spawn(async move { events.send(closed).await });
        }
    }
}
