//! Congestion control of one connection or subflow: how many bytes may be in flight.
//!
//! Windows are bytes. The sender owns loss detection and proportional rate reduction; an algorithm
//! only learns what happened and answers with `cwnd` and `ssthresh`. Invariant: `cwnd` is at least one
//! segment. RFC 5681, RFC 6928 (initial window), RFC 7661 (after idle).

mod bbr;
mod choice;
mod coupled;
mod cubic;
mod hystart;
mod newreno;

pub use super::delivery::RateSample;
pub use bbr::Bbr;
pub use choice::{CongestionChoice, CongestionFactory};
pub use coupled::{Coupled, Coupling, Member, Siblings};
pub use cubic::Cubic;
pub use newreno::NewReno;

use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use core::fmt::Debug;

/// `ssthresh` before the first congestion event.
pub const SSTHRESH_INFINITE: u32 = u32::MAX;

/// Windows never grow beyond the largest receive window TCP can express (RFC 7323 §2.2).
const CWND_MAX: u32 = 1 << 30;

/// The `L` of RFC 9406 §4.2 for senders that do not pace: how many segments one acknowledgement of many segments
/// grows the window in slow start.
pub(crate) const BURST_SEGMENTS: u32 = 8;

/// What one acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub struct AckSample {
    /// When it arrived.
    pub now: Instant,
    /// Bytes newly delivered, cumulatively or selectively acknowledged.
    pub acked: u32,
    /// Acknowledgements that say this together: those that come at one time may be taken as one.
    pub acknowledgements: u32,
    /// The round-trip time it measured.
    pub rtt: Option<Duration>,
    /// Smoothed round-trip time; zero while unknown.
    pub srtt: Duration,
    /// Bytes outstanding before it arrived.
    pub flight_size: u32,
    /// The window, not the application or the peer's window, limited the sender.
    pub cwnd_limited: bool,
    /// Fast recovery is on, or it carries an ECN echo: the window does not grow.
    pub in_recovery: bool,
    /// Octets in flight after it.
    pub pipe: u32,
    /// Octets found lost since the last one.
    pub lost: u32,
    /// Running count of delivered octets; wraps.
    pub delivered: u32,
    /// The delivery rate it measured.
    pub rate: Option<RateSample>,
}

/// One congestion control algorithm, its state included.
pub trait CongestionControl: Debug + Send {
    /// Data was acknowledged.
    fn on_ack(&mut self, sample: &AckSample);
    /// Loss begins a new recovery, at most once per window of data. Sets `ssthresh`
    /// and lowers `cwnd` to it; `flight_size` is the number of bytes outstanding.
    fn on_congestion_event(&mut self, now: Instant, flight_size: u32);
    /// The peer reports a mark on something in flight (RFC 3168 §6.1.2), at most once per window of
    /// data and never during a recovery: the same reduction, but nothing that [`Self::undo`] could
    /// take back. `flight_size` is the number of bytes outstanding before the report.
    fn on_ecn(&mut self, now: Instant, flight_size: u32) {
        self.on_congestion_event(now, flight_size);
    }
    /// The retransmission timer expired: `cwnd` is one segment. Repeated without an acknowledgement
    /// in between it lowers `ssthresh` only once (RFC 5681 §3.1).
    fn on_rto(&mut self, now: Instant, flight_size: u32);
    /// Fast recovery is over: `cwnd` is `ssthresh`. No effect after a timeout, whose recovery is
    /// slow start, or after [`Self::undo`].
    fn on_recovery_exit(&mut self, now: Instant);
    /// The last reduction was spurious (F-RTO, D-SACK or timestamps say so): restores what it
    /// changed. No effect without one.
    fn undo(&mut self, now: Instant);
    /// About to send again after `idle` without sending. An idle time beyond `rto` shrinks `cwnd`
    /// to the restart window (RFC 5681 §4.1).
    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration);
    /// Bytes that may be in flight.
    fn cwnd(&self) -> u32;
    /// Slow start ends here; [`SSTHRESH_INFINITE`] before the first congestion event.
    fn ssthresh(&self) -> u32;
    /// Overrides the window, for proportional rate reduction; at least one segment.
    fn set_cwnd(&mut self, cwnd: u32);
    /// The MSS of the path changed or became known. A window still at its initial value follows.
    fn set_mss(&mut self, mss: u32);
    /// The algorithm alone decides the window, recoveries included: it is told of every delivery,
    /// and there is no proportional rate reduction.
    fn governs(&self) -> bool {
        false
    }
    /// Octets per second that may leave; `None` while nothing is known. Twice what the window gives
    /// in slow start, a fifth more otherwise, so that the window and not the pace is the limit.
    fn pacing_rate(&self, srtt: Duration, flight_size: u32) -> Option<u64> {
        let slow_start = self.cwnd() < self.ssthresh();
        let rate = window_rate(self.cwnd().max(flight_size), srtt)?;
        Some(if slow_start { rate * 2 } else { rate + rate / 5 })
    }
    /// Octets per second that the path carries, as far as is known.
    fn bandwidth(&self, srtt: Duration) -> Option<u64> {
        window_rate(self.cwnd(), srtt)
    }
    /// What the other subflows of the connection must know of this one; `None`: it is not coupled.
    fn member(&self, _srtt: Duration) -> Option<Member> {
        None
    }
    /// What it knows of the others is old.
    fn wants_siblings(&self, _now: Instant) -> bool {
        false
    }
    /// All subflows of the connection, this one included.
    fn set_siblings(&mut self, _now: Instant, _siblings: Siblings) {}
    /// The name in metrics and logs.
    fn name(&self) -> &'static str;
}

