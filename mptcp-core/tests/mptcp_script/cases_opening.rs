//! The cases of a fallback that a handshake decides; `hNN_...` is a row of the table "Fallback
//! reasons" in `docs/conformance.md` (RFC 8684 §3.1, §3.2, §3.7).

use crate::cases::*;
use crate::harness::*;
use mptcp_core::config::{ChecksumPolicy, PathManagerKind};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::key::KeyPair;
use mptcp_core::stack::{Connect, Ready, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{CapableForm, MpJoin, MptcpOption, TcpFlags, Version, reset_reason};

fn server() -> Script {
    watched(Script::server(V))
}

fn client() -> Script {
    watched(Script::new(V, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh))
}

#[test]
fn h01_a_peer_without_mptcp() {
    let mut script = client();
    let (mut flow, id, _) = connect(&mut script);
    script.answer(&mut flow, &[]);
    fell_back(&script, id, FallbackReason::SynAckWithoutCapable);
    assert_eq!(script.counters().mp_capable_fallback_syn_ack, 1);
}

#[test]
fn h02_the_option_is_taken_from_the_syn() {
    let mut script = server();
    let (_, id) = opened(&mut script, &[], &[]);
    fell_back(&script, id, FallbackReason::SynWithoutCapable);
    assert_eq!(script.counters().mp_capable_syn_rx, 0);
}

/// The server learns it from the third ACK, in which the client, which fell back, offers nothing.
#[test]
fn h03_the_option_is_taken_from_the_syn_ack() {
    let mut script = server();
    let (_, id) = opened(&mut script, &syn_option(1), &[]);
    fell_back(&script, id, FallbackReason::AckWithoutCapable);
    assert_eq!(script.counters().mp_capable_fallback_ack, 1);
}

/// The client believes in MPTCP and maps its data; without its keys that is asked about, and in the
/// end taken as TCP.
#[test]
fn h04_the_option_is_taken_from_the_third_ack() {
    let mut script = server();
    let (flow, syn_ack) = script.half_open(4000, H);
    let CapableForm::Key(stack) = syn_ack.capable().expect("MP_CAPABLE").form else { panic!() };
    let keys = Keys { version: V, peer: PEER_KEY, stack, checksum: false };
    let data = flow.seg().dss(keys.data(&flow, 0, 0, b"GET")).data(b"GET");
    for _ in 0..5 {
        script.send(&flow, &data);
        script.advance(2_000);
    }
    let id = script.accept().expect("in the end");
    fell_back(&script, id, FallbackReason::AckWithoutCapable);
    assert!(script.counters().dropped(DropReason::MpCapableMissing) >= 3);
    assert_eq!(script.read(id).expect("the data"), b"GET");
}

#[test]
fn h05_syns_with_the_option_are_lost() {
    let mut script = client();
    let (mut flow, id, _) = connect(&mut script);
    let later = script.advance(20_000);
    let offers: Vec<bool> = later.iter().map(|o| o.capable().is_some()).collect();
    assert_eq!(offers, [true, true, false, false], "{later:?}");
    script.answer(&mut flow, &[]);
    fell_back(&script, id, FallbackReason::CapableSynUnanswered);
    let counters = script.counters();
    assert_eq!((counters.mp_capable_syn_tx_drop, counters.blackhole), (1, 1));
}

#[test]
fn h06_a_syn_with_the_option_is_reset() {
    let mut script = client();
    let (mut flow, id, syn) = connect(&mut script);
    let rst = flow.seg().seq(0).acks(flow.rcv_nxt).flags(TcpFlags::RST | TcpFlags::ACK);
    let out = script.send(&flow, &rst);
    let [again] = out.as_slice() else { panic!("one SYN more: {out:?}") };
    assert!(again.flags == TcpFlags::SYN && again.mptcp().is_empty(), "{again:?}");
    assert_eq!((again.src, again.dst, again.seq), (syn.src, syn.dst, syn.seq));
    assert_eq!(script.counters().mp_capable_syn_tx_reset, 1);
    script.answer(&mut flow, &[]);
    fell_back(&script, id, FallbackReason::CapableSynReset);
    assert_eq!((script.counters().attempt_fails, script.counters().blackhole), (0, 1));
    let out = script.write(id, 0, 10);
    assert_eq!(out[0].payload, stream(0, 10));
}

/// A closed port costs one SYN more, and is refused as ever.
#[test]
fn h06_a_closed_port_is_still_refused() {
    let mut script = client();
    let (flow, id, _) = connect(&mut script);
    let rst = flow.seg().seq(0).acks(flow.rcv_nxt).flags(TcpFlags::RST | TcpFlags::ACK);
    script.send(&flow, &rst);
    assert_eq!(script.stack.error(id), None);
    let out = script.send(&flow, &rst);
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(script.stack.error(id), Some(mptcp_core::error::ConnectionError::Refused));
    assert!(script.ready(id).contains(Ready::CLOSED));
    assert_eq!((script.counters().attempt_fails, script.counters().fallback), (1, 0));
}

/// What was learnt about a destination is a reason, too.
#[test]
fn h05_a_destination_known_to_lose_them_gets_none() {
    let mut script = watched(Script::new(V, |c| c.mptcp.versions = vec![Version::V1]));
    let (mut flow, id, _) = connect(&mut script);
    script.advance(20_000);
    script.answer(&mut flow, &[]);
    assert_eq!(script.fallback(id), Some(FallbackReason::CapableSynUnanswered));
    let (_, id, syn) = script.connect();
    assert!(syn.mptcp().is_empty(), "{syn:?}");
    assert_eq!(script.fallback(id), Some(FallbackReason::KnownPlain));
    let counters = script.counters();
    assert_eq!(counters.fell_back(FallbackReason::KnownPlain), 1);
    assert_eq!((counters.mp_capable_syn_tx_disabled, counters.fallback), (1, 1));
}

#[test]
fn h07_a_version_that_is_not_served() {
    let mut script = watched(Script::server_with(V, |c| c.mptcp.versions = vec![Version::V1]));
    let (_, id) = opened(&mut script, &[30, 12, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8], &[]);
    fell_back(&script, id, FallbackReason::CapableVersion);
}

#[test]
fn h08_the_b_bit_and_no_algorithm() {
    let mut script = server();
    let (_, id) = opened(&mut script, &syn_option(0x41), &[]);
    fell_back(&script, id, FallbackReason::CapableExtensibility);
    let mut script = server();
    let (_, id) = opened(&mut script, &syn_option(0), &[]);
    fell_back(&script, id, FallbackReason::CapableAlgorithm);
    // Version 0 asks for silence (RFC 6824 §3.1).
    let mut script = server();
    let flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let syn = flow.syn().raw(&[30, 12, 0x00, 0x41, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(script.send(&flow, &syn).is_empty());
    assert_eq!(script.counters().dropped(DropReason::MpCapableExtensibility), 1);
}

#[test]
fn h09_checksums_are_refused() {
    let refuse = |c: &mut mptcp_core::config::StackConfig| {
        c.mptcp.checksum = ChecksumPolicy::Refuse;
    };
    let mut script = watched(Script::server_with(V, refuse));
    let (_, id) = opened(&mut script, &syn_option(0x81), &[]);
    fell_back(&script, id, FallbackReason::ChecksumRefused);
    // At the client the answer is not usable.
    let mut script = watched(Script::new(V, refuse));
    let (mut flow, id, _) = connect(&mut script);
    script.answer(&mut flow, &[key_option(SUM)]);
    fell_back(&script, id, FallbackReason::SynAckWithoutCapable);
}

#[test]
fn h10_no_token_is_free() {
    // A shard whose bits no token has.
    let full = |c: &mut mptcp_core::config::StackConfig| {
        (c.token_mask, c.token_value) = (u32::MAX, 1);
    };
    let mut script = watched(Script::server_with(V, full));
    let (_, id) = opened(&mut script, &syn_option(1), &[]);
    fell_back(&script, id, FallbackReason::NoToken);
    assert_eq!(script.counters().mp_fallback_token_init, 1);
    let mut script = watched(Script::new(V, full));
    let (_, id, syn) = script.connect();
    assert!(syn.mptcp().is_empty(), "{syn:?}");
    assert_eq!(script.fallback(id), Some(FallbackReason::NoToken));
    assert_eq!(script.counters().fell_back(FallbackReason::NoToken), 1);
}

#[test]
fn h11_a_syn_cookie() {
    let mut script = watched(Script::server_with(V, |c| c.limits.half_open = 8));
    for port in 6_000..6_020 {
        let flow = Flow::new(at(P2, port), at(A1, PORT));
        script.send(&flow, &flow.syn().raw(&syn_option(1)));
    }
    let (flow, id) = opened(&mut script, &syn_option(1), &[]);
    fell_back(&script, id, FallbackReason::SynCookie);
    assert_eq!(script.counters().syncookies_recv, 1);
    script.send(&flow, &flow.seg().data(b"hello"));
    assert_eq!(script.read(id).expect("the data"), b"hello");
}

/// Our join, and what `answer` of the peer's makes of it.
fn our_join(script: &mut Script) -> (Keys, Flow, u32, SocketId) {
    let (keys, first, id) = connected(script, H);
    let out = script.send(&first, &first.seg().dss(keys.ack(0)));
    let syn = out.iter().find(|o| o.join().is_some()).expect("a join");
    let Some(MpJoin::Syn { nonce, .. }) = syn.join() else { panic!("{syn:?}") };
    let mut join = Flow::new(syn.dst, syn.src);
    join.hears(&out);
    (keys, join, nonce, id)
}

/// The server sees an ordinary SYN and answers as to one, which the client takes for no subflow.
#[test]
fn h31_the_option_is_taken_from_the_syn_of_a_join() {
    let mut script = server();
    let (_, _, _) = script.confirmed();
    let mut plain = Flow::new(at(P2, 5000), at(A1, PORT));
    let out = script.send(&plain, &plain.syn());
    assert!(out[0].mptcp().is_empty() && out[0].is(TcpFlags::SYN), "{out:?}");
    plain.hears(&out);
    plain.snd_nxt = plain.isn.wrapping_add(1);
    // The client resets: nothing is left of it.
    script.send(&plain, &plain.seg().flags(TcpFlags::RST));
    assert_eq!((script.stack.occupancy().requests, script.accept()), (0, None));
    // The client's side of it.
    let mut script = client();
    let (_, mut join, _, id) = our_join(&mut script);
    let out = script.answer(&mut join, &[]);
    assert!(out.len() == 1 && out[0].rst(), "{out:?}");
    reset(&script, id, reset_reason::MPTCP_SPECIFIC);
    assert_eq!(script.counters().mp_join_syn_ack_missing, 1);
    // Or the port is closed for ordinary SYNs.
    let mut script = client();
    let (_, join, _, id) = our_join(&mut script);
    let rst = join.seg().seq(0).acks(join.rcv_nxt).flags(TcpFlags::RST | TcpFlags::ACK);
    let out = script.send(&join, &rst);
    assert!(join.of(&out).is_empty(), "{out:?}");
    kept(&script, id);
    assert_eq!(script.info(id).subflows.len(), 1);
}

#[test]
fn h32_the_option_is_taken_from_the_syn_ack_of_a_join() {
    let mut script = client();
    let (keys, join, nonce, id) = our_join(&mut script);
    let mss_only = join.syn().acks(join.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
    let out = script.send(&join, &mss_only);
    assert_eq!(out[0].reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)), "{out:?}");
    reset(&script, id, reset_reason::MPTCP_SPECIFIC);
    assert_eq!(script.counters().mp_join_syn_ack_missing, 1);
    // With a wrong HMAC it is no better.
    let mut script = client();
    let (_, mut other, _, id) = our_join(&mut script);
    let pair = KeyPair { local: keys.peer, remote: keys.stack };
    let hmac = pair.sent_join_hmac(Version::V1, NONCE, nonce).truncated64() ^ 1;
    let answer = MpJoin::SynAck { backup: true, address_id: 0, hmac, nonce: NONCE };
    script.answer(&mut other, &[MptcpOption::Join(answer)]);
    reset(&script, id, reset_reason::MPTCP_SPECIFIC);
    let counters = script.counters();
    assert_eq!((counters.mp_join_syn_ack_rx, counters.mp_join_syn_ack_hmac_failure), (1, 1));
}

#[test]
fn h33_the_option_is_taken_from_the_third_ack_of_a_join() {
    let mut script = server();
    let (keys, _, id) = script.confirmed();
    let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
    script.join_syn(&keys, &mut join, false);
    let out = script.send(&join, &join.seg());
    assert_eq!(join.of(&out)[0].reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)));
    refused(&script, reset_reason::MPTCP_SPECIFIC);
    assert_eq!(script.counters().mp_join_ack_missing, 1);
    assert_eq!(script.counters().dropped(DropReason::JoinHmac), 1);
    kept(&script, id);
}

