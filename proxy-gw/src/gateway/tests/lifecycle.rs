//! Relaying sessions until they end; limits; drain; reports.

use super::*;

#[test]
fn an_orderly_session_is_released_and_its_bytes_are_counted() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    world.shard.progress(outer, 120, 100_000);
    world.shard.finish(inner);
    world.run();
    world.shard.finish(outer);
    world.shard.end(outer, None);
    world.run();
    assert_eq!(world.fate(outer), None, "until both are closed");
    world.shard.end(inner, None);
    world.run();
    assert_eq!(world.fate(inner), Some(Fate::Released));
    assert_eq!(world.fate(outer), Some(Fate::Released));
    world.assert_ended(EndReason::Completed);
    let counters = world.gateway.counters();
    assert_eq!((counters.bytes_up, counters.bytes_down), (120, 100_000));
}

#[test]
fn the_side_that_failed_is_named_whichever_is_reported_first() {
    use ConnectionError::*;
    for (inner_error, outer_error, reason) in [
        (Some(Reset), Some(Aborted), EndReason::ClientReset),
        (Some(Aborted), Some(Reset), EndReason::ServerReset),
        (Some(Aborted), Some(TimedOut), EndReason::ServerTimedOut),
        (Some(NoSubflows), Some(Aborted), EndReason::ClientTimedOut),
        (Some(TimedOut), None, EndReason::ClientTimedOut),
        (Some(Internal), Some(Aborted), EndReason::Internal),
        (Some(Aborted), Some(Aborted), EndReason::Internal),
    ] {
        let mut world = World::new();
        let (inner, outer) = world.relaying();
        world.shard.end(inner, inner_error);
        world.shard.end(outer, outer_error);
        world.run();
        world.assert_ended(reason);
    }
}

#[test]
fn idle_means_no_byte_either_way() {
    let mut world = World::with(&["timeouts.idle_s=100"]);
    let (inner, outer) = world.relaying();
    for _ in 0..5 {
        world.pass_s(99);
        world.shard.progress(outer, 0, 1);
        world.run();
    }
    assert_eq!(world.fate(outer), None);
    world.pass_s(100);
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    assert_eq!(world.fate(outer), Some(Fate::Aborted));
    world.assert_ended(EndReason::Idle);
}

#[test]
fn a_half_closed_session_lives_as_long_as_bytes_move() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    world.pass_s(600);
    world.shard.finish(inner);
    world.run();
    for _ in 0..5 {
        world.pass_s(119);
        world.shard.progress(outer, 0, 1);
        world.run();
    }
    assert_eq!(world.fate(outer), None);
    world.pass_s(120);
    world.assert_ended(EndReason::HalfClosed);
}

#[test]
fn one_closed_side_alone_does_not_keep_a_session() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    world.shard.end(outer, Some(ConnectionError::Reset));
    world.run();
    world.pass_s(120);
    assert_eq!(world.fate(outer), Some(Fate::Released));
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::HalfClosed);
}

#[test]
fn sessions_beyond_the_limit_are_reset_and_others_go_on() {
    let mut world = World::with(&["limits.connections=2"]);
    let (first, outer) = world.relaying();
    let second = world.client();
    let third = world.client();
    assert_eq!(world.fate(third), Some(Fate::Aborted));
    assert_eq!(world.gateway.counters().sessions_over_limit, 1);
    assert_eq!(world.fate(first), None);
    assert_eq!(world.fate(second), None);
    world.shard.end(first, None);
    world.shard.end(outer, None);
    world.run();
    let fourth = world.client_saying(REQUEST);
    assert_eq!(world.heard(fourth), [5, 0]);
    assert_eq!(world.gateway.counters().sessions_accepted, 3);
}

#[test]
fn events_of_sessions_that_ended_are_ignored() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    let stale = Event { socket: outer, ready: Ready::PROGRESS, user_data: 1 << 32 };
    world.shard.end(inner, None);
    world.shard.end(outer, None);
    world.run();
    world.gateway.handle_event(world.now, &mut world.shard, &stale);
    let (_, _) = world.relaying();
    world.gateway.handle_event(world.now, &mut world.shard, &stale);
    assert_eq!(world.gateway.session_count(), 1);
    let unknown = Event { socket: inner, ready: Ready::CLOSED, user_data: u64::MAX };
    world.gateway.handle_event(world.now, &mut world.shard, &unknown);
    assert_eq!(world.gateway.session_count(), 1);
}

