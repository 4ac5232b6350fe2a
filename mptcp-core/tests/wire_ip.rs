//! IP headers: against smoltcp's codec, extension headers case by case, arbitrary bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::wire::{Fragment, IpEmit, IpHeader, WireError};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

fn emit(ip: &IpEmit, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xaa; ip.header_len()];
    assert_eq!(ip.emit(&mut packet), ip.header_len());
    packet.extend(payload);
    packet
}

fn ip_emit(src: IpAddr, dst: IpAddr) -> IpEmit {
    IpEmit {
        src,
        dst,
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: 0,
        identification: 0,
        dont_fragment: true,
    }
}

/// An IPv6 packet whose payload is `chain`, of protocol `first`.
fn v6_packet(first: u8, chain: &[u8]) -> Vec<u8> {
    let mut ip = ip_emit(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    ip.protocol = first;
    ip.payload_len = chain.len();
    emit(&ip, chain)
}

fn v4_packet() -> Vec<u8> {
    let mut ip = ip_emit([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    ip.payload_len = 8;
    emit(&ip, b"payload!")
}

/// Sets bytes of an IPv4 header and repairs its checksum.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = v4_packet();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet[10..12].fill(0);
    let sum = !mptcp_core::wire::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn families() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(a, b)| (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into())),
        any::<(u128, u128)>()
            .prop_map(|(a, b)| (Ipv6Addr::from_bits(a).into(), Ipv6Addr::from_bits(b).into())),
    ]
}

proptest! {
    #[test]
    fn a_header_reads_as_it_was_written_and_smoltcp_agrees(
        (src, dst) in families(), traffic_class: u8, hop_limit: u8, identification: u16,
        dont_fragment: bool, payload in vec(any::<u8>(), 0..100), padding in 0..50usize,
    ) {
        let ip = IpEmit {
            src, dst, protocol: 6, traffic_class, hop_limit, payload_len: payload.len(),
            identification, dont_fragment,
        };
        let mut packet = emit(&ip, &payload);
        let total_len = packet.len();
        packet.resize(total_len + padding, 0x55);
        let header = IpHeader::parse(&packet).unwrap();
        let header_len = ip.header_len();
        prop_assert_eq!(header, IpHeader {
            src, dst, protocol: 6, traffic_class, hop_limit, header_len, total_len, fragment: false,
        });
        prop_assert_eq!(header.ecn(), traffic_class & 3);
        if src.is_ipv4() {
            let theirs = Ipv4Packet::new_checked(&packet).unwrap();
            prop_assert!(theirs.verify_checksum());
            prop_assert_eq!(IpAddr::from(theirs.src_addr()), src);
            prop_assert_eq!(IpAddr::from(theirs.dst_addr()), dst);
            prop_assert_eq!(theirs.dscp() << 2 | theirs.ecn(), traffic_class);
            prop_assert_eq!((theirs.hop_limit(), theirs.ident()), (hop_limit, identification));
            prop_assert_eq!((theirs.dont_frag(), theirs.more_frags()), (dont_fragment, false));
            prop_assert_eq!(theirs.payload(), &payload[..]);
        } else {
            let theirs = Ipv6Packet::new_checked(&packet).unwrap();
            prop_assert_eq!(IpAddr::from(theirs.src_addr()), src);
            prop_assert_eq!(IpAddr::from(theirs.dst_addr()), dst);
            prop_assert_eq!((theirs.traffic_class(), theirs.flow_label()), (traffic_class, 0));
            prop_assert_eq!((theirs.hop_limit(), u8::from(theirs.next_header())), (hop_limit, 6));
            prop_assert_eq!(theirs.payload(), &payload[..]);
        }
    }

    #[test]
    fn every_cut_of_a_packet_is_truncated((src, dst) in families(), len in 0..60usize) {
        let ip = IpEmit { payload_len: 20, ..ip_emit(src, dst) };
        let packet = emit(&ip, &[0; 20]);
        let cut = &packet[..len.min(packet.len() - 1)];
        prop_assert_eq!(IpHeader::parse(cut), Err(WireError::Truncated));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), version in 0..16u8) {
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | *first & 0xf;
        }
        if let Ok(header) = IpHeader::parse(&bytes) {
            prop_assert!(header.header_len <= header.total_len && header.total_len <= bytes.len());
        }
    }

    #[test]
    fn arbitrary_extension_headers_never_panic(
        first in prop_oneof![Just(0u8), Just(43), Just(44), Just(60)], chain in vec(any::<u8>(), 0..300),
    ) {
        let packet = v6_packet(first, &chain);
        if let Ok(header) = IpHeader::parse(&packet) {
            prop_assert!(header.header_len <= header.total_len);
        }
    }
}

