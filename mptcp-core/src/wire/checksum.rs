//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the DSS checksum
//! (RFC 8684 §3.3.1).
//!
//! Invariant: a *sum* is the folded ones' complement sum of big-endian 16-bit words, not inverted,
//! of a piece that starts on an even byte; it is 0 only when every byte is 0. A *checksum* is an
//! inverted sum, as it stands in a header field. Sums of pieces add up, whatever their lengths, as
//! long as [`Checksum`] or [`combine`] is told those lengths.

use crate::seq::DataSeq;
use core::net::IpAddr;

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// Folded sum of `bytes`, an odd last byte padded with a zero behind it. Not inverted.
///
/// Any alignment; 128 bytes a round in independent lanes, which compilers turn into vector code.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum commutes with swapping the bytes of every word (RFC 1071 §2 B): everything is read in
    // little-endian order, in words of any length, and the result is swapped.
    let (blocks, mut rest) = bytes.as_chunks::<128>();
    let mut total = if blocks.is_empty() { 0 } else { sum_blocks(blocks) };
    while let Some((words, behind)) = rest.split_first_chunk::<16>() {
        rest = behind;
        let mut carry = false;
        for word in words.as_chunks::<8>().0 {
            (total, carry) = total.carrying_add(u64::from_le_bytes(*word), carry);
        }
        total += u64::from(carry);
    }
    if let Some((word, behind)) = rest.split_first_chunk::<8>() {
        rest = behind;
        total = add_carried(total, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        // Behind other words the last bytes are the end of a whole one: gathering them in a buffer would
        // stall on the read behind the writes.
        let word = match bytes.last_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word) >> (64 - 8 * rest.len()),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        total = add_carried(total, word);
    }
    fold(total).swap_bytes()
}

/// The sum of headers, of whole words of 32 bits, and few: in little-endian order, and not folded. Two of them
/// [add up](add_carried).
#[inline(always)]
pub(crate) fn header_words(bytes: &[u8]) -> u64 {
    let (pairs, word) = bytes.as_chunks::<8>();
    debug_assert!(word.len().is_multiple_of(4), "whole words");
    let word = word.first_chunk().map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
    pairs.iter().fold(word, |total, pair| add_carried(total, u64::from_le_bytes(*pair)))
}

/// Whether such words, octets that sum up to `sum`, and `rest` make a right checksum together.
#[inline(always)]
pub(crate) fn is_right(words: u64, sum: u16, rest: u32) -> bool {
    let rest = u64::from(rest.swap_bytes()) + u64::from(sum.swap_bytes());
    fold(add_carried(words, rest)) == 0xffff
}

fn sum_blocks(blocks: &[[u8; 128]]) -> u64 {
    // A lane takes less than 2^34 a round, all of them 2^37: they could overflow after 2^27 rounds, 16 GiB,
    // more than any packet buffer.
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (rows, _) = block.as_chunks::<4>().0.as_chunks::<8>();
        let [a, b, c, d] = rows else { continue };
        let rows = a.iter().zip(b).zip(c.iter().zip(d));
        for (lane, ((a, b), (c, d))) in lanes.iter_mut().zip(rows) {
            let half = |word: &[u8; 4]| u64::from(u32::from_le_bytes(*word));
            *lane = lane.wrapping_add(half(a) + half(b) + half(c) + half(d));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

/// Ones' complement addition; equal to the sum modulo 2^16 - 1.
pub(crate) const fn add_carried(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    if carry { sum + 1 } else { sum }
}

/// Folds to 16 bits; non-zero stays non-zero.
pub(crate) const fn fold(total: u64) -> u16 {
    let [a, b, c, d, e, f, g, h] = total.to_be_bytes();
    let high = u32::from_be_bytes([a, b, c, d]);
    let (sum, carry) = u32::from_be_bytes([e, f, g, h]).overflowing_add(high);
    let [a, b, c, d] = (if carry { sum + 1 } else { sum }).to_be_bytes();
    add(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Ones' complement addition.
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    if carry { sum + 1 } else { sum }
}

/// Sum of a piece of `a_len` bytes with sum `a`, followed by a piece with sum `b`.
///
/// ```
/// use mptcp_core::wire::checksum::{combine, sum};
/// assert_eq!(combine(sum(b"hel"), 3, sum(b"lo")), sum(b"hello"));
/// ```
#[must_use]
pub const fn combine(a: u16, a_len: usize, b: u16) -> u16 {
    add(a, if a_len.is_multiple_of(2) { b } else { b.swap_bytes() })
}

/// A sum over pieces that follow each other, of any lengths.
///
/// ```
/// use mptcp_core::wire::checksum::{Checksum, sum};
/// let mut checksum = Checksum::new();
/// checksum.add_bytes(b"odd");
/// checksum.add_u16(0x1234);
/// assert_eq!(checksum.finish(), !sum(b"odd\x12\x34"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checksum {
    sum: u16,
    /// The next byte is the second of its word.
    odd: bool,
}

impl Checksum {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Appends `bytes`.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add_sum(sum(bytes), bytes.len());
    }

    /// Appends two bytes in network order.
    pub const fn add_u16(&mut self, value: u16) {
        self.add_sum(value, 2);
    }

    /// Appends four bytes in network order.
    pub fn add_u32(&mut self, value: u32) {
        self.add_sum(fold(u64::from(value)), 4);
    }

    /// Appends eight bytes in network order.
    pub fn add_u64(&mut self, value: u64) {
        self.add_sum(fold(value), 8);
    }

    /// Appends a piece of `len` bytes whose [`sum`] is known.
    pub const fn add_sum(&mut self, sum: u16, len: usize) {
        self.sum = combine(self.sum, self.odd as usize, sum);
        self.odd ^= !len.is_multiple_of(2);
    }

    /// The sum so far, not inverted.
    #[must_use]
    pub const fn folded(&self) -> u16 {
        self.sum
    }

    /// The checksum: what a header field holds.
    #[must_use]
    pub const fn finish(&self) -> u16 {
        !self.sum
    }
}

/// Sum of the pseudo-header of RFC 9293 §3.1 (IPv4) or RFC 8200 §8.1 (IPv6). `l4_len` counts the
/// transport header and its payload, in bytes.
#[must_use]
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, l4_len: u32) -> u16 {
    add(add(address_sum(src), address_sum(dst)), add(u16::from(protocol), fold(u64::from(l4_len))))
}

