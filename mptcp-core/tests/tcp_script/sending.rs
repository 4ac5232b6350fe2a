//! The sender: windows, Nagle, silly windows, zero-window probes, keep-alive, the retransmission
//! timeout, tail loss probes, RACK, PRR and NewReno (RFC 9293 §3.7.4, §3.8; RFC 6298; RFC 8985;
//! RFC 6937; RFC 6582; RFC 5681; RFC 6928; RFC 3522).

use crate::harness::{Peer, Script, Seg, ack, data, fin};
use mptcp_core::config::{CongestionAlgorithm, MtuProbing, StackConfig};
use mptcp_core::error::ConnectionError;
use mptcp_core::time::Duration;
use mptcp_core::wire::TcpFlags;

const MSS: u32 = 1460;
const FULL: usize = MSS as usize;
const WIDE: Peer = Peer { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 65_535 };
const NO_SACK: Peer = Peer { sack: false, ..WIDE };

/// A client whose handshake took 100 ms: srtt 100, rttvar 50, rto 300. It is 100 ms.
fn client(peer: Peer) -> Script {
    Script::client(|config| config.tcp.congestion = CongestionAlgorithm::NewReno, peer, 100)
}

/// Sequence number of segment `n`, counted from 0.
fn at(n: u32) -> u32 {
    1 + n * MSS
}

fn expect_full(s: &mut Script, segments: core::ops::Range<u32>) {
    for n in segments {
        s.expect(data(at(n), 1, FULL));
    }
}

fn cwnd(s: &Script) -> u32 {
    s.stack.info(s.id()).unwrap().subflows[0].cwnd
}

fn no_nagle(config: &mut StackConfig) {
    config.tcp.nagle = false;
}

#[test]
fn the_initial_window_is_ten_segments() {
    let mut s = client(WIDE);
    s.write(30 * FULL);
    expect_full(&mut s, 0..10);
    s.expect_nothing();
    // Slow start: one more per segment acknowledged.
    s.at(200).inject(ack(1, at(2)));
    expect_full(&mut s, 10..14);
    s.expect_nothing();
    assert_eq!(cwnd(&s), 12 * MSS);
}

/// Two segments and a half are three.
#[test]
fn a_segment_that_begins_inside_the_congestion_window_goes_whole() {
    let mut s = client(WIDE);
    s.write(5 * FULL);
    expect_full(&mut s, 0..5);
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(5))])).expect(data(at(0), 1, FULL));
    s.at(300).inject(ack(1, at(5))).write(10 * FULL);
    assert_eq!(cwnd(&s), 5 * MSS / 2);
    expect_full(&mut s, 5..8);
    s.expect_nothing();
}

/// The queue of an idle connection is given back, and the next one counts transmissions anew: nothing that it sends
/// was overtaken by what was sent before.
#[test]
fn what_follows_a_pause_was_not_overtaken_by_what_came_before() {
    let mut s = client(WIDE);
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, at(10))).expect_nothing();
    s.at(5_000).expect_nothing().write(5 * FULL);
    expect_full(&mut s, 10..15);
    // The first is overtaken by the second, and by nothing else.
    s.at(5_100).inject(ack(1, at(10)).sack(&[(at(11), at(12))])).expect_nothing();
    s.until(5_125).expect(data(at(10), 1, FULL)).expect_nothing();
    s.at(5_200).inject(ack(1, at(12))).expect_nothing();
    s.at(5_220).inject(ack(1, at(15))).expect_nothing();
    assert_eq!(s.stack.counters().retrans_segs, 1);
}

#[test]
fn the_window_does_not_grow_while_it_is_not_used() {
    let mut s = client(WIDE);
    for n in 0..20 {
        s.write(FULL).expect(data(at(n), 1, FULL)).inject(ack(1, at(n + 1)));
    }
    assert_eq!(cwnd(&s), 10 * MSS);
}

/// A driver hands over many acknowledgements before it lets the stack send: each of them counts.
#[test]
fn every_acknowledgement_of_a_burst_opens_the_window() {
    let mut s = client(WIDE);
    s.write(30 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject_burst(&[ack(1, at(1)), ack(1, at(2))]);
    assert_eq!(cwnd(&s), 12 * MSS);
    expect_full(&mut s, 10..14);
    s.inject_burst(&[ack(1, at(3)), ack(1, at(4)), ack(1, at(6))]);
    assert_eq!(cwnd(&s), 16 * MSS);
}

/// RFC 9406 §4.2: one acknowledgement of everything does not let twice as much out in one burst.
#[test]
fn a_stretched_acknowledgement_opens_the_window_by_eight_segments() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, at(10)));
    assert_eq!(cwnd(&s), 18 * MSS);
}

/// A window that held something back once is not in use for ever.
#[test]
fn a_window_stops_growing_when_the_sender_runs_out_of_data() {
    let mut s = client(WIDE);
    s.write(12 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, at(2)));
    expect_full(&mut s, 10..12);
    s.inject(ack(1, at(4))).inject(ack(1, at(10))).inject(ack(1, at(12)));
    assert_eq!(cwnd(&s), 12 * MSS);
}

