//! Every segment after the SYN: acknowledgement, window, text, timestamps and SACK, judged as TCP
//! (RFC 9293 §3.4 and §3.8, RFC 7323, RFC 2018, RFC 2883).

use super::super::options::{Seen, widen};
use super::super::violation::{Faults, Rule};
use super::{Context, Flow, MAX_STRANGE_ACKS, MAX_TSVALS, Role};
use crate::packet::{TcpSegment, flag};

impl Flow {
    pub(super) fn sent_segment(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        ipv6: bool,
        context: &mut Context<'_>,
    ) {
        if self.dead {
            context.faults.add(Rule::ResetIsLast, "the connection was reset before".to_owned());
            return;
        }
        let (Some(iss), Some(irs)) = (self.iss, self.irs) else { return };
        if !segment.has(flag::ACK) {
            context.faults.add(Rule::AckPresent, "the ACK flag is missing".to_owned());
            return;
        }
        self.check_syn_only(seen, context.faults);
        self.check_timestamps(seen, None, context.faults);
        let ack = self.check_ack(segment, irs, context.faults);
        self.check_sack(seen, irs, ack, context.faults);
        let Some(start) = widen(segment.seq.wrapping_sub(iss), self.snd_max) else {
            context.faults.add(Rule::NoGap, "the sequence number lies before the SYN".to_owned());
            return;
        };
        self.check_text(start, segment, ipv6, context.faults);
        context.payload_bytes += segment.payload.len() as u64;
        let window = self.scale(segment.window, self.own.window_scale);
        let widest = segment.window == u16::MAX;
        self.sent_mptcp(start, segment.payload, seen, (window, widest), context);
        self.check_window(ack, window, context.faults);
    }

    fn check_syn_only(&self, seen: &Seen<'_>, faults: &mut Faults) {
        let syn_only = seen.mss.is_some() || seen.window_scale.is_some() || seen.sack_permitted;
        faults.require(!syn_only && seen.join.is_none(), Rule::OptionAgreed, || {
            "an option that belongs on a SYN".to_owned()
        });
        faults.require(self.role != Role::Plain || !seen.mptcp, Rule::OptionAgreed, || {
            "an MPTCP option on a connection that is plain TCP".to_owned()
        });
    }

    fn check_ack(&mut self, segment: &TcpSegment<'_>, irs: u32, faults: &mut Faults) -> u64 {
        let Some(ack) = widen(segment.ack.wrapping_sub(irs), self.last_ack) else {
            faults.add(Rule::AckAdvances, "the acknowledgement lies before the SYN".to_owned());
            return self.last_ack;
        };
        faults.require(ack >= self.last_ack, Rule::AckAdvances, || {
            format!("acknowledged {ack} after {}", self.last_ack)
        });
        let arrived = self.arrived.prefix();
        faults.require(ack <= arrived, Rule::AckAdvances, || {
            format!("acknowledged {ack}, the first octet that did not arrive is {arrived}")
        });
        self.last_ack = self.last_ack.max(ack);
        ack
    }

    /// The window of plain TCP. On MPTCP subflows it counts from DATA_ACK and is judged there.
    fn check_window(&mut self, ack: u64, window: u64, faults: &mut Faults) {
        if self.role != Role::Plain || self.peer_fin.is_some_and(|fin| ack > fin) {
            return;
        }
        let edge = ack + window;
        let scale = self.own.window_scale.filter(|_| self.peer.window_scale.is_some());
        // A window announced on a SYN had the exact value, which a scaled one can only round down.
        let grain =
            if self.edge_unscaled { scale.map_or(0, |shift| (1 << shift.min(14)) - 1) } else { 0 };
        let last = self.last_edge.unwrap_or(0);
        faults.require(edge + grain >= last, Rule::WindowKept, || {
            format!("right edge went back from {last} to {edge}")
        });
        if edge >= last {
            self.edge_unscaled = false;
        }
        self.last_edge = Some(last.max(edge));
    }

