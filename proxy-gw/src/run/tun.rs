//! The TUN driver: one device per port, one loop, one shard.

use super::{DriverError, Place, Shards, pin, spawn_shard};
use crate::config::Config;
use crate::control::Waker;
use crate::egress::Exits;
use crate::metrics::{DriverCounters, PortCounters};
use dpdk_io::Offload;
use ipnet::IpNet;
use mptcp_core::buf::HeapPool;
use mptcp_tun::{
    Clock, LoopCounters, RouteTable, TunConfig, TunDevice, TunError, TunLoop, TunPort,
};
use std::sync::Arc;

/// What a buffer costs beyond its MTU: headroom and bookkeeping, bytes.
const BUFFER_OVERHEAD: usize = 256;
/// Fewer buffers than this cannot carry anything.
const MIN_BUFFERS: usize = 1024;

impl From<TunError> for DriverError {
    fn from(error: TunError) -> Self {
        match error {
            TunError::Config { .. } => Self::Config(error.to_string()),
            TunError::Create { .. } => Self::Missing(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Creates the devices and starts the shard.
pub(super) fn start(config: &Config, shards: &mut Shards) -> Result<(), DriverError> {
    let ports = config.ports.iter().map(|port| {
        // The kernel is the neighbour on the other end; which addresses of its own and which routes
        // lead here is the operator's business.
        let device = TunDevice::create(&TunConfig {
            name: port.device.clone(),
            kernel_addresses: Vec::new(),
            mtu: port.mtu,
            offload: port.tso == Offload::Auto,
        })?;
        Ok(TunPort { device, addresses: port.addresses.iter().map(IpNet::addr).collect() })
    });
    let ports: Vec<TunPort<TunDevice>> = ports.collect::<Result<_, TunError>>()?;
    let pool = pool(config);
    let clock = Clock::start();
    let routes: Vec<_> = Exits::new(config).prefixes().collect();
    let mut tun = TunLoop::new(ports, RouteTable::new(&routes), pool.clone(), clock)?;
    let handle = tun.handle();
    let wake: Waker = Arc::new(move || handle.wake());
    let names: Vec<String> = config.ports.iter().map(|port| port.name.clone()).collect();
    let counters = tun.counters();
    let counted = pool.clone();
    shards.read_driver = Box::new(move || driver_counters(&names, &counters, &counted));
    let place = Place::alone(config, &shards.in_force)?;
    let config = config.clone();
    spawn_shard(shards.add(wake), move |cell| {
        let kept = pool.with_reserve(mptcp_tun::RESERVE);
        let mut worker = cell.make_worker(&config, &place, clock.now(), Box::new(kept))?;
        // Behind that: who checks passwords would have the same CPU, and take turns with the packets.
        pin(config.driver.cores.first().copied().unwrap_or(0));
        cell.report_ready();
        tun.run(&mut worker).map_err(|error| error.to_string())?;
        Ok(worker.aborted())
    })
}

/// As many buffers as `driver.memory_mb` pays for; they are allocated as they are used.
fn pool(config: &Config) -> HeapPool {
    let mtu = usize::from(config.ports.iter().map(|port| port.mtu).max().unwrap_or(1500));
    let bytes = u64::from(config.driver.memory_mb) << 20;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    HeapPool::new((bytes / (mtu + BUFFER_OVERHEAD)).max(MIN_BUFFERS), mtu)
}

fn driver_counters(names: &[String], counters: &LoopCounters, pool: &HeapPool) -> DriverCounters {
    let ports = names.iter().zip(counters.ports());
    let ports = ports.map(|(name, port)| PortCounters {
        port: name.clone(),
        counters: vec![
            ("rx_packets", port.rx_packets()),
            ("rx_bytes", port.rx_bytes()),
            ("rx_no_buffer", port.rx_no_buffer()),
            ("rx_errors", port.rx_errors()),
            ("rx_pieces", port.rx_pieces()),
            ("rx_parts", port.rx_parts()),
            ("tx_packets", port.tx_packets()),
            ("tx_bytes", port.tx_bytes()),
            ("tx_errors", port.tx_errors()),
            ("tx_pieces", port.tx_pieces()),
            ("tx_joined", port.tx_joined()),
            ("tx_queue_full", port.tx_queue_full()),
            ("echo_replies", port.echo_replies()),
            ("echo_limited", port.echo_limited()),
        ],
        ..PortCounters::default()
    });
    let buffers = [("buffers", pool.limit()), ("buffers_used", pool.in_use())];
    DriverCounters {
        ports: ports.collect(),
        drops: vec![("no_route", counters.no_route())],
        counters: vec![("turns", counters.turns())],
        pools: vec![buffers.map(|(name, value)| (name, value as u64)).to_vec()],
        ..DriverCounters::default()
    }
}
