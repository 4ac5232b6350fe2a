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
use alloc::boxed::Box;
use alloc::vec;
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

/// Addresses and ports in as few words as they fit.
enum Words {
    V4([u64; 2]),
    V6([u64; 5]),
}

impl Words {
    #[inline]
    fn of(tuple: &Tuple) -> Self {
        let ports = u64::from(tuple.local_port) << 16 | u64::from(tuple.remote_port);
        if let (IpAddr::V4(local), IpAddr::V4(remote)) = (tuple.local_addr, tuple.remote_addr) {
            let addresses = u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits());
            return Self::V4([addresses, ports]);
        }
        let halves = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => [0, u64::from(v4.to_bits())],
            IpAddr::V6(v6) => [(v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
        };
        let ([l1, l0], [r1, r0]) = (halves(tuple.local_addr), halves(tuple.remote_addr));
        Self::V6([l1, l0, r1, r0, ports])
    }

    #[inline]
    const fn as_slice(&self) -> &[u64] {
        match self {
            Self::V4(words) => words,
            Self::V6(words) => words,
        }
    }
}

/// How many entries each cell stands for: what falls into an empty one is not in the table. Where a flow
/// falls is a sum of products with secret numbers; who could aim at full cells would win a look-up in the table.
///
/// Invariant: the cell of an entry is not 0. One that was full once stays full.
struct Filter {
    cells: Box<[u8]>,
    secrets: [u64; 5],
}

impl Filter {
    /// With three cells in four empty when there are `entries`.
    fn new(entries: u32, rng: &mut Rng) -> Self {
        let count = (2 * entries as usize).next_power_of_two().max(2);
        let secrets = core::array::from_fn(|_| rng.next_u64() | 1);
        Self { cells: vec![0; count].into_boxed_slice(), secrets }
    }

    #[inline]
    fn place(&self, words: &Words) -> usize {
        let product = |at: usize, word: u64| word.wrapping_mul(self.secrets[at]);
        let sum = match *words {
            Words::V4([a, b]) => product(0, a).wrapping_add(product(1, b)),
            Words::V6([a, b, c, d, e]) => {
                let first = product(0, a).wrapping_add(product(1, b)).wrapping_add(product(2, c));
                first.wrapping_add(product(3, d)).wrapping_add(product(4, e))
            }
        };
        // The upper bits depend on all of the words.
        (sum >> (64 - self.cells.len().trailing_zeros())) as usize
    }

    #[inline]
    fn may_hold(&self, words: &Words) -> bool {
        self.cells.get(self.place(words)).is_none_or(|count| *count > 0)
    }

    fn add(&mut self, words: &Words) {
        let at = self.place(words);
        if let Some(count) = self.cells.get_mut(at) {
            *count = count.saturating_add(1);
        }
    }

    fn remove(&mut self, words: &Words) {
        let at = self.place(words);
        if let Some(count) = self.cells.get_mut(at)
            && *count < u8::MAX
        {
            *count = count.saturating_sub(1);
        }
    }
}

