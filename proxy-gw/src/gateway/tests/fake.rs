//! A scripted shard: the test plays both peers, the double checks that the gateway keeps the rules.
//!
//! Using an id that was given up, or giving one up twice, panics.

use crate::shard::Shard;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::PortId;
use mptcp_core::config::{EphemeralPorts, Scheduling};
use mptcp_core::error::{ConnectionError, OpenError, RecvError, RelayError, SendError};
use mptcp_core::stack::{
    Connect, ConnectionInfo, Event, Listen, Ready, RelayCaps, SocketId, SubflowInfo, SynAnswer,
};
use mptcp_core::tcp::{State, SynTerms, TcpInfo};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::udp::{Received, SendTo, UdpError, UdpOptions, UdpSendError};
use mptcp_core::wire::IcmpErrorKind;
use std::collections::{BTreeMap, VecDeque};

/// How a socket left the gateway's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Closed,
    Aborted,
    Released,
}

#[derive(Debug)]
struct FakeSocket {
    local: SocketAddr,
    remote: SocketAddr,
    user_data: u64,
    received: VecDeque<u8>,
    read_closed: bool,
    sent: Vec<u8>,
    write_shut: bool,
    /// A send took nothing: room is reported, once.
    write_armed: bool,
    closed: bool,
    error: Option<ConnectionError>,
    relay: Option<SocketId>,
    pending: Ready,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    icmp: Option<IcmpErrorKind>,
    /// Where subflows come from; empty: plain TCP.
    paths: Vec<SocketAddr>,
    /// Datagrams sent, and where to.
    datagrams_sent: Vec<(SocketAddr, Vec<u8>)>,
    bytes_sent: u64,
    bytes_received: u64,
}

/// A SYN that nothing has answered.
#[derive(Debug)]
struct FakeRequest {
    remote: SocketAddr,
    local: SocketAddr,
    port: PortId,
    text: Vec<u8>,
    user_data: u64,
    pending: Ready,
}

/// See the module.
#[derive(Default)]
pub(super) struct FakeShard {
    requests: BTreeMap<SocketId, FakeRequest>,
    /// Requests that went away before they were decided about.
    gone: VecDeque<Event>,
    /// The connections that requests became.
    pub(super) opened: BTreeMap<SocketId, SocketId>,
    pub(super) refused: Vec<SocketId>,
    pub(super) ignored: Vec<SocketId>,
    /// What those heard that were closed.
    pub(super) farewells: BTreeMap<SocketId, Vec<u8>>,
    /// No request can be opened.
    pub(super) no_room: bool,
    /// By exit.
    pub(super) terms: BTreeMap<SocketId, SynTerms>,
    /// Exits whose SYN was to go out again.
    pub(super) repeated: Vec<SocketId>,
    /// What answered the SYN of the exit asked for last.
    pub(super) answer: SynAnswer,
    sockets: BTreeMap<SocketId, FakeSocket>,
    listeners: BTreeMap<SocketId, (SocketAddr, VecDeque<SocketId>)>,
    next: u64,
    /// Listeners of clients that wait for a connection.
    pub(super) waits: BTreeMap<SocketId, Listen>,
    pub(super) fates: BTreeMap<SocketId, Fate>,
    /// Every exit asked for.
    pub(super) connects: Vec<(SocketId, Connect)>,
    /// What `connect` answers instead of working.
    pub(super) refuse_connect: Option<OpenError>,
    /// Addresses of ours without a free port.
    pub(super) exhausted: Vec<IpAddr>,
    /// Sends take no byte.
    pub(super) no_memory: bool,
    /// Sends take so many bytes, and no more.
    pub(super) send_room: Option<usize>,
    /// How connections were asked to spread their data, last.
    pub(super) schedulings: BTreeMap<SocketId, Scheduling>,
    /// What relays are held to.
    pub(super) relay_caps: BTreeMap<SocketId, RelayCaps>,
    /// Connections are plain TCP.
    pub(super) plain: bool,
    /// Clients' addresses that no path leads to now.
    pub(super) failing: Vec<core::net::IpAddr>,
    /// Every datagram socket opened.
    pub(super) queries: Vec<SocketId>,
}

