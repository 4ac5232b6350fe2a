//! Translation there and back, against full recomputation of every checksum.

use super::*;
use crate::middlebox::PathMtu;
use crate::packet::TcpSegment;
use crate::packet::build::{Build, ip_packet};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn nat() -> Nat {
    Nat::new(NatConfig {
        public_v4: Some("192.0.2.9".parse().unwrap()),
        public_v6: Some("2001:db8::9".parse().unwrap()),
        ..NatConfig::default()
    })
}

fn through(nat: &mut Nat, now: u64, dir: Direction, packet: Vec<u8>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    nat.process(now, dir, packet, &mut out);
    out.pop().map(|(to, packet)| {
        assert_eq!(to, dir);
        packet
    })
}

fn packet(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let mut build = Build::new(src, dst);
    build.payload = payload.to_vec();
    build.to_packet()
}

fn tcp_ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let ip = IpPacket::parse(packet).unwrap();
    let tcp = TcpSegment::parse(&ip).unwrap();
    (SocketAddr::new(ip.src, tcp.src_port), SocketAddr::new(ip.dst, tcp.dst_port))
}

fn sound(packet: &[u8]) -> bool {
    let mut fresh = packet.to_vec();
    edit::recompute(&mut fresh);
    fresh == packet
}

#[test]
fn a_flow_goes_out_and_comes_back() {
    let mut nat = nat();
    let out =
        through(&mut nat, 0, Direction::AtoB, packet("10.0.0.2:4000", "198.51.100.7:80", b"hi"));
    let out = out.unwrap();
    let ends = ("192.0.2.9:4000".parse().unwrap(), "198.51.100.7:80".parse().unwrap());
    assert_eq!(tcp_ends(&out), ends);
    let back =
        through(&mut nat, 1, Direction::BtoA, packet("198.51.100.7:80", "192.0.2.9:4000", b"yo"));
    let ends = ("198.51.100.7:80".parse().unwrap(), "10.0.0.2:4000".parse().unwrap());
    assert_eq!(tcp_ends(&back.unwrap()), ends);
    assert_eq!((nat.mappings(), nat.counters().mapped), (1, 1));
}

#[test]
fn what_nobody_asked_for_is_dropped() {
    let mut nat = nat();
    through(&mut nat, 0, Direction::AtoB, packet("10.0.0.2:4000", "198.51.100.7:80", b""));
    for (src, dst) in [
        ("198.51.100.7:81", "192.0.2.9:4000"),
        ("198.51.100.8:80", "192.0.2.9:4000"),
        ("198.51.100.7:80", "192.0.2.9:4001"),
        ("198.51.100.7:80", "10.0.0.2:4000"),
    ] {
        assert_eq!(through(&mut nat, 1, Direction::BtoA, packet(src, dst, b"")), None);
    }
    assert_eq!(nat.counters().unknown_inbound, 4);
}

#[test]
fn two_hosts_with_one_port_get_two() {
    let mut nat = nat();
    let one = packet("10.0.0.2:4000", "198.51.100.7:80", b"");
    let two = packet("10.0.0.3:4000", "198.51.100.7:80", b"");
    let one = tcp_ends(&through(&mut nat, 0, Direction::AtoB, one).unwrap()).0;
    let two = tcp_ends(&through(&mut nat, 0, Direction::AtoB, two).unwrap()).0;
    assert_eq!(one.port(), 4_000);
    assert_ne!(two.port(), 4_000);
    // Towards another remote end the port is free again.
    let other = packet("10.0.0.3:4000", "198.51.100.8:80", b"");
    assert_eq!(tcp_ends(&through(&mut nat, 0, Direction::AtoB, other).unwrap()).0.port(), 4_000);
    let back = packet("198.51.100.7:80", &two.to_string(), b"");
    let back = tcp_ends(&through(&mut nat, 0, Direction::BtoA, back).unwrap()).1;
    assert_eq!(back, "10.0.0.3:4000".parse().unwrap());
}

#[test]
fn a_silent_mapping_ends_and_traffic_keeps_it() {
    let mut nat = nat();
    let out = packet("10.0.0.2:4000", "198.51.100.7:80", b"");
    let back = packet("198.51.100.7:80", "192.0.2.9:4000", b"");
    assert!(through(&mut nat, 0, Direction::AtoB, out.clone()).is_some());
    assert!(through(&mut nat, 299 * SECOND, Direction::BtoA, back.clone()).is_some());
    assert!(through(&mut nat, 598 * SECOND, Direction::BtoA, back.clone()).is_some());
    assert!(through(&mut nat, 898 * SECOND, Direction::BtoA, back.clone()).is_none());
    assert_eq!((nat.mappings(), nat.counters().expired), (0, 1));
    assert!(through(&mut nat, 900 * SECOND, Direction::AtoB, out).is_some());
    assert!(through(&mut nat, 901 * SECOND, Direction::BtoA, back).is_some());
}

