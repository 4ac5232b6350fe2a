//! A script for each shape a mapping can arrive in, and random mappings compared with a model that
//! keeps one entry per byte.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Both sequence spaces wrap inside the scripts.
const START: SeqNum = SeqNum(u32::MAX - 1_000);
const IDSN: DataSeq = DataSeq(u64::MAX - 500);

fn at(offset: u32) -> SeqNum {
    START.add(offset)
}

fn data(offset: u64) -> DataSeq {
    IDSN.add(offset)
}

fn span(offset: u64, len: u32) -> Option<Span> {
    Some(Span { dsn: data(offset), len })
}

#[test]
fn an_empty_store_answers_nothing() {
    let store = MappingStore::new();
    assert!(store.is_empty());
    assert_eq!(store.find(at(0)), None);
    assert_eq!(store.checked_at(at(0)), None);
    assert_eq!(store.next_start(at(0)), None);
}

/// One mapping of 30,000 bytes on each of 21 segments, in every rotation of their order.
#[test]
fn repeats_of_one_mapping_are_one_entry() {
    for first in 0..21 {
        let mut store = MappingStore::new();
        for segment in 0..21 {
            assert_eq!(store.insert(at(0), at(0), data(0), 30_000, None), Ok(()));
            assert_eq!(store.len(), 1);
            let offset = (segment + first) % 21 * 1_428;
            assert_eq!(store.find(at(offset)), span(u64::from(offset), 30_000 - offset));
        }
        store.release(at(30_000));
        assert!(store.is_empty());
    }
}

#[test]
fn a_mapping_that_comes_after_its_data_covers_it() {
    let mut store = MappingStore::new();
    assert_eq!(store.next_start(at(0)), None);
    // The option was on the last segment only: it reaches back to the first byte.
    assert_eq!(store.insert(at(0), at(0), data(0), 5_000, None), Ok(()));
    assert_eq!(store.find(at(0)), span(0, 5_000));
}

#[test]
fn a_mapping_that_starts_later_leaves_the_head_unmapped() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(700), data(90_000), 100, None), Ok(()));
    assert_eq!(store.find(at(0)), None);
    assert_eq!(store.next_start(at(0)), Some(at(700)));
    assert_eq!(store.next_start(at(750)), Some(at(750)));
    assert_eq!(store.next_start(at(800)), None);
}

#[test]
fn several_mappings_are_outstanding_and_continuing_ones_merge() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(2_000), data(2_000), 1_000, None), Ok(()));
    assert_eq!(store.insert(at(0), at(0), data(0), 1_000, None), Ok(()));
    assert_eq!(store.len(), 2);
    assert_eq!(store.insert(at(0), at(1_000), data(1_000), 1_000, None), Ok(()));
    assert_eq!((store.len(), store.find(at(0))), (1, span(0, 3_000)));
    // The next bytes of the subflow carry data from elsewhere in the stream.
    assert_eq!(store.insert(at(0), at(3_000), data(70_000), 1_000, None), Ok(()));
    assert_eq!((store.len(), store.find(at(2_999))), (2, span(2_999, 1)));
    assert_eq!(store.find(at(3_000)), span(70_000, 1_000));
}

#[test]
fn consistent_resplits_are_no_change() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(0), data(0), 3_000, None), Ok(()));
    for (start, len) in [(1_000, 500), (0, 3_000), (2_500, 1_500), (500, 4_000), (0, 5_000)] {
        let dsn = data(u64::from(start));
        assert_eq!(store.insert(at(0), at(start), dsn, len, None), Ok(()));
    }
    assert_eq!((store.len(), store.find(at(0))), (1, span(0, 5_000)));
}

#[test]
fn contradictions_keep_the_first_mapping() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(1_000), data(1_000), 1_000, None), Ok(()));
    for (start, len) in [(1_000, 1_000), (1_999, 1), (500, 501), (0, 5_000)] {
        let wrong = data(u64::from(start) + 1);
        assert_eq!(store.insert(at(0), at(start), wrong, len, None), Err(MappingError::Conflict));
    }
    assert_eq!((store.len(), store.find(at(1_000))), (1, span(1_000, 1_000)));
    // Right next to it anything goes.
    assert_eq!(store.insert(at(0), at(999), data(7), 1, None), Ok(()));
    assert_eq!(store.insert(at(0), at(2_000), data(9), 1, None), Ok(()));
}

