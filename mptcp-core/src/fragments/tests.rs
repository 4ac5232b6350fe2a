use super::*;
use crate::buf::HeapBuf;
use crate::buf::{BufPool, HeapPool, PacketBuf, PortId, RxChecksum, RxMeta};
use crate::rng::Rng;
use crate::stats::{Counters, DropReason};
use crate::time::{Duration, Instant};
use crate::wire::{ECN_CE, ECN_ECT0, FragmentProblem, is_fragment};
use core::net::IpAddr;
use proptest::prelude::*;
use proptest::sample::Index;
use std::vec;
use std::vec::Vec;

const UDP: u8 = 17;
const V4: [IpAddr; 2] = [v4(1), v4(2)];
const V6: [IpAddr; 2] = [v6(1), v6(2)];
const LIMITS: ReassemblyLimits = ReassemblyLimits { datagrams: 64, bytes: 1 << 20 };
const START: Instant = Instant::from_millis(1);

const fn v4(host: u8) -> IpAddr {
    IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, host))
}

const fn v6(net: u16) -> IpAddr {
    IpAddr::V6(core::net::Ipv6Addr::new(0xfd00, 0, 0, net, 0, 0, 0, 1))
}

/// A reassembler with its memory and what it counted.
struct Bench {
    reassembler: Reassembler<HeapBuf>,
    limits: ReassemblyLimits,
    stats: Counters,
    pool: HeapPool,
    now: Instant,
}

impl Bench {
    fn new(limits: ReassemblyLimits) -> Self {
        let reassembler = Reassembler::new(limits, &mut Rng::from_seed([7; 32]));
        let pool = HeapPool::new(4096, 1600);
        Self { reassembler, limits, stats: Counters::default(), pool, now: START }
    }

    fn push(&mut self, packet: &[u8]) -> Outcome<HeapBuf> {
        let mut buf = self.pool.alloc().expect("enough for all that may wait");
        buf.append(packet.len()).expect("a packet fits").copy_from_slice(packet);
        buf.set_rx_meta(RxMeta { port: PortId(3), checksum: RxChecksum::Good });
        let pool = &mut self.pool;
        let outcome =
            self.reassembler.push(self.now, buf, &mut self.stats, |len| pool.alloc_long(len));
        let (held, limits) = (self.reassembler.held(), self.limits);
        assert!(held <= limits.bytes && self.reassembler.len() <= limits.datagrams);
        // Nothing beside what is accounted stays in memory.
        let waiting = self.pool.in_use() - usize::from(matches!(outcome, Outcome::Refused(..)));
        if !matches!(outcome, Outcome::Whole(_)) {
            assert!(held >= waiting * 1600);
        }
        outcome
    }

    /// The whole that `packets` make, at the last of them.
    fn whole(&mut self, packets: &[Vec<u8>]) -> Vec<u8> {
        let (last, others) = packets.split_last().expect("some");
        for packet in others {
            assert!(matches!(self.push(packet), Outcome::Taken));
        }
        self.complete(last).expect("it is whole")
    }

    fn complete(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        match self.push(packet) {
            Outcome::Whole(whole) => {
                let unknown = RxMeta { port: PortId(3), checksum: RxChecksum::Unknown };
                assert_eq!(whole.rx_meta(), unknown, "what a port said was about a fragment");
                Some(whole.to_vec())
            }
            Outcome::Taken => None,
            Outcome::Refused(problem, _) => panic!("{problem:?}"),
        }
    }

    fn taken(&mut self, packet: &[u8]) {
        assert!(matches!(self.push(packet), Outcome::Taken));
    }

    fn dropped(&self) -> u64 {
        self.stats.dropped(DropReason::IpFragment) + self.stats.dropped(DropReason::Duplicate)
    }

    /// Lets the time of everything pass; answers the first fragments.
    fn expire_all(&mut self) -> Vec<Vec<u8>> {
        self.now = self.now + REASSEMBLY_TIMEOUT;
        let Self { reassembler, stats, now, .. } = self;
        let expired = core::iter::from_fn(|| reassembler.expire(*now, stats));
        let first = expired.filter_map(|expired| expired.first);
        let first: Vec<_> = first.map(|packet| packet.to_vec()).collect();
        assert!(self.reassembler.is_empty() && self.reassembler.held() == 0);
        assert_eq!(self.reassembler.poll_timeout(), None);
        assert_eq!(self.pool.in_use(), 0, "memory leaked");
        first
    }
}

