//! What the service manager is told while the gateway runs: that every part of it gets on, and a line
//! about how it is doing.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::engine::Pulse;
use crate::host::notify;
use crate::metrics::Metrics;
use crate::ports::{Clock, Health, SpoolHealth, UplinkState};

/// How often the line is looked at. It is sent when it has changed.
const REFRESH: Duration = Duration::from_secs(2);
/// Bytes of the broker's reason in the line at most.
const REASON: usize = 120;

/// See the module. Without a service manager it does nothing, and never wakes the task.
pub(super) struct Manager {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    pulse: Arc<Pulse>,
    watchdog: Option<Interval>,
    refresh: Option<Interval>,
    last_pulse: u64,
    stuck: Vec<&'static str>,
    told: String,
}

/// What is due.
enum Due {
    Watchdog,
    Refresh,
}

impl Manager {
    /// Tells that the gateway has started. Within a tokio runtime.
    pub(super) fn ready(
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let mut manager = Self::new(health, metrics, clock, pulse);
        manager.reloaded();
        manager
    }

    fn new(
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let every = |time| {
            // Not at once: the engine has not turned yet.
            let mut interval = interval_at(tokio::time::Instant::now() + time, time);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            health,
            metrics,
            clock,
            pulse,
            watchdog: notify::watchdog().map(every),
            refresh: notify::is_wanted().then(|| every(REFRESH)),
            last_pulse: 0,
            stuck: Vec::new(),
            told: String::new(),
        }
    }

    /// Waits until something is due, and does it. Cancel safe.
    pub(super) async fn work(&mut self) {
        let due = tokio::select! {
            () = tick(&mut self.watchdog) => Due::Watchdog,
            () = tick(&mut self.refresh) => Due::Refresh,
        };
        match due {
            Due::Watchdog => {
                if self.gets_on(Instant::now()) {
                    notify::alive();
                }
            }
            Due::Refresh => {
                let line = self.line();
                if line != self.told {
                    notify::status(&line);
                    self.told = line;
                }
            }
        }
    }

    /// Tells that a reload is done.
    pub(super) fn reloaded(&mut self) {
        self.told = self.line();
        notify::ready(&self.told);
    }

    /// Whether every part has got on since the last call. Those that have not are named in the log.
    fn gets_on(&mut self, now: Instant) -> bool {
        // The engine looks at the time twice a second, whatever happens.
        let pulse = self.pulse.beats();
        let beats = std::mem::replace(&mut self.last_pulse, pulse) != pulse;
        let stuck: Vec<_> = (!beats)
            .then_some("engine")
            .into_iter()
            .chain(self.health.parts().overdue(now))
            .collect();
        for part in &stuck {
            if !self.stuck.contains(part) {
                tracing::error!(
                    name: "part-stuck",
                    part,
                    "a part of the gateway does not get on; unless it does, the service manager \
                     ends the gateway and starts it again. Nothing that was acknowledged is lost"
                );
            }
        }
        for part in self.stuck.iter().filter(|part| !stuck.contains(part)) {
            tracing::warn!(part, "a part of the gateway that had not got on does so again");
        }
        self.stuck = stuck;
        self.stuck.is_empty()
    }

    /// One line: devices, broker, buffer.
    fn line(&self) -> String {
        let devices = self.metrics.devices_connected.get();
        let mut line = format!("{devices} device{}; broker ", if devices == 1 { "" } else { "s" });
        let uplink = self.health.uplink();
        line += match uplink.state {
            UplinkState::Connected => "connected",
            UplinkState::Connecting => "connecting",
            UplinkState::Disconnected => "away",
        };
        let connected = uplink.state == UplinkState::Connected;
        if let Some(reason) = uplink.last_error.filter(|_| !connected) {
            line += " (";
            // A line is a line.
            line.extend(reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON));
            line.push(')');
        }
        line += "; buffer ";
        write_spool(&mut line, &self.health.spool(), self.clock.unix());
        line
    }
}

fn write_spool(line: &mut String, spool: &SpoolHealth, now: f64) {
    if spool.fault.is_some() {
        *line += "cannot be written, ";
    } else if spool.full {
        *line += "full, devices held back, ";
    }
    if spool.batches == 0 {
        *line += "empty";
        return;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    // Writing to a string cannot fail.
    let _ = write!(
        line,
        "{} readings ({:.1} of {:.0} MiB)",
        spool.readings,
        mib(spool.bytes),
        mib(spool.max_bytes)
    );
    if let Some(oldest) = spool.oldest {
        let minutes = ((now - oldest).max(0.0) / 60.0).floor();
        // In steps, so that it does not change all the time.
        let _ = match minutes {
            ..1.0 => Ok(()),
            ..60.0 => write!(line, ", the oldest {minutes} min old"),
            _ => write!(line, ", the oldest {} h old", (minutes / 60.0).floor()),
        };
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock::SystemClock;

    fn manager() -> Manager {
        let clock = Arc::new(SystemClock::new());
        Manager::new(Arc::default(), Arc::new(Metrics::new()), clock, Arc::default())
    }

    #[test]
    fn one_line_says_how_devices_broker_and_buffer_are() {
        let manager = manager();
        assert_eq!(manager.line(), "0 devices; broker connecting; buffer empty");
        manager.metrics.devices_connected.set(1);
        manager.health.set_uplink(|uplink| {
            uplink.state = UplinkState::Disconnected;
            uplink.last_error = Some("refused\nby the peer".into());
        });
        let oldest = manager.clock.unix() - 7230.0;
        manager.health.set_spool(|spool| {
            (spool.batches, spool.readings) = (3, 40);
            (spool.bytes, spool.max_bytes) = (3 << 19, 512 << 20);
            spool.oldest = Some(oldest);
        });
        assert_eq!(
            manager.line(),
            "1 device; broker away (refused by the peer); buffer 40 readings (1.5 of 512 MiB), the \
             oldest 2 h old"
        );
        manager.health.set_uplink(|uplink| uplink.state = UplinkState::Connected);
        manager.health.set_spool(|spool| {
            spool.fault = Some("disk full".into());
            spool.batches = 0;
        });
        assert_eq!(manager.line(), "1 device; broker connected; buffer cannot be written, empty");
    }

    #[test]
    fn an_engine_or_a_part_that_hangs_ends_the_feeding() {
        let mut manager = manager();
        let now = Instant::now();
        assert!(!manager.gets_on(now), "the engine has not turned yet");
        manager.pulse.beat();
        assert!(manager.gets_on(now));
        assert!(!manager.gets_on(now), "it has not turned since");
        for part in [
            |health: &Health| health.parts().spool.within(Duration::ZERO),
            |health: &Health| health.parts().uplink.within(Duration::ZERO),
            |health: &Health| health.parts().ledger.within(Duration::ZERO),
        ] {
            part(&manager.health);
            manager.pulse.beat();
            assert!(!manager.gets_on(now + Duration::from_secs(1)));
            assert_eq!(manager.stuck.len(), 1);
            let parts = manager.health.parts();
            for progress in [&parts.spool, &parts.uplink, &parts.ledger] {
                progress.rest();
            }
            manager.pulse.beat();
            assert!(manager.gets_on(now + Duration::from_secs(1)));
        }
    }
}
