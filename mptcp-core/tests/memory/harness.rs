//! A client with plenty of memory and a server with little, a millisecond apart.

use core::net::IpAddr;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId, TxQueue};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Connect, Listen, SocketId, Stack};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{IpHeader, TcpSegment};

pub(crate) const LIMIT: usize = 400;
pub(crate) const RESERVE: usize = 100;
/// Packets handed over at once: they fit into the half of the reserve that nothing is kept in.
const BURST: usize = 32;
/// What a connection may hold while memory is low, octets of truesize.
pub(crate) const FAIR_SHARE: usize = 64 << 10;

/// Refuses copies, as a driver does while its pool is short.
pub(crate) struct NoCopies(HeapTxQueue);

impl TxQueue<HeapBuf> for NoCopies {
    fn room(&self) -> usize {
        self.0.room()
    }
    fn alloc(&mut self) -> Option<HeapBuf> {
        self.0.alloc()
    }
    fn alloc_copy(&mut self) -> Option<HeapBuf> {
        None
    }
    fn push(&mut self, packet: HeapBuf) {
        self.0.push(packet);
    }
}

pub(crate) struct Host {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) pool: HeapPool,
    tx: NoCopies,
}

impl Host {
    fn new(addrs: &[&str], limit: usize, reserve: usize) -> Self {
        let local = |addr: &&str| LocalAddress {
            addr: addr.parse().expect("an address"),
            port: PortId::ROUTED,
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let pool = HeapPool::new(limit, 1500);
        let config =
            StackConfig { addresses: addrs.iter().map(local).collect(), ..StackConfig::default() };
        let own = pool.clone().with_reserve(reserve);
        let stack = Stack::new(config, Instant::from_millis(1), Box::new(own));
        let tx = NoCopies(HeapTxQueue::new(BURST, pool.clone()));
        Self { stack, pool, tx }
    }

    /// Hands everything this host has to send to `other`, into memory of that host, except what
    /// `lost` names.
    fn send_to(&mut self, other: &mut Self, now: Instant, lost: &dyn Fn(IpAddr, &[u8]) -> bool) {
        loop {
            let progress = self.stack.poll_transmit(now, &mut self.tx);
            let mut burst = Vec::new();
            while let Some(packet) = self.tx.0.pop() {
                let header = IpHeader::parse(packet.data()).expect("an IP packet");
                let tcp = &packet.data()[header.header_len..header.total_len];
                if lost(header.src, TcpSegment::parse(tcp).expect("a TCP segment").payload) {
                    continue;
                }
                let Some(mut buf) = other.pool.alloc() else { panic!("no memory to receive") };
                buf.append(packet.data().len())
                    .expect("a packet fits")
                    .copy_from_slice(packet.data());
                burst.push(buf);
            }
            let sent = !burst.is_empty();
            other.stack.handle_burst(now, &mut burst);
            if progress == Progress::Done || !sent {
                return;
            }
        }
    }
}

pub(crate) struct Pair {
    pub(crate) client: Host,
    pub(crate) server: Host,
    pub(crate) listener: SocketId,
    pub(crate) now: Instant,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::from(&["10.0.0.1"])
    }

    /// The client has these addresses.
    pub(crate) fn from(addrs: &[&str]) -> Self {
        let client = Host::new(addrs, 8192, 0);
        let mut server = Host::new(&["10.0.0.2"], LIMIT, RESERVE);
        let options = Listen { mptcp: true, ..Listen::default() };
        let listener = server
            .stack
            .listen("10.0.0.2:7".parse().expect("an address"), &options)
            .expect("a free address");
        Self { client, server, listener, now: Instant::from_millis(1) }
    }

    pub(crate) fn connect(&mut self, mptcp: bool) -> SocketId {
        let with = Connect {
            local: "10.0.0.1".parse().expect("an address"),
            local_port: 0,
            remote: "10.0.0.2:7".parse().expect("an address"),
            mptcp,
            timeout: None,
            user_data: 0,
        };
        self.client.stack.connect(self.now, &with).expect("there is room")
    }

    /// What the server accepted since.
    pub(crate) fn accepted(&mut self) -> Vec<SocketId> {
        core::iter::from_fn(|| self.server.stack.accept(self.listener)).collect()
    }

    pub(crate) fn run(&mut self, ms: u64) {
        self.run_losing(ms, &|_, _| false);
    }

    /// Of the client's segments those get lost that `lost` names by their source and text.
    pub(crate) fn run_losing(&mut self, ms: u64, lost: &dyn Fn(IpAddr, &[u8]) -> bool) {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            let now = self.now;
            let _ = self.client.stack.handle_timeouts(now, 1000);
            let _ = self.server.stack.handle_timeouts(now, 1000);
            self.client.send_to(&mut self.server, now, lost);
            self.server.send_to(&mut self.client, now, &|_, _| false);
        }
    }

    pub(crate) fn refused(&self) -> u64 {
        self.server.stack.counters().tcp_rcv_q_drop
    }

    /// Everything the server can read of `id` now.
    pub(crate) fn read(&mut self, id: SocketId, into: &mut Vec<u8>) {
        while let Ok(Some(buf)) = self.server.stack.recv_buf(self.now, id) {
            into.extend_from_slice(buf.data());
        }
    }
}
