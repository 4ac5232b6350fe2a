//! What a SYN offers, and what the SYN/ACK says to that.

use super::*;

#[test]
fn t01_syn_is_answered_with_a_key_and_one_algorithm() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, answer) = script.half_open(4000, H);
        let option = answer.capable().expect("MP_CAPABLE");
        assert_eq!((option.version, option.flags), (v as u8, H));
        assert_ne!(Keys::of(v, &answer, false).stack, 0);
        assert_eq!(answer.mptcp().len(), 1);
        let bytes = answer.options.windows(2).any(|w| w == [30, 12]);
        assert!(bytes, "the option has 12 octets: {:?}", answer.options);
    });
}

#[test]
fn t03_a_form_of_the_other_version_is_ignored() {
    // Version 1 with a key, version 0 without one.
    let reason = FallbackReason::CapableVersion;
    plain_answer_to(&[30, 12, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8], reason);
    plain_answer_to(&[30, 4, 0x00, 0x01], reason);
}

#[test]
fn t04_newer_versions_are_answered_with_ours() {
    for version in [2, 15] {
        let mut script = Script::server(Version::V1);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let seg = flow.syn().raw(&[30, 4, version, 0x01]);
        let answer = syn_ack(&mut script, &mut flow, &seg);
        let option = answer.capable().expect("MP_CAPABLE");
        assert_eq!((option.version, option.flags), (1, H));
    }
}

#[test]
fn t05_no_algorithm_means_plain_tcp() {
    both(|v| {
        plain_answer_to(&raw_offer(v, 0x00), FallbackReason::CapableAlgorithm);
        plain_answer_to(&raw_offer(v, 0x80), FallbackReason::CapableAlgorithm);
    });
}

#[test]
fn t06_of_several_algorithms_one_is_chosen() {
    both(|v| {
        // Bit C is one of them in version 0.
        let all = if v == Version::V0 { 0x3f } else { 0x1f };
        let mut script = Script::server(v);
        let (_, answer) = script.half_open(4000, CapableFlags::from_bits_retain(all));
        assert_eq!(answer.capable().expect("MP_CAPABLE").flags, H);
    });
}

#[test]
fn t07_the_extensibility_bit_makes_it_plain_tcp_or_nothing() {
    plain_answer_to(&raw_offer(Version::V1, 0x41), FallbackReason::CapableExtensibility);
    // Version 0 does not answer the SYN at all.
    let mut script = Script::server(Version::V0);
    let flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let out = script.send(&flow, &flow.syn().raw(&raw_offer(Version::V0, 0x41)));
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(script.counters().dropped(DropReason::MpCapableExtensibility), 1);
    assert_eq!(script.stack.occupancy().requests, 0);
}

#[test]
fn t08_checksums_are_used_when_either_side_asks() {
    both(|v| {
        // The peer asks.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(H | CapableFlags::CHECKSUM);
        assert!(keys.checksum);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 7));
        script.expect_stream(id, 0, 7);
        let out = script.write(id, 0, 9);
        let mapping = out.iter().find_map(Out::mapping).expect("a mapping");
        let dsn = keys.stack_dsn(0);
        let sum = checksum::dss_checksum(dsn, 1, 9, checksum::sum(&stream(0, 9)));
        assert_eq!(mapping.checksum, Some(sum));
        // We ask, the peer's SYN did not.
        let mut script = Script::server_with(v, |c| c.mptcp.checksum = ChecksumPolicy::Require);
        let (keys, ..) = script.confirmed();
        assert!(keys.checksum);
        // As a client we repeat the server's wish in the third ACK (asserted by `connected_with`).
        let mut script = Script::new(v, |_| {});
        let (keys, flow, id) = script.connected_with(H | CapableFlags::CHECKSUM);
        assert!(keys.checksum);
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let out = script.write(id, 0, 9);
        let sum = checksum::dss_checksum(keys.stack_dsn(0), 1, 9, checksum::sum(&stream(0, 9)));
        assert_eq!(out.iter().find_map(Out::mapping).and_then(|m| m.checksum), Some(sum));
        // And what comes without one is refused.
        let bare = flow.seg().dss(keys.map(0, 1, 10)).data(&stream(0, 10));
        assert!(script.send(&flow, &bare).iter().any(Out::rst));
        let mut script = Script::new(v, |c| c.mptcp.checksum = ChecksumPolicy::Require);
        let (mut flow, _, syn) = script.connect();
        assert_eq!(syn.capable().expect("MP_CAPABLE").flags, H | CapableFlags::CHECKSUM);
        let out = script.answer(&mut flow, &[capable(v, H, CapableForm::Key(PEER_KEY))]);
        assert!(out[0].capable().expect("third ACK").flags.contains(CapableFlags::CHECKSUM));
    });
}

