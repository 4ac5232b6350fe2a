//! Bursts: what follows on each other is processed at once, and nobody can tell by what comes out.
//! Whether segments were taken together is read off `tcp_rcv_coalesce`.

use crate::harness::{Peer, Script, Seg, ack, data, fin, rst};
use mptcp_core::config::{CongestionAlgorithm, EcnPolicy, StackConfig};
use mptcp_core::wire::{ECN_CE, TcpFlags};
use proptest::prelude::*;

const MSS: u32 = 1460;
const FULL: usize = MSS as usize;
const WIDE: Peer = Peer { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 65_535 };
const NO_SACK: Peer = Peer { sack: false, ..WIDE };

fn newreno(c: &mut StackConfig) {
    c.tcp.congestion = CongestionAlgorithm::NewReno;
    c.tcp.ecn = EcnPolicy::Request;
}

fn client(peer: Peer) -> Script {
    Script::client(newreno, peer, 100)
}

fn at(n: u32) -> u32 {
    1 + n * MSS
}

fn coalesced(s: &Script) -> u64 {
    s.stack.counters().tcp_rcv_coalesce
}

fn cwnd(s: &Script) -> u32 {
    s.stack.info(s.id()).unwrap().subflows[0].cwnd
}

/// `burst` goes in at once; answers how many segments went with the one before.
fn together(s: &mut Script, burst: &[Seg]) -> u64 {
    let before = coalesced(s);
    s.inject_burst(burst);
    coalesced(s) - before
}

#[test]
fn text_in_order_is_one_segment() {
    let mut s = client(WIDE);
    let texts: Vec<_> = (0..8).map(|n| data(1 + n * 100, 1, 100)).collect();
    assert_eq!(together(&mut s, &texts), 7);
    s.expect(ack(1, 801)).expect_nothing().read(800);
    let segments = s.stack.counters().in_segs;
    // With PSH or without; alone it is as ever.
    let push = data(801, 1, 10).flags(TcpFlags::ACK | TcpFlags::PSH);
    assert_eq!(together(&mut s, &[push, data(811, 1, 10)]), 1);
    assert_eq!(together(&mut s, &[data(821, 1, 10)]), 0);
    assert_eq!(s.stack.counters().in_segs, segments + 3);
    s.read(30);
}

/// Every second full segment is acknowledged at the latest, however they came.
#[test]
fn segments_of_a_run_count_for_delayed_acknowledgements() {
    let mut s = client(WIDE);
    for n in 0..40 {
        s.inject(data(1 + n * 10, 1, 10)).take_all();
    }
    // No quick acknowledgements are left: one waits, two do not.
    s.at(1_000).take_all();
    s.inject(data(401, 1, 10)).until(1_040).expect(ack(1, 411));
    assert_eq!(together(&mut s, &[data(411, 1, 10), data(421, 1, 10)]), 1);
    s.expect(ack(1, 431)).expect_nothing();
}

#[test]
fn what_says_more_than_text_goes_alone() {
    let text = |n: u32| data(1 + n * 100, 1, 100);
    let alone = |seg: Seg| {
        let mut s = client(WIDE);
        assert_eq!(together(&mut s, &[text(0), seg.clone(), text(2)]), 0, "{seg:?}");
        s
    };
    alone(text(1).ecn(ECN_CE));
    alone(text(1).flags(TcpFlags::ACK | TcpFlags::ECE));
    alone(text(1).flags(TcpFlags::ACK | TcpFlags::CWR));
    alone(text(1).urgent(50));
    alone(text(1).sack(&[(1, 2)]));
    alone(rst(101));
    alone(text(0));
    // A hole, behind which one octet comes twice, and text outside of the window.
    alone(data(102, 1, 100)).expect(ack(1, 101).sack(&[(201, 202), (102, 301)]));
    alone(data(101, 2, 100));
    let mut s = client(WIDE);
    let end = Seg { len: 100, ..fin(101, 1) };
    assert_eq!(together(&mut s, &[text(0), end]), 0);
    s.expect(ack(1, 202)).expect_nothing().read(200);
}

