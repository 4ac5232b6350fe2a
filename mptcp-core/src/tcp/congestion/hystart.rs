//! HyStart++ (RFC 9406): ends the first slow start when the round-trip time begins to rise, before
//! the queue overflows and a window's worth of segments is lost at once.
//!
//! Rounds are counted in delivered bytes. Invariant: the verdict is `Exit` at most once.

use super::AckSample;

/// RFC 9406 §4.3.
const RTT_SAMPLES_MIN: u8 = 8;
const RTT_THRESHOLD_MIN_US: u32 = 4_000;
const RTT_THRESHOLD_MAX_US: u32 = 16_000;
const RTT_DIVISOR: u32 = 8;
const CSS_ROUNDS: u8 = 5;
/// Conservative slow start grows by this part of what standard slow start would.
pub(super) const CSS_GROWTH_DIVISOR: u32 = 4;

const UNKNOWN: u32 = u32::MAX;

/// How slow start goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlowStart {
    /// As ever.
    Standard,
    /// A quarter as fast, until it is clear whether the rise was a queue.
    Conservative,
    /// It was: congestion avoidance begins here.
    Exit,
}

/// State of the first slow start of one connection.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// Bytes to be delivered until the round ends; 0 before the first.
    round_left: u32,
    last_round_min_us: u32,
    round_min_us: u32,
    /// The minimum that conservative slow start began with; `UNKNOWN` outside of it.
    baseline_us: u32,
    samples: u8,
    css_rounds: u8,
}

impl HyStart {
    pub(super) const fn new() -> Self {
        Self {
            round_left: 0,
            last_round_min_us: UNKNOWN,
            round_min_us: UNKNOWN,
            baseline_us: UNKNOWN,
            samples: 0,
            css_rounds: 0,
        }
    }

    pub(super) fn on_ack(&mut self, sample: &AckSample) -> SlowStart {
        if self.round_left == 0 {
            self.round_left = sample.flight_size;
        }
        if let Some(rtt) = sample.rtt {
            let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(UNKNOWN);
            self.round_min_us = self.round_min_us.min(rtt_us);
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples >= RTT_SAMPLES_MIN {
            self.judge();
        }
        let conservative = self.baseline_us != UNKNOWN;
        self.round_left = self.round_left.saturating_sub(sample.acked);
        if self.round_left == 0 {
            self.end_round(sample.flight_size.saturating_sub(sample.acked));
        }
        if self.css_rounds >= CSS_ROUNDS {
            SlowStart::Exit
        } else if conservative {
            SlowStart::Conservative
        } else {
            SlowStart::Standard
        }
    }

    /// A rise beyond the threshold begins conservative slow start, a fall below its beginning takes
    /// the suspicion back.
    fn judge(&mut self) {
        if self.baseline_us != UNKNOWN {
            if self.round_min_us < self.baseline_us {
                self.baseline_us = UNKNOWN;
                self.css_rounds = 0;
            }
        } else if self.last_round_min_us != UNKNOWN {
            let threshold_us = (self.last_round_min_us / RTT_DIVISOR)
                .clamp(RTT_THRESHOLD_MIN_US, RTT_THRESHOLD_MAX_US);
            if self.round_min_us >= self.last_round_min_us.saturating_add(threshold_us) {
                self.baseline_us = self.round_min_us;
            }
        }
    }

    fn end_round(&mut self, flight_size: u32) {
        self.last_round_min_us = self.round_min_us;
        self.round_min_us = UNKNOWN;
        self.samples = 0;
        self.round_left = flight_size;
        if self.baseline_us != UNKNOWN {
            self.css_rounds += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Duration, Instant};

    /// One round of 20 acknowledgements; the last verdict.
    fn round(hystart: &mut HyStart, rtt_ms: u64) -> SlowStart {
        let rtt = Duration::from_millis(rtt_ms);
        let ack = AckSample {
            now: Instant::MIN,
            acked: 1_000,
            acknowledgements: 1,
            rtt: Some(rtt),
            srtt: rtt,
            flight_size: 20_000,
            cwnd_limited: true,
            in_recovery: false,
            pipe: 20_000,
            lost: 0,
            delivered: 0,
            rate: None,
        };
        for left in (1..20).rev() {
            hystart.on_ack(&AckSample { flight_size: 1_000 + left * 1_000, ..ack });
        }
        // All 20 were replaced by the time the last is acknowledged.
        hystart.on_ack(&AckSample { flight_size: 21_000, ..ack })
    }

    #[test]
    fn leaves_after_five_rounds_of_suspicion() {
        let mut hystart = HyStart::new();
        assert_eq!(round(&mut hystart, 50), SlowStart::Standard);
        // Below a threshold of an eighth.
        assert_eq!(round(&mut hystart, 56), SlowStart::Standard);
        assert_eq!(round(&mut hystart, 63), SlowStart::Conservative);
        for rtt_ms in [64, 63, 100] {
            assert_eq!(round(&mut hystart, rtt_ms), SlowStart::Conservative);
        }
        assert_eq!(round(&mut hystart, 64), SlowStart::Exit);
    }

    #[test]
    fn suspicions_that_were_wrong_do_not_add_up() {
        let mut hystart = HyStart::new();
        round(&mut hystart, 50);
        for _ in 0..10 {
            assert_eq!(round(&mut hystart, 80), SlowStart::Conservative);
            assert_eq!(round(&mut hystart, 50), SlowStart::Standard);
        }
    }

    #[test]
    fn thresholds_have_bounds() {
        for (short, same, longer) in [(10, 13, 14), (400, 415, 416)] {
            let mut hystart = HyStart::new();
            round(&mut hystart, short);
            assert_eq!(round(&mut hystart.clone(), same), SlowStart::Standard);
            assert_eq!(round(&mut hystart, longer), SlowStart::Conservative);
        }
    }
}
