//! What subflows carry, and what happens when one is lost.

use super::*;

#[test]
fn t41_a_backup_subflow_carries_data_only_when_nothing_else_works() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let backup = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
        assert!(script.info(id).subflows[1].backup);
        assert_eq!(script.counters().mp_join_syn_backup_rx, 1);
        // More than the first subflow's window takes: the rest waits.
        let out = script.write(id, 0, 40_000);
        first.hears(&out);
        assert!(backup.of(&out).is_empty(), "{out:?}");
        assert!(!first.of(&out).is_empty());
        // The last regular subflow fails.
        let out = script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        let data: usize = backup.of(&out).iter().map(|o| o.payload.len()).sum();
        assert!(data > 0, "{out:?}");
    });
}

/// Where the peer's window is used up its first octet goes again by a faster path, but by no backup.
#[test]
fn t41_a_backup_subflow_repeats_nothing_that_a_regular_one_holds() {
    both(|v| {
        let mut script = Script::server(v);
        let (mut first, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
        let keys = Keys::of(v, &syn_ack, false);
        // The first path is far, the other one near.
        script.advance(200);
        first.window = 6_000;
        script.send(&first, &first.seg().opt(&keys.third()));
        let id = script.accept().expect("it is established");
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let mut near = Flow::new(at(P2, 5000), at(A2, PORT));
        near.window = 6_000;
        let out = script.join_syn(&keys, &mut near, true);
        let ack = Script::join_ack(&keys, near.of(&out)[0]);
        script.advance(10);
        script.send(&near, &near.seg().opt(&ack));
        let data = |flow: &Flow, out: &[Out]| -> usize {
            flow.of(out).iter().map(|o| o.payload.len()).sum()
        };
        let out = script.write(id, 0, 20_000);
        assert!(data(&first, &out) > 4_000 && data(&near, &out) == 0, "{out:?}");
        assert_eq!(script.counters().mptcp_penalised, 0);
        // Once the peer has it used like any other it does.
        let out = script.send(&near, &near.seg().raw(&[30, 3, 0x50]));
        assert!(data(&near, &out) > 0, "{out:?}");
        assert_eq!(script.counters().mptcp_penalised, 1);
    });
}

/// What goes by every path goes by every regular one.
#[test]
fn t41_a_backup_subflow_gets_no_copies() {
    use mptcp_core::config::{SchedulerKind, Scheduling};
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let backup = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
        let redundant = Scheduling { kind: SchedulerKind::Redundant, ..Scheduling::default() };
        assert!(script.stack.set_scheduling(script.now, id, &redundant));
        let out = script.write(id, 0, 5_000);
        first.hears(&out);
        assert!(!first.of(&out).is_empty() && backup.of(&out).is_empty(), "{out:?}");
        let out = script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        assert!(backup.of(&out).iter().any(|o| !o.payload.is_empty()), "{out:?}");
    });
}

#[test]
fn an_opened_join_carries_data_both_ways() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        assert!(same(join.of(&out)[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(10)), "{out:?}");
        script.expect_stream(id, 0, 10);
        let out = script.write(id, 0, 60_000);
        let sent = |flow: &Flow| flow.of(&out).iter().map(|o| o.payload.len()).sum::<usize>();
        assert!(sent(&first) > 0 && sent(&join) > 0, "both carry data");
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        for packet in &out {
            let Some(mapping) = packet.mapping() else { continue };
            let offset = (0..60_000).find(|o| same(mapping.dsn, keys.stack_dsn(*o)));
            joined.push((offset.expect("within what was written"), packet.payload.clone()));
        }
        joined.sort();
        let mut next = 0;
        for (offset, payload) in joined {
            assert_eq!(offset, next, "in DSN order, nothing twice");
            assert_eq!(payload, stream(offset, payload.len()));
            next += payload.len() as u64;
        }
        first.hears(&out);
    });
}

