//! Checksums that are wrong: `MP_FAIL`, fallback or a RST.

use super::*;

#[test]
fn t107_a_wrong_checksum_on_one_of_several_subflows() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed_with(SUM);
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = corrupt(&mut script, &keys, &mut join, 0, 100);
        let [rst] = join.of(&out)[..] else { panic!("{out:?}") };
        assert!(rst.rst(), "{rst:?}");
        assert_eq!(rst.fail(), Some(keys.peer_dsn(0).0));
        assert_eq!(script.counters().data_csum_err, 1);
        assert_eq!(script.counters().mp_fail_tx, 1);
        assert!(script.would_block(id), "none of it is delivered");
        assert_eq!(script.fallback(id), None);
        // It comes again on the other subflow.
        let out = script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
        assert!(same(first.of(&out)[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(100)));
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn t108_a_wrong_checksum_on_the_only_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 50));
        script.expect_stream(id, 0, 50);
        let out = corrupt(&mut script, &keys, &mut flow, 50, 100);
        let acks: Vec<_> = out.iter().filter(|o| o.fail().is_some()).collect();
        assert_eq!(acks.len(), 1, "{out:?}");
        assert_eq!(acks[0].fail(), Some(keys.peer_dsn(50).0));
        assert!(acks[0].flags == TcpFlags::ACK && acks[0].dss().is_none());
        assert_eq!(acks[0].ack, flow.snd_nxt);
        fell_back(&script, id, FallbackReason::Checksum);
        // What was changed is handed over as it is: a plain stream from here on.
        assert_eq!(script.read(id).expect("raw data").len(), 100);
        // The peer answers with an MP_FAIL of its own and an infinite mapping.
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
        let out = script.send(&flow, &flow.seg().opt(&fail));
        assert!(out.is_empty(), "no loop: {out:?}");
        let seg = flow.seg().dss(infinite(&keys, 50, 51)).data(b"raw");
        script.send(&flow, &seg);
        flow.snd_nxt += 3;
        assert_eq!(script.read(id).expect("raw data"), b"raw");
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn held_octets_beyond_the_shared_window_survive_a_fallback() {
    both(|v| {
        // A mapping with a checksum is held until it is whole; meanwhile TCP's window moved on.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let len = 60_000;
        let data = stream(0, len);
        let mut dss = keys.data(&flow, 0, 0, &data);
        dss.mapping.as_mut().expect("mapped").checksum = Some(0x1234);
        for part in data.chunks(1_400) {
            script.send(&flow, &flow.seg().dss(dss).data(part));
            flow.snd_nxt += part.len() as u32;
            if flow.ssn() == 1 + 58_800 {
                // Let the rest overtake: it fills the subflow's window.
                break;
            }
        }
        let rest: Vec<u8> = stream(58_800, 8_000);
        for part in rest.chunks(1_000) {
            script.send(&flow, &flow.seg().data(part));
            flow.snd_nxt += part.len() as u32;
        }
        assert_eq!(script.fallback(id), Some(FallbackReason::Checksum));
        script.expect_stream(id, 0, 66_800);
    });
}

#[test]
fn t109_a_wrong_checksum_after_a_reinjection() {
    both(|v| {
        // One subflow is left, but the stream on it is not contiguous any more.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send(&join, &join.seg().flags(TcpFlags::RST));
        // What follows is there already, and right.
        let text = stream(100, 50);
        let mapping = Some(keys.mapping(100, flow.ssn() + 100, &text));
        let behind = flow.seg().seq(flow.snd_nxt.wrapping_add(100));
        script.send(&flow, &behind.dss(Dss { mapping, ..keys.ack(0) }).data(&text));
        let out = corrupt(&mut script, &keys, &mut flow, 0, 100);
        let rst = out.iter().find(|o| o.rst()).expect("a RST");
        assert_eq!(rst.fail(), Some(keys.peer_dsn(0).0));
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id));
        // The connection goes on over a new subflow, and what followed is discarded.
        let mut join = script.join(&keys, at(P2, 5001), at(A2, PORT));
        let mut out = script.send_data(&keys, &mut join, 0, 0, &stream(0, 100));
        out.extend(script.advance(50));
        let acked = join.of(&out).last().and_then(|o| o.data_ack()).expect("a DATA_ACK");
        assert!(same(acked, keys.peer_dsn(100)), "{out:?}");
        script.expect_stream(id, 0, 100);
        assert!(script.would_block(id));
    });
}

