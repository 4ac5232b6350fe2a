//! The loop over devices made of queues: bounded, ordered, fair, and honest about what it drops.

use super::*;
use crate::port::TX_QUEUE;
use core::cell::RefCell;
use ipnet::IpNet;
use mptcp_core::buf::TxMeta;
use nix::sys::eventfd::EventFd;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

const MTU: u16 = 1500;

/// The far end of a [`FakeDevice`].
#[derive(Debug, Default)]
struct Wire {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    /// Packets it takes before it is full.
    capacity: usize,
    recv_error: Option<io::ErrorKind>,
    send_error: Option<io::ErrorKind>,
}

#[derive(Clone, Debug)]
struct FakeDevice {
    wire: Rc<RefCell<Wire>>,
    /// Never readable: these tests drive the loop by turns, or end it by a handle.
    event: Rc<EventFd>,
}

impl FakeDevice {
    fn new() -> Self {
        let wire = Wire { capacity: usize::MAX, ..Wire::default() };
        Self { wire: Rc::new(RefCell::new(wire)), event: Rc::new(EventFd::new().unwrap()) }
    }

    fn arrive(&self, packet: Vec<u8>) {
        self.wire.borrow_mut().arriving.push_back(packet);
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.wire.borrow().sent.clone()
    }
}

impl AsFd for FakeDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl PacketDevice for FakeDevice {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.borrow_mut();
        if let Some(kind) = wire.recv_error {
            return Err(kind.into());
        }
        let packet = wire.arriving.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        into[..packet.len()].copy_from_slice(&packet);
        Ok(packet.len())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut wire = self.wire.borrow_mut();
        if let Some(kind) = wire.send_error {
            return Err(kind.into());
        }
        if wire.capacity == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.capacity -= 1;
        wire.sent.push(packet.to_vec());
        Ok(())
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn name(&self) -> &'static str {
        "fake"
    }
}

/// Records what it is given and sends what it is told.
#[derive(Default)]
struct Script {
    bursts: Vec<Vec<(PortId, Vec<u8>)>>,
    /// Keeps what it receives, as a receive queue nobody reads does.
    keeps: bool,
    kept: Vec<HeapBuf>,
    to_send: VecDeque<(PortId, Vec<u8>)>,
    deadlines: VecDeque<Instant>,
    stop_when_done: bool,
    /// What the next fragment makes whole.
    whole: Option<Vec<u8>>,
}

impl Script {
    fn received(&self) -> impl Iterator<Item = &(PortId, Vec<u8>)> {
        self.bursts.iter().flatten()
    }
}

impl Worker<HeapBuf> for Script {
    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<HeapBuf>) {
        self.bursts.push(burst.iter().map(|p| (p.rx_meta().port, p.to_vec())).collect());
        if self.keeps {
            self.kept.append(burst);
        }
        burst.clear();
    }

    fn handle_timeouts(&mut self, now: Instant, _budget: usize) -> Progress {
        while self.deadlines.front().is_some_and(|at| *at <= now) {
            self.deadlines.pop_front();
        }
        Progress::Done
    }

    fn handle_events(&mut self, _now: Instant) {}

    fn poll_transmit<T: TxQueue<HeapBuf>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
        while tx.room() > 0 {
            let Some((port, bytes)) = self.to_send.pop_front() else {
                return Progress::Done;
            };
            let Some(mut packet) = tx.alloc() else {
                self.to_send.push_front((port, bytes));
                return Progress::More;
            };
            assert!(packet.copy_from(&bytes));
            packet.set_tx_meta(TxMeta { port, partial_checksum: false });
            tx.push(packet);
        }
        if self.to_send.is_empty() { Progress::Done } else { Progress::More }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.front().copied()
    }

    fn reassemble(&mut self, _now: Instant, _fragment: HeapBuf) -> Option<HeapBuf> {
        self.whole.take().map(|whole| HeapBuf::from_slice(&whole))
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        if self.stop_when_done && self.deadlines.is_empty() {
            Control::Stop
        } else {
            Control::Continue
        }
    }
}

const NOW: Instant = Instant::from_millis(1);