/// What lies behind a hole goes together, what closes it alone.
#[test]
fn text_behind_a_hole_is_one_segment() {
    let mut s = client(WIDE);
    let behind: Vec<_> = (2..6).map(|n| data(1 + n * 100, 1, 100)).collect();
    assert_eq!(together(&mut s, &behind), 3);
    s.expect(ack(1, 1).sack(&[(201, 601)])).expect_nothing();
    let burst = [data(601, 1, 100), data(701, 1, 100), data(1, 1, 100), data(101, 1, 100)];
    assert_eq!(together(&mut s, &burst), 1);
    s.expect(ack(1, 801)).expect_nothing().read(800);
    // Some of it is here already: reported as a duplicate, as it would be alone.
    s.inject(data(1_001, 1, 100)).expect(ack(1, 801).sack(&[(1_001, 1_101)]));
    assert_eq!(together(&mut s, &[data(901, 1, 100), data(1_001, 1, 100)]), 1);
    let told = ack(1, 801).sack(&[(1_001, 1_101), (901, 1_101)]);
    let out = s.take_all();
    assert_eq!(out.len(), 1);
    let edge = 801 + s.window_of(&out[0]);
    assert_eq!((&out[0].sack, out[0].ack), (&told.sack, told.ack));
    // Never beyond the window.
    assert_eq!(together(&mut s, &[data(edge - 100, 1, 100), data(edge, 1, 100)]), 0);
}

/// RFC 5681 §4.2: a peer without SACK counts them, three are a loss. What fills the hole in the same burst leaves
/// nothing to count.
#[test]
fn each_segment_behind_a_hole_has_its_duplicate_without_sack() {
    let mut s = client(NO_SACK);
    let behind: Vec<_> = (1..5).map(|n| data(1 + n * 100, 1, 100)).collect();
    together(&mut s, &behind);
    for _ in 0..4 {
        s.expect(ack(1, 1));
    }
    s.expect_nothing();
    together(&mut s, &[data(601, 1, 100), data(701, 1, 100), data(1, 1, 100)]);
    s.expect(ack(1, 501)).expect_nothing();
    // Behind what is acknowledged with them, the first of them is none.
    together(
        &mut s,
        &[data(501, 1, 100), data(901, 1, 100), data(1_001, 1, 100), data(1_101, 1, 100)],
    );
    for _ in 0..4 {
        s.expect(ack(1, 801));
    }
    s.expect_nothing();
}

/// RFC 9293 §3.10.7.4, SND.WL1: an older segment than the last of a run says nothing about the window.
#[test]
fn the_last_of_a_run_has_the_newest_window() {
    let mut s = client(WIDE);
    let burst = [data(101, 1, 100), data(201, 1, 100), ack(1, 1), ack(151, 1).window(10)];
    assert_eq!(together(&mut s, &burst), 1);
    assert_eq!(s.write(20 * FULL).take_all().iter().filter(|seg| seg.len == FULL).count(), 10);
}

/// The last says all, and the window grows as if each had come alone.
#[test]
fn acknowledgements_are_one_and_all_of_them_count() {
    for segments in [1, 2, 5] {
        let (mut one, mut all) = (client(WIDE), client(WIDE));
        for s in [&mut one, &mut all] {
            s.write(80 * FULL);
            assert_eq!(s.take_all().len(), 10);
            s.at(200);
        }
        let acks: Vec<_> = (1..=10 / segments).map(|n| ack(1, at(n * segments))).collect();
        one.inject_singly(&acks);
        assert_eq!(together(&mut all, &acks), u64::from(10 / segments - 1));
        assert_eq!(cwnd(&all), 20 * MSS);
        assert_eq!((cwnd(&one), one.take_all()), (cwnd(&all), all.take_all()));
    }
}

