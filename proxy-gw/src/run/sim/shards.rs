//! The gateway on several shards: the same streams as on one, wherever packets arrive.

use super::cores::{Rings, Rss, Spread};
use super::peers::{Client, Manners, Wish};
use super::world::World;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::seq::SeqNum;
use mptcp_core::stats::Counters;
use mptcp_core::steering::{SteeringLimits, SteeringStats};
use mptcp_core::wire::{
    IpEmit, MpJoin, MptcpOption, OptionWriter, TcpFlags, TcpHeader, Version, checksum, set_checksum,
};
use netsim::rng::Rng;

pub(super) const SESSIONS: u64 = 240;

/// Both phones' sessions, of both versions and without MPTCP, up and down, begun within a few seconds.
pub(super) fn start_all(world: &mut World, between: impl Fn(&mut World, u64)) {
    let mut rng = Rng::new(7);
    for n in 0..SESSIONS {
        let wish = Wish {
            mptcp: n % 4 > 0,
            destination: [10, 9, 0, 2],
            port: 80,
            upload: rng.below(40_000),
            // Long enough for its joins: a stream that ends before the answer to one needs it no more.
            download: 160_000 + rng.below(80_000),
            manners: Manners::Good,
            user: None,
        };
        let phone = if n % 4 < 3 { &mut world.phone } else { &mut world.old_phone };
        phone.worker.start(world.now, wish);
        world.run(Duration::from_millis(rng.below(20)));
        between(world, n);
    }
}

/// Every stream came whole and unchanged, in both directions.
pub(super) fn finish_all(world: &mut World) {
    let over = world.run_until(Duration::from_secs(600), |world| {
        world.phone.worker.clients.is_empty() && world.old_phone.worker.clients.is_empty()
    });
    assert!(over, "a client waits for ever");
    world.run(Duration::from_secs(1));
    let done = || world.phone.worker.done.iter().chain(&world.old_phone.worker.done);
    for client in done() {
        assert!(client.is_satisfied(), "{:?}: {:?}", client.wish, client.error);
    }
    assert_eq!(done().count() as u64, SESSIONS);
    assert_eq!(world.server.worker.uploads, SESSIONS);
}

/// What the phones asked for, and what the shards together did.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) joins_asked: u64,
    pub(super) joins_made: u64,
    tokens_unknown: u64,
    /// Sessions of each shard.
    pub(super) sessions: Vec<u64>,
    steering: Vec<SteeringStats>,
}

impl Tally {
    pub(super) fn of(world: &mut World) -> Self {
        let phones = [&world.phone, &world.old_phone].map(|phone| phone.worker.stack.counters());
        let joins_asked = phones.iter().map(|counters| counters.mp_join_syn_tx).sum();
        let shards = world.counters_of_all();
        let sum = |of: fn(&Counters) -> u64| shards.iter().map(|shard| of(&shard.stack)).sum();
        Self {
            joins_asked,
            joins_made: sum(|counters| counters.mp_join_ack_rx),
            tokens_unknown: sum(|counters| counters.mp_join_no_token_found),
            sessions: shards.iter().map(|shard| shard.gateway.sessions_accepted).collect(),
            steering: world.gateway.steering(),
        }
    }

    fn steered(&self, of: fn(&SteeringStats) -> u64) -> u64 {
        self.steering.iter().map(of).sum()
    }
}

