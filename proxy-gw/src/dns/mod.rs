//! A caching stub resolver over the gateway's own datagrams and connections (RFC 1034 §5.3.1,
//! RFC 1035, RFC 7766). The codec is `hickory-proto`; what is here decides what to ask, whom, how
//! often, and what to believe.
//!
//! Sans-IO, as the gateway is: it opens sockets on a [`Shard`](crate::shard::Shard) and is told of
//! their events and of time. Invariant: what waits is bounded in all and per client, what is kept is
//! bounded, and every lookup ends.

mod cache;
mod message;
mod resolver;

pub use message::{Asked, Verdict, to_name};
pub use resolver::{Counters, Resolver};

use core::net::IpAddr;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl Family {
    /// Both, the one to try first in front (RFC 8305 §4).
    pub const BOTH: [Self; 2] = [Self::V6, Self::V4];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What came of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At least one.
    Addresses(Vec<IpAddr>),
    /// The name exists, without an address of this family.
    NoAddress,
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// No server had an answer (RFC 9520 §2).
    Failed,
}
