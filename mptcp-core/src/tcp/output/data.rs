//! New data and the FIN behind it, with Nagle in Minshall's form and sender-side silly-window
//! avoidance (RFC 9293 §3.7.4, §3.8.6.2.1).

use super::DataLevel;
use super::burst::{Burst, Follower};
use super::emission::{Emission, wire_flags};
use super::packet::{consume, gather, goes_alone, sum_for};
use crate::buf::{PacketBuf, TxQueue};
use crate::driver::Progress;
use crate::mptcp::{Carry, Stage, Subflow};
use crate::tcp::send_queue::{Place, SegmentFlags, TxMapping, TxSegment};
use crate::tcp::{Env, State, Tcb, TcbFlags};
use crate::time::Instant;
use crate::wire::TcpFlags;

/// What a segment carries, as its packet takes it.
struct Text<B> {
    view: B,
    len: usize,
    sum: u16,
}

impl<B: PacketBuf> Text<B> {
    #[inline(always)]
    fn of<T: TxQueue<B>>(tx: &T, buf: &B) -> Self {
        let len = buf.data_len();
        Self { view: buf.slice(0..len), len, sum: sum_for(tx, buf) }
    }
}

impl<B: PacketBuf> Tcb<B> {
    /// Sends one mapped segment of new data on this subflow; false when no buffer could be had. The caller
    /// ends the burst ([`Tcb::end_burst`]).
    #[expect(clippy::too_many_arguments, reason = "the parts of a segment")]
    pub(crate) fn send_mapped<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: &DataLevel,
        payload: B,
        mapping: Option<TxMapping>,
        push: bool,
        burst: &mut Burst,
    ) -> bool {
        if burst.stamp.is_none() {
            self.restart_after_idle(env.now);
        }
        let flags = if push { SegmentFlags::PUSH } else { SegmentFlags::empty() };
        self.send_new(env, tx, Some(data), payload, mapping, flags, burst)
    }

    /// A segment of a plain connection.
    #[cfg(test)]
    pub(super) fn send_plain<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        payload: B,
        push: bool,
        burst: &mut Burst,
    ) -> bool {
        let flags = if push { SegmentFlags::PUSH } else { SegmentFlags::empty() };
        self.send_new(env, tx, None, payload, None, flags, burst)
    }

    /// Sends a segment of new data; false when no buffer could be had.
    #[expect(clippy::too_many_arguments, reason = "the parts of a segment")]
    #[inline(always)]
    fn send_new<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        payload: B,
        mapping: Option<TxMapping>,
        flags: SegmentFlags,
        burst: &mut Burst,
    ) -> bool {
        let text = Text::of(tx, &payload);
        let len = text.len as u32;
        let sent = self.emit_new(env, tx, data, text, mapping.as_ref(), flags, burst);
        if sent {
            self.note_new(env.now, Some(payload), len, mapping, flags, burst);
        }
        sent
    }

    /// Puts a segment of new data into `tx`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a segment")]
    #[inline(always)]
    fn emit_new<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        Text { view, len, sum }: Text<B>,
        mapping: Option<&TxMapping>,
        flags: SegmentFlags,
        burst: &mut Burst,
    ) -> bool {
        let fin = flags.contains(SegmentFlags::FIN);
        let begun = if burst.usual && !fin && !burst.goes_on() {
            self.begin_burst(env, data, mapping, burst)
        } else {
            None
        };
        let emitted = match &mut burst.template {
            Some(template) if !fin => {
                let push = flags.contains(SegmentFlags::PUSH);
                let segment = Follower { seq: self.snd_nxt, push, mapping, sum };
                self.emit_follower(env, tx, template, &segment, Some((view, len)))
            }
            _ => {
                let emission = Emission {
                    seq: self.snd_nxt,
                    flags: wire_flags(flags),
                    payload: Some((view, sum)),
                    carry: mapping.map_or(Carry::Nothing, Carry::Data),
                    fresh: true,
                };
                self.emit(env, tx, data, emission)
            }
        };
        if let Some(begun) = begun {
            self.begun(env, &begun, burst, emitted);
        }
        emitted
    }

    /// A segment of new data with `len` octets of text is on its way.
    #[inline(always)]
    fn note_new(
        &mut self,
        now: Instant,
        payload: Option<B>,
        len: u32,
        mapping: Option<TxMapping>,
        flags: SegmentFlags,
        burst: &mut Burst,
    ) {
        let stamp = if let Some(last) = burst.stamp {
            self.depart_behind(now, len, last)
        } else {
            if self.queue.is_empty() {
                self.rto_base = now;
            }
            self.depart(now, len)
        };
        burst.stamp = Some(stamp);
        let segment = TxSegment {
            seq: self.snd_nxt,
            len,
            flags,
            transmissions: 1,
            sent_at: now,
            stamp,
            payload,
            mapping,
            place: Place::NOWHERE,
        };
        let octets = segment.seq_len();
        self.note_probe(segment.seq, segment.seq.add(len));
        self.flags.remove(TcbFlags::OVERRIDE);
        self.snd_nxt = self.snd_nxt.add(octets);
        // The first bound is less work, and a full segment is not below it.
        if len < u32::from(self.mss) * 7 / 8 && len < self.payload_mss() * 7 / 8 {
            let snd_nxt = self.snd_nxt;
            self.sender(now).snd_sml = snd_nxt;
        }
        self.queue.push(segment);
        self.counters.bytes_sent += u64::from(len);
        self.last_sent = now;
        self.on_recovery_sent(octets, None);
        if flags.contains(SegmentFlags::FIN) {
            self.fin_sent();
        }
    }

    fn fin_sent(&mut self) {
        self.flags.insert(TcbFlags::FIN_SENT);
        self.state = match self.state {
            State::CloseWait => State::LastAck,
            State::Established => State::FinWait1,
            other => other,
        };
    }

    /// New data of a plain connection.
    pub(super) fn send_unsent<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.unsent.is_empty() || !self.may_send() {
            return Progress::Done;
        }
        self.restart_after_idle(env.now);
        let (mss, start, left) = (self.payload_mss(), self.snd_nxt, self.window_left());
        let mut burst = Burst::new(true);
        loop {
            let full = self.snd_nxt.since(start) >= left;
            let len = self.next_chunk(env.now, mss, full);
            if len == 0 {
                return Progress::Done;
            }
            if *budget == 0 || tx.room() == 0 || !self.send_chunk(env, tx, data, len, &mut burst) {
                return Progress::More;
            }
            *budget -= 1;
        }
    }

    /// Octets of the next new segment, which has `mss` at most; 0 when it must wait, as for a `full` congestion
    /// window.
    fn next_chunk(&mut self, now: Instant, mss: u32, full: bool) -> u32 {
        let len = mss.min(self.unsent_len).min(self.usable_window());
        if len == 0 {
            return 0;
        }
        if full {
            self.flags.insert(TcbFlags::CWND_LIMITED);
            return 0;
        }
        if self.held_by_pace(now) {
            return 0;
        }
        if let Some(probe) = self.probe_payload(now, self.unsent_len) {
            return probe;
        }
        if len == mss {
            return len;
        }
        if len < self.unsent_len {
            // The window cuts it: wait for more of it rather than send slivers.
            let sliver = self.window_blocks() && !self.flags.contains(TcbFlags::OVERRIDE);
            return if sliver { 0 } else { len };
        }
        let small_outstanding = self.snd_nxt != self.snd_una
            && self.sender.as_ref().is_some_and(|s| s.snd_sml.gt(self.snd_una));
        let delay = small_outstanding
            && !self.flags.intersects(TcbFlags::NO_DELAY.union(TcbFlags::FIN_QUEUED));
        if delay { 0 } else { len }
    }

    /// Sends the next `len` octets of what is unsent, less when a buffer nearly of that size is
    /// next and can be sent without copying, unless the size is what matters.
    pub(super) fn send_chunk<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        len: u32,
        burst: &mut Burst,
    ) -> bool {
        let front = self.unsent.front().map_or(0, |b| b.data_len() as u32);
        let near = front < len
            && len <= self.payload_mss()
            && goes_alone(front, len, || self.unsent.get(1).map_or(0, |b| b.data_len() as u32));
        let len = if near { front } else { len };
        // One that goes as it came stays where it is until it has gone.
        let whole = self.unsent.front().filter(|_| len == front).map(|buf| Text::of(tx, buf));
        let cut =
            if whole.is_some() { None } else { gather(self.unsent.iter(), 0, len as usize, tx) };
        let Some(text) = whole.or_else(|| cut.as_ref().map(|buf| Text::of(tx, buf))) else {
            env.stats.tx_no_buffer += 1;
            return false;
        };
        let len = text.len as u32;
        let mut flags = SegmentFlags::empty();
        if len == self.unsent_len {
            flags.insert(SegmentFlags::PUSH);
            // It needs room in the window as well.
            let fits = len < self.usable_window();
            if fits && self.flags.contains(TcbFlags::FIN_QUEUED) && self.state.sending() {
                flags.insert(SegmentFlags::FIN);
            }
        }
        if !self.emit_new(env, tx, data, text, None, flags, burst) {
            return false;
        }
        if cut.is_some() {
            consume(&mut self.unsent, len as usize);
        }
        let payload = cut.or_else(|| self.unsent.pop_front());
        self.note_new(env.now, payload, len, None, flags, burst);
        self.unsent_len -= len;
        true
    }

    /// Our FIN takes a sequence number, so it needs room in the window. On a subflow the window is the data level's,
    /// which the FIN is no part of, until the stream falls back to TCP.
    pub(in crate::tcp) fn fin_fits(&self) -> bool {
        let mapped = |subflow: &Subflow| subflow.stage != Stage::Fallback;
        self.usable_window() > 0 || self.subflow.as_deref().is_some_and(mapped)
    }

    pub(super) fn send_fin<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if !self.fin_due() || !self.fin_fits() {
            return Progress::Done;
        }
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let flags = TcpFlags::FIN | TcpFlags::ACK;
        let ssn = self.snd_nxt.since(self.iss);
        let mapping = self.subflow.as_ref().and_then(|subflow| subflow.infinite_at(ssn));
        let carry = mapping.as_ref().map_or(Carry::Ack, Carry::End);
        let emission = Emission::bare(self.snd_nxt, flags, carry);
        if !self.emit(env, tx, data, emission) {
            return Progress::More;
        }
        *budget -= 1;
        if self.queue.is_empty() {
            self.rto_base = env.now;
        }
        let pipe = self.pipe();
        let fresh = self.queue.is_empty();
        let stamp = self.sender(env.now).delivery.stamp(env.now, fresh, pipe, 1);
        self.queue.push(TxSegment {
            seq: self.snd_nxt,
            len: 0,
            flags: SegmentFlags::FIN,
            transmissions: 1,
            sent_at: env.now,
            stamp,
            payload: None,
            mapping,
            place: Place::NOWHERE,
        });
        self.snd_nxt = self.snd_nxt.add(1);
        self.last_sent = env.now;
        self.on_recovery_sent(1, None);
        self.fin_sent();
        Progress::Done
    }

    /// RFC 5681 §4.1
    fn restart_after_idle(&mut self, now: Instant) {
        if self.queue.is_empty() {
            let idle = now.since(self.last_sent);
            let rto = self.rtt.rto();
            if idle > rto && self.sender.is_some() {
                self.tell_congestion(now, |congestion| congestion.on_idle(now, idle, rto));
            }
        }
    }
}
