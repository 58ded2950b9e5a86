//! Requests and readings over a session that a real mosquitto keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use rumqttc::mqttbytes::v4::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, QoS};
use tidegate::config::{Mqtt, MqttVersion};
use tidegate::ports::Publisher;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::driver::{Driver, PATIENCE, batches, seq, settings};
use crate::mosquitto::Mosquitto;

/// Publishes one request and waits for its PUBACK.
async fn ask(port: u16, payload: &str, retain: bool) {
    let mut options =
        MqttOptions::new(format!("asker-{}", rand::random::<u32>()), "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 10);
    let topic = "tidegate/gw-1/devices/kiln-3/commands";
    client.publish(topic, QoS::AtLeastOnce, retain, payload).await.unwrap();
    let answered = async {
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
    };
    timeout(PATIENCE, answered).await.expect("PUBACK in time");
}

fn payloads(driver: &Driver) -> Vec<String> {
    let text = |payload: &Vec<u8>| String::from_utf8(payload.clone()).unwrap();
    driver.requests.iter().map(|request| text(&request.payload)).collect()
}

async fn confirm_all(driver: &mut Driver, count: usize) {
    driver.until("requests", |driver| driver.requests.len() >= count).await;
    for n in 0..count {
        driver.uplink.confirm(driver.requests[n].receipt);
    }
}

async fn kept_while_away(version: MqttVersion) {
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    let settings = Mqtt { version, ..settings(mosquitto.port) };
    let mut driver = Driver::taking_requests(&settings, batches(1));
    driver.until("published", Driver::all_settled).await;
    // A retained one from before would come with every subscription.
    driver.beside(ask(mosquitto.port, "first", true)).await;
    driver.until("arrived", |driver| driver.requests.len() == 1).await;
    // Gone without a word, and nothing confirmed: it comes again, with what came meanwhile.
    drop(driver);
    ask(mosquitto.port, "second", false).await;
    let mut driver = Driver::taking_requests(&settings, batches(1));
    confirm_all(&mut driver, 2).await;
    assert_eq!(payloads(&driver), ["first", "second"]);
    driver.until("published", Driver::all_settled).await;
    // An orderly goodbye keeps the session too.
    driver.uplink.close().await;
    ask(mosquitto.port, "third", false).await;
    let mut driver = Driver::taking_requests(&settings, batches(1));
    confirm_all(&mut driver, 1).await;
    driver.until("published", Driver::all_settled).await;
    assert_eq!(payloads(&driver), ["third"], "what was confirmed does not come again");
}

#[tokio::test]
async fn requests_are_kept_while_the_gateway_is_away_over_mqtt_5() {
    kept_while_away(MqttVersion::V5).await;
}

#[tokio::test]
async fn requests_are_kept_while_the_gateway_is_away_over_mqtt_3_1_1() {
    kept_while_away(MqttVersion::V4).await;
}

#[tokio::test]
async fn a_broker_that_has_forgotten_the_session_is_subscribed_to_again() {
    for version in [MqttVersion::V5, MqttVersion::V4] {
        let mut mosquitto = Mosquitto::start(|_| String::new()).await;
        let settings = Mqtt { version, ..settings(mosquitto.port) };
        let mut driver = Driver::taking_requests(&settings, batches(1));
        driver.until("published", Driver::all_settled).await;
        driver.beside(ask(mosquitto.port, "before", false)).await;
        driver.until("arrived", |driver| driver.requests.len() == 1).await;
        mosquitto.kill();
        driver.until("the loss is seen", |driver| driver.downs.len() == 1).await;
        mosquitto.run().await;
        driver.until("up again", |driver| driver.ups.len() == 2).await;
        // Until it is subscribed, messages go nowhere.
        let mut asked = 0;
        while driver.requests.len() < 2 {
            asked += 1;
            assert!(asked < 100, "never subscribed");
            driver.beside(ask(mosquitto.port, "after", false)).await;
            let _ = timeout(Duration::from_millis(100), driver.run()).await;
        }
        confirm_all(&mut driver, 2).await;
        assert_eq!(payloads(&driver)[..2], ["before", "after"]);
    }
}

#[tokio::test]
async fn an_answer_to_an_own_command_topic_does_not_come_back() {
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    let mut driver = Driver::taking_requests(&settings(mosquitto.port), Vec::new());
    driver.until("room", |driver| driver.uplink.send_room() > 0).await;
    driver.beside(ask(mosquitto.port, "one", false)).await;
    confirm_all(&mut driver, 1).await;
    driver.send(
        1,
        tidegate::ports::Message {
            topic: "devices/kiln-3/commands".to_owned(),
            payload: b"own".to_vec(),
            ..tidegate::ports::Message::default()
        },
    );
    driver.until("sent", |driver| driver.sent == [1]).await;
    driver.beside(ask(mosquitto.port, "two", false)).await;
    confirm_all(&mut driver, 2).await;
    assert_eq!(payloads(&driver), ["one", "two"]);
}

/// Between the gateway and the broker; every change of the watched number cuts all connections.
async fn line(port: u16, cut: watch::Receiver<u32>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cut.clone();
            cut.mark_unchanged();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    own
}

/// The session is there after every cut, and packet identifiers start again from 1: what was
/// acknowledged is not repeated, what was not is there at least once, and the order holds.
async fn cut_in_mid_stream(version: MqttVersion) {
    const COUNT: u64 = 20_000;
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    let (cutter, cut) = watch::channel(0);
    let port = line(mosquitto.port, cut).await;
    let mut subscriber = mosquitto.subscribe().await;
    let settings = Mqtt { version, max_inflight: 1000, ..settings(port) };
    let mut driver = Driver::taking_requests(&settings, batches(COUNT));
    for (round, cut_at) in [2000, 6000, 11_000, 15_000].into_iter().enumerate() {
        driver.until("part of it", |driver| driver.settled() >= cut_at).await;
        cutter.send_modify(|cuts| *cuts += 1);
        driver.until("the loss is seen", |driver| driver.downs.len() == round + 1).await;
        driver.beside(ask(mosquitto.port, &format!("request {round}"), false)).await;
    }
    driver.until("all published", Driver::all_settled).await;
    let mut arrived = BTreeMap::new();
    let mut highest = 0;
    while highest < COUNT {
        let next = seq(&subscriber.next_on("/readings").await);
        let times = arrived.entry(next).or_insert(0_u32);
        *times += 1;
        if *times == 1 {
            assert_eq!(next, highest + 1, "no gap, in order");
            highest = next;
        }
    }
    for (seq, times) in arrived {
        let unanswered = driver.unanswered_at_down.contains(&usize::try_from(seq - 1).unwrap());
        assert!(times == 1 || unanswered, "{seq} came {times} times, though it was acknowledged");
    }
    // Nobody has confirmed any, so each comes again over every connection.
    let last = "request 3".to_owned();
    driver.until("the last request", |driver| payloads(driver).contains(&last)).await;
    let mut seen = Vec::new();
    for payload in payloads(&driver) {
        if !seen.contains(&payload) {
            seen.push(payload);
        }
    }
    let expected: Vec<String> = (0..4).map(|round| format!("request {round}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_session_that_was_kept_repeats_and_loses_no_readings_over_mqtt_5() {
    cut_in_mid_stream(MqttVersion::V5).await;
}

#[tokio::test]
async fn a_session_that_was_kept_repeats_and_loses_no_readings_over_mqtt_3_1_1() {
    cut_in_mid_stream(MqttVersion::V4).await;
}
