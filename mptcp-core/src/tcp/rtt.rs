//! Round-trip time and retransmission timeout of one connection (RFC 6298).
//!
//! Every acknowledgement may bring a sample, so the gains are divided by the number of samples the
//! previous round trip brought (RFC 7323 Appendix G; counted instead of guessed from the flight
//! size): however often the peer acknowledges, `srtt` and `rttvar` remember the same stretch of
//! time. Invariant: `rto_min <= rto() <= rto_max`.

use crate::time::{Duration, Instant};

/// RFC 6298 (2.1): the timeout before the first sample.
const INITIAL_RTO_US: u32 = 1_000_000;
/// RFC 6298 (5.7): the timeout of the first data when a SYN had to be repeated.
const AFTER_SYN_LOSS_RTO_US: u32 = 3_000_000;
/// The `G` of RFC 6298 (2.3): how far `rto` stays above `srtt` at least. Our clock is finer, the
/// peer is not: on a quiet path `rttvar` decays to nothing and one acknowledgement that the peer
/// delayed (40 ms on Linux) would count as a loss.
const GRANULARITY_US: u32 = 50_000;
/// Longer samples are cut to this; keeps the scaled averages within 32 bits.
const SAMPLE_MAX_US: u32 = 60_000_000;
/// Fraction bits of the stored averages: at the smallest gain a deviation of 32 µs still counts.
const SCALE: u32 = 6;
/// Most samples per round trip that the gains are divided by.
const EXPECTED_SAMPLES_MAX: u16 = 512;
/// Length of one of the two windows `min_rtt` looks back on.
const MIN_WINDOW_S: u32 = 150;
/// No minimum known.
const NO_MIN: u32 = u32::MAX;

/// An echo that took longer, in milliseconds, is none.
const LONGEST_ECHO_MS: u32 = 120_000;

/// The timeout used while there is no sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Initial {
    /// One second.
    Normal,
    /// A SYN was lost and the handshake still runs.
    SynLost,
    /// A SYN was lost and data flows: three seconds.
    Conservative,
}

/// RTT estimator and retransmission timeout of one connection.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    /// The low bits of microseconds.
    round_start_us: u32,
    /// µs << SCALE; meaningful once `latest_us > 0`.
    srtt_scaled: u32,
    /// µs << SCALE.
    rttvar_scaled: u32,
    /// 0 until the first sample.
    latest_us: u32,
    rto_min_us: u32,
    rto_max_us: u32,
    min_current_us: u32,
    min_previous_us: u32,
    min_window_start_s: u32,
    samples_expected: u16,
    samples_in_round: u16,
    backoff: u8,
    initial: Initial,
    /// Retransmissions, or window probes, in a row after which the connection is given up: R2 of RFC 9293 §3.8.3.
    pub(super) retry_limit: u8,
    /// Timeouts in a row.
    pub(super) retries: u8,
}

const _: () = assert!(size_of::<RttEstimator>() <= 44);

impl RttEstimator {
    /// Bounds of [`Self::rto`], back-off included. A maximum below the minimum counts as the
    /// minimum.
    #[must_use]
    pub fn new(rto_min: Duration, rto_max: Duration) -> Self {
        let rto_min_us = micros(rto_min).max(1);
        Self {
            round_start_us: 0,
            srtt_scaled: 0,
            rttvar_scaled: 0,
            latest_us: 0,
            rto_min_us,
            rto_max_us: micros(rto_max).max(rto_min_us),
            min_current_us: NO_MIN,
            min_previous_us: NO_MIN,
            min_window_start_s: 0,
            samples_expected: 1,
            samples_in_round: 0,
            backoff: 0,
            initial: Initial::Normal,
            retry_limit: u8::MAX,
            retries: 0,
        }
    }

    /// The connection is given up after so many retransmissions in a row.
    pub(super) fn with_limit(self, retry_limit: u8) -> Self {
        Self { retry_limit, ..self }
    }

    /// Takes one measurement. The caller obeys Karn's rule: never from a segment that was
    /// retransmitted, unless timestamps tell the copies apart. Ends any back-off.
    pub fn on_sample(&mut self, rtt: Duration, now: Instant) {
        let rtt_us = micros(rtt).clamp(1, SAMPLE_MAX_US);
        let sample = rtt_us << SCALE;
        if self.latest_us == 0 {
            self.srtt_scaled = sample;
            self.rttvar_scaled = sample / 2;
            self.round_start_us = now.as_micros() as u32;
        } else {
            self.count_sample(now);
            let expected = u32::from(self.samples_expected);
            let deviation = self.srtt_scaled.abs_diff(sample);
            self.rttvar_scaled = approach(self.rttvar_scaled, deviation, 4 * expected);
            self.srtt_scaled = approach(self.srtt_scaled, sample, 8 * expected);
        }
        self.latest_us = rtt_us;
        self.backoff = 0;
        self.update_min(rtt_us, now);
    }

