//! Boxes that change TCP segments: options lost, payload changed, segments split. Checksums stay
//! right, as they do behind real boxes, so that only the endpoints' own rules can notice.

use super::{Middlebox, Output};
use crate::packet::edit::{self, Layout, TcpLayout};
use crate::packet::flag;
use crate::{Direction, Rng};

/// Kind of the MPTCP option.
const MPTCP: u8 = 30;

/// Which options to take away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strip {
    /// Option kind, 30 for MPTCP.
    pub kind: u8,
    /// Only this MPTCP subtype.
    pub subtype: Option<u8>,
    /// Only in this direction.
    pub dir: Option<Direction>,
    /// On which segments.
    pub when: StripWhen,
    /// What is left in the option's place.
    pub fill: Fill,
}

impl Strip {
    /// Takes MPTCP options from every segment of both directions.
    #[must_use]
    pub const fn mptcp() -> Self {
        Self { kind: MPTCP, subtype: None, dir: None, when: StripWhen::Always, fill: Fill::Nop }
    }
}

/// Which segments lose their options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StripWhen {
    /// Every segment.
    Always,
    /// SYN and SYN/ACK.
    Syn,
    /// Everything but SYN and SYN/ACK.
    NotSyn,
    /// Everything after this many TCP segments in the direction.
    After(u64),
    /// From this time on, in nanoseconds: a re-route.
    Since(u64),
}

/// What replaces a stripped option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// No-operation: the other options stay readable.
    Nop,
    /// End of option list: the options behind it vanish too.
    EndOfList,
}

/// Takes options out of TCP segments.
#[derive(Clone, Debug)]
pub struct OptionStripper {
    rules: Vec<Strip>,
    segments: [u64; 2],
    stripped: u64,
}

impl OptionStripper {
    /// A box that applies every rule.
    #[must_use]
    pub const fn new(rules: Vec<Strip>) -> Self {
        Self { rules, segments: [0; 2], stripped: 0 }
    }

    /// Replaces the rules from now on.
    pub fn set_rules(&mut self, rules: Vec<Strip>) {
        self.rules = rules;
    }

    /// Options taken away so far.
    #[must_use]
    pub const fn stripped(&self) -> u64 {
        self.stripped
    }

    fn strip(&mut self, now: u64, dir: Direction, packet: &mut [u8], tcp: TcpLayout) {
        let [forward, back] = &mut self.segments;
        let count = if dir == Direction::AtoB { forward } else { back };
        let before = *count;
        *count += 1;
        let syn = tcp.flags(packet) & flag::SYN != 0;
        let active = |rule: &&Strip| {
            rule.dir.is_none_or(|only| only == dir)
                && match rule.when {
                    StripWhen::Always => true,
                    StripWhen::Syn => syn,
                    StripWhen::NotSyn => !syn,
                    StripWhen::After(segments) => before >= segments,
                    StripWhen::Since(at) => now >= at,
                }
        };
        for rule in self.rules.iter().filter(active) {
            let mut found = Vec::new();
            tcp.for_each_option(packet, |kind, range, option| {
                let subtype = option.get(2).map(|byte| byte >> 4);
                if kind == rule.kind && (rule.subtype.is_none() || rule.subtype == subtype) {
                    found.push(range);
                }
            });
            for range in found {
                let byte = if rule.fill == Fill::Nop { 1 } else { 0 };
                let fill = vec![byte; range.len()];
                edit::replace(packet, tcp.header, range, &fill, &[tcp.checksum()]);
                self.stripped += 1;
            }
        }
    }
}

impl Middlebox for OptionStripper {
    fn process(&mut self, now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        if let Some(tcp) = Layout::of(&packet).and_then(|layout| layout.tcp(&packet)) {
            self.strip(now, dir, &mut packet, tcp);
        }
        out.push((dir, packet));
    }
}

/// Flips one bit of the payload of some TCP segments and makes the checksum fit: what only a DSS
/// checksum can notice.
#[derive(Clone, Debug)]
pub struct PayloadCorruptor {
    seed: u64,
    ppm: u32,
    dir: Option<Direction>,
    repair: bool,
    segments: u64,
    corrupted: u64,
}