#[test]
fn t09_refused_checksums_mean_plain_tcp() {
    both(|v| {
        let refuse = |c: &mut mptcp_core::config::StackConfig| {
            c.mptcp.checksum = ChecksumPolicy::Refuse;
        };
        let mut script = Script::server_with(v, refuse);
        let (flow, answer) = script.half_open(4000, H | CapableFlags::CHECKSUM);
        assert!(answer.mptcp().is_empty());
        plain_because(&mut script, &flow, FallbackReason::ChecksumRefused);
        // A server that insists: our client falls back.
        let mut script = Script::new(v, refuse);
        let (mut flow, id, _) = script.connect();
        let options = [capable(v, H | CapableFlags::CHECKSUM, CapableForm::Key(PEER_KEY))];
        let out = script.answer(&mut flow, &options);
        assert!(out[0].mptcp().is_empty(), "{out:?}");
        assert_eq!(script.fallback(id), Some(FallbackReason::SynAckWithoutCapable));
        // The wish comes in the third ACK only.
        let mut script = Script::server_with(v, refuse);
        let (flow, answer) = script.half_open(4000, H);
        let form =
            CapableForm::Keys { sender: PEER_KEY, receiver: Keys::of(v, &answer, false).stack };
        script.send(&flow, &flow.seg().opt(&capable(v, H | CapableFlags::CHECKSUM, form)));
        let id = script.accept().expect("plain TCP");
        assert_eq!(script.info(id).mptcp, None);
    });
}

#[test]
fn t10_a_plain_syn_never_meets_an_option() {
    both(|v| {
        let mut script = Script::server(v);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let seg = flow.syn();
        assert!(syn_ack(&mut script, &mut flow, &seg).mptcp().is_empty());
        script.send(&flow, &flow.seg());
        let id = script.accept().expect("established");
        let mut out = script.write(id, 0, 100);
        out.extend(script.send(&flow, &flow.seg().data(b"hello")));
        script.stack.shutdown_write(script.now, id);
        out.extend(script.out());
        assert!(out.len() >= 3 && out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert_eq!(script.info(id).mptcp, None);
        assert_eq!(script.counters().fallback, 0);
    });
}

#[test]
fn t20_a_repeated_syn_without_the_option_means_plain_tcp() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, _) = script.half_open(4000, H);
        let out = script.send(&flow, &flow.syn().seq(flow.isn));
        assert!(out[0].is(TcpFlags::SYN) && out[0].mptcp().is_empty(), "{out:?}");
        assert_eq!(script.stack.occupancy().tokens, 0, "nobody needs the token any more");
        plain_because(&mut script, &flow, FallbackReason::SynRepeatedWithoutCapable);
    });
}

