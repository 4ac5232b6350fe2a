//! The DPDK driver: its ports, one shard per core, each on a thread of its own.

use super::{DriverError, Place, Shards, spawn_shard};
use crate::config::{Config, Hugepages, Idle};
use crate::control::Waker;
use crate::metrics::{DriverCounters, PortCounters, Values};
use dpdk_io::{
    Driver, DropReason, EalConfig, L2Event, MacConfig, PortConfig, RouteConfig, ShardCounters,
};
use mptcp_core::steering::{Sharding, SteeringLimits};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

impl From<dpdk_io::DriverError> for DriverError {
    fn from(error: dpdk_io::DriverError) -> Self {
        if error.is_config() {
            return Self::Config(error.to_string());
        }
        match error {
            dpdk_io::DriverError::Thread { .. } | dpdk_io::DriverError::AlreadyStarted => {
                Self::Failed(error.to_string())
            }
            _ => Self::Missing(error.to_string()),
        }
    }
}

/// Brings every port up and starts the shards.
pub(super) fn start(config: &Config, shards: &mut Shards) -> Result<(), DriverError> {
    let routes = config.routes.iter().filter_map(|route| {
        let port = config.ports.get(route.port)?;
        Some(RouteConfig { to: route.to, via: route.via?, port: port.name.clone() })
    });
    let driver = Driver::start(eal_config(config), port_configs(config), routes.collect())?;
    let driver = Arc::new(driver);
    let counted = Arc::clone(&driver);
    shards.read_driver = Box::new(move || driver_counters(&counted));
    let alone = Place::alone(config, &shards.in_force)?;
    for (shard, &core) in config.driver.cores.iter().enumerate() {
        let layout = driver.layout().clone();
        // The driver has refused more than the layout can have.
        let sharding = u8::try_from(shard).ok().map(|own| Sharding { layout, own });
        let place = Place { sharding, ..alone.clone() };
        let driver = Arc::clone(&driver);
        let config = config.clone();
        // A polling loop looks at its mailbox every turn. It may sleep between two, and what is asked page by page
        // would wait for each of its sleeps.
        let thread = Arc::new(OnceLock::<Thread>::new());
        let sleeper = Arc::clone(&thread);
        let wake: Waker = Arc::new(move || {
            if let Some(thread) = sleeper.get() {
                thread.unpark();
            }
        });
        spawn_shard(shards.add(wake), move |cell| {
            thread.get_or_init(std::thread::current);
            let pool = Box::new(driver.pool(shard));
            let mut worker = cell.make_worker(&config, &place, driver.clock().now(), pool)?;
            cell.report_ready();
            let ran = driver.run(shard, usize::from(core), &mut worker);
            ran.map_err(|error| error.to_string())?;
            Ok(worker.aborted())
        })?;
    }
    Ok(())
}

fn eal_config(config: &Config) -> EalConfig {
    EalConfig {
        words: config.driver.eal.clone(),
        cores: config.driver.cores.iter().map(|&core| usize::from(core)).collect(),
        hugepages: match config.driver.hugepages {
            Hugepages::Auto => dpdk_io::Hugepages::Auto,
            Hugepages::Require => dpdk_io::Hugepages::Require,
            Hugepages::Off => dpdk_io::Hugepages::Off,
        },
        memory_mb: config.driver.memory_mb,
        steering: steering_limits(config),
        listening: config.bind.listening(),
        idle: match config.driver.idle {
            Idle::Adaptive => dpdk_io::IdleMode::Adaptive,
            Idle::Latency => dpdk_io::IdleMode::Latency,
            Idle::Power => dpdk_io::IdleMode::Power,
        },
    }
}

/// A shard remembers as many flows of others as it has control blocks itself, so that none is displaced.
fn steering_limits(config: &Config) -> SteeringLimits {
    let shards = u32::try_from(config.driver.cores.len()).unwrap_or(u32::MAX);
    let sessions = config.share(shards).limits.connections;
    let default = SteeringLimits::default();
    SteeringLimits { confirmed: default.confirmed.max(sessions.saturating_mul(4)), ..default }
}

