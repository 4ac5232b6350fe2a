//! Segments in the form that nearly all have: IP without options, an acknowledgement with or without text,
//! timestamps where RFC 7323 Appendix A puts them, and one DSS behind them at most.
//!
//! What follows in an open run is read from these few places, and nothing else of its packet is looked at.
//! Everything in another form goes the general way, and so does what does not join.
//!
//! Invariant: what is read here is what [`IpHeader::parse`](crate::wire::IpHeader::parse) and
//! [`Segment::new`](crate::tcp::Segment::new) read in the same octets.

use crate::buf::{PacketBuf, RxChecksum};
use crate::seq::SeqNum;
use crate::tcp::{PROTOCOL_TCP, Part, Segment, Tuple};
use crate::wire::options::kind;
use crate::wire::{Dss, ECN_CE, Mapping, TcpFlags, WireSeq, checksum, ip};
use core::net::IpAddr;
use core::ops::Range;

const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const TCP_LEN: usize = 20;
/// Timestamps and what fills them up.
const STAMPS_LEN: usize = 12;
const SEQ_AT: usize = 4;
const ACK_AT: usize = 8;
/// Of the octet with the data offset, which the flags follow.
const OFFSET_AT: usize = 12;
/// Subtype octet of a DSS.
const DSS: u8 = 0x20;

/// Addresses and ports as packets of a flow have them next to each other, the peer's first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    V4([u8; 12]),
    V6([u8; 36]),
}

impl Ends {
    pub(super) fn of(tuple: &Tuple) -> Option<Self> {
        let ([p0, p1], [q0, q1]) =
            (tuple.remote_port.to_be_bytes(), tuple.local_port.to_be_bytes());
        match (tuple.remote_addr, tuple.local_addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ([a, b, c, d], [e, f, g, h]) = (src.octets(), dst.octets());
                Some(Self::V4([a, b, c, d, e, f, g, h, p0, p1, q0, q1]))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ends = [0; 36];
                let octets = src.octets().into_iter().chain(dst.octets());
                let all = octets.chain([p0, p1, q0, q1]);
                ends.iter_mut().zip(all).for_each(|(end, octet)| *end = octet);
                Some(Self::V6(ends))
            }
            _ => None,
        }
    }

    /// Those of `packet`, if its IP header has no options.
    #[inline]
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 == 4 {
            packet.get(12..)?.first_chunk().copied().map(Self::V4)
        } else {
            packet.get(8..)?.first_chunk().copied().map(Self::V6)
        }
    }

    /// The flow they are of.
    pub(super) fn tuple(&self) -> Tuple {
        let (remote_addr, local_addr, ports) = match self {
            Self::V4([a, b, c, d, e, f, g, h, ports @ ..]) => {
                (IpAddr::from([*a, *b, *c, *d]), IpAddr::from([*e, *f, *g, *h]), ports)
            }
            Self::V6([addrs @ .., p0, p1, q0, q1]) => {
                let halves = addrs.as_chunks::<16>().0;
                let addr = |at: usize| IpAddr::from(halves.get(at).copied().unwrap_or_default());
                (addr(0), addr(1), &[*p0, *p1, *q0, *q1])
            }
        };
        let [p0, p1, q0, q1] = *ports;
        let (remote_port, local_port) =
            (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([q0, q1]));
        Tuple { local_addr, remote_addr, local_port, remote_port }
    }

    /// Whether one of `packets` is of this flow.
    pub(super) fn are_among<B: PacketBuf>(&self, packets: &[B]) -> bool {
        match self {
            Self::V4(ends) => packets.iter().any(|packet| stands_at(packet.data(), 12, ends)),
            Self::V6(ends) => packets.iter().any(|packet| stands_at(packet.data(), 8, ends)),
        }
    }

    /// Whether `packet`, if its IP header has no options, is of this flow.
    pub(super) fn are_of(&self, packet: &[u8]) -> bool {
        match self {
            Self::V4(ends) => stands_at(packet, 12, ends),
            Self::V6(ends) => stands_at(packet, 8, ends),
        }
    }
}