#[test]
fn the_peers_window_bounds_what_is_sent() {
    let mut s = client(Peer { window: 0, ..WIDE });
    // 23 * 128 = 2944.
    s.write(10 * FULL).expect_nothing();
    s.inject(ack(1, 1).window(23));
    expect_full(&mut s, 0..2);
    s.expect_nothing();
    // A window that shrinks takes nothing back and lets nothing out.
    s.inject(ack(1, at(1)).window(0)).expect_nothing();
    s.inject(ack(1, at(2)).window(23));
    expect_full(&mut s, 2..4);
}

#[test]
fn a_window_counts_from_the_newest_acknowledgement() {
    let mut s = client(Peer { window: 3, ..WIDE });
    s.inject(ack(1, 1).window(23)).write(10 * FULL);
    expect_full(&mut s, 0..2);
    s.inject(ack(1, at(2)).window(0)).expect_nothing();
    // Later in the peer's stream, but with an acknowledgement overtaken long ago: its edge lies
    // below what was sent.
    s.inject(data(1, 1, 10).window(23)).expect(ack(at(2), 11));
}

/// A peer that is out of memory draws its window in behind what is in flight (Linux since 6.6), and takes nothing from
/// beyond it: what it sends is acknowledged from the edge, and it is reset there.
#[test]
fn acknowledgements_stay_inside_of_a_window_that_was_drawn_in() {
    let mut s = client(WIDE);
    s.write(4 * FULL);
    expect_full(&mut s, 0..4);
    s.inject(ack(1, at(1)).window(0)).expect_nothing();
    s.inject(data(1, at(1), 100).window(0)).expect(ack(at(1), 101));
    s.inject(data(101, at(1), 100).window(2)).expect(ack(at(1) + 256, 201));
    // Less than a unit of 128 octets is rounded off.
    s.inject(data(201, at(1), 100).window(34)).expect(ack(at(4), 301));
    s.inject(ack(301, at(1)).window(0)).abort();
    let reset = s.take();
    assert_eq!((reset.flags, reset.seq), (TcpFlags::RST | TcpFlags::ACK, at(1)));
}

/// The acknowledgement that moves `SND.UNA` brings its own window, however old its place in the peer's
/// stream (`SND.WL1`): the length of a later one, counted from there, would move the right edge further
/// than the peer ever allowed.
#[test]
fn an_overtaken_segment_that_acknowledges_more_brings_its_window() {
    let mut s = client(Peer { window: 0, ..WIDE });
    s.write(10 * FULL).expect_nothing();
    let full = |s: &mut Script| s.take_all().iter().filter(|seg| seg.len == FULL).count();
    s.inject(data(11, 1, 10).window(46));
    assert_eq!(full(&mut s), 4);
    s.inject(data(1, at(2), 10).window(23));
    assert_eq!(full(&mut s), 0);
    s.inject(ack(21, at(4)).window(23));
    assert_eq!(full(&mut s), 2);
}

#[test]
fn nagle_holds_back_a_second_small_segment() {
    let mut s = client(WIDE);
    s.write(100).expect(data(1, 1, 100)).write(100).write(100).expect_nothing();
    s.inject(ack(1, 101)).expect(data(101, 1, 200));
    // Minshall: full segments in flight hold nothing back.
    s.inject(ack(1, 301)).write(FULL + 50).expect(data(301, 1, FULL));
    s.expect(data(301 + MSS, 1, 50)).write(50).expect_nothing();
    // The end of the stream does not wait.
    s.shutdown().expect(fin(351 + MSS, 1).len(50));
}

#[test]
fn without_nagle_everything_goes_at_once() {
    let mut s = Script::client(no_nagle, WIDE, 100);
    for n in 0..5 {
        s.write(10).expect(data(1 + n * 10, 1, 10));
    }
}

#[test]
fn nagle_is_switched_per_connection() {
    let mut s = client(WIDE);
    s.write(10).expect(data(1, 1, 10)).write(10).expect_nothing();
    let id = s.id();
    assert!(s.stack.set_nagle(id, false));
    s.flush().expect(data(11, 1, 10)).write(10).expect(data(21, 1, 10));
    assert!(s.stack.set_nagle(id, true));
    s.write(10).expect_nothing();
}

#[test]
fn an_empty_buffer_is_no_data() {
    let mut s = client(WIDE);
    let id = s.id();
    assert!(s.stack.send_buf(id, mptcp_core::buf::HeapBuf::from_slice(&[])).is_ok());
    s.shutdown().expect(fin(1, 1));
}

#[test]
fn the_push_flag_ends_what_was_written() {
    let mut s = client(WIDE);
    s.write(2 * FULL);
    let pushed = |s: &mut Script| s.take_with_header().1.flags.contains(TcpFlags::PSH);
    assert!(!pushed(&mut s));
    assert!(pushed(&mut s));
}

