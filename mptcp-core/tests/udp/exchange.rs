//! Datagrams between two stacks: whole, in order, from the right address, by the right port.

use crate::harness::{NOW, Node, packet, pass, v4, v6, wildcard};
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, PacketBuf, PortId};
use mptcp_core::driver::Progress;
use mptcp_core::error::RecvError;
use mptcp_core::stack::{Connect, Listen, Ready, SocketId};
use mptcp_core::udp::{Received, SendTo, UdpSendError};
use mptcp_core::wire::IpHeader;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

fn echo(client_addr: IpAddr, server_addr: IpAddr, longest: usize) {
    let (mut client, mut server) = (Node::new(1), Node::new(2));
    let service = SocketAddr::new(server_addr, 7);
    let at_server = server.bind(service);
    let at_client = client.connect(SocketAddr::new(client_addr, 0), service);
    let local = client.stack.udp_info(at_client).expect("open").local;
    for len in [0, 1, 2, 3, 64, 511, longest] {
        client.stack.udp_send_to(at_client, &pattern(len), &SendTo::peer()).expect("room");
        assert_eq!(pass(&mut client, &mut server), 1);
        assert_eq!(server.events(), [(at_server, Ready::READABLE)]);
        let (received, buf) = server.stack.udp_recv_buf(at_server).expect("a datagram");
        assert_eq!(
            received,
            Received { remote: local, local: service, via: PortId::ROUTED, len },
            "{len} bytes"
        );
        server.stack.udp_send_buf(at_server, buf, &received.reply()).expect("room");
        assert_eq!(server.read(at_server), None, "arms the next edge");
        assert_eq!(pass(&mut server, &mut client), 1);
        assert_eq!(client.events(), [(at_client, Ready::READABLE)]);
        let (received, data) = client.read(at_client).expect("the echo");
        assert_eq!((received.remote, received.local, data), (service, local, pattern(len)));
        assert_eq!(client.read(at_client), None);
    }
    let info = client.stack.udp_info(at_client).expect("open");
    assert_eq!((info.sent, info.received, info.dropped), (7, 7, 0));
    for (node, id) in [(&mut client, at_client), (&mut server, at_server)] {
        let counters = node.stack.counters();
        assert_eq!((counters.udp_in_datagrams, counters.udp_out_datagrams), (7, 7));
        assert_eq!(node.drops(), 0);
        node.stack.close(NOW, id);
        node.assert_empty();
    }
}

#[test]
fn echo_over_ipv4() {
    echo(v4(1, 1), v4(1, 2), 1472);
}

#[test]
fn echo_over_ipv6() {
    echo(v6(1, 1), v6(1, 2), 1452);
}

#[test]
fn a_reply_leaves_by_the_port_it_came_in_on_and_from_the_address_it_was_sent_to() {
    for is_v4 in [true, false] {
        let mut node = Node::new(2);
        let id = node.bind(SocketAddr::new(wildcard(is_v4), 53));
        for net in [1, 2] {
            let addr = |host: u8| if is_v4 { v4(net, host) } else { v6(net.into(), host.into()) };
            let (from, to) = (SocketAddr::new(addr(1), 999), SocketAddr::new(addr(2), 53));
            // By the other port than its address suggests.
            let via = 3 - net;
            node.receive_on(via, Default::default(), &packet(from, to, b"query"));
            let (received, buf) = node.stack.udp_recv_buf(id).expect("a datagram");
            assert_eq!((received.remote, received.local, received.via.0), (from, to, via));
            node.stack.udp_send_buf(id, buf, &received.reply()).expect("room");
            let sent = node.sent();
            assert_eq!((sent.len(), sent[0].tx_meta().port), (1, PortId(via)));
            assert_eq!(sent[0].data(), packet(to, from, b"query"));
        }
    }
}

/// Sends one datagram and tells the address and the port it left by.
fn source(node: &mut Node, id: SocketId, to: SendTo) -> (IpAddr, PortId) {
    node.stack.udp_send_to(id, b"x", &to).expect("room");
    let sent = node.sent();
    assert_eq!(sent.len(), 1);
    (IpHeader::parse(sent[0].data()).expect("a packet").src, sent[0].tx_meta().port)
}

