//! What several subflows of a connection brought in one burst is taken in the order of the stream.
//!
//! Packets of two ports, or two queues, have no order among each other but the one in which they were asked
//! for. Taken subflow by subflow most of the second one's would lie in front of the first one's, which would
//! wait out of order for it.
//!
//! Invariant: it is as if the packets had come in one by one, in an order that keeps each subflow's.

use crate::buf::PacketBuf;
use crate::mptcp::Amount;
use crate::stack::Stack;
use crate::time::Instant;
use alloc::vec::Vec;

/// Subflows that have something for the data level, while runs of one connection end together.
#[derive(Default)]
pub(in crate::stack) struct Pulls {
    open: bool,
    due: Vec<Due>,
}

#[derive(Clone, Copy)]
struct Due {
    owner: u32,
    idx: u32,
    /// Some of it was moved up.
    moved: bool,
}

impl Pulls {
    /// From now on subflows wait for each other.
    pub(in crate::stack) const fn begin(&mut self) {
        self.open = true;
    }

    /// True when the subflow's data waits until all of it is there.
    pub(super) fn wait(&mut self, owner: u32, idx: u32) -> bool {
        if self.open {
            self.due.push(Due { owner, idx, moved: false });
        }
        self.open
    }

    /// True when what waits in memory of a subflow shows only once its data is moved up.
    pub(in crate::stack) fn defer(&self, idx: u32) -> bool {
        self.due.last().is_some_and(|due| due.idx == idx)
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Moves up what has waited since [`Pulls::begin`].
    pub(in crate::stack) fn pull_in_order(&mut self, now: Instant) {
        self.pulls.open = false;
        let mut due = core::mem::take(&mut self.pulls.due);
        while let Some(next) = self.next_of_several(&due).and_then(|at| due.get_mut(at)) {
            next.moved = true;
            self.pull(now, next.owner, next.idx, true, Amount::Span);
        }
        for Due { owner, idx, moved } in due.drain(..) {
            if self.owner_of(idx) != Some(owner) {
                self.list_waiting(idx, Some(owner));
                self.touch_connection(owner);
                continue;
            }
            let left = self.tcbs.get(idx).is_some_and(|tcb| tcb.received.in_order_len() > 0);
            if left || !moved {
                self.pull(now, owner, idx, true, Amount::All);
            }
            // One may have filled a hole and another one left the next: what was before says nothing.
            self.list_waiting(idx, Some(owner));
            self.touch_connection(owner);
            self.touch_tcb(idx);
        }
        self.pulls.due = due;
    }

    /// The subflow whose octets come first in the stream; `None` when no more than one has any.
    fn next_of_several(&self, due: &[Due]) -> Option<usize> {
        if due.len() < 2 {
            return None;
        }
        let (mut first, mut several) = (None, false);
        for (&Due { owner, idx, .. }, at) in due.iter().zip(0..) {
            let tcb = self.tcbs.get(idx).filter(|_| self.owner_of(idx) == Some(owner));
            let connection = self.connections.get(owner);
            let Some(place) = connection.zip(tcb).and_then(|(c, tcb)| c.begins_at(tcb)) else {
                continue;
            };
            several |= first.is_some();
            if first.is_none_or(|(least, _)| place < least) {
                first = Some((place, at));
            }
        }
        first.filter(|_| several).map(|(_, at)| at)
    }
}
