//! The demo and its broker, started as a person or the demo starts them.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const DEADLINE: Duration = Duration::from_secs(60);

/// The broker as the demo starts it.
struct Broker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
}

impl Broker {
    fn start(listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo-broker", "--listen", listen])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let first = lines.recv_timeout(DEADLINE).unwrap();
        let address = first.strip_prefix("listening ").unwrap().parse().unwrap();
        Self { child, stdin, lines, address }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }

    /// Closes its stdin and waits for its end.
    fn leave(mut self) {
        drop(self.stdin.take());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(began.elapsed() < DEADLINE, "the broker does not end with its stdin");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn envelope(seq: u64) -> String {
    format!(r#"{{"gateway":"g","device":"kiln-3","epoch":7,"seq":{seq},"readings":[{{}},{{}}]}}"#)
}

/// Publishes one batch with MQTT 3.1.1 and waits until a subscriber has it.
fn publish_v4(address: SocketAddr, seq: u64) {
    let mut options = MqttOptions::new(format!("v4-{seq}"), "127.0.0.1", address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("tidegate/#", QoS::AtLeastOnce).unwrap();
    for event in connection.iter() {
        match event.unwrap() {
            Event::Incoming(Packet::SubAck(_)) => client
                .publish(
                    "tidegate/g/devices/kiln-3/readings",
                    QoS::AtLeastOnce,
                    false,
                    envelope(seq),
                )
                .unwrap(),
            Event::Incoming(Packet::Publish(publish)) => {
                assert_eq!(publish.payload, envelope(seq).as_bytes());
                return;
            }
            _ => {}
        }
    }
}

/// Publishes one batch with MQTT 5 and waits for its PUBACK.
fn publish_v5(address: SocketAddr, seq: u64) {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{Client, Event, MqttOptions};
    let mut options = MqttOptions::new(format!("v5-{seq}"), "127.0.0.1", address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut connection) = Client::new(options, 10);
    let topic = "tidegate/g/devices/kiln-3/readings";
    client.publish(topic, QoS::AtLeastOnce, false, envelope(seq)).unwrap();
    for event in connection.iter() {
        if matches!(event.unwrap(), Event::Incoming(Packet::PubAck(_))) {
            return;
        }
    }
}

#[test]
fn the_broker_serves_both_versions_on_one_port_reports_batches_and_leaves_with_its_stdin() {
    let broker = Broker::start("127.0.0.1:0");
    let address = broker.address;
    publish_v4(address, 41);
    assert_eq!(broker.line(), "arrived kiln-3 7 41 2");
    publish_v5(address, 42);
    assert_eq!(broker.line(), "arrived kiln-3 7 42 2");

    let mut idle = TcpStream::connect(address).unwrap();
    broker.leave();
    assert_eq!(idle.read(&mut [0; 8]).unwrap_or(0), 0, "connections are cut");
    assert!(TcpStream::connect(address).is_err(), "and no new ones taken");

    let again = Broker::start(&address.to_string());
    assert_eq!(again.address, address);
    publish_v5(address, 43);
    assert_eq!(again.line(), "arrived kiln-3 7 43 2");
}

#[test]
fn a_demo_with_an_outage_says_where_to_look_loses_nothing_and_sends_a_command() {
    let arguments = "demo --for 6s --outage 2s --devices-port 0 --dashboard-port 0 --broker-port 0";
    let demo = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(demo.stdout).unwrap();
    let err = String::from_utf8(demo.stderr).unwrap();
    assert!(demo.status.success(), "{out}{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("dashboard http://127.0.0.1:"), "{out}");
    assert!(lines[1].starts_with("devices ws://127.0.0.1:"), "{out}");
    assert!(lines[2].starts_with("broker mqtt://127.0.0.1:"), "{out}");
    let figure = |name: &str| -> u64 {
        lines.iter().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    };
    assert!(figure("acknowledged ") >= 10, "{out}");
    assert_eq!(figure("acknowledged "), figure("arrived "), "{out}");
    assert_eq!(figure("out of order "), 0, "{out}");
    assert!(lines.contains(&"commands sent 1, done 1"), "{out}");
    assert!(err.contains("this-machine: identify: done after "), "{err}");
    assert!(err.contains("The broker is gone for 2 s.") && err.contains("The broker is back."));
}
