//! One shard: demultiplexing, sockets, timers and readiness over the TCP engine and the data level.
//!
//! A [`Stack`] is single-threaded and sans-IO: packets go in with [`Stack::handle_burst`], come out
//! with [`Stack::poll_transmit`], time is an argument. Calls may come in any order as long as `now`
//! never decreases. Whatever is sized by the number of connections is reserved by [`Stack::new`];
//! beyond it, opens are refused and counted.

mod behalf;
mod coalesce;
mod congestion;
mod deferred;
pub(crate) mod demux;
mod destinations;
mod egress;
mod fast_open;
mod flows;
mod fragments;
mod handshake;
#[cfg(test)]
mod idle;
mod ingress;
mod marking;
mod memory;
mod multipath;
mod observe;
mod options;
mod own;
mod patience;
mod ports;
mod relay;
mod relay_caps;
#[cfg(test)]
mod replay;
mod reports;
mod scheduling;
mod socket;
mod steering;
mod timers;
mod train;
mod transparent;
mod types;
mod udp;
mod udp_mtu;
mod usual;
mod views;
mod warm;

pub use behalf::SynAnswer;
pub(crate) use options::{Handshake, handshake};
pub use relay_caps::RelayCaps;
pub use types::{
    Connect, ConnectionInfo, DataLevelInfo, Event, Listen, Ready, SocketId, SubflowInfo,
};

use crate::buf::{BufPool, HeapBuf, PacketBuf, PortId};
use crate::config::{LocalAddress, Marking, StackConfig};
use crate::error::ConnectionError;
use crate::fragments::Reassembler;
use crate::mptcp::path_health::PathTable;
use crate::mptcp::path_manager::path_manager;
use crate::mptcp::{Connection, PathManager};
use crate::rng::Rng;
use crate::stats::Counters;
use crate::tcp::congestion::CongestionChoice;
use crate::tcp::isn::{IsnGenerator, SynCookies};
use crate::tcp::request::Request;
use crate::tcp::time_wait::TimeWait;
use crate::tcp::{Stateless, Tcb, Tcbs};
use crate::time::Instant;
use crate::udp::UdpSocket;
use crate::util::bucket::TokenBucket;
use crate::util::list::IndexList;
use crate::util::slab::Slab;
use crate::util::wheel::TimerWheel;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::num::NonZeroU32;
use demux::{Demux, Flow, Node, Numbering, TokenOwner};
use relay::Relay;

/// Stateless answers waiting for the transmit queue; further ones are dropped and counted.
const MAX_REPLIES: usize = 1024;
/// Where a socket id names the kind of its socket: above the position, below the generation.
const KIND_SHIFT: u32 = 29;
const KIND_MASK: u64 = 7;

/// ICMP errors waiting for the transmit queue, and how many are sent per second.
const MAX_ICMP_ERRORS: usize = 32;
const ICMP_ERRORS_PER_S: u32 = 100;

/// What the application side of a socket looks like to the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppState {
    pub(crate) user_data: u64,
    /// Readiness not reported yet.
    pending: Ready,
    /// Number of the relay it is coupled to, from 1 on.
    relay: Option<NonZeroU32>,
    is: AppFlags,
    pub(crate) error: Option<ConnectionError>,
}

const _: () = assert!(size_of::<AppState>() <= 16);

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct AppFlags: u8 {
        /// The application holds the id (or will get it from `accept`).
        const ATTACHED = 1;
        /// The next arrival of data is an edge.
        const READ_ARMED = 1 << 1;
        /// The next room in the send buffer is an edge.
        const WRITE_ARMED = 1 << 2;
        /// Ended, but a relay still has to pass on what it received: `CLOSED` waits for that.
        const CLOSE_PENDING = 1 << 3;
    }
}

impl AppState {
    /// The application still holds the connection.
    pub(crate) const fn is_attached(&self) -> bool {
        self.is.contains(AppFlags::ATTACHED)
    }

    /// The relay it is coupled to.
    fn relay(&self) -> Option<u32> {
        self.relay.map(|number| number.get() - 1)
    }

    /// From its relay, if it has one.
    fn uncouple(&mut self) -> Option<u32> {
        let relay = self.relay();
        self.relay = None;
        relay
    }

    fn couple(&mut self, relay: u32) {
        self.relay = NonZeroU32::new(relay.wrapping_add(1));
    }
}

