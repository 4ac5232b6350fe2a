//! Random faulted transfers: one seed decides topology, faults, sizes and schedule.

use crate::transfer::{Report, run_with};
use crate::world::World;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use mptcp_core::config::{ChecksumPolicy, CongestionAlgorithm, StackConfig};
use netsim::link::{Change, LinkConfig, Loss};
use netsim::{Direction, rng::Rng};
use std::collections::BTreeMap;

/// What one seed stands for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mptcp: bool,
    pub(crate) v6: bool,
    pub(crate) links: Vec<(LinkConfig, LinkConfig)>,
    pub(crate) up: u64,
    pub(crate) down: u64,
    checksum: ChecksumPolicy,
    congestion: CongestionAlgorithm,
    buffer: u32,
    sack: bool,
    timestamps: bool,
    /// (path, from, to): both directions of the path are silently cut in between.
    cuts: Vec<(usize, u64, u64)>,
}

fn pick(rng: &mut Rng, low: u64, high: u64) -> u64 {
    low + rng.next_u64() % (high - low + 1)
}

/// Log-uniform between 1 and `1 << bits`.
fn size(rng: &mut Rng, bits: u64) -> u64 {
    let shift = pick(rng, 0, bits);
    let base = 1_u64 << shift;
    base + rng.next_u64() % base
}

fn link(rng: &mut Rng, mbit: u64, delay_us: u64, faulty: bool) -> LinkConfig {
    let mut config = LinkConfig {
        rate_bps: Some(mbit * 1_000_000),
        delay_ns: delay_us * 1000,
        queue_bytes: (pick(rng, 16, 512) << 10) as usize,
        mtu: 1500,
        ..LinkConfig::default()
    };
    if faulty {
        match pick(rng, 0, 3) {
            0 => config.loss = Loss::Bernoulli(pick(rng, 0, 50_000) as u32),
            1 => {
                config.loss = Loss::GilbertElliott {
                    enter_ppm: pick(rng, 100, 5_000) as u32,
                    leave_ppm: pick(rng, 100_000, 500_000) as u32,
                    good_ppm: 0,
                    burst_ppm: pick(rng, 100_000, 700_000) as u32,
                };
            }
            _ => {}
        }
        if pick(rng, 0, 2) == 0 {
            config.jitter_ns = pick(rng, 0, delay_us) * 500;
        }
        if pick(rng, 0, 2) == 0 {
            config.reorder_ppm = pick(rng, 0, 50_000) as u32;
            config.reorder_extra_ns = pick(rng, 100, 20_000) * 1000;
        }
        if pick(rng, 0, 3) == 0 {
            config.duplicate_ppm = pick(rng, 0, 30_000) as u32;
        }
    }
    config
}

impl Plan {
    /// `large` asks for more than 4 MiB in one direction.
    pub(crate) fn new(seed: u64, large: bool) -> Self {
        let mut rng = Rng::for_packet(seed, 0x5eed, 0);
        let mptcp = pick(&mut rng, 0, 4) != 0;
        let paths = if mptcp { [1, 2, 2, 2, 4][pick(&mut rng, 0, 4) as usize] } else { 1 };
        let faulty = pick(&mut rng, 0, 4) != 0;
        let links = (0..paths)
            .map(|_| {
                let mbit = size(&mut rng, 7).clamp(if large { 8 } else { 1 }, 200);
                let delay_us = size(&mut rng, 17).clamp(50, 100_000);
                let up = link(&mut rng, mbit, delay_us, faulty);
                (up, link(&mut rng, mbit, delay_us, faulty))
            })
            .collect();
        let (mut up, mut down) = (size(&mut rng, 19), size(&mut rng, 20));
        if large {
            let mut bytes = (4 << 20) + 1 + size(&mut rng, 22);
            if seed.is_multiple_of(64) {
                // Up to 64 MiB.
                bytes = bytes.min(8 << 20) << pick(&mut rng, 0, 3);
            }
            if pick(&mut rng, 0, 1) == 0 { up = bytes } else { down = bytes }
        }
        let checksum = match pick(&mut rng, 0, 3) {
            0 => ChecksumPolicy::Require,
            _ => ChecksumPolicy::Accept,
        };
        let congestion = match pick(&mut rng, 0, 2) {
            0 => CongestionAlgorithm::NewReno,
            _ => CongestionAlgorithm::Cubic,
        };
        let cuts = if paths > 1 && pick(&mut rng, 0, 2) == 0 {
            let from = pick(&mut rng, 50, 3_000) * 1_000_000;
            let path = pick(&mut rng, 0, paths as u64 - 1) as usize;
            vec![(path, from, from + pick(&mut rng, 100, 5_000) * 1_000_000)]
        } else {
            Vec::new()
        };
        Self {
            seed,
            mptcp,
            v6: pick(&mut rng, 0, 3) == 0,
            links,
            up,
            down,
            checksum,
            congestion,
            buffer: (64 << 10) << pick(&mut rng, 0, 7),
            sack: pick(&mut rng, 0, 9) != 0,
            timestamps: pick(&mut rng, 0, 9) != 0,
            cuts,
        }
    }

