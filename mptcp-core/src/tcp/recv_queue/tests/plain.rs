//! What is out of order kept piece by piece, without a thought for what that costs.

use super::*;

const MAX_BLOCKS: usize = 32;

#[derive(Default)]
struct Plain {
    pieces: Vec<(SeqNum, HeapBuf)>,
    blocks: Vec<(SeqNum, SeqNum)>,
}

fn end((seq, buf): &(SeqNum, HeapBuf)) -> SeqNum {
    seq.add(buf.data().len() as u32)
}

impl Plain {
    fn truesize(&self) -> u32 {
        self.pieces.iter().map(|(_, buf)| buf.truesize() as u32).sum()
    }

    fn insert(&mut self, seq: SeqNum, buf: &HeapBuf, budget: u32, pruned: &mut u64) -> Inserted {
        let last = seq.add(buf.data().len() as u32);
        let (mut at, mut inserted) = (seq, Inserted::Duplicate);
        while at.lt(last) {
            let next = self.pieces.iter().find(|piece| end(piece).gt(at));
            let (next_seq, next_end) = next.map_or((last, last), |piece| (piece.0, end(piece)));
            if next_seq.le(at) {
                at = next_end;
                continue;
            }
            let until = next_seq.min(last);
            let part = buf.slice(at.since(seq) as usize..until.since(seq) as usize);
            let need = part.truesize() as u32;
            while self.truesize() + need > budget {
                if self.pieces.last().is_none_or(|piece| piece.0.lt(at)) {
                    let added = inserted == Inserted::OutOfOrder;
                    return if added { inserted } else { Inserted::Refused };
                }
                self.drop_last(pruned);
            }
            self.pieces.push((at, part));
            self.pieces.sort_by(|a, b| a.0.diff(b.0).cmp(&0));
            self.touch(at, until);
            (at, inserted) = (until, Inserted::OutOfOrder);
        }
        if inserted == Inserted::Duplicate {
            self.touch(seq, last);
        }
        inserted
    }

    fn drop_last(&mut self, pruned: &mut u64) -> bool {
        let Some(gone) = self.pieces.pop() else { return false };
        *pruned += 1;
        for block in &mut self.blocks {
            if block.1 == end(&gone) {
                block.1 = gone.0;
            }
        }
        self.blocks.retain(|(start, end)| start.lt(*end));
        true
    }

    fn touch(&mut self, start: SeqNum, end: SeqNum) {
        let (mut start, mut end) = (start, end);
        self.blocks.retain(|&(s, e)| {
            let apart = e.lt(start) || s.gt(end);
            if !apart {
                (start, end) = (start.min(s), end.max(e));
            }
            apart
        });
        self.blocks.insert(0, (start, end));
        self.blocks.truncate(MAX_BLOCKS);
    }

    fn take_reached(&mut self, nxt: SeqNum) {
        let mut nxt = nxt;
        while let Some(first) = self.pieces.first().filter(|(seq, _)| seq.le(nxt)) {
            nxt = nxt.max(end(first));
            self.pieces.remove(0);
        }
        self.blocks.retain(|(_, end)| end.gt(nxt));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert {
        at: u32,
        len: u32,
        tailroom: usize,
    },
    /// Goes on where the one before ended.
    Behind {
        len: u32,
    },
    Drop,
    Reach {
        at: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let tailroom = prop_oneof![Just(0_usize), 1..40_usize, Just(400)];
    prop_oneof![
        6 => (1..400_u32, 1..12_u32, tailroom)
            .prop_map(|(at, len, tailroom)| Op::Insert { at, len, tailroom }),
        6 => (1..8_u32).prop_map(|len| Op::Behind { len }),
        1 => Just(Op::Drop),
        1 => (0..400_u32).prop_map(|at| Op::Reach { at }),
    ]
}

proptest! {
    /// Spans hold the same pieces, say the same of each and report the same blocks in the same order.
    #[test]
    fn spans_are_as_piece_by_piece(
        ops in prop::collection::vec(op(), 1..150),
        budget in 200..20_000_u32,
        reported: bool,
    ) {
        let (mut spans, mut plain) = (Reassembly::new(reported), Plain::default());
        let (mut pruned, mut plainly) = (0, 0);
        let mut behind = 1;
        for op in ops {
            match op {
                Op::Insert { .. } | Op::Behind { .. } => {
                    let (at, len, tailroom) = match op {
                        Op::Insert { at, len, tailroom } => (at, len, tailroom),
                        Op::Behind { len } => (behind, len, 0),
                        _ => unreachable!(),
                    };
                    behind = at + len;
                    let (seq, piece) = (FIRST.add(at), buf(at, len, tailroom));
                    let expected = plain.insert(seq, &piece, budget, &mut plainly);
                    prop_assert_eq!(spans.insert(seq, piece, budget, &mut pruned), expected);
                }
                Op::Drop => {
                    let gone = spans.drop_last(&mut pruned).is_some();
                    prop_assert_eq!(gone, plain.drop_last(&mut plainly));
                }
                Op::Reach { at } => {
                    let mut nxt = FIRST.add(at);
                    prop_assert_eq!(spans.is_reached(nxt), plain.pieces.first().is_none_or(|p| p.0.le(nxt)));
                    plain.take_reached(nxt);
                    while let Some((seq, bufs)) = spans.take_reached(nxt) {
                        let mut bufs = bufs;
                        let len = bufs.drain(..).map(|b| b.data().len() as u32).sum();
                        nxt = nxt.max(seq.add(len));
                        spans.keep(bufs);
                    }
                    spans.forget_below(nxt);
                }
            }
            prop_assert_eq!((spans.truesize(), pruned), (plain.truesize(), plainly));
            let blocks = if reported { plain.blocks.clone() } else { Vec::new() };
            prop_assert_eq!(spans.blocks().collect::<Vec<_>>(), blocks);
            let here = |(seq, buf): (SeqNum, &HeapBuf)| (seq, buf.to_vec());
            let pieces: Vec<_> = spans.pieces().map(here).collect();
            let plainly: Vec<_> = plain.pieces.iter().map(|(seq, buf)| here((*seq, buf))).collect();
            prop_assert_eq!(pieces, plainly);
            let mut last = None;
            for (start, end) in spans.spans() {
                prop_assert!(start.lt(end) && last.is_none_or(|last: SeqNum| last.lt(start)));
                last = Some(end);
            }
        }
    }
}