#[test]
fn slivers_of_window_are_not_used_until_the_override_timeout() {
    let mut s = client(Peer { window: 3, ..WIDE });
    s.inject(ack(1, 1).window(46)).inject(ack(1, 1).window(2)).write(5 * FULL).expect_nothing();
    // 256 octets: less than a segment and less than half of 46 * 128.
    s.until(400).expect(data(1, 1, 256)).expect_nothing();
    s.inject(ack(1, 257).window(12)).expect(data(257, 1, FULL)).expect_nothing();
}

#[test]
fn a_small_receiver_is_served_all_the_same() {
    // The largest window ever is one unit: half of it is enough.
    let mut s = client(Peer { window: 100, wscale: None, ..WIDE });
    s.write(250).expect(data(1, 1, 100)).inject(ack(1, 101)).expect(data(101, 1, 100));
    s.inject(ack(1, 201).window(50)).expect(data(201, 1, 50));
}

#[test]
fn a_shut_window_is_probed_with_back_off_for_as_long_as_the_peer_answers() {
    let mut s = client(WIDE);
    s.inject(ack(1, 1).window(0)).write(500).expect_nothing();
    let mut ms = 100;
    for n in 0..30 {
        ms += (300_u64 << n.min(10)).min(60_000);
        s.until(ms).expect(ack(0, 1));
        ms = s.ms();
        s.inject(ack(1, 1).window(0)).expect_nothing();
    }
    assert_eq!(s.stack.counters().tcp_win_probe, 30);
    s.inject(ack(1, 1).window(4)).expect(data(1, 1, 500));
    // Open again: the back-off starts anew.
    s.inject(ack(1, 501).window(0)).write(10).expect_nothing();
    let ms = s.ms();
    s.skip_to(ms + 1_500);
    assert_eq!(s.stack.counters().tcp_win_probe, 32);
}

#[test]
fn a_silent_peer_with_a_shut_window_is_given_up() {
    let mut s = Script::client(|config| config.tcp.retries = 3, WIDE, 100);
    s.inject(ack(1, 1).window(0)).write(500);
    s.until(400).expect(ack(0, 1)).until(1_000).expect(ack(0, 1)).until(2_200).expect(ack(0, 1));
    s.until(4_600);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
}

/// Data in flight that the peer answers for but does not take (RFC 9293 §3.8.6.1): it is given up when
/// the answers end, not before.
#[test]
fn a_peer_that_shuts_its_window_on_data_in_flight_is_not_given_up() {
    let mut s = Script::client(|config| config.tcp.retries = 3, NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100));
    let (mut ms, mut rto) = (100, 300);
    for _ in 0..8 {
        ms += rto;
        s.until(ms).expect(data(1, 1, 100)).inject(ack(1, 1).window(0)).expect_nothing();
        (ms, rto) = (s.ms(), (2 * rto).min(120_000));
    }
    for _ in 0..3 {
        ms += rto;
        s.until(ms).expect(data(1, 1, 100));
        (ms, rto) = (s.ms(), (2 * rto).min(120_000));
    }
    s.until(ms + rto);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
}

/// Nor is it once the window is open again, for the timeouts that there were while it was shut: those after it
/// count. What was refused goes at once then, not after the minutes that the timeout has come to.
#[test]
fn a_peer_that_opens_its_window_on_data_in_flight_is_not_given_up() {
    let mut s = Script::client(|config| config.tcp.retries = 3, NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100));
    let (mut ms, mut rto) = (100, 300);
    for n in 0..11 {
        ms += rto;
        s.until(ms).expect(data(1, 1, 100));
        if n < 8 {
            s.inject(ack(1, 1).window(0)).expect_nothing();
        }
        (ms, rto) = (s.ms(), (2 * rto).min(120_000));
        if n == 7 {
            // What is in flight meets the open window, until it could have been answered.
            s.inject(ack(1, 1).window(4)).inject(ack(1, 1).window(0)).expect_nothing();
            ms += 101;
            s.at(ms).inject(ack(1, 1).window(4)).expect(data(1, 1, 100));
            rto = 300;
        }
    }
    s.until(ms + rto);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
}

/// What the peer would not take waits for room in its window, not for another timeout.
#[test]
fn what_lies_beyond_a_window_that_was_drawn_in_is_not_repeated() {
    let mut s = client(NO_SACK);
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, 1).window(23)).until(400);
    expect_full(&mut s, 0..1);
    // 23 * 128 = 2944: two more, both in the window.
    s.at(500).inject(ack(1, at(1)).window(23));
    expect_full(&mut s, 1..3);
    // Now the congestion window has room for four.
    s.at(600).inject(ack(1, at(3)).window(0));
    expect_full(&mut s, 3..4);
    s.at(650).expect_nothing();
    // The one that asked was refused.
    s.at(700).inject(ack(1, at(3)).window(100));
    expect_full(&mut s, 3..7);
    s.expect_nothing();
}

