//! Hosts that change under their connections: addresses of both families come and go at either end,
//! schedulers, rates, priorities and congestion control are others from one moment to the next, boxes begin
//! to break what they let pass and end it, memory is short, applications pause and are asked by events
//! alone. One path is spared by boxes, so every stream arrives whole, and nothing stands still for long.

use crate::boxes::{Kind, Placed};
use crate::plan::{link, one_of, pick};
use crate::swarm::{each_seed, number};
use crate::transfer::{fill, octet, settle};
use crate::world::{Host, Memory, PLENTY, SERVER_PORT, World, client_addr};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::panic::AssertUnwindSafe;
use mptcp_core::buf::PortId;
use mptcp_core::config::{
    ChecksumPolicy, CongestionAlgorithm, EcnPolicy, LocalAddress, MtuProbing, PathManagerKind,
    PathPolicy, SchedulerKind, Scheduling, StackConfig,
};
use mptcp_core::error::{RecvError, SendError};
use mptcp_core::stack::{Connect, ConnectionInfo, Listen, Ready, SocketId};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::Version;
use netsim::link::{Change, LinkConfig};
use netsim::middlebox::{Nat, OptionStripper, PathMtu, Strip};
use netsim::{Direction, Rng};
use std::sync::Mutex;

const BOTH: [Direction; 2] = [Direction::AtoB, Direction::BtoA];
/// The server's addresses; the second and the third may be missing.
const SERVERS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1)),
];
/// Largest stream in one direction.
const MOST: u64 = 1 << 20;
/// Longer than this nothing stands still unless an application pauses: a join that was refused for good comes again
/// after a minute, what timed out has backed off to less than two.
const PATIENCE: Duration = Duration::from_secs(300);
/// What cannot be done now is tried again after this, so often.
const AGAIN: Duration = Duration::from_millis(50);
const TRIES: u32 = 200;
const DAY: Duration = Duration::from_secs(86_400);

