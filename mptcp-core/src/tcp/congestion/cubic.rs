//! CUBIC (RFC 9438): after a reduction the window returns along a cubic curve of the time passed,
//! flat around the size where the loss happened, and never slower than Reno would. Its first slow
//! start is HyStart++.
//!
//! All in bytes, milliseconds and integers. Invariant: an epoch exists only in congestion
//! avoidance, and its clock stands still while the application leaves the window unused (§5.8).

use super::hystart::{CSS_GROWTH_DIVISOR, HyStart, SlowStart};
use super::{AckSample, CongestionControl, Phase, SSTHRESH_INFINITE, Window};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

/// β of §4.6 is 7/10: what a reduction leaves of the bytes in flight.
const BETA: (u32, u32) = (7, 10);
/// (1 + β) / 2 of §4.7.
const FAST_CONVERGENCE: (u32, u32) = (17, 20);
/// α of §4.3 is 3 (1 - β) / (1 + β) = 9/17: Reno's additive increase for this β.
const ALPHA: (u64, u64) = (9, 17);
/// The curve is not followed further than this from its inflexion; no window is that large.
const CURVE_MAX_MS: u64 = 400_000;

/// RFC 9438.
#[derive(Clone, Debug)]
pub struct Cubic {
    window: Window,
    /// Bytes. The window before the last reduction, or less (§4.7); 0: unknown.
    w_max: u32,
    /// Bytes. The window before the last reduction.
    cwnd_prior: u32,
    last_ack: Instant,
    epoch: Option<Epoch>,
    hystart: HyStart,
    /// What the last reduction changed (§4.9); boxed, for a path without loss never needs it.
    prior: Option<Box<Prior>>,
}

/// One stage of congestion avoidance.
#[derive(Clone, Debug)]
struct Epoch {
    /// When it began, later by the time the application was idle.
    start: Instant,
    /// Time from `start` to the inflexion of the curve.
    k_ms: u32,
    /// Bytes: the window Reno would have.
    w_est: u32,
    /// Bytes acknowledged since `w_est` grew.
    w_est_acked: u32,
    /// Growth below one byte, in parts of `cwnd`.
    remainder: u32,
}

#[derive(Clone, Debug)]
struct Prior {
    cwnd: u32,
    ssthresh: u32,
    w_max: u32,
    cwnd_prior: u32,
    epoch: Option<Epoch>,
}

const _: () = assert!(size_of::<Cubic>() <= 96);

impl Cubic {
    /// Starts with the initial window of RFC 6928; `mss` in bytes.
    #[must_use]
    pub fn new(mss: u32, now: Instant) -> Self {
        Self {
            window: Window::new(mss),
            w_max: 0,
            cwnd_prior: 0,
            last_ack: now,
            epoch: None,
            hystart: HyStart::new(),
            prior: None,
        }
    }

    /// Remembers what [`CongestionControl::undo`] restores, and ends the epoch.
    fn save(&mut self) {
        self.prior = Some(Box::new(Prior {
            cwnd: self.window.cwnd,
            ssthresh: self.window.ssthresh,
            w_max: self.w_max,
            cwnd_prior: self.cwnd_prior,
            epoch: self.epoch.take(),
        }));
        self.cwnd_prior = self.window.cwnd;
    }

    /// Returns the bytes left for congestion avoidance. HyStart++ watches the first slow start
    /// only: later ones aim at a known `ssthresh` (RFC 9406 §4.3).
    fn slow_start(&mut self, acked: u32, sample: &AckSample) -> u32 {
        if self.window.ssthresh != SSTHRESH_INFINITE {
            return self.window.slow_start(acked, sample.acknowledgements);
        }
        match self.hystart.on_ack(sample) {
            SlowStart::Standard => self.window.slow_start(acked, sample.acknowledgements),
            SlowStart::Conservative => {
                let segments = super::BURST_SEGMENTS.saturating_mul(sample.acknowledgements);
                let limited = acked.min(self.window.mss.saturating_mul(segments));
                self.window.slow_start(limited / CSS_GROWTH_DIVISOR, sample.acknowledgements)
            }
            SlowStart::Exit => {
                self.window.ssthresh = self.window.cwnd;
                acked
            }
        }
    }