fn header([src, dst]: [IpAddr; 2], protocol: u8, traffic_class: u8) -> IpEmit {
    IpEmit {
        src,
        dst,
        protocol,
        traffic_class,
        hop_limit: 64,
        payload_len: 0,
        identification: 0,
        dont_fragment: false,
    }
}

/// A fragment with these octets at `offset`.
fn part(ip: &IpEmit, fragment: Fragment, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 48];
    let ip = IpEmit { payload_len: data.len(), ..*ip };
    let len = ip.emit_fragment(&fragment, &mut out);
    out.truncate(len);
    out.extend(data);
    out
}

/// The packet as one piece. IPv4's has the identification still.
fn whole(ip: &IpEmit, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; ip.header_len()];
    let identification = u16::try_from(id).expect("small in these tests");
    assert!(IpEmit { payload_len: payload.len(), identification, ..*ip }.emit(&mut out) > 0);
    out.extend(payload);
    out
}

/// The datagram in fragments that begin at `cuts`, in units of 8 octets, and at 0.
fn parts(ip: &IpEmit, id: u32, payload: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> =
        cuts.iter().map(|cut| cut * 8).filter(|&at| at < payload.len()).collect();
    at.extend([0, payload.len()]);
    at.sort_unstable();
    at.dedup();
    let fragment = |ends: &[usize]| {
        let more = ends[1] < payload.len();
        part(ip, Fragment { id, offset: ends[0], more }, &payload[ends[0]..ends[1]])
    };
    at.windows(2).map(fragment).collect()
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 ^ seed).collect()
}

fn with_fixed_sum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = !crate::wire::checksum::sum(&packet[..len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[derive(Clone, Debug)]
struct Plan {
    is_v4: bool,
    len: usize,
    cuts: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let cuts = prop::collection::vec(1..180_usize, 1..30);
    (any::<bool>(), 16..1_500_usize, cuts).prop_map(|(is_v4, len, cuts)| Plan { is_v4, len, cuts })
}

proptest! {
    /// In any order, with some of them twice, fragments of several datagrams make these datagrams, each once.
    #[test]
    fn any_order_makes_the_same_datagrams(
        plans in prop::collection::vec(plan(), 1..8),
        order in prop::collection::vec(any::<Index>(), 0..400),
        twice in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut bench = Bench::new(ReassemblyLimits { bytes: 16 << 20, ..LIMITS });
        let (mut wire, mut wanted) = (Vec::new(), Vec::new());
        for (n, plan) in (0..).zip(&plans) {
            // The same identification for all families, and for two protocols.
            let ip = header(if plan.is_v4 { V4 } else { V6 }, UDP, 0);
            let payload = pattern(plan.len, n as u8);
            let cut = parts(&ip, n, &payload, &plan.cuts);
            if cut.len() > 1 && cut[0].len() >= 56 {
                wanted.push(whole(&ip, n, &payload));
                wire.extend(cut);
            }
        }
        prop_assume!(!wire.is_empty());
        for (from, at) in order.iter().enumerate().take(wire.len()) {
            let at = at.index(wire.len());
            wire.swap(from, at);
        }
        // What comes again before its datagram is whole: right behind itself.
        for at in &twice {
            let at = at.index(wire.len());
            let again = wire[at].clone();
            wire.insert(at, again);
        }
        let mut got: Vec<_> = wire.iter().filter_map(|packet| bench.complete(packet)).collect();
        got.sort();
        wanted.sort();
        prop_assert!(got == wanted);
        prop_assert_eq!(bench.stats.ip_reasm_overlaps, 0);
        prop_assert_eq!(bench.stats.ip_reasm_reqds, wire.len() as u64);
        bench.expire_all();
    }

    /// Whatever comes, no more is held than the limits say, each packet is counted once, and in the end all is gone.
    #[test]
    fn garbage_stays_within_the_limits(
        packets in prop::collection::vec(
            (any::<bool>(), 0..6_u8, 0..12_u32, 0..40_usize, 1..200_usize, any::<bool>(), 0..4_u8, 0..3_u64),
            0..300,
        ),
    ) {
        let mut bench = Bench::new(ReassemblyLimits { datagrams: 16, bytes: 64 << 10 });
        let mut used = 0;
        for (is_v4, host, id, at, len, more, ecn, pause) in packets {
            let ends = if is_v4 { [v4(host + 10), v4(2)] } else { [v6(host.into()), v6(2)] };
            let ip = header(ends, if host % 2 == 0 { 6 } else { UDP }, ecn);
            bench.now = bench.now + Duration::from_secs(pause);
            while bench.reassembler.expire(bench.now, &mut bench.stats).is_some() {}
            let fragment = Fragment { id, offset: at * 8, more };
            let before = bench.reassembler.held();
            let outcome = bench.push(&part(&ip, fragment, &pattern(len, 0)));
            if matches!(outcome, Outcome::Whole(_)) {
                used += 1;
                prop_assert!(bench.reassembler.held() < before + 1);
            }
        }
        bench.expire_all();
        let stats = &bench.stats;
        prop_assert_eq!(stats.ip_reasm_oks, used);
        // What became part of a whole was no drop; everything else was, once.
        prop_assert!(bench.dropped() + used <= stats.ip_reasm_reqds);
        if used == 0 {
            prop_assert_eq!(bench.dropped(), stats.ip_reasm_reqds);
        }
    }
}

#[test]
fn headers_of_the_first_fragment_stay() {
    let payload = pattern(2_000, 1);
    // IPv4 with a router alert, which only the first fragment keeps, and DSCP.
    let ip = header(V4, UDP, 46 << 2);
    let mut cut = parts(&ip, 9, &payload, &[100, 200]);
    let mut first = cut[0].clone();
    first.splice(20..20, [148, 4, 0, 0]);
    first[0] = 0x46;
    let len = (first.len() as u16).to_be_bytes();
    first[2..4].copy_from_slice(&len);
    cut[0] = with_fixed_sum(first);
    let mut bench = Bench::new(LIMITS);
    let got = bench.whole(&cut);
    let header_of = IpHeader::parse(&got).expect("a packet");
    assert_eq!((header_of.header_len, header_of.traffic_class), (24, 46 << 2));
    assert_eq!((&got[20..24], &got[24..]), (&[148, 4, 0, 0][..], &payload[..]));
    assert!(!header_of.fragment && got[4..6] == [0, 9], "the identification stays");
    // IPv6 with destination options in front of the fragment header, and behind it.
    let ip = header(V6, 60, 0);
    let behind = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &payload].concat();
    let mut cut = parts(&ip, 9, &behind, &[100, 200]);
    for fragment in &mut cut {
        fragment.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0]);
        fragment[6] = 60;
        let len = (fragment.len() as u16 - 40).to_be_bytes();
        fragment[4..6].copy_from_slice(&len);
    }
    let got = bench.whole(&cut);
    let header_of = IpHeader::parse(&got).expect("a packet");
    assert_eq!((header_of.protocol, header_of.header_len), (UDP, 56));
    assert_eq!(got[56..], payload);
    assert!(bench.expire_all().is_empty() && bench.dropped() == 0);
}

