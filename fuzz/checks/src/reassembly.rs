//! Data in any order, in any pieces, under any mappings, on one or two subflows: what the application
//! reads is the stream, and what is acknowledged is what arrived (RFC 9293 §3.10.7.4, RFC 2018,
//! RFC 8684 §3.3).

use crate::bench::{Out, Seg, octet, stream};
use crate::input::Input;
use crate::peer::{Kind, Peer, Stage};
use mptcp_core::error::RecvError;
use mptcp_core::time::Duration;
use mptcp_core::wire::{Dss, MptcpOption, TcpFlags, TcpOption, Version, WireSeq, checksum};
use std::collections::BTreeSet;

const MAX_STEPS: usize = 80;
/// Octets of the stream that are sent: less than the window.
const SPACE: u64 = 12_000;
/// Octets of a segment at most.
const MSS: usize = 1_400;

/// A run of the subflow's octets that one mapping covers.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Octets of the subflow before it.
    at: usize,
    /// Its place in the stream.
    offset: u64,
    len: usize,
}

/// One subflow as its sender sees it.
#[derive(Default)]
struct Sent {
    chunks: Vec<Chunk>,
    payload: Vec<u8>,
    arrived: BTreeSet<usize>,
    acked: usize,
    /// The stack reset it: octets were acknowledged whose mapping was lost.
    reset: bool,
}

struct Sender {
    peer: Peer,
    flows: Vec<Sent>,
    arrived: BTreeSet<u64>,
    acked: u64,
    read: u64,
}

/// Takes `data` as a kind of connection and as segments in some order.
pub fn reassembly(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = Kind {
        version: input.one_of(&[Some(Version::V1), Some(Version::V0), None]),
        checksum: input.u8() & 1 != 0,
    };
    let peer =
        Peer::new(kind, if kind.version.is_some() { Stage::Joined } else { Stage::Confirmed });
    let flows = peer.flows.iter().map(|_| Sent::default()).collect();
    let mut sender = Sender { peer, flows, arrived: BTreeSet::new(), acked: 0, read: 0 };
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        sender.step(&mut input);
    }
    sender.complete();
    sender.peer.bench.finish();
}

