//! ICMP: every code, quotes of every length, echo, and what must not be answered.

use core::net::{IpAddr, Ipv6Addr};
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::icmp::{echo_reply, emit_error, parse_error};
use mptcp_core::wire::{Checksum, IcmpError, IcmpErrorKind, IpEmit, IpHeader, checksum};
use proptest::collection::vec;
use proptest::prelude::*;

const V4: [IpAddr; 3] = [
    IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 7)),
    IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 1)),
];
const V6: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1)),
];

fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = IpEmit {
        src,
        dst,
        protocol,
        traffic_class: 0xb9,
        hop_limit: 9,
        payload_len: payload.len(),
        identification: 0x1234,
        dont_fragment: false,
    };
    let mut packet = vec![0; header.header_len()];
    header.emit(&mut packet);
    packet.extend(payload);
    packet
}

/// An ICMP packet of either family, its checksum right.
fn icmp(src: IpAddr, dst: IpAddr, head: [u8; 8], body: &[u8]) -> Vec<u8> {
    let mut message = [&head[..], body].concat();
    let protocol = if src.is_ipv4() { 1 } else { 58 };
    let mut sum = Checksum::new();
    if src.is_ipv6() {
        let len = u32::try_from(message.len()).expect("a short message");
        sum.add_sum(checksum::pseudo_header(src, dst, 58, len), 0);
    }
    sum.add_bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    ip(src, dst, protocol, &message)
}

/// Ports 5001 and 80, sequence number 0x01020304.
const TCP_START: [u8; 8] = [0x13, 0x89, 0, 80, 1, 2, 3, 4];

/// A TCP packet of ours.
fn ours(family: [IpAddr; 3]) -> Vec<u8> {
    ip(family[0], family[1], 6, &[&TCP_START[..], &[0; 32]].concat())
}

fn report(family: [IpAddr; 3], kind: u8, code: u8, rest: [u8; 4]) -> Option<IcmpErrorKind> {
    let [r0, r1, r2, r3] = rest;
    let quote = ours(family);
    let packet = icmp(family[2], family[0], [kind, code, 0, 0, r0, r1, r2, r3], &quote);
    let error = parse_error(&packet)?;
    let expected = IcmpError {
        kind: error.kind,
        code,
        src: family[0],
        dst: family[1],
        protocol: 6,
        src_port: 5001,
        dst_port: 80,
        seq: Some(SeqNum(0x0102_0304)),
    };
    assert_eq!(error, expected);
    Some(error.kind)
}

#[test]
fn every_v4_code() {
    use IcmpErrorKind::*;
    let mtu = FragmentationNeeded { mtu: 1400 };
    for kind in 0..=255 {
        for code in 0..=20 {
            let expected = match (kind, code) {
                (3, 0 | 6 | 11) => Some(NetworkUnreachable),
                (3, 1 | 7 | 12) => Some(HostUnreachable),
                (3, 2) => Some(ProtocolUnreachable),
                (3, 3) => Some(PortUnreachable),
                (3, 4) => Some(mtu),
                (3, 9 | 10 | 13) => Some(Prohibited),
                (11, _) => Some(TimeExceeded),
                (12, _) => Some(ParameterProblem),
                _ => None,
            };
            // 0x0578 is 1400; the upper half of the word is not part of the MTU.
            assert_eq!(report(V4, kind, code, [0xff, 0xff, 5, 0x78]), expected, "{kind}/{code}");
        }
    }
}

#[test]
fn every_v6_code() {
    use IcmpErrorKind::*;
    for kind in 0..=255 {
        for code in 0..=20 {
            let expected = match (kind, code) {
                (1, 0) => Some(NetworkUnreachable),
                (1, 1 | 5 | 6) => Some(Prohibited),
                (1, 2 | 3) => Some(HostUnreachable),
                (1, 4) => Some(PortUnreachable),
                (2, _) => Some(FragmentationNeeded { mtu: 1280 }),
                (3, _) => Some(TimeExceeded),
                (4, 1) => Some(ProtocolUnreachable),
                (4, _) => Some(ParameterProblem),
                _ => None,
            };
            assert_eq!(report(V6, kind, code, [0, 0, 5, 0]), expected, "{kind}/{code}");
        }
    }
    let huge = report(V6, 2, 0, [1, 0, 0, 0]);
    assert_eq!(huge, Some(FragmentationNeeded { mtu: u16::MAX }));
}

