//! What to send next: retransmissions, new data, FIN, probes and acknowledgements, in this order.
//!
//! Invariant: nothing is sent beyond the peer's window except a probe, and the state only changes
//! when the packet has really been handed to the queue.

mod burst;
mod data;
mod emission;
mod packet;
mod repair;
mod room;
mod usual;

use super::delivery::Stamp;
use super::sender::Sender;
use super::{Env, State, Tcb, TcbFlags};
use crate::buf::{PacketBuf, TxQueue};
use crate::driver::Progress;
use crate::mptcp::{Carry, DssFormat, Subflow};
use crate::seq::{DataSeq, SeqNum};
use crate::time::{Duration, Instant};
use crate::wire::{TcpFlags, WireSeq};
pub(crate) use burst::Burst;
use emission::Emission;
pub(super) use packet::consume;
pub(crate) use packet::{PROTOCOL_TCP, Stateless, gather, goes_alone, mss_for, sum_of};
pub(super) use room::payload_of;

/// A sender that was able to send and silent for longer is limited by its application.
const APP_LIMITED_PAUSE: Duration = Duration::from_millis(2);

/// What the data level says about the next segment of a subflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataLevel {
    pub(crate) data_ack: Option<WireSeq>,
    /// Octets beyond the `DATA_ACK` that were promised already.
    pub(crate) promised: u32,
    /// Octets beyond the `DATA_ACK` to offer.
    pub(crate) window: u32,
    /// DSN of our `DATA_FIN` while it wants to be sent with an acknowledgement.
    pub(crate) data_fin: Option<DataSeq>,
    /// Octets before the next that the peer may lack although TCP acknowledged them.
    pub(crate) unsure: u32,
    pub(crate) format: DssFormat,
    pub(crate) local_key: u64,
    pub(crate) remote_key: u64,
}

