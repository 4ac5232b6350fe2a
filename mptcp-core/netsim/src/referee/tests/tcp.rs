//! The rules of TCP.

use super::*;

#[test]
fn an_ordinary_connection_is_clean() {
    let all: [&[u8]; 3] = [&MSS, &SCALE_7, &SACK_OK];
    for options in [&[][..], &all] {
        let mut scene = Scene::connected(options);
        scene.pass(a(1, 1).data(b"request"));
        scene.pass(b(1, 8).data(&[7; 500]));
        scene.lose(b(501, 8).data(&[8; 300]));
        scene.pass(b(801, 8).data(&[9; 100]).flags(flag::FIN));
        scene.pass(a(8, 501));
        scene.pass(b(501, 8).data(&[8; 150]));
        scene.pass(b(651, 8).data(&[8; 150]));
        scene.pass(a(8, 902).flags(flag::FIN));
        scene.pass(b(902, 9));
        scene.clean();
        let seen = scene.referee.seen();
        assert_eq!((seen.flows, seen.forgotten, seen.connections), (2, 0, 0));
        assert!(seen.segments >= 20 && seen.payload_bytes == 1_207);
    }
}

#[test]
fn a_checksum_or_length_that_is_wrong() {
    // The IPv4 checksum and length, the TCP window, the payload.
    for at in [10, 3, 34, 45] {
        let mut scene = Scene::connected(&[]);
        let mut packet = a(1, 1).data(b"payload").to_packet();
        packet[at] ^= 1;
        scene.pass_as(packet);
        scene.broke(Rule::WellFormed);
        assert_eq!(scene.referee.seen().malformed_delivered, 1);
    }
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).option(&[254, 9, 1, 1]));
    scene.broke(Rule::WellFormed);
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS, &MSS]));
    scene.broke(Rule::WellFormed);
}

