//! What to do about what was refused, in words and as a command.

use serde_json::Value;

use crate::config::Auth;
use crate::core::ids::DeviceId;
use crate::core::senml::RejectCode;
use crate::core::session::{
    HEARTBEAT_MISSED, NOT_A_MESSAGE, OUT_OF_TURN, OVERLOADED, REPLACED, REVOKED, TEXT_MESSAGE,
    TOO_BIG,
};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    /// For a person.
    pub(super) text: String,
    /// What to type, if that is all there is to it.
    pub(super) command: Option<String>,
}

/// What advice goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) device: &'a DeviceId,
    pub(super) auth: Auth,
    pub(super) registered: bool,
    pub(super) has_token: bool,
    /// Whether there is a registry file, readable or not.
    pub(super) has_registry: bool,
}

impl Advice {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), command: None }
    }

    fn with(text: impl Into<String>, command: String) -> Self {
        Self { text: text.into(), command: Some(command) }
    }
}

/// What stands in the way of the device as things are, whatever was refused.
pub(super) fn standing(facts: &Facts<'_>, near: &[String]) -> Vec<Advice> {
    let mut all = Vec::new();
    let needed = facts.auth == Auth::Token || (facts.auth == Auth::Mtls && facts.has_registry);
    if !near.is_empty() {
        all.push(Advice::text(format!("there is {}; is that meant?", near.join(", "))));
    }
    if needed && !facts.registered {
        all.push(unregistered(facts));
    } else if facts.auth == Auth::Token && !facts.has_token {
        all.push(tokenless(facts));
    }
    all
}

/// What to do about `refusal`, an entry of the gateway's list.
pub(super) fn of(refusal: &Value, facts: &Facts<'_>) -> Advice {
    let device = facts.device;
    let code = refusal["code"].as_u64().unwrap_or(0);
    match refusal["kind"].as_str() {
        Some("batch") => of_batch(code, device),
        Some("rate") => Advice::with(
            "it sends more often than it may; let it send less often or more readings in a batch, \
             or allow it more",
            format!("tidegate device set {device} --batches-per-second N --burst N"),
        ),
        _ => match u16::try_from(code).unwrap_or(0) {
            401 => unauthorized(facts),
            code => of_connection(code, facts),
        },
    }
}

fn unregistered(facts: &Facts<'_>) -> Advice {
    let device = facts.device;
    Advice::with(
        "it is not in the registry; register it, and put the token that this prints into the \
         device",
        format!("tidegate device add {device}"),
    )
}

fn tokenless(facts: &Facts<'_>) -> Advice {
    let device = facts.device;
    let text = "it has no token in the registry; make one, and put it into the device";
    Advice::with(text, format!("tidegate device rotate {device}"))
}

fn unauthorized(facts: &Facts<'_>) -> Advice {
    let device = facts.device;
    match facts.auth {
        Auth::Mtls if facts.registered || !facts.has_registry => Advice::with(
            "its certificate must name it in the CN or as a DNS name, letter by letter; make one, \
             or look at the id by which it connects",
            format!("tidegate tls new FOLDER --device {device}"),
        ),
        _ if !facts.registered => unregistered(facts),
        Auth::Token if !facts.has_token => tokenless(facts),
        _ => Advice::with(
            "it offers no token or another one; put its own into the device, or, as the registry \
             holds only a hash, make a new one and put that into it",
            format!("tidegate device rotate {device}"),
        ),
    }
}

