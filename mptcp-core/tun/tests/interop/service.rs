//! A stack that echoes, run by a loop over TUN devices in a thread of its own.

use crate::support;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{HeapBuf, HeapPool, PortId};
use mptcp_core::config::{Limits, LocalAddress, MptcpConfig, StackConfig};
use mptcp_core::driver::{Application, Control};
use mptcp_core::error::SendError;
use mptcp_core::stack::{Connect, ConnectionInfo, Listen, Occupancy, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use mptcp_tun::{
    Clock, LoopCounters, LoopHandle, RouteTable, TunConfig, TunDevice, TunError, TunLoop, TunPort,
};
use std::collections::HashMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Where the echo service listens.
pub(crate) const ECHO_PORT: u16 = 7;

/// One access of the stack: the device's name, the kernel's prefix on it, the stack's address.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub(crate) name: &'static str,
    pub(crate) kernel: &'static str,
    pub(crate) ours: &'static str,
    /// The stack announces this address, and opens subflows from it.
    pub(crate) endpoint: bool,
}

/// What a test sees of the stack while it runs.
#[derive(Clone, Default)]
pub(crate) struct Report {
    pub(crate) occupancy: Occupancy,
    /// Every connection at its end.
    pub(crate) ended: Vec<ConnectionInfo>,
}

/// The running service. Ends with [`Service::stop`].
pub(crate) struct Service {
    pub(crate) ports: Arc<LoopCounters>,
    report: Arc<Mutex<Report>>,
    connects: mpsc::Sender<(Connect, Vec<u8>)>,
    handle: LoopHandle,
    thread: JoinHandle<Result<(), TunError>>,
}

impl Service {
    /// Creates the devices in this thread's namespace and starts the stack over them.
    pub(crate) fn start(accesses: &[Access]) -> Self {
        Self::start_with(accesses, MptcpConfig::default())
    }

    /// The same with other MPTCP settings.
    pub(crate) fn start_with(accesses: &[Access], mptcp: MptcpConfig) -> Self {
        let clock = Clock::start();
        let addresses: Vec<LocalAddress> = (0..).zip(accesses).map(local_address).collect();
        let config = StackConfig {
            limits: Limits { connections: 256, tcbs: 1024, half_open: 256, ..Limits::default() },
            seed: [7; 32],
            addresses,
            mptcp,
            ..StackConfig::default()
        };
        let ports = accesses.iter().map(port).collect();
        let routes: Vec<_> = (0..)
            .zip(accesses)
            .map(|(i, a)| (a.kernel.parse().expect("a prefix"), PortId(i)))
            .collect();
        let pool = HeapPool::new(65_536, 1600);
        let mut tun = TunLoop::new(ports, RouteTable::new(&routes), pool, clock).expect("a loop");
        let (connects, inbox) = mpsc::channel();
        let report = Arc::new(Mutex::new(Report::default()));
        let mut echo = Echo::new(config, clock.now(), inbox, Arc::clone(&report));
        let (handle, ports) = (tun.handle(), tun.counters());
        let thread = std::thread::spawn(move || tun.run(&mut echo));
        Self { ports, report, connects, handle, thread }
    }

    /// Opens a connection from the stack, which echoes on it too.
    pub(crate) fn connect(&self, local: &str, remote: SocketAddr, mptcp: bool) {
        self.connect_with(local, remote, mptcp, Vec::new());
    }

    /// The same with data that may go out with the SYN.
    pub(crate) fn connect_with(
        &self,
        local: &str,
        remote: SocketAddr,
        mptcp: bool,
        early: Vec<u8>,
    ) {
        let local = local.parse().expect("an address");
        let with = Connect { local, local_port: 0, remote, mptcp, timeout: None, user_data: 0 };
        self.connects.send((with, early)).expect("the service runs");
        self.handle.wake();
    }

    pub(crate) fn report(&self) -> Report {
        self.handle.wake();
        self.report.lock().expect("no panic").clone()
    }

