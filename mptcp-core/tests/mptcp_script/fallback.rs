//! Falling back to TCP: every reason, when it is no longer possible, and what holds afterwards
//! (RFC 8684 §3.7).

use crate::harness::*;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::wire::{
    CapableFlags, Dss, Mapping, MpJoin, MptcpOption, TcpFlags, Version, checksum, reset_reason,
};

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);

fn fell_back(script: &Script, id: SocketId, reason: FallbackReason) {
    assert_eq!(script.fallback(id), Some(reason));
    assert_eq!(script.info(id).mptcp, None);
    assert_eq!(script.counters().fallback, 1);
    assert_eq!(script.info(id).subflows.len(), 1);
    assert_eq!(script.stack.occupancy().tokens, 0, "no join can find it");
}

fn infinite(keys: &Keys, offset: u64, ssn: u32) -> Dss {
    Dss { ..keys.map(offset, ssn, 0) }
}

/// Both directions work as plain TCP and no MPTCP option is sent any more; the first segment may
/// carry the infinite mapping when `told`.
fn works_as_tcp(script: &mut Script, flow: &mut Flow, id: SocketId, at: u64, told: bool) {
    let mut infinite = 0;
    let mut written = at;
    for _ in 0..5 {
        let out = script.write(id, written, 3_000);
        written += 3_000;
        let mut data = Vec::new();
        for packet in flow.of(&out) {
            data.extend_from_slice(&packet.payload);
            if packet.mapping().is_some_and(|m| m.len == 0) {
                infinite += 1;
            } else {
                assert!(packet.mptcp().is_empty(), "{packet:?}");
            }
        }
        assert_eq!(data, stream(written - 3_000, 3_000));
        flow.hears(&out);
        let seg = flow.seg().data(b"raw");
        let out = script.send(flow, &seg);
        flow.snd_nxt += 3;
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert_eq!(script.read(id).expect("raw data"), b"raw");
    }
    assert_eq!(infinite, usize::from(told));
    assert_eq!(script.info(id).bytes_acked, written, "subflow ACKs free the buffer");
    assert_eq!(script.counters().infinite_map_tx, u64::from(told));
    // Nothing bounces between two ends that fell back.
    script.out();
    let out = script.send(flow, &flow.seg());
    assert!(out.is_empty(), "{out:?}");
    // The FIN is the end of the stream, both ways.
    script.ready(id);
    script.stack.shutdown_write(script.now, id);
    let out = script.out();
    assert!(out.len() == 1 && out[0].is(TcpFlags::FIN) && out[0].mptcp().is_empty(), "{out:?}");
    flow.hears(&out);
    let out = script.send(flow, &flow.seg().fin());
    flow.snd_nxt += 1;
    assert!(out.iter().all(|o| !o.rst() && o.mptcp().is_empty()), "{out:?}");
    assert!(script.at_end(id));
    assert!(script.ready(id).contains(Ready::READ_CLOSED | Ready::CLOSED));
    assert_eq!(script.stack.error(id), None);
}

#[test]
fn a_syn_ack_without_the_option() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (mut flow, id, _) = script.connect();
        script.answer(&mut flow, &[]);
        fell_back(&script, id, FallbackReason::SynAckWithoutCapable);
        assert_eq!(script.counters().mp_capable_fallback_syn_ack, 1);
        works_as_tcp(&mut script, &mut flow, id, 0, false);
    });
}

#[test]
fn first_data_without_a_mapping() {
    both(|v| {
        // At the server.
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed();
        let out = script.send(&flow, &flow.seg().data(&stream(0, 10)));
        flow.snd_nxt += 10;
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        script.expect_stream(id, 0, 10);
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        assert_eq!(script.counters().mp_capable_data_fallback, 1);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
        // At the client.
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        script.send(&flow, &flow.seg().data(&stream(0, 10)));
        flow.snd_nxt += 10;
        script.expect_stream(id, 0, 10);
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn a_fin_without_any_dss_is_the_end_of_a_plain_stream() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        let out = script.send(&flow, &flow.seg().fin());
        flow.snd_nxt += 1;
        flow.hears(&out);
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.at_end(id));
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        // The other direction stays open.
        let out = script.write(id, 0, 100);
        assert_eq!(out[0].payload, stream(0, 100));
    });
}

#[test]
fn t112_data_that_only_tcp_acknowledges() {
    both(|v| {
        // At the server.
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 5_000);
        flow.hears(&out);
        let mut half = flow.clone();
        half.rcv_nxt = flow.stack_isn + 1 + 1_000;
        script.send(&half, &half.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        assert_eq!(script.info(id).bytes_acked, 1_000);
        script.send(&flow, &flow.seg());
        assert_eq!(script.info(id).bytes_acked, 5_000);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
        // At the client.
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        let out = script.write(id, 0, 500);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 500, true);
    });
}

