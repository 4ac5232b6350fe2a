//! BBR: the sender keeps a model of the path, its bottleneck bandwidth and its shortest round trip, and
//! sends at that bandwidth with little more than their product in flight (draft-ietf-ccwg-bbr). Loss is
//! no measure of bandwidth: single losses change nothing, a round trip that loses more than one octet in
//! fifty bounds the model until it is probed again.
//!
//! Where this departs from the draft: in its start the window doubles with what is acknowledged and does
//! not wait for samples, which are a round trip late; segments that left together show by the pace of
//! their acknowledgements what the bottleneck carries, and the start sends no faster, or a quarter
//! faster than what was delivered where that is more; one that sees the round trip rise goes on with
//! care, as HyStart++ does; a probe for bandwidth comes after 16 round trips or two seconds and queues no more
//! than 32 ms of data, or three twentieths of what fits where that shows nothing; one that finds more is
//! followed by another at once, and after some of those by a
//! start: what was measured before was no bottleneck; and a round trip within a thirty-second of the shortest one confirms it, so that
//! a path whose queue drains anyway is never starved to measure it. Invariant: `cwnd` is at least one segment, and the rates fit 32 bits.

use super::{AckSample, CongestionControl, RateSample, SSTHRESH_INFINITE, initial_window};
use crate::time::{Duration, Instant, nanos, proportion};
use alloc::boxed::Box;

/// Octets per second are kept in units of eight: 275 Gbit/s fit 32 bits.
const RATE_UNIT: u64 = 8;
const NO_BOUND: u32 = u32::MAX;
const NO_RTT: u32 = u32::MAX;

/// How long the shortest round trip is believed.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
/// How long little is in flight to measure it again.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Time between two probes for bandwidth, and the round trips after which it is cut short.
const CRUISE_TIME: Duration = Duration::from_secs(2);
const CRUISE_ROUNDS: u8 = 16;
/// A round trip that lost more than one octet in so many bounds the model.
const LOSS_DIVISOR: u32 = 50;
/// Fewer lost segments than this say nothing, whatever their share.
const LOSS_SEGMENTS_MIN: u32 = 6;
/// Rounds without a quarter more bandwidth until the pipe counts as full.
const FULL_ROUNDS: u8 = 3;
/// The round trip has risen once so many samples in a row are longer than the shortest by an eighth,
/// which counts as 4 ms at least and 16 ms at most (the thresholds of RFC 9406 §4.3).
const RISEN_SAMPLES: u8 = 8;
const RISE_DIVISOR: u32 = 8;
const RISE_MIN_US: u32 = 4_000;
const RISE_MAX_US: u32 = 16_000;
/// A window that doubles with every round trip, steadily, sends `2 ln 2` of itself in one.
const START_WINDOW_PER_CENT: u64 = 139;
/// As long as it is no more than so many first windows it goes at more of its pace: a short answer is over then,
/// and what is ahead of its time is a few segments.
const FIRST_WINDOWS: u32 = 4;
const FIRST_WINDOWS_PER_CENT: u64 = 200;
/// Deliveries at so much of what trains have shown prove them wrong.
const TRAIN_REFUTED_PER_CENT: u64 = 115;
/// Beyond what trains have shown a start goes on at so much of what was delivered.
const START_PER_CENT: u64 = 125;
/// What a start that sees a queue grow has in flight, of what fits.
const CAREFUL_PER_CENT: u64 = 150;
/// A longer pause within a train is the receiver's, which delays its acknowledgement.
const TRAIN_GAP_MAX: Duration = Duration::from_millis(10);
/// So many segments of trains tell a rate.
const TRAIN_SEGMENTS_MIN: u32 = 6;
/// A probe for bandwidth queues data for no longer, as long as that is enough to find more.
const PROBE_QUEUE_MS: u64 = 32;
/// A probe that finds so much of the bandwidth before it has found more.
const FOUND_PER_CENT: u64 = 112;
/// So many in a row that do, and the model is no more than a beginning.
const FOUND_PROBES: u8 = 3;
/// Segments in flight at least.
const CWND_SEGMENTS_MIN: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Twice as much every round trip.
    Startup,
    /// Lets the queue that the start left behind run out.
    Drain,
    /// The four phases of steady state.
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

