//! A stack that is one shard of several: what it draws is its own, and homes are told of flows that are here all the
//! same.

#![expect(clippy::unwrap_used, reason = "a harness that fails is a test that fails")]

use crate::harness::*;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::HeapBuf;
use mptcp_core::config::{EphemeralPorts, Limits, StackConfig};
use mptcp_core::error::OpenError;
use mptcp_core::stack::{Connect, Listen};
use mptcp_core::stats::DropReason;
use mptcp_core::steering::{Layout, Sharding, SteeringNote, Tuple};
use mptcp_core::udp::UdpOptions;
use mptcp_core::wire::{
    CapableFlags, IpEmit, MpJoin, MptcpOption, TcpFlags, Version, checksum, set_checksum,
};

const H: CapableFlags = CapableFlags::HMAC;

fn layout(shards: u8) -> Layout {
    Layout::new(shards).unwrap()
}

fn shard(own: u8, shards: u8) -> impl Fn(&mut StackConfig) {
    move |config| config.sharding = Some(Sharding { layout: layout(shards), own })
}

fn tuple(local: SocketAddr, remote: SocketAddr) -> Tuple {
    Tuple {
        local_addr: local.ip(),
        remote_addr: remote.ip(),
        local_port: local.port(),
        remote_port: remote.port(),
    }
}

fn home(shards: u8, local: SocketAddr, remote: SocketAddr) -> u8 {
    layout(shards).shard_of_flow(&tuple(local, remote))
}

/// A peer's address whose flow to `local` has this home among four.
fn peer_of(home_of_it: u8, local: SocketAddr) -> SocketAddr {
    let mut peers = (5000..).map(|port| at(P2, port));
    peers.find(|peer| home(4, local, *peer) == home_of_it).unwrap()
}

/// Shard 2 of 4, which listens, and the other shards' notes about flows with it; none yet.
fn second_of_four(v: Version) -> Script {
    Script::server_with(v, shard(2, 4))
}

fn notes(script: &mut Script) -> Vec<SteeringNote> {
    core::iter::from_fn(|| script.stack.poll_steering_note()).collect()
}

/// Exactly one note, about this flow.
fn assert_told(script: &mut Script, flow: &Flow, joined: bool) {
    let tuple = tuple(flow.local, flow.peer);
    let note = SteeringNote { home: layout(4).shard_of_flow(&tuple), owner: 2, tuple, joined };
    assert_eq!(notes(script), [note]);
}

#[test]
fn keys_that_are_drawn_name_the_shard() {
    both(|v| {
        for (shards, own) in [(2, 1), (3, 0), (4, 2), (64, 63)] {
            let mut script = Script::server_with(v, shard(own, shards));
            let mut tokens = Vec::new();
            for port in 4000..4010 {
                let (_, answer) = script.half_open(port, H);
                tokens.push(Keys::of(v, &answer, false).stack_token());
            }
            let mut script = Script::new(v, |config| {
                shard(own, shards)(config);
                config.seed = [8; 32];
            });
            let (keys, _, _) = script.connected();
            tokens.push(keys.stack_token());
            assert!(tokens.iter().all(|token| layout(shards).shard_of_token(*token) == own));
            // Nothing else about them is prescribed.
            let mut upper: Vec<_> = tokens.iter().map(|token| token >> 6).collect();
            upper.sort_unstable();
            upper.dedup();
            assert_eq!(upper.len(), tokens.len());
        }
    });
}

#[test]
fn keys_of_cookies_name_the_shard() {
    both(|v| {
        for (shards, own) in [(4, 2), (8, 7), (9, 8), (32, 31)] {
            let mut script = Script::server_with(v, shard(own, shards));
            for n in 0..40_u8 {
                let flow = Flow::new(at(IpAddr::from([10, 5, 0, n]), 4000), at(A1, PORT));
                script.send(&flow, &flow.syn());
            }
            let sent = script.counters().syncookies_sent;
            for port in 4000..4005 {
                let (flow, answer) = script.half_open(port, H);
                let keys = Keys::of(v, &answer, false);
                assert_eq!(layout(shards).shard_of_token(keys.stack_token()), own);
                script.send(&flow, &flow.seg().opt(&keys.third()));
                let id = script.accept().expect("established");
                assert_eq!(script.info(id).mptcp, Some(v as u8));
            }
            assert_eq!(script.counters().syncookies_sent, sent + 5);
        }
    });
}

