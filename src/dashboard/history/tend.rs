//! Keeps all histories together within their budget, and gives up what nobody can ask for any more.

use std::sync::Arc;

use compact_str::CompactString;

use super::memory::{Memory, Relief};
use super::tiers::KEPT;
use crate::core::clock::is_set;
use crate::dashboard::Fleet;
use crate::dashboard::slot::Slot;
use crate::ports::lock;

/// Between two looks at the budget, in seconds.
const LOOK_EVERY: f64 = 10.0;
/// Between two searches for what is old, in seconds.
const AGE_EVERY: f64 = 600.0;
/// A series without a reading for so long, in seconds, goes before others are cut.
const SILENT: f64 = 3600.0;

/// When what was looked at last. Times are seconds since the gateway started.
#[derive(Debug, Default)]
pub(in crate::dashboard) struct Tending {
    looked: f64,
    aged: f64,
}

/// One series among all.
struct Found {
    slot: Arc<Slot>,
    name: CompactString,
    bytes: usize,
    /// Unix time of its newest reading.
    newest: f64,
}

impl Tending {
    /// To be called each second or so, with the time since the start and the Unix time.
    pub(in crate::dashboard) fn tend(&mut self, fleet: &Fleet, time: f64, unix: f64) {
        if time - self.looked >= LOOK_EVERY {
            self.looked = time;
            relieve(fleet, unix);
        }
        if time - self.aged >= AGE_EVERY {
            self.aged = time;
            forget_old(fleet, unix);
        }
    }
}

/// Makes room where there is little.
fn relieve(fleet: &Fleet, unix: f64) {
    let memory = fleet.memory();
    let Relief::Free(mut wanted) = memory.relief() else { return };
    let mut all = series(fleet);
    all.sort_by(|a, b| a.newest.total_cmp(&b.newest));
    let silent = all.partition_point(|found| found.newest < unix - SILENT);
    let mut gone = 0;
    for found in all.iter().take(silent) {
        if wanted == 0 {
            break;
        }
        found.forget();
        wanted = wanted.saturating_sub(found.bytes);
        gone += 1;
    }
    all.drain(..gone);
    if wanted > 0 {
        cut(memory, &all, wanted);
    }
    let used = memory.used();
    tracing::debug!(silent_series_given_up = gone, bytes = used, "made room in the history");
}

fn cut(memory: &Memory, all: &[Found], wanted: usize) {
    let mut sizes: Vec<_> = all.iter().map(|found| found.bytes).collect();
    let cap = memory.lower_cap(&mut sizes, wanted);
    for found in all.iter().filter(|found| found.bytes > cap) {
        let mut state = lock(&found.slot.state);
        if let Some(latest) = state.latest_mut(&found.name) {
            latest.history.trim();
        }
    }
}

/// Gives up series of which all is older than what is kept. Not while the clock has not been set.
fn forget_old(fleet: &Fleet, unix: f64) {
    if is_set(unix) && fleet.memory().series() > 0 {
        for found in series(fleet).iter().filter(|found| found.newest < unix - KEPT) {
            found.forget();
        }
    }
}

/// All series. Each slot is locked for as long as it takes to read a few numbers of each name.
fn series(fleet: &Fleet) -> Vec<Found> {
    let mut all = Vec::new();
    for slot in fleet.slots() {
        for latest in &lock(&slot.state).readings {
            if let Some((bytes, newest)) = latest.history.size() {
                let slot = Arc::clone(&slot);
                all.push(Found { slot, name: latest.name.clone(), bytes, newest });
            }
        }
    }
    all
}

