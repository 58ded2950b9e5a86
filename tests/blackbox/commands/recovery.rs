//! Outages and crashes at moments that nobody has chosen.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng;
use serde_json::json;

use super::subscribed;
use crate::harness::{
    Bench, Device, FromGateway, Gateway, Mode, Requester, Value, long_factor, seeded, until,
};

#[tokio::test]
async fn results_come_in_their_order_once_the_broker_is_back() {
    let mut bench = Bench::start(|setup| setup).await;
    let (mut device, _) = bench.gateway.device("kiln-3").open(Some(1)).await;
    let (mut other, _) = bench.gateway.device("kiln-4").open(Some(1)).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        match round {
            0 => bench.proxy.set(Mode::Away),
            1 => bench.broker.kill(),
            _ => bench.proxy.set(Mode::SwallowAcks),
        }
        for n in 0..20 {
            let id = format!("{round}-{n}");
            let (name, device) =
                if n % 3 == 0 { ("kiln-4", &mut other) } else { ("kiln-3", &mut device) };
            bench.gateway.ask(name, &json!({"name": "fire", "id": id})).await;
            device.asked_for(&id).await;
            device.result(&id, true, n).await;
            bench.gateway.until_state(name, &id, "done").await;
            expected.push(id);
        }
        match round {
            0 => bench.proxy.set(Mode::Forward),
            1 => bench.broker.restart().await,
            _ => {
                bench.proxy.set(Mode::Forward);
                bench.proxy.cut();
            }
        }
    }
    let mut first = Vec::new();
    until("every result", async || {
        first.clear();
        for result in bench.proxy.results() {
            let id = result["id"].as_str().unwrap().to_owned();
            if !first.contains(&id) {
                first.push(id);
            }
        }
        first.len() >= expected.len()
    })
    .await;
    assert_eq!(first, expected);
}

/// Connects again and again until it works; the gateway may be starting.
async fn connect(gateway: &Gateway, id: &str) -> Device {
    let mut device = None;
    until(&format!("{id} is connected"), async || {
        if let Ok(Ok(mut open)) = gateway.device(id).attempt().await {
            if open.try_send(&crate::harness::hello(Some(1), &[])).await.is_ok()
                && matches!(open.receive().await, FromGateway::Welcome(_))
            {
                device = Some(open);
            }
        }
        device.is_some()
    })
    .await;
    device.unwrap()
}

/// Reads what comes for a moment, and counts how often each command did.
async fn listen(device: &mut Device, seen: &mut HashMap<String, u32>, moment: Duration) {
    let _ = tokio::time::timeout(moment, async {
        while let FromGateway::Command(asked) = device.receive().await {
            *seen.entry(asked.id).or_default() += 1;
        }
    })
    .await;
}

#[tokio::test]
async fn what_must_not_be_sent_twice_is_not_over_any_crash_or_connection() {
    let mut rng = seeded();
    let mut bench = Bench::start(|setup| setup.set("commands.max_in_flight", 4)).await;
    let mut seen = HashMap::new();
    let mut asked = 0;
    for _ in 0..12 * long_factor() {
        let mut device = connect(&bench.gateway, "kiln-3").await;
        let moment = Duration::from_micros(rng.random_range(0..20_000));
        let ask = async {
            for n in 0..6 {
                let id = format!("c{}", asked + n);
                let request = json!({"name": "fire", "id": id, "redeliver": false, "ttl": 600});
                bench.gateway.ask("kiln-3", &request).await;
            }
        };
        tokio::join!(ask, listen(&mut device, &mut seen, moment));
        asked += 6;
        // What is under way while the connection, the gateway or both end.
        match rng.random_range(0..3) {
            0 => drop(device),
            1 => bench.gateway.kill(),
            _ => {
                drop(device);
                bench.gateway.kill();
            }
        }
        if !bench.gateway.is_running() {
            bench.gateway.start().await;
        }
    }
    // Each is still there, and those that were sent are all answered: nothing is in doubt.
    let mut device = connect(&bench.gateway, "kiln-3").await;
    let mut seq = 0;
    until("every command was sent once, or is given up", async || {
        let mut fresh = HashMap::new();
        listen(&mut device, &mut fresh, Duration::from_millis(50)).await;
        for (id, times) in fresh {
            *seen.entry(id.clone()).or_default() += times;
            device.result(&id, true, Value::Null).await;
        }
        seq += 1;
        bench.gateway.commands("?state=queued").await.is_empty()
    })
    .await;
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "sent more than once: {twice:?}");
    let records = bench.gateway.commands("").await;
    assert_eq!(records.len(), asked);
    // A crash may take back that it was sent, never that it may have been.
    for record in &records {
        assert!(record["sent"].as_u64() <= Some(1), "{record}");
    }
    // The device may answer those of earlier connections now.
    for record in bench.gateway.commands("?state=delivered").await {
        device.result(record["id"].as_str().unwrap(), true, Value::Null).await;
    }
    until("all are done", async || bench.gateway.commands("?state=done").await.len() == asked)
        .await;
    eprintln!("{} of {asked} reached the device in {seq} more looks", seen.len());
}

#[tokio::test]
async fn requests_over_mqtt_survive_crashes_at_any_moment_and_are_not_doubled() {
    let mut rng = seeded();
    let mut bench = Bench::start(|setup| setup).await;
    let mut requester = Requester::start(bench.broker.port, 5).await;
    subscribed(&bench.gateway, &mut requester).await;
    let mut asked: Vec<String> = Vec::new();
    for _ in 0..6 * long_factor() {
        for _ in 0..10 {
            let id = format!("c{}", asked.len());
            requester.ask("kiln-3", &json!({"name": "fire", "id": id, "ttl": 600})).await;
            asked.push(id);
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..15_000))).await;
        match rng.random_range(0..3) {
            0 => bench.proxy.cut(),
            _ => bench.gateway.kill(),
        }
        let id = format!("c{}", asked.len());
        requester.ask("kiln-3", &json!({"name": "fire", "id": id, "ttl": 600})).await;
        asked.push(id);
        if !bench.gateway.is_running() {
            bench.gateway.start().await;
        }
    }
    until("every request is there", async || bench.gateway.commands("").await.len() >= asked.len())
        .await;
    let mut device = connect(&bench.gateway, "kiln-3").await;
    for id in &asked {
        device.asked_for(id).await;
        device.result(id, true, Value::Null).await;
    }
    device.nothing_more(1).await;
    until("all are done", async || {
        bench.gateway.commands("?state=done").await.len() == asked.len()
    })
    .await;
    assert_eq!(bench.gateway.commands("").await.len(), asked.len());
}
