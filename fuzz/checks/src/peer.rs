//! The peer of a stack under test: it knows the keys, so that what it sends is taken for genuine, and
//! brings a connection into any state of RFC 9293, 8684 and 6824.

use crate::bench::{Bench, OURS, Out, PORT, Seg, THEIRS, at, config};
use core::net::SocketAddr;
use mptcp_core::config::{PathManagerKind, StackConfig};
use mptcp_core::mptcp::key::{self, KeyPair};
use mptcp_core::seq::DataSeq;
use mptcp_core::stack::Connect;
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MptcpOption, OptionWriter,
    TcpFlags, Version, WireSeq, checksum,
};

const KEY: u64 = 0x0102_0304_0506_0708;
const NONCE: u32 = 0x0a0b_0c0d;

/// What the connection under test speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    /// `None` for plain TCP.
    pub(crate) version: Option<Version>,
    pub(crate) checksum: bool,
}

/// Where it stands when the hostile segments come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Listening,
    HalfOpen,
    Established,
    Confirmed,
    HalfJoined,
    Joined,
    FellBack,
    PeerClosed,
    WeClosed,
    BothClosed,
    SynSent,
    Connected,
    ClientConfirmed,
}

impl Stage {
    pub(crate) const ALL: [Self; 13] = [
        Self::Listening,
        Self::HalfOpen,
        Self::Established,
        Self::Confirmed,
        Self::HalfJoined,
        Self::Joined,
        Self::FellBack,
        Self::PeerClosed,
        Self::WeClosed,
        Self::BothClosed,
        Self::SynSent,
        Self::Connected,
        Self::ClientConfirmed,
    ];

    const fn is_client(self) -> bool {
        matches!(self, Self::SynSent | Self::Connected | Self::ClientConfirmed)
    }
}

/// The peer's side of one TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) isn: u32,
    pub(crate) snd_nxt: u32,
    pub(crate) rcv_nxt: u32,
}

impl Flow {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let isn = 0xffff_f000_u32.wrapping_add(u32::from(peer.port()));
        Self { peer, local, isn, snd_nxt: isn, rcv_nxt: 0 }
    }

    /// A pure ACK at the present position.
    pub(crate) fn seg(&self) -> Seg {
        Seg {
            src: self.peer,
            dst: self.local,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: 60_000,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn syn(&self) -> Seg {
        let options = vec![2, 4, 5, 180, 4, 2];
        Seg { ack: 0, seq: self.isn, flags: TcpFlags::SYN, options, ..self.seg() }
    }

    /// The next segment acknowledges what is in order in `out`.
    pub(crate) fn hears(&mut self, out: &[Out]) {
        for packet in out.iter().filter(|o| o.src == self.local && o.dst == self.peer) {
            if packet.is(TcpFlags::SYN) {
                self.rcv_nxt = packet.seq.wrapping_add(1);
            } else if packet.seq == self.rcv_nxt && !packet.is(TcpFlags::RST) {
                let fin = u32::from(packet.is(TcpFlags::FIN));
                let len = u32::try_from(packet.payload.len()).expect("a packet");
                self.rcv_nxt = self.rcv_nxt.wrapping_add(len + fin);
            }
        }
    }

    /// Subflow sequence number of what comes next.
    pub(crate) const fn ssn(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.isn)
    }
}

/// Both keys, and how far the peer's stream has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) kind: Kind,
    pub(crate) stack: u64,
    /// Octets of the peer's stream mapped so far.
    pub(crate) sent: u64,
}

impl Keys {
    pub(crate) fn version(&self) -> Version {
        self.kind.version.unwrap_or(Version::V1)
    }

    pub(crate) const fn pair(&self) -> KeyPair {
        KeyPair { local: KEY, remote: self.stack }
    }

    pub(crate) fn token(&self) -> u32 {
        key::token(self.version(), self.stack)
    }

    /// DSN of octet `offset` of the peer's stream.
    pub(crate) fn dsn(&self, offset: u64) -> DataSeq {
        key::idsn(self.version(), KEY).add(1 + offset)
    }

    /// DSN of octet `offset` of the stack's stream.
    pub(crate) fn stack_dsn(&self, offset: u64) -> DataSeq {
        key::idsn(self.version(), self.stack).add(1 + offset)
    }

