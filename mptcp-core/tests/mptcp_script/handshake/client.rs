//! Our own SYNs, their answers, and what is remembered of a destination.

use super::*;

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

/// RFC 9293 figure 7: the peer's SYN/ACK ends it, and says nothing about what the destination speaks. Ours had no
/// option, so whatever it carries the peer goes on as TCP.
#[test]
fn a_simultaneous_open_that_a_syn_ack_ends_teaches_nothing() {
    let v = Version::V1;
    for option in [None, Some(capable(v, H, CapableForm::Key(PEER_KEY)))] {
        let mut script = Script::serving(&[Version::V0, v], v, |_| {});
        let (mut flow, id, _) = script.connect();
        let out = script.send(&flow, &flow.syn().opt(&offer(v, H)));
        assert_eq!(out[0].flags, TcpFlags::SYN | TcpFlags::ACK);
        assert!(out[0].mptcp().is_empty());
        script.answer(&mut flow, option.as_slice());
        assert_eq!(script.fallback(id), Some(FallbackReason::SimultaneousOpen));
        let counters = script.counters();
        let counted = (counters.simult_connect_fallback, counters.mp_capable_fallback_syn_ack);
        assert_eq!((counted, counters.mp_capable_syn_ack_rx), ((1, 1), 0));
        let out = script.write(id, 0, 10);
        assert!(out[0].mptcp().is_empty());
        assert_eq!(next_offer(&mut script, Some(1)), Some(1));
    }
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
