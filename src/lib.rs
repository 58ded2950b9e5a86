//! tidegate: an IoT telemetry gateway.

pub mod app;
pub mod cli;
pub mod config;
pub mod core;
pub mod host;
pub mod metrics;
pub mod ports;
