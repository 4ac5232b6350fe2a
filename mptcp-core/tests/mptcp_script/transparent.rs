//! A listener for addresses that are not the stack's: the SYN waits for a decision, peers are asked to join
//! our own addresses (C flag and `ADD_ADDR`, RFC 8684 §3.1), and nothing else that passes by is touched.

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::buf::PortId;
use mptcp_core::config::PathManagerKind;
use mptcp_core::error::OpenError;
use mptcp_core::stack::{Listen, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{AddAddr, CapableFlags, MptcpOption, TcpFlags, Version};

const H: CapableFlags = CapableFlags::HMAC;
const C: CapableFlags = CapableFlags::DENY_JOIN;
/// Somebody else's.
const FAR: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 7));
const FAR_PORT: u16 = 443;
const OPTIONS: Listen = Listen {
    mptcp: true,
    deferred: true,
    only_text: false,
    or_at_once: true,
    fast_open: 0,
    from: None,
    user_data: 0,
};

fn between(version: Version) -> Script {
    let mut script = Script::serving(&[Version::V0, Version::V1], version, |config| {
        config.mptcp.path_manager = PathManagerKind::Fullmesh;
        config.mptcp.join_port = Some(4433);
        for (local, mtu) in config.addresses.iter_mut().zip([1500, 1400]) {
            local.mtu = mtu;
        }
    });
    let ports = [PortId(9), PortId::ROUTED];
    script.listener = Some(script.stack.listen_transparent(&ports, &OPTIONS).expect("free"));
    script
}

fn flow(port: u16) -> Flow {
    Flow::new(at(P1, port), at(FAR, FAR_PORT))
}

/// The connection of a request that waits, its SYN/ACK out.
fn opened(script: &mut Script, flow: &mut Flow, request: SocketId) -> (Out, SocketId) {
    let id = script.stack.open_deferred(script.now, request).expect("there is room");
    script.remember(id);
    let out = script.out();
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((syn_ack.src, syn_ack.dst), (flow.local, flow.peer));
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(1);
    assert_eq!(syn_ack.ack, flow.snd_nxt);
    (syn_ack.clone(), id)
}

fn announced(out: &[Out]) -> Vec<(IpAddr, Option<u16>)> {
    let of = |o: &Out| -> Vec<AddAddr> {
        let told = |option| match option {
            MptcpOption::AddAddr(raw) => raw.decode(o.version),
            _ => None,
        };
        o.mptcp().into_iter().filter_map(told).collect()
    };
    out.iter().flat_map(of).map(|told| (told.addr, told.port)).collect()
}

#[test]
fn a_syn_waits_and_joins_are_asked_to_our_own_addresses() {
    both(|version| {
        let mut script = between(version);
        let mut first = flow(40_000);
        let syn = first.syn().opt(&offer(version, H));
        assert!(script.send(&first, &syn).is_empty(), "nobody has decided");
        let request = script.accept().expect("it is offered");
        let addresses = script.stack.deferred_addresses(request);
        assert_eq!(addresses, Some((first.peer, first.local)));
        let (syn_ack, id) = opened(&mut script, &mut first, request);
        let flags = syn_ack.capable().expect("MPTCP").flags;
        assert_eq!(flags.contains(C), version == Version::V1, "{flags:?}");
        let mss = syn_ack.tcp_options().into_iter().find_map(|option| match option {
            mptcp_core::wire::TcpOption::MaxSegmentSize(mss) => Some(mss),
            _ => None,
        });
        assert_eq!(mss, Some(1360), "of the port's smallest MTU");
        let keys = Keys::of(version, &syn_ack, false);
        let mut out = script.send(&first, &first.seg().opt(&keys.third()));
        out.extend(script.send_data(&keys, &mut first, 0, 0, &stream(0, 100)));
        script.expect_stream(id, 0, 100);
        // Version 0 says it once and hears no echo, version 1 one after the other.
        out.extend(script.advance(20_000));
        let told = announced(&out);
        assert!(told.contains(&(A1, Some(4433))), "{told:?}");
        assert!(version == Version::V1 || told.contains(&(A2, Some(4433))), "{told:?}");
        // Nobody listens there, and nobody need.
        let mut join = script.join(&keys, at(P2, 5000), at(A2, 4433));
        let out = script.send_data(&keys, &mut join, 100, 0, &stream(100, 50));
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        script.expect_stream(id, 100, 50);
        assert_eq!(script.info(id).local, at(FAR, FAR_PORT));
    });
}

