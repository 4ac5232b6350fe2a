use super::*;
use crate::wire::{IpHeader, checksum, set_checksum};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// A segment as it differs from those around it.
#[derive(Clone, Copy, Debug)]
struct Plan {
    text: usize,
    flags: u8,
    /// Octets of the stream that were left out in front of it.
    gap: u32,
    ack: u32,
    window: u16,
    urgent: u16,
    options: u8,
    traffic_class: u8,
    port: u16,
    station: u8,
    dont_fragment: bool,
}

const USUAL: Plan = Plan {
    text: 1400,
    flags: ACK,
    gap: 0,
    ack: 7,
    window: 500,
    urgent: 0,
    options: 0,
    traffic_class: 0,
    port: 1080,
    station: 1,
    dont_fragment: true,
};

/// What stands in front of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Bare,
    Ethernet,
    Tagged,
}

#[derive(Clone, Copy, Debug)]
struct Family {
    v6: bool,
    link: Link,
}

impl Family {
    fn l2(self) -> usize {
        match self.link {
            Link::Bare => 0,
            Link::Ethernet => 14,
            Link::Tagged => 18,
        }
    }

    fn headers(self, frame: &[u8], len: usize) -> Option<Headers> {
        let of = if self.link == Link::Bare { Headers::of_packet } else { Headers::of_frame };
        of(frame, len)
    }

    fn begin(self, frame: &[u8], len: usize) -> Option<Piece> {
        Piece::begin(self.headers(frame, len)?, frame, len)
    }

    fn l3(self) -> usize {
        if self.v6 { 40 } else { 20 }
    }
}

/// Timestamps and a DSS; another number makes others.
fn options(kind: u8) -> Vec<u8> {
    match kind {
        0 | 1 => {
            let dss = [30, 18, 0x20, 5, 0, 0, 0, 9, 0, 0, 1, kind, 0, 0, 0, 1, 0x20, 0, 1, 1];
            [&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..], &dss].concat()
        }
        2 => Vec::new(),
        _ => vec![1, 1, 8, 10, 0, 0, 0, kind, 0, 0, 0, 2],
    }
}

