//! A gateway and the watched way to its broker, and the end that every test of faults comes to.

use super::{Balance, Broker, Fleet, Gateway, Proxy, Setup, until};

/// The broker, the proxy before it, and a gateway that is connected through it.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) proxy: Proxy,
    pub(crate) gateway: Gateway,
}

impl Bench {
    /// Starts all three.
    pub(crate) async fn start(adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let broker = Broker::start("").await;
        let proxy = Proxy::start(broker.port).await;
        let gateway = adjust(Setup::new(proxy.port)).start().await;
        gateway.until_uplink("connected").await;
        Self { broker, proxy, gateway }
    }

    /// Batches in the spool, as the metrics say.
    pub(crate) async fn spooled(&self) -> u64 {
        self.gateway.metric("tidegate_spool_batches").await
    }

    /// Waits until the spool is empty, for as long as it gets less.
    pub(crate) async fn drained(&self) {
        let mut left = self.spooled().await;
        while left > 0 {
            let before = left;
            until(&format!("less than {before} batches in the spool"), async || {
                left = self.spooled().await;
                left < before
            })
            .await;
        }
    }

    /// Checks the books of `fleet`, then that the spool is empty, that nothing counts as lost, and
    /// that a fresh batch passes.
    pub(crate) async fn settle(&self, fleet: Fleet) -> Balance {
        let total = fleet.settle(&self.proxy).await;
        eprintln!("{total:?}");
        assert!(total.acked > 0);
        self.drained().await;
        assert_eq!(self.gateway.status().await["spool"]["lost_readings"], 0);
        let (mut fresh, _) = self.gateway.device("fresh").open(None).await;
        fresh.reading(1, 1.0).await;
        fresh.acked(1).await;
        let seen = self.proxy.readings();
        assert!(seen.iter().any(|seen| seen.json()["device"] == "fresh"));
        total
    }
}