/// The algorithm of one connection, without a heap allocation for the built-in ones.
#[derive(Debug)]
pub enum Congestion {
    /// RFC 5681 and 6582.
    NewReno(NewReno),
    /// RFC 9438.
    Cubic(Cubic),
    /// By a model of the path.
    Bbr(Bbr),
    /// LIA, OLIA or BALIA.
    Coupled(Coupled),
    /// An algorithm of the application's.
    Custom(Box<dyn CongestionControl>),
}

const _: () = assert!(size_of::<Congestion>() <= 96 + 8);

/// Calls the same method on whichever algorithm is inside, statically dispatched where possible.
macro_rules! each {
    ($self:expr, $algorithm:ident => $call:expr) => {
        match $self {
            Self::NewReno($algorithm) => $call,
            Self::Cubic($algorithm) => $call,
            Self::Bbr($algorithm) => $call,
            Self::Coupled($algorithm) => $call,
            Self::Custom($algorithm) => $call,
        }
    };
}

impl Congestion {
    /// See [`CongestionControl::on_ack`].
    pub fn on_ack(&mut self, sample: &AckSample) {
        each!(self, algorithm => algorithm.on_ack(sample));
    }

    /// See [`CongestionControl::on_congestion_event`].
    pub fn on_congestion_event(&mut self, now: Instant, flight_size: u32) {
        each!(self, algorithm => algorithm.on_congestion_event(now, flight_size));
    }

    /// See [`CongestionControl::on_ecn`].
    pub fn on_ecn(&mut self, now: Instant, flight_size: u32) {
        each!(self, algorithm => algorithm.on_ecn(now, flight_size));
    }

    /// See [`CongestionControl::on_rto`].
    pub fn on_rto(&mut self, now: Instant, flight_size: u32) {
        each!(self, algorithm => algorithm.on_rto(now, flight_size));
    }

    /// See [`CongestionControl::on_recovery_exit`].
    pub fn on_recovery_exit(&mut self, now: Instant) {
        each!(self, algorithm => algorithm.on_recovery_exit(now));
    }

    /// See [`CongestionControl::undo`].
    pub fn undo(&mut self, now: Instant) {
        each!(self, algorithm => algorithm.undo(now));
    }

    /// See [`CongestionControl::on_idle`].
    pub fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration) {
        each!(self, algorithm => algorithm.on_idle(now, idle, rto));
    }

    /// See [`CongestionControl::set_cwnd`].
    pub fn set_cwnd(&mut self, cwnd: u32) {
        each!(self, algorithm => algorithm.set_cwnd(cwnd));
    }

    /// See [`CongestionControl::set_mss`].
    pub fn set_mss(&mut self, mss: u32) {
        each!(self, algorithm => algorithm.set_mss(mss));
    }

    /// Nothing is in flight, and a new one for segments of `mss` octets would know as much within a round trip
    /// or two: it is still in its start and has not lost anything.
    pub(super) fn is_unused(&self, mss: u32) -> bool {
        let first = initial_window(mss);
        let begun = match self {
            Self::Bbr(bbr) => bbr.is_beginning(),
            Self::Custom(_) => false,
            Self::NewReno(_) | Self::Cubic(_) | Self::Coupled(_) => true,
        };
        begun
            && self.ssthresh() == SSTHRESH_INFINITE
            && (first..=first.saturating_mul(2)).contains(&self.cwnd())
    }

    /// See [`CongestionControl::governs`].
    #[must_use]
    pub fn governs(&self) -> bool {
        each!(self, algorithm => algorithm.governs())
    }

    /// See [`CongestionControl::pacing_rate`].
    #[must_use]
    pub fn pacing_rate(&self, srtt: Duration, flight_size: u32) -> Option<u64> {
        each!(self, algorithm => algorithm.pacing_rate(srtt, flight_size))
    }

    /// See [`CongestionControl::bandwidth`].
    #[must_use]
    pub fn bandwidth(&self, srtt: Duration) -> Option<u64> {
        each!(self, algorithm => algorithm.bandwidth(srtt))
    }

    /// See [`CongestionControl::member`].
    #[must_use]
    pub fn member(&self, srtt: Duration) -> Option<Member> {
        each!(self, algorithm => algorithm.member(srtt))
    }

    /// See [`CongestionControl::wants_siblings`].
    #[must_use]
    pub fn wants_siblings(&self, now: Instant) -> bool {
        each!(self, algorithm => algorithm.wants_siblings(now))
    }

    /// See [`CongestionControl::set_siblings`].
    pub fn set_siblings(&mut self, now: Instant, siblings: Siblings) {
        each!(self, algorithm => algorithm.set_siblings(now, siblings));
    }

    /// See [`CongestionControl::cwnd`].
    #[must_use]
    pub fn cwnd(&self) -> u32 {
        each!(self, algorithm => algorithm.cwnd())
    }

    /// See [`CongestionControl::ssthresh`].
    #[must_use]
    pub fn ssthresh(&self) -> u32 {
        each!(self, algorithm => algorithm.ssthresh())
    }

    /// See [`CongestionControl::name`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        each!(self, algorithm => algorithm.name())
    }
}

