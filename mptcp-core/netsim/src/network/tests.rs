//! Delivery order, routing by path, chains of boxes, and one seed, one trace.

use super::*;
use crate::link::Change;
use crate::middlebox::{Nat, NatConfig, Output};
use crate::packet::build::Build;

const MS: u64 = 1_000_000;

fn two_nodes(seed: u64) -> (Network, NodeId, NodeId) {
    let mut net = Network::new(seed);
    let a = net.add_node("a", &["10.0.0.1".parse().unwrap()]);
    let b = net.add_node("b", &["10.0.0.2".parse().unwrap()]);
    (net, a, b)
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let mut build = Build::new("10.0.0.1:1", "10.0.0.2:2");
    build.payload = payload.to_vec();
    build.to_packet()
}

fn back(payload: &[u8]) -> Vec<u8> {
    let mut build = Build::new("10.0.0.2:2", "10.0.0.1:1");
    build.payload = payload.to_vec();
    build.to_packet()
}

fn delay(delay_ns: u64) -> LinkConfig {
    LinkConfig { delay_ns, ..LinkConfig::default() }
}

#[test]
fn arrivals_of_all_paths_come_in_order_of_time() {
    let (mut net, a, b) = two_nodes(1);
    let slow = net.add_path(a, b, delay(30 * MS), delay(30 * MS));
    let fast = net.add_path(a, b, delay(10 * MS), delay(10 * MS));
    net.send(0, a, slow, packet(b"slow"));
    net.send(5 * MS, a, fast, packet(b"fast"));
    net.send(5 * MS, b, slow, back(b"back"));
    assert_eq!(net.next_deadline(), Some(15 * MS));
    assert_eq!(net.deliver(14 * MS), None);
    let seen: Vec<_> =
        core::iter::from_fn(|| net.deliver(50 * MS)).map(|d| (d.at, d.node, d.path)).collect();
    assert_eq!(seen, [(15 * MS, b, fast), (30 * MS, b, slow), (35 * MS, a, slow)]);
    assert_eq!(net.next_deadline(), None);
    assert_eq!(net.route(a, "10.0.0.2".parse().unwrap()), Some(slow));
    assert_eq!(net.route(a, "10.0.0.9".parse().unwrap()), None);
}

#[test]
fn a_foreign_destination_is_counted_and_dropped() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(0), delay(0));
    net.send(0, a, path, back(b"to a itself"));
    net.send(0, a, path, vec![1, 2, 3]);
    assert_eq!(net.deliver(1), None);
    assert_eq!(net.misrouted(), 2);
    net.remove_address(b, "10.0.0.2".parse().unwrap());
    net.add_address(b, "10.0.0.3".parse().unwrap());
    net.send(1, a, path, packet(b"gone"));
    assert_eq!(net.deliver(1), None);
    assert_eq!(net.misrouted(), 3);
}

#[test]
fn the_tap_sees_what_leaves_and_what_arrives() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(10 * MS), delay(0));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    net.send(0, a, path, packet(b"before"));
    net.set_tap(Box::new(move |now, node, path, point, packet| {
        log.lock().unwrap().push((now, node, path, point, packet.to_vec()));
    }));
    net.send(MS, a, path, packet(b"there"));
    net.send(2 * MS, a, path, back(b"misrouted"));
    while net.deliver(50 * MS).is_some() {}
    let expected = [
        (MS, a, path, Point::Sent, packet(b"there")),
        (2 * MS, a, path, Point::Sent, back(b"misrouted")),
        (10 * MS, b, path, Point::Delivered, packet(b"before")),
        (11 * MS, b, path, Point::Delivered, packet(b"there")),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// Appends its mark, and answers packets that start a payload with '?'.
struct Marker(u8);

impl Middlebox for Marker {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if packet.get(40) == Some(&b'?') {
            out.push((dir.reverse(), back(&[b'!', self.0])));
            return;
        }
        packet.push(self.0);
        out.push((dir, packet));
    }
}

#[test]
fn a_chain_runs_from_a_to_b_and_back() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(MS), delay(MS));
    net.add_middlebox(path, Box::new(Marker(1)));
    net.add_middlebox(path, Box::new(Marker(2)));
    net.send(0, a, path, packet(b"x"));
    net.send(0, b, path, back(b"y"));
    let seen: Vec<_> = core::iter::from_fn(|| net.deliver(MS))
        .map(|d| (d.node, d.packet.get(40..).map(<[u8]>::to_vec)))
        .collect();
    assert_eq!(seen, [(b, Some(vec![b'x', 1, 2])), (a, Some(vec![b'y', 2, 1]))]);
    net.send(2 * MS, a, path, packet(b"?"));
    assert_eq!(net.next_deadline(), Some(2 * MS));
    let answer = net.deliver(2 * MS).unwrap();
    assert_eq!((answer.node, &answer.packet[40..]), (a, &[b'!', 1][..]));
    assert_eq!(net.middlebox::<Marker>(path, 1).unwrap().0, 2);
    assert!(net.middlebox::<Marker>(path, 2).is_none());
}

/// Sends everything both ways, for ever.
fn bounce(_now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
    out.push((dir, packet.clone()));
    out.push((dir.reverse(), packet));
}