/// RFC 5722: whatever lies over another ends the datagram, and the rest of it is dropped in silence.
#[test]
fn overlaps_end_their_datagram() {
    let payload = pattern(2_400, 1);
    for ip in [header(V4, UDP, 0), header(V6, UDP, 0)] {
        let make = |offset: usize, len: usize, seed| {
            let more = offset + len < payload.len();
            let octets = pattern(payload.len(), seed)[offset..offset + len].to_vec();
            part(&ip, Fragment { id: 1, offset, more }, &octets)
        };
        let cases = [
            (make(8, 800, 1), "over the end of the first and the begin of the second"),
            (make(792, 16, 1), "over a border"),
            (make(800, 808, 1), "longer"),
            (make(808, 80, 1), "within"),
            (make(0, 800, 2), "in the same place, with other octets"),
            (make(0, 8, 1), "over the ports"),
        ];
        for (bad, what) in cases {
            let mut bench = Bench::new(LIMITS);
            bench.taken(&make(0, 800, 1));
            bench.taken(&make(800, 800, 1));
            // A first fragment that is cut short is none at all.
            if bad.len() >= 68 || ip.src.is_ipv4() && bad.len() >= 36 {
                bench.taken(&bad);
                let stats = &bench.stats;
                assert_eq!((stats.ip_reasm_overlaps, stats.ip_reasm_fails), (1, 1), "{what}");
                assert_eq!((bench.reassembler.held(), bench.dropped()), (0, 3), "{what}");
                // All of it once more, and nothing comes of it.
                for offset in [0, 800, 1_600] {
                    bench.taken(&make(offset, 800, 1));
                }
                assert_eq!((bench.dropped(), bench.pool.in_use()), (6, 0), "{what}");
            }
            let told = bench.expire_all();
            assert!(bench.stats.ip_reasm_overlaps == 0 || told.is_empty(), "{what}");
            assert_eq!(bench.stats.ip_reasm_fails, 1);
            // After that the identification may come again.
            bench.taken(&make(0, 800, 1));
            bench.taken(&make(800, 800, 1));
            assert!(bench.complete(&make(1_600, 800, 1)) == Some(whole(&ip, 1, &payload)));
        }
    }
}

