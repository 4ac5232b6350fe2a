//! Opening a connection: `MP_CAPABLE` in every form, as server and as client (RFC 8684 §3.1).

use crate::harness::*;
use mptcp_core::config::ChecksumPolicy;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::key;
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{
    CapableFlags, CapableForm, MpCapable, MpJoin, MptcpOption, TcpFlags, TcpOption, Version,
    WireSeq, checksum, reset_reason,
};

const H: CapableFlags = CapableFlags::HMAC;

/// Sends `seg` as a SYN and answers the SYN/ACK, which must come.
fn syn_ack(script: &mut Script, flow: &mut Flow, seg: &Seg) -> Out {
    let out = script.send(flow, seg);
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(syn_ack.flags, TcpFlags::SYN | TcpFlags::ACK);
    assert_eq!(syn_ack.ack, flow.isn.wrapping_add(1));
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(1);
    syn_ack.clone()
}

/// An `MP_CAPABLE` SYN of version `v` by hand.
fn raw_offer(v: Version, flags: u8) -> Vec<u8> {
    match v {
        Version::V0 => vec![30, 12, 0x00, flags, 1, 2, 3, 4, 5, 6, 7, 8],
        Version::V1 => vec![30, 4, 0x01, flags],
    }
}

/// A SYN with `option` makes a TCP connection; `reason` says why, or that nothing was offered.
fn plain_answer_to(option: &[u8], reason: impl Into<Option<FallbackReason>>) {
    let mut script = Script::server(Version::V1);
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let seg = flow.syn().raw(option);
    let answer = syn_ack(&mut script, &mut flow, &seg);
    assert!(answer.mptcp().is_empty(), "{option:x?} was answered with {answer:?}");
    plain_because(&mut script, &flow, reason);
}

/// The third ACK of `flow` makes a TCP connection that says why it is one.
fn plain_because(script: &mut Script, flow: &Flow, reason: impl Into<Option<FallbackReason>>) {
    let reason = reason.into();
    script.send(flow, &flow.seg());
    let id = script.accept().expect("plain TCP");
    let expected = reason.or(Some(FallbackReason::SynWithoutCapable));
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (None, expected));
    assert_eq!(script.counters().fallback, u64::from(reason.is_some()));
}

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
        let (keys, ..) = script.connected_with(H | CapableFlags::CHECKSUM);
        assert!(keys.checksum);
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
fn t11_first_data_makes_up_for_a_lost_third_ack() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 100);
        let out = script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(100)), "{out:?}");
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn t12_the_syn_ack_is_repeated_and_the_third_ack_answers() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, first) = script.half_open(4000, H);
        let again = script.advance(1_100);
        let [again] = again.as_slice() else { panic!("{again:?}") };
        assert_eq!((again.seq, again.capable()), (first.seq, first.capable()));
        let keys = Keys::of(v, &first, false);
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));

        // As a client: a repeated SYN/ACK is answered with the third ACK, keys included.
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, _) = script.connected();
        let out = script.answer(&mut flow, &[capable(v, H, CapableForm::Key(PEER_KEY))]);
        let form = out[0].capable().map(|c| c.form);
        assert_eq!(form, Some(CapableForm::Keys { sender: keys.stack, receiver: PEER_KEY }));
    });
}

#[test]
fn t15_a_third_ack_without_keys_means_plain_tcp_for_good() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, _) = script.half_open(4000, H);
        script.send(&flow, &flow.seg());
        let id = script.accept().expect("established");
        let mut out = script.send(&flow, &flow.seg().data(b"hello"));
        assert_eq!(script.read(id).expect("plain data"), b"hello");
        out.extend(script.write(id, 0, 5000));
        out.extend(script.advance(3_000));
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
        assert_eq!(script.counters().mp_capable_fallback_ack, 1);
        assert_eq!(script.counters().fallback, 1);
    });
}

