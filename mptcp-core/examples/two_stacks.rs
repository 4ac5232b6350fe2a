//! Two stacks back to back in one process: no kernel, no thread, no real time. A client with two
//! addresses uploads to a server over two paths of different length; at the end both say what they
//! know of the connection, and the client's event log says why.
//!
//! ```text
//! cargo run -p mptcp-core --example two_stacks            # a report
//! cargo run -p mptcp-core --example two_stacks -- log     # and the event log as JSON lines
//! ```

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::error::{RecvError, SendError};
use mptcp_core::event_log;
use mptcp_core::stack::{Connect, ConnectionInfo, Listen, Ready, SocketId, Stack};
use mptcp_core::time::{Duration, Instant};
use std::collections::VecDeque;

/// Octets that the client sends.
const UPLOAD: usize = 16 << 20;
/// One way, by the host number of the client's address: path 1 and path 2.
const DELAYS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(20)];
/// Octets per second of each path, either way.
const RATE: u64 = 12_500_000;
/// What would wait for longer before its path is lost.
const QUEUE: Duration = Duration::from_millis(15);

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));

/// The client's address on a path.
const fn client(path: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, path, 0, 2))
}

/// One end: a stack, the memory its packets live in, and the queue it fills.
struct Host {
    stack: Stack<HeapBuf>,
    pool: HeapPool,
    tx: HeapTxQueue,
}

impl Host {
    fn new(addresses: &[IpAddr], seed: u8, now: Instant) -> Self {
        let local = |&addr: &IpAddr| LocalAddress {
            addr,
            // There are no ports here: packets find their way by their addresses.
            port: PortId::ROUTED,
            mtu: 1500,
            // The client opens subflows from it, the server announces it.
            endpoint: true,
            backup: false,
        };
        let config = StackConfig {
            addresses: addresses.iter().map(local).collect(),
            // Secret and fresh in production: keys, ISNs and ports follow from it.
            seed: [seed; 32],
            ..StackConfig::default()
        };
        // Buffers of 1,700 octets, 4,096 at most at once.
        let pool = HeapPool::new(4_096, 1_700);
        let memory: Box<dyn BufPool<HeapBuf> + Send> = Box::new(pool.clone());
        let stack = Stack::new(config, now, memory);
        Self { stack, tx: HeapTxQueue::new(64, pool.clone()), pool }
    }
}

/// A packet under way.
struct Flying {
    at: Instant,
    to_server: bool,
    bytes: Vec<u8>,
}

/// The network: packets in the order in which they arrive, and when each path is free again.
#[derive(Default)]
struct Net {
    flying: VecDeque<Flying>,
    free_at: [[Option<Instant>; 2]; 2],
}

impl Net {
    /// Takes what a host has to send.
    fn collect(&mut self, now: Instant, host: &mut Host, to_server: bool) {
        loop {
            // The stack fills the queue as far as there is room; `More` means that it has more.
            let progress = host.stack.poll_transmit(now, &mut host.tx);
            while let Some(packet) = host.tx.pop() {
                self.send(now, to_server, packet.to_vec());
            }
            if progress == Progress::Done {
                return;
            }
        }
    }

    fn send(&mut self, now: Instant, to_server: bool, bytes: Vec<u8>) {
        // IPv4 source at 12, destination at 16; the second octet of the client's is the path.
        let path = usize::from(bytes[if to_server { 13 } else { 17 }]) - 1;
        let free = &mut self.free_at[path][usize::from(to_server)];
        let start = free.map_or(now, |at| at.max(now));
        if start.since(now) > QUEUE {
            return;
        }
        let sent = start + Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / RATE);
        *free = Some(sent);
        let at = sent + DELAYS[path];
        let place = self.flying.partition_point(|other| other.at <= at);
        self.flying.insert(place, Flying { at, to_server, bytes });
    }

    /// Hands over what has arrived.
    fn deliver(&mut self, now: Instant, client: &mut Host, server: &mut Host) {
        while self.flying.front().is_some_and(|packet| packet.at <= now) {
            let Some(packet) = self.flying.pop_front() else { return };
            let host = if packet.to_server { &mut *server } else { &mut *client };
            // A packet is received into memory of the host's own; without any it is lost.
            let Some(mut buf) = host.pool.alloc() else { continue };
            if buf.copy_from(&packet.bytes) {
                host.stack.handle_burst(now, &mut vec![buf]);
            }
        }
    }
}

/// What the example prints.
struct Outcome {
    client: ConnectionInfo,
    server: ConnectionInfo,
    received: usize,
    took: Duration,
    log: String,
}

