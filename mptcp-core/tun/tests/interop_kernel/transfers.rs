//! Bulk transfers without faults.

use crate::bed::{Bed, Checksum, Role, Setup};
use crate::pattern::Plan;
use crate::{full, ready};

const MIB: u64 = 1 << 20;

#[test]
fn plain_tcp_both_roles() {
    if !ready() {
        return;
    }
    for v6 in [false, true] {
        for role in [Role::OurServer, Role::OurClient] {
            let bed = Bed::new(&Setup { v6, paths: 1, captured: true, ..Setup::default() });
            bed.transfer(role, false, Plan { up: MIB, down: 2 * MIB });
            bed.finish(&[], &[]);
        }
    }
}

#[test]
fn a_single_subflow() {
    if !ready() {
        return;
    }
    for v6 in [false, true] {
        for checksum in [Checksum::Nobody, Checksum::Kernel, Checksum::Ours] {
            for role in [Role::OurServer, Role::OurClient] {
                let captured = full() || (checksum == Checksum::Kernel) == v6;
                let setup = Setup { v6, checksum, paths: 1, captured, ..Setup::default() };
                let bed = Bed::new(&setup);
                bed.transfer(role, true, Plan { up: MIB, down: 2 * MIB });
                bed.finish(&[], &[]);
            }
        }
    }
}
