//! Convert through the real stack: round trips until the first octet beside SOCKS5, and what
//! happens to requests when SYNs are lost, doubled or late (RFC 8803).

use super::peers::pattern_range;
use super::world::World;
use core::time::Duration;
use mptcp_core::buf::HeapBuf;
use mptcp_core::config::PathManagerKind;
use mptcp_core::stack::{Connect, SocketId, Stack};
use mptcp_core::tcp::State;
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, TcpFlags, TcpSegment, Version};
use netsim::Direction;
use netsim::link::{Change, Loss};
use netsim::middlebox::{SynFate, SynFilter};
use netsim::referee::Point;
use std::sync::{Arc, Mutex};

/// What the phone speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Tcp,
    V0,
    V1,
}

const ALL: [Speaks; 3] = [Speaks::Tcp, Speaks::V0, Speaks::V1];
/// Octets that the server sends when it has been asked.
const ANSWER: u64 = 100;

/// A request that the server understands: its number, no upload, `ANSWER` octets to send.
fn request() -> Vec<u8> {
    [1, 0, ANSWER].map(u64::to_be_bytes).concat()
}

/// A base Connect to 10.9.0.2:80, or another host of its network.
fn message(host: u8) -> Vec<u8> {
    let mut message = vec![1, 6, 0x22, 0x63, 10, 5, 0, 80];
    message.extend([0; 10]);
    message.extend([0xff, 0xff, 10, 9, 0, host]);
    message
}

/// Where the SYN was, when it left, and how long the packet was.
type Syns = Arc<Mutex<Vec<(usize, u64, usize)>>>;

struct Run {
    world: World,
    speaks: Speaks,
    syns: Syns,
}

impl Run {
    /// One path without loss: joins have SYNs, too.
    fn new(speaks: Speaks) -> Self {
        Self::over(speaks, PathManagerKind::Server, 7, 0)
    }

    fn over(speaks: Speaks, paths: PathManagerKind, seed: u8, loss_ppm: u32) -> Self {
        let settings = ["tcp.fast_open='accept'"];
        let mut world = World::with_phone(seed, loss_ppm, &settings, |config| {
            config.mptcp.path_manager = paths;
            if speaks == Speaks::V0 {
                config.mptcp.versions = vec![Version::V0];
            }
        });
        let syns = Syns::default();
        let seen = Arc::clone(&syns);
        world.net.set_tap(Box::new(move |now, node, _, point, packet| {
            let header = IpHeader::parse(packet).unwrap();
            let tcp = TcpSegment::parse(&packet[header.header_len..]).unwrap();
            if point == Point::Sent && tcp.flags & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN
            {
                seen.lock().unwrap().push((node.0, now / 1_000_000, packet.len()));
            }
        }));
        Self { world, speaks, syns }
    }

    fn stack(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.world.phone.worker.stack
    }

    fn with(&self, port: u16) -> Connect {
        Connect {
            local: "10.1.0.2".parse().unwrap(),
            local_port: 0,
            remote: format!("10.1.0.1:{port}").parse().unwrap(),
            mptcp: self.speaks != Speaks::Tcp,
            timeout: None,
            user_data: 0,
        }
    }

    /// A Convert client with this in its SYN.
    fn ask(&mut self, text: &[u8]) -> SocketId {
        let (now, with) = (self.world.now, self.with(1234));
        let (id, queued) = self.stack().connect_with_text(now, &with, text).unwrap();
        assert_eq!(queued, text.len());
        id
    }

    fn open(&mut self, port: u16) -> SocketId {
        let (now, with) = (self.world.now, self.with(port));
        let id = self.stack().connect(now, &with).unwrap();
        self.until(id, |stack, id| state(stack, id) == Some(State::Established));
        id
    }

    fn say(&mut self, id: SocketId, text: &[u8]) {
        let now = self.world.now;
        assert_eq!(self.stack().send(now, id, text), Ok(text.len()));
    }

    fn until(&mut self, id: SocketId, done: impl Fn(&Stack<HeapBuf>, SocketId) -> bool) {
        let limit = Duration::from_secs(60);
        assert!(self.world.run_until(limit, |world| done(&world.phone.worker.stack, id)));
    }