/// Segments that left at once arrive at the pace of the bottleneck, and so do their acknowledgements:
/// what a start learns of the path's rate long before it sends as much.
#[derive(Clone, Debug)]
struct Trains {
    /// When the train left that is being acknowledged.
    sent_at: Instant,
    acked_at: Instant,
    /// Octets of trains acknowledged behind their first acknowledgement, and how long that took.
    octets: u32,
    time: Duration,
    /// More was delivered since: something else than the bottleneck spread them.
    refuted: bool,
}

impl Trains {
    const fn new(sent_at: Instant, now: Instant) -> Self {
        Self { sent_at, acked_at: now, octets: 0, time: Duration::ZERO, refuted: false }
    }

    /// `acked` octets were acknowledged, the newest of them sent at `sent_at`.
    fn on_ack(&mut self, now: Instant, acked: u32, sent_at: Instant) {
        let gap = now.since(self.acked_at);
        if self.sent_at == sent_at && gap < TRAIN_GAP_MAX {
            self.octets = self.octets.saturating_add(acked);
            self.time += gap;
        }
        (self.sent_at, self.acked_at) = (sent_at, now);
    }

    /// The rate in units, once enough was seen of it.
    fn bw(&self, mss: u32) -> Option<u32> {
        if self.refuted || self.octets < mss.saturating_mul(TRAIN_SEGMENTS_MIN) {
            return None;
        }
        let per_s = u128::from(self.octets) * 1_000_000_000 / self.time.as_nanos().max(1);
        u32::try_from(per_s / u128::from(RATE_UNIT)).ok()
    }
}

/// A model-based sender.
#[derive(Clone, Debug)]
pub struct Bbr {
    cwnd: u32,
    mss: u32,
    /// Window before a timeout or a probe of the round trip.
    prior_cwnd: u32,
    /// The highest delivery rates of the last and of this probing cycle.
    max_bw: [u32; 2],
    /// The most that recent losses let us believe.
    bw_lo: u32,
    /// The most that may be in flight without excessive loss.
    inflight_hi: u32,
    /// The same when the last recovery began.
    prior_hi: u32,
    min_rtt_us: u32,
    min_rtt_at: Instant,
    probe_rtt_until: Option<Instant>,
    phase_at: Instant,
    /// Delivered octets that end this round trip.
    next_round: u32,
    round_lost: u32,
    round_delivered: u32,
    /// The best rate of this round trip.
    round_bw: u32,
    /// During the start the bandwidth that must be outdone; later that before the last probe for more,
    /// 0 before the first.
    full_bw: u32,
    /// Round trips of a start that did not, or probes in a row that found more.
    full_rounds: u8,
    phase_rounds: u8,
    mode: Mode,
    /// The start is over.
    full: bool,
    /// Samples in a row that were longer than the shortest round trip.
    risen: u8,
    /// During the start.
    trains: Option<Box<Trains>>,
}

impl Bbr {
    /// Starts with the initial window of RFC 6928; `mss` in bytes.
    #[must_use]
    pub fn new(mss: u32, now: Instant) -> Self {
        let mss = mss.max(1);
        Self {
            cwnd: initial_window(mss),
            mss,
            prior_cwnd: 0,
            max_bw: [0; 2],
            bw_lo: NO_BOUND,
            inflight_hi: NO_BOUND,
            prior_hi: NO_BOUND,
            min_rtt_us: NO_RTT,
            min_rtt_at: now,
            probe_rtt_until: None,
            phase_at: now,
            next_round: 0,
            round_lost: 0,
            round_delivered: 0,
            round_bw: 0,
            full_bw: 0,
            full_rounds: 0,
            phase_rounds: 0,
            mode: Mode::Startup,
            full: false,
            risen: 0,
            trains: None,
        }
    }

    #[cfg(test)]
    pub(super) const fn next_round_at(&self) -> u32 {
        self.next_round
    }

    fn bw(&self) -> u32 {
        self.max_bw[0].max(self.max_bw[1]).min(self.bw_lo)
    }

    /// Octets that the model's bandwidth delivers in the shortest round trip, in per cent of it.
    fn bdp(&self, per_cent: u64) -> u32 {
        self.product(self.bw(), per_cent)
    }

    /// The same for another bandwidth.
    fn product(&self, bw: u32, per_cent: u64) -> u32 {
        if self.min_rtt_us == NO_RTT || bw == 0 {
            return initial_window(self.mss);
        }
        // At most 2^32 units of eight for 2^32 microseconds: more than 64 bits.
        let octets = u128::from(bw) * u128::from(RATE_UNIT) * u128::from(self.min_rtt_us);
        u32::try_from(octets * u128::from(per_cent) / 100_000_000).unwrap_or(super::CWND_MAX)
    }

