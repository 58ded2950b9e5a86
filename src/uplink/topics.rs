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

/// The topics that requests come on.
#[derive(Debug)]
pub(super) struct CommandTopics {
    prefix: String,
    filter: String,
}

impl CommandTopics {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), filter: format!("{prefix}/devices/+/commands") }
    }

    /// All of them: `{prefix}/devices/+/commands`.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// The device that `topic` names; `None` where it is none of them.
    pub(super) fn device<'a>(&self, topic: &'a [u8]) -> Option<&'a str> {
        let below = self.below(std::str::from_utf8(topic).ok()?)?;
        let device = below.strip_prefix("devices/")?.strip_suffix("/commands")?;
        (!device.contains('/')).then_some(device)
    }

    /// Whether only the gateway itself has something to say there.
    pub(super) fn is_own(&self, topic: &str) -> bool {
        self.below(topic).is_some_and(|below| {
            matches!(below, "status" | "losses") || below.starts_with("devices/")
        })
    }

    fn below<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&self.prefix)?.strip_prefix('/')
    }
}

/// Whether messages can be published on `topic` (MQTT 5 section 4.7).
///
/// # Errors
/// Why not.
pub(super) fn publishable(topic: &str) -> Result<(), &'static str> {
    match topic.len() {
        0 => Err("the topic is empty"),
        1..=65_535 if topic.contains(['+', '#']) => Err("the topic holds a wildcard, + or #"),
        1..=65_535 if topic.contains('\0') => Err("the topic holds a NUL character"),
        1..=65_535 => Ok(()),
        _ => Err("the topic is longer than 65535 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_topic_names_its_device() {
        let topics = CommandTopics::new("tidegate/gw-1");
        assert_eq!(topics.filter(), "tidegate/gw-1/devices/+/commands");
        assert_eq!(topics.device(b"tidegate/gw-1/devices/kiln-3/commands"), Some("kiln-3"));
        assert_eq!(topics.device(b"tidegate/gw-1/devices//commands"), Some(""));
        for topic in [
            &b"tidegate/gw-1/devices/a/b/commands"[..],
            b"tidegate/gw-1/devices/commands",
            b"tidegate/gw-10/devices/a/commands",
            b"other/devices/a/commands",
            b"tidegate/gw-1/devices/\xff/commands",
            b"",
        ] {
            assert_eq!(topics.device(topic), None);
        }
    }

    #[test]
    fn the_gateways_own_topics_are_known() {
        let topics = CommandTopics::new("tidegate/gw-1");
        for own in ["status", "losses", "devices/a/readings", "devices/b/commands"] {
            assert!(topics.is_own(&format!("tidegate/gw-1/{own}")));
        }
        for other in ["tidegate/gw-1/answers", "tidegate/gw-2/status", "app/1", "status"] {
            assert!(!topics.is_own(other), "{other}");
        }
    }

    #[test]
    fn only_a_plain_topic_can_be_published_to() {
        for topic in ["a", "a/b", "/", "ä", "$share/x", &"x".repeat(65_535)] {
            assert_eq!(publishable(topic), Ok(()));
        }
        for topic in ["", "a/+", "#", "a+b", "a\0", &"x".repeat(65_536)] {
            assert!(publishable(topic).is_err(), "{:?}", topic.get(..9));
        }
    }

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
