//! Opening a connection: `MP_CAPABLE` in every form, as server and as client (RFC 8684 §3.1).

use crate::harness::*;
use mptcp_core::config::ChecksumPolicy;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::key;
use mptcp_core::stack::Ready;
use mptcp_core::wire::{
    CapableFlags, CapableForm, MpCapable, MpJoin, MptcpOption, TcpFlags, TcpOption, Version,
    WireSeq, checksum, reset_reason,
};

const H: CapableFlags = CapableFlags::HMAC;

fn third(keys: &Keys) -> MptcpOption<'static> {
    let mut flags = H;
    flags.set(CapableFlags::CHECKSUM, keys.checksum);
    capable(flags, CapableForm::Keys { sender: keys.peer, receiver: keys.stack })
}

/// `MP_CAPABLE` with the first data.
fn first_data(keys: &Keys, payload: &[u8]) -> MptcpOption<'static> {
    let mapping = keys.mapping(0, 1, payload);
    let form = CapableForm::Data {
        sender: keys.peer,
        receiver: keys.stack,
        data_len: payload.len() as u16,
        checksum: mapping.checksum,
    };
    let mut flags = H;
    flags.set(CapableFlags::CHECKSUM, keys.checksum);
    capable(flags, form)
}

fn stack_key(syn_ack: &Out) -> u64 {
    match syn_ack.capable().map(|c| c.form) {
        Some(CapableForm::Key(key)) => key,
        other => panic!("no key: {other:?}"),
    }
}

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

/// A SYN with `option` makes a TCP connection; `reason` says why, or that nothing was offered.
fn plain_answer_to(option: &[u8], reason: impl Into<Option<FallbackReason>>) {
    let mut script = Script::server();
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
    let mut script = Script::server();
    let (_, answer) = script.half_open(4000, H);
    let option = answer.capable().expect("MP_CAPABLE");
    assert_eq!((option.version, option.flags), (1, H));
    assert_ne!(stack_key(&answer), 0);
    assert_eq!(answer.mptcp().len(), 1);
    let bytes = answer.options.windows(2).any(|w| w == [30, 12]);
    assert!(bytes, "the option has 12 octets: {:?}", answer.options);
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
        let mut script = Script::server();
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let seg = flow.syn().raw(&[30, 4, version, 0x01]);
        let answer = syn_ack(&mut script, &mut flow, &seg);
        let option = answer.capable().expect("MP_CAPABLE");
        assert_eq!((option.version, option.flags), (1, H));
    }
}

#[test]
fn t05_no_algorithm_means_plain_tcp() {
    plain_answer_to(&[30, 4, 0x01, 0x00], FallbackReason::CapableAlgorithm);
    plain_answer_to(&[30, 4, 0x01, 0x80], FallbackReason::CapableAlgorithm);
}

#[test]
fn t06_of_several_algorithms_one_is_chosen() {
    let mut script = Script::server();
    let (_, answer) = script.half_open(4000, CapableFlags::from_bits_retain(0x1f));
    assert_eq!(answer.capable().expect("MP_CAPABLE").flags, H);
}

#[test]
fn t07_the_extensibility_bit_makes_it_plain_tcp() {
    plain_answer_to(&[30, 4, 0x01, 0x41], FallbackReason::CapableExtensibility);
}

#[test]
fn t08_checksums_are_used_when_either_side_asks() {
    // The peer asks.
    let mut script = Script::server();
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
    let mut script = Script::server_with(|c| c.mptcp.checksum = ChecksumPolicy::Require);
    let (keys, ..) = script.confirmed();
    assert!(keys.checksum);
    // As a client we repeat the server's wish in the third ACK (asserted by `connected_with`).
    let mut script = Script::new(|_| {});
    let (keys, ..) = script.connected_with(H | CapableFlags::CHECKSUM);
    assert!(keys.checksum);
    let mut script = Script::new(|c| c.mptcp.checksum = ChecksumPolicy::Require);
    let (mut flow, _, syn) = script.connect();
    assert_eq!(syn.capable().expect("MP_CAPABLE").flags, H | CapableFlags::CHECKSUM);
    let out = script.answer(&mut flow, &[capable(H, CapableForm::Key(PEER_KEY))]);
    assert!(out[0].capable().expect("third ACK").flags.contains(CapableFlags::CHECKSUM));
}

