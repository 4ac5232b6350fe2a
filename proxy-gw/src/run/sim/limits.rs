//! What one client may have, whichever shards its connections lead to.

use super::cores::{Rss, Spread};
use super::world::World;
use core::time::Duration;
use mptcp_core::stack::{Connect, SocketId};

/// What the phone asks for, and what it hears: the code of the first reply.
struct Ask {
    id: SocketId,
    said: bool,
    heard: Vec<u8>,
}

impl Ask {
    fn rep(&self) -> Option<u8> {
        self.heard.get(3).copied()
    }
}

/// `count` clients of one phone ask for `command` (RFC 1928 §4), and hear what becomes of it.
fn ask(world: &mut World, old: bool, command: u8, count: usize) -> Vec<Ask> {
    let request = [&[5, 1, 0, 5, command, 0, 1][..], &[10, 9, 0, 2, 0, 0]].concat();
    let mut asks = Vec::new();
    for n in 0..count {
        let with = Connect {
            local: if old { "10.1.0.3" } else { "10.1.0.2" }.parse().unwrap(),
            local_port: 0,
            remote: "10.1.0.1:1080".parse().unwrap(),
            mptcp: n % 2 == 0,
            timeout: None,
            user_data: 0,
        };
        let now = world.now;
        let phone = if old { &mut world.old_phone } else { &mut world.phone };
        let id = phone.worker.stack.connect(now, &with).unwrap();
        asks.push(Ask { id, said: false, heard: Vec::new() });
    }
    for _ in 0..40 {
        world.run(Duration::from_millis(50));
        let now = world.now;
        let phone = if old { &mut world.old_phone } else { &mut world.phone };
        for one in &mut asks {
            if !one.said {
                one.said = phone.worker.stack.send(now, one.id, &request) == Ok(request.len());
            }
            let mut bytes = [0; 64];
            if let Ok(len) = phone.worker.stack.recv(now, one.id, &mut bytes) {
                one.heard.extend(&bytes[..len]);
            }
        }
    }
    assert!(asks.iter().all(|one| one.rep().is_some()), "somebody has heard nothing");
    asks
}

fn served(asks: &[Ask]) -> Vec<SocketId> {
    asks.iter().filter(|one| one.rep() == Some(0)).map(|one| one.id).collect()
}

#[test]
fn a_client_has_so_much_on_all_shards_together() {
    let settings =
        ["udp.per_client=10", "bind.waiting=200", "bind.per_client=10", "bind.ports='61000-61255'"];
    for command in [2, 3] {
        let mut world = World::spread(61, 0, &settings, Spread::over(4, Rss::Home));
        let first = served(&ask(&mut world, false, command, 60));
        assert_eq!(first.len(), 10, "command {command}");
        let accepted = world.counters_of_all();
        let accepted: Vec<u64> =
            accepted.iter().map(|shard| shard.gateway.sessions_accepted).collect();
        assert!(accepted.iter().all(|count| *count > 5), "all shards are asked: {accepted:?}");
        // Somebody else's is another matter.
        let other = served(&ask(&mut world, true, command, 60));
        assert_eq!(other.len(), 10, "command {command}");
        // What is given up may be had again, wherever it was and is.
        let now = world.now;
        for id in &first[..4] {
            world.phone.worker.stack.abort(now, *id);
        }
        world.run(Duration::from_secs(1));
        let again = served(&ask(&mut world, false, command, 60));
        assert_eq!(again.len(), 4, "command {command}");
        let now = world.now;
        let all = first[4..].iter().chain(&again).map(|id| (false, *id));
        for (old, id) in all.chain(other.iter().map(|id| (true, *id))) {
            let phone = if old { &mut world.old_phone } else { &mut world.phone };
            phone.worker.stack.abort(now, id);
        }
        world.assert_gateway_empty();
    }
}
