//! From the stack's IP packet to a frame on a port, and the frames of L2's own making.

use super::frame::{Framing, Mac, group};
use super::links::Link;
use super::neighbour::{Found, Resolution};
use super::recent::Decision;
use super::route::Hop;
use super::{L2, L2Io, MAX_REPORTS, arp, mld, ndisc};
use crate::counters::{DropReason, L2Event};
use core::net::IpAddr;
use mptcp_core::buf::{PacketBuf, PortId};
use mptcp_core::time::Instant;
use mptcp_core::wire::icmp::{self, IcmpErrorKind};
use smoltcp::wire::{EthernetAddress, EthernetProtocol, Ipv4Packet, Ipv6Packet};

impl<B: PacketBuf> L2<B> {
    /// Takes an IP packet of the stack and sends it, or keeps it until its next hop is found. What
    /// cannot be sent is counted and reported to the stack as an ICMP error. O(1).
    pub fn egress(&mut self, now: Instant, packet: B, io: &mut impl L2Io<B>) {
        let Some(dst) = destination(packet.data()) else {
            self.counters.dropped(DropReason::TxMalformed, 1);
            return;
        };
        let port = packet.tx_meta().port;
        if let Some(known) = self.recent.get(port, dst)
            && let Some(mac) = self.neighbours.confirmed(now, known.neighbour)
            && let Some(link) = self.links.get(known.hop.port)
            && packet.packet_len() <= link.mtu
        {
            self.send_framed(known.hop, link.framing, mac, packet, io);
            return;
        }
        self.decide(now, port, dst, packet, io);
    }

    /// The whole way of a packet whose next hop is not among the recent ones.
    fn decide(
        &mut self,
        now: Instant,
        port: PortId,
        dst: IpAddr,
        packet: B,
        io: &mut impl L2Io<B>,
    ) {
        let Some(hop) = self.routes.hop(&self.links, port, dst) else {
            self.counters.dropped(DropReason::NoRoute, 1);
            self.report(IcmpErrorKind::NetworkUnreachable, &packet, io);
            return;
        };
        let Some(link) = self.links.get(hop.port) else {
            self.counters.dropped(DropReason::NoRoute, 1);
            return;
        };
        if link.is_broadcast(dst) || dst.is_multicast() || self.links.accepts(hop.port, dst) {
            self.counters.dropped_on(hop.port, DropReason::BadDestination, 1);
            self.report(IcmpErrorKind::HostUnreachable, &packet, io);
            return;
        }
        let (framing, mtu) = (link.framing, link.mtu);
        if packet.packet_len() > mtu {
            self.counters.dropped_on(hop.port, DropReason::MtuExceeded, 1);
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            self.report(IcmpErrorKind::FragmentationNeeded { mtu }, &packet, io);
            return;
        }
        match self.neighbours.resolve(now, hop, packet) {
            Resolution::Known { neighbour, mac, probe, packet } => {
                if probe {
                    self.ask(hop, Some(mac), io);
                }
                self.recent.insert(port, dst, Decision { hop, neighbour });
                self.send_framed(hop, framing, mac, packet, io);
            }
            Resolution::Waiting { ask } => {
                if ask {
                    self.ask(hop, None, io);
                    self.counters.neighbours.set(u64::from(self.neighbours.len()));
                }
            }
            Resolution::Unreachable(packet) => self.unreachable(packet, io),
        }
    }

    /// Packets that waited for a neighbour that now is known.
    pub(super) fn send_waiting(&mut self, hop: Hop, found: Found<B>, io: &mut impl L2Io<B>) {
        let Some(framing) = self.links.get(hop.port).map(|link| link.framing) else { return };
        for packet in found.waiting {
            self.send_framed(hop, framing, found.mac, packet, io);
        }
    }

    /// Counts a packet whose neighbour does not answer, and tells the stack.
    pub(super) fn unreachable(&mut self, packet: B, io: &mut impl L2Io<B>) {
        self.counters.dropped(DropReason::NeighbourUnreachable, 1);
        self.report(IcmpErrorKind::HostUnreachable, &packet, io);
    }

    fn send_framed(&self, hop: Hop, framing: Framing, mac: Mac, packet: B, io: &mut impl L2Io<B>) {
        let protocol = match hop.addr {
            IpAddr::V4(_) => EthernetProtocol::Ipv4,
            IpAddr::V6(_) => EthernetProtocol::Ipv6,
        };
        match framing.wrap(mac, protocol, packet, || io.alloc()) {
            Some(frame) => io.send(hop.port, frame),
            None => self.counters.dropped_on(hop.port, DropReason::NoBuffer, 1),
        }
    }

    /// Makes an ICMP error about `packet`, from its destination, for our own stack. The first ones
    /// are enough: the rest of a burst meets the same fate.
    fn report(&mut self, kind: IcmpErrorKind, packet: &B, io: &mut impl L2Io<B>) {
        if self.reports.len() >= MAX_REPORTS {
            return;
        }
        let Some(from) = destination(packet.data()) else { return };
        // Only the head is needed; the rest of a chained packet stands as zeroes.
        self.quote.clear();
        self.quote.extend_from_slice(packet.data());
        self.quote.resize(packet.packet_len(), 0);
        if !icmp::emit_error(kind, &self.quote, from, &mut self.scratch) {
            return;
        }
        let Some(mut report) = io.alloc() else { return };
        let Some(bytes) = report.append(self.scratch.len()) else { return };
        bytes.copy_from_slice(&self.scratch);
        self.reports.push(report);
        self.counters.happened(L2Event::ErrorsReported);
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => Some(Ipv4Packet::new_unchecked(packet).dst_addr().into()),
        6 if packet.len() >= 40 => Some(Ipv6Packet::new_unchecked(packet).dst_addr().into()),
        _ => None,
    }
}

