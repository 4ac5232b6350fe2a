//! The receiver: sequence checks, reassembly, SACK and D-SACK, delayed ACKs, the receive window
//! (RFC 9293 §3.8.6, §3.10.7.4; RFC 2018; RFC 2883; RFC 5681 §4.2; RFC 7323 §5).

use crate::harness::{Peer, Script, Seg, ack, data, fin, rst};
use mptcp_core::buf::PacketBuf;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;

fn server() -> Script {
    Script::server(|_| {}, Peer::default())
}

fn with_timestamps() -> Script {
    Script::server(|_| {}, Peer { ts: true, ..Peer::default() })
}

/// Uses up the quick ACKs of the start with `n` octets each; answers the next sequence number.
fn after_quick_acks(s: &mut Script, n: u32) -> u32 {
    let mut seq = 1;
    for _ in 0..16 {
        s.inject(data(seq, 1, n as usize));
        seq += n;
        s.expect(ack(1, seq)).read(n as usize);
        s.take_all();
    }
    seq
}

#[test]
fn the_first_segments_are_acknowledged_at_once() {
    let mut s = server();
    after_quick_acks(&mut s, 100);
    s.inject(data(1601, 1, 100)).expect_nothing();
}

#[test]
fn acknowledgements_wait_for_a_second_segment_or_40_ms() {
    let mut s = server();
    let seq = after_quick_acks(&mut s, 1000);
    s.inject(data(seq, 1, 1000)).expect_nothing();
    s.inject(data(seq + 1000, 1, 1000)).expect(ack(1, seq + 2000));
    s.at(10).inject(data(seq + 2000, 1, 1000)).until(50).expect(ack(1, seq + 3000));
    // Once sent, no second time.
    s.at(500).expect_nothing();
    // Data takes the acknowledgement along.
    s.inject(data(seq + 3000, 1, 1000)).write(10).expect(data(1, seq + 4000, 10));
    s.inject(ack(seq + 4000, 11)).at(1_000).expect_nothing();
}

/// A port has joined them: none may be longer than what the SYN asks for.
#[test]
fn what_is_longer_than_a_segment_counts_as_two() {
    let mut s = server();
    let seq = after_quick_acks(&mut s, 1000);
    s.inject(data(seq, 1, 1460)).expect_nothing();
    s.inject(data(seq + 1460, 1, 10)).expect(ack(1, seq + 1470));
    s.inject(data(seq + 1470, 1, 1600)).expect(ack(1, seq + 3070));
}

#[test]
fn out_of_order_and_hole_filling_segments_are_acknowledged_at_once() {
    let mut s = server();
    let seq = after_quick_acks(&mut s, 100);
    s.inject(data(seq + 100, 1, 100)).expect(ack(1, seq).sack(&[(seq + 100, seq + 200)]));
    s.inject(data(seq, 1, 100)).expect(ack(1, seq + 200)).read(200);
}

#[test]
fn sack_blocks_name_the_newest_first_and_the_recent_ones_behind() {
    let mut s = server();
    s.inject(data(101, 1, 100)).expect(ack(1, 1).sack(&[(101, 201)]));
    s.inject(data(301, 1, 100)).expect(ack(1, 1).sack(&[(301, 401), (101, 201)]));
    s.inject(data(501, 1, 100)).expect(ack(1, 1).sack(&[(501, 601), (301, 401), (101, 201)]));
    s.inject(data(701, 1, 100));
    s.expect(ack(1, 1).sack(&[(701, 801), (501, 601), (301, 401), (101, 201)]));
    // Four fit; the oldest is left out.
    s.inject(data(901, 1, 100));
    s.expect(ack(1, 1).sack(&[(901, 1001), (701, 801), (501, 601), (301, 401)]));
    // Blocks that meet become one, and it is the newest.
    s.inject(data(401, 1, 100));
    s.expect(ack(1, 1).sack(&[(301, 601), (901, 1001), (701, 801), (101, 201)]));
    s.inject(data(1, 1, 100)).expect(ack(1, 201).sack(&[(301, 601), (901, 1001), (701, 801)]));
    s.inject(data(201, 1, 100)).expect(ack(1, 601).sack(&[(901, 1001), (701, 801)])).read(600);
}