#[test]
fn v4_options_are_skipped_and_counted() {
    let mut packet = v4_packet();
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    packet[10..12].fill(0);
    let sum = !mptcp_core::wire::checksum::sum(&packet[..24]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let header = IpHeader::parse(&packet).unwrap();
    assert_eq!((header.header_len, header.total_len), (24, 32));
}

#[test]
fn v4_headers_that_lie_are_refused() {
    assert!(IpHeader::parse(&v4_packet()).is_ok());
    let mut packet = v4_packet();
    packet[8] ^= 1;
    assert_eq!(IpHeader::parse(&packet), Err(WireError::Checksum));
    assert_eq!(IpHeader::parse(&patched(0, &[0x44])), Err(WireError::HeaderLength));
    assert_eq!(IpHeader::parse(&patched(0, &[0x4f])), Err(WireError::Truncated));
    assert_eq!(IpHeader::parse(&patched(2, &[0, 19])), Err(WireError::TotalLength));
    assert_eq!(IpHeader::parse(&patched(2, &[0, 29])), Err(WireError::Truncated));
    assert_eq!(IpHeader::parse(&patched(0, &[0x50])), Err(WireError::IpVersion(5)));
    assert_eq!(IpHeader::parse(&[]), Err(WireError::Truncated));
}

#[test]
fn v4_fragments_are_flagged() {
    for (field, fragment) in [
        ([0x40, 0x00], false), // DF
        ([0x80, 0x00], false), // reserved bit
        ([0x20, 0x00], true),  // MF
        ([0x00, 0x01], true),  // offset
        ([0x1f, 0xff], true),
    ] {
        assert_eq!(IpHeader::parse(&patched(6, &field)).unwrap().fragment, fragment, "{field:x?}");
    }
}

const PADN: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// An options header of 8 bytes: hop-by-hop or destination options.
fn options_header(next: u8, options: [u8; 6]) -> Vec<u8> {
    [&[next, 0], &options[..]].concat()
}

fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, 1]
}

fn routing_header(next: u8, segments_left: u8) -> Vec<u8> {
    vec![next, 0, 4, segments_left, 0, 0, 0, 0]
}

fn walk(first: u8, headers: &[Vec<u8>]) -> Result<(u8, usize, bool), WireError> {
    let chain = [headers.concat(), vec![0; 20]].concat();
    let header = IpHeader::parse(&v6_packet(first, &chain))?;
    assert_eq!(header.total_len, 40 + chain.len());
    Ok((header.protocol, header.header_len, header.fragment))
}

#[test]
fn v6_extension_headers_are_skipped() {
    assert_eq!(walk(6, &[]), Ok((6, 40, false)));
    assert_eq!(walk(0, &[options_header(6, PADN)]), Ok((6, 48, false)));
    let all = [options_header(60, PADN), options_header(43, PADN), routing_header(60, 0)];
    let all = [&all[..], &[options_header(6, PADN)]].concat();
    assert_eq!(walk(0, &all), Ok((6, 72, false)));
    // Router alert, then Pad1s.
    assert_eq!(walk(0, &[options_header(58, [5, 2, 0, 0, 0, 0])]), Ok((58, 48, false)));
    // A longer header.
    let long = [&[6, 1, 1, 12][..], &[0; 12]].concat();
    assert_eq!(walk(60, &[long]), Ok((6, 56, false)));
}

