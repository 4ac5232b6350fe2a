//! A word of every line of a connection and of what belongs to it, read to have it in the cache
//! (`stack/warm.rs`).

use super::{Connection, Subflow};
use crate::buf::PacketBuf;

impl<B: PacketBuf> Connection<B> {
    /// Of the connection itself.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        let longs = [
            self.keys.remote,
            self.data_snd_una,
            self.snd_edge,
            self.bytes_retrans,
            self.wide_base,
            self.data_rcv_nxt,
            self.rcv_edge,
            self.wide_owed,
            self.app.user_data,
        ];
        let words =
            [self.local_token, self.widest, u32::from(self.early_sent), u32::from(self.rtx_shift)];
        let all = longs.iter().chain(words.map(u64::from).iter()).fold(0, |seen, word| seen ^ word);
        all ^ self.health_at.map_or(0, |at| at.as_nanos()) ^ self.subflows.len() as u64
    }

    /// Of the boxes beside it.
    #[inline]
    pub(crate) fn touch_boxes(&self) -> u64 {
        let first = self.subflows.first().copied().map_or(0, u64::from);
        first ^ self.written.len() as u64 ^ u64::from(self.received.truesize())
    }

    /// Of the oldest that is not acknowledged.
    #[inline]
    pub(crate) fn touch_queue(&self) -> u64 {
        self.written.touch()
    }
}

impl Subflow {
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        u64::from(self.id)
            ^ self.copied_to
            ^ self.reinjected
            ^ self.delivered_at.map_or(0, |at| at.as_nanos())
            ^ u64::from(self.is_confirmed())
    }
}
