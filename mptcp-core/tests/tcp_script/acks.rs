//! What acknowledgements are worth: split, repeated, with text, out of the window, with SACK nobody
//! agreed on (RFC 5681 §2, §3; RFC 3042; RFC 2018 §2; RFC 3465; RFC 5961 §7).

use crate::harness::{Peer, Script, Seg, ack, data};
use mptcp_core::config::{CongestionAlgorithm, StackConfig};
use mptcp_core::stats::DropReason;

const MSS: u32 = 1460;
const FULL: usize = MSS as usize;
const WIDE: Peer = Peer { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 65_535 };
const NO_SACK: Peer = Peer { sack: false, ..WIDE };

fn client(peer: Peer) -> Script {
    let newreno = |c: &mut StackConfig| c.tcp.congestion = CongestionAlgorithm::NewReno;
    Script::client(newreno, peer, 100)
}

fn at(n: u32) -> u32 {
    1 + n * MSS
}

fn cwnd(s: &Script) -> u32 {
    s.stack.info(s.id()).unwrap().subflows[0].cwnd
}

/// A receiver that acknowledges a segment in ten parts gets no more than for the whole.
#[test]
fn split_acknowledgements_are_worth_what_they_acknowledge() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    assert_eq!(s.take_all().len(), 10);
    s.at(200);
    for part in 1..=20 {
        s.inject(ack(1, 1 + part * MSS / 10)).take_all();
    }
    assert_eq!(cwnd(&s), 12 * MSS);
}

/// One that acknowledges what was never sent gets nothing.
#[test]
fn an_optimistic_acknowledgement_opens_nothing() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    assert_eq!(s.take_all().len(), 10);
    s.at(200).inject(ack(1, at(11))).expect(ack(at(10), 1)).expect_nothing();
    assert_eq!((cwnd(&s), s.dropped(DropReason::AckRange)), (10 * MSS, 1));
}

/// RFC 5681 §2: a window update or an acknowledgement that comes with text says nothing of loss.
#[test]
fn what_says_something_else_is_no_duplicate() {
    let mut s = client(NO_SACK);
    s.write(10 * FULL);
    assert_eq!(s.take_all().len(), 10);
    s.at(200);
    for n in 0..5 {
        s.inject(ack(1, 1).window(60_000 + n));
        s.inject(data(1 + 10 * u32::from(n), 1, 10).window(60_000 + n));
    }
    assert!(s.take_all().iter().all(|seg| seg.len == 0));
    assert_eq!(s.stack.counters().tcp_sack_recovery, 0);
}

/// RFC 5681 §3.2 step 1 with SACK: each of the first two blocks lets one new segment out, and the
/// window stays.
#[test]
fn limited_transmit_with_selective_acknowledgements() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    assert_eq!(s.take_all().len(), 10);
    s.at(200);
    for n in [10, 11] {
        s.inject(ack(1, 1).sack(&[(at(1), at(n - 8))])).expect(data(at(n), 1, FULL));
        s.expect_nothing();
        assert_eq!(cwnd(&s), 10 * MSS);
    }
}

/// RFC 5681 §3.2 step 2: what these let out is no part of what half is left of.
#[test]
fn limited_transmit_does_not_raise_the_threshold() {
    for peer in [WIDE, NO_SACK] {
        let mut s = client(peer);
        s.inject(ack(1, 1)).write(40 * FULL);
        assert_eq!(s.take_all().len(), 10);
        s.at(200);
        for n in 2..=4 {
            let duplicate = ack(1, 1);
            let blocks = [(at(1), at(n))];
            s.inject(if peer.sack { duplicate.sack(&blocks) } else { duplicate }).take_all();
        }
        let ssthresh = s.stack.info(s.id()).unwrap().subflows[0].tcp.snd_ssthresh;
        assert_eq!((ssthresh, s.stack.counters().tcp_sack_recovery), (Some(5 * MSS), 1));
    }
}

/// RFC 2018 §2: only both SYNs agree on it; a permission on another segment is none.
#[test]
fn sack_needs_both_syns() {
    let mut s = client(NO_SACK);
    s.inject(Seg { sack_permitted: true, ..data(101, 1, 100) }).expect(ack(1, 1));
    s.inject(Seg { sack_permitted: true, ..data(301, 1, 100) }).expect(ack(1, 1));
    s.write(10 * FULL);
    assert_eq!(s.take_all().len(), 10);
    // Nor are blocks believed: the timeout repeats everything.
    s.at(200).inject(data(101, 1, 100).sack(&[(at(1), at(10))])).take_all();
    s.until(400).expect(data(at(0), 1, FULL)).at(500).inject(ack(1, at(1)));
    s.expect(data(at(1), 1, FULL)).expect(data(at(2), 1, FULL)).expect_nothing();
}