fn transfer() -> Result<Outcome, Box<dyn core::error::Error>> {
    // Time is whatever we say it is.
    let begin = Instant::from_millis(1_000);
    let mut now = begin;
    let mut client_host = Host::new(&[client(1), client(2)], 1, now);
    let mut server_host = Host::new(&[SERVER], 2, now);
    let mut net = Net::default();

    let listen = Listen { mptcp: true, ..Listen::default() };
    let listener = server_host.stack.listen(SocketAddr::new(SERVER, 80), &listen)?;
    let with = Connect {
        local: client(1),
        local_port: 0,
        remote: SocketAddr::new(SERVER, 80),
        mptcp: true,
        timeout: Some(Duration::from_secs(10)),
        user_data: 0,
    };
    let ours = client_host.stack.connect(now, &with)?;
    // The newest 10,000 things that happen to it.
    client_host.stack.log_events(ours, 10_000);

    let mut theirs: Option<SocketId> = None;
    let (mut sent, mut received, mut chunk) = (0, 0, [0; 16 << 10]);
    loop {
        net.deliver(now, &mut client_host, &mut server_host);
        for host in [&mut client_host, &mut server_host] {
            // At most 64 timers in one go; `More` says that there are others.
            while host.stack.handle_timeouts(now, 64) == Progress::More {}
        }
        // The client writes as much as there is room for, then says that this was all.
        while sent < UPLOAD {
            let want = (UPLOAD - sent).min(chunk.len());
            match client_host.stack.send(now, ours, &chunk[..want]) {
                Ok(taken) => sent += taken,
                // Room is reported as `Ready::WRITABLE`; here every turn tries.
                Err(SendError::WouldBlock) => break,
                Err(error) => return Err(format!("send: {error:?}").into()),
            }
            if sent == UPLOAD {
                client_host.stack.shutdown_write(now, ours);
            }
        }
        // The server accepts, reads, and closes when the client's stream ends.
        while let Some(event) = server_host.stack.poll_event() {
            if event.ready.contains(Ready::ACCEPT) {
                theirs = theirs.or(server_host.stack.accept(listener));
            }
        }
        if let Some(id) = theirs {
            loop {
                match server_host.stack.recv(now, id, &mut chunk) {
                    Ok(0) => {
                        server_host.stack.shutdown_write(now, id);
                        break;
                    }
                    Ok(taken) => received += taken,
                    Err(RecvError::WouldBlock) => break,
                    Err(error) => return Err(format!("recv: {error:?}").into()),
                }
            }
        }
        // The client's socket ends when both streams did.
        let mut ended = false;
        while let Some(event) = client_host.stack.poll_event() {
            ended |= event.ready.contains(Ready::CLOSED);
        }
        if ended {
            break;
        }
        net.collect(now, &mut client_host, true);
        net.collect(now, &mut server_host, false);
        // On to whatever happens next: a packet or a timer.
        let next = [
            net.flying.front().map(|packet| packet.at),
            client_host.stack.poll_timeout(),
            server_host.stack.poll_timeout(),
        ];
        now = next.into_iter().flatten().min().ok_or("nothing will ever happen")?.max(now);
    }

    let mut log = String::new();
    event_log::write_header(&mut log, "two_stacks client")?;
    for record in client_host.stack.event_log(ours).into_iter().flat_map(|log| log.iter()) {
        event_log::write_record(&mut log, record)?;
    }
    let server = theirs.and_then(|id| server_host.stack.info(id)).ok_or("nothing was accepted")?;
    let client = client_host.stack.info(ours).ok_or("the id is still ours")?;
    // Gives the id back; until then it can be asked.
    client_host.stack.release(ours);
    Ok(Outcome { client, server, received, took: now.since(begin), log })
}

fn report(name: &str, info: &ConnectionInfo) {
    println!("{name}: {} to {}, MPTCP version {:?}", info.local, info.remote, info.mptcp);
    println!("  stream: {} octets sent, {} received", info.bytes_sent, info.bytes_received);
    for subflow in &info.subflows {
        println!(
            "  subflow {} {} to {}: {} sent, {} received, srtt {:?}, cwnd {}",
            subflow.id,
            subflow.local,
            subflow.remote,
            subflow.bytes_sent,
            subflow.bytes_received,
            subflow.srtt,
            subflow.cwnd
        );
    }
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let outcome = transfer()?;
    println!("{} octets in {:?} of virtual time", outcome.received, outcome.took);
    report("client", &outcome.client);
    report("server", &outcome.server);
    if std::env::args().any(|arg| arg == "log") {
        print!("{}", outcome.log);
    }
    Ok(())
}

/// `cargo test --examples` runs it.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_carry_the_upload() {
        let outcome = transfer().expect("a transfer");
        assert_eq!(outcome.received, UPLOAD);
        assert_eq!((outcome.client.mptcp, outcome.client.fallback), (Some(1), None));
        assert_eq!(outcome.client.bytes_acked, UPLOAD as u64);
        let shares: Vec<u64> = outcome.client.subflows.iter().map(|s| s.bytes_sent).collect();
        assert!(shares.len() == 2 && shares.iter().all(|&octets| octets > 3 << 20), "{shares:?}");
        // One of the paths alone would need 1,342 ms for it.
        assert!(outcome.took < Duration::from_millis(1_100), "{:?}", outcome.took);
        for name in ["connection_started", "connection_established", "subflow_joined", "scheduled"]
        {
            assert!(outcome.log.contains(name), "no {name} in\n{}", outcome.log);
        }
    }
}
