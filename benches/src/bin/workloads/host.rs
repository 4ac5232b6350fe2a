//! The ends: a phone with its clients and a server, on stacks of ours. What they do is not measured.

use crate::packet::{Outbox, Packet, Pool};
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{PacketBuf as _, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Connect, Listen, Ready, SocketId, Stack};
use mptcp_core::tcp::State;
use mptcp_core::time::Instant;
use std::collections::BTreeMap;

pub(crate) const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(v4(1, 1)), 1080);
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(v4(9, 2)), 80);
const PHONE: [IpAddr; 2] = [IpAddr::V4(v4(1, 2)), IpAddr::V4(v4(2, 2))];

const BLOCK: [u8; 16 << 10] = [0x5a; 16 << 10];

/// Host `host` of network `network`.
const fn v4(network: u8, host: u8) -> core::net::Ipv4Addr {
    core::net::Ipv4Addr::new(10, network, 0, host)
}

/// What passes through a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// From the server without end.
    Download,
    /// To the server without end.
    Upload,
    /// An octet there and back, then the end, once there are so many subflows.
    Echo { subflows: usize },
}

/// How clients connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Over MPTCP, with a subflow on each access.
    pub(crate) mptcp: bool,
    /// Asks by SOCKS5; otherwise whoever listens knows where to connect to.
    pub(crate) socks5: bool,
    pub(crate) load: Load,
}

/// A stack, what has arrived for it, and what it sends.
struct Host {
    stack: Stack<Packet>,
    inbox: Vec<Packet>,
    outbox: Outbox,
}

impl Host {
    fn new(addresses: &[IpAddr], subflows: u8, seed: u8, now: Instant) -> Self {
        let local = |addr: &IpAddr| LocalAddress {
            addr: *addr,
            port: PortId::ROUTED,
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let mut config = StackConfig {
            addresses: addresses.iter().map(local).collect(),
            seed: [seed; 32],
            ..StackConfig::default()
        };
        config.mptcp.max_subflows = subflows;
        let stack = Stack::new(config, now, Box::new(Pool));
        Self { stack, inbox: Vec::new(), outbox: Outbox::new(4096) }
    }

    /// Takes in what has arrived, two packets at a time: every second segment is acknowledged (RFC 9293 §3.8.6.3),
    /// however many come together.
    fn receive(&mut self, now: Instant, mut send: impl FnMut(Packet)) {
        let mut arrived = core::mem::take(&mut self.inbox).into_iter();
        let mut pair = Vec::with_capacity(2);
        loop {
            pair.extend(arrived.by_ref().take(2));
            if pair.is_empty() {
                break;
            }
            self.stack.handle_burst(now, &mut pair);
            self.transmit(now, &mut send);
        }
        while self.stack.handle_timeouts(now, 256) == Progress::More {}
    }

    fn transmit(&mut self, now: Instant, mut send: impl FnMut(Packet)) {
        loop {
            let progress = self.stack.poll_transmit(now, &mut self.outbox);
            while let Some(packet) = self.outbox.pop() {
                send(packet);
            }
            if progress == Progress::Done {
                return;
            }
        }
    }

    /// Reads what is there: how many octets, and whether the stream has ended.
    fn read(&mut self, now: Instant, id: SocketId) -> (usize, bool) {
        let mut octets = 0;
        loop {
            match self.stack.recv_buf(now, id) {
                Ok(Some(buf)) => octets += buf.data().len(),
                Ok(None) => return (octets, true),
                Err(_) => return (octets, false),
            }
        }
    }

    /// Writes as much as there is room for.
    fn write_on(&mut self, now: Instant, id: SocketId) {
        while self.stack.send(now, id, &BLOCK).is_ok() {}
    }
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Has said which methods it knows.
    Greeted,
    /// Has said where to connect to.
    Asked,
    Open,
    /// Waits for its octet.
    Echoed,
    Ending,
}

#[derive(Debug)]
struct Client {
    stage: Stage,
    /// To be written before anything else.
    output: &'static [u8],
    /// Octets of replies still to come.
    missing: usize,
}

const GREETING: &[u8] = &[5, 1, 0];
const REQUEST: &[u8] = &[5, 1, 0, 1, 10, 9, 0, 2, 0, 80];

/// The phone.
pub(crate) struct Phone {
    host: Host,
    wish: Wish,
    clients: BTreeMap<SocketId, Client>,
    /// Octets received on open sessions.
    pub(crate) received: u64,
    /// Clients that are done.
    pub(crate) done: u32,
}

impl Phone {
    pub(crate) fn new(wish: Wish, now: Instant) -> Self {
        let host = Host::new(&PHONE, 2, 1, now);
        Self { host, wish, clients: BTreeMap::new(), received: 0, done: 0 }
    }