#[test]
fn delivered_bytes_are_history() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(0), data(0), 1_000, None), Ok(()));
    store.release(at(1_000));
    assert!(store.is_empty());
    // The option of the completed mapping again, on a segment whose payload lies beyond it.
    assert_eq!(store.insert(at(1_000), at(0), data(0), 1_000, None), Ok(()));
    assert!(store.is_empty());
    // Even a contradicting one says nothing about bytes that matter.
    assert_eq!(store.insert(at(1_000), at(0), data(5), 1_000, None), Ok(()));
    assert_eq!(store.find(at(1_000)), None);
    // Only what is left of a mapping counts.
    assert_eq!(store.insert(at(1_000), at(0), data(0), 1_500, None), Ok(()));
    assert_eq!((store.find(at(999)), store.find(at(1_000))), (None, span(1_000, 500)));
}

#[test]
fn an_empty_mapping_is_ignored() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(0), data(0), 0, None), Ok(()));
    assert!(store.is_empty());
}

#[test]
fn the_number_of_entries_is_bounded() {
    let mut store = MappingStore::new();
    for index in 0..u32::try_from(MAX_MAPPINGS).unwrap() {
        let result = store.insert(at(0), at(index * 10), data(u64::from(index) * 7), 5, None);
        assert_eq!(result, Ok(()));
    }
    assert_eq!(store.insert(at(0), at(200_000), data(0), 5, None), Err(MappingError::Full));
    assert_eq!(store.insert(at(0), at(0), data(0), 5, None), Ok(()));
    store.release(at(5));
    assert_eq!(store.insert(at(5), at(200_000), data(0), 5, None), Ok(()));
    assert_eq!(store.len(), MAX_MAPPINGS);
    store.clear();
    assert!(store.is_empty());
}

#[test]
fn mappings_beyond_any_window_are_refused() {
    let mut store = MappingStore::new();
    assert_eq!(store.insert(at(0), at(HORIZON), data(0), 1, None), Err(MappingError::Full));
    assert_eq!(store.insert(at(0), at(HORIZON - 1), data(0), 1, None), Ok(()));
    assert_eq!(store.insert(at(0), at(0), data(0), u32::MAX, None), Err(MappingError::Full));
}

/// A caller that never releases must not make one entry longer than comparisons can bear.
#[test]
fn an_entry_never_outgrows_the_horizon() {
    let mut store = MappingStore::new();
    let step = HORIZON / 2;
    assert_eq!(store.insert(at(0), at(0), data(0), step, None), Ok(()));
    let next = data(u64::from(step));
    assert_eq!(store.insert(at(step), at(step), next, step, None), Ok(()));
    let next = data(u64::from(HORIZON));
    assert_eq!(store.insert(at(HORIZON), at(HORIZON), next, 1, None), Err(MappingError::Full));
    store.release(at(HORIZON));
    assert_eq!(store.insert(at(HORIZON), at(HORIZON), next, 1, None), Ok(()));
}

