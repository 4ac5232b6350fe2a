//! Four hosts, the links between them, and the loop that moves virtual time.

use super::cores::{Core, Cores, Rss, Spread};
use super::peers::{Phone, Server};
use crate::admin::{TakenUp, Terms};
use crate::config::{self, Config};
use crate::control::{Command, Order, ShardCounters, ShardHandle, mailbox};
use crate::gateway::{Common, Gateway};
use crate::policies::InForce;
use crate::run::stack_config::stack_config;
use crate::run::worker::ShardWorker;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId, RxMeta};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::rng::Rng;
use mptcp_core::stack::{Listen, Occupancy, Stack};
use mptcp_core::steering::{Layout, Sharding, Steering};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, Version};
use netsim::link::{LinkConfig, Loss};
use netsim::network::{Network, NodeId, PathId};
use netsim::referee::Referee;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

const CONFIG: &str = r#"
[driver]
kind = "tun"
[[port]]
name = "lte"
device = "lte"
addresses = ["10.1.0.1/24"]
[[port]]
name = "wifi"
device = "wifi"
addresses = ["10.2.0.1/24"]
[[port]]
name = "exit"
device = "exit"
addresses = ["10.9.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[socks5]
listen = ["10.1.0.1:1080"]
[convert]
listen = ["10.1.0.1:1234"]
[egress]
allow = ["10.9.0.0/24"]
[timeouts]
connect_s = 10
idle_s = 60
half_closed_s = 30
"#;

/// A host: what runs on it, and which path its packets take.
pub(super) struct Host<W> {
    pub(super) worker: W,
    pub(super) pool: HeapPool,
    pub(super) node: NodeId,
    tx: HeapTxQueue,
    inbox: Vec<HeapBuf>,
    routes: BTreeMap<IpAddr, PathId>,
    /// A phone chooses the link by the source address, everybody else by the destination.
    by_source: bool,
}

/// See the module.
pub(super) struct World {
    pub(super) net: Network,
    pub(super) now: Instant,
    pub(super) phone: Host<Phone>,
    /// One that speaks version 0 only.
    pub(super) old_phone: Host<Phone>,
    pub(super) gateway: Cores,
    /// The memory of all shards.
    pub(super) gateway_pool: HeapPool,
    pub(super) server: Host<Server>,
    /// The phone's links, then the old one's.
    pub(super) access: Vec<PathId>,
    pub(super) exit: PathId,
    pub(super) stopped: bool,
    /// In force.
    pub(super) policies: Arc<InForce>,
    terms: Arc<Terms>,
}

/// A link as phones have them.
pub(super) fn link(mbit: u64, delay_ms: u64, loss_ppm: u32) -> LinkConfig {
    LinkConfig {
        rate_bps: Some(mbit * 1_000_000),
        delay_ns: delay_ms * 1_000_000,
        queue_bytes: 256 << 10,
        mtu: 1500,
        loss: Loss::Bernoulli(loss_ppm),
        ..LinkConfig::default()
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn peer_stack(
    addrs: &[IpAddr],
    seed: [u8; 32],
    pool: &HeapPool,
    sessions: u32,
    change: impl FnOnce(&mut StackConfig),
) -> Stack<HeapBuf> {
    let local = |addr: &IpAddr| LocalAddress {
        addr: *addr,
        port: PortId::ROUTED,
        mtu: 1500,
        endpoint: true,
        backup: false,
    };
    let mut config = StackConfig {
        addresses: addrs.iter().map(local).collect(),
        seed,
        ..StackConfig::default()
    };
    let limits = &mut config.limits;
    if sessions > limits.connections {
        (limits.connections, limits.tcbs) = (sessions, 5 * sessions);
        (limits.half_open, limits.backlog) = (sessions, sessions);
    }
    change(&mut config);
    Stack::new(config, Instant::from_nanos(1), Box::new(pool.clone()))
}

impl<W: Worker<HeapBuf>> Host<W> {
    fn new(worker: W, pool: HeapPool, node: NodeId, by_source: bool) -> Self {
        let tx = HeapTxQueue::new(64, pool.clone());
        Self { worker, pool, node, tx, inbox: Vec::new(), routes: BTreeMap::new(), by_source }
    }

    /// Received packets take memory of the host's pool and come from a port, as in a driver.
    pub(super) fn receive(&mut self, packet: &[u8], port: PortId) {
        let mut buf = self.pool.alloc().expect("the pool is larger than what may be kept");
        buf.set_rx_meta(RxMeta { port, ..RxMeta::default() });
        buf.append(packet.len()).expect("a packet fits into a buffer").copy_from_slice(packet);
        self.inbox.push(buf);
    }

    pub(super) fn turn(&mut self, now: Instant, net: &mut Network) -> Control {
        self.worker.handle_burst(now, &mut self.inbox);
        let settles = (0..1000).any(|_| self.worker.handle_timeouts(now, 64) == Progress::Done);
        assert!(settles, "{now:?}: a timer fires again and again");
        self.worker.handle_events(now);
        self.transmit(now, net);
        let control = self.worker.poll_control(now);
        if control == Control::Stop {
            self.transmit(now, net);
        }
        control
    }

    /// Sends everything there is.
    fn transmit(&mut self, now: Instant, net: &mut Network) {
        loop {
            let progress = self.worker.poll_transmit(now, &mut self.tx);
            let mut sent = false;
            while let Some(packet) = self.tx.pop() {
                sent = true;
                let bytes = packet.to_vec();
                let header = IpHeader::parse(&bytes).unwrap();
                let key = if self.by_source { header.src } else { header.dst };
                if let Some(path) = self.routes.get(&key) {
                    net.send(now.as_nanos(), self.node, *path, bytes);
                }
            }
            if progress == Progress::Done || !sent {
                return;
            }
        }
    }
}

impl World {
    /// `loss_ppm` on every link, and one shard.
    pub(super) fn new(seed: u8, loss_ppm: u32, settings: &[&str]) -> Self {
        Self::spread(seed, loss_ppm, settings, Spread::over(1, Rss::Home))
    }

    /// A gateway of several shards.
    pub(super) fn spread(seed: u8, loss_ppm: u32, settings: &[&str], spread: Spread) -> Self {
        Self::with(seed, loss_ppm, settings, spread, |_| {})
    }

    /// One shard, and a phone of another configuration.
    pub(super) fn with_phone(
        seed: u8,
        loss_ppm: u32,
        settings: &[&str],
        change: impl FnOnce(&mut StackConfig),
    ) -> Self {
        Self::with(seed, loss_ppm, settings, Spread::over(1, Rss::Home), change)
    }

    fn with(
        seed: u8,
        loss_ppm: u32,
        settings: &[&str],
        spread: Spread,
        change: impl FnOnce(&mut StackConfig),
    ) -> Self {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let config = config::parse("sim", CONFIG, &settings).unwrap();
        let sessions = config.limits.connections;
        // Every session may have a few segments waiting.
        let buffers = 100_000.max(20 * sessions as usize);
        let mut net = Network::new(u64::from(seed));
        let phone_addrs =
            [addresses(&["10.1.0.2", "10.2.0.2"]), addresses(&["10.1.0.3", "10.2.0.3"])];
        let gateway_addrs = addresses(&["10.1.0.1", "10.2.0.1", "10.9.0.1"]);
        let server_addrs = addresses(&["10.9.0.2"]);
        let phone_nodes =
            [net.add_node("phone", &phone_addrs[0]), net.add_node("old phone", &phone_addrs[1])];
        let gateway_node = net.add_node("gateway", &gateway_addrs);
        let server_node = net.add_node("server", &server_addrs);
        let mut access = Vec::new();
        let mut gateway_routes = BTreeMap::new();
        let both = [Version::V0, Version::V1];
        let mut change = Some(change);
        let phones = [0, 1].map(|n| {
            let (addrs, node) = (&phone_addrs[n], phone_nodes[n]);
            let pool = HeapPool::new(buffers, 1600);
            let versions = if n == 0 { &both[..] } else { &both[..1] };
            let change = change.take();
            let stack = peer_stack(addrs, [seed ^ (n as u8) << 7; 32], &pool, sessions, |config| {
                config.mptcp.versions = versions.to_vec();
                // The first one's.
                if let Some(change) = change {
                    change(config);
                }
            });
            // Numbers of clients, which name their streams, are not used twice.
            let phone = Phone::new(stack, addrs[0], (n as u64) << 32);
            let mut phone = Host::new(phone, pool, node, true);
            let links = [link(20, 20, loss_ppm), link(10, 8, loss_ppm)];
            for (address, link) in addrs.iter().zip(links) {
                let path = net.add_path(node, gateway_node, link.clone(), link);
                phone.routes.insert(*address, path);
                gateway_routes.insert(*address, path);
                access.push(path);
            }
            phone
        });
        let [phone, old_phone] = phones;
        let exit = link(100, 5, loss_ppm);
        let path = net.add_path(gateway_node, server_node, exit.clone(), exit);
        // Nobody has 10.9.0.9: what goes there is lost on the way.
        for address in addresses(&["10.9.0.2", "10.9.0.9"]) {
            gateway_routes.insert(address, path);
        }
        let pool = HeapPool::new(buffers, 1600);
        let server =
            Server::new(peer_stack(&server_addrs, [seed ^ 0xaa; 32], &pool, sessions, |_| {}));
        let mut server = Host::new(server, pool, server_node, false);
        server.routes.insert(gateway_addrs[2], path);
        let gateway_pool = HeapPool::new(buffers, 1600);
        let layout = Layout::new(spread.shards).unwrap();
        let layout = layout.with_listening(config.bind.listening());
        let common = Arc::new(Common::new(&config, &mut Rng::from_seed([seed; 32])));
        let cores = (0..spread.shards).map(|own| {
            let sharding = Sharding { layout: layout.clone(), own };
            let (worker, handle) = gateway_worker(&config, &common, seed, &sharding, &gateway_pool);
            let mut host = Host::new(worker, gateway_pool.clone(), gateway_node, false);
            host.routes = gateway_routes.clone();
            let mut rng = Rng::from_seed([seed ^ own; 32]);
            let steering = Steering::new(&sharding, spread.limits, &mut rng);
            Core::new(host, handle, steering, spread.shards)
        });
        let gateway = Cores::new(cores.collect(), spread, layout, u64::from(seed));
        net.set_referee(Referee::new());
        let now = Instant::from_nanos(1);
        let stopped = false;
        let exit = path;
        let policies = Arc::clone(common.policies());
        let terms = Arc::new(Terms::new(&config, Arc::clone(&policies)));
        Self {
            net,
            now,
            phone,
            old_phone,
            gateway,
            gateway_pool,
            server,
            access,
            exit,
            stopped,
            policies,
            terms,
        }
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        while let Some(delivery) = self.net.deliver(self.now.as_nanos()) {
            let packet = &delivery.packet;
            let phones = [&mut self.phone, &mut self.old_phone];
            if let Some(phone) = phones.into_iter().find(|phone| phone.node == delivery.node) {
                phone.receive(packet, PortId::ROUTED);
            } else if delivery.node == self.server.node {
                self.server.receive(packet, PortId::ROUTED);
            } else {
                self.gateway.arrive(self.now, packet, self.gateway_port(delivery.path));
            }
        }
        let _ = self.phone.turn(self.now, &mut self.net);
        let _ = self.old_phone.turn(self.now, &mut self.net);
        self.stopped = self.gateway.turn(self.now, &mut self.net);
        let _ = self.server.turn(self.now, &mut self.net);
    }

    /// The port of the gateway at the end of `path`: the two accesses come first in `CONFIG`.
    fn gateway_port(&self, path: PathId) -> PortId {
        let position = self.access.iter().position(|access| *access == path);
        PortId(position.map_or(2, |position| position as u8 % 2))
    }

    /// The first phone has `address` at the end of an access, and the gateway has `ours`.
    pub(super) fn lead_to_phone(&mut self, address: &str, ours: &str, access: usize) {
        let (address, path) = (address.parse().unwrap(), self.access[access]);
        self.net.add_address(self.phone.node, address);
        self.phone.routes.insert(address, path);
        self.lead_from_gateway(address, ours, path);
    }

    fn lead_from_gateway(&mut self, address: IpAddr, ours: &str, path: PathId) {
        let cores = &mut self.gateway.cores;
        self.net.add_address(cores[0].host.node, ours.parse().unwrap());
        cores.iter_mut().for_each(|core| _ = core.host.routes.insert(address, path));
    }

    /// The server has an address of the other family, and the gateway one on its exit.
    pub(super) fn lead_to_server(&mut self, address: &str, exit: &str) {
        let (address, path): (IpAddr, _) = (address.parse().unwrap(), self.exit);
        self.net.add_address(self.server.node, address);
        self.server.routes.insert(exit.parse().unwrap(), path);
        self.lead_from_gateway(address, exit, path);
        let stack = &mut self.server.worker.stack;
        let first = stack.config().addresses[0];
        let both = vec![first, LocalAddress { addr: address, ..first }];
        assert!(stack.set_addresses(self.now, both));
        self.run(Duration::from_secs(1));
        let local = SocketAddr::new(address, 80);
        self.server.worker.stack.listen(local, &Listen::default()).unwrap();
    }

    /// Runs for this long in virtual time.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, or for `time` at most; tells whether it was done.
    pub(super) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now + time;
        loop {
            self.turn();
            if done(self) {
                return true;
            }
            let next = [
                self.net.next_deadline().map(Instant::from_nanos),
                self.phone.worker.poll_timeout(),
                self.old_phone.worker.poll_timeout(),
                self.gateway.poll_timeout(),
                self.server.worker.poll_timeout(),
            ];
            match next.into_iter().flatten().min() {
                Some(at) if at <= limit => self.now = at.max(self.now),
                _ => {
                    self.now = limit;
                    return false;
                }
            }
        }
    }

    /// To the first shard.
    pub(super) fn tell(&mut self, command: Command) {
        self.gateway.cores[0].handle.send(command).unwrap();
    }

    /// Puts profiles and rates in force on all shards, as the admin endpoint does.
    pub(super) fn set_policies(&mut self, in_force: InForce) {
        self.policies = Arc::new(in_force);
        for core in &self.gateway.cores {
            let in_force = Arc::clone(&self.policies);
            core.handle.send(Command::Policies { in_force, done: oneshot::channel().0 }).unwrap();
        }
    }

    /// As SIGHUP does, with a configuration of these settings.
    pub(super) fn take_up(&mut self, settings: &[String]) -> Result<TakenUp, Vec<String>> {
        let found = config::parse("sim", CONFIG, settings).unwrap();
        let shards: Vec<ShardHandle> =
            self.gateway.cores.iter().map(|core| core.handle.clone()).collect();
        // It waits for the shards, which run here.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let terms = Arc::clone(&self.terms);
        let mut taken = core::pin::pin!(terms.take_up(&found, &shards));
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        loop {
            if let core::task::Poll::Ready(taken) = taken.as_mut().poll(&mut context) {
                return taken;
            }
            self.run(Duration::from_millis(1));
        }
    }

    /// To all.
    pub(super) fn order(&self, order: Order) {
        for core in &self.gateway.cores {
            core.handle.order(order);
        }
    }

    /// The counters of the first shard, fetched as the admin endpoint does.
    pub(super) fn counters(&mut self) -> ShardCounters {
        self.counters_of_all().swap_remove(0)
    }

    pub(super) fn counters_of_all(&mut self) -> Vec<ShardCounters> {
        let mut answers = Vec::new();
        for core in &self.gateway.cores {
            let (reply, answer) = oneshot::channel();
            core.handle.send(Command::Counters { reply }).unwrap();
            answers.push(answer);
        }
        self.turn();
        answers.into_iter().map(|mut answer| *answer.try_recv().unwrap()).collect()
    }

    /// Nothing is left at the gateway, after the longest timer that could hold anything, and the referee
    /// saw no broken rule at any host.
    pub(super) fn assert_gateway_empty(&mut self) {
        self.run(Duration::from_secs(600));
        for counters in self.counters_of_all() {
            assert_eq!(counters.sessions, 0);
            assert_eq!(counters.occupancy, Occupancy::default());
            assert_eq!(counters.stack.internal_errors, 0);
            assert_eq!(counters.gateway.ended_total(), counters.gateway.sessions_accepted);
        }
        assert_eq!(self.gateway_pool.in_use(), 0, "buffers leaked");
        for steering in self.gateway.steering() {
            assert_eq!((steering.pending, steering.confirmed), (0, 0));
        }
        let referee = self.net.referee().expect("every world has one");
        assert_eq!(referee.seen().forgotten, 0, "{:?}", referee.seen());
        referee.assert_clean();
    }
}

fn gateway_worker(
    config: &Config,
    common: &Arc<Common>,
    seed: u8,
    sharding: &Sharding,
    pool: &HeapPool,
) -> (ShardWorker<HeapBuf>, ShardHandle) {
    let (handle, mailbox) = mailbox(Arc::new(|| {}));
    let mut seed = [seed ^ 0x55; 32];
    seed[0] ^= sharding.own;
    let mut stack_config = stack_config(config, seed).expect("a sound configuration");
    stack_config.sharding = Some(sharding.clone());
    stack_config.fast_open_seed = Some([!seed[1]; 32]);
    let mut stack = Stack::new(stack_config, Instant::from_nanos(1), Box::new(pool.clone()));
    let mut gateway = Gateway::beside(config, Arc::clone(common), &mut Rng::from_seed(seed));
    gateway.listen(&mut stack).unwrap();
    (ShardWorker::new(stack, gateway, mailbox, None).trusting(), handle)
}
