//! Liveness: until a time that the seed decides almost everything is wrong with every path, from then on
//! nothing is, and the transfer must end within a bound that follows from the back-off of the timers, the
//! sizes and the paths. What a plan's box does to options or addresses it goes on doing.

use crate::boxes::{Kind, Placed};
use crate::plan::Plan;
use crate::swarm::{each_seed, number};
use crate::transfer::{Report, run_with};
use core::time::Duration;
use mptcp_core::time::Instant;
use netsim::link::{Change, LinkConfig, Loss};
use netsim::middlebox::{PayloadCorruptor, SynFate};
use netsim::{Direction, Rng};
use std::sync::Mutex;

/// Largest transfer in either direction: what counts is the time until things move again.
const MOST: u64 = 512 << 10;

#[derive(Debug)]
struct Storm {
    plan: Plan,
    /// When it ends.
    until: Duration,
    /// What happens to which path in which direction meanwhile.
    gusts: Vec<(usize, Direction, Duration, Change)>,
}

/// One thing that goes wrong.
fn gust(rng: &mut Rng) -> Change {
    let ppm = |rng: &mut Rng| u32::try_from(100_000 + rng.below(900_000)).unwrap_or(0);
    match rng.below(6) {
        0 => Change::Blackhole(true),
        1 => Change::Blackhole(false),
        2 => Change::Loss(Loss::Bernoulli(ppm(rng))),
        3 => Change::Delay(rng.log_uniform(1, 1_000) * 1_000_000),
        4 => Change::Mtu(usize::try_from(100 + rng.below(1_401)).unwrap_or(100)),
        _ => Change::Rate(Some(rng.log_uniform(1, 1_000) * 10_000)),
    }
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut plan = Plan::new(seed);
        (plan.up, plan.down) = (plan.up.min(MOST), plan.down.min(MOST));
        // It has timers and a patience of its own.
        plan.boxes.retain(|placed| !matches!(placed.kind, Kind::Proxy(..)));
        let mut rng = Rng::for_packet(seed, 0x5707, 0);
        let rng = &mut rng;
        let until = Duration::from_millis(rng.log_uniform(10, 20_000));
        let mut gusts = Vec::new();
        for path in 0..plan.links.len() {
            for dir in [Direction::AtoB, Direction::BtoA] {
                let ppm = u32::try_from(300_000 + rng.below(650_000)).unwrap_or(300_000);
                let heavy = Change::Loss(Loss::Bernoulli(ppm));
                gusts.push((path, dir, Duration::ZERO, heavy));
                for _ in 0..rng.below(6) {
                    let at = until.mul_f64(rng.below(1_000) as f64 / 1_000.0);
                    gusts.push((path, dir, at, gust(rng)));
                }
            }
        }
        Self { plan, until, gusts }
    }

    /// What the transfer may take from the end of the storm on. Every timer has backed off to at most
    /// twice the time it has been running; that of TCP, that of the data level, the one of the
    /// `DATA_FIN` and that of the FIN may have to fire one after the other, from a second each. Then the
    /// octets take the time they take on the slowest path, with windows that begin anew. Where SYNs with
    /// the option are dropped, three of them go first; where segments are cut small, what is out of order
    /// pins more memory than a small buffer may, and each 64 KiB may wait for a timeout of the data level.
    fn bound(&self) -> Duration {
        let dropped = |placed: &Placed| matches!(placed.kind, Kind::Syns(SynFate::DropWithMptcp));
        let first = if self.plan.boxes.iter().any(dropped) { 7 } else { 0 };
        let cut = |placed: &Placed| matches!(placed.kind, Kind::Splitter(..));
        let cuts = if self.plan.boxes.iter().any(cut) { 16 } else { 0 };
        // A hop that swallows long packets is known for it after three timeouts in a row, from three seconds
        // when a SYN was lost.
        let hole = |placed: &Placed| matches!(placed.kind, Kind::PathMtu { says: false, .. });
        let holes = if self.plan.boxes.iter().any(hole) { 3 * (1 + 2 + 4) } else { 0 };
        let timers = (4 + cuts) * (2 * self.until + Duration::from_secs(1))
            + Duration::from_secs(first + holes);
        let links = || self.plan.links.iter().flat_map(|(up, down)| [up, down]);
        let slowest =
            links().filter_map(|link| link.rate_bps).min().expect("every link has a rate");
        let octets = self.plan.up + self.plan.down;
        let octets = Duration::from_secs_f64(4.0 * 8.0 * octets as f64 / slowest as f64);
        let trips = links().map(|link| 2 * link.delay_ns).max().expect("there is a link") * 200;
        timers + octets + Duration::from_nanos(trips)
    }

    fn run(&self) -> Report {
        let mut world = self.plan.world();
        let mut calm: Vec<(usize, Direction, LinkConfig)> = Vec::new();
        for (path, (up, down)) in self.plan.links.iter().enumerate() {
            for (dir, link) in [(Direction::AtoB, up), (Direction::BtoA, down)] {
                let (loss, jitter_ns, reorder_ppm, duplicate_ppm) = (Loss::None, 0, 0, 0);
                let link =
                    LinkConfig { loss, jitter_ns, reorder_ppm, duplicate_ppm, ..link.clone() };
                calm.push((path, dir, link));
            }
        }
        for (path, dir, at, change) in &self.gusts {
            let at = u64::try_from(at.as_nanos()).expect("seconds");
            world.net.link_mut(world.paths[*path], *dir).at(at, change.clone());
        }
        for (path, dir, link) in calm {
            let at = u64::try_from(self.until.as_nanos()).expect("seconds");
            world.net.link_mut(world.paths[path], dir).at(at, Change::Config(link));
        }
        let seed = self.plan.seed;
        let placed: Vec<(&Placed, usize)> =
            self.plan.boxes.iter().map(|b| (b, b.install(&mut world, seed))).collect();
        let over = Instant::from_nanos(0) + self.until;
        let limit = self.until + self.bound();
        let (up, down) = (self.plan.up, self.plan.down);
        let report = run_with(&mut world, self.plan.mptcp, up, down, limit, |world| {
            for (placed, position) in &placed {
                let damage = matches!(placed.kind, Kind::Broken(_) | Kind::Edited(_));
                if damage && world.now >= over {
                    let path = world.paths[placed.path];
                    let corruptor = world.net.middlebox::<PayloadCorruptor>(path, *position);
                    corruptor.expect("it is there").set_ppm(0);
                }
            }
        });
        world.assert_empty();
        world.net.referee().expect("every world has one").assert_clean();
        assert_eq!(report.errors, [None; 2], "all had arrived, but it ended otherwise");
        report
    }
}

