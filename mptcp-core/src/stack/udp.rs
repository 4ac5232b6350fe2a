//! Datagram sockets on the stack: binding, sending, receiving, and the way of a datagram from and to
//! its packet (RFC 768, RFC 1122 §4.1, RFC 8200 §8.1).
//!
//! Invariant: a datagram reaches the socket of its exact address and port, else that of the wildcard
//! address, and no other; a connected socket only what its peer sent. What its first link or, as a router said, its way
//! takes is one packet, and what is longer goes in fragments.

use super::demux::Node;
use super::egress::QUANTUM;
use super::fragments::buffer_for;
use super::ports::PORT_TRIES;
use super::{Ready, Sock, SocketId, Stack};
use crate::buf::{PacketBuf, PortId, RxChecksum, TxMeta, TxQueue};
use crate::config::{LocalAddress, Marking};
use crate::driver::Progress;
use crate::error::{OpenError, RecvError};
use crate::fragments;
use crate::stats::{Counters, DropReason};
use crate::tcp::is_no_host;
use crate::time::Instant;
use crate::udp::{
    Outgoing, Received, SendTo, UdpError, UdpInfo, UdpOptions, UdpSendError, UdpSocket, plain,
};
use crate::wire::udp::{PROTOCOL_UDP, UDP_HEADER_LEN};
use crate::wire::{IcmpError, IcmpErrorKind, IpEmit, IpHeader, UdpDatagram, UdpHeader, checksum};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv6 and UDP.
const MAX_HEADERS: usize = 48;
/// Longest payloads: lengths have 16 bits, and IPv4's counts its own header.
const MAX_V4: usize = 0xffff - 20 - UDP_HEADER_LEN;
const MAX_V6: usize = 0xffff - UDP_HEADER_LEN;

impl<B: PacketBuf> Stack<B> {
    /// Opens a datagram socket on `local`, whose address must be one of the stack's or unspecified.
    /// An unspecified address receives what no socket of an exact address takes, of its own family.
    /// Port 0 draws a free one; [`Stack::udp_info`] tells which.
    ///
    /// # Errors
    /// [`OpenError::AddressInUse`] when a socket is bound there, [`OpenError::PortsExhausted`] when no
    /// free port was found (with 99 in 100 taken, once in 150 times), [`OpenError::BadAddress`] for an address that is not ours or a peer that is no
    /// single host of the same family, [`OpenError::LimitReached`] beyond `limits.udp_sockets`.
    pub fn udp_bind(
        &mut self,
        local: SocketAddr,
        options: &UdpOptions,
    ) -> Result<SocketId, OpenError> {
        let known = local.ip().is_unspecified() || self.local_address(local.ip()).is_some();
        let fits = |remote| is_receiver(remote, local.is_ipv4());
        if !known || !options.remote.is_none_or(fits) {
            return Err(OpenError::BadAddress);
        }
        if self.udp.len() == self.udp.capacity() {
            self.stats.limit_refused += 1;
            return Err(OpenError::LimitReached);
        }
        let port = match local.port() {
            0 => self.free_udp_port(local.ip()).ok_or(OpenError::PortsExhausted)?,
            port => port,
        };
        let local = SocketAddr::new(local.ip(), port);
        if self.demux.find_udp(local).is_some() {
            return Err(OpenError::AddressInUse);
        }
        let socket = UdpSocket::new(local, options, self.config.tcp.marking);
        let idx = self.udp.insert(socket).ok_or(OpenError::LimitReached)?;
        self.demux.insert_udp(local, idx);
        self.socket_id(Sock::Udp(idx)).ok_or(OpenError::LimitReached)
    }

    /// Queues a copy of `data`; [`Stack::poll_transmit`] sends it.
    ///
    /// # Errors
    /// See [`UdpSendError`]; nothing was queued.
    pub fn udp_send_to(
        &mut self,
        id: SocketId,
        data: &[u8],
        to: &SendTo,
    ) -> Result<(), UdpSendError> {
        let (idx, outgoing) = self.udp_address(id, data.len(), to)?;
        let socket = self.udp.get_mut(idx).ok_or(UdpSendError::InvalidSocket)?;
        if socket.is_blocked() {
            self.stats.udp_sndbuf_errors += 1;
            return Err(UdpSendError::WouldBlock);
        }
        let mut buf = buffer_for(&mut *self.pool, data.len()).ok_or(UdpSendError::NoBuffer)?;
        buf.append(data.len()).ok_or(UdpSendError::NoBuffer)?.copy_from_slice(data);
        self.udp_queue(idx, outgoing, buf).map_err(|(error, _)| error)
    }

