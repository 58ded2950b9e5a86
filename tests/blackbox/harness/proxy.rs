//! Stands between gateway and broker: a witness of every PUBLISH and PUBACK, and a source of
//! faults that a broker killed or stopped cannot show.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mqtt::{self, Packet, Publish};
use super::{DEADLINE, free_port, until};

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Forward,
    /// Passes everything on but the broker's PUBACKs, which it swallows.
    SwallowAcks,
    /// Passes everything on but the gateway's PUBACKs, which it swallows.
    SwallowConfirms,
    /// Accepts connections and is silent; so are those that it had.
    HalfOpen,
    /// Closes every connection at once.
    Refuse,
    /// Does not even listen, as a broker that is being restarted.
    Away,
}

/// One PUBLISH of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Witnessed {
    /// Counts the gateway's connections.
    pub(crate) connection: usize,
    /// When it passed.
    pub(crate) at: Instant,
    pub(crate) publish: Publish,
    /// The reason code of the broker's PUBACK. Noted even when it was swallowed.
    pub(crate) acked: Option<u8>,
}

impl Witnessed {
    /// Whether the broker took it. A PUBACK may also say that nobody has subscribed (0x10).
    pub(crate) fn accepted(&self) -> bool {
        self.acked.is_some_and(|reason| reason < 0x80)
    }

    /// Whether it is the result of a command.
    pub(crate) fn is_result(&self) -> bool {
        self.publish.topic.ends_with("/results")
    }

    /// Whether it is a batch of readings.
    pub(crate) fn is_readings(&self) -> bool {
        self.publish.topic.contains("/readings")
    }

    /// The payload as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.publish.json()
    }
}

/// The proxy; ends with the runtime of its test.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<watch::Sender<(Mode, u64)>>,
    witnessed: Arc<Mutex<Vec<Witnessed>>>,
    connections: watch::Receiver<usize>,
    swallowed: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts one before the broker at `broker`.
    pub(crate) async fn start(broker: u16) -> Self {
        // Not one from the kernel's range for outgoing connections: it is given up now and then.
        let port = free_port();
        let mut listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mode = Arc::new(watch::Sender::new((Mode::Forward, 0)));
        let witnessed = Arc::new(Mutex::new(Vec::new()));
        let (count, connections) = watch::channel(0);
        let swallowed = Arc::new(AtomicUsize::new(0));
        let (seen, eaten) = (witnessed.clone(), swallowed.clone());
        let proxy =
            Self { port, mode: mode.clone(), witnessed: seen, connections, swallowed: eaten };
        tokio::spawn(async move {
            let mut away = mode.subscribe();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => Some(accepted.unwrap().0),
                    () = reached(&mut away, |mode| mode == Mode::Away) => None,
                };
                let Some(client) = accepted else {
                    drop(listener);
                    reached(&mut away, |mode| mode != Mode::Away).await;
                    listener = bind_again(port).await;
                    continue;
                };
                count.send_modify(|count| *count += 1);
                let connection = *count.borrow();
                let link = Link {
                    connection,
                    mode: mode.subscribe(),
                    witnessed: witnessed.clone(),
                    swallowed: swallowed.clone(),
                };
                tokio::spawn(link.run(client, broker));
            }
        });
        proxy
    }

    /// Changes what it does, for the connections it has as well. Those that a silence has held
    /// end with it: what they hold is stale, and must not take the place of a newer connection.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_modify(|(now, cut)| {
            *cut += u64::from(*now == Mode::HalfOpen);
            *now = mode;
        });
    }

    /// Cuts every connection it has.
    pub(crate) fn cut(&self) {
        self.mode.send_modify(|state| state.1 += 1);
    }

    /// How many connections the gateway has made so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// Looks at everything the gateway has published so far, in order.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Witnessed]) -> T) -> T {
        look(&self.witnessed.lock().unwrap())
    }

    /// Those that are readings.
    pub(crate) fn readings(&self) -> Vec<Witnessed> {
        self.look(|all| all.iter().filter(|seen| seen.is_readings()).cloned().collect())
    }

    /// How many PUBACKs of the gateway it has swallowed.
    pub(crate) fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// The results of commands that the broker took, in their order.
    pub(crate) fn results(&self) -> Vec<serde_json::Value> {
        let taken = |seen: &&Witnessed| seen.is_result() && seen.accepted();
        self.look(|all| all.iter().filter(taken).map(Witnessed::json).collect())
    }

    /// Waits until `holds` of what was published so far.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Witnessed]) -> bool) {
        until(what, async || self.look(&holds)).await;
    }
}

