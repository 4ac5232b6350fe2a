//! Whose a packet is, with every shard's steering side by side.

use super::*;
use crate::seq::SeqNum;
use crate::wire::udp::{PROTOCOL_UDP, UdpHeader};
use crate::wire::{
    IcmpErrorKind, IpEmit, MpJoin, MptcpOption, OptionWriter, TcpFlags, TcpHeader, TcpOption,
    Version, icmp,
};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

const SERVER: &str = "10.0.0.1:443";
const SERVER_V6: &str = "[2001:db8::1]:443";

fn sharding(shards: u8, own: u8) -> Sharding {
    Sharding { layout: Layout::new(shards).unwrap(), own }
}

fn steering(shards: u8, own: u8, pending: u32, confirmed: u32) -> Steering {
    let limits = SteeringLimits { pending, confirmed };
    Steering::new(&sharding(shards, own), limits, &mut Rng::from_seed([own; 32]))
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tuple(local: SocketAddr, remote: SocketAddr) -> Tuple {
    Tuple {
        local_addr: local.ip(),
        remote_addr: remote.ip(),
        local_port: local.port(),
        remote_port: remote.port(),
    }
}

fn ip(src: SocketAddr, dst: SocketAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ip = IpEmit {
        src: src.ip(),
        dst: dst.ip(),
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend_from_slice(payload);
    packet
}

fn segment(src: SocketAddr, dst: SocketAddr, flags: TcpFlags, options: &OptionWriter) -> Vec<u8> {
    let header = TcpHeader {
        src_port: src.port(),
        dst_port: dst.port(),
        seq: SeqNum(1),
        flags,
        ..TcpHeader::default()
    };
    let mut bytes = [0; 60];
    let len = header.emit(options, &mut bytes);
    ip(src, dst, crate::tcp::PROTOCOL_TCP, &bytes[..len])
}

fn text(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    segment(src, dst, TcpFlags::ACK, &OptionWriter::new())
}

fn join(src: SocketAddr, dst: SocketAddr, token: u32, version: Version) -> Vec<u8> {
    let mut options = OptionWriter::new();
    assert!(options.push(&TcpOption::MaxSegmentSize(1400)));
    let join = MpJoin::Syn { backup: false, address_id: 3, token, nonce: 7 };
    assert!(options.push_mptcp(&MptcpOption::Join(join), version));
    segment(src, dst, TcpFlags::SYN, &options)
}

fn datagram(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let header = UdpHeader { src_port: src.port(), dst_port: dst.port() };
    let bytes = header.emit(src.ip(), dst.ip(), 0, 0).unwrap();
    ip(src, dst, PROTOCOL_UDP, &bytes)
}

/// An error of a router on the way about what we sent from `ours` to `theirs`.
fn error_about(original: &[u8], router: IpAddr) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(icmp::emit_error(IcmpErrorKind::HostUnreachable, original, router, &mut out));
    out
}

/// A peer of ours whose flow to `dst` has this home.
fn peer_with_home(layout: &Layout, dst: SocketAddr, home: u8, nth: usize) -> SocketAddr {
    let peer = |port| match dst.ip() {
        IpAddr::V4(_) => SocketAddr::from(([192, 0, 2, 7], port)),
        IpAddr::V6(_) => SocketAddr::from(([0x2001, 0xdb8, 7, 0, 0, 0, 0, 7], port)),
    };
    let mut peers = (1024..u16::MAX).map(peer);
    peers.by_ref().filter(|p| layout.shard_of_flow(&tuple(dst, *p)) == home).nth(nth).unwrap()
}

/// All shards of a host.
struct Host(Vec<Steering>);

impl Host {
    fn new(shards: u8) -> Self {
        Self((0..shards).map(|own| steering(shards, own, 8, 8)).collect())
    }

    /// The way of a packet that arrives at shard `from`, to the one that keeps it.
    fn way(&mut self, from: u8, packet: &[u8]) -> Vec<u8> {
        let mut way = vec![from];
        let mut next = self.0[usize::from(from)].arrived(at(1), packet, |_| false);
        while next != *way.last().unwrap() {
            way.push(next);
            assert!(way.len() <= 3, "{way:?}");
            next = self.0[usize::from(next)].forwarded(at(1), packet, |_| false);
        }
        way
    }

    fn owner(&mut self, from: u8, packet: &[u8]) -> u8 {
        *self.way(from, packet).last().unwrap()
    }
}

#[test]
fn only_numbers_of_shards_that_have_buckets_make_a_layout() {
    assert!(Layout::new(0).is_none() && Layout::new(65).is_none());
    for shards in 1..=MAX_SHARDS {
        let layout = Layout::new(shards).unwrap();
        assert_eq!(layout.shards(), shards);
        let mut share = BTreeMap::new();
        for bucket in 0..64 {
            let shard = layout.shard_of_token(bucket);
            *share.entry(shard).or_insert(0_u32) += 1;
            // The bits above name nothing.
            assert_eq!(layout.shard_of_token(0xffff_ffc0 | bucket), shard);
            assert_eq!(layout.shard_of_port(0xffc0 | bucket as u16), shard);
        }
        assert!(share.len() == usize::from(shards) && share.keys().all(|own| *own < shards));
        assert!(share.values().max().unwrap() - share.values().min().unwrap() <= 1);
        for (entry, shard) in layout.redirection().iter().enumerate() {
            assert_eq!(layout.shard_of_hash(0xabcd_ef00 | entry as u32 & 127), *shard);
        }
    }
}

#[test]
fn one_shard_keeps_everything() {
    let mut steering = steering(1, 0, 8, 8);
    for n in 0..100 {
        let peer = SocketAddr::from(([192, 0, 2, n], 1000 + u16::from(n)));
        let join = join(peer, addr(SERVER), u32::from(n), Version::V1);
        assert_eq!(steering.arrived(at(1), &join, |_| false), 0);
    }
    assert_eq!(steering.stats(), SteeringStats::default());
}

#[test]
fn a_flow_has_one_owner_wherever_its_packets_arrive() {
    for (shards, server) in [(2, SERVER), (3, SERVER), (4, SERVER_V6), (64, SERVER_V6)] {
        let mut host = Host::new(shards);
        let layout = Layout::new(shards).unwrap();
        for home in 0..shards {
            let peer = peer_with_home(&layout, addr(server), home, 1);
            for from in 0..shards {
                let way = if from == home { vec![from] } else { vec![from, home] };
                assert_eq!(host.way(from, &text(peer, addr(server))), way);
                let syn = segment(peer, addr(server), TcpFlags::SYN, &OptionWriter::new());
                assert_eq!(host.way(from, &syn), way);
            }
            // What goes out has the same home as what comes in: ports are picked by it.
            let back = tuple(peer, addr(server));
            assert_eq!(layout.shard_of_flow(&back), home);
        }
    }
}

#[test]
fn datagrams_go_by_our_port_whoever_sends_them() {
    let mut host = Host::new(4);
    for port in 100..200 {
        let dst = SocketAddr::from(([10, 0, 0, 1], port));
        for n in 0..4 {
            let src = SocketAddr::from(([192, 0, 2, n], 53 + u16::from(n)));
            assert_eq!(u16::from(host.owner(n, &datagram(src, dst))), port % 4);
        }
        let stranger = IpAddr::from([192, 0, 2, 200]);
        let error = error_about(&datagram(dst, addr("192.0.2.1:53")), stranger);
        assert_eq!(u16::from(host.owner(1, &error)), port % 4);
    }
}

#[test]
fn a_join_and_what_follows_goes_to_the_shard_of_its_token() {
    for (server, version) in [(SERVER, Version::V0), (SERVER_V6, Version::V1)] {
        let mut host = Host::new(4);
        let server = addr(server);
        let layout = Layout::new(4).unwrap();
        let peer = peer_with_home(&layout, server, 2, 0);
        assert_eq!(host.way(0, &join(peer, server, 0xabcd_ef01, version)), [0, 2, 1]);
        assert_eq!(host.way(1, &text(peer, server)), [1, 2, 1]);
        assert_eq!(host.way(2, &text(peer, server)), [2, 1]);
        // Another flow of the same hosts stays at home.
        let other = peer_with_home(&layout, server, 2, 1);
        assert_eq!(host.way(0, &text(other, server)), [0, 2]);
        // An error about what we sent on it.
        let router = match server.ip() {
            IpAddr::V4(_) => IpAddr::from([198, 51, 100, 1]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 99, 0, 0, 0, 0, 1]),
        };
        let error = error_about(&text(server, peer), router);
        assert_eq!(host.way(3, &error), [3, 2, 1]);
        assert_eq!(host.0[2].stats().joins_noted, 1);
        assert_eq!(host.0[2].stats().pending, 1);
        // A join of one's own connections needs no entry.
        let other = peer_with_home(&layout, server, 1, 0);
        assert_eq!(host.way(3, &join(other, server, 0xabcd_ef01, version)), [3, 1]);
        assert_eq!(host.0[1].stats().joins_noted, 0);
    }
}

