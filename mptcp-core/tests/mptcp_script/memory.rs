//! Packet memory is short, and what holds it is in the reader's hands, behind holes, or in mappings of
//! which the rest is missing.

use crate::harness::{A2, Flow, Keys, Out, P2, PORT, Script, at, both, stream};
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, Dss, TcpFlags, reset_reason};

const LIMIT: usize = 200;
const RESERVE: usize = 40;
/// Buffers from which on memory is low, and short. The one that arrives counts.
const LOW: usize = LIMIT - RESERVE - LIMIT / 8;
const SHORT: usize = LIMIT - RESERVE;
/// Octets of a segment.
const FULL: u64 = 1_400;

/// One connection under test with its first flow.
struct Peer {
    keys: Keys,
    flow: Flow,
    id: SocketId,
}

impl Peer {
    fn new(script: &mut Script, port: u16, flags: CapableFlags) -> Self {
        let (keys, flow, id) = script.confirmed_from(port, CapableFlags::HMAC | flags);
        Self { keys, flow, id }
    }

    /// A full segment of the stream from `offset` on, next on the first flow.
    fn sends(&mut self, script: &mut Script, offset: u64) -> Vec<Out> {
        let data = stream(offset, FULL as usize);
        script.send_data(&self.keys, &mut self.flow, offset, 0, &data)
    }

    /// Those at so many times their length, in one burst, each next on the first flow.
    fn sends_together<const N: usize>(
        &mut self,
        script: &mut Script,
        places: [u64; N],
    ) -> Vec<Out> {
        let segs = places.map(|place| {
            let data = stream(place * FULL, FULL as usize);
            let dss = self.keys.data(&self.flow, place * FULL, 0, &data);
            let seg = self.flow.seg().dss(dss).data(&data);
            self.flow.snd_nxt = self.flow.snd_nxt.wrapping_add(FULL as u32);
            seg
        });
        script.inject_burst(&segs.each_ref().map(|seg| (&self.flow, seg)));
        script.out()
    }

    /// The same at another place of the flow, which stays where it is.
    fn sends_ahead(&self, script: &mut Script, offset: u64) -> Vec<Out> {
        let mut flow = self.flow.clone();
        flow.snd_nxt = flow.isn.wrapping_add(1).wrapping_add(offset as u32);
        let data = stream(offset, FULL as usize);
        script.send_data(&self.keys, &mut flow, offset, 0, &data)
    }
}

/// Connections whose readers are slow, until so many buffers are in use and no more.
fn fill(script: &mut Script, until: usize) {
    for port in 50_000.. {
        let mut slow = Peer::new(script, port, CapableFlags::empty());
        for n in 0..30 {
            if script.received_in_use() + 1 >= until {
                return;
            }
            slow.sends(script, n * FULL);
        }
    }
}

/// Memory is low, and the one who waits holds more than its share.
#[test]
fn a_head_is_taken_from_who_holds_more_than_others() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut waits = Peer::new(&mut script, 40_001, CapableFlags::empty());
        for n in 1..45 {
            waits.sends_ahead(&mut script, n * FULL);
        }
        fill(&mut script, LOW + 5);
        let refused = script.counters().tcp_rcv_q_drop;
        waits.sends_ahead(&mut script, 45 * FULL);
        assert_eq!(script.counters().tcp_rcv_q_drop, refused + 1, "more than its share");
        waits.sends(&mut script, 0);
        script.expect_stream(waits.id, 0, 45 * FULL as usize);
        assert_eq!(script.counters().tcp_ofo_pruned, 0);
    });
}

/// Nobody has anything to throw away: what fills a hole may take of the reserve.
#[test]
fn a_head_that_others_wait_for_may_take_of_the_reserve() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut waits = Peer::new(&mut script, 40_001, CapableFlags::empty());
        let mut join = script.join(&waits.keys, at(P2, 5000), at(A2, PORT));
        for n in 1..10 {
            let data = stream(n * FULL, FULL as usize);
            script.send_data(&waits.keys, &mut join, n * FULL, 0, &data);
        }
        fill(&mut script, SHORT);
        waits.sends(&mut script, 0);
        assert_eq!(script.received_in_use(), SHORT);
        script.expect_stream(waits.id, 0, 10 * FULL as usize);
        assert_eq!(script.counters().rcv_pruned, 0, "TCP had acknowledged it");
    });
}

/// The head comes behind data of the same subflow that is not next in the stream.
#[test]
fn what_is_before_the_head_on_its_subflow_takes_the_place_of_what_waits() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut waits = Peer::new(&mut script, 40_001, CapableFlags::empty());
        waits.sends(&mut script, FULL);
        fill(&mut script, SHORT);
        waits.sends(&mut script, 2 * FULL);
        assert_eq!(script.counters().rcv_pruned, 1, "one buffer for another");
        assert_eq!(script.received_in_use() + 1, SHORT);
        waits.sends(&mut script, 0);
        script.expect_stream(waits.id, 0, FULL as usize);
        waits.sends(&mut script, FULL);
        script.expect_stream(waits.id, FULL, 2 * FULL as usize);
    });
}