/// A server whose client sends `first` as `MP_CAPABLE` with data: confirmed, but nothing shows yet
/// that our options reach the client.
fn confirmed_by_data(v: Version, first: &[u8]) -> (Script, Keys, Flow, SocketId) {
    let mut script = Script::server(v);
    let (keys, mut flow, id) = script.unconfirmed();
    let out = script.send(&flow, &flow.seg().opt(&keys.first_data(first)).data(first));
    flow.snd_nxt += first.len() as u32;
    flow.hears(&out);
    assert_eq!(script.read(id).expect("the first data"), first);
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(v as u8), None));
    (script, keys, flow, id)
}

/// The way back strips options: our `DATA_ACK` never arrived, the client is plain TCP already.
#[test]
fn t112_a_response_that_only_tcp_acknowledges() {
    both(|v| {
        let (mut script, _, mut flow, id) = confirmed_by_data(v, b"GET");
        let out = script.write(id, 0, 5_000);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
    });
}

/// Before that acknowledgement comes TCP repeats what is lost; no octet gets a second sequence
/// number, for a client that fell back would read it twice.
#[test]
fn t112_nothing_is_sent_twice_to_a_peer_that_may_have_fallen_back() {
    both(|v| {
        let (mut script, _, flow, id) = confirmed_by_data(v, b"GET");
        let mut out = script.write(id, 0, 5_000);
        out.extend(script.advance(20_000));
        let end = flow.rcv_nxt.wrapping_add(5_000);
        assert!(out.iter().filter(|o| !o.payload.is_empty()).count() > 5, "TCP retransmits");
        assert!(out.iter().all(|o| o.seq.wrapping_add(o.payload.len() as u32) <= end), "{out:?}");
        // All of it arrives, and TCP's acknowledgement is the first sign of life.
        let mut flow = flow;
        flow.rcv_nxt = end;
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
    });
}

#[test]
fn t112_an_upload_without_mappings() {
    both(|v| {
        // More than is ever held.
        let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
        let mut sent = 100;
        while script.fallback(id).is_none() {
            let out = script.send(&flow, &flow.seg().data(&stream(sent, 1_400)));
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            flow.snd_nxt += 1_400;
            sent += 1_400;
            assert!(sent < 1 << 20, "held without bound");
        }
        fell_back(&script, id, FallbackReason::OptionsLost);
        script.expect_stream(id, 100, sent as usize - 100);
        script.out();
        works_as_tcp(&mut script, &mut flow, id, 0, true);
        // Little: it waits for a mapping for a while.
        let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
        script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        flow.snd_nxt += 1_000;
        script.advance(300);
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id));
        script.advance(3_000);
        fell_back(&script, id, FallbackReason::OptionsLost);
        script.expect_stream(id, 100, 1_000);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn t112_a_plain_fin_ends_the_stream_of_a_peer_that_fell_back() {
    both(|v| {
        for held in [0, 1_000] {
            let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
            if held > 0 {
                script.send(&flow, &flow.seg().data(&stream(100, held)));
                flow.snd_nxt += held as u32;
            }
            let out = script.send(&flow, &flow.seg().fin());
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            fell_back(&script, id, FallbackReason::OptionsLost);
            if held > 0 {
                script.expect_stream(id, 100, held);
            }
            assert!(script.at_end(id));
            let out = script.write(id, 0, 100);
            assert_eq!(out[0].payload, stream(0, 100));
        }
    });
}

/// A `DATA_ACK` that the peer's signals left no room for is asked for.
#[test]
fn t82_a_missing_data_ack_is_asked_for() {
    both(|v| {
        let (mut script, keys, mut flow, id) = confirmed_by_data(v, b"GET");
        let out = script.write(id, 0, 1_000);
        flow.hears(&out);
        // MP_PRIO, B = 0, and nothing else.
        script.send(&flow, &flow.seg().raw(&[30, 3, 0x50]));
        assert_eq!(script.fallback(id), None);
        let out = script.advance(3_000);
        assert!(!out.is_empty() && out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
        assert_eq!((script.info(id).bytes_acked, script.fallback(id)), (1_000, None));
        assert!(script.advance(10_000).is_empty());
    });
}

#[test]
fn the_infinite_mapping_fits_beside_a_full_segment_and_acts_backwards() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.timestamps = true);
        let (keys, mut flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 2_000);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert_eq!(script.fallback(id), Some(FallbackReason::NoDataAck));
        // `Out::read` asserts that no packet exceeds the MTU.
        let out = script.write(id, 2_000, 10_000);
        let mapping = out[0].mapping().expect("the infinite mapping");
        // Nothing was ever DATA_ACKed: it begins at the first octet.
        assert_eq!((mapping.len, mapping.ssn), (0, 1));
        assert!(same(mapping.dsn, keys.stack_dsn(0)));
        assert!(out[1..].iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert!(out[1].payload.len() > out[0].payload.len());
    });
}

