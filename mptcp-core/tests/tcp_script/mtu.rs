//! Segments that are too long for the path, without a word from it: black holes (RFC 2923 §2.1) and the
//! search for larger segments (RFC 4821), with and without ICMP.

use crate::harness::{Peer, Script, Seg, ack, data};
use crate::icmp::icmp;
use mptcp_core::config::{CongestionAlgorithm, MtuProbing, StackConfig};
use mptcp_core::tcp::{CongestionState, TcpInfo};

const WIDE: Peer = Peer { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 65_535 };
const NO_SACK: Peer = Peer { sack: false, ..WIDE };
/// What is left of a packet of 1024 octets.
const SHORT: u32 = 984;
/// A search rests so long.
const TEN_MINUTES: u64 = 600_000;

fn tcp(s: &Script) -> TcpInfo {
    s.stack.info(s.id()).unwrap().subflows[0].tcp
}

fn black_holes(s: &Script) -> u64 {
    s.stack.counters().tcp_mtu_black_holes
}

/// Probes that succeeded and that failed.
fn probes(s: &Script) -> (u64, u64) {
    let counters = s.stack.counters();
    (counters.tcp_mtup_success, counters.tcp_mtup_fail)
}

/// A client after a handshake of 100 ms.
fn client(peer: Peer) -> Script {
    Script::client(|_| {}, peer, 100)
}

/// Ten segments vanished, the first one came again short and was acknowledged; so was the rest. Its
/// time is 1,500 ms, everything is acknowledged, the congestion window is the initial one.
fn behind_a_black_hole(change: impl FnOnce(&mut StackConfig)) -> Script {
    let mut s = Script::client(change, WIDE, 100);
    s.write(10 * 1460);
    assert_eq!(s.take_all().len(), 10);
    // The tail loss probe, and a timeout.
    s.until(300).expect(data(1 + 9 * 1460, 1, 1460));
    s.until(600).expect(data(1, 1, 1460));
    s.until(1_200).expect(data(1, 1, 984));
    s.at(1_300).inject(ack(1, 1 + SHORT));
    s.skip_to(1_400);
    s.take_all();
    s.inject(ack(1, 1 + 10 * 1460));
    s.at(1_500);
    s
}

/// The lengths of the segments sent, the first sequence number checked.
fn lengths(segs: &[Seg]) -> Vec<usize> {
    segs.iter().map(|seg| seg.len).collect()
}

/// A probe of `size` is the first of what is written now. Answers its sequence number.
fn probe_goes(s: &mut Script, size: usize) -> u32 {
    let start = s.leg().written + 1;
    s.write(8_000);
    let sent = s.take_all();
    assert_eq!((sent[0].seq, sent[0].len), (start, size), "{:?}", lengths(&sent));
    start
}

/// The probe at `start` is missing and everything behind it arrives. Answers what comes again.
fn probe_is_lost(s: &mut Script, start: u32, size: u32) -> Vec<Seg> {
    let end = s.leg().written + 1;
    s.inject(ack(1, start).sack(&[(start + size, end)]));
    let again = s.take_all();
    s.inject(ack(1, end)).expect_nothing();
    again
}

#[test]
fn a_long_segment_that_timed_out_twice_comes_again_short() {
    let mut s = client(NO_SACK);
    s.write(1460).expect(data(1, 1, 1460));
    s.until(400).expect(data(1, 1, 1460));
    assert_eq!(tcp(&s).pmtu, 1500);
    s.until(1_000).expect(data(1, 1, 984));
    assert_eq!((tcp(&s).pmtu, tcp(&s).snd_mss, black_holes(&s)), (1024, SHORT, 0));
    s.at(1_100).inject(ack(1, 985)).expect(data(985, 1, 476));
    assert_eq!(black_holes(&s), 1);
    s.inject(ack(1, 1461)).write(2_000);
    s.expect(data(1461, 1, 984)).expect(data(2445, 1, 984));
}