#[test]
fn a_wildcard_socket_sends_from_the_address_that_suits() {
    let mut node = Node::new(2);
    let in_v4 = node.bind(SocketAddr::new(wildcard(true), 0));
    let in_v6 = node.bind(SocketAddr::new(wildcard(false), 0));
    let far_v4 = SendTo::from(SocketAddr::from(([192, 0, 2, 1], 53)));
    let far_v6 = SendTo::from(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 53)));
    let near_v6 = SendTo::from(SocketAddr::from(([0xfe80, 0, 0, 0, 0, 0, 0, 9], 53)));
    let (routed, second) = (PortId::ROUTED, PortId(2));
    let by_second = |to: SendTo| SendTo { via: second, ..to };
    assert_eq!(source(&mut node, in_v4, far_v4), (v4(1, 2), routed));
    assert_eq!(source(&mut node, in_v4, by_second(far_v4)), (v4(2, 2), second));
    assert_eq!(source(&mut node, in_v6, far_v6), (v6(1, 2), routed));
    assert_eq!(source(&mut node, in_v6, by_second(far_v6)), (v6(2, 2), second));
    let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(source(&mut node, in_v6, near_v6), (link_local, routed));
    // Asked for by name.
    let named = SendTo { local: Some(v4(2, 2)), ..far_v4 };
    assert_eq!(source(&mut node, in_v4, named), (v4(2, 2), routed));
    let foreign = SendTo { local: Some(v4(2, 9)), ..far_v4 };
    assert_eq!(node.stack.udp_send_to(in_v4, b"x", &foreign), Err(UdpSendError::BadAddress));
    let bound = node.bind(SocketAddr::new(v4(1, 2), 0));
    assert_eq!(source(&mut node, bound, by_second(far_v4)), (v4(1, 2), second));
    assert_eq!(node.stack.udp_send_to(bound, b"x", &named), Err(UdpSendError::BadAddress));
}

#[test]
fn nothing_is_sent_from_where_a_removed_address_stood() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(wildcard(true), 0));
    let far = SendTo::from(SocketAddr::from(([192, 0, 2, 1], 53)));
    node.stack.remove_address(NOW, v4(1, 2));
    assert_eq!(source(&mut node, id, far), (v4(2, 2), PortId::ROUTED));
    let nobody = SendTo { local: Some(wildcard(true)), ..far };
    assert_eq!(node.stack.udp_send_to(id, b"x", &nobody), Err(UdpSendError::BadAddress));
    node.stack.remove_address(NOW, v4(2, 2));
    assert_eq!(node.stack.udp_send_to(id, b"x", &far), Err(UdpSendError::BadAddress));
}

/// What the first link takes is one packet, to the octet, and what is longer goes in fragments.
#[test]
fn what_the_mtu_does_not_take_goes_in_fragments() {
    let mut node = Node::new(2);
    let long = pattern(3000);
    let mut longest = |local: SocketAddr, remote: SocketAddr, via: PortId, mtu: usize| {
        let id = node.bind(local);
        let to = SendTo { via, ..SendTo::from(remote) };
        let fits = mtu - if remote.is_ipv4() { 28 } else { 48 };
        node.stack.udp_send_to(id, &long[..fits], &to).expect("room");
        let sent = node.sent();
        assert_eq!((sent.len(), sent[0].data().len()), (1, mtu));
        node.stack.udp_send_to(id, &long[..=fits], &to).expect("room");
        assert_eq!(node.sent().len(), 2);
        node.stack.udp_send_to(id, &long, &to).expect("room");
        let sent = node.sent();
        assert!(
            sent.iter().all(|packet| packet.data().len() <= mtu && packet.tx_meta().port == via)
        );
        assert_eq!(sent.len(), 3);
    };
    let (far_v4, far_v6) = (SocketAddr::new(v4(9, 9), 1), SocketAddr::new(v6(9, 9), 1));
    let at = |addr| SocketAddr::new(addr, 0);
    longest(at(v4(1, 2)), far_v4, PortId::ROUTED, 1500);
    longest(at(v4(1, 2)), far_v4, PortId(1), 1500);
    // The smaller MTU of the port and of the address counts.
    longest(at(v4(1, 2)), far_v4, PortId(2), 1400);
    longest(at(v6(2, 2)), far_v6, PortId::ROUTED, 1400);
    longest(at(v6(2, 2)), far_v6, PortId(1), 1400);
    longest(at(wildcard(false)), far_v6, PortId::ROUTED, 1500);
    let counters = node.stack.counters();
    assert_eq!((counters.ip_frag_oks, counters.ip_frag_creates), (12, 30));
}