/// Something that happens while streams move.
#[derive(Clone, Debug)]
enum Act {
    /// The addresses of a path (at the client), or one address (at the server), are gone for so long; at once, or
    /// once changes have been collected.
    Leave {
        client: bool,
        which: usize,
        len: Duration,
        at_once: bool,
    },
    Return {
        client: bool,
        which: usize,
    },
    Schedule {
        client: bool,
        scheduling: Scheduling,
    },
    Congestion {
        client: bool,
        algorithm: CongestionAlgorithm,
    },
    Backup {
        client: bool,
        subflow: u8,
        backup: bool,
    },
    /// A path breaks in some way for so long.
    Wreck {
        path: usize,
        wreck: Wreck,
        len: Duration,
    },
    Mend {
        path: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Wreck {
    /// MPTCP's options vanish, one way or both.
    Strip(Option<Direction>),
    Silence,
    /// Long packets vanish.
    Narrow(u16),
    /// The translator, if there is one, gives everybody another port.
    Rebind,
}

/// One application: what it writes and reads, and how.
#[derive(Clone, Debug)]
struct Habit {
    octets: u64,
    /// Writes so much at once, and pauses.
    burst: u64,
    write_pause: Duration,
    /// Reads so much at once, and pauses.
    gulp: u64,
    read_pause: Duration,
    /// It pauses for weeks once it has written so much.
    sleeps_at: Option<u64>,
    /// Closes when it has everything, instead of waiting for the end.
    closes: bool,
    /// Aborts once it has read so much.
    aborts_at: Option<u64>,
}

/// One connection to be.
#[derive(Clone, Debug)]
struct Stream {
    opens: Duration,
    early: u64,
    /// The client's and the server's.
    habits: [Habit; 2],
}

#[derive(Debug)]
struct Churn {
    seed: u64,
    links: Vec<(LinkConfig, LinkConfig)>,
    translated: Vec<bool>,
    client: StackConfig,
    server: StackConfig,
    memory: [Memory; 2],
    tick: Option<Duration>,
    streams: Vec<Stream>,
    acts: Vec<(Duration, Act)>,
}

/// What a run came to.
#[derive(Debug, Default)]
struct Outcome {
    /// Acts that were done.
    acts: u64,
    /// Connections that were MPTCP at the end, and those that ended with an error though all had arrived.
    mptcp: u64,
    otherwise: u64,
    longest: Duration,
}

fn millis(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(rng.log_uniform(low, high))
}

fn chance(rng: &mut Rng, one_in: u64) -> bool {
    rng.below(one_in) == 0
}

fn local(addr: IpAddr, port: PortId, mtu: u16, backup: bool) -> LocalAddress {
    LocalAddress { addr, port, mtu, endpoint: true, backup }
}

fn scheduling(rng: &mut Rng, paths: usize) -> Scheduling {
    let policy = |rng: &mut Rng, path: usize| PathPolicy {
        priority: u8::try_from(rng.below(3)).unwrap_or(0),
        weight: u16::try_from(rng.log_uniform(1, 10_000)).unwrap_or(1),
        rate: chance(rng, 4).then(|| rng.log_uniform(100_000, 5_000_000)),
        ..PathPolicy::new(PortId(path as u8))
    };
    Scheduling {
        kind: one_of(rng, &SchedulerKind::ALL),
        rate: chance(rng, 4).then(|| rng.log_uniform(200_000, 5_000_000)),
        paths: if chance(rng, 2) {
            (0..paths).map(|path| policy(rng, path)).collect()
        } else {
            Vec::new()
        },
        caps: Vec::new(),
    }
}

fn config(rng: &mut Rng, paths: usize) -> StackConfig {
    let mut config = StackConfig::default();
    let mptcp = &mut config.mptcp;
    if chance(rng, 3) {
        mptcp.checksum = ChecksumPolicy::Require;
    }
    mptcp.scheduling = scheduling(rng, paths);
    if chance(rng, 4) {
        mptcp.path_manager = PathManagerKind::Ndiffports;
        mptcp.subflows_per_pair = u8::try_from(pick(rng, 1, 3)).unwrap_or(1);
    }
    mptcp.max_subflows = one_of(rng, &[3, 8, 8, 32]);
    mptcp.address_batch = Duration::from_millis(one_of(rng, &[1, 50, 500]));
    // Longer than a refused join waits.
    mptcp.close_timeout = Duration::from_secs(180);
    mptcp.stale_timeout = Duration::from_secs(one_of(rng, &[5, 60]));
    let tcp = &mut config.tcp;
    tcp.congestion = one_of(rng, &CongestionAlgorithm::ALL);
    tcp.ecn = one_of(rng, &EcnPolicy::ALL);
    tcp.mtu_probing = one_of(rng, &[MtuProbing::BlackHole, MtuProbing::Always]);
    tcp.recv_buffer_max = 32 << 10 << pick(rng, 0, 7);
    tcp.send_buffer_max = 32 << 10 << pick(rng, 0, 7);
    tcp.sack = !chance(rng, 10);
    tcp.timestamps = !chance(rng, 10);
    tcp.nagle = !chance(rng, 4);
    config.limits.tcbs = 256;
    config.limits.connections = 16;
    config.limits.half_open = one_of(rng, &[1, 16, 16, 16]);
    config.limits.time_wait = one_of(rng, &[2, 64]);
    config
}

fn habit(rng: &mut Rng, expects: u64, octets: u64) -> Habit {
    let pause = |rng: &mut Rng| match pick(rng, 0, 2) {
        0 => millis(rng, 1, 3_000),
        _ => Duration::ZERO,
    };
    Habit {
        octets,
        // In at most so many pieces: pauses add up.
        burst: rng.log_uniform(1, octets).max(octets / 64 + 1),
        write_pause: pause(rng),
        gulp: rng.log_uniform(1, expects).max(expects / 64 + 1),
        read_pause: pause(rng),
        sleeps_at: None,
        closes: chance(rng, 3),
        aborts_at: chance(rng, 12).then(|| rng.below(expects)),
    }
}

fn stream(rng: &mut Rng) -> Stream {
    let [up, down] = [(); 2].map(|()| rng.log_uniform(1, MOST));
    let habits = [habit(rng, down, up), habit(rng, up, down)];
    let early = if chance(rng, 5) { rng.log_uniform(1, 2_000).min(up) } else { 0 };
    Stream { opens: millis(rng, 1, 2_000), early, habits }
}

fn act(rng: &mut Rng, paths: usize, servers: usize, safe: usize) -> Act {
    let client = chance(rng, 2);
    let path = usize::try_from(rng.below(paths as u64)).unwrap_or(0);
    let len = millis(rng, 100, 20_000);
    match pick(rng, 0, 9) {
        0..=3 => {
            let which = if client { path } else { path % servers };
            Act::Leave { client, which, len, at_once: chance(rng, 3) }
        }
        4 => Act::Schedule { client, scheduling: scheduling(rng, paths) },
        5 => Act::Congestion { client, algorithm: one_of(rng, &CongestionAlgorithm::ALL) },
        6 => {
            let subflow = u8::try_from(rng.below(6)).unwrap_or(0);
            Act::Backup { client, subflow, backup: chance(rng, 2) }
        }
        _ => {
            let wreck = match pick(rng, 0, 4) {
                0 => Wreck::Strip(one_of(rng, &[None, Some(BOTH[0]), Some(BOTH[1])])),
                1 => Wreck::Narrow(u16::try_from(pick(rng, 1_280, 1_480)).unwrap_or(1_280)),
                2 => Wreck::Rebind,
                _ => Wreck::Silence,
            };
            let path = if path == safe { (path + 1) % paths } else { path };
            Act::Wreck { path, wreck, len }
        }
    }
}

impl Churn {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::for_packet(seed, 0xc4, 0);
        let rng = &mut rng;
        let paths: usize = one_of(rng, &[2, 2, 3, 4]);
        let faulty = !chance(rng, 4);
        let links = (0..paths).map(|_| {
            let (mbit, delay_us) = (rng.log_uniform(2, 100), rng.log_uniform(100, 80_000));
            (link(rng, mbit, delay_us, faulty), link(rng, mbit, delay_us, faulty))
        });
        let links = links.collect();
        let (mut client, mut server) = (config(rng, paths), config(rng, paths));
        client.mptcp.versions = match pick(rng, 0, 3) {
            0 => vec![Version::V0, Version::V1],
            1 => vec![Version::V0],
            _ => vec![Version::V1],
        };
        for path in 0..paths {
            let port = PortId(path as u8);
            let mtu = one_of(rng, &[1500, 1500, 1400, 1280]);
            let backup = path > 0 && chance(rng, 8);
            client.addresses.push(local(client_addr(path, false), port, mtu, backup));
            if chance(rng, 2) {
                client.addresses.push(local(client_addr(path, true), port, mtu, backup));
            }
        }
        for (at, addr) in SERVERS.into_iter().enumerate() {
            if at == 0 || chance(rng, 2) {
                server.addresses.push(local(addr, PortId::ROUTED, 1500, false));
            }
        }
        let safe = usize::try_from(rng.below(paths as u64)).unwrap_or(0);
        let mut streams: Vec<Stream> = (0..pick(rng, 1, 3)).map(|_| stream(rng)).collect();
        let sleeps = chance(rng, 25);
        if sleeps {
            let habit = &mut streams[0].habits[usize::try_from(rng.below(2)).unwrap_or(0)];
            habit.sleeps_at = Some(rng.below(habit.octets));
        } else if chance(rng, 8) {
            client.tcp.keep_alive = Some(Duration::from_secs(2));
        }
        // A translator forgets who sleeps.
        let translated: Vec<_> = (0..paths).map(|_| !sleeps && chance(rng, 3)).collect();
        if translated.contains(&true) {
            // Who only reads would not learn that it is known as somebody else by now.
            client.tcp.keep_alive = Some(Duration::from_secs(20));
        }
        if client.mptcp.versions.contains(&Version::V0) {
            // The referee takes what a server of version 0 says before the third ACK for plain TCP.
            streams.iter_mut().for_each(|stream| stream.early = 0);
        }
        let scarce = |rng: &mut Rng| (usize::try_from(pick(rng, 300, 900)).unwrap_or(300), 100);
        let memory = match pick(rng, 0, 5) {
            0 => [PLENTY, scarce(rng)],
            1 => [scarce(rng), scarce(rng)],
            _ => [PLENTY; 2],
        };
        let servers = server.addresses.len();
        let mut acts: Vec<_> = (0..pick(rng, 1, 12))
            .map(|_| (millis(rng, 50, 20_000), act(rng, paths, servers, safe)))
            .collect();
        acts.sort_by_key(|(at, _)| *at);
        let tick = chance(rng, 4).then(|| Duration::from_micros(pick(rng, 250, 3_000)));
        Self { seed, links, translated, client, server, memory, tick, streams, acts }
    }

    fn run(&self) -> Outcome {
        let (client, server) = (self.client.clone(), self.server.clone());
        let mut world =
            World::with_memory(self.seed, &self.links, false, client, server, self.memory);
        world.tick = self.tick;
        for local in self.client.addresses.iter().filter(|local| local.addr.is_ipv6()) {
            let path = world.paths[usize::from(local.port.0)];
            world.net.add_address(world.client.node, local.addr);
            world.client.routes.insert(local.addr, path);
            world.server.routes.insert(local.addr, path);
        }
        for local in &self.server.addresses[1..] {
            world.net.add_address(world.server.node, local.addr);
        }
        let ways = (0..self.links.len()).map(|path| Way::build(&mut world, self, path)).collect();
        let start = world.now;
        let runs = self.streams.iter().enumerate().map(|(at, stream)| {
            let port = SERVER_PORT + at as u16;
            let with = Listen { mptcp: true, fast_open: 16, ..Listen::default() };
            let local = SocketAddr::new(SERVERS[0], port);
            let listener = world.server.stack.listen(local, &with).expect("a free port");
            Run {
                stream: stream.clone(),
                opens: start + stream.opens,
                port,
                key: 100 + 2 * at as u64,
                listener,
                apps: [None, None],
                moved: start,
                over: false,
            }
        });
        let runs = runs.collect();
        let acts = self.acts.iter().map(|(at, act)| (start + *at, 0, act.clone())).collect();
        let there = [vec![true; self.links.len()], vec![true; self.server.addresses.len()]];
        let outcome = Outcome::default();
        let mut scene = Scene { plan: self, world, ways, runs, acts, there, outcome };
        scene.play();
        scene.finish()
    }
}

/// The boxes of one path.
struct Way {
    nat: Option<usize>,
    strip: usize,
    hop: usize,
}

impl Way {
    fn build(world: &mut World, plan: &Churn, path: usize) -> Self {
        let nat = plan.translated[path].then(|| {
            let placed = Placed { path, kind: Kind::Nat { rebind_at: None } };
            placed.install(world, plan.seed)
        });
        let at = world.paths[path];
        let strip = world.net.add_middlebox(at, Box::new(OptionStripper::new(Vec::new())));
        let hop = world.net.add_middlebox(at, Box::new(PathMtu::silent(1_500)));
        Self { nat, strip, hop }
    }
}

/// One end of a connection while it runs.
#[derive(Debug)]
struct App {
    id: SocketId,
    habit: Habit,
    expects: u64,
    /// Names of the streams that it writes and reads.
    writes: u64,
    reads: u64,
    sent: u64,
    received: u64,
    /// Left of what it writes and reads at once.
    burst: u64,
    gulp: u64,
    writes_at: Instant,
    reads_at: Instant,
    /// When a pause of its is over, of which nobody tells it.
    wakes: Option<Instant>,
    /// Something was reported.
    due: bool,
    connected: bool,
    shut: bool,
    eof: bool,
    closed: bool,
    /// It let go of its socket.
    gone: bool,
    failed: Option<String>,
}

impl App {
    fn new(id: SocketId, stream: &Stream, client: bool, key: u64, now: Instant) -> Self {
        let [own, other] = if client { [0, 1] } else { [1, 0] };
        let habit = stream.habits[own].clone();
        let early = if client { stream.early } else { 0 };
        Self {
            id,
            expects: stream.habits[other].octets,
            writes: key + own as u64,
            reads: key + other as u64,
            sent: early,
            received: 0,
            burst: habit.burst,
            gulp: habit.gulp,
            habit,
            writes_at: now,
            reads_at: now,
            wakes: None,
            due: true,
            connected: !client,
            shut: false,
            eof: false,
            closed: false,
            gone: false,
            failed: None,
        }
    }

