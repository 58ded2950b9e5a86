//! The account where something may really be gone: what was acknowledged has arrived, as it was
//! sent and in order, or is told as lost.

use std::collections::{HashMap, HashSet};

use super::proxy::Witnessed;
use super::{Gateway, Proxy, until};

/// How many batches each device has had acknowledged, and sent.
pub(crate) type Accounts = HashMap<String, Account>;

/// One device's numbers: batches from 1 on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
}

/// What became of the batches.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Acknowledged to devices.
    pub(crate) acked: u64,
    /// Of those, accepted by the broker.
    pub(crate) arrived: u64,
    /// PUBLISH packets beyond the first of a batch.
    pub(crate) repeated: u64,
    /// Readings in the loss records that were published.
    pub(crate) lost: u64,
}

impl Books {
    /// Reads what passed `proxy`. Fails for anything that was never sent, was altered, or comes for
    /// the first time after one of a higher number. `good` looks at the readings of a batch.
    ///
    /// Devices that `accounts` does not name are not looked at.
    pub(crate) fn read(
        accounts: &Accounts,
        proxy: &Proxy,
        good: impl Fn(u64, &serde_json::Value) -> bool,
    ) -> Self {
        let mut books = Self { acked: accounts.values().map(|a| a.acked).sum(), ..Self::default() };
        let mut seen: HashMap<String, (u64, HashSet<u64>)> = HashMap::new();
        let mut accepted = HashSet::new();
        for witnessed in proxy.look(<[Witnessed]>::to_vec) {
            if witnessed.publish.topic.ends_with("/losses") {
                let json = witnessed.json();
                books.lost += json["readings"].as_u64().unwrap();
            }
            if !witnessed.is_readings() {
                continue;
            }
            let json = witnessed.json();
            let device = json["device"].as_str().unwrap();
            let seq = json["seq"].as_u64().unwrap();
            let Some(account) = accounts.get(device) else { continue };
            assert!((1..=account.sent).contains(&seq), "{device}: {seq} was never sent");
            assert!(good(seq, &json["readings"]), "{device}: {seq} was altered: {json}");
            let (highest, known) = seen.entry(device.to_owned()).or_default();
            if known.insert(seq) {
                assert!(seq > *highest, "{device}: {seq} came after {highest}");
                *highest = seq;
            } else {
                books.repeated += 1;
            }
            if witnessed.accepted() && seq <= account.acked {
                accepted.insert((device.to_owned(), seq));
            }
        }
        books.arrived = accepted.len() as u64;
        books
    }

    /// Batches that were acknowledged and have not arrived.
    pub(crate) fn missing(&self) -> u64 {
        self.acked - self.arrived
    }
}

/// Waits until nothing waits in the gateway any more and its broker is there.
pub(crate) async fn drained(gateway: &Gateway) {
    gateway.until_uplink("connected").await;
    until("the spool is empty", async || {
        let status = gateway.status().await;
        status["spool"]["batches"] == 0 && gateway.metric("tidegate_uplink_inflight").await == 0
    })
    .await;
}
