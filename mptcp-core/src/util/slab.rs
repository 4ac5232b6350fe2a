//! A fixed number of slots for values of one type, addressed by position or by generational id.
//!
//! Invariant: a [`SlabId`] names one insertion. It resolves only until that value is removed, even
//! though the slot is reused at once (until one slot has been reused 2^32 times).

use alloc::vec::Vec;

/// One insertion into one slab: generation in the upper 32 bits, position in the lower. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlabId(pub u64);

impl SlabId {
    const fn new(generation: u32, idx: u32) -> Self {
        Self((generation as u64) << 32 | idx as u64)
    }

    const fn split(self) -> (u32, u32) {
        let [g0, g1, g2, g3, i0, i1, i2, i3] = self.0.to_be_bytes();
        (u32::from_be_bytes([g0, g1, g2, g3]), u32::from_be_bytes([i0, i1, i2, i3]))
    }
}

impl core::fmt::Debug for SlabId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (generation, idx) = self.split();
        write!(f, "{idx}.{generation}")
    }
}

/// "No further free slot".
const NIL: u32 = u32::MAX;

/// Makes values begin at a line of a cache ([`Slab::in_lines`]).
#[derive(Debug)]
#[repr(align(64))]
pub struct Line;

struct Entry<T, A> {
    /// Where it may begin.
    _begins: [A; 0],
    /// Generation of the present value, or of the next one when vacant; never 0.
    generation: u32,
    /// The next free slot; meaningful while vacant.
    next_free: u32,
    value: Option<T>,
}

/// At most `capacity` values of type `T`; every method but [`Slab::iter`] and the constructor is
/// O(1) and none allocates after construction.
pub struct Slab<T, A = ()> {
    entries: Vec<Entry<T, A>>,
    /// Head of the free list: the slot vacated last, still warm in the cache.
    free: u32,
    len: u32,
    capacity: u32,
}

impl<T> Slab<T> {
    /// Reserves room for `capacity` values (`u32::MAX - 1` at most). Pages are touched as slots
    /// are first used.
    #[must_use]
    pub fn with_capacity(capacity: u32) -> Self {
        Self::reserved(capacity)
    }
}

impl<T> Slab<T, Line> {
    /// The same where every slot, which is 8 octets longer than a value, begins with a line and ends with one: values
    /// share none.
    #[must_use]
    pub fn in_lines(capacity: u32) -> Self {
        Self::reserved(capacity)
    }
}

impl<T, A> Slab<T, A> {
    fn reserved(capacity: u32) -> Self {
        let capacity = capacity.min(NIL - 1);
        Self { entries: Vec::with_capacity(capacity as usize), free: NIL, len: 0, capacity }
    }

    /// Stores `value` in the slot vacated last, or in one never used; `None` (and `value` dropped)
    /// when full.
    pub fn insert(&mut self, value: T) -> Option<u32> {
        let idx = if let Some(entry) = self.entries.get_mut(self.free as usize) {
            let idx = self.free;
            self.free = entry.next_free;
            entry.value = Some(value);
            idx
        } else {
            let idx = u32::try_from(self.entries.len()).ok()?;
            if idx >= self.capacity {
                return None;
            }
            let (generation, next_free, value) = (1, NIL, Some(value));
            self.entries.push(Entry { _begins: [], generation, next_free, value });
            idx
        };
        self.len += 1;
        Some(idx)
    }

    /// Takes the value at `idx` out and makes its ids stale; `None` when the slot is vacant.
    pub fn remove(&mut self, idx: u32) -> Option<T> {
        let entry = self.entries.get_mut(idx as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        entry.next_free = self.free;
        self.free = idx;
        self.len -= 1;
        Some(value)
    }

    /// The value at `idx`, for writing.
    pub fn get_mut(&mut self, idx: u32) -> Option<&mut T> {
        self.entries.get_mut(idx as usize)?.value.as_mut()
    }

    /// The value `id` names, for writing; `None` when stale.
    pub fn get_id_mut(&mut self, id: SlabId) -> Option<&mut T> {
        let (generation, idx) = id.split();
        let entry = self.entries.get_mut(idx as usize)?;
        if entry.generation == generation { entry.value.as_mut() } else { None }
    }

    /// Two different values at once; `None` when either slot is vacant or `a == b`.
    pub fn get2_mut(&mut self, a: u32, b: u32) -> Option<(&mut T, &mut T)> {
        let [a, b] = self.entries.get_disjoint_mut([a as usize, b as usize]).ok()?;
        Some((a.value.as_mut()?, b.value.as_mut()?))
    }

    /// The value at `idx`.
    #[must_use]
    pub fn get(&self, idx: u32) -> Option<&T> {
        self.entries.get(idx as usize)?.value.as_ref()
    }

    /// The value `id` names; `None` when stale.
    #[must_use]
    pub fn get_id(&self, id: SlabId) -> Option<&T> {
        let (generation, idx) = id.split();
        let entry = self.entries.get(idx as usize)?;
        if entry.generation == generation { entry.value.as_ref() } else { None }
    }

    /// The id of the value at `idx`; `None` when the slot is vacant.
    #[must_use]
    pub fn id(&self, idx: u32) -> Option<SlabId> {
        let entry = self.entries.get(idx as usize)?;
        entry.value.as_ref()?;
        Some(SlabId::new(entry.generation, idx))
    }

    /// Where the value `id` names is; `None` when stale.
    #[must_use]
    pub fn index_of(&self, id: SlabId) -> Option<u32> {
        self.get_id(id)?;
        Some(id.split().1)
    }

    /// Values stored now.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Values that can be stored at most.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// One more than the highest position that was ever used.
    #[must_use]
    pub fn positions(&self) -> u32 {
        self.entries.len() as u32
    }

    /// No value is stored.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every value with its position, in order of position. O(slots ever used): for reports and
    /// shutdown, not for the packet path.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.entries).filter_map(|(idx, entry)| Some((idx, entry.value.as_ref()?)))
    }