impl Default for AppState {
    fn default() -> Self {
        Self {
            user_data: 0,
            pending: Ready::empty(),
            relay: None,
            is: AppFlags::ATTACHED.union(AppFlags::READ_ARMED),
            error: None,
        }
    }
}

/// A listening address.
#[derive(Debug)]
struct Listener {
    local: SocketAddr,
    options: Listen,
    marking: Marking,
    pending: Ready,
    /// Waits for `accept`. Deferred requests that went away stay until their turn comes or they are
    /// the majority.
    queue: VecDeque<SocketId>,
    /// Entries of `queue` that lead nowhere any more.
    stale: usize,
    /// Its pending requests but for joins.
    requests: u32,
    /// Requests the application has not decided about.
    deferred: u32,
    /// Its connections in SYN-RECEIVED.
    fast_open: fast_open::Backlog,
    /// Congestion control of what it accepts where it is not the stack's.
    congestion: Option<CongestionChoice>,
}

impl Listener {
    /// Connections and requests that wait for `accept`.
    fn waiting(&self) -> usize {
        self.queue.len().saturating_sub(self.stale)
    }
}

/// What a socket id stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sock {
    Plain(u32),
    Mptcp(u32),
    Listener(u32),
    /// A deferred request.
    Request(u32),
    Udp(u32),
}

/// Limits what goes out without state: so many a second, as many at once.
#[derive(Debug)]
struct ReplyBudget {
    per_second: u64,
    /// Thousandths of a reply.
    tokens: u64,
    at: Instant,
}

impl ReplyBudget {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, tokens: per_second * 1000, at: now }
    }

    /// One reply more; false when the budget does not allow it.
    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.since(self.at);
        let earned = (elapsed.as_micros() as u64).saturating_mul(self.per_second) / 1000;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.per_second * 1000);
            self.at = now;
        }
        let left = self.tokens.checked_sub(1000);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