/// Swarm seed 213377 of at most 1 MiB: nothing is gained by a floor above the segment itself.
#[test]
fn a_segment_below_the_first_floor_is_cut_to_the_next() {
    let mut s = client(NO_SACK);
    s.write(865).expect(data(1, 1, 865));
    s.until(400).expect(data(1, 1, 865));
    s.until(1_000).expect(data(1, 1, 536));
    s.at(1_100).inject(ack(1, 537)).expect(data(537, 1, 329));
    assert_eq!((tcp(&s).pmtu, black_holes(&s)), (576, 1));
}

#[test]
fn each_family_has_its_floors() {
    let mut s = Script::new(|_| {});
    s.add_leg("[fd00::1]:80", "[fd00::2]:4000", Peer { mss: Some(1440), ..NO_SACK });
    s.listen().peer_opens();
    s.write(1440).expect(data(1, 1, 1440));
    let mut sent = Vec::new();
    s.skip_collecting(2_000, &mut sent);
    assert_eq!(lengths(&sent)[..3], [1440, 1220, 1220]);
    assert_eq!(tcp(&s).pmtu, 1280);
    // Nothing is shorter than that.
    for (local, peer, mss) in
        [("[fd00::1]:80", "[fd00::2]:4000", 1220), ("10.0.0.1:80", "10.0.0.2:4001", 536)]
    {
        let mut s = Script::new(|_| {});
        s.add_leg(local, peer, Peer { mss: Some(mss), ..NO_SACK });
        s.on(1).listen().peer_opens();
        s.write(usize::from(mss)).take();
        let mut sent = Vec::new();
        s.skip_collecting(10_000, &mut sent);
        assert!(sent.len() > 3 && sent.iter().all(|seg| seg.len == usize::from(mss)), "{sent:?}");
    }
}

/// A segment that is not longer than the floor is missing for another reason.
#[test]
fn a_short_segment_that_times_out_says_nothing() {
    let mut s = client(NO_SACK);
    s.write(536).expect(data(1, 1, 536));
    for ms in [400, 1_000, 2_200, 4_600] {
        s.until(ms).expect(data(1, 1, 536));
    }
    assert_eq!(tcp(&s).pmtu, 1500);
}

/// Neither does a peer that answers and has shut its window.
#[test]
fn a_shut_window_is_no_black_hole() {
    let mut s = client(NO_SACK);
    s.write(1460).expect(data(1, 1, 1460));
    s.inject(ack(1, 1).window(0));
    for ms in [400, 1_000, 2_200] {
        s.until(ms).expect(data(1, 1, 1460)).inject(ack(1, 1).window(0));
    }
    assert_eq!(tcp(&s).pmtu, 1500);
}

/// Short segments are lost too: the path is dead, and when it is back the old size is right.
#[test]
fn the_old_size_holds_when_short_segments_are_lost_as_well() {
    let mut s = client(NO_SACK);
    s.write(1460).expect(data(1, 1, 1460));
    s.until(400).expect(data(1, 1, 1460)).until(1_000).expect(data(1, 1, 984));
    for (ms, pmtu) in [(2_200, 576), (4_600, 576), (9_400, 1500), (19_000, 1500), (38_200, 1500)] {
        s.until(ms).expect(data(1, 1, 536));
        assert_eq!(tcp(&s).pmtu, pmtu, "at {ms}");
        // What was cut stays as it is, so that one full segment is three.
        let rest = s.take_all();
        assert_eq!(lengths(&rest), if pmtu == 1500 { &[448, 476][..] } else { &[] }, "at {ms}");
    }
    s.at(40_000).inject(ack(1, 1461)).write(1460).expect(data(1461, 1, 1460));
    assert_eq!((black_holes(&s), tcp(&s).pmtu), (0, 1500));
    // Then it may be one after all.
    let mut sent = Vec::new();
    s.skip_collecting(240_000, &mut sent);
    assert!(sent.iter().any(|seg| seg.len == 984), "{:?}", lengths(&sent));
}

