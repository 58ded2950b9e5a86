//! The power goes while batches are written: an ext4 in a file is shut down without its journal,
//! unmounted, and mounted again. What was reported durable must be there.
//!
//! Needs root, loop devices and Python; where there are none it is skipped with the reason, in CI it
//! fails.

use std::time::Duration;

use super::crash::{Writer, check};
use crate::storage::testing::PowerDisk;

const ROUNDS: u64 = 12;

#[test]
fn after_a_power_cut_everything_durable_is_there() {
    let Some(mut disk) = PowerDisk::new() else { return };
    let data = disk.dir().join("data");
    let mut tail = 1;
    for round in 0..ROUNDS {
        let mut writer = Writer::start(&data);
        writer.until_durable(tail);
        writer.work(Duration::from_millis(30 + 61 * round % 400));
        let Some(moment) = disk.cut() else {
            assert_eq!(round, 0);
            return;
        };
        writer.kill();
        // From that moment on ext4 may answer an fsync "done" whose journal commit was under way and is
        // given up: whoever has no power says nothing any more.
        writer.forget_what_came_after(moment);
        disk.restart();
        tail = check(&data, &writer, &format!("round {round}"));
    }
    assert!(tail > 100, "{tail} batches in all rounds");
}