#[test]
fn checksums_of_other_protocols() {
    use crate::packet::build::ip_packet;
    let (v4, v6) = (["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]);
    let cases = [
        (protocol::UDP, v4, 6),
        (protocol::UDP, v6, 6),
        (protocol::ICMP, v4, 2),
        (protocol::ICMPV6, v6, 2),
    ];
    for (number, [src, dst], at) in cases {
        let mut payload = vec![0, 7, 0, 9, 0, 12, 5, 6, 1, 2, 3, 4];
        payload[at..at + 2].fill(0);
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        // ICMP alone has no pseudo-header.
        let mut packet = ip_packet(src, dst, number, payload.clone(), Some(at));
        if number == protocol::ICMP {
            packet = ip_packet(src, dst, number, payload.clone(), None);
            let sum = !checksum::fold(checksum::sum(&packet[20..]));
            packet[22..24].copy_from_slice(&sum.to_be_bytes());
        }
        let mut scene = Scene::new();
        scene.referee.observe(0, A, Point::Sent, &packet);
        scene.clean();
        let last = packet.len() - 1;
        packet[last] ^= 4;
        scene.referee.observe(0, A, Point::Sent, &packet);
        scene.broke(Rule::WellFormed);
    }
}

#[test]
fn a_datagram_has_the_length_it_announces() {
    use crate::packet::build::ip_packet;
    for (announced, fine) in [(12, true), (11, false), (13, false)] {
        let payload = vec![0, 7, 0, 9, 0, announced, 0, 0, 1, 2, 3, 4];
        let (src, dst) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let packet = ip_packet(src, dst, protocol::UDP, payload, Some(6));
        let mut scene = Scene::new();
        scene.referee.observe(0, A, Point::Sent, &packet);
        if fine { scene.clean() } else { scene.broke(Rule::WellFormed) }
    }
}

#[test]
fn a_hole_is_neither_acknowledged_nor_selected() {
    let holed = || {
        let mut scene = Scene::connected(&[&SACK_OK]);
        scene.lose(a(1, 1).data(&[1; 100]));
        scene.pass(a(101, 1).data(&[2; 100]));
        scene.lose(a(201, 1).data(&[3; 100]));
        scene.pass(a(301, 1).data(&[4; 100]));
        scene
    };
    let block = |left: u32, right: u32| {
        let edges = [A_ISN.wrapping_add(left), A_ISN.wrapping_add(right)];
        [&[5, 10][..], &edges.map(u32::to_be_bytes).concat()].concat()
    };
    let mut scene = holed();
    scene.lose(b(1, 1).option(&block(301, 401)));
    scene.clean();
    scene.lose(b(1, 1).option(&block(101, 401)));
    scene.broke(Rule::SackTruthful);
    let mut scene = holed();
    scene.lose(b(1, 201));
    scene.broke(Rule::AckAdvances);
}

#[test]
fn a_reset_is_placed_and_the_last() {
    for (reset, placed) in [
        (b(101, 8), true),
        (b(51, 8), true),
        // No number of this connection, but what the last segment asked for.
        (b(5_000, 8), true),
        (b(102, 8), false),
        (b(101, 9), false),
    ] {
        let mut scene = Scene::connected(&[]);
        scene.pass(a(1, 1).data(b"request"));
        scene.pass(b(1, 8).data(&[7; 100]));
        let strange = a(8, 5_000).to_packet();
        scene.referee.observe(scene.now, B, Point::Delivered, &strange);
        scene.pass(reset.clone().flags(flag::RST));
        if !placed {
            scene.broke(Rule::ResetIsLast);
            continue;
        }
        scene.lose(reset.flags(flag::RST));
        scene.clean();
        scene.lose(b(101, 8));
        scene.broke(Rule::ResetIsLast);
    }
}

#[test]
fn a_syn_ack_must_answer_a_syn() {
    let mut scene = Scene::new();
    scene.pass(syn_ack(&[]));
    scene.broke(Rule::SynAckAnswersSyn);
    let mut scene = Scene::new();
    scene.pass(syn(&[]));
    let mut answer = syn_ack(&[]);
    answer.ack = answer.ack.wrapping_add(1);
    scene.pass(answer);
    scene.broke(Rule::SynAckAnswersSyn);
}

#[test]
fn a_repeated_handshake_keeps_its_numbers() {
    let mut scene = Scene::new();
    scene.lose(syn(&[&MSS]));
    scene.pass(syn(&[]));
    scene.lose(syn_ack(&[]));
    scene.pass(syn_ack(&[]));
    scene.clean();

    let mut scene = Scene::new();
    scene.lose(syn(&[]));
    let mut other = syn(&[]);
    other.seq += 1;
    scene.lose(other);
    scene.broke(Rule::HandshakeRepeated);

    let mut scene = Scene::new();
    scene.pass(syn(&[]));
    scene.lose(syn_ack(&[]));
    let mut other = syn_ack(&[]);
    other.seq += 1;
    scene.lose(other);
    scene.broke(Rule::HandshakeRepeated);
}

#[test]
fn a_new_connection_may_take_the_ports_of_an_old_one() {
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).data(b"first"));
    scene.pass(b(1, 6).flags(flag::RST));
    let mut again = syn(&[]);
    again.seq = 77;
    scene.pass(again);
    let mut answer = syn_ack(&[]);
    (answer.seq, answer.ack) = (99, 78);
    scene.pass(answer);
    let mut data = a(1, 1).data(b"other");
    (data.seq, data.ack) = (78, 100);
    scene.pass(data);
    scene.clean();
}

#[test]
fn only_what_was_offered_is_answered() {
    for option in [&SCALE_7[..], &SACK_OK, &timestamps(1, 0)] {
        let mut scene = Scene::new();
        scene.pass(syn(&[]));
        scene.lose(syn_ack(&[option]));
        let broken = scene.referee.broken();
        assert_eq!(broken.get(&Rule::OptionAgreed), Some(&1), "{broken:?}");
    }
    for option in [&SCALE_7[..], &SACK_OK, &MSS, &timestamps(1, 0), &[30, 3, 0x50]] {
        let mut scene = Scene::connected(&[]);
        scene.lose(a(1, 1).option(option));
        scene.broke(Rule::OptionAgreed);
    }
}

