//! A performance-enhancing proxy that acknowledges data before its receiver has it and repairs what is
//! lost behind it by itself (RFC 3135, RFC 8684 §6). It knows nothing of MPTCP: its acknowledgements
//! carry no `DATA_ACK`. The invariant: with repair on, what it acknowledged it holds until the receiver
//! acknowledged it, too.

use super::editor::ports;
use super::rewrite::{MPTCP, SACK, add_u32, read_u32, tcp_of};
use super::{Middlebox, Output};
use crate::Direction;
use crate::packet::edit::{self, TcpLayout};
use crate::packet::flag;
use std::collections::{BTreeMap, VecDeque};

const TIMESTAMPS: u8 = 8;
/// Its acknowledgement comes this much later, in nanoseconds.
const ANSWER: u64 = 1_000_000;
/// First repetition of what the receiver did not acknowledge; the next ones after twice as long each.
const RETRY: u64 = 200_000_000;
/// Then it gives the flow up.
const RETRIES: u32 = 10;

/// Acknowledges the data of one direction. Flows are told apart by their ports.
#[derive(Clone, Debug)]
pub struct ProactiveAcker {
    dir: Direction,
    after: u64,
    repairs: bool,
    flows: BTreeMap<[u16; 2], Flow>,
    /// What leaves when: the flow, the data it answers.
    answers: VecDeque<(u64, [u16; 2], Vec<u8>)>,
    promised: u64,
    repaired: u64,
}

/// One stream; sequence numbers as its sender uses them.
#[derive(Clone, Debug)]
struct Flow {
    segments: u64,
    /// What the receiver acknowledged, and what was acknowledged for it.
    received: u32,
    promised: u32,
    /// Shift of the windows that the receiver offers.
    shift: u8,
    /// The receiver's newest segment without its payload: what an acknowledgement of its looks like.
    pattern: Option<Vec<u8>>,
    /// What the receiver may still lack, by distance from its SYN.
    copies: BTreeMap<u32, Vec<u8>>,
    /// The sender's newest acknowledgement, and its newest timestamp.
    acks: u32,
    stamp: Option<u32>,
    duplicates: u32,
    /// Until the receiver has this, each of its acknowledgements shows the next hole.
    recover: u32,
    retry_at: u64,
    retries: u32,
    syn: u32,
}

impl ProactiveAcker {
    /// Begins with each flow that runs in `dir` after so many segments with payload.
    #[must_use]
    pub const fn new(dir: Direction, after: u64) -> Self {
        Self {
            dir,
            after,
            repairs: true,
            flows: BTreeMap::new(),
            answers: VecDeque::new(),
            promised: 0,
            repaired: 0,
        }
    }

    /// Forgets what it acknowledged: a proxy that breaks its promise.
    #[must_use]
    pub const fn without_repair(mut self) -> Self {
        self.repairs = false;
        self
    }

    /// Acknowledgements of its own so far.
    #[must_use]
    pub const fn promised(&self) -> u64 {
        self.promised
    }

    /// Segments it sent again so far.
    #[must_use]
    pub const fn repaired(&self) -> u64 {
        self.repaired
    }

