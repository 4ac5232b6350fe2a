//! Datagrams of clients: associations by UDP (RFC 1928 §7) and inside a stream.
//!
//! An association lives as long as its control connection. It takes datagrams from the addresses of
//! that connection's subflows and no others, whichever these are at the time, so it follows a client
//! from one access network to another; what comes back goes to the address last heard from.
//! Invariant: an association holds a bounded number of sockets, peers and waiting datagrams, and takes
//! from outside only what comes from a host that its client has sent to.

use super::deadlines::Class;
use super::handshake::{Input, read};
use super::reason::{Side, of_failed_relay};
use super::session::Phase;
use super::{EndReason, Farewell, Gateway, IcmpCounts};
use crate::config::HostName;
use crate::dns::{Answer, Family};
use crate::front_end::udp::{self, BadDatagram, Stream};
use crate::front_end::{Failure, Host, Target};
use crate::shard::Shard;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::stack::{Event, Ready, SocketId};
use mptcp_core::time::Instant;
use mptcp_core::udp::{Received, SendTo, UdpOptions, UdpSendError};
use std::collections::VecDeque;

/// Exits of an association; the one that was not sent by for longest makes room.
pub(crate) const MAX_EXITS: usize = 8;
/// Hosts whose datagrams come back in; the one that was not sent to for longest makes room.
const MAX_PEERS: usize = 64;
/// Datagrams that wait for their name to be looked up.
const MAX_PENDING: usize = 4;
/// Names whose hosts are remembered; the one whose host has not answered for longest makes room.
const MAX_NAMES: usize = 64;
/// For how long after it answered last, or was first sent to (RFC 4787 §4.3).
const NAME_KEPT: Duration = Duration::from_secs(300);
/// Addresses of the client's that are remembered with their ports.
const MAX_HEARD: usize = 8;
/// How long the list of the control connection's addresses is believed, and how long before it is
/// asked for again because of a stranger.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
const CHECK_STRANGER: Duration = Duration::from_millis(20);

/// Counts of datagrams; each grows only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Associations opened, those in streams included.
    pub associations: u64,
    /// Associations refused: too many, in all or of one client.
    pub over_limit: u64,
    /// Datagrams forwarded to destinations, and back.
    pub up: u64,
    /// See `up`.
    pub down: u64,
    /// Malformed ones, or without a destination that could be named.
    pub malformed: u64,
    /// Fragments.
    pub fragments: u64,
    /// From addresses that do not belong to the control connection.
    pub strangers: u64,
    /// To destinations that the policy refuses, or that no exit leads to.
    pub denied: u64,
    /// To names that were not found, or while too many were being looked up.
    pub unresolved: u64,
    /// From hosts that the client has not sent to.
    pub unsolicited: u64,
    /// Too long for the way.
    pub too_long: u64,
    /// No room or memory, or nobody to send to yet.
    pub no_room: u64,
    /// Beyond a rate of the user or of the port.
    pub over_rate: u64,
    /// What ICMP said about those that went out.
    pub icmp: IcmpCounts,
}

impl UdpCounters {
    /// What became of datagrams, by name.
    pub fn by_fate(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let fates = [
            ("up", self.up),
            ("down", self.down),
            ("malformed", self.malformed),
            ("fragments", self.fragments),
            ("strangers", self.strangers),
            ("denied", self.denied),
            ("unresolved", self.unresolved),
            ("unsolicited", self.unsolicited),
            ("too_long", self.too_long),
            ("no_room", self.no_room),
            ("over_rate", self.over_rate),
        ];
        fates.into_iter()
    }
}

/// A datagram whose destination is being looked up.
struct Pending {
    name: HostName,
    port: u16,
    awaited: Vec<Family>,
    found: Vec<IpAddr>,
    data: Vec<u8>,
}

/// The host that datagrams for a name go to.
struct Known {
    name: HostName,
    port: u16,
    host: IpAddr,
    answered: Instant,
}

/// The client's side.
enum Client {
    Datagrams {
        socket: SocketId,
        /// Where it was heard from, the last one first.
        heard: VecDeque<Received>,
        /// The addresses of the control connection, as of `checked`.
        allowed: Vec<IpAddr>,
        checked: Option<Instant>,
    },
    Stream {
        stream: Stream,
        /// The rest of a frame that did not fit.
        unsent: Vec<u8>,
    },
}