fn of_connection(code: u16, facts: &Facts<'_>) -> Advice {
    let device = facts.device;
    match code {
        403 => Advice::text(
            "a page in a browser wanted to connect; if it may, add its Origin as it stands here to \
             devices.allowed_origins and restart the gateway",
        ),
        429 => Advice::text(
            "too many connections come from its address; if that is a proxy or a router with many \
             devices behind it, raise devices.max_connections_per_address",
        ),
        503 => Advice::text("the gateway is full; raise devices.max_connections"),
        REVOKED if facts.registered && facts.auth == Auth::Mtls => Advice::with(
            "its certificate was withdrawn, or it was taken out of the registry for a while; give \
             it a new certificate",
            format!("tidegate tls new FOLDER --device {device}"),
        ),
        REVOKED if facts.registered => Advice::with(
            "its token was replaced while it was connected; put the new one into the device, or \
             replace it next time with an overlap",
            format!("tidegate device rotate {device} --overlap 10m"),
        ),
        REVOKED => unregistered(facts),
        REPLACED => Advice::text(format!(
            "another connection came as {device} and took its place: two devices or two copies of \
             a program use the id, or the device reconnects without closing; give each an id of \
             its own"
        )),
        HEARTBEAT_MISSED => Advice::text(
            "it did not answer pings; look at its network and power. One that sleeps needs a larger \
             devices.heartbeat_interval",
        ),
        OUT_OF_TURN => Advice::text(
            "its program does not keep to the protocol (docs/protocol.md): HELLO comes first, once \
             and in time",
        ),
        TEXT_MESSAGE => Advice::text("its program sends text messages; they must be binary"),
        NOT_A_MESSAGE => Advice::text(
            "its program sends what is no CBOR message of the protocol (docs/protocol.md)",
        ),
        TOO_BIG => Advice::text(
            "its messages are too large; let it send smaller batches, or raise devices.max_frame",
        ),
        OVERLOADED => Advice::text(
            "the gateway had no time for it; look at `tidegate status` and the machine's load",
        ),
        _ => Advice::text("see docs/protocol.md for what the code means"),
    }
}

fn of_batch(code: u64, device: &DeviceId) -> Advice {
    let is = |reject: RejectCode| reject.code() == code;
    if is(RejectCode::NameNotPermitted) {
        Advice::with(
            "it may not publish this; allow it (naming all that it may), or let it not send it",
            format!("tidegate device set {device} --readings PATTERN"),
        )
    } else if is(RejectCode::TooManyRecords) {
        Advice::with(
            "it puts too many records into a pack; let it send smaller ones, or allow it more",
            format!("tidegate device set {device} --max-records N"),
        )
    } else if is(RejectCode::TimeOutOfRange) {
        Advice::text("its clock is wrong; set it, or let it send times relative to now")
    } else if is(RejectCode::RefusedByBroker) {
        Advice::text(
            "the broker refuses its messages for ever; look at the broker's log and limits",
        )
    } else {
        Advice::text("its program makes packs that break RFC 8428; the reason names the place")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(device: &DeviceId, auth: Auth, registered: bool, has_token: bool) -> Facts<'_> {
        Facts { device, auth, registered, has_token, has_registry: true }
    }

    fn command(kind: &str, code: u64, facts: &Facts<'_>) -> String {
        let refusal = json!({ "kind": kind, "code": code });
        of(&refusal, facts).command.unwrap_or_default()
    }

    #[test]
    fn each_refusal_has_the_command_that_mends_it() {
        let id = DeviceId::new("k").unwrap();
        let good = facts(&id, Auth::Token, true, true);
        for (kind, code, expected) in [
            ("connection", 401, "tidegate device rotate k"),
            ("connection", 4003, "tidegate device rotate k --overlap 10m"),
            ("batch", 2, "tidegate device set k --readings PATTERN"),
            ("batch", 3, "tidegate device set k --max-records N"),
            ("rate", 429, "tidegate device set k --batches-per-second N --burst N"),
            ("connection", 4009, ""),
        ] {
            assert_eq!(command(kind, code, &good), expected, "{kind} {code}");
        }
        let new = facts(&id, Auth::Token, false, false);
        assert_eq!(command("connection", 401, &new), "tidegate device add k");
        let bare = facts(&id, Auth::Token, true, false);
        assert_eq!(command("connection", 401, &bare), "tidegate device rotate k");
        let certified = facts(&id, Auth::Mtls, true, false);
        assert_eq!(command("connection", 401, &certified), "tidegate tls new FOLDER --device k");
        let unlisted = facts(&id, Auth::Mtls, false, false);
        assert_eq!(command("connection", 401, &unlisted), "tidegate device add k");
    }

    #[test]
    fn a_device_that_needs_no_entry_is_not_told_to_get_one() {
        let id = DeviceId::new("k").unwrap();
        assert!(standing(&facts(&id, Auth::None, false, false), &[]).is_empty());
        let free = Facts { has_registry: false, ..facts(&id, Auth::Mtls, false, false) };
        assert!(standing(&free, &[]).is_empty());
        assert_eq!(standing(&facts(&id, Auth::Mtls, false, false), &[]).len(), 1);
        assert_eq!(standing(&facts(&id, Auth::Token, true, false), &["k2".to_owned()]).len(), 2);
    }
}
