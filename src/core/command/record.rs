//! One command with everything that became of it, as the ledger keeps it.

use ciborium::Value;
use serde::{Deserialize, Serialize};

use super::json::{bytes_text, cbor_len, to_json};
use super::request::BadRequest;
use crate::core::ids::DeviceId;

/// Longest response topic in bytes.
pub const RESPONSE_TOPIC_MAX: usize = 1024;
/// Longest correlation data in bytes.
pub const CORRELATION_MAX: usize = 1024;
/// Longest error text of a record, in characters; a device's own words are cut there.
pub const ERROR_MAX: usize = 1024;

/// Where a command stands.
///
/// ```text
/// queued ──► delivered ──► done | failed
///    │           └───────► expired ──► done | failed   (a RESULT that came too late)
///    └──► expired | rejected
/// rejected                                            (from the beginning)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted, waits for the device or its turn.
    Queued,
    /// Sent to the device, or about to be; see [`Record::redeliver`].
    Delivered,
    /// The device did it.
    Done,
    /// The device answered with an error.
    Failed,
    /// Its time ran out before the device answered.
    Expired,
    /// It may not be sent.
    Rejected,
}

impl State {
    /// All of them, in the order of a command's life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Delivered, Self::Done, Self::Failed, Self::Expired, Self::Rejected];

    /// As it is written in topics, JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// Whether nothing follows, but a late RESULT for an expired one.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Delivered)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Through what a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The topic `…/commands`.
    Mqtt,
    /// `POST /api/v1/devices/{device}/commands`.
    Http,
    /// `tidegate send`.
    Cli,
}

impl Way {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
            Self::Cli => "cli",
        }
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requester {
    /// Through what.
    pub via: Way,
    /// The user or address, as far as it is known; empty over MQTT, whose brokers do not tell.
    pub name: String,
    /// Where else the result is to go.
    pub response: Option<Response>,
}

/// The response topic of an MQTT 5 request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The whole topic.
    pub topic: String,
    /// Goes back as it came.
    #[serde(with = "optional_bytes")]
    pub correlation: Option<Vec<u8>>,
}

impl Response {
    /// Checks the lengths, so that what is kept of a request is bounded.
    ///
    /// # Errors
    /// When the topic is empty, over [`RESPONSE_TOPIC_MAX`] bytes or has wildcards, or the
    /// correlation data is over [`CORRELATION_MAX`] bytes.
    pub fn new(topic: String, correlation: Option<Vec<u8>>) -> Result<Self, BadRequest> {
        if topic.is_empty() || topic.len() > RESPONSE_TOPIC_MAX || topic.contains(['+', '#', '\0'])
        {
            return Err(BadRequest::new(format!(
                "the response topic must have 1 to {RESPONSE_TOPIC_MAX} bytes and no wildcards"
            )));
        }
        if correlation.as_ref().is_some_and(|data| data.len() > CORRELATION_MAX) {
            return Err(BadRequest::new(format!(
                "the correlation data is over {CORRELATION_MAX} bytes"
            )));
        }
        Ok(Self { topic, correlation })
    }
}

/// One state that a command entered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub state: State,
    /// When: Unix time in seconds.
    pub time: f64,
    /// A RESULT that came after the command had expired.
    #[serde(default)]
    pub late: bool,
    /// What else a person should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// One command: what was asked, by whom, and what became of it. The serialised form is the ledger's
/// format (see `src/ledger`): a member may be added with a default, none renamed or removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The gateway's own number for it; grows, never used twice.
    pub number: u64,
    /// Grows with every change, from 1.
    pub version: u32,
    /// Its name towards device and requester; unique among the device's commands in the ledger.
    pub id: String,
    /// Whose it is.
    #[serde(with = "device")]
    pub device: DeviceId,
    /// What is asked.
    pub name: String,
    /// With what.
    pub params: Value,
    /// Seconds from acceptance for which it is wanted.
    pub ttl: u64,
    /// Whether it is sent again after a reconnect without RESULT. False: it is written to a socket
    /// once at most. For that, `delivered` is made durable *before* the write; a crash or a lost
    /// connection in between leaves a command that is `delivered` and never reached the device.
    pub redeliver: bool,
    /// Who asked.
    pub requester: Requester,
    /// When it was accepted: Unix time in seconds.
    pub accepted: f64,
    /// When its time runs out, by the same clock.
    pub expires: f64,
    /// How many times it was handed to a connection.
    pub sent: u32,
    /// The states it has been in, oldest first; never empty.
    pub history: Vec<Entry>,
    /// What the device answered; null if nothing.
    pub value: Value,
    /// What went wrong, for a person.
    pub error: Option<String>,
    /// Orders the ends of all commands; none before the end.
    pub finish: Option<u64>,
    /// Whether the broker has acknowledged the result.
    pub published: bool,
}

impl Record {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        // It is never empty; one that is, is nothing that could be sent.
        self.history.last().map_or(State::Rejected, |entry| entry.state)
    }

    /// When it came to stand there: Unix time in seconds.
    #[must_use]
    pub fn since(&self) -> f64 {
        self.history.last().map_or(self.accepted, |entry| entry.time)
    }

    /// About how many bytes it takes as CBOR.
    #[must_use]
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let response = self.requester.response.as_ref().map_or(0, |response| {
            response.topic.len() + response.correlation.as_ref().map_or(0, Vec::len)
        });
        let history = self.history.iter().map(|entry| 48 + text(&entry.note)).sum::<usize>();
        256 + cbor_len(&self.params)
            + cbor_len(&self.value)
            + text(&self.error)
            + response
            + history
    }

    /// The payload on `…/results` and on the response topic:
    /// `{"id","device","name","state","value","error","time"}`.
    #[must_use]
    pub fn result_json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id,
            "device": self.device.as_str(),
            "name": self.name,
            "state": self.state().as_str(),
            "value": to_json(&self.value),
            "error": self.error,
            "time": self.since(),
        })
    }

    /// All that is known of it, as the HTTP API and the feed show it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let history = self.history.iter().map(|entry| {
            let mut shown =
                serde_json::json!({ "state": entry.state.as_str(), "time": entry.time });
            if let Some(members) = shown.as_object_mut() {
                if entry.late {
                    members.insert("late".into(), true.into());
                }
                if let Some(note) = &entry.note {
                    members.insert("note".into(), note.as_str().into());
                }
            }
            shown
        });
        let response = self.requester.response.as_ref().map(|response| {
            serde_json::json!({
                "topic": response.topic,
                "correlation": response.correlation.as_deref().map(bytes_text),
            })
        });
        serde_json::json!({
            "id": self.id,
            "device": self.device.as_str(),
            "name": self.name,
            "params": to_json(&self.params),
            "state": self.state().as_str(),
            "value": to_json(&self.value),
            "error": self.error,
            "time": self.since(),
            "ttl": self.ttl,
            "redeliver": self.redeliver,
            "accepted": self.accepted,
            "expires": self.expires,
            "sent": self.sent,
            "requester": {
                "via": self.requester.via.as_str(),
                "name": self.requester.name,
                "response": response,
            },
            "history": history.collect::<Vec<_>>(),
        })
    }
}

mod device {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::core::ids::DeviceId;

    pub(super) fn serialize<S: Serializer>(id: &DeviceId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DeviceId, D::Error> {
        DeviceId::new(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod optional_bytes {
    use ciborium::Value;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[allow(clippy::ref_option, reason = "the shape that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.clone().map_or(Value::Null, Value::Bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        match Value::deserialize(from)? {
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::Null => Ok(None),
            _ => Err(D::Error::custom("correlation is not a byte string")),
        }
    }
}