impl<B: PacketBuf> Tcb<B> {
    /// Sends what is due and allowed, at most `budget` segments. New data of a subflow is not
    /// sent here: the scheduler hands it over with [`Tcb::send_mapped`].
    pub(crate) fn output<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.state == State::Closed {
            return Progress::Done;
        }
        if let Some(data) = data {
            self.set_dss_format(data.format);
        }
        let progress = self.output_steps(env, tx, data, budget);
        self.end_output(env.now);
        progress
    }

    /// [`Tcb::output`] would find nothing to send.
    pub(crate) fn has_nothing_due(&self, now: Instant) -> bool {
        let asked = TcbFlags::SYN_NOW.union(TcbFlags::PROBE_NOW).union(TcbFlags::TLP_NOW);
        !self.flags.intersects(asked)
            && self.queue.first_lost().is_none()
            && self.unsent.is_empty()
            && !self.fin_due()
            && !self.owes_ack(now)
    }

    /// As [`Tcb::output`] on a subflow where there [is nothing](Self::has_nothing_due): what the data level says does not
    /// matter, but for the form.
    pub(crate) fn rest_output(&mut self, now: Instant, format: DssFormat) {
        if self.state != State::Closed {
            self.set_dss_format(format);
            self.end_output(now);
        }
    }

    /// All that could go has gone.
    fn end_output(&mut self, now: Instant) {
        let open = self.pipe() + self.payload_mss() <= self.cwnd();
        let limits = |sender: &Sender| sender.pacer.limits(now);
        if open && !self.sender.as_deref().is_some_and(limits) {
            // Not when acknowledgements come: a burst brings many before there is a chance to send.
            self.flags.remove(TcbFlags::CWND_LIMITED);
        }
        self.arm_rtx(now);
    }

    fn output_steps<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.flags.contains(TcbFlags::SYN_NOW) {
            let progress = self.send_syn(env, tx, data, budget);
            if progress == Progress::More || !self.may_answer_early() {
                return progress;
            }
        }
        if self.state == State::SynSent || self.is_fast_opened() && !self.may_answer_early() {
            return Progress::Done;
        }
        if self.flags.contains(TcbFlags::PROBE_NOW) && self.send_probe(env, tx, data, budget) {
            return Progress::More;
        }
        if self.retransmit_lost(env, tx, data, budget) == Progress::More
            || self.send_tail_loss_probe(env, tx, data, budget) == Progress::More
            || self.send_unsent(env, tx, data, budget) == Progress::More
            || self.send_fin(env, tx, data, budget) == Progress::More
        {
            return Progress::More;
        }
        if self.owes_ack(env.now) {
            if *budget == 0 || tx.room() == 0 || !self.send_ack(env, tx, data) {
                return Progress::More;
            }
            *budget -= 1;
            if self.next_duplicate() || self.owes_ack(env.now) {
                // Not all options fit into one acknowledgement.
                return Progress::More;
            }
        }
        Progress::Done
    }

    /// Octets the peer's window lets us send beyond `snd_nxt`.
    pub(crate) fn usable_window(&self) -> u32 {
        let edge = self.snd_una.add(self.snd_wnd);
        u32::try_from(edge.diff(self.snd_nxt)).unwrap_or(0)
    }

    /// Sequence number of a segment without text: `SND.NXT`. Where the peer has drawn its window in that lies outside, and
    /// counts for nothing there (RFC 9293 §3.10.7.4, first step): then the edge that it has now. What the scale rounds off
    /// draws nothing in (RFC 7323 §2.4).
    pub(crate) fn bare_seq(&self) -> SeqNum {
        let edge = self.snd_una.add(self.snd_wnd);
        let drawn_in = self.snd_nxt.diff(edge) >= 1 << self.snd_wscale;
        if self.subflow.is_none() && drawn_in { edge } else { self.snd_nxt }
    }

    /// The window is shut, or cuts what waits into slivers: less than a segment and less than half
    /// of what it ever was (RFC 9293 §3.8.6.2.1).
    pub(super) fn window_blocks(&self) -> bool {
        self.window_starves(self.unsent_len)
    }

    /// The same for `waiting` octets, of the stream if this is a subflow.
    pub(super) fn window_starves(&self, waiting: u32) -> bool {
        let usable = self.usable_window();
        let enough = waiting.min(self.payload_mss()).min(self.max_snd_wnd / 2);
        usable == 0 || usable < enough
    }

    /// A subflow's own window may leave room for `waiting` octets of the stream, or not. With
    /// nothing in flight only a probe can change that (RFC 9293 §3.8.6.1).
    pub(crate) fn note_window(&mut self, now: Instant, waiting: u32) -> bool {
        let overridden = self.usable_window() > 0 && self.flags.contains(TcbFlags::OVERRIDE);
        let starved = waiting > 0 && self.window_starves(waiting) && !overridden;
        let probing = starved && self.queue.is_empty();
        if let Some(subflow) = &mut self.subflow
            && subflow.starved != probing
        {
            subflow.starved = probing;
            self.rto_base = now;
            self.arm_rtx(now);
        }
        starved
    }

    /// True when a subflow may take new data as soon as its pace allows.
    pub(crate) fn can_send(&self) -> bool {
        self.may_send()
            && !self.flags.contains(TcbFlags::SILENT)
            && self.queue.lost_bytes() == 0
            && self.usable_window() > 0
            && self.pipe() < self.cwnd()
    }

    /// Behind fewer octets than these both windows have room for a segment of `mss`, too.
    pub(crate) fn room_before(&self, mss: u32) -> u32 {
        let window = (self.usable_window() + 1).saturating_sub(mss);
        self.window_left().min(window)
    }

    /// Octets that the congestion window has room for.
    fn window_left(&self) -> u32 {
        self.cwnd().saturating_sub(self.pipe())
    }

    /// The next segment may be of another length than the one behind it: what the path takes is looked for, or
    /// the first one carries an infinite mapping.
    pub(crate) fn varies(&self) -> bool {
        let infinite = |subflow: &Subflow| subflow.infinite().is_some();
        self.mtu().is_some() || self.subflow.as_deref().is_some_and(infinite)
    }

    /// The pace does not let anything out now: asks to be woken when it does. With nothing in flight
    /// there is no burst to spread, and a round trip that was once measured across an outage must not
    /// space the samples that would correct it.
    pub(crate) fn held_by_pace(&mut self, now: Instant) -> bool {
        let held = self.pace_holds(now) && self.pipe() > 0;
        if held {
            self.flags.insert(TcbFlags::PACED);
        }
        held
    }

    /// What waited for its release time may go.
    pub(crate) fn is_released(&self, now: Instant) -> bool {
        self.flags.contains(TcbFlags::PACED) && self.release_at().is_none_or(|at| at <= now)
    }

    /// Something beside the path keeps data back, a rate cap: what is delivered says little about it.
    pub(crate) fn note_app_limited(&mut self, now: Instant) {
        // A cap holds on average: a burst that it let through is no proof of anything either.
        let window = self.pipe().max(self.cwnd());
        self.sender(now).delivery.note_app_limited(window);
    }

    /// Stamps `octets` that leave now and charges them to the pace. Who could have sent for a while and
    /// did not was short of data, or its scheduler chose another path.
    fn depart(&mut self, now: Instant, octets: u32) -> Stamp {
        let pipe = self.pipe();
        let fresh = self.queue.is_empty();
        let pause = self.rtt.srtt().unwrap_or_default() / 8;
        let sender = self.sender(now);
        let able_since = sender.pacer.release_at().max(sender.open_since);
        if now.since(able_since) > pause.max(APP_LIMITED_PAUSE) {
            sender.delivery.note_app_limited(pipe);
        }
        sender.pacer.charge(now, octets);
        sender.delivery.stamp(now, fresh, pipe, octets)
    }

    /// The same right behind another segment, whose stamp is `last`.
    fn depart_behind(&mut self, now: Instant, octets: u32, last: Stamp) -> Stamp {
        if let Some(sender) = &mut self.sender
            && sender.pacer.release_at() + APP_LIMITED_PAUSE >= now
        {
            sender.pacer.charge_behind(octets);
            return last.behind(octets);
        }
        self.depart(now, octets)
    }

    /// The first window is not paced, and the rate follows what is known of the path.
    pub(super) fn update_pace(&mut self, env: &Env<'_>) {
        let first = u64::from(super::congestion::initial_window(self.payload_mss()));
        let flight_size = self.flight_size();
        let Some(sender) = &mut self.sender else { return };
        let wanted = env.config.pacing || sender.congestion.governs();
        let rate = match self.rtt.srtt() {
            Some(srtt) if wanted && self.counters.bytes_sent >= first => {
                sender.congestion.pacing_rate(srtt, flight_size)
            }
            _ => None,
        };
        sender.pacer.set_rate(rate);
    }

    /// Notes that data was there but the congestion window was not.
    pub(crate) fn note_cwnd_limited(&mut self) {
        if self.pipe() + self.payload_mss() > self.cwnd() {
            self.flags.insert(TcbFlags::CWND_LIMITED);
        }
    }

    fn send_syn<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let passive = self.state == State::SynReceived;
        let flags = if passive { TcpFlags::SYN | TcpFlags::ACK } else { TcpFlags::SYN };
        let fast_opened = self.is_fast_opened();
        let carry = if fast_opened {
            Carry::SynAck { denies: self.pending().is_some_and(|pending| pending.denies) }
        } else if passive || self.flags.contains(TcbFlags::PLAIN_SYN) {
            Carry::Nothing
        } else {
            Carry::Syn
        };
        if self.rtt.retries > 0 {
            // What answers to nothing may be what minds data, or the option (RFC 7413 §4.2.2).
            self.withdraw_early();
            // What answers to nothing may be what asks for ECN (RFC 3168 §6.1.1.1).
            self.flags.remove(TcbFlags::ECN);
        }
        let payload = if passive { None } else { self.early_payload() };
        let early = payload.as_ref().map_or(0, |data| data.data_len() as u32);
        let payload = payload.map(|data| {
            let sum = packet::sum_for(tx, &data);
            (data, sum)
        });
        let syn = Emission { payload, ..Emission::bare(self.iss, flags, carry) };
        if !self.emit(env, tx, data, syn) {
            return Progress::More;
        }
        *budget -= 1;
        self.flags.remove(TcbFlags::SYN_NOW);
        let early = if self.early_payload().is_some() { early } else { 0 };
        self.note_syn_sent(env.now, early);
        self.snd_nxt = self.snd_nxt.max(self.iss.add(1 + early));
        self.last_sent = env.now;
        self.rto_base = env.now;
        if self.waits_for_demand() {
            self.rtx_at = None;
        } else if !fast_opened || self.rtx_at.is_none() {
            // One that repeats its SYN does not put off the end of a pending connection.
            self.rtx_kind = super::RtxKind::Rto;
            self.rtx_at = Some(env.now + self.rtt.rto());
        }
        if self.rtt.retries > 0 {
            self.rare().retransmitted += 1;
            env.stats.retrans_segs += 1;
        }
        Progress::Done
    }

    /// A segment below the window makes the peer answer with its state (keep-alive and
    /// zero-window probe alike). A box on the way may have acknowledged what the peer lacks, and then
    /// its window begins there. True when it could not be sent.
    fn send_probe<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> bool {
        if *budget == 0 || tx.room() == 0 {
            return true;
        }
        // What is unsure went by the first subflow: a join may be under way, and has sent nothing.
        let first = self.subflow.as_ref().is_some_and(|subflow| subflow.id == 0);
        let known = match data.filter(|_| first).map_or(0, |data| data.unsure) {
            0 => self.snd_una,
            unsure => self.snd_una.min(self.snd_nxt_data().sub(unsure)),
        };
        let emission = Emission::bare(known.sub(1), TcpFlags::ACK, Carry::Probe);
        if !self.emit(env, tx, data, emission) {
            return true;
        }
        *budget -= 1;
        self.flags.remove(TcbFlags::PROBE_NOW);
        false
    }
}
