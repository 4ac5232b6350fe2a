//! What a connection knows of its path as a sender: the congestion control, its pace, delivery rates and RACK's
//! variables. It comes with the first segment that carries something and goes once nothing is in flight and there
//! is nothing in it that a new one would not know: a leg that only receives, or is idle, has none.
//!
//! Invariant: [`Tcb::cwnd`] is what the congestion control answers, or the initial window where there is none.

use super::congestion::{BURST_SEGMENTS, Congestion, CongestionChoice, initial_window};
use super::delivery::Delivery;
use super::output::payload_of;
use super::pacing::Pacer;
use super::recovery::{Rack, Recovery};
use super::{CongestionState, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::config::CongestionAlgorithm;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(super) pacer: Pacer,
    pub(super) delivery: Delivery,
    /// Since when the congestion window has had room.
    pub(super) open_since: Instant,
    pub(super) rack: Rack,
    /// What `SendQueue::lost_total` was when the congestion control was told.
    pub(super) lost_told: u32,
    /// End of the tail loss probe.
    pub(super) tlp_end: SeqNum,
    /// End of the last segment sent smaller than the MSS (Minshall's form of Nagle).
    pub(super) snd_sml: SeqNum,
    pub(super) congestion: Congestion,
    /// With `RECOVERY`.
    recovery: Option<Box<Recovery>>,
}

const _: () = assert!(size_of::<Sender>() <= 200);

impl Sender {
    fn new(congestion: Congestion, una: SeqNum, now: Instant) -> Self {
        Self {
            pacer: Pacer::new(now),
            delivery: Delivery::new(now),
            open_since: now,
            rack: Rack::default(),
            lost_told: 0,
            tlp_end: SeqNum(0),
            snd_sml: una,
            congestion,
            recovery: None,
        }
    }
}

#[cold]
#[inline(never)]
fn begin(congestion: Congestion, una: SeqNum, now: Instant) -> Box<Sender> {
    Box::new(Sender::new(congestion, una, now))
}

impl<B: PacketBuf> Tcb<B> {
    /// Congestion window, octets.
    #[inline]
    pub(crate) fn cwnd(&self) -> u32 {
        self.cwnd
    }

    pub(crate) fn ssthresh(&self) -> u32 {
        self.sender.as_ref().map_or(u32::MAX, |sender| sender.congestion.ssthresh())
    }

    /// Octets that one acknowledgement may be about for all of them to count alike.
    pub(crate) fn stride(&self) -> u32 {
        match &self.sender {
            Some(sender)
                if sender.congestion.governs() || sender.congestion.ssthresh() <= self.cwnd() =>
            {
                u32::MAX
            }
            _ => BURST_SEGMENTS * self.payload_mss(),
        }
    }

    /// Octets per second that the path carries, as far as is known.
    pub(crate) fn bandwidth(&self, srtt: Duration) -> Option<u64> {
        match &self.sender {
            Some(sender) => sender.congestion.bandwidth(srtt),
            None => super::congestion::window_rate(self.cwnd, srtt),
        }
    }

    /// The congestion control, to be read: a new one where there is none.
    pub(crate) fn with_congestion<R>(&self, read: impl FnOnce(&Congestion) -> R) -> R {
        match &self.sender {
            Some(sender) => read(&sender.congestion),
            None => read(&self.fresh_congestion(Instant::MIN)),
        }
    }

    /// The congestion control, to be told something.
    pub(crate) fn tell_congestion(&mut self, now: Instant, tell: impl FnOnce(&mut Congestion)) {
        let sender = self.sender(now);
        tell(&mut sender.congestion);
        self.cwnd = sender.congestion.cwnd();
    }

    pub(crate) fn set_cwnd(&mut self, now: Instant, cwnd: u32) {
        self.tell_congestion(now, |congestion| congestion.set_cwnd(cwnd));
    }

    /// What a full segment carries changed.
    pub(crate) fn refresh_mss(&mut self) {
        let payload = self.payload_mss();
        self.cwnd = match &mut self.sender {
            Some(sender) => {
                sender.congestion.set_mss(payload);
                sender.congestion.cwnd()
            }
            None => initial_window(payload),
        };
    }

    /// End of what was in flight when the window was last reduced (see [`Rack`]).
    pub(super) fn reduced(&self) -> SeqNum {
        self.sender.as_ref().map_or(self.snd_una, |sender| sender.rack.reduced)
    }

