//! Our stack as the sender, on a TUN device.

use crate::bed::{Bed, OURS, TUN_KERNEL};
use crate::receiver::PORT;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{HeapBuf, HeapPool, PortId};
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::stack::{Listen, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use mptcp_tun::{Clock, LoopHandle, RouteTable, TunConfig, TunDevice, TunError, TunLoop, TunPort};
use std::collections::HashMap;
use std::io::Read as _;
use std::thread::JoinHandle;

/// Buffers for packets, and as many again for what is queued.
const BUFFERS: usize = 65_536;

/// The running stack, stopped on drop.
#[derive(Debug)]
pub(crate) struct Server {
    handle: LoopHandle,
    thread: Option<JoinHandle<Result<(), TunError>>>,
}

impl Server {
    pub(crate) fn start(bed: &Bed, congestion: CongestionAlgorithm) -> Result<Self, String> {
        let config = TunConfig {
            name: "tun0".to_owned(),
            kernel_addresses: vec![TUN_KERNEL.parse().map_err(|_| "a prefix".to_owned())?],
            mtu: 1500,
            offload: true,
        };
        let device = bed.server.enter(move || TunDevice::create(&config))?;
        let addr = IpAddr::from(OURS);
        let explain = |error: TunError| format!("our sender: {error}");
        let port = TunPort { device: device.map_err(explain)?, addresses: vec![addr] };
        let clock = Clock::start();
        let pool = HeapPool::new(BUFFERS, 1700);
        let mut tun =
            TunLoop::new(vec![port], RouteTable::default(), pool, clock).map_err(explain)?;
        let mut sender = Sender::new(stack_config(addr, congestion)?, clock.now())?;
        let handle = tun.handle();
        let thread = std::thread::spawn(move || tun.run(&mut sender));
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("paths: our sender: {error}");
        }
    }
}

fn stack_config(addr: IpAddr, congestion: CongestionAlgorithm) -> Result<StackConfig, String> {
    let mut config = StackConfig::default();
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut config.seed))
        .map_err(|error| format!("/dev/urandom: {error}"))?;
    let local = LocalAddress { addr, port: PortId(0), mtu: 1500, endpoint: true, backup: false };
    config.addresses = vec![local];
    config.tcp.congestion = congestion;
    config.tcp.send_buffer_max = 32 << 20;
    Ok(config)
}

/// Reads a length from each client and sends so much.
#[derive(Debug)]
struct Sender {
    stack: Stack<HeapBuf>,
    listener: SocketId,
    sessions: HashMap<SocketId, Session>,
    octets: Vec<u8>,
}

/// The request as far as it came, and what is left to send once it is whole.
#[derive(Debug, Default)]
struct Session {
    request: Vec<u8>,
    left: Option<u64>,
}

impl Sender {
    fn new(config: StackConfig, now: Instant) -> Result<Self, String> {
        let local = SocketAddr::from((OURS, PORT));
        let mut stack = Stack::new(config, now, Box::new(HeapPool::new(BUFFERS, 1700)));
        let listener = stack
            .listen(local, &Listen { mptcp: true, ..Listen::default() })
            .map_err(|error| format!("our sender: {error}"))?;
        Ok(Self { stack, listener, sessions: HashMap::new(), octets: vec![0x5a; 64 << 10] })
    }

    fn serve(&mut self, now: Instant, id: SocketId, ready: Ready) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut octets = [0; 64];
        while let Ok(len @ 1..) = self.stack.recv(now, id, &mut octets) {
            session.request.extend_from_slice(&octets[..len]);
        }
        if session.left.is_none() {
            let length = session.request.first_chunk().copied();
            session.left = length.map(u64::from_be_bytes);
        }
        while let Some(left @ 1..) = session.left {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.octets.len());
            let Ok(sent) = self.stack.send(now, id, &self.octets[..len]) else { break };
            session.left = Some(left - sent as u64);
            if left == sent as u64 {
                self.stack.shutdown_write(now, id);
            }
        }
        if ready.contains(Ready::CLOSED) {
            self.sessions.remove(&id);
            self.stack.release(id);
        }
    }
}

impl Application for Sender {
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
                while let Some(id) = self.stack.accept(self.listener) {
                    self.sessions.insert(id, Session::default());
                    self.serve(now, id, Ready::empty());
                }
            } else {
                self.serve(now, event.socket, event.ready);
            }
        }
    }
}
