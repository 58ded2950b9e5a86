//! Accepts connections and serves each in a task of its own.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::behind;
use super::http;
use super::hub::Hub;
use super::patient::Patient;
use super::people::People;
use super::stream::MAX_VIEWERS;
use crate::config::Proxies;
use crate::host::tls::TlsSlot;

/// Connections at a time that are not upgraded (viewers have [`MAX_VIEWERS`] besides).
const MAX_CONNECTIONS: usize = MAX_VIEWERS + 256;

/// How long a TLS handshake may take, and a request's headers, waiting for them included.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);

/// How long a peer may read nothing of an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// Most bytes of a request's headers.
const HEADER_MAX: usize = 16 * 1024;

/// How long to rest when the system has no more file descriptors or memory for a connection.
const REST: Duration = Duration::from_millis(100);

/// Tells a task that the dashboard stops, and the dashboard that the task still runs.
#[derive(Debug, Clone)]
pub(super) struct Stopping {
    signal: watch::Receiver<Duration>,
    _alive: mpsc::Sender<()>,
}

impl Stopping {
    /// Stops when the sender is dropped; nobody waits for its tasks.
    #[cfg(any(test, fuzzing))]
    pub(super) fn alone() -> (watch::Sender<Duration>, Self) {
        let (sender, signal) = watch::channel(Duration::ZERO);
        (sender, Self { signal, _alive: mpsc::channel(1).0 })
    }

    /// Waits until the dashboard stops: its handle has dropped the other end. Cancel safe.
    pub(super) async fn wait(&mut self) {
        while self.signal.changed().await.is_ok() {}
    }
}

/// Serves until `signal`'s sender is dropped, and then until every connection has ended or the
/// time that `signal` last said is over. Returns whether they had all ended.
pub(super) async fn run(
    listener: TcpListener,
    tls: Option<TlsSlot>,
    proxies: Arc<Proxies>,
    (hub, people): (Arc<Hub>, Arc<People>),
    signal: watch::Receiver<Duration>,
) -> bool {
    let (alive, mut all_gone) = mpsc::channel(1);
    let stopping = Stopping { signal, _alive: alive };
    let router =
        http::router(Arc::clone(&hub), Arc::clone(&people)).layer(Extension(stopping.clone()));
    let mut stop = stopping.clone();
    tokio::select! {
        () = accept(&listener, tls.as_ref(), &proxies, &router, &stopping) => {}
        () = unbroken("the viewers' news", || hub.run()) => {}
        () = unbroken("the buffer's forecast", || hub.watch_flow()) => {}
        () = unbroken("the sessions' ends", || people.run()) => {}
        () = stop.wait() => {}
    }
    let deadline = *stopping.signal.borrow();
    drop((listener, router, stopping, stop));
    // What is still there then is cut off with the runtime.
    timeout(deadline, all_gone.recv()).await.is_ok()
}

/// What panics begins anew: a fault in what is shown must not end what is collected.
async fn unbroken<F: Future<Output = ()>>(what: &str, work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        tracing::error!("{what} stopped by a panic and begins again");
        sleep(REST).await;
    }
}

async fn accept(
    listener: &TcpListener,
    tls: Option<&TlsSlot>,
    proxies: &Arc<Proxies>,
    router: &Router,
    stopping: &Stopping,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_one_connections_fault(&error) {
                    tracing::warn!(%error, "the dashboard cannot accept connections just now");
                    sleep(REST).await;
                }
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if tls.is_none() {
                // One attempt: whoever floods the listener is not waited for.
                let _ = stream.try_write(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
                      Content-Length: 31\r\nRetry-After: 5\r\nConnection: close\r\n\r\n\
                      {\"error\":\"too many connections\"}",
                );
            }
            continue;
        };
        let (tls, router, stopping) =
            (tls.map(TlsSlot::acceptor), router.clone(), stopping.clone());
        let proxies = Arc::clone(proxies);
        tokio::spawn(async move {
            let mut stream = stream;
            let introduced = behind::introduced(&mut stream, peer, &proxies);
            if let Ok(Some(peer)) = timeout(HEADER_DEADLINE, introduced).await {
                let router = router.layer(Extension(peer));
                connection(stream, tls, router, stopping).await;
            }
            drop(place);
        });
    }
}

fn is_one_connections_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut stopping: Stopping,
) {
    // Without it a small answer may wait for the peer's delayed ACK; with an error it only does.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return http(stream, router, stopping).await };
    tokio::select! {
        accepted = timeout(HEADER_DEADLINE, tls.accept(stream)) => match accepted {
            Ok(Ok(stream)) => http(stream, router, stopping).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with the dashboard failed"),
            Err(_) => tracing::debug!("a TLS handshake with the dashboard took too long"),
        },
        () = stopping.wait() => {}
    }
}

/// Serves one connection to its end.
pub(super) async fn http<S>(stream: S, router: Router, mut stopping: Stopping)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Patient::new(stream, WRITE_DEADLINE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_MAX)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection to the dashboard ended badly");
    }
}
