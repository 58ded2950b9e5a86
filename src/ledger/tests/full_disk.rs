//! A disk that is full.

use std::sync::Arc;

use super::support::*;
use crate::ports::{Ledger, LedgerEvent};

fn fill(mount: &Mount) -> std::path::PathBuf {
    let path = mount.dir.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let zeros = std::io::repeat(0);
    let error = std::io::copy(&mut std::io::Read::take(zeros, 1 << 30), &mut file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    path
}

#[test]
fn a_full_disk_stalls_keeps_what_it_has_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=12m", "tmpfs"];
    let Some(mount) = Mount::new(&dir.path().join("disk"), &mount) else { return };
    let data = mount.dir.join("data");
    let (mut bench, _) = Bench::open(&data);
    bench.store((1..=20).map(|number| record(number, 1)));
    let filler = fill(&mount);
    let mut number = 20;
    let reason = loop {
        number += 1;
        bench.ledger.persist(Arc::new(record(number * 10, 1)));
        match bench.event() {
            LedgerEvent::Durable(_) => {}
            LedgerEvent::Stalled { reason } => break reason,
            LedgerEvent::Resumed => panic!(),
        }
    };
    assert!(reason.contains("disk/data/commands/gen-"), "{reason}");
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(bench.health.ledger().fault, Some(reason));
    drop(bench);
    // A process that is started on the full disk has all that was durable.
    let (mut bench, kept) = Bench::open(&data);
    assert!(!kept.damaged && kept.records.len() as u64 >= number - 1, "{}", kept.records.len());
    bench.ledger.persist(Arc::new(record(1, 2)));
    let event = bench.event();
    assert!(matches!(event, LedgerEvent::Stalled { .. }), "{event:?}");
    bench.ledger.persist(Arc::new(record(1, 3)));
    bench.ledger.forget(2);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(bench.event(), LedgerEvent::Resumed);
    assert_eq!(bench.event(), LedgerEvent::Durable(vec![(1, 3)]));
    assert_eq!(bench.health.ledger().fault, None);
    bench.close();
    let (_, kept) = Bench::open(&data);
    assert!(!kept.damaged && kept.records.contains(&record(1, 3)));
    assert!(kept.records.iter().all(|record| record.number != 2));
}
