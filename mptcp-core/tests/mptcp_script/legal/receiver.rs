//! `DATA_ACK`s of either width, on whatever subflow, only where they advance or with everything; a window that
//! opens late; segments lost, late and doubled; selective acknowledgements or none. The receiver is as strict as
//! those of deployed kernels about what it gets: a mapping on each segment, the same whenever it comes again, with
//! its checksum, within both windows.

use super::*;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, Dss, Mapping, Version, checksum};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What is done to the next segment under way, and what the receiver says then.
#[derive(Clone, Copy, Debug)]
struct Step {
    which: usize,
    fate: Fate,
    /// `DATA_ACK` of 8 octets.
    wide: bool,
    /// Without a `DATA_ACK` where it does not advance.
    saves: bool,
    /// The acknowledgement goes by the other subflow as well.
    twice: bool,
    /// The reader takes so much.
    reads: u16,
    ms: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    /// It arrives, and nobody says so yet.
    Silent,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        12 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        4 => Just(Fate::Silent),
    ];
    let which = prop_oneof![6 => Just(0_usize), 1 => 0_usize..4];
    let ms = prop_oneof![4 => Just(0_u8), 1 => 0_u8..60];
    (which, fate, any::<(bool, bool)>(), 0_u8..8, 0_u16..4_000, ms).prop_map(
        |(which, fate, (wide, saves), twice, reads, ms)| Step {
            which,
            fate,
            wide,
            saves,
            twice: twice == 0,
            reads,
            ms,
        },
    )
}

/// One subflow as its receiver has it.
struct Subflow {
    flow: Flow,
    /// Text that waits behind a hole: its mapping's place in the stream, and octets.
    held: BTreeMap<u32, (usize, usize)>,
    /// Mappings by the subflow's number of their first octet.
    mappings: BTreeMap<u32, Mapping>,
    /// The right edge it offered, as a number of the subflow.
    edge: u32,
    /// A `DATA_ACK` went out on it.
    told: bool,
}

impl Subflow {
    fn new(flow: Flow, buffer: usize) -> Self {
        let (held, mappings) = (BTreeMap::new(), BTreeMap::new());
        Self { flow, held, mappings, edge: 1 + buffer as u32, told: false }
    }

    fn next(&self) -> u32 {
        self.flow.rcv_nxt.wrapping_sub(self.flow.stack_isn)
    }
}

struct Receiver {
    script: Script,
    keys: Keys,
    id: SocketId,
    subflows: Vec<Subflow>,
    /// Octets of the stream that are here, and how many there are before the first hole.
    here: Vec<bool>,
    nxt: usize,
    read: usize,
    buffer: usize,
    edge: usize,
    /// The last `DATA_ACK`.
    told: usize,
    sack: bool,
    fin: bool,
    under_way: Vec<Out>,
}

const LEN: usize = 40_000;

impl Receiver {
    fn new(version: Version, checksum: bool, joined: bool, buffer: usize, sack: bool) -> Self {
        let mut script = Script::server_with(version, |c| c.tcp.sack = sack);
        let mut flags = CapableFlags::HMAC;
        flags.set(CapableFlags::CHECKSUM, checksum);
        let (keys, flow, id) = script.unconfirmed_within(buffer as u16, 40_000, flags);
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let mut subflows = vec![Subflow::new(flow, buffer)];
        if joined {
            let mut join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
            join.window = buffer as u16;
            // What its handshake offered.
            subflows.push(Subflow::new(join, 60_000));
        }
        let mut under_way = script.write(id, 0, LEN);
        script.stack.shutdown_write(script.now, id);
        under_way.extend(script.out());
        let mut receiver = Self {
            script,
            keys,
            id,
            subflows,
            here: vec![false; LEN],
            nxt: 0,
            read: 0,
            buffer,
            edge: buffer,
            told: 0,
            sack,
            fin: false,
            under_way: Vec::new(),
        };
        receiver.judge(under_way);
        receiver
    }

    fn offset(&self, wire: WireSeq) -> usize {
        let base = self.keys.stack_dsn(0);
        let low = match wire {
            WireSeq::Full(dsn) => dsn as u32,
            WireSeq::Low(dsn) => dsn,
        };
        low.wrapping_sub(base.0 as u32) as usize
    }

    /// What no receiver would take is no good, whether it arrives or not.
    fn judge(&mut self, out: Vec<Out>) {
        for packet in out {
            assert!(!packet.rst() && packet.fastclose().is_none(), "{packet:?}");
            let at = self.subflows.iter().position(|s| s.flow.local == packet.src);
            let Some(at) = at else { panic!("{packet:?}") };
            if let Some(mapping) = packet.mapping().filter(|_| !packet.payload.is_empty()) {
                let ssn = packet.seq.wrapping_sub(self.subflows[at].flow.stack_isn);
                let into = ssn.checked_sub(mapping.ssn).expect("it maps the segment") as usize;
                assert!(into + packet.payload.len() <= usize::from(mapping.len), "{packet:?}");
                let begin = self.offset(mapping.dsn);
                let text = stream((begin + into) as u64, packet.payload.len());
                assert!(text == packet.payload, "{packet:?}");
                let whole = stream(begin as u64, usize::from(mapping.len));
                let sum = checksum::sum(&whole);
                let dsn = self.keys.stack_dsn(begin as u64);
                let sum = checksum::dss_checksum(dsn, mapping.ssn, mapping.len, sum);
                let told = self.keys.checksum.then_some(sum);
                assert_eq!(mapping.checksum, told, "{packet:?}");
                let same = self.subflows[at].mappings.insert(mapping.ssn, mapping);
                assert!(same.is_none_or(|same| same == mapping), "{packet:?}");
                assert!(begin + into + text.len() <= self.edge, "the stream's window: {packet:?}");
                let end = ssn + text.len() as u32;
                assert!(end <= self.subflows[at].edge, "the subflow's window: {packet:?}");
            } else {
                assert!(packet.payload.is_empty(), "no mapping: {packet:?}");
            }
            self.under_way.push(packet);
        }
        assert_eq!(self.script.fallback(self.id), None);
    }

