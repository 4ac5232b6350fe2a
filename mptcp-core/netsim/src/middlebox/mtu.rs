//! A hop with a smaller MTU than the links show: it drops what is too long and says so by ICMP
//! (RFC 1191, RFC 8201), or says nothing, as a path-MTU black hole does.

use super::{Middlebox, Output};
use crate::Direction;
use crate::packet::edit::{self, Layout};
use crate::packet::protocol;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the dropped packet an answer carries: IPv4 asks for a header and 8 octets (RFC 792), up
/// to 576 in all (RFC 1812 §4.3.2.3); IPv6 for as much as fits into 1280 (RFC 4443 §2.4).
const QUOTE_V4: usize = 576 - 28;
const QUOTE_V6: usize = 1_280 - 48;

/// Drops packets longer than `mtu`. IPv4 packets are taken as "don't fragment".
#[derive(Clone, Debug)]
pub struct PathMtu {
    mtu: u16,
    address_v4: Option<Ipv4Addr>,
    address_v6: Option<Ipv6Addr>,
    dropped: u64,
}

impl PathMtu {
    /// A hop that drops silently.
    #[must_use]
    pub const fn silent(mtu: u16) -> Self {
        Self { mtu, address_v4: None, address_v6: None, dropped: 0 }
    }

    /// A hop that answers from these addresses, each for its family.
    #[must_use]
    pub const fn answering(mtu: u16, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Self {
        Self { mtu, address_v4: v4, address_v6: v6, dropped: 0 }
    }

    /// Changes the MTU from now on: a re-route.
    pub const fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Packets dropped so far.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// "Fragmentation needed" or "Packet Too Big" for `packet`.
    fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let layout = Layout::of(packet)?;
        let sender = packet.get(layout.source())?;
        let mtu = self.mtu.to_be_bytes();
        let (mut answer, quote) = if layout.ipv6 {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, 64];
            header.extend(self.address_v6?.octets());
            header.extend(sender);
            header.extend([2, 0, 0, 0, 0, 0, mtu[0], mtu[1]]);
            (header, QUOTE_V6)
        } else {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol::ICMP, 0, 0];
            header.extend(self.address_v4?.octets());
            header.extend(sender);
            header.extend([3, 4, 0, 0, 0, 0, mtu[0], mtu[1]]);
            (header, QUOTE_V4)
        };
        answer.extend(packet.iter().take(quote));
        edit::set_length(&mut answer);
        edit::recompute(&mut answer);
        Some(answer)
    }
}

impl Middlebox for PathMtu {
    fn process(&mut self, _now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
        if packet.len() <= usize::from(self.mtu) {
            out.push((dir, packet));
            return;
        }
        self.dropped += 1;
        out.extend(self.answer(&packet).map(|answer| (dir.reverse(), answer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::IpPacket;
    use crate::packet::build::Build;
    use crate::referee::{Point, Referee};
    use core::net::IpAddr;

    #[test]
    fn an_answer_quotes_what_was_too_long() {
        let v4 = ("10.0.0.1:1", "10.0.0.2:2", "192.0.2.1");
        let v6 = ("[fd00::1]:1", "[fd00::2]:2", "2001:db8::1");
        for (src, dst, hop) in [v4, v6] {
            let mut build = Build::new(src, dst);
            build.payload = vec![7; 1_400];
            let packet = build.to_packet();
            let hop: IpAddr = hop.parse().unwrap();
            let mut mtu = match hop {
                IpAddr::V4(hop) => PathMtu::answering(1_400, Some(hop), None),
                IpAddr::V6(hop) => PathMtu::answering(1_400, None, Some(hop)),
            };
            let mut out = Vec::new();
            mtu.process(0, Direction::AtoB, packet.clone(), &mut out);
            let (dir, answer) = out.pop().unwrap();
            assert_eq!((dir, mtu.dropped()), (Direction::BtoA, 1));
            let ip = IpPacket::parse(&answer).unwrap();
            assert_eq!((ip.src, ip.dst), (hop, build.src.ip()));
            assert_eq!(ip.payload[6..8], 1_400_u16.to_be_bytes());
            assert!(packet.starts_with(&ip.payload[8..]) && ip.payload.len() > 500);
            let mut referee = Referee::new();
            referee.observe(0, crate::NodeId(0), Point::Sent, &answer);
            referee.assert_clean();
            mtu.set_mtu(1_500);
            mtu.process(0, Direction::AtoB, packet.clone(), &mut out);
            assert_eq!(out, [(Direction::AtoB, packet)]);
        }
    }

    #[test]
    fn a_silent_hop_says_nothing() {
        let mut mtu = PathMtu::silent(100);
        let mut out = Vec::new();
        mtu.process(0, Direction::BtoA, vec![0x45; 101], &mut out);
        assert!(out.is_empty());
        assert_eq!(mtu.dropped(), 1);
    }
}