    /// Queues `buf`, contiguous as every buffer the stack hands out, without copying it;
    /// [`Stack::poll_transmit`] sends it. The headers go in front of the payload where its memory is
    /// not shared and has the headroom.
    ///
    /// # Errors
    /// See [`UdpSendError`]; the buffer comes back with it.
    pub fn udp_send_buf(
        &mut self,
        id: SocketId,
        buf: B,
        to: &SendTo,
    ) -> Result<(), (UdpSendError, B)> {
        match self.udp_address(id, buf.data_len(), to) {
            Ok((idx, outgoing)) => self.udp_queue(idx, outgoing, buf),
            Err(error) => Err((error, buf)),
        }
    }

    /// The oldest received datagram, in the buffer it came in.
    ///
    /// # Errors
    /// [`RecvError::WouldBlock`] when there is none, [`RecvError::InvalidSocket`] when the id is stale
    /// or names no datagram socket.
    pub fn udp_recv_buf(&mut self, id: SocketId) -> Result<(Received, B), RecvError> {
        let socket = self.udp_socket(id).ok_or(RecvError::InvalidSocket)?;
        socket.read().ok_or(RecvError::WouldBlock)
    }

    /// Copies the oldest received datagram into `into`. What does not fit is lost, and
    /// [`Received::len`] is then more than `into.len()`.
    ///
    /// # Errors
    /// As for [`Stack::udp_recv_buf`].
    pub fn udp_recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, RecvError> {
        let (received, buf) = self.udp_recv_buf(id)?;
        for (to, from) in into.iter_mut().zip(buf.data()) {
            *to = *from;
        }
        Ok(received)
    }

    /// The oldest ICMP error about what this socket sent; [`Ready::ERROR`] tells that there is one.
    /// `None` also when the id is stale.
    pub fn udp_error(&mut self, id: SocketId) -> Option<UdpError> {
        self.udp_socket(id)?.take_error()
    }

    /// A snapshot of a datagram socket; `None` for stale ids and other sockets.
    #[must_use]
    pub fn udp_info(&self, id: SocketId) -> Option<UdpInfo> {
        let Some(Sock::Udp(idx)) = self.resolve(id) else { return None };
        self.udp.get(idx).map(UdpSocket::info)
    }

    /// True when a socket is bound to `local` or to its wildcard. A datagram for any other port may be
    /// answered with ICMP port unreachable; the stack itself counts it as
    /// [`DropReason::UdpNoSocket`].
    #[must_use]
    pub fn udp_is_bound(&self, local: SocketAddr) -> bool {
        [local, wildcard(local)].into_iter().any(|key| self.demux.find_udp(key).is_some())
    }

    /// Closes: what is queued still goes out, nothing is received any more, the address is free.
    pub(super) fn udp_close(&mut self, idx: u32) {
        let Some(socket) = self.udp.get_mut(idx) else { return };
        socket.close();
        let unsent = socket.has_unsent();
        self.demux.remove_udp(socket.local(), idx);
        self.events.remove(self.numbering.number(Node::Udp(idx)));
        if !unsent {
            self.remove_udp(idx);
        }
    }

    /// Closes, and what is queued is lost.
    pub(super) fn udp_abort(&mut self, idx: u32) {
        self.udp_close(idx);
        self.remove_udp(idx);
    }

    fn remove_udp(&mut self, idx: u32) {
        self.tx.remove(self.numbering.number(Node::Udp(idx)));
        self.udp.remove(idx);
    }

    fn udp_socket(&mut self, id: SocketId) -> Option<&mut UdpSocket<B>> {
        let Some(Sock::Udp(idx)) = self.resolve(id) else { return None };
        self.udp.get_mut(idx)
    }

    fn post_udp(&mut self, idx: u32, ready: Ready) {
        if let Some(socket) = self.udp.get_mut(idx)
            && !ready.is_empty()
        {
            socket.pending |= ready;
            self.events.push_back(self.numbering.number(Node::Udp(idx)));
        }
    }

    /// RFC 6056 §3.3.2. The whole range is drawn from every time: a datagram has no sequence number,
    /// and for the answer to a query the port is most of what an attacker has to guess (RFC 5452).
    fn free_udp_port(&mut self, addr: IpAddr) -> Option<u16> {
        for _ in 0..PORT_TRIES * self.demux.shards() {
            let ports = self.config.ephemeral_ports;
            let port = ports.first + self.rng.below(ports.count()) as u16;
            if self.demux.has_port(port) && self.udp_port_is_free(SocketAddr::new(addr, port)) {
                return Some(port);
            }
        }
        None
    }