    /// Until so many octets have come.
    fn hear(&mut self, id: SocketId, octets: u64) {
        self.until(id, |stack, id| stack.info(id).is_some_and(|i| i.bytes_received >= octets));
    }

    fn read(&mut self, id: SocketId) -> Vec<u8> {
        let mut heard = vec![0; 1 << 16];
        let now = self.world.now;
        let count = self.stack().recv(now, id, &mut heard).unwrap_or(0);
        heard.truncate(count);
        heard
    }

    /// When SYNs left a host, milliseconds since the start.
    fn syns_of(&self, node: usize) -> Vec<u64> {
        let syns = self.syns.lock().unwrap();
        syns.iter().filter(|(at, ..)| *at == node).map(|(_, when, _)| *when).collect()
    }

    fn client_syns(&self) -> Vec<u64> {
        self.syns_of(self.world.phone.node.0)
    }

    fn exit_syns(&self) -> Vec<u64> {
        self.syns_of(self.world.gateway.cores[0].host.node.0)
    }

    /// As `ask`, with Fast Open's option.
    fn ask_fast(&mut self, port: u16, text: &[u8]) -> SocketId {
        let (now, with) = (self.world.now, self.with(port));
        let (id, queued) = self.stack().connect_with_data(now, &with, text).unwrap();
        assert_eq!(queued, text.len());
        id
    }

    /// The client has had its answer; it closes, and nothing is left.
    fn finish(mut self, id: SocketId) {
        let heard = self.read(id);
        let header = [1, 1, 0x22, 0x63];
        assert_eq!(heard[..4], header);
        assert_eq!(heard.len() as u64, 4 + ANSWER);
        let now = self.world.now;
        self.stack().close(now, id);
        self.world.run(Duration::from_secs(20));
        assert_eq!(self.world.server.worker.uploads, 1, "one connection, with the whole request");
        self.world.assert_gateway_empty();
    }
}

fn state(stack: &Stack<HeapBuf>, id: SocketId) -> Option<State> {
    Some(stack.info(id)?.subflows.first()?.state)
}

/// Milliseconds from the start until the server's first octet is there.
fn first_octet(speaks: Speaks, front_end: &str) -> u64 {
    let mut run = Run::new(speaks);
    let mut start = run.world.now;
    let socks = b"\x05\x01\x00\x05\x01\x00\x01\x0a\x09\x00\x02\x00\x50";
    match front_end {
        "convert in the SYN" => {
            let id = run.ask(&[message(2), request()].concat());
            run.hear(id, 5);
        }
        "convert behind it" => {
            let id = run.open(1234);
            run.say(id, &[message(2), request()].concat());
            run.hear(id, 5);
        }
        "socks5 pipelined, Fast Open" => {
            // The cookie comes with a connection before.
            let id = run.ask_fast(1080, &[&socks[..], &request()].concat());
            run.hear(id, 13);
            start = run.world.now;
            let id = run.ask_fast(1080, &[&socks[..], &request()].concat());
            run.hear(id, 13);
        }
        "socks5 pipelined" => {
            let id = run.open(1080);
            run.say(id, &[&socks[..], &request()].concat());
            run.hear(id, 13);
        }
        _ => {
            let id = run.open(1080);
            run.say(id, &socks[..3]);
            run.hear(id, 2);
            run.say(id, &socks[3..]);
            run.hear(id, 12);
            run.say(id, &request());
            run.hear(id, 13);
        }
    }
    let end: Instant = run.world.now;
    u64::try_from(end.since(start).as_millis()).unwrap()
}

