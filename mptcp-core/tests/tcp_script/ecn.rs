//! Explicit congestion notification (RFC 3168 §6.1), both roles.

use crate::harness::{Peer, Script, Seg, ack, data, fin, syn, syn_ack};
use mptcp_core::config::{CongestionAlgorithm, EcnPolicy, StackConfig};
use mptcp_core::wire::{ECN_CE, ECN_ECT0, TcpFlags};

const MSS: u32 = 1460;
const FULL: usize = MSS as usize;
const WIDE: Peer = Peer { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 65_535 };
const ASKS: TcpFlags = TcpFlags::SYN.union(TcpFlags::ECE).union(TcpFlags::CWR);
const GRANTS: TcpFlags = TcpFlags::SYN.union(TcpFlags::ACK).union(TcpFlags::ECE);

fn echo(seg: Seg) -> Seg {
    let flags = seg.flags | TcpFlags::ECE;
    seg.flags(flags)
}

fn cwr(seg: Seg) -> Seg {
    let flags = seg.flags | TcpFlags::CWR;
    seg.flags(flags)
}

/// Markable.
fn ect(seg: Seg) -> Seg {
    seg.ecn(ECN_ECT0)
}

fn marked(seg: Seg) -> Seg {
    seg.ecn(ECN_CE)
}

fn at(n: u32) -> u32 {
    1 + n * MSS
}

fn cwnd(s: &Script) -> u32 {
    s.stack.info(s.id()).unwrap().subflows[0].cwnd
}

fn reductions(s: &Script) -> u64 {
    s.stack.counters().tcp_ecn_reduced
}

/// A client that asks, with its SYN out.
fn asking() -> Script {
    let mut s = Script::new(|config| {
        config.tcp.ecn = EcnPolicy::Request;
        config.tcp.congestion = CongestionAlgorithm::NewReno;
    });
    s.leg().offer = WIDE;
    s.leg().local.set_port(5000);
    s.connect().expect(syn().flags(ASKS));
    s
}

/// Answers the SYN with `flags`.
fn answered(mut s: Script, flags: TcpFlags) -> Script {
    let answer = Seg { flags, ack: 1, ..s.peer_syn() };
    s.inject(answer).expect(ack(1, 1));
    s
}

/// A client that asked and was answered after 100 ms.
fn client() -> Script {
    let mut s = asking();
    s.at(100);
    answered(s, GRANTS)
}

/// A listener whose SYN/ACK to a SYN with `flags` is `answer`, and the connection.
fn served(change: impl FnOnce(&mut StackConfig), flags: TcpFlags, answer: TcpFlags) -> Script {
    let mut s = Script::new(change);
    s.leg().offer = WIDE;
    s.listen();
    let opening = s.peer_syn().flags(flags);
    s.inject(opening).expect(syn_ack().flags(answer));
    s.inject(ack(1, 1)).expect_nothing().accept();
    s
}

fn server() -> Script {
    served(|_| {}, ASKS, GRANTS)
}

/// Neither sends markable data nor echoes marks.
fn assert_not_used(mut s: Script) {
    s.write(100).expect(data(1, 1, 100)).inject(echo(ack(1, 101)));
    s.inject(marked(data(1, 101, 100))).expect(ack(101, 101));
    let counters = s.stack.counters();
    assert_eq!((counters.tcp_ecn_estab, counters.tcp_ecn_echo_recv, reductions(&s)), (0, 0, 0));
    assert_eq!(counters.in_ce_pkts, 1);
}

#[test]
fn a_client_asks_and_uses_what_is_granted() {
    let mut s = client();
    s.write(100).expect(ect(data(1, 1, 100)));
    assert_eq!(s.stack.counters().tcp_ecn_estab, 1);
}

#[test]
fn a_client_does_not_ask_unless_told() {
    let mut s = Script::new(|_| {});
    s.connect().expect(syn());
    assert_not_used(answered(s, GRANTS));
}

#[test]
fn a_syn_ack_that_does_not_grant_leaves_ecn_out() {
    let plain = TcpFlags::SYN | TcpFlags::ACK;
    // With both bits it is our own SYN reflected.
    for flags in [plain, plain | TcpFlags::CWR, GRANTS | TcpFlags::CWR] {
        assert_not_used(answered(asking(), flags));
    }
}

#[test]
fn a_listener_grants_what_is_asked_for() {
    let mut s = server();
    s.write(100).expect(ect(data(1, 1, 100)));
    assert_eq!(s.stack.counters().tcp_ecn_estab, 1);
}

