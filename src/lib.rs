//! tidegate: an IoT telemetry gateway.

pub mod cli;
pub mod config;
pub mod core;
pub mod metrics;
pub mod ports;
pub mod spool;