#[test]
fn t111_an_infinite_mapping_is_in_force() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        let out = script.write(id, 0, 1_000);
        flow.hears(&out);
        let seg = flow.seg().dss(infinite(&keys, 100, 101)).data(b"raw");
        let out = script.send(&flow, &seg);
        flow.snd_nxt += 3;
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "no DATA_ACK any more: {out:?}");
        assert_eq!(script.read(id).expect("raw data"), b"raw");
        fell_back(&script, id, FallbackReason::InfiniteMapping);
        assert_eq!(script.counters().infinite_map_rx, 1);
        assert_eq!(script.info(id).bytes_acked, 1_000, "the subflow ACK freed it");
        // A DATA_ACK means nothing now, nor does a FASTCLOSE or a DATA_FIN; a join is reset.
        let out = script.write(id, 1_000, 100);
        assert!(out[0].mptcp().is_empty());
        script.send(&flow, &flow.seg().dss(keys.ack(1_100)));
        assert_eq!(script.info(id).bytes_acked, 1_000);
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fastclose { key: keys.stack }));
        script.send(&flow, &flow.seg().dss(keys.fin(103)));
        assert!(script.would_block(id));
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert!(join.of(&out).iter().all(|o| o.rst()), "{out:?}");
        flow.rcv_nxt += 100;
        script.send(&flow, &flow.seg());
        works_as_tcp(&mut script, &mut flow, id, 1_100, false);
    });
}

#[test]
fn an_infinite_mapping_beside_other_subflows_resets_its_own() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.send(&join, &join.seg().dss(infinite(&keys, 0, 1)).data(b"raw"));
        join.of(&out)[0].assert_reset(reset_reason::MIDDLEBOX_INTERFERENCE, false);
        assert_eq!(script.fallback(id), None);
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

/// Sends a mapping whose payload was changed on the way.
fn corrupt(script: &mut Script, keys: &Keys, flow: &mut Flow, offset: u64, len: usize) -> Vec<Out> {
    let data = stream(offset, len);
    let dss = keys.data(flow, offset, 0, &data);
    let mut changed = data;
    changed[len / 2] ^= 0x40;
    let out = script.send(flow, &flow.seg().dss(dss).data(&changed));
    flow.snd_nxt += len as u32;
    flow.hears(&out);
    out
}

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
        let out = corrupt(&mut script, &keys, &mut flow, 0, 100);
        let rst = out.iter().find(|o| o.rst()).expect("a RST");
        assert_eq!(rst.fail(), Some(keys.peer_dsn(0).0));
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id));
        // The connection goes on over a new subflow.
        let mut join = script.join(&keys, at(P2, 5001), at(A2, PORT));
        script.send_data(&keys, &mut join, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
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
        assert_eq!(script.info(id).bytes_acked, 2_000);
        let out = script.write(id, 2_000, 1_000);
        let mapping = out[0].mapping().expect("the infinite mapping");
        assert_eq!((mapping.len, mapping.checksum), (0, Some(0)));
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == 1, "{mapping:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        let out = script.write(id, 3_000, 1_000);
        assert!(out[0].mptcp().is_empty());
    });
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
fn options_stripped_from_a_join_reset_it() {
    both(|v| {
        // Data on the join is acknowledged by TCP, and no DATA_ACK ever came on it.
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 0, true);
        script.out();
        let out = script.write(id, 0, 1_000);
        assert!(!join.of(&out).is_empty());
        join.hears(&out);
        let out = script.send(&join, &join.seg());
        let rst = join.of(&out)[0];
        rst.assert_reset(reset_reason::MIDDLEBOX_INTERFERENCE, false);
        let out = script.advance(5_000);
        let again: usize = first.of(&out).iter().map(|o| o.payload.len()).sum();
        assert!(again >= 1_000, "{out:?}");
    });
}

#[test]
fn a_fallback_takes_joins_in_progress_with_it() {
    both(|v| {
        let mut script = Script::new(v, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh);
        let (keys, flow, id) = script.connected_with(SUM);
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let syn = out.iter().find(|o| matches!(o.join(), Some(MpJoin::Syn { .. })));
        let syn = syn.expect("a join").clone();
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 }));
        fell_back(&script, id, FallbackReason::PeerChecksum);
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(&[syn]);
        let out = script.answer(&mut join, &[]);
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
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