#[test]
fn mappings_with_checksums_stay_whole() {
    let mut store = MappingStore::new();
    let insert = |store: &mut MappingStore, rcv_nxt, start, dsn, len, checksum| {
        store.insert(at(rcv_nxt), at(start), data(dsn), len, Some(checksum))
    };
    assert_eq!(insert(&mut store, 0, 0, 0, 1_000, 0xaaaa), Ok(()));
    assert_eq!(insert(&mut store, 0, 1_000, 1_000, 1_000, 0xbbbb), Ok(()));
    assert_eq!(store.len(), 2);
    let first = Checked { start: at(0), dsn: data(0), len: 1_000, checksum: 0xaaaa };
    let second = Checked { start: at(1_000), dsn: data(1_000), len: 1_000, checksum: 0xbbbb };
    // Repeats and parts are ignored, and do not replace the checksum.
    assert_eq!(insert(&mut store, 0, 0, 0, 1_000, 0xcccc), Ok(()));
    assert_eq!(insert(&mut store, 0, 200, 200, 300, 0xcccc), Ok(()));
    assert_eq!(store.checked_at(at(0)), Some(first));
    assert_eq!(store.checked_at(at(999)), Some(first));
    assert_eq!(store.checked_at(at(1_000)), Some(second));
    assert_eq!(store.checked_at(at(2_000)), None);
    assert_eq!(store.find(at(400)), span(400, 600));
    // What overlaps in part cannot be verified by either checksum.
    let conflict = Err(MappingError::Conflict);
    assert_eq!(insert(&mut store, 0, 500, 500, 1_000, 0xcccc), conflict);
    assert_eq!(insert(&mut store, 0, 1_500, 1_500, 1_000, 0xcccc), conflict);
    assert_eq!(insert(&mut store, 0, 0, 1, 1_000, 0xaaaa), conflict);
    assert_eq!(store.insert(at(0), at(500), data(500), 5_000, None), conflict);
    // Half delivered, the whole is still there; then it is gone.
    store.release(at(500));
    assert_eq!(store.checked_at(at(500)), Some(first));
    assert_eq!(insert(&mut store, 500, 0, 0, 1_000, 0xaaaa), Ok(()));
    store.release(at(1_000));
    assert_eq!(store.len(), 1);
    assert_eq!(insert(&mut store, 1_000, 0, 0, 1_000, 0xaaaa), Ok(()));
    // The first half of this one is gone: nothing could verify it.
    store.release(at(2_000));
    assert_eq!(insert(&mut store, 2_000, 1_500, 1_500, 1_000, 0xdddd), conflict);
}

