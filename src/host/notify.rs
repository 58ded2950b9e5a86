//! Tells the service manager (systemd's notification protocol) how the process is doing. Without
//! one, nothing happens. A message that cannot be sent is no reason to stop working.

use std::time::Duration;

use sd_notify::NotifyState;

/// Start-up, or a reload, is done: `READY=1` with a line for `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins: `RELOADING=1`. [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Type=notify-reload wants the time beside it, Type=notify does not mind.
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The process is about to end: `STOPPING=1`.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// A line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// How often [`alive`] has to be called; `None` when nobody watches. This is half of what the unit
/// says in `WatchdogSec=`, so that one late call does not end the process.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

/// The process works: `WATCHDOG=1`.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