    /// The `DATA_ACK` of the stack's first `offset` octets.
    pub(crate) fn ack(&self, offset: u64) -> Dss {
        let data_ack = Some(WireSeq::Low(low(self.stack_dsn(offset))));
        Dss { data_ack, ..Dss::default() }
    }

    /// Maps `payload`, the octets from `offset` on, at `ssn`.
    pub(crate) fn map(&self, offset: u64, ssn: u32, payload: &[u8]) -> Dss {
        let len = u16::try_from(payload.len()).expect("a mapping");
        self.mapping(offset, ssn, len, checksum::sum(payload))
    }

    pub(crate) fn mapping(&self, offset: u64, ssn: u32, len: u16, sum: u16) -> Dss {
        let dsn = self.dsn(offset);
        let checksum = || checksum::dss_checksum(dsn, ssn, len, sum);
        let checksum = self.kind.checksum.then(checksum);
        let mapping = Some(Mapping { dsn: WireSeq::Full(dsn.0), ssn, len, checksum });
        Dss { mapping, ..Dss::default() }
    }

    /// The `DATA_FIN` on its own.
    pub(crate) fn fin(&self) -> Dss {
        Dss { data_fin: true, ..self.mapping(self.sent, 0, 1, 0) }
    }

    pub(crate) const fn capable(&self, form: CapableForm) -> MptcpOption<'static> {
        let flags = if self.kind.checksum { CapableFlags::CHECKSUM } else { CapableFlags::empty() };
        let version = match self.kind.version {
            Some(Version::V0) => 0,
            _ => 1,
        };
        let flags = flags.union(CapableFlags::HMAC);
        MptcpOption::Capable(MpCapable { version, flags, form })
    }

    /// The octets of `option`.
    pub(crate) fn encode(&self, option: &MptcpOption<'_>) -> Vec<u8> {
        let mut writer = OptionWriter::new();
        let _in_version = writer.push_mptcp(option, self.version());
        writer.as_bytes().to_vec()
    }

    pub(crate) fn with(&self, mut seg: Seg, option: &MptcpOption<'_>) -> Seg {
        if self.kind.version.is_some() {
            seg.options.extend(self.encode(option));
        }
        seg
    }

    pub(crate) fn dss(&self, seg: Seg, dss: Dss) -> Seg {
        self.with(seg, &MptcpOption::Dss(dss))
    }
}

pub(crate) const fn low(dsn: DataSeq) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let low = dsn.0 as u32;
    low
}

/// A connection of a stack, from the peer's end.
pub(crate) struct Peer {
    pub(crate) bench: Bench,
    pub(crate) keys: Keys,
    /// The flows there are or were, the first one first.
    pub(crate) flows: Vec<Flow>,
}

impl Peer {
    /// A connection in `stage`; on the way there every step must be taken.
    pub(crate) fn new(kind: Kind, stage: Stage) -> Self {
        let mut settings: StackConfig = config(&OURS);
        settings.tcp.timestamps = false;
        settings.mptcp.path_manager = PathManagerKind::Fullmesh;
        if stage.is_client() {
            settings.mptcp.versions = vec![kind.version.unwrap_or(Version::V1)];
        }
        let mut peer = Self {
            bench: Bench::new(settings),
            keys: Keys { kind, stack: 0, sent: 0 },
            flows: vec![Flow::new(at(THEIRS[0], 4000), at(OURS[0], PORT))],
        };
        if stage.is_client() {
            peer.connect(stage);
        } else {
            peer.bench.listen(true);
            peer.serve(stage);
        }
        peer
    }

    /// Sends and takes in the answers.
    pub(crate) fn send(&mut self, seg: &Seg) -> Vec<Out> {
        let out = self.bench.send(seg);
        self.hear(&out);
        out
    }

    pub(crate) fn hear(&mut self, out: &[Out]) {
        for flow in &mut self.flows {
            flow.hears(out);
        }
    }

