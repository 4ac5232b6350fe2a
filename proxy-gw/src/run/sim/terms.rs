//! Profiles and rates in the simulator: how closely rates hold, what a change does to sessions that are
//! there, and paths that fail under them.

use super::cores::{Rss, Spread};
use super::peers::{Client, Manners, Wish};
use super::world::World;
use crate::config::Plan;
use crate::control::Command;
use crate::front_end::FrontEnd;
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::mptcp::path_health::AccessHealth;
use mptcp_core::stack::SocketId;
use mptcp_core::time::Instant;
use mptcp_core::udp::{SendTo, UdpOptions};
use netsim::Direction;
use netsim::link::Change;
use netsim::network::PathId;
use netsim::rng::Rng;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
const PROFILES: &str = "profile=[\
    { name = 'lte', mode = 'active_standby', access = ['lte', 'wifi'] }, \
    { name = 'wifi', mode = 'active_standby', access = ['wifi', 'lte'] }, \
    { name = 'shares', mode = 'load_balancing', access = ['lte', 'wifi'], weights = [60, 40] }, \
    { name = 'both', mode = 'redundant' }, \
    { name = 'fast', mode = 'smallest_delay' }, \
    { name = 'overflow', mode = 'priority', access = ['wifi', 'lte'] }, \
    { name = 'lte-overflow', mode = 'priority', access = ['lte', 'wifi'] }]";
pub(super) const LTE: usize = 0;
pub(super) const WIFI: usize = 1;

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Octets per second.
pub(super) const MBIT: u64 = 125_000;

pub(super) const BULK: Wish = Wish {
    mptcp: true,
    destination: [10, 9, 0, 2],
    port: 80,
    upload: 100,
    download: 64 << 20,
    manners: Manners::Good,
    user: None,
};

/// Users with passwords, and the profiles.
pub(super) fn settings(users: &[&str]) -> Vec<String> {
    let users = users.iter().map(|name| format!("{{ name = '{name}', password_hash = '{HASH}' }}"));
    let users: Vec<String> = users.collect();
    vec![
        "socks5.auth=password".to_owned(),
        format!("user=[{}]", users.join(", ")),
        PROFILES.to_owned(),
        "timeouts.half_closed_s=600".to_owned(),
        "timeouts.idle_s=600".to_owned(),
    ]
}

pub(super) fn world(seed: u8, shards: u8, settings: &[String]) -> World {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    World::spread(seed, 0, &settings, Spread::over(shards, Rss::Home))
}

pub(super) fn start(world: &mut World, wish: Wish) {
    world.phone.worker.start(world.now, wish);
}

/// All clients there are and were, of both phones.
fn clients(world: &World) -> impl Iterator<Item = &Client> {
    let phones = [&world.phone.worker, &world.old_phone.worker];
    phones.into_iter().flat_map(|phone| phone.clients.values().chain(&phone.done))
}

/// Octets that clients of this user have downloaded.
pub(super) fn downloaded(world: &World, user: Option<&str>) -> u64 {
    clients(world).filter(|client| client.wish.user == user).map(Client::downloaded).sum()
}

/// What they download in the next `time`.
pub(super) fn download_in(world: &mut World, user: Option<&str>, time: Duration) -> u64 {
    let before = downloaded(world, user);
    world.run(time);
    downloaded(world, user) - before
}

/// Octets sent to clients by a port, of the sessions that are there.
fn sent_by(world: &mut World, port: usize) -> u64 {
    let mut answers = Vec::new();
    for core in &world.gateway.cores {
        let (reply, answer) = oneshot::channel();
        core.handle.send(Command::Sessions { from: 0, reply }).unwrap();
        answers.push(answer);
    }
    world.run(Duration::ZERO);
    let pages = answers.into_iter().map(|mut answer| answer.try_recv().unwrap());
    pages
        .flat_map(|page| {
            assert_eq!(page.next, None, "few enough for a page");
            page.sessions
        })
        .flat_map(|session| session.inner.subflows)
        .filter(|subflow| usize::from(subflow.port.0) == port)
        .map(|subflow| subflow.bytes_sent)
        .sum()
}

/// Octets that go over LTE and Wi-Fi in the next `time`.
pub(super) fn shares_in(world: &mut World, time: Duration) -> [u64; 2] {
    let before = [LTE, WIFI].map(|port| sent_by(world, port));
    world.run(time);
    [LTE, WIFI].map(|port| sent_by(world, port) - before[port])
}