#[test]
fn only_a_syn_joins() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let peer = peer_with_home(&layout, server, 2, 0);
    let syn = join(peer, server, 1, Version::V1);
    for flags in [TcpFlags::SYN | TcpFlags::ACK, TcpFlags::SYN | TcpFlags::RST, TcpFlags::ACK] {
        let mut other = syn.clone();
        other[20 + 13] = flags.bits();
        assert_eq!(Host::new(4).way(2, &other), [2]);
    }
    // A FIN beside it changes nothing: it is refused by whom the token names.
    let mut other = syn;
    other[20 + 13] = (TcpFlags::SYN | TcpFlags::FIN).bits();
    assert_eq!(Host::new(4).way(2, &other), [2, 1]);
}

#[test]
fn a_syn_leads_away_nothing_that_is_there() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let peer = peer_with_home(&layout, server, 2, 0);
    let mut home = steering(4, 2, 8, 8);
    // The home's own connection.
    let known = tuple(server, peer);
    let syn = join(peer, server, 1, Version::V1);
    assert_eq!(home.arrived(at(1), &syn, |flow| *flow == known), 2);
    assert_eq!(home.forwarded(at(1), &syn, |flow| *flow == known), 2);
    assert_eq!(home.stats().pending, 0);
    // A subflow of another shard's, confirmed or not.
    assert_eq!(home.arrived(at(1), &syn, |_| false), 1);
    let mut owner = steering(4, 1, 8, 8);
    assert_eq!(owner.forwarded(at(1), &join(peer, server, 3, Version::V1), |_| false), 1);
    for joined in [false, true] {
        if joined {
            home.apply(at(2), &SteeringNote { home: 2, owner: 1, tuple: known, joined });
        }
        assert_eq!(home.arrived(at(2), &join(peer, server, 3, Version::V1), |_| false), 1);
        let syn = segment(peer, server, TcpFlags::SYN, &OptionWriter::new());
        assert_eq!(home.arrived(at(2), &syn, |_| false), 1);
        assert_eq!(home.arrived(at(2), &text(peer, server), |_| false), 1);
    }
}

