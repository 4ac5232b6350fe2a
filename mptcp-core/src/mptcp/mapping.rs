//! Which data sequence number each received byte of one subflow has: the mappings of its DSS
//! options (RFC 8684 §3.3.1), however they arrive: before or after their data, several at a time,
//! repeated, re-split or merged by a sender that re-segments.
//!
//! Positions are absolute TCP sequence numbers. Invariant: entries are sorted, disjoint and never
//! empty; a byte that has a mapping keeps it until it is released, whatever the peer says later.

use crate::seq::{DataSeq, SeqNum};
use crate::util::on_demand::Empty;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::num::NonZeroU32;
use core::ops::Range;

/// Entries one store holds at most unless told otherwise: a 6 MiB window of single segments that alternate between two
/// subflows needs about half. A sender that keeps its stream contiguous on this subflow needs
/// one or two.
pub const MAX_MAPPINGS: usize = 8192;

/// No mapping ends further than this after the delivered bytes: the largest receive window
/// (RFC 7323 §2.2). Keeps every comparison modulo 2^32 meaningful.
const HORIZON: u32 = 1 << 30;

/// Why a mapping was refused; the store is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingError {
    /// It contradicts the mapping of bytes not delivered yet: reset the subflow (the peer MUST NOT
    /// do this).
    Conflict,
    /// The limit is reached, or it lies beyond any receive window: drop the segment as if it
    /// was lost.
    Full,
}

impl core::fmt::Display for MappingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Conflict => "the mapping contradicts an earlier one",
            Self::Full => "too many mappings are outstanding, or one is out of the window",
        })
    }
}

impl core::error::Error for MappingError {}

/// A run of mapped bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Data sequence number of its first byte.
    pub dsn: DataSeq,
    /// Bytes, at least 1.
    pub len: u32,
}

/// A whole mapping that came with a checksum, as it was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checked {
    /// TCP sequence number of its first byte.
    pub start: SeqNum,
    /// Data sequence number of its first byte.
    pub dsn: DataSeq,
    /// Bytes on the subflow, at least 1.
    pub len: u32,
    /// What was given to [`MappingStore::insert`].
    pub checksum: u16,
}

/// The receive-side mappings of one subflow. Empty it holds no heap memory.
#[derive(Clone, Debug, Default)]
pub struct MappingStore {
    entries: Entries,
}

const _: () = assert!(size_of::<MappingStore>() <= 40);

impl Empty for MappingStore {
    const EMPTY: Self = Self::new();
    const ABSENT: &'static Self = &Self::new();

    fn is_unused(&self) -> bool {
        self.is_empty()
    }
}

