//! DPDK ports, L2 and the run-to-completion loop for mptcp-core.
//!
//! Builds without libdpdk too (`cfg(have_dpdk)` unset): [`drivers`] then says so. All `unsafe` is in
//! `dpdk/`.

#![deny(unsafe_code)]

pub mod config;
pub mod counters;
#[cfg(have_dpdk)]
#[expect(unsafe_code, reason = "the one place that calls C")]
pub mod dpdk;
mod driver;
mod eal_args;
pub mod error;
#[cfg(any(have_dpdk, test))]
mod hugepages;
pub mod l2;

pub use config::{EalConfig, Hugepages, MacConfig, PortConfig, RouteConfig};
pub use driver::drivers;
pub use error::DriverError;
