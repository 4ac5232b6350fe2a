//! Lookups under way: one question each, asked of one server at a time, by UDP from a port of its own,
//! and by TCP where UDP does not do.
//!
//! Invariant: a lookup has one socket, one timer, and at least one that waits for it; it ends with one
//! answer for all of these, `timeout` after it began at the latest.

use super::cache::{Cache, Key};
use super::message::{Asked, MAX_ALIASES, Verdict, to_name};
use super::{Answer, Family};
use crate::config::{Dns, HostName};
use crate::egress::Exits;
use crate::gateway::Common;
use crate::shard::Shard;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use hickory_proto::rr::Name;
use mptcp_core::error::RecvError;
use mptcp_core::rng::Rng;
use mptcp_core::stack::{Connect, Event, Ready, SocketId};
use mptcp_core::time::Instant;
use mptcp_core::udp::{SendTo, UdpOptions};
use mptcp_core::util::slab::Slab;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// How long a server may take before the next one is asked; doubled once all were.
const FIRST_TRY: Duration = Duration::from_secs(1);
/// Responses to somebody else's question after which TCP is used: someone guesses.
const MAX_STRAYS: u8 = 8;
/// Longest message by TCP, with its length in front.
const MAX_TCP_MESSAGE: usize = 2 + u16::MAX as usize;

/// What the resolver counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups answered from the cache.
    pub cached: u64,
    /// Lookups that joined one under way.
    pub joined: u64,
    /// Queries sent, by UDP and by TCP.
    pub queries: u64,
    /// Those of them by TCP.
    pub tcp_queries: u64,
    /// Servers that did not answer in time.
    pub timeouts: u64,
    /// Responses that answer another question.
    pub strays: u64,
    /// Lookups that no server answered.
    pub failures: u64,
    /// Lookups refused: too many under way, in all or of one client.
    pub refused: u64,
}

/// Of a name of Tor's, which no server of DNS knows: a query would only tell who wants to go there (RFC 7686 §2).
fn is_onion(last_label: &[u8]) -> bool {
    last_label.eq_ignore_ascii_case(b"onion")
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    session: u64,
    client: IpAddr,
}

/// How the question is being asked.
#[derive(Debug)]
enum Transport {
    /// Between two attempts.
    None,
    Udp(SocketId),
    Tcp {
        socket: SocketId,
        received: Vec<u8>,
    },
}

#[derive(Debug)]
struct Lookup {
    key: Key,
    /// The name that is asked for now, and how many aliases led to it.
    name: Name,
    aliases: u8,
    /// How long the aliases hold.
    ttl: Duration,
    asked: Option<Asked>,
    transport: Transport,
    /// Position of the server asked, and attempts made.
    server: usize,
    tries: u32,
    edns: bool,
    strays: u8,
    began: Instant,
    /// When the attempt, or the lookup, is given up.
    timer: Instant,
    waiters: Vec<Waiter>,
}

/// A server, and our address towards it.
#[derive(Clone, Copy, Debug)]
struct Server {
    local: IpAddr,
    remote: SocketAddr,
}

/// See [`super`].
pub struct Resolver {
    servers: Vec<Server>,
    /// The server that answered last.
    preferred: usize,
    timeout: Duration,
    cache: Cache,
    lookups: Slab<Lookup>,
    by_key: HashMap<Key, u32>,
    by_socket: HashMap<SocketId, u32>,
    timers: BTreeSet<(Instant, u32)>,
    /// Has what each client waits for, on all shards.
    common: Arc<Common>,
    answers: VecDeque<(u64, Key, Answer)>,
    counters: Counters,
    rng: Rng,
}

impl Resolver {
    /// `user_data` of its sockets; no session has it.
    pub const USER_DATA: u64 = u64::MAX;