#[test]
fn t143_data_on_a_stale_tuple_is_reset_and_a_join_resumes() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 10));
        // The address changed on the way: the same subflow from another tuple.
        let stranger = Flow { peer: at(P2, 60_000), ..first.clone() };
        let seg = stranger.seg().dss(keys.data(&stranger, 10, 0, &stream(10, 5)));
        let out = script.send(&stranger, &seg.data(&stream(10, 5)));
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
        script.expect_stream(id, 0, 10);
        let mut join = script.join(&keys, at(P2, 60_001), at(A1, PORT));
        script.send_data(&keys, &mut join, 10, 0, &stream(10, 5));
        script.expect_stream(id, 10, 5);
    });
}

#[test]
fn a_client_that_loses_a_join_goes_on() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, join, _, id) = client_joins(&mut script);
        let out = script.send(
            &join,
            &join.seg().seq(0).acks(join.rcv_nxt).flags(TcpFlags::RST | TcpFlags::ACK),
        );
        assert!(first.of(&out).len() == out.len() && out.iter().all(|o| !o.rst()), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn a_join_after_the_only_path_died_takes_everything_over() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let offset = widen(&mut script, &keys, &mut first, id);
        let out = script.write(id, offset, 50_000);
        let lost = payload(&first, &out);
        assert!(lost > 20_000, "{lost}");
        for _ in 0..100 {
            script.advance(5);
            if script.counters().tcp_timeouts > 0 {
                break;
            }
        }
        assert_eq!((script.counters().tcp_timeouts, script.counters().mptcp_retrans), (1, 0));
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        let answer = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&answer)[0]);
        let mut out = script.send(&join, &join.seg().opt(&ack));
        // Not a moment later, and all of it before anything new.
        let mut again = 0;
        while payload(&join, &out) > 0 {
            join.hears(&out);
            again += payload(&join, &out);
            out = script.send(&join, &join.seg().dss(keys.ack(offset + again)));
        }
        assert_eq!(again, 50_000);
        assert_eq!(script.info(id).bytes_acked, offset + 50_000);
        let subflows = script.info(id).subflows;
        assert!(subflows[0].stale && !subflows[1].stale);
        assert_eq!(subflows[1].reinjected, lost);
    });
}

#[test]
fn what_only_tcp_acknowledged_comes_again_when_its_subflow_fails() {
    both(|v| {
        for fail in [false, true] {
            let mut script = Script::server(v);
            let (keys, mut first, id) = script.confirmed();
            let join = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
            let out = script.write(id, 0, 3_000);
            first.hears(&out);
            assert_eq!(payload(&first, &out), 3_000);
            let out = script.send(&first, &first.seg().dss(keys.ack(0)));
            assert!(out.is_empty(), "{out:?}");
            let mut rst = first.seg().flags(TcpFlags::RST | TcpFlags::ACK);
            if fail {
                rst = rst.opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 });
            }
            let out = script.send(&first, &rst);
            assert_eq!(payload(&join, &out), 3_000, "{out:?}");
            script.send(&join, &join.seg().dss(keys.ack(3_000)));
            assert_eq!(script.info(id).bytes_acked, 3_000);
        }
    });
}

/// Kernels of version 0, and phones of either, take nothing of a mapping before all of it is there: what TCP
/// acknowledged of one goes again as well when the subflow that has the rest falls silent.
#[test]
fn a_mapping_without_its_end_goes_again_from_its_beginning() {
    both(|v| {
        let mut script = Script::server(v);
        script.join_segments();
        let (keys, mut first, id) = script.confirmed();
        let join = script.join_as(&keys, at(P2, 5000), at(A2, PORT), true);
        let out = script.write(id, 0, 100);
        first.hears(&out);
        script.send(&first, &first.seg().dss(keys.ack(100)));
        let out = script.write(id, 100, 12_000);
        assert_eq!(payload(&first, &out), 12_000);
        let shares = |o: &Out| o.mapping().is_some_and(|m| usize::from(m.len) > o.payload.len());
        let head = out.iter().position(shares).expect("a mapping of several segments");
        // Its first segment arrives, and nothing behind that.
        let mapped = out[head].mapping().expect("a mapping").dsn;
        first.hears(&out[..=head]);
        let arrived = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
        let taken = arrived - out[head].payload.len() as u64;
        assert!(same(mapped, keys.stack_dsn(taken)), "{:?}", out[head]);
        script.send(&first, &first.seg().dss(keys.ack(taken)));
        let out = script.advance(3_000);
        let again = join.of(&out).into_iter().find(|o| !o.payload.is_empty()).expect("a repair");
        assert_eq!(again.mapping().expect("a mapping").dsn, mapped, "{again:?}");
    });
}

