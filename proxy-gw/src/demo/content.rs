//! What the demo transfers: bytes that are a pure function of a seed and an offset.
//!
//! Invariant: the byte at `offset` does not depend on how the stream is cut into calls, so sender,
//! receiver and judge compute the same SHA-256 without sharing a file, and a byte that arrives at the
//! wrong place changes it.

use core::fmt;
use sha2::{Digest as _, Sha256};

/// Bytes generated or hashed per step; large enough that the per-call cost vanishes.
pub(super) const CHUNK_LEN: usize = 64 * 1024;

/// One stream of content, read front to back.
#[derive(Clone, Debug)]
pub(super) struct Content {
    seed: u64,
    offset: u64,
}

impl Content {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// Fills all of `into` with the next bytes of the stream.
    pub(super) fn fill(&mut self, into: &mut [u8]) {
        let mut rest = into;
        while !rest.is_empty() {
            let word = mix(self.seed, self.offset / 8).to_le_bytes();
            let skip = usize::try_from(self.offset % 8).unwrap_or(0);
            let available = &word[skip..];
            let taken = available.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(taken);
            head.copy_from_slice(&available[..taken]);
            self.offset = self.offset.wrapping_add(taken as u64);
            rest = tail;
        }
    }
}

/// `SplitMix64`'s output function at `index`; the seed is spread so that neighbouring seeds differ.
pub(super) const fn mix(seed: u64, index: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut word =
        seed.wrapping_mul(0xd1b5_4a32_d192_ed03).wrapping_add(index.wrapping_mul(GOLDEN));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A finished SHA-256, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    /// The digest of the first `len` bytes of the stream `seed`.
    pub(super) fn of_content(seed: u64, len: u64) -> Self {
        let mut content = Content::new(seed);
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; CHUNK_LEN];
        let mut rest = len;
        while rest > 0 {
            let step = usize::try_from(rest).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            content.fill(&mut chunk[..step]);
            hasher.update(&chunk[..step]);
            rest -= step as u64;
        }
        hasher.finish()
    }

    /// `None` unless `text` is exactly 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = core::str::from_utf8(pair).ok()?;
            if !pair.chars().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of a stream under way, with its length.
#[derive(Clone, Default)]
pub(super) struct Hasher {
    hasher: Sha256,
    len: u64,
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Bytes hashed so far.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_cut_into_calls_does_not_matter(
            seed: u64, cuts in prop::collection::vec(0_usize..40, 0..20),
        ) {
            let total: usize = cuts.iter().sum();
            let mut whole = vec![0; total];
            Content::new(seed).fill(&mut whole);
            let mut content = Content::new(seed);
            let mut pieces = Vec::new();
            for len in cuts {
                let mut piece = vec![0; len];
                content.fill(&mut piece);
                pieces.extend(piece);
            }
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn a_digest_survives_printing(bytes: [u8; 32]) {
            prop_assert_eq!(Digest::parse(&Digest(bytes).to_string()), Some(Digest(bytes)));
        }
    }

    #[test]
    fn seeds_and_positions_give_different_bytes() {
        let block = |seed, skip: usize| {
            let mut bytes = vec![0; skip + 64];
            Content::new(seed).fill(&mut bytes);
            bytes.split_off(skip)
        };
        assert_ne!(block(1, 0), block(2, 0));
        assert_ne!(block(1, 0), block(1, 8));
        assert_ne!(block(1, 0), block(1, 1));
    }

    #[test]
    fn digests_are_sha_256_of_the_stream() {
        assert_eq!(
            Digest::of_content(7, 0).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let len = CHUNK_LEN as u64 + 3;
        let mut bytes = vec![0; CHUNK_LEN + 3];
        Content::new(7).fill(&mut bytes);
        let mut hasher = Hasher::default();
        hasher.update(&bytes);
        assert_eq!(hasher.len(), len);
        assert_eq!(hasher.finish(), Digest::of_content(7, len));
    }

    #[test]
    fn other_texts_are_no_digest() {
        for text in ["", "e3", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
