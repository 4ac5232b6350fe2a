//! Options: lengths, alignment, kinds nobody knows, MSS, window scale, timestamps (RFC 9293 §3.1,
//! §3.2, §3.7.1; RFC 7323 §2, §3, §4).

use crate::harness::{Peer, Script, Seg, ack, build, data, syn_ack};
use mptcp_core::config::CongestionAlgorithm;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::wire::{
    MpJoin, MptcpOption, OptionWriter, TcpFlags, TcpHeader, TcpOption, checksum, set_checksum,
};

const TCP_AT: usize = 20;

/// RFC 9293 §3.1 (MUST-6): to a stack without MPTCP a join is a SYN with an option that it does not know.
#[test]
fn without_mptcp_a_join_is_an_open() {
    let mut s = Script::new(|config| config.mptcp.versions.clear());
    let join = MpJoin::Syn { backup: false, address_id: 2, token: 0x1234_5678, nonce: 1 };
    let mut options = OptionWriter::new();
    assert!(options.push(&TcpOption::Mptcp(MptcpOption::Join(join))));
    let leg = s.leg();
    let header = TcpHeader {
        src_port: leg.peer.port(),
        dst_port: leg.local.port(),
        seq: leg.irs,
        flags: TcpFlags::SYN,
        window: leg.offer.window,
        ..TcpHeader::default()
    };
    let packet = build(leg.peer.ip(), leg.local.ip(), &header, &options, &[]);
    s.listen().inject_bytes(&packet).expect(syn_ack());
    s.inject(ack(1, 1)).expect_nothing().accept();
}

/// The packet of `seg`, which carries no options of its own, with the option area `options`.
fn with_options(s: &mut Script, seg: &Seg, options: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let mut writer = OptionWriter::new();
    for _ in 0..options.len() {
        assert!(writer.nop());
    }
    let leg = s.leg();
    let acks = seg.flags.contains(TcpFlags::ACK);
    let header = TcpHeader {
        src_port: leg.peer.port(),
        dst_port: leg.local.port(),
        seq: leg.irs.add(seg.seq),
        ack: if acks { leg.iss.add(seg.ack) } else { mptcp_core::seq::SeqNum(0) },
        flags: seg.flags,
        window: seg.window.unwrap_or(leg.offer.window),
        urgent: 0,
    };
    let payload: Vec<u8> =
        (0..seg.len as u32).map(|i| crate::harness::octet(seg.seq + i)).collect();
    let (src, dst) = (leg.peer.ip(), leg.local.ip());
    let mut bytes = build(src, dst, &header, &writer, &payload);
    let tcp = &mut bytes[TCP_AT..];
    tcp[20..20 + options.len()].copy_from_slice(options);
    set_checksum(tcp, 0);
    let sum = checksum::tcp_checksum(src, dst, tcp);
    set_checksum(tcp, sum);
    bytes
}

/// The peer's SYN with this option area; our answer.
fn answer_to(options: &[u8]) -> (Script, Seg) {
    let mut s = Script::new(|_| {});
    s.listen();
    let packet = with_options(&mut s, &crate::harness::syn(), options);
    let answer = s.inject_bytes(&packet).take();
    assert_eq!(answer.flags, syn_ack().flags);
    (s, answer)
}

#[test]
fn unknown_options_are_skipped_wherever_they_are() {
    // Kind 200 of 5 octets, one octet of padding, then the MSS; the window scale stands on no word.
    let (mut s, answer) = answer_to(&[200, 5, 1, 2, 3, 1, 3, 3, 7, 2, 4, 0x02, 0x58, 253, 2, 0]);
    assert_eq!(answer.wscale, Some(7));
    s.inject(ack(1, 1)).accept().write(700).expect(data(1, 1, 600)).expect(data(601, 1, 100));
    // In any segment, one without SYN too.
    let packet = with_options(&mut s, &data(1, 701, 10), &[200, 7, 1, 2, 3, 4, 5, 1]);
    s.inject_bytes(&packet).expect(ack(701, 11)).read(10);
}

#[test]
fn an_impossible_option_length_ends_the_list_and_nothing_else() {
    for broken in [[99, 0, 3, 3], [99, 1, 3, 3], [99, 255, 3, 3], [2, 0, 3, 3], [1, 1, 1, 8]] {
        let mut options = vec![2, 4, 0x02, 0x58];
        options.extend_from_slice(&broken);
        options.extend_from_slice(&[3, 3, 7, 0]);
        let (mut s, answer) = answer_to(&options);
        // What stood before it counts, what stands behind it may be anything.
        assert_eq!(answer.wscale, None, "{broken:?}");
        s.inject(ack(1, 1)).accept().write(700).expect(data(1, 1, 600));
        s.take_all();
        for broken in [[99, 0, 1, 1], [5, 255, 1, 1], [8, 1, 1, 1]] {
            let packet = with_options(&mut s, &data(1, 701, 10), &broken);
            s.inject_bytes(&packet);
            assert_eq!(s.take().ack, 11, "{broken:?}");
        }
    }
}

