//! Files of the spool are torn, flipped, deleted, or joined by junk while the gateway is stopped.
//! Whatever it is, the gateway starts, passes on all that is there as it was sent and in order,
//! tells the rest as lost, and goes on; where nothing is gone it tells no loss.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::harness::{
    Account, Accounts, Books, Broker, Disk, Gateway, Proxy, Setup, Value, Witnessed, drained,
    long_factor, pack, readings, seeded, until,
};

const DEVICES: [&str; 2] = ["a", "b"];
const BATCHES: u64 = 170;
/// Readings in a batch.
const READINGS: u64 = 2;

fn setup(broker: u16, data: &Path) -> Setup {
    // Generations of 256 KiB.
    Setup::new(broker)
        .set("spool.max_bytes", "8MiB")
        .set("gateway.data_dir", data.to_str().unwrap())
}

/// What does not compress, and can be told from the number.
fn bulk(seq: u64) -> Vec<u8> {
    let mut bytes = vec![0; 2500];
    rand::RngCore::fill_bytes(&mut StdRng::seed_from_u64(seq), &mut bytes);
    bytes
}

fn batch(seq: u64) -> Value {
    let (name, number, data, time) = (0, 2, 8, 6);
    let time = || (time, Value::from(1_763_800_000.0 + seq as f64));
    readings(
        Some(seq),
        pack(&[
            &[(name, "level".into()), (number, (seq as f64).into()), time()],
            &[(name, "bulk".into()), (data, Value::Bytes(bulk(seq))), time()],
        ]),
    )
}

fn good(seq: u64, readings: &serde_json::Value) -> bool {
    readings.as_array().is_some_and(|all| all.len() as u64 == READINGS)
        && readings[0]["v"] == seq as f64
        && readings[1]["vd"] == URL_SAFE_NO_PAD.encode(bulk(seq))
}

/// Sends `count` batches and waits until all are acknowledged.
async fn send(gateway: &Gateway, id: &str, count: u64) {
    let (mut device, welcome) = gateway.device(id).open(Some(1)).await;
    for seq in 1..=count {
        device.send(&batch(seq)).await;
        if seq % (welcome.window / 2) == 0 {
            device.acked(seq).await;
        }
    }
    device.acked(count).await;
}

/// A data folder with [`BATCHES`] of each of [`DEVICES`], all acknowledged.
struct Template {
    dir: TempDir,
    broker: Broker,
}

impl Template {
    /// Left by a gateway that was stopped in order, or killed.
    async fn make(killed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Broker::start("").await;
        broker.kill();
        let mut gateway = setup(broker.port, &dir.path().join("data")).start().await;
        for id in DEVICES {
            send(&gateway, id, BATCHES).await;
        }
        if killed {
            gateway.kill();
        } else {
            gateway.stop().await;
        }
        broker.restart().await;
        Self { dir, broker }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Every file, relative to the data folder, generations in order.
    fn files(&self) -> Vec<PathBuf> {
        fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { collect(&path, files) } else { files.push(path) }
            }
        }
        let mut files = Vec::new();
        collect(&self.data(), &mut files);
        files.sort();
        files.iter().map(|path| path.strip_prefix(self.data()).unwrap().to_owned()).collect()
    }

    /// The folders of the generations, in order.
    fn generations(&self) -> Vec<PathBuf> {
        let files = self.files().into_iter().filter(|path| path.ends_with("db"));
        let folders: Vec<_> = files.map(|db| db.parent().unwrap().to_owned()).collect();
        assert!(folders.len() >= 3, "{folders:?}");
        folders
    }

    /// Damages a copy with `harm` and runs a gateway on it. `what` names the case.
    async fn survives(&self, what: &str, harm: impl FnOnce(&Path)) -> Outcome {
        let work = tempfile::tempdir().unwrap();
        let data = work.path().join("data");
        copy(&self.data(), &data);
        harm(&data);
        let proxy = Proxy::start(self.broker.port).await;
        let mut gateway = setup(proxy.port, &data).set("gateway.id", unique()).start().await;
        drained(&gateway).await;
        let account = Account { sent: BATCHES, acked: BATCHES };
        let accounts: Accounts = DEVICES.iter().map(|id| ((*id).to_owned(), account)).collect();
        let read = || Books::read(&accounts, &proxy, good);
        until(&format!("{what}: everything is there or told"), async || {
            let books = read();
            books.arrived + books.lost >= books.acked
        })
        .await;
        let books = read();
        let case = format!("{what}: {books:?}\n{}", gateway.log());
        assert_eq!(books.repeated, 0, "{case}");
        if books.missing() == 0 {
            assert_eq!(books.lost, 0, "nothing is gone: {case}");
        }
        let told = gateway.status().await["spool"]["lost_readings"].as_u64().unwrap();
        assert_eq!(told, books.lost, "{case}");
        assert!(!gateway.log().contains("panicked"), "{case}");
        // It goes on, and so does the next one.
        let (mut device, _) = gateway.device(DEVICES[0]).open(Some(1)).await;
        device.send(&batch(BATCHES + 1)).await;
        device.acked(BATCHES + 1).await;
        let aside = until_aside(&data).await;
        gateway.stop().await;
        gateway.start().await;
        assert_eq!(gateway.metric("tidegate_spool_batches").await, 0, "{case}");
        Outcome { books, aside }
    }
}

