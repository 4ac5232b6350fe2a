//! Lines that a burst will need, asked for all at once.
//!
//! Among many sessions a packet finds its control blocks in no cache: a dozen structures, each found by what the one
//! before says, a miss after the other. So before a burst of many flows is handled, all of its packets take the same
//! steps side by side: the hashes of all, the table's entries of all, then all control blocks, and so on. What is
//! read on the way is used for nothing else. Loads that do not depend on each other wait together, which is what
//! a prefetch instruction would do as well, and that one takes unsafe code.
//!
//! Invariant: nothing changes here but memory of its own.

use super::demux::{Flow, Node};
use super::{Sock, Stack};
use crate::buf::PacketBuf;
use crate::steering;
use crate::tcp::Tuple;
use alloc::vec::Vec;

/// So many control blocks, and what belongs to them, are in a cache anyway.
const CROWD: u32 = 8_192;
/// The lines of so many packets fit into a cache beside each other.
const AHEAD: usize = 128;

/// Memory for what is looked at ahead.
#[derive(Default)]
pub(super) struct Warm {
    /// From so many control blocks on it is done.
    crowd: u32,
    /// Of each packet, where it is a segment, with the hash.
    flows: Vec<Option<(Tuple, u64)>>,
    /// How many packets had their turn, the present one included.
    pub(super) turn: usize,
    tcbs: Vec<u32>,
    connections: Vec<u32>,
    relays: Vec<u32>,
}

impl Warm {
    pub(super) fn new() -> Self {
        Self { crowd: CROWD, ..Self::default() }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// A burst begins: among many sessions, what its packets need comes into the cache.
    #[inline]
    pub(super) fn warm(&mut self, burst: &[B]) {
        self.warm.turn = 0;
        if self.tcbs.len() >= self.warm.crowd && burst.len() > 1 {
            self.warm_up(burst.get(..AHEAD).unwrap_or(burst));
        }
    }

    #[inline(never)]
    fn warm_up(&mut self, packets: &[B]) {
        let first_of = |packet: &B| {
            let bytes = packet.data();
            [0, 64].map(|at| bytes.get(at).copied().unwrap_or(0))
        };
        let all = |[a, b]: [u8; 2], [c, d]: [u8; 2]| [a ^ c, b ^ d];
        core::hint::black_box(packets.iter().map(first_of).fold([0; 2], all));
        let mut warm = core::mem::take(&mut self.warm);
        warm.flows.clear();
        let mut last: Option<(Tuple, u64)> = None;
        let mut several = false;
        for packet in packets {
            let flow = steering::ends_of(packet.data()).map(|tuple| match last {
                Some(last) if last.0 == tuple => last,
                other => {
                    several |= other.is_some();
                    (tuple, self.demux.hash(&tuple))
                }
            });
            last = flow.or(last);
            warm.flows.push(flow);
        }
        if several {
            warm.tcbs.clear();
            let mut last = None;
            for (_, hash) in warm.flows.iter().flatten() {
                if last.replace(*hash) == Some(*hash) {
                    continue;
                }
                self.demux.candidates(*hash, |flow| {
                    if let Flow::Tcb(idx) = flow {
                        warm.tcbs.push(idx);
                    }
                });
            }
            core::hint::black_box(self.touch_sessions(&mut warm));
        }
        self.warm = warm;
    }

    /// What the tuple of the segment whose turn it is leads to.
    #[inline]
    pub(super) fn flow_in_turn(&self, tuple: &Tuple) -> Option<Flow> {
        match self.warm.flows.get(self.warm.turn.wrapping_sub(1)) {
            Some(Some((of, hash))) if of == tuple => {
                debug_assert_eq!(*hash, self.demux.hash(tuple), "{tuple:?}");
                self.find_hashed_flow(*hash, tuple)
            }
            _ => self.find_flow(tuple),
        }
    }

    /// All that belongs to the sessions of `warm.tcbs`, step by step.
    fn touch_sessions(&self, warm: &mut Warm) -> u64 {
        let Warm { tcbs, connections, relays, .. } = warm;
        let mut seen = 0;
        connections.clear();
        relays.clear();
        for tcb in tcbs.iter().filter_map(|idx| self.tcbs.get(*idx)) {
            seen ^= tcb.touch_links();
        }
        // What belongs to a session is touched with it: those are left that belong to none.
        tcbs.retain(|idx| match self.tcbs.get(*idx) {
            Some(tcb) => {
                let connection = tcb.subflow.as_ref().map(|subflow| subflow.connection);
                let relay = tcb.app.relay();
                connections.extend(connection);
                relays.extend(relay);
                connection.is_none() && relay.is_none()
            }
            None => false,
        });
        // From either leg to the other.
        let of_subflows = connections.len();
        for relay in relays.iter().filter_map(|idx| self.relays.get(*idx)) {
            if let Sock::Mptcp(idx) = relay.inner {
                connections.push(idx);
            }
        }
        for connection in connections.iter().filter_map(|idx| self.connections.get(*idx)) {
            seen ^= connection.touch();
        }
        for idx in connections.iter().take(of_subflows) {
            relays.extend(self.connections.get(*idx).and_then(|of| of.app.relay()));
        }
        for (idx, connection) in
            connections.iter().filter_map(|idx| Some((*idx, self.connections.get(*idx)?)))
        {
            tcbs.extend_from_slice(&connection.subflows);
            seen ^= connection.touch_boxes() ^ self.touch_node(Node::Connection(idx));
        }
        for connection in connections.iter().filter_map(|idx| self.connections.get(*idx)) {
            seen ^= connection.touch_queue();
        }
        for relay in relays.iter().filter_map(|idx| self.relays.get(*idx)) {
            seen ^= u64::from(relay.due.any());
            for leg in [relay.inner, relay.outer] {
                if let Sock::Plain(idx) = leg {
                    tcbs.push(idx);
                }
            }
        }
        seen ^ self.touch_tcbs(tcbs)
    }

    fn touch_tcbs(&self, tcbs: &[u32]) -> u64 {
        let each = || tcbs.iter().filter_map(|idx| Some((*idx, self.tcbs.get(*idx)?)));
        let mut seen = 0;
        for (idx, tcb) in each() {
            seen ^= tcb.touch() ^ self.touch_node(Node::Tcb(idx));
        }
        for (_, tcb) in each() {
            seen ^= tcb.touch_boxes();
        }
        for (_, tcb) in each() {
            seen ^= tcb.touch_queues();
        }
        seen
    }

    fn touch_node(&self, node: Node) -> u64 {
        let number = self.numbering.number(node);
        let armed = self.wheel.armed(number).map_or(0, |at| at.as_nanos());
        armed ^ u64::from(self.tx.contains(number))
    }
}

#[cfg(test)]
mod tests;