    /// It is over, for itself.
    fn is_over(&self) -> bool {
        self.gone || self.failed.is_some() || self.eof && self.shut && self.closed
    }

    /// When it goes on by itself.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        if self.is_over() || !self.connected {
            return None;
        }
        let writes = Some(self.writes_at).filter(|_| !self.shut);
        let reads = Some(self.reads_at).filter(|_| !self.eof);
        [writes, reads].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Writes and reads as its habits are; true when an octet moved, or it came to an end.
    fn work(&mut self, host: &mut Host, now: Instant) -> bool {
        if self.is_over() || !self.connected {
            return false;
        }
        let before = (self.sent, self.received, self.shut, self.eof);
        self.write(host, now);
        self.read(host, now);
        if self.habit.aborts_at.is_some_and(|at| self.received > at) && self.failed.is_none() {
            host.stack.abort(now, self.id);
            self.gone = true;
            return true;
        }
        if self.eof && self.shut && self.habit.closes {
            host.stack.close(now, self.id);
            self.gone = true;
        }
        self.gone || (self.sent, self.received, self.shut, self.eof) != before
    }

    fn write(&mut self, host: &mut Host, now: Instant) {
        let mut octets = [0; 8_192];
        while self.sent < self.habit.octets && now >= self.writes_at {
            let left = (self.habit.octets - self.sent).min(self.burst).min(octets.len() as u64);
            let octets = &mut octets[..left as usize];
            fill(self.writes, self.sent, octets);
            match host.stack.send(now, self.id, octets) {
                Ok(count) => {
                    let before = self.sent;
                    self.sent += count as u64;
                    self.burst -= count as u64;
                    if self.burst == 0 {
                        self.burst = self.habit.burst;
                        self.writes_at = now + self.habit.write_pause;
                    }
                    let sleeps = |at: u64| (before..self.sent).contains(&at);
                    if self.habit.sleeps_at.is_some_and(sleeps) {
                        self.writes_at = now + 20 * DAY;
                    }
                }
                Err(SendError::WouldBlock) => break,
                Err(error) => {
                    self.failed.get_or_insert(format!("send at {}: {error:?}", self.sent));
                    return;
                }
            }
        }
        if self.sent == self.habit.octets && !self.shut && now >= self.writes_at {
            self.shut = true;
            host.stack.shutdown_write(now, self.id);
        }
    }

