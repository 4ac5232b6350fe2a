//! Streams with known contents in both directions, and their judges.

use crate::world::{Host, World};
use mptcp_core::error::{ConnectionError, RecvError, SendError};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::time::{Duration, Instant};
use netsim::Direction;
use std::collections::BTreeMap;

/// Octets read or written at once.
const CHUNK: usize = 8192;

/// Octet `offset` of the stream `key`.
pub(crate) fn octet(key: u64, offset: u64) -> u8 {
    let word = (offset / 8).wrapping_add(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> (8 * (offset % 8))) as u8 ^ (word >> 56) as u8
}

/// The octets of the stream `key` from `offset` on, word by word.
pub(crate) fn fill(key: u64, offset: u64, into: &mut [u8]) {
    let word = |at: u64| {
        let word = (at / 8).wrapping_add(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (word ^ ((word >> 56) * 0x0101_0101_0101_0101)).to_le_bytes()
    };
    let skip = (offset % 8) as usize;
    let (head, rest) = into.split_at_mut(((8 - skip) % 8).min(into.len()));
    head.copy_from_slice(&word(offset)[skip..][..head.len()]);
    let mut at = offset + head.len() as u64;
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&word(at)[..chunk.len()]);
        at += 8;
    }
}

/// One end of a transfer.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) id: SocketId,
    pub(crate) send: u64,
    pub(crate) sent: u64,
    pub(crate) send_key: u64,
    /// Octets that the stack did not take yet: its buffer is full more often than not.
    next: Vec<u8>,
    pub(crate) expect: u64,
    pub(crate) received: u64,
    pub(crate) recv_key: u64,
    pub(crate) eof: bool,
    pub(crate) shut: bool,
    pub(crate) connected: bool,
    pub(crate) closed: bool,
    /// Sends back what arrives.
    echo: Option<Vec<u8>>,
    pub(crate) failed: Option<String>,
}

impl End {
    pub(crate) fn new(id: SocketId, send: u64, send_key: u64, expect: u64, recv_key: u64) -> Self {
        Self {
            id,
            send,
            sent: 0,
            send_key,
            next: Vec::new(),
            expect,
            received: 0,
            recv_key,
            eof: false,
            shut: false,
            connected: false,
            closed: false,
            echo: None,
            failed: None,
        }
    }

    /// An end that sends back what arrives, to its end.
    pub(crate) fn echo(id: SocketId, key: u64) -> Self {
        Self { echo: Some(Vec::new()), ..Self::new(id, 0, key, 0, key) }
    }

    fn work_echo(&mut self, host: &mut Host, now: Instant, mut held: Vec<u8>) {
        let mut chunk = [0; 8192];
        while !self.eof && held.len() < 65_536 {
            match host.stack.recv(now, self.id, &mut chunk) {
                Ok(0) => self.eof = true,
                Ok(n) => held.extend_from_slice(&chunk[..n]),
                Err(RecvError::WouldBlock) => break,
                Err(error) => self.failed = Some(format!("echo recv: {error:?}")),
            }
            if self.failed.is_some() {
                return;
            }
        }
        while !held.is_empty() {
            match host.stack.send(now, self.id, &held) {
                Ok(n) => drop(held.drain(..n)),
                Err(SendError::WouldBlock) => break,
                Err(error) => {
                    self.failed = Some(format!("echo send: {error:?}"));
                    return;
                }
            }
        }
        if self.eof && held.is_empty() && !self.shut {
            self.shut = true;
            host.stack.shutdown_write(now, self.id);
        }
        self.echo = Some(held);
    }

    /// Writes and reads as much as is possible now.
    pub(crate) fn work(&mut self, host: &mut Host, now: Instant) {
        self.work_for(host, now, u64::MAX);
    }

