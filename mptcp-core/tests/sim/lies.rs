//! A receiver that acknowledges what never arrived (Savage et al., TCP congestion control with a
//! misbehaving receiver; RFC 7430): its own stream has a hole for good, and nobody else notices.

use crate::transfer::{End, settle};
use crate::world::World;
use crate::{lossy, pair, world};
use mptcp_core::stack::SocketId;
use mptcp_core::time::{Duration, Instant};
use netsim::packet::edit::{Layout, TcpLayout, recompute};
use netsim::packet::flag;
use netsim::{Direction, middlebox::Output};

const MPTCP: u8 = 30;
/// Octets to the one that lies, and to the one that does not.
const STREAM: u64 = 2 << 20;

fn read(packet: &[u8], at: usize) -> u32 {
    packet[at..at + 4].try_into().map(u32::from_be_bytes).expect("four octets")
}

/// The larger one, modulo 2^32.
fn furthest(seen: Option<u32>, new: u32) -> Option<u32> {
    Some(seen.filter(|seen| new.wrapping_sub(*seen) >= 1 << 31).unwrap_or(new))
}

/// Where a packet has a DSS: its flags, and where its fields begin.
fn dss(packet: &mut [u8], tcp: TcpLayout) -> Option<(u8, usize)> {
    let mut found = None;
    tcp.for_each_option(packet, |kind, range, bytes| {
        if kind == MPTCP && bytes[2] >> 4 == 2 {
            found = Some((bytes[3], range.start + 4));
        }
    });
    found
}

/// Acknowledges on both levels everything up to the furthest that was sent, as the client of the first
/// flow.
#[derive(Default)]
struct Liar {
    port: Option<[u8; 2]>,
    tcp: Option<u32>,
    data: Option<u32>,
}

impl Liar {
    fn process(&mut self, dir: Direction, packet: &mut [u8]) {
        let Some(tcp) = Layout::of(packet).and_then(|layout| layout.tcp(packet)) else { return };
        let up = dir == Direction::AtoB;
        let at = if up { tcp.header } else { tcp.header + 2 };
        let port = [packet[at], packet[at + 1]];
        if *self.port.get_or_insert(port) != port || tcp.flags(packet) & flag::SYN != 0 {
            return;
        }
        let option = dss(packet, tcp);
        if up {
            self.lie(packet, tcp, option);
        } else {
            self.learn(packet, tcp, option);
        }
    }

    fn learn(&mut self, packet: &[u8], tcp: TcpLayout, dss: Option<(u8, usize)>) {
        let fin = u32::from(tcp.flags(packet) & flag::FIN != 0);
        let len = (packet.len() - tcp.payload) as u32 + fin;
        self.tcp = furthest(self.tcp, read(packet, tcp.header + 4).wrapping_add(len));
        let Some((flags, fields)) = dss.filter(|(flags, _)| flags & 4 != 0) else { return };
        let dsn = fields + if flags & 1 == 0 { 0 } else { 4 << (flags >> 1 & 1) };
        let (low, behind) = if flags & 8 == 0 { (dsn, dsn + 4) } else { (dsn + 4, dsn + 8) };
        let len = u32::from(packet[behind + 4]) << 8 | u32::from(packet[behind + 5]);
        self.data = furthest(self.data, read(packet, low).wrapping_add(len));
    }

    fn lie(&self, packet: &mut [u8], tcp: TcpLayout, dss: Option<(u8, usize)>) {
        if let Some(ack) = self.tcp {
            packet[tcp.header + 8..tcp.header + 12].copy_from_slice(&ack.to_be_bytes());
        }
        if let (Some(ack), Some((flags, fields))) = (self.data, dss)
            && flags & 1 != 0
        {
            let low = if flags & 2 == 0 { fields } else { fields + 4 };
            packet[low..low + 4].copy_from_slice(&ack.to_be_bytes());
        }
        recompute(packet);
    }
}

/// Whether anybody has more than its buffers allow.
fn bounded(world: &World) {
    // Two send buffers and two receive buffers of 6 MiB at most, in buffers of 1,700 octets.
    assert!(world.server.pool.in_use() < 4 * (6 << 20) / 1_400);
}

fn open(world: &mut World, listener: SocketId, mptcp: bool) -> (SocketId, SocketId) {
    let client = world.connect(mptcp);
    let limit = world.now + Duration::from_secs(60);
    loop {
        world.turn();
        if let Some(server) = world.server.stack.accept(listener) {
            return (client, server);
        }
        assert!(world.advance(limit), "no connection");
    }
}

#[test]
fn acknowledging_what_was_lost_costs_the_liar_its_stream_and_nobody_else_anything() {
    for mptcp in [false, true] {
        let mut world = world(7, &[pair(lossy(40, 10, 10_000))]);
        let mut liar = Liar::default();
        let lies = move |_, dir, mut packet: Vec<u8>, out: &mut Output| {
            liar.process(dir, &mut packet);
            out.push((dir, packet));
        };
        let path = world.paths[0];
        world.net.add_middlebox(path, Box::new(lies));
        let listener = world.listen(true);
        let (liar, to_liar) = open(&mut world, listener, mptcp);
        let (honest, to_honest) = open(&mut world, listener, mptcp);
        let mut clients = [End::new(liar, 0, 0, STREAM, 1), End::new(honest, 0, 0, STREAM, 2)];
        let mut servers =
            [End::new(to_liar, STREAM, 1, 0, 0), End::new(to_honest, STREAM, 2, 0, 0)];
        let limit = world.now + Duration::from_secs(300);
        while !clients[1].done() || world.now < Instant::from_millis(120_000) {
            world.turn();
            let now = world.now;
            clients.iter_mut().for_each(|end| end.work(&mut world.client, now));
            servers.iter_mut().for_each(|end| end.work(&mut world.server, now));
            world.flush();
            bounded(&world);
            if !world.advance(limit) {
                break;
            }
        }
        assert!(clients[1].done() && servers[1].sent == STREAM, "{:?}", clients[1]);
        // What the liar read was right, as far as it goes; the server has no more of it.
        assert!((1..STREAM).contains(&clients[0].received), "{:?}", clients[0]);
        assert_eq!((servers[0].sent, &servers[0].failed), (STREAM, &None));
        assert_eq!(world.server.stack.info(to_liar).map(|info| info.bytes_acked), Some(STREAM));
        assert_eq!(world.server.pool.in_use(), 0, "nothing is kept for it");
        for id in [to_liar, to_honest] {
            world.server.stack.close(world.now, id);
        }
        world.client.stack.close(world.now, honest);
        world.client.stack.abort(world.now, liar);
        world.server.stack.close(world.now, listener);
        settle(&mut world);
        world.assert_empty();
    }
}