#[test]
fn t15_a_window_without_keys_is_asked_about_once() {
    let v = Version::V1;
    let mut script = Script::server(v);
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys::of(v, &answer, false);
    // Third ACK and first data are lost, the rest of the window arrives.
    let start = flow.snd_nxt;
    for n in 1..10_u32 {
        flow.snd_nxt = start.wrapping_add(100 * n);
        let data = stream(100 * u64::from(n), 100);
        let seg = flow.seg().dss(keys.map(100 * u64::from(n), 1 + 100 * n, 100)).data(&data);
        let out = script.send(&flow, &seg);
        assert_eq!(out.len(), usize::from(n == 1), "{out:?}");
    }
    assert!(script.accept().is_none());
    flow.snd_nxt = start;
    let data = stream(0, 100);
    script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(1), None));

    // Asked three times, each time with more patience, a peer without keys speaks plain TCP.
    let mut script = Script::server(v);
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys::of(v, &answer, false);
    flow.snd_nxt = flow.snd_nxt.wrapping_add(100);
    let data = stream(100, 100);
    let seg = flow.seg().dss(keys.map(100, 101, 100)).data(&data);
    // After a second the SYN/ACK was repeated on its own account, which starts the last wait anew.
    for patience in [0, 200, 400, 1_400] {
        assert!(script.accept().is_none());
        script.advance(patience);
        script.send(&flow, &seg);
    }
    let id = script.accept().expect("established");
    assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
}

#[test]
fn a_wrong_key_echo_means_plain_tcp() {
    both(|v| {
        let mut wrong = vec![(PEER_KEY, 1), (0, 0)];
        if v == Version::V0 {
            // Its SYN showed another key.
            wrong.push((PEER_KEY ^ 1, 0));
        }
        for (sender, flip) in wrong {
            let mut script = Script::server(v);
            let (flow, answer) = script.half_open(4000, H);
            let keys = Keys::of(v, &answer, false);
            let form = CapableForm::Keys { sender, receiver: keys.stack ^ flip };
            script.send(&flow, &flow.seg().opt(&capable(v, H, form)));
            let id = script.accept().expect("established");
            assert_eq!(script.info(id).mptcp, None);
        }
    });
}

#[test]
fn t16_copies_of_the_first_data_option_are_one_mapping() {
    both(|v| {
        let mut script = Script::server(v);
        let (mut flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 2000);
        let option = keys.first_data(&data);
        script.send(&flow, &flow.seg().opt(&option).data(&data[..1000]));
        flow.snd_nxt += 1000;
        let out = script.send(&flow, &flow.seg().opt(&option).data(&data[1000..]));
        let id = script.accept().expect("established");
        script.expect_stream(id, 0, 2000);
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(2000)), "{out:?}");
    });
}

#[test]
fn t17_first_data_with_checksum_has_24_octets() {
    let v = Version::V1;
    for (cut, good) in [(false, true), (true, false)] {
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H | CapableFlags::CHECKSUM);
        let keys = Keys::of(v, &answer, true);
        let data = stream(0, 11);
        let mut option = keys.first_data(&data);
        if cut && let MptcpOption::Capable(MpCapable { form, .. }) = &mut option {
            // The form without checksum although the A bit is set.
            *form = CapableForm::Data {
                sender: PEER_KEY,
                receiver: keys.stack,
                data_len: 11,
                checksum: None,
            };
        }
        let out = script.send(&flow, &flow.seg().opt(&option).data(&data));
        let id = script.accept().expect("established");
        if good {
            script.expect_stream(id, 0, 11);
        } else {
            assert!(out[0].rst(), "{out:?}");
            out[0].assert_reset(reset_reason::MPTCP_SPECIFIC, false);
        }
    }
}

#[test]
fn t18_data_of_both_sides_crosses() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 50);
        let mapping = out[0].mapping().expect("a DSS");
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == 1 && mapping.len == 50);
        let data = stream(0, 30);
        let out = script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(30)));
        script.expect_stream(id, 0, 30);
        // The same range again as an ordinary mapping agrees with it.
        let again = flow.seg().dss(keys.map(0, 1, 30)).data(&data);
        let out = script.send(&flow, &again);
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    });
}

