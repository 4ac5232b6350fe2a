//! The running program: as scripts see it, over TUN devices and over DPDK ports, with this machine's kernel
//! and with clients that others wrote.

mod cli;
mod clients;
mod convert;
mod documented_configuration;
mod dpdk;
mod reload;
mod support;
mod transparent;
mod tun;