/// A half-closed connection whose peer vanished has nothing to send that would find out.
#[test]
fn keep_alive_probes_in_fin_wait_2() {
    let change = |config: &mut StackConfig| config.tcp.keep_alive = Some(Duration::from_secs(100));
    let mut s = Script::server(change, Peer::default());
    s.shutdown().expect(fin(1, 1)).inject(ack(1, 2));
    s.until(100_000).expect(ack(1, 1)).inject(ack(1, 2)).expect_nothing();
    s.skip_to(1_000_000);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
}

/// RFC 9293 §3.8.4 (MUST-24, MUST-25): off unless asked for, per connection.
#[test]
fn keep_alive_is_switched_per_connection() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.at(8_000_000).expect_nothing();
    let id = s.id();
    assert!(s.stack.set_keep_alive(s.now, id, true));
    s.until(8_000_000).expect(ack(0, 1)).inject(ack(1, 1)).until(15_200_000).expect(ack(0, 1));
    s.inject(ack(1, 1));
    assert!(s.stack.set_keep_alive(s.now, id, false));
    s.at(40_000_000).expect_nothing();
}

#[test]
fn keep_alive_probes_an_idle_peer_and_gives_up() {
    let change = |config: &mut StackConfig| {
        config.tcp.keep_alive = Some(Duration::from_secs(100));
        config.tcp.keep_alive_probes = 2;
    };
    let mut s = Script::server(change, Peer::default());
    s.until(100_000).expect(ack(0, 1)).inject(ack(1, 1)).expect_nothing();
    s.until(200_000).expect(ack(0, 1)).until(275_000).expect(ack(0, 1));
    s.until(350_000);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
    assert_eq!(s.stack.counters().tcp_keep_alive, 3);
}

#[test]
fn a_keep_alive_probe_is_answered() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(ack(0, 1)).expect(ack(1, 1));
    // The kind with an octet of garbage, too.
    s.inject(data(0, 1, 1)).expect(ack(1, 1).sack(&[(0, 1)]));
}

// Timeouts.

#[test]
fn the_timeout_doubles_and_the_connection_is_given_up() {
    let mut s = Script::client(|config| config.tcp.retries = 4, NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100));
    for ms in [400, 1_000, 2_200, 4_600] {
        s.until(ms).expect(data(1, 1, 100));
    }
    s.until(9_400);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
    assert_eq!(s.stack.counters().tcp_timeouts, 5);
}

/// RFC 6298 §5.7 (Karn): what acknowledges a retransmission says nothing about the round trip, and the
/// timeout stays doubled until something does.
#[test]
fn the_back_off_stays_until_a_round_trip_is_measured() {
    let mut s = client(NO_SACK);
    s.write(100).expect(data(1, 1, 100));
    s.until(400).expect(data(1, 1, 100)).until(1_000).expect(data(1, 1, 100));
    s.at(1_100).inject(ack(1, 101)).write(100).expect(data(101, 1, 100));
    s.until(2_300).expect(data(101, 1, 100));
    // Sent once, acknowledged: measured. rttvar = 3/4 * 50 + 1/4 * 0, rto 100 + 4 * 37.5 = 250.
    s.at(2_400).inject(ack(1, 201)).write(100).expect(data(201, 1, 100));
    s.at(2_500).inject(ack(1, 301)).write(100).expect(data(301, 1, 100));
    s.until(2_750).expect(data(301, 1, 100));
}

/// Nothing that is sent again is measured, but a repair that goes on ends the back-off step by step: a
/// second loss in a large window must not wait for what the first came to.
#[test]
fn each_round_trip_of_a_repair_takes_a_doubling_back() {
    // The same whatever the length of what is repeated.
    let off = |config: &mut StackConfig| {
        config.tcp.congestion = CongestionAlgorithm::NewReno;
        config.tcp.mtu_probing = MtuProbing::Off;
    };
    let mut s = Script::client(off, NO_SACK, 100);
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    for ms in [400, 1_000, 2_200] {
        s.until(ms);
        expect_full(&mut s, 0..1);
    }
    // Doubled three times, 2,400 ms: what comes first may be the answer to any of the copies.
    s.at(2_300).inject(ack(1, at(1)));
    expect_full(&mut s, 1..3);
    // Too early for a round trip: the first copies were only late.
    s.at(2_301).inject(ack(1, at(2)));
    expect_full(&mut s, 3..5);
    s.at(2_400).inject(ack(1, at(3)));
    expect_full(&mut s, 5..7);
    // A round trip: 1,200 ms from here.
    s.until(3_600);
    expect_full(&mut s, 3..4);
}

