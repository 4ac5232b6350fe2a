//! Each box on crafted segments: what it changes, and that it changes nothing else.

use super::*;
use crate::packet::build::Build;
use crate::packet::{IpPacket, TcpSegment};

pub(crate) fn through(
    middlebox: &mut impl Middlebox,
    dir: Direction,
    packet: Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    middlebox.process(0, dir, packet, &mut out);
    assert!(out.iter().all(|(to, _)| *to == dir));
    out.into_iter().map(|(_, packet)| packet).collect()
}

pub(crate) fn segment(flags: u8, seq: u32, payload: &[u8]) -> Build {
    let mut build = Build::new("10.0.0.1:1", "10.0.0.2:2");
    (build.flags, build.seq, build.ack) = (flags, seq, 500);
    build.payload = payload.to_vec();
    build
}

/// Sequence number, acknowledgement, flags, window and payload; the checksum must be right.
pub(crate) fn fields(packet: &[u8]) -> (u32, u32, u8, u16, Vec<u8>) {
    let ip = IpPacket::parse(packet).unwrap();
    let tcp = TcpSegment::parse(&ip).expect("a right checksum");
    let flags = tcp_of(packet).unwrap().flags(packet);
    (tcp.seq, tcp.ack, flags, tcp.window, tcp.payload.to_vec())
}

#[test]
fn sequence_numbers_move_and_acknowledgements_move_back() {
    let mut shifter = SequenceShifter::new(0xffff_ff00, 1_000);
    let mut there = segment(flag::ACK, 0x200, b"abc");
    there.options = vec![1, 1, 5, 10, 0, 0, 7, 208, 0, 0, 11, 184];
    let [there] = &through(&mut shifter, Direction::AtoB, there.to_packet())[..] else { panic!() };
    let (seq, ack, ..) = fields(there);
    assert_eq!((seq, ack), (0x100, 500_u32.wrapping_sub(1_000)));
    let tcp = tcp_of(there).unwrap();
    let block = [4, 8].map(|at| read_u32(there, tcp.options + at));
    assert_eq!(block, [1_000, 2_000]);
    let [back] =
        &through(&mut shifter, Direction::BtoA, segment(flag::ACK, 7, b"").to_packet())[..]
    else {
        panic!()
    };
    let (seq, ack, ..) = fields(back);
    assert_eq!((seq, ack), (1_007, 756));
    // The acknowledgement field of a SYN means nothing.
    let syn = through(&mut shifter, Direction::AtoB, segment(flag::SYN, 0x200, b"").to_packet());
    assert_eq!(fields(&syn[0]).1, 500);
}

#[test]
fn windows_are_lowered_in_one_direction() {
    let mut clamp = WindowClamp::new(Direction::AtoB, 300);
    let packet = segment(flag::ACK, 1, b"x").to_packet();
    assert_eq!(fields(&through(&mut clamp, Direction::AtoB, packet.clone())[0]).3, 300);
    assert_eq!(fields(&through(&mut clamp, Direction::BtoA, packet)[0]).3, 1_000);
    let syn = segment(flag::SYN, 1, b"").to_packet();
    assert_eq!(fields(&through(&mut clamp, Direction::AtoB, syn)[0]).3, 1_000);
    assert_eq!(clamp.clamped(), 1);
}

#[test]
fn resets_aim_where_they_are_told() {
    for (aim, seq) in [(Aim::Exact, 14), (Aim::InWindow, 15), (Aim::Blind, 14 + (1 << 30))] {
        let mut injector = ResetInjector::new(Direction::AtoB, aim, 1, 1);
        let packet = segment(flag::ACK | flag::FIN, 10, b"abc").to_packet();
        assert_eq!(through(&mut injector, Direction::BtoA, packet.clone()).len(), 1);
        assert_eq!(through(&mut injector, Direction::AtoB, packet.clone()).len(), 1);
        let sent = through(&mut injector, Direction::AtoB, packet.clone());
        assert_eq!((sent.len(), &sent[0]), (2, &packet));
        let (at, _, flags, _, payload) = fields(&sent[1]);
        assert_eq!((at, flags, payload.len()), (seq, flag::RST, 0));
        assert_eq!(through(&mut injector, Direction::AtoB, packet).len(), 1);
        assert_eq!(injector.sent(), 1);
    }
}

#[test]
fn syns_are_dropped_or_doubled() {
    let mut with = segment(flag::SYN, 1, b"");
    let without = with.to_packet();
    with.options = vec![30, 4, 1, 1];
    let with = with.to_packet();
    let mut drops = SynFilter::new(SynFate::DropWithMptcp);
    assert_eq!(through(&mut drops, Direction::AtoB, with.clone()).len(), 0);
    assert_eq!(through(&mut drops, Direction::AtoB, without), [segment(2, 1, b"").to_packet()]);
    let mut doubles = SynFilter::new(SynFate::Double);
    assert_eq!(through(&mut doubles, Direction::AtoB, with.clone()), [with.clone(), with]);
    let ack = segment(flag::ACK, 1, b"").to_packet();
    assert_eq!(through(&mut doubles, Direction::AtoB, ack).len(), 1);
    assert_eq!((drops.met(), doubles.met()), (1, 1));
}

#[test]
fn neighbours_become_one_segment() {
    for keeps in [Keeps::First, Keeps::Last] {
        let mut coalescer = Coalescer::new(keeps, 8, 100);
        let first = segment(flag::ACK, 0xffff_fffe, b"abcd");
        let mut second = segment(flag::ACK | flag::PSH, 2, b"ef");
        (second.ack, second.window) = (600, 77);
        second.options = vec![30, 4, 0x20, 0];
        assert!(through(&mut coalescer, Direction::AtoB, first.to_packet()).is_empty());
        assert_eq!(coalescer.next_deadline(), Some(100));
        let out = through(&mut coalescer, Direction::AtoB, second.to_packet());
        let [whole] = &out[..] else { panic!("{out:?}") };
        let expected = (0xffff_fffe, 600, flag::ACK | flag::PSH, 77, b"abcdef".to_vec());
        assert_eq!(fields(whole), expected);
        let options = tcp_of(whole).map(|tcp| tcp.payload - tcp.options);
        assert_eq!(options, Some(if keeps == Keeps::Last { 4 } else { 0 }));
        assert_eq!((coalescer.joined(), coalescer.next_deadline()), (1, None));
    }
}

#[test]
fn what_does_not_follow_is_not_joined() {
    let first = segment(flag::ACK, 10, b"abcd");
    for second in [
        segment(flag::ACK, 15, b"e"),
        segment(flag::ACK, 14, b"too long"),
        segment(flag::ACK | flag::FIN, 14, b"e"),
        segment(flag::ACK, 14, b""),
    ] {
        let mut coalescer = Coalescer::new(Keeps::First, 8, 100);
        assert!(through(&mut coalescer, Direction::AtoB, first.to_packet()).is_empty());
        let mut out = through(&mut coalescer, Direction::AtoB, second.to_packet());
        let mut late = Vec::new();
        coalescer.timeout(100, &mut late);
        out.extend(late.into_iter().map(|(_, packet)| packet));
        assert_eq!(out, [first.to_packet(), second.to_packet()]);
        assert_eq!((coalescer.joined(), coalescer.next_deadline()), (0, None));
    }
}
