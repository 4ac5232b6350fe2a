//! The receive queue against a naive model of octets, with buffers of every truesize.

mod plain;

use super::*;
use crate::buf::HeapBuf;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// The first octet of the stream; near the wrap.
const FIRST: SeqNum = SeqNum(u32::MAX - 20);
const SPACE: u32 = 64;

/// Octets `at..at + len` of the stream in a buffer with `tailroom` octets behind them.
fn buf(at: u32, len: u32, tailroom: usize) -> HeapBuf {
    let bytes: Vec<u8> = (at..at + len).map(|octet| octet as u8).collect();
    let mut buf = HeapBuf::with_capacity(0, bytes.len() + tailroom);
    assert!(buf.copy_from(&bytes));
    buf
}

struct Queue {
    queue: RecvQueue<HeapBuf>,
    nxt: u32,
    read: u32,
    pruned: u64,
}

impl Queue {
    fn new() -> Self {
        Self { queue: RecvQueue::new(), nxt: 0, read: 0, pruned: 0 }
    }

    fn insert(&mut self, at: u32, buf: HeapBuf, budget: u32) -> Inserted {
        let (rcv_nxt, seq) = (FIRST.add(self.nxt), FIRST.add(at));
        let inserted = self.queue.insert(rcv_nxt, seq, buf, budget, true, &mut self.pruned);
        if let Inserted::InOrder(octets) = inserted {
            self.nxt += octets;
        }
        inserted
    }

    fn pop(&mut self) -> bool {
        let Some(buf) = self.queue.pop() else { return false };
        for octet in buf.data() {
            assert_eq!(u32::from(*octet), self.read % 256);
            self.read += 1;
        }
        true
    }
}

/// Making room for the first gap throws away the piece behind it, which the segment reaches too.
#[test]
fn a_piece_that_is_thrown_away_leaves_a_larger_gap() {
    let mut q = Queue::new();
    let large = buf(40, 1, 2000);
    let budget = large.truesize() as u32 + buf(39, 3, 0).truesize() as u32 / 2;
    assert_eq!(q.insert(40, large, budget), Inserted::OutOfOrder);
    assert_eq!(q.insert(39, buf(39, 3, 0), budget), Inserted::OutOfOrder);
    assert_eq!(q.pruned, 1);
    assert_eq!(q.queue.sack_blocks().collect::<Vec<_>>(), [(FIRST.add(39), FIRST.add(42))]);
    assert_eq!(q.insert(0, buf(0, 39, 0), budget), Inserted::InOrder(42));
    while q.pop() {}
    assert_eq!(q.read, 42);
}

#[test]
fn in_order_data_is_packed_once_memory_is_short() {
    let mut q = Queue::new();
    let (mut at, budget) = (0, 100_000);
    // Too long to be copied for its own sake, too short for the buffer it is in.
    for _ in 0..400 {
        assert_eq!(q.insert(at, buf(at, 239, 1_500), budget), Inserted::InOrder(239));
        at += 239;
    }
    assert!(q.queue.truesize() < 200_000, "{}", q.queue.truesize());
    while q.pop() {}
    assert_eq!((q.read, q.queue.truesize()), (at, 0));
}

#[test]
fn in_order_data_that_cannot_be_packed_is_refused_in_the_end() {
    let mut q = Queue::new();
    let (mut at, budget) = (0, 20_000);
    while q.insert(at, buf(at, 1, 0), budget) == Inserted::InOrder(1) {
        at += 1;
        assert!(at < 10_000);
    }
    assert!(q.queue.truesize() <= 40_000);
    // A buffer of any size is taken once the reader took everything.
    while q.pop() {}
    assert_eq!(q.insert(at, buf(at, 10, 50_000), budget), Inserted::InOrder(10));
}