    /// Writes as much as is possible now and reads at most `most` octets.
    pub(crate) fn work_for(&mut self, host: &mut Host, now: Instant, most: u64) {
        if self.failed.is_some() {
            return;
        }
        if let Some(held) = self.echo.take() {
            return self.work_echo(host, now, held);
        }
        while self.sent < self.send {
            let want = (self.send - self.sent).min(CHUNK as u64) as usize;
            if self.next.len() < want {
                self.next.resize(want, 0);
                fill(self.send_key, self.sent, &mut self.next);
            }
            match host.stack.send(now, self.id, &self.next[..want]) {
                Ok(n) => {
                    self.sent += n as u64;
                    self.next.clear();
                }
                Err(SendError::WouldBlock) => break,
                Err(error) => {
                    self.failed = Some(format!("send at {}: {error:?}", self.sent));
                    return;
                }
            }
        }
        if self.sent == self.send && !self.shut {
            self.shut = true;
            host.stack.shutdown_write(now, self.id);
        }
        let (mut chunk, mut expected) = ([0; CHUNK], [0; CHUNK]);
        let limit = self.received.saturating_add(most);
        while !self.eof && self.received < limit {
            let room = (limit - self.received).min(chunk.len() as u64) as usize;
            match host.stack.recv(now, self.id, &mut chunk[..room]) {
                Ok(0) => self.eof = true,
                Ok(n) => {
                    fill(self.recv_key, self.received, &mut expected[..n]);
                    let differs = chunk[..n].iter().zip(&expected).position(|(a, b)| a != b);
                    let at = differs.map(|at| self.received + at as u64);
                    assert_eq!(at, None, "an octet differs");
                    self.received += n as u64;
                }
                Err(RecvError::WouldBlock) => break,
                Err(error) => {
                    self.failed = Some(format!("recv at {}: {error:?}", self.received));
                    return;
                }
            }
        }
    }

    pub(crate) fn done(&self) -> bool {
        self.eof && self.shut && self.received == self.expect
    }
}

/// When the client had how many octets: too many to be printed with a failure.
pub(crate) struct Deliveries(pub(crate) Vec<(Duration, u64)>);

impl core::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} deliveries", self.0.len())
    }
}

/// What both ends counted: too much to be printed with a failure.
pub(crate) struct Moved(pub(crate) BTreeMap<&'static str, u64>);

impl Moved {
    fn of(world: &World) -> Self {
        let mut all = BTreeMap::new();
        for host in [&world.client, &world.server] {
            let counters = host.stack.counters();
            let reasons = mptcp_core::stats::DropReason::ALL.iter();
            let drops = reasons.map(|reason| (reason.name(), counters.dropped(*reason)));
            for (name, count) in counters.iter().chain(drops) {
                *all.entry(name).or_default() += count;
            }
        }
        Self(all)
    }
}

impl core::fmt::Debug for Moved {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} counters", self.0.len())
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) took: Duration,
    pub(crate) client_bytes_by_path: Vec<u64>,
    pub(crate) server_bytes_by_path: Vec<u64>,
    /// Longest time without delivery at the client while it was receiving.
    pub(crate) longest_gap: Duration,
    /// Octets the client had received, whenever there were more of them.
    pub(crate) deliveries: Deliveries,
    /// MPTCP version and reason of a fallback, at the client and at the server.
    pub(crate) ends: [(Option<u8>, Option<FallbackReason>); 2],
    /// Why the connection ended, at the client and at the server, when it was not in order.
    pub(crate) errors: [Option<ConnectionError>; 2],
    /// Octets that were offered to the links, both ways.
    pub(crate) carried: u64,
    pub(crate) moved: Moved,
}

impl Report {
    /// Why the connection is plain TCP, if either end says so.
    pub(crate) fn fallback(&self) -> Option<FallbackReason> {
        self.ends.iter().find_map(|(_, reason)| *reason)
    }
}

/// Both directions of one connection from start to empty tables.
pub(crate) fn run(world: &mut World, mptcp: bool, up: u64, down: u64, limit: Duration) -> Report {
    run_with(world, mptcp, up, down, limit, |_| {})
}

