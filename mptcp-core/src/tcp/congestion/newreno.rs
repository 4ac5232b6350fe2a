//! `NewReno`: half the window on loss, one segment more per round trip otherwise (RFC 5681, 6582).
//! Partial acknowledgements are the sender's business; counts bytes (RFC 3465).

use super::{AckSample, CongestionControl, Phase, Window};
use crate::time::{Duration, Instant};

/// RFC 5681 and 6582.
#[derive(Clone, Debug)]
pub struct NewReno {
    window: Window,
    /// Bytes acknowledged since congestion avoidance last grew the window.
    bytes_acked: u32,
    /// `cwnd` and `ssthresh` before the last reduction.
    prior: Option<(u32, u32)>,
}

const _: () = assert!(size_of::<NewReno>() <= 96);

impl NewReno {
    /// Starts with the initial window of RFC 6928; `mss` in bytes.
    #[must_use]
    pub fn new(mss: u32) -> Self {
        Self { window: Window::new(mss), bytes_acked: 0, prior: None }
    }

    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    /// Slow start by what an acknowledgement delivered: the octets left for congestion avoidance, none
    /// where the window is not to grow.
    pub(super) fn slow_start(&mut self, sample: &AckSample) -> Option<u32> {
        self.window.note_ack(sample.acked);
        if sample.in_recovery || !sample.cwnd_limited {
            return None;
        }
        let slow = self.window.in_slow_start();
        Some(if slow {
            self.window.slow_start(sample.acked, sample.acknowledgements)
        } else {
            sample.acked
        })
    }

    /// A loss, or a mark, leaves `target` octets; nothing takes back what a mark did.
    pub(super) fn reduce(&mut self, target: u32, mark: bool) {
        self.save();
        self.window.reduce(target);
        if mark {
            self.window.phase = Phase::Open;
            self.prior = None;
        }
    }

    /// Congestion avoidance goes on with fewer octets: a slow start would bring them back at once.
    pub(super) fn shrink(&mut self, cwnd: u32) {
        self.window.set_cwnd(cwnd);
        self.window.ssthresh = self.window.ssthresh.min(self.window.cwnd);
    }

    /// A reduction could still be undone.
    pub(super) const fn can_undo(&self) -> bool {
        self.prior.is_some()
    }

    /// The timer expired and nothing was acknowledged since.
    pub(super) fn is_timed_out(&self) -> bool {
        self.window.phase == Phase::TimedOut
    }

    fn save(&mut self) {
        self.prior = Some((self.window.cwnd, self.window.ssthresh));
        self.bytes_acked = 0;
    }
}

impl CongestionControl for NewReno {
    fn on_ack(&mut self, sample: &AckSample) {
        let Some(acked) = self.slow_start(sample) else { return };
        self.bytes_acked = self.bytes_acked.saturating_add(acked);
        if self.bytes_acked >= self.window.cwnd {
            self.bytes_acked -= self.window.cwnd;
            self.window.grow(self.window.mss);
        }
    }

    fn on_congestion_event(&mut self, _now: Instant, flight_size: u32) {
        self.reduce(flight_size / 2, false);
    }

    fn on_ecn(&mut self, _now: Instant, flight_size: u32) {
        self.reduce(flight_size / 2, true);
    }

    fn on_rto(&mut self, _now: Instant, flight_size: u32) {
        if self.is_timed_out() {
            self.window.cwnd = self.window.mss;
        } else {
            self.save();
            self.window.time_out(flight_size / 2);
        }
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        self.window.exit_recovery();
    }

    fn undo(&mut self, _now: Instant) {
        if let Some((cwnd, ssthresh)) = self.prior.take() {
            self.window.restore(cwnd, ssthresh);
        }
    }

    fn on_idle(&mut self, _now: Instant, idle: Duration, rto: Duration) {
        if self.window.restart(idle, rto) {
            self.bytes_acked = 0;
        }
    }

    fn cwnd(&self) -> u32 {
        self.window.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.window.ssthresh
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.window.set_cwnd(cwnd);
    }

    fn set_mss(&mut self, mss: u32) {
        self.window.set_mss(mss);
    }

    fn name(&self) -> &'static str {
        "newreno"
    }
}
