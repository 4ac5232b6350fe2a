//! The shared receive window, both ways, and the memory behind it (RFC 8684 §3.3.4, §3.3.5).

use super::{assert_acked, no_reset};
use crate::harness::*;
use mptcp_core::config::{ChecksumPolicy, MtuProbing, StackConfig};
use mptcp_core::seq::DataSeq;
use mptcp_core::stack::SocketId;
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{CapableFlags, MptcpOption, TcpFlags, TcpOption, Version, WireSeq};
use proptest::prelude::*;

#[test]
fn t62_data_beyond_the_window_is_not_taken() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let edge = 65_535;
        let out = script.send_data(&keys, &mut flow, edge, 0, &stream(edge, 10));
        no_reset(&out);
        assert_acked(&keys, &out, 0);
        assert_eq!(out[0].ack, flow.snd_nxt, "TCP acknowledges it");
        assert_eq!(script.counters().no_dss_in_window, 1);
        // What is below the edge is still missing afterwards.
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

/// A peer that ignores the window: joins, sends all that the join's own window takes, resets the
/// join, and begins again, while nobody reads.
#[test]
fn t62_a_peer_that_minds_no_window_fills_no_memory() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.tcp.recv_buffer_initial = 64 << 10;
            c.tcp.recv_buffer_max = 64 << 10;
        });
        let (keys, _, id) = script.confirmed();
        let mut offset = 0;
        for n in 0..40 {
            let mut join = script.join(&keys, at(P2, 5000 + n), at(A2, PORT));
            for _ in 0..45 {
                script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1_400));
                offset = script.info(id).bytes_received;
            }
            script.send(&join, &join.seg().flags(TcpFlags::RST));
        }
        let bound = 2 * (64 << 10) + (64 << 10) + 64 * 1_700;
        assert!(script.received_in_use() * 1_700 < bound, "{} buffers", script.received_in_use());
        assert!(script.counters().no_dss_in_window > 0);
        // Whoever waits for room gets it.
        let held = offset as usize;
        script.expect_stream(id, 0, held);
        script.out();
        let mut join = script.join(&keys, at(P2, 6000), at(A2, PORT));
        script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1_400));
        script.expect_stream(id, offset, 1_400);
    });
}

#[test]
fn t73_a_window_shrunk_on_one_path_does_not_stop_the_other() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // A middlebox lets 0 octets through on the first subflow from here on.
        let mut sent = 0;
        let mut written = 0;
        // What a silent subflow carried may come twice.
        let mut arrived = std::collections::BTreeMap::new();
        let note = |out: &[Out], arrived: &mut std::collections::BTreeMap<u64, u64>| {
            for (mapping, len) in out.iter().filter_map(|o| Some((o.mapping()?, o.payload.len()))) {
                let WireSeq::Low(dsn) = mapping.dsn else { panic!("{mapping:?}") };
                arrived.insert(u64::from(dsn.wrapping_sub(keys.stack_dsn(0).0 as u32)), len as u64);
            }
        };
        for _ in 0..60 {
            let mut out = script.write(id, written, 5_000);
            written += 5_000;
            out.extend(script.advance(1));
            first.hears(&out);
            join.hears(&out);
            sent += join.of(&out).iter().map(|o| o.payload.len()).sum::<usize>();
            note(&out, &mut arrived);
            let got = arrived.iter().fold(0, |got, (start, len)| match *start <= got {
                true => got.max(start + len),
                false => got,
            });
            let out = script.send(&join, &join.seg().dss(keys.ack(got)));
            sent += join.of(&out).iter().map(|o| o.payload.len()).sum::<usize>();
            join.hears(&out);
            note(&out, &mut arrived);
            let out = script.send(&first, &first.seg().window(0));
            first.hears(&out);
        }
        assert!(sent > 100_000, "{sent} octets over the open path");
    });
}

/// One step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    /// Data on subflow 0 or 1, so far ahead of what is in order.
    Data {
        join: bool,
        ahead: u64,
        len: usize,
    },
    Read(usize),
    Wait(u64),
    Probe(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), prop_oneof![Just(0), 0_u64..40_000], 1_usize..1400)
            .prop_map(|(join, ahead, len)| Step::Data { join, ahead, len }),
        2 => (1_usize..60_000).prop_map(Step::Read),
        1 => (0_u64..300).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Probe),
    ]
}

