//! Several subflows: joins by either end, announced, withdrawn and backup addresses.

use crate::bed::{Bed, Checksum, Role, Setup};
use crate::pattern::Plan;
use crate::{ready, variants};
use mptcp_core::config::SchedulerKind;

const MIB: u64 = 1 << 20;
const PLAN: Plan = Plan { up: 8 * MIB, down: 8 * MIB };
const HOLD: u64 = MIB / 4;
/// A path that carried so much carried data, not handshakes and acknowledgements only.
const USED: u64 = 150_000;

/// Both ends sent data over a path.
fn assert_used(bed: &Bed, path: usize) {
    let (rx, tx) = (bed.rx_bytes(path), bed.tx_bytes(path));
    assert!(rx > USED && tx > USED, "path {path} carried {rx} to us and {tx} from us");
}

#[test]
fn the_kernel_joins_from_its_second_address() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup =
            Setup { v6, checksum, kernel_endpoints: "subflow", captured: true, ..Setup::default() };
        let bed = Bed::new(&setup);
        let info = bed.held_transfer(Role::OurServer, PLAN, HOLD, |bed| bed.wait_subflows(2));
        assert_eq!((info.mptcp, info.fallback), (Some(1), None));
        assert_used(&bed, 1);
        bed.finish(
            &["MPJoinSynTx=1", "MPJoinSynAckRx=1"],
            &["mp_join_syn_rx=1", "mp_join_ack_rx=1"],
        );
    }
}

#[test]
fn we_join_from_our_second_address() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup { v6, checksum, our_endpoints: true, captured: true, ..Setup::default() };
        let bed = Bed::new(&setup);
        bed.held_transfer(Role::OurClient, PLAN, HOLD, |bed| bed.wait_subflows(2));
        assert_used(&bed, 1);
        bed.finish(
            &["MPJoinSynRx=1", "MPJoinAckRx=1"],
            &["mp_join_syn_tx=1", "mp_join_syn_ack_rx=1"],
        );
    }
}

#[test]
fn the_kernel_joins_an_address_we_announce() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup {
            v6,
            checksum,
            our_endpoints: true,
            kernel_accepts: 8,
            captured: true,
            ..Setup::default()
        };
        let bed = Bed::new(&setup);
        bed.held_transfer(Role::OurServer, PLAN, HOLD, |bed| bed.wait_subflows(2));
        assert_used(&bed, 1);
        bed.finish(
            &["AddAddr>=1", "EchoAddTx>=1", "MPJoinSynAckRx=1"],
            &["add_addr_tx>=1", "echo_add>=1", "mp_join_syn_rx=1", "mp_join_ack_rx=1"],
        );
    }
}

#[test]
fn we_join_an_address_the_kernel_announces() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup {
            v6,
            checksum,
            our_endpoints: true,
            kernel_endpoints: "signal",
            captured: true,
            ..Setup::default()
        };
        let bed = Bed::new(&setup);
        // From both addresses to the announced one, and from the second to the first.
        bed.held_transfer(Role::OurClient, PLAN, HOLD, |bed| bed.wait_subflows(4));
        assert_used(&bed, 1);
        bed.finish(
            &["AddAddrTx>=1", "EchoAdd>=1", "MPJoinSynRx=3", "MPJoinAckRx=3"],
            &["add_addr>=1", "echo_add_tx>=1", "mp_join_syn_tx=3", "mp_join_syn_ack_rx=3"],
        );
    }
}

/// The backup carries nothing until the kernel says with `MP_PRIO` that it is none any more.
#[test]
fn a_backup_endpoint_of_the_kernel_becomes_a_regular_one() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup { v6, checksum, kernel_endpoints: "subflow backup", ..Setup::default() };
        let bed = Bed::new(&setup);
        bed.held_transfer(Role::OurServer, PLAN, MIB, |bed| {
            bed.wait_subflows(2);
            let (rx, tx) = (bed.rx_bytes(1), bed.tx_bytes(1));
            assert!(rx < 10_000 && tx < 10_000, "the backup carried {rx} and {tx}");
            bed.kernel.commands("ip mptcp endpoint change id 1 nobackup");
            bed.wait("MP_PRIO", |bed| bed.our_counter("mp_prio_rx") == 1);
        });
        assert_used(&bed, 1);
        bed.finish(
            &["MPJoinSynAckRx=1", "MPPrioTx=1"],
            &["mp_join_syn_rx=1", "mp_join_syn_backup_rx=1", "mp_join_ack_rx=1", "mp_prio_rx=1"],
        );
    }
}

#[test]
fn a_backup_endpoint_of_ours_carries_nothing() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup {
            v6,
            checksum,
            our_endpoints: true,
            configure: |config| config.addresses[1].backup = true,
            ..Setup::default()
        };
        let bed = Bed::new(&setup);
        bed.held_transfer(Role::OurClient, Plan { up: MIB, down: MIB }, HOLD, |bed| {
            bed.wait_subflows(2);
        });
        let (rx, tx) = (bed.rx_bytes(1), bed.tx_bytes(1));
        assert!(rx < 20_000 && tx < 20_000, "the backup carried {rx} and {tx}");
        bed.finish(
            &["MPJoinSynRx=1", "MPJoinSynBackupRx=1", "MPJoinAckRx=1"],
            &["mp_join_syn_tx=1", "mp_join_syn_ack_rx=1"],
        );
    }
}

