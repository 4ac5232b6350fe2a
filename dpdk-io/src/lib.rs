//! DPDK ports, L2 and the run-to-completion loop for mptcp-core.
//!
//! A [`Driver`] is what a program starts from its configuration; each shard then calls
//! [`Driver::run`] on a thread of its own with a [`Worker`](mptcp_core::driver::Worker) (a stack
//! and the application on it). Below it, [`shard::ShardLoop`] drives [`l2::L2`] over any
//! [`nic::Nic`]; neither knows DPDK.
//!
//! Without libdpdk (`cfg(have_dpdk)` unset) the same API exists and [`Driver::start`] answers
//! [`DriverError::Missing`]. All `unsafe` is in `dpdk/`.

#![deny(unsafe_code)]

pub mod clock;
pub mod config;
pub mod counters;
mod cpus;
#[cfg(have_dpdk)]
#[expect(unsafe_code, reason = "the one place that calls C")]
pub mod dpdk;
mod driver;
mod eal_args;
pub mod error;
#[cfg(any(have_dpdk, test))]
mod hugepages;
pub mod idle;
pub mod l2;
pub mod nic;
pub mod rings;
#[cfg(any(have_dpdk, test))]
mod rules;
pub mod shard;

pub use clock::Clock;
pub use config::{EalConfig, Hugepages, IdleMode, MacConfig, Offload, PortConfig, RouteConfig};
pub use counters::{DropReason, L2Event, ShardCounters};
pub use cpus::usable_cpus;
#[cfg(have_dpdk)]
pub use dpdk::{mbuf::Mbuf, pool::MbufPool};
pub use driver::{Driver, PoolStatus, PortStatus, drivers};
#[cfg(not(have_dpdk))]
pub use driver::{Mbuf, MbufPool};
pub use error::DriverError;
