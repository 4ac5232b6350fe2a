//! One direction of a link, in virtual time: tail-drop queue, serialiser, loss, delay, delivery.
//!
//! The invariant: every packet pushed is delivered, counted under exactly one [`DropReason`], or
//! still held, and what happens does not depend on how often or how late `poll` is called.
//! Serialisation is exact: a busy link of rate R finishes n bits after `ceil(n / R)`, with no
//! rounding carried from one packet to the next. Memory is bounded by the queue plus what the rate
//! puts into the air during the delay (a link without a rate holds whatever its caller pushes).

mod config;

pub use config::{Change, DropReason, LinkConfig, LinkCounters, Loss, Verdict};

use crate::packet::edit::mark_congestion;
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};

/// Work is counted in bits times nanoseconds per second, so that a rate in bit/s does exactly
/// `rate` units of it per nanosecond.
const WORK_PER_BYTE: u128 = 8 * 1_000_000_000;

/// A packet that waits for the serialiser, with its number in the order of pushes.
#[derive(Debug)]
struct Waiting {
    number: u64,
    packet: Vec<u8>,
}

/// A packet in the air. `order` breaks ties between packets due at the same time.
#[derive(Debug)]
struct Flying {
    due: u64,
    order: u64,
    packet: Vec<u8>,
}

/// One direction of a link. Calls must come at non-decreasing `now`; an earlier `now` is taken as
/// the latest one seen.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    seed: u64,
    stream: u64,
    /// Packets pushed so far: the number of the next one.
    pushed: u64,
    /// Waiting packets; the front one is in the serialiser.
    queue: VecDeque<Waiting>,
    queue_len: usize,
    /// What the serialiser still has to do on the front packet, as it stood at `as_of`.
    work: u128,
    /// Work done in the last begun nanosecond beyond the packet that ended in it.
    credit: u128,
    as_of: u64,
    /// Packets in the air that keep their order: `due` never decreases.
    in_order: VecDeque<Flying>,
    /// Packets held back to be overtaken, by (due, order).
    late: BTreeMap<(u64, u64), Vec<u8>>,
    launched: u64,
    last_due: u64,
    /// State of the Gilbert-Elliott chain.
    burst: bool,
    changes: BTreeMap<(u64, u64), Change>,
    scheduled: u64,
    counters: LinkCounters,
}

impl Link {
    /// A link that draws from `seed`; `stream` tells its directions apart (any number unique to it).
    #[must_use]
    pub fn new(config: LinkConfig, seed: u64, stream: u64) -> Self {
        Self {
            config,
            seed,
            stream,
            pushed: 0,
            queue: VecDeque::new(),
            queue_len: 0,
            work: 0,
            credit: 0,
            as_of: 0,
            in_order: VecDeque::new(),
            late: BTreeMap::new(),
            launched: 0,
            last_due: 0,
            burst: false,
            changes: BTreeMap::new(),
            scheduled: 0,
            counters: LinkCounters::default(),
        }
    }

    /// Offers a packet. `Queued` promises only that it entered the queue: loss is decided behind it.
    pub fn push(&mut self, now: u64, mut packet: Vec<u8>) -> Verdict {
        self.advance(now);
        let len = packet.len();
        let number = self.pushed;
        self.pushed += 1;
        self.counters.pushed_packets += 1;
        self.counters.pushed_bytes += len as u64;
        if len > self.config.mtu {
            return self.refuse(DropReason::Mtu, len);
        }
        let idle = self.queue.is_empty();
        if !idle && self.queue_len.saturating_add(len) > self.config.queue_bytes {
            return self.refuse(DropReason::Queue, len);
        }
        if self.config.ecn_mark_bytes.is_some_and(|limit| self.queue_len > limit) {
            self.counters.marked_packets += u64::from(mark_congestion(&mut packet));
        }
        self.queue_len += len;
        self.counters.queue_bytes_max = self.counters.queue_bytes_max.max(self.queue_len as u64);
        self.queue.push_back(Waiting { number, packet });
        if idle {
            self.as_of = self.as_of.max(now);
            self.start_front();
        }
        self.advance(now);
        Verdict::Queued
    }