/// What acknowledges the long segment after all ends the doubt: by its echo, or because it is about more
/// than was sent short.
#[test]
fn a_late_acknowledgement_of_the_long_segment_takes_the_cut_back() {
    let mut s = client(Peer { ts: true, ..NO_SACK });
    s.write(1448).expect(data(1, 1, 1448));
    s.until(400).expect(data(1, 1, 1448));
    let first = s.leg().tsval;
    s.until(1_000).expect(data(1, 1, 972));
    let clock = s.peer_clock();
    s.at(1_010).inject(ack(1, 973).ts(clock, first)).take_all();
    assert_eq!((tcp(&s).pmtu, black_holes(&s), s.stack.counters().tcp_undo), (1500, 0, 0));

    let mut s = client(NO_SACK);
    s.write(1460).expect(data(1, 1, 1460));
    s.until(400).expect(data(1, 1, 1460)).until(1_000).expect(data(1, 1, 984));
    s.at(1_010).inject(ack(1, 1461)).write(1460).expect(data(1461, 1, 1460));
    assert_eq!((tcp(&s).pmtu, black_holes(&s)), (1500, 0));
}

/// Nothing was congested: the windows are as before the timeouts.
#[test]
fn the_timeouts_of_a_black_hole_reduce_no_window() {
    for congestion in CongestionAlgorithm::ALL {
        let mut s = Script::client(|config| config.tcp.congestion = congestion, WIDE, 100);
        let name = congestion.name();
        s.write(14_600);
        assert_eq!(s.take_all().len(), 10);
        let mut sent = Vec::new();
        s.skip_collecting(1_210, &mut sent);
        let before = tcp(&s);
        assert!(before.cwnd <= 2 * SHORT, "{name}: {before:?}");
        s.inject(ack(1, 1 + SHORT));
        let after = tcp(&s);
        assert_eq!(black_holes(&s), 1, "{name}");
        assert!(after.cwnd >= 14_600 && after.cwnd < 14_600 + 2 * SHORT, "{name}: {after:?}");
        assert_eq!(after.snd_ssthresh, None, "{name}: {after:?}");
        // Everything that is missing goes out at once, or at the pace of a round trip.
        let mut again = s.take_all();
        s.skip_collecting(1_270, &mut again);
        let again: usize = lengths(&again).iter().sum();
        assert_eq!(again, 14_600 - 984, "{name}");
    }
}

#[test]
fn switched_off_long_segments_stay_long() {
    let off = |config: &mut StackConfig| config.tcp.mtu_probing = MtuProbing::Off;
    let mut s = Script::client(off, WIDE, 100);
    s.write(1460).expect(data(1, 1, 1460));
    let mut sent = Vec::new();
    s.skip_collecting(60_000, &mut sent);
    assert!(sent.len() > 5 && sent.iter().all(|seg| seg.len == 1460), "{:?}", lengths(&sent));
    // What ICMP says still counts, and nothing tries more later.
    icmp(&mut s, 4, 1000, 1);
    s.take_all();
    s.inject(ack(1, 1461)).skip_to(60_000 + 2 * TEN_MINUTES);
    s.write(20_000);
    assert!(s.take_all().iter().all(|seg| seg.len == 960));
    assert_eq!(probes(&s), (0, 0));
}

// The search.

/// The path was only dead for a while: the first probe has the old size and proves it.
#[test]
fn the_first_probe_tries_the_old_size() {
    let mut s = behind_a_black_hole(|_| {});
    let start = probe_goes(&mut s, 1460);
    s.inject(ack(1, start + 1460)).take_all();
    assert_eq!((probes(&s), tcp(&s).pmtu), ((1, 0), 1500));
    let end = s.leg().written + 1;
    s.inject(ack(1, end)).write(2 * 1460);
    s.expect(data(end, 1, 1460)).expect(data(end + 1460, 1, 1460));
}