impl PayloadCorruptor {
    /// Corrupts `ppm` millionths of the segments with payload, in one direction or in both.
    #[must_use]
    pub const fn new(seed: u64, ppm: u32, dir: Option<Direction>) -> Self {
        Self { seed, ppm, dir, repair: true, segments: 0, corrupted: 0 }
    }

    /// Leaves the TCP checksum wrong, as a broken memory would.
    #[must_use]
    pub const fn without_repair(mut self) -> Self {
        self.repair = false;
        self
    }

    /// Changes the share from now on.
    pub const fn set_ppm(&mut self, ppm: u32) {
        self.ppm = ppm;
    }

    /// Segments changed so far.
    #[must_use]
    pub const fn corrupted(&self) -> u64 {
        self.corrupted
    }
}

impl Middlebox for PayloadCorruptor {
    fn process(&mut self, _now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        let tcp = Layout::of(&packet).and_then(|layout| layout.tcp(&packet));
        if let Some(tcp) = tcp.filter(|tcp| tcp.payload < packet.len())
            && self.dir.is_none_or(|only| only == dir)
        {
            let mut rng = Rng::for_packet(self.seed, dir.index(), self.segments);
            self.segments += 1;
            let hit = rng.chance_ppm(self.ppm);
            let len = packet.len() - tcp.payload;
            let offset = usize::try_from(rng.below(len as u64)).unwrap_or(0);
            let bit = 1_u8 << rng.below(8);
            let at = tcp.payload + offset;
            if let Some(&byte) = packet.get(at).filter(|_| hit) {
                let sum = [tcp.checksum()];
                let sums = if self.repair { &sum[..] } else { &[] };
                edit::replace(&mut packet, tcp.header, at..at + 1, &[byte ^ bit], sums);
                self.corrupted += 1;
            }
        }
        out.push((dir, packet));
    }
}

/// Which pieces of a split segment keep the MPTCP options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MptcpOn {
    /// All, as segmentation offload does.
    Every,
    /// Only the first.
    First,
    /// Only the last.
    Last,
}

/// Cuts TCP segments into pieces with less payload.
#[derive(Clone, Debug)]
pub struct SegmentSplitter {
    max_payload: usize,
    mptcp_on: MptcpOn,
    split: u64,
}

impl SegmentSplitter {
    /// Cuts whatever has more than `max_payload` octets (at least 1).
    #[must_use]
    pub fn new(max_payload: usize, mptcp_on: MptcpOn) -> Self {
        Self { max_payload: max_payload.max(1), mptcp_on, split: 0 }
    }

    /// Segments cut so far.
    #[must_use]
    pub const fn split(&self) -> u64 {
        self.split
    }

    fn piece(&self, packet: &[u8], tcp: TcpLayout, offset: usize, last: bool) -> Option<Vec<u8>> {
        let mut piece = packet.get(..tcp.payload)?.to_vec();
        let start = tcp.payload + offset;
        let end = (start + self.max_payload).min(packet.len());
        piece.extend_from_slice(packet.get(start..end)?);
        let seq = piece.get(tcp.header + 4..)?.first_chunk().map(|seq| u32::from_be_bytes(*seq))?;
        let seq = seq.wrapping_add(u32::try_from(offset).ok()?);
        piece.get_mut(tcp.header + 4..tcp.header + 8)?.copy_from_slice(&seq.to_be_bytes());
        if !last {
            *piece.get_mut(tcp.header + 13)? &= !(flag::FIN | flag::PSH);
        }
        let keeps = match self.mptcp_on {
            MptcpOn::Every => true,
            MptcpOn::First => offset == 0,
            MptcpOn::Last => last,
        };
        if !keeps {
            tcp.for_each_option(&mut piece, |kind, _, option| {
                if kind == MPTCP {
                    option.fill(1);
                }
            });
        }
        edit::set_length(&mut piece);
        edit::recompute(&mut piece);
        Some(piece)
    }
}