/// As a connection of the home's own does, to a server in whose name a join was asked for that nobody knows.
#[test]
fn a_join_that_nobody_has_confirmed_leads_away_nothing_that_came_after_it() {
    for server in [SERVER, SERVER_V6] {
        let server = addr(server);
        let layout = Layout::new(4).unwrap();
        let peer = peer_with_home(&layout, server, 2, 0);
        let flow = tuple(server, peer);
        let known = |other: &Tuple| *other == flow;
        let mut home = steering(4, 2, 8, 8);
        assert_eq!(home.arrived(at(1), &join(peer, server, 1, Version::V1), |_| false), 1);
        let answered = TcpFlags::SYN | TcpFlags::ACK;
        let answer = segment(peer, server, answered, &OptionWriter::new());
        assert_eq!(home.arrived(at(2), &answer, known), 2);
        assert_eq!(home.forwarded(at(2), &text(peer, server), known), 2);
        assert_eq!(home.stats().sent_to_owner, 1);
        // What its owner has said is so.
        home.apply(at(3), &SteeringNote { home: 2, owner: 1, tuple: flow, joined: true });
        assert_eq!(home.arrived(at(3), &text(peer, server), known), 1);
    }
}

#[test]
fn what_is_gone_stays_at_home_and_only_the_owner_says_so() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let peer = peer_with_home(&layout, server, 2, 0);
    let note = |owner, joined| SteeringNote { home: 2, owner, tuple: tuple(server, peer), joined };
    let mut home = steering(4, 2, 8, 8);
    for confirmed in [false, true] {
        assert_eq!(home.arrived(at(1), &join(peer, server, 1, Version::V1), |_| false), 1);
        if confirmed {
            home.apply(at(1), &note(1, true));
            assert_eq!((home.stats().pending, home.stats().confirmed), (0, 1));
        }
        home.apply(at(1), &note(3, false));
        assert_eq!(home.arrived(at(1), &text(peer, server), |_| false), 1);
        home.apply(at(1), &note(1, false));
        assert_eq!(home.arrived(at(1), &text(peer, server), |_| false), 2);
        assert_eq!((home.stats().pending, home.stats().confirmed), (0, 0));
    }
    // An owner has a flow that its home knew nothing about, or somebody else's.
    home.apply(at(1), &note(0, true));
    assert_eq!(home.arrived(at(1), &text(peer, server), |_| false), 0);
    home.apply(at(1), &note(3, true));
    assert_eq!(home.arrived(at(1), &text(peer, server), |_| false), 3);
    assert_eq!(home.stats().confirmed, 1);
}