    /// The next packet due at or before `now`, in order of arrival. Call until it returns `None`.
    pub fn poll(&mut self, now: u64) -> Option<Vec<u8>> {
        self.arrival(now)?;
        let from_late = match (self.in_order.front(), self.late.first_key_value()) {
            (Some(flying), Some((&key, _))) => key < (flying.due, flying.order),
            (None, Some(_)) => true,
            _ => false,
        };
        let packet = if from_late {
            self.late.pop_first().map(|(_, packet)| packet)
        } else {
            self.in_order.pop_front().map(|flying| flying.packet)
        }?;
        self.counters.delivered_packets += 1;
        self.counters.delivered_bytes += packet.len() as u64;
        Some(packet)
    }

    /// Replaces the configuration at `now`. The packet in the serialiser keeps the part already
    /// sent; packets in the air keep their arrival times.
    pub fn reconfigure(&mut self, now: u64, config: LinkConfig) {
        self.apply(now, Change::Config(config));
    }

    /// Applies one change at `now`.
    pub fn apply(&mut self, now: u64, change: Change) {
        self.advance(now);
        self.change(now, change);
        self.advance(now);
    }

    /// Schedules a change for time `at`; changes of one time apply in the order they were given,
    /// before a packet that leaves the serialiser at that very time.
    pub fn at(&mut self, at: u64, change: Change) {
        self.changes.insert((at, self.scheduled), change);
        self.scheduled += 1;
    }

