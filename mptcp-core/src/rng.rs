//! Randomness that is a function of one 32-byte seed, and the keyed hash the tables use.
//!
//! Invariant: nothing here asks the operating system; two runs with one seed draw the same numbers.
//! Keys, tokens and initial sequence numbers come from the generator, so it is a cryptographic one.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use siphasher::sip::SipHasher13;

/// ChaCha with 12 rounds. Not `Clone`: two copies would draw the same keys; see [`Rng::fork`].
pub struct Rng {
    generator: ChaCha12Rng,
    /// Keys and nonces that are drawn first: those of a captured connection.
    #[cfg(test)]
    pub(crate) prescribed: (alloc::collections::VecDeque<u64>, alloc::collections::VecDeque<u32>),
}

impl Rng {
    /// The generator this seed names; in production the seed must come from the system's entropy.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self {
            generator: ChaCha12Rng::from_seed(seed),
            #[cfg(test)]
            prescribed: Default::default(),
        }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        #[cfg(test)]
        if let Some(nonce) = self.prescribed.1.pop_front() {
            return nonce;
        }
        self.generator.next_u32()
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        #[cfg(test)]
        if let Some(key) = self.prescribed.0.pop_front() {
            return key;
        }
        self.generator.next_u64()
    }

    /// Uniform in `0..n`, without bias; 0 when `n` is 0. Draws once, very rarely more often (fewer
    /// than two draws expected for every `n`).
    pub fn below(&mut self, n: u32) -> u32 {
        // The upper word of draw × n is uniform once the lower words that occur too often are
        // rejected: 2^32 mod n of them.
        let surplus = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let (low, high) = widening_mul(self.generator.next_u32(), n);
            if low >= surplus {
                return high;
            }
        }
    }

    /// Overwrites `bytes` with uniform bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.generator.fill_bytes(bytes);
    }

    /// A generator whose output is independent of what this one draws from now on. Takes 32 bytes
    /// from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        Self::from_seed(seed)
    }
}

impl core::fmt::Debug for Rng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rng")
    }
}

/// Lower and upper word of `a × b`.
fn widening_mul(a: u32, b: u32) -> (u32, u32) {
    let [h0, h1, h2, h3, l0, l1, l2, l3] = (u64::from(a) * u64::from(b)).to_be_bytes();
    (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes([h0, h1, h2, h3]))
}

/// SipHash-1-3 under a 128-bit secret key, for tables whose keys a peer chooses: without the secret
/// nobody can aim at one bucket. Not a message authentication code.
#[derive(Clone)]
pub struct KeyedHash {
    hasher: SipHasher13,
    /// Its state before the first word.
    start: SipState,
}

/// The four words of SipHash, for input that is words already: the crate's hasher has to look after octets that do
/// not fill one.
#[derive(Clone, Copy)]
struct SipState([u64; 4]);

impl SipState {
    const fn new(k0: u64, k1: u64) -> Self {
        // "somepseudorandomlygeneratedbytes"
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline]
    const fn round(self) -> Self {
        let [v0, v1, v2, v3] = self.0;
        let (v0, v2) = (v0.wrapping_add(v1), v2.wrapping_add(v3));
        let (v1, v3) = (v1.rotate_left(13) ^ v0, v3.rotate_left(16) ^ v2);
        let (v0, v2) = (v0.rotate_left(32).wrapping_add(v3), v2.wrapping_add(v1));
        let (v1, v3) = (v1.rotate_left(17) ^ v2, v3.rotate_left(21) ^ v0);
        Self([v0, v1, v2.rotate_left(32), v3])
    }

    /// Takes eight octets in.
    #[inline]
    const fn compress(self, word: u64) -> Self {
        let [v0, v1, v2, v3] = self.0;
        let Self([v0, v1, v2, v3]) = Self([v0, v1, v2, v3 ^ word]).round();
        Self([v0 ^ word, v1, v2, v3])
    }

    #[inline]
    const fn finish(self) -> u64 {
        let [v0, v1, v2, v3] = self.0;
        let Self([v0, v1, v2, v3]) = Self([v0, v1, v2 ^ 0xff, v3]).round().round().round();
        v0 ^ v1 ^ v2 ^ v3
    }
}

