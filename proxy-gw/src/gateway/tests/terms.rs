//! Profiles and rates: what sessions go by, and changes while they are there.

use super::auth::METHOD;
use super::*;
use crate::config::Plan;
use crate::front_end::FrontEnd;
use mptcp_core::buf::PortId;
use mptcp_core::config::SchedulerKind;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";

/// Users `a`, with a profile and rates, and `b`; SOCKS5 goes by `both`.
fn shards(count: u32) -> Vec<World> {
    let users = format!(
        "user=[{{ name = 'a', password_hash = '{HASH}', profile = 'lte-first', rate = '8Mbit', \
         upload_rate = '4Mbit', access_rates = {{ lte = '2Mbit' }} }}, \
         {{ name = 'b', password_hash = '{HASH}' }}]"
    );
    let settings = [
        "profile=[{ name = 'both', mode = 'redundant' }, \
         { name = 'lte-first', mode = 'active_standby', access = ['exit', 'lte'] }]",
        "socks5.profile=both",
        "socks5.auth=password",
        &users,
    ];
    World::shards(count, &settings)
}

impl World {
    /// A session of this user's that relays: the client's socket.
    fn session_of(&mut self, user: &str) -> SocketId {
        let login = [b"\x01\x01", user.as_bytes(), b"\x05right"].concat();
        let inner = self.client_saying(&[METHOD, &login, &REQUEST[3..]].concat());
        self.verify();
        let (outer, _) = self.shard.last_exit();
        self.shard.establish(outer);
        self.run();
        assert_eq!(self.shard.relay_of(inner), Some(outer));
        inner
    }

    fn kind(&self, inner: SocketId) -> Option<SchedulerKind> {
        self.shard.schedulings.get(&inner).map(|scheduling| scheduling.kind)
    }

    /// Rates of the caps to the client and from it, octets per second.
    fn rates(&self, inner: SocketId) -> (Vec<u64>, Vec<u64>) {
        let caps = &self.shard.relay_caps[&inner];
        let [to_inner, to_outer] = [&caps.to_inner, &caps.to_outer]
            .map(|caps| caps.iter().map(mptcp_core::cap::SharedCap::rate).collect());
        (to_inner, to_outer)
    }

    fn carry(&mut self, policies: &Arc<InForce>) {
        self.gateway.set_policies(Arc::clone(policies));
        let now = self.now;
        while self.gateway.carry_policies(now, &mut self.shard, 2) == Progress::More {}
    }
}

#[test]
fn a_session_goes_by_its_user_s_plan_or_its_listener_s_profile() {
    let mut world = shards(1).remove(0);
    let a = world.session_of("a");
    let scheduling = &world.shard.schedulings[&a];
    assert_eq!(scheduling.kind, SchedulerKind::ActiveBackup);
    let order: Vec<_> = scheduling.paths.iter().map(|path| (path.port.0, path.priority)).collect();
    assert_eq!(order, [(0, 1)], "the exit is first, where nothing is asked");
    assert_eq!(scheduling.caps.len(), 1);
    assert_eq!((scheduling.caps[0].0, scheduling.caps[0].1.rate()), (PortId(0), 250_000));
    assert_eq!(world.rates(a), (vec![1_000_000], vec![500_000]));
    let b = world.session_of("b");
    assert_eq!(world.kind(b), Some(SchedulerKind::Redundant));
    assert_eq!(world.rates(b), (vec![], vec![]));
    // All sessions of a user wait in one line.
    let other = world.session_of("a");
    assert_eq!(world.shard.relay_caps[&a], world.shard.relay_caps[&other]);
}

/// Where nothing is asked the stack is left alone.
#[test]
fn without_profiles_and_rates_nothing_is_asked_of_the_stack() {
    let mut world = World::new();
    let (inner, _) = world.relaying();
    assert!(world.kind(inner).is_none() && world.shard.relay_caps.is_empty());
}

/// Plain TCP has no scheduler: what its port may carry is the relay's to hold.
#[test]
fn clients_without_mptcp_are_held_to_the_rates_of_their_port() {
    let mut world = World::with(&["port.0.total_rate='80Mbit'"]);
    world.shard.plain = true;
    let (inner, _) = world.relaying();
    assert_eq!(world.rates(inner), (vec![10_000_000], vec![]));
}

/// What a user's own rate does not let through takes nothing of what all clients of a port share.
#[test]
fn datagrams_beyond_a_user_s_rate_are_not_paid_for_by_its_port() {
    let user = format!("user=[{{ name = 'a', password_hash = '{HASH}', rate = '8Mbit' }}]");
    let mut world = World::with(&["socks5.auth=password", &user, "port.0.total_rate='80Mbit'"]);
    let login = b"\x01\x01a\x05right";
    let associate = b"\x05\x03\x00\x01\0\0\0\0\0\0";
    world.client_saying(&[METHOD, &login[..], &associate[..]].concat());
    world.verify();
    let relay = *world.shard.queries.last().expect("the relay's");
    let server: SocketAddr = "10.9.0.2:53".parse().unwrap();
    let question = [crate::front_end::udp::header(server), b"question".to_vec()].concat();
    world.shard.datagram_from(relay, "10.1.0.2:5000".parse().unwrap(), question);
    world.run();
    let exit = *world.shard.queries.last().expect("the exit's");
    assert_ne!(exit, relay);
    for _ in 0..2_000 {
        world.shard.datagram_from(exit, server, vec![7; 1_000]);
    }
    world.run();
    // A tenth of a second's worth of the user's.
    let udp = world.gateway.counters().udp;
    assert_eq!((udp.down, udp.over_rate), (101, 1_899));
    let of_port = world.gateway.policies.port_caps(None, PortId(0)).next().expect("it has one");
    assert!(of_port.take(world.now, 1_000), "others may go on");
}