/// The acknowledgement of the first retransmission after the second: the first timeout was right.
#[test]
fn a_second_timeout_does_not_make_the_first_look_spurious() {
    // The same whatever the length of what is repeated.
    let off = |config: &mut StackConfig| {
        config.tcp.congestion = CongestionAlgorithm::NewReno;
        config.tcp.mtu_probing = MtuProbing::Off;
    };
    let mut s = Script::client(off, Peer { ts: true, sack: false, ..WIDE }, 100);
    s.write(10 * 1448);
    assert_eq!(s.take_all().len(), 10);
    s.until(400).expect(data(1, 1, 1448));
    let first = s.leg().tsval;
    s.until(1_000).expect(data(1, 1, 1448));
    let clock = s.peer_clock();
    s.at(1_010).inject(ack(1, 1449).ts(clock, first));
    assert_eq!(s.stack.counters().tcp_undo, 0);
    assert!(cwnd(&s) <= 2 * 1448, "{}", cwnd(&s));
}

/// RFC 8985 §6.3: a timeout says nothing about what was sent a moment ago.
#[test]
fn a_timeout_leaves_alone_what_was_just_sent() {
    let mut s = client(WIDE);
    s.write(2 * FULL);
    expect_full(&mut s, 0..2);
    s.at(200).inject(ack(1, at(1)));
    // The probe, 250 ms later, and its loss.
    s.until(450);
    expect_full(&mut s, 1..2);
    s.at(699).write(FULL);
    expect_full(&mut s, 2..3);
    s.until(700);
    expect_full(&mut s, 1..2);
    s.expect_nothing();
    assert_eq!((s.stack.counters().tcp_timeouts, cwnd(&s)), (1, 2 * MSS));
    s.at(790).inject(ack(1, at(2))).expect_nothing();
    s.inject(ack(1, at(3))).expect_nothing();
    assert_eq!(s.stack.counters().retrans_segs, 2);
}

#[test]
fn every_acknowledgement_of_new_data_restarts_the_timeout() {
    let mut s = client(NO_SACK);
    s.write(2 * FULL);
    expect_full(&mut s, 0..2);
    s.at(250).inject(ack(1, at(1)));
    // rttvar = 3/4 * 50 + 1/4 * 50; srtt = 7/8 * 100 + 1/8 * 150 = 106.25: 306.25 ms later.
    s.until(556).expect(data(at(1), 1, FULL));
}

#[test]
fn after_a_timeout_one_segment_goes_and_slow_start_follows() {
    let mut s = client(NO_SACK);
    s.write(20 * FULL);
    expect_full(&mut s, 0..10);
    s.until(400);
    expect_full(&mut s, 0..1);
    s.expect_nothing();
    assert_eq!(cwnd(&s), MSS);
    s.at(500).inject(ack(1, at(1)));
    expect_full(&mut s, 1..3);
    s.inject(ack(1, at(2)));
    expect_full(&mut s, 3..5);
    // The rest had arrived: new data at once.
    s.inject(ack(1, at(10)));
    assert_eq!(s.take().seq, at(10));
}

#[test]
fn a_spurious_timeout_is_undone_by_timestamps() {
    let mut s = client(Peer { ts: true, sack: false, ..WIDE });
    let mss = 1448;
    s.write(10 * mss);
    let sent = s.leg().tsval;
    assert_eq!((s.take_all().len(), cwnd(&s)), (10, 10 * mss as u32));
    s.until(400).expect(data(1, 1, mss));
    // The acknowledgement of the original arrives after all.
    let clock = s.peer_clock();
    s.at(410).inject(ack(1, 1 + mss as u32).ts(clock, sent));
    assert_eq!((s.stack.counters().tcp_undo, cwnd(&s) >= 10 * mss as u32), (1, true));
    s.expect_nothing();
}

/// The way back was dead for a while: what a timeout sends again is answered with all that had arrived before, which did not
/// take one round trip.
#[test]
fn what_a_timeout_repairs_shows_no_rate() {
    let change = |config: &mut StackConfig| config.tcp.congestion = CongestionAlgorithm::Bbr;
    let mut s = Script::client(change, WIDE, 100);
    let rate = |s: &Script| s.stack.info(s.id()).unwrap().subflows[0].tcp.delivery_rate;
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, at(10)));
    // Ten segments in 100 ms.
    let known = rate(&s);
    assert!(known.is_some_and(|known| known.abs_diff(146_000) < 1_000), "{known:?}");
    s.write(20 * FULL).skip_to(830);
    assert_eq!(s.stack.counters().tcp_timeouts, 1);
    s.inject(ack(1, at(30))).expect_nothing();
    assert_eq!(rate(&s), known);
}

#[test]
fn a_reneging_peer_is_sent_everything_again() {
    let mut s = client(WIDE);
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(3))]));
    s.skip_to(300);
    s.inject(ack(1, at(1)));
    // The head was reported as held, and no longer is.
    s.skip_to(3_000);
    let resent = s.stack.counters().retrans_segs;
    assert!(resent >= 2, "{resent}");
}

// Tail loss probes.

