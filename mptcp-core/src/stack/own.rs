//! Where an address of ours stands in the configuration. Every packet asks, one for somebody else as well as one
//! for us, so it is a look-up and not a walk.
//!
//! Invariant: what is here is what the configuration has; of an address that stands there twice, the first.

use crate::config::LocalAddress;
use alloc::vec::Vec;
use core::net::IpAddr;

/// Addresses of each family in order, with their positions: numbers are compared in one step, where an [`IpAddr`]
/// takes one for each octet.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    v4: Vec<(u32, u8)>,
    v6: Vec<(u128, u8)>,
}

impl OwnAddresses {
    pub(super) fn new(addresses: &[LocalAddress]) -> Self {
        // Ids of addresses are octets.
        let positions = (0..=u8::MAX).zip(addresses);
        let mut own = Self { v4: Vec::new(), v6: Vec::new() };
        for (at, local) in positions.filter(|(_, local)| !local.addr.is_unspecified()) {
            match local.addr {
                IpAddr::V4(addr) => own.v4.push((addr.to_bits(), at)),
                IpAddr::V6(addr) => own.v6.push((addr.to_bits(), at)),
            }
        }
        put_in_order(&mut own.v4);
        put_in_order(&mut own.v6);
        own
    }

    /// The position of `addr`.
    #[inline]
    pub(super) fn find(&self, addr: IpAddr) -> Option<usize> {
        match addr {
            IpAddr::V4(addr) => find(&self.v4, addr.to_bits()),
            IpAddr::V6(addr) => find(&self.v6, addr.to_bits()),
        }
    }
}

fn put_in_order<N: Ord + Copy>(addresses: &mut Vec<(N, u8)>) {
    addresses.sort_unstable();
    addresses.dedup_by_key(|(addr, _)| *addr);
}

#[inline]
fn find<N: Ord + Copy>(addresses: &[(N, u8)], addr: N) -> Option<usize> {
    let at = addresses.binary_search_by_key(&addr, |(own, _)| *own).ok()?;
    addresses.get(at).map(|(_, position)| usize::from(*position))
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
