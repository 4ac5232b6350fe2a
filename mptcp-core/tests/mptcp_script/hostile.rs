//! Attacks by name (RFC 4953, RFC 5961, RFC 7430, CVE-2016-5696), and what fuzzing found: no state, no
//! storm and no second copy for somebody who only guesses or cheats. See `docs/threats.md`.

use crate::cases::V;
use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{CapableFlags, CapableForm, MpJoin, MptcpOption, TcpFlags};

/// Ends with data missing on both sides would answer each other's acknowledgements for ever.
#[test]
fn an_acknowledgement_is_not_answered_because_data_is_missing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let late = keys.data(&join, 1_000, 0, &stream(1_000, 100));
        let out = script.send(&join, &join.seg().dss(late).data(&stream(1_000, 100)));
        assert!(!out.is_empty(), "the gap is reported once");
        for _ in 0..10 {
            let out = script.send(&first, &first.seg().dss(keys.ack(0)));
            assert!(out.is_empty(), "{out:?}");
        }
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 1_000));
        script.expect_stream(id, 0, 1_100);
    });
}

/// A `DATA_FIN` beside timestamps leaves no room for a SACK block: the acknowledgement that has none
/// is sent once, not with every segment that comes.
#[test]
fn an_acknowledgement_without_room_for_sack_blocks_is_sent_once() {
    let mut script = Script::server_with(V, |config| config.tcp.timestamps = true);
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    let option = capable(V, CapableFlags::HMAC, CapableForm::Syn);
    let out = script.send(&flow, &flow.syn().raw(&timestamps).opt(&option));
    let answer = out[0].capable().map(|capable| capable.form);
    let Some(CapableForm::Key(stack)) = answer else { panic!("{out:?}") };
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(1);
    let keys = Keys { version: V, peer: PEER_KEY, stack, checksum: false };
    let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
    script.send(&flow, &flow.seg().opt(&capable(V, CapableFlags::HMAC, form)));
    let id = script.accept().expect("established");
    script.send(&flow, &flow.seg().dss(keys.ack(0)));
    script.stack.shutdown_write(script.now, id);
    assert!(script.out().iter().all(Out::data_fin));
    // Octets are missing on the subflow.
    let payload = stream(100, 50);
    let mapping = keys.map(100, flow.ssn() + 100, 50);
    let far = flow.seg().seq(flow.snd_nxt + 100).dss(mapping).data(&payload);
    let out = script.send(&flow, &far);
    assert!(out.len() == 1 && out[0].data_fin(), "{out:?}");
    for _ in 0..10 {
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        assert!(out.is_empty(), "{out:?}");
    }
}

/// A mapping was lost and its data came again under the next one: read as plain TCP, it would be there
/// twice. Who goes on mapping did not fall back.
#[test]
fn a_peer_that_goes_on_mapping_did_not_fall_back() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        flow.snd_nxt = flow.snd_nxt.wrapping_add(1_000);
        script.send_data(&keys, &mut flow, 100, 0, &stream(100, 1_000));
        let out = script.advance(3_000);
        let resets: Vec<_> = out.iter().filter(|o| o.rst()).collect();
        let [reset] = resets[..] else { panic!("{out:?}") };
        reset.assert_reset(6, false);
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id), "nothing was delivered");
        // Another subflow brings it.
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send_data(&keys, &mut join, 100, 0, &stream(100, 1_000));
        script.expect_stream(id, 100, 1_000);
    });
}

/// One option lost is one mapping lost for good once TCP acknowledged its octets: the subflow that waits
/// for it would hold up the stream for ever.
#[test]
fn a_lost_mapping_costs_the_subflow_and_not_the_stream() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // A DATA_ACK of ours has passed: fallback is out of the question.
        script.write(id, 0, 100);
        script.send_data(&keys, &mut join, 0, 100, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        flow.snd_nxt = flow.snd_nxt.wrapping_add(1_000);
        script.send_data(&keys, &mut flow, 100, 100, &stream(100, 1_000));
        let out = script.advance(5_000);
        let resets: Vec<_> = flow.of(&out).into_iter().filter(|o| o.rst()).collect();
        let [reset] = resets[..] else { panic!("{out:?}") };
        reset.assert_reset(6, false);
        assert_eq!(script.info(id).subflows.len(), 1);
        script.send_data(&keys, &mut join, 100, 100, &stream(100, 1_000));
        script.expect_stream(id, 100, 1_000);
    });
}

