//! Several shards of one gateway: limits hold over all of them.

use super::auth::{METHOD, RIGHT, WRONG};
use super::*;

#[test]
fn connections_are_limited_over_all_shards() {
    let mut shards = World::shards(3, &["limits.connections=4"]);
    let mut clients = Vec::new();
    for turn in 0..3 {
        for shard in &mut shards {
            clients.push((turn, shard.client()));
        }
    }
    let count = |shards: &[World]| shards.iter().map(|it| it.gateway.session_count()).sum::<u32>();
    assert_eq!(count(&shards), 4);
    let refused = |shards: &[World]| {
        shards.iter().map(|it| it.gateway.counters().sessions_over_limit).sum::<u64>()
    };
    assert_eq!(refused(&shards), 5);

    // A place that becomes free on one shard is free on every other.
    let (_, first) = clients[0];
    shards[0].shard.finish(first);
    shards[0].run();
    assert_eq!(count(&shards), 3);
    for _ in 0..3 {
        shards[2].client();
    }
    assert_eq!((count(&shards), refused(&shards)), (4, 7));
}

#[test]
fn a_shard_has_room_for_no_more_than_its_share_and_gives_back_what_it_cannot_use() {
    let mut shards = World::shards(2, &["limits.connections=200"]);
    let room = 100 + 25 + 64;
    for _ in 0..room + 3 {
        shards[0].client();
    }
    assert_eq!(shards[0].gateway.session_count(), room);
    for _ in 0..20 {
        shards[1].client();
    }
    assert_eq!(shards[1].gateway.session_count(), 200 - room);
}

#[test]
fn sessions_of_all_shards_have_numbers_of_their_own() {
    let mut shards = World::shards(2, &[]);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        for world in &mut shards {
            world.client();
        }
    }
    for world in &shards {
        let (page, _) = world.gateway.snapshot(world.now, &world.shard, 0, 10);
        numbers.extend(page.iter().map(|session| session.id));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn wrong_credentials_are_limited_over_all_shards() {
    let mut shards = World::shards_with_passwords(4);
    let mut checked = 0;
    for attempt in 0..40 {
        let world = &mut shards[attempt % 4];
        world.client_saying(&[METHOD, WRONG].concat());
        checked += world.verify();
    }
    assert_eq!(checked, 10);
}

/// A client opens many connections at once, and each leads to another shard.
#[test]
fn the_same_credentials_at_once_are_one_guess_on_any_number_of_shards() {
    let mut shards = World::shards_with_passwords(16);
    let [right, wrong] = [RIGHT, WRONG].map(|word| [METHOD, word].concat());
    let clients: Vec<SocketId> =
        shards.iter_mut().map(|world| world.client_saying(&right)).collect();
    for (world, client) in shards.iter_mut().zip(clients) {
        assert_eq!(world.verify(), 1);
        assert_eq!(world.heard(client), [5, 2, 1, 0]);
    }
    for world in &mut shards {
        world.client_saying(&wrong);
    }
    assert_eq!(shards.iter_mut().map(World::verify).sum::<usize>(), 16);
    // One after the other they are many.
    let mut checked = 0;
    for attempt in 0..20 {
        let world = &mut shards[attempt % 16];
        world.client_saying(&wrong);
        checked += world.verify();
    }
    assert_eq!(checked, 9);
}

/// What one client has counts whichever shards it is on, and is given back to all of them.
#[test]
fn clients_are_limited_over_all_shards() {
    const BIND: &[u8] = b"\x05\x01\x00\x05\x02\x00\x01\x0a\x09\x00\x02\x00\x00";
    const ASSOCIATE: &[u8] = b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0";
    for (asks, settings) in [
        (ASSOCIATE, &["udp.per_client=5"][..]),
        (BIND, &["bind.waiting=100", "bind.per_client=5"][..]),
    ] {
        let mut shards = World::shards(4, settings);
        let ask = |world: &mut World, from: &str| {
            let id = world.shard.client(from, 1080);
            world.run();
            world.say(id, asks);
            (world.heard(id)[3] == 0).then_some(id)
        };
        let mut served: Vec<_> = (0..12).map(|n| ask(&mut shards[n % 4], "10.1.0.2:1")).collect();
        assert_eq!(served.iter().flatten().count(), 5, "{settings:?}");
        assert!(ask(&mut shards[0], "10.1.0.3:1").is_some(), "of another client");
        // The first shard's, so that there is room on the last.
        let first = served.remove(0).unwrap();
        shards[0].shard.end(first, None);
        shards[0].run();
        assert!(ask(&mut shards[3], "10.1.0.2:1").is_some());
        assert!(ask(&mut shards[0], "10.1.0.2:1").is_none());
    }
}
