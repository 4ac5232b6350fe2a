//! Whose acknowledgement of the head of the stream is worth something, when the peer's data level lacks
//! what its TCP acknowledged.
//!
//! Two do that, and on one subflow they look the same. A box on the way that answers in the peer's name
//! and loses what it took (RFC 8684 §6): its subflow must go, or everything it carries waits for a timeout
//! of the data level. And a peer without memory for what it promised to take: Linux leaves it in the
//! queues of its subflows until its application reads, for as long as that takes.
//!
//! So the next repair goes by another subflow. Where that one's arrives soon, a box broke the first one's
//! word. Where all subflows say the same, it is the peer, and nobody is blamed.

use super::super::Stack;
use crate::buf::PacketBuf;
use crate::mptcp::Word;
use crate::time::Instant;
use crate::wire::reset_reason;

impl<B: PacketBuf> Stack<B> {
    /// The data-level timer fired, and `idx` had acknowledged the repair of the last round.
    pub(super) fn doubt_witness(&mut self, now: Instant, owner: u32, idx: u32) {
        let subflows = self.subflows_of(owner);
        if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) {
            subflow.word = Word::OnTrial;
        }
        let others = subflows.iter().filter_map(|&other| self.tcbs.get(other));
        let heard = others.filter_map(|tcb| Some((tcb, tcb.subflow.as_ref()?))).any(|(tcb, s)| {
            let works = s.is_confirmed() && !s.stale && tcb.rto_count() == 0;
            s.word == Word::Good && works && !tcb.write_closed()
        });
        if !heard {
            return self.forget_doubts(&subflows);
        }
        let soon = now + self.largest_rto(owner);
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.look_again(soon);
        }
    }

    /// A `DATA_ACK` covers what was the head of the stream.
    pub(super) fn hear_repair(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let by = core::mem::replace(&mut connection.repaired_by, u8::MAX);
        if by == u8::MAX {
            return;
        }
        let subflows = self.subflows_of(owner);
        let mut broken = false;
        for &idx in subflows.iter() {
            let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) else {
                continue;
            };
            if subflow.word == Word::OnTrial && subflow.id != by {
                subflow.word = Word::Broken;
                broken = true;
            } else if subflow.word != Word::Broken {
                subflow.word = Word::Good;
            }
        }
        if let Some(connection) = self.connections.get_mut(owner).filter(|_| broken) {
            // Not here: its own segment may be the one that is being read.
            connection.look_again(now);
            self.touch_connection(owner);
        }
    }

    /// The repairs had their time to arrive.
    pub(super) fn judge_witnesses(&mut self, now: Instant, owner: u32) {
        for idx in self.subflows_of(owner) {
            let live = self.connections.get(owner).map_or(0, |c| c.live_subflows(&self.tcbs));
            let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) else {
                continue;
            };
            match subflow.word {
                // What arrives from now on says nothing: the peer may just have begun to read.
                Word::OnTrial => subflow.word = Word::Doubted,
                Word::Broken if live > 1 => {
                    self.stats.dss_ack_missing_reset += 1;
                    let reason = reset_reason::MIDDLEBOX_INTERFERENCE;
                    self.reset_subflow(now, owner, idx, reason, false);
                }
                Word::Good | Word::Doubted | Word::Broken => {}
            }
        }
    }

    fn forget_doubts(&mut self, subflows: &[u32]) {
        for &idx in subflows {
            if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) {
                subflow.word = Word::Good;
            }
        }
    }
}
