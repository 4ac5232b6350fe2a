//! `DATA_ACK`s and sequence numbers of both widths, and what is kept until they come
//! (RFC 8684 §3.3.1, §3.3.2).

use super::{SUM, assert_acked, no_reset};
use crate::harness::*;
use mptcp_core::mptcp::key;
use mptcp_core::wire::{CapableFlags, CapableForm, Dss, Mapping, TcpFlags, Version, WireSeq};

/// A connection whose outgoing stream crosses a multiple of 2^32 after at most `within` octets.
fn near_wrap(script: &mut Script, within: u64) -> (Keys, Flow, mptcp_core::stack::SocketId, u64) {
    for n in 0..2_000_000_u32 {
        let peer = core::net::IpAddr::from([10, 4, (n >> 8) as u8, n as u8]);
        let mut flow = Flow::new(at(peer, 2000 + (n >> 16) as u16), at(A1, PORT));
        let syn = flow.syn().opt(&offer(script.version, CapableFlags::HMAC));
        let out = script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let keys = Keys::of(script.version, &out[0], false);
        let left = (1 << 32) - (keys.stack_dsn(0).0 & 0xffff_ffff);
        if left <= within {
            script.send(&flow, &flow.seg().opt(&keys.third()));
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
    both(|v| {
        let mut script = Script::server(v);
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
    });
}

#[test]
fn narrow_dsns_across_a_wrap() {
    both(|v| {
        // A peer whose stream crosses a multiple of 2^32 after at most 64 KiB.
        let peer = (1_u64..).find(|k| {
            let low = key::idsn(v, *k).add(1).0 & 0xffff_ffff;
            low > 0xffff_0000 && low < 0xffff_fff0
        });
        let peer = peer.expect("one in 65536 keys");
        let mut script = Script::server(v);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let offer = match v {
            Version::V0 => capable(v, CapableFlags::HMAC, CapableForm::Key(peer)),
            Version::V1 => offer(v, CapableFlags::HMAC),
        };
        let out = script.send(&flow, &flow.syn().opt(&offer));
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let keys = Keys { peer, ..Keys::of(v, &out[0], false) };
        script.send(&flow, &flow.seg().opt(&keys.third()));
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
    });
}

#[test]
fn t65_the_data_ack_is_as_wide_as_the_peers_dsn() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, _) = script.confirmed();
        let (mut offset, mut widest) = (0, false);
        for wide in [false, true, false, true] {
            let dsn = keys.peer_dsn(offset);
            let dsn = if wide { WireSeq::Full(dsn.0) } else { WireSeq::Low(dsn.0 as u32) };
            let mapping = Some(Mapping { dsn, ssn: flow.ssn(), len: 10, checksum: None });
            let dss = Dss { mapping, ..Dss::default() };
            let out = script.send(&flow, &flow.seg().dss(dss).data(&stream(offset, 10)));
            flow.snd_nxt += 10;
            offset += 10;
            assert_acked(&keys, &out, offset);
            widest |= wide;
            let ack = out[0].data_ack().expect("a DATA_ACK");
            // Peers of version 0 may not read 64 bits: they get them once they used them.
            let narrow = matches!(ack, WireSeq::Low(_));
            assert!(if wide { !narrow } else { v == Version::V1 || widest || narrow }, "{out:?}");
        }
    });
}

#[test]
fn t66_every_combination_of_widths() {
    both(|v| {
        for checksum in [false, true] {
            let mut script = Script::server_with(v, |c| c.tcp.nagle = false);
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
    });
}

#[test]
fn t69_data_is_kept_until_both_levels_acknowledged_it() {
    both(|v| {
        let mut script = Script::server(v);
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
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.write(id, 0, 1000);
        script.send(&flow, &flow.seg().dss(keys.ack(1000)));
        assert_eq!(script.info(id).bytes_acked, 1000);
        let out = script.advance(2_000);
        assert!(out.iter().any(|o| o.payload == stream(0, 1000)), "{out:?}");
    });
}

#[test]
fn t70_the_right_edge_is_the_largest_ever_seen() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.nagle = false);
        let sent =
            |flow: &Flow, out: &[Out]| flow.of(out).iter().map(|o| o.payload.len()).sum::<usize>();
        // The connection may send 2,000 octets; everything goes by the first subflow.
        let (keys, mut first, id) = script.unconfirmed_within(2_000, 40_000, CapableFlags::HMAC);
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 1, true);
        script.out();
        let out = script.write(id, 0, 1_000);
        assert_eq!(sent(&first, &out), 1_000);
        first.hears(&out);
        script.send(&first, &first.seg().dss(keys.ack(1_000)).window(1_000));
        let out = script.write(id, 1_000, 3_000);
        assert_eq!(sent(&first, &out), 1_000, "{out:?}");
        first.hears(&out);
        // The subflow has room for more, the connection has not.
        first.window = 60_000;
        let out = script.send(&first, &first.seg());
        assert_eq!(sent(&first, &out), 0, "{out:?}");
        // An old DATA_ACK with a larger window, on another subflow.
        let out = script.send(&join, &join.seg().dss(keys.ack(0)).window(5_000));
        assert_eq!(sent(&first, &out), 2_000, "{out:?}");
        first.hears(&out);
        script.send(&first, &first.seg());
        // Smaller ones do not move it left, nor do old ones.
        script.send(&join, &join.seg().dss(keys.ack(4_000)).window(0));
        script.send(&join, &join.seg().dss(keys.ack(0)).window(0));
        script.send(&first, &first.seg().dss(keys.ack(4_000)).window(500));
        let out = script.write(id, 4_000, 1_000);
        assert_eq!(sent(&first, &out), 1_000, "{out:?}");
        let out = script.write(id, 5_000, 1_000);
        assert_eq!(sent(&first, &out), 0, "{out:?}");
    });
}

