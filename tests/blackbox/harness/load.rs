//! Devices under load that do what the protocol asks of them through every fault: keep what is not
//! acknowledged, come back, send it again in order. And the account that must balance afterwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ciborium::Value;
use tokio::task::JoinHandle;

use super::books::{self, Accounts};
use super::proxy::Witnessed;
use super::{Connector, Device, FromGateway, Gateway, Proxy, readings, record, until};

/// The epoch that every device of a fleet uses.
const EPOCH: u64 = 7;

/// Devices that send until they are told to finish.
pub(crate) struct Fleet {
    devices: Vec<Arc<Mutex<Account>>>,
    tasks: Vec<JoinHandle<()>>,
    strangers: Vec<String>,
}

/// One device's books.
#[derive(Debug)]
struct Account {
    id: String,
    sent: u64,
    acked: u64,
    finish: bool,
    paused: bool,
    /// The longest that a batch has waited for its ACK, from when it was first sent.
    slowest: Duration,
}

impl Account {
    fn new(id: String) -> Self {
        Self { id, sent: 0, acked: 0, finish: false, paused: false, slowest: Duration::ZERO }
    }
}

/// What is left when everything has been compared.
#[derive(Debug)]
pub(crate) struct Balance {
    /// Batches that were acknowledged to devices.
    pub(crate) acked: u64,
    /// PUBLISH packets beyond the first of a batch.
    pub(crate) repeated: u64,
}

impl Fleet {
    /// Starts `count` devices that send a batch each `pace`.
    pub(crate) fn start(gateway: &Gateway, count: usize, pace: Duration) -> Self {
        let devices: Vec<_> = (0..count)
            .map(|number| {
                let id = format!("load-{number}");
                Arc::new(Mutex::new(Account::new(id)))
            })
            .collect();
        let tasks = devices
            .iter()
            .map(|account| {
                let connector = gateway.device(&account.lock().unwrap().id);
                tokio::spawn(run(connector, account.clone(), pace))
            })
            .collect();
        Self { devices, tasks, strangers: Vec::new() }
    }

    /// Leaves what the device `id` sends out of its books.
    pub(crate) fn ignore(mut self, id: &str) -> Self {
        self.strangers.push(id.to_owned());
        self
    }

    /// How many batches have been acknowledged in all.
    pub(crate) fn acked(&self) -> u64 {
        self.devices.iter().map(|account| account.lock().unwrap().acked).sum()
    }

    /// The longest wait for an ACK among those that came since the last call.
    pub(crate) fn take_slowest(&self) -> Duration {
        let taken =
            self.devices.iter().map(|account| std::mem::take(&mut account.lock().unwrap().slowest));
        taken.max().unwrap_or_default()
    }

    /// Sends nothing new, and waits until everything sent is acknowledged. Gives how many batches
    /// that is.
    pub(crate) async fn pause(&self) -> u64 {
        for account in &self.devices {
            account.lock().unwrap().paused = true;
        }
        until("every batch acknowledged", async || {
            self.devices.iter().all(|account| {
                let account = account.lock().unwrap();
                account.acked == account.sent
            })
        })
        .await;
        self.acked()
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        for account in &self.devices {
            account.lock().unwrap().paused = false;
        }
    }

    /// Waits until `more` further batches are acknowledged.
    pub(crate) async fn advance(&self, more: u64) {
        let goal = self.acked() + more;
        until(&format!("{goal} batches acknowledged"), async || self.acked() >= goal).await;
    }

    /// Sends nothing new, waits until everything sent is acknowledged, and gives the numbers.
    pub(crate) async fn finish(self) -> Accounts {
        for account in &self.devices {
            account.lock().unwrap().finish = true;
        }
        for task in self.tasks {
            super::within("every batch acknowledged", task).await.unwrap();
        }
        let numbers =
            |account: &Account| books::Account { sent: account.sent, acked: account.acked };
        let accounts = self.devices.iter().map(|account| account.lock().unwrap());
        accounts.map(|account| (account.id.clone(), numbers(&account))).collect()
    }

    /// Whether `readings` are those of batch `seq`.
    pub(crate) fn good(seq: u64, readings: &serde_json::Value) -> bool {
        readings.as_array().is_some_and(|all| all.len() == 1) && readings[0]["v"] == value(seq)
    }

    /// Sends nothing new, waits until everything sent is acknowledged and until the broker has
    /// acknowledged it too, and checks the books: all that was acknowledged arrived, with the
    /// payload that was sent; nothing arrived that was not sent; each device's batches arrived in
    /// order, repeats aside.
    pub(crate) async fn settle(self, proxy: &Proxy) -> Balance {
        for account in &self.devices {
            account.lock().unwrap().finish = true;
        }
        for task in self.tasks {
            super::within("every batch acknowledged", task).await.unwrap();
        }
        let accounts: Vec<_> = self.devices.iter().map(|account| account.lock().unwrap()).collect();
        let sent: u64 = accounts.iter().map(|account| account.sent).sum();
        let mut arrivals = Arrivals { strangers: &self.strangers, ..Arrivals::default() };
        until("every batch at the broker", async || proxy.look(|all| arrivals.count(all)) >= sent)
            .await;
        let witnessed = proxy.readings();
        let mut total = Balance { acked: 0, repeated: 0 };
        let mut by_device: HashMap<String, Vec<(&Witnessed, serde_json::Value)>> = HashMap::new();
        for seen in &witnessed {
            let json = seen.json();
            let device = json["device"].as_str().unwrap().to_owned();
            if self.strangers.contains(&device) {
                continue;
            }
            by_device.entry(device).or_default().push((seen, json));
        }
        for account in &accounts {
            assert_eq!(account.acked, account.sent, "{}: all acknowledged", account.id);
            let seen = by_device.remove(&account.id).unwrap_or_default();
            total.acked += account.acked;
            total.repeated += balance(account, &seen);
        }
        assert!(by_device.is_empty(), "devices that nobody knows: {by_device:?}");
        total
    }
}

