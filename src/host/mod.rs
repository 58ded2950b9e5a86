//! What the operating system provides: clock, log, service manager, signals, certificates,
//! sensors, and what the disk has to take.

pub mod authority;
pub mod clock;
pub mod connect;
mod entry;
mod journal;
pub mod logging;
pub mod machine;
pub mod notify;
pub mod proxied;
pub mod signals;
pub mod tail;
pub mod tls;
pub mod wear;
