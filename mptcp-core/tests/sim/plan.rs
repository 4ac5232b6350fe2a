//! What a seed of the swarm stands for: topology, faults, middleboxes, sizes and schedule.

use crate::boxes::{Effect, Kind, Placed, Setting, another};
use crate::transfer::{Report, run_with};
use crate::world::World;
use core::time::Duration;
use mptcp_core::config::{ChecksumPolicy, CongestionAlgorithm, EcnPolicy, MtuProbing, StackConfig};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::time::Instant;
use mptcp_core::wire::Version;
use netsim::link::{Change, LinkConfig, Loss};
use netsim::{Direction, rng::Rng};

/// Transfers above this are large: every tenth is.
pub(crate) const LARGE: u64 = 4 << 20;

/// What a network without boxes never causes, whatever it loses, doubles, delays and cuts for seconds.
const NEVER: [&str; 21] = [
    "dss_not_matching",
    "dss_corruption_reset",
    "dss_corruption_fallback",
    "dss_fallback",
    "dss_ack_missing_reset",
    "simult_connect_fallback",
    "fallback_failed",
    "infinite_map_tx",
    "infinite_map_rx",
    "data_csum_err",
    "mapping_full",
    "mp_join_syn_ack_missing",
    "mp_join_syn_ack_hmac_failure",
    "mp_join_ack_hmac_failure",
    "mp_join_ack_missing",
    "mp_fail_tx",
    "mp_fail_rx",
    "mp_fastclose_tx",
    "mp_fastclose_rx",
    "mp_signal_drop",
    "tcp_abort_on_timeout",
];

/// A change of one direction of a path at a time.
type Scheduled = (usize, Direction, Duration, Change);

/// One run of the swarm.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mptcp: bool,
    version: Version,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) boxes: Vec<Placed>,
    v6: bool,
    pub(crate) links: Vec<(LinkConfig, LinkConfig)>,
    checksum: ChecksumPolicy,
    congestion: CongestionAlgorithm,
    buffer: u32,
    sack: bool,
    timestamps: bool,
    ecn: EcnPolicy,
    mtu_probing: MtuProbing,
    changes: Vec<Scheduled>,
}

pub(crate) fn pick(rng: &mut Rng, low: u64, high: u64) -> u64 {
    low + rng.below(high - low + 1)
}

pub(crate) fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[usize::try_from(rng.below(all.len() as u64)).expect("an index")]
}

fn ppm(rng: &mut Rng, low: u64, high: u64) -> u32 {
    u32::try_from(pick(rng, low, high)).expect("millionths")
}

fn loss(rng: &mut Rng) -> Loss {
    if pick(rng, 0, 1) == 0 {
        return Loss::Bernoulli(ppm(rng, 1, 50_000));
    }
    Loss::GilbertElliott {
        enter_ppm: ppm(rng, 100, 5_000),
        leave_ppm: ppm(rng, 100_000, 500_000),
        good_ppm: 0,
        burst_ppm: ppm(rng, 100_000, 700_000),
    }
}

/// One direction of a link, each fault drawn on its own.
pub(crate) fn link(rng: &mut Rng, mbit: u64, delay_us: u64, faulty: bool) -> LinkConfig {
    let mut config = LinkConfig {
        rate_bps: Some(mbit * 1_000_000),
        delay_ns: delay_us * 1000,
        queue_bytes: usize::try_from(pick(rng, 16, 512) << 10).expect("a queue"),
        mtu: 1500,
        ..LinkConfig::default()
    };
    if !faulty {
        return config;
    }
    if pick(rng, 0, 1) == 0 {
        config.loss = loss(rng);
    }
    if pick(rng, 0, 2) == 0 {
        config.jitter_ns = pick(rng, 1, delay_us) * 500;
    }
    if pick(rng, 0, 2) == 0 {
        config.reorder_ppm = ppm(rng, 1, 50_000);
        config.reorder_extra_ns = pick(rng, 100, 20_000) * 1000;
    }
    if pick(rng, 0, 3) == 0 {
        config.duplicate_ppm = ppm(rng, 1, 30_000);
    }
    config
}

fn is_faulty(link: &LinkConfig) -> bool {
    link.loss != Loss::None || link.jitter_ns > 0 || link.reorder_ppm > 0 || link.duplicate_ppm > 0
}

