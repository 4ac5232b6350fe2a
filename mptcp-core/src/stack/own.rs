//! Where an address of ours stands in the configuration. Every packet asks, one for somebody else as well as one
//! for us, so it is a look-up and not a walk.
//!
//! Invariant: what is here is what the configuration has; of an address that stands there twice, the first.

use crate::config::LocalAddress;
use alloc::vec::Vec;
use core::net::IpAddr;

/// Addresses in order, with their positions.
#[derive(Debug)]
pub(super) struct OwnAddresses(Vec<(IpAddr, u8)>);

impl OwnAddresses {
    pub(super) fn new(addresses: &[LocalAddress]) -> Self {
        // Ids of addresses are octets.
        let positions = (0..=u8::MAX).zip(addresses).map(|(at, local)| (local.addr, at));
        let mut own: Vec<_> = positions.filter(|(addr, _)| !addr.is_unspecified()).collect();
        own.sort_unstable();
        own.dedup_by_key(|(addr, _)| *addr);
        Self(own)
    }

    /// The position of `addr`.
    pub(super) fn find(&self, addr: IpAddr) -> Option<usize> {
        let at = self.0.binary_search_by(|(own, _)| own.cmp(&addr)).ok()?;
        self.0.get(at).map(|(_, position)| usize::from(*position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::PortId;

    #[test]
    fn it_finds_what_a_walk_finds() {
        let local = |addr: IpAddr, port| LocalAddress {
            addr,
            port: PortId(port),
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let v4 = |n: u8| IpAddr::from([10, n.wrapping_mul(37), 0, n]);
        let v6 = |n: u8| IpAddr::from([0xfd00, u16::from(n.wrapping_mul(91)), 0, 0, 0, 0, 0, 1]);
        let gone = IpAddr::from([0; 4]);
        let mut addresses: Vec<_> =
            (1..120).flat_map(|n| [local(v4(n), n), local(v6(n), n)]).collect();
        addresses[7].addr = gone;
        addresses.push(local(v4(3), 200));
        let own = OwnAddresses::new(&addresses);
        let walk = |addr: IpAddr| {
            addresses.iter().position(|local| local.addr == addr && !addr.is_unspecified())
        };
        for addr in (0..=255).flat_map(|n| [v4(n), v6(n)]).chain([gone]) {
            assert_eq!(own.find(addr), walk(addr), "{addr}");
        }
    }
}