    fn floor(&self) -> u32 {
        self.mss.saturating_mul(CWND_SEGMENTS_MIN)
    }

    const fn pacing_per_cent(&self) -> u64 {
        match self.mode {
            Mode::Startup if self.careful() => 125,
            // The smallest gain that doubles the rate every round trip: 4 ln 2.
            Mode::Startup => 277,
            Mode::Drain => 50,
            Mode::Down => 80,
            Mode::Cruise | Mode::Refill | Mode::ProbeRtt => 100,
            Mode::Up => 125,
        }
    }

    /// Nothing has bounded the start yet.
    pub(super) const fn is_beginning(&self) -> bool {
        let bounded = self.bw_lo != NO_BOUND || self.inflight_hi != NO_BOUND;
        !self.full && !self.careful() && !bounded && self.prior_cwnd == 0
    }

    /// The queue grows: the start goes on with care.
    const fn careful(&self) -> bool {
        self.risen >= RISEN_SAMPLES
    }

    fn enter(&mut self, mode: Mode, now: Instant) {
        self.mode = mode;
        self.phase_at = now;
        self.phase_rounds = 0;
    }

    /// A new round trip began: what the last one lost is judged.
    fn end_round(&mut self, sample: &AckSample, limited: bool) {
        let lost = self.round_lost;
        let sent = self.round_delivered.saturating_add(lost);
        let excessive =
            lost > sent / LOSS_DIVISOR && lost >= self.mss.saturating_mul(LOSS_SEGMENTS_MIN);
        if excessive {
            self.back_off(sample.now, self.round_delivered);
        }
        if !self.full && !limited {
            self.judge_start(sample.now);
        }
        self.phase_rounds = self.phase_rounds.saturating_add(1);
        (self.round_lost, self.round_delivered, self.round_bw) = (0, 0, 0);
    }

    /// Too much was lost, or a router asks for less; `carried` octets in flight were as much as the
    /// path took.
    fn back_off(&mut self, now: Instant, carried: u32) {
        match self.mode {
            Mode::Startup => {
                self.bound_inflight(carried);
                self.finish_start(now);
            }
            Mode::Up => {
                self.bound_inflight(carried);
                self.enter_down(now);
            }
            _ => {
                let bw = self.bw();
                self.bw_lo = self.round_bw.max(bw / 10 * 7).min(bw.max(1));
            }
        }
    }

    /// So much arrived when more was lost.
    fn bound_inflight(&mut self, arrived: u32) {
        let least = self.bdp(100).max(self.floor());
        self.inflight_hi = arrived.max(least).min(self.inflight_hi);
    }

    fn judge_start(&mut self, now: Instant) {
        let bw = self.bw();
        // Who is held back grows less.
        let per_cent = if self.shown().is_some() { 110 } else { 125 };
        if u64::from(bw) * 100 >= u64::from(self.full_bw) * per_cent {
            (self.full_bw, self.full_rounds) = (bw, 0);
            return;
        }
        self.full_rounds += 1;
        if self.full_rounds >= FULL_ROUNDS {
            self.finish_start(now);
        }
    }

    fn finish_start(&mut self, now: Instant) {
        self.full = true;
        (self.full_bw, self.full_rounds) = (0, 0);
        if self.mode == Mode::Startup {
            self.enter(Mode::Drain, now);
        }
    }

    /// Up again as soon as the last probe has found more, or anew from the start where that goes on: the
    /// model was made when the path was worse, or somebody else used it.
    fn probe_on(&mut self, now: Instant) {
        self.full_rounds += 1;
        if self.full_rounds < FOUND_PROBES {
            return self.enter_up(now);
        }
        (self.full, self.full_bw, self.full_rounds, self.risen) = (false, self.bw(), 0, 0);
        (self.inflight_hi, self.prior_hi) = (NO_BOUND, NO_BOUND);
        self.enter(Mode::Startup, now);
    }

    fn enter_up(&mut self, now: Instant) {
        self.full_bw = self.bw();
        self.enter(Mode::Up, now);
    }

    /// The last probe has found more than there was before it.
    fn found_more(&self, sample: &AckSample) -> bool {
        let limited = sample.rate.is_none_or(|rate| rate.app_limited);
        let found = u64::from(self.full_bw) * FOUND_PER_CENT / 100;
        self.full_bw > 0 && !limited && u64::from(self.bw()) >= found
    }