#[test]
fn timestamps_leave_room_for_three_blocks() {
    let mut s = with_timestamps();
    for seq in [101, 301, 501] {
        s.inject(data(seq, 1, 100));
        s.take();
    }
    s.inject(data(701, 1, 100));
    s.expect(ack(1, 1).sack(&[(701, 801), (501, 601), (301, 401)]));
}

#[test]
fn duplicates_are_reported_once() {
    let mut s = server();
    s.inject(data(1, 1, 300)).expect(ack(1, 301)).read(300);
    // Wholly old (RFC 2883 §4.1.1), and only in the next acknowledgement.
    s.inject(data(101, 1, 100)).expect(ack(1, 301).sack(&[(101, 201)]));
    s.inject(data(301, 1, 100)).expect(ack(1, 401)).read(100);
    // Partly old.
    s.inject(data(301, 1, 200)).expect(ack(1, 501).sack(&[(301, 401)])).read(100);
    // A duplicate above the cumulative point comes with the block around it (§4.2).
    s.inject(data(601, 1, 100)).expect(ack(1, 501).sack(&[(601, 701)]));
    s.inject(data(701, 1, 100)).expect(ack(1, 501).sack(&[(601, 801)]));
    s.inject(data(701, 1, 50)).expect(ack(1, 501).sack(&[(701, 751), (601, 801)]));
    s.inject(data(801, 1, 10)).expect(ack(1, 501).sack(&[(601, 811)]));
    assert_eq!(s.stack.counters().tcp_dsack_sent, 3);
    assert_eq!(s.dropped(DropReason::Duplicate), 2);
}

/// RFC 2883 §4.2: of a segment of which parts are here the first one is told, with the block around it.
#[test]
fn of_parts_that_are_here_the_first_is_a_duplicate() {
    let mut s = server();
    for seq in [501, 101, 301] {
        s.inject(data(seq, 1, 100)).take();
    }
    // Two above the cumulative point (example 6).
    s.inject(data(101, 1, 300)).expect(ack(1, 1).sack(&[(101, 201), (101, 401), (501, 601)]));
    // What fills the hole overlaps what is behind it.
    s.inject(data(1, 1, 150)).expect(ack(1, 401).sack(&[(101, 151), (501, 601)])).read(400);
    // One below the cumulative point, and one above (example 5).
    s.inject(data(351, 1, 200)).expect(ack(1, 601).sack(&[(351, 401)])).read(200);
    s.inject(data(601, 1, 100)).expect(ack(1, 701)).read(100);
    assert_eq!(s.stack.counters().tcp_dsack_sent, 3);
}

#[test]
fn without_sack_nothing_is_reported() {
    let mut s = Script::server(|_| {}, Peer { sack: false, ..Peer::default() });
    s.inject(data(101, 1, 100)).expect(ack(1, 1));
    s.inject(data(101, 1, 100)).expect(ack(1, 1));
    assert_eq!(s.stack.counters().tcp_dsack_sent, 0);
}

#[test]
fn overlapping_segments_are_joined_octet_for_octet() {
    let mut s = server();
    for (seq, len) in [(201, 100), (401, 100), (151, 400), (51, 120), (100, 10)] {
        s.inject(data(seq, 1, len));
        s.take();
    }
    s.inject(data(1, 1, 60)).expect(ack(1, 551).sack(&[(51, 61)])).read(550);
}

#[test]
fn sack_blocks_ride_on_data_where_it_leaves_room() {
    let mut s = server();
    s.inject(data(101, 1, 100)).expect(ack(1, 1).sack(&[(101, 201)]));
    s.write(100).expect(data(1, 1, 100).sack(&[(101, 201)]));
    // A full segment has none: an acknowledgement of its own follows only if one is due.
    s.inject(ack(1, 101));
    s.write(1460).expect(data(101, 1, 1460));
}

