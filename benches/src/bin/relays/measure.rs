//! One relay under all loads, in a network of its own.

use crate::bed::Bed;
use crate::cpus::Cpus;
use crate::interrupt::Interrupt;
use crate::load::{Bulk, Direction, Server, bulk, ping_pong, sessions};
use crate::peer::Peer;
use crate::process::{Running, Scratch};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

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

/// Between two loads: until the server has no connection, and for what is behind that.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_millis(30);

/// Where others use a larger share of it, its idle time says nothing about the relay.
pub(crate) const NOISE: f64 = 0.2;

/// What one load showed. NaN: it cannot be told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Gbit/s, or sessions per second.
    pub(crate) rate: f64,
    /// CPU seconds per GB, or microseconds per session.
    pub(crate) cost: f64,
    /// What of it the relay's own processes used.
    pub(crate) own_cost: f64,
    /// The same of a polling loop's turns that had something to do.
    pub(crate) loop_cost: f64,
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
    let relay = Running::start(peer, mptcp, Some(&bed), cpus, scratch, interrupt)?;
    let mut bench = Bench { lab, bed: &bed, relay, server: &server, peer, mptcp, base };
    let mut outcomes = Vec::new();
    for &load in &plan.loads {
        let sample = bench.measure(load, plan);
        let cut_short = interrupt.check().is_err();
        if !cut_short || sample.is_ok() {
            outcomes.push((load, sample));
        }
        if cut_short {
            break;
        }
        // What is still in its buffers is not the next load's.
        let _ = interrupt.wait_for(SETTLE_MAX, || Ok(server.is_idle()));
        let _ = interrupt.sleep(SETTLE);
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

impl Load {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bulk(Direction::Down, streams) => format!("down-{streams}"),
            Self::Bulk(Direction::Up, streams) => format!("up-{streams}"),
            Self::Sessions => "sessions".to_owned(),
            Self::PingPong => "latency".to_owned(),
        }
    }
}

impl Bench<'_> {
    fn measure(&mut self, load: Load, plan: &Plan) -> Result<Sample, String> {
        let target = self.peer.target(self.mptcp);
        let joins = self.bed.joins()?;
        let interrupt = self.lab.interrupt;
        let sample = self.bed.client.enter(|| match load {
            Load::Bulk(direction, streams) => {
                let at_server = self.server.received();
                let load = Bulk { target, direction, streams, at_server, pace: None };
                bulk(&load, plan.warm_up, interrupt, |octets| {
                    let seen = self.watch(octets, plan)?;
                    // GB are 10^9 octets.
                    let gigabytes = seen.count / 1e9;
                    Ok(Sample {
                        rate: gigabytes * 8.0 / seen.seconds,
                        cost: seen.busy_s / gigabytes,
                        own_cost: seen.own_s / gigabytes,
                        loop_cost: seen.loop_s / gigabytes,
                        ..Sample::default()
                    })
                })
            }
            Load::Sessions => sessions(target, SESSION_CLIENTS, plan.warm_up, interrupt, |done| {
                let seen = self.watch(done, plan)?;
                Ok(Sample {
                    rate: seen.count / seen.seconds,
                    cost: seen.busy_s * 1e6 / seen.count,
                    own_cost: seen.own_s * 1e6 / seen.count,
                    loop_cost: seen.loop_s * 1e6 / seen.count,
                    ..Sample::default()
                })
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

    /// Watches a counter and the gateway's CPU. A gateway that found nothing to do and asked again has
    /// not used it.
    fn watch(&self, counter: &AtomicU64, plan: &Plan) -> Result<Seen, String> {
        let (asked, spent) = (Instant::now(), self.relay.spent()?);
        let own = self.relay.cpu_s();
        let (start, counted) = (self.lab.cpus.read()?, counter.load(Ordering::Relaxed));
        self.lab.interrupt.sleep(plan.watch)?;
        let (end, counted_then) = (self.lab.cpus.read()?, counter.load(Ordering::Relaxed));
        if counted_then == counted {
            return Err("nothing arrived".to_owned());
        }
        let seconds = start.until(&end).as_secs_f64();
        let own = self.relay.cpu_s() - own;
        // The loop was asked a little before and a little after.
        let share = seconds / asked.elapsed().as_secs_f64();
        let spent_then = self.relay.spent()?;
        let polled = (spent_then.polling_ns - spent.polling_ns) as f64 / 1e9 * share;
        let busy_ns = spent_then.busy_ns - spent.busy_ns;
        let loop_s = if busy_ns > 0 { busy_ns as f64 / 1e9 * share } else { f64::NAN };
        let (mut busy_s, mut own_s) =
            (start.busy_s(&end) - self.base * seconds - polled, own - polled);
        (busy_s, own_s) = (busy_s.max(0.0), own_s.max(0.0));
        if self.base > NOISE {
            busy_s = f64::NAN;
        }
        if self.peer.is_testpmd() {
            // It asks again all the time and does not say for how long in vain.
            (busy_s, own_s) = (f64::NAN, f64::NAN);
        }
        Ok(Seen { count: (counted_then - counted) as f64, seconds, busy_s, own_s, loop_s })
    }
}

/// What happened in a stretch of time.
struct Seen {
    count: f64,
    seconds: f64,
    /// Of the gateway's CPU, without what others used before and what was spent asking.
    busy_s: f64,
    /// Of the relay's processes alone.
    own_s: f64,
    /// Of a polling loop's turns that had something to do.
    loop_s: f64,
}
