//! The dashboard's HTTP without a socket, for the fuzz target in `fuzz/` and an ordinary test. Not
//! part of the program: it is there under `cfg(test)` and `cfg(fuzzing)` only.
#![allow(clippy::panic, clippy::expect_used, reason = "these are tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::commands::Peer;
use super::hub::Hub;
use super::people::People;
use super::server::{self, Stopping};
use super::{Context, http};

/// Bytes under way in one direction.
const ROOM: usize = 1 << 20;
/// Turns without a byte after which an answer is taken to be complete.
const QUIET: usize = 32;

/// A dashboard that is asked in memory.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    router: Router,
}

impl Server {
    /// Shows `context`.
    ///
    /// # Panics
    /// When there is no runtime.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let peer = Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)));
        let settings = context.settings.borrow().dashboard.clone();
        let people = People::new(&settings, None, context.clock.clone(), context.audit.clone());
        let router = http::router(Hub::new(context), Arc::new(people));
        Self { runtime, router: router.layer(Extension(peer)) }
    }

    /// What a client gets that sends `request` and goes when nothing more comes.
    ///
    /// # Panics
    /// When the dashboard panics, or does not let go of the connection when it stops.
    #[must_use]
    pub fn answer(&self, request: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let (mut client, stream) = duplex(ROOM);
            let (signal, stopping) = Stopping::alone();
            let router = self.router.clone().layer(Extension(stopping.clone()));
            let served = tokio::spawn(server::http(stream, router, stopping));
            let mut answer = Vec::with_capacity(4096);
            let mut quiet = 0;
            // A refusal may come before all of it is read.
            let mut over = client.write_all(request).await.is_err();
            while quiet < QUIET && !over {
                let before = answer.len();
                tokio::select! {
                    biased;
                    read = client.read_buf(&mut answer) => over = matches!(read, Ok(0) | Err(_)),
                    () = yield_now() => {}
                }
                quiet = if answer.len() == before { quiet + 1 } else { 0 };
            }
            drop(client);
            // A feed notices that its client is gone when it writes, and no ticks are made here. Seen
            // with bytes behind GET /api/v1/events, which keep hyper from reading on.
            drop(signal);
            let ended = timeout(Duration::from_secs(60), served).await;
            ended.expect("the connection ends with the client").expect("no panic");
            answer
        })
    }
}