    /// A segment of the sender's.
    fn forward(&mut self, now: u64, packet: &[u8], tcp: TcpLayout) {
        let key = ports(packet, tcp, false);
        let flags = tcp.flags(packet);
        let seq = read_u32(packet, tcp.header + 4);
        if flags & flag::RST != 0 {
            self.flows.remove(&key);
            return;
        }
        if flags & flag::SYN != 0 {
            if self.flows.get(&key).is_none_or(|flow| flow.syn != seq) {
                self.flows.insert(key, Flow::new(seq));
            }
            return;
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.acks = read_u32(packet, tcp.header + 8);
        let newer = |stamp: &u32| flow.stamp.is_none_or(|old| stamp.wrapping_sub(old) < 1 << 31);
        flow.stamp = timestamp(packet, tcp).filter(newer).or(flow.stamp);
        let payload = packet.len() - tcp.payload;
        let beyond = seq.wrapping_sub(flow.received) < 1 << 31;
        if payload == 0 || !beyond || flags & flag::FIN != 0 {
            return;
        }
        flow.segments += 1;
        if flow.copies.is_empty() {
            flow.retry_at = now + RETRY;
        }
        // A repetition may be shorter than what was promised.
        let copy = flow.copies.entry(seq.wrapping_sub(flow.syn)).or_default();
        if text_len(copy) < text_len(packet) {
            *copy = packet.to_vec();
        }
        let end = flow.contiguous();
        if flow.segments <= self.after || end == flow.promised {
            return;
        }
        if flow.pattern.is_some() {
            flow.promised = end;
            self.promised += 1;
            self.answers.push_back((now + ANSWER, key, packet.to_vec()));
        }
    }

    /// A segment of the receiver's; what goes on says what was acknowledged for it. Answers what is to
    /// be repeated.
    fn back(&mut self, now: u64, packet: &mut [u8], tcp: TcpLayout) -> Option<Vec<u8>> {
        let key = ports(packet, tcp, true);
        let flags = tcp.flags(packet);
        if flags & flag::RST != 0 {
            self.flows.remove(&key);
            return None;
        }
        let flow = self.flows.get_mut(&key)?;
        if flags & flag::SYN != 0 {
            flow.learn(packet, tcp);
            return None;
        }
        let ack = read_u32(packet, tcp.header + 8);
        let ahead = ack.wrapping_sub(flow.received);
        let mut again = None;
        if ahead != 0 && ahead < 1 << 31 {
            flow.received = ack;
            let known = ack.wrapping_sub(flow.syn);
            // One that reaches beyond is still lacked in part.
            flow.copies.retain(|start, copy| start + text_len(copy) > known);
            (flow.duplicates, flow.retries, flow.retry_at) = (0, 0, now + RETRY);
            // The next hole of those there were (RFC 6582).
            again = (known < flow.recover).then(|| flow.oldest()).flatten();
        } else if ahead == 0 && packet.len() == tcp.payload {
            flow.duplicates += 1;
            again = (flow.duplicates == 3).then(|| flow.repair()).flatten();
        }
        if flow.promised.wrapping_sub(flow.received) >= 1 << 31 {
            flow.promised = flow.received;
        }
        flow.pattern = packet.get(..tcp.payload).map(<[u8]>::to_vec);
        // Its receiver's own acknowledgement would take the promise back.
        flow.acknowledge(packet, tcp, flow.promised);
        let repairs = self.repairs;
        again.filter(|_| repairs).inspect(|_| self.repaired += 1)
    }
}

impl Flow {
    const fn new(syn: u32) -> Self {
        Self {
            segments: 0,
            received: syn.wrapping_add(1),
            promised: syn.wrapping_add(1),
            shift: 0,
            pattern: None,
            copies: BTreeMap::new(),
            acks: 0,
            duplicates: 0,
            recover: 0,
            retry_at: u64::MAX,
            retries: 0,
            syn,
            stamp: None,
        }
    }

    /// The receiver's SYN: its shift, and what an acknowledgement of its would look like.
    fn learn(&mut self, packet: &[u8], tcp: TcpLayout) {
        let Some(mut pattern) = packet.get(..tcp.payload).map(<[u8]>::to_vec) else { return };
        tcp.for_each_option(&mut pattern, |kind, _, option| {
            if let (3, Some(shift)) = (kind, option.get(2)) {
                self.shift = *shift;
            }
            if kind != TIMESTAMPS {
                option.fill(1);
            }
        });
        add_u32(&mut pattern, tcp.header + 4, 1);
        let window = pattern.get_mut(tcp.header + 14..).and_then(<[u8]>::first_chunk_mut::<2>);
        if let Some(window) = window {
            *window = (u16::from_be_bytes(*window) >> self.shift).to_be_bytes();
        }
        self.pattern = Some(pattern);
    }

    /// The oldest copy, the first one of those there are now to be sent again.
    fn repair(&mut self) -> Option<Vec<u8>> {
        self.recover = *self.copies.last_key_value()?.0;
        self.oldest()
    }