    /// A new client connects.
    pub(crate) fn start(&mut self, now: Instant) {
        let with = Connect {
            local: PHONE[0],
            local_port: 0,
            remote: GATEWAY,
            mptcp: self.wish.mptcp,
            timeout: None,
            user_data: 0,
        };
        let id = self.host.stack.connect(now, &with).expect("a connection");
        let client = if self.wish.socks5 {
            Client { stage: Stage::Greeted, output: GREETING, missing: 2 }
        } else {
            Client { stage: Stage::Open, output: &[], missing: 0 }
        };
        self.clients.insert(id, client);
    }

    pub(crate) fn inbox(&mut self) -> &mut Vec<Packet> {
        &mut self.host.inbox
    }

    /// Clients at work.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Subflows of each client.
    pub(crate) fn subflows(&self) -> impl Iterator<Item = usize> + '_ {
        self.clients.keys().map(|id| established(&self.host.stack, *id))
    }

    pub(crate) fn turn(&mut self, now: Instant, mut send: impl FnMut(Packet)) {
        self.host.receive(now, &mut send);
        for (id, client) in &mut self.clients {
            self.received += drive(&mut self.host, now, *id, client, self.wish.load);
        }
        while let Some(event) = self.host.stack.poll_event() {
            if event.ready.contains(Ready::CLOSED) {
                assert_eq!(self.host.stack.error(event.socket), None, "a client's connection");
                self.clients.remove(&event.socket);
                self.host.stack.release(event.socket);
                self.done += 1;
            }
        }
        self.host.transmit(now, send);
    }
}

fn established(stack: &Stack<Packet>, id: SocketId) -> usize {
    let subflows = stack.info(id).map(|info| info.subflows).unwrap_or_default();
    subflows.iter().filter(|subflow| subflow.state == State::Established).count()
}

/// What a client does next; answers how many octets of its session it received.
fn drive(host: &mut Host, now: Instant, id: SocketId, client: &mut Client, load: Load) -> u64 {
    if !client.output.is_empty()
        && let Ok(written) = host.stack.send(now, id, client.output)
    {
        client.output = &client.output[written..];
    }
    let (octets, ended) = host.read(now, id);
    let replies = octets.min(client.missing);
    client.missing -= replies;
    if !client.output.is_empty() || client.missing > 0 {
        return 0;
    }
    match (client.stage, load) {
        (Stage::Greeted, _) => {
            *client = Client { stage: Stage::Asked, output: REQUEST, missing: 10 };
        }
        (Stage::Asked, _) => client.stage = Stage::Open,
        (Stage::Open, Load::Download) => {}
        (Stage::Open, Load::Upload) => host.write_on(now, id),
        (Stage::Open, Load::Echo { subflows }) => {
            if established(&host.stack, id) >= subflows {
                *client = Client { stage: Stage::Echoed, output: &[1], missing: 1 };
            }
        }
        (Stage::Echoed, _) => {
            host.stack.shutdown_write(now, id);
            client.stage = Stage::Ending;
        }
        (Stage::Ending, _) => assert!(octets == 0 || ended, "nothing comes behind the echo"),
    }
    (octets - replies) as u64
}

/// The server behind the gateway.
pub(crate) struct Server {
    host: Host,
    load: Load,
    listener: SocketId,
    /// Connections, and whether ours of the two streams has ended.
    served: BTreeMap<SocketId, bool>,
    /// Octets received.
    pub(crate) received: u64,
}

impl Server {
    pub(crate) fn new(load: Load, now: Instant) -> Self {
        let mut host = Host::new(&[SERVER.ip()], 1, 2, now);
        let listener = host.stack.listen(SERVER, &Listen::default()).expect("a listener");
        Self { host, load, listener, served: BTreeMap::new(), received: 0 }
    }

    pub(crate) fn inbox(&mut self) -> &mut Vec<Packet> {
        &mut self.host.inbox
    }

    pub(crate) fn turn(&mut self, now: Instant, mut send: impl FnMut(Packet)) {
        self.host.receive(now, &mut send);
        while let Some(id) = self.host.stack.accept(self.listener) {
            self.served.insert(id, false);
        }
        for (id, shut) in &mut self.served {
            let (octets, ended) = self.host.read(now, *id);
            self.received += octets as u64;
            match self.load {
                Load::Download => self.host.write_on(now, *id),
                Load::Upload => {}
                Load::Echo { .. } if octets > 0 => {
                    let sent = self.host.stack.send(now, *id, &BLOCK[..octets]);
                    assert_eq!(sent, Ok(octets), "room for an octet");
                }
                Load::Echo { .. } => {}
            }
            if ended && !*shut {
                *shut = true;
                self.host.stack.shutdown_write(now, *id);
            }
        }
        while let Some(event) = self.host.stack.poll_event() {
            if event.ready.contains(Ready::CLOSED) && event.socket != self.listener {
                self.served.remove(&event.socket);
                self.host.stack.release(event.socket);
            }
        }
        self.host.transmit(now, send);
    }
}
