//! An application-level gateway that rewrites what it recognises in a stream by something of another
//! length, as those for FTP and SIP do with addresses, and fixes sequence and acknowledgement numbers
//! up behind it (RFC 8684 §6). The invariant: one octet of the stream is always rewritten in the same
//! way, however it is sent again.

use super::rewrite::{SACK, add_u32, read_u32, tcp_of};
use super::{Middlebox, Output};
use crate::Direction;
use crate::packet::edit::{self, TcpLayout};
use crate::packet::flag;
use std::collections::BTreeMap;

/// Replaces every occurrence of a pattern that lies within one segment. Flows are told apart by their
/// ports and edited when their SYN was seen; streams may have 2 GiB.
#[derive(Clone, Debug)]
pub struct StreamEditor {
    dir: Direction,
    find: Vec<u8>,
    put: Vec<u8>,
    flows: BTreeMap<[u16; 2], Edits>,
    edited: u64,
}

/// Where one stream was edited. Positions count from its first octet.
#[derive(Clone, Debug, Default)]
struct Edits {
    first: u32,
    /// Starts of the pattern, ascending.
    places: Vec<u32>,
    /// Nothing before this is looked at any more.
    looked_at: u32,
}

impl StreamEditor {
    /// Replaces `find` by `put` in the streams that run in `dir`. Neither may be empty.
    #[must_use]
    pub fn new(dir: Direction, find: &[u8], put: &[u8]) -> Self {
        assert!(!find.is_empty() && !put.is_empty(), "an edit replaces something by something");
        Self { dir, find: find.to_vec(), put: put.to_vec(), flows: BTreeMap::new(), edited: 0 }
    }

    /// Occurrences replaced so far, repetitions not counted.
    #[must_use]
    pub const fn edited(&self) -> u64 {
        self.edited
    }

    /// How far `count` edits move what is behind them.
    fn shift(&self, count: usize) -> u32 {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let each = len(&self.put).wrapping_sub(len(&self.find));
        u32::try_from(count).unwrap_or(u32::MAX).wrapping_mul(each)
    }

    /// Where octet `at` of the stream is in the edited one. What is replaced is where its first octet
    /// was, the rest of it behind the replacement.
    fn moved(&self, edits: &Edits, at: u32) -> u32 {
        let before = edits.places.partition_point(|place| *place < at);
        let Some(last) = before.checked_sub(1).and_then(|last| edits.places.get(last)) else {
            return at;
        };
        let end = last.wrapping_add(u32::try_from(self.find.len()).unwrap_or(u32::MAX));
        at.max(end).wrapping_add(self.shift(before))
    }

    /// The octet of the stream that is at `at` of the edited one; of a replacement that is cut, its
    /// start, or with `up` its end.
    fn origin(&self, edits: &Edits, at: u32, up: bool) -> u32 {
        let count = edits.places.len();
        let start = |n: usize| {
            edits.places.get(n).map_or(u32::MAX, |place| place.wrapping_add(self.shift(n)))
        };
        // Few edits and all in order: the last one that begins before `at`.
        let Some(last) = (0..count).rev().find(|n| start(*n) < at) else { return at };
        let put = u32::try_from(self.put.len()).unwrap_or(u32::MAX);
        if at >= start(last).wrapping_add(put) {
            return at.wrapping_sub(self.shift(last + 1));
        }
        let find = u32::try_from(self.find.len()).unwrap_or(u32::MAX);
        edits.places.get(last).map_or(at, |place| place.wrapping_add(if up { find } else { 0 }))
    }

    /// Looks for the pattern in octets that were not seen before.
    fn look(&self, edits: &mut Edits, start: u32, payload: &[u8]) -> u64 {
        let before = edits.places.len();
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut at = edits.looked_at.max(start);
        while let Some(rest) = payload.get((at - start) as usize..).filter(|r| !r.is_empty()) {
            let found = rest.starts_with(&self.find);
            if found {
                edits.places.push(at);
            }
            at += if found { u32::try_from(self.find.len()).unwrap_or(u32::MAX) } else { 1 };
        }
        edits.looked_at = edits.looked_at.max(start + len);
        (edits.places.len() - before) as u64
    }

    /// `payload`, which starts at octet `start` of the stream, as it goes on.
    fn rewritten(&self, edits: &Edits, start: u32, payload: &[u8]) -> Vec<u8> {
        let find = u32::try_from(self.find.len()).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        for (at, octet) in (start..).zip(payload) {
            let behind = edits.places.partition_point(|place| *place <= at);
            match behind.checked_sub(1).and_then(|last| edits.places.get(last)) {
                Some(place) if *place == at => out.extend_from_slice(&self.put),
                Some(place) if at - place < find => {}
                _ => out.push(*octet),
            }
        }
        out
    }

    fn forward(&mut self, packet: &mut Vec<u8>, tcp: TcpLayout) {
        let ports = ports(packet, tcp, false);
        let seq = read_u32(packet, tcp.header + 4);
        if tcp.flags(packet) & flag::SYN != 0 {
            // A repeated SYN begins nothing new.
            let first = seq.wrapping_add(1);
            let edits = self.flows.entry(ports).or_default();
            if edits.first != first {
                *edits = Edits { first, ..Edits::default() };
            }
            return;
        }
        let Some(mut edits) = self.flows.remove(&ports) else { return };
        let start = seq.wrapping_sub(edits.first);
        // What is before the first octet, a probe, stays.
        if start < 1 << 31 {
            let payload = packet.split_off(tcp.payload);
            self.edited += self.look(&mut edits, start, &payload);
            packet.extend(self.rewritten(&edits, start, &payload));
            add_u32(packet, tcp.header + 4, self.moved(&edits, start).wrapping_sub(start));
            edit::set_length(packet);
            edit::recompute(packet);
        }
        self.flows.insert(ports, edits);
    }

