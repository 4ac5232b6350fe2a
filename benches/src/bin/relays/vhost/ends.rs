//! A phone with two accesses and a server, on stacks of ours in one loop: what the gateway stands between.

use crate::bed::{CLIENT, SERVER};
use crate::load::{Direction, PORT, Target, Way};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use dpdk_io::{Driver, Mbuf};
use mptcp_core::buf::{PacketBuf as _, PortId, TxQueue};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::stack::{Connect, Listen, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

/// Ports 0 and 1 are the phone's.
const SERVER_PORT: PortId = PortId(2);
const BLOCK: [u8; 16 << 10] = [0x5a; 16 << 10];

/// What to do from now on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// So many streams, after what was there has been cut off.
    Carry { target: Target, direction: Direction, streams: usize },
    /// No more of it.
    Rest,
}

/// What others may know while the loop runs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Octets of the streams that have arrived.
    pub(super) octets: AtomicU64,
    /// Connections that ended before they were told to.
    pub(super) failures: AtomicU64,
    /// Subflows beyond the first of a connection.
    pub(super) joins: AtomicU64,
}

#[derive(Debug)]
struct Client {
    /// To be written before the stream.
    request: Vec<u8>,
    /// Octets of replies still to come.
    missing: usize,
}

/// The loop's worker.
pub(super) struct Ends {
    phone: Stack<Mbuf>,
    server: Stack<Mbuf>,
    listener: SocketId,
    clients: BTreeMap<SocketId, Client>,
    served: BTreeSet<SocketId>,
    order: Order,
    orders: Receiver<Order>,
    seen: Arc<Seen>,
    /// What arrived for the server, of a burst.
    for_server: Vec<Mbuf>,
}

impl Ends {
    pub(super) fn new(driver: &Driver, orders: Receiver<Order>, seen: Arc<Seen>) -> Self {
        let now = driver.clock().now();
        let stack = |addresses: &[(Ipv4Addr, PortId)], seed| {
            let local = |&(addr, port): &(Ipv4Addr, PortId)| LocalAddress {
                addr: addr.into(),
                port,
                mtu: 1500,
                endpoint: true,
                backup: false,
            };
            let addresses = addresses.iter().map(local).collect();
            let config = StackConfig { addresses, seed: [seed; 32], ..StackConfig::default() };
            Stack::new(config, now, Box::new(driver.pool(0)))
        };
        let phone = stack(&[(CLIENT[0], PortId(0)), (CLIENT[1], PortId(1))], 1);
        let mut server = stack(&[(SERVER, SERVER_PORT)], 2);
        let address = SocketAddr::from((SERVER, PORT));
        let listener = server.listen(address, &Listen::default()).expect("an address of its own");
        Self {
            phone,
            server,
            listener,
            clients: BTreeMap::new(),
            served: BTreeSet::new(),
            order: Order::Rest,
            orders,
            seen,
            for_server: Vec::new(),
        }
    }

    fn begin(&mut self, now: Instant, order: Order) {
        for id in core::mem::take(&mut self.clients).into_keys() {
            self.phone.abort(now, id);
            self.phone.release(id);
        }
        self.order = order;
        let Order::Carry { target, streams, .. } = order else { return };
        let with = Connect {
            local: IpAddr::V4(CLIENT[0]),
            local_port: 0,
            remote: target.address,
            mptcp: target.mptcp,
            timeout: None,
            user_data: 0,
        };
        for _ in 0..streams {
            match self.phone.connect(now, &with) {
                Ok(id) => {
                    let (request, missing) = greeting(target.way);
                    self.clients.insert(id, Client { request, missing });
                }
                Err(_) => self.fail(),
            }
        }
    }