#[test]
fn t19_an_answer_of_another_version_is_not_usable() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (flow, id, _) = script.connect();
        let mut seg = flow.syn().acks(flow.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
        let other = 1 - v as u8;
        seg = seg.raw(&[30, 12, other, 0x01, 1, 2, 3, 4, 5, 6, 7, 8]);
        let out = script.send(&flow, &seg);
        assert!(out[0].mptcp().is_empty(), "{out:?}");
        assert_eq!(script.fallback(id), Some(FallbackReason::SynAckWithoutCapable));
        assert!(script.ready(id).contains(Ready::CONNECTED));
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
fn t22_unanswered_syns_end_without_the_option() {
    both(|v| {
        let mut script = Script::new(v, |c| c.mptcp.capable_syn_tries = 2);
        let (mut flow, id, first) = script.connect();
        let form = first.capable().expect("MP_CAPABLE").form;
        assert!(matches!(
            (v, form),
            (Version::V1, CapableForm::Syn) | (Version::V0, CapableForm::Key(_))
        ));
        let later = script.advance(8_000);
        let offers: Vec<bool> = later.iter().map(|o| o.capable().is_some()).collect();
        assert_eq!(offers, [true, false, false], "{later:?}");
        assert!(later.iter().all(|o| o.seq == first.seq), "the ISN stays");
        assert_eq!(script.counters().mp_capable_syn_tx_drop, 1);
        let out = script.answer(&mut flow, &[]);
        assert!(out[0].mptcp().is_empty());
        assert_eq!(script.fallback(id), Some(FallbackReason::CapableSynUnanswered));
        assert_eq!(script.counters().fallback, 1);
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
fn tokens_and_idsn_follow_from_the_keys() {
    both(|v| {
        // Known answers for the key of the scripted peer.
        let (token, idsn) = match v {
            Version::V0 => (0xdd57_83bc, 0x3a95_ed6e_4ebb_4ad5),
            Version::V1 => (0x6684_0dda, 0xf5a1_01d3_d29d_6f72),
        };
        assert_eq!((key::token(v, PEER_KEY), key::idsn(v, PEER_KEY).0), (token, idsn));
        // The first octet of either stream is IDSN + 1.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 1));
        assert_eq!(out[0].data_ack(), Some(keys.wire(mptcp_core::seq::DataSeq(idsn + 2))));
        let out = script.write(id, 0, 1);
        let dsn = key::idsn(v, keys.stack).0 + 1;
        assert!(same(out[0].mapping().expect("a mapping").dsn, mptcp_core::seq::DataSeq(dsn)));
    });
}

#[test]
fn a_client_sends_both_keys_until_the_peer_shows_it_has_them() {
    let v = Version::V1;
    let mut script = Script::new(v, |_| {});
    let (mut flow, id, syn) = script.connect();
    assert_eq!(syn.capable(), Some(MpCapable { version: 1, flags: H, form: CapableForm::Syn }));
    assert!(syn.tcp_options().iter().any(|o| matches!(o, TcpOption::MaxSegmentSize(1460))));
    let out = script.answer(&mut flow, &[capable(v, H, CapableForm::Key(PEER_KEY))]);
    let third = out[0].capable().expect("third ACK");
    let CapableForm::Keys { sender, receiver: PEER_KEY } = third.form else { panic!("{third:?}") };
    let keys = Keys { peer: PEER_KEY, stack: sender, checksum: false, version: v };
    assert_eq!(script.info(id).mptcp, Some(v as u8));
    // Data: keys and length, instead of a DSS; DSN and SSN are implied.
    let out = script.write(id, 0, 20);
    let form = out[0].capable().map(|c| c.form);
    let data = CapableForm::Data { sender, receiver: PEER_KEY, data_len: 20, checksum: None };
    assert_eq!(form, Some(data));
    // Lost: the retransmission repeats it.
    let again = script.advance(3_000);
    assert!(!again.is_empty());
    assert!(again.iter().all(|o| o.capable().map(|c| c.form) == Some(data)), "{again:?}");
    // The DATA_ACK ends it.
    flow.rcv_nxt = flow.rcv_nxt.wrapping_add(20);
    script.send(&flow, &flow.seg().dss(keys.ack(20)));
    let out = script.write(id, 20, 20);
    assert_eq!(out[0].capable(), None);
    let mapping = out[0].mapping().expect("a DSS");
    assert!(same(mapping.dsn, keys.stack_dsn(20)) && mapping.ssn == 21 && mapping.len == 20);
}

/// Version 0 shows the keys once; its first data has an ordinary DSS.
#[test]
fn a_version_0_client_maps_its_first_data() {
    let v = Version::V0;
    let mut script = Script::new(v, |_| {});
    let (mut flow, id, syn) = script.connect();
    let Some(CapableForm::Key(stack)) = syn.capable().map(|c| c.form) else { panic!("{syn:?}") };
    let out = script.answer(&mut flow, &[capable(v, H, CapableForm::Key(PEER_KEY))]);
    let keys = Keys { peer: PEER_KEY, stack, checksum: false, version: v };
    let form = CapableForm::Keys { sender: stack, receiver: PEER_KEY };
    assert_eq!(out[0].capable(), Some(MpCapable { version: 0, flags: H, form }));
    let first = script.write(id, 0, 20);
    let again = script.advance(3_000);
    for packet in first.iter().chain(&again) {
        let mapping = packet.mapping().expect("a DSS");
        assert_eq!(mapping.dsn, WireSeq::Low(keys.stack_dsn(0).0 as u32));
        assert_eq!((mapping.ssn, mapping.len, packet.capable()), (1, 20, None));
        assert_eq!(packet.data_ack(), Some(WireSeq::Low(keys.peer_dsn(0).0 as u32)));
    }
    assert!(!again.is_empty());
    flow.hears(&first);
    script.send(&flow, &flow.seg().dss(keys.ack(20)));
    assert_eq!((script.info(id).bytes_acked, script.info(id).mptcp), (20, Some(0)));
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
fn a_server_that_speaks_first_proves_the_keys_arrived() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(10)), "{out:?}");
        assert_eq!(out[0].capable(), None);
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn data_that_overtakes_the_keys_waits_for_them() {
    both(|v| {
        // The third ACK is lost and the second data segment, which has an ordinary DSS, comes first.
        let mut script = Script::server(v);
        let (mut flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 200);
        let first = flow.seg().opt(&keys.first_data(&data[..100])).data(&data[..100]);
        flow.snd_nxt += 100;
        let second = flow.seg().dss(keys.map(100, 101, 100)).data(&data[100..]);
        script.send(&flow, &second);
        script.send(&flow, &first);
        script.send(&flow, &second);
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        script.expect_stream(id, 0, 200);
    });
}

#[test]
fn a_dss_without_keys_asks_for_them_again_unless_they_are_known() {
    both(|v| {
        // The third ACK is lost; the client has nothing to send and closes: DATA_FIN on a pure ACK.
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)));
        assert_eq!(out.len(), 1, "{out:?}");
        if v == Version::V1 {
            assert_eq!((out[0].flags, out[0].capable()), (answer.flags, answer.capable()));
            script.send(&flow, &flow.seg().opt(&keys.third()));
        }
        // In version 0 the SYN had the key, and the DSS shows that options pass.
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        script.send(&flow, &flow.seg().dss(keys.fin(0)));
        assert!(script.at_end(id));
    });
}

