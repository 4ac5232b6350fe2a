//! Single steps of the stack's work (goals M1 to M6).

use crate::meter::Meter;
use core::hint::black_box;
use mptcp_core::bench::{FlowTable, Key, Schedule, read_segment};
use mptcp_core::mptcp::key::{join_hmac, token};
use mptcp_core::seq::SeqNum;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::util::slab::Slab;
use mptcp_core::util::wheel::TimerWheel;
use mptcp_core::wire::{
    Dss, Mapping, MptcpOption, OptionWriter, TcpFlags, TcpHeader, Version, WireSeq, checksum,
};

/// Repetitions of a step.
const STEPS: u32 = 1000;

/// Measures [`STEPS`] calls of `step`.
pub(crate) fn repeat(meter: &mut Meter, mut step: impl FnMut(u32)) {
    meter.measure(|| (0..STEPS).for_each(&mut step));
    meter.add(f64::from(STEPS));
}

/// A permutation of `0..count` that does not repeat neighbourhoods.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_key(|n| n.wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b));
    order
}

/// What fills an Ethernet frame behind IPv4 and TCP.
pub(crate) fn payload() -> Vec<u8> {
    (0..1460_u32).map(|n| n.to_le_bytes()[0]).collect()
}

pub(crate) fn checksum(meter: &mut Meter) {
    let payload = payload();
    repeat(meter, |_| {
        black_box(checksum::sum(black_box(&payload)));
    });
}

fn header() -> TcpHeader {
    TcpHeader {
        src_port: 1080,
        dst_port: 40_000,
        seq: SeqNum(0x1234_5678),
        ack: SeqNum(0x9abc_def0),
        flags: TcpFlags::ACK,
        window: 4096,
        urgent: 0,
    }
}

/// Timestamps and a DSS with an acknowledgement of 8 octets and a mapping: 28 octets, the longest.
fn options() -> OptionWriter {
    let mut options = OptionWriter::new();
    let mapping =
        Mapping { dsn: WireSeq::Full(0x0123_4567_89ab_cdef), ssn: 77, len: 1428, checksum: None };
    let dss = Dss {
        data_ack: Some(WireSeq::Full(0xfedc_ba98_7654_3210)),
        mapping: Some(mapping),
        data_fin: false,
    };
    let fits = options.push_timestamps(black_box(1000), black_box(900))
        && options.push_mptcp(&MptcpOption::Dss(black_box(dss)), Version::V1);
    assert!(fits);
    options
}

/// A whole segment with 1408 octets of payload: the headers fill what is left of 1460.
pub(crate) fn segment() -> Vec<u8> {
    let mut bytes = vec![0; 60 + 1408];
    let len = header().emit(&options(), &mut bytes);
    bytes.truncate(len + 1408);
    bytes
}

pub(crate) fn parse(meter: &mut Meter) {
    let bytes = segment();
    repeat(meter, |_| {
        let _ = black_box(read_segment(black_box(&bytes)));
    });
}

pub(crate) fn emit(meter: &mut Meter) {
    let mut bytes = segment();
    repeat(meter, |_| {
        let header = black_box(header());
        black_box(header.emit(&options(), black_box(&mut bytes)));
    });
}

pub(crate) fn hmac(meter: &mut Meter) {
    repeat(meter, |n| {
        black_box(join_hmac(Version::V1, black_box(0x1234_5678), black_box(0x9abc_def0), n, !n));
    });
}

pub(crate) fn token_of_key(meter: &mut Meter) {
    repeat(meter, |n| {
        black_box(token(Version::V1, u64::from(n)));
    });
}

/// When timers are armed.
pub(crate) const BEGIN: Instant = Instant::from_millis(1000);

/// Of `count` timers up to 200 ms ahead, in no order.
pub(crate) fn deadlines(count: u32) -> Vec<Instant> {
    let spread = |n: u32| Duration::from_nanos(u64::from(n) * 200_000_000 / u64::from(count));
    shuffled(count).into_iter().map(|n| BEGIN + spread(n)).collect()
}

