//! Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation): how fast the network delivered
//! what was sent, whatever the pattern it was sent or acknowledged in.
//!
//! Every transmission is stamped with how much was delivered when it left; its acknowledgement then
//! spans an interval in which a known number of octets was delivered. Where the sender could have sent
//! and had nothing (an idle application, a scheduler that chose another path, the peer's window), what
//! follows is marked: such a sample is a lower bound. Counters wrap; differences are what counts.

use crate::time::{Duration, Instant};

/// What is remembered of one transmission.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// `Delivery::delivered` when it left.
    delivered: u32,
    /// From the first transmission of the sampled flight to this one.
    send_elapsed_us: u32,
    /// From the delivery before it to this transmission.
    since_delivery_us: u32,
    /// Octets in flight, this transmission included.
    in_flight: u32,
    app_limited: bool,
}

impl Stamp {
    /// Of `octets` that leave right behind what this one is of.
    pub(crate) const fn behind(self, octets: u32) -> Self {
        Self { in_flight: self.in_flight.saturating_add(octets), ..self }
    }
}

/// What one acknowledgement says about the rate of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateSample {
    /// Octets delivered during `interval`.
    pub delivered: u32,
    /// How long that took; never zero.
    pub interval: Duration,
    /// When the sampled segment left.
    pub sent_at: Instant,
    /// Running count of delivered octets when the sampled segment left; wraps.
    pub prior_delivered: u32,
    /// Octets in flight when the sampled segment left, it included.
    pub in_flight: u32,
    /// The sender had nothing to send for a while: the path may do better.
    pub app_limited: bool,
}

/// The sampler of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    delivered: u32,
    /// End of the stretch that began with nothing to send; 0: it is over.
    app_limited_until: u32,
    delivered_at: Instant,
    first_sent_at: Instant,
}

