//! Opening: both ways, simultaneous, options and their absence, retransmission, refusal
//! (RFC 9293 §3.5, §3.10.7.2 to .4; RFC 7323 §1.3, §2.2; RFC 6298 §2, §5).

use crate::harness::{Peer, Script, ack, data, fin, rst, rst_ack, syn, syn_ack};
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::time::Duration;
use mptcp_core::wire::TcpFlags;

const EVERYTHING: Peer =
    Peer { mss: Some(1400), wscale: Some(3), sack: true, ts: true, window: 8192 };

#[test]
fn passive_open_answers_what_was_offered() {
    let mut s = Script::new(|_| {});
    s.leg().offer = EVERYTHING;
    let syn = s.listen().peer_syn();
    let tsval = syn.ts.unwrap().0;
    s.inject(syn);
    let answer = s.take();
    assert_eq!((answer.mss, answer.wscale, answer.sack_permitted), (Some(1460), Some(7), true));
    assert_eq!((answer.window, answer.ts.unwrap().1), (Some(65_535), tsval));
    let ours = answer.ts.unwrap().0;
    s.inject(ack(1, 1).ts(tsval, ours)).expect_nothing().accept();
    assert_eq!(s.state(), State::Established);
    // 12 octets of timestamps come off the peer's MSS.
    s.write(2000).expect(data(1, 1, 1388).ts(ours, tsval)).expect(data(1389, 1, 612));
}

#[test]
fn passive_open_without_options_gets_none() {
    let mut s = Script::new(|_| {});
    s.leg().offer = Peer { mss: None, wscale: None, sack: false, ts: false, window: 60_000 };
    let syn = s.listen().peer_syn();
    s.inject(syn);
    let answer = s.take();
    assert_eq!((answer.mss, answer.wscale, answer.sack_permitted), (Some(1460), None, false));
    assert_eq!((answer.window, answer.ts), (Some(65_535), None));
    s.inject(ack(1, 1)).accept();
    // RFC 9293 §3.7.1: 536 without the option; Minshall holds the short rest back.
    s.write(1100).expect(data(1, 1, 536)).expect(data(537, 1, 536)).expect(data(1073, 1, 28));
    // The window field is taken as it stands.
    s.inject(data(1, 1101, 100)).expect(ack(1101, 101).window(65_435));
}

/// BSD leaves options out of its fourth SYN: a SYN/ACK that it then hears must not rely on them.
#[test]
fn options_that_a_repeated_syn_leaves_out_are_not_agreed() {
    let mut s = Script::new(|_| {});
    s.leg().offer = EVERYTHING;
    let full = s.listen().peer_syn();
    s.inject(full).take();
    s.at(900).inject(syn());
    let answer = s.take();
    assert_eq!((answer.mss, answer.wscale, answer.ts), (Some(1460), None, None));
    assert!(!answer.sack_permitted);
    s.inject(ack(1, 1).window(8_192)).expect_nothing().accept();
    // Neither side shifts its window, and no timestamps take room.
    s.inject(data(1, 1, 100).window(8_192)).expect(ack(1, 101).window(65_435)).read(100);
    s.write(20_000);
    let sent = s.take_all();
    assert!(sent[0].len == 1_400 && sent[0].ts.is_none(), "{:?}", sent[0]);
    assert!(sent.iter().map(|seg| seg.len).sum::<usize>() <= 8_192, "{sent:?}");
}

#[test]
fn default_mss_of_ipv6_is_1220() {
    let mut s = Script::new(|_| {});
    s.add_leg("[fd00::1]:80", "[fd00::2]:4000", Peer { mss: None, ..Peer::default() });
    let syn = s.listen().peer_syn();
    s.inject(syn);
    assert_eq!(s.take().mss, Some(1440));
    s.inject(ack(1, 1)).accept().write(2440);
    s.expect(data(1, 1, 1220)).expect(data(1221, 1, 1220));
}

#[test]
fn active_open_offers_and_agrees() {
    let mut s = Script::new(|_| {});
    s.leg().offer = EVERYTHING;
    s.connect();
    let first = s.take();
    assert_eq!(first.flags, TcpFlags::SYN);
    assert_eq!((first.mss, first.wscale, first.sack_permitted), (Some(1460), Some(7), true));
    assert_eq!((first.window, first.ts.unwrap().1), (Some(65_535), 0));
    s.at(30).peer_answers().expect(ack(1, 1));
    assert_eq!(s.ready(), Ready::CONNECTED | Ready::WRITABLE);
    s.write(1388).expect(data(1, 1, 1388));
    // The peer's windows are scaled by 3: 182 << 3 = 1456 octets.
    s.inject(ack(1, 1389).window(182)).write(3000);
    s.expect(data(1389, 1, 1388)).expect_nothing();
}

