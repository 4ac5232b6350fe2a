//! Further subflows: `MP_JOIN` in both roles, and everything that must not become one
//! (RFC 8684 §3.2).

use crate::harness::*;
use mptcp_core::config::{PathManagerKind, StackConfig};
use mptcp_core::error::{OpenError, RecvError};
use mptcp_core::mptcp::key::KeyPair;
use mptcp_core::stack::{Connect, Ready, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{MpJoin, MptcpOption, TcpFlags, Version, reset_reason};

fn fullmesh(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
}

fn assert_reset(out: &[Out], reason: u8, transient: bool) {
    let [rst] = out else { panic!("one RST expected: {out:?}") };
    rst.assert_reset(reason, transient);
}

/// The answer to a token that is nobody's: which version the peer speaks is not known.
fn assert_unknown(out: &[Out]) {
    let [rst] = out else { panic!("one RST expected: {out:?}") };
    assert!(rst.rst(), "{rst:?}");
    assert_eq!(rst.reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)), "{rst:?}");
}

/// A client with a confirmed connection and the SYN of its join: (keys, first, join, its nonce).
fn client_joins(script: &mut Script) -> (Keys, Flow, Flow, u32, mptcp_core::stack::SocketId) {
    let (keys, first, id) = script.connected();
    let out = script.send(&first, &first.seg().dss(keys.ack(0)));
    let syn = out.iter().find(|o| o.join().is_some()).expect("a join");
    assert_eq!(syn.flags, TcpFlags::SYN);
    assert_eq!((syn.src.ip(), syn.dst), (A2, at(P1, PORT)));
    let Some(MpJoin::Syn { backup, address_id, token, nonce }) = syn.join() else {
        panic!("{syn:?}")
    };
    assert_eq!(token, mptcp_core::mptcp::key::token(keys.version, PEER_KEY));
    assert_eq!((backup, address_id), (false, 2));
    let mut join = Flow::new(syn.dst, syn.src);
    join.hears(&out);
    (keys, first, join, nonce, id)
}

fn syn_ack_join(keys: &Keys, theirs: u32, flip: u64, backup: bool) -> MptcpOption<'static> {
    let pair = KeyPair { local: keys.peer, remote: keys.stack };
    let hmac = pair.sent_join_hmac(keys.version, NONCE, theirs).truncated64() ^ flip;
    MptcpOption::Join(MpJoin::SynAck { backup, address_id: 0, hmac, nonce: NONCE })
}

#[test]
fn t30_an_unknown_token_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let syn =
            MpJoin::Syn { backup: false, address_id: 2, token: !keys.stack_token(), nonce: 1 };
        let out = script.send(&flow, &flow.syn().opt(&MptcpOption::Join(syn)));
        assert_unknown(&out);
        assert_eq!(out[0].ack, flow.isn + 1);
        assert_eq!(script.counters().mp_join_no_token_found, 1);
        assert_eq!(script.counters().dropped(DropReason::JoinToken), 1);
        assert_eq!(script.stack.occupancy().requests, 0);
    });
}

/// Where version 1 is not served nobody is told a reason that only version 1 has.
#[test]
fn t30_a_stack_of_version_0_gives_no_reason() {
    let mut script = Script::serving(&[Version::V0], Version::V0, |_| {});
    let flow = Flow::new(at(P2, 5000), at(A1, PORT));
    let syn = MpJoin::Syn { backup: false, address_id: 2, token: 0x1234_5678, nonce: 1 };
    let out = script.send(&flow, &flow.syn().opt(&MptcpOption::Join(syn)));
    assert!(out.len() == 1 && out[0].rst() && out[0].mptcp().is_empty(), "{out:?}");
}

#[test]
fn t31_join_on_any_port() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        // Nobody listens on port 9, nor on our second address.
        for (n, to) in [at(A1, 9), at(A2, PORT), at(A2, 4242)].into_iter().enumerate() {
            let mut flow = script.join(&keys, at(P2, 5000 + n as u16), to);
            let data = stream(n as u64 * 10, 10);
            script.send_data(&keys, &mut flow, n as u64 * 10, 0, &data);
            script.expect_stream(id, n as u64 * 10, 10);
        }
        assert_eq!(script.info(id).subflows.len(), 4);
    });
}

