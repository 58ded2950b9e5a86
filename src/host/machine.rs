//! The machine and this process in it, as the system tells. Everything is read when it is asked for;
//! what a sandbox or a small system does not tell is `None`.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use sysinfo::{Components, System};

/// Sensors of the processor, preferred over others by the name the kernel gives them.
const CPU_SENSORS: [&str; 5] = ["Tctl", "Package", "cpu", "k10temp", "coretemp"];

/// The sensors that any machine may have.
#[derive(Debug)]
pub struct Machine {
    system: System,
    components: Components,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs can still get without swapping.
    pub available: u64,
}

/// A file system's room in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub total: u64,
    /// What a user who is not root can still write.
    pub free: u64,
}

/// One sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Temperature {
    /// As the kernel calls it.
    pub name: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// What this process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    /// Memory in bytes that is its own or shared and in RAM.
    pub resident: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open files, sockets included.
    pub open_files: Option<u64>,
    /// How many there may be (`RLIMIT_NOFILE`); none where there is no limit.
    pub max_open_files: Option<u64>,
}

impl Machine {
    /// Finds the sensors there are.
    #[must_use]
    pub fn new() -> Self {
        let mut system = System::new();
        // The first look gives nothing; the second tells what was used in between.
        system.refresh_cpu_usage();
        Self { system, components: Components::new_with_refreshed_list() }
    }

    /// How busy the processors have been since the last call, in percent of them all.
    pub fn cpu_usage(&mut self) -> f64 {
        self.system.refresh_cpu_usage();
        f64::from(self.system.global_cpu_usage())
    }

    /// The memory now.
    pub fn memory(&mut self) -> Option<Memory> {
        self.system.refresh_memory();
        let (total, available) = (self.system.total_memory(), self.system.available_memory());
        (total > 0).then_some(Memory { total, available })
    }

    /// Every temperature the machine measures, sorted by name.
    pub fn temperatures(&mut self) -> Vec<Temperature> {
        self.components.refresh(false);
        let mut all: Vec<_> = self.components.iter().filter_map(temperature).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The processor's temperature in degrees Celsius; that of another sensor where there is none.
    pub fn cpu_temperature(&mut self) -> Option<f64> {
        let all = self.temperatures();
        let of = |wanted: &&str| all.iter().find(|sensor| sensor.name.contains(*wanted));
        CPU_SENSORS.iter().find_map(of).or(all.first()).map(|sensor| sensor.celsius)
    }

    /// The operating system for people, for example `Linux (Debian GNU/Linux 12)`.
    #[must_use]
    pub fn system() -> String {
        System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned())
    }

    /// The processor's architecture, for example `aarch64`.
    #[must_use]
    pub fn architecture() -> String {
        System::cpu_arch()
    }

    /// The kernel's version.
    #[must_use]
    pub fn kernel() -> Option<String> {
        System::kernel_version()
    }

    /// The host's name.
    #[must_use]
    pub fn host_name() -> Option<String> {
        System::host_name()
    }

    /// The load of the last 1, 5 and 15 minutes.
    #[must_use]
    pub fn load() -> Option<[f64; 3]> {
        // Zeros are also what an idle machine has.
        Path::new("/proc/loadavg").exists().then(|| {
            let load = System::load_average();
            [load.one, load.five, load.fifteen]
        })
    }

    /// Seconds since the machine started.
    #[must_use]
    pub fn uptime() -> Option<u64> {
        Some(System::uptime()).filter(|seconds| *seconds > 0)
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Process {
    /// This process now.
    #[must_use]
    pub fn own() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let open_files = fs::read_dir("/proc/self/fd")
            // Without the one that reads the folder.
            .map(|files| u64::try_from(files.count().saturating_sub(1)).unwrap_or(u64::MAX));
        Self {
            // The kernel says kB and means KiB.
            resident: number("VmRSS").map(|kib| kib.saturating_mul(1024)),
            threads: number("Threads"),
            open_files: open_files.ok(),
            max_open_files: getrlimit(Resource::Nofile).current,
        }
    }

    /// Seconds of processor time that this process has used, all threads together. One system call.
    #[must_use]
    pub fn cpu_seconds() -> f64 {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
}

/// The room of the file system that `path` is on.
#[must_use]
pub fn room(path: &Path) -> Option<Room> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Room { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

fn temperature(component: &sysinfo::Component) -> Option<Temperature> {
    let celsius = f64::from(component.temperature()?);
    let name = component.label().to_owned();
    celsius.is_finite().then_some(Temperature { name, celsius })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_this_process_are_told() {
        let mut machine = Machine::new();
        let memory = machine.memory().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
        assert!((0.0..=100.0).contains(&machine.cpu_usage()));
        assert!(machine.temperatures().iter().all(|sensor| sensor.celsius.is_finite()));
        assert!(!Machine::system().is_empty());
        assert!(Machine::load().unwrap().iter().all(|load| *load >= 0.0));
        let room = room(Path::new("/")).unwrap();
        assert!(room.free <= room.total && room.total > 0);
        assert_eq!(super::room(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let before = Process::own();
        assert!(before.resident.unwrap() > 1 << 20 && before.threads.unwrap() >= 1);
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        assert!(Process::own().open_files.unwrap() >= 50);
        drop(files);
        let start = Process::cpu_seconds();
        let mut sum = 0_u64;
        while Process::cpu_seconds() - start < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(start > 0.0);
    }
}
