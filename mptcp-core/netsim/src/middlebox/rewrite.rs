//! Boxes that rewrite TCP headers, answer in somebody's name or hold segments back: what firewalls,
//! accelerators and offload do to a subflow (RFC 8684 §6, RFC 5961, RFC 3135). Checksums stay right.

use super::{Middlebox, Output};
use crate::Direction;
use crate::packet::edit::{self, Layout, TcpLayout};
use crate::packet::flag;

pub(super) const SACK: u8 = 5;
pub(super) const MPTCP: u8 = 30;

pub(super) fn tcp_of(packet: &[u8]) -> Option<TcpLayout> {
    Layout::of(packet)?.tcp(packet)
}

pub(super) fn read_u32(packet: &[u8], at: usize) -> u32 {
    packet.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_be_bytes(*four))
}

pub(super) fn add_u32(packet: &mut [u8], at: usize, offset: u32) {
    let moved = read_u32(packet, at).wrapping_add(offset);
    if let Some(field) = packet.get_mut(at..at + 4) {
        field.copy_from_slice(&moved.to_be_bytes());
    }
}

/// Replaces initial sequence numbers, as firewalls do that mistrust those of their hosts: sequence
/// numbers are moved in each direction, acknowledgements and SACK blocks back. Subflow sequence
/// numbers of MPTCP are relative and stay right.
#[derive(Clone, Copy, Debug)]
pub struct SequenceShifter {
    offsets: [u32; 2],
}

impl SequenceShifter {
    /// Adds these to the sequence numbers of either direction.
    #[must_use]
    pub const fn new(forward: u32, back: u32) -> Self {
        Self { offsets: [forward, back] }
    }
}

impl Middlebox for SequenceShifter {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if let Some(tcp) = tcp_of(&packet) {
            let [forward, back] = self.offsets;
            let (ours, theirs) =
                if dir == Direction::AtoB { (forward, back) } else { (back, forward) };
            let undo = theirs.wrapping_neg();
            add_u32(&mut packet, tcp.header + 4, ours);
            if tcp.flags(&packet) & flag::ACK != 0 {
                add_u32(&mut packet, tcp.header + 8, undo);
            }
            tcp.for_each_option(&mut packet, |kind, _, option| {
                for at in (2..option.len()).step_by(4).filter(|_| kind == SACK) {
                    add_u32(option, at, undo);
                }
            });
            edit::recompute(&mut packet);
        }
        out.push((dir, packet));
    }
}

/// Lowers the window field of one direction, as boxes do that shape by it.
#[derive(Clone, Copy, Debug)]
pub struct WindowClamp {
    dir: Direction,
    most: u16,
    clamped: u64,
}

impl WindowClamp {
    /// No segment in `dir` offers more than `most`, before scaling. SYNs pass.
    #[must_use]
    pub const fn new(dir: Direction, most: u16) -> Self {
        Self { dir, most, clamped: 0 }
    }

    /// Segments changed so far.
    #[must_use]
    pub const fn clamped(&self) -> u64 {
        self.clamped
    }
}

impl Middlebox for WindowClamp {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if let Some(tcp) = tcp_of(&packet).filter(|_| dir == self.dir)
            && tcp.flags(&packet) & (flag::SYN | flag::RST) == 0
        {
            let at = tcp.header + 14..tcp.header + 16;
            let window = packet.get(at.clone()).and_then(<[u8]>::first_chunk);
            if window.is_some_and(|window| u16::from_be_bytes(*window) > self.most) {
                let sums = [tcp.checksum()];
                edit::replace(&mut packet, tcp.header, at, &self.most.to_be_bytes(), &sums);
                self.clamped += 1;
            }
        }
        out.push((dir, packet));
    }
}

/// Where a forged RST aims (RFC 5961 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// At the octet that is expected next: it must be believed.
    Exact,
    /// A little beyond it, inside the window: to be challenged.
    InWindow,
    /// Far away, as a blind guess.
    Blind,
}