    /// `seen` must carry timestamps exactly when agreed; on a SYN/ACK, `echoes` are the values it
    /// may echo.
    pub(super) fn check_timestamps(
        &mut self,
        seen: &Seen<'_>,
        echoes: Option<&[u32]>,
        faults: &mut Faults,
    ) {
        let syn = self.irs.is_none() || echoes.is_some();
        if !syn {
            let agreed = self.own.timestamps && self.peer.timestamps;
            faults.require(agreed == seen.timestamps.is_some(), Rule::OptionAgreed, || {
                format!("timestamps agreed: {agreed}, sent: {}", !agreed)
            });
        }
        let Some((tsval, tsecr)) = seen.timestamps else { return };
        if let Some(before) = self.tsval_sent {
            let back = before.wrapping_sub(tsval).cast_signed() > 0;
            faults.require(!back, Rule::TimestampAdvances, || {
                format!("TSval {tsval} after {before}")
            });
        }
        self.tsval_sent = Some(tsval);
        if let Some(echoes) = echoes {
            faults.require(echoes.contains(&tsecr), Rule::TimestampAdvances, || {
                format!("TSecr {tsecr} echoes no SYN that arrived")
            });
        } else if let Some(newest) = self.tsval_seen.filter(|_| !syn) {
            let mut known = self.tsvals.iter().rev();
            let arrived = known.any(|tsval| *tsval == tsecr) || self.is_forgotten(tsecr);
            faults.require(arrived, Rule::TimestampAdvances, || {
                format!("TSecr {tsecr} did not arrive, the newest TSval that did is {newest}")
            });
        }
    }

    fn check_sack(&self, seen: &Seen<'_>, irs: u32, ack: u64, faults: &mut Faults) {
        let Some(blocks) = seen.sack else { return };
        faults.require(self.peer.sack_permitted, Rule::OptionAgreed, || {
            "SACK blocks without the peer's SACK permitted".to_owned()
        });
        for (index, block) in blocks.as_chunks::<8>().0.iter().enumerate() {
            let [a, b, c, d, e, f, g, h] = *block;
            let edge = |bytes| widen(u32::from_be_bytes(bytes).wrapping_sub(irs), self.reached);
            let (left, right) = (edge([a, b, c, d]), edge([e, f, g, h]));
            let (Some(left), Some(right)) = (left, right) else {
                faults.add(Rule::SackTruthful, format!("SACK block {index} lies before the SYN"));
                continue;
            };
            // Only the first block may report a duplicate at or below the acknowledgement.
            let placed = index == 0 || left > ack;
            let truthful = left < right && self.arrived.contains(left, right) && placed;
            faults.require(truthful, Rule::SackTruthful, || {
                let arrived = self.arrived.within(left, right);
                format!("SACK block {index} is {left}..{right} with ack {ack}; {arrived:?} arrived")
            });
        }
    }

    fn check_text(
        &mut self,
        start: u64,
        segment: &TcpSegment<'_>,
        ipv6: bool,
        faults: &mut Faults,
    ) {
        let len = segment.payload.len() as u64;
        let end = start + len;
        // Empty segments carry the next number, and keep-alives the one before the last. Somebody else
        // may have acknowledged what the peer lacks: on the only subflow probes are below what the host
        // knows from DATA_ACKs, and which of those that arrived it took only the host knows.
        let asks = matches!(self.role, Role::Initial(Some(_)));
        let low = if len == 0 && !asks { self.acked.saturating_sub(1) } else { 0 };
        let placed = start >= low && start <= self.snd_max;
        faults.require(placed, Rule::NoGap, || {
            format!("starts at {start}; {} is acknowledged, {} sent", self.acked, self.snd_max)
        });
        let fin = segment.has(flag::FIN);
        let empty = len == 0 && !fin;
        let last = self.fin.is_none_or(|held| empty || (end <= held && (!fin || end == held)));
        faults.require(last, Rule::FinLast, || {
            format!("ends at {end} (FIN: {fin}), the FIN was at {:?}", self.fin)
        });
        if fin && self.fin.is_none() {
            faults.require(end >= self.snd_max, Rule::FinLast, || {
                format!("FIN at {end}, data was sent up to {}", self.snd_max)
            });
            self.fin = Some(end);
        }
        if len > 0 {
            self.compare(start, segment.payload, faults);
            let probe = len == 1 && start == self.edge;
            faults.require(end <= self.edge || probe, Rule::WithinWindow, || {
                format!("data up to {end}, the peer's right edge is {}", self.edge)
            });
            let mss = self.peer.mss.unwrap_or(if ipv6 { 1_220 } else { 536 });
            let long = segment.payload.len() + segment.options.len();
            faults.require(long <= usize::from(mss), Rule::WithinMss, || {
                format!("{long} bytes of options and data, the peer's MSS is {mss}")
            });
        }
        self.snd_max = self.snd_max.max(end + u64::from(fin));
    }

