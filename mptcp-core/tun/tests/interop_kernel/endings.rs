//! How connections end: half-closes, resets and `MP_FASTCLOSE` of either end, with one subflow and
//! with two.

use crate::bed::{Bed, MPTCP_PORT, Role, Setup};
use crate::kernel::Gate;
use crate::pattern::Plan;
use crate::{ready, variants};
use core::time::Duration;
use mptcp_core::error::ConnectionError;
use std::io::{ErrorKind, Read, Write};

const MIB: u64 = 1 << 20;

/// One direction ends long before the other, or says nothing at all.
#[test]
fn half_closed_connections_carry_the_other_direction() {
    if !ready() {
        return;
    }
    let plans = [
        Plan { up: 0, down: 0 },
        Plan { up: 1, down: 0 },
        Plan { up: 0, down: 1 },
        Plan { up: 0, down: MIB },
        Plan { up: MIB, down: 0 },
        Plan { up: 5000, down: MIB / 2 },
    ];
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            for mptcp in [true, false] {
                let bed = Bed::new(&Setup { v6, checksum, paths: 1, ..Setup::default() });
                for plan in plans {
                    bed.transfer(role, mptcp, plan);
                }
                bed.finish(&[], &[]);
            }
        }
    }
}

/// A kernel socket closed with unread data, or with `SO_LINGER` 0, resets the connection; ours
/// must report it, whatever was on its way.
#[test]
fn the_kernel_aborts() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for linger in [None, Some(Duration::ZERO)] {
            for subflows in [1, 2] {
                let kernel_endpoints = if subflows == 2 { "subflow" } else { "" };
                let setup = Setup { v6, checksum, kernel_endpoints, ..Setup::default() };
                let bed = Bed::new(&setup);
                let mut socket = bed.kernel_socket(true);
                let plan = Plan { up: 100, down: 64 * MIB };
                socket.write_all(&plan.request()).expect("it is connected");
                bed.wait("the answer is under way", |bed| bed.tx_bytes(0) > 40_000);
                bed.wait_subflows(subflows);
                socket.set_linger(linger).expect("a socket option");
                drop(socket);
                bed.wait("our session ends", |bed| bed.ours.with(|app, _| !app.done.is_empty()));
                let outcome = bed.ours.with(|app, _| app.done.remove(0));
                assert_eq!(outcome.info.error, Some(ConnectionError::Reset), "{outcome:?}");
                let joins = subflows - 1;
                bed.finish(
                    &[
                        &format!("MPJoinSynAckRx={joins}"),
                        "MPFastcloseTx>=1",
                        "MPRstTx?",
                        "MPRstRx?",
                    ],
                    &[
                        // Subflows that end with it say so.
                        "mp_rst_tx?",
                        &format!("mp_join_syn_rx={joins}"),
                        &format!("mp_join_ack_rx={joins}"),
                        "mp_fastclose_rx=1",
                        "in_rsts?",
                        "estab_resets?",
                        "mp_rst_rx?",
                        "out_rsts?",
                        "drop_no_socket?",
                        "drop_listener_state?",
                    ],
                );
            }
        }
    }
}

