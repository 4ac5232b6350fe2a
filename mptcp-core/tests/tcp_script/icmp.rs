//! ICMP errors (RFC 9293 §3.9.2.2, RFC 1191, RFC 8201) and the attacks with forged ones (RFC 5927).

use crate::harness::{Peer, Script, ack, data, syn};
use mptcp_core::config::MtuProbing;
use mptcp_core::error::ConnectionError;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::wire::{Checksum, TcpFlags};

/// An ICMP error of `code` about our packet with sequence number `seq`.
pub(crate) fn icmp(s: &mut Script, code: u8, mtu: u16, seq: u32) {
    icmp_of(s, [3, code], mtu, seq);
}

/// The same for any type and code.
pub(crate) fn icmp_of(s: &mut Script, [kind, code]: [u8; 2], mtu: u16, seq: u32) {
    let leg = s.leg();
    let (local, peer, seq) = (leg.local, leg.peer, leg.iss.add(seq));
    let header = mptcp_core::wire::TcpHeader {
        src_port: local.port(),
        dst_port: peer.port(),
        seq,
        flags: TcpFlags::ACK,
        ..Default::default()
    };
    let options = mptcp_core::wire::OptionWriter::new();
    let quoted = crate::harness::build(local.ip(), peer.ip(), &header, &options, &[]);
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(&quoted);
    let mut sum = Checksum::new();
    sum.add_bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let ip = mptcp_core::wire::IpEmit {
        src: [10, 9, 9, 9].into(),
        dst: local.ip(),
        protocol: 1,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: message.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend_from_slice(&message);
    s.inject_bytes(&packet);
}

#[test]
fn unreachable_ends_a_connect_but_not_a_connection() {
    for (code, error) in [
        (0, ConnectionError::NetworkUnreachable),
        (1, ConnectionError::HostUnreachable),
        (3, ConnectionError::Refused),
        (13, ConnectionError::Prohibited),
    ] {
        let mut s = Script::new(|_| {});
        s.connect().expect(syn());
        icmp(&mut s, code, 0, 1);
        assert_eq!((s.state(), s.dropped(DropReason::IcmpUnmatched)), (State::SynSent, 1));
        icmp(&mut s, code, 0, 0);
        assert_eq!(s.stack.error(s.id()), Some(error));
        let mut s = Script::server(|_| {}, Peer::default());
        s.write(100).expect(data(1, 1, 100));
        icmp(&mut s, code, 0, 1);
        assert_eq!(s.state(), State::Established);
    }
}

#[test]
fn fragmentation_needed_lowers_the_segment_size_and_repeats() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.write(1460).expect(data(1, 1, 1460));
    icmp(&mut s, 4, 1000, 70_000);
    s.expect_nothing();
    icmp(&mut s, 4, 1000, 1);
    s.expect(data(1, 1, 960)).expect(data(961, 1, 500));
    s.inject(ack(1, 1461)).write(1000).expect(data(1461, 1, 960)).expect(data(2421, 1, 40));
    // Never up again, and never to nothing.
    icmp(&mut s, 4, 1400, 1461);
    icmp(&mut s, 4, 68, 1461);
    s.take_all();
    s.inject(ack(1, 2461)).write(500).expect(data(2461, 1, 488));
}

/// RFC 8201 §4
#[test]
fn an_ipv6_path_mtu_below_the_minimum_is_ignored() {
    let mut s = Script::new(|_| {});
    s.add_leg("[fd00::1]:80", "[fd00::2]:4000", Peer::default());
    s.listen().peer_opens();
    s.write(1440).expect(data(1, 1, 1440));
    for (mtu, len) in [(1279, 1440), (1280, 1220)] {
        packet_too_big(&mut s, mtu);
        s.take_all();
        let end = s.leg().written + 1;
        s.inject(ack(1, end)).write(2_000);
        assert_eq!(s.take().len, len);
        s.take_all();
    }
}

fn packet_too_big(s: &mut Script, mtu: u32) {
    let leg = s.leg();
    let (local, peer, seq) = (leg.local, leg.peer, leg.iss.add(leg.written));
    let header = mptcp_core::wire::TcpHeader {
        src_port: local.port(),
        dst_port: peer.port(),
        seq,
        flags: TcpFlags::ACK,
        ..Default::default()
    };
    let options = mptcp_core::wire::OptionWriter::new();
    let quoted = crate::harness::build(local.ip(), peer.ip(), &header, &options, &[]);
    let mut message = vec![2, 0, 0, 0];
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(&quoted);
    let mut sum = Checksum::new();
    let pseudo =
        mptcp_core::wire::checksum::pseudo_header(peer.ip(), local.ip(), 58, message.len() as u32);
    sum.add_sum(pseudo, 2);
    sum.add_bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let ip = mptcp_core::wire::IpEmit {
        src: peer.ip(),
        dst: local.ip(),
        protocol: 58,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: message.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend_from_slice(&message);
    s.inject_bytes(&packet);
}

/// RFC 5927 §4.1: only the quote of something in flight counts, for the MTU as for everything else.
#[test]
fn a_quote_must_lie_in_what_is_outstanding() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.write(2_920).expect(data(1, 1, 1460)).expect(data(1461, 1, 1460));
    s.inject(ack(1, 1461));
    // Acknowledged already; the next octet to be sent; half the sequence space away.
    for (n, seq) in [1, 1460, 2921, 0x8000_0000].into_iter().enumerate() {
        icmp(&mut s, 4, 1000, seq);
        s.expect_nothing();
        assert_eq!(s.dropped(DropReason::IcmpUnmatched), n as u64 + 1);
    }
    let pmtu = |s: &Script| s.stack.info(s.id()).unwrap().subflows[0].tcp.pmtu;
    assert_eq!(pmtu(&s), 1500);
    icmp(&mut s, 4, 1000, 2920);
    s.expect(data(1461, 1, 960)).expect(data(2421, 1, 500));
    assert_eq!(pmtu(&s), 1000);
}

/// RFC 5927 §7.1: a forged message throttles to no less than what nearly every path takes, and says
/// nothing when it names no size or none below ours. Repeated, it repeats no segment.
#[test]
fn a_forged_mtu_has_a_floor_and_works_once() {
    for probing in MtuProbing::ALL {
        let mut s = Script::server(|config| config.tcp.mtu_probing = probing, Peer::default());
        if probing == MtuProbing::Always {
            s.write(20_000);
            s.take_all();
            s.inject(ack(1, 10_000)).take_all();
        } else {
            s.write(1460).expect(data(1, 1, 1460));
        }
        let start = if probing == MtuProbing::Always { 10_000 } else { 1 };
        for mtu in [0, 1, 67, 1500, 9000] {
            icmp(&mut s, 4, mtu, start);
            s.expect_nothing();
        }
        icmp(&mut s, 4, 68, start);
        assert!(s.take_all().iter().all(|seg| (1..=488).contains(&seg.len)), "{probing:?}");
        for mtu in [68, 300, 528, 1400] {
            icmp(&mut s, 4, mtu, start);
            s.expect_nothing();
        }
        assert_eq!(s.stack.info(s.id()).unwrap().subflows[0].tcp.pmtu, 528);
    }
}