#[test]
fn quotes_cut_short() {
    for (family, kind, ip_len) in [(V4, 3, 20), (V6, 1, 40)] {
        let whole = ours(family);
        for len in 0..whole.len() {
            let packet = icmp(family[2], family[0], [kind, 0, 0, 0, 0, 0, 0, 0], &whole[..len]);
            let error = parse_error(&packet);
            assert_eq!(error.is_some(), len >= ip_len + 4, "ports need {len}");
            let seq = error.and_then(|error| error.seq);
            assert_eq!(seq.is_some(), len >= ip_len + 8, "the sequence number needs {len}");
        }
    }
}

#[test]
fn quotes_that_say_nothing_about_a_connection() {
    let unreachable = [3, 3, 0, 0, 0, 0, 0, 0];
    let parse = |quote: &[u8]| parse_error(&icmp(V4[2], V4[0], unreachable, quote));
    // A later fragment has no ports.
    let mut later = ours(V4);
    later[7] = 1;
    assert_eq!(parse(&later), None);
    assert_eq!(parse(&ours(V6)), None, "a quote of the other family");
    let udp = parse(&ip(V4[0], V4[1], 17, &TCP_START)).unwrap();
    assert_eq!((udp.src_port, udp.dst_port, udp.seq), (5001, 80, None));
    let ping = parse(&ip(V4[0], V4[1], 1, &TCP_START)).unwrap();
    assert_eq!((ping.protocol, ping.src_port, ping.dst_port, ping.seq), (1, 0, 0, None));
    // A router may have changed the quoted header: its checksum does not count.
    let mut aged = ours(V4);
    aged[8] = 1;
    assert!(parse(&aged).is_some());
}

#[test]
fn a_quote_behind_extension_headers() {
    let chain = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[6, 0, 1, 4, 0, 0, 0, 0], &TCP_START].concat();
    let quote = ip(V6[0], V6[1], 0, &chain);
    let error = parse_error(&icmp(V6[2], V6[0], [1, 4, 0, 0, 0, 0, 0, 0], &quote)).unwrap();
    assert_eq!((error.protocol, error.src_port, error.dst_port), (6, 5001, 80));
}

#[test]
fn a_wrong_icmp_checksum_or_a_fragment_is_ignored() {
    for (family, kind) in [(V4, 3), (V6, 1)] {
        let good = icmp(family[2], family[0], [kind, 0, 0, 0, 0, 0, 0, 0], &ours(family));
        assert!(parse_error(&good).is_some());
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(parse_error(&bad), None);
    }
    let mut fragment = icmp(V4[2], V4[0], [3, 0, 0, 0, 0, 0, 0, 0], &ours(V4));
    fragment[6] |= 0x20;
    let sum = u16::from_be_bytes([fragment[10], fragment[11]]);
    let sum = checksum::update_u16(sum, 0, 0x2000);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(IpHeader::parse(&fragment).unwrap().fragment);
    assert_eq!(parse_error(&fragment), None);
}

#[test]
fn an_echo_request_becomes_its_reply() {
    for (family, request, reply) in [(V4, 8, 0), (V6, 128, 129)] {
        for len in 0..40 {
            let body = vec![0xa5; len];
            let mut packet = icmp(family[1], family[0], [request, 0, 0, 0, 1, 2, 3, 4], &body);
            let total_len = packet.len();
            packet.extend([0x77; 5]);
            assert!(echo_reply(&mut packet));
            let expected = icmp(family[0], family[1], [reply, 0, 0, 0, 1, 2, 3, 4], &body);
            let header = IpHeader::parse(&packet).unwrap();
            assert_eq!((header.src, header.dst), (family[0], family[1]));
            assert_eq!((header.hop_limit, header.traffic_class), (64, 0xb8), "not ECN-capable");
            assert_eq!(packet[header.header_len..total_len], expected[header.header_len..]);
            assert_eq!(packet[total_len..], [0x77; 5]);
        }
    }
}