#[test]
fn we_abort() {
    if !ready() {
        return;
    }
    for (v6, checksum) in variants() {
        for role in [Role::OurServer, Role::OurClient] {
            for subflows in [1, 2] {
                let two = subflows == 2;
                let setup = Setup {
                    v6,
                    checksum,
                    our_endpoints: two && role == Role::OurClient,
                    kernel_endpoints: if two && role == Role::OurServer { "subflow" } else { "" },
                    ..Setup::default()
                };
                let bed = Bed::new(&setup);
                bed.ours.with(|app, _| app.gate = MIB);
                let gate = Gate::at(MIB);
                let running = bed.begin(role, true, Plan { up: 2 * MIB, down: 2 * MIB }, &gate);
                bed.wait("data moves", |bed| bed.ours.with(|app, _| app.received()) == MIB);
                bed.wait_subflows(subflows);
                bed.ours.with(|app, now| {
                    let id = app.sessions()[0];
                    app.stack.abort(now, id);
                    app.forget(id);
                });
                gate.open_to(u64::MAX);
                for outcome in running.join() {
                    let error = outcome.read_error.as_ref().or(outcome.write_error.as_ref());
                    let kind = error.map(std::io::Error::kind);
                    assert!(
                        matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
                        "{outcome:?}"
                    );
                    assert_eq!(outcome.difference, None);
                }
                let joins = subflows - 1;
                let (kernel, ours) = match role {
                    Role::OurServer => (
                        vec![format!("MPJoinSynAckRx={joins}")],
                        vec![format!("mp_join_syn_rx={joins}"), format!("mp_join_ack_rx={joins}")],
                    ),
                    Role::OurClient => (
                        vec![format!("MPJoinSynRx={joins}"), format!("MPJoinAckRx={joins}")],
                        vec![format!("mp_join_syn_ack_rx={joins}")],
                    ),
                };
                let mut kernel: Vec<_> = kernel.iter().map(String::as_str).collect();
                let mut ours: Vec<_> = ours.iter().map(String::as_str).collect();
                kernel.extend(["MPFastcloseRx>=1", "MPRstRx?", "MPRstTx?"]);
                ours.extend(["mp_fastclose_tx>=1", "out_rsts?", "mp_rst_tx?", "in_rsts?"]);
                ours.extend([
                    "drop_no_socket?",
                    "drop_listener_state?",
                    "mp_rst_rx?",
                    "estab_resets?",
                ]);
                bed.finish(&kernel, &ours);
            }
        }
    }
}

/// Plain TCP: a reset in either direction.
#[test]
fn plain_tcp_resets() {
    if !ready() {
        return;
    }
    for v6 in [false, true] {
        let bed = Bed::new(&Setup { v6, paths: 1, ..Setup::default() });
        let mut socket = bed.kernel_socket(false);
        socket.write_all(&Plan { up: 100, down: 64 * MIB }.request()).expect("it is connected");
        bed.wait("the answer is under way", |bed| bed.tx_bytes(0) > 40_000);
        drop(socket);
        bed.wait("our session ends", |bed| bed.ours.with(|app, _| !app.done.is_empty()));
        let outcome = bed.ours.with(|app, _| app.done.remove(0));
        assert_eq!(outcome.info.error, Some(ConnectionError::Reset), "{outcome:?}");

        let mut socket = bed.kernel_socket(false);
        bed.wait("it is accepted", |bed| bed.ours.with(|app, _| app.sessions().len() == 1));
        bed.ours.with(|app, now| {
            let id = app.sessions()[0];
            app.stack.abort(now, id);
            app.forget(id);
        });
        let error = socket.read(&mut [0; 1]).expect_err("it was reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        bed.finish(&[], &["in_rsts>=1", "out_rsts>=1", "estab_resets?", "drop_listener_state?"]);
    }
}

/// A port nobody listens on refuses, in both directions.
#[test]
fn refused_connections() {
    if !ready() {
        return;
    }
    for v6 in [false, true] {
        let bed = Bed::new(&Setup { v6, paths: 1, ..Setup::default() });
        bed.connect(true, Plan { up: 1, down: 1 });
        bed.wait("our session ends", |bed| bed.ours.with(|app, _| !app.done.is_empty()));
        let outcome = bed.ours.with(|app, _| app.done.remove(0));
        assert_eq!(outcome.info.error, Some(ConnectionError::Refused), "{outcome:?}");
        let error = bed.try_kernel_socket(MPTCP_PORT + 9).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        bed.finish(
            &["AttemptFails?"],
            &[
                "in_rsts?",
                "out_rsts=1",
                "attempt_fails=1",
                "drop_no_socket=1",
                // The SYN goes again without the option: it might have been that.
                "mp_capable_syn_tx_reset=1",
            ],
        );
    }
}