fn connect(local_port: u16, remote: SocketAddr) -> Connect {
    Connect { local: A1, local_port, remote, mptcp: false, timeout: None, user_data: 0 }
}

/// Ports of `count` connections to one destination.
fn drawn(own: u8, shards: u8, seed: u8, count: usize) -> Vec<u16> {
    let mut script = Script::new(Version::V1, |config| {
        shard(own, shards)(config);
        config.seed = [seed; 32];
        config.limits = Limits { tcbs: 1000, connections: 1000, ..config.limits };
    });
    let mut ports = Vec::new();
    for _ in 0..count {
        let id = script.stack.connect(script.now, &connect(0, at(P1, PORT))).unwrap();
        ports.extend(script.out().iter().map(|syn| syn.src.port()));
        script.stack.abort(script.now, id);
    }
    assert_eq!(notes(&mut script), [], "nothing is anybody else's");
    ports
}

#[test]
fn ports_that_are_drawn_bring_the_answers_home_and_stay_hard_to_guess() {
    for (shards, own) in [(1, 0), (2, 1), (3, 2), (4, 0), (64, 63)] {
        let ports = drawn(own, shards, 1, 300);
        assert_eq!(ports.len(), 300);
        let comes_home = |port: &u16| home(shards, at(A1, *port), at(P1, PORT)) == own;
        assert!(ports.iter().all(comes_home), "{own} of {shards}");
        // RFC 6056 §3.3.5: the next one is some random steps on. A shard's ports are not equally far from
        // each other, so there are at least as many distances as steps.
        let mut steps: Vec<_> =
            ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) % 28_232).collect();
        steps.sort_unstable();
        steps.dedup();
        assert!(steps.len() >= 7, "{own} of {shards}: {steps:?}");
        let other = drawn(own, shards, 2, 300);
        let common = ports.iter().filter(|port| other.contains(port)).count();
        assert!(ports != other && (shards > 4 || common < 200), "{own} of {shards}: {common}");
    }
}

#[test]
fn joins_of_ours_bring_their_answers_home() {
    let fullmesh = |config: &mut StackConfig| {
        shard(2, 4)(config);
        config.mptcp.path_manager = mptcp_core::config::PathManagerKind::Fullmesh;
    };
    both(|v| {
        for _ in 0..4 {
            let mut script = Script::new(v, fullmesh);
            let (keys, mut flow, _) = script.connected();
            let mut out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
            out.extend(script.advance(10));
            let joins: Vec<_> = out.iter().filter(|out| out.join().is_some()).collect();
            assert!(!joins.is_empty(), "{out:?}");
            assert!(joins.iter().all(|join| home(4, join.src, join.dst) == 2));
            assert_eq!(notes(&mut script), []);
        }
    });
}

#[test]
fn datagram_ports_that_are_drawn_are_the_shards() {
    for (shards, own) in [(2, 1), (3, 2), (64, 63)] {
        let mut script = Script::new(Version::V1, shard(own, shards));
        let mut ports = Vec::new();
        for _ in 0..100 {
            let id = script.stack.udp_bind(at(A1, 0), &UdpOptions::default()).unwrap();
            ports.push(script.stack.udp_info(id).unwrap().local.port());
            script.stack.close(script.now, id);
        }
        assert!(ports.iter().all(|port| layout(shards).shard_of_port(*port) == own));
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() > 50, "{}", ports.len());
    }
}

