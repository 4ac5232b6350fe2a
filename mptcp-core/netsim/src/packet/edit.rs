//! Changing packets in place with checksums kept right, as middleboxes do it (RFC 1624): a packet
//! whose checksum was wrong stays wrong.

use super::{IpPacket, checksum, protocol};
use core::ops::Range;

/// Where things are in a packet whose IP header is sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// What follows the IP header.
    pub protocol: u8,
    /// Offset of what follows the IP header.
    pub transport: usize,
    /// Whether the packet is a fragment: then `transport` may be anything.
    pub fragment: bool,
}

impl Layout {
    /// Looks at the IP header; `None` when it is not sound.
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        let ip = IpPacket::parse(packet).ok()?;
        Some(Self {
            ipv6: ip.src.is_ipv6(),
            protocol: ip.protocol,
            transport: ip.header_len,
            fragment: ip.fragment,
        })
    }

    /// The IP source address.
    #[must_use]
    pub const fn source(&self) -> Range<usize> {
        if self.ipv6 { 8..24 } else { 12..16 }
    }

    /// The IP destination address.
    #[must_use]
    pub const fn destination(&self) -> Range<usize> {
        if self.ipv6 { 24..40 } else { 16..20 }
    }

    /// Offset of the transport's checksum; `None` for transports without one that is known here.
    #[must_use]
    pub const fn checksum(&self) -> Option<usize> {
        let offset = match self.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            protocol::ICMP | protocol::ICMPV6 => 2,
            _ => return None,
        };
        Some(self.transport + offset)
    }

    /// Whether the transport's checksum covers the addresses.
    #[must_use]
    pub const fn covers_addresses(&self) -> bool {
        self.protocol != protocol::ICMP
    }

    /// Offsets of the TCP header, of its options and of its payload; `None` when it is not whole.
    #[must_use]
    pub fn tcp(&self, packet: &[u8]) -> Option<TcpLayout> {
        if self.protocol != protocol::TCP || self.fragment {
            return None;
        }
        let words = packet.get(self.transport + 12)? >> 4;
        let payload = self.transport + usize::from(words) * 4;
        let options = self.transport + 20;
        (options <= payload && payload <= packet.len()).then_some(TcpLayout {
            header: self.transport,
            options,
            payload,
        })
    }
}

/// Sets the ECN field of an ECN-capable packet to CE (RFC 3168 §5); true when it was not set before.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let Some(layout) = Layout::of(packet) else { return false };
    // The low bits of the traffic class are the upper half of the second octet of IPv6.
    let shift = if layout.ipv6 { 4 } else { 0 };
    let ecn = packet[1] >> shift & 3;
    if ecn == 0 || ecn == 3 {
        return false;
    }
    let old = [packet[0], packet[1]];
    packet[1] |= 3 << shift;
    if !layout.ipv6 {
        let new = [packet[0], packet[1]];
        let sum = checksum::update(u16::from_be_bytes([packet[10], packet[11]]), &old, &new);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// Offsets inside a TCP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpLayout {
    /// Start of the TCP header.
    pub header: usize,
    /// Start of the options.
    pub options: usize,
    /// Start of the payload.
    pub payload: usize,
}

impl TcpLayout {
    /// The flag bits.
    #[must_use]
    pub fn flags(&self, packet: &[u8]) -> u8 {
        packet.get(self.header + 13).copied().unwrap_or_default()
    }

    /// Offset of the checksum.
    #[must_use]
    pub const fn checksum(&self) -> usize {
        self.header + 16
    }

    /// Calls `visit` with the kind, the range and the bytes of each option that is not padding.
    pub fn for_each_option(
        &self,
        packet: &mut [u8],
        mut visit: impl FnMut(u8, Range<usize>, &mut [u8]),
    ) {
        let mut at = self.options;
        while at < self.payload {
            let len = match (packet.get(at), packet.get(at + 1)) {
                (Some(0) | None, _) => return,
                (Some(1), _) => {
                    at += 1;
                    continue;
                }
                (_, Some(&len)) => usize::from(len),
                (_, None) => return,
            };
            if len < 2 || at + len > self.payload {
                return;
            }
            if let Some(option) = packet.get_mut(at..at + len)
                && let Some(&kind) = option.first()
            {
                visit(kind, at..at + len, option);
            }
            at += len;
        }
    }
}

