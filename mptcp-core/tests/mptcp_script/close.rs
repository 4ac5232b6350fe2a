//! Ending a connection: `DATA_FIN` in every form, subflows that end before it, `MP_FASTCLOSE`
//! (RFC 8684 §3.3.3, §3.5, §3.6).

use crate::fastclose::is_fastclose;
use crate::harness::*;
use mptcp_core::buf::{HeapPool, HeapTxQueue};
use mptcp_core::driver::Progress;
use mptcp_core::error::{ConnectionError, RecvError};
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::wire::{CapableFlags, CapableForm, Dss, TcpFlags, Version, WireSeq};

fn acked(keys: &Keys, out: &[Out], offset: u64) -> bool {
    let ack = out.iter().rev().find_map(Out::data_ack);
    ack.is_some_and(|ack| same(ack, keys.peer_dsn(offset)))
}

const RST: TcpFlags = TcpFlags::RST.union(TcpFlags::ACK);

/// Our `DATA_FIN` in `out`, if any, and whether it has the form of the RFC.
fn our_fin(keys: &Keys, out: &[Out], offset: u64) -> usize {
    let fins: Vec<_> = out.iter().filter(|o| o.data_fin()).collect();
    for fin in &fins {
        let mapping = fin.mapping().expect("a DATA_FIN has a mapping");
        assert!(same(mapping.dsn, keys.stack_dsn(offset)), "{fin:?}");
        assert_eq!((mapping.ssn, mapping.len), (0, 1), "{fin:?}");
        assert!(!fin.is(TcpFlags::FIN), "the subflow's FIN comes later: {fin:?}");
    }
    fins.len()
}

/// Both ends close: we first.
fn close_orderly(script: &mut Script, keys: &Keys, flow: &mut Flow, id: SocketId, sent: u64) {
    script.stack.shutdown_write(script.now, id);
    let out = script.out();
    assert_eq!(our_fin(keys, &out, sent), 1, "{out:?}");
    let out = script.send(flow, &flow.seg().dss(Dss { ..keys.ack(sent + 1) }));
    assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
}

/// Both streams have ended, and the peer's TCP says nothing more: FINs would be repeated for a quarter of an hour.
#[test]
fn who_never_closes_its_subflows_makes_room() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.limits.connections = 1);
        let (keys, flow, id) = script.confirmed();
        script.stack.close(script.now, id);
        script.forget(id);
        assert_eq!(our_fin(&keys, &script.out(), 0), 1);
        let dss = Dss { data_ack: keys.ack(1).data_ack, ..keys.fin(0) };
        let out = script.send(&flow, &flow.seg().dss(dss));
        assert!(out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        assert_eq!(script.stack.occupancy().connections, 1);
        let (other, answer) = script.half_open(50_000, CapableFlags::HMAC);
        let keys = Keys::of(v, &answer, false);
        let out = script.send(&other, &other.seg().opt(&keys.third()));
        assert!(flow.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert!(script.accept().is_some());
        assert_eq!(script.stack.occupancy().connections, 1);
        assert_eq!(script.counters().tcp_abort_on_memory, 1);
    });
}

#[test]
fn t85_a_data_fin_with_data() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 80));
        script.expect_stream(id, 0, 80);
        let mut dss = keys.map(80, flow.ssn(), 11);
        dss.data_fin = true;
        let out = script.send(&flow, &flow.seg().dss(dss).data(&stream(80, 10)));
        assert!(acked(&keys, &out, 91), "{out:?}");
        script.expect_stream(id, 80, 10);
        assert!(script.at_end(id));
    });
}

#[test]
fn t86_a_bare_data_fin_in_every_form() {
    both(|v| {
        for form in 0..4 {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed();
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
            script.expect_stream(id, 0, 10);
            let mut dss = keys.fin(10);
            let mapping = dss.mapping.as_mut().expect("a mapping");
            match form {
                0 => {}
                1 => mapping.ssn = 11,
                2 => mapping.dsn = WireSeq::Low(keys.peer_dsn(10).0 as u32),
                _ => {}
            }
            let seg = flow.seg().dss(dss);
            let seg = if form == 3 { seg.fin() } else { seg };
            assert!(script.would_block(id));
            script.ready(id);
            let out = script.send(&flow, &seg);
            assert!(acked(&keys, &out, 11), "form {form}: {out:?}");
            assert!(script.ready(id).contains(Ready::READABLE | Ready::READ_CLOSED));
            assert!(script.at_end(id));
        }
    });
}

