//! MPTCP gateway: front ends, policy and control around [`mptcp_core`].
//!
//! The logic is sans-IO over one trait, the [`shard::Shard`]: the same code runs in unit tests, in
//! the simulator, over TUN and on DPDK ports.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod dns;
pub mod egress;
pub mod front_end;
pub mod gateway;
mod log_limit;
pub mod logging;
pub mod metrics;
pub mod policies;
pub mod report;
pub mod run;
pub mod shard;
#[cfg(test)]
#[path = "../tests/program/support/skip.rs"]
mod skip;
mod version;
