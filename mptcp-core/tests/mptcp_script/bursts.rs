//! Bursts on subflows: what follows on each other in both sequence spaces is processed at once, and
//! nobody can tell by what comes out. Whether segments were taken together is read off
//! `tcp_rcv_coalesce`.

use crate::harness::*;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, MpJoin, MptcpOption, TcpFlags, Version};
use proptest::prelude::*;

fn coalesced(script: &Script) -> u64 {
    script.counters().tcp_rcv_coalesce
}

/// Octet `offset` of the peer's stream.
fn stream(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(|at| (at ^ at >> 8) as u8).collect()
}

/// A connection with two subflows.
struct Pair {
    script: Script,
    keys: Keys,
    flows: [Flow; 2],
    id: SocketId,
}

fn pair(version: Version, flags: CapableFlags) -> Pair {
    let mut script = Script::server_with(version, |c| {
        c.tcp.congestion = mptcp_core::config::CongestionAlgorithm::NewReno;
    });
    let (keys, mut first, id) = script.confirmed_with(flags);
    let payload = stream(0, 10);
    let out = script.send_data(&keys, &mut first, 0, 0, &payload);
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    let mut second = script.join(&keys, at(P2, 41_000), at(A1, PORT));
    let out = script.send_data(&keys, &mut second, 10, 0, &stream(10, 10));
    first.hears(&out);
    script.expect_octets(id, 20);
    Pair { script, keys, flows: [first, second], id }
}

impl Script {
    fn expect_octets(&mut self, id: SocketId, len: usize) -> Vec<u8> {
        let got = self.read(id).unwrap_or_default();
        assert_eq!(got.len(), len);
        got
    }
}

impl Pair {
    fn text(&mut self, flow: usize, offset: u64, len: usize) -> (usize, Seg) {
        let payload = stream(offset, len);
        let flow_ = &mut self.flows[flow];
        let seg = flow_.seg().dss(self.keys.data(flow_, offset, 0, &payload)).data(&payload);
        flow_.snd_nxt = flow_.snd_nxt.wrapping_add(len as u32);
        (flow, seg)
    }

    /// Answers how many went with the one before.
    fn together(&mut self, burst: &[(usize, Seg)]) -> u64 {
        let before = coalesced(&self.script);
        let burst: Vec<_> = burst.iter().map(|(at, seg)| (&self.flows[*at], seg)).collect();
        self.script.inject_burst(&burst);
        coalesced(&self.script) - before
    }
}

#[test]
fn mappings_that_continue_are_one() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        let burst: Vec<_> = (0..5).map(|n| pair.text(0, 20 + n * 100, 100)).collect();
        assert_eq!(pair.together(&burst), 4);
        assert_eq!(pair.script.expect_octets(pair.id, 500), stream(20, 500));
        // One mapping that comes with every piece of its text, as a sender that segments late sends it.
        let whole = stream(520, 300);
        let dss = pair.keys.data(&pair.flows[0], 520, 0, &whole);
        let pieces: Vec<_> = (0..3)
            .map(|n| {
                let seg = pair.flows[0].seg().dss(dss).data(&whole[n * 100..][..100]);
                pair.flows[0].snd_nxt = pair.flows[0].snd_nxt.wrapping_add(100);
                (0, seg)
            })
            .collect();
        assert_eq!(pair.together(&pieces), 2);
        assert_eq!(pair.script.expect_octets(pair.id, 300), whole);
    });
}

/// Each subflow has half of the stream, segment by segment. Nothing of it waits for the other half.
#[test]
fn what_two_subflows_bring_is_taken_in_the_order_of_the_stream() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        let mut burst: Vec<_> = (0..4).map(|n| pair.text(0, 20 + n * 200, 100)).collect();
        burst.extend((0..4).map(|n| pair.text(1, 120 + n * 200, 100)).collect::<Vec<_>>());
        assert_eq!(pair.together(&burst), 6);
        assert_eq!(pair.script.expect_octets(pair.id, 800), stream(20, 800));
        assert_eq!(pair.script.counters().ofo_queue, 0);
    });
}

