//! What a slower path carries ahead of its turn, and what a peer may do meanwhile: octets behind others that
//! were never sent are on their way, acknowledged by TCP, lost, thrown away or reset (RFC 8684 §3.3.5 to §3.7).

use crate::harness::*;
use mptcp_core::buf::{HeapPool, HeapTxQueue};
use mptcp_core::config::{CongestionAlgorithm, MtuProbing};
use mptcp_core::stack::SocketId;
use mptcp_core::time::Duration;
use mptcp_core::wire::{
    CapableFlags, IpHeader, MpJoin, MptcpOption, TcpFlags, TcpSegment, Version,
};
use std::collections::BTreeMap;

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);
/// One way on the two paths, milliseconds.
const DELAYS: [u64; 2] = [5, 40];
const FAST: usize = 0;
const SLOW: usize = 1;
/// Octets per millisecond that each path carries.
const RATES: [u64; 2] = [1_500, 1_000];
/// The scale of the peer's windows.
const SCALE: [u8; 3] = [3, 3, 7];

/// Ranges by their start, none of which touch.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        let touching: Vec<_> =
            self.0.range(..=end).filter(|(_, e)| **e >= start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in touching {
            self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.0.insert(start, end);
    }

    /// End of what begins at 0.
    fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }
}

/// What the peer does with the text of a segment that begins at this octet of the stream.
type Fate = fn(&Peer, usize, u64) -> bool;

/// A peer with two paths that acknowledges whatever arrives.
struct Peer {
    script: Script,
    keys: Keys,
    id: SocketId,
    flows: [Option<Flow>; 2],
    /// When each path has carried what it was given.
    free_at: [u64; 2],
    to_peer: Vec<(u64, usize, Out)>,
    to_stack: Vec<(u64, usize, Seg)>,
    now: u64,
    written: u64,
    total: u64,
    sent: Ranges,
    got: Ranges,
    /// Segments that were sent ahead of their turn.
    ahead: u64,
    fin: bool,
    /// The right edge that was promised, and how far beyond what it has the peer lets it go.
    edge: u64,
    window: u64,
    takes: Fate,
    resets: usize,
}

impl Peer {
    fn new(v: Version, flags: CapableFlags, seed: u16, window: u64) -> Self {
        let mut script = Script::server_with(v, |c| {
            c.seed[..2].copy_from_slice(&seed.to_be_bytes());
            c.tcp.mtu_probing = MtuProbing::Off;
            c.tcp.congestion = CongestionAlgorithm::Bbr;
            c.tcp.pacing = true;
        });
        let mut flow = Flow::new(at(P1, 40_000), at(A1, PORT));
        flow.window = (window >> 7) as u16;
        let syn = flow.syn().raw(&SCALE).opt(&offer(v, flags)).window(60_000);
        let out = script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let keys = Keys::of(v, &out[0], flags == SUM);
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        Self {
            script,
            keys,
            id,
            flows: [Some(flow), None],
            free_at: [0; 2],
            to_peer: Vec::new(),
            to_stack: Vec::new(),
            now: 0,
            written: 0,
            total: 0,
            sent: Ranges::default(),
            got: Ranges::default(),
            ahead: 0,
            fin: false,
            edge: window,
            window,
            takes: |_, _, _| true,
            resets: 0,
        }
    }

    fn join(&mut self, from: u16) {
        let mut flow = Flow::new(at(P2, from), at(A1, PORT));
        flow.window = (self.window >> 7) as u16;
        let token = self.keys.stack_token();
        let syn = MpJoin::Syn { backup: false, address_id: 2, token, nonce: NONCE };
        let syn = flow.syn().raw(&SCALE).opt(&MptcpOption::Join(syn)).window(60_000);
        let out = self.script.send(&flow, &syn);
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let ack = Script::join_ack(&self.keys, flow.of(&out)[0]);
        self.take_in(out);
        // The round trip of the handshake is that of the path.
        self.steps(2 * DELAYS[SLOW]);
        let out = self.script.send(&flow, &flow.seg().opt(&ack));
        self.flows[SLOW] = Some(flow);
        self.take_in(out);
    }

