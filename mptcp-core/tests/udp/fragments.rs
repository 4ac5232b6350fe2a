//! Datagrams that come in fragments: to their socket, and what their senders hear of those that do not.

use crate::harness::{NOW, Node, ip, udp, v4, v6};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::{HeapTxQueue, PortId, RxChecksum};
use mptcp_core::driver::Progress;
use mptcp_core::stats::DropReason;
use mptcp_core::time::Instant;
use mptcp_core::wire::{Fragment, IpEmit};

const UDP: u8 = 17;
const TIMEOUT: Duration = Duration::from_secs(30);

/// The IP payload `octets` in fragments of at most `len`.
fn cut(src: IpAddr, dst: IpAddr, id: u32, octets: &[u8], len: usize) -> Vec<Vec<u8>> {
    let part = |(n, octets_of): (usize, &[u8])| {
        let offset = n * len;
        let fragment = Fragment { id, offset, more: offset + octets_of.len() < octets.len() };
        let header = IpEmit {
            src,
            dst,
            protocol: UDP,
            traffic_class: 0,
            hop_limit: 64,
            payload_len: octets_of.len(),
            identification: 0,
            dont_fragment: false,
        };
        let mut packet = vec![0; 48];
        let header_len = header.emit_fragment(&fragment, &mut packet);
        packet.truncate(header_len);
        packet.extend(octets_of);
        packet
    };
    octets.chunks(len).enumerate().map(part).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// The ends of one family: a peer, and us.
fn ends(is_v4: bool) -> (SocketAddr, SocketAddr) {
    let (peer, ours) = if is_v4 { (v4(1, 1), v4(1, 2)) } else { (v6(1, 1), v6(1, 2)) };
    (SocketAddr::new(peer, 4_000), SocketAddr::new(ours, 53))
}

/// What goes out at `now`.
fn sent_at(node: &mut Node, now: Instant) -> Vec<Vec<u8>> {
    let mut wire = HeapTxQueue::new(64, node.pool.clone());
    assert_eq!(node.stack.poll_transmit(now, &mut wire), Progress::Done);
    core::iter::from_fn(|| wire.pop()).map(|packet| packet.to_vec()).collect()
}

/// A port verifies what it sees, which is never the whole: the sum is looked at again.
#[test]
fn a_whole_datagram_reaches_its_socket_if_its_checksum_is_right() {
    for is_v4 in [true, false] {
        let (from, to) = ends(is_v4);
        let mut node = Node::new(2);
        let id = node.bind(to);
        let text = pattern(4_000);
        let datagram = udp(from, to, &text);
        for packet in cut(from.ip(), to.ip(), 1, &datagram, 1_232).iter().rev() {
            node.receive_on(1, RxChecksum::Good, packet);
        }
        let (received, bytes) = node.read(id).expect("it has come");
        assert!((received.remote, received.via) == (from, PortId(1)) && bytes == text);
        let mut wrong = datagram;
        wrong[2_000] ^= 1;
        for packet in cut(from.ip(), to.ip(), 2, &wrong, 1_232) {
            node.receive_on(1, RxChecksum::Good, &packet);
        }
        assert_eq!((node.dropped(DropReason::UdpChecksum), node.drops()), (1, 1));
        let counters = node.stack.counters();
        assert_eq!((counters.ip_reasm_reqds, counters.ip_reasm_oks), (8, 2));
        assert_eq!(counters.ip_reasm_fails, 0);
        node.stack.close(NOW, id);
        node.assert_empty();
    }
}

/// RFC 1122 §3.3.2, RFC 4443 §3.3: who sent a first fragment, and not the rest in time, hears of it.
#[test]
fn who_never_sent_the_rest_is_told_in_time() {
    for is_v4 in [true, false] {
        let (from, to) = ends(is_v4);
        let mut node = Node::new(2);
        let fragments = cut(from.ip(), to.ip(), 1, &udp(from, to, &pattern(3_000)), 1_232);
        node.receive(&fragments[0]);
        node.receive(&fragments[1]);
        // Without the first one nobody could say what it was about.
        node.receive(&cut(from.ip(), to.ip(), 2, &pattern(3_000), 1_232)[2]);
        assert_eq!(node.stack.poll_timeout(), Some(NOW + TIMEOUT));
        let early = NOW + TIMEOUT - Duration::from_millis(1);
        assert_eq!(node.stack.handle_timeouts(early, 10), Progress::Done);
        assert!(sent_at(&mut node, early).is_empty());
        let now = NOW + TIMEOUT;
        assert_eq!(node.stack.handle_timeouts(now, 10), Progress::Done);
        assert_eq!(node.stack.poll_timeout(), None);
        let sent = sent_at(&mut node, now);
        assert_eq!(sent.len(), 1);
        let (message, kind, most) = if is_v4 { (20, [11, 1], 576) } else { (40, [3, 1], 1_280) };
        assert_eq!(sent[0][message..message + 2], kind);
        let quoted = &sent[0][message + 8..];
        assert!(fragments[0].starts_with(quoted) && sent[0].len() <= most && quoted.len() > 500);
        let counters = node.stack.counters();
        assert_eq!((counters.ip_reasm_timeout, counters.ip_reasm_fails), (2, 2));
        assert_eq!((counters.icmp_out_time_excds, counters.icmp_out_dest_unreachs), (1, 0));
        assert_eq!((node.dropped(DropReason::IpFragment), node.drops()), (3, 3));
        node.assert_empty();
    }
}

#[test]
fn what_is_said_about_fragments_has_the_rate_of_all_errors() {
    let (_, to) = ends(true);
    let mut node = Node::new(2);
    for host in 0..200 {
        let from = SocketAddr::new(v4(3, host), 4_000);
        node.receive(&cut(from.ip(), to.ip(), 1, &udp(from, to, &pattern(3_000)), 1_232)[0]);
    }
    let now = NOW + TIMEOUT;
    assert_eq!(node.stack.handle_timeouts(now, 1_000), Progress::Done);
    assert_eq!(sent_at(&mut node, now).len(), 32);
    assert_eq!(node.stack.counters().ip_reasm_timeout, 200);
    node.assert_empty();
}

/// RFC 8200 §4.5, RFC 7112.
#[test]
fn senders_of_ipv6_hear_what_is_wrong_with_a_fragment() {
    let (from, to) = ends(false);
    let mut node = Node::new(2);
    let datagram = udp(from, to, &pattern(100));
    let mut odd = cut(from.ip(), to.ip(), 1, &datagram, 48)[1].clone();
    odd.truncate(odd.len() - 1);
    odd[5] -= 1;
    let mut too_long = cut(from.ip(), to.ip(), 2, &datagram, 48)[2].clone();
    too_long[42..44].copy_from_slice(&0xfff8_u16.to_be_bytes());
    let headless = [&[UDP, 20, 1, 4, 0, 0, 0, 0][..], &pattern(80)].concat();
    let mut headless = cut(from.ip(), to.ip(), 3, &headless, 48)[0].clone();
    headless[40] = 60;
    for (packet, said) in
        [(odd, [4, 0, 0, 0, 0, 4]), (too_long, [4, 0, 0, 0, 0, 42]), (headless, [4, 3, 0, 0, 0, 0])]
    {
        node.receive(&packet);
        let sent = sent_at(&mut node, NOW);
        assert_eq!(sent.len(), 1, "{said:?}");
        assert_eq!(([&sent[0][40..42], &sent[0][44..48]].concat()), said);
        assert!(packet.starts_with(&sent[0][48..]));
    }
    let counters = node.stack.counters();
    assert_eq!((counters.icmp_out_parm_probs, counters.ip_reasm_malformed), (3, 3));
    // Nobody hears of what may be of an ICMP error.
    let mut icmp = cut(from.ip(), to.ip(), 4, &datagram, 48)[1].clone();
    icmp[40] = 58;
    icmp.truncate(icmp.len() - 1);
    icmp[5] -= 1;
    node.receive(&icmp);
    assert!(sent_at(&mut node, NOW).is_empty());
    node.assert_empty();
}

#[test]
fn fragments_of_others_and_those_that_find_no_memory_are_not_kept() {
    let (from, to) = ends(true);
    let mut node = Node::short_of_memory(2, 64, 16);
    let id = node.bind(to);
    let datagram = udp(from, to, &pattern(2_000));
    node.receive(&cut(from.ip(), v4(1, 3), 1, &datagram, 1_232)[0]);
    assert_eq!((node.dropped(DropReason::NotOurs), node.drops()), (1, 1));
    for id in 0..60 {
        node.receive(&cut(from.ip(), to.ip(), id, &datagram, 1_232)[0]);
    }
    // The packet that is looked at counts as well.
    assert_eq!((node.pool.in_use(), node.dropped(DropReason::IpFragment)), (47, 13));
    assert_eq!(node.stack.counters().ip_reasm_no_memory, 13);
    assert_eq!(node.stack.handle_timeouts(NOW + TIMEOUT, 1_000), Progress::Done);
    let _ = sent_at(&mut node, NOW + TIMEOUT);
    node.stack.close(NOW, id);
    node.assert_empty();
}

/// A fragment is no datagram of its own, whatever it looks like: not one octet before the whole is there.
#[test]
fn nothing_is_delivered_before_the_whole_is_there() {
    let (from, to) = ends(true);
    let mut node = Node::new(2);
    let id = node.bind(to);
    // The first fragment has a complete datagram in it.
    let mut datagram = udp(from, to, &pattern(40));
    datagram.extend(pattern(48));
    let fragments = cut(from.ip(), to.ip(), 1, &datagram, 48);
    for fragment in &fragments[..fragments.len() - 1] {
        node.receive(fragment);
        assert_eq!(node.read(id), None);
    }
    node.receive(&fragments[fragments.len() - 1]);
    // Its UDP header says that the rest is none of it.
    assert_eq!(node.read(id).map(|(_, bytes)| bytes), Some(pattern(40)));
    node.receive(&ip(from.ip(), to.ip(), UDP, &udp(from, to, b"whole")));
    assert_eq!(node.read(id).map(|(_, bytes)| bytes), Some(b"whole".to_vec()));
    node.stack.close(NOW, id);
    node.assert_empty();
}