    /// §4.2: the curve starts at the window we have and flattens at `w_max`. Without a loss to
    /// aim at (§4.8, §4.10) it starts at its inflexion.
    fn begin_epoch(&mut self, now: Instant) -> Epoch {
        let cwnd = self.window.cwnd;
        if self.w_max <= cwnd {
            self.w_max = cwnd;
        }
        if self.cwnd_prior == 0 {
            self.cwnd_prior = cwnd;
        }
        // K = cbrt((w_max - cwnd) / mss / 0.4) seconds, the cube therefore in ms^3.
        let cube = u64::from(self.w_max - cwnd) * 2_500_000_000 / u64::from(self.window.mss);
        Epoch { start: now, k_ms: cube_root(cube), w_est: cwnd, w_est_acked: 0, remainder: 0 }
    }

    fn avoid_congestion(&mut self, acked: u32, sample: &AckSample) {
        let mut epoch = match self.epoch.take() {
            Some(epoch) => epoch,
            None => self.begin_epoch(sample.now),
        };
        let cwnd = self.window.cwnd;
        self.grow_reno_estimate(&mut epoch, acked);

        let ahead = sample.now.since(epoch.start) + sample.srtt;
        let target = self.curve(&epoch, ahead).clamp(cwnd, cwnd.saturating_add(cwnd / 2));
        let growth = u64::from(target - cwnd) * u64::from(acked) + u64::from(epoch.remainder);
        let whole = u32::try_from(growth / u64::from(cwnd)).unwrap_or(u32::MAX);
        epoch.remainder = u32::try_from(growth % u64::from(cwnd)).unwrap_or(0);
        self.window.grow(whole);

        let behind_reno = epoch.w_est.saturating_sub(self.window.cwnd);
        self.window.grow(behind_reno);
        self.epoch = Some(epoch);
    }

    /// §4.3: one `α` segments per window acknowledged, one whole segment once the estimate passed
    /// the window of the last loss.
    fn grow_reno_estimate(&self, epoch: &mut Epoch, acked: u32) {
        let cwnd = self.window.cwnd;
        let per_segment = if epoch.w_est < self.cwnd_prior {
            u32::try_from(u64::from(cwnd) * ALPHA.1 / ALPHA.0).unwrap_or(u32::MAX)
        } else {
            cwnd
        };
        epoch.w_est_acked = epoch.w_est_acked.saturating_add(acked);
        if epoch.w_est_acked >= per_segment {
            epoch.w_est_acked -= per_segment;
            epoch.w_est = epoch.w_est.saturating_add(self.window.mss);
        }
    }

    /// §4.2: `W_cubic(t) = 0.4 (t - K)^3 + w_max`, in bytes.
    fn curve(&self, epoch: &Epoch, t: Duration) -> u32 {
        let t_ms = u64::try_from(t.as_millis()).unwrap_or(u64::MAX);
        let k_ms = u64::from(epoch.k_ms);
        let distance_ms = t_ms.abs_diff(k_ms).min(CURVE_MAX_MS);
        let milli_segments = distance_ms.pow(3) * 4 / 10_000_000;
        let bytes = milli_segments * u64::from(self.window.mss) / 1_000;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if t_ms < k_ms {
            self.w_max.saturating_sub(bytes)
        } else {
            self.w_max.saturating_add(bytes)
        }
    }

    fn pause_epoch(&mut self, pause: Duration) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start = epoch.start + pause;
        }
    }
}