/// A frame of our own: `write` fills in `len` bytes behind the header. Without a buffer nothing is
/// sent: every such message is repeated or asked for again.
fn send_own<B: PacketBuf>(
    port: PortId,
    framing: Framing,
    (dst, protocol): (Mac, EthernetProtocol),
    len: usize,
    io: &mut impl L2Io<B>,
    write: impl FnOnce(&mut [u8]),
) {
    let Some(mut frame) = io.alloc() else { return };
    let header_len = framing.header_len();
    let Some(bytes) = frame.append(header_len + len) else { return };
    let Some((header, payload)) = bytes.split_at_mut_checked(header_len) else { return };
    framing.write(dst, protocol, header);
    write(payload);
    io.send(port, frame);
}

/// Answers an ARP request.
pub(super) fn send_arp_reply<B: PacketBuf>(
    port: PortId,
    link: &Link,
    request: arp::Message,
    io: &mut impl L2Io<B>,
) {
    let reply = arp::Message {
        request: false,
        sender_mac: link.framing.mac,
        sender: request.target,
        target: request.sender,
    };
    let to = request.sender_mac;
    send_own(port, link.framing, (to, EthernetProtocol::Arp), arp::LEN, io, |out| {
        reply.write(Some(to), out);
    });
}

/// Answers a neighbour solicitation that came from `asker` at `station`.
pub(super) fn send_advert<B: PacketBuf>(
    port: PortId,
    link: &Link,
    target: core::net::Ipv6Addr,
    asker: IpAddr,
    station: Mac,
    io: &mut impl L2Io<B>,
) {
    let (dst, station) = match asker {
        IpAddr::V6(asker) if !asker.is_unspecified() => (asker, station),
        _ => (ndisc::ALL_NODES, group(ndisc::ALL_NODES)),
    };
    let solicited = dst != ndisc::ALL_NODES;
    let advert = ndisc::Message::Advert { target, mac: None, solicited, overrides: true };
    let mac = link.framing.mac;
    send_own(port, link.framing, (station, EthernetProtocol::Ipv6), ndisc::LEN, io, |out| {
        ndisc::write(advert, mac, target, dst, out);
    });
}

/// Reports the groups of our addresses; answers how many reports that took.
pub(super) fn send_group_reports<B: PacketBuf>(
    port: PortId,
    link: &Link,
    why: mld::Why,
    io: &mut impl L2Io<B>,
) -> usize {
    let Some(src) = link.link_local() else { return 0 };
    let groups = link.solicited_groups();
    let parts = groups.chunks(mld::MOST_GROUPS);
    let sent = parts.len();
    for part in parts {
        let to = (group(mld::ROUTERS), EthernetProtocol::Ipv6);
        send_own(port, link.framing, to, mld::report_len(part.len()), io, |out| {
            mld::write_report(why, part, src, out);
        });
    }
    sent
}

/// Tells the link that `addr` is here (RFC 5227 §3, RFC 4861 §7.2.6).
pub(super) fn send_announcement<B: PacketBuf>(
    port: PortId,
    link: &Link,
    addr: IpAddr,
    io: &mut impl L2Io<B>,
) {
    match addr {
        IpAddr::V4(addr) => {
            let sender_mac = link.framing.mac;
            let message = arp::Message { request: true, sender_mac, sender: addr, target: addr };
            send_arp_question(port, link, None, message, io);
        }
        IpAddr::V6(addr) => {
            let nobody = IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED);
            send_advert(port, link, addr, nobody, Mac::default(), io);
        }
    }
}

/// Asks for the neighbour at `hop`: everybody, or `station`.
pub(super) fn send_question<B: PacketBuf>(
    hop: Hop,
    link: &Link,
    station: Option<Mac>,
    io: &mut impl L2Io<B>,
) {
    let Some(source) = link.source_for(hop.addr) else { return };
    let mac = link.framing.mac;
    match (source, hop.addr) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            let message = arp::Message { request: true, sender_mac: mac, sender, target };
            send_arp_question(hop.port, link, station, message, io);
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let everybody = ndisc::solicited_node(target);
            let (dst, to) =
                station.map_or((everybody, group(everybody)), |station| (target, station));
            let solicit = ndisc::Message::Solicit { target, mac: None };
            let kind = (to, EthernetProtocol::Ipv6);
            send_own(hop.port, link.framing, kind, ndisc::LEN, io, |out| {
                ndisc::write(solicit, mac, source, dst, out);
            });
        }
        _ => {}
    }
}

fn send_arp_question<B: PacketBuf>(
    port: PortId,
    link: &Link,
    station: Option<Mac>,
    message: arp::Message,
    io: &mut impl L2Io<B>,
) {
    let to = station.unwrap_or(EthernetAddress::BROADCAST);
    send_own(port, link.framing, (to, EthernetProtocol::Arp), arp::LEN, io, |out| {
        message.write(station, out);
    });
}