/// The table of docs/benchmarks.md: 40 ms to the gateway and back, 10 ms from there to the server.
#[test]
fn the_first_octet_comes_sooner_than_by_socks5() {
    let mut table = String::new();
    let ways = [
        "convert in the SYN",
        "convert behind it",
        "socks5 pipelined, Fast Open",
        "socks5 pipelined",
        "socks5",
    ];
    for way in ways {
        let times = ALL.map(|speaks| first_octet(speaks, way));
        table += &format!("| {way} | {} | {} | {} |\n", times[0], times[1], times[2]);
        let expected = match way {
            "convert in the SYN" => [60, 60, 90],
            "socks5 pipelined, Fast Open" => [60, 60, 80],
            "convert behind it" | "socks5 pipelined" => [100; 3],
            _ => [180; 3],
        };
        for (time, expected) in times.into_iter().zip(expected) {
            // Links have a rate, too.
            assert!((expected..expected + 2).contains(&time), "{way}: {times:?}");
        }
    }
    println!("| | TCP | MPTCP v0 | MPTCP v1 |\n|---|---|---|---|\n{table}");
}

#[test]
fn a_message_in_the_syn_is_served_and_leaves_nothing() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        let version = run.stack().info(id).unwrap().mptcp;
        let expected = match speaks {
            Speaks::Tcp => None,
            Speaks::V0 => Some(0),
            Speaks::V1 => Some(1),
        };
        assert_eq!(version, expected);
        let syns = run.syns.lock().unwrap().clone();
        let [(_, _, client), (_, _, exit)] = syns[..2] else { panic!("{syns:?}") };
        assert!(exit <= client, "no amplification: {client} in, {exit} out");
        run.finish(id);
    }
}

#[test]
fn without_the_first_syn_the_message_comes_behind_the_handshake() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        lose(&mut run, 0, Direction::AtoB, &[0]);
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        assert_eq!(run.client_syns().len(), 2);
        assert_eq!(run.exit_syns().len(), 1);
        run.finish(id);
    }
}

/// The nth packets pushed on one direction of an access path get lost.
fn lose(run: &mut Run, access: usize, direction: Direction, packets: &[u64]) {
    let path = run.world.access[access];
    lose_on(run, path, direction, packets);
}

fn lose_on(run: &mut Run, path: netsim::network::PathId, direction: Direction, packets: &[u64]) {
    let (now, list) = (run.world.now.as_nanos(), packets.iter().copied().collect());
    run.world.net.link_mut(path, direction).apply(now, Change::Loss(Loss::List(list)));
}

#[test]
fn an_exits_syn_that_is_lost_waits_for_the_clients_next_one() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        let exit = run.world.exit;
        lose_on(&mut run, exit, Direction::AtoB, &[0, 1]);
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        let (client, exit) = (run.client_syns(), run.exit_syns());
        assert_eq!((client.len(), exit.len()), (3, 3), "{client:?} {exit:?}");
        for (client, exit) in client.into_iter().zip(exit) {
            assert!((client..client + 25).contains(&exit), "{client} {exit}");
        }
        run.finish(id);
    }
}

#[test]
fn a_syn_ack_that_is_lost_comes_again_and_opens_no_second_exit() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        lose(&mut run, 0, Direction::BtoA, &[0]);
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        assert_eq!(run.exit_syns().len(), 1);
        run.finish(id);
    }
}

#[test]
fn a_syn_that_the_network_doubles_is_one_request() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        let path = run.world.access[0];
        run.world.net.add_middlebox(path, Box::new(SynFilter::new(SynFate::Double)));
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        assert_eq!(run.exit_syns().len(), 1);
        run.finish(id);
    }
}

/// A second and a half each way: the client's SYN goes again after one second.
#[test]
fn a_slow_destination_is_waited_for() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        let (now, exit) = (run.world.now.as_nanos(), run.world.exit);
        for direction in [Direction::AtoB, Direction::BtoA] {
            run.world.net.link_mut(exit, direction).apply(now, Change::Delay(1_500_000_000));
        }
        let id = run.ask(&[message(2), request()].concat());
        run.hear(id, 4 + ANSWER);
        let (client, exit) = (run.client_syns(), run.exit_syns());
        assert!(exit.len() <= client.len() && exit.len() == 2, "{client:?} {exit:?}");
        run.finish(id);
    }
}

/// Nobody has 10.9.0.9: the client hears of it after `connect_s`, ten seconds here.
#[test]
fn a_destination_that_never_answers_costs_one_syn_per_syn_and_ends_in_an_error() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        let id = run.ask(&message(9));
        run.hear(id, 8);
        let (client, exit) = (run.client_syns(), run.exit_syns());
        assert_eq!((client.len(), exit.len()), (4, 4), "{client:?} {exit:?}");
        assert_eq!(run.read(id), [1, 2, 0x22, 0x63, 30, 1, 65, 0]);
        let now = run.world.now;
        run.stack().abort(now, id);
        run.world.assert_gateway_empty();
    }
}

