//! Floods: what they may cost, what they may not touch.

use crate::harness::{NOW, Node, packet, pass, v4, wildcard};
use core::net::SocketAddr;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, PacketBuf, PortId, TxQueue};
use mptcp_core::config::Marking;
use mptcp_core::driver::Progress;
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::udp::{SendTo, UdpOptions, UdpSendError};
use mptcp_core::wire::IpHeader;

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

/// A wire with two ports, each with room of its own.
struct Ports {
    room: [usize; 2],
    sent: Vec<(u8, u8)>,
    pool: HeapPool,
}

impl TxQueue<HeapBuf> for Ports {
    fn room(&self) -> usize {
        100
    }

    fn room_on(&self, port: PortId) -> usize {
        self.room.get(usize::from(port.0) - 1).copied().unwrap_or(100)
    }

    fn alloc(&mut self) -> Option<HeapBuf> {
        self.pool.alloc()
    }

    fn push(&mut self, packet: HeapBuf) {
        let port = packet.tx_meta().port.0;
        self.room[usize::from(port) - 1] -= 1;
        let data = packet.data();
        self.sent.push((port, data[data.len() - 1]));
    }
}

/// A datagram waits for its own port, in its turn there, and for no other.
#[test]
fn a_full_port_holds_up_its_own_datagrams_only() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(wildcard(true), 53));
    for n in 0..8 {
        let net = 1 + n % 2;
        let to = SendTo { via: PortId(net), ..SendTo::from(SocketAddr::new(v4(net, 1), 7)) };
        node.stack.udp_send_to(id, &[n], &to).expect("room");
    }
    let mut ports = Ports { room: [0, 3], sent: Vec::new(), pool: node.pool.clone() };
    assert_eq!(node.stack.poll_transmit(NOW, &mut ports), Progress::More);
    assert_eq!(ports.sent, [(2, 1), (2, 3), (2, 5)]);
    assert_eq!(node.stack.udp_info(id).expect("open").unsent, 5);
    ports.room = [100, 1];
    assert_eq!(node.stack.poll_transmit(NOW, &mut ports), Progress::Done);
    let late = [(1, 0), (1, 2), (1, 4), (1, 6), (2, 7)];
    assert_eq!(ports.sent[3..], late, "in the order they were written");
    node.stack.close(NOW, id);
    drop(ports);
    node.assert_empty();
}

/// A datagram in more fragments than there is room for goes as room comes, ahead of what is behind it on its port, and
/// holds up no other port.
#[test]
fn fragments_go_out_as_their_port_has_room() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(wildcard(true), 53));
    let to = |net| SendTo { via: PortId(net), ..SendTo::from(SocketAddr::new(v4(net, 1), 7)) };
    node.stack.udp_send_to(id, &[1; 4000], &to(1)).expect("room");
    node.stack.udp_send_to(id, &[2], &to(1)).expect("room");
    node.stack.udp_send_to(id, &[3], &to(2)).expect("room");
    let mut ports = Ports { room: [2, 100], sent: Vec::new(), pool: node.pool.clone() };
    assert_eq!(node.stack.poll_transmit(NOW, &mut ports), Progress::More);
    assert_eq!(ports.sent, [(1, 1), (1, 1), (2, 3)], "three fragments, room for two");
    ports.room = [2, 0];
    assert_eq!(node.stack.poll_transmit(NOW, &mut ports), Progress::Done);
    assert_eq!(ports.sent[3..], [(1, 1), (1, 2)]);
    assert_eq!(node.stack.counters().tx_no_buffer, 0, "buffers there were");
    node.stack.close(NOW, id);
    drop(ports);
    node.assert_empty();
}

/// Nothing waits for its reader in the last of the memory, which acknowledgements and handshakes need.
#[test]
fn no_datagram_waits_in_the_reserve_of_packet_memory() {
    let mut node = Node::short_of_memory(2, 64, 16);
    let (from, to) = (SocketAddr::new(v4(1, 1), 9), SocketAddr::new(v4(1, 2), 53));
    let id = node.bind(to);
    for _ in 0..100 {
        node.receive(&packet(from, to, b"flood"));
    }
    let info = node.stack.udp_info(id).expect("open");
    // The packet that is looked at counts as well.
    assert_eq!((info.received, info.dropped), (47, 53));
    assert_eq!(node.dropped(DropReason::UdpNoMemory), 53);
    assert_eq!((node.drops(), node.pool.in_use()), (53, 47));
    // What is read makes room.
    while node.read(id).is_some() {}
    node.receive(&packet(from, to, b"later"));
    assert_eq!(node.read(id).map(|(_, data)| data), Some(b"later".to_vec()));
    node.stack.close(NOW, id);
    node.assert_empty();
}

#[test]
fn datagrams_are_marked_as_their_socket_says() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(wildcard(true), 53));
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    let marking = Marking::new(5, 40).expect("within bounds");
    for (ours, hop_limit, class) in [(None, 64, 0), (Some(marking), 5, 40 << 2)] {
        assert!(ours.is_none_or(|marking| node.stack.set_marking(id, marking)));
        node.stack.udp_send_to(id, b"x", &to).expect("room");
        let sent = node.sent();
        let header = IpHeader::parse(sent[0].data()).expect("an IP packet");
        assert_eq!((header.hop_limit, header.traffic_class), (hop_limit, class));
    }
}
