//! Neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4) through smoltcp's codec, with
//! the validity checks of §7.1 that it leaves to us.

use super::frame::Mac;
use core::net::Ipv6Addr;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

/// Bytes of a message with its link-layer address option, IPv6 header included.
pub(crate) const LEN: usize = 40 + 24 + 8;

/// All nodes of the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A valid message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// Who has `target`?
    Solicit { target: Ipv6Addr, mac: Option<Mac> },
    /// `target` is here.
    Advert { target: Ipv6Addr, mac: Option<Mac>, solicited: bool, overrides: bool },
}

/// What an ICMPv6 packet is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// A message for the neighbour table.
    Message(Message),
    /// Router discovery or a redirect: our routes are configured.
    Ignored,
    /// Fails a check.
    Invalid,
    /// Not neighbour discovery.
    Other,
}

/// Reads an IPv6 packet whose next header is ICMPv6.
pub(crate) fn parse(ip: &Ipv6Packet<&[u8]>) -> Parsed {
    let message = ip.payload();
    let Some(&kind) = message.first() else { return Parsed::Other };
    let solicit = match Icmpv6Message::from(kind) {
        Icmpv6Message::NeighborSolicit => true,
        Icmpv6Message::NeighborAdvert => false,
        Icmpv6Message::RouterSolicit | Icmpv6Message::RouterAdvert | Icmpv6Message::Redirect => {
            return Parsed::Ignored;
        }
        _ => return Parsed::Other,
    };
    let Ok(icmp) = Icmpv6Packet::new_checked(message) else { return Parsed::Invalid };
    let valid = ip.hop_limit() == 255
        && icmp.msg_code() == 0
        && icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr());
    if !valid {
        return Parsed::Invalid;
    }
    let message = if solicit { solicitation(ip, &icmp) } else { advertisement(ip, &icmp) };
    message.map_or(Parsed::Invalid, Parsed::Message)
}

fn solicitation(ip: &Ipv6Packet<&[u8]>, icmp: &Icmpv6Packet<&[u8]>) -> Option<Message> {
    let NdiscRepr::NeighborSolicit { target_addr, lladdr } = NdiscRepr::parse(icmp).ok()? else {
        return None;
    };
    let mac = station(lladdr)?;
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    // Duplicate address detection asks from nowhere, and only everybody who may have the address.
    let from_nowhere = src.is_unspecified();
    // A group sends nothing (RFC 4291 §2.7), and the answer would say to it that it is solicited (RFC 4861 §4.4).
    if target_addr.is_multicast()
        || src.is_multicast()
        || (from_nowhere && (mac.is_some() || dst != solicited_node(target_addr)))
    {
        return None;
    }
    Some(Message::Solicit { target: target_addr, mac })
}

fn advertisement(ip: &Ipv6Packet<&[u8]>, icmp: &Icmpv6Packet<&[u8]>) -> Option<Message> {
    let NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } = NdiscRepr::parse(icmp).ok()?
    else {
        return None;
    };
    let mac = station(lladdr)?;
    let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
    if target_addr.is_multicast() || (solicited && ip.dst_addr().is_multicast()) {
        return None;
    }
    let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
    Some(Message::Advert { target: target_addr, mac, solicited, overrides })
}

/// The address in a link-layer address option: `Some(None)` without one, `None` when it is not a
/// station's.
#[expect(clippy::option_option, reason = "absent and wrong are different answers")]
fn station(option: Option<RawHardwareAddress>) -> Option<Option<Mac>> {
    let Some(raw) = option else { return Some(None) };
    let bytes: [u8; 6] = raw.as_bytes().try_into().ok()?;
    let mac = EthernetAddress(bytes);
    (mac.is_unicast() && bytes != [0; 6]).then_some(Some(mac))
}

