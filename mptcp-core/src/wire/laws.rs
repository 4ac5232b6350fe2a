//! The laws that the codecs of this module keep on any input: one function for fuzz targets and
//! property tests, so that both check the same.
//!
//! Invariant: [`check`] itself never panics; a broken law is an `Err` that names it.

use super::{
    AddAddr, IcmpErrorKind, IpHeader, MptcpOption, OptionIter, OptionWriter, TcpOption, TcpSegment,
    UdpDatagram, UdpHeader, Version, checksum, icmp, udp,
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hands `bytes` to every parser, as an IP packet, a TCP segment, a UDP datagram and an option list,
/// and checks what comes back against what it must be.
///
/// # Errors
/// The law that does not hold: a bug in this module.
pub fn check(bytes: &[u8]) -> Result<(), &'static str> {
    check_ip(bytes)?;
    check_icmp(bytes)?;
    check_segment(bytes)?;
    check_datagram(bytes)?;
    check_options(bytes)?;
    check_sum(bytes)
}

fn ensure(law: bool, name: &'static str) -> Result<(), &'static str> {
    if law { Ok(()) } else { Err(name) }
}

fn check_ip(bytes: &[u8]) -> Result<(), &'static str> {
    let Ok(header) = IpHeader::parse(bytes) else { return Ok(()) };
    ensure(header.header_len <= header.total_len, "an IP header lies inside its packet")?;
    ensure(header.total_len <= bytes.len(), "an IP packet lies inside its buffer")?;
    ensure(header.src.is_ipv4() == header.dst.is_ipv4(), "both addresses are of one family")?;
    let cut = bytes.get(..header.total_len).map(IpHeader::parse);
    ensure(cut == Some(Ok(header)), "padding behind a packet changes nothing")
}

fn check_icmp(bytes: &[u8]) -> Result<(), &'static str> {
    let mut packet = bytes.to_vec();
    if icmp::echo_reply(&mut packet) {
        let turned = IpHeader::parse(bytes).ok().zip(IpHeader::parse(&packet).ok());
        let turned = turned.is_some_and(|(old, new)| (old.src, old.dst) == (new.dst, new.src));
        ensure(turned, "an echo reply goes back where the request came from")?;
        ensure(!icmp::echo_reply(&mut packet), "an echo reply is not answered")?;
    } else {
        ensure(packet == bytes, "what is no echo request stays as it is")?;
    }
    if icmp::parse_error(bytes).is_some() {
        let answered = answer(IcmpErrorKind::TimeExceeded, bytes).is_some();
        ensure(!answered, "an ICMP error is not answered")?;
    }
    let Some(error) = answer(IcmpErrorKind::PortUnreachable, bytes) else { return Ok(()) };
    let whole = IpHeader::parse(&error).is_ok_and(|header| header.total_len == error.len());
    ensure(whole, "an ICMP error is a whole IP packet")?;
    ensure(
        answer(IcmpErrorKind::PortUnreachable, &error).is_none(),
        "our own ICMP error is not answered",
    )
}

fn answer(kind: IcmpErrorKind, original: &[u8]) -> Option<Vec<u8>> {
    let src = IpHeader::parse(original).ok()?.dst;
    let mut error = Vec::new();
    icmp::emit_error(kind, original, src, &mut error).then_some(error)
}

fn check_segment(bytes: &[u8]) -> Result<(), &'static str> {
    let Ok(segment) = TcpSegment::parse(bytes) else { return Ok(()) };
    let parts = segment.header_len + segment.payload.len();
    ensure(parts == bytes.len(), "header and payload make up a TCP segment")?;
    let options_len = segment.option_bytes().len();
    ensure(options_len + 20 == segment.header_len, "options fill the TCP header")?;
    check_options(segment.option_bytes())
}