#[test]
fn what_follows_the_dsn_of_an_mp_fail_comes_again() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        let out = script.write(id, 0, 1_400);
        assert_eq!(payload(&first, &out), 1_400);
        script.stack.set_backup(id, 0, true);
        script.stack.set_backup(id, 1, false);
        script.out();
        let out = script.write(id, 1_400, 1_400);
        assert_eq!(payload(&join, &out), 1_400);
        join.hears(&out);
        // The head is under way on the first subflow; the rest arrived at TCP and was thrown away.
        script.send(&join, &join.seg().dss(keys.ack(0)));
        let rst = join.seg().flags(TcpFlags::RST | TcpFlags::ACK);
        let fail = MptcpOption::Fail { dsn: keys.stack_dsn(1_400).0 };
        let out = script.send(&join, &rst.opt(&fail));
        let [again] = first.of(&out)[..] else { panic!("{out:?}") };
        assert_eq!(again.payload, stream(1_400, 1_400));
        assert!(same(again.mapping().expect("a mapping").dsn, keys.stack_dsn(1_400)), "{again:?}");
    });
}

#[test]
fn a_lost_join_syn_is_no_sidelined_subflow() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (_, _, join, ..) = client_joins(&mut script);
        let out = script.advance(5_000);
        assert!(join.of(&out).len() >= 2, "{out:?}");
        let counters = script.counters();
        assert_eq!((counters.mptcp_retrans, counters.subflow_stale), (0, 0));
    });
}

/// Both paths are dead for longer than a sidelined subflow may be beside one that works, and one is back then: the
/// other subflow does not stay as it is.
#[test]
fn a_sidelined_subflow_is_given_up_once_another_one_works() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.write(id, 0, 20_000);
        assert!(payload(&join, &out) > 0, "{out:?}");
        first.hears(&out);
        script.advance(70_000);
        assert!(script.info(id).subflows.iter().all(|subflow| subflow.stale));
        for _ in 0..50 {
            let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
            let mut out = script.send(&first, &first.seg().dss(keys.ack(got)));
            out.extend(script.advance(100));
            first.hears(&out);
        }
        assert_eq!(script.info(id).bytes_acked, 20_000);
        let out = script.advance(125_000);
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
    });
}

/// The SYN of a join in `out`, as (from, to, our address id).
fn join_syn_of(out: &[Out]) -> Option<(Flow, u8)> {
    out.iter().find_map(|o| match o.join() {
        Some(MpJoin::Syn { address_id, .. }) => {
            let mut flow = Flow::new(o.dst, o.src);
            flow.hears(core::slice::from_ref(o));
            Some((flow, address_id))
        }
        _ => None,
    })
}

#[test]
fn t105_a_client_joins_again_when_its_last_subflow_was_reset() {
    both(|v| {
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            c.addresses.truncate(1);
        });
        let (keys, mut first, id) = script.connected();
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let out = script.write(id, 0, 3_000);
        first.hears(&out);
        script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        assert!(script.info(id).subflows.is_empty());
        let out = script.advance(1_010);
        let (mut join, address_id) = join_syn_of(&out).expect("a join");
        assert_eq!((join.local.ip(), join.peer, address_id), (A1, at(P1, PORT), 0));
        let syn = out.iter().find_map(Out::join);
        let Some(MpJoin::Syn { nonce, .. }) = syn else { panic!("{out:?}") };
        script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        let out = script.send(&join, &join.seg().dss(keys.ack(0)));
        assert_eq!(payload(&join, &out), 3_000, "{out:?}");
        script.advance(100_000);
        assert!(!script.ready(id).contains(Ready::CLOSED), "it lives");
    });
}