impl Found {
    fn forget(&self) {
        let mut state = lock(&self.slot.state);
        if let Some(latest) = state.latest_mut(&self.name) {
            latest.history.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Reason;
    use super::super::series::Kind;
    use super::*;
    use crate::core::batch::{Batch, Reading, Value};
    use crate::core::clock::Base;
    use crate::core::ids::DeviceId;
    use crate::ports::{DeviceFacts, Feed};

    const START: f64 = 1_800_000_000.0;

    fn send(fleet: &Fleet, device: &str, names: &[&str], time: f64) {
        let device = DeviceId::new(device).unwrap();
        if fleet.slot(device.as_str()).is_none() {
            fleet.device_up(&device, &DeviceFacts::default());
        }
        let reading = |name: &&str| Reading {
            name: (*name).into(),
            unit: None,
            value: Some(Value::Number(time)),
            sum: None,
            time,
            update_time: None,
            relative: false,
        };
        fleet.readings(&Arc::new(Batch {
            device,
            epoch: 1,
            seq: None,
            received: time,
            base: Base::default(),
            shift: 0.0,
            readings: names.iter().map(reading).collect(),
        }));
    }

    fn names_with_history(fleet: &Fleet) -> Vec<String> {
        series(fleet).iter().map(|found| format!("{}/{}", found.slot.id, found.name)).collect()
    }

    #[test]
    fn the_longest_silent_go_first_and_only_as_far_as_needed() {
        let fleet = Fleet::new().with_history(64 * 1024);
        for (device, since) in [("a", 0.0), ("b", 10.0), ("c", 20.0)] {
            for second in 0..400 {
                send(&fleet, device, &["x"], START + since + f64::from(second));
            }
        }
        let later = START + 4000.0;
        for second in 0..400 {
            send(&fleet, "d", &["x", "y"], later + f64::from(second));
        }
        assert!(fleet.memory().used() > 60 * 1024, "{}", fleet.memory().used());
        relieve(&fleet, later + 400.0);
        assert_eq!(names_with_history(&fleet), ["b/x", "c/x", "d/x", "d/y"]);
    }

    #[test]
    fn live_series_that_exceed_the_budget_share_it_and_none_is_given_up() {
        let fleet = Fleet::new().with_history(256 * 1024);
        let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for second in 0..6000 {
            let time = START + f64::from(second);
            send(&fleet, "a", &names, time);
            assert!(fleet.memory().used() <= 256 * 1024);
            if second % 10 == 9 {
                relieve(&fleet, time);
                assert_eq!(fleet.memory().series(), 20);
            }
        }
        let sizes: Vec<_> = series(&fleet).iter().map(|found| found.bytes).collect();
        assert!(sizes.iter().all(|size| *size > 7 * 1024), "{sizes:?}");
        assert_eq!(fleet.memory().refused(Reason::Memory as usize), 0);
        // The wide tiers have it all.
        let slot = fleet.slot("a").unwrap();
        let mut state = lock(&slot.state);
        let latest = state.latest_mut("n7").unwrap();
        let Kind::Numbers(tiers) = &latest.history.kept().unwrap().kind else { panic!("numbers") };
        let count: u32 = tiers.view(3, 0, u32::MAX).iter().map(|bucket| bucket.count).sum();
        assert_eq!(count, 6000);
    }

    #[test]
    fn what_is_older_than_a_day_goes_and_not_by_a_clock_that_was_never_set() {
        let fleet = Fleet::new();
        send(&fleet, "a", &["x"], START);
        send(&fleet, "b", &["x"], START + 10.0);
        forget_old(&fleet, START + KEPT + 5.0);
        assert_eq!(names_with_history(&fleet), ["b/x"]);
        let fleet = Fleet::new();
        send(&fleet, "a", &["x"], 5.0);
        forget_old(&fleet, 5.0 + 2.0 * KEPT);
        assert_eq!(names_with_history(&fleet), ["a/x"]);
    }

    #[test]
    fn a_device_that_is_forgotten_takes_its_history_along() {
        let limits = crate::dashboard::Limits { devices: 1, ..Default::default() };
        let fleet = Fleet::with_limits(limits);
        send(&fleet, "a", &["x"], START);
        assert_eq!(fleet.memory().series(), 1);
        fleet.device_down(&DeviceId::new("a").unwrap(), START + 1.0);
        fleet.device_up(&DeviceId::new("b").unwrap(), &DeviceFacts::default());
        assert_eq!((fleet.memory().series(), fleet.memory().used()), (0, 0));
    }
}