impl FakeShard {
    fn socket(&mut self, id: SocketId) -> &mut FakeSocket {
        self.sockets.get_mut(&id).unwrap_or_else(|| panic!("{id:?} was given up"))
    }

    fn add(&mut self, local: SocketAddr, remote: SocketAddr, user_data: u64) -> SocketId {
        self.next += 1;
        let id = SocketId(self.next);
        let socket = FakeSocket {
            local,
            remote,
            user_data,
            received: VecDeque::new(),
            read_closed: false,
            sent: Vec::new(),
            write_shut: false,
            write_armed: false,
            closed: false,
            error: None,
            relay: None,
            pending: Ready::empty(),
            datagrams: VecDeque::new(),
            icmp: None,
            paths: Vec::new(),
            datagrams_sent: Vec::new(),
            bytes_sent: 0,
            bytes_received: 0,
        };
        self.sockets.insert(id, socket);
        id
    }

    fn raise(&mut self, id: SocketId, ready: Ready) {
        self.socket(id).pending |= ready;
    }

    fn give_up(&mut self, id: SocketId, fate: Fate) {
        if let Some((_, backlog)) = self.listeners.remove(&id) {
            for waiting in backlog {
                if self.sockets.remove(&waiting).is_some() {
                    self.fates.insert(waiting, Fate::Aborted);
                }
            }
        } else {
            let socket = self.sockets.remove(&id);
            let socket = socket.unwrap_or_else(|| panic!("{id:?} was given up twice"));
            let closed = socket.closed;
            self.farewells.insert(id, socket.sent);
            assert!(fate != Fate::Released || closed, "{id:?}: release after CLOSED only");
        }
        self.fates.insert(id, fate);
    }

    /// A client's connection is established with the listener at port `at`.
    pub(super) fn client(&mut self, remote: &str, at: u16) -> SocketId {
        let mut listeners = self.listeners.iter().map(|(id, (local, _))| (*id, *local));
        let (listener, local) = listeners.find(|(_, local)| local.port() == at).unwrap();
        let id = self.add(local, remote.parse().unwrap(), 0);
        self.listeners.get_mut(&listener).unwrap().1.push_back(id);
        id
    }

    /// A client's SYN with text reaches the listener at port `at`, by `port`.
    pub(super) fn request(&mut self, remote: &str, at: u16, port: u8, text: &[u8]) -> SocketId {
        let mut listeners = self.listeners.iter().map(|(id, (local, _))| (*id, *local));
        let (listener, local) = listeners.find(|(_, local)| local.port() == at).unwrap();
        self.next += 1;
        let id = SocketId(self.next);
        let request = FakeRequest {
            remote: remote.parse().unwrap(),
            local,
            port: PortId(port),
            text: text.to_vec(),
            user_data: 0,
            pending: Ready::empty(),
        };
        self.requests.insert(id, request);
        self.listeners.get_mut(&listener).unwrap().1.push_back(id);
        id
    }

    /// A client's SYN to somebody else waits; or its handshake is over already.
    pub(super) fn passing(&mut self, remote: &str, to: &str, waits: bool) -> SocketId {
        let at_once = (!waits).then(|| self.add(to.parse().unwrap(), remote.parse().unwrap(), 0));
        let mut listeners = self.listeners.values_mut();
        let (_, queue) = listeners.find(|(local, _)| local.port() == 0).unwrap();
        let id = at_once.unwrap_or_else(|| {
            self.next += 1;
            let request = FakeRequest {
                remote: remote.parse().unwrap(),
                local: to.parse().unwrap(),
                port: PortId(0),
                text: Vec::new(),
                user_data: 0,
                pending: Ready::empty(),
            };
            self.requests.insert(SocketId(self.next), request);
            SocketId(self.next)
        });
        queue.push_back(id);
        id
    }