#[test]
fn a_tail_loss_probe_repeats_the_last_segment_after_two_round_trips() {
    let mut s = client(WIDE);
    // srtt 100: with more than one segment in flight 200 ms, before the timeout of 300.
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    s.until(300);
    expect_full(&mut s, 2..3);
    // No second probe; the timeout counts from the first.
    s.until(600);
    expect_full(&mut s, 0..1);
    assert_eq!(s.stack.counters().tcp_loss_probes, 1);
}

/// RFC 8985 §7.2: two round trips and 200 ms for a delayed acknowledgement is beyond the timeout of 300
/// ms, so the probe is sent at that time, and takes its place.
#[test]
fn a_probe_takes_the_place_of_the_first_timeout() {
    let mut s = client(WIDE);
    s.write(100).expect(data(1, 1, 100));
    s.until(400).expect(data(1, 1, 100));
    let counters = s.stack.counters();
    assert_eq!((counters.tcp_loss_probes, counters.tcp_timeouts, cwnd(&s)), (1, 0, 10 * MSS));
    s.until(700).expect(data(1, 1, 100));
    assert_eq!((s.stack.counters().tcp_timeouts, cwnd(&s)), (1, MSS));
    s.until(1_300).expect(data(1, 1, 100));
}

/// RFC 8985 §7.3: without a round trip measured in between there is no second probe.
#[test]
fn a_second_probe_needs_a_round_trip() {
    let mut s = client(WIDE);
    s.write(100).expect(data(1, 1, 100));
    s.until(400).expect(data(1, 1, 100));
    // Original or probe? Karn's rule: no sample.
    s.at(450).inject(ack(1, 101)).write(100).expect(data(101, 1, 100));
    s.until(750).expect(data(101, 1, 100));
    assert_eq!((s.stack.counters().tcp_loss_probes, s.stack.counters().tcp_timeouts), (1, 1));
    s.inject(ack(1, 201)).write(100).expect(data(201, 1, 100)).at(800).inject(ack(1, 301));
    s.write(100).expect(data(301, 1, 100)).skip_to(2_000);
    assert_eq!(s.stack.counters().tcp_loss_probes, 2);
}

#[test]
fn a_tail_loss_probe_sends_new_data_if_there_is_any() {
    let mut s = client(Peer { window: 23, ..WIDE });
    s.inject(ack(1, 1)).write(4 * FULL);
    expect_full(&mut s, 0..2);
    s.inject(ack(1, 1).window(46)).take_all();
    let mut s = client(WIDE);
    s.write(12 * FULL);
    expect_full(&mut s, 0..10);
    s.until(300);
    expect_full(&mut s, 10..11);
}

#[test]
fn the_probe_timer_restarts_with_every_acknowledgement() {
    let mut s = client(WIDE);
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    s.at(200).inject(ack(1, at(1))).at(290).inject(ack(1, at(2)));
    // One segment left: 2 * srtt and 200 ms for a delayed acknowledgement is beyond the timeout.
    let srtt = s.stack.info(s.id()).unwrap().subflows[0].srtt.as_millis() as u64;
    assert!((100..120).contains(&srtt));
    s.at(290 + 2 * srtt).expect_nothing();
    let mut s = client(WIDE);
    s.write(4 * FULL);
    expect_full(&mut s, 0..4);
    s.at(200).inject(ack(1, at(1))).at(399).expect_nothing();
    s.until(400);
    expect_full(&mut s, 3..4);
}

#[test]
fn a_probe_that_was_not_needed_costs_nothing() {
    let mut s = client(WIDE);
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    s.until(300);
    expect_full(&mut s, 2..3);
    let before = cwnd(&s);
    // The acknowledgement was late; the probe comes back as a duplicate.
    s.at(310).inject(ack(1, at(3))).at(400).inject(ack(1, at(3)).sack(&[(at(2), at(3))]));
    assert_eq!((cwnd(&s), s.stack.counters().tcp_loss_probe_recovery), (before, 0));
    assert_eq!(s.stack.counters().tcp_dsack_recv, 1);
}

#[test]
fn a_loss_that_only_the_probe_repaired_halves_the_window() {
    let mut s = client(WIDE);
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    s.until(300);
    expect_full(&mut s, 2..3);
    s.at(400).inject(ack(1, at(3))).write(FULL);
    expect_full(&mut s, 3..4);
    s.at(500).inject(ack(1, at(4)));
    assert_eq!(s.stack.counters().tcp_loss_probe_recovery, 1);
    assert!(cwnd(&s) < 10 * MSS);
}

// Fast recovery.

