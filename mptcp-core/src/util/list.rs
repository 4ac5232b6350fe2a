//! A doubly linked list of `u32` indices whose links live in a table of their own.
//!
//! Invariant: an index is in the list at most once, so a list of things to do never holds more
//! entries than there are things, however often they are queued.

use alloc::vec;
use alloc::vec::Vec;

/// "No neighbour on this side".
const NIL: u32 = u32::MAX;
/// In `Link::prev`: not in the list.
const UNLINKED: u32 = u32::MAX - 1;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

/// A [`Link`] as the table has it: zeros are one that is not in the list, so that memory comes when an index is
/// first linked.
type Stored = [u32; 2];

impl Link {
    const fn stored(self) -> Stored {
        [self.prev.wrapping_sub(UNLINKED), self.next.wrapping_sub(NIL)]
    }

    const fn of([prev, next]: Stored) -> Self {
        Self { prev: prev.wrapping_add(UNLINKED), next: next.wrapping_add(NIL) }
    }
}

/// A list over the indices `0..capacity`. Every method but the constructor and
/// [`IndexList::iter`] is O(1); none allocates after construction.
pub struct IndexList {
    links: Vec<Stored>,
    head: u32,
    tail: u32,
    len: u32,
}

impl IndexList {
    /// Allocates 8 bytes for each of `capacity` possible indices; pages are touched as indices are first linked.
    #[must_use]
    pub fn with_capacity(capacity: u32) -> Self {
        let links = vec![[0; 2]; capacity.min(UNLINKED) as usize];
        Self { links, head: NIL, tail: NIL, len: 0 }
    }

    /// Appends `idx`; `false`, and no change, when it is already linked or not below the capacity.
    pub fn push_back(&mut self, idx: u32) -> bool {
        if !self.is_vacant(idx) {
            return false;
        }
        let prev = self.tail;
        self.link(Link { prev, next: NIL }, idx);
        true
    }

    /// Prepends `idx`; `false`, and no change, when it is already linked or not below the capacity.
    pub fn push_front(&mut self, idx: u32) -> bool {
        if !self.is_vacant(idx) {
            return false;
        }
        let next = self.head;
        self.link(Link { prev: NIL, next }, idx);
        true
    }

    /// Takes `idx` out wherever it is; `false` when it was not linked.
    pub fn remove(&mut self, idx: u32) -> bool {
        if !self.contains(idx) {
            return false;
        }
        let Some(link) = self.links.get_mut(idx as usize) else { return false };
        let Link { prev, next } = Link::of(core::mem::take(link));
        self.set_next(prev, next);
        self.set_prev(next, prev);
        self.len -= 1;
        true
    }

    /// Takes the first index out.
    pub fn pop_front(&mut self) -> Option<u32> {
        let idx = self.front()?;
        self.remove(idx);
        Some(idx)
    }

    /// The first index.
    #[must_use]
    pub fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// True while `idx` is linked.
    #[must_use]
    pub fn contains(&self, idx: u32) -> bool {
        self.links.get(idx as usize).is_some_and(|link| Link::of(*link).prev != UNLINKED)
    }

    /// Nothing is linked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Indices linked now.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Front to back. O(len) to exhaust.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        core::iter::successors(self.front(), |idx| {
            let Link { next, .. } = Link::of(*self.links.get(*idx as usize)?);
            (next != NIL).then_some(next)
        })
    }

    fn is_vacant(&self, idx: u32) -> bool {
        self.links.get(idx as usize).is_some_and(|link| Link::of(*link).prev == UNLINKED)
    }

    fn link(&mut self, link: Link, idx: u32) {
        if let Some(slot) = self.links.get_mut(idx as usize) {
            *slot = link.stored();
        }
        self.set_next(link.prev, idx);
        self.set_prev(link.next, idx);
        self.len += 1;
    }

    /// What follows `idx`, or is first.
    fn set_next(&mut self, idx: u32, next: u32) {
        match self.links.get_mut(idx as usize) {
            Some([_, stored]) => *stored = next.wrapping_sub(NIL),
            None => self.head = next,
        }
    }

    /// What precedes `idx`, or is last.
    fn set_prev(&mut self, idx: u32, prev: u32) {
        match self.links.get_mut(idx as usize) {
            Some([stored, _]) => *stored = prev.wrapping_sub(UNLINKED),
            None => self.tail = prev,
        }
    }
}

impl core::fmt::Debug for IndexList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "IndexList({} of {})", self.len, self.links.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const CAPACITY: u32 = 8;

    #[derive(Clone, Debug)]
    enum Op {
        PushBack(u32),
        PushFront(u32),
        Remove(u32),
        PopFront,
    }

    fn op() -> impl Strategy<Value = Op> {
        let idx = 0..CAPACITY + 2;
        prop_oneof![
            idx.clone().prop_map(Op::PushBack),
            idx.clone().prop_map(Op::PushFront),
            idx.prop_map(Op::Remove),
            Just(Op::PopFront),
        ]
    }

    #[test]
    fn sentinels_are_not_indices() {
        let mut list = IndexList::with_capacity(CAPACITY);
        for idx in [CAPACITY, UNLINKED, NIL] {
            assert!(!list.push_back(idx) && !list.push_front(idx));
            assert!(!list.remove(idx) && !list.contains(idx));
        }
        assert!(list.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_deque_without_duplicates(ops in prop::collection::vec(op(), 0..200)) {
            let mut list = IndexList::with_capacity(CAPACITY);
            let mut model = VecDeque::new();
            for op in ops {
                match op {
                    Op::PushBack(idx) => {
                        let expected = idx < CAPACITY && !model.contains(&idx);
                        if expected {
                            model.push_back(idx);
                        }
                        prop_assert_eq!(list.push_back(idx), expected);
                    }
                    Op::PushFront(idx) => {
                        let expected = idx < CAPACITY && !model.contains(&idx);
                        if expected {
                            model.push_front(idx);
                        }
                        prop_assert_eq!(list.push_front(idx), expected);
                    }
                    Op::Remove(idx) => {
                        let at = model.iter().position(|other| *other == idx);
                        at.map(|at| model.remove(at));
                        prop_assert_eq!(list.remove(idx), at.is_some());
                    }
                    Op::PopFront => prop_assert_eq!(list.pop_front(), model.pop_front()),
                }
                prop_assert_eq!(list.iter().collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(list.front(), model.front().copied());
                prop_assert_eq!(list.len() as usize, model.len());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                for idx in 0..CAPACITY + 2 {
                    prop_assert_eq!(list.contains(idx), model.contains(&idx));
                }
            }
            // Backwards links are only visible by taking entries out from behind.
            while let Some(last) = model.pop_back() {
                prop_assert!(list.remove(last));
                prop_assert_eq!(list.iter().collect::<VecDeque<_>>(), model.clone());
            }
        }
    }
}
