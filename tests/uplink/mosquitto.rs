//! A real mosquitto, where there is one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::mqttbytes::v4::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, QoS};
use tempfile::TempDir;
use tidegate::config::{Mqtt, MqttVersion, PayloadFormat};
use tidegate::ports::DownCause;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::driver::{Driver, PATIENCE, batches, seq, settings, wide_batch};

pub(crate) struct Mosquitto {
    folder: TempDir,
    process: Option<Child>,
    pub(crate) port: u16,
}

impl Mosquitto {
    /// Starts on a free port with `extra` lines of configuration.
    pub(crate) async fn start(extra: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let extra = extra(folder.path());
        let anonymous = if extra.contains("allow_anonymous") { "" } else { "allow_anonymous true" };
        let configuration = format!(
            "listener {port} 127.0.0.1\n{anonymous}\npersistence false\n\
             max_queued_messages 0\nset_tcp_nodelay true\n{extra}\n"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), configuration).unwrap();
        let mut mosquitto = Self { folder, process: None, port };
        mosquitto.run().await;
        mosquitto
    }

    pub(crate) async fn run(&mut self) {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("these tests need mosquitto (apt install mosquitto)");
        let process = Command::new(program)
            .arg("-c")
            .arg(self.path("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let listening = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                let exited = self.process.as_mut().unwrap().try_wait().unwrap();
                assert!(exited.is_none(), "mosquitto ended at once: {exited:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, listening).await.expect("mosquitto listens");
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Subscribes to everything; ready when it returns.
    pub(crate) async fn subscribe(&self) -> Subscriber {
        let mut options = MqttOptions::new(
            format!("subscriber-{}", rand::random::<u32>()),
            "127.0.0.1",
            self.port,
        );
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 10);
        client.subscribe("tidegate/#", QoS::AtLeastOnce).await.unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        let task = tokio::spawn(async move {
            // Lives as long as its event loop.
            let _client = client;
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => {
                        ready.take().map(|ready| ready.send(()));
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        let message = (publish.topic, publish.payload.to_vec(), publish.retain);
                        // Nobody may be left to hear it.
                        let _ = sender.send(message);
                    }
                    _ => {}
                }
            }
        });
        timeout(PATIENCE, subscribed).await.expect("SUBACK in time").unwrap();
        Subscriber { received, task }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Subscriber {
    received: mpsc::UnboundedReceiver<(String, Vec<u8>, bool)>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    pub(crate) async fn next(&mut self) -> (String, Vec<u8>, bool) {
        timeout(PATIENCE, self.received.recv()).await.expect("a message in time").expect("open")
    }

    /// The next message on a topic with this end.
    pub(crate) async fn next_on(&mut self, end: &str) -> Vec<u8> {
        loop {
            let (topic, payload, _) = self.next().await;
            if topic.ends_with(end) {
                return payload;
            }
        }
    }

    /// Everything until the broker is gone.
    async fn rest(mut self) -> Vec<(String, Vec<u8>, bool)> {
        timeout(PATIENCE, &mut self.task).await.expect("the subscription ends").unwrap();
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

fn json(payload: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload).unwrap()
}

/// 20 000 batches, in order, each with its content.
async fn stream_of_batches(version: MqttVersion) {
    const COUNT: u64 = 20_000;
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    let mut subscriber = mosquitto.subscribe().await;
    let settings = Mqtt { version, max_inflight: 1000, ..settings(mosquitto.port) };
    let mut driver = Driver::new(&settings, batches(COUNT));
    let checking = async {
        for n in 0..COUNT {
            let payload = json(&subscriber.next_on("/devices/kiln-3/readings").await);
            assert_eq!(payload["seq"], n + 1);
            assert_eq!(payload["gateway"], "gw-1");
            assert_eq!(payload["readings"][0]["v"], n as f64);
        }
    };
    driver.beside(checking).await;
    driver.until("all published", Driver::all_settled).await;
    assert_eq!(driver.published.len() as u64, COUNT);
    assert!(driver.downs.is_empty());
}

#[tokio::test]
async fn a_stream_of_batches_arrives_whole_and_in_order_over_mqtt_5() {
    stream_of_batches(MqttVersion::V5).await;
}

#[tokio::test]
async fn a_stream_of_batches_arrives_whole_and_in_order_over_mqtt_3_1_1() {
    stream_of_batches(MqttVersion::V4).await;
}

/// mosquitto keeps nothing over SIGKILL, so what it had acknowledged may never reach a subscriber.
/// What it had not acknowledged must, and in order.
async fn killed_mid_stream(version: MqttVersion) {
    const COUNT: usize = 20_000;
    let mut mosquitto = Mosquitto::start(|_| String::new()).await;
    let settings = Mqtt { version, max_inflight: 1000, ..settings(mosquitto.port) };
    let mut driver = Driver::new(&settings, batches(COUNT as u64));
    for kill_at in [3000, 9000] {
        driver.until("part of it", |driver| driver.settled() >= kill_at).await;
        let downs = driver.downs.len();
        mosquitto.kill();
        driver.until("the loss is seen", |driver| driver.downs.len() > downs).await;
        assert_eq!(driver.downs[downs].1, DownCause::ClosedByBroker);
        driver.unanswered_at_down.retain(|n| !driver.published.contains(n));
        let before = driver.published.clone();
        mosquitto.run().await;
        let mut subscriber = mosquitto.subscribe().await;
        // The first that comes is the first without PUBACK.
        let first = driver.beside(subscriber.next_on("/readings")).await;
        let expected = (0..COUNT).find(|n| !before.contains(n)).unwrap();
        assert_eq!(seq(&first), expected as u64 + 1);
        if kill_at == 9000 {
            let rest = async {
                let mut last = seq(&first);
                while last < COUNT as u64 {
                    let next = seq(&subscriber.next_on("/readings").await);
                    assert_eq!(next, last + 1, "in order, without gap or duplicate");
                    last = next;
                }
            };
            driver.beside(rest).await;
        }
    }
    driver.until("all published", Driver::all_settled).await;
    assert_eq!(driver.published.len(), COUNT);
    assert!(driver.refused.is_empty());
}

#[tokio::test]
async fn a_broker_killed_mid_stream_gets_the_rest_from_the_own_table_over_mqtt_5() {
    killed_mid_stream(MqttVersion::V5).await;
}

#[tokio::test]
async fn a_broker_killed_mid_stream_gets_the_rest_from_the_own_table_over_mqtt_3_1_1() {
    killed_mid_stream(MqttVersion::V4).await;
}

#[tokio::test]
async fn the_status_is_retained_and_the_will_replaces_it_when_the_gateway_dies() {
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    for version in [MqttVersion::V5, MqttVersion::V4] {
        let settings = Mqtt { version, ..settings(mosquitto.port) };
        let mut driver = Driver::new(&settings, batches(1));
        driver.until("published", Driver::all_settled).await;

        let mut late = mosquitto.subscribe().await;
        let (topic, payload, retained) = late.next().await;
        assert_eq!(topic, "tidegate/gw-1/status");
        assert!(retained);
        let status = json(&payload);
        assert_eq!(status["state"], "online");
        assert_eq!(status["gateway"], "gw-1");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert!(status["since"].as_f64().unwrap() > 1.7e9);

        // No goodbye: the socket just closes.
        drop(driver);
        assert_eq!(json(&late.next_on("/status").await)["state"], "offline");
        let (_, payload, retained) = mosquitto.subscribe().await.next().await;
        assert!(retained);
        assert_eq!(json(&payload)["state"], "offline");
    }
}

#[tokio::test]
async fn a_goodbye_leaves_an_offline_status_and_no_will() {
    let mut mosquitto = Mosquitto::start(|_| String::new()).await;
    let mut driver = Driver::new(&settings(mosquitto.port), batches(1));
    driver.until("published", Driver::all_settled).await;
    let subscriber = mosquitto.subscribe().await;
    timeout(PATIENCE, tidegate::ports::Publisher::close(&mut driver.uplink)).await.unwrap();
    drop(driver);
    // The whole exchange is over once a later client has got its answer.
    drop(mosquitto.subscribe().await);
    mosquitto.kill();
    let states: Vec<String> = subscriber
        .rest()
        .await
        .iter()
        .map(|(_, payload, _)| json(payload)["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["online", "offline"]);
}

#[tokio::test]
async fn a_device_that_the_brokers_acl_does_not_allow_is_refused_and_the_rest_flows() {
    let mosquitto = Mosquitto::start(|folder| {
        let acl = folder.join("acl");
        let rules = "topic readwrite tidegate/gw-1/status\ntopic readwrite tidegate/gw-1/devices/kiln-3/#\n";
        std::fs::write(&acl, rules).unwrap();
        format!("acl_file {}", acl.display())
    })
    .await;
    let mut batches = batches(10);
    batches[4].device = tidegate::core::ids::DeviceId::new("stranger").unwrap();
    let mut driver = Driver::new(&settings(mosquitto.port), batches);
    driver.until("all settled", Driver::all_settled).await;
    assert_eq!(driver.published.len(), 9);
    // Some versions of mosquitto also close the connection after such a PUBACK (2.0.11 does).
    assert_eq!(driver.refused[&4], "not authorised (0x87)");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_whichever_way_the_broker_says_it() {
    let mut with_large = batches(10);
    with_large[4] = wide_batch(5, 200);
    for (limit, reason) in [
        ("max_packet_size 2000", "maximum packet size of 2000"),
        ("message_size_limit 2000", "(0x95)"),
    ] {
        let mosquitto = Mosquitto::start(|_| limit.to_owned()).await;
        let mut driver = Driver::new(&settings(mosquitto.port), with_large.clone());
        driver.until("all settled", Driver::all_settled).await;
        assert_eq!(driver.published.len(), 9);
        assert!(driver.refused[&4].contains(reason), "{limit}: {:?}", driver.refused);
    }
    // MQTT 3.1.1 has no words for it: the broker just closes.
    let mosquitto = Mosquitto::start(|_| "max_packet_size 2000".to_owned()).await;
    let settings = Mqtt { version: MqttVersion::V4, ..settings(mosquitto.port) };
    let mut driver = Driver::new(&settings, with_large);
    driver.until("the loss is seen", |driver| !driver.downs.is_empty()).await;
    assert_eq!(driver.downs[0].1, DownCause::ClosedByBroker);
}

#[tokio::test]
async fn the_password_file_is_read_again_for_every_attempt() {
    let mosquitto = Mosquitto::start(|folder| {
        let users = folder.join("users");
        std::fs::write(&users, "").unwrap();
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg(&users)
            .args(["gateway", "s3cret"])
            .status()
            .unwrap();
        assert!(made.success());
        format!("allow_anonymous false\npassword_file {}", users.display())
    })
    .await;
    for version in [MqttVersion::V5, MqttVersion::V4] {
        let password_file = mosquitto.path("password");
        std::fs::write(&password_file, "wrong\n").unwrap();
        let settings = Mqtt {
            version,
            username: Some("gateway".to_owned()),
            password_file: Some(password_file.clone()),
            ..settings(mosquitto.port)
        };
        let mut driver = Driver::new(&settings, batches(1));
        driver.until("refused", |driver| driver.health.uplink().last_error.is_some()).await;
        let error = driver.health.uplink().last_error.unwrap();
        assert!(error.contains("not authorised"), "{error}");
        std::fs::write(&password_file, "s3cret\n").unwrap();
        driver.until("published", Driver::all_settled).await;
        assert!(driver.ups[0] >= 1);
    }
}

#[tokio::test]
async fn every_form_of_payload_arrives_on_its_topic() {
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    for version in [MqttVersion::V5, MqttVersion::V4] {
        for payload in [PayloadFormat::SenmlJson, PayloadFormat::SenmlCbor, PayloadFormat::Value] {
            let mut subscriber = mosquitto.subscribe().await;
            let settings = Mqtt { version, payload, ..settings(mosquitto.port) };
            let batch = wide_batch(22, 3);
            let mut driver = Driver::new(&settings, vec![batch.clone()]);
            driver.until("published", Driver::all_settled).await;
            match payload {
                PayloadFormat::Value => {
                    for name in ["r0", "r1", "r2"] {
                        let topic = format!("/devices/kiln-3/readings/{name}");
                        assert_eq!(subscriber.next_on(&topic).await, b"21");
                    }
                }
                PayloadFormat::SenmlJson => {
                    let pack = json(&subscriber.next_on("/devices/kiln-3/readings").await);
                    assert_eq!(pack[2]["n"], "r2");
                }
                _ => {
                    let pack = subscriber.next_on("/devices/kiln-3/readings").await;
                    assert_eq!(pack, tidegate::core::senml::encode(&batch.readings));
                }
            }
        }
    }
}

#[tokio::test]
async fn mqtt_5_carries_what_a_bare_pack_does_not_say_as_user_properties() {
    let mosquitto = Mosquitto::start(|_| String::new()).await;
    let mut options = rumqttc::v5::MqttOptions::new("properties", "127.0.0.1", mosquitto.port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = rumqttc::v5::AsyncClient::new(options, 10);
    client.subscribe("tidegate/#", rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let settings = Mqtt { payload: PayloadFormat::SenmlJson, ..settings(mosquitto.port) };
    let mut driver = Driver::new(&settings, batches(1));
    driver.hands_over = false;
    let reading = async {
        loop {
            use rumqttc::v5::mqttbytes::v5::Packet;
            if let rumqttc::v5::Event::Incoming(Packet::SubAck(_)) = events.poll().await.unwrap() {
                break;
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    driver.hands_over = true;
    let properties = driver
        .beside(async {
            loop {
                use rumqttc::v5::mqttbytes::v5::Packet;
                if let rumqttc::v5::Event::Incoming(Packet::Publish(publish)) =
                    events.poll().await.unwrap()
                {
                    if publish.topic.ends_with(b"/readings") {
                        return publish.properties.unwrap();
                    }
                }
            }
        })
        .await;
    let expected = [
        ("gateway", "gw-1"),
        ("device", "kiln-3"),
        ("epoch", "7"),
        ("seq", "1"),
        ("received", "1763800000.125"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(properties.user_properties, expected);
    assert_eq!(properties.content_type.as_deref(), Some("application/senml+json"));
}

/// An authority and what it has signed, as files.
fn certificates(folder: &Path, authority: &str) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, authority);
    let ca = ca.self_signed(&ca_key).unwrap();
    std::fs::write(folder.join(format!("{authority}.pem")), ca.pem()).unwrap();
    for (name, host) in [("server", "localhost"), ("client", "gateway")] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, host);
        let leaf = leaf.signed_by(&key, &ca, &ca_key).unwrap();
        std::fs::write(folder.join(format!("{authority}-{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(folder.join(format!("{authority}-{name}.key")), key.serialize_pem())
            .unwrap();
    }
}

#[tokio::test]
async fn tls_with_an_own_authority_and_client_certificates() {
    let mosquitto = Mosquitto::start(|folder| {
        certificates(folder, "right");
        certificates(folder, "wrong");
        let file = |name| folder.join(name).display().to_string();
        format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
            file("right.pem"),
            file("right-server.pem"),
            file("right-server.key")
        )
    })
    .await;
    let with = |authority: &str, client: &str| Mqtt {
        tls: true,
        host: "localhost".to_owned(),
        ca: Some(mosquitto.path(&format!("{authority}.pem"))),
        cert: Some(mosquitto.path(&format!("{client}-client.pem"))),
        key: Some(mosquitto.path(&format!("{client}-client.key"))),
        max_inflight: 1000,
        ..settings(mosquitto.port)
    };
    for version in [MqttVersion::V5, MqttVersion::V4] {
        let mut driver = Driver::new(&Mqtt { version, ..with("right", "right") }, batches(5000));
        driver.until("published over TLS", Driver::all_settled).await;
        assert!(driver.downs.is_empty());
    }

    let failure = async |settings: &Mqtt| {
        let mut driver = Driver::new(settings, batches(1));
        driver.until("it fails", |driver| driver.health.uplink().last_error.is_some()).await;
        assert!(driver.ups.is_empty());
        driver.health.uplink().last_error.unwrap()
    };
    let error = failure(&with("wrong", "right")).await;
    assert!(
        error.contains("TLS with localhost failed") && error.contains("UnknownIssuer"),
        "{error}"
    );
    let error = failure(&Mqtt { host: "127.0.0.1".to_owned(), ..with("right", "right") }).await;
    assert!(error.contains("not valid for name"), "{error}");
    // The server says so only after the client is done: the connection breaks a little later.
    failure(&with("right", "wrong")).await;
}