impl Sender {
    fn step(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.u8()) % self.flows.len();
        match input.u8() {
            0..80 => {
                let len = 1 + usize::try_from(input.below(3_000)).expect("small");
                let offset = match self.peer.keys.kind.version {
                    // The next octets of the stream, from the other subflow too, or any.
                    Some(_) if input.u8() & 1 == 0 => u64::from(input.u16()) % SPACE,
                    _ => self.flows[which].payload.len() as u64,
                };
                self.extend(which, offset, len);
            }
            80..200 => {
                let sent = self.flows[which].payload.len();
                if sent > 0 {
                    let start = usize::from(input.u16()) % sent;
                    let len = usize::from(input.u16()) % MSS;
                    let mapped = input.u8() & 3 != 0;
                    self.send(which, start, len, mapped);
                }
            }
            200..230 => {
                self.read(usize::from(input.u16() % 4_096));
                let out = self.peer.bench.settle();
                self.hear(&out);
            }
            _ => {
                let out = self.peer.bench.advance(Duration::from_millis(u64::from(input.u8())));
                self.hear(&out);
            }
        }
    }

    /// The subflow carries `len` more octets, which are those of the stream from `offset` on.
    fn extend(&mut self, which: usize, offset: u64, len: usize) {
        let len = len.min(usize::try_from(SPACE.saturating_sub(offset)).expect("small"));
        let sent = &mut self.flows[which];
        // Within the window of the subflow, whatever is unread.
        if len == 0 || sent.payload.len() + len - sent.acked > 16_000 {
            return;
        }
        sent.chunks.push(Chunk { at: sent.payload.len(), offset, len });
        sent.payload.extend(stream(offset, len));
    }

    /// Sends octets of one mapping, from `start` on.
    fn send(&mut self, which: usize, start: usize, len: usize, mapped: bool) {
        let sent = &mut self.flows[which];
        if sent.reset {
            return;
        }
        let chunk = sent.chunks.iter().find(|c| (c.at..c.at + c.len).contains(&start));
        let Some(&chunk) = chunk else { return };
        let end = (start + len.clamp(1, MSS)).min(chunk.at + chunk.len);
        let payload = sent.payload[start..end].to_vec();
        sent.arrived.extend(start..end);
        let first = chunk.offset + (start - chunk.at) as u64;
        self.arrived.extend(first..first + payload.len() as u64);
        let flow = &self.peer.flows[which];
        let ssn = flow.ssn() + u32::try_from(chunk.at).expect("small");
        let whole = &self.flows[which].payload[chunk.at..chunk.at + chunk.len];
        let len = u16::try_from(chunk.len).expect("small");
        let map = self.peer.keys.mapping(chunk.offset, ssn, len, checksum::sum(whole));
        let seq = flow.snd_nxt.wrapping_add(u32::try_from(start).expect("small"));
        let mut seg = Seg { seq, payload, ..flow.seg() };
        if mapped {
            seg = self.peer.keys.dss(seg, map);
        }
        let out = self.peer.send(&seg);
        self.hear(&out);
    }

    /// Judges what the stack acknowledges: nothing that did not arrive.
    fn hear(&mut self, out: &[Out]) {
        for packet in out {
            self.peer.hear(core::slice::from_ref(packet));
            let flow = self.peer.flows.iter().position(|f| f.peer == packet.dst);
            let Some(which) = flow else { continue };
            self.flows[which].reset |= packet.flags.contains(TcpFlags::RST);
            // Plain TCP has no mapping that could be lost.
            let plain = self.peer.keys.kind.version.is_none();
            assert!(!plain || !self.flows[which].reset, "nothing calls for a RST");
            // A RST that answers what nobody knows acknowledges nothing.
            if !packet.flags.contains(TcpFlags::ACK) {
                continue;
            }
            let flow = &self.peer.flows[which];
            let place = |seq: u32| seq.wrapping_sub(flow.snd_nxt) as usize;
            let sent = &mut self.flows[which];
            let acked = place(packet.ack);
            assert!(
                acked >= sent.acked && (sent.acked..acked).all(|at| sent.arrived.contains(&at)),
                "{acked} acknowledged after {}",
                sent.acked
            );
            sent.acked = acked;
            for option in packet.tcp_options() {
                let TcpOption::Sack(blocks) = option else { continue };
                for (start, end) in blocks.iter() {
                    let range = place(start.0)..place(end.0);
                    assert!(!range.is_empty() && range.end <= sent.payload.len(), "{range:?}");
                    let whole = sent.arrived.range(range.clone()).count() == range.len();
                    assert!(whole, "SACK {range:?}");
                }
            }
            let acked = packet.mptcp().find_map(|option| match option {
                MptcpOption::Dss(Dss { data_ack: Some(ack), .. }) => Some(ack),
                _ => None,
            });
            if let Some(ack) = acked {
                let first = self.peer.keys.dsn(0);
                let octets = match ack {
                    WireSeq::Full(full) => full.wrapping_sub(first.0),
                    WireSeq::Low(low) => u64::from(low.wrapping_sub(crate::peer::low(first))),
                };
                let whole = (self.acked..octets).all(|at| self.arrived.contains(&at));
                assert!(octets <= SPACE && whole, "DATA_ACK {octets}");
                self.acked = self.acked.max(octets);
            }
        }
    }

    fn read(&mut self, most: usize) -> usize {
        let id = self.peer.bench.sockets[0];
        let mut into = vec![0; most.max(1)];
        match self.peer.bench.stack.recv(self.peer.bench.now, id, &mut into) {
            Ok(count) => {
                for got in &into[..count] {
                    assert_eq!(*got, octet(self.read), "octet {}", self.read);
                    assert!(self.arrived.contains(&self.read), "octet {} of nowhere", self.read);
                    self.read += 1;
                }
                count
            }
            Err(RecvError::WouldBlock) => 0,
            Err(error) => panic!("{error:?} after {} octets", self.read),
        }
    }

    /// Sends what was sent, what was not, and all of it again, until everything is acknowledged: the
    /// whole stream can be read then, if a subflow is left.
    fn complete(&mut self) {
        // Until what was sent is acknowledged there may be no room for more.
        self.repeat();
        // Once more for each subflow that is reset with what it has.
        let missing = (0..SPACE).step_by(3_000);
        for offset in missing.clone().chain(missing) {
            let Some(left) = self.flows.iter().position(|flow| !flow.reset) else { return };
            if self.peer.keys.kind.version.is_none() {
                let sent = self.flows[0].payload.len() as u64;
                self.extend(0, sent, 3_000);
            } else {
                self.extend(left, offset, 3_000);
            }
            self.repeat();
        }
        self.repeat();
        while self.read(4_096) > 0 {}
        let left = self.flows.iter().any(|flow| !flow.reset);
        assert!(self.read == SPACE || !left, "{} octets of the stream are here", self.read);
    }

    fn repeat(&mut self) {
        for which in 0..self.flows.len() {
            for _ in 0..3 {
                let mut start = self.flows[which].acked;
                while start < self.flows[which].payload.len() {
                    let before = start;
                    self.send(which, start, MSS, true);
                    let chunk = self.flows[which].chunks.iter().find(|c| c.at + c.len > before);
                    let end = chunk.map_or(before + MSS, |chunk| chunk.at + chunk.len);
                    start = (before + MSS).min(end);
                }
                while self.read(4_096) > 0 {}
                let out = self.peer.bench.advance(Duration::from_millis(50));
                self.hear(&out);
            }
            let sent = &self.flows[which];
            let whole = sent.acked == sent.payload.len();
            assert!(whole || sent.reset, "flow {which} is acknowledged up to {}", sent.acked);
        }
    }
}
