//! Floods: what they may cost, what they may not touch.

use crate::harness::{NOW, Node, packet, pass, v4, wildcard};
use core::net::SocketAddr;
use mptcp_core::buf::{HeapBuf, PacketBuf};
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::udp::{SendTo, UdpOptions, UdpSendError};

#[test]
fn a_flood_of_one_socket_is_bounded_and_leaves_the_other_alone() {
    let (mut client, mut server) = (Node::new(1), Node::new(2));
    let (flooded, calm) = (SocketAddr::new(v4(1, 2), 53), SocketAddr::new(v4(1, 2), 54));
    let victim = server.bind(flooded);
    let other = server.bind(calm);
    let from = client.bind(SocketAddr::new(v4(1, 1), 0));
    let mut sent = 0;
    for round in 0..100 {
        while client.stack.udp_send_to(from, b"flood", &SendTo::from(flooded)).is_ok() {
            sent += 1;
        }
        pass(&mut client, &mut server);
        client.stack.udp_send_to(from, &[round], &SendTo::from(calm)).expect("room again");
        pass(&mut client, &mut server);
    }
    assert!(sent > 20_000, "{sent}");
    let info = server.stack.udp_info(victim).expect("open");
    // What 256 datagrams pin is below the limit of half a megabyte: the count decides.
    let fit = 256;
    assert_eq!((info.received, info.received + info.dropped), (fit, sent));
    assert_eq!(server.dropped(DropReason::UdpQueueFull), info.dropped);
    assert_eq!(server.drops(), info.dropped);
    assert_eq!(server.pool.in_use() as u64, fit + 100, "nothing else is held");
    assert_eq!(server.events().len(), 2, "one event per socket, however much arrived");
    for round in 0..100 {
        let (_, data) = server.read(other).expect("every one of them");
        assert_eq!(data, [round]);
    }
    while server.read(victim).is_some() {}
    server.receive(&packet(SocketAddr::new(v4(1, 1), 9), flooded, b"later"));
    assert_eq!(server.events(), [(victim, Ready::READABLE)]);
    assert_eq!(server.read(victim).map(|(_, data)| data), Some(b"later".to_vec()));
    for id in [victim, other] {
        server.stack.close(NOW, id);
    }
    client.stack.close(NOW, from);
    server.assert_empty();
    client.assert_empty();
}

#[test]
fn a_flood_of_closed_ports_costs_nothing() {
    let mut node = Node::with(2, |config| config.limits.udp_sockets = 0);
    for port in 1..2000 {
        let to = SocketAddr::new(v4(1, 2), port);
        node.receive(&packet(SocketAddr::new(v4(1, 1), port), to, b"scan"));
    }
    assert_eq!(node.dropped(DropReason::UdpNoSocket), 1999);
    node.assert_empty();
}

#[test]
fn a_full_send_queue_blocks_and_room_is_reported_once() {
    let mut node = Node::new(2);
    let options = UdpOptions { send_datagrams: 40, user_data: 5, ..UdpOptions::default() };
    let id = node.stack.udp_bind(SocketAddr::new(wildcard(true), 53), &options).expect("free");
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    for n in 0..40 {
        node.stack.udp_send_to(id, &[n], &to).expect("room");
    }
    assert!(node.events().is_empty(), "a socket is writable from the start: no event");
    let held = node.pool.in_use();
    for _ in 0..1000 {
        let refused = node.stack.udp_send_to(id, b"x", &to);
        assert_eq!(refused, Err(UdpSendError::WouldBlock));
    }
    let (error, buf) =
        node.stack.udp_send_buf(id, HeapBuf::from_slice(b"mine"), &to).expect_err("full");
    assert_eq!((error, buf.data()), (UdpSendError::WouldBlock, &b"mine"[..]));
    assert_eq!((node.pool.in_use(), held), (40, 40));
    assert_eq!(node.stack.counters().udp_sndbuf_errors, 1001);
    let sent = node.sent();
    let order: Vec<u8> = sent.iter().map(|packet| packet.data()[28]).collect();
    assert_eq!(order, (0..40).collect::<Vec<u8>>());
    assert_eq!(node.events(), [(id, Ready::WRITABLE)]);
    node.stack.udp_send_to(id, b"x", &to).expect("room");
    node.sent();
    assert!(node.events().is_empty(), "nobody waited for room");
}

/// Several full sockets share the wire, none waits for another to run dry.
#[test]
fn sockets_take_turns() {
    let mut node = Node::new(2);
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    for port in [1, 2, 3] {
        let id = node.bind(SocketAddr::new(v4(1, 2), port));
        for _ in 0..100 {
            node.stack.udp_send_to(id, b"x", &to).expect("room");
        }
    }
    let ports: Vec<u8> = node.sent().iter().map(|packet| packet.data()[21]).collect();
    let turns: Vec<u8> = ports.chunk_by(|a, b| a == b).map(|turn| turn[0]).collect();
    assert_eq!(ports.len(), 300);
    assert!(ports.chunk_by(|a, b| a == b).all(|turn| turn.len() <= 32), "{turns:?}");
    assert_eq!(turns[..6], [1, 2, 3, 1, 2, 3]);
}
