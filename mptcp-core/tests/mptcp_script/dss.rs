//! The data level: mappings however they arrive, acknowledgements of both widths, checksums, and
//! the one receive window (RFC 8684 §3.3).

use crate::harness::*;
use mptcp_core::config::{ChecksumPolicy, StackConfig};
use mptcp_core::mptcp::key;
use mptcp_core::seq::DataSeq;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, Mapping, MptcpOption, TcpFlags, TcpOption, Version, WireSeq,
    checksum, reset_reason,
};
use proptest::prelude::*;

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);

fn assert_reset(out: &[Out], reason: u8) {
    let rst = out.iter().find(|o| o.rst()).unwrap_or_else(|| panic!("no RST: {out:?}"));
    assert_eq!(rst.reset_reason(), Some((reason, false)), "{rst:?}");
}

fn no_reset(out: &[Out]) {
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
}

/// The last DATA_ACK in `out` acknowledges `offset` octets of the peer's stream.
fn assert_acked(keys: &Keys, out: &[Out], offset: u64) {
    let ack = out.iter().rev().find_map(Out::data_ack).expect("a DATA_ACK");
    assert!(same(ack, keys.peer_dsn(offset)), "{ack:?} is not {offset}");
}

/// Octets `range` of the subflow as one segment with `dss`, at `base`.
fn part(base: &Flow, from: usize, len: usize, dss: Option<Dss>) -> Seg {
    let seg = base.seg().seq(base.snd_nxt.wrapping_add(from as u32));
    let seg = match dss {
        Some(dss) => seg.dss(dss),
        None => seg,
    };
    seg.data(&stream(from as u64, len))
}

const WHOLE: usize = 30_000;
const PART: usize = 1_429;

fn parts() -> Vec<(usize, usize)> {
    (0..WHOLE).step_by(PART).map(|from| (from, PART.min(WHOLE - from))).collect()
}

#[test]
fn t50_one_mapping_on_every_segment_in_any_order() {
    for seed in 0..20_usize {
        let mut script = Script::server();
        let (keys, flow, id) = script.confirmed();
        let map = keys.map(0, 1, WHOLE as u16);
        let mut order = parts();
        assert_eq!(order.len(), 21);
        for i in 0..order.len() {
            let other = (i * 31 + seed * 17 + 7) % order.len();
            order.swap(i, other);
        }
        let mut out = Vec::new();
        for (from, len) in order {
            out.extend(script.send(&flow, &part(&flow, from, len, Some(map))));
        }
        no_reset(&out);
        assert_acked(&keys, &out, WHOLE as u64);
        script.expect_stream(id, 0, WHOLE);
        assert_eq!(script.counters().duplicate_data, 0);
    }
}

#[test]
fn t51_the_option_on_the_first_segment_is_enough() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    let map = keys.map(0, 1, WHOLE as u16);
    for (n, (from, len)) in parts().into_iter().enumerate() {
        no_reset(&script.send(&flow, &part(&flow, from, len, (n == 0).then_some(map))));
    }
    script.expect_stream(id, 0, WHOLE);
}

#[test]
fn t52_data_before_its_mapping_is_held() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    let map = keys.map(0, 1, WHOLE as u16);
    let parts = parts();
    let (last, early) = parts.split_last().expect("many parts");
    for &(from, len) in early {
        let out = script.send(&flow, &part(&flow, from, len, None));
        no_reset(&out);
        for ack in &out {
            assert!(same(ack.data_ack().expect("DATA_ACK"), keys.peer_dsn(0)), "{ack:?}");
            assert_eq!(ack.ack, flow.snd_nxt.wrapping_add((from + len) as u32));
        }
        assert!(script.would_block(id));
    }
    let mut out = script.send(&flow, &part(&flow, last.0, last.1, Some(map)));
    out.extend(script.advance(50));
    assert_acked(&keys, &out, WHOLE as u64);
    script.expect_stream(id, 0, WHOLE);
}

#[test]
fn t53_unmapped_data_beyond_a_window_resets_the_subflow() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    // Options pass in both directions: no reason to doubt the peer.
    let out = script.write(id, 0, 10);
    flow.hears(&out);
    script.send(&flow, &flow.seg().dss(keys.ack(10)));
    let mut held = 0;
    loop {
        let out = script.send(&flow, &flow.seg().data(&stream(0, 1460)));
        flow.snd_nxt += 1460;
        held += 1460;
        if let Some(rst) = out.iter().find(|o| o.rst()) {
            let reason = Some((reset_reason::MIDDLEBOX_INTERFERENCE, false));
            assert_eq!(rst.reset_reason(), reason);
            break;
        }
        assert!(held < 1 << 20, "it holds without bound");
    }
    assert!(held > 65_536, "{held}");
    assert_eq!(script.counters().dss_corruption_reset, 1);
    assert!(script.would_block(id), "the connection waits for another subflow");
}