#[test]
fn a_change_reaches_every_session_of_every_shard_and_no_other() {
    let mut shards = shards(2);
    let sessions: Vec<(SocketId, SocketId)> = shards
        .iter_mut()
        .map(|world| {
            let a = (0..5).map(|_| world.session_of("a")).last().unwrap();
            (a, world.session_of("b"))
        })
        .collect();
    let before = Arc::clone(shards[0].gateway.common.policies());
    let plan = Plan { rate: Some(16_000_000), ..Plan::default() };
    let changed = Arc::new(before.with_user(0, plan.clone()));
    for world in &mut shards {
        world.shard.schedulings.clear();
        world.carry(&changed);
    }
    for (world, (a, b)) in shards.iter().zip(&sessions) {
        assert_eq!(world.kind(*a), Some(SchedulerKind::Redundant), "the listener's again");
        assert_eq!(world.rates(*a), (vec![2_000_000], vec![]));
        assert_eq!(world.kind(*b), None, "not looked at");
    }
    let caps = |at: usize| shards[at].shard.relay_caps[&sessions[at].0].clone();
    assert_eq!(caps(0), caps(1), "one line for both shards");
    // What did not change in a change is the same line.
    let line = caps(0);
    let changed = Arc::new(changed.with_user(0, Plan { upload_rate: Some(8_000), ..plan }));
    for world in &mut shards {
        world.carry(&changed);
    }
    let caps = shards[1].shard.relay_caps[&sessions[1].0].clone();
    assert_eq!((caps.to_inner, caps.to_outer.len()), (line.to_inner, 1));
    // A listener's profile, and none at all.
    let changed = Arc::new(changed.with_listener(FrontEnd::Socks5, None));
    shards[0].carry(&changed);
    let (a, b) = sessions[0];
    for inner in [a, b] {
        assert_eq!(shards[0].kind(inner), Some(SchedulerKind::Default));
    }
    // New sessions go by it as well.
    let b = shards[0].session_of("b");
    assert_eq!(shards[0].kind(b), None);
    let changed = Arc::new(changed.with_port(0, Some(8_000_000)));
    shards[0].carry(&changed);
    assert_eq!(shards[0].shard.schedulings[&b].caps.len(), 1);
}

/// Another change may come before one has reached everybody; an older one may come after a newer.
#[test]
fn changes_that_overtake_each_other_leave_the_last_in_force() {
    let mut world = shards(1).remove(0);
    let sessions: Vec<_> = (0..10).map(|_| world.session_of("a")).collect();
    let before = Arc::clone(world.gateway.common.policies());
    let with = |from: &InForce, bits| {
        Arc::new(from.with_user(0, Plan { rate: Some(bits), ..Plan::default() }))
    };
    let first = with(&before, 8_000_000);
    let second = Arc::new(first.with_listener(FrontEnd::Socks5, Some(1)));
    let now = world.now;
    world.gateway.set_policies(Arc::clone(&first));
    assert_eq!(world.gateway.carry_policies(now, &mut world.shard, 3), Progress::More);
    world.gateway.set_policies(Arc::clone(&second));
    world.gateway.set_policies(first);
    assert!(world.gateway.carries_policies());
    world.carry(&second);
    for inner in sessions {
        assert_eq!(world.rates(inner), (vec![1_000_000], vec![]));
        assert_eq!(world.kind(inner), Some(SchedulerKind::ActiveBackup));
    }
    assert!(!world.gateway.carries_policies());
}

#[test]
fn what_a_user_did_is_counted_over_all_shards() {
    let mut shards = shards(2);
    for world in &mut shards {
        let inner = world.session_of("a");
        let (outer, _) = world.shard.last_exit();
        world.shard.progress(outer, 100, 5_000);
        world.session_of("a");
        world.shard.finish(inner);
        world.shard.finish(outer);
        world.shard.end(outer, None);
        world.shard.end(inner, None);
        world.run();
    }
    let policies = Arc::clone(shards[0].gateway.common.policies());
    let of = |name: &[u8]| policies.usage(policies.credentials().id(name).unwrap()).unwrap().read();
    assert_eq!(of(b"a"), [2, 2, 200, 10_000]);
    assert_eq!(of(b"b"), [0; 4]);
}

/// A profile that changes is another one for whoever goes by it, by user or by listener.
#[test]
fn a_profile_that_changes_reaches_whoever_goes_by_it() {
    let mut world = shards(1).remove(0);
    let (a, b) = (world.session_of("a"), world.session_of("b"));
    let before = Arc::clone(world.gateway.common.policies());
    let asked = world.shard.schedulings.len();
    let change = |from: &InForce, at: usize, mode| {
        let profile = from.profile_at(at).unwrap().clone();
        Arc::new(from.with_profile(at, crate::config::Profile { mode, ..profile }))
    };
    // The user's own.
    let first = change(&before, 1, crate::config::Mode::Priority);
    world.shard.schedulings.clear();
    world.carry(&first);
    assert_eq!((world.kind(a), world.kind(b)), (Some(SchedulerKind::Overflow), None));
    // The listener's, by which the other one goes.
    let second = change(&first, 0, crate::config::Mode::SmallestDelay);
    world.shard.schedulings.clear();
    world.carry(&second);
    assert_eq!((world.kind(a), world.kind(b)), (None, Some(SchedulerKind::Default)));
    assert_eq!(asked, 2);
    let new = world.session_of("b");
    assert_eq!(world.kind(new), Some(SchedulerKind::Default));
}
