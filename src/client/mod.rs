//! The device side of `tidegate.v1` as a library: the reference client for devices written in Rust,
//! and what `tidegate simulate` and the tests are built on.
//!
//! A [`Client`] keeps every batch until the gateway has settled it, reconnects by itself with
//! exponential backoff and jitter, and sends what was not acknowledged again, in order. So a batch
//! that [`Client::send`] took arrives, unless the program ends before (see [`Client::close`]) or
//! the gateway refuses it ([`Event::Rejected`]).
//!
//! ```no_run
//! use tidegate::client::{Client, Options, reading};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut options = Options::new("ws://127.0.0.1:7070", "kiln-3");
//! options.token = Some("the token that `tidegate device add kiln-3` printed".into());
//! let client = Client::connect(options).await?;
//! for step in 0..10 {
//!     let value = 20.0 + f64::from(step);
//!     client.send(&[reading("temperature", "Cel", value, client.now())]).await?;
//! }
//! let left = client.close(std::time::Duration::from_secs(10)).await;
//! assert_eq!(left, 0, "batches not acknowledged in time");
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ciborium::Value;

use crate::core::batch::{self, Reading};
use crate::core::frame::{DeviceMessage, Welcome};
use crate::core::senml;

mod answers;
mod connection;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod handlers;
mod options;
mod shared;
#[cfg(test)]
mod tests;
pub mod tls;
mod window;

pub use error::{BadOptions, SendError, Stopped};
pub use handlers::{Command, Handlers};
pub use options::{Options, SUBPROTOCOL};

use options::Target;
use shared::{OUTBOX, Shared, State};
use window::Window;

/// A device's end of the connection. Dropping it ends the connection at once, whatever is not
/// acknowledged; [`Self::close`] waits.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    epoch: u64,
}

/// What happened, as [`Client::event`] tells it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The gateway said WELCOME.
    Connected {
        /// The highest number it has settled in this epoch.
        acked: u64,
    },
    /// Everything up to this number is settled. Told once nothing else is left to tell, and then
    /// only the highest.
    Acked(u64),
    /// The gateway will never take this batch. It is not sent again.
    Rejected {
        /// Its number; `None` for a best effort batch.
        seq: Option<u64>,
        /// 1 malformed SenML, 2 name not permitted, 3 too many records, 4 time out of range, 5
        /// refused by the broker; 0: this client took it out, as it is larger than this gateway's
        /// largest message.
        code: u64,
        /// For a person.
        reason: String,
    },
    /// A command to carry out; answer it with [`Client::result`], or let [`Handlers`] do both. One
    /// that the gateway sends again is not told again.
    Command(Command),
    /// A connection that was up has ended; the next is under way.
    Disconnected {
        /// For a person.
        reason: String,
    },
    /// An attempt to connect failed; the next follows.
    Unreachable {
        /// For a person.
        reason: String,
    },
    /// This many events were forgotten, as nobody fetched them.
    Missed(u64),
}

/// One reading for [`Client::send`]: a number with its unit (a code of RFC 8428 section 12.1) at
/// `time`, Unix time in seconds, best taken from [`Client::now`].
#[must_use]
pub fn reading(name: &str, unit: &str, value: f64, time: f64) -> Reading {
    Reading {
        name: name.into(),
        unit: Some(unit.into()),
        value: Some(batch::Value::Number(value)),
        sum: None,
        time,
        update_time: None,
        relative: false,
    }
}

