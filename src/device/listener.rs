//! Where connections arrive: accepts them within the limits, heeds changes of the registry, and
//! stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::ending::restarting;
use super::handshake;
use super::sessions::permissions;
use super::shared::{Context, Shared};
use crate::config::Devices;
use crate::config::registry::Registry;
use crate::core::ids::DeviceId;
use crate::host::revoked::Revoked;
use crate::host::tls::{TlsError, TlsSlot};
use crate::ports::lock;

/// Connections that the kernel keeps until they are accepted: enough for a fleet that comes back.
const BACKLOG: u32 = 4096;
/// Pause after an error of accept that will not pass by trying at once (no file descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// A day, for "never".
const FAR: Duration = Duration::from_secs(86_400);

/// The device listener, bound and not yet serving.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    settings: Devices,
    tls: Option<TlsSlot>,
}

/// Why the listener cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("devices.listen: cannot listen on {address}: {error}")]
    Bind {
        /// The setting.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The certificate cannot be used.
    #[error("devices.tls: {0}")]
    Tls(#[from] TlsError),
    /// The listening socket has failed for good.
    #[error("the device listener failed: {0}")]
    Accept(io::Error),
}

impl Listener {
    /// Binds `devices.listen` and reads the certificates. Devices may connect from now on; they are
    /// answered once [`Self::serve`] runs. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound or a certificate cannot be used.
    pub fn bind(settings: &Devices) -> Result<Self, ListenError> {
        let address = settings.listen;
        let socket = listen(address).map_err(|error| ListenError::Bind { address, error })?;
        Self::on(socket, settings)
    }

    /// As [`Self::bind`], on a socket that listens already and does not block.
    ///
    /// # Errors
    /// When the socket or a certificate cannot be used.
    pub fn on_socket(
        socket: std::net::TcpListener,
        settings: &Devices,
    ) -> Result<Self, ListenError> {
        let address = settings.listen;
        let socket = TcpListener::from_std(socket);
        Self::on(socket.map_err(|error| ListenError::Bind { address, error })?, settings)
    }

    fn on(socket: TcpListener, settings: &Devices) -> Result<Self, ListenError> {
        let tls = settings.tls.as_ref().map(TlsSlot::load).transpose()?;
        Ok(Self { socket, settings: settings.clone(), tls })
    }

    /// Where it listens, with the port that the system chose if the setting was 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The certificate, to exchange it while running.
    #[must_use]
    pub fn tls(&self) -> Option<TlsSlot> {
        self.tls.clone()
    }

    /// Serves devices until `stop` is done. Then no connection is accepted any more, those in the
    /// handshake are answered 503, every session is closed with 1012, and after `grace` at the
    /// latest the call returns, naming in the log how many connections were left.
    ///
    /// # Errors
    /// When the listening socket fails for good. Passing errors are logged once and waited out.
    pub async fn serve(
        self,
        context: Context,
        stop: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), ListenError> {
        let registry = context.registry.clone();
        // Without TLS the sender is gone at once, and nothing changes.
        let revoked = match &self.tls {
            Some(tls) => tls.revoked(),
            None => watch::Sender::default().subscribe(),
        };
        let shared = Arc::new(Shared::new(&self.settings, context, revoked.clone()));
        let result = tokio::select! {
            () = stop => Ok(()),
            result = accept_all(&self.socket, self.tls.as_ref(), &shared) => result,
            () = heed_registry(registry, &shared) => Ok(()),
            () = heed_revocations(revoked, &shared) => Ok(()),
        };
        drop(self.socket);
        shared.begin_to_stop();
        lock(&shared.sessions).close_all(&restarting());
        if timeout(grace, shared.emptied()).await.is_err() {
            let left = shared.connections();
            tracing::warn!(left, "device connections did not close in time; they are cut");
        }
        result
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_all(
    listener: &TcpListener,
    tls: Option<&TlsSlot>,
    shared: &Arc<Shared>,
) -> Result<(), ListenError> {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("accepting device connections again");
                }
                accepted(stream, peer, tls, shared);
            }
            Err(error) => match severity(&error) {
                Severity::OfOneConnection => {}
                Severity::Passing => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            name: "accept-failing",
                            %error,
                            "cannot accept device connections; open ones go on. If it stays so, \
                             raise the limit of open files (LimitNOFILE) above \
                             devices.max_connections"
                        );
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Severity::Fatal => return Err(ListenError::Accept(error)),
            },
        }
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr, tls: Option<&TlsSlot>, shared: &Arc<Shared>) {
    // Without it an ACK waits for the one before to be acknowledged by TCP.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "gone before it was accepted");
        return;
    }
    let proxied = shared.proxies.list(peer.ip());
    let (slot, refusal) = match shared.admit((!proxied).then_some(peer.ip())) {
        Ok(slot) => (slot, None),
        Err(refusal) => {
            let slot = if tls.is_none() || shared.may_tell_by_tls() {
                shared.admit_to_refuse()
            } else {
                None
            };
            let Some(slot) = slot else { return shared.refused(refusal.label()) };
            (slot, Some(refusal))
        }
    };
    let acceptor = tls.map(TlsSlot::acceptor);
    let client = handshake::Client { peer, proxied, address: peer.ip(), slot };
    let arrival = handshake::Arrival { stream, client, refusal, acceptor };
    tokio::spawn(handshake::serve(arrival, Arc::clone(shared)));
}