/// The longest datagram of either family arrives, and a longer one is refused with the limit.
#[test]
fn a_datagram_may_have_all_that_its_length_can_say() {
    for is_v4 in [true, false] {
        let (mut a, mut b) = (Node::new(1), Node::new(2));
        let (from, to) = if is_v4 { (v4(1, 1), v4(1, 2)) } else { (v6(1, 1), v6(1, 2)) };
        let (from, to) = (SocketAddr::new(from, 4000), SocketAddr::new(to, 53));
        let (ours, theirs) = (a.bind(from), b.bind(to));
        let most = if is_v4 { 65_507 } else { 65_527 };
        let text = pattern(most + 1);
        let send = SendTo::from(to);
        let over = a.stack.udp_send_to(ours, &text, &send);
        assert_eq!(over, Err(UdpSendError::TooLong { limit: most }));
        let buf = HeapBuf::from_slice(&text);
        let (error, buf) = a.stack.udp_send_buf(ours, buf, &send).expect_err("the same");
        assert_eq!((error, buf.data().len()), (UdpSendError::TooLong { limit: most }, most + 1));
        drop(buf);
        a.stack.udp_send_to(ours, &text[..most], &send).expect("the limit itself fits");
        assert!(pass(&mut a, &mut b) > 44);
        let (received, bytes) = b.read(theirs).expect("it has come");
        assert!(received.remote == from && received.via == PortId::ROUTED && bytes == text[..most]);
        // Back as it came, in the buffer it came in.
        b.stack.udp_send_to(theirs, &bytes, &received.reply()).expect("room");
        assert!(pass(&mut b, &mut a) > 44);
        assert!(a.read(ours).is_some_and(|(_, echoed)| echoed == text[..most]));
        assert_eq!((a.drops(), b.drops()), (0, 0));
        a.stack.close(NOW, ours);
        b.stack.close(NOW, theirs);
        a.assert_empty();
        b.assert_empty();
    }
}

#[test]
fn where_a_socket_cannot_send() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(v4(1, 2), 0));
    let peer = SocketAddr::new(v4(1, 1), 7);
    let connected = node.connect(SocketAddr::new(v4(1, 2), 0), peer);
    let refused = [
        (id, SendTo::peer()),
        (id, SendTo::from(SocketAddr::new(v4(1, 1), 0))),
        (id, SendTo::from(SocketAddr::new(v6(1, 1), 7))),
        (id, SendTo::from(SocketAddr::from(([0, 0, 0, 0], 7)))),
        (id, SendTo::from(SocketAddr::from(([255, 255, 255, 255], 7)))),
        (id, SendTo::from(SocketAddr::from(([224, 0, 0, 1], 7)))),
        (connected, SendTo::from(SocketAddr::new(v4(1, 1), 8))),
        (connected, SendTo::from(SocketAddr::new(v4(1, 3), 7))),
    ];
    for (id, to) in refused {
        assert_eq!(node.stack.udp_send_to(id, b"x", &to), Err(UdpSendError::BadAddress), "{to:?}");
    }
    node.stack.udp_send_to(connected, b"x", &SendTo::from(peer)).expect("the peer, by name");
    assert_eq!(node.sent()[0].data()[28..], *b"x");
}

#[test]
fn a_buffer_is_sent_from_where_it_is() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(v4(1, 2), 53));
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    let mut pool = node.pool.clone();
    let mut buf = pool.alloc().expect("the first");
    buf.append(5).expect("tailroom").copy_from_slice(b"alone");
    node.stack.udp_send_buf(id, buf, &to).expect("room");
    let sent = node.sent();
    assert_eq!((&sent[0].data()[28..], node.pool.in_use()), (&b"alone"[..], 1), "no second buffer");
    drop(sent);
    // Someone else still sees the payload: the headers must not be written into that memory.
    let mut buf = pool.alloc().expect("the first");
    buf.append(10).expect("tailroom").copy_from_slice(b"headshared");
    let other = buf.slice(0..10);
    buf.trim_front(4);
    node.stack.udp_send_buf(id, buf, &to).expect("room");
    let sent = node.sent();
    assert_eq!((&sent[0].data()[28..], other.data()), (&b"shared"[..], &b"headshared"[..]));
    drop((sent, other));
    node.stack.close(NOW, id);
    node.assert_empty();
}