#[test]
fn t87_a_data_fin_of_impossible_length() {
    both(|v| {
        for ssn in [0, 11] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed();
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
            script.expect_stream(id, 0, 10);
            let mut dss = keys.map(10, ssn, 500);
            dss.data_fin = true;
            let mut out = script.send(&flow, &flow.seg().dss(dss));
            out.extend(script.advance(100));
            for packet in &out {
                let ack = packet.data_ack().expect("DATA_ACK");
                assert!(same(ack, keys.peer_dsn(10)), "no more than is held: {packet:?}");
            }
            assert!(script.would_block(id));
        }
    });
}

#[test]
fn t88_a_data_fin_behind_a_hole_waits() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.send(&flow, &flow.seg().dss(keys.fin(100)));
        assert!(acked(&keys, &out, 0), "{out:?}");
        script.send_data(&keys, &mut flow, 50, 0, &stream(50, 50));
        assert!(script.would_block(id));
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 50));
        assert!(acked(&keys, &out, 101), "{out:?}");
        script.expect_stream(id, 0, 100);
        assert!(script.at_end(id));
    });
}

#[test]
fn data_beyond_a_data_fin_is_not_delivered() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().dss(keys.fin(10)));
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 30));
        assert!(acked(&keys, &out, 11), "{out:?}");
        script.expect_stream(id, 0, 10);
        assert!(script.at_end(id));
    });
}

#[test]
fn t89_our_data_fin_is_repeated_with_back_off() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.shutdown_write(script.now, id);
        let first = script.out();
        assert_eq!(our_fin(&keys, &first, 0), 2, "on every subflow: {first:?}");
        let later = script.advance(70_000);
        let times: Vec<u64> =
            flow.of(&later).iter().filter(|o| o.data_fin()).map(|o| o.at.as_millis()).collect();
        let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.len() >= 3 && gaps.windows(2).all(|w| w[1] > w[0] * 3 / 2), "{times:?}");
        assert!(join.of(&later).iter().any(|o| o.data_fin()));
        // Acknowledged: silence.
        script.send(&join, &join.seg().dss(keys.ack(1)));
        assert!(script.advance(30_000).iter().all(|o| !o.data_fin()));
    });
}

/// Linux acknowledges a `DATA_FIN` once, and its repetitions not at all. That acknowledgement is lost, and its
/// application has nothing to say for long.
#[test]
fn a_data_fin_whose_acknowledgement_was_lost_is_asked_about() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
        let out = script.advance(10_000);
        // To what lies below its window any TCP answers; what it says of the data level there it does not read.
        let (asked, told): (Vec<_>, Vec<_>) =
            out.iter().partition(|o| o.seq == flow.rcv_nxt.wrapping_sub(1));
        assert!(!asked.is_empty() && asked.len() < told.len(), "{out:?}");
        script.send(&flow, &flow.seg().dss(keys.ack(1)));
        assert!(script.advance(2_000_000).is_empty());
        assert!(script.would_block(id), "the other half goes on");
    });
}

/// Kernels of version 0 drop a `DATA_FIN` that their window has no room for, and say so each time.
#[test]
fn a_data_fin_waits_for_a_shut_window_as_long_as_the_peer_answers() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.unconfirmed_within(2_000, 40_000, CapableFlags::HMAC);
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let out = script.write(id, 0, 2_000);
        flow.hears(&out);
        assert_eq!(out.iter().map(|o| o.payload.len()).sum::<usize>(), 2_000, "{out:?}");
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 2_000), 1, "{out:?}");
        flow.window = 0;
        for _ in 0..12 {
            script.send(&flow, &flow.seg().dss(keys.ack(2_000)));
            let out = script.advance(130_000);
            assert!(out.iter().all(|o| !o.rst() && !is_fastclose(o)), "{out:?}");
            assert!(our_fin(&keys, &out, 2_000) > 0, "{out:?}");
        }
        // The window opens.
        flow.window = 4_000;
        let out = script.send(&flow, &flow.seg().dss(keys.ack(2_000)));
        assert_eq!(our_fin(&keys, &out, 2_000), 1, "at once: {out:?}");
        script.send(&flow, &flow.seg().dss(keys.ack(2_001)));
        assert_eq!(our_fin(&keys, &script.advance(60_000), 2_000), 0);
    });
}