/// Sends RSTs in the name of the sender of segments that pass by.
#[derive(Clone, Copy, Debug)]
pub struct ResetInjector {
    dir: Direction,
    aim: Aim,
    after: u64,
    count: u64,
    segments: u64,
    sent: u64,
}

impl ResetInjector {
    /// After `after` segments in `dir`, each of the next `count` is followed by a RST.
    #[must_use]
    pub const fn new(dir: Direction, aim: Aim, after: u64, count: u64) -> Self {
        Self { dir, aim, after, count, segments: 0, sent: 0 }
    }

    /// RSTs sent so far.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    fn forge(&self, packet: &[u8], tcp: TcpLayout) -> Option<Vec<u8>> {
        let mut reset = packet.get(..tcp.options)?.to_vec();
        let len = u32::try_from(packet.len() - tcp.payload).ok()?;
        let fin = u32::from(tcp.flags(packet) & flag::FIN != 0);
        let beyond = match self.aim {
            Aim::Exact => 0,
            Aim::InWindow => 1,
            Aim::Blind => 1 << 30,
        };
        add_u32(&mut reset, tcp.header + 4, len + fin + beyond);
        *reset.get_mut(tcp.header + 12)? = 5 << 4;
        *reset.get_mut(tcp.header + 13)? = flag::RST;
        edit::set_length(&mut reset);
        edit::recompute(&mut reset);
        Some(reset)
    }
}

impl Middlebox for ResetInjector {
    fn process(&mut self, _now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
        let tcp = tcp_of(&packet).filter(|_| dir == self.dir);
        let tcp = tcp.filter(|tcp| tcp.flags(&packet) & (flag::SYN | flag::RST) == 0);
        let reset = tcp.and_then(|tcp| {
            self.segments += 1;
            let due = self.segments > self.after && self.sent < self.count;
            if due { self.forge(&packet, tcp) } else { None }
        });
        out.push((dir, packet));
        if let Some(reset) = reset {
            self.sent += 1;
            out.push((dir, reset));
        }
    }
}

/// What happens to a SYN or SYN/ACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SynFate {
    /// Those with an MPTCP option are dropped: firewalls that know no such option.
    DropWithMptcp,
    /// Each arrives twice.
    Double,
}

/// Drops or doubles SYNs.
#[derive(Clone, Copy, Debug)]
pub struct SynFilter {
    fate: SynFate,
    met: u64,
}

impl SynFilter {
    /// Does this to every SYN and SYN/ACK.
    #[must_use]
    pub const fn new(fate: SynFate) -> Self {
        Self { fate, met: 0 }
    }

    /// SYNs dropped or doubled so far.
    #[must_use]
    pub const fn met(&self) -> u64 {
        self.met
    }
}

impl Middlebox for SynFilter {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if let Some(tcp) = tcp_of(&packet).filter(|tcp| tcp.flags(&packet) & flag::SYN != 0) {
            let mut mptcp = false;
            tcp.for_each_option(&mut packet, |kind, _, _| mptcp |= kind == MPTCP);
            match self.fate {
                SynFate::DropWithMptcp if mptcp => {
                    self.met += 1;
                    return;
                }
                SynFate::DropWithMptcp => {}
                SynFate::Double => {
                    self.met += 1;
                    out.push((dir, packet.clone()));
                }
            }
        }
        out.push((dir, packet));
    }
}

/// Which MPTCP options are left when two segments become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeps {
    /// The first segment's: a mapping of part of the payload.
    First,
    /// The second one's: it maps the end of the payload, or all of it where mappings are long.
    Last,
    /// Only segments whose options are the same octet by octet are joined, as many as fit: receive
    /// offload that loses nothing.
    Alike,
}

