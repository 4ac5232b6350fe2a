//! What a program drives: the EAL, pools and ports of one configuration, and a loop per shard.

/// The DPDK this program runs with, or why there is none; for `--version`.
#[must_use]
pub fn drivers() -> &'static str {
    #[cfg(have_dpdk)]
    {
        crate::dpdk::version()
    }
    #[cfg(not(have_dpdk))]
    {
        "no DPDK (built without libdpdk)"
    }
}
