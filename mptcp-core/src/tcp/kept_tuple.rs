//! Both ends of a connection as long as it lasts: 16 octets, where a [`Tuple`] takes 38.
//!
//! Those of IPv6 lie in a box: to have room for them in every block would cost each connection of IPv4 more than half
//! a line of a cache.

use super::Tuple;
use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr};

/// See the module.
#[derive(Debug)]
pub(crate) enum KeptTuple {
    /// Ours, the peer's.
    V4 { addrs: [Ipv4Addr; 2], ports: [u16; 2] },
    /// Of IPv6, or of two families.
    V6(Box<Tuple>),
}

const _: () = assert!(size_of::<KeptTuple>() <= 16);

impl KeptTuple {
    pub(crate) fn new(tuple: Tuple) -> Self {
        let ports = [tuple.local_port, tuple.remote_port];
        match (tuple.local_addr, tuple.remote_addr) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Self::V4 { addrs: [local, remote], ports },
            _ => Self::V6(Box::new(tuple)),
        }
    }

    #[inline]
    pub(crate) fn tuple(&self) -> Tuple {
        match self {
            Self::V4 { addrs: [local, remote], ports: [local_port, remote_port] } => Tuple {
                local_addr: IpAddr::V4(*local),
                remote_addr: IpAddr::V4(*remote),
                local_port: *local_port,
                remote_port: *remote_port,
            },
            Self::V6(tuple) => **tuple,
        }
    }

    #[inline]
    pub(crate) const fn is_ipv4(&self) -> bool {
        matches!(self, Self::V4 { .. })
    }

    /// Something of where it lies.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        u64::from(match self {
            Self::V4 { ports: [local_port, _], .. } => *local_port,
            Self::V6(tuple) => tuple.local_port,
        })
    }

    /// It is this one, found out in a few steps where both are of IPv4.
    #[inline]
    pub(crate) fn is(&self, tuple: &Tuple) -> bool {
        match (self, &tuple.local_addr, &tuple.remote_addr) {
            (Self::V4 { addrs, ports }, IpAddr::V4(local), IpAddr::V4(remote)) => {
                *ports == [tuple.local_port, tuple.remote_port] && *addrs == [*local, *remote]
            }
            (Self::V6(kept), ..) => **kept == *tuple,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_is_kept_as_it_was() {
        let [v4, other, v6, mapped] = ["10.0.0.1", "10.0.0.2", "fd00::1", "::ffff:10.0.0.1"]
            .map(|addr| addr.parse::<IpAddr>().unwrap());
        let tuple = |local_addr, remote_addr, local_port, remote_port| Tuple {
            local_addr,
            remote_addr,
            local_port,
            remote_port,
        };
        let tuples = [
            tuple(v4, other, 80, 4000),
            tuple(other, v4, 80, 4000),
            tuple(v4, other, 4000, 80),
            tuple(v4, other, 80, 4001),
            tuple(v4, v4, 80, 4000),
            tuple(v6, v6, 80, 4000),
            tuple(v6, mapped, 80, 4000),
            tuple(mapped, other, 80, 4000),
        ];
        for (at, tuple) in tuples.iter().enumerate() {
            let kept = KeptTuple::new(*tuple);
            assert_eq!(kept.tuple(), *tuple);
            for (of, other) in tuples.iter().enumerate() {
                assert_eq!(kept.is(other), of == at, "{kept:?} {other:?}");
            }
        }
    }
}
