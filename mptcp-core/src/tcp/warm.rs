//! A word of every line of a control block and what belongs to it, read to have it in the cache (`stack/warm.rs`).

use super::{Sender, Tcb};
use crate::buf::PacketBuf;

impl<B: PacketBuf> Tcb<B> {
    /// Of what leads to the rest of its session.
    #[inline]
    pub(crate) fn touch_links(&self) -> u64 {
        u64::from(self.subflow.is_some()) ^ self.app.user_data
    }

    /// Of the block itself, of which each slot of the slab has five lines.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        let words = u64::from(self.rcv_nxt.0) ^ u64::from(self.mss);
        words ^ self.touch_links() ^ self.rto_base.as_nanos()
    }

    /// Of the boxes beside it.
    #[inline]
    pub(crate) fn touch_boxes(&self) -> u64 {
        let subflow = self.subflow.as_ref().map_or(0, |subflow| subflow.touch());
        let sender = self.sender.as_ref().map_or(0, |sender| sender.touch());
        let unsent = self.unsent.len() as u64 ^ self.ends.touch();
        subflow ^ sender ^ unsent ^ self.queue.touch() ^ u64::from(self.received.truesize())
    }

    /// Of the segments in flight: the oldest, which will be acknowledged, and the place behind the newest.
    #[inline]
    pub(crate) fn touch_queues(&self) -> u64 {
        self.queue.touch_ends()
    }
}

impl Sender {
    fn touch(&self) -> u64 {
        let words = [self.lost_told, self.tlp_end.0, self.rack.reduced.0, self.congestion.cwnd()];
        let long = self.open_since.as_nanos() ^ u64::from(self.congestion.ssthresh());
        let all = words.iter().fold(long, |seen, word| seen ^ u64::from(*word));
        all ^ self.pacer.release_at().as_nanos() ^ u64::from(self.delivery.delivered())
    }
}
