//! Binding: what is refused, which port is drawn, and which socket a datagram reaches.

use crate::harness::{NOW, Node, addresses, packet, v4, v6, wildcard};
use core::net::SocketAddr;
use mptcp_core::error::{OpenError, RecvError, RelayError, SendError};
use mptcp_core::stack::{Listen, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::udp::{SendTo, UdpOptions, UdpSendError};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(v4(1, 2), port)
}

#[test]
fn what_cannot_be_bound() {
    let mut node = Node::new(2);
    let mut bind = |local, remote| {
        node.stack.udp_bind(local, &UdpOptions { remote, ..UdpOptions::default() }).map(|_| ())
    };
    let bad = Err(OpenError::BadAddress);
    assert_eq!(bind(SocketAddr::new(v4(1, 3), 53), None), bad, "not ours");
    for remote in [
        SocketAddr::new(v6(1, 1), 53),
        SocketAddr::new(v4(1, 1), 0),
        SocketAddr::from(([0, 0, 0, 0], 53)),
        SocketAddr::from(([224, 0, 0, 1], 53)),
        SocketAddr::from(([255, 255, 255, 255], 53)),
    ] {
        assert_eq!(bind(at(53), Some(remote)), bad, "{remote}");
    }
    assert_eq!(bind(at(53), None), Ok(()));
    assert_eq!(bind(at(53), None), Err(OpenError::AddressInUse));
    let peer = SocketAddr::new(v4(1, 1), 7);
    assert_eq!(bind(at(53), Some(peer)), Err(OpenError::AddressInUse));
    // Another address, the wildcard, another family: all different.
    assert_eq!(bind(SocketAddr::new(v4(2, 2), 53), None), Ok(()));
    assert_eq!(bind(SocketAddr::new(wildcard(true), 53), None), Ok(()));
    assert_eq!(bind(SocketAddr::new(wildcard(false), 53), None), Ok(()));
}

#[test]
fn the_limit_holds_and_is_counted() {
    let mut node = Node::with(2, |config| config.limits.udp_sockets = 3);
    let ids: Vec<_> = (1..=3).map(|port| node.bind(at(port))).collect();
    let refused = |node: &mut Node| node.stack.udp_bind(at(4), &UdpOptions::default());
    assert_eq!(refused(&mut node), Err(OpenError::LimitReached));
    assert_eq!(node.stack.counters().limit_refused, 1);
    assert_eq!(node.stack.occupancy().udp_sockets, 3);
    node.stack.close(NOW, ids[1]);
    let reused = node.bind(at(4));
    assert_eq!(refused(&mut node), Err(OpenError::LimitReached));
    assert_ne!(reused, ids[1], "the place is the same, the id is not");
    assert_eq!(node.stack.udp_info(ids[1]), None);
    for id in [ids[0], ids[2], reused] {
        node.stack.close(NOW, id);
    }
    node.assert_empty();
}

#[test]
fn port_0_draws_a_free_port_that_cannot_be_guessed() {
    let mut node = Node::with(2, |config| config.limits.udp_sockets = 1000);
    let mut draw = |addr| {
        let id = node.bind(SocketAddr::new(addr, 0));
        node.stack.udp_info(id).expect("open").local.port()
    };
    let ports: Vec<u16> = (0..500).map(|_| draw(v4(1, 2))).collect();
    assert!(ports.iter().all(|&port| (32_768..61_000).contains(&port)));
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 500, "each is free");
    // Spread over the whole range: a predictable next port would be near the last one.
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
    assert!(near < 20, "{near} of 499 within 100 of the one before");
    let mut other = Node::with(3, |config| config.limits.udp_sockets = 1000);
    let id = other.bind(SocketAddr::new(v4(1, 3), 0));
    assert_ne!(other.stack.udp_info(id).expect("open").local.port(), ports[0], "the seed decides");
}

