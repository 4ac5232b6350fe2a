//! What it costs to find out which of four shards a packet belongs to.

use crate::meter::Meter;
use crate::micro::{BEGIN, repeat, segment};
use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::rng::Rng;
use mptcp_core::steering::{
    Layout, Sharding, Steering, SteeringLimits, SteeringNote, Tuple, toeplitz,
};
use mptcp_core::wire::{IpEmit, set_checksum};

/// Flows that a home remembers for others.
const JOINED: u32 = 10_000;
const OWN: u8 = 2;
const OTHER: u8 = 3;

/// Flow number `n` of many.
fn tuple(n: u32, v6: bool) -> Tuple {
    let (local, remote) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::from(0x0a02_0000 | n));
    let wide = |addr: Ipv4Addr| IpAddr::from(addr.to_ipv6_mapped().octets().map(|octet| octet ^ 1));
    let [local_addr, remote_addr] =
        if v6 { [wide(local), wide(remote)] } else { [IpAddr::from(local), remote.into()] };
    Tuple { local_addr, remote_addr, local_port: 1080, remote_port: 40_000 }
}

/// A full segment of a flow.
fn packet(tuple: &Tuple) -> Vec<u8> {
    let mut tcp = segment();
    tcp[..2].copy_from_slice(&tuple.remote_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&tuple.local_port.to_be_bytes());
    set_checksum(&mut tcp, 0);
    let ip = IpEmit {
        src: tuple.remote_addr,
        dst: tuple.local_addr,
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: tcp.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend_from_slice(&tcp);
    packet
}

/// Packets of flows whose home is `home` and that another shard owns, if `joined`.
fn steered(meter: &mut Meter, home: u8, joined: u32, known: bool, v6: bool) {
    let layout = Layout::new(4).expect("so many there may be");
    let sharding = Sharding { layout: layout.clone(), own: OWN };
    let limits = SteeringLimits::default();
    let mut steering = Steering::new(&sharding, limits, &mut Rng::from_seed([7; 32]));
    let of_home = |n: &u32| layout.shard_of_flow(&tuple(*n, v6)) == home;
    let mut flows = (0..).filter(of_home);
    for n in flows.by_ref().take(joined as usize) {
        let note = SteeringNote { home, owner: OTHER, tuple: tuple(n, v6), joined: true };
        steering.apply(BEGIN, &note);
    }
    let first = if known { 0 } else { flows.next().expect("there are many") };
    let packets: Vec<_> =
        (first..).filter(of_home).take(64).map(|n| packet(&tuple(n, v6))).collect();
    let to = match (home == OWN, known) {
        (true, true) => OTHER,
        _ => home,
    };
    repeat(meter, |n| {
        let packet = &packets[n as usize % packets.len()];
        assert_eq!(steering.arrived(BEGIN, black_box(packet), |_| false), to);
    });
}

pub(crate) fn hash(meter: &mut Meter) {
    let tuples: Vec<_> = (0..64).map(|n| tuple(n, false)).collect();
    repeat(meter, |n| {
        black_box(toeplitz::of_tuple(black_box(&tuples[n as usize % tuples.len()])));
    });
}

pub(crate) fn alone(meter: &mut Meter) {
    steered(meter, OWN, 0, false, false);
}

pub(crate) fn home(meter: &mut Meter) {
    steered(meter, OWN, JOINED, false, false);
}

pub(crate) fn home_v6(meter: &mut Meter) {
    steered(meter, OWN, JOINED, false, true);
}

pub(crate) fn joined(meter: &mut Meter) {
    steered(meter, OWN, JOINED, true, false);
}

pub(crate) fn away(meter: &mut Meter) {
    steered(meter, OTHER, JOINED, false, false);
}