/// A host that the client has sent to.
struct Peer {
    at: IpAddr,
    /// As the client wrote it: by way of a translator, and where it wrote an IPv4 address as an IPv6 one, that is
    /// another address. Programs behind one client may write it in several ways.
    known_as: IpAddr,
    /// Where it was sent to last under this address.
    port: u16,
}

/// See the module.
pub(super) struct Association {
    client: Client,
    /// By our address, the one that was sent by last at the end.
    exits: Vec<(IpAddr, SocketId)>,
    /// The one that was sent to last in front.
    peers: VecDeque<Peer>,
    pending: Vec<Pending>,
    names: Vec<Known>,
    /// Where the client connected from: it counts there.
    client_address: IpAddr,
    /// The port of a control connection that is plain TCP, once it goes by terms: nothing else holds a stream to its
    /// rates.
    pub(super) plain_over: Option<PortId>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

impl Association {
    fn sockets(&self) -> impl Iterator<Item = SocketId> {
        let client = match &self.client {
            Client::Datagrams { socket, .. } => Some(*socket),
            Client::Stream { .. } => None,
        };
        client.into_iter().chain(self.exits.iter().map(|(_, socket)| *socket))
    }

    /// The socket is the one that the client sends to.
    pub(super) fn is_relay(&self, id: SocketId) -> bool {
        matches!(self.client, Client::Datagrams { socket, .. } if socket == id)
    }

    /// All datagrams are for the destination that a stream began with.
    pub(super) fn has_one_destination(&self) -> bool {
        matches!(&self.client, Client::Stream { stream, .. } if stream.is_connected())
    }

    /// The destination that a stream began with, once it has been sent to.
    fn settled(&self) -> Option<IpAddr> {
        match &self.client {
            Client::Stream { stream, .. } => match stream.destination()?.host {
                Host::Address(address) => Some(address),
                Host::Name(_) => None,
            },
            Client::Datagrams { .. } => None,
        }
    }

    /// Where datagrams for a name go on to, whatever it leads to by now: many names lead elsewhere each time, and the
    /// other host knows nothing of what was begun.
    fn host_of(&self, now: Instant, name: &HostName, port: u16) -> Option<IpAddr> {
        let known = self.names.iter().find(|known| known.port == port && known.name == *name)?;
        (now.since(known.answered) < NAME_KEPT).then_some(known.host)
    }

    fn keep_host(&mut self, now: Instant, name: &HostName, port: u16, host: IpAddr) {
        self.names.retain(|known| known.port != port || known.name != *name);
        let oldest =
            (0..self.names.len()).min_by_key(|at| self.names.get(*at).map(|one| one.answered));
        if let Some(oldest) = oldest.filter(|_| self.names.len() >= MAX_NAMES) {
            self.names.swap_remove(oldest);
        }
        self.names.push(Known { name: name.clone(), port, host, answered: now });
    }

    fn note_answer(&mut self, now: Instant, host: IpAddr) {
        for known in self.names.iter_mut().filter(|known| known.host == host) {
            known.answered = now;
        }
    }

    /// Whether it can be an answer to what was sent: of one destination, its port is known too.
    fn answers_from(&self, port: u16) -> bool {
        match &self.client {
            Client::Stream { stream, .. } => {
                stream.destination().is_none_or(|target| target.port == port)
            }
            Client::Datagrams { .. } => true,
        }
    }

    /// The client sent to `port` of `at`, which it knows as `known_as`.
    fn note_peer(&mut self, at: IpAddr, known_as: IpAddr, port: u16) {
        let same = |peer: &Peer| (peer.at, peer.known_as) == (at, known_as);
        let known = self.peers.iter().position(same);
        if known.and_then(|known| self.peers.remove(known)).is_none() {
            self.peers.truncate(MAX_PEERS - 1);
        }
        self.peers.push_front(Peer { at, known_as, port });
    }

    /// What the client knows the sender of a datagram as; `None` when it has not sent there. Of several addresses it
    /// is the one that this port was sent to by, else the latest.
    fn known_as(&self, from: SocketAddr) -> Option<IpAddr> {
        let of_host = || self.peers.iter().filter(|peer| peer.at == from.ip());
        let of_port = of_host().find(|peer| peer.port == from.port());
        let peer = of_port.or_else(|| of_host().next())?;
        self.answers_from(from.port()).then_some(peer.known_as)
    }