    fn read(&mut self, host: &mut Host, now: Instant) {
        let (mut octets, mut expected) = ([0; 8_192], [0; 8_192]);
        while !self.eof && now >= self.reads_at {
            let room = self.gulp.min(octets.len() as u64) as usize;
            match host.stack.recv(now, self.id, &mut octets[..room]) {
                Ok(0) => {
                    assert_eq!(self.received, self.expects, "the end came early");
                    self.eof = true;
                }
                Ok(count) => {
                    fill(self.reads, self.received, &mut expected[..count]);
                    assert!(octets[..count] == expected[..count], "an octet differs");
                    self.received += count as u64;
                    assert!(self.received <= self.expects, "more than was sent");
                    self.gulp -= count as u64;
                    if self.gulp == 0 {
                        self.gulp = self.habit.gulp;
                        self.reads_at = now + self.habit.read_pause;
                    }
                }
                Err(RecvError::WouldBlock) => break,
                Err(error) => {
                    self.failed.get_or_insert(format!("recv at {}: {error:?}", self.received));
                    return;
                }
            }
        }
    }
}

/// One connection.
struct Run {
    stream: Stream,
    opens: Instant,
    port: u16,
    key: u64,
    listener: SocketId,
    /// The client's and the server's.
    apps: [Option<App>; 2],
    /// When it last moved, or one of its ends paused.
    moved: Instant,
    over: bool,
}

