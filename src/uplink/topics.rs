//! Topics below the prefix, made once.

use std::collections::HashMap;

use bytes::Bytes;

use crate::core::ids::DeviceId;

/// Most devices whose topic is remembered. With more, all are forgotten and made again as they
/// come: that costs time now and then, not memory.
const REMEMBERED: usize = 65_536;

/// The topics of one gateway.
#[derive(Debug)]
pub(super) struct Topics {
    prefix: String,
    readings: HashMap<DeviceId, Bytes>,
}

impl Topics {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), readings: HashMap::new() }
    }

    /// `{prefix}/{below}`.
    pub(super) fn below(&self, below: &str) -> Bytes {
        format!("{}/{below}", self.prefix).into()
    }

    /// `{prefix}/devices/{device}/readings`.
    pub(super) fn readings(&mut self, device: &DeviceId) -> Bytes {
        if let Some(topic) = self.readings.get(device) {
            return topic.clone();
        }
        if self.readings.len() >= REMEMBERED {
            self.readings.clear();
        }
        let topic = self.below(&format!("devices/{device}/readings"));
        self.readings.insert(device.clone(), topic.clone());
        topic
    }

    /// `{prefix}/devices/{device}/readings/{name}`.
    pub(super) fn reading(&self, device: &DeviceId, name: &str) -> Bytes {
        self.below(&format!("devices/{device}/readings/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_lie_below_the_prefix() {
        let mut topics = Topics::new("tidegate/gw-1");
        let device = DeviceId::new("kiln-3").unwrap();
        assert_eq!(topics.below("status"), "tidegate/gw-1/status");
        for _ in 0..2 {
            assert_eq!(topics.readings(&device), "tidegate/gw-1/devices/kiln-3/readings");
        }
        assert_eq!(topics.reading(&device, "t/1"), "tidegate/gw-1/devices/kiln-3/readings/t/1");
    }

    #[test]
    fn the_memory_for_topics_is_bounded() {
        let mut topics = Topics::new("p");
        for n in 0..=REMEMBERED {
            topics.readings(&DeviceId::new(&format!("d{n}")).unwrap());
        }
        assert!(topics.readings.len() <= REMEMBERED);
    }
}