#[test]
fn t55_a_segment_with_the_data_of_two_mappings() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    // The second mapping is known from a later segment that came first.
    script.send(&flow, &part(&flow, 200, 100, Some(keys.map(100, 101, 200))));
    let out = script.send(&flow, &part(&flow, 0, 200, Some(keys.map(0, 1, 100))));
    assert_acked(&keys, &out, 300);
    script.expect_stream(id, 0, 300);
}

#[test]
fn t56_a_mapping_that_changes_resets_the_subflow() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    // Out of order, so the first mapping is still needed.
    no_reset(&script.send(&flow, &part(&flow, 100, 50, Some(keys.map(100, 101, 50)))));
    let out = script.send(&flow, &part(&flow, 100, 50, Some(keys.map(500, 101, 50))));
    assert_reset(&out, reset_reason::MPTCP_SPECIFIC);
    assert_eq!(script.counters().dss_not_matching, 1);
    assert!(script.would_block(id));
}

#[test]
fn t57_a_consistent_part_of_a_mapping_is_no_change() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    no_reset(&script.send(&flow, &part(&flow, 100, 100, Some(keys.map(0, 1, 200)))));
    no_reset(&script.send(&flow, &part(&flow, 150, 50, Some(keys.map(150, 151, 50)))));
    no_reset(&script.send(&flow, &part(&flow, 0, 50, Some(keys.map(0, 1, 50)))));
    // One that reaches beyond what is known, too.
    let out = script.send(&flow, &part(&flow, 50, 200, Some(keys.map(50, 51, 200))));
    assert_acked(&keys, &out, 250);
    script.expect_stream(id, 0, 250);
}

/// More than 4 GiB on one subflow: the relative SSN wraps within a mapping.
#[test]
fn t58_the_relative_ssn_wraps() {
    const LEN: usize = 60_000;
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let payload = stream(0, LEN);
    let total = (1_u64 << 32) + 5 * LEN as u64;
    let mut into = vec![0; LEN + 1];
    let mut offset = 0;
    while offset < total {
        let seg = flow.seg().dss(keys.map(offset, flow.ssn(), LEN as u16)).data(&payload);
        script.inject_trusted(&flow, &seg);
        flow.snd_nxt = flow.snd_nxt.wrapping_add(LEN as u32);
        offset += LEN as u64;
        let read = script.stack.recv(script.now, id, &mut into).expect("readable");
        assert!(read == LEN && into[..LEN] == payload[..], "at {offset}");
        let out = script.out();
        no_reset(&out);
    }
    assert_eq!(script.info(id).bytes_received, offset);
}

#[test]
fn t59_a_stale_copy_of_an_option_on_data_beyond_it() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let map = keys.map(0, 1, 100);
    script.send(&flow, &part(&flow, 0, 100, Some(map)));
    let out = script.send(&flow, &part(&flow, 100, 100, Some(map)));
    no_reset(&out);
    assert_acked(&keys, &out, 100);
    script.expect_stream(id, 0, 100);
    flow.snd_nxt += 200;
    // The next mapping covers what was held.
    let out = script.send(&flow, &flow.seg().dss(keys.map(100, 101, 100)));
    assert_acked(&keys, &out, 200);
    script.expect_stream(id, 100, 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Pieces of the stream overlap in every way, on two subflows, each piece mapped on its own.
    #[test]
    fn t60_overlapping_pieces_give_the_exact_stream(
        pieces in proptest::collection::vec((0_u64..3_000, 1_usize..900, any::<bool>()), 1..60),
    ) {
        let mut script = Script::server();
        let (keys, mut first, id) = script.confirmed();
        let mut second = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let mut known = vec![false; 4_000];
        let mut last = Vec::new();
        for (offset, len, on_first) in pieces {
            let flow = if on_first { &mut first } else { &mut second };
            last = script.send_data(&keys, flow, offset, 0, &stream(offset, len));
            no_reset(&last);
            known[offset as usize..offset as usize + len].fill(true);
        }
        // In order and unremarkable, it is acknowledged with delay.
        last.extend(script.advance(50));
        let contiguous = known.iter().take_while(|k| **k).count();
        assert_acked(&keys, &last, contiguous as u64);
        if contiguous == 0 {
            prop_assert!(script.would_block(id));
        } else {
            script.expect_stream(id, 0, contiguous);
        }
    }
}