#[test]
fn a_flood_of_joins_displaces_only_what_nobody_has_confirmed() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let mut home = steering(4, 2, 8, 8);
    let peers: Vec<_> = (0..1008).map(|nth| peer_with_home(&layout, server, 2, nth)).collect();
    let (good, flood) = peers.split_at(8);
    for peer in good {
        assert_eq!(home.arrived(at(1), &join(*peer, server, 1, Version::V1), |_| false), 1);
        home.apply(
            at(1),
            &SteeringNote { home: 2, owner: 1, tuple: tuple(server, *peer), joined: true },
        );
    }
    for (n, peer) in flood.iter().enumerate() {
        let token = [0, 1, 3][n % 3];
        let owner = home.arrived(at(2), &join(*peer, server, token, Version::V1), |_| false);
        assert_eq!(u32::from(owner), token);
        assert!(home.stats().pending <= 8);
    }
    let owner = |home: &mut Steering, peer| home.arrived(at(3), &text(peer, server), |_| false);
    assert!(good.iter().all(|peer| owner(&mut home, *peer) == 1));
    // The newest of the flood are there, the oldest made room.
    assert_eq!(home.stats().pending_displaced, 992);
    assert!(flood[992..].iter().all(|peer| owner(&mut home, *peer) != 2));
    assert!(flood[..992].iter().all(|peer| owner(&mut home, *peer) == 2));
}

#[test]
fn the_confirmed_flow_used_least_recently_makes_room() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let mut home = steering(4, 2, 2, 3);
    let peers: Vec<_> = (0..4).map(|nth| peer_with_home(&layout, server, 2, nth)).collect();
    let joined =
        |n: usize| SteeringNote { home: 2, owner: 1, tuple: tuple(server, peers[n]), joined: true };
    for n in 0..3 {
        home.apply(at(1), &joined(n));
    }
    // The second and the first are used long after; a packet at once after the last would not count.
    for n in [1, 0] {
        let now = at(1) + Duration::from_secs(10);
        assert_eq!(home.arrived(now, &text(peers[n], server), |_| false), 1);
    }
    home.apply(at(20_000), &joined(3));
    let kept = peers.iter().map(|peer| home.arrived(at(20_000), &text(*peer, server), |_| false));
    assert_eq!(kept.collect::<Vec<_>>(), [1, 1, 2, 1]);
    assert_eq!((home.stats().confirmed, home.stats().confirmed_displaced), (3, 1));
    // To say it once more displaces nothing.
    home.apply(at(20_000), &joined(3));
    assert_eq!((home.stats().confirmed, home.stats().confirmed_displaced), (3, 1));
}

#[test]
fn memory_is_reserved_once() {
    let server = addr(SERVER);
    let layout = Layout::new(4).unwrap();
    let mut home = steering(4, 2, 448, 448);
    let reserved = home.table.buckets();
    for round in 0..30 {
        for nth in 0..1000 {
            let port = 1024 + (round * 1000 + nth) as u16 * 2;
            let peer = SocketAddr::from(([192, 0, (nth % 7) as u8, 7], port));
            let flow = tuple(server, peer);
            if layout.shard_of_flow(&flow) != 2 {
                continue;
            }
            home.arrived(at(1), &join(peer, server, 1, Version::V1), |_| false);
            if nth % 2 == 0 {
                home.apply(at(1), &SteeringNote { home: 2, owner: 1, tuple: flow, joined: true });
            }
        }
    }
    // The last one may have been confirmed just now.
    assert!(home.stats().pending >= 447 && home.stats().confirmed == 448);
    assert_eq!(home.table.buckets(), reserved);
}

