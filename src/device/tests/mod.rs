//! The listener on real sockets of the loopback interface, with the test in the engine's place.

mod autobahn;
mod commands;
mod flow;
mod framing;
mod harness;
mod lifecycle;
mod limits;
mod messages;
mod panics;
mod proxies;
mod refusals;
mod secure;
mod shown;
