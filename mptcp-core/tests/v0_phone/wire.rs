//! Version 0 packets as the phone's kernel writes and reads them: bytes, shared with nothing that is
//! tested here.

use core::net::{IpAddr, SocketAddrV4};
use hmac::{Hmac, KeyInit, Mac};
use netsim::packet::{IpPacket, TcpSegment, edit};
use sha1::{Digest, Sha1};

pub(crate) const SYN: u8 = 2;
pub(crate) const FIN: u8 = 1;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) fn token(key: u64) -> u32 {
    let hash = Sha1::digest(key.to_be_bytes());
    u32::from_be_bytes(hash[..4].try_into().unwrap())
}

/// The low 32 bits are all that version 0 phones use.
pub(crate) fn idsn(key: u64) -> u64 {
    let hash = Sha1::digest(key.to_be_bytes());
    u64::from_be_bytes(hash[12..20].try_into().unwrap())
}

/// HMAC-SHA1 keyed with both keys over both nonces, the sender's first.
pub(crate) fn join_hmac(keys: [u64; 2], nonces: [u32; 2]) -> [u8; 20] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&keys[0].to_be_bytes());
    key[8..].copy_from_slice(&keys[1].to_be_bytes());
    let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
    mac.update(&nonces[0].to_be_bytes());
    mac.update(&nonces[1].to_be_bytes());
    mac.finalize().into_bytes().into()
}

/// What a segment says besides its payload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// As in the field, not scaled.
    pub(crate) window: u16,
    /// Padded to four octets when written.
    pub(crate) options: Vec<u8>,
}

pub(crate) fn write(from: SocketAddrV4, to: SocketAddrV4, head: &Head, payload: &[u8]) -> Vec<u8> {
    let mut options = head.options.clone();
    options.resize(options.len().next_multiple_of(4), 1);
    assert!(options.len() <= 40, "the phone writes at most 40 octets of options");
    let len = 40 + options.len() + payload.len();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&head.seq.to_be_bytes());
    packet.extend_from_slice(&head.ack.to_be_bytes());
    packet.push(u8::try_from((20 + options.len()) << 2).unwrap());
    packet.push(head.flags);
    packet.extend_from_slice(&head.window.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&options);
    packet.extend_from_slice(payload);
    edit::recompute(&mut packet);
    packet
}

/// A received segment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) head: Head,
    pub(crate) window_scale: Option<u8>,
    pub(crate) mptcp: Vec<Vec<u8>>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn read(packet: &[u8]) -> Seen {
    let ip = IpPacket::parse(packet).expect("a sound IP packet");
    let tcp = TcpSegment::parse(&ip).expect("a sound segment");
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip.src, ip.dst) else { panic!("the phone is IPv4") };
    let mut mptcp = Vec::new();
    let mut window_scale = None;
    let mut rest = tcp.options;
    while let [kind, tail @ ..] = rest {
        match kind {
            0 => break,
            1 => rest = tail,
            _ => {
                let len = usize::from(tail[0]);
                let (option, after) = rest.split_at(len);
                match kind {
                    3 => window_scale = Some(option[2]),
                    30 => mptcp.push(option.to_vec()),
                    _ => {}
                }
                rest = after;
            }
        }
    }
    Seen {
        from: SocketAddrV4::new(src, tcp.src_port),
        to: SocketAddrV4::new(dst, tcp.dst_port),
        head: Head {
            flags: tcp.flags,
            seq: tcp.seq,
            ack: tcp.ack,
            window: tcp.window,
            options: tcp.options.to_vec(),
        },
        window_scale,
        mptcp,
        payload: tcp.payload.to_vec(),
    }
}

/// A mapping as both ends of version 0 write it: 32-bit data sequence numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Map {
    pub(crate) dsn: u32,
    pub(crate) ssn: u32,
    pub(crate) len: u16,
}

/// A DSS of version 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Dss {
    pub(crate) data_ack: Option<u32>,
    pub(crate) map: Option<Map>,
    pub(crate) data_fin: bool,
}

impl Dss {
    pub(crate) fn write(&self, options: &mut Vec<u8>) {
        let start = options.len();
        let flags = u8::from(self.data_ack.is_some())
            | u8::from(self.map.is_some()) << 2
            | u8::from(self.data_fin) << 4;
        options.extend_from_slice(&[30, 0, 0x20, flags]);
        if let Some(ack) = self.data_ack {
            options.extend_from_slice(&ack.to_be_bytes());
        }
        if let Some(map) = self.map {
            options.extend_from_slice(&map.dsn.to_be_bytes());
            options.extend_from_slice(&map.ssn.to_be_bytes());
            options.extend_from_slice(&map.len.to_be_bytes());
        }
        options[start + 1] = u8::try_from(options.len() - start).unwrap();
    }

    /// `Err` says what the phone cannot read.
    pub(crate) fn read(option: &[u8]) -> Result<Self, String> {
        let flags = option[3];
        if flags & 0x0a != 0 {
            return Err(format!("64-bit fields in a DSS: {option:02x?}"));
        }
        let mut dss = Self { data_fin: flags & 0x10 != 0, ..Self::default() };
        let mut at = 4;
        let mut word = |option: &[u8]| {
            at += 4;
            option.get(at - 4..at).map(|w| u32::from_be_bytes(w.try_into().unwrap()))
        };
        if flags & 1 != 0 {
            dss.data_ack = Some(word(option).ok_or("a DSS too short for its DATA_ACK")?);
        }
        if flags & 4 != 0 {
            let dsn = word(option).ok_or("a DSS too short for its DSN")?;
            let ssn = word(option).ok_or("a DSS too short for its SSN")?;
            let len = option.get(at..at + 2).ok_or("a DSS too short for its length")?;
            dss.map = Some(Map { dsn, ssn, len: u16::from_be_bytes(len.try_into().unwrap()) });
            at += 2;
        }
        if at != option.len() {
            return Err(format!("a checksum nobody asked for, or junk: {option:02x?}"));
        }
        Ok(dss)
    }
}
