//! The devices of the registry in the table, also those that have never connected.

use std::sync::Arc;

use tokio::sync::watch;

use super::feed::Fleet;
use crate::config::registry::Registry;

/// Devices that are looked at before other tasks get their turn: a registry may be large.
const AT_A_TIME: usize = 256;

impl Fleet {
    /// Keeps the devices of the registry in the table, for ever: those that have never connected as
    /// "never seen", while there is room; those that are no longer registered go, at once or when
    /// their connection ends. A registry for which `decides` is false says nothing about who may
    /// connect and is passed over.
    ///
    /// Returns when there will be no other registry any more. Runs where ingestion runs; see there
    /// for the order of locks. Cancel safe, though the table may then have taken a part only.
    pub async fn follow(
        &self,
        mut registry: watch::Receiver<Arc<Registry>>,
        decides: impl Fn(&Registry) -> bool,
    ) {
        loop {
            let current = Arc::clone(&registry.borrow_and_update());
            if decides(&current) {
                self.expect_those_of(&current).await;
            }
            if registry.changed().await.is_err() {
                return;
            }
        }
    }

    async fn expect_those_of(&self, registry: &Registry) {
        let gone = |id: &_| registry.get(id).is_none();
        for (n, slot) in self.unsorted().iter().enumerate() {
            if gone(&slot.id) {
                self.expect_no_more(slot);
            }
            give_way(n).await;
        }
        for (n, (device, _)) in registry.iter().enumerate() {
            self.expect(device);
            give_way(n).await;
        }
    }
}

async fn give_way(n: usize) {
    if n % AT_A_TIME == AT_A_TIME - 1 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::core::ids::DeviceId;
    use crate::ports::{DeviceFacts, Feed};

    fn registry(devices: impl IntoIterator<Item = String>) -> Arc<Registry> {
        let mut text = String::new();
        for device in devices {
            writeln!(text, "[devices.{device}]").unwrap();
        }
        Arc::new(Registry::parse(&text, Path::new("devices.toml")).unwrap())
    }

    fn ids(fleet: &Fleet) -> Vec<String> {
        fleet.slots().iter().map(|slot| slot.id.to_string()).collect()
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let asked = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| panic!("{what}: never"));
    }

    #[tokio::test]
    async fn the_table_follows_the_registry_however_large_and_leaves_others_their_turn() {
        let fleet = Arc::new(Fleet::new());
        let connected = DeviceId::new("d7").unwrap();
        fleet.device_up(&connected, &DeviceFacts::default());
        let all = |count: u32| registry((0..count).map(|n| format!("d{n}")));
        let (sender, receiver) = watch::channel(all(1000));
        let following = Arc::clone(&fleet);
        let task = tokio::spawn(async move {
            following.follow(receiver, |registry| registry.len() != 3).await;
        });
        tokio::task::yield_now().await;
        assert!(fleet.known() < 1000, "others get their turn in between");
        until("all are known", || fleet.known() == 1000).await;
        sender.send_replace(all(2));
        until("the others are gone", || ids(&fleet) == ["d0", "d1", "d7"]).await;
        fleet.device_down(&connected, 1.0);
        assert_eq!(ids(&fleet), ["d0", "d1"], "it was connected while the registry lost it");
        sender.send_replace(all(3));
        tokio::task::yield_now().await;
        assert_eq!(fleet.known(), 2, "a registry that decides nothing changes nothing");
        sender.send_replace(all(0));
        until("nobody is left", || fleet.known() == 0).await;
        drop(sender);
        task.await.unwrap();
    }
}
