//! Expired timers, one wheel node per object. Nodes are armed lazily: one may fire early, find that
//! its deadline moved, and be armed again.

use super::demux::Node;
use super::{Stack, env};
use crate::buf::PacketBuf;
use crate::driver::Progress;
use crate::time::Instant;

impl<B: PacketBuf> Stack<B> {
    /// Runs at most `budget` expired timers. A change of addresses reaches as many connections meanwhile.
    pub fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress {
        self.observer.now = now;
        self.tell_writers(now);
        self.end_stalled(now);
        self.apply_address_change(now);
        self.check_waiting();
        for _ in 0..budget {
            // Each has its turn: however many relays wait for a rate, a timer runs beside them.
            let other = self.walk_on(now) | self.release_held(now) | self.expire_fragments(now);
            let Some(number) = self.wheel.expire(now) else {
                if other {
                    continue;
                }
                return Progress::Done;
            };
            match self.numbering.node(number) {
                Node::Tcb(idx) => self.tcb_timeout(now, idx),
                Node::Connection(idx) => self.connection_timeout(now, idx),
                Node::Request(idx) => self.request_timeout(now, idx),
                Node::TimeWait(idx) => self.time_wait_timeout(now, idx),
                Node::Listener(_) | Node::Udp(_) => {}
            }
        }
        Progress::More
    }

    /// When `handle_timeouts` next has work: possibly early, never late. `None` while no timer
    /// runs.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let change = self.address_changes.due();
        let held = self.held.first().map(|(at, _)| *at);
        let [writers, stalled] = [self.writers_due(), self.stalled_due()];
        let timers = self.wheel.next_deadline();
        let due = [timers, change, held, writers, stalled, self.fragments_due()];
        due.into_iter().flatten().min()
    }

    fn tcb_timeout(&mut self, now: Instant, idx: u32) {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let deadline = tcb.next_timeout();
        if deadline.is_none_or(|at| at > now) {
            // It was armed for what has been done since: a while has passed.
            let again = tcb.rest(now);
            let owner = tcb.subflow.as_ref().filter(|_| again.is_none()).map(|s| s.connection);
            if let Some(connection) = owner.and_then(|owner| self.connections.get_mut(owner)) {
                connection.rest();
            }
            self.arm(Node::Tcb(idx), [deadline, again].into_iter().flatten().min());
            return;
        }
        let before = self.watch(idx);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        // Data of a subflow is the connection's to send.
        let released = tcb.is_released(now).then(|| tcb.subflow.as_ref().map(|s| s.connection));
        let mut env = env!(self, now);
        let outcome = tcb.timeout(&mut env);
        self.watched(idx, before);
        if outcome.closed.is_some() {
            self.reset_by_timeout(idx);
        }
        self.dispatch_outcome(now, idx, &outcome);
        self.touch_tcb(idx);
        if let Some(owner) = released.flatten() {
            self.touch_connection(owner);
        }
    }
}