fn make_loop(
    devices: &[FakeDevice],
    routes: &[(IpNet, PortId)],
    pool: usize,
) -> TunLoop<FakeDevice> {
    let port = |device: &FakeDevice| TunPort {
        device: device.clone(),
        addresses: vec!["10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
    };
    let ports = devices.iter().map(port).collect();
    let pool = HeapPool::new(pool, usize::from(MTU));
    TunLoop::new(ports, RouteTable::new(routes), pool, Clock::start()).unwrap()
}

/// An IPv4 header towards `to` with `protocol` and a tag behind it; enough for the loop.
fn packet_to(to: [u8; 4], protocol: u8, tag: u32) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = 0x45;
    bytes[9] = protocol;
    bytes[16..20].copy_from_slice(&to);
    bytes[20..].copy_from_slice(&tag.to_be_bytes());
    bytes
}

fn tcp_packet(tag: u32) -> Vec<u8> {
    packet_to([10, 1, 0, 1], PROTOCOL_TCP, tag)
}

#[test]
fn a_busy_device_gets_one_burst_per_turn() {
    let devices = [FakeDevice::new(), FakeDevice::new()];
    let mut tun = make_loop(&devices, &[], 1000);
    let mut worker = Script::default();
    let tag_count = u32::try_from(BURST).unwrap() + 3;
    for tag in 0..tag_count {
        devices[0].arrive(tcp_packet(tag));
    }
    devices[1].arrive(tcp_packet(77));

    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Busy);
    assert_eq!(worker.bursts.len(), 2);
    assert_eq!(worker.bursts[0].len(), BURST);
    assert_eq!(worker.bursts[1], [(PortId(1), tcp_packet(77))]);

    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(worker.bursts[2].len(), 3);
    assert!(worker.bursts[2].iter().all(|(port, _)| *port == PortId(0)));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(worker.bursts.len(), 3, "an empty burst is not handed over");

    let counters = tun.counters();
    assert_eq!(counters.turns(), 3);
    assert_eq!(counters.ports()[0].rx_packets(), u64::from(tag_count));
    assert_eq!(counters.ports()[0].rx_bytes(), u64::from(tag_count) * 24);
    assert_eq!(counters.ports()[1].rx_packets(), 1);
}

#[test]
fn packets_leave_by_their_port_or_by_the_route() {
    let devices = [FakeDevice::new(), FakeDevice::new()];
    let routes = [("10.9.0.0/24".parse().unwrap(), PortId(1))];
    let mut tun = make_loop(&devices, &routes, 100);
    let bound = packet_to([10, 9, 0, 2], PROTOCOL_TCP, 1);
    let routed = packet_to([10, 9, 0, 2], PROTOCOL_TCP, 2);
    let nowhere = packet_to([10, 8, 0, 2], PROTOCOL_TCP, 3);
    let mut worker = Script::default();
    worker.to_send.push_back((PortId(0), bound.clone()));
    worker.to_send.push_back((PortId::ROUTED, routed.clone()));
    worker.to_send.push_back((PortId::ROUTED, nowhere.clone()));
    worker.to_send.push_back((PortId(2), nowhere.clone()));
    worker.to_send.push_back((PortId::ROUTED, vec![0x45]));

    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(devices[0].sent(), [bound]);
    assert_eq!(devices[1].sent(), [routed]);
    assert_eq!(tun.counters().no_route(), 3);
    assert_eq!(tun.counters().ports()[1].tx_packets(), 1);
    assert_eq!(tun.counters().ports()[1].tx_bytes(), 24);
}