#[test]
fn simultaneous_open_falls_back() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (mut flow, id, _) = script.connect();
        let out = script.send(&flow, &flow.syn().opt(&offer(v, H)));
        assert_eq!(out[0].flags, TcpFlags::SYN | TcpFlags::ACK);
        flow.snd_nxt = flow.isn + 1;
        script.send(&flow, &flow.seg());
        assert!(script.ready(id).contains(Ready::CONNECTED));
        assert_eq!(script.fallback(id), Some(FallbackReason::SimultaneousOpen));
        let out = script.write(id, 0, 10);
        assert_eq!(out[0].payload, stream(0, 10));
        assert!(out[0].mptcp().is_empty());
    });
}

#[test]
fn t24_a_peer_that_denies_joins_gets_none_at_its_first_address() {
    both(|v| {
        let fullmesh = |c: &mut mptcp_core::config::StackConfig| {
            c.mptcp.path_manager = mptcp_core::config::PathManagerKind::Fullmesh;
        };
        for deny in [false, true] {
            let mut script = Script::new(v, fullmesh);
            // In version 0 the bit names an algorithm.
            let flags = if deny { H | CapableFlags::DENY_JOIN } else { H };
            let (keys, flow, _) = script.connected_with(flags);
            let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
            let joins = out.iter().filter(|o| matches!(o.join(), Some(MpJoin::Syn { .. }))).count();
            assert_eq!(joins, usize::from(!deny || v == Version::V0), "{out:?}");
        }
    });
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

/// `MP_CAPABLE` with data maps the first octets of the subflow, whatever else was sent before it.
#[test]
fn t11_only_the_first_octet_of_the_subflow_goes_with_the_keys() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        let out = script.write(id, 0, 1_000);
        assert!(out[0].capable().is_some() == (v == Version::V1) && !out[0].payload.is_empty());
        flow.hears(&out);
        // TCP acknowledges it beside a signal that leaves no room for a DATA_ACK.
        let out = script.send(&flow, &flow.seg().raw(&[30, 3, 0x50]));
        assert!(out.is_empty() && script.fallback(id).is_none(), "{out:?}");
        let out = script.advance(20_000);
        assert!(!out.is_empty(), "it asks for the DATA_ACK");
        assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        let out = script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
        assert_eq!(
            (script.info(id).bytes_acked, script.info(id).mptcp),
            (1_000, Some(v as u8)),
            "{out:?}"
        );
    });
}