    fn take_in(&mut self, out: Vec<Out>) {
        for packet in out {
            let Some(at) =
                (0..2).find(|at| self.flows[*at].as_ref().is_some_and(|f| f.peer == packet.dst))
            else {
                continue;
            };
            if packet.rst() {
                self.resets += 1;
                self.flows[at] = None;
                continue;
            }
            if let Some(start) = self.offset(at, &packet) {
                let end = start + packet.payload.len() as u64;
                assert!(packet.payload == stream(start, packet.payload.len()), "{packet:?}");
                assert!(end <= self.edge, "beyond the window: {end}, {}", self.edge);
                self.ahead += u64::from(start > self.sent.prefix());
                self.sent.insert(start, end);
            }
            let len = 40 + packet.options.len() + packet.payload.len();
            let begins = self.free_at[at].max(self.now * RATES[at]);
            self.free_at[at] = begins + len as u64;
            self.to_peer.push((self.free_at[at] / RATES[at] + DELAYS[at], at, packet));
        }
    }

    /// Where the text of a packet is in the stream.
    fn offset(&self, at: usize, packet: &Out) -> Option<u64> {
        let flow = self.flows[at].as_ref().filter(|_| !packet.payload.is_empty())?;
        let mapping = packet.mapping().expect("all text is mapped");
        let low = match mapping.dsn {
            mptcp_core::wire::WireSeq::Full(dsn) => dsn as u32,
            mptcp_core::wire::WireSeq::Low(dsn) => dsn,
        };
        let ssn = packet.seq.wrapping_sub(flow.stack_isn);
        let inside = ssn.wrapping_sub(mapping.ssn);
        assert!(inside as usize + packet.payload.len() <= usize::from(mapping.len), "{packet:?}");
        Some(u64::from(low.wrapping_sub(self.keys.stack_dsn(0).0 as u32).wrapping_add(inside)))
    }

    fn arrives(&mut self, at: usize, packet: &Out) {
        let offset = self.offset(at, packet);
        let takes = offset.is_some_and(|offset| (self.takes)(self, at, offset));
        let Some(flow) = &mut self.flows[at] else { return };
        flow.hears(core::slice::from_ref(packet));
        if let Some(start) = offset.filter(|_| takes) {
            self.got.insert(start, start + packet.payload.len() as u64);
        }
        self.fin |= packet.data_fin();
        if !packet.payload.is_empty() || packet.data_fin() || packet.is(TcpFlags::FIN) {
            self.acknowledge(at);
        }
    }

    /// What the peer's data level has.
    fn acked(&self) -> u64 {
        let prefix = self.got.prefix();
        prefix + u64::from(self.fin && prefix == self.total)
    }

    fn acknowledge(&mut self, at: usize) {
        let (acked, prefix) = (self.acked(), self.got.prefix());
        self.edge = self.edge.max(prefix + self.window);
        let window = (self.edge - prefix) >> 7;
        if let Some(flow) = &self.flows[at] {
            let seg = flow.seg().dss(self.keys.ack(acked)).window(window as u16);
            self.to_stack.push((self.now + DELAYS[at], at, seg));
        }
    }

    fn write(&mut self) {
        while self.written < self.total {
            let len = (self.total - self.written).min(16_384) as usize;
            let data = stream(self.written, len);
            match self.script.stack.send(self.script.now, self.id, &data) {
                Ok(sent) => self.written += sent as u64,
                Err(_) => return,
            }
        }
    }

    /// One millisecond.
    fn step(&mut self) {
        self.write();
        let out = self.script.out();
        self.take_in(out);
        let out = self.script.advance(1);
        self.now += 1;
        self.take_in(out);
        let now = self.now;
        for (_, at, packet) in self.to_peer.extract_if(.., |p| p.0 <= now).collect::<Vec<_>>() {
            self.arrives(at, &packet);
        }
        for (_, at, seg) in self.to_stack.extract_if(.., |s| s.0 <= now).collect::<Vec<_>>() {
            if let Some(flow) = self.flows[at].clone() {
                let out = self.script.send(&flow, &seg);
                self.take_in(out);
            }
        }
    }