    /// RFC 6298 (5.5): doubles the timeout, up to the maximum.
    pub fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// Takes one doubling back.
    pub fn ease_back_off(&mut self) {
        self.backoff = self.backoff.saturating_sub(1);
    }

    /// Ends the back-off: new data was acknowledged, or the handshake is over.
    pub fn reset_back_off(&mut self) {
        self.backoff = 0;
        if self.initial == Initial::SynLost {
            self.initial = Initial::Conservative;
        }
    }

    /// Notes that the timer of a SYN (or SYN/ACK) expired: without a sample, the timeout of the
    /// first data is 3 s (RFC 6298 (5.7)). During the handshake call it after [`Self::back_off`];
    /// it takes effect when the back-off ends, at once when there is none.
    pub fn on_syn_timeout(&mut self) {
        if self.backoff == 0 {
            self.initial = Initial::Conservative;
        } else if self.initial == Initial::Normal {
            self.initial = Initial::SynLost;
        }
    }

    /// The retransmission timeout: `srtt + max(G, 4 * rttvar)`, at least `rto_min`, doubled per
    /// back-off, at most `rto_max`. `G` is 50 ms.
    #[must_use]
    pub fn rto(&self) -> Duration {
        let base_us = if self.latest_us == 0 {
            match self.initial {
                Initial::Normal | Initial::SynLost => INITIAL_RTO_US,
                Initial::Conservative => AFTER_SYN_LOSS_RTO_US,
            }
        } else {
            let spread_us = (self.rttvar_scaled >> SCALE).saturating_mul(4).max(GRANULARITY_US);
            (self.srtt_scaled >> SCALE).saturating_add(spread_us)
        };
        let base_us = base_us.max(self.rto_min_us);
        // 32 bits shifted by at most 31 fit in 64.
        let backed_off_us = u64::from(base_us) << self.backoff.min(31);
        Duration::from_micros(backed_off_us.min(u64::from(self.rto_max_us)))
    }

    /// How often the timeout is currently doubled.
    #[must_use]
    pub fn backoff(&self) -> u8 {
        self.backoff
    }

    /// Smoothed round-trip time; `None` before the first sample.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        self.sampled(self.srtt_scaled >> SCALE)
    }

    /// Mean deviation of the round-trip time; `None` before the first sample.
    #[must_use]
    pub fn rttvar(&self) -> Option<Duration> {
        self.sampled(self.rttvar_scaled >> SCALE)
    }

    /// The last sample; `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Duration> {
        self.sampled(self.latest_us)
    }

    /// The shortest sample of the last 150 to 300 s before the latest one (two windows of 150 s,
    /// so that a longer route is noticed); `None` before the first sample.
    #[must_use]
    pub fn min_rtt(&self) -> Option<Duration> {
        self.sampled(self.min_current_us.min(self.min_previous_us))
    }

    fn sampled(&self, us: u32) -> Option<Duration> {
        (self.latest_us > 0).then(|| Duration::from_micros(u64::from(us)))
    }

    /// Keeps `samples_expected` at the number of samples of the last complete round trip.
    fn count_sample(&mut self, now: Instant) {
        let now_us = now.as_micros() as u32;
        if now_us.wrapping_sub(self.round_start_us) >= self.srtt_scaled >> SCALE {
            self.samples_expected = self.samples_in_round.clamp(1, EXPECTED_SAMPLES_MAX);
            self.samples_in_round = 0;
            self.round_start_us = now_us;
        }
        self.samples_in_round = self.samples_in_round.saturating_add(1);
    }

    fn update_min(&mut self, rtt_us: u32, now: Instant) {
        let now_s = u32::try_from(now.as_micros() / 1_000_000).unwrap_or(u32::MAX);
        let age_s = now_s.saturating_sub(self.min_window_start_s);
        if age_s >= MIN_WINDOW_S {
            // A window that ended long ago says nothing about the path of today.
            let recent = age_s < 2 * MIN_WINDOW_S;
            self.min_previous_us = if recent { self.min_current_us } else { NO_MIN };
            self.min_current_us = NO_MIN;
            self.min_window_start_s = now_s;
        }
        self.min_current_us = self.min_current_us.min(rtt_us);
    }
}

/// The round trip that a timestamp tells which came back: `clock` is the one it was taken from, in
/// milliseconds. `None` for what no timestamp of ours can be.
pub(super) fn echoed(clock: u32, tsecr: u32) -> Option<Duration> {
    let elapsed = clock.wrapping_sub(tsecr);
    let ours = tsecr != 0 && elapsed < LONGEST_ECHO_MS;
    ours.then(|| Duration::from_millis(u64::from(elapsed.max(1))))
}