impl Client {
    /// Starts a client on the present tokio runtime and waits until the gateway has said WELCOME,
    /// however many attempts that takes.
    ///
    /// # Errors
    /// When `options` cannot be used, or the gateway refuses this device for good.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (client, connection) = Self::start(options)?;
        tokio::spawn(connection);
        client.connected().await?;
        Ok(client)
    }

    /// Makes a client without waiting for the gateway: batches may be sent at once and are kept
    /// until it is there. Nothing happens until the future is polled: spawn it, or join it with
    /// what uses the client. It ends when the client does.
    ///
    /// # Errors
    /// When `options` cannot be used.
    pub fn start(
        options: Options,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), BadOptions> {
        let target = Target::new(&options)?;
        if options.first_seq == 0 {
            return Err(BadOptions::FirstSeq);
        }
        let epoch = options.epoch.unwrap_or_else(|| rand::random::<u64>() >> 11);
        let window = Window::new(options.first_seq, options.keep_batches, options.keep_bytes);
        let shared = Arc::new(Shared::new(window));
        let connection = connection::run(Arc::clone(&shared), options, target, epoch);
        Ok((Self { shared, epoch }, connection))
    }

    /// Waits until connected.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn connected(&self) -> Result<(), Stopped> {
        self.shared
            .wait_for(|state| match &state.stopped {
                Some(stopped) => Some(Err(stopped.clone())),
                None => state.connected.then_some(Ok(())),
            })
            .await
    }

    /// Sends one batch and returns its number. Waits while as many are unacknowledged as
    /// [`Options`] allows; returns as soon as the batch is kept, long before it is acknowledged.
    /// Cancel safe: a batch is either taken or not.
    ///
    /// # Errors
    /// When the client has ended, or the batch exceeds the gateway's largest message.
    pub async fn send(&self, readings: &[Reading]) -> Result<u64, SendError> {
        let pack = senml::encode(readings);
        let sent = self.shared.wait_for(|state| offer(state, &pack).transpose()).await;
        self.shared.wake_connection();
        sent
    }

    /// Sends one batch that is encoded already, as a SenML CBOR pack, if there is room for it now.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn try_send_pack(&self, pack: &[u8]) -> Result<Option<u64>, SendError> {
        self.shared.tell_connection(|state| offer(state, pack))
    }

    /// Sends one batch that is neither kept nor acknowledged. Waits while the connection is busy;
    /// `false` where there is none: the batch is dropped.
    ///
    /// # Errors
    /// When the client has ended, or the batch exceeds the gateway's largest message.
    pub async fn best_effort(&self, readings: &[Reading]) -> Result<bool, SendError> {
        self.best_effort_pack(&senml::encode(readings)).await
    }

    /// The same for a batch that is encoded already, as a SenML CBOR pack. Cancel safe.
    ///
    /// # Errors
    /// As for [`Self::best_effort`].
    pub async fn best_effort_pack(&self, pack: &[u8]) -> Result<bool, SendError> {
        let queued = |state: &mut State| match offer_best_effort(state, pack) {
            Ok(None) if !state.connected => Some(Ok(false)),
            Ok(None) => None,
            Ok(Some(())) => Some(Ok(true)),
            Err(error) => Some(Err(error)),
        };
        let result = self.shared.wait_for(queued).await;
        self.shared.wake_connection();
        result
    }

    /// Answers a command. `value` is the result, or where `ok` is false what went wrong. The answer
    /// is kept until it is written to a connection, and sent again where that one broke soon after.
    /// Of several answers to one command the first counts.
    pub fn result(&self, id: &str, ok: bool, value: Value) {
        let message: Bytes = DeviceMessage::Result { id: id.to_owned(), ok, value }.encode().into();
        self.shared.tell_connection(|state| state.answers.done(id, message));
    }

    /// The same for what a handler returned.
    pub fn answer(&self, id: &str, answer: Result<Value, String>) {
        match answer {
            Ok(value) => self.result(id, true, value),
            Err(error) => self.result(id, false, error.into()),
        }
    }

    /// What happened next.
    ///
    /// # Errors
    /// When everything was told and the client has ended.
    pub async fn event(&self) -> Result<Event, Stopped> {
        self.shared
            .wait_for(|state| match state.next_event() {
                Some(event) => Some(Ok(event)),
                None => state.stopped.clone().map(Err),
            })
            .await
    }

    /// The next event, if there is one now.
    pub fn try_event(&self) -> Option<Event> {
        self.shared.with(State::next_event)
    }

    /// Waits until `look` finds something; it is asked again after every change.
    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        self.shared.wait_for(|state| look(state)).await
    }

    /// Waits until every batch is settled and every answer written, or the client has ended, and
    /// returns how many batches are not settled.
    pub async fn settled(&self) -> usize {
        self.until(|state| {
            let done = state.window.len() == 0 && state.answers.waiting() == 0;
            (done || state.stopped.is_some()).then(|| state.window.len())
        })
        .await
    }

    /// The highest number up to which everything is settled.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.shared.with(|state| state.window.acked())
    }

    /// How many batches are kept because they are not settled.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.shared.with(|state| state.window.len())
    }

    /// Whether the gateway has said WELCOME and the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.with(|state| state.connected)
    }

    /// Why the client has ended, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.shared.with(|state| state.stopped.clone())
    }

    /// Which run of numbers this is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last WELCOME.
    #[must_use]
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.with(|state| Some(state.greeting.as_ref()?.welcome.clone()))
    }

    /// The gateway's clock, Unix time in seconds, as WELCOME set it (half a round trip allowed
    /// for); this machine's own clock until then. Steps of the local clock do not move it.
    #[must_use]
    pub fn now(&self) -> f64 {
        let greeted = self.shared.with(|state| {
            let greeting = state.greeting.as_ref()?;
            Some(greeting.welcome.time + greeting.at.elapsed().as_secs_f64())
        });
        greeted.unwrap_or_else(local_unix)
    }

    /// Seconds to add to this machine's clock to get the gateway's; `None` before WELCOME.
    #[must_use]
    pub fn clock_offset(&self) -> Option<f64> {
        self.shared.with(|state| state.greeting.is_some()).then(|| self.now() - local_unix())
    }

    /// Breaks the connection without a word and stays away for `away`, as a device does whose
    /// network is gone. What is sent meanwhile is kept. For trying things out.
    pub fn disconnect(&self, away: Duration) {
        self.shared.tell_connection(|state| state.cut = state.connected.then_some(away));
    }

    /// Ends the client in order: waits up to `grace` until everything is settled, says goodbye and
    /// returns how many batches are not settled.
    pub async fn close(self, grace: Duration) -> usize {
        let left = match tokio::time::timeout(grace, self.settled()).await {
            Ok(left) => left,
            Err(_) => self.unacknowledged(),
        };
        self.shared.tell_connection(|state| state.closing = true);
        self.until(|state| state.stopped.is_some().then_some(())).await;
        left
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.tell_connection(|state| state.closing = true);
    }
}

