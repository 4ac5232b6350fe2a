//! Ethernet headers with an optional 802.1Q tag.

use mptcp_core::buf::PacketBuf;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv6Address};

/// A station address.
pub(crate) type Mac = EthernetAddress;

/// Ethernet header without a tag.
pub(crate) const HEADER_LEN: usize = 14;
/// 802.1Q tag.
const TAG_LEN: usize = 4;
/// 802.1Q tag protocol identifier.
const TPID: u16 = 0x8100;

/// What a received frame's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    pub(crate) protocol: EthernetProtocol,
    /// VLAN id; 0 without a tag, and with a tag that carries a priority only.
    pub(crate) vlan: u16,
    /// Where the payload starts.
    pub(crate) len: usize,
}

impl Header {
    /// `None` when the frame is too short for it.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let untagged = Self {
            dst: ethernet.dst_addr(),
            src: ethernet.src_addr(),
            protocol: ethernet.ethertype(),
            vlan: 0,
            len: HEADER_LEN,
        };
        if untagged.protocol != EthernetProtocol::Unknown(TPID) {
            return Some(untagged);
        }
        let [tci_high, tci_low, kind @ ..] = *ethernet.payload().first_chunk::<TAG_LEN>()?;
        Some(Self {
            protocol: u16::from_be_bytes(kind).into(),
            vlan: u16::from_be_bytes([tci_high, tci_low]) & 0x0fff,
            len: HEADER_LEN + TAG_LEN,
            ..untagged
        })
    }
}

/// How frames of one link look on the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Framing {
    pub(crate) mac: Mac,
    /// 0: no tag.
    pub(crate) vlan: u16,
}

impl Framing {
    /// Bytes in front of the payload.
    pub(crate) fn header_len(self) -> usize {
        if self.vlan == 0 { HEADER_LEN } else { HEADER_LEN + TAG_LEN }
    }

    /// Writes the header into `out`, which is `header_len()` bytes long.
    pub(crate) fn write(self, dst: Mac, protocol: EthernetProtocol, out: &mut [u8]) {
        let Ok(mut ethernet) = EthernetFrame::new_checked(out) else { return };
        ethernet.set_dst_addr(dst);
        ethernet.set_src_addr(self.mac);
        if self.vlan == 0 {
            ethernet.set_ethertype(protocol);
            return;
        }
        ethernet.set_ethertype(EthernetProtocol::Unknown(TPID));
        if let Some(tag) = ethernet.payload_mut().first_chunk_mut::<TAG_LEN>() {
            let [tci_high, tci_low] = self.vlan.to_be_bytes();
            let [kind_high, kind_low] = u16::from(protocol).to_be_bytes();
            *tag = [tci_high, tci_low, kind_high, kind_low];
        }
    }

    /// Puts the header in front of an IP packet; a packet whose memory is shared gets a buffer of
    /// its own for it, from `alloc`. `None`, the packet gone, when there is none.
    pub(crate) fn wrap<B: PacketBuf>(
        self,
        dst: Mac,
        protocol: EthernetProtocol,
        mut packet: B,
        alloc: impl FnOnce() -> Option<B>,
    ) -> Option<B> {
        let len = self.header_len();
        if let Some(header) = packet.prepend(len) {
            self.write(dst, protocol, header);
            return Some(packet);
        }
        let mut head = alloc()?;
        self.write(dst, protocol, head.append(len)?);
        head.set_tx_meta(packet.tx_meta());
        head.chain(packet);
        Some(head)
    }
}

/// Group address that an IPv6 multicast address is sent to (RFC 2464 §7).
pub(crate) fn group(addr: Ipv6Address) -> Mac {
    let [.., a, b, c, d] = addr.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_core::buf::HeapBuf;
    use proptest::prelude::*;

    const US: Mac = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const THEM: Mac = EthernetAddress([2, 0, 0, 0, 0, 2]);

    #[test]
    fn known_bytes() {
        let mut out = [0; 18];
        Framing { mac: US, vlan: 0x123 }.write(THEM, EthernetProtocol::Ipv6, &mut out);
        assert_eq!(out, [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x01, 0x23, 0x86, 0xdd]);
        let priority_only = [&out[..14], &[0xe0, 0, 8, 0], &[1; 20]].concat();
        let header = Header::parse(&priority_only).unwrap();
        assert_eq!((header.vlan, header.protocol, header.len), (0, EthernetProtocol::Ipv4, 18));
        for len in 0..18 {
            assert_eq!(Header::parse(&out[..len]), None, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_is_wrapped_parses(vlan in 0_u16..4095, payload: Vec<u8>, shared: bool) {
            let framing = Framing { mac: US, vlan };
            let packet = HeapBuf::from_slice(&payload);
            let copy = shared.then(|| packet.slice(0..payload.len()));
            let alloc = || Some(HeapBuf::with_capacity(128, 2048));
            let frame = framing.wrap(THEM, EthernetProtocol::Arp, packet, alloc).unwrap();
            drop(copy);
            let bytes = frame.to_vec();
            let header = Header::parse(&bytes).unwrap();
            let expected = Header {
                dst: THEM,
                src: US,
                protocol: EthernetProtocol::Arp,
                vlan,
                len: framing.header_len(),
            };
            prop_assert_eq!(header, expected);
            prop_assert_eq!(&bytes[header.len..], &payload[..]);
        }
    }
}