    /// No socket has this port on the same address, and none would lose datagrams to it or take its
    /// own from it.
    fn udp_port_is_free(&self, local: SocketAddr) -> bool {
        let port = local.port();
        let free = |addr| self.demux.find_udp(SocketAddr::new(addr, port)).is_none();
        let mut addresses = self.config.addresses.iter().map(|address| address.addr);
        let specific = if local.ip().is_unspecified() {
            addresses.all(|addr| addr.is_ipv4() != local.is_ipv4() || free(addr))
        } else {
            free(local.ip())
        };
        specific && free(wildcard(local).ip())
    }

    // Sending.

    /// Who sends to whom by which port, and whether it fits.
    fn udp_address(
        &self,
        id: SocketId,
        len: usize,
        to: &SendTo,
    ) -> Result<(u32, Outgoing), UdpSendError> {
        let Some(Sock::Udp(idx)) = self.resolve(id) else {
            return Err(UdpSendError::InvalidSocket);
        };
        let socket = self.udp.get(idx).ok_or(UdpSendError::InvalidSocket)?;
        let remote = to.remote.map(plain).or(socket.remote()).ok_or(UdpSendError::BadAddress)?;
        let bound = socket.local();
        if !is_receiver(remote, bound.is_ipv4()) || !socket.accepts(remote) {
            return Err(UdpSendError::BadAddress);
        }
        let local = self.udp_source(bound.ip(), remote.ip(), to).ok_or(UdpSendError::BadAddress)?;
        let limit = if local.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if len > limit {
            return Err(UdpSendError::TooLong { limit });
        }
        let mtu = self.udp_mtu(local, to.via);
        let local = SocketAddr::new(local, bound.port());
        Ok((idx, Outgoing { local, remote, via: to.via, mtu }))
    }

    /// The address to send from: the one asked for, the one bound to, or the most suitable one. Ours
    /// in any case; they may have changed since the socket was bound.
    fn udp_source(&self, bound: IpAddr, remote: IpAddr, to: &SendTo) -> Option<IpAddr> {
        let wanted = match (to.local, bound.is_unspecified()) {
            (None, false) => Some(bound),
            (Some(local), false) if local != bound => return None,
            (local, _) => local,
        };
        let suits = |address: &&LocalAddress| {
            address.addr.is_ipv4() == remote.is_ipv4()
                && wanted.is_none_or(|wanted| wanted == address.addr)
        };
        // RFC 6724 §5 rule 2 for what there is here: link-local talks to link-local.
        let unsuitable = |address: &&LocalAddress| {
            let other_port = to.via != PortId::ROUTED && address.port != to.via;
            (is_link_local(address.addr) != is_link_local(remote), other_port)
        };
        self.own_addresses().filter(suits).min_by_key(unsuitable).map(|best| best.addr)
    }

    /// The longest packet from `local` by `via`: the smaller of the MTUs of both.
    fn udp_mtu(&self, local: IpAddr, via: PortId) -> u16 {
        let of_port = if via == PortId::ROUTED { None } else { self.mtu_of_port(via) };
        of_port.unwrap_or(u16::MAX).min(self.mtu_of(local))
    }

    fn udp_queue(&mut self, idx: u32, outgoing: Outgoing, buf: B) -> Result<(), (UdpSendError, B)> {
        let Some(socket) = self.udp.get_mut(idx) else {
            return Err((UdpSendError::InvalidSocket, buf));
        };
        if let Err(buf) = socket.send(outgoing, buf) {
            self.stats.udp_sndbuf_errors += 1;
            return Err((UdpSendError::WouldBlock, buf));
        }
        self.want_transmit(Node::Udp(idx));
        Ok(())
    }

