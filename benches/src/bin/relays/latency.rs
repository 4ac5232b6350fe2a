//! What a relay adds to a round trip: beside other connections that offer a part of what it can carry, and
//! after a silence; and what it takes of the CPU meanwhile.
//!
//! The same rates are then offered through the forwarding kernel. The rest of the way is as busy with both, so
//! that the difference is the relay's.

use crate::bed::Bed;
use crate::load::{Bulk, Direction, Server, TICK, after_silence, bulk, probe};
use crate::measure::Lab;
use crate::peer::Peer;
use crate::process::Running;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

/// Parts of the capacity, in percent.
const SHARES: [u32; 3] = [10, 50, 90];
const STREAMS: u32 = 16;
const WARM_UP: Duration = Duration::from_millis(300);
/// Two thousand round trips a second: the relay sleeps between them when there is nothing else.
const EVERY: Duration = Duration::from_micros(500);
const SILENCE: Duration = Duration::from_secs(1);
/// p50, p99 and p99.9.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// How long everything is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) capacity: Duration,
    pub(crate) probe: Duration,
    pub(crate) silences: usize,
}

impl Plan {
    pub(crate) const fn new(quick: bool) -> Self {
        if quick {
            let (capacity, probe) = (Duration::from_millis(500), Duration::from_secs(1));
            return Self { capacity, probe, silences: 3 };
        }
        let (capacity, probe) = (Duration::from_secs(1), Duration::from_secs(3));
        Self { capacity, probe, silences: 10 }
    }
}

/// Microseconds at each quantile.
type Trips = [f64; 3];

/// A relay that nobody asks for anything but an octet a second.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// Shares of a core: its processes, and its loop's busy and polling turns.
    own: f64,
    busy: f64,
    polling: f64,
    /// Round trips after a silence: the median, and the longest.
    trips: [f64; 2],
}

/// What one run of a relay showed.
#[derive(Clone, Debug)]
struct Sample {
    /// Gbit/s.
    capacity: f64,
    /// For each share: through the relay, and forwarded at the same rate.
    loaded: [(Trips, Trips); 3],
    rest: Rest,
    /// The same of the forwarding kernel: its round trips.
    forwarded: [f64; 2],
}

/// All samples, by relay and client.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<(Peer, bool), Vec<Sample>>);

impl Results {
    /// One run of one relay.
    pub(crate) fn measure(
        &mut self,
        lab: &Lab<'_>,
        peer: Peer,
        mptcp: bool,
        plan: Plan,
    ) -> Result<(), String> {
        let relay = Bench::start(lab, peer, mptcp)?;
        let capacity = relay.capacity(plan)?;
        let rest = relay.rest(plan)?;
        let pace = |share: u32| {
            let octets = capacity / f64::from(STREAMS) * TICK.as_secs_f64() * f64::from(share);
            (octets / 100.0) as u32
        };
        let mut loaded = [([f64::NAN; 3], [f64::NAN; 3]); 3];
        for (found, share) in loaded.iter_mut().zip(SHARES) {
            found.0 = relay.beside(pace(share), plan)?;
        }
        drop(relay);
        let kernel = Bench::start(lab, Peer::Routed, false)?;
        for (found, share) in loaded.iter_mut().zip(SHARES) {
            found.1 = kernel.beside(pace(share), plan)?;
        }
        let forwarded = kernel.rest(plan)?.trips;
        let sample = Sample { capacity: capacity * 8.0 / 1e9, loaded, rest, forwarded };
        self.0.entry((peer, mptcp)).or_default().push(sample);
        Ok(())
    }

    /// Whether every run failed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything as Markdown.
    pub(crate) fn tables(&self) -> String {
        // Formatting into a String cannot fail.
        let mut text = "Microseconds added to a round trip (p50 / p99 / p99.9) while 16 downloads \
                        offer a part of the relay's capacity:\n\n| relay | client | Gbit/s |"
            .to_owned();
        for share in SHARES {
            let _ = write!(text, " {share} % |");
        }
        text.push_str(" forwarded at 10 % | at 90 % |\n|---|---|---|---|---|---|---|---|\n");
        for (&(peer, mptcp), samples) in &self.0 {
            let row = [median(samples, |s| s.capacity)].map(|rate| format!("{rate:.2}"));
            let added =
                |at: usize| cells(|q| median(samples, |s| s.loaded[at].0[q] - s.loaded[at].1[q]));
            let forwarded = |at: usize| cells(|q| median(samples, |s| s.loaded[at].1[q]));
            let row: Vec<_> = row
                .into_iter()
                .chain([added(0), added(1), added(2), forwarded(0), forwarded(2)])
                .collect();
            let _ = writeln!(text, "{} | {} |", name(peer, mptcp), row.join(" | "));
        }
        text.push_str(
            "\nWith an octet a second: shares of a core, and microseconds added to the round trip \
             after a second of silence:\n\n| relay | client | its processes | busy turns | \
             polling turns | added, median | added, longest | forwarded, median |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for (&(peer, mptcp), samples) in &self.0 {
            let percent = |of: fn(&Rest) -> f64| {
                let share = median(samples, |s| of(&s.rest)) * 100.0;
                if share.is_nan() { "-".to_owned() } else { format!("{share:.2} %") }
            };
            let added = |at: usize| median(samples, |s| s.rest.trips[at] - s.forwarded[at]);
            let _ = writeln!(
                text,
                "{} | {} | {} | {} | {:.0} | {:.0} | {:.0} |",
                name(peer, mptcp),
                percent(|rest| rest.own),
                percent(|rest| rest.busy),
                percent(|rest| rest.polling),
                added(0),
                added(1),
                median(samples, |s| s.forwarded[0])
            );
        }
        text
    }
}

