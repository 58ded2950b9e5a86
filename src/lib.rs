//! tidegate: an IoT telemetry gateway.

pub mod cli;
pub mod config;
pub mod core;
pub mod dashboard;
pub mod host;
pub mod metrics;
pub mod ports;