/// Wi-Fi, of the first phone, is silent or works again.
fn cut_wifi(world: &mut World, cut: bool) {
    cut_path(world, WIFI, cut);
}

pub(super) fn cut_path(world: &mut World, access: usize, cut: bool) {
    let now = world.now.as_nanos();
    for direction in [Direction::AtoB, Direction::BtoA] {
        let link = world.net.link_mut(world.access[access], direction);
        link.apply(now, Change::Blackhole(cut));
    }
}

/// Another rate of a link, and a queue to go with it.
fn set_rate(world: &mut World, path: PathId, mbit: u64) {
    let now = world.now.as_nanos();
    for direction in [Direction::AtoB, Direction::BtoA] {
        let link = world.net.link_mut(path, direction);
        link.apply(now, Change::Rate(Some(mbit * 1_000_000)));
        link.apply(now, Change::Queue(4 << 20));
    }
}

fn health(world: &mut World, port: usize) -> AccessHealth {
    let shards = world.counters_of_all();
    let of_port = shards.iter().flat_map(|shard| &shard.accesses);
    let of_port = of_port.filter(|(id, _)| usize::from(id.0) == port);
    of_port.fold(AccessHealth::default(), |mut sum, (_, health)| {
        sum.up += health.up;
        sum.down += health.down;
        sum.downs += health.downs;
        sum.ups += health.ups;
        sum
    })
}

#[track_caller]
pub(super) fn assert_within(percent: u64, measured: u64, expected: u64) {
    let off = measured.abs_diff(expected);
    assert!(off * 100 <= expected * percent, "{measured} is not {expected} ± {percent} %");
}

/// Everybody got everything, and nothing is left.
pub(super) fn finish(world: &mut World) {
    let over = world.run_until(Duration::from_secs(900), |world| {
        world.phone.worker.clients.is_empty() && world.old_phone.worker.clients.is_empty()
    });
    assert!(over, "a client waits for ever");
    for client in clients(world) {
        assert!(client.is_satisfied(), "{:?}: {:?}", client.wish, client.error);
    }
    world.assert_gateway_empty();
}

/// The clients with their downloads give up.
pub(super) fn stop(world: &mut World) {
    for phone in [&mut world.phone.worker, &mut world.old_phone.worker] {
        for id in core::mem::take(&mut phone.clients).into_keys() {
            phone.stack.abort(world.now, id);
        }
    }
    world.run(SECOND);
    world.assert_gateway_empty();
}

/// MPTCP of both versions, and none, on every shard: one rate for all of them, whatever it becomes.
#[test]
fn a_user_s_rate_holds_over_all_its_sessions_on_every_shard() {
    let mut world = world(41, 4, &settings(&["a", "b"]));
    // More than both users may have: nothing queues on the way.
    for path in world.access.clone() {
        set_rate(&mut world, path, 60);
    }
    let plan = Plan { rate: Some(20_000_000), ..Plan::default() };
    world.set_policies(world.policies.with_user(1, plan));
    for n in 0..16 {
        let wish = Wish { mptcp: n % 3 > 0, user: Some("a"), ..BULK };
        let phone = if n % 4 < 3 { &mut world.phone } else { &mut world.old_phone };
        phone.worker.start(world.now, wish);
    }
    // Longer than all of this.
    start(&mut world, Wish { user: Some("b"), download: 256 << 20, ..BULK });
    world.run(SECOND);
    let shards = world.counters_of_all();
    assert!(shards.iter().filter(|shard| shard.sessions > 0).count() >= 3, "on several shards");
    for mbit in [8, 3, 12, 1] {
        let plan = Plan { rate: Some(mbit * 1_000_000), ..Plan::default() };
        world.set_policies(world.policies.with_user(0, plan));
        // What waited in the sessions' send buffers is through.
        world.run(8 * SECOND);
        let others = downloaded(&world, Some("b"));
        assert_within(2, download_in(&mut world, Some("a"), 5 * SECOND), 5 * mbit * MBIT);
        let others = downloaded(&world, Some("b")) - others;
        assert_within(2, others, 5 * 20 * MBIT);
    }
    world.set_policies(world.policies.with_user(0, Plan::default()));
    world.run(SECOND);
    let freed = download_in(&mut world, Some("a"), 3 * SECOND);
    assert!(freed > 3 * 15 * MBIT, "no rate any more: {freed}");
    stop(&mut world);
}