/// A join whose third ACK nobody answers is no subflow, however many of them follow each other.
#[test]
fn joins_that_are_never_complete_do_not_prolong_a_connection() {
    both(|v| {
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            c.addresses.truncate(1);
        });
        let (keys, first, id) = script.connected();
        script.send(&first, &first.seg().dss(keys.ack(0)));
        script.send(&first, &first.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        let mut answered = 0;
        for _ in 0..599 {
            let out = script.advance(100);
            let nonce = out.iter().find_map(|o| match o.join() {
                Some(MpJoin::Syn { nonce, .. }) => Some(nonce),
                _ => None,
            });
            let Some(nonce) = nonce else { continue };
            let (mut join, _) = join_syn_of(&out).expect("a join");
            let out = script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
            assert!(matches!(out[0].join(), Some(MpJoin::Ack { .. })), "{out:?}");
            answered += 1;
        }
        assert!(answered > 0);
        assert_eq!(script.info(id).error, None);
        script.advance(200);
        let error = mptcp_core::error::ConnectionError::NoSubflows;
        assert_eq!(script.info(id).error, Some(error));
    });
}

/// What a connection says that is about all of it goes by a subflow the peer has: on one that is joining only the third
/// ACK is read.
#[test]
fn a_join_under_way_is_not_told_what_is_about_the_connection() {
    both(|v| {
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            (c.tcp.recv_buffer_initial, c.tcp.recv_buffer_max) = (60_000, 60_000);
        });
        let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
        let out = script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
        assert!(matches!(out[0].join(), Some(MpJoin::Ack { .. })), "{out:?}");
        // The join is much closer.
        let out = script.write(id, 0, 100);
        first.hears(&out);
        assert!(script.advance(100).is_empty());
        script.send(&first, &first.seg().dss(keys.ack(100)));
        // The reader makes room.
        for n in 0..30 {
            script.send_data(&keys, &mut first, n * 1_400, 100, &stream(n * 1_400, 1_400));
        }
        script.expect_stream(id, 0, 42_000);
        let out = script.out();
        assert_eq!((first.of(&out).len(), join.of(&out).len()), (1, 0), "{out:?}");
        script.stack.abort(script.now, id);
        script.forget(id);
        let out = script.out();
        let told = first.of(&out);
        assert!(told.len() == 1 && crate::fastclose::is_fastclose(told[0]), "{out:?}");
        assert!(!told[0].rst() && join.of(&out).iter().all(|o| o.rst()), "{out:?}");
    });
}

#[test]
fn a_refused_join_is_not_made_again_soon() {
    // Version 0 has no way to say why.
    let v = Version::V1;
    for (transient, wait) in [(true, 1_000), (false, 60_000)] {
        let mut script = Script::new(v, fullmesh);
        let (_, _, join, ..) = client_joins(&mut script);
        let reset =
            mptcp_core::wire::MpTcpRst { transient, reason: reset_reason::PROHIBITED, reserved: 0 };
        let rst = join.seg().seq(0).flags(TcpFlags::RST | TcpFlags::ACK);
        let out = script.send(&join, &rst.opt(&MptcpOption::Reset(reset)));
        assert!(out.is_empty(), "{out:?}");
        assert!(join_syn_of(&script.advance(wait - 1)).is_none());
        assert!(join_syn_of(&script.advance(5)).is_some());
    }
}

