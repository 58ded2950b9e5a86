//! Passwords: hashed with argon2id (RFC 9106), kept as a PHC string.

use std::fmt;

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use rand::TryRngCore;

/// Fewest characters of a new password.
pub const MIN: usize = 8;
/// Most bytes of a password.
pub const MAX: usize = 1024;

/// What the OWASP cheat sheet for password storage names as its least: 19 MiB, twice. About 60 ms
/// on a Raspberry Pi 4.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// A hash may not ask for more than this: whoever wrote it would have the gateway run out of memory.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;

/// The hash of a password, with its salt and parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// Why a new password will not do.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("the password has fewer than {MIN} characters")]
    Short,
    /// Too long.
    #[error("the password has more than {MAX} bytes")]
    Long,
    /// Nothing that a person could type.
    #[error("the password holds control characters")]
    Control,
    /// The random source or the hash failed.
    #[error("the password cannot be hashed: {0}")]
    Failed(String),
}

impl Password {
    /// Hashes a new password. Takes 19 MiB and about a tenth of a second.
    ///
    /// # Errors
    /// When it is too short or too long, holds control characters, or there is no randomness.
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if text.chars().count() < MIN {
            return Err(PasswordError::Short);
        }
        if text.len() > MAX {
            return Err(PasswordError::Long);
        }
        if text.chars().any(char::is_control) {
            return Err(PasswordError::Control);
        }
        let failed = |error: &dyn fmt::Display| PasswordError::Failed(error.to_string());
        let mut salt = [0; 16];
        rand::rngs::OsRng.try_fill_bytes(&mut salt).map_err(|e| failed(&e))?;
        let salt = SaltString::encode_b64(&salt).map_err(|e| failed(&e))?;
        let params =
            Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
        let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password(text.as_bytes(), &salt)
            .map_err(|error| failed(&error))?;
        Ok(Self(hash.to_string()))
    }

    /// Reads a hash.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let hash = PasswordHash::new(text).map_err(|_| "is not the hash of a password")?;
        let params = Params::try_from(&hash).map_err(|_| "has parameters that argon2 forbids")?;
        if hash.algorithm != Algorithm::Argon2id.ident() || hash.version != Some(19) {
            return Err("is not a hash by argon2id, version 19");
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err("has no salt or no hash");
        }
        if params.m_cost() > MEMORY_KIB_MAX
            || params.t_cost() > PASSES_MAX
            || params.p_cost() > LANES_MAX
        {
            return Err("wants more than 64 MiB, 16 passes or 8 lanes");
        }
        Ok(Self(text.to_owned()))
    }

    /// That of nobody: no password fits, and to find that out takes as long as for a user.
    #[must_use]
    pub fn of_nobody() -> Self {
        let (salt, hash) = ("bm9ib2R5bm9ib2R5bm9ibw", "A".repeat(43));
        Self(format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}"))
    }

    /// Whether `text` is the password. Takes as much memory and time as the hash says; not for a
    /// thread that others wait for.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let Ok(hash) = PasswordHash::new(&self.0) else { return false };
        Argon2::default().verify_password(text.as_bytes(), &hash).is_ok()
    }

    /// The hash as it stands in the file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows nothing: a hash is worth guessing at.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_alone_and_two_hashes_differ() {
        let one = Password::new("correct horse").unwrap();
        assert!(one.is("correct horse"));
        assert!(!one.is("correct horsf") && !one.is("") && !Password::of_nobody().is(""));
        assert_ne!(one, Password::new("correct horse").unwrap());
        assert!(one.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.as_str());
        assert_eq!(Password::parse(one.as_str()), Ok(one));
        assert!(Password::parse(Password::of_nobody().as_str()).is_ok());
    }

    #[test]
    fn hashes_that_are_weak_foreign_or_greedy_are_refused() {
        let hash = "A".repeat(43);
        let of = |head: &str| Password::parse(&format!("{head}$c2FsdHNhbHQ${hash}")).unwrap_err();
        assert!(of("$argon2i$v=19$m=19456,t=2,p=1").contains("argon2id"));
        assert!(of("$argon2id$v=16$m=19456,t=2,p=1").contains("version 19"));
        assert!(of("$argon2id$v=19$m=1048576,t=2,p=1").contains("64 MiB"));
        assert!(Password::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ").is_err());
        for text in ["", "secret", "$2b$12$abcdefghijklmnopqrstuv"] {
            assert!(Password::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn short_long_and_unprintable_passwords_are_refused() {
        assert!(matches!(Password::new("1234567"), Err(PasswordError::Short)));
        assert!(matches!(Password::new(&"x".repeat(1025)), Err(PasswordError::Long)));
        assert!(matches!(Password::new("1234567\n8"), Err(PasswordError::Control)));
    }
}