/// One entry per byte, in offsets from the first.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<u32, Byte>,
    /// Mappings with checksums, as inserted.
    owners: Vec<(u32, u64, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Byte {
    dsn: u64,
    owner: Option<usize>,
}

impl Model {
    fn insert(
        &mut self,
        rcv_nxt: u32,
        start: i64,
        dsn: u64,
        len: u32,
        checked: bool,
    ) -> Result<(), MappingError> {
        let offsets: Vec<(u32, u64)> = (0..u64::from(len))
            .filter_map(|i| {
                let offset = u32::try_from(start + i64::try_from(i).unwrap()).ok()?;
                (offset >= rcv_nxt).then_some((offset, dsn.wrapping_add(i)))
            })
            .collect();
        let known: Vec<Option<Byte>> =
            offsets.iter().map(|(offset, _)| self.bytes.get(offset).copied()).collect();
        if offsets.iter().zip(&known).any(|((_, dsn), byte)| byte.is_some_and(|b| b.dsn != *dsn)) {
            return Err(MappingError::Conflict);
        }
        if checked {
            let owners: Vec<_> = known.iter().map(|byte| byte.and_then(|b| b.owner)).collect();
            if owners.iter().all(|owner| owner.is_some() && *owner == owners[0]) {
                return Ok(());
            }
            if owners.iter().any(Option::is_some) || offsets.len() < len as usize {
                return Err(MappingError::Conflict);
            }
            self.owners.push((offsets[0].0, dsn, len));
        }
        let owner = checked.then(|| self.owners.len() - 1);
        for (offset, dsn) in offsets {
            self.bytes.entry(offset).or_insert(Byte { dsn, owner });
        }
        Ok(())
    }

    fn release(&mut self, up_to: u32) {
        self.bytes.retain(|offset, _| *offset >= up_to);
    }

    /// Bytes from `offset` on that one entry of the store must hold.
    fn run(&self, offset: u32) -> u32 {
        let Some(first) = self.bytes.get(&offset) else { return 0 };
        let same = |i: &u32| {
            let expected = Byte { dsn: first.dsn.wrapping_add(u64::from(*i)), owner: first.owner };
            self.bytes.get(&(offset + i)) == Some(&expected)
        };
        (1..).take_while(same).count() as u32 + 1
    }

    fn entries(&self) -> usize {
        let mut entries = 0;
        let mut offset = 0;
        while let Some((&start, _)) = self.bytes.range(offset..).next() {
            offset = start + self.run(start);
            entries += 1;
        }
        entries
    }
}

/// The store and the model, driven alike.
struct Pair {
    store: MappingStore,
    model: Model,
    seq: SeqNum,
    dsn: DataSeq,
    released: u32,
}

impl Pair {
    fn new(seq: u32, dsn: u64) -> Self {
        Self {
            store: MappingStore::new(),
            model: Model::default(),
            seq: SeqNum(seq),
            dsn: DataSeq(dsn),
            released: 0,
        }
    }

    fn insert(
        &mut self,
        rcv_nxt: u32,
        start: i64,
        dsn: u64,
        len: u32,
        checked: bool,
    ) -> Result<(), MappingError> {
        let seq = SeqNum(self.seq.0.wrapping_add_signed(i32::try_from(start).unwrap()));
        // Which mapping a checksum belongs to can be told from the checksum.
        let checksum = checked.then(|| u16::try_from(len).unwrap() ^ seq.0 as u16);
        let dsn = self.dsn.add(dsn);
        let result = self.store.insert(self.seq.add(rcv_nxt), seq, dsn, len, checksum);
        assert_eq!(result, self.model.insert(rcv_nxt, start, dsn.0, len, checked));
        self.check(rcv_nxt + 400);
        result
    }

    fn release(&mut self, up_to: u32) {
        self.store.release(self.seq.add(up_to));
        self.model.release(up_to);
        self.released = up_to;
        self.check(up_to + 400);
    }

    fn check(&self, end: u32) {
        assert_eq!(self.store.len(), self.model.entries());
        for offset in self.released..end {
            let at = self.seq.add(offset);
            let byte = self.model.bytes.get(&offset);
            let expected =
                byte.map(|byte| Span { dsn: DataSeq(byte.dsn), len: self.model.run(offset) });
            assert_eq!(self.store.find(at), expected, "at offset {offset}");
            let next = self.model.bytes.range(offset..).next();
            assert_eq!(self.store.next_start(at), next.map(|(&offset, _)| self.seq.add(offset)));
            let owner = byte.and_then(|byte| byte.owner).map(|owner| self.model.owners[owner]);
            let checked = owner.map(|(start, dsn, len)| {
                let start = self.seq.add(start);
                let checksum = u16::try_from(len).unwrap() ^ start.0 as u16;
                Checked { start, dsn: DataSeq(dsn), len, checksum }
            });
            assert_eq!(self.store.checked_at(at), checked);
        }
    }
}

/// Sequence numbers around which the test runs: the wrap, the sign change, anywhere.
fn origin() -> impl Strategy<Value = (u32, u64)> {
    let seq = prop_oneof![u32::MAX - 300..=u32::MAX, (1 << 31) - 300u32..1 << 31, any::<u32>()];
    let dsn = prop_oneof![u64::MAX - 300..=u64::MAX, any::<u64>()];
    (seq, dsn)
}

#[derive(Clone, Debug)]
enum Step {
    /// Start relative to `rcv_nxt`, error of the data sequence number, length.
    Insert {
        start: i64,
        error: u64,
        len: u32,
    },
    Deliver(u32),
    Release,
}

fn step(error: impl Strategy<Value = u64>) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (-40i64..200, error, 0u32..90)
            .prop_map(|(start, error, len)| Step::Insert { start, error, len }),
        1 => (0u32..60).prop_map(Step::Deliver),
        1 => Just(Step::Release),
    ]
}