#[test]
fn streams_are_the_same_on_one_shard_and_on_several() {
    let spreads = [
        Spread::over(1, Rss::Home),
        Spread::over(4, Rss::Home),
        Spread::over(4, Rss::Other),
        Spread::over(4, Rss::Scattered),
        Spread::over(3, Rss::Other),
    ];
    for spread in spreads {
        let mut world = World::spread(21, 0, &[], spread);
        start_all(&mut world, |_, _| {});
        finish_all(&mut world);
        let tally = Tally::of(&mut world);
        // Three in four sessions have a mesh of two by two.
        assert!(tally.joins_asked > SESSIONS * 2, "{spread:?}: {tally:?}");
        assert_eq!(tally.joins_made, tally.joins_asked, "{spread:?}: {tally:?}");
        assert_eq!(tally.tokens_unknown, 0, "{spread:?}");
        let least = SESSIONS / u64::from(spread.shards) / 2;
        assert!(tally.sessions.iter().all(|count| *count >= least), "{spread:?}: {tally:?}");
        let crossed = (
            tally.steered(|steering| steering.sent_home),
            tally.steered(|steering| steering.joins_noted),
            tally.steered(|steering| steering.sent_to_owner),
        );
        match (spread.shards, spread.rss) {
            (1, _) => assert_eq!(crossed, (0, 0, 0)),
            (_, Rss::Home) => assert!(crossed.0 == 0 && crossed.1 > 0 && crossed.2 > crossed.1),
            _ => assert!(crossed.0 > 10_000 && crossed.1 > 0 && crossed.2 > crossed.1),
        }
        world.assert_gateway_empty();
    }
}

/// Where ports spread packets as we do, nothing crosses but subflows that joined: the exits' ports are
/// picked so that their answers come home.
#[test]
fn what_is_no_join_does_not_cross() {
    let mut world = World::spread(22, 0, &[], Spread::over(4, Rss::Home));
    for _ in 0..100 {
        let wish = Wish {
            mptcp: false,
            destination: [10, 9, 0, 2],
            port: 80,
            upload: 1_000,
            download: 20_000,
            manners: Manners::Good,
            user: None,
        };
        world.phone.worker.start(world.now, wish);
    }
    world.run(Duration::from_secs(60));
    assert!(world.phone.worker.done.iter().all(Client::is_satisfied));
    assert_eq!(world.server.worker.uploads, 100);
    let tally = Tally::of(&mut world);
    assert!(tally.sessions.iter().all(|count| *count > 10), "{tally:?}");
    assert_eq!(tally.steering, [SteeringStats::default(); 4]);
    world.assert_gateway_empty();
}

/// Every shard takes the cookies that another one granted.
#[test]
fn requests_come_with_the_syn_whichever_shard_they_go_to() {
    for mptcp in [true, false] {
        let spread = Spread::over(4, Rss::Home);
        let mut world = World::spread(26, 0, &["tcp.fast_open=accept"], spread);
        world.phone.worker.early = 600;
        for _ in 0..20 {
            let wish = Wish {
                mptcp,
                destination: [10, 9, 0, 2],
                port: 80,
                upload: 3_000,
                download: 20_000,
                manners: Manners::Good,
                user: None,
            };
            world.phone.worker.start(world.now, wish);
            world.run(Duration::from_secs(2));
        }
        assert!(world.phone.worker.done.iter().all(Client::is_satisfied));
        let shards = world.counters_of_all();
        let early: Vec<_> = shards.iter().map(|shard| shard.stack.tcp_fast_open_passive).collect();
        assert_eq!(early.iter().sum::<u64>(), 19, "all but the first: {early:?}");
        assert!(early.iter().all(|count| *count > 0), "{early:?}");
        world.assert_gateway_empty();
    }
}

/// What a ring has no room for is lost like anything else on the way, and TCP repairs it. The notes of owners
/// come late, too.
#[test]
fn full_rings_cost_time_and_nothing_else() {
    for rss in [Rss::Home, Rss::Other] {
        let rings = Rings { len: 3, every: Some(Duration::from_millis(3)) };
        let spread = Spread { rings, ..Spread::over(4, rss) };
        let mut world = World::spread(23, 0, &[], spread);
        start_all(&mut world, |_, _| {});
        finish_all(&mut world);
        assert!(world.gateway.dropped > 200, "{}", world.gateway.dropped);
        world.run(Duration::from_secs(600));
        assert!(world.gateway.steering().iter().all(|steering| steering.confirmed == 0));
    }
}