#[test]
fn active_open_with_a_bare_peer() {
    let bare = Peer { mss: None, wscale: None, sack: false, ts: false, window: 2000 };
    let mut s = Script::client(|_| {}, bare, 10);
    s.write(3000);
    for seq in [1, 537, 1073] {
        s.expect(data(seq, 1, 536));
    }
    // 392 of the window are left: less than half of it, more data waits.
    s.expect_nothing();
    // No SACK blocks towards a peer without SACK.
    s.inject(data(101, 1, 100)).expect(ack(1609, 1));
}

#[test]
fn syn_is_retransmitted_with_back_off_and_given_up() {
    let mut s = Script::new(|config| config.tcp.syn_retries = 3);
    s.connect().expect(syn());
    s.until(1_000).expect(syn()).until(3_000).expect(syn()).until(7_000).expect(syn());
    s.at(14_999).expect_nothing().at(15_001).expect_nothing();
    assert_eq!(s.ready(), Ready::CLOSED | Ready::READABLE);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
}

/// RFC 9293 §3.8.3 (MUST-23): three minutes at least.
#[test]
fn a_connect_is_given_up_after_three_minutes() {
    let mut s = Script::new(|_| {});
    s.connect().expect(syn()).skip_to(246_999);
    assert_eq!(s.state(), State::SynSent);
    s.at(247_002);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
}

/// RFC 5681 §3.1, RFC 6928 §2: one lost SYN may be a mistake, two are a bad path.
#[test]
fn two_lost_syns_cut_the_initial_window_to_one_segment() {
    for (lost, ms, segments) in [(1, 1_100, 10), (2, 3_100, 1)] {
        let mut s = Script::new(|_| {});
        s.connect().expect(syn());
        for ms in [1_000, 3_000].into_iter().take(lost) {
            s.until(ms).expect(syn());
        }
        s.at(ms).peer_answers().expect(ack(1, 1)).inject(ack(1, 1));
        s.write(20_000);
        assert_eq!(s.take_all().len(), segments);
        // The same for the SYN/ACK.
        let mut s = Script::new(|_| {});
        let syn = s.listen().peer_syn();
        s.inject(syn).expect(syn_ack());
        for ms in [1_000, 3_000].into_iter().take(lost) {
            s.until(ms).expect(syn_ack());
        }
        s.at(ms).inject(ack(1, 1)).accept().write(20_000);
        assert_eq!(s.take_all().len(), segments);
    }
}

#[test]
fn connect_timeout_ends_the_attempt() {
    let mut s = Script::new(|_| {});
    s.connect_within(Some(Duration::from_millis(2_500))).expect(syn());
    s.until(1_000).expect(syn());
    s.at(2_501).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
    assert_eq!(s.stack.counters().attempt_fails, 1);
}

#[test]
fn after_a_lost_syn_the_first_timeout_is_three_seconds() {
    let mut s = Script::new(|config| config.tcp.sack = false);
    s.connect().expect(syn()).until(1_000).expect(syn());
    s.at(1_100).peer_answers().expect(ack(1, 1));
    s.write(100).expect(data(1, 1, 100)).until(4_100).expect(data(1, 1, 100));
}

/// A timestamp tells which SYN was answered: the round trip is known, and with it the timeout.
#[test]
fn after_a_lost_syn_an_echo_measures_the_round_trip() {
    let mut s = Script::new(|config| config.tcp.sack = false);
    s.leg().offer = Peer { ts: true, ..Peer::default() };
    s.connect().expect(syn()).until(1_000).expect(syn());
    s.at(1_100).peer_answers().expect(ack(1, 1));
    s.write(100).expect(data(1, 1, 100)).until(1_400).expect(data(1, 1, 100));
    // An echo of the first SYN says how long ago that was, which may be no round trip.
    let mut s = Script::new(|config| config.tcp.sack = false);
    s.leg().offer = Peer { ts: true, ..Peer::default() };
    s.connect().expect(syn());
    let first = s.leg().tsval;
    s.until(1_000).expect(syn());
    s.leg().tsval = first;
    s.at(1_100).peer_answers().expect(ack(1, 1));
    s.write(100).expect(data(1, 1, 100)).until(4_100).expect(data(1, 1, 100));
}

