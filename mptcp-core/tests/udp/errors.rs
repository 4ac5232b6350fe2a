//! ICMP errors: to the socket they are about, none lost silently, never more than a few.

use crate::harness::{NOW, Node, ip, packet, v4, v6, wildcard};
use core::net::{IpAddr, SocketAddr};
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::udp::{SendTo, UdpError};
use mptcp_core::wire::icmp::emit_error;
use mptcp_core::wire::{IcmpErrorKind, IpHeader};

/// What `router` says about `quoted`.
fn error(kind: IcmpErrorKind, quoted: &[u8], router: IpAddr) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(emit_error(kind, quoted, router, &mut out));
    out
}

const KINDS: [IcmpErrorKind; 6] = [
    IcmpErrorKind::PortUnreachable,
    IcmpErrorKind::HostUnreachable,
    IcmpErrorKind::NetworkUnreachable,
    IcmpErrorKind::FragmentationNeeded { mtu: 1280 },
    IcmpErrorKind::Prohibited,
    IcmpErrorKind::TimeExceeded,
];

#[test]
fn errors_about_what_was_sent_reach_the_socket() {
    for is_v4 in [true, false] {
        let mut node = Node::new(2);
        let ours = if is_v4 { v4(1, 2) } else { v6(1, 2) };
        let (peer, router) = if is_v4 { (v4(9, 9), v4(1, 254)) } else { (v6(9, 9), v6(1, 254)) };
        let remote = SocketAddr::new(peer, 53);
        let wild = node.bind(SocketAddr::new(wildcard(is_v4), 0));
        let connected = node.connect(SocketAddr::new(ours, 0), remote);
        for id in [wild, connected] {
            let port = node.stack.udp_info(id).expect("open").local.port();
            let local = SocketAddr::new(ours, port);
            for kind in KINDS {
                node.stack.udp_send_to(id, b"anyone there?", &SendTo::from(remote)).expect("room");
                let sent = node.sent();
                let quoted = mptcp_core::buf::PacketBuf::data(&sent[0]);
                node.receive(&error(kind, quoted, router));
                assert_eq!(node.events(), [(id, Ready::ERROR)], "{kind:?}");
                assert_eq!(node.stack.udp_error(id), Some(UdpError { kind, remote, local }));
                assert_eq!(node.stack.udp_error(id), None);
                assert_eq!(node.read(id), None, "the socket lives on");
            }
        }
        assert_eq!(node.drops(), 0);
        for id in [wild, connected] {
            node.stack.close(NOW, id);
        }
        node.assert_empty();
    }
}

#[test]
fn errors_about_what_no_socket_sent_are_dropped() {
    let mut node = Node::new(2);
    let (local, peer) = (SocketAddr::new(v4(1, 2), 53), SocketAddr::new(v4(9, 9), 7));
    let id = node.connect(local, peer);
    let wild = node.bind(SocketAddr::new(wildcard(true), 54));
    let quotes = [
        packet(local, SocketAddr::new(v4(9, 9), 8), b"another port"),
        packet(local, SocketAddr::new(v4(9, 8), 7), b"another peer"),
        packet(SocketAddr::new(v4(1, 2), 55), peer, b"no socket"),
    ];
    for quote in &quotes {
        node.receive(&error(IcmpErrorKind::PortUnreachable, quote, v4(9, 9)));
    }
    // Addressed to us, but quotes a packet of someone else.
    let foreign = packet(SocketAddr::new(v4(1, 7), 54), peer, b"not ours");
    let mut stray = error(IcmpErrorKind::PortUnreachable, &foreign, v4(9, 9));
    let header = IpHeader::parse(&stray).expect("a packet");
    let message = stray.split_off(header.header_len);
    node.receive(&ip(v4(9, 9), v4(1, 2), 1, &message));
    assert_eq!((node.dropped(DropReason::IcmpUnmatched), node.drops()), (4, 4));
    assert!(node.events().is_empty());
    assert!(node.stack.udp_error(id).is_none() && node.stack.udp_error(wild).is_none());
}

