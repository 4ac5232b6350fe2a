//! SIGHUP in the simulator: what a configuration that is read anew does to sessions on every shard.

use super::peers::Wish;
use super::terms::{
    BULK, MBIT, SECOND, assert_within, download_in, downloaded, finish, settings, shares_in, start,
    stop, world,
};
use super::world::World;
use crate::gateway::EndReason;

fn with(users: &[&str], more: &[&str]) -> Vec<String> {
    let more = more.iter().map(|&text| text.to_owned());
    settings(users).into_iter().chain(more).collect()
}

fn take_up(world: &mut World, settings: &[String]) -> Vec<String> {
    let taken = world.take_up(settings).unwrap();
    assert_eq!((taken.unconfirmed, taken.fixed), (None, Vec::new()));
    taken.changed.iter().map(ToString::to_string).collect()
}

/// A rate, a profile, users and destinations at once: sessions that are there go by it, whoever they are of, and end as
/// they would have.
#[test]
fn a_configuration_is_taken_up_on_every_shard_and_no_session_is_lost() {
    let before = with(&["a", "b"], &["user.0.rate='6Mbit'"]);
    let mut world = world(71, 4, &before);
    for n in 0..16 {
        let user = if n % 2 == 0 { "a" } else { "b" };
        let wish = Wish { mptcp: n % 4 > 0, user: Some(user), download: 3 << 20, ..BULK };
        start(&mut world, wish);
    }
    world.run(SECOND);
    let shards = world.counters_of_all();
    assert!(shards.iter().filter(|shard| shard.sessions > 0).count() >= 3, "on several shards");
    let sessions = |world: &mut World| -> u32 {
        world.counters_of_all().iter().map(|shard| shard.sessions).sum()
    };
    assert_eq!(sessions(&mut world), 16);
    let changes = ["user.0.rate='3Mbit'", "socks5.profile=lte", "egress.deny=['10.9.0.0/24']"];
    assert_eq!(
        take_up(&mut world, &with(&["a", "c"], &changes)),
        [
            "egress.deny = [\"10.9.0.0/24\"] instead of []",
            "socks5.profile = \"lte\" instead of none",
            "user.a.rate = \"3Mbit\" instead of \"6Mbit\"",
            "user.b is gone",
            "user.c is new",
        ]
    );
    // Nobody goes to where nobody may any more.
    start(&mut world, Wish { user: Some("a"), ..BULK });
    // What waited in the sessions' send buffers is through.
    world.run(8 * SECOND);
    let denied = world.phone.worker.done.iter().filter(|client| client.rep() == Some(2)).count();
    assert_eq!(denied, 1);
    world.phone.worker.done.retain(|client| client.rep() != Some(2));
    assert_within(2, download_in(&mut world, Some("a"), 5 * SECOND), 5 * 3 * MBIT);
    assert_eq!(take_up(&mut world, &before).len(), 5);
    start(&mut world, Wish { user: Some("b"), download: 1 << 20, ..BULK });
    finish(&mut world);
    let shards = world.counters_of_all();
    let ended = |reason| -> u64 { shards.iter().map(|shard| shard.gateway.ended(reason)).sum() };
    assert_eq!((ended(EndReason::Completed), ended(EndReason::Denied)), (17, 1));
}

/// What sessions do without a profile is what stacks were started with: they are told as well.
#[test]
fn the_scheduler_and_the_use_of_ports_change_without_a_restart() {
    let before = with(&["a"], &["user.0.rate='4Mbit'"]);
    let mut world = world(72, 2, &before);
    for _ in 0..4 {
        start(&mut world, Wish { user: Some("a"), ..BULK });
    }
    world.run(2 * SECOND);
    let changes: [(&str, &[&str]); 4] = [
        ("both", &["mptcp.scheduler=redundant"]),
        ("wifi", &["mptcp.scheduler=active_backup", "port.0.priority=9"]),
        ("lte", &["mptcp.scheduler=active_backup", "port.1.priority=9"]),
        ("shares", &["mptcp.scheduler=weighted", "port.0.weight=3", "port.1.weight=2"]),
    ];
    for (name, change) in changes {
        take_up(&mut world, &with(&["a"], &[&["user.0.rate='4Mbit'"], change].concat()));
        // One that comes later goes by it, too.
        start(&mut world, Wish { user: Some("a"), ..BULK });
        world.run(3 * SECOND);
        let before = downloaded(&world, Some("a"));
        let [lte, wifi] = shares_in(&mut world, 4 * SECOND);
        let stream = downloaded(&world, Some("a")) - before;
        match name {
            "both" => {
                assert_within(4, lte, 2 * stream);
                assert_within(4, wifi, 2 * stream);
            }
            "wifi" => assert!(lte * 50 < wifi, "{name}: {lte} {wifi}"),
            "lte" => assert!(wifi * 50 < lte, "{name}: {lte} {wifi}"),
            _ => assert_within(4, lte * 100, (lte + wifi) * 60),
        }
    }
    stop(&mut world);
}