    /// When `poll` may have something: may be early, never late. `None` while nothing can arrive
    /// without another call.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let arrival = self.departure().map(|at| at.saturating_add(self.config.delay_ns));
        // A change matters only to what has yet to leave the serialiser.
        let change = self.changes.first_key_value().map(|(&(at, _), _)| at);
        let change = change.filter(|_| !self.queue.is_empty());
        [self.next_arrival(), arrival, change].into_iter().flatten().min()
    }

    /// When the packet that `poll(now)` would return is due; `None` when it would return none.
    pub fn arrival(&mut self, now: u64) -> Option<u64> {
        self.advance(now);
        self.next_arrival().filter(|&due| due <= now)
    }

    fn next_arrival(&self) -> Option<u64> {
        let in_order = self.in_order.front().map(|flying| flying.due);
        let late = self.late.first_key_value().map(|(&(due, _), _)| due);
        [in_order, late].into_iter().flatten().min()
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// Bytes in the queue, the packet in the serialiser included.
    #[must_use]
    pub const fn queue_bytes(&self) -> usize {
        self.queue_len
    }

    /// Packets held: in the queue and in the air, copies included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.queue.len() + self.in_order.len() + self.late.len()
    }

    fn refuse(&mut self, reason: DropReason, len: usize) -> Verdict {
        self.counters.count_drop(reason, len);
        Verdict::Dropped(reason)
    }

    /// Runs departures and scheduled changes up to `now`, in the order of their times.
    fn advance(&mut self, now: u64) {
        loop {
            let departure = self.departure().filter(|&at| at <= now);
            let change = self.changes.first_key_value().map(|(&key, _)| key.0);
            match (departure, change.filter(|&at| at <= now)) {
                (Some(end), at) if at.is_none_or(|at| end < at) => self.depart(end),
                (_, Some(at)) => {
                    if let Some((_, change)) = self.changes.pop_first() {
                        self.change(at, change);
                    }
                }
                _ => return,
            }
        }
    }

    /// When the front packet leaves the serialiser, if the rate lets it.
    fn departure(&self) -> Option<u64> {
        self.queue.front()?;
        let (Some(rate), true) = (self.config.rate_bps, self.work > 0) else {
            return Some(self.as_of);
        };
        if rate == 0 {
            return None;
        }
        let wait = u64::try_from(self.work.div_ceil(u128::from(rate))).ok()?;
        self.as_of.checked_add(wait)
    }

    fn change(&mut self, at: u64, change: Change) {
        if let Some(rate) = self.config.rate_bps {
            let done = u128::from(at.saturating_sub(self.as_of)) * u128::from(rate);
            self.work = self.work.saturating_sub(done);
        }
        self.as_of = self.as_of.max(at);
        change.apply(&mut self.config);
        if !matches!(self.config.loss, Loss::GilbertElliott { .. }) {
            self.burst = false;
        }
    }

    /// Takes the front packet out of the serialiser at its departure time and starts the next one.
    fn depart(&mut self, at: u64) {
        let Some(waiting) = self.queue.pop_front() else { return };
        self.queue_len -= waiting.packet.len();
        if let Some(rate) = self.config.rate_bps {
            let done = u128::from(at - self.as_of) * u128::from(rate);
            self.credit = (self.credit + done).saturating_sub(self.work);
        }
        self.as_of = at;
        self.start_front();
        self.launch(at, waiting);
    }

    fn start_front(&mut self) {
        let Some(front) = self.queue.front() else {
            (self.work, self.credit) = (0, 0);
            return;
        };
        let work = front.packet.len() as u128 * WORK_PER_BYTE;
        let covered = work.min(self.credit);
        self.credit -= covered;
        self.work = work - covered;
    }

    /// Decides what the medium does to a packet. Draws are made in a fixed order and number, so
    /// that turning one fault on does not move another one's.
    fn launch(&mut self, at: u64, waiting: Waiting) {
        let Waiting { number, packet } = waiting;
        let mut rng = Rng::for_packet(self.seed, self.stream, number);
        let lost = self.draw_loss(number, &mut rng);
        let duplicated = rng.chance_ppm(self.config.duplicate_ppm);
        let held_back = rng.chance_ppm(self.config.reorder_ppm);
        let bound = self.config.jitter_ns.saturating_add(1);
        let (jitter, copy_jitter) = (rng.below(bound), rng.below(bound));
        if self.config.blackhole || lost {
            let blackhole = self.config.blackhole;
            let reason = if blackhole { DropReason::Blackhole } else { DropReason::Loss };
            self.counters.count_drop(reason, packet.len());
            return;
        }
        let copy = duplicated.then(|| packet.clone());
        let due = at.saturating_add(self.config.delay_ns).saturating_add(jitter);
        if held_back {
            self.counters.reordered_packets += 1;
            let order = self.next_order();
            let due = due.max(self.last_due).saturating_add(self.config.reorder_extra_ns);
            self.late.insert((due, order), packet);
        } else {
            self.fly(due, packet);
        }
        if let Some(copy) = copy {
            self.counters.duplicated_packets += 1;
            let due = at.saturating_add(self.config.delay_ns).saturating_add(copy_jitter);
            self.fly(due, copy);
        }
    }

    fn draw_loss(&mut self, number: u64, rng: &mut Rng) -> bool {
        let (step, draw) = (rng.below(1_000_000), rng.below(1_000_000));
        match &self.config.loss {
            Loss::None => false,
            Loss::Bernoulli(ppm) => draw < u64::from(*ppm),
            Loss::List(numbers) => numbers.contains(&number),
            Loss::GilbertElliott { enter_ppm, leave_ppm, good_ppm, burst_ppm } => {
                let toggle = if self.burst { *leave_ppm } else { *enter_ppm };
                self.burst ^= step < u64::from(toggle);
                draw < u64::from(if self.burst { *burst_ppm } else { *good_ppm })
            }
        }
    }

    fn fly(&mut self, due: u64, packet: Vec<u8>) {
        let due = due.max(self.last_due);
        self.last_due = due;
        let order = self.next_order();
        self.in_order.push_back(Flying { due, order, packet });
    }

    const fn next_order(&mut self) -> u64 {
        self.launched += 1;
        self.launched
    }
}

#[cfg(test)]
mod tests;