    /// Asks the servers of `config`, from the addresses that `exits` has for them.
    #[must_use]
    pub fn new(config: &Dns, exits: &Exits, common: Arc<Common>, rng: &mut Rng) -> Self {
        let servers = config.servers.iter().filter_map(|&remote| {
            Some(Server { local: exits.local_address(remote.ip()).ok()?, remote })
        });
        Self {
            servers: servers.collect(),
            preferred: 0,
            timeout: config.timeout,
            cache: Cache::new(config.cache as usize),
            lookups: Slab::with_capacity(config.lookups),
            by_key: HashMap::new(),
            by_socket: HashMap::new(),
            timers: BTreeSet::new(),
            common,
            answers: VecDeque::new(),
            counters: Counters::default(),
            rng: rng.fork(),
        }
    }

    /// Whether there is a server to ask.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Looks `name` up for `session` of `client`: the answer if there is one now, `None` when
    /// [`Resolver::poll_answer`] will have it.
    pub fn lookup(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        name: &HostName,
        family: Family,
        session: u64,
        client: IpAddr,
    ) -> Option<Answer> {
        if name.as_str().rsplit('.').next().is_some_and(|last| is_onion(last.as_bytes())) {
            return Some(Answer::NoName);
        }
        let key = (name.clone(), family);
        if let Some(answer) = self.cache.get(now, &key) {
            self.counters.cached += 1;
            return Some(answer.clone());
        }
        if !self.common.lookups().enter(client) {
            self.counters.refused += 1;
            return Some(Answer::Failed);
        }
        let waiter = Waiter { session, client };
        if let Some(&idx) = self.by_key.get(&key)
            && let Some(lookup) = self.lookups.get_mut(idx)
        {
            lookup.waiters.push(waiter);
            self.counters.joined += 1;
            return None;
        }
        let Some(asked) = to_name(name).filter(|_| self.is_on()) else {
            self.common.lookups().leave(client);
            return Some(Answer::Failed);
        };
        let lookup = Lookup {
            key: key.clone(),
            name: asked,
            aliases: 0,
            ttl: Duration::MAX,
            asked: None,
            transport: Transport::None,
            server: self.preferred,
            tries: 0,
            edns: true,
            strays: 0,
            began: now,
            timer: Instant::MAX,
            waiters: vec![waiter],
        };
        let Some(idx) = self.lookups.insert(lookup) else {
            self.common.lookups().leave(client);
            self.counters.refused += 1;
            return Some(Answer::Failed);
        };
        self.by_key.insert(key, idx);
        self.ask(now, shard, idx);
        None
    }

    /// The next answer to a lookup: the session that waits for it, and what it asked for.
    pub fn poll_answer(&mut self) -> Option<(u64, (HostName, Family), Answer)> {
        self.answers.pop_front()
    }

    /// Handles an event of a socket of the resolver's.
    pub fn handle_event(&mut self, now: Instant, shard: &mut impl Shard, event: &Event) {
        let Some(&idx) = self.by_socket.get(&event.socket) else { return };
        let is_udp = self
            .lookups
            .get(idx)
            .is_some_and(|lookup| matches!(lookup.transport, Transport::Udp(_)));
        if is_udp {
            self.handle_datagrams(now, shard, idx, event);
        } else {
            self.handle_stream(now, shard, idx, event);
        }
    }

    /// Acts on at most `budget` timers that have run out.
    pub fn handle_timeouts(&mut self, now: Instant, shard: &mut impl Shard, budget: usize) {
        for _ in 0..budget {
            let Some(&(at, idx)) = self.timers.first() else { return };
            if at > now {
                return;
            }
            self.counters.timeouts += 1;
            self.ask_next(now, shard, idx);
        }
    }

