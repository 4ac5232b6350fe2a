//! Many connections at once, and large transfers.

use crate::bed::{Bed, Role, Setup};
use crate::kernel::{self, Gate};
use crate::pattern::Plan;
use crate::{full, ready, variants};

const MIB: u64 = 1 << 20;

/// Half of them from the kernel, half from us, a part of them plain TCP.
#[test]
fn many_connections_at_once() {
    if !ready() {
        return;
    }
    let count = if full() { 500 } else { 100 };
    for (v6, checksum) in variants() {
        let bed = Bed::new(&Setup { v6, checksum, paths: 1, ..Setup::default() });
        // A crowd loses SYNs: the kernel is to go on asking for MPTCP all the same.
        bed.kernel.sysctl("net.mptcp.syn_retrans_before_tcp_fallback", "20");
        bed.kernel.sysctl("net.mptcp.blackhole_timeout", "0");
        let gate = Gate::at(u64::MAX);
        let server = bed.kernel_server(true, count, &gate);
        let plan = |n: usize| Plan { up: n as u64 * 797, down: n as u64 * 1301 };
        for n in 0..count {
            bed.connect(n % 4 != 0, plan(n));
        }
        let clients: Vec<_> = (0..count)
            .map(|n| kernel::client(bed.kernel_socket(n % 4 != 0), plan(n), &gate))
            .collect();
        let served = server.join().expect("no panic");
        let asked = clients.into_iter().map(|client| client.join().expect("no panic"));
        for outcome in served.into_iter().chain(asked) {
            assert!(outcome.complete, "{outcome:?}");
        }
        bed.wait("our sessions end", |bed| {
            bed.ours.with(move |app, _| app.done.len() == 2 * count)
        });
        bed.ours.with(|app, _| {
            for outcome in &app.done {
                assert!(outcome.complete && outcome.info.error.is_none(), "{outcome:?}");
            }
        });
        // Window probes of the kernel lie outside the window, as they must; data that overtakes a
        // lost third ACK is not kept; what comes after our TIME-WAIT, short here, is answered with RST.
        // Crowding costs third ACKs, and now and then MPTCP with them.
        bed.finish(
            // A SYN/ACK that asks for the keys again counts as an error at the kernel.
            &["MPCapableDataFallback?", "MPCapableFallbackACK?", "InErrs?"],
            &[
                "fallback?",
                "mp_capable_fallback_ack?",
                "drop_out_of_window?",
                "tcp_challenge_ack?",
                "drop_mp_capable_missing?",
                "drop_listener_state?",
                "drop_no_socket?",
                "out_rsts?",
            ],
        );
    }
}

/// More than any window or queue, both ways at once, over two paths. In full beyond every 32-bit
/// sequence number.
#[test]
fn large_transfers() {
    if !ready() {
        return;
    }
    let bytes = if full() { (4 << 30) + 64 * MIB } else { 200 * MIB };
    for role in [Role::OurServer, Role::OurClient] {
        let setup = Setup {
            our_endpoints: role == Role::OurClient,
            kernel_endpoints: if role == Role::OurServer { "subflow" } else { "" },
            judged: false,
            ..Setup::default()
        };
        for plan in [Plan { up: MIB, down: bytes }, Plan { up: bytes, down: MIB }] {
            let bed = Bed::new(&setup);
            let info = bed.held_transfer(role, plan, MIB / 2, |bed| bed.wait_subflows(2));
            assert_eq!((info.mptcp, info.fallback), (Some(1), None));
            match role {
                Role::OurServer => {
                    bed.finish(&["MPJoinSynAckRx=1"], &["mp_join_syn_rx=1", "mp_join_ack_rx=1"]);
                }
                Role::OurClient => {
                    bed.finish(&["MPJoinSynRx=1", "MPJoinAckRx=1"], &["mp_join_syn_ack_rx=1"]);
                }
            }
        }
    }
}

#[test]
fn large_plain_transfers() {
    if !ready() {
        return;
    }
    let bytes = if full() { (4 << 30) + 64 * MIB } else { 200 * MIB };
    for role in [Role::OurServer, Role::OurClient] {
        let bed = Bed::new(&Setup { paths: 1, judged: false, ..Setup::default() });
        bed.transfer(role, false, Plan { up: bytes, down: bytes });
        bed.finish(&[], &[]);
    }
}