/// Two pieces of one buffer, with another between them: the buffer is free once both are gone.
#[test]
fn reneging_frees_a_buffer_from_the_end() {
    let mut q = Queue::new();
    assert_eq!(q.insert(4, buf(4, 2, 0), 10_000), Inserted::OutOfOrder);
    assert_eq!(q.insert(12, buf(12, 2, 0), 10_000), Inserted::OutOfOrder);
    assert_eq!(q.insert(10, buf(10, 6, 0), 10_000), Inserted::OutOfOrder);
    let blocks = |q: &Queue| q.queue.sack_blocks().collect::<Vec<_>>();
    let block = |start, end| (FIRST.add(start), FIRST.add(end));
    assert_eq!(blocks(&q), [block(10, 16), block(4, 6)]);
    // What is left of the long one keeps its memory, so the one between goes too.
    assert!(q.queue.renege(&mut q.pruned));
    assert_eq!((q.pruned, blocks(&q)), (2, vec![block(10, 12), block(4, 6)]));
    assert!(q.queue.renege(&mut q.pruned));
    assert!(q.queue.renege(&mut q.pruned));
    assert_eq!((q.pruned, q.queue.has_out_of_order(), q.queue.truesize()), (4, false, 0));
    assert!(!q.queue.renege(&mut q.pruned));
    assert_eq!(q.insert(0, buf(0, 16, 0), 10_000), Inserted::InOrder(16));
}

#[derive(Clone, Debug)]
enum Op {
    Insert { at: u32, len: u32, tailroom: usize },
    Pop,
    Renege,
}

fn op() -> impl Strategy<Value = Op> {
    let tailroom = prop_oneof![Just(0_usize), Just(0), 1..40_usize, Just(400)];
    prop_oneof![
        6 => (0..SPACE, 1..12_u32, tailroom)
            .prop_map(|(at, len, tailroom)| Op::Insert { at, len, tailroom }),
        1 => Just(Op::Pop),
        1 => Just(Op::Renege),
    ]
}