/// RFC 5961 §7: two ends that disagree about their numbers must not answer each other for ever.
#[test]
fn empty_segments_out_of_the_window_are_answered_at_a_limited_rate() {
    let mut s = client(WIDE);
    for _ in 0..30 {
        s.inject(ack(1 << 20, 1));
    }
    assert_eq!((s.take_all().len(), s.stack.counters().tcp_ack_skipped_challenge), (10, 20));
    // Text is repeated by whoever sent it: it is always answered.
    for _ in 0..30 {
        s.inject(data(1 << 20, 1, 10));
    }
    assert_eq!(s.take_all().len(), 30);
    s.at(1_100).inject(ack(1 << 20, 1)).expect(ack(1, 1));
}

/// RFC 5681 §4.2: one acknowledgement at most for each segment that arrives.
#[test]
fn no_segment_is_acknowledged_twice() {
    let mut s = client(WIDE);
    let arrivals =
        [data(1, 1, 10), data(51, 1, 10), data(31, 1, 20), data(11, 1, 20), data(1, 1, 5)];
    for seg in arrivals {
        assert_eq!(s.inject(seg.clone()).take_all().len(), 1, "{seg:?}");
    }
    s.read(60).expect_nothing().at(2_000).expect_nothing();
}

/// RFC 9293 §3.10.7.4 (MUST-58, MUST-59): all of what waits is processed first.
#[test]
fn a_burst_is_acknowledged_once() {
    let mut s = client(WIDE);
    let burst: Vec<_> = (0..8).map(|n| data(1 + n * 100, 1, 100)).collect();
    s.inject_burst(&burst).expect(ack(1, 801)).expect_nothing();
    // A hole in the middle as well.
    s.inject_burst(&[data(801, 1, 100), data(1001, 1, 100), data(1201, 1, 100)]);
    s.expect(ack(1, 901).sack(&[(1201, 1301), (1001, 1101)])).expect_nothing();
    s.read(900);
}

/// RFC 8985 §6.2 step 4: a quarter of the shortest round trip more for each round with a reported
/// duplicate, but never more than the smoothed one.
#[test]
fn the_reordering_window_grows_to_a_round_trip() {
    let change = |c: &mut StackConfig| {
        c.tcp.congestion = CongestionAlgorithm::NewReno;
        c.tcp.rto_min = mptcp_core::time::Duration::from_secs(1);
    };
    let mut s = Script::client(change, WIDE, 100);
    s.write(3 * FULL);
    assert_eq!(s.take_all().len(), 3);
    // Overtaken, and not lost.
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(2))])).inject(ack(1, at(3)));
    let (mut seen, mut first) = (Vec::new(), 3);
    for _ in 0..6 {
        s.write(2 * FULL);
        assert_eq!(s.take_all().len(), 2);
        let sacked = s.ms() + 100;
        s.at(sacked).inject(ack(1, at(first)).sack(&[(at(first + 1), at(first + 2))]));
        let mut sent = Vec::new();
        while sent.is_empty() {
            let ms = s.ms();
            assert!(ms < sacked + 500);
            s.skip_collecting(ms + 1, &mut sent);
        }
        assert_eq!(sent[0].seq, at(first));
        let waited = s.ms() - sacked;
        seen.push(waited - waited % 5);
        // Only late after all.
        s.inject(ack(1, at(first + 2)));
        s.inject(ack(1, at(first + 2)).sack(&[(at(first), at(first + 1))]));
        first += 2;
    }
    assert_eq!(seen, [25, 50, 75, 100, 100, 100]);
}

/// RFC 2883 §4.2, §5: above the cumulative point, a first block within the second one reports a duplicate; one
/// beside it does not.
#[test]
fn a_first_block_within_the_second_is_a_duplicate() {
    let mut s = client(WIDE);
    s.write(10 * FULL);
    assert_eq!(s.take_all().len(), 10);
    let reported = |s: &Script| s.stack.counters().tcp_dsack_recv;
    s.at(200).inject(ack(1, at(1)).sack(&[(at(8), at(9)), (at(3), at(7))]));
    assert_eq!(reported(&s), 0);
    for (n, edges) in [(1, (4, 5)), (2, (3, 4)), (3, (3, 7))] {
        s.inject(ack(1, at(1)).sack(&[(at(edges.0), at(edges.1)), (at(3), at(7))]));
        assert_eq!(reported(&s), n, "{edges:?}");
    }
    s.inject(ack(1, at(1)).sack(&[(at(7), at(8)), (at(3), at(7)), (at(8), at(9))]));
    assert_eq!(reported(&s), 3);
}