impl Run {
    fn open(&mut self, world: &mut World) {
        let with = Connect {
            local: world.client_addrs[0],
            local_port: 0,
            remote: SocketAddr::new(SERVERS[0], self.port),
            mptcp: true,
            timeout: None,
            user_data: 0,
        };
        let early: Vec<u8> = (0..self.stream.early).map(|at| octet(self.key, at)).collect();
        let (now, stack) = (world.now, &mut world.client.stack);
        let opened = match &early[..] {
            [] => stack.connect(now, &with).map(|id| (id, 0)),
            early => stack.connect_with_data(now, &with, early),
        };
        let (id, queued) = opened.expect("the harness is sound");
        world.keep_log_of(id, true);
        let mut app = App::new(id, &self.stream, true, self.key, now);
        app.sent = queued as u64;
        self.apps[0] = Some(app);
        self.moved = now;
    }

    fn infos(&self, world: &World) -> [Option<ConnectionInfo>; 2] {
        let hosts = [&world.client, &world.server];
        core::array::from_fn(|at| hosts[at].stack.info(self.apps[at].as_ref()?.id))
    }

    /// Whoever aborts ends both.
    fn aborted(&self) -> bool {
        self.apps
            .iter()
            .flatten()
            .any(|app| app.gone && app.habit.aborts_at.is_some_and(|at| app.received > at))
    }

    /// Both ends are MPTCP's, and have shown each other another subflow.
    fn is_safe(&self, world: &World) -> bool {
        if self.over {
            return true;
        }
        let infos = self.infos(world);
        let whole = |info: &ConnectionInfo| {
            let made = info.subflows.iter().filter(|subflow| subflow.fully_established).count();
            info.mptcp.is_some() && info.fallback.is_none() && made > 1
        };
        infos.iter().all(|info| info.as_ref().is_some_and(whole))
    }
}

/// All of it while it runs.
struct Scene<'a> {
    plan: &'a Churn,
    world: World,
    ways: Vec<Way>,
    runs: Vec<Run>,
    /// When, how often it was put off, and what.
    acts: Vec<(Instant, u32, Act)>,
    /// Which paths the client has addresses on, and which addresses the server has.
    there: [Vec<bool>; 2],
    outcome: Outcome,
}