#[test]
fn what_comes_twice_does_no_harm() {
    for ip in [header(V4, UDP, 0), header(V6, UDP, 0)] {
        let payload = pattern(4_000, 1);
        let cut = parts(&ip, 5, &payload, &[150, 300, 450]);
        let mut bench = Bench::new(LIMITS);
        for n in [0, 0, 3, 3, 1, 0, 3, 1] {
            bench.taken(&cut[n]);
        }
        assert_eq!(bench.stats.dropped(DropReason::Duplicate), 5);
        assert!(bench.complete(&cut[2]) == Some(whole(&ip, 5, &payload)));
        // One that comes late begins another datagram, which is never whole.
        bench.taken(&cut[1]);
        assert!(bench.expire_all().is_empty());
        assert_eq!((bench.stats.ip_reasm_oks, bench.stats.ip_reasm_timeout), (1, 1));
    }
}

/// Fragments that do not agree where the datagram ends.
#[test]
fn ends_must_agree() {
    let octets = pattern(80, 1);
    let ip = header(V6, UDP, 0);
    let make = |offset, more| part(&ip, Fragment { id: 1, offset, more }, &octets);
    let cases: [&[(usize, bool)]; 5] = [
        &[(160, false), (240, true)],
        &[(160, false), (320, false)],
        &[(160, false), (80, false)],
        &[(160, true), (80, false)],
        &[(160, false), (240, false)],
    ];
    for case in cases {
        let mut bench = Bench::new(LIMITS);
        for &(offset, more) in case {
            bench.taken(&make(offset, more));
        }
        let stats = &bench.stats;
        assert_eq!((stats.ip_reasm_malformed, stats.ip_reasm_fails), (1, 1), "{case:?}");
        bench.taken(&make(0, true));
        assert!(bench.expire_all().is_empty() && bench.stats.ip_reasm_oks == 0);
    }
    // The last one again, but not as the last, is another fragment in the same place.
    let mut bench = Bench::new(LIMITS);
    bench.taken(&make(160, false));
    bench.taken(&make(160, true));
    assert_eq!(bench.stats.ip_reasm_overlaps, 1);
}

#[test]
fn fragments_that_make_no_sense_are_refused_one_by_one() {
    let octets = pattern(100, 1);
    let at = |offset, more| Fragment { id: 1, offset, more };
    for (ends, is_v4) in [(V4, true), (V6, false)] {
        let (udp, tcp) = (header(ends, UDP, 0), header(ends, 6, 0));
        let headers_at = if is_v4 { 20 } else { 40 };
        let too_long = FragmentProblem::TooLong { at: headers_at + 2 };
        let cases = [
            (part(&udp, at(8, true), &octets[..99]), Some(FragmentProblem::Length)),
            (part(&udp, at(65_528, false), &octets[..8]), Some(too_long)),
            (part(&udp, at(65_480, false), &octets), Some(too_long)),
            (part(&tcp, at(0, true), &octets[..16]), Some(FragmentProblem::Headers)),
            (part(&udp, at(8, true), &[]), None),
            (part(&udp, at(8, false), &[]), None),
        ];
        let mut bench = Bench::new(LIMITS);
        for (n, (packet, wanted)) in cases.iter().enumerate() {
            let told = match bench.push(packet) {
                Outcome::Refused(problem, _) => Some(problem),
                Outcome::Taken => None,
                Outcome::Whole(_) => panic!("{n}"),
            };
            // Of IPv4's nobody is told.
            assert_eq!(told, wanted.filter(|_| !is_v4), "{n}");
            assert_eq!(bench.stats.ip_reasm_malformed, n as u64 + 1);
        }
        assert!(bench.reassembler.is_empty());
        assert_eq!((bench.dropped(), bench.stats.ip_reasm_fails), (6, 0));
        // The longest there may be.
        let longest = if is_v4 { 65_515 } else { 65_535 };
        let payload = pattern(longest, 3);
        let cuts: Vec<_> = (1..60).map(|n| n * 160).collect();
        let got = Bench::new(LIMITS).whole(&parts(&udp, 2, &payload, &cuts));
        assert!(got == whole(&udp, 2, &payload));
    }
    // The chain of headers goes on behind what is there (RFC 7112), or is none.
    let ip = header(V6, 60, 0);
    let mut bench = Bench::new(LIMITS);
    let long = [&[UDP, 20, 1, 4, 0, 0, 0, 0][..], &octets[..80]].concat();
    let long = part(&ip, at(0, true), &long);
    assert!(matches!(bench.push(&long), Outcome::Refused(FragmentProblem::Headers, _)));
    let unknown = [&[UDP, 0, 0xc2, 4, 0, 0, 0, 0][..], &octets[..80]].concat();
    bench.taken(&part(&ip, at(0, true), &unknown));
    assert_eq!(bench.stats.ip_reasm_malformed, 2);
    // A fragment of a fragment.
    let ip = header(V6, 44, 0);
    let nested = [&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &octets[..80]].concat();
    let cut = parts(&ip, 3, &nested, &[4]);
    bench.taken(&cut[0]);
    bench.taken(&cut[1]);
    assert_eq!((bench.stats.ip_reasm_oks, bench.stats.ip_reasm_fails), (0, 1));
    bench.expire_all();
}