    /// What the receiver waits for, if it passed here; with the acknowledgement and the timestamp that
    /// its sender would send now: with an older one it would be dropped (RFC 7323 §5).
    fn oldest(&self) -> Option<Vec<u8>> {
        let lacked = self.received.wrapping_sub(self.syn);
        let before = self.copies.range(..=lacked).rev();
        let mut reach = before.filter(|(start, copy)| *start + text_len(copy) > lacked);
        let mut copy = reach.next()?.1.clone();
        let tcp = tcp_of(&copy)?;
        let range = tcp.header + 8..tcp.header + 12;
        edit::replace(&mut copy, tcp.header, range, &self.acks.to_be_bytes(), &[tcp.checksum()]);
        let mut stamped = None;
        tcp.for_each_option(&mut copy, |kind, range, _| {
            if kind == TIMESTAMPS {
                stamped = Some(range.start + 2..range.start + 6);
            }
        });
        if let (Some(range), Some(stamp)) = (stamped, self.stamp) {
            edit::replace(&mut copy, tcp.header, range, &stamp.to_be_bytes(), &[tcp.checksum()]);
        }
        Some(copy)
    }

    /// The end of what is here without a hole.
    fn contiguous(&self) -> u32 {
        let mut end = self.received.max(self.promised).wrapping_sub(self.syn);
        for (at, copy) in self.copies.range(end..) {
            if *at != end {
                break;
            }
            end += text_len(copy);
        }
        self.syn.wrapping_add(end)
    }

    /// Acknowledges up to `end`; the right edge of the window stays where the receiver put it.
    fn acknowledge(&self, packet: &mut [u8], tcp: TcpLayout, end: u32) {
        let ahead = end.wrapping_sub(read_u32(packet, tcp.header + 8));
        if ahead == 0 || ahead >= 1 << 31 {
            return;
        }
        let taken = u16::try_from(ahead.div_ceil(1 << self.shift)).unwrap_or(u16::MAX);
        let field = packet.get(tcp.header + 14..).and_then(<[u8]>::first_chunk).copied();
        let window = field.map_or(0, u16::from_be_bytes).saturating_sub(taken);
        for (at, bytes) in [(8, &end.to_be_bytes()[..]), (14, &window.to_be_bytes()[..])] {
            let range = tcp.header + at..tcp.header + at + bytes.len();
            edit::replace(packet, tcp.header, range, bytes, &[tcp.checksum()]);
        }
        let mut blocks = Vec::new();
        tcp.for_each_option(packet, |kind, range, _| {
            if kind == SACK {
                blocks.push(range);
            }
        });
        for range in blocks {
            let fill = vec![1; range.len()];
            edit::replace(packet, tcp.header, range, &fill, &[tcp.checksum()]);
        }
    }

    /// An acknowledgement of everything promised in the receiver's name, which echoes the timestamp of
    /// `data`. As the receiver would write it now: with an older timestamp it would be dropped.
    fn answer(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut answer = self.pattern.clone()?;
        let (tcp, data_tcp) = (tcp_of(&answer)?, tcp_of(data)?);
        let stamp = timestamp(data, data_tcp).map(u32::to_be_bytes);
        tcp.for_each_option(&mut answer, |kind, _, option| match (kind, &stamp) {
            (MPTCP | SACK, _) => option.fill(1),
            (TIMESTAMPS, Some(stamp)) => {
                if let Some(echo) = option.get_mut(6..10) {
                    echo.copy_from_slice(&stamp[..]);
                }
            }
            _ => {}
        });
        *answer.get_mut(tcp.header + 13)? = flag::ACK;
        edit::set_length(&mut answer);
        edit::recompute(&mut answer);
        self.acknowledge(&mut answer, tcp, self.promised);
        Some(answer)
    }
}

/// Octets of text.
fn text_len(packet: &[u8]) -> u32 {
    let len = tcp_of(packet).map_or(0, |tcp| packet.len() - tcp.payload);
    u32::try_from(len).unwrap_or(0)
}

/// `TSval` of a segment that has timestamps.
fn timestamp(packet: &[u8], tcp: TcpLayout) -> Option<u32> {
    let mut stamp = None;
    tcp.for_each_option(&mut packet.to_vec(), |kind, _, option| {
        if kind == TIMESTAMPS {
            stamp = option.get(2..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes);
        }
    });
    stamp
}

impl Middlebox for ProactiveAcker {
    fn process(&mut self, now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        let mut again = None;
        if let Some(tcp) = tcp_of(&packet) {
            if dir == self.dir {
                self.forward(now, &packet, tcp);
            } else {
                again = self.back(now, &mut packet, tcp);
            }
        }
        out.push((dir, packet));
        out.extend(again.map(|copy| (self.dir, copy)));
    }