/// `DATA_ACK` plus window of every packet: never less than before.
fn t71_schedule(v: Version, steps: &[Step], wscale: Option<u8>, buffer: u32) {
    let configure = |c: &mut StackConfig| {
        c.tcp.recv_buffer_max = buffer;
        c.tcp.recv_buffer_initial = buffer / 2;
    };
    let mut script = Script::server_with(v, configure);
    let scaling: Vec<u8> = wscale.map(|s| vec![3, 3, s]).unwrap_or_default();
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let syn = flow.syn().raw(&scaling).opt(&offer(v, CapableFlags::HMAC));
    let out = script.send(&flow, &syn);
    flow.hears(&out);
    flow.snd_nxt = flow.isn + 1;
    let shift = out[0].tcp_options().iter().find_map(|o| match o {
        TcpOption::WindowScale(shift) => Some(*shift),
        _ => None,
    });
    let shift = if wscale.is_some() { shift.expect("scaling is answered") } else { 0 };
    let keys = Keys::of(v, &out[0], false);
    script.send(&flow, &flow.seg().opt(&keys.third()));
    let id = script.accept().expect("established");
    let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
    let mut syn = join.syn().raw(&scaling);
    syn = syn.opt(&MptcpOption::Join(mptcp_core::wire::MpJoin::Syn {
        backup: false,
        address_id: 2,
        token: keys.stack_token(),
        nonce: NONCE,
    }));
    let answer = script.send(&join, &syn);
    join.hears(&answer);
    join.snd_nxt = join.isn + 1;
    out.extend(script.send(&join, &join.seg().opt(&Script::join_ack(&keys, &answer[0]))));
    let mut edge = 0;
    let (mut in_order, mut known) = (0_u64, Vec::<(u64, u64)>::new());
    for step in steps {
        match *step {
            Step::Data { join: on_join, ahead, len } => {
                let flow = if on_join { &mut join } else { &mut flow };
                let offset = in_order + ahead;
                out.extend(script.send_data(&keys, flow, offset, 0, &stream(offset, len)));
                known.push((offset, offset + len as u64));
            }
            Step::Read(n) => {
                let mut into = vec![0; n];
                let _read = script.stack.recv(script.now, id, &mut into);
                out.extend(script.out());
            }
            Step::Wait(ms) => out.extend(script.advance(ms)),
            Step::Probe(on_join) => {
                let flow = if on_join { &join } else { &flow };
                out.extend(script.send(flow, &flow.seg().seq(flow.snd_nxt.wrapping_sub(1))));
            }
        }
        for packet in out.drain(..) {
            let Some(ack) = packet.data_ack() else { continue };
            let at = keys.peer_dsn(in_order);
            let ack = match ack {
                WireSeq::Full(ack) => DataSeq(ack),
                WireSeq::Low(low) => at.expand(low),
            };
            let acked = u64::try_from(ack.diff(keys.peer_dsn(0))).expect("not before the stream");
            let right = acked + (u64::from(packet.window) << shift);
            assert!(right >= edge, "{right} < {edge}: {packet:?}");
            assert!(acked >= in_order, "DATA_ACK went back: {packet:?}");
            edge = right;
            in_order = acked;
        }
        known.retain(|(_, end)| *end > in_order);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn t71_the_right_edge_never_moves_left(
        steps in proptest::collection::vec(step(), 1..120),
        wscale in prop_oneof![Just(None), (0_u8..=14).prop_map(Some)],
        buffer in prop_oneof![Just(65_536_u32), Just(100_001), Just(1 << 20), Just(6 << 20)],
        v in version(),
    ) {
        t71_schedule(v, &steps, wscale, buffer);
    }
}

#[test]
fn t140_memory_for_what_is_out_of_order_is_bounded() {
    both(|v| {
        let configure = |c: &mut StackConfig| {
            c.tcp.recv_buffer_initial = 64 << 10;
            c.tcp.recv_buffer_max = 64 << 10;
            c.mptcp.checksum = ChecksumPolicy::Accept;
        };
        let mut script = Script::server_with(v, configure);
        let (keys, mut flow, id) = script.confirmed();
        // Every second octet: each pins a whole buffer.
        let mut offset = 60_001;
        let mut out = Vec::new();
        while offset > 50_000 {
            out = script.send_data(&keys, &mut flow, offset, 0, &stream(offset, 1));
            offset -= 2;
        }
        assert!(script.counters().rcv_pruned > 0, "the farthest went first");
        assert!(script.received_in_use() < 400, "{} buffers are pinned", script.received_in_use());
        let right = u64::from(out[0].window);
        assert_eq!(right, 65_535, "the right edge stays");
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn t144_a_lost_window_update_is_asked_for() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send(&first, &first.seg().dss(keys.ack(0)).window(1_000));
        script.send(&join, &join.seg().dss(keys.ack(0)).window(1_000));
        // What was promised is used up, and nothing more is offered.
        let mut written = 0;
        for _ in 0..50 {
            let out = script.write(id, written, 5_000);
            written += 5_000;
            first.hears(&out);
            join.hears(&out);
            let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn))
                + u64::from(join.rcv_nxt.wrapping_sub(join.stack_isn))
                - 2;
            let left = 60_000_u64.saturating_sub(got) as u16;
            let out = script.send(&first, &first.seg().dss(keys.ack(got)).window(left));
            first.hears(&out);
            join.hears(&out);
            let out = script.send(&join, &join.seg().dss(keys.ack(got)).window(left));
            first.hears(&out);
            join.hears(&out);
        }
        let got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn))
            + u64::from(join.rcv_nxt.wrapping_sub(join.stack_isn))
            - 2;
        assert_eq!(got, 60_000);
        // The update is lost. A probe comes; its answer opens the window.
        let probes = script.advance(10_000);
        assert!(probes.len() >= 2 && script.counters().win_probe > 0, "{probes:?}");
        assert!(probes.iter().all(|o| o.payload.is_empty()), "{probes:?}");
        let out = script.send(&first, &first.seg().dss(keys.ack(got)));
        assert!(out.iter().any(|o| !o.payload.is_empty()), "{out:?}");
    });
}