fn address_sum(addr: IpAddr) -> u16 {
    match addr {
        IpAddr::V4(addr) => fold(u64::from(addr.to_bits())),
        IpAddr::V6(addr) => sum(&addr.octets()),
    }
}

/// Value for the checksum field of the TCP segment `segment` (header and payload). The field itself
/// counts as zero, whatever it holds.
#[must_use]
pub fn tcp_checksum(src: IpAddr, dst: IpAddr, segment: &[u8]) -> u16 {
    let whole = tcp_sum(src, dst, segment);
    let field = segment.get(16..18).map_or(0, sum);
    // The pseudo-header is never all zero, so taking the field out cannot confuse 0 with 0xffff.
    !add(whole, !field)
}

/// True when the checksum of the TCP segment `segment` (header and payload) is right.
#[must_use]
pub fn verify_tcp(src: IpAddr, dst: IpAddr, segment: &[u8]) -> bool {
    tcp_sum(src, dst, segment) == 0xffff
}

/// The sum of the text of the TCP segment `segment` (header and payload) when its checksum is right.
#[must_use]
pub fn verified_text(src: IpAddr, dst: IpAddr, segment: &[u8]) -> Option<u16> {
    let offset = segment.get(12).map_or(0, |octet| usize::from(octet >> 4) * 4);
    let (header, text) = segment.split_at(offset.min(segment.len()));
    let len = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    let text = sum(text);
    // Nothing is behind a header of odd length.
    (add(pseudo_header(src, dst, TCP, len), add(sum(header), text)) == 0xffff).then_some(text)
}

fn tcp_sum(src: IpAddr, dst: IpAddr, segment: &[u8]) -> u16 {
    let len = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    add(pseudo_header(src, dst, TCP, len), sum(segment))
}

/// The checksum after a 16-bit field at an even offset changed (RFC 1624 equation 3).
#[must_use]
pub const fn update_u16(old_checksum: u16, old_field: u16, new_field: u16) -> u16 {
    !add(add(!old_checksum, !old_field), new_field)
}

/// The checksum after a 32-bit field at an even offset changed (RFC 1624 equation 3).
#[must_use]
pub fn update_u32(old_checksum: u16, old_field: u32, new_field: u32) -> u16 {
    let [old_high, old_low] = split(old_field);
    let [new_high, new_low] = split(new_field);
    update_u16(update_u16(old_checksum, old_high, new_high), old_low, new_low)
}

const fn split(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// Value for the checksum field of a DSS option or of `MP_CAPABLE` with data (RFC 8684 §3.3.1).
///
/// `dsn` is always the full number, however wide the option carries it; `ssn` is relative to the
/// subflow's SYN, 0 for a `DATA_FIN` without data; `len` is the data-level length, which counts a
/// `DATA_FIN`; `payload_sum` is the [`sum`] of the mapped bytes.
///
/// ```
/// use mptcp_core::seq::DataSeq;
/// use mptcp_core::wire::checksum::{dss_checksum, sum};
/// assert_eq!(dss_checksum(DataSeq(0x0102_0304_0506_0708), 1, 5, sum(b"hello")), 0xac13);
/// ```
#[must_use]
pub fn dss_checksum(dsn: DataSeq, ssn: u32, len: u16, payload_sum: u16) -> u16 {
    let mut checksum = Checksum::new();
    checksum.add_u64(dsn.0);
    checksum.add_u32(ssn);
    checksum.add_u16(len);
    checksum.add_sum(payload_sum, 0);
    checksum.finish()
}
