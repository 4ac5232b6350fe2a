//! Datagrams longer than a packet, and several in one piece, between this machine's kernel and a stack on TUN
//! devices.

use crate::support::{enter_new_network, is_root_with, nstat, pattern, run};
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::buf::{HeapBuf, HeapPool, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::stack::{SocketId, Stack};
use mptcp_core::stats::Counters;
use mptcp_core::time::Instant;
use mptcp_core::udp::UdpOptions;
use mptcp_tun::{Clock, LoopCounters, RouteTable, TunConfig, TunDevice, TunLoop, TunPort};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;

/// Sends every datagram back.
struct Echo {
    stack: Stack<HeapBuf>,
}

impl Application for Echo {
    type Buf = HeapBuf;

    fn stack(&self) -> &Stack<HeapBuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.stack
    }

    fn react(&mut self, _now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            let id: SocketId = event.socket;
            while let Ok((received, datagram)) = self.stack.udp_recv_buf(id) {
                assert!(self.stack.udp_send_buf(id, datagram, &received.reply()).is_ok());
            }
        }
    }
}

/// Runs a stack behind a device of this MTU while `test` runs; answers what the stack counted, and the loop.
fn while_echoing(mtu: u16, test: impl FnOnce()) -> (Counters, Arc<LoopCounters>) {
    let addresses = ["10.1.0.1", "fd00:1::1"].map(|addr| addr.parse().expect("an address"));
    let kernel_addresses = ["10.1.0.254/24", "fd00:1::fe/64"];
    let kernel_addresses = kernel_addresses.map(|net| net.parse().expect("a prefix")).to_vec();
    let config = TunConfig { name: "acc".into(), kernel_addresses, mtu, offload: true };
    let device = TunDevice::create(&config).expect("a device");
    let pool = HeapPool::new(2_000, usize::from(mtu));
    let local = |addr| LocalAddress { addr, port: PortId(0), mtu, endpoint: true, backup: false };
    let config = StackConfig { addresses: addresses.map(local).to_vec(), ..StackConfig::default() };
    let clock = Clock::start();
    let mut stack = Stack::new(config, clock.now(), Box::new(pool.clone()));
    for addr in addresses {
        stack.udp_bind(SocketAddr::new(addr, 7), &UdpOptions::default()).expect("a free port");
    }
    let ports = vec![TunPort { device, addresses: addresses.to_vec() }];
    let mut tun = TunLoop::new(ports, RouteTable::default(), pool.clone(), clock).expect("a loop");
    let (handle, ports) = (tun.handle(), tun.counters());
    let mut worker = Echo { stack };
    let thread = std::thread::spawn(move || {
        tun.run(&mut worker).expect("a clean end");
        worker.stack.counters().clone()
    });
    test();
    handle.stop();
    let counters = thread.join().expect("no panic");
    assert_eq!(pool.in_use(), 0, "buffers leaked");
    (counters, ports)
}

/// An IPv6 address of a new device is tentative at first.
fn bind_soon(at: &str) -> UdpSocket {
    for _ in 0..1_000 {
        match UdpSocket::bind(at) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.expect("a socket"),
        }
    }
    panic!("{at} is still tentative")
}

/// The kernel cuts what it sends and puts together what it gets.
#[test]
fn the_kernel_s_long_datagrams_and_pings_come_back() {
    if !is_root_with(&["ip", "ping", "nstat"]) {
        return;
    }
    for mtu in [1280, 1400, 1500] {
        enter_new_network();
        let (counters, _) = while_echoing(mtu, || {
            for (ours, theirs) in
                [("10.1.0.254:0", "10.1.0.1:7"), ("[fd00:1::fe]:0", "[fd00:1::1]:7")]
            {
                let socket = bind_soon(ours);
                socket.connect(theirs).expect("a route");
                socket.set_read_timeout(Some(Duration::from_secs(60))).expect("it may wait");
                for len in [1_200, 1_473, 4_000, 20_000, 65_000] {
                    let sent = pattern(len);
                    assert_eq!(socket.send(&sent).expect("it goes"), len);
                    let mut into = vec![0; 65_536];
                    let came = socket.recv(&mut into).expect("it comes back");
                    assert!(into[..came] == sent, "{len} over {mtu}: {came}");
                }
            }
            for (len, to) in [
                ("4000", "10.1.0.1"),
                ("4000", "fd00:1::1"),
                ("60000", "10.1.0.1"),
                ("60000", "fd00:1::1"),
            ] {
                run("ping", &["-c", "2", "-i", "0.2", "-W", "10", "-s", len, to]);
            }
        });
        // Of either family four datagrams do not fit, and four pings.
        assert_eq!((counters.ip_reasm_oks, counters.ip_reasm_fails), (16, 0), "{mtu}");
        assert_eq!(counters.ip_frag_oks, 8, "pings are the loop's");
        assert_eq!((nstat("IpReasmOKs"), nstat("IpReasmFails")), (8, 0));
        assert_eq!((nstat("Ip6ReasmOKs"), nstat("Ip6ReasmFails")), (8, 0));
    }
}

/// What an application hands over in one call (`UDP_SEGMENT`) is cut behind the device.
#[test]
fn the_kernel_s_datagrams_in_one_piece_come_back_one_by_one() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let (counters, ports) = while_echoing(1500, || {
        for (ours, theirs) in [("10.1.0.254:0", "10.1.0.1:7"), ("[fd00:1::fe]:0", "[fd00:1::1]:7")]
        {
            let socket = bind_soon(ours);
            socket.connect(theirs).expect("a route");
            socket.set_read_timeout(Some(Duration::from_secs(60))).expect("it may wait");
            setsockopt(&socket, UdpGsoSegment, &1_000).expect("Linux 4.18 or later");
            let sent = pattern(4_500);
            assert_eq!(socket.send(&sent).expect("it goes"), sent.len());
            for part in sent.chunks(1_000) {
                let mut into = vec![0; 2_000];
                let came = socket.recv(&mut into).expect("it comes back");
                assert!(into[..came] == *part, "{ours}: {came}");
            }
        }
    });
    assert_eq!(counters.udp_in_datagrams, 10);
    let port = &ports.ports()[0];
    // Kernels before 6.2 cut them themselves.
    assert!(matches!((port.rx_pieces(), port.rx_parts()), (2, 10) | (0, 0)), "{port:?}");
}