/// A portal on one access network answers for everybody, and speaks TCP only. What it taught is not
/// held against the way through the other network.
#[test]
fn h34_a_captive_portal_on_one_access() {
    let mut script = client();
    let (mut flow, id, _) = connect(&mut script);
    script.answer(&mut flow, &[]);
    fell_back(&script, id, FallbackReason::SynAckWithoutCapable);
    let remote = at(P1, PORT);
    let (local, local_port) = (A2, 0);
    let with = Connect { local, local_port, remote, mptcp: true, timeout: None, user_data: 0 };
    let id = script.stack.connect(script.now, &with).expect("room for a connection");
    let out = script.out();
    assert_eq!(out[0].capable().map(|c| c.version), Some(1), "nothing is known about this way");
    script.stack.abort(script.now, id);
}

/// MD5 signatures (RFC 2385) are not spoken: the option is ignored, and a peer that needs it gets no
/// acceptable answer.
#[test]
fn h35_both_ends_open_at_once() {
    let mut script = client();
    let (mut flow, id, _) = connect(&mut script);
    let out = script.send(&flow, &flow.syn().raw(&syn_option(1)));
    assert_eq!(out[0].flags, TcpFlags::SYN | TcpFlags::ACK);
    assert!(out[0].mptcp().is_empty(), "{out:?}");
    flow.snd_nxt = flow.isn + 1;
    script.send(&flow, &flow.seg());
    fell_back(&script, id, FallbackReason::SimultaneousOpen);
    assert_eq!(script.counters().simult_connect_fallback, 1);
    let mut script = server();
    let signature = [[19, 18].as_slice(), &[7; 16]].concat();
    let (_, id) = opened(&mut script, &[&signature[..], &syn_option(1)].concat(), &[]);
    fell_back(&script, id, FallbackReason::AckWithoutCapable);
}

/// Not among the 35: what contradicts itself, or is taken back.
#[test]
fn offers_that_contradict_themselves() {
    let mut script = server();
    let twice = [syn_option(1), syn_option(0x81)].concat();
    let (_, id) = opened(&mut script, &twice, &[]);
    fell_back(&script, id, FallbackReason::ContradictoryOptions);
    let mut script = server();
    let (flow, _) = script.half_open(4000, H);
    script.send(&flow, &flow.syn());
    script.send(&flow, &flow.seg());
    let id = script.accept().expect("plain TCP");
    fell_back(&script, id, FallbackReason::SynRepeatedWithoutCapable);
}
