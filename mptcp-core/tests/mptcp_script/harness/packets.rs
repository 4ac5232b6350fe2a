//! Segments as they come out of the stack, and as the scripted peer makes them.

use super::MTU;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::config::Marking;
use mptcp_core::seq::SeqNum;
use mptcp_core::time::Instant;
use mptcp_core::wire::{
    Dss, FastOpenCookie, IpEmit, IpHeader, Mapping, MpCapable, MpJoin, MpTcpRst, MptcpOption,
    OptionIter, OptionWriter, TcpFlags, TcpHeader, TcpOption, TcpSegment, Version, WireSeq,
    checksum,
};

/// A packet that came out.
#[derive(Clone)]
pub(crate) struct Out {
    pub(crate) at: Instant,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) flags: TcpFlags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: Vec<u8>,
    pub(crate) version: Version,
    /// TTL and DSCP.
    pub(crate) marking: Marking,
}

impl core::fmt::Debug for Out {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let options: Vec<_> = OptionIter::new(&self.options).collect();
        write!(
            f,
            "{:?} {} > {} {:?} seq {} ack {} win {} len {} {options:?}",
            self.at,
            self.src,
            self.dst,
            self.flags,
            self.seq,
            self.ack,
            self.window,
            self.payload.len()
        )
    }
}

impl Out {
    /// Parses and judges a packet: what no packet of ours may ever violate is asserted here. Only
    /// who asks for a token that nobody has (`stranger`) may meet an option of the other version, and who opens
    /// connections in `any_version`.
    pub(super) fn read(
        at: Instant,
        packet: &[u8],
        version: Version,
        stranger: bool,
        any_version: bool,
    ) -> Self {
        assert!(packet.len() <= MTU, "{} octets exceed the MTU", packet.len());
        let ip = IpHeader::parse(packet).expect("a whole IP packet");
        let bytes = &packet[ip.header_len..ip.total_len];
        assert!(checksum::verify_tcp(ip.src, ip.dst, bytes), "TCP checksum");
        let view = TcpSegment::parse(bytes).expect("a whole TCP header");
        assert!(view.options().all(|o| o.is_ok()), "broken options {:?}", view.option_bytes());
        for option in view.options().flatten() {
            if let TcpOption::Mptcp(option) = option {
                let reason = stranger && matches!(option, MptcpOption::Reset(_));
                let ours = any_version || option.is_in(version) || reason;
                assert!(ours, "{option:?} is not of version {}", version as u8);
            }
        }
        Self {
            at,
            src: SocketAddr::new(ip.src, view.src_port),
            dst: SocketAddr::new(ip.dst, view.dst_port),
            flags: view.flags,
            seq: view.seq.0,
            ack: view.ack.0,
            window: view.window,
            payload: view.payload.to_vec(),
            options: view.option_bytes().to_vec(),
            version,
            marking: Marking::new(ip.hop_limit, ip.traffic_class >> 2).expect("a TTL"),
        }
    }

    pub(crate) fn is(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    pub(crate) fn rst(&self) -> bool {
        self.is(TcpFlags::RST)
    }

    pub(crate) fn tcp_options(&self) -> Vec<TcpOption<'_>> {
        OptionIter::new(&self.options).flatten().collect()
    }

    pub(crate) fn mptcp(&self) -> Vec<MptcpOption<'_>> {
        let mptcp = |option| match option {
            TcpOption::Mptcp(option) => Some(option),
            _ => None,
        };
        OptionIter::new(&self.options).flatten().filter_map(mptcp).collect()
    }

    pub(crate) fn capable(&self) -> Option<MpCapable> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Capable(capable) => Some(capable),
            _ => None,
        })
    }

    pub(crate) fn join(&self) -> Option<MpJoin> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Join(join) => Some(join),
            _ => None,
        })
    }

    pub(crate) fn cookie(&self) -> Option<FastOpenCookie> {
        self.tcp_options().into_iter().find_map(|o| match o {
            TcpOption::FastOpen(cookie) => Some(cookie),
            _ => None,
        })
    }

    pub(crate) fn dss(&self) -> Option<Dss> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Dss(dss) => Some(dss),
            _ => None,
        })
    }

    pub(crate) fn data_ack(&self) -> Option<WireSeq> {
        self.dss().and_then(|dss| dss.data_ack)
    }

    pub(crate) fn mapping(&self) -> Option<Mapping> {
        self.dss().and_then(|dss| dss.mapping)
    }

    pub(crate) fn data_fin(&self) -> bool {
        self.dss().is_some_and(|dss| dss.data_fin)
    }

    /// `MP_TCPRST`: (reason, transient). U, V and W are sent as 0 (RFC 8684 §3.6).
    pub(crate) fn reset_reason(&self) -> Option<(u8, bool)> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Reset(MpTcpRst { transient, reason, reserved: 0 }) => {
                Some((reason, transient))
            }
            _ => None,
        })
    }

    /// A RST that says why, as far as its version can.
    pub(crate) fn assert_reset(&self, reason: u8, transient: bool) {
        assert!(self.rst(), "{self:?}");
        let told = (self.version == Version::V1).then_some((reason, transient));
        assert_eq!(self.reset_reason(), told, "{self:?}");
    }

    pub(crate) fn fastclose(&self) -> Option<u64> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Fastclose { key } => Some(key),
            _ => None,
        })
    }

    pub(crate) fn fail(&self) -> Option<u64> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Fail { dsn } => Some(dsn),
            _ => None,
        })
    }
}

