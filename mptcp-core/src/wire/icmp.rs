//! ICMP for a host (RFC 792, RFC 4443, RFC 1122 §3.2.2): errors about our packets, echo replies, and
//! errors about packets that we cannot take.
//!
//! Invariant: nothing is answered that could multiply or that has more than one receiver. Rate
//! limits, and the proof that an error concerns a live connection (RFC 5927), are the caller's.

use super::cursor::Reader;
use super::fragment::FragmentProblem;
use super::ip::{IpEmit, IpHeader, Layout, V4_HEADER_LEN, V6_HEADER_LEN};
use super::{Checksum, checksum};
use crate::seq::SeqNum;
use alloc::vec::Vec;
use core::net::IpAddr;

const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Type, code, checksum and the rest-of-header word.
const ICMP_HEADER_LEN: usize = 8;
/// An error never exceeds these: what every host must be able to receive.
const V4_ERROR_MAX: usize = 576;
const V6_ERROR_MAX: usize = 1280;
const HOP_LIMIT: u8 = 64;

const V4_ECHO_REQUEST: u8 = 8;
const V4_ECHO_REPLY: u8 = 0;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;

/// What an ICMP error says, alike for both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpErrorKind {
    /// No route.
    NetworkUnreachable,
    /// The last router cannot reach the host.
    HostUnreachable,
    /// The host does not speak the transport protocol.
    ProtocolUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// Too big for a link: IPv4 with DF set, or IPv6.
    FragmentationNeeded {
        /// That link's MTU in bytes, unverified; 0 from routers that do not say (RFC 1191 §3),
        /// 65,535 for anything larger.
        mtu: u16,
    },
    /// A filter said no.
    Prohibited,
    /// TTL or hop limit ran out, or fragments never came.
    TimeExceeded,
    /// A header field makes no sense to a router or the host.
    ParameterProblem,
}

/// An ICMP error about a packet of ours, as its sender quotes it. All of it may be forged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// What went wrong.
    pub kind: IcmpErrorKind,
    /// The same as its sender wrote it: the Code field.
    pub code: u8,
    /// The quoted packet's source: our address.
    pub src: IpAddr,
    /// The quoted packet's destination: the peer.
    pub dst: IpAddr,
    /// The quoted packet's transport protocol.
    pub protocol: u8,
    /// The quoted packet's source port; 0 for protocols other than TCP and UDP.
    pub src_port: u16,
    /// The quoted packet's destination port; 0 for protocols other than TCP and UDP.
    pub dst_port: u16,
    /// The quoted TCP sequence number, when the quote reaches that far.
    pub seq: Option<SeqNum>,
}

/// Reads the IP packet `packet` as an ICMP error, its checksum verified. `None` when it is something
/// else, malformed, a fragment, of a code that means nothing to us, or quotes too little.
#[must_use]
pub fn parse_error(packet: &[u8]) -> Option<IcmpError> {
    let (header, message) = parse_message(packet)?;
    let mut reader = Reader::new(message);
    let [kind, code, _, _] = reader.array::<4>()?;
    let rest = reader.u32()?;
    let kind =
        if header.src.is_ipv4() { v4_kind(kind, code, rest)? } else { v6_kind(kind, code, rest)? };
    read_quote(kind, code, reader.rest(), header.src.is_ipv4())
}

/// What the ICMP error in `packet`, one of our own making, says.
pub(crate) fn kind_of(packet: &[u8]) -> Option<IcmpErrorKind> {
    match packet.first()? >> 4 {
        4 => packet.get(V4_HEADER_LEN..)?.first_chunk().and_then(|[k, c]| v4_kind(*k, *c, 0)),
        _ => packet.get(V6_HEADER_LEN..)?.first_chunk().and_then(|[k, c]| v6_kind(*k, *c, 0)),
    }
}

/// The ICMP message in `packet`, checksum verified.
fn parse_message(packet: &[u8]) -> Option<(IpHeader, &[u8])> {
    let header = IpHeader::parse(packet).ok()?;
    let message = packet.get(header.header_len..header.total_len)?;
    let pseudo_header = match (header.src, header.protocol) {
        (IpAddr::V4(_), ICMP_V4) => 0,
        (IpAddr::V6(_), ICMP_V6) => {
            let len = u32::try_from(message.len()).ok()?;
            checksum::pseudo_header(header.src, header.dst, ICMP_V6, len)
        }
        _ => return None,
    };
    let whole = checksum::combine(pseudo_header, 0, checksum::sum(message));
    (!header.fragment && whole == 0xffff).then_some((header, message))
}

/// RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1. `rest` is the word behind the checksum.
fn v4_kind(kind: u8, code: u8, rest: u32) -> Option<IcmpErrorKind> {
    Some(match (kind, code) {
        (3, 0 | 6 | 11) => IcmpErrorKind::NetworkUnreachable,
        (3, 1 | 7 | 12) => IcmpErrorKind::HostUnreachable,
        (3, 2) => IcmpErrorKind::ProtocolUnreachable,
        (3, 3) => IcmpErrorKind::PortUnreachable,
        (3, 4) => {
            let [_, _, high, low] = rest.to_be_bytes();
            IcmpErrorKind::FragmentationNeeded { mtu: u16::from_be_bytes([high, low]) }
        }
        (3, 9 | 10 | 13) => IcmpErrorKind::Prohibited,
        (11, _) => IcmpErrorKind::TimeExceeded,
        (12, _) => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

/// RFC 4443 §3. "Beyond scope" (1/2) and an unknown next header (4/1) are what IPv4 calls host and
/// protocol unreachable; 1/5 and 1/6 are refusals by policy.
fn v6_kind(kind: u8, code: u8, rest: u32) -> Option<IcmpErrorKind> {
    Some(match (kind, code) {
        (1, 0) => IcmpErrorKind::NetworkUnreachable,
        (1, 2 | 3) => IcmpErrorKind::HostUnreachable,
        (1, 4) => IcmpErrorKind::PortUnreachable,
        (1, 1 | 5 | 6) => IcmpErrorKind::Prohibited,
        (2, _) => {
            IcmpErrorKind::FragmentationNeeded { mtu: u16::try_from(rest).unwrap_or(u16::MAX) }
        }
        (3, _) => IcmpErrorKind::TimeExceeded,
        (4, 1) => IcmpErrorKind::ProtocolUnreachable,
        (4, _) => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

fn read_quote(kind: IcmpErrorKind, code: u8, quote: &[u8], v4: bool) -> Option<IcmpError> {
    let Layout { header, fragment_offset, .. } = Layout::parse_quoted(quote).ok()?;
    if header.src.is_ipv4() != v4 || fragment_offset != 0 {
        return None;
    }
    let mut reader = Reader::new(quote.get(header.header_len..)?);
    let (src_port, dst_port) = match header.protocol {
        TCP | UDP => (reader.u16()?, reader.u16()?),
        _ => (0, 0),
    };
    let seq = if header.protocol == TCP { reader.u32().map(SeqNum) } else { None };
    let IpHeader { src, dst, protocol, .. } = header;
    Some(IcmpError { kind, code, src, dst, protocol, src_port, dst_port, seq })
}

/// Turns the echo request in `packet` into its reply, in place; padding behind it stays.
///
/// False, and nothing changed, when it is no echo request, is malformed or a fragment, was sent to or
/// from an address that is not one host's, or carries IP options or extension headers (a source
/// route would have to be reversed). Broadcast addresses of subnets are the caller's to know.
pub fn echo_reply(packet: &mut [u8]) -> bool {
    try_echo_reply(packet).is_some()
}

fn try_echo_reply(packet: &mut [u8]) -> Option<()> {
    let (header, message) = parse_message(packet)?;
    let (fixed_len, request, reply) = match header.src {
        IpAddr::V4(_) => (V4_HEADER_LEN, V4_ECHO_REQUEST, V4_ECHO_REPLY),
        IpAddr::V6(_) => (V6_HEADER_LEN, V6_ECHO_REQUEST, V6_ECHO_REPLY),
    };
    let old = message.first_chunk::<ICMP_HEADER_LEN>()?;
    let [kind, code, sum_high, sum_low, ..] = *old;
    let one_to_one = is_one_host(header.src) && is_one_host(header.dst);
    if kind != request || code != 0 || header.header_len != fixed_len || !one_to_one {
        return None;
    }
    // Swapping the addresses leaves the pseudo-header's sum as it is.
    let old_sum = u16::from_be_bytes([sum_high, sum_low]);
    let new_sum = checksum::update_u16(
        old_sum,
        u16::from_be_bytes([request, code]),
        u16::from_be_bytes([reply, code]),
    );
    let answer = IpEmit {
        src: header.dst,
        dst: header.src,
        protocol: header.protocol,
        // The DSCP of the request, Not-ECT.
        traffic_class: header.traffic_class & !3,
        hop_limit: HOP_LIMIT,
        payload_len: message.len(),
        identification: 0,
        dont_fragment: true,
    };
    let (ip, behind) = packet.split_at_mut_checked(fixed_len)?;
    let [sum_high, sum_low] = new_sum.to_be_bytes();
    *behind.first_chunk_mut::<4>()? = [reply, code, sum_high, sum_low];
    answer.emit(ip);
    Some(())
}

/// True for an address that one host can answer from.
fn is_one_host(addr: IpAddr) -> bool {
    let broadcast = match addr {
        IpAddr::V4(addr) => addr.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(broadcast || addr.is_multicast() || addr.is_unspecified())
}

/// Writes to `out` (emptied first) the IP packet that reports `kind` about the received IP packet
/// `original`, from our address `src` to its sender. Quotes as much as fits into 576 bytes (IPv4) or
/// 1280 (IPv6).
///
/// False, and `out` empty, when RFC 1122 §3.2.2 or RFC 4443 §2.4 forbid an answer: `original` is
/// malformed, an ICMP error, a fragment other than the first, or not from one host to one host; or
/// when `src` is of the other family.
pub fn emit_error(kind: IcmpErrorKind, original: &[u8], src: IpAddr, out: &mut Vec<u8>) -> bool {
    out.clear();
    let written = try_emit_error(kind, original, src, out).is_some();
    if !written {
        out.clear();
    }
    written
}

fn try_emit_error(
    kind: IcmpErrorKind,
    original: &[u8],
    src: IpAddr,
    out: &mut Vec<u8>,
) -> Option<()> {
    let layout = Layout::parse(original).ok()?;
    let head = if src.is_ipv4() { v4_head(kind) } else { v6_head(kind, layout.protocol_at) };
    // Path MTU discovery works for multicast too (RFC 4443 §2.4 e.3).
    let too_big = matches!(kind, IcmpErrorKind::FragmentationNeeded { .. });
    emit_head(&Head { head, to_groups: too_big, to_later: false }, &layout, original, src, out)
}

/// As [`emit_error`] for what is wrong with the fragment `original`; false also for what IPv4 tells nobody.
pub fn emit_fragment_problem(
    problem: FragmentProblem,
    original: &[u8],
    src: IpAddr,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let written = Layout::parse(original).ok().and_then(|layout| {
        let head = fragment_head(problem, src.is_ipv4())?;
        let head = Head { head, to_groups: false, to_later: src.is_ipv6() };
        emit_head(&head, &layout, original, src, out)
    });
    if written.is_none() {
        out.clear();
    }
    written.is_some()
}

/// RFC 792, RFC 4443 §3.3 and §3.4, RFC 8200 §4.5.
fn fragment_head(problem: FragmentProblem, v4: bool) -> Option<[u8; ICMP_HEADER_LEN]> {
    const PAYLOAD_LEN_AT: usize = 4;
    let (kind, code, pointer) = match (problem, v4) {
        (FragmentProblem::Timeout, true) => (11, 1, 0),
        (_, true) => return None,
        (FragmentProblem::Timeout, false) => (3, 1, 0),
        (FragmentProblem::Length, false) => (4, 0, PAYLOAD_LEN_AT),
        (FragmentProblem::TooLong { at }, false) => (4, 0, at),
        (FragmentProblem::Headers, false) => (4, 3, 0),
    };
    let [a, b, c, d] = u32::try_from(pointer).ok()?.to_be_bytes();
    Some([kind, code, 0, 0, a, b, c, d])
}

/// The header of an error, and who may hear it.
struct Head {
    head: [u8; ICMP_HEADER_LEN],
    /// The senders of multicast of IPv6, too.
    to_groups: bool,
    /// The senders of later fragments, too, as far as these are surely of no ICMP error.
    to_later: bool,
}

/// The error with such a header; `None` when nobody may hear it.
fn emit_head(
    Head { head, to_groups, to_later }: &Head,
    layout: &Layout,
    original: &[u8],
    src: IpAddr,
    out: &mut Vec<u8>,
) -> Option<()> {
    let header = layout.header;
    let to_one_host = is_one_host(header.dst) || (header.dst.is_ipv6() && *to_groups);
    let silent = match layout.fragment_offset {
        0 => is_icmp_error(&header, original),
        _ => !to_later || matches!(header.protocol, ICMP_V4 | ICMP_V6),
    };
    if !is_one_host(header.src) || !to_one_host || header.src.is_ipv4() != src.is_ipv4() || silent {
        return None;
    }
    let (protocol, max_len) = if src.is_ipv4() {
        (ICMP_V4, V4_ERROR_MAX - V4_HEADER_LEN)
    } else {
        (ICMP_V6, V6_ERROR_MAX - V6_HEADER_LEN)
    };
    let packet = original.get(..header.total_len)?;
    let quote = packet.get(..max_len - ICMP_HEADER_LEN).unwrap_or(packet);
    let ip = IpEmit {
        src,
        dst: header.src,
        protocol,
        traffic_class: 0,
        hop_limit: HOP_LIMIT,
        payload_len: ICMP_HEADER_LEN + quote.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut sum = Checksum::new();
    if src.is_ipv6() {
        let len = u32::try_from(ip.payload_len).ok()?;
        sum.add_sum(checksum::pseudo_header(ip.src, ip.dst, ICMP_V6, len), 0);
    }
    sum.add_bytes(head);
    sum.add_bytes(quote);
    out.resize(ip.header_len(), 0);
    ip.emit(out);
    let [kind, code, _, _, rest @ ..] = *head;
    out.extend_from_slice(&[kind, code]);
    out.extend_from_slice(&sum.finish().to_be_bytes());
    out.extend_from_slice(&rest);
    out.extend_from_slice(quote);
    Some(())
}

/// The ICMP header of an error, its checksum zero.
fn v4_head(kind: IcmpErrorKind) -> [u8; ICMP_HEADER_LEN] {
    let (kind, code, mtu) = match kind {
        IcmpErrorKind::NetworkUnreachable => (3, 0, 0),
        IcmpErrorKind::HostUnreachable => (3, 1, 0),
        IcmpErrorKind::ProtocolUnreachable => (3, 2, 0),
        IcmpErrorKind::PortUnreachable => (3, 3, 0),
        IcmpErrorKind::FragmentationNeeded { mtu } => (3, 4, mtu),
        IcmpErrorKind::Prohibited => (3, 13, 0),
        IcmpErrorKind::TimeExceeded => (11, 0, 0),
        IcmpErrorKind::ParameterProblem => (12, 0, 0),
    };
    let [high, low] = u16::to_be_bytes(mtu);
    [kind, code, 0, 0, 0, 0, high, low]
}

/// As [`v4_head`]; `protocol_at` is where the original names the protocol we do not speak.
fn v6_head(kind: IcmpErrorKind, protocol_at: usize) -> [u8; ICMP_HEADER_LEN] {
    let (kind, code, rest) = match kind {
        IcmpErrorKind::NetworkUnreachable => (1, 0, 0),
        IcmpErrorKind::HostUnreachable => (1, 3, 0),
        IcmpErrorKind::ProtocolUnreachable => (4, 1, u32::try_from(protocol_at).unwrap_or(0)),
        IcmpErrorKind::PortUnreachable => (1, 4, 0),
        IcmpErrorKind::FragmentationNeeded { mtu } => (2, 0, u32::from(mtu)),
        IcmpErrorKind::Prohibited => (1, 1, 0),
        IcmpErrorKind::TimeExceeded => (3, 0, 0),
        IcmpErrorKind::ParameterProblem => (4, 0, 0),
    };
    let [a, b, c, d] = u32::to_be_bytes(rest);
    [kind, code, 0, 0, a, b, c, d]
}

/// True for ICMP errors and redirects, and for ICMP cut off before its type.
fn is_icmp_error(header: &IpHeader, packet: &[u8]) -> bool {
    let kind = packet.get(header.header_len..header.total_len).and_then(<[u8]>::first);
    match (header.protocol, kind) {
        (ICMP_V4, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (ICMP_V6, Some(kind)) => *kind < 128 || *kind == 137,
        (ICMP_V4 | ICMP_V6, None) => true,
        _ => false,
    }
}