/// A peer maps again what it sent before, or leaves something out: what is wrong there is not what comes next, and read
/// as plain TCP some of the stream would come twice, or be missing.
#[test]
fn t109_a_wrong_checksum_of_what_does_not_come_next() {
    both(|v| {
        for offset in [50, 200] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed_with(SUM);
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
            script.expect_stream(id, 0, 100);
            let out = corrupt(&mut script, &keys, &mut flow, offset, 100);
            let rst = out.iter().find(|o| o.rst()).expect("a RST");
            assert_eq!(rst.fail(), Some(keys.peer_dsn(offset).0));
            assert_eq!(script.fallback(id), None);
            assert!(script.would_block(id));
            let mut join = script.join(&keys, at(P2, 5001), at(A2, PORT));
            script.send_data(&keys, &mut join, 100, 0, &stream(100, 200));
            script.expect_stream(id, 100, 200);
        }
    });
}

/// A connection that had a join, which is gone; `written` octets were on their way then, of which the peer
/// has `acked`.
fn once_joined(v: Version, written: usize, acked: u64) -> (Script, Keys, Flow, SocketId) {
    let mut script = Script::server(v);
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    let out = script.write(id, 0, written);
    flow.hears(&out);
    join.hears(&out);
    let out = script.send(&flow, &flow.seg().dss(keys.ack(acked)));
    flow.hears(&out);
    let out = script.send(&join, &join.seg().flags(TcpFlags::RST));
    flow.hears(&out);
    let out = script.advance(300);
    flow.hears(&out);
    (script, keys, flow, id)
}

/// Once the peer has all that may have gone by another subflow, what follows is contiguous on the one that is
/// left.
#[test]
fn the_peer_reports_a_wrong_checksum_after_a_join() {
    both(|v| {
        let (mut script, keys, mut flow, id) = once_joined(v, 3_000, 3_000);
        let out = script.write(id, 3_000, 2_000);
        flow.hears(&out);
        let ssn = flow.of(&out)[0].seq.wrapping_sub(flow.stack_isn);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(3_000).0 };
        let out = script.send(&flow, &flow.seg().opt(&fail));
        let answers: Vec<_> = out.iter().filter_map(Out::fail).collect();
        let expected = (v == Version::V1).then_some(keys.peer_dsn(0).0);
        assert_eq!(answers, Vec::from_iter(expected), "{out:?}");
        fell_back(&script, id, FallbackReason::PeerChecksum);
        let (again, ssn) = if v == Version::V0 { (2_000, ssn + 2_000) } else { (0, ssn) };
        let out = if again > 0 { out } else { script.write(id, 5_000, 1_000) };
        let mapping = out[0].mapping().expect("the infinite mapping");
        assert!(same(mapping.dsn, keys.stack_dsn(3_000)) && mapping.ssn == ssn, "{mapping:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        works_as_tcp(&mut script, &mut flow, id, if again > 0 { 5_000 } else { 6_000 }, false);
    });
}

