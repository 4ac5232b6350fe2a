//! Datagrams that are not as they should be.

use crate::harness::{NOW, Node, ip, packet, udp, v4, v6};
use core::net::SocketAddr;
use mptcp_core::buf::RxChecksum;
use mptcp_core::stack::SocketId;
use mptcp_core::stats::DropReason;

/// A stack with port 53 open in both families.
fn open() -> (Node, [(SocketAddr, SocketAddr, SocketId); 2]) {
    let mut node = Node::new(2);
    let (to_v4, to_v6) = (SocketAddr::new(v4(1, 2), 53), SocketAddr::new(v6(1, 2), 53));
    let (from_v4, from_v6) = (SocketAddr::new(v4(1, 1), 7), SocketAddr::new(v6(1, 1), 7));
    let ids = (node.bind(to_v4), node.bind(to_v6));
    (node, [(from_v4, to_v4, ids.0), (from_v6, to_v6, ids.1)])
}

#[test]
fn a_wrong_checksum_is_dropped_and_a_missing_one_depends_on_the_family() {
    let (mut node, families) = open();
    for (from, to, id) in families {
        let before = node.dropped(DropReason::UdpChecksum);
        let good = udp(from, to, b"payload");
        for at in (0..4).chain(6..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            node.receive(&ip(from.ip(), to.ip(), 17, &bad));
        }
        let wrong = node.dropped(DropReason::UdpChecksum) - before;
        assert_eq!((wrong, node.read(id)), (good.len() as u64 - 2, None));
        let mut absent = good.clone();
        absent[6..8].fill(0);
        for verdict in [RxChecksum::Unknown, RxChecksum::Good, RxChecksum::Bad] {
            node.receive_on(1, verdict, &ip(from.ip(), to.ip(), 17, &absent));
            assert_eq!(node.read(id).is_some(), from.is_ipv4(), "{verdict:?}");
        }
    }
    assert_eq!(node.drops(), node.dropped(DropReason::UdpChecksum));
}

#[test]
fn the_port_may_have_verified() {
    let (mut node, families) = open();
    for (from, to, id) in families {
        let mut bad = udp(from, to, b"payload");
        bad[6] ^= 1;
        let bad = ip(from.ip(), to.ip(), 17, &bad);
        node.receive_on(1, RxChecksum::Good, &bad);
        assert!(node.read(id).is_some(), "not verified again");
        // Bad news is verified: the port may have misread the packet.
        node.receive_on(1, RxChecksum::Bad, &packet(from, to, b"payload"));
        assert!(node.read(id).is_some());
        node.receive_on(1, RxChecksum::Bad, &bad);
        assert_eq!(node.read(id), None);
    }
    assert_eq!(node.dropped(DropReason::UdpChecksum), 2);
}

#[test]
fn every_cut_is_dropped_once() {
    let (mut node, families) = open();
    for (from, to, id) in families {
        let whole = udp(from, to, b"payload");
        for len in 0..whole.len() {
            let drops = node.drops();
            node.receive(&ip(from.ip(), to.ip(), 17, &whole[..len]));
            assert_eq!(node.drops(), drops + 1, "{len} bytes");
        }
        assert_eq!(node.read(id), None);
        let mut short = whole.clone();
        for len in 0..8 {
            short[4..6].copy_from_slice(&[0, len]);
            node.receive(&ip(from.ip(), to.ip(), 17, &short));
        }
        assert_eq!(node.read(id), None);
    }
    assert_eq!(node.dropped(DropReason::UdpMalformed), 2 * (15 + 8));
    assert_eq!(node.drops(), node.dropped(DropReason::UdpMalformed));
}

#[test]
fn what_is_behind_a_datagram_is_not_read() {
    let (mut node, families) = open();
    for (from, to, id) in families {
        // In the IP payload (a surplus area), and behind the IP packet (padding).
        let surplus = [udp(from, to, b"payload"), vec![0x55; 9]].concat();
        let mut bytes = ip(from.ip(), to.ip(), 17, &surplus);
        bytes.extend([0xaa; 6]);
        node.receive(&bytes);
        assert_eq!(node.read(id).map(|(_, data)| data), Some(b"payload".to_vec()));
        node.receive(&packet(from, to, b""));
        assert_eq!(node.read(id).map(|(_, data)| data), Some(Vec::new()), "empty, but there");
    }
    assert_eq!(node.drops(), 0);
}

#[test]
fn senders_that_cannot_be_are_dropped() {
    let (mut node, [(_, to, id), (_, to_v6, id_v6)]) = open();
    for from in [[0, 0, 0, 0], [255, 255, 255, 255], [224, 0, 0, 1]] {
        node.receive(&packet(SocketAddr::from((from, 7)), to, b"?"));
    }
    let multicast = SocketAddr::from(([0xff02, 0, 0, 0, 0, 0, 0, 1], 7));
    node.receive(&packet(multicast, to_v6, b"?"));
    // Our own address and port: an echo service would talk to itself for ever.
    node.receive(&packet(to, to, b"?"));
    assert_eq!((node.dropped(DropReason::NotOurs), node.drops()), (5, 5));
    assert_eq!((node.read(id), node.read(id_v6)), (None, None));
    // A sender that wants no answer says port 0.
    node.receive(&packet(SocketAddr::new(v4(1, 1), 0), to, b"!"));
    assert_eq!(node.read(id).map(|(received, _)| received.remote.port()), Some(0));
}

#[test]
fn fragments_and_strangers_are_not_ours() {
    let (mut node, [(from, to, id), _]) = open();
    let mut fragment = packet(from, to, b"payload");
    fragment[6] = 0x20;
    fragment[10..12].fill(0);
    let sum = !mptcp_core::wire::checksum::sum(&fragment[..20]);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    node.receive(&fragment);
    node.receive(&packet(from, SocketAddr::new(v4(1, 3), 53), b"?"));
    assert_eq!(node.dropped(DropReason::IpFragment), 1);
    assert_eq!((node.dropped(DropReason::NotOurs), node.drops()), (1, 2));
    assert_eq!(node.read(id), None);
    node.stack.close(NOW, id);
}
