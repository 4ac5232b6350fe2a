//! The stack around the connections: unknown ports, SYN floods and cookies, limits, drops, deferred
//! listeners, relays, garbage (RFC 9293 §3.10.7.1; RFC 4987; RFC 6528).

use crate::harness::{Peer, Script, Seg, ack, data, fin, pattern, rst, rst_ack, syn, syn_ack};
use mptcp_core::cap::SharedCap;
use mptcp_core::config::StackConfig;
use mptcp_core::error::{OpenError, RelayError};
use mptcp_core::stack::{Listen, Occupancy, Ready, RelayCaps};
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::time::Duration;
use mptcp_core::wire::{Checksum, IpHeader, TcpFlags};
use proptest::prelude::*;

const TS: Peer = Peer { mss: Some(1400), wscale: Some(3), sack: true, ts: true, window: 8192 };

#[test]
fn nobody_listening_means_reset_at_the_right_numbers() {
    let mut s = Script::new(|_| {});
    s.inject(syn()).expect(rst_ack(0, 1));
    s.inject(data(7, 9, 100)).expect(rst(9));
    s.inject(fin(7, 0).len(10).flags(TcpFlags::FIN)).expect(rst_ack(0, 18));
    s.inject(syn_ack()).expect(rst(1)).inject(rst(5)).expect_nothing();
    assert_eq!((s.dropped(DropReason::NoSocket), s.stack.counters().out_rsts), (5, 4));
    // A listener treats strays the same way.
    s.listen().inject(data(7, 9, 100)).expect(rst(9)).inject(syn_ack()).expect(rst(1));
    assert_eq!(s.dropped(DropReason::ListenerState), 2);
}

/// A link-local address may be written with a scope, which no packet repeats.
#[test]
fn a_listener_is_found_whatever_scope_it_was_given() {
    let mut s = Script::new(|_| {});
    s.add_leg("[fd00::1]:80", "[fd00::2]:4000", Peer::default());
    let scoped = "[fd00::1%3]:80".parse().expect("an address with a scope");
    s.listener = Some(s.stack.listen(scoped, &Listen::default()).expect("a free address"));
    s.peer_opens();
    let again = s.stack.listen("[fd00::1]:80".parse().expect("an address"), &Listen::default());
    assert_eq!(again, Err(OpenError::AddressInUse));
}

/// Requests of two listeners, one by one; one of them timed out, and one was completed.
#[test]
fn a_listener_takes_its_own_requests_along_and_no_others() {
    let mut s = Script::new(|_| {});
    s.leg().local.set_port(80);
    let mut listeners = Vec::new();
    for port in [80, 81] {
        s.leg().local.set_port(port);
        listeners.push(s.listen().listener.expect("it listens"));
    }
    s.leg().local.set_port(80);
    for n in 1..6_u16 {
        let local = format!("10.0.0.1:{}", 80 + n % 2);
        s.add_leg(&local, &format!("10.0.0.2:{}", 4000 + n), Peer::default());
    }
    for leg in 0..6 {
        let syn = s.on(leg).peer_syn();
        s.inject(syn).take();
    }
    s.on(0).inject(ack(1, 1)).expect_nothing();
    s.on(1).inject(ack(1, 1)).expect_nothing();
    s.on(2).inject(rst(1)).expect_nothing();
    assert_eq!((s.stack.occupancy().requests, s.stack.occupancy().tcbs), (3, 2));
    s.stack.close_listener(s.now, listeners[0]);
    s.flush().on(0).take_all();
    assert_eq!((s.stack.occupancy().requests, s.stack.counters().out_rsts), (2, 1));
    s.on(4).inject(ack(1, 1)).expect(rst(1));
    for leg in [3, 5] {
        s.on(leg).inject(ack(1, 1)).expect_nothing();
        assert!(s.stack.accept(listeners[1]).is_some());
    }
    s.stack.close_listener(s.now, listeners[1]);
    assert_eq!(s.stack.occupancy().requests, 0);
}

#[test]
fn stateless_replies_are_limited() {
    let mut s = Script::new(|config| config.limits.stateless_replies_per_s = 5);
    for _ in 0..20 {
        s.inject(data(7, 9, 100));
    }
    assert_eq!((s.take_all().len(), s.stack.counters().stateless_reply_limited), (5, 15));
    s.at(200).inject(data(7, 9, 100)).expect(rst(9)).inject(data(7, 9, 1)).expect_nothing();
}

