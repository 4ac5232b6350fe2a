//! A digest of a run: one number over everything that happened, in order, so that a test can
//! assert that one seed gives one trace. Not cryptographic; it finds accidents, not forgeries.

/// A running hash over (time, where, bytes) records.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Four words at a time go through four lanes, whose multiplications overlap.
    lanes: [u64; 4],
    records: u64,
}

const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

impl Trace {
    /// An empty trace.
    #[must_use]
    pub const fn new() -> Self {
        let lanes = [
            0x243f_6a88_85a3_08d3,
            0x1319_8a2e_0370_7344,
            0xa409_3822_299f_31d0,
            0x082e_fa98_ec4e_6c89,
        ];
        Self { lanes, records: 0 }
    }

    /// Adds one record: what happened to `bytes` at `now`; `place` tells links and ends apart.
    pub fn record(&mut self, now: u64, place: u64, bytes: &[u8]) {
        self.records += 1;
        self.block([now, place, bytes.len() as u64, self.records]);
        let (blocks, tail) = bytes.as_chunks::<32>();
        for block in blocks {
            self.bytes(block);
        }
        if !tail.is_empty() {
            let mut last = [0; 32];
            for (to, from) in last.iter_mut().zip(tail) {
                *to = *from;
            }
            self.bytes(&last);
        }
    }

    /// The digest of all records so far.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut hash = self.records;
        let mut rest: &[u64] = &[a, b, c, d];
        while let [lane, others @ ..] = rest {
            hash = mix(hash, *lane);
            rest = others;
        }
        hash
    }

    /// Records added.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    fn bytes(&mut self, block: &[u8; 32]) {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.block(words);
    }

    fn block(&mut self, words: [u64; 4]) {
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = mix(*lane, word);
        }
    }
}

const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 31)
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(records: &[(u64, u64, &[u8])]) -> u64 {
        let mut trace = Trace::new();
        for &(now, place, bytes) in records {
            trace.record(now, place, bytes);
        }
        trace.digest()
    }

    #[test]
    fn every_part_of_a_record_counts() {
        let base = digest(&[(1, 2, b"abcdefghi"), (3, 4, b"x")]);
        assert_eq!(base, digest(&[(1, 2, b"abcdefghi"), (3, 4, b"x")]));
        let others: [&[(u64, u64, &[u8])]; 6] = [
            &[(3, 4, b"x"), (1, 2, b"abcdefghi")],
            &[(1, 2, b"abcdefghj"), (3, 4, b"x")],
            &[(1, 2, b"abcdefgh"), (3, 4, b"x")],
            &[(1, 2, b"abcdefghi\0"), (3, 4, b"x")],
            &[(9, 2, b"abcdefghi"), (3, 4, b"x")],
            &[(1, 9, b"abcdefghi"), (3, 4, b"x")],
        ];
        for other in others {
            assert_ne!(base, digest(other), "{other:?}");
        }
    }
}