    /// Sends what one socket has queued, up to the quantum.
    /// A datagram whose port is full holds up those behind it that leave by the same one, and so do the fragments of
    /// one that found no room for all of them.
    pub(super) fn transmit_udp<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        idx: u32,
        tx: &mut T,
    ) -> Progress {
        let Some(socket) = self.udp.get_mut(idx) else { return Progress::Done };
        while let Some(part) = socket.next_part(|port| tx.room_on(port) > 0) {
            tx.push(part);
        }
        let mut sent = 0;
        while sent < QUANTUM
            && let Some((at, outgoing, payload)) = socket.next_outgoing(|port| tx.room_on(port) > 0)
        {
            let of_way = self.path_mtus.of(now, outgoing.remote.ip());
            let mtu = of_way.map_or(outgoing.mtu, |mtu| mtu.min(outgoing.mtu));
            let emitted = if packet_len(&outgoing, &payload) > usize::from(mtu) {
                let id = self.rng.next_u32();
                let made = cut(tx, &outgoing, socket.marking, payload, mtu, id, &mut self.stats);
                made.map(|parts| {
                    for part in parts {
                        if tx.room_on(outgoing.via) > 0 {
                            tx.push(part);
                        } else {
                            socket.keep_part(part);
                        }
                    }
                })
            } else {
                emit(tx, &outgoing, socket.marking, payload)
            };
            if let Err(payload) = emitted {
                socket.put_back(at, outgoing, payload);
                self.stats.tx_no_buffer += 1;
                break;
            }
            sent += 1;
        }
        self.stats.udp_out_datagrams += sent as u64;
        let ready = socket.sent(sent);
        let (unsent, closed) = (socket.has_unsent(), socket.is_closed());
        self.post_udp(idx, ready);
        if unsent {
            return Progress::More;
        }
        if closed {
            self.remove_udp(idx);
        }
        Progress::Done
    }

    // Receiving.

    /// A datagram from the network.
    pub(super) fn handle_udp(&mut self, now: Instant, header: &IpHeader, mut packet: B) {
        packet.truncate(header.total_len);
        let whole = packet.slice(0..header.total_len);
        let meta = packet.rx_meta();
        packet.trim_front(header.header_len);
        let Ok(datagram) = UdpDatagram::parse(packet.data()) else {
            return self.stats.drop(DropReason::UdpMalformed);
        };
        // Ports disagree about datagrams without a checksum, where the rule of the IP version decides,
        // and one that found it wrong may have misread the packet: bad news is checked.
        let good = meta.checksum == RxChecksum::Good && datagram.checksum != 0
            || datagram.verify(header.src, header.dst);
        if !good {
            return self.stats.drop(DropReason::UdpChecksum);
        }
        let received = Received {
            remote: SocketAddr::new(header.src, datagram.src_port),
            local: SocketAddr::new(header.dst, datagram.dst_port),
            via: meta.port,
            len: datagram.payload.len(),
        };
        if is_no_host(&header.src) || received.remote == received.local {
            return self.stats.drop(DropReason::NotOurs);
        }
        packet.trim_front(UDP_HEADER_LEN);
        packet.truncate(received.len);
        match self.udp_receiver(received.local, received.remote) {
            Ok(idx) => {
                drop(whole);
                self.udp_deliver(idx, received, packet);
            }
            Err(reason) => {
                self.stats.drop(reason);
                if reason == DropReason::UdpNoSocket {
                    self.refuse_protocol(now, header.dst, PROTOCOL_UDP, &whole);
                }
            }
        }
    }

    fn udp_deliver(&mut self, idx: u32, received: Received, payload: B) {
        let short = self.pool.is_short();
        let Some(socket) = self.udp.get_mut(idx) else { return };
        if short {
            // What is left is for acknowledgements and handshakes, and nothing waits in it.
            socket.refuse();
            return self.stats.drop(DropReason::UdpNoMemory);
        }
        match socket.deliver(received, payload) {
            Some(ready) => {
                self.stats.udp_in_datagrams += 1;
                self.post_udp(idx, ready);
            }
            None => self.stats.drop(DropReason::UdpQueueFull),
        }
    }

    /// The socket that receives at `local` from `remote`.
    fn udp_receiver(&self, local: SocketAddr, remote: SocketAddr) -> Result<u32, DropReason> {
        let mut reason = DropReason::UdpNoSocket;
        for key in [local, wildcard(local)] {
            let Some(idx) = self.demux.find_udp(key) else { continue };
            if self.udp.get(idx).is_some_and(|socket| socket.accepts(remote)) {
                return Ok(idx);
            }
            reason = DropReason::UdpNotConnected;
        }
        Err(reason)
    }

    /// An ICMP error that quotes a datagram. There is no sequence number to check (RFC 5927 §4): that
    /// a socket with this address and peer exists must do.
    pub(super) fn udp_icmp(&mut self, now: Instant, error: &IcmpError) {
        let report = UdpError {
            kind: error.kind,
            remote: SocketAddr::new(error.dst, error.dst_port),
            local: SocketAddr::new(error.src, error.src_port),
        };
        let ours = self.local_address(error.src).is_some();
        let Some(idx) = self.udp_receiver(report.local, report.remote).ok().filter(|_| ours) else {
            return self.stats.drop(DropReason::IcmpUnmatched);
        };
        if let IcmpErrorKind::FragmentationNeeded { mtu } = error.kind {
            self.path_mtus.learn(now, error.dst, mtu);
        }
        let Some(socket) = self.udp.get_mut(idx) else { return };
        if socket.report(report) {
            self.post_udp(idx, Ready::ERROR);
        } else {
            self.stats.drop(DropReason::UdpErrorsFull);
        }
    }
}

