//! tidegate: an IoT telemetry gateway.

pub mod core;
pub mod cli;
pub mod config;
pub mod metrics;
pub mod ports;
