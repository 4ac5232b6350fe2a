//! Phones and servers by the million, that keep next to nothing: what a packet of the gateway's asks for is computed
//! from the packet.
//!
//! Session `n` has a phone with an address of its own on either access, and a server of its own. Invariant: no
//! packet is lost but where an access is dead, so each subflow's text comes in order, once.

mod frame;

use crate::packet::Packet;
use core::net::{IpAddr, Ipv4Addr};
use frame::{End, Frame, IP_HEADER, syn_options};
use mptcp_core::buf::{PacketBuf as _, PortId};
use mptcp_core::mptcp::key::{KeyPair, idsn, token};
use mptcp_core::wire::{
    AddAddr, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MptcpOption, OptionWriter,
    TcpFlags, TcpOption, TcpSegment, Version, WireSeq,
};
use std::collections::{BTreeMap, VecDeque};

/// Octets that a packet takes on an Ethernet beside itself.
const ETHERNET: usize = 38;
/// Octets of a full segment from a server: timestamps, and the MSS that the exit announces, which leaves room for what
/// the accesses add.
pub(crate) const FULL: usize = 1424;
/// Octets of timestamps in a segment.
const STAMPS: usize = 12;
/// Where the gateway listens, and where its second address is.
const GATEWAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 2, 0, 1)];
const EXIT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const LISTEN: u16 = 1080;
const PHONE_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 80;
/// Networks of the phones' addresses on both accesses, and of the servers.
const PHONES: [u32; 2] = [11 << 24, 12 << 24];
const SERVERS: u32 = 20 << 24;
const NUMBER: u32 = (1 << 24) - 1;
/// Port of the exit; the accesses come before it.
const EXIT_PORT: usize = 2;

const GREETING: [u8; 3] = [5, 1, 0];
const REQUEST_LEN: u32 = 10;
/// Octets of the replies to both.
const REPLIES: [u64; 2] = [2, 12];
const BLOCK: [u8; FULL] = [0x5a; FULL];

/// How far a session has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Connecting,
    Greeted,
    Asked,
    Open,
}

/// How far its join has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Join {
    #[default]
    No,
    Asked,
    Answered,
}

/// What is kept about a session.
#[derive(Clone, Default)]
struct Session {
    /// The gateway's key.
    key: u64,
    /// Next octet expected on each subflow.
    expected: [u32; 2],
    /// The gateway's newest timestamps: on both subflows and at the server.
    stamps: [u32; 3],
    /// Octets of the stream the phone has. What comes ahead of them is put in order by its place, which 32 bits do
    /// not tell once the stream is longer than 4 GiB.
    received: u64,
    /// Octets the server sent, those acknowledged, and the end of the window: the low bits.
    sent: u32,
    acked: u32,
    edge: u32,
    /// Next octet the server expects.
    server_expects: u32,
    exit_port: u16,
    stage: Stage,
    join: Join,
}

/// Where phones and servers are, and how much happened.
pub(crate) struct Crowd {
    sessions: Vec<Session>,
    /// On their way to the gateway's ports, with the tick of their arrival.
    links: [VecDeque<(u64, Packet)>; 3],
    /// Ticks there and back again.
    delays: [u64; 3],
    /// An access that carries nothing.
    dead: Option<usize>,
    tick: u64,
    /// Milliseconds: everybody's timestamp.
    clock: u32,
    /// The gateway's shift of windows at the exit.
    exit_shift: u8,
    /// Text of streams that came before what precedes it: session, offset, end.
    ahead: BTreeMap<(u32, u64), u64>,
    /// Subflows with one segment that is not acknowledged yet.
    owed: Vec<(u32, usize)>,
    pub(crate) open: u32,
    pub(crate) joined: u32,
    /// Octets of open sessions that came to the phones, what came twice not counted again.
    pub(crate) delivered: u64,
    pub(crate) resets: u64,
    /// Packets that a dead access swallowed.
    pub(crate) swallowed: u64,
}

impl Crowd {
    /// Room for `count` sessions, every page of it touched.
    pub(crate) fn new(count: u32, delays: [u64; 3]) -> Self {
        // Cloning writes each element, where zeros would be memory that is not there yet.
        let mut first = Session::default();
        first.stamps[0] = 1;
        Self {
            sessions: vec![first; count as usize],
            links: [const { VecDeque::new() }; 3],
            delays,
            dead: None,
            tick: 0,
            clock: 0,
            exit_shift: 0,
            ahead: BTreeMap::new(),
            owed: Vec::new(),
            open: 0,
            joined: 0,
            delivered: 0,
            resets: 0,
            swallowed: 0,
        }
    }

