//! Username and password.

use super::*;

pub(super) const METHOD: &[u8] = b"\x05\x01\x02";
pub(super) const RIGHT: &[u8] = b"\x01\x05alice\x05right";
pub(super) const WRONG: &[u8] = b"\x01\x05alice\x05wrong";

impl World {
    fn with_passwords() -> Self {
        Self::shards_with_passwords(1).remove(0)
    }

    pub(super) fn shards_with_passwords(count: u32) -> Vec<Self> {
        Self::shards(
            count,
            &[
                "socks5.auth=password",
                "user=[{ name = 'alice', password_hash = '$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A' }]",
            ],
        )
    }

    /// Plays the verifier: the password is "right". Returns how many checks there were.
    pub(super) fn verify(&mut self) -> usize {
        let mut count = 0;
        while let Some(request) = self.gateway.poll_verification() {
            count += 1;
            let correct = request.credentials.password.as_slice() == b"right";
            let result = request.answered(correct);
            self.gateway.handle_verified(self.now, &mut self.shard, &result);
        }
        self.run();
        count
    }
}

#[test]
fn right_credentials_lead_to_the_request() {
    let mut world = World::with_passwords();
    let inner = world.client_saying(&[METHOD, RIGHT, &REQUEST[3..], b"data"].concat());
    assert_eq!(world.heard(inner), [5, 2]);
    assert!(world.shard.connects.is_empty(), "not before the verdict");
    assert_eq!(world.verify(), 1);
    assert_eq!(world.heard(inner), [1, 0]);
    assert_eq!(world.shard.connects.len(), 1);
    assert_eq!(world.shard.unread(inner), 4);
}

#[test]
fn wrong_credentials_are_refused() {
    let mut world = World::with_passwords();
    let inner = world.client_saying(&[METHOD, WRONG, &REQUEST[3..]].concat());
    world.verify();
    assert_eq!(world.heard(inner), [5, 2, 1, 1]);
    assert!(world.shard.write_shut(inner));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::AuthenticationFailed);
    assert!(world.shard.connects.is_empty());
}

#[test]
fn the_method_is_demanded() {
    let mut world = World::with_passwords();
    let inner = world.client_saying(REQUEST);
    assert_eq!(world.heard(inner), [5, 0xff]);
    world.pass_s(5);
    world.assert_ended(EndReason::NoMethod);
}

#[test]
fn credentials_are_verified_once_and_then_remembered() {
    let mut world = World::with_passwords();
    let say = [METHOD, RIGHT, &REQUEST[3..]].concat();
    world.client_saying(&say);
    assert_eq!(world.verify(), 1);
    let second = world.client_saying(&say);
    assert_eq!(world.heard(second), [5, 2, 1, 0]);
    assert_eq!(world.verify(), 0);
    assert_eq!(world.gateway.counters().authentication_cached, 1);
    assert_eq!(world.gateway.counters().authentication_verified, 1);
}

/// A browser opens them all before it has heard of the first one, which it may even give up.
#[test]
fn many_at_once_with_the_right_password_are_no_failures() {
    let mut world = World::with_passwords();
    let say = [METHOD, RIGHT, &REQUEST[3..]].concat();
    let clients: Vec<SocketId> = (0..30).map(|_| world.client_saying(&say)).collect();
    world.shard.end(clients[0], Some(ConnectionError::Reset));
    world.run();
    assert_eq!(world.verify(), 1);
    for client in &clients[1..] {
        assert_eq!(world.heard(*client), [5, 2, 1, 0]);
    }
    let counters = world.gateway.counters();
    assert_eq!((counters.authentication_verified, counters.ended_total()), (1, 1));
    // Wrong ones are one guess.
    let wrong: Vec<SocketId> =
        (0..12).map(|_| world.client_saying(&[METHOD, WRONG].concat())).collect();
    assert_eq!(world.verify(), 1);
    for client in wrong {
        assert_eq!(world.heard(client), [5, 2, 1, 1]);
    }
}

#[test]
fn a_source_that_keeps_failing_is_refused_unheard_and_others_are_not() {
    let mut world = World::with_passwords();
    for _ in 0..12 {
        let inner = world.client_saying(&[METHOD, WRONG].concat());
        world.verify();
        assert_eq!(world.heard(inner), [5, 2, 1, 1]);
        world.shard.finish(inner);
        world.run();
    }
    let counters = world.gateway.counters();
    assert_eq!(counters.ended(EndReason::AuthenticationFailed), 10);
    assert_eq!(counters.ended(EndReason::AuthenticationLimited), 2);
    let other = world.shard.client("10.1.0.77:5", 1080);
    world.run();
    world.say(other, &[METHOD, RIGHT].concat());
    world.verify();
    assert_eq!(world.heard(other), [5, 2, 1, 0]);
}

#[test]
fn the_verdict_may_come_too_late() {
    let mut world = World::with_passwords();
    let inner = world.client_saying(&[METHOD, RIGHT].concat());
    let request = world.gateway.poll_verification().unwrap();
    world.pass_s(10);
    assert_eq!(world.fate(inner), Some(Fate::Closed));
    let result = request.answered(true);
    world.gateway.handle_verified(world.now, &mut world.shard, &result);
    world.assert_ended(EndReason::HandshakeTimedOut);
}

#[test]
fn a_verifier_that_is_behind_refuses() {
    let mut world = World::with_passwords();
    let inner = world.client_saying(&[METHOD, RIGHT].concat());
    let request = world.gateway.poll_verification().unwrap();
    let unanswered = request.answered(false);
    world.gateway.handle_unverifiable(world.now, &mut world.shard, &unanswered);
    assert_eq!(world.heard(inner), [5, 2, 1, 1]);
    world.pass_s(5);
    world.assert_ended(EndReason::AuthenticationBusy);
}

#[test]
fn a_malformed_message_fails_without_a_check() {
    for bad in [&b"\x05\x01a\x01b"[..], b"\x01\x00", b"\x01\x01a\x00"] {
        let mut world = World::with_passwords();
        let inner = world.client_saying(&[METHOD, bad].concat());
        assert_eq!(world.verify(), 0);
        assert_eq!(world.heard(inner), [5, 2, 1, 1]);
        world.pass_s(5);
        world.assert_ended(EndReason::BadAuthentication);
    }
}