#[test]
fn t60_a_gap_that_closes_is_told_at_once() {
    let mut script = Script::server();
    let (keys, _, _) = script.confirmed();
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    // Long past the segments that are acknowledged one by one at the start.
    for offset in 1..40 {
        let out = script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1));
        assert_acked(&keys, &out, 0);
    }
    let out = script.send_data(&keys, &mut join, 0, 0, &stream(0, 1));
    assert_acked(&keys, &out, 40);
}

#[test]
fn t62_data_beyond_the_window_is_not_taken() {
    let mut script = Script::server();
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
}

/// A peer that ignores the window: joins, sends all that the join's own window takes, resets the
/// join, and begins again, while nobody reads.
#[test]
fn t62_a_peer_that_minds_no_window_fills_no_memory() {
    let mut script = Script::server_with(|c| {
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
}

#[test]
fn t63_the_sanity_check_counts_and_nothing_else() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
    script.expect_stream(id, 0, 100);
    // 200 octets ahead on the subflow, 100 ahead in the stream.
    let out = script.send(
        &join,
        &join.seg().seq(join.snd_nxt + 200).dss(keys.map(200, 201, 10)).data(&stream(200, 10)),
    );
    no_reset(&out);
    assert_eq!(script.counters().dss_sanity, 1);
    assert_eq!(script.info(id).subflows.len(), 2);
}

/// A connection whose outgoing stream crosses a multiple of 2^32 after at most `within` octets.
fn near_wrap(script: &mut Script, within: u64) -> (Keys, Flow, mptcp_core::stack::SocketId, u64) {
    for n in 0..2_000_000_u32 {
        let peer = core::net::IpAddr::from([10, 4, (n >> 8) as u8, n as u8]);
        let mut flow = Flow::new(at(peer, 2000 + (n >> 16) as u16), at(A1, PORT));
        let syn = flow.syn().opt(&capable(CapableFlags::HMAC, CapableForm::Syn));
        let out = script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let Some(CapableForm::Key(stack)) = out[0].capable().map(|c| c.form) else {
            panic!("{out:?}")
        };
        let first = key::idsn(Version::V1, stack).0.wrapping_add(1);
        let left = (1 << 32) - (first & 0xffff_ffff);
        if left <= within {
            let keys = Keys { peer: PEER_KEY, stack, checksum: false };
            let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
            script.send(&flow, &flow.seg().opt(&capable(CapableFlags::HMAC, form)));
            let id = script.accept().expect("established");
            script.send(&flow, &flow.seg().dss(keys.ack(0)));
            return (keys, flow, id, left);
        }
        script.send(&flow, &flow.seg().flags(TcpFlags::RST));
    }
    panic!("no key fits");
}

#[test]
fn t64_narrow_data_acks_across_a_wrap() {
    let mut script = Script::server();
    let (keys, mut flow, id, left) = near_wrap(&mut script, 1 << 18);
    let low = |offset: u64| Dss {
        data_ack: Some(WireSeq::Low(keys.stack_dsn(offset).0 as u32)),
        ..Dss::default()
    };
    let total = left + 50_000;
    let (mut written, mut acked) = (0, 0);
    let mut old = Vec::new();
    while acked < total {
        let mut out = Vec::new();
        if written < total && written - acked < 60_000 {
            let len = 20_000.min(total - written);
            out = script.write(id, written, len as usize);
            written += len;
        }
        if out.iter().all(|o| o.payload.is_empty()) {
            out.extend(script.advance(500));
        }
        flow.hears(&out);
        acked = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
        no_reset(&script.send(&flow, &flow.seg().dss(low(acked))));
        assert_eq!(script.info(id).bytes_acked, acked, "no stall");
        old.push(acked);
        // An old acknowledgement comes again, from before the wrap.
        if acked > left {
            script.send(&flow, &flow.seg().dss(low(old[0])));
            script.send(&flow, &flow.seg().dss(low(left - 1)));
            assert_eq!(script.info(id).bytes_acked, acked, "no false advance");
            // One for what was never sent.
            script.send(&flow, &flow.seg().dss(low(written + 1)));
            assert_eq!(script.info(id).bytes_acked, acked);
        }
    }
    assert!(acked > left);
}

#[test]
fn narrow_dsns_across_a_wrap() {
    // A peer whose stream crosses a multiple of 2^32 after at most 64 KiB.
    let peer = (1_u64..).find(|k| {
        let low = key::idsn(Version::V1, *k).add(1).0 & 0xffff_ffff;
        low > 0xffff_0000 && low < 0xffff_fff0
    });
    let peer = peer.expect("one in 65536 keys");
    let mut script = Script::server();
    let (mut flow, answer) = script.half_open(4000, CapableFlags::HMAC);
    let Some(CapableForm::Key(stack)) = answer.capable().map(|c| c.form) else { panic!() };
    let keys = Keys { peer, stack, checksum: false };
    let form = CapableForm::Keys { sender: peer, receiver: stack };
    script.send(&flow, &flow.seg().opt(&capable(CapableFlags::HMAC, form)));
    let id = script.accept().expect("established");
    for n in 0..100 {
        let (offset, data) = (n * 1000, stream(n * 1000, 1000));
        let dsn = WireSeq::Low(keys.peer_dsn(offset).0 as u32);
        let mapping = Mapping { dsn, ssn: flow.ssn(), len: 1000, checksum: None };
        let dss = Dss { mapping: Some(mapping), ..keys.ack(0) };
        let mut out = script.send(&flow, &flow.seg().dss(dss).data(&data));
        out.extend(script.advance(50));
        flow.snd_nxt += 1000;
        assert_acked(&keys, &out, offset + 1000);
        script.expect_stream(id, offset, 1000);
    }
}

#[test]
fn t65_the_data_ack_is_as_wide_as_the_peers_dsn() {
    let mut script = Script::server();
    let (keys, mut flow, _) = script.confirmed();
    let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
    assert_eq!(out[0].data_ack(), Some(WireSeq::Full(keys.peer_dsn(10).0)));
    let mapping = Mapping {
        dsn: WireSeq::Low(keys.peer_dsn(10).0 as u32),
        ssn: flow.ssn(),
        len: 10,
        checksum: None,
    };
    let dss = Dss { mapping: Some(mapping), ..Dss::default() };
    let out = script.send(&flow, &flow.seg().dss(dss).data(&stream(10, 10)));
    flow.snd_nxt += 10;
    assert_acked(&keys, &out, 20);
    let out = script.send_data(&keys, &mut flow, 20, 0, &stream(20, 10));
    assert_eq!(out[0].data_ack(), Some(WireSeq::Full(keys.peer_dsn(30).0)));
}

#[test]
fn t66_every_combination_of_widths() {
    for checksum in [false, true] {
        let mut script = Script::server_with(|c| c.tcp.nagle = false);
        let flags = if checksum { SUM } else { CapableFlags::HMAC };
        let (keys, mut flow, id) = script.confirmed_with(flags);
        let (mut offset, mut written) = (0, 0);
        for bits in 0..16_u8 {
            let out = script.write(id, written, 10);
            flow.hears(&out);
            written += 10;
            let data = stream(offset, 13);
            let mut mapping = keys.mapping(offset, flow.ssn(), &data);
            if bits & 1 == 0 {
                mapping.dsn = WireSeq::Low(keys.peer_dsn(offset).0 as u32);
            }
            let data_ack = match bits >> 1 & 3 {
                0 => None,
                1 => Some(WireSeq::Low(keys.stack_dsn(written).0 as u32)),
                _ => Some(WireSeq::Full(keys.stack_dsn(written).0)),
            };
            let dss = Dss { data_ack, mapping: Some(mapping), data_fin: false };
            let out = script.send(&flow, &flow.seg().dss(dss).data(&data));
            no_reset(&out);
            flow.snd_nxt += 13;
            offset += 13;
            assert_acked(&keys, &out, offset);
            script.expect_stream(id, offset - 13, 13);
            if data_ack.is_some() {
                assert_eq!(script.info(id).bytes_acked, written);
            }
        }
    }
}

#[test]
fn t69_data_is_kept_until_both_levels_acknowledged_it() {
    let mut script = Script::server();
    let (keys, mut first, id) = script.confirmed();
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.stack.set_backup(id, 1, true);
    script.out();
    let out = script.write(id, 0, 1000);
    assert!(!first.of(&out).is_empty() && join.of(&out).is_empty());
    first.hears(&out);
    // TCP acknowledges, the data level does not; then the subflow ends.
    script.send(&first, &first.seg().dss(keys.ack(0)));
    assert_eq!(script.info(id).bytes_acked, 0);
    let mut out = script.send(&first, &first.seg().dss(keys.ack(0)).fin());
    out.extend(script.advance(5_000));
    let again: Vec<_> = join.of(&out).into_iter().filter(|o| !o.payload.is_empty()).collect();
    assert!(!again.is_empty(), "un-DATA_ACKed data is sent again: {out:?}");
    assert!(same(again[0].mapping().expect("mapped").dsn, keys.stack_dsn(0)));
    assert_eq!(again[0].payload, stream(0, 1000));
    // The reverse: a DATA_ACK alone frees the stream; TCP still repairs its subflow.
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed();
    script.write(id, 0, 1000);
    script.send(&flow, &flow.seg().dss(keys.ack(1000)));
    assert_eq!(script.info(id).bytes_acked, 1000);
    let out = script.advance(2_000);
    assert!(out.iter().any(|o| o.payload == stream(0, 1000)), "{out:?}");
}

#[test]
fn t70_the_right_edge_is_the_largest_ever_seen() {
    let mut script = Script::server();
    let (keys, mut first, id) = script.confirmed();
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    let sent = |out: &[Out]| out.iter().map(|o| o.payload.len()).sum::<usize>();
    // The connection may send 2000 octets.
    script.send(&first, &first.seg().dss(keys.ack(0)).window(2_000));
    let out = script.write(id, 0, 1_000);
    assert_eq!(sent(&out), 1_000);
    first.hears(&out);
    join.hears(&out);
    // All of it acknowledged with a small window, then an old DATA_ACK with a large one.
    script.send(&first, &first.seg().dss(keys.ack(1_000)).window(1_000));
    script.send(&join, &join.seg().dss(keys.ack(0)).window(30_000));
    let out = script.write(id, 1_000, 20_000);
    first.hears(&out);
    join.hears(&out);
    assert!(sent(&out) > 1_000, "{}", sent(&out));
    // It never moves left.
    script.send(&first, &first.seg().dss(keys.ack(1_000)).window(0));
    script.send(&join, &join.seg().dss(keys.ack(1_000)).window(0));
    let edge = sent(&out) as u64 + 1_000;
    assert!(edge <= 60_000);
}

#[test]
fn t73_a_window_shrunk_on_one_path_does_not_stop_the_other() {
    let mut script = Script::server();
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
}

#[test]
fn t74_duplicate_acks_that_carry_signals_are_no_congestion() {
    for signal in [false, true] {
        let mut script = Script::server();
        // Without SACK, so that duplicate ACKs count.
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let syn = flow.syn().bare().opt(&capable(CapableFlags::HMAC, CapableForm::Syn));
        let out = script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn + 1;
        let Some(CapableForm::Key(stack)) = out[0].capable().map(|c| c.form) else { panic!() };
        let keys = Keys { peer: PEER_KEY, stack, checksum: false };
        let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
        script.send(&flow, &flow.seg().opt(&capable(CapableFlags::HMAC, form)));
        let id = script.accept().expect("established");
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        script.write(id, 0, 5_000);
        let mut out = Vec::new();
        for _ in 0..3 {
            script.advance(2);
            let ack = flow.seg().dss(keys.ack(0));
            // MP_PRIO, B = 0.
            let ack = if signal { ack.raw(&[30, 3, 0x50]) } else { ack };
            out.extend(script.send(&flow, &ack));
        }
        let again = out.iter().filter(|o| o.seq == flow.rcv_nxt && !o.payload.is_empty()).count();
        assert_eq!(again, usize::from(!signal), "{out:?}");
    }
}

#[test]
fn t78_an_unexpected_checksum_resets() {
    let mut script = Script::server();
    let (keys, flow, _) = script.confirmed();
    let with = Keys { checksum: true, ..keys };
    let data = stream(0, 10);
    let out = script.send(&flow, &flow.seg().dss(with.data(&flow, 0, 0, &data)).data(&data));
    assert_reset(&out, reset_reason::MPTCP_SPECIFIC);
    // A missing one too.
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed_with(SUM);
    let out = script.send(&flow, &flow.seg().dss(keys.map(0, 1, 10)).data(&data));
    assert_reset(&out, reset_reason::MPTCP_SPECIFIC);
    assert!(script.would_block(id));
}

#[test]
fn t80_a_checksum_over_odd_segments() {
    for cut in [(1, 2, 3), (333, 333, 333), (999, 1, 1001), (7, 1460, 11)] {
        let mut script = Script::server();
        let (keys, mut flow, id) = script.confirmed_with(SUM);
        let len = cut.0 + cut.1 + cut.2;
        let dss = keys.data(&flow, 0, 0, &stream(0, len));
        let mut from = 0;
        for part in [cut.0, cut.1, cut.2] {
            assert!(script.would_block(id), "not before the mapping is whole");
            let seg = flow.seg().dss(dss).data(&stream(from as u64, part));
            no_reset(&script.send(&flow, &seg));
            flow.snd_nxt += part as u32;
            from += part;
        }
        script.expect_stream(id, 0, len);
    }
}

#[test]
fn t81_the_pseudo_header_has_the_wide_dsn_and_the_fin() {
    let mut script = Script::server();
    let (keys, flow, id) = script.confirmed_with(SUM);
    let data = stream(0, 10);
    let (dsn, ssn, len) = (keys.peer_dsn(0), flow.ssn(), 11);
    let sum = checksum::dss_checksum(dsn, ssn, len, checksum::sum(&data));
    let mapping = Mapping { dsn: WireSeq::Low(dsn.0 as u32), ssn, len, checksum: Some(sum) };
    let dss = Dss { mapping: Some(mapping), data_fin: true, ..keys.ack(0) };
    let out = script.send(&flow, &flow.seg().dss(dss).data(&data));
    no_reset(&out);
    assert_acked(&keys, &out, 11);
    script.expect_stream(id, 0, 10);
    assert!(script.at_end(id));
}

#[test]
fn t82_every_segment_maps_until_the_first_data_ack() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.unconfirmed();
    let out = script.write(id, 0, 14_000);
    assert!(out.len() >= 9);
    let mut offset = 0;
    for packet in &out {
        let mapping = packet.mapping().expect("a mapping in every segment");
        assert!(same(mapping.dsn, keys.stack_dsn(offset)));
        assert_eq!(u64::from(mapping.ssn), offset + 1);
        assert_eq!(usize::from(mapping.len), packet.payload.len());
        assert!(packet.data_ack().is_some());
        offset += packet.payload.len() as u64;
    }
    flow.hears(&out);
}