/// Parts of what is on its way may have gone by the other subflow, or the peer's own stream is not whole.
#[test]
fn what_is_not_contiguous_after_a_join_costs_the_subflow() {
    both(|v| {
        let reset = |mut script: Script, keys: &Keys, flow: &Flow, id: SocketId, from: u64| {
            let fail = MptcpOption::Fail { dsn: keys.stack_dsn(from).0 };
            let out = script.send(flow, &flow.seg().opt(&fail));
            assert!(flow.of(&out).iter().any(|o| o.rst()), "{out:?}");
            assert_eq!(script.fallback(id), None);
        };
        let (script, keys, flow, id) = once_joined(v, 4_000, 2_000);
        reset(script, &keys, &flow, id, 2_000);
        // A copy of what the other subflow had brought is what failed.
        let (script, keys, flow, id) = once_joined(v, 4_000, 4_000);
        reset(script, &keys, &flow, id, 0);
        // Half of a mapping waits for the rest.
        let (mut script, keys, mut flow, id) = once_joined(v, 4_000, 4_000);
        let data = stream(0, 1_000);
        let dss = keys.data(&flow, 0, 4_000, &data);
        script.send(&flow, &flow.seg().dss(dss).data(&data[..500]));
        flow.snd_nxt += 500;
        reset(script, &keys, &flow, id, 4_000);
    });
}

/// What the peer sends again is told by its mapping, and is not read as what follows.
#[test]
fn a_stream_that_was_spread_is_not_read_twice() {
    both(|v| {
        let (mut script, keys, mut flow, id) = once_joined(v, 3_000, 3_000);
        script.send_data(&keys, &mut flow, 0, 3_000, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(3_000).0 };
        let out = script.send(&flow, &flow.seg().opt(&fail));
        flow.hears(&out);
        fell_back(&script, id, FallbackReason::PeerChecksum);
        script.send_data(&keys, &mut flow, 100, 3_000, &stream(100, 100));
        script.expect_stream(id, 100, 100);
        let out = script.send_data(&keys, &mut flow, 100, 3_000, &stream(100, 100));
        assert!(flow.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert!(script.read(id).is_err(), "not twice");
    });
}

#[test]
fn the_peer_reports_a_wrong_checksum() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let out = script.write(id, 0, 2_000);
        flow.hears(&out);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
        let out = script.send(&flow, &flow.seg().opt(&fail));
        // An MP_FAIL in the other direction, which version 0 does not ask for.
        let answers: Vec<_> = out.iter().filter_map(Out::fail).collect();
        let expected = (v == Version::V1).then_some(keys.peer_dsn(0).0);
        assert_eq!(answers, Vec::from_iter(expected), "{out:?}");
        let counters = script.counters();
        assert_eq!((counters.mp_fail_rx, counters.mp_fail_tx), (1, answers.len() as u64));
        fell_back(&script, id, FallbackReason::PeerChecksum);
        // In version 1 what is on its way is part of the plain stream; in version 0 the peer has thrown
        // it away, and it goes again.
        let (again, ssn) = if v == Version::V0 { (2_000, 2_001) } else { (0, 1) };
        assert_eq!(script.info(id).bytes_acked, 2_000 - again);
        let out = if again > 0 { out } else { script.write(id, 2_000, 1_000) };
        let mapping = out[0].mapping().expect("the infinite mapping");
        assert_eq!((mapping.len, mapping.checksum), (0, Some(0)));
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == ssn, "{mapping:?}");
        assert!(out[1..].iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert_eq!(script.info(id).bytes_acked, 2_000 + (1_000 - again / 2));
        let out = script.write(id, 3_000, 1_000);
        assert!(out[0].mptcp().is_empty());
    });
}

