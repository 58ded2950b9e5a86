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
mod gateway;
mod history;
mod http;
mod hub;
mod log;
mod openapi;
mod patient;
mod rates;
mod refusals;
mod registered;
mod render;
mod server;
mod slot;
mod status;
mod stream;
mod traffic;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

pub use self::commands::CLI_AGENT;
pub use self::feed::{Fleet, Limits};
pub use self::history::Keeper as HistoryKeeper;
use self::hub::Hub;
use crate::config::{self, Settings};
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
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Names by which browsers may call the dashboard, besides `localhost` and any IP address: the
    /// host's own. Requests for other names are refused, which stops DNS rebinding.
    pub allowed_hosts: Vec<String>,
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
    /// The system gave no thread or no event queue.
    #[error("the dashboard cannot start its thread: {0}")]
    Thread(io::Error),
}

/// A running dashboard. Dropping it stops the dashboard without waiting.
#[derive(Debug)]
pub struct DashboardHandle {
    local_addr: SocketAddr,
    tls: Option<TlsSlot>,
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
    let bind = |source| DashboardError::Bind { listen, source };
    let tls = settings.tls.as_ref().map(TlsSlot::load).transpose()?;
    let listener = TcpListener::bind(listen).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let local_addr = listener.local_addr().map_err(bind)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DashboardError::Thread)?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(bind)?
    };
    let (signal, stopping) = watch::channel(Duration::ZERO);
    let (end, ended) = oneshot::channel();
    let hub = Hub::new(context);
    let certificates = tls.clone();
    let proxies = Arc::new(settings.proxies.clone());
    std::thread::Builder::new()
        .name("dashboard".to_owned())
        .spawn(move || {
            let in_time =
                runtime.block_on(server::run(listener, certificates, proxies, hub, stopping));
            drop(runtime);
            // Nobody may be waiting.
            let _ = end.send(in_time);
        })
        .map_err(DashboardError::Thread)?;
    Ok(DashboardHandle { local_addr, tls, signal, ended })
}