#[test]
fn segments_outside_the_window_are_acknowledged_and_dropped() {
    let mut s = server();
    let edge = 1 + 65_535;
    s.inject(data(edge + 70_000, 1, 100)).expect(ack(1, 1));
    assert_eq!(s.dropped(DropReason::OutOfWindow), 1);
    s.inject(data(0, 1, 1)).expect(ack(1, 1).sack(&[(0, 1)]));
    s.read_blocks();
}

#[test]
fn only_what_fits_into_the_window_is_taken() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_000, Peer::default());
    s.inject(data(1, 1, 1460));
    s.take();
    s.inject(data(1461, 1, 1460)).expect(ack(1, 2101).window(0));
}

/// The FIN behind what does not fit is cut off with it: it neither shows nor counts before it comes again.
#[test]
fn a_fin_beyond_the_window_is_cut_off() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_000, Peer::default());
    s.inject(data(1, 1, 1460)).take();
    s.inject(fin(1461, 1).len(1460)).expect(ack(1, 2101).window(0));
    s.read(2100).expect(ack(1, 2101));
    s.inject(data(2101, 1, 820)).expect(ack(1, 2921)).read(820);
    assert_eq!(s.state(), State::Established);
    s.take_all();
    s.inject(fin(2921, 1)).expect(ack(1, 2922));
    assert_eq!(s.state(), State::CloseWait);
}

#[test]
fn paws_drops_old_timestamps_and_says_so() {
    let mut s = with_timestamps();
    let clock = s.peer_clock();
    let tsval = s.leg().tsval;
    s.inject(data(1, 1, 100).ts(clock + 10, tsval)).expect(ack(1, 101).ts(tsval, clock + 10));
    s.inject(data(101, 1, 100).ts(clock + 9, tsval)).expect(ack(1, 101).ts(tsval, clock + 10));
    assert_eq!(s.dropped(DropReason::Paws), 1);
    // A RST is exempt (RFC 7323 §5.2).
    s.inject(rst(101).ts(clock, 0)).expect_nothing();
    assert_eq!(s.state(), State::Closed);
}

#[test]
fn the_echo_comes_from_the_segment_that_moved_the_acknowledgement() {
    let mut s = with_timestamps();
    let clock = s.peer_clock();
    // Out of order: not echoed yet (RFC 7323 §4.3 rule 2).
    s.inject(data(101, 1, 100).ts(clock + 5, 0));
    assert_eq!(s.take().ts.unwrap().1, clock);
    s.inject(data(1, 1, 100).ts(clock + 9, 0));
    assert_eq!(s.take().ts.unwrap().1, clock + 9);
    // An acknowledgement that waits echoes the first of the segments it covers.
    let mut s = with_timestamps();
    let seq = after_quick_acks(&mut s, 100);
    s.inject(data(seq, 1, 100).ts(clock + 20, 0)).expect_nothing();
    s.inject(data(seq + 100, 1, 100).ts(clock + 30, 0));
    assert_eq!(s.take().ts.unwrap().1, clock + 20);
}

#[test]
fn a_timestamp_older_than_24_days_proves_nothing() {
    let mut s =
        Script::server(|config| config.tcp.keep_alive = None, Peer { ts: true, ..Peer::default() });
    let clock = s.peer_clock();
    s.at(25 * 24 * 3600 * 1000);
    let later = clock.wrapping_add(1 << 31);
    s.inject(data(1, 1, 10).ts(later, 0));
    // The new one takes its place (RFC 7323 §5.5): it is echoed, and protects what comes.
    assert_eq!(s.take().ts.unwrap().1, later);
    s.read(10).inject(data(11, 1, 10).ts(later - 1, 0));
    assert_eq!((s.take().ts.unwrap().1, s.dropped(DropReason::Paws)), (later, 1));
    s.read_blocks();
}