/// Overwrites `range` by `new` of the same length and corrects the checksums at these offsets,
/// which must not lie in `range`. Does nothing when something lies outside the packet.
///
/// `range` may start at an odd offset from `base`, the start of what the checksums cover.
pub fn replace(packet: &mut [u8], base: usize, range: Range<usize>, new: &[u8], sums: &[usize]) {
    // Whole 16-bit words around the range, counted from `base`.
    let start = range.start - (range.start.saturating_sub(base) & 1);
    let Some(old) = packet.get(start..range.end).map(<[u8]>::to_vec) else { return };
    let Some(target) = packet.get_mut(range.clone()).filter(|target| target.len() == new.len())
    else {
        return;
    };
    target.copy_from_slice(new);
    let Some(changed) = packet.get(start..range.end).map(<[u8]>::to_vec) else { return };
    for &at in sums {
        let Some(field) = packet.get(at..).and_then(<[u8]>::first_chunk::<2>) else { continue };
        let sum = adjust(u16::from_be_bytes(*field), &old, &changed);
        if let Some(field) = packet.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// [`checksum::update`] for words whose last may be half.
fn adjust(sum: u16, old: &[u8], new: &[u8]) -> u16 {
    if old.len().is_multiple_of(2) {
        return checksum::update(sum, old, new);
    }
    let padded = |bytes: &[u8]| [bytes, &[0]].concat();
    checksum::update(sum, &padded(old), &padded(new))
}

/// Recomputes the checksums of the IP header and of the transport from nothing.
pub fn recompute(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    if first >> 4 == 4 {
        let header_len = usize::from(first & 0x0f) * 4;
        write_sum(packet, 10, 0);
        let sum = packet.get(..header_len).map_or(0, checksum::sum);
        write_sum(packet, 10, !checksum::fold(sum));
    }
    let Some(layout) = Layout::of(packet) else { return };
    let Some(at) = layout.checksum() else { return };
    write_sum(packet, at, 0);
    let Ok(ip) = IpPacket::parse(packet) else { return };
    let pseudo = if layout.covers_addresses() { ip.pseudo_header_sum() } else { 0 };
    let sum = !checksum::fold(pseudo + checksum::sum(ip.payload));
    // UDP says "none" with zero (RFC 768).
    let none = layout.protocol == protocol::UDP && sum == 0;
    write_sum(packet, at, if none { 0xffff } else { sum });
}

fn write_sum(packet: &mut [u8], at: usize, sum: u16) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes the length fields of the IP header for the packet's present length.
pub fn set_length(packet: &mut [u8]) {
    let len = packet.len();
    let (at, len) = match packet.first().map(|first| first >> 4) {
        Some(4) => (2, len),
        Some(6) => (4, len.saturating_sub(40)),
        _ => return,
    };
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::Build;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_replaced_range_keeps_the_checksum_right(
            payload in proptest::collection::vec(any::<u8>(), 1..40),
            at in 0..40_usize,
            new in proptest::collection::vec(any::<u8>(), 1..9),
            v6: bool,
        ) {
            let (src, dst) =
                if v6 { ("[fd00::1]:1", "[fd00::2]:2") } else { ("10.0.0.1:1", "10.0.0.2:2") };
            let mut build = Build::new(src, dst);
            build.payload = payload;
            let mut packet = build.to_packet();
            let layout = Layout::of(&packet).unwrap();
            let tcp = layout.tcp(&packet).unwrap();
            let start = tcp.payload + at;
            let before = packet.clone();
            replace(&mut packet, tcp.header, start..start + new.len(), &new, &[tcp.checksum()]);
            if start + new.len() > packet.len() {
                prop_assert_eq!(&packet, &before);
            } else {
                prop_assert_eq!(&packet[start..start + new.len()], &new[..]);
            }
            let mut fresh = packet.clone();
            recompute(&mut fresh);
            prop_assert_eq!(packet, fresh);
        }
    }

    #[test]
    fn options_are_visited_within_the_header() {
        let mut build = Build::new("10.0.0.1:1", "10.0.0.2:2");
        build.options = vec![1, 2, 4, 5, 180, 30, 3, 0x20];
        let mut packet = build.to_packet();
        let tcp = Layout::of(&packet).unwrap().tcp(&packet).unwrap();
        let mut seen = Vec::new();
        tcp.for_each_option(&mut packet, |kind, range, option| {
            seen.push((kind, range.len(), option.len()));
        });
        assert_eq!(seen, [(2, 4, 4), (30, 3, 3)]);
        packet[41 + 1] = 9;
        seen.clear();
        tcp.for_each_option(&mut packet, |kind, range, option| {
            seen.push((kind, range.len(), option.len()));
        });
        assert_eq!(seen, []);
    }
}
