//! Mappings: data by its DSS in every order, cut and width, with and without checksums
//! (RFC 8684 §3.3.1, §3.3.4).

use super::{SUM, assert_acked, assert_reset, no_reset};
use crate::harness::*;
use mptcp_core::wire::{CapableFlags, Dss, Mapping, Version, WireSeq, checksum, reset_reason};
use proptest::prelude::*;

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
    both(|v| {
        for seed in 0..20_usize {
            let mut script = Script::server(v);
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
    });
}

#[test]
fn t51_the_option_on_the_first_segment_is_enough() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        let map = keys.map(0, 1, WHOLE as u16);
        for (n, (from, len)) in parts().into_iter().enumerate() {
            no_reset(&script.send(&flow, &part(&flow, from, len, (n == 0).then_some(map))));
        }
        script.expect_stream(id, 0, WHOLE);
    });
}

#[test]
fn t52_data_before_its_mapping_is_held() {
    both(|v| {
        let mut script = Script::server(v);
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
    });
}

#[test]
fn t53_unmapped_data_beyond_a_window_resets_the_subflow() {
    both(|v| {
        let mut script = Script::server(v);
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
                rst.assert_reset(reset_reason::MIDDLEBOX_INTERFERENCE, false);
                break;
            }
            assert!(held < 1 << 20, "it holds without bound");
        }
        assert!(held > 65_536, "{held}");
        assert_eq!(script.counters().dss_corruption_reset, 1);
        assert!(script.would_block(id), "the connection waits for another subflow");
    });
}

#[test]
fn t55_a_segment_with_the_data_of_two_mappings() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        // The second mapping is known from a later segment that came first.
        script.send(&flow, &part(&flow, 200, 100, Some(keys.map(100, 101, 200))));
        let out = script.send(&flow, &part(&flow, 0, 200, Some(keys.map(0, 1, 100))));
        assert_acked(&keys, &out, 300);
        script.expect_stream(id, 0, 300);
    });
}

#[test]
fn t56_a_mapping_that_changes_resets_the_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        // Out of order, so the first mapping is still needed.
        no_reset(&script.send(&flow, &part(&flow, 100, 50, Some(keys.map(100, 101, 50)))));
        let out = script.send(&flow, &part(&flow, 100, 50, Some(keys.map(500, 101, 50))));
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC);
        assert_eq!(script.counters().dss_not_matching, 1);
        assert!(script.would_block(id));
    });
}

#[test]
fn t57_a_consistent_part_of_a_mapping_is_no_change() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        no_reset(&script.send(&flow, &part(&flow, 100, 100, Some(keys.map(0, 1, 200)))));
        no_reset(&script.send(&flow, &part(&flow, 150, 50, Some(keys.map(150, 151, 50)))));
        no_reset(&script.send(&flow, &part(&flow, 0, 50, Some(keys.map(0, 1, 50)))));
        // One that reaches beyond what is known, too.
        let out = script.send(&flow, &part(&flow, 50, 200, Some(keys.map(50, 51, 200))));
        assert_acked(&keys, &out, 250);
        script.expect_stream(id, 0, 250);
    });
}

/// More than 4 GiB on one subflow: the relative SSN wraps within a mapping.
#[test]
fn t58_the_relative_ssn_wraps() {
    both(|v| {
        const LEN: usize = 60_000;
        let mut script = Script::server(v);
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
    });
}

#[test]
fn t59_a_stale_copy_of_an_option_on_data_beyond_it() {
    both(|v| {
        let mut script = Script::server(v);
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
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Pieces of the stream overlap in every way, on two subflows, each piece mapped on its own.
    #[test]
    fn t60_overlapping_pieces_give_the_exact_stream(
        pieces in proptest::collection::vec((0_u64..3_000, 1_usize..900, any::<bool>()), 1..60),
        v in version(),
    ) {
        let mut script = Script::server(v);
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
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, _) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // Long past the segments that are acknowledged one by one at the start.
        for offset in 1..40 {
            let out = script.send_data(&keys, &mut join, offset, 0, &stream(offset, 1));
            assert_acked(&keys, &out, 0);
        }
        let out = script.send_data(&keys, &mut join, 0, 0, &stream(0, 1));
        assert_acked(&keys, &out, 40);
    });
}

#[test]
fn t63_the_sanity_check_counts_and_nothing_else() {
    both(|v| {
        let mut script = Script::server(v);
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
    });
}

#[test]
fn t78_an_unexpected_checksum_resets_or_is_ignored() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        let with = Keys { checksum: true, ..keys };
        let data = stream(0, 10);
        let out = script.send(&flow, &flow.seg().dss(with.data(&flow, 0, 0, &data)).data(&data));
        match v {
            // Ignored, and the mapping is used.
            Version::V0 => {
                no_reset(&out);
                script.expect_stream(id, 0, 10);
            }
            Version::V1 => assert_reset(&out, reset_reason::MPTCP_SPECIFIC),
        }
        // A missing one resets in both versions.
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed_with(SUM);
        let out = script.send(&flow, &flow.seg().dss(keys.map(0, 1, 10)).data(&data));
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC);
        assert!(script.would_block(id));
    });
}

#[test]
fn t80_a_checksum_over_odd_segments() {
    both(|v| {
        for cut in [(1, 2, 3), (333, 333, 333), (999, 1, 1001), (7, 1460, 11)] {
            let mut script = Script::server(v);
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
    });
}

#[test]
fn t81_the_pseudo_header_has_the_wide_dsn_and_the_fin() {
    both(|v| {
        let mut script = Script::server(v);
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
    });
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
    both(|v| {
        for flags in [CapableFlags::HMAC, SUM] {
            let mut script = Script::server(v);
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
    });
}

#[test]
fn data_wholly_beyond_a_data_fin_leaves_no_trace() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().dss(keys.fin(100)));
        script.send_data(&keys, &mut flow, 200, 0, &stream(200, 10));
        assert_eq!(script.received_in_use(), 0);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        assert!(script.at_end(id));
    });
}

/// A hole with more segments behind it than a store of mappings holds by default.
#[test]
fn mappings_last_as_long_as_the_buffer_does() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.tcp.recv_buffer_initial = 32 << 20;
            c.tcp.recv_buffer_max = 32 << 20;
        });
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let syn = flow.syn().raw(&[3, 3, 0]).opt(&offer(v, SUM));
        let out = script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn + 1;
        let keys = Keys::of(v, &out[0], true);
        script.send(&flow, &flow.seg().opt(&keys.third()));
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
    });
}
