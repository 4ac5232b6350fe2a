//! Where packets to recent destinations went, so that a flow's next packet needs neither a routing
//! nor a hashed lookup. Direct-mapped: a collision, even a provoked one, costs the full lookup.
//!
//! Invariant: routes never change, so an entry can only name a neighbour that has left the table;
//! ids detect that.

use super::route::Hop;
use core::net::IpAddr;
use mptcp_core::buf::PortId;
use mptcp_core::util::slab::SlabId;

const SLOTS: usize = 256;

/// A decision that was taken once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    pub(crate) hop: Hop,
    pub(crate) neighbour: SlabId,
}

#[derive(Clone, Copy)]
struct Slot {
    port: PortId,
    dst: IpAddr,
    decision: Decision,
}

/// The cache of one shard.
pub(crate) struct Recent {
    slots: Box<[Option<Slot>; SLOTS]>,
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self { slots: Box::new([None; SLOTS]) }
    }

    /// The decision for packets to `dst` that are bound to `port`.
    pub(crate) fn get(&self, port: PortId, dst: IpAddr) -> Option<Decision> {
        let slot = self.slots.get(index(port, dst))?.as_ref()?;
        (slot.port == port && slot.dst == dst).then_some(slot.decision)
    }

    pub(crate) fn insert(&mut self, port: PortId, dst: IpAddr, decision: Decision) {
        if let Some(slot) = self.slots.get_mut(index(port, dst)) {
            *slot = Some(Slot { port, dst, decision });
        }
    }
}

fn index(port: PortId, dst: IpAddr) -> usize {
    let bits = match dst {
        IpAddr::V4(dst) => u64::from(u32::from(dst)),
        IpAddr::V6(dst) => {
            let bits = u128::from(dst);
            u64::try_from(bits >> 64).unwrap_or(0)
                ^ u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0)
        }
    };
    let mixed = (bits ^ u64::from(port.0) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::from(mixed.to_be_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_port_and_destination_match() {
        let mut recent = Recent::new();
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let decision =
            |n| Decision { hop: Hop { port: PortId(0), addr: here }, neighbour: SlabId(n) };
        for i in 0..100_000_u32 {
            let dst = IpAddr::from(i.to_be_bytes());
            recent.insert(PortId(1), dst, decision(i.into()));
            assert_eq!(recent.get(PortId(1), dst), Some(decision(i.into())));
        }
        recent.insert(PortId(0), here, decision(7));
        assert_eq!(recent.get(PortId(1), here), None);
        assert_eq!(recent.get(PortId(0), there), None);
        assert_eq!(recent.get(PortId(0), IpAddr::from([0; 16])), None);
        assert_eq!(recent.get(PortId(0), here), Some(decision(7)));
    }
}
