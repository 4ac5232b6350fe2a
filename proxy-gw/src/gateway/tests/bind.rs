//! BIND: two replies, one peer, one connection.

use super::*;
use core::net::IpAddr;
use mptcp_core::error::ConnectionError;

/// Method selection and BIND of 10.9.0.2, whose port the client does not know.
const NAMED: &[u8] = b"\x05\x01\x00\x05\x02\x00\x01\x0a\x09\x00\x02\x00\x00";
/// The same of nobody in particular.
const ANYBODY: &[u8] = b"\x05\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00";

/// Where the client is told to send its peer: the exit's address, the first of the ports.
const WAITS: [u8; 12] = [5, 0, 5, 0, 0, 1, 10, 9, 0, 1, 0xee, 0x48];

fn world(settings: &[&str]) -> World {
    World::with(&[&["bind.waiting=10"], settings].concat())
}

impl World {
    /// A client that waits, and its listener.
    fn waiting(&mut self, asks: &[u8]) -> (SocketId, SocketId) {
        let inner = self.client_saying(asks);
        assert_eq!(self.heard(inner), WAITS);
        let (listener, _) = self.shard.waits.last_key_value().expect("a listener");
        (inner, *listener)
    }

    fn listens(&self, listener: SocketId) -> bool {
        !self.shard.fates.contains_key(&listener)
    }
}

#[test]
fn the_peer_that_was_named_is_connected_and_nobody_after_it() {
    let mut world = world(&[]);
    let (inner, listener) = world.waiting(&[NAMED, b"early"].concat());
    let peer: IpAddr = "10.9.0.2".parse().unwrap();
    assert_eq!(world.shard.waits[&listener].from, Some(peer));
    let outer = world.shard.caller(listener, "10.9.0.2:20");
    let late = world.shard.caller(listener, "10.9.0.2:21");
    world.run();
    assert_eq!(world.heard(inner), [5, 0, 0, 1, 10, 9, 0, 2, 0, 20]);
    assert_eq!(world.shard.relay_of(inner), Some(outer));
    assert_eq!(world.shard.unread(inner), 5, "what came before is for the relay");
    assert!(!world.listens(listener));
    assert_eq!(world.fate(late), Some(Fate::Aborted));
    assert_eq!(world.gateway.counters().sessions_established, 1);
    world.shard.end(inner, None);
    world.shard.end(outer, None);
    world.run();
    world.assert_ended(EndReason::Completed);
}

/// Who connects to a client that named nobody is judged as a destination would be.
#[test]
fn anybody_is_whom_a_client_might_connect_to() {
    let mut world = world(&[]);
    let (inner, listener) = world.waiting(ANYBODY);
    assert_eq!(world.shard.waits[&listener].from, None);
    let private = world.shard.caller(listener, "192.168.0.7:9");
    let denied = world.shard.caller(listener, "203.0.113.9:9");
    world.run();
    assert_eq!([private, denied].map(|id| world.fate(id)), [Some(Fate::Aborted); 2]);
    assert!(world.listens(listener) && world.heard(inner).is_empty());
    let gone = world.shard.caller(listener, "8.8.8.8:9");
    world.shard.end(gone, Some(ConnectionError::Reset));
    let outer = world.shard.caller(listener, "8.8.8.8:10");
    world.run();
    assert_eq!(world.heard(inner), [5, 0, 0, 1, 8, 8, 8, 8, 0, 10]);
    assert_eq!(world.shard.relay_of(inner), Some(outer));
}

#[test]
fn nobody_comes_and_the_client_is_told() {
    let mut world = world(&["bind.timeout_s=20"]);
    let (inner, listener) = world.waiting(NAMED);
    world.pass_s(19);
    assert!(world.listens(listener) && world.heard(inner).is_empty());
    world.pass_s(1);
    assert_eq!(world.heard(inner), failure(4));
    assert!(!world.listens(listener) && world.shard.write_shut(inner));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::BindTimedOut);
}

#[test]
fn a_client_that_goes_away_waits_no_longer() {
    let mut world = world(&[]);
    let (inner, listener) = world.waiting(NAMED);
    // It has nothing to say and means to read.
    world.shard.finish(inner);
    world.run();
    assert!(world.listens(listener));
    world.shard.end(inner, Some(ConnectionError::Reset));
    world.run();
    assert!(!world.listens(listener));
    world.assert_ended(EndReason::ClientGone);
}