    /// Octets kept per session.
    pub(crate) const fn session_size() -> usize {
        size_of::<Session>()
    }

    /// It is `tick`, `clock` in milliseconds.
    pub(crate) fn advance(&mut self, tick: u64, clock: u32) {
        (self.tick, self.clock) = (tick, clock);
    }

    /// This access carries nothing any more.
    pub(crate) fn cut(&mut self, access: usize) {
        self.dead = Some(access);
        self.swallowed += self.links[access].len() as u64;
        self.links[access].clear();
    }

    /// When the next packet arrives at the gateway.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        self.links.iter().filter_map(|link| link.front().map(|(at, _)| *at)).min()
    }

    /// Moves what has arrived to `inbox`, `most` octets of each link at most.
    pub(crate) fn arrive(&mut self, most: usize, inbox: &mut Vec<Packet>) {
        for link in &mut self.links {
            let mut room = most;
            while let Some((at, packet)) = link.front()
                && *at <= self.tick
                && let Some(left) = room.checked_sub(packet.packet_len() + ETHERNET)
            {
                room = left;
                inbox.extend(link.pop_front().map(|(_, packet)| packet));
            }
        }
    }

    /// Everything that servers sent is with the phones, and acknowledged.
    pub(crate) fn is_settled(&self, n: u32) -> bool {
        let session = &self.sessions[n as usize];
        let received = session.received.wrapping_sub(REPLIES[1]) as u32;
        session.acked == session.sent && received == session.sent
    }

    /// Session `n` begins.
    pub(crate) fn connect(&mut self, n: u32) {
        let mut options = syn_options(self.clock, 0);
        let capable = MpCapable { version: 1, flags: CapableFlags::HMAC, form: CapableForm::Syn };
        push(&mut options, &MptcpOption::Capable(capable));
        let seq = phone_iss(n, 0);
        self.send_as_phone(n, 0, Frame { seq, syn: true, ..frame(options) });
    }

    /// The server of session `n` sends a segment of `len` octets, if the window takes it.
    pub(crate) fn serve(&mut self, n: u32, len: usize) -> bool {
        let session = &mut self.sessions[n as usize];
        let (sent, end) = (session.sent, session.sent.wrapping_add(len as u32));
        if session.edge.wrapping_sub(end).cast_signed() < 0 {
            return false;
        }
        session.sent = end;
        let seq = server_iss(n).wrapping_add(1).wrapping_add(sent);
        let options = stamped(self.clock, self.sessions[n as usize].stamps[2]);
        self.send_as_server(n, Frame { seq, payload: &BLOCK[..len], ..frame(options) });
        true
    }

    /// Takes a packet that left the gateway.
    pub(crate) fn receive(&mut self, packet: &Packet) {
        let bytes = packet.data();
        let to: [u8; 4] = bytes[16..20].try_into().expect("four octets");
        let to = u32::from_be_bytes(to);
        let segment = TcpSegment::parse(&bytes[IP_HEADER..]).expect("a TCP header");
        let len = (packet.packet_len() - IP_HEADER - segment.header_len) as u32;
        let (network, n) = (to & !NUMBER, to & NUMBER);
        if network == SERVERS {
            return self.receive_at_server(n, &segment, len);
        }
        let access = usize::from(network == PHONES[1]);
        if self.dead == Some(access) {
            self.swallowed += 1;
        } else {
            self.receive_at_phone(n, access, &segment, len);
        }
    }

    /// What came in one go has been received: what is owed for it goes out.
    pub(crate) fn acknowledge(&mut self) {
        for (n, access) in core::mem::take(&mut self.owed) {
            self.send_ack(n, access);
        }
    }

    fn receive_at_phone(&mut self, n: u32, access: usize, segment: &TcpSegment<'_>, len: u32) {
        if segment.flags.contains(TcpFlags::RST) {
            self.resets += 1;
            return;
        }
        let seq = segment.seq.0;
        let session = &mut self.sessions[n as usize];
        let of_join = access == 1 && !segment.flags.contains(TcpFlags::SYN);
        if of_join && session.join == Join::Asked {
            session.join = Join::Answered;
            self.joined += 1;
        }
        let mut mapping = None;
        for option in segment.options().flatten() {
            match option {
                TcpOption::Timestamps { tsval, .. } => {
                    self.sessions[n as usize].stamps[access] = tsval;
                }
                TcpOption::Mptcp(MptcpOption::Capable(capable)) => {
                    let CapableForm::Key(key) = capable.form else { continue };
                    return self.greet(n, seq, key);
                }
                TcpOption::Mptcp(MptcpOption::Join(MpJoin::SynAck { nonce, .. })) => {
                    return self.finish_join(n, seq, nonce);
                }
                TcpOption::Mptcp(MptcpOption::AddAddr(raw)) => {
                    let announced = raw.decode(Version::V1).expect("an address");
                    self.join(n, &announced);
                }
                TcpOption::Mptcp(MptcpOption::Dss(dss)) => mapping = dss.mapping,
                _ => {}
            }
        }
        let session = &mut self.sessions[n as usize];
        if len == 0 {
            // A probe lies below what is expected, and wants an answer.
            if session.expected[access].wrapping_sub(seq).cast_signed() > 0 {
                self.send_ack(n, access);
            }
            return;
        }
        if seq == session.expected[access] {
            session.expected[access] = seq.wrapping_add(len);
        }
        if let Some(mapping) = mapping {
            self.take_text(n, &mapping, len);
        }
        match self.owed.iter().position(|owed| *owed == (n, access)) {
            Some(at) => {
                self.owed.swap_remove(at);
                self.send_ack(n, access);
            }
            None => self.owed.push((n, access)),
        }
        self.go_on(n);
    }

    /// Text of the stream; what is ahead of it waits.
    fn take_text(&mut self, n: u32, mapping: &Mapping, len: u32) {
        let session = &mut self.sessions[n as usize];
        let first = idsn(Version::V1, session.key).0.wrapping_add(1);
        let before = session.received;
        let offset = match mapping.dsn {
            WireSeq::Full(dsn) => dsn.wrapping_sub(first),
            WireSeq::Low(dsn) => {
                let low = dsn.wrapping_sub(first as u32);
                before.wrapping_add_signed(low.wrapping_sub(before as u32).cast_signed().into())
            }
        };
        let end = offset + u64::from(len);
        if offset > before {
            self.ahead.insert((n, offset), end);
            return;
        }
        session.received = before.max(end);
        while let Some((&(_, offset), &end)) = self.ahead.range((n, 0)..=(n, u64::MAX)).next()
            && offset <= session.received
        {
            session.received = session.received.max(end);
            self.ahead.remove(&(n, offset));
        }
        if session.stage == Stage::Open {
            self.delivered += session.received - before;
        }
    }

    /// The SOCKS5 handshake goes on once its replies are there.
    fn go_on(&mut self, n: u32) {
        let session = &mut self.sessions[n as usize];
        match session.stage {
            Stage::Greeted if session.received >= REPLIES[0] => {
                let ssn = 1 + GREETING.len() as u32;
                let seq = phone_iss(n, 0).wrapping_add(ssn);
                let dsn = idsn(Version::V1, phone_key(n)).0.wrapping_add(u64::from(ssn));
                let mapping = Mapping {
                    dsn: WireSeq::Full(dsn),
                    ssn,
                    len: REQUEST_LEN as u16,
                    checksum: None,
                };
                let data_ack = Some(session.data_ack());
                let dss = Dss { data_ack, mapping: Some(mapping), data_fin: false };
                let mut options = stamped(self.clock, session.stamps[0]);
                push(&mut options, &MptcpOption::Dss(dss));
                session.stage = Stage::Asked;
                let [a, b, c, d] = (SERVERS | n).to_be_bytes();
                let request = [5, 1, 0, 1, a, b, c, d, 0, SERVER_PORT as u8];
                self.send_as_phone(n, 0, Frame { seq, payload: &request, ..frame(options) });
            }
            Stage::Asked if session.received >= REPLIES[1] => {
                session.stage = Stage::Open;
                self.open += 1;
            }
            _ => {}
        }
    }

    /// Both keys are known: the third ACK, and the greeting behind it.
    fn greet(&mut self, n: u32, seq: u32, key: u64) {
        let session = &mut self.sessions[n as usize];
        session.key = key;
        session.expected[0] = seq.wrapping_add(1);
        session.stage = Stage::Greeted;
        let (sender, receiver, len) = (phone_key(n), key, GREETING.len());
        let data_len = len as u16;
        let forms = [
            (CapableForm::Keys { sender, receiver }, &[][..]),
            (CapableForm::Data { sender, receiver, data_len, checksum: None }, &GREETING[..]),
        ];
        for (form, payload) in forms {
            let capable = MpCapable { version: 1, flags: CapableFlags::HMAC, form };
            let mut options = stamped(self.clock, self.sessions[n as usize].stamps[0]);
            push(&mut options, &MptcpOption::Capable(capable));
            let seq = phone_iss(n, 0).wrapping_add(1);
            self.send_as_phone(n, 0, Frame { seq, payload, ..frame(options) });
        }
    }

    /// Echoes an address, and joins by it.
    fn join(&mut self, n: u32, announced: &AddAddr) {
        let mut echo = OptionWriter::new();
        let told = AddAddr { echo: true, hmac: None, ..*announced };
        assert!(told.encode(&mut echo, Version::V1), "an echo");
        let seq = self.sent_by_phone(n, 0);
        self.send_as_phone(n, 0, Frame { seq, ..frame(echo) });
        assert_eq!(announced.addr, IpAddr::V4(GATEWAY[1]), "the second access");
        let session = &mut self.sessions[n as usize];
        if session.join != Join::No {
            return;
        }
        session.join = Join::Asked;
        let token = token(Version::V1, session.key);
        let join = MpJoin::Syn { backup: false, address_id: 1, token, nonce: nonce(n) };
        let mut options = syn_options(self.clock, 0);
        push(&mut options, &MptcpOption::Join(join));
        let seq = phone_iss(n, 1);
        self.send_as_phone(n, 1, Frame { seq, syn: true, ..frame(options) });
    }

    fn finish_join(&mut self, n: u32, seq: u32, theirs: u32) {
        let session = &mut self.sessions[n as usize];
        session.expected[1] = seq.wrapping_add(1);
        let keys = KeyPair { local: phone_key(n), remote: session.key };
        let hmac = keys.sent_join_hmac(Version::V1, nonce(n), theirs).full();
        let mut options = stamped(self.clock, session.stamps[1]);
        push(&mut options, &MptcpOption::Join(MpJoin::Ack { hmac }));
        let seq = phone_iss(n, 1).wrapping_add(1);
        self.send_as_phone(n, 1, Frame { seq, ..frame(options) });
    }

    fn send_ack(&mut self, n: u32, access: usize) {
        let session = &self.sessions[n as usize];
        let mut options = stamped(self.clock, session.stamps[access]);
        let dss = Dss { data_ack: Some(session.data_ack()), ..Dss::default() };
        push(&mut options, &MptcpOption::Dss(dss));
        let seq = self.sent_by_phone(n, access);
        self.send_as_phone(n, access, Frame { seq, ..frame(options) });
    }

    /// Next sequence number of a phone's subflow.
    fn sent_by_phone(&self, n: u32, access: usize) -> u32 {
        let text = match (access, self.sessions[n as usize].stage) {
            (1, _) | (_, Stage::Connecting) => 0,
            (_, Stage::Greeted) => GREETING.len() as u32,
            (_, Stage::Asked | Stage::Open) => GREETING.len() as u32 + REQUEST_LEN,
        };
        phone_iss(n, access).wrapping_add(1 + text)
    }

    fn send_as_phone(&mut self, n: u32, access: usize, frame: Frame<'_>) {
        let from: End = (Ipv4Addr::from_bits(PHONES[access] | n), PHONE_PORT);
        let ack = (!frame.syn).then_some(self.sessions[n as usize].expected[access]);
        self.send(access, &Frame { from, to: (GATEWAY[access], LISTEN), ack, ..frame });
    }

    fn send_as_server(&mut self, n: u32, frame: Frame<'_>) {
        let session = &self.sessions[n as usize];
        let ack = Some(session.server_expects);
        let to = (EXIT, session.exit_port);
        let from = (Ipv4Addr::from_bits(SERVERS | n), SERVER_PORT);
        self.send(EXIT_PORT, &Frame { from, to, ack, ..frame });
    }

    fn send(&mut self, port: usize, frame: &Frame<'_>) {
        if self.dead == Some(port) {
            self.swallowed += 1;
            return;
        }
        let packet = frame.packet(PortId(port as u8));
        self.links[port].push_back((self.tick + self.delays[port], packet));
    }

    fn receive_at_server(&mut self, n: u32, segment: &TcpSegment<'_>, len: u32) {
        assert!(!segment.flags.contains(TcpFlags::RST), "the exit of session {n} was reset");
        let session = &mut self.sessions[n as usize];
        for option in segment.options().flatten() {
            match option {
                TcpOption::Timestamps { tsval, .. } => session.stamps[2] = tsval,
                TcpOption::WindowScale(shift) => self.exit_shift = shift,
                TcpOption::MaxSegmentSize(mss) => {
                    assert_eq!(usize::from(mss), FULL + STAMPS, "servers send what is asked for");
                }
                _ => {}
            }
        }
        let seq = segment.seq.0;
        let stamp = session.stamps[2];
        if segment.flags.contains(TcpFlags::SYN) {
            session.exit_port = segment.src_port;
            session.server_expects = seq.wrapping_add(1);
            let options = syn_options(self.clock, stamp);
            let seq = server_iss(n);
            return self.send_as_server(n, Frame { seq, syn: true, ..frame(options) });
        }
        session.acked = segment.ack.0.wrapping_sub(server_iss(n).wrapping_add(1));
        session.edge = session.acked.wrapping_add(u32::from(segment.window) << self.exit_shift);
        let probe = session.server_expects.wrapping_sub(seq).cast_signed() > 0;
        session.server_expects = session.server_expects.wrapping_add(len);
        if len > 0 || probe {
            let seq = server_iss(n).wrapping_add(1).wrapping_add(session.sent);
            let options = stamped(self.clock, stamp);
            self.send_as_server(n, Frame { seq, ..frame(options) });
        }
    }
}

