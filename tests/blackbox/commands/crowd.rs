//! A thousand commands to fifty devices that come and go: each comes to one end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;

use super::subscribed;
use crate::harness::{
    Bench, Connector, Device, FromGateway, Requester, hello, result, seeded, states, until,
};

const DEVICES: usize = 50;
/// Of each device: over MQTT with ids in order, over HTTP, and over HTTP not to be sent twice.
const OVER_MQTT: usize = 10;
const OVER_HTTP: usize = 6;
const ONCE: usize = 4;
const TOTAL: usize = DEVICES * (OVER_MQTT + OVER_HTTP + ONCE);

/// What a device has been asked, over all its connections.
#[derive(Default)]
struct Memory {
    /// How often each command came.
    times: HashMap<String, u32>,
    /// In the order in which they came first.
    order: Vec<String>,
    /// Whether to stay from now on.
    settled: bool,
}

/// Comes, does what it is asked, goes in the midst of it, and comes again.
async fn live(connector: Connector, memory: Arc<Mutex<Memory>>, mut rng: StdRng) {
    loop {
        let Ok(Ok(mut device)) = connector.attempt().await else {
            // The gateway is being started.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if device.try_send(&hello(Some(1), &[])).await.is_ok() {
            let settled = memory.lock().unwrap().settled;
            let stay = Duration::from_millis(rng.random_range(0..400));
            let served = serve(&mut device, &memory, &mut rng);
            if settled {
                served.await;
            } else {
                let _ = tokio::time::timeout(stay, served).await;
            }
        }
        drop(device);
        if !memory.lock().unwrap().settled {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..150))).await;
        }
    }
}

/// Answers each command, one it knows as it did before, until the connection ends. One in eight
/// connections ends between the work and its RESULT.
async fn serve(device: &mut Device, memory: &Mutex<Memory>, rng: &mut StdRng) {
    loop {
        let asked = match device.receive().await {
            FromGateway::Command(asked) => asked,
            FromGateway::Close { .. } | FromGateway::Gone => return,
            _ => continue,
        };
        let settled = {
            let mut memory = memory.lock().unwrap();
            let times = memory.times.entry(asked.id.clone()).or_default();
            *times += 1;
            if *times == 1 {
                memory.order.push(asked.id.clone());
            }
            memory.settled
        };
        let id = asked.id.as_str();
        // What must not be sent twice is answered whenever it came; else it could only expire.
        if !settled && !id.starts_with("once") && rng.random_range(0..8) == 0 {
            return;
        }
        if device.try_send(&result(id, true, id)).await.is_err() {
            return;
        }
    }
}

/// Everything is asked, over MQTT one after the other and over HTTP side by side, while `trouble`
/// goes on in the middle.
async fn ask_all(bench: &mut Bench, requester: &mut Requester) {
    for n in 0..OVER_MQTT {
        for device in 0..DEVICES {
            let request = json!({"name": "fire", "id": format!("mqtt-{n}"), "ttl": 600});
            requester.ask(&format!("d{device}"), &request).await;
        }
        // Cuts and a crash, with requests, commands and results under way.
        match n {
            2 | 7 => bench.proxy.cut(),
            4 => {
                bench.gateway.kill();
                bench.gateway.start().await;
            }
            _ => {}
        }
    }
}

async fn ask_over_http(bench: &Bench) {
    for n in 0..OVER_HTTP + ONCE {
        let asking = (0..DEVICES).map(|device| async move {
            let once = n >= OVER_HTTP;
            let id = if once { format!("once-{n}") } else { format!("http-{n}") };
            let request = json!({"name": "fire", "id": id, "redeliver": !once,
                "ttl": if once { 3 } else { 600 }});
            bench.gateway.ask(&format!("d{device}"), &request).await;
        });
        futures_util::future::join_all(asking).await;
    }
}

#[tokio::test]
async fn a_thousand_commands_to_devices_that_come_and_go_all_end_once() {
    let mut rng = seeded();
    let mut bench = Bench::start(|setup| setup.set("commands.max_count", 2000)).await;
    let mut requester = Requester::start(bench.broker.port, 5).await;
    subscribed(&bench.gateway, &mut requester).await;
    let mut devices = JoinSet::new();
    let memories: Vec<Arc<Mutex<Memory>>> = (0..DEVICES).map(|_| Arc::default()).collect();
    for (n, memory) in memories.iter().enumerate() {
        let connector = bench.gateway.device(&format!("d{n}"));
        let rng = StdRng::seed_from_u64(rng.random());
        devices.spawn(live(connector, memory.clone(), rng));
    }
    ask_all(&mut bench, &mut requester).await;
    ask_over_http(&bench).await;
    for memory in &memories {
        memory.lock().unwrap().settled = true;
    }
    let mut records = Vec::new();
    until("all have ended", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        records = bench.gateway.commands("").await;
        let open = |state: &str| state == "queued" || state == "delivered";
        records.len() == TOTAL
            && records.iter().all(|record| !open(record["state"].as_str().unwrap()))
    })
    .await;

    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for record in &records {
        let (id, states) = (record["id"].as_str().unwrap(), states(record));
        let end = *states.last().unwrap();
        *ends.entry(end.to_owned()).or_default() += 1;
        let finals = states.iter().filter(|state| ["done", "expired"].contains(state)).count();
        assert_eq!(finals, 1, "{record}");
        let device: usize = record["device"].as_str().unwrap()[1..].parse().unwrap();
        let memory = memories[device].lock().unwrap();
        let times = memory.times.get(id).copied().unwrap_or(0);
        if id.starts_with("once") {
            assert!(times <= 1, "d{device} got {id} {times} times");
            assert!(end == "done" || end == "expired", "{record}");
            assert!(end == "expired" || times == 1, "{record}");
        } else {
            assert_eq!((end, &record["value"]), ("done", &json!(id)));
            assert!(times >= 1, "d{device} never got {id}");
        }
    }
    for (n, memory) in memories.iter().enumerate() {
        let memory = memory.lock().unwrap();
        let first: Vec<_> = memory.order.iter().filter(|id| id.starts_with("mqtt")).collect();
        assert!(first.is_sorted(), "d{n}, oldest first: {first:?}");
    }
    // Each end is told, the same however often. A request that the broker delivers again because a
    // crash took its PUBACK is answered with the state of the first, which need not be its end.
    let mut told: HashMap<(String, String), HashSet<String>> = HashMap::new();
    until("all are told", async || {
        told.clear();
        for result in bench.proxy.results() {
            let text = |name: &str| result[name].as_str().unwrap().to_owned();
            if !["queued", "delivered"].contains(&text("state").as_str()) {
                told.entry((text("device"), text("id"))).or_default().insert(text("state"));
            }
        }
        told.len() == TOTAL
    })
    .await;
    told.retain(|_, states| states.len() != 1);
    assert!(told.is_empty(), "told to have ended in two ways: {told:?}");
    let redelivered = bench.gateway.metric("tidegate_commands_redelivered_total").await;
    eprintln!("{ends:?}, {redelivered} sent again since the crash");
    assert!(redelivered > 0, "devices came and went");
}
