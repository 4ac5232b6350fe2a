//! The driver over libdpdk.

use super::{PoolStatus, PortStatus};
use crate::clock::Clock;
use crate::config::{self, EalConfig, IdleMode, PortConfig, RouteConfig};
use crate::counters::ShardCounters;
use crate::cpus::usable_cpus;
use crate::dpdk::eal::{Eal, Lcore};
use crate::dpdk::mbuf::Mbuf;
use crate::dpdk::pool::{MbufPool, PoolSize};
use crate::dpdk::port::{self, DESCRIPTORS, Port, RxQueue, TxQueue};
use crate::dpdk::ring::MbufRings;
use crate::dpdk::rules::PortRules;
use crate::error::DriverError;
use crate::l2::{L2, L2Config, L2Port, L2Route};
use crate::nic::{BURST, Flushed, Nic, Pushed, Received};
use crate::rings::{RING_SIZE, Rings};
use crate::rules::{self, MAX_RULES, RuleTable};
use crate::shard::{Crossing, Exchange, News, ShardLoop};
use core::sync::atomic::{AtomicBool, Ordering};
use core_affinity::CoreId;
use mptcp_core::buf::{BufPool, PortId};
use mptcp_core::driver::Worker;
use mptcp_core::rng::Rng;
use mptcp_core::steering::{Layout, Sharding, Steering, SteeringLimits, SteeringNote};
use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Frames that wait for one port's transmit queue.
const TX_QUEUE: usize = 256;
/// Buffers of 64 KiB for each NUMA node: for datagrams that came in fragments, until they are read, and those that will
/// go in some.
const LONG_BUFFERS: u32 = 64;
/// Buffers that must be left beside what ports and caches hold.
const SPARE_BUFFERS: u32 = 1024;

/// Everything of one configuration: the EAL, packet pools, started ports.
#[derive(Debug)]
pub struct Driver {
    eal: &'static Eal,
    ports: Vec<Arc<Port>>,
    names: Vec<String>,
    /// The pool of each shard; shards of one NUMA node share theirs.
    pools: Vec<MbufPool>,
    /// Buffers that what is kept leaves in each pool.
    reserve: u32,
    l2: L2Config,
    counters: Vec<Arc<ShardCounters>>,
    layout: Layout,
    steering: SteeringLimits,
    /// What leads from each shard to the others, until it runs.
    ties: Mutex<Vec<Option<Ties>>>,
    /// Makes rules on ports that have them, until nobody asks any more.
    rules: Option<JoinHandle<()>>,
    clock: Clock,
    idle: IdleMode,
    stop: AtomicBool,
}

/// What leads from one shard to the others.
#[derive(Debug)]
struct Ties {
    news: News,
    /// None where there is one shard.
    exchange: Option<Exchange<Mbuf>>,
    rules: Option<SyncSender<SteeringNote>>,
}

impl Driver {
    /// Starts the EAL, makes pools and brings every port up. One shard per entry of `eal.cores`.
    ///
    /// # Errors
    /// The first thing that is wrong with the configuration ([`DriverError::is_config`]), or that
    /// the machine does not have.
    pub fn start(
        eal: EalConfig,
        ports: Vec<PortConfig>,
        routes: Vec<RouteConfig>,
    ) -> Result<Self, DriverError> {
        config::validate(&eal, &ports, &routes)?;
        check_cores(&eal.cores)?;
        let shards = eal.cores.len();
        // `validate` has bounded their number.
        let layout =
            u8::try_from(shards).ok().and_then(Layout::new).ok_or_else(|| too_many(shards))?;
        let layout = layout.with_listening(eal.listening);
        let running = Eal::start(&eal)?;
        let started = Self::bring_up(running, &eal, &ports, &routes, layout);
        // Nobody is there who would do so at the end.
        started.inspect_err(|_| running.release_hugepages())
    }