#[test]
fn t09_refused_checksums_mean_plain_tcp() {
    let refuse = |c: &mut mptcp_core::config::StackConfig| {
        c.mptcp.checksum = ChecksumPolicy::Refuse;
    };
    let mut script = Script::server_with(refuse);
    let (flow, answer) = script.half_open(4000, H | CapableFlags::CHECKSUM);
    assert!(answer.mptcp().is_empty());
    plain_because(&mut script, &flow, FallbackReason::ChecksumRefused);
    // A server that insists: our client falls back.
    let mut script = Script::new(refuse);
    let (mut flow, id, _) = script.connect();
    let options = [capable(H | CapableFlags::CHECKSUM, CapableForm::Key(PEER_KEY))];
    let out = script.answer(&mut flow, &options);
    assert!(out[0].mptcp().is_empty(), "{out:?}");
    assert_eq!(script.fallback(id), Some(FallbackReason::SynAckWithoutCapable));
    // The wish comes in the third ACK only.
    let mut script = Script::server_with(refuse);
    let (flow, answer) = script.half_open(4000, H);
    let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack_key(&answer) };
    script.send(&flow, &flow.seg().opt(&capable(H | CapableFlags::CHECKSUM, form)));
    let id = script.accept().expect("plain TCP");
    assert_eq!(script.info(id).mptcp, None);
}

#[test]
fn t10_a_plain_syn_never_meets_an_option() {
    let mut script = Script::server();
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
}

#[test]
fn t11_first_data_makes_up_for_a_lost_third_ack() {
    let mut script = Script::server();
    let (flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
    let data = stream(0, 100);
    let out = script.send(&flow, &flow.seg().opt(&first_data(&keys, &data)).data(&data));
    let id = script.accept().expect("established");
    assert_eq!(script.info(id).mptcp, Some(1));
    assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(100)), "{out:?}");
    script.expect_stream(id, 0, 100);
}

#[test]
fn t12_the_syn_ack_is_repeated_and_the_third_ack_answers() {
    let mut script = Script::server();
    let (flow, first) = script.half_open(4000, H);
    let again = script.advance(1_100);
    let [again] = again.as_slice() else { panic!("{again:?}") };
    assert_eq!((again.seq, again.capable()), (first.seq, first.capable()));
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&first), checksum: false };
    script.send(&flow, &flow.seg().opt(&third(&keys)));
    let id = script.accept().expect("established");
    assert_eq!(script.info(id).mptcp, Some(1));

    // As a client: a repeated SYN/ACK is answered with the third ACK, keys included.
    let mut script = Script::new(|_| {});
    let (keys, mut flow, _) = script.connected();
    let out = script.answer(&mut flow, &[capable(H, CapableForm::Key(PEER_KEY))]);
    let form = out[0].capable().map(|c| c.form);
    assert_eq!(form, Some(CapableForm::Keys { sender: keys.stack, receiver: PEER_KEY }));
}

#[test]
fn t15_a_third_ack_without_keys_means_plain_tcp_for_good() {
    let mut script = Script::server();
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
}

#[test]
fn t15_a_window_without_keys_is_asked_about_once() {
    let mut script = Script::server();
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
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
    script.send(&flow, &flow.seg().opt(&first_data(&keys, &data)).data(&data));
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(1), None));

    // Asked three times, each time with more patience, a peer without keys speaks plain TCP.
    let mut script = Script::server();
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
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
    for (sender, flip) in [(PEER_KEY, 1), (0, 0)] {
        let mut script = Script::server();
        let (flow, answer) = script.half_open(4000, H);
        let form = CapableForm::Keys { sender, receiver: stack_key(&answer) ^ flip };
        script.send(&flow, &flow.seg().opt(&capable(H, form)));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, None);
    }
}

#[test]
fn t16_copies_of_the_first_data_option_are_one_mapping() {
    let mut script = Script::server();
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
    let data = stream(0, 2000);
    let option = first_data(&keys, &data);
    script.send(&flow, &flow.seg().opt(&option).data(&data[..1000]));
    flow.snd_nxt += 1000;
    let out = script.send(&flow, &flow.seg().opt(&option).data(&data[1000..]));
    let id = script.accept().expect("established");
    script.expect_stream(id, 0, 2000);
    assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(2000)), "{out:?}");
}

