//! The live sessions: one per device, found again when it is replaced or revoked.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::config::Auth;
use crate::config::registry::{Credential, Registry};
use crate::core::ids::{DeviceId, SessionId};
use crate::core::policy::Permissions;
use crate::core::session::{Close, REPLACED, REVOKED};
use crate::host::revoked::{CertificateId, Revoked};
use crate::ports::{Link, Outbound};

/// How a device proved who it is; to find out later whether that still holds.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// Not at all: `auth = "none"`.
    Unasked,
    /// With a token of the registry.
    Token(Credential),
    /// With this client certificate.
    Certificate(CertificateId),
}

impl Proof {
    /// Checks what a device offers. What the work and the answer are does not tell whether the
    /// device is known.
    ///
    /// With certificates there need not be a registry: who has a certificate of the client CA is a
    /// device. Where there is the file, only those that it lists may connect, even when it lists
    /// nobody, so that removing a device shuts it out and opens the door for nobody.
    pub(crate) fn check(
        auth: Auth,
        registry: &Registry,
        device: &DeviceId,
        token: Option<&str>,
        certified: Option<CertificateId>,
        now: f64,
    ) -> Option<Self> {
        match auth {
            Auth::None => Some(Self::Unasked),
            Auth::Token => {
                registry.credential(device, token.unwrap_or_default(), now).map(Self::Token)
            }
            Auth::Mtls => certified.filter(|_| admits(registry, device)).map(Self::Certificate),
        }
    }

    /// Whether it still holds.
    pub(crate) fn holds(&self, registry: &Registry, device: &DeviceId, now: f64) -> bool {
        match self {
            Self::Unasked => true,
            Self::Token(credential) => registry.still_valid(credential, device, now),
            Self::Certificate(_) => admits(registry, device),
        }
    }

    /// Whether it was a certificate that is on `revoked`.
    pub(crate) fn is_withdrawn(&self, revoked: &Revoked) -> bool {
        matches!(self, Self::Certificate(certificate) if revoked.lists(certificate))
    }

    fn is_token(&self) -> bool {
        matches!(self, Self::Token(_))
    }
}

/// Whether a device that has proved itself by its certificate may connect.
fn admits(registry: &Registry, device: &DeviceId) -> bool {
    !registry.has_file() || registry.get(device).is_some()
}

/// What `device` may do: as the registry says, else everything.
pub(crate) fn permissions(registry: &Registry, device: &DeviceId) -> Arc<Permissions> {
    registry.permissions(device).unwrap_or_default()
}

/// The connections that are open: found by device once they have said HELLO.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_device: HashMap<DeviceId, Live>,
    before_hello: HashMap<SessionId, (DeviceId, Arc<Link>)>,
    /// How many of those there are of each device.
    waiting: HashMap<DeviceId, usize>,
}

#[derive(Debug)]
struct Live {
    session: SessionId,
    link: Arc<Link>,
    proof: Proof,
}

impl Sessions {
    /// Adds one that has not said HELLO yet, so that it can be told to close.
    pub(crate) fn await_hello(&mut self, session: SessionId, device: DeviceId, link: Arc<Link>) {
        *self.waiting.entry(device.clone()).or_default() += 1;
        self.before_hello.insert(session, (device, link));
    }

    /// How many connections of `device` have not said HELLO.
    pub(crate) fn waiting(&self, device: &DeviceId) -> usize {
        self.waiting.get(device).copied().unwrap_or(0)
    }

    /// It will not say HELLO any more, or has said it.
    pub(crate) fn await_hello_no_more(&mut self, session: SessionId) {
        let Some((device, _)) = self.before_hello.remove(&session) else { return };
        shrink(&mut self.before_hello);
        if let Some(count) = self.waiting.get_mut(&device) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&device);
                shrink(&mut self.waiting);
            }
        }
    }

    /// HELLO was said; the device's session before this one, if any, is told to close.
    pub(crate) fn insert(
        &mut self,
        device: DeviceId,
        session: SessionId,
        link: Arc<Link>,
        proof: Proof,
    ) {
        self.await_hello_no_more(session);
        let live = Live { session, link, proof };
        if let Some(replaced) = self.by_device.insert(device, live) {
            let reason = "replaced by a newer connection of the same device";
            close(&replaced.link, Close::new(REPLACED, reason));
        }
    }

    /// Removes `session`. Whether it was there: not, if it had been replaced.
    pub(crate) fn remove(&mut self, device: &DeviceId, session: SessionId) -> bool {
        let current = self.by_device.get(device).is_some_and(|live| live.session == session);
        if current {
            self.by_device.remove(device);
            shrink(&mut self.by_device);
        }
        current
    }

    /// Closes every session whose proof does not hold any more; how many. `all` looks at every
    /// one, else only at those whose proof may end by time.
    pub(crate) fn revoke(&self, registry: &Registry, now: f64, all: bool) -> usize {
        let may_have_ended = |live: &Live| all || live.proof.is_token();
        let ended = |(device, live): &(&DeviceId, &Live)| {
            may_have_ended(live) && !live.proof.holds(registry, device, now)
        };
        self.by_device
            .iter()
            .filter(ended)
            .map(|(device, live)| {
                tracing::info!(%device, "credentials revoked: closing its connection");
                close(&live.link, revoked());
            })
            .count()
    }

    /// Closes every session whose certificate is on `revoked`.
    pub(crate) fn withdraw(&self, revoked: &Revoked) {
        for (device, live) in &self.by_device {
            if live.proof.is_withdrawn(revoked) {
                tracing::info!(%device, "certificate withdrawn: closing its connection");
                close(&live.link, withdrawn());
            }
        }
    }

    /// Lets those connections look again at what their device may do whose limits are `other` ones
    /// now: one that waits for its rate would not see it otherwise.
    pub(crate) fn nudge(&self, other: impl Fn(&DeviceId) -> bool) {
        let changed = self.by_device.iter().filter(|(device, _)| other(device));
        changed.for_each(|(_, live)| live.link.nudge());
    }

    /// Tells every connection to close.
    pub(crate) fn close_all(&self, reason: &Close) {
        let live = self.by_device.values().map(|live| &live.link);
        live.chain(self.before_hello.values().map(|(_, link)| link))
            .for_each(|link| close(link, reason.clone()));
    }
}

/// A storm that is over should not hold memory for good.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 + 4 * map.len() {
        map.shrink_to(2 * map.len());
    }
}

/// What a session is told whose credentials do not hold any more.
pub(crate) fn revoked() -> Close {
    Close::new(REVOKED, "credentials revoked: the token was replaced or the device removed")
}

/// What a session is told whose certificate was withdrawn.
pub(crate) fn withdrawn() -> Close {
    Close::new(REVOKED, "credentials revoked: the certificate is on the revocation list")
}

fn close(link: &Link, Close { code, reason }: Close) {
    link.send(Outbound::Close { code, reason });
}