#[test]
fn small_writes_do_not_pin_a_buffer_each() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        // The congestion window is used up: everything waits.
        let out = script.write(id, 0, 30_000);
        flow.hears(&out);
        let mut sent: Vec<u8> = out.iter().flat_map(|o| o.payload.clone()).collect();
        assert!(sent.len() < 30_000);
        let before = script.sent_in_use();
        for n in 30_000..40_000 {
            assert_eq!(script.stack.send(script.now, id, &[octet(n)]), Ok(1));
        }
        assert!(script.out().is_empty());
        let pinned = script.sent_in_use() - before;
        assert!(pinned < 12, "{pinned} buffers for 10000 octets");
        // They are what is sent in the end.
        while sent.len() < 40_000 {
            let acked = flow.seg().dss(keys.ack(sent.len() as u64));
            let mut out = script.send(&flow, &acked);
            out.extend(script.advance(10));
            for packet in out.iter().filter(|o| !o.payload.is_empty()) {
                if packet.seq == flow.rcv_nxt {
                    sent.extend_from_slice(&packet.payload);
                }
                flow.hears(core::slice::from_ref(packet));
            }
            assert!(!out.is_empty(), "{} octets", sent.len());
        }
        assert!(sent == stream(0, 40_000));
    });
}

#[test]
fn the_send_buffer_counts_the_memory_it_pins() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.send_buffer_max = 64 << 10);
        let (_, _, id) = script.confirmed();
        // Too large to be copied together, too small for their buffers.
        while script.stack.send(script.now, id, &[7; 300]).is_ok() {
            assert!(script.sent_in_use() < 1_000, "the send buffer has no end");
        }
        assert!(script.sent_in_use() * 1_700 < 3 * (64 << 10), "{}", script.sent_in_use());
    });
}