/// A single-threaded TCP and MPTCP stack over packet buffers of type `B`.
///
/// Sockets are plain TCP connections, MPTCP connections (which stay sockets of the same kind when
/// they fall back), listeners, deferred requests and datagram sockets; all are named by
/// [`SocketId`]s. A turn of whoever drives it is: packets in with [`Stack::handle_burst`], what is due
/// with [`Stack::handle_timeouts`], readiness out of [`Stack::poll_event`] and commands in answer to
/// it, packets out with [`Stack::poll_transmit`]; then it may sleep until a packet comes or
/// [`Stack::poll_timeout`]. The example `two_stacks` is a whole program.
///
/// ```
/// use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PortId};
/// use mptcp_core::config::{LocalAddress, StackConfig};
/// use mptcp_core::stack::{Connect, Listen, Ready, Stack};
/// use mptcp_core::time::Instant;
///
/// let now = Instant::from_millis(1);
/// let pool = HeapPool::new(1_000, 1_700); // buffers, octets of each
/// let host = |addr: &str, seed| {
///     let addr = addr.parse().unwrap();
///     let port = PortId::ROUTED;
///     let local = LocalAddress { addr, port, mtu: 1500, endpoint: true, backup: false };
///     let config =
///         StackConfig { addresses: vec![local], seed: [seed; 32], ..StackConfig::default() };
///     let memory: Box<dyn BufPool<HeapBuf> + Send> = Box::new(pool.clone());
///     Stack::new(config, now, memory)
/// };
/// let (mut client, mut server) = (host("10.0.0.1", 1), host("10.0.0.2", 2));
///
/// // What one sends the other receives at once, until both are silent.
/// let mut wire = HeapTxQueue::new(64, pool.clone());
/// let mut pass = |from: &mut Stack<HeapBuf>, to: &mut Stack<HeapBuf>| {
///     let _ = from.poll_transmit(now, &mut wire);
///     let mut burst: Vec<HeapBuf> = core::iter::from_fn(|| wire.pop()).collect();
///     let any = !burst.is_empty();
///     to.handle_burst(now, &mut burst);
///     any
/// };
/// let mut settle = |client: &mut Stack<HeapBuf>, server: &mut Stack<HeapBuf>| {
///     while pass(client, server) | pass(server, client) {}
/// };
///
/// let listen = Listen { mptcp: true, ..Listen::default() };
/// let listener = server.listen("10.0.0.2:80".parse()?, &listen)?;
/// let remote = "10.0.0.2:80".parse()?;
/// let local = "10.0.0.1".parse()?;
/// let with =
///     Connect { local, local_port: 0, remote, mptcp: true, timeout: None, user_data: 0 };
/// let ours = client.connect(now, &with)?;
/// settle(&mut client, &mut server);
/// assert!(client.poll_event().is_some_and(|event| event.ready.contains(Ready::CONNECTED)));
///
/// client.send(now, ours, b"hello").expect("room for it");
/// settle(&mut client, &mut server);
/// let theirs = server.accept(listener).expect("it is established");
/// let mut text = [0; 16];
/// assert_eq!(server.recv(now, theirs, &mut text), Ok(5));
/// assert_eq!(server.info(theirs).and_then(|info| info.mptcp), Some(1));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Stack<B: PacketBuf> {
    config: StackConfig,
    stats: Counters,
    rng: Rng,
    isn: IsnGenerator,
    cookies: SynCookies,
    rcv_wscale: u8,
    demux: Demux,
    numbering: Numbering,
    tcbs: Tcbs<B>,
    connections: Slab<Connection<B>>,
    requests: Slab<Request>,
    time_waits: Slab<TimeWait>,
    listeners: Slab<Listener>,
    udp: Slab<UdpSocket<B>>,
    /// Listening addresses and their listeners.
    listening: BTreeMap<SocketAddr, u32>,
    transparent: transparent::Transparent,
    relays: Slab<Relay>,
    /// A burst is being taken in; relays that it concerns move when all of it is in.
    taking_burst: bool,
    relays_due: Vec<u32>,
    meters: relay_caps::Meters,
    /// Relays that wait for a rate.
    held: relay_caps::Held,
    runs: coalesce::Runs<B>,
    /// Nothing between two calls but its memory.
    pulls: multipath::Pulls,
    /// TIME-WAIT entries, the oldest first.
    time_wait_order: IndexList,
    /// Connections and plain control blocks that nobody holds any more, the oldest first.
    orphans: IndexList,
    /// Nothing between two calls but its memory.
    views: views::Views,
    /// What a burst holds back; kept for its memory.
    train: train::Train<B>,
    wheel: TimerWheel,
    tx: IndexList,
    events: IndexList,
    replies: VecDeque<Stateless>,
    /// RSTs of connections of ours: at most as many as there can be control blocks, since nothing
    /// repeats them.
    resets: VecDeque<Stateless>,
    reply_budget: ReplyBudget,
    /// SYN cookies have their own: a flood of SYNs must not silence RSTs and challenges.
    cookie_budget: ReplyBudget,
    last_cookie: Option<Instant>,
    /// Errors about packets that we cannot take, with the port they leave by.
    icmp_errors: VecDeque<(PortId, Vec<u8>)>,
    icmp_budget: TokenBucket,
    /// From the first fragment on.
    reassembler: Option<Box<Reassembler<B>>>,
    pool: Box<dyn BufPool<B> + Send>,
    /// Where the last ephemeral port was, among them all.
    next_port: u32,
    destinations: destinations::Destinations,
    path_mtus: udp_mtu::PathMtus,
    own: own::OwnAddresses,
    fast_open: fast_open::FastOpen,
    deferrals: deferred::Deferrals<B>,
    observer: observe::Observer,
    /// What connections share about the paths they use.
    path_table: PathTable,
    path_manager: Box<dyn PathManager>,
    address_changes: multipath::AddressChanges,
    /// Plain sockets among the control blocks.
    plain_count: u32,
    waiting: memory::Waiting,
    writers: memory::Writers,
    stalled: memory::Stalled,
    warm: warm::Warm,
}

impl<B: PacketBuf> core::fmt::Debug for Stack<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stack").field("occupancy", &self.occupancy()).finish_non_exhaustive()
    }
}

/// How full every table is; all zero once the last connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Occupancy {
    /// TCP control blocks.
    pub tcbs: u32,
    /// MPTCP connections.
    pub connections: u32,
    /// Pending requests.
    pub requests: u32,
    /// TIME-WAIT entries.
    pub time_waits: u32,
    /// Relays.
    pub relays: u32,
    /// Datagram sockets, closed ones that still have something to send included.
    pub udp_sockets: u32,
    /// Entries of the 4-tuple table.
    pub flows: usize,
    /// Entries of the token table.
    pub tokens: usize,
    /// Paths whose state subflows share.
    pub paths: u32,
    /// Armed timers, and relays that wait for a rate.
    pub timers: u32,
    /// Connections and control blocks that have something to send.
    pub transmits: u32,
    /// Answers without state that wait to be sent.
    pub replies: usize,
    /// Sockets with readiness to report.
    pub events: u32,
}