/// What ends the run of one ends those of the others: else text of theirs would seem to fill a hole.
#[test]
fn runs_of_a_connection_end_together() {
    both(|v| {
        let outs = [false, true].map(|burst| {
            let mut pair = pair(v, CapableFlags::HMAC);
            // Beyond the first segments of a connection, which are acknowledged at once.
            for n in 0..40 {
                let (flow, seg) = pair.text(n % 2, 20 + n as u64, 1);
                pair.script.send(&pair.flows[flow], &seg);
            }
            let mut segs: Vec<_> =
                [(0, 60), (1, 70), (0, 80)].map(|(flow, at)| pair.text(flow, at, 10)).into();
            segs.push((0, pair.flows[0].seg()));
            if burst {
                assert_eq!(pair.together(&segs), 1);
            } else {
                for (flow, seg) in &segs {
                    pair.script.inject(&pair.flows[*flow], seg);
                }
            }
            format!("{:?}", pair.script.out())
        });
        assert_eq!(outs[0], outs[1]);
    });
}

/// The server spoke first, so its client joins as soon as it has answered. What confirms the connection is a run
/// that is not at its end when the join comes.
#[test]
fn a_join_finds_the_connection_as_what_came_before_it_leaves_it() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.unconfirmed();
        let payload = stream(0, 10);
        let text = first.seg().dss(keys.data(&first, 0, 0, &payload)).data(&payload);
        let mut second = Flow::new(at(P2, 41_000), at(A1, PORT));
        let token = keys.stack_token();
        let join = MpJoin::Syn { backup: false, address_id: 2, token, nonce: NONCE };
        let syn = second.syn().opt(&MptcpOption::Join(join));
        script.inject_burst(&[(&first, &text), (&second, &syn)]);
        let out = script.out();
        let answer = second.of(&out);
        let [syn_ack] = answer.as_slice() else { panic!("{out:?}") };
        assert_eq!(syn_ack.flags, TcpFlags::SYN | TcpFlags::ACK, "{out:?}");
        let third = Script::join_ack(&keys, syn_ack);
        second.hears(&out);
        second.snd_nxt = second.isn.wrapping_add(1);
        script.send(&second, &second.seg().opt(&third));
        assert_eq!((script.info(id).subflows.len(), script.counters().mp_join_rejected), (2, 0));
        assert_eq!(script.expect_octets(id, 10), payload);
    });
}

/// The same with a hole, which what comes later fills.
#[test]
fn what_is_missing_between_two_subflows_is_waited_for() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        let mut burst = vec![pair.text(0, 20, 100), pair.text(0, 220, 100)];
        let late = pair.text(1, 120, 100);
        let behind = pair.text(1, 320, 100);
        burst.push(pair.text(0, 420, 100));
        assert_eq!(pair.together(&burst), 2);
        assert_eq!(pair.script.expect_octets(pair.id, 100), stream(20, 100));
        assert_eq!(pair.script.counters().ofo_queue, 2);
        assert_eq!(pair.together(&[late, behind]), 1);
        assert_eq!(pair.script.expect_octets(pair.id, 400), stream(120, 400));
    });
}

#[test]
fn mappings_beside_each_other_are_not() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        // Nothing maps what is between the two.
        let first = pair.text(0, 20, 100);
        let mut ahead = pair.flows[0].clone();
        ahead.snd_nxt = ahead.snd_nxt.wrapping_add(100);
        let dss = pair.keys.data(&ahead, 220, 0, &stream(220, 100));
        let second = (0, pair.flows[0].seg().dss(dss).data(&stream(120, 100)));
        assert_eq!(pair.together(&[first, second]), 0);
        assert_eq!(pair.script.expect_octets(pair.id, 100), stream(20, 100));
    });
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        // A DATA_FIN, an option of another kind, and none at all.
        let (_, last) = pair.text(0, 20, 100);
        let bare = pair.flows[0].seg().data(&[7; 10]);
        assert_eq!(pair.together(&[(0, last.clone()), (0, bare)]), 0);
        pair.script.out();
    });
}

/// A checksum covers one mapping.
#[test]
fn mappings_with_checksums_are_not() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC | CapableFlags::CHECKSUM);
        let burst: Vec<_> = (0..3).map(|n| pair.text(0, 20 + n * 100, 100)).collect();
        assert_eq!(pair.together(&burst), 0);
        assert_eq!(pair.script.expect_octets(pair.id, 300), stream(20, 300));
    });
}