#[test]
fn whoever_decides_may_refuse_or_say_nothing() {
    let mut script = between(Version::V1);
    let syn = flow(40_000).syn().opt(&offer(Version::V1, H));
    assert!(script.send(&flow(40_000), &syn).is_empty());
    let request = script.accept().expect("it is offered");
    assert!(script.stack.ignore_deferred(request) && !script.stack.ignore_deferred(request));
    assert!(script.out().is_empty());
    // As another request.
    assert!(script.send(&flow(40_000), &syn).is_empty());
    let request = script.accept().expect("it is offered again");
    assert!(script.stack.refuse_deferred(script.now, request));
    let out = script.out();
    let [rst] = out.as_slice() else { panic!("{out:?}") };
    assert!(rst.rst() && rst.src == at(FAR, FAR_PORT), "{rst:?}");
}

/// Whether its cookie is good only the peer's own server could say: the text comes again.
#[test]
fn text_of_a_syn_is_not_taken() {
    let mut script = between(Version::V1);
    let mut first = flow(40_000);
    assert!(script.send(&first, &first.syn().data(&stream(0, 20))).is_empty());
    let request = script.accept().expect("it is offered");
    assert_eq!(script.stack.deferred_text(request), None);
    let (_, id) = opened(&mut script, &mut first, request);
    script.send(&first, &first.seg().data(&stream(0, 20)));
    script.expect_stream(id, 0, 20);
}

#[test]
fn a_full_table_answers_at_once_with_the_flag() {
    let mut script = between(Version::V1);
    let others: Vec<SocketId> = (0..16)
        .map(|n| {
            assert!(script.send(&flow(n + 1), &flow(n + 1).syn()).is_empty());
            script.accept().expect("it waits")
        })
        .collect();
    // Half of the table waits: who is given out counts as well until it is proven.
    let mut first = flow(1);
    opened(&mut script, &mut first, others[0]);
    assert!(script.send(&flow(50), &flow(50).syn())[0].is(TcpFlags::ACK));
    script.send(&first, &first.seg());
    assert!(script.send(&flow(51), &flow(51).syn()).is_empty(), "there is a place");
    script.accept().expect("it waits");
    for n in 100..130 {
        let out = script.send(&flow(n), &flow(n).syn().opt(&offer(Version::V1, H)));
        let [syn_ack] = out.as_slice() else { panic!("{n}: {out:?}") };
        assert!(syn_ack.capable().expect("MPTCP").flags.contains(C), "{syn_ack:?}");
    }
    assert!(script.counters().syncookies_sent > 0);
    let mut last = flow(200);
    let out = script.send(&last, &last.syn().opt(&offer(Version::V1, H)));
    last.hears(&out);
    last.snd_nxt = last.isn.wrapping_add(1);
    let keys = Keys::of(Version::V1, &out[0], false);
    script.send(&last, &last.seg().opt(&keys.third()));
    let accepted = script.accept().expect("by a cookie");
    assert_eq!(script.info(accepted).local, at(FAR, FAR_PORT));
    assert_eq!(script.info(accepted).mptcp, Some(1));
}

/// What our own exits say, what comes in elsewhere, and what no host behind a router has.
#[test]
fn nothing_else_is_touched() {
    let mut script = between(Version::V1);
    let ours = Flow::new(at(A2, 40_000), at(FAR, FAR_PORT));
    let nobodies = ["127.0.0.1", "169.254.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"];
    let nobodies = nobodies.map(|addr| Flow::new(at(P1, 9), at(addr.parse().unwrap(), 80)));
    for flow in [ours].iter().chain(&nobodies) {
        assert!(script.send(flow, &flow.syn()).is_empty());
        assert!(script.accept().is_none());
    }
    let dropped = |script: &Script| script.counters().dropped(DropReason::NotOurs);
    assert_eq!(dropped(&script), 6);
    // An address of ours is no gap in the net.
    let own = Flow::new(at(P1, 40_000), at(A1, FAR_PORT));
    assert!(script.send(&own, &own.syn())[0].rst());
    // As from the host itself: it does not know the connection either.
    let stray = flow(5);
    assert!(script.send(&stray, &stray.seg())[0].rst());
    let taken = script.stack.listen_transparent(&[PortId(9)], &OPTIONS);
    assert_eq!(taken, Err(OpenError::AddressInUse));
    let listener = script.listener.take().expect("it listens");
    script.stack.close(script.now, listener);
    let late = flow(40_000);
    assert!(script.send(&late, &late.syn()).is_empty());
    assert_eq!(dropped(&script), 7);
    // By a port where nobody listens for it.
    script.listener = Some(script.stack.listen_transparent(&[PortId(9)], &OPTIONS).expect("free"));
    assert!(script.send(&late, &late.syn()).is_empty());
    assert_eq!(dropped(&script), 8);
}

