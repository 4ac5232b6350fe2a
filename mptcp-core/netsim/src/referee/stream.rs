//! What a host sent, by position: the memory behind "a retransmission carries the same bytes".
//! Positions are 64-bit offsets that never wrap. Bounded: the oldest bytes are forgotten first,
//! and a forgotten byte is never judged.

use std::collections::{BTreeMap, VecDeque};

/// Bytes one stream remembers. Larger than any window a host under test may use.
const MAX_HELD: u64 = 32 << 20;

/// Capacity an empty stream may keep.
const SPARE: usize = 64 << 10;

/// A sparse window of a byte stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Position of `bytes[0]`; everything below is forgotten.
    base: u64,
    bytes: VecDeque<u8>,
    /// Which of `bytes` were sent: disjoint ranges, start to end, neighbours merged.
    known: BTreeMap<u64, u64>,
}

impl Stream {
    /// Records `data` at position `at`; returns the position of the first byte that differs from
    /// what was recorded there before.
    pub(super) fn put(&mut self, at: u64, data: &[u8]) -> Option<u64> {
        let end = at.saturating_add(data.len() as u64);
        self.forget_below(end.saturating_sub(MAX_HELD));
        let skipped = self.base.saturating_sub(at).min(data.len() as u64);
        let mut data = data.get(index(skipped)..).unwrap_or_default();
        let mut at = at + skipped;
        let start = at;
        if data.is_empty() {
            return None;
        }
        self.grow(end);
        let mut differs = None;
        while !data.is_empty() {
            let (known, until) = self.state_at(at);
            let (piece, rest) = data.split_at(index(until - at).min(data.len()));
            if known {
                differs = differs.or_else(|| self.first_difference(at, piece));
            } else {
                self.write(at, piece);
            }
            at += piece.len() as u64;
            data = rest;
        }
        self.mark(start, end);
        differs
    }

    /// Forgets everything below `at`.
    pub(super) fn forget_below(&mut self, at: u64) {
        if at <= self.base {
            return;
        }
        let gone = index(at - self.base).min(self.bytes.len());
        self.bytes.drain(..gone);
        self.base = at;
        if self.bytes.is_empty() && self.bytes.capacity() > SPARE {
            self.bytes = VecDeque::new();
        }
        while let Some((&start, &end)) = self.known.first_key_value()
            && start < at
        {
            self.known.pop_first();
            if end > at {
                self.known.insert(at, end);
            }
        }
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn clear(&mut self) {
        let end = self.base.saturating_add(self.bytes.len() as u64);
        *self = Self { base: end, ..Self::default() };
    }

    /// The remembered bytes in `from..to`, as (position, bytes) pieces.
    pub(super) fn pieces(&self, from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
        let first = self.known.range(..=from).next_back().map_or(from, |(&start, _)| start);
        self.known
            .range(first..to)
            .map(|(&start, &end)| (start.max(from), end.min(to)))
            .filter(|(start, end)| start < end)
            .map(|(start, end)| {
                let range = index(start - self.base)..index(end - self.base);
                (start, self.bytes.range(range).copied().collect())
            })
            .collect()
    }

    /// Memory in use, in bytes.
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }

    fn grow(&mut self, end: u64) {
        if self.bytes.is_empty() && self.known.is_empty() && end - self.base > MAX_HELD {
            self.base = end - MAX_HELD;
        }
        let len = index(end.saturating_sub(self.base));
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
    }

    /// Whether `at` is known, and where that ends.
    fn state_at(&self, at: u64) -> (bool, u64) {
        if let Some((_, &end)) = self.known.range(..=at).next_back()
            && end > at
        {
            return (true, end);
        }
        (false, self.known.range(at..).next().map_or(u64::MAX, |(&start, _)| start))
    }

