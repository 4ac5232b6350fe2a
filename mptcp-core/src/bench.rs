//! Inner parts for the measurements in `benches`, and for nobody else: no promise about any of it.

use crate::config::SchedulerKind;
use crate::mptcp::scheduler::{self, Choice, Demand, Memory, PathView};
use crate::rng::Rng;
use crate::stack::demux::{Demux, Flow};
use crate::tcp::{KeptTuple, Segment, Tuple};
use crate::time::Duration;
use crate::wire::{TcpSegment, WireError};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Octets that the stack keeps of an idle relayed session, at most.
pub const IDLE_SESSION: usize = crate::stack::IDLE_SESSION;

/// Reads a segment as the stack does, into what a control block is given.
///
/// # Errors
/// What is wrong with its header.
pub fn read_segment(bytes: &[u8]) -> Result<impl Sized, WireError> {
    TcpSegment::parse(bytes).map(|view| Segment::new(&view))
}

/// The 4-tuple of connection number `n` of many.
#[derive(Clone, Copy, Debug)]
pub struct Key(Tuple);

impl Key {
    /// 65,536 addresses have one connection each before one of them has a second.
    #[must_use]
    pub fn new(n: u32) -> Self {
        let [port_high, port_low, host_high, host_low] = n.to_be_bytes();
        Self(Tuple {
            local_addr: IpAddr::from([10, 0, 0, 1]),
            remote_addr: IpAddr::from([10, 1, host_high, host_low]),
            local_port: 1080,
            remote_port: u16::from_be_bytes([port_high, port_low]) + 40_000,
        })
    }
}

/// The table that packets are demultiplexed with.
pub struct FlowTable {
    demux: Demux,
    /// As the blocks have them.
    tuples: Vec<KeptTuple>,
}

impl FlowTable {
    /// Each key leads to its position in `keys`.
    #[must_use]
    pub fn new(keys: &[Key]) -> Self {
        let mut demux = Demux::new(&mut Rng::from_seed([7; 32]), keys.len(), 0, 0);
        let tuples: Vec<KeptTuple> = keys.iter().map(|key| KeptTuple::new(key.0)).collect();
        for (idx, key) in (0..).zip(keys) {
            demux.insert(&key.0, Flow::Tcb(idx), |flow| has(&tuples, flow, key));
        }
        Self { demux, tuples }
    }

    /// Where `key` leads.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.demux.hash(&key.0);
        match self.demux.find(hash, |flow| has(&self.tuples, flow, key)) {
            Some(Flow::Tcb(idx)) => Some(idx),
            _ => None,
        }
    }
}

impl core::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("FlowTable").field(&self.demux.flow_count()).finish()
    }
}

fn has(tuples: &[KeptTuple], flow: Flow, key: &Key) -> bool {
    let Flow::Tcb(idx) = flow else { return false };
    tuples.get(idx as usize).is_some_and(|tuple| tuple.is(&key.0))
}

/// The default scheduler before a choice.
#[derive(Debug)]
pub struct Schedule {
    memory: Memory,
    demand: Demand,
    paths: Vec<PathView>,
}

impl Schedule {
    /// Between `count` paths of 10 Mbyte/s whose round trips are 10, 12, 14 ... ms. `full`: the fastest
    /// has no room, so that the others must be weighed against it.
    #[must_use]
    pub fn new(count: u8, full: bool) -> Self {
        let path = |at: u8| {
            let srtt = Duration::from_millis(10 + 2 * u64::from(at));
            let room = !full || at > 0;
            PathView {
                room,
                busy: !room,
                held: Duration::ZERO,
                backup: false,
                stale: false,
                doubtful: false,
                unknown: false,
                opening: false,
                srtt,
                one_way: srtt / 2,
                rttvar: Duration::from_millis(1),
                rate: 10_000_000,
                cwnd: 120_000,
                in_flight: if room { 60_000 } else { 120_000 },
                mss: 1428,
                priority: 0,
                served: 0,
                weight: 1,
            }
        };
        let demand = Demand {
            unsent: 1 << 30,
            window: 4 << 20,
            buffer: u64::from(crate::config::TcpConfig::default().send_buffer_max),
            stranded: 0,
            spare: 0,
        };
        Self { memory: Memory::default(), demand, paths: (0..count).map(path).collect() }
    }

    /// The path for the next segment.
    pub fn pick(&mut self) -> Option<usize> {
        let kind = SchedulerKind::Default;
        match scheduler::pick(kind, &mut self.memory, &self.demand, &self.paths).0 {
            Choice::Path(at) | Choice::Ahead(at, _) => Some(at),
            Choice::Wait | Choice::Probe(_) => None,
        }
    }
}
