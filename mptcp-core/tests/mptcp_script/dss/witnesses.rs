//! Subflows whose TCP acknowledges what the peer's data level does not have: a box on the way that answers
//! in its name (RFC 8684 §6), or a peer without memory for what it promised to take.

use crate::harness::*;
use mptcp_core::stack::SocketId;

/// A connection with two subflows, and the head of its stream on its way by one of them.
fn two_subflows(v: mptcp_core::wire::Version) -> (Script, Keys, [Flow; 2], SocketId) {
    let mut script = Script::server(v);
    let (keys, first, id) = script.confirmed();
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    let mut flows = [first, join];
    let out = script.write(id, 0, 1_000);
    flows.iter_mut().for_each(|flow| flow.hears(&out));
    (script, keys, flows, id)
}

/// Whether `flow` carries the octet of the stream at `offset`.
fn carries(keys: &Keys, flow: &Flow, out: &[Out], offset: u64) -> bool {
    flow.of(out).iter().any(|o| {
        o.mapping().is_some_and(|m| same(m.dsn, keys.stack_dsn(offset)) && !o.payload.is_empty())
    })
}

/// Linux (6.18) does that when many small segments fill its memory and its application does not read: what
/// waits in the queues of its subflows has no `DATA_ACK`, however often it comes.
#[test]
fn a_peer_whose_memory_is_full_keeps_its_subflows() {
    both(|v| {
        // It reads at any time of a round.
        for rounds in [40, 63, 86, 109, 132] {
            let (mut script, keys, mut flows, id) = two_subflows(v);
            let mut copies = [0, 0];
            for _ in 0..rounds {
                let mut out = Vec::new();
                for flow in &flows {
                    out.extend(script.send(flow, &flow.seg().dss(keys.ack(0))));
                }
                out.extend(script.advance(100));
                for (flow, copies) in flows.iter_mut().zip(&mut copies) {
                    *copies += u32::from(carries(&keys, flow, &out, 0));
                    flow.hears(&out);
                }
                assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            }
            assert!(copies.iter().all(|copies| *copies > 0), "both are tried: {copies:?}");
            let mut out = script.send(&flows[0], &flows[0].seg().dss(keys.ack(1_000)));
            out.extend(script.advance(3_000));
            assert!(out.iter().all(|o| !o.rst()), "after {rounds}: {out:?}");
            assert_eq!(script.counters().dss_ack_missing_reset, 0);
            assert_eq!(script.info(id).bytes_acked, 1_000);
        }
    });
}

/// The peer's own segments come through, with what the box acknowledged for it.
#[test]
fn a_box_that_loses_what_it_acknowledged_costs_its_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // Everything goes by the first subflow, and gets lost behind its back.
        script.stack.set_backup(id, 1, true);
        script.out();
        let mut flows = [first, join];
        let mut out = script.write(id, 0, 1_000);
        let mut reached = 0;
        for _ in 0..100 {
            if carries(&keys, &flows[1], &out, 0) {
                reached = 1_000;
            }
            let mut answers = Vec::new();
            for flow in &mut flows {
                flow.hears(&out);
                answers.extend(script.send(flow, &flow.seg().dss(keys.ack(reached))));
            }
            out = answers;
            out.extend(script.advance(100));
            assert!(flows[1].of(&out).iter().all(|o| !o.rst()), "the one that delivers: {out:?}");
            if flows[0].of(&out).iter().any(|o| o.rst()) {
                assert_eq!(script.counters().dss_ack_missing_reset, 1);
                assert_eq!(script.info(id).bytes_acked, 1_000);
                return;
            }
        }
        panic!("nobody doubted it");
    });
}
