//! The bytes between devices and the gateway: golden frames, RFC 8428's own examples, the rules of
//! SenML, permissions, and hostile input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests: what is unexpected fails them"
)]

mod frames;
mod golden;
mod hostile;
mod permissions;
mod rfc8428;
mod rules;
mod support;