#[test]
fn three_selective_acknowledgements_reveal_a_loss_and_prr_paces_the_repair() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(2))])).take_all();
    s.inject(ack(1, 1).sack(&[(at(1), at(3))])).take_all();
    s.inject(ack(1, 1).sack(&[(at(1), at(4))]));
    // The first retransmission always goes.
    assert_eq!(s.take().seq, at(0));
    let mut new = s.take_all().len();
    for n in 5..=10 {
        s.inject(ack(1, 1).sack(&[(at(1), at(n))]));
        new += s.take_all().len();
    }
    // Half of what was in flight leaves while all of it is delivered, one for two.
    assert!((2..=5).contains(&new), "{new}");
    s.at(300).inject(ack(1, at(12)));
    assert_eq!(s.stack.counters().tcp_sack_recovery, 1);
    assert_eq!(s.stack.counters().retrans_segs, 1);
    assert!((5 * MSS..=7 * MSS).contains(&cwnd(&s)), "{}", cwnd(&s) / MSS);
}

/// Another congestion control in the middle of a recovery reduces the window it finds, not the one it would begin with.
#[test]
fn who_takes_over_in_a_recovery_reduces_what_there_is() {
    let mut s = client(WIDE);
    s.write(100 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, at(10)));
    expect_full(&mut s, 10..28);
    s.at(300).inject(ack(1, at(28)));
    expect_full(&mut s, 28..54);
    s.at(400).inject(ack(1, at(28)).sack(&[(at(29), at(33))])).take_all();
    let ssthresh = |s: &Script| s.stack.info(s.id()).unwrap().subflows[0].tcp.snd_ssthresh;
    assert_eq!(ssthresh(&s), Some(13 * MSS));
    let (now, id) = (s.now, s.id());
    assert!(s.stack.set_congestion(now, id, CongestionAlgorithm::Cubic));
    let flight = s.stack.info(id).unwrap().subflows[0].tcp.unacked * MSS;
    assert!(flight >= 26 * MSS);
    assert_eq!(ssthresh(&s), Some(flight / 10 * 7));
}

#[test]
fn rack_waits_a_quarter_of_the_shortest_round_trip_for_what_was_overtaken() {
    let mut s = client(WIDE);
    s.write(4 * FULL);
    expect_full(&mut s, 0..4);
    // One segment overtook: no three duplicates, so the reordering window of 25 ms counts.
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(2))])).expect_nothing();
    s.until(225);
    expect_full(&mut s, 0..1);
    assert_eq!(s.stack.counters().tcp_sack_recovery, 1);
}

#[test]
fn rack_notices_a_lost_retransmission() {
    let mut s = client(WIDE);
    s.write(40 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(6))]));
    let first: Vec<Seg> = s.take_all();
    assert_eq!(first[0].seq, at(0));
    s.inject(ack(1, 1).sack(&[(at(1), at(10))]));
    let new: Vec<Seg> = s.take_all();
    // What was sent after the retransmission is delivered, the retransmission is not.
    let end = new.last().map(|seg| seg.seq + seg.len as u32).unwrap();
    s.at(310).inject(ack(1, 1).sack(&[(at(1), end)]));
    let again = s.take_all();
    assert!(again.iter().any(|seg| seg.seq == at(0)), "{again:?}");
}

#[test]
fn after_reordering_was_seen_three_duplicates_are_not_enough() {
    let mut s = client(WIDE);
    s.write(5 * FULL);
    expect_full(&mut s, 0..5);
    // Overtaken, never sent again, acknowledged all the same.
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(2))])).inject(ack(1, at(5)));
    s.write(5 * FULL);
    expect_full(&mut s, 5..10);
    s.at(300).inject(ack(1, at(5)).sack(&[(at(6), at(10))])).expect_nothing();
    s.until(325);
    expect_full(&mut s, 5..6);
}

/// RFC 8985 §6.2 step 4: each round trip with a duplicate report widens the reordering window.
#[test]
fn reported_duplicates_widen_the_reordering_window() {
    let mut s = client(WIDE);
    s.write(5 * FULL);
    expect_full(&mut s, 0..5);
    s.at(200).inject(ack(1, 1).sack(&[(at(1), at(2))])).inject(ack(1, at(5)));
    s.write(5 * FULL);
    expect_full(&mut s, 5..10);
    s.at(300).inject(ack(1, at(5)).sack(&[(at(6), at(10))])).until(325);
    expect_full(&mut s, 5..6);
    // Only late after all. Twice a quarter from now on.
    s.at(330).inject(ack(1, at(10))).inject(ack(1, at(10)).sack(&[(at(5), at(6))]));
    s.write(3 * FULL);
    expect_full(&mut s, 10..13);
    s.at(430).inject(ack(1, at(10)).sack(&[(at(11), at(13))])).until(480);
    expect_full(&mut s, 10..11);
}