/// What several segments of one burst brought waits like what came one by one.
#[test]
fn what_a_burst_brought_behind_a_hole_of_the_stream_makes_room() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut waits = Peer::new(&mut script, 40_001, CapableFlags::empty());
        waits.sends_together(&mut script, [1, 2, 3, 4]);
        let mut reads = Peer::new(&mut script, 40_002, CapableFlags::empty());
        reads.sends(&mut script, 0);
        fill(&mut script, SHORT);
        reads.sends(&mut script, FULL);
        assert_eq!(script.counters().rcv_pruned, 1, "one buffer for another");
        script.expect_stream(reads.id, 0, 2 * FULL as usize);
        waits.sends(&mut script, 0);
        script.expect_stream(waits.id, 0, 4 * FULL as usize);
    });
}

/// Fills all memory beside what `waits`, and has one more reader want a place: that of the one buffer behind the hole.
fn one_buffer_for_another(script: &mut Script) {
    let mut reads = Peer::new(script, 40_002, CapableFlags::empty());
    reads.sends(script, 0);
    fill(script, SHORT);
    reads.sends(script, FULL);
    assert_eq!(script.counters().rcv_pruned, 1, "one buffer for another");
    script.expect_stream(reads.id, 0, 2 * FULL as usize);
}

/// One subflow fills the hole of the stream, and what another one brings in the same burst leaves the next.
#[test]
fn a_hole_that_takes_the_place_of_another_within_a_burst_makes_room() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let waits = Peer::new(&mut script, 40_001, CapableFlags::empty());
        let mut join = script.join(&waits.keys, at(P2, 5000), at(A2, PORT));
        let full = |place: u64| stream(place * FULL, FULL as usize);
        script.send_data(&waits.keys, &mut join, FULL, 0, &full(1));
        let fills = waits.keys.data(&waits.flow, 0, 0, &full(0));
        let leaves = waits.keys.data(&join, 10 * FULL, 0, &full(10));
        let head = waits.flow.seg().dss(fills).data(&full(0));
        let far = join.seg().dss(leaves).data(&full(10));
        script.inject_burst(&[(&waits.flow, &head), (&join, &far)]);
        script.out();
        one_buffer_for_another(&mut script);
    });
}

/// A subflow ends with the segment by which it leaves a hole in the stream.
#[test]
fn a_hole_that_a_subflow_leaves_behind_makes_room() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let waits = Peer::new(&mut script, 40_001, CapableFlags::CHECKSUM);
        let mut join = script.join(&waits.keys, at(P2, 5000), at(A2, PORT));
        let full = |place: u64| stream(place * FULL, FULL as usize);
        let dss = waits.keys.data(&join, 10 * FULL, 0, &full(10));
        let first = join.seg().dss(dss).data(&full(10));
        join.snd_nxt = join.snd_nxt.wrapping_add(FULL as u32);
        // Its checksum is that of other octets.
        let dss = waits.keys.data(&join, 11 * FULL, 0, &full(11));
        let second = join.seg().dss(dss).data(&[7; FULL as usize]);
        assert!(script.send(&join, &second).iter().all(|o| !o.rst()));
        let out = script.send(&join, &first);
        assert!(out.iter().any(|o| o.rst()), "{out:?}");
        one_buffer_for_another(&mut script);
    });
}

/// The first part of a mapping of 64,400 octets with a checksum.
fn long_mapping(script: &mut Script, peer: &mut Peer, from: u64, to: u64) -> Vec<Out> {
    let mut out = Vec::new();
    let whole = stream(0, 46 * FULL as usize);
    for n in from..to {
        let mapping = Some(peer.keys.mapping(0, 1, &whole));
        let dss = if n == 0 { Dss { mapping, ..peer.keys.ack(0) } } else { peer.keys.ack(0) };
        let data = stream(n * FULL, FULL as usize);
        out.extend(script.send(&peer.flow, &peer.flow.seg().dss(dss).data(&data)));
        peer.flow.snd_nxt = peer.flow.snd_nxt.wrapping_add(FULL as u32);
    }
    out
}

/// A checksum is over all of a mapping, which holds more than a connection's share.
#[test]
fn a_mapping_with_a_checksum_is_completed() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut sums = Peer::new(&mut script, 40_001, CapableFlags::CHECKSUM);
        long_mapping(&mut script, &mut sums, 0, 30);
        fill(&mut script, LOW);
        long_mapping(&mut script, &mut sums, 30, 46);
        script.expect_stream(sums.id, 0, 46 * FULL as usize);
    });
}

/// Mappings are begun and not ended until all memory is in them. The oldest goes for who can read.
#[test]
fn who_never_completes_its_mappings_does_not_keep_the_memory() {
    both(|v| {
        let mut script = Script::short_of_memory(v, LIMIT, RESERVE);
        let mut begun = Vec::new();
        let mut out = Vec::new();
        for port in 40_001..40_006 {
            let mut peer = Peer::new(&mut script, port, CapableFlags::CHECKSUM);
            out.extend(long_mapping(&mut script, &mut peer, 0, 45));
            begun.push(peer);
            assert!(script.received_in_use() <= LIMIT - RESERVE / 2);
        }
        let oldest = &begun[0].flow;
        let resets: Vec<&Out> = out.iter().filter(|o| o.is(TcpFlags::RST)).collect();
        assert!(!resets.is_empty() && resets[0].dst == oldest.peer, "{resets:?}");
        resets[0].assert_reset(reset_reason::LACK_OF_RESOURCES, true);
        let mut honest = Peer::new(&mut script, 41_000, CapableFlags::empty());
        for n in 0..100 {
            honest.sends(&mut script, n * FULL);
            script.expect_stream(honest.id, n * FULL, FULL as usize);
            assert!(script.received_in_use() <= LIMIT - RESERVE / 2);
        }
    });
}
