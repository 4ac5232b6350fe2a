//! Version 0 phones against our server: the strict model of `phone.rs` over two simulated paths, with
//! losses, a cut, a lost third ACK and an abrupt end (RFC 6824).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod phone;
mod wire;

use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use mptcp_core::buf::{HeapBuf, HeapPool, HeapTxQueue, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::error::{ConnectionError, RecvError};
use mptcp_core::stack::{ConnectionInfo, Listen, Occupancy, Ready, SocketId, Stack};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::Version;
use netsim::Direction;
use netsim::link::{Change, LinkConfig, Loss};
use netsim::network::{Network, NodeId, PathId};
use phone::{Job, Phone, octet};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 1080);
const LTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 2), 40_001);
const WIFI: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 2), 40_002);

struct World {
    net: Network,
    phone: Phone,
    phone_node: NodeId,
    server: Stack<HeapBuf>,
    server_node: NodeId,
    paths: [PathId; 2],
    pool: HeapPool,
    tx: HeapTxQueue,
    now: Instant,
    socket: Option<SocketId>,
    sent: u64,
    received: u64,
    job: Job,
    ended: Option<Option<ConnectionError>>,
    last: Option<ConnectionInfo>,
}

fn link(mbit: u64, ms: u64, ppm: u32) -> LinkConfig {
    LinkConfig {
        rate_bps: Some(mbit * 1_000_000),
        delay_ns: ms * 1_000_000,
        queue_bytes: 256 << 10,
        mtu: 1500,
        loss: Loss::Bernoulli(ppm),
        ..LinkConfig::default()
    }
}

impl World {
    fn new(seed: u64, job: Job, ppm: u32) -> Self {
        let mut net = Network::new(seed);
        let phone_node = net.add_node("phone", &[IpAddr::V4(*LTE.ip()), IpAddr::V4(*WIFI.ip())]);
        let server_node = net.add_node("server", &[IpAddr::V4(*SERVER.ip())]);
        let mut path = |mbit, ms| {
            net.add_path(phone_node, server_node, link(mbit, ms, ppm), link(mbit, ms, ppm))
        };
        let paths = [path(20, 30), path(20, 10)];
        let mut config = StackConfig {
            addresses: vec![LocalAddress {
                addr: IpAddr::V4(*SERVER.ip()),
                port: PortId::ROUTED,
                mtu: 1500,
                endpoint: true,
                backup: false,
            }],
            ..StackConfig::default()
        };
        config.seed[..8].copy_from_slice(&seed.to_le_bytes());
        config.mptcp.versions = vec![Version::V0, Version::V1];
        let pool = HeapPool::new(20_000, 1700);
        let now = Instant::from_millis(1);
        let mut server = Stack::new(config, now, Box::new(pool.clone()));
        server
            .listen(SocketAddr::V4(SERVER), &Listen { mptcp: true, ..Listen::default() })
            .unwrap();
        Self {
            net,
            phone: Phone::new(seed, job, SERVER, LTE, WIFI),
            phone_node,
            server,
            server_node,
            paths,
            tx: HeapTxQueue::new(64, pool.clone()),
            pool,
            now,
            socket: None,
            sent: 0,
            received: 0,
            job,
            ended: None,
            last: None,
        }
    }

    fn turn(&mut self) {
        let now = self.now.as_nanos();
        let mut burst = Vec::new();
        while let Some(delivery) = self.net.deliver(now) {
            if delivery.node == self.phone_node {
                self.phone.receive(now, &delivery.packet);
            } else {
                burst.push(HeapBuf::from_slice(&delivery.packet));
            }
        }
        self.server.handle_burst(self.now, &mut burst);
        while self.server.handle_timeouts(self.now, 64) == Progress::More {}
        while let Some(event) = self.server.poll_event() {
            if event.ready.contains(Ready::ACCEPT) {
                self.socket = self.socket.or(self.server.accept(event.socket));
            }
            if event.ready.contains(Ready::CLOSED) {
                self.ended = Some(self.server.error(event.socket));
            }
        }
        self.serve();
        self.phone.work(now);
        for (at, packet) in self.phone.take_packets() {
            self.net.send(now, self.phone_node, self.paths[at], packet);
        }
        loop {
            let progress = self.server.poll_transmit(self.now, &mut self.tx);
            while let Some(packet) = self.tx.pop() {
                let bytes = packet.to_vec();
                let wifi = bytes[16..20] == WIFI.ip().octets();
                self.net.send(now, self.server_node, self.paths[usize::from(wifi)], bytes);
            }
            if progress == Progress::Done {
                break;
            }
        }
    }