impl CongestionControl for Cubic {
    fn on_ack(&mut self, sample: &AckSample) {
        self.window.note_ack(sample.acked);
        let since_last_ack = sample.now.since(self.last_ack);
        self.last_ack = sample.now;
        if sample.in_recovery {
            return;
        }
        if !sample.cwnd_limited {
            self.pause_epoch(since_last_ack);
            return;
        }
        let mut acked = sample.acked;
        if self.window.in_slow_start() {
            acked = self.slow_start(acked, sample);
        }
        if acked > 0 {
            self.avoid_congestion(acked, sample);
        }
    }

    fn on_congestion_event(&mut self, _now: Instant, flight_size: u32) {
        self.save();
        let cwnd = self.window.cwnd;
        // §4.7: a flow that lost below its last maximum has company now and leaves it more room.
        self.w_max = if cwnd < self.w_max { scaled(cwnd, FAST_CONVERGENCE) } else { cwnd };
        self.window.reduce(scaled(flight_size, BETA));
    }

    fn on_ecn(&mut self, now: Instant, flight_size: u32) {
        self.on_congestion_event(now, flight_size);
        self.window.phase = Phase::Open;
        self.prior = None;
    }

    fn on_rto(&mut self, _now: Instant, flight_size: u32) {
        if self.window.phase == Phase::TimedOut {
            self.window.cwnd = self.window.mss;
            return;
        }
        self.save();
        self.w_max = 0;
        self.window.time_out(scaled(flight_size, BETA));
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        self.window.exit_recovery();
    }

    fn undo(&mut self, _now: Instant) {
        if let Some(prior) = self.prior.take() {
            self.window.restore(prior.cwnd, prior.ssthresh);
            self.w_max = prior.w_max;
            self.cwnd_prior = prior.cwnd_prior;
            self.epoch = prior.epoch;
        }
    }

    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration) {
        // A window that stays shut has it told of one pause again and again: what is new of it counts.
        let pause = idle.min(now.since(self.last_ack));
        if self.window.restart(idle, rto) {
            self.epoch = None;
        } else {
            self.pause_epoch(pause);
        }
        // The pause is accounted for: the next acknowledgement must not subtract it again.
        self.last_ack = self.last_ack + pause;
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
        "cubic"
    }
}

/// `bytes` times the fraction.
fn scaled(bytes: u32, (numerator, denominator): (u32, u32)) -> u32 {
    let product = u64::from(bytes) * u64::from(numerator) / u64::from(denominator);
    u32::try_from(product).unwrap_or(u32::MAX)
}

/// The largest integer whose cube is at most `n`.
fn cube_root(n: u64) -> u32 {
    // 2^22 cubed exceeds 64 bits.
    (0..22).rev().fold(0, |root, bit| {
        let candidate = root | 1 << bit;
        let fits = u64::from(candidate).checked_pow(3).is_some_and(|cube| cube <= n);
        if fits { candidate } else { root }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_roots_are_exact() {
        for root in [0u64, 1, 2, 9, 10, 1_000, 99_999, 2_642_245] {
            let cube = root.pow(3);
            assert_eq!(u64::from(cube_root(cube)), root);
            assert_eq!(u64::from(cube_root(cube + 1)), if root == 0 { 1 } else { root });
            assert_eq!(u64::from(cube_root(cube.saturating_sub(1))), root.saturating_sub(1));
        }
        assert_eq!(cube_root(u64::MAX), 2_642_245);
    }

    #[test]
    fn early_losses_lower_the_aim() {
        let now = Instant::MIN;
        let mut cubic = Cubic::new(1_000, now);
        cubic.set_cwnd(100_000);
        cubic.on_congestion_event(now, 100_000);
        assert_eq!((cubic.w_max, cubic.cwnd()), (100_000, 70_000));
        // Again, below the last maximum: 70,000 * 0.85.
        cubic.on_congestion_event(now, 70_000);
        assert_eq!((cubic.w_max, cubic.cwnd()), (59_500, 49_000));
        cubic.set_cwnd(90_000);
        cubic.on_congestion_event(now, 90_000);
        assert_eq!(cubic.w_max, 90_000);
    }
}