#[test]
fn t90_a_repeated_data_fin_is_acknowledged_in_time_wait() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        close_orderly(&mut script, &keys, &mut flow, id, 0);
        let out = script.send(&flow, &flow.seg().dss(Dss { ..keys.fin(0) }));
        flow.hears(&out);
        assert!(out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.ready(id).contains(Ready::CLOSED));
        // The peer's FIN ends the subflow; ours is acknowledged by it.
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)).fin());
        assert!(acked(&keys, &out, 1), "{out:?}");
        assert_eq!(script.stack.occupancy().time_waits, 1);
        // Its DATA_ACK was lost.
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)).fin());
        assert!(acked(&keys, &out, 1), "{out:?}");
        // The DATA_FIN alone, which takes no sequence space, is answered as well; an ACK is not.
        flow.snd_nxt += 1;
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)));
        assert!(acked(&keys, &out, 1), "{out:?}");
        assert!(script.send(&flow, &flow.seg().dss(keys.ack(1))).is_empty());
        script.stack.release(id);
        script.forget(id);
    });
}

#[test]
fn a_connection_without_any_data_closes_in_order() {
    both(|v| {
        // Server first, client first; nothing was ever sent, so only DATA_FIN can confirm MPTCP.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.unconfirmed();
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
        let out = script
            .send(&flow, &flow.seg().dss(Dss { data_ack: keys.ack(1).data_ack, ..keys.fin(0) }));
        flow.hears(&out);
        assert!(acked(&keys, &out, 1) && out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.at_end(id));

        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        script.stack.shutdown_write(script.now, id);
        let mut out = script.out();
        assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
        // The third ACK was lost: the SYN/ACK comes again and the keys are told again.
        out =
            script.answer(&mut flow, &[capable(v, CapableFlags::HMAC, CapableForm::Key(PEER_KEY))]);
        assert!(out.iter().any(|o| o.capable().is_some()), "{out:?}");
        let out = script.advance(3_000);
        assert!(our_fin(&keys, &out, 0) > 0, "{out:?}");
        let dss = Dss { data_ack: keys.ack(1).data_ack, ..keys.fin(0) };
        let out = script.send(&flow, &flow.seg().dss(dss));
        assert!(acked(&keys, &out, 1) && out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.at_end(id));
        assert_eq!(script.counters().fallback, 0);
    });
}

#[test]
fn a_whole_life_leaves_nothing() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        let out = script.write(id, 0, 100);
        flow.hears(&out);
        script.send(&flow, &flow.seg().dss(keys.ack(100)));
        script.stack.close(script.now, id);
        script.forget(id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 100), 1);
        let dss = Dss { data_ack: keys.ack(101).data_ack, ..keys.fin(100) };
        let out = script.send(&flow, &flow.seg().dss(dss));
        flow.hears(&out);
        let out = script.send(&flow, &flow.seg().fin());
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        script.advance(61_000);
        let occupancy = script.stack.occupancy();
        assert_eq!((occupancy.tcbs, occupancy.connections, occupancy.tokens), (0, 0, 0));
        assert_eq!((occupancy.time_waits, occupancy.timers), (0, 0));
    });
}

#[test]
fn a_half_closed_peer_that_closes_its_subflow_still_gets_everything() {
    both(|v| {
        // DATA_FIN and the subflow's FIN in one segment: the peer only stopped sending.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)).fin());
        flow.hears(&out);
        flow.snd_nxt += 1;
        assert!(acked(&keys, &out, 1) && out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.at_end(id));
        let mut written = 0;
        for _ in 0..50 {
            let out = script.write(id, written, 5_000);
            written += 5_000;
            flow.hears(&out);
            let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            let out = script.send(&flow, &flow.seg().dss(keys.ack(got)));
            flow.hears(&out);
        }
        script.stack.close(script.now, id);
        script.forget(id);
        let mut fin = 0;
        for _ in 0..100 {
            let mut out = script.out();
            out.extend(script.advance(100));
            flow.hears(&out);
            fin += out.iter().filter(|o| o.data_fin()).count();
            let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            let got = got.min(written) + u64::from(fin > 0 && got >= written);
            let out = script.send(&flow, &flow.seg().dss(keys.ack(got)));
            fin += out.iter().filter(|o| o.data_fin()).count();
            flow.hears(&out);
        }
        let octets = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn));
        assert_eq!(octets, 1 + written + 1, "all data and our FIN arrived");
    });
}

