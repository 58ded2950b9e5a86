//! HELLO and WELCOME: from a WebSocket to a session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::mpsc::{OwnedPermit, Sender};
use tokio::sync::oneshot;

use super::ending::{End, restarting};
use super::presence::{Arrival, Presence};
use super::shared::Shared;
use crate::core::frame::{GatewayMessage, Hello, Welcome};
use crate::core::ids::DeviceId;
use crate::core::session::{Close, OUT_OF_TURN, OVERLOADED};
use crate::ports::{DeviceEvent, Link, Resume};

/// Where a connection stands on its way to a session.
pub(crate) enum Greeting {
    /// HELLO has not come.
    Awaited(Box<Arrival>),
    /// HELLO has come, and the engine has no room for the news yet.
    Announcing(Box<Announcement>),
    /// The engine looks up what it knows.
    LookedUp(oneshot::Receiver<Resume>),
    /// WELCOME was said.
    Done,
}

/// News for the engine, waiting for room.
pub(crate) struct Announcement {
    room: Pin<Box<dyn Future<Output = Result<Permit, SendError<()>>> + Send>>,
    opened: DeviceEvent,
    answer: oneshot::Receiver<Resume>,
}

type Permit = OwnedPermit<DeviceEvent>;

impl Greeting {
    /// HELLO has come.
    ///
    /// # Errors
    /// When the session ends before it has begun.
    pub(crate) fn hello(
        &mut self,
        hello: Hello,
        device: &DeviceId,
        link: &Arc<Link>,
        presence: &mut Presence,
    ) -> Result<(), End> {
        // The session lets HELLO through once.
        let Self::Awaited(arrival) = std::mem::replace(self, Self::Done) else { return Ok(()) };
        let epoch = hello.epoch;
        let facts = presence.arrive(*arrival, hello, link).map_err(End::Close)?;
        let (welcome, answer) = oneshot::channel();
        let opened = DeviceEvent::Opened {
            session: presence.session(),
            device: device.clone(),
            epoch,
            link: Arc::clone(link),
            facts,
            welcome,
        };
        let events = Sender::clone(&presence.shared().context.events);
        *self = match events.try_reserve_owned() {
            Ok(permit) => {
                presence.open(permit, opened);
                Self::LookedUp(answer)
            }
            Err(TrySendError::Full(events)) => {
                let room = Box::pin(events.reserve_owned());
                Self::Announcing(Box::new(Announcement { room, opened, answer }))
            }
            Err(TrySendError::Closed(_)) => return Err(End::Close(restarting())),
        };
        Ok(())
    }

    /// What the engine knows of the device, once it has said so.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        presence: &mut Presence,
    ) -> Poll<Result<Resume, End>> {
        let gone = || End::Close(restarting());
        if let Self::Announcing(announcement) = self {
            let permit = ready!(announcement.room.as_mut().poll(cx)).map_err(|_| gone())?;
            if let Self::Announcing(announcement) = std::mem::replace(self, Self::Done) {
                let Announcement { opened, answer, .. } = *announcement;
                presence.open(permit, opened);
                *self = Self::LookedUp(answer);
            }
        }
        let Self::LookedUp(answer) = self else { return Poll::Pending };
        let resume = ready!(Pin::new(answer).poll(cx)).map_err(|_| gone())?;
        *self = Self::Done;
        Poll::Ready(Ok(resume))
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited(_))
    }

    /// What ends a connection that is not greeted in time.
    pub(crate) fn late(&self, shared: &Shared) -> Close {
        if self.is_awaited() {
            let reason = format!("no HELLO within {:?}", shared.hello_timeout);
            return Close::new(OUT_OF_TURN, reason);
        }
        let reason = "overloaded: HELLO could not be answered in time, try again later";
        Close::new(OVERLOADED, reason)
    }
}

/// WELCOME, as the settings and the engine say.
pub(crate) fn welcome(shared: &Shared, resume: Resume) -> GatewayMessage {
    let rules = &shared.rules;
    let heartbeat = rules.heartbeat_interval.as_millis().div_ceil(1000).max(1);
    GatewayMessage::Welcome(Welcome {
        gateway: shared.context.gateway.clone(),
        time: shared.unix(),
        acked: resume.acked,
        window: rules.window,
        max_frame: rules.max_frame as u64,
        heartbeat: u64::try_from(heartbeat).unwrap_or(u64::MAX),
    })
}
