//! Sessions over the scripted shard: every answer of the protocol table, every deadline, every way
//! a session can end, and that nothing is left behind.

mod auth;
mod bind;
mod convert;
mod datagrams;
mod destinations;
mod fake;
mod handshakes;
mod http;
mod lifecycle;
mod names;
mod reload;
mod shards;
mod terms;
mod transparent;

use super::*;
use crate::config;
use core::time::Duration;
use fake::{FakeShard, Fate};

pub(crate) const CONFIG: &str = r#"
[driver]
kind = "tun"
[[port]]
name = "lte"
device = "lte"
addresses = ["10.1.0.1/24"]
[[port]]
name = "exit"
device = "exit"
addresses = ["10.9.0.1/24", "fd00:9::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[socks5]
listen = ["10.1.0.1:1080"]
[http]
listen = ["10.1.0.1:8080"]
[convert]
listen = ["10.1.0.1:1234"]
[egress]
allow = ["10.9.0.0/24", "fd00:9::/64"]
deny = ["203.0.113.0/24"]
[hosts]
"origin.example" = ["10.9.0.2"]
"three.example" = ["fd00:9::2", "192.168.0.1", "10.9.0.2"]
"private.example" = ["192.168.0.1", "127.0.0.1"]
"#;

/// CONNECT 10.9.0.2:80 without authentication, in one piece.
const REQUEST: &[u8] = b"\x05\x01\x00\x05\x01\x00\x01\x0a\x09\x00\x02\x00\x50";

/// A gateway on a scripted shard, and the time.
struct World {
    gateway: Gateway,
    shard: FakeShard,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[&str]) -> Self {
        Self::shards(1, settings).remove(0)
    }

    /// Shards of one gateway.
    fn shards(count: u32, settings: &[&str]) -> Vec<Self> {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let config = config::parse("test", CONFIG, &settings).unwrap();
        let common = Arc::new(Common::new(&config, &mut Rng::from_seed([3; 32])));
        let shard = |_| Self::beside(&config.share(count), Arc::clone(&common));
        (0..count).map(shard).collect()
    }

    fn beside(config: &Config, common: Arc<Common>) -> Self {
        let mut gateway = Gateway::beside(config, common, &mut Rng::from_seed([3; 32]));
        let mut shard = FakeShard::default();
        gateway.listen(&mut shard).unwrap();
        Self { gateway, shard, now: Instant::from_millis(1_000_000) }
    }

    /// Lets the gateway react to everything.
    fn run(&mut self) {
        self.gateway.handle_events(self.now, &mut self.shard);
        while self.gateway.handle_timeouts(self.now, &mut self.shard, 4) == Progress::More {}
        self.gateway.handle_events(self.now, &mut self.shard);
        assert!(self.gateway.poll_timeout().is_none_or(|next| next > self.now));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.run();
    }

    fn pass_s(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// A client that has connected.
    fn client(&mut self) -> SocketId {
        self.client_at(1080)
    }

    /// One that has connected to this port.
    fn client_at(&mut self, port: u16) -> SocketId {
        let id = self.shard.client("10.1.0.2:40312", port);
        self.run();
        id
    }

    /// A client that sends `bytes` in one piece.
    fn client_saying(&mut self, bytes: &[u8]) -> SocketId {
        let id = self.client();
        self.say(id, bytes);
        id
    }

    fn say(&mut self, id: SocketId, bytes: &[u8]) {
        self.shard.feed(id, bytes);
        self.run();
    }

    /// What the gateway said since last asked.
    fn heard(&mut self, id: SocketId) -> Vec<u8> {
        self.shard.sent(id)
    }

    /// A relaying session: the client's and the exit's socket.
    fn relaying(&mut self) -> (SocketId, SocketId) {
        let inner = self.client_saying(REQUEST);
        let (outer, _) = self.shard.last_exit();
        self.shard.establish(outer);
        self.run();
        assert_eq!(self.shard.relay_of(inner), Some(outer));
        (inner, outer)
    }

    fn fate(&self, id: SocketId) -> Option<Fate> {
        self.shard.fates.get(&id).copied()
    }

    /// One session ended, for `reason`, and nothing is left.
    fn assert_ended(&self, reason: EndReason) {
        let counters = self.gateway.counters();
        assert_eq!(counters.ended(reason), 1, "{reason:?}: {counters:?}");
        assert_eq!(counters.ended_total(), 1, "{counters:?}");
        self.assert_empty();
    }

    fn assert_empty(&self) {
        assert_eq!(self.gateway.session_count(), 0);
        assert_eq!(self.shard.held(), 0, "sockets are left");
        assert_eq!(self.gateway.common.clients().count(), 0, "clients are counted wrongly");
        assert_eq!(self.gateway.poll_timeout(), None, "deadlines are left");
    }
}

/// A failure reply.
fn failure(rep: u8) -> Vec<u8> {
    vec![5, rep, 0, 1, 0, 0, 0, 0, 0, 0]
}
