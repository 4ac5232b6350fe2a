//! The relay between an MPTCP leg and a TCP leg: client, gateway and server in one network, random
//! faults on every link, half-closes, resets and stalled readers passing through.

use crate::plan::one_of;
use crate::swarm::{each_seed, number};
use crate::transfer::End;
use crate::world::{Host, Memory, PLENTY, STARVED};
use crate::{link, pair};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::cap::SharedCap;
use mptcp_core::config::{ChecksumPolicy, CongestionAlgorithm, SchedulerKind, StackConfig};
use mptcp_core::stack::{Connect, Listen, Ready, RelayCaps, SocketId};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, TcpSegment, Version};
use netsim::Direction;
use netsim::link::{Change, LinkConfig};
use netsim::middlebox::{MptcpOn, SegmentSplitter, SequenceShifter};
use netsim::network::{Network, PathId};
use netsim::referee::{Point, Referee};
use netsim::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

const GATEWAY_PORT: u16 = 1080;
const SERVER_PORT: u16 = 80;

/// Client, gateway and server; the gateway couples every accepted connection with one of its own.
struct Chain {
    net: Network,
    client: Host,
    gateway: Host,
    server: Host,
    now: Instant,
    gateway_addr: IpAddr,
    exit_addr: IpAddr,
    server_addr: IpAddr,
    client_addr: IpAddr,
    inner_listener: SocketId,
    listener: SocketId,
    /// Outer sockets that are not connected yet, with their inner one.
    pending: BTreeMap<SocketId, SocketId>,
    partners: BTreeMap<SocketId, SocketId>,
    /// Those of them that ended, while their partner has not.
    closed: BTreeSet<SocketId>,
    /// When the gateway was last told that a relay's octets move.
    progress: Instant,
    /// Everything happens at multiples of this: packets come in bursts.
    tick: Option<Duration>,
    /// Rates for every relay.
    caps: RelayCaps,
    /// The gateway asks for MPTCP at the exit, too.
    outer_mptcp: bool,
    /// The client, or the server, ends a transfer at once when it has read more than so much.
    abort: Option<(bool, u64)>,
}

impl Chain {
    fn new(
        seed: u64,
        access: &[(LinkConfig, LinkConfig)],
        exit: &(LinkConfig, LinkConfig),
        config: &StackConfig,
    ) -> Self {
        let configs = [(); 3].map(|()| config.clone());
        Self::with(seed, access, exit, &configs, PLENTY)
    }

    /// Client, gateway and server of these configurations; the gateway has so much memory.
    fn with(
        seed: u64,
        access: &[(LinkConfig, LinkConfig)],
        exit: &(LinkConfig, LinkConfig),
        configs: &[StackConfig; 3],
        memory: Memory,
    ) -> Self {
        let clients: Vec<IpAddr> =
            (0..access.len()).map(|p| IpAddr::from([10, 1, p as u8, 2])).collect();
        let gateway_addr = IpAddr::from([10, 9, 0, 1]);
        let exit_addr = IpAddr::from([10, 8, 0, 1]);
        let server_addr = IpAddr::from([10, 8, 0, 2]);
        let mut net = Network::new(seed);
        let keyed = |n: u8| {
            let mut config = configs[usize::from(n) - 1].clone();
            config.seed[..8].copy_from_slice(&seed.to_le_bytes());
            config.seed[31] = n;
            config
        };
        let mut client = Host::new(&mut net, "client", &clients, keyed(1));
        let own = [gateway_addr, exit_addr];
        let mut gateway = Host::with_memory(&mut net, "gateway", &own, keyed(2), memory);
        let mut server = Host::new(&mut net, "server", &[server_addr], keyed(3));
        client.by_source = true;
        gateway.by_source = false;
        for (addr, (up, down)) in clients.iter().zip(access) {
            let path = net.add_path(client.node, gateway.node, up.clone(), down.clone());
            client.routes.insert(*addr, path);
            gateway.routes.insert(*addr, path);
        }
        let path = net.add_path(gateway.node, server.node, exit.0.clone(), exit.1.clone());
        gateway.routes.insert(server_addr, path);
        for addr in own {
            server.routes.insert(addr, path);
        }
        net.set_referee(Referee::new());
        let options = Listen { mptcp: true, ..Listen::default() };
        let inner = SocketAddr::new(gateway_addr, GATEWAY_PORT);
        let inner_listener = gateway.stack.listen(inner, &options).expect("a free port");
        let outer = SocketAddr::new(server_addr, SERVER_PORT);
        let listener = server.stack.listen(outer, &options).expect("a free port");
        Self {
            net,
            client,
            gateway,
            server,
            now: Instant::from_nanos(1),
            gateway_addr,
            exit_addr,
            server_addr,
            client_addr: clients[0],
            inner_listener,
            listener,
            pending: BTreeMap::new(),
            partners: BTreeMap::new(),
            closed: BTreeSet::new(),
            progress: Instant::from_nanos(1),
            tick: None,
            caps: RelayCaps::default(),
            outer_mptcp: false,
            abort: None,
        }
    }