/// RFC 6928 §2: `min(10 * MSS, max(2 * MSS, 14600))` bytes.
#[must_use]
pub fn initial_window(mss: u32) -> u32 {
    mss.saturating_mul(10).min(mss.saturating_mul(2).max(14_600))
}

/// Octets per second that a window gives; `None` without a round trip.
pub(super) fn window_rate(window: u32, srtt: Duration) -> Option<u64> {
    let nanos = u64::try_from(srtt.as_nanos()).unwrap_or(u64::MAX);
    // 2^30 octets times 10^9 fit 64 bits.
    (u64::from(window.min(CWND_MAX)) * 1_000_000_000).checked_div(nanos)
}

/// Where an algorithm stands between two reductions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing lost.
    Open,
    /// Fast recovery.
    Recovery,
    /// The timer expired and nothing was acknowledged since.
    TimedOut,
    /// The timer expired, acknowledgements came since.
    Loss,
}

/// The two windows and what is the same for every loss-based algorithm.
#[derive(Clone, Debug)]
struct Window {
    cwnd: u32,
    ssthresh: u32,
    mss: u32,
    phase: Phase,
}

impl Window {
    fn new(mss: u32) -> Self {
        let mss = mss.max(1);
        Self { cwnd: initial_window(mss), ssthresh: SSTHRESH_INFINITE, mss, phase: Phase::Open }
    }

    fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Grows by the bytes acknowledged, up to `ssthresh` (RFC 5681 §3.1 by bytes, RFC 3465), and by
    /// no more than [`BURST_SEGMENTS`] for each acknowledgement: nothing paces what the growth lets out.
    /// Returns the bytes left for congestion avoidance.
    fn slow_start(&mut self, acked: u32, acknowledgements: u32) -> u32 {
        let segments = BURST_SEGMENTS.saturating_mul(acknowledgements);
        let limited = acked.min(self.mss.saturating_mul(segments));
        let growth = limited.min(self.ssthresh.saturating_sub(self.cwnd));
        self.grow(growth);
        limited.saturating_sub(growth)
    }

    fn grow(&mut self, bytes: u32) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(CWND_MAX);
    }

    /// `ssthresh` becomes `target`, at least two segments and never more than the window was;
    /// `cwnd` follows down.
    fn reduce(&mut self, target: u32) {
        self.ssthresh = target.min(self.cwnd).max(self.mss.saturating_mul(2));
        self.cwnd = self.cwnd.min(self.ssthresh);
        self.phase = Phase::Recovery;
    }

    /// As [`Self::reduce`], with the loss window of one segment.
    fn time_out(&mut self, target: u32) {
        self.ssthresh = target.max(self.mss.saturating_mul(2));
        self.cwnd = self.mss;
        self.phase = Phase::TimedOut;
    }

    fn note_ack(&mut self, acked: u32) {
        if acked > 0 && self.phase == Phase::TimedOut {
            self.phase = Phase::Loss;
        }
    }

    fn exit_recovery(&mut self) {
        if self.phase == Phase::Recovery {
            self.set_cwnd(self.ssthresh);
        }
        self.phase = Phase::Open;
    }

    /// Never shrinks anything: growth since the reduction was earned.
    fn restore(&mut self, cwnd: u32, ssthresh: u32) {
        self.cwnd = self.cwnd.max(cwnd);
        self.ssthresh = self.ssthresh.max(ssthresh);
        self.phase = Phase::Open;
    }

    /// True when the window was shrunk. `ssthresh` remembers three quarters of it, so that slow
    /// start leads back to what the path carried (RFC 7661 §4.4.1 has the same factor).
    fn restart(&mut self, idle: Duration, rto: Duration) -> bool {
        let restart_window = initial_window(self.mss);
        if idle <= rto || self.cwnd <= restart_window {
            return false;
        }
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        self.cwnd = restart_window;
        true
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.cwnd = cwnd.clamp(self.mss, CWND_MAX);
    }

    fn set_mss(&mut self, mss: u32) {
        let untouched = self.ssthresh == SSTHRESH_INFINITE && self.cwnd == initial_window(self.mss);
        self.mss = mss.max(1);
        if untouched {
            self.cwnd = initial_window(self.mss);
        }
        self.cwnd = self.cwnd.max(self.mss);
    }
}

#[cfg(test)]
mod tests;