/// The same of a handshake that was repeated. What took as long as the timeout may answer the first
/// attempt, and be no round trip at all.
pub(super) fn echoed_by_handshake(clock: u32, tsecr: u32) -> Option<Duration> {
    echoed(clock, tsecr).filter(|rtt| micros(*rtt) < INITIAL_RTO_US)
}

/// `average` moved by one `divisor`-th of its distance to `sample`, rounded to nearest.
fn approach(average: u32, sample: u32, divisor: u32) -> u32 {
    let step = average.abs_diff(sample).saturating_add(divisor / 2) / divisor;
    if sample >= average { average.saturating_add(step) } else { average.saturating_sub(step) }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn estimator() -> RttEstimator {
        RttEstimator::new(ms(200), ms(120_000))
    }

    #[test]
    fn starts_at_one_second_and_doubles_to_the_maximum() {
        let mut rtt = estimator();
        assert_eq!(
            (rtt.srtt(), rtt.rttvar(), rtt.min_rtt(), rtt.latest()),
            (None, None, None, None)
        );
        for expected_s in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            assert_eq!(rtt.rto(), Duration::from_secs(expected_s));
            rtt.back_off();
        }
        for _ in 0..300 {
            rtt.back_off();
        }
        assert_eq!((rtt.rto(), rtt.backoff()), (Duration::from_secs(120), u8::MAX));
        rtt.reset_back_off();
        assert_eq!((rtt.rto(), rtt.backoff()), (Duration::from_secs(1), 0));
    }

    #[test]
    fn first_sample_initialises_both_averages() {
        let mut rtt = estimator();
        rtt.on_sample(ms(100), Instant::from_millis(1));
        assert_eq!((rtt.srtt(), rtt.rttvar()), (Some(ms(100)), Some(ms(50))));
        assert_eq!(rtt.rto(), ms(300));
        // RFC 6298 (2.3): rttvar takes the deviation from the old srtt, then srtt moves.
        rtt.on_sample(ms(180), Instant::from_millis(200));
        assert_eq!((rtt.srtt(), rtt.rttvar()), (Some(ms(110)), Some(us(57_500))));
        assert_eq!(rtt.rto(), ms(340));
        assert_eq!((rtt.latest(), rtt.min_rtt()), (Some(ms(180)), Some(ms(100))));
    }

    #[test]
    fn a_quiet_path_keeps_a_margin() {
        let mut rtt = estimator();
        for round in 0..100 {
            rtt.on_sample(ms(300), Instant::from_millis(300 * round));
        }
        assert_eq!((rtt.rttvar(), rtt.rto()), (Some(Duration::ZERO), ms(350)));
        let mut rtt = estimator();
        for round in 0..100 {
            rtt.on_sample(ms(5), Instant::from_millis(5 * round));
        }
        assert_eq!(rtt.rto(), ms(200));
    }

    #[test]
    fn a_sample_ends_the_back_off() {
        let mut rtt = estimator();
        rtt.on_sample(ms(100), Instant::from_millis(1));
        rtt.back_off();
        rtt.back_off();
        assert_eq!((rtt.rto(), rtt.backoff()), (ms(1_200), 2));
        rtt.on_sample(ms(100), Instant::from_millis(2_000));
        assert_eq!((rtt.rto(), rtt.backoff()), (ms(250), 0));
    }

    /// RFC 6298 (5.7): the SYNs themselves are repeated after 1, 2, 4 s; the first data after 3.
    #[test]
    fn syn_loss_makes_the_first_data_timeout_three_seconds() {
        let mut rtt = estimator();
        for expected_s in [1, 2, 4] {
            assert_eq!(rtt.rto(), Duration::from_secs(expected_s));
            rtt.back_off();
            rtt.on_syn_timeout();
        }
        rtt.reset_back_off();
        assert_eq!(rtt.rto(), Duration::from_secs(3));
        rtt.back_off();
        assert_eq!(rtt.rto(), Duration::from_secs(6));
        rtt.reset_back_off();
        assert_eq!(rtt.rto(), Duration::from_secs(3));
        rtt.on_sample(ms(100), Instant::from_millis(9_000));
        assert_eq!(rtt.rto(), ms(300));

        let mut noted_late = estimator();
        noted_late.back_off();
        noted_late.reset_back_off();
        noted_late.on_syn_timeout();
        assert_eq!(noted_late.rto(), Duration::from_secs(3));
    }

    #[test]
    fn the_minimum_forgets_old_paths() {
        let mut rtt = estimator();
        let at_s = |s: u64| Instant::from_millis(s * 1_000);
        rtt.on_sample(ms(10), at_s(1));
        rtt.on_sample(ms(40), at_s(100));
        assert_eq!(rtt.min_rtt(), Some(ms(10)));
        rtt.on_sample(ms(40), at_s(200));
        assert_eq!(rtt.min_rtt(), Some(ms(10)), "the window before counts");
        rtt.on_sample(ms(40), at_s(351));
        assert_eq!(rtt.min_rtt(), Some(ms(40)));
        rtt.on_sample(ms(90), at_s(10_000));
        assert_eq!(rtt.min_rtt(), Some(ms(90)), "after a long pause nothing else is known");
    }

    /// However many samples a round trip brings, the history of the averages is as long.
    #[test]
    fn many_samples_per_round_trip_weigh_as_one() {
        // Both averages, some round trips after the path got longer.
        let after_step = |samples: u64, rounds: u32| {
            let mut rtt = estimator();
            let mut now = Instant::from_millis(1);
            for round in 0..20 + rounds {
                let sample = if round < 20 { ms(100) } else { ms(200) };
                for _ in 0..samples {
                    rtt.on_sample(sample, now);
                    now = now + sample / u32::try_from(samples).unwrap();
                }
            }
            [rtt.srtt().unwrap().as_micros(), rtt.rttvar().unwrap().as_micros()]
        };
        for (samples, rounds) in [2, 10, 100, 400].into_iter().flat_map(|s| [(s, 1), (s, 10)]) {
            let (one, many) = (after_step(1, rounds), after_step(samples, rounds));
            let close = |i: usize| many[i].abs_diff(one[i]) * 4 < one[i];
            assert!(close(0) && close(1), "{samples} samples, {rounds} rounds: {many:?} {one:?}");
        }
    }

    #[test]
    fn a_maximum_below_the_minimum_counts_as_the_minimum() {
        let rtt = RttEstimator::new(ms(500), ms(300));
        assert_eq!(rtt.rto(), ms(500));
        let rtt = RttEstimator::new(Duration::ZERO, Duration::ZERO);
        assert!(rtt.rto() > Duration::ZERO);
    }

    proptest! {
        /// One sample per round trip is RFC 6298 to the microsecond.
        #[test]
        fn matches_the_formulas(samples in prop::collection::vec(1u64..5_000_000, 1..100)) {
            let mut rtt = estimator();
            let mut now = Instant::from_millis(1);
            let (mut srtt, mut rttvar) = (0.0, 0.0);
            for (index, sample) in samples.into_iter().enumerate() {
                now = now + Duration::from_secs(6);
                rtt.on_sample(us(sample), now);
                let sample = sample as f64;
                if index == 0 {
                    (srtt, rttvar) = (sample, sample / 2.0);
                } else {
                    rttvar = 0.75 * rttvar + 0.25 * f64::abs(srtt - sample);
                    srtt = 0.875 * srtt + 0.125 * sample;
                }
                let close = |got: Option<Duration>, want: f64| {
                    (got.unwrap().as_micros() as f64 - want).abs() < 1.5
                };
                prop_assert!(close(rtt.srtt(), srtt), "{:?} {srtt}", rtt.srtt());
                prop_assert!(close(rtt.rttvar(), rttvar), "{:?} {rttvar}", rtt.rttvar());
                let rto = (srtt + f64::max(50_000.0, 4.0 * rttvar)).clamp(200e3, 120e6);
                prop_assert!((rtt.rto().as_micros() as f64 - rto).abs() < 8.0);
            }
        }

        /// Whatever the samples and their times: averages stay among them, timeouts in bounds.
        #[test]
        fn stays_in_bounds(
            steps in prop::collection::vec((0u64..u64::MAX / 2, any::<u64>(), 0..4), 1..200),
        ) {
            let mut rtt = estimator();
            let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
            for (sample_ns, now_ns, what) in steps {
                match what {
                    0 => rtt.back_off(),
                    1 => rtt.reset_back_off(),
                    2 => rtt.on_syn_timeout(),
                    _ => {
                        let sample = Duration::from_nanos(sample_ns >> (now_ns % 64));
                        rtt.on_sample(sample, Instant::from_nanos(now_ns));
                        let sample = sample.clamp(us(1), us(u64::from(SAMPLE_MAX_US)));
                        shortest = shortest.min(us(u64::try_from(sample.as_micros()).unwrap()));
                        longest = longest.max(sample);
                    }
                }
                prop_assert!(rtt.rto() >= ms(200) && rtt.rto() <= ms(120_000));
                if let (Some(srtt), Some(min)) = (rtt.srtt(), rtt.min_rtt()) {
                    prop_assert!(srtt >= shortest && srtt <= longest);
                    prop_assert!(min >= shortest && min <= rtt.latest().unwrap());
                }
            }
        }
    }
}