/// A window update that only the other subflow brought: this one's own window stays shut, and is
/// probed for as long as there is something to send.
#[test]
fn t73_a_subflow_whose_own_window_is_shut_is_probed() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // Everything that the first subflow's window takes was sent and acknowledged; the second one
        // is the backup.
        script.stack.set_backup(id, 1, true);
        script.out();
        let mut got = use_up(&mut script, &keys, &mut first, id, 60_000);
        while got < 60_000 {
            first.hears(&script.advance(1_000));
            got = u64::from(first.rcv_nxt.wrapping_sub(first.stack_isn)) - 1;
        }
        script.send(&first, &first.seg().dss(keys.ack(got)).window(0));
        // The window opens, and only the join says so, with its last words.
        let mut join = join;
        join.window = 60_000;
        let out = script.send(&join, &join.seg().dss(keys.ack(got)));
        assert!(first.of(&out).is_empty(), "{out:?}");
        script.send(&join, &join.seg().flags(TcpFlags::RST));
        let out = script.advance(20_000);
        assert!(!out.is_empty() && out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        first.window = 60_000;
        let out = script.send(&first, &first.seg().dss(keys.ack(got)));
        assert!(out.iter().any(|o| !o.payload.is_empty()), "{out:?}");
    });
}

/// The same where all that was written has gone once, by the subflow that is lost: what goes again wants room as well.
#[test]
fn t73_a_subflow_whose_own_window_is_shut_is_probed_for_what_goes_again() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.unconfirmed_within(2_000, 40_000, CapableFlags::HMAC);
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let text =
            |flow: &Flow, out: &[Out]| flow.of(out).iter().map(|o| o.payload.len()).sum::<usize>();
        // Everything that the first subflow's window takes was sent and acknowledged.
        let out = script.write(id, 0, 2_000);
        assert_eq!(text(&first, &out), 2_000, "{out:?}");
        first.hears(&out);
        first.window = 0;
        script.send(&first, &first.seg().dss(keys.ack(2_000)));
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        assert!(script.write(id, 2_000, 5_000).iter().all(|o| o.payload.is_empty()));
        // The window opens, only the join says so, and all of the rest goes there; then it is reset.
        let out = script.send(&join, &join.seg().dss(keys.ack(2_000)));
        assert_eq!((text(&first, &out), text(&join, &out)), (0, 5_000), "{out:?}");
        script.send(&join, &join.seg().flags(TcpFlags::RST));
        let out = script.advance(20_000);
        let asks = |o: &Out| o.seq == first.rcv_nxt.wrapping_sub(1);
        assert!(first.of(&out).into_iter().any(asks), "{out:?}");
        assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        first.window = 60_000;
        let out = script.send(&first, &first.seg().dss(keys.ack(2_000)));
        assert_eq!(text(&first, &out), 5_000, "{out:?}");
    });
}

/// Writes more than the peer's window takes up to `edge`, and acknowledges what is sent at once, until
/// nothing more comes. Answers how much that was.
fn use_up(script: &mut Script, keys: &Keys, flow: &mut Flow, id: SocketId, edge: u64) -> u64 {
    let got = |flow: &Flow| u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
    let mut written = got(flow);
    loop {
        let mut out = Vec::new();
        if written < edge + 10_000 {
            out = script.write(id, written, 5_000);
            written += 5_000;
        }
        flow.hears(&out);
        let acked = got(flow);
        flow.window = (edge - acked) as u16;
        out.extend(script.send(flow, &flow.seg().dss(keys.ack(acked))));
        flow.hears(&out);
        if written >= edge + 10_000 && got(flow) == acked {
            return acked;
        }
    }
}

#[test]
fn a_peer_that_answers_no_probe_is_given_up() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.retries = 4);
        let (keys, mut flow, id) = script.confirmed();
        let mut got = use_up(&mut script, &keys, &mut flow, id, 60_000);
        while got < 60_000 {
            flow.hears(&script.advance(1_000));
            got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
        }
        // As long as it answers, the window may stay shut.
        let mut probes = 0;
        for _ in 0..200 {
            script.send(&flow, &flow.seg().dss(keys.ack(got)).window(0));
            probes += script.advance(3_000).len();
        }
        assert!(probes > 8, "{probes} probes in ten minutes");
        assert_eq!(script.stack.error(id), None);
        script.advance(2_000_000);
        assert_eq!(script.stack.error(id), Some(mptcp_core::error::ConnectionError::TimedOut));
    });
}