fn fragmentation_needed(script: &mut Script, sent: &Out, flow: &Flow, mtu: u16) {
    let mut quoted = vec![0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0];
    let ip = |addr: core::net::IpAddr| match addr {
        core::net::IpAddr::V4(v4) => v4.octets(),
        core::net::IpAddr::V6(_) => panic!("an IPv4 test"),
    };
    quoted.extend_from_slice(&ip(flow.local.ip()));
    quoted.extend_from_slice(&ip(flow.peer.ip()));
    let sum = checksum::Checksum::new();
    let header = !{
        let mut sum = sum;
        sum.add_bytes(&quoted);
        sum.folded()
    };
    quoted[10..12].copy_from_slice(&header.to_be_bytes());
    quoted.extend_from_slice(&flow.local.port().to_be_bytes());
    quoted.extend_from_slice(&flow.peer.port().to_be_bytes());
    quoted.extend_from_slice(&sent.seq.to_be_bytes());
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(&quoted);
    let field = {
        let mut sum = checksum::Checksum::new();
        sum.add_bytes(&icmp);
        sum.finish()
    };
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
    script.inject_ip(flow.peer.ip(), flow.local.ip(), 1, &icmp);
}

#[test]
fn t83_a_retransmission_repeats_its_mapping_however_it_is_cut() {
    for flags in [CapableFlags::HMAC, SUM] {
        let mut script = Script::server();
        let (keys, mut flow, id) = script.confirmed_with(flags);
        let first = script.write(id, 0, 4_000);
        let original: Vec<Mapping> = first.iter().filter_map(Out::mapping).collect();
        fragmentation_needed(&mut script, &first[0], &flow, 600);
        let mut again = script.out();
        again.extend(script.advance(5_000));
        assert!(again.iter().any(|o| !o.payload.is_empty()));
        for packet in again.iter().filter(|o| !o.payload.is_empty()) {
            assert!(packet.payload.len() + 40 + packet.options.len() <= 600, "{packet:?}");
            let mapping = packet.mapping().expect("a mapping");
            assert!(original.contains(&mapping), "{packet:?}");
            let ssn = packet.seq.wrapping_sub(flow.stack_isn);
            let inside = ssn >= mapping.ssn
                && ssn as usize + packet.payload.len()
                    <= mapping.ssn as usize + usize::from(mapping.len);
            assert!(inside, "{packet:?}");
        }
        flow.hears(&again);
        let _ = keys;
    }
}

