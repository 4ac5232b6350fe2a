//! In-order data waiting for its reader, and the reassembly queue behind it (RFC 9293 §3.10.7.4
//! seventh step, RFC 2018, RFC 2883). Memory is accounted as truesize.
//!
//! Invariant: out-of-order pieces never overlap each other nor anything already in order.

use crate::buf::PacketBuf;
use crate::seq::SeqNum;
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// SACK blocks remembered; more holes than this are repaired all the same, only reported later.
const MAX_BLOCKS: usize = 32;

#[derive(Debug)]
struct Piece<B> {
    seq: SeqNum,
    buf: B,
}

impl<B: PacketBuf> Piece<B> {
    fn end(&self) -> SeqNum {
        self.seq.add(self.buf.data().len() as u32)
    }
}

/// Present only while something is out of order.
#[derive(Debug)]
struct Reassembly<B> {
    pieces: VecDeque<Piece<B>>,
    /// Contiguous ranges, the most recently changed first (RFC 2018 §4).
    blocks: VecDeque<(SeqNum, SeqNum)>,
    truesize: u32,
}

/// What became of an arriving piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inserted {
    /// It, and perhaps more behind it, is now in order: `rcv_nxt` moved by this much.
    InOrder(u32),
    /// Kept for later.
    OutOfOrder,
    /// Wholly known already.
    Duplicate,
    /// No memory for it.
    Refused,
}

/// The receive side's data of one connection.
#[derive(Debug)]
pub(crate) struct RecvQueue<B> {
    in_order: VecDeque<B>,
    in_order_len: u32,
    truesize: u32,
    reassembly: Option<Box<Reassembly<B>>>,
}

impl<B: PacketBuf> RecvQueue<B> {
    pub(crate) const fn new() -> Self {
        Self { in_order: VecDeque::new(), in_order_len: 0, truesize: 0, reassembly: None }
    }

    /// Takes `buf`, whose first octet is `seq` (not below `rcv_nxt`, already cut to the window).
    /// `budget` bounds the truesize of what is out of order.
    pub(crate) fn insert(
        &mut self,
        rcv_nxt: SeqNum,
        seq: SeqNum,
        buf: B,
        budget: u32,
        pruned: &mut u64,
    ) -> Inserted {
        if seq == rcv_nxt {
            let mut moved = buf.data().len() as u32;
            self.push_in_order(buf);
            moved += self.pull(rcv_nxt.add(moved));
            return Inserted::InOrder(moved);
        }
        self.insert_out_of_order(seq, buf, budget, pruned)
    }

    fn push_in_order(&mut self, buf: B) {
        let len = buf.data().len();
        if let Some(tail) = self.in_order.back_mut()
            && len * 8 <= buf.truesize()
            && let Some(room) = tail.append(len)
        {
            // A small segment in a large buffer: copying it frees the buffer.
            room.copy_from_slice(buf.data());
        } else {
            self.truesize += buf.truesize() as u32;
            self.in_order.push_back(buf);
        }
        self.in_order_len += len as u32;
    }

    /// Moves pieces that start at `next` behind the in-order data; answers the octets moved.
    fn pull(&mut self, next: SeqNum) -> u32 {
        let Some(mut reassembly) = self.reassembly.take() else { return 0 };
        let mut nxt = next;
        while let Some(front) = reassembly.pieces.front() {
            if front.seq.gt(nxt) {
                break;
            }
            let Some(mut piece) = reassembly.pieces.pop_front() else { break };
            reassembly.truesize -= piece.buf.truesize() as u32;
            let known = nxt.since(piece.seq) as usize;
            if known < piece.buf.data().len() {
                piece.buf.trim_front(known);
                nxt = nxt.add(piece.buf.data().len() as u32);
                self.push_in_order(piece.buf);
            }
        }
        reassembly.blocks.retain(|(_, end)| end.gt(nxt));
        if !reassembly.pieces.is_empty() {
            self.reassembly = Some(reassembly);
        }
        nxt.since(next)
    }

    fn insert_out_of_order(
        &mut self,
        seq: SeqNum,
        buf: B,
        budget: u32,
        pruned: &mut u64,
    ) -> Inserted {
        let reassembly = self.reassembly.get_or_insert_with(|| {
            Box::new(Reassembly { pieces: VecDeque::new(), blocks: VecDeque::new(), truesize: 0 })
        });
        let inserted = reassembly.insert(seq, buf, budget, pruned);
        if reassembly.pieces.is_empty() {
            self.reassembly = None;
        }
        inserted
    }