/// Both directions of `path` are different between two times.
fn episode(path: usize, from: u64, len: u64, during: &Change, after: &Change) -> Vec<Scheduled> {
    let at = |ms| Duration::from_millis(ms);
    [Direction::AtoB, Direction::BtoA]
        .into_iter()
        .flat_map(|dir| {
            [(path, dir, at(from), during.clone()), (path, dir, at(from + len), after.clone())]
        })
        .collect()
}

/// Something that happens to a path of these links while it runs: it is cut, loses more, becomes another link.
fn change(
    rng: &mut Rng,
    path: usize,
    (up, down): &(LinkConfig, LinkConfig),
    alone: bool,
) -> Vec<Scheduled> {
    let (from, len) = (rng.log_uniform(10, 5_000), rng.log_uniform(50, 5_000));
    let dir = one_of(rng, &[Direction::AtoB, Direction::BtoA]);
    let once = |change| vec![(path, dir, Duration::from_millis(from), change)];
    match pick(rng, if alone { 1 } else { 0 }, 5) {
        0 => episode(path, from, len, &Change::Blackhole(true), &Change::Blackhole(false)),
        1 => {
            let heavy = Change::Loss(Loss::Bernoulli(ppm(rng, 50_000, 300_000)));
            let mut all = episode(path, from, len.min(2_000), &heavy, &heavy);
            // Afterwards it loses what it lost before.
            for (_, dir, at, change) in &mut all {
                if *at > Duration::from_millis(from) {
                    let link = if *dir == Direction::AtoB { up } else { down };
                    *change = Change::Loss(link.loss.clone());
                }
            }
            all
        }
        2 => once(Change::Rate(Some(rng.log_uniform(1, 100) * 1_000_000))),
        3 => once(Change::Delay(rng.log_uniform(50, 150_000) * 1000)),
        4 => once(Change::Queue(usize::try_from(pick(rng, 8, 512) << 10).expect("a queue"))),
        // Long packets vanish for a while, as on a detour that says nothing.
        _ => episode(path, from, len.min(2_000), &Change::Mtu(1400), &Change::Mtu(1500)),
    }
}

/// Octets up and down: log-uniform to 64 MiB in one direction, to 1 MiB in the other. One seed in
/// ten is above [`LARGE`], for certain and not only on average.
fn sizes(rng: &mut Rng, seed: u64) -> (u64, u64) {
    let bytes = if seed.is_multiple_of(10) {
        rng.log_uniform(LARGE + 1, 64 << 20)
    } else {
        rng.log_uniform(1, LARGE)
    };
    let other = rng.log_uniform(1, 1 << 20);
    if pick(rng, 0, 2) == 0 { (bytes, other) } else { (other, bytes) }
}

impl Plan {
    /// The same with no more than `most` octets each way.
    pub(crate) fn at_most(self, most: u64) -> Self {
        Self { up: self.up.min(most), down: self.down.min(most), ..self }
    }

    /// The same as MPTCP of version 0.
    pub(crate) fn of_version_0(self) -> Self {
        Self { mptcp: true, version: Version::V0, ..self }
    }

    /// One path with a proxy on it that acknowledges the data of one direction early, and is cut for less
    /// than a listener waits for a third ACK; otherwise as the seed has it.
    pub(crate) fn behind_a_proxy(seed: u64) -> Self {
        let mut plan = Self::new(seed).at_most(1 << 20);
        let mut rng = Rng::for_packet(seed, 0x9807, 0);
        let rng = &mut rng;
        plan.mptcp = true;
        plan.links.truncate(1);
        plan.changes.retain(|(path, ..)| *path == 0);
        let (from, len) = (rng.log_uniform(10, 5_000), rng.log_uniform(100, 25_000));
        let (cut, whole) = (Change::Blackhole(true), Change::Blackhole(false));
        plan.changes.extend(episode(0, from, len, &cut, &whole));
        let dir = one_of(rng, &[Direction::AtoB, Direction::BtoA]);
        plan.boxes = vec![Placed { path: 0, kind: Kind::Proxy(dir, rng.below(50)) }];
        plan
    }

