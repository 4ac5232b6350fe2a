//! Clients who connect to others: nothing answers before the destination has, and its answer is theirs.

use super::*;
use mptcp_core::error::ConnectionError;

const CLIENT: &str = "10.1.0.2:40312";

fn world(settings: &[&str]) -> World {
    World::with(&[&["transparent.ports=['lte']"], settings].concat())
}

impl World {
    fn passing(&mut self, to: &str) -> SocketId {
        let id = self.shard.passing(CLIENT, to, true);
        self.run();
        id
    }
}

#[test]
fn the_destination_answers_first_and_the_relay_has_every_byte() {
    let mut world = world(&[]);
    let request = world.passing("10.9.0.2:443");
    let (exit, with) = world.shard.last_exit();
    assert_eq!(with.remote, "10.9.0.2:443".parse().unwrap());
    assert!(!with.mptcp);
    assert!(world.shard.terms[&exit].on_demand, "its SYN goes out again with the client's");
    assert!(world.shard.opened.is_empty(), "nothing has answered");
    world.shard.repeat(request);
    world.run();
    assert_eq!(world.shard.repeated, [exit]);
    world.shard.establish(exit);
    world.run();
    let client = world.shard.opened[&request];
    assert_eq!(world.shard.relay_of(client), Some(exit));
    assert_eq!(world.shard.sent(client), b"", "there is nothing to say");
    world.shard.end(client, None);
    world.shard.end(exit, None);
    world.run();
    assert_eq!(world.gateway.counters().ended(EndReason::Completed), 1);
    world.assert_empty();
}

/// What a destination is, that is what the client hears.
#[test]
fn refusals_are_resets() {
    for (error, reason) in [
        (ConnectionError::Refused, EndReason::Refused),
        (ConnectionError::HostUnreachable, EndReason::Unreachable),
        (ConnectionError::ConnectTimedOut, EndReason::ConnectTimedOut),
    ] {
        let mut world = world(&[]);
        let request = world.passing("10.9.0.2:443");
        let (exit, _) = world.shard.last_exit();
        world.shard.end(exit, Some(error));
        world.run();
        assert_eq!(world.shard.refused, [request], "{error:?}");
        assert_eq!(world.gateway.counters().ended(reason), 1);
        world.assert_empty();
    }
    let mut world = world(&["timeouts.connect_s=7"]);
    let request = world.passing("10.9.0.2:443");
    world.pass_s(8);
    assert_eq!(world.shard.refused, [request]);
    assert_eq!(world.gateway.counters().ended(EndReason::ConnectTimedOut), 1);
    world.assert_empty();
}

/// Our own addresses in any spelling, and what the policy has no way to.
#[test]
fn destinations_are_normalised_and_judged_as_everywhere() {
    let mut world = world(&[]);
    let refused = [
        "192.168.0.1:80",
        "203.0.113.5:80",
        "[::ffff:10.1.0.1]:1080",
        "[64:ff9b::127.0.0.1]:80",
        "[2002:a01:1::1]:80",
        "10.1.0.255:80",
    ];
    for to in refused {
        let request = world.passing(to);
        assert_eq!(world.shard.refused.last(), Some(&request), "{to}");
    }
    assert_eq!(world.gateway.counters().ended(EndReason::Denied), refused.len() as u64);
    world.passing("[64:ff9b::808:808]:53");
    assert_eq!(world.shard.last_exit().1.remote, "8.8.8.8:53".parse().unwrap());
}

/// A reset would be taken for the destination's: who is over a limit of ours is left to ask again.
#[test]
fn limits_of_ours_are_no_answer() {
    let mut world = world(&["transparent.pending_per_client=2", "limits.connections=3"]);
    let first = world.passing("10.9.0.2:1");
    world.passing("10.9.0.2:2");
    let third = world.passing("10.9.0.2:3");
    assert_eq!(world.shard.ignored, [third]);
    assert_eq!(world.gateway.counters().ended(EndReason::PendingLimited), 1);
    let (exit, _) = world.shard.connects[0];
    world.shard.establish(exit);
    world.run();
    assert!(world.shard.opened.contains_key(&first));
    world.passing("10.9.0.2:3");
    let over = world.passing("10.9.0.2:4");
    assert_eq!(world.shard.ignored, [third, over]);
    assert_eq!(world.gateway.counters().sessions_over_limit, 1);
    assert!(world.shard.refused.is_empty());
    world.shard.refuse_connect = Some(OpenError::PortsExhausted);
    let mut world = self::world(&[]);
    world.shard.refuse_connect = Some(OpenError::PortsExhausted);
    let unlucky = world.passing("10.9.0.2:1");
    assert_eq!(world.shard.ignored, [unlucky]);
    let mut world = self::world(&[]);
    world.shard.no_room = true;
    let unlucky = world.passing("10.9.0.2:1");
    let (exit, _) = world.shard.last_exit();
    world.shard.establish(exit);
    world.run();
    assert_eq!(world.shard.ignored, [unlucky]);
    world.assert_empty();
}

/// Behind a SYN cookie.
#[test]
fn who_is_established_already_hears_a_reset() {
    let mut world = world(&[]);
    for to in ["10.9.0.2:80", "192.168.0.1:80"] {
        let client = world.shard.passing(CLIENT, to, false);
        world.run();
        if to == "10.9.0.2:80" {
            let (exit, _) = world.shard.last_exit();
            assert!(!world.shard.terms.contains_key(&exit), "its SYN is repeated as usual");
            world.shard.end(exit, Some(ConnectionError::Refused));
            world.run();
        }
        assert_eq!(world.shard.fates[&client], Fate::Aborted, "{to}");
    }
    world.assert_empty();
}

#[test]
fn a_client_that_goes_away_takes_its_exit_with_it() {
    let mut world = world(&[]);
    let request = world.passing("10.9.0.2:443");
    let (exit, _) = world.shard.last_exit();
    world.shard.vanish(request);
    world.run();
    assert_eq!(world.shard.fates[&exit], Fate::Aborted);
    assert_eq!(world.gateway.counters().ended(EndReason::ClientGone), 1);
    world.assert_empty();
}
