//! What a program drives: the EAL, pools and ports of one configuration, and a loop per shard.
//!
//! Invariant: ports run from [`Driver::start`] until the driver and every loop are gone.

#[cfg(not(have_dpdk))]
mod absent;
#[cfg(have_dpdk)]
mod present;

#[cfg(not(have_dpdk))]
pub use absent::{Driver, Mbuf, MbufPool};
#[cfg(have_dpdk)]
pub use present::Driver;

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

/// One port as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The device.
    pub device: String,
    /// The device's driver.
    pub driver: String,
    /// Station address in use.
    pub mac: [u8; 6],
    /// Link state.
    pub up: bool,
    /// Link speed in Mbit/s, when known.
    pub speed_mbps: Option<u32>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues; where there are fewer than shards, these take turns.
    pub tx_queues: u16,
    /// Whether the port itself spreads flows over its queues as the shards want it.
    pub rss: bool,
    /// Whether frames for other stations come in too, because the device cannot leave them out.
    pub promiscuous: bool,
    /// Whether packets of several segments are sent without a copy.
    pub multi_segs: bool,
    /// Whether the port completes TCP checksums.
    pub tx_checksum: bool,
    /// Whether the port verifies TCP checksums.
    pub rx_checksum: bool,
    /// Whether the port cuts segments (TSO).
    pub tso: bool,
    /// Whether the port joins segments (LRO).
    pub lro: bool,
    /// The device's own counters, under DPDK's names.
    pub statistics: Vec<(String, u64)>,
}

/// Use of one packet pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolStatus {
    /// Buffers in all.
    pub count: u32,
    /// Buffers held by the stack, the ports' rings, and packets being sent.
    pub in_use: u32,
    /// Descriptors of further views in use.
    pub views_in_use: u32,
    /// Bytes of memory per buffer.
    pub element_size: u32,
}
