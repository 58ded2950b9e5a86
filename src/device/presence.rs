//! That a device is here: who gets to know, and that they also get to know when it is not.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;

use super::shared::Shared;
use super::submission::EngineGone;
use crate::core::ids::{DeviceId, SessionId};
use crate::ports::{DeviceEvent, lock};

/// That a device is here, as the engine, the feed and the sessions know it. However the connection
/// ends, they get to know.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    device: DeviceId,
    session: SessionId,
    opened: bool,
    left: bool,
}

impl Presence {
    pub(crate) fn begin(shared: Arc<Shared>, device: DeviceId, session: SessionId) -> Self {
        shared.context.metrics.devices_connected.inc();
        Self { shared, device, session, opened: false, left: false }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Tells the engine that it has begun.
    pub(crate) async fn open(&mut self, opened: DeviceEvent) -> Result<(), EngineGone> {
        let permit = self.shared.context.events.reserve().await.map_err(|_| EngineGone)?;
        permit.send(opened);
        self.opened = true;
        Ok(())
    }

    /// Tells everybody that it has ended.
    pub(crate) async fn leave(mut self) {
        self.forget();
        if std::mem::take(&mut self.opened) {
            // An engine that is gone need not hear it.
            let _ = self.shared.context.events.send(self.closed()).await;
        }
    }

    fn closed(&self) -> DeviceEvent {
        DeviceEvent::Closed { session: self.session }
    }

    fn forget(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.shared.context.metrics.devices_connected.dec();
        // One that was replaced is still there as far as the feed is concerned.
        if lock(&self.shared.sessions).remove(&self.device, self.session) {
            self.shared.context.feed.device_down(&self.device, self.shared.unix());
        }
    }
}

impl Drop for Presence {
    /// For a task that ends without [`Self::leave`]: by a panic, or with the runtime.
    fn drop(&mut self) {
        self.forget();
        if self.opened
            && let Err(TrySendError::Full(closed)) =
                self.shared.context.events.try_send(self.closed())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let events = self.shared.context.events.clone();
            runtime.spawn(async move { events.send(closed).await });
        }
    }
}