#[test]
fn port_0_ends_when_every_port_is_taken() {
    let mut node = Node::with(2, |config| config.limits.udp_sockets = 40_000);
    // One port in ten is free.
    for port in (32_768..61_000).filter(|port| port % 10 != 0) {
        node.bind(at(port));
    }
    let draw = |node: &mut Node, addr| {
        let id = node.stack.udp_bind(SocketAddr::new(addr, 0), &UdpOptions::default())?;
        Ok(node.stack.udp_info(id).expect("open").local.port())
    };
    for _ in 0..20 {
        // A wildcard would lose to the exact ones, an exact one would take from the wildcard.
        let wild = draw(&mut node, wildcard(true)).expect("a free one");
        let exact = draw(&mut node, v4(1, 2)).expect("a free one");
        assert!(wild % 10 == 0 && exact % 10 == 0 && wild != exact, "{wild} and {exact}");
        let other = draw(&mut node, v4(2, 2)).expect("another address has other ports");
        let wild = node.stack.udp_is_bound(SocketAddr::new(v4(9, 9), other));
        assert!(!wild, "{other} belongs to a wildcard");
    }
    for port in (32_768..61_000).step_by(2) {
        let _ = node.stack.udp_bind(SocketAddr::new(v4(1, 2), port), &UdpOptions::default());
    }
    assert_eq!(draw(&mut node, v4(1, 2)), Err(OpenError::PortsExhausted));
    assert_eq!(draw(&mut node, wildcard(true)), Err(OpenError::PortsExhausted));
    assert!(draw(&mut node, wildcard(false)).is_ok(), "another family");
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let mut node = Node::new(2);
    let (peer, other) = (SocketAddr::new(v4(1, 1), 7), SocketAddr::new(v4(1, 1), 8));
    let connected = node.connect(at(53), peer);
    node.receive(&packet(peer, at(53), b"peer"));
    node.receive(&packet(other, at(53), b"other"));
    assert_eq!(node.read(connected).map(|(_, data)| data), Some(b"peer".to_vec()));
    assert_eq!(node.read(connected), None);
    assert_eq!((node.dropped(DropReason::UdpNotConnected), node.drops()), (1, 1));
    // The wildcard takes what the exact one does not want.
    let wild = node.bind(SocketAddr::new(wildcard(true), 53));
    node.receive(&packet(other, at(53), b"other"));
    node.receive(&packet(peer, at(53), b"peer"));
    assert_eq!(node.read(wild).map(|(_, data)| data), Some(b"other".to_vec()));
    assert_eq!((node.read(wild), node.drops()), (None, 1));
    assert_eq!(node.read(connected).map(|(_, data)| data), Some(b"peer".to_vec()));
}

#[test]
fn a_closed_port_is_counted_and_told_apart() {
    let mut node = Node::new(2);
    let wild = node.bind(SocketAddr::new(wildcard(true), 53));
    let peer = SocketAddr::new(v4(1, 1), 7);
    node.receive(&packet(peer, at(54), b"?"));
    node.receive(&packet(SocketAddr::new(v6(1, 1), 7), SocketAddr::new(v6(1, 2), 53), b"?"));
    node.receive(&packet(peer, at(0), b"?"));
    assert_eq!((node.dropped(DropReason::UdpNoSocket), node.drops()), (3, 3));
    assert!(node.events().is_empty());
    assert!(node.stack.udp_is_bound(at(53)) && !node.stack.udp_is_bound(at(54)));
    assert!(!node.stack.udp_is_bound(SocketAddr::new(v6(1, 2), 53)), "IPv4 only");
    node.stack.close(NOW, wild);
    assert!(!node.stack.udp_is_bound(at(53)));
    node.receive(&packet(peer, at(53), b"?"));
    assert_eq!(node.dropped(DropReason::UdpNoSocket), 4);
}

#[test]
fn close_sends_what_is_queued_and_abort_does_not() {
    let mut node = Node::new(2);
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    let id = node.bind(at(53));
    node.receive(&packet(SocketAddr::new(v4(1, 1), 7), at(53), b"unread"));
    for text in [b"1", b"2"] {
        node.stack.udp_send_to(id, text, &to).expect("room");
    }
    node.stack.close(NOW, id);
    assert_eq!(node.stack.udp_info(id), None);
    assert_eq!(node.stack.udp_send_to(id, b"3", &to), Err(UdpSendError::InvalidSocket));
    assert_eq!(node.stack.udp_recv_buf(id).err(), Some(RecvError::InvalidSocket));
    assert!(node.events().is_empty(), "nobody is told about a closed socket");
    assert_eq!(node.stack.occupancy().udp_sockets, 1);
    // The address is free at once, and the newcomer gets what arrives.
    let next = node.bind(at(53));
    node.receive(&packet(SocketAddr::new(v4(1, 1), 7), at(53), b"new"));
    assert!(node.read(next).is_some());
    node.stack.close(NOW, id);
    let sent = node.sent();
    let payloads: Vec<_> = sent.iter().map(|p| mptcp_core::buf::PacketBuf::data(p)[28]).collect();
    assert_eq!(payloads, b"12");
    drop(sent);
    assert_eq!(node.stack.occupancy().udp_sockets, 1, "the closed one is gone");
    node.stack.udp_send_to(next, b"lost", &to).expect("room");
    node.stack.abort(NOW, next);
    assert!(node.sent().is_empty());
    node.assert_empty();
}

