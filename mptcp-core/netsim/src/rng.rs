//! Random numbers that are addressed, not only drawn: PCG (RXS-M-XS 64) seeded from
//! (seed, stream, index). The draws of packet 17 of one direction never depend on how many packets
//! the other direction carried, so that one more packet does not reshuffle a whole run.

/// So often is a value drawn that has to fall into a range.
const LOG_TRIES: u32 = 1_000;

/// A small deterministic generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    increment: u64,
}

impl Rng {
    /// A generator for everything that is not tied to a packet, such as a scenario's own choices.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self::for_packet(seed, u64::MAX, 0)
    }

    /// The generator of packet number `index` on `stream` (a direction of a link).
    #[must_use]
    pub const fn for_packet(seed: u64, stream: u64, index: u64) -> Self {
        let stream = mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let state = mix(seed ^ mix(index ^ stream));
        Self { state, increment: stream | 1 }
    }

    /// Uniform over all 64-bit values.
    pub const fn next_u64(&mut self) -> u64 {
        let old = self.state;
        self.state = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(self.increment);
        let word = ((old >> ((old >> 59) + 5)) ^ old).wrapping_mul(12_605_985_483_714_917_081);
        (word >> 43) ^ word
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let word = self.next_u64();
        if bound == 0 { 0 } else { word % bound }
    }

    /// True with a probability of `ppm` millionths; always draws exactly once.
    pub const fn chance_ppm(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < ppm as u64
    }

    /// Log-uniform in `low..=high`: every doubling is equally likely. `low` is raised to 1. Uniform where that is a tiny
    /// part of its doublings.
    pub const fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let low = if low == 0 { 1 } else { low };
        if high <= low {
            return low;
        }
        let (first, last) = (low.ilog2(), high.ilog2());
        let mut tries = 0;
        while tries < LOG_TRIES {
            tries += 1;
            let octave = first as u64 + self.below((last - first) as u64 + 1);
            let value = (1 << octave) + self.below(1 << octave);
            if value >= low && value <= high {
                return value;
            }
        }
        low + self.below(high - low + 1)
    }

    /// Fills `bytes` with random octets.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (to, from) in chunk.iter_mut().zip(self.next_u64().to_le_bytes()) {
                *to = from;
            }
        }
    }
}

/// The finaliser of SplitMix64: a bijection in which every input bit reaches every output bit.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_of_one_packet_do_not_depend_on_another_stream() {
        let alone: Vec<u64> = (0..9).map(|n| Rng::for_packet(1, 0, n).next_u64()).collect();
        let mixed: Vec<u64> = (0..9)
            .map(|n| {
                let _ = Rng::for_packet(1, 1, n).next_u64();
                Rng::for_packet(1, 0, n).next_u64()
            })
            .collect();
        assert_eq!(alone, mixed);
        let mut distinct = alone.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), alone.len());
    }

    #[test]
    fn chance_is_close_to_its_share() {
        let hits = (0..200_000).filter(|&n| Rng::for_packet(3, 0, n).chance_ppm(10_000)).count();
        assert!((1_800..2_200).contains(&hits), "{hits} of 2000 expected");
        assert!((0..1_000).all(|n| !Rng::for_packet(3, 0, n).chance_ppm(0)));
        assert!((0..1_000).all(|n| Rng::for_packet(3, 0, n).chance_ppm(1_000_000)));
    }

    #[test]
    fn log_uniform_stays_inside_and_favours_no_octave() {
        let mut rng = Rng::new(5);
        let mut small = 0;
        for _ in 0..10_000 {
            let size = rng.log_uniform(1, 64 << 20);
            assert!((1..=64 << 20).contains(&size));
            small += u32::from(size < 8192);
        }
        // 13 of the 26 whole octaves lie below 8192; the last one holds a single admissible value.
        assert!((4_500..5_500).contains(&small), "{small}");
        assert_eq!(rng.log_uniform(9, 9), 9);
        assert_eq!(rng.log_uniform(0, 0), 1);
        // Some million draws would be needed for one that fits.
        for (low, high) in [(1 << 40, (1 << 40) + 1), (u64::MAX - 1, u64::MAX)] {
            assert!((low..=high).contains(&rng.log_uniform(low, high)));
        }
    }

    #[test]
    fn fill_covers_a_ragged_tail() {
        let mut bytes = [0; 13];
        Rng::new(11).fill(&mut bytes);
        assert!(bytes[8..].iter().any(|&byte| byte != 0));
    }
}
