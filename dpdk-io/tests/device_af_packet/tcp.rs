//! A worker that sends every stream back on our own TCP and MPTCP, buffer by buffer: what was
//! received is what is sent, so payload crosses without a copy.

use dpdk_io::{Driver, Mbuf};
use mptcp_core::buf::{PacketBuf, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::stack::{Listen, Ready, SocketId, Stack};
use mptcp_core::steering::Sharding;
use mptcp_core::time::Instant;
use std::collections::BTreeMap;

#[derive(Default)]
struct Session {
    /// Received and refused by the send buffer.
    held: Option<Mbuf>,
    shut: bool,
}

pub(crate) struct TcpEcho {
    stack: Stack<Mbuf>,
    listeners: Vec<SocketId>,
    sessions: BTreeMap<SocketId, Session>,
    pub(crate) echoed: u64,
}

impl TcpEcho {
    pub(crate) fn new(driver: &Driver, shard: usize) -> Self {
        let address = |addr: &str, port| LocalAddress {
            addr: addr.parse().unwrap(),
            port: PortId(port),
            mtu: 1500,
            endpoint: false,
            backup: false,
        };
        let config = StackConfig {
            addresses: vec![
                address("10.1.0.1", 0),
                address("fd00:1::1", 0),
                address("10.2.0.1", 1),
            ],
            sharding: Some(Sharding {
                layout: driver.layout().clone(),
                own: u8::try_from(shard).unwrap(),
            }),
            seed: [u8::try_from(shard).unwrap(); 32],
            ..StackConfig::default()
        };
        let addresses = config.addresses.clone();
        let now = driver.clock().now();
        let mut stack = Stack::new(config, now, Box::new(driver.pool(shard)));
        let options = Listen { mptcp: true, ..Listen::default() };
        let listen = |local: &LocalAddress| stack.listen((local.addr, 7).into(), &options).unwrap();
        let listeners = addresses.iter().map(listen).collect();
        Self { stack, listeners, sessions: BTreeMap::new(), echoed: 0 }
    }

    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        let all = self.stack.counters().iter();
        all.filter(|(_, value)| *value > 0).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn echo(&mut self, now: Instant, id: SocketId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        loop {
            let buf = match session.held.take() {
                Some(buf) => buf,
                None => match self.stack.recv_buf(now, id) {
                    Ok(Some(buf)) => buf,
                    Ok(None) if !session.shut => {
                        session.shut = true;
                        self.stack.shutdown_write(now, id);
                        return;
                    }
                    Ok(None) | Err(_) => return,
                },
            };
            let len = buf.packet_len() as u64;
            match self.stack.send_buf(id, buf) {
                Ok(()) => self.echoed += len,
                Err((_, buf)) => {
                    session.held = Some(buf);
                    return;
                }
            }
        }
    }
}

impl Application for TcpEcho {
    type Buf = Mbuf;

    fn stack(&self) -> &Stack<Mbuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<Mbuf> {
        &mut self.stack
    }

    fn react(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            if event.ready.contains(Ready::ACCEPT) {
                for listener in self.listeners.clone() {
                    while let Some(id) = self.stack.accept(listener) {
                        self.sessions.insert(id, Session::default());
                        self.echo(now, id);
                    }
                }
                continue;
            }
            self.echo(now, event.socket);
            if event.ready.contains(Ready::CLOSED) {
                self.stack.release(event.socket);
                self.sessions.remove(&event.socket);
            }
        }
    }
}