// The window.

#[test]
fn the_window_shrinks_only_by_what_was_acknowledged() {
    let mut s = server();
    let (mut seq, mut edge) = (1, 0);
    while seq < 150_000 {
        // Two at a time: each pair is acknowledged at once.
        s.inject_burst(&[data(seq, 1, 730), data(seq + 730, 1, 730)]);
        let got = s.take();
        let now = got.ack + s.window_of(&got);
        assert!(now >= edge, "right edge moved from {edge} to {now}");
        edge = now;
        if got.ack < seq + 1460 {
            break;
        }
        seq = got.ack;
    }
    // All of the first buffer was offered, and not much more.
    assert!((131_072..131_072 + 16_384).contains(&edge), "{edge}");
}

#[test]
fn a_trickle_cannot_fill_more_than_the_buffer() {
    // The window field counts in units of 128 octets. Rounding every promise up would let a peer
    // that sends octet by octet push the edge along for ever.
    let mut s = server();
    let mut seq = 1;
    for _ in 0..300_000 {
        s.inject(data(seq, 1, 7));
        let got = s.take_all().pop();
        match got {
            Some(got) if got.ack == seq + 7 => seq += 7,
            Some(got) if got.window == Some(0) => break,
            _ => seq += 7,
        }
    }
    assert!(seq < 131_072 + 32_768, "{seq} octets were taken without a reader");
    let pinned = s.pool.in_use();
    assert!(pinned < 10, "pinned {pinned}");
    // Reading opens it again.
    let read = s.read_some(200_000).unwrap();
    assert!(read >= 131_072, "{read}");
}

#[test]
fn no_update_for_a_sliver_but_one_for_two_segments() {
    // No window scale: the window closes exactly.
    let change = |config: &mut mptcp_core::config::StackConfig| {
        config.tcp.recv_buffer_initial = 14_600;
        config.tcp.recv_buffer_max = 14_600;
    };
    let mut s = Script::server(change, Peer::default());
    let mut seq = 1;
    let mut room = 14_600;
    while room > 0 {
        let len = 1460.min(room);
        s.inject(data(seq, 1, len as usize));
        seq += len;
        let answer = s.take();
        room = s.window_of(&answer);
    }
    // RFC 9293 §3.8.6.2.2: nothing until a segment (we: two) fits.
    s.read(100).expect_nothing();
    s.read(1360).expect_nothing();
    s.read(1460);
    let update = s.take();
    assert_eq!((update.seq, update.ack), (1, seq));
    assert!(s.window_of(&update) >= 1460, "{update:?}");
    s.expect_nothing();
}

/// Who reads octet by octet has read as many, however long the buffers are that they are in.
#[test]
fn what_is_left_of_a_buffer_was_not_read() {
    let mut s = Script::server(|_| {}, Peer::default());
    let space = |s: &Script| s.stack.info(s.id()).unwrap().subflows[0].tcp.rcv_space;
    let before = space(&s);
    s.inject(data(1, 1, 1460));
    for _ in 0..100 {
        s.read(1);
    }
    s.skip_to(1_000).read(1);
    assert_eq!(space(&s), before);
    s.take_all();
}

#[test]
fn the_buffer_grows_with_what_is_read_per_round_trip() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    let (mut seq, mut ms, mut largest) = (1, 0, 0);
    for _ in 0..40 {
        // One window per 50 ms round trip, read at once.
        ms += 50;
        s.skip_to(ms);
        let tsecr = s.leg().tsval.wrapping_sub(50);
        let clock = s.peer_clock();
        let mut window = largest.max(60_000);
        while window >= 1448 {
            s.inject(data(seq, 1, 1448).ts(clock, tsecr));
            seq += 1448;
            window -= 1448;
            while s.read_some(1448).is_ok() {}
        }
        for seg in s.take_all() {
            largest = largest.max(s.window_of(&seg));
        }
        s.skip_to(ms + 45);
        ms += 45;
    }
    assert!(largest > 5 << 20, "{largest}");
    assert!(largest <= 6 << 20, "{largest}");
}