/// A peer that forgot the connection refuses the join; whether it did the idle subflow is asked, which would
/// otherwise wait for ever.
#[test]
fn a_refused_join_asks_whether_the_connection_is_known() {
    both(|v| {
        for known in [true, false] {
            let mut script = Script::new(v, fullmesh);
            let (_, first, join, _, id) = client_joins(&mut script);
            let rst = join.seg().seq(0).flags(TcpFlags::RST | TcpFlags::ACK);
            let out = script.send(&join, &rst);
            let asked = first.of(&out);
            assert!(asked.len() == 1 && asked[0].payload.is_empty(), "{out:?}");
            assert_eq!(asked[0].seq, first.rcv_nxt.wrapping_sub(1));
            if known {
                script.send(&first, &first.seg());
            } else {
                script.send(&first, &first.seg().seq(asked[0].ack).flags(TcpFlags::RST));
            }
            script.advance(2_000);
            let subflows = script.info(id).subflows;
            let lives = subflows.iter().any(|subflow| subflow.local == first.local);
            assert_eq!(lives, known, "{subflows:?}");
        }
    });
}

#[test]
fn a_refused_connect_does_not_count_as_a_connection() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.limits.tcbs = 4;
            c.limits.connections = 4;
        });
        // One connection holds every control block.
        let (keys, _, id) = script.confirmed();
        for port in 5000..5003 {
            script.join(&keys, at(P2, port), at(A2, PORT));
        }
        let with = Connect {
            local: A1,
            local_port: 0,
            remote: at(P1, 9),
            mptcp: false,
            timeout: None,
            user_data: 0,
        };
        for _ in 0..10 {
            assert_eq!(script.stack.connect(script.now, &with), Err(OpenError::LimitReached));
        }
        script.stack.abort(script.now, id);
        script.forget(id);
        let open: Vec<_> = (0..4).map(|_| script.stack.connect(script.now, &with)).collect();
        for id in open {
            script.stack.abort(script.now, id.expect("its four blocks are free again"));
        }
    });
}

#[test]
fn a_subflow_whose_round_trip_is_unknown_is_not_the_nearest() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let out = script.write(id, 0, 100);
        first.hears(&out);
        script.advance(50);
        script.send(&first, &first.seg().dss(keys.ack(100)));
        // The SYN/ACK went out twice: which one was answered nobody knows (Karn).
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        script.join_syn(&keys, &mut join, false);
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        script.send(&join, &join.seg().opt(&ack));
        let out = script.write(id, 100, 1_000);
        assert_eq!((payload(&first, &out), payload(&join, &out)), (1_000, 0), "{out:?}");
    });
}

/// A connection may live through more joins than an octet can number.
#[test]
fn subflows_that_live_have_numbers_of_their_own() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let lasting = script.join(&keys, at(P2, 4_999), at(A2, PORT));
        script.advance(100);
        for n in 0..600 {
            let join = script.join(&keys, at(P2, 5_000 + n), at(A2, PORT));
            let info = script.info(id);
            let mut numbers: Vec<_> = info.subflows.iter().map(|s| s.id).collect();
            assert_eq!((info.subflows[0].remote, numbers[0]), (first.peer, 0));
            assert_eq!((info.subflows[1].remote, numbers[1]), (lasting.peer, 1));
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 3, "after {n} joins");
            script.send(&join, &join.seg().flags(TcpFlags::RST));
        }
    });
}

/// A join that is not complete is no other subflow: what times out beside it goes again under its old
/// numbers only. The peer may have fallen back, and would read a second copy as what comes next.
#[test]
fn a_join_under_way_makes_no_second_copies() {
    both(|v| {
        for answered in [false, true] {
            let mut script = Script::new(v, fullmesh);
            let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
            let written = script.write(id, 0, 100);
            first.hears(&written);
            script.send(&first, &first.seg().dss(keys.ack(100)));
            if answered {
                // The third ACK loses its option on the way, and so will all that follows.
                script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
                script.send(&join, &join.seg().flags(TcpFlags::RST));
            }
            let written = script.write(id, 100, 3_000);
            first.hears(&written);
            let mut out = script.advance(1_500);
            assert!(first.of(&out).iter().any(|o| !o.payload.is_empty()), "{out:?}");
            // It arrived, and what is said of it lost its options.
            for _ in 0..6 {
                out.extend(script.send(&first, &first.seg()));
                out.extend(script.advance(1_000));
            }
            for packet in first.of(&out) {
                let end = packet.seq.wrapping_add(packet.payload.len() as u32);
                assert!(end.wrapping_sub(first.rcv_nxt).cast_signed() <= 0, "{packet:?}");
            }
        }
    });
}