    /// Stops although connections are open.
    pub(crate) fn abandon(self) {
        self.handle.stop();
        self.thread.join().expect("no panic").expect("a clean end");
    }

    /// Waits until every connection is gone, stops, and answers the last report.
    pub(crate) fn stop(self) -> Report {
        let is_empty = |report: &Report| {
            let Occupancy { tcbs, connections, requests, .. } = report.occupancy;
            (tcbs, connections, requests) == (0, 0, 0)
        };
        let report =
            support::eventually("the stack is empty", || Some(self.report()).filter(is_empty));
        self.abandon();
        report
    }
}

fn local_address((i, access): (u8, &Access)) -> LocalAddress {
    LocalAddress {
        addr: access.ours.parse().expect("an address"),
        port: PortId(i),
        mtu: 1500,
        endpoint: access.endpoint,
        backup: false,
    }
}

fn port(access: &Access) -> TunPort<TunDevice> {
    let config = TunConfig {
        name: access.name.into(),
        kernel_addresses: vec![access.kernel.parse().expect("a prefix")],
        mtu: 1500,
        offload: true,
    };
    let device = TunDevice::create(&config).expect(access.name);
    TunPort { device, addresses: vec![access.ours.parse().expect("an address")] }
}

/// Sends back what it receives, buffer by buffer, and ends each stream when the peer does.
struct Echo {
    stack: Stack<HeapBuf>,
    /// Received and not yet taken by the send buffer.
    held: HashMap<SocketId, HeapBuf>,
    connects: mpsc::Receiver<(Connect, Vec<u8>)>,
    ended: Vec<ConnectionInfo>,
    report: Arc<Mutex<Report>>,
}

impl Echo {
    fn new(
        config: StackConfig,
        now: Instant,
        connects: mpsc::Receiver<(Connect, Vec<u8>)>,
        report: Arc<Mutex<Report>>,
    ) -> Self {
        let families: Vec<IpAddr> = config.addresses.iter().map(|local| local.addr).collect();
        let mut stack = Stack::new(config, now, Box::new(HeapPool::new(1024, 1600)));
        for addr in families {
            // Only peers that ask for it notice.
            let options = Listen { mptcp: true, fast_open: 16, ..Listen::default() };
            stack.listen(SocketAddr::new(addr, ECHO_PORT), &options).expect("a listener");
        }
        Self { stack, held: HashMap::new(), connects, ended: Vec::new(), report }
    }

    fn pump(&mut self, now: Instant, id: SocketId) {
        loop {
            if let Some(buf) = self.held.remove(&id) {
                match self.stack.send_buf(id, buf) {
                    Ok(()) => {}
                    Err((SendError::WouldBlock, buf)) => {
                        self.held.insert(id, buf);
                        return;
                    }
                    Err(_) => return,
                }
            }
            match self.stack.recv_buf(now, id) {
                Ok(Some(buf)) => {
                    self.held.insert(id, buf);
                }
                Ok(None) => return self.stack.shutdown_write(now, id),
                Err(_) => return,
            }
        }
    }
}

impl Application for Echo {
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
                while let Some(id) = self.stack.accept(event.socket) {
                    self.pump(now, id);
                }
                continue;
            }
            self.pump(now, event.socket);
            if event.ready.contains(Ready::CLOSED) {
                self.ended.extend(self.stack.info(event.socket));
                self.held.remove(&event.socket);
                self.stack.release(event.socket);
            }
        }
    }

    fn control(&mut self, now: Instant) -> Control {
        for (with, early) in self.connects.try_iter() {
            if early.is_empty() {
                self.stack.connect(now, &with).expect("a connection");
            } else {
                let opened = self.stack.connect_with_data(now, &with, &early);
                assert_eq!(opened.expect("a connection").1, early.len());
            }
        }
        *self.report.lock().expect("no panic") =
            Report { occupancy: self.stack.occupancy(), ended: self.ended.clone() };
        Control::Continue
    }
}