/// It counts as arrived when it is selectively acknowledged.
#[test]
fn a_probe_may_arrive_before_what_was_sent_before_it() {
    let mut s = behind_a_black_hole(|_| {});
    let first = s.leg().written + 1;
    s.write(984).expect(data(first, 1, 984));
    let start = probe_goes(&mut s, 1460);
    s.inject(ack(1, first).sack(&[(start, start + 1460)])).take_all();
    assert_eq!((probes(&s), tcp(&s).pmtu), ((1, 0), 1500));
}

/// RFC 4821 §7.5: the loss of a probe alone is repaired at the size that passes, and costs no window.
#[test]
fn a_lost_probe_is_no_congestion() {
    for congestion in CongestionAlgorithm::ALL {
        let mut s = behind_a_black_hole(|config| config.tcp.congestion = congestion);
        let start = probe_goes(&mut s, 1460);
        s.skip_to(1_600);
        let cwnd = tcp(&s).cwnd;
        let end = s.leg().written + 1;
        s.inject(ack(1, start).sack(&[(start + 1460, end)]));
        let mut again = s.take_all();
        s.skip_collecting(1_610, &mut again);
        assert_eq!(lengths(&again), [984, 476]);
        let after = tcp(&s);
        assert_eq!((after.congestion_state, after.pipe), (CongestionState::Open, 1460));
        assert!(after.cwnd >= cwnd && after.snd_ssthresh.is_none(), "{after:?}");
        s.at(1_700).inject(ack(1, end)).expect_nothing();
        let counters = s.stack.counters();
        assert_eq!((counters.tcp_sack_recovery, counters.tcp_loss_probe_recovery), (0, 0));
        assert_eq!((probes(&s), tcp(&s).pmtu), ((0, 1), 1024));
    }
}

/// The repair of a probe is lost: that is congestion.
#[test]
fn a_lost_repair_of_a_probe_is_a_loss() {
    let mut s = behind_a_black_hole(|_| {});
    let start = probe_goes(&mut s, 1460);
    let end = s.leg().written + 1;
    let cwnd = tcp(&s).cwnd;
    s.at(1_600).inject(ack(1, start).sack(&[(start + 1460, end)]));
    s.expect(data(start, 1, 984)).expect(data(start + SHORT, 1, 476));
    s.at(1_700).inject(ack(1, start).sack(&[(start + SHORT, end)]));
    s.expect(data(start, 1, 984));
    assert_eq!(tcp(&s).congestion_state, CongestionState::Recovery);
    s.at(1_800).inject(ack(1, end));
    assert!(tcp(&s).cwnd < cwnd, "{:?}", tcp(&s));
}

/// Beside a probe others are missing: an ordinary loss, and nothing is learnt.
#[test]
fn a_probe_lost_among_others_says_nothing() {
    let mut s = behind_a_black_hole(|_| {});
    let start = probe_goes(&mut s, 1460);
    let end = s.leg().written + 1;
    let behind = start + 1460 + SHORT;
    s.at(1_600).inject(ack(1, start).sack(&[(behind, end)]));
    assert_eq!(tcp(&s).congestion_state, CongestionState::Recovery);
    assert_eq!(s.take_all()[0].len, 984);
    s.at(1_700).inject(ack(1, end));
    assert_eq!((probes(&s), tcp(&s).pmtu), ((0, 0), 1024));
    // It is tried again.
    s.at(2_000);
    probe_goes(&mut s, 1460);
}