/// Waits for a mode that `fits`; for ever, once nobody can set one any more.
async fn reached(mode: &mut watch::Receiver<(Mode, u64)>, fits: impl Fn(Mode) -> bool) {
    if mode.wait_for(|(mode, _)| fits(*mode)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Listens at `port` as soon as that is possible.
async fn bind_again(port: u16) -> TcpListener {
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[derive(Clone)]
struct Link {
    connection: usize,
    mode: watch::Receiver<(Mode, u64)>,
    witnessed: Arc<Mutex<Vec<Witnessed>>>,
    swallowed: Arc<AtomicUsize>,
}

impl Link {
    async fn run(mut self, client: TcpStream, broker: u16) {
        let mut mode = self.mode.clone();
        let (_, born) = *mode.borrow();
        let ended =
            mode.wait_for(|(mode, cut)| matches!(*mode, Mode::Refuse | Mode::Away) || *cut != born);
        let work = async {
            self.ready().await;
            let Ok(server) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            let (level, levels) = watch::channel(4);
            // Either end gone is the end of both, abruptly, as it is without a proxy.
            tokio::select! {
                _ = self.clone().upstream(client_in, server_out, level) => {}
                _ = self.clone().downstream(server_in, client_out) => {}
            }
            drop(levels);
        };
        tokio::select! {
            _ = ended => {}
            () = work => {}
        }
    }

    /// Waits out a silence.
    async fn ready(&mut self) {
        let _ = self.mode.wait_for(|(mode, _)| *mode != Mode::HalfOpen).await;
    }

    async fn upstream(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        level: watch::Sender<u8>,
    ) -> std::io::Result<()> {
        loop {
            self.ready().await;
            let packet = Packet::read(&mut from).await?;
            self.ready().await;
            match packet.kind() {
                mqtt::CONNECT => drop(level.send(packet.level())),
                mqtt::PUBLISH => {
                    let publish = packet.publish(*level.borrow());
                    let at = Instant::now();
                    let seen = Witnessed { connection: self.connection, at, publish, acked: None };
                    self.witnessed.lock().unwrap().push(seen);
                }
                _ => {}
            }
            let swallowed = self.mode.borrow().0 == Mode::SwallowConfirms;
            if packet.kind() == mqtt::PUBACK && swallowed {
                self.swallowed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            to.write_all(&packet.bytes).await?;
        }
    }

    async fn downstream(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
    ) -> std::io::Result<()> {
        loop {
            let packet = Packet::read(&mut from).await?;
            self.ready().await;
            if packet.kind() == mqtt::PUBACK {
                let (id, reason) = packet.puback();
                let mut witnessed = self.witnessed.lock().unwrap();
                // From the end, where the open ones are.
                let open = witnessed.iter_mut().rev().find(|seen| {
                    seen.connection == self.connection
                        && seen.publish.packet_id == Some(id)
                        && seen.acked.is_none()
                });
                open.expect("a PUBACK follows its PUBLISH").acked = Some(reason);
            }
            if packet.kind() == mqtt::PUBACK && self.mode.borrow().0 == Mode::SwallowAcks {
                continue;
            }
            tokio::time::timeout(DEADLINE, to.write_all(&packet.bytes)).await??;
        }
    }
}