/// Version 0: all that no `DATA_ACK` covers goes again, behind what TCP still repeats without options. The
/// `DATA_ACK` beside the `MP_FAIL` counts, also where it stands behind it, as deployed kernels write it.
#[test]
fn what_a_peer_of_version_0_threw_away_goes_again() {
    for behind in [true, false] {
        let mut script = Script::server(Version::V0);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let out = script.write(id, 0, 4_000);
        let firsts: Vec<_> = flow.of(&out).into_iter().cloned().collect();
        let mut at_first = flow.clone();
        at_first.hears(&firsts[..1]);
        flow.hears(&out);
        // The first segment has arrived on both levels; in the second the checksum is wrong.
        let first = firsts[0].payload.len() as u64;
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(first).0 };
        let seg = if behind {
            at_first.seg().opt(&fail).dss(keys.ack(first))
        } else {
            at_first.seg().dss(keys.ack(first)).opt(&fail)
        };
        let again = script.send(&at_first, &seg);
        let mapping = again[0].mapping().expect("the infinite mapping");
        assert!(same(mapping.dsn, keys.stack_dsn(first)), "{mapping:?}");
        assert_eq!((mapping.len, mapping.ssn), (0, 4_001));
        let text: Vec<u8> = again.iter().flat_map(|o| o.payload.clone()).collect();
        assert_eq!(text, stream(first, text.len()));
        assert_eq!(text.len() as u64, 4_000 - first);
        // All of it is lost: what was mapped before comes with its mapping, the rest with the infinite
        // one.
        let repeated = script.advance(3_000);
        for packet in repeated.iter().filter(|o| !o.payload.is_empty()) {
            let ssn = packet.seq.wrapping_sub(flow.stack_isn);
            if ssn > 4_000 {
                let told = packet.mapping().map(|m| (m.len, m.ssn));
                assert_eq!(told, (ssn == 4_001).then_some((0, 4_001)), "{packet:?}");
                continue;
            }
            let own = packet.mapping().expect("its own mapping");
            let end = ssn + packet.payload.len() as u32;
            assert!(own.ssn <= ssn && end <= own.ssn + u32::from(own.len), "{packet:?}");
            assert!(same(own.dsn, keys.stack_dsn(u64::from(own.ssn) - 1)), "{packet:?}");
        }
        flow.hears(&again);
        script.send(&flow, &flow.seg());
        works_as_tcp(&mut script, &mut flow, id, 4_000, false);
    }
}

/// Version 0: the peer begins again where it had our last `DATA_ACK`. Nothing is delivered twice.
#[test]
fn what_a_peer_of_version_0_sends_again_is_delivered_once() {
    let mut script = Script::server(Version::V0);
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
    corrupt(&mut script, &keys, &mut flow, 100, 50);
    fell_back(&script, id, FallbackReason::Checksum);
    // More was on its way.
    script.send_data(&keys, &mut flow, 150, 0, &stream(150, 50));
    let before = script.read(id).expect("data");
    assert_eq!(before.len(), 200);
    // It had heard of the first 60 octets only, and sends the rest and more again, in small pieces that
    // arrive in disorder.
    let again = stream(60, 200);
    let start = flow.ssn();
    let piece = |n: usize| {
        let seg = flow.seg().seq(flow.snd_nxt.wrapping_add(n as u32 * 40));
        let text = &again[n * 40..(n + 1) * 40];
        let seg = if n == 0 { seg.dss(Dss { ..infinite(&keys, 60, start) }) } else { seg };
        seg.data(text)
    };
    for n in [1, 0, 2, 4, 0, 3] {
        script.send(&flow, &piece(n));
    }
    flow.snd_nxt = flow.snd_nxt.wrapping_add(200);
    script.expect_stream(id, 200, 60);
    works_as_tcp(&mut script, &mut flow, id, 0, true);
}

#[test]
fn an_mp_fail_beside_other_subflows() {
    both(|v| {
        // On a RST it ends that subflow, and what it carried goes elsewhere.
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed_with(SUM);
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        script.write(id, 0, 1_000);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
        let out = script.send(&first, &first.seg().flags(TcpFlags::RST).opt(&fail));
        let sent: usize = join.of(&out).iter().map(|o| o.payload.len()).sum();
        assert_eq!(sent, 1_000, "{out:?}");
        assert_eq!(script.fallback(id), None);
        // On an ACK, after joins, the stream is not contiguous: the subflow is reset.
        let out = script.send(&join, &join.seg().opt(&fail));
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert_eq!(script.fallback(id), None);
    });
}