#[test]
fn t93_an_acknowledged_stream_closes_whatever_a_subflow_still_waits_for() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let mut out = script.write(id, 0, 60_000);
        script.stack.shutdown_write(script.now, id);
        out.extend(script.out());
        assert!(first.of(&out).iter().any(|o| !o.payload.is_empty()), "{out:?}");
        // DATA_ACK says that everything arrived over the join, TCP of the first never did.
        for _ in 0..200 {
            join.hears(&out);
            let acked = script.info(id).bytes_acked;
            if acked == 60_000 {
                break;
            }
            out = script.send(&join, &join.seg().dss(keys.ack(acked + 1_000)));
            out.extend(script.advance(50));
        }
        assert_eq!(script.info(id).bytes_acked, 60_000);
        let dss = Dss { data_ack: keys.ack(60_001).data_ack, ..keys.fin(0) };
        let out = script.send(&join, &join.seg().dss(dss));
        assert!(script.at_end(id));
        assert!(script.ready(id).contains(Ready::CLOSED), "nobody waits for the first subflow");
        assert!(join.of(&out).iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        // That one is closed as well: behind what it still repeats, or at once.
        let ends =
            |flow: &Flow, out: &[Out]| flow.of(out).iter().any(|o| o.is(TcpFlags::FIN) || o.rst());
        let mut closed = ends(&first, &out);
        for _ in 0..100 {
            if closed {
                break;
            }
            let mut out = script.advance(1_000);
            first.hears(&out);
            out.extend(script.send(&first, &first.seg().dss(keys.ack(60_001))));
            first.hears(&out);
            closed = ends(&first, &out);
        }
        assert!(closed, "it is never closed");
    });
}

#[test]
fn t94_a_plain_fin_closes_one_subflow_and_reinjects() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        let out = script.write(id, 0, 3_000);
        first.hears(&out);
        assert!(join.of(&out).is_empty());
        // Not acknowledged by TCP either.
        let fin = first.seg().acks(first.stack_isn + 1).dss(keys.ack(0)).fin();
        let out = script.send(&first, &fin);
        assert!(first.of(&out).iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        let again: usize = join.of(&out).iter().map(|o| o.payload.len()).sum();
        assert_eq!(again, 3_000, "{out:?}");
        assert!(script.would_block(id), "the stream has not ended");
        script.send(&join, &join.seg().dss(keys.ack(3_000)));
        assert_eq!(script.info(id).bytes_acked, 3_000);
    });
}

/// A subflow that is sidelined is none that works (RFC 8684 §3.3.3): what is outstanding goes on over the one that the
/// peer has closed.
#[test]
fn t94_a_sidelined_subflow_does_not_stand_in_for_one_that_the_peer_closes() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.write(id, 0, 20_000);
        first.hears(&out);
        join.hears(&out);
        let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
        assert!((1..20_000).contains(&got), "both carry some: {out:?}");
        // The join falls silent; what was there goes again, and waits for its DATA_ACK.
        for _ in 0..100 {
            let mut out = script.advance(10);
            out.extend(script.send(&first, &first.seg().dss(keys.ack(got))));
            first.hears(&out);
            if script.info(id).subflows[1].stale {
                break;
            }
        }
        let subflows = script.info(id).subflows;
        assert!(!subflows[0].stale && subflows[1].stale, "{subflows:?}");
        let out = script.send(&first, &first.seg().dss(keys.ack(got)).fin());
        first.snd_nxt += 1;
        assert!(first.of(&out).iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        // It is back, and everything has arrived.
        let out = script.send(&join, &join.seg().dss(keys.ack(20_000)));
        assert!(first.of(&out).iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
    });
}

