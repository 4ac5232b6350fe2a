//! One stack and a scripted peer: crafted segments go in, every packet that comes out is checked and
//! handed to the test. When a [`Script`] is dropped, everything is closed and every table and pool
//! must be empty, so each test also proves that nothing leaks.

mod application;
mod keys;
mod openings;
mod packets;
mod script;

use core::net::{IpAddr, SocketAddr};
use mptcp_core::wire::Version;

pub(crate) use keys::{Keys, capable, offer, same};
pub(crate) use openings::NONCE;
pub(crate) use packets::{Flow, Out, Seg};
pub(crate) use script::Script;

/// Runs a script on a connection of either version; a failure names the version.
pub(crate) fn both(script: impl Fn(Version)) {
    for version in [Version::V0, Version::V1] {
        let _running = Running(version);
        script(version);
    }
}

/// Either version, for scripts with random steps.
pub(crate) fn version() -> impl proptest::strategy::Strategy<Value = Version> {
    proptest::sample::select(&[Version::V0, Version::V1][..])
}

/// What runs, for the case that it fails.
struct Running(Version);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was on a connection of version {}", self.0 as u8);
        }
    }
}

pub(crate) const PEER_KEY: u64 = 0x0102_0304_0506_0708;
const MTU: usize = 1500;

/// Our first address, the one connections begin on.
pub(crate) const A1: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 1, 0, 1));
/// Our second address.
pub(crate) const A2: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 2, 0, 1));
/// The peer's addresses.
pub(crate) const P1: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 1, 0, 2));
pub(crate) const P2: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 2, 0, 2));
pub(crate) const PORT: u16 = 80;

pub(crate) fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// Octet `n` of any test stream.
pub(crate) fn octet(n: u64) -> u8 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// `len` octets of the test stream from `offset` on.
pub(crate) fn stream(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(octet).collect()
}
