//! In-order data waiting for its reader, and the reassembly queue behind it (RFC 9293 §3.10.7.4
//! seventh step, RFC 2018, RFC 2883). Memory is accounted as truesize.
//!
//! Invariant: what is out of order never overlaps anything already in order. However
//! small the segments are, what is in order pins at most twice the budget and one buffer, and what
//! is out of order never more than the budget.

mod reassembly;

use self::reassembly::Reassembly;
use crate::buf::PacketBuf;
use crate::seq::SeqNum;
use crate::util::on_demand::{Empty, ROOMY};
use alloc::boxed::Box;
use alloc::collections::VecDeque;

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

impl<B: PacketBuf> Empty for RecvQueue<B> {
    const EMPTY: Self = Self::new();
    const ABSENT: &'static Self = &Self::new();

    fn is_unused(&self) -> bool {
        self.in_order.is_empty() && self.reassembly.is_none()
    }
}

impl<B: PacketBuf> RecvQueue<B> {
    pub(crate) const fn new() -> Self {
        Self { in_order: VecDeque::new(), in_order_len: 0, truesize: 0, reassembly: None }
    }

    /// Takes `buf`, whose first octet is `seq` (not below `rcv_nxt`, already cut to the window).
    /// `budget` is the truesize that what is out of order may reach. In-order data was promised
    /// room: it is refused only at twice that, which buffers that can be filled up never reach.
    /// What is out of order is [`reported`](Self::sack_blocks) or not, always the same in one queue.
    pub(crate) fn insert(
        &mut self,
        rcv_nxt: SeqNum,
        seq: SeqNum,
        buf: B,
        budget: u32,
        reported: bool,
        pruned: &mut u64,
    ) -> Inserted {
        if seq == rcv_nxt {
            let Some(mut moved) = self.append(buf, budget) else { return Inserted::Refused };
            moved += self.pull(rcv_nxt.add(moved), budget);
            return Inserted::InOrder(moved);
        }
        let fresh = || Box::new(Reassembly::new(reported));
        let reassembly = self.reassembly.get_or_insert_with(fresh);
        let inserted = reassembly.insert(seq, buf, budget, pruned);
        if reassembly.is_empty() {
            self.reassembly = None;
        }
        inserted
    }

    /// Takes what is next, as [`RecvQueue::insert`] does, while nothing is out of order; answers its
    /// octets, or `None` when there is no memory for it.
    pub(crate) fn append(&mut self, buf: B, budget: u32) -> Option<u32> {
        let (len, truesize) = (buf.data_len() as u32, buf.truesize() as u32);
        let pinned = self.truesize.saturating_add(truesize);
        if len.saturating_mul(8) > truesize && pinned <= budget / 2 {
            // Nearly all is of this kind.
            self.truesize = pinned;
            self.in_order_len += len;
            self.in_order.push_back(buf);
        } else if !self.absorb(&buf, budget) {
            if pinned > budget.saturating_mul(2) && !self.in_order.is_empty() {
                return None;
            }
            self.push_in_order(buf);
        }
        Some(len)
    }

    /// Takes all of `bufs`, as [`RecvQueue::append`] does one by one; answers their octets, or `None`, with
    /// nothing taken, when it would not simply put each behind the other.
    pub(crate) fn append_all(&mut self, bufs: &mut VecDeque<B>, budget: u32) -> Option<u32> {
        let (mut octets, mut pinned) = (0, self.truesize);
        for buf in bufs.iter() {
            let (len, truesize) = (buf.data_len() as u32, buf.truesize() as u32);
            if len.saturating_mul(8) <= truesize {
                return None;
            }
            octets += len;
            pinned = pinned.saturating_add(truesize);
        }
        if pinned > budget / 2 {
            return None;
        }
        self.truesize = pinned;
        self.in_order_len += octets;
        self.in_order.append(bufs);
        Some(octets)
    }

    /// Moves the first `octets` that are in order to another queue, as [`RecvQueue::pop`] and
    /// [`RecvQueue::append`] do one by one; false, with nothing moved, when that would do anything beside.
    pub(crate) fn pass(&mut self, octets: u32, to: &mut Self, budget: u32) -> bool {
        let (mut count, mut len, mut pinned) = (0, 0, 0_u32);
        for buf in &self.in_order {
            if len >= octets {
                break;
            }
            let (octets, truesize) = (buf.data_len() as u32, buf.truesize() as u32);
            if octets.saturating_mul(8) <= truesize {
                return false;
            }
            len += octets;
            pinned = pinned.saturating_add(truesize);
            count += 1;
        }
        let after = to.truesize.saturating_add(pinned);
        if len != octets || after > budget / 2 || to.has_out_of_order() {
            return false;
        }
        if count == self.in_order.len() {
            to.in_order.append(&mut self.in_order);
        } else {
            to.in_order.extend(self.in_order.drain(..count));
        }
        to.in_order_len += octets;
        to.truesize = after;
        self.in_order_len -= octets;
        self.truesize -= pinned.min(self.truesize);
        if self.in_order.is_empty() {
            self.truesize = 0;
            self.settle();
        }
        true
    }