    /// The server's application: takes the upload, gives the download, ends its stream.
    fn serve(&mut self) {
        let Some(id) = self.socket else { return };
        if let Some(info) = self.server.info(id)
            && !info.subflows.is_empty()
        {
            self.last = Some(info);
        }
        let mut chunk = [0; 8192];
        while let Ok(n) = self.server.recv(self.now, id, &mut chunk) {
            for (at, byte) in chunk[..n].iter().enumerate() {
                assert_eq!(*byte, octet(1, self.received + at as u64), "the upload differs");
            }
            self.received += n as u64;
            if n == 0 {
                break;
            }
        }
        while self.sent < self.job.down {
            let len = chunk.len().min((self.job.down - self.sent) as usize);
            for (at, byte) in chunk[..len].iter_mut().enumerate() {
                *byte = octet(2, self.sent + at as u64);
            }
            match self.server.send(self.now, id, &chunk[..len]) {
                Ok(n) => self.sent += n as u64,
                Err(_) => break,
            }
        }
        if self.sent == self.job.down && !self.job.fastclose {
            self.server.shutdown_write(self.now, id);
        }
    }

    fn run(&mut self) {
        let limit = self.now + Duration::from_secs(900);
        loop {
            self.turn();
            assert!(self.phone.errors.is_empty(), "{:?} {:#?}", self.phone.errors, self.last);
            if self.phone.done() && self.ended.is_some() {
                break;
            }
            let next = [
                self.net.next_deadline(),
                self.phone.next_timer(),
                self.server.poll_timeout().map(Instant::as_nanos),
            ];
            let next = next.into_iter().flatten().min().map(Instant::from_nanos);
            self.now = next.filter(|at| *at <= limit).map_or(limit, |at| at.max(self.now));
            assert!(
                self.now < limit,
                "stuck: received {} sent {} {:#?}",
                self.received,
                self.sent,
                self.last
            );
        }
        if let Some(id) = self.socket.take() {
            assert_eq!(self.server.recv(self.now, id, &mut [0]).err(), self.at_end());
            self.server.release(id);
        }
        while let Some(at) = self.server.poll_timeout() {
            self.now = self.now.max(at);
            self.turn();
        }
        assert_eq!(self.received, self.job.up);
        let listening = self.server.occupancy();
        assert_eq!(listening, Occupancy { ..Occupancy::default() }, "something is left");
        assert_eq!(self.pool.in_use(), 0, "buffers are left");
    }

    fn at_end(&self) -> Option<RecvError> {
        self.job.fastclose.then_some(RecvError::Failed(ConnectionError::Reset))
    }

    /// What the server said about the connection while it had subflows.
    fn info(&self) -> &ConnectionInfo {
        self.last.as_ref().expect("the connection was accepted")
    }
}

const BOTH: Job =
    Job { up: 300_000, down: 3_000_000, join: true, lose_third_ack: false, fastclose: false };

fn version_zero(world: &World) {
    assert_eq!((world.info().mptcp, world.info().fallback), (Some(0), None));
}

#[test]
fn a_phone_downloads_over_both_paths() {
    let mut world = World::new(1, BOTH, 0);
    world.run();
    version_zero(&world);
    let [lte, wifi] = world.phone.by_subflow[..] else { panic!("two subflows") };
    assert!(lte > 300_000 && wifi > 300_000, "{lte} {wifi}");
}

#[test]
fn t02_a_version_0_syn_is_answered_in_version_0() {
    let mut world = World::new(2, Job { join: false, ..BOTH }, 0);
    world.run();
    version_zero(&world);
}

#[test]
fn a_phone_that_only_uploads_or_only_downloads() {
    for (up, down) in [(1, 0), (1_000_000, 0), (1, 1), (1, 2_000_000)] {
        let mut world = World::new(3, Job { up, down, ..BOTH }, 0);
        world.run();
        version_zero(&world);
    }
}

/// The phone shows its keys once; the first data shows with its DSS that options pass, and the keys
/// were in the SYN.
#[test]
fn t13_a_lost_third_ack_costs_nothing() {
    let mut world = World::new(4, Job { lose_third_ack: true, ..BOTH }, 0);
    world.run();
    version_zero(&world);
}

#[test]
fn losses_are_repaired_with_the_same_mappings() {
    for seed in 10..60 {
        let mut world = World::new(seed, Job { down: 600_000, up: 100_000, ..BOTH }, 20_000);
        world.run();
        version_zero(&world);
    }
}

#[test]
fn a_cut_path_is_survived() {
    for path in 0..2 {
        let mut world = World::new(70 + path as u64, BOTH, 0);
        for dir in [Direction::AtoB, Direction::BtoA] {
            let link = world.net.link_mut(world.paths[path], dir);
            link.at(700_000_000, Change::Blackhole(true));
            link.at(5_000_000_000, Change::Blackhole(false));
        }
        world.run();
        version_zero(&world);
    }
}

/// Version 0 has the form on an ACK only, answered by a RST.
#[test]
fn a_fast_close_of_the_phone_is_answered_by_a_reset() {
    let mut world = World::new(80, Job { fastclose: true, ..BOTH }, 0);
    world.run();
    version_zero(&world);
    assert_eq!(world.ended, Some(Some(ConnectionError::Reset)));
}