/// A segment to be sent to the stack; built up by chaining.
#[derive(Clone, Debug)]
pub(crate) struct Seg {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    flags: TcpFlags,
    window: u16,
    options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Seg {
    /// Appends an option of either version: the peer may be wrong about ours.
    pub(crate) fn opt(mut self, option: &MptcpOption<'_>) -> Self {
        let mut writer = OptionWriter::new();
        let fits = [Version::V1, Version::V0].iter().any(|v| writer.push_mptcp(option, *v));
        assert!(fits, "{option:?} fits");
        self.options.extend_from_slice(writer.as_bytes());
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.options.extend_from_slice(bytes);
        self
    }

    pub(crate) fn cookie(mut self, cookie: FastOpenCookie) -> Self {
        let mut writer = OptionWriter::new();
        assert!(writer.push(&TcpOption::FastOpen(cookie)));
        self.options.extend_from_slice(writer.as_bytes());
        self
    }

    /// Sequence numbers it takes.
    pub(crate) fn len(&self) -> u32 {
        let flags = [TcpFlags::SYN, TcpFlags::FIN];
        let marks = flags.iter().filter(|flag| self.flags.contains(**flag)).count();
        (self.payload.len() + marks) as u32
    }

    pub(crate) fn option_len(&self) -> usize {
        self.options.len()
    }

    /// Without any option.
    pub(crate) fn bare(mut self) -> Self {
        self.options.clear();
        self
    }

    pub(crate) fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn fin(mut self) -> Self {
        self.flags |= TcpFlags::FIN;
        self
    }

    pub(crate) fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    pub(crate) fn acks(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }

    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    pub(crate) fn dss(self, dss: Dss) -> Self {
        self.opt(&MptcpOption::Dss(dss))
    }
}

/// The peer's side of one TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// The peer's end.
    pub(crate) peer: SocketAddr,
    /// The stack's end.
    pub(crate) local: SocketAddr,
    /// The peer's ISN.
    pub(crate) isn: u32,
    pub(crate) snd_nxt: u32,
    /// The stack's ISN.
    pub(crate) stack_isn: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) window: u16,
}

impl Flow {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let isn = 0x5000_0000_u32.wrapping_add(u32::from(peer.port()) << 8);
        Self { peer, local, isn, snd_nxt: isn, stack_isn: 0, rcv_nxt: 0, window: 60_000 }
    }

    /// A pure ACK at the present position.
    pub(crate) fn seg(&self) -> Seg {
        Seg {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: self.window,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn syn(&self) -> Seg {
        let mss = [2, 4, 5, 180];
        let seg = self.seg().seq(self.isn).acks(0).flags(TcpFlags::SYN);
        seg.raw(&mss).raw(&[4, 2])
    }

    /// Takes in what the stack sent on this flow: the next ACK covers it.
    pub(crate) fn hears(&mut self, out: &[Out]) {
        for packet in out.iter().filter(|o| o.src == self.local && o.dst == self.peer) {
            if packet.rst() {
                continue;
            }
            if packet.is(TcpFlags::SYN) {
                self.stack_isn = packet.seq;
                self.rcv_nxt = packet.seq.wrapping_add(1);
            } else if packet.seq == self.rcv_nxt {
                let fin = u32::from(packet.is(TcpFlags::FIN));
                self.rcv_nxt = self.rcv_nxt.wrapping_add(packet.payload.len() as u32 + fin);
            }
        }
    }

    /// Packets the stack sent on this flow.
    pub(crate) fn of<'o>(&self, out: &'o [Out]) -> Vec<&'o Out> {
        out.iter().filter(|o| o.src == self.local && o.dst == self.peer).collect()
    }

    /// The SYN brought `len` octets, which subflow sequence numbers do not count.
    pub(crate) fn skip_early(&mut self, len: u32) {
        self.isn = self.isn.wrapping_add(len);
    }

    /// Subflow sequence number of what the peer sends next.
    pub(crate) fn ssn(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.isn)
    }
}

/// Header and options of a segment, the checksum left zero.
pub(super) fn tcp_header(flow: &Flow, seg: &Seg) -> Vec<u8> {
    let mut options = seg.options.clone();
    while !options.len().is_multiple_of(4) {
        options.push(1);
    }
    assert!(options.len() <= 40, "{} option octets", options.len());
    let header = TcpHeader {
        src_port: flow.peer.port(),
        dst_port: flow.local.port(),
        seq: SeqNum(seg.seq),
        ack: SeqNum(seg.ack),
        flags: seg.flags,
        window: seg.window,
        urgent: u16::from(seg.flags.contains(TcpFlags::URG)),
    };
    let mut tcp = vec![0; 20];
    header.emit(&OptionWriter::new(), &mut tcp);
    tcp[12] = ((20 + options.len()) * 4) as u8;
    tcp.extend_from_slice(&options);
    tcp
}

pub(super) fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, payload_len: usize) -> Vec<u8> {
    let ip = IpEmit {
        src,
        dst,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len,
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet
}