/// Nobody's joins: spoofed, with tokens that nobody has.
fn flood(world: &mut World, rng: &mut Rng, count: u64) {
    for _ in 0..count {
        let word = rng.below(1 << 32) as u32;
        let [a, b, c, d] = word.to_be_bytes();
        let (src, dst) = (IpAddr::from([10, 1, 128 | a, b]), IpAddr::from([10, 1, 0, 1]));
        let token = rng.below(1 << 32) as u32;
        let mut options = OptionWriter::new();
        let join = MpJoin::Syn { backup: false, address_id: 2, token, nonce: word };
        assert!(options.push_mptcp(&MptcpOption::Join(join), Version::V1));
        let from = SocketAddr::new(src, 1024 | u16::from_be_bytes([c, d]));
        let packet = syn(from, SocketAddr::new(dst, 1080), word, &options);
        world.gateway.arrive(world.now, &packet, PortId(0));
    }
}

/// A SYN with these options.
pub(super) fn syn(from: SocketAddr, to: SocketAddr, seq: u32, options: &OptionWriter) -> Vec<u8> {
    let header = TcpHeader {
        src_port: from.port(),
        dst_port: to.port(),
        seq: SeqNum(seq),
        flags: TcpFlags::SYN,
        window: 1000,
        ..TcpHeader::default()
    };
    let mut bytes = [0; 60];
    let len = header.emit(options, &mut bytes);
    let tcp = &mut bytes[..len];
    let sum = checksum::tcp_checksum(from.ip(), to.ip(), tcp);
    set_checksum(tcp, sum);
    let ip = IpEmit {
        src: from.ip(),
        dst: to.ip(),
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: tcp.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet.extend_from_slice(tcp);
    packet
}

/// Joins to guessed tokens displace each other. Those of phones, and what is joined, do not notice.
#[test]
fn a_flood_of_joins_loses_nobody_elses() {
    let spread = Spread::over(4, Rss::Other);
    let mut world = World::spread(24, 0, &[], spread);
    let rng = core::cell::RefCell::new(Rng::new(9));
    start_all(&mut world, |world, _| flood(world, &mut rng.borrow_mut(), 200));
    finish_all(&mut world);
    let tally = Tally::of(&mut world);
    assert_eq!(tally.tokens_unknown, 200 * SESSIONS);
    assert_eq!(tally.joins_made, tally.joins_asked, "{tally:?}");
    world.assert_gateway_empty();
}

/// Homes that remember too little: whose entry is gone loses the subflow, and the stream goes on by the others.
#[test]
fn small_tables_cost_subflows_and_no_stream() {
    for (pending, confirmed) in [(4, 1000), (1000, 4)] {
        let limits = SteeringLimits { pending, confirmed };
        let spread = Spread { limits, ..Spread::over(4, Rss::Home) };
        let mut world = World::spread(22, 0, &[], spread);
        // A shard resets what it does not know to be another's, who goes on.
        let gateway = world.gateway.cores[0].host.node;
        world.net.referee_mut().expect("every world has one").exempt(gateway);
        let rng = core::cell::RefCell::new(Rng::new(9));
        start_all(&mut world, |world, _| flood(world, &mut rng.borrow_mut(), 20));
        finish_all(&mut world);
        let tally = Tally::of(&mut world);
        let displaced = (
            tally.steered(|steering| steering.pending_displaced),
            tally.steered(|steering| steering.confirmed_displaced),
        );
        assert!(displaced.0 > 100 || confirmed == 4, "{tally:?}");
        assert!(displaced.1 > 10 || pending == 4, "{tally:?}");
        // A subflow that its home has forgotten ends as if its peer had vanished.
        world.run(Duration::from_secs(4 * 3600));
        world.assert_gateway_empty();
    }
}