#[test]
fn rebinding_moves_running_flows_to_other_ports() {
    let mut nat = nat();
    let out = packet("10.0.0.2:4000", "198.51.100.7:80", b"");
    let back = packet("198.51.100.7:80", "192.0.2.9:4000", b"");
    through(&mut nat, 0, Direction::AtoB, out.clone());
    nat.forget();
    assert!(through(&mut nat, 1, Direction::BtoA, back.clone()).is_none());
    assert_eq!(
        tcp_ends(&through(&mut nat, 1, Direction::AtoB, out.clone()).unwrap()).0.port(),
        4_000
    );
    nat.rebind();
    assert!(through(&mut nat, 2, Direction::BtoA, back).is_none());
    assert_ne!(
        tcp_ends(&through(&mut nat, 2, Direction::AtoB, out.clone()).unwrap()).0.port(),
        4_000
    );
    nat.set_public(Some("203.0.113.1".parse().unwrap()), None);
    let moved = tcp_ends(&through(&mut nat, 3, Direction::AtoB, out).unwrap()).0;
    assert_eq!(moved.ip(), "203.0.113.1".parse::<IpAddr>().unwrap());
    let v6 = packet("[fd00::2]:4000", "[2001:db8::7]:80", b"");
    assert_eq!(through(&mut nat, 3, Direction::AtoB, v6.clone()), Some(v6));
}

#[test]
fn ports_and_mappings_run_out_without_harm() {
    let mut nat = Nat::new(NatConfig { ports: 5_000..=5_002, max_mappings: 4, ..nat().config });
    let flow = |port: u16, remote: &str| packet(&format!("10.0.0.2:{port}"), remote, b"");
    for port in 1..=3 {
        assert!(through(&mut nat, 0, Direction::AtoB, flow(port, "198.51.100.7:80")).is_some());
    }
    assert!(through(&mut nat, 0, Direction::AtoB, flow(4, "198.51.100.7:80")).is_none());
    assert!(through(&mut nat, 0, Direction::AtoB, flow(4, "198.51.100.8:80")).is_some());
    assert!(through(&mut nat, 0, Direction::AtoB, flow(5, "198.51.100.9:80")).is_none());
    assert_eq!(nat.counters().exhausted, 2);
    assert!(through(&mut nat, 301 * SECOND, Direction::AtoB, flow(5, "198.51.100.9:80")).is_some());
    assert_eq!((nat.mappings(), nat.counters().expired), (1, 4));
}

fn echo(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let number = if src.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
    let mut payload = vec![kind, 0, 0, 0];
    payload.extend(id.to_be_bytes());
    payload.extend([0, 1, 42, 43, 44]);
    let mut packet = ip_packet(src, dst, number, payload, None);
    edit::recompute(&mut packet);
    packet
}

#[test]
fn pings_are_translated_by_their_identifier() {
    let v4 = ("10.0.0.2", "198.51.100.7", "192.0.2.9", 8, 0);
    let v6 = ("fd00::2", "2001:db8::7", "2001:db8::9", 128, 129);
    for (inside, remote, public, request, reply) in [v4, v6] {
        let mut nat = nat();
        let out =
            through(&mut nat, 0, Direction::AtoB, echo(inside, remote, request, 3_000)).unwrap();
        assert_eq!(out, echo(public, remote, request, 3_000));
        let back =
            through(&mut nat, 1, Direction::BtoA, echo(remote, public, reply, 3_000)).unwrap();
        assert_eq!(back, echo(remote, inside, reply, 3_000));
        assert!(
            through(&mut nat, 1, Direction::BtoA, echo(remote, public, reply, 3_001)).is_none()
        );
        assert!(
            through(&mut nat, 1, Direction::BtoA, echo(remote, public, request, 3_000)).is_none()
        );
    }
}

