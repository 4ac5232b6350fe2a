//! Segments that are cut shorter, and probes that are longer, beside mappings: what was mapped stays
//! mapped as it was (RFC 8684 §3.3.1), and every segment leaves room for its own options.

use crate::harness::*;
use mptcp_core::config::MtuProbing;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, Mapping, TcpFlags, Version};

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);
/// Packets that a black hole lets through.
const SHORT: usize = 1024;

/// Runs a script on both versions, with DSS checksums and without.
fn all(script: impl Fn(Version, CapableFlags)) {
    both(|v| [CapableFlags::HMAC, SUM].into_iter().for_each(|flags| script(v, flags)));
}

/// A server's connection whose peer uses timestamps in its SYN.
fn with_timestamps(v: Version, flags: CapableFlags) -> (Script, Keys, Flow, SocketId) {
    let mut script = Script::server_with(v, |config| config.tcp.timestamps = true);
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let syn = flow.syn().raw(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0]).opt(&offer(v, flags));
    let out = script.send(&flow, &syn);
    flow.hears(&out);
    flow.snd_nxt = flow.isn + 1;
    let keys = Keys::of(v, &out[0], flags == SUM);
    script.send(&flow, &flow.seg().opt(&keys.third()));
    let id = script.accept().expect("established");
    script.send(&flow, &flow.seg().dss(keys.ack(0)));
    (script, keys, flow, id)
}

/// Octets of the whole IP packet.
fn packet_len(out: &Out) -> usize {
    40 + out.options.len() + out.payload.len()
}

/// Octets of the DSS of new data: the `DATA_ACK` is as wide as the peer's numbers.
const fn dss_len(v: Version) -> usize {
    match v {
        Version::V0 => 20,
        Version::V1 => 24,
    }
}

/// Octet of the stack's stream a segment begins with.
fn offset(flow: &Flow, out: &Out) -> u64 {
    u64::from(out.seq.wrapping_sub(flow.stack_isn)) - 1
}

/// A SACK option with one block.
fn sack(start: u32, end: u32) -> Vec<u8> {
    [[1, 1, 5, 10], start.to_be_bytes(), end.to_be_bytes()].concat()
}

fn with_data(out: &[Out]) -> Vec<&Out> {
    out.iter().filter(|o| !o.payload.is_empty()).collect()
}

/// Every segment has one of the mappings `known`, which covers it, and the octets it stands for.
fn assert_mapped(flow: &Flow, again: &[&Out], known: &[Mapping]) {
    for packet in again {
        let mapping = packet.mapping().unwrap_or_else(|| panic!("without a mapping: {packet:?}"));
        assert!(known.contains(&mapping), "{packet:?}\n{known:?}");
        let ssn = packet.seq.wrapping_sub(flow.stack_isn);
        let end = ssn as usize + packet.payload.len();
        let mapped = mapping.ssn as usize..=mapping.ssn as usize + usize::from(mapping.len);
        assert!(mapped.contains(&(ssn as usize)) && mapped.contains(&end), "{packet:?}");
        assert_eq!(packet.payload, stream(offset(flow, packet), packet.payload.len()));
    }
}

/// Both levels acknowledge `acked` octets.
fn acknowledge(script: &mut Script, keys: &Keys, flow: &mut Flow, acked: u64) -> Vec<Out> {
    flow.rcv_nxt = flow.stack_isn.wrapping_add(1 + acked as u32);
    script.send(flow, &flow.seg().dss(keys.ack(acked)))
}

/// Nothing is acknowledged until segments are cut short; answers what was sent meanwhile.
fn until_cut(script: &mut Script, id: SocketId) -> Vec<Out> {
    let mut out = Vec::new();
    while script.info(id).subflows[0].tcp.pmtu > 1024 {
        out.extend(script.advance(10));
    }
    assert_eq!(script.info(id).subflows[0].tcp.pmtu as usize, SHORT);
    out
}

/// Ten segments vanished, the first one came again short and was acknowledged; so was the rest: 14,000
/// octets in all.
fn behind_a_black_hole(
    script: &mut Script,
    keys: &Keys,
    flow: &mut Flow,
    id: SocketId,
) -> (Vec<Out>, Vec<Out>) {
    let first = script.write(id, 0, 14_000);
    let mut again = until_cut(script, id);
    let at = again.iter().position(|o| packet_len(o) <= SHORT && o.seq == first[0].seq);
    let mut again = again.split_off(at.expect("it came again short"));
    let len = again[0].payload.len() as u64;
    again.extend(acknowledge(script, keys, flow, len));
    assert_eq!(script.counters().tcp_mtu_black_holes, 1);
    acknowledge(script, keys, flow, 14_000);
    script.advance(1_000);
    (first, again)
}