    /// The probe is over: its rate counts, the one before the last is forgotten.
    fn enter_down(&mut self, now: Instant) {
        if self.max_bw[1] > 0 {
            // A cycle in which the sender was short of data taught nothing.
            self.max_bw = [self.max_bw[1], 0];
        }
        self.enter(Mode::Down, now);
    }

    fn note_train(&mut self, sample: &AckSample, sent_at: Instant) {
        match &mut self.trains {
            _ if self.full => self.trains = None,
            Some(trains) => trains.on_ack(sample.now, sample.acked, sent_at),
            // One segment alone makes no train.
            None if sample.pipe == 0 => {}
            None => self.trains = Some(Box::new(Trains::new(sent_at, sample.now))),
        }
    }

    /// A scheduled radio, or acknowledgements over a thin uplink, spread a train as a slower bottleneck
    /// does: once more is delivered the start goes on as it does without.
    fn doubt_trains(&mut self) {
        let bw = u64::from(self.bw());
        let more = |shown: u32| bw * 100 > u64::from(shown) * TRAIN_REFUTED_PER_CENT;
        if self.shown().is_some_and(more)
            && let Some(trains) = &mut self.trains
        {
            trains.refuted = true;
        }
    }

    /// The bandwidth that trains have shown, in units.
    fn shown(&self) -> Option<u32> {
        self.trains.as_ref()?.bw(self.mss)
    }

    fn update_bw(&mut self, rate: &RateSample) {
        if self.min_rtt_us != NO_RTT && rate.interval < self.min_rtt() {
            // Acknowledgements that were held and came together.
            return;
        }
        let per_s = proportion(u64::from(rate.delivered), 1_000_000_000, nanos(rate.interval));
        let bw = u32::try_from(per_s / RATE_UNIT).unwrap_or(NO_BOUND - 1);
        self.round_bw = self.round_bw.max(bw);
        if !rate.app_limited || bw >= self.bw() {
            self.max_bw[1] = self.max_bw[1].max(bw);
        }
    }

    fn min_rtt(&self) -> Duration {
        Duration::from_micros(u64::from(self.min_rtt_us))
    }

    fn update_min_rtt(&mut self, sample: &AckSample) {
        let Some(rtt) = sample.rtt else { return };
        let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(NO_RTT - 1).max(1);
        let expired = sample.now.since(self.min_rtt_at) > MIN_RTT_WINDOW;
        if rtt_us < self.min_rtt_us || self.mode == Mode::ProbeRtt && expired {
            self.min_rtt_us = rtt_us;
            self.min_rtt_at = sample.now;
        } else if rtt_us.saturating_sub(self.min_rtt_us) <= self.min_rtt_us / 32 {
            self.min_rtt_at = sample.now;
        }
        let rise = (self.min_rtt_us / RISE_DIVISOR).clamp(RISE_MIN_US, RISE_MAX_US);
        let longer = rtt_us >= self.min_rtt_us.saturating_add(rise);
        self.risen = if longer { self.risen.saturating_add(1) } else { 0 };
    }

    fn step(&mut self, sample: &AckSample, round: bool) {
        let now = sample.now;
        match self.mode {
            // Beyond that it is not its own queue, or the path is no longer what it was: half a pace mends neither.
            Mode::Drain
                if sample.pipe <= self.bdp(100).max(self.floor()) || self.phase_rounds > 3 =>
            {
                self.enter_down(now);
            }
            Mode::Down | Mode::Cruise if self.found_more(sample) => self.probe_on(now),
            Mode::Down if sample.pipe <= self.drained() || self.phase_rounds > 3 => {
                self.enter(Mode::Cruise, now);
            }
            Mode::Cruise if round && self.is_time_to_probe(now) => {
                self.bw_lo = NO_BOUND;
                self.full_rounds = 0;
                self.enter(Mode::Refill, now);
            }
            Mode::Refill if round && self.phase_rounds > 0 => self.enter_up(now),
            Mode::Up => self.probe_up(sample, round),
            Mode::ProbeRtt => self.probe_rtt(sample),
            _ => {}
        }
        let stale = now.since(self.min_rtt_at) > MIN_RTT_WINDOW;
        if stale && self.full && self.mode != Mode::ProbeRtt {
            self.prior_cwnd = self.cwnd;
            self.probe_rtt_until = None;
            self.enter(Mode::ProbeRtt, now);
        }
    }