#[test]
fn a_listener_grants_nothing_else() {
    let plain = TcpFlags::SYN | TcpFlags::ACK;
    for flags in [TcpFlags::SYN, TcpFlags::SYN | TcpFlags::ECE, TcpFlags::SYN | TcpFlags::CWR] {
        assert_not_used(served(|_| {}, flags, plain));
    }
    assert_not_used(served(|config| config.tcp.ecn = EcnPolicy::Off, ASKS, plain));
    assert_not_used(served(|config| config.limits.half_open = 0, ASKS, plain));
}

/// RFC 3168 §6.1.1.1. The first SYN may have been answered all the same: who sent one without ECN
/// sends nothing markable, but the peer may, so marks are echoed.
#[test]
fn a_repeated_syn_leaves_ecn_out() {
    let mut s = asking();
    s.until(1_000).expect(syn());
    assert_not_used(answered(s, TcpFlags::SYN | TcpFlags::ACK));
    let mut s = asking();
    s.until(1_000).expect(syn());
    let mut s = answered(s, GRANTS);
    s.write(100).expect(data(1, 1, 100));
    s.inject(marked(data(1, 101, 100))).expect(echo(ack(101, 101)));
    assert_eq!(s.stack.counters().tcp_ecn_estab, 0);
}

#[test]
fn a_syn_repeated_without_ecn_takes_it_back() {
    let mut s = Script::new(|_| {});
    s.listen();
    let opening = s.peer_syn();
    s.inject(opening.clone().flags(ASKS)).expect(syn_ack().flags(GRANTS));
    // The same again is granted again.
    s.inject(opening.clone().flags(ASKS)).expect(syn_ack().flags(GRANTS));
    s.until(1_000).expect(syn_ack().flags(GRANTS));
    s.inject(opening).expect(syn_ack()).inject(ack(1, 1)).accept();
    assert_not_used(s);
}

#[test]
fn crossing_syns_use_no_ecn() {
    let mut s = asking();
    let crossing = s.peer_syn();
    s.inject(crossing.flags(ASKS)).expect(syn_ack());
    s.inject(syn_ack().flags(GRANTS)).expect_nothing();
    assert_not_used(s);
}

#[test]
fn a_mark_is_echoed_until_the_sender_has_heard() {
    let mut s = server();
    s.inject(ect(data(1, 1, 100))).expect(ack(1, 101));
    s.inject(marked(data(101, 1, 100))).expect(echo(ack(1, 201)));
    s.inject(ect(data(201, 1, 100))).expect(echo(ack(1, 301)));
    // Data acknowledges too.
    s.write(50).expect(echo(ect(data(1, 301, 50))));
    s.inject(cwr(ect(data(301, 51, 100)))).expect(ack(51, 401));
    s.inject(ect(data(401, 51, 100))).expect(ack(51, 501));
    // Heard, and marked anew on the same way.
    s.inject(marked(data(501, 51, 100))).expect(echo(ack(51, 601)));
    s.inject(cwr(marked(data(601, 51, 100)))).expect(echo(ack(51, 701)));
    assert_eq!(s.stack.counters().in_ce_pkts, 3);
}

/// The sooner the sender knows, the less the queue grows.
#[test]
fn a_mark_does_not_wait_for_the_delayed_acknowledgement() {
    let mut s = server();
    let mut seq = 1;
    while s.inject(ect(data(seq, 1, 10))).take_all().len() == 1 {
        seq += 10;
    }
    s.inject(ect(data(seq + 10, 1, 10))).expect(ack(1, seq + 20));
    s.inject(marked(data(seq + 20, 1, 10))).expect(echo(ack(1, seq + 30)));
}

/// RFC 3168 §6.1.4, §6.1.5: whoever makes packets up must not slow the sender down.
#[test]
fn a_mark_on_anything_but_data_in_the_window_is_ignored() {
    let mut s = server();
    s.inject(marked(ack(1, 1))).expect_nothing();
    s.inject(marked(data(0x4000_0000, 1, 100))).expect(ack(1, 1));
    s.inject(ect(data(1, 1, 100))).expect(ack(1, 101));
    s.inject(marked(data(1, 1, 100))).expect(ack(1, 101).sack(&[(1, 101)]));
    // Nor does a CWR without data say that the echo was heard.
    s.inject(marked(data(101, 1, 100))).expect(echo(ack(1, 201)));
    s.inject(cwr(ack(201, 1))).expect_nothing();
    s.inject(data(201, 1, 100)).expect(echo(ack(1, 301)));
}

#[test]
fn bleached_data_is_data() {
    let mut s = server();
    s.inject(data(1, 1, 100)).expect(ack(1, 101)).read(100);
    assert_eq!(s.stack.counters().in_ce_pkts, 0);
}

