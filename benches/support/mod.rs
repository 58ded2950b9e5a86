//! What the benches that run the release binary have in common.

pub mod broker;
pub mod gateway;
pub mod process;
pub mod subscriber;