    /// What [`Driver::start`] does once the EAL runs.
    fn bring_up(
        running: &'static Eal,
        eal: &EalConfig,
        ports: &[PortConfig],
        routes: &[RouteConfig],
        layout: Layout,
    ) -> Result<Self, DriverError> {
        let shards = eal.cores.len();
        port::check_vdevs(running, &eal.words)?;
        let (pools, reserve) = make_pools(running, eal, ports)?;
        let queues = u16::try_from(shards).unwrap_or(u16::MAX);
        let mut opened = Vec::with_capacity(ports.len());
        for (id, config) in (0_u8..).zip(ports) {
            let table = layout.redirection();
            opened.push(Port::open(running, config, PortId(id), queues, table, &pools)?);
        }
        for (config, port) in ports.iter().zip(&opened) {
            log::info!(
                "port {}: {} ({}), {:02x?}, queues {} in and {} out{}, checksums {}, TSO {}, LRO {}, link {}",
                config.name,
                config.device,
                port.driver(),
                port.mac(),
                port.rx_queue_count(),
                port.tx_queue_count(),
                if port.spreads_flows() { " (RSS)" } else { "" },
                match (port.verifies_checksums(), port.tx_capabilities().tcp_checksum) {
                    (true, true) => "in and out",
                    (true, false) => "in",
                    (false, true) => "out",
                    (false, false) => "off",
                },
                if port.tx_capabilities().cuts_segments() { "on" } else { "off" },
                if port.joins_segments() { "on" } else { "off" },
                if port.link().0 { "up" } else { "down" }
            );
        }
        let mut ties = make_ties(running, &eal.cores)?;
        let rules = start_rules(&opened, &mut ties);
        let chains = opened.iter().any(|port| port.tx_capabilities().multi_segs);
        let pools = pools.into_iter();
        Ok(Self {
            eal: running,
            l2: l2_config(ports, routes, &opened),
            ports: opened,
            names: ports.iter().map(|port| port.name.clone()).collect(),
            pools: pools.map(|pool| if chains { pool } else { pool.copying_chains() }).collect(),
            reserve,
            counters: (0..shards).map(|_| Arc::new(ShardCounters::new(ports.len()))).collect(),
            ties: Mutex::new(ties.into_iter().map(Some).collect()),
            rules,
            layout,
            steering: eal.steering,
            clock: Clock::start(),
            idle: eal.idle,
            stop: AtomicBool::new(false),
        })
    }

