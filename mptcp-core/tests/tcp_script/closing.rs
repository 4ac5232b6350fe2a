//! Closing: half-close both ways, every closing state, retransmitted, early and data-bearing FINs,
//! data after close, TIME-WAIT (RFC 9293 §3.6, §3.10.7.4; RFC 1122 §4.2.2.13; RFC 1337; RFC 6191).

use crate::harness::{PEER_ISS, Peer, Script, Seg, ack, data, fin, rst, rst_ack, syn_ack};
use mptcp_core::error::{ConnectionError, RecvError, SendError};
use mptcp_core::seq::SeqNum;
use mptcp_core::stack::{Occupancy, Ready};
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::time::Duration;
use mptcp_core::wire::TcpFlags;

fn server() -> Script {
    Script::server(|_| {}, Peer::default())
}

#[test]
fn active_close_through_every_state() {
    let mut s = server();
    s.shutdown().expect(fin(1, 1));
    assert_eq!(s.state(), State::FinWait1);
    s.inject(ack(1, 2)).expect_nothing();
    assert_eq!(s.state(), State::FinWait2);
    // The other direction goes on.
    s.inject(data(1, 2, 100)).expect(ack(2, 101)).read(100);
    s.inject(fin(101, 2)).expect(ack(2, 102));
    assert_eq!(s.ready(), Ready::READABLE | Ready::READ_CLOSED | Ready::CLOSED);
    assert_eq!((s.read_some(1), s.stack.occupancy().time_waits), (Ok(0), 1));
    s.at(59_999).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
    let id = s.id();
    s.at(60_001).stack.release(id);
    let listening = s.listener.unwrap();
    s.stack.close_listener(s.now, listening);
    assert_eq!(s.stack.occupancy(), Occupancy::default());
}

#[test]
fn passive_close_through_every_state() {
    let mut s = server();
    s.inject(data(1, 1, 10)).expect(ack(1, 11)).inject(fin(11, 1)).expect(ack(1, 12));
    assert_eq!(s.state(), State::CloseWait);
    s.read(10);
    assert_eq!(s.read_some(1), Ok(0));
    // The other direction goes on.
    s.write(100).expect(data(1, 12, 100)).inject(ack(12, 101));
    s.shutdown().expect(fin(101, 12));
    assert_eq!(s.state(), State::LastAck);
    assert_eq!(s.stack.send(s.now, s.id(), b"x"), Err(SendError::Shutdown));
    s.inject(ack(12, 102)).expect_nothing();
    assert_eq!((s.state(), s.stack.error(s.id())), (State::Closed, None));
    let id = s.id();
    s.stack.release(id);
    let occupancy = s.stack.occupancy();
    assert_eq!((occupancy.tcbs, occupancy.time_waits, occupancy.timers), (0, 0, 0));
}