/// What was missing before it began a recovery; the probe, found lost later, is repaired in its course.
/// That its octets are acknowledged then proves nothing.
#[test]
fn a_probe_repaired_in_a_recovery_did_not_arrive() {
    let mut s = behind_a_black_hole(|_| {});
    let first = s.leg().written + 1;
    for n in 0..4 {
        s.write(984).expect(data(first + n * SHORT, 1, 984));
    }
    let start = probe_goes(&mut s, 1460);
    let end = s.leg().written + 1;
    s.at(1_600).inject(ack(1, first).sack(&[(first + SHORT, start)]));
    assert_eq!(tcp(&s).congestion_state, CongestionState::Recovery);
    s.expect(data(first, 1, 984)).expect_nothing();
    let both = [(start + 1460, end), (first + SHORT, start)];
    s.at(1_610).inject(ack(1, first).sack(&both));
    s.expect(data(start, 1, 984)).expect(data(start + SHORT, 1, 476));
    s.at(1_700).inject(ack(1, end));
    assert_eq!((probes(&s), tcp(&s).pmtu), ((0, 0), 1024));
}

/// The top is given up after the timeouts and one probe; every other size after three.
#[test]
fn three_lost_probes_lower_the_ceiling() {
    let mut s = behind_a_black_hole(|_| {});
    let start = probe_goes(&mut s, 1460);
    s.at(1_600);
    probe_is_lost(&mut s, start, 1460);
    // Half way between 984 and 1459, and no sooner than eight round trips later.
    s.at(2_300).write(8_000);
    assert!(s.take_all().iter().all(|seg| seg.len <= 984));
    let end = s.leg().written + 1;
    s.at(2_390).inject(ack(1, end));
    for round in 0..3 {
        let ms = s.ms() + 900;
        let start = s.at(ms);
        let start = probe_goes(start, 1221);
        s.at(ms + 100);
        let again = probe_is_lost(&mut s, start, 1221);
        assert_eq!(lengths(&again), [984, 237], "round {round}");
    }
    let ms = s.ms() + 900;
    let start = probe_goes(s.at(ms), 1102);
    s.at(ms + 100).inject(ack(1, start + 1102)).take_all();
    assert_eq!((probes(&s), tcp(&s).pmtu), ((1, 4), 1142));
    // 1102 to 1220.
    let end = s.leg().written + 1;
    s.inject(ack(1, end));
    probe_goes(&mut s, 1161);
}

/// Sizes up to `limit` pass: the search ends within 16 octets of it, rests for ten minutes and begins
/// anew.
#[test]
fn a_search_ends_near_what_passes_and_begins_anew() {
    let mut s = behind_a_black_hole(|_| {});
    let search = |s: &mut Script, limit: usize| {
        for _ in 0..40 {
            let ms = s.ms() + 2_000;
            let start = s.at(ms).leg().written + 1;
            s.write(8_000);
            let first = s.take_all()[0].len as u32;
            s.at(ms + 100);
            if first as usize > limit {
                probe_is_lost(s, start, first);
            } else {
                let end = s.leg().written + 1;
                s.inject(ack(1, end)).expect_nothing();
            }
        }
    };
    search(&mut s, 1260);
    let found = tcp(&s).snd_mss;
    assert!((1245..=1260).contains(&found), "{found}");
    let (arrived, lost) = probes(&s);
    assert!(lost <= 13 && arrived >= 2, "{arrived} arrived, {lost} lost");
    // Nothing more is tried.
    search(&mut s, 1460);
    assert_eq!(probes(&s), (arrived, lost));
    let ms = s.ms() + TEN_MINUTES;
    s.at(ms);
    // The path is as wide as it was: the first probe shows it, and nothing is left to be found out.
    let start = probe_goes(&mut s, 1460);
    s.inject(ack(1, start + 1460)).take_all();
    assert_eq!((probes(&s), tcp(&s).pmtu), ((arrived + 1, lost), 1500));
}

/// A probe needs company behind it, or its loss would take a timeout to notice.
#[test]
fn nothing_is_probed_with_the_last_of_the_data_or_of_the_window() {
    let mut s = behind_a_black_hole(|_| {});
    s.write(1460 + 2 * 984 - 1);
    // One ends with a buffer and is sent without a copy.
    assert_eq!(lengths(&s.take_all()), [984, 984, 952, 507]);
    let end = s.leg().written + 1;
    // The same for the peer's window: 26 << 7 is not enough, 27 << 7 is.
    s.inject(ack(1, end).window(26)).write(20_000);
    let sent = lengths(&s.take_all());
    assert!(sent.len() > 2 && sent.iter().all(|len| *len <= 984), "{sent:?}");
    let una = end + sent.iter().sum::<usize>() as u32;
    s.inject(ack(1, una).window(27));
    assert_eq!(s.take_all()[0].len, 1460);
}