/// The last `DATA_ACK` says all, of both subflows, however their packets alternate.
#[test]
fn acknowledgements_of_both_levels_are_one() {
    both(|v| {
        let mut pair = pair(v, CapableFlags::HMAC);
        let out = pair.script.write(pair.id, 0, 12_000);
        let mut segs = Vec::new();
        let mut acked = 0;
        for packet in out.iter().filter(|o| !o.payload.is_empty()) {
            let at = usize::from(pair.flows[0].of(core::slice::from_ref(packet)).is_empty());
            pair.flows[at].hears(core::slice::from_ref(packet));
            acked += packet.payload.len() as u64;
            segs.push((at, pair.flows[at].seg().dss(pair.keys.ack(acked))));
        }
        let used = segs.iter().map(|(at, _)| at).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(pair.together(&segs), (segs.len() - used.len()) as u64);
        assert_eq!(pair.script.info(pair.id).bytes_acked, 12_000);
    });
}

/// Text that nobody will read ends the connection, and with it the run of the other subflow.
#[test]
fn a_run_may_end_the_connection_of_another() {
    both(|v| {
        let outs = [false, true].map(|burst| {
            let mut pair = pair(v, CapableFlags::HMAC);
            pair.script.stack.close(pair.script.now, pair.id);
            let closing = pair.script.out();
            pair.flows[0].hears(&closing);
            let mut segs = Vec::new();
            for n in 0..4 {
                segs.push(pair.text(0, 20 + n * 10, 10));
                segs.push(pair.text(1, 60 + n * 10, 10));
            }
            if burst {
                pair.together(&segs);
            } else {
                for (at, seg) in &segs {
                    pair.script.inject(&pair.flows[*at], seg);
                }
            }
            let out = pair.script.out();
            // The first is answered with an `MP_FASTCLOSE`, on a RST or not.
            assert!(pair.flows[1].of(&out).iter().any(|o| o.rst()), "{out:?}");
            out.len()
        });
        // Each segment that comes after the end is answered with a RST of its own.
        assert!(outs[1] <= outs[0], "{outs:?}");
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next octets of the stream.
    Text {
        flow: usize,
        len: usize,
    },
    /// The same, but the segment is late: it comes in front of the next burst. Behind others of that one it would
    /// fill its hole at once, which is none to a stack that takes a burst in the order of the stream.
    Late {
        flow: usize,
        len: usize,
    },
    /// Octets further on; what is between them comes at the end.
    Ahead {
        flow: usize,
        len: usize,
    },
    /// Some that were read before, under new subflow numbers. Of two copies in one burst the order decides, and
    /// that is another matter.
    Again {
        flow: usize,
        len: usize,
    },
    Acknowledge {
        flow: usize,
    },
    Bare {
        flow: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flow = || 0_usize..2;
    prop_oneof![
        10 => (flow(), 1_usize..1_400).prop_map(|(flow, len)| Step::Text { flow, len }),
        1 => (flow(), 1_usize..1_400).prop_map(|(flow, len)| Step::Late { flow, len }),
        2 => (flow(), 1_usize..1_400).prop_map(|(flow, len)| Step::Ahead { flow, len }),
        1 => (flow(), 1_usize..1_400).prop_map(|(flow, len)| Step::Again { flow, len }),
        6 => flow().prop_map(|flow| Step::Acknowledge { flow }),
        1 => flow().prop_map(|flow| Step::Bare { flow }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Copies of what the other subflow brings in the same burst, and of what came before: each octet once.
    #[test]
    fn of_copies_in_one_burst_one_counts(
        v in prop_oneof![Just(Version::V0), Just(Version::V1)],
        bursts in proptest::collection::vec(
            proptest::collection::vec((0_usize..2, 1_usize..1_000, 0_usize..2_000), 1..8),
            1..4,
        ),
    ) {
        let mut pair = pair(v, CapableFlags::HMAC);
        let (mut next, mut read) = (20, 20);
        for steps in bursts {
            let mut segs = Vec::new();
            for (flow, len, copied) in steps {
                segs.push(pair.text(flow, next, len));
                next += len as u64;
                let copied = copied.min(next as usize).min(1_400);
                if copied > 0 {
                    segs.push(pair.text(1 - flow, next - copied as u64, copied));
                }
            }
            pair.together(&segs);
            pair.script.out();
            let got = pair.script.read(pair.id).unwrap_or_default();
            prop_assert_eq!(got, stream(read, (next - read) as usize));
            read = next;
        }
    }

    /// Segments that come port by port give the same octets and the same answers as one by one, in the order
    /// of the stream.
    #[test]
    fn ports_have_no_order(
        v in prop_oneof![Just(Version::V0), Just(Version::V1)],
        bursts in proptest::collection::vec(
            proptest::collection::vec((0_usize..2, 1_usize..1_000, prop::bool::weighted(0.1)), 2..16),
            1..4,
        ),
    ) {
        let (mut one, mut all) = (pair(v, CapableFlags::HMAC), pair(v, CapableFlags::HMAC));
        let mut next = 20;
        for steps in bursts {
            let mut segs = Vec::new();
            for (flow, len, behind_a_hole) in steps {
                next += if behind_a_hole { 10 } else { 0 };
                segs.push(all.text(flow, next, len));
                next += len as u64;
            }
            one.flows = all.flows.clone();
            for (flow, seg) in &segs {
                one.script.inject(&one.flows[*flow], seg);
            }
            segs.sort_by_key(|(flow, _)| *flow);
            all.together(&segs);
            // Which subflow's turn it is first makes no difference.
            let said = |pair: &mut Pair| {
                let out = pair.script.out().into_iter().map(|o| format!("{o:?}"));
                out.collect::<std::collections::BTreeSet<_>>()
            };
            prop_assert_eq!(said(&mut one), said(&mut all));
            let got = all.script.read(all.id).unwrap_or_default();
            prop_assert_eq!(&one.script.read(one.id).unwrap_or_default(), &got);
        }
    }

    /// The same segments give the same octets and the same answers, whether they come as bursts or one
    /// by one.
    #[test]
    fn bursts_and_single_packets_come_to_the_same(
        v in prop_oneof![Just(Version::V0), Just(Version::V1)],
        bursts in proptest::collection::vec(proptest::collection::vec(step(), 1..16), 1..12),
    ) {
        let (mut one, mut all) = (pair(v, CapableFlags::HMAC), pair(v, CapableFlags::HMAC));
        let (mut next, mut acked, mut read) = (20, 0, 20);
        let mut missing = Vec::new();
        let mut late = Vec::new();
        for steps in bursts {
            let overdue = core::mem::take(&mut late);
            let (out_one, out_all) =
                (one.script.write(one.id, 0, 3_000), all.script.write(all.id, 0, 3_000));
            prop_assert_eq!(format!("{out_one:?}"), format!("{out_all:?}"));
            let mut segs = overdue;
            for step in steps {
                let step = match step {
                    // The window, 65,535 octets, holds all of it.
                    Step::Text { flow, len } | Step::Late { flow, len } | Step::Ahead { flow, len }
                        if next + 2 * len as u64 > 65_000 =>
                    {
                        Step::Bare { flow }
                    }
                    step => step,
                };
                let (flow, seg) = match step {
                    Step::Text { flow, len } => {
                        next += len as u64;
                        all.text(flow, next - len as u64, len)
                    }
                    Step::Late { flow, len } => {
                        next += len as u64;
                        late.push(all.text(flow, next - len as u64, len));
                        continue;
                    }
                    Step::Ahead { flow, len } => {
                        missing.push((next, len));
                        next += 2 * len as u64;
                        all.text(flow, next - len as u64, len)
                    }
                    Step::Again { flow, len } => {
                        let len = len.min(read as usize);
                        all.text(flow, read - len as u64, len)
                    }
                    Step::Acknowledge { flow } => {
                        let heard: Vec<_> = all.flows[flow].of(&out_all).into_iter().cloned().collect();
                        if let Some(packet) = heard.iter().find(|o| o.seq == all.flows[flow].rcv_nxt) {
                            all.flows[flow].hears(core::slice::from_ref(packet));
                        }
                        acked += 1;
                        (flow, all.flows[flow].seg().dss(all.keys.ack(acked.min(1_000))))
                    }
                    Step::Bare { flow } => (flow, all.flows[flow].seg()),
                };
                segs.push((flow, seg));
            }
            one.flows = all.flows.clone();
            for (flow, seg) in &segs {
                one.script.inject(&one.flows[*flow], seg);
            }
            all.together(&segs);
            let (out_one, out_all) = (one.script.out(), all.script.out());
            prop_assert_eq!(format!("{out_one:?}"), format!("{out_all:?}"));
            let got = all.script.read(all.id).unwrap_or_default();
            prop_assert_eq!(&one.script.read(one.id).unwrap_or_default(), &got);
            prop_assert_eq!(&got, &stream(read, got.len()));
            read += got.len() as u64;
        }
        all.together(&late);
        let fill: Vec<_> = missing.iter().map(|&(offset, len)| all.text(0, offset, len)).collect();
        all.together(&fill);
        let got = all.script.read(all.id).unwrap_or_default();
        prop_assert_eq!(&got, &stream(read, got.len()));
        prop_assert_eq!(read + got.len() as u64, next);
    }
}
