//! smoltcp as the relay: two of its sockets and a copy between them, under the same driver as ours.

use crate::host::{GATEWAY, SERVER};
use crate::packet::Packet;
use mptcp_core::buf::{PacketBuf as _, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::time::Instant;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{Socket, tcp};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use std::collections::VecDeque;

/// Of each direction of each socket: more than is ever under way.
const BUFFER: usize = 1 << 20;

#[derive(Default)]
struct Device {
    rx: VecDeque<Packet>,
    tx: VecDeque<Packet>,
}

struct RxToken(Packet);
struct TxToken<'a>(&'a mut VecDeque<Packet>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.data())
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = Packet::new();
        let result = f(packet.append(len).expect("a packet fits into a buffer"));
        self.0.push_back(packet);
        result
    }
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(RxToken, TxToken<'_>)> {
        Some((RxToken(self.rx.pop_front()?), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }

    /// Checksums are verified and computed, both in software.
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// See the module. Serves one client, which need not say where it wants to go.
pub(crate) struct SmolRelay {
    iface: Interface,
    device: Device,
    sockets: SocketSet<'static>,
}

fn time(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(i64::try_from(now.as_micros()).expect("years of virtual time"))
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    // As our ends ask for: the segments of both relays are of one size.
    socket.set_tsval_generator(Some(|| 1));
    socket
}

impl SmolRelay {
    pub(crate) fn new() -> Self {
        let mut device = Device::default();
        let config = Config::new(HardwareAddress::Ip);
        let now = SmolInstant::from_millis(1000);
        let mut iface = Interface::new(config, &mut device, now);
        let cidr = |network| IpCidr::Ipv4(Ipv4Cidr::new(Ipv4Address::new(10, network, 0, 1), 24));
        iface.update_ip_addrs(|addrs| {
            for network in [1, 9] {
                addrs.push(cidr(network)).expect("room for two addresses");
            }
        });
        let mut client = socket();
        client.listen(GATEWAY).expect("a listener");
        let mut sockets = SocketSet::new(Vec::new());
        sockets.add(client);
        sockets.add(socket());
        Self { iface, device, sockets }
    }

    /// Connects to the server once there is a client, and copies what either has received.
    fn relay(&mut self) {
        let mut both = self.sockets.iter_mut().map(|(_, socket)| match socket {
            Socket::Tcp(socket) => socket,
            Socket::Raw(_) => unreachable!("both are TCP sockets"),
        });
        let (Some(client), Some(exit)) = (both.next(), both.next()) else { return };
        if client.may_send() && !exit.is_open() {
            let local = (Ipv4Address::new(10, 9, 0, 1), 40_000);
            exit.connect(self.iface.context(), SERVER, local).expect("a connection");
        }
        copy(client, exit);
        copy(exit, client);
    }
}

fn copy(from: &mut tcp::Socket<'_>, to: &mut tcp::Socket<'_>) {
    while from.can_recv() && to.can_send() {
        let copied = from.recv(|octets| {
            let taken = to.send_slice(octets).expect("it can send");
            (taken, taken)
        });
        if copied == Ok(0) {
            break;
        }
    }
}

impl Worker<Packet> for SmolRelay {
    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<Packet>) {
        self.device.rx.extend(burst.drain(..));
    }

    fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
        Progress::Done
    }

    fn handle_events(&mut self, now: Instant) {
        self.iface.poll(time(now), &mut self.device, &mut self.sockets);
        self.relay();
        self.iface.poll_egress(time(now), &mut self.device, &mut self.sockets);
    }

    fn poll_transmit<T: TxQueue<Packet>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
        while tx.room() > 0 {
            let Some(packet) = self.device.tx.pop_front() else { return Progress::Done };
            tx.push(packet);
        }
        Progress::More
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // Its own deadlines are longer than a tick, in which packets always come.
        None
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        Control::Continue
    }
}
