//! Shows the subflows of a connection to each other's congestion control (RFC 6356 §3), at most a few
//! times in a round trip, and only where it is coupled.

use crate::buf::PacketBuf;
use crate::stack::Stack;
use crate::tcp::congestion::{Member, Siblings};
use crate::time::Instant;

impl<B: PacketBuf> Stack<B> {
    /// Subflow `idx` got an acknowledgement: what it knows of the others is renewed if it is old.
    pub(super) fn couple(&mut self, now: Instant, owner: u32, idx: u32) {
        if !self.tcbs.get(idx).is_some_and(|tcb| tcb.wants_siblings(now)) {
            return;
        }
        let Some(connection) = self.connections.get(owner) else { return };
        let tcbs = &self.tcbs;
        let member = |other: u32| -> Option<(u32, Member)> {
            let tcb = tcbs.get(other).filter(|tcb| tcb.state.sending())?;
            // What its window was says nothing about what it takes (RFC 6356 §3): the others would wait for it.
            if other != idx && tcb.is_idle(now) {
                return None;
            }
            let srtt = tcb.rtt.srtt()?;
            Some((other, tcb.with_congestion(|congestion| congestion.member(srtt))?))
        };
        let members = connection.subflows.iter().filter_map(|&other| member(other));
        let Some(own) = members.clone().position(|(other, _)| other == idx) else { return };
        let siblings = Siblings::of(members.map(|(_, member)| member), own);
        if let Some(tcb) = self.tcbs.get_mut(idx) {
            tcb.tell_congestion(now, |congestion| congestion.set_siblings(now, siblings));
        }
    }
}