    /// What may be in flight once the queue of a probe is gone.
    fn drained(&self) -> u32 {
        self.bdp(100).min(self.inflight_hi / 20 * 17).max(self.floor())
    }

    fn is_time_to_probe(&self, now: Instant) -> bool {
        // Flows that share a queue should not probe in step: up to half a second later.
        let spread =
            Duration::from_micros(u64::from(self.next_round.wrapping_mul(0x9e37_79b9) >> 13));
        self.phase_rounds >= CRUISE_ROUNDS || now.since(self.phase_at) >= CRUISE_TIME + spread
    }

    fn probe_up(&mut self, sample: &AckSample, round: bool) {
        let target = self.probe_target(self.bw());
        let held = self.inflight_hi < target;
        if round && sample.pipe.saturating_add(sample.acked) >= self.inflight_hi {
            // Held by the bound and nothing lost: it was too low, by more than was thought before.
            let more = self.inflight_hi >> 3_u8.saturating_sub(self.phase_rounds);
            self.inflight_hi = self.inflight_hi.saturating_add(more);
        }
        let long_enough = sample.now.since(self.phase_at) >= self.min_rtt();
        let nearly = sample.pipe.saturating_add(self.floor().min(target / 8));
        let full = !held && nearly >= target;
        if long_enough && (full || self.phase_rounds >= 4) {
            self.enter_down(sample.now);
        }
    }

    /// What a probe for bandwidth has in flight: a quarter more than fits with `bw`.
    fn probe_target(&self, bw: u32) -> u32 {
        let queue = u64::from(bw) * RATE_UNIT * PROBE_QUEUE_MS / 1_000;
        let queue = u32::try_from(queue).unwrap_or(u32::MAX).max(self.floor());
        let bdp = self.product(bw, 100);
        // Over a long round trip so little is less than what counts as more.
        bdp.saturating_add(queue.min(bdp / 4).max((bdp / 20 + 1) * 3).max(self.mss))
    }

    fn probe_rtt(&mut self, sample: &AckSample) {
        match self.probe_rtt_until {
            // After a long pause nobody knows how long a round trip is: the next one that is measured begins.
            None if self.min_rtt_us != NO_RTT && sample.pipe <= self.probe_rtt_cwnd() => {
                self.probe_rtt_until = Some(sample.now + PROBE_RTT_TIME.max(self.min_rtt()));
            }
            Some(until) if sample.now >= until => {
                self.min_rtt_at = sample.now;
                self.cwnd = self.cwnd.max(self.prior_cwnd);
                self.enter(Mode::Cruise, sample.now);
            }
            _ => {}
        }
    }

    fn probe_rtt_cwnd(&self) -> u32 {
        self.bdp(50).max(self.floor())
    }

    /// Moves the window towards twice the product of the model, by what was acknowledged.
    fn update_cwnd(&mut self, sample: &AckSample) {
        let acked = sample.acked;
        let burst = u64::from(self.bw()) * RATE_UNIT * 3 / 1_000;
        let burst = u32::try_from(burst).unwrap_or(u32::MAX).max(self.mss.saturating_mul(3));
        let target = self.bdp(200).saturating_add(burst);
        if self.full {
            let bound = match self.mode {
                Mode::Up => {
                    self.inflight_hi.min(self.probe_target(self.bw()).saturating_add(burst))
                }
                Mode::Refill => self.inflight_hi,
                Mode::ProbeRtt => self.probe_rtt_cwnd(),
                _ => self.inflight_hi / 20 * 17,
            };
            self.cwnd = self.cwnd.saturating_add(acked).min(target).min(bound);
        } else if let Some(shown) = self.shown() {
            let most = self.probe_target(shown.max(self.bw())).saturating_add(burst);
            self.cwnd = self.cwnd.saturating_add(acked).min(most);
        } else if self.careful() {
            // A queue grows: half of what fits may be in it until more is known to fit.
            let most = self.bdp(CAREFUL_PER_CENT).saturating_add(burst);
            self.cwnd = self.cwnd.saturating_add(acked).min(most);
        } else {
            // The rate of a round trip is known at its end only: the window does not wait for it.
            let most = if sample.cwnd_limited { u32::MAX } else { target.max(self.cwnd) };
            self.cwnd = self.cwnd.saturating_add(acked).min(most);
        }
        self.cwnd = self.cwnd.clamp(self.floor(), super::CWND_MAX);
    }
}