    /// Whether the client may send from `ip`, given the addresses of its control connection.
    fn allows(&mut self, now: Instant, shard: &impl Shard, inner: SocketId, ip: IpAddr) -> bool {
        let Client::Datagrams { allowed, checked, .. } = &mut self.client else { return false };
        let age = checked.map_or(Duration::MAX, |checked| now.since(checked));
        let known = allowed.contains(&ip);
        if age >= CHECK_AGAIN || !known && age >= CHECK_STRANGER {
            *checked = Some(now);
            allowed.clear();
            if let Some(info) = shard.info(inner) {
                let usable = info.subflows.iter().filter(|subflow| subflow.state.synchronized());
                allowed.extend(usable.map(|subflow| subflow.remote.ip()));
                if info.subflows.is_empty() {
                    allowed.push(info.remote.ip());
                }
            }
            return allowed.contains(&ip);
        }
        known
    }
}

impl Gateway {
    /// Opens an association: by UDP, or in the stream.
    pub(super) fn associate(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        stream: Option<Stream>,
    ) {
        if self.udp.associations == 0 {
            let reason = EndReason::CommandNotSupported;
            return self.fail(now, shard, idx, reason, Failure::NotSupported);
        }
        let client = self.sessions.get(idx).and_then(|session| shard.info(session.inner));
        let (Some(client), Some(id)) = (client, self.sessions.id(idx)) else {
            return self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
        };
        let client_address = client.remote.ip();
        if !self.enter_association(client_address) {
            self.counters.udp.over_limit += 1;
            return self.fail(now, shard, idx, EndReason::UdpLimited, Failure::Exhausted);
        }
        let (client, bound) = match stream {
            Some(stream) => {
                let unspecified = match client.local.ip() {
                    IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
                    IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
                };
                (Client::Stream { stream, unsent: Vec::new() }, unspecified)
            }
            None => {
                let at = SocketAddr::new(client.local.ip(), 0);
                let options = UdpOptions { user_data: id.0, ..UdpOptions::default() };
                let socket = shard.udp_bind(at, &options).ok();
                let bound = socket.and_then(|socket| Some((socket, shard.udp_local(socket)?)));
                let Some((socket, bound)) = bound else {
                    self.leave_association(client_address);
                    return self.fail(now, shard, idx, EndReason::UdpLimited, Failure::Exhausted);
                };
                let heard = VecDeque::new();
                (Client::Datagrams { socket, heard, allowed: Vec::new(), checked: None }, bound)
            }
        };
        let association = Association {
            client,
            exits: Vec::new(),
            peers: VecDeque::new(),
            pending: Vec::new(),
            names: Vec::new(),
            client_address,
            plain_over: None,
            bytes_up: 0,
            bytes_down: 0,
        };
        self.counters.udp.associations += 1;
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let reply = session.front_end.connected(bound);
        session.phase = Phase::Associated(Box::new(association));
        self.deadlines.arm(idx, Class::Idle, now);
        self.begin_terms(now, shard, idx);
        if self.say(now, shard, idx, &reply) {
            self.read_control(now, shard, idx);
        }
    }

    /// Gives up what an association holds.
    pub(super) fn dissociate(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        association: &Association,
    ) {
        for socket in association.sockets() {
            shard.close(now, socket);
        }
        self.leave_association(association.client_address);
    }

    /// One more association of this client, if it may have one.
    fn enter_association(&self, client: IpAddr) -> bool {
        let of_client = &self.common.clients().associations;
        let entered = of_client.enter(client);
        let admitted = entered && self.common.associations().enter();
        if entered && !admitted {
            of_client.leave(client);
        }
        admitted
    }

    fn leave_association(&self, client: IpAddr) {
        self.common.associations().leave();
        self.common.clients().associations.leave(client);
    }