impl Scene<'_> {
    fn play(&mut self) {
        loop {
            self.world.turn();
            self.take_events();
            self.work();
            self.act();
            self.world.flush();
            if self.runs.iter().all(|run| run.over) {
                return;
            }
            let now = self.world.now;
            let apps = self.runs.iter().flat_map(|run| run.apps.iter().flatten());
            let wakes = apps.filter_map(|app| app.wakes);
            let opens = self.runs.iter().filter(|run| run.apps[0].is_none()).map(|run| run.opens);
            let acts = self.acts.iter().map(|(at, ..)| *at);
            let next = wakes.chain(opens).chain(acts).filter(|at| *at > now).min();
            self.world.advance(next.unwrap_or(now + DAY));
        }
    }

    fn take_events(&mut self) {
        let now = self.world.now;
        for run in self.runs.iter_mut().filter(|run| run.apps[0].is_none() && run.opens <= now) {
            run.open(&mut self.world);
        }
        for run in self.runs.iter_mut().filter(|run| run.apps[1].is_none()) {
            if let Some(id) = self.world.server.stack.accept(run.listener) {
                self.world.keep_log_of(id, false);
                run.apps[1] = Some(App::new(id, &run.stream, false, run.key, now));
            }
        }
        for side in 0..2 {
            let world = &mut self.world;
            let host = if side == 0 { &mut world.client } else { &mut world.server };
            let stack = &mut host.stack;
            while let Some(event) = stack.poll_event() {
                let mut apps = self.runs.iter_mut().filter_map(|run| run.apps[side].as_mut());
                let Some(app) = apps.find(|app| app.id == event.socket) else { continue };
                app.due = true;
                app.connected |= event.ready.contains(Ready::CONNECTED);
                app.closed |= event.ready.contains(Ready::CLOSED);
                if event.ready.contains(Ready::CLOSED)
                    && let Some(error) = stack.error(app.id)
                    && !(app.eof && app.shut)
                {
                    app.failed.get_or_insert(format!("{error:?}"));
                }
            }
        }
    }

    /// Lets the applications work, and looks for those who wait in vain.
    fn work(&mut self) {
        let now = self.world.now;
        for at in 0..self.runs.len() {
            let run = &mut self.runs[at];
            if run.over || run.apps[0].is_none() {
                continue;
            }
            let hosts = [&mut self.world.client, &mut self.world.server];
            let mut moves = false;
            for (app, host) in run.apps.iter_mut().zip(hosts) {
                let Some(app) = app else { continue };
                let woken = app.wakes.is_some_and(|at| at <= now);
                if core::mem::take(&mut app.due) || woken {
                    moves |= app.work(host, now);
                    app.wakes = app.wakes_at(now);
                }
                moves |= app.wakes.is_some();
            }
            if moves {
                run.moved = now;
            }
            self.judge(at);
        }
    }

    /// Whether a connection is over, or should be.
    fn judge(&mut self, at: usize) {
        let now = self.world.now;
        let run = &self.runs[at];
        let waits = now.since(run.moved);
        let aborted = run.aborted();
        let failed = run.apps.iter().flatten().find_map(|app| app.failed.clone());
        let over = |app: &Option<App>| app.as_ref().is_some_and(App::is_over);
        if !aborted {
            self.outcome.longest = self.outcome.longest.max(waits);
            let infos = || run.infos(&self.world);
            assert_eq!(failed, None, "{now:?}: {:#?}\n{:#?}", run.apps, infos());
            assert!(waits <= PATIENCE, "{now:?}: it hangs: {:#?}\n{:#?}", run.apps, infos());
        }
        // Who only listens never learns of an abort that was lost.
        if run.apps.iter().all(over) || aborted && waits > PATIENCE {
            let infos = run.infos(&self.world);
            let mptcp = infos.iter().flatten().any(|info| info.mptcp.is_some());
            let otherwise = infos.iter().flatten().any(|info| info.error.is_some());
            self.outcome.mptcp += u64::from(mptcp);
            self.outcome.otherwise += u64::from(otherwise && !aborted);
            let run = &mut self.runs[at];
            run.over = true;
            let hosts = [&mut self.world.client, &mut self.world.server];
            for (app, host) in run.apps.iter().zip(hosts) {
                let Some(app) = app.as_ref().filter(|app| !app.gone) else { continue };
                if !app.closed {
                    host.stack.abort(now, app.id);
                }
                host.stack.release(app.id);
            }
        }
    }

    /// Does what is due, unless that might end a connection for good.
    fn act(&mut self) {
        let now = self.world.now;
        let due: Vec<_> = self.acts.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, tries, act) in due {
            let harmless = !matches!(act, Act::Leave { .. } | Act::Wreck { .. });
            if harmless || self.runs.iter().all(|run| run.is_safe(&self.world)) {
                self.outcome.acts += 1;
                self.perform(act);
            } else if tries < TRIES {
                self.acts.push((now + AGAIN, tries + 1, act));
            }
        }
    }

    fn perform(&mut self, act: Act) {
        let now = self.world.now;
        match act {
            Act::Leave { client, which, len, at_once } => {
                self.there[usize::from(!client)][which] = false;
                let servers = self.there[1].iter().zip(&self.plan.server.addresses);
                let mut reached = servers.map(|(there, local)| *there && local.addr.is_ipv4());
                if !reached.any(|reached| reached) {
                    // Somewhere it must be.
                    self.there[1][which] = true;
                    return;
                }
                self.acts.push((now + len, 0, Act::Return { client, which }));
                if at_once {
                    let (all, host) = if client {
                        (&self.plan.client.addresses, &mut self.world.client)
                    } else {
                        (&self.plan.server.addresses, &mut self.world.server)
                    };
                    let gone = |at: usize, local: &LocalAddress| {
                        if client { usize::from(local.port.0) == which } else { at == which }
                    };
                    for (_, local) in all.iter().enumerate().filter(|(at, one)| gone(*at, one)) {
                        host.stack.remove_address(now, local.addr);
                    }
                }
                self.tell_addresses(client);
            }
            Act::Return { client, which } => {
                self.there[usize::from(!client)][which] = true;
                self.tell_addresses(client);
            }
            Act::Schedule { client, scheduling } => {
                for id in self.sockets(client) {
                    self.host(client).stack.set_scheduling(now, id, &scheduling);
                }
            }
            Act::Congestion { client, algorithm } => {
                for id in self.sockets(client) {
                    self.host(client).stack.set_congestion(now, id, algorithm);
                }
            }
            Act::Backup { client, subflow, backup } => {
                for id in self.sockets(client) {
                    self.host(client).stack.set_backup(id, subflow, backup);
                }
            }
            Act::Wreck { path, wreck, len } => {
                self.acts.push((now + len, 0, Act::Mend { path }));
                let (at, way) = (self.world.paths[path], &self.ways[path]);
                let net = &mut self.world.net;
                match wreck {
                    Wreck::Strip(dir) => {
                        let strip = net.middlebox::<OptionStripper>(at, way.strip);
                        let rule = Strip { dir, ..Strip::mptcp() };
                        strip.expect("it is there").set_rules(vec![rule]);
                    }
                    Wreck::Narrow(mtu) => {
                        net.middlebox::<PathMtu>(at, way.hop).expect("it is there").set_mtu(mtu);
                    }
                    Wreck::Rebind => {
                        if let Some(nat) = way.nat {
                            net.middlebox::<Nat>(at, nat).expect("it is there").rebind();
                        }
                    }
                    Wreck::Silence => {
                        for dir in BOTH {
                            net.link_mut(at, dir).apply(now.as_nanos(), Change::Blackhole(true));
                        }
                    }
                }
            }
            Act::Mend { path } => {
                let (at, way) = (self.world.paths[path], &self.ways[path]);
                let net = &mut self.world.net;
                let strip = net.middlebox::<OptionStripper>(at, way.strip);
                strip.expect("it is there").set_rules(Vec::new());
                net.middlebox::<PathMtu>(at, way.hop).expect("it is there").set_mtu(1_500);
                for dir in BOTH {
                    net.link_mut(at, dir).apply(now.as_nanos(), Change::Blackhole(false));
                }
            }
        }
    }

    /// The sockets that applications of a host still have.
    fn sockets(&self, client: bool) -> Vec<SocketId> {
        let side = usize::from(!client);
        let apps = self.runs.iter().filter_map(|run| run.apps[side].as_ref());
        apps.filter(|app| !app.is_over()).map(|app| app.id).collect()
    }

    fn host(&mut self, client: bool) -> &mut Host {
        if client { &mut self.world.client } else { &mut self.world.server }
    }

    fn tell_addresses(&mut self, client: bool) {
        let now = self.world.now;
        let there = &self.there[usize::from(!client)];
        let (all, host) = if client {
            (&self.plan.client.addresses, &mut self.world.client)
        } else {
            (&self.plan.server.addresses, &mut self.world.server)
        };
        let has = |at: usize, local: &LocalAddress| {
            there[if client { usize::from(local.port.0) } else { at }]
        };
        let left = all.iter().enumerate().filter(|(at, local)| has(*at, local));
        assert!(host.stack.set_addresses(now, left.map(|(_, local)| *local).collect()));
    }

    /// Everything runs out, and nothing is left.
    fn finish(mut self) -> Outcome {
        for run in &self.runs {
            self.world.server.stack.close_listener(self.world.now, run.listener);
        }
        for _ in 0..4 {
            settle(&mut self.world);
        }
        self.world.assert_empty();
        let referee = self.world.net.referee().expect("every world has one");
        referee.assert_clean();
        let seen = referee.seen();
        assert!(seen.segments > 0 && seen.forgotten == 0, "{seen:?}");
        assert_eq!(self.world.net.chain_overflow(), 0);
        self.outcome
    }
}

