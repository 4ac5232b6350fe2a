//! SOCKS5 clients that wait for a connection: peers from anywhere reach the shard that waits.

use super::cores::{Rss, Spread};
use super::shards::syn;
use super::world::World;
use crate::gateway::EndReason;
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::{Connect, SocketId};
use mptcp_core::wire::OptionWriter;

/// As many ports as leave no shard without.
const SETTINGS: [&str; 3] = ["bind.waiting=200", "bind.per_client=100", "bind.ports='61000-61255'"];

const SERVER: [u8; 4] = [10, 9, 0, 2];

struct Run {
    world: World,
}

impl Run {
    fn new(seed: u8, spread: Spread) -> Self {
        Self { world: World::spread(seed, 0, &SETTINGS, spread) }
    }

    /// A client that asks to be connected from `peer`.
    fn ask(&mut self, mptcp: bool, peer: [u8; 4]) -> SocketId {
        let with = Connect {
            local: "10.1.0.2".parse().unwrap(),
            local_port: 0,
            remote: "10.1.0.1:1080".parse().unwrap(),
            mptcp,
            timeout: None,
            user_data: 0,
        };
        let now = self.world.now;
        let stack = &mut self.world.phone.worker.stack;
        let id = stack.connect(now, &with).unwrap();
        let asks = [&b"\x05\x01\x00\x05\x02\x00\x01"[..], &peer, &[0, 0]].concat();
        assert_eq!(stack.send(now, id, &asks), Ok(asks.len()));
        id
    }

    /// The next octets a client hears.
    fn hear<const N: usize>(&mut self, id: SocketId) -> [u8; N] {
        let mut heard = Vec::new();
        for _ in 0..2_000 {
            let mut bytes = [0; N];
            let now = self.world.now;
            let stack = &mut self.world.phone.worker.stack;
            if let Ok(count) = stack.recv(now, id, &mut bytes[..N - heard.len()]) {
                heard.extend(&bytes[..count]);
            }
            if heard.len() == N {
                return heard.try_into().unwrap();
            }
            self.world.run(Duration::from_millis(5));
        }
        panic!("only {heard:?}");
    }

    /// Where a client is told to wait for its peer.
    fn told(&mut self, id: SocketId) -> SocketAddr {
        let heard: [u8; 12] = self.hear(id);
        assert_eq!(heard[..6], [5, 0, 5, 0, 0, 1]);
        bound(&heard[2..])
    }

    /// The server connects there from a port of its own.
    fn call(&mut self, to: SocketAddr) -> SocketId {
        let with = Connect {
            local: SERVER.into(),
            local_port: 0,
            remote: to,
            mptcp: true,
            timeout: None,
            user_data: 0,
        };
        self.world.server.worker.stack.connect(self.world.now, &with).unwrap()
    }

    /// The server says this on a connection of its own, and finishes.
    fn say(&mut self, id: SocketId, text: &[u8]) {
        let now = self.world.now;
        let stack = &mut self.world.server.worker.stack;
        assert_eq!(stack.send(now, id, text), Ok(text.len()));
        stack.shutdown_write(now, id);
    }
}

fn bound(reply: &[u8]) -> SocketAddr {
    let [_, _, _, _, a, b, c, d, high, low] = reply[..] else { panic!("{reply:?}") };
    SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
}

