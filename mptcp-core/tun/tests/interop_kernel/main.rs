//! Our stack against the Linux kernel's MPTCP version 1 and TCP, in both roles: contents compared
//! octet by octet, counters of both ends asserted, packets judged by the referee and by tshark.
//!
//! Each test has a namespace of its own. `PLAIT_INTEROP=full` runs every combination of role, family
//! and checksum and transfers of hundreds of megabytes; without it, a selection that touches all.

mod bed;
mod delay;
mod judge;
mod kernel;
mod ours;
mod pattern;
mod tap;

use bed::Checksum;

#[path = "../interop/support.rs"]
#[expect(dead_code, reason = "the rest of it serves the other suite")]
mod support;

mod endings;
mod faults;
mod middleboxes;
mod paths;
mod scale;
mod transfers;

/// Whether the test may run: root, and the tools it takes.
fn ready() -> bool {
    support::is_root_with(&["ip", "nft", "tshark"])
}

/// Whether every combination was asked for.
fn full() -> bool {
    std::env::var("PLAIT_INTEROP").is_ok_and(|value| value == "full")
}

/// IPv6 and checksums of the kernel's: in full every combination, otherwise the two that touch all.
fn variants() -> Vec<(bool, Checksum)> {
    let (off, on) = (Checksum::Nobody, Checksum::Kernel);
    if full() {
        vec![(false, off), (false, on), (true, off), (true, on)]
    } else {
        vec![(false, on), (true, off)]
    }
}