#[test]
fn the_hmacs_on_the_wire_are_those_of_the_rfc() {
    both(|v| {
        // `join` compares the stack's HMAC with the peer's computation; this pins that computation.
        let pair = KeyPair { local: 0x973f_b0aa_73f5_8dcc, remote: 0x61bc_cd9c_a864_9f48 };
        let hmac = pair.expected_join_hmac(v, 0xcd27_dfa9, 0xbea2_e80b);
        let known = match v {
            Version::V0 => 0x08fd_64db_5e1a_4b53,
            Version::V1 => 0x8390_8e25_270f_91ef,
        };
        assert_eq!(hmac.truncated64(), known);
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A2, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        let Some(MpJoin::SynAck { backup, address_id, .. }) = out[0].join() else {
            panic!("{out:?}")
        };
        assert_eq!((backup, address_id), (false, 2));
        // On the first address the id is 0.
        let mut flow = Flow::new(at(P2, 5001), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert!(matches!(out[0].join(), Some(MpJoin::SynAck { address_id: 0, .. })), "{out:?}");
    });
}

#[test]
fn t32_a_wrong_or_missing_hmac_is_reset() {
    both(|v| {
        for bit in 0..=160 {
            let mut script = Script::server(v);
            let (keys, _, id) = script.confirmed();
            let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
            let out = script.join_syn(&keys, &mut flow, false);
            let MptcpOption::Join(MpJoin::Ack { mut hmac }) = Script::join_ack(&keys, &out[0])
            else {
                panic!("a third ACK")
            };
            let seg = if let Some(byte) = hmac.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
                flow.seg().opt(&MptcpOption::Join(MpJoin::Ack { hmac }))
            } else {
                flow.seg()
            };
            let out = script.send(&flow, &seg);
            assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
            assert_eq!(script.stack.occupancy().requests, 0);
            assert_eq!(script.info(id).subflows.len(), 1);
            let counters = script.counters();
            let count = counters.mp_join_ack_hmac_failure + counters.mp_join_ack_missing;
            assert_eq!(count, 1);
            assert_eq!(counters.mp_join_ack_missing == 1, bit == 160);
        }
    });
}

#[test]
fn t33_a_wrong_hmac_in_the_syn_ack_is_reset_without_a_third_ack() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, _, mut join, nonce, id) = client_joins(&mut script);
        let out = script.answer(&mut join, &[syn_ack_join(&keys, nonce, 1 << 40, false)]);
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
        assert_eq!(script.counters().mp_join_syn_ack_hmac_failure, 1);
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn t34_the_third_ack_is_repeated_until_the_fourth() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
        let out = script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let Some(MpJoin::Ack { hmac }) = out[0].join() else { panic!("{out:?}") };
        let expected = keys.pair().expected_join_hmac(v, NONCE, nonce);
        assert_eq!(hmac, expected.full());
        // No fourth ACK: the third comes again and again, ever more slowly, and no data with it.
        let started = script.now;
        let written = script.write(id, 0, 50_000);
        first.hears(&written);
        assert!(join.of(&written).iter().all(|o| o.payload.is_empty()), "{written:?}");
        let mut times = Vec::new();
        for _ in 0..10 {
            let out = script.advance(1_000);
            let ack = script.send(&first, &first.seg().dss(keys.ack(0)));
            for packet in join.of(&out).into_iter().chain(join.of(&ack)) {
                assert!(packet.payload.is_empty(), "{packet:?}");
                assert!(matches!(packet.join(), Some(MpJoin::Ack { .. })), "{packet:?}");
                times.push(packet.at.since(started).as_millis() as u64);
            }
        }
        assert!(times.len() >= 3, "{times:?}");
        let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.windows(2).all(|w| w[1] * 10 >= w[0] * 18), "back-off: {gaps:?}");
        // t35: an ordinary ACK without any MPTCP option is the fourth ACK.
        script.send(&join, &join.seg());
        let out = script.advance(20_000);
        assert!(join.of(&out).iter().all(|o| o.join().is_none()), "{out:?}");
    });
}