/// Without timestamps the round trip is the sender's: a window that arrives in small parts all along it
/// counts as one.
#[test]
fn the_buffer_grows_without_timestamps() {
    let mut s = Script::client(|_| {}, Peer::default(), 50);
    let (mut seq, mut largest) = (1, 60_000);
    for part in 1..400 {
        s.skip_to(50 + 5 * part);
        let mut window: u32 = largest / 10;
        while window >= 1448 {
            s.inject(data(seq, 1, 1448));
            seq += 1448;
            window -= 1448;
            while s.read_some(1448).is_ok() {}
        }
        for seg in s.take_all() {
            largest = largest.max(s.window_of(&seg));
        }
    }
    assert!(largest > 5 << 20, "{largest}");
}

#[test]
fn the_buffer_does_not_grow_for_a_slow_reader() {
    let mut s = server();
    let mut seq = 1;
    for round in 1..200 {
        s.skip_to(round * 100);
        s.inject(data(seq, 1, 1000));
        seq += 1000;
        s.take_all();
        s.read(1000);
        for seg in s.take_all() {
            assert!(s.window_of(&seg) <= 128 << 10);
        }
    }
}

// Memory.

#[test]
fn tiny_segments_out_of_order_pin_a_bounded_amount_of_memory() {
    let mut s = server();
    let bound = 2 * (128 << 10) + (64 << 10);
    let one = mptcp_core::buf::HeapBuf::with_capacity(160, 1700).truesize();
    let mut most = 0;
    for i in 0..20_000_u32 {
        s.inject(data(60_003 - i * 3 % 60_000, 1, 1));
        s.take_all();
        most = most.max(s.pool.in_use());
    }
    let stored = s.stack.counters().tcp_ofo_queue - s.stack.counters().tcp_ofo_pruned;
    assert!(stored * one as u64 <= bound, "{stored} pieces of {one}");
    assert!(s.dropped(DropReason::NoMemory) + s.stack.counters().tcp_ofo_pruned > 0);
    // What is in order is taken all the same, and moves the stream on.
    s.inject(data(1, 1, 2));
    assert!(s.take().ack >= 3);
    s.inject(data(3, 1, 1460));
    assert!(s.take().ack >= 1463);
}

#[test]
fn tiny_segments_in_order_share_buffers() {
    let mut s = server();
    for seq in 1..=20_000 {
        let packet = s.packet(&data(seq, 1, 1));
        // A buffer of the pool, as a driver's.
        let mut pool = s.pool.clone();
        let mut buf = mptcp_core::buf::BufPool::alloc(&mut pool).unwrap();
        assert!(buf.copy_from(&packet));
        s.stack.handle_burst(s.now, &mut vec![buf]);
        s.flush().take_all();
    }
    assert!(s.pool.in_use() < 40, "{} buffers for 20,000 octets", s.pool.in_use());
    s.read(20_000);
    assert_eq!(s.pool.in_use(), 0);
}

/// Buffers of two sizes and a full budget: room for the first part of a segment is made by throwing
/// away the piece that the rest of it would have gone around.
#[test]
fn a_segment_around_a_piece_that_has_to_go_is_taken() {
    let filled = |small: u32| {
        let mut s = server();
        for n in 0..171 {
            s.inject(data(10_001 + 2 * n, 1, 1));
        }
        for n in 0..small {
            s.inject_burst(&[data(5_001 + 2 * n, 1, 1)]);
        }
        s.take_all();
        s
    };
    // As many as fit.
    let fits = (0..100).take_while(|&n| filled(n).stack.counters().tcp_ofo_pruned == 0).last();
    let mut s = filled(fits.unwrap());
    s.inject_burst(&[data(10_340, 1, 3)]);
    assert_eq!(s.take().sack[0], (10_339, 10_343));
    assert_eq!(s.stack.counters().tcp_ofo_pruned, 1);
}

