//! The retransmission queue against a naive model, and what an acknowledgement costs.

use super::*;
use crate::buf::HeapBuf;
use core::cell::Cell;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

std::thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// Entries looked at since the last call.
fn steps() -> u64 {
    STEPS.replace(0)
}

const START: SeqNum = SeqNum(u32::MAX - 300);

fn ms(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn segment(seq: SeqNum, len: u32, now: Instant) -> TxSegment<HeapBuf> {
    TxSegment {
        seq,
        len,
        flags: SegmentFlags::empty(),
        transmissions: 1,
        sent_at: now,
        stamp: Stamp::default(),
        payload: Some(HeapBuf::from_slice(&vec![0; len as usize])),
        mapping: None,
        place: Place::NOWHERE,
    }
}

/// `count` segments of ten octets, sent at 1 ms.
fn filled(count: u32) -> SendQueue<HeapBuf> {
    let mut queue = SendQueue::new();
    for n in 0..count {
        queue.push(TxSegment { payload: None, ..segment(START.add(n * 10), 10, ms(1)) });
    }
    steps();
    queue
}

fn at(n: u32) -> SeqNum {
    START.add(n * 10)
}

/// One acknowledgement with these blocks, in segments, as `process_ack` digests it.
fn acknowledge(
    queue: &mut SendQueue<HeapBuf>,
    blocks: &[(u32, u32)],
    window_ms: u64,
    now: Instant,
) {
    let mut delivered = queue.acknowledge(START);
    let fack = queue.highest_sacked(START);
    for &(start, end) in blocks {
        queue.sack(at(start), at(end), &mut delivered, fack);
    }
    if let Some(newest) = delivered.newest {
        queue.mark_overtaken(newest.transmission, Duration::from_millis(window_ms), now);
    }
}

fn with_payload(count: u32) -> SendQueue<HeapBuf> {
    let mut queue = SendQueue::new();
    for n in 0..count {
        queue.push(segment(at(n), 10, ms(1)));
    }
    steps();
    queue
}

/// The segment size has shrunk when all is sent again: to cut it costs as much as to send it.
#[test]
fn a_smaller_size_costs_each_segment_once() {
    let count = 2_000;
    let mut queue = with_payload(count);
    queue.mark_timed_out(None, ms(2));
    let mut sent = START;
    while let Some(idx) = queue.first_lost() {
        let idx = queue.split_all(idx, |_| 4);
        let segment = queue.get(idx).unwrap();
        assert_eq!((segment.seq, segment.len <= 4), (sent, true));
        sent = segment.end();
        queue.retransmitted(idx, ms(2), Stamp::default());
    }
    assert_eq!((sent, queue.len()), (at(count), 3 * count as usize));
    let steps = steps();
    assert!(steps < u64::from(20 * count), "{steps} for {count}");
}

/// All at once, or one by one: the same comes of it.
#[test]
fn what_is_cut_at_once_is_what_is_cut_one_by_one() {
    let [mut one, mut all] = [(); 2].map(|()| {
        let mut queue = with_payload(30);
        acknowledge(&mut queue, &[(3, 5), (8, 12)], 0, ms(2));
        for _ in 0..4 {
            let idx = queue.first_lost().unwrap();
            queue.retransmitted(idx, ms(3), Stamp::default());
        }
        acknowledge(&mut queue, &[(20, 21)], 0, ms(4));
        queue
    });
    let whole = |s: &TxSegment<HeapBuf>| !s.is_sacked() && s.len > 4;
    loop {
        let found = one.iter().position(whole);
        let Some(idx) = found else { break };
        one.split(idx, 4);
    }
    let again = all.first_lost().unwrap();
    let again = all.split_all(again, |_| 4);
    assert_eq!(all.get(again).unwrap().seq, at(6));
    let seen = |queue: &SendQueue<HeapBuf>, list: List| {
        let mut seqs = Vec::new();
        let mut at = list.head;
        while let Some(segment) = queue.index(at).and_then(|idx| queue.get(idx)) {
            seqs.push(segment.seq);
            at = segment.place.next;
        }
        let tail = queue.index(list.tail).and_then(|idx| queue.get(idx)).map(|s| s.seq);
        assert_eq!(tail, seqs.last().copied());
        seqs
    };
    assert_eq!(seen(&one, one.flight), seen(&all, all.flight));
    assert_eq!(seen(&one, one.lost), seen(&all, all.lost));
    assert_eq!(one.lost_bytes(), all.lost_bytes());
    let shape = |queue: &SendQueue<HeapBuf>| {
        let text = |s: &TxSegment<HeapBuf>| s.payload.as_ref().map_or(0, |buf| buf.data_len());
        queue.iter().map(|s| (s.seq, s.len, s.flags, text(s))).collect::<Vec<_>>()
    };
    assert_eq!(shape(&one), shape(&all));
    // The runs of what was selectively acknowledged are still jumped over.
    for queue in [&mut one, &mut all] {
        acknowledge(queue, &[(3, 12)], 0, ms(5));
    }
    assert_eq!((one.sacked_bytes(), one.sacked_bytes()), (all.sacked_bytes(), 100));
}

/// A peer that acknowledges one more segment with every ACK, and repeats blocks over all the others.
#[test]
fn repeated_blocks_cost_nothing() {
    let count = 20_000;
    let mut queue = filled(count);
    for n in 1..count {
        acknowledge(
            &mut queue,
            &[(n, n + 1), (1, n), (n / 2 + 1, n + 1), (n / 3 + 1, n)],
            1_000,
            ms(2),
        );
    }
    assert_eq!(queue.sacked_count(), count - 1);
    let steps = steps();
    assert!(steps < 30 * u64::from(count), "{steps}");
}

/// The same from the back, with every other segment missing until the end.
#[test]
fn scattered_blocks_cost_what_they_change() {
    let count = 20_000;
    let mut queue = filled(count);
    let odd = (1..count).rev().step_by(2);
    for n in odd.chain((1..count - 1).step_by(2)) {
        acknowledge(
            &mut queue,
            &[(n, n + 1), (n, n + 1), (n / 2 * 2 + 1, n / 2 * 2 + 2)],
            1_000,
            ms(2),
        );
    }
    for _ in 0..1_000 {
        acknowledge(&mut queue, &[(1, count), (1, count), (1, count), (1, count)], 1_000, ms(2));
    }
    let steps = steps();
    assert!(steps < 30 * u64::from(count), "{steps}");
}

/// Loss detection and repair: each segment is marked and repaired once, whatever is in flight.
#[test]
fn detection_and_repair_cost_what_they_mark() {
    let count = 20_000;
    let mut queue = filled(count);
    acknowledge(&mut queue, &[(count - 1, count)], 1, ms(10));
    assert_eq!(queue.lost_bytes(), 10 * (count - 1));
    for n in 0..count - 1 {
        assert_eq!(queue.first_lost(), Some(n as usize));
        queue.retransmitted(n as usize, ms(11), Stamp::default());
        // Nothing is overtaken, or too recently to be lost.
        acknowledge(&mut queue, &[(count - 1, count)], 1, ms(11));
        let newest = Transmission(queue.next_order);
        queue.mark_overtaken(newest, Duration::from_millis(5), ms(11));
    }
    // The repairs are lost again, the head first.
    for n in (1..count - 1).rev() {
        acknowledge(&mut queue, &[(n, n + 1), (n, count)], 1, ms(11));
    }
    let steps = steps();
    assert!(steps < 30 * u64::from(count), "{steps}");
}

#[test]
fn a_repair_that_is_lost_again_goes_before_what_is_behind_it() {
    let mut queue = filled(20);
    acknowledge(&mut queue, &[(19, 20)], 1, ms(10));
    for n in 0..5 {
        queue.retransmitted(n, ms(20 + n as u64), Stamp::default());
    }
    acknowledge(&mut queue, &[(4, 5)], 0, ms(30));
    let mut order = Vec::new();
    while let Some(idx) = queue.first_lost() {
        order.push(idx);
        queue.retransmitted(idx, ms(31), Stamp::default());
    }
    assert_eq!(order, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
}

/// A receiver that keeps no more than the head brings may need it before anything else (swarm seeds
/// 239624 and 240560 of at most 1 MiB).
#[test]
fn a_timeout_repairs_the_head_before_what_was_marked_earlier() {
    let mut queue = filled(10);
    for idx in [5, 1, 8, 3] {
        queue.mark_lost(idx);
    }
    queue.retransmitted(1, ms(1), Stamp::default());
    queue.retransmitted(5, ms(1), Stamp::default());
    queue.acknowledge(at(3));
    assert_eq!(queue.first_lost(), Some(5), "in the order of the marks");
    queue.mark_timed_out(Some(Duration::from_millis(50)), ms(5));
    assert_eq!(queue.first_lost(), Some(0));
    queue.retransmitted(0, ms(5), Stamp::default());
    assert_eq!(queue.first_lost(), Some(5), "the rest as before");
}

#[test]
fn repairing_the_tail_first_leaves_the_rest_lost() {
    let mut queue = filled(4);
    queue.mark_timed_out(None, ms(5));
    queue.retransmitted(3, ms(5), Stamp::default());
    assert_eq!((queue.first_lost(), queue.lost_bytes()), (Some(0), 30));
}

#[test]
fn a_timeout_takes_what_is_recent_for_in_flight() {
    let mut queue = filled(3);
    queue.push(segment(at(3), 10, ms(100)));
    queue.mark_timed_out(Some(Duration::from_millis(50)), ms(101));
    let lost: Vec<_> = queue.iter().map(|s| s.is(SegmentFlags::LOST)).collect();
    assert_eq!(lost, [true, true, true, false]);
    // The head goes in any case.
    let mut queue = filled(2);
    queue.mark_timed_out(Some(Duration::from_millis(50)), ms(2));
    assert_eq!(queue.lost_bytes(), 10);
}

#[derive(Clone, Debug)]
enum Op {
    Push(u32),
    Ack(u32),
    Sack(u32, u32),
    Overtaken { back: u32, window_ms: u64 },
    TimedOut(Option<u64>),
    Repair,
    Resend(u32),
    Undo,
    Split(u32, u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..9_u32).prop_map(Op::Push),
        2 => (0..40_u32).prop_map(Op::Ack),
        6 => (0..120_u32, 0..40_u32).prop_map(|(start, len)| Op::Sack(start, len)),
        3 => (0..20_u32, 0..12_u64).prop_map(|(back, window_ms)| Op::Overtaken { back, window_ms }),
        1 => prop::option::of(0..12_u64).prop_map(Op::TimedOut),
        4 => Just(Op::Repair),
        1 => (0..30_u32).prop_map(Op::Resend),
        1 => Just(Op::Undo),
        1 => (0..30_u32, 1..5_u32).prop_map(|(idx, len)| Op::Split(idx, len)),
    ]
}

#[derive(Clone, Debug)]
struct Naive {
    start: u32,
    end: u32,
    sacked: bool,
    lost: bool,
    order: u32,
    /// Sent more than once.
    again: bool,
    sent_at: Instant,
}

/// What the lists say, walked both ways.
fn listed(queue: &SendQueue<HeapBuf>, list: List) -> Vec<usize> {
    let mut indices = Vec::new();
    let (mut number, mut prev) = (list.head, NIL);
    while let Some(idx) = queue.index(number) {
        let place = queue.get(idx).unwrap().place;
        assert_eq!(place.prev, prev);
        indices.push(idx);
        (prev, number) = (number, place.next);
    }
    assert_eq!(list.tail, prev);
    indices
}

fn check(queue: &SendQueue<HeapBuf>, model: &[Naive], una: u32) {
    assert_eq!(queue.len(), model.len());
    for (segment, naive) in queue.iter().zip(model) {
        assert_eq!(segment.seq, START.add(naive.start));
        assert_eq!(segment.end(), START.add(naive.end));
        let flags = (segment.is(SegmentFlags::SACKED), segment.is(SegmentFlags::LOST));
        assert_eq!(flags, (naive.sacked, naive.lost));
        assert_eq!((segment.place.order, segment.sent_at), (naive.order, naive.sent_at));
    }
    let octets = |wanted: fn(&Naive) -> bool| -> u32 {
        model.iter().filter(|n| wanted(n)).map(|n| n.end - n.start).sum()
    };
    assert_eq!(queue.sacked_bytes(), octets(|n| n.sacked));
    assert_eq!(queue.lost_bytes(), octets(|n| n.lost));
    assert_eq!(queue.sacked_count() as usize, model.iter().filter(|n| n.sacked).count());
    let highest = model.iter().rev().find(|n| n.sacked).map_or(una, |n| n.end);
    assert_eq!(queue.highest_sacked(START.add(una)), START.add(highest));
    let mut flight = listed(queue, queue.flight);
    assert!(flight.is_sorted_by_key(|&i| model[i].order), "{flight:?}");
    flight.sort_unstable();
    let wanted = (0..model.len()).filter(|&i| !model[i].sacked && !model[i].lost);
    assert_eq!(flight, wanted.collect::<Vec<_>>());
    let mut lost = listed(queue, queue.lost);
    assert_eq!(queue.first_lost(), lost.first().copied());
    lost.sort_unstable();
    assert_eq!(lost, (0..model.len()).filter(|&i| model[i].lost).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn behaves_like_a_list_of_segments(ops in prop::collection::vec(op(), 1..150)) {
        let mut queue = SendQueue::new();
        let mut model: Vec<Naive> = Vec::new();
        let (mut una, mut nxt, mut order) = (0, 0, 1);
        for (now, op) in (1..).map(ms).zip(ops) {
            match op {
                Op::Push(len) => {
                    queue.push(segment(START.add(nxt), len, now));
                    model.push(Naive {
                        start: nxt, end: nxt + len, sacked: false, lost: false, order, again: false,
                        sent_at: now,
                    });
                    nxt += len;
                    order += 1;
                }
                Op::Ack(octets) => {
                    una = (una + octets).min(nxt);
                    let newly: u32 = model
                        .iter()
                        .filter(|n| !n.sacked)
                        .map(|n| n.end.min(una).saturating_sub(n.start))
                        .sum();
                    let whole: Vec<_> = model.iter().filter(|n| n.end <= una).collect();
                    let newest = |once: bool| {
                        let new = whole.iter().filter(|n| !(n.sacked || once && n.again));
                        new.map(|n| n.order).max()
                    };
                    let known = |from: u32| model.iter().any(|n| n.sacked && n.start >= from);
                    let reordered = whole.iter().any(|n| !n.sacked && !n.again && known(n.start));
                    let delivered = queue.acknowledge(START.add(una));
                    prop_assert_eq!(delivered.bytes, newly);
                    prop_assert_eq!(delivered.newest.map(|n| n.transmission.0), newest(false));
                    prop_assert_eq!(delivered.newest_original.map(|n| n.transmission.0), newest(true));
                    prop_assert_eq!(delivered.reordered, reordered);
                    model.retain(|n| n.end > una);
                    if let Some(first) = model.first_mut() {
                        first.start = first.start.max(una);
                    }
                }
                Op::Sack(start, len) => {
                    let (start, end) = ((una + start).min(nxt), (una + start + len).min(nxt));
                    let mut delivered = Delivered::default();
                    let fack = queue.highest_sacked(START.add(una));
                    queue.sack(START.add(start), START.add(end), &mut delivered, fack);
                    let mut newest = None;
                    for naive in model.iter_mut().filter(|n| n.start >= start && n.end <= end) {
                        if !naive.sacked {
                            newest = newest.max(Some(naive.order));
                        }
                        (naive.sacked, naive.lost) = (true, false);
                    }
                    prop_assert_eq!(delivered.newest.map(|n| n.transmission.0), newest);
                }
                Op::Overtaken { back, window_ms } => {
                    let newest = u32::saturating_sub(order, back);
                    let window = Duration::from_millis(window_ms);
                    let due = queue.mark_overtaken(Transmission(newest), window, now);
                    let mut earliest: Option<Instant> = None;
                    for naive in model.iter_mut() {
                        if naive.sacked || naive.lost || naive.order >= newest {
                            continue;
                        }
                        let at = naive.sent_at + window;
                        if at <= now {
                            naive.lost = true;
                        } else {
                            earliest = Some(earliest.map_or(at, |e| e.min(at)));
                        }
                    }
                    prop_assert_eq!(due, earliest);
                }
                Op::TimedOut(window_ms) => {
                    queue.mark_timed_out(window_ms.map(Duration::from_millis), now);
                    let reneged = model.first().is_some_and(|n| n.sacked);
                    for (idx, naive) in model.iter_mut().enumerate() {
                        let window = window_ms.filter(|_| !reneged && idx > 0);
                        let recent = window.is_some_and(|w| {
                            naive.sent_at + Duration::from_millis(w) > now
                        });
                        naive.sacked &= !reneged;
                        naive.lost |= !naive.sacked && !recent;
                    }
                }
                Op::Repair | Op::Resend(_) => {
                    let idx = match op {
                        Op::Resend(idx) => Some(idx as usize).filter(|&i| i < model.len()),
                        _ => queue.first_lost(),
                    };
                    if let Some(idx) = idx.filter(|&i| !model[i].sacked) {
                        queue.retransmitted(idx, now, Stamp::default());
                        let naive = &mut model[idx];
                        (naive.lost, naive.order, naive.sent_at) = (false, order, now);
                        naive.again = true;
                        order += 1;
                    }
                }
                Op::Undo => {
                    queue.clear_lost();
                    model.iter_mut().for_each(|n| n.lost = false);
                }
                Op::Split(idx, len) => {
                    let idx = idx as usize;
                    queue.split(idx, len);
                    if let Some(naive) = model.get_mut(idx)
                        && naive.end - naive.start > len
                    {
                        let tail = Naive { start: naive.start + len, ..naive.clone() };
                        naive.end = naive.start + len;
                        model.insert(idx + 1, tail);
                    }
                }
            }
            check(&queue, &model, una);
        }
    }
}