#[test]
fn t34_every_copy_of_the_third_ack_is_answered() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        let ack = Script::join_ack(&keys, &out[0]);
        for _ in 0..5 {
            let out = script.send(&flow, &flow.seg().opt(&ack));
            assert!(out.len() == 1 && out[0].flags == TcpFlags::ACK, "{out:?}");
            assert!(out[0].data_ack().is_some());
            script.advance(100);
        }
    });
}

#[test]
fn t35_an_ack_without_any_option_is_the_fourth_ack() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, _, mut join, nonce, id) = client_joins(&mut script);
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.send(&join, &join.seg());
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        script.write(id, 0, 100_000);
        assert!(script.info(id).subflows[1].bytes_sent > 0, "the subflow is used");
    });
}

#[test]
fn a_third_ack_nobody_answers_is_given_up() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, _, mut join, nonce, id) = client_joins(&mut script);
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.advance(600_000);
        assert!(join.of(&out).last().is_some_and(|o| o.rst()), "{out:?}");
        let subflows = script.info(id).subflows;
        assert!(subflows.iter().all(|s| s.local != join.local), "{subflows:?}");
    });
}

#[test]
fn t37_data_instead_of_the_third_ack_is_never_delivered() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        script.join_syn(&keys, &mut flow, false);
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
        assert!(script.would_block(id));
        // Without anything at all the half-open join ends by itself.
        let mut flow = Flow::new(at(P2, 5001), at(A1, PORT));
        script.join_syn(&keys, &mut flow, false);
        script.advance(200_000);
        assert_eq!(script.stack.occupancy().requests, 0);
        assert!(script.would_block(id));
    });
}

#[test]
fn t38_a_join_before_the_connection_is_confirmed_is_refused_for_now() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.unconfirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert_reset(&out, reset_reason::PROHIBITED, true);
        assert_eq!(script.counters().mp_join_rejected, 1);
        // Once it is, the same join is taken.
        script.send(&first, &first.seg().dss(keys.ack(0)));
        script.join(&keys, at(P2, 5001), at(A1, PORT));
        assert_eq!(script.info(id).subflows.len(), 2);
    });
}

#[test]
fn t39_a_join_after_fallback_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.unconfirmed();
        script.send(&flow, &flow.seg().data(b"no mapping"));
        assert!(script.fallback(id).is_some());
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert_unknown(&out);
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn t40_more_subflows_than_allowed_are_refused() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 3);
        let (keys, _, id) = script.confirmed();
        script.join(&keys, at(P2, 5000), at(A1, PORT));
        let mut pending = Flow::new(at(P2, 5001), at(A1, PORT));
        let syn_ack = script.join_syn(&keys, &mut pending, false);
        // The half-open one counts.
        let mut flow = Flow::new(at(P2, 5002), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert_reset(&out, reset_reason::PROHIBITED, false);
        script.send(&pending, &pending.seg().opt(&Script::join_ack(&keys, &syn_ack[0])));
        assert_eq!(script.info(id).subflows.len(), 3);
    });
}

#[test]
fn t41_a_backup_subflow_carries_data_only_when_nothing_else_works() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let backup = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
        assert!(script.info(id).subflows[1].backup);
        assert_eq!(script.counters().mp_join_syn_backup_rx, 1);
        // More than the first subflow's window takes: the rest waits.
        let out = script.write(id, 0, 40_000);
        first.hears(&out);
        assert!(backup.of(&out).is_empty(), "{out:?}");
        assert!(!first.of(&out).is_empty());
        // The last regular subflow fails.
        let out = script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        let data: usize = backup.of(&out).iter().map(|o| o.payload.len()).sum();
        assert!(data > 0, "{out:?}");
    });
}