#[inline(always)]
fn stands_at<const N: usize>(packet: &[u8], at: usize, octets: &[u8; N]) -> bool {
    packet.get(at..).and_then(<[u8]>::first_chunk).is_some_and(|there| there == octets)
}

/// What [`Usual::says`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Says {
    /// Acknowledgement, offset, flags and window.
    ack_to_window: [u8; 8],
    stamps: [u8; STAMPS_LEN],
}

/// The parts of a packet with a segment in the usual form. The IP header ends at `IP`, what all TCP headers have at
/// `HEAD`: where everything is in front of that is known when this is compiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual<'a, const IP: usize, const HEAD: usize> {
    head: &'a [u8; HEAD],
    options: &'a [u8],
    text: &'a [u8],
}

pub(super) type UsualV4<'a> = Usual<'a, V4_LEN, { V4_LEN + TCP_LEN }>;
pub(super) type UsualV6<'a> = Usual<'a, V6_LEN, { V6_LEN + TCP_LEN }>;

/// What becomes of a packet: its text.
#[derive(Clone, Debug)]
pub(super) struct Text {
    range: Range<usize>,
    /// Unless the port verified it.
    sum: Option<u16>,
}

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Leaves nothing else of `packet`.
    #[inline]
    pub(super) fn cut_out<B: PacketBuf>(&self, packet: &mut B) {
        packet.truncate(self.range.end);
        packet.trim_front(self.range.start);
        if let Some(sum) = self.sum {
            packet.note_sum(sum);
        }
    }
}

// In one piece with what becomes of it, at both places. The numbers are read last: most of them are used at once, and
// none has to be kept beside the checksum.
impl<'a, const IP: usize, const HEAD: usize> Usual<'a, IP, HEAD> {
    /// Where the addresses of the pseudo-header begin.
    const ADDRESSES_AT: usize = if IP == V4_LEN { 12 } else { 8 };