#[test]
fn boxes_that_answer_each_other_come_to_an_end() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(0), delay(0));
    net.add_middlebox(path, Box::new(bounce));
    net.add_middlebox(path, Box::new(bounce));
    net.send(0, a, path, packet(b"x"));
    assert!(net.chain_overflow() > 0);
    while net.deliver(0).is_some() {}
    assert_eq!(net.next_deadline(), None);
}

fn run(seed: u64) -> u64 {
    let (mut net, a, b) = two_nodes(seed);
    let config = LinkConfig {
        rate_bps: Some(10_000_000),
        delay_ns: 5 * MS,
        jitter_ns: MS,
        loss: crate::Loss::Bernoulli(50_000),
        reorder_ppm: 20_000,
        reorder_extra_ns: MS,
        duplicate_ppm: 10_000,
        ..LinkConfig::default()
    };
    let path = net.add_path(a, b, config.clone(), config);
    net.link_mut(path, Direction::AtoB).at(40 * MS, Change::Blackhole(true));
    net.link_mut(path, Direction::AtoB).at(60 * MS, Change::Blackhole(false));
    for number in 0..200_u64 {
        let now = number * MS / 2;
        while let Some(due) = net.next_deadline().filter(|&due| due <= now) {
            while net.deliver(due).is_some() {}
        }
        net.send(now, a, path, packet(&number.to_be_bytes()));
        net.send(now, b, path, back(&number.to_be_bytes()));
    }
    while let Some(due) = net.next_deadline() {
        while net.deliver(due).is_some() {}
    }
    net.trace().digest()
}

#[test]
fn one_seed_gives_one_trace() {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_capture_holds_both_ends_of_every_packet() {
    use std::sync::{Arc, Mutex};
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(0), delay(0));
    let sink = Sink::default();
    net.set_capture(Box::new(sink.clone())).unwrap();
    let packet = packet(b"hello");
    net.send(0, a, path, packet.clone());
    assert_eq!(net.deliver(0).unwrap().packet, packet);
    net.finish_capture().unwrap();
    assert_eq!(sink.0.lock().unwrap().len(), 24 + 2 * (16 + packet.len()));
}

/// Holds everything for 5 ms, and sends what it held both ways.
#[derive(Default)]
struct Holder(VecDeque<(u64, Vec<u8>)>);

impl Middlebox for Holder {
    fn process(&mut self, now: u64, _dir: Direction, packet: Vec<u8>, _out: &mut Output) {
        self.0.push_back((now + 5 * MS, packet));
    }

    fn next_deadline(&self) -> Option<u64> {
        self.0.front().map(|(due, _)| *due)
    }

    fn timeout(&mut self, now: u64, out: &mut Output) {
        while self.next_deadline().is_some_and(|due| due <= now) {
            let (_, packet) = self.0.pop_front().unwrap();
            out.push((Direction::AtoB, packet.clone()));
            out.push((Direction::BtoA, back(&packet[40..])));
        }
    }
}

#[test]
fn a_box_may_hold_packets_back() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(10 * MS), delay(10 * MS));
    net.add_middlebox(path, Box::new(Marker(1)));
    net.add_middlebox(path, Box::new(Holder::default()));
    net.send(0, a, path, packet(b"x"));
    net.send(2 * MS, a, path, packet(b"y"));
    assert_eq!(net.next_deadline(), Some(5 * MS));
    let seen: Vec<_> = core::iter::from_fn(|| net.deliver(100 * MS))
        .map(|d| (d.at, d.node, d.packet[40..].to_vec()))
        .collect();
    assert_eq!(
        seen,
        [
            (5 * MS, a, vec![b'x', 1, 1]),
            (7 * MS, a, vec![b'y', 1, 1]),
            (15 * MS, b, vec![b'x', 1]),
            (17 * MS, b, vec![b'y', 1]),
        ]
    );
}

#[test]
fn a_nat_on_a_path_hides_its_inside() {
    let (mut net, a, b) = two_nodes(1);
    let path = net.add_path(a, b, delay(MS), delay(MS));
    let public = Some("192.0.2.1".parse().unwrap());
    let nat = Nat::new(NatConfig { public_v4: public, ..NatConfig::default() });
    let index = net.add_middlebox(path, Box::new(nat));
    let mut syn = Build::new("10.0.0.1:5000", "10.0.0.2:80");
    syn.payload = b"ping".to_vec();
    net.send(0, a, path, syn.to_packet());
    let seen = net.deliver(MS).unwrap();
    assert_eq!((seen.node, &seen.packet[12..16]), (b, &[192, 0, 2, 1][..]));
    net.send(MS, b, path, Build::new("10.0.0.2:80", "192.0.2.1:5000").to_packet());
    net.send(MS, b, path, Build::new("10.0.0.2:80", "192.0.2.1:5001").to_packet());
    let seen = net.deliver(2 * MS).unwrap();
    assert_eq!((seen.node, &seen.packet[16..20]), (a, &[10, 0, 0, 1][..]));
    assert_eq!(net.deliver(2 * MS), None);
    let nat = net.middlebox::<Nat>(path, index).unwrap();
    assert_eq!(nat.counters().unknown_inbound, 1);
}