#[test]
fn t43_a_recorded_handshake_cannot_be_replayed() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        let recorded = Script::join_ack(&keys, &out[0]);
        script.send(&flow, &flow.seg().opt(&recorded));
        script.send(&flow, &flow.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        // The same SYN with the same nonce, and the old ACK.
        let again = script.join_syn(&keys, &mut flow, false);
        let nonce = |o: &Out| match o.join() {
            Some(MpJoin::SynAck { nonce, .. }) => nonce,
            other => panic!("{other:?}"),
        };
        assert_ne!(nonce(&again[0]), nonce(&out[0]));
        let out = script.send(&flow, &flow.seg().opt(&recorded));
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
        assert_eq!(script.counters().mp_join_ack_hmac_failure, 1);
    });
}

#[test]
fn t44_tokens_of_a_former_life_are_unknown() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        drop(script);
        let mut script = Script::server_with(v, |c| c.seed = [8; 32]);
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert_unknown(&out);
    });
}

#[test]
fn t45_half_open_joins_are_bounded() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let bound = u64::from(script.stack.config().mptcp.max_half_open_joins);
        let limit = u64::from(script.stack.config().mptcp.max_subflows) - 1;
        for n in 0..100_000_u32 {
            let peer = core::net::IpAddr::from([10, 3, (n >> 8) as u8, n as u8]);
            let mut flow = Flow::new(at(peer, 1024 + (n >> 16) as u16), at(A1, PORT));
            script.join_syn(&keys, &mut flow, false);
        }
        let open = u64::from(script.stack.occupancy().requests);
        assert!(open <= bound.min(limit) && open > 0, "{open} half-open joins");
        assert!(script.counters().mp_join_rejected >= 100_000 - bound);
        assert!(script.counters().stateless_reply_limited > 0, "RSTs are rate limited");
        // The established subflow does not notice.
        script.advance(1);
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn t47_a_syn_ack_without_mp_join_is_reset() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (_, _, mut join, _, id) = client_joins(&mut script);
        let out = script.answer(&mut join, &[]);
        let [rst] = out.as_slice() else { panic!("{out:?}") };
        assert!(rst.rst() && rst.payload.is_empty(), "{rst:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn a_malformed_join_is_an_ordinary_syn() {
    both(|v| {
        let mut script = Script::server(v);
        script.confirmed();
        for (n, len) in [11_u8, 13, 16, 24].into_iter().enumerate() {
            let mut option = vec![30, len, 0x10, 2];
            option.resize(usize::from(len), 7);
            let flow = Flow::new(at(P2, 5000 + n as u16), at(A1, PORT));
            let out = script.send(&flow, &flow.syn().raw(&option));
            assert!(out[0].is(TcpFlags::SYN) && out[0].mptcp().is_empty(), "{out:?}");
        }
    });
}

#[test]
fn an_opened_join_carries_data_both_ways() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        assert!(same(join.of(&out)[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(10)), "{out:?}");
        script.expect_stream(id, 0, 10);
        let out = script.write(id, 0, 60_000);
        let sent = |flow: &Flow| flow.of(&out).iter().map(|o| o.payload.len()).sum::<usize>();
        assert!(sent(&first) > 0 && sent(&join) > 0, "both carry data");
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        for packet in &out {
            let Some(mapping) = packet.mapping() else { continue };
            let offset = (0..60_000).find(|o| same(mapping.dsn, keys.stack_dsn(*o)));
            joined.push((offset.expect("within what was written"), packet.payload.clone()));
        }
        joined.sort();
        let mut next = 0;
        for (offset, payload) in joined {
            assert_eq!(offset, next, "in DSN order, nothing twice");
            assert_eq!(payload, stream(offset, payload.len()));
            next += payload.len() as u64;
        }
        first.hears(&out);
    });
}

#[test]
fn t143_data_on_a_stale_tuple_is_reset_and_a_join_resumes() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 10));
        // The address changed on the way: the same subflow from another tuple.
        let stranger = Flow { peer: at(P2, 60_000), ..first.clone() };
        let seg = stranger.seg().dss(keys.data(&stranger, 10, 0, &stream(10, 5)));
        let out = script.send(&stranger, &seg.data(&stream(10, 5)));
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
        script.expect_stream(id, 0, 10);
        let mut join = script.join(&keys, at(P2, 60_001), at(A1, PORT));
        script.send_data(&keys, &mut join, 10, 0, &stream(10, 5));
        script.expect_stream(id, 10, 5);
    });
}