#[test]
fn limits_hold_for_one_client_and_for_all() {
    let mut world = world(&["bind.waiting=3", "bind.per_client=2"]);
    let (first, listener) = world.waiting(NAMED);
    world.waiting(NAMED);
    let refused = world.client_saying(NAMED);
    assert_eq!(world.heard(refused), [&[5, 0][..], &failure(1)].concat());
    assert_eq!(world.gateway.counters().ended(EndReason::BindLimited), 0, "it lingers");
    let other = |world: &mut World, remote| {
        let id = world.shard.client(remote, 1080);
        world.say(id, NAMED);
        world.heard(id)
    };
    assert_eq!(other(&mut world, "10.1.0.3:1"), WAITS);
    assert_eq!(other(&mut world, "10.1.0.4:1"), [&[5, 0][..], &failure(1)].concat());
    // One that has its connection waits no more.
    world.shard.caller(listener, "10.9.0.2:20");
    world.run();
    world.heard(first);
    let again = world.client_saying(NAMED);
    assert_eq!(world.heard(again), WAITS);
}

/// The client of a pool has its own exit, and ports may be used up.
#[test]
fn what_cannot_be_had_is_refused() {
    for (asks, rep, reason) in [
        // A name; a denied network; our own; none of IPv6 but on-link.
        (&b"\x05\x01\x00\x05\x02\x00\x03\x01a\x00\x00"[..], 8, EndReason::AddressType),
        (b"\x05\x01\x00\x05\x02\x00\x01\xc0\xa8\x00\x01\x00\x00", 2, EndReason::Denied),
        (b"\x05\x01\x00\x05\x02\x00\x01\x0a\x09\x00\x01\x00\x00", 2, EndReason::Denied),
    ] {
        let mut world = world(&[]);
        let inner = world.client_saying(asks);
        assert_eq!(world.heard(inner), [&[5, 0][..], &failure(rep)].concat());
        world.shard.finish(inner);
        world.run();
        world.assert_ended(reason);
    }
    let mut world = world(&[]);
    world.shard.exhausted = vec!["10.9.0.1".parse().unwrap()];
    let inner = world.client_saying(NAMED);
    assert_eq!(world.heard(inner), [&[5, 0][..], &failure(1)].concat());
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::BindLimited);
}

/// By an exit of IPv6, and by its mapped spelling by one of IPv4.
#[test]
fn both_families_wait() {
    let mut world = world(&[]);
    let ask = |address: &str| {
        let address: core::net::Ipv6Addr = address.parse().unwrap();
        [&b"\x05\x01\x00\x05\x02\x00\x04"[..], &address.octets(), &[0, 0]].concat()
    };
    for (address, local, from) in [
        ("fd00:9::2", "fd00:9::1", Some("fd00:9::2")),
        ("::", "fd00:9::1", None),
        ("::ffff:10.9.0.2", "10.9.0.1", Some("10.9.0.2")),
        ("::ffff:0.0.0.0", "10.9.0.1", None),
    ] {
        let inner = world.client_saying(&ask(address));
        assert_eq!(world.heard(inner)[..4], [5, 0, 5, 0], "{address}");
        let (&listener, options) = world.shard.waits.last_key_value().unwrap();
        assert_eq!(options.from, from.map(|from| from.parse().unwrap()), "{address}");
        assert_eq!(
            world.shard.listening_at(listener).unwrap().ip(),
            local.parse::<IpAddr>().unwrap()
        );
    }
}

/// Who waits hears at once that nobody will come, unless somebody has; who asks later hears the same.
#[test]
fn a_drain_ends_the_wait() {
    let mut world = world(&[]);
    let (first, listener) = world.waiting(NAMED);
    let (second, met) = world.waiting(NAMED);
    let late = world.client();
    let outer = world.shard.caller(met, "10.9.0.2:20");
    world.gateway.drain(world.now, &mut world.shard);
    world.run();
    assert_eq!(world.heard(first), failure(1));
    assert!(!world.listens(listener) && world.shard.write_shut(first));
    assert_eq!(world.heard(second), [5, 0, 0, 1, 10, 9, 0, 2, 0, 20]);
    assert_eq!(world.shard.relay_of(second), Some(outer));
    world.say(late, NAMED);
    assert_eq!(world.heard(late), [&[5, 0][..], &failure(1)].concat());
    for id in [first, late] {
        world.shard.finish(id);
    }
    world.shard.end(second, None);
    world.shard.end(outer, None);
    world.run();
    assert_eq!(world.gateway.counters().ended(EndReason::Drained), 2);
    assert!(world.gateway.is_drained());
    world.assert_empty();
}