#[test]
fn an_echo_halves_the_window_once_per_window() {
    let mut s = client();
    s.write(40 * FULL);
    for n in 0..10 {
        s.expect(ect(data(at(n), 1, FULL)));
    }
    s.at(200).inject(echo(ack(1, at(1)))).expect_nothing();
    assert_eq!((cwnd(&s), reductions(&s)), (5 * MSS, 1));
    for n in 2..=5 {
        s.inject(echo(ack(1, at(n)))).expect_nothing();
    }
    // The first new segment says so, the next ones do not.
    s.inject(echo(ack(1, at(6)))).expect(cwr(ect(data(at(10), 1, FULL))));
    s.inject(echo(ack(1, at(7)))).expect(ect(data(at(11), 1, FULL)));
    for n in 8..=10 {
        s.inject(echo(ack(1, at(n)))).expect(ect(data(at(n + 4), 1, FULL)));
    }
    // All that was in flight is acknowledged, and the echo is of the same mark: the window did not
    // grow by these either.
    assert_eq!((cwnd(&s), reductions(&s)), (5 * MSS, 1));
    // What the peer says after the CWR is new.
    s.inject(echo(ack(1, at(11)))).expect_nothing();
    assert_eq!((cwnd(&s), reductions(&s)), (5 * MSS / 2, 2));
    assert_eq!(s.stack.counters().retrans_segs, 0);
}

#[test]
fn the_cwr_waits_for_new_data() {
    let mut s = client();
    s.write(100).expect(ect(data(1, 1, 100))).inject(echo(ack(1, 101))).expect_nothing();
    assert_eq!(reductions(&s), 1);
    s.inject(data(1, 101, 10)).expect(ack(101, 11));
    s.write(100).expect(cwr(ect(data(101, 11, 100))));
    s.inject(ack(11, 201)).write(100).expect(ect(data(201, 11, 100)));
    // Nothing is in flight that could have been marked.
    s.inject(ack(11, 301)).inject(echo(ack(11, 301)));
    assert_eq!(reductions(&s), 1);
}

/// RFC 3168 §6.1.2: the CWR answers losses too, and echoes of the same window change nothing.
#[test]
fn a_loss_is_answered_for_both() {
    let mut s = client();
    s.write(40 * FULL);
    for n in 0..10 {
        s.expect(ect(data(at(n), 1, FULL)));
    }
    // The first is lost: retransmitted it is not markable and says nothing.
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(4))])).expect(data(1, 1, FULL));
    let mut fresh = Vec::new();
    for n in 5..=10 {
        s.inject(echo(ack(1, 1).sack(&[(at(1), at(n))])));
        fresh.extend(s.take_all());
    }
    s.inject(echo(ack(1, at(10))));
    fresh.extend(s.take_all());
    assert_eq!(reductions(&s), 0);
    assert_eq!(fresh[0].flags, TcpFlags::ACK | TcpFlags::CWR);
    assert!(fresh.iter().all(|seg| seg.ecn == ECN_ECT0), "{fresh:?}");
    assert!(fresh[1..].iter().all(|seg| seg.flags == TcpFlags::ACK), "{fresh:?}");
    assert_eq!(cwnd(&s), 5 * MSS);
}

#[test]
fn a_loss_in_a_window_already_reduced_repairs_only() {
    let mut s = client();
    s.write(40 * FULL).take_all();
    s.at(200).inject(echo(ack(1, at(1))));
    assert_eq!((cwnd(&s), reductions(&s)), (5 * MSS, 1));
    s.inject(ack(1, at(1)).sack(&[(at(2), at(6))])).expect(data(at(1), 1, FULL)).take_all();
    s.inject(ack(1, at(10))).take_all();
    assert_eq!(s.stack.counters().tcp_sack_recovery, 1);
    // One segment more for the window that is acknowledged now.
    assert_eq!(cwnd(&s), 6 * MSS);
}

#[test]
fn what_is_not_new_data_is_not_markable() {
    let mut s = client();
    s.write(100).expect(ect(data(1, 1, 100)));
    // A probe, then timeouts.
    s.until(400).expect(data(1, 1, 100)).until(700).expect(data(1, 1, 100));
    s.inject(ack(1, 101)).write(10).expect(cwr(ect(data(101, 1, 10))));
    s.inject(ack(1, 111).window(0)).write(10);
    let now = s.ms();
    s.skip_to(now + 10_000);
    s.take_all();
    s.inject(ack(1, 111)).expect(ect(data(111, 1, 10))).inject(ack(1, 121));
    s.shutdown().expect(fin(121, 1));
}
