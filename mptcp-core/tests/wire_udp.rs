//! UDP headers: against smoltcp's codec, the rules about checksums, arbitrary bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::wire::{UdpDatagram, UdpHeader, WireError, checksum, laws};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire::UdpPacket;

fn emit(src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader { src_port: ports.0, dst_port: ports.1 };
    let sum = checksum::sum(payload);
    let header = header.emit(src, dst, payload.len(), sum).expect("it fits");
    [&header[..], payload].concat()
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
    fn a_datagram_reads_as_it_was_written_and_smoltcp_agrees(
        (src, dst) in families(), src_port: u16, dst_port in 1u16..,
        payload in vec(any::<u8>(), 0..200), surplus in 0..20usize,
    ) {
        let mut bytes = emit(src, dst, (src_port, dst_port), &payload);
        let theirs = UdpPacket::new_checked(&bytes).unwrap();
        prop_assert!(theirs.verify_checksum(&src.into(), &dst.into()));
        prop_assert_eq!((theirs.src_port(), theirs.dst_port()), (src_port, dst_port));
        prop_assert_eq!(usize::from(theirs.len()), bytes.len());
        prop_assert_eq!(theirs.payload(), &payload[..]);
        prop_assert_ne!(theirs.checksum(), 0);
        bytes.resize(bytes.len() + surplus, 0x55);
        let ours = UdpDatagram::parse(&bytes).unwrap();
        prop_assert_eq!((ours.src_port, ours.dst_port), (src_port, dst_port));
        prop_assert_eq!(ours.payload, &payload[..]);
        prop_assert!(ours.verify(src, dst));
    }

    #[test]
    fn what_smoltcp_writes_is_read(
        (src, dst) in families(), src_port: u16, dst_port in 1u16.., payload in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = vec![0; 8 + payload.len()];
        let mut theirs = UdpPacket::new_unchecked(&mut bytes);
        theirs.set_src_port(src_port);
        theirs.set_dst_port(dst_port);
        theirs.set_len(u16::try_from(8 + payload.len()).unwrap());
        theirs.payload_mut().copy_from_slice(&payload);
        theirs.fill_checksum(&src.into(), &dst.into());
        let ours = UdpDatagram::parse(&bytes).unwrap();
        prop_assert!(ours.verify(src, dst));
        prop_assert_eq!(ours.payload, &payload[..]);
        prop_assert_eq!(&emit(src, dst, (src_port, dst_port), &payload), &bytes);
    }

    #[test]
    fn any_changed_bit_is_noticed(
        (src, dst) in families(), payload in vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0..8u32,
    ) {
        let mut bytes = emit(src, dst, (7, 9), &payload);
        let at = at.index(bytes.len());
        // A changed length field may be too long for the buffer or leave bytes out of the sum.
        prop_assume!(at != 4 && at != 5);
        bytes[at] ^= 1 << bit;
        let changed = UdpDatagram::parse(&bytes).unwrap();
        // A checksum that became 0 claims to be none.
        prop_assume!(changed.checksum != 0);
        prop_assert!(!changed.verify(src, dst));
    }

    #[test]
    fn arbitrary_bytes_keep_the_laws(bytes in vec(any::<u8>(), 0..64), len in 0..70u16) {
        prop_assert_eq!(laws::check(&bytes), Ok(()));
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(4..6) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        prop_assert_eq!(laws::check(&bytes), Ok(()));
        let fits = bytes.len() >= 8 && usize::from(len) <= bytes.len();
        let expected = match (bytes.len() >= 8, len >= 8) {
            (false, _) => Some(WireError::Truncated),
            (true, false) => Some(WireError::HeaderLength),
            (true, true) => (!fits).then_some(WireError::Truncated),
        };
        prop_assert_eq!(UdpDatagram::parse(&bytes).err(), expected);
    }
}

#[test]
fn a_sum_that_comes_to_zero_is_sent_as_all_ones() {
    let (src, dst): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let plain = emit(src, dst, (1, 2), &[0, 0]);
    // Adding the checksum itself as data brings the sum to 0xffff and its inverse to 0.
    let bytes = emit(src, dst, (1, 2), &plain[6..8]);
    assert_eq!(bytes[6..8], [0xff, 0xff]);
    assert!(UdpDatagram::parse(&bytes).unwrap().verify(src, dst));
}

#[test]
fn only_ipv4_may_do_without_a_checksum() {
    let mut bytes = emit([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), (1, 2), b"payload");
    bytes[6..8].fill(0);
    let datagram = UdpDatagram::parse(&bytes).unwrap();
    assert!(datagram.verify([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
    assert!(!datagram.verify(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()));
}

#[test]
fn the_longest_datagram_and_one_more() {
    let header = UdpHeader { src_port: 1, dst_port: 2 };
    let addr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let longest = header.emit(addr, addr, 65_527, 0).unwrap();
    assert_eq!(longest[4..6], [0xff, 0xff]);
    assert_eq!(header.emit(addr, addr, 65_528, 0), None);
    assert_eq!(header.emit(addr, addr, usize::MAX, 0), None);
}