/// Ports are picked so that whoever comes is heard where the session is, however packets are spread.
#[test]
fn every_client_meets_its_peer_on_one_shard_and_on_several() {
    for spread in [
        Spread::over(1, Rss::Home),
        Spread::over(4, Rss::Home),
        Spread::over(4, Rss::Other),
        Spread::over(3, Rss::Scattered),
    ] {
        let mut run = Run::new(51, spread);
        let clients: Vec<SocketId> =
            (0..40).map(|n| run.ask(n % 2 == 0, if n % 4 < 2 { SERVER } else { [0; 4] })).collect();
        let told: Vec<SocketAddr> = clients.iter().map(|id| run.told(*id)).collect();
        let mut ports: Vec<u16> = told.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() == 40 && ports.iter().all(|port| (61_000..61_256).contains(port)));
        for (n, (client, to)) in clients.iter().zip(told).enumerate() {
            let peer = run.call(to);
            let reply: [u8; 10] = run.hear(*client);
            let from = run.world.server.worker.stack.info(peer).unwrap().local;
            assert_eq!((reply[..4].to_vec(), bound(&reply)), (vec![5, 0, 0, 1], from), "{n}");
            run.say(peer, format!("peer {n:02}").as_bytes());
            let heard: [u8; 7] = run.hear(*client);
            assert_eq!(heard, format!("peer {n:02}").as_bytes());
            let now = run.world.now;
            let stack = &mut run.world.phone.worker.stack;
            assert_eq!(stack.send(now, *client, b"hello"), Ok(5));
            stack.close(now, *client);
            run.world.run(Duration::from_millis(200));
            let mut heard = [0; 8];
            let now = run.world.now;
            assert_eq!(run.world.server.worker.stack.recv(now, peer, &mut heard), Ok(5), "{n}");
            run.world.server.worker.stack.close(now, peer);
        }
        let counters = run.world.counters_of_all();
        assert!(counters.iter().all(|shard| shard.gateway.sessions_established > 2), "{spread:?}");
        run.world.assert_gateway_empty();
    }
}

/// From anybody but the peer that was named, a SYN is a SYN to nobody; the peer comes in the end.
#[test]
fn others_are_refused_and_the_peer_is_not() {
    for spread in [Spread::over(1, Rss::Home), Spread::over(4, Rss::Other)] {
        let mut run = Run::new(52, spread);
        // The referee does not see the forged SYN that it answers.
        let gateway = run.world.gateway.cores[0].host.node;
        run.world.net.referee_mut().expect("every world has one").exempt(gateway);
        let client = run.ask(true, [10, 9, 0, 9]);
        let other = run.ask(true, SERVER);
        let (to, elsewhere) = (run.told(client), run.told(other));
        let stranger = run.call(to);
        run.world.run(Duration::from_secs(1));
        let error = run.world.server.worker.stack.error(stranger);
        assert_eq!(error, Some(ConnectionError::Refused));
        run.world.server.worker.stack.release(stranger);
        // Forged by a stranger: the handshake does not end, and takes nobody's place.
        let forged = syn(SocketAddr::from((SERVER, 9)), elsewhere, 7, &OptionWriter::new());
        run.world.gateway.arrive(run.world.now, &forged, PortId(2));
        let peer = run.call(elsewhere);
        let reply: [u8; 10] = run.hear(other);
        assert_eq!(bound(&reply), run.world.server.worker.stack.info(peer).unwrap().local);
        // One connection, and no second one.
        let late = run.call(elsewhere);
        run.world.run(Duration::from_secs(1));
        let error = run.world.server.worker.stack.error(late);
        assert_eq!(error, Some(ConnectionError::Refused));
        let now = run.world.now;
        let server = &mut run.world.server.worker.stack;
        server.release(late);
        server.abort(now, peer);
        run.world.phone.worker.stack.abort(now, client);
        run.world.phone.worker.stack.abort(now, other);
        run.world.assert_gateway_empty();
    }
}

#[test]
fn who_waits_in_vain_is_told_and_leaves_nothing() {
    let mut run = Run::new(53, Spread::over(4, Rss::Home));
    let client = run.ask(true, SERVER);
    let to = run.told(client);
    run.world.run(Duration::from_secs(121));
    let reply: [u8; 10] = run.hear(client);
    assert_eq!(reply, [5, 4, 0, 1, 0, 0, 0, 0, 0, 0]);
    let late = run.call(to);
    run.world.run(Duration::from_secs(1));
    assert_eq!(run.world.server.worker.stack.error(late), Some(ConnectionError::Refused));
    let now = run.world.now;
    run.world.server.worker.stack.release(late);
    run.world.phone.worker.stack.close(now, client);
    run.world.run(Duration::from_secs(1));
    let ended: u64 = run
        .world
        .counters_of_all()
        .iter()
        .map(|shard| shard.gateway.ended(EndReason::BindTimedOut))
        .sum();
    assert_eq!(ended, 1);
    run.world.assert_gateway_empty();
}