    /// Shards that can run.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.counters.len()
    }

    /// Which of them a flow, a connection or a UDP port belongs to.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The clock behind every `now` that workers see.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Where the shard's stack finds empty buffers, and finds out that memory is short; a shard
    /// beyond the configured ones shares.
    #[must_use]
    pub fn pool(&self, shard: usize) -> MbufPool {
        self.shard_pool(shard).with_reserve(self.reserve)
    }

    fn shard_pool(&self, shard: usize) -> MbufPool {
        // One per shard, and `validate` insists on a shard.
        self.pools[shard % self.pools.len()]
    }

    /// Runs shard `shard` on the calling thread, pinned to CPU `core`, until [`Driver::stop`] or
    /// until the worker stops. The thread stays pinned.
    ///
    /// # Errors
    /// [`DriverError::Thread`] when the thread cannot be pinned or registered, or the shard does
    /// not exist or runs already.
    pub fn run(
        &self,
        shard: usize,
        core: usize,
        worker: &mut impl Worker<Mbuf>,
    ) -> Result<(), DriverError> {
        let fail =
            |reason: &str| Err(DriverError::Thread { shard, cpu: core, reason: reason.to_owned() });
        let Some(counters) = self.counters.get(shard) else {
            return fail("there is no such shard");
        };
        if !core_affinity::set_for_current(CoreId { id: core }) {
            return fail("the thread cannot be pinned to this CPU");
        }
        let lcore = Lcore::register(self.eal).map_err(|reason| DriverError::Thread {
            shard,
            cpu: core,
            reason,
        })?;
        let Some(nic) = self.queues(shard) else {
            return fail("the shard's queues are in use");
        };
        let ties = {
            let mut ties = self.ties.lock().unwrap_or_else(PoisonError::into_inner);
            ties.get_mut(shard).and_then(Option::take)
        };
        let Some(Ties { news, exchange, rules }) = ties else {
            return fail("the shard has run already");
        };
        let config = L2Config { announce: shard == 0, ..self.l2.clone() };
        let l2 = L2::new(&config, Arc::clone(counters));
        log::info!("shard {shard} runs on CPU {core}, NUMA node {}", lcore.socket());
        let turns = ShardLoop::new(l2, nic, Arc::clone(counters)).with_idle(self.idle);
        let mut turns = turns.with_news(news);
        if let Some(exchange) = exchange {
            let mut seed = [0; 32];
            if getrandom::fill(&mut seed).is_err() {
                return fail("there is no randomness");
            }
            // There are as many as the layout has.
            let own = u8::try_from(shard).unwrap_or(0);
            let sharding = Sharding { layout: self.layout.clone(), own };
            let steering = Steering::new(&sharding, self.steering, &mut Rng::from_seed(seed));
            let crossing = Crossing::new(exchange, own, steering).with_rules(rules);
            turns = turns.with_crossing(crossing);
        }
        turns.run(self.clock, worker, &self.stop);
        Ok(())
    }

    /// What each shard counted.
    #[must_use]
    pub fn counters(&self) -> &[Arc<ShardCounters>] {
        &self.counters
    }

    /// The ports as they are now; asks the devices, so not for the data path.
    #[must_use]
    pub fn ports(&self) -> Vec<PortStatus> {
        let status = |(name, port): (&String, &Arc<Port>)| {
            let (up, speed_mbps) = port.link();
            PortStatus {
                name: name.clone(),
                device: port.device().to_owned(),
                driver: port.driver().to_owned(),
                mac: port.mac(),
                up,
                speed_mbps,
                rx_queues: port.rx_queue_count(),
                tx_queues: port.tx_queue_count(),
                rss: port.spreads_flows(),
                promiscuous: port.is_promiscuous(),
                multi_segs: port.tx_capabilities().multi_segs,
                tx_checksum: port.tx_capabilities().tcp_checksum,
                rx_checksum: port.verifies_checksums(),
                tso: port.tx_capabilities().cuts_segments(),
                lro: port.joins_segments(),
                statistics: port.xstats(),
            }
        };
        self.names.iter().zip(&self.ports).map(status).collect()
    }

    /// The packet pools, one per NUMA node in use.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolStatus> {
        let mut pools: Vec<&MbufPool> = Vec::new();
        for pool in &self.pools {
            if !pools.iter().any(|other| other.is_same(pool)) {
                pools.push(pool);
            }
        }
        let status = |pool: &MbufPool| PoolStatus {
            count: pool.count(),
            in_use: pool.in_use(),
            views_in_use: pool.clones_in_use(),
            element_size: pool.element_size(),
        };
        pools.into_iter().map(status).collect()
    }

    /// Ends every loop after its current turn; from any thread, or a signal handler.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops and closes the ports. The EAL and the pools stay until the process ends: buffers may
    /// outlive the driver.
    pub fn close(self) {
        self.stop();
    }

    /// The shard's queues: its transmit queue on every port, and every receive queue whose number
    /// is the shard's modulo the number of shards.
    fn queues(&self, shard: usize) -> Option<Queues> {
        let pool = self.shard_pool(shard);
        let own = u16::try_from(shard).ok()?;
        let step = u16::try_from(self.shards()).ok()?;
        let mut ports = Vec::with_capacity(self.ports.len());
        for port in &self.ports {
            let mut rx = Vec::new();
            let mut queue = own;
            while queue < port.rx_queue_count() {
                rx.push(port.rx_queue(queue, pool)?);
                queue += step;
            }
            ports.push(PortQueues { rx, tx: port.tx_queue(own, pool, TX_QUEUE)? });
        }
        let checksum_offload = self.ports.iter().all(|port| port.tx_capabilities().tcp_checksum);
        Some(Queues { ports, pool, kept: self.pool(shard), checksum_offload })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Nobody asks for rules any more, so that the ports are free.
        self.ties.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(thread) = self.rules.take()
            && thread.join().is_err()
        {
            log::error!("the thread that makes rules panicked");
        }
        self.ports.clear();
        self.eal.release_hugepages();
    }
}

/// One shard's queues on one port.
struct PortQueues {
    rx: Vec<RxQueue>,
    tx: TxQueue,
}

/// One shard's queues.
struct Queues {
    ports: Vec<PortQueues>,
    pool: MbufPool,
    /// The same for what stays.
    kept: MbufPool,
    checksum_offload: bool,
}