/// What comes from a user is held as well: its window closes.
#[test]
fn uploads_are_held_to_their_rate() {
    let mut world = world(42, 2, &settings(&["a"]));
    let plan = Plan { upload_rate: Some(4_000_000), ..Plan::default() };
    world.set_policies(world.policies.with_user(0, plan));
    for n in 0..6 {
        let wish =
            Wish { mptcp: n % 2 > 0, upload: 1 << 20, download: 10, user: Some("a"), ..BULK };
        start(&mut world, wish);
    }
    let begin = world.now;
    finish_within(&mut world, 60);
    let seconds = world.now.since(begin).as_secs_f64();
    let expected = (6 << 20) as f64 / (4 * MBIT) as f64;
    // Handshakes at the start, acknowledgements at the end.
    assert!((expected * 0.98..expected * 1.02 + 0.3).contains(&seconds), "{seconds} {expected}");
    assert_eq!(world.server.worker.uploads, 6);
    finish(&mut world);
}

fn finish_within(world: &mut World, seconds: u64) {
    let done = |world: &World| world.phone.worker.clients.is_empty();
    assert!(world.run_until(Duration::from_secs(seconds), done), "after {seconds} s");
}

/// Sessions with and without MPTCP, of all users: the port is one. A user's own rate on it is less.
#[test]
fn the_rate_of_a_port_holds_over_everybody() {
    let mut world = world(43, 3, &settings(&["a", "b"]));
    for n in 0..12 {
        let user = if n % 2 == 0 { "a" } else { "b" };
        start(&mut world, Wish { mptcp: n % 4 > 0, user: Some(user), ..BULK });
    }
    world.run(SECOND);
    // It is wanted as long as it may be used.
    world.set_policies(world.policies.with_listener(FrontEnd::Socks5, Some(6)));
    for mbit in [6, 2, 9] {
        world.set_policies(world.policies.with_port(LTE, Some(mbit * 1_000_000)));
        world.run(4 * SECOND);
        // What Wi-Fi's full queue loses is repaired by the faster LTE, and that is no more of its rate.
        for _ in 0..4 {
            let [lte, wifi] = shares_in(&mut world, 5 * SECOND);
            assert_within(1, lte, 5 * mbit * MBIT);
            assert!(wifi > 5 * 8 * MBIT, "Wi-Fi carries what it can: {wifi}");
        }
    }
    // Of one user, on one access.
    world.set_policies(world.policies.with_listener(FrontEnd::Socks5, Some(5)));
    world.set_policies(world.policies.with_port(LTE, None));
    let access_rates = BTreeMap::from([(WIFI, 1_000_000)]);
    let plan = Plan { access_rates, ..Plan::default() };
    let in_force = world.policies.with_user(0, plan.clone());
    world.set_policies(in_force.with_user(1, plan));
    world.run(4 * SECOND);
    let [lte, wifi] = shares_in(&mut world, 5 * SECOND);
    assert_within(2, wifi, 2 * 5 * MBIT);
    assert!(lte > 5 * 15 * MBIT, "{lte}");
    stop(&mut world);
}

#[test]
fn a_profile_that_changes_moves_running_sessions() {
    let mut world = world(44, 2, &settings(&["a"]));
    for _ in 0..4 {
        start(&mut world, Wish { user: Some("a"), ..BULK });
    }
    // Less than either access carries twice.
    let plan = Plan { rate: Some(4_000_000), ..Plan::default() };
    world.set_policies(world.policies.with_user(0, plan.clone()));
    world.run(2 * SECOND);
    let profile = |name: &str| {
        let names = ["lte", "wifi", "shares", "both", "fast", "overflow"];
        names.iter().position(|other| *other == name)
    };
    for name in ["lte", "wifi", "overflow", "lte", "shares", "both", "fast"] {
        world.set_policies(world.policies.with_listener(FrontEnd::Socks5, profile(name)));
        world.run(2 * SECOND);
        let before = downloaded(&world, Some("a"));
        let [lte, wifi] = shares_in(&mut world, 4 * SECOND);
        let stream = downloaded(&world, Some("a")) - before;
        assert_within(2, stream, 4 * 4 * MBIT);
        match name {
            "lte" => assert!(wifi * 50 < lte, "{name}: {lte} {wifi}"),
            "wifi" | "overflow" => assert!(lte * 50 < wifi, "{name}: {lte} {wifi}"),
            "shares" => assert_within(4, lte * 100, (lte + wifi) * 60),
            // Each of the two subflows of an access carries the stream.
            "both" => {
                assert_within(4, lte, 2 * stream);
                assert_within(4, wifi, 2 * stream);
            }
            _ => assert_within(5, lte + wifi, stream),
        }
    }
    // A user's own profile wins over its listener's.
    let plan = Plan { profile: profile("wifi"), ..plan };
    world.set_policies(world.policies.with_user(0, plan));
    world.run(2 * SECOND);
    let [lte, wifi] = shares_in(&mut world, 4 * SECOND);
    assert!(lte * 50 < wifi, "{lte} {wifi}");
    stop(&mut world);
}

