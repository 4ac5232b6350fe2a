//! Password hashes (argon2id, RFC 9106) in PHC form, as `hash-password` writes and `[[user]]` holds.
//!
//! Invariant: a [`PasswordHash`] parses, is argon2id, and costs a bounded amount of memory and time
//! to check.

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use core::fmt;

/// Most memory one check may take, KiB: four of the largest profile RFC 9106 §4 recommends would
/// be 8 GiB; a gateway checks many at a time, so 256 MiB.
const MAX_MEMORY_KIB: u32 = 256 << 10;
/// Most passes over that memory.
const MAX_PASSES: u32 = 64;
/// Most lanes.
const MAX_LANES: u32 = 16;
/// RFC 1929: a password has 1 to 255 bytes.
const MAX_PASSWORD_LEN: usize = 255;

/// A valid argon2id hash in PHC form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// Why a text is no usable hash, or why none could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadHash {
    /// Not a PHC string.
    Malformed,
    /// Another algorithm, an old version, or no digest.
    NotArgon2id,
    /// Checking it would cost too much.
    TooExpensive,
    /// The password is empty or longer than SOCKS5 can carry.
    PasswordLength,
    /// The system gave no randomness for the salt.
    NoRandomness,
}

impl fmt::Display for BadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a password hash in PHC form ($argon2id$...)"),
            Self::NotArgon2id => f.write_str("not an argon2id hash of version 19 with a digest"),
            Self::TooExpensive => write!(
                f,
                "the hash costs too much to check: at most m={MAX_MEMORY_KIB}, t={MAX_PASSES}, \
                 p={MAX_LANES}"
            ),
            Self::PasswordLength => {
                write!(f, "a SOCKS5 password has 1 to {MAX_PASSWORD_LEN} bytes (RFC 1929)")
            }
            Self::NoRandomness => f.write_str("the system gave no randomness for the salt"),
        }
    }
}

impl core::error::Error for BadHash {}

impl PasswordHash {
    /// Checks a hash in PHC form.
    ///
    /// # Errors
    /// See [`BadHash`].
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| BadHash::Malformed)?;
        let is_current = hash.version.is_none_or(|version| version == 0x13);
        if hash.algorithm.as_str() != "argon2id" || !is_current {
            return Err(BadHash::NotArgon2id);
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(BadHash::NotArgon2id);
        }
        let cost = Params::try_from(&hash).map_err(|_| BadHash::Malformed)?;
        let fits = cost.m_cost() <= MAX_MEMORY_KIB
            && cost.t_cost() <= MAX_PASSES
            && cost.p_cost() <= MAX_LANES;
        if fits { Ok(Self(text.to_owned())) } else { Err(BadHash::TooExpensive) }
    }

    /// Hashes `password` with a fresh salt at the default cost (19 MiB, 2 passes).
    ///
    /// # Errors
    /// [`BadHash::PasswordLength`] and [`BadHash::NoRandomness`].
    pub fn of(password: &[u8]) -> Result<Self, BadHash> {
        if password.is_empty() || password.len() > MAX_PASSWORD_LEN {
            return Err(BadHash::PasswordLength);
        }
        let hash = Argon2::default().hash_password(password).map_err(|_| BadHash::NoRandomness)?;
        Ok(Self(hash.to_string()))
    }

    /// Whether `password` is the one. Takes milliseconds: never on a shard's thread.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let Ok(hash) = phc::PasswordHash::new(&self.0) else { return false };
        Argon2::default().verify_password(password, &hash).is_ok()
    }

    /// How much work a check is: memory times passes, KiB.
    #[must_use]
    pub fn cost(&self) -> u64 {
        let params = phc::PasswordHash::new(&self.0).ok();
        let params = params.and_then(|hash| Params::try_from(&hash).ok()).unwrap_or_default();
        u64::from(params.m_cost()) * u64::from(params.t_cost())
    }

    /// The PHC form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    /// Hidden: debug output reaches logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_verify_their_password_only() {
        let hash = PasswordHash::of(b"s3cret\xff").unwrap();
        assert_eq!(PasswordHash::parse(hash.as_str()), Ok(hash.clone()));
        assert!(hash.verify(b"s3cret\xff"));
        assert!(!hash.verify(b"s3cret"));
        assert!(!hash.verify(b""));
        assert_ne!(hash, PasswordHash::of(b"s3cret\xff").unwrap(), "the salt is fresh");
    }

    #[test]
    fn passwords_socks_cannot_carry_are_refused() {
        assert_eq!(PasswordHash::of(b""), Err(BadHash::PasswordLength));
        assert_eq!(PasswordHash::of(&[b'x'; 256]), Err(BadHash::PasswordLength));
        assert!(PasswordHash::of(&[b'x'; 255]).is_ok());
    }

    #[test]
    fn other_and_expensive_hashes_are_refused() {
        let tail = "$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        let parse = |head: &str| PasswordHash::parse(&format!("{head}{tail}"));
        assert!(parse("$argon2id$v=19$m=19456,t=2,p=1").is_ok());
        assert_eq!(PasswordHash::parse("hunter2"), Err(BadHash::Malformed));
        assert_eq!(PasswordHash::parse(""), Err(BadHash::Malformed));
        assert_eq!(parse("$argon2i$v=19$m=19456,t=2,p=1"), Err(BadHash::NotArgon2id));
        assert_eq!(parse("$argon2id$v=16$m=19456,t=2,p=1"), Err(BadHash::NotArgon2id));
        assert_eq!(
            PasswordHash::parse("$argon2id$v=19$m=19456,t=2,p=1"),
            Err(BadHash::NotArgon2id)
        );
        assert_eq!(parse("$argon2id$v=19$m=4194304,t=2,p=1"), Err(BadHash::TooExpensive));
        assert_eq!(parse("$argon2id$v=19$m=19456,t=1000,p=1"), Err(BadHash::TooExpensive));
    }
}