impl Queues {
    fn port(&self, port: PortId) -> Option<&PortQueues> {
        self.ports.get(usize::from(port.0))
    }

    fn port_mut(&mut self, port: PortId) -> Option<&mut PortQueues> {
        self.ports.get_mut(usize::from(port.0))
    }
}

impl Nic<Mbuf> for Queues {
    fn ports(&self) -> u8 {
        u8::try_from(self.ports.len()).unwrap_or(u8::MAX)
    }

    fn receive(&mut self, port: PortId, into: &mut Vec<Mbuf>) -> Received {
        let mut all = Received::default();
        for queue in self.port_mut(port).map_or(&mut [][..], |port| &mut port.rx) {
            let received = queue.receive(into);
            all.frames += received.frames;
            all.no_buffer += received.no_buffer;
            all.pieces += received.pieces;
            all.parts += received.parts;
        }
        all
    }

    fn push(&mut self, port: PortId, frame: Mbuf) -> Pushed {
        self.port_mut(port).map_or(Pushed::Full, |port| port.tx.push(frame))
    }

    fn flush(&mut self, port: PortId) -> Flushed {
        self.port_mut(port).map_or_else(Flushed::default, |port| port.tx.flush())
    }

    fn backlog(&self, port: PortId) -> usize {
        self.port(port).map_or(0, |port| port.tx.backlog())
    }

    fn room(&self, port: PortId) -> usize {
        self.port(port).map_or(0, |port| port.tx.room())
    }