/// Storms that once took longer than they may: a lost SYN and a path that takes short segments only, so
/// that every timeout was three seconds; text and FIN behind a hole that no block told of.
#[test]
fn storms_that_once_lasted_too_long() {
    for seed in [12_280, 13_475, 15_531, 15_864, 15_903, 123_323] {
        Storm::new(seed).run();
    }
}

/// Runs storms and answers how many of them the transfer outlived.
fn storms(first: u64, count: u64, of: impl Fn(u64) -> Storm + Sync) -> u64 {
    let totals = Mutex::new((Vec::new(), 0_u64, 0.0_f64));
    each_seed(first, count, |seed| {
        let storm = of(seed);
        let run = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| storm.run()));
        let mut totals = totals.lock().expect("no poison");
        let Ok(report) = run else {
            let packets = crate::capture::of_seed(seed, || storm.run());
            eprintln!("FAILED seed {seed}, see {}: {storm:#?}", packets.display());
            return totals.0.push(seed);
        };
        if let Some(after) = report.took.checked_sub(storm.until) {
            totals.1 += 1;
            totals.2 = totals.2.max(after.as_secs_f64() / storm.bound().as_secs_f64());
        }
    });
    let (failed, outlived, longest) = totals.into_inner().expect("no poison");
    println!(
        "liveness: seeds {first}..{}: {outlived} ended after the storm, the last one at {longest:.2} of its bound",
        first + count
    );
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    outlived
}

/// `PLAIT_LIVE_SEEDS` storms (300 unless told) from seed `PLAIT_LIVE_FIRST` (0) on.
#[test]
fn once_the_faults_stop_the_transfer_ends() {
    let (first, count) = (number("PLAIT_LIVE_FIRST", 0), number("PLAIT_LIVE_SEEDS", 300));
    let outlived = storms(first, count, Storm::new);
    assert!(outlived * 2 > count, "{outlived} of {count} were still there when the storm ended");
}

/// The same with version 0, `PLAIT_V0_SEEDS` of them (100 unless told).
#[test]
fn once_the_faults_stop_the_transfer_ends_of_version_0() {
    let (first, count) = (number("PLAIT_LIVE_FIRST", 0), number("PLAIT_V0_SEEDS", 100));
    let outlived = storms(first, count, |seed| {
        let storm = Storm::new(seed);
        Storm { plan: storm.plan.of_version_0(), ..storm }
    });
    assert!(outlived * 2 > count, "{outlived} of {count} were still there when the storm ended");
}