/// What strangers are answered with has a limit; the end of a connection does not wait for that.
#[test]
fn the_last_acknowledgement_is_not_limited() {
    let mut s = Script::server(|config| config.limits.stateless_replies_per_s = 1, Peer::default());
    s.add_leg("10.0.0.1:81", "10.0.0.3:4000", Peer::default());
    s.inject(data(7, 9, 100)).expect(rst(9)).inject(data(7, 9, 100)).expect_nothing();
    s.on(0).close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    // The peer's FIN again may be anybody's.
    s.inject(fin(1, 2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn a_crowded_destination_costs_a_bounded_search_for_a_port() {
    let mut s = Script::new(|config| config.limits.connections = 30_000);
    let with = mptcp_core::stack::Connect {
        local: core::net::IpAddr::from([10, 0, 0, 1]),
        local_port: 0,
        remote: "10.0.0.2:4000".parse().unwrap(),
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let mut open = 0;
    let refused = loop {
        match s.stack.connect(s.now, &with) {
            Ok(_) => open += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refused, s.stack.counters().ports_exhausted), (OpenError::PortsExhausted, 1));
    // Not all 28,232 are looked at, but nearly all are found.
    assert!((27_000..28_200).contains(&open), "{open}");
}

fn flooded() -> Script {
    let mut s = Script::new(|config| config.limits.half_open = 1);
    s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
    let syn = s.listen().peer_syn();
    s.inject(syn).expect(syn_ack());
    s.on(0);
    s
}

#[test]
fn a_full_request_queue_is_answered_with_cookies_that_keep_the_options() {
    let mut s = flooded();
    s.leg().offer = TS;
    let syn = s.peer_syn();
    s.inject(syn);
    let answer = s.take();
    assert_eq!((answer.wscale, answer.sack_permitted), (Some(7), true));
    let (ours, clock) = (answer.ts.unwrap().0, s.peer_clock());
    assert_eq!((s.stack.occupancy().requests, s.stack.counters().syncookies_sent), (1, 1));
    s.at(1_000).inject(ack(1, 1).ts(clock, ours)).expect_nothing().accept();
    assert_eq!((s.state(), s.stack.counters().syncookies_recv), (State::Established, 1));
    // MSS 1400 less timestamps; the window of 182 << 3 lets one segment out; SACK works.
    s.inject(ack(1, 1).ts(clock, ours).window(182)).write(3000).expect(data(1, 1, 1388));
    s.expect_nothing();
    s.inject(data(101, 1, 10).ts(clock, ours).window(182));
    s.expect(ack(1389, 1).sack(&[(101, 111)]));
}

#[test]
fn a_cookie_without_timestamps_remembers_the_mss_only() {
    let mut s = flooded();
    let syn = s.peer_syn();
    s.inject(syn);
    let answer = s.take();
    assert_eq!((answer.wscale, answer.sack_permitted, answer.ts), (None, false, None));
    s.inject(data(1, 1, 10)).expect(ack(1, 11)).accept().read(10);
    s.write(2000).expect(data(1, 11, 1460));
}

#[test]
fn a_wrong_or_old_cookie_is_reset() {
    let mut s = flooded();
    let syn = s.peer_syn();
    s.inject(syn).take();
    s.inject(ack(1, 9_999)).expect(rst(9_999)).inject(ack(2, 1)).expect(rst(1));
    assert_eq!((s.dropped(DropReason::SynCookie), s.stack.counters().syncookies_failed), (2, 2));
    s.skip_to(200_000);
    s.inject(ack(1, 1)).expect(rst(1));
    assert_eq!(s.stack.occupancy().tcbs, 0);
}

#[test]
fn a_full_accept_queue_keeps_the_request_until_there_is_room() {
    let mut s = Script::new(|config| config.limits.backlog = 1);
    s.listen();
    let syn = s.peer_syn();
    s.inject(syn).expect(syn_ack()).inject(ack(1, 1));
    s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
    let syn = s.peer_syn();
    s.inject(syn).expect(syn_ack()).inject(ack(1, 1)).expect_nothing();
    assert_eq!(s.dropped(DropReason::AcceptQueueFull), 1);
    // The SYN/ACK comes again, and with it the peer's ACK.
    s.on(0).accept().on(1).until(1_000).expect(syn_ack()).inject(ack(1, 1)).accept();
    assert_eq!(s.state(), State::Established);
}

/// The peer takes the connection for established, and may wait for us to speak.
#[test]
fn who_never_finds_room_in_the_accept_queue_is_reset() {
    for closes in [false, true] {
        let mut s = Script::new(|config| {
            config.limits.backlog = 1;
            config.tcp.syn_retries = 1;
        });
        s.listen();
        let syn = s.peer_syn();
        s.inject(syn).expect(syn_ack()).inject(ack(1, 1));
        s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
        let syn = s.peer_syn();
        s.inject(syn).expect(syn_ack()).inject(ack(1, 1)).expect_nothing();
        if closes {
            let listener = s.listener.take().unwrap();
            s.stack.close_listener(s.now, listener);
            s.flush().on(0).expect(rst_ack(1, 1)).on(1).expect(rst_ack(1, 1));
        } else {
            s.until(1_000).expect(syn_ack()).until(3_000).expect(rst_ack(1, 1));
        }
        assert_eq!(s.stack.occupancy().requests, 0);
    }
}

#[test]
fn the_connection_limit_holds_both_ways() {
    let mut s = Script::new(|config| config.limits.connections = 1);
    s.listen().peer_opens();
    s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
    let syn = s.peer_syn();
    s.inject(syn).expect(syn_ack()).inject(ack(1, 1)).expect_nothing();
    assert_eq!(s.stack.occupancy().tcbs, 1);
    let with = mptcp_core::stack::Connect {
        local: [10, 0, 0, 1].into(),
        local_port: 0,
        remote: "10.0.0.9:80".parse().unwrap(),
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    assert_eq!(s.stack.connect(s.now, &with), Err(OpenError::LimitReached));
}

/// Whoever was closed and does not finish would keep others out for a quarter of an hour.
#[test]
fn who_was_closed_makes_room_for_who_comes() {
    let changes: [fn(&mut StackConfig); 2] =
        [|config| config.limits.connections = 2, |config| config.limits.tcbs = 2];
    for change in changes {
        let mut s = Script::new(change);
        s.listen().peer_opens().close().expect(fin(1, 1));
        s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default()).peer_opens();
        s.add_leg("10.0.0.1:80", "10.0.0.4:1", Peer::default());
        let syn_of_third = s.peer_syn();
        s.inject(syn_of_third).expect(syn_ack()).inject(ack(1, 1));
        s.on(0).expect(rst_ack(2, 1)).expect_nothing().on(2).accept();
        // Those that are held stay.
        let with = mptcp_core::stack::Connect {
            local: [10, 0, 0, 1].into(),
            local_port: 0,
            remote: "10.0.0.9:80".parse().unwrap(),
            mptcp: false,
            timeout: None,
            user_data: 0,
        };
        assert_eq!(s.stack.connect(s.now, &with), Err(OpenError::LimitReached));
        s.on(1).close().expect(fin(1, 1)).on(2).close().expect(fin(1, 1));
        s.add_leg("10.0.0.1:5000", "10.0.0.9:80", Peer::default()).connect().expect(syn());
        s.on(1).expect(rst_ack(2, 1)).expect_nothing();
        assert_eq!((s.stack.counters().tcp_abort_on_memory, s.stack.occupancy().tcbs), (2, 2));
    }
}

#[test]
fn initial_sequence_numbers_follow_the_clock() {
    let mut s = Script::new(|_| {});
    s.listen();
    let mut last = None;
    for round in 0..50 {
        s.at(round * 7);
        let syn = s.peer_syn();
        s.inject(syn).expect(syn_ack()).inject(rst(1));
        let iss = s.leg().iss;
        if let Some(before) = last.replace(iss) {
            assert_eq!(iss.since(before), 7_000 / 4);
        }
    }
}

// Drops.

#[test]
fn every_malformed_packet_has_its_reason() {
    let mut s = Script::server(|_| {}, Peer::default());
    let good = s.packet(&data(1, 1, 10));
    let mut cases: Vec<(DropReason, Vec<u8>)> = vec![
        (DropReason::IpMalformed, vec![]),
        (DropReason::IpMalformed, good[..19].to_vec()),
        (DropReason::IpMalformed, good[..good.len() - 1].to_vec()),
    ];
    let mut change = |reason, at: usize, value: u8, fix_ip: bool, fix_tcp: bool| {
        let mut bytes = good.clone();
        bytes[at] = value;
        if fix_ip {
            bytes[10..12].fill(0);
            let mut sum = Checksum::new();
            sum.add_bytes(&bytes[..20]);
            bytes[10..12].copy_from_slice(&sum.finish().to_be_bytes());
        }
        if fix_tcp {
            let sum = {
                bytes[36..38].fill(0);
                let (src, dst) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
                mptcp_core::wire::checksum::tcp_checksum(src, dst, &bytes[20..])
            };
            bytes[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        cases.push((reason, bytes));
    };
    change(DropReason::IpMalformed, 0, 0x55, false, false);
    change(DropReason::IpMalformed, 8, 1, false, false);
    change(DropReason::IpFragment, 6, 0x20, true, false);
    change(DropReason::NotOurs, 19, 77, true, false);
    change(DropReason::Protocol, 9, 99, true, false);
    change(DropReason::TcpChecksum, 45, 0xee, false, false);
    change(DropReason::TcpMalformed, 32, 0x40, false, true);
    change(DropReason::TcpMalformed, 32, 0xf0, false, true);
    for (reason, bytes) in cases {
        let before = s.dropped(reason);
        let all: u64 = DropReason::ALL.iter().map(|r| s.dropped(*r)).sum();
        s.inject_bytes(&bytes).expect_nothing();
        assert_eq!(s.dropped(reason), before + 1, "{reason:?}: {bytes:x?}");
        let now: u64 = DropReason::ALL.iter().map(|r| s.dropped(*r)).sum();
        assert_eq!(now, all + 1, "exactly one reason");
    }
    s.inject_bytes(&good).expect(ack(1, 11));
}

/// A tunnel on the way cut the segment of a peer that lets it.
#[test]
fn a_segment_in_fragments_is_taken_once_it_is_whole() {
    let mut s = Script::server(|_| {}, Peer::default());
    let whole = s.packet(&data(1, 1, 100));
    let part = |range: core::ops::Range<usize>, more: bool| {
        let header = IpHeader::parse(&whole).expect("a packet");
        let mut part = [&whole[..20], &whole[20 + range.start..20 + range.end]].concat();
        let len = (part.len() as u16).to_be_bytes();
        part[2..4].copy_from_slice(&len);
        let more = if more { 0x2000 } else { 0 };
        let field = (range.start / 8) as u16 | more;
        part[6..8].copy_from_slice(&field.to_be_bytes());
        part[10..12].fill(0);
        let sum = !mptcp_core::wire::checksum::sum(&part[..20]);
        part[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(!header.fragment && IpHeader::parse(&part).is_ok_and(|header| header.fragment));
        part
    };
    let len = whole.len() - 20;
    s.inject_bytes(&part(64..len, false)).expect_nothing();
    s.inject_bytes(&part(0..64, true)).expect(ack(1, 101));
    assert_eq!(s.stack.counters().ip_reasm_oks, 1);
    // A header of TCP in two pieces is an attack on filters (RFC 1858).
    s.inject_bytes(&part(0..16, true)).expect_nothing();
    assert_eq!(s.stack.counters().ip_reasm_malformed, 1);
}

// Deferred listeners.

#[test]
fn a_deferred_listener_answers_when_the_application_decides() {
    let mut s = Script::new(|_| {});
    s.listen_with(Listen { deferred: true, ..Listen::default() });
    let syn = s.peer_syn();
    s.inject(syn.clone()).expect_nothing().accept();
    let (request, leg) = (s.id(), s.leg());
    let ends = Some((leg.peer, leg.local));
    assert_eq!(s.stack.deferred_addresses(request), ends);
    s.at(1_000).inject(syn).inject(ack(1, 1)).expect_nothing();
    assert!(s.stack.accept_deferred(s.now, request));
    s.flush().expect(syn_ack()).inject(ack(1, 1)).accept();
    assert_eq!(s.state(), State::Established);
    assert!(!s.stack.accept_deferred(s.now, request), "the id is stale");
}

#[test]
fn a_refused_request_is_reset_and_an_undecided_one_forgotten() {
    let mut s = Script::new(|config| config.limits.backlog = 1);
    s.listen_with(Listen { deferred: true, ..Listen::default() });
    let syn = s.peer_syn();
    s.inject(syn.clone()).accept();
    let request = s.id();
    assert!(s.stack.refuse_deferred(s.now, request));
    s.flush().expect(rst_ack(0, 1));
    assert_eq!(s.stack.occupancy(), Occupancy::default());
    // No room to wait for a decision: dropped, and offered when the SYN comes again.
    s.inject(syn.clone());
    s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
    s.inject(syn).expect_nothing();
    assert_eq!((s.dropped(DropReason::AcceptQueueFull), s.stack.occupancy().requests), (1, 1));
    s.at(60_001);
    assert_eq!(s.stack.occupancy(), Occupancy::default());
}

// Relays.

/// Leg 0 is the inner one (accepted), leg 1 the outer one (connected); both coupled.
fn relayed() -> Script {
    relayed_with(|_| {})
}

fn relayed_with(change: impl FnOnce(&mut StackConfig)) -> Script {
    let mut s = Script::server(change, Peer::default());
    s.add_leg("10.0.0.1:5000", "10.0.0.9:80", Peer::default());
    s.connect().expect(syn()).peer_answers().expect(ack(1, 1));
    let (inner, outer) = (s.legs[0].id.unwrap(), s.legs[1].id.unwrap());
    s.stack.relay(s.now, inner, outer).unwrap();
    s.flush();
    s
}

#[test]
fn a_leg_that_was_closed_is_not_coupled() {
    for closed in [0, 1] {
        let mut s = Script::server(|_| {}, Peer::default());
        s.add_leg("10.0.0.1:5000", "10.0.0.9:80", Peer::default());
        s.connect().expect(syn()).peer_answers().expect(ack(1, 1));
        let (inner, outer) = (s.legs[0].id.unwrap(), s.legs[1].id.unwrap());
        s.on(closed).close().expect(fin(1, 1));
        assert_eq!(s.stack.relay(s.now, inner, outer), Err(RelayError::InvalidSocket));
        assert_eq!(s.stack.occupancy().relays, 0);
    }
}

#[test]
fn a_relay_moves_data_and_half_closes_both_ways() {
    let mut s = relayed();
    s.on(0).inject(data(1, 1, 500)).expect(ack(1, 501)).on(1).expect(data(1, 1, 500));
    s.inject(data(1, 501, 700)).expect(ack(501, 701)).on(0).expect(data(1, 501, 700));
    s.inject(fin(501, 701)).expect(ack(701, 502)).on(1).expect(fin(501, 701));
    // Half-closed: the other way goes on.
    s.inject(data(701, 502, 10)).expect(ack(502, 711)).on(0).expect(data(701, 502, 10));
    s.inject(ack(502, 711)).on(1).inject(fin(711, 502)).expect(ack(502, 712));
    s.on(0).expect(fin(711, 502)).inject(ack(502, 712)).expect_nothing();
    for leg in 0..2 {
        assert!(s.on(leg).ready().contains(Ready::CLOSED));
        assert_eq!(s.stack.error(s.id()), None);
    }
}

/// Lengths of what the outer leg sends when the inner one receives segments with these at once.
fn passed_on(lens: &[usize]) -> Vec<usize> {
    let mut s = relayed();
    s.on(1).inject(ack(1, 1).window(60_000));
    let mut seq = 1;
    let mut burst = Vec::new();
    for &len in lens {
        burst.push(data(seq, 1, len));
        seq += len as u32;
    }
    s.on(0).inject_burst(&burst).on(1).take_all().iter().map(|seg| seg.len).collect()
}

/// To fill up a segment that is nearly full would have all behind it copied.
#[test]
fn a_relay_cuts_up_no_segment_for_a_little_room_in_the_one_before() {
    for lens in [[1460, 1460, 1300, 1460, 1460], [1300, 1400, 1350, 1290, 1310]] {
        assert_eq!(passed_on(&lens), lens);
    }
    assert_eq!(passed_on(&[1460, 800, 1460, 1460]), [1460, 1460, 1460, 800]);
    assert_eq!(passed_on(&[1300, 200, 100]), [1460, 140]);
}

/// What a leg has missed while it was in a relay it hears when the other one is taken away.
#[test]
fn a_leg_that_is_left_alone_hears_what_it_can_do() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.add_leg("10.0.0.1:5000", "10.0.0.9:80", Peer::default());
    s.connect().expect(syn()).peer_answers().expect(ack(1, 1));
    let (inner, outer) = (s.legs[0].id.unwrap(), s.legs[1].id.unwrap());
    // Its application waits for data, and for room.
    s.on(0).read_blocks();
    let mut written = 0;
    loop {
        match s.stack.send(s.now, inner, &pattern(1 + written, 10_000)) {
            Ok(sent) => written += sent as u32,
            Err(error) => break assert_eq!(error, mptcp_core::error::SendError::WouldBlock),
        }
    }
    s.flush();
    s.ready();
    // In the relay what it wrote is acknowledged, and what it received stays: the outer leg has no room.
    s.on(1).inject(ack(1, 1).window(0));
    s.stack.relay(s.now, inner, outer).unwrap();
    s.flush();
    let mut acked = 1;
    while acked <= written {
        let last = s.on(0).take_all().pop().expect("it goes on");
        acked = last.seq + last.len as u32;
        s.inject(ack(1, acked));
    }
    let mut seq = 1;
    for _ in 0..250 {
        s.inject(data(seq, acked, 1460));
        seq += 1460;
    }
    s.take_all();
    assert_eq!(s.ready() & (Ready::READABLE | Ready::WRITABLE), Ready::empty());
    s.stack.abort(s.now, outer);
    s.flush();
    assert_eq!(s.ready(), Ready::READABLE | Ready::WRITABLE);
}

#[test]
fn a_relay_that_waits_for_a_rate_takes_no_timers_turn() {
    let mut s = relayed();
    let caps = RelayCaps { to_outer: vec![SharedCap::new(1_000)], ..RelayCaps::default() };
    let inner = s.legs[0].id.unwrap();
    assert!(s.stack.set_relay_caps(s.now, inner, &caps));
    s.on(1).inject(ack(1, 1).window(60_000)).expect_nothing();
    // The third one's place is due when the first two are paid for: after 2.92 s.
    s.on(0).inject_burst(&[data(1, 1, 1460), data(1461, 1, 1460)]).inject(data(2921, 1, 1460));
    s.take_all();
    assert_eq!(s.on(1).take_all().len(), 2);
    s.inject(ack(1, 2921).window(60_000)).expect_nothing();
    s.add_leg("10.0.0.1:80", "10.0.0.4:4000", Peer::default()).peer_opens().skip_to(2_900);
    s.write(100).expect(data(1, 1, 100)).expect_nothing();
    // By now its peer should have answered.
    s.now = s.now + Duration::from_secs(3);
    let _ = s.stack.handle_timeouts(s.now, 1);
    s.flush().expect(data(1, 1, 100));
    assert_eq!(s.on(1).take_all().len(), 1);
}

#[test]
fn a_reset_passes_through_a_relay_both_ways() {
    for (hit, other) in [(0, 1), (1, 0)] {
        let mut s = relayed();
        s.on(hit).inject(rst(1)).on(other).expect(rst_ack(1, 1));
        assert_eq!(s.stack.counters().relay_resets, 1);
        for leg in 0..2 {
            assert!(s.on(leg).ready().contains(Ready::CLOSED));
            let id = s.id();
            s.stack.release(id);
        }
        assert_eq!((s.stack.occupancy().tcbs, s.stack.occupancy().relays), (0, 0));
    }
}

#[test]
fn a_relay_takes_no_more_than_its_other_leg_can() {
    let mut s = relayed();
    s.on(1).inject(ack(1, 1).window(0));
    let mut seq = 1;
    for _ in 0..2_000 {
        s.on(0).inject(data(seq, 1, 1460));
        if let Some(got) = s.take_all().pop() {
            seq = got.ack;
            if got.window == Some(0) {
                break;
            }
        } else {
            seq += 1460;
        }
    }
    // A send buffer (256 KiB and thrice the window) and a receive buffer, then the window is shut.
    assert!((200_000..700_000).contains(&seq), "{seq}");
    // The outer leg takes it again: everything arrives, and the inner window opens.
    s.on(1).inject(ack(1, 1));
    let mut outer = 1;
    for _ in 0..2_000 {
        let sent = s.on(1).take_all();
        let Some(last) = sent.last() else { break };
        outer = last.seq + last.len as u32;
        s.inject(ack(1, outer));
    }
    assert_eq!(outer, seq);
    let update = s.on(0).take_all().pop().unwrap();
    assert!(s.window_of(&update) > 64 << 10);
}

/// Octet by octet, and the server acknowledges nothing: each that has left pins the buffer it came in.
#[test]
fn a_relay_counts_what_its_other_leg_pins() {
    let mut s = relayed_with(|config| config.tcp.nagle = false);
    s.on(1).inject(ack(1, 1).window(60_000));
    let mut sent = 0;
    for n in 0..4_000 {
        s.on(0).inject(data(1 + n, 1, 1)).take_all();
        sent += s.on(1).take_all().len();
    }
    // 256 KiB and thrice the first window, at half the memory of each.
    assert!((100..400).contains(&sent), "{sent} segments");
    // All of it arrives.
    let mut outer = 1 + sent as u32;
    while outer < 4_001 {
        s.on(1).inject(ack(1, outer));
        let last = s.take_all().pop().expect("it goes on");
        outer = last.seq + last.len as u32;
    }
}

// Garbage.

fn any_segment() -> impl Strategy<Value = (Seg, u8)> {
    let near = prop_oneof![0..4_u32, 1_000..1_010_u32, any::<u32>()];
    let fields = (any::<u8>(), near.clone(), near.clone(), 0..40_usize, any::<u16>());
    let blocks = prop::collection::vec((near.clone(), near), 0..3);
    let ts = prop::option::of((any::<u32>(), any::<u32>()));
    (fields, blocks, ts, any::<u8>()).prop_map(|((flags, seq, ack, len, window), sack, ts, act)| {
        let seg = crate::harness::syn().flags(TcpFlags::from_bits_retain(flags)).len(len);
        let seg = Seg { seq, ack, sack, ..seg }.window(window);
        (ts.map_or(seg.clone(), |(val, ecr)| seg.ts(val, ecr)), act)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever arrives in whatever state: no panic, and after everything ended no trace.
    #[test]
    fn garbage_leaves_nothing_behind(
        segments in prop::collection::vec(any_segment(), 1..60),
        active in any::<bool>(),
        ts in any::<bool>(),
    ) {
        let peer = Peer { ts, ..Peer::default() };
        let mut s = if active {
            Script::client(|_| {}, peer, 10)
        } else {
            Script::server(|_| {}, peer)
        };
        let mut ms = s.ms();
        for (seg, act) in segments {
            s.inject(seg);
            let id = s.id();
            match act % 16 {
                0 => { s.stack.shutdown_write(s.now, id); }
                1 => { let _ = s.stack.send(s.now, id, &[0; 100]); }
                2 => { let _ = s.stack.recv(s.now, id, &mut [0; 50]); }
                3 => s.stack.close(s.now, id),
                4 => { ms += 300; s.skip_until_quiet(ms); }
                _ => {}
            }
            s.drain();
        }
        let id = s.id();
        s.stack.abort(s.now, id);
        s.stack.release(id);
        while let Some(id) = s.listener.and_then(|listener| s.stack.accept(listener)) {
            s.stack.abort(s.now, id);
        }
        s.drain();
        s.skip_until_quiet(ms + 400_000);
        while let Some(id) = s.listener.and_then(|listener| s.stack.accept(listener)) {
            s.stack.abort(s.now, id);
        }
        if let Some(listener) = s.listener {
            s.stack.close_listener(s.now, listener);
        }
        s.drain();
        prop_assert_eq!(s.stack.occupancy(), Occupancy::default());
        prop_assert_eq!((s.pool.in_use(), s.stack.counters().internal_errors), (0, 0));
    }
}