#[test]
fn a_join_on_a_closed_connection_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        script.advance(61_000);
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert!(matches!(script.read(id), Err(RecvError::Failed(_))));
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
    });
}

#[test]
fn a_client_that_loses_a_join_goes_on() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, join, _, id) = client_joins(&mut script);
        let out = script.send(
            &join,
            &join.seg().seq(0).acks(join.rcv_nxt).flags(TcpFlags::RST | TcpFlags::ACK),
        );
        assert!(out.is_empty(), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

/// Opens the congestion window of the only subflow; answers how far the stream got.
fn widen(script: &mut Script, keys: &Keys, flow: &mut Flow, id: SocketId) -> u64 {
    let mut offset = 0;
    for _ in 0..8 {
        let mut out = script.write(id, offset, 14_000);
        offset += 14_000;
        while !out.is_empty() {
            flow.hears(&out);
            let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            out = script.send(flow, &flow.seg().dss(keys.ack(got)));
        }
    }
    assert_eq!(script.info(id).bytes_acked, offset, "nothing is outstanding");
    offset
}

fn payload(flow: &Flow, out: &[Out]) -> u64 {
    flow.of(out).iter().map(|o| o.payload.len() as u64).sum()
}

#[test]
fn a_join_after_the_only_path_died_takes_everything_over() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let offset = widen(&mut script, &keys, &mut first, id);
        let out = script.write(id, offset, 50_000);
        let lost = payload(&first, &out);
        assert!(lost > 20_000, "{lost}");
        for _ in 0..100 {
            script.advance(5);
            if script.counters().tcp_timeouts > 0 {
                break;
            }
        }
        assert_eq!((script.counters().tcp_timeouts, script.counters().mptcp_retrans), (1, 0));
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        let answer = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&answer)[0]);
        let mut out = script.send(&join, &join.seg().opt(&ack));
        // Not a moment later, and all of it before anything new.
        let mut again = 0;
        while payload(&join, &out) > 0 {
            join.hears(&out);
            again += payload(&join, &out);
            out = script.send(&join, &join.seg().dss(keys.ack(offset + again)));
        }
        assert_eq!(again, 50_000);
        assert_eq!(script.info(id).bytes_acked, offset + 50_000);
        let subflows = script.info(id).subflows;
        assert!(subflows[0].stale && !subflows[1].stale);
        assert_eq!(subflows[1].reinjected, lost);
    });
}

#[test]
fn what_only_tcp_acknowledged_comes_again_when_its_subflow_fails() {
    both(|v| {
        for fail in [false, true] {
            let mut script = Script::server(v);
            let (keys, mut first, id) = script.confirmed();
            let join = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
            let out = script.write(id, 0, 3_000);
            first.hears(&out);
            assert_eq!(payload(&first, &out), 3_000);
            let out = script.send(&first, &first.seg().dss(keys.ack(0)));
            assert!(out.is_empty(), "{out:?}");
            let mut rst = first.seg().flags(TcpFlags::RST | TcpFlags::ACK);
            if fail {
                rst = rst.opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 });
            }
            let out = script.send(&first, &rst);
            assert_eq!(payload(&join, &out), 3_000, "{out:?}");
            script.send(&join, &join.seg().dss(keys.ack(3_000)));
            assert_eq!(script.info(id).bytes_acked, 3_000);
        }
    });
}