/// RFC 6946: a datagram of one fragment is whole, and disturbs no other with its identification.
#[test]
fn atomic_fragments_are_none() {
    let octets = pattern(80, 1);
    let ip = header(V6, UDP, 0);
    let atomic = part(&ip, Fragment { id: 1, offset: 0, more: false }, &octets);
    assert!(!is_fragment(&atomic));
    assert!(is_fragment(&part(&ip, Fragment { id: 1, offset: 0, more: true }, &octets)));
    assert!(is_fragment(&part(
        &header(V4, UDP, 0),
        Fragment { id: 1, offset: 8, more: false },
        &octets
    )));
    assert!(!is_fragment(&whole(&header(V4, UDP, 0), 1, &octets)));
    assert!(
        !is_fragment(&whole(&ip, 1, &octets)) && !is_fragment(&[]) && !is_fragment(&[0x60; 12])
    );
}

/// RFC 3168 §5.3.
#[test]
fn marks_are_joined() {
    let cases = [
        ([0, 0, 0], Some(0)),
        ([ECN_ECT0, ECN_ECT0, ECN_ECT0], Some(ECN_ECT0)),
        ([1, ECN_ECT0, 1], Some(1)),
        ([ECN_ECT0, ECN_CE, ECN_ECT0], Some(ECN_CE)),
        ([1, ECN_ECT0, ECN_CE], Some(ECN_CE)),
        ([0, ECN_CE, 0], None),
        ([ECN_CE, ECN_ECT0, 0], None),
    ];
    let payload = pattern(1_000, 1);
    for ends in [V4, V6] {
        for (marks, wanted) in cases {
            let mut bench = Bench::new(LIMITS);
            let cut = marks.iter().enumerate().map(|(n, ecn)| {
                let ip = header(ends, UDP, 46 << 2 | ecn);
                parts(&ip, 1, &payload, &[40, 80])[n].clone()
            });
            let cut: Vec<_> = cut.collect();
            bench.taken(&cut[0]);
            bench.taken(&cut[1]);
            let got = bench.complete(&cut[2]);
            let class = got.map(|got| IpHeader::parse(&got).expect("a packet").traffic_class);
            assert_eq!(class, wanted.map(|ecn| 46 << 2 | ecn), "{marks:?}");
            let fails = u64::from(wanted.is_none());
            assert_eq!((bench.stats.ip_reasm_fails, bench.dropped()), (fails, 3 * fails));
            bench.expire_all();
        }
    }
}

