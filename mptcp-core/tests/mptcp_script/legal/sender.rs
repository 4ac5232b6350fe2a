//! Mappings of any length and width, told on any of their segments, `DATA_ACK`s or none, segments cut, merged,
//! doubled and out of order on two subflows, signals in between, a `DATA_FIN` in every form and at any time.

use super::*;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{AddressIds, CapableFlags, Dss, Mapping, MptcpOption, Version, checksum};
use proptest::collection::vec;
use proptest::prelude::*;

/// Octets of the stack's own stream, which the peer has acknowledged.
const OURS: u64 = 10;

/// One mapping.
#[derive(Clone, Debug)]
struct Piece {
    flow: usize,
    len: usize,
    /// Where its text is cut into segments.
    cuts: Vec<usize>,
    /// Segments that carry the option, bit by bit; the first if none would.
    told: u8,
    wide: bool,
    /// Of a `DATA_ACK`, if there is one.
    acks: Option<bool>,
    /// It maps octets that another piece has brought already: so many back.
    again: usize,
}

/// The end of the stream.
#[derive(Clone, Copy, Debug)]
enum Fin {
    None,
    /// With the last mapping.
    WithData,
    /// On its own, with this SSN or the real one, behind so many segments of those to come.
    Alone {
        zero: bool,
        behind: usize,
    },
}

/// What is done to the segments on their way.
#[derive(Clone, Debug)]
enum Fate {
    /// It comes behind the next ones.
    Late(usize),
    Doubled,
    /// Goes together with the next one of its subflow.
    Merged,
    /// A pure acknowledgement with something else on it comes first.
    Signal(u8),
    /// Something stands in front of its option, or behind.
    Padded(u8),
    /// Time passes.
    Pause,
}

fn piece() -> impl Strategy<Value = Piece> {
    let cuts = vec(1_usize..1_400, 0..4);
    let acks = prop_oneof![Just(None), any::<bool>().prop_map(Some)];
    let again = prop_oneof![6 => Just(0_usize), 1 => 1_usize..500];
    (0_usize..2, 1_usize..1_400, cuts, any::<u8>(), any::<bool>(), acks, again).prop_map(
        |(flow, len, cuts, told, wide, acks, again)| Piece {
            flow,
            len,
            cuts,
            told,
            wide,
            acks,
            again,
        },
    )
}

fn fin() -> impl Strategy<Value = Fin> {
    let alone = (any::<bool>(), 0_usize..40).prop_map(|(zero, behind)| Fin::Alone { zero, behind });
    prop_oneof![1 => Just(Fin::None), 2 => Just(Fin::WithData), 3 => alone]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => (1_usize..6).prop_map(Fate::Late),
        1 => Just(Fate::Doubled),
        2 => Just(Fate::Merged),
        2 => (0_u8..8).prop_map(Fate::Signal),
        2 => (0_u8..4).prop_map(Fate::Padded),
        1 => Just(Fate::Pause),
    ]
}

/// A segment to be: text of one subflow from `at` on, with the options of these mappings.
#[derive(Clone, Debug)]
struct Cut {
    flow: usize,
    at: u32,
    text: Vec<u8>,
    options: Vec<(usize, Dss)>,
}

impl Cut {
    fn option_len(&self) -> usize {
        self.options.iter().map(|(_, dss)| dss.option_len()).sum()
    }

    fn seg(&self, flow: &Flow) -> Seg {
        let mut seg = flow.seg().seq(self.at).data(&self.text);
        for (_, dss) in &self.options {
            seg = seg.dss(*dss);
        }
        seg
    }
}

struct Peer {
    script: Script,
    keys: Keys,
    flows: [Flow; 2],
    id: SocketId,
}

impl Peer {
    fn new(version: Version, checksum: bool, proven: bool, joined: bool) -> Self {
        let mut script = Script::server(version);
        let mut flags = CapableFlags::HMAC;
        flags.set(CapableFlags::CHECKSUM, checksum);
        let (keys, mut first, id) = script.confirmed_with(flags);
        if proven {
            let out = script.write(id, 0, OURS as usize);
            first.hears(&out);
            script.send(&first, &first.seg().dss(keys.ack(OURS)));
        }
        let second =
            if joined { script.join(&keys, at(P2, 5_000), at(A2, PORT)) } else { first.clone() };
        Self { script, keys, flows: [first, second], id }
    }