#[test]
fn segments_cut_behind_a_black_hole_keep_their_mappings() {
    all(|v, flags| {
        for timestamps in [false, true] {
            let (mut script, keys, mut flow, id) = if timestamps {
                with_timestamps(v, flags)
            } else {
                let mut script = Script::server(v);
                let (keys, flow, id) = script.confirmed_with(flags);
                (script, keys, flow, id)
            };
            let (first, again) = behind_a_black_hole(&mut script, &keys, &mut flow, id);
            let known: Vec<_> = first.iter().filter_map(Out::mapping).collect();
            assert!(known.iter().all(|m| m.checksum.is_some() == (flags == SUM)), "{known:?}");
            let again = with_data(&again);
            assert_mapped(&flow, &again, &known);
            // Everything of it, in packets that pass, the full ones as long as can be.
            assert!(again.iter().all(|o| packet_len(o) <= SHORT), "{again:?}");
            let whole = again.iter().filter(|o| packet_len(o) == SHORT).count();
            let pieces = again.iter().filter(|o| o.mapping() == Some(known[1])).count();
            assert!(whole >= 9 && pieces >= 2, "{whole} full, {pieces} pieces of one mapping");
        }
    });
}

#[test]
fn a_lost_probe_is_cut_and_keeps_its_mapping() {
    all(|v, flags| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed_with(flags);
        behind_a_black_hole(&mut script, &keys, &mut flow, id);
        let sent = script.write(id, 14_000, 8_000);
        let [probe, behind, ..] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((packet_len(probe), packet_len(behind)), (1500, SHORT));
        let mapping = probe.mapping().expect("mapped as usual");
        assert_eq!(usize::from(mapping.len), probe.payload.len());
        let end = flow.stack_isn.wrapping_add(1 + 22_000);
        let sack = sack(behind.seq, end);
        assert!(script.advance(5).is_empty());
        let out = script.send(&flow, &flow.seg().raw(&sack).dss(keys.ack(14_000)));
        let again = with_data(&out);
        assert_eq!(again.len(), 2, "{out:?}");
        assert_mapped(&flow, &again, &[mapping]);
        assert_eq!((packet_len(again[0]), again[0].seq), (SHORT, probe.seq));
        let counters = script.counters();
        assert_eq!((counters.tcp_mtup_fail, counters.tcp_sack_recovery), (1, 0));
        acknowledge(&mut script, &keys, &mut flow, 22_000);
    });
}

/// The next probe arrives: new segments are longer by as much, whatever options they carry.
#[test]
fn segments_grow_with_the_size_that_a_probe_proved() {
    all(|v, flags| {
        let (mut script, keys, mut flow, id) = with_timestamps(v, flags);
        behind_a_black_hole(&mut script, &keys, &mut flow, id);
        let sent = script.write(id, 14_000, 8_000);
        assert_eq!(packet_len(&sent[0]), 1500);
        acknowledge(&mut script, &keys, &mut flow, 22_000);
        assert_eq!(script.counters().tcp_mtup_success, 1);
        let sent = script.write(id, 22_000, 4_000);
        assert_eq!((packet_len(&sent[0]), packet_len(&sent[1])), (1500, 1500));
        let tcp = script.info(id).subflows[0].tcp;
        assert_eq!((tcp.pmtu, tcp.snd_mss), (1500, 1460 - 12 - dss_len(v) as u32));
        acknowledge(&mut script, &keys, &mut flow, 26_000);
    });
}

/// 64-bit DSNs make the DSS longer by four octets, in short segments as in long ones.
#[test]
fn wide_dsns_come_off_a_short_segment() {
    let mut script = Script::server(Version::V1);
    let (keys, mut flow, id) = script.confirmed();
    let mut acked = 0_u64;
    let payload = stream(0, 30_000);
    while acked < (1 << 31) + 200_000 {
        while script.stack.send(script.now, id, &payload).is_ok_and(|n| n == payload.len()) {}
        let out = script.out();
        flow.hears(&out);
        let nxt = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn).wrapping_sub(1));
        acked = acked - acked % (1 << 32) + nxt;
        script.inject(&flow, &flow.seg().dss(keys.ack(acked)));
    }
    let lost = script.out();
    let again = until_cut(&mut script, id);
    let wide = |o: &&Out| o.options.len() == 28;
    assert!(lost.iter().all(|o| wide(&o)), "{:?}", lost[0]);
    let cut = again.last().expect("it came again");
    assert_eq!((packet_len(cut), cut.payload.len()), (SHORT, SHORT - 40 - 28));
}