#[test]
fn a_full_device_keeps_its_packets_in_order_and_disturbs_nobody() {
    let devices = [FakeDevice::new(), FakeDevice::new()];
    devices[0].wire.borrow_mut().capacity = 2;
    let mut tun = make_loop(&devices, &[], 1000);
    let mut worker = Script::default();
    let overflow = 5;
    let tag_count = u32::try_from(2 + TX_QUEUE + overflow).unwrap();
    for tag in 0..tag_count {
        worker.to_send.push_back((PortId(0), tcp_packet(tag)));
    }
    worker.to_send.push_back((PortId(1), tcp_packet(9999)));

    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Busy, "one burst of {TX_BURST}");
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(devices[0].sent(), [tcp_packet(0), tcp_packet(1)]);
    assert_eq!(devices[1].sent(), [tcp_packet(9999)]);
    assert_eq!(tun.counters().ports()[0].tx_queue_full(), overflow as u64);

    devices[0].wire.borrow_mut().capacity = 1;
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    devices[0].wire.borrow_mut().capacity = usize::MAX;
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    let expected: Vec<_> = (0..tag_count - 5).map(tcp_packet).collect();
    assert_eq!(devices[0].sent(), expected);
    assert_eq!(tun.counters().ports()[0].tx_packets(), expected.len() as u64);
    assert_eq!(tun.pool.in_use(), 1, "only the buffer for reading is left");
}

#[test]
fn a_refused_packet_is_lost_and_counted() {
    let device = FakeDevice::new();
    device.wire.borrow_mut().send_error = Some(io::ErrorKind::Other);
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 100);
    let mut worker = Script::default();
    worker.to_send.push_back((PortId(0), tcp_packet(1)));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    device.wire.borrow_mut().send_error = None;
    worker.to_send.push_back((PortId(0), tcp_packet(2)));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(device.sent(), [tcp_packet(2)]);
    assert_eq!(tun.counters().ports()[0].tx_errors(), 1);
    assert_eq!(tun.counters().ports()[0].tx_packets(), 1);
}

#[test]
fn a_deleted_device_ends_the_loop() {
    let device = FakeDevice::new();
    device.wire.borrow_mut().recv_error = Some(io::ErrorKind::NotFound);
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 100);
    let error = tun.run(&mut Script::default()).expect_err("no device");
    assert!(matches!(error, TunError::Device { .. }), "{error}");
    assert!(error.to_string().contains("fake"), "{error}");
}

#[test]
fn an_empty_pool_loses_data_but_no_acknowledgement() {
    let device = FakeDevice::new();
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 8);
    let mut worker = Script { keeps: true, ..Script::default() };
    let data = |tag| [tcp_packet(tag), vec![0; SMALL_PACKET_LEN]].concat();
    for tag in 0..20 {
        device.arrive(data(tag));
        device.arrive(tcp_packet(tag));
    }
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    // The buffer that is read to counts as one of the eight.
    let is_data = |packet: &&(PortId, Vec<u8>)| packet.1.len() > SMALL_PACKET_LEN;
    let (data_count, small_count) =
        (worker.received().filter(is_data).count(), worker.received().count());
    assert_eq!((data_count, small_count - data_count), (4, 20));
    assert_eq!(tun.counters().ports()[0].rx_packets(), 40);
    assert_eq!(tun.counters().ports()[0].rx_no_buffer(), 16);
    assert_eq!(tun.pool.in_use(), 8);

    worker.kept.clear();
    worker.bursts.clear();
    device.arrive(data(99));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert!(worker.received().map(|(_, bytes)| bytes).eq([&data(99)]));
}

#[test]
fn a_sender_cannot_take_the_buffers_acknowledgements_need() {
    let device = FakeDevice::new();
    device.wire.borrow_mut().capacity = 0;
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 20);
    let mut worker = Script::default();
    for tag in 0..30 {
        worker.to_send.push_back((PortId(0), tcp_packet(tag)));
    }
    device.arrive(tcp_packet(100));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(worker.received().count(), 1);
    assert_eq!(tun.pool.in_use(), 10, "half of a small pool stays for reading");
    assert_eq!(worker.to_send.len(), 30 - 9, "the buffer for reading counts too");
    assert!(tun.tx_starved, "the loop sleeps a little although there is more");
    device.arrive(tcp_packet(101));
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
    assert_eq!(worker.received().count(), 2);
}

