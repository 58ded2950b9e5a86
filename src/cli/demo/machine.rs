//! The one device of the demo that is real: this machine's own sensors.

use sysinfo::{Components, Disks, Networks, System};

use crate::cli::curves::rounded;
use crate::client::reading;
use crate::core::batch::Reading;

/// Sensors of the processor, preferred over others by the name the kernel gives them.
const CPU_SENSORS: [&str; 5] = ["Tctl", "Package", "cpu", "k10temp", "coretemp"];

/// Reads this machine's sensors.
pub(super) struct Machine {
    system: System,
    components: Components,
    disks: Disks,
    networks: Networks,
}

impl Machine {
    pub(super) fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self {
            system,
            components: Components::new_with_refreshed_list(),
            disks: Disks::new_with_refreshed_list(),
            networks: Networks::new_with_refreshed_list(),
        }
    }

    /// What it is, for people.
    pub(super) fn model() -> String {
        let name = System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned());
        format!("{name}, {}", System::cpu_arch())
    }

    /// What it measures at `unix`, `elapsed` seconds after the last time. Machines without a
    /// temperature sensor give none.
    pub(super) fn measure(&mut self, unix: f64, elapsed: f64) -> Vec<Reading> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.components.refresh(false);
        self.disks.refresh(false);
        self.networks.refresh(false);
        let time = rounded(unix, 3);
        let number = |name: &str, unit: &str, value: f64| reading(name, unit, value, time);
        let mut readings = vec![
            number("cpu_load", "%", rounded(f64::from(self.system.global_cpu_usage()), 1)),
            number("memory_used", "B", self.system.used_memory() as f64),
        ];
        if let Some(celsius) = self.cpu_temperature() {
            readings.push(number("cpu_temperature", "Cel", rounded(celsius, 1)));
        }
        if let Some(disk) =
            self.disks.iter().find(|disk| disk.mount_point() == std::path::Path::new("/"))
        {
            readings.push(number("disk_free", "B", disk.available_space() as f64));
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

    fn cpu_temperature(&self) -> Option<f64> {
        let celsius = |wanted: &str| {
            self.components
                .iter()
                .find(|component| component.label().contains(wanted))
                .and_then(sysinfo::Component::temperature)
        };
        let found = CPU_SENSORS
            .iter()
            .find_map(|wanted| celsius(wanted))
            .or_else(|| self.components.iter().find_map(sysinfo::Component::temperature))?;
        found.is_finite().then_some(f64::from(found))
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
