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
