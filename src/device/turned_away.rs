//! What an operator gets to know of a device that was turned away at the handshake, and the client
//! does not: whoever connects must not learn from the answer, nor from how long it takes, which
//! devices are registered. So what tells them apart is looked up after the answer has gone out.

use super::refusal::Refusal;
use super::shared::Shared;
use crate::config::Auth;
use crate::config::registry::{Credential, Mistrust};
use crate::core::ids::DeviceId;

/// Longest `Origin` that is shown, in characters.
const ORIGIN_SHOWN: usize = 100;

/// A connection that was refused, and the device that its path named.
pub(crate) struct TurnedAway {
    device: DeviceId,
    why: Why,
}

/// Why, as far as the answer does not say it.
enum Why {
    /// What it offered does not prove that it is this device.
    Mistrusted {
        /// Of the token that it offered.
        token: Option<Credential>,
        /// Whether it has a client certificate that names the device.
        certified: bool,
    },
    /// It is on a page that is not listed.
    Origin(String),
    /// There is no room for it.
    NoRoom(Refusal),
}

impl TurnedAway {
    /// By `auth`. What this costs does not depend on whether there is such a device.
    pub(crate) fn mistrusted(device: &DeviceId, token: Option<&str>, certified: bool) -> Self {
        let token = token.map(Credential::of);
        Self { device: device.clone(), why: Why::Mistrusted { token, certified } }
    }

    /// By `devices.allowed_origins`.
    pub(crate) fn origin(device: &DeviceId, origin: &[u8]) -> Self {
        let origin = String::from_utf8_lossy(origin).chars().take(ORIGIN_SHOWN).collect();
        Self { device: device.clone(), why: Why::Origin(origin) }
    }

    /// By a limit.
    pub(crate) fn no_room(device: &DeviceId, refusal: Refusal) -> Self {
        Self { device: device.clone(), why: Why::NoRoom(refusal) }
    }

    /// Shows it on the dashboard. To be called once the answer has gone out.
    pub(crate) fn show(&self, shared: &Shared) {
        let device = &self.device;
        let (code, reason) = match &self.why {
            Why::Mistrusted { token, certified } => {
                (Refusal::Unauthorized.code(), mistrust(device, token.as_ref(), *certified, shared))
            }
            Why::Origin(origin) => (
                Refusal::OriginNotAllowed.code(),
                format!("the page's Origin {origin:?} is not in devices.allowed_origins"),
            ),
            Why::NoRoom(refusal) => {
                let setting = match refusal {
                    Refusal::TooManyFromAddress => " (devices.max_connections_per_address)",
                    Refusal::TooFast => " (devices.max_handshakes_per_second_per_address)",
                    Refusal::Full => " (devices.max_connections)",
                    Refusal::Busy => " (devices.max_handshakes_per_second)",
                    _ => "",
                };
                (refusal.code(), format!("{}{setting}", refusal.body()))
            }
        };
        shared.show_refused(device, code, &reason);
    }
}

fn mistrust(
    device: &DeviceId,
    token: Option<&Credential>,
    certified: bool,
    shared: &Shared,
) -> String {
    let unknown = || {
        format!("not in the registry (devices.registry): `tidegate device add {device}` adds it")
    };
    if shared.auth == Auth::Mtls {
        return if certified {
            unknown()
        } else {
            "no client certificate that names this device came with the connection \
             (devices.auth = \"mtls\")"
                .to_owned()
        };
    }
    let Some(token) = token else {
        return "no token came with the request (devices.auth = \"token\")".to_owned();
    };
    match shared.registry().mistrust(device, token, shared.unix()) {
        Mistrust::Unknown => unknown(),
        Mistrust::NoToken => format!(
            "the registry has no token for this device: `tidegate device rotate {device}` makes one"
        ),
        Mistrust::Expired => "the token is the one before the last rotation, and the overlap in \
                              which both work has ended"
            .to_owned(),
        Mistrust::Foreign => {
            "the token is not this device's: it was never, or a rotation has replaced it".to_owned()
        }
    }
}
