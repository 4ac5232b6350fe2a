//! What a slower path carries ahead of its turn. A segment that takes 95 ms longer than others holds up
//! all that follows it for so long, unless it carries what will be next when it arrives: then nothing
//! waits for it, and the peer needs no room for what would wait.
//!
//! Invariant: the ranges lie behind `data_snd_nxt`, within what was written and what the peer accepts;
//! `data_snd_nxt` passes over one as soon as it comes to its start.

use super::send::MAX_MAPPING;
use super::{Connection, Next, Phase};
use crate::buf::PacketBuf;
use crate::util::range_set::RangeSet;
use alloc::boxed::Box;

/// Ranges at most: what a path of 100 Mbit/s carries in half a second, one segment at a time.
const MAX_RANGES: usize = 4096;

/// Sent, and not everything before it.
#[derive(Debug)]
pub(super) struct Ahead {
    ranges: RangeSet,
    /// In them.
    octets: u64,
}

impl<B: PacketBuf> Connection<B> {
    /// Where what was sent ahead of its turn begins.
    pub(super) fn ahead_start(&self) -> Option<u64> {
        Some(self.rare.ahead.as_ref()?.ranges.first()?.start)
    }

    /// It was or is to be sent ahead of its turn.
    pub(crate) fn is_ahead(&self, next: Next) -> bool {
        !next.again && next.start > self.data_snd_nxt
    }

    /// What begins at `start` is ahead of its turn, or has such behind it.
    pub(super) fn sends_ahead(&self, start: u64) -> bool {
        self.rare.ahead.is_some() || start > self.data_snd_nxt
    }

    /// End of all that was sent.
    pub(super) fn sent_end(&self) -> u64 {
        let last = self.rare.ahead.as_ref().and_then(|ahead| ahead.ranges.last());
        last.map_or(self.data_snd_nxt, |last| last.end)
    }

    /// Octets that were sent ahead of their turn.
    pub(crate) fn ahead_octets(&self) -> u64 {
        self.rare.ahead.as_ref().map_or(0, |ahead| ahead.octets)
    }

    /// Octets that were never sent and may be now; none where nothing may be sent ahead of its turn.
    pub(crate) fn spare(&self) -> u64 {
        let scattered =
            self.rare.ahead.as_ref().is_some_and(|a| a.ranges.range_count() >= MAX_RANGES);
        if self.phase != Phase::Confirmed || scattered {
            return 0;
        }
        let end = self.data_end.min(self.snd_edge);
        end.saturating_sub(self.data_snd_nxt + self.ahead_octets())
    }

    /// What lies behind the next `skip` octets that were never sent, or a little before: where a segment of
    /// `mss` octets begins, so that nobody has to send a sliver in front of it.
    pub(crate) fn behind(&self, skip: u64, mss: u32) -> Option<Next> {
        let (floor, start, limit) = self.gap_behind(skip, u64::from(mss));
        let start = self.segment_start((floor, start), mss);
        let len = u32::try_from(limit.checked_sub(start)?).unwrap_or(MAX_MAPPING).min(MAX_MAPPING);
        (len > 0).then_some(Next { start, len, again: false })
    }

    /// The first gap in what was sent that has a whole segment behind `skip` octets of such gaps: where it
    /// begins, where that is, and where it ends.
    fn gap_behind(&self, skip: u64, mss: u64) -> (u64, u64, u64) {
        let (end, last) = (self.data_end.min(self.snd_edge), self.sent_end());
        let before = last - self.data_snd_nxt - self.ahead_octets();
        if let Some(ahead) = self.rare.ahead.as_ref().filter(|_| skip < before) {
            let mut left = skip;
            let gaps = ahead.ranges.gaps(self.data_snd_nxt, last);
            for gap in gaps {
                let at = gap.start + left;
                if at + mss <= gap.end {
                    return (gap.start, at, gap.end);
                }
                left = left.saturating_sub(gap.end - gap.start);
            }
        }
        (last, last + skip.saturating_sub(before), end)
    }

    /// `start..end` was sent; true when that is ahead of its turn.
    pub(super) fn sent_ahead(&mut self, start: u64, end: u64) -> bool {
        if start <= self.data_snd_nxt {
            return false;
        }
        let ahead = self.rare.ahead.get_or_insert_with(|| {
            Box::new(Ahead { ranges: RangeSet::new(2 * MAX_RANGES), octets: 0 })
        });
        if ahead.ranges.insert(start, end) {
            ahead.octets += end - start;
        }
        true
    }

    /// What comes next may have been sent already.
    pub(super) fn pass_over(&mut self) {
        let Some(rare) = self.rare.there() else { return };
        let Some(ahead) = &mut rare.ahead else { return };
        while let Some(first) = ahead.ranges.first().filter(|r| r.start <= self.data_snd_nxt) {
            self.data_snd_nxt = self.data_snd_nxt.max(first.end);
            ahead.octets -= first.end - first.start;
            ahead.ranges.remove_below(first.end);
        }
        if ahead.ranges.is_empty() {
            rare.ahead = None;
        }
    }

    /// All of it is to be sent in its turn.
    pub(super) fn forget_ahead(&mut self) {
        if let Some(rare) = self.rare.there() {
            rare.ahead = None;
        }
    }
}
