//! The pure part: decides what happens and leaves the doing to the shell.
//!
//! Nothing in here knows tokio, files, sockets, the clock or the log. Time and randomness are
//! arguments, actions are return values, so a test can run a million steps in a second.

pub mod backoff;
pub mod batch;
mod cbor;
pub mod clock;
pub mod command;
pub mod delivery;
pub mod discovery;
pub mod forecast;
pub mod frame;
pub mod ids;
pub mod line;
pub mod losses;
pub mod pace;
pub mod payload;
pub mod policy;
pub mod proxy;
pub mod quota;
pub mod senml;
pub mod session;

/// How many random worlds a test goes through that would like to see so `many`: a twentieth where it
/// was built to be run under emulation (`cross/build --tests`).
#[cfg(test)]
const fn worlds(many: u64) -> u64 {
    if option_env!("TIDEGATE_EMULATED").is_some() { many.div_ceil(20) } else { many }
}