    fn first_difference(&self, at: u64, data: &[u8]) -> Option<u64> {
        let from = index(at - self.base);
        let (front, back) = self.bytes.as_slices();
        let in_front = front.get(from..).unwrap_or_default();
        let in_front = in_front.get(..data.len()).unwrap_or(in_front);
        let (first, second) = data.split_at(in_front.len());
        let after = back.get(from.saturating_sub(front.len())..).unwrap_or_default();
        let in_back = after.get(..second.len()).unwrap_or_default();
        if first == in_front && second == in_back {
            return None;
        }
        let held = in_front.iter().chain(in_back);
        let offset = data.iter().zip(held).position(|(sent, held)| sent != held)?;
        Some(at + offset as u64)
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let from = index(at - self.base);
        let (front, back) = self.bytes.as_mut_slices();
        let in_front = front.len().saturating_sub(from).min(data.len());
        let (first, second) = data.split_at(in_front);
        if let Some(to) = front.get_mut(from..from + in_front) {
            to.copy_from_slice(first);
        }
        let from = from.saturating_sub(front.len());
        if let Some(to) = back.get_mut(from..from + second.len()) {
            to.copy_from_slice(second);
        }
    }

    fn mark(&mut self, mut start: u64, mut end: u64) {
        while let Some((&other, &until)) = self.known.range(..=end).next_back()
            && until >= start
        {
            self.known.remove(&other);
            (start, end) = (start.min(other), end.max(until));
        }
        self.known.insert(start, end);
    }
}

/// An offset within the window as an index; the window is far smaller than the address space.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let mut stream = Stream::default();
        assert_eq!(stream.put(100, b"hello world"), None);
        assert_eq!(stream.put(102, b"llo"), None);
        assert_eq!(stream.put(104, b"o_w"), Some(105));
        stream.forget_below(106);
        assert_eq!(stream.put(100, b"XXXXXXworld!"), None);
        assert_eq!(stream.put(106, b"world?"), Some(111));
        stream.clear();
        assert_eq!(stream.put(108, b"????"), None);
        assert_eq!(stream.held(), 0);
    }

    #[test]
    fn the_oldest_bytes_are_forgotten_at_the_limit() {
        let mut stream = Stream::default();
        stream.put(0, b"old");
        stream.put(MAX_HELD + 1, b"new");
        assert!(stream.held() as u64 <= 2 * MAX_HELD);
        assert_eq!(stream.put(0, b"xxx"), None);
        assert_eq!(stream.put(MAX_HELD + 1, b"xxx"), Some(MAX_HELD + 1));
        let mut far = Stream::default();
        assert_eq!(far.put(u64::MAX / 2, b"far"), None);
        assert_eq!(far.put(u64::MAX / 2, b"fat"), Some(u64::MAX / 2 + 2));
    }

    proptest! {
        /// Against a plain map from position to byte.
        #[test]
        fn agrees_with_a_map(
            steps in proptest::collection::vec((0..120_u64, proptest::collection::vec(0..3_u8, 0..30), 0..9_u8), 1..60),
        ) {
            let mut stream = Stream::default();
            let mut model = BTreeMap::new();
            let mut base = 0;
            for (at, data, action) in steps {
                if action == 0 {
                    base = base.max(at);
                    stream.forget_below(at);
                    model.retain(|&position, _| position >= base);
                    continue;
                }
                let mut expected = None;
                for (position, &byte) in (at..).zip(&data).filter(|(position, _)| *position >= base) {
                    let held = *model.entry(position).or_insert(byte);
                    if held != byte {
                        expected = expected.or(Some(position));
                    }
                }
                prop_assert_eq!(stream.put(at, &data), expected);
                let pieces = stream.pieces(at / 2, at + 40);
                let flat: Vec<(u64, u8)> = pieces
                    .iter()
                    .flat_map(|(start, bytes)| (*start..).zip(bytes.iter().copied()))
                    .collect();
                let wanted: Vec<(u64, u8)> =
                    model.range(at / 2..at + 40).map(|(&position, &byte)| (position, byte)).collect();
                prop_assert_eq!(flat, wanted);
            }
        }
    }
}
