//! Paths that are cut, return, and lose packets.

use crate::bed::{Bed, Role, Setup};
use crate::pattern::Plan;
use crate::{ready, variants};
use core::sync::atomic::Ordering::Relaxed;
use mptcp_core::config::{SchedulerKind, StackConfig};

const MIB: u64 = 1 << 20;
const HOLD: u64 = MIB;

fn two_paths(role: Role, v6: bool, checksum: crate::bed::Checksum) -> Setup {
    Setup {
        v6,
        checksum,
        our_endpoints: role == Role::OurClient,
        kernel_endpoints: if role == Role::OurServer { "subflow" } else { "" },
        ..Setup::default()
    }
}

/// Of two paths without a limit, the default scheduler may find one always the faster.
fn by_turns(setup: Setup) -> Setup {
    let configure =
        |config: &mut StackConfig| config.mptcp.scheduling.kind = SchedulerKind::RoundRobin;
    Setup { configure, ..setup }
}

/// Ends a test with two subflows of `role`'s making. Data sent again on the other path puts SSN and
/// DSN out of step; an interface that went down may have cost the kernel its subflow.
fn finish(bed: Bed, role: Role, was_down: bool) {
    let (mut kernel, mut ours) = match role {
        Role::OurServer => (vec!["MPJoinSynAckRx=1"], vec!["mp_join_syn_rx=1", "mp_join_ack_rx=1"]),
        Role::OurClient => (vec!["MPJoinSynRx=1", "MPJoinAckRx=1"], vec!["mp_join_syn_ack_rx=1"]),
    };
    ours.push("dss_sanity?");
    // What a silent subflow carried comes twice, and the copy may find the kernel's socket closed.
    ours.extend(["in_rsts?", "estab_resets?", "drop_no_socket?", "drop_listener_state?"]);
    // A RST of the kernel's may come behind data that the path lost: challenged (RFC 5961 §3).
    ours.push("drop_rst_sequence?");
    // An outage that ends while a long segment is tried short looks like a black hole until a longer one
    // passes.
    ours.extend(["tcp_mtu_black_holes?", "tcp_mtup_success?"]);
    if was_down {
        kernel.extend(["MPRstTx?", "RmSubflow?"]);
        ours.extend(["mp_rst_rx?", "out_rsts?"]);
    }
    bed.finish(&kernel, &ours);
}

/// Either path becomes a black hole in mid-transfer; the stream goes on over the other, and the
/// path carries data again after its return.
#[test]
fn a_silent_cut_is_bridged_and_the_path_returns() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            for path in [0, 1] {
                let bed = Bed::new(&by_turns(two_paths(role, v6, checksum)));
                let plan = Plan { up: 24 * MIB, down: 24 * MIB };
                let gate = crate::kernel::Gate::at(HOLD);
                bed.ours.with(|app, _| app.gate = HOLD);
                let running = bed.begin(role, true, plan, &gate);
                bed.wait_subflows(2);
                bed.wait("the first part", |bed| bed.ours.with(|app, _| app.received()) == HOLD);
                bed.tap.cut(path, true);
                let middle = 12 * MIB;
                gate.open_to(middle);
                bed.ours.with(move |app, now| app.open_gate(now, middle));
                bed.wait("the second part arrives over one path", |bed| {
                    let info = bed.ours.with(|app, _| app.info()).expect("it runs");
                    // Acknowledged by the kernel's data level, the request included.
                    let sent = middle + if role == Role::OurClient { 16 } else { 0 };
                    bed.ours.with(|app, _| app.received()) == middle && info.bytes_acked == sent
                });
                bed.tap.cut(path, false);
                bed.wait("the path is used again", |bed| {
                    let info = bed.ours.with(|app, _| app.info()).expect("it runs");
                    info.subflows.len() == 2 && info.subflows.iter().all(|s| !s.stale)
                });
                let before = (bed.rx_bytes(path), bed.tx_bytes(path));
                gate.open_to(u64::MAX);
                bed.ours.with(|app, now| app.open_gate(now, u64::MAX));
                bed.complete(running);
                let tx = bed.tx_bytes(path) - before.1;
                // More than probes: how much, the other path decides, which has no limit.
                assert!(
                    tx > 20_000,
                    "{role:?}: after its return path {path} carried {tx} octets of ours"
                );
                finish(bed, role, false);
            }
        }
    }
}

/// The interface goes down and comes back: the kernel loses its routes meanwhile.
#[test]
fn an_interface_that_goes_down_and_returns() {
    if !ready() {
        return;
    }
    for role in [Role::OurServer, Role::OurClient] {
        let bed = Bed::new(&two_paths(role, false, crate::bed::Checksum::Nobody));
        bed.held_transfer(role, Plan { up: 16 * MIB, down: 16 * MIB }, HOLD, |bed| {
            bed.wait_subflows(2);
            bed.kernel.commands("ip link set path1 down");
            let half = 8 * MIB;
            bed.ours.with(move |app, now| app.open_gate(now, half));
            bed.wait("our data arrives over one path", |bed| {
                let info = bed.ours.with(|app, _| app.info()).expect("it runs");
                info.bytes_acked >= half
            });
            bed.kernel.commands("ip link set path1 up");
            if role == Role::OurServer {
                bed.kernel.commands("ip route replace default dev path1 table 101");
            }
        });
        finish(bed, role, true);
    }
}

/// Round trips of 10 and 200 ms: 5 and 100 ms each way. The default scheduler uses both paths for what
/// takes seconds.
#[test]
fn one_path_takes_twenty_times_as_long() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            let bed = Bed::new(&two_paths(role, v6, checksum));
            for (path, delay) in bed.tap.paths.iter().zip([10, 200]) {
                path.delay_ms.store(delay, Relaxed);
            }
            bed.held_transfer(role, Plan { up: 16 * MIB, down: 16 * MIB }, HOLD, |bed| {
                bed.wait_subflows(2);
            });
            for path in [0, 1] {
                let tx = bed.tx_bytes(path);
                assert!(tx > 1 << 20, "{role:?}: path {path} carried {tx} octets of ours");
            }
            finish(bed, role, false);
        }
    }
}

#[test]
fn one_percent_loss_on_every_path() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            for subflows in [1, 2] {
                let mut setup = two_paths(role, v6, checksum);
                if subflows == 1 {
                    (setup.our_endpoints, setup.kernel_endpoints) = (false, "");
                }
                let bed = Bed::new(&setup);
                bed.held_transfer(role, Plan { up: 6 * MIB, down: 6 * MIB }, HOLD, |bed| {
                    bed.wait_subflows(subflows);
                    for path in &bed.tap.paths {
                        path.loss.store(100, Relaxed);
                    }
                });
                for path in &bed.tap.paths {
                    path.loss.store(0, Relaxed);
                }
                if subflows == 2 {
                    finish(bed, role, false);
                } else {
                    bed.finish(&[], &[]);
                }
            }
        }
    }
}

/// Plain TCP under loss, from the first SYN on.
#[test]
fn plain_tcp_under_loss() {
    if !ready() {
        return;
    }
    for role in [Role::OurServer, Role::OurClient] {
        let bed = Bed::new(&Setup { paths: 1, ..Setup::default() });
        bed.tap.paths[0].loss.store(100, Relaxed);
        bed.transfer(role, false, Plan { up: 6 * MIB, down: 6 * MIB });
        bed.tap.paths[0].loss.store(0, Relaxed);
        bed.finish(&[], &[]);
    }
}