/// Counts the different batches that the broker has accepted, looking at each only once: there may
/// be tens of thousands, and the proxy shares this thread.
#[derive(Default)]
struct Arrivals<'a> {
    strangers: &'a [String],
    looked_at: usize,
    open: Vec<usize>,
    accepted: HashSet<(String, u64)>,
}

impl Arrivals<'_> {
    fn count(&mut self, all: &[Witnessed]) -> u64 {
        let new = (self.looked_at..all.len()).filter(|at| all[*at].is_readings());
        self.open.extend(new);
        self.looked_at = all.len();
        self.open.retain(|at| {
            let seen = &all[*at];
            if seen.accepted() {
                let json = seen.json();
                let device = json["device"].as_str().unwrap().to_owned();
                if !self.strangers.contains(&device) {
                    self.accepted.insert((device, json["seq"].as_u64().unwrap()));
                }
            }
            !seen.accepted()
        });
        self.accepted.len() as u64
    }
}

/// Checks one device's arrivals and counts the repeats.
fn balance(account: &Account, seen: &[(&Witnessed, serde_json::Value)]) -> u64 {
    let id = &account.id;
    let (mut highest, mut repeated) = (0, 0);
    let mut acked = vec![false; usize::try_from(account.sent).unwrap()];
    for (witnessed, json) in seen {
        let seq = json["seq"].as_u64().unwrap();
        assert!((1..=account.sent).contains(&seq), "{id}: {seq} was never sent");
        assert_eq!(json["epoch"], EPOCH, "{id}: {seq}");
        assert_eq!(json["readings"][0]["v"], value(seq), "{id}: the payload of {seq}");
        assert_eq!(json["readings"].as_array().unwrap().len(), 1, "{id}: {seq}");
        assert!(seq <= highest + 1, "{id}: {seq} came before {}", highest + 1);
        repeated += u64::from(seq <= highest);
        highest = highest.max(seq);
        acked[usize::try_from(seq).unwrap() - 1] |= witnessed.accepted();
    }
    let missing: Vec<_> = (1..).zip(&acked).filter(|(_, ok)| !**ok).map(|(seq, _)| seq).collect();
    assert!(missing.is_empty(), "{id}: acknowledged and never at the broker: {missing:?}");
    repeated
}

/// What batch `seq` holds.
fn value(seq: u64) -> f64 {
    seq as f64 + 0.25
}

/// Sent and not acknowledged: the number, and when it was sent first.
type Unacked = VecDeque<(u64, Instant)>;

async fn run(connector: Connector, account: Arc<Mutex<Account>>, pace: Duration) {
    let mut unacked = VecDeque::new();
    loop {
        if let Ok(Ok(device)) = connector.attempt().await {
            if session(device, &account, &mut unacked, pace).await {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// One connection; true when everything is acknowledged and nothing more is to come.
async fn session(
    mut device: Device,
    account: &Mutex<Account>,
    unacked: &mut Unacked,
    pace: Duration,
) -> bool {
    if device.try_send(&super::hello(Some(EPOCH), &[])).await.is_err() {
        return false;
    }
    let FromGateway::Welcome(welcome) = device.receive().await else { return false };
    let known = welcome.acked;
    assert!(known <= account.lock().unwrap().sent, "WELCOME acknowledges what was never sent");
    acknowledge(account, unacked, known);
    for (seq, _) in unacked.clone() {
        if device.try_send(&batch(seq)).await.is_err() {
            return false;
        }
    }
    let mut tick = tokio::time::interval(pace);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (finish, paused) = {
            let account = account.lock().unwrap();
            (account.finish, account.paused)
        };
        if finish && unacked.is_empty() {
            return true;
        }
        let room = !finish && !paused && (unacked.len() as u64) < welcome.window;
        tokio::select! {
            _ = tick.tick(), if room => {
                let seq = {
                    let mut account = account.lock().unwrap();
                    account.sent += 1;
                    account.sent
                };
                unacked.push_back((seq, Instant::now()));
                if device.try_send(&batch(seq)).await.is_err() {
                    return false;
                }
            }
            // Looks again at what it is told now and then.
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            message = device.receive() => match message {
                FromGateway::Ack(seq) => acknowledge(account, unacked, seq),
                FromGateway::Close { .. } | FromGateway::Gone => return false,
                other => panic!("{other:?} in answer to good batches"),
            },
        }
    }
}

fn acknowledge(account: &Mutex<Account>, unacked: &mut Unacked, seq: u64) {
    let mut account = account.lock().unwrap();
    assert!(seq <= account.sent, "{}: ACK {seq} was never sent", account.id);
    account.acked = account.acked.max(seq);
    while let Some((_, sent)) = unacked.front().filter(|(first, _)| *first <= seq) {
        account.slowest = account.slowest.max(sent.elapsed());
        unacked.pop_front();
    }
}

fn batch(seq: u64) -> Value {
    readings(Some(seq), Value::Array(vec![record("level", value(seq), 0.0)]))
}
