//! When the next segment may leave: a rate instead of bursts (RFC 9002 §7.7 says why).
//!
//! Invariant: over any stretch of time no more leaves than the rate allows plus one burst. A burst is
//! what the rate gives in a millisecond, so there is at most one timer per connection and millisecond
//! (and per 128 KiB). Who waited for a release time and was woken late gets the time back: otherwise a
//! busy machine, not the path, would set the rate.

use crate::time::{Duration, Instant};

/// What may be sent ahead of its time, and what of a pause is made up for.
const BURST: Duration = Duration::from_millis(1);
/// What of a late timer is made up for.
const LATE: Duration = Duration::from_millis(20);
/// No burst is larger, at whatever rate.
const BURST_OCTETS: u32 = 128 << 10;
/// The cost is kept per so many octets.
const UNIT_SHIFT: u32 = 12;
const NANOS: u64 = 1_000_000_000;

/// The release time of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    release_at: Instant,
    /// Nanoseconds per 4096 octets; 0: as fast as the window lets.
    cost_ns: u32,
    /// When who waited was woken last: the low bits of its nanoseconds.
    woken: u32,
}

impl Pacer {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { release_at: now, cost_ns: 0, woken: 0 }
    }

    /// Octets per second from now on; `None` lifts it.
    pub(crate) fn set_rate(&mut self, rate: Option<u64>) {
        self.cost_ns = rate.map_or(0, |rate| {
            let cost = (NANOS << UNIT_SHIFT) / rate.max(1);
            u32::try_from(cost.max(1)).unwrap_or(u32::MAX)
        });
    }

    /// The rate in force, in octets per second; within a few parts in a thousand of what was set.
    pub(crate) fn rate(&self) -> Option<u64> {
        (NANOS << UNIT_SHIFT).checked_div(u64::from(self.cost_ns))
    }

    /// Nanoseconds that may be sent ahead.
    fn burst_ns(&self) -> u64 {
        let octets = u64::from(self.cost_ns) * u64::from(BURST_OCTETS >> UNIT_SHIFT);
        octets.min(BURST.as_nanos() as u64)
    }

    /// Nothing may leave now.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.release_at > now.later_by(self.burst_ns())
    }

    /// When all that was sent ahead is paid for, and the next burst may leave.
    pub(crate) const fn release_at(&self) -> Instant {
        self.release_at
    }

    /// The rate, not something else, has limited the sender until just now.
    pub(crate) fn limits(&self, now: Instant) -> bool {
        self.cost_ns != 0 && self.release_at + BURST >= now
    }

    /// Somebody waited for the release time, which has come: what leaves in this turn of the loop is not
    /// to pay for a late one.
    pub(crate) const fn wake(&mut self, now: Instant) {
        self.woken = now.as_nanos() as u32;
    }

    /// `octets` leave. Who did not wait for the release time owes for them, not for what left before as well.
    pub(crate) fn charge(&mut self, now: Instant, octets: u32) {
        let waited = self.woken == now.as_nanos() as u32;
        let latest = now.later_by(self.burst_ns());
        let earliest = now - if waited { LATE } else { BURST };
        self.release_at = self.release_at.min(latest).max(earliest);
        self.charge_behind(octets);
    }

    /// `octets` leave in the same moment as others that were charged.
    pub(crate) fn charge_behind(&mut self, octets: u32) {
        let cost = (u64::from(octets) * u64::from(self.cost_ns)) >> UNIT_SHIFT;
        self.release_at = self.release_at.later_by(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends whenever it is allowed to for `ms`, woken at release times only; answers octets and wakes.
    fn run(rate: u64, ms: u64) -> (u64, u64) {
        let start = Instant::from_millis(1_000);
        let mut pacer = Pacer::new(start);
        pacer.set_rate(Some(rate));
        let in_force = pacer.rate().expect("set");
        assert!(in_force.abs_diff(rate) <= rate / 100 + 1, "{in_force} of {rate}");
        let (mut now, mut sent, mut wakes) = (start, 0, 0);
        while now.since(start) < Duration::from_millis(ms) {
            while !pacer.holds(now) {
                pacer.charge(now, 1_500);
                sent += 1_500;
            }
            now = pacer.release_at();
            wakes += 1;
        }
        (sent, wakes)
    }

    #[test]
    fn the_rate_is_held_and_timers_are_few() {
        for rate in [10_000, 1_000_000, 12_500_000, 125_000_000, 1_250_000_000] {
            let (sent, wakes) = run(rate, 1_000);
            let burst = (rate / 1_000).min(128 << 10) + 4_500;
            assert!(sent.abs_diff(rate) <= burst + rate / 200, "{rate}: {sent}");
            assert!(wakes <= 1_010.max(rate / (120 << 10)), "{rate}: {wakes} timers");
        }
    }

    #[test]
    fn a_pause_earns_one_burst() {
        let start = Instant::from_millis(1_000);
        let mut pacer = Pacer::new(start);
        pacer.set_rate(Some(1_500_000));
        let later = start + Duration::from_secs(60);
        let mut burst = 0;
        while !pacer.holds(later) {
            pacer.charge(later, 1_500);
            burst += 1;
        }
        // One for the credit, one for the burst, one to exceed it.
        assert_eq!(burst, 3);
    }

    /// With nothing in flight a segment leaves whatever the pace says, and that does not add up.
    #[test]
    fn who_does_not_wait_owes_for_one_segment() {
        let start = Instant::from_millis(1_000);
        let mut pacer = Pacer::new(start);
        pacer.set_rate(Some(1_500));
        for n in 0..50 {
            pacer.charge(start + Duration::from_millis(20 * n), 1_500);
        }
        // A second each.
        pacer.set_rate(Some(1_500_000));
        assert!(!pacer.holds(start + Duration::from_secs(2)));
    }

    #[test]
    fn late_timers_do_not_lower_the_rate() {
        let start = Instant::from_millis(1_000);
        for (late_ms, most) in [(5, 1.0), (15, 1.0), (40, 0.52)] {
            let mut pacer = Pacer::new(start);
            pacer.set_rate(Some(1_500_000));
            let (mut now, mut sent) = (start, 0_u64);
            while now.since(start) < Duration::from_secs(2) {
                while !pacer.holds(now) {
                    pacer.charge(now, 1_500);
                    sent += 1_500;
                }
                now = pacer.release_at() + Duration::from_millis(late_ms);
                pacer.wake(now);
            }
            let share = sent as f64 / 3_000_000.0;
            assert!((share - most).abs() < 0.03, "{late_ms} ms late: {share}");
        }
    }

    #[test]
    fn without_a_rate_nothing_is_held() {
        let now = Instant::from_millis(1_000);
        let mut pacer = Pacer::new(now);
        for _ in 0..1_000 {
            pacer.charge(now, 1_500);
        }
        assert!(!pacer.holds(now) && !pacer.limits(now));
    }
}