    fn connect(&mut self, mptcp: bool) -> SocketId {
        let with = Connect {
            local: self.client_addr,
            local_port: 0,
            remote: SocketAddr::new(self.gateway_addr, GATEWAY_PORT),
            mptcp,
            timeout: None,
            user_data: 0,
        };
        self.client.stack.connect(self.now, &with).expect("within the limits")
    }

    /// Delivers, runs timers, lets the gateway couple what is ready, and sends.
    fn turn(&mut self) {
        let now = self.now;
        let mut bursts = [Vec::new(), Vec::new(), Vec::new()];
        let nodes = [self.client.node, self.gateway.node, self.server.node];
        while let Some(delivery) = self.net.deliver(now.as_nanos()) {
            let at = nodes.iter().position(|n| *n == delivery.node).expect("one of three");
            let host = match at {
                0 => &mut self.client,
                1 => &mut self.gateway,
                _ => &mut self.server,
            };
            bursts[at].extend(host.take_in(&delivery.packet));
        }
        let hosts = [&mut self.client, &mut self.gateway, &mut self.server];
        for (host, burst) in hosts.into_iter().zip(&mut bursts) {
            host.handle(now, burst);
        }
        self.couple();
        self.flush();
    }

    fn flush(&mut self) {
        for host in [&mut self.client, &mut self.gateway, &mut self.server] {
            host.transmit(self.now, &mut self.net);
        }
    }

    fn couple(&mut self) {
        let now = self.now;
        let stack = &mut self.gateway.stack;
        while let Some(inner) = stack.accept(self.inner_listener) {
            let with = Connect {
                local: self.exit_addr,
                local_port: 0,
                remote: SocketAddr::new(self.server_addr, SERVER_PORT),
                mptcp: self.outer_mptcp,
                timeout: None,
                user_data: 0,
            };
            let outer = stack.connect(now, &with).expect("within the limits");
            assert!(stack.fit_segments(outer, inner));
            self.pending.insert(outer, inner);
        }
        while let Some(event) = stack.poll_event() {
            let id = event.socket;
            if event.ready.contains(Ready::PROGRESS) {
                self.progress = now;
            }
            if event.ready.contains(Ready::CONNECTED)
                && let Some(inner) = self.pending.remove(&id)
            {
                stack.relay(now, inner, id).expect("both are free");
                assert!(stack.set_relay_caps(now, inner, &self.caps));
                self.partners.insert(id, inner);
                self.partners.insert(inner, id);
            }
            if event.ready.contains(Ready::CLOSED) {
                if let Some(inner) = self.pending.remove(&id) {
                    stack.abort(now, inner);
                }
                self.closed.insert(id);
                // As the gateway does: a leg that ended stays in its relay until the other has.
                match self.partners.get(&id) {
                    Some(partner) if !self.closed.contains(partner) => {}
                    partner => {
                        for id in partner.copied().into_iter().chain([id]) {
                            self.partners.remove(&id);
                            self.closed.remove(&id);
                            stack.release(id);
                        }
                    }
                }
            }
        }
    }

