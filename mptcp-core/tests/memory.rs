//! A host whose packet memory runs short: received text is refused before it is acknowledged, and
//! everything that keeps no memory still gets through.

use mptcp_core::buf::{
    BufPool, HEADROOM, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId, TxQueue,
};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Connect, Listen, SocketId, Stack};
use mptcp_core::time::{Duration, Instant};

const LIMIT: usize = 400;
const RESERVE: usize = 100;
/// What a connection may hold while memory is low, octets of truesize.
const FAIR_SHARE: usize = 64 << 10;
/// Octets on each connection: together several times what the host can hold.
const STREAM: usize = 256 << 10;

/// Refuses copies, as a driver does while its pool is short.
struct NoCopies(HeapTxQueue);

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

struct Host {
    stack: Stack<HeapBuf>,
    pool: HeapPool,
    tx: NoCopies,
}

impl Host {
    fn new(addr: &str, limit: usize, reserve: usize) -> Self {
        let local = LocalAddress {
            addr: addr.parse().expect("an address"),
            port: PortId::ROUTED,
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let pool = HeapPool::new(limit, 1500);
        let config = StackConfig { addresses: vec![local], ..StackConfig::default() };
        let own = pool.clone().with_reserve(reserve);
        let stack = Stack::new(config, Instant::from_millis(1), Box::new(own));
        let tx = NoCopies(HeapTxQueue::new(64, pool.clone()));
        Self { stack, pool, tx }
    }

    /// Hands everything this host has to send to `other`, into memory of that host, except what
    /// `lost` names.
    fn send_to(&mut self, other: &mut Self, now: Instant, lost: impl Fn(&[u8]) -> bool) {
        loop {
            let progress = self.stack.poll_transmit(now, &mut self.tx);
            let mut burst = Vec::new();
            while let Some(packet) = self.tx.0.pop() {
                if lost(packet.data()) {
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

struct Pair {
    client: Host,
    server: Host,
    listener: SocketId,
    now: Instant,
    /// The client's segments without text get lost.
    acks_lost: bool,
}

impl Pair {
    fn new() -> Self {
        let client = Host::new("10.0.0.1", 8192, 0);
        let mut server = Host::new("10.0.0.2", LIMIT, RESERVE);
        let options = Listen { mptcp: true, ..Listen::default() };
        let listener = server
            .stack
            .listen("10.0.0.2:7".parse().expect("an address"), &options)
            .expect("a free address");
        Self { client, server, listener, now: Instant::from_millis(1), acks_lost: false }
    }

    fn connect(&mut self, mptcp: bool) -> SocketId {
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

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            let now = self.now;
            let _ = self.client.stack.handle_timeouts(now, 1000);
            let _ = self.server.stack.handle_timeouts(now, 1000);
            let acks_lost = self.acks_lost;
            let lost =
                |packet: &[u8]| acks_lost && packet.len() == 20 + usize::from(packet[32] >> 4) * 4;
            self.client.send_to(&mut self.server, now, lost);
            self.server.send_to(&mut self.client, now, |_| false);
        }
    }

    fn refused(&self) -> u64 {
        self.server.stack.counters().tcp_rcv_q_drop
    }
}

/// Octet `n` of connection `which`.
fn octet(which: usize, n: usize) -> u8 {
    (n % 251) as u8 ^ (which as u8) << 5
}

fn stream(which: usize) -> Vec<u8> {
    (0..STREAM).map(|n| octet(which, n)).collect()
}

#[test]
fn text_is_refused_while_memory_is_short_and_nothing_else() {
    let mut pair = Pair::new();
    let clients: Vec<SocketId> = (0..6).map(|n| pair.connect(n % 2 == 0)).collect();
    pair.run(10);
    let mut servers = Vec::new();
    while let Some(id) = pair.server.stack.accept(pair.listener) {
        servers.push(id);
    }
    assert_eq!(servers.len(), clients.len());
    for (which, id) in clients.iter().enumerate() {
        assert_eq!(pair.client.stack.send(pair.now, *id, &stream(which)), Ok(STREAM));
        pair.client.stack.shutdown_write(pair.now, *id);
    }
    pair.run(3000);
    assert!(pair.refused() > 0);
    let in_use = pair.server.pool.in_use();
    // Below this everybody is served, above it who holds less than its share, and nobody in the reserve.
    let low = LIMIT - RESERVE - LIMIT / 8;
    assert!((low..LIMIT - RESERVE).contains(&in_use), "{in_use}");

    // A connection can be opened, and data of ours is acknowledged by segments whose text is
    // refused: the other kind is lost.
    let late = pair.connect(true);
    pair.run(1000);
    assert!(pair.server.stack.accept(pair.listener).is_some());
    pair.acks_lost = true;
    for id in &servers {
        assert_eq!(pair.server.stack.send(pair.now, *id, b"answer"), Ok(6));
    }
    pair.run(30_000);
    for id in &servers {
        assert_eq!(pair.server.stack.info(*id).unwrap().bytes_acked, 6);
    }
    assert_eq!(pair.server.pool.in_use(), in_use);
    pair.acks_lost = false;

    // Once the reader goes on, every stream is complete.
    let mut received = vec![Vec::new(); servers.len()];
    let mut shares = Vec::new();
    for id in &servers {
        let mut share = 0;
        while let Ok(Some(buf)) = pair.server.stack.recv_buf(pair.now, *id) {
            share += buf.truesize();
            received[shares.len()].extend_from_slice(buf.data());
        }
        shares.push(share);
    }
    // While memory was short each got its share all the same, and together they held what was in use.
    let buffer = HeapBuf::with_capacity(HEADROOM, 1500).truesize();
    // Who has less of it in order holds the rest behind a hole.
    let missing: usize = shares.iter().map(|share| FAIR_SHARE.saturating_sub(*share)).sum();
    let behind = in_use * buffer - shares.iter().sum::<usize>();
    assert!(missing <= behind && behind < FAIR_SHARE, "{shares:?}, {behind} behind holes");
    assert!(shares.iter().any(|&share| share < FAIR_SHARE + buffer), "{shares:?}");
    for _ in 0..600 {
        pair.run(200);
        for (id, into) in servers.iter().zip(&mut received) {
            while let Ok(Some(buf)) = pair.server.stack.recv_buf(pair.now, *id) {
                into.extend_from_slice(buf.data());
            }
        }
    }
    for (which, received) in received.iter().enumerate() {
        assert_eq!(received.len(), STREAM, "connection {which}");
        assert!(received.iter().enumerate().all(|(n, &byte)| byte == octet(which, n)));
    }
    assert_eq!(pair.server.stack.error(servers[0]), None);
    assert_eq!(pair.server.pool.in_use(), 0);
    pair.client.stack.abort(pair.now, late);
}

/// Octets of two buffers go out in two segments when there is no third buffer to join them in.
#[test]
fn a_stream_in_small_buffers_is_sent_without_copies() {
    for mptcp in [false, true] {
        let mut pair = Pair::new();
        let client = pair.connect(mptcp);
        pair.run(10);
        let server = pair.server.stack.accept(pair.listener).unwrap();
        let sent: Vec<u8> = (0..20_000).map(|n| octet(1, n)).collect();
        for part in sent.chunks(999) {
            let mut buf = pair.client.pool.alloc().unwrap();
            buf.append(part.len()).unwrap().copy_from_slice(part);
            pair.client.stack.send_buf(client, buf).unwrap();
        }
        let mut received = Vec::new();
        for _ in 0..100 {
            pair.run(20);
            while let Ok(Some(buf)) = pair.server.stack.recv_buf(pair.now, server) {
                received.extend_from_slice(buf.data());
            }
        }
        assert!(received == sent, "{} of {} octets", received.len(), sent.len());
    }
}
