//! Good and bad handshakes.

use super::*;
use crate::gateway::handshake::MAX_DISCARDED;

#[test]
fn a_request_is_relayed_once_the_exit_is_established() {
    let mut world = World::new();
    let inner = world.client();
    world.say(inner, b"\x05\x01\x00");
    assert_eq!(world.heard(inner), [5, 0]);
    world.say(inner, b"\x05\x01\x00\x01\x0a\x09\x00\x02\x00\x50");
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.local.to_string(), "10.9.0.1");
    assert_eq!(with.remote.to_string(), "10.9.0.2:80");
    assert_eq!((with.mptcp, with.timeout), (false, Some(fake::CONNECT)));
    assert!(world.heard(inner).is_empty(), "no success before the exit is established");
    world.shard.establish(outer);
    world.run();
    assert_eq!(world.heard(inner), [5, 0, 0, 1, 10, 9, 0, 1, 0x9c, 0x40]);
    assert_eq!(world.shard.relay_of(outer), Some(inner));
    assert_eq!(world.gateway.counters().sessions_established, 1);
}

#[test]
fn a_pipelined_client_s_data_stays_where_the_relay_finds_it() {
    let mut world = World::new();
    let inner = world.client_saying(&[REQUEST, b"GET / HTTP/1.0\r\n\r\n"].concat());
    assert_eq!(world.heard(inner), [5, 0]);
    assert_eq!(world.shard.unread(inner), 18);
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    assert_eq!(world.heard(inner)[..2], [5, 0]);
    assert_eq!(world.shard.unread(inner), 18);
}

#[test]
fn a_client_may_send_byte_by_byte() {
    let mut world = World::new();
    let inner = world.client();
    for byte in REQUEST {
        world.pass(Duration::from_millis(500));
        world.say(inner, &[*byte]);
    }
    assert_eq!(world.heard(inner), [5, 0]);
    assert_eq!(world.shard.connects.len(), 1);
}

#[test]
fn a_handshake_has_one_deadline_however_the_client_dawdles() {
    let mut world = World::new();
    let inner = world.client();
    for byte in &REQUEST[..9] {
        world.pass_s(1);
        world.say(inner, &[*byte]);
    }
    assert_eq!(world.fate(inner), None);
    world.pass(Duration::from_millis(999));
    assert_eq!(world.fate(inner), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.fate(inner), Some(Fate::Closed));
    world.assert_ended(EndReason::HandshakeTimedOut);
}

#[test]
fn a_client_that_says_nothing_is_closed() {
    let mut world = World::new();
    world.client();
    world.pass_s(10);
    world.assert_ended(EndReason::HandshakeTimedOut);
}

#[test]
fn garbage_is_closed_without_a_word() {
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], EndReason::NotSocks),
        (b"\x16\x03\x01\x02\x00", EndReason::NotSocks),
        (b"\x04\x01\x00\x50\x0a\x09\x00\x02\x00", EndReason::Socks4),
    ] {
        let mut world = World::new();
        let inner = world.client_saying(bytes);
        assert!(world.heard(inner).is_empty());
        assert!(world.shard.write_shut(inner));
        assert_eq!(world.shard.unread(inner), 0, "unread bytes would reset the connection");
        world.shard.finish(inner);
        world.run();
        assert_eq!(world.fate(inner), Some(Fate::Closed));
        world.assert_ended(reason);
    }
}

#[test]
fn refusals_are_said_and_the_client_closes() {
    for (bytes, said, reason) in [
        (&b"\x05\x00"[..], vec![5, 0xff], EndReason::NoMethod),
        (b"\x05\x02\x01\x02", vec![5, 0xff], EndReason::NoMethod),
        (
            b"\x05\x01\x00\x05\x02\x00\x01",
            [vec![5, 0], failure(7)].concat(),
            EndReason::CommandNotSupported,
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x05",
            [vec![5, 0], failure(8)].concat(),
            EndReason::AddressType,
        ),
        (b"\x05\x01\x00\x04\x01\x00\x01", [vec![5, 0], failure(1)].concat(), EndReason::BadRequest),
        (
            b"\x05\x01\x00\x05\x01\x00\x01\x0a\x09\x00\x02\x00\x00",
            [vec![5, 0], failure(1)].concat(),
            EndReason::BadRequest,
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x03\x04a..b\x00\x50",
            [vec![5, 0], failure(1)].concat(),
            EndReason::BadRequest,
        ),
    ] {
        let mut world = World::new();
        let inner = world.client_saying(&[bytes, b"and more that nobody reads"].concat());
        assert_eq!(world.heard(inner), said);
        assert!(world.shard.write_shut(inner));
        assert_eq!(world.shard.unread(inner), 0, "unread bytes would reset the connection");
        world.shard.finish(inner);
        world.run();
        assert_eq!(world.fate(inner), Some(Fate::Closed));
        world.assert_ended(reason);
    }
}

#[test]
fn a_refused_client_that_does_not_close_is_reset_after_5_s() {
    let mut world = World::new();
    let inner = world.client_saying(b"\x05\x00");
    world.pass(Duration::from_millis(4999));
    world.say(inner, b"still here");
    assert_eq!(world.fate(inner), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::NoMethod);
}

#[test]
fn a_refused_client_that_floods_is_reset_at_once() {
    let mut world = World::new();
    let inner = world.client_saying(b"\x05\x00");
    world.say(inner, &vec![0; MAX_DISCARDED as usize]);
    assert_eq!(world.fate(inner), None);
    world.say(inner, &[0]);
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::NoMethod);
}

#[test]
fn clients_that_go_away_leave_nothing() {
    for said in 0..REQUEST.len() {
        let mut world = World::new();
        let inner = world.client_saying(&REQUEST[..said]);
        world.shard.finish(inner);
        world.run();
        assert_eq!(world.fate(inner), Some(Fate::Closed));
        world.assert_ended(EndReason::ClientGone);

        let mut world = World::new();
        let inner = world.client_saying(&REQUEST[..said]);
        world.shard.end(inner, Some(ConnectionError::Reset));
        world.run();
        assert_eq!(world.fate(inner), Some(Fate::Released));
        world.assert_ended(EndReason::ClientGone);
    }
}

#[test]
fn a_reserved_byte_is_tolerated_and_counted() {
    let mut world = World::new();
    world.client_saying(b"\x05\x01\x00\x05\x01\x77\x01\x0a\x09\x00\x02\x00\x50");
    assert_eq!(world.gateway.counters().requests_reserved_set, 1);
    assert_eq!(world.shard.connects.len(), 1);
}

#[test]
fn without_memory_for_a_reply_the_session_ends() {
    let mut world = World::new();
    world.shard.no_memory = true;
    let inner = world.client_saying(REQUEST);
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::NoMemory);
}