    fn fail(&self) {
        self.seen.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn direction(&self) -> Option<Direction> {
        match self.order {
            Order::Carry { direction, .. } => Some(direction),
            Order::Rest => None,
        }
    }

    /// The phone's side of the streams; answers how many octets arrived.
    fn drive_clients(&mut self, now: Instant) -> usize {
        let (up, mut octets) = (self.direction() == Some(Direction::Up), 0);
        for (&id, client) in &mut self.clients {
            if !client.request.is_empty()
                && let Ok(written) = self.phone.send(now, id, &client.request)
            {
                client.request.drain(..written);
            }
            let arrived = read(&mut self.phone, now, id);
            let replies = arrived.min(client.missing);
            client.missing -= replies;
            octets += arrived - replies;
            if up && client.request.is_empty() && client.missing == 0 {
                write_on(&mut self.phone, now, id);
            }
        }
        octets
    }

    fn drive_server(&mut self, now: Instant) -> usize {
        while let Some(id) = self.server.accept(self.listener) {
            self.served.insert(id);
        }
        let (down, mut octets) = (self.direction() == Some(Direction::Down), 0);
        for &id in &self.served {
            octets += read(&mut self.server, now, id);
            if down {
                write_on(&mut self.server, now, id);
            }
        }
        octets
    }

    fn bury(&mut self) {
        while let Some(event) = self.phone.poll_event() {
            if event.ready.contains(Ready::CLOSED) && self.clients.remove(&event.socket).is_some() {
                self.phone.release(event.socket);
                self.fail();
            }
        }
        while let Some(event) = self.server.poll_event() {
            if event.ready.contains(Ready::CLOSED) && self.served.remove(&event.socket) {
                self.server.release(event.socket);
            }
        }
    }
}

/// What a client says first, and how many octets answer it.
fn greeting(way: Way) -> (Vec<u8>, usize) {
    match way {
        Way::Straight => (Vec::new(), 0),
        Way::Socks5(server) => {
            let mut words = vec![5, 1, 0, 5, 1, 0];
            match server {
                SocketAddr::V4(v4) => {
                    words.push(1);
                    words.extend(v4.ip().octets());
                }
                SocketAddr::V6(v6) => {
                    words.push(4);
                    words.extend(v6.ip().octets());
                }
            }
            words.extend(server.port().to_be_bytes());
            // The exit's address is of the server's family, so the reply is as long as the request.
            let missing = 2 + words.len() - 3;
            (words, missing)
        }
    }
}

fn read(stack: &mut Stack<Mbuf>, now: Instant, id: SocketId) -> usize {
    let mut octets = 0;
    while let Ok(Some(buf)) = stack.recv_buf(now, id) {
        octets += buf.packet_len();
    }
    octets
}

fn write_on(stack: &mut Stack<Mbuf>, now: Instant, id: SocketId) {
    while stack.send(now, id, &BLOCK).is_ok() {}
}

impl Worker<Mbuf> for Ends {
    fn handle_burst(&mut self, now: Instant, burst: &mut Vec<Mbuf>) {
        let for_server = &mut self.for_server;
        for_server.extend(burst.extract_if(.., |packet| packet.rx_meta().port == SERVER_PORT));
        self.phone.handle_burst(now, burst);
        self.server.handle_burst(now, for_server);
    }

    fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress {
        let phone = self.phone.handle_timeouts(now, budget);
        let server = self.server.handle_timeouts(now, budget);
        if phone == Progress::Done { server } else { phone }
    }

    fn handle_events(&mut self, now: Instant) {
        let octets = self.drive_clients(now) + self.drive_server(now);
        self.seen.octets.fetch_add(octets as u64, Ordering::Relaxed);
        self.bury();
        self.seen.joins.store(self.phone.counters().mp_join_syn_ack_rx, Ordering::Relaxed);
    }

    fn poll_transmit<T: TxQueue<Mbuf>>(&mut self, now: Instant, tx: &mut T) -> Progress {
        let phone = self.phone.poll_transmit(now, tx);
        let server = self.server.poll_transmit(now, tx);
        if phone == Progress::Done { server } else { phone }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.phone.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min()
    }

    fn poll_control(&mut self, now: Instant) -> Control {
        match self.orders.try_recv() {
            Ok(order) => self.begin(now, order),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Control::Stop,
        }
        Control::Continue
    }
}