    /// Somebody connects to a client that waits.
    pub(super) fn caller(&mut self, listener: SocketId, remote: &str) -> SocketId {
        let (local, user_data) = (self.listeners[&listener].0, self.waits[&listener].user_data);
        let id = self.add(local, remote.parse().unwrap(), user_data);
        self.listeners.get_mut(&listener).unwrap().1.push_back(id);
        id
    }

    /// The SYN of a request comes again.
    pub(super) fn repeat(&mut self, request: SocketId) {
        self.requests.get_mut(&request).expect("a request").pending |= Ready::REPEATED;
    }

    /// The client of a request resets it, or it is too old.
    pub(super) fn vanish(&mut self, request: SocketId) {
        let gone = self.requests.remove(&request).expect("a request");
        let (ready, user_data) = (Ready::CLOSED, gone.user_data);
        self.gone.push_back(Event { socket: request, ready, user_data });
    }

    pub(super) fn feed(&mut self, id: SocketId, bytes: &[u8]) {
        let socket = self.socket(id);
        socket.received.extend(bytes);
        socket.bytes_received += bytes.len() as u64;
        self.raise(id, Ready::READABLE);
    }

    pub(super) fn finish(&mut self, id: SocketId) {
        self.socket(id).read_closed = true;
        self.raise(id, Ready::READABLE | Ready::READ_CLOSED);
    }

    pub(super) fn establish(&mut self, id: SocketId) {
        self.raise(id, Ready::CONNECTED);
    }

    /// A datagram of a connected socket's peer arrives.
    pub(super) fn datagram(&mut self, id: SocketId, data: Vec<u8>) {
        let remote = self.socket(id).remote;
        self.datagram_from(id, remote, data);
    }

    pub(super) fn datagram_from(&mut self, id: SocketId, remote: SocketAddr, data: Vec<u8>) {
        self.socket(id).datagrams.push_back((remote, data));
        self.raise(id, Ready::READABLE);
    }

    /// What a datagram socket sent since last asked.
    pub(super) fn datagrams_sent(&mut self, id: SocketId) -> Vec<(SocketAddr, Vec<u8>)> {
        core::mem::take(&mut self.socket(id).datagrams_sent)
    }

    /// The client's subflows come from here now.
    pub(super) fn set_paths(&mut self, id: SocketId, paths: &[&str]) {
        self.socket(id).paths = paths.iter().map(|path| path.parse().unwrap()).collect();
    }

    /// ICMP says that a datagram did not arrive.
    pub(super) fn icmp(&mut self, id: SocketId, kind: IcmpErrorKind) {
        self.socket(id).icmp = Some(kind);
        self.raise(id, Ready::ERROR);
    }

    /// Whether this one is still open.
    pub(super) fn is_open(&self, id: SocketId) -> bool {
        self.sockets.contains_key(&id)
    }

    pub(super) fn remote(&mut self, id: SocketId) -> SocketAddr {
        self.socket(id).remote
    }

    /// There is room to send again, which who was refused hears of.
    pub(super) fn writable(&mut self, id: SocketId) {
        if core::mem::take(&mut self.socket(id).write_armed) {
            self.raise(id, Ready::WRITABLE);
        }
    }

    /// The connection ends: with an error, or in order on both sides.
    pub(super) fn end(&mut self, id: SocketId, error: Option<ConnectionError>) {
        let socket = self.socket(id);
        socket.closed = true;
        socket.error = error;
        self.raise(id, Ready::CLOSED);
    }

    /// The relay moved bytes.
    pub(super) fn progress(&mut self, outer: SocketId, up: u64, down: u64) {
        let socket = self.socket(outer);
        socket.bytes_sent += up;
        socket.bytes_received += down;
        self.raise(outer, Ready::PROGRESS);
    }

    /// Takes what the gateway sent.
    pub(super) fn sent(&mut self, id: SocketId) -> Vec<u8> {
        core::mem::take(&mut self.socket(id).sent)
    }

    pub(super) fn write_shut(&mut self, id: SocketId) -> bool {
        self.socket(id).write_shut
    }

