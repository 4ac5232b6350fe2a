//! Several shards of one gateway: limits hold over all of them.

use super::auth::{METHOD, WRONG};
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
