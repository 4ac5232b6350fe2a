//! The gateway's relay and its sessions (goals S1 to S5).

use crate::host::{Load, Wish};
use crate::meter::Meter;
use crate::packet::{Packet, Pool};
use crate::world::{Part, Rates, World};
use mptcp_core::driver::Worker;
use mptcp_core::rng::Rng;
use mptcp_core::stack::Stack;
use mptcp_core::time::Instant;
use proxy_gw::config;
use proxy_gw::control::{ShardHandle, mailbox};
use proxy_gw::gateway::Gateway;
use proxy_gw::run::{ShardWorker, stack_config};
use std::sync::Arc;

/// Octets of a relayed segment: what TCP with timestamps puts into 1500.
pub(crate) const SEGMENT: u64 = 1448;
/// Ticks before anything is measured: slow start is over, and the windows are as large as they get.
const WARM_UP: u32 = 600;
/// Ticks measured: longer than a cycle of BBR.
const MEASURED: u32 = 800;

/// What the gateway's own documentation has, with two accesses and an exit.
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
[egress]
allow = ["10.9.0.0/24"]
"#;

/// Room for `sessions`, which may be idle for days.
pub(crate) fn crowded(sessions: u32) -> String {
    format!("[limits]\nconnections = {sessions}\n[timeouts]\nidle_s = 2592000\n")
}

/// A shard as the program has it, with every setting at its default but those of `more`.
pub(crate) fn gateway(more: &str) -> (ShardWorker<Packet>, ShardHandle) {
    let config = format!("{CONFIG}{more}");
    let config = config::parse("workloads", &config, &[]).expect("a sound configuration");
    let (handle, mailbox) = mailbox(Arc::new(|| {}));
    let stack = stack_config(&config, [3; 32]).expect("a sound configuration");
    let mut stack = Stack::new(stack, Instant::from_millis(1000), Box::new(Pool));
    let mut gateway = Gateway::new(&config, &mut Rng::from_seed([4; 32]));
    gateway.listen(&mut stack).expect("a listener");
    (ShardWorker::new(stack, gateway, mailbox, None), handle)
}

/// Access links are wide enough for all of it with TCP; with MPTCP either alone is not.
fn rates(wish: Wish) -> Rates {
    match (wish.load, wish.mptcp) {
        (Load::Upload, true) => Rates { access: 16, exit: 64 },
        (Load::Upload, false) => Rates { access: 32, exit: 64 },
        (_, true) => Rates { access: 20, exit: 32 },
        (_, false) => Rates { access: 64, exit: 32 },
    }
}

/// Lets one session of `worker` run, and measures it once it runs evenly.
pub(crate) fn stream<W: Worker<Packet>>(worker: W, meter: &mut Meter, wish: Wish, part: Part) {
    let mut world = World::new(worker, wish, rates(wish));
    world.phone.start(world.now());
    for _ in 0..WARM_UP {
        world.turn(None);
    }
    let subflows: Vec<usize> = world.phone.subflows().collect();
    assert_eq!(subflows, [1 + usize::from(wish.mptcp)], "subflows of the one client");
    let (before, lost) = (world.delivered(), world.lost());
    for _ in 0..MEASURED {
        world.turn(Some((meter, part)));
    }
    let octets = world.delivered() - before;
    assert!(octets > 0, "nothing arrives");
    assert_eq!(world.lost(), lost, "packets were lost while it was measured");
    if part == Part::Turn {
        meter.add(octets as f64 / SEGMENT as f64);
    }
    meter.note(format!("{octets} octets, {:?}", world.traffic));
}

/// A reordered stream: slower links, so that windows of the default size cover the longer round trip, and time for
/// them to open. One path is 30 ms longer, and one packet in a hundred is lost.
const REORDER_RATES: Rates = Rates { access: 2, exit: 4 };
const REORDER_WARM_UP: u32 = 12_000;
const REORDER_MEASURED: u32 = 6_000;
const SKEW_TICKS: u64 = 750;
const LOSSES: u32 = 100;