    /// Looks at a packet of this family; `None`: not in this form.
    #[inline(always)]
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        let (head, rest) = packet.split_first_chunk::<HEAD>()?;
        let end =
            if IP == V4_LEN { v4_end(head.first_chunk()?)? } else { v6_end(head.first_chunk()?)? };
        let &[offset, flags] = head.get(IP + OFFSET_AT..)?.first_chunk()?;
        let flags = TcpFlags::from_bits_retain(flags);
        if flags.difference(TcpFlags::PSH) != TcpFlags::ACK {
            return None;
        }
        let options = (usize::from(offset >> 4) * 4).checked_sub(TCP_LEN)?;
        let (options, text) = rest.get(..end.checked_sub(HEAD)?)?.split_at_checked(options)?;
        Some(Self { head, options, text })
    }

    /// The text when the checksum is right.
    #[inline(always)]
    pub(super) fn verified(&self, checksum: RxChecksum) -> Option<Text> {
        let start = HEAD + self.options.len();
        let range = start..start + self.text.len();
        if checksum == RxChecksum::Good {
            return Some(Text { range, sum: None });
        }
        let text = if self.text.is_empty() { 0 } else { checksum::sum(self.text) };
        let head = checksum::header_words(self.head.get(Self::ADDRESSES_AT..)?);
        let options = match self.options.split_first_chunk::<STAMPS_LEN>() {
            // Most begin with these, and end there.
            Some((stamps, rest)) => {
                checksum::add_carried(checksum::header_words(stamps), checksum::header_words(rest))
            }
            None => checksum::header_words(self.options),
        };
        let rest = u32::from(PROTOCOL_TCP) + (range.end - IP) as u32;
        let right = checksum::is_right(checksum::add_carried(head, options), text, rest);
        right.then_some(Text { range, sum: Some(text) })
    }

    /// What the segment says; `None`: not in the usual form.
    #[inline(always)]
    pub(super) fn part(&self) -> Option<Part> {
        let &[_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, _, flags, w0, w1, _, _, _, _] =
            self.head.last_chunk::<TCP_LEN>()?;
        let (timestamps, options) = match self.options.split_first_chunk() {
            Some((
                &[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3],
                rest,
            )) => {
                let echo = u32::from_be_bytes([e0, e1, e2, e3]);
                (Some((u32::from_be_bytes([v0, v1, v2, v3]), echo)), rest)
            }
            _ => (None, self.options),
        };
        Some(Part {
            seq: SeqNum(u32::from_be_bytes([s0, s1, s2, s3])),
            ack: SeqNum(u32::from_be_bytes([a0, a1, a2, a3])),
            flags: TcpFlags::from_bits_retain(flags),
            window: u16::from_be_bytes([w0, w1]),
            len: self.len(),
            timestamps,
            dss: if options.is_empty() { None } else { Some(read_dss(options)?) },
        })
    }

    /// What text with so many octets of options as timestamps are says beside its own number, as it stands there.
    #[inline(always)]
    pub(super) fn says(&self) -> Option<Says> {
        let stamps = self.options.try_into().ok().filter(|_| !self.text.is_empty())?;
        let ack_to_window = *self.head.get(IP + ACK_AT..)?.first_chunk()?;
        Some(Says { ack_to_window, stamps })
    }

    /// Where the text begins in the flow.
    #[inline(always)]
    pub(super) fn seq(&self) -> Option<SeqNum> {
        let number = self.head.get(IP + SEQ_AT..)?.first_chunk()?;
        Some(SeqNum(u32::from_be_bytes(*number)))
    }

    /// Octets of text.
    #[inline(always)]
    pub(super) const fn len(&self) -> u32 {
        self.text.len() as u32
    }

    /// What was read, as the engines take it.
    pub(super) fn segment(&self, part: &Part) -> Segment {
        Segment::of_part(part, self.options)
    }

    /// All of it, when the checksum is right.
    #[inline(always)]
    fn whole(packet: &[u8], checksum: RxChecksum) -> Option<(Segment, Text)> {
        let usual = Usual::<IP, HEAD>::read(packet)?;
        let text = usual.verified(checksum)?;
        Some((usual.segment(&usual.part()?), text))
    }
}

/// A packet in the usual form between these `ends`, with its text, when the checksum is right.
#[inline(always)]
pub(super) fn read(packet: &[u8], ends: &Ends, checksum: RxChecksum) -> Option<(Segment, Text)> {
    match ends {
        Ends::V4(_) => UsualV4::whole(packet, checksum),
        Ends::V6(_) => UsualV6::whole(packet, checksum),
    }
}

/// Where an IPv4 packet without options ends.
#[inline]
fn v4_end(ip: &[u8; V4_LEN]) -> Option<usize> {
    let &[version, traffic, len0, len1, _, _, fragment0, fragment1, _, protocol, ..] = ip;
    let whole = fragment0 & 0x3f == 0 && fragment1 == 0;
    let usual = version == 0x45 && traffic & 3 != ECN_CE && whole && protocol == PROTOCOL_TCP;
    let len = usize::from(u16::from_be_bytes([len0, len1]));
    (usual && ip::is_fixed_sum_right(ip)).then_some(len)
}

/// Where an IPv6 packet without extension headers ends.
#[inline]
fn v6_end(ip: &[u8; V6_LEN]) -> Option<usize> {
    let &[first, second, _, _, len0, len1, next, ..] = ip;
    let usual = first >> 4 == 6 && second >> 4 & 3 != ECN_CE && next == PROTOCOL_TCP;
    usual.then(|| V6_LEN + usize::from(u16::from_be_bytes([len0, len1])))
}