impl<B: PacketBuf> Stack<B> {
    /// A stack at time `now` that draws buffers for copied data from `pool`. Every table is reserved
    /// here, in proportion to `config.limits`; what [`StackConfig::validate`] refuses is not looked
    /// for again and has no sensible effect.
    #[must_use]
    pub fn new(config: StackConfig, now: Instant, pool: Box<dyn BufPool<B> + Send>) -> Self {
        let limits = config.limits;
        let numbering = Numbering::new(&limits);
        let mut rng = Rng::from_seed(config.seed);
        let mut secret = [0; 16];
        rng.fill(&mut secret);
        let isn = IsnGenerator::new(secret);
        rng.fill(&mut secret);
        let cookies = SynCookies::new(secret);
        let flows = (limits.tcbs + limits.half_open + limits.time_wait) as usize;
        let next_port = rng.below(28_000);
        let path_table = PathTable::new(&mut rng, limits.paths);
        let tokens = (limits.connections + limits.half_open) as usize;
        let mut demux = Demux::new(&mut rng, flows, tokens, limits.udp_sockets as usize);
        demux.shard = steering::Shard::new(config.sharding.as_ref());
        Self {
            rcv_wscale: crate::tcp::scale_for(config.tcp.recv_buffer_max),
            stats: Counters::default(),
            isn,
            cookies,
            demux,
            numbering,
            tcbs: Slab::in_lines(limits.tcbs),
            connections: Slab::with_capacity(limits.connections),
            requests: Slab::with_capacity(limits.half_open),
            time_waits: Slab::with_capacity(limits.time_wait),
            listeners: Slab::with_capacity(limits.listeners),
            udp: Slab::with_capacity(limits.udp_sockets),
            listening: BTreeMap::new(),
            transparent: transparent::Transparent::default(),
            relays: Slab::with_capacity(limits.connections),
            taking_burst: false,
            relays_due: Vec::new(),
            meters: relay_caps::Meters::new(),
            held: relay_caps::Held::new(),
            runs: coalesce::Runs::new(),
            pulls: multipath::Pulls::default(),
            time_wait_order: IndexList::with_capacity(limits.time_wait),
            orphans: IndexList::with_capacity(limits.tcbs.saturating_add(limits.connections)),
            views: views::Views::default(),
            train: train::Train::new(),
            wheel: TimerWheel::with_capacity(numbering.capacity(), now),
            tx: IndexList::with_capacity(numbering.capacity()),
            events: IndexList::with_capacity(numbering.capacity()),
            replies: VecDeque::with_capacity(MAX_REPLIES),
            resets: VecDeque::new(),
            reply_budget: ReplyBudget::new(limits.stateless_replies_per_s, now),
            cookie_budget: ReplyBudget::new(limits.stateless_replies_per_s, now),
            last_cookie: None,
            icmp_errors: VecDeque::new(),
            icmp_budget: TokenBucket::new(ICMP_ERRORS_PER_S),
            reassembler: None,
            pool,
            next_port,
            destinations: destinations::Destinations::default(),
            path_mtus: udp_mtu::PathMtus::default(),
            own: own::OwnAddresses::new(&config.addresses),
            fast_open: fast_open::FastOpen::new(config.fast_open_seed.unwrap_or(config.seed), now),
            deferrals: deferred::Deferrals::default(),
            observer: observe::Observer::new(now),
            path_table,
            path_manager: path_manager(&config.mptcp),
            address_changes: multipath::AddressChanges::default(),
            plain_count: 0,
            waiting: memory::Waiting::new(limits.tcbs, limits.connections),
            writers: memory::Writers::default(),
            stalled: memory::Stalled::default(),
            warm: warm::Warm::new(),
            rng,
            config,
        }
    }