/// Without SACK the loss of a probe would look like any other.
#[test]
fn without_sack_nothing_is_probed() {
    let mut s = client(NO_SACK);
    s.write(1460).expect(data(1, 1, 1460));
    s.until(400).expect(data(1, 1, 1460)).until(1_000).expect(data(1, 1, 984));
    s.at(1_100).inject(ack(1, 985)).expect(data(985, 1, 476)).inject(ack(1, 1461));
    s.write(9_840);
    assert!(s.take_all().iter().all(|seg| seg.len <= 984));
    let always = |config: &mut StackConfig| config.tcp.mtu_probing = MtuProbing::Always;
    let mut s = Script::client(always, NO_SACK, 100);
    s.write(1460).expect(data(1, 1, 1460));
}

#[test]
fn always_begins_short_and_tries_the_most_first() {
    let always = |config: &mut StackConfig| config.tcp.mtu_probing = MtuProbing::Always;
    for server in [false, true] {
        let mut s =
            if server { Script::server(always, WIDE) } else { Script::client(always, WIDE, 100) };
        assert_eq!((tcp(&s).pmtu, tcp(&s).cwnd), (1024, 9_840));
        s.write(984).expect(data(1, 1, 984));
        let start = probe_goes(&mut s, 1460);
        let cwnd = tcp(&s).cwnd;
        s.inject(ack(1, start));
        s.take_all();
        s.inject(ack(1, start + 1460)).take_all();
        assert_eq!((probes(&s), tcp(&s).pmtu), ((1, 0), 1500));
        // RFC 8899 §3: a larger size lets no more octets out.
        assert!(tcp(&s).cwnd <= cwnd + SHORT + 1460, "{cwnd}: {:?}", tcp(&s));
    }
}

// ICMP.

/// The search has an upper bound that somebody told: that is what is tried next.
#[test]
fn icmp_bounds_the_search() {
    let mut s = behind_a_black_hole(|_| {});
    let start = probe_goes(&mut s, 1460);
    let cwnd = tcp(&s).cwnd;
    icmp(&mut s, 4, 1300, start);
    // Whoever dropped it says so: it comes again at once.
    s.expect(data(start, 1, 984)).expect(data(start + SHORT, 1, 476));
    let end = s.leg().written + 1;
    s.at(1_600).inject(ack(1, end));
    assert!(tcp(&s).cwnd >= cwnd && tcp(&s).congestion_state == CongestionState::Open);
    assert_eq!(probes(&s), (0, 0));
    let start = probe_goes(&mut s, 1260);
    s.at(1_700).inject(ack(1, start + 1260)).take_all();
    assert_eq!((probes(&s), tcp(&s).pmtu), ((1, 0), 1300));
    // That is the most there is, for ten minutes.
    let end = s.leg().written + 1;
    s.inject(ack(1, end)).write(20_000);
    assert!(s.take_all().iter().all(|seg| seg.len <= 1260));
}

/// RFC 1191 §6.3, RFC 8201 §4: what ICMP told is doubted after ten minutes, with a probe.
#[test]
fn what_icmp_told_is_tried_again_after_ten_minutes() {
    let mut s = client(WIDE);
    s.write(1460).expect(data(1, 1, 1460));
    icmp(&mut s, 4, 1000, 1);
    s.expect(data(1, 1, 960)).expect(data(961, 1, 500));
    s.at(200).inject(ack(1, 1461)).write(9_600);
    assert!(s.take_all().iter().all(|seg| seg.len == 960));
    s.at(300).inject(ack(1, 11_061)).at(TEN_MINUTES - 1_000).write(9_600);
    assert!(s.take_all().iter().all(|seg| seg.len == 960), "too soon");
    s.inject(ack(1, 20_661)).at(TEN_MINUTES + 1_000);
    let start = probe_goes(&mut s, 1460);
    // It still is as it was.
    icmp(&mut s, 4, 1000, start);
    s.expect(data(start, 1, 960)).expect(data(start + 960, 1, 500));
    let end = s.leg().written + 1;
    s.inject(ack(1, end));
    assert_eq!((tcp(&s).pmtu, probes(&s)), (1000, (0, 0)));
}