impl Session {
    fn data_ack(&self) -> WireSeq {
        let first = idsn(Version::V1, self.key).0.wrapping_add(1);
        WireSeq::Full(first.wrapping_add(self.received))
    }
}

/// A segment without ends yet.
fn frame<'a>(options: OptionWriter) -> Frame<'a> {
    let nobody: End = (Ipv4Addr::UNSPECIFIED, 0);
    Frame { from: nobody, to: nobody, seq: 0, ack: None, syn: false, options, payload: &[] }
}

fn stamped(tsval: u32, tsecr: u32) -> OptionWriter {
    let mut options = OptionWriter::new();
    assert!(options.push_timestamps(tsval, tsecr), "timestamps");
    options
}

fn push(options: &mut OptionWriter, option: &MptcpOption<'_>) {
    assert!(options.push_mptcp(option, Version::V1), "room for {option:?}");
}

/// What differs from session to session and from use to use.
fn mixed(n: u32, purpose: u64) -> u64 {
    let mut x = (u64::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (purpose << 56);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn phone_iss(n: u32, access: usize) -> u32 {
    mixed(n, 1 + access as u64) as u32
}

fn server_iss(n: u32) -> u32 {
    mixed(n, 3) as u32
}

fn phone_key(n: u32) -> u64 {
    mixed(n, 4)
}

fn nonce(n: u32) -> u32 {
    mixed(n, 5) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `workloads sessions --runs 40` sends one session more than 4 GiB.
    #[test]
    fn a_stream_goes_on_beyond_32_bits_though_its_text_comes_out_of_order() {
        let mut crowd = Crowd::new(1, [1; 3]);
        let begin = (1 << 32) - 2 * FULL as u64;
        let session = &mut crowd.sessions[0];
        (session.stage, session.received) = (Stage::Open, begin);
        let first = idsn(Version::V1, session.key).0.wrapping_add(1);
        for at in [3, 1, 2, 0] {
            let dsn = first.wrapping_add(begin).wrapping_add(at * FULL as u64);
            let full = WireSeq::Full(dsn);
            let dsn = if at == 2 { WireSeq::Low(dsn as u32) } else { full };
            let mapping = Mapping { dsn, ssn: 1, len: FULL as u16, checksum: None };
            crowd.take_text(0, &mapping, FULL as u32);
        }
        assert_eq!(crowd.delivered, 4 * FULL as u64);
        assert!(crowd.ahead.is_empty());
    }
}