#[test]
fn an_icmp_error_finds_the_flow_it_is_about() {
    for (inside, remote) in
        [("10.0.0.2:4000", "198.51.100.7:80"), ("[fd00::2]:4000", "[2001:db8::7]:80")]
    {
        let mut nat = nat();
        let hop = (Some("192.0.2.1".parse().unwrap()), Some("2001:db8::1".parse().unwrap()));
        let mut mtu = PathMtu::answering(1_000, hop.0, hop.1);
        let original = packet(inside, remote, &[5; 1_200]);
        let outside = through(&mut nat, 0, Direction::AtoB, original.clone()).unwrap();
        let mut answers = Vec::new();
        mtu.process(0, Direction::AtoB, outside, &mut answers);
        let error = answers.remove(0).1;
        let turned = through(&mut nat, 1, Direction::BtoA, error.clone()).unwrap();
        assert!(sound(&turned));
        let ip = IpPacket::parse(&turned).unwrap();
        assert_eq!(ip.dst, inside.parse::<SocketAddr>().unwrap().ip());
        // What is quoted is what the host had sent, but for the transport checksum.
        let sum = Layout::of(&original).unwrap().checksum().unwrap();
        assert_eq!(ip.payload[8..8 + sum], original[..sum]);
        // An error about a flow that is not ours, or a broken one, goes nowhere.
        let mut broken = error.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(through(&mut nat, 1, Direction::BtoA, broken).is_none());
        nat.forget();
        assert!(through(&mut nat, 1, Direction::BtoA, error).is_none());
        assert_eq!((nat.counters().untranslatable, nat.counters().unknown_inbound), (1, 1));
    }
}

#[test]
fn what_cannot_be_translated_is_dropped() {
    let mut nat = nat();
    let mut fragment = packet("10.0.0.2:4000", "198.51.100.7:80", b"");
    fragment[6] = 0x20;
    edit::recompute(&mut fragment);
    let (src, dst) = ("10.0.0.2".parse().unwrap(), "198.51.100.7".parse().unwrap());
    let other = ip_packet(src, dst, 132, vec![0; 20], None);
    let short = ip_packet(src, dst, protocol::TCP, vec![0; 3], None);
    for packet in [fragment, other, short, vec![], vec![0x45; 30]] {
        assert!(through(&mut nat, 0, Direction::AtoB, packet).is_none());
    }
    assert_eq!(nat.counters().untranslatable, 5);
    assert_eq!(nat.mappings(), 0);
}

proptest! {
    /// Every checksum equals one computed from nothing, and the way back restores every byte.
    #[test]
    fn translation_is_exact_and_reversible(
        v6: bool,
        udp: bool,
        with_sum: bool,
        ports in (1..=u16::MAX, 1..=u16::MAX),
        payload in proptest::collection::vec(any::<u8>(), 0..60),
        inside: [u8; 4],
    ) {
        let ip = |last: [u8; 4], net: u16| -> IpAddr {
            if v6 {
                let [a, b, c, d] = last;
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Ipv6Addr::new(net, 0, 0, 0, 0, 0, high, low).into()
            } else {
                let [_, b, c, d] = last;
                Ipv4Addr::new(10, b, c, d).into()
            }
        };
        let inside = SocketAddr::new(ip(inside, 0xfd00), ports.0);
        let remote = SocketAddr::new(if v6 { "2001:db8::7" } else { "198.51.100.7" }.parse().unwrap(), ports.1);
        let make = |src: SocketAddr, dst: SocketAddr| {
            if !udp {
                let mut build = Build::new("1.1.1.1:1", "1.1.1.1:1");
                (build.src, build.dst, build.payload) = (src, dst, payload.clone());
                return build.to_packet();
            }
            let mut datagram = Vec::new();
            datagram.extend(src.port().to_be_bytes());
            datagram.extend(dst.port().to_be_bytes());
            datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
            datagram.extend([0, 0]);
            datagram.extend(&payload);
            let mut packet = ip_packet(src.ip(), dst.ip(), protocol::UDP, datagram, None);
            if with_sum || v6 {
                edit::recompute(&mut packet);
            }
            packet
        };
        let mut nat = nat();
        let out = through(&mut nat, 0, Direction::AtoB, make(inside, remote)).unwrap();
        let layout = Layout::of(&out).unwrap();
        let (public, _) = ends(&out, &layout, Direction::AtoB).unwrap();
        prop_assert_eq!(&out, &make(public, remote));
        let back = through(&mut nat, 0, Direction::BtoA, make(remote, public)).unwrap();
        prop_assert_eq!(back, make(remote, inside));
    }
}