/// Joins two segments that follow each other, or with [`Keeps::Alike`] as many as fit, as receive
/// offload does. A segment waits for its successor at most for `wait`.
#[derive(Clone, Debug)]
pub struct Coalescer {
    keeps: Keeps,
    max_payload: usize,
    wait: u64,
    held: [Option<(u64, Vec<u8>)>; 2],
    joined: u64,
}

impl Coalescer {
    /// Joins up to `max_payload` octets, waiting `wait` nanoseconds.
    #[must_use]
    pub const fn new(keeps: Keeps, max_payload: usize, wait: u64) -> Self {
        Self { keeps, max_payload, wait, held: [None, None], joined: 0 }
    }

    /// Segments joined to the one before them so far.
    #[must_use]
    pub const fn joined(&self) -> u64 {
        self.joined
    }

    /// `first` and `second` as one, when the second continues the first.
    fn join(&self, first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
        let (a, b) = (tcp_of(first)?, tcp_of(second)?);
        let (a_len, b_len) = (first.len() - a.payload, second.len() - b.payload);
        let next = read_u32(first, a.header + 4).wrapping_add(u32::try_from(a_len).ok()?);
        let same_flow = first.get(a.header..a.header + 4) == second.get(b.header..b.header + 4);
        let plain = flag::ACK | flag::PSH;
        let flags = a.flags(first) | b.flags(second);
        let fits = a_len > 0 && b_len > 0 && a_len + b_len <= self.max_payload;
        if !same_flow || !fits || flags & !plain != 0 || next != read_u32(second, b.header + 4) {
            return None;
        }
        let options = |packet: &'_ [u8], tcp: TcpLayout| {
            packet.get(tcp.options..tcp.payload).map(<[u8]>::to_vec)
        };
        if self.keeps == Keeps::Alike && options(first, a) != options(second, b) {
            return None;
        }
        let (head, tcp) = match self.keeps {
            Keeps::First | Keeps::Alike => (first.get(..a.payload)?, a),
            Keeps::Last => (second.get(..b.payload)?, b),
        };
        let mut whole = [head, first.get(a.payload..)?, second.get(b.payload..)?].concat();
        // Window and acknowledgement are the newer ones, the sequence number is the older one.
        let seq = first.get(a.header + 4..a.header + 8)?;
        whole.get_mut(tcp.header + 4..tcp.header + 8)?.copy_from_slice(seq);
        for range in [8..12, 14..16] {
            let newer = second.get(b.header + range.start..b.header + range.end)?;
            whole.get_mut(tcp.header + range.start..tcp.header + range.end)?.copy_from_slice(newer);
        }
        *whole.get_mut(tcp.header + 13)? = flags;
        edit::set_length(&mut whole);
        edit::recompute(&mut whole);
        Some(whole)
    }
}

impl Middlebox for Coalescer {
    fn process(&mut self, now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
        let slot = usize::from(dir == Direction::BtoA);
        let held = self.held.get_mut(slot).and_then(Option::take);
        if let Some((due, first)) = held {
            if let Some(whole) = self.join(&first, &packet) {
                self.joined += 1;
                match self.held.get_mut(slot) {
                    Some(slot) if self.keeps == Keeps::Alike => *slot = Some((due, whole)),
                    _ => out.push((dir, whole)),
                }
                return;
            }
            out.push((dir, first));
        }
        let has_payload = tcp_of(&packet).is_some_and(|tcp| packet.len() > tcp.payload);
        match self.held.get_mut(slot) {
            Some(slot) if has_payload => *slot = Some((now.saturating_add(self.wait), packet)),
            _ => out.push((dir, packet)),
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        self.held.iter().flatten().map(|(at, _)| *at).min()
    }

    fn timeout(&mut self, now: u64, out: &mut Output) {
        for (slot, dir) in self.held.iter_mut().zip([Direction::AtoB, Direction::BtoA]) {
            if let Some((_, packet)) = slot.take_if(|(at, _)| *at <= now) {
                out.push((dir, packet));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