/// The same with a hook that runs once per turn.
pub(crate) fn run_with(
    world: &mut World,
    mptcp: bool,
    up: u64,
    down: u64,
    limit: Duration,
    mut hook: impl FnMut(&mut World),
) -> Report {
    let listener = world.listen(mptcp);
    let start = world.now;
    let deadline = start + limit;
    let early = world.early.map_or(0, |most| most.min(up));
    let early: Vec<u8> = (0..early).map(|at| octet(11, at)).collect();
    let id = world.connect_with(mptcp, &early);
    let mut client = End { sent: early.len() as u64, ..End::new(id, up, 11, down, 22) };
    let mut server: Option<End> = None;
    let mut connected = false;
    // Whether the client and the server have something to do.
    let mut due = [true; 2];
    let mut last_delivery = start;
    let mut longest_gap = Duration::ZERO;
    let mut deliveries = Vec::new();
    let mut by_path = (Vec::new(), Vec::new());
    loop {
        world.turn();
        hook(world);
        while let Some(event) = world.client.stack.poll_event() {
            due[0] = true;
            connected |= event.ready.contains(Ready::CONNECTED);
            client.closed |= event.ready.contains(Ready::CLOSED);
        }
        while let Some(event) = world.server.stack.poll_event() {
            if let Some(end) = server.as_mut().filter(|end| end.id == event.socket) {
                due[1] = true;
                end.closed |= event.ready.contains(Ready::CLOSED);
            }
        }
        if server.is_none()
            && let Some(id) = world.server.stack.accept(listener)
        {
            // What it has read of its peer by now it need not be told.
            due[1] = true;
            server = Some(End::new(id, down, 22, up, 11));
        }
        let now = world.now;
        let always = !world.by_events;
        if connected && (core::mem::take(&mut due[0]) || always) {
            let before = client.received;
            client.work(&mut world.client, now);
            if client.received > before {
                if before > 0 {
                    longest_gap = longest_gap.max(now.since(last_delivery));
                }
                last_delivery = now;
                deliveries.push((now.since(start), client.received));
            }
        }
        if let Some(end) = &mut server
            && (core::mem::take(&mut due[1]) || always)
        {
            end.work(&mut world.server, now);
        }
        world.flush();
        let failed =
            client.failed.clone().or_else(|| server.as_ref().and_then(|s| s.failed.clone()));
        assert!(
            failed.is_none(),
            "{failed:?} at {now:?}\n{:?}",
            world.client.stack.info(client.id)
        );
        if let Some(info) = world.client.stack.info(client.id)
            && !info.subflows.is_empty()
        {
            by_path.0 = info.subflows.iter().map(|s| s.bytes_sent).collect();
        }
        if let Some(end) = &server
            && let Some(info) = world.server.stack.info(end.id)
            && !info.subflows.is_empty()
        {
            by_path.1 = info.subflows.iter().map(|s| s.bytes_sent).collect();
        }
        let done = client.done() && server.as_ref().is_some_and(End::done);
        if done && client.closed && server.as_ref().is_some_and(|s| s.closed) {
            break;
        }
        if !world.advance(deadline) {
            stuck(world, &client, server.as_ref());
        }
    }
    let took = world.now.since(start);
    let server = server.expect("the harness is sound");
    let infos = [(&world.client, client.id), (&world.server, server.id)]
        .map(|(host, id)| host.stack.info(id).expect("not released yet"));
    let errors = infos.each_ref().map(|info| info.error);
    let ends = infos.map(|info| (info.mptcp, info.fallback));
    world.client.stack.release(client.id);
    world.server.stack.release(server.id);
    settle(world);
    world.server.stack.close_listener(world.now, listener);
    let links = world.paths.iter().flat_map(|path| {
        let both = [Direction::AtoB, Direction::BtoA];
        both.map(|dir| world.net.link(*path, dir).counters().pushed_bytes)
    });
    let carried: u64 = links.sum();
    Report {
        took,
        client_bytes_by_path: by_path.0,
        server_bytes_by_path: by_path.1,
        longest_gap,
        deliveries: Deliveries(deliveries),
        ends,
        errors,
        carried,
        moved: Moved::of(world),
    }
}

/// What both ends know of a transfer that nothing moves any more.
fn stuck(world: &World, client: &End, server: Option<&End>) -> ! {
    for (name, host) in [("client", &world.client), ("server", &world.server)] {
        let counters = host.stack.counters();
        let drops = mptcp_core::stats::DropReason::ALL.iter();
        let drops: Vec<_> =
            drops.map(|r| (r.name(), counters.dropped(*r))).filter(|(_, n)| *n > 0).collect();
        let events: Vec<_> = counters.iter().filter(|(_, n)| *n > 0).collect();
        eprintln!("{name}: {drops:?}\n{events:?}");
    }
    panic!(
        "stuck at {:?}: client {}/{} sent {}/{} received eof {} closed {}; server {:?}\n{:#?}\n{:#?}",
        world.now,
        client.sent,
        client.send,
        client.received,
        client.expect,
        client.eof,
        client.closed,
        server.map(|s| (s.sent, s.received, s.eof, s.closed)),
        world.client.stack.info(client.id),
        server.and_then(|s| world.server.stack.info(s.id)),
    );
}

/// Lets everything that still has a timer run out.
pub(crate) fn settle(world: &mut World) {
    let limit = world.now + Duration::from_secs(2000);
    loop {
        world.turn();
        while world.client.stack.poll_event().is_some() {}
        while world.server.stack.poll_event().is_some() {}
        if !world.advance(limit) {
            break;
        }
    }
}

#[test]
fn a_stream_is_the_same_by_octets_and_by_words() {
    for (offset, len) in [(0, 40), (3, 2), (5, 30), (1 << 40, 9), (7, 1), (8, 0)] {
        let mut into = vec![0; len];
        fill(77, offset, &mut into);
        let octets: Vec<u8> = (offset..offset + len as u64).map(|at| octet(77, at)).collect();
        assert_eq!(into, octets, "{offset} {len}");
    }
}