#[test]
fn t95_a_connection_outlives_its_last_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)).fin());
        flow.hears(&out);
        flow.snd_nxt += 1;
        script.send(&flow, &flow.seg());
        assert!(script.info(id).subflows.is_empty());
        // Written meanwhile, and joined in time.
        assert!(script.write(id, 0, 500).is_empty());
        script.advance(59_000);
        let mut join = script.join(&keys, at(P2, 5000), at(A1, PORT));
        let out = script.advance(1_000);
        let sent: usize = join.of(&out).iter().map(|o| o.payload.len()).sum();
        assert!(sent >= 500 || script.info(id).subflows[0].bytes_sent >= 500, "{out:?}");
        script.send_data(&keys, &mut join, 10, 0, &stream(10, 10));
        script.expect_stream(id, 10, 10);
        // Not in time.
        script.send(&join, &join.seg().flags(RST));
        script.ready(id);
        script.advance(59_900);
        assert!(!script.ready(id).contains(Ready::CLOSED));
        script.advance(200);
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert_eq!(script.read(id), Err(RecvError::Failed(ConnectionError::NoSubflows)));
    });
}

#[test]
fn t96_our_fin_waits_for_the_end_of_the_stream() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let mut out = script.write(id, 0, 20_000);
        script.stack.shutdown_write(script.now, id);
        out.extend(script.out());
        out.extend(script.advance(3_000));
        // All of it is under way, its end too, and nothing is acknowledged on either subflow.
        for flow in [&first, &join] {
            assert!(flow.of(&out).iter().any(|o| !o.payload.is_empty()), "{out:?}");
        }
        assert!(our_fin(&keys, &out, 20_000) > 0, "{out:?}");
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
    });
}

#[test]
fn t99_data_behind_a_shut_window_is_still_delivered_after_close() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let mut got = 0;
        // Use the window up.
        let mut written = 0;
        while got < 60_000 {
            if written < 80_000 {
                let out = script.write(id, written, 10_000);
                written += 10_000;
                flow.hears(&out);
            }
            got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            let left = 60_000_u64.saturating_sub(got) as u16;
            let out = script.send(&flow, &flow.seg().dss(keys.ack(got)).window(left));
            flow.hears(&out);
            got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            script.send(
                &flow,
                &flow.seg().dss(keys.ack(got)).window(60_000_u64.saturating_sub(got) as u16),
            );
        }
        let out = script.write(id, written, 20_000);
        assert!(out.is_empty(), "{out:?}");
        written += 20_000;
        script.stack.close(script.now, id);
        script.forget(id);
        let out = script.advance(20_000);
        assert_eq!(our_fin(&keys, &out, written), 0, "{out:?}");
        // The window opens.
        for _ in 0..20 {
            let out = script.send(&flow, &flow.seg().dss(keys.ack(got)));
            flow.hears(&out);
            got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            if our_fin(&keys, &out, written) > 0 {
                break;
            }
        }
        assert_eq!(got, written);
        // Nobody comes back for it: bounded, by a fastclose.
        let out = script.advance(300_000);
        assert!(out.iter().any(is_fastclose), "{out:?}");
        assert_eq!(script.stack.occupancy().connections, 0);
    });
}

/// RFC 9293 §3.8.3: what is sent is repeated for 100 seconds at least, whether or not anybody holds the connection.
#[test]
fn what_was_written_before_the_close_outlives_an_outage() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let lost = script.write(id, 0, 1_000);
        script.stack.close(script.now, id);
        script.forget(id);
        script.out();
        let again = script.advance(90_000);
        assert!(again.iter().all(|o| !o.rst()) && again.iter().any(|o| o.seq == lost[0].seq));
        flow.hears(&lost);
        script.send(&flow, &flow.seg().dss(keys.ack(1_001)));
        assert_eq!(script.stack.occupancy().connections, 1);
        // From here on only the peer's end is waited for.
        script.advance(65_000);
        assert_eq!(script.stack.occupancy().connections, 0);
    });
}

#[test]
fn an_abandoned_connection_does_not_wait_for_ever() {
    both(|v| {
        // We closed, the peer acknowledged and never ends its direction.
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.stack.close(script.now, id);
        script.forget(id);
        script.out();
        script.send(&flow, &flow.seg().dss(keys.ack(1)));
        let mut out = script.advance(30_000);
        assert_eq!(script.stack.occupancy().connections, 1);
        for _ in 0..10 {
            out.extend(script.send(&flow, &flow.seg()));
            out.extend(script.advance(10_000));
        }
        assert_eq!(script.stack.occupancy().connections, 0);
        assert!(out.iter().any(is_fastclose), "{out:?}");
        // The same after a fallback to TCP: FIN-WAIT-2 does not last.
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed();
        script.send(&flow, &flow.seg().data(b"x"));
        flow.snd_nxt += 1;
        assert_eq!(script.read(id).expect("plain data"), b"x");
        script.stack.close(script.now, id);
        script.forget(id);
        let out = script.out();
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        script.advance(55_000);
        assert_eq!(script.stack.occupancy().connections, 1);
        script.advance(10_000);
        assert_eq!(script.stack.occupancy().connections, 0);
    });
}

