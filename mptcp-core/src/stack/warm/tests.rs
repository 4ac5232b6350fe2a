//! What a gateway of many sessions does is the same whether it looked ahead or not.

use crate::buf::{HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId};
use crate::config::{LocalAddress, StackConfig};
use crate::stack::{Connect, Listen, SocketId, Stack};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

const SESSIONS: usize = 12;
/// Of a client, a gateway and a server, by family.
const ADDRS: [[&str; 2]; 3] =
    [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00::3"]];

fn address(host: usize, session: usize) -> IpAddr {
    ADDRS[host][session % 2].parse().unwrap()
}

/// A client's MPTCP sessions, relayed to a server.
struct World {
    now: Instant,
    hosts: [Stack<HeapBuf>; 3],
    wires: [Vec<HeapBuf>; 3],
    tx: HeapTxQueue,
    /// Every octet that any host sent.
    sent: Vec<u8>,
    listeners: Vec<SocketId>,
    clients: Vec<SocketId>,
    servers: Vec<SocketId>,
    relayed: usize,
}

impl World {
    fn new(crowd: u32) -> Self {
        let now = Instant::from_millis(1);
        let pool = HeapPool::new(8_000, 1_700);
        let mut hosts = [0_u8, 1, 2].map(|host| {
            let addresses = ADDRS[usize::from(host)].map(|addr| LocalAddress {
                addr: addr.parse().unwrap(),
                port: PortId::ROUTED,
                mtu: 1500,
                endpoint: true,
                backup: false,
            });
            let (addresses, seed) = (addresses.to_vec(), [host + 1; 32]);
            let config = StackConfig { addresses, seed, ..StackConfig::default() };
            let mut host = Stack::new(config, now, Box::new(pool.clone()));
            host.warm.crowd = crowd;
            host
        });
        let mut listeners = Vec::new();
        for (host, port) in [(1, 1080), (2, 80)] {
            for family in 0..2 {
                let with = Listen { mptcp: host == 1, ..Listen::default() };
                let at = (address(host, family), port).into();
                listeners.push(hosts[host].listen(at, &with).unwrap());
            }
        }
        let clients = (0..SESSIONS).map(|session| {
            let to = (address(1, session), 1080);
            hosts[0].connect(now, &opened(address(0, session), to.into(), true)).unwrap()
        });
        let clients = clients.collect();
        let wires = [const { Vec::new() }; 3];
        let tx = HeapTxQueue::new(4_096, pool);
        let (sent, servers) = (Vec::new(), Vec::new());
        Self { now, hosts, wires, tx, sent, listeners, clients, servers, relayed: 0 }
    }

    fn turn(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        for (host, wire) in self.hosts.iter_mut().zip(&mut self.wires) {
            host.handle_burst(self.now, wire);
            let _ = host.handle_timeouts(self.now, usize::MAX);
            while host.poll_event().is_some() {}
        }
        for family in 0..2 {
            while let Some(inner) = self.hosts[1].accept(self.listeners[family]) {
                let to = (address(2, family), 80).into();
                let with = opened(address(1, family), to, false);
                let outer = self.hosts[1].connect(self.now, &with).unwrap();
                self.hosts[1].relay(self.now, inner, outer).unwrap();
                self.relayed += 1;
            }
            self.servers.extend(self.hosts[2].accept(self.listeners[2 + family]));
        }
        for host in &mut self.hosts {
            let _ = host.poll_transmit(self.now, &mut self.tx);
            while let Some(packet) = self.tx.pop() {
                self.sent.extend_from_slice(packet.data());
                let of = |host: &usize| {
                    let at = |addr: &str| match addr.parse().unwrap() {
                        IpAddr::V4(v4) => packet.data()[16..20] == v4.octets(),
                        IpAddr::V6(v6) => packet.data()[24..40] == v6.octets(),
                    };
                    at(ADDRS[*host][usize::from(packet.data()[0] >> 4 == 6)])
                };
                let to = (0..3).find(of).unwrap();
                self.wires[to].push(packet);
            }
        }
    }

    /// Sessions come to be, and each carries a few segments; answers what all sent and what the servers read.
    fn run(mut self) -> (Vec<u8>, usize, bool) {
        let mut looked = false;
        let mut heard = 0;
        let mut into = vec![0; 8_000];
        for turn in 0..300 {
            if turn % 40 == 39 {
                for client in &self.clients {
                    let text = vec![turn as u8; 3_000];
                    assert_eq!(self.hosts[0].send(self.now, *client, &text), Ok(3_000));
                }
            }
            // What nobody understands is in between.
            for wire in &mut self.wires {
                let broken = wire.first().map_or(vec![0x45], |packet| packet.data()[..21].to_vec());
                wire.insert(wire.len() / 2, HeapBuf::from_slice(&broken));
            }
            self.turn();
            looked |= !self.hosts[1].warm.tcbs.is_empty();
            for server in &self.servers {
                heard += self.hosts[2].recv(self.now, *server, &mut into).unwrap_or(0);
            }
        }
        assert_eq!((self.relayed, self.servers.len()), (SESSIONS, SESSIONS));
        (self.sent, heard, looked)
    }
}

fn opened(local: IpAddr, remote: core::net::SocketAddr, mptcp: bool) -> Connect {
    Connect { local, local_port: 0, remote, mptcp, timeout: None, user_data: 0 }
}

#[test]
fn looking_ahead_changes_nothing() {
    let (sent, heard, looked) = World::new(1).run();
    let (same, as_much, never) = World::new(u32::MAX).run();
    assert!(looked && !never);
    assert_eq!((heard, as_much), (7 * 3_000 * SESSIONS, 7 * 3_000 * SESSIONS));
    assert!(sent == same, "other packets");
}