#[test]
fn draining_lets_sessions_finish_and_takes_no_new_ones() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    let waiting = world.shard.client("10.1.0.3:1", 1080);
    world.gateway.drain(world.now, &mut world.shard);
    assert_eq!(world.shard.listener_count(), 0);
    assert!(!world.gateway.is_drained());
    world.say(waiting, REQUEST);
    assert_eq!(world.heard(waiting), [5, 0], "its handshake was complete before the drain");
    let (second_outer, _) = world.shard.last_exit();
    world.shard.establish(second_outer);
    world.run();
    for id in [inner, outer, waiting, second_outer] {
        world.shard.end(id, None);
    }
    world.run();
    assert!(world.gateway.is_drained());
    world.gateway.drain(world.now, &mut world.shard);
    world.assert_empty();
}

#[test]
fn aborting_resets_every_session() {
    let mut world = World::new();
    let (inner, outer) = world.relaying();
    let greeting = world.client_saying(b"\x05");
    let connecting = world.client_saying(REQUEST);
    world.gateway.drain(world.now, &mut world.shard);
    assert_eq!(world.gateway.abort(world.now, &mut world.shard, 2), 2);
    assert!(!world.gateway.is_drained() && world.gateway.session_count() == 1);
    assert_eq!(world.gateway.abort(world.now, &mut world.shard, 2), 1);
    for id in [inner, outer, greeting, connecting] {
        assert_eq!(world.fate(id), Some(Fate::Aborted));
    }
    assert!(world.gateway.is_drained());
    assert_eq!(world.gateway.counters().ended(EndReason::Drained), 3);
    world.assert_empty();
}

#[test]
fn a_busy_address_is_named() {
    let mut world = World::new();
    let config = config::parse("test", CONFIG, &[]).unwrap();
    let mut other = Gateway::new(&config, &mut Rng::from_seed([4; 32]));
    let refused = other.listen(&mut world.shard).unwrap_err();
    assert_eq!(refused, ("10.1.0.1:1080".parse().unwrap(), OpenError::AddressInUse));
}

#[test]
fn a_snapshot_tells_every_session_page_by_page() {
    let mut world = World::new();
    let (_, outer) = world.relaying();
    world.shard.progress(outer, 120, 5000);
    let greeting = world.client_saying(b"\x05");
    let _third = world.client();
    world.shard.finish(greeting);
    world.pass(Duration::from_millis(1500));
    let (page, next) = world.gateway.snapshot(world.now, &world.shard, 0, 2);
    assert_eq!(page.len(), 1, "the second session is gone");
    assert_eq!(next, Some(2));
    let session = &page[0];
    assert_eq!((session.id, session.bytes_up, session.bytes_down), (1, 120, 5000));
    assert_eq!(session.client.to_string(), "10.1.0.2:40312");
    assert_eq!(session.destination.unwrap().to_string(), "10.9.0.2:80");
    assert_eq!(session.age, Duration::from_millis(1500));
    let (page, next) = world.gateway.snapshot(world.now, &world.shard, 2, 2);
    assert_eq!((page.len(), next), (1, None));
    assert_eq!((page[0].id, page[0].destination), (3, None));
}

/// Peers do anything at any time; whatever happens, nothing is left behind.
#[test]
fn random_peers_leave_nothing_behind() {
    use proptest::prelude::*;
    let ops = proptest::collection::vec((0..9u8, 0..8usize, any::<u8>()), 0..120);
    proptest!(|(ops in ops)| {
        let mut world = World::with(&["limits.connections=4"]);
        let mut peers: Vec<SocketId> = Vec::new();
        for (op, which, byte) in ops {
            peers.extend(world.shard.connects.iter().map(|(id, _)| *id));
            peers.sort_unstable();
            peers.dedup();
            let gone = &world.shard.fates;
            peers.retain(|id| !gone.contains_key(id));
            let peer = peers.get(which).copied();
            let is_exit = |world: &World, id| world.shard.connects.iter().any(|(exit, _)| *exit == id);
            match (op, peer) {
                (0, _) => peers.push(world.shard.client("10.1.0.2:1", 1080)),
                (1, Some(id)) => world.shard.feed(id, REQUEST),
                (2, Some(id)) => world.shard.feed(id, &[byte]),
                (3, Some(id)) => world.shard.finish(id),
                (4, Some(id)) => world.shard.end(id, Some(ConnectionError::Reset)),
                (5, Some(id)) => world.shard.end(id, None),
                (6, Some(id)) if is_exit(&world, id) => world.shard.establish(id),
                (7, Some(id)) => world.shard.progress(id, 1, 1),
                _ => world.now = world.now + Duration::from_secs(u64::from(byte)),
            }
            if byte & 1 == 0 {
                world.run();
            }
        }
        world.run();
        let inside = world.gateway.counters().sessions_accepted
            - world.gateway.counters().ended_total();
        prop_assert_eq!(u64::from(world.gateway.session_count()), inside);
        world.pass_s(10_000);
        world.pass_s(10_000);
        world.pass_s(10_000);
        world.assert_empty();
    });
}