#[test]
fn what_follows_the_dsn_of_an_mp_fail_comes_again() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        let out = script.write(id, 0, 1_400);
        assert_eq!(payload(&first, &out), 1_400);
        script.stack.set_backup(id, 0, true);
        script.stack.set_backup(id, 1, false);
        script.out();
        let out = script.write(id, 1_400, 1_400);
        assert_eq!(payload(&join, &out), 1_400);
        join.hears(&out);
        // The head is under way on the first subflow; the rest arrived at TCP and was thrown away.
        script.send(&join, &join.seg().dss(keys.ack(0)));
        let rst = join.seg().flags(TcpFlags::RST | TcpFlags::ACK);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(1_400).0 };
        let out = script.send(&join, &rst.opt(&fail));
        let [again] = first.of(&out)[..] else { panic!("{out:?}") };
        assert_eq!(again.payload, stream(1_400, 1_400));
        assert!(same(again.mapping().expect("a mapping").dsn, keys.stack_dsn(1_400)), "{again:?}");
    });
}

#[test]
fn a_lost_join_syn_is_no_sidelined_subflow() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (_, _, join, ..) = client_joins(&mut script);
        let out = script.advance(5_000);
        assert!(join.of(&out).len() >= 2, "{out:?}");
        let counters = script.counters();
        assert_eq!((counters.mptcp_retrans, counters.subflow_stale), (0, 0));
    });
}

/// Segments of ours that ask on `flow` whether anybody is there.
fn probes(flow: &Flow, out: &[Out]) -> usize {
    let probe = |o: &&&Out| o.payload.is_empty() && o.seq == flow.rcv_nxt.wrapping_sub(1);
    flow.of(out).iter().filter(probe).count()
}

#[test]
fn at_the_limit_a_join_takes_the_place_of_a_subflow_that_times_out() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, mut first, id) = script.confirmed();
        let dead = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // Both carry data; nobody answers on the second.
        let out = script.write(id, 0, 25_000);
        first.hears(&out);
        assert!(payload(&first, &out) > 0 && payload(&dead, &out) > 0);
        for _ in 0..8 {
            let seg = first.seg().dss(keys.ack(0));
            let mut out = script.send(&first, &seg);
            first.hears(&out);
            out = script.advance(200);
            first.hears(&out);
        }
        let mut join = Flow::new(at(P2, 5001), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        assert_eq!(script.info(id).subflows.len(), 2, "a SYN proves nothing");
        let out = script.send(&join, &join.seg().opt(&ack));
        let rst = dead.of(&out).into_iter().find(|o| o.rst()).expect("it is told");
        rst.assert_reset(reset_reason::UNACCEPTABLE_PERFORMANCE, false);
        let ports: Vec<u16> = script.info(id).subflows.iter().map(|s| s.remote.port()).collect();
        assert_eq!(ports, [40_000, 5001]);
    });
}

#[test]
fn at_the_limit_an_address_that_moved_gives_its_place_up() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, _, id) = script.confirmed();
        script.join(&keys, at(P2, 5000), at(A2, PORT));
        for host in 3..10 {
            // The same id from ever other addresses: a roaming phone.
            let peer = core::net::IpAddr::from([10, 2, 0, host]);
            script.join(&keys, at(peer, 5000), at(A2, PORT));
            assert_eq!(script.info(id).subflows[1].remote, at(peer, 5000));
            assert_eq!(script.info(id).subflows.len(), 2);
        }
    });
}

#[test]
fn at_the_limit_silent_subflows_must_show_that_they_live() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, first, id) = script.confirmed();
        let dead = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let mut join = Flow::new(at(P2, 5001), at(A2, PORT));
        let syn = |script: &mut Script, join: &mut Flow| {
            join.snd_nxt = join.isn;
            script.join_syn(&keys, join, false)
        };
        assert_reset(&syn(&mut script, &mut join), reset_reason::PROHIBITED, false);
        script.advance(11_000);
        // Not answered; both are asked, and one answers.
        let out = syn(&mut script, &mut join);
        assert!(join.of(&out).is_empty(), "{out:?}");
        assert_eq!((probes(&first, &out), probes(&dead, &out)), (1, 1));
        script.advance(1);
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let out = script.advance(1_000);
        assert_eq!((probes(&first, &out), probes(&dead, &out)), (0, 1));
        let out = syn(&mut script, &mut join);
        assert!(join.of(&out).is_empty(), "{out:?}");
        let out = script.advance(3_000);
        assert!(dead.of(&out).iter().any(|o| o.rst()), "{out:?}");
        // The third copy of the SYN finds room.
        let out = syn(&mut script, &mut join);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        script.send(&join, &join.seg().opt(&ack));
        let ports: Vec<u16> = script.info(id).subflows.iter().map(|s| s.remote.port()).collect();
        assert_eq!(ports, [40_000, 5001]);
    });
}