    fn back(&self, packet: &mut [u8], tcp: TcpLayout) {
        let Some(edits) = self.flows.get(&ports(packet, tcp, true)) else { return };
        let undo = |bytes: &mut [u8], at: usize, up: bool| {
            let moved = read_u32(bytes, at).wrapping_sub(edits.first);
            if moved < 1 << 31 {
                add_u32(bytes, at, self.origin(edits, moved, up).wrapping_sub(moved));
            }
        };
        if tcp.flags(packet) & flag::ACK != 0 {
            undo(packet, tcp.header + 8, false);
        }
        tcp.for_each_option(packet, |kind, _, option| {
            for (n, at) in (2..option.len()).step_by(4).enumerate().filter(|_| kind == SACK) {
                undo(option, at, n % 2 == 0);
            }
        });
        edit::recompute(packet);
    }
}

/// Both ports, those of the stream's sender first.
pub(super) fn ports(packet: &[u8], tcp: TcpLayout, reverse: bool) -> [u16; 2] {
    let both = read_u32(packet, tcp.header).to_be_bytes();
    let [a, b, c, d] = both;
    let (src, dst) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if reverse { [dst, src] } else { [src, dst] }
}

impl Middlebox for StreamEditor {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if let Some(tcp) = tcp_of(&packet) {
            if dir == self.dir {
                self.forward(&mut packet, tcp);
            } else {
                self.back(&mut packet, tcp);
            }
        }
        out.push((dir, packet));
    }
}

#[cfg(test)]
mod tests {
    use super::super::rewrite::tests::{fields, segment, through};
    use super::*;
    use proptest::prelude::*;

    const FORTH: Direction = Direction::AtoB;

    fn box_for(find: &[u8], put: &[u8]) -> StreamEditor {
        let mut editor = StreamEditor::new(FORTH, find, put);
        through(&mut editor, FORTH, segment(flag::SYN, 99, b"").to_packet());
        editor
    }

    /// Sequence number relative to the stream's first octet, and payload.
    fn sent(editor: &mut StreamEditor, at: u32, payload: &[u8]) -> (u32, Vec<u8>) {
        let packet = segment(flag::ACK, 100 + at, payload).to_packet();
        let out = through(editor, FORTH, packet);
        let (seq, _, _, _, payload) = fields(&out[0]);
        (seq - 100, payload)
    }

    fn acked(editor: &mut StreamEditor, at: u32) -> u32 {
        let mut ack = segment(flag::ACK, 7, b"");
        core::mem::swap(&mut ack.src, &mut ack.dst);
        ack.ack = 100 + at;
        let out = through(editor, FORTH.reverse(), ack.to_packet());
        fields(&out[0]).1 - 100
    }

    #[test]
    fn what_is_found_gets_another_length_and_numbers_follow() {
        let mut editor = box_for(b"10.0.0.1", b"198.51.100.17");
        assert_eq!(sent(&mut editor, 0, b"PORT 10.0.0.1,x"), (0, b"PORT 198.51.100.17,x".into()));
        assert_eq!(sent(&mut editor, 15, b"next"), (20, b"next".into()));
        // Repeated in other pieces it is the same; of what was replaced the rest is nothing.
        assert_eq!(sent(&mut editor, 0, b"PORT 10"), (0, b"PORT 198.51.100.17".into()));
        assert_eq!(sent(&mut editor, 7, b".0.0.1,x"), (18, b",x".into()));
        for (edited, original) in [(0, 0), (5, 5), (6, 5), (17, 5), (18, 13), (20, 15), (24, 19)] {
            assert_eq!(acked(&mut editor, edited), original, "{edited}");
        }
        assert_eq!(editor.edited(), 1);
    }

    #[test]
    fn what_has_passed_is_never_edited_later() {
        let mut editor = box_for(b"ab", b"c");
        assert_eq!(sent(&mut editor, 0, b"xa"), (0, b"xa".into()));
        assert_eq!(sent(&mut editor, 2, b"bab"), (2, b"bc".into()));
        assert_eq!(sent(&mut editor, 0, b"xabab"), (0, b"xabc".into()));
        assert_eq!(editor.edited(), 1);
        // A flow whose SYN was not seen.
        let mut other = segment(flag::ACK, 100, b"ab");
        other.src.set_port(9);
        let out = through(&mut editor, FORTH, other.to_packet());
        assert_eq!(fields(&out[0]).4, b"ab");
    }

    proptest! {
        /// Whatever is sent in whatever pieces and order, the receiver can put one stream together, and
        /// acknowledging it all acknowledges everything.
        #[test]
        fn the_edited_stream_is_one_stream(
            stream in proptest::collection::vec(0_u8..3, 1..60),
            pieces in proptest::collection::vec((0..60_usize, 1..20_usize), 1..20),
            put in proptest::collection::vec(5_u8..9, 1..4),
        ) {
            let mut editor = box_for(&[0, 1], &put);
            let mut received = BTreeMap::new();
            let whole = (0..stream.len()).step_by(7).map(|at| (at, 7));
            for (at, len) in pieces.into_iter().filter(|(at, _)| *at < stream.len()).chain(whole) {
                let end = (at + len).min(stream.len());
                let (seq, payload) = sent(&mut editor, at as u32, &stream[at..end]);
                for (place, octet) in (seq..).zip(payload) {
                    prop_assert_eq!(*received.entry(place).or_insert(octet), octet);
                }
            }
            let end = received.len() as u32;
            prop_assert!(received.keys().copied().eq(0..end));
            prop_assert_eq!(acked(&mut editor, end), stream.len() as u32);
        }
    }
}