#[test]
fn our_mp_prio_takes_the_kernels_data_off_a_path() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup { v6, checksum, kernel_endpoints: "subflow", ..Setup::default() };
        let bed = Bed::new(&setup);
        let plan = Plan { up: 4 * MIB, down: MIB };
        bed.held_transfer(Role::OurServer, plan, HOLD, |bed| {
            bed.wait_subflows(2);
            bed.ours.with(|app, now| {
                let id = app.sessions()[0];
                assert!(app.stack.set_backup(id, 1, true));
                app.open_gate(now, HOLD);
            });
            bed.wait("MP_PRIO", |bed| bed.kernel_counter("MPPrioRx") == 1);
        });
        let rx = bed.rx_bytes(1);
        assert!(rx < HOLD + 100_000, "the kernel sent {rx} over the backup");
        bed.finish(
            &["MPJoinSynAckRx=1", "MPPrioRx=1"],
            &["mp_join_syn_rx=1", "mp_join_ack_rx=1", "mp_prio_tx=1"],
        );
    }
}

#[test]
fn the_kernel_removes_an_address_in_mid_transfer() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup { v6, checksum, kernel_endpoints: "subflow", ..Setup::default() };
        let bed = Bed::new(&setup);
        bed.held_transfer(Role::OurServer, PLAN, HOLD, |bed| {
            bed.wait_subflows(2);
            bed.kernel.commands("ip mptcp endpoint del id 1");
            bed.wait("REMOVE_ADDR", |bed| bed.our_counter("rm_addr") == 1);
            bed.wait_subflows(1);
        });
        bed.finish(
            &["MPJoinSynAckRx=1", "RmAddrTx=1", "RmSubflow=1"],
            &["mp_join_syn_rx=1", "mp_join_ack_rx=1", "rm_addr=1"],
        );
    }
}

#[test]
fn we_remove_an_address_in_mid_transfer() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        let setup = Setup { v6, checksum, our_endpoints: true, ..Setup::default() };
        let bed = Bed::new(&setup);
        let gone = setup.ours(1);
        bed.held_transfer(Role::OurClient, PLAN, HOLD, |bed| {
            bed.wait_subflows(2);
            bed.ours.with(move |app, now| app.stack.remove_address(now, gone));
            bed.wait("REMOVE_ADDR", |bed| bed.kernel_counter("RmAddr") == 1);
            bed.wait_subflows(1);
        });
        bed.finish(
            &["MPJoinSynRx=1", "MPJoinAckRx=1", "RmAddr=1", "RmSubflow?", "MPRstRx=1"],
            &["mp_join_syn_ack_rx=1", "rm_addr_tx=1", "mp_rst_tx=1", "out_rsts=1"],
        );
    }
}

/// The kernel adds a new `DATA_ACK` to the window it remembers of that subflow, which may have been
/// offered when less was unread: with many subflows it now and then sends beyond what was offered,
/// and what lies there is dropped and counted on our side, as the kernel does it to others.
#[test]
fn eight_subflows() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            let setup = Setup {
                v6,
                checksum,
                paths: 8,
                our_endpoints: role == Role::OurClient,
                kernel_endpoints: if role == Role::OurServer { "subflow" } else { "" },
                // Every path has its turn: the default would leave some of eight equal ones alone.
                configure: |config| config.mptcp.scheduling.kind = SchedulerKind::RoundRobin,
                ..Setup::default()
            };
            let bed = Bed::new(&setup);
            let plan = Plan { up: 32 * MIB, down: 32 * MIB };
            bed.held_transfer(role, plan, HOLD, |bed| bed.wait_subflows(8));
            for path in 0..8 {
                assert_used(&bed, path);
            }
            match role {
                Role::OurServer => bed.finish(
                    &["MPJoinSynTx=7", "MPJoinSynAckRx=7"],
                    &["mp_join_syn_rx=7", "mp_join_ack_rx=7", "no_dss_in_window?"],
                ),
                Role::OurClient => bed.finish(
                    &["MPJoinSynRx=7", "MPJoinAckRx=7"],
                    &["mp_join_syn_tx=7", "mp_join_syn_ack_rx=7", "no_dss_in_window?"],
                ),
            }
        }
    }
}

#[test]
fn checksums_on_two_paths_that_we_ask_for() {
    if !ready() {
        return;
    }
    let setup = Setup {
        checksum: Checksum::Ours,
        kernel_endpoints: "subflow",
        captured: true,
        ..Setup::default()
    };
    let bed = Bed::new(&setup);
    bed.held_transfer(Role::OurServer, PLAN, HOLD, |bed| bed.wait_subflows(2));
    assert_used(&bed, 1);
    bed.finish(&["MPJoinSynAckRx=1"], &["mp_join_syn_rx=1", "mp_join_ack_rx=1"]);
}
