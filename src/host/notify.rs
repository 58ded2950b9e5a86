//! Tells the service manager (systemd's notification protocol) how the process is doing. Without
//! one, nothing happens. A message that cannot be sent is no reason to stop working.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::machine::Process;

/// How often more time is asked for, and how much at a time.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(30);
/// For how long at most: something that works for ever does not get on.
const EXTEND_AT_MOST: Duration = Duration::from_secs(600);
/// Processor seconds from one time to the next that are taken for work.
const WORK: f64 = 0.001;

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

/// The process is about to end, which may take this long: `STOPPING=1`.
pub fn stopping(status: &str, within: Duration) {
    send(&[NotifyState::Stopping, NotifyState::Status(status), extend_by(within)]);
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

/// Whether a service manager wants to be told anything.
#[must_use]
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Asks the service manager for more time to start (`EXTEND_TIMEOUT_USEC=`) until it is dropped, as long
/// as the process works: it uses the processor, which waiting for a disk that hangs does not.
#[derive(Debug)]
pub struct MoreTime {
    end: Option<(Sender<()>, JoinHandle<()>)>,
}

impl MoreTime {
    /// From now on. Where there is no service manager, nothing is done.
    #[must_use]
    pub fn to_start() -> Self {
        if !is_wanted() {
            return Self { end: None };
        }
        Self::asking(EXTEND_EVERY, Process::cpu_seconds, || send(&[extend_by(EXTEND_BY)]))
    }

    fn asking(
        every: Duration,
        work: impl Fn() -> f64 + Send + 'static,
        ask: impl Fn() + Send + 'static,
    ) -> Self {
        let (end, ended) = channel::<()>();
        let asking = move || {
            let (began, mut worked) = (Instant::now(), f64::NEG_INFINITY);
            while began.elapsed() < EXTEND_AT_MOST {
                let now = work();
                if now - std::mem::replace(&mut worked, now) >= WORK {
                    ask();
                }
                if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        // Without a thread the time that the unit allows has to do.
        let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(asking);
        Self { end: thread.ok().map(|thread| (end, thread)) }
    }
}

impl Drop for MoreTime {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.end.take() {
            drop(end);
            // An error would be a panic, which is in the log.
            let _ = thread.join();
        }
    }
}

fn extend_by(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// How often more time is asked for while `work` says how much was done.
    fn asked(until: u64, work: impl Fn(u64) -> f64 + Send + 'static) -> u64 {
        let (looks, asks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (look, ask) = (looks.clone(), asks.clone());
        let more = MoreTime::asking(
            Duration::from_millis(1),
            move || work(look.fetch_add(1, Ordering::Relaxed)),
            move || _ = ask.fetch_add(1, Ordering::Relaxed),
        );
        let limit = Instant::now() + Duration::from_secs(30);
        while looks.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < limit);
            std::thread::yield_now();
        }
        drop(more);
        asks.load(Ordering::Relaxed)
    }

    #[test]
    fn who_works_gets_more_time_and_who_hangs_does_not() {
        assert!(asked(20, |look| look as f64) >= 19);
        assert_eq!(asked(20, |_| 5.0), 1, "once at the start");
        assert_eq!(asked(20, |look| if look < 10 { look as f64 } else { 9.0 }), 10);
    }
}
