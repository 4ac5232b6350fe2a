//! From a received frame to an IP packet for the stack, an answer, or a counter.

use super::frame::{Header, Mac};
use super::links::Link;
use super::neighbour::Claim;
use super::route::Hop;
use super::{L2, L2Io, MAX_NEWS, NeighbourNews, arp, egress, mld, ndisc};
use crate::counters::{DropReason, L2Event};
use core::net::IpAddr;
use mptcp_core::buf::{PacketBuf, PortId, TxMeta};
use mptcp_core::fragments;
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, icmp, is_fragment};
use smoltcp::wire::{EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const V4_ECHO_REQUEST: u8 = 8;
const V6_ECHO_REQUEST: u8 = 128;

/// What an IP header says that decides where the packet goes.
struct Summary {
    src: IpAddr,
    dst: IpAddr,
    total_len: usize,
    echo_request: bool,
    fragment: bool,
}

impl<B: PacketBuf> L2<B> {
    /// Takes a frame that `port` received. Returns the IP packet in it when that is for the stack,
    /// without padding. Fragments wait for [`L2::poll_fragment`]. O(1).
    pub fn ingress(
        &mut self,
        now: Instant,
        port: PortId,
        mut frame: B,
        io: &mut impl L2Io<B>,
    ) -> Option<B> {
        let (header, link) = match self.accept_frame(port, frame.data()) {
            Ok(accepted) => accepted,
            Err(reason) => return self.refuse(port, reason),
        };
        match header.protocol {
            EthernetProtocol::Arp => {
                let message = frame.data().get(header.len..).and_then(arp::Message::parse);
                let Some(message) = message else {
                    return self.refuse(port, DropReason::ArpInvalid);
                };
                let answer = arp_answer(link, message);
                if answer {
                    egress::send_arp_reply(port, link, message, io);
                    self.counters.happened(L2Event::ArpReplies);
                }
                self.learn_from_arp(now, port, header, message, answer, io);
                None
            }
            EthernetProtocol::Ipv4 => {
                frame.trim_front(header.len);
                self.ipv4(now, port, header.dst, frame, io)
            }
            EthernetProtocol::Ipv6 => {
                frame.trim_front(header.len);
                self.ipv6(now, port, header, frame, io)
            }
            EthernetProtocol::Unknown(_) => self.refuse(port, DropReason::UnknownEtherType),
        }
    }

    /// Counts a drop; the caller's packet goes out of scope with it.
    fn refuse(&self, port: PortId, reason: DropReason) -> Option<B> {
        self.counters.dropped_on(port, reason, 1);
        None
    }

    fn accept_frame(&self, port: PortId, frame: &[u8]) -> Result<(Header, &Link), DropReason> {
        let header = Header::parse(frame).ok_or(DropReason::FrameTruncated)?;
        let link = self.links.get(port).ok_or(DropReason::WrongStation)?;
        let ours = link.framing;
        if header.vlan != ours.vlan {
            return Err(DropReason::WrongVlan);
        }
        if header.src.is_multicast() || header.src.0 == [0; 6] || header.src == ours.mac {
            return Err(DropReason::BadStation);
        }
        if header.dst != ours.mac && !header.dst.is_multicast() {
            return Err(DropReason::WrongStation);
        }
        Ok((header, link))
    }

    fn learn_from_arp(
        &mut self,
        now: Instant,
        port: PortId,
        header: Header,
        message: arp::Message,
        answered: bool,
        io: &mut impl L2Io<B>,
    ) {
        let sender = IpAddr::V4(message.sender);
        let Some(link) = self.links.get(port) else { return };
        if link.owns(sender) {
            self.conflict(now, port, sender, message.sender_mac);
            return;
        }
        let announces = message.sender == message.target;
        let to_us = answered || (!message.request && link.owns(IpAddr::V4(message.target)));
        if !link.on_link(sender) || !(to_us || announces) {
            // A probe (RFC 5227 §2.1.1) has no sender to learn, but may have been answered.
            if !answered {
                self.counters.dropped_on(port, DropReason::ArpNotForUs, 1);
            }
            return;
        }
        let claim = Claim {
            mac: Some(message.sender_mac),
            solicited: !message.request && header.dst == link.framing.mac,
            overrides: true,
            wanted: answered,
        };
        self.learn(now, Hop { port, addr: sender }, claim, io);
    }

    fn ipv4(
        &mut self,
        now: Instant,
        port: PortId,
        station: Mac,
        packet: B,
        io: &mut impl L2Io<B>,
    ) -> Option<B> {
        let Ok(ip) = Ipv4Packet::new_checked(packet.data()) else {
            return self.refuse(port, DropReason::IpMalformed);
        };
        if ip.version() != 4 {
            return self.refuse(port, DropReason::IpMalformed);
        }
        let fragment = is_fragment(packet.data());
        let summary = Summary {
            src: IpAddr::V4(ip.src_addr()),
            dst: IpAddr::V4(ip.dst_addr()),
            total_len: usize::from(ip.total_len()),
            echo_request: ip.next_header() == IpProtocol::Icmp
                && ip.payload().first() == Some(&V4_ECHO_REQUEST),
            fragment,
        };
        self.ip(now, port, station, summary, packet, io)
    }

    fn ipv6(
        &mut self,
        now: Instant,
        port: PortId,
        header: Header,
        packet: B,
        io: &mut impl L2Io<B>,
    ) -> Option<B> {
        let Ok(ip) = Ipv6Packet::new_checked(packet.data()) else {
            return self.refuse(port, DropReason::IpMalformed);
        };
        if ip.version() != 6 {
            return self.refuse(port, DropReason::IpMalformed);
        }
        if ip.next_header() == IpProtocol::HopByHop && ip.dst_addr().is_multicast() {
            return self.mld(now, port, mld::parse(&ip));
        }
        let icmp = ip.next_header() == IpProtocol::Icmpv6;
        let (src, dst) = (ip.src_addr(), ip.dst_addr());
        if icmp {
            match ndisc::parse(&ip) {
                ndisc::Parsed::Message(message) => {
                    self.ndisc(now, port, header.src, (src.into(), dst.into()), message, io);
                    return None;
                }
                ndisc::Parsed::Ignored => return self.refuse(port, DropReason::NdiscIgnored),
                ndisc::Parsed::Invalid => return self.refuse(port, DropReason::NdiscInvalid),
                ndisc::Parsed::Other => {}
            }
        }
        let summary = Summary {
            src: IpAddr::V6(src),
            dst: IpAddr::V6(dst),
            total_len: ip.total_len(),
            echo_request: icmp && ip.payload().first() == Some(&V6_ECHO_REQUEST),
            fragment: is_fragment(packet.data()),
        };
        self.ip(now, port, header.dst, summary, packet, io)
    }

    /// What IPv4 and IPv6 have in common.
    fn ip(
        &mut self,
        now: Instant,
        port: PortId,
        station: Mac,
        summary: Summary,
        mut packet: B,
        io: &mut impl L2Io<B>,
    ) -> Option<B> {
        let ours = self.links.accepts(port, summary.dst);
        if !ours && !self.links.passes(port, summary.dst) {
            return self.refuse(port, DropReason::NotForUs);
        }
        if station.is_multicast() {
            return self.refuse(port, DropReason::LinkBroadcast);
        }
        if self.links.is_martian(port, summary.src) {
            return self.refuse(port, DropReason::Martian);
        }
        packet.truncate(summary.total_len);
        if summary.fragment {
            self.fragments.push_back(packet);
            return None;
        }
        if summary.echo_request && ours {
            self.echo(now, port, packet, io);
            return None;
        }
        Some(packet)
    }

    fn echo(&mut self, now: Instant, port: PortId, packet: B, io: &mut impl L2Io<B>) {
        let Some(mut reply) = writable(packet, io) else {
            self.counters.dropped_on(port, DropReason::NoBuffer, 1);
            return;
        };
        if !reply.data_mut().is_some_and(icmp::echo_reply) {
            self.counters.dropped_on(port, DropReason::EchoInvalid, 1);
            return;
        }
        if !self.echo.take(now) {
            self.counters.dropped_on(port, DropReason::EchoRate, 1);
            return;
        }
        let meta = TxMeta { port, partial_checksum: false };
        self.counters.happened(L2Event::EchoReplies);
        let mtu = self.links.get(port).map_or(usize::MAX, |link| link.mtu);
        if reply.packet_len() <= mtu {
            reply.set_tx_meta(meta);
            return self.egress(now, reply, io);
        }
        let mut parts = Vec::new();
        let push = |part| parts.push(part);
        if !fragments::send_echo_reply(reply.data(), mtu, || io.alloc(), push) {
            self.counters.dropped_on(port, DropReason::NoBuffer, 1);
            return;
        }
        for mut part in parts {
            part.set_tx_meta(meta);
            self.egress(now, part, io);
        }
    }

    /// Takes a packet that was put together of fragments, which [`L2::poll_fragment`] gave. Returns it when it is
    /// for the stack. Messages of neighbour discovery in fragments are for nobody (RFC 6980).
    pub fn reassembled(&mut self, now: Instant, packet: B, io: &mut impl L2Io<B>) -> Option<B> {
        let port = packet.rx_meta().port;
        let header = IpHeader::parse(packet.data()).ok()?;
        let kind = packet.data().get(header.header_len);
        let echo_request = match header.src {
            IpAddr::V4(_) => header.protocol == PROTOCOL_ICMP && kind == Some(&V4_ECHO_REQUEST),
            IpAddr::V6(_) => header.protocol == PROTOCOL_ICMPV6 && kind == Some(&V6_ECHO_REQUEST),
        };
        if echo_request && !header.fragment && self.links.accepts(port, header.dst) {
            self.echo(now, port, packet, io);
            return None;
        }
        Some(packet)
    }

    /// Somebody asks for listeners. Which of our groups does not matter: all are reported.
    fn mld(&mut self, now: Instant, port: PortId, parsed: mld::Parsed) -> Option<B> {
        let link = self.links.get(port)?;
        let mld::Parsed::Query { group, delay } = parsed else {
            let invalid = parsed == mld::Parsed::Invalid;
            let reason = if invalid { DropReason::MldInvalid } else { DropReason::NotForUs };
            return self.refuse(port, reason);
        };
        if link.link_local().is_none()
            || !(group.is_unspecified() || link.solicited_groups().contains(&group))
        {
            return self.refuse(port, DropReason::NotForUs);
        }
        let [_, _, a, b, c, d] = link.framing.mac.0;
        let host = u64::from(u32::from_be_bytes([a, b, c, d]));
        let spread = (now.as_nanos() ^ host).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        self.group_reports.asked(now, usize::from(port.0), delay, spread);
        None
    }

    /// `station` sent `message` in an IPv6 packet from `src` to `dst`.
    fn ndisc(
        &mut self,
        now: Instant,
        port: PortId,
        station: Mac,
        (src, dst): (IpAddr, IpAddr),
        message: ndisc::Message,
        io: &mut impl L2Io<B>,
    ) {
        let Some(link) = self.links.get(port) else { return };
        match message {
            ndisc::Message::Solicit { target, mac } => {
                let group = IpAddr::V6(ndisc::solicited_node(target));
                let addressed = dst == group || dst == IpAddr::V6(target);
                if !link.owns(IpAddr::V6(target)) || !addressed {
                    self.counters.dropped_on(port, DropReason::NdiscIgnored, 1);
                    return;
                }
                if link.owns(src) {
                    self.conflict(now, port, src, station);
                    return;
                }
                egress::send_advert(port, link, target, src, mac.unwrap_or(station), io);
                self.counters.happened(L2Event::NeighbourAdverts);
                if mac.is_some() && link.on_link(src) {
                    let claim = Claim { mac, solicited: false, overrides: true, wanted: true };
                    self.learn(now, Hop { port, addr: src }, claim, io);
                }
            }
            ndisc::Message::Advert { target, mac, solicited, overrides } => {
                let addr = IpAddr::V6(target);
                if link.owns(addr) {
                    self.conflict(now, port, addr, mac.unwrap_or(station));
                } else if link.on_link(addr) {
                    let claim = Claim { mac, solicited, overrides, wanted: false };
                    self.learn(now, Hop { port, addr }, claim, io);
                } else {
                    self.counters.dropped_on(port, DropReason::NdiscIgnored, 1);
                }
            }
        }
    }

    fn learn(&mut self, now: Instant, hop: Hop, claim: Claim, io: &mut impl L2Io<B>) {
        if self.shares_news {
            // Of too many at once the first are lost: the last word is what counts.
            if self.news.len() == MAX_NEWS {
                self.news.pop_front();
            }
            self.news.push_back(NeighbourNews { hop, claim });
        }
        if let Some(found) = self.neighbours.learn(now, hop, claim) {
            self.send_waiting(hop, found, io);
        }
        self.counters.neighbours.set(u64::from(self.neighbours.len()));
    }

    fn conflict(&mut self, now: Instant, port: PortId, addr: IpAddr, station: Mac) {
        self.counters.happened(L2Event::AddressConflicts);
        if self.logs.take(now) {
            log::warn!("station {station} on {port:?} uses our address {addr}");
        }
    }
}

/// Whether an ARP message is a question for us.
fn arp_answer(link: &Link, message: arp::Message) -> bool {
    message.request
        && link.owns(IpAddr::V4(message.target))
        && !link.owns(IpAddr::V4(message.sender))
}

/// The packet itself, or a copy when its memory is shared.
fn writable<B: PacketBuf>(mut packet: B, io: &mut impl L2Io<B>) -> Option<B> {
    if packet.data_mut().is_some() {
        return Some(packet);
    }
    let mut copy = io.alloc()?;
    let bytes = packet.data();
    copy.append(bytes.len())?.copy_from_slice(bytes);
    Some(copy)
}