/// A phone's datagrams: its relay, and its sockets on LTE and Wi-Fi.
struct Datagrams {
    relay: SocketAddr,
    sockets: [SocketId; 2],
    origin: SocketId,
}

impl Datagrams {
    fn start(world: &mut World) -> Self {
        start(world, Wish { manners: Manners::Associates, ..BULK });
        world.run(SECOND);
        let control = world.phone.worker.clients.values().last().expect("it stays");
        let relay = SocketAddr::from(([10, 1, 0, 1], control.relay_port().expect("a relay")));
        let mut bind = |text: &str| {
            let options = UdpOptions::default();
            world.phone.worker.stack.udp_bind(text.parse().unwrap(), &options).unwrap()
        };
        let sockets = ["10.1.0.2:5000", "10.2.0.2:5000"].map(&mut bind);
        let local = "10.9.0.2:53".parse().unwrap();
        let origin = world.server.worker.stack.udp_bind(local, &UdpOptions::default()).unwrap();
        Self { relay, sockets, origin }
    }

    /// A datagram of the phone's by one access.
    fn ask(&self, world: &mut World, access: usize) {
        let bytes = b"\0\0\0\x01\x0a\x09\x00\x02\x00\x35question";
        let to = SendTo::from(self.relay);
        world.phone.worker.stack.udp_send_to(self.sockets[access], bytes, &to).unwrap();
    }

    /// The origin sends as many datagrams to whoever has asked, one each 20 ms: how many come by LTE and Wi-Fi.
    fn answer(&self, world: &mut World, count: usize) -> [usize; 2] {
        let mut bytes = [0; 100];
        // Late ones.
        for socket in self.sockets {
            while world.phone.worker.stack.udp_recv_from(socket, &mut bytes).is_ok() {}
        }
        let mut exit = None;
        while let Ok(received) = world.server.worker.stack.udp_recv_from(self.origin, &mut bytes) {
            exit = Some(received.remote);
        }
        let exit = exit.expect("somebody asked");
        for _ in 0..count {
            let to = SendTo::from(exit);
            world.server.worker.stack.udp_send_to(self.origin, b"answer", &to).unwrap();
            world.run(SECOND / 50);
        }
        world.run(SECOND / 10);
        self.sockets.map(|socket| {
            let stack = &mut world.phone.worker.stack;
            core::iter::from_fn(|| stack.udp_recv_from(socket, &mut bytes).ok()).count()
        })
    }
}

/// Datagrams longer than a packet pass in fragments, there and back.
#[test]
fn long_datagrams_pass_in_fragments() {
    let mut world = world(46, 1, &[]);
    let datagrams = Datagrams::start(&mut world);
    world.run(SECOND);
    for len in [4_000, 20_000, 60_000] {
        let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let asked = [&b"\0\0\0\x01\x0a\x09\x00\x02\x00\x35"[..], &data].concat();
        let to = SendTo::from(datagrams.relay);
        let phone = datagrams.sockets[LTE];
        world.phone.worker.stack.udp_send_to(phone, &asked, &to).unwrap();
        world.run(SECOND);
        let mut bytes = vec![0; 65_535];
        let server = &mut world.server.worker.stack;
        let received = server.udp_recv_from(datagrams.origin, &mut bytes).expect("it is there");
        assert_eq!(bytes[..received.len], data);
        server.udp_send_to(datagrams.origin, &data, &received.reply()).unwrap();
        world.run(SECOND);
        let received =
            world.phone.worker.stack.udp_recv_from(phone, &mut bytes).expect("it is back");
        assert_eq!(bytes[..received.len], asked);
    }
    stop(&mut world);
}

