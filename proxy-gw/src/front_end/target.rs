//! Where a client wants to go, as it wrote it.

use crate::config::{BadName, HostName};
use core::net::{IpAddr, Ipv6Addr};

/// What a client asks to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port; 0 only where none is meant: of a stream of datagrams, and of the peer that a client waits for.
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

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHost {
    /// Neither a name nor an address.
    Malformed,
    /// Only a lenient parser takes it for an address.
    Numeric,
}

impl Host {
    /// A name, or an address literal in strict notation only (RFC 3986 §3.2.2, brackets optional).
    ///
    /// # Errors
    /// See [`BadHost`].
    pub fn parse(text: &[u8]) -> Result<Self, BadHost> {
        if let Some(address) = str::from_utf8(text).ok().and_then(literal) {
            return Ok(Self::Address(address));
        }
        match HostName::new(text) {
            Ok(name) => Ok(Self::Name(name)),
            Err(BadName::Malformed) => Err(BadHost::Malformed),
            Err(BadName::Numeric) => Err(BadHost::Numeric),
        }
    }
}

fn literal(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}
