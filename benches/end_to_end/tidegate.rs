//! The gateway between simulated devices and the upstream broker.

use crate::support::broker::upstream;
use crate::support::gateway::{simulate, start};
use crate::support::subscriber::Subscriber;
use crate::{Figures, Load};

/// One measurement.
pub fn run(load: Load) -> Figures {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_broker, broker_port) = upstream(dir.path());
    let subscriber = Subscriber::start(broker_port, "tidegate/+/devices/+/readings");
    let gateway = start(dir.path(), &dir.path().join("data"), broker_port);
    let before = gateway.process.cpu_seconds();
    let mut arguments = vec![
        format!("--devices={}", load.devices),
        format!("--window={}", load.window),
        format!("--duration={}s", load.seconds),
    ];
    arguments.push(match load.rate {
        0 => "--rate=0".into(),
        rate => format!("--total-rate={rate}"),
    });
    let summary = simulate(gateway.devices, &arguments);
    let acked = summary["acked"].as_u64().expect("a count");
    let arrived = subscriber.settle(acked);
    Figures {
        acked,
        arrived,
        seconds: summary["seconds"].as_f64().expect("seconds"),
        cpu_seconds: gateway.process.cpu_seconds() - before,
        peak_mib: gateway.process.memory_kib("VmHWM") as f64 / 1024.0,
        p50_us: summary["ack_us"]["p50"].as_u64().unwrap_or(0),
        p99_us: summary["ack_us"]["p99"].as_u64().unwrap_or(0),
    }
}