#[test]
fn what_is_never_whole_ends_with_its_time() {
    let payload = pattern(3_000, 1);
    let mut bench = Bench::new(LIMITS);
    let (with_first, without) = (header(V4, UDP, 0), header(V6, UDP, 0));
    let cut = parts(&with_first, 1, &payload, &[100, 200]);
    bench.taken(&cut[0]);
    assert_eq!(bench.reassembler.poll_timeout(), Some(START + REASSEMBLY_TIMEOUT));
    bench.now = bench.now + Duration::from_secs(20);
    bench.taken(&cut[1]);
    bench.taken(&parts(&without, 1, &payload, &[100, 200])[2]);
    // The first to come decides when, and nothing moves that.
    assert_eq!(bench.reassembler.poll_timeout(), Some(START + REASSEMBLY_TIMEOUT));
    let just_before = START + REASSEMBLY_TIMEOUT - Duration::from_nanos(1);
    assert!(bench.reassembler.expire(just_before, &mut bench.stats).is_none());
    assert_eq!(bench.expire_all(), [cut[0].clone()]);
    let stats = &bench.stats;
    assert_eq!((stats.ip_reasm_timeout, stats.ip_reasm_fails, bench.dropped()), (2, 2, 3));
}

/// A flood of one source costs that source its own datagrams.
#[test]
fn one_source_cannot_shut_out_others() {
    let payload = pattern(2_800, 1);
    let good = header([v4(77), v4(2)], UDP, 0);
    let cut = parts(&good, 1, &payload, &[170]);
    for flood in [V4, V6] {
        let mut bench = Bench::new(LIMITS);
        bench.taken(&cut[0]);
        for id in 0..1_000 {
            let ip = header(flood, UDP, 0);
            bench.taken(&parts(&ip, id, &payload, &[170])[0]);
        }
        // Its share, and the good one.
        assert_eq!(bench.reassembler.len(), LIMITS.datagrams / 8 + 1);
        assert_eq!(bench.stats.ip_reasm_no_memory, 1_000 - u64::from(LIMITS.datagrams) / 8);
        // The newest of the flood are there.
        let last = parts(&header(flood, UDP, 0), 999, &payload, &[170]);
        assert!(bench.complete(&last[1]).is_some());
        assert!(bench.complete(&cut[1]) == Some(whole(&good, 1, &payload)));
        bench.expire_all();
    }
    // By memory, with few datagrams.
    let mut bench = Bench::new(ReassemblyLimits { datagrams: 64, bytes: 256 << 10 });
    bench.taken(&cut[0]);
    for n in 0..300 {
        let fragment = Fragment { id: n / 100, offset: (n as usize % 100) * 16 + 8, more: true };
        bench.taken(&part(&header(V4, UDP, 0), fragment, &payload[..8]));
    }
    assert!(bench.reassembler.held() <= 2_000 + (32 << 10) && bench.stats.ip_reasm_no_memory > 0);
    assert!(bench.complete(&cut[1]).is_some());
    bench.expire_all();
}

/// Of many sources the oldest datagram goes first.
#[test]
fn the_oldest_makes_room() {
    let payload = pattern(1_600, 1);
    let mut bench = Bench::new(ReassemblyLimits { datagrams: 8, ..LIMITS });
    let cut = |n: u8| parts(&header([v4(n), v4(200)], UDP, 0), 1, &payload, &[100]);
    for n in 0..100 {
        bench.taken(&cut(n)[0]);
    }
    // Two sources may have one hash and share what is one source's, so not all places need be taken.
    let left = (92..100).rev().filter(|n| bench.complete(&cut(*n)[1]).is_some()).count();
    assert!(left >= 6, "{left}");
    assert!((0..80).all(|n| bench.complete(&cut(n)[1]).is_none()));
    bench.expire_all();
}

/// The same where memory is short before places are.
#[test]
fn all_sources_together_have_so_much_memory() {
    let payload = pattern(2_800, 1);
    let mut bench = Bench::new(ReassemblyLimits { datagrams: 64, bytes: 32 << 10 });
    let cut = |n: u8| parts(&header([v4(n), v4(200)], UDP, 0), 1, &payload, &[170]);
    for n in 0..60 {
        // What a push leaves is looked at in there.
        bench.taken(&cut(n)[0]);
    }
    assert!(bench.reassembler.held() > 28 << 10 && bench.stats.ip_reasm_no_memory > 30);
    assert!(bench.complete(&cut(59)[1]).is_some() && bench.complete(&cut(58)[1]).is_some());
    assert!(bench.complete(&cut(0)[1]).is_none());
    bench.expire_all();
}

