//! Which positions of a stream arrived: disjoint ranges, neighbours merged. A stream that arrived in
//! order is one range, whatever its length.

use std::collections::BTreeMap;

/// A set of positions.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        if start >= end {
            return;
        }
        while let Some((&other, &until)) = self.0.range(..=end).next_back()
            && until >= start
        {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(until));
        }
        self.0.insert(start, end);
    }

    /// Takes `start..end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        while let Some((&other, &until)) = self.0.range(..end).next_back()
            && until > start
            && start < end
        {
            self.0.remove(&other);
            if until > end {
                self.0.insert(end, until);
            }
            if other < start {
                self.0.insert(other, start);
            }
        }
    }

    /// Whether all of `start..end` is in the set.
    pub(super) fn contains(&self, start: u64, end: u64) -> bool {
        start >= end || self.0.range(..=start).next_back().is_some_and(|(_, &until)| until >= end)
    }

    /// The parts of `start..end` that are in the set.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let first = self.0.range(..=start).next_back().map_or(start, |(&from, _)| from);
        self.0
            .range(first..end.max(first))
            .map(|(&from, &until)| (from.max(start), until.min(end)))
            .filter(|(from, until)| from < until)
            .collect()
    }

    /// The end of what is in the set without a gap from position 0 on.
    pub(super) fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// The lowest position of the set.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(&start, _)| start)
    }

    /// Ranges behind a gap, for the memory bound.
    pub(super) fn count(&self) -> usize {
        self.0.len() - usize::from(self.0.contains_key(&0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a plain set of positions.
        #[test]
        fn agrees_with_a_set(
            steps in proptest::collection::vec((0..60_u64, 0..25_u64, any::<bool>()), 1..60),
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (start, len, remove) in steps {
                if remove {
                    ranges.remove(start, start + len);
                    model.retain(|at| !(start..start + len).contains(at));
                } else {
                    ranges.insert(start, start + len);
                    model.extend(start..start + len);
                }
                prop_assert_eq!(ranges.first(), model.first().copied());
                prop_assert_eq!(ranges.prefix(), (0..).find(|at| !model.contains(at)).unwrap());
                let (from, to) = (start / 2, start + 9);
                let held: Vec<u64> =
                    ranges.within(from, to).into_iter().flat_map(|(a, b)| a..b).collect();
                let wanted: Vec<u64> = model.range(from..to).copied().collect();
                prop_assert_eq!(held.len() as u64 == to - from, ranges.contains(from, to));
                prop_assert_eq!(held, wanted);
                let runs = model.iter().filter(|at| !model.contains(&(*at + 1))).count();
                prop_assert_eq!(ranges.count() + usize::from(model.contains(&0)), runs);
            }
        }
    }
}
