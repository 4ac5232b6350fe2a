//! What is sent again: what is lost, and the tail loss probe (RFC 8985 §7.3).

use super::DataLevel;
use super::burst::Burst;
use super::emission::{Emission, wire_flags};
use super::packet::sum_for;
use crate::buf::{PacketBuf, TxQueue};
use crate::driver::Progress;
use crate::mptcp::Carry;
use crate::tcp::{Env, Tcb, TcbFlags};

impl<B: PacketBuf> Tcb<B> {
    pub(super) fn retransmit_lost<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        while let Some(idx) = self.queue.first_lost() {
            if self.pipe() >= self.cwnd() {
                self.flags.insert(TcbFlags::CWND_LIMITED);
                break;
            }
            if self.lies_beyond_window(idx) || self.held_by_pace(env.now) {
                break;
            }
            if *budget == 0 || tx.room() == 0 || !self.retransmit(env, tx, data, idx) {
                return Progress::More;
            }
            *budget -= 1;
        }
        Progress::Done
    }

    /// The peer has drawn its window in, and would not take segment `idx`: it waits for room, not for another timeout. The
    /// oldest one goes whatever the window is (RFC 9293 §3.8.6).
    fn lies_beyond_window(&self, idx: usize) -> bool {
        let edge = self.snd_una.add(self.snd_wnd);
        let beyond = self.queue.get(idx).is_some_and(|segment| segment.seq.ge(edge));
        idx > 0 && beyond && self.subflow.is_none()
    }

    /// Sends segment `idx` again with the mapping it was first sent with.
    fn retransmit<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        idx: usize,
    ) -> bool {
        let idx = self.fit(idx);
        self.forget_probe(idx);
        let Some(segment) = self.queue.get(idx) else { return false };
        let (seq, octets, mapping) = (segment.seq, segment.seq_len(), segment.mapping);
        let len = segment.len;
        let carry = match &mapping {
            Some(mapping) if len > 0 => Carry::Data(mapping),
            Some(mapping) => Carry::End(mapping),
            None if len > 0 => Carry::Nothing,
            None => Carry::Ack,
        };
        let emission = Emission {
            seq,
            flags: wire_flags(segment.flags),
            payload: segment.payload.as_ref().map(|b| (b.slice(0..b.data_len()), sum_for(tx, b))),
            carry,
            fresh: false,
        };
        if !self.emit(env, tx, data, emission) {
            return false;
        }
        let stamp = self.depart(env.now, octets);
        self.queue.retransmitted(idx, env.now, stamp);
        let timestamp = self.flags.contains(TcbFlags::TIMESTAMPS).then(|| self.timestamp(env.now));
        self.on_recovery_sent(octets, timestamp);
        // A probe of a sidelined subflow does not put off the timeout that gives it up.
        let stale = self.subflow.as_ref().is_some_and(|subflow| subflow.stale);
        if idx == 0 && !stale && self.note_head_repair() {
            self.rto_base = env.now;
        }
        self.last_sent = env.now;
        let rare = self.rare();
        rare.retransmitted += 1;
        rare.bytes_retrans += u64::from(len);
        env.stats.retrans_segs += 1;
        true
    }

    /// RFC 8985 §7.3: new data if there is any, else the last segment again.
    pub(super) fn send_tail_loss_probe<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if !self.flags.contains(TcbFlags::TLP_NOW) {
            return Progress::Done;
        }
        if self.queue.is_empty() || self.in_recovery() || self.queue.lost_bytes() > 0 {
            self.flags.remove(TcbFlags::TLP_NOW);
            return Progress::Done;
        }
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let mss = self.payload_mss();
        let fresh = self.unsent_len.min(mss).min(self.usable_window());
        if fresh > 0 && self.subflow.is_none() {
            if !self.send_chunk(env, tx, data, fresh, &mut Burst::default()) {
                return Progress::More;
            }
        } else {
            let last = self.queue.len() - 1;
            let Some(seq) = self.queue.get(last).map(|segment| segment.seq) else {
                return Progress::Done;
            };
            // Whether a probe for the MTU was lost is no matter of congestion.
            let excused = self.gives_up_probe(env, seq);
            if !self.retransmit(env, tx, data, last) {
                return Progress::More;
            }
            self.flags.set(TcbFlags::TLP_RETRANS, !excused);
        }
        *budget -= 1;
        env.stats.tcp_loss_probes += 1;
        // The timeout counts from the probe (RFC 8985 §7.3).
        self.rto_base = env.now;
        self.flags.remove(TcbFlags::TLP_NOW);
        self.flags.insert(TcbFlags::TLP_OUT.union(TcbFlags::TLP_SPENT));
        self.sender(env.now).tlp_end = self.snd_nxt;
        Progress::Done
    }
}