/// Nothing comes over Wi-Fi any more: every session of the client goes on over LTE within a second, and so
/// do datagrams, although the phone has not noticed; they are back when Wi-Fi is.
#[test]
fn a_wifi_that_fails_is_bypassed_for_sessions_and_datagrams_and_used_again() {
    let set = [PROFILES.to_owned(), "socks5.profile=wifi".to_owned()];
    let mut world = world(45, 2, &set);
    for _ in 0..6 {
        start(&mut world, BULK);
    }
    let datagrams = Datagrams::start(&mut world);
    world.run(SECOND);
    datagrams.ask(&mut world, LTE);
    world.run(SECOND / 5);
    datagrams.ask(&mut world, WIFI);
    world.run(SECOND / 5);
    // Some find the queue full.
    let by_wifi = |[lte, wifi]: [usize; 2]| lte == 0 && wifi >= 15;
    let answers = datagrams.answer(&mut world, 20);
    assert!(by_wifi(answers), "{answers:?}");
    let [lte, wifi] = shares_in(&mut world, 2 * SECOND);
    assert!(lte * 50 < wifi, "{lte} {wifi}");

    cut_wifi(&mut world, true);
    // Of every session something comes within a second.
    let mut lasts: BTreeMap<SocketId, (u64, Instant)> = BTreeMap::new();
    for _ in 0..60 {
        world.run(SECOND / 20);
        let now = world.now;
        for (id, client) in &world.phone.worker.clients {
            if client.wish.manners != Manners::Good {
                continue;
            }
            let (octets, since) = lasts.entry(*id).or_insert((0, now));
            if client.downloaded() > *octets {
                (*octets, *since) = (client.downloaded(), now);
            }
            assert!(now.since(*since) <= SECOND, "it stands still");
        }
    }
    assert_eq!(health(&mut world, LTE).down, 0);
    let cut = health(&mut world, WIFI);
    assert!(cut.down > 0 && cut.downs > 0 && cut.ups == 0, "{cut:?}");
    let [lte, wifi] = shares_in(&mut world, 2 * SECOND);
    assert!(lte > 2 * 15 * MBIT && wifi * 20 < lte, "{lte} {wifi}");
    datagrams.ask(&mut world, LTE);
    world.run(SECOND / 5);
    datagrams.ask(&mut world, WIFI);
    world.run(SECOND / 5);
    let [lte, wifi] = datagrams.answer(&mut world, 20);
    assert!(lte >= 15 && wifi == 0, "{lte} {wifi}");

    cut_wifi(&mut world, false);
    world.run(5 * SECOND);
    let back = health(&mut world, WIFI);
    assert!(back.down == 0 && back.ups == back.downs, "{back:?}");
    let [lte, wifi] = shares_in(&mut world, 2 * SECOND);
    assert!(wifi > 2 * 8 * MBIT && lte * 20 < wifi, "{lte} {wifi}");
    datagrams.ask(&mut world, WIFI);
    world.run(SECOND / 5);
    let answers = datagrams.answer(&mut world, 20);
    assert!(by_wifi(answers), "{answers:?}");
    stop(&mut world);
}

const USERS: [&str; 8] = ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7"];

/// How many sessions, all at once; `PLAIT_SESSIONS` changes it.
fn crowd() -> u64 {
    std::env::var("PLAIT_SESSIONS").map_or(6_000, |count| count.parse().expect("a number"))
}