#[test]
fn v6_extension_headers_that_a_host_must_not_accept() {
    let refused = Err(WireError::ExtensionHeader);
    let late_hop_by_hop = [options_header(0, PADN), options_header(6, PADN)];
    assert_eq!(walk(60, &late_hop_by_hop), refused);
    assert_eq!(walk(43, &[routing_header(6, 1)]), refused);
    for kind in [0x40, 0x80, 0xc2] {
        assert_eq!(walk(60, &[options_header(6, [kind, 4, 0, 0, 0, 0])]), refused, "{kind:x}");
    }
    assert_eq!(walk(60, &[options_header(6, [0x1e, 4, 0, 0, 0, 0])]), Ok((6, 48, false)));
    // An option that reaches past its header.
    assert_eq!(walk(60, &[options_header(6, [1, 5, 0, 0, 0, 0])]), refused);
    assert_eq!(walk(60, &[options_header(6, [0, 0, 0, 0, 0, 1])]), refused);
}

#[test]
fn v6_extension_headers_are_bounded() {
    let mut chain = vec![options_header(60, PADN); 7];
    chain.push(options_header(6, PADN));
    assert_eq!(walk(60, &chain), Ok((6, 40 + 64, false)));
    chain.insert(0, options_header(60, PADN));
    assert_eq!(walk(60, &chain), Err(WireError::ExtensionHeader));
    // A chain that claims more than the packet has.
    assert_eq!(walk(60, &[vec![60, 200, 0, 0, 0, 0, 0, 0]]), Err(WireError::Truncated));
}

#[test]
fn v6_fragments_are_flagged_and_atomic_fragments_are_whole() {
    assert_eq!(walk(44, &[fragment_header(6, 0, true)]), Ok((6, 48, true)));
    assert_eq!(walk(44, &[fragment_header(6, 1, false)]), Ok((6, 48, true)));
    assert_eq!(walk(44, &[fragment_header(6, 0, false)]), Ok((6, 48, false)));
    // The reserved bits mean nothing.
    let reserved = vec![6, 0, 0, 6, 0, 0, 0, 1];
    assert_eq!(walk(44, &[reserved]), Ok((6, 48, false)));
    // What follows in a later fragment is data, whatever the next header says.
    let later = [fragment_header(60, 100, true), vec![0xff; 8]];
    assert_eq!(walk(44, &later), Ok((60, 48, true)));
    let atomic = [fragment_header(60, 0, false), options_header(6, PADN)];
    assert_eq!(walk(44, &atomic), Ok((6, 56, false)));
}

#[test]
fn a_header_that_cannot_be_written_leaves_the_buffer_alone() {
    let v4 = ip_emit([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let v6 = ip_emit(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let refused = |ip: IpEmit, len: usize| {
        let mut out = vec![7; len];
        assert_eq!(ip.emit(&mut out), 0, "{ip:?}");
        assert_eq!(out, vec![7; len]);
    };
    refused(v4, 19);
    refused(v6, 39);
    refused(IpEmit { dst: v6.dst, ..v4 }, 60);
    refused(IpEmit { payload_len: 65_516, ..v4 }, 60);
    refused(IpEmit { payload_len: 65_536, ..v6 }, 60);
    refused(IpEmit { payload_len: usize::MAX, ..v4 }, 60);
    let mut out = [0; 40];
    assert_eq!(IpEmit { payload_len: 65_515, ..v4 }.emit(&mut out), 20);
    assert_eq!(IpEmit { payload_len: 65_535, ..v6 }.emit(&mut out), 40);
    let refused = |ip: IpEmit, offset: usize, len: usize| {
        let mut out = vec![7; len];
        let fragment = Fragment { id: 1, offset, more: true };
        assert_eq!(ip.emit_fragment(&fragment, &mut out), 0, "{ip:?}");
        assert_eq!(out, vec![7; len]);
    };
    for (ip, headers) in [(v4, 20), (v6, 48)] {
        refused(ip, 0, headers - 1);
        refused(ip, 4, 60);
        refused(ip, 65_536, 60);
        refused(IpEmit { payload_len: 65_536, ..ip }, 0, 60);
        let dst = if ip.src.is_ipv4() { v6.dst } else { v4.dst };
        refused(IpEmit { dst, ..ip }, 0, 60);
    }
}