fn check_datagram(bytes: &[u8]) -> Result<(), &'static str> {
    let Ok(datagram) = UdpDatagram::parse(bytes) else { return Ok(()) };
    let len = udp::UDP_HEADER_LEN + datagram.payload.len();
    let whole = bytes.get(..len).ok_or("a datagram lies inside its IP payload")?;
    ensure(UdpDatagram::parse(whole) == Ok(datagram), "a surplus area changes nothing")?;
    let v4 = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::BROADCAST));
    let v6 = (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    for (src, dst) in [v4, v6] {
        let ports = UdpHeader { src_port: datagram.src_port, dst_port: datagram.dst_port };
        let sum = checksum::sum(datagram.payload);
        let header = ports.emit(src, dst, datagram.payload.len(), sum);
        let mut again = header.ok_or("the length of a datagram can be written")?.to_vec();
        ensure(bytes.starts_with(again.get(..6).unwrap_or(&[])), "ports and length stay")?;
        again.extend_from_slice(datagram.payload);
        let read = UdpDatagram::parse(&again);
        let good = read.is_ok_and(|read| read.checksum != 0 && read.verify(src, dst));
        ensure(good, "the checksum of a written datagram is right and there")?;
        let same = read.is_ok_and(|read| read.checksum == datagram.checksum);
        let counts = datagram.checksum != 0 && datagram.verify(src, dst);
        ensure(same == counts, "there is one right checksum")?;
    }
    Ok(())
}

fn check_options(bytes: &[u8]) -> Result<(), &'static str> {
    let mptcp = |option| match option {
        TcpOption::Mptcp(option) => Some(option),
        _ => None,
    };
    let all = OptionIter::new(bytes).flatten().filter_map(mptcp);
    ensure(OptionIter::new(bytes).mptcp().eq(all), "MPTCP options alone are those among all")?;
    let mut options = OptionIter::new(bytes);
    while let Some(option) = options.next() {
        match option {
            Ok(option) => check_option(&option)?,
            Err(_) => ensure(options.next().is_none(), "a broken option ends the list")?,
        }
    }
    Ok(())
}

fn check_option(option: &TcpOption<'_>) -> Result<(), &'static str> {
    let mut writer = OptionWriter::new();
    if !writer.push(option) {
        let long = match option {
            TcpOption::Unknown { data, .. } => data.len() > 38,
            TcpOption::Mptcp(option) => longest_value(option) > 38,
            _ => false,
        };
        return ensure(long, "an option that was read can be written if it fits");
    }
    let read = writer.iter().next();
    ensure(read == Some(Ok(*option)), "an option reads as it was written")?;
    if let TcpOption::Mptcp(option) = option {
        check_versions(option, Version::V0)?;
        check_versions(option, Version::V1)?;
    }
    Ok(())
}

/// Length of the value of the MPTCP options that have no fixed bound.
fn longest_value(option: &MptcpOption<'_>) -> usize {
    match option {
        MptcpOption::RemoveAddr(ids) => ids.iter().len() + 1,
        MptcpOption::Experimental { data }
        | MptcpOption::Malformed { data, .. }
        | MptcpOption::Unknown { data, .. } => data.len(),
        _ => 0,
    }
}

fn check_versions(option: &MptcpOption<'_>, version: Version) -> Result<(), &'static str> {
    let mut writer = OptionWriter::new();
    let written = writer.push_mptcp(option, version);
    ensure(written == option.is_in(version), "what a version has can be written in it")?;
    let mut writer = OptionWriter::new();
    match option {
        MptcpOption::AddAddr(raw) => {
            let Some(decoded) = raw.decode(version) else { return Ok(()) };
            ensure(decoded.encode(&mut writer, version), "a decoded ADD_ADDR can be encoded")?;
            let again = add_addr(&writer, version);
            ensure(again == Some(decoded), "an ADD_ADDR decodes as it was encoded")
        }
        MptcpOption::Prio(raw) => {
            let Some(decoded) = raw.decode(version) else { return Ok(()) };
            ensure(decoded.encode(&mut writer, version), "a decoded MP_PRIO can be encoded")?;
            let again = writer.iter().next() == Some(Ok(TcpOption::Mptcp(*option)));
            ensure(again, "an MP_PRIO decodes as it was encoded")
        }
        _ => Ok(()),
    }
}

fn add_addr(writer: &OptionWriter, version: Version) -> Option<AddAddr> {
    match writer.iter().next()? {
        Ok(TcpOption::Mptcp(MptcpOption::AddAddr(raw))) => raw.decode(version),
        _ => None,
    }
}

fn check_sum(bytes: &[u8]) -> Result<(), &'static str> {
    let at = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    let Some((head, tail)) = bytes.split_at_checked(at) else { return Ok(()) };
    let joined = checksum::combine(checksum::sum(head), head.len(), checksum::sum(tail));
    ensure(joined == checksum::sum(bytes), "the sums of two pieces make up the whole's")
}