    fn serve(&mut self, stage: Stage) {
        if stage == Stage::Listening {
            return;
        }
        self.open();
        match stage {
            Stage::HalfOpen => return,
            Stage::Established => return self.third_ack(),
            _ => {
                self.third_ack();
                self.confirm();
            }
        }
        match stage {
            Stage::HalfJoined => {
                self.join_syn(5000);
            }
            Stage::Joined => self.join(5000),
            Stage::FellBack => self.fall_back(),
            Stage::PeerClosed => self.fin(0),
            Stage::WeClosed => self.close_ours(),
            Stage::BothClosed => {
                self.close_ours();
                self.fin(1);
            }
            _ => {}
        }
    }

    fn open(&mut self) {
        let form = match self.keys.kind.version {
            Some(Version::V0) => CapableForm::Key(KEY),
            _ => CapableForm::Syn,
        };
        let syn = self.keys.with(self.flows[0].syn(), &self.keys.capable(form));
        let out = self.send(&syn);
        self.flows[0].snd_nxt = self.flows[0].isn.wrapping_add(1);
        self.learn_key(&out);
    }

    /// The stack's key from its SYN/ACK or third ACK.
    fn learn_key(&mut self, out: &[Out]) {
        let form = out.iter().flat_map(Out::mptcp).find_map(|option| match option {
            MptcpOption::Capable(capable) => Some(capable.form),
            _ => None,
        });
        self.keys.stack = match (self.keys.kind.version, form) {
            (None, None) => 0,
            (Some(_), Some(CapableForm::Key(key) | CapableForm::Keys { sender: key, .. })) => key,
            other => panic!("{other:?}"),
        };
    }

    fn third_ack(&mut self) {
        let form = CapableForm::Keys { sender: KEY, receiver: self.keys.stack };
        let ack = self.keys.with(self.flows[0].seg(), &self.keys.capable(form));
        self.send(&ack);
        assert_eq!(self.bench.sockets.len(), 1, "established");
    }

    /// Shows the stack that options arrive.
    fn confirm(&mut self) {
        let ack = self.keys.dss(self.flows[0].seg(), self.keys.ack(0));
        self.send(&ack);
    }

    /// A join's SYN from the other address; its flow is the last one.
    pub(crate) fn join_syn(&mut self, port: u16) -> Option<(u64, u32)> {
        let mut flow = Flow::new(at(THEIRS[1], port), at(OURS[1], PORT));
        let token = self.keys.token();
        let syn = MpJoin::Syn { backup: false, address_id: 2, token, nonce: NONCE };
        let syn = self.keys.with(flow.syn(), &MptcpOption::Join(syn));
        flow.snd_nxt = flow.isn.wrapping_add(1);
        self.flows.push(flow);
        let out = self.send(&syn);
        out.iter().flat_map(Out::mptcp).find_map(|option| match option {
            MptcpOption::Join(MpJoin::SynAck { hmac, nonce, .. }) => Some((hmac, nonce)),
            _ => None,
        })
    }

    /// A whole join, if the stack takes part.
    pub(crate) fn join(&mut self, port: u16) {
        let Some((theirs, nonce)) = self.join_syn(port) else { return };
        let (pair, version) = (self.keys.pair(), self.keys.version());
        let expected = pair.expected_join_hmac(version, NONCE, nonce).truncated64();
        assert_eq!(theirs, expected, "the stack's HMAC");
        let hmac = pair.sent_join_hmac(version, NONCE, nonce).full();
        let last = self.flows.last().expect("it was just added").seg();
        let ack = self.keys.with(last, &MptcpOption::Join(MpJoin::Ack { hmac }));
        self.send(&ack);
    }

    fn fall_back(&mut self) {
        let seg = Seg { payload: vec![crate::bench::octet(0)], ..self.flows[0].seg() };
        self.send(&seg);
        self.flows[0].snd_nxt = self.flows[0].snd_nxt.wrapping_add(1);
        self.keys.sent += 1;
        // Unmapped data means fallback once no mapping came for a while.
        let out = self.bench.advance(mptcp_core::time::Duration::from_secs(2));
        self.hear(&out);
    }