#[test]
fn ids_of_one_kind_are_nothing_to_the_calls_of_another() {
    let mut node = Node::new(2);
    let udp = node.bind(at(53));
    let tcp = node.stack.listen(at(53), &Listen::default()).expect("TCP has ports of its own");
    assert_ne!(udp, tcp);
    let stack = &mut node.stack;
    assert_eq!(stack.recv_buf(NOW, udp).err(), Some(RecvError::InvalidSocket));
    assert_eq!(stack.send(NOW, udp, b"x"), Err(SendError::InvalidSocket));
    assert_eq!(stack.relay(NOW, udp, udp), Err(RelayError::InvalidSocket));
    assert!(stack.accept(udp).is_none() && stack.info(udp).is_none());
    assert!(stack.error(udp).is_none() && !stack.accept_deferred(NOW, udp));
    stack.shutdown_write(NOW, udp);
    stack.close_listener(NOW, udp);
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    assert_eq!(stack.udp_send_to(tcp, b"x", &to), Err(UdpSendError::InvalidSocket));
    assert_eq!(stack.udp_recv_buf(tcp).err(), Some(RecvError::InvalidSocket));
    assert!(stack.udp_info(tcp).is_none() && stack.udp_error(tcp).is_none());
    assert!(stack.udp_info(udp).is_some(), "still open after all that");
    assert_eq!(stack.udp_recv_buf(SocketId(u64::MAX)).err(), Some(RecvError::InvalidSocket));
    stack.set_user_data(udp, 77);
    node.receive(&packet(SocketAddr::new(v4(1, 1), 7), at(53), b"x"));
    assert_eq!(node.stack.poll_event().map(|event| event.user_data), Some(77));
    node.stack.release(udp);
    node.stack.close(NOW, tcp);
    node.assert_empty();
}

#[derive(Clone, Debug)]
enum Op {
    Bind { wild: bool, net: u8, port: u16, peer: Option<u8> },
    Close(prop::sample::Index),
    Datagram { net: u8, port: u16, from: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let port = 50..53u16;
    prop_oneof![
        (any::<bool>(), 1..3u8, port.clone(), prop::option::of(1..3u8))
            .prop_map(|(wild, net, port, peer)| Op::Bind { wild, net, port, peer }),
        any::<prop::sample::Index>().prop_map(Op::Close),
        (1..3u8, port, 1..4u8).prop_map(|(net, port, from)| Op::Datagram { net, port, from }),
    ]
}

/// Sender number `host`.
fn sender(host: u8) -> SocketAddr {
    SocketAddr::new(v4(9, host), 4000)
}

proptest! {
    /// Against a map of bindings: each datagram reaches the socket it should and no other.
    #[test]
    fn datagrams_reach_the_socket_a_naive_model_names(ops in prop::collection::vec(op(), 0..60)) {
        let mut node = Node::new(2);
        let mut model: BTreeMap<SocketAddr, (SocketId, Option<SocketAddr>)> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Bind { wild, net, port, peer } => {
                    let addr = if wild { wildcard(true) } else { v4(net, 2) };
                    let (local, remote) = (SocketAddr::new(addr, port), peer.map(sender));
                    let options = UdpOptions { remote, ..UdpOptions::default() };
                    let bound = node.stack.udp_bind(local, &options);
                    match model.entry(local) {
                        std::collections::btree_map::Entry::Occupied(_) => {
                            prop_assert_eq!(bound, Err(OpenError::AddressInUse));
                        }
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert((bound.unwrap(), remote));
                        }
                    }
                }
                Op::Close(index) if !model.is_empty() => {
                    let local = *model.keys().nth(index.index(model.len())).unwrap();
                    let (id, _) = model.remove(&local).unwrap();
                    node.stack.close(NOW, id);
                }
                Op::Close(_) => {}
                Op::Datagram { net, port, from } => {
                    let local = SocketAddr::new(v4(net, 2), port);
                    node.receive(&packet(sender(from), local, b"x"));
                    let keys = [local, SocketAddr::new(wildcard(true), port)];
                    let takers = keys.iter().filter_map(|key| model.get(key));
                    let taker = takers.clone().find(|(_, peer)| peer.is_none_or(|p| p == sender(from)));
                    for (id, _) in model.values() {
                        let read = node.read(*id);
                        prop_assert_eq!(read.is_some(), taker.is_some_and(|(taker, _)| taker == id));
                    }
                    prop_assert_eq!(node.stack.udp_is_bound(local), takers.count() > 0);
                }
            }
            prop_assert_eq!(node.stack.occupancy().udp_sockets as usize, model.len());
        }
        for (id, _) in model.into_values() {
            node.stack.close(NOW, id);
        }
        node.assert_empty();
    }
}

/// Everything the harness configures can be bound.
#[test]
fn every_address_of_the_stack_can_be_bound() {
    let mut node = Node::new(2);
    for address in addresses(2) {
        node.bind(SocketAddr::new(address.addr, 53));
    }
}
