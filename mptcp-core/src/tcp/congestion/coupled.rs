//! Coupled congestion avoidance: the subflows of one connection together take no more of a shared
//! bottleneck than one TCP would, and move their load to the paths that lose least. LIA (RFC 6356), OLIA
//! (draft-khalili-mptcp-congestion-control) and BALIA (draft-walid-mptcp-congestion-control) differ only
//! in the increase, BALIA in the decrease too. Slow start is each subflow's own (RFC 6356 §3).
//!
//! Windows are octets, rates octets per second, growth is kept in 2^-16 octets. With one path all three
//! are `NewReno`. What the other subflows do is a snapshot of at most a quarter of a round trip ago.

use super::{AckSample, CongestionControl, NewReno, Phase};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

/// Fraction bits of the growth.
const FRACTION: u32 = 16;
const NANOS: u128 = 1_000_000_000;

/// Which of the three.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coupling {
    /// RFC 6356.
    Lia,
    /// Opportunistic LIA.
    Olia,
    /// Balanced LIA.
    Balia,
}

/// One subflow as the others see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Congestion window, octets.
    pub cwnd: u32,
    /// Smoothed round trip; not zero.
    pub rtt: Duration,
    /// Octets delivered between two losses, OLIA's measure of a path.
    pub between_losses: u32,
}

impl Member {
    fn rtt_ns(&self) -> u128 {
        self.rtt.as_nanos().max(1)
    }

    /// Octets per second.
    fn rate(&self) -> u128 {
        u128::from(self.cwnd) * NANOS / self.rtt_ns()
    }

    /// Octets per second, per second of round trip: `cwnd / rtt^2`.
    fn steepness(&self) -> u128 {
        self.rate() * NANOS / self.rtt_ns()
    }

    /// OLIA's order of the best paths: `l^2 / rtt`.
    fn quality(&self) -> u128 {
        u128::from(self.between_losses).pow(2) * NANOS / self.rtt_ns()
    }
}

/// What all subflows of a connection come to, seen from one of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Siblings {
    total_rate: u128,
    best_rate: u128,
    best_steepness: u128,
    /// OLIA's `alpha` of this subflow, in millionths.
    shift_ppm: i32,
}

impl Siblings {
    /// Sums `members` up for the one at `own`.
    #[must_use]
    pub fn of(members: impl Iterator<Item = Member> + Clone, own: usize) -> Self {
        let mut all = Self::default();
        let (mut best_quality, mut widest, mut count) = (0, 0, 0_i32);
        for member in members.clone() {
            all.total_rate += member.rate();
            all.best_rate = all.best_rate.max(member.rate());
            all.best_steepness = all.best_steepness.max(member.steepness());
            best_quality = best_quality.max(member.quality());
            widest = widest.max(member.cwnd);
            count += 1;
        }
        let best = |m: &Member| m.quality() == best_quality && m.cwnd != widest;
        let wide = |m: &Member| m.cwnd == widest;
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let starved = number(members.clone().filter(best).count());
        if let (true, Some(me)) = (starved > 0, members.clone().nth(own)) {
            if best(&me) {
                all.shift_ppm = 1_000_000 / count / starved;
            } else if wide(&me) {
                all.shift_ppm = -(1_000_000 / count / number(members.filter(wide).count()));
            }
        }
        all
    }
}

/// One subflow of a coupled connection: `NewReno` but for how it grows.
#[derive(Clone, Debug)]
pub struct Coupled {
    reno: NewReno,
    coupling: Coupling,
    /// Growth below an octet.
    fraction: i64,
    /// Octets delivered since the last loss, and between the two before.
    since_loss: u32,
    before_loss: u32,
    seen_at: Instant,
    srtt: Duration,
    siblings: Box<Siblings>,
}

impl Coupled {
    /// Starts with the initial window of RFC 6928; `mss` in bytes.
    #[must_use]
    pub fn new(coupling: Coupling, mss: u32, now: Instant) -> Self {
        Self {
            reno: NewReno::new(mss),
            coupling,
            fraction: 0,
            since_loss: 0,
            before_loss: 0,
            seen_at: now,
            srtt: Duration::ZERO,
            siblings: Box::default(),
        }
    }

    fn me(&self, srtt: Duration) -> Member {
        Member {
            cwnd: self.reno.cwnd(),
            rtt: srtt.max(Duration::from_micros(1)),
            between_losses: self.since_loss.max(self.before_loss),
        }
    }