/// An ICMP echo request (RFC 792) from 192.0.2.7 to `to`, checksums complete.
fn echo_request(to: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    bytes[0] = 0x45;
    bytes[3] = 36;
    bytes[8] = 64;
    bytes[9] = 1;
    bytes[12..16].copy_from_slice(&[192, 0, 2, 7]);
    bytes[16..20].copy_from_slice(&to);
    bytes[20] = 8;
    bytes[24..36].copy_from_slice(b"\x12\x34\0\x01payload!");
    let sum = internet_checksum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    let sum = internet_checksum(&bytes[20..]);
    bytes[22..24].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071 by its letter, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn echo_requests_to_us_are_answered_on_their_port() {
    let devices = [FakeDevice::new(), FakeDevice::new()];
    let mut tun = make_loop(&devices, &[], 100);
    let mut worker = Script::default();
    let mut damaged = echo_request([10, 1, 0, 1]);
    damaged[30] ^= 1;
    let others = [tcp_packet(1), echo_request([10, 1, 0, 9]), damaged, vec![], vec![0x60; 3]];
    devices[1].arrive(others[0].clone());
    devices[1].arrive(echo_request([10, 1, 0, 1]));
    for packet in &others[1..] {
        devices[1].arrive(packet.clone());
    }
    assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);

    assert!(worker.received().map(|(_, bytes)| bytes).eq(&others), "{:?}", worker.bursts);
    assert!(devices[0].sent().is_empty());
    let [reply] = &devices[1].sent()[..] else { panic!("one reply") };
    assert_eq!(reply[12..16], [10, 1, 0, 1]);
    assert_eq!(reply[16..20], [192, 0, 2, 7]);
    assert_eq!(reply[20], 0, "echo reply");
    assert_eq!(reply[24..], echo_request([0; 4])[24..], "identifier, sequence and data come back");
    assert_eq!(internet_checksum(&reply[..20]), 0);
    assert_eq!(internet_checksum(&reply[20..]), 0);
    let counters = tun.counters();
    assert_eq!(counters.ports()[1].echo_replies(), 1);
    assert_eq!(counters.ports()[1].rx_packets(), 6);
    assert_eq!(counters.ports()[1].tx_packets(), 1);
}

#[test]
fn echo_replies_have_a_rate() {
    let device = FakeDevice::new();
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 2000);
    let mut worker = Script::default();
    for _ in 0..1500 {
        device.arrive(echo_request([10, 1, 0, 1]));
    }
    while tun.turn(NOW, &mut worker).unwrap() == Turn::Busy {}
    let counters = tun.counters();
    let port = &counters.ports()[0];
    assert_eq!((port.echo_replies(), port.echo_limited()), (1000, 500));
    assert_eq!((device.sent().len(), worker.received().count()), (1000, 0));
}

/// A long answer goes whole or not at all, and is counted alike.
#[test]
fn an_echo_reply_without_buffers_for_its_fragments_is_lost_and_counted() {
    let mut whole = echo_request([10, 1, 0, 1]);
    whole.resize(5 * usize::from(MTU), 0);
    let len = u16::try_from(whole.len()).unwrap();
    whole[2..4].copy_from_slice(&len.to_be_bytes());
    whole[10..12].fill(0);
    let sum = internet_checksum(&whole[..20]);
    whole[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut fragment = packet_to([10, 1, 0, 1], 1, 0);
    fragment[6] = 0x20;
    for (pool, sent) in [(4, 0), (100, 6)] {
        let device = FakeDevice::new();
        let mut tun = make_loop(core::slice::from_ref(&device), &[], pool);
        let mut worker = Script { whole: Some(whole.clone()), ..Script::default() };
        device.arrive(fragment.clone());
        assert_eq!(tun.turn(NOW, &mut worker).unwrap(), Turn::Idle);
        assert_eq!(device.sent().len(), sent);
        let counters = tun.counters();
        let port = &counters.ports()[0];
        let (answered, lost) = (u64::from(sent > 0), u64::from(sent == 0));
        assert_eq!((port.echo_replies(), port.rx_no_buffer()), (answered, lost));
        assert_eq!(tun.pool.in_use(), 1, "the buffer that is read to");
    }
}

#[test]
fn a_stop_sends_what_is_left() {
    let device = FakeDevice::new();
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 1000);
    let mut worker = Script::default();
    let tag_count = u32::try_from(TX_BURST).unwrap() * 2;
    for tag in 0..tag_count {
        worker.to_send.push_back((PortId(0), tcp_packet(tag)));
    }
    tun.handle().stop();
    tun.run(&mut worker).unwrap();
    assert_eq!(device.sent().len(), TX_BURST * 2);
    assert!(worker.bursts.is_empty());
}

