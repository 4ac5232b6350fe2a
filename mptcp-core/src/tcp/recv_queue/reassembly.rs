//! What waits behind a hole in the stream: spans of octets that follow on each other, in the buffers they came in.
//!
//! A path that is further away, or sends ahead of its turn, has hundreds of buffers wait. What comes next on it goes
//! behind the last one of a span, and a span whose hole is filled moves on as a whole: neither moves another buffer.
//!
//! Invariant: spans neither overlap nor touch each other, and none is empty.

use super::Inserted;
use crate::buf::PacketBuf;
use crate::seq::SeqNum;
use alloc::collections::VecDeque;

/// SACK blocks remembered; more holes than this are repaired all the same, only reported later.
const MAX_BLOCKS: usize = 32;

/// The place of more buffers than this is not kept for a span that may have one.
const SPARE: usize = 16;

#[derive(Debug)]
struct Span<B> {
    seq: SeqNum,
    end: SeqNum,
    bufs: VecDeque<B>,
}

/// Present only while something is out of order.
#[derive(Debug)]
pub(super) struct Reassembly<B> {
    spans: VecDeque<Span<B>>,
    /// Spans as they are reported, the most recently changed first (RFC 2018 §4).
    blocks: VecDeque<(SeqNum, SeqNum)>,
    /// They are: the data level has nobody to tell.
    reported: bool,
    truesize: u32,
    /// The buffers' place of a span that is gone, for the next one.
    spare: VecDeque<B>,
}