#[test]
fn the_ack_flag_is_on_every_segment() {
    let mut scene = Scene::connected(&[]);
    let mut bare = a(1, 1).data(b"x");
    bare.flags = 0;
    scene.lose(bare);
    scene.broke(Rule::AckPresent);
}

#[test]
fn acknowledgements_go_forward_and_tell_the_truth() {
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).data(b"12345"));
    scene.lose(b(1, 6));
    scene.lose(b(1, 5).window(1_001));
    scene.broke(Rule::AckAdvances);

    let mut scene = Scene::connected(&[]);
    scene.lose(a(1, 1).data(b"12345"));
    scene.lose(b(1, 6));
    scene.broke(Rule::AckAdvances);
}

#[test]
fn the_right_edge_never_moves_left() {
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).data(b"12345"));
    scene.lose(b(1, 6).window(995));
    scene.clean();
    scene.lose(b(1, 6).window(994));
    scene.broke(Rule::WindowKept);
}

#[test]
fn scaling_may_round_down_what_a_syn_announced_and_no_more() {
    let options: [&[u8]; 1] = [&SCALE_7];
    for (window, fine) in [(8, true), (7, true), (6, false)] {
        let mut scene = Scene::new();
        scene.pass(syn(&options).window(1_000));
        scene.pass(syn_ack(&options));
        // 1000 octets are 7 units of 128 and a rest.
        scene.pass(a(1, 1).window(window));
        if fine { scene.clean() } else { scene.broke(Rule::WindowKept) }
    }
    let mut scene = Scene::connected(&options);
    scene.pass(a(1, 1).window(1_001));
    scene.pass(a(1, 1).window(1_000));
    scene.broke(Rule::WindowKept);
}

#[test]
fn the_window_is_free_behind_the_fin() {
    let mut scene = Scene::connected(&[]);
    scene.pass(b(1, 1).flags(flag::FIN));
    scene.pass(a(1, 2).window(0));
    scene.clean();
}

#[test]
fn new_data_follows_what_was_sent() {
    let mut scene = Scene::connected(&[]);
    scene.lose(a(2, 1).data(b"gap"));
    scene.broke(Rule::NoGap);
    let mut scene = Scene::connected(&[]);
    scene.lose(a(5, 1));
    scene.broke(Rule::NoGap);
    // A keep-alive carries the last number again, and a resent FIN its own.
    let mut scene = Scene::connected(&[]);
    scene.pass(a(0, 1));
    scene.pass(a(1, 1).flags(flag::FIN));
    scene.pass(a(1, 1).flags(flag::FIN));
    scene.pass(a(2, 1));
    scene.clean();
}

#[test]
fn a_retransmission_carries_the_same_bytes() {
    let mut scene = Scene::connected(&[]);
    scene.lose(a(1, 1).data(b"0123456789"));
    scene.lose(a(4, 1).data(b"345678"));
    scene.clean();
    scene.lose(a(4, 1).data(b"345x78"));
    scene.broke(Rule::SameBytes);
    // What is acknowledged is free: a keep-alive may carry any octet there.
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).data(b"0123456789"));
    scene.pass(b(1, 11));
    scene.pass(a(10, 1).data(b"?"));
    scene.clean();
}

