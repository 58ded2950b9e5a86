//! The gateway itself, for `/api/v1/gateway`: the machine, the process, how near the limits are, and
//! the configuration in force. Everything is read when somebody asks, on the dashboard's thread.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::Context;
use super::render;
use super::stream::MAX_VIEWERS;
use crate::host::machine::{self, Machine, Process, Temperature};
use crate::ports::lock;

/// For how long an answer serves whoever asks next.
const FRESH: Duration = Duration::from_secs(1);
/// Over how many seconds the use of the processor is told.
const CPU_SAMPLES: usize = 5;

/// What the view keeps between two questions.
#[derive(Debug, Default)]
pub(super) struct View {
    answer: Mutex<Option<(Instant, Bytes)>>,
    /// Looked for with the first question: it takes a walk through `/sys`.
    machine: Mutex<Option<Machine>>,
    cpu: Mutex<Cpu>,
}

/// The processor time this process had used, once a second.
#[derive(Debug, Default)]
struct Cpu(VecDeque<(Instant, f64)>);

#[derive(Debug, Serialize)]
struct Document<'a> {
    gateway: &'a str,
    version: &'a str,
    time: f64,
    started: f64,
    configuration_file: String,
    machine: AboutMachine,
    process: AboutProcess,
    limits: Vec<Bound>,
    configuration: Map<String, Json>,
}

#[derive(Debug, Serialize)]
struct AboutMachine {
    hostname: Option<String>,
    system: String,
    kernel: Option<String>,
    architecture: String,
    cpus: Option<usize>,
    load: Option<[f64; 3]>,
    uptime_s: Option<u64>,
    memory: Option<Memory>,
    disk: Option<Disk>,
    temperatures: Vec<Sensor>,
}

#[derive(Debug, Serialize)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    path: String,
    total_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Sensor {
    name: String,
    celsius: f64,
}

#[derive(Debug, Serialize)]
struct AboutProcess {
    cpu_percent: Option<f64>,
    resident_bytes: Option<u64>,
    threads: Option<u64>,
    open_files: Option<u64>,
    max_open_files: Option<u64>,
}

/// Something that has a bound an operator can meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Bound {
    name: &'static str,
    used: u64,
    limit: u64,
    /// What moves the bound; null where it is fixed.
    setting: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
}

impl View {
    /// Notes the processor time used so far; to be called once a second.
    pub(super) fn sample(&self) {
        lock(&self.cpu).note(Instant::now(), Process::cpu_seconds());
    }

    /// The document, at most a second old.
    pub(super) fn document(&self, context: &Context) -> Bytes {
        let now = Instant::now();
        let mut answer = lock(&self.answer);
        match &*answer {
            Some((then, bytes)) if now.duration_since(*then) < FRESH => return bytes.clone(),
            _ => {}
        }
        let bytes = Bytes::from(render::text(&self.look(context)));
        *answer = Some((now, bytes.clone()));
        bytes
    }

    fn look<'a>(&self, context: &'a Context) -> Document<'a> {
        let settings = context.settings.borrow().clone();
        let time = context.clock.unix();
        let process = Process::own();
        let data_dir = &settings.gateway.data_dir;
        let room = machine::room(data_dir);
        let disk = room.map(|room| Disk {
            path: data_dir.display().to_string(),
            total_bytes: room.total,
            free_bytes: room.free,
        });
        Document {
            gateway: &context.gateway,
            version: &context.version,
            time,
            started: time - context.started.elapsed().as_secs_f64(),
            configuration_file: settings.file.display().to_string(),
            machine: self.machine(disk),
            process: AboutProcess {
                cpu_percent: lock(&self.cpu).percent(Instant::now(), Process::cpu_seconds()),
                resident_bytes: process.resident,
                threads: process.threads,
                open_files: process.open_files,
                max_open_files: process.max_open_files,
            },
            limits: limits(context, &process, room),
            configuration: settings.in_force(),
        }
    }

    fn machine(&self, disk: Option<Disk>) -> AboutMachine {
        let mut machine = lock(&self.machine);
        let machine = machine.get_or_insert_default();
        let sensor = |Temperature { name, celsius }| Sensor {
            name,
            celsius: (celsius * 10.0).round() / 10.0,
        };
        AboutMachine {
            hostname: Machine::host_name(),
            system: Machine::system(),
            kernel: Machine::kernel(),
            architecture: Machine::architecture(),
            cpus: std::thread::available_parallelism().ok().map(Into::into),
            load: Machine::load(),
            uptime_s: Machine::uptime(),
            memory: machine.memory().map(|memory| Memory {
                total_bytes: memory.total,
                available_bytes: memory.available,
            }),
            disk,
            temperatures: machine.temperatures().into_iter().map(sensor).collect(),
        }
    }
}

