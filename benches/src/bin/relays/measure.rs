//! One relay under all loads, in a network of its own.

use crate::bed::Bed;
use crate::cpus::Cpus;
use crate::interrupt::Interrupt;
use crate::load::{Bulk, Direction, Server, bulk, ping_pong, sessions};
use crate::peer::Peer;
use crate::process::{Running, Scratch};
use core::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a relay has to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Load {
    Bulk(Direction, usize),
    Sessions,
    PingPong,
}

/// Clients that make sessions at the same time.
const SESSION_CLIENTS: usize = 32;

/// How long everything is watched.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) loads: Vec<Load>,
    pub(crate) warm_up: Duration,
    pub(crate) watch: Duration,
}

/// The gateway's CPU without a relay.
const BASE: Duration = Duration::from_millis(300);

/// What one load showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Gbit/s, or sessions per second.
    pub(crate) rate: f64,
    /// CPU seconds per GB, or microseconds per session.
    pub(crate) cost: f64,
    /// p50, p99 and p99.9 of a round trip, microseconds.
    pub(crate) trips: [f64; 3],
}

/// A load and what became of it.
pub(crate) type Outcome = (Load, Result<Sample, String>);

/// What measuring needs besides the relay.
pub(crate) struct Lab<'a> {
    pub(crate) cpus: &'a Cpus,
    pub(crate) scratch: &'a Scratch,
    pub(crate) interrupt: &'a Interrupt,
}

/// Runs every load of `plan`; an error of a single one is in its place. `base`: the share of the gateway's
/// CPU that others used before.
pub(crate) fn run(
    lab: &Lab<'_>,
    peer: Peer,
    mptcp: bool,
    plan: &Plan,
) -> Result<(Vec<Outcome>, f64), String> {
    let Lab { cpus, scratch, interrupt } = *lab;
    let bed = Bed::create(peer.holder(), peer.frames(), cpus)?;
    let server = Server::start(&bed)?;
    let before = cpus.read()?;
    interrupt.sleep(BASE)?;
    let after = cpus.read()?;
    let base = before.busy_s(&after) / before.until(&after).as_secs_f64();
    let relay = Running::start(peer, mptcp, &bed, cpus, scratch, interrupt)?;
    let mut bench = Bench { lab, bed: &bed, relay, server: &server, peer, mptcp, base };
    let mut outcomes = Vec::new();
    for &load in &plan.loads {
        let sample = bench.measure(load, plan);
        interrupt.check()?;
        outcomes.push((load, sample));
        // What is still in its buffers is not the next load's.
        interrupt.sleep(Duration::from_millis(50))?;
    }
    Ok((outcomes, base))
}

struct Bench<'a> {
    lab: &'a Lab<'a>,
    bed: &'a Bed,
    relay: Running,
    server: &'a Server,
    peer: Peer,
    mptcp: bool,
    base: f64,
}

impl Bench<'_> {
    fn measure(&mut self, load: Load, plan: &Plan) -> Result<Sample, String> {
        let target = self.peer.target(self.mptcp);
        let joins = self.bed.joins()?;
        let interrupt = self.lab.interrupt;
        let sample = self.bed.client.enter(|| match load {
            Load::Bulk(direction, streams) => {
                let at_server = self.server.received();
                let load = Bulk { target, direction, streams, at_server };
                bulk(&load, plan.warm_up, interrupt, |octets| {
                    let (octets, seconds, busy) = self.watch(octets, plan)?;
                    // GB are 10^9 octets.
                    let cost = busy / (octets / 1e9);
                    Ok(Sample { rate: octets * 8.0 / 1e9 / seconds, cost, ..Sample::default() })
                })
            }
            Load::Sessions => sessions(target, SESSION_CLIENTS, plan.warm_up, interrupt, |done| {
                let (done, seconds, busy) = self.watch(done, plan)?;
                Ok(Sample { rate: done / seconds, cost: busy * 1e6 / done, ..Sample::default() })
            }),
            Load::PingPong => {
                let trips = ping_pong(target, plan.watch)?;
                let at = |share: f64| {
                    let place = (trips.len() as f64 * share) as usize;
                    trips.get(place).map_or(f64::NAN, |&ns| ns as f64 / 1e3)
                };
                Ok(Sample { trips: [at(0.5), at(0.99), at(0.999)], ..Sample::default() })
            }
        })??;
        self.relay.check()?;
        if self.mptcp && matches!(load, Load::Bulk(..)) && self.bed.joins()? == joins {
            return Err("no second subflow was made".to_owned());
        }
        Ok(sample)
    }

    /// What was counted meanwhile, the seconds it took, and those that the relay used of its CPU. A
    /// gateway that found nothing to do and asked again has not used it.
    fn watch(&self, counter: &AtomicU64, plan: &Plan) -> Result<(f64, f64, f64), String> {
        let (asked, polling) = (Instant::now(), self.relay.polling_ns()?);
        let (start, counted) = (self.lab.cpus.read()?, counter.load(Ordering::Relaxed));
        self.lab.interrupt.sleep(plan.watch)?;
        let (end, counted_then) = (self.lab.cpus.read()?, counter.load(Ordering::Relaxed));
        if counted_then == counted {
            return Err("nothing arrived".to_owned());
        }
        let seconds = start.until(&end).as_secs_f64();
        let polled = (self.relay.polling_ns()? - polling) as f64 / 1e9;
        let polled = polled * seconds / asked.elapsed().as_secs_f64();
        let busy = (start.busy_s(&end) - self.base * seconds - polled).max(0.0);
        // testpmd asks again all the time and does not say how often in vain.
        let busy = if self.peer.is_testpmd() { f64::NAN } else { busy };
        Ok(((counted_then - counted) as f64, seconds, busy))
    }
}