#[test]
fn t91_we_go_on_sending_after_the_peers_data_fin() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let out = script.send(&flow, &flow.seg().dss(Dss { ..keys.fin(0) }));
    assert_acked(&keys, &out, 1);
    assert!(script.at_end(id));
    let mut written = 0;
    for _ in 0..500 {
        let out = script.write(id, written, 10_000);
        written += 10_000;
        flow.hears(&out);
        let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
        let out = script.send(&flow, &flow.seg().dss(keys.ack(got)).window(30_000));
        flow.hears(&out);
        let in_flight = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1 - got;
        assert!(in_flight <= 30_000, "{in_flight} octets in a window of 30000");
    }
    let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
    assert!(got > 4_500_000, "{got}");
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
fn t71_schedule(steps: &[Step], wscale: Option<u8>, buffer: u32) {
    let configure = |c: &mut StackConfig| {
        c.tcp.recv_buffer_max = buffer;
        c.tcp.recv_buffer_initial = buffer / 2;
    };
    let mut script = Script::server_with(configure);
    let scaling: Vec<u8> = wscale.map(|s| vec![3, 3, s]).unwrap_or_default();
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let syn = flow.syn().raw(&scaling).opt(&capable(CapableFlags::HMAC, CapableForm::Syn));
    let out = script.send(&flow, &syn);
    flow.hears(&out);
    flow.snd_nxt = flow.isn + 1;
    let shift = out[0].tcp_options().iter().find_map(|o| match o {
        TcpOption::WindowScale(shift) => Some(*shift),
        _ => None,
    });
    let shift = if wscale.is_some() { shift.expect("scaling is answered") } else { 0 };
    let Some(CapableForm::Key(stack)) = out[0].capable().map(|c| c.form) else { panic!() };
    let keys = Keys { peer: PEER_KEY, stack, checksum: false };
    let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
    script.send(&flow, &flow.seg().opt(&capable(CapableFlags::HMAC, form)));
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
            let Some(WireSeq::Full(ack)) = packet.data_ack() else { continue };
            let offset = DataSeq(ack).diff(keys.peer_dsn(0));
            let acked = u64::try_from(offset).expect("not before the stream");
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
    ) {
        t71_schedule(&steps, wscale, buffer);
    }
}

