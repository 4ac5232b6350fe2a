//! Urgent data (RFC 9293 §3.8.5): part of the stream like any other, with a pointer behind its end.
//! Subflows have none: their streams are not the application's (RFC 8684 §3.3.1).

use super::{Outcome, Segment, Tcb};
use crate::buf::PacketBuf;
use crate::seq::SeqNum;
use crate::wire::TcpFlags;

/// The ends of urgent data, while there is any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Urgent {
    /// RFC 9293 SND.UP
    sent: Option<SeqNum>,
    /// RFC 9293 RCV.UP
    received: Option<SeqNum>,
}

impl<B: PacketBuf> Tcb<B> {
    /// Everything that was queued so far is urgent.
    pub(crate) fn mark_urgent(&mut self) {
        let end = self.snd_nxt.add(self.unsent_len);
        self.rare().urgent.get_or_insert_default().sent = Some(end);
    }

    /// URG and the pointer of a segment that begins at `seq`, while urgent data is not acknowledged.
    pub(super) fn urgent_pointer(&mut self, seq: SeqNum) -> (TcpFlags, u16) {
        let una = self.snd_una;
        let urgent = self.rare.as_mut().and_then(|rare| rare.urgent.as_mut());
        let Some(urgent) = urgent else { return (TcpFlags::empty(), 0) };
        urgent.sent = urgent.sent.filter(|end| end.gt(una));
        match urgent.sent {
            // Further ahead than the field can say, it says as much as it can.
            Some(end) if end.gt(seq) => {
                (TcpFlags::URG, u16::try_from(end.since(seq)).unwrap_or(u16::MAX))
            }
            _ => (TcpFlags::empty(), 0),
        }
    }

    /// Sixth step: a pointer ahead of what was read, and of the last one, is news.
    pub(super) fn note_urgent(&mut self, segment: &Segment, outcome: &mut Outcome) {
        if !segment.has(TcpFlags::URG) || self.subflow.is_some() || !self.state.receiving() {
            return;
        }
        let end = segment.seq.add(u32::from(segment.urgent));
        let known = self.urgent().and_then(|urgent| urgent.received);
        if end.gt(self.read_to()) && known.is_none_or(|known| end.gt(known)) {
            self.rare().urgent.get_or_insert_default().received = Some(end);
            outcome.urgent = true;
        }
    }

    /// Octets from the next one to be read to the end of the urgent data.
    pub(crate) fn urgent_ahead(&self) -> Option<u32> {
        let end = self.urgent()?.received?;
        let ahead = end.diff(self.read_to());
        u32::try_from(ahead).ok().filter(|&ahead| ahead > 0)
    }

    /// Sequence number of the next octet to be read.
    fn read_to(&self) -> SeqNum {
        self.rcv_nxt_data().sub(self.received.in_order_len())
    }
}