pub(super) struct Table {
    keyed: KeyedHash,
    filter: Filter,
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
            filter: Filter::new(capacity, rng),
            entries: Slab::with_capacity(capacity),
            // With twice the room it needs, what removals leave behind is swept in place.
            index: HashTable::with_capacity(2 * capacity as usize),
            pending: IndexList::with_capacity(capacity),
            confirmed: IndexList::with_capacity(capacity),
            max_pending,
            max_confirmed,
        }
    }

    /// The owner of a flow, which counts as used, and whether that one has confirmed it.
    #[inline]
    pub(super) fn find(&mut self, now: Instant, tuple: &Tuple) -> Option<(u8, bool)> {
        if self.index.is_empty() {
            return None;
        }
        let words = Words::of(tuple);
        if !self.filter.may_hold(&words) {
            return None;
        }
        let idx = self.position(self.hash(&words), tuple)?;
        let entry = self.entries.get_mut(idx)?;
        let confirmed = self.confirmed.contains(idx);
        if confirmed && now.since(entry.moved) >= GRAIN {
            entry.moved = now;
            self.confirmed.remove(idx);
            self.confirmed.push_back(idx);
        }
        Some((entry.owner, confirmed))
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
        if let Some(idx) = self.position(self.hash(&Words::of(tuple)), tuple) {
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
        if let Some(idx) = self.position(self.hash(&Words::of(tuple)), tuple)
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

    fn hash(&self, words: &Words) -> u64 {
        self.keyed.hash_words(words.as_slice())
    }

    fn position(&self, hash: u64, tuple: &Tuple) -> Option<u32> {
        let is_it = |(_, idx): &(u64, u32)| {
            self.entries.get(*idx).is_some_and(|entry| entry.tuple == *tuple)
        };
        self.index.find(hash, is_it).map(|(_, idx)| *idx)
    }

    fn insert(&mut self, now: Instant, tuple: &Tuple, owner: u8) -> Option<u32> {
        let words = Words::of(tuple);
        let hash = self.hash(&words);
        let idx = self.entries.insert(Entry { tuple: *tuple, owner, hash, moved: now })?;
        self.filter.add(&words);
        self.index.insert_unique(hash, (hash, idx), |(hash, _)| *hash);
        Some(idx)
    }

    fn remove_at(&mut self, idx: u32) {
        let Some(Entry { tuple, hash, .. }) = self.entries.remove(idx) else { return };
        self.filter.remove(&Words::of(&tuple));
        if !self.pending.remove(idx) {
            self.confirmed.remove(idx);
        }
        if let Ok(entry) = self.index.find_entry(hash, |(_, other)| *other == idx) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One of 400 flows of either family, which share few cells.
    fn flow(n: u16) -> Tuple {
        let [high, low] = (n / 2).to_be_bytes();
        let remote: IpAddr = if n.is_multiple_of(2) {
            [10, 0, high, low].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0, n / 2].into()
        };
        let local = if n.is_multiple_of(2) { [10, 0, 255, 1].into() } else { [0xfd00; 8].into() };
        Tuple { local_addr: local, remote_addr: remote, local_port: 443, remote_port: 9 }
    }

    proptest! {
        /// The filter hides nothing that is there, and keeps nothing for what is gone.
        #[test]
        fn what_is_found_is_what_was_put_in(
            steps in prop::collection::vec((0_u16..400, 0_u8..3, 0_u8..4), 1..400),
        ) {
            let now = Instant::from_millis(1);
            let mut table = Table::new(64, 64, &mut Rng::from_seed([5; 32]));
            let mut known = BTreeMap::new();
            let owner_of = |table: &mut Table, n| table.find(now, &flow(n)).map(|(owner, _)| owner);
            for (n, step, owner) in steps {
                let tuple = flow(n);
                let there = known.contains_key(&n);
                match step {
                    0 if !there && table.pending() < 64 => {
                        table.add(now, &tuple, owner);
                        known.insert(n, owner);
                    }
                    1 if table.confirmed() < 64 => {
                        table.confirm(now, &tuple, owner);
                        known.insert(n, owner);
                    }
                    2 => {
                        table.remove(&tuple, owner);
                        known.retain(|k, v| *k != n || *v != owner);
                    }
                    _ => {}
                }
                prop_assert_eq!(owner_of(&mut table, n), known.get(&n).copied());
            }
            for n in 0..400 {
                prop_assert_eq!(owner_of(&mut table, n), known.get(&n).copied());
            }
            let full: usize = table.filter.cells.iter().map(|count| usize::from(*count)).sum();
            prop_assert_eq!(full, known.len());
        }
    }

    /// What was added more often than a cell counts to is there all the same, one by one.
    #[test]
    fn a_cell_that_was_full_stays_full() {
        let mut filter = Filter::new(0, &mut Rng::from_seed([1; 32]));
        let words = Words::of(&flow(0));
        for _ in 0..300 {
            filter.add(&words);
        }
        for _ in 0..299 {
            filter.remove(&words);
        }
        assert!(filter.may_hold(&words));
    }

    #[test]
    fn most_of_what_is_not_there_is_not_looked_for() {
        let mut filter = Filter::new(1_000, &mut Rng::from_seed([2; 32]));
        let words = |n: u32| {
            let [_, b, c, d] = n.to_be_bytes();
            let remote: IpAddr = [10, b, c, d].into();
            Words::of(&Tuple { remote_addr: remote, ..flow(0) })
        };
        (0..1_000).for_each(|n| filter.add(&words(n)));
        assert!((0..1_000).all(|n| filter.may_hold(&words(n))));
        let held = (1_000..11_000).filter(|n| filter.may_hold(&words(*n))).count();
        assert!(held < 5_000, "{held} of 10,000 with half of the cells in use at most");
    }
}