fn reordered(meter: &mut Meter, load: Load, rough: bool) {
    let (worker, _handle) = gateway("");
    let mut world = World::new(worker, Wish { mptcp: true, socks5: true, load }, REORDER_RATES);
    if rough {
        world.roughen(SKEW_TICKS, LOSSES);
    }
    world.phone.start(world.now());
    for _ in 0..REORDER_WARM_UP {
        world.turn(None);
    }
    let before = world.delivered();
    for _ in 0..REORDER_MEASURED {
        world.turn(Some((meter, Part::Turn)));
    }
    let octets = world.delivered() - before;
    assert!(octets > 0, "nothing arrives");
    meter.add(octets as f64 / SEGMENT as f64);
    meter.note(format!("{octets} octets, {:?}", world.traffic));
}

pub(crate) fn down_even(meter: &mut Meter) {
    reordered(meter, Load::Download, false);
}

pub(crate) fn down_reordered(meter: &mut Meter) {
    reordered(meter, Load::Download, true);
}

pub(crate) fn up_even(meter: &mut Meter) {
    reordered(meter, Load::Upload, false);
}

pub(crate) fn up_reordered(meter: &mut Meter) {
    reordered(meter, Load::Upload, true);
}

fn relay(meter: &mut Meter, mptcp: bool, load: Load, part: Part) {
    let (worker, _handle) = gateway("");
    stream(worker, meter, Wish { mptcp, socks5: true, load }, part);
}

pub(crate) fn tcp_down(meter: &mut Meter) {
    relay(meter, false, Load::Download, Part::Turn);
}

pub(crate) fn tcp_up(meter: &mut Meter) {
    relay(meter, false, Load::Upload, Part::Turn);
}

pub(crate) fn mptcp_down(meter: &mut Meter) {
    relay(meter, true, Load::Download, Part::Turn);
}

pub(crate) fn mptcp_up(meter: &mut Meter) {
    relay(meter, true, Load::Upload, Part::Turn);
}

pub(crate) fn tcp_acks(meter: &mut Meter) {
    relay(meter, false, Load::Download, Part::Acks);
}

pub(crate) fn mptcp_acks(meter: &mut Meter) {
    relay(meter, true, Load::Download, Part::Acks);
}

/// Clients of `sessions`, and how many begin in a tick.
const CLIENTS: u32 = 256;
const A_TICK: u32 = 2;

/// SOCKS5 sessions from the first SYN to the end of TIME-WAIT: with MPTCP a join, an octet there and back.
fn sessions(meter: &mut Meter, mptcp: bool) {
    let subflows = 1 + usize::from(mptcp);
    let wish = Wish { mptcp, socks5: true, load: Load::Echo { subflows } };
    let (worker, _handle) = gateway("");
    let mut world = World::new(worker, wish, Rates { access: 64, exit: 64 });
    let mut started = 0;
    while started < CLIENTS || world.phone.clients() > 0 {
        for _ in 0..A_TICK.min(CLIENTS - started) {
            world.phone.start(world.now());
            started += 1;
        }
        world.turn(Some((&mut *meter, Part::Turn)));
    }
    while let Some(at) = world.gateway.poll_timeout() {
        world.sleep_until(at);
        world.turn(Some((&mut *meter, Part::Turn)));
    }
    assert_eq!(world.phone.done, CLIENTS);
    assert_eq!(world.server.received, u64::from(CLIENTS), "an octet of each");
    meter.add(f64::from(CLIENTS));
    meter.note(format!("{:?}", world.traffic));
}

pub(crate) fn tcp_sessions(meter: &mut Meter) {
    sessions(meter, false);
}

pub(crate) fn mptcp_sessions(meter: &mut Meter) {
    sessions(meter, true);
}
