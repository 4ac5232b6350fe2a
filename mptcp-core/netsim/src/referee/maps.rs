//! Data sequence mappings of one subflow as it sent them: subflow position to data position.
//! Ranges are disjoint and consistent; neighbours that continue each other are merged.

use std::collections::BTreeMap;

/// Mapped ranges of a subflow.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// Start on the subflow, to (end on the subflow, data position of the start).
    ranges: BTreeMap<u64, (u64, u64)>,
}

/// A piece of a subflow and where its first octet is in the data stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) data: u64,
}

impl Maps {
    /// Adds a mapping of `len` octets; returns what it newly covers, or the piece it contradicts.
    pub(super) fn add(&mut self, start: u64, data: u64, len: u64) -> Result<Vec<Piece>, Piece> {
        let end = start.saturating_add(len);
        let mut fresh = Vec::new();
        let mut at = start;
        for held in self.within(start, end) {
            if held.data.wrapping_sub(held.start) != data.wrapping_sub(start) {
                return Err(held);
            }
            if at < held.start {
                fresh.push(Piece { start: at, end: held.start, data: data + (at - start) });
            }
            at = held.end;
        }
        if at < end {
            fresh.push(Piece { start: at, end, data: data + (at - start) });
        }
        for &piece in &fresh {
            self.insert(piece);
        }
        Ok(fresh)
    }

    /// The mapped parts of `from..to`.
    pub(super) fn within(&self, from: u64, to: u64) -> Vec<Piece> {
        let first = self.ranges.range(..=from).next_back().map_or(from, |(&start, _)| start);
        self.ranges
            .range(first..to.max(first))
            .map(|(&start, &(end, data))| {
                let cut = from.saturating_sub(start);
                Piece { start: start + cut, end: end.min(to), data: data.wrapping_add(cut) }
            })
            .filter(|piece| piece.start < piece.end)
            .collect()
    }

    /// Forgets what lies below `at`.
    pub(super) fn forget_below(&mut self, at: u64) {
        while let Some((&start, &(end, data))) = self.ranges.first_key_value()
            && start < at
        {
            self.ranges.pop_first();
            if end > at {
                self.ranges.insert(at, (end, data.wrapping_add(at - start)));
            }
        }
    }

    /// Ranges held, for the memory bound.
    pub(super) fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Inserts a piece that overlaps nothing, joined with neighbours that it continues.
    fn insert(&mut self, piece: Piece) {
        let Piece { mut start, mut end, mut data } = piece;
        let shift = data.wrapping_sub(start);
        if let Some((&before, &(until, before_data))) = self.ranges.range(..start).next_back()
            && until == start
            && before_data.wrapping_sub(before) == shift
        {
            (start, data) = (before, before_data);
        }
        if let Some(&(until, after_data)) = self.ranges.get(&end)
            && after_data.wrapping_sub(end) == shift
        {
            self.ranges.remove(&end);
            end = until;
        }
        self.ranges.insert(start, (end, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sub_ranges_agree_and_other_data_does_not() {
        let mut maps = Maps::default();
        let whole = Piece { start: 1, end: 3_001, data: 500 };
        assert_eq!(maps.add(1, 500, 3_000), Ok(vec![whole]));
        assert_eq!(maps.add(1, 500, 3_000), Ok(vec![]));
        assert_eq!(maps.add(1_001, 1_500, 100), Ok(vec![]));
        assert_eq!(
            maps.add(1_001, 1_501, 100),
            Err(Piece { start: 1_001, end: 1_101, data: 1_500 })
        );
        let tail = Piece { start: 3_001, end: 3_101, data: 3_500 };
        assert_eq!(maps.add(2_901, 3_400, 200), Ok(vec![tail]));
        assert_eq!(maps.count(), 1);
        // Not the continuation: a range of its own.
        assert!(maps.add(3_101, 9_000, 10).is_ok());
        assert_eq!(maps.count(), 2);
        maps.forget_below(3_050);
        assert_eq!(
            maps.within(0, 5_000),
            [
                Piece { start: 3_050, end: 3_101, data: 3_549 },
                Piece { start: 3_101, end: 3_111, data: 9_000 }
            ]
        );
    }

    proptest! {
        /// Against a plain map from subflow position to data position.
        #[test]
        fn agrees_with_a_map(
            steps in proptest::collection::vec((0..60_u64, 0..3_u64, 1..20_u64, 0..10_u8), 1..50),
        ) {
            let mut maps = Maps::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            for (start, shift, len, action) in steps {
                if action == 0 {
                    maps.forget_below(start);
                    model.retain(|&position, _| position >= start);
                    continue;
                }
                let data = start + 100 * shift;
                let contradicts = (start..start + len)
                    .any(|at| model.get(&at).is_some_and(|held| *held != at + 100 * shift));
                match maps.add(start, data, len) {
                    Err(_) => prop_assert!(contradicts),
                    Ok(fresh) => {
                        prop_assert!(!contradicts);
                        let fresh: Vec<u64> = fresh.iter().flat_map(|p| p.start..p.end).collect();
                        let wanted: Vec<u64> =
                            (start..start + len).filter(|at| !model.contains_key(at)).collect();
                        prop_assert_eq!(fresh, wanted);
                        model.extend((start..start + len).map(|at| (at, at + 100 * shift)));
                    }
                }
                let held: Vec<(u64, u64)> = maps
                    .within(start, start + 30)
                    .iter()
                    .flat_map(|p| (p.start..p.end).map(|at| (at, p.data + (at - p.start))))
                    .collect();
                let wanted: Vec<(u64, u64)> =
                    model.range(start..start + 30).map(|(&at, &data)| (at, data)).collect();
                prop_assert_eq!(held, wanted);
            }
        }
    }
}