    /// Bytes received that nobody read.
    pub(super) fn unread(&mut self, id: SocketId) -> usize {
        self.socket(id).received.len()
    }

    pub(super) fn relay_of(&mut self, id: SocketId) -> Option<SocketId> {
        self.socket(id).relay
    }

    /// Sockets the gateway holds, listeners apart.
    pub(super) fn held(&self) -> usize {
        self.sockets.len() + self.requests.len()
    }

    pub(super) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    /// The exit asked for last.
    pub(super) fn last_exit(&self) -> (SocketId, Connect) {
        *self.connects.last().expect("no exit was asked for")
    }
}

impl Shard for FakeShard {
    fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError> {
        assert!(options.mptcp && options.deferred == options.only_text && !options.or_at_once);
        if self.listeners.values().any(|(other, _)| *other == local) {
            return Err(OpenError::AddressInUse);
        }
        self.next += 1;
        self.listeners.insert(SocketId(self.next), (local, VecDeque::new()));
        Ok(SocketId(self.next))
    }

    fn listen_transparent(
        &mut self,
        ports: &[PortId],
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        assert!(options.mptcp && options.deferred && !options.only_text && options.or_at_once);
        assert_eq!(ports, [PortId(0)]);
        self.next += 1;
        self.listeners.insert(SocketId(self.next), (([0; 4], 0).into(), VecDeque::new()));
        Ok(SocketId(self.next))
    }

    fn listen_at(
        &mut self,
        local: IpAddr,
        ports: EphemeralPorts,
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        if let Some(error) = self.refuse_connect {
            return Err(error);
        }
        if self.exhausted.contains(&local) {
            return Err(OpenError::PortsExhausted);
        }
        self.next += 1;
        let at = SocketAddr::new(local, ports.first);
        self.listeners.insert(SocketId(self.next), (at, VecDeque::new()));
        self.waits.insert(SocketId(self.next), *options);
        Ok(SocketId(self.next))
    }

    fn listening_at(&self, listener: SocketId) -> Option<SocketAddr> {
        self.listeners.get(&listener).map(|(local, _)| *local)
    }

    fn connect(&mut self, _now: Instant, with: &Connect) -> Result<SocketId, OpenError> {
        if let Some(error) = self.refuse_connect {
            return Err(error);
        }
        if self.exhausted.contains(&with.local) {
            return Err(OpenError::PortsExhausted);
        }
        let local = SocketAddr::new(with.local, 40_000);
        let id = self.add(local, with.remote, with.user_data);
        self.connects.push((id, *with));
        Ok(id)
    }

    fn fit_segments(&mut self, outer: SocketId, inner: SocketId) {
        let known = self.sockets.contains_key(&inner) || self.requests.contains_key(&inner);
        assert!(self.sockets.contains_key(&outer) && known);
    }

    fn set_syn_terms(&mut self, outer: SocketId, terms: SynTerms) {
        assert!(self.sockets.contains_key(&outer));
        self.terms.insert(outer, terms);
    }

    fn repeat_syn(&mut self, _now: Instant, outer: SocketId) {
        assert!(self.sockets.contains_key(&outer));
        self.repeated.push(outer);
    }

    fn syn_answer(&mut self, outer: SocketId) -> Option<SynAnswer> {
        assert!(self.sockets.contains_key(&outer));
        self.terms.get(&outer).map(|_| self.answer.clone())
    }

    fn deferred_origin(&self, request: SocketId) -> Option<(SocketAddr, PortId)> {
        self.requests.get(&request).map(|request| (request.remote, request.port))
    }

    fn connected_to(&self, id: SocketId) -> Option<SocketAddr> {
        let waiting = self.requests.get(&id).map(|request| request.local);
        waiting.or_else(|| self.sockets.get(&id).map(|socket| socket.local))
    }

    fn deferred_text(&self, request: SocketId) -> Option<&[u8]> {
        self.requests.get(&request).map(|request| request.text.as_slice())
    }

