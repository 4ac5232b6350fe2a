//! Packets as phones and servers send them.

use crate::packet::Packet;
use core::net::{IpAddr, Ipv4Addr};
use mptcp_core::buf::{PacketBuf as _, PortId};
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::{
    IpEmit, OptionWriter, TcpFlags, TcpHeader, TcpOption, checksum, set_checksum,
};

/// An address and a port.
pub(super) type End = (Ipv4Addr, u16);

/// Length of an IPv4 header without options.
pub(super) const IP_HEADER: usize = 20;

/// A packet to be.
pub(super) struct Frame<'a> {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) seq: u32,
    /// Without one it is a SYN.
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) options: OptionWriter,
    pub(super) payload: &'a [u8],
}

/// Window of every end, and how far it is shifted: 8 MiB.
const WINDOW: u16 = u16::MAX;
const SHIFT: u8 = 7;

impl Frame<'_> {
    /// As it arrives at `port`.
    pub(super) fn packet(&self, port: PortId) -> Packet {
        let mut flags = TcpFlags::empty();
        flags.set(TcpFlags::SYN, self.syn);
        flags.set(TcpFlags::ACK, self.ack.is_some());
        let header = TcpHeader {
            src_port: self.from.1,
            dst_port: self.to.1,
            seq: SeqNum(self.seq),
            ack: SeqNum(self.ack.unwrap_or(0)),
            flags,
            window: WINDOW,
            urgent: 0,
        };
        let (src, dst) = (IpAddr::V4(self.from.0), IpAddr::V4(self.to.0));
        let header_len = header.len(&self.options);
        let ip = IpEmit {
            src,
            dst,
            protocol: 6,
            traffic_class: 0,
            hop_limit: 64,
            payload_len: header_len + self.payload.len(),
            identification: 0,
            dont_fragment: true,
        };
        let mut packet = Packet::at(port);
        let bytes = packet.append(IP_HEADER + ip.payload_len).expect("a packet fits into a buffer");
        ip.emit(bytes);
        let segment = &mut bytes[IP_HEADER..];
        header.emit(&self.options, segment);
        segment[header_len..].copy_from_slice(self.payload);
        let sum = checksum::tcp_checksum(src, dst, segment);
        set_checksum(segment, sum);
        packet
    }
}

/// What a SYN or SYN/ACK says beside MPTCP.
pub(super) fn syn_options(tsval: u32, tsecr: u32) -> OptionWriter {
    let mut options = OptionWriter::new();
    let fits = options.push(&TcpOption::MaxSegmentSize(1460))
        && options.push(&TcpOption::SackPermitted)
        && options.push_timestamps(tsval, tsecr)
        && options.push(&TcpOption::WindowScale(SHIFT));
    assert!(fits, "SYN options");
    options
}
