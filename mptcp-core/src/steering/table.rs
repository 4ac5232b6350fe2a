//! Which flows of ours another shard owns.
//!
//! Invariant: an entry stands in exactly one of two lists. Those that nobody has confirmed make room for each
//! other alone, the oldest first, so that strangers displace nothing that works; confirmed ones go when they
//! have been used least recently. Memory is reserved by the constructor, and nothing is searched through.

use crate::rng::{KeyedHash, Rng};
use crate::tcp::Tuple;
use crate::time::{Duration, Instant};
use crate::util::list::IndexList;
use crate::util::slab::Slab;
use core::net::IpAddr;
use hashbrown::HashTable;

/// Who was used within so long of each other counts as used at once: one in many packets writes.
const GRAIN: Duration = Duration::from_secs(1);

struct Entry {
    tuple: Tuple,
    owner: u8,
    hash: u64,
    /// When it came to the end of its list.
    moved: Instant,
}

pub(super) struct Table {
    keyed: KeyedHash,
    entries: Slab<Entry>,
    /// Hashes with positions in `entries`.
    index: HashTable<(u64, u32)>,
    pending: IndexList,
    confirmed: IndexList,
    max_pending: u32,
    max_confirmed: u32,
}

impl Table {
    pub(super) fn new(max_pending: u32, max_confirmed: u32, rng: &mut Rng) -> Self {
        let capacity = max_pending.saturating_add(max_confirmed);
        Self {
            keyed: KeyedHash::new(rng),
            entries: Slab::with_capacity(capacity),
            // With twice the room it needs, what removals leave behind is swept in place.
            index: HashTable::with_capacity(2 * capacity as usize),
            pending: IndexList::with_capacity(capacity),
            confirmed: IndexList::with_capacity(capacity),
            max_pending,
            max_confirmed,
        }
    }

    /// The owner of a flow, which counts as used.
    #[inline]
    pub(super) fn find(&mut self, now: Instant, tuple: &Tuple) -> Option<u8> {
        if self.index.is_empty() {
            return None;
        }
        let idx = self.position(self.hash(tuple), tuple)?;
        let entry = self.entries.get_mut(idx)?;
        if now.since(entry.moved) >= GRAIN && self.confirmed.remove(idx) {
            entry.moved = now;
            self.confirmed.push_back(idx);
        }
        Some(entry.owner)
    }

    /// Adds a flow that is not there, unconfirmed; true when another one had to go.
    pub(super) fn add(&mut self, now: Instant, tuple: &Tuple, owner: u8) -> bool {
        if self.max_pending == 0 {
            return true;
        }
        let displaced = self.pending.len() == self.max_pending;
        if displaced && let Some(oldest) = self.pending.front() {
            self.remove_at(oldest);
        }
        if let Some(idx) = self.insert(now, tuple, owner) {
            self.pending.push_back(idx);
        }
        displaced
    }

    /// The owner has the flow; true when another one had to go. One that had to go itself comes back.
    pub(super) fn confirm(&mut self, now: Instant, tuple: &Tuple, owner: u8) -> bool {
        if let Some(idx) = self.position(self.hash(tuple), tuple) {
            if self.confirmed.contains(idx) {
                if let Some(entry) = self.entries.get_mut(idx) {
                    entry.owner = owner;
                }
                return false;
            }
            self.remove_at(idx);
        }
        if self.max_confirmed == 0 {
            return true;
        }
        let displaced = self.confirmed.len() == self.max_confirmed;
        if displaced && let Some(oldest) = self.confirmed.front() {
            self.remove_at(oldest);
        }
        if let Some(idx) = self.insert(now, tuple, owner) {
            self.confirmed.push_back(idx);
        }
        displaced
    }

    /// Removes a flow if it is still `owner`'s.
    pub(super) fn remove(&mut self, tuple: &Tuple, owner: u8) {
        if let Some(idx) = self.position(self.hash(tuple), tuple)
            && self.entries.get(idx).is_some_and(|entry| entry.owner == owner)
        {
            self.remove_at(idx);
        }
    }

    pub(super) const fn pending(&self) -> u32 {
        self.pending.len()
    }

    pub(super) const fn confirmed(&self) -> u32 {
        self.confirmed.len()
    }

    #[cfg(test)]
    pub(super) fn buckets(&self) -> usize {
        self.index.num_buckets()
    }

    fn hash(&self, tuple: &Tuple) -> u64 {
        let ports = u64::from(tuple.local_port) << 16 | u64::from(tuple.remote_port);
        let halves = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => [0, u64::from(v4.to_bits())],
            IpAddr::V6(v6) => [(v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
        };
        let ([l1, l0], [r1, r0]) = (halves(tuple.local_addr), halves(tuple.remote_addr));
        match tuple.local_addr {
            IpAddr::V4(_) => self.keyed.hash_words(&[l0 << 32 | r0, ports]),
            IpAddr::V6(_) => self.keyed.hash_words(&[l1, l0, r1, r0, ports]),
        }
    }

    fn position(&self, hash: u64, tuple: &Tuple) -> Option<u32> {
        let is_it = |(_, idx): &(u64, u32)| {
            self.entries.get(*idx).is_some_and(|entry| entry.tuple == *tuple)
        };
        self.index.find(hash, is_it).map(|(_, idx)| *idx)
    }

    fn insert(&mut self, now: Instant, tuple: &Tuple, owner: u8) -> Option<u32> {
        let hash = self.hash(tuple);
        let idx = self.entries.insert(Entry { tuple: *tuple, owner, hash, moved: now })?;
        self.index.insert_unique(hash, (hash, idx), |(hash, _)| *hash);
        Some(idx)
    }

    fn remove_at(&mut self, idx: u32) {
        let Some(Entry { hash, .. }) = self.entries.remove(idx) else { return };
        if !self.pending.remove(idx) {
            self.confirmed.remove(idx);
        }
        if let Ok(entry) = self.index.find_entry(hash, |(_, other)| *other == idx) {
            entry.remove();
        }
    }
}