    fn config(&self) -> StackConfig {
        let mut config = StackConfig::default();
        config.mptcp.checksum = self.checksum;
        config.tcp.congestion = self.congestion;
        config.tcp.recv_buffer_max = self.buffer;
        config.tcp.send_buffer_max = self.buffer;
        config.tcp.sack = self.sack;
        config.tcp.timestamps = self.timestamps;
        config.limits.tcbs = 64;
        config.limits.connections = 16;
        config.limits.half_open = 16;
        config.limits.time_wait = 64;
        config
    }

    pub(crate) fn world(&self) -> World {
        let mut world = World::new(self.seed, &self.links, self.v6, self.config(), self.config());
        for &(path, from, to) in &self.cuts {
            for dir in [Direction::AtoB, Direction::BtoA] {
                let link = world.net.link_mut(world.paths[path], dir);
                link.at(from, Change::Blackhole(true));
                link.at(to, Change::Blackhole(false));
            }
        }
        world
    }

    /// The referee found nothing, and it was not because it could not see.
    fn check_network(&self, world: &World, report: &Report) {
        let referee = world.net.referee().expect("every world has one");
        referee.assert_clean();
        let seen = referee.seen();
        assert!(seen.segments > 0 && seen.payload_bytes >= self.up + self.down, "{seen:?}");
        assert_eq!((seen.forgotten, seen.malformed_delivered), (0, 0), "{seen:?}");
        assert_eq!((world.net.misrouted(), world.net.chain_overflow()), (0, 0));
        let plain = report.fallback().is_some() || !self.mptcp;
        assert_eq!(plain, report.ends.iter().any(|(version, _)| version.is_none()), "{report:?}");
        if !plain {
            let judged = seen.data_bytes >= self.up + self.down && seen.data_acks > 0;
            assert!(judged && seen.connections == 2, "{seen:?}");
            let checksums = self.checksum == ChecksumPolicy::Require;
            assert_eq!(seen.checksums > 0, checksums, "{seen:?}");
            let joins = world.client.stack.counters().mp_join_syn_ack_rx;
            assert!(seen.proofs >= joins, "{joins} joins: {seen:?}");
        }
    }

    /// Runs it and checks everything there is to check; answers the trace digest with the report.
    pub(crate) fn run(&self) -> (u64, Report) {
        let mut world = self.world();
        let limit = Duration::from_secs(20_000);
        let report = run_with(&mut world, self.mptcp, self.up, self.down, limit, |_| {});
        world.assert_empty();
        self.check_network(&world, &report);
        (world.net.trace().digest(), report)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// `PLAIT_SIM_SEEDS` transfers (300 unless told) from seed `PLAIT_SIM_FIRST` (0) on; every eighth
/// moves more than 4 MiB.
#[test]
fn random_faulted_transfers() {
    let (first, count) = (number("PLAIT_SIM_FIRST", 0), number("PLAIT_SIM_SEEDS", 300));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let totals = std::sync::Mutex::new(Totals::default());
    let next = core::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let plan = Plan::new(seed, seed % 8 == 0);
                    let run = std::panic::catch_unwind(AssertUnwindSafe(|| plan.run()));
                    if run.is_err() {
                        eprintln!("FAILED seed {seed}: {plan:#?}");
                    }
                    totals
                        .lock()
                        .expect("no poison")
                        .add(&plan, run.ok().map(|(_, report)| report));
                }
            });
        }
    });
    let totals = totals.into_inner().expect("no poison");
    println!("sim: seeds {first}..{}: {totals:?}", first + count);
    assert!(totals.failed.is_empty(), "failing seeds: {:?}", totals.failed);
    assert!(totals.fallbacks.values().sum::<u64>() <= 2 + totals.mptcp / 100);
}

/// What all runs came to.
#[derive(Debug, Default)]
struct Totals {
    failed: Vec<u64>,
    /// Transfers of more than 4 MiB in one direction.
    large: u64,
    bytes: u64,
    mptcp: u64,
    fallbacks: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, plan: &Plan, report: Option<Report>) {
        self.large += u64::from(plan.up.max(plan.down) > 4 << 20);
        self.bytes += plan.up + plan.down;
        self.mptcp += u64::from(plan.mptcp);
        match report {
            None => self.failed.push(plan.seed),
            Some(report) => {
                if let Some(reason) = report.fallback() {
                    println!("sim: seed {} fell back: {:?}", plan.seed, report.ends);
                    *self.fallbacks.entry(reason.name()).or_default() += 1;
                }
            }
        }
    }
}

/// Seeds that found something once. 2376: nothing but a burst of loss made a connection plain TCP.
/// 14888: a retransmitted segment that acknowledged new data moved
/// the sender's idea of the peer's right edge (`SND.WL1` alone does not decide).
const SEEDS_THAT_ONCE_FAILED: [u64; 2] = [2376, 14_888];

#[test]
fn seeds_that_once_failed() {
    for seed in SEEDS_THAT_ONCE_FAILED {
        let (_, report) = Plan::new(seed, seed % 8 == 0).run();
        assert_eq!(report.fallback(), None, "seed {seed}");
    }
}

/// One seed gives one trace, another seed another.
#[test]
fn one_seed_one_trace() {
    let digest = |seed| Plan::new(seed, false).run().0;
    assert_eq!(digest(4711), digest(4711));
    assert_ne!(digest(4711), digest(4712));
}
