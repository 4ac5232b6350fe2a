//! A table of numbers by 32 bits of a hash, in one piece: linear probing, eight octets an entry, eight of them to a
//! line of a cache.
//!
//! An entry lies at the place its tag says, or behind it as near as there is room. What is removed leaves nothing
//! behind: those that had to go further move up. So the table is never swept, which with a million entries would be
//! a pause of many milliseconds at a time of its own choosing.
//!
//! Invariant: between an entry's place and the entry there is no vacancy.

use alloc::vec;
use alloc::vec::Vec;

/// Places for so many entries: in a full table two are looked at for one that is there, five for one that is not.
const PLACES: u64 = 3;
const ENTRIES: u64 = 2;

/// See the module.
pub(crate) struct TagTable {
    /// Tag above number + 1; 0: nothing. Memory comes when a page is first written.
    places: Vec<u64>,
    len: usize,
    capacity: usize,
}

impl TagTable {
    /// Reserves room for `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        let places = (capacity as u64 * PLACES).div_ceil(ENTRIES) + 1;
        Self { places: vec![0; places as usize], len: 0, capacity }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The first number with this tag that `is_it`.
    #[inline]
    pub(crate) fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(tag);
        loop {
            let (of, number) = parts(self.at(at))?;
            if of == tag && is_it(number) {
                return Some(number);
            }
            at = self.behind(at);
        }
    }

    /// Adds an entry; false when it is full, or `number` is `u32::MAX`.
    pub(crate) fn insert(&mut self, tag: u32, number: u32) -> bool {
        if self.len == self.capacity || number == u32::MAX {
            return false;
        }
        let mut at = self.home(tag);
        while self.at(at) != 0 {
            at = self.behind(at);
        }
        self.set(at, entry(tag, number));
        self.len += 1;
        true
    }

    /// Puts `number` where `old` is; false when that is not there.
    pub(crate) fn replace(&mut self, tag: u32, old: u32, number: u32) -> bool {
        let Some(at) = self.position(tag, old).filter(|_| number != u32::MAX) else { return false };
        self.set(at, entry(tag, number));
        true
    }

    /// Removes an entry; false when it is not there.
    pub(crate) fn remove(&mut self, tag: u32, number: u32) -> bool {
        let Some(mut vacant) = self.position(tag, number) else { return false };
        let mut at = self.behind(vacant);
        while let Some((tag, _)) = parts(self.at(at)) {
            // It may move up unless its place lies behind the vacancy.
            if self.distance(self.home(tag), at) >= self.distance(vacant, at) {
                self.set(vacant, self.at(at));
                vacant = at;
            }
            at = self.behind(at);
        }
        self.set(vacant, 0);
        self.len -= 1;
        true
    }

    /// Places that [`TagTable::find`] looks at for this tag, at most up to the first entry that has it.
    #[cfg(test)]
    pub(crate) fn looked_at(&self, tag: u32) -> usize {
        let mut at = self.home(tag);
        let mut count = 1;
        while parts(self.at(at)).is_some_and(|(of, _)| of != tag) {
            at = self.behind(at);
            count += 1;
        }
        count
    }

    fn position(&self, tag: u32, number: u32) -> Option<usize> {
        let mut at = self.home(tag);
        loop {
            if parts(self.at(at))? == (tag, number) {
                return Some(at);
            }
            at = self.behind(at);
        }
    }

    /// Places are in the order of tags.
    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.places.len() as u64) >> 32) as usize
    }

    #[inline]
    fn behind(&self, at: usize) -> usize {
        if at + 1 < self.places.len() { at + 1 } else { 0 }
    }

    /// Places from `from` on to `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places.len() - from }
    }

    #[inline]
    fn at(&self, at: usize) -> u64 {
        self.places.get(at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, entry: u64) {
        if let Some(place) = self.places.get_mut(at) {
            *place = entry;
        }
    }
}

/// As it is stored; `number` is not `u32::MAX`.
#[inline]
const fn entry(tag: u32, number: u32) -> u64 {
    (tag as u64) << 32 | (number as u64 + 1)
}

/// Tag and number; `None` of a vacancy.
#[inline]
const fn parts(entry: u64) -> Option<(u32, u32)> {
    match entry {
        0 => None,
        _ => Some(((entry >> 32) as u32, (entry as u32).wrapping_sub(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every entry can be reached from its place.
    fn check(table: &TagTable) {
        let there: Vec<_> = (0..table.places.len())
            .filter_map(|at| parts(table.at(at)).map(|(tag, number)| (at, tag, number)))
            .collect();
        assert_eq!(there.len(), table.len());
        for (at, tag, _) in there {
            let mut place = table.home(tag);
            while place != at {
                assert_ne!(table.at(place), 0, "a vacancy in front of {at}");
                place = table.behind(place);
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_pairs(
            ops in prop::collection::vec((0..4u8, 0..6u32, 0..10u32), 0..120)
        ) {
            const CAPACITY: usize = 12;
            // Tags at both ends, so that clusters go around, and equal ones.
            let tags = [0, 1, 1 << 31, u32::MAX - 1, u32::MAX, u32::MAX << 28];
            let mut table = TagTable::new(CAPACITY);
            let mut model: Vec<(u32, u32)> = Vec::new();
            for (op, tag, number) in ops {
                let tag = tags[tag as usize];
                let at = model.iter().position(|entry| *entry == (tag, number));
                match op {
                    0 | 1 if at.is_none() => {
                        let room = model.len() < CAPACITY;
                        prop_assert_eq!(table.insert(tag, number), room);
                        if room {
                            model.push((tag, number));
                        }
                    }
                    2 => {
                        prop_assert_eq!(table.replace(tag, number, number + 10), at.is_some());
                        if let Some(at) = at {
                            prop_assert!(table.replace(tag, number + 10, number));
                            prop_assert_eq!(model[at], (tag, number));
                        }
                    }
                    _ => {
                        prop_assert_eq!(table.remove(tag, number), at.is_some());
                        at.map(|at| model.swap_remove(at));
                    }
                }
                check(&table);
                for tag in tags {
                    let mut found = Vec::new();
                    let none = table.find(tag, |number| { found.push(number); false });
                    prop_assert_eq!(none, None);
                    found.sort_unstable();
                    let mut expected: Vec<u32> =
                        model.iter().filter(|(of, _)| *of == tag).map(|(_, number)| *number).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(&found, &expected);
                    for number in expected {
                        prop_assert_eq!(table.find(tag, |other| other == number), Some(number));
                    }
                }
            }
        }
    }

    #[test]
    fn it_is_full_when_it_says_so_and_empty_again() {
        let mut table = TagTable::new(1000);
        let tag = |n: u32| n.wrapping_mul(0x9e37_79b1);
        assert!((0..1000).all(|n| table.insert(tag(n), n)));
        assert!(!table.insert(7, 7) && !TagTable::new(1).insert(0, u32::MAX));
        check(&table);
        assert!((0..1000).rev().all(|n| table.remove(tag(n), n)));
        assert!(table.places.iter().all(|place| *place == 0));
        // One without any room answers as well.
        let mut none = TagTable::new(0);
        assert!(!none.insert(1, 1) && none.find(1, |_| true).is_none() && !none.remove(1, 1));
    }
}
