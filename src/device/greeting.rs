//! From the WebSocket to the session: HELLO, the engine's word on what it knows, WELCOME.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::connection::Connection;
use super::ending::{End, WebSocket, part, restarting};
use super::handshake::Upgraded;
use super::presence::Presence;
use super::sessions::{permissions, revoked};
use super::shared::{Shared, Slot};
use crate::core::frame::{GatewayMessage, Hello, Welcome};
use crate::core::ids::DeviceId;
use crate::core::session::{Close, OUT_OF_TURN, OVERLOADED, Session, Step};
use crate::ports::{DeviceEvent, DeviceFacts, Link, Resume, lock};

/// Greets a device before `deadline`. `None`: the connection has ended, with a Close frame that
/// says why if there was somebody to read it.
pub(crate) async fn greet(
    upgraded: Upgraded,
    deadline: Instant,
    shared: Arc<Shared>,
) -> Option<Box<Connection>> {
    let Upgraded { mut websocket, device, proof, peer, slot } = upgraded;
    let mut session = Session::new(device.clone());
    let late = async |websocket: WebSocket, slot: Slot| {
        let reason = format!("no HELLO within {:?}", shared.hello_timeout);
        part(websocket, End::Close(Close::new(OUT_OF_TURN, reason)), slot).await;
    };
    let hello = {
        let hello = timeout_at(deadline, hello(&mut websocket, &mut session, &shared));
        tokio::select! {
            hello = hello => hello,
            () = shared.stopping() => Ok(Err(End::Close(restarting()))),
        }
    };
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(end)) => {
            part(websocket, end, slot).await;
            return None;
        }
        Err(_) => {
            late(websocket, slot).await;
            return None;
        }
    };

    let link = Arc::new(Link::default());
    let id = shared.next_session();
    let holds = proof.clone();
    let mut presence = Presence::begin(Arc::clone(&shared), device.clone(), id);
    lock(&shared.sessions).insert(device.clone(), id, Arc::clone(&link), proof);
    let facts = Arc::new(facts(&hello, peer.ip().to_canonical().to_string(), shared.unix()));
    shared.context.feed.device_up(&device, &facts);
    // Whatever happened between the check of the credentials and now was before the session could
    // be found and told.
    let registry = shared.registry();
    let end = if shared.is_stopping() {
        Some(restarting())
    } else if !holds.holds(&registry, &device, shared.unix()) {
        Some(revoked())
    } else {
        None
    };
    let welcomed = if let Some(close) = end {
        Err(End::Close(close))
    } else {
        let resumed =
            timeout_at(deadline, open(&mut presence, &device, hello.epoch, &facts, &link));
        resumed.await.unwrap_or_else(|_| {
            let reason = "overloaded: HELLO could not be answered in time, try again later";
            Err(End::Close(Close::new(OVERLOADED, reason)))
        })
    };
    let end = match welcomed {
        Ok(resume) => {
            session.open(resume.epoch, resume.acked);
            let welcome = welcome(&shared, resume);
            match timeout_at(deadline, websocket.send(welcome)).await {
                Ok(Ok(())) => {
                    let changes = shared.registry_changes();
                    let permissions = permissions(&registry, &device);
                    return Some(Box::new(Connection::new(
                        websocket,
                        session,
                        link,
                        presence,
                        slot,
                        (changes, permissions),
                    )));
                }
                Ok(Err(_)) | Err(_) => End::Gone,
            }
        }
        Err(end) => end,
    };
    tokio::join!(presence.leave(), part(websocket, end, slot));
    None
}

/// The first message that is not a ping or a pong.
async fn hello(
    websocket: &mut WebSocket,
    session: &mut Session,
    shared: &Shared,
) -> Result<Hello, End> {
    let nothing_yet = crate::core::policy::Permissions::default();
    loop {
        let Some(message) = websocket.next().await else { return Err(End::Gone) };
        match message.map_err(|error| End::of(error, &shared.rules))? {
            Message::Binary(bytes) => {
                let step = session
                    .receive(&bytes, shared.unix(), &shared.rules, &nothing_yet)
                    .map_err(End::Close)?;
                websocket.get_mut().renew(shared.allowance());
                if let Step::Hello(hello) = step {
                    return Ok(hello);
                }
            }
            Message::Text(_) => return Err(End::Close(Session::text())),
            // The answer to a Close is on its way with the next read.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                websocket.get_mut().renew(shared.allowance());
            }
        }
    }
}

/// Tells the engine, which answers with what it knows of the device's run of numbers.
async fn open(
    presence: &mut Presence,
    device: &DeviceId,
    epoch: Option<u64>,
    facts: &Arc<DeviceFacts>,
    link: &Arc<Link>,
) -> Result<Resume, End> {
    let (welcome, answer) = oneshot::channel();
    let opened = DeviceEvent::Opened {
        session: presence.session(),
        device: device.clone(),
        epoch,
        link: Arc::clone(link),
        facts: Arc::clone(facts),
        welcome,
    };
    presence.open(opened).await.map_err(|_| End::Close(restarting()))?;
    answer.await.map_err(|_| End::Close(restarting()))
}

fn welcome(shared: &Shared, resume: Resume) -> Message {
    let rules = &shared.rules;
    let heartbeat = rules.heartbeat_interval.as_millis().div_ceil(1000).max(1);
    let welcome = GatewayMessage::Welcome(Welcome {
        gateway: shared.context.gateway.clone(),
        time: shared.unix(),
        acked: resume.acked,
        window: rules.window,
        max_frame: rules.max_frame as u64,
        heartbeat: u64::try_from(heartbeat).unwrap_or(u64::MAX),
    });
    Message::Binary(welcome.encode().into())
}

fn facts(hello: &Hello, address: String, since: f64) -> DeviceFacts {
    DeviceFacts {
        since,
        model: hello.model.clone(),
        firmware: hello.firmware.clone(),
        commands: hello.commands.clone(),
        address,
    }
}