impl CongestionControl for Bbr {
    fn on_ack(&mut self, sample: &AckSample) {
        self.round_lost = self.round_lost.saturating_add(sample.lost);
        self.round_delivered = self.round_delivered.saturating_add(sample.acked);
        let mut round = false;
        if let Some(rate) = &sample.rate {
            // The count of what was delivered is older than one that takes over in the middle.
            let first = self.max_bw == [0; 2];
            self.note_train(sample, rate.sent_at);
            self.update_bw(rate);
            self.doubt_trains();
            let ahead = rate.prior_delivered.wrapping_sub(self.next_round).cast_signed();
            round = first || ahead >= 0;
            if round {
                self.next_round = sample.delivered;
                self.end_round(sample, rate.app_limited);
            }
        }
        self.update_min_rtt(sample);
        self.step(sample, round);
        self.update_cwnd(sample);
    }

    fn on_congestion_event(&mut self, _now: Instant, _flight_size: u32) {
        self.prior_hi = self.inflight_hi;
    }

    fn on_ecn(&mut self, now: Instant, flight_size: u32) {
        // What is in flight fills the queue to its mark. A start's queue runs out without more.
        if !matches!(self.mode, Mode::Drain | Mode::ProbeRtt) {
            self.back_off(now, flight_size);
        }
        self.prior_hi = self.inflight_hi;
    }

    fn on_rto(&mut self, _now: Instant, _flight_size: u32) {
        self.prior_hi = self.inflight_hi;
        self.prior_cwnd = self.prior_cwnd.max(self.cwnd);
        self.cwnd = self.mss;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        if self.mode != Mode::ProbeRtt {
            self.cwnd = self.cwnd.max(core::mem::take(&mut self.prior_cwnd));
        }
    }

    fn undo(&mut self, now: Instant) {
        self.bw_lo = NO_BOUND;
        self.inflight_hi = self.inflight_hi.max(self.prior_hi);
        (self.round_lost, self.full_rounds) = (0, 0);
        self.on_recovery_exit(now);
    }

    /// Pacing at the known rate makes a restart gentle: the clocks are moved on. A shortest round trip that is older than it
    /// is believed gives way to the next one: with nothing in flight there was no queue.
    fn on_idle(&mut self, now: Instant, idle: Duration, _rto: Duration) {
        if idle > MIN_RTT_WINDOW {
            self.min_rtt_us = NO_RTT;
        }
        self.min_rtt_at = (self.min_rtt_at + idle).min(now);
        self.phase_at = (self.phase_at + idle).min(now);
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        if self.full { self.cwnd } else { SSTHRESH_INFINITE }
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.cwnd = cwnd.clamp(self.mss, super::CWND_MAX);
    }

    fn set_mss(&mut self, mss: u32) {
        let untouched = self.max_bw == [0; 2] && self.cwnd == initial_window(self.mss);
        self.mss = mss.max(1);
        if untouched {
            self.cwnd = initial_window(self.mss);
        }
        self.cwnd = self.cwnd.max(self.mss);
    }

    fn governs(&self) -> bool {
        true
    }

    fn pacing_rate(&self, srtt: Duration, _flight_size: u32) -> Option<u64> {
        let rate = u64::from(self.bw()) * RATE_UNIT * self.pacing_per_cent() / 100;
        if self.mode != Mode::Startup || self.careful() {
            return Some(rate.max(1));
        }
        // In the first round trips the window knows more than the samples.
        let first = self.cwnd <= super::initial_window(self.mss).saturating_mul(FIRST_WINDOWS);
        let per_cent = if first { FIRST_WINDOWS_PER_CENT } else { START_WINDOW_PER_CENT };
        let window = super::window_rate(self.cwnd, srtt).map(|rate| rate * per_cent / 100);
        let rate = window.max((rate > 0).then_some(rate))?;
        // Where trains have shown less than there is, it goes on from what was delivered.
        let beyond = u64::from(self.bw()) * RATE_UNIT * START_PER_CENT / 100;
        let most = self.shown().map_or(u64::MAX, |shown| beyond.max(u64::from(shown) * RATE_UNIT));
        Some(rate.min(most).max(1))
    }

    fn bandwidth(&self, srtt: Duration) -> Option<u64> {
        match self.bw() {
            0 => super::window_rate(self.cwnd, srtt),
            bw => Some(u64::from(bw) * RATE_UNIT),
        }
    }

    fn name(&self) -> &'static str {
        "bbr"
    }
}

#[cfg(test)]
mod tests;
