//! What the operating system provides: clock, log, service manager, signals, certificates,
//! and what the disk has to take.

pub mod authority;
pub mod clock;
mod journal;
pub mod logging;
pub mod notify;
pub mod signals;
pub mod tls;
pub mod wear;