#[test]
fn t140_memory_for_what_is_out_of_order_is_bounded() {
    let configure = |c: &mut StackConfig| {
        c.tcp.recv_buffer_initial = 64 << 10;
        c.tcp.recv_buffer_max = 64 << 10;
        c.mptcp.checksum = ChecksumPolicy::Accept;
    };
    let mut script = Script::server_with(configure);
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
}

#[test]
fn t144_a_lost_window_update_is_asked_for() {
    let mut script = Script::server();
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
}

#[test]
fn small_writes_do_not_pin_a_buffer_each() {
    let mut script = Script::server();
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
}

#[test]
fn the_send_buffer_counts_the_memory_it_pins() {
    let mut script = Script::server_with(|c| c.tcp.send_buffer_max = 64 << 10);
    let (_, _, id) = script.confirmed();
    // Too large to be copied together, too small for their buffers.
    while script.stack.send(script.now, id, &[7; 300]).is_ok() {
        assert!(script.sent_in_use() < 1_000, "the send buffer has no end");
    }
    assert!(script.sent_in_use() * 1_700 < 3 * (64 << 10), "{}", script.sent_in_use());
}

/// A window update that only the other subflow brought: this one's own window stays shut, and is
/// probed for as long as there is something to send.
#[test]
fn t73_a_subflow_whose_own_window_is_shut_is_probed() {
    let mut script = Script::server();
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
    let mut script = Script::server_with(|c| c.tcp.retries = 4);
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
}