/// `PLAIT_CHURN_SEEDS` of them (200 unless told) from seed `PLAIT_CHURN_FIRST` (0) on.
#[test]
fn hosts_that_change_lose_no_stream() {
    let (first, count) = (number("PLAIT_CHURN_FIRST", 0), number("PLAIT_CHURN_SEEDS", 200));
    let totals = Mutex::new((Vec::new(), Outcome::default()));
    each_seed(first, count, |seed| {
        let plan = Churn::new(seed);
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| plan.run()));
        if run.is_err() {
            let packets = crate::capture::of_seed(seed, || plan.run());
            eprintln!("FAILED seed {seed}, see {}: {plan:#?}", packets.display());
        }
        let mut totals = totals.lock().expect("no poison");
        let (failed, all) = &mut *totals;
        let Ok(outcome) = run else { return failed.push(seed) };
        if outcome.otherwise > 0 || outcome.longest > PATIENCE / 4 {
            println!("churn: seed {seed}: {outcome:?}");
        }
        all.acts += outcome.acts;
        all.mptcp += outcome.mptcp;
        all.otherwise += outcome.otherwise;
        all.longest = all.longest.max(outcome.longest);
    });
    let (failed, all) = totals.into_inner().expect("no poison");
    println!("churn: seeds {first}..{}: {all:?}", first + count);
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    assert!(all.acts > count && all.mptcp > count / 2, "{all:?}");
}