    /// Counters since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.stats
    }

    /// The configuration it runs with.
    #[must_use]
    pub const fn config(&self) -> &StackConfig {
        &self.config
    }

    /// How full every table is.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            tcbs: self.tcbs.len(),
            connections: self.connections.len(),
            requests: self.requests.len(),
            time_waits: self.time_waits.len(),
            relays: self.relays.len(),
            udp_sockets: self.udp.len(),
            flows: self.demux.flow_count(),
            tokens: self.demux.token_count(),
            paths: self.path_table.len(),
            timers: self.wheel.len() + self.held.len() as u32,
            transmits: self.tx.len(),
            replies: self.replies.len(),
            events: self.events.len() + self.deferrals.gone_count(),
        }
    }

    /// Resets that may well wait to be sent: whoever ends many connections at once does so in
    /// portions of as many.
    #[must_use]
    pub fn reset_room(&self) -> usize {
        MAX_REPLIES.saturating_sub(self.resets.len())
    }

    /// Open listeners.
    #[must_use]
    pub const fn listener_count(&self) -> u32 {
        self.listeners.len()
    }

    /// True when nothing waits to be sent.
    #[must_use]
    pub fn transmit_idle(&self) -> bool {
        self.tx.is_empty()
            && self.resets.is_empty()
            && self.replies.is_empty()
            && self.icmp_errors.is_empty()
    }

    fn local_address(&self, addr: IpAddr) -> Option<&LocalAddress> {
        self.config.addresses.get(self.own.find(addr)?)
    }

    /// Our addresses without the places of those that were removed.
    fn own_addresses(&self) -> impl Iterator<Item = &LocalAddress> {
        self.config.addresses.iter().filter(|local| !local.addr.is_unspecified())
    }

    /// Id by which peers know one of our addresses beyond a connection's first: its place in the
    /// configuration.
    fn address_id(&self, addr: IpAddr) -> Option<u8> {
        u8::try_from(self.own.find(addr)? + 1).ok()
    }

    fn mtu_of(&self, addr: IpAddr) -> u16 {
        self.local_address(addr).map_or(1280, |local| local.mtu)
    }

    /// MTU towards the peer of a flow that came in by `port`.
    fn mtu_towards(&self, tuple: &crate::tcp::Tuple, port: PortId) -> u16 {
        match self.local_address(tuple.local_addr) {
            Some(local) => local.mtu,
            None => self.mtu_of_port(port).unwrap_or(1280),
        }
    }

    /// The smallest that an address on `port` has.
    fn mtu_of_port(&self, port: PortId) -> Option<u16> {
        let of_port = self.own_addresses().filter(|local| local.port == port);
        of_port.map(|local| local.mtu).min()
    }

    // Readiness.

    fn want_transmit(&mut self, node: Node) {
        self.tx.push_back(self.numbering.number(node));
    }

    /// Makes sure the wheel fires for `node` no later than `deadline`; never moves a timer later,
    /// which then fires early and finds nothing to do.
    fn arm(&mut self, node: Node, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let number = self.numbering.number(node);
        if !self.wheel.fires_by(number, deadline) {
            self.wheel.arm(number, deadline);
        }
    }

    /// After anything happened to a control block: it may have to send, and its deadline moved.
    fn touch_tcb(&mut self, idx: u32) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let deadline = tcb.next_timeout();
        self.want_transmit(Node::Tcb(idx));
        self.arm(Node::Tcb(idx), deadline);
    }

    fn touch_connection(&mut self, idx: u32) {
        let Some(connection) = self.connections.get(idx) else { return };
        let deadline = connection.next_timeout();
        self.want_transmit(Node::Connection(idx));
        self.arm(Node::Connection(idx), deadline);
    }

    fn app(&mut self, sock: Sock) -> Option<&mut AppState> {
        match sock {
            Sock::Plain(idx) => self.tcbs.get_mut(idx).map(|t| &mut t.app),
            Sock::Mptcp(idx) => self.connections.get_mut(idx).map(|c| &mut c.app),
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => None,
        }
    }

    /// Reports readiness of a connection, once per edge.
    fn post(&mut self, sock: Sock, ready: Ready) {
        let Some(app) = self.app(sock) else { return };
        if !app.is_attached() {
            return;
        }
        app.pending |= ready;
        let node = match sock {
            Sock::Plain(idx) => Node::Tcb(idx),
            Sock::Mptcp(idx) => Node::Connection(idx),
            Sock::Listener(idx) => Node::Listener(idx),
            Sock::Request(idx) => Node::Request(idx),
            Sock::Udp(idx) => Node::Udp(idx),
        };
        self.events.push_back(self.numbering.number(node));
    }

    /// Data (or the end of the stream) can be read.
    fn post_readable(&mut self, now: Instant, sock: Sock, closed: bool) {
        let Some(app) = self.app(sock) else { return };
        if app.relay.is_some() {
            if closed {
                self.relay_progress(now, sock);
            } else {
                self.relay_due(now, sock, false);
            }
            return;
        }
        let mut ready = Ready::empty();
        if app.is.contains(AppFlags::READ_ARMED) || closed {
            app.is.remove(AppFlags::READ_ARMED);
            ready |= Ready::READABLE;
        }
        if closed {
            ready |= Ready::READ_CLOSED;
        }
        if !ready.is_empty() {
            self.post(sock, ready);
        }
    }

    /// The peer acknowledged: there is room in the send buffer again.
    fn post_writable(&mut self, now: Instant, sock: Sock) {
        let Some(app) = self.app(sock) else { return };
        if app.relay.is_some() {
            self.relay_due(now, sock, true);
        } else if app.is.contains(AppFlags::WRITE_ARMED) {
            app.is.remove(AppFlags::WRITE_ARMED);
            self.post(sock, Ready::WRITABLE);
        }
    }

    /// The next readiness report; O(1). A socket appears once however much happened to it.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.deferrals.pop_gone() {
            return Some(event);
        }
        while let Some(number) = self.events.pop_front() {
            let (sock, ready, user_data) = match self.numbering.node(number) {
                Node::Tcb(idx) => {
                    let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
                    let ready = core::mem::take(&mut tcb.app.pending);
                    (Sock::Plain(idx), ready, tcb.app.user_data)
                }
                Node::Connection(idx) => {
                    let Some(connection) = self.connections.get_mut(idx) else { continue };
                    let ready = core::mem::take(&mut connection.app.pending);
                    (Sock::Mptcp(idx), ready, connection.app.user_data)
                }
                Node::Listener(idx) => {
                    let Some(listener) = self.listeners.get_mut(idx) else { continue };
                    let ready = core::mem::take(&mut listener.pending);
                    (Sock::Listener(idx), ready, listener.options.user_data)
                }
                Node::Udp(idx) => {
                    let Some(socket) = self.udp.get_mut(idx) else { continue };
                    let ready = core::mem::take(&mut socket.pending);
                    (Sock::Udp(idx), ready, socket.user_data)
                }
                Node::Request(idx) => {
                    let Some((ready, user_data)) = self.deferrals.take_ready(idx) else { continue };
                    (Sock::Request(idx), ready, user_data)
                }
                Node::TimeWait(_) => continue,
            };
            if let Some(socket) = self.socket_id(sock)
                && !ready.is_empty()
            {
                return Some(Event { socket, ready, user_data });
            }
        }
        None
    }

    // Ids.

    fn socket_id(&self, sock: Sock) -> Option<SocketId> {
        let (kind, id) = match sock {
            Sock::Plain(idx) => (0, self.tcbs.id(idx)?),
            Sock::Mptcp(idx) => (1, self.connections.id(idx)?),
            Sock::Listener(idx) => (2, self.listeners.id(idx)?),
            Sock::Request(idx) => (3, self.requests.id(idx)?),
            Sock::Udp(idx) => (4, self.udp.id(idx)?),
        };
        Some(SocketId(id.0 | kind << KIND_SHIFT))
    }

    fn resolve(&self, id: SocketId) -> Option<Sock> {
        let slab = crate::util::slab::SlabId(id.0 & !(KIND_MASK << KIND_SHIFT));
        Some(match id.0 >> KIND_SHIFT & KIND_MASK {
            0 => {
                let idx = self.tcbs.index_of(slab)?;
                // A subflow's control block is no socket.
                self.tcbs.get(idx).filter(|t| t.subflow.is_none())?;
                Sock::Plain(idx)
            }
            1 => Sock::Mptcp(self.connections.index_of(slab)?),
            2 => Sock::Listener(self.listeners.index_of(slab)?),
            3 => Sock::Request(self.requests.index_of(slab)?),
            4 => {
                let idx = self.udp.index_of(slab)?;
                self.udp.get(idx).filter(|socket| !socket.is_closed())?;
                Sock::Udp(idx)
            }
            _ => return None,
        })
    }

    // Removal.

    /// Takes a control block out of every table.
    fn remove_tcb(&mut self, idx: u32) -> Option<Tcb<B>> {
        self.leave_fast_open(idx, false);
        let number = self.numbering.number(Node::Tcb(idx));
        self.wheel.cancel(number);
        self.tx.remove(number);
        self.events.remove(number);
        self.orphans.remove(number);
        self.observer.forget(number);
        self.waiting.forget_tcb(idx);
        let tcb = self.tcbs.remove(idx)?;
        match &tcb.subflow {
            None => self.plain_count -= 1,
            Some(subflow) => self.path_table.leave(subflow.path),
        }
        self.demux.remove(&tcb.ends.tuple(), Flow::Tcb(idx));
        Some(tcb)
    }

    /// A plain connection ended: the application is told, or the block is freed when nobody holds
    /// it.
    fn plain_closed(&mut self, now: Instant, idx: u32, error: Option<ConnectionError>) {
        self.leave_fast_open(idx, false);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let tuple = tcb.ends.tuple();
        if tcb.app.error.is_none() {
            tcb.app.error = error;
        }
        let attached = tcb.app.is_attached();
        let ended = crate::event_log::Event::Closed { error: tcb.app.error };
        // A relay moves the rest of a stream that ended, but a failed leg takes the other with it.
        if attached && (error.is_none() || tcb.app.relay.is_none()) {
            tcb.end();
        } else {
            tcb.kill();
        }
        self.demux.remove(&tuple, Flow::Tcb(idx));
        let sock = Sock::Plain(idx);
        self.observe_sock(sock, ended);
        if self.app(sock).is_some_and(|app| app.relay.is_some()) {
            self.relay_progress(now, sock);
        }
        if attached {
            self.post_closed(sock);
        } else {
            self.remove_tcb(idx);
        }
    }

    /// Reports the end of a connection, in a relay only once everything it received was passed on.
    fn post_closed(&mut self, sock: Sock) {
        let unread = self.unread(sock);
        let Some(app) = self.app(sock) else { return };
        if app.relay.is_some() && unread && app.error.is_none() {
            app.is.insert(AppFlags::CLOSE_PENDING);
            return;
        }
        app.is.remove(AppFlags::CLOSE_PENDING);
        self.post(sock, Ready::CLOSED | Ready::READABLE);
    }

    /// Received data waits for its reader.
    fn unread(&self, sock: Sock) -> bool {
        match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).is_some_and(|t| t.received.in_order_len() > 0),
            Sock::Mptcp(idx) => self.connections.get(idx).is_some_and(Connection::readable),
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => false,
        }
    }

    /// A connection that nobody holds and that has no subflow left is freed.
    fn reap_connection(&mut self, idx: u32) {
        let Some(connection) = self.connections.get(idx) else { return };
        if connection.app.is_attached()
            || !connection.subflows.is_empty()
            || connection.half_open > 0
            || connection.phase != crate::mptcp::Phase::Closed
        {
            return;
        }
        self.demux.remove_token(connection.local_token, TokenOwner::Connection(idx));
        let number = self.numbering.number(Node::Connection(idx));
        self.wheel.cancel(number);
        self.tx.remove(number);
        self.events.remove(number);
        self.orphans.remove(number);
        self.observer.forget(number);
        self.waiting.forget_connection(idx);
        self.connections.remove(idx);
    }

    fn tuple_free(&self, tuple: &crate::tcp::Tuple) -> bool {
        self.find_flow(tuple).is_none()
    }
}

/// Of the same family.
const fn unspecified(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Splits the borrow: what every engine call needs beside the block it works on.
macro_rules! env {
    ($stack:expr, $now:expr) => {
        $crate::tcp::Env { now: $now, config: &$stack.config.tcp, stats: &mut $stack.stats }
    };
}
pub(crate) use env;

/// Octets an idle relayed session keeps: an MPTCP connection with two subflows, its exit, the
/// relay. Buffers are not among them: an idle connection holds none.
pub(crate) const IDLE_SESSION: usize = 3 * size_of::<Tcb<HeapBuf>>()
    + 2 * size_of::<crate::mptcp::Subflow>()
    + size_of::<Connection<HeapBuf>>()
    + size_of::<Relay>();
const _: () = assert!(IDLE_SESSION <= 1_464);