#[test]
fn a_peer_that_never_acknowledges_data_is_given_up() {
    let mut script = Script::server_with(|c| c.tcp.retries = 4);
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
}

/// The peer may use the shared window on any subflow (RFC 8684 §3.3.4), whatever that one said last.
#[test]
fn the_shared_window_holds_on_every_subflow() {
    let mut script = Script::server_with(|c| {
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
}

#[test]
fn data_wholly_beyond_a_data_fin_leaves_no_trace() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    script.send(&flow, &flow.seg().dss(keys.fin(100)));
    script.send_data(&keys, &mut flow, 200, 0, &stream(200, 10));
    assert_eq!(script.received_in_use(), 0);
    script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
    script.expect_stream(id, 0, 100);
    assert!(script.at_end(id));
}

/// Each subflow may hold what the connection may, but not all of them at once.
#[test]
fn t140_subflows_share_the_memory_for_what_is_out_of_order() {
    let mut script = Script::server_with(|c| {
        c.tcp.recv_buffer_initial = 256 << 10;
        c.tcp.recv_buffer_max = 256 << 10;
    });
    let (keys, _, _) = script.confirmed();
    for n in 0..6 {
        let join = script.join(&keys, at(P2, 5000 + n), at(A2, PORT));
        for ahead in (1..2_000).step_by(2) {
            let dss = keys.map(u64::from(ahead), join.ssn() + ahead, 1);
            let seg = join.seg().seq(join.snd_nxt + ahead).dss(dss).data(&[octet(ahead.into())]);
            script.send(&join, &seg);
        }
    }
    let memory = 2 * (256 << 10) + (64 << 10);
    let held = script.received_in_use() * 1_700;
    assert!(held > memory / 2 && held < 2 * memory, "{held} octets");
}

#[test]
fn small_segments_wait_for_company() {
    for nagle in [true, false] {
        let mut script = Script::server_with(|c| c.tcp.nagle = nagle);
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
}

#[test]
fn a_window_that_leaves_slivers_is_not_filled_with_them() {
    let mut script = Script::server();
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
}

#[test]
fn a_sliver_of_window_is_used_when_nothing_else_comes() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let sent = use_up(&mut script, &keys, &mut flow, id, 61_000);
    assert!(sent < 61_000 && sent > 59_500, "{sent}");
    let out = script.advance(2_000);
    assert!(!out.is_empty(), "it never comes");
    assert!(out.iter().all(|o| sent + o.payload.len() as u64 == 61_000), "{out:?}");
}

/// The 64-bit DSN that a fast sender needs makes room in the first segment that carries it.
#[test]
fn t67_the_switch_to_wide_dsns_keeps_to_the_mtu() {
    let mut script = Script::server();
    let (keys, mut flow, id) = script.confirmed();
    let (mut written, mut acked) = (0_u64, 0);
    let payload = stream(0, 30_000);
    let mut last = None;
    // `Out::read` asserts that no packet exceeds the MTU.
    while acked < (1 << 31) + 200_000 {
        while written < acked + 60_000 {
            written += script.stack.send(script.now, id, &payload).expect("room") as u64;
        }
        let out = script.out();
        flow.hears(&out);
        last = out.iter().rev().find_map(Out::mapping).or(last);
        let nxt = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn).wrapping_sub(1));
        acked = acked - acked % (1 << 32) + nxt;
        script.inject(&flow, &flow.seg().dss(keys.ack(acked)));
    }
    let wide = last.is_some_and(|m| matches!(m.dsn, WireSeq::Full(_)));
    assert!(wide && script.now.as_millis() == 1_000, "{last:?}");
}