#[test]
fn an_mp_fail_on_the_rst_of_the_only_subflow_leaves_the_connection_waiting() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed_with(SUM);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
        let out = script.send(&flow, &flow.seg().flags(TcpFlags::RST).opt(&fail));
        assert!(out.is_empty(), "{out:?}");
        assert_eq!(script.fallback(id), None);
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn a_checksum_that_is_right_in_another_way_is_still_wrong() {
    both(|v| {
        // The mapping's own fields are covered: another SSN, DSN or length with the same octets.
        for field in 0..3 {
            let mut script = Script::server(v);
            let (keys, flow, id) = script.confirmed_with(SUM);
            let data = stream(0, 100);
            let sum = checksum::sum(&data);
            let dsn = keys.peer_dsn(if field == 0 { 1 } else { 0 });
            let ssn = if field == 1 { 2 } else { 1 };
            let len = if field == 2 { 99 } else { 100 };
            let mapping = Mapping {
                dsn: keys.wire(keys.peer_dsn(0)),
                ssn: 1,
                len: 100,
                checksum: Some(checksum::dss_checksum(dsn, ssn, len, sum)),
            };
            let dss = Dss { mapping: Some(mapping), ..keys.ack(0) };
            let out = script.send(&flow, &flow.seg().dss(dss).data(&data));
            assert!(out.iter().any(|o| o.fail() == Some(keys.peer_dsn(0).0)), "{out:?}");
            assert_eq!(script.fallback(id), Some(FallbackReason::Checksum));
        }
    });
}

#[test]
fn t108_an_mp_fail_is_repeated_until_the_peer_answers() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let told =
            |out: &[Out]| out.iter().filter(|o| o.fail() == Some(keys.peer_dsn(0).0)).count();
        let out = corrupt(&mut script, &keys, &mut flow, 0, 100);
        assert_eq!(told(&out), 1);
        // That was lost: the peer goes on mapping.
        let out = script.send_data(&keys, &mut flow, 100, 0, &stream(100, 100));
        assert_eq!((told(&out), out.len()), (1, 1), "{out:?}");
        assert!(script.advance(5_000).is_empty(), "nothing is said unasked");
        let out =
            script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 }));
        assert!(out.is_empty(), "{out:?}");
        let out = script.send(&flow, &flow.seg().data(b"raw"));
        flow.snd_nxt += 3;
        assert!(out.len() == 1 && out[0].mptcp().is_empty(), "{out:?}");
        assert_eq!(script.read(id).expect("data").len(), 203);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn t108_a_repeated_mp_fail_is_answered_again() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let out = script.write(id, 0, 2_000);
        flow.hears(&out);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
        for n in 1..4 {
            let mut out = script.send(&flow, &flow.seg().opt(&fail));
            if n == 3 {
                // Two acknowledgements in a row had nothing but options.
                assert!(out.is_empty(), "{out:?}");
                out = script.advance(1_000);
            }
            // Version 0 answers with the infinite mapping alone.
            let answers = u64::from(v == Version::V1);
            assert_eq!(out.iter().filter(|o| o.fail().is_some()).count() as u64, answers);
            let counters = script.counters();
            assert_eq!((counters.mp_fail_rx, counters.mp_fail_tx), (n, n * answers));
            flow.hears(&out);
        }
        // Version 0 has sent all of it again, once, and the infinite mapping with it.
        let again = if v == Version::V0 { 4_000 } else { 2_000 };
        assert_eq!(u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1, again);
        if v == Version::V0 {
            script.send(&flow, &flow.seg());
        }
        works_as_tcp(&mut script, &mut flow, id, 2_000, v == Version::V1);
    });
}