    /// Takes a segment; answers whether it had anything that TCP acknowledges.
    fn take(&mut self, packet: &Out) -> bool {
        let at = self.subflows.iter().position(|s| s.flow.local == packet.src).expect("known");
        self.fin |= packet.data_fin();
        if packet.payload.is_empty() {
            self.subflows[at].flow.hears(core::slice::from_ref(packet));
            let next = self.subflows[at].flow.rcv_nxt;
            return packet.data_fin() || packet.seq.wrapping_add(1) == next;
        }
        let mapping = packet.mapping().expect("judged");
        let begin = self.offset(mapping.dsn);
        let subflow = &mut self.subflows[at];
        let ssn = packet.seq.wrapping_sub(subflow.flow.stack_isn);
        let place = begin + (ssn - mapping.ssn) as usize;
        subflow.held.insert(ssn, (place, packet.payload.len()));
        while let Some((&first, &(place, len))) = subflow.held.first_key_value()
            && first <= subflow.next()
        {
            subflow.held.pop_first();
            let fresh = (first + len as u32).saturating_sub(subflow.next());
            subflow.flow.rcv_nxt = subflow.flow.rcv_nxt.wrapping_add(fresh);
            self.here[place..place + len].fill(true);
        }
        self.nxt += self.here[self.nxt..].iter().take_while(|here| **here).count();
        true
    }

    /// An acknowledgement of what is here.
    fn answer(&mut self, at: usize, wide: bool, saves: bool) {
        self.edge = self.edge.max(self.read + self.buffer);
        let acked = self.nxt + usize::from(self.fin && self.nxt == LEN);
        let subflow = &mut self.subflows[at];
        let window = self.edge - self.nxt;
        let silent = saves && self.told == acked && acked > 0 && subflow.told;
        let mut seg = subflow.flow.seg().window(window as u16);
        if !silent {
            let data_ack = Some(wire(self.keys.stack_dsn(acked as u64), wide));
            seg = seg.dss(Dss { data_ack, ..Dss::default() });
            self.told = acked;
            subflow.told = true;
        }
        if self.sack && !subflow.held.is_empty() {
            let block = subflow.held.first_key_value().map(|(&first, &(_, len))| {
                let first = subflow.flow.stack_isn.wrapping_add(first);
                [first.to_be_bytes(), first.wrapping_add(len as u32).to_be_bytes()].concat()
            });
            seg = seg.raw(&[&[1, 1, 5, 10][..], &block.expect("some")].concat());
        }
        subflow.edge = subflow.edge.max(subflow.next() + window as u32);
        let flow = subflow.flow.clone();
        let out = self.script.send(&flow, &seg);
        self.judge(out);
    }

    fn step(&mut self, step: Step) {
        self.read = (self.read + usize::from(step.reads)).min(self.nxt);
        let out = self.script.advance(u64::from(step.ms));
        self.judge(out);
        if self.under_way.is_empty() {
            let out = self.script.advance(40);
            self.judge(out);
        }
        if self.under_way.is_empty() {
            return self.answer(0, step.wide, step.saves);
        }
        let packet = self.under_way.remove(step.which % self.under_way.len());
        let at = self.subflows.iter().position(|s| s.flow.local == packet.src).expect("known");
        match step.fate {
            Fate::Lost => return,
            Fate::Doubled => self.under_way.push(packet.clone()),
            Fate::Arrives | Fate::Silent => {}
        }
        if self.take(&packet) && step.fate != Fate::Silent {
            self.answer(at, step.wide, step.saves);
            if step.twice {
                self.answer((at + 1) % self.subflows.len(), step.wide, step.saves);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whoever_acknowledges_as_is_allowed_gets_all(
        v in version(),
        (sums, joined, sack) in any::<(bool, bool, bool)>(),
        buffer in 3_000_usize..50_000,
        steps in vec(step(), 0..200),
    ) {
        let mut receiver = Receiver::new(v, sums, joined, buffer, sack);
        for step in steps {
            receiver.step(step);
        }
        // From here on all is well.
        let calm = Step {
            which: 0,
            fate: Fate::Arrives,
            wide: false,
            saves: false,
            twice: false,
            reads: 4_000,
            ms: 1,
        };
        let begin = receiver.script.now;
        while receiver.told <= LEN {
            receiver.step(calm);
            let spent = receiver.script.now.since(begin);
            prop_assert!(spent.as_secs() < 60, "{} octets after {spent:?}", receiver.nxt);
        }
        prop_assert_eq!(receiver.script.info(receiver.id).bytes_acked, LEN as u64);
    }
}