#[test]
fn a_peer_that_never_acknowledges_data_is_given_up() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.retries = 4);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.write(id, 0, 1_000);
        flow.hears(&out);
        for _ in 0..2_000 {
            let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
            flow.hears(&out);
            let out = script.advance(100);
            flow.hears(&out);
        }
        assert_eq!(script.stack.error(id), Some(mptcp_core::error::ConnectionError::TimedOut));
    });
}

/// The peer may use the shared window on any subflow (RFC 8684 §3.3.4), whatever that one said last.
#[test]
fn the_shared_window_holds_on_every_subflow() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.tcp.recv_buffer_initial = 40_000;
            c.tcp.recv_buffer_max = 60_000;
        });
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let (mut told, mut shared, mut offset) = (40_000, 0, 0);
        for _ in 0..20 {
            let mut out = Vec::new();
            for _ in 0..6 {
                out.extend(script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1_400)));
                script.expect_stream(id, offset, 1_400);
                offset += 1_400;
            }
            out.extend(script.advance(50));
            told = first.of(&out).last().map_or(told, |o| o.window);
            shared = join.of(&out).last().map_or(shared, |o| o.window);
        }
        assert!(shared > told + 2_000, "the join alone hears of a window of {shared} after {told}");
        let ahead = u32::from(told) + 500;
        let dss = keys.map(offset + u64::from(ahead), first.ssn() + ahead, 1_000);
        let data = stream(offset + u64::from(ahead), 1_000);
        script.send(&first, &first.seg().seq(first.snd_nxt + ahead).dss(dss).data(&data));
        assert_eq!(script.counters().tcp_ofo_queue, 1, "it is kept");
    });
}

/// What left within the window and came by another path meanwhile has no room in the window any more, and is
/// acknowledged all the same (RFC 8684 §3.3.4): its own sequence numbers decide nothing.
#[test]
fn copies_of_what_came_by_another_path_need_no_room() {
    for (v, burst) in [Version::V0, Version::V1].into_iter().flat_map(|v| [(v, 1), (v, 8)]) {
        let mut script = Script::server_with(v, |c| {
            c.tcp.recv_buffer_initial = 40_000;
            c.tcp.recv_buffer_max = 60_000;
        });
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let (mut window, mut offset) = (0, 0);
        for _ in 0..20 {
            let mut out = Vec::new();
            for _ in 0..6 {
                out.extend(script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1_400)));
                script.expect_stream(id, offset, 1_400);
                offset += 1_400;
            }
            out.extend(script.advance(50));
            window = join.of(&out).last().map_or(window, |o| u64::from(o.window));
        }
        assert!(window > 50_000, "the join alone hears of {window}");
        // All that the window takes is under way on the first subflow while the join brings it.
        let mut end = offset;
        while window > 0 {
            let data = stream(end, window.min(1_000) as usize);
            script.send_data(&keys, &mut join, end, 0, &data);
            end += data.len() as u64;
            let out = script.advance(50);
            window = join.of(&out).last().map_or(window - data.len() as u64, |o| o.window.into());
        }
        assert!(end > offset + 50_000, "{end}");
        let copies: Vec<Seg> = (offset..end)
            .step_by(1_000)
            .map(|start| {
                let data = stream(start, 1_000.min((end - start) as usize));
                let dss = keys.data(&first, start, 0, &data);
                let seg = first.seg().dss(dss).data(&data);
                first.snd_nxt += data.len() as u32;
                seg
            })
            .collect();
        let mut out = Vec::new();
        for part in copies.chunks(burst) {
            script.inject_burst(&part.iter().map(|seg| (&first, seg)).collect::<Vec<_>>());
            out.extend(script.out());
        }
        assert_eq!(first.of(&out).last().map(|o| o.ack), Some(first.snd_nxt), "{v:?}");
        // Linux asks for the window with an octet that is known.
        let seg = join.seg().dss(keys.map(end - 1, join.ssn(), 1)).data(&stream(end - 1, 1));
        join.snd_nxt += 1;
        let out = script.send(&join, &seg);
        assert_eq!((out[0].ack, out[0].window), (join.snd_nxt, 0));
        assert_eq!(script.counters().dropped(DropReason::OutOfWindow), 0);
        script.expect_stream(id, offset, (end - offset) as usize);
    }
}