/// Which version a client offers `P1:PORT` next; the attempt is answered with `answer`.
fn next_offer(script: &mut Script, answer: Option<u8>) -> Option<u8> {
    let (mut flow, id, syn) = script.connect();
    let offered = syn.capable().map(|c| c.version);
    let key = CapableForm::Key(PEER_KEY);
    let option =
        answer.map(|version| MptcpOption::Capable(MpCapable { version, flags: H, form: key }));
    script.answer(&mut flow, option.as_slice());
    script.send(&flow, &flow.seg().flags(TcpFlags::RST | TcpFlags::ACK));
    script.stack.abort(script.now, id);
    script.forget(id);
    script.out();
    offered
}

/// What a client of both versions offers a destination follows from how that one answered before,
/// and from nobody else's answers (RFC 8684 §3.1).
#[test]
fn a_client_remembers_which_version_a_destination_speaks() {
    let both = [Version::V0, Version::V1];
    let mut script = Script::serving(&both, Version::V1, |_| {});
    // Version 1 is answered with plain TCP: version 0 is tried, works, and is offered from then on.
    assert_eq!(next_offer(&mut script, None), Some(1));
    script.version = Version::V0;
    assert_eq!(next_offer(&mut script, Some(0)), Some(0));
    script.advance(3_600_000);
    assert_eq!(next_offer(&mut script, Some(0)), Some(0));
    // A day later version 1 has its chance again, and keeps it when it works.
    script.advance(25 * 3_600_000);
    script.version = Version::V1;
    assert_eq!(next_offer(&mut script, Some(1)), Some(1));
    assert_eq!(next_offer(&mut script, Some(1)), Some(1));

    // A peer that speaks neither is asked for version 0 once, and then for a while not for version 1.
    let mut script = Script::serving(&both, Version::V1, |_| {});
    assert_eq!(next_offer(&mut script, None), Some(1));
    script.version = Version::V0;
    assert_eq!(next_offer(&mut script, None), Some(0));
    script.version = Version::V1;
    assert_eq!(next_offer(&mut script, None), Some(1));
}

/// SYNs that vanish with the option on them: the destination is left alone for a while.
#[test]
fn t22_a_destination_that_swallows_the_option_is_remembered() {
    both(|v| {
        let mut script = Script::new(v, |c| c.mptcp.capable_syn_tries = 1);
        let (mut flow, id, _) = script.connect();
        let out = script.advance(2_000);
        assert!(out.last().is_some_and(|o| o.capable().is_none()), "{out:?}");
        script.answer(&mut flow, &[]);
        script.stack.abort(script.now, id);
        script.forget(id);
        script.out();
        assert_eq!(next_offer(&mut script, None), None);
        script.advance(11 * 60_000);
        assert_eq!(next_offer(&mut script, None), Some(v as u8));
    });
}

/// Both keys, an announcement and timestamps use every octet that options may have.
#[test]
fn t120_a_third_ack_with_an_announcement_fills_the_option_area() {
    let v = Version::V0;
    let mut script = Script::server_with(v, |c| c.tcp.timestamps = true);
    let stamps = |tsval: u32, tsecr: u32| {
        [&[1, 1, 8, 10][..], &tsval.to_be_bytes(), &tsecr.to_be_bytes()].concat()
    };
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let seg = flow.syn().raw(&stamps(1, 0)).opt(&offer(v, H));
    let answer = syn_ack(&mut script, &mut flow, &seg);
    let keys = Keys::of(v, &answer, false);
    let ts = answer.tcp_options().iter().find_map(|o| match o {
        TcpOption::Timestamps { tsval, .. } => Some(*tsval),
        _ => None,
    });
    let stamps = stamps(2, ts.expect("timestamps are agreed on"));
    let third = flow.seg().raw(&stamps).opt(&keys.third()).raw(&[30, 8, 0x34, 3, 10, 2, 0, 2]);
    assert_eq!(third.option_len(), 40);
    let out = script.send(&flow, &third);
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(0), None));
    assert_eq!(script.counters().add_addr, 1, "the address is known");
}
