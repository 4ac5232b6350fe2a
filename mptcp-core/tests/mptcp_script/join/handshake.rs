//! The four segments of a join, in both roles.

use super::*;

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
        let confirmed = |script: &Script| script.info(id).subflows[1].fully_established;
        assert!(!confirmed(&script), "{:?}", script.info(id));
        let out = script.send(&join, &join.seg());
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        assert!(confirmed(&script), "{:?}", script.info(id));
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
        for _ in 0..10 {
            let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
            assert!(out.is_empty(), "{out:?}");
        }
        assert!(script.would_block(id));
        assert_eq!(script.counters().dropped(DropReason::MpJoinMissing), 10);
        // It is asked for by the SYN/ACK, and then the join is over: the peer hears of that.
        let out = script.advance(200_000);
        let packets = flow.of(&out);
        let (last, asked) = packets.split_last().expect("it is asked for");
        assert!(!asked.is_empty() && asked.iter().all(|o| o.join().is_some()), "{out:?}");
        last.assert_reset(reset_reason::MPTCP_SPECIFIC, false);
        assert_eq!(script.stack.occupancy().requests, 0);
        assert_eq!(script.info(id).subflows.len(), 1);
        // Without anything at all the half-open join ends by itself.
        let mut flow = Flow::new(at(P2, 5001), at(A1, PORT));
        script.join_syn(&keys, &mut flow, false);
        let out = script.advance(200_000);
        assert!(flow.of(&out).iter().all(|o| !o.rst()), "nobody is there: {out:?}");
        assert_eq!(script.stack.occupancy().requests, 0);
        assert!(script.would_block(id));
    });
}

/// What has text, a FIN or a DSS, or a later number, is no third ACK that lost its option.
#[test]
fn t37_what_overtakes_the_third_ack_costs_nothing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        let third = flow.seg().opt(&Script::join_ack(&keys, &out[0]));
        let ack = flow.seg().dss(keys.ack(0));
        let data = stream(0, 1_000);
        let first = flow.seg().dss(keys.data(&flow, 0, 0, &data)).data(&data);
        flow.snd_nxt += 1_000;
        let more = stream(1_000, 500);
        let second = flow.seg().dss(keys.data(&flow, 1_000, 0, &more)).data(&more);
        let unmapped = flow.seg().data(&more);
        for seg in [&second, &unmapped, &first, &ack, &flow.seg(), &flow.seg().fin()] {
            let out = script.send(&flow, seg);
            assert!(out.is_empty(), "{out:?}");
            assert!(script.would_block(id));
        }
        assert_eq!(script.counters().dropped(DropReason::MpJoinMissing), 6);
        assert_eq!(script.counters().mp_join_ack_missing, 0);
        let out = script.send(&flow, &third);
        assert!(flow.of(&out).iter().any(|o| o.is(TcpFlags::ACK) && !o.rst()), "{out:?}");
        script.send(&flow, &first);
        script.send(&flow, &second);
        script.expect_stream(id, 0, 1_500);
        assert_eq!(script.info(id).subflows.len(), 2);
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
fn t47_a_syn_ack_without_mp_join_is_reset() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (_, _, mut join, _, id) = client_joins(&mut script);
        let out = script.answer(&mut join, &[]);
        assert!(out.len() == 1 && out[0].payload.is_empty(), "{out:?}");
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}
