//! Checksums against a naive sum, at every alignment, split and update; published vectors.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::seq::DataSeq;
use mptcp_core::wire::checksum::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// RFC 1071, word by word.
fn naive(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for word in bytes.chunks(2) {
        total += u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded to 16 bits")
}

fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

proptest! {
    #[test]
    fn sum_equals_the_naive_sum_at_any_alignment(bytes in vec(any::<u8>(), 0..3000), skip in 0..64usize) {
        let bytes = &bytes[skip.min(bytes.len())..];
        prop_assert_eq!(sum(bytes), naive(bytes));
    }

    #[test]
    fn sum_carries_out_of_every_lane(byte in prop_oneof![Just(0xff), Just(0xfe), any::<u8>()], len in 0..70_000usize) {
        let bytes = vec![byte; len];
        prop_assert_eq!(sum(&bytes), naive(&bytes));
    }

    #[test]
    fn the_text_of_a_good_segment_has_its_own_sum(src in addr(), dst in addr(), words in 0..16_u8, bytes in vec(any::<u8>(), 0..1500), flip: bool) {
        let mut segment = bytes;
        if segment.len() > 18 {
            segment[12] = words << 4;
            segment[16..18].fill(0);
            let sum = tcp_checksum(src, dst, &segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        if flip && let Some(last) = segment.last_mut() {
            *last ^= 1;
        }
        let header = usize::from(words) * 4;
        let text = verify_tcp(src, dst, &segment).then(|| naive(segment.get(header..).unwrap_or_default()));
        prop_assert_eq!(verified_text(src, dst, &segment), text);
    }

    #[test]
    fn pieces_of_any_length_make_up_the_whole(pieces in vec(vec(any::<u8>(), 0..80), 0..12)) {
        let whole = pieces.concat();
        let mut by_bytes = Checksum::new();
        let mut by_sums = Checksum::new();
        let (mut combined, mut combined_len) = (0, 0);
        for piece in &pieces {
            by_bytes.add_bytes(piece);
            by_sums.add_sum(sum(piece), piece.len());
            combined = combine(combined, combined_len, sum(piece));
            combined_len += piece.len();
        }
        prop_assert_eq!(by_bytes.folded(), naive(&whole));
        prop_assert_eq!(by_sums.finish(), !naive(&whole));
        prop_assert_eq!(combined, naive(&whole));
    }

    #[test]
    fn integers_are_their_bytes_at_both_parities(odd in any::<bool>(), a: u16, b: u32, c: u64) {
        let mut bytes = vec![7; usize::from(odd)];
        let mut checksum = Checksum::new();
        checksum.add_bytes(&bytes);
        checksum.add_u16(a);
        checksum.add_u32(b);
        checksum.add_u64(c);
        bytes.extend(a.to_be_bytes());
        bytes.extend(b.to_be_bytes());
        bytes.extend(c.to_be_bytes());
        prop_assert_eq!(checksum.folded(), naive(&bytes));
    }

    #[test]
    fn an_update_equals_a_recomputation(
        mut bytes in vec(any::<u8>(), 4..200), word: u16, double: u32, at in any::<prop::sample::Index>(),
    ) {
        bytes[0] = 1; // a real packet is never all zero: 0 and 0xffff stay apart
        let at = 2 * at.index((bytes.len() - 2) / 2);
        let before = !sum(&bytes);
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
        if sum(&bytes) != 0 {
            prop_assert_eq!(update_u16(before, old, word), !sum(&bytes));
        }
        if let Some(field) = bytes.get(at..at + 4) {
            let before = !sum(&bytes);
            let old = u32::from_be_bytes(field.try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&double.to_be_bytes());
            if before != 0xffff && sum(&bytes) != 0 {
                prop_assert_eq!(update_u32(before, old, double), !sum(&bytes));
            }
        }
    }

    #[test]
    fn the_pseudo_header_is_the_rfcs_bytes(src in addr(), dst in addr(), protocol: u8, len in 0..65_536u32) {
        let mut bytes = Vec::new();
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => bytes.extend(addr.octets()),
                IpAddr::V6(addr) => bytes.extend(addr.octets()),
            }
        }
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
        prop_assert_eq!(pseudo_header(src, dst, protocol, len), naive(&bytes));
    }

    #[test]
    fn a_tcp_checksum_verifies_and_any_flipped_bit_breaks_it(
        src: u32, dst: u32, mut segment in vec(any::<u8>(), 20..200), flip in any::<prop::sample::Index>(),
    ) {
        let (src, dst) = (Ipv4Addr::from_bits(src).into(), Ipv4Addr::from_bits(dst).into());
        let value = tcp_checksum(src, dst, &segment);
        segment[16..18].copy_from_slice(&value.to_be_bytes());
        prop_assert!(verify_tcp(src, dst, &segment));
        prop_assert_eq!(tcp_checksum(src, dst, &segment), value, "the field itself does not count");
        let bit = flip.index(segment.len() * 8);
        segment[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!verify_tcp(src, dst, &segment));
    }

    #[test]
    fn a_dss_checksum_covers_a_mapping_in_odd_pieces(
        dsn: u64, ssn: u32, pieces in vec(vec(any::<u8>(), 0..50), 0..5),
    ) {
        let payload = pieces.concat();
        let len = u16::try_from(payload.len()).unwrap();
        let mut covered = dsn.to_be_bytes().to_vec();
        covered.extend(ssn.to_be_bytes());
        covered.extend(len.to_be_bytes());
        covered.extend([0, 0]);
        covered.extend(&payload);
        let mut sums = Checksum::new();
        pieces.iter().for_each(|piece| sums.add_bytes(piece));
        prop_assert_eq!(dss_checksum(DataSeq(dsn), ssn, len, sums.folded()), !naive(&covered));
    }
}

#[test]
fn rfc_1071_example() {
    assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
}

#[test]
fn rfc_1624_example_keeps_the_result_that_rfc_1141_gets_wrong() {
    assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn dss_known_answers() {
    let dsn = DataSeq(0x0102_0304_0506_0708);
    assert_eq!(dss_checksum(dsn, 1, 5, sum(b"hello")), 0xac13);
    assert_eq!(dss_checksum(dsn, 1, 6, sum(b"hello")), 0xac12, "the length counts a DATA_FIN");
    assert_eq!(dss_checksum(dsn, 0, 1, 0), 0xefea, "a bare DATA_FIN covers the pseudo-header");
}

#[test]
fn short_segments_never_verify_and_never_panic() {
    let addr = IpAddr::from([10, 0, 0, 1]);
    for len in 0..20 {
        let _ = tcp_checksum(addr, addr, &vec![0; len]);
        assert!(!verify_tcp(addr, addr, &vec![0; len]));
    }
}
