//! What the operating system provides: clock, log, service manager, signals, certificates,
//! sensors, and what the disk has to take.

pub mod audit;
pub mod authority;
pub mod clock;
pub mod connect;
mod entry;
mod events;
mod journal;
mod limit;
pub mod logging;
pub mod machine;
pub mod notify;
pub mod panics;
pub mod proxied;
pub mod revoked;
pub mod signals;
pub mod sockets;
pub mod tail;
pub mod tls;
pub mod wear;

use rustix::fs::Mode;

/// From here on nobody but this user may read what the process makes: readings, commands and the
/// audit are for those who may see the dashboard. Whoever else should read a file is let in on purpose.
pub fn only_for_us() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}