    /// Coupled congestion control, and what it knows of the others is old.
    pub(crate) fn wants_siblings(&self, now: Instant) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.congestion.wants_siblings(now))
    }

    /// When its pace lets the next burst out, while it sends.
    pub(super) fn release_at(&self) -> Option<Instant> {
        self.sender.as_ref().map(|sender| sender.pacer.release_at())
    }

    /// The pace lets nothing out now.
    #[inline]
    pub(crate) fn pace_holds(&self, now: Instant) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.pacer.holds(now))
    }

    /// The algorithm alone decides the window (see `CongestionControl::governs`).
    pub(super) fn governs(&self) -> bool {
        match &self.sender {
            Some(sender) => sender.congestion.governs(),
            None => self.algorithm == CongestionAlgorithm::Bbr,
        }
    }

    /// Another congestion control from now on. It goes on with the window there is, in slow start, and
    /// a recovery under way is its own.
    pub(crate) fn set_congestion(&mut self, now: Instant, choice: &CongestionChoice) {
        if let CongestionChoice::Algorithm(algorithm) = choice {
            self.algorithm = *algorithm;
            if self.sender.is_none() {
                return;
            }
        }
        let mut next = choice.make(self.payload_mss(), now);
        if self.state.synchronized() {
            let flight = self.flight_size();
            // What a recovery reduces is what is there, not its first window.
            next.set_cwnd(self.cwnd.max(flight));
            match self.congestion_state() {
                CongestionState::Open => {}
                CongestionState::Recovery => next.on_congestion_event(now, flight),
                CongestionState::Loss => next.on_rto(now, flight),
            }
            next.set_cwnd(self.cwnd);
        }
        self.tell_congestion(now, |congestion| *congestion = next);
    }

    /// It keeps nothing beside itself.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        let queues = self.queue.is_there() || self.unsent.is_there() || self.received.is_there();
        let subflow = self.subflow.as_ref().is_none_or(|subflow| subflow.rests());
        !queues && subflow && self.sender.is_none() && self.rare.is_none()
    }

    #[inline]
    pub(super) fn in_recovery(&self) -> bool {
        self.flags.contains(TcbFlags::RECOVERY)
    }

    #[inline]
    pub(super) fn recovery(&self) -> Option<&Recovery> {
        if !self.in_recovery() {
            return None;
        }
        self.sender.as_ref()?.recovery.as_deref()
    }

    #[inline]
    pub(super) fn recovery_mut(&mut self) -> Option<&mut Recovery> {
        if !self.in_recovery() {
            return None;
        }
        self.sender.as_mut()?.recovery.as_deref_mut()
    }

    pub(super) fn begin_recovery(&mut self, now: Instant, recovery: Recovery) {
        self.sender(now).recovery = Some(Box::new(recovery));
        self.flags.insert(TcbFlags::RECOVERY);
    }

    pub(super) fn end_recovery(&mut self) {
        self.flags.remove(TcbFlags::RECOVERY);
        if let Some(sender) = &mut self.sender {
            sender.recovery = None;
        }
    }

    /// What it knows as a sender, from now on if not yet.
    #[inline]
    pub(super) fn sender(&mut self, now: Instant) -> &mut Sender {
        let Self { sender, algorithm, mss, flags, subflow, snd_una, .. } = self;
        sender.get_or_insert_with(|| {
            let payload = payload_of(*mss, *flags, subflow.as_deref());
            begin(Congestion::new(*algorithm, payload, now), *snd_una, now)
        })
    }

    fn fresh_congestion(&self, now: Instant) -> Congestion {
        Congestion::new(self.algorithm, self.payload_mss(), now)
    }

    /// With nothing in flight, forgets what a new sender would find out as fast. The caller knows that it has sent
    /// nothing for a while.
    pub(super) fn rest_sender(&mut self) {
        let Some(sender) = &self.sender else { return };
        let unfinished = TcbFlags::TLP_OUT
            .union(TcbFlags::DSACK_ROUND)
            .union(TcbFlags::PACED)
            .union(TcbFlags::RENO_RECOVER)
            .union(TcbFlags::ECN_REDUCED);
        if !self.queue.is_empty()
            || self.in_recovery()
            || self.flags.intersects(unfinished)
            || !sender.rack.is_unused()
            || !sender.congestion.is_unused(self.payload_mss())
        {
            return;
        }
        self.sender = None;
        self.refresh_mss();
    }
}
