//! Infinite mappings, sent and received, and what holds after one.

use super::*;
use mptcp_core::config::MtuProbing;
use mptcp_core::error::{ConnectionError, RecvError, SendError};

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
        // Nothing was ever DATA_ACKed: it begins at the first octet. Kernels of version 0 take it to begin where
        // its segment does.
        let from = if v == Version::V0 { 2_000 } else { 0 };
        assert_eq!((mapping.len, mapping.ssn), (0, 1 + from));
        assert!(same(mapping.dsn, keys.stack_dsn(u64::from(from))));
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
fn t83_the_infinite_mapping_is_sent_again_with_its_segment() {
    both(|v| {
        // Losses alone might have to do with its length.
        let mut script = Script::server_with(v, |c| c.tcp.mtu_probing = MtuProbing::Off);
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
        let from = if v == Version::V0 { 500 } else { 0 };
        assert!(same(mapping.dsn, keys.stack_dsn(u64::from(from))));
        assert_eq!((mapping.ssn, mapping.len), (1 + from, 0));
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
            // Without it kernels of version 0 throw a FIN away that has no text before it.
            assert_eq!(fin.dss().is_some_and(|dss| dss.data_fin), v == Version::V0);
        }
    });
}

/// A kernel of version 0 leaves out of the stream what an infinite mapping goes back by, and throws away what has no
/// mapping in front of what has one.
#[test]
fn what_was_mapped_before_a_fallback_of_version_0_stays_so() {
    let mut script = Script::server_with(Version::V0, |c| c.tcp.mtu_probing = MtuProbing::Off);
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    let before = script.write(id, 0, 3_000);
    flow.hears(&before[..1]);
    // A part of it arrived, none of which has a DATA_ACK.
    let mut fallback = corrupt(&mut script, &keys, &mut flow, 0, 100);
    fell_back(&script, id, FallbackReason::Checksum);
    fallback.extend(script.write(id, 3_000, 5_000));
    let fresh = |o: &&Out| !o.payload.is_empty() && o.seq == flow.stack_isn.wrapping_add(3_001);
    let first = fallback.iter().find(fresh).expect("new data");
    let mapping = first.mapping().expect("the infinite mapping");
    assert_eq!((mapping.len, mapping.ssn), (0, 3_001));
    assert!(same(mapping.dsn, keys.stack_dsn(3_000)), "{mapping:?}");
    // All but the first segment is lost.
    let again = script.advance(3_000);
    let mut mapped = 0;
    for packet in again.iter().filter(|o| !o.payload.is_empty()) {
        let ssn = packet.seq.wrapping_sub(flow.stack_isn);
        if ssn > 3_000 {
            assert_eq!(packet.mapping(), (ssn == 3_001).then_some(mapping), "{packet:?}");
            continue;
        }
        let same_one = before.iter().find(|o| o.seq == packet.seq).expect("one sent before");
        assert_eq!(packet.mapping(), same_one.mapping());
        assert!(packet.mapping().is_some_and(|mapping| mapping.len > 0), "{packet:?}");
        mapped += 1;
    }
    assert!(mapped > 0, "{again:?}");
}

/// The peer ended first, and one segment acknowledges the rest of our stream and the FIN behind it.
#[test]
fn the_last_acknowledgement_of_a_plain_stream_counts() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().dss(infinite(&keys, 0, 1)).data(b"raw"));
        flow.snd_nxt += 3;
        assert_eq!(script.read(id).expect("raw data"), b"raw");
        let out = script.send(&flow, &flow.seg().fin());
        flow.snd_nxt += 1;
        flow.hears(&out);
        assert!(script.at_end(id));
        let out = script.write(id, 0, 3_000);
        flow.hears(&out);
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert!(out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert_eq!((script.stack.error(id), script.info(id).bytes_acked), (None, 3_000));
        assert_eq!(script.sent_in_use(), 0, "nobody gives it back");
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
                seg = seg.dss(Dss { data_ack, ..infinite(&keys, 0, 1) }).data(b"raw");
            }
            script.send(&flow, &seg);
            assert!(script.fallback(id).is_some());
            assert!(script.ready(id).contains(Ready::WRITABLE), "infinitely: {infinitely}");
        }
    });
}

/// The same where a wrong checksum means fallback, or text whose mapping does not come.
#[test]
fn a_fallback_for_what_the_peer_sent_makes_room_as_well() {
    both(|v| {
        for unmapped in [false, true] {
            let mut script = Script::server_with(v, |c| c.tcp.send_buffer_max = 4_000);
            let (keys, mut flow, id) = script.confirmed_with(SUM);
            let out = script.write(id, 0, 4_000);
            assert_eq!(out.iter().map(|o| o.payload.len()).sum::<usize>(), 4_000, "{out:?}");
            flow.hears(&out);
            assert_eq!(script.stack.send(script.now, id, b"more"), Err(SendError::WouldBlock));
            // TCP has all of it, the data level nothing.
            script.send(&flow, &flow.seg().dss(keys.ack(0)));
            assert!(!script.ready(id).contains(Ready::WRITABLE));
            let reason = if unmapped {
                script.send(&flow, &flow.seg().data(b"raw"));
                script.advance(10_000);
                FallbackReason::OptionsLost
            } else {
                corrupt(&mut script, &keys, &mut flow, 0, 100);
                FallbackReason::Checksum
            };
            assert_eq!(script.fallback(id), Some(reason));
            assert!(script.ready(id).contains(Ready::READABLE | Ready::WRITABLE), "{reason:?}");
        }
    });
}

/// Deployed kernels of version 0 fall back with the end of their stream: F, NOPs in place of the checksum, SSN 0
/// where there is no text, and the FIN on the same segment.
#[test]
fn an_infinite_mapping_may_come_with_the_end_of_the_stream() {
    both(|v| {
        for (flags, ssn, len) in [(SUM, 0, 0), (CapableFlags::HMAC, 0, 0), (SUM, 101, 30)] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed_with(flags);
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
            script.expect_stream(id, 0, 100);
            let mapping = infinite(&keys, 100, ssn)
                .mapping
                .map(|mapping| Mapping { checksum: (flags == SUM).then_some(0x0101), ..mapping });
            let dss = Dss { mapping, data_fin: true, ..keys.ack(0) };
            let out = script.send(&flow, &flow.seg().dss(dss).data(&stream(100, len)).fin());
            assert!(out.iter().all(|o| !o.rst() && o.mptcp().is_empty()), "{out:?}");
            fell_back(&script, id, FallbackReason::InfiniteMapping);
            if len > 0 {
                script.expect_stream(id, 100, len);
            }
            assert!(script.at_end(id));
            let sent: Vec<u8> =
                script.write(id, 0, 3_000).iter().flat_map(|o| o.payload.clone()).collect();
            assert_eq!(sent, stream(0, 3_000));
        }
    });
}

/// Our FIN is out: the rest of the stream has nowhere to go as plain TCP, and who writes must not take that for
/// sent.
#[test]
fn behind_our_own_fin_nobody_falls_back() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)).fin());
        assert!(out.iter().any(|o| o.is(TcpFlags::FIN)), "the subflow alone: {out:?}");
        flow.snd_nxt += 1;
        script.write(id, 0, 500);
        // It does not acknowledge our FIN.
        let out = script.send(&flow, &flow.seg().dss(infinite(&keys, 0, 1)));
        assert!(out.iter().any(Out::rst), "{out:?}");
        assert_eq!(script.fallback(id), None);
        assert!(!script.at_end(id));
        script.advance(61_000);
        assert_eq!(script.read(id), Err(RecvError::Failed(ConnectionError::NoSubflows)));
    });
}