    /// An event of the control connection, or of one of the association's sockets.
    pub(super) fn handle_association(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        event: &Event,
    ) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        if event.socket == session.inner {
            session.ends.note(Side::Inner, event.ready);
            if session.ends.inner_closed() {
                let error = shard.error(session.inner);
                let reason =
                    error.map_or(EndReason::Completed, |error| of_failed_relay(Side::Inner, error));
                return self.end(now, shard, idx, reason, Farewell::Abort);
            }
            self.flush(now, shard, idx);
            return self.read_control(now, shard, idx);
        }
        let Phase::Associated(association) = &session.phase else { return };
        let from_client = association.is_relay(event.socket);
        if event.ready.contains(Ready::ERROR) && !self.take_icmp(now, shard, idx, event.socket) {
            return;
        }
        let mut bytes = core::mem::take(&mut self.datagram);
        while let Ok(received) = shard.udp_recv_from(event.socket, &mut bytes) {
            let Some(data) = bytes.get(..received.len) else {
                self.counters.udp.too_long += 1;
                continue;
            };
            if from_client {
                self.take_up(now, shard, idx, &received, data);
            } else {
                self.take_down(now, shard, idx, &received, data);
            }
        }
        self.datagram = bytes;
    }

    /// Reads the control connection: a stream's datagrams, or nothing that matters.
    fn read_control(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let mut bytes = [0; 4096];
        loop {
            let Some(session) = self.sessions.get_mut(idx) else { return };
            let Phase::Associated(association) = &mut session.phase else { return };
            let room = match &association.client {
                Client::Stream { stream, .. } => stream.room(),
                Client::Datagrams { .. } => bytes.len(),
            };
            let into = bytes.get_mut(..room.clamp(1, 4096)).unwrap_or_default();
            let count = match read(shard.recv(now, session.inner, into)) {
                (Input::Some, count) => count,
                (Input::None, _) => return,
                // RFC 1928 §7: the association ends with its connection.
                (Input::End, _) => {
                    return self.end(now, shard, idx, EndReason::Completed, Farewell::Close);
                }
            };
            let Client::Stream { stream, .. } = &mut association.client else { continue };
            stream.push(bytes.get(..count).unwrap_or_default());
            while let Some(session) = self.sessions.get_mut(idx)
                && let Phase::Associated(association) = &mut session.phase
                && let Client::Stream { stream, .. } = &mut association.client
            {
                match stream.pop() {
                    Ok(Some((target, data))) => self.forward(now, shard, idx, target, &data),
                    Ok(None) => break,
                    Err(BadDatagram::Malformed) => self.counters.udp.malformed += 1,
                    Err(BadDatagram::Lost | BadDatagram::Fragment) => {
                        self.counters.udp.malformed += 1;
                        let reason = EndReason::BadRequest;
                        return self.end(now, shard, idx, reason, Farewell::Abort);
                    }
                }
            }
        }
    }

