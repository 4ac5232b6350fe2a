//! Receivers that acknowledge what they do not have (RFC 7430; Savage et al., TCP congestion control with
//! a misbehaving receiver). A sender cannot know: the octets are gone for the liar. What it sends stays
//! within windows and buffers, and it ends.

use crate::harness::*;
use mptcp_core::config::StackConfig;
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::SocketId;

const SEND_BUFFER: u64 = 256 << 10;

fn configure(config: &mut StackConfig) {
    config.tcp.send_buffer_max = SEND_BUFFER as u32;
}

/// Everything there is room for.
fn fill(script: &mut Script, id: SocketId, written: &mut u64) -> Vec<Out> {
    let mut out = Vec::new();
    while let Ok(n) = script.stack.send(script.now, id, &stream(*written, 10_000)) {
        *written += n as u64;
        out.extend(script.out());
    }
    out
}

/// Buffers that full segments of so many octets pin, and as many again for what is half acknowledged.
const fn buffers(octets: u64) -> usize {
    2 * (octets as usize) / 1_400 + 2
}

/// Both levels acknowledge whatever was sent, at once: it runs through, window by window.
#[test]
fn what_is_acknowledged_at_once_is_gone() {
    both(|v| {
        let mut script = Script::server_with(v, configure);
        let (keys, mut flow, id) = script.confirmed();
        let (mut written, mut acked) = (0, 0);
        for _ in 0..200 {
            let mut out = fill(&mut script, id, &mut written);
            out.extend(script.advance(1));
            flow.hears(&out);
            assert!(script.sent_in_use() <= buffers(SEND_BUFFER), "{}", script.sent_in_use());
            let sent = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            assert!(sent - acked <= u64::from(flow.window), "{} in flight", sent - acked);
            acked = sent;
            let out = script.send(&flow, &flow.seg().dss(keys.ack(acked)));
            flow.hears(&out);
        }
        assert!(acked > 4_000_000, "{acked}");
        let end = |script: &Script| script.info(id).bytes_acked;
        while end(&script) < written {
            let sent = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            let out = script.send(&flow, &flow.seg().dss(keys.ack(sent)));
            flow.hears(&out);
        }
        assert_eq!(script.sent_in_use(), 0);
        // It wants some of it after all, and gets nothing but what is new.
        let (una, back) = (flow.rcv_nxt, flow.rcv_nxt.wrapping_sub(20_000));
        let edges = [back.wrapping_add(1_440).to_be_bytes(), una.to_be_bytes()].concat();
        let sack = [vec![1, 1, 5, 10], edges].concat();
        for _ in 0..5 {
            let seg = flow.seg().acks(back).raw(&sack).dss(keys.ack(written - 20_000));
            let out = script.send(&flow, &seg);
            assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        }
        assert_eq!(script.info(id).bytes_acked, written);
        let out = script.write(id, written, 1_000);
        assert!(out.len() == 1 && out[0].payload == stream(written, 1_000), "{out:?}");
    });
}

/// The data level acknowledges what TCP never does: the stream goes on as far as TCP's first window, TCP
/// repeats what it owes, and gives up.
#[test]
fn a_data_ack_does_not_answer_for_tcp() {
    both(|v| {
        let mut script = Script::server_with(v, configure);
        let (keys, mut flow, id) = script.confirmed();
        let (first, mut written, mut sent) = (flow.rcv_nxt, 0, 0);
        for _ in 0..100 {
            let mut out = fill(&mut script, id, &mut written);
            out.extend(script.advance(1));
            flow.hears(&out);
            sent = u64::from(flow.rcv_nxt.wrapping_sub(first));
            let out = script.send(&flow, &flow.seg().acks(first).dss(keys.ack(sent)));
            flow.hears(&out);
            assert!(script.sent_in_use() <= buffers(SEND_BUFFER), "{}", script.sent_in_use());
        }
        assert!(sent <= 20_000, "{sent} octets, and none acknowledged");
        let mut repeated = 0;
        for _ in 0..3_000 {
            let out = script.advance(1_000);
            repeated += out.iter().filter(|o| o.seq == first && !o.payload.is_empty()).count();
            if script.stack.error(id).is_some() {
                break;
            }
            script.send(&flow, &flow.seg().acks(first).dss(keys.ack(sent)));
        }
        assert!(repeated > 3, "{repeated}");
        let error = script.stack.error(id);
        assert!(
            matches!(error, Some(ConnectionError::TimedOut | ConnectionError::NoSubflows)),
            "{error:?}"
        );
        assert!(script.sent_in_use() == 0, "{}", script.sent_in_use());
    });
}

/// What went over one subflow is acknowledged on another, at the data level only: that subflow goes on
/// owing it to TCP until it is given up, and the stream does not wait for it.
#[test]
fn a_data_ack_elsewhere_leaves_a_subflow_its_debt() {
    both(|v| {
        let mut script = Script::server_with(v, configure);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.write(id, 0, 10_000);
        let sent: usize = flow.of(&out).iter().map(|o| o.payload.len()).sum();
        flow.hears(&out);
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.send(&join, &join.seg().dss(keys.ack(sent as u64)));
        join.hears(&out);
        let mut acked = sent as u64;
        let mut written = 10_000;
        let mut gone = false;
        for _ in 0..400 {
            written += 1_000;
            let mut out = script.write(id, written - 1_000, 1_000);
            out.extend(script.advance(1_000));
            join.hears(&out);
            gone |= flow.of(&out).iter().any(|o| o.rst());
            acked =
                acked.max(sent as u64 + u64::from(join.rcv_nxt.wrapping_sub(join.stack_isn)) - 1);
            let out = script.send(&join, &join.seg().dss(keys.ack(acked.min(written))));
            join.hears(&out);
            assert!(script.sent_in_use() <= buffers(20_000), "{}", script.sent_in_use());
        }
        assert!(gone || script.info(id).subflows.len() == 1, "{:?}", script.info(id).subflows);
        assert_eq!(script.stack.error(id), None);
        assert_eq!(script.info(id).bytes_acked, written);
    });
}
