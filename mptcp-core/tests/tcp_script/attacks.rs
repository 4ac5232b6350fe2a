//! Peers that cheat or only keep us busy: reneging, tiny windows, divided acknowledgements, and segments
//! that overlap with other contents. See `docs/threats.md`.

use crate::harness::*;
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::{OptionWriter, TcpFlags, TcpHeader};

const MSS: u32 = 1460;

fn no_change(_: &mut mptcp_core::config::StackConfig) {}

/// Our stream's segment from octet `seq` on with contents that are not the test stream's.
fn forged(script: &mut Script, seq: u32, payload: &[u8]) -> Vec<u8> {
    let leg = script.leg();
    let header = TcpHeader {
        src_port: leg.peer.port(),
        dst_port: leg.local.port(),
        seq: leg.irs.add(seq),
        ack: leg.iss.add(1),
        flags: TcpFlags::ACK,
        window: leg.offer.window,
        urgent: 0,
    };
    build(leg.peer.ip(), leg.local.ip(), &header, &OptionWriter::new(), payload)
}

/// What was selectively acknowledged and is then denied goes out again (RFC 2018 §8): the marks are
/// advice, and nothing is freed before it is acknowledged in order.
#[test]
fn a_peer_that_reneges_gets_everything_again() {
    let mut script = Script::server(no_change, Peer::default());
    script.write(6 * MSS as usize);
    assert_eq!(script.take_all().len(), 6);
    let held = script.pool.in_use();
    script.inject(ack(1, 1).sack(&[(1 + MSS, 1 + 6 * MSS)]));
    assert!(script.pool.in_use() >= held.min(6), "nothing is freed by a mark");
    script.take_all();
    // The hole is filled, and the rest was never received.
    script.inject(ack(1, 1 + MSS));
    let mut sent = Vec::new();
    script.skip_collecting(60_000, &mut sent);
    let repeated = sent.iter().filter(|seg| seg.seq == 1 + MSS && seg.len > 0).count();
    assert!(repeated > 0, "the first that was denied goes again: {sent:?}");
    let mut at = 1 + MSS;
    for round in 1..=200 {
        let next = sent.iter().rev().find(|seg| seg.seq == at && seg.len > 0);
        at += next.map_or(0, |seg| seg.len as u32);
        sent.clear();
        script.inject(ack(1, at));
        sent.extend(script.take_all());
        script.skip_collecting(60_000 + round * 10_000, &mut sent);
        if at == 1 + 6 * MSS {
            break;
        }
    }
    assert_eq!(at, 1 + 6 * MSS, "all of it came again");
}

/// Windows of one octet: few segments, bounded memory, for as long as the application cares.
#[test]
fn a_peer_that_reads_octet_by_octet_costs_little() {
    let mut script =
        Script::server(|c| c.tcp.send_buffer_max = 64 << 10, Peer { window: 1, ..Peer::default() });
    let (id, mut written) = (script.id(), 0);
    while let Ok(count) = script.stack.send(script.now, id, &[0; 1_000]) {
        written += count;
    }
    assert!(written <= 2 * (64 << 10), "{written}");
    let pinned = script.pool.in_use();
    script.drain();
    let mut segments = 0;
    for second in 1..=600 {
        script.skip_until_quiet(second * 1_000);
        // It takes nothing, and says so every second.
        let state = ack(1, 1).window(0);
        let packet = script.packet(&state);
        script
            .stack
            .handle_burst(script.now, &mut vec![mptcp_core::buf::HeapBuf::from_slice(&packet)]);
        let before = script.stack.counters().out_segs;
        script.drain();
        segments += script.stack.counters().out_segs - before;
    }
    assert!(segments < 700, "{segments} segments in answer to 600");
    assert!(script.pool.in_use() <= pinned + 2, "{} buffers", script.pool.in_use());
    assert!(script.stack.counters().out_segs < 1_500, "{}", script.stack.counters().out_segs);
    // Nobody cares any more: it is given up, although it answers.
    script.stack.close(script.now, id);
    for second in 601..=2_400 {
        script.skip_until_quiet(second * 1_000);
        let state = ack(1, 1).window(0);
        let packet = script.packet(&state);
        script
            .stack
            .handle_burst(script.now, &mut vec![mptcp_core::buf::HeapBuf::from_slice(&packet)]);
        script.drain();
    }
    assert_eq!(script.stack.occupancy().tcbs, 0, "an orphan is not kept for ever");
    assert_eq!(script.pool.in_use(), 0);
}

/// One segment acknowledged octet by octet opens the window no further than at once (RFC 3465).
#[test]
fn divided_acknowledgements_open_no_window() {
    let grown = |pieces: u32| {
        let mut script = Script::server(no_change, Peer::default());
        script.write(40 * MSS as usize);
        let before = script.stack.info(script.id()).unwrap().subflows[0].cwnd;
        let step = 2 * MSS / pieces;
        for piece in 1..=pieces {
            script.inject(ack(1, 1 + piece * step));
        }
        script.take_all();
        script.stack.info(script.id()).unwrap().subflows[0].cwnd - before
    };
    let (at_once, divided) = (grown(1), grown(2 * MSS));
    assert!(at_once > 0 && divided <= at_once, "{divided} instead of {at_once}");
}

/// Overlapping segments with other contents: of what waits the first copy stays, and no octet is
/// delivered twice.
#[test]
fn of_overlapping_segments_the_first_copy_stays() {
    let mut script = Script::server(no_change, Peer::default());
    let stream: Vec<u8> = (1..=300).map(octet).collect();
    script.inject(data(101, 1, 100));
    script.take_all();
    // All around it, across its borders, and inside of it.
    for (seq, len) in [(51, 250), (101, 100), (150, 100), (120, 20)] {
        let lie = vec![0xee; len];
        let packet = forged(&mut script, seq, &lie);
        script.inject_bytes(&packet);
        script.take_all();
    }
    script.inject(data(1, 1, 50));
    script.take_all();
    let (id, mut into) = (script.id(), [0; 1_000]);
    let count = script.stack.recv(script.now, id, &mut into).unwrap();
    assert_eq!(count, 300, "each octet once");
    assert_eq!(into[..50], stream[..50]);
    assert_eq!(into[100..200], stream[100..200], "what was there first");
    assert!(into[50..100].iter().chain(&into[200..300]).all(|octet| *octet == 0xee));
    assert_eq!(script.leg().irs, SeqNum(PEER_ISS));
}