impl Middlebox for SegmentSplitter {
    fn process(&mut self, _now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
        let tcp = Layout::of(&packet).and_then(|layout| layout.tcp(&packet));
        let Some(tcp) = tcp.filter(|tcp| packet.len() - tcp.payload > self.max_payload) else {
            out.push((dir, packet));
            return;
        };
        self.split += 1;
        let len = packet.len() - tcp.payload;
        for offset in (0..len).step_by(self.max_payload) {
            let last = offset + self.max_payload >= len;
            out.extend(self.piece(&packet, tcp, offset, last).map(|piece| (dir, piece)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::Build;
    use crate::packet::{IpPacket, TcpOption, TcpSegment};
    use proptest::prelude::*;

    fn one(
        middlebox: &mut impl Middlebox,
        now: u64,
        dir: Direction,
        packet: Vec<u8>,
    ) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        middlebox.process(now, dir, packet, &mut out);
        assert!(out.iter().all(|(to, _)| *to == dir));
        out.into_iter().map(|(_, packet)| packet).collect()
    }

    fn kinds(packet: &[u8]) -> Vec<u8> {
        let ip = IpPacket::parse(packet).unwrap();
        let segment = TcpSegment::parse(&ip).unwrap();
        segment
            .options()
            .map(|option| match option.unwrap() {
                TcpOption::MaxSegmentSize(_) => 2,
                TcpOption::Timestamps { .. } => 8,
                TcpOption::Mptcp(_) => 30,
                TcpOption::Other { kind, .. } => kind,
                _ => 0,
            })
            .collect()
    }

    fn segment(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut build = Build::new("10.0.0.1:1", "10.0.0.2:2");
        build.flags = flags;
        build.seq = 0xffff_fff0;
        // An odd start for the MPTCP option.
        build.options = vec![1, 30, 4, 0x21, 0x01, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1];
        build.payload = payload.to_vec();
        build.to_packet()
    }

    #[test]
    fn options_vanish_where_the_rule_says() {
        let (syn, ack) = (flag::SYN, flag::ACK);
        let rule = Strip::mptcp();
        let since = StripWhen::Since(100);
        for (rule, now, dir, flags, stripped) in [
            (rule, 0, Direction::AtoB, ack, true),
            (Strip { when: StripWhen::Syn, ..rule }, 0, Direction::AtoB, ack, false),
            (Strip { when: StripWhen::Syn, ..rule }, 0, Direction::AtoB, syn, true),
            (Strip { when: StripWhen::NotSyn, ..rule }, 0, Direction::AtoB, syn, false),
            (Strip { when: StripWhen::NotSyn, ..rule }, 0, Direction::AtoB, ack, true),
            (Strip { dir: Some(Direction::BtoA), ..rule }, 0, Direction::AtoB, ack, false),
            (Strip { dir: Some(Direction::BtoA), ..rule }, 0, Direction::BtoA, ack, true),
            (Strip { subtype: Some(2), ..rule }, 0, Direction::AtoB, ack, true),
            (Strip { subtype: Some(3), ..rule }, 0, Direction::AtoB, ack, false),
            (Strip { when: since, ..rule }, 99, Direction::AtoB, ack, false),
            (Strip { when: since, ..rule }, 100, Direction::AtoB, ack, true),
        ] {
            let mut stripper = OptionStripper::new(vec![rule]);
            let packets = one(&mut stripper, now, dir, segment(flags, b"data"));
            let expected = if stripped { vec![8] } else { vec![30, 8] };
            assert_eq!(kinds(&packets[0]), expected, "{rule:?} {now} {dir:?} {flags}");
            assert_eq!(stripper.stripped(), u64::from(stripped));
        }
    }

    #[test]
    fn options_vanish_after_a_number_of_segments_per_direction() {
        let rule = Strip { when: StripWhen::After(2), ..Strip::mptcp() };
        let mut stripper = OptionStripper::new(vec![rule]);
        one(&mut stripper, 0, Direction::BtoA, segment(flag::ACK, b""));
        let seen: Vec<bool> = (0..4)
            .map(|_| {
                let packets = one(&mut stripper, 0, Direction::AtoB, segment(flag::ACK, b""));
                kinds(&packets[0]).contains(&30)
            })
            .collect();
        assert_eq!(seen, [true, true, false, false]);
        stripper.set_rules(Vec::new());
        assert_eq!(
            kinds(&one(&mut stripper, 0, Direction::AtoB, segment(flag::ACK, b""))[0]),
            [30, 8]
        );
    }

    #[test]
    fn an_end_of_list_hides_the_options_behind_it() {
        let rule = Strip { fill: Fill::EndOfList, ..Strip::mptcp() };
        let mut stripper = OptionStripper::new(vec![rule]);
        assert_eq!(kinds(&one(&mut stripper, 0, Direction::AtoB, segment(flag::ACK, b"x"))[0]), []);
    }

    #[test]
    fn other_packets_pass_untouched() {
        for packet in [vec![], vec![0x45; 20], vec![0xff; 60]] {
            let mut stripper = OptionStripper::new(vec![Strip::mptcp()]);
            assert_eq!(
                one(&mut stripper, 0, Direction::AtoB, packet.clone()),
                vec![packet.clone()]
            );
            let mut corruptor = PayloadCorruptor::new(1, 1_000_000, None);
            assert_eq!(
                one(&mut corruptor, 0, Direction::AtoB, packet.clone()),
                vec![packet.clone()]
            );
            let mut splitter = SegmentSplitter::new(1, MptcpOn::Every);
            assert_eq!(one(&mut splitter, 0, Direction::AtoB, packet.clone()), [packet]);
        }
    }

    #[test]
    fn corruption_is_one_bit_under_a_right_checksum() {
        let original = segment(flag::ACK, &[0x55; 33]);
        let mut corruptor = PayloadCorruptor::new(3, 1_000_000, Some(Direction::AtoB));
        for _ in 0..50 {
            let changed = one(&mut corruptor, 0, Direction::AtoB, original.clone()).remove(0);
            let ip = IpPacket::parse(&changed).unwrap();
            let payload = TcpSegment::parse(&ip).unwrap().payload;
            let bits: u32 = payload.iter().map(|byte| (byte ^ 0x55).count_ones()).sum();
            assert_eq!(bits, 1);
        }
        assert_eq!(corruptor.corrupted(), 50);
        assert_eq!(
            one(&mut corruptor, 0, Direction::BtoA, original.clone()),
            vec![original.clone()]
        );
        let mut broken = PayloadCorruptor::new(3, 1_000_000, None).without_repair();
        let changed = one(&mut broken, 0, Direction::AtoB, original.clone()).remove(0);
        assert!(TcpSegment::parse(&IpPacket::parse(&changed).unwrap()).is_err());
        broken.set_ppm(0);
        assert_eq!(one(&mut broken, 0, Direction::AtoB, original.clone()), [original]);
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_segment_are_the_segment(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            max in 1..90_usize,
            fin: bool,
        ) {
            let flags = flag::ACK | flag::PSH | if fin { flag::FIN } else { 0 };
            for mptcp_on in [MptcpOn::Every, MptcpOn::First, MptcpOn::Last] {
                let mut splitter = SegmentSplitter::new(max, mptcp_on);
                let pieces = one(&mut splitter, 0, Direction::AtoB, segment(flags, &payload));
                prop_assert_eq!(splitter.split(), u64::from(payload.len() > max));
                let (mut whole, mut seq) = (Vec::new(), 0xffff_fff0_u32);
                let count = pieces.len();
                for (index, piece) in pieces.iter().enumerate() {
                    let ip = IpPacket::parse(piece).unwrap();
                    let tcp = TcpSegment::parse(&ip).unwrap();
                    prop_assert_eq!(tcp.seq, seq);
                    prop_assert!(tcp.payload.len() <= max);
                    let last = index + 1 == count;
                    prop_assert_eq!(tcp.has(flag::FIN), fin && last);
                    prop_assert_eq!(tcp.has(flag::PSH), last);
                    let keeps = match mptcp_on {
                        MptcpOn::Every => true,
                        MptcpOn::First => index == 0,
                        MptcpOn::Last => last,
                    };
                    prop_assert_eq!(kinds(piece), if keeps { vec![30, 8] } else { vec![8] });
                    seq = seq.wrapping_add(u32::try_from(tcp.payload.len()).unwrap());
                    whole.extend_from_slice(tcp.payload);
                }
                prop_assert_eq!(&whole, &payload);
            }
        }
    }
}