    /// What `acked` octets add to the window, times 2^FRACTION.
    fn increase(&self, acked: u32, srtt: Duration) -> i64 {
        let me = self.me(srtt);
        let scaled = (u128::from(acked) * u128::from(self.reno.window().mss)) << FRACTION;
        let alone = scaled / u128::from(me.cwnd.max(1));
        // The snapshot may be older than our own window.
        let total = self.siblings.total_rate.max(me.rate()).max(1);
        let ratio = |steepness: u128| (scaled * steepness / total / total).min(alone);
        let grown = match self.coupling {
            Coupling::Lia => ratio(self.siblings.best_steepness.max(me.steepness())),
            Coupling::Olia => ratio(me.steepness()),
            Coupling::Balia => {
                let alpha = self.alpha_tenths(me);
                (ratio(me.steepness()) * (10 + alpha) * (40 + alpha) / 1_000).min(alone)
            }
        };
        let grown = i64::try_from(grown).unwrap_or(i64::MAX / 4);
        if self.coupling == Coupling::Olia {
            let alone = i128::try_from(alone).unwrap_or(i128::MAX >> 32);
            let shift = alone * i128::from(self.siblings.shift_ppm) / 1_000_000;
            return grown.saturating_add(i64::try_from(shift).unwrap_or(0));
        }
        grown
    }

    /// BALIA's `alpha` in tenths: how much faster the best path is.
    fn alpha_tenths(&self, me: Member) -> u128 {
        let best = self.siblings.best_rate.max(me.rate());
        (best * 10 / me.rate().max(1)).clamp(10, 1_000)
    }

    fn note_loss(&mut self) {
        self.before_loss = core::mem::take(&mut self.since_loss);
        self.fraction = 0;
    }

    /// What a loss leaves: half, or less on BALIA's slower paths, where nobody is better off by it.
    fn left_of(&self, flight_size: u32) -> u32 {
        let half = flight_size / 2;
        if self.coupling != Coupling::Balia || self.siblings.total_rate == 0 {
            return half;
        }
        let me = self.me(self.srtt);
        let tenths = u32::try_from(self.alpha_tenths(me)).unwrap_or(10).min(15);
        flight_size - (half / 10 * tenths).min(flight_size)
    }
}

impl CongestionControl for Coupled {
    fn on_ack(&mut self, sample: &AckSample) {
        self.since_loss = self.since_loss.saturating_add(sample.acked);
        self.srtt = sample.srtt;
        let Some(acked) = self.reno.slow_start(sample) else { return };
        self.fraction = self.fraction.saturating_add(self.increase(acked, sample.srtt));
        let whole = self.fraction >> FRACTION;
        self.fraction -= whole << FRACTION;
        let cwnd = self.reno.cwnd();
        let least = self.reno.window().mss.saturating_mul(2).min(cwnd);
        let cwnd = i64::from(cwnd).saturating_add(whole).max(i64::from(least));
        let cwnd = u32::try_from(cwnd).unwrap_or(u32::MAX);
        if whole < 0 {
            self.reno.shrink(cwnd);
        } else {
            self.reno.set_cwnd(cwnd);
        }
    }

    fn on_congestion_event(&mut self, _now: Instant, flight_size: u32) {
        self.reno.reduce(self.left_of(flight_size), false);
        self.note_loss();
    }

    fn on_ecn(&mut self, _now: Instant, flight_size: u32) {
        self.reno.reduce(self.left_of(flight_size), true);
        self.note_loss();
    }

    fn on_rto(&mut self, now: Instant, flight_size: u32) {
        if !self.reno.is_timed_out() {
            self.note_loss();
        }
        self.reno.on_rto(now, flight_size);
    }

    fn on_recovery_exit(&mut self, now: Instant) {
        self.reno.on_recovery_exit(now);
    }

    fn undo(&mut self, now: Instant) {
        if self.reno.can_undo() {
            self.since_loss = self.since_loss.saturating_add(self.before_loss);
        }
        self.reno.undo(now);
    }

    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration) {
        self.reno.on_idle(now, idle, rto);
    }

    fn cwnd(&self) -> u32 {
        self.reno.cwnd()
    }

    fn ssthresh(&self) -> u32 {
        self.reno.ssthresh()
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.reno.set_cwnd(cwnd);
    }

    fn set_mss(&mut self, mss: u32) {
        self.reno.set_mss(mss);
    }

    /// While a recovery paces it out again the window is what it will be then (RFC 6356 §3).
    fn member(&self, srtt: Duration) -> Option<Member> {
        let mut me = self.me(srtt);
        if self.reno.window().phase == Phase::Recovery {
            me.cwnd = me.cwnd.max(self.reno.ssthresh());
        }
        Some(me)
    }

    fn wants_siblings(&self, now: Instant) -> bool {
        now.since(self.seen_at) >= self.srtt / 4
    }

    fn set_siblings(&mut self, now: Instant, siblings: Siblings) {
        *self.siblings = siblings;
        self.seen_at = now;
    }

    fn name(&self) -> &'static str {
        match self.coupling {
            Coupling::Lia => "lia",
            Coupling::Olia => "olia",
            Coupling::Balia => "balia",
        }
    }
}