fn name(peer: Peer, mptcp: bool) -> String {
    format!("| {} | {}", peer.title(), if mptcp { "MPTCP" } else { "TCP" })
}

fn cells(of: impl Fn(usize) -> f64) -> String {
    [0, 1, 2].map(|q| format!("{:.0}", of(q))).join(" / ")
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<_> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        n => values[n / 2],
    }
}

/// Of sorted nanoseconds, in microseconds.
fn at(trips: &[u64], quantile: f64) -> f64 {
    let place = (trips.len() as f64 * quantile) as usize;
    trips.get(place).map_or(f64::NAN, |&ns| ns as f64 / 1e3)
}

/// A relay in a network of its own.
struct Bench<'a> {
    lab: &'a Lab<'a>,
    // In the order of their end.
    relay: Running,
    server: Server,
    bed: Bed,
    peer: Peer,
    mptcp: bool,
}

impl<'a> Bench<'a> {
    fn start(lab: &'a Lab<'a>, peer: Peer, mptcp: bool) -> Result<Self, String> {
        let Lab { cpus, scratch, interrupt } = *lab;
        let bed = Bed::create(peer.holder(), peer.frames(), cpus)?;
        let server = Server::start(&bed)?;
        let relay = Running::start(peer, mptcp, Some(&bed), cpus, scratch, interrupt)?;
        Ok(Self { lab, relay, server, bed, peer, mptcp })
    }

    /// Calls `measure` on a thread of the client's network, while downloads run.
    fn under<T: Send>(
        &self,
        pace: Option<u32>,
        measure: impl FnOnce(&AtomicU64) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let (target, interrupt) = (self.peer.target(self.mptcp), self.lab.interrupt);
        let (at_server, streams) = (self.server.received(), STREAMS as usize);
        let load = Bulk { target, direction: Direction::Down, streams, at_server, pace };
        let measured = self.bed.client.enter(|| bulk(&load, WARM_UP, interrupt, measure))??;
        self.relay.check()?;
        interrupt.wait_for(Duration::from_secs(10), || Ok(self.server.is_idle()))?;
        Ok(measured)
    }

    /// Octets per second.
    fn capacity(&self, plan: Plan) -> Result<f64, String> {
        self.under(None, |arrived| {
            let (start, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
            self.lab.interrupt.sleep(plan.capacity)?;
            let octets = arrived.load(Ordering::Relaxed) - before;
            Ok(octets as f64 / start.elapsed().as_secs_f64())
        })
    }

    /// Round trips beside streams that are offered `pace` octets a tick each.
    fn beside(&self, pace: u32, plan: Plan) -> Result<Trips, String> {
        let target = self.peer.target(self.mptcp);
        let trips = self.under(Some(pace), |_| probe(target, plan.probe, EVERY))?;
        Ok(QUANTILES.map(|quantile| at(&trips, quantile)))
    }

    fn rest(&self, plan: Plan) -> Result<Rest, String> {
        let (target, interrupt) = (self.peer.target(self.mptcp), self.lab.interrupt);
        let (start, own, spent) = (Instant::now(), self.relay.cpu_s(), self.relay.spent()?);
        let trips = self
            .bed
            .client
            .enter(|| after_silence(target, plan.silences, SILENCE, interrupt))??;
        let (then, seconds) = (self.relay.spent()?, start.elapsed().as_secs_f64());
        let own = (self.relay.cpu_s() - own) / seconds;
        let part = |now: u64, before: u64| {
            if self.peer.is_polling() { (now - before) as f64 / 1e9 / seconds } else { f64::NAN }
        };
        Ok(Rest {
            own,
            busy: part(then.busy_ns, spent.busy_ns),
            polling: part(then.polling_ns, spent.polling_ns),
            trips: [at(&trips, 0.5), trips.last().map_or(f64::NAN, |&ns| ns as f64 / 1e3)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_the_difference_at_the_same_rate() {
        let mut results = Results::default();
        for run in [0.0, 1.0, 50.0] {
            let rest = Rest { own: 0.02, busy: 0.001, polling: f64::NAN, trips: [90.0, 700.0] };
            let loaded = [([60.0 + run, 80.0, 100.0], [20.0, 30.0, 40.0]); 3];
            let sample = Sample { capacity: 2.5, loaded, rest, forwarded: [40.0, 60.0] };
            results.0.entry((Peer::AfXdpPower, true)).or_default().push(sample);
        }
        let text = results.tables();
        let row = "| **Plait, af_xdp, `power`** | MPTCP | 2.50 | 41 / 50 / 60 | 41 / 50 / 60 | \
                   41 / 50 / 60 | 20 / 30 / 40 | 20 / 30 / 40 |";
        assert!(text.contains(row), "{text}");
        let row = "| **Plait, af_xdp, `power`** | MPTCP | 2.00 % | 0.10 % | - | 50 | 640 | 40 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn quantiles_are_of_what_was_sorted() {
        let trips: Vec<u64> = (0..1_000).map(|n| n * 1_000).collect();
        assert_eq!([at(&trips, 0.5), at(&trips, 0.999)], [500.0, 999.0]);
        assert!(at(&[], 0.5).is_nan());
    }
}