#[test]
fn t17_first_data_with_checksum_has_24_octets() {
    for (cut, good) in [(false, true), (true, false)] {
        let mut script = Script::server();
        let (flow, answer) = script.half_open(4000, H | CapableFlags::CHECKSUM);
        let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: true };
        let data = stream(0, 11);
        let mut option = first_data(&keys, &data);
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
            assert_eq!(out[0].reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)));
        }
    }
}

#[test]
fn t18_data_of_both_sides_crosses() {
    let mut script = Script::server();
    let (keys, flow, id) = script.unconfirmed();
    let out = script.write(id, 0, 50);
    let mapping = out[0].mapping().expect("a DSS");
    assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == 1 && mapping.len == 50);
    let data = stream(0, 30);
    let out = script.send(&flow, &flow.seg().opt(&first_data(&keys, &data)).data(&data));
    assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(30)));
    script.expect_stream(id, 0, 30);
    // The same range again as an ordinary mapping agrees with it.
    let again = flow.seg().dss(keys.map(0, 1, 30)).data(&data);
    let out = script.send(&flow, &again);
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
}

#[test]
fn t19_an_answer_of_another_version_is_not_usable() {
    let mut script = Script::new(|_| {});
    let (flow, id, _) = script.connect();
    let mut seg = flow.syn().acks(flow.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
    seg = seg.raw(&[30, 12, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8]);
    let out = script.send(&flow, &seg);
    assert!(out[0].mptcp().is_empty(), "{out:?}");
    assert_eq!(script.fallback(id), Some(FallbackReason::SynAckWithoutCapable));
    assert!(script.ready(id).contains(Ready::CONNECTED));
}

#[test]
fn t20_a_repeated_syn_without_the_option_means_plain_tcp() {
    let mut script = Script::server();
    let (flow, _) = script.half_open(4000, H);
    let out = script.send(&flow, &flow.syn().seq(flow.isn));
    assert!(out[0].is(TcpFlags::SYN) && out[0].mptcp().is_empty(), "{out:?}");
    assert_eq!(script.stack.occupancy().tokens, 0, "nobody needs the token any more");
    plain_because(&mut script, &flow, FallbackReason::SynRepeatedWithoutCapable);
}

#[test]
fn t22_unanswered_syns_end_without_the_option() {
    let mut script = Script::new(|c| c.mptcp.capable_syn_tries = 2);
    let (mut flow, id, first) = script.connect();
    assert_eq!(first.capable().expect("MP_CAPABLE").form, CapableForm::Syn);
    let later = script.advance(8_000);
    let offers: Vec<bool> = later.iter().map(|o| o.capable().is_some()).collect();
    assert_eq!(offers, [true, false, false], "{later:?}");
    assert!(later.iter().all(|o| o.seq == first.seq), "the ISN stays");
    assert_eq!(script.counters().mp_capable_syn_tx_drop, 1);
    let out = script.answer(&mut flow, &[]);
    assert!(out[0].mptcp().is_empty());
    assert_eq!(script.fallback(id), Some(FallbackReason::CapableSynUnanswered));
    assert_eq!(script.counters().fallback, 1);
}

#[test]
fn t23_without_a_free_token_no_key_is_offered() {
    // Every bit of the token is prescribed: the first key that fits would take 2^32 draws.
    let impossible = |c: &mut mptcp_core::config::StackConfig| {
        (c.token_mask, c.token_value) = (u32::MAX, 1);
    };
    let mut script = Script::server_with(impossible);
    let (flow, answer) = script.half_open(4000, H);
    assert!(answer.mptcp().is_empty());
    assert_eq!(script.counters().mp_fallback_token_init, 1);
    plain_because(&mut script, &flow, FallbackReason::NoToken);
    let mut script = Script::new(impossible);
    let (_, id, syn) = script.connect();
    assert!(syn.mptcp().is_empty());
    assert_eq!(script.info(id).mptcp, None);
    assert_eq!(script.fallback(id), Some(FallbackReason::NoToken));
    assert_eq!(script.counters().fallback, 1);

    // Some bits are prescribed: keys are drawn until they fit, and tokens differ.
    for (mask, value) in [(3, 2), (0x3f, 0x25), (0xff00_0000, 0x1200_0000)] {
        let mut script = Script::server_with(|c| (c.token_mask, c.token_value) = (mask, value));
        let mut tokens = Vec::new();
        for port in 4000..4020 {
            let (_, answer) = script.half_open(port, H);
            tokens.push(key::token(Version::V1, stack_key(&answer)));
        }
        assert!(tokens.iter().all(|t| t & mask == value));
        tokens.dedup();
        assert_eq!(tokens.len(), 20);
    }
}

#[test]
fn the_token_of_a_pending_request_is_taken_but_leads_nowhere() {
    let mut script = Script::server();
    let (flow, answer) = script.half_open(4000, H);
    assert_eq!(script.stack.occupancy().tokens, 1);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
    let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
    let out = script.join_syn(&keys, &mut join, false);
    assert!(out[0].rst(), "{out:?}");
    assert_eq!(script.counters().mp_join_no_token_found, 1);
    // Given up: free again. Established: the connection's.
    script.send(&flow, &flow.seg().flags(TcpFlags::RST));
    assert_eq!(script.stack.occupancy().tokens, 0);
    script.confirmed();
    assert_eq!(script.stack.occupancy().tokens, 1);
}

#[test]
fn t25_contradictory_and_broken_options_have_one_result() {
    let capable_syn = [30, 4, 0x01, 0x01];
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
        &[&capable_syn[..], &[30, 4, 0x01, 0x81]].concat(),
        FallbackReason::ContradictoryOptions,
    );
    // Lengths 0, 1, 2, 255, and one past the end of the header.
    for len in [0, 1, 2, 255, 5] {
        plain_answer_to(&[30, len, 0x01, 0x01], None);
    }
    // A copy of the same option is the same option.
    let mut script = Script::server();
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let seg = flow.syn().raw(&capable_syn).raw(&capable_syn);
    assert!(syn_ack(&mut script, &mut flow, &seg).capable().is_some());
}

