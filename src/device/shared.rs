//! What all connections share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::heads::Heads;
use super::refusal::Refusal;
use super::sessions::Sessions;
use super::turns::Turns;
use crate::config::registry::Registry;
use crate::config::{Auth, Devices, Proxies, ProxyHeader, Rate};
use crate::core::clock::Moment;
use crate::core::ids::{DeviceId, SessionId};
use crate::core::pace::{Pace, Paces};
use crate::core::policy::OwnLimits;
use crate::core::proxy::BadProxy;
use crate::core::quota::{Connections, Origin, TokenBucket, TooMany};
use crate::core::senml::Limits;
use crate::core::session::Rules;
use crate::host::revoked::Revoked;
use crate::metrics::{Metrics, Reason};
use crate::ports::{Budget, Clock, DeviceSender, Feed, Refused, RefusedKind, lock};

/// How far ahead of the gateway's clock a reading's time may lie, in seconds. Time relative to now
/// needs none; a device with a clock of its own may be a little fast.
const MAX_AHEAD: f64 = 86_400.0;
/// TLS handshakes at a time; each holds some 30 KiB.
const TLS_AT_A_TIME: usize = 256;
/// How long a TLS handshake may take while others wait for their turn. Without others it has all
/// of `devices.hello_timeout`.
const TLS_SHARE: Duration = Duration::from_secs(2);
/// Connections over a limit that get to hear so over TLS, per second: each costs a handshake, which
/// is what the limits are to save. Others are just dropped.
const TOLD_BY_TLS: f64 = 20.0;
/// Connections of one device that have not said HELLO.
const WAITING_PER_DEVICE: usize = 4;
/// Connections over a limit that get to hear so at a time; others are just dropped.
const REFUSED_AT_A_TIME: usize = 64;
/// Read buffer of a connection in bytes, which it always keeps. Bytes get there from one that all
/// share, so it need not be large; larger messages get their room when they come.
const READ_BUFFER: usize = 256;
/// What is written is collected up to this many bytes.
const WRITE_BUFFER: usize = 4096;
/// Fragments of a message, about: what they may cost on the wire beside the message itself.
const FRAGMENTS: usize = 1024;
/// The longest header of a fragment, in bytes.
const FRAGMENT_HEADER: usize = 14;
/// The code under which it is shown that a device is over its rate, as HTTP has it.
const SLOWED: u64 = 429;

/// What the listener needs of the rest of the program.
#[derive(Clone)]
pub struct Context {
    /// The gateway's id, for WELCOME.
    pub gateway: String,
    /// To the engine.
    pub events: DeviceSender,
    /// Memory for unsettled batches.
    pub budget: Arc<Budget>,
    /// Who may connect; a change is heeded at once, also for open connections.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// Where devices that come and go are shown.
    pub feed: Arc<dyn Feed>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// What a device has sent too much of in too short a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Batches,
    Bytes,
}