proptest! {
    /// What is taken as a whole is what would be taken one by one; so is what is taken out.
    #[test]
    fn together_is_as_one_by_one(
        bursts in prop::collection::vec(prop::collection::vec((60..200_u32, 0..400_usize), 0..12), 1..8),
        budget in 1_000..60_000_u32,
    ) {
        let (mut one, mut all) = (RecvQueue::new(), RecvQueue::new());
        let mut at = 0;
        for burst in bursts {
            let (mut bufs, mut twins) = (VecDeque::new(), Vec::new());
            for &(len, tailroom) in &burst {
                bufs.push_back(buf(at, len, tailroom));
                twins.push(buf(at, len, tailroom));
                at += len;
            }
            let (len, truesize) = (all.in_order_len(), all.truesize());
            let taken = all.append_all(&mut bufs, budget);
            if let Some(octets) = taken {
                prop_assert!(bufs.is_empty());
                for twin in twins {
                    let len = twin.data().len() as u32;
                    prop_assert_eq!(one.append(twin, budget), Some(len));
                }
                prop_assert_eq!(octets, burst.iter().map(|(len, _)| len).sum::<u32>());
            } else {
                prop_assert_eq!((all.in_order_len(), all.truesize()), (len, truesize));
                prop_assert_eq!(bufs.len(), burst.len());
                break;
            }
            prop_assert_eq!(one.in_order_len(), all.in_order_len());
            prop_assert_eq!((one.truesize(), one.in_order.len()), (all.truesize(), all.in_order.len()));
        }
        let (half, mut passed) = (all.iter().take(3).map(|b| b.data().len() as u32).sum(), RecvQueue::new());
        let before = (all.in_order_len(), all.truesize());
        if all.pass(half, &mut passed, budget) {
            let mut popped = RecvQueue::new();
            while popped.in_order_len() < half {
                popped.append(one.pop().unwrap(), budget);
            }
            let sizes = |q: &RecvQueue<HeapBuf>| (q.in_order_len(), q.truesize(), q.in_order.len());
            prop_assert_eq!(sizes(&passed), sizes(&popped));
            prop_assert_eq!(sizes(&all), sizes(&one));
        } else {
            prop_assert_eq!((all.in_order_len(), all.truesize()), before);
        }
        let octets: Vec<u8> = all.iter().flat_map(|b| b.to_vec()).collect();
        prop_assert_eq!(&octets, &one.iter().flat_map(|b| b.to_vec()).collect::<Vec<_>>());
        let mut queue = VecDeque::new();
        prop_assert_eq!(all.move_to(&mut queue), octets.len() as u32);
        prop_assert_eq!((all.in_order_len(), all.truesize(), all.is_unused()), (0, 0, true));
        prop_assert_eq!(queue.iter().flat_map(|b: &HeapBuf| b.to_vec()).collect::<Vec<_>>(), octets);
    }

    /// Whatever arrives in whatever buffers: no octet is made up or lost once it is acknowledged,
    /// memory has its bound, and the blocks name nothing that is not there.
    #[test]
    fn keeps_octets_and_bounds(
        ops in prop::collection::vec(op(), 1..120),
        budget in 60..2_000_u32,
    ) {
        let mut q = Queue::new();
        let mut held = vec![false; (SPACE + 16) as usize];
        for op in ops {
            match op {
                Op::Insert { at, len, tailroom } => {
                    let at = at.max(q.nxt);
                    let piece = buf(at, len, tailroom);
                    let pruned = q.pruned;
                    let inserted = q.insert(at, piece, budget);
                    let all = (at..at + len).all(|i| held.get(i as usize) == Some(&true));
                    match inserted {
                        Inserted::InOrder(_) => prop_assert!(q.nxt >= at + len),
                        Inserted::Duplicate => prop_assert!(all),
                        Inserted::OutOfOrder => prop_assert!(!all),
                        Inserted::Refused => {}
                    }
                    prop_assert!(pruned == q.pruned || inserted != Inserted::Duplicate);
                    let blocks: Vec<_> = q.queue.sack_blocks().collect();
                    held.fill(false);
                    for (start, end) in blocks {
                        let (start, end) = (start.since(FIRST), end.since(FIRST));
                        prop_assert!(q.nxt < start && start < end);
                        held.get_mut(start as usize..end as usize).unwrap().fill(true);
                    }
                }
                Op::Pop => {
                    q.pop();
                }
                Op::Renege => {
                    let freed = q.queue.renege(&mut q.pruned);
                    prop_assert!(freed || !q.queue.has_out_of_order());
                    held.fill(false);
                    for (start, end) in q.queue.sack_blocks() {
                        let known = start.since(FIRST) as usize..end.since(FIRST) as usize;
                        held.get_mut(known).unwrap().fill(true);
                    }
                }
            }
            let out_of_order = q.queue.reassembly.as_ref();
            prop_assert!(out_of_order.map_or(0, |r| r.truesize()) <= budget);
            if let Some(reassembly) = out_of_order {
                let mut end = q.nxt;
                for (seq, piece) in reassembly.pieces() {
                    let (at, len) = (seq.since(FIRST), piece.data().len() as u32);
                    prop_assert!(at > q.nxt && at >= end && len > 0);
                    prop_assert!((at..at + len).zip(piece.data()).all(|(i, o)| i == u32::from(*o)));
                    prop_assert!(held.get(at as usize..(at + len) as usize).unwrap().iter().all(|h| *h));
                    end = at + len;
                }
                let mut last = None;
                for (start, end) in reassembly.spans() {
                    prop_assert!(start.lt(end) && last.is_none_or(|last: SeqNum| last.lt(start)));
                    last = Some(end);
                }
                prop_assert_eq!(last, Some(FIRST.add(end)));
                let stored: usize = reassembly.pieces().map(|(_, piece)| piece.data().len()).sum();
                prop_assert_eq!(stored, held.iter().filter(|h| **h).count());
            }
            prop_assert!(q.queue.in_order_len() == q.nxt - q.read);
        }
        while q.pop() {}
        prop_assert_eq!(q.read, q.nxt);
        prop_assert_eq!(q.queue.in_order_len(), 0);
    }
}
