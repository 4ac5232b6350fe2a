//! Two stacks, the links between them, and the loop that moves virtual time.

use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Connect, Listen, Occupancy, SocketId, Stack};
use mptcp_core::time::{Duration, Instant};
use netsim::link::LinkConfig;
use netsim::network::{Network, NodeId, PathId};
use netsim::referee::Referee;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) const SERVER_PORT: u16 = 80;

/// Buffers of a host, and how many of them are for what it does not keep.
pub(crate) type Memory = (usize, usize);

/// More than every window.
pub(crate) const PLENTY: Memory = (200_000, 0);

/// When a host that found no buffer looks again.
pub(crate) const STARVED: Duration = Duration::from_millis(1);

/// Is shown packets.
pub(crate) type Watch = Box<dyn FnMut(&[u8])>;

/// One host: a stack and where its packets go.
pub(crate) struct Host {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) pool: HeapPool,
    pub(crate) node: NodeId,
    tx: HeapTxQueue,
    pub(crate) routes: BTreeMap<IpAddr, PathId>,
    pub(crate) by_source: bool,
    /// It has something to send and no buffer for it.
    pub(crate) starved: bool,
    /// Every segment that is sent is printed.
    traced: bool,
    /// Is shown every packet that is sent.
    pub(crate) watch: Option<Watch>,
}

/// The simulated world. The client has one address per path, the server one for all.
pub(crate) struct World {
    pub(crate) net: Network,
    pub(crate) client: Host,
    pub(crate) server: Host,
    pub(crate) now: Instant,
    pub(crate) paths: Vec<PathId>,
    pub(crate) server_addr: IpAddr,
    pub(crate) client_addrs: Vec<IpAddr>,
    /// Turns in a row that did not move time.
    standstill: u32,
    /// Where event logs are kept should the run fail; none are without it.
    logs: Option<PathBuf>,
    /// Event logs are kept for the test itself.
    pub(crate) logged: bool,
    /// Octets that go with the SYN of a transfer, where there are so many; the listener takes them.
    pub(crate) early: Option<u64>,
    /// Everything happens at multiples of this, as where interrupts are moderated: packets come in bursts.
    pub(crate) tick: Option<Duration>,
    /// Applications of a transfer do nothing unless an event asks them to.
    pub(crate) by_events: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(path) = self.logs.as_ref().filter(|_| std::thread::panicking()) {
            let hosts = [("client", &self.client.stack), ("server", &self.server.stack)];
            crate::capture::write_logs(path, &hosts);
        }
    }
}

pub(crate) fn client_addr(path: usize, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd00, 1, path as u16, 0, 0, 0, 0, 2])
    } else {
        IpAddr::from([10, 1, path as u8, 2])
    }
}

fn server_addr(v6: bool) -> IpAddr {
    if v6 { IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, 1]) } else { IpAddr::from([10, 9, 0, 1]) }
}

const fn local(addr: IpAddr, port: PortId) -> LocalAddress {
    LocalAddress { addr, port, mtu: 1500, endpoint: true, backup: false }
}

impl Host {
    /// With `addrs` for addresses, unless `config` has its own.
    pub(crate) fn new(
        net: &mut Network,
        name: &str,
        addrs: &[IpAddr],
        config: StackConfig,
    ) -> Self {
        Self::with_memory(net, name, addrs, config, PLENTY)
    }

    /// The same with so much memory.
    pub(crate) fn with_memory(
        net: &mut Network,
        name: &str,
        addrs: &[IpAddr],
        mut config: StackConfig,
        (buffers, reserve): Memory,
    ) -> Self {
        if config.addresses.is_empty() {
            config.addresses = addrs.iter().map(|addr| local(*addr, PortId::ROUTED)).collect();
        }
        let pool = HeapPool::new(buffers, 1700);
        let own = pool.clone().with_reserve(reserve);
        let boxed: Box<dyn BufPool<HeapBuf> + Send> = Box::new(own);
        let tx = HeapTxQueue::new(64, pool.clone());
        let joined = std::env::var_os("PLAIT_SIM_JOINED").is_some();
        Self {
            stack: Stack::new(config, Instant::from_nanos(1), boxed),
            tx: if joined { tx.with_segmentation_offload() } else { tx },
            pool,
            node: net.add_node(name, addrs),
            routes: BTreeMap::new(),
            by_source: addrs.len() > 1,
            starved: false,
            traced: std::env::var_os("PLAIT_TRACE").is_some(),
            watch: None,
        }
    }

    /// As with a port that sends segments in one piece: those of a burst share their mapping.
    pub(crate) fn join_segments(&mut self) {
        self.tx = HeapTxQueue::new(64, self.pool.clone()).with_segmentation_offload();
    }

