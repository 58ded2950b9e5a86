//! What this process takes of the machine.

use rustix::time::{ClockId, clock_gettime};

/// Seconds of processor time, all threads together.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes of memory that are occupied, where the system tells.
#[must_use]
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    // The kernel says kB and means KiB.
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let before = cpu_seconds();
        assert!(before > 0.0);
        assert!(cpu_seconds() >= before);
        assert!(resident().unwrap() > 100 * 1024);
    }
}
