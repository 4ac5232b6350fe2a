//! Cookies that show that a client receives what is sent to its address (RFC 8803 §6.2.7): a keyed
//! hash of the address, under a key that changes.

use core::net::IpAddr;
use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use mptcp_core::rng::Rng;
use mptcp_core::time::Instant;
use sha2::Sha256;

/// A key makes cookies for so long, and is accepted for as long again.
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

/// The keys.
pub struct Cookies {
    rng: Rng,
    current: Key,
    former: Key,
    since: Instant,
}

impl Cookies {
    /// Keys drawn from `rng`.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let mut rng = Rng::from_seed(seed);
        let (mut current, mut former) = ([0; 32], [0; 32]);
        rng.fill(&mut current);
        rng.fill(&mut former);
        Self { rng, current, former, since: Instant::MIN }
    }

    /// The cookie of `client` now.
    pub fn make(&mut self, now: Instant, client: IpAddr) -> [u8; COOKIE_LEN] {
        self.rotate(now);
        let made = mac(&self.current, client).finalize().into_bytes();
        let mut cookie = [0; COOKIE_LEN];
        for (octet, made) in cookie.iter_mut().zip(made) {
            *octet = made;
        }
        cookie
    }

    /// What `cookie` is worth if it comes from `client`; compared in constant time.
    pub fn check(&mut self, now: Instant, client: IpAddr, cookie: Option<&[u8]>) -> Worth {
        self.rotate(now);
        let Some(cookie) = cookie else { return Worth::Missing };
        let matches = |key| mac(key, client).verify_truncated_left(cookie).is_ok();
        let known = [&self.current, &self.former].map(matches).contains(&true);
        if known && cookie.len() == COOKIE_LEN { Worth::Good } else { Worth::Wrong }
    }

    fn rotate(&mut self, now: Instant) {
        if self.since == Instant::MIN {
            self.since = now;
        }
        // After a long pause both are old.
        for _ in 0..2 {
            if now.since(self.since) < KEY_LIFE {
                return;
            }
            self.former = self.current;
            self.rng.fill(&mut self.current);
            self.since = self.since + KEY_LIFE;
        }
        self.since = now;
    }
}

/// An IPv4 address is hashed as a mapped one.
fn mac(key: &Key, client: IpAddr) -> Hmac<Sha256> {
    let octets = match client {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut block = [0; 64];
    for (octet, key) in block.iter_mut().zip(key) {
        *octet = *key;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(&octets);
    mac
}