/// Each subflow may hold what the connection may, but not all of them at once.
#[test]
fn t140_subflows_share_the_memory_for_what_is_out_of_order() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.tcp.recv_buffer_initial = 256 << 10;
            c.tcp.recv_buffer_max = 256 << 10;
        });
        let (keys, _, _) = script.confirmed();
        for n in 0..6 {
            let join = script.join(&keys, at(P2, 5000 + n), at(A2, PORT));
            for ahead in (1..2_000).step_by(2) {
                let dss = keys.map(u64::from(ahead), join.ssn() + ahead, 1);
                let seg =
                    join.seg().seq(join.snd_nxt + ahead).dss(dss).data(&[octet(ahead.into())]);
                script.send(&join, &seg);
            }
        }
        let memory = 2 * (256 << 10) + (64 << 10);
        let held = script.received_in_use() * 1_700;
        assert!(held > memory / 2 && held < 2 * memory, "{held} octets");
    });
}

#[test]
fn small_segments_wait_for_company() {
    both(|v| {
        for nagle in [true, false] {
            let mut script = Script::server_with(v, |c| c.tcp.nagle = nagle);
            let (keys, mut flow, id) = script.confirmed();
            let mut out = Vec::new();
            for n in 0..10 {
                out.extend(script.write(id, n, 1));
            }
            assert_eq!(out.len(), if nagle { 1 } else { 10 }, "{out:?}");
            flow.hears(&out);
            let got = out.len() as u64;
            let out = script.send(&flow, &flow.seg().dss(keys.ack(got)));
            assert_eq!(out.iter().map(|o| o.payload.len() as u64).sum::<u64>(), 10 - got);
            // The end of the stream waits for nothing.
            flow.hears(&out);
            script.write(id, 10, 1);
            script.stack.shutdown_write(script.now, id);
            script.out();
            assert_eq!(script.info(id).subflows[0].bytes_sent, 11);
        }
    });
}

#[test]
fn a_window_that_leaves_slivers_is_not_filled_with_them() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let mut acked = 0;
        let mut written = 0;
        for round in 0..100 {
            let mut out = script.write(id, written, 3_000);
            written += 3_000;
            flow.hears(&out);
            let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            // Every DATA_ACK covers one more segment and moves the edge by 300 octets beyond it.
            acked = got.min(acked + 1_440);
            let edge = 10_000 + acked + 300 * round;
            let window = edge - acked;
            out.extend(script.send(&flow, &flow.seg().dss(keys.ack(acked)).window(window as u16)));
            for packet in out.iter().filter(|o| !o.payload.is_empty()) {
                let full = packet.payload.len() >= 1_400;
                let end = packet.seq.wrapping_sub(flow.stack_isn) - 1 + packet.payload.len() as u32;
                let ends = end.is_multiple_of(3_000);
                assert!(full || ends, "round {round}: a sliver of {}", packet.payload.len());
            }
            flow.hears(&out);
        }
    });
}

#[test]
fn a_sliver_of_window_is_used_when_nothing_else_comes() {
    both(|v| {
        // Nobody acknowledges it, which else may mean that it is too long.
        let mut script = Script::server_with(v, |c| c.tcp.mtu_probing = MtuProbing::Off);
        let (keys, mut flow, id) = script.confirmed();
        let sent = use_up(&mut script, &keys, &mut flow, id, 61_000);
        assert!(sent < 61_000 && sent > 59_500, "{sent}");
        let out = script.advance(2_000);
        assert!(!out.is_empty(), "it never comes");
        assert!(out.iter().all(|o| sent + o.payload.len() as u64 == 61_000), "{out:?}");
    });
}
