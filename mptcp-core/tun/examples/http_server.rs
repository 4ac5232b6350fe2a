//! A web server on our own MPTCP stack over TUN devices: `GET /N` answers N octets of a known
//! pattern, anything else is counted and closed.
//!
//! ```text
//! http_server NAME=STACK_ADDRESS[,KERNEL_PREFIX] ...
//! http_server lte=10.1.0.1,10.1.0.254/24 wifi=10.2.0.1,10.2.0.254/24
//! ```
//! Listens on port 80 of every stack address; prints `ready`, then a line per finished connection;
//! stops when stdin closes.

use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::error::{RecvError, SendError};
use mptcp_core::stack::{Listen, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use mptcp_tun::{Clock, RESERVE, RouteTable, TunConfig, TunDevice, TunLoop, TunPort};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Octet `offset` of every answer.
const fn octet(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

#[derive(Default)]
struct Session {
    request: Vec<u8>,
    answer: Option<(u64, u64)>,
    header: Vec<u8>,
    shut: bool,
}

struct Server {
    stack: Stack<HeapBuf>,
    listeners: Vec<SocketId>,
    sessions: BTreeMap<SocketId, Session>,
}

impl Server {
    fn serve(&mut self, now: Instant, id: SocketId, ready: Ready) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut bytes = [0; 4096];
        loop {
            match self.stack.recv(now, id, &mut bytes) {
                Ok(0) => {
                    if !session.shut {
                        session.shut = true;
                        self.stack.shutdown_write(now, id);
                    }
                    break;
                }
                Ok(n) => session.request.extend_from_slice(&bytes[..n]),
                Err(RecvError::WouldBlock) => break,
                Err(_) => break,
            }
            if session.request.len() > 8192 {
                self.stack.abort(now, id);
                self.sessions.remove(&id);
                return;
            }
        }
        if session.answer.is_none() && session.request.windows(4).any(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&session.request);
            let path = text.split_whitespace().nth(1).unwrap_or("/0");
            let len: u64 = path.trim_start_matches('/').parse().unwrap_or(0);
            session.header =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")
                    .into_bytes();
            session.answer = Some((0, len));
        }
        if let Some((mut at, len)) = session.answer {
            while !session.header.is_empty() {
                match self.stack.send(now, id, &session.header) {
                    Ok(n) => drop(session.header.drain(..n)),
                    Err(_) => break,
                }
            }
            while session.header.is_empty() && at < len {
                let want = (len - at).min(bytes.len() as u64) as usize;
                for (i, byte) in bytes[..want].iter_mut().enumerate() {
                    *byte = octet(at + i as u64);
                }
                match self.stack.send(now, id, &bytes[..want]) {
                    Ok(n) => at += n as u64,
                    Err(SendError::WouldBlock) => break,
                    Err(_) => break,
                }
            }
            session.answer = Some((at, len));
            if at == len && session.header.is_empty() && !session.shut {
                session.shut = true;
                self.stack.shutdown_write(now, id);
            }
        }
        if ready.contains(Ready::CLOSED) {
            if let Some(info) = self.stack.info(id) {
                println!(
                    "done mptcp={:?} fallback={:?} sent={} received={} error={:?}",
                    info.mptcp,
                    info.fallback.map(mptcp_core::mptcp::FallbackReason::name),
                    info.bytes_sent,
                    info.bytes_received,
                    info.error
                );
            }
            self.stack.release(id);
            self.sessions.remove(&id);
        }
    }
}

impl Application for Server {
    type Buf = HeapBuf;

    fn stack(&self) -> &Stack<HeapBuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.stack
    }

    fn react(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            if event.ready.contains(Ready::ACCEPT) {
                for listener in self.listeners.clone() {
                    while let Some(id) = self.stack.accept(listener) {
                        self.sessions.insert(id, Session::default());
                        self.serve(now, id, Ready::empty());
                    }
                }
            } else {
                self.serve(now, event.socket, event.ready);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let mut config = StackConfig::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut config.seed)?;
    let mut ports = Vec::new();
    let mut addresses = Vec::new();
    for arg in std::env::args().skip(1) {
        let (name, rest) = arg.split_once('=').ok_or("usage: NAME=ADDRESS[,KERNEL_PREFIX] ...")?;
        let (addr, prefix) = match rest.split_once(',') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (rest, None),
        };
        let addr: IpAddr = addr.parse()?;
        let kernel_addresses = prefix.map(str::parse).transpose()?.into_iter().collect();
        let device = TunDevice::create(&TunConfig {
            name: name.into(),
            kernel_addresses,
            mtu: 1500,
            offload: true,
        })?;
        config.addresses.push(LocalAddress {
            addr,
            port: PortId(u8::try_from(ports.len())?),
            mtu: 1500,
            endpoint: true,
            backup: false,
        });
        addresses.push(addr);
        ports.push(TunPort { device, addresses: vec![addr] });
    }
    let all = addresses.clone();
    for port in &mut ports {
        port.addresses = all.clone();
    }
    let clock = Clock::start();
    let pool = HeapPool::new(65_536, 1700);
    // What is kept leaves buffers for what passes through.
    let kept = pool.clone().with_reserve(RESERVE);
    let boxed: Box<dyn BufPool<HeapBuf> + Send> = Box::new(kept);
    let mut stack = Stack::new(config, clock.now(), boxed);
    let mut listeners = Vec::new();
    for addr in addresses {
        let options = Listen { mptcp: true, ..Listen::default() };
        listeners.push(stack.listen(SocketAddr::new(addr, 80), &options)?);
    }
    let mut server = Server { stack, listeners, sessions: BTreeMap::new() };
    let mut tun = TunLoop::new(ports, RouteTable::default(), pool, clock)?;
    let handle = tun.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.stop();
    });
    println!("ready");
    std::io::stdout().flush()?;
    tun.run(&mut server)?;
    for (name, value) in server.stack.counters().iter().filter(|(_, v)| *v > 0) {
        eprintln!("{name} {value}");
    }
    for reason in mptcp_core::stats::DropReason::ALL {
        let dropped = server.stack.counters().dropped(*reason);
        if dropped > 0 {
            eprintln!("drop {} {dropped}", reason.name());
        }
    }
    eprintln!("{:?}", server.stack.occupancy());
    Ok(())
}