    fn open_deferred(&mut self, _now: Instant, request: SocketId) -> Option<SocketId> {
        if self.no_room {
            return None;
        }
        let asked = self.requests.remove(&request)?;
        let id = self.add(asked.local, asked.remote, asked.user_data);
        self.feed(id, &asked.text);
        self.opened.insert(request, id);
        Some(id)
    }

    fn refuse_deferred(&mut self, _now: Instant, request: SocketId) {
        assert!(self.requests.remove(&request).is_some(), "{request:?} is no request");
        self.refused.push(request);
    }

    fn ignore_deferred(&mut self, request: SocketId) {
        assert!(self.requests.remove(&request).is_some(), "{request:?} is no request");
        self.ignored.push(request);
    }

    fn accept(&mut self, listener: SocketId) -> Option<SocketId> {
        self.listeners.get_mut(&listener).expect("a stale listener").1.pop_front()
    }

    fn recv(&mut self, _now: Instant, id: SocketId, into: &mut [u8]) -> Result<usize, RecvError> {
        let socket = self.socket(id);
        assert!(socket.relay.is_none(), "{id:?} belongs to a relay");
        assert!(!into.is_empty(), "an empty read cannot be told from the end");
        let count = into.len().min(socket.received.len());
        for (byte, received) in into.iter_mut().zip(socket.received.drain(..count)) {
            *byte = received;
        }
        match (count, socket.error) {
            (0, Some(error)) => Err(RecvError::Failed(error)),
            (0, None) if socket.read_closed => Ok(0),
            (0, None) => Err(RecvError::WouldBlock),
            _ => Ok(count),
        }
    }

    fn send(&mut self, _now: Instant, id: SocketId, from: &[u8]) -> Result<usize, SendError> {
        let no_memory = self.no_memory;
        let room = self.send_room.unwrap_or(usize::MAX);
        let socket = self.socket(id);
        assert!(socket.relay.is_none(), "{id:?} belongs to a relay");
        match socket.error {
            Some(error) => Err(SendError::Failed(error)),
            None if socket.write_shut => Err(SendError::Shutdown),
            None if no_memory => Err(SendError::WouldBlock),
            None => {
                let taken = from.len().min(room);
                socket.sent.extend(from.iter().take(taken));
                socket.write_armed |= taken == 0;
                self.send_room = self.send_room.map(|room| room - taken);
                if taken == 0 { Err(SendError::WouldBlock) } else { Ok(taken) }
            }
        }
    }

    fn shutdown_write(&mut self, _now: Instant, id: SocketId) {
        self.socket(id).write_shut = true;
    }

    fn close(&mut self, _now: Instant, id: SocketId) {
        self.give_up(id, Fate::Closed);
    }

    fn abort(&mut self, _now: Instant, id: SocketId) {
        self.give_up(id, Fate::Aborted);
    }

    fn release(&mut self, id: SocketId) {
        self.give_up(id, Fate::Released);
    }

    fn relay(&mut self, _now: Instant, inner: SocketId, outer: SocketId) -> Result<(), RelayError> {
        self.socket(inner).relay = Some(outer);
        self.socket(outer).relay = Some(inner);
        Ok(())
    }

    fn set_scheduling(&mut self, _now: Instant, inner: SocketId, asked: &Scheduling) -> bool {
        let _known = self.socket(inner);
        if !self.plain {
            self.schedulings.insert(inner, asked.clone());
        }
        !self.plain
    }

    fn set_relay_caps(&mut self, _now: Instant, inner: SocketId, caps: &RelayCaps) -> bool {
        let coupled = self.socket(inner).relay.is_some();
        self.relay_caps.insert(inner, caps.clone());
        coupled
    }

    fn path_works(&self, heard: &Received) -> bool {
        !self.failing.contains(&heard.remote.ip())
    }

    fn port_of(&self, id: SocketId) -> Option<PortId> {
        self.sockets.get(&id).map(|_| PortId(0))
    }