/// Runs the steps; returns how many insertions were refused.
fn run(origin: (u32, u64), steps: Vec<Step>, checked: bool) -> usize {
    let mut pair = Pair::new(origin.0, origin.1);
    let mut rcv_nxt = 0;
    let mut refused = 0;
    for step in steps {
        match step {
            Step::Insert { start, error, len } => {
                let start = i64::from(rcv_nxt) + start;
                // The stream is 1,000 bytes ahead of the subflow, plus the error.
                let dsn = (start + 1_000 + i64::try_from(error).unwrap()).cast_unsigned();
                refused += usize::from(pair.insert(rcv_nxt, start, dsn, len, checked).is_err());
            }
            Step::Deliver(bytes) => rcv_nxt += bytes,
            Step::Release => pair.release(rcv_nxt),
        }
    }
    refused
}

proptest! {
    /// Whatever is cut from one consistent stream is accepted in any order and shape.
    #[test]
    fn consistent_mappings_are_never_refused(
        origin in origin(),
        steps in prop::collection::vec(step(Just(0)), 1..40),
    ) {
        prop_assert_eq!(run(origin, steps, false), 0);
    }

    /// With jumps in the stream, contradictions are found exactly where the bytes say so.
    #[test]
    fn contradictions_are_found_byte_by_byte(
        origin in origin(),
        steps in prop::collection::vec(step(prop_oneof![6 => Just(0), 1 => 1u64..3]), 1..40),
    ) {
        run(origin, steps, false);
    }

    #[test]
    fn checked_mappings_match_the_model(
        origin in origin(),
        steps in prop::collection::vec(step(prop_oneof![9 => Just(0), 1 => 1u64..3]), 1..40),
    ) {
        run(origin, steps, true);
    }

    /// A stream cut into mappings with jumps, each repeated, split and shuffled, as a sender that
    /// re-segments might.
    #[test]
    fn resegmented_streams_are_reassembled(
        origin in origin(),
        pieces in prop::collection::vec((1u32..60, 0u64..3), 1..8),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0u32..60, 1u32..60), 0..40),
    ) {
        let mut whole = Vec::new();
        let (mut start, mut dsn) = (0, 0);
        for (len, jump) in pieces {
            dsn += jump;
            whole.push((start, dsn, len));
            start += len;
            dsn += u64::from(len);
        }
        let mut pair = Pair::new(origin.0, origin.1);
        for (piece, skip, len) in cuts {
            let &(start, dsn, piece_len) = piece.get(&whole);
            let skip = skip % piece_len;
            let len = len.min(piece_len - skip);
            let result =
                pair.insert(0, i64::from(start + skip), dsn + u64::from(skip), len, false);
            prop_assert_eq!(result, Ok(()));
        }
        for &(start, dsn, len) in whole.iter().rev() {
            prop_assert_eq!(pair.insert(0, i64::from(start), dsn, len, false), Ok(()));
        }
        let mut at = 0;
        while at < start {
            let span = pair.store.find(pair.seq.add(at)).unwrap();
            at += span.len;
        }
        prop_assert_eq!(at, start);
    }

    /// No sequence of calls panics or exceeds the limits, however little sense it makes.
    #[test]
    fn nonsense_is_survived(
        calls in prop::collection::vec(
            (anywhere(), anywhere(), any::<u64>(), 0..2 * HORIZON, any::<Option<u16>>()),
            1..200,
        ),
    ) {
        let mut store = MappingStore::new();
        for (rcv_nxt, start, dsn, len, checksum) in calls {
            let len = if len % 2 == 0 { len >> 16 } else { len };
            let _ = store.insert(rcv_nxt, start, DataSeq(dsn), len, checksum);
            for at in [rcv_nxt, start] {
                prop_assert!(store.find(at).is_none_or(|span| span.len <= HORIZON));
                prop_assert!(store.next_start(at).is_none_or(|_| !store.is_empty()));
                prop_assert!(store.checked_at(at).is_none() || store.find(at).is_some());
            }
            if len % 3 == 0 {
                store.release(rcv_nxt);
            }
            prop_assert!(store.len() <= MAX_MAPPINGS);
        }
    }
}

/// Few distinct places, so that they meet: near the quarters of the sequence space.
fn anywhere() -> impl Strategy<Value = SeqNum> {
    (0u32..4, 0u32..50).prop_map(|(quarter, offset)| SeqNum((quarter << 30).wrapping_add(offset)))
}