/// A hole with more segments behind it than a store of mappings holds by default.
#[test]
fn mappings_last_as_long_as_the_buffer_does() {
    let mut script = Script::server_with(|c| {
        c.tcp.recv_buffer_initial = 32 << 20;
        c.tcp.recv_buffer_max = 32 << 20;
    });
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let syn = flow.syn().raw(&[3, 3, 0]).opt(&capable(SUM, CapableForm::Syn));
    let out = script.send(&flow, &syn);
    flow.hears(&out);
    flow.snd_nxt = flow.isn + 1;
    let Some(CapableForm::Key(stack)) = out[0].capable().map(|c| c.form) else { panic!() };
    let keys = Keys { peer: PEER_KEY, stack, checksum: true };
    let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
    script.send(&flow, &flow.seg().opt(&capable(SUM, form)));
    let id = script.accept().expect("established");
    // Its answer offers the scaled window.
    script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
    let hole = flow.clone();
    let segments = 9_000;
    flow.snd_nxt += 100;
    for n in 2..segments {
        script.send_data(&keys, &mut flow, n * 100, 0, &stream(n * 100, 100));
    }
    assert_eq!(script.counters().mapping_full, 0);
    let data = stream(100, 100);
    script.send(&hole, &hole.seg().dss(keys.data(&hole, 100, 0, &data)).data(&data));
    script.expect_stream(id, 0, segments as usize * 100);
}