impl Cpu {
    fn note(&mut self, now: Instant, seconds: f64) {
        if self.0.len() > CPU_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((now, seconds));
    }

    /// Percent of one processor since the oldest sample.
    fn percent(&self, now: Instant, seconds: f64) -> Option<f64> {
        let (then, before) = self.0.front()?;
        let elapsed = now.duration_since(*then).as_secs_f64();
        // The clocks have a grain.
        let percent = (seconds - before).max(0.0) / elapsed * 100.0;
        (elapsed > 0.05).then(|| (percent * 10.0).round() / 10.0)
    }
}

fn limits(context: &Context, process: &Process, room: Option<machine::Room>) -> Vec<Bound> {
    let settings = context.settings.borrow().clone();
    let metrics = &context.metrics;
    let spool = context.health.spool();
    let count = |name, used: u64, limit: usize, setting| Bound {
        name,
        used,
        limit: whole(limit),
        setting,
        unit: None,
    };
    let bytes = |name, used: u64, limit: u64, setting| Bound {
        name,
        used,
        limit,
        setting: Some(setting),
        unit: Some("bytes"),
    };
    let mut limits = vec![
        count(
            "device connections",
            level(&metrics.device_connections),
            settings.devices.max_connections,
            Some("devices.max_connections"),
        ),
        bytes(
            "unsettled readings",
            whole(context.budget.taken()),
            whole(context.budget.total()),
            "devices.max_unsettled",
        ),
        bytes("spool", spool.bytes, settings.spool.max_bytes, "spool.max_bytes"),
        count(
            "messages that await their PUBACK",
            level(&metrics.uplink_inflight),
            settings.mqtt.max_inflight.into(),
            Some("mqtt.max_inflight"),
        ),
        count(
            "commands in the ledger",
            whole(context.commands.book.len()),
            settings.commands.max_count,
            Some("commands.max_count"),
        ),
        count("devices shown", whole(context.fleet.known()), context.fleet.max_devices(), None),
        count("viewers", level(&metrics.viewers), MAX_VIEWERS, None),
    ];
    if let Some(room) = room {
        let limit = room.total.saturating_sub(settings.spool.reserve);
        limits.push(bytes("disk", room.total.saturating_sub(room.free), limit, "spool.reserve"));
    }
    if let (Some(used), Some(limit)) = (process.open_files, process.max_open_files) {
        let setting = Some("LimitNOFILE of the service");
        limits.push(Bound { name: "open files", used, limit, setting, unit: None });
    }
    limits
}

fn whole(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn level(gauge: &Gauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_is_that_of_the_last_seconds() {
        let mut cpu = Cpu::default();
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(cpu.percent(start, 1.0), None);
        cpu.note(start, 1.0);
        assert_eq!(cpu.percent(start, 1.0), None);
        assert_eq!(cpu.percent(at(0.5), 1.25), Some(50.0));
        // Busy for ten seconds, then idle: after five more it is at rest.
        (1..=10).for_each(|n| cpu.note(at(f64::from(n)), 1.0 + f64::from(n)));
        assert_eq!(cpu.percent(at(10.5), 11.5), Some(100.0));
        (11..=16).for_each(|n| cpu.note(at(f64::from(n)), 11.5));
        assert_eq!(cpu.percent(at(16.5), 11.5), Some(0.0));
    }
}