#[test]
fn tokens_and_idsn_follow_from_the_keys() {
    // Known answers for the key of the scripted peer.
    assert_eq!(key::token(Version::V1, PEER_KEY), 0x6684_0dda);
    assert_eq!(key::idsn(Version::V1, PEER_KEY).0, 0xf5a1_01d3_d29d_6f72);
    // The first octet of either stream is IDSN + 1.
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 1));
    assert_eq!(out[0].data_ack(), Some(WireSeq::Full(0xf5a1_01d3_d29d_6f72 + 2)));
    let out = script.write(id, 0, 1);
    let dsn = key::idsn(Version::V1, keys.stack).0 + 1;
    assert!(same(out[0].mapping().expect("a mapping").dsn, mptcp_core::seq::DataSeq(dsn)));
}

#[test]
fn a_client_sends_both_keys_until_the_peer_shows_it_has_them() {
    let mut script = Script::new(|_| {});
    let (mut flow, id, syn) = script.connect();
    assert_eq!(syn.capable(), Some(MpCapable { version: 1, flags: H, form: CapableForm::Syn }));
    assert!(syn.tcp_options().iter().any(|o| matches!(o, TcpOption::MaxSegmentSize(1460))));
    let out = script.answer(&mut flow, &[capable(H, CapableForm::Key(PEER_KEY))]);
    let third = out[0].capable().expect("third ACK");
    let CapableForm::Keys { sender, receiver: PEER_KEY } = third.form else { panic!("{third:?}") };
    let keys = Keys { peer: PEER_KEY, stack: sender, checksum: false };
    assert_eq!(script.info(id).mptcp, Some(1));
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

#[test]
fn a_server_that_speaks_first_proves_the_keys_arrived() {
    let mut script = Script::new(|_| {});
    let (keys, mut flow, id) = script.connected();
    let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
    assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(10)), "{out:?}");
    assert_eq!(out[0].capable(), None);
    script.expect_stream(id, 0, 10);
}