    /// The values at the first `most` positions from `from` on, and where to go on, if anywhere:
    /// [`Slab::iter`] in parts.
    pub fn page(&self, from: u32, most: u32) -> (impl Iterator<Item = &T>, Option<u32>) {
        let end = from.saturating_add(most);
        let entries = self.entries.iter().skip(from as usize).take(most as usize);
        let next = ((end as usize) < self.entries.len()).then_some(end);
        (entries.filter_map(|entry| entry.value.as_ref()), next)
    }
}

impl<T, A> core::fmt::Debug for Slab<T, A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Slab({} of {})", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::BTreeMap;

    #[test]
    fn reuses_the_last_vacated_slot_under_a_new_generation() {
        let mut slab = Slab::with_capacity(3);
        for value in ["a", "b", "c"] {
            assert!(slab.insert(value).is_some());
        }
        assert_eq!(slab.insert("d"), None);
        let stale = slab.id(1).unwrap();
        assert_eq!(stale, SlabId(1 << 32 | 1));
        assert_eq!(slab.remove(0), Some("a"));
        assert_eq!(slab.remove(1), Some("b"));
        assert_eq!(slab.remove(1), None);
        assert_eq!(slab.id(1), None);
        assert_eq!(slab.insert("e"), Some(1));
        assert_eq!(slab.id(1), Some(SlabId(2 << 32 | 1)));
        assert_eq!((slab.get_id(stale), slab.index_of(stale)), (None, None));
        assert_eq!(slab.insert("f"), Some(0));
        assert_eq!((slab.len(), slab.capacity()), (3, 3));
    }

    #[test]
    fn two_values_at_once() {
        let mut slab = Slab::with_capacity(3);
        let (a, b) = (slab.insert(1).unwrap(), slab.insert(2).unwrap());
        let (x, y) = slab.get2_mut(b, a).unwrap();
        core::mem::swap(x, y);
        assert_eq!((slab.get(a), slab.get(b)), (Some(&2), Some(&1)));
        assert!(slab.get2_mut(a, a).is_none());
        assert!(slab.get2_mut(a, 2).is_none());
        slab.remove(a);
        assert!(slab.get2_mut(a, b).is_none());
    }

    #[test]
    fn a_generation_that_wraps_skips_zero() {
        let mut slab = Slab::with_capacity(1);
        slab.insert(()).unwrap();
        slab.entries[0].generation = u32::MAX;
        slab.remove(0).unwrap();
        slab.insert(()).unwrap();
        assert_eq!(slab.id(0), Some(SlabId(1 << 32)));
    }

    #[test]
    fn slots_are_as_long_as_they_must_be() {
        assert_eq!(size_of::<Entry<Box<u64>, ()>>(), 16);
        assert_eq!(size_of::<Entry<[Box<u64>; 7], Line>>(), 64);
        let mut slab = Slab::in_lines(3);
        for _ in 0..2 {
            let idx = slab.insert([const { Some(0_u64) }; 3]).unwrap();
            let begin = core::ptr::from_ref(slab.get(idx).unwrap()).addr();
            assert!(begin % 64 + size_of::<[Option<u64>; 3]>() <= 64);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u16),
        Remove(u32),
        Write(u32, u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => any::<u16>().prop_map(Op::Insert),
            2 => (0..12u32).prop_map(Op::Remove),
            1 => (0..12u32, any::<u16>()).prop_map(|(idx, value)| Op::Write(idx, value)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_ids_never_come_back(ops in prop::collection::vec(op(), 0..200)) {
            const CAPACITY: u32 = 8;
            let mut slab = Slab::with_capacity(CAPACITY);
            let mut live = BTreeMap::new();
            let mut dead = std::vec::Vec::new();
            for op in ops {
                match op {
                    Op::Insert(value) => match slab.insert(value) {
                        Some(idx) => {
                            let id = slab.id(idx).unwrap();
                            prop_assert!(!dead.contains(&id));
                            prop_assert_eq!(live.insert(idx, (id, value)), None);
                        }
                        None => prop_assert_eq!(live.len(), CAPACITY as usize),
                    },
                    Op::Remove(idx) => {
                        let expected = live.remove(&idx);
                        prop_assert_eq!(slab.remove(idx), expected.map(|(_, value)| value));
                        dead.extend(expected.map(|(id, _)| id));
                    }
                    Op::Write(idx, new) => match (slab.get_mut(idx), live.get_mut(&idx)) {
                        (Some(slot), Some((_, value))) => {
                            *slot = new;
                            *value = new;
                        }
                        (slot, value) => prop_assert!(slot.is_none() && value.is_none()),
                    },
                }
                prop_assert_eq!(slab.len() as usize, live.len());
                prop_assert_eq!(slab.is_empty(), live.is_empty());
                for (idx, (id, value)) in &live {
                    prop_assert_eq!(slab.get(*idx), Some(value));
                    prop_assert_eq!(slab.get_id(*id), Some(value));
                    prop_assert_eq!(slab.index_of(*id), Some(*idx));
                    prop_assert_eq!(slab.get_id_mut(*id).copied(), Some(*value));
                }
                for id in &dead {
                    prop_assert!(slab.get_id(*id).is_none() && slab.get_id_mut(*id).is_none());
                }
                let listed: BTreeMap<u32, u16> = slab.iter().map(|(i, v)| (i, *v)).collect();
                prop_assert_eq!(listed, live.iter().map(|(i, (_, v))| (*i, *v)).collect());
            }
        }
    }
}