impl<B: PacketBuf> Reassembly<B> {
    pub(super) const fn new(reported: bool) -> Self {
        Self {
            spans: VecDeque::new(),
            blocks: VecDeque::new(),
            reported,
            truesize: 0,
            spare: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn truesize(&self) -> u32 {
        self.truesize
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + '_ {
        self.blocks.iter().copied()
    }

    /// It has no hole in front any more, when what is in order ends at `nxt`.
    pub(super) fn is_reached(&self, nxt: SeqNum) -> bool {
        self.spans.front().is_none_or(|span| span.seq.le(nxt))
    }

    /// Takes the first span out, if it begins at `nxt` or before: where, and its buffers.
    pub(super) fn take_reached(&mut self, nxt: SeqNum) -> Option<(SeqNum, VecDeque<B>)> {
        self.spans.front().filter(|span| span.seq.le(nxt))?;
        let Span { seq, bufs, .. } = self.spans.pop_front()?;
        self.truesize -= bufs.iter().map(|buf| buf.truesize() as u32).sum::<u32>();
        Some((seq, bufs))
    }

    /// Takes the emptied place of what [`Self::take_reached`] gave.
    pub(super) fn keep(&mut self, bufs: VecDeque<B>) {
        if (self.spare.capacity()..=SPARE).contains(&bufs.capacity()) {
            self.spare = bufs;
        }
    }

    /// What ends at `nxt` or before is not reported any more.
    pub(super) fn forget_below(&mut self, nxt: SeqNum) {
        self.blocks.retain(|(_, end)| end.gt(nxt));
    }

    /// First copy wins: only the gaps between the spans that are here are filled. Every step looks
    /// its place up again, because making room for one part may throw away any buffer behind it.
    pub(super) fn insert(
        &mut self,
        mut seq: SeqNum,
        mut buf: B,
        budget: u32,
        pruned: &mut u64,
    ) -> Inserted {
        let (start, end) = (seq, seq.add(buf.data_len() as u32));
        let (mut added, mut refused) = (false, false);
        while seq.lt(end) {
            let at = self.place_of(seq);
            let next = self.spans.get(at).map(|span| (span.seq, span.end));
            if let Some((next_seq, next_end)) = next
                && next_seq.le(seq)
            {
                buf.trim_front(next_end.min(end).since(seq) as usize);
                seq = next_end;
                continue;
            }
            let until = next.map_or(end, |(next_seq, _)| next_seq.min(end));
            if until == end {
                let placed = self.place(at, seq, buf, budget, pruned);
                (added, refused) = (added | placed, !placed);
                break;
            }
            let part = buf.slice(0..until.since(seq) as usize);
            if !self.place(at, seq, part, budget, pruned) {
                refused = true;
                break;
            }
            added = true;
            buf.trim_front(until.since(seq) as usize);
            seq = until;
        }
        if added {
            return Inserted::OutOfOrder;
        }
        if refused {
            return Inserted::Refused;
        }
        if self.reported {
            // As the most recent block: the duplicate comes with what is around it.
            self.touch(start, end);
        }
        Inserted::Duplicate
    }

    /// The first stretch of `start..end` that is here.
    pub(super) fn first_known(&self, start: SeqNum, end: SeqNum) -> Option<(SeqNum, SeqNum)> {
        let span = self.spans.get(self.place_of(start)).filter(|span| span.seq.lt(end))?;
        Some((span.seq.max(start), span.end.min(end)))
    }

    /// Place of the first span that ends behind `seq`.
    fn place_of(&self, seq: SeqNum) -> usize {
        if self.spans.back().is_none_or(|last| last.end.le(seq)) {
            // The common case: behind all that is here.
            return self.spans.len();
        }
        self.spans.partition_point(|span| span.end.le(seq))
    }

    /// Stores what lies in front of the span at `at`, throwing away what is farthest when memory is short
    /// (never something nearer than itself).
    fn place(&mut self, at: usize, seq: SeqNum, buf: B, budget: u32, pruned: &mut u64) -> bool {
        let need = buf.truesize() as u32;
        while self.truesize.saturating_add(need) > budget {
            if self.spans.len() <= at {
                return false;
            }
            self.drop_last(pruned);
        }
        self.truesize += need;
        let end = seq.add(buf.data_len() as u32);
        let before = at.checked_sub(1).and_then(|before| self.spans.get_mut(before));
        let at = match before.filter(|span| span.end == seq) {
            Some(span) => {
                span.end = end;
                span.bufs.push_back(buf);
                at - 1
            }
            None => {
                let mut bufs = core::mem::take(&mut self.spare);
                bufs.push_back(buf);
                self.spans.insert(at, Span { seq, end, bufs });
                at
            }
        };
        let joined = self.join(at);
        if self.reported && (joined || !self.go_on(seq, end)) {
            self.touch(seq, end);
        }
        true
    }

    /// Joins the span at `at` and the next one if they touch. The shorter one's buffers move.
    fn join(&mut self, at: usize) -> bool {
        let end = self.spans.get(at).map(|span| span.end);
        if self.spans.get(at + 1).is_none_or(|next| Some(next.seq) != end) {
            return false;
        }
        let (Some(mut next), Some(span)) = (self.spans.remove(at + 1), self.spans.get_mut(at))
        else {
            return false;
        };
        span.end = next.end;
        if span.bufs.len() < next.bufs.len() {
            while let Some(buf) = span.bufs.pop_back() {
                next.bufs.push_front(buf);
            }
            core::mem::swap(&mut span.bufs, &mut next.bufs);
        } else {
            span.bufs.append(&mut next.bufs);
        }
        self.keep(next.bufs);
        true
    }

    /// Takes the farthest buffer out.
    pub(super) fn drop_last(&mut self, pruned: &mut u64) -> Option<B> {
        let last = self.spans.back_mut()?;
        let gone = last.bufs.pop_back()?;
        *pruned += 1;
        self.truesize -= gone.truesize() as u32;
        let end = last.end;
        last.end = end.sub(gone.data_len() as u32);
        let start = last.end;
        if last.bufs.is_empty() {
            self.spans.pop_back();
        }
        self.forget(start, end);
        Some(gone)
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

    /// Where `start..end`, which reaches no other block behind it, goes on with one, that is the most recent one
    /// now. False when it does not.
    fn go_on(&mut self, start: SeqNum, end: SeqNum) -> bool {
        let Some(at) = self.blocks.iter().position(|(_, e)| *e == start) else { return false };
        // Most often it is the first one anyway.
        let Some(block) = self.blocks.get_mut(at) else { return false };
        block.1 = end;
        if at > 0
            && let Some(block) = self.blocks.remove(at)
        {
            self.blocks.push_front(block);
        }
        true
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

    /// The pieces that are here, in order.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> impl Iterator<Item = (SeqNum, &B)> {
        self.spans.iter().flat_map(|span| {
            let mut at = span.seq;
            span.bufs.iter().map(move |buf| {
                let seq = at;
                at = at.add(buf.data_len() as u32);
                (seq, buf)
            })
        })
    }

    /// What the spans say of themselves.
    #[cfg(test)]
    pub(super) fn spans(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + '_ {
        self.spans.iter().map(|span| (span.seq, span.end))
    }
}