#[test]
fn data_that_overtakes_the_keys_waits_for_them() {
    // The third ACK is lost and the second data segment, which has an ordinary DSS, comes first.
    let mut script = Script::server();
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
    let data = stream(0, 200);
    let first = flow.seg().opt(&first_data(&keys, &data[..100])).data(&data[..100]);
    flow.snd_nxt += 100;
    let second = flow.seg().dss(keys.map(100, 101, 100)).data(&data[100..]);
    script.send(&flow, &second);
    script.send(&flow, &first);
    script.send(&flow, &second);
    let id = script.accept().expect("established");
    assert_eq!(script.info(id).mptcp, Some(1));
    script.expect_stream(id, 0, 200);
}

#[test]
fn a_dss_without_keys_asks_for_them_again() {
    // The third ACK is lost; the client has nothing to send and closes: DATA_FIN on a pure ACK.
    let mut script = Script::server();
    let (flow, answer) = script.half_open(4000, H);
    let keys = Keys { peer: PEER_KEY, stack: stack_key(&answer), checksum: false };
    let out = script.send(&flow, &flow.seg().dss(keys.fin(0)));
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!((out[0].flags, out[0].capable()), (answer.flags, answer.capable()));
    script.send(&flow, &flow.seg().opt(&third(&keys)));
    let id = script.accept().expect("established");
    assert_eq!(script.info(id).mptcp, Some(1));
    script.send(&flow, &flow.seg().dss(keys.fin(0)));
    assert!(script.at_end(id));
}

#[test]
fn simultaneous_open_falls_back() {
    let mut script = Script::new(|_| {});
    let (mut flow, id, _) = script.connect();
    let out = script.send(&flow, &flow.syn().opt(&capable(H, CapableForm::Syn)));
    assert_eq!(out[0].flags, TcpFlags::SYN | TcpFlags::ACK);
    flow.snd_nxt = flow.isn + 1;
    script.send(&flow, &flow.seg());
    assert!(script.ready(id).contains(Ready::CONNECTED));
    assert_eq!(script.fallback(id), Some(FallbackReason::SimultaneousOpen));
    let out = script.write(id, 0, 10);
    assert_eq!(out[0].payload, stream(0, 10));
    assert!(out[0].mptcp().is_empty());
}

#[test]
fn t24_a_peer_that_denies_joins_gets_none_at_its_first_address() {
    let fullmesh = |c: &mut mptcp_core::config::StackConfig| {
        c.mptcp.path_manager = mptcp_core::config::PathManagerKind::Fullmesh;
    };
    for deny in [false, true] {
        let mut script = Script::new(fullmesh);
        let flags = if deny { H | CapableFlags::DENY_JOIN } else { H };
        let (keys, flow, _) = script.connected_with(flags);
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let joins = out.iter().filter(|o| matches!(o.join(), Some(MpJoin::Syn { .. }))).count();
        assert_eq!(joins, usize::from(!deny), "{out:?}");
    }
}

#[test]
fn a_peer_without_window_scaling_hears_no_window_updates_that_say_nothing() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    for n in 0..10 {
        let out = script.send_data(&keys, &mut flow, n * 100, 0, &stream(n * 100, 100));
        assert!(out.len() == 1 && out[0].window == u16::MAX, "{out:?}");
        script.expect_stream(id, n * 100, 100);
        assert!(script.out().is_empty(), "the window field cannot grow");
    }
}

/// `MP_CAPABLE` with data maps the first octets of the subflow, whatever else was sent before it.
#[test]
fn t11_only_the_first_octet_of_the_subflow_goes_with_the_keys() {
    let mut script = Script::new(|_| {});
    let (keys, mut flow, id) = script.connected();
    let out = script.write(id, 0, 1_000);
    assert!(out[0].capable().is_some());
    flow.hears(&out);
    // TCP acknowledges it beside a signal that leaves no room for a DATA_ACK.
    let out = script.send(&flow, &flow.seg().raw(&[30, 3, 0x50]));
    assert!(out.is_empty() && script.fallback(id).is_none(), "{out:?}");
    let out = script.advance(20_000);
    assert!(!out.is_empty(), "it asks for the DATA_ACK");
    assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
    let out = script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
    assert_eq!((script.info(id).bytes_acked, script.info(id).mptcp), (1_000, Some(1)), "{out:?}");
}