#[test]
fn a_flush_gives_up_on_a_device_that_stays_full() {
    let device = FakeDevice::new();
    device.wire.borrow_mut().capacity = 0;
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 1000);
    let mut worker = Script { stop_when_done: true, ..Script::default() };
    worker.to_send.push_back((PortId(0), tcp_packet(1)));
    tun.run(&mut worker).unwrap();
    assert!(device.sent().is_empty());
}

#[test]
fn sleeps_end_at_the_workers_deadlines() {
    let device = FakeDevice::new();
    let mut tun = make_loop(core::slice::from_ref(&device), &[], 100);
    let start = tun.clock.now();
    let deadlines = (1..=5).map(|ms| start + Duration::from_millis(ms)).collect();
    let mut worker = Script { deadlines, stop_when_done: true, ..Script::default() };
    tun.run(&mut worker).unwrap();
    assert!(worker.deadlines.is_empty());
}

#[test]
fn another_thread_can_stop_a_sleeping_loop() {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut tun = make_loop(&[FakeDevice::new()], &[], 100);
        send.send(tun.handle()).unwrap();
        tun.run(&mut Script::default()).unwrap();
    });
    let handle = receive.recv().unwrap();
    handle.wake();
    handle.stop();
    thread.join().unwrap();
    handle.wake();
}

#[test]
fn what_cannot_run_is_refused() {
    let new = |ports: Vec<TunPort<FakeDevice>>, route: Option<u8>, pool: HeapPool| {
        let routes: Vec<_> =
            route.map(|port| ("0.0.0.0/0".parse().unwrap(), PortId(port))).into_iter().collect();
        TunLoop::new(ports, RouteTable::new(&routes), pool, Clock::start())
            .expect_err("refused")
            .to_string()
    };
    let ports = |n: usize| {
        let port = || TunPort { device: FakeDevice::new(), addresses: vec![] };
        core::iter::repeat_with(port).take(n).collect::<Vec<_>>()
    };
    let pool = || HeapPool::new(100, usize::from(MTU));
    assert!(new(ports(0), None, pool()).contains("1 to 255 devices, not 0"));
    assert!(new(ports(256), None, pool()).contains("not 256"));
    assert!(new(ports(2), Some(2), pool()).contains("port2"));
    assert!(new(ports(1), None, HeapPool::new(100, 1499)).contains("mtu = 1500"));
    assert!(new(ports(1), None, HeapPool::new(0, 1500)).contains("pool of 0"));
}

proptest! {
    /// Whatever arrives where: every packet reaches the worker once, in its port's order, under its
    /// port's name, in bursts within the bound.
    #[test]
    fn nothing_is_lost_reordered_or_mislabelled(
        arrivals in proptest::collection::vec((0usize..3, 0usize..150), 0..12),
    ) {
        let devices = [FakeDevice::new(), FakeDevice::new(), FakeDevice::new()];
        let mut tun = make_loop(&devices, &[], 500);
        let mut worker = Script::default();
        let mut expected = [const { Vec::new() }; 3];
        let mut tag = 0;
        for (port, count) in arrivals {
            for _ in 0..count {
                tag += 1;
                devices[port].arrive(tcp_packet(tag));
                expected[port].push(tcp_packet(tag));
            }
            let _ = tun.turn(NOW, &mut worker).unwrap();
        }
        while tun.turn(NOW, &mut worker).unwrap() == Turn::Busy {}
        prop_assert!(worker.bursts.iter().all(|burst| burst.len() <= BURST));
        for (port, expected) in (0u8..).zip(&expected) {
            let got = worker.received().filter(|(p, _)| *p == PortId(port)).map(|(_, bytes)| bytes);
            prop_assert!(got.eq(expected));
        }
        prop_assert_eq!(tun.pool.in_use(), 1);
    }
}