#[test]
fn the_home_of_a_join_hears_that_it_joined_and_that_it_is_gone() {
    both(|v| {
        let mut script = second_of_four(v);
        let (keys, _, _) = script.confirmed_from(peer_at_home(), H);
        assert_eq!(notes(&mut script), [], "what is at home concerns nobody");
        let mut join = Flow::new(peer_of(1, at(A2, PORT)), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert_eq!(notes(&mut script), [], "it may come to nothing");
        let ack = Script::join_ack(&keys, &out[0]);
        script.send(&join, &join.seg().opt(&ack));
        assert_told(&mut script, &join, true);
        script.send(&join, &join.seg().flags(TcpFlags::RST));
        assert_told(&mut script, &join, false);
        // One that has its home here.
        let local = script.join(&keys, peer_of(2, at(A2, PORT)), at(A2, PORT));
        script.send(&local, &local.seg().flags(TcpFlags::RST));
        assert_eq!(notes(&mut script), []);
    });
}

/// A port of P1 whose flow to the listener has its home here.
fn peer_at_home() -> u16 {
    (40_000..).find(|port| home(4, at(A1, PORT), at(P1, *port)) == 2).unwrap()
}

#[test]
fn the_home_of_a_join_that_comes_to_nothing_hears_of_it() {
    both(|v| {
        let mut script = second_of_four(v);
        let (keys, _, _) = script.confirmed_from(peer_at_home(), H);
        let join_to = at(A2, PORT);
        let syn = |token| {
            let syn = MpJoin::Syn { backup: false, address_id: 2, token, nonce: NONCE };
            MptcpOption::Join(syn)
        };
        // A token that nobody has.
        let flow = Flow::new(peer_of(0, join_to), join_to);
        let nobodys = keys.stack_token() ^ 0x1000;
        let out = script.send(&flow, &flow.syn().opt(&syn(nobodys)));
        assert!(out[0].rst(), "{out:?}");
        assert_told(&mut script, &flow, false);
        // A wrong HMAC.
        let mut flow = Flow::new(peer_of(3, join_to), join_to);
        script.join_syn(&keys, &mut flow, false);
        let wrong = MptcpOption::Join(MpJoin::Ack { hmac: [7; 20] });
        let out = script.send(&flow, &flow.seg().opt(&wrong));
        assert!(out[0].rst(), "{out:?}");
        assert_told(&mut script, &flow, false);
        // Given up by the peer, and by us.
        let mut flow = Flow::new(peer_of(1, join_to), join_to);
        script.join_syn(&keys, &mut flow, false);
        script.send(&flow, &flow.seg().flags(TcpFlags::RST));
        assert_told(&mut script, &flow, false);
        script.join_syn(&keys, &mut flow, false);
        assert_eq!(notes(&mut script), []);
        script.advance(300_000);
        assert_eq!(script.stack.occupancy().requests, 0);
        assert_told(&mut script, &flow, false);
    });
}

/// Its token has led it here before anybody looked at a checksum.
#[test]
fn the_home_of_a_join_that_is_broken_hears_of_it() {
    let mut script = second_of_four(Version::V1);
    let flow = Flow::new(peer_of(1, at(A2, PORT)), at(A2, PORT));
    let mut tcp = vec![0; 20];
    tcp[..2].copy_from_slice(&flow.peer.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&flow.local.port().to_be_bytes());
    (tcp[12], tcp[13]) = (8 << 4, TcpFlags::SYN.bits());
    tcp.extend([30, 12, 0x10, 2, 0, 0, 0, 2, 0, 0, 0, 7]);
    let sum = checksum::tcp_checksum(flow.peer.ip(), flow.local.ip(), &tcp);
    set_checksum(&mut tcp, sum);
    let ip = IpEmit {
        src: flow.peer.ip(),
        dst: flow.local.ip(),
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: tcp.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend(tcp);
    // That of the segment, and that of the header in front of it.
    for (place, reason) in [(36, DropReason::TcpChecksum), (10, DropReason::IpMalformed)] {
        let mut broken = packet.clone();
        broken[place] ^= 1;
        script.stack.handle_burst(script.now, &mut vec![HeapBuf::from_slice(&broken)]);
        assert_eq!(script.counters().dropped(reason), 1);
        assert!(script.out().is_empty());
        assert_told(&mut script, &flow, false);
    }
}

/// A flow that ends here leads its successor astray once.
#[test]
fn a_join_for_another_shard_is_not_refused_and_finds_it_the_next_time() {
    both(|v| {
        let mut script = second_of_four(v);
        let (keys, _, _) = script.confirmed_from(peer_at_home(), H);
        let flow = Flow::new(peer_of(1, at(A2, PORT)), at(A2, PORT));
        let other = MpJoin::Syn {
            backup: false,
            address_id: 2,
            token: keys.stack_token() + 1,
            nonce: NONCE,
        };
        assert!(script.send(&flow, &flow.syn().opt(&MptcpOption::Join(other))).is_empty());
        assert_eq!(script.counters().mp_join_no_token_found, 0);
        assert_told(&mut script, &flow, false);
        // Any stray tells the home that it remembers in vain.
        let out = script.send(&flow, &flow.seg().flags(TcpFlags::ACK));
        assert!(out[0].rst());
        assert_told(&mut script, &flow, false);
    });
}

#[test]
fn time_wait_keeps_its_flow_and_gives_way_to_a_join_for_another_shard() {
    both(|v| {
        for successor in [false, true] {
            let mut script = second_of_four(v);
            let (keys, mut first, id) = script.confirmed_from(peer_at_home(), H);
            // Nobody listens on port 9.
            let mut join = script.join(&keys, peer_of(1, at(A2, 9)), at(A2, 9));
            assert_told(&mut script, &join, true);
            // We close first: both subflows end in TIME-WAIT here.
            script.stack.shutdown_write(script.now, id);
            script.out();
            script.send(&first, &first.seg().dss(keys.ack(1)));
            let out = script.send(&first, &first.seg().dss(keys.fin(0)));
            for flow in [&mut first, &mut join] {
                flow.hears(&out);
                script.send(flow, &flow.seg().fin());
            }
            assert_eq!(script.stack.occupancy().time_waits, 2);
            assert!(notes(&mut script).iter().all(|note| note.joined), "it is still here");
            let gone = if successor {
                let other = MpJoin::Syn {
                    backup: false,
                    address_id: 2,
                    token: keys.stack_token() + 1,
                    nonce: NONCE,
                };
                join.isn = join.isn.wrapping_add(1 << 20);
                let syn = join.syn();
                assert!(script.send(&join, &syn.opt(&MptcpOption::Join(other))).is_empty());
                assert_eq!(script.stack.occupancy().time_waits, 1);
                notes(&mut script)
            } else {
                script.advance(61_000);
                notes(&mut script)
            };
            assert!(!gone.is_empty() && gone.iter().all(|note| !note.joined), "{gone:?}");
            assert!(gone.iter().all(|note| note.tuple == tuple(join.local, join.peer)));
        }
    });
}

#[test]
fn a_port_that_the_application_insists_on_is_told_to_its_home() {
    let mut script = Script::new(Version::V1, shard(2, 4));
    for home_of_it in [1, 2] {
        let mut ports = 10_000..;
        let port = ports.find(|port| home(4, at(A1, *port), at(P1, PORT)) == home_of_it).unwrap();
        let id = script.stack.connect(script.now, &connect(port, at(P1, PORT))).unwrap();
        let flow = Flow::new(at(P1, PORT), at(A1, port));
        for joined in [true, false] {
            if home_of_it == 2 {
                assert_eq!(notes(&mut script), []);
            } else {
                assert_told(&mut script, &flow, joined);
            }
            script.stack.abort(script.now, id);
        }
    }
}

#[test]
fn notes_that_nobody_fetches_are_bounded_and_counted() {
    let mut script = second_of_four(Version::V1);
    for n in 0..40_000_u32 {
        let peer = at(IpAddr::from([10, 7, (n >> 8) as u8, n as u8]), 4000);
        let flow = Flow::new(peer, at(A1, PORT));
        script.inject(&flow, &flow.seg().flags(TcpFlags::RST));
    }
    let told = notes(&mut script).len() as u64;
    assert_eq!(told, 8_192);
    // A quarter is at home.
    assert_eq!(told + script.counters().steering_notes_lost, 30_000);
}

#[test]
fn alone_a_stack_tells_nobody() {
    for sharding in [None, Some(Sharding { layout: layout(1), own: 0 })] {
        let mut script = Script::server_with(Version::V1, |config| config.sharding = sharding);
        let (keys, _, _) = script.confirmed();
        let flow = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send(&flow, &flow.seg().flags(TcpFlags::RST));
        script.send(&flow, &flow.seg().flags(TcpFlags::ACK));
        assert_eq!(notes(&mut script), []);
    }
}

#[test]
fn a_listener_of_one_shard_is_at_a_port_that_comes_home() {
    let ports = EphemeralPorts { first: 61_000, last: 61_063 };
    for shards in [1, 3, 4] {
        let layout = layout(shards).with_listening(Some(ports));
        let of_shard = (61_000..61_064).filter(|port| layout.shard_of_port(*port) == shards - 1);
        let sharding = Sharding { layout: layout.clone(), own: shards - 1 };
        let mut script = Script::new(Version::V1, |config| {
            config.sharding = Some(sharding);
            config.limits.listeners = 64;
        });
        let mut listen = || script.stack.listen_at(A1, ports, &Listen::default());
        let mut drawn: Vec<_> = (0..10).map(|_| listen().expect("there are more")).collect();
        // All there are, if need be.
        drawn.extend((10..of_shard.clone().count()).map(|_| listen().expect("there are more")));
        assert_eq!(listen(), Err(OpenError::PortsExhausted));
        let at: Vec<_> = drawn.iter().map(|id| script.stack.listening_at(*id).unwrap()).collect();
        let mut found: Vec<u16> = at.iter().map(SocketAddr::port).collect();
        assert!(
            shards == 1 || found.windows(2).any(|pair| pair[0] > pair[1]),
            "in no order: {found:?}"
        );
        found.sort_unstable();
        assert_eq!(found, of_shard.collect::<Vec<_>>());
        for (id, at) in drawn.into_iter().zip(at) {
            assert_eq!(at.ip(), A1);
            script.stack.close(script.now, id);
            assert_eq!(script.stack.listening_at(id), None);
        }
    }
    // Where no ports are set aside, nobody could be heard there.
    let mut script = Script::new(Version::V1, shard(0, 2));
    let drawn = script.stack.listen_at(A1, ports, &Listen::default());
    assert_eq!(drawn, Err(OpenError::PortsExhausted));
}

#[test]
fn a_listener_for_one_peer_is_none_for_others() {
    let mut script = Script::new(Version::V1, |config| config.limits.half_open = 8);
    let options = Listen { from: Some(P2), ..Listen::default() };
    script.listener = Some(script.stack.listen(at(A1, PORT), &options).unwrap());
    let stranger = Flow::new(at(P1, 5000), at(A1, PORT));
    assert!(script.send(&stranger, &stranger.syn())[0].rst());
    assert!(script.send(&stranger, &stranger.seg())[0].rst());
    let mut peer = Flow::new(at(P2, 5000), at(A1, PORT));
    let out = script.send(&peer, &peer.syn());
    assert!(out[0].is(TcpFlags::SYN | TcpFlags::ACK), "{out:?}");
    peer.hears(&out);
    peer.snd_nxt = peer.isn.wrapping_add(1);
    script.send(&peer, &peer.seg());
    let id = script.accept().expect("it is the peer");
    assert_eq!(script.info(id).remote, at(P2, 5000));
}