/// However long TCP repeats something on the only subflow, the data level sends nothing again behind it, and the
/// stream stays contiguous.
#[test]
fn t108_what_tcp_repeats_does_not_rule_fallback_out() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let out = script.write(id, 0, 100);
        flow.hears(&out);
        script.send(&flow, &flow.seg().dss(keys.ack(100)));
        script.write(id, 100, 1_000);
        // While no DSS comes the timer only asks.
        for _ in 0..10 {
            script.advance(1_000);
            script.send(&flow, &flow.seg().dss(keys.ack(100)));
        }
        assert_eq!(script.counters().mptcp_retrans, 0);
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(100).0 }));
        fell_back(&script, id, FallbackReason::PeerChecksum);
    });
}

/// Our answer to a mapping whose checksum is wrong, as far as it is not a fallback.
fn assert_refused(script: &Script, out: &[Out], keys: &Keys, offset: u64) {
    let fail = out.iter().find_map(Out::fail);
    assert_eq!(fail, Some(keys.peer_dsn(offset).0), "{out:?}");
    assert_eq!(script.counters().data_csum_err, 1);
}

#[test]
fn a_data_fin_alone_has_a_checksum_as_well() {
    both(|v| {
        let wrong = |keys: &Keys, offset| {
            let mut fin = keys.fin(offset);
            if let Some(mapping) = &mut fin.mapping {
                mapping.checksum = mapping.checksum.map(|sum| sum ^ 0x0100);
            }
            fin
        };
        // On the only subflow it means fallback: the stream ends with the FIN.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 20));
        script.expect_stream(id, 0, 20);
        let out = script.send(&flow, &flow.seg().dss(wrong(&keys, 20)));
        assert_refused(&script, &out, &keys, 20);
        fell_back(&script, id, FallbackReason::Checksum);
        assert!(script.would_block(id), "that was not the end");
        // Beside others its own goes, and the stream ends where another one says.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        let out = script.send(&join, &join.seg().dss(wrong(&keys, 5)));
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert_refused(&script, &out, &keys, 5);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 20));
        script.send(&flow, &flow.seg().dss(keys.fin(20)));
        script.expect_stream(id, 0, 20);
        assert!(script.at_end(id));
    });
}

/// The end of a stream that came with data holds once the checksum of that data does.
#[test]
fn a_data_fin_beside_data_counts_once_the_data_is_verified() {
    both(|v| {
        let with_fin = |keys: &Keys, flow: &Flow, offset: u64, payload: &[u8]| {
            let (dsn, ssn, len) = (keys.peer_dsn(offset), flow.ssn(), payload.len() as u16 + 1);
            let sum = checksum::dss_checksum(dsn, ssn, len, checksum::sum(payload));
            let mapping = Mapping { dsn: keys.wire(dsn), ssn, len, checksum: Some(sum) };
            Dss { mapping: Some(mapping), data_fin: true, ..keys.ack(0) }
        };
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        // An end at 10 on text that somebody has changed.
        let (right, changed) = (stream(0, 10), vec![0; 10]);
        let dss = with_fin(&keys, &join, 0, &right);
        let out = script.send(&join, &join.seg().dss(dss).data(&changed));
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        // It was another one: 30 octets follow, and their end counts.
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 20));
        script.expect_stream(id, 0, 20);
        assert!(script.would_block(id), "it goes on");
        let text = stream(20, 10);
        let dss = with_fin(&keys, &flow, 20, &text);
        script.send(&flow, &flow.seg().dss(dss).data(&text[..4]));
        assert!(script.would_block(id), "half of the mapping is missing");
        let rest = flow.seg().seq(flow.snd_nxt.wrapping_add(4));
        let out = script.send(&flow, &rest.dss(dss).data(&text[4..]));
        let ack = out.iter().rev().find_map(Out::data_ack).expect("a DATA_ACK");
        assert!(same(ack, keys.peer_dsn(31)), "{out:?}");
        script.expect_stream(id, 20, 10);
        assert!(script.at_end(id));
    });
}