#[test]
fn what_has_no_flow_stays_where_it_arrived() {
    let (server, peer) = (addr(SERVER), addr("192.0.2.7:5000"));
    let server_v6 = addr(SERVER_V6);
    let peer_v6 = addr("[2001:db8:7::7]:5000");
    let echo = ip(peer, server, 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let mut packets = vec![vec![], vec![0x45; 3], vec![0x60; 30], vec![0x75; 60], echo];
    packets.push(ip(peer, server, 132, &[0; 20]));
    packets.push(ip(peer_v6, server_v6, 132, &[0; 20]));
    // Cut off before the ports.
    packets.push(text(peer, server)[..23].to_vec());
    packets.push(text(peer_v6, server_v6)[..43].to_vec());
    for packet in packets {
        for from in 0..4 {
            assert_eq!(Host::new(4).way(from, &packet), [from], "{packet:x?}");
        }
    }
}

/// All fragments between two hosts meet at one shard, the first, which has ports, and the last, wherever they arrive.
#[test]
fn fragments_go_by_their_addresses() {
    for shards in [2, 4, 64] {
        let layout = Layout::new(shards).unwrap();
        let mut homes = [0; MAX_SHARDS as usize];
        for n in 0..=255 {
            let (peer, server) = (SocketAddr::from(([192, 0, 2, n], 5000)), addr(SERVER));
            let (peer_v6, server_v6) = (
                SocketAddr::from(([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(n)], 5000)),
                addr(SERVER_V6),
            );
            let mut packets = Vec::new();
            for field in [0x2000_u16, 0x2010, 0x0020] {
                let mut fragment = text(peer, server);
                fragment[6..8].copy_from_slice(&field.to_be_bytes());
                fragment[10..12].fill(0);
                let sum = !crate::wire::checksum::sum(&fragment[..20]);
                fragment[10..12].copy_from_slice(&sum.to_be_bytes());
                packets.push((fragment, layout.shard_of_fragments(peer.ip(), server.ip())));
                let mut fragment = vec![6, 0, 0, 1, 0, 0, 0, field as u8];
                fragment.extend_from_slice(&text(peer_v6, server_v6)[40..]);
                let home = layout.shard_of_fragments(peer_v6.ip(), server_v6.ip());
                packets.push((ip(peer_v6, server_v6, 44, &fragment), home));
            }
            for (packet, home) in packets {
                homes[usize::from(home)] += 1;
                for from in 0..shards.min(4) {
                    let way = if from == home { vec![from] } else { vec![from, home] };
                    assert_eq!(Host::new(shards).way(from, &packet), way, "{packet:x?}");
                }
            }
        }
        let most = homes.iter().max().unwrap();
        assert!(*most <= 3 * 6 * 256 / u32::from(shards), "{homes:?}");
    }
}

#[test]
fn headers_of_any_length_hide_no_flow() {
    let (server, peer) = (addr(SERVER), addr("192.0.2.7:5000"));
    let plain = text(peer, server);
    let mut with_options = plain[..20].to_vec();
    with_options[0] = 0x46;
    with_options.extend_from_slice(&[1, 1, 1, 0]);
    with_options.extend_from_slice(&plain[20..]);
    let (server_v6, peer_v6) = (addr(SERVER_V6), addr("[2001:db8:7::7]:5000"));
    let plain_v6 = text(peer_v6, server_v6);
    let mut extended = vec![6, 0, 1, 4, 0, 0, 0, 0];
    extended.extend_from_slice(&plain_v6[40..]);
    let extended = ip(peer_v6, server_v6, 60, &extended);
    for (plain, other) in [(plain, with_options), (plain_v6, extended)] {
        for shards in [2, 3, 64] {
            let mut host = Host::new(shards);
            assert_eq!(host.owner(0, &plain), host.owner(0, &other));
            assert_eq!(host.owner(1, &plain), host.owner(1, &other));
        }
    }
}

/// Who comes is not known in advance, but the port is.
#[test]
fn listeners_of_single_shards_hear_whoever_comes() {
    let set_aside = Some(EphemeralPorts { first: 61_000, last: 61_099 });
    let layout = Layout::new(4).unwrap().with_listening(set_aside);
    let steering = |own| {
        let sharding = Sharding { layout: layout.clone(), own };
        let limits = SteeringLimits { pending: 8, confirmed: 8 };
        Steering::new(&sharding, limits, &mut Rng::from_seed([own; 32]))
    };
    let mut host = Host((0..4).map(steering).collect());
    for port in 60_990..61_110_u16 {
        let dst = SocketAddr::from(([10, 0, 0, 1], port));
        let mut owners = Vec::new();
        for n in 0..20 {
            let src = SocketAddr::from(([192, 0, 2, n], 2_000 + u16::from(n) * 7));
            let syn = segment(src, dst, TcpFlags::SYN, &OptionWriter::new());
            owners.push(host.owner(n % 4, &syn));
            assert_eq!(owners.last(), Some(&layout.shard_of_flow(&tuple(dst, src))));
        }
        owners.sort_unstable();
        owners.dedup();
        match (61_000..61_100).contains(&port) {
            true => assert_eq!(owners, [layout.shard_of_port(port)], "{port}"),
            false => assert!(owners.len() > 1, "{port}"),
        }
    }
}