    /// The same behind one to three boxes of other kinds.
    pub(crate) fn behind_other_boxes(seed: u64) -> Self {
        let mut plan = Self::new(seed).at_most(1 << 20);
        let mut rng = Rng::for_packet(seed, 0xb0c5, 0);
        let paths = plan.links.len();
        plan.boxes = (0..1 + rng.below(3)).map(|_| another(&mut rng, paths)).collect();
        if rng.below(4) == 0 {
            plan.version = Version::V0;
        }
        plan
    }

    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::for_packet(seed, 0x5eed, 0);
        let rng = &mut rng;
        let (up, down) = sizes(rng, seed);
        let mptcp = pick(rng, 0, 4) != 0;
        let paths = if mptcp { one_of(rng, &[1, 2, 2, 2, 4]) } else { 1 };
        let faulty = pick(rng, 0, 4) != 0;
        let slowest = if up.max(down) > LARGE { 8 } else { 1 };
        let mut links: Vec<_> = (0..paths)
            .map(|_| {
                let mbit = rng.log_uniform(slowest, 200);
                let delay_us = rng.log_uniform(50, 100_000);
                let up = link(rng, mbit, delay_us, faulty);
                (up, link(rng, mbit, delay_us, faulty))
            })
            .collect();
        let checksum =
            if pick(rng, 0, 3) == 0 { ChecksumPolicy::Require } else { ChecksumPolicy::Accept };
        let congestion = one_of(rng, &CongestionAlgorithm::ALL);
        let v6 = pick(rng, 0, 3) == 0;
        let mut changes = Vec::new();
        if pick(rng, 0, 2) == 0 {
            for _ in 0..pick(rng, 1, 3) {
                let path = usize::try_from(rng.below(paths)).expect("a path");
                changes.extend(change(rng, path, &links[path], paths == 1));
            }
        }
        let setting = Setting {
            mptcp,
            paths: links.len(),
            checksum: checksum == ChecksumPolicy::Require,
            v6,
        };
        let boxes = if pick(rng, 0, 2) == 0 { vec![setting.draw(rng)] } else { Vec::new() };
        let quiet = links.iter().all(|(up, down)| !is_faulty(up) && !is_faulty(down));
        if quiet && changes.is_empty() && boxes.is_empty() {
            links[0].0.loss = loss(rng);
        }
        let (buffer, sack) = ((64 << 10) << pick(rng, 0, 7), pick(rng, 0, 9) != 0);
        let timestamps = pick(rng, 0, 9) != 0;
        let ecn = one_of(rng, &EcnPolicy::ALL);
        let silent = boxes.iter().any(Placed::is_silent_hop);
        let mtu_probing = match one_of(rng, &MtuProbing::ALL) {
            // It would wait for ever.
            MtuProbing::Off if silent => MtuProbing::BlackHole,
            choice => choice,
        };
        if pick(rng, 0, 1) == 0 {
            for link in links.iter_mut().flat_map(|(up, down)| [up, down]) {
                link.ecn_mark_bytes = Some(link.queue_bytes / 4);
            }
        }
        Self {
            seed,
            mptcp,
            version: Version::V1,
            up,
            down,
            boxes,
            v6,
            links,
            checksum,
            congestion,
            buffer,
            sack,
            timestamps,
            ecn,
            mtu_probing,
            changes,
        }
    }

    /// What its boxes may do to MPTCP.
    pub(crate) fn effect(&self) -> Effect {
        self.boxes.iter().map(Placed::effect).max().unwrap_or(Effect::Kept)
    }

    /// No box stands on its paths, and none of them is ever silent or narrow.
    pub(crate) fn cuts_nothing(&self) -> bool {
        let cut = |change: &Change| matches!(change, Change::Blackhole(_) | Change::Mtu(_));
        self.boxes.is_empty() && !self.changes.iter().any(|(.., change)| cut(change))
    }

    /// Whether anything at all is wrong with its network.
    pub(crate) fn is_faulted(&self) -> bool {
        let links = self.links.iter().any(|(up, down)| is_faulty(up) || is_faulty(down));
        links || !self.changes.is_empty() || !self.boxes.is_empty()
    }

    fn config(&self) -> StackConfig {
        let mut config = StackConfig::default();
        config.mptcp.versions = vec![self.version];
        config.mptcp.checksum = self.checksum;
        config.tcp.congestion = self.congestion;
        config.tcp.ecn = self.ecn;
        config.tcp.mtu_probing = self.mtu_probing;
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

    /// Its hosts and links, without boxes and changes.
    pub(crate) fn world(&self) -> World {
        let mut world = World::new(self.seed, &self.links, self.v6, self.config(), self.config());
        // Of every fourth the packets come in bursts.
        let tick = Duration::from_micros(250 + self.seed % 11 * 250);
        world.tick = (self.seed % 4 == 3).then_some(tick);
        world.by_events = true;
        world
    }

    /// Runs it and checks everything there is to check; answers the trace digest with the report.
    pub(crate) fn run(&self) -> (u64, Report) {
        let mut world = self.world();
        for (path, dir, at, change) in &self.changes {
            let at = u64::try_from(at.as_nanos()).expect("within an hour");
            world.net.link_mut(world.paths[*path], *dir).at(at, change.clone());
        }
        let mut acts = Vec::new();
        for placed in &self.boxes {
            let position = placed.install(&mut world, self.seed);
            let at = placed.acts_at().map(|at| Instant::from_nanos(0) + at);
            acts.extend(at.map(|at| (at, position, placed)));
        }
        let limit = Duration::from_secs(20_000);
        let report = run_with(&mut world, self.mptcp, self.up, self.down, limit, |world| {
            acts.retain(|(at, position, placed)| {
                let due = world.now >= *at;
                if due {
                    placed.act(world, *position);
                }
                !due
            });
        });
        world.assert_empty();
        self.check_network(&world, &report);
        self.check_end(&report);
        (world.net.trace().digest(), report)
    }

    /// It ended in order, and nobody complained of what nobody did.
    fn check_end(&self, report: &Report) {
        use FallbackReason::{CapableSynUnanswered, SynRepeatedWithoutCapable, SynWithoutCapable};
        assert_eq!(report.errors, [None; 2], "all had arrived, but it ended otherwise");
        if !self.boxes.is_empty() {
            return;
        }
        for name in NEVER {
            assert_eq!(report.moved.0.get(name), Some(&0), "{name}");
        }
        // SYNs with the option may get lost one after the other, and nothing else means fallback.
        let lost = [CapableSynUnanswered, SynWithoutCapable, SynRepeatedWithoutCapable];
        let mut reasons = report.ends.iter().filter_map(|(_, reason)| *reason);
        assert!(reasons.all(|reason| lost.contains(&reason)), "{report:?}");
    }

    /// The referee found nothing, and it was not because it could not see; the boxes did to MPTCP what
    /// they do and no more.
    fn check_network(&self, world: &World, report: &Report) {
        let referee = world.net.referee().expect("every world has one");
        referee.assert_clean();
        let seen = referee.seen();
        assert!(seen.segments > 0 && seen.payload_bytes >= self.up + self.down, "{seen:?}");
        let broken = self.boxes.iter().any(Placed::breaks);
        assert!(seen.forgotten == 0 && (broken || seen.malformed_delivered == 0), "{seen:?}");
        assert_eq!((world.net.misrouted(), world.net.chain_overflow()), (0, 0));
        if !self.mptcp {
            assert_eq!(report.ends, [(None, None); 2]);
            return;
        }
        let plain = report.fallback().is_some();
        assert_eq!(plain, report.ends.iter().any(|(version, _)| version.is_none()), "{report:?}");
        match self.effect() {
            Effect::FallsBack => assert!(plain, "{report:?}"),
            Effect::Open | Effect::Kept => {}
        }
        if !plain {
            let judged = seen.data_bytes >= self.up + self.down && seen.data_acks > 0;
            // A SYN that is one too many, a copy or a repetition, may arrive when all is over, and asks for a
            // new connection then.
            let copies = self.links.iter().any(|(up, down)| is_faulty(up) || is_faulty(down));
            let connections = 2..=2 + u64::from(copies);
            assert!(judged && connections.contains(&seen.connections), "{seen:?}");
            assert_eq!(seen.carriers, 2, "one at each end, whoever else asked for one: {seen:?}");
            let checksums = self.checksum == ChecksumPolicy::Require;
            assert_eq!(seen.checksums > 0, checksums, "{seen:?}");
            let joins = world.client.stack.counters().mp_join_syn_ack_rx;
            assert!(seen.proofs >= joins, "{joins} joins: {seen:?}");
        }
    }
}