impl MappingStore {
    /// An empty store.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Entries { first: None, rest: None } }
    }

    /// Adds the mapping of the `len` bytes from `start` to the data from `dsn` on.
    ///
    /// `rcv_nxt` is the first byte *not yet delivered to the data level*; it lags behind the TCP
    /// variable of that name while in-order bytes wait for their mapping. Bytes before it are
    /// history: that part of a mapping is ignored, and all of it when nothing is left. So is an
    /// empty mapping.
    ///
    /// What agrees with earlier mappings is accepted in any shape. Without a checksum neighbours
    /// that continue each other become one entry. With one, mappings stay as they came, because
    /// the checksum covers exactly their bytes: part of an earlier one (a repetition included) is
    /// ignored, any other overlap is a [`MappingError::Conflict`], and so is reaching back before
    /// `rcv_nxt`, where the bytes to verify are gone.
    ///
    /// `checksum` is not looked at. A caller may fold the pseudo-header of the option into it.
    pub fn insert(
        &mut self,
        rcv_nxt: SeqNum,
        start: SeqNum,
        dsn: DataSeq,
        len: u32,
        checksum: Option<u16>,
    ) -> Result<(), MappingError> {
        self.insert_within(MAX_MAPPINGS, rcv_nxt, start, dsn, len, checksum)
    }

    /// The same with another limit than [`MAX_MAPPINGS`], for buffers that hold more segments.
    pub fn insert_within(
        &mut self,
        limit: usize,
        rcv_nxt: SeqNum,
        start: SeqNum,
        dsn: DataSeq,
        len: u32,
        checksum: Option<u16>,
    ) -> Result<(), MappingError> {
        let behind = if start.lt(rcv_nxt) { rcv_nxt.since(start) } else { 0 };
        let Some(new_len) = len.checked_sub(behind).and_then(NonZeroU32::new) else {
            return Ok(());
        };
        let new = Entry {
            start: start.add(behind),
            len: new_len,
            dsn: dsn.add(u64::from(behind)),
            checksum,
        };
        if new.start.since(rcv_nxt).saturating_add(new.len.get()) > HORIZON {
            return Err(MappingError::Full);
        }

        let overlapping = self.overlapping(new.start, new.end());
        let overlapped = || overlapping.clone().filter_map(|at| self.entries.get(at));
        if overlapped().any(|entry| !entry.agrees_with(&new)) {
            return Err(MappingError::Conflict);
        }
        if overlapped().any(|entry| entry.covers(&new)) {
            return Ok(());
        }
        let all_new = overlapping.is_empty() && behind == 0;
        if checksum.is_some() && !all_new || overlapped().any(|entry| entry.checksum.is_some()) {
            return Err(MappingError::Conflict);
        }
        self.put(new, overlapping, limit)
    }

    /// The mapping of the byte at `at` and of those behind it; `None` when it has none yet.
    #[must_use]
    pub fn find(&self, at: SeqNum) -> Option<Span> {
        let rest = self.entries.get(self.first_ending_after(at))?.starting_at(at)?;
        Some(Span { dsn: rest.dsn, len: rest.len.get() })
    }

    /// The whole mapping with a checksum that covers the byte at `at`; `None` when it has no
    /// mapping, or one without a checksum.
    #[must_use]
    pub fn checked_at(&self, at: SeqNum) -> Option<Checked> {
        let entry = self.entries.get(self.first_ending_after(at))?;
        entry.starting_at(at)?;
        let checksum = entry.checksum?;
        Some(Checked { start: entry.start, dsn: entry.dsn, len: entry.len.get(), checksum })
    }

    /// The first mapped byte at or after `at`; `None` when there is none. Bytes before it are the
    /// ones to hold or to drop.
    #[must_use]
    pub fn next_start(&self, at: SeqNum) -> Option<SeqNum> {
        let entry = self.entries.get(self.first_ending_after(at))?;
        Some(entry.start.max(at))
    }

    /// Forgets the bytes before `up_to`: they were delivered. A mapping with a checksum stays whole
    /// until its last byte is.
    pub fn release(&mut self, up_to: SeqNum) {
        let done = self.first_ending_after(up_to);
        self.entries.remove(0..done);
        if let Some(first) = self.entries.get_mut(0)
            && first.checksum.is_none()
            && let Some(undelivered) = first.starting_at(up_to)
        {
            *first = undelivered;
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything and frees its memory.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Stores `new`, which agrees with the `overlapping` entries and covers something they do not,
    /// merging what it continues.
    fn put(
        &mut self,
        mut new: Entry,
        mut overlapping: Range<usize>,
        limit: usize,
    ) -> Result<(), MappingError> {
        let continues = |a: Option<&Entry>, b: Option<&Entry>| match (a, b) {
            (Some(a), Some(b)) => a.continued_by(b),
            _ => false,
        };
        if let Some(before) = overlapping.start.checked_sub(1)
            && continues(self.entries.get(before), Some(&new))
        {
            overlapping.start = before;
        }
        if continues(Some(&new), self.entries.get(overlapping.end)) {
            overlapping.end += 1;
        }
        for entry in overlapping.clone().filter_map(|at| self.entries.get(at)) {
            new = new.union(entry).ok_or(MappingError::Full)?;
        }
        if overlapping.is_empty() {
            if self.len() >= limit {
                return Err(MappingError::Full);
            }
            self.entries.insert(overlapping.start, new);
        } else {
            self.entries.remove(overlapping.start + 1..overlapping.end);
            if let Some(entry) = self.entries.get_mut(overlapping.start) {
                *entry = new;
            }
        }
        Ok(())
    }

    fn overlapping(&self, start: SeqNum, end: SeqNum) -> Range<usize> {
        let from = self.first_ending_after(start);
        let to = self.entries.partition_point(|entry| entry.start.lt(end));
        from..to.max(from)
    }

    fn first_ending_after(&self, at: SeqNum) -> usize {
        self.entries.partition_point(|entry| entry.end().le(at))
    }
}

/// One mapping, or several that continue each other.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: SeqNum,
    len: NonZeroU32,
    dsn: DataSeq,
    checksum: Option<u16>,
}