/// Segments just too long to be copied into each other for their size: once memory runs short they
/// are all the same.
#[test]
fn half_empty_buffers_are_filled_up_when_memory_is_short() {
    let mut s = server();
    let mut pool = s.pool.clone();
    let mut seq = 1;
    while seq < 120_000 {
        let packet = s.packet(&data(seq, 1, 239));
        let mut buf = mptcp_core::buf::BufPool::alloc(&mut pool).unwrap();
        assert!(buf.copy_from(&packet));
        s.stack.handle_burst(s.now, &mut vec![buf]);
        s.flush().take_all();
        seq += 239;
    }
    let one = mptcp_core::buf::HeapBuf::with_capacity(160, 1700).truesize();
    let pinned = s.pool.in_use() * one;
    assert!(pinned <= 2 * (128 << 10) + (64 << 10), "{pinned}");
    assert!(s.read_some(130_000).unwrap() >= 119_000);
}

/// Where nothing can be filled up, data is refused before it is acknowledged, and taken when it comes
/// again after a read.
#[test]
fn data_without_memory_is_not_acknowledged() {
    let mut s = server();
    let mut seq = 1;
    while s.dropped(DropReason::NoMemory) == 0 {
        s.inject_burst(&[data(seq, 1, 7)]).take_all();
        seq += 7;
        assert!(seq < 131_072);
    }
    seq -= 7;
    s.read(seq as usize - 1).take_all();
    s.inject_burst(&[data(seq, 1, 7)]).read(7);
}

/// RFC 9293 §3.8.6.1: the octet that probes a shut window is answered, or its peer gives up.
#[test]
fn a_probe_is_answered_while_memory_is_low() {
    let one = mptcp_core::buf::HeapBuf::with_capacity(160, 1700).truesize();
    // So much of it that no more is taken while memory is low, and just that fits the window.
    let segments = (64_usize << 10).div_ceil(one) as u32;
    let mut s = Script::with_reserve(87_500, |config| {
        config.tcp.recv_buffer_initial = 1460 * segments;
        config.tcp.recv_buffer_max = 1460 * segments;
    });
    s.listen().peer_opens();
    for n in 0..segments {
        s.inject(data(1 + n * 1460, 1, 1460)).take_all();
    }
    s.skip_to(100);
    let end = 1 + segments * 1460;
    s.inject(data(end, 1, 1)).expect(ack(1, end).window(0));
    assert_eq!(s.stack.counters().tcp_rcv_q_drop, 1);
    let all = end as usize - 1;
    assert_eq!(s.read_some(all), Ok(all));
    s.take_all();
    s.inject(data(end, 1, 1)).read(1);
}

// RFC 5961 and what is not acceptable.

/// RFC 9293 appendix A.2: who has filled the window numbers each acknowledgement so.
#[test]
fn an_acknowledgement_at_the_right_edge_counts() {
    let mut s = server();
    s.write(100);
    let sent = s.take();
    let edge = sent.ack + s.window_of(&sent);
    s.inject(ack(edge + 1, 101)).expect(ack(101, 1));
    s.inject(ack(edge, 101)).expect_nothing().at(10_000).expect_nothing();
    assert_eq!(s.stack.counters().retrans_segs, 0);
}

/// lwIP counts the octet that probed a shut window as sent: all that it acknowledges while the window is shut is numbered
/// one beyond the edge.
#[test]
fn an_acknowledgement_behind_the_octet_that_probed_counts() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_920, Peer::default());
    s.inject_burst(&[data(1, 1, 1460), data(1461, 1, 1460)]).expect(ack(1, 2921).window(0));
    s.inject(data(2921, 1, 1)).expect(ack(1, 2921).window(0));
    s.write(100).expect(data(1, 2921, 100));
    s.inject(ack(2923, 101)).expect(ack(101, 2921));
    s.inject(ack(2922, 101)).expect_nothing().at(5_000).expect_nothing();
    assert_eq!(s.stack.counters().retrans_segs, 0);
    s.read(2920).take_all();
    s.inject(data(2921, 101, 100)).expect(ack(101, 3021)).read(100);
}