    fn steps(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// Everything arrives, and the end of it, within `ms`.
    fn ends_within(&mut self, ms: u64) {
        self.script.stack.shutdown_write(self.script.now, self.id);
        self.total = self.total.min(self.written);
        let until = self.now + ms;
        while self.acked() <= self.total {
            assert!(self.now < until, "{} of {} after {ms} ms", self.got.prefix(), self.total);
            self.step();
        }
        // The stack learns of that.
        self.steps(2 * DELAYS[SLOW]);
        assert_eq!(self.script.fallback(self.id), None);
    }

    /// Both paths carry the stream, the slower one ahead of its turn.
    fn running(v: Version, flags: CapableFlags, seed: u16, window: u64) -> Self {
        let mut peer = Self::new(v, flags, seed, window);
        peer.total = 8_000_000;
        peer.steps(60);
        peer.join(41_000);
        peer.steps(1_000);
        let before = peer.ahead;
        peer.steps(100);
        assert!(peer.ahead > before, "nothing ahead: {} of {}", peer.ahead, peer.sent.prefix());
        peer
    }

    /// Writes no more than is written.
    fn stop(&mut self) {
        self.total = self.written;
    }

    /// A RST on a path, with the options given.
    fn reset(&mut self, at: usize, option: Option<MptcpOption<'_>>) {
        let flow = self.flows[at].take().expect("a subflow");
        let mut seg = flow.seg().flags(TcpFlags::RST | TcpFlags::ACK);
        if let Some(option) = option {
            seg = seg.opt(&option);
        }
        let out = self.script.send(&flow, &seg);
        self.take_in(out);
    }
}

fn all(script: impl Fn(Version, CapableFlags)) {
    both(|v| [CapableFlags::HMAC, SUM].into_iter().for_each(|flags| script(v, flags)));
}

#[test]
fn what_goes_ahead_arrives_and_so_does_the_end() {
    all(|v, flags| {
        let mut peer = Peer::running(v, flags, 7, 1 << 20);
        peer.stop();
        peer.ends_within(600);
        assert_eq!(peer.script.counters().mptcp_retrans, 0);
    });
}

/// Numbers of 32 bits wrap while some go ahead.
#[test]
fn narrow_numbers_wrap_while_some_go_ahead() {
    both(|v| {
        // A key of ours whose stream comes to the end of 32 bits soon.
        let near = |seed: &u16| {
            let peer = Peer::new(v, CapableFlags::HMAC, *seed, 1 << 20);
            let left = u32::MAX - peer.keys.stack_dsn(0).0 as u32;
            (3_000_000..20_000_000).contains(&left)
        };
        let seed = (0..5_000).find(near).expect("one in 250");
        let mut peer = Peer::running(v, CapableFlags::HMAC, seed, 1 << 20);
        let left = u64::from(u32::MAX - peer.keys.stack_dsn(0).0 as u32);
        peer.total = left + 2_000_000;
        while peer.got.prefix() < left + 1_000_000 {
            assert!(peer.now < 60_000, "{} of {left}", peer.got.prefix());
            peer.step();
        }
        peer.stop();
        peer.ends_within(600);
        assert_eq!(peer.script.counters().mptcp_retrans, 0);
    });
}

/// What TCP acknowledged on a path that is gone, and the data level has not, is ahead of what was sent last.
#[test]
fn a_reset_of_the_slower_path_loses_nothing() {
    all(|v, flags| {
        for lies in [false, true] {
            let mut peer = Peer::running(v, flags, 7, 1 << 20);
            if lies {
                // All of the last 60 ms was acknowledged and thrown away.
                peer.takes = |_, at, _| at == FAST;
                peer.steps(60);
                peer.takes = |_, _, _| true;
            }
            peer.reset(SLOW, None);
            peer.stop();
            peer.ends_within(1_000);
        }
    });
}

/// The same with an `MP_FAIL`: what follows its number on that subflow is gone.
#[test]
fn an_mp_fail_on_the_slower_path_loses_nothing() {
    both(|v| {
        let mut peer = Peer::running(v, SUM, 7, 1 << 20);
        peer.takes = |_, at, _| at == FAST;
        peer.steps(60);
        peer.takes = |_, _, _| true;
        let dsn = peer.keys.stack_dsn(peer.got.prefix()).0;
        peer.reset(SLOW, Some(MptcpOption::Fail { dsn }));
        peer.stop();
        peer.ends_within(1_000);
    });
}

/// An `MP_FAIL` without a RST, or an infinite mapping: with holes in the stream there is no plain TCP.
#[test]
fn nobody_falls_back_with_octets_ahead() {
    both(|v| {
        for infinite in [false, true] {
            let mut peer = Peer::running(v, SUM, 7, 1 << 20);
            let flow = peer.flows[FAST].clone().expect("a subflow");
            let seg = if infinite {
                flow.seg().dss(peer.keys.map(0, 1, 0))
            } else {
                let dsn = peer.keys.stack_dsn(peer.got.prefix()).0;
                flow.seg().opt(&MptcpOption::Fail { dsn })
            };
            let out = peer.script.send(&flow, &seg);
            peer.take_in(out);
            assert_eq!(peer.resets, 1);
            peer.stop();
            peer.ends_within(1_500);
        }
    });
}

/// The faster path is reset: all that was in its gaps goes by the slower one.
#[test]
fn a_reset_of_the_faster_path_loses_nothing() {
    all(|v, flags| {
        let mut peer = Peer::running(v, flags, 7, 1 << 20);
        peer.reset(FAST, None);
        peer.stop();
        peer.ends_within(1_500);
    });
}

/// A peer that stops reading: its edge stays where it is, and nothing goes beyond.
#[test]
fn a_window_that_shuts_with_octets_ahead_opens_again() {
    all(|v, flags| {
        let mut peer = Peer::running(v, flags, 7, 1 << 20);
        peer.window = 0;
        peer.steps(2_000);
        assert!(peer.got.prefix() + 1_460 > peer.edge, "what was promised is used");
        peer.window = 1 << 20;
        peer.acknowledge(SLOW);
        peer.stop();
        peer.ends_within(700);
    });
}

/// The slower path takes everything and delivers nothing of what went ahead, for a while.
#[test]
fn octets_ahead_that_are_thrown_away_are_sent_again() {
    all(|v, flags| {
        let mut peer = Peer::running(v, flags, 7, 1 << 20);
        peer.takes = |_, at, _| at == FAST;
        peer.steps(100);
        peer.takes = |_, _, _| true;
        peer.stop();
        peer.ends_within(1_000);
    });
}

/// Closed, or given up, with octets ahead: nothing is left behind (the script looks).
#[test]
fn an_end_with_octets_ahead_leaves_nothing() {
    both(|v| {
        let mut peer = Peer::running(v, CapableFlags::HMAC, 7, 1 << 20);
        peer.script.stack.abort(peer.script.now, peer.id);
        peer.script.forget(peer.id);
        let mut peer = Peer::running(v, CapableFlags::HMAC, 7, 1 << 20);
        peer.script.stack.close(peer.script.now, peer.id);
        peer.script.forget(peer.id);
        peer.stop();
        let until = peer.now + 3_000;
        while peer.acked() <= peer.total {
            assert!(peer.now < until, "{} of {}", peer.got.prefix(), peer.total);
            peer.step();
        }
    });
}

/// The faster path's own window has no room for a whole segment of its own, a long one, but for what is left in front
/// of eight short ones that went ahead: that goes by it at once.
#[test]
fn what_is_left_in_front_of_what_went_ahead_is_looked_at_anew() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            c.tcp.mtu_probing = MtuProbing::Off;
            c.addresses[0].mtu = 9_000;
        });
        let (whole, short) = if v == Version::V0 { (8_940, 516) } else { (8_936, 512) };
        let pass = |script: &mut Script, us| script.now = script.now + Duration::from_micros(us);
        let syn = |flow: &Flow, mss: u16| {
            let [high, low] = mss.to_be_bytes();
            let syn = flow.seg().seq(flow.isn).acks(0).flags(TcpFlags::SYN);
            syn.raw(&[2, 4, high, low, 4, 2])
        };
        let mut flow = Flow::new(at(P1, 40_000), at(A1, PORT));
        let out = script.send(&flow, &syn(&flow, 8_960).opt(&offer(v, CapableFlags::HMAC)));
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        let keys = Keys::of(v, &out[0], false);
        pass(&mut script, 10_000);
        flow.window = whole + 5_000;
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        script.send(&flow, &flow.seg().dss(keys.ack(0)));

        let mut join = Flow::new(at(P2, 41_000), at(A1, PORT));
        let token = keys.stack_token();
        let option = MpJoin::Syn { backup: false, address_id: 2, token, nonce: NONCE };
        let out = script.send(&join, &syn(&join, 536).opt(&MptcpOption::Join(option)));
        join.hears(&out);
        join.snd_nxt = join.isn.wrapping_add(1);
        pass(&mut script, 14_810);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        script.send(&join, &join.seg().opt(&ack));
        script.send(&join, &join.seg().dss(keys.ack(0)));

        assert_eq!(script.stack.send(script.now, id, &stream(0, 200_000)), Ok(200_000));
        let mut tx = HeapTxQueue::new(64, HeapPool::new(64, 10_000));
        let _more = script.stack.poll_transmit(script.now, &mut tx);
        let mut sent = [Vec::new(), Vec::new()];
        while let Some(packet) = tx.pop() {
            let bytes = packet.to_vec();
            let ip = IpHeader::parse(&bytes).expect("an IP packet");
            let tcp = TcpSegment::parse(&bytes[ip.header_len..]).expect("a TCP segment");
            sent[usize::from(tcp.dst_port == join.peer.port())].push(tcp.payload.len());
        }
        // One in its turn, as nothing has been sent there, and what goes ahead.
        assert_eq!(sent[SLOW][..9], [short; 9], "{sent:?}");
        assert_eq!(sent[FAST], [usize::from(whole), 8 * short], "{sent:?}");
    });
}