    /// The segments of all pieces, in the order in which they are sent.
    fn cut(&mut self, pieces: &[Piece], joined: bool, acked: u64, fin: Fin) -> (Vec<Cut>, u64) {
        let (mut cuts, mut offset) = (Vec::new(), 0_u64);
        for (n, piece) in pieces.iter().enumerate() {
            let at = if joined { piece.flow } else { 0 };
            let flow = &mut self.flows[at];
            let begin = offset - (piece.again as u64).min(offset);
            let end = (begin + piece.len as u64).max(offset);
            let text = stream(begin, (end - begin) as usize);
            offset = end;
            let last = n + 1 == pieces.len() && matches!(fin, Fin::WithData);
            if text.is_empty() {
                continue;
            }
            let (dsn, ssn) = (self.keys.peer_dsn(begin), flow.ssn());
            let len = text.len() as u16 + u16::from(last);
            let sum = || checksum::dss_checksum(dsn, ssn, len, checksum::sum(&text));
            let mapping = Mapping {
                dsn: wire(dsn, piece.wide),
                ssn,
                len,
                checksum: self.keys.checksum.then(sum),
            };
            let data_ack = piece.acks.map(|wide| wire(self.keys.stack_dsn(acked), wide));
            let dss = Dss { data_ack, mapping: Some(mapping), data_fin: last };
            let mut edges: Vec<_> = piece.cuts.iter().map(|cut| cut % text.len()).collect();
            edges.extend([0, text.len()]);
            edges.sort_unstable();
            edges.dedup();
            let count = edges.len() - 1;
            let told = if piece.told & ((1 << count) - 1) == 0 { 1 } else { piece.told };
            for (i, edge) in edges.windows(2).enumerate() {
                let options = if told >> i & 1 == 1 { vec![(n, dss)] } else { Vec::new() };
                let text = text[edge[0]..edge[1]].to_vec();
                let at = flow.snd_nxt.wrapping_add(edge[0] as u32);
                cuts.push(Cut { flow: at_of(joined, piece.flow), at, text, options });
            }
            flow.snd_nxt = flow.snd_nxt.wrapping_add(text.len() as u32);
        }
        (cuts, offset)
    }

    fn judge(&mut self, out: &[Out]) {
        for packet in out {
            assert!(!packet.rst() && packet.fastclose().is_none(), "{packet:?}");
        }
        for flow in &mut self.flows {
            flow.hears(out);
        }
        assert_eq!(self.script.fallback(self.id), None);
    }

    fn send(&mut self, flow: usize, seg: &Seg) -> Vec<Out> {
        let out = self.script.send(&self.flows[flow], seg);
        self.judge(&out);
        out
    }