#[test]
fn a_datagram_has_a_bounded_number_of_fragments() {
    let payload = pattern(65_000, 1);
    let ip = header(V4, UDP, 0);
    let cuts: Vec<_> = (2..8_125).collect();
    let mut bench = Bench::new(ReassemblyLimits { bytes: 64 << 20, ..LIMITS });
    // From the end, so that each one moves all others.
    for packet in parts(&ip, 1, &payload, &cuts).iter().rev() {
        bench.taken(packet);
    }
    assert_eq!((bench.stats.ip_reasm_malformed, bench.stats.ip_reasm_fails), (1, 1));
    assert_eq!(bench.pool.in_use(), 0);
    bench.expire_all();
}

#[test]
fn without_a_buffer_a_datagram_is_lost() {
    let payload = pattern(2_000, 1);
    let ip = header(V4, UDP, 0);
    let mut bench = Bench::new(LIMITS);
    for packet in parts(&ip, 1, &payload, &[100]) {
        let buf = HeapBuf::from_slice(&packet);
        let outcome = bench.reassembler.push(START, buf, &mut bench.stats, |_| None);
        assert!(matches!(outcome, Outcome::Taken));
    }
    assert_eq!((bench.stats.ip_reasm_no_memory, bench.dropped()), (1, 2));
    assert!(bench.reassembler.is_empty() && bench.reassembler.held() == 0);
}

#[test]
fn what_no_packet_can_say_is_not_cut() {
    let mut pool = HeapPool::new(4096, 1_600);
    let mut cut = |ip: &IpEmit, len: usize| {
        let payload = vec![0; len];
        let mut made = Vec::new();
        let all = send(ip, 1, [&payload, &[]], 1_500, || pool.alloc(), |part| made.push(part));
        (all, made.iter().map(HeapBuf::data_len).sum::<usize>())
    };
    for (ends, longest, headers) in [(V4, 65_515_usize, 20), (V6, 65_535, 48)] {
        let ip = header(ends, UDP, 0);
        let fragments = longest.div_ceil(data_len(ends == V4, 1_500));
        assert_eq!(cut(&ip, longest), (true, longest + fragments * headers));
        for too_long in [longest + 1, 70_000] {
            assert_eq!(cut(&ip, too_long), (false, 0));
        }
    }
    assert_eq!(cut(&header([V4[0], V6[1]], UDP, 0), 100), (false, 0));
}

#[test]
fn headers_of_a_whole_that_no_packet_can_say_are_not_written() {
    for ends in [V4, V6] {
        let fragment = Fragment { id: 1, offset: 0, more: true };
        let packet = part(&header(ends, UDP, 0), fragment, &[0; 64]);
        let received = crate::wire::ReceivedFragment::parse(&packet).expect("a fragment");
        let mut out = [0; 64];
        for too_long in [65_536, usize::MAX] {
            assert_eq!(received.write_head(&packet, too_long, 0, &mut out), None);
        }
    }
}

/// What is cut here is put together there, and no fragment is longer than the way takes.
#[test]
fn what_is_cut_is_put_together() {
    let mut pool = HeapPool::new(400, 9_000);
    for (ends, protocol) in [(V4, 1), (V6, 58)] {
        for mtu in [68, 576, 1_280, 1_500, 9_000] {
            let len = if mtu == 68 { 4_008 } else { 20_008 };
            let mut echo = pattern(len, 1);
            echo[..8].copy_from_slice(&[8, 0, 0, 0, 1, 2, 3, 4]);
            let ip = header(ends, protocol, 0);
            let reply = whole(&ip, 0, &echo);
            let mut cut: Vec<HeapBuf> = Vec::new();
            assert!(send_echo_reply(&reply, mtu, || pool.alloc(), |part| cut.push(part)));
            assert!(cut.iter().all(|part| part.data().len() <= mtu), "{mtu}");
            let cut: Vec<_> = cut.iter().map(|part| part.to_vec()).collect();
            let mut bench = Bench::new(ReassemblyLimits { bytes: 64 << 20, ..LIMITS });
            let mut wide = HeapPool::new(400, 9_000);
            core::mem::swap(&mut bench.pool, &mut wide);
            let got = cut.iter().filter_map(|packet| bench.complete(packet)).last();
            let got = got.expect("it is whole");
            assert_eq!(&got[got.len() - len..], &echo[..], "{mtu} {ends:?}");
        }
    }
    let mut none = HeapPool::new(1, 1_500);
    let reply = whole(&header(V4, 1, 0), 0, &pattern(4_000, 1));
    let mut cut: Vec<HeapBuf> = Vec::new();
    assert!(!send_echo_reply(&reply, 1_500, || none.alloc(), |part| cut.push(part)));
}