    fn info(&self, id: SocketId) -> Option<ConnectionInfo> {
        let socket = self.sockets.get(&id)?;
        Some(ConnectionInfo {
            local: socket.local,
            remote: socket.remote,
            mptcp: Some(1),
            fallback: None,
            bytes_sent: socket.bytes_sent,
            bytes_acked: socket.bytes_sent,
            bytes_received: socket.bytes_received,
            subflows: socket.paths.iter().map(|remote| subflow(socket.local, *remote)).collect(),
            data_level: None,
            error: socket.error,
        })
    }

    fn error(&self, id: SocketId) -> Option<ConnectionError> {
        self.sockets.get(&id).unwrap_or_else(|| panic!("{id:?} was given up")).error
    }

    fn subflow_count(&self, id: SocketId) -> u8 {
        u8::from(self.sockets.contains_key(&id))
    }

    fn set_user_data(&mut self, id: SocketId, data: u64) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.user_data = data;
            return;
        }
        self.socket(id).user_data = data;
    }

    fn udp_bind(&mut self, local: SocketAddr, options: &UdpOptions) -> Result<SocketId, OpenError> {
        let port = 50_000 + u16::try_from(self.queries.len()).unwrap();
        let local = SocketAddr::new(local.ip(), port);
        let id = self.add(local, options.remote.unwrap_or(local), options.user_data);
        self.queries.push(id);
        Ok(id)
    }

    fn udp_send_to(&mut self, id: SocketId, data: &[u8], to: &SendTo) -> Result<(), UdpSendError> {
        if data.len() > 1472 {
            return Err(UdpSendError::TooLong { limit: 1472 });
        }
        let socket = self.socket(id);
        socket.sent = data.to_vec();
        socket.datagrams_sent.push((to.remote.unwrap_or(socket.remote), data.to_vec()));
        Ok(())
    }

    fn udp_local(&self, id: SocketId) -> Option<SocketAddr> {
        Some(self.sockets.get(&id)?.local)
    }

    fn udp_recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, RecvError> {
        let socket = self.socket(id);
        let (remote, data) = socket.datagrams.pop_front().ok_or(RecvError::WouldBlock)?;
        into.iter_mut().zip(&data).for_each(|(to, from)| *to = *from);
        let local = socket.local;
        Ok(Received { remote, local, via: PortId(0), len: data.len() })
    }

    fn udp_error(&mut self, id: SocketId) -> Option<UdpError> {
        let socket = self.socket(id);
        let (remote, local) = (socket.remote, socket.local);
        let kind = socket.icmp.take()?;
        Some(UdpError { kind, remote, local })
    }

    fn poll_event(&mut self) -> Option<Event> {
        for (id, (_, backlog)) in &self.listeners {
            if !backlog.is_empty() {
                let user_data = self.waits.get(id).map_or(0, |options| options.user_data);
                return Some(Event { socket: *id, ready: Ready::ACCEPT, user_data });
            }
        }
        if let Some(event) = self.gone.pop_front() {
            return Some(event);
        }
        let mut requests = self.requests.iter_mut();
        if let Some((id, request)) = requests.find(|(_, request)| !request.pending.is_empty()) {
            let ready = core::mem::take(&mut request.pending);
            return Some(Event { socket: *id, ready, user_data: request.user_data });
        }
        let (id, socket) =
            self.sockets.iter_mut().find(|(_, socket)| !socket.pending.is_empty())?;
        let ready = core::mem::take(&mut socket.pending);
        Some(Event { socket: *id, ready, user_data: socket.user_data })
    }
}

fn subflow(local: SocketAddr, remote: SocketAddr) -> SubflowInfo {
    SubflowInfo {
        id: 0,
        port: PortId(0),
        local,
        remote,
        state: State::Established,
        fully_established: true,
        backup: false,
        stale: false,
        srtt: Duration::ZERO,
        cwnd: 0,
        bytes_sent: 0,
        bytes_received: 0,
        retransmitted: 0,
        reinjected: 0,
        local_id: 0,
        remote_id: 0,
        tcp: TcpInfo::default(),
    }
}

/// The default of `connect_s`.
pub(super) const CONNECT: Duration = Duration::from_secs(30);
