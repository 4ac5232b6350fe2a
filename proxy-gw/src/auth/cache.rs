//! Credentials that were right a short while ago, so that a client which opens many connections
//! pays for one check.
//!
//! Invariant: only keyed digests are held, never a password, and no more than the capacity.

use crate::front_end::Credentials;
use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use mptcp_core::time::Instant;
use sha2::Sha256;
use std::collections::{HashMap, VecDeque};

/// A digest of user and password under a key of this process.
pub(super) type Digest = [u8; 32];

/// One block of HMAC-SHA-256: used as it is.
pub(super) type CacheKey = [u8; 64];

/// Right credentials and when they are forgotten.
pub(super) struct Cache {
    key: CacheKey,
    capacity: usize,
    lifetime: Duration,
    /// Keys are keyed digests: nobody outside can choose them.
    expiries: HashMap<Digest, Instant>,
    /// The same digests in the order of their expiry.
    order: VecDeque<(Instant, Digest)>,
}

impl Cache {
    /// Empty; `key` must be secret.
    pub(super) fn new(key: CacheKey, capacity: usize, lifetime: Duration) -> Self {
        Self {
            key,
            capacity,
            lifetime,
            expiries: HashMap::with_capacity(capacity),
            order: VecDeque::with_capacity(capacity + 1),
        }
    }

    /// The digest of `credentials`, of a user whose password is as old as `since` says.
    pub(super) fn digest(&self, credentials: &Credentials, since: Option<u64>) -> Digest {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        mac.update(&(credentials.user.len() as u64).to_be_bytes());
        mac.update(&credentials.user);
        mac.update(&since.unwrap_or(u64::MAX).to_be_bytes());
        mac.update(&credentials.password);
        mac.finalize().into_bytes().into()
    }

    /// Whether these credentials were right within the lifetime.
    pub(super) fn contains(&self, now: Instant, digest: &Digest) -> bool {
        self.expiries.get(digest).is_some_and(|expiry| now < *expiry)
    }

    /// Remembers right credentials; the oldest entry makes room.
    pub(super) fn insert(&mut self, now: Instant, digest: Digest) {
        let expiry = now + self.lifetime;
        self.expiries.insert(digest, expiry);
        self.order.push_back((expiry, digest));
        while self.order.len() > self.capacity {
            self.forget_oldest();
        }
        while self.order.front().is_some_and(|(expiry, _)| *expiry <= now) {
            self.forget_oldest();
        }
    }

    /// A digest inserted again later outlives its earlier place in the order.
    fn forget_oldest(&mut self) {
        if let Some((expiry, digest)) = self.order.pop_front()
            && self.expiries.get(&digest) == Some(&expiry)
        {
            self.expiries.remove(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Zeroizing::new(password.into()) }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn digests_tell_user_and_password_apart_and_depend_on_the_key() {
        let cache = |key| Cache::new([key; 64], 4, Duration::from_secs(60));
        let one = cache(1);
        let digest = one.digest(&credentials("ab", "c"), Some(0));
        assert_eq!(digest, one.digest(&credentials("ab", "c"), Some(0)));
        assert_ne!(digest, one.digest(&credentials("ab", "c"), Some(1)));
        assert_ne!(digest, one.digest(&credentials("a", "bc"), Some(0)));
        assert_ne!(digest, cache(2).digest(&credentials("ab", "c"), Some(0)));
    }

    #[test]
    fn entries_expire_and_the_oldest_makes_room() {
        let mut cache = Cache::new([1; 64], 2, Duration::from_secs(60));
        for (second, digest) in [(0, [1; 32]), (1, [2; 32]), (2, [3; 32])] {
            cache.insert(at(second), digest);
        }
        assert!(!cache.contains(at(2), &[1; 32]), "made room");
        assert!(cache.contains(at(60), &[2; 32]));
        assert!(!cache.contains(at(61), &[2; 32]), "expired");
        cache.insert(at(61), [3; 32]);
        assert!(cache.contains(at(100), &[3; 32]), "renewed");
        assert_eq!((cache.expiries.len(), cache.order.len()), (1, 2));
        for second in 200..1000 {
            cache.insert(at(second), [9; 32]);
        }
        assert!(cache.order.len() <= 2 && cache.expiries.len() <= 2);
    }
}
