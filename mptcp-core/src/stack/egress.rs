//! What goes out: stateless answers first, then everything on the transmit list, round-robin with a
//! quantum, until the queue is full or nothing is left.

use super::demux::Node;
use super::scheduling::Assignment;
use super::{Stack, env};
use crate::buf::{PacketBuf, TxQueue};
use crate::driver::Progress;
use crate::mptcp::Phase;
use crate::tcp::Tcb;
use crate::time::Instant;
use alloc::vec::Vec;

/// Segments (or datagrams) one connection (or socket) may send before the next one has its turn.
pub(super) const QUANTUM: usize = 32;

impl<B: PacketBuf> Stack<B> {
    /// Fills `tx`; keeps its place when the queue is full.
    pub fn poll_transmit<T: TxQueue<B>>(&mut self, now: Instant, tx: &mut T) -> Progress {
        if self.transmit_stateless(tx) == Progress::More {
            return Progress::More;
        }
        while let Some(number) = self.tx.pop_front() {
            if tx.room() == 0 {
                self.tx.push_front(number);
                return Progress::More;
            }
            let before = tx.room();
            let node = self.numbering.node(number);
            let progress = match node {
                Node::Tcb(idx) => self.transmit_tcb(now, idx, tx),
                Node::Connection(idx) => self.transmit_connection(now, idx, tx),
                Node::Request(idx) => self.transmit_request(now, idx, tx),
                Node::Udp(idx) => self.transmit_udp(idx, tx),
                Node::Listener(_) | Node::TimeWait(_) => Progress::Done,
            };
            if progress == Progress::More {
                self.tx.push_back(number);
                if tx.room() == before {
                    // No buffer to be had: later.
                    return Progress::More;
                }
            }
        }
        Progress::Done
    }

    /// What was written down at once, without anything behind it: resets, then answers.
    fn transmit_stateless<T: TxQueue<B>>(&mut self, tx: &mut T) -> Progress {
        for queue in [&mut self.resets, &mut self.replies] {
            while let Some(segment) = queue.front() {
                if tx.room() == 0 || !segment.emit(tx, &mut self.stats) {
                    return Progress::More;
                }
                queue.pop_front();
            }
        }
        if self.resets.capacity() > super::MAX_REPLIES {
            // Thousands were aborted at once; that is over.
            self.resets = alloc::collections::VecDeque::new();
        }
        Progress::Done
    }

    fn transmit_request<T: TxQueue<B>>(&mut self, now: Instant, idx: u32, tx: &mut T) -> Progress {
        let Some(syn_ack) = self.syn_ack(now, idx) else { return Progress::Done };
        if syn_ack.emit(tx, &mut self.stats) { Progress::Done } else { Progress::More }
    }

    fn transmit_tcb<T: TxQueue<B>>(&mut self, now: Instant, idx: u32, tx: &mut T) -> Progress {
        let mut budget = QUANTUM;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return Progress::Done };
        let mut env = env!(self, now);
        let progress = match tcb.subflow.as_ref().map(|s| s.connection) {
            None => tcb.output(&mut env, tx, None, &mut budget),
            Some(owner) => {
                let Some(connection) = self.connections.get_mut(owner) else {
                    return Progress::Done;
                };
                let data = connection.data_level();
                let used = tx.room();
                let progress = tcb.output(&mut env, tx, Some(&data), &mut budget);
                if tx.room() != used && tcb.state.synchronized() {
                    connection.advertised(tcb.last_window());
                }
                if data.data_fin.is_some() {
                    let deadline = connection.next_timeout();
                    self.arm(Node::Connection(owner), deadline);
                }
                progress
            }
        };
        let deadline = self.tcbs.get(idx).and_then(Tcb::next_timeout);
        self.arm(Node::Tcb(idx), deadline);
        progress
    }

    /// Hands stream data to subflows, as the scheduler chooses.
    fn transmit_connection<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        owner: u32,
        tx: &mut T,
    ) -> Progress {
        self.manage_paths(now, owner);
        let mut views = Vec::new();
        let mut progress = Progress::Done;
        for sent in 0.. {
            let Some(assignment) = self.assign(now, owner, &mut views) else { break };
            if self.holds_back(owner, &assignment) {
                break;
            }
            if sent >= QUANTUM || tx.room() == 0 || !self.send_on(now, owner, &assignment, tx) {
                progress = Progress::More;
                break;
            }
        }
        self.finish_sending(now, owner);
        progress
    }

    /// New data that had better wait for a larger window, or for company.
    fn holds_back(&mut self, owner: u32, assignment: &Assignment) -> bool {
        let nagle = self.config.tcp.nagle;
        let Assignment { next, idx } = *assignment;
        let Some(mss) = self.tcbs.get(idx).map(Tcb::payload_mss) else { return true };
        self.connections.get_mut(owner).is_none_or(|c| c.holds_back(next, mss, nagle))
    }

    fn send_on<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        owner: u32,
        assignment: &Assignment,
        tx: &mut T,
    ) -> bool {
        let Assignment { next, idx } = *assignment;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        if connection.phase != Phase::Fallback {
            connection.choose_width(now, next.start);
            let (wide, checksum) = (connection.wide(), connection.checksum);
            if let Some(subflow) = &mut tcb.subflow
                && subflow.set_format(wide, checksum)
            {
                tcb.refresh_mss();
            }
        }
        let mss = tcb.payload_mss();
        let room = mss.min(tcb.usable_window());
        let Some((payload, mapping)) = connection.segment(next, tcb, room, tx) else {
            self.stats.tx_no_buffer += 1;
            return false;
        };
        let len = payload.data().len() as u32;
        let end = next.start + u64::from(len);
        let push = end >= connection.data_end;
        let data = connection.data_level();
        let mut env = env!(self, now);
        if !tcb.send_mapped(&mut env, tx, &data, payload, mapping, push) {
            return false;
        }
        connection.advertised(tcb.last_window());
        connection.sent(next, len, mss);
        let deadline = tcb.next_timeout();
        self.assigned(now, owner, assignment, len);
        self.arm(Node::Tcb(idx), deadline);
        true
    }

    /// After the last segment that could go: the end of the stream, and the data-level timer.
    fn finish_sending(&mut self, now: Instant, owner: u32) {
        let rto = self.largest_rto(owner);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let all_sent = connection.data_snd_nxt == connection.data_end;
        if connection.fin_queued && all_sent && connection.phase == Phase::Fallback {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx)
                    && !tcb.write_closed()
                {
                    tcb.shutdown_write();
                    self.touch_tcb(idx);
                }
            }
            return;
        }
        if all_sent {
            for &idx in &connection.subflows {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.note_window(now, 0);
                }
            }
        }
        let announce_fin = connection.fin_due() && !connection.fin_announced;
        if announce_fin {
            connection.fin_announced = true;
        }
        connection.arm_rtx(now, rto);
        let deadline = connection.next_timeout();
        if announce_fin {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.ack_now();
                }
                self.touch_tcb(idx);
            }
        }
        self.arm(Node::Connection(owner), deadline);
    }
}