impl KeyedHash {
    /// Draws the key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Self::with_keys(rng.next_u64(), rng.next_u64())
    }

    fn with_keys(k0: u64, k1: u64) -> Self {
        Self { hasher: SipHasher13::new_with_keys(k0, k1), start: SipState::new(k0, k1) }
    }

    /// The hash of `bytes`. O(bytes).
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash(bytes)
    }

    /// The hash of `words`, the same as [`KeyedHash::hash`] over their native-endian bytes, without
    /// going through bytes: for four-tuples and tokens packed into words.
    #[inline]
    #[must_use]
    pub fn hash_words(&self, words: &[u64]) -> u64 {
        self.hash_with(words, None)
    }

    /// The same with the four native-endian bytes of `rest` behind them, which cost next to nothing there.
    #[inline]
    #[must_use]
    pub fn hash_words_and(&self, words: &[u64], rest: u32) -> u64 {
        self.hash_with(words, Some(rest))
    }

    #[inline]
    fn hash_with(&self, words: &[u64], rest: Option<u32>) -> u64 {
        let state = words.iter().fold(self.start, |state, word| state.compress(word.to_le()));
        let octets = words.len() * 8 + if rest.is_some() { 4 } else { 0 };
        let rest = u64::from(rest.unwrap_or(0).to_le());
        state.compress((octets as u64) << 56 | rest).finish()
    }
}

impl core::fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("KeyedHash")
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyedHash, Rng};
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    #[test]
    fn one_seed_one_sequence() {
        let draw = |seed: u8| {
            let mut rng = Rng::from_seed([seed; 32]);
            let mut bytes = [0; 5];
            rng.fill(&mut bytes);
            (rng.next_u32(), rng.next_u64(), bytes, rng.below(1000))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    /// The first keystream block of ChaCha12 under the all-zero key and nonce, as published in
    /// draft-strombergson-chacha-test-vectors-00 (TC1, 256-bit key).
    #[test]
    fn is_chacha12() {
        let mut bytes = [0; 8];
        Rng::from_seed([0; 32]).fill(&mut bytes);
        assert_eq!(bytes, [0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53]);
    }

    #[test]
    fn a_fork_repeats_neither_its_parent_nor_a_later_fork() {
        let mut rng = Rng::from_seed([3; 32]);
        let mut forks = [rng.fork(), rng.fork()];
        let words: Vec<u64> = forks.iter_mut().map(Rng::next_u64).chain([rng.next_u64()]).collect();
        assert!(words[0] != words[1] && words[0] != words[2] && words[1] != words[2]);
    }

    #[test]
    fn below_is_uniform_and_total() {
        let mut rng = Rng::from_seed([7; 32]);
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
        let mut seen = [0u32; 6];
        for _ in 0..60_000 {
            seen[rng.below(6) as usize] += 1;
        }
        // Six standard deviations (each about 91) around 10 000.
        assert!(seen.iter().all(|count| (9_450..10_550).contains(count)), "{seen:?}");
        // With n = 3 × 2^30 a biased multiply would give every third value twice the weight.
        let thirds = (0..40_000).filter(|_| rng.below(3 << 30).is_multiple_of(3)).count();
        assert!((12_750..13_920).contains(&thirds), "{thirds}");
    }

    /// The first two test vectors of SipHash-1-3: the empty message and the byte 0, key 00..0f.
    #[test]
    fn hash_is_siphash_1_3() {
        let key: [u8; 16] = core::array::from_fn(|i| u8::try_from(i).unwrap());
        let [k0, k1] =
            [0, 8].map(|at| u64::from_le_bytes(core::array::from_fn(|octet| key[at + octet])));
        let hash = KeyedHash::with_keys(k0, k1);
        assert_eq!(hash.hash(&[]), 0xabac_0158_050f_c4dc);
        assert_eq!(hash.hash(&[0]), 0xc9f4_9bf3_7d57_ca93);
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut rng = Rng::from_seed([0x5a; 32]);
        let hash = KeyedHash::new(&mut rng);
        assert_eq!(format!("{rng:?} {hash:?}"), "Rng KeyedHash");
    }

    proptest! {
        #[test]
        fn words_hash_like_their_bytes(words in prop::collection::vec(any::<u64>(), 0..6), seed: u8) {
            let hash = KeyedHash::new(&mut Rng::from_seed([seed; 32]));
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            prop_assert_eq!(hash.hash_words(&words), hash.hash(&bytes));
        }

        #[test]
        fn a_rest_hashes_like_its_bytes(
            words in prop::collection::vec(any::<u64>(), 0..6),
            rest: u32,
            seed: u8,
        ) {
            let hash = KeyedHash::new(&mut Rng::from_seed([seed; 32]));
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            bytes.extend(rest.to_ne_bytes());
            prop_assert_eq!(hash.hash_words_and(&words, rest), hash.hash(&bytes));
        }

        #[test]
        fn below_stays_below(seed: [u8; 32], n in 1u32..) {
            let mut rng = Rng::from_seed(seed);
            for _ in 0..8 {
                prop_assert!(rng.below(n) < n);
            }
        }
    }
}
