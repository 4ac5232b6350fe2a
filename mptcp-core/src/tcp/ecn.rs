//! Explicit congestion notification (RFC 3168 §6.1): a router that would drop soon marks instead, the
//! receiver echoes the mark until the sender says that it has reduced its window.
//!
//! Invariant: only new data is sent as markable, and the window is reduced once for what was in
//! flight, whether marks or losses asked for it.

use super::{Env, Segment, State, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::stats::Counters;
use crate::time::Instant;
use crate::wire::{ECN_ECT0, TcpFlags};

impl<B: PacketBuf> Tcb<B> {
    /// The peer's SYN or SYN/ACK answers ours, which may have asked.
    pub(super) fn agree_on_ecn(&mut self, stats: &mut Counters, segment: &Segment) {
        if !segment.is_ecn_setup_syn_ack() {
            // Crossing SYNs are not worth the state either.
            self.flags.remove(TcbFlags::ECN | TcbFlags::ECN_ECHO);
        }
        stats.tcp_ecn_estab += u64::from(self.flags.contains(TcbFlags::ECN));
    }

    /// A segment inside the window: what its mark and its CWR mean to the receiver.
    pub(super) fn note_mark(&mut self, segment: &Segment) {
        if segment.len == 0 || !self.flags.contains(TcbFlags::ECN_ECHO) {
            return;
        }
        if segment.has(TcpFlags::CWR) {
            self.flags.remove(TcbFlags::ECE);
        }
        if segment.marked && !self.flags.contains(TcbFlags::ECE) {
            self.flags.insert(TcbFlags::ECE);
            // The sooner the sender knows, the less the queue grows.
            self.ack_now();
        }
    }

    /// An acknowledgement may say that what it acknowledges was marked on its way. True when it does:
    /// it must not open the window either.
    pub(super) fn answer_echo(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        flight: u32,
    ) -> bool {
        if !self.flags.contains(TcbFlags::ECN)
            || !segment.has(TcpFlags::ECE)
            || segment.has(TcpFlags::SYN)
        {
            return false;
        }
        env.stats.tcp_ecn_echo_recv += 1;
        // The peer echoes until the segment with our CWR, the first behind `rack.reduced`, is there.
        let answered =
            self.flags.contains(TcbFlags::ECN_REDUCED) && self.snd_una.le(self.reduced());
        if !answered && !self.in_recovery() && flight > 0 {
            env.stats.tcp_ecn_reduced += 1;
            self.tell_congestion(env.now, |congestion| congestion.on_ecn(env.now, flight));
            self.note_reduction(env.now);
        }
        true
    }

    /// The window was reduced, for whatever reason: the peer is told.
    pub(super) fn note_reduction(&mut self, now: Instant) {
        if self.flags.contains(TcbFlags::ECN) {
            self.flags.insert(TcbFlags::CWR | TcbFlags::ECN_REDUCED);
            self.sender(now).rack.reduced = self.snd_nxt;
        }
    }

    /// The window was already reduced since the oldest outstanding segment was sent.
    pub(super) fn is_reduced_for_flight(&self) -> bool {
        self.flags.contains(TcbFlags::ECN_REDUCED) && self.snd_una.lt(self.reduced())
    }

    /// Beyond `rack.reduced` it says nothing any more; kept, its sequence number would come round.
    pub(super) fn forget_reduction(&mut self) {
        if self.flags.contains(TcbFlags::ECN_REDUCED) && self.snd_una.gt(self.reduced()) {
            self.flags.remove(TcbFlags::ECN_REDUCED);
        }
    }

    /// The SYN/ACK of a Fast Open grants ECN, as any other.
    fn grants_ecn(&self) -> bool {
        self.flags.contains(TcbFlags::ECN) && self.is_fast_opened()
    }

    /// ECE and CWR of a segment with `flags`.
    pub(super) fn ecn_flags(&self, flags: TcpFlags, fresh: bool) -> TcpFlags {
        let mut ecn = TcpFlags::empty();
        if flags.contains(TcpFlags::SYN) {
            if self.state == State::SynSent && self.flags.contains(TcbFlags::ECN) {
                ecn |= TcpFlags::ECE | TcpFlags::CWR;
            }
            if self.grants_ecn() {
                ecn |= TcpFlags::ECE;
            }
            return ecn;
        }
        ecn.set(TcpFlags::ECE, self.flags.contains(TcbFlags::ECE));
        ecn.set(TcpFlags::CWR, fresh && self.flags.contains(TcbFlags::CWR));
        ecn
    }

    /// The ECN field of the IP header: retransmissions and what has no text must not be markable,
    /// for nobody would miss the mark if they got lost.
    pub(super) fn ecn_codepoint(&self, fresh: bool) -> u8 {
        if fresh && self.flags.contains(TcbFlags::ECN) { ECN_ECT0 } else { 0 }
    }
}
