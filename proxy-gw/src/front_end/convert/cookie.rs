//! Cookies that show that a client receives what is sent to its address (RFC 8803 §6.2.7): a keyed
//! hash of the address, under a key that changes. A client's next connection may lead to any shard: all of them take
//! what one has given.

use core::net::IpAddr;
use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use mptcp_core::rng::Rng;
use mptcp_core::time::Instant;
use sha2::Sha256;

/// A key makes cookies in a term of so long, and is accepted in the next one.
const KEY_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Octets of a cookie, whole words.
const COOKIE_LEN: usize = 16;

type Key = [u8; 32];

/// What a cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// There is none.
    Missing,
    /// Of another address, too old, or not ours.
    Wrong,
    /// One of ours.
    Good,
}

/// The keys. They follow from a secret and the time alone, so that shards share them without a lock.
pub struct Cookies {
    secret: Key,
}

impl core::fmt::Debug for Cookies {
    /// Without the secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl Cookies {
    /// With a secret drawn from `rng`.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut secret = [0; 32];
        rng.fill(&mut secret);
        Self { secret }
    }

    /// The cookie of `client` now.
    #[must_use]
    pub fn make(&self, now: Instant, client: IpAddr) -> [u8; COOKIE_LEN] {
        let made = mac(&self.key(term(now)), client).finalize().into_bytes();
        let mut cookie = [0; COOKIE_LEN];
        for (octet, made) in cookie.iter_mut().zip(made) {
            *octet = made;
        }
        cookie
    }

    /// What `cookie` is worth if it comes from `client`; compared in constant time.
    #[must_use]
    pub fn check(&self, now: Instant, client: IpAddr, cookie: Option<&[u8]>) -> Worth {
        let Some(cookie) = cookie else { return Worth::Missing };
        let matches = |term| mac(&self.key(term), client).verify_truncated_left(cookie).is_ok();
        let current = term(now);
        let known = [current, current - 1].map(matches).contains(&true);
        if known && cookie.len() == COOKIE_LEN { Worth::Good } else { Worth::Wrong }
    }

    /// The key of a term.
    fn key(&self, term: u64) -> Key {
        let made = hash(&self.secret, &term.to_be_bytes()).finalize().into_bytes();
        let mut key = [0; 32];
        for (octet, made) in key.iter_mut().zip(made) {
            *octet = made;
        }
        key
    }
}

/// The number of the term at `now`. The one before the first has a number, too.
fn term(now: Instant) -> u64 {
    1 + now.as_millis() / 1_000 / KEY_LIFE.as_secs()
}

/// An IPv4 address is hashed as a mapped one.
fn mac(key: &Key, client: IpAddr) -> Hmac<Sha256> {
    let octets = match client {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    hash(key, &octets)
}

fn hash(key: &Key, message: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    for (octet, key) in block.iter_mut().zip(key) {
        *octet = *key;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac
}