#[test]
fn what_is_no_unicast_echo_request_stays_as_it_is() {
    let multicast: IpAddr = [224, 0, 0, 1].into();
    let broadcast: IpAddr = [255, 255, 255, 255].into();
    let any: IpAddr = [0, 0, 0, 0].into();
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let ping = [8, 0, 0, 0, 0, 0, 0, 0];
    let ping6 = [128, 0, 0, 0, 0, 0, 0, 0];
    let mut cases = vec![
        icmp(V4[1], multicast, ping, b""),
        icmp(V4[1], broadcast, ping, b""),
        icmp(multicast, V4[0], ping, b""),
        icmp(broadcast, V4[0], ping, b""),
        icmp(any, V4[0], ping, b""),
        icmp(V6[1], all_nodes, ping6, b""),
        icmp(all_nodes, V6[0], ping6, b""),
        icmp(Ipv6Addr::UNSPECIFIED.into(), V6[0], ping6, b""),
        icmp(V4[1], V4[0], [8, 1, 0, 0, 0, 0, 0, 0], b""),
        icmp(V4[1], V4[0], [0, 0, 0, 0, 0, 0, 0, 0], b""),
        icmp(V6[1], V6[0], [129, 0, 0, 0, 0, 0, 0, 0], b""),
        icmp(V6[1], V6[0], ping, b""),
        ip(V4[1], V4[0], 1, &[8, 0, 0xf7, 0xff]), // no identifier
        ip(V4[1], V4[0], 58, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        ours(V4),
        ours(V6),
    ];
    let mut wrong_sum = icmp(V4[1], V4[0], ping, b"data");
    *wrong_sum.last_mut().unwrap() ^= 1;
    cases.push(wrong_sum);
    // Destination options in front of the echo request.
    let message = icmp(V6[1], V6[0], ping6, b"")[40..].to_vec();
    cases.push(ip(V6[1], V6[0], 60, &[&[58, 0, 1, 4, 0, 0, 0, 0], &message[..]].concat()));
    for mut packet in cases {
        let before = packet.clone();
        assert!(!echo_reply(&mut packet), "{before:x?}");
        assert_eq!(packet, before);
    }
}

const KINDS: [IcmpErrorKind; 8] = [
    IcmpErrorKind::NetworkUnreachable,
    IcmpErrorKind::HostUnreachable,
    IcmpErrorKind::ProtocolUnreachable,
    IcmpErrorKind::PortUnreachable,
    IcmpErrorKind::FragmentationNeeded { mtu: 1480 },
    IcmpErrorKind::Prohibited,
    IcmpErrorKind::TimeExceeded,
    IcmpErrorKind::ParameterProblem,
];

#[test]
fn our_errors_read_as_they_were_meant() {
    for (family, limit) in [(V4, 576), (V6, 1280)] {
        for payload_len in [8, 100, 1460] {
            let payload = [&TCP_START[..], &vec![0x5a; payload_len - 8]].concat();
            let mut original = ip(family[1], family[0], 6, &payload);
            let original_len = original.len();
            original.extend([0; 6]);
            for kind in KINDS {
                let mut out = vec![1, 2, 3];
                assert!(emit_error(kind, &original, family[0], &mut out));
                let header = IpHeader::parse(&out).unwrap();
                assert_eq!((header.src, header.dst), (family[0], family[1]));
                assert_eq!(header.total_len, out.len());
                assert_eq!(out.len(), (header.header_len + 8 + original_len).min(limit));
                let error = parse_error(&out).unwrap();
                assert_eq!((error.kind, error.src, error.dst), (kind, family[1], family[0]));
                assert_eq!((error.src_port, error.dst_port), (5001, 80));
                let quote = &out[header.header_len + 8..];
                assert_eq!(quote, &original[..quote.len()], "padding is not quoted");
            }
        }
    }
}

#[test]
fn an_unknown_v6_protocol_is_pointed_at() {
    let pointer = |original: &[u8]| {
        let mut out = Vec::new();
        assert!(emit_error(IcmpErrorKind::ProtocolUnreachable, original, V6[0], &mut out));
        out[44..48].to_vec()
    };
    assert_eq!(pointer(&ip(V6[1], V6[0], 132, b"sctp")), [0, 0, 0, 6]);
    let chain = [60, 0, 1, 4, 0, 0, 0, 0, 132, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(pointer(&ip(V6[1], V6[0], 60, &chain)), [0, 0, 0, 48]);
}

#[test]
fn originals_that_must_not_be_answered() {
    let answered = |kind, original: &[u8], src| {
        let mut out = vec![9; 3];
        let answered = emit_error(kind, original, src, &mut out);
        assert_eq!(answered, !out.is_empty());
        answered
    };
    let port = IcmpErrorKind::PortUnreachable;
    let error = |family: [IpAddr; 3], kind| {
        icmp(family[1], family[0], [kind, 0, 0, 0, 0, 0, 0, 0], &ours(family))
    };
    for kind in [3, 4, 5, 11, 12] {
        assert!(!answered(port, &error(V4, kind), V4[0]), "ICMP {kind}");
    }
    for kind in [0, 8, 13] {
        assert!(answered(port, &error(V4, kind), V4[0]), "ICMP {kind}");
    }
    for kind in [0, 1, 2, 3, 4, 100, 127, 137] {
        assert!(!answered(port, &error(V6, kind), V6[0]), "ICMPv6 {kind}");
    }
    assert!(answered(port, &error(V6, 128), V6[0]));
    assert!(!answered(port, &ip(V4[1], V4[0], 1, b""), V4[0]), "ICMP without a type");

    let udp = |src: IpAddr, dst: IpAddr| ip(src, dst, 17, b"datagram");
    for addr in [[224, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0]] {
        assert!(!answered(port, &udp(V4[1], addr.into()), V4[0]), "to {addr:?}");
        assert!(!answered(port, &udp(addr.into(), V4[0]), V4[0]), "from {addr:?}");
    }
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    assert!(!answered(port, &udp(V6[1], all_nodes), V6[0]));
    assert!(!answered(port, &udp(all_nodes, V6[0]), V6[0]));
    let too_big = IcmpErrorKind::FragmentationNeeded { mtu: 1280 };
    assert!(answered(too_big, &udp(V6[1], all_nodes), V6[0]), "RFC 4443 §2.4 e.3");

    let fragment = |offset: u8| {
        let mut packet = udp(V4[1], V4[0]);
        packet[6..8].copy_from_slice(&[0x20, offset]);
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    assert!(answered(port, &fragment(0), V4[0]), "the first fragment");
    assert!(!answered(port, &fragment(1), V4[0]), "a later fragment");
    assert!(!answered(port, &udp(V4[1], V4[0]), V6[0]), "the other family");
    assert!(!answered(port, &[0x45; 30], V4[0]), "malformed");
    assert!(!answered(port, &[], V4[0]));
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic(
        v4: bool, head: [u8; 8], body in vec(any::<u8>(), 0..120), v in 0..2u8,
    ) {
        let mut body = body;
        if let Some(first) = body.first_mut() {
            *first = if v == 0 { 0x45 } else { 0x60 };
        }
        let family = if v4 { V4 } else { V6 };
        let packet = icmp(family[2], family[0], head, &body);
        let _ = parse_error(&packet);
        prop_assert_eq!(mptcp_core::wire::laws::check(&packet), Ok(()));
    }
}