/// The client's second address is another one 300 times: there are ids for 254 addresses, and each must name
/// one at a time.
#[test]
fn an_address_that_changes_for_ever_is_told_each_time() {
    for version in [Version::V0, Version::V1] {
        let mut client = StackConfig::default();
        client.mptcp.versions = vec![version];
        client.mptcp.address_batch = Duration::from_millis(1);
        let links = [crate::pair(crate::link(4, 10)), crate::pair(crate::link(4, 15))];
        let mut world = World::new(7, &links, false, client, StackConfig::default());
        let path = world.paths[1];
        let address = |n: u16| IpAddr::from([10, 2, (n >> 8) as u8, n as u8]);
        for n in 0..300 {
            world.net.add_address(world.client.node, address(n));
            world.client.routes.insert(address(n), path);
            world.server.routes.insert(address(n), path);
        }
        let first = local(world.client_addrs[0], PortId::ROUTED, 1500, false);
        let (mut next, mut n) = (Instant::from_millis(500), 0);
        // Joins that were made so far, and before the ids were used up.
        let (mut joined, mut before) = (0, 0);
        let report = crate::transfer::run_with(
            &mut world,
            true,
            100,
            100 << 20,
            Duration::from_secs(4_000),
            |world| {
                if world.now >= next && n < 300 {
                    joined = world.client.stack.counters().mp_join_syn_ack_rx;
                    before = if n == 254 { joined } else { before };
                    let second = local(address(n), PortId::ROUTED, 1500, false);
                    assert!(world.client.stack.set_addresses(world.now, vec![first, second]));
                    (next, n) = (world.now + Duration::from_millis(250), n + 1);
                }
            },
        );
        world.assert_empty();
        world.net.referee().expect("every world has one").assert_clean();
        assert_eq!(report.fallback(), None, "{report:?}");
        assert!(n == 300 && before > 200, "{before} joins from 254 addresses: {report:?}");
        assert!(joined > before + 20, "{joined} joins, {before} before ids came again: {report:?}");
    }
}