/// The group that whoever has `addr` listens to (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Writes the whole IPv6 packet into `out`, which is [`LEN`] bytes long. `mac` is ours.
pub(crate) fn write(message: Message, mac: Mac, src: Ipv6Addr, dst: Ipv6Addr, out: &mut [u8]) {
    let lladdr = Some(RawHardwareAddress::from(mac));
    let repr = Icmpv6Repr::Ndisc(match message {
        Message::Solicit { target, .. } => {
            NdiscRepr::NeighborSolicit { target_addr: target, lladdr }
        }
        Message::Advert { target, solicited, overrides, .. } => {
            let mut flags = NdiscNeighborFlags::empty();
            flags.set(NdiscNeighborFlags::SOLICITED, solicited);
            flags.set(NdiscNeighborFlags::OVERRIDE, overrides);
            NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }
        }
    });
    let header = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: IpProtocol::Icmpv6,
        payload_len: repr.buffer_len(),
        hop_limit: 255,
    };
    if out.len() != header.buffer_len() + repr.buffer_len() {
        return;
    }
    let mut ip = Ipv6Packet::new_unchecked(out);
    header.emit(&mut ip);
    let mut icmp = Icmpv6Packet::new_unchecked(ip.payload_mut());
    repr.emit(&src, &dst, &mut icmp, &ChecksumCapabilities::default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = EthernetAddress([2, 0, 0, 0, 0, 2]);

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn packet(message: Message, src: &str, dst: &str) -> Vec<u8> {
        // Buffers are not zeroed: what was there must not show.
        let mut out = vec![0xff; LEN];
        write(message, MAC, ip(src), ip(dst), &mut out);
        out
    }

    fn read(bytes: &[u8]) -> Parsed {
        parse(&Ipv6Packet::new_checked(bytes).unwrap())
    }

    /// Changes bytes of the ICMPv6 part and makes its checksum right again.
    fn altered(bytes: &[u8], at: usize, to: &[u8]) -> Parsed {
        let mut bytes = bytes.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        let (src, dst) = {
            let ip = Ipv6Packet::new_checked(&bytes[..]).unwrap();
            (ip.src_addr(), ip.dst_addr())
        };
        Icmpv6Packet::new_unchecked(&mut bytes[40..]).fill_checksum(&src, &dst);
        read(&bytes)
    }

    #[test]
    fn what_is_written_is_read() {
        let solicit = Message::Solicit { target: ip("fd00::1"), mac: Some(MAC) };
        let bytes = packet(solicit, "fd00::2", "ff02::1:ff00:1");
        assert_eq!(read(&bytes), Parsed::Message(solicit));
        let advert = Message::Advert {
            target: ip("fd00::2"),
            mac: Some(MAC),
            solicited: true,
            overrides: false,
        };
        assert_eq!(read(&packet(advert, "fd00::2", "fd00::1")), Parsed::Message(advert));
        assert_eq!(solicited_node(ip("fd00::12:3456")), ip("ff02::1:ff12:3456"));
    }

    #[test]
    fn the_checks_of_rfc_4861() {
        let solicit = Message::Solicit { target: ip("fd00::1"), mac: Some(MAC) };
        let good = packet(solicit, "fd00::2", "ff02::1:ff00:1");
        let mut routed = good.clone();
        routed[7] = 254;
        assert_eq!(read(&routed), Parsed::Invalid, "hop limit");
        let mut corrupt = good.clone();
        corrupt[60] ^= 1;
        assert_eq!(read(&corrupt), Parsed::Invalid, "checksum");
        assert_eq!(altered(&good, 41, &[1]), Parsed::Invalid, "code");
        assert_eq!(altered(&good, 48, &[0xff]), Parsed::Invalid, "multicast target");
        assert_eq!(altered(&good, 65, &[0]), Parsed::Invalid, "option of length 0");
        assert_eq!(altered(&good, 65, &[2]), Parsed::Invalid, "option beyond the packet");
        assert_eq!(altered(&good, 66, &[3]), Parsed::Invalid, "a group's link-layer address");
        assert_eq!(altered(&good, 64, &[14]), altered(&good, 64, &[200]), "unknown options");
        assert_eq!(altered(&good, 40, &[134]), Parsed::Ignored, "router advertisement");
        assert_eq!(altered(&good, 40, &[137]), Parsed::Ignored, "redirect");
        assert_eq!(altered(&good, 40, &[128]), Parsed::Other, "echo request");

        let from_nowhere = packet(solicit, "::", "ff02::1:ff00:1");
        assert_eq!(read(&from_nowhere), Parsed::Invalid, "DAD with a link-layer address");
        let from_group = packet(solicit, "ff02::1", "ff02::1:ff00:1");
        assert_eq!(read(&from_group), Parsed::Invalid, "from a group");
        let advert = Message::Advert {
            target: ip("fd00::2"),
            mac: Some(MAC),
            solicited: true,
            overrides: true,
        };
        let to_all = packet(advert, "fd00::2", "ff02::1");
        assert_eq!(read(&to_all), Parsed::Invalid, "solicited by everybody");
    }

    #[test]
    fn duplicate_address_detection_is_understood() {
        let solicit = Message::Solicit { target: ip("fd00::1"), mac: Some(MAC) };
        let mut bytes = packet(solicit, "::", "ff02::1:ff00:1");
        bytes.truncate(64);
        bytes[5] = 24;
        let expected = Message::Solicit { target: ip("fd00::1"), mac: None };
        assert_eq!(altered(&bytes, 40, &[135]), Parsed::Message(expected));
        bytes[24..40].copy_from_slice(&ip("ff02::1").octets());
        assert_eq!(altered(&bytes, 40, &[135]), Parsed::Invalid, "not to the solicited-node group");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 130_u8..140, mut bytes in prop::collection::vec(any::<u8>(), 8..200)) {
            bytes[0] = kind;
            let mut packet = vec![0; 40];
            packet.extend(&bytes);
            Ipv6Repr {
                src_addr: ip("fe80::1"),
                dst_addr: ip("fe80::2"),
                next_header: IpProtocol::Icmpv6,
                payload_len: bytes.len(),
                hop_limit: 255,
            }
            .emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
            Icmpv6Packet::new_unchecked(&mut packet[40..]).fill_checksum(&ip("fe80::1"), &ip("fe80::2"));
            let _ = read(&packet);
        }
    }
}
