//! What silence at the data level means while a connection has had one subflow only: it is asked about,
//! never taken for more than it says, and not endured for ever (RFC 8684 §3.3.6, §3.7).

use crate::harness::*;
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::SocketId;

/// TCP is answered and the data level is not: on the only subflow nothing goes again under new numbers,
/// for the peer may have fallen back; where no option passes any more it is reset.
#[test]
fn a_single_subflow_without_options_is_reset_and_sends_nothing_twice() {
    both(|v| {
        for heard in [false, true] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed();
            let out = script.write(id, 0, 100);
            flow.hears(&out);
            script.send(&flow, &flow.seg().dss(keys.ack(100)));
            let out = script.write(id, 100, 1_000);
            flow.hears(&out);
            script.send(&flow, &flow.seg());
            let mut out = Vec::new();
            for _ in 0..40 {
                let some = script.advance(1_000);
                if some.iter().any(|o| o.rst() || !o.payload.is_empty()) {
                    out = some;
                    break;
                }
                if !some.is_empty() {
                    // Probes are answered, with options or without.
                    let answer = flow.seg();
                    script.send(&flow, &if heard { answer.dss(keys.ack(100)) } else { answer });
                }
            }
            let last = out.first().expect("it does not ask for ever");
            assert_eq!(last.rst(), !heard, "{out:?}");
            if heard {
                assert_eq!(last.payload, stream(100, 1_000));
            } else {
                // Transient: a new subflow is all that is left to the connection.
                last.assert_reset(6, true);
            }
        }
    });
}

/// A peer that falls back does so a while after the last that arrived, and what it said before is still on its way
/// then: rounds in which TCP repeated something do not count, and the ones after it only ask at first.
#[test]
fn what_tcp_repeated_leaves_the_peer_time_before_anything_goes_twice() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.write(id, 0, 100);
        flow.hears(&out);
        script.send(&flow, &flow.seg().dss(keys.ack(100)));
        let out = script.write(id, 100, 2_000);
        assert!(out.len() > 1, "{out:?}");
        let first = flow.rcv_nxt.wrapping_add(out[0].payload.len() as u32);
        flow.hears(&out);
        for _ in 0..20 {
            script.send(&flow, &flow.seg().acks(first).dss(keys.ack(100)));
            for again in script.advance(500) {
                let end = again.seq.wrapping_add(again.payload.len() as u32);
                assert!(end.wrapping_sub(flow.rcv_nxt).cast_signed() <= 0, "{again:?}");
            }
        }
        script.send(&flow, &flow.seg().dss(keys.ack(100)));
        let mut asked = 0;
        loop {
            let out = script.advance(500);
            if out.iter().any(|o| !o.payload.is_empty()) {
                break;
            }
            asked += usize::from(!out.is_empty());
            script.send(&flow, &flow.seg().dss(keys.ack(100)));
            assert!(asked < 20, "it goes again at last");
        }
        assert!(asked >= 3, "{asked}");
    });
}

/// TCP acknowledged 100 octets of ours with a `DATA_ACK`, and 1,000 more without: a proxy holds them.
fn held_by_a_proxy(script: &mut Script) -> (Keys, Flow, SocketId, u32) {
    let (keys, mut flow, id) = script.confirmed();
    let out = script.write(id, 0, 100);
    flow.hears(&out);
    script.send(&flow, &flow.seg().dss(keys.ack(100)));
    let known = flow.rcv_nxt;
    let out = script.write(id, 100, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg());
    (keys, flow, id, known)
}

/// While nobody answers, the only subflow is not judged: a proxy repairs what it acknowledged, or the
/// path is cut. The peer is asked below what it is known to have, or it would have nothing to answer.
#[test]
fn a_single_subflow_that_nobody_answers_is_given_time() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id, known) = held_by_a_proxy(&mut script);
        let out = script.advance(300_000);
        assert!(out.len() > 8, "{out:?}");
        for probe in &out {
            assert!(!probe.rst() && probe.payload.is_empty(), "{probe:?}");
            assert_eq!(probe.seq, known.wrapping_sub(1), "below what the peer has");
        }
        script.send(&flow, &flow.seg().dss(keys.ack(1_100)));
        assert_eq!((script.info(id).bytes_acked, script.fallback(id)), (1_100, None));
        assert!(script.advance(10_000).is_empty());
    });
}

/// New data that a proxy answers, more than once, is no answer of the peer's.
#[test]
fn what_a_proxy_answers_says_nothing_of_its_peer() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id, _) = held_by_a_proxy(&mut script);
        let mut end = 1_100;
        for _ in 0..10 {
            let mut out = script.advance(10_000);
            let sent = script.write(id, end, 3_000);
            assert!(sent.iter().any(|o| !o.payload.is_empty()), "{sent:?}");
            end += 3_000;
            out.extend(sent);
            flow.hears(&out);
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            for _ in 0..2 {
                script.send(&flow, &flow.seg());
            }
        }
        let sent = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
        script.send(&flow, &flow.seg().dss(keys.ack(sent)));
        assert_eq!((script.info(id).bytes_acked, script.fallback(id)), (sent, None));
    });
}

/// What a proxy acknowledged and lost never arrives, though everybody answers: that has an end.
#[test]
fn what_a_proxy_lost_on_the_only_path_ends_the_connection() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id, _) = held_by_a_proxy(&mut script);
        let mut copies = 0;
        for _ in 0..3_600 {
            let out = script.advance(1_000);
            copies += out.iter().filter(|o| o.payload == stream(100, 1_000)).count();
            if !out.is_empty() {
                flow.hears(&out);
                script.send(&flow, &flow.seg().dss(keys.ack(100)));
            }
        }
        assert!(copies > 5, "it goes again: {copies}");
        assert_eq!(script.stack.error(id), Some(ConnectionError::TimedOut));
    });
}

/// Nor does a peer that never answers keep it for ever.
#[test]
fn a_single_subflow_that_nobody_ever_answers_is_given_up() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, _, id, _) = held_by_a_proxy(&mut script);
        script.advance(3_600_000);
        assert_eq!(script.stack.error(id), Some(ConnectionError::TimedOut));
    });
}
