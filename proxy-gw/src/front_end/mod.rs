//! What clients speak. A front end turns the first bytes of a connection into a destination; it
//! knows no sockets, so it is tested byte by byte.

pub mod socks5;

use crate::config::HostName;
use core::net::IpAddr;

/// What a client asks to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port, never 0.
    pub port: u16,
}

/// A host as the client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address, as sent: not yet normalised.
    Address(IpAddr),
    /// A name.
    Name(HostName),
}