impl Delivery {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { delivered: 0, app_limited_until: 0, delivered_at: now, first_sent_at: now }
    }

    /// Octets delivered so far; wraps.
    pub(crate) const fn delivered(&self) -> u32 {
        self.delivered
    }

    /// The sender could have sent and did not, with `pipe` octets in flight: what is sent from now on
    /// until those are delivered is limited by it.
    pub(crate) const fn note_app_limited(&mut self, pipe: u32) {
        let until = self.delivered.wrapping_add(pipe);
        self.app_limited_until = if until == 0 { 1 } else { until };
    }

    /// `len` octets leave now, `pipe` were in flight before. A `fresh` flight begins with them: nothing is outstanding. That
    /// all of it is lost is another matter: what the next acknowledgement delivers arrived since the last one.
    pub(crate) fn stamp(&mut self, now: Instant, fresh: bool, pipe: u32, len: u32) -> Stamp {
        if fresh {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Stamp {
            delivered: self.delivered,
            send_elapsed_us: micros(now.since(self.first_sent_at)),
            since_delivery_us: micros(now.since(self.delivered_at)),
            in_flight: pipe.saturating_add(len),
            app_limited: self.app_limited_until != 0,
        }
    }

    /// `octets` were delivered, the newest of them sent at `sent_at` with `stamp`.
    pub(crate) fn on_delivered(
        &mut self,
        now: Instant,
        octets: u32,
        newest: Option<(Instant, Stamp)>,
    ) -> Option<RateSample> {
        if octets == 0 {
            return None;
        }
        self.delivered = self.delivered.wrapping_add(octets);
        self.delivered_at = now;
        let passed = self.delivered.wrapping_sub(self.app_limited_until).cast_signed() > 0;
        if self.app_limited_until != 0 && passed {
            self.app_limited_until = 0;
        }
        let (sent_at, stamp) = newest?;
        self.first_sent_at = self.first_sent_at.max(sent_at);
        let ack_elapsed = now.since(sent_at) + from_micros(stamp.since_delivery_us);
        let interval = ack_elapsed.max(from_micros(stamp.send_elapsed_us));
        (!interval.is_zero()).then_some(RateSample {
            delivered: self.delivered.wrapping_sub(stamp.delivered),
            interval,
            sent_at,
            prior_delivered: stamp.delivered,
            in_flight: stamp.in_flight,
            app_limited: stamp.app_limited,
        })
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn from_micros(us: u32) -> Duration {
    Duration::from_micros(u64::from(us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(1_000 + ms)
    }

    /// Segments leave every 2 ms and arrive every 4 ms: the slower of both is the path's rate.
    #[test]
    fn the_slower_of_sending_and_delivering_counts() {
        let mut delivery = Delivery::new(at(0));
        let sent: Vec<_> = (0..10)
            .map(|n| (at(2 * n), delivery.stamp(at(2 * n), n == 0, 1_000 * n as u32, 1_000)))
            .collect();
        let mut last = None;
        for (n, &segment) in sent.iter().enumerate() {
            last = delivery.on_delivered(at(50 + 4 * n as u64), 1_000, Some(segment));
        }
        let sample = last.expect("the last one was measured");
        // The tenth left before anything was delivered: its interval began with the first.
        assert_eq!((sample.delivered, sample.interval), (10_000, Duration::from_millis(86)));
        assert_eq!((sample.in_flight, sample.app_limited), (10_000, false));

        let segment = (at(90), delivery.stamp(at(90), true, 0, 1_000));
        let sample = delivery.on_delivered(at(140), 1_000, Some(segment)).expect("a sample");
        assert_eq!((sample.delivered, sample.interval), (1_000, Duration::from_millis(50)));
    }

    /// Acknowledgements that come all at once do not make a path fast.
    #[test]
    fn compressed_acknowledgements_are_bounded_by_the_sending_rate() {
        let mut delivery = Delivery::new(at(0));
        let sent: Vec<_> = (0..10)
            .map(|n| (at(10 * n), delivery.stamp(at(10 * n), n == 0, 1_000 * n as u32, 1_000)))
            .collect();
        let mut last = None;
        for segment in &sent {
            last = delivery.on_delivered(at(91), 1_000, Some(*segment));
        }
        assert_eq!(last.expect("a sample").interval, Duration::from_millis(91));
    }

    /// All in flight is lost when a timeout is over, but what its repair brings to light arrived before.
    #[test]
    fn a_repair_begins_no_new_flight() {
        let mut delivery = Delivery::new(at(0));
        delivery.stamp(at(0), true, 0, 100_000);
        let repair = (at(500), delivery.stamp(at(500), false, 0, 1_000));
        let sample = delivery.on_delivered(at(520), 100_000, Some(repair)).expect("a sample");
        assert_eq!((sample.delivered, sample.interval), (100_000, Duration::from_millis(520)));
    }

    #[test]
    fn the_mark_of_an_idle_sender_ends_with_what_was_in_flight() {
        let mut delivery = Delivery::new(at(0));
        let first = (at(0), delivery.stamp(at(0), true, 0, 1_000));
        delivery.note_app_limited(1_000);
        let second = (at(5), delivery.stamp(at(5), false, 1_000, 1_000));
        assert!(!delivery.on_delivered(at(10), 1_000, Some(first)).expect("a sample").app_limited);
        assert!(delivery.on_delivered(at(15), 1_000, Some(second)).expect("a sample").app_limited);
        let third = (at(15), delivery.stamp(at(15), false, 1, 1_000));
        assert!(!delivery.on_delivered(at(25), 1_000, Some(third)).expect("a sample").app_limited);
    }

    #[test]
    fn counters_wrap() {
        let mut delivery = Delivery::new(at(0));
        delivery.delivered = u32::MAX - 500;
        let segment = (at(0), delivery.stamp(at(0), true, 0, 1_000));
        let sample = delivery.on_delivered(at(10), 1_000, Some(segment)).expect("a sample");
        assert_eq!((sample.delivered, delivery.delivered()), (1_000, 499));
    }
}