/// Hands the packet to `tx`; gives the payload back when no buffer could be had for the headers.
fn emit<B: PacketBuf, T: TxQueue<B>>(
    tx: &mut T,
    outgoing: &Outgoing,
    marking: Marking,
    mut payload: B,
) -> Result<(), B> {
    let mut headers = [0; MAX_HEADERS];
    let len = write_headers(outgoing, marking, payload.data(), &mut headers);
    let headers = headers.get(..len).unwrap_or_default();
    let mut packet = if let Some(room) = payload.prepend(len) {
        room.copy_from_slice(headers);
        payload
    } else {
        let Some(mut packet) = tx.alloc() else { return Err(payload) };
        let Some(room) = packet.prepend(len) else { return Err(payload) };
        room.copy_from_slice(headers);
        packet.chain(payload);
        packet
    };
    // Ports complete TCP checksums only: this one is whole.
    packet.set_tx_meta(TxMeta { port: outgoing.via, partial_checksum: false });
    tx.push(packet);
    Ok(())
}

fn packet_len<B: PacketBuf>(outgoing: &Outgoing, payload: &B) -> usize {
    let ip = if outgoing.local.is_ipv4() { 20 } else { 40 };
    ip + UDP_HEADER_LEN + payload.data_len()
}

/// The packet in fragments that a way of `mtu` takes; gives the payload back as [`emit`] does.
fn cut<B: PacketBuf, T: TxQueue<B>>(
    tx: &mut T,
    outgoing: &Outgoing,
    marking: Marking,
    payload: B,
    mtu: u16,
    id: u32,
    stats: &mut Counters,
) -> Result<Vec<B>, B> {
    let mtu = usize::from(mtu);
    let len = fragments::data_len(outgoing.local.is_ipv4(), mtu);
    let parts = (UDP_HEADER_LEN + payload.data_len()).div_ceil(len);
    let mut headers = [0; MAX_HEADERS];
    let headers_len = write_headers(outgoing, marking, payload.data(), &mut headers);
    let udp = headers.get(headers_len - UDP_HEADER_LEN..headers_len).unwrap_or_default();
    let ip = ip_header(outgoing, marking, payload.data());
    let meta = TxMeta { port: outgoing.via, partial_checksum: false };
    // All of them, or none: half a datagram is of no use to anybody.
    let mut made = Vec::with_capacity(parts);
    if !fragments::send(&ip, id, [udp, payload.data()], mtu, || tx.alloc(), |part| made.push(part))
    {
        return Err(payload);
    }
    stats.ip_frag_oks += 1;
    stats.ip_frag_creates += made.len() as u64;
    made.iter_mut().for_each(|part| part.set_tx_meta(meta));
    Ok(made)
}

fn ip_header(outgoing: &Outgoing, marking: Marking, payload: &[u8]) -> IpEmit {
    IpEmit {
        src: outgoing.local.ip(),
        dst: outgoing.remote.ip(),
        protocol: PROTOCOL_UDP,
        traffic_class: marking.traffic_class(0),
        hop_limit: marking.hop_limit(),
        payload_len: UDP_HEADER_LEN + payload.len(),
        identification: 0,
        dont_fragment: true,
    }
}

/// Writes IP and UDP headers; answers their length.
fn write_headers(
    outgoing: &Outgoing,
    marking: Marking,
    payload: &[u8],
    out: &mut [u8; MAX_HEADERS],
) -> usize {
    let (src, dst) = (outgoing.local.ip(), outgoing.remote.ip());
    let ip = ip_header(outgoing, marking, payload);
    let ports = UdpHeader { src_port: outgoing.local.port(), dst_port: outgoing.remote.port() };
    let header = ports.emit(src, dst, payload.len(), checksum::sum(payload));
    let ip_len = ip.emit(out);
    let room = out.get_mut(ip_len..).and_then(|rest| rest.first_chunk_mut::<UDP_HEADER_LEN>());
    debug_assert!(ip_len > 0 && header.is_some(), "families and length were checked");
    if let (Some(room), Some(header)) = (room, header) {
        *room = header;
    }
    ip_len + UDP_HEADER_LEN
}

/// True for one host's address and port, of the family a socket is of.
fn is_receiver(remote: SocketAddr, v4: bool) -> bool {
    remote.is_ipv4() == v4 && remote.port() != 0 && !is_no_host(&remote.ip())
}

const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

const fn wildcard(local: SocketAddr) -> SocketAddr {
    let any = match local {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, local.port())
}