#[test]
fn t23_without_a_free_token_no_key_is_offered() {
    both(|v| {
        // Every bit of the token is prescribed: the first key that fits would take 2^32 draws.
        let impossible = |c: &mut mptcp_core::config::StackConfig| {
            (c.token_mask, c.token_value) = (u32::MAX, 1);
        };
        let mut script = Script::server_with(v, impossible);
        let (flow, answer) = script.half_open(4000, H);
        assert!(answer.mptcp().is_empty());
        assert_eq!(script.counters().mp_fallback_token_init, 1);
        plain_because(&mut script, &flow, FallbackReason::NoToken);
        let mut script = Script::new(v, impossible);
        let (_, id, syn) = script.connect();
        assert!(syn.mptcp().is_empty());
        assert_eq!(script.info(id).mptcp, None);
        assert_eq!(script.fallback(id), Some(FallbackReason::NoToken));
        assert_eq!(script.counters().fallback, 1);

        // Some bits are prescribed: keys are drawn until they fit, and tokens differ.
        for (mask, value) in [(3, 2), (0x3f, 0x25), (0xff00_0000, 0x1200_0000)] {
            let mut script =
                Script::server_with(v, |c| (c.token_mask, c.token_value) = (mask, value));
            let mut tokens = Vec::new();
            for port in 4000..4020 {
                let (_, answer) = script.half_open(port, H);
                tokens.push(key::token(v, Keys::of(v, &answer, false).stack));
            }
            assert!(tokens.iter().all(|t| t & mask == value));
            tokens.dedup();
            assert_eq!(tokens.len(), 20);
        }
    });
}

#[test]
fn the_token_of_a_pending_request_is_taken_but_leads_nowhere() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H);
        assert_eq!(script.stack.occupancy().tokens, 1);
        let keys = Keys::of(v, &answer, false);
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert!(out[0].rst(), "{out:?}");
        assert_eq!(script.counters().mp_join_no_token_found, 1);
        // Given up: free again. Established: the connection's.
        script.send(&flow, &flow.seg().flags(TcpFlags::RST));
        assert_eq!(script.stack.occupancy().tokens, 0);
        script.confirmed();
        assert_eq!(script.stack.occupancy().tokens, 1);
    });
}

#[test]
fn t25_contradictory_and_broken_options_have_one_result() {
    both(|v| {
        let capable_syn = raw_offer(v, 0x01);
        let join_syn = [30, 12, 0x10, 2, 9, 9, 9, 9, 1, 2, 3, 4];
        // MP_CAPABLE and MP_JOIN, and two different MP_CAPABLE: neither counts.
        plain_answer_to(
            &[&capable_syn[..], &join_syn[..]].concat(),
            FallbackReason::ContradictoryOptions,
        );
        plain_answer_to(
            &[&join_syn[..], &capable_syn[..]].concat(),
            FallbackReason::ContradictoryOptions,
        );
        plain_answer_to(
            &[&capable_syn[..], &raw_offer(v, 0x81)].concat(),
            FallbackReason::ContradictoryOptions,
        );
        // Lengths 0, 1, 2, 255, and one past the end of the header.
        for len in [0, 1, 2, 255, 5] {
            plain_answer_to(&[30, len, 0x01, 0x01], None);
        }
        // A copy of the same option is the same option.
        let mut script = Script::server(v);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let seg = flow.syn().raw(&capable_syn).raw(&capable_syn);
        assert!(syn_ack(&mut script, &mut flow, &seg).capable().is_some());
    });
}

#[test]
fn of_the_offers_of_two_versions_in_one_syn_the_newer_is_answered() {
    for order in [[Version::V0, Version::V1], [Version::V1, Version::V0]] {
        let mut script = Script::server(Version::V1);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let seg = order.iter().fold(flow.syn(), |seg, v| seg.raw(&raw_offer(*v, 0x01)));
        let answer = syn_ack(&mut script, &mut flow, &seg);
        let keys = Keys::of(Version::V1, &answer, false);
        assert_eq!(answer.capable().map(|c| c.version), Some(1));
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(1));
    }
}

#[test]
fn a_peer_without_window_scaling_hears_no_window_updates_that_say_nothing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        for n in 0..10 {
            let out = script.send_data(&keys, &mut flow, n * 100, 0, &stream(n * 100, 100));
            assert!(out.len() == 1 && out[0].window == u16::MAX, "{out:?}");
            script.expect_stream(id, n * 100, 100);
            assert!(script.out().is_empty(), "the window field cannot grow");
        }
    });
}
