//! Urgent data (RFC 9293 §3.8.5): part of the stream like any other, with a pointer behind its end.
//! Subflows have none: their streams are not the application's (RFC 8684 §3.3.1).

use super::{Outcome, Segment, State, Tcb};
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
        // All text counts as unsent until our SYN is answered, whatever that took along.
        let crossed = self.state == State::SynReceived && !self.is_fast_opened();
        let opens = crossed || self.state == State::SynSent;
        let next = if opens { self.iss.add(1) } else { self.snd_nxt_data() };
        let end = next.add(self.unsent_len);
        self.rare().urgent.get_or_insert_default().sent = Some(end);
    }

    /// URG and the pointer of a segment that begins at `seq`, while urgent data is not acknowledged.
    pub(super) fn urgent_pointer(&mut self, seq: SeqNum) -> (TcpFlags, u16) {
        let (una, read_to) = (self.snd_una, self.read_to());
        let urgent = self.rare.as_mut().map(|rare| &mut rare.urgent);
        let Some((urgent, kept)) = urgent.and_then(|kept| Some(((*kept)?, kept))) else {
            return (TcpFlags::empty(), 0);
        };
        // What is over is forgotten: its sequence number would come round.
        let sent = urgent.sent.filter(|end| end.gt(una));
        let received = urgent.received.filter(|end| end.gt(read_to));
        *kept = (sent.is_some() || received.is_some()).then_some(Urgent { sent, received });
        match sent {
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

#[cfg(test)]
mod tests {
    use crate::buf::{HeapBuf, PortId};
    use crate::config::TcpConfig;
    use crate::seq::SeqNum;
    use crate::stats::Counters;
    use crate::tcp::{Agreed, Env, Outcome, Part, Segment, Tcb, Tuple};
    use crate::time::Instant;
    use crate::wire::TcpFlags;

    /// Five octets from the next one to be read on are urgent: whether that is news.
    fn urgent_arrives(tcb: &mut Tcb<HeapBuf>) -> bool {
        let (seq, ack) = (tcb.rcv_nxt, tcb.snd_una);
        let flags = TcpFlags::ACK | TcpFlags::URG;
        let part = Part { seq, ack, flags, window: 1_000, len: 0, timestamps: None, dss: None };
        let mut outcome = Outcome::default();
        let mut segment = Segment::of_part(&part, &[]);
        segment.urgent = 5;
        tcb.note_urgent(&segment, &mut outcome);
        outcome.urgent
    }

    #[test]
    fn an_end_that_was_read_does_not_come_round() {
        let (config, mut stats) = (TcpConfig::default(), Counters::default());
        let mut env = Env { now: Instant::from_millis(1), config: &config, stats: &mut stats };
        let [local_addr, remote_addr] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Into::into);
        let tuple = Tuple { local_addr, remote_addr, local_port: 1, remote_port: 2 };
        let agreed = Agreed {
            iss: SeqNum(1),
            irs: SeqNum(u32::MAX - 3),
            peer_mss: Some(1460),
            local_mss: 1460,
            snd_wscale: None,
            rcv_wscale: 0,
            sack: true,
            ts_recent: None,
            ts_offset: 0,
            ecn: false,
            window: 65_535,
            rtt: None,
            syn_ack_timeouts: 0,
        };
        let mut tcb = Tcb::<HeapBuf>::accepted(&mut env, tuple, PortId(0), &agreed);
        assert!(urgent_arrives(&mut tcb) && !urgent_arrives(&mut tcb));
        assert_eq!(tcb.urgent_ahead(), Some(5));
        // Ten octets were read, and are acknowledged.
        tcb.rcv_nxt = tcb.rcv_nxt.add(10);
        assert_eq!(tcb.urgent_ahead(), None);
        assert_eq!(tcb.urgent_pointer(tcb.snd_nxt), (TcpFlags::empty(), 0));
        assert!(tcb.urgent().is_none(), "nothing to remember");
        // So was half of the sequence space.
        tcb.rcv_nxt = tcb.rcv_nxt.add(1 << 31);
        assert_eq!(tcb.urgent_ahead(), None);
        assert!(urgent_arrives(&mut tcb));
        assert_eq!(tcb.urgent_ahead(), Some(5));
    }
}