    fn clear(&mut self, port: PortId) -> usize {
        self.port_mut(port).map_or(0, |port| port.tx.clear())
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    fn alloc_copy(&mut self) -> Option<Mbuf> {
        if self.kept.is_short() { None } else { self.pool.alloc() }
    }

    fn checksum_offload(&self) -> bool {
        self.checksum_offload
    }

    fn segmentation_offload(&self, port: PortId) -> bool {
        self.port(port).is_some_and(|port| port.tx.cuts_segments())
    }
}

fn too_many(shards: usize) -> DriverError {
    DriverError::Config {
        key: "driver.cores".to_owned(),
        value: format!("{shards} CPUs"),
        remedy: "name fewer".to_owned(),
    }
}

/// What leads from each shard to the others.
fn make_ties(eal: &Eal, cores: &[usize]) -> Result<Vec<Ties>, DriverError> {
    let news = News::network(cores.len()).into_iter();
    if cores.len() == 1 {
        return Ok(news.map(|news| Ties { news, exchange: None, rules: None }).collect());
    }
    let nodes: Vec<i32> = cores.iter().map(|&core| numa_node(core)).collect();
    let rings = MbufRings::network(eal, &nodes)?.into_iter();
    let rings = rings.map(|rings| Box::new(rings) as Box<dyn Rings<Mbuf> + Send>).collect();
    let exchanges = Exchange::network(rings).into_iter();
    let tie = |(news, exchange)| Ties { news, exchange: Some(exchange), rules: None };
    Ok(news.zip(exchanges).map(tie).collect())
}

/// A thread for rules, where there are shards to send to and a port that takes any.
fn start_rules(ports: &[Arc<Port>], ties: &mut [Ties]) -> Option<JoinHandle<()>> {
    if ties.len() == 1 {
        return None;
    }
    let mut table = RuleTable::new(PortRules::probe(ports)?, MAX_RULES);
    let (orders, asked) = rules::orders();
    let thread = std::thread::Builder::new().name("plait-rules".to_owned());
    let served = thread.spawn(move || asked.iter().for_each(|note| table.apply(&note)));
    match served {
        Ok(thread) => {
            for tie in ties {
                tie.rules = Some(orders.clone());
            }
            Some(thread)
        }
        Err(error) => {
            log::warn!("no rules for single flows: cannot make a thread: {error}");
            None
        }
    }
}

fn check_cores(cores: &[usize]) -> Result<(), DriverError> {
    let available = usable_cpus();
    let Some(missing) = cores.iter().find(|core| !available.contains(core)) else {
        return Ok(());
    };
    let available: Vec<String> = available.iter().map(usize::to_string).collect();
    Err(DriverError::Config {
        key: "driver.cores".to_owned(),
        value: missing.to_string(),
        remedy: format!("use CPUs this process may run on: {}", available.join(", ")),
    })
}

/// One pool per NUMA node of the cores, each large enough for what ports and caches take; returns
/// the pool of each shard, and how many of a pool's buffers what is kept must leave alone.
fn make_pools(
    eal: &Eal,
    config: &EalConfig,
    ports: &[PortConfig],
) -> Result<(Vec<MbufPool>, u32), DriverError> {
    let nodes: Vec<i32> = config.cores.iter().map(|&core| numa_node(core)).collect();
    let mut pools = BTreeMap::new();
    for &node in &nodes {
        pools.insert(node, None);
    }
    let share = config.memory_mb / u32::try_from(pools.len()).unwrap_or(1).max(1);
    let mtu = ports.iter().map(|port| port.mtu).max().unwrap_or(1500);
    let size = PoolSize::for_memory(share, mtu, eal.hugepages());
    let shards = u32::try_from(config.cores.len()).unwrap_or(u32::MAX).max(1);
    let rx_rings: u32 = ports.iter().map(|port| u32::from(port.queues)).sum();
    let tx_rings = u32::try_from(ports.len()).unwrap_or(u32::MAX).saturating_mul(shards);
    let descriptors = u32::from(DESCRIPTORS);
    let receiving = rx_rings.saturating_mul(descriptors).saturating_add(shards.saturating_mul(512));
    // Should one shard be held up, what the others have for it waits.
    let rings = (shards - 1).saturating_mul(RING_SIZE);
    let needed = receiving
        .saturating_add(rings)
        .saturating_add(tx_rings.saturating_mul(descriptors))
        .saturating_add(SPARE_BUFFERS);
    if size.count < needed {
        return Err(DriverError::Memory {
            what: format!("the rings of {} ports", ports.len()),
            reason: format!("{share} MiB hold {} packet buffers, {needed} are needed", size.count),
        });
    }
    for (index, (&node, pool)) in pools.iter_mut().enumerate() {
        let made =
            MbufPool::create(eal, &format!("plait{index}"), size, node).or_else(|error| {
                log::warn!("NUMA node {node}: {error}; using memory of any node");
                MbufPool::create(eal, &format!("plait{index}any"), size, -1)
            })?;
        let long = made
            .with_long(eal, &format!("plait{index}long"), LONG_BUFFERS, node)
            .or_else(|_| made.with_long(eal, &format!("plait{index}anylong"), LONG_BUFFERS, -1));
        *pool = Some(long.unwrap_or_else(|error| {
            log::warn!("{error}; datagrams longer than {mtu} octets will be dropped");
            made
        }));
    }
    let pools = nodes.iter().filter_map(|node| pools.get(node).copied().flatten()).collect();
    // Every transmit ring full of headers, and bursts under way to where their text is refused.
    let reserve = tx_rings
        .saturating_mul(descriptors + TX_QUEUE as u32)
        .saturating_add(rx_rings.saturating_mul(2 * BURST as u32));
    Ok((pools, reserve.min((size.count - receiving) / 2)))
}

/// NUMA node of a CPU; -1 where the machine does not say.
fn numa_node(cpu: usize) -> i32 {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}"));
    let node =
        entries.into_iter().flatten().flatten().find_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("node")?.parse::<i32>().ok()
        });
    node.unwrap_or(-1)
}

fn l2_config(ports: &[PortConfig], routes: &[RouteConfig], opened: &[Arc<Port>]) -> L2Config {
    let port = |(config, port): (&PortConfig, &Arc<Port>)| L2Port {
        mac: port.mac(),
        vlan: config.vlan,
        mtu: config.mtu,
        addresses: config.addresses.clone(),
        gateway: config.gateway.clone(),
        transit: config.transit,
    };
    let id = |name: &str| (0_u8..).zip(ports).find(|(_, port)| port.name == name);
    let route = |route: &RouteConfig| {
        let (id, _) = id(&route.port)?;
        Some(L2Route { to: route.to, via: route.via, port: PortId(id) })
    };
    L2Config {
        ports: ports.iter().zip(opened).map(port).collect(),
        routes: routes.iter().filter_map(route).collect(),
        ..L2Config::default()
    }
}