    /// A datagram on the relay's socket.
    fn take_up(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        received: &Received,
        bytes: &[u8],
    ) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let inner = session.inner;
        let Phase::Associated(association) = &mut session.phase else { return };
        if !association.allows(now, shard, inner, received.remote.ip()) {
            self.counters.udp.strangers += 1;
            return;
        }
        let datagram = match udp::parse(bytes) {
            Ok(datagram) => datagram,
            Err(BadDatagram::Malformed | BadDatagram::Lost) => {
                return self.counters.udp.malformed += 1;
            }
            Err(BadDatagram::Fragment) => return self.counters.udp.fragments += 1,
        };
        if let Client::Datagrams { heard, .. } = &mut association.client {
            heard.retain(|other| other.remote.ip() != received.remote.ip());
            heard.push_front(*received);
            heard.truncate(MAX_HEARD);
        }
        self.forward(now, shard, idx, datagram.target, datagram.data);
    }

    /// Sends `data` to `target`, once its name is known.
    fn forward(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        target: Target,
        data: &[u8],
    ) {
        self.deadlines.arm(idx, Class::Idle, now);
        if self.policies.reach().policy.denies_udp_port(target.port) {
            self.counters.udp.denied += 1;
            return;
        }
        let name = match target.host {
            Host::Address(address) => {
                return self.send_out(now, shard, idx, &[address], target.port, data);
            }
            Host::Name(name) => name,
        };
        if let Some(addresses) = self.policies.reach().hosts.get(&name) {
            let addresses = addresses.clone();
            return self.send_out(now, shard, idx, &addresses, target.port, data);
        }
        let known = self.association(idx).and_then(|one| one.host_of(now, &name, target.port));
        if let Some(host) = known.filter(|host| self.candidate(*host).is_ok()) {
            return self.send_out(now, shard, idx, &[host], target.port, data);
        }
        let client = self.sessions.get(idx).and_then(|session| shard.info(session.inner));
        let (Some(client), Some(id)) = (client, self.sessions.id(idx)) else { return };
        let mut pending = Pending {
            name,
            port: target.port,
            awaited: Vec::new(),
            found: Vec::new(),
            data: data.to_vec(),
        };
        let full = self.association(idx).is_none_or(|one| one.pending.len() >= MAX_PENDING);
        for family in Family::BOTH {
            if full || !self.serves(family) || !self.resolver.is_on() {
                continue;
            }
            let ip = client.remote.ip();
            match self.resolver.lookup(now, shard, &pending.name, family, id.0, ip) {
                Some(Answer::Addresses(addresses)) => pending.found.extend(addresses),
                Some(_) => {}
                None => pending.awaited.push(family),
            }
        }
        if pending.awaited.is_empty() {
            return self.send_pending(now, shard, idx, &pending);
        }
        if let Some(association) = self.association(idx) {
            association.pending.push(pending);
        }
    }

    /// The resolver's answer for datagrams that wait for it.
    pub(super) fn take_udp_answer(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        (name, family): (&HostName, Family),
        answer: &Answer,
    ) {
        let Some(association) = self.association(idx) else { return };
        let waiting = association.pending.iter_mut().filter(|pending| pending.name == *name);
        for pending in waiting {
            pending.awaited.retain(|awaited| *awaited != family);
            if let Answer::Addresses(addresses) = answer {
                pending.found.extend(addresses);
            }
        }
        let (ready, waiting) = core::mem::take(&mut association.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.awaited.is_empty());
        association.pending = waiting;
        for pending in ready {
            self.send_pending(now, shard, idx, &pending);
        }
    }

    fn send_pending(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, pending: &Pending) {
        if pending.found.is_empty() {
            self.counters.udp.unresolved += 1;
            return;
        }
        // Whichever answer came first: all datagrams for a name go to the same host of it.
        let first = self.families.first(now, &pending.name, pending.port);
        let mut found = pending.found.clone();
        found.sort_by_key(|address| Family::of(*address) != first);
        let host = found.iter().copied().find(|address| self.candidate(*address).is_ok());
        if let (Some(host), Some(association)) = (host, self.association(idx)) {
            association.keep_host(now, &pending.name, pending.port, host);
        }
        self.send_out(now, shard, idx, &found, pending.port, &pending.data);
    }

    pub(super) fn association(&mut self, idx: u32) -> Option<&mut Association> {
        match &mut self.sessions.get_mut(idx)?.phase {
            Phase::Associated(association) => Some(association),
            _ => None,
        }
    }

    /// Sends to the first of `addresses` that is allowed and has an exit.
    fn send_out(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        addresses: &[IpAddr],
        port: u16,
        data: &[u8],
    ) {
        let settled = self.association(idx).and_then(|one| one.settled());
        let addresses = settled.as_ref().map_or(addresses, core::slice::from_ref);
        let judged = |&asked: &IpAddr| Some((self.candidate(asked).ok()?, asked));
        let allowed = addresses.iter().find_map(judged);
        let client = self.association(idx).map(|one| one.client_address);
        let by_exit = |(to, asked)| Some((self.exits.pool(to, client).next()?, to, asked));
        let Some((local, remote, asked)) = allowed.and_then(by_exit) else {
            self.counters.udp.denied += 1;
            return;
        };
        let id = self.sessions.id(idx).map_or(0, |id| id.0);
        let user = self.sessions.get(idx).and_then(|session| session.user);
        let octets = data.len() as u64;
        if self.policies.up_cap(user).is_some_and(|cap| !cap.take(now, octets)) {
            self.counters.udp.over_rate += 1;
            return;
        }
        let Some(association) = self.association(idx) else { return };
        let known = association.exits.iter().position(|(at, _)| *at == local);
        let known = known.map(|at| association.exits.remove(at).1);
        let exit = known.or_else(|| {
            let options = UdpOptions { user_data: id, ..UdpOptions::default() };
            if association.exits.len() >= MAX_EXITS {
                let (_, first) = association.exits.remove(0);
                shard.close(now, first);
            }
            shard.udp_bind(SocketAddr::new(local, 0), &options).ok()
        });
        association.exits.extend(exit.map(|exit| (local, exit)));
        let to = SendTo::from(SocketAddr::new(remote, port));
        let sent = exit.map(|exit| shard.udp_send_to(exit, data, &to));
        match sent {
            Some(Ok(())) => {
                association.note_peer(remote, asked, port);
                if let Client::Stream { stream, .. } = &mut association.client {
                    // As a connected socket: its name may soon lead elsewhere, what it began does not.
                    stream.settle(asked);
                }
                association.bytes_up += data.len() as u64;
                self.counters.udp.up += 1;
            }
            Some(Err(UdpSendError::TooLong { .. })) => self.counters.udp.too_long += 1,
            Some(Err(UdpSendError::BadAddress)) => self.counters.udp.denied += 1,
            Some(Err(_)) | None => self.counters.udp.no_room += 1,
        }
        self.deadlines.arm(idx, Class::Idle, now);
    }

    /// A datagram on an exit's socket.
    fn take_down(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        received: &Received,
        data: &[u8],
    ) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let (inner, user) = (session.inner, session.user);
        let Phase::Associated(association) = &mut session.phase else { return };
        let from = received.remote;
        let Some(known_as) = association.known_as(from) else {
            self.counters.udp.unsolicited += 1;
            return;
        };
        let source = SocketAddr::new(known_as, from.port());
        let heard: Vec<Received> = match &association.client {
            Client::Datagrams { heard, .. } => heard.iter().copied().collect(),
            Client::Stream { .. } => Vec::new(),
        };
        let mut usable = heard;
        usable.retain(|heard| association.allows(now, shard, inner, heard.remote.ip()));
        // Where the client was heard from last, unless that way fails: it may not know that yet.
        let works = |heard: &&Received| shard.path_works(heard);
        let back = usable.iter().find(works).or_else(|| usable.first()).copied();
        let port = match &association.client {
            Client::Datagrams { .. } => back.map(|back| back.via),
            Client::Stream { .. } => association.plain_over,
        };
        let via = port.map(|port| self.policies.port_caps(user, port));
        // The user's own first: what they refuse takes nothing of what all share.
        let mut caps = self.policies.down_cap(user).into_iter().chain(via.into_iter().flatten());
        let counters = &mut self.counters.udp;
        if caps.any(|cap| !cap.take(now, data.len() as u64)) {
            counters.over_rate += 1;
            return;
        }
        let delivered = match &mut association.client {
            Client::Datagrams { socket, .. } => {
                let bytes = [&udp::header(source), data].concat();
                match back.map(|back| shard.udp_send_to(*socket, &bytes, &back.reply())) {
                    Some(Ok(())) => true,
                    Some(Err(UdpSendError::TooLong { .. })) => {
                        counters.too_long += 1;
                        false
                    }
                    Some(Err(_)) | None => {
                        counters.no_room += 1;
                        false
                    }
                }
            }
            Client::Stream { stream, unsent } => match stream.frame(source, data) {
                // A datagram that does not fit is lost, as on any way; half of one never is.
                Some(frame) if unsent.is_empty() => {
                    let sent = send_most(now, shard, inner, &frame);
                    counters.no_room += u64::from(sent == 0);
                    if sent > 0 {
                        unsent.extend(frame.get(sent..).unwrap_or_default());
                    }
                    sent > 0
                }
                Some(_) => {
                    counters.no_room += 1;
                    false
                }
                None => {
                    counters.too_long += 1;
                    false
                }
            },
        };
        if delivered {
            association.note_answer(now, known_as);
            association.bytes_down += data.len() as u64;
            counters.down += 1;
            self.deadlines.arm(idx, Class::Idle, now);
        }
    }

    /// Sends the rest of a frame.
    fn flush(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let inner = session.inner;
        let Phase::Associated(association) = &mut session.phase else { return };
        if let Client::Stream { unsent, .. } = &mut association.client
            && !unsent.is_empty()
        {
            let sent = send_most(now, shard, inner, unsent);
            unsent.drain(..sent.min(unsent.len()));
        }
    }
}

/// Sends what there is room for. Only who is refused hears of room later, so a part that went is no reason to
/// stop asking.
fn send_most(now: Instant, shard: &mut impl Shard, inner: SocketId, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty())
        && let Ok(more @ 1..) = shard.send(now, inner, rest)
    {
        sent += more;
    }
    sent
}