#[test]
fn no_data_beyond_the_window_but_a_probe() {
    let mut scene = Scene::new();
    scene.pass(syn(&[]));
    scene.pass(syn_ack(&[]).window(10));
    scene.pass(a(1, 1));
    scene.lose(a(1, 1).data(b"0123456789"));
    scene.lose(a(11, 1).data(b"p"));
    scene.clean();
    scene.lose(a(11, 1).data(b"pq"));
    scene.broke(Rule::WithinWindow);
    // The listener counts from the window of the SYN, and a window that was lost counts not.
    let mut scene = Scene::new();
    scene.pass(syn(&[]).window(10));
    scene.pass(syn_ack(&[]));
    scene.lose(a(1, 1).window(500));
    scene.lose(b(1, 1).data(&[0; 11]));
    scene.broke(Rule::WithinWindow);
}

#[test]
fn a_segment_fits_the_mss_with_its_options() {
    let small = [2, 4, 0, 100];
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS]));
    scene.pass(syn_ack(&[&small]));
    scene.lose(a(1, 1).data(&[0; 100]));
    scene.clean();
    scene.lose(a(1, 1).data(&[0; 97]).option(&[1, 1, 1, 1]));
    scene.broke(Rule::WithinMss);
    // Without the option the default holds.
    let mut scene = Scene::connected(&[]);
    scene.lose(a(1, 1).data(&[0; 537]));
    scene.broke(Rule::WithinMss);
}

#[test]
fn a_fin_is_the_last() {
    for broken in [a(4, 1).data(b"more"), a(1, 1).data(b"ab").flags(flag::FIN)] {
        let mut scene = Scene::connected(&[]);
        scene.lose(a(1, 1).data(b"abc").flags(flag::FIN));
        scene.lose(a(1, 1).data(b"abc").flags(flag::FIN));
        scene.clean();
        scene.lose(broken);
        scene.broke(Rule::FinLast);
    }
    let mut scene = Scene::connected(&[]);
    scene.lose(a(1, 1).data(b"abc"));
    scene.lose(a(1, 1).data(b"ab").flags(flag::FIN));
    scene.broke(Rule::FinLast);
}

fn stamped() -> Scene {
    let mut scene = Scene::new();
    scene.pass(syn(&[&timestamps(u32::MAX, 0)]));
    scene.pass(syn_ack(&[&timestamps(700, u32::MAX)]));
    scene.pass(a(1, 1).option(&timestamps(0, 700)));
    scene
}

#[test]
fn timestamps_are_on_every_segment_and_go_forward() {
    let mut scene = stamped();
    scene.pass(b(1, 1).option(&timestamps(701, 0)));
    scene.pass(a(1, 1).option(&timestamps(5, 700)));
    scene.clean();
    scene.lose(a(1, 1));
    scene.broke(Rule::OptionAgreed);
    for wrong in [timestamps(u32::MAX, 700), timestamps(9, 701)] {
        let mut scene = stamped();
        scene.lose(a(1, 1).option(&wrong));
        scene.broke(Rule::TimestampAdvances);
    }
    let mut scene = Scene::new();
    scene.pass(syn(&[&timestamps(9, 0)]));
    scene.lose(syn_ack(&[&timestamps(700, 8)]));
    scene.broke(Rule::TimestampAdvances);
}

#[test]
fn what_is_echoed_arrived_however_long_ago() {
    let mut scene = stamped();
    scene.pass(b(1, 1).option(&timestamps(705, 0)));
    scene.pass(a(1, 1).option(&timestamps(5, 700)));
    scene.pass(a(1, 1).option(&timestamps(5, 705)));
    scene.clean();
    // Between two that arrived.
    scene.lose(a(1, 1).option(&timestamps(5, 703)));
    scene.broke(Rule::TimestampAdvances);
    let mut scene = stamped();
    for tsval in 701..3_000 {
        scene.pass(b(1, 1).option(&timestamps(tsval, 0)));
    }
    // What was forgotten is believed.
    scene.lose(a(1, 1).option(&timestamps(5, 700)));
    scene.clean();
}