#[test]
fn simultaneous_close_passes_through_closing() {
    let mut s = server();
    s.shutdown().expect(fin(1, 1)).inject(fin(1, 1)).expect(ack(2, 2));
    assert_eq!(s.state(), State::Closing);
    // The peer's FIN again: its acknowledgement again.
    s.inject(fin(1, 1)).expect(ack(2, 2));
    // Its FIN was acknowledged before: the ACK of ours needs no answer.
    s.inject(ack(2, 2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn fin_that_acknowledges_ours_leads_straight_to_time_wait() {
    let mut s = server();
    s.shutdown().expect(fin(1, 1)).inject(fin(1, 2).len(5)).expect(ack(2, 7)).read(5);
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn fin_is_retransmitted_in_every_state_that_waits_for_its_ack() {
    // After a handshake of 100 ms: srtt 100, rto 300. A tail loss probe comes first.
    for (state, peer_closes_first, peer_fin_crosses) in [
        (State::FinWait1, false, false),
        (State::LastAck, true, false),
        (State::Closing, false, true),
    ] {
        let mut s = Script::client(|_| {}, Peer::default(), 100);
        let mut rcv_nxt = 1;
        if peer_closes_first {
            s.inject(fin(1, 1)).expect(ack(1, 2));
            rcv_nxt = 2;
        }
        s.shutdown().expect(fin(1, rcv_nxt));
        if peer_fin_crosses {
            s.inject(fin(1, 1)).expect(ack(2, 2));
            rcv_nxt = 2;
        }
        assert_eq!(s.state(), state);
        s.until(400).expect(fin(1, rcv_nxt));
        s.until(700).expect(fin(1, rcv_nxt)).until(1_300).expect(fin(1, rcv_nxt));
        s.inject(ack(rcv_nxt, 2)).expect_nothing();
        s.at(30_000).expect_nothing();
    }
}

/// After close, what was read already and comes again with the FIN behind it is no new data.
#[test]
fn old_text_with_a_new_fin_ends_a_closed_connection_in_order() {
    let mut s = server();
    s.inject(data(1, 1, 100)).expect(ack(1, 101)).read(100);
    s.close().expect(fin(1, 101));
    s.inject(fin(1, 1).len(100)).expect(ack(2, 102).sack(&[(1, 101)])).expect_nothing();
    assert_eq!(s.stack.counters().out_rsts, 0);
    s.inject(ack(102, 2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn fin_rides_on_the_last_data() {
    let mut s = server();
    s.write(1_460).expect(data(1, 1, 1460)).inject(ack(1, 1461));
    s.leg().offer.window = 0;
    s.inject(ack(1, 1461)).write(100).shutdown().expect_nothing();
    s.inject(ack(1, 1461).window(512)).expect(fin(1461, 1).len(100));
    assert_eq!(s.state(), State::FinWait1);
    // Data and FIN are acknowledged apart.
    s.inject(ack(1, 1561).window(512)).expect_nothing();
    assert_eq!(s.state(), State::FinWait1);
    s.inject(ack(1, 1562).window(512)).expect_nothing();
    assert_eq!(s.state(), State::FinWait2);
}

#[test]
fn fin_needs_room_in_the_window_like_any_octet() {
    let mut s = Script::client(|_| {}, Peer::default(), 100);
    s.inject(ack(1, 1).window(0)).shutdown().expect_nothing();
    // Probed like data, with back-off, for as long as the peer answers.
    for ms in [400, 1_000] {
        s.until(ms).expect(ack(0, 1)).inject(ack(1, 1).window(0)).expect_nothing();
    }
    s.inject(ack(1, 1).window(1)).expect(fin(1, 1));
}

/// Text that fills the window goes without the FIN behind it.
#[test]
fn fin_on_the_last_data_needs_room_in_the_window_too() {
    let mut s = Script::client(|_| {}, Peer::default(), 100);
    s.inject(ack(1, 1).window(0)).write(1_024).shutdown().expect_nothing();
    s.inject(ack(1, 1).window(8)).expect(data(1, 1, 1_024)).expect_nothing();
    assert_eq!(s.state(), State::Established);
    s.inject(ack(1, 1_025).window(0)).expect_nothing();
    s.inject(ack(1, 1_025).window(8)).expect(fin(1_025, 1));
    assert_eq!(s.state(), State::FinWait1);
}

#[test]
fn fin_is_taken_at_a_shut_window() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_920, Peer::default());
    s.inject_burst(&[data(1, 1, 1460), data(1461, 1, 1460)]).expect(ack(1, 2921).window(0));
    s.inject(fin(2921, 1)).expect(ack(1, 2922).window(0));
    s.read(2920);
    assert_eq!(s.read_some(1), Ok(0));
}

#[test]
fn fin_out_of_order_waits_for_the_hole() {
    let mut s = server();
    s.inject(fin(101, 1).len(50)).expect(ack(1, 1).sack(&[(101, 152)]));
    assert_eq!(s.state(), State::Established);
    s.inject(data(1, 1, 100)).expect(ack(1, 152)).read(150);
    assert_eq!((s.state(), s.read_some(1)), (State::CloseWait, Ok(0)));
    // A bare FIN ahead of its stream, too.
    let mut s = server();
    s.inject(fin(101, 1)).expect(ack(1, 1).sack(&[(101, 102)]));
    s.inject(data(1, 1, 100)).expect(ack(1, 102));
    assert_eq!(s.state(), State::CloseWait);
}

/// Peers differ in whether their blocks hold the FIN behind the text that arrived out of order.
#[test]
fn a_block_without_the_fin_covers_its_text() {
    let mut s = Script::client(|_| {}, Peer::default(), 40);
    s.write(100).expect(data(1, 1, 100)).write(50).shutdown();
    s.expect(fin(101, 1).len(50));
    // What was overtaken goes again once it cannot be reordering.
    s.at(80).inject(ack(1, 1).sack(&[(101, 151)])).until(90).expect(data(1, 1, 100));
    // The peer did not keep the FIN.
    s.inject(ack(1, 151)).expect(fin(151, 1)).inject(ack(1, 152)).expect_nothing();
    assert_eq!(s.state(), State::FinWait2);
}

#[test]
fn repeated_fin_is_acknowledged_again() {
    let mut s = server();
    s.inject(fin(1, 1).len(10)).expect(ack(1, 12));
    s.inject(fin(1, 1).len(10)).expect(ack(1, 12).sack(&[(1, 11)]));
    s.inject(fin(11, 1)).expect(ack(1, 12)).read(10);
}

#[test]
fn text_behind_the_peers_fin_is_ignored() {
    let mut s = server();
    s.inject(fin(1, 1)).expect(ack(1, 2)).inject(data(2, 1, 100)).expect_nothing();
    assert_eq!((s.dropped(DropReason::DataAfterClose), s.read_some(1)), (1, Ok(0)));
}

#[test]
fn data_after_close_is_answered_with_a_reset() {
    let mut s = server();
    s.close().expect(fin(1, 1)).inject(ack(1, 2)).inject(data(1, 2, 100)).expect(rst(2));
    assert_eq!(s.dropped(DropReason::DataAfterClose), 1);
    assert_eq!(s.stack.occupancy().tcbs, 0);
}

#[test]
fn close_with_unread_data_resets() {
    let mut s = server();
    s.inject(data(1, 1, 100)).expect(ack(1, 101)).close().expect(rst_ack(1, 101));
    assert_eq!(s.stack.occupancy().tcbs, 0);
}

#[test]
fn close_delivers_what_is_queued_first() {
    let mut s = server();
    s.inject(ack(1, 1).window(0)).write(500).close().expect_nothing();
    s.inject(ack(1, 1).window(512)).expect(fin(1, 1).len(500));
    s.inject(ack(1, 502)).inject(fin(1, 502)).expect(ack(502, 2));
    assert_eq!((s.stack.occupancy().tcbs, s.stack.occupancy().time_waits), (0, 1));
}

#[test]
fn fin_wait_2_ends_when_nobody_can_read_any_more() {
    let mut s = server();
    s.close().expect(fin(1, 1)).at(10).inject(ack(1, 2)).at(60_009).expect_nothing();
    assert_eq!(s.stack.occupancy().tcbs, 1);
    s.at(60_011).expect_nothing();
    assert_eq!(s.stack.occupancy().tcbs, 0);
    // The late FIN finds nobody.
    s.inject(fin(1, 2)).expect(rst(2));
}

#[test]
fn half_closed_connections_wait_as_long_as_the_application() {
    let mut s = server();
    s.shutdown().expect(fin(1, 1)).inject(ack(1, 2)).at(600_000).expect_nothing();
    s.inject(data(1, 2, 10)).expect(ack(2, 11)).read(10);
    let id = s.id();
    s.stack.close(s.now, id);
    s.flush().at(660_001).expect_nothing();
    assert_eq!(s.stack.occupancy().tcbs, 0);
}

#[test]
fn closing_an_unanswered_connect_sends_nothing() {
    let mut s = Script::new(|_| {});
    s.connect();
    s.take();
    s.close().expect_nothing();
    assert_eq!(s.stack.occupancy(), Occupancy::default());
    s.inject(syn_ack()).expect(rst(1));
}

#[test]
fn abort_resets_with_the_next_octet() {
    let mut s = server();
    s.write(100).expect(data(1, 1, 100)).inject(data(1, 1, 10)).expect(ack(101, 11));
    s.abort().expect(rst_ack(101, 11));
    assert_eq!(s.stack.occupancy().tcbs, 0);
}

#[test]
fn what_arrived_before_a_reset_can_be_read() {
    let mut s = server();
    s.inject(data(1, 1, 100)).expect(ack(1, 101)).inject(rst(101)).expect_nothing();
    assert_eq!(s.ready() & Ready::CLOSED, Ready::CLOSED);
    s.read(100);
    assert_eq!(s.read_some(1), Err(RecvError::Failed(ConnectionError::Reset)));
    let id = s.id();
    s.stack.release(id);
    assert_eq!((s.stack.occupancy().tcbs, s.pool.in_use()), (0, 0));
}

// TIME-WAIT.

/// A connection with timestamps (or not) whose active close is complete. Next: ours 2, the peer's 2.
fn time_wait(ts: bool) -> Script {
    let mut s = Script::server(|_| {}, Peer { ts, ..Peer::default() });
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    assert_eq!((s.stack.occupancy().tcbs, s.stack.occupancy().time_waits), (0, 1));
    s
}

#[test]
fn time_wait_acknowledges_the_fin_again_and_starts_anew() {
    let mut s = time_wait(true);
    s.at(50_000).inject(fin(1, 2)).expect(ack(2, 2));
    s.inject(ack(2, 2)).expect_nothing();
    assert_eq!(s.dropped(DropReason::TimeWait), 2);
    s.at(109_999).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
    s.at(110_001);
    assert_eq!(s.stack.occupancy().time_waits, 0);
}

#[test]
fn a_reset_does_not_cut_time_wait_short() {
    let mut s = time_wait(false);
    s.inject(rst(2)).inject(rst_ack(2, 2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

/// Who has forgotten the connection, a host that began anew or another one behind the same NAT, hears our answer to its
/// older SYN and says so: the SYN that comes again opens.
#[test]
fn a_reset_that_answers_the_answer_to_a_syn_ends_time_wait() {
    let mut s = time_wait(false);
    let syn = s.peer_syn();
    s.inject(Seg { seq: 0_u32.wrapping_sub(9), ..syn }).expect(ack(2, 2));
    s.inject(rst(1)).inject(rst(3)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
    s.inject(rst(2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 0);
    s.leg().irs = SeqNum(PEER_ISS).sub(9);
    let again = s.peer_syn();
    s.inject(again).expect(syn_ack()).inject(ack(1, 1)).accept();
    assert_eq!(s.state(), State::Established);
}

/// No listener takes it.
#[test]
fn a_syn_with_a_fin_does_not_cut_time_wait_short() {
    let mut s = time_wait(false);
    let syn = Seg { seq: 100_000, ..s.peer_syn() };
    s.inject(syn.flags(TcpFlags::SYN | TcpFlags::FIN)).expect(ack(2, 2));
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn a_younger_syn_takes_the_place_of_time_wait() {
    for ts in [false, true] {
        let mut s = time_wait(ts);
        let old_end = s.leg().iss.add(2);
        s.at(1_000);
        s.leg().irs = SeqNum(PEER_ISS).add(64_000);
        let syn = s.peer_syn();
        s.inject(syn).expect(syn_ack());
        // RFC 1122 §4.2.2.13: our new ISN lies above everything used before.
        assert!(s.leg().iss.gt(old_end));
        s.inject(ack(1, 1)).accept();
        assert_eq!((s.state(), s.stack.occupancy().time_waits), (State::Established, 0));
    }
}

#[test]
fn the_new_incarnation_starts_above_a_fast_old_one() {
    // 100,000 octets in no time overtake the clock of RFC 6528.
    let mut s = Script::server(|_| {}, Peer { window: 65_535, ..Peer::default() });
    s.write(100_000);
    for _ in 0..20 {
        let Some(end) = s.take_all().iter().map(|seg| seg.seq + seg.len as u32).max() else {
            break;
        };
        s.inject(ack(1, end));
    }
    s.close().expect(fin(100_001, 1)).inject(fin(1, 100_002)).expect(ack(100_002, 2));
    let old_end = s.leg().iss.add(100_002);
    s.at(10);
    s.leg().irs = SeqNum(PEER_ISS).add(64_000);
    let syn = s.peer_syn();
    s.inject(syn).expect(syn_ack());
    assert!(s.leg().iss.gt(old_end), "{:?} after {old_end:?}", s.leg().iss);
}

#[test]
fn an_older_syn_does_not() {
    for ts in [false, true] {
        let mut s = time_wait(ts);
        let mut syn = s.peer_syn();
        if let Some((tsval, _)) = &mut syn.ts {
            *tsval -= 1;
        }
        // The old numbers, so that the answer is judged against them.
        s.inject(Seg { seq: 0u32.wrapping_sub(9), ..syn }).expect(ack(2, 2));
        assert_eq!(s.stack.occupancy().time_waits, 1);
    }
}

#[test]
fn same_timestamp_is_decided_by_the_sequence_number() {
    for (offset, younger) in [(64_000, true), (0, false)] {
        let mut s = time_wait(true);
        let syn = s.peer_syn();
        s.inject(Seg { seq: offset, ..syn });
        let answer = s.take();
        assert_eq!(answer.flags.contains(TcpFlags::SYN), younger, "RFC 6191 §2: {answer:?}");
    }
}

#[test]
fn a_syn_to_a_port_nobody_listens_on_leaves_time_wait_alone() {
    let mut s = Script::client(|_| {}, Peer::default(), 10);
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    let syn = s.peer_syn();
    s.inject(Seg { seq: 64_000, ..syn }).expect(ack(2, 2));
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

#[test]
fn the_oldest_time_wait_goes_when_the_table_is_full() {
    let mut s = Script::new(|config| config.limits.time_wait = 2);
    s.listen();
    for port in 1..=3 {
        s.add_leg("10.0.0.1:80", &format!("10.0.0.2:{port}"), Peer::default()).peer_opens();
        s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    }
    assert_eq!((s.stack.occupancy().time_waits, s.stack.counters().tcp_tw_overflow), (2, 1));
    s.on(1).inject(fin(1, 2)).expect(rst(2)).on(2).inject(fin(1, 2)).expect(ack(2, 2));
}

#[test]
fn a_second_incarnation_has_younger_timestamps() {
    // RFC 7323 §5.4, RFC 6191: a peer in TIME-WAIT must find our new SYN's timestamp younger.
    let mut last = None;
    let mut s = Script::new(|_| {});
    s.leg().local.set_port(5000);
    for round in 0..20 {
        s.at(round * 10).connect();
        let (seg, header) = s.take_with_header();
        let ts = seg.ts.unwrap().0;
        if let Some((ts_before, iss_before)) = last {
            assert_eq!(ts.wrapping_sub(ts_before), 10);
            assert!(header.seq.gt(iss_before));
        }
        last = Some((ts, header.seq));
        s.close();
    }
}

/// Answers every probe with these segments until the block is gone; answers how many there were.
fn probed(s: &mut Script, answers: &[Seg]) -> u32 {
    let mut probes = 0;
    while s.stack.occupancy().tcbs > 0 {
        s.now = s.stack.poll_timeout().expect("a timer runs");
        while s.stack.handle_timeouts(s.now, 64) == mptcp_core::driver::Progress::More {}
        s.flush();
        for seg in s.take_all() {
            if seg.flags.contains(TcpFlags::RST) {
                continue;
            }
            probes += 1;
            assert!(probes < 20, "probed for ever");
            s.inject_burst(answers);
        }
    }
    probes
}

#[test]
fn orphans_are_not_kept_by_a_peer_that_never_opens_its_window() {
    let mut s = server();
    s.inject(ack(1, 1).window(0)).write(500).close();
    probed(&mut s, &[ack(1, 1).window(0)]);
    assert!(s.now.since(mptcp_core::time::Instant::from_millis(10_000)) > Duration::from_secs(30));
}

/// Nor by one that opens and shuts it, and takes nothing.
#[test]
fn orphans_are_not_kept_by_a_window_that_opens_and_shuts() {
    let mut s = server();
    s.inject(ack(1, 1).window(0)).write(500).close();
    let probes = probed(&mut s, &[ack(1, 1).window(1), ack(1, 1).window(0)]);
    assert!(probes > 5, "{probes}");
}

/// RFC 9293 MUST-12: text that was lost shows, even if it is all in the segment of our FIN.
#[test]
fn a_reset_that_costs_the_text_before_our_fin_is_told() {
    let mut s = server();
    s.inject(fin(1, 1).window(0)).expect(ack(1, 2));
    s.write(100).shutdown().expect_nothing();
    s.inject(ack(2, 1).window(512)).expect(fin(1, 2).len(100));
    assert_eq!(s.state(), State::LastAck);
    s.inject(rst(2)).expect_nothing();
    assert_eq!(s.state(), State::Closed);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Reset));
}

/// But one whose peer takes a window after the other goes on, however long each of them is shut.
#[test]
fn orphans_are_kept_by_a_peer_that_fills_its_window_again_and_again() {
    let mut s = Script::server(|_| {}, Peer { wscale: None, ..Peer::default() });
    s.inject(ack(1, 1).window(0)).write(20 * 1460 + 1).close();
    for n in 0..20 {
        let at = 1 + n * 1460;
        let probes = loop {
            s.now = s.now.max(s.stack.poll_timeout().expect("a timer runs"));
            while s.stack.handle_timeouts(s.now, 64) == mptcp_core::driver::Progress::More {}
            let sent = s.flush().take_all();
            if !sent.is_empty() {
                break sent;
            }
        };
        let given_up = probes.iter().any(|seg| seg.flags.contains(TcpFlags::RST));
        assert!(!given_up, "in front of window {n}: {probes:?}");
        // The window opens, is filled, and is shut by what acknowledges that.
        s.inject(ack(1, at).window(1460)).expect(data(at, 1, 1460));
        s.inject(ack(1, at + 1460).window(0)).expect_nothing();
    }
    assert_eq!(s.stack.occupancy().tcbs, 1);
}