pub(crate) struct Shared {
    pub(crate) context: Context,
    pub(crate) rules: Rules,
    pub(crate) websocket: WebSocketConfig,
    pub(crate) auth: Auth,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) hello_timeout: Duration,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) tls_turns: Arc<Turns>,
    /// Client certificates that were withdrawn.
    pub(crate) revoked: watch::Receiver<Arc<Revoked>>,
    pub(crate) heads: Heads,
    pub(crate) proxies: Proxies,
    pub(crate) write_timeout: Duration,
    rate: Rate,
    started: Instant,
    connections: Mutex<Connections>,
    paces: Mutex<Paces>,
    told_by_tls: Mutex<TokenBucket>,
    proxy_warned: AtomicBool,
    emptied: Notify,
    refusing: AtomicUsize,
    next_session: AtomicU64,
    registry_changes: AtomicU64,
    stopping: AtomicBool,
    stop: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(
        settings: &Devices,
        context: Context,
        revoked: watch::Receiver<Arc<Revoked>>,
    ) -> Self {
        let max_connections = settings.max_connections;
        let websocket = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            // What the gateway sends is small or itself bounded by the largest message.
            .max_write_buffer_size(2 * WRITE_BUFFER + settings.max_frame)
            .max_message_size(Some(settings.max_frame))
            .max_frame_size(Some(settings.max_frame));
        Self {
            context,
            rules: Rules {
                window: u64::from(settings.window),
                max_frame: settings.max_frame,
                limits: Limits { max_records: settings.max_records, max_ahead: MAX_AHEAD },
                heartbeat_interval: settings.heartbeat_interval,
                heartbeat_timeout: settings.heartbeat_timeout,
            },
            websocket,
            auth: settings.auth,
            allowed_origins: settings.allowed_origins.clone(),
            hello_timeout: settings.hello_timeout,
            sessions: Mutex::default(),
            tls_turns: Arc::new(Turns::new(
                TLS_AT_A_TIME,
                TLS_SHARE.min(settings.hello_timeout / 2),
            )),
            revoked,
            heads: Heads::default(),
            proxies: settings.proxies.clone(),
            write_timeout: settings.write_timeout,
            rate: settings.rate,
            started: Instant::now(),
            connections: Mutex::new(Connections::new(
                max_connections,
                settings.max_connections_per_address,
            )),
            // A fleet that comes back after a power cut comes all at once.
            paces: Mutex::new(Paces::new(
                Pace {
                    rate: settings.max_handshakes_per_second.into(),
                    burst: max_connections as f64,
                },
                Pace {
                    rate: settings.max_handshakes_per_second_per_address.into(),
                    burst: settings.max_connections_per_address as f64,
                },
                Duration::ZERO,
            )),
            told_by_tls: Mutex::new(TokenBucket::new(TOLD_BY_TLS, TOLD_BY_TLS, Duration::ZERO)),
            proxy_warned: AtomicBool::new(false),
            emptied: Notify::new(),
            refusing: AtomicUsize::new(0),
            next_session: AtomicU64::new(1),
            registry_changes: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stop: watch::Sender::new(()),
        }
    }

    /// Monotonic time since the listener began.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment at which [`Self::now`] will be `time`.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// What [`Self::now`] will be at `instant`.
    pub(crate) fn moment(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.started)
    }

    /// The wall clock, in full.
    pub(crate) fn wall(&self) -> Moment {
        self.context.clock.moment()
    }

    pub(crate) fn unix(&self) -> f64 {
        self.context.clock.unix()
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.context.registry.borrow())
    }

    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// For the batches of one device.
    pub(crate) fn bucket(&self) -> TokenBucket {
        TokenBucket::new(self.rate.batches_per_second, self.rate.burst, self.now())
    }

    /// How many batches per second a device may send in the long run, and how many at once.
    pub(crate) fn rate_of(&self, own: &OwnLimits) -> Rate {
        Rate {
            batches_per_second: own.batches_per_second.unwrap_or(self.rate.batches_per_second),
            burst: own.burst.unwrap_or(self.rate.burst),
            ..self.rate
        }
    }

    /// Shows that a device is read more slowly than it sends.
    pub(crate) fn show_slowed(&self, device: &DeviceId, own: &OwnLimits, with: Excess) {
        let Rate { batches_per_second, burst, bytes_per_second, burst_bytes } = self.rate_of(own);
        let rate = match (with, own.batches_per_second.or(own.burst)) {
            (Excess::Batches, Some(_)) => {
                format!(
                    "{batches_per_second} batches a second with a burst of {burst} (rate in the registry)"
                )
            }
            (Excess::Batches, None) => {
                format!(
                    "{batches_per_second} batches a second with a burst of {burst} (devices.rate)"
                )
            }
            (Excess::Bytes, _) => {
                format!(
                    "{bytes_per_second} bytes a second with a burst of {burst_bytes} (devices.rate)"
                )
            }
        };
        let reason = format!("sends faster than {rate}: read more slowly, nothing is lost");
        let (kind, code, time) = (RefusedKind::Rate, SLOWED, self.unix());
        self.context.feed.refused(device, &Refused { kind, code, reason: &reason, time });
    }

    /// For its bytes.
    pub(crate) fn byte_bucket(&self) -> TokenBucket {
        let Rate { bytes_per_second, burst_bytes, .. } = self.rate;
        TokenBucket::new(bytes_per_second as f64, burst_bytes as f64, self.now())
    }

    /// Bytes that may arrive for one message.
    pub(crate) fn allowance(&self) -> usize {
        self.rules.max_frame + FRAGMENTS * FRAGMENT_HEADER + READ_BUFFER
    }

    /// Counts a connection that was refused before the upgrade.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.context.metrics.connections_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Shows on the dashboard that a connection of `device` was refused or ended.
    pub(crate) fn show_refused(&self, device: &DeviceId, code: u16, reason: &str) {
        let (kind, code) = (RefusedKind::Connection, u64::from(code));
        self.context.feed.refused(device, &Refused { kind, code, reason, time: self.unix() });
    }

    // ------------------------------------------------------------ round trips

    /// What a ping carries, so that its pong tells how long it took.
    pub(crate) fn ping(&self) -> Bytes {
        let micros = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        Bytes::copy_from_slice(&micros.to_be_bytes())
    }

    /// Seconds since the ping that a pong answers; `None` for a pong that answers none.
    pub(crate) fn since_ping(&self, pong: &[u8]) -> Option<f64> {
        let sent = Duration::from_micros(u64::from_be_bytes(pong.try_into().ok()?));
        let longest = self.rules.heartbeat_interval + self.rules.heartbeat_timeout;
        let taken = self.now().checked_sub(sent).filter(|taken| *taken <= longest)?;
        Some(taken.as_secs_f64())
    }

    // ------------------------------------------------------------ changes of the registry

    /// Grows with each change, so that a connection sees cheaply that it must look again.
    pub(crate) fn registry_changes(&self) -> u64 {
        self.registry_changes.load(Ordering::Acquire)
    }

    pub(crate) fn registry_changed(&self) {
        self.registry_changes.fetch_add(1, Ordering::Release);
    }

    // ------------------------------------------------------------ the end

    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.send_replace(());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until the gateway stops.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        if !self.is_stopping() {
            // The sender lives in here, so the error cannot happen.
            let _ = stop.changed().await;
        }
    }

    // ------------------------------------------------------------ room

    /// Counts one more connection from `address`; `None`: from behind a proxy, and
    /// [`Slot::place`] follows.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Slot, Refusal> {
        let origin = address.map(Origin::of);
        {
            let (mut connections, mut paces) = (lock(&self.connections), lock(&self.paces));
            match origin {
                None => connections.open_unplaced(),
                Some(origin) => connections.open(origin),
            }
            .map_err(too_many)?;
            let now = self.now();
            let pace = origin.map_or(Ok(()), |origin| paces.one_of(origin, now));
            if let Err(too_many) = pace.and_then(|()| paces.any(now)) {
                connections.close(origin);
                return Err(too_fast(too_many));
            }
        }
        self.context.metrics.device_connections.inc();
        Ok(Slot { shared: Arc::clone(self), kind: Kind::Admitted(origin) })
    }

    /// Whether another connection over a limit may cost a TLS handshake.
    pub(crate) fn may_tell_by_tls(&self) -> bool {
        let now = self.now();
        let mut bucket = lock(&self.told_by_tls);
        let may = bucket.available(now) > 0;
        if may {
            bucket.take(1, now);
        }
        may
    }

    /// Whether one more connection of `device` may be opened.
    ///
    /// # Errors
    /// When too many of it have not said HELLO.
    pub(crate) fn admit_device(&self, device: &DeviceId) -> Result<(), Refusal> {
        let waiting = lock(&self.sessions).waiting(device);
        if waiting < WAITING_PER_DEVICE { Ok(()) } else { Err(Refusal::TooManyOfDevice) }
    }

    /// What a proxy that cannot be understood is answered; the operator hears of the first.
    pub(crate) fn misled(&self, proxy: IpAddr, bad: BadProxy) -> Refusal {
        if !self.proxy_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %proxy,
                reason = %bad,
                "a proxy of devices.trusted_proxies does not tell where its clients are, and they \
                 are refused: set it up for devices.proxy_header, or take it out of the list"
            );
        }
        Refusal::Proxy(match self.proxies.header {
            ProxyHeader::ProxyProtocol => {
                "the PROXY header of version 2 that devices.proxy_header asks for is missing or \
                 cannot be used"
            }
            ProxyHeader::XForwardedFor => {
                "the X-Forwarded-For that devices.proxy_header asks for is missing or is not a \
                 list of IP addresses"
            }
        })
    }

    /// Counts one more connection that is over a limit and shall hear so; `None` if even that is
    /// too much.
    pub(crate) fn admit_to_refuse(self: &Arc<Self>) -> Option<Slot> {
        let slot = Slot { shared: Arc::clone(self), kind: Kind::ToRefuse };
        let before = self.refusing.fetch_add(1, Ordering::AcqRel);
        (before < REFUSED_AT_A_TIME).then_some(slot)
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.connections).total()
    }

    /// Waits until none is.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.connections() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

