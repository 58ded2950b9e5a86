//! RFC 6455 over raw sockets: the real binary, and bytes written by hand. Needs nothing installed,
//! no broker either: what is said here is settled by the spool or needs no settling.
//!
//! `docs/conformance.md` has the table of sections and tests.

#[cfg(test)]
mod closing;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod wire;
