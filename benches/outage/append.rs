//! The physical limit: a plain file, one write and one fdatasync for each group.

use std::fs::OpenOptions;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::disk::Disk;

/// What to write.
pub struct Plan {
    /// Bytes of payload.
    pub bytes: u64,
    /// In so many groups.
    pub groups: u64,
    /// Spread over this time; zero: as fast as it goes.
    pub spread: Duration,
}

/// What it took.
pub struct Figures {
    /// Seconds, the waits excluded.
    pub seconds: f64,
    pub written: u64,
    /// Of a write and its sync.
    pub p50_us: u64,
    pub p99_us: u64,
}

pub fn run(disk: &Disk, plan: &Plan) -> Figures {
    let path = disk.folder("append").join("file");
    let mut file = OpenOptions::new().create_new(true).append(true).open(path).expect("a file");
    let groups = plan.groups.max(1);
    let group = vec![0x5a; usize::try_from(plan.bytes / groups).expect("it fits").max(1)];
    let mut times = Histogram::<u64>::new(3).expect("three digits");
    let before = disk.written(None);
    let started = Instant::now();
    let mut busy = Duration::ZERO;
    for n in 0..groups {
        let due = plan.spread.mul_f64(n as f64 / groups as f64);
        sleep(due.saturating_sub(started.elapsed()));
        let began = Instant::now();
        file.write_all(&group).and_then(|()| file.sync_data()).expect("room");
        busy += began.elapsed();
        times.record(u64::try_from(began.elapsed().as_micros()).expect("short")).expect("it grows");
    }
    Figures {
        seconds: busy.as_secs_f64(),
        written: disk.written(None) - before,
        p50_us: times.value_at_quantile(0.5),
        p99_us: times.value_at_quantile(0.99),
    }
}
