//! tidegate: an IoT telemetry gateway. WebSocket devices in, MQTT out, nothing acknowledged ever
//! lost.
//!
//! ```text
//! device bytes → codec → session → policy → engine (delivery)
//!     live      → publish → PUBACK ─────────┐
//!     spooling  → sled insert + one fsync ──┤
//!     settle ◄──────────────────────────────┘
//!       ├→ ACK / REJECT to the device
//!       └→ feed → dashboards, pushes (never push back)
//!     draining  → load → publish → PUBACK → release
//! ```
//!
//! # What always holds
//!
//! 1. Every batch settles exactly once: published, spooled, or refused with a reason.
//! 2. No ACK before PUBACK or a completed fsync.
//! 3. A spool entry goes only after its PUBACK, or by a limit that is counted, logged and
//!    published.
//! 4. When the uplink drops, everything unsettled goes to the spool.
//! 5. Within a device, live never overtakes spooled (in-order drain).
//! 6. Every queue is bounded; full means reading less or a counted refusal, never growth.
//! 7. While the uplink keeps pace, no reading touches the disk.
//!
//! # Where to find what
//!
//! | module | what |
//! |---|---|
//! | [`core`] | pure decisions: frames, SenML, sessions, delivery; no I/O, no clock |
//! | [`ports`] | what the tasks say to each other |
//! | [`engine`] | the one task that owns [`core::delivery`] |
//! | [`device`] | listener, handshake, connections |
//! | [`uplink`] | the connection to the MQTT broker |
//! | [`spool`] | the buffer on disk |
//! | [`ledger`] | the commands on disk |
//! | `storage` | what both are built on: one database, damage, folders |
//! | [`dashboard`] | HTTP, live feed, page |
//! | [`push`] | readings as line protocol to time series stores |
//! | [`config`] | settings, the registry of devices |
//! | [`host`] | clock, log, service manager, signals, certificates, flash wear |
//! | [`metrics`] | every counter |
//! | [`app`] | wires all of it, and stops it in order |
//! | [`cli`] | the command line |
//! | [`client`] | the device side as a library: for devices in Rust, the simulator and the tests |
//!
//! Imports go one way, `main → cli → app →` the rooms `→ config, host, ports, metrics, storage →
//! core`; the rooms do not know each other.

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod dashboard;
pub mod device;
pub mod engine;
pub mod host;
pub mod ledger;
pub mod metrics;
pub mod ports;
pub mod push;
pub mod spool;
mod storage;
pub mod uplink;
