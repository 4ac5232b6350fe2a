//! An address of ours goes, and comes back, under thousands of connections.

use crate::buf::{HeapBuf, HeapPool, HeapTxQueue, PortId};
use crate::config::{Limits, LocalAddress, StackConfig};
use crate::driver::Progress;
use crate::stack::{Connect, Listen, Stack};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

const CONNECTIONS: u32 = 2_000;
/// Timers that a turn has time for.
const BUDGET: usize = 256;
const SERVER: [IpAddr; 2] = [ip(1), ip(2)];

const fn ip(host: u8) -> IpAddr {
    IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, host))
}

fn local(addr: IpAddr) -> LocalAddress {
    LocalAddress { addr, port: PortId::ROUTED, mtu: 1500, endpoint: true, backup: false }
}

struct World {
    now: Instant,
    client: Stack<HeapBuf>,
    server: Stack<HeapBuf>,
    wire: HeapTxQueue,
}

impl World {
    /// All connections have joined the server's second address.
    fn new() -> Self {
        let now = Instant::from_millis(1);
        let pool = HeapPool::new(60_000, 1_700);
        let host = |addrs: &[IpAddr], seed| {
            let limits = Limits { backlog: CONNECTIONS, ..Limits::default() };
            let addresses = addrs.iter().copied().map(local).collect();
            let config =
                StackConfig { addresses, limits, seed: [seed; 32], ..StackConfig::default() };
            Stack::new(config, now, Box::new(pool.clone()))
        };
        let (mut client, mut server) = (host(&[ip(9)], 1), host(&SERVER, 2));
        let at = SocketAddr::new(SERVER[0], 80);
        server.listen(at, &Listen { mptcp: true, ..Listen::default() }).unwrap();
        let (local, remote) = (ip(9), at);
        for _ in 0..CONNECTIONS {
            let with =
                Connect { local, local_port: 0, remote, mptcp: true, timeout: None, user_data: 0 };
            client.connect(now, &with).unwrap();
        }
        let wire = HeapTxQueue::new(60_000, pool);
        let mut world = Self { now, client, server, wire };
        world.exchange();
        while let Some(event) = world.client.poll_event() {
            let _ = world.client.send(world.now, event.socket, b"hello");
        }
        world.rest();
        assert_eq!(world.server.occupancy().tcbs, 2 * CONNECTIONS);
        world
    }

    /// Packets go from one to the other until both are silent.
    fn exchange(&mut self) {
        let Self { now, client, server, wire } = self;
        let mut pass = |from: &mut Stack<HeapBuf>, to: &mut Stack<HeapBuf>| {
            let _ = from.poll_transmit(*now, wire);
            let mut burst: Vec<HeapBuf> = core::iter::from_fn(|| wire.pop()).collect();
            let any = !burst.is_empty();
            to.handle_burst(*now, &mut burst);
            any
        };
        while pass(client, server) | pass(server, client) {}
    }

    /// Two seconds in which everything that is due is done.
    fn rest(&mut self) {
        for _ in 0..20 {
            self.now = self.now + Duration::from_millis(100);
            for host in [&mut self.client, &mut self.server] {
                while host.handle_timeouts(self.now, BUDGET) == Progress::More {}
                while host.poll_event().is_some() {}
            }
            self.exchange();
        }
    }

    /// The server's addresses are changed; calls until that is through, none of which does more than its share by
    /// `done`, and how much was done in all.
    fn change(
        &mut self,
        addresses: &[IpAddr],
        done: impl Fn(&Stack<HeapBuf>) -> u64,
    ) -> (u32, u64) {
        let addresses = addresses.iter().copied().map(local).collect();
        assert!(self.server.set_addresses(self.now, addresses));
        self.now = self.now + self.server.config().mptcp.address_batch - Duration::from_millis(1);
        while self.server.handle_timeouts(self.now, BUDGET) == Progress::More {}
        self.now = self.now + Duration::from_millis(1);
        let begin = done(&self.server);
        let (mut calls, mut before) = (0, begin);
        loop {
            let progress = self.server.handle_timeouts(self.now, BUDGET);
            let after = done(&self.server);
            // The first call begins, and goes on.
            let share = if calls == 0 { 2 * BUDGET } else { BUDGET };
            assert!(after - before <= share as u64, "{} in call {calls}", after - before);
            (calls, before) = (calls + 1, after);
            if progress == Progress::Done {
                return (calls, before - begin);
            }
            assert!(self.server.poll_timeout().is_some_and(|at| at <= self.now), "no pause");
        }
    }
}

/// Subflows that are gone.
fn gone(stack: &Stack<HeapBuf>) -> u64 {
    u64::from(2 * CONNECTIONS - stack.occupancy().tcbs)
}

#[test]
fn an_address_goes_from_under_thousands_of_connections_a_portion_at_a_time() {
    let mut world = World::new();
    let (calls, ended) = world.change(&SERVER[..1], gone);
    assert_eq!(ended, u64::from(CONNECTIONS));
    assert!(calls >= CONNECTIONS / BUDGET as u32 - 1, "{calls}");
    world.exchange();
    world.rest();
    assert_eq!(world.server.occupancy().tcbs, CONNECTIONS);
    assert_eq!(world.client.occupancy().tcbs, CONNECTIONS);
    // It comes back, and is joined again.
    let (calls, _) = world.change(&SERVER, |_| 0);
    assert!(calls >= CONNECTIONS / BUDGET as u32 - 1, "{calls}");
    world.exchange();
    world.rest();
    assert_eq!(world.server.occupancy().tcbs, 2 * CONNECTIONS);
    assert_eq!(world.server.counters().add_addr_tx, 2 * u64::from(CONNECTIONS), "told once each");
}