    /// A packet in memory of the host's own pool, as its driver would receive it.
    pub(crate) fn receive(&mut self, packet: &[u8]) -> HeapBuf {
        let mut buf = self.pool.alloc().expect("the pool is larger than every window");
        assert!(buf.copy_from(packet), "{} octets are more than a buffer holds", packet.len());
        buf
    }

    /// The same; nothing where there is little memory, and none left.
    pub(crate) fn take_in(&mut self, packet: &[u8]) -> Option<HeapBuf> {
        let little = self.pool.limit() < PLENTY.0;
        let full = self.pool.in_use() >= self.pool.limit();
        (!little || !full).then(|| self.receive(packet))
    }

    /// Takes in a burst and runs what is due.
    pub(crate) fn handle(&mut self, now: Instant, burst: &mut Vec<HeapBuf>) {
        self.stack.handle_burst(now, burst);
        let settles = (0..1000).any(|_| self.stack.handle_timeouts(now, 64) == Progress::Done);
        assert!(settles, "{now:?}: a timer fires again and again");
    }

    /// Checks that nothing is left: no entry in a table or list, no buffer, no broken invariant.
    pub(crate) fn assert_empty(&self, name: &str) {
        assert_eq!(self.stack.occupancy(), Occupancy::default(), "{name} left something");
        assert!(self.stack.transmit_idle(), "{name} has something to send");
        assert_eq!(self.stack.listener_count(), 0, "{name} left a listener");
        assert_eq!(self.pool.in_use(), 0, "{name} leaked buffers");
        assert_eq!(self.stack.counters().internal_errors, 0, "{name}");
    }

    pub(crate) fn transmit(&mut self, now: Instant, net: &mut Network) -> bool {
        let mut any = false;
        loop {
            let progress = self.stack.poll_transmit(now, &mut self.tx);
            let mut sent = false;
            while let Some(packet) = self.tx.pop() {
                sent = true;
                let bytes = packet.to_vec();
                if let Some(watch) = &mut self.watch {
                    watch(&bytes);
                }
                let (src, dst) = addresses(&bytes);
                if self.traced {
                    let header =
                        mptcp_core::wire::IpHeader::parse(&bytes).expect("the harness is sound");
                    let seg = mptcp_core::wire::TcpSegment::parse(&bytes[header.header_len..])
                        .expect("the harness is sound");
                    let options: Vec<_> = seg.options().collect();
                    eprintln!(
                        "{now:?} {src}:{} > {dst}:{} {:?} seq {} ack {} win {} len {} {:?}",
                        seg.src_port,
                        seg.dst_port,
                        seg.flags,
                        seg.seq.0,
                        seg.ack.0,
                        seg.window,
                        seg.payload.len(),
                        options
                    );
                }
                let key = if self.by_source { src } else { dst };
                // Every address of the network has a route: a stray one is the stack's.
                let path = self.routes.get(&key).copied();
                let path = path.unwrap_or_else(|| panic!("no route for {key}: {src} > {dst}"));
                net.send(now.as_nanos(), self.node, path, bytes);
            }
            any |= sent;
            if progress == Progress::Done || !sent {
                let little = self.pool.limit() < PLENTY.0;
                self.starved = little && progress != Progress::Done;
                return any;
            }
        }
    }
}

/// The end of the tick that something happens in.
pub(crate) fn at_tick(at: Instant, tick: Option<Duration>) -> Instant {
    let Some(tick) = tick else { return at };
    let tick = u64::try_from(tick.as_nanos()).expect("a short time");
    Instant::from_nanos(at.as_nanos().next_multiple_of(tick))
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let header = mptcp_core::wire::IpHeader::parse(packet).expect("the harness is sound");
    (header.src, header.dst)
}

impl World {
    pub(crate) fn new(
        seed: u64,
        links: &[(LinkConfig, LinkConfig)],
        v6: bool,
        client: StackConfig,
        server: StackConfig,
    ) -> Self {
        Self::with_memory(seed, links, v6, client, server, [PLENTY; 2])
    }