/// Every session is there at the same time and waits for its user's rate, while paths of both phones fail and
/// return, and profiles and rates change: none is lost, each user gets what its rates add up to, and what the
/// gateway reports is what arrived.
#[test]
fn a_crowd_is_served_while_paths_profiles_and_rates_change() {
    let sessions = crowd();
    let mut settings = settings(&USERS);
    settings.push(format!("limits.connections={}", (sessions * 3 / 2).max(3_000)));
    settings.push(format!("limits.half_open={}", sessions.max(4_096)));
    let mut world = world(46, 4, &settings);
    for path in world.access.clone() {
        set_rate(&mut world, path, 300);
    }
    let exit = world.exit;
    set_rate(&mut world, exit, 2_000);
    // Each user's rate lasts for about 20 s of its downloads.
    let mean = 3_500;
    let usual = sessions / 8 * mean / 20 * 8;
    let mut rates = [usual; 8];
    let mut rng = Rng::new(46);
    for (at, rate) in rates.iter().enumerate() {
        let plan = Plan { rate: Some(*rate), ..Plan::default() };
        world.set_policies(world.policies.with_user(at, plan));
    }
    let mut asked = (0, 0);
    for n in 0..sessions {
        let wish = Wish {
            mptcp: n % 8 > 0,
            upload: rng.below(400),
            download: mean - 1_500 + rng.below(3_000),
            user: Some(USERS[(n / 2 % 8) as usize]),
            ..BULK
        };
        asked = (asked.0 + 24 + wish.upload, asked.1 + wish.download);
        let phone = if n % 2 == 0 { &mut world.phone } else { &mut world.old_phone };
        phone.worker.start(world.now, wish);
        if n % (sessions / 200) == 0 {
            world.run(SECOND / 100);
        }
    }
    world.run(2 * SECOND);
    let there: u32 = world.counters_of_all().iter().map(|shard| shard.sessions).sum();
    assert!(u64::from(there) * 10 > sessions * 9, "{there} at once");
    let begin: Vec<u64> = USERS.map(|user| downloaded(&world, Some(user))).to_vec();
    let mut due = [0; 8];
    let mut cuts = 0;
    for step in 0..40_u64 {
        // A cut of a second and a half each two seconds, never of both paths of a phone.
        if step % 8 == 0 && step < 32 {
            cut_path(&mut world, rng.below(4) as usize, true);
            cuts += 1;
        } else if step % 8 == 6 {
            (0..4).for_each(|access| cut_path(&mut world, access, false));
        }
        let at = rng.below(8) as usize;
        let next = match step % 3 {
            0 => {
                rates[at] = usual / 2 + rng.below(usual);
                let plan =
                    Plan { rate: Some(rates[at]), ..world.policies.plan(at).unwrap().clone() };
                world.policies.with_user(at, plan)
            }
            1 => {
                let profile = (rng.below(7) as usize).checked_sub(1);
                world.policies.with_listener(FrontEnd::Socks5, profile)
            }
            _ => {
                let profile = (rng.below(7) as usize).checked_sub(1);
                let plan = Plan { profile, ..world.policies.plan(at).unwrap().clone() };
                world.policies.with_user(at, plan)
            }
        };
        world.set_policies(next);
        world.run(SECOND / 4);
        for (due, rate) in due.iter_mut().zip(rates) {
            *due += rate / 8 / 4;
        }
    }
    let mut report = Vec::new();
    for (at, user) in USERS.iter().enumerate() {
        let got = downloaded(&world, Some(user)) - begin[at];
        assert_within(2, got, due[at]);
        report.push(format!("{user} {:.2} %", 100.0 * got as f64 / due[at] as f64));
    }
    for at in 0..8 {
        world.set_policies(world.policies.with_user(at, Plan::default()));
        world.run(Duration::from_millis(1));
    }
    finish(&mut world);
    let usage = USERS.map(|user| {
        let id = world.policies.credentials().id(user.as_bytes()).unwrap();
        world.policies.usage(id).unwrap().read()
    });
    let sum = |at: usize| usage.iter().map(|read| read[at]).sum::<u64>();
    assert_eq!((sum(0), sum(1)), (0, sessions), "each is counted, none is lost");
    let received: u64 = USERS.iter().map(|user| downloaded(&world, Some(user))).sum();
    assert_eq!((sum(2), sum(3)), asked, "reported and asked for");
    assert_eq!(received, asked.1, "delivered");
    assert_eq!(world.server.worker.uploads, sessions);
    let shards = world.counters_of_all();
    let relayed = shards.iter().map(|shard| shard.gateway.bytes_down).sum::<u64>();
    assert_eq!(relayed, asked.1);
    let downs: u64 = (0..2).map(|port| health(&mut world, port).downs).sum();
    println!(
        "{sessions} sessions, {there} at once, {cuts} cuts ({downs} paths went down), 40 changes, {} bytes up, {} \
         down; {}",
        asked.0,
        asked.1,
        report.join(", ")
    );
}