/// A cut that was made without knowing more, and then somebody says how much it is.
#[test]
fn icmp_may_come_after_the_cut() {
    let mut s = client(WIDE);
    s.write(10 * 1460);
    s.take_all();
    s.skip_to(1_210);
    assert_eq!(tcp(&s).pmtu, 1024);
    icmp(&mut s, 4, 1400, 1);
    s.take_all();
    s.inject(ack(1, 1 + SHORT)).take_all();
    // The window comes back as without it.
    assert!(black_holes(&s) == 1 && tcp(&s).cwnd >= 14_600, "{:?}", tcp(&s));
    let end = s.leg().written + 1;
    s.at(1_300).inject(ack(1, end));
    probe_goes(&mut s, 1360);
}

/// One long segment among short ones that keep arriving: each of them shows it lost anew, and the timeout that
/// tells of the hop must not be put off each time it comes again.
#[test]
fn short_segments_that_arrive_do_not_hide_a_black_hole() {
    let mut s = Script::client(|config| config.tcp.nagle = false, WIDE, 20);
    s.write(1460);
    let (mut sent, mut on_its_way, mut long) = (s.take_all(), Vec::new(), 0);
    for now in (30..1_000).step_by(10) {
        for seg in sent.drain(..) {
            match (seg.seq, seg.len) {
                (1, 1460) => long += 1,
                (1, len) => {
                    assert_eq!((len, s.stack.counters().tcp_timeouts), (SHORT as usize, 2));
                    assert!(now <= 650 && long <= 25, "{long} times until {now}");
                    s.inject(ack(1, 1 + SHORT)).take_all();
                    assert_eq!(black_holes(&s), 1);
                    return;
                }
                (seq, len) => on_its_way.push((now + 10, seq + len as u32)),
            }
        }
        s.skip_collecting(now, &mut sent);
        s.write(100);
        for (_, end) in on_its_way.extract_if(.., |(at, _)| *at <= now) {
            s.inject(ack(1, 1).sack(&[(1461, end)]));
        }
        sent.extend(s.take_all());
    }
    panic!("sent {long} times");
}

/// What ICMP tells about a SYN is about the path; what the SYN/ACK tells is about the peer. Neither makes
/// the other forgotten, not even by a search long after.
#[test]
fn a_path_mtu_that_the_syn_met_holds() {
    for probing in MtuProbing::ALL {
        for (mss, len) in [(1460, 960), (536, 536)] {
            let mut s = Script::new(|config| {
                (config.tcp.mtu_probing, config.tcp.nagle) = (probing, false);
            });
            s.leg().offer = Peer { mss: Some(mss), ..WIDE };
            s.leg().local.set_port(5000);
            s.connect().take();
            icmp(&mut s, 4, 1000, 0);
            s.expect_nothing().at(100).peer_answers().expect(ack(1, 1)).write(4_000);
            let sent = lengths(&s.take_all());
            assert!(sent[0] == len && sent.iter().all(|&l| l <= len), "{probing:?}: {sent:?}");
            s.at(200).inject(ack(1, 4_001)).expect_nothing();
            s.at(TEN_MINUTES + 1_000).write(20_000);
            let sent = lengths(&s.take_all());
            assert!(sent.iter().all(|&l| l <= usize::from(mss)), "{probing:?}: {sent:?}");
        }
    }
}