fn too_many(too_many: TooMany) -> Refusal {
    match too_many {
        TooMany::FromOrigin => Refusal::TooManyFromAddress,
        TooMany::Total => Refusal::Full,
    }
}

fn too_fast(too_many: TooMany) -> Refusal {
    match too_many {
        TooMany::FromOrigin => Refusal::TooFast,
        TooMany::Total => Refusal::Busy,
    }
}

/// A connection's place in the counts; dropped when the connection is closed.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    kind: Kind,
}

enum Kind {
    Admitted(Option<Origin>),
    ToRefuse,
}

impl Slot {
    /// Where a connection from behind a proxy comes from.
    ///
    /// # Errors
    /// When there are too many from there, or they come too fast.
    pub(crate) fn place(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let Kind::Admitted(place @ None) = &mut self.kind else { return Ok(()) };
        let origin = Origin::of(address);
        lock(&self.shared.connections).place(origin).map_err(too_many)?;
        *place = Some(origin);
        lock(&self.shared.paces).one_of(origin, self.shared.now()).map_err(too_fast)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match self.kind {
            Kind::Admitted(origin) => {
                let mut connections = lock(&self.shared.connections);
                connections.close(origin);
                self.shared.context.metrics.device_connections.dec();
                if connections.total() == 0 {
                    self.shared.emptied.notify_waiters();
                }
            }
            Kind::ToRefuse => {
                self.shared.refusing.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}