    fn next_deadline(&self) -> Option<u64> {
        let answer = self.answers.front().map(|(at, ..)| *at);
        let waiting = |flow: &&Flow| self.repairs && !flow.copies.is_empty();
        let retry = self.flows.values().filter(waiting).map(|flow| flow.retry_at).min();
        [answer, retry].into_iter().flatten().min()
    }

    fn timeout(&mut self, now: u64, out: &mut Output) {
        while self.answers.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, key, data)) = self.answers.pop_front() else { break };
            let answer = self.flows.get(&key).and_then(|flow| flow.answer(&data));
            out.extend(answer.map(|answer| (self.dir.reverse(), answer)));
        }
        if !self.repairs {
            return;
        }
        for flow in self.flows.values_mut().filter(|flow| flow.retry_at <= now) {
            if flow.retries == RETRIES {
                flow.copies.clear();
            }
            if let Some(copy) = flow.repair() {
                out.push((self.dir, copy));
                self.repaired += 1;
            }
            flow.retries += 1;
            flow.retry_at = now + (RETRY << flow.retries.min(RETRIES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rewrite::tests::{fields, segment};
    use super::*;
    use crate::packet::build::Build;

    const FORTH: Direction = Direction::AtoB;
    const BACK: Direction = Direction::BtoA;
    const MS: u64 = 1_000_000;

    fn run(proxy: &mut ProactiveAcker, now: u64, dir: Direction, packet: &Build) -> Output {
        let mut out = Vec::new();
        proxy.process(now, dir, packet.to_packet(), &mut out);
        out
    }

    fn due(proxy: &mut ProactiveAcker, now: u64) -> Output {
        let mut out = Vec::new();
        proxy.timeout(now, &mut out);
        assert!(proxy.next_deadline().is_none_or(|next| next > now));
        out
    }

    fn ack(ack: u32) -> Build {
        let mut build = segment(flag::ACK, 700, b"");
        core::mem::swap(&mut build.src, &mut build.dst);
        build.ack = ack;
        // A DSS, a timestamp that is echoed, a block.
        build.options =
            [&[30, 8, 0x20, 1, 0, 0, 0, 9][..], &[8, 10, 0, 0, 0, 5, 0, 0, 0, 1]].concat();
        build
    }

    /// A flow whose handshake has passed, windows shifted by 1.
    fn proxy(after: u64) -> ProactiveAcker {
        let mut proxy = ProactiveAcker::new(FORTH, after);
        run(&mut proxy, 0, FORTH, &segment(flag::SYN, 99, b""));
        let mut answer = ack(100);
        (answer.flags, answer.options) = (flag::SYN | flag::ACK, vec![3, 3, 1]);
        run(&mut proxy, 0, BACK, &answer);
        proxy
    }

    fn data(seq: u32, payload: &[u8]) -> Build {
        let mut build = segment(flag::ACK, seq, payload);
        build.options = vec![8, 10, 0, 0, 0, 77, 0, 0, 0, 5];
        build
    }

    #[test]
    fn data_is_acknowledged_at_once_and_without_options_of_mptcp() {
        let mut proxy = proxy(1);
        run(&mut proxy, 0, BACK, &ack(100));
        assert_eq!(run(&mut proxy, 0, FORTH, &data(100, b"abcd")).len(), 1, "it goes on");
        assert_eq!(run(&mut proxy, 0, FORTH, &data(106, b"later")).len(), 1);
        assert_eq!(proxy.promised(), 1);
        let out = due(&mut proxy, MS);
        let [(BACK, answer)] = &out[..] else { panic!("{out:?}") };
        let (seq, number, flags, window, payload) = fields(answer);
        // Up to the hole; four octets of the window are two units.
        assert_eq!((seq, number, flags, window), (700, 104, flag::ACK, 998));
        assert!(payload.is_empty());
        let (tcp, mut options) = (tcp_of(answer).unwrap(), Vec::new());
        tcp.for_each_option(&mut answer.clone(), |kind, _, o| options.push((kind, o.to_vec())));
        assert_eq!(options, [(8, vec![8, 10, 0, 0, 0, 5, 0, 0, 0, 77])]);
        // What the receiver says itself does not take it back, and keeps its options.
        let [(BACK, packet)] = &run(&mut proxy, 2 * MS, BACK, &ack(100))[..] else { panic!() };
        let (_, number, _, window, _) = fields(packet);
        assert_eq!((number, window), (104, 998));
        let mut kinds = Vec::new();
        tcp_of(packet).unwrap().for_each_option(&mut packet.clone(), |kind, _, _| kinds.push(kind));
        assert_eq!(kinds, [30, 8]);
    }

    #[test]
    fn the_first_data_is_acknowledged_in_the_manner_of_the_syn_ack() {
        let mut proxy = proxy(0);
        run(&mut proxy, 0, FORTH, &data(100, b"abcd"));
        let (seq, number, flags, window, _) = fields(&due(&mut proxy, MS)[0].1);
        // Its window was not scaled.
        assert_eq!((seq, number, flags, window), (701, 104, flag::ACK, 498));
    }

    /// A receiver may have it cut differently, from a repetition or the other way round.
    #[test]
    fn what_the_receiver_has_in_part_is_kept() {
        let mut proxy = proxy(0);
        run(&mut proxy, 0, FORTH, &data(100, b"abcd"));
        run(&mut proxy, 0, FORTH, &data(104, b"efgh"));
        run(&mut proxy, 0, FORTH, &data(104, b"ef"));
        due(&mut proxy, MS);
        run(&mut proxy, 2 * MS, BACK, &ack(106));
        let again = due(&mut proxy, 202 * MS);
        assert_eq!(again.len(), 1);
        let (seq, .., payload) = fields(&again[0].1);
        assert_eq!((seq, &payload[..]), (104, &b"efgh"[..]));
    }

    #[test]
    fn what_is_lost_behind_it_is_repeated_until_the_receiver_has_it() {
        let mut proxy = proxy(0);
        run(&mut proxy, 0, FORTH, &data(100, b"abcd"));
        run(&mut proxy, 0, FORTH, &data(104, b"efgh"));
        due(&mut proxy, MS);
        // Three duplicates, then time.
        let copies: usize =
            (2..6).map(|n| run(&mut proxy, n * MS, BACK, &ack(100)).len() - 1).sum();
        assert_eq!((copies, proxy.repaired()), (1, 1));
        assert_eq!(proxy.next_deadline(), Some(200 * MS));
        // With the sender's newest timestamp: an older one could be dropped.
        let mut younger = data(200, b"");
        younger.options = vec![8, 10, 0, 0, 0, 99, 0, 0, 0, 5];
        run(&mut proxy, 100 * MS, FORTH, &younger);
        let repaired = due(&mut proxy, 200 * MS)[0].1.clone();
        assert_eq!(fields(&repaired).4, b"abcd");
        assert_eq!(timestamp(&repaired, tcp_of(&repaired).unwrap()), Some(99));
        assert_eq!(proxy.next_deadline(), Some(600 * MS));
        run(&mut proxy, 300 * MS, BACK, &ack(104));
        assert_eq!(fields(&due(&mut proxy, 500 * MS)[0].1).4, b"efgh");
        run(&mut proxy, 600 * MS, BACK, &ack(108));
        assert_eq!(proxy.next_deadline(), None);
        let mut careless = self::proxy(0).without_repair();
        run(&mut careless, 0, FORTH, &data(100, b"abcd"));
        assert_eq!(due(&mut careless, MS).len(), 1);
        assert_eq!(careless.next_deadline(), None);
    }
}