#[test]
fn connections_outlive_their_listener() {
    let mut script = between(Version::V1);
    let mut first = flow(40_000);
    script.send(&first, &first.syn());
    let request = script.accept().expect("it is offered");
    let (_, id) = opened(&mut script, &mut first, request);
    script.send(&first, &first.seg());
    let listener = script.listener.take().expect("it listens");
    script.stack.close(script.now, listener);
    let out = script.send(&first, &first.seg().data(&stream(0, 20)));
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    script.expect_stream(id, 0, 20);
    let out = script.write(id, 0, 20);
    assert!(out.iter().any(|o| o.is(TcpFlags::ACK) && o.payload.len() == 20), "{out:?}");
}

/// As IPv4: nothing but the port that is told, which has no room.
#[test]
fn ipv6_waits_and_is_asked_to_join_our_own_addresses() {
    let far: IpAddr = "2001:db8:7::7".parse().unwrap();
    let (own, peer): (IpAddr, IpAddr) =
        ("2001:db8:1::1".parse().unwrap(), "2001:db8:2::2".parse().unwrap());
    let mut script = Script::serving(&[Version::V0, Version::V1], Version::V1, |config| {
        config.mptcp.path_manager = PathManagerKind::Fullmesh;
        config.mptcp.join_port = Some(4433);
        for local in &mut config.addresses {
            (local.addr, local.mtu) = (own, 1400);
        }
        config.addresses.truncate(1);
    });
    let ports = [PortId(9), PortId::ROUTED];
    script.listener = Some(script.stack.listen_transparent(&ports, &OPTIONS).expect("free"));
    let mut first = Flow::new(at(peer, 40_000), at(far, FAR_PORT));
    assert!(script.send(&first, &first.syn().opt(&offer(Version::V1, H))).is_empty());
    let request = script.accept().expect("it is offered");
    let (syn_ack, id) = opened(&mut script, &mut first, request);
    assert!(syn_ack.capable().expect("MPTCP").flags.contains(C));
    let keys = Keys::of(Version::V1, &syn_ack, false);
    let mut out = script.send(&first, &first.seg().opt(&keys.third()));
    out.extend(script.send_data(&keys, &mut first, 0, 0, &stream(0, 100)));
    script.expect_stream(id, 0, 100);
    out.extend(script.advance(20_000));
    assert!(announced(&out).contains(&(own, None)), "{out:?}");
    let mut join = script.join(&keys, at(peer, 5000), at(own, 4433));
    script.send_data(&keys, &mut join, 100, 0, &stream(100, 50));
    script.expect_stream(id, 100, 50);
}

/// A peer of version 0 knows no other address: its second way must not be shut while we only drain.
#[test]
fn joins_to_the_server_outlive_the_listener() {
    both(|version| {
        let mut script = between(version);
        let mut first = flow(40_000);
        script.send(&first, &first.syn().opt(&offer(version, H)));
        let request = script.accept().expect("it is offered");
        let (syn_ack, id) = opened(&mut script, &mut first, request);
        let keys = Keys::of(version, &syn_ack, false);
        script.send(&first, &first.seg().opt(&keys.third()));
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        // Another server's address is none of this connection, and has no id that would name it.
        let mut other = Flow::new(at(P2, 5001), at("198.51.100.8".parse().unwrap(), FAR_PORT));
        let out = script.join_syn(&keys, &mut other, false);
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
        let listener = script.listener.take().expect("it listens");
        script.stack.close(script.now, listener);
        assert!(script.join_syn(&keys, &mut other, false).is_empty());
        let mut join = script.join(&keys, at(P2, 5000), at(FAR, FAR_PORT));
        let out = script.send_data(&keys, &mut join, 100, 0, &stream(100, 50));
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        script.expect_stream(id, 100, 50);
    });
}