    fn advance(&mut self, limit: Instant) -> bool {
        let hosts = [&self.client, &self.gateway, &self.server];
        let timers = hosts.iter().filter_map(|h| h.stack.poll_timeout());
        let again = self.gateway.starved.then(|| self.now + STARVED);
        let arrival = self.net.next_deadline().map(Instant::from_nanos);
        let next = timers.chain(again).chain(arrival).min();
        match next.map(|at| crate::world::at_tick(at, self.tick)) {
            Some(at) if at <= limit => {
                self.now = at.max(self.now);
                true
            }
            _ => false,
        }
    }

    /// Says where everything stands.
    fn report(&self, client: &End, server: Option<&End>) {
        eprintln!("client {client:#?}\n{:#?}", self.client.stack.info(client.id));
        for id in self.partners.keys() {
            eprintln!("gateway {:#?}", self.gateway.stack.info(*id));
        }
        if let Some(end) = server {
            eprintln!("server {end:#?}\n{:#?}", self.server.stack.info(end.id));
        }
    }

    /// Runs every timer out and checks that nothing is left anywhere.
    fn finish(mut self) {
        let limit = self.now + Duration::from_secs(3000);
        loop {
            self.turn();
            while self.client.stack.poll_event().is_some() {}
            while self.server.stack.poll_event().is_some() {}
            if !self.advance(limit) {
                break;
            }
        }
        self.gateway.stack.close_listener(self.now, self.inner_listener);
        self.server.stack.close_listener(self.now, self.listener);
        let hosts =
            [("client", &self.client), ("gateway", &self.gateway), ("server", &self.server)];
        for (name, host) in hosts {
            host.assert_empty(name);
        }
        self.net.referee().expect("set").assert_clean();
    }

    /// One transfer through the gateway; `stall` keeps the client from reading until then.
    fn transfer(&mut self, mptcp: bool, up: u64, down: u64, stall: Duration) {
        let id = self.connect(mptcp);
        let mut client = End::new(id, up, 11, down, 22);
        let mut server: Option<End> = None;
        let start = self.now;
        let deadline = start + Duration::from_secs(1800);
        loop {
            self.turn();
            while let Some(event) = self.client.stack.poll_event() {
                client.connected |= event.ready.contains(Ready::CONNECTED);
                client.closed |= event.ready.contains(Ready::CLOSED);
            }
            while let Some(event) = self.server.stack.poll_event() {
                if let Some(end) = &mut server {
                    end.closed |= event.ready.contains(Ready::CLOSED);
                }
            }
            if server.is_none() {
                let id = self.server.stack.accept(self.listener);
                server = id.map(|id| End::new(id, down, 22, up, 11));
            }
            let now = self.now;
            if client.connected && now.since(start) >= stall {
                client.work(&mut self.client, now);
            }
            if let Some(end) = &mut server {
                end.work(&mut self.server, now);
            }
            self.flush();
            if let Some((by_client, most)) = self.abort {
                let end = if by_client { Some(&client) } else { server.as_ref() };
                if end.is_some_and(|end| end.received > most) {
                    return self.cut_short(by_client, &client, server.as_ref());
                }
            }
            let ends = [Some(&client), server.as_ref()];
            let failed = ends.iter().flatten().find_map(|e| e.failed.clone());
            assert!(failed.is_none(), "{failed:?} at {now:?}");
            let done = |e: &End| e.done() && e.closed;
            if done(&client) && server.as_ref().is_some_and(done) {
                break;
            }
            let waiting = start + stall;
            if !self.advance(deadline) {
                if self.now >= waiting {
                    self.report(&client, server.as_ref());
                }
                assert!(self.now < waiting, "stuck at {:?}", self.now);
                self.now = waiting;
            }
        }
        self.client.stack.release(client.id);
        self.server.stack.release(server.expect("accepted").id);
    }
}