/// More than eight segments at once do not grow the window by more; two acknowledgements of ten do.
#[test]
fn the_limit_of_growth_is_one_of_each_acknowledgement() {
    let grown = |acks: &[Seg]| {
        let mut s = client(WIDE);
        s.write(80 * FULL).take_all();
        s.at(200).inject_burst(&[ack(1, at(5)), ack(1, at(10))]);
        assert_eq!((cwnd(&s), s.take_all().len()), (20 * MSS, 20));
        s.at(300).inject_burst(acks);
        cwnd(&s) - 20 * MSS
    };
    assert_eq!(grown(&[ack(1, at(30))]), 8 * MSS);
    assert_eq!(grown(&[ack(1, at(20)), ack(1, at(30))]), 16 * MSS);
    assert_eq!(grown(&[ack(1, at(19)), ack(1, at(20))]), 9 * MSS);
    assert_eq!(grown(&[ack(1, at(11)), ack(1, at(20))]), 9 * MSS);
    // What acknowledges nothing more is no other one.
    assert_eq!(grown(&[data(1, at(20), 10), data(11, at(20), 10)]), 8 * MSS);
}

/// RFC 5681 §3.2: the third duplicate is a loss, in one burst or in three.
#[test]
fn duplicates_are_counted_one_by_one() {
    let mut s = client(NO_SACK);
    s.write(10 * FULL).take_all();
    s.at(200);
    assert_eq!(together(&mut s, &[ack(1, at(1)), ack(1, at(2))]), 1);
    let sent = s.take_all().len();
    assert_eq!(together(&mut s, &[ack(1, at(2)), ack(1, at(2)), ack(1, at(2))]), 0);
    let again = s.take_all();
    assert!(sent <= 2 && again.iter().any(|seg| seg.seq == at(2)), "{again:?}");
    // While it is repaired every acknowledgement is looked at.
    assert_eq!(together(&mut s, &[ack(1, at(3)), ack(1, at(4))]), 0);
}

#[test]
fn selective_acknowledgements_go_alone() {
    let mut s = client(WIDE);
    s.write(10 * FULL).take_all();
    s.at(200);
    let sack = |n: u32| ack(1, at(1)).sack(&[(at(2), at(3 + n))]);
    assert_eq!(together(&mut s, &[ack(1, at(1)), sack(0), sack(1), sack(2)]), 0);
    assert_eq!(s.take_all().first().map(|seg| seg.seq), Some(at(1)));
}

/// A window update has no news for the engine but the window, and is no duplicate.
#[test]
fn a_window_update_goes_alone() {
    let mut s = client(WIDE);
    s.write(2 * FULL).take_all();
    let burst = [ack(1, at(1)), ack(1, at(1)).window(60_000), ack(1, at(2)).window(50_000)];
    assert_eq!(together(s.at(200), &burst), 0);
    assert_eq!(s.stack.info(s.id()).unwrap().subflows[0].tcp.retransmits, 0);
}

/// Two connections whose packets alternate.
#[test]
fn flows_may_alternate() {
    let mut s = Script::new(newreno);
    s.listen().peer_opens();
    s.add_leg("10.0.0.1:80", "10.0.0.2:4001", Peer::default()).peer_opens();
    let burst: Vec<_> = (0..6)
        .map(|n| {
            let seg = data(1 + n / 2 * 10, 1, 10);
            let packet = s.on(n as usize % 2).packet(&seg);
            mptcp_core::buf::HeapBuf::from_slice(&packet)
        })
        .collect();
    s.stack.handle_burst(s.now, &mut { burst });
    s.flush();
    assert_eq!(coalesced(&s), 4);
    for leg in 0..2 {
        s.on(leg).read(30);
    }
}

/// What a peer may do next, from where it is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Text(usize),
    Acknowledge(u32),
    TextWithAck(usize, u32),
    /// Leaves out so many octets.
    Skip(u32),
    /// Goes back by as many.
    Back(u32),
    Repeat,
    Window(u16),
    Marked(usize),
    Flagged(u8, usize),
    Sack(u32),
    Fin,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1_usize..1_461).prop_map(Step::Text),
        8 => (1_u32..6).prop_map(Step::Acknowledge),
        1 => (8_u32..12).prop_map(Step::Acknowledge),
        6 => (1_usize..1_461, 0_u32..4).prop_map(|(len, n)| Step::TextWithAck(len, n)),
        3 => (1_u32..3_000).prop_map(Step::Skip),
        2 => (1_u32..3_000).prop_map(Step::Back),
        2 => Just(Step::Repeat),
        2 => (100_u16..65_535).prop_map(Step::Window),
        1 => (1_usize..1_461).prop_map(Step::Marked),
        1 => (prop_oneof![Just(0x08_u8), Just(0x20), Just(0x40), Just(0x80)], 1_usize..100)
            .prop_map(|(flag, len)| Step::Flagged(flag, len)),
        1 => (1_u32..5).prop_map(Step::Sack),
        1 => Just(Step::Fin),
    ]
}

