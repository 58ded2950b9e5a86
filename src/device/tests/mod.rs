//! The listener on real sockets of the loopback interface, with the test in the engine's place.

mod commands;
mod flow;
mod harness;
mod lifecycle;
mod limits;
mod messages;
mod proxies;
mod refusals;
mod secure;
mod shown;
