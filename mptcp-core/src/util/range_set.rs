//! Disjoint half-open ranges of `u64`, few of them: a SACK scoreboard, or holes in a reassembly queue.
//!
//! Invariant: ranges are non-empty, sorted, and neither overlap nor touch; there are never more than
//! the limit given at construction, whatever a peer reports.

use alloc::vec::Vec;
use core::ops::Range;

/// A set of positions kept as at most `max_ranges` ranges. Allocates nothing while empty for the
/// first time, and never more than twice the limit.
#[derive(Clone)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
    max_ranges: usize,
}

impl RangeSet {
    /// An empty set that will hold at most `max_ranges` disjoint ranges.
    #[must_use]
    pub const fn new(max_ranges: usize) -> Self {
        Self { ranges: Vec::new(), max_ranges }
    }

    /// Adds `start..end`, merging it with every range it overlaps or touches; an empty range changes
    /// nothing. `false`, and no change, when that would exceed the limit. O(ranges) moves,
    /// O(log ranges) comparisons.
    #[must_use = "a refused range is not in the set"]
    pub fn insert(&mut self, start: u64, end: u64) -> bool {
        if start >= end {
            return true;
        }
        let from = self.ranges.partition_point(|range| range.end < start);
        let to = self.ranges.partition_point(|range| range.start <= end);
        let Some(merged) = self.ranges.get(from..to).filter(|merged| !merged.is_empty()) else {
            if self.ranges.len() >= self.max_ranges {
                return false;
            }
            self.ranges.insert(from, start..end);
            return true;
        };
        let start = merged.first().map_or(start, |first| first.start.min(start));
        let end = merged.last().map_or(end, |last| last.end.max(end));
        self.ranges.drain(from + 1..to);
        if let Some(range) = self.ranges.get_mut(from) {
            *range = start..end;
        }
        true
    }

    /// Forgets every position below `bound`. O(ranges).
    pub fn remove_below(&mut self, bound: u64) {
        let gone = self.ranges.partition_point(|range| range.end <= bound);
        self.ranges.drain(..gone);
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.max(bound);
        }
    }

    /// Forgets every position of `start..end`, unless that would make more ranges than the limit; an empty range changes
    /// nothing. O(ranges).
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let from = self.ranges.partition_point(|range| range.end <= start);
        let to = self.ranges.partition_point(|range| range.start < end);
        let Some(cut) = self.ranges.get(from..to).filter(|cut| !cut.is_empty()) else { return };
        let head = cut.first().map(|first| first.start..start.min(first.end));
        let tail = cut.last().map(|last| end.max(last.start)..last.end);
        let kept = head.into_iter().chain(tail).filter(|range| range.start < range.end);
        if self.ranges.len() + kept.clone().count() - (to - from) <= self.max_ranges {
            self.ranges.splice(from..to, kept);
        }
    }

    /// Forgets everything; keeps the memory. O(1).
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// True when `position` is in the set. O(log ranges).
    #[must_use]
    pub fn contains(&self, position: u64) -> bool {
        self.range_ending_after(position).is_some_and(|range| range.start <= position)
    }

    /// True when all of `start..end` is in the set; an empty range always is. O(log ranges).
    #[must_use]
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start >= end
            || self
                .range_ending_after(start)
                .is_some_and(|range| range.start <= start && end <= range.end)
    }

    /// The lowest range. O(1).
    #[must_use]
    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.first().cloned()
    }

    /// The highest range. O(1).
    #[must_use]
    pub fn last(&self) -> Option<Range<u64>> {
        self.ranges.last().cloned()
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator {
        self.ranges.iter().cloned()
    }

    /// The parts of `start..end` that are not in the set, ascending. O(log ranges) to start, O(1) per
    /// step.
    #[must_use]
    pub fn gaps(&self, start: u64, end: u64) -> Gaps<'_> {
        let from = self.ranges.partition_point(|range| range.end <= start);
        Gaps { ranges: self.ranges.get(from..).unwrap_or_default().iter(), at: start, end }
    }

    /// Positions in the set. O(ranges).
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Ranges in the set.
    #[must_use]
    pub const fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Nothing is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn range_ending_after(&self, position: u64) -> Option<&Range<u64>> {
        let at = self.ranges.partition_point(|range| range.end <= position);
        self.ranges.get(at)
    }
}

impl core::fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(&self.ranges).finish()
    }
}