#[test]
fn refused_connect() {
    let mut s = Script::new(|_| {});
    // A RST without an acceptable ACK proves nothing.
    s.connect().expect(syn()).inject(rst(0)).inject(rst_ack(0, 2)).expect_nothing();
    assert_eq!(s.state(), State::SynSent);
    s.inject(rst_ack(0, 1)).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Refused));
    assert_eq!((s.stack.counters().attempt_fails, s.dropped(DropReason::RstSequence)), (1, 1));
    assert_eq!(s.stack.counters().in_rsts, 1);
}

#[test]
fn half_open_discovery_in_syn_sent() {
    // RFC 9293 figure 9: an old connection's segment is answered with a RST at its ACK.
    let mut s = Script::new(|_| {});
    s.connect().expect(syn()).inject(ack(300, 99)).expect(rst(99));
    assert_eq!(s.state(), State::SynSent);
    s.inject(ack(300, 1)).expect_nothing();
    s.until(1_000).expect(syn());
}

#[test]
fn simultaneous_open() {
    let mut s = Script::new(|_| {});
    let syn_of_peer = s.peer_syn();
    s.connect().expect(syn()).at(10).inject(syn_of_peer.clone()).expect(syn_ack());
    assert_eq!(s.state(), State::SynReceived);
    // Figure 7: the crossing SYN/ACK finishes it, and needs no answer.
    s.at(20).inject(crate::harness::Seg { ack: 1, ..syn_of_peer }.flags(syn_ack().flags));
    s.expect_nothing();
    assert_eq!(s.state(), State::Established);
    s.write(10).expect(data(1, 1, 10));
}

/// RFC 9293 §3.10.7.4, fifth step: its window counts, wherever our numbers are.
#[test]
fn the_window_of_the_crossing_syn_ack_counts() {
    let mut s = Script::new(|_| {});
    s.connect().expect(syn());
    // The clock of RFC 6528 ticks 250 times a millisecond: until our ISN is in the upper half.
    let ticks = u64::from(0xc000_0000_u32.wrapping_sub(s.leg().iss.0));
    s.close().at(ticks / 250 + 1).connect().expect(syn());
    assert!(s.leg().iss.0 > 1 << 31, "{:?}", s.leg().iss);
    let crossing = s.peer_syn();
    s.inject(crossing.clone()).expect(syn_ack());
    let answer = crate::harness::Seg { ack: 1, ..crossing };
    s.inject(answer.flags(syn_ack().flags).window(2_000)).expect_nothing();
    s.write(3_000).expect(data(1, 1, 1460)).expect_nothing();
}

/// The SYN takes a number of its own: text behind it begins one later.
#[test]
fn text_on_the_crossing_syn_ack_is_taken() {
    let mut s = Script::new(|_| {});
    let syn_of_peer = s.peer_syn();
    s.connect().expect(syn()).at(10).inject(syn_of_peer.clone()).expect(syn_ack());
    let crossing = crate::harness::Seg { ack: 1, ..syn_of_peer };
    s.at(20).inject(crossing.flags(syn_ack().flags).len(5)).expect(ack(1, 6)).read(5);
}

#[test]
fn simultaneous_open_finished_by_a_bare_ack() {
    let mut s = Script::new(|_| {});
    let syn_of_peer = s.peer_syn();
    s.connect().expect(syn()).inject(syn_of_peer).expect(syn_ack());
    // Not for our SYN: RST at its ACK; then our SYN/ACK again after a second.
    s.inject(ack(1, 5)).expect(rst(5)).until(1_000).expect(syn_ack());
    s.inject(data(1, 1, 10)).expect(ack(1, 11)).read(10);
    assert_eq!(s.state(), State::Established);
}

#[test]
fn syn_ack_is_retransmitted_and_repeated_for_a_repeated_syn() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn.clone()).expect(syn_ack()).until(1_000).expect(syn_ack());
    s.at(1_500).inject(syn).expect(syn_ack());
    s.until(3_000).expect(syn_ack()).until(7_000).expect(syn_ack());
    s.until(15_000).expect(syn_ack()).until(31_000).expect(syn_ack());
    s.at(62_999).expect_nothing();
    assert_eq!(s.stack.occupancy().requests, 1);
    s.at(63_001);
    assert_eq!((s.stack.occupancy().requests, s.stack.counters().tcp_req_timeouts), (0, 1));
}