#[derive(Debug, PartialEq, Eq)]
enum Severity {
    /// The connection that was to be accepted is gone; the next may be fine.
    OfOneConnection,
    /// Trying at once would fail again.
    Passing,
    /// The listening socket is of no use any more.
    Fatal,
}

fn severity(error: &io::Error) -> Severity {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::Interrupted
        | Kind::WouldBlock
        | Kind::TimedOut
        | Kind::NetworkDown
        | Kind::NetworkUnreachable
        | Kind::HostUnreachable => Severity::OfOneConnection,
        // EINVAL: not listening; EOPNOTSUPP: not a stream socket.
        Kind::InvalidInput | Kind::Unsupported => Severity::Fatal,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM and whatever else: the operator may put it right.
        _ => Severity::Passing,
    }
}

/// Ends sessions whose credentials do not hold any more, when the registry changes and when an
/// overlap of a rotation runs out. Never returns.
async fn heed_registry(mut registry: watch::Receiver<Arc<Registry>>, shared: &Arc<Shared>) {
    let mut sender_lives = true;
    let mut before = Arc::clone(&registry.borrow());
    loop {
        let current = Arc::clone(&registry.borrow_and_update());
        shared.registry_changed();
        {
            let sessions = lock(&shared.sessions);
            sessions.revoke(&current, shared.unix(), true);
            let limits = |registry: &Registry, device: &DeviceId| permissions(registry, device).own;
            sessions.nudge(|device| limits(&before, device) != limits(&current, device));
        }
        before = Arc::clone(&current);
        let mut expiry = next_expiry(&current, shared.unix());
        loop {
            tokio::select! {
                changed = registry.changed(), if sender_lives => {
                    sender_lives = changed.is_ok();
                    break;
                }
                () = sleep_until(expiry) => {
                    lock(&shared.sessions).revoke(&current, shared.unix(), false);
                    expiry = next_expiry(&current, shared.unix());
                }
            }
        }
    }
}

/// Ends sessions whose certificates are withdrawn when the list changes. Never returns.
async fn heed_revocations(mut revoked: watch::Receiver<Arc<Revoked>>, shared: &Arc<Shared>) {
    while revoked.changed().await.is_ok() {
        let current = Arc::clone(&revoked.borrow_and_update());
        lock(&shared.sessions).withdraw(&current);
    }
    std::future::pending::<()>().await;
}

/// When the next replaced token runs out, a little later rather than earlier. At most a day ahead,
/// at least a second, so that a wall clock that is set does no harm.
fn next_expiry(registry: &Registry, now: f64) -> Instant {
    let seconds = registry
        .iter()
        .filter_map(|(_, device)| device.previous_expires())
        .filter(|expires| *expires > now)
        .map(|expires| expires - now)
        .fold(FAR.as_secs_f64(), f64::min);
    let wait = Duration::try_from_secs_f64(seconds + 0.1).unwrap_or(FAR);
    Instant::now() + wait.clamp(Duration::from_millis(200), FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_accept_are_sorted() {
        let of = |errno| severity(&io::Error::from_raw_os_error(errno));
        // ECONNABORTED, EINTR; EMFILE, ENFILE, ENOMEM; EINVAL.
        for errno in [103, 4] {
            assert_eq!(of(errno), Severity::OfOneConnection, "{errno}");
        }
        for errno in [24, 23, 12] {
            assert_eq!(of(errno), Severity::Passing, "{errno}");
        }
        assert_eq!(of(22), Severity::Fatal);
    }
}