fn port_configs(config: &Config) -> Vec<PortConfig> {
    let port = |(idx, port): (usize, &crate::config::Port)| PortConfig {
        name: port.name.clone(),
        device: port.device.clone(),
        addresses: port.addresses.clone(),
        gateway: port.gateway.clone(),
        mtu: port.mtu,
        mac: port.mac.map_or(MacConfig::Auto, MacConfig::Fixed),
        vlan: port.vlan,
        queues: port.queues,
        tso: port.tso,
        lro: port.lro,
        transit: config.transparent.ports.contains(&idx),
    };
    config.ports.iter().enumerate().map(port).collect()
}

/// The sum over all shards, and what the devices say.
fn driver_counters(driver: &Driver) -> DriverCounters {
    let shards = driver.counters();
    let sum = |of: &dyn Fn(&ShardCounters) -> u64| shards.iter().map(|shard| of(shard)).sum();
    let ports = driver.ports().into_iter().enumerate().map(|(idx, status)| {
        let port = |of: &dyn Fn(&dpdk_io::counters::PortCounters) -> u64| {
            sum(&|shard: &ShardCounters| shard.ports().get(idx).map_or(0, of))
        };
        let drops = DropReason::ALL.iter();
        PortCounters {
            port: status.name,
            counters: vec![
                ("rx_packets", port(&|p| p.rx_packets.value())),
                ("rx_bytes", port(&|p| p.rx_bytes.value())),
                ("tx_packets", port(&|p| p.tx_packets.value())),
                ("tx_bytes", port(&|p| p.tx_bytes.value())),
                ("tx_pieces", port(&|p| p.tx_pieces.value())),
                ("tx_joined", port(&|p| p.tx_joined.value())),
                ("rx_pieces", port(&|p| p.rx_pieces.value())),
                ("rx_parts", port(&|p| p.rx_parts.value())),
            ],
            gauges: vec![
                ("link_up", status.up.into()),
                ("link_mbps", status.speed_mbps.map_or(0, u64::from)),
            ],
            drops: drops.map(|&reason| (reason.name(), port(&|p| p.drops(reason)))).collect(),
            device: status.statistics,
        }
    });
    let pools = driver.pools().into_iter().map(|pool| {
        let gauges = [
            ("buffers", pool.count),
            ("buffers_used", pool.in_use),
            ("views_used", pool.views_in_use),
            ("buffer_bytes", pool.element_size),
        ];
        gauges.map(|(name, value)| (name, u64::from(value))).to_vec()
    });
    let drops = DropReason::ALL.iter();
    let events = L2Event::ALL.iter();
    DriverCounters {
        ports: ports.collect(),
        drops: drops.map(|&reason| (reason.name(), sum(&|shard| shard.drops(reason)))).collect(),
        events: events.map(|&event| (event.name(), sum(&|shard| shard.events(event)))).collect(),
        counters: vec![
            ("turns", sum(&|shard| shard.turns.value())),
            ("idle_turns", sum(&|shard| shard.idle_turns.value())),
            ("sleeps", sum(&|shard| shard.sleeps.value())),
            ("busy_nanoseconds", sum(&|shard| shard.busy_ns.value())),
            ("polling_nanoseconds", sum(&|shard| shard.polling_ns.value())),
        ],
        gauges: vec![("neighbours", sum(&|shard| shard.neighbours.value()))],
        pools: pools.collect(),
        shard_counters: shards.iter().map(|shard| shard_counters(shard)).collect(),
        shard_gauges: shards.iter().map(|shard| shard_gauges(shard)).collect(),
    }
}

/// What tells one shard from another: how busy it is, and what crosses.
fn shard_counters(shard: &ShardCounters) -> Values {
    vec![
        ("busy_nanoseconds", shard.busy_ns.value()),
        ("polling_nanoseconds", shard.polling_ns.value()),
        ("handed_over_packets", shard.handed_over.value()),
        ("taken_over_packets", shard.taken_over.value()),
        ("ring_full_packets", shard.drops(DropReason::RingFull)),
        ("sent_home_packets", shard.sent_home.value()),
        ("sent_to_owner_packets", shard.sent_to_owner.value()),
        ("joins_steered", shard.joins_steered.value()),
        ("pending_flows_displaced", shard.pending_displaced.value()),
        ("steered_flows_displaced", shard.confirmed_displaced.value()),
    ]
}

fn shard_gauges(shard: &ShardCounters) -> Values {
    vec![
        ("pending_flows", shard.pending_flows.value()),
        ("steered_flows", shard.confirmed_flows.value()),
    ]
}