/// Timers armed and stopped in no order either.
struct Timers {
    wheel: TimerWheel,
    now: Instant,
    order: Vec<u32>,
    deadlines: Vec<Instant>,
}

impl Timers {
    fn new(count: u32) -> Self {
        let wheel = TimerWheel::with_capacity(count, BEGIN);
        let mut order = shuffled(count);
        // Deadlines are in that order as well: apart from it, neighbours in time are none in memory.
        let half = order.len() / 2;
        order.rotate_left(half);
        Self { wheel, now: BEGIN, order, deadlines: deadlines(count) }
    }

    fn arm(&mut self) {
        for (idx, deadline) in self.order.iter().zip(&self.deadlines) {
            self.wheel.arm(*idx, *deadline);
        }
    }

    fn cancel(&mut self) {
        for idx in &self.order {
            self.wheel.cancel(*idx);
        }
    }

    /// A look at the wheel every millisecond, until all are due.
    fn expire(&mut self) {
        while !self.wheel.is_empty() {
            self.now = self.now + Duration::from_millis(1);
            while black_box(self.wheel.expire(self.now)).is_some() {}
        }
    }
}

pub(crate) fn arm<const COUNT: u32>(meter: &mut Meter) {
    let mut timers = Timers::new(COUNT);
    meter.measure(|| timers.arm());
    meter.add(f64::from(COUNT));
}

pub(crate) fn cancel<const COUNT: u32>(meter: &mut Meter) {
    let mut timers = Timers::new(COUNT);
    timers.arm();
    meter.measure(|| timers.cancel());
    meter.add(f64::from(COUNT));
}

pub(crate) fn expire<const COUNT: u32>(meter: &mut Meter) {
    let mut timers = Timers::new(COUNT);
    timers.arm();
    meter.measure(|| timers.expire());
    meter.add(f64::from(COUNT));
}

/// Finds `COUNT` connections in turn, in no order, and writes to three cache lines of each.
pub(crate) fn lookup<const COUNT: u32>(meter: &mut Meter) {
    let keys: Vec<Key> = (0..COUNT).map(Key::new).collect();
    let table = FlowTable::new(&keys);
    let mut blocks: Slab<[u64; 24]> = Slab::with_capacity(COUNT);
    for _ in 0..COUNT {
        blocks.insert([0; 24]);
    }
    let asked: Vec<Key> = shuffled(COUNT).iter().map(|n| Key::new(*n)).collect();
    ask_all(meter, &asked, |key| {
        let block = table.find(black_box(key)).and_then(|idx| blocks.get_mut(idx));
        let block = block.expect("every key is in the table");
        for word in [0, 8, 16] {
            block[word] += 1;
        }
    });
}

/// Asks for every key, once to have it all in the caches and then [`STEPS`] times at least.
pub(crate) fn ask_all<K>(meter: &mut Meter, asked: &[K], mut ask: impl FnMut(&K)) {
    asked.iter().for_each(&mut ask);
    let rounds = (STEPS as usize).div_ceil(asked.len());
    meter.measure(|| (0..rounds).for_each(|_| asked.iter().for_each(&mut ask)));
    meter.add((rounds * asked.len()) as f64);
}

/// The choice among `PATHS`; with `FULL` the fastest has no room.
pub(crate) fn pick<const PATHS: u8, const FULL: bool>(meter: &mut Meter) {
    let mut schedule = Schedule::new(PATHS, FULL);
    assert_eq!(schedule.pick(), Some(usize::from(FULL)));
    repeat(meter, |_| {
        black_box(black_box(&mut schedule).pick());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_time_are_none_in_memory() {
        let Timers { order, deadlines, .. } = Timers::new(1000);
        let mut due: Vec<_> = deadlines.into_iter().zip(order).collect();
        due.sort_unstable();
        let near = due.windows(2).filter(|pair| pair[0].1.abs_diff(pair[1].1) < 10).count();
        assert!(near < 100, "{near} of 999 are");
    }
}