/// RFC 9293 figure 7: what ends it is a SYN/ACK beside the one that the host has sent itself.
#[test]
fn the_timestamp_of_a_crossing_syn_ack_is_echoed() {
    let both = flag::SYN | flag::ACK;
    let mut scene = Scene::new();
    scene.pass(syn(&[&timestamps(9, 0)]));
    let mut other_syn = b(0, 0).option(&timestamps(700, 0));
    (other_syn.flags, other_syn.ack) = (flag::SYN, 0);
    scene.pass(other_syn);
    scene.lose(a(0, 1).flags(both).option(&timestamps(9, 700)));
    scene.pass(syn_ack(&[&timestamps(702, 9)]));
    scene.lose(a(1, 1).option(&timestamps(10, 702)));
    scene.clean();
    scene.lose(a(1, 1).option(&timestamps(10, 701)));
    scene.broke(Rule::TimestampAdvances);
}

fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut option = vec![5, u8::try_from(2 + 8 * blocks.len()).unwrap()];
    for (left, right) in blocks {
        option.extend(A_ISN.wrapping_add(*left).to_be_bytes());
        option.extend(A_ISN.wrapping_add(*right).to_be_bytes());
    }
    option
}

#[test]
fn sack_blocks_tell_the_truth() {
    let holes = || {
        let mut scene = Scene::connected(&[&SACK_OK]);
        scene.pass(a(1, 1).data(&[1; 100]));
        scene.lose(a(101, 1).data(&[1; 100]));
        scene.pass(a(201, 1).data(&[1; 100]));
        scene
    };
    for good in [&[(201, 301)][..], &[(1, 51), (201, 301)], &[(201, 251), (251, 301)]] {
        let mut scene = holes();
        scene.pass(b(1, 101).option(&sack(good)));
        scene.clean();
    }
    for bad in [&[(201, 302)][..], &[(301, 201)], &[(201, 301), (1, 51)], &[(201, 201)]] {
        let mut scene = holes();
        scene.lose(b(1, 101).option(&sack(bad)));
        scene.broke(Rule::SackTruthful);
    }
    let mut scene = Scene::connected(&[]);
    scene.pass(a(1, 1).data(&[1; 100]));
    scene.lose(b(1, 1).option(&sack(&[(51, 101)])));
    scene.broke(Rule::OptionAgreed);
}

#[test]
fn sequence_numbers_may_wrap() {
    let mut scene = Scene::connected(&[&MSS]);
    // The initial number is 256 below the wrap.
    for step in 0..5 {
        scene.pass(a(1 + step * 100, 1).data(&[9; 100]));
        scene.pass(b(1, 101 + step * 100));
    }
    scene.clean();
    scene.lose(b(1, 401).window(2_000));
    scene.broke(Rule::AckAdvances);
}

#[test]
fn ipv6_is_judged_alike() {
    let mut referee = Referee::new();
    let mut syn = Build::new("[fd00::1]:9", "[fd00::2]:80");
    (syn.flags, syn.seq) = (flag::SYN, 10);
    referee.observe(0, A, Point::Sent, &syn.to_packet());
    referee.observe(0, B, Point::Delivered, &syn.to_packet());
    let mut answer = Build::new("[fd00::2]:80", "[fd00::1]:9");
    (answer.flags, answer.seq, answer.ack) = (flag::SYN | flag::ACK, 20, 11);
    referee.observe(0, B, Point::Sent, &answer.to_packet());
    referee.observe(0, A, Point::Delivered, &answer.to_packet());
    let mut data = Build::new("[fd00::1]:9", "[fd00::2]:80");
    (data.seq, data.ack, data.window) = (11, 21, 1_000);
    data.payload = vec![0; 1_000];
    referee.observe(0, A, Point::Sent, &data.to_packet());
    referee.assert_clean();
    data.payload = vec![1; 1_000];
    referee.observe(0, A, Point::Sent, &data.to_packet());
    assert_eq!(*referee.broken(), BTreeMap::from([(Rule::SameBytes, 1)]));
    assert!(referee.violations()[0].to_string().contains("[fd00::1]:9"));
}
