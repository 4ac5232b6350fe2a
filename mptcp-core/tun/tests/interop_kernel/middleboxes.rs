//! Middleboxes that remove MPTCP options, at every step of the handshake and later. The kernel's
//! own packet filter plays them.

use crate::bed::{Bed, Checksum, Role, Setup};
use crate::kernel::Gate;
use crate::pattern::Plan;
use crate::ready;
use core::time::Duration;

const MIB: u64 = 1 << 20;
const PLAN: Plan = Plan { up: MIB, down: MIB };

const SYN: &str = "tcp flags & (syn | ack) == syn";
const SYN_ACK: &str = "tcp flags & (syn | ack) == syn | ack";
const LATER: &str = "tcp flags & syn == 0";

/// A filter that strips what matches on the way out of the kernel, and into it.
fn strip(out: &str, into: &str) -> String {
    let chain = |hook: &str, rule: &str| {
        let rule =
            if rule.is_empty() { String::new() } else { format!("{rule} reset tcp option mptcp") };
        format!("chain {hook} {{ type filter hook {hook} priority -300; {rule}; }}\n")
    };
    format!("table inet middlebox {{\n{}{}}}\n", chain("output", out), chain("input", into))
}

struct Case {
    role: Role,
    out: &'static str,
    into: &'static str,
    reason: Option<&'static str>,
    kernel: &'static [&'static str],
    ours: &'static [&'static str],
}

/// Where the handshake loses its options both ends go on as TCP, and say why.
#[test]
fn stripped_handshakes_fall_back() {
    if !ready() {
        return;
    }
    let cases = [
        Case {
            role: Role::OurServer,
            out: SYN,
            into: "",
            reason: Some("syn_without_capable"),
            kernel: &["MPCapableFallbackSYNACK=1"],
            ours: &[],
        },
        Case {
            role: Role::OurServer,
            out: "",
            into: SYN_ACK,
            reason: Some("ack_without_capable"),
            kernel: &["MPCapableFallbackSYNACK=1"],
            ours: &["fallback=1", "mp_capable_fallback_ack=1"],
        },
        Case {
            role: Role::OurServer,
            out: LATER,
            into: "",
            reason: Some("ack_without_capable"),
            kernel: &["MPCapableDataFallback?", "DssFallback?"],
            ours: &["fallback=1", "mp_capable_fallback_ack=1"],
        },
        Case {
            role: Role::OurServer,
            out: LATER,
            into: LATER,
            reason: Some("ack_without_capable"),
            kernel: &["MPCapableDataFallback?", "DssFallback?"],
            ours: &["fallback=1", "mp_capable_fallback_ack=1"],
        },
        // The way to the client only: the client's first data is mapped, then it goes on as TCP.
        Case {
            role: Role::OurServer,
            out: "",
            into: LATER,
            reason: Some("no_data_ack"),
            kernel: &["MPCapableDataFallback?", "DssFallback?"],
            ours: &["fallback=1", "dss_fallback=1", "infinite_map_tx?"],
        },
        Case {
            role: Role::OurClient,
            out: "",
            into: SYN,
            reason: Some("syn_ack_without_capable"),
            kernel: &[],
            ours: &["fallback=1", "mp_capable_fallback_syn_ack=1"],
        },
        Case {
            role: Role::OurClient,
            out: SYN_ACK,
            into: "",
            reason: Some("syn_ack_without_capable"),
            kernel: &["MPCapableFallbackACK=1"],
            ours: &["fallback=1", "mp_capable_fallback_syn_ack=1"],
        },
        Case {
            role: Role::OurClient,
            out: "",
            into: LATER,
            reason: Some("no_data_ack"),
            kernel: &["MPCapableFallbackACK=1"],
            ours: &["fallback=1", "dss_fallback=1", "infinite_map_tx?"],
        },
        // The way to us only: what the kernel maps arrives without it.
        Case {
            role: Role::OurClient,
            out: LATER,
            into: "",
            reason: Some("no_data_ack"),
            kernel: &["MPCapableFallbackACK?", "DssFallback?", "InfiniteMapRx?"],
            ours: &["fallback=1", "dss_fallback=1", "infinite_map_tx?"],
        },
        Case {
            role: Role::OurClient,
            out: LATER,
            into: LATER,
            reason: Some("no_data_ack"),
            kernel: &["MPCapableFallbackACK=1"],
            ours: &["fallback=1", "dss_fallback=1", "infinite_map_tx?"],
        },
    ];
    for case in cases {
        for v6 in [false, true] {
            let bed = Bed::new(&Setup { v6, paths: 1, ..Setup::default() });
            bed.kernel.nft(&strip(case.out, case.into));
            eprintln!("{:?} strips out {:?} and in {:?}", case.role, case.out, case.into);
            let running = bed.begin(case.role, true, PLAN, &Gate::at(u64::MAX));
            let info = bed.complete(running);
            let reason = info.fallback.map(mptcp_core::mptcp::FallbackReason::name);
            assert_eq!((info.mptcp, reason), (None, case.reason));
            bed.finish(case.kernel, case.ours);
        }
    }
}