#[test]
fn t74_duplicate_acks_that_carry_signals_are_no_congestion() {
    both(|v| {
        for signal in [false, true] {
            let mut script = Script::server(v);
            // Without SACK, so that duplicate ACKs count.
            let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
            let syn = flow.syn().bare().opt(&offer(v, CapableFlags::HMAC));
            let out = script.send(&flow, &syn);
            flow.hears(&out);
            flow.snd_nxt = flow.isn + 1;
            let keys = Keys::of(v, &out[0], false);
            script.send(&flow, &flow.seg().opt(&keys.third()));
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
            let again =
                out.iter().filter(|o| o.seq == flow.rcv_nxt && !o.payload.is_empty()).count();
            assert_eq!(again, usize::from(!signal), "{out:?}");
        }
    });
}

#[test]
fn t82_every_segment_maps_until_the_first_data_ack() {
    both(|v| {
        let mut script = Script::server(v);
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
        // As a client of version 1 the keys take the place of the first one.
        let mut script = Script::new(v, |_| {});
        let (keys, _, id) = script.connected();
        let mut offset = 0;
        for packet in &script.write(id, 0, 14_000) {
            let len = match packet.capable().map(|c| c.form) {
                Some(CapableForm::Data { data_len, .. }) => {
                    assert!(v == Version::V1 && offset == 0, "{packet:?}");
                    data_len
                }
                _ => {
                    let mapping = packet.mapping().expect("a mapping in every segment");
                    assert!(same(mapping.dsn, keys.stack_dsn(offset)));
                    assert_eq!(u64::from(mapping.ssn), offset + 1);
                    mapping.len
                }
            };
            assert_eq!(usize::from(len), packet.payload.len());
            offset += u64::from(len);
        }
        assert!(offset > 10_000, "{offset}");
    });
}

#[test]
fn t91_we_go_on_sending_after_the_peers_data_fin() {
    both(|v| {
        let mut script = Script::server(v);
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
    });
}

/// The 64-bit DSN that a fast sender needs makes room in the first segment that carries it.
#[test]
fn t67_the_switch_to_wide_dsns_keeps_to_the_mtu() {
    both(|v| {
        let mut script = Script::server(v);
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
        // A peer of version 0 that never used 64 bits may not read them.
        let wide = last.is_some_and(|m| matches!(m.dsn, WireSeq::Full(_)));
        assert!(wide == (v == Version::V1) && script.now.as_millis() == 1_000, "{last:?}");
    });
}

/// Octets of the IP packet.
fn packet_len(out: &Out) -> usize {
    40 + out.options.len() + out.payload.len()
}

/// The room for a `DATA_ACK` follows its width, which follows the peer's; what was sent beside a short
/// one still fits when it is sent again beside a long one (`Out::read` asserts that).
#[test]
fn full_segments_fill_the_packet_beside_either_data_ack() {
    both(|v| {
        for flags in [CapableFlags::empty(), CapableFlags::CHECKSUM] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed_with(CapableFlags::HMAC | flags);
            let (mut offset, mut written) = (0, 0);
            for (n, wide) in [v == Version::V1, false, true, false].into_iter().enumerate() {
                if n > 0 {
                    let data = stream(offset, 10);
                    let mut mapping = keys.mapping(offset, flow.ssn(), &data);
                    let dsn = keys.peer_dsn(offset).0;
                    mapping.dsn = if wide { WireSeq::Full(dsn) } else { WireSeq::Low(dsn as u32) };
                    let dss = Dss { mapping: Some(mapping), ..keys.ack(written) };
                    script.send(&flow, &flow.seg().dss(dss).data(&data));
                    flow.snd_nxt += 10;
                    // Whoever used 64 bits has a `DATA_ACK` of it before it gets shorter ones.
                    script.advance(1_000);
                    offset += 10;
                }
                let full = if wide { 1_460 - 24 } else { 1_460 - 20 };
                let out = script.write(id, written, 4 * full);
                written += 4 * full as u64;
                assert_eq!(out.len(), 4, "{out:?}");
                for packet in &out {
                    let narrow = matches!(packet.data_ack(), Some(WireSeq::Low(_)));
                    assert!(narrow != wide && packet.payload.len() == full, "{packet:?}");
                    assert_eq!(packet_len(packet), 1_500);
                }
                flow.hears(&out);
                script.send(&flow, &flow.seg().dss(keys.ack(written)));
            }
            // Sent beside short ones, lost, and sent again beside long ones.
            let lost = script.write(id, written, 3 * 1_440);
            assert!(lost.iter().all(|o| packet_len(o) == 1_500), "{lost:?}");
            let data = stream(offset, 10);
            let mut mapping = keys.mapping(offset, flow.ssn(), &data);
            mapping.dsn = WireSeq::Full(keys.peer_dsn(offset).0);
            let dss = Dss { mapping: Some(mapping), ..keys.ack(written) };
            script.send(&flow, &flow.seg().dss(dss).data(&data));
            flow.snd_nxt += 10;
            let mut got = Vec::new();
            for _ in 0..20 {
                let mut out = script.advance(1_000);
                let acked = keys.ack(written + got.len() as u64);
                out.extend(script.send(&flow, &flow.seg().dss(acked)));
                for packet in out {
                    if packet.seq == flow.rcv_nxt {
                        got.extend_from_slice(&packet.payload);
                    }
                    flow.hears(&[packet]);
                }
            }
            assert!(got == stream(written, 3 * 1_440), "{} octets", got.len());
        }
    });
}