/// One DSS that acknowledges and at most maps, without a checksum, and NOPs behind it.
#[inline(always)]
fn read_dss(options: &[u8]) -> Option<Dss> {
    let (&[kind::MPTCP, len, DSS, flags], mut rest) = options.split_first_chunk()? else {
        return None;
    };
    let (ack, map) = match flags {
        0x01 => (4, 0),
        0x03 => (8, 0),
        0x05 => (4, 4),
        0x07 => (8, 4),
        0x0d => (4, 8),
        0x0f => (8, 8),
        _ => return None,
    };
    let mut take = |wide: bool| {
        Some(if wide {
            let (number, behind) = rest.split_first_chunk()?;
            rest = behind;
            WireSeq::Full(u64::from_be_bytes(*number))
        } else {
            let (number, behind) = rest.split_first_chunk()?;
            rest = behind;
            WireSeq::Low(u32::from_be_bytes(*number))
        })
    };
    let data_ack = take(ack == 8)?;
    let mapping = if map == 0 {
        None
    } else {
        let dsn = take(map == 8)?;
        let (&[n0, n1, n2, n3, l0, l1], behind) = rest.split_first_chunk()?;
        rest = behind;
        let (ssn, len) = (u32::from_be_bytes([n0, n1, n2, n3]), u16::from_be_bytes([l0, l1]));
        Some(Mapping { dsn, ssn, len, checksum: None })
    };
    let dss_len = 4 + ack + if map == 0 { 0 } else { map + 6 };
    let plain = usize::from(len) == dss_len && mapping.is_none_or(|mapping| mapping.len > 0);
    let padded = rest.iter().all(|octet| *octet == kind::NOP);
    (plain && padded).then_some(Dss { data_ack: Some(data_ack), mapping, data_fin: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::HeapBuf;
    use crate::tcp::Segment;
    use crate::wire::{IpHeader, TcpSegment};
    use alloc::format;
    use alloc::vec::Vec;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What the general way reads, and of whom.
    fn general(packet: &[u8]) -> Option<(Tuple, Segment, Option<u16>, usize)> {
        let header = IpHeader::parse(packet).ok()?;
        let bytes = packet.get(header.header_len..header.total_len)?;
        let view = TcpSegment::parse(bytes).ok()?;
        if header.protocol != PROTOCOL_TCP || header.fragment || header.ecn() == ECN_CE {
            return None;
        }
        let tuple = Tuple {
            local_addr: header.dst,
            remote_addr: header.src,
            local_port: view.dst_port,
            remote_port: view.src_port,
        };
        let sum = checksum::verified_text(header.src, header.dst, bytes);
        let segment = Segment::new(&view);
        segment.plain.then_some((tuple, segment, sum, header.total_len))
    }

    #[test]
    fn a_flow_is_found_among_packets() {
        for (version, at, len) in [(0x45_u8, 12, 12), (0x60, 8, 36)] {
            let packet = |last: u8| {
                let mut bytes = [7_u8; 60];
                (bytes[0], bytes[at + len - 1]) = (version, last);
                HeapBuf::from_slice(&bytes)
            };
            let ends = Ends::read(packet(1).data()).expect("it is long enough");
            let others = [packet(2), packet(3), HeapBuf::from_slice(&[version; 20])];
            assert!(!ends.are_among(&others) && !ends.are_among::<HeapBuf>(&[]));
            assert!(ends.are_among(&[packet(2), packet(1)]));
        }
    }

    /// What is read here: part and segment, where the text is, and what there is of it when the checksum is right.
    fn seen(packet: &[u8], ends: &Ends) -> Option<(Part, Segment, Range<usize>, Option<Text>)> {
        fn all<const IP: usize, const HEAD: usize>(
            usual: Usual<'_, IP, HEAD>,
        ) -> Option<(Part, Segment, Range<usize>, Option<Text>)> {
            let part = usual.part()?;
            let range = usual.verified(RxChecksum::Good)?.range;
            Some((part, usual.segment(&part), range, usual.verified(RxChecksum::Unknown)))
        }
        match ends {
            Ends::V4(_) => all(UsualV4::read(packet)?),
            Ends::V6(_) => all(UsualV6::read(packet)?),
        }
    }

    fn fill_sums(packet: &mut [u8], v6: bool) {
        let at = if v6 { V6_LEN } else { V4_LEN };
        if !v6 {
            packet[10..12].fill(0);
            let sum = !checksum::sum(&packet[..at]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let Ok(header) = IpHeader::parse(packet) else { return };
        let Some(segment) = packet.get_mut(at..header.total_len) else { return };
        let sum = checksum::tcp_checksum(header.src, header.dst, segment);
        crate::wire::set_checksum(segment, sum);
    }

    fn tuple(v6: bool) -> Tuple {
        let addr = |n: u8| -> IpAddr {
            if v6 { [0xfd00, 0, 0, 0, 0, 0, 1, u16::from(n)].into() } else { [10, 0, 1, n].into() }
        };
        Tuple { local_addr: addr(1), remote_addr: addr(2), local_port: 1080, remote_port: 40_000 }
    }

    fn dss() -> impl Strategy<Value = Vec<u8>> {
        let flags =
            prop_oneof![4 => Just(0x05_u8), 4 => Just(0x01), 4 => 0_u8..16, 1 => any::<u8>()];
        let off = prop_oneof![8 => Just(0_i8), 1 => -2_i8..3];
        (flags, vec(any::<u8>(), 32), off).prop_map(|(flags, numbers, off)| {
            let ack = if flags & 1 == 0 { 0 } else { 4 + (flags as usize >> 1 & 1) * 4 };
            let map = if flags & 4 == 0 { 0 } else { 10 + (flags as usize >> 3 & 1) * 4 };
            let len = (4 + ack + map).saturating_add_signed(off.into());
            let mut option = alloc::vec![kind::MPTCP, len as u8, DSS, flags];
            option.extend(numbers);
            option.truncate(len);
            option
        })
    }

    fn options() -> impl Strategy<Value = Vec<u8>> {
        let stamps = vec(any::<u8>(), 8).prop_map(|numbers| {
            let mut option = alloc::vec![kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];
            option.extend(numbers);
            option
        });
        let other = prop_oneof![
            6 => Just(Vec::new()),
            1 => Just(alloc::vec![kind::NOP]),
            1 => Just(alloc::vec![kind::END]),
            1 => Just(alloc::vec![kind::SACK, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            1 => vec(any::<u8>(), 0..8),
        ];
        let maybe = |strategy: BoxedStrategy<Vec<u8>>| prop_oneof![Just(Vec::new()), strategy];
        (maybe(stamps.boxed()), maybe(dss().boxed()), other).prop_map(|(stamps, dss, other)| {
            let mut all = [stamps, dss, other].concat();
            all.truncate(40);
            all.resize(all.len().next_multiple_of(4), kind::NOP);
            all
        })
    }

    /// What [`Usual::says`] of a packet, and what it says.
    fn said(packet: &[u8], ends: &Ends) -> Option<(Says, Part)> {
        match ends {
            Ends::V4(_) => {
                UsualV4::read(packet).and_then(|usual| Some((usual.says()?, usual.part()?)))
            }
            Ends::V6(_) => {
                UsualV6::read(packet).and_then(|usual| Some((usual.says()?, usual.part()?)))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_read_is_what_the_general_way_reads(
            v6: bool,
            options in options(),
            text in vec(any::<u8>(), 0..40),
            flags in prop_oneof![4 => Just(0x10_u8), 4 => Just(0x18), 1 => any::<u8>()],
            padding in 0_usize..3,
            numbers in any::<[u32; 3]>(),
            broken in prop::option::weighted(0.5, (0_usize..140, any::<u8>())),
            summed in prop::bool::weighted(0.9),
        ) {
            let tuple = tuple(v6);
            let ends = Ends::of(&tuple).expect("of one family");
            let tcp_len = TCP_LEN + options.len() + text.len();
            let mut packet = match &ends {
                Ends::V4(ends) => {
                    let [high, low] = ((V4_LEN + tcp_len) as u16).to_be_bytes();
                    let mut ip = alloc::vec![0x45, 2, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
                    ip.extend(ends);
                    ip
                }
                Ends::V6(ends) => {
                    let [high, low] = (tcp_len as u16).to_be_bytes();
                    let mut ip = alloc::vec![0x60, 0x20, 1, 2, high, low, 6, 64];
                    ip.extend(ends);
                    ip
                }
            };
            packet.extend(numbers[0].to_be_bytes());
            packet.extend(numbers[1].to_be_bytes());
            packet.extend([((TCP_LEN + options.len()) * 4) as u8, flags]);
            packet.extend(numbers[2].to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(&options);
            packet.extend(&text);
            packet.resize(packet.len() + padding, 0xee);
            if summed {
                fill_sums(&mut packet, v6);
            }
            let before = said(&packet, &ends);
            if let Some((at, octet)) = broken
                && let Some(place) = packet.get_mut(at)
            {
                *place = octet;
                if summed && at % 2 == 0 {
                    fill_sums(&mut packet, v6);
                }
            }
            if let (Some((before, first)), Some((now, second))) = (before, said(&packet, &ends)) {
                // Who says the same says nothing else but its number and its length.
                let Part { seq, len, .. } = second;
                let same = Part { seq, len, ..first } == second;
                prop_assert!(before != now || same);
            }
            let usual = seen(&packet, &ends).filter(|_| ends.are_of(&packet));
            let general = general(&packet);
            if let Some((part, mut ours, range, verified)) = usual {
                let (of, segment, sum, end) = general.expect("read in general");
                prop_assert_eq!((of, segment.part(), end), (tuple, Some(part), range.end));
                let read = Ends::read(&packet).expect("ends");
                prop_assert!(read.tuple() == tuple && read.are_of(&packet));
                // The urgent pointer means nothing here.
                ours.urgent = segment.urgent;
                prop_assert_eq!(format!("{segment:?}"), format!("{ours:?}"));
                prop_assert_eq!(verified.as_ref().and_then(|text| text.sum), sum);
                let text = &packet[range.clone()];
                prop_assert_eq!(text.len(), part.len as usize);
                prop_assert!(sum.is_none_or(|sum| sum == checksum::sum(text)));
                let mut buf = HeapBuf::from_slice(&packet);
                verified.unwrap_or(Text { range, sum: None }).cut_out(&mut buf);
                prop_assert_eq!((buf.data(), buf.noted_sum()), (text, sum));
            }
        }
    }

    /// The form is that of our own segments, with and without text, timestamps and a DSS.
    #[test]
    fn our_own_segments_have_the_usual_form() {
        for text in [0_u8, 1, 2, 9] {
            for (flags, dss) in [(0x10, &[][..]), (0x18, &[30, 8, DSS, 1, 0, 0, 0, 9][..])] {
                let options = [&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], dss].concat();
                let len = V4_LEN + TCP_LEN + options.len() + usize::from(text);
                let Some(Ends::V4(ends)) = Ends::of(&tuple(false)) else { unreachable!() };
                let mut packet = alloc::vec![0x45, 0, 0, len as u8, 0, 0, 0x40, 0, 64, 6, 0, 0];
                packet.extend(ends);
                packet.extend([0, 0, 0, 7, 0, 0, 0, 8]);
                packet.extend([((TCP_LEN + options.len()) * 4) as u8, flags, 1, 0, 0, 0, 0, 0]);
                packet.extend(&options);
                packet.resize(len, 5);
                fill_sums(&mut packet, false);
                let (part, _, _, verified) =
                    seen(&packet, &Ends::V4(ends)).expect("the usual form");
                assert_eq!((part.seq, part.ack), (SeqNum(7), SeqNum(8)));
                assert_eq!(part.timestamps, Some((1, 2)));
                assert_eq!(part.dss.is_some(), !dss.is_empty());
                assert_eq!(part.len, u32::from(text));
                assert!(verified.is_some());
            }
        }
    }
}