    /// As [`Self::new`], with so much memory at the client and at the server.
    pub(crate) fn with_memory(
        seed: u64,
        links: &[(LinkConfig, LinkConfig)],
        v6: bool,
        mut client: StackConfig,
        mut server: StackConfig,
        [client_memory, server_memory]: [Memory; 2],
    ) -> Self {
        client.seed = [seed as u8; 32];
        client.seed[..8].copy_from_slice(&seed.to_le_bytes());
        server.seed = client.seed;
        server.seed[31] ^= 0x55;
        let mut net = Network::new(seed);
        let client_addrs: Vec<IpAddr> = (0..links.len()).map(|p| client_addr(p, v6)).collect();
        let server_addr = server_addr(v6);
        let mut client =
            Host::with_memory(&mut net, "client", &client_addrs, client, client_memory);
        let mut server =
            Host::with_memory(&mut net, "server", &[server_addr], server, server_memory);
        let mut paths = Vec::new();
        for (idx, (up, down)) in links.iter().enumerate() {
            let path = net.add_path(client.node, server.node, up.clone(), down.clone());
            client.routes.insert(client_addrs[idx], path);
            server.routes.insert(client_addrs[idx], path);
            paths.push(path);
        }
        client.by_source = true;
        net.set_referee(Referee::new());
        let logs = crate::capture::install(&mut net, &["client", "server"]);
        let now = Instant::from_nanos(1);
        Self {
            net,
            client,
            server,
            now,
            paths,
            server_addr,
            client_addrs,
            standstill: 0,
            logs,
            logged: false,
            early: None,
            tick: None,
            by_events: false,
        }
    }

    /// As [`Self::new`]; the client's addresses belong to ports 0, 1, ….
    pub(crate) fn with_ports(
        seed: u64,
        links: &[(LinkConfig, LinkConfig)],
        mut client: StackConfig,
        server: StackConfig,
    ) -> Self {
        let address = |path| local(client_addr(path, false), PortId(path as u8));
        client.addresses = (0..links.len()).map(address).collect();
        Self::new(seed, links, false, client, server)
    }

    pub(crate) fn listen(&mut self, mptcp: bool) -> SocketId {
        let local = SocketAddr::new(self.server_addr, SERVER_PORT);
        let fast_open = if self.early.is_some() { 16 } else { 0 };
        let options = Listen { mptcp, fast_open, ..Listen::default() };
        let id = self.server.stack.listen(local, &options).expect("the harness is sound");
        self.keep_log_of(id, false);
        id
    }

    pub(crate) fn connect(&mut self, mptcp: bool) -> SocketId {
        self.connect_with(mptcp, &[])
    }

    /// With `early` for the SYN, if there is any.
    pub(crate) fn connect_with(&mut self, mptcp: bool, early: &[u8]) -> SocketId {
        let with = Connect {
            local: self.client_addrs[0],
            local_port: 0,
            remote: SocketAddr::new(self.server_addr, SERVER_PORT),
            mptcp,
            timeout: None,
            user_data: 0,
        };
        let stack = &mut self.client.stack;
        let opened = match early {
            [] => stack.connect(self.now, &with).map(|id| (id, 0)),
            early => stack.connect_with_data(self.now, &with, early),
        };
        let (id, queued) = opened.expect("the harness is sound");
        assert_eq!(queued, early.len());
        self.keep_log_of(id, true);
        id
    }

    pub(crate) fn keep_log_of(&mut self, id: SocketId, client: bool) {
        let host = if client { &mut self.client } else { &mut self.server };
        if self.logs.is_some() || self.logged {
            assert!(host.stack.log_events(id, 100_000));
        }
    }

    /// Delivers what is due, runs timers and sends, without moving time.
    pub(crate) fn turn(&mut self) {
        let now = self.now;
        let mut to_client = Vec::new();
        let mut to_server = Vec::new();
        while let Some(delivery) = self.net.deliver(now.as_nanos()) {
            if delivery.node == self.client.node {
                to_client.extend(self.client.take_in(&delivery.packet));
            } else {
                to_server.extend(self.server.take_in(&delivery.packet));
            }
        }
        self.client.handle(now, &mut to_client);
        self.server.handle(now, &mut to_server);
        self.flush();
    }

    pub(crate) fn flush(&mut self) {
        let now = self.now;
        self.client.transmit(now, &mut self.net);
        self.server.transmit(now, &mut self.net);
    }

    /// When anything happens next.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        let net = self.net.next_deadline().map(Instant::from_nanos);
        let starved = self.client.starved || self.server.starved;
        let again = starved.then(|| self.now + STARVED);
        [net, again, self.client.stack.poll_timeout(), self.server.stack.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Moves time to the next event, at most to `limit`. False when nothing will ever happen or
    /// the limit is reached.
    pub(crate) fn advance(&mut self, limit: Instant) -> bool {
        match self.next_event().map(|at| at_tick(at, self.tick)) {
            Some(at) if at <= limit => {
                self.standstill = if at > self.now { 0 } else { self.standstill + 1 };
                assert!(self.standstill < 1000, "{:?}: something is due again and again", self.now);
                self.now = at.max(self.now);
                true
            }
            _ => {
                self.now = limit.max(self.now);
                false
            }
        }
    }

    /// What must be empty at the end is.
    pub(crate) fn assert_empty(&self) {
        self.client.assert_empty("client");
        self.server.assert_empty("server");
    }
}