/// Lengths and checksums of a frame as its octets want them.
fn fill(frame: &mut [u8], family: Family) {
    let (l2, l3) = (family.l2(), family.l3());
    let ip = &mut frame[l2..];
    let total = ip.len();
    if family.v6 {
        ip[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
    } else {
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ip[10..12].fill(0);
        let sum = !checksum::sum(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let header = IpHeader::parse(ip).expect("an IP header");
    let tcp = &mut ip[l3..];
    tcp[16..18].fill(0);
    let sum = checksum::tcp_checksum(header.src, header.dst, tcp);
    set_checksum(tcp, sum);
}

fn frame(plan: Plan, family: Family, seq: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if family.link != Link::Bare {
        out.extend([2, 0, 0, 0, 0, plan.station, 2, 0, 0, 0, 0, 9]);
        if family.link == Link::Tagged {
            out.extend([0x81, 0, 0, 7]);
        }
        out.extend(if family.v6 { [0x86, 0xdd] } else { [8, 0] });
    }
    if family.v6 {
        out.extend([0x60 | plan.traffic_class >> 4, plan.traffic_class << 4, 0, 0]);
        out.extend([0, 0, 6, 64]);
        out.extend([0xfd; 32]);
    } else {
        let flags = if plan.dont_fragment { 0x40 } else { 0 };
        out.extend([0x45, plan.traffic_class, 0, 0, 0, 0, flags, 0, 64, 6, 0, 0]);
        out.extend([10, 1, 0, 1, 10, 1, 0, 2]);
    }
    let options = options(plan.options);
    out.extend(plan.port.to_be_bytes());
    out.extend([0xc0, 1]);
    out.extend(seq.to_be_bytes());
    out.extend(plan.ack.to_be_bytes());
    out.extend([((20 + options.len()) * 4) as u8, plan.flags]);
    out.extend(plan.window.to_be_bytes());
    out.extend([0, 0]);
    out.extend(plan.urgent.to_be_bytes());
    out.extend(options);
    out.extend((0..plan.text).map(|at| (seq.wrapping_add(at as u32) % 251) as u8));
    fill(&mut out, family);
    out
}

/// What a queue of frames becomes: pieces with as many segments, and what they came to.
fn join(frames: &[Vec<u8>], family: Family) -> Vec<(Option<Piece>, Vec<u8>)> {
    let mut out: Vec<(Option<Piece>, Vec<u8>)> = Vec::new();
    for frame in frames {
        if let Some((Some(piece), first)) = out.last_mut()
            && let Some(follower) = piece.goes_on(first, frame, frame.len())
        {
            let headers = piece.headers().all();
            assert_eq!(frame.len(), headers + follower.text);
            piece.take(follower);
            first.extend_from_slice(&frame[headers..]);
        } else {
            out.push((family.begin(frame, frame.len()), frame.clone()));
        }
    }
    for (piece, first) in &mut out {
        if let Some(piece) = piece.filter(|piece| piece.segments() > 1) {
            piece.complete(first, PseudoHeader::WithLength).expect("headers are whole");
        }
    }
    out
}

/// What a port makes of a piece, by the book: the headers in front of each part; FIN and PSH on the last one,
/// congestion window reduced on the first.
fn cut(piece: &[u8], mss: usize, headers: usize, family: Family) -> Vec<Vec<u8>> {
    let tcp = family.l2() + family.l3();
    let seq = u32::from_be_bytes(piece[tcp + 4..tcp + 8].try_into().expect("four octets"));
    let parts = piece[headers..].chunks(mss);
    let count = parts.len();
    let part = |(at, text): (usize, &[u8])| {
        let mut part = [&piece[..headers], text].concat();
        let seq = seq.wrapping_add((at * mss) as u32);
        part[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        if at + 1 < count {
            part[tcp + 13] &= !0x09;
        }
        if at > 0 {
            part[tcp + 13] &= !0x80;
        }
        fill(&mut part, family);
        part
    };
    parts.enumerate().map(part).collect()
}

fn series(plans: &[Plan], family: Family, mut seq: u32) -> Vec<Vec<u8>> {
    let next = |plan: &Plan| {
        seq = seq.wrapping_add(plan.gap);
        let frame = frame(*plan, family, seq);
        seq = seq.wrapping_add(plan.text as u32);
        frame
    };
    plans.iter().map(next).collect()
}

fn family() -> impl Strategy<Value = Family> {
    let link = prop_oneof![Just(Link::Bare), Just(Link::Ethernet), Just(Link::Tagged)];
    (any::<bool>(), link).prop_map(|(v6, link)| Family { v6, link })
}

/// Mostly what goes on, in any of its fields sometimes not.
fn plan() -> impl Strategy<Value = Plan> {
    let text = prop_oneof![20 => Just(1400_usize), 1 => Just(0), 1 => 1_usize..1500];
    let flags =
        prop_oneof![20 => Just(ACK), 2 => Just(ACK | PSH), 1 => Just(ACK | FIN), 1 => any::<u8>()];
    let rarely = |value: u8| prop_oneof![60 => Just(0_u8), 1 => Just(value)];
    let odd =
        (rarely(1), rarely(1), rarely(1), rarely(1), rarely(1), rarely(1), rarely(1), rarely(1));
    (text, flags, odd, 0_u8..4).prop_map(|(text, flags, odd, kind)| {
        let (gap, ack, window, urgent, other, class, port, station) = odd;
        Plan {
            text,
            flags,
            gap: gap.into(),
            ack: 7 + u32::from(ack),
            window: 500 + u16::from(window),
            urgent: urgent.into(),
            options: if other == 0 { 0 } else { kind },
            traffic_class: class * 2,
            port: 1080 + u16::from(port),
            station: 1 + station,
            dont_fragment: true,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// So nothing is joined that may not be: it would come out another way.
    #[test]
    fn a_piece_that_is_cut_is_what_was_joined(
        plans in prop::collection::vec(plan(), 1..60),
        family in family(),
        seq in prop_oneof![any::<u32>(), u32::MAX - 50_000..u32::MAX],
    ) {
        let frames = series(&plans, family, seq);
        let mut cut_again = Vec::new();
        for (piece, sent) in join(&frames, family) {
            match piece.filter(|piece| piece.segments() > 1) {
                Some(piece) => {
                    prop_assert!(sent.len() - family.l2() <= 65_535);
                    let headers = piece.headers();
                    prop_assert_eq!(headers.v6, family.v6);
                    let parts = cut(&sent, piece.mss().into(), headers.all(), family);
                    prop_assert_eq!(parts.len(), usize::from(piece.segments()));
                    cut_again.extend(parts);
                    // With the sum of its text added, its checksum is that of one long segment.
                    let mut whole = sent.clone();
                    fill(&mut whole, family);
                    let tcp = headers.tcp_at();
                    let sum = !checksum::sum(&sent[tcp..]);
                    prop_assert_eq!(sum, word(&whole, tcp + CHECKSUM_AT).expect("whole"));
                }
                None => cut_again.push(sent),
            }
        }
        prop_assert_eq!(cut_again, frames);
    }

    #[test]
    fn any_octets_are_looked_at_in_peace(
        first in prop::collection::vec(any::<u8>(), 0..140),
        next in prop::collection::vec(any::<u8>(), 0..140),
        changes in prop::collection::vec((0_usize..100, any::<u8>()), 0..4),
        len in 0_usize..70_000,
        family in family(),
    ) {
        let _ = family.begin(&first, len);
        let mut usual = frame(USUAL, family, 5);
        for (at, octet) in changes {
            usual[at] = octet;
        }
        if let Some(piece) = family.begin(&usual, usual.len()) {
            let _ = piece.goes_on(&usual, &next, len);
            let _ = piece.goes_on(&first, &usual, usual.len());
            let _ = piece.complete(&mut first.clone(), PseudoHeader::WithoutLength);
        }
    }

    /// What a port has joined is taken apart wherever its buffers end, into what says the same.
    #[test]
    fn parts_say_what_the_whole_said(
        cuts in prop::collection::vec(1_usize..3000, 1..12),
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | FIN), Just(ACK | CWR), Just(ACK | ECE)],
        dont_fragment: bool,
        family in family(),
        seq: u32,
    ) {
        let whole = frame(Plan { text: cuts.iter().sum(), flags, dont_fragment, ..USUAL }, family, seq);
        let headers = family.headers(&whole, whole.len()).expect("whole");
        prop_assert!(headers.is_plain(&whole, whole.len()));
        let (mut at, mut out, count) = (0, Vec::new(), cuts.len());
        for (i, text) in cuts.iter().copied().enumerate() {
            let mut part = vec![0; headers.all()];
            headers.write_part(&whole, (at, text, i + 1 == count), &mut part).expect("room");
            let from = headers.all() + at;
            part.extend_from_slice(&whole[from..from + text]);
            let lengths = part.clone();
            fill(&mut part, family);
            // But for the TCP checksum, which the port has verified, headers are right.
            let sum = headers.tcp_at() + 16;
            prop_assert_eq!(&part[..sum], &lengths[..sum]);
            at += text;
            out.push(part);
        }
        // One after the other they make up the whole.
        let seen = out.iter().map(|part| {
            let seq = double(part, headers.tcp_at() + 4).expect("whole").wrapping_sub(seq);
            (seq as usize, part.len() - headers.all(), part[headers.tcp_at() + 13])
        });
        let mut at = 0;
        for (i, (offset, text, seen)) in seen.enumerate() {
            prop_assert_eq!((offset, text), (at, cuts[i]));
            let mut expected = flags;
            if i > 0 {
                expected &= !CWR;
            }
            if i + 1 < count {
                expected &= !(FIN | PSH);
            }
            prop_assert_eq!(seen, expected);
            at += text;
        }
    }
}

#[test]
fn a_burst_leaves_in_one_piece() {
    for v6 in [false, true] {
        let family = Family { v6, link: if v6 { Link::Tagged } else { Link::Ethernet } };
        let mut plans = vec![USUAL; 40];
        plans.push(Plan { text: 300, flags: ACK | PSH, ..USUAL });
        let pieces = join(&series(&plans, family, 9), family);
        let count: Vec<u16> =
            pieces.iter().filter_map(|(piece, _)| Some(piece.as_ref()?.segments())).collect();
        assert_eq!(count, [41], "IPv6: {v6}");
    }
}

/// What ends a piece, is alone in one, or begins another.
#[test]
fn what_ends_a_piece() {
    let family = Family { v6: false, link: Link::Ethernet };
    let counts = |plans: &[Plan]| -> Vec<u16> {
        let of = |piece: &Option<Piece>| piece.as_ref().map_or(1, Piece::segments);
        join(&series(plans, family, 1), family).iter().map(|(piece, _)| of(piece)).collect()
    };
    let with = |flags| Plan { flags, ..USUAL };
    assert_eq!(counts(&[USUAL; 3]), [3]);
    // IP counts to 65,535: 46 segments with 72 octets of headers.
    assert_eq!(counts(&[USUAL; 60]), [46, 14]);
    assert_eq!(counts(&[USUAL, with(ACK | PSH), USUAL, USUAL]), [2, 2]);
    assert_eq!(counts(&[USUAL, with(ACK | FIN), USUAL]), [2, 1]);
    assert_eq!(counts(&[with(ACK | PSH), USUAL, USUAL]), [1, 2]);
    for flag in [CWR, URG, SYN, RST] {
        assert_eq!(counts(&[with(ACK | flag), USUAL, USUAL]), [1, 2], "{flag}");
        assert_eq!(counts(&[USUAL, with(ACK | flag), USUAL]), [1, 1, 1], "{flag}");
    }
    assert_eq!(counts(&[with(ACK | ECE), with(ACK | ECE)]), [2]);
    assert_eq!(counts(&[USUAL, with(ACK | ECE)]), [1, 1]);
    assert_eq!(counts(&[USUAL, Plan { text: 1399, ..USUAL }, USUAL]), [2, 1]);
    assert_eq!(counts(&[USUAL, Plan { text: 1401, ..USUAL }]), [1, 1]);
    assert_eq!(counts(&[USUAL, Plan { text: 0, ..USUAL }, USUAL]), [1, 1, 1]);
    assert_eq!(counts(&[USUAL, Plan { gap: 1, ..USUAL }]), [1, 1]);
    assert_eq!(counts(&[USUAL, Plan { options: 1, ..USUAL }]), [1, 1], "another mapping");
    let fragile = Plan { dont_fragment: false, ..USUAL };
    assert_eq!(counts(&[fragile, fragile]), [1, 1]);
}

/// In two buffers all the same, where a driver splits headers off or its last buffer holds nothing.
#[test]
fn what_has_no_text_is_not_taken_apart() {
    for v6 in [false, true] {
        let family = Family { v6, link: Link::Ethernet };
        for flags in [ACK, ACK | FIN] {
            let bare = frame(Plan { text: 0, flags, ..USUAL }, family, 9);
            let headers = family.headers(&bare, bare.len()).expect("whole");
            assert!(!headers.is_plain(&bare, bare.len()));
            let text = frame(Plan { text: 1, flags, ..USUAL }, family, 9);
            assert!(headers.is_plain(&text, text.len()));
        }
    }
}