/// What [`RangeSet::gaps`] returns.
#[derive(Clone, Debug)]
pub struct Gaps<'a> {
    ranges: core::slice::Iter<'a, Range<u64>>,
    /// Everything below has been reported or is in the set.
    at: u64,
    end: u64,
}

impl Iterator for Gaps<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        while self.at < self.end {
            let gap_start = self.at;
            let (gap_end, resume) = match self.ranges.next() {
                Some(range) => (range.start.min(self.end), range.end),
                None => (self.end, self.end),
            };
            self.at = resume;
            if gap_start < gap_end {
                return Some(gap_start..gap_end);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: usize = 64;

    #[test]
    fn merges_what_touches_and_refuses_what_exceeds() {
        let mut set = RangeSet::new(2);
        assert!(set.insert(10, 20));
        assert!(set.insert(30, 40));
        assert!(!set.insert(50, 60));
        assert!(!set.insert(0, 9));
        assert!(set.insert(40, 41) && set.insert(29, 30));
        assert!(set.insert(7, 7), "an empty range needs no room");
        assert_eq!(set.iter().collect::<Vec<_>>(), [10..20, 29..41]);
        assert!(set.insert(20, 29));
        assert_eq!((set.first(), set.last(), set.range_count()), (Some(10..41), Some(10..41), 1));
        set = RangeSet::new(2);
        assert!(set.insert(10, 41));
        set.remove(20, 20);
        set.remove(30, 20);
        assert_eq!((set.first(), set.last()), (Some(10..41), Some(10..41)), "nothing taken out");
    }

    #[test]
    fn the_whole_space_fits() {
        let mut set = RangeSet::new(1);
        assert!(set.insert(0, u64::MAX));
        assert_eq!(set.len_bytes(), u64::MAX);
        assert!(set.covers(0, u64::MAX) && !set.contains(u64::MAX));
        set.remove_below(u64::MAX);
        assert!(set.is_empty());
        assert_eq!(set.gaps(3, 3).count(), 0);
        assert_eq!(set.gaps(5, 3).count(), 0);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64),
        RemoveBelow(u64),
        Remove(u64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let position = 0..=SPACE as u64;
        prop_oneof![
            4 => (position.clone(), 0..10u64)
                .prop_map(|(start, len)| Op::Insert(start, (start + len).min(SPACE as u64))),
            1 => position.clone().prop_map(Op::RemoveBelow),
            1 => (position.clone(), position).prop_map(|(start, end)| Op::Remove(start, end)),
        ]
    }

    /// The runs of `wanted` in `bits[start..end]`.
    fn runs(bits: &[bool], wanted: bool, start: usize, end: usize) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (at, bit) in (0u64..).zip(bits).take(end).skip(start) {
            if *bit == wanted {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += 1,
                    _ => runs.push(at..at + 1),
                }
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn behaves_like_a_bitmap(
            max_ranges in 0..6usize,
            ops in prop::collection::vec(op(), 0..60),
            from in 0..SPACE,
            to in 0..=SPACE,
        ) {
            let mut set = RangeSet::new(max_ranges);
            let mut bits = [false; SPACE];
            for op in ops {
                match op {
                    Op::Insert(start, end) => {
                        let mut wanted = bits;
                        wanted[start as usize..end as usize].fill(true);
                        let fits = runs(&wanted, true, 0, SPACE).len() <= max_ranges;
                        prop_assert_eq!(set.insert(start, end), fits);
                        if fits {
                            bits = wanted;
                        }
                    }
                    Op::RemoveBelow(bound) => {
                        set.remove_below(bound);
                        bits[..bound as usize].fill(false);
                    }
                    Op::Remove(start, end) => {
                        set.remove(start, end);
                        let mut wanted = bits;
                        if start < end {
                            wanted[start as usize..end as usize].fill(false);
                        }
                        if runs(&wanted, true, 0, SPACE).len() <= max_ranges {
                            bits = wanted;
                        }
                    }
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&bits, true, 0, SPACE));
                prop_assert_eq!(
                    set.gaps(from as u64, to as u64).collect::<Vec<_>>(),
                    runs(&bits, false, from, to)
                );
                prop_assert_eq!(set.len_bytes(), bits.iter().filter(|bit| **bit).count() as u64);
                prop_assert_eq!(
                    set.covers(from as u64, to as u64),
                    from >= to || bits[from..to].iter().all(|bit| *bit)
                );
                for (at, bit) in bits.iter().enumerate() {
                    prop_assert_eq!(set.contains(at as u64), *bit);
                }
            }
        }
    }
}
