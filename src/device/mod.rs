//! The device side of the gateway: `GET /v1/devices/{device}` on the device listener, upgraded to a
//! WebSocket that speaks `tidegate.v1`.
//!
//! ```text
//! listener ──accept, limits──► handshake ──TLS, HTTP, credentials──► connection ──HELLO, WELCOME──►
//!                              (a passing task)                      (one small task per device)
//!                                                                               ◄──► engine
//! ```
//!
//! Everything up to WELCOME shares one deadline, `devices.hello_timeout`. The handshake's memory is
//! gone when the connection's task begins. That one drives
//! [`core::session`](crate::core::session): it reads what is ready, hands it on as one event, and
//! writes what its [`Link`](crate::ports::Link) says.
//!
//! What bounds memory: connections in all, by address and, before HELLO, by device; 8 KiB of request
//! head and a common room for all heads; TLS handshakes at a time, of which none that stalls keeps
//! another out; `max_frame` per message and a multiple of it on the wire; `window` and the common
//! [`Budget`](crate::ports::Budget) for batches; a few unsent REJECTs, beyond which a device that
//! does not read is not read from either. All limits are listed in `docs/limits.md`.

mod connection;
mod ending;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod greeting;
mod handshake;
mod heads;
mod listener;
mod mailbox;
mod presence;
mod refusal;
mod request;
mod sessions;
mod shared;
mod socket;
mod submission;
#[cfg(test)]
mod tests;
mod tls;
mod turned_away;
mod turns;
mod websocket;

pub use listener::{ListenError, Listener};
pub use shared::Context;
