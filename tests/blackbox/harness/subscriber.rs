//! An ordinary MQTT 5 consumer of everything the gateway publishes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::task::JoinHandle;

use super::until;

/// One message that the broker passed on.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
}

impl Message {
    /// The payload as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.payload)))
    }
}

/// Subscribed to `#` until dropped.
pub(crate) struct Subscriber {
    messages: Arc<Mutex<Vec<Message>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Connects and waits for SUBACK.
    pub(crate) async fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("tidegate-test-subscriber", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30));
        // None would be the library's 10 KiB.
        options.set_max_packet_size(Some(1 << 24));
        let (client, mut events) = AsyncClient::new(options, 100);
        let messages = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(Mutex::new(false));
        let task = tokio::spawn({
            let (messages, subscribed) = (messages.clone(), subscribed.clone());
            async move {
                loop {
                    match events.poll().await {
                        Ok(Event::Incoming(Packet::ConnAck(_))) => {
                            client.try_subscribe("#", QoS::AtLeastOnce).unwrap();
                        }
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            *subscribed.lock().unwrap() = true;
                        }
                        Ok(Event::Incoming(Packet::Publish(publish))) => {
                            messages.lock().unwrap().push(Message {
                                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                                payload: publish.payload.to_vec(),
                                retain: publish.retain,
                            });
                        }
                        Ok(_) => {}
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        until("the subscription", async || *subscribed.lock().unwrap()).await;
        Self { messages, task }
    }

    /// What has come on `topic` so far.
    pub(crate) fn on(&self, topic: &str) -> Vec<Message> {
        let messages = self.messages.lock().unwrap();
        messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// Waits until at least `count` messages have come on `topic` and gives all of them.
    pub(crate) async fn wait(&self, topic: &str, count: usize) -> Vec<Message> {
        let what = format!("{count} messages on {topic}");
        until(&what, async || self.on(topic).len() >= count).await;
        self.on(topic)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}