/// The SYN of a join in `out`, as (from, to, our address id).
fn join_syn_of(out: &[Out]) -> Option<(Flow, u8)> {
    out.iter().find_map(|o| match o.join() {
        Some(MpJoin::Syn { address_id, .. }) => {
            let mut flow = Flow::new(o.dst, o.src);
            flow.hears(core::slice::from_ref(o));
            Some((flow, address_id))
        }
        _ => None,
    })
}

#[test]
fn t105_a_client_joins_again_when_its_last_subflow_was_reset() {
    both(|v| {
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            c.addresses.truncate(1);
        });
        let (keys, mut first, id) = script.connected();
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let out = script.write(id, 0, 3_000);
        first.hears(&out);
        script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        assert!(script.info(id).subflows.is_empty());
        let out = script.advance(1_010);
        let (mut join, address_id) = join_syn_of(&out).expect("a join");
        assert_eq!((join.local.ip(), join.peer, address_id), (A1, at(P1, PORT), 0));
        let syn = out.iter().find_map(Out::join);
        let Some(MpJoin::Syn { nonce, .. }) = syn else { panic!("{out:?}") };
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.send(&join, &join.seg().dss(keys.ack(0)));
        assert_eq!(payload(&join, &out), 3_000, "{out:?}");
        script.advance(100_000);
        assert!(!script.ready(id).contains(Ready::CLOSED), "it lives");
    });
}

#[test]
fn a_refused_join_is_not_made_again_soon() {
    // Version 0 has no way to say why.
    let v = Version::V1;
    for (transient, wait) in [(true, 1_000), (false, 60_000)] {
        let mut script = Script::new(v, fullmesh);
        let (_, _, join, ..) = client_joins(&mut script);
        let reset =
            mptcp_core::wire::MpTcpRst { transient, reason: reset_reason::PROHIBITED, reserved: 0 };
        let rst = join.seg().seq(0).flags(TcpFlags::RST | TcpFlags::ACK);
        let out = script.send(&join, &rst.opt(&MptcpOption::Reset(reset)));
        assert!(out.is_empty(), "{out:?}");
        assert!(join_syn_of(&script.advance(wait - 1)).is_none());
        assert!(join_syn_of(&script.advance(5)).is_some());
    }
}

#[test]
fn a_refused_connect_does_not_count_as_a_connection() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.limits.tcbs = 4;
            c.limits.connections = 4;
        });
        // One connection holds every control block.
        let (keys, _, id) = script.confirmed();
        for port in 5000..5003 {
            script.join(&keys, at(P2, port), at(A2, PORT));
        }
        let with = Connect {
            local: A1,
            local_port: 0,
            remote: at(P1, 9),
            mptcp: false,
            timeout: None,
            user_data: 0,
        };
        for _ in 0..10 {
            assert_eq!(script.stack.connect(script.now, &with), Err(OpenError::LimitReached));
        }
        script.stack.abort(script.now, id);
        script.forget(id);
        let open: Vec<_> = (0..4).map(|_| script.stack.connect(script.now, &with)).collect();
        for id in open {
            script.stack.abort(script.now, id.expect("its four blocks are free again"));
        }
    });
}

#[test]
fn a_subflow_whose_round_trip_is_unknown_is_not_the_nearest() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let out = script.write(id, 0, 100);
        first.hears(&out);
        script.advance(50);
        script.send(&first, &first.seg().dss(keys.ack(100)));
        // The SYN/ACK went out twice: which one was answered nobody knows (Karn).
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        script.join_syn(&keys, &mut join, false);
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        script.send(&join, &join.seg().opt(&ack));
        let out = script.write(id, 100, 1_000);
        assert_eq!((payload(&first, &out), payload(&join, &out)), (1_000, 0), "{out:?}");
    });
}