/// Where a peer is.
struct Place {
    next: u32,
    acked: u32,
    /// Acknowledged at most: what was sent.
    sent: u32,
    window: u16,
    ended: bool,
}

impl Place {
    fn segment(&mut self, step: Step) -> Option<Seg> {
        if self.ended {
            return None;
        }
        let mut acknowledge = |n: u32| self.acked = (self.acked + n * MSS).min(self.sent);
        let (len, flags) = match step {
            Step::Text(len) | Step::Marked(len) => (len, TcpFlags::ACK),
            Step::TextWithAck(len, n) => {
                acknowledge(n);
                (len, TcpFlags::ACK)
            }
            Step::Acknowledge(n) => {
                acknowledge(n);
                (0, TcpFlags::ACK)
            }
            Step::Skip(octets) => {
                self.next += octets;
                return None;
            }
            Step::Back(octets) => {
                self.next = self.next.saturating_sub(octets).max(1);
                return None;
            }
            Step::Window(window) => {
                self.window = window;
                (0, TcpFlags::ACK)
            }
            Step::Repeat => (0, TcpFlags::ACK),
            Step::Flagged(flag, len) => (len, TcpFlags::ACK | TcpFlags::from_bits_retain(flag)),
            Step::Sack(_) => (0, TcpFlags::ACK),
            Step::Fin => (0, TcpFlags::ACK | TcpFlags::FIN),
        };
        let mut seg = data(self.next, self.acked, len).flags(flags).window(self.window);
        self.next += len as u32;
        match step {
            Step::Marked(_) => seg = seg.ecn(ECN_CE),
            Step::Sack(n) if self.acked + (n + 1) * MSS <= self.sent => {
                seg = seg.sack(&[(self.acked + n * MSS, self.acked + (n + 1) * MSS)]);
            }
            Step::Fin => self.ended = true,
            _ => {}
        }
        Some(seg)
    }
}

fn read_all(s: &mut Script) -> Vec<usize> {
    core::iter::from_fn(|| s.read_some(100_000).ok().filter(|&n| n > 0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// The same segments give the same octets, acknowledgements and repairs, byte by byte, whether
    /// they come as bursts or one by one. No time passes: of several round trips measured at once a burst
    /// knows the last, so timers may differ.
    #[test]
    fn bursts_and_single_packets_come_to_the_same(
        sack in any::<bool>(),
        ts in any::<bool>(),
        bursts in proptest::collection::vec(proptest::collection::vec(step(), 1..20), 1..20),
    ) {
        let peer = Peer { sack, ts, ..WIDE };
        let (mut one, mut all) = (client(peer), client(peer));
        let mut place = Place { next: 1, acked: 1, sent: 1, window: 65_535, ended: false };
        for s in [&mut one, &mut all] {
            s.write(200 * FULL);
        }
        for steps in bursts {
            let sent = all.take_all();
            prop_assert_eq!(&one.take_all(), &sent);
            for seg in &sent {
                place.sent = place.sent.max(seg.seq + seg.len as u32);
            }
            prop_assert_eq!(cwnd(&one), cwnd(&all));
            let segs: Vec<_> = steps.iter().filter_map(|step| place.segment(*step)).collect();
            one.inject_singly(&segs);
            all.inject_burst(&segs);
            prop_assert_eq!(one.state(), all.state());
            let read = read_all(&mut all);
            prop_assert_eq!(read_all(&mut one).iter().sum::<usize>(), read.iter().sum::<usize>());
        }
        prop_assert_eq!(one.take_all(), all.take_all());
        prop_assert_eq!(coalesced(&one), 0);
    }
}