/// What came of a case.
#[derive(Debug)]
struct Outcome {
    books: Books,
    /// Whether a folder was kept for inspection.
    aside: bool,
}

/// Gateways on one broker must not take each other's connection.
fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    format!("gw-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// Waits until the generations are gone, and says whether one is kept as damaged.
async fn until_aside(data: &Path) -> bool {
    let any = |prefix: &str| {
        let mut entries = fs::read_dir(data.join("spool")).unwrap().flatten();
        entries.any(|entry| {
            let name = entry.file_name().into_string().unwrap_or_default();
            name.starts_with(prefix) && entry.path().is_dir()
        })
    };
    until("drained folders are deleted", async || !any("gen-0")).await;
    any("damaged-")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn truncate(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn flip(path: &Path, at: u64, mask: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

/// Runs every file through `harm`, which gets the path, its length and randomness and says what it
/// did. Files that hold no batches may lose none.
async fn every_file(killed: bool, times: usize, harm: impl Fn(&Path, u64, &mut StdRng) -> String) {
    let mut random = seeded();
    let template = Template::make(killed).await;
    let files = template.files();
    let folders = template.generations();
    let (mut cases, mut missing) = (0, 0);
    for file in &files {
        let len = fs::metadata(template.data().join(file)).unwrap().len();
        let holds_batches = file.ends_with("db");
        // The others are all of a kind: only those of the first generation and the last.
        let middle = folders[1..folders.len() - 1].iter().any(|folder| file.starts_with(folder));
        if len == 0 || (middle && !holds_batches) {
            continue;
        }
        for _ in 0..times * long_factor() {
            let mut did = String::new();
            let seed: u64 = random.random();
            let outcome = template
                .survives(&format!("{} with {seed}", file.display()), |data| {
                    did = harm(&data.join(file), len, &mut StdRng::seed_from_u64(seed));
                })
                .await;
            let what = format!("{}: {did}: {outcome:?}", file.display());
            assert!(holds_batches || outcome.books.missing() == 0, "{what}");
            assert_eq!(outcome.books.lost, outcome.books.missing() * READINGS, "{what}");
            assert_eq!(outcome.aside, outcome.books.missing() > 0, "{what}");
            cases += 1;
            missing += outcome.books.missing();
        }
    }
    eprintln!("{cases} cases over {} files; {missing} batches were gone and told", files.len());
}

#[tokio::test]
async fn a_torn_tail_in_any_file_is_survived() {
    every_file(false, 1, |path, len, random| {
        let left = random.random_range(0..len);
        truncate(path, left);
        format!("{left} of {len} bytes left")
    })
    .await;
}

#[tokio::test]
async fn a_torn_tail_in_any_file_of_a_killed_gateway_is_survived() {
    every_file(true, 1, |path, len, random| {
        // Near the end, where a power cut tears.
        let left = len - random.random_range(0..len.min(20_000));
        truncate(path, left);
        format!("{left} of {len} bytes left")
    })
    .await;
}

#[tokio::test]
async fn a_flipped_byte_in_any_file_is_survived() {
    every_file(true, 1, |path, len, random| {
        let (at, mask) = (random.random_range(0..len), random.random_range(1..=255));
        flip(path, at, mask);
        format!("byte {at} of {len} ^ {mask}")
    })
    .await;
}

#[tokio::test]
async fn the_same_damage_to_every_file_at_once_is_survived() {
    let template = Template::make(true).await;
    // But for the marks: beside a database without its end nobody could know that there was more.
    let files: Vec<_> = template.files().into_iter().filter(|f| !f.ends_with("marks")).collect();
    let mut missing = Vec::new();
    for half in 0..=2 {
        let at = |len: u64| len * half / 2;
        for torn in [false, true] {
            let outcome = template
                .survives(&format!("torn: {torn}, at {half}/2"), |data| {
                    for path in files.iter().map(|file| data.join(file)) {
                        match fs::metadata(&path).unwrap().len() {
                            0 => {}
                            len if torn => truncate(&path, at(len - 1)),
                            len => flip(&path, at(len - 1), 0x10),
                        }
                    }
                })
                .await;
            missing.push(outcome.books.missing());
        }
    }
    eprintln!("gone and told: {missing:?}");
    assert_eq!(missing[1], DEVICES.len() as u64 * BATCHES, "all files empty, all told");
}

#[tokio::test]
async fn files_emptied_or_deleted_are_survived() {
    let template = Template::make(false).await;
    for name in ["spool/marks", "lock"] {
        let emptied = template.survives(name, |data| truncate(&data.join(name), 0)).await;
        let deleted =
            template.survives(name, |data| fs::remove_file(data.join(name)).unwrap()).await;
        for outcome in [emptied, deleted] {
            assert_eq!((outcome.books.missing(), outcome.aside), (0, false), "{name}: {outcome:?}");
        }
    }
    // Each batch counts for one reading where it is not known how many there were.
    let part_is_gone = |outcome: Outcome, readings: u64| {
        let gone = outcome.books.missing();
        assert!(gone > 0 && gone < DEVICES.len() as u64 * BATCHES, "{outcome:?}");
        assert_eq!(outcome.books.lost, gone * readings, "{outcome:?}");
    };
    let folders = template.generations();
    let db = folders[0].join("db");
    part_is_gone(
        template.survives("an empty database", |at| truncate(&at.join(&db), 0)).await,
        READINGS,
    );
    let delete = |data: &Path| fs::remove_file(data.join(&db)).unwrap();
    part_is_gone(template.survives("no database", delete).await, READINGS);
    // Before all others, in their midst, and after them.
    for folder in [&folders[0], &folders[1], folders.last().unwrap()] {
        let delete = |data: &Path| fs::remove_dir_all(data.join(folder)).unwrap();
        part_is_gone(template.survives("a generation is gone", delete).await, 1);
    }
}

#[tokio::test]
async fn junk_in_the_spool_is_left_alone_and_costs_nothing() {
    let template = Template::make(true).await;
    let first = template.generations()[0].join("db");
    let outcome = template
        .survives("junk", |data| {
            let spool = data.join("spool");
            fs::write(data.join("junk"), "junk").unwrap();
            fs::write(spool.join("junk"), "junk").unwrap();
            fs::write(spool.join("gen-0000000000000003"), "a file").unwrap();
            // Before, between, and after what is there; one that is no number.
            for name in [
                "gen-0000000000000000",
                "gen-0000000000000002",
                "gen-0000000000000064",
                "gen-00000000000fffff",
                "gen-ffffffffffffffff",
                "gen-xyz",
                "empty",
                "damaged-1-gen-0000000000000001",
                "trash-gen-0000000000000001",
            ] {
                fs::create_dir(spool.join(name)).unwrap();
            }
            let huge = fs::File::create(spool.join("huge")).unwrap();
            huge.set_len(1 << 40).unwrap();
        })
        .await;
    assert_eq!(outcome.books.missing(), 0, "{outcome:?}");
    let outcome = template
        .survives("a huge hole at the end of a database", |data| {
            truncate(&data.join(&first), 1 << 40);
        })
        .await;
    assert_eq!(outcome.books.missing(), 0, "{outcome:?}");
}

#[tokio::test]
async fn a_disk_that_is_pulled_out_during_a_drain_is_not_taken_for_damage() {
    const COUNT: u64 = 1200;
    let Some(mut disk) = Disk::ext4(32) else { return };
    let mut broker = Broker::start("").await;
    let proxy = Proxy::start(broker.port).await;
    broker.kill();
    let data = disk.path().join("data");
    let mut gateway = setup(proxy.port, &data).set("spool.drain_rate", 500).start().await;
    send(&gateway, "a", COUNT).await;
    broker.restart().await;
    let some = |all: &[Witnessed]| all.iter().filter(|seen| seen.is_readings()).count() > 20;
    proxy.until("the drain has begun", some).await;
    disk.cut();
    until("it says so", async || gateway.log().contains("cannot be read, trying again")).await;
    // What was read ahead is passed on, and that is all.
    until("it waits", async || gateway.metric("tidegate_uplink_inflight").await == 0).await;
    let accounts = Accounts::from([("a".to_owned(), Account { sent: COUNT, acked: COUNT })]);
    let books = Books::read(&accounts, &proxy, good);
    assert!(books.missing() > 0 && books.lost == 0, "{books:?}\n{}", gateway.log());
    gateway.kill();
    disk.mount_again();
    gateway.start().await;
    drained(&gateway).await;
    let books = Books::read(&accounts, &proxy, good);
    assert_eq!((books.missing(), books.lost), (0, 0), "{books:?}");
}