impl Chain {
    /// One end goes at once. What hears of it goes, too; a reset may get lost, and who only listens never
    /// learns of it then: the gateway ends that for its own reasons, here after ten minutes.
    fn cut_short(&mut self, by_client: bool, client: &End, server: Option<&End>) {
        let now = self.now;
        match server.filter(|_| !by_client) {
            Some(end) => self.server.stack.abort(now, end.id),
            None => self.client.stack.abort(now, client.id),
        }
        self.flush();
        let limit = now + Duration::from_secs(600);
        while self.advance(limit) {
            self.turn();
            while self.client.stack.poll_event().is_some() {}
            while self.server.stack.poll_event().is_some() {}
        }
        self.now = limit;
        let pending = core::mem::take(&mut self.pending);
        let coupled = core::mem::take(&mut self.partners);
        for id in pending.into_iter().flat_map(|(outer, inner)| [outer, inner]) {
            self.gateway.stack.abort(limit, id);
        }
        for id in coupled.into_keys() {
            self.gateway.stack.abort(limit, id);
            self.gateway.stack.release(id);
        }
        self.closed.clear();
        self.client.stack.abort(limit, client.id);
        self.client.stack.release(client.id);
        if let Some(end) = server {
            self.server.stack.abort(limit, end.id);
            self.server.stack.release(end.id);
        }
    }
}

/// Everything about a relay that a seed can decide.
fn relayed(seed: u64) {
    let mut rng = Rng::for_packet(seed, 0xe1a5, 0);
    let rng = &mut rng;
    let shape = |rng: &mut Rng| {
        let (mbit, delay_ms) = (rng.log_uniform(2, 100), rng.log_uniform(1, 60));
        (faulty(rng, mbit, delay_ms), faulty(rng, mbit, delay_ms))
    };
    let access: Vec<_> = (0..1 + rng.below(3)).map(|_| shape(rng)).collect();
    let exit = shape(rng);
    let mut configs = [(); 3].map(|()| StackConfig::default());
    for config in &mut configs {
        config.limits.tcbs = 64;
        config.limits.connections = 16;
        config.tcp.recv_buffer_max = 32 << 10 << rng.below(8);
        config.tcp.send_buffer_max = 32 << 10 << rng.below(8);
        config.tcp.congestion = one_of(rng, &CongestionAlgorithm::ALL);
        config.tcp.sack = rng.below(8) > 0;
        config.tcp.timestamps = rng.below(8) > 0;
        config.mptcp.scheduling.kind = one_of(rng, &SchedulerKind::ALL);
        if rng.below(4) == 0 {
            config.mptcp.checksum = ChecksumPolicy::Require;
        }
    }
    configs[0].mptcp.versions = vec![one_of(rng, &[Version::V0, Version::V1])];
    let scarce = (300 + rng.below(600) as usize, 100);
    let memory = if rng.below(3) == 0 { scarce } else { PLENTY };
    let mut chain = Chain::with(seed, &access, &exit, &configs, memory);
    chain.outer_mptcp = rng.below(2) == 0;
    chain.tick = (rng.below(3) == 0).then(|| Duration::from_micros(250 + rng.below(2_000)));
    let caps = |rng: &mut Rng| -> Vec<SharedCap> {
        (0..rng.below(3)).map(|_| SharedCap::new(rng.log_uniform(100_000, 10_000_000))).collect()
    };
    chain.caps = RelayCaps { to_inner: caps(rng), to_outer: caps(rng) };
    let path = PathId(rng.below(access.len() as u64 + 1) as usize);
    match rng.below(6) {
        0 => _ = chain.net.add_middlebox(path, Box::new(SequenceShifter::new(1 << 31, 77))),
        1 => {
            let splitter = SegmentSplitter::new(200 + rng.below(1_000) as usize, MptcpOn::Every);
            chain.net.add_middlebox(path, Box::new(splitter));
        }
        // The exit, or an access, is cut for a while.
        2 => {
            let (from, len) = (rng.log_uniform(10, 3_000), rng.log_uniform(50, 8_000));
            for dir in [Direction::AtoB, Direction::BtoA] {
                let link = chain.net.link_mut(path, dir);
                link.at(from * 1_000_000, Change::Blackhole(true));
                link.at((from + len) * 1_000_000, Change::Blackhole(false));
            }
        }
        _ => {}
    }
    let (up, down) = (rng.log_uniform(1, 1 << 20), rng.log_uniform(1, 2 << 20));
    let stalls = rng.below(4) == 0;
    let stall = Duration::from_millis(if stalls { rng.log_uniform(100, 20_000) } else { 0 });
    if rng.below(5) == 0 {
        let by_client = rng.below(2) == 0;
        chain.abort = Some((by_client, rng.below(if by_client { down } else { up })));
    }
    let mptcp = rng.below(5) > 0;
    chain.transfer(mptcp, up, down, stall);
    chain.finish();
}

