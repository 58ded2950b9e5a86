//! The one device of the demo that is real: this machine's own sensors.

use std::path::Path;

use sysinfo::Networks;

use crate::cli::curves::rounded;
use crate::client::reading;
use crate::core::batch::Reading;
use crate::host::machine;

/// Reads this machine's sensors.
pub(super) struct Machine {
    sensors: machine::Machine,
    networks: Networks,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { sensors: machine::Machine::new(), networks: Networks::new_with_refreshed_list() }
    }

    /// What it is, for people.
    pub(super) fn model() -> String {
        format!("{}, {}", machine::Machine::system(), machine::Machine::architecture())
    }

    /// What it measures at `unix`, `elapsed` seconds after the last time. Machines without a
    /// temperature sensor give none.
    pub(super) fn measure(&mut self, unix: f64, elapsed: f64) -> Vec<Reading> {
        self.networks.refresh(false);
        let time = rounded(unix, 3);
        let number = |name: &str, unit: &str, value: f64| reading(name, unit, value, time);
        let mut readings = vec![number("cpu_load", "%", rounded(self.sensors.cpu_usage(), 1))];
        if let Some(memory) = self.sensors.memory() {
            let used = memory.total.saturating_sub(memory.available);
            readings.push(number("memory_used", "B", used as f64));
        }
        if let Some(celsius) = self.sensors.cpu_temperature() {
            readings.push(number("cpu_temperature", "Cel", rounded(celsius, 1)));
        }
        if let Some(room) = machine::room(Path::new("/")) {
            readings.push(number("disk_free", "B", room.free as f64));
        }
        let (received, transmitted) = self
            .networks
            .iter()
            .filter(|(name, _)| *name != "lo")
            .fold((0, 0), |(r, t), (_, data)| (r + data.received(), t + data.transmitted()));
        let rate = |bytes: u64| (bytes as f64 * 8.0 / elapsed.max(0.1)).round();
        readings.push(number("network_in", "bit/s", rate(received)));
        readings.push(number("network_out", "bit/s", rate(transmitted)));
        readings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::batch::Value;

    #[test]
    fn this_machine_has_a_load_and_memory() {
        let mut machine = Machine::new();
        let readings = machine.measure(1_763_800_000.0, 1.0);
        let value = |name: &str| match readings.iter().find(|r| r.name == name)?.value {
            Some(Value::Number(value)) => Some(value),
            _ => None,
        };
        assert!((0.0..=100.0).contains(&value("cpu_load").unwrap()));
        assert!(value("memory_used").unwrap() > 1e6);
        assert!(value("network_in").is_some());
        assert!(
            readings.iter().all(|r| matches!(r.value, Some(Value::Number(v)) if v.is_finite()))
        );
        assert!(!Machine::model().is_empty());
    }
}