#[test]
fn t104_a_bare_rst_ends_one_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.send(&first, &first.seg().flags(RST));
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
        script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn t105_a_bare_rst_on_the_last_subflow_waits_for_a_join() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().flags(RST));
        assert!(script.would_block(id));
        script.advance(30_000);
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.advance(60_000);
        script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn t136_what_a_reset_subflow_carried_is_sent_again_once_and_in_order() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        let mut out = Vec::new();
        let mut offset = 0;
        // Open the first subflow's congestion window until 64 KiB fit into it.
        for _ in 0..8 {
            out = script.write(id, offset, 14_000);
            offset += 14_000;
            first.hears(&out);
            let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
            out = script.send(&first, &first.seg().dss(keys.ack(got)));
            first.hears(&out);
        }
        drop(out);
        let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
        script.send(&first, &first.seg().dss(keys.ack(got)));
        assert_eq!(got, offset, "nothing is outstanding");
        let out = script.write(id, offset, 40_000);
        first.hears(&out);
        let lost: u64 = first.of(&out).iter().map(|o| o.payload.len() as u64).sum();
        assert!(lost > 20_000, "{lost}");
        // RST: everything goes out again on the join.
        let mut out = script.send(&first, &first.seg().flags(RST));
        let mut again = Vec::new();
        for _ in 0..40 {
            for packet in join.of(&out) {
                let Some(mapping) = packet.mapping().filter(|_| !packet.payload.is_empty()) else {
                    continue;
                };
                let at = (offset..offset + 40_000).find(|o| same(mapping.dsn, keys.stack_dsn(*o)));
                again.push((at.expect("what was lost"), packet.payload.len() as u64));
            }
            join.hears(&out);
            let sent: u64 = again.iter().map(|(_, len)| len).sum();
            out = script.send(&join, &join.seg().dss(keys.ack(offset + sent)));
            if sent == 40_000 {
                break;
            }
        }
        let mut next = offset;
        for (at, len) in again {
            assert_eq!(at, next, "in order, nothing twice");
            next += len;
        }
        assert_eq!(next, offset + 40_000);
        assert_eq!(script.info(id).bytes_acked, next);
        assert_eq!(script.info(id).subflows[0].reinjected, lost);
    });
}

/// A relay whose inner leg ended in order while the outer one takes no more: what was received is
/// stuck between them. Answers (script, inner, outer, the outer flow).
fn ended_with_unread_data(v: Version) -> (Script, SocketId, SocketId, Flow) {
    let mut script = Script::server_with(v, |c| c.tcp.send_buffer_max = 2_000);
    let (keys, mut flow, inner) = script.confirmed();
    let with = mptcp_core::stack::Connect {
        local: A1,
        local_port: 0,
        remote: at(P1, 8080),
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let outer = script.stack.connect(script.now, &with).expect("room");
    let out = script.out();
    let mut exit = Flow::new(at(P1, 8080), out[0].src);
    exit.hears(&out);
    script.answer(&mut exit, &[]);
    script.stack.relay(script.now, inner, outer).expect("both are free");
    // The server ends its direction, then the client does, with data nobody can take.
    let out = script.send(&exit, &exit.seg().fin());
    exit.snd_nxt += 1;
    assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
    script.send(&flow, &flow.seg().dss(keys.ack(1)));
    for n in 0..20 {
        let dss = keys.data(&flow, n * 1_000, 1, &stream(n * 1_000, 1_000));
        script.send(&flow, &flow.seg().dss(dss).data(&stream(n * 1_000, 1_000)));
        flow.snd_nxt += 1_000;
    }
    script.send(&flow, &flow.seg().dss(Dss { data_ack: keys.ack(1).data_ack, ..keys.fin(20_000) }));
    let ready = script.ready(inner);
    assert!(!ready.contains(Ready::CLOSED), "it waits for its data: {ready:?}");
    assert!(script.received_in_use() > 0);
    (script, inner, outer, exit)
}

#[test]
fn a_leg_that_ended_reports_it_when_the_other_fails() {
    both(|v| {
        let (mut script, inner, outer, exit) = ended_with_unread_data(v);
        script.send(&exit, &exit.seg().flags(RST));
        assert!(script.ready(inner).contains(Ready::CLOSED));
        assert_eq!(script.received_in_use(), 0);
        assert_eq!(script.stack.error(outer), Some(ConnectionError::Reset));
        script.stack.release(outer);
    });
}

#[test]
fn a_leg_that_ended_reports_it_when_the_other_is_taken_away() {
    both(|v| {
        let (mut script, inner, outer, _) = ended_with_unread_data(v);
        script.stack.abort(script.now, outer);
        assert!(script.ready(inner).contains(Ready::CLOSED));
        // It is a socket of its own again, and what it received can be read.
        let read = script.read(inner).expect("what was stuck");
        assert!(!read.is_empty() && read == stream(20_000 - read.len() as u64, read.len()));
    });
}

#[test]
fn closing_before_the_syn_ack_ends_it_at_once() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (mut flow, id, _) = script.connect();
        script.stack.close(script.now, id);
        script.forget(id);
        assert!(script.out().is_empty());
        assert_eq!(script.stack.occupancy(), mptcp_core::stack::Occupancy::default());
        let out = script.answer(&mut flow, &[]);
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
    });
}

