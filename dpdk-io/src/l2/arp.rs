//! ARP messages (RFC 826, RFC 5227) through smoltcp's codec, with the checks it leaves to us.

use super::frame::Mac;
use core::net::Ipv4Addr;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

/// Bytes of a message.
pub(crate) const LEN: usize = 28;

/// A message that makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) request: bool,
    pub(crate) sender_mac: Mac,
    /// Unspecified in a probe for address conflicts.
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

impl Message {
    /// `None` for anything that is not an ARP request or reply for IPv4 over Ethernet from a
    /// station and a host that can exist.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let packet = ArpPacket::new_checked(payload).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        let request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return None,
        };
        let sender = source_protocol_addr;
        let impossible = sender.is_multicast() || sender.is_broadcast() || sender.is_loopback();
        if impossible || !source_hardware_addr.is_unicast() || source_hardware_addr.0 == [0; 6] {
            return None;
        }
        Some(Self {
            request,
            sender_mac: source_hardware_addr,
            sender,
            target: target_protocol_addr,
        })
    }

    /// Writes the message for the station `to` (unspecified in requests to everybody) into `out`,
    /// which is [`LEN`] bytes long.
    pub(crate) fn write(&self, to: Option<Mac>, out: &mut [u8]) {
        if out.len() < LEN {
            return;
        }
        // Unchecked: the check would read length fields that are yet to be written.
        let mut packet = ArpPacket::new_unchecked(out);
        ArpRepr::EthernetIpv4 {
            operation: if self.request { ArpOperation::Request } else { ArpOperation::Reply },
            source_hardware_addr: self.sender_mac,
            source_protocol_addr: self.sender,
            target_hardware_addr: to.unwrap_or(EthernetAddress([0; 6])),
            target_protocol_addr: self.target,
        }
        .emit(&mut packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> (Message, [u8; LEN]) {
        let message = Message {
            request: true,
            sender_mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
            sender: Ipv4Addr::new(10, 1, 0, 2),
            target: Ipv4Addr::new(10, 1, 0, 1),
        };
        let bytes =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1];
        (message, bytes)
    }

    #[test]
    fn a_request_by_the_book() {
        let (message, bytes) = request();
        assert_eq!(Message::parse(&bytes), Some(message));
        let mut out = [0xff; LEN];
        message.write(None, &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn nonsense_is_refused() {
        let (_, bytes) = request();
        let with = |at: usize, values: &[u8]| {
            let mut bytes = bytes;
            bytes[at..at + values.len()].copy_from_slice(values);
            Message::parse(&bytes)
        };
        assert_eq!(with(0, &[0, 6]), None, "not Ethernet");
        assert_eq!(with(2, &[0x86, 0xdd]), None, "not IPv4");
        assert_eq!(with(4, &[8]), None, "hardware address length");
        assert_eq!(with(5, &[16]), None, "protocol address length");
        assert_eq!(with(6, &[0, 3]), None, "RARP");
        assert_eq!(with(8, &[3]), None, "a group as the sender");
        assert_eq!(with(8, &[0; 6]), None, "no station");
        assert_eq!(with(14, &[224, 0, 0, 1]), None, "a group address as the sender");
        assert!(with(14, &[0; 4]).is_some(), "an RFC 5227 probe");
        assert_eq!(Message::parse(&bytes[..27]), None, "truncated");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Message::parse(&bytes);
        }
    }
}