    /// A pure acknowledgement that says something that changes nothing.
    fn signal(&mut self, flow: usize, what: u8, at: u32) {
        let seg = self.flows[flow].seg().seq(at);
        let seg = match what {
            0 => seg.raw(&[30, 3, 0x51]),
            1 => seg.raw(&[30, 3, 0x50, 1, 30, 3, 0xf0]),
            2 => seg.opt(&MptcpOption::RemoveAddr(AddressIds::new(&[9, 77, 9]).expect("some"))),
            3 => seg.raw(&[30, 8, 0x34, 5, 192, 168, 1, 7]),
            4 => seg.raw(&[30, 4, 0x90, 1, 30, 12, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            5 => seg.raw(&[30, 12, 0x70, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            6 => seg.raw(&[1, 0, 30, 4, 0xff, 0xff, 30, 99]),
            _ => seg.raw(&[30, 4, 0x20, 0]),
        };
        self.send(flow, &seg);
    }
}

const fn at_of(joined: bool, flow: usize) -> usize {
    if joined { flow } else { 0 }
}

/// Merges, delays and doubles.
fn sends(cuts: Vec<Cut>, fates: &[(usize, Fate)]) -> Vec<(Cut, Vec<Fate>)> {
    let mut sent: Vec<(Cut, Vec<Fate>)> = cuts.into_iter().map(|cut| (cut, Vec::new())).collect();
    for (place, fate) in fates {
        if sent.is_empty() {
            break;
        }
        let place = place % sent.len();
        match fate {
            Fate::Late(by) => {
                let item = sent.remove(place);
                sent.insert((place + by).min(sent.len()), item);
            }
            Fate::Doubled => {
                let item = sent[place].clone();
                sent.push(item);
            }
            Fate::Merged => {
                let (flow, end) = (sent[place].0.flow, end_of(&sent[place].0));
                let next = sent.iter().position(|(cut, _)| cut.flow == flow && cut.at == end);
                let Some(next) = next.filter(|next| *next != place) else { continue };
                let room = sent[place].0.option_len() + sent[next].0.option_len() <= 40;
                let short = sent[place].0.text.len() + sent[next].0.text.len() <= 1_440;
                if !room || !short {
                    continue;
                }
                let (gone, _) = sent.remove(next);
                let place = if next < place { place - 1 } else { place };
                let item = &mut sent[place].0;
                item.text.extend(gone.text);
                item.options.extend(gone.options);
            }
            other => sent[place].1.push(other.clone()),
        }
    }
    sent
}

fn end_of(cut: &Cut) -> u32 {
    cut.at.wrapping_add(cut.text.len() as u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_is_allowed_arrives(
        v in version(),
        sums in any::<bool>(),
        (proven, joined) in any::<(bool, bool)>(),
        pieces in vec(piece(), 1..20),
        fates in vec((any::<usize>(), fate()), 0..40),
        fin in fin(),
        burst in 1_usize..5,
    ) {
        let mut peer = Peer::new(v, sums, proven, joined);
        let acked = if proven { OURS } else { 0 };
        let begins = [peer.flows[0].snd_nxt, peer.flows[1].snd_nxt];
        let (cuts, total) = peer.cut(&pieces, joined, acked, fin);
        let sent = sends(cuts, &fates);
        let mut read = Vec::new();
        let mut taken = 0;
        let alone = |peer: &Peer, zero: bool| {
            let mut dss = peer.keys.fin(total);
            if !zero && let Some(mapping) = &mut dss.mapping {
                mapping.ssn = peer.flows[0].ssn();
                let (dsn, ssn) = (peer.keys.peer_dsn(total), mapping.ssn);
                mapping.checksum = sums.then(|| checksum::dss_checksum(dsn, ssn, 1, 0));
            }
            dss
        };
        while taken < sent.len() {
            if let Fin::Alone { zero, behind } = fin && (taken..taken + burst).contains(&behind) {
                // At the beginning of the sequence space: it takes none of it.
                let dss = alone(&peer, zero);
                peer.send(0, &peer.flows[0].seg().seq(begins[0]).dss(dss));
            }
            let now = &sent[taken..sent.len().min(taken + burst)];
            taken += now.len();
            let mut segs = Vec::new();
            for (cut, fates) in now {
                let mut seg = cut.seg(&peer.flows[cut.flow]);
                for fate in fates {
                    match fate {
                        Fate::Signal(what) => peer.signal(cut.flow, *what, cut.at),
                        Fate::Padded(how) if seg.option_len() <= 34 => {
                            seg = match how {
                                0 => seg.raw(&[1, 1, 30, 3, 0x51]),
                                1 => seg.raw(&[0, 30, 1, 255]),
                                2 => seg.raw(&[30, 0]),
                                _ => seg.raw(&[254, 4, 1, 2]),
                            };
                        }
                        Fate::Pause => {
                            let out = peer.script.advance(30);
                            peer.judge(&out);
                        }
                        _ => {}
                    }
                }
                segs.push((cut.flow, seg));
            }
            let burst: Vec<_> = segs.iter().map(|(at, seg)| (&peer.flows[*at], seg)).collect();
            peer.script.inject_burst(&burst);
            let out = peer.script.out();
            peer.judge(&out);
            read.extend(peer.script.read(peer.id).unwrap_or_default());
            let out = peer.script.out();
            peer.judge(&out);
        }
        if let Fin::Alone { zero, .. } = fin {
            let dss = alone(&peer, zero);
            peer.send(0, &peer.flows[0].seg().dss(dss));
        }
        let out = peer.script.advance(1_500);
        peer.judge(&out);
        prop_assert!(read == stream(0, total as usize), "{} octets of {total}", read.len());
        let ends = !matches!(fin, Fin::None);
        prop_assert_eq!(peer.script.at_end(peer.id), ends);
        // Whoever asks gets the last word.
        let out = peer.send(0, &peer.flows[0].seg().opt(&peer.keys.third()).seq(begins[0].wrapping_sub(1)));
        let data_ack = out.iter().find_map(Out::data_ack).expect("an answer");
        prop_assert!(same(data_ack, peer.keys.peer_dsn(total + u64::from(ends))), "{:?}", out);
    }
}