impl Entry {
    fn end(&self) -> SeqNum {
        self.start.add(self.len.get())
    }

    /// True when both give the same data sequence number to any byte; they overlap or touch.
    fn agrees_with(&self, other: &Self) -> bool {
        let (early, late) = if self.start.le(other.start) { (self, other) } else { (other, self) };
        early.dsn.add(u64::from(late.start.since(early.start))) == late.dsn
    }

    fn covers(&self, other: &Self) -> bool {
        self.start.le(other.start) && other.end().le(self.end())
    }

    /// True when `next` can be merged behind `self`.
    fn continued_by(&self, next: &Self) -> bool {
        self.checksum.is_none()
            && next.checksum.is_none()
            && self.end() == next.start
            && self.agrees_with(next)
    }

    /// Both together; `None` when that is longer than a receive window.
    fn union(&self, other: &Self) -> Option<Self> {
        let first = if self.start.le(other.start) { self } else { other };
        let len = self.end().max(other.end()).since(first.start);
        let len = NonZeroU32::new(len).filter(|len| len.get() <= HORIZON)?;
        Some(Self { start: first.start, len, dsn: first.dsn, checksum: None })
    }

    /// The part from `at` on; `None` when `at` is not inside.
    fn starting_at(&self, at: SeqNum) -> Option<Self> {
        let into = at.since(self.start);
        let len = self.len.get().checked_sub(into).and_then(NonZeroU32::new)?;
        Some(Self { start: at, len, dsn: self.dsn.add(u64::from(into)), ..*self })
    }
}

/// A deque whose first element needs no heap: all that a subflow has while nothing is out of order.
#[derive(Clone, Debug, Default)]
struct Entries {
    first: Option<Entry>,
    /// Empty unless `first` is there.
    #[expect(clippy::box_collection, reason = "24 bytes less in every subflow, for rare use")]
    rest: Option<Box<VecDeque<Entry>>>,
}

impl Entries {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    fn get(&self, at: usize) -> Option<&Entry> {
        match at.checked_sub(1) {
            None => self.first.as_ref(),
            Some(at) => self.rest.as_ref()?.get(at),
        }
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        match at.checked_sub(1) {
            None => self.first.as_mut(),
            Some(at) => self.rest.as_mut()?.get_mut(at),
        }
    }

    fn partition_point(&self, before: impl Fn(&Entry) -> bool) -> usize {
        match &self.first {
            Some(first) if before(first) => {
                1 + self.rest.as_ref().map_or(0, |rest| rest.partition_point(before))
            }
            _ => 0,
        }
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        let (at, entry) = match at.checked_sub(1) {
            Some(at) => (at, Some(entry)),
            None => (0, self.first.replace(entry)),
        };
        if let Some(entry) = entry {
            let rest = self.rest.get_or_insert_default();
            rest.insert(at.min(rest.len()), entry);
        }
    }

    fn remove(&mut self, range: Range<usize>) {
        let from_rest = range.start.saturating_sub(1)..range.end.saturating_sub(1);
        if let Some(rest) = &mut self.rest {
            rest.drain(from_rest);
        }
        if range.start == 0 && range.end > 0 {
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
        }
        if self.first.is_none() {
            self.rest = None;
        }
    }
}

#[cfg(test)]
mod tests;