/// A second path whose middlebox strips options is not used; the first goes on alone.
#[test]
fn stripped_joins_leave_the_first_subflow_alone() {
    if !ready() {
        return;
    }
    for role in [Role::OurServer, Role::OurClient] {
        for step in [SYN, SYN_ACK, LATER] {
            let setup = Setup {
                our_endpoints: role == Role::OurClient,
                kernel_endpoints: if role == Role::OurServer { "subflow" } else { "" },
                ..Setup::default()
            };
            let bed = Bed::new(&setup);
            let second = |direction: &str| format!("{direction} \"path1\" {step}");
            bed.kernel.nft(&strip(&second("oifname"), &second("iifname")));
            eprintln!("{role:?}: {step}");
            let info = bed.held_transfer(role, PLAN, MIB / 2, |bed| match role {
                Role::OurServer => {
                    bed.wait("a join fails", |bed| {
                        bed.our_counter("in_rsts") + bed.our_counter("out_rsts") > 0
                    });
                }
                Role::OurClient => bed.wait("our join fails", |bed| {
                    bed.our_counter("mp_join_syn_tx") == 1
                        && bed.our_counter("in_rsts") + bed.our_counter("out_rsts") > 0
                }),
            });
            assert_eq!((info.mptcp, info.fallback), (Some(1), None));
            bed.finish(
                &[
                    "MPJoinSynRx?",
                    "MPJoinSynAckRx?",
                    "MPJoinAckRx?",
                    "MPRstTx?",
                    "MPRstRx?",
                    "MPJoinAckHMacFailure?",
                    "AttemptFails?",
                ],
                &[
                    "mp_join_syn_rx?",
                    "mp_join_syn_ack_rx?",
                    "mp_join_ack_rx?",
                    "mp_join_ack_missing?",
                    "mp_join_syn_ack_missing?",
                    "dss_ack_missing_reset?",
                    "mp_rst_tx?",
                    "mp_rst_rx?",
                    "in_rsts?",
                    "out_rsts?",
                    "estab_resets?",
                    "attempt_fails?",
                    "drop_join_hmac?",
                    "drop_no_socket?",
                ],
            );
        }
    }
}

/// Options vanish from the only path in mid-transfer: nothing can be delivered any more, and no
/// wrong octet may be. Both ends end the connection with an error (RFC 8684 §3.7).
#[test]
fn options_that_vanish_later_end_the_connection() {
    if !ready() {
        return;
    }
    for checksum in [Checksum::Nobody, Checksum::Kernel] {
        for role in [Role::OurServer, Role::OurClient] {
            let setup = Setup {
                checksum,
                paths: 1,
                configure: |config| config.mptcp.close_timeout = Duration::from_secs(1),
                ..Setup::default()
            };
            let bed = Bed::new(&setup);
            bed.kernel.sysctl("net.mptcp.close_timeout", "1");
            let gate = Gate::at(MIB / 2);
            bed.ours.with(|app, _| app.gate = MIB / 2);
            let running = bed.begin(role, true, Plan { up: 8 * MIB, down: 8 * MIB }, &gate);
            bed.wait("half arrives", |bed| bed.ours.with(|app, _| app.received()) == MIB / 2);
            bed.kernel.nft(&strip(LATER, LATER));
            gate.open_to(u64::MAX);
            bed.ours.with(|app, now| app.open_gate(now, u64::MAX));
            for outcome in running.join() {
                assert_eq!(outcome.difference, None, "{outcome:?}");
                eprintln!("{role:?} {checksum:?}: {outcome:?}");
            }
            bed.wait("our session ends", |bed| bed.ours.with(|app, _| !app.done.is_empty()));
            let outcome = bed.ours.with(|app, _| app.done.remove(0));
            eprintln!("{outcome:?}");
            assert_eq!(outcome.difference, None, "{outcome:?}");
            bed.finish(
                &[
                    "DssFallback?",
                    "DSSCorruptionReset?",
                    "MPRstTx?",
                    "MPRstRx?",
                    "DSSNoMatchTCP?",
                    "DSSCorruptionFallback?",
                    "InfiniteMapTx?",
                    "InfiniteMapRx?",
                ],
                &[
                    "fallback?",
                    "dss_fallback?",
                    "dss_corruption_reset?",
                    "mp_rst_tx?",
                    "out_rsts?",
                    "in_rsts?",
                    "estab_resets?",
                    "drop_no_socket?",
                    "drop_listener_state?",
                ],
            );
        }
    }
}
