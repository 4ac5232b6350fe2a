//! Flat bindings to libdpdk: what `shim/shim.h` declares, and the part of `rte_mbuf` that packets
//! are read through without a call. The shim's static assertions stop the build when an offset
//! differs. Empty (no `cfg(have_dpdk)`) where the build found no libdpdk.
//!
//! Nothing here is safe to call without reading DPDK's own contract; `dpdk-io` is the safe side.

#![no_std]

#[cfg(have_dpdk)]
mod ffi;

#[cfg(have_dpdk)]
pub use ffi::*;