#[test]
fn without_a_buffer_for_the_headers_a_datagram_waits() {
    let mut node = Node::new(2);
    let id = node.bind(SocketAddr::new(v4(1, 2), 53));
    let to = SendTo::from(SocketAddr::new(v4(1, 1), 7));
    let shared = HeapBuf::from_slice(b"twice");
    for part in [0..5, 2..5] {
        node.stack.udp_send_buf(id, shared.slice(part), &to).expect("room");
    }
    let mut pool = node.pool.clone();
    let hog: Vec<_> = core::iter::from_fn(|| pool.alloc()).collect();
    let (packets, progress) = node.poll();
    assert!(packets.is_empty() && progress == Progress::More);
    assert_eq!(node.stack.counters().tx_no_buffer, 1);
    assert_eq!(node.stack.udp_send_to(id, b"copy", &to), Err(UdpSendError::NoBuffer));
    drop(hog);
    let sent = node.sent();
    let payloads: Vec<_> = sent.iter().map(|packet| &packet.data()[28..]).collect();
    assert_eq!(payloads, [&b"twice"[..], b"ice"], "in order");
}

#[test]
fn a_short_destination_cuts_and_tells() {
    let mut node = Node::new(2);
    let local = SocketAddr::new(v4(1, 2), 53);
    let id = node.bind(local);
    node.receive(&packet(SocketAddr::new(v4(1, 1), 7), local, b"0123456789"));
    node.receive(&packet(SocketAddr::new(v4(1, 1), 7), local, b"next"));
    let mut into = [b'.'; 6];
    let received = node.stack.udp_recv_from(id, &mut into).expect("a datagram");
    assert_eq!((received.len, &into), (10, b"012345"));
    let received = node.stack.udp_recv_from(id, &mut into).expect("the next, not the rest");
    assert_eq!((received.len, &into), (4, b"next45"));
    assert_eq!(node.stack.udp_recv_from(id, &mut into), Err(RecvError::WouldBlock));
}

/// A stack full of TCP and a socket full of datagrams share the wire turn by turn.
#[test]
fn datagrams_and_tcp_take_turns() {
    let (mut client, mut server) = (Node::new(1), Node::new(2));
    let service = SocketAddr::new(v4(1, 2), 80);
    let listener = server.stack.listen(service, &Listen::default()).expect("a free port");
    let with = Connect {
        local: v4(1, 1),
        local_port: 0,
        remote: service,
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let tcp = client.stack.connect(NOW, &with).expect("room");
    while pass(&mut client, &mut server) + pass(&mut server, &mut client) > 0 {}
    let at_server = server.stack.accept(listener).expect("a connection");
    // Open the congestion window first: only then could TCP fill the wire alone.
    let data = pattern(256 << 10);
    for _ in 0..16 {
        client.stack.send(NOW, tcp, &data).expect("room");
        loop {
            let moved = pass(&mut client, &mut server) + pass(&mut server, &mut client);
            let read = core::iter::from_fn(|| server.stack.recv_buf(NOW, at_server).ok()).count();
            if moved + read == 0 {
                break;
            }
        }
    }
    let udp = client.bind(SocketAddr::new(v4(1, 1), 0));
    let to = SendTo::from(SocketAddr::new(v4(1, 2), 7));
    for _ in 0..200 {
        client.stack.udp_send_to(udp, &data[..100], &to).expect("room");
    }
    client.stack.send(NOW, tcp, &data).expect("room");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (packets, _) = client.poll();
        assert_eq!(packets.len(), 64, "the wire is full every time");
        let protocol = |p: &HeapBuf| IpHeader::parse(p.data()).expect("a packet").protocol;
        kinds.extend(packets.iter().map(protocol));
    }
    for turn in kinds.chunks(64) {
        let datagrams = turn.iter().filter(|&&protocol| protocol == 17).count();
        assert_eq!(datagrams, 32, "half of {turn:?}");
    }
}