    /// The peer's stream ends, on both levels; it has heard of this much of ours.
    fn fin(&mut self, ours: u64) {
        let ack = self.keys.ack(ours);
        let fin = Dss { data_ack: ack.data_ack, ..self.keys.fin() };
        let seg = self.keys.dss(self.flows[0].seg(), fin);
        self.send(&seg);
        let mut seg = self.keys.dss(self.flows[0].seg(), ack);
        seg.flags |= TcpFlags::FIN;
        self.send(&seg);
        self.flows[0].snd_nxt = self.flows[0].snd_nxt.wrapping_add(1);
        let seg = self.flows[0].seg();
        self.send(&seg);
    }

    fn close_ours(&mut self) {
        self.bench.stack.shutdown_write(self.bench.now, self.bench.sockets[0]);
        let out = self.bench.settle();
        self.hear(&out);
    }

    fn connect(&mut self, stage: Stage) {
        let with = Connect {
            local: OURS[0],
            local_port: 0,
            remote: at(THEIRS[0], PORT),
            mptcp: self.keys.kind.version.is_some(),
            timeout: None,
            user_data: 0,
        };
        let id = self.bench.stack.connect(self.bench.now, &with).expect("room");
        self.bench.sockets.push(id);
        let out = self.bench.settle();
        let [syn] = out.as_slice() else { panic!("one SYN, {}", out.len()) };
        self.flows = vec![Flow::new(syn.dst, syn.src)];
        self.hear(&out);
        if stage == Stage::SynSent {
            return;
        }
        let mut seg =
            self.keys.with(self.flows[0].syn(), &self.keys.capable(CapableForm::Key(KEY)));
        (seg.ack, seg.flags) = (self.flows[0].rcv_nxt, TcpFlags::SYN | TcpFlags::ACK);
        self.flows[0].snd_nxt = self.flows[0].isn.wrapping_add(1);
        let out = self.send(&seg);
        self.learn_key(&out);
        if stage == Stage::ClientConfirmed {
            self.confirm();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_core::tcp::State;

    fn kinds() -> impl Iterator<Item = Kind> {
        [None, Some(Version::V0), Some(Version::V1)]
            .into_iter()
            .flat_map(|version| [false, true].map(|checksum| Kind { version, checksum }))
    }

    /// A stage that is not reached would be fuzzed as another one.
    #[test]
    fn every_stage_is_reached() {
        for kind in kinds() {
            for stage in Stage::ALL {
                let peer = Peer::new(kind, stage);
                let tables = peer.bench.tables();
                let info = peer.bench.sockets.first().and_then(|id| peer.bench.stack.info(*id));
                let subflows = info.as_ref().map_or(0, |info| info.subflows.len());
                let mptcp = kind.version.is_some();
                let version = info.as_ref().and_then(|info| info.mptcp);
                let expected = match kind.version {
                    None => None,
                    Some(Version::V0) => Some(0),
                    Some(Version::V1) => Some(1),
                };
                let context = format!("{kind:?} {stage:?}: {tables:?} {info:?}");
                match stage {
                    Stage::Listening => assert_eq!((tables.tcbs, tables.requests), (0, 0)),
                    Stage::HalfOpen => assert_eq!(tables.requests, 1, "{context}"),
                    Stage::Established | Stage::Confirmed | Stage::Connected => {
                        assert_eq!((subflows, version), (1, expected), "{context}");
                    }
                    Stage::HalfJoined => assert_eq!(tables.requests, u32::from(mptcp), "{context}"),
                    Stage::Joined => assert_eq!(subflows, 1 + usize::from(mptcp), "{context}"),
                    Stage::FellBack => assert_eq!(version, None, "{context}"),
                    Stage::PeerClosed => {
                        let state = info.as_ref().map(|info| info.subflows[0].state);
                        assert_eq!(state, Some(State::CloseWait), "{context}");
                    }
                    Stage::WeClosed => assert_eq!((tables.tcbs, subflows), (1, 1), "{context}"),
                    Stage::BothClosed => assert_eq!(tables.time_waits, 1, "{context}"),
                    Stage::SynSent => assert_eq!(tables.tcbs, 1, "{context}"),
                    Stage::ClientConfirmed => {
                        assert_eq!(tables.tcbs, 1 + u32::from(mptcp), "{context}");
                    }
                }
                peer.bench.finish();
            }
        }
    }
}
