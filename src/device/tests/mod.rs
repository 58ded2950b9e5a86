//! The listener on real sockets of the loopback interface, with the test in the engine's place.

mod autobahn;
mod commands;
mod flow;
mod framing;
mod harness;
mod lifecycle;
mod messages;
mod panics;
mod refusals;
mod secure;
mod shown;
