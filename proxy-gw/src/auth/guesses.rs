//! Guesses that are being checked: the same credentials at several shards at once are one attempt of their source.
//!
//! Invariant: fixed memory, and no lock: a slot is one word. A guess that is not found there is paid for by itself.

use super::cache::{CacheKey, Digest};
use core::sync::atomic::{AtomicU64, Ordering};
use mptcp_core::rng::Rng;

const SLOTS: usize = 1024;

/// See the module.
pub(crate) struct Guesses {
    /// Of digests: the same for all shards.
    key: CacheKey,
    /// A part of the digest of each; 0 where there is none.
    slots: Vec<AtomicU64>,
}

impl core::fmt::Debug for Guesses {
    /// Without the key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Guesses").finish_non_exhaustive()
    }
}

impl Guesses {
    /// None yet; with a key drawn from `rng`.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut key = [0; 64];
        rng.fill(&mut key);
        Self { key, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// What digests are made with.
    pub(super) fn key(&self) -> CacheKey {
        self.key
    }

    /// Whether one is being checked, on any shard, that was paid for.
    pub(super) fn is_under_way(&self, digest: &Digest) -> bool {
        let (slot, mark) = self.place(digest);
        slot.is_some_and(|slot| slot.load(Ordering::Relaxed) == mark)
    }

    /// One that was paid for is being checked.
    pub(super) fn begin(&self, digest: &Digest) {
        self.replace(digest, |mark| (0, mark));
    }

    /// It has an answer.
    pub(super) fn end(&self, digest: &Digest) {
        self.replace(digest, |mark| (mark, 0));
    }

    fn replace(&self, digest: &Digest, by: impl FnOnce(u64) -> (u64, u64)) {
        let (slot, mark) = self.place(digest);
        let (before, then) = by(mark);
        if let Some(slot) = slot {
            // Otherwise the place is another one's.
            let _ = slot.compare_exchange(before, then, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Its slot, and how it is told from others there.
    fn place(&self, digest: &Digest) -> (Option<&AtomicU64>, u64) {
        let [a, b, c, d, e, f, g, h, high, low, ..] = *digest;
        let at = usize::from(u16::from_be_bytes([high, low])) % SLOTS;
        (self.slots.get(at), u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1))
    }
}