/// Two ends that both closed and both lack something would answer each other's `DATA_FIN`s with their own
/// for ever: one in front of which octets are missing is answered once.
#[test]
fn t86_a_repeated_data_fin_behind_a_hole_is_not_answered() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
        let bare = flow.seg().dss(Dss { data_ack: keys.ack(0).data_ack, ..keys.fin(10) });
        let out = script.send(&flow, &bare);
        assert!(acked(&keys, &out, 0), "{out:?}");
        for _ in 0..10 {
            let out = script.send(&flow, &bare);
            assert!(out.is_empty(), "{out:?}");
        }
        // Once nothing is missing each is answered: the answer may have been lost.
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
        for _ in 0..3 {
            let bare = flow.seg().dss(Dss { data_ack: keys.ack(0).data_ack, ..keys.fin(10) });
            let out = script.send(&flow, &bare);
            assert!(acked(&keys, &out, 11), "{out:?}");
        }
    });
}

/// One that ends in front of a full queue leaves nobody behind that waits for room: a loop that sleeps once nothing
/// waits would turn for ever.
#[test]
fn an_end_in_front_of_a_full_queue_holds_up_nobody() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, _, long) = script.confirmed();
        let (keys, mut flow, id) = script.confirmed_from(40_001, CapableFlags::HMAC);
        let out = script.write(id, 0, 4_000);
        let first = out[0].payload.len() as u32;
        let mut tx = HeapTxQueue::new(2, HeapPool::new(8, 1700));
        assert_eq!(script.stack.send(script.now, long, &stream(0, 20_000)), Ok(20_000));
        assert_eq!(script.stack.poll_transmit(script.now, &mut tx), Progress::More);
        assert_eq!(tx.len(), 2);
        script.stack.abort(script.now, long);
        script.forget(long);
        // Some of what the other one has sent arrives, and nothing is left to be sent.
        flow.rcv_nxt = flow.rcv_nxt.wrapping_add(first);
        script.send(&flow, &flow.seg().dss(keys.ack(first.into())));
        assert!(script.stack.transmit_idle());
        assert_eq!(script.info(id).bytes_acked, first.into());
    });
}

/// What is missing of its stream can come by no subflow that the peer has closed: once we have nothing left
/// to say there either, it is closed, and the connection ends unless a join brings the rest.
#[test]
fn a_subflow_closed_in_front_of_a_hole_does_not_stay_for_ever() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().dss(keys.fin(10)));
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert_eq!(our_fin(&keys, &out, 0), 1, "{out:?}");
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)).fin());
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "it may still be needed: {out:?}");
        flow.snd_nxt += 1;
        let out = script.send(&flow, &flow.seg().dss(keys.ack(1)));
        assert!(flow.of(&out).iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert!(script.info(id).subflows.is_empty());
        script.advance(60_100);
        assert_eq!(script.info(id).error, Some(ConnectionError::NoSubflows));
    });
}