#[test]
fn a_reset_counts_only_at_the_exact_number() {
    let mut s = server();
    s.inject(rst(2)).expect(ack(1, 1)).inject(rst(200_000)).expect_nothing();
    s.inject(rst(0)).expect_nothing();
    assert_eq!((s.state(), s.dropped(DropReason::RstSequence)), (State::Established, 3));
    s.inject(rst(1)).expect_nothing();
    assert_eq!(s.state(), State::Closed);
    assert_eq!((s.stack.counters().estab_resets, s.stack.counters().in_rsts), (1, 1));
}

#[test]
fn a_reset_is_heard_at_a_shut_window_even_with_text() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_920, Peer::default());
    s.inject_burst(&[data(1, 1, 1460), data(1461, 1, 1460)]).expect(ack(1, 2921).window(0));
    s.inject(rst(2921).len(20)).expect_nothing();
    assert_eq!(s.state(), State::Closed);
}

/// RFC 9293 §3.10.7.4, first step: the text finds no room, but what it acknowledges counts.
#[test]
fn text_at_a_shut_window_still_acknowledges() {
    let mut s = Script::server(|config| config.tcp.recv_buffer_initial = 2_920, Peer::default());
    s.inject_burst(&[data(1, 1, 1460), data(1461, 1, 1460)]).expect(ack(1, 2921).window(0));
    s.write(100).expect(data(1, 2921, 100));
    s.inject(fin(2921, 101).len(50)).expect(ack(101, 2921).window(0));
    assert_eq!((s.dropped(DropReason::OutOfWindow), s.state()), (1, State::Established));
    s.at(5_000).expect_nothing().read(2920);
}

#[test]
fn a_syn_is_challenged_wherever_it_lies() {
    let mut s = server();
    for seq in [0, 1, 5_000, 1 << 30, 1 << 31] {
        s.inject(Seg { seq, ..crate::harness::syn() }).expect(ack(1, 1));
    }
    assert_eq!((s.state(), s.stack.counters().tcp_challenge_ack), (State::Established, 5));
    assert_eq!(s.dropped(DropReason::UnexpectedSyn) + s.dropped(DropReason::OutOfWindow), 5);
}

#[test]
fn acknowledgements_of_the_unsent_and_the_ancient_are_challenged() {
    let mut s = server();
    s.inject(data(1, 2, 100)).expect(ack(1, 1));
    s.inject(data(1, 1_u32.wrapping_sub((8192 << 7) + 1), 100)).expect(ack(1, 1));
    assert_eq!(s.dropped(DropReason::AckRange), 2);
    s.read_blocks();
    // Old, but no older than the largest window: the text is taken.
    s.inject(data(1, 1_u32.wrapping_sub(8192 << 7), 100)).expect(ack(1, 101)).read(100);
}

#[test]
fn challenges_are_limited_per_second() {
    let mut s = server();
    for _ in 0..10 {
        s.inject(rst(2)).expect(ack(1, 1));
    }
    for _ in 0..50 {
        s.inject(rst(2)).expect_nothing();
    }
    assert_eq!(s.stack.counters().tcp_ack_skipped_challenge, 50);
    s.at(1_000).inject(rst(2)).expect(ack(1, 1));
}

#[test]
fn a_segment_without_ack_is_dropped() {
    let mut s = server();
    s.inject(data(1, 0, 10).flags(mptcp_core::wire::TcpFlags::PSH)).expect_nothing().read_blocks();
    assert_eq!(s.dropped(DropReason::NoAck), 1);
}

#[test]
fn urgent_data_is_delivered_inline() {
    let mut s = server();
    use mptcp_core::wire::TcpFlags;
    s.inject(data(1, 1, 10).flags(TcpFlags::ACK | TcpFlags::URG)).expect(ack(1, 11)).read(10);
}