/// The peer fell back and ended its stream while a join of ours has no answer: the subflow it closed is
/// the only one there is, and what we still have goes on over it.
#[test]
fn a_join_under_way_is_no_reason_to_close_the_subflow_there_is() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
        let out = script.write(id, 0, 100);
        first.hears(&out);
        script.send(&first, &first.seg().dss(keys.ack(100)));
        let mut out = script.write(id, 100, 40_000);
        out.extend(script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]));
        first.hears(&out);
        let mut data: Vec<u8> = first.of(&out).iter().flat_map(|o| o.payload.clone()).collect();
        assert!(data.len() < 40_000);
        let mut out = script.send(&first, &first.seg().fin());
        first.snd_nxt += 1;
        out.extend(script.send(&first, &first.seg().dss(infinite(&keys))));
        for _ in 0..20 {
            assert!(first.of(&out).iter().all(|o| !o.is(TcpFlags::FIN) && !o.rst()), "{out:?}");
            data.extend(first.of(&out).iter().flat_map(|o| o.payload.clone()));
            first.hears(&out);
            out = script.send(&first, &first.seg());
            out.extend(script.advance(20));
        }
        assert_eq!(data, stream(100, 40_000));
        assert!(script.at_end(id));
    });
}

/// The peer may have taken a join whose third ACK went out, and send again under new numbers on the first
/// subflow what it sent there: the lack of options is not read as plain TCP any more.
#[test]
fn a_join_that_may_have_been_taken_is_the_end_of_plain_tcp() {
    both(|v| {
        for edited in [false, true] {
            let mut script = Script::new(v, |c| {
                fullmesh(c);
                c.mptcp.checksum = ChecksumPolicy::Require;
            });
            let (keys, mut first, mut join, nonce, id) = client_joins(&mut script);
            let out = script.write(id, 0, 3_000);
            first.hears(&out);
            script.answer(&mut join, &[syn_ack_join(&keys, nonce, 0, false)]);
            let seg = first.seg();
            let wrong = Dss { mapping: Some(keys.mapping(0, 1, b"abd")), ..keys.ack(0) };
            // Options are lost from here on, or a box edits.
            let seg = if edited { seg.dss(wrong).data(b"abc") } else { seg };
            let out = script.send(&first, &seg);
            assert_eq!(script.fallback(id), None);
            assert_eq!(first.of(&out).iter().any(|o| o.rst()), edited, "{out:?}");
        }
    });
}

/// Data without a mapping waits on the first subflow, and that is reset: what comes of it is nothing to a join, which
/// still asks with its option.
#[test]
fn a_join_does_not_inherit_what_its_elder_waited_for() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (_, mut first, mut join, _, id) = client_joins(&mut script);
        let out = script.write(id, 0, 500);
        first.hears(&out);
        script.send(&first, &first.seg().acks(first.stack_isn.wrapping_add(1)).data(b"unmapped"));
        first.snd_nxt += 8;
        script.send(&first, &first.seg().flags(TcpFlags::RST));
        let out = script.advance(10_000);
        let again: Vec<_> = join.of(&out);
        assert!(!again.is_empty(), "{out:?}");
        for packet in again {
            assert!(matches!(packet.join(), Some(MpJoin::Syn { .. })), "{packet:?}");
        }
        assert_eq!(script.fallback(id), None);
        join.hears(&out);
    });
}

/// An infinite mapping at the beginning of the peer's stream.
fn infinite(keys: &Keys) -> Dss {
    Dss { data_ack: None, ..keys.map(0, 1, 0) }
}