#[test]
fn options_behind_the_end_of_the_list_are_none() {
    let (_, answer) = answer_to(&[2, 4, 0x05, 0xb4, 0, 3, 3, 7]);
    assert_eq!(answer.wscale, None);
}

/// RFC 9293 §3.1: the reserved bits mean nothing yet; so do ECN's two to who did not agree on it.
#[test]
fn reserved_header_bits_are_ignored() {
    let mut s = Script::server(|_| {}, Peer::default());
    let mut packet = s.packet(&data(1, 1, 10));
    packet[TCP_AT + 12] |= 0x0f;
    let (src, dst) = (s.leg().peer.ip(), s.leg().local.ip());
    let tcp = &mut packet[TCP_AT..];
    set_checksum(tcp, 0);
    let sum = checksum::tcp_checksum(src, dst, tcp);
    set_checksum(tcp, sum);
    s.inject_bytes(&packet).expect(ack(1, 11)).read(10);
    s.inject(data(11, 1, 10).flags(TcpFlags::ACK | TcpFlags::CWR)).expect(ack(1, 21)).read(10);
}

/// RFC 9293 §3.7.1 (MUST-16): the smaller of what the peer takes and what the path carries; but a
/// peer that asks for slivers gets segments of 216 octets.
#[test]
fn the_announced_segment_size_has_bounds() {
    for (announced, len) in [(1, 216), (0, 536), (300, 300), (9_000, 1460), (65_535, 1460)] {
        let offer = Peer { mss: Some(announced), ..Peer::default() };
        let mut s = Script::server(|_| {}, offer);
        s.write(5_000).expect(data(1, 1, len));
    }
}

#[test]
fn the_segment_size_is_agreed_on_by_syns_only() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(Seg { mss: Some(300), ..data(1, 1, 10) }).expect(ack(1, 11));
    s.inject(Seg { wscale: Some(0), sack_permitted: true, ..data(11, 1, 10) }).expect(ack(1, 21));
    s.write(1460).expect(data(1, 21, 1460)).inject(ack(21, 1461).window(2)).write(5_000);
    // Still scaled by 7.
    s.expect_nothing().inject(ack(21, 1461).window(12)).expect(data(1461, 21, 1460));
    // Nor do we name it again.
    s.inject(data(21, 2921, 10));
    assert!(s.take_all().iter().all(|seg| (seg.mss, seg.wscale) == (None, None)));
}

/// RFC 7323 §2.3
#[test]
fn a_window_scale_above_14_is_14() {
    for shift in [14, 15, 255] {
        let offer = Peer { wscale: Some(shift), window: 1, ..Peer::default() };
        let mut s = Script::server(|_| {}, offer);
        s.write(30_000);
        let sent: usize = s.take_all().iter().map(|seg| seg.len).sum();
        // Ten segments of the initial window are 14,600 octets; 1 << 14 lets them out.
        assert_eq!(sent, 14_600, "{shift}");
        s.inject(ack(1, 14_601).window(0)).take_all();
        s.inject(ack(1, 14_601).window(1));
        let sent: usize = s.take_all().iter().map(|seg| seg.len).sum();
        assert!((14_000..=16_384).contains(&sent), "{sent} at a shift of {shift}");
    }
}

/// RFC 7323 §2.2
#[test]
fn the_window_of_a_syn_is_not_scaled() {
    let offer = Peer { window: 1_000, ..Peer::default() };
    let mut s = Script::client(|_| {}, offer, 10);
    s.write(5_000).expect(data(1, 1, 1_000)).expect_nothing();
    s.inject(ack(1, 1_001)).expect(data(1_001, 1, 1460));
}

/// RFC 7323 §2.2: both SYNs have the option, and so has the SYN/ACK of a simultaneous open, whatever
/// its shift: it may be the only one that arrives.
#[test]
fn the_syn_ack_of_a_simultaneous_open_repeats_the_window_scale() {
    for (theirs, ours) in [(Some(7), Some(0)), (None, None)] {
        let mut s = Script::new(|config| config.tcp.recv_buffer_max = 60_000);
        s.leg().offer.wscale = theirs;
        let crossing = s.peer_syn();
        s.connect();
        assert_eq!(s.take().wscale, Some(0));
        s.inject(crossing);
        assert_eq!(s.take().wscale, ours);
    }
}

// Timestamps.

#[test]
fn timestamps_nobody_agreed_on_mean_nothing() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(data(1, 1, 10).ts(500, 0)).expect(ack(1, 11));
    s.inject(data(11, 1, 10).ts(1, 0));
    assert_eq!((s.take().ts, s.dropped(DropReason::Paws)), (None, 0));
    s.read(20);
}

