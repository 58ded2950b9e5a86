//! Identifiers, checked when they are made.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest device id, in characters.
pub const DEVICE_ID_MAX: usize = 64;

/// A device's id: `[A-Za-z0-9][A-Za-z0-9_-]{0,63}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// Why a string is not a device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a device id: 1 to 64 letters, digits, '_' or '-', a letter or digit first")]
pub struct BadDeviceId(String);

impl DeviceId {
    /// Checks and takes `id`.
    ///
    /// # Errors
    /// When `id` is not of the form above; the text is cut to 80 characters in the message.
    pub fn new(id: &str) -> Result<Self, BadDeviceId> {
        let bytes = id.as_bytes();
        let valid = bytes.len() <= DEVICE_ID_MAX
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if valid { Ok(Self(id.into())) } else { Err(BadDeviceId(id.chars().take(80).collect())) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for DeviceId {
    type Err = BadDeviceId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::new(id)
    }
}

/// One connection of one device, unique while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A place in the spool: every batch that is spooled gets the next one, across restarts.
pub type Position = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_is_letters_digits_underscore_and_hyphen() {
        let longest = "a".repeat(DEVICE_ID_MAX);
        for good in ["a", "7", "kiln-3", "A_b-9", longest.as_str()] {
            assert_eq!(DeviceId::new(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(DEVICE_ID_MAX + 1);
        for bad in ["", "-a", "_a", "a b", "a/b", "a+", "#", "é", "a\0", too_long.as_str()] {
            assert!(DeviceId::new(bad).is_err(), "{bad:?}");
        }
    }
}
