//! The stack in the simulator: whole transfers over faulty links in virtual time.

mod aggregation;
mod boxes;
mod capture;
mod churn;
mod congestion;
mod coupled;
mod crowd;
mod ecn;
mod events;
mod fast_open;
mod health;
mod joined;
mod lies;
mod liveness;
mod middleboxes;
mod mtu;
mod plan;
mod relay;
mod scenarios;
mod scheduling;
mod swarm;
mod transfer;
mod world;

use mptcp_core::config::StackConfig;
use mptcp_core::time::Duration;
use netsim::link::{LinkConfig, Loss};
use transfer::run;
use world::World;

fn link(mbit: u64, delay_ms: u64) -> LinkConfig {
    LinkConfig {
        rate_bps: Some(mbit * 1_000_000),
        delay_ns: delay_ms * 1_000_000,
        queue_bytes: 256 << 10,
        mtu: 1500,
        ..LinkConfig::default()
    }
}

fn lossy(mbit: u64, delay_ms: u64, ppm: u32) -> LinkConfig {
    LinkConfig { loss: Loss::Bernoulli(ppm), ..link(mbit, delay_ms) }
}

fn pair(config: LinkConfig) -> (LinkConfig, LinkConfig) {
    (config.clone(), config)
}

fn world(seed: u64, links: &[(LinkConfig, LinkConfig)]) -> World {
    World::new(seed, links, false, StackConfig::default(), StackConfig::default())
}

#[test]
fn plain_tcp_one_octet_each_way() {
    let mut world = world(1, &[pair(link(10, 10))]);
    run(&mut world, false, 1, 1, Duration::from_secs(10));
    world.assert_empty();
}

#[test]
fn plain_tcp_bulk_both_ways() {
    let mut world = world(2, &[pair(link(100, 10))]);
    let report = run(&mut world, false, 8 << 20, 8 << 20, Duration::from_secs(60));
    world.assert_empty();
    eprintln!("{report:?}");
}

#[test]
fn plain_tcp_bulk_with_loss() {
    for seed in 0..5 {
        let mut world = world(seed, &[pair(lossy(50, 10, 10_000))]);
        let report = run(&mut world, false, 2 << 20, 4 << 20, Duration::from_secs(120));
        world.assert_empty();
        eprintln!("{report:?}");
    }
}

#[test]
fn mptcp_one_path() {
    let mut world = world(3, &[pair(link(50, 10))]);
    let report = run(&mut world, true, 1 << 20, 4 << 20, Duration::from_secs(60));
    world.assert_empty();
    eprintln!("{report:?}");
}

#[test]
fn mptcp_two_paths_aggregate() {
    let mut world = world(4, &[pair(link(60, 20)), pair(link(40, 7))]);
    let report = run(&mut world, true, 100, 64 << 20, Duration::from_secs(60));
    world.assert_empty();
    assert_eq!(world.client.stack.counters().mp_join_syn_ack_rx, 1);
    assert!(report.server_bytes_by_path.iter().all(|&bytes| bytes > 16 << 20), "{report:?}");
    assert_eq!(report.client_bytes_by_path.iter().sum::<u64>(), 100);
}