/// RFC 7323 §3.2 would drop it; a middlebox that blanks options would then end the connection.
#[test]
fn a_segment_that_lost_its_timestamps_is_taken() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    let packet = with_options(&mut s, &data(1, 1, 10), &[]);
    s.inject_bytes(&packet);
    let answer = s.take();
    assert!(answer.ts.is_some(), "ours go on");
    s.read(10);
}

#[test]
fn every_segment_but_a_reset_has_timestamps_once_agreed() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    s.write(100).inject(data(200, 101, 10)).inject(data(1, 101, 10)).shutdown();
    assert!(s.take_all().iter().all(|seg| seg.ts.is_some()));
    s.abort();
    assert_eq!(s.take().ts, None);
}

#[test]
fn timestamps_wrap() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    let clock = s.peer_clock();
    let (half, rest) = (clock.wrapping_add(1 << 30), u32::MAX - 3);
    for (n, tsval) in [half, half + (1 << 30), rest, 2].into_iter().enumerate() {
        let seq = 1 + 10 * n as u32;
        s.inject(data(seq, 1, 10).ts(tsval, 0));
        assert_eq!(s.take().ts.unwrap().1, tsval);
    }
    assert_eq!(s.dropped(DropReason::Paws), 0);
    s.inject(data(41, 1, 10).ts(rest, 0));
    assert_eq!((s.take().ts.unwrap().1, s.dropped(DropReason::Paws)), (2, 1));
}

/// RFC 7323 §5.3 (R3): only what lies at or below the last acknowledgement moves the echo, and what is
/// not acceptable never does.
#[test]
fn the_echo_never_comes_from_outside_the_window() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    let clock = s.peer_clock();
    s.inject(data(1 << 20, 1, 10).ts(clock + 1_000, 0));
    assert_eq!(s.take().ts.unwrap().1, clock);
    s.inject(data(1, 500, 10).ts(clock + 2_000, 0));
    assert_eq!(s.take().ts.unwrap().1, clock);
    s.inject(data(1, 1, 10).ts(clock + 1, 0));
    assert_eq!(s.take().ts.unwrap().1, clock + 1);
}

/// An echo of nothing proves nothing: neither a round trip nor that a timeout was spurious.
#[test]
fn an_echo_of_zero_or_of_the_future_is_no_measurement() {
    for ahead in [None, Some(1 << 20)] {
        let peer = Peer { ts: true, sack: false, wscale: Some(7), window: 65_535, mss: Some(1460) };
        let newreno = |c: &mut mptcp_core::config::StackConfig| {
            c.tcp.congestion = CongestionAlgorithm::NewReno;
        };
        let mut s = Script::client(newreno, peer, 100);
        s.write(1_448).expect(data(1, 1, 1_448)).until(400).expect(data(1, 1, 1_448));
        let before = s.stack.info(s.id()).unwrap().subflows[0].srtt;
        let (clock, ours) = (s.peer_clock(), s.leg().tsval);
        let echo = ahead.map_or(0, |ahead: u32| ours.wrapping_add(ahead));
        s.at(1_000).inject(ack(1, 1_449).ts(clock, echo)).take_all();
        let info = s.stack.info(s.id()).unwrap();
        assert_eq!((info.subflows[0].srtt, s.stack.counters().tcp_undo), (before, 0), "{ahead:?}");
        assert_eq!(s.state(), State::Established);
    }
}

/// What a segment carries counts against the window and the segment size with its options.
#[test]
fn options_come_off_the_segment_size() {
    let mut s = Script::server(|_| {}, Peer { ts: true, mss: Some(1_000), ..Peer::default() });
    let mut writer = OptionWriter::new();
    assert!(writer.push(&TcpOption::Timestamps { tsval: 0, tsecr: 0 }));
    s.write(2_000);
    assert_eq!(s.take().len, 1_000 - writer.padded_len());
}

/// RFC 7323 §4.3: the echo is that of the SYN that is answered; an old copy moves nothing back.
#[test]
fn a_repeated_syn_is_answered_with_its_own_timestamp() {
    let mut s = Script::new(|_| {});
    s.leg().offer.ts = true;
    let first = s.listen().peer_syn();
    let clock = s.peer_clock();
    s.inject(first.clone());
    assert_eq!(s.take().ts.unwrap().1, clock);
    s.at(500);
    let again = s.peer_syn();
    s.inject(again);
    assert_eq!(s.take().ts.unwrap().1, clock + 500);
    s.inject(first);
    assert_eq!(s.take().ts.unwrap().1, clock + 500);
    s.inject(data(1, 1, 10).ts(clock + 600, 0)).expect(ack(1, 11)).accept().read(10);
}