/// `PLAIT_RELAY_SEEDS` of them (100 unless told) from seed `PLAIT_RELAY_FIRST` (0) on.
#[test]
fn random_relays() {
    let (first, count) = (number("PLAIT_RELAY_FIRST", 0), number("PLAIT_RELAY_SEEDS", 100));
    let failed = Mutex::new(Vec::new());
    each_seed(first, count, |seed| {
        if std::panic::catch_unwind(|| relayed(seed)).is_err() {
            eprintln!("FAILED relay seed {seed}");
            failed.lock().expect("no poison").push(seed);
        }
    });
    let failed = failed.into_inner().expect("no poison");
    println!("relays: seeds {first}..{}", first + count);
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

/// Loss, jitter, reordering, duplication, a queue of any depth.
fn faulty(rng: &mut Rng, mbit: u64, delay_ms: u64) -> LinkConfig {
    crate::plan::link(rng, mbit, delay_ms * 1000, true)
}

#[test]
fn random_transfers_through_a_relay() {
    for seed in 0..80 {
        let mut rng = Rng::for_packet(seed, 0xe1a4, 0);
        let mut pick = |low: u64, high: u64| low + rng.next_u64() % (high - low + 1);
        let paths = pick(1, 3);
        let (up, down) = (1 << pick(0, 20), 1 << pick(0, 22));
        let (mptcp, buffer) = (pick(0, 4) > 0, (64 << 10) << pick(0, 6));
        let stall = Duration::from_millis(if pick(0, 3) == 0 { pick(500, 20_000) } else { 0 });
        let rates: Vec<(u64, u64)> = (0..=paths).map(|_| (pick(2, 100), pick(1, 60))).collect();
        let access: Vec<_> = rates[1..]
            .iter()
            .map(|&(mbit, delay)| (faulty(&mut rng, mbit, delay), faulty(&mut rng, mbit, delay)))
            .collect();
        let exit = (faulty(&mut rng, rates[0].0, 5), faulty(&mut rng, rates[0].0, 5));
        let mut config = StackConfig::default();
        config.tcp.recv_buffer_max = buffer;
        config.tcp.send_buffer_max = buffer;
        config.limits.tcbs = 64;
        config.limits.connections = 16;
        eprintln!("seed {seed}: {paths} paths {up} up {down} down mptcp {mptcp} stall {stall:?}");
        let mut chain = Chain::new(seed, &access, &exit, &config);
        // Of every third the packets come in bursts.
        chain.tick = (seed % 3 == 2).then(|| Duration::from_micros(500 + seed % 7 * 250));
        chain.transfer(mptcp, up, down, stall);
        chain.finish();
    }
}

/// Each way has its rate, and takes the time that this rate takes, whatever the links do; the stricter of two
/// holds.
#[test]
fn a_relay_is_held_to_its_rates() {
    let caps = |rates: &[u64]| rates.iter().map(|rate| SharedCap::new(*rate)).collect();
    for (seed, mptcp) in [(0, true), (1, false), (2, true), (3, true), (4, false)] {
        let mut rng = Rng::for_packet(seed, 0xca9, 0);
        let access = [30, 20].map(|mbit| (faulty(&mut rng, mbit, 20), faulty(&mut rng, mbit, 20)));
        let exit = pair(link(100, 2));
        let mut chain = Chain::new(seed, &access, &exit, &StackConfig::default());
        chain.tick = (seed == 2).then(|| Duration::from_millis(1));
        let to_inner = caps(&[500_000, 125_000, 250_000]);
        chain.caps = RelayCaps { to_inner, to_outer: caps(&[50_000]) };
        let begin = chain.now;
        chain.transfer(mptcp, 200_000, 1 << 20, Duration::ZERO);
        let seconds = chain.now.since(begin).as_secs_f64();
        let due = (1 << 20) as f64 / 125_000.0;
        // Handshakes at the start, and at the end what the links lost.
        assert!((due * 0.98..due * 1.02 + 2.0).contains(&seconds), "seed {seed}: {seconds} {due}");
        chain.finish();
    }
}

/// The exit asks for segments that fit those of the inner leg, so that what comes in one goes out as one.
#[test]
fn what_comes_in_goes_out_in_the_same_pieces() {
    let access = [pair(link(60, 5)), pair(link(60, 9))];
    let mut chain = Chain::new(4, &access, &pair(link(100, 2)), &StackConfig::default());
    let (server, gateway, exit) = (chain.server.node, chain.gateway.node, PathId(access.len()));
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let tapped = Arc::clone(&seen);
    chain.net.set_tap(Box::new(move |_, node, path, point, data| {
        let ip = IpHeader::parse(data).expect("ours");
        let len = TcpSegment::parse(&data[ip.header_len..]).expect("ours").payload.len();
        let comes = node == server && point == Point::Sent;
        let goes = node == gateway && path != exit && point == Point::Sent;
        if (comes || goes) && len > 0 {
            *tapped.lock().expect("whole").entry((comes, len)).or_insert(0) += 1;
        }
    }));
    chain.transfer(true, 100, 4 << 20, Duration::ZERO);
    chain.finish();
    let seen = seen.lock().expect("whole");
    let of = |wanted: bool| -> Vec<(usize, u32)> {
        let lens = seen.iter().filter(|((comes, _), _)| *comes == wanted);
        lens.map(|(&(_, len), &count)| (len, count)).collect()
    };
    assert_eq!(of(true), of(false));
    // With timestamps and a DSS, whose `DATA_ACK` may be long.
    assert!(of(true).iter().any(|(len, count)| *len >= 1424 && *count > 2_900), "{seen:?}");
}

/// A client that does not read: the window closes leg by leg, and the gateway holds no more than
/// its two buffers.
#[test]
fn back_pressure_reaches_the_server() {
    let mut config = StackConfig::default();
    config.tcp.recv_buffer_max = 256 << 10;
    config.tcp.send_buffer_max = 256 << 10;
    let mut chain = Chain::new(1, &[pair(link(100, 5))], &pair(link(100, 5)), &config);
    let id = chain.connect(true);
    let mut server: Option<End> = None;
    let mut most = 0;
    let deadline = chain.now + Duration::from_secs(30);
    loop {
        chain.turn();
        while chain.server.stack.poll_event().is_some() {}
        while chain.client.stack.poll_event().is_some() {}
        if server.is_none() {
            let id = chain.server.stack.accept(chain.listener);
            server = id.map(|id| End::new(id, 64 << 20, 22, 0, 11));
        }
        let now = chain.now;
        if let Some(end) = &mut server {
            end.work(&mut chain.server, now);
        }
        chain.flush();
        most = most.max(chain.gateway.pool.in_use());
        if !chain.advance(deadline) {
            break;
        }
    }
    let sent = server.as_ref().map_or(0, |e| e.sent);
    assert!(sent > 256 << 10 && sent < 4 << 20, "{sent}");
    // What it holds is two buffers, at least one of them full, and not much more.
    let held = most * 1460;
    assert!(held > 256 << 10 && held < 1 << 20, "{most} buffers");
    chain.client.stack.abort(chain.now, id);
    chain.turn();
    let deadline = chain.now + Duration::from_secs(5);
    while chain.advance(deadline) {
        chain.turn();
    }
    // The reset went through to the server.
    let error = chain.server.stack.error(server.as_ref().expect("accepted").id);
    assert_eq!(error, Some(mptcp_core::error::ConnectionError::Reset));
    chain.server.stack.release(server.expect("accepted").id);
    chain.finish();
}

/// Nobody listens behind the gateway, then the server resets: the client is told both times.
#[test]
fn a_reset_of_the_outer_leg_reaches_the_client() {
    let config = StackConfig::default();
    let mut chain = Chain::new(2, &[pair(link(50, 5))], &pair(link(50, 5)), &config);
    let id = chain.connect(true);
    let deadline = chain.now + Duration::from_secs(5);
    let mut accepted = None;
    chain.turn();
    while accepted.is_none() && chain.advance(deadline) {
        chain.turn();
        accepted = chain.server.stack.accept(chain.listener);
    }
    chain.server.stack.abort(chain.now, accepted.expect("a connection"));
    chain.turn();
    let deadline = chain.now + Duration::from_secs(5);
    while chain.advance(deadline) {
        chain.turn();
    }
    let error = chain.client.stack.error(id);
    assert_eq!(error, Some(mptcp_core::error::ConnectionError::Reset));
    chain.client.stack.release(id);
    chain.finish();
}

/// The writer has finished and the relay has moved everything; a slow reader takes what waits in
/// its leg. Until it has, the relay reports progress.
fn slow_reader(mptcp: bool, upload: bool) {
    const LEN: u64 = 1 << 20;
    const PERIOD: Duration = Duration::from_secs(1);
    let mut config = StackConfig::default();
    config.tcp.recv_buffer_max = 64 << 10;
    let fast = [pair(link(100, 5)), pair(link(100, 5))];
    let mut chain = Chain::new(7, &fast, &pair(link(100, 5)), &config);
    let id = chain.connect(mptcp);
    let (up, down) = if upload { (LEN, 0) } else { (0, LEN) };
    let mut client = End::new(id, up, 11, down, 22);
    let mut server: Option<End> = None;
    let (mut reads_at, mut quiet) = (chain.now, Duration::ZERO);
    loop {
        chain.turn();
        while let Some(event) = chain.client.stack.poll_event() {
            client.connected |= event.ready.contains(Ready::CONNECTED);
        }
        while chain.server.stack.poll_event().is_some() {}
        if server.is_none() {
            let id = chain.server.stack.accept(chain.listener);
            server = id.map(|id| End::new(id, down, 22, up, 11));
        }
        let now = chain.now;
        if client.connected
            && let Some(server) = &mut server
        {
            let (reader, slow, writer, fast) = if upload {
                (server, &mut chain.server, &mut client, &mut chain.client)
            } else {
                (&mut client, &mut chain.client, server, &mut chain.server)
            };
            writer.work(fast, now);
            if now >= reads_at {
                reads_at = now + PERIOD;
                reader.work_for(slow, now, 20_000);
            }
            if reader.done() {
                break;
            }
            quiet = quiet.max(now.since(chain.progress));
        }
        chain.flush();
        let wake = reads_at.max(chain.now + Duration::from_millis(1));
        if !chain.advance(wake) {
            chain.now = wake;
        }
    }
    assert!(chain.now.since(Instant::from_nanos(1)) > Duration::from_secs(40), "a slow reader");
    assert!(quiet < Duration::from_secs(10), "no progress was reported for {quiet:?}");
    chain.client.stack.abort(chain.now, id);
    chain.server.stack.abort(chain.now, server.expect("accepted").id);
    chain.finish();
}

#[test]
fn a_slow_reader_behind_a_finished_writer_is_progress() {
    for mptcp in [false, true] {
        for upload in [false, true] {
            slow_reader(mptcp, upload);
        }
    }
}
