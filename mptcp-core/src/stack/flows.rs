//! The table of 4-tuples: of each flow the place of its block, which has the tuple.
//!
//! An entry is eight octets, whatever the family, where a tuple beside it would take two or five times as many more
//! for each of the flows there could be. To compare is to look at the block, which whoever asks is going to need anyway;
//! 32 bits of the hash, which the table keeps, say beforehand that it is the one.
//!
//! Invariant: what is in the table leads to a block that has the entry's tuple, as long as others are put in: an
//! entry goes before its block does, or at once after it.

use super::Stack;
use super::demux::Flow;
use crate::buf::PacketBuf;
use crate::rng::KeyedHash;
use crate::tcp::Tuple;
use crate::util::tag_table::TagTable;
use core::net::{IpAddr, Ipv4Addr};

/// Bits of a position; what it is a position of stands above.
const FLOW_BITS: u32 = 30;

/// A [`Flow`] in four octets.
#[derive(Clone, Copy)]
struct PackedFlow(u32);

impl PackedFlow {
    const fn new(flow: Flow) -> Self {
        let (kind, idx) = match flow {
            Flow::Tcb(idx) => (0, idx),
            Flow::Request(idx) => (1, idx),
            Flow::TimeWait(idx) => (2, idx),
        };
        Self(kind << FLOW_BITS | idx)
    }

    const fn flow(self) -> Flow {
        let idx = self.0 & ((1 << FLOW_BITS) - 1);
        match self.0 >> FLOW_BITS {
            0 => Flow::Tcb(idx),
            1 => Flow::Request(idx),
            _ => Flow::TimeWait(idx),
        }
    }
}

/// See the module. An entry's tag is the upper half of the hash.
pub(super) struct FlowTable(TagTable);

const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl FlowTable {
    /// With room for `flows`.
    pub(super) fn new(flows: usize) -> Self {
        Self(TagTable::new(flows))
    }

    /// What a tuple with this hash leads to, where `has_it` knows whose it is.
    #[inline]
    pub(super) fn find(&self, hash: u64, has_it: impl Fn(Flow) -> bool) -> Option<Flow> {
        let is_it = |of| has_it(PackedFlow(of).flow());
        self.0.find(tag(hash), is_it).map(|of| PackedFlow(of).flow())
    }

    /// Where a tuple with this hash may lead, without a look at the blocks.
    pub(super) fn candidates(&self, hash: u64, mut note: impl FnMut(Flow)) {
        let _none = self.0.find(tag(hash), |flow| {
            note(PackedFlow(flow).flow());
            false
        });
    }

    /// Adds or replaces.
    pub(super) fn insert(
        &mut self,
        keyed: &KeyedHash,
        tuple: &Tuple,
        flow: Flow,
        has_it: impl Fn(Flow) -> bool,
    ) {
        let hash = hash(keyed, tuple);
        let new = PackedFlow::new(flow).0;
        let there = match self.find(hash, has_it) {
            Some(old) => self.0.replace(tag(hash), PackedFlow::new(old).0, new),
            None => self.0.insert(tag(hash), new),
        };
        debug_assert!(there, "no room for {tuple:?}");
    }

    /// False when it was not there.
    pub(super) fn remove(&mut self, keyed: &KeyedHash, tuple: &Tuple, flow: Flow) -> bool {
        self.0.remove(tag(hash(keyed, tuple)), PackedFlow::new(flow).0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Whether both are equal, found out in a few steps where both are of IPv4.
#[inline]
fn same(a: &Tuple, b: &Tuple) -> bool {
    if a.local_port != b.local_port || a.remote_port != b.remote_port {
        return false;
    }
    match (&a.local_addr, &b.local_addr, &a.remote_addr, &b.remote_addr) {
        (IpAddr::V4(al), IpAddr::V4(bl), IpAddr::V4(ar), IpAddr::V4(br)) => al == bl && ar == br,
        _ => a.local_addr == b.local_addr && a.remote_addr == b.remote_addr,
    }
}

/// The hash of a tuple, whose family says how long it is.
#[inline]
pub(super) fn hash(keyed: &KeyedHash, tuple: &Tuple) -> u64 {
    let ports = u32::from(tuple.local_port) << 16 | u32::from(tuple.remote_port);
    if let (IpAddr::V4(local), IpAddr::V4(remote)) = (&tuple.local_addr, &tuple.remote_addr) {
        let bits = |address: &Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
        let addresses = bits(local) << 32 | bits(remote);
        return keyed.hash_words_and(&[addresses], ports);
    }
    let halves = |address: &IpAddr| {
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        [(bits >> 64) as u64, bits as u64]
    };
    let ([l1, l0], [r1, r0]) = (halves(&tuple.local_addr), halves(&tuple.remote_addr));
    keyed.hash_words_and(&[l1, l0, r1, r0], ports)
}

/// Whether a stack's flow has this tuple, whatever else of the stack is borrowed.
macro_rules! has {
    ($stack:expr, $tuple:expr) => {
        |flow| match flow {
            Flow::Tcb(idx) => $stack.tcbs.get(idx).is_some_and(|tcb| tcb.ends.is($tuple)),
            Flow::Request(idx) => {
                $stack.requests.get(idx).is_some_and(|request| same(&request.tuple, $tuple))
            }
            Flow::TimeWait(idx) => {
                $stack.time_waits.get(idx).is_some_and(|entry| same(&entry.tuple, $tuple))
            }
        }
    };
}

impl<B: PacketBuf> Stack<B> {
    /// What a 4-tuple leads to.
    #[inline]
    pub(super) fn find_flow(&self, tuple: &Tuple) -> Option<Flow> {
        self.find_hashed_flow(self.demux.hash(tuple), tuple)
    }

    /// The same for whoever has the hash.
    #[inline]
    pub(super) fn find_hashed_flow(&self, hash: u64, tuple: &Tuple) -> Option<Flow> {
        self.demux.find(hash, has!(self, tuple))
    }

    /// From now on `tuple` leads to `flow`, which has it.
    pub(super) fn file_flow(&mut self, tuple: &Tuple, flow: Flow) {
        self.demux.insert(tuple, flow, has!(self, tuple));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_fits_into_four_octets() {
        let flows = [Flow::Tcb(0), Flow::Request((1 << FLOW_BITS) - 1), Flow::TimeWait(5)];
        assert_eq!(flows.map(|flow| PackedFlow::new(flow).flow()), flows);
        assert_eq!(size_of::<PackedFlow>(), 4);
    }
}