/// Why [`Client::connect`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It never began.
    #[error(transparent)]
    Options(#[from] BadOptions),
    /// The gateway does not want this device.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

fn offer(state: &mut State, pack: &[u8]) -> Result<Option<u64>, SendError> {
    if let Some(stopped) = &state.stopped {
        return Err(stopped.clone().into());
    }
    if !state.window.has_room() {
        return Ok(None);
    }
    let seq = Some(state.window.next_seq());
    let frame = fitting(state, DeviceMessage::Readings { seq, pack }.encode())?;
    let seq = state.window.push(frame);
    Ok(Some(seq))
}

fn offer_best_effort(state: &mut State, pack: &[u8]) -> Result<Option<()>, SendError> {
    if let Some(stopped) = &state.stopped {
        return Err(stopped.clone().into());
    }
    if !state.connected || state.best_effort.len() >= OUTBOX {
        return Ok(None);
    }
    let frame = fitting(state, DeviceMessage::Readings { seq: None, pack }.encode())?;
    state.best_effort.push_back(frame);
    Ok(Some(()))
}

fn fitting(state: &State, frame: Vec<u8>) -> Result<Bytes, SendError> {
    let max_frame = state.greeting.as_ref().map_or(u64::MAX, |greeting| greeting.welcome.max_frame);
    let max_frame = usize::try_from(max_frame).unwrap_or(usize::MAX);
    if frame.len() > max_frame {
        return Err(SendError::TooLarge { bytes: frame.len(), max_frame });
    }
    Ok(frame.into())
}

fn local_unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