#[test]
fn a_flood_of_errors_is_bounded() {
    let mut node = Node::new(2);
    let (local, peer) = (SocketAddr::new(v4(1, 2), 53), SocketAddr::new(v4(9, 9), 7));
    let id = node.bind(local);
    let quote = packet(local, peer, b"sent");
    for _ in 0..100 {
        node.receive(&error(IcmpErrorKind::HostUnreachable, &quote, v4(1, 254)));
    }
    assert_eq!(node.events(), [(id, Ready::ERROR)]);
    let kept = core::iter::from_fn(|| node.stack.udp_error(id)).count() as u64;
    assert_eq!((kept, node.dropped(DropReason::UdpErrorsFull), node.drops()), (8, 92, 92));
    node.receive(&error(IcmpErrorKind::HostUnreachable, &quote, v4(1, 254)));
    assert_eq!(node.events(), [(id, Ready::ERROR)]);
    node.stack.close(NOW, id);
    node.receive(&error(IcmpErrorKind::HostUnreachable, &quote, v4(1, 254)));
    assert_eq!(node.dropped(DropReason::IcmpUnmatched), 1);
    node.assert_empty();
}

/// The datagram that `fragments` make, its IP header first, and the length of the longest fragment.
fn put_together(fragments: &[Vec<u8>]) -> (Vec<u8>, usize) {
    let (mut whole, mut ids) = (Vec::new(), Vec::new());
    let is_v4 = fragments[0][0] >> 4 == 4;
    for (n, fragment) in fragments.iter().enumerate() {
        let header = IpHeader::parse(fragment).expect("a packet");
        assert!(header.fragment && header.total_len == fragment.len() && header.protocol == 17);
        let at = if is_v4 { 6 } else { 42 };
        let field = u16::from_be_bytes([fragment[at], fragment[at + 1]]);
        let (offset, more) = match is_v4 {
            true => (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0),
            false => (usize::from(field & !7), field & 1 != 0),
        };
        assert_eq!((offset, more), (whole.len(), n + 1 < fragments.len()));
        ids.push(if is_v4 { fragment[4..6].to_vec() } else { fragment[44..48].to_vec() });
        whole.extend(&fragment[header.header_len..]);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let first = IpHeader::parse(&fragments[0]).expect("a packet");
    let longest = fragments.iter().map(Vec::len).max().expect("some");
    (ip(first.src, first.dst, 17, &whole), longest)
}

/// A router says that the way is narrow: what is too long for it goes in fragments, for ten minutes, and what
/// fits as before. The application's datagram arrives as it was.
#[test]
fn what_is_too_long_for_its_way_goes_in_fragments() {
    for is_v4 in [true, false] {
        let (mut node, mut other) = (Node::new(2), Node::new(9));
        let (ours, peer) = if is_v4 { (v4(1, 2), v4(1, 9)) } else { (v6(1, 2), v6(1, 9)) };
        let router = if is_v4 { v4(1, 254) } else { v6(1, 254) };
        let (local, remote) = (SocketAddr::new(ours, 4000), SocketAddr::new(peer, 53));
        let id = node.bind(local);
        let service = other.bind(remote);
        let text: Vec<u8> = (0..1_450 - if is_v4 { 0 } else { 20 }).map(|n| n as u8).collect();
        let send = |node: &mut Node, len: usize| {
            node.stack.udp_send_to(id, &text[..len], &SendTo::from(remote)).expect("room");
            let sent = node.sent();
            sent.iter().map(|packet| mptcp_core::buf::PacketBuf::data(packet).to_vec()).collect()
        };
        let first: Vec<Vec<u8>> = send(&mut node, text.len());
        assert_eq!(first.len(), 1);
        for mtu in [1_400, 1_280, 600, 0] {
            let kind = IcmpErrorKind::FragmentationNeeded { mtu };
            node.receive(&error(kind, &first[0], router));
            assert_eq!(node.stack.udp_error(id), Some(UdpError { kind, remote, local }));
            let least = if is_v4 { 552 } else { 1_280 };
            let fragments = send(&mut node, text.len());
            let (whole, longest) = put_together(&fragments);
            let most = usize::from(mtu.max(least));
            assert!(longest <= most && longest + 8 > most, "{longest} of {mtu}");
            other.receive(&whole);
            let (received, bytes) = other.read(service).expect("it has come");
            assert!(received.remote == local && bytes == text);
            // To the octet what fits is one packet.
            let fits = most - if is_v4 { 28 } else { 48 };
            assert_eq!(send(&mut node, fits).len(), 1);
            assert_eq!(send(&mut node, fits + 1).len(), 2);
        }
        // Other hosts are another matter.
        let elsewhere = SocketAddr::new(if is_v4 { v4(1, 8) } else { v6(1, 8) }, 53);
        node.stack.udp_send_to(id, &text, &SendTo::from(elsewhere)).expect("room");
        assert_eq!(node.sent().len(), 1);
        node.stack.close(NOW, id);
        other.stack.close(NOW, service);
        node.assert_empty();
    }
}
