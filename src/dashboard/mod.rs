//! The dashboard: the page, the live feed, the HTTP API and the metrics.
//!
//! It runs in a thread of its own, on a runtime of its own, so that viewers take no time from
//! ingestion. All it shares with the rest are the [`Fleet`], which ingestion writes and it reads,
//! the [`Health`], the [`Metrics`] and the log's [`Tail`].
//!
//! What readings were is in `history`.
//!
//! ```text
//! ingest thread ──Feed──► Fleet ◄──collect, ten times a second── Hub ──► viewers
//!                                                                 ▲
//!                                            Health, Metrics ─────┘
//! ```

mod api;
mod assets;
mod behind;
mod commands;
mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gateway;
mod history;
mod http;
mod hub;
mod list;
mod log;
mod openapi;
mod origin;
mod patient;
mod people;
mod rates;
mod refusals;
mod registered;
mod render;
mod server;
mod sessions;
mod signin;
mod slot;
mod slowdown;
mod status;
mod stream;
mod traffic;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

pub use self::commands::CLI_AGENT;
pub use self::feed::{Fleet, Limits};
pub use self::history::Keeper as HistoryKeeper;
use self::hub::Hub;
pub use self::origin::Origins;
use self::people::People;
use crate::config::fault::Faults;
use crate::config::users::watch::UsersWatch;
use crate::config::{self, Settings};
use crate::host::audit::Audit;
use crate::host::tail::Tail;
use crate::host::tls::{TlsError, TlsSlot};
use crate::host::wear::Wear;
use crate::metrics::Metrics;
use crate::ports::{Budget, Clock, CommandAccess, Health};

/// What the dashboard shows, and what it needs for it.
#[derive(Clone)]
pub struct Context {
    /// The gateway's name.
    pub gateway: String,
    /// tidegate's version.
    pub version: String,
    /// The devices.
    pub fleet: Arc<Fleet>,
    /// The uplink and the spool.
    pub health: Arc<Health>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Asking for commands, and looking at them.
    pub commands: CommandAccess,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is written to storage.
    pub wear: Arc<Wear>,
    /// When the gateway started.
    pub started: Instant,
    /// Whether devices can connect; `/readyz` tells it on.
    pub listening: Arc<AtomicBool>,
    /// Memory for what is not settled.
    pub budget: Arc<Budget>,
    /// The last entries of the log.
    pub log: Arc<Tail>,
    /// Where sign-ins, commands and refusals are noted.
    pub audit: Arc<Audit>,
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The names by which browsers may call the dashboard, and the pages that may talk to it.
    pub origins: Arc<Origins>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

/// Why the dashboard could not start.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The address cannot be listened on.
    #[error(
        "the dashboard cannot listen on {listen} ({source}): stop what listens there, or choose \
         another address in dashboard.listen"
    )]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("dashboard.tls: {0}")]
    Tls(#[from] TlsError),
    /// The file of users is not valid.
    #[error("{0}")]
    Users(Faults),
    /// The system gave no thread or no event queue.
    #[error("the dashboard cannot start its thread: {0}")]
    Thread(io::Error),
}

/// A running dashboard. Dropping it stops the dashboard without waiting.
#[derive(Debug)]
pub struct DashboardHandle {
    local_addr: SocketAddr,
    tls: Option<TlsSlot>,
    users: Arc<Notify>,
    signal: watch::Sender<Duration>,
    ended: oneshot::Receiver<bool>,
}

impl DashboardHandle {
    /// Where it listens; tells the port where the setting says 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Reads the certificate's files again, for connections from now on. Open ones keep theirs.
    ///
    /// # Errors
    /// When a file cannot be read or used; then the certificate stays what it was.
    pub fn reload_certificates(&self) -> Result<(), DashboardError> {
        if let Some(tls) = &self.tls {
            tls.reload()?;
        }
        Ok(())
    }

    /// Reads the users again.
    pub fn reload_users(&self) {
        self.users.notify_one();
    }

    /// Stops: accepts nothing more, says goodbye to the viewers, finishes the answers under way.
    /// Returns whether all that was done within `deadline`; what was not is then cut off.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.signal.send_replace(deadline);
        drop(self.signal);
        // The thread keeps the deadline itself; this one only guards against a thread that hangs.
        let ended = tokio::time::timeout(deadline + Duration::from_secs(1), self.ended).await;
        matches!(ended, Ok(Ok(true)))
    }
}

/// Starts the dashboard. It listens when this returns.
///
/// # Errors
/// When the address cannot be bound, the certificate cannot be loaded, or there is no thread.
pub fn start(
    settings: &config::Dashboard,
    context: Context,
) -> Result<DashboardHandle, DashboardError> {
    let listen = settings.listen;
    let listener = TcpListener::bind(listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    start_on(listener.map_err(|source| DashboardError::Bind { listen, source })?, settings, context)
}

/// Starts the dashboard on a socket that listens already and does not block.
///
/// # Errors
/// As [`start`], but for the address.
pub fn start_on(
    listener: TcpListener,
    settings: &config::Dashboard,
    context: Context,
) -> Result<DashboardHandle, DashboardError> {
    let listen = settings.listen;
    let bind = |source| DashboardError::Bind { listen, source };
    let tls = settings.tls.as_ref().map(TlsSlot::load).transpose()?;
    let local_addr = listener.local_addr().map_err(bind)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DashboardError::Thread)?;
    let users = Arc::new(Notify::new());
    let (listener, watching) = {
        let _entered = runtime.enter();
        let watching = settings.users.as_ref().map(|path| UsersWatch::open(path, users.clone()));
        let watching = watching.transpose().map_err(DashboardError::Users)?;
        (tokio::net::TcpListener::from_std(listener).map_err(bind)?, watching)
    };
    let (watching, known) = watching.unzip();
    let people = People::new(settings, known, context.clock.clone(), context.audit.clone());
    let (signal, stopping) = watch::channel(Duration::ZERO);
    let (end, ended) = oneshot::channel();
    let health = context.health.clone();
    let hub = Hub::new(context);
    let certificates = tls.clone();
    let proxies = Arc::new(settings.proxies.clone());
    std::thread::Builder::new()
        .name("dashboard".to_owned())
        .spawn(move || {
            if let Some(watching) = watching {
                runtime.spawn(watching.run());
            }
            let rooms = (hub, Arc::new(people));
            let served =
                || runtime.block_on(server::run(listener, certificates, proxies, rooms, stopping));
            let in_time = catch_unwind(AssertUnwindSafe(served)).unwrap_or_else(|_| {
                health.fail("dashboard");
                false
            });
            drop(runtime);
            // Nobody may be waiting.
            let _ = end.send(in_time);
        })
        .map_err(DashboardError::Thread)?;
    Ok(DashboardHandle { local_addr, tls, users, signal, ended })
}