/// RFC 5961 §3 to §5: in the window is not enough.
#[test]
fn blind_resets_syns_and_data_are_challenged_or_dropped() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let near = flow.snd_nxt.wrapping_add(1);
        let (rst, syn) = (TcpFlags::RST, TcpFlags::SYN);
        for seg in [
            flow.seg().seq(near).flags(rst),
            flow.seg().seq(near).flags(rst | TcpFlags::ACK),
            flow.seg().flags(syn),
            flow.seg().seq(near).flags(syn),
        ] {
            let out = script.send(&flow, &seg);
            let [challenge] = out.as_slice() else { panic!("{seg:?}: {out:?}") };
            assert_eq!(challenge.flags, TcpFlags::ACK);
            assert_eq!(challenge.ack, flow.snd_nxt);
        }
        // Acknowledgements of what was never sent, or of the distant past.
        for ack in [flow.rcv_nxt.wrapping_add(10), flow.rcv_nxt.wrapping_sub(1 << 30)] {
            let before = script.counters().dropped(DropReason::AckRange);
            let dss = keys.data(&flow, 0, 0, b"evil");
            let out = script.send(&flow, &flow.seg().acks(ack).dss(dss).data(b"evil"));
            assert!(out.iter().all(|o| o.flags == TcpFlags::ACK), "{out:?}");
            assert_eq!(script.counters().dropped(DropReason::AckRange), before + 1);
        }
        assert!(script.would_block(id));
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

/// CVE-2016-5696: how many challenges one connection used up says nothing on another one.
#[test]
fn the_limit_of_challenges_is_no_side_channel() {
    let mut script = Script::server(V);
    let mut flows = Vec::new();
    for port in [4_000, 4_001] {
        let mut flow = Flow::new(at(P1, port), at(A1, PORT));
        let out = script.send(&flow, &flow.syn());
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        script.send(&flow, &flow.seg());
        script.accept().expect("established");
        flows.push(flow);
    }
    let challenges = |script: &mut Script, flow: &Flow, count: usize| {
        let seg = flow.seg().flags(TcpFlags::SYN);
        (0..count).map(|_| script.send(flow, &seg).len()).sum::<usize>()
    };
    let used = challenges(&mut script, &flows[0], 1_000);
    assert!((1..100).contains(&used), "{used} in a second");
    assert_eq!(challenges(&mut script, &flows[1], 1_000), used);
    assert!(script.counters().tcp_ack_skipped_challenge >= 1_800);
}

/// RFC 7430 §2: guessing tokens leaves nothing behind, and never gets back more than it sent.
#[test]
fn guessed_tokens_leave_no_state_and_amplify_nothing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let before = script.stack.occupancy();
        let mut answered = 0;
        for n in 0..20_000_u32 {
            let peer = IpAddr::from([10, 7, (n >> 8) as u8, n as u8]);
            let flow = Flow::new(at(peer, 4000), at(A1, PORT));
            let token = keys.stack_token().wrapping_add(1 + n * 7);
            let join = MpJoin::Syn { backup: false, address_id: 2, token, nonce: n };
            let out = script.send(&flow, &flow.syn().opt(&MptcpOption::Join(join)));
            assert!(out.len() <= 1 && out.iter().all(Out::rst), "{out:?}");
            assert!(out.iter().all(|o| o.options.len() <= 6 + 12), "longer than the SYN");
            answered += out.len();
        }
        assert!(answered <= 10_000, "{answered} answers in a second");
        let after = script.stack.occupancy();
        assert_eq!((after.requests, after.tcbs, after.flows), (0, before.tcbs, before.flows));
        assert_eq!(script.counters().dropped(DropReason::JoinToken), 20_000);
    });
}

/// A receiver that acknowledges what it cannot have gains no window by it.
#[test]
fn optimistic_acknowledgements_of_unsent_data_gain_nothing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let first = script.write(id, 0, 200_000);
        let sent: usize = first.iter().map(|o| o.payload.len()).sum();
        assert!((1..200_000).contains(&sent), "{sent}");
        let cwnd = script.info(id).subflows[0].cwnd;
        for ahead in 1..50_u32 {
            let ack = flow.rcv_nxt.wrapping_add(200_000 * ahead);
            let out =
                script.send(&flow, &flow.seg().acks(ack).dss(keys.ack(u64::from(ahead) * 200_000)));
            assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        }
        let info = script.info(id);
        assert_eq!((info.subflows[0].cwnd, info.bytes_acked), (cwnd, 0));
        // TCP has what was sent; the data level claims more than that, or than was written.
        flow.hears(&first);
        for ahead in [sent as u64 + 1, 100_000, 200_000, 200_001, 1 << 31] {
            let out = script.send(&flow, &flow.seg().dss(keys.ack(ahead)));
            flow.hears(&out);
        }
        assert_eq!(script.info(id).bytes_acked, 0);
    });
}