/// The client's later SYNs get lost: no timer of ours repeats the exit's.
#[test]
fn nothing_but_the_clients_syn_repeats_the_exits() {
    for speaks in ALL {
        let mut run = Run::new(speaks);
        lose(&mut run, 0, Direction::AtoB, &[1, 2]);
        let id = run.ask(&message(9));
        run.world.run(Duration::from_secs(6));
        assert_eq!((run.client_syns().len(), run.exit_syns().len()), (3, 1));
        run.world.run(Duration::from_secs(3));
        assert_eq!((run.client_syns().len(), run.exit_syns().len()), (4, 2));
        let now = run.world.now;
        run.stack().abort(now, id);
        run.world.assert_gateway_empty();
    }
}

/// A stack in SYN-SENT says nothing when it gives up: the exit ends with its time, and the SYN/ACK
/// that brings the error is answered by a reset.
#[test]
fn a_client_that_gave_up_leaves_nothing() {
    let mut run = Run::new(Speaks::Tcp);
    let id = run.ask(&message(9));
    run.world.run(Duration::from_secs(2));
    assert_eq!(run.world.counters().sessions, 1);
    let now = run.world.now;
    run.stack().abort(now, id);
    run.world.run(Duration::from_secs(9));
    assert_eq!(run.world.counters().sessions, 0);
    run.world.assert_gateway_empty();
}

/// The answer to request `id` is heard whole and unchanged.
fn assert_heard(run: &mut Run, socket: SocketId, id: u64, len: u64) {
    let mut heard = Vec::new();
    while (heard.len() as u64) < 4 + len {
        run.hear(socket, heard.len() as u64 + 1);
        heard.extend(run.read(socket));
    }
    assert_eq!(heard[..4], [1, 1, 0x22, 0x63]);
    assert!(heard[4..] == pattern_range(!id, 0, usize::try_from(len).unwrap()), "request {id}");
}

/// Joins and the numbers of the data level go on as if there had been no text in the SYN.
#[test]
fn a_download_behind_a_message_in_the_syn_uses_both_links() {
    for speaks in [Speaks::V0, Speaks::V1] {
        let mut run = Run::over(speaks, PathManagerKind::Fullmesh, 7, 0);
        let len = 2_u64 << 20;
        let text = [message(2), [1, 0, len].map(u64::to_be_bytes).concat()].concat();
        let id = run.ask(&text);
        assert_heard(&mut run, id, 1, len);
        // The first phone's.
        for path in run.world.access.clone().into_iter().take(2) {
            let bytes = run.world.net.link(path, Direction::BtoA).counters().delivered_bytes;
            assert!(bytes > 200_000, "{speaks:?}: {bytes} bytes over one of the links");
        }
        let now = run.world.now;
        run.stack().close(now, id);
        run.world.run(Duration::from_secs(20));
        run.world.assert_gateway_empty();
    }
}

/// Whatever is lost, every answer comes whole, and nothing is left.
#[test]
fn a_crowd_on_bad_links_is_served_and_leaves_nothing() {
    for seed in 0..12 {
        let speaks = ALL[usize::from(seed) % 3];
        let loss_ppm = 10_000 * u32::from(seed);
        let mut run = Run::over(speaks, PathManagerKind::Fullmesh, seed, loss_ppm);
        let mut clients = Vec::new();
        for number in 1..=10_u64 {
            let len = number * 3_000;
            let request = [number, 0, len].map(u64::to_be_bytes).concat();
            clients.push((run.ask(&[message(2), request].concat()), number, len));
            run.world.run(Duration::from_millis(50));
        }
        for (id, number, len) in clients {
            assert_heard(&mut run, id, number, len);
            let now = run.world.now;
            run.stack().close(now, id);
        }
        run.world.run(Duration::from_secs(120));
        run.world.assert_gateway_empty();
    }
}