/// A peer cannot ask for slivers: below 216 octets its MSS is not believed (every host takes 576 in one
/// piece), so no segment is without room for data beside the longest options.
#[test]
fn a_tiny_mss_costs_no_more_than_a_small_one() {
    all(|v, flags| {
        for mss in [0_u16, 1, 48, 88, 215] {
            let mut script = Script::server_with(v, |config| config.tcp.timestamps = true);
            let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
            let [high, low] = mss.to_be_bytes();
            let syn = flow.seg().acks(0).flags(TcpFlags::SYN).raw(&[2, 4, high, low, 4, 2]);
            let syn = syn.raw(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0]).opt(&offer(v, flags));
            let out = script.send(&flow, &syn);
            flow.hears(&out);
            flow.snd_nxt = flow.isn + 1;
            let keys = Keys::of(v, &out[0], flags == SUM);
            script.send(&flow, &flow.seg().opt(&keys.third()));
            let id = script.accept().expect("established");
            script.send(&flow, &flow.seg().dss(keys.ack(0)));
            let mut out = script.write(id, 0, 20_000);
            let mut sent = 0;
            while !out.is_empty() {
                flow.hears(&out);
                let data = with_data(&out);
                sent += data.len();
                assert!(data.iter().all(|o| packet_len(o) <= 40 + usize::from(mss.max(536))));
                let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
                out = acknowledge(&mut script, &keys, &mut flow, got);
            }
            let got = flow.rcv_nxt.wrapping_sub(flow.stack_isn) - 1;
            assert!(got == 20_000 && sent <= 20_000 / (216 - 36) + 1, "{mss}: {sent} segments");
        }
    });
}

/// The congestion window ends behind a probe, and nothing is heard: the tail loss probe repeats part of it,
/// short. It was lost, but that is no congestion.
#[test]
fn a_probe_at_the_tail_is_repaired_without_a_reduction() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.tcp.mtu_probing = MtuProbing::Always);
        let (keys, mut flow, id) = script.confirmed();
        let short = SHORT - 40 - dss_len(v);
        let mut sent = Vec::new();
        for n in 0..9 {
            sent.extend(script.write(id, n * short as u64, short));
        }
        assert_eq!(with_data(&sent).len(), 9);
        let out = script.write(id, 9 * short as u64, 20_000);
        let [probe] = &out[..] else { panic!("the window is full: {out:?}") };
        assert_eq!(packet_len(probe), 1500);
        let cwnd = script.info(id).subflows[0].cwnd;
        let again = script.advance(100);
        let [tail] = &again[..] else { panic!("a tail loss probe: {again:?}") };
        assert_eq!((tail.seq, packet_len(tail)), (probe.seq, SHORT));
        assert_mapped(&flow, &[tail], &[probe.mapping().expect("mapped")]);
        // Everything but the rest of the probe arrived, and new data behind it.
        let out = acknowledge(&mut script, &keys, &mut flow, 10 * short as u64);
        let behind = with_data(&out);
        let start = behind.first().expect("the window opened").seq;
        let last = behind.last().expect("the same");
        let end = last.seq.wrapping_add(last.payload.len() as u32);
        assert_eq!(start, probe.seq.wrapping_add(probe.payload.len() as u32));
        assert!(script.advance(5).is_empty());
        let sack = flow.seg().raw(&sack(start, end)).dss(keys.ack(10 * short as u64));
        let out = script.send(&flow, &sack);
        let rest =
            with_data(&out).into_iter().find(|o| o.seq == tail.seq.wrapping_add(short as u32));
        assert_eq!(rest.map(|o| o.payload.len()), Some(probe.payload.len() - short), "{out:?}");
        assert_mapped(&flow, rest.as_slice(), &[probe.mapping().expect("mapped")]);
        let all = u64::from(end.wrapping_sub(flow.stack_isn)) - 1;
        acknowledge(&mut script, &keys, &mut flow, all);
        let counters = script.counters();
        assert_eq!((counters.tcp_loss_probes, counters.tcp_loss_probe_recovery), (1, 0));
        assert_eq!((counters.tcp_mtup_fail, counters.tcp_sack_recovery), (1, 0));
        let subflow = script.info(id).subflows[0].clone();
        assert!(subflow.cwnd >= cwnd && subflow.tcp.snd_ssthresh.is_none(), "{subflow:?}");
    });
}