    /// The next in-order buffer.
    pub(crate) fn pop(&mut self) -> Option<B> {
        let buf = self.in_order.pop_front()?;
        self.in_order_len -= buf.data().len() as u32;
        self.truesize -= (buf.truesize() as u32).min(self.truesize);
        if self.in_order.is_empty() {
            self.truesize = 0;
            if self.in_order.capacity() > 64 {
                self.in_order = VecDeque::new();
            }
        }
        Some(buf)
    }

    /// Puts back what `pop` gave, or its unread tail.
    pub(crate) fn unpop(&mut self, buf: B) {
        self.in_order_len += buf.data().len() as u32;
        self.truesize += buf.truesize() as u32;
        self.in_order.push_front(buf);
    }

    /// Octets in order and unread.
    pub(crate) fn in_order_len(&self) -> u32 {
        self.in_order_len
    }

    /// In-order data, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &B> {
        self.in_order.iter()
    }

    /// Pool bytes pinned by everything here.
    pub(crate) fn truesize(&self) -> u32 {
        self.truesize + self.reassembly.as_ref().map_or(0, |r| r.truesize)
    }

    /// SACK blocks in the order they are to be reported.
    pub(crate) fn sack_blocks(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + '_ {
        self.reassembly.iter().flat_map(|r| r.blocks.iter().copied())
    }

    pub(crate) fn has_out_of_order(&self) -> bool {
        self.reassembly.is_some()
    }

    /// What is missing will never come.
    pub(crate) fn forget_out_of_order(&mut self) {
        self.reassembly = None;
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

impl<B: PacketBuf> Reassembly<B> {
    fn insert(&mut self, mut seq: SeqNum, mut buf: B, budget: u32, pruned: &mut u64) -> Inserted {
        // First copy wins: cut what the neighbours hold.
        let mut at = self.pieces.partition_point(|p| p.seq.le(seq));
        if let Some(before) = at.checked_sub(1).and_then(|i| self.pieces.get(i))
            && before.end().gt(seq)
        {
            let known = before.end().since(seq) as usize;
            if known >= buf.data().len() {
                self.touch(seq, seq.add(buf.data().len() as u32));
                return Inserted::Duplicate;
            }
            buf.trim_front(known);
            seq = seq.add(known as u32);
        }
        let (start, end) = (seq, seq.add(buf.data().len() as u32));
        let mut added = false;
        loop {
            let len = end.since(seq);
            let next = self.pieces.get(at).map(|p| (p.seq, p.end()));
            let Some((next_seq, next_end)) = next.filter(|(s, _)| s.lt(end)) else {
                added |= self.place(at, seq, buf, budget, pruned);
                break;
            };
            let free = next_seq.since(seq);
            if free > 0 && self.place(at, seq, buf.slice(0..free as usize), budget, pruned) {
                added = true;
                at += 1;
            }
            if next_end.ge(end) {
                break;
            }
            buf.trim_front((len - end.since(next_end)) as usize);
            seq = next_end;
            at += 1;
        }
        if added {
            return Inserted::OutOfOrder;
        }
        if self.holds(start, end) { Inserted::Duplicate } else { Inserted::Refused }
    }

    fn holds(&self, start: SeqNum, end: SeqNum) -> bool {
        self.blocks.iter().any(|(s, e)| s.le(start) && end.le(*e))
    }

    /// Stores a piece, throwing away what is farthest when memory is short (never something
    /// nearer than the piece itself).
    fn place(&mut self, at: usize, seq: SeqNum, buf: B, budget: u32, pruned: &mut u64) -> bool {
        let need = buf.truesize() as u32;
        while self.truesize.saturating_add(need) > budget {
            let Some(last) = self.pieces.back() else { return false };
            if self.pieces.len() <= at || last.seq.lt(seq) {
                return false;
            }
            let Some(gone) = self.pieces.pop_back() else { return false };
            *pruned += 1;
            self.truesize -= gone.buf.truesize() as u32;
            self.forget(gone.seq, gone.end());
        }
        self.truesize += need;
        let end = seq.add(buf.data().len() as u32);
        self.pieces.insert(at, Piece { seq, buf });
        self.touch(seq, end);
        true
    }

    /// Takes a range that was thrown away out of the reported blocks.
    fn forget(&mut self, start: SeqNum, end: SeqNum) {
        for block in &mut self.blocks {
            if block.1 == end {
                block.1 = start;
            }
        }
        self.blocks.retain(|(s, e)| s.lt(*e));
    }

    /// Merges `start..end` into the blocks and makes the result the most recent one.
    fn touch(&mut self, start: SeqNum, end: SeqNum) {
        let (mut start, mut end) = (start, end);
        self.blocks.retain(|&(s, e)| {
            let apart = e.lt(start) || s.gt(end);
            if !apart {
                start = start.min(s);
                end = end.max(e);
            }
            apart
        });
        self.blocks.push_front((start, end));
        self.blocks.truncate(MAX_BLOCKS);
    }
}
