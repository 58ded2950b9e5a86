//! The dashboard over real sockets: every route, the feed, and what it refuses.

// What goes wrong in a helper fails the test that called it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod commands;
mod feed;
mod gateway;
mod history;
mod log;
mod openapi;
mod panics;
mod people;
mod proxies;
mod refusals;
mod support;
mod tls;