    /// Compares data with what was sent before. The octet of a keep-alive probe lies below what
    /// is acknowledged, where nothing is remembered.
    pub(super) fn compare(&mut self, start: u64, payload: &[u8], faults: &mut Faults) {
        if let Some(differs) = self.stream.put(start, payload) {
            faults.add(
                Rule::SameBytes,
                format!("position {differs} was sent before with another value"),
            );
        }
    }

    /// A reset in a synchronised state is where the connection stands, or, from a host that knows
    /// nothing of it, where an arriving segment said it stands.
    pub(super) fn sent_reset(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        context: &mut Context<'_>,
    ) {
        let (Some(iss), Some(irs)) = (self.iss, self.irs) else { return };
        let position = widen(segment.seq.wrapping_sub(iss), self.snd_max);
        let placed = position.is_some_and(|at| at <= self.snd_max)
            || self.strange_acks.contains(&segment.seq)
            || (segment.seq == 0 && segment.has(flag::ACK));
        context.faults.require(placed, Rule::ResetIsLast, || {
            format!("the RST is at {position:?}, {} was sent", self.snd_max)
        });
        if segment.has(flag::ACK) {
            let ack = widen(segment.ack.wrapping_sub(irs), self.reached);
            // A reset that answers a segment acknowledges that one, whatever is missing before it.
            context.faults.require(
                ack.is_some_and(|ack| ack <= self.reached),
                Rule::ResetIsLast,
                || format!("the RST acknowledges {ack:?}, only {} had arrived", self.reached),
            );
        }
        self.check_fastclose(seen, context);
        self.dead |= self.confirmed;
    }

    pub(super) fn delivered_segment(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        context: &mut Context<'_>,
    ) {
        let (Some(iss), Some(irs)) = (self.iss, self.irs) else { return };
        if let Some(start) = widen(segment.seq.wrapping_sub(irs), self.reached) {
            let end = start + segment.payload.len() as u64;
            if segment.has(flag::FIN) {
                self.peer_fin = Some(end);
            }
            let end = end + u64::from(segment.has(flag::FIN));
            self.reached = self.reached.max(end);
            self.arrived.insert(start, end);
        }
        if let Some((tsval, _)) = seen.timestamps {
            self.note_tsval(tsval);
        }
        let window = self.scale(segment.window, self.peer.window_scale);
        let ack = widen(segment.ack.wrapping_sub(iss), self.acked);
        if let Some(ack) = ack.filter(|&ack| segment.has(flag::ACK) && ack <= self.snd_max) {
            self.confirmed |= ack > 0;
            self.acked = self.acked.max(ack);
            self.edge = self.edge.max(ack + window);
            self.stream.forget_below(self.acked);
            self.maps.forget_below(self.acked);
        } else if segment.has(flag::ACK) {
            if self.strange_acks.len() == MAX_STRANGE_ACKS {
                self.strange_acks.pop_front();
            }
            self.strange_acks.push_back(segment.ack);
        }
        self.delivered_mptcp(segment, seen, window, context);
    }

    /// A window in octets; scaled when both SYNs had the option (RFC 7323 §2.2).
    pub(super) fn scale(&self, window: u16, shift: Option<u8>) -> u64 {
        let agreed = self.own.window_scale.is_some() && self.peer.window_scale.is_some();
        u64::from(window) << shift.filter(|_| agreed).unwrap_or(0).min(14)
    }

    /// This TSval may have arrived so long ago that nobody knows.
    fn is_forgotten(&self, tsval: u32) -> bool {
        self.tsvals_forgotten.is_some_and(|newest| tsval.wrapping_sub(newest).cast_signed() <= 0)
    }

    pub(super) fn note_tsval(&mut self, tsval: u32) {
        if self.tsvals.back() != Some(&tsval) {
            if self.tsvals.len() == MAX_TSVALS
                && let Some(oldest) = self.tsvals.pop_front()
                && !self.is_forgotten(oldest)
            {
                self.tsvals_forgotten = Some(oldest);
            }
            self.tsvals.push_back(tsval);
        }
        match self.tsval_seen {
            Some(newest) if newest.wrapping_sub(tsval).cast_signed() > 0 => {}
            _ => self.tsval_seen = Some(tsval),
        }
    }
}