/// A join that never carried anything leaves nothing behind: what TCP acknowledged elsewhere and no
/// `DATA_ACK` did is no reason to send it twice on the only subflow, where a peer that falls back would
/// read it twice.
#[test]
fn a_join_that_fails_at_once_sends_nothing_again() {
    both(|v| {
        let mut script =
            Script::new(v, |config| config.mptcp.path_manager = PathManagerKind::Fullmesh);
        let (keys, mut flow, id) = script.connected();
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let syn = out.iter().find(|o| o.join().is_some()).expect("a join").clone();
        let data = script.write(id, 0, 4_000);
        flow.hears(&data);
        // TCP has all of it, the data level lacks the end.
        let out = script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
        assert!(out.is_empty(), "{out:?}");
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(&[syn]);
        let out = script.answer(&mut join, &[]);
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        // Nor does the data-level timer, as long as the peer may still fall back.
        let out = script.advance(5_000);
        assert!(!flow.of(&out).is_empty() && out.iter().all(|o| o.payload.is_empty()), "{out:?}");
    });
}

/// TCP acknowledges our first data without a `DATA_ACK`, which means fallback, but mapped data waits
/// behind a hole in the mappings: not every option is lost, and what filled the hole may have come twice.
#[test]
fn no_fallback_while_mapped_data_waits_behind_a_hole() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        flow.snd_nxt = flow.snd_nxt.wrapping_add(1_000);
        script.send_data(&keys, &mut flow, 1_100, 0, &stream(1_100, 100));
        let out = script.write(id, 0, 500);
        flow.hears(&out);
        let out = script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        let reset = out.iter().find(|o| o.rst()).unwrap_or_else(|| panic!("{out:?}"));
        reset.assert_reset(6, false);
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id), "nothing was delivered");
    });
}

/// We took the lack of a `DATA_ACK` for fallback and our infinite mapping was lost: whoever goes on
/// mapping is told again, and what it sends a second time is not read as plain TCP.
#[test]
fn who_did_not_hear_of_the_fallback_is_told_again() {
    both(|v| {
        for again in [false, true] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed();
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
            script.expect_stream(id, 0, 100);
            let out = script.write(id, 0, 500);
            flow.hears(&out);
            script.send(&flow, &flow.seg());
            assert_eq!(script.fallback(id), Some(FallbackReason::NoDataAck));
            let out = script.send_data(&keys, &mut flow, 100, 500, &stream(100, 1_000));
            script.expect_stream(id, 100, 1_000);
            let told: Vec<_> = out.iter().filter_map(Out::mapping).collect();
            assert!(told.len() == 1 && told[0].len == 0, "{out:?}");
            let offset = if again { 100 } else { 1_100 };
            let out = script.send_data(&keys, &mut flow, offset, 500, &stream(offset, 1_000));
            assert_eq!(out.iter().any(Out::rst), again, "{out:?}");
            if !again {
                script.expect_stream(id, 1_100, 1_000);
            }
            assert!(again || script.would_block(id));
        }
    });
}

/// The same behind our FIN, which has a sequence number and no place in the stream: from an octet too far
/// on the peer would throw away the first of what comes next.
#[test]
fn behind_a_fin_the_fallback_is_told_with_the_right_place() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        let out = script.write(id, 0, 500);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert_eq!(script.fallback(id), Some(FallbackReason::NoDataAck));
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert!(out.len() == 1 && out[0].is(TcpFlags::FIN), "{out:?}");
        let out = script.send_data(&keys, &mut flow, 100, 500, &stream(100, 1_000));
        let told: Vec<_> = out.iter().filter_map(Out::mapping).collect();
        let [told] = told[..] else { panic!("{out:?}") };
        assert_eq!((told.ssn, told.len), (501, 0));
        assert!(same(told.dsn, keys.stack_dsn(500)), "{told:?}");
    });
}