#[test]
fn without_sack_three_duplicates_start_recovery_and_partial_ones_continue_it() {
    let mut s = client(NO_SACK);
    s.inject(ack(1, 1)).write(40 * FULL);
    expect_full(&mut s, 0..10);
    s.at(200);
    // RFC 3042: each of the first two lets one new segment out, and the window stays.
    for n in [10, 11] {
        s.inject(ack(1, 1));
        expect_full(&mut s, n..n + 1);
        s.expect_nothing();
    }
    assert_eq!(cwnd(&s), 10 * MSS);
    s.inject(ack(1, 1));
    assert_eq!(s.take().seq, at(0));
    s.take_all();
    for _ in 0..6 {
        s.inject(ack(1, 1)).take_all();
    }
    // Segment 4 is missing as well.
    s.at(300).inject(ack(1, at(4)));
    assert_eq!(s.take().seq, at(4));
    s.take_all();
    assert_eq!(s.stack.counters().tcp_sack_recovery, 1);
}

#[test]
fn duplicates_of_our_own_making_start_no_second_recovery() {
    let mut s = client(NO_SACK);
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    s.until(400);
    expect_full(&mut s, 0..1);
    // Everything had arrived; our go-back-N makes duplicates of it.
    s.at(500).inject(ack(1, at(10))).write(5 * FULL);
    let sent = s.take_all().len();
    assert!(sent > 0);
    for _ in 0..5 {
        s.inject(ack(1, at(10)));
    }
    assert!(s.take_all().iter().all(|seg| seg.seq >= at(10) + MSS));
    assert_eq!(s.stack.counters().tcp_sack_recovery, 0);
}

/// RFC 5681 §3.1: the loss window is one segment, whatever duplicates come behind a timeout.
#[test]
fn duplicates_behind_a_timeout_let_nothing_out() {
    let mut s = client(NO_SACK);
    s.inject(ack(1, 1)).write(20 * FULL);
    expect_full(&mut s, 0..10);
    s.until(400);
    expect_full(&mut s, 0..1);
    for _ in 0..5 {
        s.inject(ack(1, 1)).expect_nothing();
    }
    s.at(500).inject(ack(1, at(1)));
    expect_full(&mut s, 1..3);
    s.expect_nothing();
}

/// RFC 5681 §3.2 step 1, RFC 6582 §3.2 step 2: those that begin no recovery let two segments out, however many they are.
#[test]
fn duplicates_that_begin_no_recovery_let_two_segments_out() {
    let mut s = client(NO_SACK);
    s.write(10 * FULL);
    expect_full(&mut s, 0..10);
    s.until(400);
    expect_full(&mut s, 0..1);
    s.at(500).inject(ack(1, at(10))).write(40 * FULL);
    assert!(s.take_all().len() > 2);
    let new: usize = (0..10).map(|_| s.inject(ack(1, at(10))).take_all().len()).sum();
    assert_eq!((new, s.stack.counters().tcp_sack_recovery), (2, 0));
}

#[test]
fn an_idle_connection_starts_again_from_the_initial_window() {
    let mut s = client(WIDE);
    s.write(100 * FULL);
    let mut end = 1;
    for round in 2..6 {
        for seg in s.take_all() {
            end = seg.seq + seg.len as u32;
        }
        s.at(round * 100).inject(ack(1, end));
    }
    s.take_all();
    s.inject(ack(1, 1 + 100 * MSS)).take_all();
    assert!(cwnd(&s) > 20 * MSS);
    s.at(5_000).write(50 * FULL);
    assert_eq!(s.take_all().len(), 10);
}

#[test]
fn selective_acknowledgements_of_nonsense_change_nothing() {
    let mut s = client(WIDE);
    s.write(3 * FULL);
    expect_full(&mut s, 0..3);
    for block in
        [(at(1), at(1)), (at(2), at(1)), (at(3), at(9)), (at(1), at(1).wrapping_sub(4_000))]
    {
        s.inject(ack(1, 1).sack(&[block])).expect_nothing();
    }
    s.inject(ack(1, at(3))).expect_nothing();
    assert_eq!(s.stack.counters().tcp_sack_recovery, 0);
}

/// A box on the way numbers the stream anew and leaves the SACK blocks as they are: three such duplicates, and losses are
/// found as without SACK, not by timeouts alone.
#[test]
fn blocks_of_another_stream_are_none() {
    for offset in [1_u32 << 30, 3 << 30] {
        let mut s = client(WIDE);
        s.inject(ack(1, 1)).write(40 * FULL);
        expect_full(&mut s, 0..10);
        s.at(200);
        let report = |n: u32, una: u32| {
            let edges = (at(n).wrapping_add(offset), at(n + 1).wrapping_add(offset));
            ack(1, una).sack(&[edges])
        };
        s.inject(report(1, 1)).inject(report(2, 1)).expect_nothing();
        s.inject(report(3, 1));
        assert_eq!((s.take().seq, s.stack.counters().tcp_dsack_recv), (at(0), 0));
        s.take_all();
        for n in 4..10 {
            s.inject(report(n, 1)).take_all();
        }
        // Segment 4 is missing as well.
        s.at(300).inject(report(10, at(4)));
        assert_eq!(s.take().seq, at(4));
        assert_eq!(s.stack.counters().tcp_timeouts, 0);
    }
}