    /// Copies `buf` behind the last in-order buffer, which frees its memory: where it is small for
    /// the buffer it is in, and wherever memory becomes short. False when there is no room for it.
    fn absorb(&mut self, buf: &B, budget: u32) -> bool {
        let len = buf.data_len();
        let short = self.truesize.saturating_add(buf.truesize() as u32) > budget / 2;
        if (short || len * 8 <= buf.truesize())
            && let Some(tail) = self.in_order.back_mut()
            && let Some(room) = tail.append(len)
        {
            room.copy_from_slice(buf.data());
            self.in_order_len += len as u32;
            return true;
        }
        false
    }

    fn push_in_order(&mut self, buf: B) {
        self.truesize += buf.truesize() as u32;
        self.in_order_len += buf.data_len() as u32;
        self.in_order.push_back(buf);
    }

    /// Moves pieces that start at `next` behind the in-order data; answers the octets moved.
    fn pull(&mut self, next: SeqNum, budget: u32) -> u32 {
        let reached = |r: &mut Box<Reassembly<B>>| r.is_reached(next);
        let Some(mut reassembly) = self.reassembly.take_if(reached) else { return 0 };
        let mut nxt = next;
        while let Some((seq, bufs)) = reassembly.take_reached(nxt) {
            let (mut at, mut bufs) = (seq, bufs);
            for mut buf in bufs.drain(..) {
                let (known, len) = (nxt.since(at), buf.data_len() as u32);
                at = at.add(len);
                if known < len {
                    buf.trim_front(known as usize);
                    nxt = at;
                    if !self.absorb(&buf, budget) {
                        self.push_in_order(buf);
                    }
                }
            }
            reassembly.keep(bufs);
        }
        reassembly.forget_below(nxt);
        if !reassembly.is_empty() {
            self.reassembly = Some(reassembly);
        }
        nxt.since(next)
    }

    /// Moves all in-order buffers behind those of `queue`, as they are; answers their octets.
    pub(crate) fn move_to(&mut self, queue: &mut VecDeque<B>) -> u32 {
        let octets = self.in_order_len;
        queue.append(&mut self.in_order);
        (self.in_order_len, self.truesize) = (0, 0);
        self.settle();
        octets
    }

    /// Once nothing is in order any more, the memory of a long queue goes.
    fn settle(&mut self) {
        if self.in_order.is_empty() && self.in_order.capacity() > ROOMY {
            self.in_order = VecDeque::new();
        }
    }

    /// The next in-order buffer is one that a queue rather copies than keeps.
    pub(crate) fn begins_small(&self) -> bool {
        self.in_order.front().is_some_and(|buf| buf.data_len() * 8 <= buf.truesize())
    }

    /// The next in-order buffer.
    pub(crate) fn pop(&mut self) -> Option<B> {
        let buf = self.in_order.pop_front()?;
        self.in_order_len -= buf.data_len() as u32;
        self.truesize -= (buf.truesize() as u32).min(self.truesize);
        if self.in_order.is_empty() {
            self.truesize = 0;
            self.settle();
        }
        Some(buf)
    }

    /// Puts back what `pop` gave, or its unread tail.
    pub(crate) fn unpop(&mut self, buf: B) {
        self.in_order_len += buf.data_len() as u32;
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
        self.truesize + self.reassembly.as_ref().map_or(0, |r| r.truesize())
    }

    /// Of these, the ones that in-order data pins.
    pub(crate) fn in_order_truesize(&self) -> u32 {
        self.truesize
    }

    /// Throws away the farthest of what is out of order, as much as frees one buffer; false, with
    /// nothing left out of order, when that frees none.
    pub(crate) fn renege(&mut self, pruned: &mut u64) -> bool {
        let Some(reassembly) = &mut self.reassembly else { return false };
        let mut freed = false;
        while !freed && let Some(mut gone) = reassembly.drop_last(pruned) {
            // Who may write to the memory is the only one that keeps it.
            freed = gone.data_mut().is_some();
        }
        if reassembly.is_empty() {
            self.reassembly = None;
        }
        freed
    }

    /// SACK blocks in the order they are to be reported.
    pub(crate) fn sack_blocks(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + '_ {
        self.reassembly.iter().flat_map(|r| r.blocks())
    }

    /// The first stretch of `start..end` that waits out of order.
    pub(crate) fn first_known(&self, start: SeqNum, end: SeqNum) -> Option<(SeqNum, SeqNum)> {
        self.reassembly.as_ref()?.first_known(start, end)
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

#[cfg(test)]
mod tests;
