//! The Internet checksum: full sums (RFC 1071) and incremental updates (RFC 1624).

/// One's-complement sum of the bytes as big-endian 16-bit words, not yet folded; a last odd byte is
/// padded with zero. Sums of pieces of even length may be added.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<4>();
    let mut total = chunks.iter().map(|chunk| u64::from(u32::from_be_bytes(*chunk))).sum::<u64>();
    let (pairs, odd) = rest.as_chunks::<2>();
    total += pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>();
    total + odd.first().map_or(0, |&byte| u64::from(byte) << 8)
}

/// Folds a sum to 16 bits. A correct packet folds to `0xffff`.
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The checksum field after 16-bit words of the covered data changed from `old` to `new`.
/// Both must start at an even offset and have the same even length (RFC 1624 §3, equation 3).
#[must_use]
pub fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let removed: u64 =
        old.as_chunks::<2>().0.iter().map(|word| u64::from(!u16::from_be_bytes(*word))).sum();
    !fold(u64::from(!checksum) + removed + sum(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_sum_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x12])), 0x1200);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut data in proptest::collection::vec(any::<u8>(), 20..80), at in 0..4_usize, new: [u8; 8]) {
            if data.len() % 2 == 1 {
                data.pop();
            }
            // A header is never all zero, the one case in which the two forms of zero differ.
            data[19] |= 1;
            let before = !fold(sum(&data));
            let range = at * 2..at * 2 + 8;
            let old = data[range.clone()].to_vec();
            data[range].copy_from_slice(&new);
            prop_assert_eq!(update(before, &old, &new), !fold(sum(&data)));
        }
    }
}
