//! CPUs that threads of this process may be pinned to.
//!
//! A mask of the process says where its threads run unless told otherwise: CPUs that the kernel keeps
//! free for such as us (`isolcpus`) are never in it, although a thread may be pinned to them.

use core_affinity::{CoreId, set_for_current};
use std::thread;

/// As many as the kernel's call for it, without an allocation, can name.
const MOST_CPUS: usize = 1024;

/// All of them, found out by trying on a thread of its own.
#[must_use]
pub fn usable_cpus() -> Vec<usize> {
    thread::scope(|scope| {
        let probe =
            scope.spawn(|| (0..MOST_CPUS).filter(|&id| set_for_current(CoreId { id })).collect());
        probe.join().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_outside_of_the_callers_mask_are_usable() {
        let all = usable_cpus();
        let one = thread::scope(|scope| {
            let pinned = scope.spawn(|| {
                assert!(set_for_current(CoreId { id: all[0] }));
                (core_affinity::get_core_ids().map(|mask| mask.len()), usable_cpus())
            });
            pinned.join().unwrap()
        });
        assert_eq!(one, (Some(1), all));
    }
}
