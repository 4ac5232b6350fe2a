//! The gateway's shards, and between them what a loop with rings does: a packet arrives at the shard that the
//! port's hash names, goes home, and from there to its owner. Notes go to homes.

use super::world::Host;
use crate::control::ShardHandle;
use crate::run::worker::ShardWorker;
use core::hash::{Hash, Hasher};
use core::time::Duration;
use mptcp_core::buf::{HeapBuf, PortId};
use mptcp_core::driver::{Control, Worker};
use mptcp_core::steering::{Layout, Steering, SteeringNote, SteeringStats, Tuple};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, TcpSegment};
use netsim::network::Network;
use netsim::rng::Rng;
use std::collections::VecDeque;
use std::hash::DefaultHasher;

/// How the gateway is spread over shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) shards: u8,
    pub(super) rss: Rss,
    pub(super) rings: Rings,
    /// Of each home.
    pub(super) limits: mptcp_core::steering::SteeringLimits,
}

/// Which shard a packet arrives at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rss {
    /// Its home, as a port does that took our key.
    Home,
    /// By a hash of its own, another one for each direction of a flow.
    Other,
    /// Any, another one for each packet.
    Scattered,
}

/// The rings between shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    /// What one takes.
    pub(super) len: usize,
    /// How often a busy shard looks at them; at once where there is none.
    pub(super) every: Option<Duration>,
}

impl Spread {
    pub(super) fn over(shards: u8, rss: Rss) -> Self {
        let rings = Rings { len: usize::MAX, every: None };
        Self { shards, rss, rings, limits: mptcp_core::steering::SteeringLimits::default() }
    }
}

/// One shard.
pub(super) struct Core {
    pub(super) host: Host<ShardWorker<HeapBuf>>,
    pub(super) handle: ShardHandle,
    steering: Steering,
    /// Rings from each of the others.
    rings: Vec<VecDeque<(Vec<u8>, PortId)>>,
    notes: VecDeque<SteeringNote>,
    stopped: bool,
}

impl Core {
    pub(super) fn new(
        host: Host<ShardWorker<HeapBuf>>,
        handle: ShardHandle,
        steering: Steering,
        shards: u8,
    ) -> Self {
        let rings = (0..shards).map(|_| VecDeque::new()).collect();
        Self { host, handle, steering, rings, notes: VecDeque::new(), stopped: false }
    }

    fn has_work(&self) -> bool {
        !self.notes.is_empty() || self.rings.iter().any(|ring| !ring.is_empty())
    }
}

/// All of them.
pub(super) struct Cores {
    pub(super) cores: Vec<Core>,
    spread: Spread,
    layout: Layout,
    rng: Rng,
    served_at: Instant,
    /// Packets for which a ring had no room.
    pub(super) dropped: u64,
}

impl Cores {
    pub(super) fn new(cores: Vec<Core>, spread: Spread, layout: Layout, seed: u64) -> Self {
        let served_at = Instant::from_nanos(1);
        Self { cores, spread, layout, rng: Rng::new(seed), served_at, dropped: 0 }
    }

    /// A packet comes in by a port.
    pub(super) fn arrive(&mut self, now: Instant, packet: &[u8], port: PortId) {
        let at = match (self.spread.rss, tuple(packet)) {
            (Rss::Home, Some(tuple)) => self.layout.shard_of_flow(&tuple),
            (Rss::Other, Some(tuple)) => {
                let mut hasher = DefaultHasher::new();
                tuple.hash(&mut hasher);
                (hasher.finish() % u64::from(self.spread.shards)) as u8
            }
            _ => self.rng.below(u64::from(self.spread.shards)) as u8,
        };
        let core = &mut self.cores[usize::from(at)];
        let worker = &core.host.worker;
        let to = core.steering.arrived(now, packet, |tuple| worker.has_flow(tuple));
        self.hand_over(at, to, packet.to_vec(), port);
    }

    fn hand_over(&mut self, from: u8, to: u8, packet: Vec<u8>, port: PortId) {
        let core = &mut self.cores[usize::from(to)];
        if from == to {
            return core.host.receive(&packet, port);
        }
        let ring = &mut core.rings[usize::from(from)];
        if ring.len() < self.spread.rings.len {
            ring.push_back((packet, port));
        } else {
            self.dropped += 1;
        }
    }

    /// Every shard takes what the others have for it; what it hands on waits for the next time, unless all is
    /// done at once.
    fn serve_rings(&mut self, now: Instant) {
        if let Some(every) = self.spread.rings.every {
            if now < self.served_at + every {
                return;
            }
            self.served_at = now;
        }
        while self.cores.iter().any(Core::has_work) {
            for to in 0..self.spread.shards {
                self.serve(now, to);
            }
            if self.spread.rings.every.is_some() {
                return;
            }
        }
    }

    fn serve(&mut self, now: Instant, own: u8) {
        let core = &mut self.cores[usize::from(own)];
        for note in core.notes.drain(..) {
            assert_eq!(note.home, own);
            core.steering.apply(now, &note);
        }
        for from in 0..self.spread.shards {
            let ring = core::mem::take(&mut self.cores[usize::from(own)].rings[usize::from(from)]);
            for (packet, port) in ring {
                let core = &mut self.cores[usize::from(own)];
                let worker = &core.host.worker;
                let to = core.steering.forwarded(now, &packet, |tuple| worker.has_flow(tuple));
                self.hand_over(own, to, packet, port);
            }
        }
    }

    /// One turn of everybody; true when all have stopped.
    pub(super) fn turn(&mut self, now: Instant, net: &mut Network) -> bool {
        self.serve_rings(now);
        for own in 0..self.cores.len() {
            let core = &mut self.cores[own];
            if core.stopped {
                continue;
            }
            core.stopped = core.host.turn(now, net) == Control::Stop;
            let notes = core::iter::from_fn(|| core.host.worker.poll_steering_note());
            for note in notes.collect::<Vec<_>>() {
                self.cores[usize::from(note.home)].notes.push_back(note);
            }
        }
        self.cores.iter().all(|core| core.stopped)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let rings =
            self.cores.iter().any(Core::has_work).then(|| {
                self.spread.rings.every.map_or(Instant::MIN, |every| self.served_at + every)
            });
        let running = self.cores.iter().filter(|core| !core.stopped);
        running.filter_map(|core| core.host.worker.poll_timeout()).chain(rings).min()
    }

    /// Sessions that were reset because the drain had to end.
    pub(super) fn aborted(&self) -> u32 {
        self.cores.iter().map(|core| core.host.worker.aborted()).sum()
    }

    /// Of each shard.
    pub(super) fn steering(&self) -> Vec<SteeringStats> {
        self.cores.iter().map(|core| core.steering.stats()).collect()
    }
}

fn tuple(packet: &[u8]) -> Option<Tuple> {
    let header = IpHeader::parse(packet).ok()?;
    let segment = TcpSegment::parse(packet.get(header.header_len..)?).ok()?;
    Some(Tuple {
        local_addr: header.dst,
        remote_addr: header.src,
        local_port: segment.dst_port,
        remote_port: segment.src_port,
    })
}
