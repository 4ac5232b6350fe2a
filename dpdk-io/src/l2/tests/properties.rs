//! Whatever comes in, nothing panics, leaks or is counted twice.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Any bytes as a frame.
    Garbage(u8, Vec<u8>),
    /// A good frame with some bytes changed and perhaps cut.
    Mutated(u8, usize, Vec<(usize, u8)>, usize),
    /// A packet of the stack.
    Send(u8, u16, u16),
    /// An answer of a neighbour.
    Answer(u16),
    /// Time passes.
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((0_usize..120, any::<u8>()), 0..4);
    prop_oneof![
        1 => (0_u8..4, prop::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(port, bytes)| Step::Garbage(port, bytes)),
        4 => (0_u8..3, any::<usize>(), changes, 0_usize..200)
            .prop_map(|(port, which, changes, cut)| Step::Mutated(port, which, changes, cut)),
        3 => (0_u8..5, 0_u16..20, 20_u16..1600).prop_map(|(port, to, len)| Step::Send(port, to, len)),
        1 => (0_u16..20).prop_map(Step::Answer),
        1 => (0_u16..5000).prop_map(Step::Wait),
    ]
}

/// Good frames of every kind.
fn good_frames(port: PortId) -> Vec<Vec<u8>> {
    let solicit = ndisc::Message::Solicit { target: v6("fd00:1::1"), mac: None };
    let advert = ndisc::Message::Advert {
        target: v6("fd00:1::fe"),
        mac: None,
        solicited: true,
        overrides: true,
    };
    vec![
        arp_frame(port, PHONE, EVERYBODY, true, "10.1.0.2", own_v4(port)),
        arp_frame(port, ROUTER, ours(port), false, "10.1.0.254", own_v4(port)),
        arp_frame(port, PHONE, EVERYBODY, true, "10.1.0.3", "10.1.0.3"),
        ip_frame(port, PHONE, &segment("10.1.0.2", "10.1.0.1")),
        ip_frame(port, PHONE, &echo_request("10.1.0.2", "10.2.0.1", b"data")),
        ip_frame(port, PHONE, &echo_request("fd00:1::2", "fd00:1::1", b"data")),
        ndisc_frame(solicit, PHONE, EVERYBODY, "fd00:1::2", "ff02::1:ff00:1"),
        ndisc_frame(advert, ROUTER, ours(LTE), "fd00:1::fe", "fd00:1::1"),
    ]
}

/// Packets that went somewhere or were counted, but for what the neighbour table holds.
struct Ledger {
    entered: u64,
    passed: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_is_accounted_for(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let mut now = 0_u64;
        let mut ledger = Ledger { entered: 0, passed: 0 };
        for step in steps {
            match step {
                Step::Garbage(port, bytes) => {
                    let drops = bench.counters.all_drops();
                    let waiting = bench.l2.neighbours.waiting() as u64;
                    let passed = bench.receive(at(now), PortId(port), &bytes).is_some();
                    let dropped = bench.counters.all_drops() - drops;
                    prop_assert!(u64::from(passed) + dropped <= 1 + waiting);
                }
                Step::Mutated(port, which, changes, cut) => {
                    let frames = good_frames(PortId(port));
                    let mut frame = frames[which % frames.len()].clone();
                    for (at, value) in changes {
                        if let Some(byte) = frame.get_mut(at) {
                            *byte = value;
                        }
                    }
                    if cut < frame.len() / 2 {
                        frame.truncate(cut);
                    }
                    bench.receive(at(now), PortId(port), &frame);
                }
                Step::Send(port, to, len) => {
                    // Egress alone: each packet is sent, waits, or is counted.
                    let drops = bench.counters.all_drops();
                    let waiting = bench.l2.neighbours.waiting();
                    bench.sent();
                    let dst = format!("10.1.0.{}", 2 + to);
                    let packet = packet("10.1.0.1", &dst, 6, &vec![0; usize::from(len)]);
                    let port = if port == 4 { PortId::ROUTED } else { PortId(port) };
                    bench.send(at(now), port, &packet);
                    ledger.entered += 1;
                    let out = bench.sent().iter().filter(|(_, frame)| is_tcp(frame)).count() as u64;
                    let dropped = bench.counters.all_drops() - drops;
                    let held = bench.l2.neighbours.waiting() as i64 - waiting as i64;
                    prop_assert_eq!(out as i64 + dropped as i64 + held, 1);
                    ledger.passed += out;
                }
                Step::Answer(to) => {
                    let addr = format!("10.1.0.{}", 2 + to);
                    let waiting = bench.l2.neighbours.waiting();
                    bench.sent();
                    bench.teach(at(now), LTE, &addr, PHONE);
                    let out = bench.sent().len();
                    prop_assert_eq!(bench.l2.neighbours.waiting() + out, waiting);
                }
                Step::Wait(ms) => {
                    now += u64::from(ms);
                    bench.l2.handle_timeouts(at(now), &mut bench.wire);
                    let next = bench.l2.poll_timeout();
                    prop_assert!(next.is_none_or(|next| next > at(now)));
                }
            }
            prop_assert!(bench.l2.neighbour_count() <= 1024 + 4);
            bench.reports();
        }
        prop_assert!(ledger.passed <= ledger.entered);
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    let (header, payload) = unframe(frame);
    header.protocol == EthernetProtocol::Ipv4 && payload.get(9) == Some(&6)
}