/// A server after both streams ended at the data level; its subflow's FIN is out.
fn finished(v: Version, flags: CapableFlags) -> (Script, Keys, Flow, SocketId) {
    let mut script = Script::server(v);
    let (keys, mut flow, id) = script.confirmed_with(flags);
    script.stack.shutdown_write(script.now, id);
    let out = script.out();
    flow.hears(&out);
    let out = script.send(&flow, &flow.seg().dss(Dss { ..keys.fin(0) }));
    flow.hears(&out);
    let out = script.send(&flow, &flow.seg().dss(keys.ack(1)));
    flow.hears(&out);
    assert!(script.ready(id).contains(Ready::CLOSED), "{out:?}");
    assert_eq!(script.counters().mp_curr_estab, 0);
    (script, keys, flow, id)
}

/// Nothing brings a finished connection back: it fell back once more, and was counted out twice.
#[test]
fn t111_a_finished_connection_does_not_fall_back() {
    both(|v| {
        let quiet = |script: &Script, id| {
            assert_eq!(script.fallback(id), None);
            assert_eq!((script.counters().fallback, script.counters().mp_curr_estab), (0, 0));
        };
        let (mut script, keys, flow, id) = finished(v, CapableFlags::HMAC);
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 }));
        quiet(&script, id);
        let (mut script, keys, flow, id) = finished(v, CapableFlags::HMAC);
        script.send(&flow, &flow.seg().dss(infinite(&keys, 1, 1)));
        quiet(&script, id);
        let (mut script, keys, mut flow, id) = finished(v, SUM);
        corrupt(&mut script, &keys, &mut flow, 1, 100);
        quiet(&script, id);
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
            let out = script.send(&flow, &flow.seg().opt(&fail));
            // Version 0 answers with the infinite mapping alone.
            let answers = u64::from(v == Version::V1);
            assert_eq!(out.iter().filter(|o| o.fail().is_some()).count() as u64, answers);
            let counters = script.counters();
            assert_eq!((counters.mp_fail_rx, counters.mp_fail_tx), (n, n * answers));
        }
        works_as_tcp(&mut script, &mut flow, id, 2_000, true);
    });
}

#[test]
fn t83_the_infinite_mapping_is_sent_again_with_its_segment() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 500);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert_eq!(script.fallback(id), Some(FallbackReason::NoDataAck));
        let first = script.write(id, 500, 5_000);
        let mapping = first[0].mapping().expect("the infinite mapping");
        // It is lost.
        let again = script.advance(3_000);
        let again: Vec<_> = again.iter().filter(|o| o.seq == first[0].seq).collect();
        assert!(!again.is_empty());
        for packet in again {
            assert_eq!((packet.mapping(), &packet.payload), (Some(mapping), &first[0].payload));
        }
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && (mapping.ssn, mapping.len) == (1, 0));
    });
}

#[test]
fn t111_a_fin_carries_the_infinite_mapping_when_no_data_does() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let out = script.write(id, 0, 100);
        flow.hears(&out);
        script.send(&flow, &flow.seg().dss(keys.ack(100)));
        corrupt(&mut script, &keys, &mut flow, 0, 10);
        script.stack.shutdown_write(script.now, id);
        let mut out = script.out();
        // The FIN is lost as well.
        out.extend(script.advance(3_000));
        let fins: Vec<_> = out.iter().filter(|o| o.is(TcpFlags::FIN)).collect();
        assert!(fins.len() > 1, "{out:?}");
        for fin in fins {
            let mapping = fin.mapping().expect("the infinite mapping");
            assert_eq!((mapping.len, mapping.ssn), (0, 101));
            assert!(same(mapping.dsn, keys.stack_dsn(100)));
        }
    });
}

/// What is to be sent again, and cannot be yet, has not made the stream any less contiguous.
#[test]
fn t108_a_reinjection_that_only_waits_does_not_rule_fallback_out() {
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
        assert!(script.counters().mptcp_retrans > 0, "the data-level timer fired");
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(100).0 }));
        fell_back(&script, id, FallbackReason::PeerChecksum);
    });
}

/// A writer that waits for room is told of it, also when the segment that makes it asks for more.
#[test]
fn t111_a_fallback_that_makes_room_says_so() {
    both(|v| {
        for infinitely in [true, false] {
            let mut script = Script::server_with(v, |c| c.tcp.send_buffer_max = 20_000);
            let (keys, mut flow, id) = script.confirmed();
            while script.stack.send(script.now, id, &[7; 1_000]).is_ok() {}
            let out = script.out();
            flow.hears(&out);
            script.ready(id);
            let sent = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            let mut seg = flow.seg();
            if infinitely {
                let data_ack = keys.ack(sent).data_ack;
                seg = seg.dss(Dss { data_ack, ..infinite(&keys, 0, 1) });
            }
            script.send(&flow, &seg);
            assert!(script.fallback(id).is_some());
            assert!(script.ready(id).contains(Ready::WRITABLE), "infinitely: {infinitely}");
        }
    });
}