    /// When [`Resolver::handle_timeouts`] next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Answers kept now.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Lookups under way now.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.lookups.len()
    }

    /// Asks the lookup's server by UDP.
    fn ask(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        let Some(server) = self.servers.get(lookup.server % self.servers.len().max(1)) else {
            return self.finish(now, shard, idx, Answer::Failed, None);
        };
        let asked = Asked::new(&lookup.name, lookup.key.1, lookup.edns, &mut self.rng);
        let options = UdpOptions {
            remote: Some(server.remote),
            recv_datagrams: 4,
            recv_bytes: 64 << 10,
            send_datagrams: 1,
            send_bytes: 64 << 10,
            user_data: Self::USER_DATA,
        };
        lookup.strays = 0;
        let sent = asked.to_vec().and_then(|query| {
            // A port of its own for each query, drawn at random (RFC 5452 §9.2).
            let socket = shard.udp_bind(SocketAddr::new(server.local, 0), &options).ok()?;
            if shard.udp_send_to(socket, &query, &SendTo::peer()).is_err() {
                shard.close(now, socket);
                return None;
            }
            Some(socket)
        });
        lookup.asked = Some(asked);
        if let Some(socket) = sent {
            self.counters.queries += 1;
            lookup.transport = Transport::Udp(socket);
            self.by_socket.insert(socket, idx);
        }
        self.arm(now, idx);
    }

    /// Asks the same server by TCP (RFC 7766).
    fn ask_by_tcp(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        self.hang_up(now, shard, idx);
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        let Some(server) = self.servers.get(lookup.server % self.servers.len().max(1)) else {
            return;
        };
        let with = Connect {
            local: server.local,
            local_port: 0,
            remote: server.remote,
            mptcp: false,
            timeout: Some(self.timeout),
            user_data: Self::USER_DATA,
        };
        let Ok(socket) = shard.connect(now, &with) else {
            return self.ask_next(now, shard, idx);
        };
        self.counters.queries += 1;
        self.counters.tcp_queries += 1;
        lookup.transport = Transport::Tcp { socket, received: Vec::new() };
        self.by_socket.insert(socket, idx);
        self.arm(now, idx);
    }

    /// The server did not answer, or has no answer: another one, unless the time is over.
    fn ask_next(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        self.hang_up(now, shard, idx);
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        lookup.server += 1;
        lookup.tries += 1;
        let every = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let over =
            now.since(lookup.began) >= self.timeout || lookup.tries >= every.saturating_mul(3);
        if over {
            return self.finish(now, shard, idx, Answer::Failed, None);
        }
        self.ask(now, shard, idx);
    }

    /// The attempt has so long.
    fn arm(&mut self, now: Instant, idx: u32) {
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        let rounds = lookup.tries / u32::try_from(self.servers.len()).unwrap_or(1).max(1);
        let at = (now + FIRST_TRY * (1 << rounds.min(4))).min(lookup.began + self.timeout);
        self.timers.remove(&(lookup.timer, idx));
        lookup.timer = at;
        self.timers.insert((at, idx));
    }

    /// Gives up the socket of the attempt.
    fn hang_up(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        match core::mem::replace(&mut lookup.transport, Transport::None) {
            Transport::None => {}
            Transport::Udp(socket) => {
                self.by_socket.remove(&socket);
                shard.close(now, socket);
            }
            Transport::Tcp { socket, .. } => {
                self.by_socket.remove(&socket);
                shard.abort(now, socket);
            }
        }
    }

    fn handle_datagrams(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, event: &Event) {
        let mut bytes = [0; 2048];
        while let Some(lookup) = self.lookups.get_mut(idx)
            && let Transport::Udp(socket) = lookup.transport
            && socket == event.socket
            && let Ok(received) = shard.udp_recv_from(socket, &mut bytes)
        {
            let Some(asked) = &lookup.asked else { return };
            let verdict = match bytes.get(..received.len) {
                Some(bytes) => asked.judge(bytes),
                // Longer than what was offered.
                None => Verdict::Truncated,
            };
            if verdict == Verdict::Stray {
                self.counters.strays += 1;
                lookup.strays += 1;
                if lookup.strays < MAX_STRAYS {
                    continue;
                }
                return self.ask_by_tcp(now, shard, idx);
            }
            return self.act(now, shard, idx, verdict);
        }
        if event.ready.contains(Ready::ERROR) && shard.udp_error(event.socket).is_some() {
            // Nobody is there, as far as ICMP can be believed: another server costs nothing.
            self.ask_next(now, shard, idx);
        }
    }

    fn handle_stream(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, event: &Event) {
        let Some(lookup) = self.lookups.get_mut(idx) else { return };
        let Transport::Tcp { socket, received } = &mut lookup.transport else { return };
        let (socket, asked) = (*socket, lookup.asked.as_ref());
        if event.ready.contains(Ready::CONNECTED)
            && let Some(query) = asked.and_then(Asked::to_vec)
        {
            let len = u16::try_from(query.len()).unwrap_or(0);
            let framed = [&len.to_be_bytes()[..], &query].concat();
            if shard.send(now, socket, &framed) != Ok(framed.len()) {
                return self.ask_next(now, shard, idx);
            }
        }
        let mut bytes = [0; 2048];
        let ended = loop {
            match shard.recv(now, socket, &mut bytes) {
                Ok(0) => break true,
                Ok(count) => received.extend(bytes.iter().take(count)),
                Err(RecvError::WouldBlock) => break false,
                Err(_) => break true,
            }
            if received.len() > MAX_TCP_MESSAGE {
                break true;
            }
        };
        let message = received
            .split_first_chunk::<2>()
            .and_then(|(len, rest)| rest.get(..usize::from(u16::from_be_bytes(*len))));
        let verdict = message.zip(asked).map(|(message, asked)| asked.judge_stream(message));
        if event.ready.contains(Ready::CLOSED) {
            lookup.transport = Transport::None;
            self.by_socket.remove(&socket);
            shard.release(socket);
        }
        match verdict {
            // By TCP it comes from the server itself.
            Some(Verdict::Stray | Verdict::Truncated | Verdict::CaseDiffers) => {
                self.ask_next(now, shard, idx);
            }
            Some(verdict) => self.act(now, shard, idx, verdict),
            None if ended || event.ready.contains(Ready::CLOSED) => {
                self.ask_next(now, shard, idx);
            }
            None => {}
        }
    }

    /// Acts on what a server said.
    fn act(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, verdict: Verdict) {
        match verdict {
            Verdict::Stray => {}
            Verdict::CaseDiffers | Verdict::Truncated => self.ask_by_tcp(now, shard, idx),
            Verdict::WithoutEdns => {
                self.hang_up(now, shard, idx);
                if let Some(lookup) = self.lookups.get_mut(idx) {
                    lookup.edns = false;
                }
                self.ask(now, shard, idx);
            }
            Verdict::ServerFailed => self.ask_next(now, shard, idx),
            Verdict::Answer(answer, ttl) => {
                if let Some(lookup) = self.lookups.get(idx) {
                    self.preferred = lookup.server % self.servers.len().max(1);
                }
                self.finish(now, shard, idx, answer, ttl);
            }
            Verdict::Alias(name, ttl) => {
                self.hang_up(now, shard, idx);
                let Some(lookup) = self.lookups.get_mut(idx) else { return };
                lookup.aliases += 1;
                if lookup.aliases > MAX_ALIASES {
                    return self.finish(now, shard, idx, Answer::Failed, None);
                }
                if name.iter().next_back().is_some_and(is_onion) {
                    return self.finish(now, shard, idx, Answer::NoName, Some(ttl));
                }
                lookup.ttl = lookup.ttl.min(ttl);
                lookup.name = name;
                self.ask(now, shard, idx);
            }
        }
    }

    /// Keeps the answer and hands it to everybody who waits.
    fn finish(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        answer: Answer,
        ttl: Option<Duration>,
    ) {
        self.hang_up(now, shard, idx);
        let Some(lookup) = self.lookups.remove(idx) else { return };
        self.timers.remove(&(lookup.timer, idx));
        self.by_key.remove(&lookup.key);
        for waiter in &lookup.waiters {
            self.common.lookups().leave(waiter.client);
            self.answers.push_back((waiter.session, lookup.key.clone(), answer.clone()));
        }
        if answer == Answer::Failed {
            self.counters.failures += 1;
            self.cache.fail(now, lookup.key);
        } else {
            let ttl = ttl.unwrap_or(Duration::ZERO).min(lookup.ttl);
            self.cache.insert(now, lookup.key, answer, ttl);
        }
    }
}