#[test]
fn syn_received_checks_ack_rst_and_syn() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn).expect(syn_ack());
    s.inject(ack(1, 2)).expect(rst(2));
    // RFC 5961 §3 and §4: neither a RST nor a SYN from the side ends it, both are challenged.
    s.inject(rst(2)).expect(ack(1, 1));
    s.inject(crate::harness::Seg { seq: 500, ..crate::harness::syn() }).expect(ack(1, 1));
    s.inject(ack(1, 1).flags(TcpFlags::PSH)).expect_nothing();
    assert_eq!((s.dropped(DropReason::RstSequence), s.dropped(DropReason::NoAck)), (1, 1));
    assert_eq!(s.stack.occupancy().requests, 1);
    s.inject(rst(1)).expect_nothing();
    assert_eq!(s.stack.occupancy().requests, 0);
}

/// RFC 6298 §3: our SYN went out twice, the second time as a SYN/ACK. Only a timestamp tells which is answered.
#[test]
fn crossing_syns_are_measured_by_timestamps_alone() {
    for ts in [false, true] {
        let mut s = Script::new(|_| {});
        s.leg().offer = Peer { ts, ..Peer::default() };
        s.connect().expect(syn());
        let (clock, first) = (s.peer_clock(), s.leg().tsval);
        let crossing = s.peer_syn();
        s.at(90).inject(crossing.clone()).expect(syn_ack());
        let answer = crate::harness::Seg { ack: 1, ts: ts.then_some((clock, first)), ..crossing };
        s.at(100).inject(answer.flags(syn_ack().flags)).expect_nothing();
        let measured = s.stack.info(s.id()).unwrap().subflows[0].tcp.srtt;
        assert_eq!(measured, ts.then_some(Duration::from_millis(100)));
    }
}

#[test]
fn third_ack_may_carry_data_and_fin() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn).expect(syn_ack()).inject(fin(1, 1).len(20)).expect(ack(1, 22));
    s.accept().read(20);
    assert_eq!((s.read_some(1), s.state()), (Ok(0), State::CloseWait));
}

#[test]
fn data_completes_a_handshake_whose_third_ack_was_lost() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn).expect(syn_ack()).inject(data(101, 1, 100));
    s.expect(ack(1, 1).sack(&[(101, 201)])).accept();
    s.inject(data(1, 1, 100)).expect(ack(1, 201)).read(200);
}

#[test]
fn a_lost_third_ack_is_repeated_for_the_repeated_syn_ack() {
    let mut s = Script::client(|_| {}, Peer::default(), 10);
    let again = s.peer_syn();
    s.inject(crate::harness::Seg { ack: 1, ..again }.flags(syn_ack().flags)).expect(ack(1, 1));
}

#[test]
fn passive_open_takes_the_handshake_for_its_first_round_trip() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn).expect(syn_ack()).at(50).inject(ack(1, 1)).accept();
    assert_eq!(s.stack.info(s.id()).unwrap().subflows[0].srtt, Duration::from_millis(50));
}

/// RFC 6298 §3: nobody knows which of them the third ACK answers.
#[test]
fn a_syn_ack_that_was_asked_for_again_is_no_measure() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn.clone()).expect(syn_ack()).at(500).inject(syn).expect(syn_ack());
    s.at(510).inject(ack(1, 1)).accept();
    assert_eq!(s.stack.info(s.id()).unwrap().subflows[0].tcp.srtt, None);
}

#[test]
fn a_syn_that_also_ends_the_stream_is_no_open() {
    let mut s = Script::new(|_| {});
    s.listen().inject(syn().flags(TcpFlags::SYN | TcpFlags::FIN)).expect_nothing();
    assert_eq!(s.dropped(DropReason::ListenerState), 1);
}

#[test]
fn multicast_and_broadcast_are_no_destinations() {
    use mptcp_core::error::OpenError;
    let mut s = Script::new(|_| {});
    for remote in ["224.0.0.1:80", "255.255.255.255:80", "0.0.0.0:80", "10.0.0.2:0"] {
        let with = mptcp_core::stack::Connect {
            local: [10, 0, 0, 1].into(),
            local_port: 0,
            remote: remote.parse().unwrap(),
            mptcp: false,
            timeout: None,
            user_data: 0,
        };
        assert_eq!(s.stack.connect(s.now, &with), Err(OpenError::BadAddress), "{remote}");
    }
}
